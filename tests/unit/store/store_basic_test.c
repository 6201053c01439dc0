/* SPDX-License-Identifier: Apache-2.0 */
/* A store that opens, writes, reads, flushes and opens again; what a steady overwrite costs. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/crc32c.h"
#include "tests/unit/store/store_fixture.h"

#define MIB (1024u * 1024u)

static void empty_store_opens_clean_and_reads_zeros(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 64u * MIB, 1);
    fixture_open_shard(&f);
    assert_int_equal(store_last_stop(f.store), STORE_STOP_CLEAN);
    assert_int_equal(store_identity(f.store)->cluster_id, 99);
    assert_true(fixture_holds(&f, 0, MIB, 0));
    assert_int_equal(fixture_stats(&f).bytes_allocated, 0);
    assert_int_equal(fixture_flush(&f), 0);
    fixture_destroy(&f);
}

static void written_blocks_are_read_back_and_neighbours_stay_zero(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 64u * MIB, 2);
    fixture_open_shard(&f);
    assert_int_equal(fixture_write(&f, 8192, 4096, 0xa1), 0);
    assert_true(fixture_holds(&f, 8192, 4096, 0xa1));
    assert_true(fixture_holds(&f, 0, 8192, 0)); /* I12: same unit, never written */
    assert_true(fixture_holds(&f, 12288, 65536, 0));
    assert_int_equal(fixture_write(&f, 60 * 1024, 16 * 1024, 0xa2), 0); /* two units */
    assert_true(fixture_holds(&f, 60 * 1024, 16 * 1024, 0xa2));
    assert_true(fixture_holds(&f, 8192, 4096, 0xa1));
    assert_int_equal(fixture_stats(&f).bytes_allocated, 2 * STORE_UNIT_BYTES);
    fixture_destroy(&f);
}

static void reopened(bool crash, bool power, enum store_stop expected)
{
    struct fixture f;
    fixture_create(&f, 64u * MIB, 3);
    fixture_open_shard(&f);
    assert_int_equal(fixture_write(&f, 0, MIB, 0x11), 0);
    assert_int_equal(fixture_write(&f, 5 * MIB + 4096, 8192, 0x22), 0);
    assert_int_equal(fixture_flush(&f), 0);
    if (crash)
        fixture_crash(&f, power);
    else
        fixture_close(&f, /* clean= */ true);
    fixture_open_shard(&f);
    assert_int_equal(store_last_stop(f.store), expected);
    assert_true(fixture_holds(&f, 0, MIB, 0x11)); /* I2 */
    assert_true(fixture_holds(&f, 5 * MIB + 4096, 8192, 0x22));
    assert_true(fixture_holds(&f, 5 * MIB, 4096, 0));
    assert_int_equal(fixture_stats(&f).bytes_allocated, 17 * STORE_UNIT_BYTES);
    assert_int_equal(f.damaged_count, 0);
    fixture_destroy(&f);
}

static void clean_stop_keeps_everything(void **state)
{
    (void)state;
    reopened(false, false, STORE_STOP_CLEAN);
}

static void process_crash_keeps_flushed_data(void **state)
{
    (void)state;
    reopened(true, false, STORE_STOP_SAME_BOOT);
}

static void power_loss_keeps_flushed_data(void **state)
{
    (void)state;
    reopened(true, true, STORE_STOP_REBOOTED);
}

/* What a process death loses: nothing that was answered (R21: records are in the log before the answer). */
static void process_crash_keeps_unflushed_data(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 64u * MIB, 4);
    fixture_open_shard(&f);
    assert_int_equal(fixture_write(&f, 0, 65536, 0x11), 0);
    assert_int_equal(fixture_write(&f, 4096, 4096, 0x12), 0); /* overwritten while fresh: no record */
    fixture_crash(&f, /* power= */ false);
    fixture_open_shard(&f);
    assert_true(fixture_holds(&f, 0, 4096, 0x11));
    assert_true(fixture_holds(&f, 4096, 4096, 0x12));
    assert_int_equal(fixture_stats(&f).blocks_adopted, 1);
    fixture_destroy(&f);
}

/* Goal: a steady overwrite costs exactly one drive write and nothing else. */
static void steady_overwrites_cost_one_drive_write_each(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 64u * MIB, 5);
    f.config.clean_idle_ns = ENV_MS(1000000);
    f.config.checkpoint_ns = ENV_MS(1000000);
    fixture_open_shard(&f);
    for (uint32_t chunk = 0; chunk < 4; chunk++)
        assert_int_equal(fixture_write(&f, chunk * MIB, MIB, 1), 0);
    assert_int_equal(fixture_flush(&f), 0);
    struct drive_sim_stats drive = *drive_sim_stats(f.disk);
    struct kv_sim_stats kv = *kv_sim_stats(f.base);
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(fixture_write(&f, (i * 7919u % 1024u) * 4096u, 4096, (uint8_t)i), 0);
    assert_int_equal(drive_sim_stats(f.disk)->writes - drive.writes, 1000);
    assert_int_equal(drive_sim_stats(f.disk)->reads - drive.reads, 0);
    assert_int_equal(drive_sim_stats(f.disk)->flushes - drive.flushes, 0);
    assert_int_equal(drive_sim_stats(f.disk)->bytes_written - drive.bytes_written, 1000 * 4096);
    assert_int_equal(kv_sim_stats(f.base)->writes - kv.writes, 0);
    assert_int_equal(kv_sim_stats(f.base)->gets - kv.gets, 0);
    /* 1 MiB across 16 units that lie side by side is one drive request. */
    drive = *drive_sim_stats(f.disk);
    assert_int_equal(fixture_write(&f, MIB, MIB, 9), 0);
    assert_int_equal(drive_sim_stats(f.disk)->writes - drive.writes, 1);
    assert_true(fixture_holds(&f, MIB, MIB, 9));
    assert_int_equal(drive_sim_stats(f.disk)->reads - drive.reads, 1);
    fixture_destroy(&f);
}

static void flush_skips_what_is_clean(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 64u * MIB, 6);
    f.config.clean_idle_ns = f.config.checkpoint_ns = ENV_MS(1000000);
    fixture_open_shard(&f);
    assert_int_equal(fixture_write(&f, 0, 4096, 1), 0);
    assert_int_equal(fixture_flush(&f), 0);
    struct drive_sim_stats drive = *drive_sim_stats(f.disk);
    struct kv_sim_stats kv = *kv_sim_stats(f.base);
    assert_int_equal(fixture_flush(&f), 0);
    assert_int_equal(drive_sim_stats(f.disk)->flushes, drive.flushes);
    assert_int_equal(kv_sim_stats(f.base)->syncs, kv.syncs);
    assert_int_equal(fixture_write(&f, 0, 4096, 2), 0); /* overwrite: the drive only */
    assert_int_equal(fixture_flush(&f), 0);
    assert_int_equal(drive_sim_stats(f.disk)->flushes, drive.flushes + 1);
    assert_int_equal(kv_sim_stats(f.base)->syncs, kv.syncs);
    fixture_destroy(&f);
}

/* A backup may submit a later overlapping write: the store applies both in order. */
static void overlapping_writes_apply_in_order_of_submission(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 64u * MIB, 7);
    fixture_open_shard(&f);
    uint8_t data[16384];
    for (uint32_t round = 0; round < 50; round++) {
        struct fixture_io *ios[4];
        for (uint32_t i = 0; i < 4; i++) {
            memset(data, (int)(round * 4 + i), sizeof(data));
            ios[i] = fixture_submit(&f, STORE_WRITE, i * 4096, 16384, data);
        }
        for (uint32_t i = 0; i < 4; i++)
            assert_int_equal(fixture_end(ios[i]), 0);
        for (uint32_t i = 0; i < 4; i++)
            assert_true(fixture_holds(&f, i * 4096, 4096, (uint8_t)(round * 4 + i)));
        assert_true(fixture_holds(&f, 3 * 4096, 16384, (uint8_t)(round * 4 + 3)));
    }
    fixture_destroy(&f);
}

static void bit_rot_is_found_reported_and_repaired_by_rewriting(void **state)
{
    (void)state;
    struct fixture f;
    uint8_t data[65536];
    fixture_create(&f, 64u * MIB, 8);
    fixture_open_shard(&f);
    assert_int_equal(fixture_write(&f, 0, 65536, 0x77), 0);
    assert_int_equal(fixture_flush(&f), 0);
    uint64_t at = STORE_CHUNK_BYTES;
    drive_sim_peek(f.disk, at, data, 8);
    while (data[0] != 0x77)
        drive_sim_peek(f.disk, at += 4096, data, 8);
    drive_sim_flip(f.disk, at + 5 * 4096 + 17, 0x10);
    struct fixture_io *io = fixture_submit(&f, STORE_READ, 0, 65536, NULL);
    assert_true(fixture_wait(&f, &io->done));
    assert_int_equal(io->rc, -EILSEQ);
    assert_int_equal(io->io.bad_block, 5);
    assert_int_equal(fixture_end(io), -EILSEQ);
    assert_int_equal(f.damaged_count, 1);
    assert_int_equal(f.damaged_offset, 5 * 4096);
    io = fixture_submit_flags(&f, STORE_READ, 0, 65536, NULL, STORE_IO_RAW);
    assert_int_equal(fixture_end(io), 0); /* raw reads tell, they do not judge */
    memset(data, 0x77, sizeof(data));
    assert_int_equal(fixture_end(fixture_submit(&f, STORE_READ, 0, 65536, NULL)), -EILSEQ);
    assert_int_equal(fixture_stats(&f).blocks_damaged, 1); /* however often it is met */
    io = fixture_submit(&f, STORE_WRITE, 5 * 4096, 4096, data);
    assert_int_equal(fixture_end(io), 0);
    assert_true(fixture_holds(&f, 0, 65536, 0x77));
    assert_int_equal(fixture_stats(&f).blocks_repaired, 1);
    drive_sim_flip(f.disk, at + 5 * 4096 + 17, 0x10);
    assert_int_equal(fixture_end(fixture_submit(&f, STORE_READ, 0, 65536, NULL)),
                     -EILSEQ); /* rot anew, as it was good */
    assert_int_equal(fixture_stats(&f).blocks_damaged, 2);
    assert_false(fixture_stats(&f).failed);
    fixture_destroy(&f);
}

/* Goal: a drive that does not keep what it is given is given up. Method: a block is damaged, rewritten, and damaged again before
 * anybody read it. */
static void block_damaged_again_after_its_repair_fails_the_store(void **state)
{
    (void)state;
    static uint8_t data[4096];
    struct fixture f;
    fixture_create(&f, 64u * MIB, 9);
    fixture_open_shard(&f);
    assert_int_equal(fixture_write(&f, 0, 4096, 0x77), 0);
    assert_int_equal(fixture_flush(&f), 0);
    uint64_t at = STORE_CHUNK_BYTES;
    drive_sim_peek(f.disk, at, data, 8);
    while (data[0] != 0x77)
        drive_sim_peek(f.disk, at += 4096, data, 8);
    for (int turn = 0; turn < 2; turn++) {
        assert_false(fixture_stats(&f).failed);
        drive_sim_flip(f.disk, at + 17, 0x10);
        assert_int_equal(fixture_end(fixture_submit(&f, STORE_READ, 0, 4096, NULL)), -EILSEQ);
        if (turn == 0) {
            memset(data, 0x77, sizeof(data));
            assert_int_equal(fixture_end(fixture_submit(&f, STORE_WRITE, 0, 4096, data)), 0);
            assert_int_equal(fixture_flush(&f), 0);
        }
    }
    assert_true(fixture_stats(&f).failed);
    fixture_destroy(&f);
}

static void unreadable_block_is_told_apart_from_its_neighbours(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 64u * MIB, 9);
    fixture_open_shard(&f);
    assert_int_equal(fixture_write(&f, 0, 65536, 0x55), 0);
    struct drive_sim_faults *faults = drive_sim_faults(f.disk);
    faults->fail_only_reads = true;
    faults->fail_nth = 1; /* the run fails, block by block it reads well: a transient error heals */
    assert_true(fixture_holds(&f, 0, 65536, 0x55));
    assert_int_equal(f.damaged_count, 0);
    faults->fail_nth = 1;
    struct fixture_io *io = fixture_submit(&f, STORE_READ, 8192, 4096, NULL);
    assert_int_equal(fixture_end(io), -EILSEQ);
    assert_int_equal(f.damaged_count, 1);
    assert_int_equal(f.failed_count, 0);
    fixture_destroy(&f);
}

struct answer {
    bool done;
    int rc;
};

static void restamped(struct store_restamp *req, int rc)
{
    *(struct answer *)req->owner = (struct answer){.done = true, .rc = rc};
}

static void digested(struct store_digest *req, int rc)
{
    *(struct answer *)req->owner = (struct answer){.done = true, .rc = rc};
}

/* R13: a failed drive flush fails the store, once and for good; what waits and what comes gets -EIO. */
static void failed_flush_fails_everything_from_then_on(void **state)
{
    (void)state;
    struct fixture f;
    uint8_t data[4096] = {0};
    fixture_create(&f, 64u * MIB, 10);
    fixture_open_shard(&f);
    assert_int_equal(fixture_write(&f, 0, 4096, 1), 0);
    drive_sim_faults(f.disk)->fail_nth = 1;
    assert_int_equal(fixture_flush(&f), -EIO);
    assert_int_equal(fixture_flush(&f), -EIO); /* never retried */
    struct fixture_io *ios[3];
    ios[0] = fixture_submit(&f, STORE_READ, 0, 4096, NULL);
    ios[1] = fixture_submit(&f, STORE_WRITE, 0, 4096, data);
    ios[2] = fixture_submit(&f, STORE_ZERO, 0, 4096, NULL);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(fixture_end(ios[i]), -EIO);
    struct answer answer = {0};
    struct store_restamp restamp = {.shard = f.shard, .epoch = 2, .cb = restamped, .owner = &answer};
    store_restamp(&restamp);
    assert_true(fixture_wait(&f, &answer.done));
    assert_int_equal(answer.rc, -EIO);
    struct store_block_digest blocks[STORE_CHUNK_BLOCKS];
    struct store_digest digest = {.shard = f.shard, .blocks = blocks, .cb = digested, .owner = &answer};
    answer.done = false;
    store_digest(&digest);
    assert_true(fixture_wait(&f, &answer.done));
    assert_int_equal(answer.rc, -EIO);
    assert_int_equal(f.failed_count, 1);
    assert_true(fixture_stats(&f).failed);
    fixture_close(&f, /* clean= */ true); /* ends, but not as a clean stop */
    fixture_open_shard(&f);
    assert_int_equal(store_last_stop(f.store), STORE_STOP_SAME_BOOT);
    fixture_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_store_opens_clean_and_reads_zeros),
        cmocka_unit_test(written_blocks_are_read_back_and_neighbours_stay_zero),
        cmocka_unit_test(clean_stop_keeps_everything),
        cmocka_unit_test(process_crash_keeps_flushed_data),
        cmocka_unit_test(power_loss_keeps_flushed_data),
        cmocka_unit_test(process_crash_keeps_unflushed_data),
        cmocka_unit_test(steady_overwrites_cost_one_drive_write_each),
        cmocka_unit_test(flush_skips_what_is_clean),
        cmocka_unit_test(overlapping_writes_apply_in_order_of_submission),
        cmocka_unit_test(bit_rot_is_found_reported_and_repaired_by_rewriting),
        cmocka_unit_test(block_damaged_again_after_its_repair_fails_the_store),
        cmocka_unit_test(failed_flush_fails_everything_from_then_on),
        cmocka_unit_test(unreadable_block_is_told_apart_from_its_neighbours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
