/* SPDX-License-Identifier: Apache-2.0 */
/* sim: one simulated cluster: what its parts (workload, faults, convergence, log) share.
 *
 * Threading: one thread, one simulation a process. Errors: sim_fail: told, counted, the run is judged failed.
 * Ownership: sim.c makes and frees it all.
 */
#ifndef ASHLAR_TESTS_SIM_SIM_H
#define ASHLAR_TESTS_SIM_SIM_H

#include "tests/sim/history.h"
#include "tests/sim/plane.h"
#include "tests/sim/scenario.h"
#include "tests/sim/sim_node.h"

#define SIM_NODES_MAX 16
#define SIM_GUESTS_MAX 24
#define SIM_READERS 2 /* of snapshots */

struct guest;
struct faults;
struct image;
struct operators;

struct sim {
    struct scenario scenario;
    uint64_t seed;
    bool trace, ending;
    struct world *world;
    struct sim_net *net;
    struct plane *plane;
    int node_count;
    struct sim_node *nodes[SIM_NODES_MAX + 1]; /* by world node, from 1 */
    struct guest *guests[SIM_GUESTS_MAX];
    uint32_t guest_count;
    struct faults *faults;
    struct operators *operators; /* NULL: nobody administers */
    uint64_t lost_at_ns;         /* when some guest's acknowledged, unflushed data was lost last */
    uint64_t failures;
    char first_failure[256];
};

void sim_fail(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_note(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* sim_log.c: the last lines of every node, printed when a run fails. */
void sim_log_start(struct sim *sim);
void sim_log_print(void);

int sim_guest_node(const struct sim *sim, uint32_t index); /* world node of a guest's host */

/* workload.c: one guest a volume. It begins as a snapshot did (origin; NULL: as zeros). */
struct guest *guest_create(struct sim *sim, uint64_t volume, struct image *origin);
void guest_destroy(struct guest *client);
void guest_quiesce(struct guest *client);    /* begins nothing new */
bool guest_idle(const struct guest *client); /* nothing in flight */
void guest_read_all(struct guest *client);   /* reads every chunk once, judged like any read */
void guest_shard_lost(struct guest *client, uint32_t shard);
void guest_failover(struct guest *client);
void guest_crash(struct guest *client); /* what it has in flight is unknown to it; it starts over */
uint64_t guest_volume(const struct guest *client);
uint64_t guest_ops(const struct guest *client);
void guest_print(const struct guest *client);
/* What operators do (control = 1, wire = 1). */
void guest_detach(struct guest *client); /* when guest_idle again, it has no session */
void guest_attach(struct guest *client);
void guest_migrate(struct guest *client); /* another client takes its volume over, by force */
void guest_gone(struct guest *client);    /* its volume was deleted */
void guest_asks_cut(struct guest *client);
void guest_has_cut(struct guest *client); /* or there is none, after all */
void guest_resized(struct guest *client, uint64_t size);
void guest_rolled_back(struct guest *client, struct image *image);

/* faults.c */
struct faults *faults_create(struct sim *sim);
void faults_stop(struct faults *faults);          /* ends all that lasts, starts every node */
uint32_t faults_unreached(struct faults *faults); /* steps by hand that never came; after faults_stop */
void faults_destroy(struct faults *faults);
void faults_script_line(const char *line, int node); /* what was logged may be what a step waits for */
void faults_print(const struct faults *faults);

/* operators.c: snapshots, clones, volumes that come and go, by the shipped admin path */
struct operators *operators_create(struct sim *sim);
void operators_stop(struct operators *operators);       /* they begin nothing new */
bool operators_idle(const struct operators *operators); /* every question is answered, every reader is done */
void operators_destroy(struct operators *operators);    /* nodes are down; accepts NULL */
bool operators_by_hand(struct sim *sim, const char *action, const char *arg);
void operators_print(const struct operators *operators); /* who is at work */
void operators_tell(const struct operators *operators);  /* what was done */
/* teardown.c: every snapshot is read; then all is deleted, in any order, and all space must come back. */
void teardown_run(struct sim *sim);
/* audit.c: the shipped check of a whole store, over what the stopped nodes left (I11). */
void audit_run(struct sim *sim);

/* converge.c */
bool converge_reached(struct sim *sim);
void converge_print(struct sim *sim);
void converge_scrub(struct sim *sim);   /* until every block was read and repaired */
void converge_compare(struct sim *sim); /* I9: bytes and checksums of all members */

/* sim.c */
void sim_report_abort(void); /* from a signal handler, best effort: what every node did last */
#define SIM_UNREACHED 3      /* sim_run: all went well, but steps placed by hand never came */
int sim_run(uint64_t seed, const char *scenario_path, bool trace, double *ret_virtual_seconds);

#endif
