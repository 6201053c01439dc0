/* SPDX-License-Identifier: Apache-2.0 */
/* rig: the cluster, its faults and its workload.
 *
 *   - faults come one after another, each of a kind drawn by its rate; those that last are ended by an event of their own
 *   - the workload: attachments by two clients (taking the volume from each other), volumes set and resized, primaries moved
 *   - rig_faults(off) ends and heals everything, starts every node, and puts clocks and disks right
 * Failure modes: rig_fail; the first sentence is kept for the test's message.
 */
#include "tests/unit/sim_raft/rig.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "tests/sim/control_sim_internal.h"

#define LOG_MODULE "sim"
#define MINUTE_NS 60000000000ull

enum fault_kind {
    FAULT_CRASH,
    FAULT_POWER,
    FAULT_POWER_ALL,
    FAULT_PAIR,
    FAULT_ISOLATE,
    FAULT_CUT,
    FAULT_ONE_WAY,
    FAULT_PAUSE,
    FAULT_RESET,
    FAULT_SLOW,
    FAULT_FULL,
    FAULT_HANG,
    FAULT_RAFT_CUT,
    FAULT_KINDS,
};

struct rig_heal { /* the end of a fault that lasts */
    struct rig_heal *next;
    struct world_event event;
    struct rig *rig;
    enum fault_kind kind;
    int a, b;
};

static struct rig *logged;

static void log_line_taken(void *arg, enum log_level level, const char *module, const char *line)
{
    (void)arg;
    (void)level;
    if (logged && getenv("ASHLAR_SIM_TRACE"))
        fprintf(stderr, "%11.6f node %d: %s: %s\n", (double)world_now_ns(logged->world) / 1e9,
                world_running_node(logged->world), module, line);
}

void rig_log_start(void)
{
    log_set_hook(log_line_taken, NULL);
    const char *trace = getenv("ASHLAR_SIM_TRACE");
    log_init(!trace ? LOG_ERROR : trace[0] == '2' ? LOG_TRACE : LOG_DEBUG, NULL);
}

void rig_fail(struct rig *rig, const char *format, ...)
{
    char text[240];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (rig->failures++ == 0)
        (void)snprintf(rig->first_failure, sizeof(rig->first_failure), "%s", text);
    log_error("FAILURE at %.6f: %s", (double)world_now_ns(rig->world) / 1e9, text);
}

static void broken(void *arg, const char *sentence)
{
    rig_fail(arg, "%s", sentence);
}

static uint64_t below(struct rig *rig, uint64_t bound)
{
    return world_random_below(rig->world, bound);
}

/* ---- nodes ---- */

static void start_now(struct world_event *event)
{
    struct stub *stub = list_entry(event, struct stub, start_event);
    if (!stub->life)
        stub_start(stub);
}

void rig_start(struct rig *rig, int node)
{
    assert(node > 0 && node <= rig->config.nodes);
    world_cancel(rig->world, &rig->stubs[node].start_event);
    if (!rig->stubs[node].life)
        stub_start(&rig->stubs[node]);
}

/* A process's end is noticed by those who had links to its data side: they say so. */
static void tell_suspects(struct rig *rig, int node)
{
    for (int i = 1; i <= rig->config.nodes; i++)
        if (i != node && below(rig, 2) == 0)
            stub_suspect(&rig->stubs[i], node);
}

void rig_crash(struct rig *rig, int node, enum world_crash kind)
{
    struct stub *stub = &rig->stubs[node];
    bool ran = stub->life != NULL;
    log_info("node %d: crash%s", node, kind == WORLD_CRASH_POWER ? " by power" : "");
    stub_crash(stub, kind);
    if (ran && kind == WORLD_CRASH_PROCESS)
        tell_suspects(rig, node);
    uint64_t down_max_ns = below(rig, 3) ? rig->config.faults.restart_max_ns : ENV_MS(50);
    uint64_t down_ns = ENV_MS(1) + below(rig, down_max_ns + 1);
    world_schedule(rig->world, &stub->start_event, WORLD_NOBODY, rig->faults_on ? down_ns : ENV_MS(50), start_now);
}

/* ---- faults ---- */

/* A voter's Raft port is blocked; its control port is not. */
static void cut_raft(struct rig *rig, int voter, bool cut)
{
    for (int other = 1; other <= (int)rig->config.voters; other++)
        if (other != voter)
            raft_sim_net_cut(control_sim_raft_net(rig->control), voter, other, cut);
}

static void heal(struct rig_heal *h)
{
    struct rig *rig = h->rig;
    struct raft_sim_faults quiet = {.error_per_million = rig->config.faults.log_errors_per_million};
    switch (h->kind) {
    case FAULT_ISOLATE: sim_net_isolate(rig->net, h->a, false); break;
    case FAULT_CUT: sim_net_cut(rig->net, h->b, h->a, false); /* fall through */
    case FAULT_ONE_WAY: sim_net_cut(rig->net, h->a, h->b, false); break;
    case FAULT_PAUSE: world_node_pause(rig->world, h->a, false); break;
    case FAULT_SLOW: raft_sim_disk_faults(control_sim_disk(rig->control, h->a), &quiet); break;
    case FAULT_FULL: raft_sim_disk_full(control_sim_disk(rig->control, h->a), false); break;
    case FAULT_HANG: control_sim_hung(rig->control, h->a, false); break;
    case FAULT_RAFT_CUT: cut_raft(rig, h->a, false); break;
    default: assert(!"a fault that does not last");
    }
}

static void heal_now(struct world_event *event)
{
    struct rig_heal *h = list_entry(event, struct rig_heal, event);
    for (struct rig_heal **at = &h->rig->heals; *at; at = &(*at)->next) {
        if (*at == h) {
            *at = h->next;
            break;
        }
    }
    heal(h);
    free(h);
}

static void lasting(struct rig *rig, enum fault_kind kind, int a, int b)
{
    struct rig_heal *h = calloc(1, sizeof(*h));
    assert(h && rig->config.faults.fault_max_ns > 0);
    *h = (struct rig_heal){.next = rig->heals, .rig = rig, .kind = kind, .a = a, .b = b};
    rig->heals = h;
    world_schedule(rig->world, &h->event, WORLD_NOBODY, ENV_MS(20) + below(rig, rig->config.faults.fault_max_ns),
                   heal_now);
}

static void slow_disk(struct rig *rig, int node)
{
    struct raft_sim_faults slow = {.slow_permille = 300, .slow_max_ns = ENV_MS(4000), .write_max_ns = ENV_MS(30)};
    slow.error_per_million = rig->config.faults.log_errors_per_million;
    slow.stall_permille = rig->config.faults.meta_stall_permille;
    slow.stall_max_ns = ENV_MS(3000);
    raft_sim_disk_faults(control_sim_disk(rig->control, node), &slow);
}

static void crash_all(struct rig *rig)
{
    for (int i = 1; i <= rig->config.nodes; i++)
        rig_crash(rig, i, WORLD_CRASH_POWER);
}

static void cut(struct rig *rig, int a, int b, bool both)
{
    if (a == b)
        return;
    sim_net_cut(rig->net, a, b, true);
    if (both)
        sim_net_cut(rig->net, b, a, true);
    lasting(rig, both ? FAULT_CUT : FAULT_ONE_WAY, a, b);
}

static void inject(struct rig *rig, enum fault_kind kind)
{
    int a = 1 + (int)below(rig, (uint64_t)rig->config.nodes), b = 1 + (int)below(rig, (uint64_t)rig->config.nodes);
    int voter = 1 + (int)below(rig, rig->config.voters);
    enum world_crash how = below(rig, 2) ? WORLD_CRASH_PROCESS : WORLD_CRASH_POWER;
    log_info("fault %d a=%d b=%d voter=%d", kind, a, b, voter);
    rig->faults++;
    switch (kind) {
    case FAULT_CRASH: rig_crash(rig, a, WORLD_CRASH_PROCESS); break;
    case FAULT_POWER: rig_crash(rig, a, WORLD_CRASH_POWER); break;
    case FAULT_POWER_ALL: crash_all(rig); break;
    case FAULT_PAIR:
        rig_crash(rig, a, how);
        if (a != b)
            rig_crash(rig, b, how);
        break;
    case FAULT_ISOLATE:
        sim_net_isolate(rig->net, a, true);
        lasting(rig, kind, a, 0);
        break;
    case FAULT_CUT: cut(rig, a, b, true); break;
    case FAULT_ONE_WAY: cut(rig, a, b, false); break;
    case FAULT_PAUSE:
        if (world_node_up(rig->world, a)) {
            world_node_pause(rig->world, a, true);
            lasting(rig, kind, a, 0);
        }
        break;
    case FAULT_RESET:
        if (a != b)
            sim_net_reset(rig->net, a, b);
        break;
    case FAULT_SLOW:
        slow_disk(rig, voter);
        lasting(rig, kind, voter, 0);
        break;
    case FAULT_FULL:
        raft_sim_disk_full(control_sim_disk(rig->control, voter), true);
        lasting(rig, kind, voter, 0);
        break;
    case FAULT_HANG:
        control_sim_hung(rig->control, a, true);
        lasting(rig, kind, a, 0);
        break;
    case FAULT_RAFT_CUT:
        cut_raft(rig, voter, true);
        lasting(rig, kind, voter, 0);
        break;
    case FAULT_KINDS: assert(0);
    }
}

static void next_fault(struct rig *rig);

static void fault_now(struct world_event *event)
{
    struct rig *rig = list_entry(event, struct rig, fault_event);
    const struct rig_faults *f = &rig->config.faults;
    const uint32_t rates[FAULT_KINDS] = {
        [FAULT_CRASH] = f->crashes,        [FAULT_POWER] = f->power_losses, [FAULT_POWER_ALL] = f->power_all,
        [FAULT_PAIR] = f->crash_pairs,     [FAULT_ISOLATE] = f->isolations, [FAULT_CUT] = f->cuts,
        [FAULT_ONE_WAY] = f->one_way_cuts, [FAULT_PAUSE] = f->pauses,       [FAULT_RESET] = f->resets,
        [FAULT_SLOW] = f->slow_disks,      [FAULT_FULL] = f->full_disks,    [FAULT_HANG] = f->hangs,
        [FAULT_RAFT_CUT] = f->raft_cuts};
    uint32_t sum = 0;
    for (int i = 0; i < FAULT_KINDS; i++)
        sum += rates[i];
    uint64_t at = below(rig, sum);
    int kind = 0;
    for (; at >= rates[kind]; kind++)
        at -= rates[kind];
    inject(rig, (enum fault_kind)kind);
    next_fault(rig);
}

static void next_fault(struct rig *rig)
{
    const struct rig_faults *f = &rig->config.faults;
    uint32_t sum = f->crashes + f->power_losses + f->power_all + f->crash_pairs + f->isolations + f->cuts +
                   f->one_way_cuts + f->pauses + f->resets + f->slow_disks + f->full_disks + f->hangs + f->raft_cuts;
    if (sum > 0)
        world_schedule(rig->world, &rig->fault_event, WORLD_NOBODY, 1 + below(rig, 2 * MINUTE_NS / sum), fault_now);
}

static void end_all(struct rig *rig)
{
    struct raft_sim_faults quiet = {0};
    world_cancel(rig->world, &rig->fault_event);
    while (rig->heals) {
        struct rig_heal *h = rig->heals;
        rig->heals = h->next;
        world_cancel(rig->world, &h->event);
        heal(h);
        free(h);
    }
    sim_net_heal(rig->net);
    for (int i = 1; i <= (int)rig->config.voters; i++)
        cut_raft(rig, i, false);
    for (uint32_t i = 1; i <= rig->config.voters; i++)
        raft_sim_disk_faults(control_sim_disk(rig->control, (int)i), &quiet);
    raft_sim_net_resets(control_sim_raft_net(rig->control), 0);
    for (int i = 1; i <= rig->config.nodes; i++)
        rig_start(rig, i);
}

void rig_faults(struct rig *rig, bool on)
{
    const struct rig_faults *f = &rig->config.faults;
    struct raft_sim_faults quiet = {.error_per_million = f->log_errors_per_million};
    rig->faults_on = on;
    if (!on) {
        end_all(rig);
        return;
    }
    for (int i = 1; f->drift_ppm && i <= rig->config.nodes; i++)
        world_node_clock(rig->world, i, 0, (int32_t)below(rig, 2 * f->drift_ppm + 1) - (int32_t)f->drift_ppm);
    for (uint32_t i = 1; i <= rig->config.voters; i++)
        raft_sim_disk_faults(control_sim_disk(rig->control, (int)i), &quiet);
    raft_sim_net_resets(control_sim_raft_net(rig->control), f->raft_resets_per_million);
    next_fault(rig);
}

/* ---- workload ---- */

struct work_attach {
    struct control_sim_attach req;
    struct rig *rig;
};

static void attached(struct control_sim_attach *req, int rc, uint64_t session)
{
    struct work_attach *work = list_entry(req, struct work_attach, req);
    struct rig *rig = work->rig;
    if (rc == 0) {
        const struct map_volume *volume = map_volume_by_id(control_sim_map(rig->control), req->volume);
        rig->sessions++;
        if (volume && volume->session.number < session)
            rig_fail(rig, "session %llu was granted that the map does not know", (unsigned long long)session);
    }
    free(work);
}

static void work_attach(struct rig *rig, const struct map_volume *volume)
{
    struct work_attach *work = calloc(1, sizeof(*work));
    assert(work);
    work->rig = rig;
    work->req.volume = volume->id;
    work->req.gateway = 1 + (uint32_t)below(rig, (uint64_t)rig->config.nodes);
    memset(work->req.attachment, 'a' + (int)below(rig, 2), sizeof(work->req.attachment));
    work->req.flags = MAP_SESSION_FORCE;
    work->req.cb = attached;
    control_sim_attach(rig->control, &work->req);
}

static void work_entry(struct rig *rig, const struct map_volume *volume)
{
    uint32_t node = 1 + (uint32_t)below(rig, (uint64_t)rig->config.nodes);
    struct map_entry entry = {.kind = MAP_ENTRY_VOLUME_SET, .volume = volume->id, .home = node, .flags = MAP_SET_HOME};
    const struct map_shard *shard = &volume->shards[below(rig, volume->shard_count)];
    if (below(rig, 3) == 0) {
        const struct map_node *primary = map_node_by_id(control_sim_map(rig->control), shard->primary);
        entry = (struct map_entry){.kind = MAP_ENTRY_PRIMARY_MOVE, .volume = volume->id, .shard = shard->index};
        entry.epoch = shard->epoch;
        entry.node = shard->primary;
        entry.incarnation = primary ? primary->incarnation : 0;
        entry.to_node = node;
    }
    (void)stub_propose(&rig->stubs[1 + below(rig, (uint64_t)rig->config.nodes)], &entry);
}

static void work_now(struct world_event *event)
{
    struct rig *rig = list_entry(event, struct rig, work_event);
    char name[MAP_NAME_MAX];
    (void)snprintf(name, sizeof(name), "volume%u", (unsigned)below(rig, RIG_VOLUMES));
    const struct map_volume *volume = map_volume_by_name(control_sim_map(rig->control), name);
    assert(volume);
    if (below(rig, 2) == 0)
        work_attach(rig, volume);
    else
        work_entry(rig, volume);
    world_schedule(rig->world, &rig->work_event, WORLD_NOBODY, below(rig, ENV_MS(200)), work_now);
}

void rig_work(struct rig *rig, bool on)
{
    rig->work_on = on;
    if (on)
        world_schedule(rig->world, &rig->work_event, WORLD_NOBODY, 0, work_now);
    else
        world_cancel(rig->world, &rig->work_event);
}

/* ---- questions ---- */

bool rig_has_leader(void *arg)
{
    struct rig *rig = arg;
    return control_sim_leader(rig->control) != 0;
}

bool rig_converged(void *arg)
{
    struct rig *rig = arg;
    const struct map *map = control_sim_map(rig->control);
    if (control_sim_leader(rig->control) == 0)
        return false;
    for (int i = 1; i <= rig->config.nodes; i++) {
        const struct map_node *node = map_node_by_id(map, (uint32_t)i);
        const struct map *own = stub_map(&rig->stubs[i]);
        if (!node || !node->up || !own || stub_incarnation(&rig->stubs[i]) != node->incarnation)
            return false;
        if (control_sim_applied(rig->control, i) != map_version(map) || map_version(own) != map_version(map))
            return false;
        if (map_hash(own) != map_hash(map))
            return false;
    }
    return true;
}

/* ---- life ---- */

struct rig *rig_create(const struct rig_config *config)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    assert(rig && config->nodes <= RIG_NODES_MAX && (int)config->voters <= config->nodes);
    logged = rig;
    rig->config = *config;
    rig->world = world_create(config->seed);
    (void)world_node_add(rig->world); /* 0: nobody's */
    struct sim_net_config net = {.tail_permille = config->faults.net_tail_permille, .tail_max_ns = ENV_MS(200)};
    rig->net = sim_net_create(rig->world, &net);
    struct control_sim_config control = {.world = rig->world,
                                         .net = rig->net,
                                         .node_max = config->nodes,
                                         .voter_count = config->voters,
                                         .elect_grace_ns = ENV_MS(2000),
                                         .out_after_ns = ENV_MS(5000),
                                         .io_stall_ns = ENV_MS(3000),
                                         .snapshot_threshold = config->snapshot_threshold,
                                         .snapshot_trailing = 16,
                                         .bridge_delay_max_ns = ENV_MS(1),
                                         .broken = broken,
                                         .arg = rig};
    for (int i = 1; i <= config->nodes; i++) {
        int index = world_node_add(rig->world);
        assert(index == i);
        rig->stubs[i].rig = rig;
        rig->stubs[i].node = i;
        if (i <= (int)config->voters)
            control.voters[i - 1] = i;
    }
    rig->control = control_sim_create(&control);
    return rig;
}

void rig_set_up(struct rig *rig)
{
    for (int i = 1; i <= rig->config.nodes; i++)
        stub_start(&rig->stubs[i]);
    if (!world_run_until(rig->world, rig_converged, rig, ENV_MS(20000)))
        rig_fail(rig, "the cluster does not come up");
    for (uint32_t v = 0; v < RIG_VOLUMES; v++) {
        struct map_result result;
        uint32_t replicas = rig->config.nodes < 3 ? (uint32_t)rig->config.nodes : 3;
        struct map_entry entry = {.kind = MAP_ENTRY_VOLUME_CREATE,
                                  .size = 2ull << 30,
                                  .shard_bytes = 1ull << 30,
                                  .replicas = replicas,
                                  .min_replicas = replicas > 1 ? 2 : 1,
                                  .home = v % 3 + 1};
        if (entry.home > (uint32_t)rig->config.nodes)
            entry.home = 0;
        (void)snprintf(entry.name, sizeof(entry.name), "volume%u", v);
        int rc = control_sim_apply(rig->control, &entry, &result);
        if (rc < 0)
            rig_fail(rig, "volume %u is not made: %d", v, rc);
    }
}

void rig_stop(struct rig *rig)
{
    for (int i = 1; i <= rig->config.nodes; i++) {
        world_cancel(rig->world, &rig->stubs[i].start_event);
        if (rig->stubs[i].life)
            stub_crash(&rig->stubs[i], WORLD_CRASH_PROCESS);
    }
}

void rig_destroy(struct rig *rig)
{
    rig_stop(rig);
    rig_work(rig, false);
    world_cancel(rig->world, &rig->fault_event);
    while (rig->heals) {
        struct rig_heal *h = rig->heals;
        rig->heals = h->next;
        world_cancel(rig->world, &h->event);
        free(h);
    }
    world_run(rig->world, ENV_MS(10)); /* attachments that were cut short are told */
    control_sim_destroy(rig->control);
    sim_net_destroy(rig->net);
    world_destroy(rig->world);
    logged = NULL;
    free(rig);
}

uint64_t rig_run(const struct rig_config *config, uint64_t safety_ns, uint64_t liveness_ns, struct rig **ret_rig)
{
    struct rig *rig = rig_create(config);
    rig_set_up(rig);
    rig_work(rig, true);
    rig_faults(rig, true);
    world_run(rig->world, safety_ns);
    rig_faults(rig, false);
    rig_work(rig, false);
    uint64_t calm_ns = world_now_ns(rig->world);
    if (!world_run_until(rig->world, rig_has_leader, rig, liveness_ns / 4))
        rig_fail(rig, "no leader %llu ms after the faults ended", (unsigned long long)liveness_ns / 4000000);
    rig->leader_ns = world_now_ns(rig->world) - calm_ns;
    if (!world_run_until(rig->world, rig_converged, rig, liveness_ns))
        rig_fail(rig, "no convergence %llu ms after the faults ended", (unsigned long long)liveness_ns / 1000000);
    rig->converged_ns = world_now_ns(rig->world) - calm_ns;
    *ret_rig = rig;
    return world_trace_hash(rig->world);
}
