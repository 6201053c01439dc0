/* SPDX-License-Identifier: Apache-2.0 */
/* map_state: the inside of a cluster map, shared by the map_*.c files only.
 *
 * Concept: map_apply (map.c) decodes an entry and hands it to one map_apply_<what> function; that one
 *   changes objects and calls map_touch_* for each, so that observers hear of it once the change is complete.
 *   Shard rules that several entries share are in map_shard.c.
 * Threading, errors, ownership: as in map.h. Memory that runs out ends the process: a replica that
 *   skips an entry would no longer be one.
 */
#ifndef ASHLAR_SERVER_CONTROL_MAP_STATE_H
#define ASHLAR_SERVER_CONTROL_MAP_STATE_H

#include "server/control/map.h"

#define MAP_REQUESTS_MAX 4096u                    /* results remembered: a ring */
#define MAP_REQUEST_SLOTS (MAP_REQUESTS_MAX * 4u) /* open addressing, at most a quarter full */

struct map_request {
    uint8_t id[16];
    struct map_result result;
};

struct map_change {
    struct map_volume *volume;
    uint32_t shard;
};

/* A volume and what its map keeps besides: the public part first. hashes: see map_hash.c. */
struct map_volume_box {
    struct map_volume volume;
    uint64_t shards_changed;           /* map version of the last change of one of its shards */
    uint64_t hashed_version;           /* shards changed after it are hashed anew */
    uint64_t hash_sum;                 /* of hashes[] */
    uint64_t *hashes;                  /* one a shard */
    uint32_t snap_capacity;            /* of volume.snaps */
    uint64_t snaps_hashed, snaps_hash; /* of volume.snaps, as of that snaps_version */
};

struct map {
    uint64_t version, cluster_id;
    uint32_t feature_level;
    uint64_t next_volume, next_instance, next_incarnation; /* never go back (R3) */
    struct map_node *nodes[MAP_NODES_MAX];                 /* ascending id */
    uint32_t node_count;
    struct map_volume **volumes; /* ascending id */
    uint32_t volume_count, volume_capacity;
    uint64_t shard_total;
    struct map_request *requests;         /* ring of MAP_REQUESTS_MAX */
    uint32_t request_head, request_count; /* head: the oldest */
    uint16_t *request_slots;              /* ring index + 1, 0: free */
    struct map_observer observer;
    struct map_change *changes; /* of the entry being applied */
    uint32_t change_count, change_capacity;
    struct map_volume **touched; /* volumes, of the entry being applied */
    uint32_t touched_count, touched_capacity;
    struct map_node *node_touched;
    uint64_t applying; /* version of the entry being applied, 0 outside */
};

void *map_alloc(size_t bytes);                 /* zeroed; never NULL */
void *map_realloc(void *memory, size_t bytes); /* never NULL */

/* ---- map.c ---- */
void map_touch_shard(struct map *map, struct map_volume *volume, struct map_shard *shard);
void map_touch_volume(struct map *map, struct map_volume *volume);
void map_touch_forget(struct map *map, const struct map_volume *volume); /* it goes: nobody hears of it again */
void map_touch_node(struct map *map, struct map_node *node);
void map_requests_clear(struct map *map);
/* Remembers a result, forgetting the oldest when full. */
void map_request_add(struct map *map, const uint8_t id[16], const struct map_result *result);

/* ---- map_query.c ---- */
struct map_node *map_find_node(const struct map *map, uint32_t id);
struct map_volume *map_find_volume(const struct map *map, uint64_t id);
struct map_shard *map_find_shard(const struct map *map, uint64_t volume, uint32_t shard,
                                 struct map_volume **ret_volume);
struct map_member *map_find_member(struct map_shard *shard, uint32_t node);
/* entry->volume, or if 0 entry->name. */
struct map_volume *map_entry_volume(const struct map *map, const struct map_entry *entry);
bool map_node_usable(const struct map_node *node); /* up and its store not failed */

/* ---- map_volume.c: volumes as objects ---- */
struct map_volume *map_volume_new(void);
void map_volume_insert(struct map *map, struct map_volume *volume); /* given; id above all others */
void map_volume_remove(struct map *map, struct map_volume *volume); /* and frees it */
void map_volume_set_shard_count(struct map *map, struct map_volume *volume, uint32_t count); /* new ones zeroed */
void map_volume_free(struct map_volume *volume);
static inline struct map_volume_box *map_volume_box(struct map_volume *volume)
{
    return (struct map_volume_box *)(void *)volume;
}

/* ---- map_snap.c: snapshots as objects ---- */
struct map_snap *map_snap_find(struct map_volume *volume, uint32_t generation); /* NULL: none */
struct map_snap *map_snap_add(struct map_volume *volume, uint32_t generation);  /* above all others */
void map_snap_remove(struct map_volume *volume, struct map_snap *snap);
/* A deleted snapshot goes when no clone reads it and no rollback to it is under way. */
void map_snap_unneeded(struct map *map, struct map_volume *volume, uint32_t generation);
void map_snap_release(struct map *map, uint64_t volume, uint32_t generation); /* a clone less; may remove volumes */
void map_touch_snaps(struct map *map, struct map_volume *volume);
void map_volume_bury(struct map *map, struct map_volume *volume); /* deleted: gone, or hidden while clones read it */

/* ---- map_shard.c: rules of one shard ---- */
/* The member's node is gone, restarted or failed: out of in_sync if another live one carries on (R1, I3). */
void map_shard_lose(struct map *map, struct map_volume *volume, struct map_shard *shard, struct map_member *member);
/* Out of in_sync; the caller made sure that others suffice. */
void map_shard_remove_in_sync(struct map *map, struct map_volume *volume, struct map_shard *shard,
                              struct map_member *member);
bool map_shard_electable_all_up(const struct map *map, const struct map_shard *shard);
bool map_shard_elect(struct map *map, struct map_volume *volume, struct map_shard *shard); /* R18; false: nobody */
uint32_t map_shard_choose_primary(const struct map *map, const struct map_volume *volume,
                                  const struct map_shard *shard);
void map_shard_init_member(struct map *map, struct map_member *member, const struct map_node *node);
void map_shard_check(const struct map_volume *volume,
                     const struct map_shard *shard); /* asserts what holds of any shard */

/* ---- one function an entry kind; result->rc and value are theirs to set ---- */
typedef void map_apply_fn(struct map *map, const struct map_entry *entry, struct map_result *result);
map_apply_fn map_apply_cluster_init, map_apply_node_register, map_apply_node_down, map_apply_node_out,
    map_apply_node_remove, map_apply_store_failed;
map_apply_fn map_apply_volume_create, map_apply_volume_delete, map_apply_volume_resize, map_apply_volume_set,
    map_apply_session_open, map_apply_session_close;
map_apply_fn map_apply_snapshot_open, map_apply_snapshot_sealed, map_apply_snapshot_abort, map_apply_snapshot_delete,
    map_apply_volume_rollback, map_apply_volume_clone, map_apply_volume_flatten, map_apply_member_full;
map_apply_fn map_apply_member_drop, map_apply_member_add, map_apply_epoch_active, map_apply_primary_move,
    map_apply_member_attach, map_apply_member_detach, map_apply_elect, map_apply_force_promote;

/* ---- placement.c: map_place for many shards ---- */
struct placement_candidate {
    uint32_t node;
    uint32_t host, rack; /* class numbers: equal label, equal number */
    uint64_t weight;
};
struct placement {
    uint32_t count;
    struct placement_candidate candidates[MAP_NODES_MAX];
};
void placement_init(struct placement *p, const struct map *map, const struct map_weight *weights,
                    uint32_t weight_count);
/* As map_place. */
uint32_t placement_choose(const struct placement *p, uint64_t volume, uint32_t shard, uint32_t replicas, uint32_t home,
                          const uint32_t *exclude, uint32_t exclude_count, uint32_t *ret_nodes);

#endif
