/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Binary min-heap of timers, ordered by (deadline, arming order).
 *
 * - arm puts the timer at the end and lets it rise; each timer knows its slot
 * - disarm and pop move the last timer into the hole and let it find its place
 *
 * Out of memory aborts: a timer that silently never fires would be worse.
 */
#include "common/timer_heap.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CAPACITY_FIRST = 64 };

static bool is_before(const struct env_timer *a, const struct env_timer *b)
{
    if (a->deadline_ns != b->deadline_ns)
        return a->deadline_ns < b->deadline_ns;
    assert(a->seq != b->seq || a == b);
    return a->seq < b->seq;
}

static void place(struct timer_heap *heap, struct env_timer *timer, uint32_t index)
{
    assert(timer != NULL);
    assert(index < heap->count);
    heap->slots[index] = timer;
    timer->heap_index = index;
}

static void sift_up(struct timer_heap *heap, struct env_timer *timer, uint32_t index)
{
    assert(timer != NULL);
    assert(heap != NULL);
    while (index > 0) {
        uint32_t parent = (index - 1) / 2;
        if (!is_before(timer, heap->slots[parent]))
            break;
        place(heap, heap->slots[parent], index);
        index = parent;
    }
    place(heap, timer, index);
}

static void sift_down(struct timer_heap *heap, struct env_timer *timer, uint32_t index)
{
    assert(timer != NULL);
    assert(heap != NULL);
    for (;;) {
        uint32_t child = 2 * index + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count && is_before(heap->slots[child + 1], heap->slots[child]))
            child++;
        if (!is_before(heap->slots[child], timer))
            break;
        place(heap, heap->slots[child], index);
        index = child;
    }
    place(heap, timer, index);
}

static void grow(struct timer_heap *heap)
{
    assert(heap->count == heap->capacity);
    assert(heap->capacity < TIMER_HEAP_MAX);
    uint32_t capacity = heap->capacity > 0 ? heap->capacity * 2 : (uint32_t)CAPACITY_FIRST;
    struct env_timer **slots = realloc(heap->slots, capacity * sizeof(struct env_timer *));
    if (slots == NULL) {
        fputs("timer_heap: out of memory\n", stderr);
        abort();
    }
    heap->slots = slots;
    heap->capacity = capacity;
}

void timer_heap_init(struct timer_heap *heap)
{
    assert(heap != NULL);
    *heap = (struct timer_heap){.slots = NULL};
}

void timer_heap_close(struct timer_heap *heap)
{
    assert(heap != NULL);
    assert(heap->count <= heap->capacity);
    for (uint32_t i = 0; i < heap->count; i++)
        heap->slots[i]->armed = false;
    free(heap->slots);
    *heap = (struct timer_heap){.slots = NULL};
}

void timer_heap_arm(struct timer_heap *heap, struct env_timer *timer, uint64_t deadline_ns, env_timer_cb cb)
{
    assert(heap != NULL);
    assert(timer != NULL);
    assert(cb != NULL);
    timer_heap_disarm(heap, timer);
    if (heap->count == heap->capacity)
        grow(heap);
    timer->cb = cb;
    timer->deadline_ns = deadline_ns;
    timer->seq = heap->seq++;
    timer->armed = true;
    heap->count++;
    sift_up(heap, timer, heap->count - 1);
}

void timer_heap_disarm(struct timer_heap *heap, struct env_timer *timer)
{
    assert(heap != NULL);
    assert(timer != NULL);
    if (!timer->armed)
        return;
    uint32_t hole = timer->heap_index;
    assert(hole < heap->count);
    assert(heap->slots[hole] == timer);
    struct env_timer *last = heap->slots[--heap->count];
    timer->armed = false;
    if (last == timer)
        return;
    if (hole > 0 && is_before(last, heap->slots[(hole - 1) / 2]))
        sift_up(heap, last, hole);
    else
        sift_down(heap, last, hole);
}

struct env_timer *timer_heap_pop(struct timer_heap *heap, uint64_t now_ns)
{
    assert(heap != NULL);
    if (heap->count == 0 || heap->slots[0]->deadline_ns > now_ns)
        return NULL;
    struct env_timer *timer = heap->slots[0];
    timer_heap_disarm(heap, timer);
    assert(!timer->armed);
    return timer;
}

uint64_t timer_heap_next_ns(const struct timer_heap *heap)
{
    assert(heap != NULL);
    return heap->count > 0 ? heap->slots[0]->deadline_ns : UINT64_MAX;
}
