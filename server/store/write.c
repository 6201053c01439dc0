/* SPDX-License-Identifier: Apache-2.0 */
/* write: one chunk's part of a write.
 *
 * - write_start waits for the region's mark (R14), write_after_sums moves the chunk to the write's generation, write_map
 *   gives each unit a place that this generation owns alone, write_data writes.
 * - A plain overwrite of valid blocks ends there: one drive write, no record.
 * - Newly valid blocks or new units: the map record and the sums go to the kv after the data is on the drive (R21), unsynced;
 *   its acknowledgement ends the piece.
 * - A generation that the newest record does not serve takes a detour (inherit.c) to a record of its own.
 * - Of a unit shared with another generation, slots that nobody uses are filled (slots.c). Else it is redirected: a new unit
 *   takes the written blocks, the shared one stays beneath as base; a third source merges at once (merge.c).
 * Failure: a failed drive write or put fails the store (content and checksums may disagree); no space waits for the round
 *   that frees some or for prewriting, -ENOSPC when neither can help.
 */
#include "server/store/older.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool unit_uses_own(const struct chunk *chunk, uint32_t unit)
{
    assert(unit < STORE_CHUNK_UNITS);
    for (uint32_t b = unit * UNIT_BLOCKS; b < (unit + 1) * UNIT_BLOCKS; b++)
        if (chunk_state(chunk, b) == BLOCK_OWN || chunk_state(chunk, b) == BLOCK_OVER)
            return true;
    return false;
}

/* What lies beneath a settled block counts no more. */
static bool unit_uses_base(const struct chunk *chunk, uint32_t unit)
{
    assert(unit < STORE_CHUNK_UNITS);
    for (uint32_t b = unit * UNIT_BLOCKS; b < (unit + 1) * UNIT_BLOCKS; b++)
        if (chunk_state(chunk, b) == BLOCK_BASE || (chunk_state(chunk, b) == BLOCK_OVER && chunk_is_fresh(chunk, b)))
            return true;
    return false;
}

static bool unit_has_fresh(const struct chunk *chunk, uint32_t unit)
{
    assert(unit < STORE_CHUNK_UNITS);
    for (uint32_t b = unit * UNIT_BLOCKS; chunk->fresh && b < (unit + 1) * UNIT_BLOCKS; b++)
        if (chunk_is_fresh(chunk, b))
            return true;
    return false;
}

bool write_locks_unit(const struct chunk *chunk, uint32_t generation, uint32_t unit, uint32_t first, uint32_t count)
{
    uint16_t wanted = slots_of(unit, first, count), free_slots = slots_free(chunk, generation, unit);
    if (chunk->own[unit] == UNIT_NONE || (wanted & free_slots) == wanted)
        return false;
    /* With slots to fill beside it, what is settled now may be fresh when it begins. */
    return chunk_base(chunk, unit) != UNIT_NONE || free_slots || unit_has_fresh(chunk, unit);
}

uint32_t store_units_needed(struct store_shard *shard, uint32_t generation, uint64_t offset, uint64_t length)
{
    assert(length > 0);
    assert(offset + length <= shard->bytes);
    uint64_t first = offset / STORE_UNIT_BYTES, last = (offset + length - 1) / STORE_UNIT_BYTES;
    uint32_t needed = 0;
    for (uint64_t at = first; at <= last; at++) {
        const struct chunk *chunk = chunk_get(shard, (uint32_t)(at / STORE_CHUNK_UNITS));
        uint32_t unit = (uint32_t)(at % STORE_CHUNK_UNITS);
        uint64_t begin = at * STORE_UNIT_BYTES, end = begin + STORE_UNIT_BYTES;
        uint32_t from = (uint32_t)((offset > begin ? offset - begin : 0) / STORE_BLOCK_BYTES);
        uint32_t to = (uint32_t)(((offset + length < end ? offset + length : end) - begin - 1) / STORE_BLOCK_BYTES);
        uint16_t wanted = slots_of(0, from, to - from + 1);
        if (!chunk || generation < chunk->generation || (slots_free(chunk, generation, unit) & wanted) != wanted)
            needed++;
    }
    return needed;
}

void write_start(struct piece *piece)
{
    assert(piece->stage == PIECE_QUEUED || piece->stage == PIECE_MARK);
    assert(piece->kind == PIECE_WRITE);
    if (piece->stage == PIECE_QUEUED)
        piece_move(piece, PIECE_MARK);
    if (!mark_acquire(piece))
        return;
    piece_move(piece, PIECE_SUMS);
    lineage_written(piece->shard, piece->generation);
    if (inherit_wanted(piece, chunk_get(piece->shard, piece->chunk_index))) {
        inherit_start(piece);
        return;
    }
    struct chunk *chunk = chunk_obtain(piece->shard, piece->chunk_index, piece->generation);
    piece->chunk = chunk;
    chunk->bare = false;
    if (piece->epoch > chunk->mod_epoch) /* R14: never decreases */
        chunk->mod_epoch = piece->epoch;
    piece->sums = sums_acquire(chunk, piece);
    if (piece->pending && piece->generation == chunk->generation) {
        /* The map does not wait: the sums come in beside the data. */
        write_map(piece);
        return;
    }
    if (!piece->pending)
        write_after_sums(piece);
}

/* Runs again when what the switch or the detour waited for is there. */
void write_after_sums(struct piece *piece)
{
    assert(piece->stage == PIECE_SUMS);
    assert(!piece->pending);
    if (piece->detour) {
        inherit_resume(piece);
        return;
    }
    generation_switch(piece);
    if (piece->kind == PIECE_WRITE)
        write_map(piece);
    else
        zero_apply(piece);
}

static uint32_t wish_for(const struct chunk *chunk, uint32_t unit)
{
    assert(unit < STORE_CHUNK_UNITS);
    for (uint32_t i = 1; i < STORE_CHUNK_UNITS; i++) { /* nearest neighbours first */
        if (unit >= i && chunk->own[unit - i] != UNIT_NONE)
            return chunk->own[unit - i] + i;
        if (unit + i < STORE_CHUNK_UNITS && chunk->own[unit + i] != UNIT_NONE && chunk->own[unit + i] >= i)
            return chunk->own[unit + i] - i;
    }
    return UNIT_NONE;
}

/* The shared unit becomes the base beneath a new one. */
static void put_beneath(struct piece *piece, uint32_t unit)
{
    struct chunk *chunk = piece->chunk;
    uint32_t old = chunk->own[unit], base = chunk_base(chunk, unit);
    chunk->own[unit] = UNIT_NONE;
    if (!unit_uses_own(chunk, unit)) {
        chunk_unref(piece->store, &piece->released, old);
        return;
    }
    assert(!unit_uses_base(chunk, unit)); /* else it merges */
    if (base != UNIT_NONE)
        chunk_unref(piece->store, &piece->released, base);
    chunk_set_base(chunk, unit, old);
    for (uint32_t b = unit * UNIT_BLOCKS; b < (unit + 1) * UNIT_BLOCKS; b++)
        if (chunk_state(chunk, b) == BLOCK_OWN || chunk_state(chunk, b) == BLOCK_OVER) {
            chunk_clear_fresh(chunk, b);
            record_state_set(chunk->states, b, BLOCK_BASE);
        }
}

/* An older record's valid blocks are never overwritten: no mark would make an unclean stop's mismatch there harmless, since only
 * newest records are verified after it. */
static bool overwrites_older(const struct piece *piece, uint32_t unit)
{
    const struct chunk *chunk = piece->chunk;
    assert(unit < STORE_CHUNK_UNITS);
    assert(!piece->older == !chunk->older);
    if (!chunk->older)
        return false;
    for (uint32_t b = unit * UNIT_BLOCKS; b < (unit + 1) * UNIT_BLOCKS; b++)
        if (b >= piece->first && b < (uint32_t)piece->first + piece->count &&
            (chunk_state(chunk, b) == BLOCK_OWN || chunk_state(chunk, b) == BLOCK_OVER))
            return true;
    return false;
}

static bool in_place(const struct piece *piece, uint32_t unit)
{
    const struct chunk *chunk = piece->chunk;
    uint16_t wanted = slots_of(unit, piece->first, piece->count);
    assert(piece->generation == chunk->generation);
    return (slots_free(chunk, piece->generation, unit) & wanted) == wanted && !overwrites_older(piece, unit);
}

static bool merges(const struct piece *piece, uint32_t unit)
{
    const struct chunk *chunk = piece->chunk;
    assert(!in_place(piece, unit));
    if (chunk->own[unit] == UNIT_NONE || !unit_uses_own(chunk, unit))
        return false;
    return (chunk_base(chunk, unit) != UNIT_NONE && unit_uses_base(chunk, unit)) || unit_has_fresh(chunk, unit);
}

/* Gives the unit a place of its own: the taken one. */
static void prepare_unit(struct piece *piece, uint32_t unit, uint32_t taken)
{
    struct chunk *chunk = piece->chunk;
    assert(taken != UNIT_NONE);
    assert(alloc_refs(&piece->store->alloc, taken) == 1); /* R22: one unit, one owner */
    piece->units_allocated++;
    piece->map_changed = true;
    if (merges(piece, unit)) {
        assert(piece->lock_first <= unit * UNIT_BLOCKS);
        assert((uint32_t)piece->lock_first + piece->lock_count >= (unit + 1) * UNIT_BLOCKS);
        if (piece->merge_count == piece->merge_capacity) {
            piece->merge_capacity = STORE_CHUNK_UNITS;
            piece->merges = store_malloc(STORE_CHUNK_UNITS * sizeof(*piece->merges));
        }
        piece->merges[piece->merge_count++] = (struct merge){.unit = (uint16_t)unit, .taken = taken};
        return;
    }
    if (chunk->own[unit] != UNIT_NONE)
        put_beneath(piece, unit);
    assert(chunk->own[unit] == UNIT_NONE);
    chunk->own[unit] = taken;
}

/* All the units the piece needs, or none: what can't go on must not sit on units. Returns whether it has them. */
static bool prepare_units(struct piece *piece)
{
    struct alloc *alloc = &piece->store->alloc;
    uint32_t first = piece->first / UNIT_BLOCKS, last = (uint32_t)(piece->first + piece->count - 1) / UNIT_BLOCKS;
    uint32_t taken[STORE_CHUNK_UNITS], reserved = alloc->reserved;
    assert(last < STORE_CHUNK_UNITS);
    assert(!piece->merge_count);
    for (uint32_t unit = first; unit <= last; unit++) {
        taken[unit] = UNIT_NONE;
        if (in_place(piece, unit))
            continue;
        uint32_t wish =
            unit > first && taken[unit - 1] != UNIT_NONE ? taken[unit - 1] + 1 : wish_for(piece->chunk, unit);
        taken[unit] = alloc_take(alloc, wish, unit);
        if (taken[unit] != UNIT_NONE)
            continue;
        while (unit-- > first)
            if (taken[unit] != UNIT_NONE)
                alloc_give_back(alloc, taken[unit]);
        alloc->reserved = reserved;
        return false;
    }
    for (uint32_t unit = first; unit <= last; unit++)
        if (taken[unit] != UNIT_NONE)
            prepare_unit(piece, unit, taken[unit]);
    return true;
}

static void wait_for_space(struct piece *piece)
{
    struct store *store = piece->store;
    assert(piece->stage == PIECE_MAP);
    bool prewriting = store->alloc.free > store->alloc.free_below;
    /* Units in quarantine come free by themselves, but not those that pieces hold which wait here. */
    uint64_t coming = store->alloc.quarantined - piece->released.count;
    list_for_each(node, &store->space_waiters) coming -= list_entry(node, struct piece, wait_link)->released.count;
    if (!prewriting && !coming) {
        piece->rc = -ENOSPC;
        if (!piece->pending)
            piece_finish(piece, -ENOSPC);
        return; /* else the sums are still to come (piece_part_done) */
    }
    list_remove(&piece->age_link); /* it holds up no unit's freedom (R22) */
    list_push_back(&store->space_waiters, &piece->wait_link);
    if (prewriting)
        prewrite_kick(store);
    if (store->released.count) {
        store->round.sync_wanted = true;
        round_kick(store);
    }
}

void write_map(struct piece *piece)
{
    if (piece->stage != PIECE_MAP)
        piece_move(piece, PIECE_MAP);
    assert(piece->chunk && !piece->merge_count);
    if (!prepare_units(piece)) {
        wait_for_space(piece);
        return;
    }
    space_check(piece->store);
    if (piece->merge_count)
        merge_start(piece);
    else
        write_data(piece);
}

static bool merged_unit(const struct piece *piece, uint32_t unit)
{
    assert(unit < STORE_CHUNK_UNITS);
    for (uint32_t i = 0; i < piece->merge_count; i++)
        if (piece->merges[i].unit == unit)
            return true;
    return false;
}

static uint64_t target_of(const struct piece *piece, uint32_t index)
{
    uint32_t block = piece->first + index;
    assert(index < piece->count);
    if (piece->merge_count && merged_unit(piece, block / UNIT_BLOCKS))
        return UINT64_MAX;
    return (uint64_t)piece->chunk->own[block / UNIT_BLOCKS] * STORE_UNIT_BYTES +
           block % UNIT_BLOCKS * STORE_BLOCK_BYTES;
}

void write_data(struct piece *piece)
{
    piece_move(piece, PIECE_DATA);
    uint32_t i = 0;
    assert(piece->data && piece->crcs);
    piece->pending++; /* this function's own */
    while (i < piece->count) {
        uint64_t offset = target_of(piece, i);
        uint32_t count = 1;
        if (offset == UINT64_MAX) {
            i++;
            continue;
        }
        while (i + count < piece->count && target_of(piece, i + count) == offset + (uint64_t)count * STORE_BLOCK_BYTES)
            count++;
        run_submit(piece, DRIVE_WRITE, offset, i, count, piece->data + (size_t)i * STORE_BLOCK_BYTES);
        i += count;
    }
    piece_part_done(piece, 0);
}

/* R21: what became valid is fresh until its flush. Returns whether anything did. */
static bool set_states(struct piece *piece)
{
    struct chunk *chunk = piece->chunk;
    bool newly = false;
    assert(piece->sums->loaded);
    for (uint32_t i = 0; i < piece->count; i++) {
        uint32_t block = piece->first + i;
        sums_set(piece->sums, block, piece->crcs[i]);
        enum block_state state = chunk_state(chunk, block);
        slots_use(chunk, block);
        if (state == BLOCK_OWN || state == BLOCK_OVER)
            continue;
        record_state_set(chunk->states, block, state == BLOCK_BASE ? BLOCK_OVER : BLOCK_OWN);
        chunk_set_fresh(chunk, block);
        newly = true;
    }
    return newly;
}

void write_data_done(struct piece *piece)
{
    assert(piece->stage == PIECE_DATA);
    assert(!piece->rc); /* a failed drive write failed the store */
    bool newly = set_states(piece);
    if (newly || piece->map_changed || piece->chunk->older)
        write_submit_put(piece, /* with_sums= */ true);
    else
        piece_finish(piece, 0);
}

static void put_done(struct kv_write *write, int rc)
{
    struct piece *piece = write->owner;
    struct store *store = piece->store;
    assert(write == &piece->put && piece->pending > 0);
    assert(store->puts_in_flight > 0);
    store->puts_in_flight--;
    if (rc)
        store_fail(store, rc);
    piece_part_done(piece, 0);
}

static void submit_batch(struct piece *piece)
{
    struct store *store = piece->store;
    assert(piece->put.batch.count > 0);
    piece->put.cb = put_done;
    piece->put.owner = piece;
    piece->pending++;
    store->puts_in_flight++;
    round_submit_put(store, &piece->put);
    round_release(store, &piece->released);
}

void write_submit_put(struct piece *piece, bool with_sums)
{
    assert(!piece->pending); /* R21: after the data write */
    assert(piece->chunk);
    piece_move(piece, PIECE_PUT);
    kv_batch_reset(&piece->put.batch);
    chunk_put(piece->chunk, &piece->put.batch, &piece->released);
    if (with_sums)
        chunk_put_sums(piece->chunk, &piece->put.batch);
    submit_batch(piece);
}
