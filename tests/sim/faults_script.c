/* SPDX-License-Identifier: Apache-2.0 */
/* faults_script: faults placed by hand: `at = MS ACTION ARGS`, `on = "TEXT" COUNT ACTION ARGS` of a scenario file.
 *
 * - `at` counts from the beginning of the safety phase (at 0: before the guest's first operation); `on` waits until a log line (of any
 *   node, or of the map's changes) has TEXT for the COUNT-th time, and acts right then: before anything else happens; `then` acts so
 *   long after the step above; `next` is an `on` that counts from there.
 * - who: a number, or by the map's first volume, first shard: primary, backup, backup2, out (a member that is not in sync), other (no
 *   member), gateway (through which the session entered), far, far2 (members in sync that are not it), all; self: the node that logged
 *   the line; guest: the first guest's host; authority: the stand-in for the control plane, leader: who leads the shipped one; or a name
 *   that `call` gave.
 * - actions: crash WHO MS, power WHO MS (back after MS), pause WHO MS, stop WHO, cut WHO WHO MS, isolate WHO MS, deaf WHO MS (isolated, but not
 *   from the control plane), reset WHO WHO, slowlink WHO WHO EXTRA_MS MS, slowdrive WHO EXTRA_MS MS, slowflush WHO TAKES_MS MS, hang WHO MS,
 *   eio WHO N, drop WHO N, rot WHO N, clock WHO MS, failover, guestcrash, quiet (the guest begins nothing more), move WHO (the primary
 *   role), keep WHO / lose WHO (what power loss does to the unflushed), forget WHO (it keeps the drive's, and loses the kv's), overtake WHO (the
 *   other way round), call WHO NAME.
 * - with operators: one of their tasks, at once (snapshot, rollback, ...); readsnapshots: each is read from its beginning to its end.
 * - operations: write, fua, read, trim BLOCK COUNT, flush; peek WHO BLOCK: a read by somebody whose map is old (workload_hand.h).
 * Failure: an action or a name that is not understood is a failure of the run, and so is a step that was not reached before faults end.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/prng.h"
#include "tests/sim/faults_internal.h"
#include "tests/sim/workload_hand.h"

#define CALLED_MAX 8u

struct armed {
    struct world_event event;
    struct faults *faults;
    const struct scenario_step *step;
    struct armed *after; /* the step below, if it follows this one */
    uint32_t seen;
    int self;   /* who logged the line */
    bool armed; /* what it follows is done */
    bool done;
};

struct called {
    char name[16];
    int node;
};

struct faults_script {
    struct armed steps[SCENARIO_STEPS_MAX];
    uint32_t count;
    struct called called[CALLED_MAX];
    uint32_t called_count;
};

static struct faults_script *listening; /* sim_log.c tells lines without an argument */

static void wrong(const struct armed *a)
{
    sim_fail(a->faults->sim, "the scenario's step '%s %s' cannot be done", a->step->action, a->step->args[0]);
}

static const struct map_shard *first_shard(const struct faults *f)
{
    const struct map_volume *v = map_volume_by_id(plane_map(f->sim->plane), guest_volume(f->sim->guests[0]));
    return v && v->shard_count > 0 ? &v->shards[0] : NULL;
}

static bool is_member(const struct map_shard *s, uint32_t node)
{
    for (uint32_t i = 0; i < s->member_count; i++)
        if (s->members[i].node == node)
            return true;
    return false;
}

static int nth_member(const struct map_shard *s, bool in_sync, uint32_t skip)
{
    for (uint32_t i = 0; i < s->member_count; i++) {
        const struct map_member *m = &s->members[i];
        bool wanted = m->node != s->primary && !!(m->flags & MAP_MEMBER_IN_SYNC) == in_sync;
        if (wanted && skip-- == 0)
            return (int)m->node;
    }
    return -1;
}

static int gateway(const struct faults *f)
{
    const struct map_volume *v = map_volume_by_id(plane_map(f->sim->plane), guest_volume(f->sim->guests[0]));
    return v && v->session.open ? (int)v->session.gateway : -1;
}

static int far_member(const struct faults *f, const struct map_shard *s, uint32_t skip)
{
    int near = gateway(f);
    for (uint32_t i = 0; i < s->member_count; i++)
        if ((s->members[i].flags & MAP_MEMBER_IN_SYNC) && (int)s->members[i].node != near && skip-- == 0)
            return (int)s->members[i].node;
    return -1;
}

/* By the map's first shard. */
static int member_called(const struct armed *a, const struct map_shard *s, const char *word)
{
    if (strcmp(word, "primary") == 0)
        return s->primary ? (int)s->primary : -1;
    if (strcmp(word, "backup") == 0 || strcmp(word, "backup2") == 0)
        return nth_member(s, true, word[6] == '2');
    if (strcmp(word, "out") == 0)
        return nth_member(s, false, 0);
    if (strcmp(word, "far") == 0 || strcmp(word, "far2") == 0)
        return far_member(a->faults, s, word[3] == '2');
    for (int i = 1; strcmp(word, "other") == 0 && i <= a->faults->sim->node_count; i++)
        if (!is_member(s, (uint32_t)i))
            return i;
    return -1;
}

/* -1: nobody now; 0: the stand-in for the control plane. */
static int who(const struct armed *a, const char *word)
{
    const struct sim *sim = a->faults->sim;
    const struct faults_script *script = a->faults->script;
    const struct map_shard *s = first_shard(a->faults);
    int number = atoi(word);
    if (number > 0)
        return number <= sim->node_count ? number : -1;
    for (uint32_t i = 0; i < script->called_count; i++)
        if (strcmp(word, script->called[i].name) == 0)
            return script->called[i].node;
    if (strcmp(word, "self") == 0)
        return a->self;
    if (strcmp(word, "guest") == 0)
        return sim_guest_node(sim, 0);
    if (strcmp(word, "authority") == 0)
        return 0;
    if (strcmp(word, "leader") == 0)
        return plane_leader(sim->plane) > 0 ? plane_leader(sim->plane) : -1;
    if (strcmp(word, "gateway") == 0)
        return gateway(a->faults);
    return s ? member_called(a, s, word) : -1;
}

static uint64_t until(const struct armed *a, uint32_t arg)
{
    return world_now_ns(a->faults->sim->world) + ENV_MS(1) * strtoull(a->step->args[arg], NULL, 10);
}

static uint64_t number(const struct armed *a, uint32_t arg)
{
    return strtoull(a->step->args[arg], NULL, 10);
}

static void down(struct armed *a, int node, enum world_crash kind)
{
    struct faults *f = a->faults;
    if (!sim_node_running(f->sim->nodes[node]))
        return;
    faults_crash(f, node, kind);
    f->nodes[node].start_at_ns = until(a, 1);
}

static void hang(struct armed *a, int node)
{
    drive_sim_faults(sim_node_disk(a->faults->sim->nodes[node]))->hung = true;
    a->faults->nodes[node].drive_ok_at_ns = until(a, 1);
}

/* N bits, anywhere in what the drive holds. */
static void rot(struct armed *a, int node)
{
    struct sim *sim = a->faults->sim;
    uint64_t span = sim->scenario.shard_mib * sim->scenario.shards << 20;
    for (uint64_t i = 0; i < number(a, 1); i++)
        drive_sim_flip(sim_node_disk(sim->nodes[node]), STORE_CHUNK_BYTES + world_random_below(sim->world, span),
                       (uint8_t)(1u << world_random_below(sim->world, 8)));
}

static void power_mood(struct armed *a, int node, bool keep)
{
    struct drive_sim_faults *drive = drive_sim_faults(sim_node_disk(a->faults->sim->nodes[node]));
    drive->power_keeps_all = keep;
    drive->power_drops_all = !keep;
    struct kv_sim_faults *kv = kv_sim_faults(sim_node_kv(a->faults->sim->nodes[node]));
    kv->power_keeps_all = keep;
    kv->power_drops_all = !keep;
}

/* The drive keeps what the kv loses, or the other way round. */
static void power_mood_split(struct armed *a, int node, bool drive_keeps)
{
    struct kv_sim_faults *kv = kv_sim_faults(sim_node_kv(a->faults->sim->nodes[node]));
    power_mood(a, node, drive_keeps);
    kv->power_keeps_all = !drive_keeps;
    kv->power_drops_all = drive_keeps;
}

static void slow_flush(struct armed *a, int node)
{
    drive_sim_faults(sim_node_disk(a->faults->sim->nodes[node]))->slow_flush_ns = ENV_MS(1) * number(a, 1);
    a->faults->nodes[node].drive_ok_at_ns = until(a, 2);
}

static bool call(struct armed *a, int node)
{
    struct faults_script *script = a->faults->script;
    struct called *called = &script->called[script->called_count];
    if (script->called_count == CALLED_MAX || a->step->args[1][0] == '\0')
        return false;
    strcpy(called->name, a->step->args[1]);
    called->node = node;
    script->called_count++;
    sim_note(a->faults->sim, "by hand: %s is node %d", called->name, node);
    return true;
}

/* Actions on one node. False: no such action. */
static bool act_on(struct armed *a, const char *action, int node)
{
    struct faults *f = a->faults;
    struct sim *sim = f->sim;
    struct drive_sim_faults *drive = drive_sim_faults(sim_node_disk(sim->nodes[node]));
    if (strcmp(action, "crash") == 0)
        down(a, node, WORLD_CRASH_PROCESS);
    else if (strcmp(action, "power") == 0)
        down(a, node, WORLD_CRASH_POWER);
    else if (strcmp(action, "pause") == 0)
        faults_pause(f, node, until(a, 1));
    else if (strcmp(action, "stop") == 0)
        faults_stop_node(f, node);
    else if (strcmp(action, "isolate") == 0 || strcmp(action, "deaf") == 0)
        faults_isolate(f, node, until(a, 1), action[0] == 'i');
    else if (strcmp(action, "slowdrive") == 0)
        faults_slow_drive(f, node, 1000, ENV_MS(1) * number(a, 1), until(a, 2));
    else if (strcmp(action, "slowflush") == 0)
        slow_flush(a, node);
    else if (strcmp(action, "hang") == 0)
        hang(a, node);
    else if (strcmp(action, "eio") == 0)
        drive->fail_nth = number(a, 1);
    else if (strcmp(action, "drop") == 0)
        drive->drop_writes = (uint32_t)number(a, 1);
    else if (strcmp(action, "rot") == 0)
        rot(a, node);
    else if (strcmp(action, "clock") == 0)
        faults_clock_jump(f, node, ENV_MS(1) * number(a, 1));
    else if (strcmp(action, "keep") == 0 || strcmp(action, "lose") == 0)
        power_mood(a, node, action[0] == 'k');
    else if (strcmp(action, "forget") == 0 || strcmp(action, "overtake") == 0)
        power_mood_split(a, node, action[0] == 'f');
    else if (strcmp(action, "peek") == 0)
        return guest_peek(sim->guests[0], node, number(a, 1)) == 0;
    else if (strcmp(action, "call") == 0)
        return call(a, node);
    else
        return false;
    return true;
}

static void act_on_link(struct armed *a, const char *action, int from, int to)
{
    struct faults *f = a->faults;
    if (from == to || from < 0 || to < 0)
        return;
    if (strcmp(action, "cut") == 0)
        faults_cut(f, from, to, until(a, 2));
    else if (strcmp(action, "reset") == 0)
        sim_net_reset(f->sim->net, from, to);
    else
        faults_slow_link(f, from, to, ENV_MS(1) * number(a, 2), until(a, 3));
}

static bool act_on_pair(struct armed *a, const char *action)
{
    const char *from = a->step->args[0], *to = a->step->args[1];
    if (strcmp(action, "cut") != 0 && strcmp(action, "reset") != 0 && strcmp(action, "slowlink") != 0)
        return false;
    int first = who(a, from), second = who(a, to);
    for (int i = 1; i <= a->faults->sim->node_count; i++) {
        if (strcmp(from, "all") == 0)
            act_on_link(a, action, i, second);
        else if (strcmp(to, "all") == 0)
            act_on_link(a, action, first, i);
    }
    act_on_link(a, action, first, second);
    return true;
}

/* The primary role of the first shard goes to that node, as when its primary hands it over. Only the stand-in commits at once. */
static void move(struct armed *a)
{
    struct sim *sim = a->faults->sim;
    const struct map_shard *s = first_shard(a->faults);
    int node = who(a, a->step->args[0]);
    struct map_result result = {0};
    const struct map_node *from = s ? map_node_by_id(plane_map(sim->plane), s->primary) : NULL;
    if (!from || node <= 0 || sim->scenario.control)
        return;
    struct map_entry entry = {.kind = MAP_ENTRY_PRIMARY_MOVE,
                              .volume = s->volume,
                              .shard = s->index,
                              .epoch = s->epoch,
                              .node = s->primary,
                              .incarnation = from->incarnation,
                              .to_node = (uint32_t)node};
    int rc = plane_apply(sim->plane, &entry, &result);
    sim_note(sim, "by hand: the move says %s", strerror(-rc));
}

static bool act_by_hand(const struct armed *a, const char *action)
{
    int rc = guest_by_hand(a->faults->sim->guests[0], action, number(a, 0), number(a, 1));
    if (rc != 0 && rc != -ENOENT)
        wrong(a);
    return rc != -ENOENT;
}

static bool act_on_guest(struct armed *a, const char *action)
{
    struct sim *sim = a->faults->sim;
    if (strcmp(action, "failover") == 0)
        guest_failover(sim->guests[0]);
    else if (strcmp(action, "guestcrash") == 0)
        guest_crash(sim->guests[0]);
    else if (strcmp(action, "quiet") == 0)
        guest_quiesce(sim->guests[0]);
    else if (strcmp(action, "move") == 0)
        move(a);
    else
        return act_by_hand(a, action) || operators_by_hand(sim, action, a->step->args[0]);
    return true;
}

static void act_now(struct armed *a)
{
    struct sim *sim = a->faults->sim;
    const char *action = a->step->action, *word = a->step->args[0];
    sim_note(sim, "by hand: %s %s %s %s", action, word, a->step->args[1], a->step->args[2]);
    if (act_on_guest(a, action) || act_on_pair(a, action))
        return;
    if (strcmp(word, "all") == 0) {
        bool known = true;
        for (int i = 1; known && i <= sim->node_count; i++)
            known = act_on(a, action, i);
        if (!known)
            wrong(a);
        return;
    }
    int node = who(a, word);
    if (node < 1 || node > sim->node_count)
        sim_note(sim, "by hand: %s is nobody now", word);
    else if (!act_on(a, action, node))
        wrong(a);
}

/* ---- when ---- */

static void act(struct world_event *event)
{
    struct armed *a = list_entry(event, struct armed, event);
    struct armed *after = a->after;
    if (a->faults->stopped)
        return;
    a->done = true;
    act_now(a);
    if (!after)
        return;
    after->armed = true;
    after->self = a->self;
    if (!after->step->text[0])
        world_schedule(a->faults->sim->world, &after->event, WORLD_NOBODY, ENV_MS(1) * after->step->at_ms, act);
}

void faults_script_line(const char *line, int node)
{
    for (uint32_t i = 0; listening && i < listening->count; i++) {
        struct armed *a = &listening->steps[i];
        if (!a->armed || a->seen == a->step->count || a->faults->stopped || !a->step->text[0] ||
            !strstr(line, a->step->text) || ++a->seen < a->step->count)
            continue;
        a->self = node;
        world_schedule(a->faults->sim->world, &a->event, WORLD_NOBODY, 0, act);
    }
}

void faults_script_tick(struct faults *f)
{
    for (uint32_t i = 0; f->script && i < f->script->count; i++) {
        struct armed *a = &f->script->steps[i];
        bool due = !a->step->text[0] && !a->step->follows && !a->done &&
                   world_now_ns(f->sim->world) >= f->began_ns + ENV_MS(1) * a->step->at_ms;
        if (due)
            act(&a->event);
    }
}

void faults_script_start(struct faults *f)
{
    f->began_ns = world_now_ns(f->sim->world);
    if (f->sim->scenario.step_count == 0)
        return;
    f->script = calloc(1, sizeof(*f->script));
    assert(f->script && !listening);
    f->script->count = (uint32_t)f->sim->scenario.step_count;
    for (uint32_t i = 0; i < f->script->count; i++) {
        const struct scenario_step *step = &f->sim->scenario.steps[i];
        f->script->steps[i] = (struct armed){.faults = f, .step = step, .armed = !step->follows};
        if (step->follows)
            f->script->steps[i - 1].after = &f->script->steps[i];
    }
    listening = f->script;
    faults_script_tick(f);
}

/* A step that never came is no test of anything: the run fails by it, with a verdict of its own (it is not the code that failed). */
uint32_t faults_unreached(struct faults *f)
{
    uint32_t unreached = 0;
    assert(f->stopped);
    for (uint32_t i = 0; f->script && i < f->script->count; i++) {
        const struct armed *a = &f->script->steps[i];
        if (a->done)
            continue;
        unreached++;
        fprintf(stderr, "UNREACHED: the step '%s %s' at %" PRIu64 " ms or on \"%s\"\n", a->step->action,
                a->step->args[0], a->step->at_ms, a->step->text);
    }
    return unreached;
}

void faults_script_end(struct faults *f)
{
    listening = NULL;
    for (uint32_t i = 0; f->script && i < f->script->count; i++)
        world_cancel(f->sim->world, &f->script->steps[i].event);
    free(f->script);
    f->script = NULL;
}
