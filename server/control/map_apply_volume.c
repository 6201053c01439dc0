/* SPDX-License-Identifier: Apache-2.0 */
/* map_apply_volume: entries about volumes and their sessions.
 *
 * - VOLUME_CREATE places every shard; all members are in_sync and eligible in the active epoch 1: nothing was ever
 *   written, so there is nothing to take over
 * - SESSION_OPEN numbers attachments; a newer number fences older ones (R19, I6)
 *
 * Failure: -EEXIST, -ENOENT, -EINVAL, -ENOSPC (not enough nodes on distinct hosts, or too many shards), -EBUSY (attached
 * elsewhere), -EPERM (fenced), -ESTALE (not the newest session, or the gateway registered again).
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/control/map.h"
#include "server/control/map_state.h"

#define SHARD_BYTES_UNIT (16ull << 20) /* a region: the unit of dirty marks */
#define VOLUME_BYTES_MAX ((uint64_t)MAP_SHARDS_MAX * MAP_SHARD_BYTES_DEFAULT)

bool map_name_valid(const char name[MAP_NAME_MAX])
{
    size_t len = strnlen(name, MAP_NAME_MAX);
    assert(len < MAP_NAME_MAX);
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && (i == 0 || (c != '.' && c != '_' && c != '-')))
            return false;
    }
    return len > 0;
}

static bool size_valid(uint64_t size)
{
    return size > 0 && size % 4096 == 0 && size <= VOLUME_BYTES_MAX;
}

static int create_check(const struct map *map, const struct map_entry *entry, uint64_t shard_bytes)
{
    assert(map != NULL);
    assert(entry != NULL);
    if (!map_name_valid(entry->name) || !size_valid(entry->size))
        return -EINVAL;
    if (shard_bytes % SHARD_BYTES_UNIT != 0 || shard_bytes > MAP_SHARD_BYTES_DEFAULT)
        return -EINVAL;
    if (entry->replicas < 1 || entry->replicas > MAP_REPLICAS_MAX)
        return -EINVAL;
    if (entry->min_replicas < 1 || entry->min_replicas > entry->replicas)
        return -EINVAL;
    if (map_volume_by_name(map, entry->name))
        return -EEXIST;
    if (entry->home != 0 && !map_find_node(map, entry->home))
        return -ENOENT;
    uint64_t shards = (entry->size + shard_bytes - 1) / shard_bytes;
    if (map->volume_count == MAP_VOLUMES_MAX || shards > MAP_SHARDS_MAX - map->shard_total)
        return -ENOSPC;
    return 0;
}

/* Members and epoch of new shards [from, shard_count). Returns false when one can't be placed. */
static bool place_shards(struct map *map, struct map_volume *volume, uint32_t from, const struct map_entry *entry)
{
    assert(map != NULL);
    struct placement placement;
    placement_init(&placement, map, entry->weights, entry->weight_count);
    for (uint32_t i = from; i < volume->shard_count; i++) {
        struct map_shard *shard = &volume->shards[i];
        uint32_t nodes[MAP_REPLICAS_MAX];
        uint32_t placed = placement_choose(&placement, volume->id, i, volume->replicas, volume->home,
                                           /* exclude= */ NULL, 0, nodes);
        assert(placed <= volume->replicas);
        if (placed < volume->replicas)
            return false;
        for (uint32_t n = 0; n < placed; n++) {
            const struct map_node *node = map_find_node(map, nodes[n]);
            struct map_member *member = &shard->members[n];
            map_shard_init_member(map, member, node);
            member->flags = MAP_MEMBER_IN_SYNC | MAP_MEMBER_ELIGIBLE;
            member->incarnation = member->eligible_incarnation = node->incarnation;
            if (volume->base.volume != 0)
                member->flags |= MAP_MEMBER_FULL; /* of a clone that grew: its parent's snapshot ends before it */
        }
        shard->member_count = placed;
        shard->epoch = shard->active_epoch = 1;
        shard->sealed = volume->generation - 1; /* nothing older was ever written here */
        shard->primary = map_shard_choose_primary(map, volume, shard);
        map_touch_shard(map, volume, shard);
        map_shard_check(volume, shard);
    }
    return true;
}

void map_apply_volume_create(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    uint64_t shard_bytes = entry->shard_bytes ? entry->shard_bytes : MAP_SHARD_BYTES_DEFAULT;
    assert(entry->kind == MAP_ENTRY_VOLUME_CREATE);
    result->rc = create_check(map, entry, shard_bytes);
    if (result->rc < 0)
        return;
    uint32_t probe[MAP_REPLICAS_MAX];
    if (map_place(map, map->next_volume, 0, entry->replicas, entry->home, entry->weights, entry->weight_count,
                  /* exclude= */ NULL, 0, probe) < entry->replicas) {
        result->rc = -ENOSPC; /* which nodes there are does not depend on the shard */
        return;
    }
    struct map_volume *volume = map_volume_new();
    volume->id = map->next_volume++;
    memcpy(volume->name, entry->name, sizeof volume->name);
    volume->size = entry->size;
    volume->shard_bytes = shard_bytes;
    volume->replicas = entry->replicas;
    volume->min_replicas = entry->min_replicas;
    volume->home = entry->home;
    volume->generation = 1;
    volume->snaps_version = map->applying;
    map_volume_insert(map, volume);
    map_volume_set_shard_count(map, volume, (uint32_t)((entry->size + shard_bytes - 1) / shard_bytes));
    map_touch_volume(map, volume);
    bool placed = place_shards(map, volume, 0, entry);
    assert(placed);
    result->value = volume->id;
}

void map_apply_volume_delete(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct map_volume *volume = map_entry_volume(map, entry);
    assert(entry->kind == MAP_ENTRY_VOLUME_DELETE);
    if (!volume)
        result->rc = -ENOENT;
    else if (map_session_alive(map, volume) && !(entry->flags & MAP_FORCE))
        result->rc = -EBUSY;
    if (result->rc < 0)
        return;
    result->value = volume->id;
    assert(map->change_count == 0);
    map_volume_bury(map, volume);
}

/* A shrink must end at a shard border: what is cut off and grown again later has new shard instances and reads zero. */
static int shrink_check(const struct map *map, const struct map_volume *volume, const struct map_entry *entry)
{
    assert(volume != NULL);
    assert(entry->size < volume->size);
    if (!(entry->flags & MAP_FORCE) || entry->size % volume->shard_bytes != 0)
        return -EINVAL;
    if (map_session_alive(map, volume))
        return -EBUSY;
    for (uint32_t i = 0; i < volume->snap_count; i++) {
        if (volume->snaps[i].size > entry->size)
            return -ENOTEMPTY; /* a snapshot still needs what would be cut off */
    }
    return 0;
}

void map_apply_volume_resize(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct map_volume *volume = map_entry_volume(map, entry);
    assert(entry->kind == MAP_ENTRY_VOLUME_RESIZE);
    if (!volume) {
        result->rc = -ENOENT;
        return;
    }
    if (!size_valid(entry->size))
        result->rc = -EINVAL;
    else if (entry->size < volume->size)
        result->rc = shrink_check(map, volume, entry);
    if (result->rc < 0)
        return;
    uint64_t shards = (entry->size + volume->shard_bytes - 1) / volume->shard_bytes;
    uint32_t old = volume->shard_count, probe[MAP_REPLICAS_MAX];
    if (shards > old && shards - old > MAP_SHARDS_MAX - map->shard_total) {
        result->rc = -ENOSPC;
    } else if (shards > old && map_place(map, volume->id, old, volume->replicas, volume->home, entry->weights,
                                         entry->weight_count, /* exclude= */ NULL, 0, probe) < volume->replicas) {
        result->rc = -ENOSPC;
    }
    if (result->rc < 0)
        return;
    map_volume_set_shard_count(map, volume, (uint32_t)shards);
    if (shards < old && map->observer.shards_cut)
        map->observer.shards_cut(map->observer.arg, volume->id, (uint32_t)shards, old);
    volume->size = entry->size;
    map_touch_volume(map, volume);
    bool placed = place_shards(map, volume, old, entry);
    assert(placed);
    map_volume_box(volume)->shards_changed = map->applying;
    result->value = volume->id;
}

void map_apply_volume_set(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct map_volume *volume = map_entry_volume(map, entry);
    assert(entry->kind == MAP_ENTRY_VOLUME_SET);
    if (!volume) {
        result->rc = -ENOENT;
        return;
    }
    uint32_t replicas = entry->replicas ? entry->replicas : volume->replicas;
    uint32_t min_replicas = entry->min_replicas ? entry->min_replicas : volume->min_replicas;
    bool set_home = (entry->flags & MAP_SET_HOME) != 0;
    if (replicas > MAP_REPLICAS_MAX || min_replicas > replicas)
        result->rc = -EINVAL;
    else if (set_home && entry->home != 0 && !map_find_node(map, entry->home))
        result->rc = -ENOENT;
    if (result->rc < 0)
        return;
    volume->replicas = replicas;
    volume->min_replicas = min_replicas;
    for (uint32_t i = 0; i < volume->shard_count; i++) {
        struct map_shard *shard = &volume->shards[i];
        if (shard->active_epoch < shard->epoch || map_in_sync_count(shard) >= min_replicas)
            continue;
        shard->epoch++; /* no epoch below min_replicas is active (R8): a new one, in which writes wait */
        map_touch_shard(map, volume, shard);
        map_shard_check(volume, shard);
    }
    if (set_home)
        volume->home = entry->home;
    map_touch_volume(map, volume);
    assert(volume->min_replicas >= 1);
    result->value = volume->id;
}

void map_apply_session_open(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct map_volume *volume = map_entry_volume(map, entry);
    const struct map_node *gateway = map_find_node(map, entry->node);
    assert(entry->kind == MAP_ENTRY_SESSION_OPEN);
    if (!volume) {
        result->rc = -ENOENT;
        return;
    }
    struct map_session *session = &volume->session;
    bool same = memcmp(session->attachment, entry->attachment, sizeof session->attachment) == 0;
    if (!gateway || !gateway->up || gateway->incarnation != entry->incarnation)
        result->rc = -ESTALE;
    else if (!same && (entry->flags & MAP_SESSION_FAILOVER))
        result->rc = -EPERM; /* somebody else had it meanwhile: fenced, also when that one has left again (I6) */
    else if (!same && map_session_alive(map, volume) && !(entry->flags & MAP_SESSION_FORCE))
        result->rc = -EBUSY;
    if (result->rc < 0)
        return;
    session->continued = same && session->number > 0;
    session->number++;
    memcpy(session->attachment, entry->attachment, sizeof session->attachment);
    session->gateway = entry->node;
    session->gateway_incarnation = entry->incarnation;
    session->open = true;
    session->read_only = (entry->flags & MAP_SESSION_READ_ONLY) != 0;
    map_touch_volume(map, volume);
    assert(session->number > 0);
    result->value = session->number;
}

void map_apply_session_close(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    assert(map != NULL);
    struct map_volume *volume = map_entry_volume(map, entry);
    bool force = (entry->flags & MAP_SESSION_FORCE) != 0;
    assert(entry->kind == MAP_ENTRY_SESSION_CLOSE);
    if (!volume)
        result->rc = -ENOENT;
    else if (!force && volume->session.number != entry->session)
        result->rc = -ESTALE;
    if (result->rc < 0)
        return;
    if (force) { /* fences whoever holds it (I6): his attachment does not come back */
        volume->session.number++;
        memset(volume->session.attachment, 0, sizeof volume->session.attachment);
    }
    volume->session.open = false;
    map_touch_volume(map, volume);
    result->value = volume->session.number;
}
