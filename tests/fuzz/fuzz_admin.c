/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes what the admin interface makes of a request's JSON.
 *
 * The input is one request. Every change is asked to read it as its own: what it accepts encodes, decodes to the same bytes again, and can
 * be applied to the map; what it refuses leaves a sentence.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/control/control_admin.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    VOLUME_BYTES_TRIED = 40
}; /* as a power of two: a larger one takes its time, and its size is not what is fuzzed */

static control_change_fn *const changes[] = {
    control_change_volume_create,   control_change_volume_delete,   control_change_volume_resize,
    control_change_volume_set,      control_change_session_close,   control_change_force_promote,
    control_change_node_out,        control_change_node_remove,     control_change_snapshot_create,
    control_change_snapshot_delete, control_change_volume_rollback, control_change_volume_clone,
    control_change_volume_flatten,
};

static void apply_entry(struct map *map, const struct map_entry *entry)
{
    uint8_t *bytes = malloc(MAP_ENTRY_BYTES_MAX), *again = malloc(MAP_ENTRY_BYTES_MAX);
    struct map_entry decoded;
    struct map_result result;
    assert(bytes && again);
    int len = map_entry_encode(entry, bytes, MAP_ENTRY_BYTES_MAX);
    assert(len > 0);
    int rc = map_entry_decode(bytes, (size_t)len, &decoded);
    assert(rc == 0);
    assert(map_entry_encode(&decoded, again, MAP_ENTRY_BYTES_MAX) == len && memcmp(bytes, again, (size_t)len) == 0);
    map_entry_free(&decoded);
    map_apply(map, map_version(map) + 1, bytes, (size_t)len, &result);
    free(bytes);
    free(again);
}

static struct map *small_map(void)
{
    struct map *map = map_create();
    for (uint32_t n = 1; n <= 3; n++) {
        struct map_entry e = {.kind = MAP_ENTRY_NODE_REGISTER, .node = n};
        e.node_info.store_uuid[0] = (uint8_t)n;
        apply_entry(map, &e);
    }
    struct map_entry v = {
        .kind = MAP_ENTRY_VOLUME_CREATE, .name = "v", .size = 1u << 30, .replicas = 3, .min_replicas = 2};
    apply_entry(map, &v);
    return map;
}

static void try_change(control_change_fn *change, json_t *request)
{
    static struct control control;
    static uint64_t volumes[MAP_GROUP_MAX];
    struct map_weight weights[MAP_NODES_MAX];
    struct map_entry entry = {.volumes = volumes};
    char sentence[ADMIN_SENTENCE_MAX] = "";
    control.map = small_map();
    int rc = change(&control, request, &entry, weights, sentence);
    assert(rc <= 0);
    assert(rc == 0 || sentence[0] != '\0');
    if (rc == 0 && entry.size >> VOLUME_BYTES_TRIED == 0)
        apply_entry(control.map, &entry);
    map_destroy(control.map);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *request = json_loadb((const char *)data, size, 0, NULL);
    for (size_t i = 0; request && i < sizeof(changes) / sizeof(changes[0]); i++)
        try_change(changes[i], request);
    json_decref(request);
    return 0;
}
