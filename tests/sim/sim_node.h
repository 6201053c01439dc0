/* SPDX-License-Identifier: Apache-2.0 */
/* sim_node: the data side of one daemon in the simulator: shipped store, replicas, peers and gateway over simulated seams.
 *
 * Concept: a node outlives its lives. A life is what a process is: env, buffers, transport, store, map, peers, replicas, gateway.
 *   A crash leaves its memory behind (a dead process frees nothing either); an orderly stop frees it all.
 * Threading: one thread. Errors: what the shipped code cannot survive asserts. Ownership: nodes are the simulation's.
 */
#ifndef ASHLAR_TESTS_SIM_SIM_NODE_H
#define ASHLAR_TESTS_SIM_SIM_NODE_H

#include "common/buf.h"
#include "common/transport.h"
#include "server/control/bridge.h"
#include "server/gateway/gateway.h"
#include "server/replica/peers.h"
#include "server/replica/replica.h"
#include "server/store/store.h"
#include "tests/sim/drive_sim.h"
#include "tests/sim/kv_sim.h"
#include "tests/sim/plane.h"

struct sim_node_config {
    struct world *world;
    struct sim_net *net;
    struct plane *plane;
    int node; /* world node and map id */
    uint64_t drive_bytes, seed;
    uint64_t flush_ahead_bytes; /* 0: never */
    uint32_t sync_chunks;
};

struct sim_node;
struct sim_node *sim_node_create(const struct sim_node_config *config); /* formats its store; not started */
void sim_node_destroy(struct sim_node *node);                           /* stopped or crashed; accepts NULL */
void sim_node_start(struct sim_node *node);
void sim_node_crash(struct sim_node *node, enum world_crash kind);
void sim_node_stop(struct sim_node *node);                /* orderly; ends later: sim_node_running is false then */
bool sim_node_running(const struct sim_node *node);       /* a process exists */
bool sim_node_serving(const struct sim_node *node);       /* registered, and not stopping */
bool sim_node_wants_restart(const struct sim_node *node); /* it ended on its own (deposed, store failed to open) */
uint32_t sim_node_life(const struct sim_node *node);
/* Of the current life: */
struct env *sim_node_env(const struct sim_node *node);
struct replicas *sim_node_replicas(const struct sim_node *node);
struct store *sim_node_store(const struct sim_node *node);
struct buf_pool *sim_node_pool(const struct sim_node *node);
const struct map *sim_node_map(const struct sim_node *node);
struct drive_sim_disk *sim_node_disk(const struct sim_node *node);
struct kv_sim_base *sim_node_kv(const struct sim_node *node);
uint64_t sim_node_incarnation(const struct sim_node *node);
const char *sim_node_address(const struct sim_node *node);
bool sim_node_store_failed(const struct sim_node *node);

/* Without a process: its drive and kv, for whoever looks at them. */
void sim_node_open_seams(struct sim_node *node, struct env *env, struct drive **ret_drive, struct kv **ret_kv);

#endif
