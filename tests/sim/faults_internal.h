/* SPDX-License-Identifier: Apache-2.0 */
/* faults_internal: what faults.c (rates) and faults_script.c (faults placed by hand) share. Threading, errors: sim.h.
 * Ownership: faults.c's.
 */
#ifndef ASHLAR_TESTS_SIM_FAULTS_INTERNAL_H
#define ASHLAR_TESTS_SIM_FAULTS_INTERNAL_H

#include "tests/sim/sim.h"

#define FAULTS_NEVER UINT64_MAX
#define FAULTS_KINDS_MAX 24

struct faulty_node {
    uint64_t start_at_ns, resume_at_ns, drive_ok_at_ns;
    uint32_t loops; /* crashes still to come of a crash loop */
};

struct faults {
    struct sim *sim;
    struct world_event tick;
    struct faulty_node nodes[SIM_NODES_MAX + 1];
    uint64_t cut_ends_ns[SIM_NODES_MAX + 1][SIM_NODES_MAX + 1], slow_ends_ns[SIM_NODES_MAX + 1][SIM_NODES_MAX + 1];
    uint64_t counts[FAULTS_KINDS_MAX];
    int rot_node; /* one node's copies rot, so that every block has a good copy somewhere */
    bool stopped;
    /* faults_script.c */
    uint64_t began_ns;
    struct faults_script *script;
};

/* Each lasts until that time; the node comes back at nodes[].start_at_ns, which crash sets at random. */
void faults_crash(struct faults *f, int node, enum world_crash kind);
void faults_cut(struct faults *f, int from, int to, uint64_t until);
void faults_isolate(struct faults *f, int node, uint64_t until, bool from_authority);
void faults_pause(struct faults *f, int node, uint64_t until);
void faults_slow_drive(struct faults *f, int node, uint32_t permille, uint64_t slow_ns, uint64_t until);
void faults_slow_link(struct faults *f, int from, int to, uint64_t extra_ns, uint64_t until);
void faults_clock_jump(struct faults *f, int node, uint64_t jump_ns);
void faults_stop_node(struct faults *f, int node);
bool faults_node_is_backed(struct faults *f, int node);

void faults_script_start(struct faults *f);
void faults_script_tick(struct faults *f);
void faults_script_end(struct faults *f);

#endif
