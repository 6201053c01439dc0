/* SPDX-License-Identifier: Apache-2.0 */
/* gateway: where clients enter: sessions, routing of their requests to primaries, flushes of whole volumes.
 *
 * Concept: a client attaches a volume through one gateway and gets a session (R19). Each request is routed to the primary of its
 *   shard: to this node's replica by a call, to another node by a frame over peers. Without a primary, or when the primary
 *   bounces it, a request is parked and routed again when the map has changed (R7): it never fails because a node died.
 *   Requests that other gateways send to this node as primary enter here, too.
 * Threading: the data thread's; no I/O, clock or randomness but through env, links and peers.
 * Errors: clients are told by status; a client that breaks the protocol loses its link, and only its own.
 * Ownership: links and messages given to gateway_accept and gateway_peer_request are the gateway's from then on.
 */
#ifndef ASHLAR_SERVER_GATEWAY_GATEWAY_H
#define ASHLAR_SERVER_GATEWAY_GATEWAY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/env.h"
#include "common/transport.h"
#include "server/control/bridge.h"
#include "server/control/map.h"
#include "server/replica/peers.h"
#include "server/replica/replica.h"

#define GATEWAY_INFLIGHT_BYTES_DEFAULT (32u << 20) /* a client may have in flight */
#define GATEWAY_INFLIGHT_COUNT_DEFAULT 256u
#define GATEWAY_CLIENTS_MAX 1024u
#define GATEWAY_GRACE_DEFAULT_MS 5000u
#define GATEWAY_IDLE_DEFAULT_MS 30000u

struct gateway;

struct gateway_config {
    struct env *env;
    struct peers *peers;
    struct replicas *replicas;
    struct buf_pool *pool; /* of received payloads and of read buffers */
    const struct map *map; /* the data thread's */
    struct bridge_to_control *control;
    uint32_t node;
    uint64_t incarnation;
    uint32_t inflight_bytes_max; /* 0: default */
    uint32_t inflight_count_max; /* 0: default */
    uint64_t grace_ns;           /* a client that left without DETACH may come back so long; 0: default */
    uint64_t idle_ns;            /* a link on which a client is silent so long is closed; 0: default */
};

struct gateway *gateway_create(const struct gateway_config *config);
/* Closes all client links; cb when nothing of the gateway is in flight any more, after which it is freed. Sessions stay open in
 * the map: clients take them to another gateway. cb may be NULL. Before peers and replicas are closed. */
void gateway_close(struct gateway *gateway, void (*cb)(void *arg), void *arg);

/* An accepted link whose first frame was a hello with HELLO_CLIENT; hello_msg is given. The caller stops using the link. */
void gateway_accept(struct gateway *gateway, struct link *link, struct msg *hello_msg);
/* WIRE_READ, WRITE, ZERO, FLUSH, EXTENTS of another daemon's gateway to this node as primary; msg is given. */
void gateway_peer_request(struct gateway *gateway, const struct peer_source *source, struct msg *msg);
void gateway_peer_up(struct gateway *gateway, uint32_t node);

/* The map's observer, forwarded; then gateway_map_settled once after each batch of entries. */
void gateway_volume_changed(struct gateway *gateway, const struct map_volume *volume);
void gateway_volume_removed(struct gateway *gateway, uint64_t volume);
void gateway_shard_changed(struct gateway *gateway, const struct map_volume *volume, const struct map_shard *shard);
void gateway_map_reset(struct gateway *gateway);
void gateway_map_settled(struct gateway *gateway);

/* Fills up to max volumes' counters; returns how many there are. */
uint32_t gateway_stats(const struct gateway *gateway, struct bridge_volume_stats *ret_stats, uint32_t max);
/* Snapshots that clients have attached here; more than max are left out. */
uint32_t gateway_readers(const struct gateway *gateway, struct bridge_reader *ret_readers, uint32_t max);
uint32_t gateway_client_count(const struct gateway *gateway);
uint32_t gateway_parked_count(const struct gateway *gateway);

#endif
