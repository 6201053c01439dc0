/* SPDX-License-Identifier: Apache-2.0 */
/* world: the scheduler of the simulation.
 *
 *   - a step: deferred tasks first (time does not move), else the earliest of the world's events and the envs' timers;
 *   - an env's clock is base + (world time since base) * (1 + drift): a timer's deadline is a time of that clock;
 *   - what is due at a paused node is held back and runs, in order, when it goes on.
 * Failure modes: none; a dead env ignores timers and tasks.
 */
#include "tests/sim/world.h"

#include <assert.h>
#include <stdlib.h>

#include "common/prng.h"
#include "common/timer_heap.h"

#define WORLD_DRIFT_PPM_MAX 200000
#define WORLD_MILLION 1000000u

struct world_env {
    struct env env; /* first */
    struct world *world;
    struct list_node node;
    struct timer_heap timers;
    struct env_task *task_head, *task_tail;
    struct prng prng;
    int node_index;
    uint32_t id;
    bool dead;
};

struct world_node {
    bool up, powered, paused;
    uint32_t life;
    uint64_t base_world_ns, base_local_ns;
    int32_t drift_ppm;
    struct list_node held; /* events that came due while paused */
};

struct world {
    struct timer_heap events;
    struct list_node envs, watchers;
    struct world_node nodes[WORLD_NODES_MAX];
    int node_count, running;
    uint32_t env_count;
    struct prng prng;
    uint64_t now_ns, steps, hash;
};

enum world_trace_kind { TRACE_TASK = 1, TRACE_EVENT, TRACE_TIMER, TRACE_CRASH, TRACE_START };

static struct world_node *node_of(struct world *world, int node)
{
    assert(node >= 0 && node < world->node_count);
    return &world->nodes[node];
}

static const struct world_node *node_of_const(const struct world *world, int node)
{
    assert(node >= 0 && node < world->node_count);
    return &world->nodes[node];
}

/* ---- clocks */

static uint64_t scale(uint64_t value, uint64_t times, uint64_t by, bool round_up)
{
    unsigned __int128 product = (unsigned __int128)value * times;
    assert(by > 0);
    return (uint64_t)((product + (round_up ? by - 1 : 0)) / by);
}

static uint64_t drift_factor(const struct world_node *node)
{
    assert(abs(node->drift_ppm) <= WORLD_DRIFT_PPM_MAX);
    return (uint64_t)((int64_t)WORLD_MILLION + node->drift_ppm);
}

static uint64_t local_ns(const struct world *world, const struct world_node *node)
{
    assert(world->now_ns >= node->base_world_ns);
    return node->base_local_ns +
           scale(world->now_ns - node->base_world_ns, drift_factor(node), WORLD_MILLION, /* round_up= */ false);
}

/* The world's time at which the node's clock shows deadline_ns. */
static uint64_t world_time_of(const struct world_node *node, uint64_t deadline_ns)
{
    if (deadline_ns <= node->base_local_ns)
        return node->base_world_ns;
    uint64_t passed = deadline_ns - node->base_local_ns;
    if (passed > UINT64_MAX / 4)
        return UINT64_MAX;
    uint64_t t = scale(passed, WORLD_MILLION, drift_factor(node), /* round_up= */ true);
    assert(scale(t, drift_factor(node), WORLD_MILLION, false) >= passed);
    return node->base_world_ns + t;
}

/* ---- env */

static struct world_env *env_of(struct env *env)
{
    assert(env);
    return (struct world_env *)(void *)env; /* env is its first field */
}

static uint64_t world_env_now_ns(struct env *env)
{
    struct world_env *self = env_of(env);
    return local_ns(self->world, node_of(self->world, self->node_index));
}

static void world_env_timer_start(struct env *env, struct env_timer *timer, uint64_t delay_ns, env_timer_cb cb)
{
    struct world_env *self = env_of(env);
    assert(cb);
    if (self->dead)
        return;
    uint64_t now_ns = world_env_now_ns(env);
    timer_heap_disarm(&self->timers, timer);
    timer_heap_arm(&self->timers, timer, delay_ns > UINT64_MAX - 1 - now_ns ? UINT64_MAX - 1 : now_ns + delay_ns, cb);
}

static void world_env_timer_stop(struct env *env, struct env_timer *timer)
{
    timer_heap_disarm(&env_of(env)->timers, timer);
    assert(!timer->armed);
}

static void world_env_defer(struct env *env, struct env_task *task, env_task_cb cb)
{
    struct world_env *self = env_of(env);
    assert(cb);
    if (self->dead || task->queued)
        return;
    task->cb = cb;
    task->queued = true;
    task->next = NULL;
    if (self->task_tail)
        self->task_tail->next = task;
    else
        self->task_head = task;
    self->task_tail = task;
}

static uint64_t world_env_random(struct env *env)
{
    return prng_next(&env_of(env)->prng);
}

static const struct env_ops world_env_ops = {
    .now_ns = world_env_now_ns,
    .timer_start = world_env_timer_start,
    .timer_stop = world_env_timer_stop,
    .defer = world_env_defer,
    .random = world_env_random,
};

struct env *world_env_create(struct world *world, int node)
{
    assert(node_of(world, node)->up);
    struct world_env *self = calloc(1, sizeof(*self));
    assert(self);
    self->env.ops = &world_env_ops;
    self->world = world;
    self->node_index = node;
    self->id = world->env_count++;
    prng_seed(&self->prng, world_random(world));
    timer_heap_init(&self->timers);
    list_push_back(&world->envs, &self->node);
    return &self->env;
}

/* Forgets everything armed and queued; the memory of timers and tasks may be gone afterwards. */
static void env_kill(struct world_env *self)
{
    self->dead = true;
    for (struct env_timer *timer; (timer = timer_heap_pop(&self->timers, UINT64_MAX)) != NULL;)
        assert(!timer->armed);
    while (self->task_head) {
        struct env_task *task = self->task_head;
        self->task_head = task->next;
        task->next = NULL;
        task->queued = false;
    }
    self->task_tail = NULL;
}

/* ---- the world */

struct world *world_create(uint64_t seed)
{
    struct world *world = calloc(1, sizeof(*world));
    assert(world);
    prng_seed(&world->prng, seed);
    world->hash = seed;
    world->running = WORLD_NOBODY;
    timer_heap_init(&world->events);
    list_head_init(&world->envs);
    list_head_init(&world->watchers);
    return world;
}

void world_destroy(struct world *world)
{
    if (!world)
        return;
    assert(list_empty(&world->watchers));
    for (struct list_node *node; (node = list_pop_front(&world->envs)) != NULL;) {
        struct world_env *self = list_entry(node, struct world_env, node);
        env_kill(self);
        timer_heap_close(&self->timers);
        free(self);
    }
    timer_heap_close(&world->events);
    free(world);
}

uint64_t world_now_ns(const struct world *world)
{
    return world->now_ns;
}

uint64_t world_random(struct world *world)
{
    return prng_next(&world->prng);
}

uint64_t world_random_below(struct world *world, uint64_t bound)
{
    assert(bound > 0);
    return prng_below(&world->prng, bound);
}

bool world_chance(struct world *world, uint32_t permille)
{
    assert(permille <= 1000);
    return world_random_below(world, 1000) < permille;
}

void world_trace(struct world *world, uint64_t what, uint64_t a, uint64_t b)
{
    uint64_t values[] = {world->now_ns, what, a, b};
    for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        uint64_t state = world->hash ^ values[i];
        world->hash = prng_splitmix(&state);
    }
}

uint64_t world_trace_hash(const struct world *world)
{
    return world->hash;
}

uint64_t world_steps(const struct world *world)
{
    return world->steps;
}

/* ---- events */

/* Never called: for events the heap is only an order. */
static void event_in_heap(struct env_timer *timer)
{
    (void)timer;
    assert(0);
}

void world_schedule(struct world *world, struct world_event *event, int node, uint64_t delay_ns, world_event_cb cb)
{
    assert(cb && delay_ns < UINT64_MAX / 4);
    assert(node == WORLD_NOBODY || node_of(world, node));
    world_cancel(world, event);
    event->cb = cb;
    event->node = node;
    timer_heap_arm(&world->events, &event->timer, world->now_ns + delay_ns, event_in_heap);
}

void world_cancel(struct world *world, struct world_event *event)
{
    if (list_linked(&event->held))
        list_remove(&event->held);
    timer_heap_disarm(&world->events, &event->timer);
    assert(!world_scheduled(event));
}

bool world_scheduled(const struct world_event *event)
{
    return event->timer.armed || list_linked(&event->held);
}

/* ---- nodes */

int world_node_add(struct world *world)
{
    assert(world->node_count < WORLD_NODES_MAX);
    int index = world->node_count++;
    struct world_node *node = &world->nodes[index];
    node->up = node->powered = true;
    node->life = 1;
    node->base_world_ns = world->now_ns;
    node->base_local_ns = world_random_below(world, (uint64_t)1 << 50); /* no two machines booted together */
    list_head_init(&node->held);
    return index;
}

void world_node_crash(struct world *world, int index, enum world_crash kind)
{
    struct world_node *node = node_of(world, index);
    assert(node->up);
    world_trace(world, TRACE_CRASH, (uint64_t)index, kind);
    world_node_pause(world, index, false);
    node->up = false;
    node->powered = kind != WORLD_CRASH_POWER;
    list_for_each(pos, &world->envs)
    {
        struct world_env *self = list_entry(pos, struct world_env, node);
        if (self->node_index == index)
            env_kill(self);
    }
    list_for_each_safe(pos, next, &world->watchers)
    {
        struct world_watcher *watcher = list_entry(pos, struct world_watcher, node);
        if (watcher->crashed)
            watcher->crashed(watcher, index, kind);
    }
}

void world_node_start(struct world *world, int index)
{
    struct world_node *node = node_of(world, index);
    assert(!node->up);
    world_trace(world, TRACE_START, (uint64_t)index, node->life);
    node->up = node->powered = true;
    node->life++;
    list_for_each_safe(pos, next, &world->watchers)
    {
        struct world_watcher *watcher = list_entry(pos, struct world_watcher, node);
        if (watcher->started)
            watcher->started(watcher, index);
    }
}

void world_node_pause(struct world *world, int index, bool paused)
{
    struct world_node *node = node_of(world, index);
    node->paused = paused;
    while (!paused && !list_empty(&node->held)) {
        struct world_event *event = list_entry(node->held.next, struct world_event, held);
        assert(event->node == index);
        world_schedule(world, event, index, 0, event->cb);
    }
}

void world_node_clock(struct world *world, int index, int64_t jump_ns, int32_t drift_ppm)
{
    struct world_node *node = node_of(world, index);
    assert(jump_ns >= 0 && abs(drift_ppm) <= WORLD_DRIFT_PPM_MAX);
    node->base_local_ns = local_ns(world, node) + (uint64_t)jump_ns;
    node->base_world_ns = world->now_ns;
    node->drift_ppm = drift_ppm;
}

bool world_node_up(const struct world *world, int node)
{
    return node_of_const(world, node)->up;
}

bool world_node_powered(const struct world *world, int node)
{
    return node_of_const(world, node)->powered;
}

bool world_node_paused(const struct world *world, int node)
{
    return node_of_const(world, node)->paused;
}

uint32_t world_node_life(const struct world *world, int node)
{
    return node_of_const(world, node)->life;
}

int world_running_node(const struct world *world)
{
    return world->running;
}

void world_watch(struct world *world, struct world_watcher *watcher)
{
    assert(watcher->crashed || watcher->started);
    list_push_back(&world->watchers, &watcher->node);
}

void world_unwatch(struct world *world, struct world_watcher *watcher)
{
    assert(!list_empty(&world->watchers));
    list_remove(&watcher->node);
}

/* ---- steps */

static bool env_runs(struct world *world, const struct world_env *self)
{
    return !self->dead && !node_of(world, self->node_index)->paused;
}

static bool step_task(struct world *world)
{
    list_for_each(pos, &world->envs)
    {
        struct world_env *self = list_entry(pos, struct world_env, node);
        struct env_task *task = self->task_head;
        if (!task || !env_runs(world, self))
            continue;
        assert(task->queued);
        self->task_head = task->next;
        if (!self->task_head)
            self->task_tail = NULL;
        task->queued = false;
        task->next = NULL;
        world_trace(world, TRACE_TASK, self->id, 0);
        world->running = self->node_index;
        task->cb(task);
        world->running = WORLD_NOBODY;
        return true;
    }
    return false;
}

/* The env whose timer is due first, and when; NULL when no timer is armed. */
static struct world_env *earliest_timer(struct world *world, uint64_t *ret_time_ns)
{
    struct world_env *best = NULL;
    list_for_each(pos, &world->envs)
    {
        struct world_env *self = list_entry(pos, struct world_env, node);
        uint64_t next_ns = timer_heap_next_ns(&self->timers);
        if (next_ns == UINT64_MAX || !env_runs(world, self))
            continue;
        uint64_t time_ns = world_time_of(node_of(world, self->node_index), next_ns);
        if (!best || time_ns < *ret_time_ns) {
            best = self;
            *ret_time_ns = time_ns;
        }
    }
    return best;
}

static void step_event(struct world *world)
{
    struct env_timer *timer = timer_heap_pop(&world->events, world->now_ns);
    assert(timer);
    struct world_event *event = list_entry(timer, struct world_event, timer);
    if (event->node != WORLD_NOBODY && node_of(world, event->node)->paused) {
        list_push_back(&node_of(world, event->node)->held, &event->held);
        return;
    }
    world_trace(world, TRACE_EVENT, (uint64_t)(int64_t)event->node, 0);
    world->running = event->node;
    event->cb(event);
    world->running = WORLD_NOBODY;
}

/* One step that does not go beyond limit_ns; false when there is none. */
static bool step_within(struct world *world, uint64_t limit_ns)
{
    if (step_task(world)) {
        world->steps++;
        return true;
    }
    uint64_t timer_ns = UINT64_MAX, event_ns = timer_heap_next_ns(&world->events);
    struct world_env *self = earliest_timer(world, &timer_ns);
    uint64_t next_ns = event_ns <= timer_ns ? event_ns : timer_ns;
    if (next_ns == UINT64_MAX || next_ns > limit_ns)
        return false;
    world->steps++;
    if (next_ns > world->now_ns)
        world->now_ns = next_ns;
    if (event_ns <= timer_ns) {
        step_event(world);
        return true;
    }
    struct env_timer *timer = timer_heap_pop(&self->timers, world_env_now_ns(&self->env));
    assert(timer);
    world_trace(world, TRACE_TIMER, self->id, 0);
    world->running = self->node_index;
    timer->cb(timer);
    world->running = WORLD_NOBODY;
    return true;
}

bool world_step(struct world *world)
{
    return step_within(world, UINT64_MAX);
}

void world_run(struct world *world, uint64_t duration_ns)
{
    uint64_t end_ns = world->now_ns + duration_ns;
    while (step_within(world, end_ns))
        ;
    assert(world->now_ns <= end_ns);
    world->now_ns = end_ns;
}

bool world_run_until(struct world *world, bool (*done)(void *arg), void *arg, uint64_t limit_ns)
{
    uint64_t end_ns = world->now_ns + limit_ns;
    assert(done);
    while (!done(arg))
        if (!step_within(world, end_ns))
            return done(arg);
    return true;
}
