/* SPDX-License-Identifier: Apache-2.0 */
/* map: the state machine's frame: apply, exactly-once results, observers (docs/internals/map.md).
 *
 * - map_apply decodes the bytes of a committed entry
 * - a request id seen before gives the remembered result and changes nothing
 * - the table `kinds` hands the entry to its map_apply_<what> function
 * - what that function touched is told to the observer, nodes before volumes before shards
 *
 * Failure: bytes that do not decode, and entries whose condition does not hold, change only the version.
 * Out of memory ends the process (a replica that skips an entry is none).
 */
#include "server/control/map.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/control/map_state.h"

void *map_alloc(size_t bytes)
{
    assert(bytes > 0);
    void *memory = calloc(1, bytes);
    assert(memory != NULL && "out of memory for the cluster map");
    return memory;
}

void *map_realloc(void *memory, size_t bytes)
{
    assert(bytes > 0);
    void *grown = realloc(memory, bytes);
    assert(grown != NULL && "out of memory for the cluster map");
    return grown;
}

struct map *map_create(void)
{
    struct map *map = map_alloc(sizeof *map);
    map->feature_level = MAP_FEATURE_LEVEL;
    map->next_volume = map->next_instance = map->next_incarnation = 1;
    map->requests = map_alloc(MAP_REQUESTS_MAX * sizeof *map->requests);
    map->request_slots = map_alloc(MAP_REQUEST_SLOTS * sizeof *map->request_slots);
    return map;
}

void map_destroy(struct map *map)
{
    if (!map)
        return;
    assert(map->applying == 0);
    for (uint32_t i = 0; i < map->node_count; i++)
        free(map->nodes[i]);
    for (uint32_t i = 0; i < map->volume_count; i++)
        map_volume_free(map->volumes[i]);
    free(map->volumes);
    free(map->requests);
    free(map->request_slots);
    free(map->changes);
    free(map->touched);
    free(map);
}

void map_set_observer(struct map *map, const struct map_observer *observer)
{
    assert(map != NULL);
    assert(map->applying == 0);
    if (observer)
        map->observer = *observer;
    else
        memset(&map->observer, 0, sizeof map->observer);
}

/* ---- exactly once ---- */

static uint32_t request_slot_of(const uint8_t id[16])
{
    uint64_t a, b;
    memcpy(&a, id, 8);
    memcpy(&b, id + 8, 8);
    uint64_t mixed = (a ^ (b * 0x9e3779b97f4a7c15ull)) * 0xd6e8feb86659fd93ull;
    return (uint32_t)(mixed >> 40) % MAP_REQUEST_SLOTS;
}

static struct map_request *request_find(const struct map *map, const uint8_t id[16])
{
    assert(map != NULL);
    assert(map->request_count <= MAP_REQUESTS_MAX);
    for (uint32_t slot = request_slot_of(id); map->request_slots[slot]; slot = (slot + 1) % MAP_REQUEST_SLOTS) {
        struct map_request *request = &map->requests[map->request_slots[slot] - 1];
        if (memcmp(request->id, id, 16) == 0)
            return request;
    }
    return NULL;
}

static void request_slot_insert(struct map *map, uint32_t ring_index)
{
    assert(map != NULL);
    uint32_t slot = request_slot_of(map->requests[ring_index].id);
    while (map->request_slots[slot])
        slot = (slot + 1) % MAP_REQUEST_SLOTS;
    map->request_slots[slot] = (uint16_t)(ring_index + 1);
}

/* Deletion from open addressing: what follows in the same run moves up. */
static void request_slot_remove(struct map *map, uint32_t ring_index)
{
    assert(map != NULL);
    uint32_t hole = request_slot_of(map->requests[ring_index].id);
    while (map->request_slots[hole] != ring_index + 1)
        hole = (hole + 1) % MAP_REQUEST_SLOTS;
    for (uint32_t slot = (hole + 1) % MAP_REQUEST_SLOTS; map->request_slots[slot];
         slot = (slot + 1) % MAP_REQUEST_SLOTS) {
        uint32_t home = request_slot_of(map->requests[map->request_slots[slot] - 1].id);
        bool stays = hole <= slot ? (hole < home && home <= slot) : (hole < home || home <= slot);
        if (stays)
            continue;
        map->request_slots[hole] = map->request_slots[slot];
        hole = slot;
    }
    map->request_slots[hole] = 0;
}

void map_requests_clear(struct map *map)
{
    assert(map != NULL);
    memset(map->request_slots, 0, MAP_REQUEST_SLOTS * sizeof *map->request_slots);
    map->request_head = map->request_count = 0;
}

void map_request_add(struct map *map, const uint8_t id[16], const struct map_result *result)
{
    assert(request_find(map, id) == NULL);
    uint32_t index;
    if (map->request_count == MAP_REQUESTS_MAX) {
        index = map->request_head;
        request_slot_remove(map, index);
        map->request_head = (map->request_head + 1) % MAP_REQUESTS_MAX;
    } else {
        index = (map->request_head + map->request_count) % MAP_REQUESTS_MAX;
        map->request_count++;
    }
    memcpy(map->requests[index].id, id, 16);
    map->requests[index].result = *result;
    request_slot_insert(map, index);
    assert(request_find(map, id) == &map->requests[index]);
}

bool map_request_result(const struct map *map, const uint8_t request[16], struct map_result *ret_result)
{
    assert(map != NULL);
    assert(ret_result != NULL);
    const struct map_request *found = request_find(map, request);
    if (found)
        *ret_result = found->result;
    return found != NULL;
}

/* ---- what changed ---- */

void map_touch_shard(struct map *map, struct map_volume *volume, struct map_shard *shard)
{
    assert(map->applying != 0);
    assert(shard == &volume->shards[shard->index]);
    if (shard->changed_version == map->applying)
        return;
    shard->changed_version = map->applying;
    map_volume_box(volume)->shards_changed = map->applying;
    if (!map->observer.shard_changed)
        return;
    if (map->change_count == map->change_capacity) {
        map->change_capacity = map->change_capacity ? map->change_capacity * 2 : 64;
        map->changes = map_realloc(map->changes, map->change_capacity * sizeof *map->changes);
    }
    map->changes[map->change_count++] = (struct map_change){volume, shard->index};
    assert(map->change_count <= MAP_SHARDS_MAX);
}

void map_touch_volume(struct map *map, struct map_volume *volume)
{
    assert(map->applying != 0);
    volume->changed_version = map->applying;
    for (uint32_t i = map->touched_count; i > 0; i--) {
        if (map->touched[i - 1] == volume)
            return;
    }
    if (map->touched_count == map->touched_capacity) {
        map->touched_capacity = map->touched_capacity ? map->touched_capacity * 2 : 16;
        map->touched = map_realloc(map->touched, map->touched_capacity * sizeof(map->touched[0]));
    }
    map->touched[map->touched_count++] = volume;
}

void map_touch_forget(struct map *map, const struct map_volume *volume)
{
    assert(map != NULL);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < map->touched_count; i++) {
        if (map->touched[i] != volume)
            map->touched[kept++] = map->touched[i];
    }
    map->touched_count = kept;
    kept = 0;
    for (uint32_t i = 0; i < map->change_count; i++) {
        if (map->changes[i].volume != volume)
            map->changes[kept++] = map->changes[i];
    }
    map->change_count = kept;
}

void map_touch_node(struct map *map, struct map_node *node)
{
    assert(map->applying != 0);
    assert(!map->node_touched || map->node_touched == node);
    map->node_touched = node;
}

static void tell_observer(struct map *map)
{
    assert(map != NULL);
    const struct map_observer *observer = &map->observer;
    if (map->node_touched && observer->node_changed)
        observer->node_changed(observer->arg, map->node_touched);
    for (uint32_t i = 0; i < map->touched_count && observer->volume_changed; i++)
        observer->volume_changed(observer->arg, map->touched[i]);
    for (uint32_t i = 0; i < map->change_count; i++) {
        const struct map_volume *volume = map->changes[i].volume;
        if (map->changes[i].shard < volume->shard_count) /* a shrink may have removed it */
            observer->shard_changed(observer->arg, volume, &volume->shards[map->changes[i].shard]);
    }
    map->node_touched = NULL;
    map->touched_count = 0;
    map->change_count = 0;
}

/* ---- apply ---- */

static map_apply_fn *const kinds[] = {
    [MAP_ENTRY_CLUSTER_INIT] = map_apply_cluster_init,
    [MAP_ENTRY_NODE_REGISTER] = map_apply_node_register,
    [MAP_ENTRY_NODE_DOWN] = map_apply_node_down,
    [MAP_ENTRY_NODE_OUT] = map_apply_node_out,
    [MAP_ENTRY_NODE_REMOVE] = map_apply_node_remove,
    [MAP_ENTRY_STORE_FAILED] = map_apply_store_failed,
    [MAP_ENTRY_VOLUME_CREATE] = map_apply_volume_create,
    [MAP_ENTRY_VOLUME_DELETE] = map_apply_volume_delete,
    [MAP_ENTRY_VOLUME_RESIZE] = map_apply_volume_resize,
    [MAP_ENTRY_VOLUME_SET] = map_apply_volume_set,
    [MAP_ENTRY_SNAPSHOT_OPEN] = map_apply_snapshot_open,
    [MAP_ENTRY_SNAPSHOT_SEALED] = map_apply_snapshot_sealed,
    [MAP_ENTRY_SNAPSHOT_ABORT] = map_apply_snapshot_abort,
    [MAP_ENTRY_SNAPSHOT_DELETE] = map_apply_snapshot_delete,
    [MAP_ENTRY_VOLUME_ROLLBACK] = map_apply_volume_rollback,
    [MAP_ENTRY_VOLUME_CLONE] = map_apply_volume_clone,
    [MAP_ENTRY_VOLUME_FLATTEN] = map_apply_volume_flatten,
    [MAP_ENTRY_MEMBER_FULL] = map_apply_member_full,
    [MAP_ENTRY_SESSION_OPEN] = map_apply_session_open,
    [MAP_ENTRY_SESSION_CLOSE] = map_apply_session_close,
    [MAP_ENTRY_MEMBER_DROP] = map_apply_member_drop,
    [MAP_ENTRY_MEMBER_ADD] = map_apply_member_add,
    [MAP_ENTRY_EPOCH_ACTIVE] = map_apply_epoch_active,
    [MAP_ENTRY_PRIMARY_MOVE] = map_apply_primary_move,
    [MAP_ENTRY_MEMBER_ATTACH] = map_apply_member_attach,
    [MAP_ENTRY_MEMBER_DETACH] = map_apply_member_detach,
    [MAP_ENTRY_ELECT] = map_apply_elect,
    [MAP_ENTRY_FORCE_PROMOTE] = map_apply_force_promote,
};

void map_apply_cluster_init(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    assert(map != NULL);
    assert(entry->kind == MAP_ENTRY_CLUSTER_INIT);
    if (entry->cluster_id == 0) {
        result->rc = -EINVAL;
    } else if (map->cluster_id != 0) {
        result->rc = -EEXIST;
    } else {
        map->cluster_id = entry->cluster_id;
    }
    result->value = map->cluster_id;
}

static void apply_entry(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    static const uint8_t no_request[16];
    bool has_request = memcmp(entry->request, no_request, sizeof no_request) != 0;
    const struct map_request *seen = has_request ? request_find(map, entry->request) : NULL;
    if (seen) {
        *result = seen->result;
        return;
    }
    assert((size_t)entry->kind < sizeof kinds / sizeof kinds[0]);
    assert(kinds[entry->kind] != NULL);
    kinds[entry->kind](map, entry, result);
    assert(result->rc <= 0);
    if (has_request)
        map_request_add(map, entry->request, result);
}

void map_apply(struct map *map, uint64_t version, const void *bytes, size_t len, struct map_result *ret_result)
{
    struct map_result result = {.version = version};
    struct map_entry entry;
    assert(map->applying == 0);
    assert(version == map->version + 1);
    map->applying = version;
    if (map_entry_decode(bytes, len, &entry) < 0) {
        result.rc = -EBADMSG;
    } else {
        apply_entry(map, &entry, &result);
        map_entry_free(&entry);
    }
    map->version = version;
    tell_observer(map);
    map->applying = 0;
    if (ret_result)
        *ret_result = result;
}
