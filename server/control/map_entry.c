/* SPDX-License-Identifier: Apache-2.0 */
/* map_entry: bytes of an entry (docs/internals/map.md).
 *
 *   offset  bytes  what
 *   0       1      format version, 1
 *   1       1      kind, enum map_entry_kind
 *   2       2      zero
 *   4       16     request id, zero: none
 *   20      ...    the fields of the kind, in the order of enum field, each of fixed form
 *
 * - `fields_of` says which fields a kind has; encode and decode walk the same list
 *
 * Failure: encode -EINVAL (unknown kind, list too long), -EMSGSIZE (does not fit); decode -EBADMSG for anything that encode
 * would not have written, bytes left over included.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/control/map.h"
#include "server/control/map_codec.h"

#define ENTRY_FORMAT 1u
#define ACTIVE_BYTES 20u
#define WEIGHT_BYTES 12u
#define RUN_BYTES 28u

enum field {
    F_NODE = 1u << 0,
    F_INCARNATION = 1u << 1,
    F_VOLUME = 1u << 2,
    F_SHARD = 1u << 3,
    F_EPOCH = 1u << 4,
    F_INSTANCE = 1u << 5,
    F_TO_NODE = 1u << 6,
    F_SIZE = 1u << 7,
    F_SHARD_BYTES = 1u << 8,
    F_REPLICAS = 1u << 9,
    F_HOME = 1u << 10,
    F_SESSION = 1u << 11,
    F_ATTACHMENT = 1u << 12,
    F_FLAGS = 1u << 13,
    F_CLUSTER = 1u << 14,
    F_NAME = 1u << 15,
    F_NODE_INFO = 1u << 16,
    F_WEIGHTS = 1u << 17,
    F_ACTIVES = 1u << 18,
    F_SNAPSHOT = 1u << 19,
    F_TO_NAME = 1u << 20,
    F_GENERATION = 1u << 21,
    F_CREATED = 1u << 22,
    F_VOLUMES = 1u << 23,
    F_RUNS = 1u << 24,
};

#define F_NODE_CAS (F_NODE | F_INCARNATION)
#define F_VOLUME_OR_NAME (F_VOLUME | F_NAME)
#define F_SHARD_CAS (F_NODE | F_VOLUME | F_SHARD | F_EPOCH)

static const uint32_t fields_of[] = {
    [MAP_ENTRY_CLUSTER_INIT] = F_CLUSTER,
    [MAP_ENTRY_NODE_REGISTER] = F_NODE_CAS | F_NODE_INFO,
    [MAP_ENTRY_NODE_DOWN] = F_NODE_CAS,
    [MAP_ENTRY_NODE_OUT] = F_NODE_CAS | F_FLAGS,
    [MAP_ENTRY_NODE_REMOVE] = F_NODE,
    [MAP_ENTRY_STORE_FAILED] = F_NODE_CAS,
    [MAP_ENTRY_VOLUME_CREATE] = F_NAME | F_SIZE | F_SHARD_BYTES | F_REPLICAS | F_HOME | F_WEIGHTS,
    [MAP_ENTRY_VOLUME_DELETE] = F_VOLUME_OR_NAME | F_FLAGS,
    [MAP_ENTRY_VOLUME_RESIZE] = F_VOLUME_OR_NAME | F_SIZE | F_FLAGS | F_WEIGHTS,
    [MAP_ENTRY_VOLUME_SET] = F_VOLUME_OR_NAME | F_REPLICAS | F_HOME | F_FLAGS,
    [MAP_ENTRY_SNAPSHOT_OPEN] = F_SNAPSHOT | F_CREATED | F_VOLUMES,
    [MAP_ENTRY_SNAPSHOT_SEALED] = F_NODE_CAS | F_RUNS,
    [MAP_ENTRY_SNAPSHOT_ABORT] = F_VOLUME | F_GENERATION,
    [MAP_ENTRY_SNAPSHOT_DELETE] = F_VOLUME_OR_NAME | F_SNAPSHOT,
    [MAP_ENTRY_VOLUME_ROLLBACK] = F_VOLUME_OR_NAME | F_SNAPSHOT,
    [MAP_ENTRY_VOLUME_CLONE] = F_VOLUME_OR_NAME | F_HOME | F_SNAPSHOT | F_TO_NAME,
    [MAP_ENTRY_VOLUME_FLATTEN] = F_VOLUME_OR_NAME,
    [MAP_ENTRY_MEMBER_FULL] = F_NODE_CAS | F_RUNS,
    [MAP_ENTRY_SESSION_OPEN] = F_VOLUME_OR_NAME | F_NODE_CAS | F_ATTACHMENT | F_FLAGS,
    [MAP_ENTRY_SESSION_CLOSE] = F_VOLUME_OR_NAME | F_SESSION | F_FLAGS,
    [MAP_ENTRY_MEMBER_DROP] = F_SHARD_CAS | F_INCARNATION | F_TO_NODE,
    [MAP_ENTRY_MEMBER_ADD] = F_SHARD_CAS | F_INCARNATION | F_INSTANCE,
    [MAP_ENTRY_EPOCH_ACTIVE] = F_NODE_CAS | F_ACTIVES,
    [MAP_ENTRY_PRIMARY_MOVE] = F_SHARD_CAS | F_INCARNATION | F_TO_NODE,
    [MAP_ENTRY_MEMBER_ATTACH] = F_SHARD_CAS | F_INCARNATION | F_TO_NODE,
    [MAP_ENTRY_MEMBER_DETACH] = F_SHARD_CAS | F_INSTANCE,
    [MAP_ENTRY_ELECT] = F_VOLUME | F_SHARD,
    [MAP_ENTRY_FORCE_PROMOTE] = F_VOLUME_OR_NAME | F_SHARD | F_NODE | F_FLAGS,
};

static uint32_t fields_of_kind(uint32_t kind)
{
    return kind < sizeof fields_of / sizeof fields_of[0] ? fields_of[kind] : 0;
}

/* ---- encode ---- */

static void put_node_info(struct map_writer *w, const struct map_node *info)
{
    assert(w != NULL);
    map_put_int(w, info->stop, 1);
    map_put(w, info->store_uuid, sizeof info->store_uuid);
    map_put_int(w, info->capacity_bytes, 8);
    map_put_text(w, info->data_address, sizeof info->data_address);
    map_put_text(w, info->unix_address, sizeof info->unix_address);
    map_put_text(w, info->control_address, sizeof info->control_address);
    map_put_text(w, info->host, sizeof info->host);
    map_put_text(w, info->rack, sizeof info->rack);
}

static void put_lists(struct map_writer *w, const struct map_entry *entry, uint32_t fields)
{
    assert(w != NULL);
    assert(entry != NULL);
    if (fields & F_WEIGHTS) {
        map_put_int(w, entry->weight_count, 2);
        for (uint32_t i = 0; i < entry->weight_count; i++) {
            map_put_int(w, entry->weights[i].node, 4);
            map_put_int(w, entry->weights[i].free_bytes, 8);
        }
    }
    if (fields & F_ACTIVES) {
        map_put_int(w, entry->active_count, 4);
        for (uint32_t i = 0; i < entry->active_count; i++) {
            map_put_int(w, entry->actives[i].volume, 8);
            map_put_int(w, entry->actives[i].shard, 4);
            map_put_int(w, entry->actives[i].epoch, 8);
        }
    }
    if (fields & F_VOLUMES) {
        map_put_int(w, entry->volume_count, 2);
        for (uint32_t i = 0; i < entry->volume_count; i++)
            map_put_int(w, entry->volumes[i], 8);
    }
    if (fields & F_RUNS) {
        map_put_int(w, entry->run_count, 4);
        for (uint32_t i = 0; i < entry->run_count; i++) {
            map_put_int(w, entry->runs[i].volume, 8);
            map_put_int(w, entry->runs[i].first, 4);
            map_put_int(w, entry->runs[i].count, 4);
            map_put_int(w, entry->runs[i].epoch, 8);
            map_put_int(w, entry->runs[i].generation, 4);
        }
    }
}

static void put_fields(struct map_writer *w, const struct map_entry *entry, uint32_t fields)
{
    assert(w != NULL);
    assert(entry != NULL);
    if (fields & F_NODE)
        map_put_int(w, entry->node, 4);
    if (fields & F_INCARNATION)
        map_put_int(w, entry->incarnation, 8);
    if (fields & F_VOLUME)
        map_put_int(w, entry->volume, 8);
    if (fields & F_SHARD)
        map_put_int(w, entry->shard, 4);
    if (fields & F_EPOCH)
        map_put_int(w, entry->epoch, 8);
    if (fields & F_INSTANCE)
        map_put_int(w, entry->instance, 8);
    if (fields & F_TO_NODE)
        map_put_int(w, entry->to_node, 4);
    if (fields & F_SIZE)
        map_put_int(w, entry->size, 8);
    if (fields & F_SHARD_BYTES)
        map_put_int(w, entry->shard_bytes, 8);
    if (fields & F_REPLICAS) {
        map_put_int(w, entry->replicas, 4);
        map_put_int(w, entry->min_replicas, 4);
    }
    if (fields & F_HOME)
        map_put_int(w, entry->home, 4);
    if (fields & F_SESSION)
        map_put_int(w, entry->session, 8);
    if (fields & F_ATTACHMENT)
        map_put(w, entry->attachment, sizeof entry->attachment);
    if (fields & F_FLAGS)
        map_put_int(w, entry->flags, 4);
    if (fields & F_CLUSTER)
        map_put_int(w, entry->cluster_id, 8);
    if (fields & F_NAME)
        map_put_text(w, entry->name, sizeof entry->name);
    if (fields & F_NODE_INFO)
        put_node_info(w, &entry->node_info);
    if (fields & F_SNAPSHOT)
        map_put_text(w, entry->snapshot, sizeof entry->snapshot);
    if (fields & F_TO_NAME)
        map_put_text(w, entry->to_name, sizeof entry->to_name);
    if (fields & F_GENERATION)
        map_put_int(w, entry->generation, 4);
    if (fields & F_CREATED)
        map_put_int(w, entry->created_ms, 8);
}

int map_entry_encode(const struct map_entry *entry, void *buffer, size_t capacity)
{
    uint32_t fields = fields_of_kind((uint32_t)entry->kind);
    struct map_writer w = {.bytes = buffer,
                           .capacity = capacity < MAP_ENTRY_BYTES_MAX ? capacity : MAP_ENTRY_BYTES_MAX};
    assert(entry->weight_count == 0 || entry->weights != NULL);
    assert(entry->active_count == 0 || entry->actives != NULL);
    assert(entry->run_count == 0 || entry->runs != NULL);
    if (fields == 0 || entry->weight_count > MAP_NODES_MAX || entry->volume_count > MAP_GROUP_MAX)
        return -EINVAL;
    if (entry->active_count > MAP_ENTRY_BYTES_MAX / ACTIVE_BYTES || entry->run_count > MAP_ENTRY_BYTES_MAX / RUN_BYTES)
        return -EMSGSIZE;
    map_put_int(&w, ENTRY_FORMAT, 1);
    map_put_int(&w, (uint64_t)entry->kind, 1);
    map_put_int(&w, 0, 2);
    map_put(&w, entry->request, sizeof entry->request);
    assert(w.overflow || w.len == MAP_ENTRY_HEADER_BYTES);
    put_fields(&w, entry, fields);
    put_lists(&w, entry, fields);
    return w.overflow ? -EMSGSIZE : (int)w.len;
}

/* ---- decode ---- */

static void get_node_info(struct map_reader *r, struct map_node *ret)
{
    assert(r != NULL);
    ret->stop = (uint8_t)map_get_int(r, 1);
    map_get(r, ret->store_uuid, sizeof ret->store_uuid);
    ret->capacity_bytes = map_get_int(r, 8);
    map_get_text(r, ret->data_address, sizeof ret->data_address);
    map_get_text(r, ret->unix_address, sizeof ret->unix_address);
    map_get_text(r, ret->control_address, sizeof ret->control_address);
    map_get_text(r, ret->host, sizeof ret->host);
    map_get_text(r, ret->rack, sizeof ret->rack);
    if (ret->stop > MAP_STOP_EMPTY)
        r->bad = true;
}

static void get_weights(struct map_reader *r, struct map_entry *entry)
{
    assert(entry != NULL);
    uint32_t count = (uint32_t)map_get_int(r, 2);
    if (count > MAP_NODES_MAX || (size_t)count * WEIGHT_BYTES > map_reader_left(r))
        r->bad = true;
    if (r->bad || count == 0)
        return;
    struct map_weight *weights = calloc(count, sizeof *weights);
    if (!weights)
        abort(); /* a replica that skips an entry is none */
    for (uint32_t i = 0; i < count; i++) {
        weights[i].node = (uint32_t)map_get_int(r, 4);
        weights[i].free_bytes = map_get_int(r, 8);
    }
    assert(!r->bad);
    entry->weights = weights;
    entry->weight_count = count;
}

static void get_actives(struct map_reader *r, struct map_entry *entry)
{
    assert(entry != NULL);
    uint32_t count = (uint32_t)map_get_int(r, 4);
    if ((size_t)count * ACTIVE_BYTES > map_reader_left(r))
        r->bad = true;
    if (r->bad || count == 0)
        return;
    struct map_active *actives = calloc(count, sizeof *actives);
    if (!actives)
        abort();
    for (uint32_t i = 0; i < count; i++) {
        actives[i].volume = map_get_int(r, 8);
        actives[i].shard = (uint32_t)map_get_int(r, 4);
        actives[i].epoch = map_get_int(r, 8);
    }
    assert(!r->bad);
    entry->actives = actives;
    entry->active_count = count;
}

static void get_volumes(struct map_reader *r, struct map_entry *entry)
{
    assert(entry != NULL);
    uint32_t count = (uint32_t)map_get_int(r, 2);
    if (count > MAP_GROUP_MAX || (size_t)count * 8 > map_reader_left(r))
        r->bad = true;
    if (r->bad || count == 0)
        return;
    uint64_t *volumes = calloc(count, sizeof *volumes);
    if (!volumes)
        abort();
    for (uint32_t i = 0; i < count; i++)
        volumes[i] = map_get_int(r, 8);
    assert(!r->bad);
    entry->volumes = volumes;
    entry->volume_count = count;
}

static void get_runs(struct map_reader *r, struct map_entry *entry)
{
    assert(entry != NULL);
    uint32_t count = (uint32_t)map_get_int(r, 4);
    if ((size_t)count * RUN_BYTES > map_reader_left(r))
        r->bad = true;
    if (r->bad || count == 0)
        return;
    struct map_run *runs = calloc(count, sizeof *runs);
    if (!runs)
        abort();
    for (uint32_t i = 0; i < count; i++) {
        runs[i].volume = map_get_int(r, 8);
        runs[i].first = (uint32_t)map_get_int(r, 4);
        runs[i].count = (uint32_t)map_get_int(r, 4);
        runs[i].epoch = map_get_int(r, 8);
        runs[i].generation = (uint32_t)map_get_int(r, 4);
    }
    assert(!r->bad);
    entry->runs = runs;
    entry->run_count = count;
}

static void get_fields(struct map_reader *r, struct map_entry *entry, uint32_t fields)
{
    assert(r != NULL);
    assert(entry != NULL);
    if (fields & F_NODE)
        entry->node = (uint32_t)map_get_int(r, 4);
    if (fields & F_INCARNATION)
        entry->incarnation = map_get_int(r, 8);
    if (fields & F_VOLUME)
        entry->volume = map_get_int(r, 8);
    if (fields & F_SHARD)
        entry->shard = (uint32_t)map_get_int(r, 4);
    if (fields & F_EPOCH)
        entry->epoch = map_get_int(r, 8);
    if (fields & F_INSTANCE)
        entry->instance = map_get_int(r, 8);
    if (fields & F_TO_NODE)
        entry->to_node = (uint32_t)map_get_int(r, 4);
    if (fields & F_SIZE)
        entry->size = map_get_int(r, 8);
    if (fields & F_SHARD_BYTES)
        entry->shard_bytes = map_get_int(r, 8);
    if (fields & F_REPLICAS) {
        entry->replicas = (uint32_t)map_get_int(r, 4);
        entry->min_replicas = (uint32_t)map_get_int(r, 4);
    }
    if (fields & F_HOME)
        entry->home = (uint32_t)map_get_int(r, 4);
    if (fields & F_SESSION)
        entry->session = map_get_int(r, 8);
    if (fields & F_ATTACHMENT)
        map_get(r, entry->attachment, sizeof entry->attachment);
    if (fields & F_FLAGS)
        entry->flags = (uint32_t)map_get_int(r, 4);
    if (fields & F_CLUSTER)
        entry->cluster_id = map_get_int(r, 8);
    if (fields & F_NAME)
        map_get_text(r, entry->name, sizeof entry->name);
    if (fields & F_NODE_INFO)
        get_node_info(r, &entry->node_info);
    if (fields & F_SNAPSHOT)
        map_get_text(r, entry->snapshot, sizeof entry->snapshot);
    if (fields & F_TO_NAME)
        map_get_text(r, entry->to_name, sizeof entry->to_name);
    if (fields & F_GENERATION)
        entry->generation = (uint32_t)map_get_int(r, 4);
    if (fields & F_CREATED)
        entry->created_ms = map_get_int(r, 8);
    if (fields & F_WEIGHTS)
        get_weights(r, entry);
    if (fields & F_ACTIVES)
        get_actives(r, entry);
    if (fields & F_VOLUMES)
        get_volumes(r, entry);
    if (fields & F_RUNS)
        get_runs(r, entry);
}

int map_entry_decode(const void *bytes, size_t len, struct map_entry *ret_entry)
{
    assert(ret_entry != NULL);
    struct map_reader r = {.bytes = bytes, .len = len};
    struct map_entry entry = {0};
    if (len < MAP_ENTRY_HEADER_BYTES || len > MAP_ENTRY_BYTES_MAX || map_get_int(&r, 1) != ENTRY_FORMAT)
        return -EBADMSG;
    entry.kind = (enum map_entry_kind)map_get_int(&r, 1);
    uint32_t fields = fields_of_kind((uint32_t)entry.kind);
    if (fields == 0 || map_get_int(&r, 2) != 0)
        return -EBADMSG;
    map_get(&r, entry.request, sizeof entry.request);
    assert(r.pos == MAP_ENTRY_HEADER_BYTES);
    get_fields(&r, &entry, fields);
    if (r.bad || r.pos != len) {
        map_entry_free(&entry);
        return -EBADMSG;
    }
    *ret_entry = entry;
    return 0;
}

void map_entry_free(struct map_entry *entry)
{
    if (!entry)
        return;
    free((void *)(uintptr_t)entry->weights);
    free((void *)(uintptr_t)entry->actives);
    free((void *)(uintptr_t)entry->volumes);
    free((void *)(uintptr_t)entry->runs);
    entry->weights = NULL;
    entry->actives = NULL;
    entry->volumes = NULL;
    entry->runs = NULL;
    entry->weight_count = entry->active_count = entry->volume_count = entry->run_count = 0;
}

int map_entry_request(const void *bytes, size_t len, uint8_t ret_request[16])
{
    if (len < MAP_ENTRY_HEADER_BYTES)
        return -EBADMSG;
    memcpy(ret_request, (const uint8_t *)bytes + 4, 16);
    return 0;
}

int map_entry_set_request(void *bytes, size_t len, const uint8_t request[16])
{
    if (len < MAP_ENTRY_HEADER_BYTES)
        return -EBADMSG;
    memcpy((uint8_t *)bytes + 4, request, 16);
    return 0;
}
