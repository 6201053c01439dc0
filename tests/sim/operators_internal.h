/* SPDX-License-Identifier: Apache-2.0 */
/* operators_internal: what operators*.c, snapshot_reader.c and teardown.c share.
 *
 * Concept: an operator does one thing at a time; several work at once. What would make the model ambiguous is kept apart by locks:
 *   a volume is used alone (rolled back, deleted, cut) or by many (snapshots, clones), a snapshot is deleted alone.
 * Threading: one thread. Errors: sim_fail. Ownership: operators.c's; an image is shared by its snapshot, its clones, its readers.
 */
#ifndef ASHLAR_TESTS_SIM_OPERATORS_INTERNAL_H
#define ASHLAR_TESTS_SIM_OPERATORS_INTERNAL_H

#include "tests/sim/admin_sim.h"
#include "tests/sim/image.h"
#include "tests/sim/workload.h"

#define OPERATORS_MAX 4u
#define SNAPS_MAX 96u
#define GROUP_MAX 3u

enum task_kind {
    TASK_SNAPSHOT,
    TASK_GROUP,
    TASK_SNAP_DELETE,
    TASK_CLONE,
    TASK_ROLLBACK,
    TASK_FLATTEN,
    TASK_CREATE,
    TASK_DELETE,
    TASK_GROW,
    TASK_SHRINK,
    TASK_MIGRATE,
    TASK_DETACH,
    TASK_KINDS,
};

struct snap {
    char name[16];
    struct guest *guest; /* whose volume it is of */
    struct image *image; /* NULL: the place is free */
    uint32_t users;      /* clones and rollbacks being asked for */
    uint32_t readers;
    bool deleting; /* perhaps gone already */
    bool gone;     /* free, once its readers have left */
};

struct admin {
    struct operators *all;
    struct admin_call call;
    struct world_event event;
    bool busy;
    enum task_kind kind;
    struct guest *guests[GROUP_MAX];
    uint32_t guest_count;
    uint64_t sizes[GROUP_MAX]; /* when it was asked for */
    struct snap *snap;
    uint64_t size;
    char name[16];
    uint32_t refused;
    void (*then)(struct admin *op);
};

struct operators {
    struct sim *sim;
    struct admin one[OPERATORS_MAX];
    uint32_t count, names;
    struct snap snaps[SNAPS_MAX];
    bool alone[SIM_GUESTS_MAX];
    uint32_t shared[SIM_GUESTS_MAX];
    struct snapshot_reader *readers[SIM_READERS];
    struct world_event reader_event;
    bool stopped;
    uint64_t done[TASK_KINDS], refused[TASK_KINDS], given_up_yet_there;
};

/* operators_tasks.c. False: it cannot be done now. */
bool task_start(struct admin *op, enum task_kind kind);
/* operators.c */
void operator_done(struct admin *op, bool refused);
void operator_wait(struct admin *op, uint64_t delay_ns, void (*then)(struct admin *op));
struct snap *snap_add(struct operators *all, struct guest *guest, const char *name, struct image *image);
void snap_gone(struct snap *snap);
bool guest_lock(struct operators *all, struct guest *guest, bool alone);
void guest_unlock(struct operators *all, struct guest *guest, bool alone);

/* snapshot_reader.c */
struct snapshot_reader *snapshot_reader_create(struct sim *sim, int world_node);
void snapshot_reader_destroy(struct snapshot_reader *reader);
void snapshot_reader_start(struct snapshot_reader *reader, struct snap *snap, bool everything);
bool snapshot_reader_idle(const struct snapshot_reader *reader);
uint64_t snapshot_reader_reads(const struct snapshot_reader *reader);

#endif
