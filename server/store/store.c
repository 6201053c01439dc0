/* SPDX-License-Identifier: Apache-2.0 */
/* store: submission of requests, failure, space and statistics.
 *
 * - store_submit cuts a request into pieces, one a chunk, and submits them (piece.c).
 * - store_fail is the sticky FAILED state (R13): memory and drive may disagree, so everything ends with -EIO until the
 *   daemon opens the store again. callbacks.failed comes once, outside any call.
 */
#include "server/store/background.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void *store_malloc(size_t bytes)
{
    assert(bytes > 0);
    void *memory = calloc(1, bytes);
    if (!memory)
        abort();
    return memory;
}

static void fail_requests(struct store *store)
{
    struct list_node *node;
    assert(store->failed);
    while ((node = list_pop_front(&store->restamps))) {
        struct store_restamp *req = list_entry(node, struct store_restamp, link);
        req->cb(req, -EIO);
    }
    while ((node = list_pop_front(&store->flushes))) {
        struct store_flush *req = list_entry(node, struct store_flush, link);
        req->cb(req, -EIO);
    }
}

static void failed_task(struct env_task *task)
{
    struct store *store = list_entry(task, struct store, failed_task);
    assert(store->failed);
    list_for_each(node, &store->marks) piece_wake(&list_entry(node, struct mark, lru)->waiters);
    piece_wake(&store->room_waiters);
    piece_wake(&store->space_waiters);
    piece_wake(&store->settle_waiters);
    piece_wake(&store->buf_waiters);
    fail_requests(store);
    if (!store->failed_told) {
        store->failed_told = true;
        if (store->config.callbacks.failed)
            store->config.callbacks.failed(store->config.arg, store->fail_rc);
    }
    store_close_advance(store);
}

void store_fail_waiters(struct store *store)
{
    assert(store->failed);
    env_defer(store->env, &store->failed_task, failed_task);
}

void store_fail(struct store *store, int rc)
{
    assert(rc < 0);
    if (store->failed)
        return;
    store->failed = true;
    store->fail_rc = rc;
    store_fail_waiters(store);
}

static struct piece *make_piece(struct store_io *io, uint64_t offset, uint32_t length)
{
    static const enum piece_kind kinds[] = {
        [STORE_READ] = PIECE_READ, [STORE_WRITE] = PIECE_WRITE, [STORE_ZERO] = PIECE_ZERO};
    uint32_t in_chunk = (uint32_t)(offset % STORE_CHUNK_BYTES);
    assert(in_chunk + length <= STORE_CHUNK_BYTES);
    struct piece *piece = piece_create(io->shard, kinds[io->op], (uint32_t)(offset / STORE_CHUNK_BYTES),
                                       in_chunk / STORE_BLOCK_BYTES, length / STORE_BLOCK_BYTES);
    piece->io = io;
    piece->flags = io->flags;
    piece->generation = io->generation;
    piece->epoch = io->epoch;
    piece->lsn_n = io->lsn_n;
    piece->crcs = io->crcs;
    if (io->op != STORE_ZERO)
        piece->data = io->buf->data + io->buf_offset;
    return piece;
}

static void check_request(const struct store_io *io)
{
    assert(io->shard && io->shard->open && io->cb);
    assert(io->length > 0 && io->length % STORE_BLOCK_BYTES == 0);
    assert(io->offset % STORE_BLOCK_BYTES == 0);
    assert(io->offset + io->length <= io->shard->bytes);
    assert(io->length <= (io->op == STORE_ZERO ? STORE_ZERO_BYTES_MAX : STORE_CHUNK_BYTES));
    if (io->op == STORE_ZERO)
        return;
    assert(io->offset % STORE_CHUNK_BYTES + io->length <= STORE_CHUNK_BYTES);
    assert(io->buf && io->buf_offset + io->length <= io->buf->capacity);
    assert(((uintptr_t)(io->buf->data + io->buf_offset)) % STORE_BLOCK_BYTES == 0);
    assert(io->op == STORE_READ || io->crcs);
}

static void count_request(struct store *store, const struct store_io *io)
{
    assert(io->op <= STORE_ZERO);
    switch (io->op) {
    case STORE_READ: store->stats.reads++; break;
    case STORE_WRITE:
        store->stats.writes++;
        store->stats.bytes_written_guest += io->length;
        break;
    case STORE_ZERO: store->stats.zeroes++; break;
    }
}

void store_submit(struct store_io *io)
{
    check_request(io);
    struct store *store = io->shard->store;
    assert(store->opened && !store->closing);
    count_request(store, io);
    io->rc = 0;
    io->bad_block = 0;
    io->units_allocated = 0;
    io->drive_ns = 0;
    io->pending = 1; /* this function's own */
    store->submit_depth++;
    uint64_t at = io->offset, end = io->offset + io->length;
    while (at < end) {
        uint64_t chunk_end = (at / STORE_CHUNK_BYTES + 1) * STORE_CHUNK_BYTES;
        uint32_t length = (uint32_t)((chunk_end < end ? chunk_end : end) - at);
        io->pending++;
        piece_submit(make_piece(io, at, length));
        at += length;
    }
    if (io->op == STORE_WRITE)
        mark_stream(io->shard, io);
    store->submit_depth--;
    io->pending--;
    assert(io->pending > 0); /* completions never come from inside the submit */
}

int store_reserve(struct store *store, uint32_t units)
{
    assert(store->opened);
    int rc = alloc_reserve(&store->alloc, units);
    assert(rc == 0 || rc == -ENOSPC);
    space_check(store);
    return rc;
}

void store_unreserve(struct store *store, uint32_t units)
{
    assert(store->opened);
    /* What an allocation used up is not there to be given back. */
    alloc_unreserve(&store->alloc, units < store->alloc.reserved ? units : store->alloc.reserved);
    space_check(store);
}

/* Near-full counts allocated space, full says that the next reservation fails. */
void space_check(struct store *store)
{
    const struct alloc *alloc = &store->alloc;
    uint64_t total = alloc->unit_count - alloc->unit_first;
    uint64_t available = (uint64_t)alloc->free + alloc->quarantined;
    assert(available <= total);
    bool near_full = (total - available) * 100 >= total * store->config.near_full_percent;
    bool full = (uint64_t)alloc->reserved + alloc->held_back + 1 > available;
    if (near_full == store->stats.near_full && full == store->stats.full)
        return;
    store->stats.near_full = near_full;
    store->stats.full = full;
    if (store->opened && store->config.callbacks.space_changed)
        env_defer(store->env, &store->space_task, store_space_task);
}

void store_space_task(struct env_task *task)
{
    struct store *store = list_entry(task, struct store, space_task);
    assert(store->config.callbacks.space_changed);
    if (!store->closing)
        store->config.callbacks.space_changed(store->config.arg);
}

const struct store_identity *store_identity(const struct store *store)
{
    assert(store->opened);
    return &store->superblock.identity;
}

enum store_stop store_last_stop(const struct store *store)
{
    assert(store->opened);
    return store->last_stop;
}

void store_stats(const struct store *store, struct store_stats *ret_stats)
{
    assert(store && ret_stats);
    const struct alloc *alloc = &store->alloc;
    *ret_stats = store->stats;
    ret_stats->bytes_total = (uint64_t)(alloc->unit_count - alloc->unit_first) * STORE_UNIT_BYTES;
    ret_stats->bytes_allocated =
        ret_stats->bytes_total - ((uint64_t)alloc->free + alloc->quarantined) * STORE_UNIT_BYTES;
    ret_stats->bytes_reserved = (uint64_t)alloc->reserved * STORE_UNIT_BYTES;
    ret_stats->bytes_prewritten = (uint64_t)alloc->watermark * STORE_UNIT_BYTES;
    ret_stats->marks = store->mark_count;
    ret_stats->failed = store->failed;
    ret_stats->old_maps_cached = store->older_count;
    ret_stats->shards_to_reap = store->background && store->background->reaper.running;
    list_for_each(node, &store->shards) ret_stats->shards_to_reap +=
        list_entry(node, struct store_shard, link)->reap_wanted;
    ret_stats->suspect_regions = 0;
    list_for_each(node, &store->marks) ret_stats->suspect_regions += list_entry(node, struct mark, lru)->suspect != 0;
    uint64_t now = env_now_ns(store->env);
    ret_stats->oldest_io_ns =
        list_empty(&store->pieces) ? 0 : now - list_entry(store->pieces.next, struct piece, age_link)->started_ns;
    if (store->round.phase == ROUND_DRIVE || store->round.phase == ROUND_KV)
        if (now - store->round.started_ns > ret_stats->oldest_io_ns)
            ret_stats->oldest_io_ns = now - store->round.started_ns;
}
