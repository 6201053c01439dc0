/* SPDX-License-Identifier: Apache-2.0 */
/* compact: units with two sources become one again when no other record needs either, so that deleting snapshots gives all the
 * space back that they cost.
 *
 *   a pass of the reaper ends -> compact_kick -> chunk by chunk: a piece of kind PIECE_COMPACT -> merge.c -> the record is put
 * - Only newest records, only settled ones; a bounded number of bytes a second, in the background.
 * - The piece excludes everything else in the chunk; content and checksums stay what they are.
 * - A base that only stood beneath settled blocks is let go by the put alone.
 * Failure: an unreadable source leaves the chunk as it is; failed writes fail the store.
 */
#include "server/store/background.h"

#include <errno.h>

#define COMPACT_BYTES_PER_S (20u << 20)
#define CHUNK_DELAY_NS ENV_MS(2)

static void step(struct env_timer *timer);

static bool unsettled(const struct chunk *chunk)
{
    assert(chunk->base);
    for (uint32_t b = 0; chunk->fresh && b < STORE_CHUNK_BLOCKS; b++)
        if (chunk_is_fresh(chunk, b))
            return true;
    return false;
}

/* Both units are the record's own, and both hold something that counts. */
static bool two_sources(const struct chunk *chunk, uint32_t unit)
{
    const struct alloc *alloc = &chunk->shard->store->alloc;
    uint32_t own = chunk->own[unit], base = chunk_base(chunk, unit);
    assert(unit < STORE_CHUNK_UNITS);
    if (own == UNIT_NONE || base == UNIT_NONE || alloc_refs(alloc, own) > 1 || alloc_refs(alloc, base) > 1)
        return false;
    for (uint32_t b = unit * UNIT_BLOCKS; b < (unit + 1) * UNIT_BLOCKS; b++)
        if (chunk_state(chunk, b) == BLOCK_BASE)
            return true;
    return false;
}

/* Something comes free: a base of its own, or one that nothing reads any more. */
static bool worth_it(const struct chunk *chunk)
{
    assert(!chunk || !chunk->older);
    if (!chunk || !chunk->base || chunk->bare || !chunk->stored || unsettled(chunk))
        return false;
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++) {
        uint32_t base = chunk_base(chunk, unit);
        bool used = false;
        for (uint32_t b = unit * UNIT_BLOCKS; b < (unit + 1) * UNIT_BLOCKS; b++)
            used |= chunk_state(chunk, b) == BLOCK_BASE;
        if (base != UNIT_NONE && (!used || two_sources(chunk, unit)))
            return true;
    }
    return false;
}

void compact_start(struct piece *piece)
{
    struct chunk *chunk = chunk_get(piece->shard, piece->chunk_index);
    struct alloc *alloc = &piece->store->alloc;
    uint32_t reserved = alloc->reserved;
    assert(piece->stage == PIECE_QUEUED && !piece->merge_count);
    if (!worth_it(chunk)) {
        piece_finish(piece, 0);
        return;
    }
    assert(!piece->chunk && !piece->sums);
    piece->chunk = chunk;
    piece->generation = chunk->generation;
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++) {
        if (!two_sources(chunk, unit) || (uint64_t)alloc->free_below <= (uint64_t)reserved + alloc->held_back / 2)
            continue;
        if (!piece->merges) {
            piece->merges = store_malloc(STORE_CHUNK_UNITS * sizeof(*piece->merges));
            piece->merge_capacity = STORE_CHUNK_UNITS;
        }
        uint32_t taken = alloc_take(alloc, UNIT_NONE, unit);
        alloc->reserved = reserved; /* nobody's promise is used up */
        if (taken == UNIT_NONE)
            break;
        piece->merges[piece->merge_count++] = (struct merge){.unit = (uint16_t)unit, .taken = taken};
    }
    if (piece->merge_count)
        merge_start(piece);
    else
        write_submit_put(piece, /* with_sums= */ false);
}

static bool may_run(const struct compactor *compactor)
{
    const struct store *store = compactor->store;
    assert(store->background);
    return store->opened && !store->failed && !store->background->stopping;
}

static void sleep_for(struct compactor *compactor, uint64_t ns)
{
    assert(!compactor->busy && ns > 0);
    if (!may_run(compactor))
        store_close_advance(compactor->store);
    else
        env_timer_start(compactor->store->env, &compactor->timer, ns, step);
}

void compact_kick(struct store *store)
{
    struct compactor *compactor = &store->background->compactor;
    assert(store->opened);
    if (!compactor->busy && !compactor->timer.armed)
        sleep_for(compactor, CHUNK_DELAY_NS);
}

static void chunk_done(struct piece *piece)
{
    struct compactor *compactor = piece->owner;
    assert(piece->chunk_index + 1u == compactor->chunk);
    uint64_t bytes = (uint64_t)piece->merge_count * 2 * STORE_UNIT_BYTES;
    assert(compactor->busy && piece->kind == PIECE_COMPACT);
    compactor->busy = false;
    if (!piece->rc)
        compactor->store->stats.units_compacted += piece->merge_count;
    sleep_for(compactor, CHUNK_DELAY_NS + bytes * 1000000000ull / COMPACT_BYTES_PER_S);
}

static struct store_shard *next_shard(struct store *store)
{
    assert(store->opened);
    list_for_each(node, &store->shards)
    {
        struct store_shard *shard = list_entry(node, struct store_shard, link);
        if (shard->compact_wanted)
            return shard;
    }
    return NULL;
}

static void step(struct env_timer *timer)
{
    struct compactor *compactor = list_entry(timer, struct compactor, timer);
    struct store *store = compactor->store;
    assert(!compactor->busy);
    if (!may_run(compactor))
        return;
    struct store_shard *shard = compactor->running ? shard_find(store, &compactor->shard) : next_shard(store);
    if (shard && !compactor->running) {
        compactor->shard = shard->id;
        compactor->chunk = 0;
        compactor->running = true;
        shard->compact_wanted = false;
    }
    while (shard && compactor->chunk < STORE_SHARD_CHUNKS && !worth_it(chunk_get(shard, compactor->chunk)))
        compactor->chunk++;
    if (!shard || compactor->chunk == STORE_SHARD_CHUNKS) {
        bool ran = compactor->running;
        compactor->running = false;
        if (ran && next_shard(store))
            sleep_for(compactor, CHUNK_DELAY_NS);
        return;
    }
    struct piece *piece = piece_create(shard, PIECE_COMPACT, compactor->chunk++, 0, STORE_CHUNK_BLOCKS);
    piece->generation = UINT32_MAX; /* the newest; known when it begins */
    piece->done = chunk_done;
    piece->owner = compactor;
    compactor->busy = true;
    store->submit_depth++;
    piece_submit(piece);
    store->submit_depth--;
}
