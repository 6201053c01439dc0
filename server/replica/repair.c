/* SPDX-License-Identifier: Apache-2.0 */
/* repair: the primary's own copy is damaged: other members have the bytes.
 *
 *   repair_start -> members in sync, in turn -> one answers whole and good -> written here -> the operation starts again
 *                        | none                                                  ^
 *                        v                                                       |
 *                   own blocks, and their recorded checksums -> the other members, in turn: each bad block that one has right
 *
 * - a member in sync has every acknowledged write: what its own checksums pass is taken as it is
 * - a member out of sync may hold older bytes, which its checksums pass as well: of it only a block is taken whose checksum is the one
 *   that is recorded here, so that a primary which is alone in sync finds its data with those whom it brings back
 * Failure: damaged on every member: -EIO for this request only, reported once; a heal goes on behind the run.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/log.h"
#include "common/mutant.h"
#include "server/replica/replica_internal.h"

#define LOG_MODULE "replica"

/* What is right, by the records of this store, when nobody in sync can tell. */
struct repair_search {
    uint32_t recorded[WIRE_BLOCKS_MAX];
    bool bad[WIRE_BLOCKS_MAX];
    uint32_t bad_count;
};

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
    if (ctx->kind == CTX_COPY) { /* listed again; the range is free for others meanwhile */
        void (*done)(struct op_ctx *, int) = ctx->done;
        ctx->done = NULL;
        done(ctx, -EILSEQ);
        op_finish(ctx, -EILSEQ);
        return;
    }
    ctx->offset += ctx->length; /* a heal goes on behind it */
    ctx->length = 0;
    ctx->state = CTX_HELD;
    op_start(ctx);
}

static struct buf *repair_buf(const struct op_ctx *ctx, uint32_t *ret_offset)
{
    ctx_assert(ctx);
    bool reads = ctx->kind == CTX_CLIENT && ctx->op->opcode == WIRE_READ;
    *ret_offset = reads ? ctx->op->buf_offset : ctx->buf_offset;
    return reads ? ctx->op->buf : ctx->buf;
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

/* What is in the buffer, with ctx->crcs, is right. */
static void repair_write(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    uint32_t into_offset;
    struct buf *into = repair_buf(ctx, &into_offset);
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

/* The next member that repair_answered has not been told of; false: none is left. */
static bool ask_next(struct op_ctx *ctx, bool in_sync, void (*answered)(struct peer_request *req, int rc))
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    assert(!ctx->repair_busy);
    while (ctx->repair_next < rep->map.member_count) {
        const struct map_member *m = &rep->map.members[ctx->repair_next++];
        if (m->node == rep->set->cfg.node || in_sync != ((m->flags & MAP_MEMBER_IN_SYNC) != 0) ||
            !peers_is_up(rep->set->cfg.peers, m->node))
            continue;
        struct wire_header h;
        replica_header(rep, &h, WIRE_REPAIR_READ);
        h.generation = ctx->generation;
        h.offset = ctx->offset;
        h.length = ctx->length;
        ctx->repair = (struct peer_request){.cb = answered, .owner = ctx};
        ctx->repair_busy = true;
        peers_request(rep->set->cfg.peers, m->node, &h, NULL, NULL, 0, &ctx->repair);
        return true;
    }
    return false;
}

/* ---- members out of sync ---- */

static void search_next(struct op_ctx *ctx);

static void take_blocks(struct op_ctx *ctx, const struct msg *msg, const uint32_t *crcs)
{
    ctx_assert(ctx);
    struct repair_search *search = ctx->search;
    uint32_t into_offset;
    struct buf *into = repair_buf(ctx, &into_offset);
    for (uint32_t i = 0; i < ctx->length / STORE_BLOCK_BYTES; i++) {
        if (!search->bad[i] || (crcs[i] != search->recorded[i] && !MUTANT(repair_takes_anything)))
            continue;
        uint64_t at = (uint64_t)i * STORE_BLOCK_BYTES;
        memcpy(into->data + into_offset + at, msg->payload->data + at, STORE_BLOCK_BYTES);
        ctx->crcs[i] = crcs[i];
        search->bad[i] = false;
        search->bad_count--;
    }
}

static void search_answered(struct peer_request *req, int rc)
{
    assert(rc <= 0);
    assert(req->owner != NULL);
    struct op_ctx *ctx = req->owner;
    uint32_t crcs[WIRE_BLOCKS_MAX];
    ctx->repair_busy = false;
    if (ctx->dead) {
        ctx_kill(ctx);
        return;
    }
    if (rc == 0 && req->reply && payload_good(ctx, req->reply, crcs))
        take_blocks(ctx, req->reply, crcs);
    search_next(ctx);
}

static void search_next(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    assert(ctx->search != NULL);
    if (ctx->search->bad_count == 0)
        repair_write(ctx);
    else if (!ask_next(ctx, false, search_answered))
        repair_failed(ctx);
}

static void search_read_done(struct store_io *io, int rc)
{
    assert(rc <= 0);
    assert(io->owner != NULL);
    struct op_ctx *ctx = io->owner;
    struct repair_search *search = ctx->search;
    uint32_t blocks = ctx->length / STORE_BLOCK_BYTES;
    if (ctx_ended_meanwhile(ctx))
        return;
    if (rc == -EIO) {
        op_hold(ctx);
        return;
    }
    if ((rc != 0 && rc != -EILSEQ) || io->recorded_count != blocks) {
        repair_failed(ctx);
        return;
    }
    /* Of the very bytes: an unreadable block left what was in the buffer. */
    crc32c_blocks(io->buf->data + io->buf_offset, blocks, ctx->crcs);
    search->bad_count = 0;
    for (uint32_t i = 0; i < blocks; i++) {
        search->bad[i] = ctx->crcs[i] != search->recorded[i];
        search->bad_count += search->bad[i];
    }
    search_next(ctx);
}

static void search_start(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    uint32_t into_offset;
    struct buf *into = repair_buf(ctx, &into_offset);
    if (!ctx->search)
        ctx->search = malloc(sizeof(*ctx->search));
    if (!ctx->search) {
        repair_failed(ctx);
        return;
    }
    ctx->repair_next = 0;
    ctx->io = (struct store_io){
        .shard = ctx->replica->shard,
        .op = STORE_READ,
        .flags = STORE_IO_RAW,
        .generation = ctx->generation,
        .offset = ctx->offset,
        .length = ctx->length,
        .buf = into,
        .buf_offset = into_offset,
        .recorded = ctx->search->recorded,
        .cb = search_read_done,
        .owner = ctx,
    };
    ctx->io_busy = true;
    store_submit(&ctx->io);
}

/* ---- members in sync ---- */

static void repair_next(struct op_ctx *ctx);

static void repair_answered(struct peer_request *req, int rc)
{
    assert(rc <= 0);
    assert(req->owner != NULL);
    struct op_ctx *ctx = req->owner;
    ctx->repair_busy = false;
    if (ctx->dead) {
        ctx_kill(ctx);
        return;
    }
    if (rc != 0 || !req->reply || !payload_good(ctx, req->reply, ctx->crcs)) {
        repair_next(ctx);
        return;
    }
    uint32_t into_offset;
    struct buf *into = repair_buf(ctx, &into_offset);
    memcpy(into->data + into_offset, req->reply->payload->data, ctx->length);
    repair_write(ctx);
}

static void repair_next(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    if (!ask_next(ctx, true, repair_answered))
        search_start(ctx);
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
