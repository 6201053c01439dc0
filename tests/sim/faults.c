/* SPDX-License-Identifier: Apache-2.0 */
/* faults: what the scenario's rates do to the cluster.
 *
 * - every 10 ms each kind of fault happens with its probability; what lasts (pause, cut, slow drive) ends after a random time.
 * - a node whose process is gone is started again after a random time.
 * Failure: none. The fault model is in docs/simulation.md: nothing else is injected.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/faults_internal.h"

#define TICK_NS ENV_MS(10)

enum fault_kind {
    FAULT_CRASH,
    FAULT_POWER,
    FAULT_POWER_ALL,
    FAULT_CRASH_PAIR,
    FAULT_CRASH_LOOP,
    FAULT_PAUSE,
    FAULT_CUT,
    FAULT_ISOLATE,
    FAULT_RESET,
    FAULT_SLOW_DRIVE,
    FAULT_DRIVE_EIO,
    FAULT_ROT,
    FAULT_CLEAN_STOP,
    FAULT_FAILOVER,
    FAULT_GUEST,
    FAULT_SLOW_LINK,
    FAULT_CLOCK_JUMP,
    FAULT_DROPPED_WRITE,
    FAULT_KINDS,
};
static_assert(FAULT_KINDS <= FAULTS_KINDS_MAX, "every kind is counted");

static const char *const fault_names[FAULT_KINDS] = {
    "crash",       "power loss", "power loss of all", "crash of a pair", "crash loop", "pause",      "one-way cut",
    "isolation",   "reset",      "slow drive",        "drive EIO",       "bit rot",    "clean stop", "client fail-over",
    "guest crash", "slow link",  "clock jump",        "dropped write",
};

static uint64_t now_of(const struct faults *f)
{
    return world_now_ns(f->sim->world);
}

static uint64_t below(const struct faults *f, uint64_t bound)
{
    return world_random_below(f->sim->world, bound);
}

static uint64_t fault_time(const struct faults *f)
{
    return ENV_MS(1) * (1 + below(f, f->sim->scenario.fault_max_ms));
}

static int pick(const struct faults *f)
{
    return 1 + (int)below(f, (uint64_t)f->sim->node_count);
}

/* Whether every shard that the node is in sync for has another member in sync whose process runs. */
struct backed {
    const struct sim *sim;
    uint32_t node;
    bool yes;
};

static void look_for_others(void *arg, const struct map_volume *v)
{
    struct backed *b = arg;
    for (uint32_t i = 0; i < v->shard_count; i++) {
        bool mine = false, other = false;
        for (uint32_t k = 0; k < v->shards[i].member_count; k++) {
            const struct map_member *m = &v->shards[i].members[k];
            if (m->node == b->node)
                mine = true;
            else if (m->flags & MAP_MEMBER_IN_SYNC)
                other = other || sim_node_serving(b->sim->nodes[m->node]);
        }
        b->yes = b->yes && (other || !mine);
    }
}

bool faults_node_is_backed(struct faults *f, int node)
{
    struct backed b = {.sim = f->sim, .node = (uint32_t)node, .yes = true};
    assert(node >= 1 && node <= f->sim->node_count);
    map_each_volume(plane_map(f->sim->plane), look_for_others, &b);
    return b.yes;
}

void faults_crash(struct faults *f, int node, enum world_crash kind)
{
    struct sim *sim = f->sim;
    const struct scenario *s = &sim->scenario;
    if (kind == WORLD_CRASH_POWER && s->power_trash) { /* what the drive garbles somebody else must have, and keep */
        if (!faults_node_is_backed(f, node))
            return;
        drive_sim_faults(sim_node_disk(sim->nodes[node]))->power_trashes_none = false;
    }
    if (!sim_node_running(sim->nodes[node]) && kind == WORLD_CRASH_PROCESS)
        return;
    sim_note(sim, "node %d: %s", node, kind == WORLD_CRASH_POWER ? "loses power" : "crashes");
    sim_node_crash(sim->nodes[node], kind);
    f->nodes[node].resume_at_ns = FAULTS_NEVER;
    f->nodes[node].start_at_ns =
        now_of(f) + ENV_MS(1) * (s->restart_min_ms + below(f, s->restart_max_ms - s->restart_min_ms + 1));
}

void faults_cut(struct faults *f, int from, int to, uint64_t until)
{
    sim_net_cut(f->sim->net, from, to, true);
    f->cut_ends_ns[from][to] = until;
}

void faults_isolate(struct faults *f, int node, uint64_t until, bool from_authority)
{
    sim_note(f->sim, "node %d: isolated%s", node, from_authority ? "" : " but from the authority");
    for (int i = from_authority ? 0 : 1; i <= f->sim->node_count; i++) {
        if (i == node)
            continue;
        faults_cut(f, node, i, until);
        faults_cut(f, i, node, until);
    }
}

static void rot(struct faults *f)
{
    struct drive_sim_disk *disk = sim_node_disk(f->sim->nodes[f->rot_node]);
    uint64_t span = f->sim->scenario.shard_mib * f->sim->scenario.shards << 20;
    uint64_t at = STORE_CHUNK_BYTES + below(f, span);
    sim_note(f->sim, "node %d: rot at %" PRIu64, f->rot_node, at);
    drive_sim_flip(disk, at, (uint8_t)(1u << below(f, 8)));
}

void faults_pause(struct faults *f, int node, uint64_t until)
{
    if (!sim_node_running(f->sim->nodes[node]))
        return;
    sim_note(f->sim, "node %d: paused", node);
    world_node_pause(f->sim->world, node, true);
    f->nodes[node].resume_at_ns = until;
}

void faults_slow_drive(struct faults *f, int node, uint32_t permille, uint64_t slow_ns, uint64_t until)
{
    struct drive_sim_faults *drive = drive_sim_faults(sim_node_disk(f->sim->nodes[node]));
    drive->slow_permille = permille;
    drive->slow_ns = slow_ns;
    f->nodes[node].drive_ok_at_ns = until;
}

void faults_slow_link(struct faults *f, int from, int to, uint64_t extra_ns, uint64_t until)
{
    if (from == to)
        return;
    sim_note(f->sim, "slow %d -> %d", from, to);
    sim_net_slow(f->sim->net, from, to, extra_ns);
    f->slow_ends_ns[from][to] = until;
}

void faults_clock_jump(struct faults *f, int node, uint64_t jump_ns)
{
    int32_t drift = 0;
    if (f->sim->scenario.drift_ppm)
        drift = (int32_t)below(f, 2 * f->sim->scenario.drift_ppm) - (int32_t)f->sim->scenario.drift_ppm;
    sim_note(f->sim, "node %d: its clock jumps by %" PRIu64 " ms", node, jump_ns / 1000000);
    world_node_clock(f->sim->world, node, (int64_t)jump_ns, drift);
}

void faults_stop_node(struct faults *f, int node)
{
    if (!sim_node_serving(f->sim->nodes[node]) || world_node_paused(f->sim->world, node))
        return;
    sim_note(f->sim, "node %d: stops", node);
    sim_node_stop(f->sim->nodes[node]);
}

static void dropped_write(struct faults *f)
{
    sim_note(f->sim, "node %d: its drive drops a write", f->rot_node);
    drive_sim_faults(sim_node_disk(f->sim->nodes[f->rot_node]))->drop_writes++;
}

static void inject(struct faults *f, enum fault_kind kind)
{
    struct sim *sim = f->sim;
    int node = pick(f), other = pick(f);
    f->counts[kind]++;
    switch (kind) {
    case FAULT_CRASH: faults_crash(f, node, WORLD_CRASH_PROCESS); return;
    case FAULT_POWER: faults_crash(f, node, WORLD_CRASH_POWER); return;
    case FAULT_POWER_ALL:
        for (int i = 1; i <= sim->node_count; i++)
            faults_crash(f, i, WORLD_CRASH_POWER);
        return;
    case FAULT_CRASH_PAIR:
        faults_crash(f, node, WORLD_CRASH_PROCESS);
        faults_crash(f, other, WORLD_CRASH_PROCESS);
        return;
    case FAULT_CRASH_LOOP:
        faults_crash(f, node, WORLD_CRASH_PROCESS);
        f->nodes[node].loops = 2 + (uint32_t)below(f, 4);
        return;
    case FAULT_PAUSE: faults_pause(f, node, now_of(f) + fault_time(f)); return;
    case FAULT_CUT:
        if (node == other)
            return;
        sim_note(sim, "cut %d -> %d", node, other);
        faults_cut(f, node, other, now_of(f) + fault_time(f));
        return;
    case FAULT_ISOLATE: faults_isolate(f, node, now_of(f) + fault_time(f), below(f, 4) > 0); return;
    case FAULT_RESET:
        if (node != other)
            sim_net_reset(sim->net, node, other);
        return;
    case FAULT_SLOW_DRIVE:
        faults_slow_drive(f, node, 200, ENV_MS(1) + below(f, ENV_MS(150)), now_of(f) + fault_time(f));
        return;
    case FAULT_DRIVE_EIO:
        if (sim_node_serving(sim->nodes[node]))
            drive_sim_faults(sim_node_disk(sim->nodes[node]))->fail_nth = 1 + below(f, 20);
        return;
    case FAULT_ROT: rot(f); return;
    case FAULT_CLEAN_STOP: faults_stop_node(f, node); return;
    case FAULT_FAILOVER: guest_failover(sim->guests[below(f, sim->guest_count)]); return;
    case FAULT_GUEST: guest_crash(sim->guests[below(f, sim->guest_count)]); return;
    case FAULT_SLOW_LINK:
        faults_slow_link(f, node, other, ENV_MS(1) + below(f, ENV_MS(300)), now_of(f) + fault_time(f));
        return;
    case FAULT_CLOCK_JUMP: faults_clock_jump(f, node, fault_time(f)); return;
    case FAULT_DROPPED_WRITE: dropped_write(f); return;
    case FAULT_KINDS: break;
    }
    assert(!"no such fault");
}

static uint64_t rate_of(const struct scenario *s, enum fault_kind kind)
{
    const uint64_t rates[FAULT_KINDS] = {
        s->crash_per_min,      s->power_per_min,         s->power_all_per_min,   s->crash_pair_per_min,
        s->crash_loop_per_min, s->pause_per_min,         s->cut_per_min,         s->isolate_per_min,
        s->reset_per_min,      s->slow_drive_per_min,    s->drive_eio_per_min,   s->rot_per_min,
        s->clean_stop_per_min, s->failover_per_min,      s->guest_crash_per_min, s->slow_link_per_min,
        s->clock_jump_per_min, s->dropped_write_per_min,
    };
    return rates[kind];
}

/* ---- what ends by itself ---- */

static void drive_heal(struct faults *f, int node)
{
    struct drive_sim_faults *d = drive_sim_faults(sim_node_disk(f->sim->nodes[node]));
    d->slow_permille = 0;
    d->slow_flush_ns = 0;
    d->fail_nth = 0;
    d->drop_writes = 0;
    d->hung = false;
    drive_sim_kick(sim_node_disk(f->sim->nodes[node]));
}

static void upkeep_node(struct faults *f, int i)
{
    struct sim *sim = f->sim;
    struct faulty_node *n = &f->nodes[i];
    uint64_t now = now_of(f);
    if (now >= n->resume_at_ns) {
        if (world_node_up(sim->world, i))
            world_node_pause(sim->world, i, false);
        n->resume_at_ns = FAULTS_NEVER;
    }
    if (now >= n->drive_ok_at_ns) {
        drive_heal(f, i);
        n->drive_ok_at_ns = FAULTS_NEVER;
    }
    if (sim_node_store_failed(sim->nodes[i]) && n->drive_ok_at_ns == FAULTS_NEVER && below(f, 200) == 0) {
        drive_heal(f, i);
        faults_crash(f, i, WORLD_CRASH_PROCESS); /* somebody restarts the daemon whose drive had failed */
    }
    if (sim_node_running(sim->nodes[i])) {
        n->start_at_ns = FAULTS_NEVER;
        if (n->loops > 0 && sim_node_serving(sim->nodes[i]) && below(f, 30) == 0) {
            n->loops--;
            faults_crash(f, i, WORLD_CRASH_PROCESS);
        }
        return;
    }
    if (n->start_at_ns == FAULTS_NEVER)
        n->start_at_ns = now + ENV_MS(20) + below(f, ENV_MS(1000));
    if (now >= n->start_at_ns) {
        n->start_at_ns = FAULTS_NEVER;
        sim_note(sim, "node %d: starts", i);
        sim_node_start(sim->nodes[i]);
    }
}

static void tick(struct world_event *event)
{
    struct faults *f = list_entry(event, struct faults, tick);
    struct sim *sim = f->sim;
    uint64_t now = now_of(f);
    for (int kind = 0; !f->stopped && kind < FAULT_KINDS; kind++)
        if (below(f, 6000) < rate_of(&sim->scenario, kind))
            inject(f, kind);
    if (!f->stopped)
        faults_script_tick(f);
    for (int i = 1; i <= sim->node_count; i++)
        upkeep_node(f, i);
    for (int a = 0; a <= sim->node_count + 1; a++) /* the first guest's host, too */
        for (int b = 0; b <= sim->node_count + 1; b++)
            if (f->cut_ends_ns[a][b] && now >= f->cut_ends_ns[a][b]) {
                f->cut_ends_ns[a][b] = 0;
                sim_net_cut(sim->net, a, b, false);
            } else if (f->slow_ends_ns[a][b] && now >= f->slow_ends_ns[a][b]) {
                f->slow_ends_ns[a][b] = 0;
                sim_net_slow(sim->net, a, b, 0);
            }
    world_schedule(sim->world, &f->tick, WORLD_NOBODY, TICK_NS, tick);
}

struct faults *faults_create(struct sim *sim)
{
    struct faults *f = calloc(1, sizeof(*f));
    assert(f);
    f->sim = sim;
    f->rot_node = pick(f);
    for (int i = 0; i <= SIM_NODES_MAX; i++)
        f->nodes[i] = (struct faulty_node){
            .start_at_ns = FAULTS_NEVER, .resume_at_ns = FAULTS_NEVER, .drive_ok_at_ns = FAULTS_NEVER};
    world_schedule(sim->world, &f->tick, WORLD_NOBODY, TICK_NS, tick);
    faults_script_start(f);
    return f;
}

void faults_stop(struct faults *f)
{
    struct sim *sim = f->sim;
    f->stopped = true;
    sim_note(sim, "faults end");
    memset(f->cut_ends_ns, 0, sizeof(f->cut_ends_ns));
    memset(f->slow_ends_ns, 0, sizeof(f->slow_ends_ns));
    sim_net_heal(sim->net);
    for (int i = 1; i <= sim->node_count; i++) {
        f->nodes[i].loops = 0;
        if (world_node_up(sim->world, i))
            world_node_pause(sim->world, i, false);
        f->nodes[i].resume_at_ns = FAULTS_NEVER;
        drive_heal(f, i);
        f->nodes[i].drive_ok_at_ns = FAULTS_NEVER;
    }
}

void faults_destroy(struct faults *f)
{
    if (!f)
        return;
    faults_script_end(f);
    world_cancel(f->sim->world, &f->tick);
    free(f);
}

void faults_print(const struct faults *f)
{
    fprintf(stderr, "  faults:");
    for (int i = 0; i < FAULT_KINDS; i++)
        if (f->counts[i])
            fprintf(stderr, " %s %" PRIu64 ",", fault_names[i], f->counts[i]);
    fprintf(stderr, "\n");
}
