/* SPDX-License-Identifier: Apache-2.0 */
/* env: the seam through which core code reads the clock, arms timers, defers work and draws random numbers.
 *
 * Concept: gateway, replica, store logic, control and client core read no clock of their own, so that the
 *   code that ships also runs in virtual time under the simulator (same seed, same trace).
 * Threading: an env belongs to one event loop; every call is made on that loop's thread.
 * Errors: none of these calls fails.
 * Ownership: env_timer and env_task are embedded by the caller and must outlive their arming; a stopped
 *   timer or a task that ran may be freed. Callbacks never run inside the call that arms them.
 */
#ifndef ASHLAR_COMMON_ENV_H
#define ASHLAR_COMMON_ENV_H

#include <stdbool.h>
#include <stdint.h>

#define ENV_MS(ms) ((uint64_t)(ms)*1000000u) /* milliseconds to nanoseconds */

struct env;
struct env_timer;
struct env_task;
typedef void (*env_timer_cb)(struct env_timer *timer);
typedef void (*env_task_cb)(struct env_task *task);

/* One-shot timer; zero-initialise before first use. */
struct env_timer {
    /* read-only */
    env_timer_cb cb;
    uint64_t deadline_ns;
    bool armed;
    /* private to the env's implementation (timer_heap.h) */
    uint32_t heap_index;
    uint64_t seq;
};

/* Work for the next turn of the loop, run before the loop blocks; FIFO. Zero-initialise before first use. */
struct env_task {
    /* read-only */
    env_task_cb cb;
    bool queued;
    /* private */
    struct env_task *next;
};

struct env_ops {
    uint64_t (*now_ns)(struct env *env); /* CLOCK_BOOTTIME, read afresh at each call (R9) */
    void (*timer_start)(struct env *env, struct env_timer *timer, uint64_t delay_ns, env_timer_cb cb);
    void (*timer_stop)(struct env *env, struct env_timer *timer);          /* no-op when not armed */
    void (*defer)(struct env *env, struct env_task *task, env_task_cb cb); /* no-op when already queued */
    uint64_t (*random)(struct env *env);
};

struct env {
    const struct env_ops *ops;
};

static inline uint64_t env_now_ns(struct env *env)
{
    return env->ops->now_ns(env);
}

/* Re-arming an armed timer moves it. */
static inline void env_timer_start(struct env *env, struct env_timer *timer, uint64_t delay_ns, env_timer_cb cb)
{
    env->ops->timer_start(env, timer, delay_ns, cb);
}

static inline void env_timer_stop(struct env *env, struct env_timer *timer)
{
    env->ops->timer_stop(env, timer);
}

static inline void env_defer(struct env *env, struct env_task *task, env_task_cb cb)
{
    env->ops->defer(env, task, cb);
}

static inline uint64_t env_random(struct env *env)
{
    return env->ops->random(env);
}

#endif
