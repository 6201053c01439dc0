/* SPDX-License-Identifier: Apache-2.0 */
/* slots: blocks of a shared unit that no record uses, so that the newest record may fill them in place.
 *
 * A generation that rewrites a few blocks of a unit leaves the rest of its new unit unused. The generations that follow fill those
 * slots, each block at its own place, instead of taking a unit each and merging when there are two already.
 * - When a record's units come to be shared (slots_share), what it does not use of a unit that is its alone is free for its chunk's
 *   newest record, and for nobody else: clones, older records and what a rollback makes know of no free slot.
 * - A slot that was filled (slots_use) is free no more, whatever becomes of the block; the next unit begins anew.
 * - Kept in memory only: after a start nothing is known to be free, which costs at most a unit.
 * Failure: none.
 */
#include "server/store/store_core.h"

#include <stdlib.h>

#include "common/mutant.h"

static uint16_t unused(const struct chunk *chunk, uint32_t unit)
{
    uint16_t free_slots = 0;
    assert(unit < STORE_CHUNK_UNITS);
    _Static_assert(UNIT_BLOCKS == 16, "a bit a block");
    for (uint32_t i = 0; i < UNIT_BLOCKS; i++) {
        enum block_state state = chunk_state(chunk, unit * UNIT_BLOCKS + i);
        if (state == BLOCK_ZERO || state == BLOCK_BASE || MUTANT(used_slots_are_filled))
            free_slots |= (uint16_t)(1u << i);
    }
    return free_slots;
}

/* Own unit that another record references. */
static bool shared(const struct chunk *chunk, uint32_t unit)
{
    assert(chunk->own[unit] != UNIT_NONE);
    return alloc_refs(&chunk->shard->store->alloc, chunk->own[unit]) > 1;
}

uint16_t slots_free(const struct chunk *chunk, uint32_t generation, uint32_t unit)
{
    assert(unit < STORE_CHUNK_UNITS);
    if (chunk->own[unit] == UNIT_NONE)
        return 0;
    if (shared(chunk, unit))
        return chunk->slots ? chunk->slots[unit] : 0;
    bool about_to = generation != chunk->generation && chunk->stored; /* generation_switch */
    return about_to ? unused(chunk, unit) : UINT16_MAX;
}

uint16_t slots_of(uint32_t unit, uint32_t first, uint32_t count)
{
    uint32_t begin = unit * UNIT_BLOCKS, end = begin + UNIT_BLOCKS;
    uint32_t from = first > begin ? first : begin, to = first + count < end ? first + count : end;
    assert(from < to);
    return (uint16_t)(((1u << (to - from)) - 1) << (from - begin));
}

void slots_share(struct chunk *chunk)
{
    assert(chunk->stored);
    assert(!chunk->bare);
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS && !chunk->older; unit++) {
        uint16_t free_slots = chunk->own[unit] != UNIT_NONE && !shared(chunk, unit)
                                  ? unused(chunk, unit)
                                  : slots_free(chunk, chunk->generation, unit);
        if (!chunk->slots && free_slots)
            chunk->slots = store_malloc(STORE_CHUNK_UNITS * sizeof(*chunk->slots));
        if (chunk->slots)
            chunk->slots[unit] = free_slots;
    }
}

void slots_use(struct chunk *chunk, uint32_t block)
{
    assert(block < STORE_CHUNK_BLOCKS);
    assert(chunk->own[block / UNIT_BLOCKS] != UNIT_NONE);
    if (chunk->slots)
        chunk->slots[block / UNIT_BLOCKS] &= (uint16_t) ~(1u << (block % UNIT_BLOCKS));
}

void slots_forget(struct chunk *chunk)
{
    assert(chunk->shard);
    free(chunk->slots);
    chunk->slots = NULL;
}
