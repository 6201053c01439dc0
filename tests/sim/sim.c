/* SPDX-License-Identifier: Apache-2.0 */
/* sim: one run: cluster, workload under faults (safety), faults end (liveness), comparison.
 *
 * - set-up: nodes start and register, volumes are created, clients attach.
 * - safety: safety_ms of faults. Then they end; within liveness_ms every member must be in sync and every operation answered.
 * - at the end every chunk is read once (judged) and all members are compared (I9).
 * Failure: 1, after a report of what each node did last; what the shipped code cannot survive aborts.
 */
#include "tests/sim/sim.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static struct sim *running; /* for the report of an abort */

static void shard_changed(void *arg, const struct map_shard *before, const struct map_shard *now)
{
    struct sim *sim = arg;
    char members[128] = "";
    for (uint32_t i = 0; i < now->member_count; i++)
        (void)snprintf(members + strlen(members), sizeof(members) - strlen(members), " %u:%x", now->members[i].node,
                       now->members[i].flags);
    sim_note(sim,
             "map: volume %" PRIu64 " shard %u epoch %" PRIu64 " active %" PRIu64 " primary %u loss %" PRIu64
             " members%s",
             now->volume, now->index, now->epoch, now->active_epoch, now->primary, now->loss_number, members);
    if (now->loss_number == before->loss_number)
        return;
    for (uint32_t i = 0; i < sim->guest_count; i++)
        if (sim->guests[i] && guest_volume(sim->guests[i]) == now->volume)
            guest_shard_lost(sim->guests[i], now->index);
}

static void plane_broken(void *arg, const char *sentence)
{
    sim_fail(arg, "control plane: %s", sentence);
}

int sim_guest_node(const struct sim *sim, uint32_t index)
{
    return sim->node_count + 1 + (int)index;
}

static bool all_serving(void *arg)
{
    struct sim *sim = arg;
    for (int i = 1; i <= sim->node_count; i++)
        if (!sim_node_serving(sim->nodes[i]) || plane_applied(sim->plane, i) < map_version(plane_map(sim->plane)))
            return false;
    return true;
}

static void make_cluster(struct sim *sim)
{
    const struct scenario *s = &sim->scenario;
    struct sim_net_config net = {
        .tail_permille = (uint32_t)s->net_tail_permille, .tail_max_ns = ENV_MS(40), .dead_ns = ENV_MS(3000)};
    assert(s->nodes <= SIM_NODES_MAX && s->volumes <= SIM_GUESTS_MAX);
    sim->world = world_create(sim->seed);
    sim_log_start(sim);
    sim->node_count = (int)s->nodes;
    (void)world_node_add(sim->world); /* 0: the authority's */
    uint64_t guests = s->operators ? SIM_GUESTS_MAX + SIM_READERS : s->volumes;
    for (uint64_t i = 1; i <= s->nodes + guests; i++)
        (void)world_node_add(sim->world);
    sim->net = sim_net_create(sim->world, &net);
    struct plane_config config = {.world = sim->world,
                                  .net = sim->net,
                                  .scenario = s,
                                  .node_max = sim->node_count,
                                  .shard_changed = shard_changed,
                                  .broken = plane_broken,
                                  .arg = sim};
    sim->plane = plane_create(&config);
    for (int i = 1; i <= sim->node_count; i++) {
        struct sim_node_config node = {.world = sim->world,
                                       .net = sim->net,
                                       .plane = sim->plane,
                                       .node = i,
                                       .drive_bytes = s->drive_mib << 20,
                                       .seed = world_random(sim->world),
                                       .sync_chunks = (uint32_t)s->sync_chunks};
        node.flush_ahead_bytes = node.seed % 2 ? s->flush_ahead_kib << 10 : 0;
        sim->nodes[i] = sim_node_create(&node);
        if (s->drift_ppm)
            world_node_clock(sim->world, i, 0,
                             (int32_t)world_random_below(sim->world, 2 * s->drift_ppm) - (int32_t)s->drift_ppm);
        sim_node_start(sim->nodes[i]);
    }
    bool ok = world_run_until(sim->world, all_serving, sim, ENV_MS(10000));
    assert(ok);
}

static uint64_t volume_bytes(const struct scenario *s, uint32_t index)
{
    uint64_t bytes = s->volume_kib << 10;
    if (bytes == 0)
        return (s->shard_mib << 20) * s->shards;
    bytes = index > 0 ? bytes / 4 : bytes;
    return bytes / STORE_BLOCK_BYTES * STORE_BLOCK_BYTES;
}

static void make_volumes(struct sim *sim)
{
    const struct scenario *s = &sim->scenario;
    for (uint32_t i = 0; i < s->volumes; i++) {
        struct map_entry entry = {
            .kind = MAP_ENTRY_VOLUME_CREATE,
            .shard_bytes = s->shard_mib << 20,
            .size = volume_bytes(s, i),
            .replicas = (uint32_t)s->replicas,
            .min_replicas = (uint32_t)s->min_replicas,
            .home = 1 + (uint32_t)world_random_below(sim->world, s->nodes),
        };
        struct map_result result = {0};
        (void)snprintf(entry.name, sizeof(entry.name), "v%u", i);
        int rc = plane_apply(sim->plane, &entry, &result);
        assert(rc == 0);
        sim->guests[sim->guest_count] = guest_create(sim, result.value, /* origin= */ NULL);
        sim->guest_count++;
    }
}

static bool all_idle(void *arg)
{
    struct sim *sim = arg;
    for (uint32_t i = 0; i < sim->guest_count; i++)
        if (!guest_idle(sim->guests[i]))
            return false;
    return !sim->operators || operators_idle(sim->operators);
}

static bool all_well(void *arg)
{
    return converge_reached(arg) && all_idle(arg);
}

static void liveness(struct sim *sim)
{
    faults_stop(sim->faults);
    world_run(sim->world, ENV_MS(1) * sim->scenario.linger_ms);
    if (sim->operators)
        operators_stop(sim->operators);
    for (uint32_t i = 0; i < sim->guest_count; i++)
        guest_quiesce(sim->guests[i]);
    uint64_t began = world_now_ns(sim->world);
    bool well = world_run_until(sim->world, all_well, sim, ENV_MS(sim->scenario.liveness_ms));
    if (!well) {
        sim_fail(sim, "after %" PRIu64 " ms without faults not all is well", sim->scenario.liveness_ms);
        converge_print(sim);
        for (uint32_t i = 0; i < sim->guest_count; i++)
            guest_print(sim->guests[i]);
        if (sim->operators)
            operators_print(sim->operators);
        return;
    }
    sim_note(sim, "converged after %" PRIu64 " ms", (world_now_ns(sim->world) - began) / 1000000);
    for (uint32_t i = 0; i < sim->guest_count; i++)
        guest_read_all(sim->guests[i]);
    if (!world_run_until(sim->world, all_well, sim, ENV_MS(30000))) {
        sim_fail(sim, "reading everything does not end");
        for (uint32_t i = 0; i < sim->guest_count; i++)
            guest_print(sim->guests[i]);
        return;
    }
    if (sim->scenario.rot_per_min)
        converge_scrub(sim);
    converge_compare(sim);
    if (sim->operators)
        teardown_run(sim);
}

static bool all_stopped(void *arg)
{
    struct sim *sim = arg;
    for (int i = 1; i <= sim->node_count; i++)
        if (sim_node_running(sim->nodes[i]))
            return false;
    return true;
}

/* Orderly: what this leaves behind is a leak. */
static void end_cluster(struct sim *sim, bool orderly)
{
    faults_destroy(sim->faults);
    operators_destroy(sim->operators);
    for (uint32_t i = 0; i < sim->guest_count; i++) {
        guest_destroy(sim->guests[i]);
        sim->guests[i] = NULL;
    }
    for (int i = 1; i <= sim->node_count; i++) {
        struct sim_node *node = sim->nodes[i];
        if (orderly && sim_node_serving(node))
            sim_node_stop(node);
        else if (sim_node_running(node))
            sim_node_crash(node, WORLD_CRASH_PROCESS);
    }
    if (orderly && !world_run_until(sim->world, all_stopped, sim, ENV_MS(10000)))
        sim_fail(sim, "a node does not stop");
    for (int i = 1; i <= sim->node_count; i++)
        if (sim_node_running(sim->nodes[i]))
            sim_node_crash(sim->nodes[i], WORLD_CRASH_PROCESS);
    if (orderly && sim->scenario.operators)
        audit_run(sim);
}

static void free_all(struct sim *sim)
{
    for (int i = 1; i <= sim->node_count; i++)
        sim_node_destroy(sim->nodes[i]);
    plane_destroy(sim->plane);
    sim_net_destroy(sim->net);
    world_destroy(sim->world);
}

void sim_report_abort(void)
{
    if (!running)
        return;
    fprintf(stderr, "aborted at %.6f, seed %" PRIu64 "\n", (double)world_now_ns(running->world) / 1e9, running->seed);
    sim_log_print();
}

int sim_run(uint64_t seed, const char *scenario_path, bool trace, double *ret_virtual_seconds)
{
    struct sim *sim = calloc(1, sizeof(*sim));
    assert(sim);
    sim->seed = seed;
    sim->trace = trace;
    if (scenario_load(scenario_path, &sim->scenario) != 0) {
        free(sim);
        return 2;
    }
    make_cluster(sim);
    running = sim;
    make_volumes(sim);
    if (sim->scenario.operators)
        sim->operators = operators_create(sim);
    sim->faults = faults_create(sim);
    world_run(sim->world, ENV_MS(sim->scenario.safety_ms));
    liveness(sim);
    bool failed = sim->failures > 0, unreached = faults_unreached(sim->faults) > 0;
    uint64_t ops = 0;
    for (uint32_t i = 0; i < sim->guest_count; i++)
        ops += guest_ops(sim->guests[i]);
    if (sim->operators)
        operators_tell(sim->operators);
    if (failed)
        sim_log_print();
    end_cluster(sim, !failed);
    failed = sim->failures > 0;
    *ret_virtual_seconds = (double)world_now_ns(sim->world) / 1e9;
    printf("seed %" PRIu64 " %s: %.1f virtual seconds, %" PRIu64 " operations, hash %016" PRIx64 "%s%s\n", seed,
           failed || unreached ? "FAILED" : "ok", *ret_virtual_seconds, ops, world_trace_hash(sim->world),
           failed || unreached ? ": " : "",
           failed || !unreached ? sim->first_failure : "steps placed by hand were never reached");
    running = NULL;
    free_all(sim);
    free(sim);
    return failed ? 1 : unreached ? SIM_UNREACHED : 0;
}
