/* SPDX-License-Identifier: Apache-2.0 */
/* map_hash: one number for the whole map, compared between nodes (R23).
 *
 * - the hash of a map is a sum of hashes of its objects, so that only what changed is hashed anew
 * - a volume's box keeps the hash of each shard and their sum; shards whose changed_version is newer
 *   than the box's hashed_version are subtracted and added again
 * - nodes, volume heads, counters and remembered requests are few: hashed each time
 *
 * Failure: none.
 */
#include <assert.h>
#include <string.h>

#include "server/control/map.h"
#include "server/control/map_state.h"

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash ^= value;
    hash *= 0x9e3779b97f4a7c15ull;
    return hash ^ (hash >> 29);
}

static uint64_t mix_bytes(uint64_t hash, const void *data, size_t bytes)
{
    const uint8_t *at = data;
    for (; bytes >= 8; at += 8, bytes -= 8) {
        uint64_t word = 0;
        for (unsigned i = 0; i < 8; i++)
            word |= (uint64_t)at[i] << (8 * i);
        hash = mix(hash, word);
    }
    for (; bytes > 0; at++, bytes--)
        hash = mix(hash, *at);
    return hash;
}

static uint64_t hash_shard(const struct map_shard *shard)
{
    assert(shard != NULL);
    uint64_t h = mix(0x5a, shard->volume);
    h = mix(h, (uint64_t)shard->index << 32 | shard->member_count);
    assert(shard->member_count <= MAP_MEMBERS_MAX);
    for (uint32_t i = 0; i < shard->member_count; i++) {
        const struct map_member *m = &shard->members[i];
        h = mix(h, (uint64_t)m->node << 32 | m->flags);
        h = mix(h, m->instance);
        h = mix(h, m->incarnation);
        h = mix(h, m->eligible_incarnation);
        h = mix(h, m->e_r);
    }
    h = mix(h, shard->primary);
    h = mix(h, shard->epoch);
    h = mix(h, shard->active_epoch);
    h = mix(h, shard->loss_number);
    return mix(h, shard->changed_version);
}

static uint64_t hash_node(const struct map_node *n)
{
    assert(n != NULL);
    uint64_t h = mix(0x3c, n->id);
    h = mix(h, (uint64_t)n->up | (uint64_t)n->store_failed << 1 | (uint64_t)n->out << 2 | (uint64_t)n->stop << 8);
    h = mix(h, n->incarnation);
    h = mix(h, n->capacity_bytes);
    h = mix_bytes(h, n->store_uuid, sizeof n->store_uuid);
    h = mix_bytes(h, n->data_address, strlen(n->data_address) + 1);
    h = mix_bytes(h, n->unix_address, strlen(n->unix_address) + 1);
    h = mix_bytes(h, n->control_address, strlen(n->control_address) + 1);
    h = mix_bytes(h, n->host, strlen(n->host) + 1);
    return mix_bytes(h, n->rack, strlen(n->rack) + 1);
}

/* A thousand of them are hashed only when one changed. */
static uint64_t hash_snaps(struct map_volume *v)
{
    struct map_volume_box *box = map_volume_box(v);
    assert(box->snaps_hashed <= v->snaps_version);
    if (box->snaps_hashed == v->snaps_version && box->snaps_hash != 0)
        return box->snaps_hash;
    uint64_t h = mix(0x44, v->snap_count);
    for (uint32_t i = 0; i < v->snap_count; i++) {
        const struct map_snap *snap = &v->snaps[i];
        h = mix(mix(h, (uint64_t)snap->generation << 32 | snap->holders), (uint64_t)snap->state << 56 ^ snap->size);
        h = mix_bytes(mix(mix(h, snap->created_ms), snap->group), snap->name, strlen(snap->name) + 1);
    }
    h = mix(mix(h, v->base.volume), (uint64_t)v->base.generation << 32 | v->unsealed);
    h = mix(h, (uint64_t)v->rollback.from << 32 | v->rollback.to);
    for (uint32_t i = 0; i < v->shard_count && v->unsealed > 0; i++)
        h = mix(h, v->shards[i].sealed);
    box->snaps_hashed = v->snaps_version;
    box->snaps_hash = h ? h : 1;
    return box->snaps_hash;
}

static uint64_t hash_volume_head(struct map_volume *v)
{
    assert(v != NULL);
    uint64_t h = mix(0x7e, v->id);
    h = mix_bytes(h, v->name, strlen(v->name) + 1);
    h = mix(h, v->size);
    h = mix(h, v->shard_bytes);
    h = mix(h, (uint64_t)v->shard_count << 32 | v->home);
    h = mix(h, (uint64_t)v->replicas << 32 | v->min_replicas);
    h = mix(h, (uint64_t)v->generation << 8 | (uint64_t)v->flattening << 1 | v->deleting);
    h = mix(h, hash_snaps(v));
    h = mix(h, v->session.number);
    h = mix_bytes(h, v->session.attachment, sizeof v->session.attachment);
    h = mix(h, (uint64_t)v->session.gateway << 8 | (uint64_t)v->session.continued << 2 |
                   (uint64_t)v->session.open << 1 | v->session.read_only);
    h = mix(h, v->session.gateway_incarnation);
    return mix(h, v->changed_version);
}

static uint64_t hash_shards(struct map_volume *volume, uint64_t version)
{
    struct map_volume_box *box = map_volume_box(volume);
    assert(box->hashed_version <= version);
    if (box->shards_changed > box->hashed_version) {
        for (uint32_t i = 0; i < volume->shard_count; i++) {
            const struct map_shard *shard = &volume->shards[i];
            assert(shard->changed_version <= version);
            if (shard->changed_version <= box->hashed_version)
                continue;
            box->hash_sum -= box->hashes[i];
            box->hashes[i] = hash_shard(shard);
            box->hash_sum += box->hashes[i];
        }
        box->hashed_version = version;
    }
    return box->hash_sum;
}

uint64_t map_hash(const struct map *map)
{
    uint64_t sum = mix(mix(0x11, map->cluster_id), map->version);
    assert(map->applying == 0);
    assert(map->request_count <= MAP_REQUESTS_MAX);
    sum += mix(mix(mix(0x22, map->next_volume), map->next_instance), map->next_incarnation);
    for (uint32_t i = 0; i < map->node_count; i++)
        sum += hash_node(map->nodes[i]);
    for (uint32_t i = 0; i < map->volume_count; i++) {
        sum += hash_volume_head(map->volumes[i]);
        sum += hash_shards(map->volumes[i], map->version);
    }
    for (uint32_t i = 0; i < map->request_count; i++) {
        const struct map_request *r = &map->requests[(map->request_head + i) % MAP_REQUESTS_MAX];
        uint64_t h = mix_bytes(0x33, r->id, sizeof r->id);
        h = mix(mix(mix(h, (uint64_t)(int64_t)r->result.rc), r->result.value), r->result.version);
        sum += h;
    }
    return sum;
}
