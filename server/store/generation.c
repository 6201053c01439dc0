/* SPDX-License-Identifier: Apache-2.0 */
/* generation: the first write of a newer generation to a chunk.
 *
 * - A record of the new generation takes over the whole resolved map, every unit gets one more reference, the sums are copied
 *   with it: no lookup ever walks back. The record of the generation that ends stays as it is.
 * - When no live generation needs the older record it moves to the new generation: nothing is shared, nothing redirected.
 * - The put is not waited for: the kv keeps the order, and what is written next goes to units that the new record owns alone.
 * Failure: a failed put fails the store.
 */
#include "server/store/older.h"

#include <errno.h>

bool chunk_unsettled(const struct chunk *chunk)
{
    uint64_t settled = chunk->shard->store->settled_seq;
    assert(chunk->index < STORE_SHARD_CHUNKS);
    for (uint32_t c = 0; chunk->fresh && c < 2; c++) {
        const struct record_fresh *fresh = &chunk->fresh->classes[c];
        if (fresh->seq > settled && (fresh->bits[0] | fresh->bits[1] | fresh->bits[2] | fresh->bits[3]))
            return true;
    }
    return false;
}

static void share_units(const struct chunk *chunk)
{
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

bool generation_switch(struct piece *piece)
{
    struct chunk *chunk = piece->chunk;
    struct store *store = piece->store;
    assert(piece->sums && piece->sums->loaded);
    if (piece->generation == chunk->generation)
        return true;
    assert(piece->generation > chunk->generation);
    if (!chunk->stored) {
        chunk->generation = piece->generation;
        return true;
    }
    bool moves = (!chunk->generation && chunk_empty(chunk)) ||
                 !lineage_needs(piece->shard, chunk->generation, piece->generation);
    if (!moves && chunk_unsettled(chunk)) {
        /* R21: only settled blocks may become another record's: a crash must not let it accept what never existed. */
        list_push_back(&store->settle_waiters, &piece->wait_link);
        store->round.sync_wanted = true;
        round_kick(store);
        return false;
    }
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
            mark_suspect_record(mark_find(piece->shard, chunk->index), chunk->index, chunk->generation);
        piece->shard->has_older = true;
        store->stats.records_switched++;
    }
    chunk->generation = piece->generation;
    chunk_put(chunk, &write->batch, &piece->released);
    chunk_put_sums(chunk, &write->batch);
    small_put_submit(write);
    round_release(store, &piece->released);
    return true;
}
