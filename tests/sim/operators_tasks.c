/* SPDX-License-Identifier: Apache-2.0 */
/* operators_tasks: what operators do, and what each answer means for the model.
 *
 * - snapshot, group: asked at T0, answered at T1: image_take for each volume. Given up: the map says whether it came about after all.
 * - clone, create: a new guest. delete: its guest is detached before, or robbed of it by force. rollback: detached, a new history.
 * - grow, shrink: the history grows with zeros, or is cut. migrate, detach: sessions only.
 * Failure: a refusal that no rule explains fails the run.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/operators_internal.h"

#define REFUSED_MAX 25u
#define ASK_AGAIN_NS ENV_MS(200)

static uint64_t below(const struct admin *op, uint64_t bound)
{
    return world_random_below(op->all->sim->world, bound);
}

static struct guest *any_guest(const struct admin *op, uint32_t first_allowed)
{
    const struct sim *sim = op->all->sim;
    uint32_t first = (uint32_t)below(op, sim->guest_count);
    for (uint32_t i = 0; i < sim->guest_count; i++) {
        struct guest *g = sim->guests[(first + i) % sim->guest_count];
        if (!g->gone && g->index >= first_allowed)
            return g;
    }
    return NULL;
}

static uint32_t snap_count(const struct operators *all)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < SNAPS_MAX; i++)
        count += all->snaps[i].image != NULL;
    return count;
}

/* One that nobody deletes, of that guest or (NULL) of any. */
static struct snap *any_snap_of(const struct admin *op, const struct guest *guest)
{
    uint32_t first = (uint32_t)below(op, SNAPS_MAX);
    for (uint32_t i = 0; i < SNAPS_MAX; i++) {
        struct snap *snap = &op->all->snaps[(first + i) % SNAPS_MAX];
        if (snap->image && !snap->deleting && (!guest || snap->guest == guest))
            return snap;
    }
    return NULL;
}

static void fill(struct admin *op, const char *what, void (*cb)(struct admin_call *call, int rc, uint64_t value))
{
    (void)snprintf(op->call.op, sizeof(op->call.op), "%s", what);
    op->call.cb = cb;
}

__attribute__((format(printf, 2, 3))) static void ask(struct admin *op, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int len = vsnprintf(op->call.fields, sizeof(op->call.fields), format, args);
    va_end(args);
    assert(len > 0 && (size_t)len < sizeof(op->call.fields));
    admin_ask(&op->call);
}

/* ---- snapshots ---- */

static bool room_for_guest(const struct admin *op)
{
    const struct sim *sim = op->all->sim;
    uint32_t alive = 0, coming = 0;
    for (uint32_t i = 0; i < sim->guest_count; i++)
        alive += !sim->guests[i]->gone;
    for (uint32_t i = 0; i < OPERATORS_MAX; i++)
        coming += op->all->one[i].busy && (op->all->one[i].kind == TASK_CLONE || op->all->one[i].kind == TASK_CREATE);
    return sim->guest_count + coming <= SIM_GUESTS_MAX && alive + coming <= sim->scenario.volumes_max;
}

static void cut_over(struct admin *op, bool there)
{
    struct operators *all = op->all;
    uint64_t now = world_now_ns(all->sim->world);
    struct image_cut *cut = there && op->guest_count > 1 ? image_cut_create() : NULL;
    char name[64];
    for (uint32_t i = 0; i < op->guest_count; i++) {
        struct guest *g = op->guests[i];
        uint64_t bytes = op->sizes[i] < g->size ? op->sizes[i] : g->size;
        (void)snprintf(name, sizeof(name), "%.20s@%s", g->name, op->name);
        if (there)
            (void)snap_add(all, g, op->name,
                           image_take(g->history, bytes / HISTORY_CELL, op->call.asked_ns, now, cut, name));
        guest_has_cut(g);
        guest_unlock(all, g, /* alone= */ false);
    }
    image_cut_unref(cut);
    operator_done(op, !there);
}

/* It was given up, says the answer. The map knows. */
static void look_whether_there(struct admin *op)
{
    const struct map_volume *v = map_volume_by_id(plane_map(op->all->sim->plane), op->guests[0]->volume);
    const struct map_snap *snap = v ? map_snap_by_name(v, op->name) : NULL;
    if (snap && snap->state == MAP_SNAP_OPENING) {
        operator_wait(op, ENV_MS(50), look_whether_there);
        return;
    }
    op->all->given_up_yet_there += snap != NULL;
    cut_over(op, snap != NULL);
}

static void cut_answered(struct admin_call *call, int rc, uint64_t value)
{
    struct admin *op = call->owner;
    (void)value;
    if (rc == 0)
        cut_over(op, true);
    else
        operator_wait(op, 0, look_whether_there);
}

static bool start_snapshot(struct admin *op, uint32_t wanted)
{
    struct operators *all = op->all;
    char list[128] = "";
    if (snap_count(all) + wanted > all->sim->scenario.snaps_max)
        return false;
    for (uint32_t tries = 0; tries < 8 && op->guest_count < wanted; tries++) {
        struct guest *g = any_guest(op, 0);
        bool again = !g;
        for (uint32_t i = 0; i < op->guest_count; i++)
            again = again || op->guests[i] == g;
        if (again || !guest_lock(all, g, /* alone= */ false))
            continue;
        op->sizes[op->guest_count] = g->size;
        op->guests[op->guest_count++] = g;
        guest_asks_cut(g);
        size_t at = strlen(list);
        (void)snprintf(list + at, sizeof(list) - at, "%s\"%s\"", at ? "," : "", g->name);
    }
    if (op->guest_count == 0)
        return false;
    (void)snprintf(op->name, sizeof(op->name), "s%u", ++all->names);
    fill(op, "snapshot-create", cut_answered);
    ask(op, "\"snapshot\":\"%s\",\"volumes\":[%s],\"created_ms\":1", op->name, list);
    return true;
}

static void snap_deleted(struct admin_call *call, int rc, uint64_t value)
{
    struct admin *op = call->owner;
    (void)value;
    if (rc != 0)
        sim_fail(op->all->sim, "deleting snapshot %s@%s: %s", op->guests[0]->name, op->snap->name, strerror(-rc));
    else
        snap_gone(op->snap);
    guest_unlock(op->all, op->guests[0], /* alone= */ false);
    operator_done(op, rc != 0);
}

static bool start_snap_delete(struct admin *op)
{
    struct snap *snap = any_snap_of(op, NULL);
    if (!snap || snap->users > 0 || !guest_lock(op->all, snap->guest, /* alone= */ false))
        return false;
    op->snap = snap;
    op->guests[0] = snap->guest;
    snap->deleting = true;
    fill(op, "snapshot-delete", snap_deleted);
    ask(op, "\"name\":\"%s\",\"snapshot\":\"%s\"", snap->guest->name, snap->name);
    return true;
}

/* ---- volumes that come ---- */

static void add_guest(struct admin *op, uint64_t volume, struct image *origin)
{
    struct sim *sim = op->all->sim;
    assert(sim->guest_count < SIM_GUESTS_MAX);
    sim->guests[sim->guest_count] = guest_create(sim, volume, origin);
    sim->guest_count++;
}

/* -EAGAIN is remembered with its request: asking again with another one is the operator's business. */
static uint64_t volume_named(const struct admin *op)
{
    const struct map_volume *v = map_volume_by_name(plane_map(op->all->sim->plane), op->name);
    return v ? v->id : 0;
}

static void cloned(struct admin_call *call, int rc, uint64_t value)
{
    struct admin *op = call->owner;
    struct snap *snap = op->snap;
    if (rc == 0 || (value = volume_named(op)) != 0)
        add_guest(op, value, snap->image);
    else if (rc != -EAGAIN)
        sim_fail(op->all->sim, "cloning %s@%s: %s", snap->guest->name, snap->name, strerror(-rc));
    snap->users--;
    guest_unlock(op->all, op->guests[0], /* alone= */ false);
    operator_done(op, rc != 0);
}

static bool start_clone(struct admin *op)
{
    struct snap *snap = any_snap_of(op, NULL);
    if (!room_for_guest(op) || !snap || !guest_lock(op->all, snap->guest, /* alone= */ false))
        return false;
    op->snap = snap;
    op->guests[0] = snap->guest;
    snap->users++;
    (void)snprintf(op->name, sizeof(op->name), "c%u", ++op->all->names);
    fill(op, "volume-clone", cloned);
    ask(op, "\"name\":\"%s\",\"snapshot\":\"%s\",\"to\":\"%s\",\"home\":%u", snap->guest->name, snap->name, op->name,
        1 + (uint32_t)below(op, (uint64_t)op->all->sim->node_count));
    return true;
}

static void created(struct admin_call *call, int rc, uint64_t value)
{
    struct admin *op = call->owner;
    if (rc == 0 || (value = volume_named(op)) != 0)
        add_guest(op, value, NULL);
    else if (rc != -ENOSPC) /* not enough nodes are up */
        sim_fail(op->all->sim, "creating a volume: %s", strerror(-rc));
    operator_done(op, rc != 0);
}

static bool start_create(struct admin *op)
{
    const struct scenario *s = &op->all->sim->scenario;
    if (!room_for_guest(op))
        return false;
    (void)snprintf(op->name, sizeof(op->name), "n%u", ++op->all->names);
    fill(op, "volume-create", created);
    ask(op,
        "\"name\":\"%s\",\"size\":%" PRIu64 ",\"replicas\":%" PRIu64 ",\"min_replicas\":%" PRIu64
        ",\"shard_bytes\":%" PRIu64 ",\"home\":%u",
        op->name, (256 + below(op, 3 * 256)) * STORE_BLOCK_BYTES, s->replicas, s->min_replicas, s->shard_mib << 20,
        1 + (uint32_t)below(op, (uint64_t)op->all->sim->node_count));
    return true;
}

/* ---- alone with a volume ---- */

static void attach_again(struct admin *op, bool refused)
{
    struct guest *g = op->guests[0];
    guest_attach(g);
    guest_unlock(op->all, g, /* alone= */ true);
    operator_done(op, refused);
}

static void delete_now(struct admin *op);

static void deleted(struct admin_call *call, int rc, uint64_t value)
{
    struct admin *op = call->owner;
    struct guest *g = op->guests[0];
    (void)value;
    if (rc == -EBUSY && op->refused++ < REFUSED_MAX) { /* its session is not closed yet */
        operator_wait(op, ASK_AGAIN_NS, delete_now);
        return;
    }
    if (rc != 0) {
        sim_fail(op->all->sim, "deleting volume %s: %s", g->name, strerror(-rc));
        guest_unlock(op->all, g, /* alone= */ true);
        operator_done(op, true);
        return;
    }
    if (!g->detached)
        guest_detach(g);
    guest_gone(g);
    for (uint32_t i = 0; i < SNAPS_MAX; i++)
        if (op->all->snaps[i].image && op->all->snaps[i].guest == g && !op->all->snaps[i].gone)
            snap_gone(&op->all->snaps[i]);
    guest_unlock(op->all, g, /* alone= */ true);
    operator_done(op, false);
}

static void delete_now(struct admin *op)
{
    struct guest *g = op->guests[0];
    if (g->detached && !guest_idle(g)) {
        operator_wait(op, ENV_MS(5), delete_now);
        return;
    }
    fill(op, "volume-delete", deleted);
    ask(op, "\"name\":\"%s\",\"force\":%s", g->name, g->detached && op->refused < REFUSED_MAX / 2 ? "false" : "true");
}

static bool start_delete(struct admin *op)
{
    struct guest *g = any_guest(op, 1);
    if (!g || !guest_lock(op->all, g, /* alone= */ true))
        return false;
    op->guests[0] = g;
    for (uint32_t i = 0; i < SNAPS_MAX; i++)
        if (op->all->snaps[i].image && op->all->snaps[i].guest == g)
            op->all->snaps[i].deleting = true;
    if (below(op, 3) == 0)
        g->removing = true;
    else
        guest_detach(g);
    delete_now(op);
    return true;
}

/* Its gateway keeps the session of a client whose link was cut for some seconds: the operator ends it. */
static void closed_by_force(struct admin_call *call, int rc, uint64_t value)
{
    struct admin *op = call->owner;
    (void)value;
    if (rc != 0)
        sim_fail(op->all->sim, "closing the session of %s: %s", op->guests[0]->name, strerror(-rc));
    operator_wait(op, ENV_MS(1), op->then);
}

static void close_by_force(struct admin *op, void (*then)(struct admin *op))
{
    op->then = then;
    fill(op, "session-close", closed_by_force);
    ask(op, "\"name\":\"%s\"", op->guests[0]->name);
}

static void roll_back_now(struct admin *op);

static void rolled_back(struct admin_call *call, int rc, uint64_t value)
{
    struct admin *op = call->owner;
    (void)value;
    if (rc == -EBUSY && op->refused++ < REFUSED_MAX) {
        if (op->refused == 2)
            close_by_force(op, roll_back_now);
        else
            operator_wait(op, ASK_AGAIN_NS, roll_back_now);
        return;
    }
    if (rc == 0)
        guest_rolled_back(op->guests[0], op->snap->image);
    else if (rc != -EBUSY)
        sim_fail(op->all->sim, "rolling %s back: %s", op->guests[0]->name, strerror(-rc));
    op->snap->users--;
    attach_again(op, rc != 0);
}

static void roll_back_now(struct admin *op)
{
    if (!guest_idle(op->guests[0])) {
        operator_wait(op, ENV_MS(5), roll_back_now);
        return;
    }
    fill(op, "volume-rollback", rolled_back);
    ask(op, "\"name\":\"%s\",\"snapshot\":\"%s\"", op->guests[0]->name, op->snap->name);
}

static bool start_rollback(struct admin *op)
{
    struct snap *snap = any_snap_of(op, NULL);
    if (!snap || !guest_lock(op->all, snap->guest, /* alone= */ true))
        return false;
    op->snap = snap;
    op->guests[0] = snap->guest;
    snap->users++;
    guest_detach(snap->guest);
    roll_back_now(op);
    return true;
}

/* ---- sizes ---- */

static void grown(struct admin_call *call, int rc, uint64_t value)
{
    struct admin *op = call->owner;
    struct guest *g = op->guests[0];
    (void)value;
    if (rc == 0) {
        guest_resized(g, op->size);
        if (below(op, 2) == 0) /* its client learns the size when it attaches */
            guest_migrate(g);
        else
            guest_crash(g);
    } else if (rc != -ENOSPC) {
        sim_fail(op->all->sim, "growing %s: %s", g->name, strerror(-rc));
    }
    guest_unlock(op->all, g, /* alone= */ true);
    operator_done(op, rc != 0);
}

static bool start_grow(struct admin *op)
{
    struct guest *g = any_guest(op, 0);
    if (!g || g->size >= op->all->sim->scenario.size_max_kib << 10 || !guest_lock(op->all, g, /* alone= */ true))
        return false;
    op->guests[0] = g;
    op->size = g->size + (1 + below(op, 128)) * STORE_BLOCK_BYTES;
    fill(op, "volume-resize", grown);
    ask(op, "\"name\":\"%s\",\"size\":%" PRIu64, g->name, op->size);
    return true;
}

static void shrink_now(struct admin *op);

static void shrunk(struct admin_call *call, int rc, uint64_t value)
{
    struct admin *op = call->owner;
    struct guest *g = op->guests[0];
    (void)value;
    if (rc == -EBUSY && op->refused++ < REFUSED_MAX) {
        operator_wait(op, ASK_AGAIN_NS, shrink_now);
        return;
    }
    if (rc == 0)
        guest_resized(g, op->size);
    else if (rc != -ENOTEMPTY && rc != -EBUSY)
        sim_fail(op->all->sim, "cutting %s: %s", g->name, strerror(-rc));
    attach_again(op, rc != 0);
}

static void shrink_now(struct admin *op)
{
    if (!guest_idle(op->guests[0])) {
        operator_wait(op, ENV_MS(5), shrink_now);
        return;
    }
    fill(op, "volume-resize", shrunk);
    ask(op, "\"name\":\"%s\",\"size\":%" PRIu64 ",\"force\":true", op->guests[0]->name, op->size);
}

static bool start_shrink(struct admin *op)
{
    struct guest *g = any_guest(op, 0);
    if (!g || g->size <= g->shard_bytes || !guest_lock(op->all, g, /* alone= */ true))
        return false;
    op->guests[0] = g;
    op->size = (g->size - 1) / g->shard_bytes * g->shard_bytes;
    guest_detach(g);
    shrink_now(op);
    return true;
}

/* ---- the rest ---- */

static void flattened(struct admin_call *call, int rc, uint64_t value)
{
    struct admin *op = call->owner;
    (void)value;
    if (rc != 0 && rc != -EINVAL) /* it was none any more */
        sim_fail(op->all->sim, "flattening %s: %s", op->guests[0]->name, strerror(-rc));
    guest_unlock(op->all, op->guests[0], /* alone= */ false);
    operator_done(op, rc != 0);
}

static bool start_flatten(struct admin *op)
{
    struct guest *g = any_guest(op, 1);
    const struct map_volume *v = g ? map_volume_by_id(plane_map(op->all->sim->plane), g->volume) : NULL;
    if (!v || v->base.volume == 0 || !guest_lock(op->all, g, /* alone= */ false))
        return false;
    op->guests[0] = g;
    fill(op, "volume-flatten", flattened);
    ask(op, "\"name\":\"%s\"", g->name);
    return true;
}

static void migrated(struct admin *op)
{
    operator_done(op, false);
}

static bool start_migrate(struct admin *op)
{
    struct guest *g = any_guest(op, 0);
    if (!g || !guest_lock(op->all, g, /* alone= */ false))
        return false;
    guest_migrate(g);
    guest_unlock(op->all, g, /* alone= */ false);
    operator_wait(op, 0, migrated);
    return true;
}

static void attach_later(struct admin *op)
{
    if (guest_idle(op->guests[0]))
        attach_again(op, false);
    else
        operator_wait(op, ENV_MS(5), attach_later);
}

static bool start_detach(struct admin *op)
{
    struct guest *g = any_guest(op, 0);
    if (!g || !guest_lock(op->all, g, /* alone= */ true))
        return false;
    op->guests[0] = g;
    guest_detach(g);
    operator_wait(op, ENV_MS(1) * (10 + below(op, 1500)), attach_later);
    return true;
}

bool task_start(struct admin *op, enum task_kind kind)
{
    switch (kind) {
    case TASK_SNAPSHOT: return start_snapshot(op, 1);
    case TASK_GROUP: return start_snapshot(op, GROUP_MAX);
    case TASK_SNAP_DELETE: return start_snap_delete(op);
    case TASK_CLONE: return start_clone(op);
    case TASK_ROLLBACK: return start_rollback(op);
    case TASK_FLATTEN: return start_flatten(op);
    case TASK_CREATE: return start_create(op);
    case TASK_DELETE: return start_delete(op);
    case TASK_GROW: return start_grow(op);
    case TASK_SHRINK: return start_shrink(op);
    case TASK_MIGRATE: return start_migrate(op);
    case TASK_DETACH: return start_detach(op);
    case TASK_KINDS: break;
    }
    assert(!"no such task");
    return false;
}
