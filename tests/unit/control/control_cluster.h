/* SPDX-License-Identifier: Apache-2.0 */
/* control_cluster: several control cores in one simulated world: a network, a log, data threads that only follow the map.
 *
 * Concept: node ids are 1..count, world nodes id - 1. The log (sim_log.h) is one totally ordered list with a leader that tests move.
 *   Each node's data thread is a fake: it applies the map after a delay, notes leases, and can play the primary (activates
 *   epochs, adds members). A judge watches every NODE_DOWN that a data thread applies: see `judged`.
 * Threading: one thread. Errors: fail the test. Ownership: cluster_init/close by the test.
 */
#ifndef ASHLAR_TESTS_CONTROL_CLUSTER_H
#define ASHLAR_TESTS_CONTROL_CLUSTER_H

#include "common/buf.h"
#include "server/control/control.h"
#include "tests/sim/transport_sim.h"
#include "tests/sim/world.h"
#include "tests/unit/control/sim_log.h"

#define CLUSTER_NODES_MAX 8

struct cluster;

struct fake_data {
    struct bridge_to_data bridge;
    struct cluster_node *node;
    struct map *map;
    struct world_event apply, alive, act;
    struct fake_mail *first, *last; /* messages on their way */
    uint64_t lease_until_ns, lease_version, incarnation;
    uint32_t registrations, stats_requests, snapshots, entries;
    bool frozen; /* applies nothing: a data thread that hangs, though it says alive */
    bool mute;   /* says nothing */
    uint64_t io_age_ns;
    bool busy; /* a proposal of the fake primary is under way */
    struct bridge_propose propose;
};

struct cluster_node {
    struct cluster *cluster;
    uint32_t id;
    int world_node;
    bool up;
    struct env *env;
    struct buf_pool *bufs;
    struct transport *transport;
    struct control *control;
    struct control_log *log; /* NULL: not a voter */
    struct fake_data data;
    uint8_t stop; /* told at the next start */
    uint32_t fatals, deposed;
    bool stay_deposed; /* the hook is set: the core does not register again by itself */
    int fatal_rc;
    void *saved;
    size_t saved_len;
    uint64_t saved_version;
};

struct cluster {
    struct world *world;
    struct sim_net *net;
    struct sim_log *log;
    uint32_t count, voters;
    struct cluster_node nodes[CLUSTER_NODES_MAX + 1]; /* by id */
    bool judged; /* NODE_DOWN comes from silence only: no lease of that node may be left when it is applied anywhere */
    bool primaries_act; /* fake primaries activate epochs and add members */
    uint64_t judgements;
    uint64_t apply_delay_ns;
    struct control_config times; /* 0: defaults of the cluster, shorter than the product's where waiting is dull */
};

/* Starts all nodes; log leader: node 1. */
void cluster_init(struct cluster *k, uint64_t seed, uint32_t count, uint32_t voters);
void cluster_close(struct cluster *k);
void cluster_start(struct cluster *k, uint32_t id, uint8_t stop);
void cluster_crash(struct cluster *k, uint32_t id,
                   enum world_crash kind); /* a voter's leadership is for the test to move */
void cluster_run_ms(struct cluster *k, uint64_t ms);
/* Runs until done or limit; fails the test at the limit. */
void cluster_await(struct cluster *k, bool (*done)(struct cluster *k, uint64_t arg), uint64_t arg, uint64_t limit_ms);
bool cluster_all_registered(struct cluster *k, uint64_t arg); /* every node that is up */
bool cluster_is_down(struct cluster *k, uint64_t node);       /* as the leader's map says */
bool cluster_is_up(struct cluster *k, uint64_t node);
const struct map *cluster_map(struct cluster *k); /* of the log's leader */
uint64_t cluster_now_ms(struct cluster *k);
/* Holds a node's data thread a lease now, by its own clock? */
bool cluster_has_lease(struct cluster *k, uint32_t id);

/* A proposal or attachment of a node's data thread; done says when. */
struct cluster_request {
    struct bridge_propose propose;
    struct bridge_attach attach;
    uint32_t done; /* how often the callback came */
    struct map_result result;
    int rc;
    uint64_t done_ms;
    struct cluster *cluster;
};
void cluster_propose(struct cluster *k, uint32_t id, const struct map_entry *entry, struct cluster_request *request);
void cluster_attach(struct cluster *k, uint32_t id, const char *volume, uint8_t attachment, uint32_t flags,
                    struct cluster_request *request);
void cluster_finish(struct cluster *k, struct cluster_request *request, uint64_t limit_ms);
uint64_t cluster_volume(struct cluster *k, const char *name, uint32_t shards, uint32_t replicas, uint32_t min_replicas,
                        uint32_t home);
/* An admin request at a node; the answer, to be freed. */
char *cluster_admin(struct cluster *k, uint32_t id, const char *json);

#endif
