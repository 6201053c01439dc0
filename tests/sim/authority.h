/* SPDX-License-Identifier: Apache-2.0 */
/* authority: an in-process stand-in for the control plane: one authoritative cluster map, without consensus.
 *
 * Concept: nodes speak to it over bridge.h, through ordered channels that are delayed, stall while the network is cut and die with
 *   the node. It registers nodes, commits proposals in order and sends the entry bytes to every registered node, grants leases,
 *   declares nodes down, elects, opens sessions with the wait of R19, attaches replacements. It lives at a world node of its own.
 * Threading: one thread. Errors: as in bridge.h. Ownership: ports are the authority's; data bridges the nodes'.
 */
#ifndef ASHLAR_TESTS_SIM_AUTHORITY_H
#define ASHLAR_TESTS_SIM_AUTHORITY_H

#include "common/env.h"
#include "server/control/bridge.h"
#include "server/control/map.h"
#include "tests/sim/transport_sim.h"
#include "tests/sim/world.h"

#define AUTHORITY_CLUSTER 0x51edull

struct authority;
struct authority_config {
    struct world *world;
    struct sim_net *net;
    int node;     /* its world node */
    int node_max; /* data nodes are world nodes 1..node_max, and have these map ids */
    uint64_t heartbeat_ns, node_timeout_ns, lease_ns, grace_ns, out_after_ns; /* out_after_ns 0: never replace */
    uint64_t commit_min_ns, commit_max_ns;
    void (*shard_changed)(void *arg, const struct map_shard *before, const struct map_shard *now);
    void *arg;
};

struct authority *authority_create(const struct authority_config *config);
void authority_destroy(struct authority *a); /* accepts NULL */
const struct map *authority_map(const struct authority *a);
/* Commits now; for set-up and operators. */
int authority_apply(struct authority *a, struct map_entry *entry, struct map_result *ret_result);

/* A node's life begins. deposed: declared down while it lived (bridge.h: the process should end). */
struct bridge_to_control *authority_connect(struct authority *a, int node, struct env *env, struct bridge_to_data *data,
                                            void (*deposed)(void *arg), void *arg);
void authority_register(struct bridge_to_control *b, const struct map_node *info);
void authority_disconnect(struct bridge_to_control *b);          /* an orderly end; a crash is noticed */
uint64_t authority_applied(const struct authority *a, int node); /* map version the node reported */

/* A client attaches through a gateway node; cb in nobody's context. */
struct authority_attach {
    uint64_t volume;
    uint32_t gateway;
    uint8_t attachment[16];
    uint32_t flags;
    void (*cb)(struct authority_attach *req, int rc, uint64_t session);
    void *owner;
};
void authority_attach(struct authority *a, struct authority_attach *req);

#endif
