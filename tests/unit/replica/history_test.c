/* SPDX-License-Identifier: Apache-2.0 */
/* history: the simulator's judge is judged: what it must accept, and what it must not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/history.h"

static struct history *h;

static int setup(void **state)
{
    (void)state;
    h = history_create(16, "test");
    return h ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    history_destroy(h);
    return 0;
}

static void written(uint64_t stamp, uint64_t start, uint64_t acked)
{
    history_write_acked(h, 3, history_write_begin(h, 3, stamp, start), start, acked);
}

/* The newest acknowledged value, or a concurrent one; never an overwritten one. */
static void test_reads(void **state)
{
    (void)state;
    assert_true(history_read(h, 3, HISTORY_ZERO, 1, 2));
    written(7, 10, 20);
    assert_true(history_read(h, 3, 7, 30, 40));
    assert_false(history_read(h, 3, HISTORY_ZERO, 30, 40));
    uint64_t id = history_write_begin(h, 3, 8, 50);
    assert_true(history_read(h, 3, 7, 51, 52));
    assert_true(history_read(h, 3, 8, 53, 54));
    assert_false(history_read(h, 3, 7, 55, 56)); /* 8 was seen: 7 does not come back */
    history_write_acked(h, 3, id, 50, 60);
    assert_false(history_read(h, 3, 9, 70, 71)); /* nobody wrote it */
    assert_false(history_read(h, 3, HISTORY_FOREIGN, 70, 71));
    assert_int_equal(history_violations(h), 4);
}

/* A read that began before the newer write was acknowledged may still return the older one, also after a flush. */
static void test_long_read(void **state)
{
    (void)state;
    written(7, 10, 20);
    written(8, 30, 40);
    history_flushed(h, 50, 35, 60);
    assert_true(history_read(h, 3, 7, 35, 70));
    assert_false(history_read(h, 3, 7, 45, 70));
}

/* Power loss gives back what no flush had covered, and nothing else. */
static void test_loss(void **state)
{
    (void)state;
    written(7, 10, 20);
    history_flushed(h, 25, UINT64_MAX, 28);
    written(8, 30, 40);
    assert_true(history_lost(h, 0, 16, 29));
    assert_true(history_read(h, 3, 7, 60, 61));
    assert_false(history_read(h, 3, HISTORY_ZERO, 62, 63));
    assert_false(history_read(h, 3, 8, 64, 65)); /* 7 was seen after the loss */
}

/* What an earlier client wrote is lost, too, but nobody needs to be told. */
static void test_loss_before_this_client(void **state)
{
    (void)state;
    written(8, 30, 40);
    assert_false(history_lost(h, 0, 16, 35)); /* though it was answered after the later client began */
    assert_true(history_read(h, 3, HISTORY_ZERO, 60, 61));
}

/* A flush over a lost write makes nothing of it durable; a durable write stays. */
static void test_flush_after_loss(void **state)
{
    (void)state;
    written(7, 10, 20);
    history_flushed(h, 25, UINT64_MAX, 28);
    written(8, 30, 40);
    (void)history_lost(h, 0, 16, 0);
    history_flushed(h, 55, UINT64_MAX, 56);
    assert_true(history_read(h, 3, 7, 60, 61));
    uint64_t id = history_write_begin(h, 3, 9, 70);
    history_write_acked(h, 3, id, 70, 80);
    history_write_durable(h, 3, id);
    assert_false(history_lost(h, 0, 16, 0));
    assert_false(history_read(h, 3, 7, 100, 101));
    assert_true(history_read(h, 3, 9, 100, 101));
}

/* A refused write had no effect. */
static void test_refused(void **state)
{
    (void)state;
    uint64_t id = history_write_begin(h, 3, 7, 10);
    history_write_refused(h, 3, id);
    assert_false(history_read(h, 3, 7, 20, 21));
    assert_true(history_read(h, 3, HISTORY_ZERO, 20, 21));
}

/* Stamps survive; a torn cell is nobody's. */
static void test_stamps(void **state)
{
    uint8_t cell[HISTORY_CELL];
    (void)state;
    history_fill(cell, 0x123456789abull);
    assert_int_equal(history_stamp_of(cell), 0x123456789abull);
    cell[300] ^= 1;
    assert_true(history_stamp_of(cell) == HISTORY_FOREIGN);
    history_fill(cell, HISTORY_ZERO);
    assert_int_equal(history_stamp_of(cell), HISTORY_ZERO);
    memset(cell, 0xdb, sizeof(cell));
    assert_true(history_stamp_of(cell) == HISTORY_FOREIGN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_reads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loss, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loss_before_this_client, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flush_after_loss, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stamps, setup, teardown),
    };
    return cmocka_run_group_tests_name("history", tests, NULL, NULL);
}
