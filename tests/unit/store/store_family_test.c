/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots and clones: what each thing costs and shares, deletion in any order, older writes, rollback, flatten, diff. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/store/store_family.h"

#define MIB (1024u * 1024u)

static void start(struct fixture *f, struct family *family, uint64_t seed)
{
    fixture_create(f, 64u * MIB, seed);
    f->shard_bytes = 2u * MIB;
    f->config.clean_idle_ns = ENV_MS(1000);
    assert_int_equal(fixture_open(f), 0);
    family_create(family, f, seed);
}

static void end(struct fixture *f, struct family *family)
{
    assert_false(family->failed);
    family_check_all(family);
    family_check_records(family);
    family_check_offline(family);
    family_check_all(family);
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++)
        if (family->volumes[v].exists)
            store_shard_close(family->volumes[v].shard);
    family_destroy(family);
    fixture_destroy(f);
}

static uint64_t units(struct fixture *f)
{
    return fixture_stats(f).bytes_allocated / STORE_UNIT_BYTES;
}

static void settle(struct family *family)
{
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++)
        if (family->volumes[v].exists)
            store_committed(family->volumes[v].shard, family->f->epoch, family->f->lsn_n);
    fixture_run(family->f, ENV_MS(3000));
    family_flush(family);
    fixture_run(family->f, ENV_MS(3000));
}

static void clone_costs_nothing_until_it_is_written(void **state)
{
    (void)state;
    struct fixture f;
    struct family family;
    start(&f, &family, 1);
    struct family_volume *parent = family_volume(&family, 0);
    family_write(&family, parent, 1, 0, 256);
    family_snapshot(&family, parent);
    family_flush(&family);
    struct family_volume *clone = family_clone(&family, parent, 1);
    assert_int_equal(units(&f), 16);
    family_check(&family, clone, 1);
    struct drive_sim_stats drive = *drive_sim_stats(f.disk);
    family_write(&family, clone, 1, 5, 1);
    assert_int_equal(drive_sim_stats(f.disk)->bytes_written - drive.bytes_written, 4096); /* nothing is copied */
    assert_int_equal(units(&f), 17);
    assert_int_equal(fixture_stats(&f).records_inherited, 1);
    family_write(&family, parent, 2, 6, 1);
    assert_int_equal(units(&f), 18);
    family_check_all(&family);
    family_snapshot(&family, clone);
    struct family_volume *second = family_clone(&family, clone, 1); /* a clone of a clone */
    family_check(&family, second, 1);
    family_write(&family, second, 1, 300, 2);
    family_zero(&family, second, 1, 0, 256);
    end(&f, &family);
}

static void base_that_is_written_on_does_not_show_in_the_clone(void **state)
{
    (void)state;
    struct fixture f;
    struct family family;
    start(&f, &family, 2);
    struct family_volume *parent = family_volume(&family, 0);
    family_write(&family, parent, 1, 0, 64);
    family_snapshot(&family, parent);
    struct family_volume *clone = family_clone(&family, parent, 1);
    for (uint32_t i = 0; i < 20; i++) { /* both at once: neither sees the other, no false alarm */
        f.shard = clone->shard;
        f.generation = 1;
        struct fixture_io *io = fixture_submit(&f, STORE_READ, 0, 64 * STORE_BLOCK_BYTES, NULL);
        family_write(&family, parent, parent->head, i, 8);
        assert_int_equal(fixture_end(io), 0);
        family_check(&family, clone, 1);
    }
    end(&f, &family);
}

static void reads_that_waited_go_to_the_base_together(void **state)
{
    (void)state;
    struct fixture f;
    struct family family;
    start(&f, &family, 3);
    struct family_volume *parent = family_volume(&family, 0);
    family_write(&family, parent, 1, 0, 16); /* nothing in the second chunk */
    family_snapshot(&family, parent);
    struct family_volume *clone = family_clone(&family, parent, 1);
    f.shard = clone->shard;
    f.generation = 1;
    struct fixture_io *trim = fixture_submit(&f, STORE_ZERO, MIB, MIB, NULL);
    struct fixture_io *reads[4], *write;
    for (uint32_t i = 0; i < 4; i++)
        reads[i] = fixture_submit(&f, STORE_READ, MIB + i * STORE_BLOCK_BYTES, 2 * STORE_BLOCK_BYTES, NULL);
    uint8_t data[STORE_BLOCK_BYTES] = {0};
    write = fixture_submit(&f, STORE_WRITE, MIB + STORE_BLOCK_BYTES, sizeof(data), data); /* behind them */
    assert_int_equal(fixture_end(trim), 0);
    for (uint32_t i = 0; i < 4; i++) {
        assert_true(fixture_wait(&f, &reads[i]->done));
        for (uint32_t b = 0; b < 2 * STORE_BLOCK_BYTES; b++)
            assert_int_equal(reads[i]->io.buf->data[b], 0);
        assert_int_equal(fixture_end(reads[i]), 0);
    }
    assert_int_equal(fixture_end(write), 0);
    family_zero(&family, clone, 1, 256 + 1, 1); /* as the model has it */
    end(&f, &family);
}

static void deletion_in_any_order_frees_what_nobody_references(void **state)
{
    (void)state;
    static const uint32_t orders[][4] = {{1, 2, 3, 4}, {4, 3, 2, 1}, {2, 4, 1, 3}, {3, 1, 4, 2}};
    for (uint32_t o = 0; o < 4; o++) {
        struct fixture f;
        struct family family;
        start(&f, &family, 10 + o);
        struct family_volume *volume = family_volume(&family, 0);
        for (uint32_t g = 1; g <= 4; g++) {
            family_write(&family, volume, g, 0, 256);
            family_snapshot(&family, volume);
        }
        family_write(&family, volume, 5, 0, 16);
        family_flush(&family);
        assert_int_equal(units(&f), 65);
        for (uint32_t i = 0; i < 4; i++) {
            family_delete_snapshot(&family, volume, orders[o][i]);
            settle(&family);
            family_check_all(&family);
            bool newest_gone = !volume->snapshot[4]; /* the head holds 15 units of it */
            assert_int_equal(units(&f), 16 * (3 - i) + (newest_gone ? 16 : 1));
        }
        family_delete(&family, volume);
        settle(&family);
        assert_int_equal(units(&f), 0);
        end(&f, &family);
    }
}

static void family_goes_in_any_order(void **state)
{
    (void)state;
    for (uint32_t order = 0; order < 2; order++) {
        struct fixture f;
        struct family family;
        start(&f, &family, 20 + order);
        struct family_volume *parent = family_volume(&family, 0);
        family_write(&family, parent, 1, 0, 256);
        family_snapshot(&family, parent);
        struct family_volume *clone = family_clone(&family, parent, 1);
        family_write(&family, clone, 1, 256, 256);
        family_delete_snapshot(&family, parent, 1); /* hidden: the clone holds it */
        family_write(&family, parent, 2, 0, 256);
        family_flush(&family);
        assert_int_equal(units(&f), 48);
        family_delete(&family, order ? clone : parent);
        settle(&family);
        assert_int_equal(units(&f), order ? 16 : 32);
        family_check_all(&family);
        if (!order) { /* the parent is gone, what the clone reads is not */
            family_crash(&family, /* power= */ true);
            family_check(&family, clone, 1);
        }
        family_delete(&family, order ? parent : clone);
        settle(&family);
        assert_int_equal(units(&f), 0);
        end(&f, &family);
    }
}

/* A generation that no live one needs is not shared with: the next write goes in place. */
static void record_moves_when_nobody_needs_the_older_one(void **state)
{
    (void)state;
    struct fixture f;
    struct family family;
    start(&f, &family, 3);
    struct family_volume *volume = family_volume(&family, 0);
    family_write(&family, volume, 1, 0, 256);
    family_snapshot(&family, volume);
    family_delete_snapshot(&family, volume, 1);
    family_write(&family, volume, 2, 7, 1);
    assert_int_equal(units(&f), 16);
    assert_int_equal(fixture_stats(&f).records_moved, 1);
    assert_int_equal(fixture_stats(&f).records_switched, 0);
    family_crash(&family, /* power= */ false);
    assert_int_equal(units(&f), 16);
    end(&f, &family);
}

static void copy_of_an_older_generation_changes_that_record_alone(void **state)
{
    (void)state;
    struct fixture f;
    struct family family;
    start(&f, &family, 4);
    struct family_volume *volume = family_volume(&family, 0);
    family_write(&family, volume, 1, 0, 256);
    family_snapshot(&family, volume);
    family_snapshot(&family, volume);
    family_snapshot(&family, volume);
    family_write(&family, volume, 4, 0, 4); /* records 1 and 4 */
    f.shard = volume->shard;
    f.generation = 2;
    assert_int_equal(fixture_write(&f, 0, 4096, 1), -ESTALE); /* a client's: sealed */
    assert_int_equal(fixture_zero(&f, 0, 4096, 0), -ESTALE);
    f.shard = NULL;
    family_write(&family, volume, 2, 2, 4); /* 1, 2, 4: three sees it, four not */
    family_check_all(&family);
    family_write(&family, volume, 1, 3, 9);
    family_write(&family, volume, 1, 3, 9); /* what is valid is not overwritten: a third source merges */
    family_zero(&family, volume, 2, 0, 40);
    family_check_all(&family);
    family_flush(&family);
    family_crash(&family, /* power= */ true);
    end(&f, &family);
}

static void rollback_reads_as_the_snapshot_and_keeps_the_others(void **state)
{
    (void)state;
    struct fixture f;
    struct family family;
    start(&f, &family, 5);
    struct family_volume *volume = family_volume(&family, 0);
    family_write(&family, volume, 1, 0, 100);
    family_snapshot(&family, volume);
    family_write(&family, volume, 2, 50, 100);
    family_write(&family, volume, 2, 300, 100); /* this chunk was not there */
    family_snapshot(&family, volume);
    family_write(&family, volume, 3, 20, 3);
    family_rollback(&family, volume, 1);
    assert_int_equal(volume->head, 4);
    family_check_all(&family);
    family_write(&family, volume, 4, 60, 2);
    family_rollback(&family, volume, 2); /* forward again */
    family_check_all(&family);
    family_crash(&family, /* power= */ true);
    end(&f, &family);
}

static void flattened_clone_needs_no_base(void **state)
{
    (void)state;
    struct fixture f;
    struct family family;
    start(&f, &family, 6);
    struct family_volume *parent = family_volume(&family, 0);
    family_write(&family, parent, 1, 0, 256);
    family_write(&family, parent, 1, 256, 100);
    family_snapshot(&family, parent);
    struct family_volume *clone = family_clone(&family, parent, 1);
    family_snapshot(&family, clone);
    family_write(&family, clone, 2, 3, 1); /* generation 1 of this chunk reads through the base */
    struct drive_sim_stats drive = *drive_sim_stats(f.disk);
    family_flatten(&family, clone);
    assert_int_equal(drive_sim_stats(f.disk)->bytes_written, drive.bytes_written); /* records only */
    struct store_chunk_info infos[8];
    uint32_t next;
    assert_int_equal(store_chunks_modified(clone->shard, 0, 0, infos, 8, &next), 2); /* R16: a new member gets them */
    family_check_all(&family);
    family_delete(&family, parent);
    settle(&family);
    assert_false(parent->exists);
    family_check_all(&family);
    family_crash(&family, /* power= */ true);
    end(&f, &family);
}

static void base_is_not_dropped_under_a_clone(void **state)
{
    (void)state;
    struct fixture f;
    struct family family;
    start(&f, &family, 7);
    struct family_volume *parent = family_volume(&family, 0);
    family_write(&family, parent, 1, 0, 10);
    family_snapshot(&family, parent);
    struct family_volume *clone = family_clone(&family, parent, 1);
    struct store_shard_id id = store_shard_identity(parent->shard);
    struct store_base base = {.id = id, .generation = 1}, found;
    assert_true(store_shard_is_base(f.store, &id));
    assert_true(store_shard_base(clone->shard, &found));
    assert_int_equal(found.generation, 1);
    assert_int_equal(store_shard_set_base(clone->shard, &base), 0); /* this one already */
    base.generation = 2;
    assert_int_equal(store_shard_set_base(clone->shard, &base), -EEXIST);
    base.id.volume = 4711;
    assert_int_equal(store_shard_set_base(parent->shard, &base), -ENOENT);
    store_shard_close(parent->shard);
    store_shard_drop(f.store, &id); /* waits for the clone */
    fixture_run(&f, ENV_MS(1000));
    family_check(&family, clone, 1);
    assert_int_equal(store_shard_open(f.store, &id, f.shard_bytes, &parent->shard), 0);
    family_snapshot(&family, parent); /* tells what is live again; the removal is off */
    family_check_all(&family);
    struct family_volume *at = clone;
    for (uint32_t depth = 2; depth <= 4; depth++) {
        family_snapshot(&family, at);
        at = family_clone(&family, at, 1);
    }
    family_check(&family, at, 1);
    end(&f, &family);
}

static void diff_tells_what_changed_from_records_alone(void **state)
{
    (void)state;
    struct fixture f;
    struct family family;
    start(&f, &family, 8);
    struct family_volume *volume = family_volume(&family, 0);
    family_write(&family, volume, 1, 0, 256);
    family_snapshot(&family, volume);
    family_write(&family, volume, 2, 3, 2);
    family_snapshot(&family, volume);
    family_zero(&family, volume, 3, 30, 4);
    family_write(&family, volume, 3, 300, 1);
    struct store_extent extents[8];
    uint64_t reads = drive_sim_stats(f.disk)->reads;
    for (uint32_t since = 1; since <= 3; since++)
        for (uint32_t g = since; g <= 3; g++)
            family_check_diff(&family, volume, since, g);
    family_check_diff(&family, volume, 0, 1);
    family_check_diff(&family, volume, 0, 3);
    assert_int_equal(drive_sim_stats(f.disk)->reads, reads);
    assert_int_equal(store_extents(volume->shard, 3, 30 * 4096, 8 * 4096, extents, 8), 2); /* the head: at once */
    assert_int_equal(extents[0].state, 2);
    end(&f, &family);
}

/* Reading an old generation takes one seek and memory for itself, however many there are. */
static void long_chain_takes_no_memory_and_no_walk(void **state)
{
    (void)state;
    struct fixture f;
    struct family family;
    start(&f, &family, 9);
    struct family_volume *volume = family_volume(&family, 0);
    for (uint32_t g = 1; g < 150; g++) {
        family_write(&family, volume, g, g, 1);
        family_snapshot(&family, volume);
    }
    struct kv_sim_stats kv = *kv_sim_stats(f.base);
    family_check(&family, volume, 1);
    assert_true(kv_sim_stats(f.base)->scans - kv.scans <= 2);
    family_check_all(&family);
    assert_true(fixture_stats(&f).old_maps_cached <= 512);
    for (uint32_t g = 1; g < 150; g += 3)
        family_delete_snapshot(&family, volume, g);
    settle(&family);
    family_check_all(&family);
    assert_true(fixture_stats(&f).records_removed >= 40);
    end(&f, &family);
}

/* What no flush covered may never have existed: a clone must not take it for settled (R21, I12). */
static void unflushed_blocks_are_settled_before_a_clone_shares_them(void **state)
{
    (void)state;
    struct fixture f;
    struct store_shard_id ids[2] = {{.volume = 5, .instance = 1}, {.volume = 6, .instance = 1}};
    struct store_base base = {.id = ids[0], .generation = 1};
    struct store_shard *parent, *clone;
    uint8_t data[4096];
    fixture_create(&f, 64u * MIB, 13);
    assert_int_equal(fixture_open(&f), 0);
    assert_int_equal(store_shard_open(f.store, &ids[0], 2 * MIB, &parent), 0);
    assert_int_equal(store_shard_open(f.store, &ids[1], 2 * MIB, &clone), 0);
    f.generation = 1;
    assert_int_equal(store_shard_set_base(clone, &base), 0);
    f.shard = parent;
    assert_int_equal(fixture_write(&f, MIB, 4096, 3), 0); /* marks the regions: no round comes by itself later */
    f.shard = clone;
    assert_int_equal(fixture_write(&f, MIB + 65536, 4096, 3), 0);
    f.shard = parent;
    assert_int_equal(fixture_write(&f, 0, 4096, 1), 0);
    f.shard = clone;
    assert_int_equal(fixture_write(&f, 8192, 4096, 2), 0);
    kv_sim_faults(f.base)->power_keeps_all = true;
    drive_sim_faults(f.disk)->power_drops_all = true;
    fixture_crash(&f, /* power= */ true);
    assert_int_equal(fixture_open(&f), 0);
    assert_int_equal(store_shard_open(f.store, &ids[0], 2 * MIB, &parent), 0);
    assert_int_equal(store_shard_open(f.store, &ids[1], 2 * MIB, &clone), 0);
    f.shard = clone;
    assert_int_equal(fixture_read(&f, 0, 4096, data), 0);
    assert_int_equal(data[0], 1);
    assert_true(fixture_holds(&f, 8192, 4096, 0)); /* this one was lost, and was not flushed */
    f.shard = NULL;
    store_shard_close(parent);
    store_shard_close(clone);
    fixture_destroy(&f);
}

/* What snapshots cost comes back when they are gone, the second source of a unit, too. */
static void space_of_deleted_snapshots_comes_back(void **state)
{
    (void)state;
    struct fixture f;
    struct family family;
    start(&f, &family, 12);
    struct family_volume *volume = family_volume(&family, 0);
    family_write(&family, volume, 1, 0, 256);
    family_write(&family, volume, 1, 256, 256);
    family_flush(&family);
    family_snapshot(&family, volume);
    for (uint32_t unit = 0; unit < 32; unit++)
        family_write(&family, volume, 2, unit * 16 + unit % 16, 1);
    assert_int_equal(units(&f), 64);
    settle(&family);
    assert_int_equal(units(&f), 64); /* shared: nothing to be gained */
    family_delete_snapshot(&family, volume, 1);
    settle(&family);
    assert_int_equal(units(&f), 32);
    assert_int_equal(fixture_stats(&f).units_compacted, 32);
    family_crash(&family, /* power= */ true);
    assert_int_equal(units(&f), 32);
    end(&f, &family);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clone_costs_nothing_until_it_is_written),
        cmocka_unit_test(base_that_is_written_on_does_not_show_in_the_clone),
        cmocka_unit_test(reads_that_waited_go_to_the_base_together),
        cmocka_unit_test(deletion_in_any_order_frees_what_nobody_references),
        cmocka_unit_test(family_goes_in_any_order),
        cmocka_unit_test(record_moves_when_nobody_needs_the_older_one),
        cmocka_unit_test(copy_of_an_older_generation_changes_that_record_alone),
        cmocka_unit_test(rollback_reads_as_the_snapshot_and_keeps_the_others),
        cmocka_unit_test(flattened_clone_needs_no_base),
        cmocka_unit_test(base_is_not_dropped_under_a_clone),
        cmocka_unit_test(diff_tells_what_changed_from_records_alone),
        cmocka_unit_test(unflushed_blocks_are_settled_before_a_clone_shares_them),
        cmocka_unit_test(space_of_deleted_snapshots_comes_back),
        cmocka_unit_test(long_chain_takes_no_memory_and_no_walk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
