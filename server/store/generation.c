/* SPDX-License-Identifier: Apache-2.0 */
/* generation: the first write of a newer generation to a chunk.
 *
 * - A record of the new generation takes over the whole resolved map, every unit gets one more reference, the sums are copied
 *   with it: no lookup ever walks back. The record of the generation that ends stays as it is.
 * - What is fresh is fresh in both, with the same older source beneath (R21): a crash judges either record for itself, by the same
 *   bytes and the same checksum. So nothing waits for a flush here.
 * - Slots that the record does not use of units that were its alone are its successor's to fill (slots.c).
 * - When no live generation needs the older record it moves to the new generation: nothing is shared, nothing redirected.
 * - The put is not waited for: the kv keeps the order, and what is written next goes to units that the new record owns alone.
 * Failure: a failed put fails the store.
 */
#include "server/store/older.h"

#include "common/mutant.h"

static void share_units(struct chunk *chunk)
{
    slots_share(chunk);
    struct alloc *alloc = &chunk->shard->store->alloc;
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++) {
        uint32_t own = chunk->own[unit], base = chunk_base(chunk, unit);
        int rc = own != UNIT_NONE ? alloc_ref(alloc, own) : 0;
        assert(rc == 0);
        rc = base != UNIT_NONE ? alloc_ref(alloc, base) : 0;
        assert(rc == 0);
    }
}

static void delete_record(const struct chunk *chunk, struct kv_batch *batch)
{
    const struct store_shard *shard = chunk->shard;
    struct record_key map = record_key_chunk(RECORD_MAP, &shard->id, chunk->index, chunk->generation);
    struct record_key sums = record_key_chunk(RECORD_SUMS, &shard->id, chunk->index, chunk->generation);
    assert(chunk->stored);
    assert(!chunk->older);
    kv_batch_delete(batch, map.bytes, map.len);
    kv_batch_delete(batch, sums.bytes, sums.len);
}

void generation_switch(struct piece *piece)
{
    struct chunk *chunk = piece->chunk;
    struct store *store = piece->store;
    assert(piece->sums && piece->sums->loaded);
    if (piece->generation == chunk->generation)
        return;
    assert(piece->generation > chunk->generation);
    if (!chunk->stored) {
        chunk->generation = piece->generation;
        return;
    }
    bool moves = (!chunk->generation && chunk_empty(chunk)) ||
                 !lineage_needs(piece->shard, chunk->generation, piece->generation);
    struct kv_write *write = small_put_create(store);
    if (moves) {
        delete_record(chunk, &write->batch);
        store->stats.records_moved++;
    } else {
        if (chunk->base || chunk->fresh)
            chunk_put(chunk, &write->batch, &piece->released); /* tidied for the last time */
        if (piece->sums->dirty)
            chunk_put_sums(chunk, &write->batch); /* of the generation that ends */
        share_units(chunk);
        if (mark_suspects(piece->shard, chunk->index)) /* both have the checksums that an unclean stop left */
            mark_suspect_older(mark_find(piece->shard, chunk->index), chunk->index, chunk->generation, &write->batch);
        piece->shard->has_older = true;
        store->stats.records_switched++;
    }
    chunk->generation = piece->generation;
    for (uint32_t b = 0; MUTANT(fresh_is_not_inherited) && b < STORE_CHUNK_BLOCKS; b++)
        chunk_clear_fresh(chunk, b);
    chunk_put(chunk, &write->batch, &piece->released);
    chunk_put_sums(chunk, &write->batch);
    small_put_submit(write);
    round_release(store, &piece->released);
}
