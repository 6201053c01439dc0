/* SPDX-License-Identifier: Apache-2.0 */
/* map_apply_node: entries about nodes: register, down, out, remove, store failed.
 *
 * - NODE_REGISTER gives a new incarnation; in each shard of the node the older incarnation is lost (R1), how it
 *   stopped is noted, and a shard whose last electable member came back elects at once (R18)
 * - NODE_DOWN and STORE_FAILED lose the node's members; cost: one pass over the shards, a change only in its own
 *
 * Failure: -ESTALE (another incarnation is registered), -EEXIST (the id belongs to another store that is up),
 * -ENOENT, -EBUSY (node to remove still holds members or is up), -EINVAL, -ENOSPC (too many nodes).
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/control/map.h"
#include "server/control/map_state.h"

typedef void member_fn(struct map *map, struct map_volume *volume, struct map_shard *shard, struct map_member *member);

static uint32_t each_member_of(struct map *map, uint32_t node, member_fn *fn)
{
    uint32_t count = 0;
    assert(node != 0);
    for (uint32_t v = 0; v < map->volume_count; v++) {
        struct map_volume *volume = map->volumes[v];
        for (uint32_t s = 0; s < volume->shard_count; s++) {
            struct map_member *member = map_find_member(&volume->shards[s], node);
            if (!member)
                continue;
            count++;
            if (fn)
                fn(map, volume, &volume->shards[s], member);
        }
    }
    assert(count <= map->shard_total);
    return count;
}

static void note_stop(struct map *map, const struct map_volume *volume, struct map_shard *shard,
                      struct map_member *member, uint8_t stop)
{
    uint32_t in_sync = member->flags & MAP_MEMBER_IN_SYNC;
    assert(stop <= MAP_STOP_EMPTY);
    if (stop == MAP_STOP_SAME_BOOT)
        member->flags |= MAP_MEMBER_UNCLEAN;
    if (stop == MAP_STOP_REBOOTED)
        member->flags |= MAP_MEMBER_REBOOTED;
    if (stop != MAP_STOP_EMPTY)
        return;
    member->flags |= MAP_MEMBER_EMPTY;
    member->flags &= ~(uint32_t)(MAP_MEMBER_ELIGIBLE | MAP_MEMBER_UNROLLED);
    member->e_r = 0;
    if (volume->base.volume != 0)
        member->flags |= MAP_MEMBER_FULL; /* the parent's content went, too */
    if (!in_sync) /* starts with no history (R3); if in_sync still names it, its loss is on record */
        member->instance = map->next_instance++;
    assert(map_in_sync_count(shard) >= 1);
}

static void member_registered(struct map *map, struct map_volume *volume, struct map_shard *shard,
                              struct map_member *member)
{
    assert(map != NULL);
    const struct map_node *node = map_find_node(map, member->node);
    bool has_data = (member->flags & (MAP_MEMBER_IN_SYNC | MAP_MEMBER_ELIGIBLE)) != 0;
    assert(node->incarnation != member->incarnation);
    if (!has_data && node->stop != MAP_STOP_EMPTY)
        return;
    map_shard_lose(map, volume, shard, member);
    note_stop(map, volume, shard, member, node->stop);
    map_touch_shard(map, volume, shard);
    if (shard->primary == 0 && map_shard_electable_all_up(map, shard))
        (void)map_shard_elect(map, volume, shard);
    map_shard_check(volume, shard);
}

static struct map_node *node_insert(struct map *map, uint32_t id)
{
    assert(map != NULL);
    uint32_t at = map->node_count;
    assert(map->node_count < MAP_NODES_MAX);
    while (at > 0 && map->nodes[at - 1]->id > id) {
        map->nodes[at] = map->nodes[at - 1];
        at--;
    }
    map->nodes[at] = map_alloc(sizeof *map->nodes[at]);
    map->nodes[at]->id = id;
    map->node_count++;
    return map->nodes[at];
}

void map_apply_node_register(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    assert(map != NULL);
    struct map_node *node = map_find_node(map, entry->node);
    const struct map_node *info = &entry->node_info;
    bool other_store = node && memcmp(node->store_uuid, info->store_uuid, sizeof info->store_uuid) != 0;
    assert(entry->kind == MAP_ENTRY_NODE_REGISTER);
    if (entry->node == 0 || entry->node > MAP_NODES_MAX || info->stop > MAP_STOP_EMPTY)
        result->rc = -EINVAL;
    else if (node && entry->incarnation != 0 && entry->incarnation != node->incarnation)
        result->rc = -ESTALE;
    else if (other_store && node->up)
        result->rc = -EEXIST;
    else if (!node && map->node_count == MAP_NODES_MAX)
        result->rc = -ENOSPC;
    if (result->rc < 0)
        return;
    bool first = node == NULL;
    if (first)
        node = node_insert(map, entry->node);
    *node = *info;
    node->id = entry->node;
    node->up = true;
    node->store_failed = node->out = false;
    node->incarnation = map->next_incarnation++;
    if (other_store)
        node->stop = MAP_STOP_EMPTY;
    map_touch_node(map, node);
    if (!first)
        (void)each_member_of(map, node->id, member_registered);
    result->value = node->incarnation;
}

static struct map_node *cas_node(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct map_node *node = map_find_node(map, entry->node);
    assert(result->rc == 0);
    if (!node)
        result->rc = -ENOENT;
    else if (node->incarnation != entry->incarnation)
        result->rc = -ESTALE; /* R4 */
    assert(result->rc <= 0);
    return result->rc == 0 ? node : NULL;
}

void map_apply_node_down(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    assert(map != NULL);
    struct map_node *node = cas_node(map, entry, result);
    assert(entry->kind == MAP_ENTRY_NODE_DOWN);
    if (!node || !node->up)
        return;
    node->up = false;
    map_touch_node(map, node);
    (void)each_member_of(map, node->id, map_shard_lose);
}

void map_apply_store_failed(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    assert(map != NULL);
    struct map_node *node = cas_node(map, entry, result);
    assert(entry->kind == MAP_ENTRY_STORE_FAILED);
    if (!node || node->store_failed)
        return;
    node->store_failed = true;
    map_touch_node(map, node);
    (void)each_member_of(map, node->id, map_shard_lose);
}

void map_apply_node_out(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    assert(map != NULL);
    struct map_node *node = cas_node(map, entry, result);
    assert(entry->kind == MAP_ENTRY_NODE_OUT);
    if (!node)
        return;
    if (map_node_usable(node) && !(entry->flags & MAP_FORCE)) {
        result->rc = -EBUSY; /* it came back meanwhile; the operator may still drain it */
        return;
    }
    node->out = true;
    map_touch_node(map, node);
}

void map_apply_node_remove(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    const struct map_node *node = map_find_node(map, entry->node);
    assert(entry->kind == MAP_ENTRY_NODE_REMOVE);
    if (!node)
        result->rc = -ENOENT;
    else if (node->up || each_member_of(map, node->id, /* fn= */ NULL) > 0)
        result->rc = -EBUSY;
    if (result->rc < 0)
        return;
    uint32_t at = 0;
    while (map->nodes[at] != node)
        at++;
    assert(at < map->node_count);
    free(map->nodes[at]);
    map->node_count--;
    memmove(&map->nodes[at], &map->nodes[at + 1], (map->node_count - at) * sizeof(map->nodes[0]));
}
