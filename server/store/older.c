/* SPDX-License-Identifier: Apache-2.0 */
/* older: cache of older records' maps, and the lookup of the record that serves a generation.
 *
 * - lookup_start: the newest record in memory serves its own generation and all later ones; older ones come from here; a chunk
 *   without a record that old is the base's (clones).
 * - A miss is one seek in the kv: the first record from (chunk, inverted generation) on (records.h). Others that ask for the same wait
 *   for it.
 * - The coldest that nobody uses make room.
 * Failure: a kv error fails the store; a record that can not be decoded ends the lookup with -EILSEQ.
 */
#include "server/store/older.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void load(struct older *older);

static struct older *first_of(const struct store_shard *shard, uint32_t index)
{
    assert(index < STORE_SHARD_CHUNKS);
    return map_u64_get2(&shard->store->olders, (uintptr_t)shard, index);
}

static void set_first(struct store_shard *shard, uint32_t index, struct older *older)
{
    assert(index < STORE_SHARD_CHUNKS);
    if (!older)
        (void)map_u64_remove2(&shard->store->olders, (uintptr_t)shard, index);
    else if (map_u64_put2(&shard->store->olders, (uintptr_t)shard, index, older))
        abort();
}

static bool in_use(const struct older *older)
{
    const struct sums *sums = older->chunk.sums;
    assert(older->chunk.older);
    return older->pins || older->loading || (sums && (sums->pins || sums->writing || sums->dirty || !sums->loaded));
}

static void older_destroy(struct older *older)
{
    struct store_shard *shard = older->chunk.shard;
    struct store *store = shard->store;
    struct older *at = first_of(shard, older->chunk.index);
    assert(!older->pins && list_empty(&older->waiters));
    assert(at && store->older_count > 0);
    if (at == older) {
        set_first(shard, older->chunk.index, older->next);
    } else {
        while (at->next != older)
            at = at->next;
        at->next = older->next;
    }
    list_remove(&older->lru);
    store->older_count--;
    chunk_clear(&older->chunk);
    kv_batch_free(&older->scan.pairs);
    free(older);
}

static void make_room(struct store *store)
{
    uint32_t steps = 0;
    assert(store->opened);
    list_for_each_safe(node, next, &store->older_lru)
    {
        if (store->older_count < OLDER_MAX || steps++ >= 16)
            return;
        struct older *older = list_entry(node, struct older, lru);
        if (!in_use(older))
            older_destroy(older);
    }
}

static struct older *older_create(struct store_shard *shard, uint32_t index)
{
    struct store *store = shard->store;
    assert(index < STORE_SHARD_CHUNKS);
    make_room(store);
    struct older *older = store_malloc(sizeof(*older));
    struct chunk *chunk = &older->chunk;
    memset(chunk->own, 0xff, sizeof(chunk->own));
    chunk->shard = shard;
    chunk->index = (uint16_t)index;
    chunk->older = true;
    list_head_init(&older->waiters);
    list_push_back(&store->older_lru, &older->lru);
    store->older_count++;
    older->next = first_of(shard, index);
    set_first(shard, index, older);
    assert(first_of(shard, index) == older);
    return older;
}

static struct older *find(const struct store_shard *shard, uint32_t index, uint32_t generation)
{
    struct older *older = first_of(shard, index);
    while (older) {
        assert(older->chunk.index == index);
        if (older->loading ? older->until == generation && !older->stale
                           : older->chunk.generation <= generation && generation < older->until)
            break;
        older = older->next;
    }
    return older;
}

static void pin(struct older *older)
{
    assert(!older->loading);
    older->pins++;
    list_remove(&older->lru);
    list_push_back(&older->chunk.shard->store->older_lru, &older->lru);
    assert(older->pins > 0);
}

void older_unpin(struct older *older)
{
    assert(older->pins > 0);
    assert(!older->loading);
    assert(older->chunk.older);
    older->pins--;
}

void older_put_sums(const struct store_shard *shard, uint32_t index)
{
    struct store *store = shard->store;
    for (struct older *older = first_of(shard, index); older; older = older->next) {
        const struct sums *sums = older->chunk.sums;
        if (!sums || !sums->loaded || !sums->dirty)
            continue;
        struct kv_write *write = small_put_create(store);
        chunk_put_sums(&older->chunk, &write->batch);
        assert(!sums->dirty);
        small_put_submit(write);
    }
}

/* --- fetching --- */

static int lookup_step(struct lookup *lookup);

/* No record of the shard's own is that old. */
static int follow_base(struct lookup *lookup)
{
    const struct store_shard *shard = lookup->shard;
    assert(!lookup->older);
    lookup->chunk = NULL;
    if (!shard->has_base || lookup->own_only)
        return 0;
    if (!shard->base_shard)
        return -ENOENT;
    if (lookup->depth++ > STORE_BASE_DEPTH_MAX)
        return -ELOOP;
    lookup->generation = shard->base.generation;
    lookup->shard = shard->base_shard;
    assert(lookup->shard != shard);
    return lookup_step(lookup);
}

static void take(struct lookup *lookup, struct older *older)
{
    assert(!older->loading);
    pin(older);
    lookup->older = older;
    lookup->chunk = &older->chunk;
    assert(lookup->chunk->generation <= lookup->generation);
}

static int lookup_step(struct lookup *lookup)
{
    struct chunk *chunk = chunk_get(lookup->shard, lookup->index);
    assert(!lookup->older);
    if (!chunk || chunk->bare)
        return follow_base(lookup);
    if (lookup->generation >= chunk->generation) {
        lookup->chunk = chunk;
        return 0;
    }
    assert(!list_linked(&lookup->link));
    struct older *older = find(lookup->shard, lookup->index, lookup->generation);
    if (older && !older->loading) {
        take(lookup, older);
        return 0;
    }
    if (!older) {
        older = older_create(lookup->shard, lookup->index);
        older->until = lookup->generation;
        load(older);
    }
    list_push_back(&older->waiters, &lookup->link);
    return -EINPROGRESS;
}

int lookup_start(struct lookup *lookup)
{
    assert(lookup->shard && lookup->cb && lookup->owner);
    assert(lookup->index < STORE_SHARD_CHUNKS);
    lookup->chunk = NULL;
    lookup->older = NULL;
    lookup->depth = 0;
    lookup->link.next = lookup->link.prev = NULL;
    return lookup_step(lookup);
}

static void answer(struct older *loading, struct older *found, int rc)
{
    struct list_node *node;
    assert(rc <= 0);
    while ((node = list_pop_front(&loading->waiters))) {
        struct lookup *lookup = list_entry(node, struct lookup, link);
        int end = rc;
        if (!rc && found)
            take(lookup, found);
        else if (!rc)
            end = follow_base(lookup);
        if (end != -EINPROGRESS)
            lookup->cb(lookup, end);
    }
}

static struct older *find_record(const struct store_shard *shard, uint32_t index, uint32_t generation)
{
    struct older *older = first_of(shard, index);
    while (older && (older->loading || older->chunk.generation != generation))
        older = older->next;
    assert(!older || older->chunk.older);
    return older;
}

static void import_map(struct older *older, const struct record_map *map)
{
    struct chunk *chunk = &older->chunk;
    chunk_import(chunk, map);
    assert(chunk->stored && !chunk->fresh);
    for (uint32_t c = 0; c < 2; c++)
        if (map->fresh[c].seq > chunk->shard->store->settled_seq)
            chunk_fresh_obtain(chunk)->classes[c] = map->fresh[c];
}

/* The older that answers, NULL: none is that old. */
static struct older *loaded(struct older *older, const struct record_map *map)
{
    uint32_t asked = older->until;
    assert(older->loading && !older->stale);
    struct older *known = map ? find_record(older->chunk.shard, older->chunk.index, map->generation) : NULL;
    assert(!map || map->generation <= asked);
    if (!map || known) {
        if (known && known->until <= asked)
            known->until = asked + 1; /* no record lies between */
        older->stale = true;          /* found by nobody any more */
        return known;
    }
    older->loading = false;
    import_map(older, map);
    older->until = asked + 1;
    return older;
}

static void load_done(struct kv_scan *scan, int rc)
{
    struct older *older = scan->owner;
    struct store *store = older->chunk.shard->store;
    struct record_map map;
    uint32_t cursor = 0, key_len, value_len;
    const uint8_t *key, *value;
    bool is_delete, any = false;
    assert(older->loading);
    if (rc)
        store_fail(store, rc);
    if (!rc && older->stale) {
        load(older);
        return;
    }
    if (!rc && kv_batch_next(&scan->pairs, &cursor, &key, &key_len, &value, &value_len, &is_delete)) {
        any = true;
        rc = record_map_decode(key, key_len, value, value_len, &map) ? -EILSEQ : 0;
    }
    store->stats.old_maps_loaded++;
    struct older *found = loaded(older, any && !rc && !map.bare ? &map : NULL);
    if (found)
        found->pins++; /* ours, while they are told */
    answer(older, found, rc);
    if (found)
        older_unpin(found);
    if (found != older)
        older_destroy(older);
}

static void load(struct older *older)
{
    struct kv_scan *scan = &older->scan;
    struct store_shard *shard = older->chunk.shard;
    struct record_key from = record_key_chunk(RECORD_MAP, &shard->id, older->chunk.index, older->until);
    struct record_key last = record_key_chunk(RECORD_MAP, &shard->id, older->chunk.index, 0);
    older->loading = true;
    older->stale = false;
    kv_batch_reset(&scan->pairs);
    memcpy(scan->from, from.bytes, from.len);
    scan->from_len = from.len;
    memcpy(scan->to, last.bytes, last.len);
    scan->to[last.len] = 0; /* just after generation 0 */
    scan->to_len = last.len + 1;
    scan->limit = 1;
    scan->cb = load_done;
    scan->owner = older;
    assert(scan->to_len <= KV_KEY_MAX);
    kv_scan(shard->store->kv, scan);
}

/* --- changes --- */

struct older *older_insert(struct store_shard *shard, uint32_t index, const struct record_map *map)
{
    uint32_t generation = map->generation, until = generation + 1;
    assert(!find_record(shard, index, generation));
    assert(!map->bare);
    for (struct older *at = first_of(shard, index); at; at = at->next) {
        if (at->loading) {
            at->stale |= at->until >= generation;
        } else if (at->chunk.generation < generation && generation < at->until) {
            until = at->until;
            at->until = generation;
        }
    }
    struct older *older = older_create(shard, index);
    chunk_import(&older->chunk, map);
    older->until = until;
    pin(older);
    shard->has_older = true;
    return older;
}

bool older_busy(const struct store_shard *shard, uint32_t index)
{
    assert(index < STORE_SHARD_CHUNKS);
    for (const struct older *at = first_of(shard, index); at; at = at->next)
        if (in_use(at))
            return true;
    return false;
}

bool older_shard_busy(const struct store_shard *shard)
{
    assert(shard->store);
    list_for_each(node, &shard->store->older_lru)
    {
        const struct older *older = list_entry(node, struct older, lru);
        const struct sums *sums = older->chunk.sums;
        if (older->chunk.shard == shard && (older->pins || older->loading || (sums && (sums->pins || sums->writing))))
            return true;
    }
    return false;
}

void older_forget(struct store_shard *shard, uint32_t index, uint32_t generation)
{
    struct older *older = find_record(shard, index, generation);
    assert(!older || !in_use(older));
    if (older)
        older_destroy(older);
}

void older_forget_shard(struct store_shard *shard)
{
    assert(shard->store);
    list_for_each_safe(node, next, &shard->store->older_lru)
    {
        struct older *older = list_entry(node, struct older, lru);
        if (older->chunk.shard != shard)
            continue;
        assert(!older->pins && !older->loading);
        older_destroy(older);
    }
}
