/* SPDX-License-Identifier: Apache-2.0 */
/* store on its real edges: what was answered is there after a clean stop and after kill -9 (R21), byte for byte.
 *
 * The writer is this program run again: it writes blocks whose content tells which write they are of, and prints the
 * number of each answered write; the parent kills it, opens the store and compares.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/store_edges/real_fixture.h"

static void clean_stop_keeps_everything(void **state)
{
    struct edges edges;
    struct real real = {.opened = false};
    char directory[256];
    (void)state;
    edges_init(&edges);
    real_format(&edges, directory);
    assert_int_equal(real_open(&real, directory), 0);
    struct buf *buf = buf_alloc(real.pool, STORE_BLOCK_BYTES);
    for (uint32_t i = 0; i < 400; i++) {
        real_slot_content(i, buf->data);
        assert_int_equal(real_io(&real, STORE_WRITE, real_slot_offset(i), buf, i + 1), 0);
    }
    buf_unref(buf);
    assert_int_equal(real_flush(&real), 0);
    real_check_slots(&real, 400);
    real_close(&real);
    assert_int_equal(real_open(&real, directory), 0);
    assert_int_equal(store_last_stop(real.store), STORE_STOP_CLEAN);
    real_check_slots(&real, 400);
    real_close(&real);
    edges_close(&edges);
}

static void killed_daemon_loses_no_answered_write(void **state)
{
    struct edges edges;
    struct real real = {.opened = false};
    char directory[256];
    (void)state;
    edges_init(&edges);
    real_format(&edges, directory);
    uint32_t answered = real_kill_writer(directory, SLOTS + 200); /* first writes, then overwrites */
    assert_int_equal(real_open(&real, directory), 0);
    assert_int_equal(store_last_stop(real.store), STORE_STOP_SAME_BOOT);
    real_check_slots(&real, answered);
    real_close(&real);
    edges_close(&edges);
}

/* Goal: a quick clean stop after a crash does not turn unverified checksums into damage. Method: overwrites whose checksums
 * were in memory only, a kill, and a stop before anything was verified; then every slot is read. */
static void clean_stop_soon_after_a_crash_keeps_regions_suspect(void **state)
{
    struct edges edges;
    struct real real = {.opened = false};
    char directory[256];
    (void)state;
    edges_init(&edges);
    real_format(&edges, directory);
    uint32_t answered = real_kill_writer(directory, SLOTS + 200);
    assert_int_equal(real_open(&real, directory), 0);
    real_close(&real);
    assert_int_equal(real_open(&real, directory), 0);
    assert_int_equal(store_last_stop(real.store), STORE_STOP_CLEAN);
    real_check_slots(&real, answered);
    real_close(&real);
    edges_close(&edges);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "writes") == 0)
        return real_child_writes(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clean_stop_keeps_everything),
        cmocka_unit_test(killed_daemon_loses_no_answered_write),
        cmocka_unit_test(clean_stop_soon_after_a_crash_keeps_regions_suspect),
    };
    return cmocka_run_group_tests_name("store_real", tests, NULL, NULL);
}
