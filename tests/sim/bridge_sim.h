/* SPDX-License-Identifier: Apache-2.0 */
/* bridge_sim: server/control/bridge.h between a control core and a data side that live in two envs of one simulated node.
 *
 * Concept: as server/daemon/daemon_bridge, with env_defer in place of mailboxes: each side talks to a proxy with the ops of the
 *   other one; messages of a direction arrive in order, in a later turn of the receiver's env, or up to delay_max_ns later.
 *   A request that crosses has a twin; its result comes back behind the map entries that made it.
 * Threading: one thread. Errors: none. After the node's crash nothing arrives any more (its envs are dead).
 * Ownership: envs and receivers are borrowed; destroy frees what is on its way, at any time at which the control core
 *   will not call back any more (it was stopped, or its node crashed).
 */
#ifndef ASHLAR_TESTS_SIM_BRIDGE_SIM_H
#define ASHLAR_TESTS_SIM_BRIDGE_SIM_H

#include "common/env.h"
#include "server/control/bridge.h"

struct bridge_sim;

/* Told when a side says something, before it is on its way: checkers. Any may be NULL. */
struct bridge_sim_watch {
    void (*registered)(void *arg, uint64_t incarnation);
    void (*snapshot)(void *arg, uint64_t version, const void *bytes, size_t len);
    void (*entry)(void *arg, uint64_t version, const void *bytes, size_t len);
    void (*lease)(void *arg, uint64_t until_ns, uint64_t map_version);
    void (*applied)(void *arg, uint64_t version); /* said by the data side */
    void *arg;
};

struct bridge_sim_config {
    struct env *control_env, *data_env; /* may be one and the same */
    struct bridge_to_data *data;        /* the data side's receiver */
    struct bridge_to_control *control;  /* may be set later: messages wait until then */
    uint64_t delay_max_ns;              /* 0: the receiver's next turn */
    struct bridge_sim_watch watch;
};

struct bridge_sim *bridge_sim_create(const struct bridge_sim_config *config);
void bridge_sim_destroy(struct bridge_sim *bridge); /* accepts NULL */
struct bridge_to_data *bridge_sim_to_data(struct bridge_sim *bridge);
struct bridge_to_control *bridge_sim_to_control(struct bridge_sim *bridge);
const struct bridge_sim_watch *bridge_sim_of(struct bridge_to_control *b); /* whose proxy this is */
void bridge_sim_set_control(struct bridge_sim *bridge, struct bridge_to_control *control);
/* Control closed: requests that arrive from now on end with -ESHUTDOWN, other messages are dropped. */
void bridge_sim_close_control(struct bridge_sim *bridge);
/* The data side hangs (R23): nothing reaches or leaves it until it goes on. */
void bridge_sim_hang(struct bridge_sim *bridge, bool hangs);

#endif
