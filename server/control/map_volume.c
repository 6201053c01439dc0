/* SPDX-License-Identifier: Apache-2.0 */
/* map_volume: volumes as objects: made, put into the map, resized, freed.
 *
 * - ids only grow (R3), so a new volume is the last of the sorted array
 * - shards live in one array a volume; its hashes in a second one
 *
 * Failure: out of memory ends the process.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "server/control/map_state.h"

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

/* Zeroed memory for an array. The shards of a large volume are tens of megabytes, and their first touch page by page
 * is most of the time it takes to create it: huge pages where the kernel has them. */
static void *array_alloc(size_t bytes)
{
    assert(bytes > 0);
    if (bytes < 2 * HUGE_PAGE_BYTES)
        return map_alloc(bytes);
    size_t rounded = (bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    void *memory = aligned_alloc(HUGE_PAGE_BYTES, rounded);
    assert(memory != NULL && "out of memory for the cluster map");
    (void)madvise(memory, rounded, MADV_HUGEPAGE);
    memset(memory, 0, bytes);
    return memory;
}

static void *array_resize(void *old, size_t item_bytes, uint32_t old_count, uint32_t count)
{
    void *fresh = array_alloc(count * item_bytes);
    assert(old_count == 0 || old != NULL);
    if (old_count > 0)
        memcpy(fresh, old, (old_count < count ? old_count : count) * item_bytes);
    free(old);
    return fresh;
}

struct map_volume *map_volume_new(void)
{
    struct map_volume_box *box = map_alloc(sizeof *box);
    _Static_assert(offsetof(struct map_volume_box, volume) == 0, "a volume is its box");
    return &box->volume;
}

void map_volume_free(struct map_volume *volume)
{
    if (!volume)
        return;
    free(map_volume_box(volume)->hashes);
    free(volume->snaps);
    free(volume->shards);
    free(map_volume_box(volume));
}

void map_volume_insert(struct map *map, struct map_volume *volume)
{
    assert(map->volume_count < MAP_VOLUMES_MAX);
    assert(map->volume_count == 0 || map->volumes[map->volume_count - 1]->id < volume->id);
    if (map->volume_count == map->volume_capacity) {
        map->volume_capacity = map->volume_capacity ? map->volume_capacity * 2 : 16;
        map->volumes = map_realloc(map->volumes, map->volume_capacity * sizeof(map->volumes[0]));
    }
    map->volumes[map->volume_count++] = volume;
}

void map_volume_remove(struct map *map, struct map_volume *volume)
{
    uint32_t i = 0;
    map_touch_forget(map, volume);
    while (i < map->volume_count && map->volumes[i] != volume)
        i++;
    assert(i < map->volume_count);
    assert(map->shard_total >= volume->shard_count);
    map->shard_total -= volume->shard_count;
    memmove(&map->volumes[i], &map->volumes[i + 1], (map->volume_count - i - 1) * sizeof(map->volumes[0]));
    map->volume_count--;
    map_volume_free(volume);
}

void map_volume_set_shard_count(struct map *map, struct map_volume *volume, uint32_t count)
{
    struct map_volume_box *box = map_volume_box(volume);
    uint32_t old = volume->shard_count;
    assert(count > 0);
    assert(map->shard_total - old + count <= MAP_SHARDS_MAX);
    if (count != old) {
        volume->shards = array_resize(volume->shards, sizeof(volume->shards[0]), old, count);
        box->hashes = array_resize(box->hashes, sizeof(box->hashes[0]), old, count);
    }
    for (uint32_t i = old; i < count; i++) {
        volume->shards[i].volume = volume->id;
        volume->shards[i].index = i;
    }
    for (uint32_t i = 0; count < old && i < count; i++)
        box->hashes[i] = 0;
    if (count < old) { /* the sum still holds the removed ones: start over */
        box->hash_sum = 0;
        box->hashed_version = 0;
    }
    map->shard_total += (uint64_t)count - old;
    volume->shard_count = count;
}
