/* SPDX-License-Identifier: Apache-2.0 */
/* world: virtual time: order, clocks, pause, crash, reproducibility. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/world.h"

static int notes[16], note_count;

struct noted {
    struct world_event event;
    struct env_timer timer;
    struct env_task task;
    int number;
};

static void note(int number)
{
    assert_true(note_count < 16);
    notes[note_count++] = number;
}

static void note_event(struct world_event *event)
{
    note(list_entry(event, struct noted, event)->number);
}

static void note_timer(struct env_timer *timer)
{
    note(list_entry(timer, struct noted, timer)->number);
}

static void note_task(struct env_task *task)
{
    note(list_entry(task, struct noted, task)->number);
}

static int reset_notes(void **state)
{
    (void)state;
    note_count = 0;
    return 0;
}

/* Goal: events run by (time, order of scheduling); a cancelled one does not; a moved one runs where it was moved. */
static void events_run_in_order(void **state)
{
    (void)state;
    struct world *world = world_create(1);
    struct noted x[5];
    memset(x, 0, sizeof(x));
    for (int i = 0; i < 5; i++) {
        x[i].number = i;
        world_schedule(world, &x[i].event, WORLD_NOBODY, 100, note_event);
    }
    world_cancel(world, &x[1].event);
    world_schedule(world, &x[0].event, WORLD_NOBODY, 50, note_event);
    world_schedule(world, &x[2].event, WORLD_NOBODY, 100, note_event);
    world_run(world, 1000);
    assert_int_equal(world_now_ns(world), 1000);
    static const int expected[] = {0, 3, 4, 2};
    assert_int_equal(note_count, 4);
    assert_memory_equal(notes, expected, sizeof(expected));
    world_destroy(world);
}

/* Goal: a clock that runs 10 % fast fires its timers early, a jump fires what it skips; tasks go before everything. */
static void timers_follow_their_nodes_clock(void **state)
{
    (void)state;
    struct world *world = world_create(2);
    int plain = world_node_add(world), fast = world_node_add(world);
    struct env *plain_env = world_env_create(world, plain), *fast_env = world_env_create(world, fast);
    struct noted x[4];
    memset(x, 0, sizeof(x));
    for (int i = 0; i < 4; i++)
        x[i].number = i;
    world_node_clock(world, fast, 0, 100000);
    uint64_t start_ns = env_now_ns(fast_env);
    env_timer_start(plain_env, &x[0].timer, 1000000, note_timer);
    env_timer_start(fast_env, &x[1].timer, 1050000, note_timer); /* 954546 ns of the world */
    env_timer_start(fast_env, &x[2].timer, 9000000, note_timer);
    env_defer(plain_env, &x[3].task, note_task);
    world_run(world, 1000000);
    static const int expected[] = {3, 1, 0};
    assert_int_equal(note_count, 3);
    assert_memory_equal(notes, expected, sizeof(expected));
    assert_int_equal(env_now_ns(fast_env) - start_ns, 1100000);
    world_node_clock(world, fast, 8000000, 0);
    world_run(world, 0);
    assert_int_equal(note_count, 4);
    assert_int_equal(notes[3], 2);
    world_destroy(world);
}

/* Goal: a paused node does nothing; then it does all of it. */
static void a_paused_node_stands_still(void **state)
{
    (void)state;
    struct world *world = world_create(3);
    int node = world_node_add(world);
    struct env *env = world_env_create(world, node);
    struct noted x[4];
    memset(x, 0, sizeof(x));
    for (int i = 0; i < 4; i++)
        x[i].number = i;
    env_timer_start(env, &x[0].timer, 100, note_timer);
    env_defer(env, &x[1].task, note_task);
    world_schedule(world, &x[2].event, node, 50, note_event);
    world_schedule(world, &x[3].event, node, 40, note_event);
    world_node_pause(world, node, true);
    world_run(world, 1000);
    assert_int_equal(note_count, 0);
    world_cancel(world, &x[3].event); /* also of what is held */
    world_node_pause(world, node, false);
    world_run(world, 0);
    assert_int_equal(note_count, 3);
    assert_int_equal(notes[0], 1);
    assert_int_equal(notes[1] + notes[2], 2);
    world_destroy(world);
}

/* Goal: a crash forgets timers and tasks and makes the env deaf; the next life has its own env. */
static void a_crashed_node_forgets(void **state)
{
    (void)state;
    struct world *world = world_create(4);
    int node = world_node_add(world);
    struct env *env = world_env_create(world, node);
    struct noted x[3];
    memset(x, 0, sizeof(x));
    env_timer_start(env, &x[0].timer, 100, note_timer);
    env_defer(env, &x[1].task, note_task);
    world_node_crash(world, node, WORLD_CRASH_POWER);
    assert_false(x[0].timer.armed || x[1].task.queued);
    assert_false(world_node_up(world, node) || world_node_powered(world, node));
    env_timer_start(env, &x[0].timer, 100, note_timer);
    env_timer_stop(env, &x[0].timer);
    world_run(world, 1000);
    assert_int_equal(note_count, 0);
    world_node_start(world, node);
    assert_int_equal(world_node_life(world, node), 2);
    x[2].number = 9;
    env_timer_start(world_env_create(world, node), &x[2].timer, 10, note_timer);
    world_run(world, 1000);
    assert_int_equal(note_count, 1);
    assert_int_equal(notes[0], 9);
    world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(events_run_in_order, reset_notes),
        cmocka_unit_test_setup(timers_follow_their_nodes_clock, reset_notes),
        cmocka_unit_test_setup(a_paused_node_stands_still, reset_notes),
        cmocka_unit_test_setup(a_crashed_node_forgets, reset_notes),
    };
    return cmocka_run_group_tests_name("world", tests, NULL, NULL);
}
