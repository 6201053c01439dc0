/* SPDX-License-Identifier: Apache-2.0 */
/* transport_sim_internal: what transport_sim.c and sim_net.c share. Threading, errors, ownership: transport_sim.h. */
#ifndef ASHLAR_TESTS_SIM_TRANSPORT_SIM_INTERNAL_H
#define ASHLAR_TESTS_SIM_TRANSPORT_SIM_INTERNAL_H

#include "tests/sim/transport_sim.h"

#define SIM_WINDOW_BYTES (4u << 20) /* the kernel's buffers of one direction */
#define SIM_SEGMENT_BYTES (64u << 10)

struct sim_segment {
    struct list_node node;
    uint64_t due_ns;
    uint32_t bytes, taken; /* 0 bytes: end of file */
    uint8_t data[];
};

/* A node's end of the network: one per transport. */
struct sim_side {
    struct stream_transport *stream;
    struct sim_net *net;
    struct list_node net_node;
    int node;
    bool dead; /* its node crashed */
};

struct sim_link {
    struct stream_link stream; /* first */
    struct sim_side *side;
    struct sim_link *peer; /* NULL: not connected, or the other end is gone */
    int remote_node;
    struct list_node inbound; /* segments on their way to us, in order */
    size_t inbound_bytes;
    uint64_t last_due_ns;
    struct world_event arrival, death, connecting;
    int death_reason, connect_rc;
    bool stalled; /* the first segment fell into a cut */
    bool stopped;
    struct env_task io_task;
};

struct sim_net {
    struct world *world;
    struct sim_net_config config;
    struct sim_net_stats stats;
    struct world_watcher watcher;
    struct list_node sides;
    struct sim_link *offered; /* the connector of the link being accepted */
    int next_port;
    bool cut[WORLD_NODES_MAX][WORLD_NODES_MAX]; /* [from][to] */
    uint64_t cut_since_ns[WORLD_NODES_MAX][WORLD_NODES_MAX], slow_ns[WORLD_NODES_MAX][WORLD_NODES_MAX];
};

uint64_t sim_net_delay_ns(struct sim_net *net, uint64_t bytes);
uint64_t sim_net_slowness_ns(const struct sim_net *net, int from, int to);
bool sim_net_is_cut(const struct sim_net *net, int from, int to);
void sim_link_kill(struct sim_link *link, int reason, uint64_t delay_ns); /* its owner sees reason */
void sim_link_detach(struct sim_link *link);
void sim_link_expect(struct sim_link *link); /* schedules the next arrival */
void sim_side_crash(struct sim_side *side, enum world_crash kind);

#endif
