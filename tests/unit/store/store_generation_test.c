/* SPDX-License-Identifier: Apache-2.0 */
/* Generations: redirect on first write, third sources merge, what they cost; digests (R16); scrub; starts that must fail. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/crc32c.h"
#include "server/store/records.h"
#include "tests/unit/store/store_fixture.h"

#define MIB (1024u * 1024u)

static void start(struct fixture *f, uint64_t seed)
{
    fixture_create(f, 64u * MIB, seed);
    f->config.clean_idle_ns = f->config.checkpoint_ns = ENV_MS(1000000);
    fixture_open_shard(f);
}

static bool holds_at(struct fixture *f, uint32_t generation, uint64_t offset, uint32_t length, uint8_t fill)
{
    uint32_t now = f->generation;
    f->generation = generation;
    bool holds = fixture_holds(f, offset, length, fill);
    f->generation = now;
    return holds;
}

static uint64_t allocated(struct fixture *f)
{
    return fixture_stats(f).bytes_allocated / STORE_UNIT_BYTES;
}

static void first_write_after_a_snapshot_takes_just_those_blocks(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, 31);
    assert_int_equal(fixture_write(&f, 0, MIB, 1), 0);
    assert_int_equal(fixture_flush(&f), 0);
    f.generation = 1;
    assert_int_equal(store_units_needed(f.shard, 1, 8192, 4096), 1);
    assert_int_equal(store_units_needed(f.shard, 0, 8192, 4096), 0);
    struct drive_sim_stats drive = *drive_sim_stats(f.disk);
    assert_int_equal(fixture_write(&f, 8192, 4096, 2), 0);
    assert_int_equal(drive_sim_stats(f.disk)->bytes_written - drive.bytes_written, 4096); /* nothing copied */
    assert_int_equal(drive_sim_stats(f.disk)->reads, drive.reads);
    assert_int_equal(allocated(&f), 17);
    assert_true(fixture_holds(&f, 0, 8192, 1));
    assert_true(fixture_holds(&f, 8192, 4096, 2));
    assert_true(fixture_holds(&f, 12288, MIB - 12288, 1));
    assert_true(holds_at(&f, 0, 0, MIB, 1));
    struct kv_sim_stats kv = *kv_sim_stats(f.base); /* from now on that block is this generation's own */
    assert_int_equal(fixture_write(&f, 8192, 4096, 3), 0);
    assert_int_equal(kv_sim_stats(f.base)->writes, kv.writes);
    assert_int_equal(allocated(&f), 17);
    fixture_close(&f, /* clean= */ true);
    fixture_open_shard(&f);
    assert_true(fixture_holds(&f, 8192, 4096, 3));
    assert_true(holds_at(&f, 0, 0, MIB, 1));
    assert_true(holds_at(&f, 77, 8192, 4096, 3)); /* the newest record that is not above it */
    assert_int_equal(allocated(&f), 17);
    fixture_destroy(&f);
}

static void third_source_merges_at_once(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, 32);
    assert_int_equal(fixture_write(&f, 0, 65536, 1), 0);
    for (uint32_t g = 1; g <= 2; g++) { /* the same block again: the unit that has it cannot be filled */
        assert_int_equal(fixture_flush(&f), 0);
        f.generation = g;
        assert_int_equal(fixture_write(&f, 4096, 4096 * g, (uint8_t)(g + 1)), 0);
    }
    assert_int_equal(fixture_stats(&f).units_merged, 1);
    assert_int_equal(allocated(&f), 3);
    for (uint32_t crash = 0; crash < 2; crash++) {
        assert_true(holds_at(&f, 0, 0, 65536, 1));
        assert_true(holds_at(&f, 1, 4096, 4096, 2));
        assert_true(holds_at(&f, 1, 8192, 65536 - 8192, 1));
        assert_true(holds_at(&f, 2, 0, 4096, 1));
        assert_true(holds_at(&f, 2, 4096, 8192, 3));
        assert_true(holds_at(&f, 2, 12288, 65536 - 12288, 1));
        if (crash == 0) {
            assert_int_equal(fixture_flush(&f), 0);
            fixture_crash(&f, /* power= */ true);
            fixture_open_shard(&f);
        }
    }
    assert_int_equal(allocated(&f), 3);
    fixture_destroy(&f);
}

/* 16 units that merge at once, with at most so many drive flushes. */
static void merges_share_their_flush(void **state)
{
    (void)state;
    struct fixture f;
    struct fixture_io *writes[16];
    uint8_t data[4096];
    start(&f, 43);
    assert_int_equal(fixture_write(&f, 0, MIB, 1), 0);
    for (f.generation = 1; f.generation <= 2; f.generation++) {
        assert_int_equal(fixture_flush(&f), 0);
        uint64_t flushes = drive_sim_stats(f.disk)->flushes;
        memset(data, 1 + (int)f.generation, sizeof(data));
        for (uint32_t unit = 0; unit < 16; unit++)
            writes[unit] = fixture_submit(&f, STORE_WRITE, unit * 65536, sizeof(data), data);
        for (uint32_t unit = 0; unit < 16; unit++)
            assert_int_equal(fixture_end(writes[unit]), 0);
        assert_in_range(drive_sim_stats(f.disk)->flushes - flushes, f.generation - 1, f.generation == 1 ? 0 : 8);
    }
    assert_int_equal(fixture_stats(&f).units_merged, 16);
    f.generation = 2;
    for (uint32_t unit = 0; unit < 16; unit++) {
        assert_true(fixture_holds(&f, unit * 65536, 4096, 3));
        assert_true(fixture_holds(&f, unit * 65536 + 4096, 65536 - 4096, 1));
        assert_true(holds_at(&f, 1, unit * 65536, 4096, 2));
    }
    fixture_destroy(&f);
}

/* R13: a flush that failed is never followed by one that succeeds. */
static void failed_flush_of_a_merge_fails_the_store(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, 44);
    assert_int_equal(fixture_write(&f, 0, 65536, 1), 0);
    for (f.generation = 1; f.generation <= 2; f.generation++) {
        assert_int_equal(fixture_flush(&f), 0);
        drive_sim_faults(f.disk)->fail_nth = f.generation == 2 ? 3 : 0; /* read, write, flush */
        assert_int_equal(fixture_write(&f, 0, 4096, 2), f.generation == 2 ? -EIO : 0);
    }
    assert_int_equal(fixture_flush(&f), -EIO);
    assert_int_equal(fixture_write(&f, 8192, 4096, 2), -EIO);
    fixture_crash(&f, /* power= */ false);
    fixture_open_shard(&f);
    f.generation = 1;
    assert_true(fixture_holds(&f, 0, 4096, 2));
    assert_true(fixture_holds(&f, 4096, 65536 - 4096, 1));
    fixture_destroy(&f);
}

/* Generation g writes block g of a unit: all of them share one new unit, and none of them copies or flushes anything. */
static void generations_fill_the_slots_of_one_unit(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, 36);
    assert_int_equal(fixture_write(&f, 0, 65536, 1), 0);
    assert_int_equal(fixture_flush(&f), 0);
    struct drive_sim_stats drive = *drive_sim_stats(f.disk);
    for (uint32_t g = 1; g < 16; g++) {
        f.generation = g;
        assert_int_equal(store_units_needed(f.shard, g, g * 4096, 4096), g == 1);
        assert_int_equal(fixture_write(&f, g * 4096, 4096, (uint8_t)(g + 1)), 0);
    }
    assert_int_equal(allocated(&f), 2);
    assert_int_equal(fixture_stats(&f).units_merged, 0);
    assert_int_equal(drive_sim_stats(f.disk)->bytes_written - drive.bytes_written, 15 * 4096);
    assert_int_equal(drive_sim_stats(f.disk)->reads, drive.reads);
    assert_int_equal(drive_sim_stats(f.disk)->flushes, drive.flushes);
    for (uint32_t crash = 0; crash < 2; crash++) {
        for (uint32_t g = 0; g < 16; g++)
            for (uint32_t block = 0; block < 16; block++)
                assert_true(holds_at(&f, g, block * 4096, 4096, block > 0 && block <= g ? (uint8_t)(block + 1) : 1));
        if (crash == 0) {
            assert_int_equal(fixture_flush(&f), 0);
            fixture_crash(&f, /* power= */ true);
            fixture_open_shard(&f);
        }
    }
    f.generation = 16; /* what was filled is not filled again; after a start nothing is known to be free */
    assert_int_equal(store_units_needed(f.shard, 16, 4096, 4096), 1);
    assert_int_equal(fixture_write(&f, 0, 8192, 99), 0);
    assert_true(holds_at(&f, 15, 0, 4096, 1));
    assert_true(holds_at(&f, 15, 4096, 4096, 2));
    assert_true(fixture_holds(&f, 0, 8192, 99));
    fixture_destroy(&f);
}

/* A trimmed block's slot is the older record's still. */
static void slots_of_trimmed_blocks_are_not_filled(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, 37);
    assert_int_equal(fixture_write(&f, 0, 8192, 1), 0);
    for (uint32_t g = 1; g <= 3; g++) {
        f.generation = g;
        assert_int_equal(fixture_zero(&f, 0, 4096, 0), 0);
        if (g == 3)
            assert_int_equal(fixture_write(&f, 0, 4096, 3), 0);
        assert_int_equal(fixture_write(&f, (g + 4) * 4096, 4096, (uint8_t)(10 + g)), 0);
    }
    assert_true(holds_at(&f, 0, 0, 8192, 1));
    for (uint32_t g = 1; g <= 3; g++) {
        assert_true(holds_at(&f, g, 0, 4096, g == 3 ? 3 : 0));
        assert_true(holds_at(&f, g, 4096, 4096, 1));
        for (uint32_t at = 1; at <= 3; at++)
            assert_true(holds_at(&f, g, (at + 4) * 4096, 4096, at <= g ? (uint8_t)(10 + at) : 0));
    }
    fixture_destroy(&f);
}

/* What no flush covered may never have existed, in all records that took it over, or in none (R21, I12). */
static void unflushed_blocks_are_lost_or_kept_in_every_generation(void **state)
{
    (void)state;
    for (int lost = 0; lost < 2; lost++) {
        struct fixture f;
        start(&f, 39);
        assert_int_equal(fixture_write(&f, 4096, 65536 - 4096, 1), 0);
        assert_int_equal(fixture_flush(&f), 0);
        f.generation = 1;
        assert_int_equal(fixture_write(&f, 4096, 4096, 2), 0); /* an older source beneath */
        assert_int_equal(fixture_write(&f, 0, 4096, 2), 0);    /* none */
        uint64_t syncs = kv_sim_stats(f.base)->syncs, flushes = drive_sim_stats(f.disk)->flushes;
        for (f.generation = 2; f.generation < 4; f.generation++)
            assert_int_equal(fixture_write(&f, f.generation * 4096, 4096, (uint8_t)(1 + f.generation)), 0);
        assert_int_equal(kv_sim_stats(f.base)->syncs, syncs); /* nothing was waited for */
        assert_int_equal(drive_sim_stats(f.disk)->flushes, flushes);
        kv_sim_faults(f.base)->power_keeps_all = true;
        drive_sim_faults(f.disk)->power_drops_all = lost;
        drive_sim_faults(f.disk)->power_keeps_all = !lost;
        fixture_crash(&f, /* power= */ true);
        fixture_open_shard(&f);
        for (uint32_t g = 1; g < 4; g++) {
            assert_true(holds_at(&f, g, 0, 4096, lost ? 0 : 2));
            assert_true(holds_at(&f, g, 4096, 4096, lost ? 1 : 2));
            assert_true(holds_at(&f, g, 8192, 4096, lost || g < 2 ? 1 : 3));
            assert_true(holds_at(&f, g, 12288, 4096, lost || g < 3 ? 1 : 4));
            assert_true(holds_at(&f, g, 16384, 65536 - 16384, 1));
        }
        assert_true(holds_at(&f, 0, 4096, 65536 - 4096, 1));
        assert_int_equal(f.damaged_count, 0);
        fixture_destroy(&f);
    }
}

/* A unit with unsettled blocks can't be put beneath another: their older source would be a third one. */
static void unflushed_blocks_are_merged_when_their_unit_is_redirected(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, 38);
    assert_int_equal(fixture_write(&f, 0, 4096, 1), 0);
    f.generation = 1;
    assert_int_equal(fixture_write(&f, 0, 8192, 2), 0);
    assert_int_equal(fixture_stats(&f).units_merged, 1);
    drive_sim_faults(f.disk)->power_drops_all = true;
    kv_sim_faults(f.base)->power_keeps_all = true;
    fixture_crash(&f, /* power= */ true);
    fixture_open_shard(&f);
    assert_true(fixture_holds(&f, 0, 8192, 2)); /* merging flushed it */
    assert_true(holds_at(&f, 0, 0, 4096, 1));
    assert_true(holds_at(&f, 0, 4096, 4096, 0));
    assert_int_equal(f.damaged_count, 0);
    fixture_destroy(&f);
}

static void trim_after_a_snapshot_leaves_the_snapshot_alone(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, 33);
    assert_int_equal(fixture_write(&f, 0, MIB, 1), 0);
    f.generation = 1;
    assert_int_equal(fixture_zero(&f, 0, MIB, 0), 0);
    assert_true(fixture_holds(&f, 0, MIB, 0));
    assert_true(holds_at(&f, 0, 0, MIB, 1));
    assert_int_equal(allocated(&f), 16);
    assert_int_equal(fixture_write(&f, 4096, 4096, 2), 0);
    assert_true(fixture_holds(&f, 0, 4096, 0));
    assert_true(fixture_holds(&f, 8192, 4096, 0));
    assert_true(holds_at(&f, 0, 0, MIB, 1));
    fixture_destroy(&f);
}

struct digest_wait {
    struct store_digest req;
    struct store_block_digest blocks[STORE_CHUNK_BLOCKS];
    bool done;
    int rc;
};

/* Checksums that an unclean stop left behind are shared with the next generation's record before anybody verified them: both records
 * are verified, also when the store stops uncleanly once more in between, or reading the older one would report damage. */
static void suspect_checksums_are_verified_in_every_record_that_has_them(void **state)
{
    (void)state;
    for (int again = 0; again < 3; again++) {
        struct fixture f;
        start(&f, 45 + (uint64_t)again);
        assert_int_equal(fixture_write(&f, 0, MIB, 1), 0);
        assert_int_equal(fixture_flush(&f), 0);
        assert_int_equal(fixture_write(&f, 8192, 8192, 2), 0); /* checksums in memory only */
        fixture_crash(&f, /* power= */ false);
        fixture_open_shard(&f);
        assert_true(store_shard_suspect(f.shard));
        f.generation = 1;
        assert_int_equal(fixture_write(&f, 409600, 4096, 3), 0);
        assert_int_equal(fixture_stats(&f).records_switched, 1);
        for (; again == 2 && f.generation < 3; f.generation++) /* two more records take them over */
            assert_int_equal(fixture_write(&f, 409600 + (f.generation - 1) * 4096, 4096, 3), 0);
        if (again == 2)
            assert_int_equal(fixture_write(&f, 417792, 4096, 3), 0);
        assert_true(store_shard_suspect(f.shard)); /* it was not verified meanwhile */
        if (again) {
            fixture_crash(&f, /* power= */ false);
            fixture_open_shard(&f);
        }
        fixture_run(&f, ENV_MS(2000));
        assert_false(store_shard_suspect(f.shard));
        assert_int_equal(fixture_stats(&f).blocks_adopted, again == 2 ? 8 : 4);
        fixture_close(&f, /* clean= */ true);
        fixture_open_shard(&f);
        assert_true(holds_at(&f, 0, 8192, 8192, 2));
        assert_true(holds_at(&f, 0, 409600, 4096, 1));
        assert_true(holds_at(&f, 1, 8192, 8192, 2));
        assert_true(holds_at(&f, 1, 409600, 4096, 3));
        assert_true(holds_at(&f, 2, 8192, 8192, 2));
        assert_int_equal(f.damaged_count, 0);
        fixture_destroy(&f);
    }
}

/* Verified in the older record, the checksums were in memory only when nothing was suspect any more: the next unclean stop looked at
 * the two newest records, and reading the older one reported damage. */
static void verified_checksums_of_an_older_record_outlive_the_next_unclean_stop(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, 49);
    assert_int_equal(fixture_write(&f, 0, MIB, 1), 0);
    assert_int_equal(fixture_flush(&f), 0);
    assert_int_equal(fixture_write(&f, 8192, 8192, 2), 0); /* checksums in memory only */
    fixture_crash(&f, /* power= */ false);
    fixture_open_shard(&f);
    f.generation = 1;
    assert_int_equal(fixture_write(&f, 409600, 4096, 3), 0);
    assert_true(store_shard_suspect(f.shard)); /* it was not verified meanwhile */
    fixture_run(&f, ENV_MS(2000));
    assert_false(store_shard_suspect(f.shard));
    assert_int_equal(fixture_stats(&f).blocks_adopted, 4);
    for (f.generation = 2; f.generation < 4; f.generation++)
        assert_int_equal(fixture_write(&f, 409600, 4096, 4), 0);
    f.generation = 3;
    assert_int_equal(fixture_stats(&f).records_switched, 3);
    fixture_crash(&f, /* power= */ false);
    fixture_open_shard(&f);
    fixture_run(&f, ENV_MS(2000));
    assert_false(store_shard_suspect(f.shard));
    assert_true(holds_at(&f, 0, 8192, 8192, 2));
    assert_true(holds_at(&f, 1, 8192, 8192, 2));
    assert_int_equal(f.damaged_count, 0);
    fixture_destroy(&f);
}

static void digested(struct store_digest *req, int rc)
{
    struct digest_wait *wait = req->owner;
    wait->done = true;
    wait->rc = rc;
}

static int digest(struct fixture *f, uint32_t chunk, uint32_t generation, struct digest_wait *wait)
{
    memset(wait, 0, sizeof(*wait));
    wait->req = (struct store_digest){.shard = f->shard,
                                      .chunk = chunk,
                                      .generation = generation,
                                      .blocks = wait->blocks,
                                      .cb = digested,
                                      .owner = wait};
    store_digest(&wait->req);
    assert_false(wait->done);
    assert_true(fixture_wait(f, &wait->done));
    return wait->rc;
}

static void digest_is_recomputed_from_the_drive(void **state)
{
    (void)state;
    struct fixture f;
    struct digest_wait wait;
    uint8_t data[4096];
    start(&f, 34);
    assert_int_equal(digest(&f, 0, 0, &wait), 0); /* absent */
    assert_int_equal(wait.blocks[0].state, 0);
    assert_int_equal(fixture_write(&f, 65536, 8192, 9), 0);
    f.generation = 1;
    assert_int_equal(fixture_write(&f, 65536, 4096, 8), 0);
    memset(data, 9, sizeof(data));
    assert_int_equal(digest(&f, 0, 0, &wait), 0);
    assert_int_equal(wait.blocks[15].state, 0);
    assert_int_equal(wait.blocks[16].state, 1);
    assert_int_equal(wait.blocks[16].crc32c, crc32c(data, 4096));
    assert_true(wait.blocks[16].crc64 == crc64(data, 4096));
    assert_int_equal(wait.blocks[18].state, 0);
    assert_int_equal(digest(&f, 0, 1, &wait), 0);
    memset(data, 8, sizeof(data));
    assert_int_equal(wait.blocks[16].crc32c, crc32c(data, 4096));
    uint64_t at = STORE_CHUNK_BYTES;
    for (drive_sim_peek(f.disk, at, data, 8); data[0] != 8; drive_sim_peek(f.disk, at, data, 8))
        at += 4096;
    drive_sim_flip(f.disk, at, 1); /* a stored checksum would not see it */
    uint32_t before = wait.blocks[16].crc32c;
    assert_int_equal(digest(&f, 0, 1, &wait), 0);
    assert_int_not_equal(wait.blocks[16].crc32c, before);
    fixture_destroy(&f);
}

static void scrub_finds_rot_without_being_asked(void **state)
{
    (void)state;
    struct fixture f;
    uint8_t data[8];
    fixture_create(&f, 64u * MIB, 35);
    f.config.scrub_bytes_per_s = 4u * MIB;
    f.config.clean_idle_ns = ENV_MS(1000);
    fixture_open_shard(&f);
    for (uint32_t at = 0; at < 4 * MIB; at += MIB)
        assert_int_equal(fixture_write(&f, at, MIB, 4), 0);
    fixture_run(&f, ENV_MS(5000));
    assert_true(fixture_stats(&f).scrub_passes >= 1);
    assert_int_equal(f.damaged_count, 0);
    uint64_t at = STORE_CHUNK_BYTES;
    for (drive_sim_peek(f.disk, at, data, 8); data[0] != 4; drive_sim_peek(f.disk, at, data, 8))
        at += 4096;
    drive_sim_flip(f.disk, at + 300, 0x80);
    uint64_t reads = drive_sim_stats(f.disk)->reads;
    fixture_run(&f, ENV_MS(1000));
    assert_true(drive_sim_stats(f.disk)->reads - reads <= 4 * 16 + 1); /* its rate is bounded */
    fixture_run(&f, ENV_MS(4000));
    assert_true(f.damaged_count >= 1);
    assert_true(fixture_stats(&f).scrub_errors >= 1);
    fixture_destroy(&f);
}

/* Goal: a list of live generations that is older than what is written removes nothing of it. */
static void an_outdated_list_removes_nothing(void **state)
{
    (void)state;
    struct fixture f;
    const uint32_t two[] = {2}, three[] = {3};
    fixture_create(&f, 64u * MIB, 38);
    fixture_open_shard(&f);
    f.generation = 1;
    assert_int_equal(fixture_write(&f, 0, 65536, 4), 0);
    f.generation = 2;
    assert_int_equal(fixture_write(&f, 0, 65536, 5), 0);
    store_generations(f.shard, two, 1); /* the first one is to go, in the background */
    f.generation = 3;
    assert_int_equal(fixture_write(&f, 0, 65536, 6), 0);
    assert_int_equal(fixture_flush(&f), 0);
    fixture_run(&f, ENV_MS(3000));
    assert_true(fixture_holds(&f, 0, 65536, 6));
    store_generations(f.shard, three, 1);
    fixture_run(&f, ENV_MS(3000));
    assert_true(fixture_holds(&f, 0, 65536, 6));
    fixture_destroy(&f);
}

/* Goal: what only a snapshot holds is verified, too, and nothing that is sound is called damaged.
 * Method: three generations, of which the newer ones overwrite a part; rot in a block that only the oldest holds. */
static void scrub_finds_rot_in_older_generations(void **state)
{
    (void)state;
    struct fixture f;
    uint8_t data[8];
    fixture_create(&f, 64u * MIB, 37);
    f.config.scrub_bytes_per_s = 8u * MIB;
    f.config.clean_idle_ns = ENV_MS(1000);
    fixture_open_shard(&f);
    for (uint32_t at = 0; at < 2 * MIB; at += MIB)
        assert_int_equal(fixture_write(&f, at, MIB, 4), 0);
    assert_int_equal(fixture_flush(&f), 0);
    f.generation = 2;
    assert_int_equal(fixture_write(&f, 0, MIB, 5), 0);
    assert_int_equal(fixture_write(&f, MIB, 8192, 6), 0);
    assert_int_equal(fixture_flush(&f), 0);
    f.generation = 3;
    assert_int_equal(fixture_write(&f, 65536, 4096, 7), 0);
    assert_int_equal(fixture_flush(&f), 0);
    fixture_run(&f, ENV_MS(5000));
    assert_true(fixture_stats(&f).scrub_passes >= 1);
    assert_int_equal(f.damaged_count, 0);
    uint64_t at = STORE_CHUNK_BYTES; /* the first 4 on the drive is of the chunk that generation 2 wrote anew */
    for (drive_sim_peek(f.disk, at, data, 8); data[0] != 4; drive_sim_peek(f.disk, at, data, 8))
        at += 4096;
    drive_sim_flip(f.disk, at + 300, 0x80);
    fixture_run(&f, ENV_MS(5000));
    assert_true(f.damaged_count >= 1);
    assert_true(fixture_stats(&f).scrub_errors >= 1);
    fixture_destroy(&f);
}

static void scrub_runs_beside_writes_without_false_alarms(void **state)
{
    (void)state;
    struct fixture f;
    fixture_create(&f, 64u * MIB, 36);
    f.config.scrub_bytes_per_s = 400u * MIB;
    f.config.scrub_rest_ns = ENV_MS(1);
    fixture_open_shard(&f);
    fixture_run(&f, ENV_MS(1000));
    for (uint32_t i = 0; i < 3000; i++)
        assert_int_equal(fixture_write(&f, i % 64 * 16384, 16384, (uint8_t)i), 0);
    assert_true(fixture_stats(&f).scrub_passes >= 2);
    assert_int_equal(f.damaged_count, 0);
    fixture_destroy(&f);
}

static void superblock_is_repaired_from_its_copy(void **state)
{
    (void)state;
    struct fixture f;
    uint8_t first[4096], second[4096];
    start(&f, 37);
    fixture_close(&f, /* clean= */ true);
    drive_sim_peek(f.disk, 0, first, 4096);
    drive_sim_peek(f.disk, 512 * 1024, second, 4096);
    assert_memory_equal(first, second, 4096);
    drive_sim_flip(f.disk, 40, 1);
    fixture_open_shard(&f);
    assert_int_equal(store_identity(f.store)->cluster_id, 99);
    fixture_close(&f, /* clean= */ true);
    drive_sim_peek(f.disk, 0, second, 4096);
    assert_memory_equal(first, second, 4096);
    drive_sim_flip(f.disk, 40, 1);
    drive_sim_flip(f.disk, 512 * 1024 + 40, 1);
    assert_int_equal(fixture_open(&f), -EBADMSG); /* not ours */
    fixture_destroy(&f);
}

static void unreadable_record_fails_the_start(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, 38);
    assert_int_equal(fixture_write(&f, 0, 4096, 1), 0);
    fixture_close(&f, /* clean= */ true);
    struct store_shard_id id = {.volume = FIXTURE_VOLUME, .shard = 0, .instance = 1};
    struct record_key key = record_key_chunk(RECORD_MAP, &id, 0, 0);
    uint8_t found[KV_KEY_MAX], value[RECORD_MAP_BYTES_MAX];
    uint32_t found_len = key.len, value_len;
    const uint8_t *stored;
    memcpy(found, key.bytes, key.len);
    assert_true(kv_sim_next(f.base, found, &found_len, /* inclusive= */ true, &stored, &value_len));
    memcpy(value, stored, value_len);
    value[30] ^= 4;
    kv_sim_put(f.base, key.bytes, key.len, value, value_len);
    assert_int_equal(fixture_open(&f), -EBADMSG); /* I11: what it references must not be handed out */
    fixture_close(&f, /* clean= */ false);
    value[30] ^= 4;
    kv_sim_put(f.base, key.bytes, key.len, value, value_len);
    fixture_open_shard(&f);
    assert_true(fixture_holds(&f, 0, 4096, 1));
    key = record_key_chunk(RECORD_SUMS, &id, 0, 0);
    fixture_close(&f, /* clean= */ true);
    kv_sim_put(f.base, key.bytes, key.len, NULL, 0);
    fixture_open_shard(&f); /* checksums lost: damage, told, not fatal */
    struct fixture_io *io = fixture_submit(&f, STORE_READ, 0, 4096, NULL);
    assert_int_equal(fixture_end(io), -EILSEQ);
    fixture_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_write_after_a_snapshot_takes_just_those_blocks),
        cmocka_unit_test(third_source_merges_at_once),
        cmocka_unit_test(merges_share_their_flush),
        cmocka_unit_test(failed_flush_of_a_merge_fails_the_store),
        cmocka_unit_test(generations_fill_the_slots_of_one_unit),
        cmocka_unit_test(slots_of_trimmed_blocks_are_not_filled),
        cmocka_unit_test(unflushed_blocks_are_lost_or_kept_in_every_generation),
        cmocka_unit_test(unflushed_blocks_are_merged_when_their_unit_is_redirected),
        cmocka_unit_test(trim_after_a_snapshot_leaves_the_snapshot_alone),
        cmocka_unit_test(suspect_checksums_are_verified_in_every_record_that_has_them),
        cmocka_unit_test(verified_checksums_of_an_older_record_outlive_the_next_unclean_stop),
        cmocka_unit_test(digest_is_recomputed_from_the_drive),
        cmocka_unit_test(scrub_finds_rot_without_being_asked),
        cmocka_unit_test(an_outdated_list_removes_nothing),
        cmocka_unit_test(scrub_finds_rot_in_older_generations),
        cmocka_unit_test(scrub_runs_beside_writes_without_false_alarms),
        cmocka_unit_test(superblock_is_repaired_from_its_copy),
        cmocka_unit_test(unreadable_record_fails_the_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
