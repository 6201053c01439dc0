/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fixture: up to five consensus instances on one libuv loop, real directories,
 * real sockets on loopback. Each node's state machine is the list of all
 * entries it was given; the fixture itself checks (C5), versions without gaps.
 *
 * Waiting is always for a condition, with a generous deadline that fails.
 */
#ifndef ASHLAR_TEST_CONSENSUS_CLUSTER_H
#define ASHLAR_TEST_CONSENSUS_CLUSTER_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <limits.h>
#include <uv.h>

#include "server/control/consensus_ops.h"

#define CLUSTER_NODES_MAX 5u
#define CLUSTER_ENTRIES_MAX 4096u
#define CLUSTER_DEADLINE_MS 60000u

struct cluster;

struct cluster_node {
    struct cluster *cluster;
    uint64_t id;
    char dir[PATH_MAX];
    char address[64];
    int port_fd; /* keeps the port from being given to others */
    struct consensus *c;
    bool closed;
    uint64_t entries[CLUSTER_ENTRIES_MAX]; /* the state machine */
    uint64_t version;
    unsigned applies; /* calls of apply() since the node was opened */
    unsigned failures;
    bool is_leader;
    uint64_t leader_id;
};

struct cluster {
    uv_loop_t loop;
    uv_timer_t deadline;
    bool timed_out;
    unsigned n;
    char dir[PATH_MAX];
    struct cluster_node nodes[CLUSTER_NODES_MAX];
    size_t heap_used;               /* libraft's, at setup: teardown demands the same... */
    bool library_leaks;             /* ... but where libraft is known to lose some */
    struct consensus_config config; /* template; id, dir and voters filled in */
};

/* A proposal that counts its callbacks. */
struct cluster_proposal {
    struct consensus_propose_req req;
    unsigned calls;
    int rc;
    uint64_t version;
};

void cluster_setup(struct cluster *cluster, unsigned n, const char *base_dir);
/* Closes what is open, removes the files, demands a loop without handles. */
void cluster_teardown(struct cluster *cluster);

int cluster_open(struct cluster *cluster, unsigned i, bool may_bootstrap);
void cluster_boot(struct cluster *cluster, unsigned i); /* open + start, must work */
void cluster_boot_all(struct cluster *cluster);
void cluster_stop(struct cluster *cluster, unsigned i); /* close and wait */
void cluster_wipe(struct cluster *cluster, unsigned i); /* a stopped node's files */

typedef bool (*cluster_condition)(struct cluster *cluster, void *arg);
/* Runs the loop until it holds; fails the test at the deadline. */
void cluster_await(struct cluster *cluster, cluster_condition condition, void *arg, const char *what);
/* A ready leader that all other open nodes know. Returns its index. */
unsigned cluster_await_leader(struct cluster *cluster);
/* Until every open node has applied `version`. */
void cluster_await_version(struct cluster *cluster, uint64_t version);

int cluster_propose(struct cluster *cluster, unsigned i, uint64_t value, struct cluster_proposal *proposal);
/* Proposes at the leader and waits; value is the entry. */
void cluster_commit(struct cluster *cluster, uint64_t value);
/* All open nodes hold entry k == first + k - 1, for all k up to version. */
void cluster_assert_same(struct cluster *cluster, uint64_t version);

#endif
