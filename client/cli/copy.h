/* SPDX-License-Identifier: Apache-2.0 */
/* copy: several requests of the library in flight, ended in their order.
 *
 * Concept: a ring of slots, each with a buffer; copy_next gives the oldest one once it ended, for reuse. A slot's `rc` is its
 *   request's result.
 * Threading: one thread and the library's. Errors: -errno in the slot. Ownership: buffers belong to the ring.
 */
#ifndef ASHLAR_CLIENT_CLI_COPY_H
#define ASHLAR_CLIENT_CLI_COPY_H

#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>

#include <ashlar.h>

#include "client/cli/cli.h"

#define COPY_SLOTS 8u
#define COPY_BYTES (1u << 20)

struct copy_slot {
    uint8_t *data;
    uint64_t offset, length;
    unsigned state; /* enum ashlar_extent_state */
    int rc;
    bool waits; /* its callback has not come */
    sem_t done;
};

struct copy_ring {
    struct copy_slot slots[COPY_SLOTS];
    uint32_t first, count;
};

int copy_ring_init(struct copy_ring *ring);
void copy_ring_close(struct copy_ring *ring);                                 /* waits for what is in flight */
struct copy_slot *copy_add(struct copy_ring *ring);                           /* NULL: full, take the oldest first */
struct copy_slot *copy_take(struct copy_ring *ring);                          /* waits; NULL: empty */
void copy_done(void *slot, int rc);                                           /* an ashlar_cb */
int copy_connect(const struct cli *cli, struct ashlar_cluster **ret_cluster); /* enum cli_exit */

#endif
