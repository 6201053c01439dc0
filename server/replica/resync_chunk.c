/* SPDX-License-Identifier: Apache-2.0 */
/* resync_chunk: one chunk of a resync: compared and copied in every live generation, oldest first (R16).
 *
 * - sync_chunk_locked: under the exclusive lock of the whole chunk both sides tell which generations have a record of it; a live
 *   generation is looked at when one of them lies between it and the live one before: all others read the same as that one
 * - digests of one generation, recomputed from both drives; runs of blocks that differ are sent as locked, numbered writes
 * - after the newest one the member's mod_epoch becomes the maximum of both
 * Failure: the chunk is listed again; so it is when a generation of it was deleted while it was read.
 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mutant.h"
#include "server/replica/resync_internal.h"
#include "server/replica/sync_wire.h"

#define LOG_MODULE "resync"

static void chunk_end(struct sync_chunk *c, int rc)
{
    assert(rc <= 0);
    chunk_assert(c);
    struct sync *s = c->sync;
    if (c->ended)
        return;
    c->ended = true;
    c->rc = rc;
    assert(s->chunks_busy > 0);
    if (!s->dead && rc != 0 && s->state == SYNC_COPYING)
        sync_list_chunk(s, c->chunk);
}

static void chunk_free_if_quiet(struct sync_chunk *c)
{
    chunk_assert(c);
    struct sync *s = c->sync;
    if (!c->ended || c->local_busy || c->remote_busy || c->ctx)
        return;
    s->chunks_busy--;
    free(c->generations);
    free(c->records.generations);
    free(c->theirs);
    free(c);
    sync_free_if_quiet(s);
}

/* The shard stays open until the own store answered, also when the sync ends meanwhile. */
static void both_begin(struct sync_chunk *c)
{
    chunk_assert(c);
    assert(!c->local_busy && !c->remote_busy);
    c->local_busy = c->remote_busy = true;
    c->sync->replica->digests++;
}

static void local_ended(struct sync_chunk *c)
{
    chunk_assert(c);
    assert(c->local_busy && c->sync->replica->digests > 0);
    c->local_busy = false;
    c->sync->replica->digests--;
}

/* The context is aborted (new epoch, sync stopped), or a run of it is on the member. */
static void chunk_next(struct sync_chunk *c);
static void compare_next(struct sync_chunk *c);

static void chunk_ctx_done(struct op_ctx *ctx, int rc)
{
    assert(rc <= 0);
    ctx_assert(ctx);
    struct sync_chunk *c = ctx->owner;
    if (rc == 0) {
        chunk_next(c);
        return;
    }
    if (c->remote_busy)
        peers_abandon(ctx->replica->set->cfg.peers, &c->request);
    c->remote_busy = false;
    c->ctx = NULL;
    chunk_end(c, rc);
    chunk_free_if_quiet(c);
}

static void chunk_finish(struct sync_chunk *c, int rc)
{
    assert(rc <= 0);
    chunk_assert(c);
    struct op_ctx *ctx = c->ctx;
    assert(ctx != NULL);
    c->ctx = NULL;
    ctx->done = NULL;
    chunk_end(c, rc);
    struct replica *rep = ctx->replica;
    op_finish(ctx, rc);
    chunk_free_if_quiet(c);
    if (rc == 0)
        sync_step_all(rep);
}

static void epoch_told(struct peer_request *req, int rc)
{
    assert(rc <= 0);
    assert(req->owner != NULL);
    struct sync_chunk *c = req->owner;
    c->remote_busy = false;
    if (c->ctx)
        chunk_finish(c, rc);
    else
        chunk_free_if_quiet(c);
}

/* R16: mod_epoch becomes the maximum of both, also where nothing was sent. */
static void tell_epoch(struct sync_chunk *c)
{
    chunk_assert(c);
    struct replica *rep = c->sync->replica;
    struct wire_header h;
    replica_header(rep, &h, WIRE_SYNC_EPOCH);
    h.offset = (uint64_t)c->chunk * STORE_CHUNK_BYTES;
    h.aux = c->mod_epoch;
    c->remote_busy = true;
    c->request = (struct peer_request){.cb = epoch_told, .owner = c};
    peers_request(rep->set->cfg.peers, c->sync->node, &h, NULL, NULL, 0, &c->request);
}

static bool differs(const struct sync_chunk *c, uint32_t i)
{
    chunk_assert(c);
    const struct store_block_digest *a = &c->here[i], *b = &c->there[i];
    /* zeros there equal a hole here only if they take no space: what was trimmed here must be given back there */
    if (a->state != 1 && b->state != 1)
        return a->state == 0 && b->state == 2;
    return a->state != b->state || a->crc32c != b->crc32c || a->crc64 != b->crc64;
}

static void run_read(struct store_io *io, int rc)
{
    assert(rc <= 0);
    assert(io->owner != NULL);
    struct op_ctx *ctx = io->owner;
    if (ctx_ended_meanwhile(ctx))
        return;
    struct sync_chunk *c = ctx->owner;
    if (rc == -EILSEQ) {
        repair_start(ctx);
        return;
    }
    if (rc == 0 && !seal_generation_live(ctx->replica, ctx->generation))
        rc = -EAGAIN; /* listed again */
    if (rc != 0) {
        chunk_finish(c, rc);
        return;
    }
    write_send(ctx, false);
}

static void send_run(struct sync_chunk *c, uint32_t first, uint32_t count)
{
    chunk_assert(c);
    struct op_ctx *ctx = c->ctx;
    struct replica *rep = c->sync->replica;
    ctx->offset = (uint64_t)c->chunk * STORE_CHUNK_BYTES + (uint64_t)first * STORE_BLOCK_BYTES;
    ctx->length = count * STORE_BLOCK_BYTES;
    ctx->wire_flags = 0;
    ctx->copy_node = c->sync->node;
    c->sync->bytes_copied += ctx->length;
    rep->set->stats.sync_bytes += ctx->length;
    if (c->here[first].state != 1) {
        ctx->spend_units = 0;
        ctx->wire_op = WIRE_ZERO;
        write_send(ctx, false);
        return;
    }
    if (ctx->buf && ctx->buf->refs > 1) {
        buf_unref(ctx->buf);
        ctx->buf = NULL;
        ctx->buf_owned = false;
    }
    if (!ctx->buf) {
        ctx->buf = buf_alloc(rep->set->cfg.pool, STORE_CHUNK_BYTES);
        ctx->buf_owned = ctx->buf != NULL;
    }
    if (!ctx->buf) { /* back-pressure: listed again */
        chunk_finish(c, -EAGAIN);
        return;
    }
    ctx->wire_op = WIRE_WRITE;
    ctx->spend_units = reserve_units_spanned(ctx->offset, ctx->length); /* of credits left from when it was in sync */
    ctx->state = CTX_PREPARING;
    ctx->io = (struct store_io){
        .shard = rep->shard,
        .op = STORE_READ,
        .generation = ctx->generation,
        .offset = ctx->offset,
        .length = ctx->length,
        .buf = ctx->buf,
        .crcs = ctx->crcs,
        .cb = run_read,
        .owner = ctx,
    };
    ctx->io_busy = true;
    store_submit(&ctx->io);
}

/* What is sent in this pass: holes first, then data. On a full drive a copy of data is refused, which ends the chunk's turn, until
 * what is to be a hole there has given its space back. */
static bool is_due(const struct sync_chunk *c, uint32_t i)
{
    chunk_assert(c);
    return differs(c, i) && (c->here[i].state == 1) == c->holes_sent;
}

static void chunk_next(struct sync_chunk *c)
{
    chunk_assert(c);
    uint32_t i = c->next_block;
    while (i < STORE_CHUNK_BLOCKS && !is_due(c, i))
        i++;
    if (i == STORE_CHUNK_BLOCKS && !c->holes_sent) {
        c->holes_sent = true;
        for (i = 0; i < STORE_CHUNK_BLOCKS && !is_due(c, i);)
            i++;
    }
    if (i == STORE_CHUNK_BLOCKS) {
        c->generation_at++;
        compare_next(c);
        return;
    }
    uint32_t end = i + 1;
    while (end < STORE_CHUNK_BLOCKS && is_due(c, end))
        end++;
    c->next_block = end;
    send_run(c, i, end - i);
}

static void digests_in(struct sync_chunk *c)
{
    chunk_assert(c);
    if (c->local_busy || c->remote_busy)
        return;
    if (!c->ctx) {
        chunk_free_if_quiet(c);
        return;
    }
    if (c->rc == 0 && !seal_generation_live(c->ctx->replica, c->ctx->generation))
        c->rc = -EAGAIN; /* listed again */
    if (c->rc != 0) {
        chunk_finish(c, c->rc);
        return;
    }
    c->next_block = 0;
    c->holes_sent = false;
    chunk_next(c);
}

static void local_digest_done(struct store_digest *req, int rc)
{
    assert(rc <= 0);
    struct sync_chunk *c = req->owner;
    local_ended(c);
    if (rc != 0)
        c->rc = rc;
    digests_in(c);
}

static void remote_digest_done(struct peer_request *req, int rc)
{
    assert(rc <= 0);
    assert(req->owner != NULL);
    struct sync_chunk *c = req->owner;
    c->remote_busy = false;
    if (rc == 0)
        rc = sync_digest_decode(req->reply->body, req->reply->header.body_len, c->there);
    if (rc != 0)
        c->rc = rc;
    digests_in(c);
}

/* One generation: checksums of both sides, recomputed from their drives. */
static void compare_next(struct sync_chunk *c)
{
    chunk_assert(c);
    struct op_ctx *ctx = c->ctx;
    struct replica *rep = c->sync->replica;
    assert(ctx != NULL);
    if (c->generation_at == c->generation_count) {
        tell_epoch(c);
        return;
    }
    ctx->state = CTX_PREPARING;
    ctx->generation = c->generations[c->generation_at];
    both_begin(c);
    c->local = (struct store_digest){.shard = rep->shard,
                                     .chunk = c->chunk,
                                     .generation = ctx->generation,
                                     .blocks = c->here,
                                     .cb = local_digest_done,
                                     .owner = c};
    struct wire_header h;
    replica_header(rep, &h, WIRE_SYNC_DIGEST);
    h.generation = ctx->generation;
    h.offset = (uint64_t)c->chunk * STORE_CHUNK_BYTES;
    c->request = (struct peer_request){.cb = remote_digest_done, .owner = c};
    peers_request(rep->set->cfg.peers, c->sync->node, &h, NULL, NULL, 0, &c->request);
    store_digest(&c->local);
}

/* ---- which generations ---- */

static bool recorded(const uint32_t *records, uint32_t count, uint32_t above, uint32_t up_to)
{
    assert(above < up_to);
    for (uint32_t i = 0; i < count; i++)
        if (records[i] > above && records[i] <= up_to)
            return true;
    return false;
}

/* A live generation without a record since the live one before reads as that one does, here and there. */
static void choose_generations(struct sync_chunk *c, const struct map_volume *v)
{
    chunk_assert(c);
    uint32_t live_count = map_live_generations(v, c->generations), before = 0;
    c->generation_count = c->generation_at = 0;
    for (uint32_t i = 0; i < live_count; i++) {
        uint32_t generation = c->generations[i];
        bool base = i == 0 && c->based; /* what a clone has no record of, it reads through its parent */
        bool head = i + 1 == live_count && !v->deleting;
        bool wanted = base || recorded(c->records.generations, c->records.count, before, generation) ||
                      recorded(c->theirs, c->their_count, before, generation);
        before = generation;
        if (MUTANT(resync_compares_head_only) ? head : wanted)
            c->generations[c->generation_count++] = generation;
    }
}

static void records_in(struct sync_chunk *c)
{
    chunk_assert(c);
    if (c->local_busy || c->remote_busy)
        return;
    if (!c->ctx) {
        chunk_free_if_quiet(c);
        return;
    }
    const struct map_volume *v = replica_volume(c->sync->replica);
    if (c->rc == 0 && (!v || v->snap_count > c->snap_count))
        c->rc = -EAGAIN; /* another snapshot meanwhile: listed again */
    if (c->rc != 0) {
        chunk_finish(c, c->rc);
        return;
    }
    choose_generations(c, v);
    compare_next(c);
}

static void local_records_done(struct store_chunk_generations *req, int rc)
{
    assert(rc <= 0);
    struct sync_chunk *c = req->owner;
    local_ended(c);
    if (rc != 0)
        c->rc = rc;
    records_in(c);
}

static void remote_records_done(struct peer_request *req, int rc)
{
    assert(rc <= 0);
    assert(req->owner != NULL);
    struct sync_chunk *c = req->owner;
    c->remote_busy = false;
    if (rc == 0)
        rc = sync_generations_decode(req->reply->body, req->reply->header.body_len, c->theirs, STORE_LIVE_MAX,
                                     &c->their_count);
    if (rc != 0)
        c->rc = rc;
    records_in(c);
}

static void ask_records(struct sync_chunk *c)
{
    chunk_assert(c);
    struct replica *rep = c->sync->replica;
    both_begin(c);
    c->records.shard = rep->shard;
    c->records.chunk = c->chunk;
    c->records.max = STORE_LIVE_MAX;
    c->records.cb = local_records_done;
    c->records.owner = c;
    struct wire_header h;
    replica_header(rep, &h, WIRE_SYNC_GENERATIONS);
    h.offset = (uint64_t)c->chunk * STORE_CHUNK_BYTES;
    c->request = (struct peer_request){.cb = remote_records_done, .owner = c};
    peers_request(rep->set->cfg.peers, c->sync->node, &h, NULL, NULL, 0, &c->request);
    store_chunk_generations(&c->records);
}

void sync_chunk_locked(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct sync_chunk *c = ctx->owner;
    struct replica *rep = ctx->replica;
    const struct map_volume *v = replica_volume(rep);
    struct store_chunk_info info;
    uint32_t next = 0;
    assert(ctx->unlocked ? rep->phase == PHASE_PARKED || MUTANT(copy_without_lock)
                         : ctx->lock.held && ctx->lock.exclusive);
    ctx->state = CTX_PREPARING;
    c->rc = 0;
    if (store_chunks_modified(rep->shard, 0, c->chunk, &info, 1, &next) == 1 && info.chunk == c->chunk)
        c->mod_epoch = info.mod_epoch;
    c->snap_count = v ? v->snap_count : 0;
    c->based = v && v->base.volume != 0;
    c->generations = malloc((c->snap_count + 1u) * sizeof(*c->generations));
    bool simple = c->snap_count == 0 && v && !c->based;
    if (!simple) {
        c->records.generations = malloc(STORE_LIVE_MAX * sizeof(uint32_t));
        c->theirs = malloc(STORE_LIVE_MAX * sizeof(uint32_t));
    }
    if (!v || !c->generations || (!simple && (!c->records.generations || !c->theirs))) {
        chunk_finish(c, -EAGAIN);
        return;
    }
    if (!simple) {
        ask_records(c);
        return;
    }
    c->generations[0] = v->generation;
    c->generation_count = 1;
    compare_next(c);
}

void sync_chunk_begin(struct sync *s, uint32_t chunk)
{
    sync_assert(s);
    struct replica *rep = s->replica;
    const struct map_volume *v = replica_volume(rep);
    struct sync_chunk *c = calloc(1, sizeof(*c));
    if (!c || !v) {
        free(c);
        return;
    }
    sync_unlist_chunk(s, chunk);
    s->chunks_busy++;
    c->sync = s;
    c->chunk = chunk;
    struct op_ctx *ctx = ctx_alloc(rep);
    c->ctx = ctx;
    ctx->kind = CTX_COPY;
    ctx->generation = v->generation;
    ctx->done = chunk_ctx_done;
    ctx->owner = c;
    if (rep->phase == PHASE_PARKED || MUTANT(copy_without_lock)) {
        /* Writes that cannot be acknowledged until this member is in sync hold their locks. Nothing is written while PARKED, so
         * that copies need none; any new epoch aborts them. */
        assert(rep->drive_writes == 0 || MUTANT(copy_without_lock));
        ctx->unlocked = true;
        ctx->state = CTX_HELD;
        list_push_back(&rep->ops, &ctx->link);
        op_start(ctx);
        return;
    }
    uint64_t start = (uint64_t)chunk * STORE_CHUNK_BYTES;
    ctx_begin(rep, ctx, start, start + STORE_CHUNK_BYTES, true);
}
