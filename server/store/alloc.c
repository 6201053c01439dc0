/* SPDX-License-Identifier: Apache-2.0 */
/* alloc: bitmap, reference counts and reservations of units.
 *
 * - alloc_take: the wished unit; else slot `slot` of a wholly free group of 16 (so that the chunk's later units can be
 *   its neighbours); else the next free unit. Next-fit: both searches go on where the last one ended.
 * - A unit that tens of thousands of records share counts on in a side table: there is no bound on snapshots and clones.
 * - alloc_unref to 0 puts a unit in quarantine, alloc_free makes it free (R22: the store knows when).
 * Failure: none but exhaustion.
 */
#include "server/store/alloc.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/store/records.h"

enum { GROUP_UNITS = STORE_CHUNK_UNITS };

static bool group_free(const struct alloc *alloc, uint32_t group)
{
    uint32_t unit = group * GROUP_UNITS;
    assert(unit < alloc->unit_count);
    return ((alloc->free_map[unit / 64] >> (unit % 64)) & 0xffffu) == 0xffffu;
}

static void mark_free(struct alloc *alloc, uint32_t unit)
{
    assert(!alloc_is_free(alloc, unit));
    alloc->free_map[unit / 64] |= 1ull << (unit % 64);
    alloc->free++;
    if (unit < alloc->watermark)
        alloc->free_below++;
    if (group_free(alloc, unit / GROUP_UNITS))
        alloc->groups_free++;
}

static void mark_used(struct alloc *alloc, uint32_t unit)
{
    assert(alloc_is_free(alloc, unit));
    assert(alloc->free > 0);
    if (group_free(alloc, unit / GROUP_UNITS))
        alloc->groups_free--;
    alloc->free_map[unit / 64] &= ~(1ull << (unit % 64));
    alloc->free--;
    if (unit < alloc->watermark)
        alloc->free_below--;
}

int alloc_init(struct alloc *alloc, uint64_t drive_bytes)
{
    assert(alloc);
    memset(alloc, 0, sizeof(*alloc));
    map_u64_init(&alloc->overflow);
    uint64_t units = drive_bytes / STORE_UNIT_BYTES;
    if (units <= 2 * GROUP_UNITS || units >= RECORD_UNIT_NONE)
        return -EINVAL;
    alloc->unit_count = (uint32_t)units;
    alloc->unit_first = GROUP_UNITS; /* the first MiB holds the superblocks */
    alloc->watermark = alloc->unit_count;
    alloc->refs = calloc(units, sizeof(*alloc->refs));
    alloc->free_map = calloc(units / 64 + 2, sizeof(*alloc->free_map));
    if (!alloc->refs || !alloc->free_map) {
        alloc_close(alloc);
        return -ENOMEM;
    }
    for (uint32_t unit = alloc->unit_first; unit < alloc->unit_count; unit++)
        mark_free(alloc, unit);
    alloc->held_back = (alloc->free + 49) / 50;
    alloc->cursor_group = 1;
    assert(alloc->free == alloc->free_below);
    return 0;
}

void alloc_close(struct alloc *alloc)
{
    assert(alloc);
    free(alloc->refs);
    free(alloc->free_map);
    map_u64_close(&alloc->overflow);
    alloc->refs = NULL;
    alloc->free_map = NULL;
}

void alloc_set_watermark(struct alloc *alloc, uint32_t unit)
{
    assert(unit <= alloc->unit_count);
    alloc->watermark = unit;
    alloc->free_below = 0;
    uint32_t words = unit / 64;
    for (uint32_t w = 0; w < words; w++)
        alloc->free_below += (uint32_t)__builtin_popcountll(alloc->free_map[w]);
    if (unit % 64)
        alloc->free_below += (uint32_t)__builtin_popcountll(alloc->free_map[words] & ((1ull << (unit % 64)) - 1));
    assert(alloc->free_below <= alloc->free);
}

bool alloc_valid(const struct alloc *alloc, uint32_t unit)
{
    assert(alloc->refs);
    return unit >= alloc->unit_first && unit < alloc->unit_count;
}

/* Changes how many references there are beyond UINT16_MAX. */
static void overflow_add(struct alloc *alloc, uint32_t unit, int change)
{
    uintptr_t more = (uintptr_t)map_u64_get(&alloc->overflow, unit);
    assert(alloc->refs[unit] == UINT16_MAX);
    assert(change > 0 || more > 0);
    more = change > 0 ? more + 1 : more - 1;
    if (!more)
        (void)map_u64_remove(&alloc->overflow, unit);
    else if (map_u64_put(&alloc->overflow, unit, (void *)more))
        abort();
}

int alloc_ref(struct alloc *alloc, uint32_t unit)
{
    assert(alloc->refs);
    if (!alloc_valid(alloc, unit))
        return -ERANGE;
    if (alloc->refs[unit] == UINT16_MAX) {
        overflow_add(alloc, unit, 1);
        return 0;
    }
    if (alloc->refs[unit]++ == 0)
        mark_used(alloc, unit);
    assert(!alloc_is_free(alloc, unit)); /* I11 */
    return 0;
}

bool alloc_unref(struct alloc *alloc, uint32_t unit)
{
    assert(alloc_valid(alloc, unit));
    assert(alloc->refs[unit] > 0); /* I11 */
    if (alloc->refs[unit] == UINT16_MAX && alloc->overflow.count && map_u64_get(&alloc->overflow, unit)) {
        overflow_add(alloc, unit, -1);
        return false;
    }
    if (--alloc->refs[unit])
        return false;
    alloc->quarantined++;
    return true;
}

void alloc_free(struct alloc *alloc, uint32_t unit)
{
    assert(alloc_valid(alloc, unit));
    assert(alloc->refs[unit] == 0); /* I11 */
    assert(alloc->quarantined > 0);
    alloc->quarantined--;
    mark_free(alloc, unit);
}

uint32_t alloc_refs(const struct alloc *alloc, uint32_t unit)
{
    assert(alloc_valid(alloc, unit));
    return alloc->refs[unit];
}

bool alloc_is_free(const struct alloc *alloc, uint32_t unit)
{
    assert(unit < alloc->unit_count);
    return alloc->free_map[unit / 64] >> (unit % 64) & 1;
}

/* A wholly free group below the watermark, next-fit. */
static uint32_t find_group(struct alloc *alloc)
{
    assert(alloc->cursor_group > 0);
    uint32_t groups = alloc->watermark / GROUP_UNITS;
    if (!alloc->groups_free || groups <= 1)
        return RECORD_UNIT_NONE;
    /* Bounded look-out: a miss costs a scan, and any free unit will do. */
    uint32_t steps = groups < 4096 ? groups : 4096;
    for (uint32_t i = 0; i < steps; i++) {
        if (alloc->cursor_group >= groups)
            alloc->cursor_group = 1;
        uint32_t group = alloc->cursor_group++;
        if (group_free(alloc, group))
            return group * GROUP_UNITS;
    }
    return RECORD_UNIT_NONE;
}

static uint32_t find_unit(struct alloc *alloc)
{
    assert(alloc->free_below <= alloc->free);
    if (!alloc->free_below)
        return RECORD_UNIT_NONE;
    uint32_t words = (alloc->watermark + 63) / 64;
    for (uint32_t i = 0; i <= words; i++) {
        if (alloc->cursor_word >= words)
            alloc->cursor_word = 0;
        uint64_t map = alloc->free_map[alloc->cursor_word];
        if (alloc->cursor_word == alloc->watermark / 64)
            map &= (1ull << (alloc->watermark % 64)) - 1;
        if (map)
            return alloc->cursor_word * 64 + (uint32_t)__builtin_ctzll(map);
        alloc->cursor_word++;
    }
    assert(!"free_below counts what the bitmap does not have");
    return RECORD_UNIT_NONE;
}

uint32_t alloc_take(struct alloc *alloc, uint32_t wish, uint32_t slot)
{
    assert(slot < GROUP_UNITS);
    uint32_t unit = RECORD_UNIT_NONE;
    if (wish != RECORD_UNIT_NONE && alloc_valid(alloc, wish) && wish < alloc->watermark && alloc_is_free(alloc, wish))
        unit = wish;
    if (unit == RECORD_UNIT_NONE) {
        uint32_t group = find_group(alloc);
        if (group != RECORD_UNIT_NONE)
            unit = group + slot;
    }
    if (unit == RECORD_UNIT_NONE)
        unit = find_unit(alloc);
    if (unit == RECORD_UNIT_NONE)
        return unit;
    assert(alloc->refs[unit] == 0); /* I11 */
    mark_used(alloc, unit);
    alloc->refs[unit] = 1;
    if (alloc->reserved)
        alloc->reserved--;
    return unit;
}

void alloc_give_back(struct alloc *alloc, uint32_t unit)
{
    assert(alloc_refs(alloc, unit) == 1);
    bool last = alloc_unref(alloc, unit);
    assert(last);
    alloc_free(alloc, unit);
}

int alloc_reserve(struct alloc *alloc, uint32_t units)
{
    assert(alloc->held_back <= alloc->unit_count);
    assert(alloc->refs);
    uint64_t promised = (uint64_t)alloc->reserved + alloc->held_back + units;
    if (units && promised > (uint64_t)alloc->free + alloc->quarantined)
        return -ENOSPC;
    alloc->reserved += units;
    return 0;
}

void alloc_unreserve(struct alloc *alloc, uint32_t units)
{
    assert(units <= alloc->reserved);
    alloc->reserved -= units;
}
