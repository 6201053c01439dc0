/* SPDX-License-Identifier: Apache-2.0 */
/* timer_heap: binary heap of env_timers, shared by every implementation of env (ring, libuv, simulator).
 * Equal deadlines fire in arming order. Threading: the owner's loop. Errors: arming may abort on out of memory
 * above TIMER_HEAP_MAX. Ownership: timers are the callers'; the heap holds pointers while they are armed. */
#ifndef ASHLAR_COMMON_TIMER_HEAP_H
#define ASHLAR_COMMON_TIMER_HEAP_H

#include "common/env.h"

#define TIMER_HEAP_MAX (1u << 20)

struct timer_heap {
    struct env_timer **slots;
    uint32_t count, capacity;
    uint64_t seq;
};

void timer_heap_init(struct timer_heap *heap);
void timer_heap_close(struct timer_heap *heap);
void timer_heap_arm(struct timer_heap *heap, struct env_timer *timer, uint64_t deadline_ns, env_timer_cb cb);
void timer_heap_disarm(struct timer_heap *heap, struct env_timer *timer);
/* The earliest timer due at now_ns, disarmed, or NULL. */
struct env_timer *timer_heap_pop(struct timer_heap *heap, uint64_t now_ns);
/* Deadline of the earliest, UINT64_MAX when empty. */
uint64_t timer_heap_next_ns(const struct timer_heap *heap);

#endif
