/* SPDX-License-Identifier: Apache-2.0 */
/* workload: what workload.c (choosing, judging) and its two drivers share.
 *
 * Concept: a guest uses one volume: its slots issue operations one after another. How an operation gets to the cluster is the driver's:
 *   workload_direct.c hands it to the primary's replicas, as a gateway without links would; workload_wire.c goes through the shipped
 *   client core over simulated links to the shipped gateways.
 * Threading: one thread. Errors: judged, told by sim_fail. Ownership: a guest and its slots are workload.c's.
 */
#ifndef ASHLAR_TESTS_SIM_WORKLOAD_H
#define ASHLAR_TESTS_SIM_WORKLOAD_H

#include "tests/sim/image.h"
#include "tests/sim/sim.h"

#define SLOTS_MAX 32u

enum kind { KIND_READ, KIND_WRITE, KIND_ZERO, KIND_FLUSH };

struct slot {
    struct guest *guest;
    struct world_event event;
    bool busy;
    enum kind kind;
    uint64_t offset; /* bytes in the volume */
    uint32_t length;
    bool fua;
    uint64_t stamp, start_ns;
    uint64_t *ids;
    uint32_t cells, tries;
    void *impl; /* the driver's */
};

struct driver {
    void (*create)(struct guest *guest);
    void (*destroy)(struct guest *guest);
    void (*submit)(struct slot *slot); /* ends by slot_ended, or slot_retry */
    void (*failover)(struct guest *guest);
    void (*crash)(struct guest *guest); /* slot_ended(-EOWNERDEAD) for all that is in flight */
    bool (*idle)(const struct guest *guest);
    void (*print)(const struct slot *slot);
    /* Only over the wire. */
    void (*detach)(struct guest *guest); /* nothing of it is in flight, nor attached, once idle says so */
    void (*attach)(struct guest *guest); /* again */
    void (*migrate)(
        struct guest *guest); /* another client takes the volume, while this one still has requests in flight */
};

struct guest {
    struct sim *sim;
    const struct driver *driver;
    void *impl; /* the driver's */
    uint32_t index;
    uint64_t volume, bytes, shard_bytes; /* bytes: what its client may use */
    uint64_t size;                       /* of the volume, as the operators know it */
    char name[MAP_NAME_MAX];
    struct history *history;
    struct image *origin; /* what it began as (a clone, a rollback); NULL: zeros */
    bool quiet, reading_all;
    bool detached; /* has no client, nor wants one */
    bool gone;     /* its volume is deleted */
    bool removing; /* being deleted by force: any answer will do */
    uint32_t cuts; /* snapshots that are being asked for */
    uint64_t cut_asked_ns;
    bool lost_dirty;  /* acknowledged, unflushed writes were lost, and the client has not been told yet (R13) */
    uint64_t life_ns; /* when its client began: what an earlier one asked for is not its to lose */
    uint64_t next_stamp, losses, ops, fails, read_all_next;
    uint64_t hot[8];
    struct slot slots[SLOTS_MAX];
    uint32_t slot_count;
};

extern const struct driver workload_direct, workload_wire;

const struct map_volume *guest_map_volume(const struct guest *guest);
uint64_t guest_random(const struct guest *guest, uint64_t bound);
/* The answer. data: what was read; begun_ns: when this try began; node: who said it, 0: unknown. */
void slot_ended(struct slot *slot, int rc, const uint8_t *data, uint64_t begun_ns, int node);
void slot_retry(struct slot *slot);  /* submit again, soon */
void slot_unsent(struct slot *slot); /* ends: it was never sent */
void slot_fill(const struct slot *slot, uint8_t *data);

#endif
