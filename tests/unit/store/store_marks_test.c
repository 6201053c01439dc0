/* SPDX-License-Identifier: Apache-2.0 */
/* Marks (R14, R15, R16): durable before the data, cleaned only when flushed, committed and quiet; restamps, freezing, the bound. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "server/store/records.h"
#include "tests/unit/store/store_fixture.h"

#define MIB (1024u * 1024u)
#define REGION (16u * MIB)

/* --- what happened in which order --- */

struct trace {
    bool mark_durable[64]; /* by region, as far as synced batches say */
    uint32_t mark_count, deletes;
    uint32_t unsettled_puts; /* map records taken in and not covered by a drive flush begun later */
    uint32_t puts_at_flush;
    bool drive_was_flushed;
    bool violated;
};

static void on_kv(void *arg, const struct kv_batch *batch, bool sync, bool done)
{
    struct trace *trace = arg;
    uint32_t cursor = 0, key_len, value_len, index, generation;
    const uint8_t *key, *value;
    bool is_delete;
    if (!done) {
        if (sync && trace->unsettled_puts) /* R22: a sync that makes records durable follows a drive flush */
            trace->violated |= !trace->drive_was_flushed;
        return;
    }
    while (kv_batch_next(batch, &cursor, &key, &key_len, &value, &value_len, &is_delete)) {
        enum record_kind kind;
        struct store_shard_id id;
        assert_int_equal(record_key_decode(key, key_len, &kind, &id, &index, &generation), 0);
        if (kind == RECORD_MARK && is_delete) {
            trace->mark_durable[index] = false;
            trace->deletes++;
        } else if (kind == RECORD_MARK && sync) {
            trace->mark_durable[index] = true;
            trace->mark_count++;
        } else if (kind == RECORD_MAP && !sync) {
            trace->unsettled_puts++;
            trace->drive_was_flushed = false;
        }
    }
    if (sync)
        trace->unsettled_puts = 0;
}

static void on_drive(void *arg, enum drive_op op, uint64_t offset, uint32_t length, bool done)
{
    struct trace *trace = arg;
    (void)offset;
    (void)length;
    if (op == DRIVE_WRITE && !done && trace->mark_count == 0)
        trace->violated = true; /* R14: no data before the first mark is durable */
    if (op == DRIVE_FLUSH && !done)
        trace->puts_at_flush = trace->unsettled_puts;
    if (op == DRIVE_FLUSH && done)
        trace->drive_was_flushed = trace->puts_at_flush == trace->unsettled_puts;
}

static void start(struct fixture *f, struct trace *trace)
{
    memset(trace, 0, sizeof(*trace));
    fixture_create(f, 64u * MIB, 11);
    f->config.clean_idle_ns = ENV_MS(1000);
    fixture_open_shard(f);
    kv_sim_trace(f->base, on_kv, trace);
    drive_sim_trace(f->disk, on_drive, trace);
}

static void mark_is_durable_before_the_data(void **state)
{
    (void)state;
    struct fixture f;
    struct trace trace;
    start(&f, &trace);
    assert_int_equal(fixture_write(&f, 0, 4096, 1), 0);
    assert_true(trace.mark_durable[0]);
    assert_false(trace.mark_durable[1]);
    assert_int_equal(fixture_write(&f, REGION, 4096, 1), 0); /* marks again, with a record unsettled */
    assert_true(trace.mark_durable[1]);
    assert_int_equal(fixture_write(&f, 4096, 4096, 1), 0); /* marked already: no more */
    assert_int_equal(trace.mark_count, 2);
    assert_false(trace.violated);
    fixture_destroy(&f);
}

static uint64_t marks(struct fixture *f)
{
    return fixture_stats(f).marks;
}

static void mark_is_cleaned_when_flushed_committed_and_idle(void **state)
{
    (void)state;
    struct fixture f;
    struct trace trace;
    start(&f, &trace);
    assert_int_equal(fixture_write(&f, 0, 4096, 1), 0);
    fixture_run(&f, ENV_MS(10000));
    assert_int_equal(marks(&f), 1); /* flushed or not: its commit is not known */
    store_committed(f.shard, f.epoch, f.lsn_n - 1);
    fixture_run(&f, ENV_MS(10000));
    assert_int_equal(marks(&f), 1);
    store_committed(f.shard, f.epoch + 1, f.lsn_n + 100); /* another epoch's commit says nothing about this one */
    fixture_run(&f, ENV_MS(10000));
    assert_int_equal(marks(&f), 1);
    assert_int_equal(trace.deletes, 0);
    fixture_destroy(&f);
    start(&f, &trace);
    assert_int_equal(fixture_write(&f, 0, 4096, 1), 0);
    uint64_t flushes = drive_sim_stats(f.disk)->flushes;
    fixture_commit_all(&f);
    fixture_run(&f, ENV_MS(10000));
    assert_int_equal(marks(&f), 0);
    assert_int_equal(trace.deletes, 1);
    assert_true(drive_sim_stats(f.disk)->flushes > flushes); /* not without a flush */
    assert_false(trace.violated);
    assert_int_equal(fixture_write(&f, 0, 4096, 2), 0); /* marked again */
    assert_int_equal(marks(&f), 1);
    assert_true(trace.mark_durable[0]);
    fixture_destroy(&f);
}

static void busy_region_is_not_cleaned(void **state)
{
    (void)state;
    struct fixture f;
    struct trace trace;
    start(&f, &trace);
    for (uint32_t i = 0; i < 200; i++) { /* never idle for a second */
        assert_int_equal(fixture_write(&f, i % 7 * 4096, 4096, (uint8_t)i), 0);
        fixture_commit_all(&f);
        fixture_run(&f, ENV_MS(50));
    }
    assert_int_equal(trace.deletes, 0);
    assert_int_equal(trace.mark_count, 1);
    fixture_destroy(&f);
}

/* Its region is written, committed and idle: the drive flush of the round that would clean it has begun, and is slow. */
static void begin_cleaning(struct fixture *f, struct trace *trace)
{
    start(f, trace);
    assert_int_equal(fixture_write(f, 0, 4096, 1), 0);
    fixture_commit_all(f);
    uint64_t flushes = drive_sim_stats(f->disk)->flushes;
    drive_sim_faults(f->disk)->slow_flush_ns = ENV_MS(400);
    while (drive_sim_stats(f->disk)->flushes == flushes)
        fixture_run(f, ENV_MS(10));
    drive_sim_faults(f->disk)->slow_flush_ns = 0;
}

/* Written and committed while the drive flush of its cleaning runs: that flush says nothing about it (R14). */
static void region_written_during_the_flush_is_not_cleaned_by_it(void **state)
{
    (void)state;
    struct fixture f;
    struct trace trace;
    begin_cleaning(&f, &trace);
    assert_int_equal(fixture_write(&f, 0, 4096, 2), 0);
    fixture_commit_all(&f);
    assert_int_equal(trace.deletes, 0);
    fixture_run(&f, ENV_MS(500)); /* it has ended */
    assert_int_equal(trace.deletes, 0);
    fixture_run(&f, ENV_MS(5000)); /* a later one does */
    assert_int_equal(trace.deletes, 1);
    fixture_destroy(&f);
}

/* The round that picked its mark for cleaning is still at its drive flush: the mark must outlive it. */
static void shard_dropped_while_a_round_would_clean_it(void **state)
{
    (void)state;
    struct fixture f;
    struct trace trace;
    begin_cleaning(&f, &trace);
    struct store_shard_id id = store_shard_identity(f.shard);
    store_shard_close(f.shard);
    store_shard_drop(f.store, &id);
    fixture_run(&f, ENV_MS(5000));
    assert_int_equal(fixture_stats(&f).bytes_allocated, 0);
    assert_int_equal(fixture_stats(&f).marks, 0);
    f.shard = NULL;
    fixture_destroy(&f);
}

static void cleaned_chunks_keep_mod_epoch_across_restart(void **state)
{
    (void)state;
    struct fixture f;
    struct trace trace;
    struct store_chunk_info infos[32];
    uint32_t next;
    start(&f, &trace);
    f.epoch = 5;
    assert_int_equal(fixture_write(&f, 3 * MIB, MIB, 1), 0);
    assert_int_equal(fixture_write(&f, 4 * MIB, MIB, 1), 0);
    fixture_commit_all(&f);
    fixture_run(&f, ENV_MS(10000));
    f.epoch = 6;
    assert_int_equal(fixture_zero(&f, 4 * MIB, MIB, 0), 0); /* the whole chunk: a tombstone */
    fixture_commit_all(&f);
    fixture_run(&f, ENV_MS(10000));
    assert_int_equal(marks(&f), 0);
    fixture_close(&f, /* clean= */ true);
    fixture_open_shard(&f);
    assert_int_equal(store_chunks_modified(f.shard, 4, 0, infos, 32, &next), 2);
    assert_int_equal(next, STORE_SHARD_CHUNKS);
    assert_int_equal(infos[0].chunk, 3);
    assert_int_equal(infos[0].mod_epoch, 5);
    assert_int_equal(infos[1].chunk, 4);
    assert_int_equal(infos[1].mod_epoch, 6);
    assert_false(infos[1].marked);
    assert_int_equal(store_chunks_modified(f.shard, 5, 0, infos, 32, &next), 1);
    assert_int_equal(store_chunks_modified(f.shard, 6, 0, infos, 32, &next), 0);
    assert_int_equal(store_chunks_modified(f.shard, 4, 0, infos, 1, &next), 1); /* paged */
    assert_int_equal(next, 4);
    store_raise_mod_epoch(f.shard, 9, 12); /* also where nothing was sent (R16) */
    store_raise_mod_epoch(f.shard, 3, 2);  /* never decreases */
    assert_int_equal(fixture_write(&f, 0, 4096, 1), 0);
    assert_int_equal(fixture_flush(&f), 0);
    fixture_crash(&f, /* power= */ true);
    fixture_open_shard(&f);
    assert_int_equal(store_chunks_modified(f.shard, 6, 9, infos, 1, &next), 1);
    assert_int_equal(infos[0].chunk, 9);
    assert_int_equal(infos[0].mod_epoch, 12);
    fixture_destroy(&f);
}

static void marked_region_lists_all_its_chunks(void **state)
{
    (void)state;
    struct fixture f;
    struct trace trace;
    struct store_chunk_info infos[64];
    uint32_t next;
    start(&f, &trace);
    f.epoch = 8;
    assert_int_equal(fixture_write(&f, REGION + MIB, 4096, 1), 0);
    assert_int_equal(store_chunks_modified(f.shard, 100, 0, infos, 64, &next), 16);
    assert_int_equal(infos[0].chunk, 16);
    assert_true(infos[15].marked);
    assert_int_equal(infos[15].mod_epoch, 8);
    fixture_destroy(&f);
}

struct wait {
    bool done;
    int rc;
};

static void restamped(struct store_restamp *req, int rc)
{
    struct wait *wait = req->owner;
    wait->done = true;
    wait->rc = rc;
}

static void restamp(struct fixture *f, uint64_t epoch)
{
    struct wait wait = {0};
    struct store_restamp req = {.shard = f->shard, .epoch = epoch, .cb = restamped, .owner = &wait};
    store_restamp(&req);
    assert_false(wait.done);
    assert_true(fixture_wait(f, &wait.done));
    assert_int_equal(wait.rc, 0);
}

static void restamp_moves_all_marks_in_one_batch_and_awaits_the_takeover(void **state)
{
    (void)state;
    struct fixture f;
    struct trace trace;
    struct store_chunk_info infos[64];
    uint32_t next;
    start(&f, &trace);
    for (uint32_t region = 0; region < 3; region++)
        assert_int_equal(fixture_write(&f, region * REGION, 4096, 1), 0);
    assert_int_equal(fixture_flush(&f), 0);
    uint64_t syncs = kv_sim_stats(f.base)->syncs;
    restamp(&f, 4);
    assert_int_equal(kv_sim_stats(f.base)->syncs, syncs + 1);
    assert_int_equal(trace.mark_count, 6);
    assert_int_equal(store_chunks_modified(f.shard, 3, 0, infos, 64, &next), 48);
    store_committed(f.shard, 4, 1000); /* what the old epoch left is committed with the takeover only */
    fixture_run(&f, ENV_MS(10000));
    assert_int_equal(marks(&f), 3);
    store_epoch_committed(f.shard, 3);
    fixture_run(&f, ENV_MS(10000));
    assert_int_equal(marks(&f), 0);
    fixture_destroy(&f);
    start(&f, &trace);
    restamp(&f, 9); /* nothing marked */
    fixture_destroy(&f);
}

static void write_of_a_newer_epoch_marks_anew_first(void **state)
{
    (void)state;
    struct fixture f;
    struct trace trace;
    struct store_chunk_info infos[16];
    uint32_t next;
    start(&f, &trace);
    assert_int_equal(fixture_write(&f, 0, 4096, 1), 0);
    f.epoch = 2;
    assert_int_equal(fixture_write(&f, 0, 4096, 2), 0);
    assert_int_equal(trace.mark_count, 2);
    assert_int_equal(store_chunks_modified(f.shard, 1, 0, infos, 16, &next), 16);
    assert_int_equal(infos[0].mod_epoch, 2);
    fixture_destroy(&f);
}

static void frozen_marks_stay_across_restart_until_thawed(void **state)
{
    (void)state;
    struct fixture f;
    struct trace trace;
    start(&f, &trace);
    assert_int_equal(fixture_write(&f, 0, 4096, 1), 0);
    fixture_commit_all(&f);
    store_marks_freeze(f.shard);
    assert_int_equal(fixture_flush(&f), 0);
    fixture_run(&f, ENV_MS(10000));
    assert_int_equal(marks(&f), 1);
    fixture_close(&f, /* clean= */ true);
    fixture_open_shard(&f);
    assert_int_equal(marks(&f), 1);
    store_epoch_committed(f.shard, 10);
    fixture_run(&f, ENV_MS(10000));
    assert_int_equal(marks(&f), 1);
    store_marks_thaw(f.shard);
    fixture_run(&f, ENV_MS(10000));
    assert_int_equal(marks(&f), 0);
    fixture_destroy(&f);
}

static void sequential_stream_premarks_the_next_region(void **state)
{
    (void)state;
    struct fixture f;
    struct trace trace;
    start(&f, &trace);
    for (uint32_t chunk = 0; chunk < 12; chunk++)
        assert_int_equal(fixture_write(&f, chunk * MIB, MIB, 1), 0);
    fixture_run(&f, ENV_MS(100));
    assert_true(trace.mark_durable[1]);
    assert_false(trace.mark_durable[2]);
    fixture_destroy(&f);
}

/* A stream that keeps going has ever more regions marked in one batch, and needs few syncs; a jump starts anew. */
static void long_stream_premarks_in_batches(void **state)
{
    (void)state;
    struct fixture f;
    struct trace trace;
    struct store_stats before, after;
    memset(&trace, 0, sizeof(trace));
    fixture_create(&f, 1024u * MIB, 12);
    f.shard_bytes = STORE_SHARD_BYTES_MAX;
    f.config.clean_idle_ns = ENV_MS(1000000);
    fixture_open_shard(&f);
    store_stats(f.store, &before);
    for (uint32_t chunk = 0; chunk < 24 * 16; chunk++)
        assert_int_equal(fixture_write(&f, (uint64_t)chunk * MIB, MIB, 1), 0);
    store_stats(f.store, &after);
    assert_true(marks(&f) > 24 && marks(&f) <= 24 + 32);
    assert_true(after.kv_syncs - before.kv_syncs <= 10); /* 24 and more without batches */
    uint64_t reached = marks(&f);
    for (uint32_t i = 0; i < 3; i++) /* far away, and never two regions in turn */
        assert_int_equal(fixture_write(&f, (60ull - 2 * i) * REGION, 4096, 1), 0);
    assert_int_equal(marks(&f), reached + 3);
    fixture_destroy(&f);
}

static void active_set_is_bounded_by_what_can_be_cleaned(void **state)
{
    (void)state;
    struct fixture f;
    struct trace trace;
    memset(&trace, 0, sizeof(trace));
    fixture_create(&f, 64u * MIB, 12);
    f.shard_bytes = STORE_SHARD_BYTES_MAX;
    f.config.active_set_max = 4;
    f.config.clean_idle_ns = ENV_MS(1000000);
    fixture_open_shard(&f);
    for (uint32_t region = 0; region < 20; region++) { /* uncommitted: must not block (no distributed deadlock) */
        assert_int_equal(fixture_write(&f, (uint64_t)region * REGION, 4096, 1), 0);
        assert_int_equal(marks(&f), region + 1);
    }
    fixture_commit_all(&f);
    for (uint32_t region = 20; region < 50; region++) {
        assert_int_equal(fixture_write(&f, (uint64_t)region * REGION, 4096, 1), 0);
        fixture_commit_all(&f);
    }
    assert_true(marks(&f) <= 5);
    for (uint32_t region = 0; region < 50; region++)
        assert_true(fixture_holds(&f, (uint64_t)region * REGION, 4096, 1));
    fixture_destroy(&f);
}

/* After an unclean stop marked regions are suspect: content adopted, verified in the background, then cleanable. */
static void suspect_regions_are_verified_in_the_background(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 64u * MIB, 13);
    f.config.clean_idle_ns = ENV_MS(1000);
    fixture_open_shard(&f);
    assert_int_equal(fixture_write(&f, 0, MIB, 1), 0);
    assert_int_equal(fixture_write(&f, REGION, MIB, 1), 0);
    assert_int_equal(fixture_flush(&f), 0);
    assert_int_equal(fixture_write(&f, REGION + 8192, 8192, 2), 0); /* checksums in memory only */
    fixture_crash(&f, /* power= */ false);
    fixture_open_shard(&f);
    assert_true(store_shard_suspect(f.shard));
    assert_int_equal(fixture_stats(&f).suspect_regions, 2);
    fixture_run(&f, ENV_MS(2000));
    assert_false(store_shard_suspect(f.shard));
    assert_int_equal(fixture_stats(&f).blocks_adopted, 2);
    assert_int_equal(marks(&f), 2); /* commit not known yet (R15) */
    store_epoch_committed(f.shard, 1);
    fixture_run(&f, ENV_MS(5000));
    assert_int_equal(marks(&f), 0);
    assert_true(fixture_holds(&f, REGION + 8192, 8192, 2));
    fixture_crash(&f, /* power= */ true); /* the adopted checksums were written with the cleaning */
    fixture_open_shard(&f);
    assert_true(fixture_holds(&f, REGION + 8192, 8192, 2));
    assert_int_equal(fixture_stats(&f).blocks_adopted, 0);
    assert_int_equal(f.damaged_count, 0);
    fixture_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mark_is_durable_before_the_data),
        cmocka_unit_test(mark_is_cleaned_when_flushed_committed_and_idle),
        cmocka_unit_test(busy_region_is_not_cleaned),
        cmocka_unit_test(region_written_during_the_flush_is_not_cleaned_by_it),
        cmocka_unit_test(shard_dropped_while_a_round_would_clean_it),
        cmocka_unit_test(cleaned_chunks_keep_mod_epoch_across_restart),
        cmocka_unit_test(marked_region_lists_all_its_chunks),
        cmocka_unit_test(restamp_moves_all_marks_in_one_batch_and_awaits_the_takeover),
        cmocka_unit_test(write_of_a_newer_epoch_marks_anew_first),
        cmocka_unit_test(frozen_marks_stay_across_restart_until_thawed),
        cmocka_unit_test(sequential_stream_premarks_the_next_region),
        cmocka_unit_test(long_stream_premarks_in_batches),
        cmocka_unit_test(active_set_is_bounded_by_what_can_be_cleaned),
        cmocka_unit_test(suspect_regions_are_verified_in_the_background),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
