/* SPDX-License-Identifier: Apache-2.0 */
/* Space: holes, ENOSPC to the unit, quarantine (R22), removal of shards (I12), prewriting, extents. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/store/store_fixture.h"

#define MIB (1024u * 1024u)

static uint64_t allocated(struct fixture *f)
{
    return fixture_stats(f).bytes_allocated / STORE_UNIT_BYTES;
}

static void trim_frees_whole_units_and_zeroes_the_rest(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 32u * MIB, 21);
    fixture_open_shard(&f);
    assert_int_equal(fixture_write(&f, 0, MIB, 7), 0);
    assert_int_equal(fixture_zero(&f, 4096, 3 * 65536, 0), 0); /* blocks 1..48: units 1 and 2 are whole */
    assert_true(fixture_holds(&f, 0, 4096, 7));
    assert_true(fixture_holds(&f, 4096, 3 * 65536, 0));
    assert_true(fixture_holds(&f, 4096 + 3 * 65536, 4096, 7));
    assert_int_equal(allocated(&f), 14);
    struct store_extent extents[8];
    assert_int_equal(store_extents(f.shard, 0, 0, 2 * MIB, extents, 8), 6);
    uint32_t states[] = {1, 2, 0, 2, 1, 0};
    uint64_t lengths[] = {4096, 65536 - 4096, 2 * 65536, 4096, MIB - 4096 - 3 * 65536, MIB};
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(extents[i].state, states[i]);
        assert_int_equal(extents[i].length, lengths[i]);
    }
    assert_int_equal(store_extents(f.shard, 0, 0, 2 * MIB, extents, 2), 2);
    assert_int_equal(fixture_zero(&f, 0, MIB, STORE_IO_NO_HOLE), 0);
    assert_true(fixture_holds(&f, 0, MIB, 0));
    assert_int_equal(allocated(&f), 14); /* keeps the space */
    assert_int_equal(fixture_zero(&f, 0, 2 * MIB, 0), 0);
    assert_int_equal(allocated(&f), 0);
    fixture_close(&f, /* clean= */ true);
    fixture_open_shard(&f);
    assert_int_equal(allocated(&f), 0);
    assert_true(fixture_holds(&f, 0, MIB, 0));
    fixture_destroy(&f);
}

static void trim_of_nothing_costs_nothing(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 32u * MIB, 22);
    fixture_open_shard(&f);
    struct kv_sim_stats kv = *kv_sim_stats(f.base);
    assert_int_equal(fixture_zero(&f, 4096, STORE_ZERO_BYTES_MAX, 0), 0);
    assert_int_equal(kv_sim_stats(f.base)->writes, kv.writes);
    assert_int_equal(fixture_stats(&f).marks, 0);
    fixture_destroy(&f);
}

/* Reserve, write, give back: exactly what is there can be had, 2 % less (R: ENOSPC from all members or none). */
static void enospc_is_exact_to_the_unit(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 16u * MIB, 23);
    fixture_open_shard(&f);
    uint32_t total = 15 * 16, held = (total + 49) / 50, written = 0;
    for (uint32_t at = 0;; at += 65536) {
        uint32_t needed = store_units_needed(f.shard, 0, at, 65536);
        assert_int_equal(needed, 1);
        int rc = store_reserve(f.store, needed);
        if (rc) {
            assert_int_equal(rc, -ENOSPC);
            break;
        }
        assert_int_equal(fixture_write(&f, at, 65536, 5), 0);
        written++;
    }
    assert_int_equal(written, total - held);
    fixture_run(&f, ENV_MS(1));
    assert_true(fixture_stats(&f).full);
    assert_true(fixture_stats(&f).near_full);
    assert_true(f.space_count >= 2);
    assert_int_equal(store_units_needed(f.shard, 0, 0, MIB), 0); /* overwrites always work */
    assert_int_equal(fixture_write(&f, 0, MIB, 6), 0);
    assert_int_equal(fixture_zero(&f, 0, 4 * 65536, 0), 0); /* and trims */
    assert_int_equal(store_reserve(f.store, 5), -ENOSPC);
    assert_int_equal(store_reserve(f.store, 4), 0); /* before any flush: the sync comes when they are needed */
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(fixture_write(&f, 20 * MIB + i * 65536, 65536, 9), 0);
    store_unreserve(f.store, 0);
    assert_int_equal(fixture_stats(&f).bytes_reserved, 0);
    assert_true(fixture_holds(&f, 20 * MIB, 4 * 65536, 9));
    assert_true(fixture_holds(&f, 4 * 65536, MIB - 4 * 65536, 6));
    fixture_run(&f, ENV_MS(1));
    uint32_t told = f.space_count;
    assert_int_equal(fixture_zero(&f, 0, 15 * MIB, 0), 0);
    fixture_run(&f, ENV_MS(1));
    assert_false(fixture_stats(&f).full);
    assert_true(f.space_count > told);
    fixture_destroy(&f);
}

static void write_without_any_space_fails_alone(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 16u * MIB, 24);
    fixture_open_shard(&f);
    for (uint32_t at = 0; at < 15 * MIB; at += MIB)
        assert_int_equal(fixture_write(&f, at, MIB, 5), 0);
    assert_int_equal(fixture_write(&f, 15 * MIB, 4096, 5), -ENOSPC);
    assert_int_equal(fixture_write(&f, 14 * MIB + 500 * 1024, 4096, 6), 0);
    assert_int_equal(f.failed_count, 0);
    assert_true(fixture_holds(&f, 15 * MIB, 4096, 0));
    fixture_destroy(&f);
}

/* A unit that a trim released carries the old content until the trim is durable: power loss may bring the old record back. */
static void freed_units_are_reused_only_after_the_sync(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 16u * MIB, 25);
    fixture_open_shard(&f);
    for (uint32_t at = 0; at < 15 * MIB; at += MIB)
        assert_int_equal(fixture_write(&f, at, MIB, 5), 0);
    assert_int_equal(fixture_flush(&f), 0);
    assert_int_equal(fixture_zero(&f, 2 * MIB, MIB, 0), 0);
    uint64_t syncs = kv_sim_stats(f.base)->syncs;
    assert_int_equal(fixture_write(&f, 40 * MIB, MIB, 9), 0); /* has nowhere else to go */
    assert_true(kv_sim_stats(f.base)->syncs > syncs);
    kv_sim_faults(f.base)->power_drops_all = true;
    drive_sim_faults(f.disk)->power_keeps_all = true;
    fixture_crash(&f, /* power= */ true);
    fixture_open_shard(&f);
    assert_true(fixture_holds(&f, 2 * MIB, MIB, 0)); /* never another chunk's bytes (R22) */
    assert_true(fixture_holds(&f, 40 * MIB, MIB, 0));
    assert_true(fixture_holds(&f, 3 * MIB, MIB, 5));
    fixture_destroy(&f);
}

/* The same one step later: synced, but still being read. */
static void freed_units_are_reused_only_when_their_readers_are_gone(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 16u * MIB, 26);
    fixture_open_shard(&f);
    for (uint32_t at = 0; at < 15 * MIB; at += MIB)
        assert_int_equal(fixture_write(&f, at, MIB, 5), 0);
    struct drive_sim_faults *faults = drive_sim_faults(f.disk);
    faults->slow_permille = 1000;
    faults->slow_ns = ENV_MS(500);
    f.generation = 1; /* frees nothing, but shows what a long read is */
    struct fixture_io *slow = fixture_submit(&f, STORE_READ, 8 * MIB, 65536, NULL);
    faults->slow_permille = 0;
    f.generation = 0;
    assert_int_equal(fixture_zero(&f, 2 * MIB, MIB, 0), 0);
    struct fixture_io *write = NULL;
    uint8_t data[4096] = {1};
    write = fixture_submit(&f, STORE_WRITE, 40 * MIB, 4096, data);
    fixture_run(&f, ENV_MS(100));
    assert_false(slow->done);
    assert_false(write->done); /* the read began before the units were freed: it might be reading them */
    assert_int_equal(fixture_end(slow), 0);
    assert_int_equal(fixture_end(write), 0);
    fixture_destroy(&f);
}

static void count_shard(void *arg, const struct store_shard_id *id)
{
    uint32_t *count = arg;
    assert_int_equal(id->volume, FIXTURE_VOLUME);
    (*count)++;
}

static void dropped_shard_gives_its_space_back_and_is_never_read(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 32u * MIB, 27);
    fixture_open_shard(&f);
    for (uint32_t at = 0; at < 20 * MIB; at += MIB)
        assert_int_equal(fixture_write(&f, at, MIB, 5), 0);
    struct store_shard_id id = store_shard_identity(f.shard);
    store_shard_close(f.shard);
    store_shard_drop(f.store, &id);
    assert_int_equal(store_shard_open(f.store, &id, f.shard_bytes, &f.shard), -EBUSY);
    id.instance = 2;
    assert_int_equal(store_shard_open(f.store, &id, f.shard_bytes, &f.shard), 0);
    assert_true(fixture_holds(&f, 0, MIB, 0)); /* I12 */
    fixture_run(&f, ENV_MS(12));               /* some of it is removed */
    fixture_crash(&f, /* power= */ false);
    assert_int_equal(fixture_open(&f), 0);
    uint32_t count = 0;
    store_shard_each(f.store, count_shard, &count);
    assert_int_equal(count, 1); /* the new instance; the removal goes on unseen */
    assert_int_equal(store_shard_open(f.store, &id, f.shard_bytes, &f.shard), 0);
    assert_true(fixture_holds(&f, 5 * MIB, MIB, 0));
    fixture_run(&f, ENV_MS(20000));
    assert_int_equal(allocated(&f), 0);
    for (uint32_t at = 0; at < 30 * MIB; at += MIB) /* all of it can be used, and holds nothing foreign */
        assert_int_equal(fixture_write(&f, at, 4096, 6), 0);
    for (uint32_t at = 0; at < 30 * MIB; at += MIB)
        assert_true(fixture_holds(&f, at + 4096, MIB - 4096, 0));
    fixture_close(&f, /* clean= */ true);
    assert_int_equal(fixture_open(&f), 0);
    assert_int_equal(allocated(&f), 30);
    fixture_destroy(&f);
}

static void newer_instance_starts_with_no_history(void **state)
{
    (void)state;
    struct fixture f;
    struct store_chunk_info info;
    uint32_t next;
    fixture_create(&f, 32u * MIB, 28);
    fixture_open_shard(&f);
    assert_int_equal(fixture_write(&f, 0, MIB, 5), 0);
    struct store_shard_id id = store_shard_identity(f.shard);
    struct store_shard *second;
    id.instance = 2;
    assert_int_equal(store_shard_open(f.store, &id, f.shard_bytes, &second), -EBUSY); /* still open */
    store_shard_close(f.shard);
    assert_int_equal(store_shard_open(f.store, &id, f.shard_bytes, &f.shard), 0);
    assert_int_equal(store_chunks_modified(f.shard, 0, 0, &info, 1, &next), 0); /* R3 */
    assert_true(fixture_holds(&f, 0, MIB, 0));
    fixture_run(&f, ENV_MS(20000));
    assert_int_equal(allocated(&f), 0);
    fixture_destroy(&f);
}

static void on_drive(void *arg, enum drive_op op, uint64_t offset, uint32_t length, bool done)
{
    uint64_t *highest_zeroed = arg;
    if (op != DRIVE_WRITE || done || offset < STORE_CHUNK_BYTES)
        return;
    if (length == STORE_CHUNK_BYTES && offset + length > *highest_zeroed && offset <= *highest_zeroed)
        *highest_zeroed = offset + length;
    else
        assert_true(offset + length <= *highest_zeroed);
}

static void prewriting_gives_way_to_writes(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 512u * MIB, 31);
    drive_sim_set_file(f.disk, true);
    f.config.prewrite_bytes_per_s = 16u * MIB;
    f.shard_bytes = 128u * MIB;
    fixture_open_shard(&f);
    fixture_run(&f, ENV_MS(1000)); /* the part that must be ahead */
    uint64_t before = fixture_stats(&f).bytes_prewritten;
    fixture_run(&f, ENV_MS(4000));
    uint64_t alone = fixture_stats(&f).bytes_prewritten - before;
    for (int i = 0; i < 400; i++) {
        assert_int_equal(fixture_write(&f, 65536u * (uint32_t)(i % 16), 65536, 7), 0);
        fixture_run(&f, ENV_MS(10));
    }
    uint64_t beside = fixture_stats(&f).bytes_prewritten - before - alone;
    assert_true(alone >= 40 * MIB);
    assert_true(beside > 0 && beside <= alone / 4);
    fixture_destroy(&f);
}

static void file_store_writes_only_below_the_watermark(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t zeroed = STORE_CHUNK_BYTES;
    fixture_create(&f, 160u * MIB, 29);
    drive_sim_set_file(f.disk, true);
    drive_sim_trace(f.disk, on_drive, &zeroed);
    f.config.prewrite_bytes_per_s = 16u * MIB;
    f.shard_bytes = 128u * MIB;
    fixture_open_shard(&f);
    for (uint32_t at = 0; at < 20 * MIB; at += 65536) /* at once: outruns the prewriting */
        assert_int_equal(fixture_write(&f, at, 65536, 3), 0);
    fixture_run(&f, ENV_MS(300));
    uint64_t ahead = fixture_stats(&f).bytes_prewritten;
    assert_true(ahead >= 84 * MIB);
    fixture_crash(&f, /* power= */ false); /* its watermark was not persisted: the references tell */
    fixture_open_shard(&f);
    assert_true(fixture_holds(&f, 19 * MIB, MIB, 3));
    fixture_run(&f, ENV_MS(30000));
    assert_int_equal(fixture_stats(&f).bytes_prewritten, 160u * MIB);
    assert_true(fixture_holds(&f, 0, MIB, 3)); /* never over data */
    fixture_close(&f, /* clean= */ true);
    struct drive_sim_stats drive = *drive_sim_stats(f.disk);
    fixture_open_shard(&f);
    fixture_run(&f, ENV_MS(1000));
    assert_int_equal(drive_sim_stats(f.disk)->bytes_written, drive.bytes_written); /* persisted */
    fixture_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trim_frees_whole_units_and_zeroes_the_rest),
        cmocka_unit_test(trim_of_nothing_costs_nothing),
        cmocka_unit_test(enospc_is_exact_to_the_unit),
        cmocka_unit_test(write_without_any_space_fails_alone),
        cmocka_unit_test(freed_units_are_reused_only_after_the_sync),
        cmocka_unit_test(freed_units_are_reused_only_when_their_readers_are_gone),
        cmocka_unit_test(dropped_shard_gives_its_space_back_and_is_never_read),
        cmocka_unit_test(newer_instance_starts_with_no_history),
        cmocka_unit_test(prewriting_gives_way_to_writes),
        cmocka_unit_test(file_store_writes_only_below_the_watermark),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
