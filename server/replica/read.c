/* SPDX-License-Identifier: Apache-2.0 */
/* read: READ at the primary, from its own store, under the range lock (R9); and the repair of a damaged own copy.
 *
 * - op_read_start: store read; the store verifies checksums.
 * - a mismatch: the range is locked exclusively, then repair_start asks the other in_sync members in turn, writes what a good one
 *   has over the bad blocks here, and the operation starts again.
 * Failure: damaged on every member: -EIO for this request only, reported once.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/crc32c.h"
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

/* ---- repair ---- */

static void repair_failed(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    struct replicas *r = rep->set;
    if (r->cfg.callbacks.damage_found)
        r->cfg.callbacks.damage_found(r->cfg.arg, rep->volume, rep->index, ctx->offset, false);
    if (ctx->kind == CTX_CLIENT) {
        op_finish(ctx, -EIO);
        return;
    }
    if (ctx->kind == CTX_COPY) {
        ctx->done(ctx, -EILSEQ);
        return;
    }
    ctx->offset += ctx->length; /* a heal goes on behind it */
    ctx->length = 0;
    ctx->state = CTX_HELD;
    op_start(ctx);
}

static void repair_written(struct store_io *io, int rc)
{
    assert(rc <= 0);
    assert(io->owner != NULL);
    struct op_ctx *ctx = io->owner;
    struct replica *rep = ctx->replica;
    if (ctx_ended_meanwhile(ctx)) {
        replica_drive_write_done(rep);
        return;
    }
    replica_drive_write_done(rep);
    if (rc == -EIO) {
        op_hold(ctx);
        return;
    }
    if (rc != 0) {
        repair_failed(ctx);
        return;
    }
    rep->set->stats.repaired_blocks += ctx->length / STORE_BLOCK_BYTES;
    if (rep->set->cfg.callbacks.damage_found)
        rep->set->cfg.callbacks.damage_found(rep->set->cfg.arg, rep->volume, rep->index, ctx->offset, true);
    ctx->state = CTX_HELD;
    op_start(ctx);
}

static bool payload_good(const struct op_ctx *ctx, const struct msg *msg, uint32_t *crcs)
{
    ctx_assert(ctx);
    uint32_t blocks = ctx->length / STORE_BLOCK_BYTES;
    if (msg->header.payload_len != ctx->length || msg->header.body_len != blocks * 4u)
        return false;
    crc32c_blocks(msg->payload->data, blocks, crcs);
    return memcmp(crcs, msg->body, blocks * 4u) == 0;
}

static void repair_next(struct op_ctx *ctx);

static void repair_answered(struct peer_request *req, int rc)
{
    assert(rc <= 0);
    assert(req->owner != NULL);
    struct op_ctx *ctx = req->owner;
    struct replica *rep = ctx->replica;
    ctx->repair_busy = false;
    if (ctx->dead) {
        ctx_kill(ctx);
        return;
    }
    struct buf *into = ctx->kind == CTX_CLIENT && ctx->op->opcode == WIRE_READ ? ctx->op->buf : ctx->buf;
    uint32_t into_offset = into == ctx->buf ? ctx->buf_offset : ctx->op->buf_offset;
    if (rc != 0 || !req->reply || !payload_good(ctx, req->reply, ctx->crcs)) {
        repair_next(ctx);
        return;
    }
    memcpy(into->data + into_offset, req->reply->payload->data, ctx->length);
    ctx->io = (struct store_io){
        .shard = rep->shard,
        .op = STORE_WRITE,
        .flags = replica_volume(rep) && ctx->generation < replica_volume(rep)->generation ? STORE_IO_SYNC_COPY : 0,
        .generation = ctx->generation,
        .epoch = rep->map.epoch,
        .lsn_n = rep->next_n,
        .offset = ctx->offset,
        .length = ctx->length,
        .buf = into,
        .buf_offset = into_offset,
        .crcs = ctx->crcs,
        .cb = repair_written,
        .owner = ctx,
    };
    ctx->io_busy = true;
    rep->drive_writes++;
    store_submit(&ctx->io);
}

static void repair_next(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    while (ctx->repair_next < rep->map.member_count) {
        const struct map_member *m = &rep->map.members[ctx->repair_next++];
        if (m->node == rep->set->cfg.node || !(m->flags & MAP_MEMBER_IN_SYNC) ||
            !peers_is_up(rep->set->cfg.peers, m->node))
            continue;
        struct wire_header h;
        replica_header(rep, &h, WIRE_REPAIR_READ);
        h.generation = ctx->generation;
        h.offset = ctx->offset;
        h.length = ctx->length;
        ctx->repair = (struct peer_request){.cb = repair_answered, .owner = ctx};
        ctx->repair_busy = true;
        peers_request(rep->set->cfg.peers, m->node, &h, NULL, NULL, 0, &ctx->repair);
        return;
    }
    repair_failed(ctx);
}

void repair_start(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    assert(!ctx->io_busy && !ctx->repair_busy);
    assert(ctx->unlocked || ctx->lock.exclusive);
    assert(ctx->length > 0);
    ctx->state = CTX_PREPARING;
    ctx->repair_next = 0;
    repair_next(ctx);
}
