/* SPDX-License-Identifier: Apache-2.0 */
/* gateway_internal: what the files of the gateway share.
 *
 * Life of a request (arrows: the function that makes them):
 *
 *            gateway_request_route                    gateway_request_result: -ESTALE, link lost
 *   NEW ──┬─────────────────────────▶ LOCAL ────┐◀──────────┐
 *         ├─────────────────────────▶ REMOTE ───┼──────▶ PARKED ── gateway_wake ──▶ routed again (R7)
 *         ├─▶ STARVED (no buffer) ── route ─────┤
 *         └─▶ FLUSHING (flush.c) ───────────────┴─▶ gateway_request_finish: answered, freed
 *
 * Threading, errors, ownership: gateway.h.
 */
#ifndef ASHLAR_SERVER_GATEWAY_GATEWAY_INTERNAL_H
#define ASHLAR_SERVER_GATEWAY_GATEWAY_INTERNAL_H

#include "common/client_body.h"
#include "common/list.h"
#include "common/map_u64.h"
#include "server/gateway/gateway.h"

#define GATEWAY_RETRY_NS ENV_MS(50) /* parked requests are routed again at least so often */
#define GATEWAY_TICK_NS ENV_MS(250)
#define GATEWAY_EIO_TRIES_MAX 20u /* a failing primary resigns meanwhile; then the client is told */
#define GATEWAY_REQUESTS_MAX 65536u
#define GATEWAY_EXTENTS_MAX CLIENT_EXTENTS_MAX
#define GATEWAY_SNAPSHOT_SESSION (1ull << 63) /* above every session of a volume: never fenced */

enum gateway_request_state {
    REQUEST_NEW,
    REQUEST_LOCAL,    /* with this node's replica */
    REQUEST_REMOTE,   /* with another node's */
    REQUEST_PARKED,   /* on gateway->parked */
    REQUEST_STARVED,  /* a read without a buffer, on gateway->starved */
    REQUEST_FLUSHING, /* on its volume's flush lists */
    REQUEST_HELD,     /* done, its answer waits: on gateway->held (snap.c) */
};

struct gateway_client;
struct gateway_volume;

/* One request of a client, or of another gateway (client == NULL: answered through peers). */
struct gateway_request {
    struct list_node link;      /* client->requests */
    struct list_node wait_link; /* parked, starved, flush_next or flush_now; free list */
    struct gateway *gateway;
    struct gateway_client *client;
    struct peer_source source;
    enum gateway_request_state state;
    struct msg *msg; /* the request's frame, held with its payload until the answer */
    struct gateway_volume *volume;
    uint64_t volume_id;
    uint64_t session;    /* 0: of a snapshot, which has none */
    uint32_t generation; /* of the snapshot; 0: the volume's head */
    uint32_t stamp;      /* REMOTE write: as it was sent (R20) */
    uint32_t shard;
    uint64_t shard_offset;
    uint64_t wait_version; /* parked: not before the map has this version */
    uint64_t charged_bytes;
    uint32_t eio_tries;
    bool retried;
    struct replica_op op;
    struct replica_extents extents;
    struct peer_request peer;
    struct buf *buf;   /* LOCAL read: its data */
    struct msg *reply; /* REMOTE: the primary's answer, taken */
    uint32_t crcs[WIRE_BLOCKS_MAX];
};

enum client_state {
    CLIENT_READY,     /* hello done, no session */
    CLIENT_ATTACHING, /* with control */
    CLIENT_ATTACHED,
};

struct gateway_client {
    struct list_node link; /* gateway->clients */
    struct gateway *gateway;
    struct link *conn; /* NULL: ended; freed when nothing of it is in flight */
    enum client_state state;
    bool fenced; /* a newer session exists (R19) */
    bool read_only;
    bool paused;
    bool dropped;  /* closed from here */
    bool detached; /* said good-bye: no grace */
    struct gateway_volume *volume;
    uint64_t session;       /* of a snapshot: a number that only this link knows */
    uint32_t generation;    /* snapshot that it reads; 0: the volume */
    uint64_t snapshot_size; /* bytes */
    struct list_node requests;
    uint32_t request_count;
    uint64_t inflight_bytes;
    uint64_t received_ns; /* last frame */
    uint64_t drained_ns;  /* last time its send queue was empty */
    struct bridge_attach attach;
    struct wire_header attach_header;
    char attach_snapshot[MAP_NAME_MAX]; /* empty: the volume itself */
};

struct gateway_flush_part { /* one primary's share of a volume's flush */
    uint32_t node;
    bool busy;
    int rc;
    uint64_t version; /* of the answer */
    struct gateway_volume *volume;
    struct replica_op op;
    struct peer_request peer;
};

struct gateway_volume {
    struct gateway *gateway;
    uint64_t id;
    uint32_t refs; /* clients, requests, a running flush; 0 and removed: freed */
    bool removed;
    /* Routes: primaries and loss numbers, scanned anew when change_count moved (volume.c). */
    uint64_t change_count, scanned_count;
    bool routes_ready; /* every shard has a primary and an active epoch (R12) */
    uint32_t primary_count;
    uint32_t primaries[MAP_NODES_MAX];
    uint32_t loss_count; /* runs */
    uint64_t loss_rest;  /* shards with losses that did not fit */
    struct client_loss_run *losses;
    uint8_t *loss_body; /* losses encoded; NULL without losses */
    /* Flush (flush.c). */
    struct list_node flush_next, flush_now;
    bool flush_running, flush_waiting;
    uint64_t flush_change_count; /* at the start of the round */
    uint64_t flush_wait_version;
    uint32_t flush_eio_tries;
    uint32_t part_count, parts_busy;
    struct gateway_flush_part *parts;
    struct env_task flush_task;
    /* A client that left without DETACH may come back until this fires. */
    struct env_timer grace_timer;
    uint64_t grace_session;
    uint32_t seal_told; /* generation that the primaries were told of (R20) */
    bool hold_answers;  /* a snapshot of a group over several gateways is opening */
    struct bridge_volume_stats stats;
};

struct gateway {
    struct gateway_config cfg;
    struct env *env;
    struct list_node clients;
    uint32_t client_count;
    struct map_u64 volumes;
    struct list_node free_requests;
    uint32_t request_count; /* in use */
    struct list_node parked, starved, held;
    uint32_t parked_count;
    uint32_t flushes_running;
    uint64_t snapshot_sessions;              /* numbers of attached snapshots, from GATEWAY_SNAPSHOT_SESSION on */
    uint64_t client_bytes, client_bytes_max; /* payloads of all clients: half of the pool */
    struct buf_waiter pool_waiter;
    struct env_task wake_task;
    struct env_timer retry_timer, tick_timer;
    bool closing;
    void (*close_cb)(void *arg);
    void *close_arg;
    struct env_task close_task;
};

/* What holds of them between two moves. */
void gateway_request_assert(const struct gateway_request *request);
void gateway_client_assert(const struct gateway_client *client);
void gateway_volume_assert(const struct gateway_volume *volume);

/* gateway.c */
void gateway_wake(struct gateway *gw);        /* route what is parked again, a turn later */
void gateway_retry_later(struct gateway *gw); /* wake after GATEWAY_RETRY_NS at the latest */
void gateway_check_closed(struct gateway *gw);

/* client.c */
void gateway_client_drop(struct gateway_client *client, const char *why); /* protocol broken, or time to go */
void gateway_client_forget_requests(struct gateway_client *client); /* those with an answer to come go on unheard */
void gateway_client_maybe_free(struct gateway_client *client);
void gateway_client_reply(struct gateway_client *client, const struct wire_header *request, struct wire_header *reply,
                          const void *body, struct buf *payload, uint32_t payload_offset);
void gateway_client_flow(struct gateway_client *client); /* pauses or resumes its link by what is in flight */
void gateway_client_tick(struct gateway_client *client, uint64_t now_ns);

/* request.c */
void gateway_request_begin(struct gateway_client *client, struct msg *msg);
void gateway_request_route(struct gateway_request *request);
void gateway_request_result(struct gateway_request *request, int rc, uint64_t version);
void gateway_request_finish(struct gateway_request *request, int rc);
void gateway_request_forget(struct gateway_request *request); /* its client is gone: ends it if nobody holds it */
void gateway_request_park(struct gateway_request *request, uint64_t wait_version);
struct gateway_request *gateway_request_take(struct gateway *gw, struct msg *msg); /* NULL: too many */
void gateway_request_free(struct gateway_request *request);
/* Structure of READ, WRITE, ZERO, EXTENTS: lengths agree, nothing crosses its chunk, region or shard. */
bool gateway_request_well_formed(const struct msg *msg);
bool gateway_request_take_crcs(struct gateway_request *request); /* WRITE: body to crcs */
void gateway_crcs_encode(uint32_t *crcs, uint32_t count);

/* forward.c */
void gateway_forward(struct gateway_request *request, uint32_t node);

/* snap.c */
void gateway_snap_changed(struct gateway_volume *volume); /* the map's volume did */
bool gateway_snap_hold(struct gateway_request *request);  /* true: answered later */
void gateway_snap_release(struct gateway *gw);

/* extents.c */
void gateway_extents_local(struct gateway_request *request);
void gateway_extents_peer(struct gateway_request *request);

/* volume.c */
struct gateway_volume *gateway_volume_get(struct gateway *gw, uint64_t id); /* referenced; NULL: no memory */
void gateway_volume_put(struct gateway_volume *volume);
struct gateway_volume *gateway_volume_find(const struct gateway *gw, uint64_t id);
bool gateway_volume_scan(struct gateway_volume *volume); /* false: not in the map, or no memory */
void gateway_volume_grace(struct gateway_volume *volume, uint64_t session);
void gateway_volume_grace_end(struct gateway_volume *volume);
void gateway_volume_free(struct gateway_volume *volume);

/* flush.c */
void gateway_flush_submit(struct gateway_request *request);
void gateway_flush_wake(struct gateway_volume *volume); /* the map, a link or time moved */
void gateway_flush_abandon(struct gateway_volume *volume);

#endif
