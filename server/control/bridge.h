/* SPDX-License-Identifier: Apache-2.0 */
/* bridge: what the control thread and the data thread of one daemon say to each other.
 *
 * Concept: two ops structs of messages, one a direction. The daemon implements both with mailboxes
 *   (ring_post towards data, uv_async towards control), the simulator with env_defer. Messages of one
 *   direction arrive in the order in which they were sent; none is lost while both threads live.
 *   The data thread keeps its own map replica and feeds it with the very bytes given here.
 * Threading: bridge_to_data is called on the control thread, bridge_to_control on the data thread. A
 *   request's callback runs on the thread that made the request, never inside the call.
 * Errors: messages do not fail. A request ends exactly once with its result; -ESHUTDOWN when control
 *   closes first.
 * Ownership: byte strings are borrowed for the call (the bridge copies); request structs are embedded
 *   by the caller and borrowed until their callback; struct bridge_stats is given.
 */
#ifndef ASHLAR_SERVER_CONTROL_BRIDGE_H
#define ASHLAR_SERVER_CONTROL_BRIDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/histogram.h"
#include "server/control/map.h"

/* ---- control -> data ---- */
struct bridge_to_data;
struct bridge_to_data_ops {
    /* This node's identity in the cluster and its own incarnation (R1): no shard may be touched and no link opened before;
     * the map as of the registration was sent before. A second call means: declared down while alive and registered
     * again; everything held for the older incarnation (links, windows, requests in flight, leases) is void and starts anew,
     * as after a restart. */
    void (*registered)(struct bridge_to_data *b, uint64_t cluster_id, uint32_t node, uint64_t incarnation);
    /* The map as of version: map_restore. Comes before any map_entry, and again after falling behind. */
    void (*map_snapshot)(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len);
    /* map_apply; version is map_version + 1. Answer with bridge applied() once the effects are in force. */
    void (*map_entry)(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len);
    /* R9: as primary serve reads (and acknowledge as the only in_sync member) until until_ns
     * (CLOCK_BOOTTIME, as env_now_ns) and only once map_version is applied. until_ns 0: lease void now. */
    void (*lease)(struct bridge_to_data *b, uint64_t until_ns, uint64_t map_version);
    /* Asks for bridge stats(); one at a time. */
    void (*stats_request)(struct bridge_to_data *b);
    /* The daemon ends: park everything, then close the store clean. */
    void (*stop)(struct bridge_to_data *b);
};
struct bridge_to_data {
    const struct bridge_to_data_ops *ops;
};

/* ---- data -> control ---- */

/* A proposal (map_entry_encode). request all zero: control draws a random id. Control retries over changes
 * of leader until there is a result (exactly once by the id). When cb runs, map_entry for
 * result->version was sent to the data thread before: its own map already shows the effect. */
struct bridge_propose {
    void (*cb)(struct bridge_propose *req, const struct map_result *result);
    void *owner;
    /* private to the bridge */
    struct bridge_propose *next;
    void *impl;
    struct map_result result;
};

/* Attach: SESSION_OPEN, then the wait of R19 (every node that may be primary has applied it, or its lease ran out). */
struct bridge_attach {
    /* in */
    char volume_name[MAP_NAME_MAX];
    uint8_t attachment[16];
    uint32_t flags; /* enum map_session_flags */
    /* out, valid when rc == 0 */
    uint64_t volume;
    uint64_t session;
    uint64_t size;                                 /* bytes */
    uint64_t version;                              /* map version that opened it; already sent to the data thread */
    void (*cb)(struct bridge_attach *req, int rc); /* -ENOENT, -EBUSY (open elsewhere), ... */
    void *owner;
    /* private to the bridge */
    struct bridge_attach *next;
    void *impl;
    int rc;
};

/* Stages of an I/O, histograms in bridge_volume_stats. */
enum bridge_stage {
    BRIDGE_STAGE_TOTAL, /* gateway: frame parsed to answer queued */
    BRIDGE_STAGE_GATEWAY,
    BRIDGE_STAGE_PRIMARY,
    BRIDGE_STAGE_NETWORK, /* network and backups */
    BRIDGE_STAGE_DRIVE,
    BRIDGE_STAGE_COUNT,
};
enum bridge_op { BRIDGE_OP_READ, BRIDGE_OP_WRITE, BRIDGE_OP_ZERO, BRIDGE_OP_FLUSH, BRIDGE_OP_COUNT };

struct bridge_volume_stats { /* as this node's gateway saw it, since start */
    uint64_t volume;
    uint64_t count[BRIDGE_OP_COUNT];
    uint64_t bytes[BRIDGE_OP_COUNT];
    uint64_t errors;
    uint64_t parked; /* now */
    struct histogram latency[BRIDGE_OP_COUNT];
    struct histogram write_stage[BRIDGE_STAGE_COUNT];
};

struct bridge_reader { /* clients of this gateway that have a snapshot attached */
    uint64_t volume;
    uint32_t generation;
    uint32_t clients;
};

struct bridge_shard_sync { /* resync progress of one member, as its primary sees it */
    uint64_t volume;
    uint32_t shard;
    uint32_t node;
    uint32_t chunks_total, chunks_done;
};

struct bridge_link { /* to another daemon, as this one made it */
    uint32_t node;
    bool up, rdma;
    char device[32]; /* of RDMA */
    char reason[64]; /* why it is TCP although RDMA is wanted; "" */
};

struct bridge_rdma { /* of all links; zero without RDMA */
    uint64_t sends, control_sends, reads, read_bytes, offers, doorbells, completions, wakeups, receives;
    uint64_t tx_copied_bytes, rx_copied_bytes, links_failed, offers_cut;
};

/* What the data thread tells about itself; malloc'ed with its arrays, ended by release. */
struct bridge_stats {
    uint64_t taken_ns;
    uint64_t oldest_io_ns; /* age of the oldest I/O in flight, of the gateway, replica and drive (R23) */
    uint64_t turn_ns_max;  /* longest turn of the loop since the last snapshot */
    /* store */
    uint64_t bytes_total, bytes_allocated, bytes_reserved, bytes_prewritten;
    uint64_t chunks, marks, suspect_regions;
    uint64_t reads, writes, zeroes, flushes, drive_flushes, kv_batches, kv_syncs;
    uint64_t bytes_written_guest, bytes_written_drive;
    uint64_t blocks_verified, blocks_adopted, blocks_damaged, blocks_repaired;
    uint64_t scrub_passes, scrub_errors;
    uint64_t records_removed,
        shards_to_reap; /* of deleted snapshots: removed since start; shards where some may be left */
    bool near_full, full, failed;
    /* replica */
    uint64_t shards_primary, shards_serving, shards_parked;
    uint64_t seal_pauses, seal_pause_p99_ns, seal_pause_max_ns; /* of writes that waited because of a snapshot */
    uint64_t takeovers, resyncs_done, resync_chunks, resync_bytes;
    /* links and clients */
    uint32_t peers, clients;
    uint32_t link_count;
    struct bridge_link *links;
    struct bridge_rdma rdma;
    uint32_t volume_count;
    struct bridge_volume_stats *volumes;
    uint32_t reader_count;
    struct bridge_reader *readers;
    uint32_t sync_count;
    struct bridge_shard_sync *syncs;
    void (*release)(struct bridge_stats *self);
};

struct bridge_to_control;
struct bridge_to_control_ops {
    void (*propose)(struct bridge_to_control *b, struct bridge_propose *req, const void *entry, size_t len);
    void (*attach)(struct bridge_to_control *b, struct bridge_attach *req);
    /* The client left or is gone for good: SESSION_CLOSE, retried, no answer. */
    void (*detach)(struct bridge_to_control *b, uint64_t volume, uint64_t session);
    /* Every entry up to version is in force: fences raised, older sessions refused. hash: map_hash, or 0 if
     * not computed this time (R23). Sent after each batch of entries; drives session grants (R19). */
    void (*applied)(struct bridge_to_control *b, uint64_t version, uint64_t hash);
    /* A link to that node was refused, reset or timed out: the leader probes it (R10). */
    void (*suspect)(struct bridge_to_control *b, uint32_t node);
    /* The store failed, sticky (R13): STORE_FAILED is proposed. */
    void (*store_failed)(struct bridge_to_control *b, int rc);
    /* Age of the oldest I/O in flight, at least each 500 ms; heartbeats carry it, and a data thread that stops
     * telling is taken for hung (R23). */
    void (*alive)(struct bridge_to_control *b, uint64_t oldest_io_ns);
    void (*stats)(struct bridge_to_control *b, struct bridge_stats *stats);
};
struct bridge_to_control {
    const struct bridge_to_control_ops *ops;
};

#endif
