/* SPDX-License-Identifier: Apache-2.0 */
/* shard: the table of shard instances, and what resync asks of one (R15, R16).
 *
 * - shard_create, shard_find, shard_destroy keep the table; a shard's chunks and marks hang off it.
 * - store_shard_open drops other instances of the same shard: a new instance starts with no history (R3).
 * - store_chunks_modified lists chunks by mod_epoch and marks.
 * Failure: -EBUSY while an older instance is open or the same one is being removed, -EINVAL for a bad size.
 */
#include "server/store/older.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/mutant.h"

struct store_shard *shard_find(const struct store *store, const struct store_shard_id *id)
{
    assert(id);
    struct store_shard *shard = map_u64_get2(&store->shard_map, id->volume, id->shard);
    while (shard && shard->id.instance != id->instance)
        shard = shard->next_instance;
    return shard;
}

/* Made when first needed, gone with its shard. */
struct region *region_obtain(struct store_shard *shard, uint32_t index)
{
    assert(index < SHARD_REGIONS);
    struct region *region = shard->regions[index];
    if (!region) {
        region = store_malloc(sizeof(*region));
        list_head_init(&region->pieces);
        shard->regions[index] = region;
    }
    assert(region->pieces.next);
    return region;
}

/* The next chunk at or after *at that is in memory, NULL at the end; *at moves behind it. */
struct chunk *shard_next_chunk(const struct store_shard *shard, uint32_t *at)
{
    assert(*at <= STORE_SHARD_CHUNKS);
    while (*at < STORE_SHARD_CHUNKS) {
        const struct region *region = shard->regions[*at / REGION_CHUNKS];
        if (!region) {
            *at = (*at / REGION_CHUNKS + 1) * REGION_CHUNKS;
            continue;
        }
        struct chunk *chunk = region->chunks[(*at)++ % REGION_CHUNKS];
        if (chunk)
            return chunk;
    }
    assert(*at == STORE_SHARD_CHUNKS);
    return NULL;
}

struct store_shard *shard_create(struct store *store, const struct store_shard_id *id)
{
    assert(!shard_find(store, id));
    struct store_shard *shard = slab_take(&store->pool_shards);
    shard->store = store;
    shard->id = *id;
    shard->origin = id->volume;
    shard->next_instance = map_u64_get2(&store->shard_map, id->volume, id->shard);
    if (map_u64_put2(&store->shard_map, id->volume, id->shard, shard))
        abort();
    list_push_back(&store->shards, &shard->link);
    return shard;
}

/* Out of the table: nobody finds it any more. */
void shard_unlink(struct store_shard *shard)
{
    struct store *store = shard->store;
    struct store_shard *head = map_u64_get2(&store->shard_map, shard->id.volume, shard->id.shard);
    assert(head);
    if (head != shard) {
        while (head->next_instance != shard)
            head = head->next_instance;
        head->next_instance = shard->next_instance;
    } else if (shard->next_instance) {
        if (map_u64_put2(&store->shard_map, shard->id.volume, shard->id.shard, shard->next_instance))
            abort();
    } else {
        (void)map_u64_remove2(&store->shard_map, shard->id.volume, shard->id.shard);
    }
    shard->next_instance = NULL;
    list_remove(&shard->link);
    assert(!shard_find(store, &shard->id));
}

/* Nothing of it is on its way to the kv or the drive. */
bool shard_quiet(const struct store_shard *shard)
{
    for (uint32_t i = 0; i < SHARD_REGIONS; i++) {
        const struct region *region = shard->regions[i];
        const struct mark *mark = region ? region->mark : NULL;
        if (region && (!list_empty(&region->pieces) ||
                       (mark && (mark->wanted || mark->in_round || mark->picked || mark->cleaning))))
            return false;
    }
    const struct chunk *chunk;
    for (uint32_t at = 0; (chunk = shard_next_chunk(shard, &at));)
        if (chunk->sums && (chunk->sums->pins || chunk->sums->writing))
            return false;
    assert(!shard->queued);
    return !older_shard_busy(shard);
}

void shard_destroy(struct store_shard *shard)
{
    assert(!list_linked(&shard->link));
    older_forget_shard(shard);
    lineage_forget(shard);
    struct chunk *chunk;
    for (uint32_t at = 0; (chunk = shard_next_chunk(shard, &at));)
        chunk_destroy(chunk);
    for (uint32_t i = 0; i < SHARD_REGIONS; i++) {
        struct region *region = shard->regions[i];
        if (!region)
            continue;
        assert(list_empty(&region->pieces));
        if (region->mark)
            mark_destroy(region->mark);
        free(region);
    }
    slab_give(&shard->store->pool_shards, shard);
}

static void small_put_done(struct kv_write *write, int rc)
{
    struct store *store = write->owner;
    assert(store->puts_in_flight > 0);
    store->puts_in_flight--;
    if (rc)
        store_fail(store, rc);
    kv_batch_free(&write->batch);
    free(write);
    store_close_advance(store);
}

struct kv_write *small_put_create(struct store *store)
{
    assert(store);
    struct kv_write *write = store_malloc(sizeof(*write));
    write->cb = small_put_done;
    write->owner = store;
    assert(!write->batch.count);
    return write;
}

void small_put_submit(struct kv_write *write)
{
    struct store *store = write->owner;
    assert(write->batch.count > 0);
    store->puts_in_flight++;
    assert(write->cb == small_put_done);
    round_submit_put(store, write);
}

void shard_put_record(struct store_shard *shard)
{
    struct kv_write *write = small_put_create(shard->store);
    struct record_key key = record_key_shard(RECORD_SHARD, &shard->id);
    uint8_t value[RECORD_SHARD_BYTES];
    struct record_shard record = {
        .bytes = shard->bytes, .origin = shard->origin, .has_base = shard->has_base, .base = shard->base};
    assert(shard->bytes > 0);
    record_shard_encode(&key, &record, value);
    kv_batch_put(&write->batch, key.bytes, key.len, value, sizeof(value));
    small_put_submit(write);
    shard->stored = true;
}

int store_shard_open(struct store *store, const struct store_shard_id *id, uint64_t bytes,
                     struct store_shard **ret_shard)
{
    assert(store->opened && !store->closing);
    assert(ret_shard);
    if (!bytes || bytes > STORE_SHARD_BYTES_MAX || bytes % STORE_BLOCK_BYTES)
        return -EINVAL;
    if (store->failed)
        return -EIO;
    if (drop_running(store, id))
        return -EBUSY;
    struct store_shard *other = map_u64_get2(&store->shard_map, id->volume, id->shard);
    while (other) {
        struct store_shard *next = other->next_instance;
        if (other->id.instance != id->instance) {
            if (other->open)
                return -EBUSY;
            store_shard_drop(store, &other->id);
        }
        other = next;
    }
    struct store_shard *shard = shard_find(store, id);
    if (!shard)
        shard = shard_create(store, id);
    if (shard->open)
        return -EBUSY;
    bool changed = !shard->stored || shard->bytes != bytes;
    shard->bytes = bytes;
    shard->open = true;
    shard->drop_wanted = false;
    if (changed)
        shard_put_record(shard);
    *ret_shard = shard;
    return 0;
}

void store_shard_close(struct store_shard *shard)
{
    assert(shard->open);
    for (uint32_t i = 0; i < SHARD_REGIONS; i++) {
        if (!shard->regions[i])
            continue;
        list_for_each(node, &shard->regions[i]->pieces) /* a clone's reads may be here */
        {
            const struct store_io *io = list_entry(node, struct piece, region_link)->io;
            assert(!io || io->shard != shard);
        }
    }
    shard->open = false;
}

struct store_shard_id store_shard_identity(const struct store_shard *shard)
{
    assert(shard);
    return shard->id;
}

void store_shard_each(struct store *store, void (*fn)(void *arg, const struct store_shard_id *id), void *arg)
{
    assert(store->opened && fn);
    list_for_each_safe(node, next, &store->shards)
    {
        struct store_shard_id id = list_entry(node, struct store_shard, link)->id;
        fn(arg, &id);
    }
}

uint32_t store_chunks_modified(struct store_shard *shard, uint64_t since_epoch, uint32_t from_chunk,
                               struct store_chunk_info *ret_infos, uint32_t max, uint32_t *ret_next)
{
    assert(shard && ret_next);
    assert(max > 0 && ret_infos);
    uint32_t count = 0, index = from_chunk;
    uint32_t end = (uint32_t)((shard->bytes + STORE_CHUNK_BYTES - 1) / STORE_CHUNK_BYTES);
    for (; index < end && count < max; index++) {
        const struct mark *mark = MUTANT(marks_do_not_count) ? NULL : mark_find(shard, index);
        const struct chunk *chunk = chunk_get(shard, index);
        uint64_t mod_epoch = chunk ? chunk->mod_epoch : 0;
        if (!mod_epoch && (lineage_inherits(shard, chunk) || (chunk && !chunk->bare)))
            mod_epoch = 1; /* a member without history must see what the base holds, or held before it was flattened */
        if (mark && mark->epoch > mod_epoch) /* R14: all its chunks count as modified in the mark's epoch */
            mod_epoch = mark->epoch;
        if (!mark && mod_epoch <= since_epoch)
            continue;
        ret_infos[count++] = (struct store_chunk_info){.chunk = index, .mod_epoch = mod_epoch, .marked = mark != NULL};
    }
    *ret_next = index < end ? index : STORE_SHARD_CHUNKS;
    return count;
}

void store_raise_mod_epoch(struct store_shard *shard, uint32_t index, uint64_t epoch)
{
    assert(index < STORE_SHARD_CHUNKS);
    assert(shard->open);
    struct chunk *chunk = chunk_get(shard, index);
    if (chunk ? chunk->mod_epoch >= epoch : !epoch)
        return;
    chunk = chunk_obtain_bare(shard, index);
    chunk->mod_epoch = epoch;
    if (!list_linked(&chunk->dirty_link))
        list_push_back(&shard->store->chunks_dirty, &chunk->dirty_link);
}

/* Of a map in memory; what older records or the base say is no synchronous matter (store_diff): data. */
static uint32_t extent_state(const struct store_shard *shard, const struct chunk *chunk, uint32_t generation,
                             uint32_t block)
{
    assert(block < STORE_CHUNK_BLOCKS);
    if (lineage_inherits(shard, chunk))
        return 1;
    if (!chunk)
        return 0;
    if (generation < chunk->generation)
        return 1;
    if (chunk_state(chunk, block) != BLOCK_ZERO)
        return 1;
    return chunk->own[block / UNIT_BLOCKS] != UNIT_NONE ? 2 : 0;
}

uint32_t store_extents(struct store_shard *shard, uint32_t generation, uint64_t offset, uint64_t length,
                       struct store_extent *ret_extents, uint32_t max)
{
    assert(offset % STORE_BLOCK_BYTES == 0 && length % STORE_BLOCK_BYTES == 0);
    assert(offset + length <= shard->bytes);
    uint32_t count = 0;
    for (uint64_t at = offset; at < offset + length; at += STORE_BLOCK_BYTES) {
        const struct chunk *chunk = chunk_get(shard, (uint32_t)(at / STORE_CHUNK_BYTES));
        uint32_t block = (uint32_t)(at % STORE_CHUNK_BYTES / STORE_BLOCK_BYTES);
        uint32_t state = extent_state(shard, chunk, generation, block);
        uint64_t step = STORE_BLOCK_BYTES;
        if (!chunk) {
            uint64_t chunk_end = (at / STORE_CHUNK_BYTES + 1) * STORE_CHUNK_BYTES;
            step = (chunk_end < offset + length ? chunk_end : offset + length) - at;
        }
        if (count && ret_extents[count - 1].state == state) {
            ret_extents[count - 1].length += step;
        } else {
            if (count == max)
                return count;
            ret_extents[count++] = (struct store_extent){.offset = at, .length = step, .state = state};
        }
        at += step - STORE_BLOCK_BYTES;
    }
    return count;
}
