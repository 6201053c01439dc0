/* SPDX-License-Identifier: Apache-2.0 */
/* replica: this node's shard replicas: ordering writes as primary, obeying as backup, takeover, resync.
 *
 * Concept: one struct replica per shard of which this node is a member. Rules R1..R18 and invariants I1..I9 are enforced here and
 *   cited where they are (docs/internals/replication.md).
 * Threading: the data thread's; no I/O, clock or randomness but through env, store and peers.
 * Errors: an op ends through its callback, exactly once, never inside the call: 0, -ESTALE (not primary here, or session or epoch
 *   too old: the gateway looks at the map again), -ENOSPC, -EIO, -EILSEQ (damaged everywhere), -ECANCELED (source gone).
 * Ownership: replica_op is embedded by the caller and borrowed, with its buffers, until cb.
 */
#ifndef ASHLAR_SERVER_REPLICA_REPLICA_H
#define ASHLAR_SERVER_REPLICA_REPLICA_H

#include <stdbool.h>
#include <stdint.h>

#include "common/env.h"
#include "common/histogram.h"
#include "common/list.h"
#include "server/control/map.h"
#include "server/replica/peers.h"
#include "server/store/store.h"

struct replicas;
struct replica;

/* A request to the primary: READ, WRITE, ZERO on one shard, FLUSH on all shards of a volume this node is primary of. */
struct replica_op {
    /* public: caller */
    uint16_t opcode; /* WIRE_READ, WIRE_WRITE, WIRE_ZERO, WIRE_FLUSH */
    uint32_t flags;  /* WIRE_F_FUA, WIRE_F_NO_HOLE, WIRE_F_TRIM */
    uint64_t volume;
    uint32_t shard;
    uint32_t generation; /* 0: head */
    uint64_t session;
    uint64_t
        epoch; /* the shard's, as the sender knew it; 0: not said. Older than this primary's time in office: refused */
    uint64_t offset; /* bytes in the shard; READ and WRITE stay inside one 1 MiB chunk, ZERO inside one 16 MiB region */
    uint32_t length; /* bytes; WRITE: whole blocks, or a piece inside one block */
    struct buf *buf; /* READ, WRITE: data at buf->data + buf_offset, 4 KiB aligned */
    uint32_t buf_offset;
    uint32_t *crcs;            /* WRITE: in; READ: out, may be NULL: one CRC32C a block (or of the piece) */
    struct peer_source source; /* node 0: the local gateway */
    void (*cb)(struct replica_op *op, int rc);
    void *owner;
    /* out, valid in cb */
    uint64_t loss_number;
    uint32_t stage_ns[4]; /* wait (lock, park), drive, network + backups, total */
    /* private */
    struct list_node link; /* in replica->ops or ->parked */
    uint8_t state;
    bool exclusive, locked, sent, dead;
    int rc;
    uint64_t lsn_epoch, lsn_n;
    uint64_t t_submit, t_start, t_drive, t_net;
    void *impl;
    struct env_task task;
};

/* A proposal on its way through the control plane. */
struct replica_proposal {
    void (*cb)(struct replica_proposal *p, const struct map_result *result); /* result->rc -ETIMEDOUT..: unknown (R4) */
    void *owner;
};

struct replicas_callbacks {
    void (*propose)(void *arg, const struct map_entry *entry, struct replica_proposal *p);
    void (*damage_found)(void *arg, uint64_t volume, uint32_t shard, uint64_t offset, bool repaired);
};

struct replicas_config {
    struct env *env;
    struct store *store;
    struct peers *peers;
    struct buf_pool *pool;
    const struct map *map;
    uint32_t node;
    uint64_t incarnation;
    uint64_t drop_after_ns;    /* a member unreachable this long is reported (R8), default 1 s */
    uint32_t sync_shards_max;  /* concurrent resyncs as source, default 2 (R17) */
    uint32_t sync_chunks_max;  /* chunks in flight per resync, default 4 */
    uint64_t sync_bytes_per_s; /* 0: no limit */
    struct replicas_callbacks callbacks;
    void *arg;
};

struct replicas *replicas_create(const struct replicas_config *config);
/* The daemon ends: steps down everywhere, every op ends, messages are dropped. Call replicas_quiet until it holds (peers and store
 * are needed till then), then replicas_destroy. */
void replicas_stop(struct replicas *r);
bool replicas_quiet(const struct replicas *r);    /* nothing refers to a shard of the store any more */
void replicas_destroy(struct replicas *replicas); /* no op in flight: fails what is parked with -ECANCELED first */

/* The map's observer, forwarded: */
void replicas_shard_changed(struct replicas *r, const struct map_volume *volume, const struct map_shard *shard);
void replicas_volume_changed(struct replicas *r, const struct map_volume *volume);
void replicas_shards_cut(struct replicas *replicas, uint64_t volume, uint32_t first, uint32_t end); /* [first, end) */
void replicas_volume_removed(struct replicas *r, uint64_t volume);
void replicas_node_changed(struct replicas *r, const struct map_node *node);
void replicas_map_reset(struct replicas *r);
/* After a batch of entries was applied. */
void replicas_map_settled(struct replicas *r);

/* Lease (R9): valid until until_ns, effective once this thread's map has applied map_version. */
void replicas_lease(struct replicas *r, uint64_t until_ns, uint64_t map_version);
/* The lease ended some time ago and no new one came: this node cannot reach the control plane, its clients fare better
 * elsewhere. False while no lease was ever granted (a node that starts). */
bool replicas_cut_off(const struct replicas *r);

void replicas_submit(struct replicas *r, struct replica_op *op);
/* A request of another daemon that concerns replicas (everything but gateway traffic is handled here; gateway requests
 * READ..FLUSH from remote gateways too). msg is given. */
void replicas_message(struct replicas *r, const struct peer_source *source, struct msg *msg);
void replicas_peer_up(struct replicas *r, uint32_t node);
void replicas_peer_down(struct replicas *r, uint32_t node);
void replicas_source_lost(struct replicas *r, const struct peer_source *source);
void replicas_store_damaged(struct replicas *r, struct store_shard *shard, uint64_t offset);
void replicas_store_failed(struct replicas *r);

/* Block status: this node must be primary and serving; runs in ascending order; -ESTALE otherwise. */
int replicas_extents(struct replicas *r, uint64_t volume, uint32_t shard, uint64_t offset, uint64_t length,
                     struct store_extent *ret_extents, uint32_t max, uint32_t *ret_count);

/* The same of any generation, and what changed since an older one; async. */
#define STORE_EXTENT_SAME 3u /* state: nothing changed here */
struct replica_extents {
    /* public: caller */
    uint64_t volume;
    uint32_t shard;
    uint32_t generation;          /* 0: head */
    uint32_t since;               /* 0: extents; else what differs from that snapshot */
    uint64_t offset, length;      /* bytes in the shard; 4 KiB multiples */
    struct store_extent *extents; /* room for max, caller's until cb */
    uint32_t max;
    void (*cb)(struct replica_extents *req, int rc); /* never inside the call */
    void *owner;
    /* out: gapless from offset on, perhaps less than asked for */
    uint32_t count;
    /* private */
    struct replicas *set;
    struct store_extent *found;
    struct store_diff diff;
    struct env_task task;
    int rc;
};
void replicas_extents_submit(struct replicas *r, struct replica_extents *req);

struct replica_sync_info { /* resync progress, for status */
    uint64_t volume;
    uint32_t shard, node;
    uint32_t chunks_total, chunks_done;
    uint64_t bytes_copied;
    uint64_t started_ns;
    bool joining;
};
struct replicas_stats {
    uint64_t shards, primaries, serving, parked_ops, ops_in_flight;
    uint64_t takeovers, drops_proposed, syncs_completed, sync_chunks, sync_bytes, repaired_blocks;
    uint64_t reads, writes, zeroes, flushes, read_bytes, written_bytes;
    struct histogram read_total, write_total, flush_total; /* latency by stage */
    struct histogram write_wait, write_drive, write_network, read_drive;
    struct histogram seal_pause; /* of the writes that waited for older ones, because of a snapshot (seal.c) */
};
const struct replicas_stats *replicas_stats(const struct replicas *r);
uint32_t replicas_syncs(const struct replicas *r, struct replica_sync_info *ret_infos, uint32_t max);

#endif
