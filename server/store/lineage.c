/* SPDX-License-Identifier: Apache-2.0 */
/* lineage: which generations of a shard are live, and from whom a clone's shard descends.
 *
 * - store_generations keeps the sorted list; shards of one volume share it. lineage_needs: does a record for generations
 *   [first, end) serve anybody?
 * - store_shard_set_base makes a shard a clone: recorded in its shard record, with the volume at the root of its family.
 * - A base counts its clones here: while there are some it is not dropped.
 * Failure: see store.h.
 */
#include "server/store/background.h"
#include "server/store/older.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct live {
    uint32_t refs;
    uint32_t count;
    uint32_t generations[]; /* ascending */
};

static void live_unref(struct live *live)
{
    assert(!live || live->refs > 0);
    if (live && --live->refs == 0)
        free(live);
}

static bool live_equal(const struct live *live, const uint32_t *generations, uint32_t count)
{
    assert(count > 0);
    return live && live->count == count && !memcmp(live->generations, generations, count * sizeof(*generations));
}

/* Another shard of the volume has the same list most of the time. */
static struct live *live_obtain(const struct store_shard *shard, const uint32_t *generations, uint32_t count)
{
    struct live *live = shard->store->last_live;
    if (live_equal(live, generations, count)) {
        live->refs++;
        return live;
    }
    live = store_malloc(sizeof(*live) + count * sizeof(*generations));
    live->refs = 2; /* one of last_live */
    live->count = count;
    memcpy(live->generations, generations, count * sizeof(*generations));
    live_unref(shard->store->last_live);
    shard->store->last_live = live;
    assert(live_equal(live, generations, count));
    return live;
}

void lineage_close(struct store *store)
{
    assert(list_empty(&store->shards));
    live_unref(store->last_live);
    store->last_live = NULL;
}

/* Newest records that serve nobody: a deleted volume's. */
static bool beyond(const struct store_shard *shard, uint32_t newest_live)
{
    assert(shard->open);
    const struct chunk *chunk;
    for (uint32_t at = 0; (chunk = shard_next_chunk(shard, &at));)
        if (chunk->generation > newest_live)
            return true;
    return false;
}

static bool any_base(const struct store_shard *shard)
{
    assert(shard->open);
    const struct chunk *chunk;
    for (uint32_t at = 0; (chunk = shard_next_chunk(shard, &at));)
        if (chunk->base)
            return true;
    return false;
}

void store_generations(struct store_shard *shard, const uint32_t *live, uint32_t count)
{
    assert(shard->open);
    assert(live && count > 0 && count <= STORE_LIVE_MAX);
    for (uint32_t i = 1; i < count; i++)
        assert(live[i - 1] < live[i]);
    if (live_equal(shard->live, live, count))
        return;
    struct live *former = shard->live;
    shard->live = live_obtain(shard, live, count);
    live_unref(former);
    if (shard->has_older || beyond(shard, live[count - 1])) {
        shard->reap_wanted = true;
        reap_kick(shard->store);
    } else if (any_base(shard)) { /* left over by an earlier run */
        shard->compact_wanted = true;
        compact_kick(shard->store);
    }
}

/* Whoever writes in a generation that is newer than all of the list knows more than the list. */
void lineage_written(struct store_shard *shard, uint32_t generation)
{
    struct live *live = shard->live;
    assert(!live || live->count > 0);
    if (!live || generation <= live->generations[live->count - 1])
        return;
    shard->live = NULL;
    live_unref(live);
}

/* Index of the first live generation that is not below. */
static uint32_t live_find(const struct live *live, uint32_t generation)
{
    uint32_t low = 0, high = live->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (live->generations[middle] < generation)
            low = middle + 1;
        else
            high = middle;
    }
    assert(low <= live->count);
    return low;
}

bool lineage_needs(const struct store_shard *shard, uint32_t first, uint32_t end)
{
    const struct live *live = shard->live;
    assert(first < end);
    if (!live)
        return true;
    uint32_t at = live_find(live, first);
    return at < live->count && live->generations[at] < end;
}

uint32_t lineage_oldest(const struct store_shard *shard)
{
    assert(!shard->live || shard->live->count > 0);
    return shard->live ? shard->live->generations[0] : 1;
}

/* --- bases --- */

static void attach_base(struct store_shard *shard, struct store_shard *base)
{
    assert(shard->has_base && !shard->base_shard);
    assert(shard != base);
    shard->base_shard = base;
    base->clones++;
}

/* What no set_base makes: a cycle, or a chain that a lookup would not follow to its end. */
static bool too_deep(const struct store_shard *shard)
{
    uint32_t depth = 0;
    assert(shard->store);
    for (const struct store_shard *at = shard; at->base_shard; at = at->base_shard)
        if (++depth > STORE_BASE_DEPTH_MAX)
            return true;
    assert(depth <= STORE_BASE_DEPTH_MAX);
    return false;
}

int lineage_resolve(struct store *store)
{
    assert(!store->opened);
    list_for_each(node, &store->shards)
    {
        struct store_shard *shard = list_entry(node, struct store_shard, link);
        struct store_shard *base = shard->has_base ? shard_find(store, &shard->base.id) : NULL;
        if (base == shard)
            return -EBADMSG;
        if (base) /* else its reads say so */
            attach_base(shard, base);
    }
    list_for_each(node, &store->shards) if (too_deep(list_entry(node, struct store_shard, link))) return -EBADMSG;
    return 0;
}

static void detach_base(struct store_shard *shard)
{
    struct store_shard *base = shard->base_shard;
    struct store *store = shard->store;
    assert(shard->has_base);
    if (!base)
        return;
    assert(base->clones > 0);
    base->clones--;
    shard->base_shard = NULL;
    if (!base->clones && base->drop_wanted && !store->closing && !store->failed) {
        struct store_shard_id id = base->id;
        store_shard_drop(store, &id);
    }
}

void lineage_forget(struct store_shard *shard)
{
    assert(shard->store);
    live_unref(shard->live);
    shard->live = NULL;
    if (shard->has_base)
        detach_base(shard);
}

void lineage_clear_base(struct store_shard *shard)
{
    assert(shard->has_base);
    detach_base(shard);
    assert(!shard->base_shard);
    shard->has_base = false;
    memset(&shard->base, 0, sizeof(shard->base));
    shard_put_record(shard);
}

static bool has_content(const struct store_shard *shard)
{
    assert(shard->open);
    const struct chunk *chunk;
    for (uint32_t at = 0; (chunk = shard_next_chunk(shard, &at));)
        if (!chunk->bare)
            return true;
    return false;
}

int store_shard_set_base(struct store_shard *shard, const struct store_base *base)
{
    assert(shard->open && base);
    struct store *store = shard->store;
    struct store_shard *parent = shard_find(store, &base->id);
    if (shard->has_base && shard->base_shard && id_equal(&shard->base.id, &base->id) &&
        shard->base.generation == base->generation)
        return 0;
    if (!parent || parent == shard)
        return -ENOENT;
    if (shard->has_base || has_content(shard))
        return -EEXIST;
    uint32_t depth = 1;
    for (const struct store_shard *at = parent; at->base_shard; at = at->base_shard)
        if (at == shard || ++depth > STORE_BASE_DEPTH_MAX)
            return -ELOOP;
    const struct chunk *chunk;
    for (uint32_t at = 0;
         (chunk = shard_next_chunk(shard, &at));) /* bare ones: from now on they mean the base's content */
        assert(chunk_empty(chunk));
    shard->has_base = true;
    shard->base = *base;
    shard->origin = parent->origin;
    attach_base(shard, parent);
    shard_put_record(shard);
    return 0;
}

bool store_shard_base(const struct store_shard *shard, struct store_base *ret_base)
{
    assert(shard && ret_base);
    if (shard->has_base)
        *ret_base = shard->base;
    return shard->has_base;
}

bool store_shard_is_base(const struct store *store, const struct store_shard_id *id)
{
    assert(store->opened && id);
    const struct store_shard *shard = shard_find(store, id);
    return shard && shard->clones > 0;
}
