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
#define SIM_CLIENTS_MAX 8

struct client;
struct faults;

struct sim {
    struct scenario scenario;
    uint64_t seed;
    bool trace;
    struct world *world;
    struct sim_net *net;
    struct plane *plane;
    int node_count;
    struct sim_node *nodes[SIM_NODES_MAX + 1]; /* by world node, from 1 */
    struct client *clients[SIM_CLIENTS_MAX];
    uint32_t client_count;
    struct faults *faults;
    uint64_t failures;
    char first_failure[256];
};

void sim_fail(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_note(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* sim_log.c: the last lines of every node, printed when a run fails. */
void sim_log_start(struct sim *sim);
void sim_log_print(void);

/* workload.c: one client a volume */
struct client *client_create(struct sim *sim, uint64_t volume);
void client_destroy(struct client *client);
void client_quiesce(struct client *client);         /* begins nothing new */
bool client_idle(const struct client *client);      /* nothing in flight */
void client_read_all(struct client *client);        /* reads every chunk once, judged like any read */
void client_shard_lost(struct client *client, uint32_t shard);
void client_failover(struct client *client);
uint64_t client_volume(const struct client *client);
uint64_t client_ops(const struct client *client);
void client_print(const struct client *client);

/* faults.c */
struct faults *faults_create(struct sim *sim);
void faults_stop(struct faults *faults); /* ends all that lasts, starts every node */
void faults_destroy(struct faults *faults);
void faults_print(const struct faults *faults);

/* converge.c */
bool converge_reached(struct sim *sim);
void converge_print(struct sim *sim);
void converge_compare(struct sim *sim); /* I9: bytes and checksums of all members */

/* sim.c */
void sim_report_abort(void); /* from a signal handler, best effort: what every node did last */
int sim_run(uint64_t seed, const char *scenario_path, bool trace, double *ret_virtual_seconds);

#endif
