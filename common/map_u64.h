/* SPDX-License-Identifier: Apache-2.0 */
/* map_u64: hash map from one or two 64-bit keys to a non-NULL pointer.
 *
 * Concept: open addressing with linear probing, no tombstones (a removal shifts its followers back), so that
 *   lookups stay short however long the map lives. One map uses either one key or two, throughout. The order of
 *   map_u64_next depends on the history of calls alone: the same calls give the same order.
 * Threading: the owner's. Errors: put and reserve may give -ENOMEM, -ENOSPC above MAP_U64_MAX entries; after
 *   map_u64_reserve(n), no put fails while there are at most n entries.
 * Ownership: values are the caller's; close frees the table only.
 */
#ifndef ASHLAR_COMMON_MAP_U64_H
#define ASHLAR_COMMON_MAP_U64_H

#include <stdint.h>

#define MAP_U64_MAX (1u << 28)

struct map_u64_slot {
    uint64_t key, key2;
    void *value; /* NULL: free */
};

struct map_u64 {
    /* read-only */
    uint32_t count;
    /* private */
    uint32_t capacity; /* 0 or a power of two */
    struct map_u64_slot *slots;
};

void map_u64_init(struct map_u64 *map);
void map_u64_close(struct map_u64 *map);
int map_u64_reserve(struct map_u64 *map, uint32_t count);

void *map_u64_get2(const struct map_u64 *map, uint64_t key, uint64_t key2);      /* NULL: not there */
int map_u64_put2(struct map_u64 *map, uint64_t key, uint64_t key2, void *value); /* replaces */
void *map_u64_remove2(struct map_u64 *map, uint64_t key, uint64_t key2);         /* the value that was there, or NULL */

static inline void *map_u64_get(const struct map_u64 *map, uint64_t key)
{
    return map_u64_get2(map, key, 0);
}
static inline int map_u64_put(struct map_u64 *map, uint64_t key, void *value)
{
    return map_u64_put2(map, key, 0, value);
}
static inline void *map_u64_remove(struct map_u64 *map, uint64_t key)
{
    return map_u64_remove2(map, key, 0);
}

/* Walk: for (uint32_t at = 0; (slot = map_u64_next(&map, &at));). The map must not change during the walk. */
const struct map_u64_slot *map_u64_next(const struct map_u64 *map, uint32_t *at);

#endif
