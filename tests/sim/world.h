/* SPDX-License-Identifier: Apache-2.0 */
/* world: virtual time, nodes and randomness of a simulation: one seed, one trace.
 *
 * Concept: a heap of events ordered by (time, sequence), and per node any number of envs (event loops) whose timers
 *   run on the node's own clock (offset, drift). A step runs one task, one event or one timer; time jumps to it.
 *   Crashing a node makes its envs deaf for good; pausing it holds whatever would have run there.
 * Threading: one thread. Errors: none; misuse asserts.
 * Ownership: events and watchers are embedded by the caller and cancelled before they are freed. Envs live until
 *   world_destroy, so that a dead node's modules may still be taken apart.
 */
#ifndef ASHLAR_TESTS_SIM_WORLD_H
#define ASHLAR_TESTS_SIM_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "common/env.h"
#include "common/list.h"

#define WORLD_NODES_MAX 64
#define WORLD_NOBODY (-1) /* the node of an event that belongs to none */

struct world;
struct world_event;
typedef void (*world_event_cb)(struct world_event *event);

/* Zero-initialise before first use. */
struct world_event {
    struct env_timer timer; /* private: place in the heap */
    struct list_node held;  /* private: waits for a paused node */
    world_event_cb cb;
    int node;
};

enum world_crash {
    WORLD_CRASH_PROCESS, /* the kernel lives on: peers see resets, connects are refused */
    WORLD_CRASH_POWER,   /* silence, and volatile caches are lost */
};

/* Told about a node's crashes and starts: simulated drives, networks. */
struct world_watcher {
    void (*crashed)(struct world_watcher *watcher, int node, enum world_crash kind);
    void (*started)(struct world_watcher *watcher, int node);
    struct list_node node; /* private */
};

struct world *world_create(uint64_t seed);
void world_destroy(struct world *world); /* accepts NULL */
uint64_t world_now_ns(const struct world *world);
uint64_t world_random(struct world *world);
uint64_t world_random_below(struct world *world, uint64_t bound);
/* True with a probability of permille / 1000. */
bool world_chance(struct world *world, uint32_t permille);

/* Every step is part of the trace; modules add what they did. Two runs of one seed have one hash. */
void world_trace(struct world *world, uint64_t what, uint64_t a, uint64_t b);
uint64_t world_trace_hash(const struct world *world);
uint64_t world_steps(const struct world *world);

/* The event runs at that node (not while it is paused), or at WORLD_NOBODY. Scheduling a scheduled one moves it. */
void world_schedule(struct world *world, struct world_event *event, int node, uint64_t delay_ns, world_event_cb cb);
void world_cancel(struct world *world, struct world_event *event); /* no-op when not scheduled */
bool world_scheduled(const struct world_event *event);

int world_node_add(struct world *world);                     /* up; 0, 1, 2, ... */
struct env *world_env_create(struct world *world, int node); /* an event loop of this life of the node */
void world_node_crash(struct world *world, int node, enum world_crash kind);
void world_node_start(struct world *world, int node); /* after a crash; make new envs */
void world_node_pause(struct world *world, int node, bool paused);
void world_node_clock(struct world *world, int node, int64_t jump_ns, int32_t drift_ppm); /* jump_ns >= 0 */
bool world_node_up(const struct world *world, int node);
bool world_node_powered(const struct world *world, int node); /* false after a power crash until started */
bool world_node_paused(const struct world *world, int node);
uint32_t world_node_life(const struct world *world, int node); /* 1, 2, ...: starts so far */
int world_running_node(const struct world *world);             /* whose code runs now; WORLD_NOBODY between steps */
void world_watch(struct world *world, struct world_watcher *watcher);
void world_unwatch(struct world *world, struct world_watcher *watcher);

bool world_step(struct world *world);                      /* false: nothing left to happen */
void world_run(struct world *world, uint64_t duration_ns); /* time is then exactly that much later */
/* Runs until done(arg) or the limit; true when done. */
bool world_run_until(struct world *world, bool (*done)(void *arg), void *arg, uint64_t limit_ns);

#endif
