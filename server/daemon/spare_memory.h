/* SPDX-License-Identifier: Apache-2.0 */
/* spare_memory: what the process once needed goes back to the kernel when nobody needs it.
 *
 * Concept: under load freed memory stays in the process and is used again, because a page fault costs more than what is
 *   done with the page. At rest it is given back: what is resident then is what is held, not what was.
 * Threading: spare_memory_init before the first thread; the rest belongs to the loop of the env.
 * Errors: none of these calls fails. Ownership: embedded by the caller, outlives its arming.
 */
#ifndef ASHLAR_SERVER_DAEMON_SPARE_MEMORY_H
#define ASHLAR_SERVER_DAEMON_SPARE_MEMORY_H

#include <stddef.h>

#include "common/env.h"

#define SPARE_MEMORY_PERIOD_MS 5000u
#define SPARE_MEMORY_MIN (1u << 20) /* free, to be worth a walk through all of it */

struct spare_memory {
    struct env *env;
    struct env_timer timer;
    uint64_t cpu_us; /* of the process, when the period began */
};

void spare_memory_init(void);
void spare_memory_start(struct spare_memory *self, struct env *env);
void spare_memory_stop(struct spare_memory *self);

/* Bytes that were free, if they were given back; 0: too few. */
size_t spare_memory_give_back(void);

#endif
