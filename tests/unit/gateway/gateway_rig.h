/* SPDX-License-Identifier: Apache-2.0 */
/* gateway_rig: the gateway of node 1 between clients that speak raw frames and fakes of replicas, peers and control.
 *
 * Concept: the map is the real one, changed by real entries; links are the real stream code over the simulated network. Requests
 *   that reach the fakes wait in lists until the test answers them.
 * Threading: one thread. Errors: cmocka assertions. Ownership: rig_create to rig_destroy.
 */
#ifndef ASHLAR_TESTS_UNIT_GATEWAY_GATEWAY_RIG_H
#define ASHLAR_TESTS_UNIT_GATEWAY_GATEWAY_RIG_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "server/gateway/gateway.h"
#include "tests/sim/transport_sim.h"

#define RIG_NODE 1u
#define RIG_NODES 3u
#define RIG_MSGS 2048
#define RIG_SHARD_BYTES (32ull << 20)
#define RIG_POOL_BYTES (32u << 20)
#define RIG_INFLIGHT_BYTES (4u << 20)
#define RIG_INFLIGHT_COUNT 16u

struct rig_reply { /* a peers_reply */
    struct peer_source source;
    struct wire_header header, request;
    uint8_t body[4096];
    uint8_t first_byte; /* of the payload */
};

struct rig_client { /* the other end of a client's link */
    struct rig *rig;
    struct link *link;
    bool connected, closed;
    int reason;
    struct msg *msgs[RIG_MSGS]; /* received, not taken */
    uint32_t msg_count;
    uint64_t next_id;
    uint64_t session, volume;
};

struct rig {
    struct world *world;
    struct sim_net *net;
    int node, client_node;
    struct env *env, *client_env;
    struct buf_pool *bufs, *client_bufs;
    struct transport *transport, *client_transport;
    struct listener *listener;
    struct map *map;
    uint64_t incarnations[RIG_NODES + 1];
    struct gateway *gateway;
    bool gateway_closed;
    uint32_t seals; /* WIRE_SEAL told to other nodes */
    struct bridge_to_control control;
    /* fakes */
    struct list_node ops; /* replica_op.link */
    uint32_t op_count;
    struct list_node requests;   /* peer_request.link */
    struct wire_header sent[64]; /* of peers_request, by order; sent_count may be larger */
    uint32_t sent_count;
    bool up[RIG_NODES + 1];
    struct rig_reply replies[64];
    uint32_t reply_count;
    struct bridge_attach *attaches[16];
    uint32_t attach_count;
    bool hold_attach;
    uint32_t detach_count;
    uint64_t detached_session;
    int extents_rc;
    bool cut_off;
};

struct rig *rig_create(uint64_t seed);
void rig_destroy(struct rig *rig);
void rig_run_ms(struct rig *rig, uint64_t ms);
void rig_close_gateway(struct rig *rig);

/* The map. */
void rig_apply(struct rig *rig, struct map_entry *entry, int rc);
void rig_volume(struct rig *rig, const char *name, uint32_t shards, uint32_t home);
const struct map_volume *rig_find(const struct rig *rig, const char *name);
void rig_move(struct rig *rig, const char *name, uint32_t shard, uint32_t to); /* the role, not active yet */
void rig_activate(struct rig *rig, const char *name, uint32_t shard);
void rig_node_down(struct rig *rig, uint32_t node);
void rig_session(struct rig *rig, const char *name, uint8_t attachment); /* opened by force elsewhere */
void rig_delete(struct rig *rig, const char *name);
void rig_loss(struct rig *rig, const char *name); /* every shard's loss number goes up: promoted by force to node 1 */

/* Clients. */
struct rig_client *rig_connect(struct rig *rig); /* hello done */
struct rig_client *rig_connect_raw(struct rig *rig);
struct rig_client *rig_attach(struct rig *rig, const char *name, uint8_t attachment, uint32_t flags);
void rig_hang_up(struct rig_client *client);
uint64_t rig_send(struct rig_client *client, struct wire_header *header, const void *body, const void *payload);
uint64_t rig_read(struct rig_client *client, uint64_t offset, uint64_t length);
uint64_t rig_write(struct rig_client *client, uint64_t offset, uint64_t length, uint8_t fill);
uint64_t rig_op(struct rig_client *client, uint16_t opcode, uint64_t offset, uint64_t length);
struct msg *rig_answer(struct rig_client *client, uint64_t id); /* waits; the caller frees it */
int rig_status(struct rig_client *client, uint64_t id);         /* waits */
bool rig_answered(struct rig_client *client, uint64_t id);      /* after a few turns */

/* Fakes. */
struct replica_op *rig_first_op(struct rig *rig); /* waits for one */
void rig_complete(struct rig *rig, struct replica_op *op, int rc);
struct peer_request *rig_first_request(struct rig *rig);                  /* waits for one */
const struct wire_header *rig_sent(const struct rig *rig, uint32_t back); /* 0: the latest peers_request */
void rig_peer_answer(struct rig *rig, struct peer_request *request, int rc, const struct wire_header *header,
                     const void *body, const void *payload);
void rig_peer_lost(struct rig *rig, struct peer_request *request);
void rig_peer_asks(struct rig *rig, uint32_t node, struct wire_header *header, const void *body, const void *payload);

#endif
