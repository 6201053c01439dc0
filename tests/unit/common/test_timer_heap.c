/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/timer_heap. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>

#include "common/timer_heap.h"

enum { COUNT = 300 };

static void never_called(struct env_timer *timer)
{
    (void)timer;
    fail();
}

static void other_cb(struct env_timer *timer)
{
    (void)timer;
}

static void empty_has_no_deadline(void **state)
{
    (void)state;
    struct timer_heap heap;
    timer_heap_init(&heap);
    assert_int_equal(timer_heap_next_ns(&heap), UINT64_MAX);
    assert_null(timer_heap_pop(&heap, UINT64_MAX));
    timer_heap_close(&heap);
}

static void pop_waits_for_the_deadline(void **state)
{
    (void)state;
    struct timer_heap heap;
    struct env_timer timer = {.armed = false};
    timer_heap_init(&heap);
    timer_heap_arm(&heap, &timer, 100, never_called);
    assert_true(timer.armed);
    assert_int_equal(timer_heap_next_ns(&heap), 100);
    assert_null(timer_heap_pop(&heap, 99));
    assert_ptr_equal(timer_heap_pop(&heap, 100), &timer);
    assert_false(timer.armed);
    assert_null(timer_heap_pop(&heap, UINT64_MAX));
    timer_heap_close(&heap);
}

static void equal_deadlines_fire_in_arming_order(void **state)
{
    (void)state;
    struct timer_heap heap;
    struct env_timer timers[COUNT] = {0};
    timer_heap_init(&heap);
    for (int i = 0; i < COUNT; i++)
        timer_heap_arm(&heap, &timers[i], 5, never_called);
    timer_heap_arm(&heap, &timers[0], 5, never_called); /* armed again: last in line */
    for (int i = 1; i < COUNT; i++)
        assert_ptr_equal(timer_heap_pop(&heap, 5), &timers[i]);
    assert_ptr_equal(timer_heap_pop(&heap, 5), &timers[0]);
    timer_heap_close(&heap);
}

static void rearming_moves_and_disarming_is_idempotent(void **state)
{
    (void)state;
    struct timer_heap heap;
    struct env_timer a = {.armed = false};
    struct env_timer b = {.armed = false};
    timer_heap_init(&heap);
    timer_heap_disarm(&heap, &a);
    timer_heap_arm(&heap, &a, 10, never_called);
    timer_heap_arm(&heap, &b, 20, never_called);
    timer_heap_arm(&heap, &a, 30, other_cb);
    assert_ptr_equal(a.cb, other_cb);
    assert_int_equal(timer_heap_next_ns(&heap), 20);
    timer_heap_disarm(&heap, &b);
    timer_heap_disarm(&heap, &b);
    assert_int_equal(timer_heap_next_ns(&heap), 30);
    timer_heap_close(&heap);
    assert_false(a.armed);
}

/* A seeded storm of arms, moves, disarms and pops, each pop checked against the least of all armed timers. */
static void storm_pops_the_least(void **state)
{
    (void)state;
    struct timer_heap heap;
    struct env_timer timers[COUNT] = {0};
    uint64_t x = 3;
    uint32_t pops = 0;
    timer_heap_init(&heap);
    for (int step = 0; step < 30000; step++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        struct env_timer *timer = &timers[(x >> 40) % COUNT];
        unsigned what = (unsigned)(x >> 60);
        if (what < 8) {
            timer_heap_arm(&heap, timer, (x >> 30) % 64, never_called);
        } else if (what < 12) {
            timer_heap_disarm(&heap, timer);
            assert_false(timer->armed);
        } else {
            struct env_timer *least = NULL;
            uint32_t armed = 0;
            for (int i = 0; i < COUNT; i++) {
                if (!timers[i].armed)
                    continue;
                armed++;
                if (least == NULL || timers[i].deadline_ns < least->deadline_ns ||
                    (timers[i].deadline_ns == least->deadline_ns && timers[i].seq < least->seq))
                    least = &timers[i];
            }
            assert_int_equal(heap.count, armed);
            assert_ptr_equal(timer_heap_pop(&heap, UINT64_MAX), least);
            pops += least != NULL;
        }
    }
    assert_true(pops > 1000);
    timer_heap_close(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_has_no_deadline),
        cmocka_unit_test(pop_waits_for_the_deadline),
        cmocka_unit_test(equal_deadlines_fire_in_arming_order),
        cmocka_unit_test(rearming_moves_and_disarming_is_idempotent),
        cmocka_unit_test(storm_pops_the_least),
    };
    return cmocka_run_group_tests_name("timer_heap", tests, NULL, NULL);
}
