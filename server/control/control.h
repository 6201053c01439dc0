/* SPDX-License-Identifier: Apache-2.0 */
/* control: the control core of one daemon: liveness, leases, registration, proposals, sessions, admin (docs/internals/control.md).
 *
 * Concept: every node runs one. It keeps a replica of the cluster map (map.h), fed by the log when this node is a voter, else
 *   by a subscription to a voter, and passes entries and leases on to the data thread (bridge.h). Every node sends heartbeats
 *   to the node that leads the log; that one also watches over the others and proposes what the map needs (duties).
 *   Links are for requests in one direction: answers come back on the link that asked.
 * Threading: the control thread's; several cores may live in one thread (simulator). No I/O, clock or randomness but through
 *   env, transport and log.
 * Errors: 0 / -errno. After the `fatal` hook the core does nothing more; the process should end.
 * Ownership: config is copied, what it points to outlives the core. Requests are borrowed until their callback.
 */
#ifndef ASHLAR_SERVER_CONTROL_CONTROL_H
#define ASHLAR_SERVER_CONTROL_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/env.h"
#include "common/transport.h"
#include "server/control/bridge.h"
#include "server/control/map.h"

#define CONTROL_VOTERS_MAX 5u
#define CONTROL_LISTEN_MAX 3u
#define CONTROL_PROPOSALS_MAX 8192u
#define CONTROL_LINKS_MAX 1024u

/* ---- the replicated log, as the core needs it (the daemon puts consensus.h behind it, tests a simulated one) ---- */
struct control_log;
struct control_log_req;
/* rc 0: committed and applied here; -EINPROGRESS: unknown (R4). Never inside the call. */
typedef void (*control_log_cb)(struct control_log_req *req, int rc);
struct control_log_req { /* embedded by the caller, borrowed until cb */
    control_log_cb cb;
    void *owner;
    void *impl[4]; /* private to the log */
};
struct control_log_ops {
    /* bytes are copied. -EAGAIN (not the leader), -EBUSY (full, or handing over), -EMSGSIZE, ...: certainly not
     * proposed, cb never called. */
    int (*propose)(struct control_log *log, const void *bytes, size_t len, struct control_log_req *req,
                   control_log_cb cb);
    bool (*is_leader)(struct control_log *log);
    uint32_t (*leader)(struct control_log *log); /* node id as this voter knows it; 0: unknown */
    uint64_t (*term)(struct control_log *log);   /* newest term this voter took part in */
    int (*transfer)(struct control_log *log);    /* hand leadership to another voter */
    /* May be NULL. A hint that this node, if it leads, is gone: elect soon. */
    void (*leader_lost)(struct control_log *log, uint32_t node);
};
struct control_log {
    const struct control_log_ops *ops;
};

struct control_voter {
    uint32_t node;
    char address[MAP_ADDRESS_MAX]; /* of its control core */
};

struct control;

struct control_hooks { /* any may be NULL */
    /* Stores the map for observers and for the next start of a non-voter (config.saved_map). */
    void (*persist)(void *arg, uint64_t version, const void *bytes, size_t len);
    void (*registered)(void *arg, uint64_t incarnation);
    /* The cluster declared this node down while it lived; its leases are void. NULL: the core waits for its last lease to end
     * and registers again. Otherwise the daemon ends, to be started anew (recommended). */
    void (*deposed)(void *arg);
    void (*fatal)(void *arg, int rc, const char *sentence);
    /* JSON object with this daemon's own part of `stats`; malloc'ed, given; NULL: none. Called with the newest bridge_stats. */
    char *(*stats_json)(void *arg, const struct bridge_stats *stats);
};

struct control_config {
    struct env *env;
    struct transport *transport;
    struct control_log *log; /* NULL: not a voter */
    struct bridge_to_data *data;
    struct control_hooks hooks;
    void *arg;
    uint64_t cluster_id; /* from the cluster's name; never 0 */
    uint32_t node;
    struct map_node self; /* addresses, host, rack, capacity, store_uuid, stop: what registration says */
    struct control_voter voters[CONTROL_VOTERS_MAX];
    uint32_t voter_count;
    const char *listen[CONTROL_LISTEN_MAX]; /* "tcp:HOST:PORT", "unix:PATH"; the first is for peers */
    uint32_t listen_count;
    const void *saved_map; /* non-voters: what persist stored; may be NULL */
    size_t saved_map_len;
    /* 0: the default */
    uint64_t heartbeat_ns;    /* 200 ms */
    uint64_t node_timeout_ns; /* 1200 ms; >= lease + drift */
    uint64_t lease_ns;        /* 900 ms */
    uint32_t drift_ppm;       /* 1000: how much clocks may differ in rate */
    uint64_t io_stall_ns;     /* 10 s */
    uint64_t out_after_ns;    /* 10 min */
    uint64_t elect_grace_ns;  /* 10 s */
    uint64_t persist_ns;      /* 5 s: at most that often */
    uint64_t shard_bytes;     /* MAP_SHARD_BYTES_DEFAULT: of new volumes that do not say theirs */
    uint32_t heal_shards_max; /* 8: members being synced at once in the cluster (R17) */
};

/* -EINVAL: a configuration that can't be safe (node_timeout < lease + drift) or is incomplete. */
int control_create(const struct control_config *config, struct control **ret_control);
int control_start(struct control *control); /* listens; everything else follows from timers. -errno of listen */
/* Closes links and listeners and ends every request with -ESHUTDOWN; cb when no callback can come any more. */
void control_stop(struct control *control, void (*cb)(void *arg), void *arg);
/* After control_stop's cb, and after the log has ended every request of this core; or of a crashed node. Accepts NULL. */
void control_destroy(struct control *control);

/* The data thread's side of the bridge: to be called on the control thread (the daemon's mailbox forwards to it). Callbacks come
 * on the control thread, from a later turn. */
struct bridge_to_control *control_bridge(struct control *control);

/* ---- the log's events, called by its adapter. apply, snapshot and restore call nothing back. ---- */
void control_log_applied(struct control *control, uint64_t version, const void *bytes, size_t len);
int control_log_snapshot(struct control *control, void **ret_bytes, size_t *ret_len);
int control_log_restored(struct control *control, const void *bytes, size_t len, uint64_t version);
void control_log_role_changed(struct control *control);

/* ---- for the daemon, tests and tools ---- */
const struct map *control_map(const struct control *control);
bool control_is_leader(const struct control *control);
uint64_t control_incarnation(const struct control *control); /* 0: not registered yet */
const char *control_listen_address(const struct control *control, uint32_t i);

/* An admin request as JSON text, as WIRE_CTL_ADMIN carries it (docs/internals/control.md); cb gets the answer's text, borrowed. */
typedef void (*control_admin_cb)(void *arg, const char *json, size_t len);
void control_admin(struct control *control, const char *json, size_t len, control_admin_cb cb, void *arg);

#endif
