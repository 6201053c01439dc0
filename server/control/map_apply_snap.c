/* SPDX-License-Identifier: Apache-2.0 */
/* map_apply_snap: entries about snapshots and clones (R20, I10).
 *
 *             SNAPSHOT_OPEN                last SNAPSHOT_SEALED of the group
 *   (no such) -------------> OPENING ------------------------------------> COMPLETE
 *                               | SNAPSHOT_ABORT                              | SNAPSHOT_DELETE, VOLUME_DELETE
 *                               v                                             v
 *                             (gone)      last clone gone: (gone) <--------- HELD, or gone without clones
 *
 * - SNAPSHOT_OPEN moves the head to the next generation in one entry for all volumes of a group; the number is never used again,
 *   whatever becomes of the snapshot (R3)
 * - SNAPSHOT_SEALED comes from each shard's primary, compare-and-set on its epoch: what it says holds for every later primary
 * - VOLUME_CLONE: shards sit with the in_sync members of the parent's; MEMBER_FULL: one of them needs the parent no more
 *
 * Failure: -ENOENT, -EEXIST, -EBUSY (attached, or a snapshot is being made), -ENOSPC (too many), -EINVAL, -ESTALE, -EMLINK (too
 * many clones of clones).
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "server/control/map.h"
#include "server/control/map_state.h"

/* ---- a snapshot begins, is sealed, ends ---- */

static int open_check(const struct map *map, const struct map_entry *entry)
{
    assert(entry->kind == MAP_ENTRY_SNAPSHOT_OPEN);
    if (entry->volume_count == 0 || !map_name_valid(entry->snapshot))
        return -EINVAL;
    for (uint32_t i = 0; i < entry->volume_count; i++) {
        const struct map_volume *volume = map_find_volume(map, entry->volumes[i]);
        if (i > 0 && entry->volumes[i - 1] >= entry->volumes[i])
            return -EINVAL;
        if (!volume || volume->deleting)
            return -ENOENT;
        if (map_snap_by_name(volume, entry->snapshot))
            return -EEXIST;
        if (map_snap_opening(volume))
            return -EBUSY;
        if (volume->snap_count == MAP_SNAPSHOTS_MAX || volume->generation >= UINT32_MAX / 2)
            return -ENOSPC;
    }
    return 0;
}

void map_apply_snapshot_open(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    result->rc = open_check(map, entry);
    if (result->rc < 0)
        return;
    for (uint32_t i = 0; i < entry->volume_count; i++) {
        struct map_volume *volume = map_find_volume(map, entry->volumes[i]);
        struct map_snap *snap = map_snap_add(volume, volume->generation);
        snap->state = MAP_SNAP_OPENING;
        snap->size = volume->size;
        snap->created_ms = entry->created_ms;
        snap->group = map->applying;
        memcpy(snap->name, entry->snapshot, sizeof snap->name);
        volume->generation++;
        volume->unsealed = volume->shard_count;
        map_touch_snaps(map, volume);
        assert(volume->unsealed > 0);
    }
    result->value = map->applying;
}

/* Every volume of the group is sealed: they are complete together. */
static void complete_group(struct map *map, uint64_t group)
{
    assert(group != 0);
    for (uint32_t i = 0; i < map->volume_count; i++) {
        const struct map_snap *snap = map_snap_opening(map->volumes[i]);
        if (snap && snap->group == group && map->volumes[i]->unsealed > 0)
            return;
    }
    for (uint32_t i = 0; i < map->volume_count; i++) {
        struct map_volume *volume = map->volumes[i];
        const struct map_snap *snap = map_snap_opening(volume);
        if (!snap || snap->group != group)
            continue;
        map_snap_find(volume, snap->generation)->state = MAP_SNAP_COMPLETE;
        map_touch_snaps(map, volume);
    }
}

static uint32_t seal_run(struct map *map, struct map_volume *volume, const struct map_run *run, uint32_t node)
{
    uint32_t changed = 0;
    assert(map->applying != 0);
    for (uint32_t i = run->first; i < volume->shard_count && i - run->first < run->count; i++) {
        struct map_shard *shard = &volume->shards[i];
        if (shard->epoch != run->epoch || shard->active_epoch != run->epoch || shard->primary != node ||
            shard->sealed >= run->generation)
            continue; /* its primary of now says it again */
        shard->sealed = run->generation;
        assert(volume->unsealed > 0);
        volume->unsealed--;
        changed++;
    }
    return changed;
}

void map_apply_snapshot_sealed(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    const struct map_node *node = map_find_node(map, entry->node);
    assert(entry->kind == MAP_ENTRY_SNAPSHOT_SEALED);
    if (!map_node_usable(node) || node->incarnation != entry->incarnation) {
        result->rc = -ESTALE;
        return;
    }
    for (uint32_t i = 0; i < entry->run_count; i++) {
        const struct map_run *run = &entry->runs[i];
        struct map_volume *volume = map_find_volume(map, run->volume);
        const struct map_snap *opening = volume ? map_snap_opening(volume) : NULL;
        if (!opening || opening->generation != run->generation)
            continue;
        uint64_t group = opening->group;
        uint32_t changed = seal_run(map, volume, run, entry->node);
        result->value += changed;
        if (changed > 0)
            map_touch_snaps(map, volume);
        if (changed > 0 && volume->unsealed == 0)
            complete_group(map, group);
    }
}

void map_apply_snapshot_abort(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct map_volume *named = map_find_volume(map, entry->volume);
    const struct map_snap *opening = named ? map_snap_opening(named) : NULL;
    assert(entry->kind == MAP_ENTRY_SNAPSHOT_ABORT);
    if (!opening || opening->generation != entry->generation) {
        result->rc = -ENOENT;
        return;
    }
    uint64_t group = opening->group;
    for (uint32_t i = 0; i < map->volume_count; i++) {
        struct map_volume *volume = map->volumes[i];
        const struct map_snap *snap = map_snap_opening(volume);
        if (!snap || snap->group != group)
            continue;
        map_snap_remove(volume, map_snap_find(volume, snap->generation));
        volume->unsealed = 0;
        map_touch_snaps(map, volume);
    }
    assert(!map_snap_opening(named));
}

/* The complete snapshot that the entry names; NULL and a result when there is none. */
static struct map_snap *entry_snap(const struct map *map, const struct map_entry *entry, struct map_volume **ret_volume,
                                   struct map_result *result)
{
    struct map_volume *volume = map_entry_volume(map, entry);
    const struct map_snap *snap = volume ? map_snap_by_name(volume, entry->snapshot) : NULL;
    assert(result->rc == 0);
    if (!snap)
        result->rc = -ENOENT;
    else if (snap->state != MAP_SNAP_COMPLETE)
        result->rc = -EBUSY;
    *ret_volume = volume;
    return result->rc == 0 ? map_snap_find(volume, snap->generation) : NULL;
}

void map_apply_snapshot_delete(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct map_volume *volume;
    struct map_snap *snap = entry_snap(map, entry, &volume, result);
    assert(entry->kind == MAP_ENTRY_SNAPSHOT_DELETE);
    if (!snap)
        return;
    result->value = snap->generation;
    snap->state = MAP_SNAP_HELD;
    memset(snap->name, 0, sizeof snap->name);
    map_touch_snaps(map, volume);
    map_snap_unneeded(map, volume, snap->generation);
}

/* ---- rollback: a new head whose content is the snapshot's. Every shard gets a new epoch, so that each primary has its members
 * change before it serves again (R7, R11). ---- */
void map_apply_volume_rollback(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct map_volume *volume;
    const struct map_snap *snap = entry_snap(map, entry, &volume, result);
    assert(entry->kind == MAP_ENTRY_VOLUME_ROLLBACK);
    if (!snap)
        return;
    if (map_session_alive(map, volume) || map_snap_opening(volume) || volume->flattening)
        result->rc = -EBUSY;
    else if (volume->generation >= UINT32_MAX / 2)
        result->rc = -ENOSPC;
    for (uint32_t i = 0; result->rc == 0 && volume->rollback.to != 0 && i < volume->shard_count; i++) {
        const struct map_shard *shard = &volume->shards[i];
        if (shard->sealed < volume->rollback.to && shard->active_epoch != shard->epoch)
            result->rc = -EBUSY; /* an earlier one is still being done there */
    }
    if (result->rc < 0)
        return;
    uint32_t former = volume->rollback.from;
    volume->rollback.from = snap->generation;
    volume->rollback.to = ++volume->generation;
    volume->session.number++; /* whoever was attached must not come back to other content */
    volume->session.open = false;
    memset(volume->session.attachment, 0, sizeof volume->session.attachment);
    map_touch_snaps(map, volume);
    for (uint32_t i = 0; i < volume->shard_count; i++) {
        volume->shards[i].epoch++;
        for (uint32_t m = 0; m < volume->shards[i].member_count; m++)
            if (!(volume->shards[i].members[m].flags & MAP_MEMBER_EMPTY))
                volume->shards[i].members[m].flags |= MAP_MEMBER_UNROLLED;
        map_touch_shard(map, volume, &volume->shards[i]);
        map_shard_check(volume, &volume->shards[i]);
    }
    map_snap_unneeded(map, volume, former);
    result->value = volume->generation;
}

/* ---- clones ---- */

static uint32_t base_depth(const struct map *map, const struct map_volume *volume)
{
    uint32_t depth = 0;
    while (volume && volume->base.volume != 0) {
        depth++;
        assert(depth <= MAP_BASE_DEPTH_MAX);
        volume = map_find_volume(map, volume->base.volume);
    }
    return depth;
}

static void clone_shards(struct map *map, struct map_volume *clone, const struct map_volume *parent)
{
    assert(clone->shard_count <= parent->shard_count);
    for (uint32_t i = 0; i < clone->shard_count; i++) {
        const struct map_shard *from = &parent->shards[i];
        struct map_shard *shard = &clone->shards[i];
        for (uint32_t m = 0; m < from->member_count; m++) {
            const struct map_member *member = &from->members[m];
            if (!(member->flags & MAP_MEMBER_IN_SYNC) || (member->flags & MAP_MEMBER_EMPTY))
                continue;
            struct map_member *added = &shard->members[shard->member_count++];
            map_shard_init_member(map, added, map_find_node(map, member->node));
            added->flags = MAP_MEMBER_IN_SYNC | MAP_MEMBER_ELIGIBLE |
                           (member->flags & (uint32_t)(MAP_MEMBER_UNCLEAN | MAP_MEMBER_REBOOTED));
            added->incarnation = added->eligible_incarnation = member->incarnation;
        }
        /* Below min_replicas no epoch is active (R8): its primary parks writes until others were synchronised. */
        shard->epoch = 1;
        shard->active_epoch = shard->member_count >= clone->min_replicas ? 1 : 0;
        shard->primary = map_shard_choose_primary(map, clone, shard);
        map_touch_shard(map, clone, shard);
        map_shard_check(clone, shard);
    }
}

static int clone_check(const struct map *map, const struct map_entry *entry, const struct map_volume *parent,
                       const struct map_snap *snap, uint32_t shards)
{
    assert(parent != NULL && snap != NULL);
    if (!map_name_valid(entry->to_name))
        return -EINVAL;
    if (map_volume_by_name(map, entry->to_name))
        return -EEXIST;
    if (entry->home != 0 && !map_find_node(map, entry->home))
        return -EHOSTDOWN;
    if (base_depth(map, parent) >= MAP_BASE_DEPTH_MAX)
        return -EMLINK;
    if (map->volume_count == MAP_VOLUMES_MAX || shards > MAP_SHARDS_MAX - map->shard_total)
        return -ENOSPC;
    for (uint32_t i = 0; i < shards; i++) { /* somebody must have what the clone reads */
        bool found = false;
        for (uint32_t m = 0; m < parent->shards[i].member_count; m++) {
            uint32_t flags = parent->shards[i].members[m].flags;
            found = found || ((flags & MAP_MEMBER_IN_SYNC) && !(flags & MAP_MEMBER_EMPTY));
        }
        if (!found)
            return -EAGAIN;
    }
    return 0;
}

void map_apply_volume_clone(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct map_volume *parent;
    struct map_snap *snap = entry_snap(map, entry, &parent, result);
    assert(entry->kind == MAP_ENTRY_VOLUME_CLONE);
    if (!snap)
        return;
    uint32_t shards = (uint32_t)((snap->size + parent->shard_bytes - 1) / parent->shard_bytes);
    assert(shards <= parent->shard_count); /* no shrink goes below a snapshot */
    result->rc = clone_check(map, entry, parent, snap, shards);
    if (result->rc < 0)
        return;
    struct map_volume *clone = map_volume_new();
    clone->id = map->next_volume++;
    memcpy(clone->name, entry->to_name, sizeof clone->name);
    clone->size = snap->size;
    clone->shard_bytes = parent->shard_bytes;
    clone->replicas = parent->replicas;
    clone->min_replicas = parent->min_replicas;
    clone->home = entry->home ? entry->home : parent->home;
    clone->generation = 1;
    clone->base.volume = parent->id;
    clone->base.generation = snap->generation;
    snap->holders++;
    map_volume_insert(map, clone);
    map_volume_set_shard_count(map, clone, shards);
    map_touch_snaps(map, parent);
    map_touch_snaps(map, clone);
    clone_shards(map, clone, parent);
    result->value = clone->id;
}

/* True when nothing of the clone is read through its parent any more. */
static bool all_full(const struct map_volume *volume)
{
    assert(volume->base.volume != 0);
    for (uint32_t i = 0; i < volume->shard_count; i++) {
        for (uint32_t m = 0; m < volume->shards[i].member_count; m++) {
            if (!(volume->shards[i].members[m].flags & MAP_MEMBER_FULL))
                return false;
        }
    }
    return true;
}

static void cut_loose(struct map *map, struct map_volume *volume)
{
    uint64_t parent = volume->base.volume;
    uint32_t generation = volume->base.generation;
    assert(parent != 0);
    volume->base.volume = 0;
    volume->base.generation = 0;
    volume->flattening = false;
    map_touch_snaps(map, volume);
    map_snap_release(map, parent, generation);
}

void map_apply_volume_flatten(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct map_volume *volume = map_entry_volume(map, entry);
    assert(entry->kind == MAP_ENTRY_VOLUME_FLATTEN);
    if (!volume)
        result->rc = -ENOENT;
    else if (volume->base.volume == 0)
        result->rc = -EINVAL;
    if (result->rc < 0)
        return;
    result->value = volume->id;
    if (all_full(volume)) {
        cut_loose(map, volume);
        return;
    }
    volume->flattening = true;
    map_touch_snaps(map, volume);
}

void map_apply_member_full(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    const struct map_node *node = map_find_node(map, entry->node);
    assert(entry->kind == MAP_ENTRY_MEMBER_FULL);
    if (!node || node->incarnation != entry->incarnation) {
        result->rc = -ESTALE;
        return;
    }
    for (uint32_t r = 0; r < entry->run_count; r++) {
        const struct map_run *run = &entry->runs[r];
        struct map_volume *volume = map_find_volume(map, run->volume);
        if (!volume || !volume->flattening)
            continue;
        for (uint32_t i = run->first; i < volume->shard_count && i - run->first < run->count; i++) {
            struct map_member *member = map_find_member(&volume->shards[i], entry->node);
            if (!member || (member->flags & MAP_MEMBER_FULL))
                continue;
            member->flags |= MAP_MEMBER_FULL;
            map_touch_shard(map, volume, &volume->shards[i]);
            result->value++;
        }
        if (all_full(volume))
            cut_loose(map, volume);
    }
}

/* A member whose content clones read through must stay with its node until they are gone from there. */
bool map_shard_is_base(const struct map *map, const struct map_shard *shard, uint32_t node)
{
    assert(node != 0);
    for (uint32_t i = 0; i < map->volume_count; i++) {
        const struct map_volume *clone = map->volumes[i];
        if (clone->base.volume != shard->volume || shard->index >= clone->shard_count)
            continue;
        const struct map_member *member = map_member_of(&clone->shards[shard->index], node);
        if (member && !(member->flags & MAP_MEMBER_FULL))
            return true;
    }
    return false;
}
