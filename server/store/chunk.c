/* SPDX-License-Identifier: Apache-2.0 */
/* chunk: the in-memory map of a chunk's newest generation.
 *
 * - A block is zero, own (in own[unit]), base (in base[unit]) or over (own, with an older source kept beneath until the
 *   switch is settled, R21/R22).
 * - Writers change pointers when they start and states when their data is on the drive.
 * - A bare chunk carries mod_epoch only: nobody wrote it here, its content is the base's (clones) or nothing.
 * - chunk_put tidies and appends the record to a batch; what it stopped referencing goes to the caller's list.
 * Failure: none; inconsistencies are our own bugs and trip asserts.
 */
#include "server/store/store_core.h"

#include <stdlib.h>
#include <string.h>

#include "common/mutant.h"

void unit_list_add(struct unit_list *list, uint32_t unit)
{
    assert(unit != UNIT_NONE);
    assert(list->count <= list->capacity);
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity ? 2 * list->capacity : 32;
        uint32_t *items = realloc(list->items, capacity * sizeof(*items));
        if (!items)
            abort();
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = unit;
}

void unit_list_move(struct unit_list *from, struct unit_list *to)
{
    assert(from != to);
    for (uint32_t i = 0; i < from->count; i++)
        unit_list_add(to, from->items[i]);
    from->count = 0;
}

void unit_list_close(struct unit_list *list)
{
    assert(list->count <= list->capacity);
    free(list->items);
    memset(list, 0, sizeof(*list));
}

struct chunk *chunk_get(struct store_shard *shard, uint32_t index)
{
    assert(index < STORE_SHARD_CHUNKS);
    const struct region *region = shard->regions[index / REGION_CHUNKS];
    return region ? region->chunks[index % REGION_CHUNKS] : NULL;
}

struct chunk *chunk_obtain(struct store_shard *shard, uint32_t index, uint32_t generation)
{
    assert(index < STORE_SHARD_CHUNKS);
    struct chunk **slot = &region_obtain(shard, index / REGION_CHUNKS)->chunks[index % REGION_CHUNKS];
    if (*slot)
        return *slot;
    struct chunk *chunk = store_malloc(sizeof(*chunk));
    memset(chunk->own, 0xff, sizeof(chunk->own));
    chunk->shard = shard;
    chunk->index = (uint16_t)index;
    chunk->generation = generation;
    *slot = chunk;
    shard->store->stats.chunks++;
    assert(chunk_empty(chunk));
    return chunk;
}

/* Absent: a record that carries mod_epoch only. */
struct chunk *chunk_obtain_bare(struct store_shard *shard, uint32_t index)
{
    struct chunk *chunk = chunk_get(shard, index);
    if (chunk)
        return chunk;
    chunk = chunk_obtain(shard, index, 0);
    chunk->bare = true;
    assert(!chunk->stored);
    return chunk;
}

struct chunk_fresh *chunk_fresh_obtain(struct chunk *chunk)
{
    struct store *store = chunk->shard->store;
    if (chunk->fresh)
        return chunk->fresh;
    struct chunk_fresh *fresh = store->pool_fresh;
    if (fresh)
        store->pool_fresh = fresh->next_free;
    else
        fresh = store_malloc(sizeof(*fresh));
    memset(fresh, 0, sizeof(*fresh));
    chunk->fresh = fresh;
    assert(!fresh->classes[0].seq && !fresh->classes[1].seq);
    return fresh;
}

static void fresh_destroy(struct chunk *chunk)
{
    struct store *store = chunk->shard->store;
    assert(chunk->fresh);
    chunk->fresh->next_free = store->pool_fresh;
    store->pool_fresh = chunk->fresh;
    chunk->fresh = NULL;
}

/* Gives back what hangs on it; the record in the kv is not touched. */
void chunk_clear(struct chunk *chunk)
{
    assert(chunk->shard);
    sums_forget(chunk);
    if (chunk->fresh)
        fresh_destroy(chunk);
    if (list_linked(&chunk->dirty_link))
        list_remove(&chunk->dirty_link);
    free(chunk->base);
    chunk->base = NULL;
    slots_forget(chunk);
    assert(!chunk->sums && !chunk->fresh);
}

void chunk_destroy(struct chunk *chunk)
{
    struct chunk **slot = &chunk->shard->regions[chunk->index / REGION_CHUNKS]->chunks[chunk->index % REGION_CHUNKS];
    assert(*slot == chunk);
    chunk_clear(chunk);
    assert(chunk->shard->store->stats.chunks > 0);
    chunk->shard->store->stats.chunks--;
    *slot = NULL;
    free(chunk);
}

bool chunk_empty(const struct chunk *chunk)
{
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++)
        if (chunk->own[unit] != UNIT_NONE || chunk_base(chunk, unit) != UNIT_NONE)
            return false;
    return true;
}

void chunk_set_base(struct chunk *chunk, uint32_t unit, uint32_t base)
{
    assert(unit < STORE_CHUNK_UNITS);
    assert(base == UNIT_NONE || base != chunk->own[unit]);
    if (!chunk->base) {
        if (base == UNIT_NONE)
            return;
        chunk->base = store_malloc(STORE_CHUNK_UNITS * sizeof(*chunk->base));
        memset(chunk->base, 0xff, STORE_CHUNK_UNITS * sizeof(*chunk->base));
    }
    chunk->base[unit] = base;
}

/* R21: the block is valid from the record put in this settle class on. */
void chunk_set_fresh(struct chunk *chunk, uint32_t block)
{
    assert(block < STORE_CHUNK_BLOCKS);
    struct store *store = chunk->shard->store;
    uint64_t seq = store->settle_seq;
    assert(seq > store->settled_seq);
    (void)chunk_fresh_obtain(chunk);
    chunk_clear_fresh(chunk, block);
    struct record_fresh *classes = chunk->fresh->classes, *use = NULL;
    for (uint32_t c = 0; c < 2; c++)
        if (classes[c].seq == seq)
            use = &classes[c];
    for (uint32_t c = 0; c < 2 && !use; c++)
        if (classes[c].seq <= store->settled_seq)
            use = &classes[c];
    assert(use); /* two classes are open at most: one flush runs at a time */
    if (use->seq != seq) {
        memset(use, 0, sizeof(*use));
        use->seq = seq;
    }
    use->bits[block / 64] |= 1ull << (block % 64);
}

void chunk_clear_fresh(struct chunk *chunk, uint32_t block)
{
    assert(block < STORE_CHUNK_BLOCKS);
    if (!chunk->fresh)
        return;
    for (uint32_t c = 0; c < 2; c++)
        chunk->fresh->classes[c].bits[block / 64] &= ~(1ull << (block % 64));
}

bool chunk_is_fresh(const struct chunk *chunk, uint32_t block)
{
    assert(block < STORE_CHUNK_BLOCKS);
    uint64_t settled = chunk->shard->store->settled_seq;
    for (uint32_t c = 0; chunk->fresh && c < 2; c++)
        if (chunk->fresh->classes[c].seq > settled && chunk->fresh->classes[c].bits[block / 64] >> (block % 64) & 1)
            return true;
    return false;
}

void chunk_unref(struct store *store, struct unit_list *released, uint32_t unit)
{
    assert(unit != UNIT_NONE);
    bool last = alloc_unref(&store->alloc, unit);
    if (last && MUTANT(unit_reused_at_once))
        alloc_free(&store->alloc, unit);
    else if (last)
        unit_list_add(released, unit);
}

/* The 16 states of a unit's blocks, two bits each, in one word. */
static uint32_t unit_states(const struct chunk *chunk, uint32_t unit)
{
    _Static_assert(UNIT_BLOCKS == 16 && (BLOCK_BASE & 2) && (BLOCK_OVER & 2) && !(BLOCK_OWN & 2) && !(BLOCK_ZERO & 2),
                   "the upper bit of a state says: the base is needed");
    _Static_assert(BLOCK_OVER == 3 && BLOCK_OWN == 1, "without it OVER is OWN");
    assert(unit < STORE_CHUNK_UNITS);
    uint32_t word;
    memcpy(&word, chunk->states + unit * sizeof(word), sizeof(word));
    return word;
}

/* Bit 2 b: the unit's block b is fresh. */
static uint32_t unit_fresh(const struct chunk *chunk, uint32_t unit)
{
    uint64_t settled = chunk->shard->store->settled_seq;
    uint32_t bits = 0;
    assert(unit < STORE_CHUNK_UNITS);
    for (uint32_t c = 0; chunk->fresh && c < 2; c++)
        if (chunk->fresh->classes[c].seq > settled)
            bits |= (uint16_t)(chunk->fresh->classes[c].bits[unit / 4] >> (unit % 4 * UNIT_BLOCKS));
    bits = (bits | bits << 8) & 0x00ff00ffu; /* spread: every second bit */
    bits = (bits | bits << 4) & 0x0f0f0f0fu;
    bits = (bits | bits << 2) & 0x33333333u;
    return (bits | bits << 1) & 0x55555555u;
}

static bool tidy_unit(struct chunk *chunk, uint32_t unit)
{
    assert(chunk->base[unit] != UNIT_NONE);
    uint32_t word = unit_states(chunk, unit);
    uint32_t over = word & word >> 1 & 0x55555555u;
    if (over) { /* what is over and settled is our own alone */
        word &= ~((over & ~unit_fresh(chunk, unit)) << 1);
        memcpy(chunk->states + unit * sizeof(word), &word, sizeof(word));
    }
    return word & 0xaaaaaaaau;
}

static void tidy_base(struct chunk *chunk, struct unit_list *released)
{
    assert(released);
    bool any = false;
    assert(chunk->base);
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++) {
        if (chunk->base[unit] == UNIT_NONE)
            continue;
        bool used = tidy_unit(chunk, unit);
        if (!used) { /* R22: the switch to the new unit is settled */
            chunk_unref(chunk->shard->store, released, chunk->base[unit]);
            chunk->base[unit] = UNIT_NONE;
        }
        any |= used;
    }
    if (!any) {
        free(chunk->base);
        chunk->base = NULL;
    }
}

void chunk_tidy(struct chunk *chunk, struct unit_list *released)
{
    assert(chunk->shard->store);
    assert(released);
    if (chunk->base)
        tidy_base(chunk, released);
    if (!chunk->fresh)
        return;
    bool any = false;
    for (uint32_t c = 0; c < 2; c++) {
        struct record_fresh *fresh = &chunk->fresh->classes[c];
        if (fresh->seq <= chunk->shard->store->settled_seq ||
            !(fresh->bits[0] | fresh->bits[1] | fresh->bits[2] | fresh->bits[3]))
            memset(fresh, 0, sizeof(*fresh));
        any |= fresh->seq != 0;
    }
    if (!any)
        fresh_destroy(chunk);
}

void chunk_export(const struct chunk *chunk, struct record_map *ret_map)
{
    assert(ret_map);
    memset(ret_map, 0, sizeof(*ret_map));
    ret_map->generation = chunk->generation;
    ret_map->mod_epoch = chunk->mod_epoch;
    ret_map->bare = chunk->bare && chunk_empty(chunk);
    memcpy(ret_map->own, chunk->own, sizeof(ret_map->own));
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++)
        ret_map->base[unit] = chunk_base(chunk, unit);
    memcpy(ret_map->states, chunk->states, sizeof(ret_map->states));
    if (chunk->fresh)
        memcpy(ret_map->fresh, chunk->fresh->classes, sizeof(ret_map->fresh));
}

/* After open everything is settled (open.c), so fresh classes are not taken over. */
void chunk_import(struct chunk *chunk, const struct record_map *map)
{
    assert(!chunk->fresh);
    assert(!chunk->sums && !chunk->slots);
    chunk->generation = map->generation;
    chunk->mod_epoch = map->mod_epoch;
    chunk->stored = true;
    chunk->bare = map->bare;
    memcpy(chunk->own, map->own, sizeof(chunk->own));
    memcpy(chunk->states, map->states, sizeof(chunk->states));
    free(chunk->base);
    chunk->base = NULL;
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++)
        if (map->base[unit] != UNIT_NONE)
            chunk_set_base(chunk, unit, map->base[unit]);
}

void chunk_put(struct chunk *chunk, struct kv_batch *batch, struct unit_list *released)
{
    assert(batch && released);
    chunk_tidy(chunk, released);
    struct record_map map;
    chunk_export(chunk, &map);
    uint8_t value[RECORD_MAP_BYTES_MAX];
    struct record_key key = record_key_chunk(RECORD_MAP, &chunk->shard->id, chunk->index, chunk->generation);
    uint32_t bytes = record_map_encode(&key, &map, value);
    kv_batch_put(batch, key.bytes, key.len, value, bytes);
    chunk->stored = true;
    if (chunk->fresh)
        chunk->shard->store->unsettled_puts++;
    assert(!chunk->bare || chunk_empty(chunk));
    if (chunk->older)
        chunk->shard->older_seq++;
    if (list_linked(&chunk->dirty_link))
        list_remove(&chunk->dirty_link);
}

void chunk_put_sums(struct chunk *chunk, struct kv_batch *batch)
{
    assert(batch);
    assert(chunk->sums);
    assert(chunk->sums->loaded);
    uint8_t value[RECORD_SUMS_BYTES];
    struct record_key key = record_key_chunk(RECORD_SUMS, &chunk->shard->id, chunk->index, chunk->generation);
    record_sums_encode(&key, chunk->sums->crcs, value);
    kv_batch_put(batch, key.bytes, key.len, value, sizeof(value));
    chunk->sums->dirty = false;
}

static uint64_t block_at(uint32_t unit, uint32_t block)
{
    assert(unit != UNIT_NONE);
    return (uint64_t)unit * STORE_UNIT_BYTES + block % UNIT_BLOCKS * STORE_BLOCK_BYTES;
}

uint64_t record_block_offset(const struct record_map *map, uint32_t block)
{
    assert(block < STORE_CHUNK_BLOCKS);
    switch (record_state_get(map->states, block)) {
    case BLOCK_OWN:
    case BLOCK_OVER: return block_at(map->own[block / UNIT_BLOCKS], block);
    case BLOCK_BASE: return block_at(map->base[block / UNIT_BLOCKS], block);
    case BLOCK_ZERO: break;
    }
    return UINT64_MAX;
}

uint64_t chunk_block_offset(const struct chunk *chunk, uint32_t block)
{
    assert(block < STORE_CHUNK_BLOCKS);
    switch (chunk_state(chunk, block)) {
    case BLOCK_OWN:
    case BLOCK_OVER: return block_at(chunk->own[block / UNIT_BLOCKS], block);
    case BLOCK_BASE: return block_at(chunk_base(chunk, block / UNIT_BLOCKS), block);
    case BLOCK_ZERO:
        if (MUTANT(zero_block_shows_its_unit) && chunk->own[block / UNIT_BLOCKS] != UNIT_NONE)
            return block_at(chunk->own[block / UNIT_BLOCKS], block);
        break;
    }
    return UINT64_MAX;
}
