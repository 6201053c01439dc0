/* SPDX-License-Identifier: Apache-2.0 */
/* peers: the links between daemons: hello, incarnations, request and answer matching.
 *
 * Concept: a daemon's own requests to node N travel on the link it opened to N (answers come back on it); N's requests arrive on
 *   the link N opened. Every frame carries both incarnations; a mismatch is refused (R1). A frame that names a newer map version
 *   waits, with everything behind it on its link, until the local map has caught up (R3). A new link from a peer closes the older
 *   one before its hello is answered (R5).
 * Threading: the data thread's. Errors: peers_request ends through its callback, exactly once; never inside the call.
 * Ownership: peer_request is embedded by the caller and borrowed until its callback; the reply msg is the callee's for the
 *   duration of the callback only, unless it takes it (peers_take_reply). The callback may free the request.
 */
#ifndef ASHLAR_SERVER_REPLICA_PEERS_H
#define ASHLAR_SERVER_REPLICA_PEERS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/env.h"
#include "common/list.h"
#include "common/transport.h"
#include "server/control/map.h"
#include "server/replica/peers_transport.h"

struct peers;

/* Where an incoming request came from: valid while that very link lives. */
struct peer_source {
    uint32_t node;
    uint64_t connection; /* local number of the incoming link */
};

struct peer_request {
    /* public */
    void (*cb)(struct peer_request *req, int rc); /* rc: reply's status, or -ENOTCONN when the link ended first */
    void *owner;
    struct msg *reply; /* in cb: the answer, NULL when the link ended */
    /* private */
    struct list_node link;
    uint64_t request_id;
    uint32_t node;
    uint64_t sent_ns;
    bool *taken;
};

struct peers_callbacks {
    /* A request of another daemon; msg is given. Answer with peers_reply. */
    void (*request)(void *arg, const struct peer_source *source, struct msg *msg);
    void (*peer_up)(void *arg, uint32_t node);   /* our link to it is ready for requests */
    void (*peer_down)(void *arg, uint32_t node); /* our link to it ended; its requests failed already */
    void (*source_lost)(void *arg,
                        const struct peer_source *source); /* R5: nothing of this link is processed any more */
    void (*suspect)(void *arg, uint32_t node);             /* refused or reset: a hint for the control plane (R10) */
};

struct peers_config {
    struct env *env;
    struct transport *transport; /* TCP; the simulator's */
    struct transport *rdma;      /* NULL: this node has none */
    enum peers_transport kind;
    const struct map *map; /* the data thread's */
    uint32_t node;
    uint64_t incarnation;
    uint64_t reconnect_ns; /* pause between attempts, default 100 ms */
    struct peers_callbacks callbacks;
    void *arg;
};

struct peers *peers_create(const struct peers_config *config);
void peers_close(struct peers *peers, void (*cb)(void *arg), void *arg); /* closes links; frees after the last closed */
/* An accepted link whose HELLO said HELLO_PEER; hello_msg is given. The caller stops using the link. */
void peers_accept(struct peers *peers, struct link *link, struct msg *hello_msg);
/* After each map change: connects to nodes that share a shard or gateway route, releases frames that waited for the map. */
void peers_map_changed(struct peers *peers);
bool peers_is_up(const struct peers *peers, uint32_t node);

/* How our link to a node is made. */
struct peers_link_info {
    bool up;
    bool rdma;
    int rdma_error;          /* why it is not RDMA although it could be: -errno; 0: it is, or it never shall be */
    const struct link *link; /* NULL: none now */
};
/* Before there is a link: none is tried by RDMA, and every node is told to be reached by TCP for this reason. */
void peers_without_rdma(struct peers *p, int reason);
void peers_link_info(const struct peers *peers, uint32_t node, struct peers_link_info *ret_info);

/* In the callback: the reply is the caller's from now on. */
static inline struct msg *peers_take_reply(struct peer_request *req)
{
    struct msg *reply = req->reply;
    if (reply)
        *req->taken = true;
    req->reply = NULL;
    return reply;
}
/* Sends a request; fills request_id, identities and map version of the header. Without a ready link: -ENOTCONN in cb. */
void peers_request(struct peers *peers, uint32_t node, struct wire_header *header, const void *body,
                   struct buf *payload, uint32_t payload_offset, struct peer_request *req);
void peers_notify(struct peers *peers, uint32_t node, struct wire_header *header); /* one way; dropped without a link */
/* Forgets the caller of a request: its cb never comes. */
void peers_abandon(struct peers *peers, struct peer_request *req);
/* Answers request `request` (its header) of source; status and lengths in reply. Dropped when the source is gone. */
void peers_reply(struct peers *peers, const struct peer_source *source, const struct wire_header *request,
                 struct wire_header *reply, const void *body, struct buf *payload, uint32_t payload_offset);

#endif
