/* SPDX-License-Identifier: Apache-2.0 */
/* transport_sim: the transport seam over a simulated network: the shipping link code (common/transport/stream.c,
 * frame_rx, frame_tx) with the system calls replaced by a byte stream that is delayed, cut and reset.
 *
 * Concept: a link is a pair of endpoints, each with a queue of segments on their way to it. Order is kept within a
 *   link only. A cut stalls what would arrive (TCP retransmits); when it lasts longer than dead_ns both ends see
 *   -ETIMEDOUT. A crashed process resets its links, a node without power is just silent.
 * Addresses: "sim:NODE:PORT", port 0 picks one. Threading: one thread. Errors: as in transport.h.
 * Ownership: a transport is the node's; after the node's crash destroy it, too (no callback comes). The net outlives
 *   its transports.
 */
#ifndef ASHLAR_TESTS_SIM_TRANSPORT_SIM_H
#define ASHLAR_TESTS_SIM_TRANSPORT_SIM_H

#include "common/transport/stream.h"
#include "tests/sim/world.h"

struct sim_net;

struct sim_net_config {
    uint64_t delay_min_ns, delay_max_ns; /* of each segment, uniform; 0, 0: 20..80 us */
    uint32_t tail_permille;              /* so many of 1000 are late by up to */
    uint64_t tail_max_ns;
    uint64_t bytes_per_s; /* 0: infinite */
    uint64_t dead_ns;     /* a cut link dies after this long; 0: 10 s */
};

struct sim_net_stats {
    uint64_t links, segments, bytes, resets, stalls;
};

struct sim_net *sim_net_create(struct world *world, const struct sim_net_config *config);
void sim_net_destroy(struct sim_net *net);                                   /* accepts NULL */
void sim_net_cut(struct sim_net *net, int from, int to, bool cut);           /* one way */
void sim_net_isolate(struct sim_net *net, int node, bool cut);               /* both ways, all others */
void sim_net_slow(struct sim_net *net, int from, int to, uint64_t extra_ns); /* one way, everything; 0: no more */
void sim_net_heal(struct sim_net *net);                                      /* every cut, every slow link */
void sim_net_reset(struct sim_net *net, int a, int b); /* every link between them, with the data in flight */
void sim_net_stats(const struct sim_net *net, struct sim_net_stats *ret_stats);

int transport_sim_create(struct sim_net *net, int node, struct env *env, struct buf_pool *bufs,
                         struct transport **ret_transport);
/* Of a live node: after stream_transport_shutdown, when stream_transport_live is 0. Of a crashed one: at once; links,
 * listeners and messages still held are freed with it. Accepts NULL. */
void transport_sim_destroy(struct transport *transport);

#endif
