/* SPDX-License-Identifier: Apache-2.0 */
/* map_query: everything that only reads a map.
 *
 * - nodes and volumes are found by binary search over their ids, names by a scan
 * - liveness: a member is live when its node is up with the incarnation that was made in_sync (R1)
 *
 * Failure: what is not there is NULL, false or 0.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/mutant.h"
#include "server/control/map.h"
#include "server/control/map_state.h"

uint64_t map_version(const struct map *map)
{
    assert(map != NULL);
    return map->version;
}

uint64_t map_cluster_id(const struct map *map)
{
    assert(map != NULL);
    return map->cluster_id;
}

uint32_t map_feature_level(const struct map *map)
{
    assert(map != NULL);
    return map->feature_level;
}

uint32_t map_node_count(const struct map *map)
{
    assert(map != NULL);
    return map->node_count;
}

struct map_node *map_find_node(const struct map *map, uint32_t id)
{
    assert(map != NULL);
    uint32_t low = 0, high = map->node_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (map->nodes[middle]->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    assert(low <= map->node_count);
    return low < map->node_count && map->nodes[low]->id == id ? map->nodes[low] : NULL;
}

struct map_volume *map_find_volume(const struct map *map, uint64_t id)
{
    assert(map != NULL);
    uint32_t low = 0, high = map->volume_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (map->volumes[middle]->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    assert(low <= map->volume_count);
    return low < map->volume_count && map->volumes[low]->id == id ? map->volumes[low] : NULL;
}

struct map_volume *map_entry_volume(const struct map *map, const struct map_entry *entry)
{
    assert(map != NULL);
    assert(entry != NULL);
    struct map_volume *found = entry->volume != 0 ? map_find_volume(map, entry->volume) : NULL;
    for (uint32_t i = 0; entry->volume == 0 && !found && i < map->volume_count; i++) {
        if (strcmp(map->volumes[i]->name, entry->name) == 0)
            found = map->volumes[i];
    }
    return found && !found->deleting ? found : NULL;
}

struct map_shard *map_find_shard(const struct map *map, uint64_t volume, uint32_t shard, struct map_volume **ret_volume)
{
    struct map_volume *found = map_find_volume(map, volume);
    if (!found || shard >= found->shard_count)
        return NULL;
    assert(found->shards[shard].index == shard);
    assert(found->shards[shard].volume == volume);
    if (ret_volume)
        *ret_volume = found;
    return &found->shards[shard];
}

struct map_member *map_find_member(struct map_shard *shard, uint32_t node)
{
    assert(shard != NULL);
    assert(shard->member_count <= MAP_MEMBERS_MAX);
    for (uint32_t i = 0; i < shard->member_count; i++) {
        if (shard->members[i].node == node)
            return &shard->members[i];
    }
    return NULL;
}

const struct map_node *map_node_by_id(const struct map *map, uint32_t id)
{
    assert(map != NULL);
    return map_find_node(map, id);
}

const struct map_volume *map_volume_by_id(const struct map *map, uint64_t id)
{
    assert(map != NULL);
    return map_find_volume(map, id);
}

const struct map_volume *map_volume_by_name(const struct map *map, const char *name)
{
    assert(map != NULL);
    for (uint32_t i = 0; i < map->volume_count; i++) {
        if (strncmp(map->volumes[i]->name, name, MAP_NAME_MAX) == 0 && !map->volumes[i]->deleting)
            return map->volumes[i];
    }
    return NULL;
}

bool map_session_alive(const struct map *map, const struct map_volume *volume)
{
    assert(map != NULL);
    const struct map_node *gateway = map_find_node(map, volume->session.gateway);
    assert(volume->session.open || volume->session.number < UINT64_MAX);
    return volume->session.open && gateway && gateway->up &&
           gateway->incarnation == volume->session.gateway_incarnation;
}

const struct map_shard *map_shard_at(const struct map *map, uint64_t volume, uint32_t shard)
{
    assert(map != NULL);
    return map_find_shard(map, volume, shard, /* ret_volume= */ NULL);
}

void map_each_node(const struct map *map, void (*fn)(void *arg, const struct map_node *node), void *arg)
{
    assert(map != NULL);
    for (uint32_t i = 0; i < map->node_count; i++)
        fn(arg, map->nodes[i]);
}

void map_each_volume(const struct map *map, void (*fn)(void *arg, const struct map_volume *volume), void *arg)
{
    assert(map != NULL);
    for (uint32_t i = 0; i < map->volume_count; i++)
        fn(arg, map->volumes[i]);
}

const struct map_member *map_member_of(const struct map_shard *shard, uint32_t node)
{
    assert(shard != NULL);
    assert(shard->member_count <= MAP_MEMBERS_MAX);
    for (uint32_t i = 0; i < shard->member_count; i++) {
        if (shard->members[i].node == node)
            return &shard->members[i];
    }
    return NULL;
}

uint32_t map_in_sync_count(const struct map_shard *shard)
{
    assert(shard != NULL);
    uint32_t count = 0;
    assert(shard->member_count <= MAP_MEMBERS_MAX);
    for (uint32_t i = 0; i < shard->member_count; i++)
        count += (shard->members[i].flags & MAP_MEMBER_IN_SYNC) != 0;
    return count;
}

bool map_node_usable(const struct map_node *node)
{
    return node && node->up && !node->store_failed;
}

bool map_member_live(const struct map *map, const struct map_member *member)
{
    assert(map != NULL);
    assert(member != NULL);
    const struct map_node *node = map_find_node(map, member->node);
    if (!map_node_usable(node))
        return false;
    return !(member->flags & MAP_MEMBER_IN_SYNC) || node->incarnation == member->incarnation;
}

bool map_member_electable(const struct map *map, const struct map_member *member)
{
    assert(map != NULL);
    assert(member != NULL);
    if (!(member->flags & (MAP_MEMBER_IN_SYNC | MAP_MEMBER_ELIGIBLE)) && !MUTANT(anybody_is_electable))
        return false;
    if (member->flags & MAP_MEMBER_EMPTY)
        return false;
    return map_node_usable(map_find_node(map, member->node));
}
