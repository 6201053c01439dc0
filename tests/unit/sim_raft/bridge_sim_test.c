/* SPDX-License-Identifier: Apache-2.0 */
/* bridge_sim: order, copies, requests that cross, a hanging side, a closed one, a crash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>

#include "common/list.h"
#include "tests/sim/bridge_sim.h"
#include "tests/sim/world.h"

#define NOTES_MAX 64u

struct rig {
    struct world *world;
    struct env *control_env, *data_env;
    struct bridge_sim *bridge;
    struct bridge_to_data data; /* receivers */
    struct bridge_to_control control;
    uint64_t notes[NOTES_MAX]; /* versions and the like, in order of arrival */
    uint32_t note_count;
    struct bridge_propose *proposed; /* as control got it */
    struct bridge_attach *attached;
    struct map_result result;
    int attach_rc;
    uint32_t results;
};

static void note(struct rig *rig, uint64_t value)
{
    assert_true(rig->note_count < NOTES_MAX);
    rig->notes[rig->note_count++] = value;
}

static void got_registered(struct bridge_to_data *b, uint64_t cluster_id, uint32_t node, uint64_t incarnation)
{
    assert_int_equal(cluster_id, 7);
    assert_int_equal(node, 1);
    note(list_entry(b, struct rig, data), incarnation);
}

static void got_entry(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len)
{
    assert_int_equal(len, 5);
    assert_memory_equal(bytes, "entry", 5);
    note(list_entry(b, struct rig, data), version);
}

static void got_lease(struct bridge_to_data *b, uint64_t until_ns, uint64_t version)
{
    assert_int_equal(until_ns, 1000 + version);
    note(list_entry(b, struct rig, data), version);
}

static void got_propose(struct bridge_to_control *b, struct bridge_propose *req, const void *entry, size_t len)
{
    struct rig *rig = list_entry(b, struct rig, control);
    assert_int_equal(len, 3);
    assert_memory_equal(entry, "new", 3);
    rig->proposed = req;
}

static void got_attach(struct bridge_to_control *b, struct bridge_attach *req)
{
    assert_string_equal(req->volume_name, "disk");
    assert_int_equal(req->flags, MAP_SESSION_FORCE);
    list_entry(b, struct rig, control)->attached = req;
}

static void got_applied(struct bridge_to_control *b, uint64_t version, uint64_t hash)
{
    assert_int_equal(hash, version * 3);
    note(list_entry(b, struct rig, control), version);
}

static const struct bridge_to_data_ops data_ops = {
    .registered = got_registered, .map_entry = got_entry, .lease = got_lease};
static const struct bridge_to_control_ops control_ops = {
    .propose = got_propose, .attach = got_attach, .applied = got_applied};

static void propose_ended(struct bridge_propose *req, const struct map_result *result)
{
    struct rig *rig = req->owner;
    rig->result = *result;
    rig->results++;
}

static void attach_ended(struct bridge_attach *req, int rc)
{
    struct rig *rig = req->owner;
    rig->attach_rc = rc;
    rig->results++;
}

static void rig_open(struct rig *rig, uint64_t delay_max_ns, bool with_control)
{
    memset(rig, 0, sizeof(*rig));
    rig->world = world_create(3);
    int node = world_node_add(rig->world);
    rig->control_env = world_env_create(rig->world, node);
    rig->data_env = world_env_create(rig->world, node);
    rig->data.ops = &data_ops;
    rig->control.ops = &control_ops;
    struct bridge_sim_config config = {.control_env = rig->control_env,
                                       .data_env = rig->data_env,
                                       .data = &rig->data,
                                       .control = with_control ? &rig->control : NULL,
                                       .delay_max_ns = delay_max_ns};
    rig->bridge = bridge_sim_create(&config);
}

static void rig_close(struct rig *rig)
{
    world_node_crash(rig->world, 0, WORLD_CRASH_PROCESS);
    bridge_sim_destroy(rig->bridge);
    world_destroy(rig->world);
}

/* Goal: nothing arrives inside the call; all of it in order, with its own copy of the bytes, whatever the delays. */
static void messages_arrive_later_and_in_order(void **state)
{
    (void)state;
    for (uint64_t delay_ns = 0; delay_ns <= 1000; delay_ns += 1000) {
        struct rig rig;
        rig_open(&rig, delay_ns, true);
        struct bridge_to_data *to_data = bridge_sim_to_data(rig.bridge);
        char bytes[] = "entry";
        for (uint64_t v = 1; v <= 10; v++) {
            to_data->ops->map_entry(to_data, 2 * v, bytes, 5);
            to_data->ops->lease(to_data, 1000 + 2 * v + 1, 2 * v + 1);
        }
        to_data->ops->registered(to_data, 7, 1, 99);
        memset(bytes, 0, sizeof(bytes));
        assert_int_equal(rig.note_count, 0);
        world_run(rig.world, 100000);
        assert_int_equal(rig.note_count, 21);
        for (uint32_t i = 0; i < 20; i++)
            assert_int_equal(rig.notes[i], i + 2);
        assert_int_equal(rig.notes[20], 99);
        rig_close(&rig);
    }
}

/* Goal: a request reaches control as a copy and ends once, behind the entries sent before its end. */
static void request_ends_behind_its_entries(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, 500, true);
    struct bridge_to_control *to_control = bridge_sim_to_control(rig.bridge);
    struct bridge_to_data *to_data = bridge_sim_to_data(rig.bridge);
    struct bridge_propose req = {.cb = propose_ended, .owner = &rig};
    struct bridge_attach attach = {
        .volume_name = "disk", .flags = MAP_SESSION_FORCE, .cb = attach_ended, .owner = &rig};
    to_control->ops->propose(to_control, &req, "new", 3);
    to_control->ops->attach(to_control, &attach);
    assert_null(rig.proposed);
    world_run(rig.world, 10000);
    assert_true(rig.proposed && rig.proposed != &req && rig.attached && rig.attached != &attach);
    to_data->ops->map_entry(to_data, 5, "entry", 5);
    struct map_result result = {.rc = -EBUSY, .value = 8, .version = 5};
    rig.proposed->cb(rig.proposed, &result);
    rig.attached->session = 11;
    rig.attached->cb(rig.attached, 0);
    assert_int_equal(rig.results, 0);
    world_run(rig.world, 10000);
    assert_int_equal(rig.results, 2);
    assert_int_equal(rig.note_count, 1);
    assert_int_equal(rig.result.rc, -EBUSY);
    assert_int_equal(rig.result.version, 5);
    assert_int_equal(rig.attach_rc, 0);
    assert_int_equal(attach.session, 11);
    rig_close(&rig);
}

/* Goal: before there is a control core messages wait; a hanging data side gets and says nothing until it goes on. */
static void messages_wait_for_receiver(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, 0, false);
    struct bridge_to_control *to_control = bridge_sim_to_control(rig.bridge);
    to_control->ops->applied(to_control, 4, 12);
    world_run(rig.world, 10000);
    assert_int_equal(rig.note_count, 0);
    bridge_sim_set_control(rig.bridge, &rig.control);
    world_run(rig.world, 10000);
    assert_int_equal(rig.note_count, 1);
    bridge_sim_hang(rig.bridge, true);
    to_control->ops->applied(to_control, 5, 15);
    struct bridge_to_data *to_data = bridge_sim_to_data(rig.bridge);
    to_data->ops->map_entry(to_data, 6, "entry", 5);
    world_run(rig.world, 10000);
    assert_int_equal(rig.note_count, 1);
    bridge_sim_hang(rig.bridge, false);
    world_run(rig.world, 10000);
    assert_int_equal(rig.note_count, 3);
    rig_close(&rig);
}

/* Goal: with control closed a request still ends, with -ESHUTDOWN. */
static void closed_control_refuses(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, 0, true);
    struct bridge_to_control *to_control = bridge_sim_to_control(rig.bridge);
    struct bridge_propose req = {.cb = propose_ended, .owner = &rig};
    bridge_sim_close_control(rig.bridge);
    to_control->ops->propose(to_control, &req, "new", 3);
    to_control->ops->applied(to_control, 4, 12);
    world_run(rig.world, 10000);
    assert_int_equal(rig.results, 1);
    assert_int_equal(rig.result.rc, -ESHUTDOWN);
    assert_int_equal(rig.note_count, 0);
    rig_close(&rig);
}

/* Goal: what was on its way when the node crashed arrives nowhere and leaks nothing (ASAN). */
static void crash_drops_mails(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, 0, true);
    struct bridge_to_control *to_control = bridge_sim_to_control(rig.bridge);
    struct bridge_propose req = {.cb = propose_ended, .owner = &rig};
    to_control->ops->propose(to_control, &req, "new", 3);
    world_run(rig.world, 10000);
    assert_non_null(rig.proposed); /* its twin is with control */
    to_control->ops->applied(to_control, 4, 12);
    world_node_crash(rig.world, 0, WORLD_CRASH_POWER);
    world_run(rig.world, 10000);
    assert_int_equal(rig.note_count, 0);
    assert_int_equal(rig.results, 0);
    bridge_sim_destroy(rig.bridge);
    world_destroy(rig.world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_arrive_later_and_in_order),
        cmocka_unit_test(request_ends_behind_its_entries),
        cmocka_unit_test(messages_wait_for_receiver),
        cmocka_unit_test(closed_control_refuses),
        cmocka_unit_test(crash_drops_mails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
