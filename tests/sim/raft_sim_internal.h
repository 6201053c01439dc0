/* SPDX-License-Identifier: Apache-2.0 */
/* raft_sim_internal: what raft_sim*.c share. Threading, errors, ownership: raft_sim.h. */
#ifndef ASHLAR_TESTS_SIM_RAFT_SIM_INTERNAL_H
#define ASHLAR_TESTS_SIM_RAFT_SIM_INTERNAL_H

#include <raft.h>

#include "common/list.h"
#include "server/control/consensus_ops.h"
#include "tests/sim/raft_sim.h"

struct raft_sim_send { /* whose callback is due */
    struct list_node node;
    struct raft_io_send *req;
    raft_io_send_cb cb;
    int status;
};

struct raft_sim_get {
    struct list_node node;
    struct raft_io_snapshot_get *req;
    raft_io_snapshot_get_cb cb;
};

struct raft_sim {
    struct raft_sim_config config;
    struct consensus *consensus;
    struct raft_io io;
    struct env *env;
    struct env_timer tick_timer;
    struct env_task later_task; /* sends and gets to be called back */
    struct env_task close_task;
    unsigned tick_ms;
    raft_io_tick_cb tick;
    raft_io_recv_cb recv;
    raft_io_close_cb close_cb;
    struct list_node sends, gets;
    bool closing; /* consensus_close was called */
    bool closed;  /* raft_io.close was: no tick, no message */
    consensus_close_fn cb;
    void *cb_arg;
};

/* ---- raft_sim_disk.c ---- */
int raft_sim_disk_load(struct raft_sim_disk *disk, raft_term *term, raft_id *voted_for, struct raft_snapshot **snapshot,
                       raft_index *start_index, struct raft_entry *entries[], size_t *n_entries);
int raft_sim_disk_bootstrap(struct raft_sim_disk *disk, const struct raft_configuration *conf);
int raft_sim_disk_recover(struct raft_sim_disk *disk, const struct raft_configuration *conf);
int raft_sim_disk_set_term(struct raft_sim_disk *disk, raft_term term);
int raft_sim_disk_set_vote(struct raft_sim_disk *disk, raft_id vote);
int raft_sim_disk_append(struct raft_sim_disk *disk, struct raft_io_append *req, const struct raft_entry entries[],
                         unsigned n, raft_io_append_cb cb);
int raft_sim_disk_truncate(struct raft_sim_disk *disk, raft_index index);
int raft_sim_disk_put(struct raft_sim_disk *disk, unsigned trailing, struct raft_io_snapshot_put *req,
                      const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb);
struct raft_snapshot *raft_sim_disk_get(const struct raft_sim_disk *disk); /* a copy, given; NULL: none */
void raft_sim_disk_attach(struct raft_sim_disk *disk);
void raft_sim_disk_detach(struct raft_sim_disk *disk); /* what is in flight is kept or lost; every callback comes */
bool raft_sim_disk_bootstrapped(const struct raft_sim_disk *disk);
bool raft_sim_disk_probation(const struct raft_sim_disk *disk);
void raft_sim_disk_probation_over(struct raft_sim_disk *disk);

/* ---- raft_sim_net.c ---- */
int raft_sim_net_send(struct raft_sim_net *net, int from, const struct raft_message *message); /* copies */
void raft_sim_net_attach(struct raft_sim_net *net, int node, struct raft_sim *raft);           /* NULL: no more */
int raft_sim_configuration_copy(const struct raft_configuration *from, struct raft_configuration *to);

/* ---- raft_sim.c ---- */
void raft_sim_receive(struct raft_sim *raft, struct raft_message *message); /* its memory is given */

#endif
