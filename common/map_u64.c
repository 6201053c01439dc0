/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open-addressing hash map, linear probing, at most three quarters full.
 *
 * - find_slot probes from the key's home to the key or to the first free slot
 * - put grows the table first if need be, so that a free slot always exists
 * - remove closes the hole by moving back each follower that may go there
 *
 * Out of memory leaves the map as it was.
 */
#include "common/map_u64.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

enum { CAPACITY_FIRST = 16 };

/* The finalizer of splitmix64: every input bit reaches every output bit. */
static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    x ^= x >> 31;
    return x;
}

static uint32_t home_of(uint64_t key, uint64_t key2, uint32_t capacity)
{
    assert(capacity > 0);
    assert((capacity & (capacity - 1)) == 0);
    return (uint32_t)mix(key + mix(key2 + 0x9e3779b97f4a7c15u)) & (capacity - 1);
}

static uint32_t capacity_for(uint32_t count)
{
    assert(count <= MAP_U64_MAX);
    uint32_t capacity = CAPACITY_FIRST;
    while (capacity / 4 * 3 < count)
        capacity *= 2;
    return capacity;
}

/* The slot of the key, or the free one where it would go. */
static struct map_u64_slot *find_slot(struct map_u64_slot *slots, uint32_t capacity, uint64_t key, uint64_t key2)
{
    uint32_t i = home_of(key, key2, capacity);
    for (uint32_t probes = 0; probes < capacity; probes++) {
        struct map_u64_slot *slot = &slots[i];
        if (slot->value == NULL || (slot->key == key && slot->key2 == key2))
            return slot;
        i = (i + 1) & (capacity - 1);
    }
    assert(false); /* a map is never full */
    return NULL;
}

void map_u64_init(struct map_u64 *map)
{
    assert(map != NULL);
    *map = (struct map_u64){.slots = NULL};
}

void map_u64_close(struct map_u64 *map)
{
    if (map == NULL)
        return;
    assert(map->count <= map->capacity);
    free(map->slots);
    *map = (struct map_u64){.slots = NULL};
}

int map_u64_reserve(struct map_u64 *map, uint32_t count)
{
    assert(map != NULL);
    if (count > MAP_U64_MAX)
        return -ENOSPC;
    uint32_t capacity = capacity_for(count);
    if (capacity <= map->capacity)
        return 0;
    struct map_u64_slot *slots = calloc(capacity, sizeof(*slots));
    if (slots == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < map->capacity; i++) {
        const struct map_u64_slot *old = &map->slots[i];
        if (old->value != NULL)
            *find_slot(slots, capacity, old->key, old->key2) = *old;
    }
    free(map->slots);
    map->slots = slots;
    map->capacity = capacity;
    assert(map->count < map->capacity);
    return 0;
}

void *map_u64_get2(const struct map_u64 *map, uint64_t key, uint64_t key2)
{
    assert(map != NULL);
    if (map->count == 0)
        return NULL;
    return find_slot(map->slots, map->capacity, key, key2)->value;
}

int map_u64_put2(struct map_u64 *map, uint64_t key, uint64_t key2, void *value)
{
    assert(map != NULL);
    assert(value != NULL);
    if (map->capacity > 0) {
        struct map_u64_slot *old = find_slot(map->slots, map->capacity, key, key2);
        if (old->value != NULL) {
            old->value = value;
            return 0;
        }
    }
    int rc = map_u64_reserve(map, map->count + 1);
    if (rc < 0)
        return rc;
    struct map_u64_slot *slot = find_slot(map->slots, map->capacity, key, key2);
    assert(slot->value == NULL);
    *slot = (struct map_u64_slot){.key = key, .key2 = key2, .value = value};
    map->count++;
    return 0;
}

/* Whether an entry whose home is `home`, now at `at`, may move back to `hole`: probing from its home
 * must pass the hole before it comes to where the entry is. */
static bool may_move(uint32_t home, uint32_t hole, uint32_t at, uint32_t mask)
{
    assert(hole != at);
    return ((at - home) & mask) >= ((at - hole) & mask);
}

void *map_u64_remove2(struct map_u64 *map, uint64_t key, uint64_t key2)
{
    assert(map != NULL);
    if (map->count == 0)
        return NULL;
    struct map_u64_slot *found = find_slot(map->slots, map->capacity, key, key2);
    void *value = found->value;
    if (value == NULL)
        return NULL;
    uint32_t mask = map->capacity - 1;
    uint32_t hole = (uint32_t)(found - map->slots);
    assert(hole <= mask);
    for (uint32_t i = (hole + 1) & mask; map->slots[i].value != NULL; i = (i + 1) & mask) {
        uint32_t home = home_of(map->slots[i].key, map->slots[i].key2, map->capacity);
        if (may_move(home, hole, i, mask)) {
            map->slots[hole] = map->slots[i];
            hole = i;
        }
    }
    map->slots[hole] = (struct map_u64_slot){.value = NULL};
    map->count--;
    return value;
}

const struct map_u64_slot *map_u64_next(const struct map_u64 *map, uint32_t *at)
{
    assert(map != NULL);
    assert(at != NULL);
    assert(*at <= map->capacity);
    while (*at < map->capacity) {
        const struct map_u64_slot *slot = &map->slots[(*at)++];
        if (slot->value != NULL)
            return slot;
    }
    return NULL;
}
