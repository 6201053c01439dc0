/* SPDX-License-Identifier: Apache-2.0 */
/* control_sim: the control planes of a simulated cluster: the shipped control core and consensus, over simulated disks and links.
 *
 * Concept: nodes are world nodes 1..node_max and have these map ids; some are voters. A node's life here is: connect (a bridge
 *   to its data side), register (its control core starts, voters with the log that survived on their simulated disk), and the
 *   end: a crash of the world node, or disconnect. What every core was told is judged all the time against what was first
 *   applied anywhere (control_sim_check.c).
 * Same shape as authority.h, which it replaces: README.md in this folder.
 * Threading: one thread. Errors: a broken rule is told through `broken`. Ownership: bridges and cores are control_sim's; data
 *   receivers are the caller's. Create it after the net and destroy it before; every node must be down at destroy.
 */
#ifndef ASHLAR_TESTS_SIM_CONTROL_SIM_H
#define ASHLAR_TESTS_SIM_CONTROL_SIM_H

#include "common/env.h"
#include "server/control/bridge.h"
#include "server/control/control.h"
#include "server/control/map.h"
#include "tests/sim/raft_sim.h"
#include "tests/sim/transport_sim.h"
#include "tests/sim/world.h"

#define CONTROL_SIM_CLUSTER 0x51edull

struct control_sim;

struct control_sim_config {
    struct world *world;
    struct sim_net *net;
    int node_max;
    uint32_t voter_count; /* 1, 3 or 5 */
    int voters[CONTROL_VOTERS_MAX];
    /* 0: the defaults of control.h */
    uint64_t heartbeat_ns, node_timeout_ns, lease_ns, out_after_ns, elect_grace_ns, io_stall_ns;
    uint32_t drift_ppm;
    /* 0: the defaults of consensus.h */
    unsigned snapshot_threshold, snapshot_trailing;
    uint64_t bridge_delay_max_ns; /* control to data thread and back */
    struct raft_sim_faults disk;  /* of the voters' logs; may be changed later: control_sim_disk */
    /* Any of these may be NULL. */
    void (*shard_changed)(void *arg, const struct map_shard *before, const struct map_shard *now);
    void (*broken)(void *arg, const char *sentence); /* a rule was broken: the run has failed */
    void *arg;
};

struct control_sim *control_sim_create(const struct control_sim_config *config);
void control_sim_destroy(struct control_sim *sim); /* accepts NULL */

/* A node's life begins; the data side lives in data_env. ended: this process must end soon (declared down while alive, its log
 * failed, its map differs): crash the node from a later event and start it anew. */
struct bridge_to_control *control_sim_connect(struct control_sim *sim, int node, struct env *data_env,
                                              struct bridge_to_data *data, void (*ended)(void *arg), void *arg);
/* The store is open: the core starts. info: as NODE_REGISTER has it; control_address is set here. */
void control_sim_register(struct bridge_to_control *b, const struct map_node *info);
/* An orderly exit begins: the core stops, which ends every request of the data side with -ESHUTDOWN, now and from now on. */
void control_sim_stop(struct bridge_to_control *b);
/* Before an orderly exit of the process (world_node_crash): `ended` does not come any more. Implies control_sim_stop. */
void control_sim_disconnect(struct bridge_to_control *b);

/* The newest map that any core has applied; it changes while nothing of the caller runs. */
const struct map *control_sim_map(const struct control_sim *sim);
uint64_t control_sim_applied(const struct control_sim *sim,
                             int node);                /* map version at that node's core; 0: it is down */
int control_sim_leader(const struct control_sim *sim); /* a node that leads and whom the newest term obeys; 0: none */
struct control *control_sim_core(const struct control_sim *sim, int node); /* NULL: down */
struct bridge_sim *control_sim_bridge(const struct control_sim *sim, int node);
struct raft_sim_disk *control_sim_disk(const struct control_sim *sim, int node); /* voters */
struct raft_sim_net *control_sim_raft_net(const struct control_sim *sim);
void control_sim_hung(struct control_sim *sim, int node, bool hangs); /* its data side says and hears nothing (R23) */

/* For set-up and operators: proposes through any live core, again and again, until there is a result; runs the world. */
int control_sim_apply(struct control_sim *sim, struct map_entry *entry, struct map_result *ret_result);

/* A client attaches through a gateway node: SESSION_OPEN with the wait of R19. cb comes in nobody's context; -ENOTCONN: the
 * gateway is not there or died meanwhile. */
struct control_sim_attach {
    uint64_t volume;
    uint32_t gateway;
    uint8_t attachment[16];
    uint32_t flags;
    void (*cb)(struct control_sim_attach *req, int rc, uint64_t session);
    void *owner;
};
void control_sim_attach(struct control_sim *sim, struct control_sim_attach *req);

struct control_sim_stats {
    uint64_t entries;      /* applied at least once */
    uint64_t leaders;      /* times a core began to lead */
    uint64_t deposed;      /* cores declared down while alive */
    uint64_t log_failed;   /* logs that ended because of their disk */
    uint64_t repeated;     /* entries whose request had been applied before */
    uint64_t compared;     /* comparisons of map hashes */
    uint64_t leases;       /* given to data sides */
    uint64_t grants;       /* sessions granted */
    uint64_t installs_cut; /* as in raft_sim.h */
    uint64_t broken;       /* rules */
};
void control_sim_stats(const struct control_sim *sim, struct control_sim_stats *ret_stats);

#endif
