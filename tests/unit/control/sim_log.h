/* SPDX-License-Identifier: Apache-2.0 */
/* sim_log: a replicated log without replication: one list that all voters see, a leader that the test appoints.
 *
 * Concept: what a consensus library promises, and no more. An entry proposed at a leader that reaches a majority is committed after a
 *   delay and applied at every voter that is connected. A leader that is cut off goes on believing that it leads, in its
 *   old term, and its proposals end as unknown once it learns better; whether they were committed is up to the test.
 * Threading: one thread. Errors: fail the test. Ownership: logs live until sim_log_destroy.
 */
#ifndef ASHLAR_TESTS_SIM_LOG_H
#define ASHLAR_TESTS_SIM_LOG_H

#include "server/control/control.h"
#include "tests/sim/world.h"

struct sim_log;

struct sim_log *sim_log_create(struct world *world, uint32_t voters);
void sim_log_destroy(struct sim_log *log);
struct control_log *sim_log_of(struct sim_log *log, uint32_t voter);
/* The voter's core of this life; applied from version `from` + 1 on. NULL: it is dead. */
void sim_log_join(struct sim_log *log, uint32_t voter, struct control *control, uint64_t from);
/* A new term, led by that voter; voters that are cut off do not hear of it. keep: what the leader before had under way is
 * committed (and unknown to it), else it is lost. */
void sim_log_lead(struct sim_log *log, uint32_t voter, bool keep);
void sim_log_cut(struct sim_log *log, uint32_t voter,
                 bool cut); /* off from all others; healed, it learns the newest term */
uint32_t sim_log_leader(const struct sim_log *log);
uint64_t sim_log_length(const struct sim_log *log);
uint32_t sim_log_transfers(const struct sim_log *log); /* times that a leader asked to be relieved */
/* The next so many proposals are committed, but their proposer is told "unknown". */
void sim_log_forget(struct sim_log *log, uint32_t count);
void sim_log_delay(struct sim_log *log, uint64_t commit_ns); /* what a proposal takes from now on */
/* Entry's bytes, lent. */
const void *sim_log_entry(const struct sim_log *log, uint64_t version, size_t *ret_len);

#endif
