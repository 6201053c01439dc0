/* SPDX-License-Identifier: Apache-2.0 */
/* control_sim_internal: what control_sim*.c share. Threading, errors, ownership: control_sim.h. */
#ifndef ASHLAR_TESTS_SIM_CONTROL_SIM_INTERNAL_H
#define ASHLAR_TESTS_SIM_CONTROL_SIM_INTERNAL_H

#include "common/buf.h"
#include "common/list.h"
#include "tests/sim/bridge_sim.h"
#include "tests/sim/control_sim.h"

#define LEASES_KEPT 32u

struct control_life { /* one process of a node */
    struct control_sim_node *node;
    struct env *env;
    struct buf_pool *pool;
    struct transport *transport;
    struct bridge_sim *bridge;
    struct bridge_to_control *to_control; /* what connect gave away */
    struct control_log log;
    struct raft_sim *raft; /* NULL: no voter, or not registered yet */
    struct control *control;
    void (*ended)(void *arg);
    void *ended_arg;
    bool told; /* ended was called, or is not wanted */
    bool stopping;
    bool dying;
    bool leads;
    /* what the checker knows */
    uint64_t incarnation;
    uint64_t compared_version;
    uint64_t applied; /* by the data side */
    struct {
        uint64_t until_ns, version;
    } leases[LEASES_KEPT];
    uint32_t lease_count;
};

struct control_sim_node {
    struct control_sim *sim;
    int node;
    bool voter, voted; /* voted: the disk has been bootstrapped once */
    struct raft_sim_disk *disk;
    struct control_life *life; /* NULL: no process */
    void *saved_map;
    size_t saved_map_len;
};

struct control_sim_entry { /* as first applied */
    uint8_t *bytes;
    size_t len;
    uint64_t hash; /* of the map after it */
};

struct control_sim {
    struct control_sim_config config;
    struct world *world;
    struct raft_sim_net *raft_net;
    struct control_sim_node nodes[WORLD_NODES_MAX]; /* by world node, from 1 */
    struct world_watcher watcher;
    struct world_event look;
    uint64_t map_changes;
    struct map *map;                   /* of the entries as first applied */
    struct control_sim_entry *entries; /* by version */
    uint64_t entry_capacity;
    struct list_node attempts, attaches;
    struct control_sim_stats stats;
};

/* control_sim.c */
void control_life_end(struct control_life *life); /* its process has to end */

/* control_sim_log.c */
extern const struct control_log_ops control_sim_log_ops;
int control_sim_log_open(struct control_life *life);

/* control_sim_check.c */
void check_open(struct control_sim *sim);
void check_close(struct control_sim *sim);
void check_entry(struct control_life *life, uint64_t version, const void *bytes, size_t len);
void check_snapshot(struct control_life *life, uint64_t version, const void *bytes, size_t len);
void check_watch(struct control_life *life, struct bridge_sim_watch *ret_watch);
void check_grant(struct control_sim *sim, uint64_t volume, uint64_t session, uint64_t version);
void check_result(struct control_sim *sim, const uint8_t request[16], const struct map_result *result);
__attribute__((format(printf, 2, 3))) void check_broken(struct control_sim *sim, const char *format, ...);

/* control_sim_requests.c */
void requests_crashed(struct control_sim *sim, struct control_life *life);
void requests_close(struct control_sim *sim);

#endif
