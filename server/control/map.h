/* SPDX-License-Identifier: Apache-2.0 */
/* map: the cluster map and the deterministic state machine that changes it (docs/internals/map.md).
 *
 * Concept: nodes, volumes, shards, sessions. The only way to change a map is map_apply of a committed entry; the same
 *   entries in the same order give the same map on every node and on both threads of a daemon (control thread and data
 *   thread keep a replica each and apply the same entries), so "node down" is one entry from which every replica derives
 *   in_sync, primary and epoch of all of that node's shards.
 * Threading: a map belongs to one thread. Errors: map_apply never fails on a committed entry: an entry whose
 *   compare-and-set does not hold (R4) or that is malformed changes nothing but the version and gives a result code.
 * Ownership: the map owns its objects; pointers into it are valid until the next map_apply.
 */
#ifndef ASHLAR_SERVER_CONTROL_MAP_H
#define ASHLAR_SERVER_CONTROL_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAP_NODES_MAX 256u /* nodes, and the largest node id */
#define MAP_REPLICAS_MAX 5u
#define MAP_MEMBERS_MAX 7u /* replicas plus members being replaced */
#define MAP_NAME_MAX 64u
#define MAP_ADDRESS_MAX 108u
#define MAP_LABEL_MAX 32u
#define MAP_VOLUMES_MAX 65536u
#define MAP_SNAPSHOTS_MAX 4096u /* of one volume */
#define MAP_GROUP_MAX 64u       /* volumes in one snapshot of a group */
#define MAP_BASE_DEPTH_MAX 16u  /* clones of clones */
#define MAP_SHARDS_MAX (1u << 20)
#define MAP_ENTRY_BYTES_MAX (128u * 1024u)
#define MAP_FEATURE_LEVEL 1u
#define MAP_SHARD_BYTES_DEFAULT (1ull << 30)

enum map_stop { MAP_STOP_CLEAN = 0, MAP_STOP_SAME_BOOT = 1, MAP_STOP_REBOOTED = 2, MAP_STOP_EMPTY = 3 /* new store */ };

struct map_node {
    uint32_t id;
    bool up;           /* registered and not declared down */
    bool store_failed; /* its drive failed: holds nothing usable until it registers again */
    bool out;          /* down for longer than out_after: its shards get replacements */
    uint8_t stop;      /* enum map_stop of the latest registration (R1) */
    uint64_t incarnation;
    uint8_t store_uuid[16];
    uint64_t capacity_bytes;
    char data_address[MAP_ADDRESS_MAX]; /* "tcp:HOST:PORT" of the data thread */
    char unix_address[MAP_ADDRESS_MAX]; /* "unix:PATH" for clients of the same host; may be empty */
    char control_address[MAP_ADDRESS_MAX];
    char host[MAP_LABEL_MAX], rack[MAP_LABEL_MAX]; /* failure domain */
};

enum map_member_flags {
    MAP_MEMBER_IN_SYNC = 1u << 0,  /* has every acknowledged write */
    MAP_MEMBER_ELIGIBLE = 1u << 1, /* was in_sync in the last active epoch: may be elected when all are lost (R18) */
    MAP_MEMBER_LEAVING = 1u << 2,  /* being replaced: removed once the others suffice (R17) */
    /* Worst stop of its node since it last was in_sync in an active epoch (R18); cleared by add and activation. */
    MAP_MEMBER_UNCLEAN = 1u << 3,  /* process died, kernel lived */
    MAP_MEMBER_REBOOTED = 1u << 4, /* unflushed data may be gone */
    MAP_MEMBER_EMPTY = 1u << 5,    /* the store was replaced: nothing left; never a candidate */
    MAP_MEMBER_FULL = 1u << 6,     /* of a clone: holds every chunk itself, reads nothing through its parent */
    MAP_MEMBER_UNROLLED = 1u << 7, /* the volume's rollback is still to be done there, or to be durable */
};

struct map_member {
    uint32_t node;
    uint32_t flags;
    uint64_t instance;             /* membership instance, never reused (R3) */
    uint64_t incarnation;          /* of the node when it became in_sync */
    uint64_t eligible_incarnation; /* of the node when it became eligible; a later one is the same store, restarted */
    uint64_t e_r;                  /* last epoch in which it was in_sync (R15); set by the removing entry */
};

struct map_shard {
    uint64_t volume;
    uint32_t index;
    uint32_t member_count;
    struct map_member members[MAP_MEMBERS_MAX];
    uint32_t primary; /* node id; 0: none (no candidate alive) */
    uint64_t epoch;
    uint64_t active_epoch;    /* R12: last epoch recorded as active; serving needs active_epoch == epoch */
    uint64_t loss_number;     /* R13 */
    uint32_t sealed;          /* R20: no write of a generation up to this one is accepted any more */
    uint64_t changed_version; /* map version of the last change: cheap change detection */
};

struct map_session {
    uint64_t number;        /* newest session number of the volume; 0: never attached */
    uint8_t attachment[16]; /* client's random id, the same over fail-overs (R19) */
    uint32_t gateway;       /* node through which it entered */
    uint64_t gateway_incarnation;
    bool open;
    bool read_only;
    bool continued; /* the one before was of the same attachment: nobody else reads (R10, R19) */
};

/* R20: generation g is frozen. OPENING until every shard sealed it. */
enum map_snap_state {
    MAP_SNAP_OPENING = 1,
    MAP_SNAP_COMPLETE = 2,
    MAP_SNAP_HELD = 3, /* deleted, without a name: clones still read it */
};
struct map_snap {
    uint32_t generation;
    uint32_t holders;    /* clones of it */
    uint8_t state;       /* enum map_snap_state */
    uint64_t size;       /* of the volume, bytes */
    uint64_t created_ms; /* since 1970, as the one who asked said */
    uint64_t group;      /* map version of its entry: the same number in several volumes is one group */
    char name[MAP_NAME_MAX];
};

struct map_volume {
    uint64_t id;             /* never reused */
    char name[MAP_NAME_MAX]; /* empty when deleting */
    uint64_t size;           /* bytes, multiple of 4096 */
    uint64_t shard_bytes;
    uint32_t shard_count;
    uint32_t replicas, min_replicas;
    uint32_t home;          /* node id; 0: none */
    uint32_t generation;    /* current (head) generation, from 1 */
    bool deleting;          /* gone for everybody but the clones of its snapshots */
    bool flattening;        /* a clone whose members copy what they still read through its parent */
    struct map_snap *snaps; /* ascending generations, all below the head */
    uint32_t snap_count;
    uint32_t unsealed; /* shards that did not seal the opening snapshot yet */
    struct {
        uint64_t volume; /* 0: no clone */
        uint32_t generation;
    } base;
    struct {
        uint32_t from, to; /* the latest one: generation `to` began as a copy of `from`; to 0: none */
    } rollback;
    uint64_t snaps_version; /* map version of the last change of snaps, generation, base or rollback */
    struct map_session session;
    struct map_shard *shards; /* shard_count entries */
    uint64_t changed_version;
};

struct map; /* opaque: map_create … */

/* ---- entries ---- */
enum map_entry_kind {
    MAP_ENTRY_CLUSTER_INIT = 1,  /* cluster_id; first entry, proposed by the first leader */
    MAP_ENTRY_NODE_REGISTER = 2, /* a daemon start (R1) */
    MAP_ENTRY_NODE_DOWN = 3,     /* {node, incarnation}: CAS on incarnation */
    MAP_ENTRY_NODE_OUT = 4,      /* {node, incarnation}: out_after passed */
    MAP_ENTRY_NODE_REMOVE = 5,   /* operator: forget a node that holds no member */
    MAP_ENTRY_STORE_FAILED = 6,  /* {node, incarnation}: its drive failed; leaves every in_sync set it can, resigns */
    MAP_ENTRY_VOLUME_CREATE = 16,
    MAP_ENTRY_VOLUME_DELETE = 17,
    MAP_ENTRY_VOLUME_RESIZE = 18,
    MAP_ENTRY_VOLUME_SET = 19,    /* home, min_replicas, replicas */
    MAP_ENTRY_SNAPSHOT_OPEN = 20, /* {volumes, snapshot, created_ms}: head + 1, the old head is being frozen (R20) */
    MAP_ENTRY_SNAPSHOT_SEALED =
        21, /* primary: runs of shards whose writes up to the generation are durable everywhere */
    MAP_ENTRY_SNAPSHOT_ABORT = 22,  /* {volume, generation}: the opening one, and all of its group */
    MAP_ENTRY_SNAPSHOT_DELETE = 23, /* {volume, snapshot} */
    MAP_ENTRY_VOLUME_ROLLBACK = 24, /* {volume, snapshot}: detached only */
    MAP_ENTRY_VOLUME_CLONE = 25,    /* {volume, snapshot} -> a volume of name to_name */
    MAP_ENTRY_VOLUME_FLATTEN = 26,  /* {volume}: its members begin to copy */
    MAP_ENTRY_MEMBER_FULL = 27,     /* {node, incarnation, runs}: this node's members of a clone hold everything */
    MAP_ENTRY_SESSION_OPEN = 32,
    MAP_ENTRY_SESSION_CLOSE = 33,
    MAP_ENTRY_MEMBER_DROP =
        48, /* primary: {volume, shard, epoch, node, incarnation}, to_node: who says so, 0: unsaid: out of in_sync (R8) */
    MAP_ENTRY_MEMBER_ADD = 49, /* primary: JOINING -> in_sync: CAS on (epoch, node incarnation, instance) (R17) */
    MAP_ENTRY_EPOCH_ACTIVE =
        50, /* primary: batch of {volume, shard, epoch} (R12), CAS on epoch and primary incarnation */
    MAP_ENTRY_PRIMARY_MOVE = 51,  /* {volume, shard, epoch, to} */
    MAP_ENTRY_MEMBER_ATTACH = 52, /* leader: new member, not in_sync, fresh instance (replacement, R17) */
    MAP_ENTRY_MEMBER_DETACH = 53, /* leader: member removed, only when the remaining in_sync suffice */
    MAP_ENTRY_ELECT = 54,         /* leader: R18, after grace; for every shard without a live primary */
    MAP_ENTRY_FORCE_PROMOTE = 55, /* operator (R15, R18): {volume, shard or all, node} */
};

struct map_weight { /* free space as the leader knows it: placement input, carried in the entry to stay deterministic */
    uint32_t node;
    uint64_t free_bytes;
};

/* SNAPSHOT_SEALED: {volume, first, count, epoch, generation}; MEMBER_FULL: epoch and generation 0. */
struct map_run {
    uint64_t volume;
    uint32_t first, count; /* shards */
    uint64_t epoch;        /* CAS: of each of them */
    uint32_t generation;
};

/* Host-order form of every entry; map_entry_encode/decode (format: docs/internals/map.md). */
struct map_entry {
    enum map_entry_kind kind;
    uint8_t request
        [16]; /* client request id: a second entry with the same id gives the first one's result (exactly once) */
    uint32_t node;
    uint64_t
        incarnation; /* NODE_REGISTER: of the previous registration as the daemon knows it, 0 if unknown; else CAS */
    uint64_t volume;
    uint32_t shard; /* UINT32_MAX: all */
    uint64_t epoch;
    uint64_t instance;
    uint32_t to_node;
    uint64_t size, shard_bytes;
    uint32_t replicas, min_replicas, home;
    uint64_t session;
    uint8_t attachment[16];
    uint32_t flags; /* SESSION_OPEN, SESSION_CLOSE: MAP_SESSION_*; VOLUME_SET: MAP_SET_*; others: MAP_FORCE */
    uint64_t cluster_id;
    char name[MAP_NAME_MAX];
    char snapshot[MAP_NAME_MAX]; /* SNAPSHOT_OPEN, _DELETE, VOLUME_ROLLBACK, _CLONE */
    char to_name[MAP_NAME_MAX];  /* VOLUME_CLONE */
    uint32_t generation;         /* SNAPSHOT_ABORT */
    uint64_t created_ms;         /* SNAPSHOT_OPEN */
    struct map_node node_info;   /* NODE_REGISTER */
    const struct map_weight
        *weights; /* VOLUME_CREATE, VOLUME_RESIZE, MEMBER_ATTACH: borrowed by encode; decode points into scratch */
    uint32_t weight_count;
    const struct map_active {
        uint64_t volume;
        uint32_t shard;
        uint64_t epoch;
    } * actives; /* EPOCH_ACTIVE */
    uint32_t active_count;
    const uint64_t *volumes; /* SNAPSHOT_OPEN: ids, ascending */
    uint32_t volume_count;
    const struct map_run *runs; /* SNAPSHOT_SEALED, MEMBER_FULL */
    uint32_t run_count;
};
/* SESSION_OPEN: READ_ONLY, FORCE (take it from another attachment), FAILOVER. SESSION_CLOSE: FORCE fences the holder, whatever
 * the number. */
enum map_session_flags { MAP_SESSION_READ_ONLY = 1, MAP_SESSION_FORCE = 2, MAP_SESSION_FAILOVER = 4 };
/* VOLUME_SET: home is set only with this flag (0: no home); replicas and min_replicas 0: unchanged. */
enum map_set_flags { MAP_SET_HOME = 1 };
/* VOLUME_DELETE, VOLUME_RESIZE (shrink), FORCE_PROMOTE (although there is a live primary). */
enum map_force_flags { MAP_FORCE = 1 };

/* Result of applying one entry, the same on every node. */
struct map_result {
    int rc; /* 0, -EEXIST, -ENOENT, -EBUSY, -ESTALE (CAS failed), -EINVAL, -ENOSPC (not enough nodes), -ENAMETOOLONG ... */
    uint64_t
        value; /* NODE_REGISTER: incarnation; VOLUME_CREATE: id; SESSION_OPEN, SESSION_CLOSE: number; MEMBER_DROP, _ADD,
                            PRIMARY_MOVE: epoch; MEMBER_ATTACH: instance; EPOCH_ACTIVE, ELECT, FORCE_PROMOTE, SNAPSHOT_SEALED,
                            MEMBER_FULL: shards changed; SNAPSHOT_OPEN: group; VOLUME_CLONE: id; VOLUME_ROLLBACK: generation */
    uint64_t version;
};

/* What changed, for the layers that follow the map (called during map_apply, after the change is complete). */
struct map_observer {
    void (*node_changed)(void *arg, const struct map_node *node);
    void (*volume_changed)(void *arg, const struct map_volume *volume); /* created, resized, set, session */
    void (*volume_removed)(void *arg, uint64_t volume);                 /* before the memory goes */
    void (*shard_changed)(void *arg, const struct map_volume *volume, const struct map_shard *shard);
    void (*reset)(void *arg); /* a snapshot replaced everything: look at all again */
    void *arg;
    void (*shards_cut)(void *arg, uint64_t volume, uint32_t first, uint32_t end); /* by a shrink: [first, end) */
};

struct map *map_create(void);
void map_destroy(struct map *map);
void map_set_observer(struct map *map, const struct map_observer *observer);
/* Encodes into buffer; returns bytes or -EMSGSIZE / -EINVAL. */
int map_entry_encode(const struct map_entry *entry, void *buffer, size_t capacity);
/* Decodes hostile bytes; lists point into *scratch (malloc'ed array pair owned by the entry, map_entry_free). */
int map_entry_decode(const void *bytes, size_t len, struct map_entry *ret_entry);
void map_entry_free(struct map_entry *entry);
/* The request id of encoded bytes, in place: len >= MAP_ENTRY_HEADER_BYTES (else -EBADMSG). */
#define MAP_ENTRY_HEADER_BYTES 20u
int map_entry_request(const void *bytes, size_t len, uint8_t ret_request[16]);
int map_entry_set_request(void *bytes, size_t len, const uint8_t request[16]);
/* Applies committed bytes; version must be map_version(map) + 1. Malformed bytes give rc -EBADMSG and change only the version. */
void map_apply(struct map *map, uint64_t version, const void *bytes, size_t len, struct map_result *ret_result);
uint64_t map_version(const struct map *map);
uint64_t map_cluster_id(const struct map *map);
uint32_t map_feature_level(const struct map *map);
uint64_t map_hash(
    const struct map *map); /* over all that a snapshot holds; what changed since the last call is hashed (R23) */
/* Snapshot: whole map, malloc'ed, given. */
int map_snapshot(const struct map *map, void **ret_bytes, size_t *ret_len);
int map_restore(struct map *map, const void *bytes, size_t len); /* hostile bytes; on error the map is unchanged */

const struct map_node *map_node_by_id(const struct map *map, uint32_t id);
const struct map_volume *map_volume_by_id(const struct map *map, uint64_t id);
bool map_name_valid(const char name[MAP_NAME_MAX]); /* of a volume or snapshot */
const struct map_volume *map_volume_by_name(const struct map *map, const char *name);
const struct map_shard *map_shard_at(const struct map *map, uint64_t volume, uint32_t shard); /* NULL when absent */
void map_each_node(const struct map *map, void (*fn)(void *arg, const struct map_node *node), void *arg);
void map_each_volume(const struct map *map, void (*fn)(void *arg, const struct map_volume *volume), void *arg);

/* Snapshots (map_snap.c). */
const struct map_snap *map_snap_by_name(const struct map_volume *volume, const char *name); /* HELD ones have none */
const struct map_snap *map_snap_by_generation(const struct map_volume *volume, uint32_t generation);
const struct map_snap *map_snap_opening(const struct map_volume *volume); /* NULL: none */
/* Generations that must stay readable, ascending, the head last: at most snap_count + 1; returns the count. */
uint32_t map_live_generations(const struct map_volume *volume, uint32_t *ret_generations);
/* The oldest of them that is not older than this one: who inherits what it holds, once nobody needs it itself. 0: none. */
uint32_t map_live_heir(const struct map_volume *volume, uint32_t generation);
/* The oldest generation that a write of a client may be stamped with at this shard (R20). */
uint32_t map_shard_floor(const struct map_volume *volume, const struct map_shard *shard);
/* Clones read through that node's member: it must stay until they need it no more. */
bool map_shard_is_base(const struct map *map, const struct map_shard *shard, uint32_t node);
/* Somebody has the volume open, through a gateway that is up. */
bool map_session_alive(const struct map *map, const struct map_volume *volume);

/* Questions asked everywhere. */
const struct map_member *map_member_of(const struct map_shard *shard, uint32_t node); /* NULL: not a member */
uint32_t map_in_sync_count(const struct map_shard *shard);
/* In_sync or eligible, store not empty, node up and its store not failed: may be elected (R18). */
bool map_member_electable(const struct map *map, const struct map_member *member);
uint64_t map_rank(uint64_t volume, uint32_t shard, uint32_t node); /* rendezvous rank: the lowest takes over */
/* Result remembered for a request id (exactly once). */
bool map_request_result(const struct map *map, const uint8_t request[16], struct map_result *ret_result);
uint32_t map_node_count(const struct map *map);
bool map_member_live(const struct map *map,
                     const struct map_member *member); /* node up, store not failed, same incarnation if in_sync */
/* Placement (pure): home first, then distinct hosts by weighted rendezvous hashing on free space, racks spread first when there
 * are enough. Fills up to replicas node ids; returns how many could be placed. exclude: nodes not to use. */
uint32_t map_place(const struct map *map, uint64_t volume, uint32_t shard, uint32_t replicas, uint32_t home,
                   const struct map_weight *weights, uint32_t weight_count, const uint32_t *exclude,
                   uint32_t exclude_count, uint32_t *ret_nodes);

#endif
