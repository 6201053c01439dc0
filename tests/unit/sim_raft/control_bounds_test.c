/* SPDX-License-Identifier: Apache-2.0 */
/* control_bounds: how long the control plane takes for what it does, over many seeds of a quiet cluster with one fault.
 *
 * All times are virtual, so they are exact: defaults of control.h (heartbeat 200 ms, node timeout 1200, lease 900) and of
 * consensus.h (election timeout 300 to 600).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/unit/sim_raft/rig.h"

#define SEEDS 25u
#define NODES 5
#define VOTERS 3u
#define TIMEOUT_MS 1200u
#define HEARTBEAT_MS 200u
#define LEASE_MS 900u
#define STALL_MS 3000u /* as the rig sets it */
#define SLACK_MS 150u  /* a tick, a commit, links */

__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libraft.so\n"; /* as in control_faults_test.c */
}

struct wait {
    struct rig *rig;
    int node;
    uint64_t incarnation;
    int old_leader;
};

static bool is_down(void *arg)
{
    struct wait *w = arg;
    const struct map_node *node = map_node_by_id(control_sim_map(w->rig->control), (uint32_t)w->node);
    return !node->up || node->incarnation != w->incarnation;
}

static bool is_up_again(void *arg)
{
    struct wait *w = arg;
    const struct map_node *node = map_node_by_id(control_sim_map(w->rig->control), (uint32_t)w->node);
    return node->up && node->incarnation > w->incarnation &&
           stub_incarnation(&w->rig->stubs[w->node]) == node->incarnation;
}

static bool other_leads(void *arg)
{
    struct wait *w = arg;
    int leader = control_sim_leader(w->rig->control);
    return leader != 0 && leader != w->old_leader;
}

static struct rig *quiet_rig(uint64_t seed)
{
    struct rig_config config = {.seed = seed, .nodes = NODES, .voters = VOTERS, .snapshot_threshold = 64};
    config.faults.restart_max_ns = ENV_MS(1);
    struct rig *rig = rig_create(&config);
    rig_set_up(rig);
    world_run(rig->world, ENV_MS(3000) + world_random_below(rig->world, ENV_MS(500)));
    assert_true(rig_has_leader(rig));
    return rig;
}

static void end(struct rig *rig)
{
    if (rig->failures)
        fail_msg("seed %llu: %s", (unsigned long long)rig->config.seed, rig->first_failure);
    rig_destroy(rig);
}

static struct wait wait_for(struct rig *rig, int node)
{
    struct wait w = {.rig = rig, .node = node, .old_leader = control_sim_leader(rig->control)};
    w.incarnation = stub_incarnation(&rig->stubs[node]);
    assert_true(w.incarnation > 0);
    return w;
}

/* A node that neither leads nor (if possible) votes. */
static int some_follower(struct rig *rig)
{
    int node = 1 + (int)world_random_below(rig->world, NODES);
    return node == control_sim_leader(rig->control) ? node % NODES + 1 : node;
}

static uint64_t passed_ms(struct rig *rig, uint64_t since_ns)
{
    return (world_now_ns(rig->world) - since_ns) / 1000000;
}

/* Goal: a node without power is down a node timeout after its last heartbeat: not before, and not much later (R10). */
static void silence_is_noticed_in_time(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct rig *rig = quiet_rig(seed);
        struct wait w = wait_for(rig, some_follower(rig));
        uint64_t began_ns = world_now_ns(rig->world);
        stub_crash(&rig->stubs[w.node], WORLD_CRASH_POWER);
        assert_true(world_run_until(rig->world, is_down, &w, ENV_MS(10000)));
        assert_in_range(passed_ms(rig, began_ns), TIMEOUT_MS - HEARTBEAT_MS - SLACK_MS, TIMEOUT_MS + SLACK_MS);
        end(rig);
    }
}

/* Goal: a dead process is down at once: somebody's link was reset, the leader's probe refused (R10). */
static void dead_process_is_noticed_at_once(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct rig *rig = quiet_rig(seed);
        struct wait w = wait_for(rig, some_follower(rig));
        int witness = w.node % NODES + 1;
        uint64_t began_ns = world_now_ns(rig->world);
        stub_crash(&rig->stubs[w.node], WORLD_CRASH_PROCESS);
        stub_suspect(&rig->stubs[witness], w.node);
        assert_true(world_run_until(rig->world, is_down, &w, ENV_MS(10000)));
        assert_in_range(passed_ms(rig, began_ns), 0, 60);
        end(rig);
    }
}

/* Goal: a node whose data side hangs (R23) gets no lease once that is known, and is down when its last one has ended (R10). */
static void hanging_data_side_is_noticed(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct rig *rig = quiet_rig(seed);
        struct wait w = wait_for(rig, 1 + (int)world_random_below(rig->world, NODES)); /* the leader's, too */
        uint64_t began_ns = world_now_ns(rig->world);
        control_sim_hung(rig->control, w.node, true);
        assert_true(world_run_until(rig->world, is_down, &w, ENV_MS(20000)));
        assert_in_range(passed_ms(rig, began_ns), STALL_MS, STALL_MS + LEASE_MS + HEARTBEAT_MS + SLACK_MS);
        control_sim_hung(rig->control, w.node, false);
        assert_true(world_run_until(rig->world, is_up_again, &w, ENV_MS(20000)));
        end(rig);
    }
}

/* Goal: somebody leads soon after the leader's power is lost, and declares it down a node timeout after its own election. */
static void lost_leader_is_replaced(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct rig *rig = quiet_rig(seed);
        struct wait w = wait_for(rig, control_sim_leader(rig->control));
        uint64_t began_ns = world_now_ns(rig->world);
        stub_crash(&rig->stubs[w.node], WORLD_CRASH_POWER);
        assert_true(world_run_until(rig->world, other_leads, &w, ENV_MS(10000)));
        assert_in_range(passed_ms(rig, began_ns), 200, 1500);
        uint64_t elected_ns = world_now_ns(rig->world);
        assert_true(world_run_until(rig->world, is_down, &w, ENV_MS(10000)));
        assert_in_range(passed_ms(rig, elected_ns), TIMEOUT_MS - SLACK_MS, TIMEOUT_MS + SLACK_MS);
        world_run(rig->world, ENV_MS(5000));
        for (int i = 1; i <= NODES; i++) { /* nobody else was harmed */
            const struct map_node *node = map_node_by_id(control_sim_map(rig->control), (uint32_t)i);
            assert_true(node->up == (i != w.node));
        }
        end(rig);
    }
}

/* Goal: a process that starts again is registered, with a newer incarnation, within a second (R1). */
static void restart_registers_soon(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct rig *rig = quiet_rig(seed);
        struct wait w = wait_for(rig, some_follower(rig));
        enum world_crash kind = seed % 2 ? WORLD_CRASH_POWER : WORLD_CRASH_PROCESS;
        stub_crash(&rig->stubs[w.node], kind);
        world_run(rig->world, world_random_below(rig->world, ENV_MS(4000)));
        uint64_t began_ns = world_now_ns(rig->world);
        rig_start(rig, w.node);
        assert_true(world_run_until(rig->world, is_up_again, &w, ENV_MS(10000)));
        assert_in_range(passed_ms(rig, began_ns), 0, 1000);
        const struct map_node *node = map_node_by_id(control_sim_map(rig->control), (uint32_t)w.node);
        assert_int_equal(node->stop, kind == WORLD_CRASH_POWER ? MAP_STOP_REBOOTED : MAP_STOP_SAME_BOOT);
        end(rig);
    }
}

/* Goal: a leader that is cut off from the other voters gives no lease any more, and a node beside it is not declared down by it:
 * the majority's leader does that, once no lease of the old one can last (R9, R10; control_sim_check judges). */
static void cut_off_leader_renews_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct rig *rig = quiet_rig(seed);
        int leader = control_sim_leader(rig->control);
        struct wait w = wait_for(rig, NODES); /* no voter: it stays with the old leader */
        for (int i = 1; i < NODES; i++) {
            for (int side = 0; side < 2 && i != leader; side++) {
                sim_net_cut(rig->net, side ? leader : w.node, i, true);
                sim_net_cut(rig->net, i, side ? leader : w.node, true);
            }
        }
        struct control_sim_stats before, after;
        uint64_t began_ns = world_now_ns(rig->world);
        assert_true(world_run_until(rig->world, is_down, &w, ENV_MS(10000)));
        assert_in_range(passed_ms(rig, began_ns), TIMEOUT_MS - HEARTBEAT_MS, 1500 + TIMEOUT_MS + SLACK_MS);
        assert_true(control_sim_leader(rig->control) != leader);
        control_sim_stats(rig->control, &before);
        sim_net_heal(rig->net);
        assert_true(world_run_until(rig->world, is_up_again, &w, ENV_MS(10000)));
        control_sim_stats(rig->control, &after);
        assert_true(after.deposed > before.deposed); /* it lived, and was told */
        end(rig);
    }
}

/* Goal: the whole cluster loses power and comes back: a leader, everybody registered, every entry still there. */
static void power_failure_of_all_loses_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct rig *rig = quiet_rig(seed);
        uint64_t version = map_version(control_sim_map(rig->control));
        for (int i = 1; i <= NODES; i++)
            stub_crash(&rig->stubs[i], WORLD_CRASH_POWER);
        world_run(rig->world, ENV_MS(500));
        for (int i = 1; i <= NODES; i++)
            rig_start(rig, i);
        uint64_t began_ns = world_now_ns(rig->world);
        assert_true(world_run_until(rig->world, rig_has_leader, rig, ENV_MS(10000)));
        assert_in_range(passed_ms(rig, began_ns), 0, 2500);
        assert_true(world_run_until(rig->world, rig_converged, rig, ENV_MS(10000)));
        assert_true(map_version(control_sim_map(rig->control)) >= version + NODES);
        end(rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(silence_is_noticed_in_time),
        cmocka_unit_test(dead_process_is_noticed_at_once),
        cmocka_unit_test(hanging_data_side_is_noticed),
        cmocka_unit_test(lost_leader_is_replaced),
        cmocka_unit_test(restart_registers_soon),
        cmocka_unit_test(cut_off_leader_renews_nothing),
        cmocka_unit_test(power_failure_of_all_loses_nothing),
    };
    rig_log_start();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
