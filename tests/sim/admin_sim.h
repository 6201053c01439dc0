/* SPDX-License-Identifier: Apache-2.0 */
/* admin_sim: one question of an operator to the cluster, by the shipped admin interface, until there is a definite answer.
 *
 * Concept: a change is asked of a live control core with a request id; when that core dies, or does not know, the same change is asked
 *   again elsewhere, with the same id (exactly once).
 * Threading: one thread. Errors: the answer's code. Ownership: the call is the caller's, and busy until cb.
 */
#ifndef ASHLAR_TESTS_SIM_ADMIN_SIM_H
#define ASHLAR_TESTS_SIM_ADMIN_SIM_H

#include "tests/sim/sim.h"

struct admin_try;

struct admin_call {
    struct sim *sim;
    char fields[320]; /* of the JSON object, after op and request: "\"name\":\"v0\"" */
    char op[24];
    void (*cb)(struct admin_call *call, int rc, uint64_t value);
    void *owner;
    uint64_t asked_ns;
    /* private */
    uint64_t id[2];
    bool busy;
    uint32_t tries;
    struct admin_try *try;
    struct world_event event;
};

void admin_ask(struct admin_call *call);
void admin_give_up(struct admin_call *call); /* no cb any more */

#endif
