/* SPDX-License-Identifier: Apache-2.0 */
/* env_uv: timers and tasks on a libuv loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <uv.h>

#include "common/env_uv.h"
#include "common/list.h"

struct noted {
    struct env_timer timer;
    struct env_task task;
    struct env *env;
    uint64_t fired_ns;
    int number, left;
};
static int notes[16], note_count;

static void note_timer(struct env_timer *timer)
{
    struct noted *self = list_entry(timer, struct noted, timer);
    self->fired_ns = env_now_ns(self->env);
    notes[note_count++] = self->number;
}

static void note_task(struct env_task *task)
{
    struct noted *self = list_entry(task, struct noted, task);
    notes[note_count++] = self->number;
    if (--self->left > 0)
        env_defer(self->env, task, note_task);
}

/* Goal: timers fire in deadline order, never early, also when the loop's clock is stale; then the loop is idle and
 * ends by itself. */
static void timers_and_tasks_run_in_order(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct env *env = NULL;
    struct noted x[5];
    memset(x, 0, sizeof(x));
    note_count = 0;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(env_uv_create(&loop, 3, &env), 0);
    for (int i = 0; i < 5; i++) {
        x[i].number = i;
        x[i].env = env;
    }
    uint64_t start_ns = env_now_ns(env);
    env_timer_start(env, &x[0].timer, ENV_MS(8), note_timer);
    env_timer_start(env, &x[1].timer, ENV_MS(3), note_timer);
    env_timer_start(env, &x[2].timer, ENV_MS(1), note_timer);
    env_timer_start(env, &x[3].timer, ENV_MS(100000), note_timer);
    env_timer_start(env, &x[2].timer, ENV_MS(5), note_timer);
    env_timer_stop(env, &x[3].timer);
    x[4].left = 3;
    env_defer(env, &x[4].task, note_task);
    assert_int_equal(note_count, 0);
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    static const int expected[] = {4, 4, 4, 1, 2, 0};
    assert_int_equal(note_count, 6);
    assert_memory_equal(notes, expected, sizeof(expected));
    assert_true(x[0].fired_ns >= start_ns + ENV_MS(8));
    assert_true(x[1].fired_ns >= start_ns + ENV_MS(3));
    env_uv_destroy(env);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

/* Goal: destroying with timers armed and tasks queued forgets them. */
static void destroy_forgets_what_is_pending(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct env *env = NULL;
    struct noted x = {.left = 1};
    note_count = 0;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(env_uv_create(&loop, 0, &env), 0);
    x.env = env;
    env_timer_start(env, &x.timer, 0, note_timer);
    env_defer(env, &x.task, note_task);
    env_uv_destroy(env);
    assert_false(x.timer.armed || x.task.queued);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(note_count, 0);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_and_tasks_run_in_order),
        cmocka_unit_test(destroy_forgets_what_is_pending),
    };
    return cmocka_run_group_tests_name("env_uv", tests, NULL, NULL);
}
