/* SPDX-License-Identifier: Apache-2.0 */
/* env_uv: clock, timers, tasks and random numbers on a libuv loop.
 *
 *   - a timer is put into the heap; the uv_timer always waits for the earliest one;
 *   - a deferred task starts the idle handle, which makes the loop poll without waiting; tasks run until quiet.
 * Failure modes: none after creation; uv calls on initialised handles do not fail.
 */
#include "common/env_uv.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <uv.h>

#include "common/prng.h"
#include "common/timer_heap.h"

#define ENV_UV_TASKS_PER_TURN_MAX 65536u
#define ENV_UV_HANDLES 3u

struct env_uv {
    struct env env; /* first */
    uv_loop_t *loop;
    struct timer_heap timers;
    struct env_task *task_head, *task_tail;
    struct prng prng;
    uv_timer_t timer;
    uv_idle_t idle;
    uv_check_t check;
    unsigned open_handles;
    bool closing;
};

static struct env_uv *self_of(struct env *env)
{
    assert(env);
    return (struct env_uv *)(void *)env; /* env is its first field */
}

static uint64_t uv_env_now_ns(struct env *env)
{
    struct timespec ts;
    (void)env;
    int rc = clock_gettime(CLOCK_BOOTTIME, &ts); /* R9 */
    assert(rc == 0);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void timer_fired(uv_timer_t *handle);

/* The uv_timer waits for the earliest timer of the heap. */
static void timer_aim(struct env_uv *self)
{
    uint64_t next_ns = timer_heap_next_ns(&self->timers);
    if (next_ns == UINT64_MAX || self->closing) {
        (void)uv_timer_stop(&self->timer);
        return;
    }
    uint64_t now_ns = uv_env_now_ns(&self->env);
    uint64_t wait_ns = next_ns > now_ns ? next_ns - now_ns : 0;
    uv_update_time(self->loop); /* the loop's own clock may be a turn old */
    int rc = uv_timer_start(&self->timer, timer_fired, (wait_ns + 999999u) / 1000000u, 0);
    assert(rc == 0);
}

static void timer_fired(uv_timer_t *handle)
{
    assert(handle != NULL);
    struct env_uv *self = handle->data;
    uint64_t now_ns = uv_env_now_ns(&self->env);
    for (struct env_timer *timer; (timer = timer_heap_pop(&self->timers, now_ns)) != NULL;) {
        assert(!timer->armed);
        timer->cb(timer);
    }
    timer_aim(self);
}

static void uv_env_timer_start(struct env *env, struct env_timer *timer, uint64_t delay_ns, env_timer_cb cb)
{
    struct env_uv *self = self_of(env);
    assert(cb && !self->closing);
    uint64_t now_ns = uv_env_now_ns(env), before_ns = timer_heap_next_ns(&self->timers);
    uint64_t deadline_ns = delay_ns > UINT64_MAX - 1 - now_ns ? UINT64_MAX - 1 : now_ns + delay_ns;
    timer_heap_disarm(&self->timers, timer);
    timer_heap_arm(&self->timers, timer, deadline_ns, cb);
    if (timer_heap_next_ns(&self->timers) != before_ns)
        timer_aim(self);
}

static void uv_env_timer_stop(struct env *env, struct env_timer *timer)
{
    struct env_uv *self = self_of(env);
    if (!timer->armed)
        return;
    timer_heap_disarm(&self->timers, timer);
    assert(!timer->armed);
    if (timer_heap_next_ns(&self->timers) == UINT64_MAX)
        timer_aim(self); /* an idle timer must not keep the loop alive */
}

static void run_tasks(struct env_uv *self)
{
    for (unsigned i = 0; self->task_head && i < ENV_UV_TASKS_PER_TURN_MAX; i++) {
        struct env_task *task = self->task_head;
        assert(task->queued);
        self->task_head = task->next;
        if (!self->task_head)
            self->task_tail = NULL;
        task->queued = false;
        task->next = NULL;
        task->cb(task);
    }
    if (!self->task_head && !self->closing)
        (void)uv_idle_stop(&self->idle);
}

static void idle_turn(uv_idle_t *handle)
{
    assert(handle != NULL);
    run_tasks(handle->data);
}

static void check_turn(uv_check_t *handle)
{
    assert(handle != NULL);
    struct env_uv *self = handle->data;
    if (self->task_head)
        run_tasks(self);
}

static void uv_env_defer(struct env *env, struct env_task *task, env_task_cb cb)
{
    struct env_uv *self = self_of(env);
    assert(cb && !self->closing);
    if (task->queued)
        return;
    task->cb = cb;
    task->queued = true;
    task->next = NULL;
    if (self->task_tail)
        self->task_tail->next = task;
    else
        self->task_head = task;
    self->task_tail = task;
    int rc = uv_idle_start(&self->idle, idle_turn);
    assert(rc == 0);
}

static uint64_t uv_env_random(struct env *env)
{
    assert(env != NULL);
    return prng_next(&self_of(env)->prng);
}

static const struct env_ops uv_env_ops = {
    .now_ns = uv_env_now_ns,
    .timer_start = uv_env_timer_start,
    .timer_stop = uv_env_timer_stop,
    .defer = uv_env_defer,
    .random = uv_env_random,
};

int env_uv_create(struct uv_loop_s *loop, uint64_t seed, struct env **ret_env)
{
    assert(loop && ret_env);
    if (seed == 0 && getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        return -EIO;
    struct env_uv *self = calloc(1, sizeof(*self));
    if (!self)
        return -ENOMEM;
    self->env.ops = &uv_env_ops;
    self->loop = loop;
    prng_seed(&self->prng, seed);
    timer_heap_init(&self->timers);
    (void)uv_timer_init(loop, &self->timer); /* these three always return 0 */
    (void)uv_idle_init(loop, &self->idle);
    (void)uv_check_init(loop, &self->check);
    self->timer.data = self->idle.data = self->check.data = self;
    int rc = uv_check_start(&self->check, check_turn);
    assert(rc == 0);
    uv_unref((uv_handle_t *)&self->check); /* alone it does not keep the loop alive */
    self->open_handles = ENV_UV_HANDLES;
    *ret_env = &self->env;
    return 0;
}

static void handle_closed(uv_handle_t *handle)
{
    assert(handle != NULL);
    struct env_uv *self = handle->data;
    assert(self->open_handles > 0);
    if (--self->open_handles == 0)
        free(self);
}

void env_uv_destroy(struct env *env)
{
    if (!env)
        return;
    struct env_uv *self = self_of(env);
    assert(!self->closing);
    self->closing = true;
    for (struct env_timer *timer; (timer = timer_heap_pop(&self->timers, UINT64_MAX)) != NULL;)
        assert(!timer->armed);
    timer_heap_close(&self->timers);
    for (struct env_task *task; (task = self->task_head) != NULL; task->queued = false)
        self->task_head = task->next;
    uv_close((uv_handle_t *)&self->timer, handle_closed);
    uv_close((uv_handle_t *)&self->idle, handle_closed);
    uv_close((uv_handle_t *)&self->check, handle_closed);
}
