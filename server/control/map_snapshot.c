/* SPDX-License-Identifier: Apache-2.0 */
/* map_snapshot: the whole map as bytes, and back (docs/internals/map.md).
 *
 *   "ASHM" | u32 format 2 | varints: version, cluster id, feature level, next volume, instance, incarnation
 *   | node count, nodes | volume count, volumes with their shards | request count, requests, oldest first | u32 CRC32C of all before
 *
 * - map_restore checks the CRC, builds a new map beside the old one, checks it, and only then exchanges the two
 *
 * Failure: -EBADMSG (not a snapshot, damaged, or says something no map can be), -EPROTONOSUPPORT (newer format or feature
 * level); the map is then unchanged. map_snapshot: -ENOMEM.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "server/control/map.h"
#include "server/control/map_codec.h"
#include "server/control/map_state.h"

#define SNAPSHOT_FORMAT 2u
#define SNAPSHOT_FORMAT_MIN 1u /* before snapshots of volumes */
#define MEMBER_BYTES_MIN 6u
#define SHARD_BYTES_MIN (6u + MEMBER_BYTES_MIN)
#define SNAP_BYTES_MIN 6u

static const uint8_t snapshot_magic[4] = {'A', 'S', 'H', 'M'};

/* ---- write ---- */

static void put_node(struct map_writer *w, const struct map_node *n)
{
    assert(w != NULL);
    assert(n != NULL);
    map_put_varint(w, n->id);
    map_put_int(w, (uint64_t)n->up | (uint64_t)n->store_failed << 1 | (uint64_t)n->out << 2, 1);
    map_put_int(w, n->stop, 1);
    map_put_varint(w, n->incarnation);
    map_put(w, n->store_uuid, sizeof n->store_uuid);
    map_put_varint(w, n->capacity_bytes);
    map_put_text(w, n->data_address, sizeof n->data_address);
    map_put_text(w, n->unix_address, sizeof n->unix_address);
    map_put_text(w, n->control_address, sizeof n->control_address);
    map_put_text(w, n->host, sizeof n->host);
    map_put_text(w, n->rack, sizeof n->rack);
}

static void put_shard(struct map_writer *w, const struct map_shard *s)
{
    assert(w != NULL);
    assert(s->member_count <= MAP_MEMBERS_MAX);
    map_put_varint(w, s->member_count);
    for (uint32_t i = 0; i < s->member_count; i++) {
        const struct map_member *m = &s->members[i];
        map_put_varint(w, m->node);
        map_put_varint(w, m->flags);
        map_put_varint(w, m->instance);
        map_put_varint(w, m->incarnation);
        map_put_varint(w, m->eligible_incarnation);
        map_put_varint(w, m->e_r);
    }
    map_put_varint(w, s->primary);
    map_put_varint(w, s->epoch);
    map_put_varint(w, s->active_epoch);
    map_put_varint(w, s->loss_number);
    map_put_varint(w, s->sealed);
    map_put_varint(w, s->changed_version);
}

/* Holders are counted anew from the clones. */
static void put_snaps(struct map_writer *w, const struct map_volume *v)
{
    assert(v->snap_count <= MAP_SNAPSHOTS_MAX);
    map_put_varint(w, v->base.volume);
    map_put_varint(w, v->base.generation);
    map_put_varint(w, v->rollback.from);
    map_put_varint(w, v->rollback.to);
    map_put_varint(w, v->snaps_version);
    map_put_varint(w, v->unsealed);
    map_put_varint(w, v->snap_count);
    for (uint32_t i = 0; i < v->snap_count; i++) {
        const struct map_snap *snap = &v->snaps[i];
        map_put_varint(w, snap->generation);
        map_put_int(w, snap->state, 1);
        map_put_varint(w, snap->size);
        map_put_varint(w, snap->created_ms);
        map_put_varint(w, snap->group);
        map_put_text(w, snap->name, sizeof snap->name);
    }
}

static uint64_t session_bits(const struct map_session *s)
{
    assert(s != NULL);
    return (uint64_t)s->open | (uint64_t)s->read_only << 1 | (uint64_t)s->continued << 2;
}

static void put_volume(struct map_writer *w, const struct map_volume *v)
{
    assert(w != NULL);
    assert(v != NULL);
    map_put_varint(w, v->id);
    map_put_text(w, v->name, sizeof v->name);
    map_put_varint(w, v->size);
    map_put_varint(w, v->shard_bytes);
    map_put_varint(w, v->shard_count);
    map_put_varint(w, v->replicas);
    map_put_varint(w, v->min_replicas);
    map_put_varint(w, v->home);
    map_put_varint(w, v->generation);
    map_put_int(w, (uint64_t)v->deleting | (uint64_t)v->flattening << 1, 1);
    put_snaps(w, v);
    map_put_varint(w, v->session.number);
    map_put(w, v->session.attachment, sizeof v->session.attachment);
    map_put_varint(w, v->session.gateway);
    map_put_varint(w, v->session.gateway_incarnation);
    map_put_int(w, session_bits(&v->session), 1);
    map_put_varint(w, v->changed_version);
    for (uint32_t i = 0; i < v->shard_count; i++)
        put_shard(w, &v->shards[i]);
}

int map_snapshot(const struct map *map, void **ret_bytes, size_t *ret_len)
{
    assert(map != NULL);
    struct map_writer w = {.grow = true};
    assert(map->applying == 0);
    map_put(&w, snapshot_magic, sizeof snapshot_magic);
    map_put_int(&w, SNAPSHOT_FORMAT, 4);
    map_put_varint(&w, map->version);
    map_put_varint(&w, map->cluster_id);
    map_put_varint(&w, map->feature_level);
    map_put_varint(&w, map->next_volume);
    map_put_varint(&w, map->next_instance);
    map_put_varint(&w, map->next_incarnation);
    map_put_varint(&w, map->node_count);
    for (uint32_t i = 0; i < map->node_count; i++)
        put_node(&w, map->nodes[i]);
    map_put_varint(&w, map->volume_count);
    for (uint32_t i = 0; i < map->volume_count; i++)
        put_volume(&w, map->volumes[i]);
    map_put_varint(&w, map->request_count);
    for (uint32_t i = 0; i < map->request_count; i++) {
        const struct map_request *r = &map->requests[(map->request_head + i) % MAP_REQUESTS_MAX];
        map_put(&w, r->id, sizeof r->id);
        map_put_varint(&w, (uint64_t)(-(int64_t)r->result.rc));
        map_put_varint(&w, r->result.value);
        map_put_varint(&w, r->result.version);
    }
    map_put_int(&w, w.overflow ? 0 : crc32c(w.bytes, w.len), 4);
    if (w.overflow) {
        free(w.bytes);
        return -ENOMEM;
    }
    *ret_bytes = w.bytes;
    *ret_len = w.len;
    return 0;
}

/* ---- read ---- */

static bool get_bool_bits(struct map_reader *r, unsigned bits, uint8_t *ret)
{
    *ret = (uint8_t)map_get_int(r, 1);
    if (*ret >> bits)
        r->bad = true;
    return !r->bad;
}

static void get_nodes(struct map_reader *r, struct map *map)
{
    assert(map != NULL);
    uint32_t count = map_get_varint32(r);
    assert(map->node_count == 0);
    if (count > MAP_NODES_MAX)
        r->bad = true;
    for (uint32_t i = 0; i < count && !r->bad; i++) {
        struct map_node *n = map->nodes[i] = map_alloc(sizeof *n);
        uint8_t bits = 0;
        map->node_count = i + 1;
        n->id = map_get_varint32(r);
        (void)get_bool_bits(r, 3, &bits);
        n->up = bits & 1;
        n->store_failed = bits & 2;
        n->out = bits & 4;
        n->stop = (uint8_t)map_get_int(r, 1);
        n->incarnation = map_get_varint(r);
        map_get(r, n->store_uuid, sizeof n->store_uuid);
        n->capacity_bytes = map_get_varint(r);
        map_get_text(r, n->data_address, sizeof n->data_address);
        map_get_text(r, n->unix_address, sizeof n->unix_address);
        map_get_text(r, n->control_address, sizeof n->control_address);
        map_get_text(r, n->host, sizeof n->host);
        map_get_text(r, n->rack, sizeof n->rack);
        bool ordered = n->id != 0 && (i == 0 || map->nodes[i - 1]->id < n->id);
        if (!ordered || n->stop > MAP_STOP_EMPTY || n->incarnation >= map->next_incarnation)
            r->bad = true;
    }
}

static bool shard_sound(const struct map *map, const struct map_shard *s)
{
    assert(map != NULL);
    assert(s != NULL);
    uint32_t in_sync = 0;
    for (uint32_t i = 0; i < s->member_count; i++) {
        const struct map_member *m = &s->members[i];
        if (!map_find_node(map, m->node) || m->flags >= MAP_MEMBER_UNROLLED << 1 || m->instance >= map->next_instance)
            return false;
        if (map_member_of(s, m->node) != m)
            return false;
        if (m->incarnation >= map->next_incarnation || m->eligible_incarnation >= map->next_incarnation ||
            m->e_r > s->epoch)
            return false;
        in_sync += (m->flags & MAP_MEMBER_IN_SYNC) != 0;
    }
    const struct map_member *primary = map_member_of(s, s->primary);
    if (s->primary != 0 && (!primary || !(primary->flags & MAP_MEMBER_IN_SYNC)))
        return false;
    return in_sync > 0 && s->epoch > 0 && s->epoch < UINT64_MAX / 2 && s->active_epoch <= s->epoch &&
           s->changed_version <= map->version;
}

static void get_shard(struct map_reader *r, const struct map *map, uint64_t format, struct map_shard *s)
{
    assert(map != NULL);
    assert(s != NULL);
    s->member_count = map_get_varint32(r);
    if (s->member_count > MAP_MEMBERS_MAX) {
        s->member_count = 0;
        r->bad = true;
    }
    for (uint32_t i = 0; i < s->member_count; i++) {
        struct map_member *m = &s->members[i];
        m->node = map_get_varint32(r);
        m->flags = map_get_varint32(r);
        m->instance = map_get_varint(r);
        m->incarnation = map_get_varint(r);
        m->eligible_incarnation = map_get_varint(r);
        m->e_r = map_get_varint(r);
    }
    s->primary = map_get_varint32(r);
    s->epoch = map_get_varint(r);
    s->active_epoch = map_get_varint(r);
    s->loss_number = map_get_varint(r);
    s->sealed = format > 1 ? map_get_varint32(r) : 0;
    s->changed_version = map_get_varint(r);
    if (!r->bad && !shard_sound(map, s))
        r->bad = true;
}

static bool snap_sound(const struct map *map, const struct map_volume *v, const struct map_snap *snap)
{
    assert(snap != NULL);
    bool last = snap == &v->snaps[v->snap_count - 1];
    if (snap->generation == 0 || snap->generation >= v->generation || (!last && snap[1].generation <= snap->generation))
        return false;
    if (snap->state < MAP_SNAP_OPENING || snap->state > MAP_SNAP_HELD || (snap->state == MAP_SNAP_OPENING && !last))
        return false;
    if ((snap->name[0] == '\0') != (snap->state == MAP_SNAP_HELD) || snap->size == 0 || snap->size > v->size)
        return false;
    return snap->group <= map->version;
}

/* Parents have lower ids than their clones: they are there already. */
static bool base_sound(const struct map *map, const struct map_volume *v)
{
    assert(v != NULL);
    if (v->base.volume == 0)
        return v->base.generation == 0 && !v->flattening;
    struct map_volume *parent = v->base.volume < v->id ? map_find_volume(map, v->base.volume) : NULL;
    struct map_snap *snap = parent ? map_snap_find(parent, v->base.generation) : NULL;
    if (!snap || parent->shard_bytes != v->shard_bytes)
        return false;
    uint32_t depth = 1;
    for (; parent && parent->base.volume != 0; parent = map_find_volume(map, parent->base.volume))
        depth++;
    snap->holders++;
    return depth <= MAP_BASE_DEPTH_MAX;
}

static void get_snaps(struct map_reader *r, const struct map *map, struct map_volume *v)
{
    v->base.volume = map_get_varint(r);
    v->base.generation = map_get_varint32(r);
    v->rollback.from = map_get_varint32(r);
    v->rollback.to = map_get_varint32(r);
    v->snaps_version = map_get_varint(r);
    v->unsealed = map_get_varint32(r);
    uint32_t count = map_get_varint32(r), last = 0;
    if (count > MAP_SNAPSHOTS_MAX || (size_t)count * SNAP_BYTES_MIN > map_reader_left(r) ||
        v->snaps_version > map->version || v->rollback.to > v->generation || v->rollback.from > v->rollback.to)
        r->bad = true;
    for (uint32_t i = 0; i < count && !r->bad; i++) {
        uint32_t generation = map_get_varint32(r);
        if (generation <= last) {
            r->bad = true;
            return;
        }
        last = generation;
        struct map_snap *snap = map_snap_add(v, generation);
        snap->state = (uint8_t)map_get_int(r, 1);
        snap->size = map_get_varint(r);
        snap->created_ms = map_get_varint(r);
        snap->group = map_get_varint(r);
        map_get_text(r, snap->name, sizeof snap->name);
    }
    for (uint32_t i = 0; i < v->snap_count && !r->bad; i++)
        r->bad = !snap_sound(map, v, &v->snaps[i]);
    if (v->unsealed > 0 && !map_snap_opening(v))
        r->bad = true;
}

/* Entries count unsealed down: it must be what its shards say. */
static bool seals_sound(const struct map_volume *v)
{
    const struct map_snap *opening = map_snap_opening(v);
    uint32_t unsealed = 0;
    assert(v->shard_count > 0);
    for (uint32_t i = 0; i < v->shard_count; i++) {
        if (v->shards[i].sealed >= v->generation)
            return false;
        if (opening && v->shards[i].sealed < opening->generation)
            unsealed++;
    }
    return v->unsealed == unsealed;
}

static bool volume_sound(const struct map *map, const struct map_volume *v)
{
    assert(map != NULL);
    assert(v != NULL);
    if (v->id == 0 || v->id >= map->next_volume || v->shard_bytes == 0 || v->shard_bytes > MAP_SHARD_BYTES_DEFAULT)
        return false;
    if (v->size == 0 || v->size % 4096 != 0 || v->size > (uint64_t)MAP_SHARDS_MAX * v->shard_bytes)
        return false;
    if (v->replicas < 1 || v->replicas > MAP_REPLICAS_MAX || v->min_replicas < 1 || v->min_replicas > v->replicas)
        return false;
    if (map->volume_count > 0 && map->volumes[map->volume_count - 1]->id >= v->id)
        return false;
    if ((v->name[0] == '\0') != v->deleting || (!v->deleting && map_volume_by_name(map, v->name)))
        return false;
    return v->changed_version <= map->version && v->session.number < UINT64_MAX / 2 && v->generation > 0 &&
           (!v->deleting || v->snap_count > 0);
}

static void get_volume(struct map_reader *r, struct map *map, uint64_t format)
{
    assert(map != NULL);
    struct map_volume *v = map_volume_new();
    uint8_t bits = 0, deleting = 0;
    v->id = map_get_varint(r);
    map_get_text(r, v->name, sizeof v->name);
    v->size = map_get_varint(r);
    v->shard_bytes = map_get_varint(r);
    uint32_t shards = map_get_varint32(r);
    v->replicas = map_get_varint32(r);
    v->min_replicas = map_get_varint32(r);
    v->home = map_get_varint32(r);
    v->generation = map_get_varint32(r);
    (void)get_bool_bits(r, format > 1 ? 2 : 1, &deleting);
    v->deleting = deleting & 1;
    v->flattening = deleting & 2;
    if (format > 1)
        get_snaps(r, map, v);
    v->session.number = map_get_varint(r);
    map_get(r, v->session.attachment, sizeof v->session.attachment);
    v->session.gateway = map_get_varint32(r);
    v->session.gateway_incarnation = map_get_varint(r);
    (void)get_bool_bits(r, 3, &bits);
    v->session.open = bits & 1;
    v->session.read_only = bits & 2;
    v->session.continued = bits & 4;
    v->changed_version = map_get_varint(r);
    bool room = shards > 0 && shards <= MAP_SHARDS_MAX - map->shard_total &&
                (uint64_t)shards * SHARD_BYTES_MIN <= map_reader_left(r); /* no more memory than the bytes justify */
    if (v->unsealed > shards)
        r->bad = true;
    if (r->bad || !room || !volume_sound(map, v) || shards != (v->size + v->shard_bytes - 1) / v->shard_bytes ||
        !base_sound(map, v)) {
        r->bad = true;
        map_volume_free(v);
        return;
    }
    map_volume_insert(map, v);
    map_volume_set_shard_count(map, v, shards);
    map_volume_box(v)->shards_changed = map->version;
    for (uint32_t i = 0; i < shards && !r->bad; i++)
        get_shard(r, map, format, &v->shards[i]);
    if (!r->bad && !seals_sound(v))
        r->bad = true;
}

static void get_requests(struct map_reader *r, struct map *map)
{
    assert(map != NULL);
    uint32_t count = map_get_varint32(r);
    if (count > MAP_REQUESTS_MAX)
        r->bad = true;
    for (uint32_t i = 0; i < count && !r->bad; i++) {
        uint8_t id[16];
        struct map_result result, known;
        map_get(r, id, sizeof id);
        uint32_t error = map_get_varint32(r);
        result.rc = error < 4096 ? -(int)error : 0;
        result.value = map_get_varint(r);
        result.version = map_get_varint(r);
        if (error >= 4096 || map_request_result(map, id, &known))
            r->bad = true;
        if (!r->bad)
            map_request_add(map, id, &result);
    }
    assert(map->request_count <= MAP_REQUESTS_MAX);
}

static void get_map(struct map_reader *r, struct map *map, uint64_t format)
{
    assert(map != NULL);
    map->version = map_get_varint(r);
    map->cluster_id = map_get_varint(r);
    map->feature_level = map_get_varint32(r);
    map->next_volume = map_get_varint(r);
    map->next_instance = map_get_varint(r);
    map->next_incarnation = map_get_varint(r);
    if (map->version >= UINT64_MAX / 2 || map->next_volume == 0 || map->next_instance == 0 ||
        map->next_incarnation == 0)
        r->bad = true;
    if (map->next_volume >= UINT64_MAX / 2 || map->next_instance >= UINT64_MAX / 2 ||
        map->next_incarnation >= UINT64_MAX / 2)
        r->bad = true;
    if (!r->bad)
        get_nodes(r, map);
    uint32_t volumes = map_get_varint32(r);
    if (volumes > MAP_VOLUMES_MAX)
        r->bad = true;
    for (uint32_t i = 0; i < volumes && !r->bad; i++)
        get_volume(r, map, format);
    if (!r->bad)
        get_requests(r, map);
}

int map_restore(struct map *map, const void *bytes, size_t len)
{
    assert(map != NULL);
    struct map_reader r = {.bytes = bytes, .len = len};
    uint8_t magic[4];
    assert(map->applying == 0);
    map_get(&r, magic, sizeof magic);
    uint64_t format = map_get_int(&r, 4);
    if (r.bad || memcmp(magic, snapshot_magic, sizeof magic) != 0 || len < 12)
        return -EBADMSG;
    struct map_reader tail = {.bytes = bytes, .len = len, .pos = len - 4};
    if (map_get_int(&tail, 4) != crc32c(bytes, len - 4))
        return -EBADMSG;
    if (format < SNAPSHOT_FORMAT_MIN || format > SNAPSHOT_FORMAT)
        return -EPROTONOSUPPORT;
    r.len = len - 4;
    struct map *fresh = map_create();
    get_map(&r, fresh, format);
    int rc = r.bad || r.pos != r.len ? -EBADMSG : 0;
    if (rc == 0 && fresh->feature_level > MAP_FEATURE_LEVEL)
        rc = -EPROTONOSUPPORT;
    if (rc < 0) {
        map_destroy(fresh);
        return rc;
    }
    fresh->observer = map->observer;
    struct map old = *map;
    *map = *fresh;
    *fresh = old;
    map_destroy(fresh);
    if (map->observer.reset)
        map->observer.reset(map->observer.arg);
    return 0;
}
