/* SPDX-License-Identifier: Apache-2.0 */
/* operators: administrators of the simulated cluster: snapshots, clones, rollbacks, volumes that come, grow, move and go.
 *
 * - each operator, again and again: chooses a task by the scenario's weights, does it by the shipped admin path, waits.
 * - readers attach a snapshot, read some of it, detach; what they read is judged by its image (I10).
 * Failure: none of its own.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/operators_internal.h"

static const char *const task_names[TASK_KINDS] = {"snapshot", "group",  "snapdelete", "clone",  "rollback", "flatten",
                                                   "create",   "delete", "grow",       "shrink", "migrate",  "detach"};

static void next(struct world_event *event);

static uint64_t below(const struct operators *all, uint64_t bound)
{
    return world_random_below(all->sim->world, bound);
}

/* ---- locks ---- */

bool guest_lock(struct operators *all, struct guest *guest, bool alone)
{
    if (guest->gone || all->alone[guest->index] || (alone && all->shared[guest->index] > 0))
        return false;
    if (alone)
        all->alone[guest->index] = true;
    else
        all->shared[guest->index]++;
    return true;
}

void guest_unlock(struct operators *all, struct guest *guest, bool alone)
{
    assert(alone ? all->alone[guest->index] : all->shared[guest->index] > 0);
    if (alone)
        all->alone[guest->index] = false;
    else
        all->shared[guest->index]--;
}

/* ---- snapshots ---- */

struct snap *snap_add(struct operators *all, struct guest *guest, const char *name, struct image *image)
{
    for (uint32_t i = 0; i < SNAPS_MAX; i++) {
        struct snap *snap = &all->snaps[i];
        if (snap->image)
            continue;
        *snap = (struct snap){.guest = guest, .image = image};
        (void)snprintf(snap->name, sizeof(snap->name), "%s", name);
        return snap;
    }
    assert(!"room for a snapshot");
    return NULL;
}

void snap_gone(struct snap *snap)
{
    snap->gone = snap->deleting = true;
    if (snap->readers > 0)
        return;
    image_unref(snap->image);
    memset(snap, 0, sizeof(*snap));
}

/* ---- one operator ---- */

static void wait_for_next(struct admin *op)
{
    struct sim *sim = op->all->sim;
    uint64_t gap = ENV_MS(1) * (1 + below(op->all, 2 * sim->scenario.operator_gap_ms + 1));
    world_schedule(sim->world, &op->event, WORLD_NOBODY, gap, next);
}

void operator_done(struct admin *op, bool refused)
{
    assert(op->busy && !op->call.busy);
    op->all->done[op->kind] += !refused;
    op->all->refused[op->kind] += refused;
    op->busy = false;
    op->snap = NULL;
    op->guest_count = 0;
    wait_for_next(op);
}

static void waited(struct world_event *event)
{
    struct admin *op = list_entry(event, struct admin, event);
    assert(op->busy && op->then);
    op->then(op);
}

void operator_wait(struct admin *op, uint64_t delay_ns, void (*then)(struct admin *op))
{
    assert(op->busy);
    op->then = then;
    world_schedule(op->all->sim->world, &op->event, WORLD_NOBODY, delay_ns, waited);
}

static enum task_kind choose(const struct operators *all)
{
    const struct scenario *s = &all->sim->scenario;
    const uint64_t weights[TASK_KINDS] = {
        s->snapshot_weight, s->group_weight,   s->snapdelete_weight, s->clone_weight,
        s->rollback_weight, s->flatten_weight, s->create_weight,     s->delete_weight,
        s->grow_weight,     s->shrink_weight,  s->migrate_weight,    s->detach_weight,
    };
    uint64_t sum = 0;
    for (int i = 0; i < TASK_KINDS; i++)
        sum += weights[i];
    uint64_t at = sum ? below(all, sum) : 0;
    for (int i = 0; i < TASK_KINDS; i++) {
        if (at < weights[i])
            return (enum task_kind)i;
        at -= weights[i];
    }
    return TASK_KINDS;
}

static bool begin(struct admin *op, enum task_kind kind)
{
    assert(!op->busy);
    op->busy = true;
    op->kind = kind;
    op->refused = 0;
    op->guest_count = 0;
    op->snap = NULL;
    if (task_start(op, kind))
        return true;
    op->busy = false;
    return false;
}

static void next(struct world_event *event)
{
    struct admin *op = list_entry(event, struct admin, event);
    if (op->all->stopped)
        return;
    enum task_kind kind = choose(op->all);
    if (kind == TASK_KINDS || !begin(op, kind))
        wait_for_next(op);
}

static void read_snapshots(struct operators *all)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < SIM_READERS; i++) {
        if (!snapshot_reader_idle(all->readers[i]))
            continue;
        while (at < SNAPS_MAX && (!all->snaps[at].image || all->snaps[at].deleting))
            at++;
        if (at < SNAPS_MAX)
            snapshot_reader_start(all->readers[i], &all->snaps[at++], /* everything= */ true);
    }
}

bool operators_by_hand(struct sim *sim, const char *action, const char *arg)
{
    (void)arg;
    if (sim->operators && strcmp(action, "readsnapshots") == 0) {
        read_snapshots(sim->operators);
        return true;
    }
    for (int kind = 0; sim->operators && kind < TASK_KINDS; kind++) {
        if (strcmp(action, task_names[kind]) != 0)
            continue;
        for (uint32_t i = 0; i < OPERATORS_MAX; i++) {
            struct admin *op = &sim->operators->one[i];
            if (op->busy)
                continue;
            if (!begin(op, (enum task_kind)kind))
                sim_note(sim, "operator: there is nothing to %s now", action);
            return true;
        }
        return true;
    }
    return false;
}

/* ---- readers ---- */

static struct snap *any_snap(const struct operators *all)
{
    uint32_t first = (uint32_t)below(all, SNAPS_MAX);
    for (uint32_t i = 0; i < SNAPS_MAX; i++) {
        const struct snap *snap = &all->snaps[(first + i) % SNAPS_MAX];
        if (snap->image && !snap->deleting)
            return (struct snap *)snap;
    }
    return NULL;
}

static void readers_next(struct world_event *event)
{
    struct operators *all = list_entry(event, struct operators, reader_event);
    for (uint32_t i = 0; !all->stopped && i < SIM_READERS; i++) {
        struct snap *snap = snapshot_reader_idle(all->readers[i]) ? any_snap(all) : NULL;
        if (snap && below(all, 3) == 0)
            snapshot_reader_start(all->readers[i], snap, /* everything= */ false);
    }
    world_schedule(all->sim->world, event, WORLD_NOBODY, ENV_MS(40), readers_next);
}

/* ---- life ---- */

struct operators *operators_create(struct sim *sim)
{
    struct operators *all = calloc(1, sizeof(*all));
    assert(all && sim->scenario.control && sim->scenario.wire);
    all->sim = sim;
    all->count = sim->scenario.operators < OPERATORS_MAX ? (uint32_t)sim->scenario.operators : OPERATORS_MAX;
    for (uint32_t i = 0; i < OPERATORS_MAX; i++) {
        struct admin *op = &all->one[i];
        op->all = all;
        op->call.sim = sim;
        op->call.owner = op;
        if (i < all->count)
            wait_for_next(op);
    }
    for (uint32_t i = 0; i < SIM_READERS; i++)
        all->readers[i] = snapshot_reader_create(sim, sim_guest_node(sim, SIM_GUESTS_MAX + i));
    world_schedule(sim->world, &all->reader_event, WORLD_NOBODY, ENV_MS(40), readers_next);
    return all;
}

void operators_stop(struct operators *all)
{
    all->stopped = true;
}

bool operators_idle(const struct operators *all)
{
    for (uint32_t i = 0; i < OPERATORS_MAX; i++)
        if (all->one[i].busy)
            return false;
    for (uint32_t i = 0; i < SIM_READERS; i++)
        if (!snapshot_reader_idle(all->readers[i]))
            return false;
    return true;
}

void operators_destroy(struct operators *all)
{
    if (!all)
        return;
    world_cancel(all->sim->world, &all->reader_event);
    for (uint32_t i = 0; i < OPERATORS_MAX; i++) {
        admin_give_up(&all->one[i].call);
        world_cancel(all->sim->world, &all->one[i].event);
    }
    for (uint32_t i = 0; i < SIM_READERS; i++)
        snapshot_reader_destroy(all->readers[i]);
    for (uint32_t i = 0; i < SNAPS_MAX; i++)
        image_unref(all->snaps[i].image);
    free(all);
}

void operators_print(const struct operators *all)
{
    for (uint32_t i = 0; i < OPERATORS_MAX; i++)
        if (all->one[i].busy)
            fprintf(stderr, "  operator %u: %s %s %s, tried %u times\n", i, task_names[all->one[i].kind],
                    all->one[i].call.busy ? "asks" : "waits", all->one[i].call.fields, all->one[i].call.tries);
    for (uint32_t i = 0; i < SIM_READERS; i++)
        if (!snapshot_reader_idle(all->readers[i]))
            fprintf(stderr, "  reader %u is busy\n", i);
}

void operators_tell(const struct operators *all)
{
    uint64_t reads = 0;
    for (uint32_t i = 0; i < SIM_READERS; i++)
        reads += snapshot_reader_reads(all->readers[i]);
    printf("operators:");
    for (int i = 0; i < TASK_KINDS; i++)
        if (all->done[i] + all->refused[i] > 0)
            printf(" %s %" PRIu64 "/%" PRIu64, task_names[i], all->done[i], all->done[i] + all->refused[i]);
    printf(", %" PRIu64 " reads of snapshots\n", reads);
}
