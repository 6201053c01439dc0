/* SPDX-License-Identifier: Apache-2.0 */
/* copy: a ring of requests in flight between the command line and the library.
 *
 *   - copy_add gives a slot, the caller submits with copy_done and the slot; copy_take waits for the oldest
 * Failure modes: what a request ends with stands in its slot.
 */
#include "client/cli/copy.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int copy_ring_init(struct copy_ring *ring)
{
    memset(ring, 0, sizeof(*ring));
    for (uint32_t i = 0; i < COPY_SLOTS; i++) {
        if (sem_init(&ring->slots[i].done, /* shared= */ 0, 0) != 0)
            return -errno;
        ring->slots[i].data = aligned_alloc(4096, COPY_BYTES);
        if (!ring->slots[i].data)
            return -ENOMEM;
    }
    return 0;
}

struct copy_slot *copy_add(struct copy_ring *ring)
{
    if (ring->count == COPY_SLOTS)
        return NULL;
    struct copy_slot *slot = &ring->slots[(ring->first + ring->count++) % COPY_SLOTS];
    slot->rc = 0;
    slot->state = 0;
    slot->waits = false;
    return slot;
}

struct copy_slot *copy_take(struct copy_ring *ring)
{
    if (ring->count == 0)
        return NULL;
    struct copy_slot *slot = &ring->slots[ring->first];
    while (slot->waits && sem_wait(&slot->done) != 0)
        assert(errno == EINTR);
    slot->waits = false;
    ring->first = (ring->first + 1) % COPY_SLOTS;
    ring->count--;
    return slot;
}

void copy_ring_close(struct copy_ring *ring)
{
    while (copy_take(ring))
        ;
    for (uint32_t i = 0; i < COPY_SLOTS; i++) {
        (void)sem_destroy(&ring->slots[i].done);
        free(ring->slots[i].data);
    }
}

void copy_done(void *arg, int rc)
{
    struct copy_slot *slot = arg;
    slot->rc = rc;
    (void)sem_post(&slot->done);
}

int copy_connect(const struct cli *cli, struct ashlar_cluster **ret_cluster)
{
    struct ashlar_options options = {.where = cli->cluster.path[0] ? cli->cluster.path : cli->cluster.given,
                                     .open_timeout_ms = cli->timeout_ms};
    if (ashlar_connect(&options, ret_cluster) < 0)
        return cli_fail(cli, CLI_FAILED, "%s", ashlar_error());
    return CLI_OK;
}
