/* SPDX-License-Identifier: Apache-2.0 */
/* peers_internal: what peers.c and peers_path.c share: the links and their states. Threading: the data thread's. Errors
 * and ownership: as in peers.h. */
#ifndef ASHLAR_SERVER_REPLICA_PEERS_INTERNAL_H
#define ASHLAR_SERVER_REPLICA_PEERS_INTERNAL_H

#include <assert.h>

#include "common/map_u64.h"
#include "server/replica/peers.h"

enum out_state { OUT_DOWN, OUT_CONNECTING, OUT_GREETING, OUT_UP };

struct peer_out {
    struct peers *peers;
    uint32_t node;
    enum out_state state;
    struct link *link;
    uint64_t incarnation; /* of the peer this link speaks to */
    uint64_t retry_at_ns, received_ns;
    struct map_u64 pending; /* request_id -> peer_request */
    struct list_node order; /* pending requests, oldest first */
    bool by_rdma;           /* the link, or the attempt under way */
    int rdma_error;         /* of the last attempt by RDMA; 0: it worked, or none was made */
    uint64_t rdma_at_ns;    /* not before */
    uint64_t rdma_rest_ns;  /* how long the last rest from RDMA was to be; 0: it worked since */
    struct link *probe;     /* does RDMA work again? Then an idle TCP link makes way for it */
};

struct peer_in {
    struct peers *peers;
    struct list_node link_node;
    struct link *link;
    uint32_t node;
    uint64_t incarnation, connection;
    bool live, closing;
    struct msg *hello; /* waits for the map */
    uint64_t hello_at_ns;
    struct msg *held_first, *held_last; /* R3 */
    uint32_t held_count;
};

struct peers {
    struct peers_config cfg;
    struct env *env;
    struct peer_out out[MAP_NODES_MAX + 1];
    struct peer_in *in[MAP_NODES_MAX + 1]; /* the live one of each node */
    struct list_node ins;
    uint64_t next_request, next_connection;
    uint32_t links;
    struct list_node unsent; /* requests that found no link */
    struct env_task unsent_task;
    struct env_timer tick;
    bool closing;
    void (*closed)(void *arg);
    void *closed_arg;
    struct env_task closed_task;
};

static inline void peers_assert(const struct peers *p)
{
    assert(p != NULL && p->env != NULL);
    assert(p->cfg.node > 0 && p->cfg.node <= MAP_NODES_MAX);
}

static inline void out_assert(const struct peer_out *out)
{
    assert(out != NULL && out->peers != NULL);
    assert((out->link == NULL) == (out->state == OUT_DOWN));
}

/* peers_path.c: by which transport the link to a node is made. */
void peers_path_connect_done(struct peer_out *out); /* it is connected */
/* Makes out->link and sets out->by_rdma; 0 or -errno. */
int peers_path_connect(struct peer_out *out, const struct link_callbacks *callbacks);
/* An attempt by RDMA ended without a link: -errno. True: TCP is to be tried at once. */
bool peers_path_failed(struct peer_out *out, int rc);
void peers_path_tick(struct peer_out *out); /* looks now and then whether RDMA works again */
/* peers.c */
void peers_link_gone(struct peers *peers);

#endif
