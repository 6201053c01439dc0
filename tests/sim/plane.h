/* SPDX-License-Identifier: Apache-2.0 */
/* plane: the control plane of the simulated cluster: the stand-in (authority.h) or the shipped one (control_sim.h).
 *
 * Threading, errors, ownership: as in those two. Create it after the net, destroy it before; nodes are down at destroy.
 */
#ifndef ASHLAR_TESTS_SIM_PLANE_H
#define ASHLAR_TESTS_SIM_PLANE_H

#include "server/control/bridge.h"
#include "server/control/control.h"
#include "server/control/map.h"
#include "tests/sim/scenario.h"
#include "tests/sim/transport_sim.h"
#include "tests/sim/world.h"

#define PLANE_CLUSTER 0x51edull

struct plane;
struct plane_config {
    struct world *world;
    struct sim_net *net;
    const struct scenario *scenario;
    int node_max;
    void (*shard_changed)(void *arg, const struct map_shard *before, const struct map_shard *now);
    void (*broken)(void *arg, const char *sentence);
    void *arg;
};

struct plane *plane_create(const struct plane_config *config);
void plane_destroy(struct plane *plane); /* accepts NULL */
const struct map *plane_map(const struct plane *plane);
uint64_t plane_applied(const struct plane *plane, int node);
int plane_apply(struct plane *plane, struct map_entry *entry, struct map_result *ret_result);
struct bridge_to_control *plane_connect(struct plane *plane, int node, struct env *env, struct bridge_to_data *data,
                                        void (*ended)(void *arg), void *arg);
void plane_register(struct plane *plane, struct bridge_to_control *b, const struct map_node *info);
/* An orderly exit begins: the data side's requests end with -ESHUTDOWN (the stand-in answers them anyway). */
void plane_stop(struct plane *plane, struct bridge_to_control *b);
void plane_disconnect(struct plane *plane, struct bridge_to_control *b);

int plane_leader(const struct plane *plane);                     /* control = 1; 0: none now */
struct control *plane_core(const struct plane *plane, int node); /* control = 1; NULL: down */

struct plane_attach {
    uint64_t volume;
    uint32_t gateway;
    uint8_t attachment[16];
    uint32_t flags;
    void (*cb)(struct plane_attach *req, int rc, uint64_t session);
    void *owner;
};
void plane_attach(struct plane *plane, struct plane_attach *req);

#endif
