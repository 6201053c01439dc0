/* SPDX-License-Identifier: Apache-2.0 */
/* rig: a cluster of control planes (control_sim) with stub data sides, faults and a workload: the control plane under random
 * faults.
 *
 * Concept: a stub keeps a map replica, tells what it applied, proposes what a primary proposes, suspects whoever crashes near
 *   it. The rig crashes, cuts, pauses, slows down; in the end it heals all and demands convergence.
 * Threading: one thread. Errors: rig_fail counts; the test asserts that there are none. Ownership: the rig's.
 */
#ifndef ASHLAR_TESTS_UNIT_SIM_RAFT_RIG_H
#define ASHLAR_TESTS_UNIT_SIM_RAFT_RIG_H

#include "tests/sim/control_sim.h"

#define RIG_NODES_MAX 9
#define RIG_VOLUMES 3u

struct rig_faults { /* a minute of virtual time, of the whole cluster */
    uint32_t crashes, power_losses, power_all, crash_pairs, isolations, cuts, one_way_cuts, pauses, resets, slow_disks,
        full_disks, hangs, raft_cuts;
    uint32_t log_errors_per_million, raft_resets_per_million, net_tail_permille, meta_stall_permille;
    uint32_t drift_ppm; /* each clock up to so much off */
    uint64_t fault_max_ns, restart_max_ns;
};

struct rig_config {
    uint64_t seed;
    int nodes;
    uint32_t voters;
    unsigned snapshot_threshold;
    struct rig_faults faults;
};

struct rig;

struct stub { /* data side of a node; outlives its lives */
    struct rig *rig;
    int node;
    uint32_t lives;
    bool rebooted; /* power was lost since the last start */
    struct stub_life *life;
    struct world_event start_event, end_event;
    uint64_t registered_ns; /* last time a life was told that it is registered; 0: not yet in this life */
    uint64_t started_ns;
};

struct rig {
    struct rig_config config;
    struct world *world;
    struct sim_net *net;
    struct control_sim *control;
    struct stub stubs[RIG_NODES_MAX + 1];
    struct world_event fault_event, work_event;
    struct rig_heal *heals; /* faults that last */
    bool faults_on, work_on;
    uint64_t failures;
    char first_failure[256];
    uint64_t requests, answers, sessions, faults;
    uint64_t leader_ns, converged_ns; /* after the faults ended */
};

void rig_log_start(
    void); /* ASHLAR_SIM_TRACE=1 in the environment: every line, with virtual time, to stderr; 2: every Raft message, too */
struct rig *rig_create(const struct rig_config *config);
void rig_stop(struct rig *rig); /* every process dies */
void rig_destroy(struct rig *rig);
__attribute__((format(printf, 2, 3))) void rig_fail(struct rig *rig, const char *format, ...);
void rig_start(struct rig *rig, int node);
void rig_crash(struct rig *rig, int node, enum world_crash kind);
void rig_set_up(struct rig *rig);          /* every node started and registered, volumes made */
void rig_faults(struct rig *rig, bool on); /* off: all is healed, every node is started */
void rig_work(struct rig *rig, bool on);
bool rig_converged(void *rig); /* a leader; every node up, registered, with the newest map */
bool rig_has_leader(void *rig);
/* Runs seed: safety with faults, then liveness (a leader within a quarter of it); the trace hash. */
uint64_t rig_run(const struct rig_config *config, uint64_t safety_ns, uint64_t liveness_ns, struct rig **ret_rig);

/* stub.c */
void stub_start(struct stub *stub);
void stub_crash(struct stub *stub, enum world_crash kind);
const struct map *stub_map(const struct stub *stub); /* NULL: down */
uint64_t stub_incarnation(const struct stub *stub);
void stub_suspect(struct stub *stub, int node);
bool stub_propose(struct stub *stub, const struct map_entry *entry); /* false: down; the result is judged */

#endif
