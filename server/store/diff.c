/* SPDX-License-Identifier: Apache-2.0 */
/* diff: what the records alone tell: extents of a generation, what changed between two, which generations a chunk has.
 *
 *   store_diff -> per chunk: look up the record of both generations (older.h) -> compare where each block is -> next chunk
 * - A block at the same place of the drive holds the same: a unit that two records reference is never overwritten in place.
 * - store_chunk_generations scans the keys of one chunk.
 * Failure: -EILSEQ a record that can not be decoded, -EIO, -ENOENT the base is not here; -ENOSPC see store.h.
 */
#include "server/store/background.h"
#include "server/store/older.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNKS_A_TURN = 32, GENERATIONS_PAGE = 512 };

struct diff_run {
    struct store_diff *req;
    struct store *store;
    struct env_task task;
    struct lookup old, new;
    bool old_known, new_known;
    struct store_shard_id old_id, new_id; /* of the shards where they were found */
    bool full;                            /* no room for another extent */
};

static void diff_turn(struct env_task *task);

static void diff_end(struct diff_run *run, int rc)
{
    struct store *store = run->store;
    struct store_diff *req = run->req;
    assert(!run->old_known && !run->new_known);
    assert(store->background->digests > 0);
    store->background->digests--;
    free(run);
    req->impl = NULL;
    req->cb(req, rc);
    store_close_advance(store);
}

static void let_go(struct lookup *lookup, bool *known)
{
    if (lookup->older)
        older_unpin(lookup->older);
    lookup->older = NULL;
    *known = false;
    assert(!list_linked(&lookup->link));
}

static void let_both_go(struct diff_run *run)
{
    assert(run->req);
    let_go(&run->old, &run->old_known);
    let_go(&run->new, &run->new_known);
}

static void lookup_ended(struct lookup *lookup, int rc)
{
    struct diff_run *run = lookup->owner;
    assert(rc <= 0);
    assert(lookup == &run->old || lookup == &run->new);
    *(lookup == &run->old ? &run->old_known : &run->new_known) = !rc;
    *(lookup == &run->old ? &run->old_id : &run->new_id) = lookup->shard->id;
    if (!rc) {
        diff_turn(&run->task);
        return;
    }
    let_both_go(run);
    diff_end(run, rc);
}

/* A record in memory may have been superseded, removed, or gone with its base's shard while the other one was fetched. */
static bool still_there(const struct diff_run *run, const struct lookup *lookup, const struct store_shard_id *id)
{
    assert(run->req);
    if (lookup->older || !lookup->chunk)
        return true; /* pinned; or nothing */
    return shard_find(run->store, id) == lookup->shard && chunk_get(lookup->shard, lookup->index) == lookup->chunk &&
           lookup->chunk->generation <= lookup->generation;
}

/* 0: known. */
static int look_up(struct diff_run *run, struct lookup *lookup, bool *known, uint32_t generation)
{
    struct store_shard_id *id = lookup == &run->old ? &run->old_id : &run->new_id;
    if (*known && !still_there(run, lookup, id))
        let_go(lookup, known);
    if (*known)
        return 0;
    *lookup = (struct lookup){.shard = run->req->shard,
                              .index = (uint32_t)(run->req->next / STORE_CHUNK_BYTES),
                              .generation = generation,
                              .cb = lookup_ended,
                              .owner = run};
    int rc = lookup_start(lookup);
    assert(rc <= 0);
    assert(rc || !lookup->chunk || lookup->shard);
    *known = rc == 0;
    if (*known)
        *id = lookup->shard->id;
    return rc;
}

static int look_up_both(struct diff_run *run)
{
    const struct store_diff *req = run->req;
    assert(req->generation >= req->since);
    int rc = req->since ? look_up(run, &run->old, &run->old_known, req->since) : 0;
    if (!rc)
        rc = look_up(run, &run->new, &run->new_known, req->generation);
    if (!rc && req->since) /* while the other one was fetched, it may have gone */
        rc = look_up(run, &run->old, &run->old_known, req->since);
    return rc;
}

static uint64_t place_of(const struct chunk *chunk, uint32_t block)
{
    assert(block < STORE_CHUNK_BLOCKS);
    return chunk ? chunk_block_offset(chunk, block) : UINT64_MAX;
}

static uint32_t state_of(const struct chunk *chunk, uint32_t block)
{
    assert(block < STORE_CHUNK_BLOCKS);
    if (!chunk)
        return 0;
    if (chunk_state(chunk, block) != BLOCK_ZERO)
        return 1;
    return chunk->own[block / UNIT_BLOCKS] != UNIT_NONE ? 2 : 0;
}

static void tell(struct diff_run *run, uint64_t offset, uint32_t state)
{
    struct store_diff *req = run->req;
    struct store_extent *last = req->count ? &req->extents[req->count - 1] : NULL;
    assert(offset >= req->offset && offset < req->offset + req->length);
    assert(state <= 2);
    if (last && last->state == state && last->offset + last->length == offset) {
        last->length += STORE_BLOCK_BYTES;
        return;
    }
    if (req->count == req->max) {
        run->full = true;
        return;
    }
    req->extents[req->count++] = (struct store_extent){.offset = offset, .length = STORE_BLOCK_BYTES, .state = state};
}

static void compare(struct diff_run *run)
{
    struct store_diff *req = run->req;
    const struct chunk *old = req->since ? run->old.chunk : NULL, *new = run->new.chunk;
    uint64_t end = (req->next / STORE_CHUNK_BYTES + 1) * STORE_CHUNK_BYTES;
    if (end > req->offset + req->length)
        end = req->offset + req->length;
    assert(req->next < end);
    for (uint64_t at = req->next; at < end; at += STORE_BLOCK_BYTES) {
        uint32_t block = (uint32_t)(at % STORE_CHUNK_BYTES / STORE_BLOCK_BYTES);
        if (!req->since || place_of(old, block) != place_of(new, block))
            tell(run, at, state_of(new, block));
        if (run->full)
            return;
        req->next = at + STORE_BLOCK_BYTES;
    }
}

static void diff_turn(struct env_task *task)
{
    struct diff_run *run = list_entry(task, struct diff_run, task);
    struct store_diff *req = run->req;
    uint64_t end = req->offset + req->length;
    uint32_t steps = 0;
    int rc = run->store->failed ? -EIO : 0;
    assert(req->next >= req->offset);
    while (!rc && req->next < end && !run->full && steps++ < CHUNKS_A_TURN) {
        rc = look_up_both(run);
        if (rc)
            break;
        compare(run);
        let_both_go(run);
    }
    if (rc == -EINPROGRESS)
        return;
    if (!rc && req->next < end && !run->full) {
        env_defer(run->store->env, &run->task, diff_turn);
        return;
    }
    let_both_go(run);
    diff_end(run, rc);
}

void store_diff(struct store_diff *req)
{
    assert(req->shard && req->shard->open && req->cb && req->extents && req->max > 0);
    assert(req->offset % STORE_BLOCK_BYTES == 0 && req->length % STORE_BLOCK_BYTES == 0);
    assert(req->offset + req->length <= req->shard->bytes);
    struct diff_run *run = store_malloc(sizeof(*run));
    run->req = req;
    run->store = req->shard->store;
    req->impl = run;
    req->count = 0;
    req->next = req->offset;
    run->store->background->digests++;
    env_defer(run->store->env, &run->task, diff_turn);
}

/* --- which generations have a record --- */

struct generations_run {
    struct store_chunk_generations *req;
    struct store *store;
    struct kv_scan scan;
};

static void generations_end(struct generations_run *run, int rc)
{
    struct store *store = run->store;
    struct store_chunk_generations *req = run->req;
    assert(store->background->digests > 0);
    store->background->digests--;
    kv_batch_free(&run->scan.pairs);
    free(run);
    req->impl = NULL;
    if (!rc && req->count > req->max)
        rc = -ENOSPC;
    for (uint32_t i = 0; !rc && i < req->count / 2; i++) { /* the newest came first */
        uint32_t generation = req->generations[i];
        req->generations[i] = req->generations[req->count - 1 - i];
        req->generations[req->count - 1 - i] = generation;
    }
    req->cb(req, rc);
    store_close_advance(store);
}

static void page_scanned(struct kv_scan *scan, int rc)
{
    struct generations_run *run = scan->owner;
    struct store_chunk_generations *req = run->req;
    const uint8_t *key = NULL, *value;
    uint32_t cursor = 0, key_len, value_len, index, generation;
    enum record_kind kind;
    struct store_shard_id id;
    struct record_map map;
    bool is_delete;
    assert(scan == &run->scan);
    assert(scan->limit == GENERATIONS_PAGE);
    if (rc)
        store_fail(run->store, rc);
    while (!rc && kv_batch_next(&scan->pairs, &cursor, &key, &key_len, &value, &value_len, &is_delete)) {
        rc = record_key_decode(key, key_len, &kind, &id, &index, &generation);
        if (!rc)
            rc = record_map_decode(key, key_len, value, value_len, &map);
        if (rc || map.bare)
            continue;
        if (req->count < req->max)
            req->generations[req->count] = generation;
        req->count++;
    }
    if (rc || !scan->more || !key) {
        generations_end(run, rc);
        return;
    }
    memcpy(scan->from, key, RECORD_KEY_BYTES);
    scan->from[RECORD_KEY_BYTES] = 0;
    scan->from_len = RECORD_KEY_BYTES + 1;
    kv_batch_reset(&scan->pairs);
    kv_scan(run->store->kv, scan);
}

void store_chunk_generations(struct store_chunk_generations *req)
{
    assert(req->shard && req->shard->open && req->cb);
    assert(req->chunk < STORE_SHARD_CHUNKS && req->generations && req->max > 0);
    struct generations_run *run = store_malloc(sizeof(*run));
    struct record_key from = record_key_chunk(RECORD_MAP, &req->shard->id, req->chunk, UINT32_MAX);
    struct record_key last = record_key_chunk(RECORD_MAP, &req->shard->id, req->chunk, 0);
    run->req = req;
    run->store = req->shard->store;
    req->impl = run;
    req->count = 0;
    run->store->background->digests++;
    memcpy(run->scan.from, from.bytes, from.len);
    run->scan.from_len = from.len;
    memcpy(run->scan.to, last.bytes, last.len);
    run->scan.to[last.len] = 0;
    run->scan.to_len = last.len + 1;
    run->scan.limit = GENERATIONS_PAGE;
    run->scan.cb = page_scanned;
    run->scan.owner = run;
    kv_scan(run->store->kv, &run->scan);
}
