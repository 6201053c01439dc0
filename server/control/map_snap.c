/* SPDX-License-Identifier: Apache-2.0 */
/* map_snap: a volume's snapshots as objects, and questions about them (R20).
 *
 * - snaps[] ascends by generation and lies below the head; one that is deleted while clones read it stays, HELD and nameless
 * - map_live_generations: what the store must keep readable
 * - map_snap_release: a clone lets go of its parent; what nobody needs any more goes, up the chain of parents
 *
 * Failure: what is not there is NULL. Out of memory ends the process.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/mutant.h"
#include "server/control/map.h"
#include "server/control/map_state.h"

static uint32_t snap_at(const struct map_volume *volume, uint32_t generation)
{
    uint32_t low = 0, high = volume->snap_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (volume->snaps[middle].generation < generation)
            low = middle + 1;
        else
            high = middle;
    }
    assert(low <= volume->snap_count);
    return low;
}

const struct map_snap *map_snap_by_generation(const struct map_volume *volume, uint32_t generation)
{
    assert(volume != NULL);
    uint32_t at = snap_at(volume, generation);
    return at < volume->snap_count && volume->snaps[at].generation == generation ? &volume->snaps[at] : NULL;
}

const struct map_snap *map_snap_by_name(const struct map_volume *volume, const char *name)
{
    assert(volume != NULL);
    assert(name != NULL);
    if (name[0] == '\0')
        return NULL;
    for (uint32_t i = volume->snap_count; i > 0; i--) { /* the newest are asked for most */
        const struct map_snap *snap = &volume->snaps[i - 1];
        if (snap->state != MAP_SNAP_HELD && strncmp(snap->name, name, sizeof snap->name) == 0)
            return snap;
    }
    return NULL;
}

const struct map_snap *map_snap_opening(const struct map_volume *volume)
{
    assert(volume != NULL);
    const struct map_snap *last = volume->snap_count > 0 ? &volume->snaps[volume->snap_count - 1] : NULL;
    return last && last->state == MAP_SNAP_OPENING ? last : NULL;
}

uint32_t map_live_generations(const struct map_volume *volume, uint32_t *ret_generations)
{
    assert(volume != NULL);
    assert(volume->snap_count <= MAP_SNAPSHOTS_MAX);
    uint32_t count = 0;
    for (uint32_t i = 0; i < volume->snap_count; i++)
        if (volume->snaps[i].state != MAP_SNAP_HELD || volume->deleting || !MUTANT(held_snapshot_is_not_live))
            ret_generations[count++] = volume->snaps[i].generation;
    if (!volume->deleting)
        ret_generations[count++] = volume->generation;
    return count;
}

uint32_t map_live_heir(const struct map_volume *volume, uint32_t generation)
{
    assert(volume != NULL);
    assert(generation > 0 && generation <= volume->generation);
    uint32_t at = snap_at(volume, generation);
    if (at < volume->snap_count)
        return volume->snaps[at].generation;
    return volume->deleting ? 0 : volume->generation;
}

uint32_t map_shard_floor(const struct map_volume *volume, const struct map_shard *shard)
{
    const struct map_snap *opening = map_snap_opening(volume);
    assert(shard->volume == volume->id);
    if (opening && shard->sealed < opening->generation)
        return opening->generation;
    return volume->generation;
}

struct map_snap *map_snap_find(struct map_volume *volume, uint32_t generation)
{
    return (struct map_snap *)(uintptr_t)map_snap_by_generation(volume, generation);
}

struct map_snap *map_snap_add(struct map_volume *volume, uint32_t generation)
{
    assert(volume->snap_count < MAP_SNAPSHOTS_MAX);
    assert(volume->snap_count == 0 || volume->snaps[volume->snap_count - 1].generation < generation);
    struct map_volume_box *box = map_volume_box(volume);
    if (volume->snap_count == box->snap_capacity) {
        box->snap_capacity = box->snap_capacity ? box->snap_capacity * 2 : 8;
        volume->snaps = map_realloc(volume->snaps, box->snap_capacity * sizeof(volume->snaps[0]));
    }
    struct map_snap *snap = &volume->snaps[volume->snap_count++];
    memset(snap, 0, sizeof *snap);
    snap->generation = generation;
    return snap;
}

void map_snap_remove(struct map_volume *volume, struct map_snap *snap)
{
    uint32_t at = (uint32_t)(snap - volume->snaps);
    assert(at < volume->snap_count);
    assert(snap->holders == 0);
    memmove(snap, snap + 1, (volume->snap_count - at - 1) * sizeof *snap);
    volume->snap_count--;
}

/* A member that has not rolled back yet, or not for good, still makes its new head from that generation. */
static bool rollback_needs(const struct map_volume *volume, uint32_t generation)
{
    assert(volume != NULL);
    assert(generation > 0);
    if (volume->rollback.from != generation || volume->deleting)
        return false;
    for (uint32_t i = 0; i < volume->shard_count; i++)
        for (uint32_t m = 0; m < volume->shards[i].member_count; m++)
            if (volume->shards[i].members[m].flags & MAP_MEMBER_UNROLLED)
                return true;
    return false;
}

void map_snap_unneeded(struct map *map, struct map_volume *volume, uint32_t generation)
{
    struct map_snap *snap = map_snap_find(volume, generation);
    assert(map->applying != 0);
    if (!snap || snap->state != MAP_SNAP_HELD || snap->holders > 0 || rollback_needs(volume, generation))
        return;
    map_snap_remove(volume, snap);
    map_touch_snaps(map, volume);
}

void map_touch_snaps(struct map *map, struct map_volume *volume)
{
    assert(map->applying != 0);
    volume->snaps_version = map->applying;
    map_touch_volume(map, volume);
    assert(volume->changed_version == map->applying);
}

/* Nobody sees the volume any more: its own end, unless clones read its snapshots. */
void map_volume_bury(struct map *map, struct map_volume *volume)
{
    assert(map->applying != 0);
    for (uint32_t i = volume->snap_count; i > 0; i--) {
        struct map_snap *snap = &volume->snaps[i - 1];
        snap->state = MAP_SNAP_HELD;
        memset(snap->name, 0, sizeof snap->name);
        if (snap->holders == 0)
            map_snap_remove(volume, snap);
    }
    if (volume->snap_count > 0) {
        volume->deleting = true;
        volume->flattening = false;
        volume->unsealed = 0;
        memset(volume->name, 0, sizeof volume->name);
        volume->session.open = false;
        volume->session.number++; /* fences whoever had it (I6) */
        memset(volume->session.attachment, 0, sizeof volume->session.attachment);
        map_touch_snaps(map, volume);
        return;
    }
    uint64_t parent = volume->base.volume;
    uint32_t generation = volume->base.generation;
    if (map->observer.volume_removed)
        map->observer.volume_removed(map->observer.arg, volume->id);
    map_volume_remove(map, volume);
    if (parent != 0)
        map_snap_release(map, parent, generation);
}

/* One clone less reads that snapshot. Depth: at most MAP_BASE_DEPTH_MAX volumes. */
void map_snap_release(struct map *map, uint64_t volume_id, uint32_t generation)
{
    struct map_volume *volume = map_find_volume(map, volume_id);
    assert(volume != NULL);
    struct map_snap *snap = map_snap_find(volume, generation);
    assert(snap != NULL && snap->holders > 0);
    snap->holders--;
    map_snap_unneeded(map, volume, generation);
    if (volume->deleting && volume->snap_count == 0)
        map_volume_bury(map, volume);
    else
        map_touch_snaps(map, volume);
}
