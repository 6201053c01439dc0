/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/buf: the buffer pool. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/buf.h"

enum { MIB = 1 << 20 };

static uint64_t used_bytes(const struct buf_pool *pool)
{
    struct buf_pool_stats stats;
    buf_pool_stats(pool, &stats);
    assert_in_range(stats.used_bytes, 0, stats.limit_bytes);
    assert_in_range(stats.used_bytes, 0, stats.used_bytes_max);
    return stats.used_bytes;
}

/* Each size gets the smallest class that holds it, aligned, inside the region. */
static void sizes_map_to_classes(void **state)
{
    (void)state;
    static const struct {
        uint32_t bytes, capacity;
    } cases[] = {
        {1, 4096},      {4096, 4096},    {4097, 16384},    {16384, 16384}, {16385, 65536},
        {65536, 65536}, {65537, 262144}, {262144, 262144}, {262145, MIB},  {MIB, MIB},
    };
    struct buf_pool *pool = buf_pool_create(16 * MIB);
    assert_non_null(pool);
    void *base;
    size_t bytes;
    buf_pool_region(pool, &base, &bytes);
    assert_int_equal(bytes, 16 * MIB);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buf *buf = buf_alloc(pool, cases[i].bytes);
        assert_non_null(buf);
        assert_int_equal(buf->capacity, cases[i].capacity);
        assert_int_equal(buf->refs, 1);
        assert_int_equal((uintptr_t)buf->data % BUF_ALIGN, 0);
        assert_true(buf->data >= (uint8_t *)base);
        assert_true(buf->data + buf->capacity <= (uint8_t *)base + bytes);
        memset(buf->data, 0xa5, buf->capacity);
        assert_int_equal(used_bytes(pool), cases[i].capacity);
        buf_unref(buf);
        assert_int_equal(used_bytes(pool), 0);
    }
    buf_pool_destroy(pool);
}

/* Fills the pool with each class in turn: all of the limit can be had, every byte once, then NULL. */
static void exhaustion_is_null_and_recovers(void **state)
{
    (void)state;
    enum { LIMIT = 4 * MIB, COUNT_MAX = LIMIT / 4096 };
    struct buf **bufs = calloc(COUNT_MAX, sizeof(struct buf *));
    assert_non_null(bufs);
    struct buf_pool *pool = buf_pool_create(LIMIT);
    assert_non_null(pool);
    uint64_t exhausted = 0;
    for (uint32_t class_bytes = 4096; class_bytes <= MIB; class_bytes *= 4) {
        size_t count = LIMIT / class_bytes;
        for (size_t i = 0; i < count; i++) {
            bufs[i] = buf_alloc(pool, class_bytes);
            assert_non_null(bufs[i]);
            memset(bufs[i]->data, (int)i & 0xff, class_bytes);
        }
        assert_int_equal(used_bytes(pool), LIMIT);
        assert_null(buf_alloc(pool, class_bytes));
        assert_null(buf_alloc(pool, 1));
        exhausted += 2;
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(bufs[i]->data[0], i & 0xff);
            assert_int_equal(bufs[i]->data[class_bytes - 1], i & 0xff);
            buf_unref(bufs[i]);
        }
        struct buf_pool_stats stats;
        buf_pool_stats(pool, &stats);
        assert_int_equal(stats.used_bytes, 0);
        assert_int_equal(stats.used_bytes_max, LIMIT);
        assert_int_equal(stats.limit_bytes, LIMIT);
        assert_int_equal(stats.exhausted_count, exhausted);
    }
    buf_pool_destroy(pool);
    free(bufs);
}

/* One 4 KiB buffer pins its slab for that class; a larger class with room serves a smaller request. */
static void larger_class_helps_out(void **state)
{
    (void)state;
    struct buf_pool *pool = buf_pool_create(MIB);
    assert_non_null(pool);
    struct buf *large = buf_alloc(pool, 65536);
    assert_non_null(large);
    struct buf *small = buf_alloc(pool, 4096);
    assert_non_null(small);
    assert_int_equal(small->capacity, 65536);
    assert_true(small->data != large->data);
    assert_null(buf_alloc(pool, 65537));
    buf_unref(large);
    assert_null(buf_alloc(pool, MIB));
    buf_unref(small);
    large = buf_alloc(pool, MIB);
    assert_non_null(large);
    buf_unref(large);
    buf_pool_destroy(pool);
}

/* The last one freed is the next one given: warm in the cache, and no memory is touched that need not be. */
static void freed_buffer_is_reused_first(void **state)
{
    (void)state;
    struct buf_pool *pool = buf_pool_create(64 * MIB);
    assert_non_null(pool);
    struct buf *buf = buf_alloc(pool, 4096);
    assert_non_null(buf);
    uint8_t *data = buf->data;
    buf_unref(buf);
    for (int i = 0; i < 1000; i++) {
        uint32_t bytes = 4096u << (2 * (i % 5));
        buf = buf_alloc(pool, bytes);
        assert_non_null(buf);
        assert_ptr_equal(buf->data, data);
        buf_unref(buf);
    }
    buf_pool_destroy(pool);
}

/* A seeded storm against a model: no two live buffers overlap, contents stay, the books balance. */
static void storm_keeps_buffers_apart(void **state)
{
    (void)state;
    enum { SLOTS = 200 };
    struct buf *live[SLOTS] = {NULL};
    struct buf_pool *pool = buf_pool_create(8 * MIB);
    assert_non_null(pool);
    uint64_t x = 42;
    uint64_t expected = 0;
    uint32_t failed = 0;
    for (int step = 0; step < 50000; step++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        size_t slot = (size_t)(x >> 33) % SLOTS;
        if (live[slot] != NULL) {
            struct buf *buf = live[slot];
            assert_int_equal(buf->data[0], slot);
            assert_int_equal(buf->data[buf->capacity - 1], slot);
            expected -= buf->capacity;
            buf_unref(buf);
            live[slot] = NULL;
            continue;
        }
        uint32_t bytes = 4096u << (2 * ((x >> 20) % 5));
        live[slot] = buf_alloc(pool, bytes);
        if (live[slot] == NULL) {
            failed++;
            continue;
        }
        assert_in_range(live[slot]->capacity, bytes, MIB);
        live[slot]->data[0] = (uint8_t)slot;
        live[slot]->data[live[slot]->capacity - 1] = (uint8_t)slot;
        expected += live[slot]->capacity;
        assert_int_equal(used_bytes(pool), expected);
    }
    assert_true(failed > 0);
    for (size_t slot = 0; slot < SLOTS; slot++)
        buf_unref(live[slot]);
    assert_int_equal(used_bytes(pool), 0);
    buf_pool_destroy(pool);
}

static void last_reference_frees(void **state)
{
    (void)state;
    struct buf_pool *pool = buf_pool_create(MIB);
    assert_non_null(pool);
    struct buf *buf = buf_alloc(pool, MIB);
    assert_non_null(buf);
    assert_ptr_equal(buf_ref(buf), buf);
    buf_unref(buf);
    assert_int_equal(used_bytes(pool), MIB);
    assert_null(buf_alloc(pool, 1));
    buf_unref(buf);
    assert_int_equal(used_bytes(pool), 0);
    buf_unref(NULL);
    buf_pool_destroy(pool);
    buf_pool_destroy(NULL);
}

static int released;

static void count_release(struct buf *self)
{
    assert_int_equal(self->refs, 0);
    assert_ptr_equal(self->owner, &released);
    released++;
}

static void wrapped_buffer_calls_its_release_once(void **state)
{
    (void)state;
    uint8_t memory[10];
    struct buf buf;
    released = 0;
    buf_wrap(&buf, memory, sizeof(memory), count_release, &released);
    assert_ptr_equal(buf.data, memory);
    assert_int_equal(buf.capacity, sizeof(memory));
    (void)buf_ref(&buf);
    buf_unref(&buf);
    assert_int_equal(released, 0);
    buf_unref(&buf);
    assert_int_equal(released, 1);
}

struct test_waiter {
    struct buf_waiter waiter; /* first */
    struct buf_pool *pool;
    int *order;
    int order_index; /* when it was called, from 1 */
    struct buf *got;
    int again; /* how often it waits again */
};

static void waiter_called(struct buf_waiter *waiter)
{
    struct test_waiter *self = (struct test_waiter *)waiter;
    assert_false(waiter->queued);
    self->order_index = ++*self->order;
    if (self->again > 0) {
        self->again--;
        buf_pool_wait(self->pool, waiter);
        return;
    }
    self->got = buf_alloc(self->pool, MIB);
}

static void init_waiters(struct test_waiter *waiters, size_t count, struct buf_pool *pool, int *order)
{
    *order = 0;
    for (size_t i = 0; i < count; i++)
        waiters[i] = (struct test_waiter){.waiter.cb = waiter_called, .pool = pool, .order = order};
}

/* One freed buffer calls one waiter, in order of arrival; nobody is called before. */
static void waiters_are_called_in_order(void **state)
{
    (void)state;
    struct buf_pool *pool = buf_pool_create(MIB);
    assert_non_null(pool);
    struct test_waiter waiters[3];
    int order;
    init_waiters(waiters, 3, pool, &order);
    struct buf *buf = buf_alloc(pool, MIB);
    assert_non_null(buf);
    for (int i = 0; i < 3; i++) {
        buf_pool_wait(pool, &waiters[i].waiter);
        buf_pool_wait(pool, &waiters[i].waiter); /* already queued: nothing happens */
        assert_true(waiters[i].waiter.queued);
    }
    assert_int_equal(order, 0);
    for (int i = 0; i < 3; i++) {
        buf_unref(buf);
        assert_int_equal(order, i + 1);
        assert_int_equal(waiters[i].order_index, i + 1);
        buf = waiters[i].got;
        assert_non_null(buf);
    }
    buf_unref(buf);
    assert_int_equal(order, 3);
    buf_pool_destroy(pool);
}

static void cancelled_waiter_is_not_called(void **state)
{
    (void)state;
    for (int cancelled = 0; cancelled < 3; cancelled++) {
        struct buf_pool *pool = buf_pool_create(MIB);
        assert_non_null(pool);
        struct test_waiter waiters[3];
        int order;
        init_waiters(waiters, 3, pool, &order);
        struct buf *buf = buf_alloc(pool, MIB);
        for (int i = 0; i < 3; i++)
            buf_pool_wait(pool, &waiters[i].waiter);
        buf_pool_wait_cancel(pool, &waiters[cancelled].waiter);
        buf_pool_wait_cancel(pool, &waiters[cancelled].waiter);
        assert_false(waiters[cancelled].waiter.queued);
        buf_unref(buf);
        buf_unref(waiters[cancelled == 0 ? 1 : 0].got);
        buf_unref(waiters[cancelled == 2 ? 1 : 2].got);
        assert_int_equal(order, 2);
        assert_int_equal(waiters[cancelled].order_index, 0);
        buf_pool_destroy(pool);
    }
}

/* A waiter that finds too little waits again at the end of the queue, and is not called in the same breath. */
static void waiter_may_wait_again(void **state)
{
    (void)state;
    struct buf_pool *pool = buf_pool_create(MIB);
    assert_non_null(pool);
    struct test_waiter waiters[2];
    int order;
    init_waiters(waiters, 2, pool, &order);
    waiters[0].again = 1;
    struct buf *buf = buf_alloc(pool, 262144);
    struct buf *other = buf_alloc(pool, 262144);
    buf_pool_wait(pool, &waiters[0].waiter);
    buf_unref(buf);
    assert_int_equal(order, 1);
    assert_true(waiters[0].waiter.queued);
    assert_null(waiters[0].got);
    buf_unref(other);
    assert_int_equal(order, 2);
    assert_non_null(waiters[0].got);
    buf_unref(waiters[0].got);
    buf_pool_destroy(pool);
}

static void waiter_frees_at_once(struct buf_waiter *waiter)
{
    struct test_waiter *self = (struct test_waiter *)waiter;
    self->order_index = ++*self->order;
    struct buf *buf = buf_alloc(self->pool, MIB);
    assert_non_null(buf);
    buf_unref(buf);
    assert_int_equal(*self->order, self->order_index); /* the next one is not called from inside this one */
}

/* Ten thousand waiters that each free at once: all are served without recursion. */
static void freeing_in_a_waiter_does_not_recurse(void **state)
{
    (void)state;
    enum { COUNT = 10000 };
    struct buf_pool *pool = buf_pool_create(MIB);
    struct test_waiter *waiters = calloc(COUNT, sizeof(*waiters));
    assert_non_null(pool);
    assert_non_null(waiters);
    int order;
    init_waiters(waiters, COUNT, pool, &order);
    struct buf *buf = buf_alloc(pool, MIB);
    for (int i = 0; i < COUNT; i++) {
        waiters[i].waiter.cb = waiter_frees_at_once;
        buf_pool_wait(pool, &waiters[i].waiter);
    }
    buf_unref(buf);
    assert_int_equal(order, COUNT);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(waiters[i].order_index, i + 1);
    free(waiters);
    buf_pool_destroy(pool);
}

/* Address space costs no memory, more than the address space is NULL. */
static void impossible_limit_is_null(void **state)
{
    (void)state;
    struct buf_pool *pool = buf_pool_create((size_t)4 << 30);
    assert_non_null(pool);
    struct buf *buf = buf_alloc(pool, 4096);
    assert_non_null(buf);
    buf->data[0] = 1;
    buf_unref(buf);
    buf_pool_destroy(pool);
    assert_null(buf_pool_create((size_t)1 << 48));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_map_to_classes),
        cmocka_unit_test(exhaustion_is_null_and_recovers),
        cmocka_unit_test(larger_class_helps_out),
        cmocka_unit_test(freed_buffer_is_reused_first),
        cmocka_unit_test(storm_keeps_buffers_apart),
        cmocka_unit_test(last_reference_frees),
        cmocka_unit_test(wrapped_buffer_calls_its_release_once),
        cmocka_unit_test(waiters_are_called_in_order),
        cmocka_unit_test(cancelled_waiter_is_not_called),
        cmocka_unit_test(waiter_may_wait_again),
        cmocka_unit_test(freeing_in_a_waiter_does_not_recurse),
        cmocka_unit_test(impossible_limit_is_null),
    };
    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
