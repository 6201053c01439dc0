/* SPDX-License-Identifier: Apache-2.0 */
/* zero: one chunk's part of a trim or zero; no data is written.
 *
 * - What is zero already is left alone: no mark, no record.
 * - Else mark (R14), then in memory: whole units are released (NO_HOLE: kept, their blocks zero), blocks of partial units
 *   become zero; a chunk without units leaves a tombstone with its mod_epoch (R14). Then the record goes to the kv.
 * - Released units are reusable when that put is synced and their readers are gone (R22).
 * Failure: a failed put fails the store.
 */
#include "server/store/older.h"

static bool unit_whole(const struct piece *piece, uint32_t unit)
{
    assert(unit < STORE_CHUNK_UNITS);
    return unit * UNIT_BLOCKS >= piece->first && (unit + 1) * UNIT_BLOCKS <= (uint32_t)piece->first + piece->count;
}

bool zero_is_noop(const struct piece *piece)
{
    assert(piece->count > 0);
    const struct chunk *chunk = chunk_get(piece->shard, piece->chunk_index);
    assert(piece->kind == PIECE_ZERO);
    if (inherit_wanted(piece, chunk))
        return false; /* what it would change is not in memory */
    if (!chunk)
        return true;
    for (uint32_t i = 0; i < piece->count; i++)
        if (chunk_state(chunk, piece->first + i) != BLOCK_ZERO)
            return false;
    if (piece->flags & STORE_IO_NO_HOLE)
        return true;
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++)
        if (unit_whole(piece, unit) && (chunk->own[unit] != UNIT_NONE || chunk_base(chunk, unit) != UNIT_NONE))
            return false;
    return true;
}

void zero_start(struct piece *piece)
{
    assert(piece->kind == PIECE_ZERO);
    if (piece->stage == PIECE_QUEUED) {
        if (zero_is_noop(piece)) {
            piece_finish(piece, 0);
            return;
        }
        piece_move(piece, PIECE_MARK);
    }
    if (!mark_acquire(piece))
        return;
    piece_move(piece, PIECE_SUMS);
    struct chunk *chunk = chunk_get(piece->shard, piece->chunk_index);
    if (inherit_wanted(piece, chunk)) {
        inherit_start(piece);
        return;
    }
    piece->chunk = chunk;
    assert(piece->chunk); /* not a no-op, and chunks don't vanish */
    if (piece->epoch > piece->chunk->mod_epoch)
        piece->chunk->mod_epoch = piece->epoch;
    if (piece->generation > piece->chunk->generation) {
        piece->sums = sums_acquire(piece->chunk, piece);
        if (!piece->pending)
            write_after_sums(piece);
        return;
    }
    zero_apply(piece);
}

static void release_unit(struct piece *piece, uint32_t unit)
{
    struct chunk *chunk = piece->chunk;
    assert(piece->generation == chunk->generation);
    uint32_t own = chunk->own[unit], base = chunk_base(chunk, unit);
    bool keep = piece->flags & STORE_IO_NO_HOLE && own != UNIT_NONE && alloc_refs(&piece->store->alloc, own) == 1;
    assert(unit_whole(piece, unit));
    if (base != UNIT_NONE) {
        chunk_unref(piece->store, &piece->released, base);
        chunk_set_base(chunk, unit, UNIT_NONE);
    }
    if (own != UNIT_NONE && !keep) {
        chunk_unref(piece->store, &piece->released, own);
        chunk->own[unit] = UNIT_NONE;
    }
}

void zero_apply(struct piece *piece)
{
    struct chunk *chunk = piece->chunk;
    assert(piece->generation == chunk->generation);
    assert(piece->marked);
    for (uint32_t i = 0; i < piece->count; i++) {
        chunk_clear_fresh(chunk, piece->first + i);
        record_state_set(chunk->states, piece->first + i, BLOCK_ZERO);
    }
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++)
        if (unit_whole(piece, unit))
            release_unit(piece, unit);
    write_submit_put(piece, /* with_sums= */ false);
    space_check(piece->store);
}
