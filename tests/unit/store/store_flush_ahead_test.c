/* SPDX-License-Identifier: Apache-2.0 */
/* Flushes that nobody asked for: when they come, what they cover, what becomes of one that fails. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "tests/sim/drive_sim.h"
#include "tests/unit/store/store_fixture.h"

#define MIB (1024u * 1024u)
#define PIECE 65536u

static void create(struct fixture *f, uint64_t bytes, uint64_t span_ns)
{
    fixture_create(f, 64u * MIB, 41);
    f->config.flush_ahead_bytes = bytes;
    f->config.flush_ahead_span_ns = span_ns;
    f->config.clean_idle_ns = ENV_MS(600000); /* its rounds flush, too */
    f->config.checkpoint_ns = ENV_MS(600000);
    fixture_open_shard(f);
    assert_int_equal(fixture_write(f, 0, PIECE, 1), 0); /* marks the region */
    assert_int_equal(fixture_flush(f), 0);
}

static uint64_t flushes(struct fixture *f)
{
    return drive_sim_stats(f->disk)->flushes;
}

static void write_pieces(struct fixture *f, uint32_t count, uint8_t fill)
{
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(fixture_write(f, i * PIECE, PIECE, fill), 0);
}

/* What was not flushed is gone. */
static void lose_power(struct fixture *f)
{
    drive_sim_faults(f->disk)->power_drops_all = true;
    fixture_crash(f, /* power= */ true);
    drive_sim_faults(f->disk)->power_drops_all = false;
    fixture_open_shard(f);
}

/* One for as much as was asked for, none for less, and none when nothing was written. */
static void one_flush_for_so_many_bytes(void **state)
{
    (void)state;
    struct fixture f;
    create(&f, 4 * PIECE, /* span_ns= */ 0);
    uint64_t before = flushes(&f);
    write_pieces(&f, 3, 2);
    fixture_run(&f, ENV_MS(500));
    assert_int_equal(flushes(&f), before);
    write_pieces(&f, 1, 3);
    fixture_run(&f, ENV_MS(500));
    assert_int_equal(flushes(&f), before + 1);
    fixture_run(&f, ENV_MS(5000));
    assert_int_equal(flushes(&f), before + 1);
    fixture_destroy(&f);
}

static void none_when_switched_off(void **state)
{
    (void)state;
    struct fixture f;
    create(&f, 0, /* span_ns= */ 0);
    uint64_t before = flushes(&f);
    write_pieces(&f, 64, 2);
    fixture_run(&f, ENV_MS(500));
    assert_int_equal(flushes(&f), before);
    fixture_destroy(&f);
}

/* Who writes as much in less time needs the drive for that: until somebody flushes, and then only if he is slower. */
static void a_fast_writer_is_left_alone(void **state)
{
    (void)state;
    struct fixture f;
    create(&f, 4 * PIECE, ENV_MS(1000));
    uint64_t before = flushes(&f), begun = env_now_ns(f.env);
    write_pieces(&f, 4, 2);
    assert_true(env_now_ns(f.env) - begun < ENV_MS(1000));
    fixture_run(&f, ENV_MS(2000));
    write_pieces(&f, 8, 3); /* slow or not: much is unflushed already */
    fixture_run(&f, ENV_MS(2000));
    assert_int_equal(flushes(&f), before);
    assert_int_equal(fixture_flush(&f), 0);
    assert_int_equal(flushes(&f), before + 1);
    write_pieces(&f, 3, 4);
    fixture_run(&f, ENV_MS(2000));
    write_pieces(&f, 1, 5);
    fixture_run(&f, ENV_MS(100));
    assert_int_equal(flushes(&f), before + 2);
    fixture_destroy(&f);
}

/* What it covered is safe, and a flush that somebody asks for afterwards finds the drive's part done. */
static void what_it_covers_is_durable(void **state)
{
    (void)state;
    struct fixture f;
    create(&f, 4 * PIECE, /* span_ns= */ 0);
    write_pieces(&f, 4, 5);
    fixture_run(&f, ENV_MS(500));
    uint64_t before = flushes(&f);
    assert_int_equal(fixture_flush(&f), 0);
    assert_int_equal(flushes(&f), before);
    lose_power(&f);
    assert_true(fixture_holds(&f, 0, 4 * PIECE, 5));
    fixture_destroy(&f);
}

/* A write that completes after it began is not covered by it: the flush that is asked for goes to the drive. */
static void a_later_write_is_not_covered(void **state)
{
    (void)state;
    struct fixture f;
    create(&f, 4 * PIECE, /* span_ns= */ 0);
    drive_sim_faults(f.disk)->slow_flush_ns = ENV_MS(300);
    write_pieces(&f, 4, 5);
    uint64_t begun = fixture_stats(&f).drive_flushes;
    assert_int_equal(fixture_write(&f, 8 * PIECE, 4096, 6), 0);
    fixture_run(&f, ENV_MS(1000)); /* it has ended */
    assert_int_equal(fixture_stats(&f).drive_flushes, begun);
    assert_int_equal(fixture_flush(&f), 0);
    assert_int_equal(fixture_stats(&f).drive_flushes, begun + 1);
    lose_power(&f);
    assert_true(fixture_holds(&f, 8 * PIECE, 4096, 6));
    fixture_destroy(&f);
}

/* R13: nobody asked, but what was acknowledged may be gone, and the next flush might succeed. */
static void one_that_fails_fails_the_store(void **state)
{
    (void)state;
    struct fixture f;
    create(&f, 4 * PIECE, /* span_ns= */ 0);
    write_pieces(&f, 3, 5);
    drive_sim_faults(f.disk)->fail_nth = 2; /* after the write that is one too many */
    write_pieces(&f, 1, 5);
    fixture_run(&f, ENV_MS(500));
    assert_int_equal(drive_sim_faults(f.disk)->fail_nth, 0);
    assert_int_equal(f.failed_count, 1);
    assert_int_equal(fixture_flush(&f), -EIO);
    fixture_destroy(&f);
}

/* A store is closed while one is under way. */
static void a_close_awaits_it(void **state)
{
    (void)state;
    for (int clean = 0; clean <= 1; clean++) {
        struct fixture f;
        create(&f, 4 * PIECE, /* span_ns= */ 0);
        drive_sim_faults(f.disk)->slow_flush_ns = ENV_MS(300);
        write_pieces(&f, 4, 5);
        uint64_t begun = env_now_ns(f.env);
        fixture_close(&f, clean);
        assert_true(env_now_ns(f.env) - begun >= ENV_MS(200));
        drive_sim_faults(f.disk)->slow_flush_ns = 0;
        fixture_open_shard(&f);
        assert_true(fixture_holds(&f, 0, 4 * PIECE, 5));
        fixture_destroy(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_flush_for_so_many_bytes),
        cmocka_unit_test(none_when_switched_off),
        cmocka_unit_test(a_fast_writer_is_left_alone),
        cmocka_unit_test(what_it_covers_is_durable),
        cmocka_unit_test(a_later_write_is_not_covered),
        cmocka_unit_test(one_that_fails_fails_the_store),
        cmocka_unit_test(a_close_awaits_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
