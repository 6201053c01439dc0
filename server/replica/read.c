/* SPDX-License-Identifier: Apache-2.0 */
/* read: READ at the primary, from its own store, under the range lock (R9).
 *
 * - op_read_start: store read; the store verifies checksums. A snapshot must still be there when the read ends: nobody keeps its
 *   records for a read that waits.
 * - a mismatch: the range is locked exclusively, then repaired (repair.c), and the operation starts again.
 * Failure: damaged on every member: -EIO for this request only, reported once.
 */
#include <assert.h>
#include <errno.h>

#include "common/log.h"
#include "server/replica/replica_internal.h"

#define LOG_MODULE "replica"

static void read_done(struct store_io *io, int rc)
{
    assert(rc <= 0);
    assert(io->owner != NULL);
    struct op_ctx *ctx = io->owner;
    struct replica *rep = ctx->replica;
    if (ctx_ended_meanwhile(ctx))
        return;
    if (rc == -EIO) {
        op_hold(ctx);
        return;
    }
    if (rc == -EILSEQ) {
        if (ctx->lock.exclusive) {
            repair_start(ctx);
            return;
        }
        /* others may read the range: queue again, alone */
        range_lock_release(rep, &ctx->lock);
        ctx_begin(rep, ctx, ctx->offset, ctx->offset + ctx->length, true);
        return;
    }
    if (rc == 0 && ctx->op->generation != 0) { /* deleted meanwhile: what was read may be of a later one (I10) */
        const struct map_volume *v = replica_volume(rep);
        rc = v ? seal_read_generation(ctx, v) : -ESTALE;
    }
    ctx->op->stage_ns[1] = io->drive_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)io->drive_ns;
    ctx->op->loss_number = rep->map.loss_number;
    op_finish(ctx, rc);
}

void op_read_start(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica_op *op = ctx->op;
    assert(op->offset % STORE_BLOCK_BYTES == 0 && op->length % STORE_BLOCK_BYTES == 0);
    ctx->state = CTX_SENT;
    ctx->io = (struct store_io){
        .shard = ctx->replica->shard,
        .op = STORE_READ,
        .generation = ctx->generation,
        .offset = op->offset,
        .length = op->length,
        .buf = op->buf,
        .buf_offset = op->buf_offset,
        .crcs = op->crcs,
        .cb = read_done,
        .owner = ctx,
    };
    ctx->io_busy = true;
    store_submit(&ctx->io);
}
