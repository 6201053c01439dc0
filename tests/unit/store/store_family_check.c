/* SPDX-License-Identifier: Apache-2.0 */
/* store_family_check: what must hold of volumes with snapshots and clones; crashes. See store_family.h. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "server/store/check.h"
#include "tests/unit/store/store_family.h"

#define SECTORS (STORE_BLOCK_BYTES / DRIVE_SIM_SECTOR)
#define TRASH_ID 0xdbdbdbdbdbdbdbdbu

static uint8_t data[STORE_CHUNK_BYTES];

static uint64_t sector_id(const uint8_t *sector)
{
    uint64_t id;
    memcpy(&id, sector, 8);
    for (uint32_t i = 8; i < DRIVE_SIM_SECTOR; i += 8)
        if (memcmp(sector, sector + i, 8))
            fail_msg("a sector is made of two writes");
    return id;
}

static int read_at(struct family *family, struct family_volume *volume, uint32_t generation, uint32_t first,
                   uint32_t count)
{
    struct fixture *f = family->f;
    f->shard = volume->shard;
    f->generation = generation;
    int rc = fixture_read(f, (uint64_t)first * STORE_BLOCK_BYTES, count * STORE_BLOCK_BYTES, data);
    f->shard = NULL;
    if (rc == -EIO)
        family->failed = true;
    else if (rc)
        fail_msg("read of volume %u generation %u block %u+%u: %d", (unsigned)volume->id, generation, first, count, rc);
    return rc;
}

static void check_range(struct family *family, struct family_volume *volume, uint32_t generation, uint32_t first,
                        uint32_t count)
{
    const uint64_t *expected = volume->content[generation];
    assert_non_null(expected);
    if (read_at(family, volume, generation, first, count))
        return;
    for (uint32_t s = 0; s < count * SECTORS; s++) {
        uint64_t id = sector_id(data + (size_t)s * DRIVE_SIM_SECTOR);
        if (id != expected[first * SECTORS + s])
            fail_msg("volume %u generation %u block %u holds %#llx, not %#llx", (unsigned)volume->id, generation,
                     first + s / SECTORS, (unsigned long long)id, (unsigned long long)expected[first * SECTORS + s]);
    }
}

void family_check(struct family *family, struct family_volume *volume, uint32_t generation)
{
    for (uint32_t first = 0; first < family->blocks && !family->failed; first += STORE_CHUNK_BLOCKS)
        check_range(family, volume, generation, first, STORE_CHUNK_BLOCKS);
    assert_int_equal(family->f->damaged_count, 0);
}

void family_check_all(struct family *family)
{
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++)
        for (uint32_t g = 0; family->volumes[v].exists && g < FAMILY_GENERATIONS; g++)
            if (family->volumes[v].content[g] && !family->failed)
                family_check(family, &family->volumes[v], g);
}

struct diff_wait {
    struct store_diff req;
    struct store_extent extents[7]; /* few: it takes several calls */
    bool done;
    int rc;
};

static void diff_done(struct store_diff *req, int rc)
{
    struct diff_wait *wait = req->owner;
    wait->done = true;
    wait->rc = rc;
}

static void check_extent(struct family *family, struct family_volume *volume, uint32_t generation,
                         const struct store_extent *extent, uint8_t *told)
{
    uint32_t first = (uint32_t)(extent->offset / STORE_BLOCK_BYTES);
    uint32_t count = (uint32_t)(extent->length / STORE_BLOCK_BYTES);
    assert_true(count > 0 && first + count <= family->blocks);
    for (uint32_t b = first; b < first + count; b++) {
        assert_int_equal(told[b], 0); /* once */
        told[b] = 1;
        for (uint32_t s = 0; s < SECTORS && extent->state != 1; s++)
            assert_int_equal(volume->content[generation][b * SECTORS + s], 0);
    }
}

void family_check_diff(struct family *family, struct family_volume *volume, uint32_t since, uint32_t generation)
{
    uint8_t *told = calloc(family->blocks, 1);
    struct diff_wait wait;
    uint64_t offset = 0, end = family->f->shard_bytes;
    assert_non_null(told);
    while (offset < end && !family->failed) {
        memset(&wait, 0, sizeof(wait));
        wait.req = (struct store_diff){.shard = volume->shard,
                                       .since = since,
                                       .generation = generation,
                                       .offset = offset,
                                       .length = end - offset,
                                       .extents = wait.extents,
                                       .max = 7,
                                       .cb = diff_done,
                                       .owner = &wait};
        store_diff(&wait.req);
        assert_false(wait.done);
        assert_true(fixture_wait(family->f, &wait.done));
        if (wait.rc) {
            assert_int_equal(wait.rc, -EIO);
            family->failed = true;
            break;
        }
        assert_true(wait.req.next > offset);
        for (uint32_t i = 0; i < wait.req.count; i++)
            check_extent(family, volume, generation, &wait.extents[i], told);
        offset = wait.req.next;
    }
    for (uint32_t b = 0; b < family->blocks && !family->failed; b++) {
        bool same = since && !memcmp(&volume->content[since][b * SECTORS], &volume->content[generation][b * SECTORS],
                                     SECTORS * sizeof(uint64_t));
        assert_true(told[b] || same); /* nothing that changed is left out */
    }
    free(told);
}

/* --- restarts --- */

static void drop_strangers(void *arg, const struct store_shard_id *id)
{
    struct family *family = arg;
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++)
        if (family->volumes[v].exists && family->volumes[v].id == id->volume)
            return;
    store_shard_drop(family->f->store, id);
}

static void reopen(struct family *family)
{
    assert_int_equal(fixture_open(family->f), 0);
    family->failed = false;
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++) {
        struct family_volume *volume = &family->volumes[v];
        uint32_t live[FAMILY_GENERATIONS], count = 0;
        if (!volume->exists)
            continue;
        struct store_shard_id id = {.volume = volume->id, .shard = 0, .instance = 1};
        assert_int_equal(store_shard_open(family->f->store, &id, family->f->shard_bytes, &volume->shard), 0);
        for (uint32_t g = 0; g < FAMILY_GENERATIONS; g++)
            if (volume->content[g])
                live[count++] = g;
        store_generations(volume->shard, live, count);
    }
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++) {
        struct family_volume *volume = &family->volumes[v];
        if (!volume->exists || !volume->base)
            continue;
        struct store_base base = {.id = store_shard_identity(volume->base->shard),
                                  .generation = volume->base_generation};
        int rc =
            store_shard_set_base(volume->shard, &base); /* what is known stays known, what was lost is told again */
        assert_true(rc == 0 || rc == -EEXIST);          /* flattened, and that was durable, before the answer came */
    }
    store_shard_each(family->f->store, drop_strangers, family);
}

static void close_shards(struct family *family)
{
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++)
        if (family->volumes[v].exists)
            store_shard_close(family->volumes[v].shard);
}

static void take_survivors(struct family *family, struct family_volume *volume, uint32_t generation)
{
    uint64_t *content = volume->content[generation];
    for (uint32_t first = 0; first < family->blocks; first += STORE_CHUNK_BLOCKS) {
        assert_int_equal(read_at(family, volume, generation, first, STORE_CHUNK_BLOCKS), 0);
        for (uint32_t s = 0; s < STORE_CHUNK_BLOCKS * SECTORS; s++) {
            uint64_t id = sector_id(data + (size_t)s * DRIVE_SIM_SECTOR);
            uint32_t block = first + s / SECTORS;
            if (id && id != TRASH_ID && ((id & 0xffff) != block || (id >> 16 & 0xff) != volume->family))
                fail_msg("volume %u generation %u block %u holds foreign bytes: %#llx", (unsigned)volume->id,
                         generation, block, (unsigned long long)id); /* I12 */
            content[first * SECTORS + s] = id;
        }
    }
}

void family_crash(struct family *family, bool power)
{
    bool uncertain = power || family->failed;
    fixture_crash(family->f, power);
    family->f->damaged_count = 0; /* an injected read error may have been told */
    reopen(family);
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++)
        for (uint32_t g = 0; family->volumes[v].exists && g < FAMILY_GENERATIONS; g++)
            if (family->volumes[v].content[g] && family->volumes[v].dirty[g] && uncertain)
                take_survivors(family, &family->volumes[v], g);
    assert_int_equal(family->f->damaged_count, 0);
    family_check_all(family);
    family_flush(family);
}

/* --- at rest --- */

struct generations_wait {
    struct store_chunk_generations req;
    bool done;
    int rc;
};

static void generations_done(struct store_chunk_generations *req, int rc)
{
    struct generations_wait *wait = req->owner;
    wait->done = true;
    wait->rc = rc;
}

static void check_chunk_records(struct family *family, struct family_volume *volume, uint32_t chunk)
{
    uint32_t found[FAMILY_GENERATIONS];
    struct generations_wait wait = {.req = {.shard = volume->shard,
                                            .chunk = chunk,
                                            .generations = found,
                                            .max = FAMILY_GENERATIONS,
                                            .cb = generations_done,
                                            .owner = &wait}};
    store_chunk_generations(&wait.req);
    assert_true(fixture_wait(family->f, &wait.done));
    assert_int_equal(wait.rc, 0);
    for (uint32_t i = 0; i + 1 < wait.req.count; i++) { /* the newest stays in any case */
        bool serves = false;
        for (uint32_t g = found[i]; g < found[i + 1]; g++)
            serves |= volume->content[g] != NULL;
        if (!serves)
            fail_msg("volume %u chunk %u: record %u serves nobody", (unsigned)volume->id, chunk, found[i]);
    }
}

static bool pending(const struct family *family)
{
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++)
        if (family->volumes[v].exists && store_generations_pending(family->volumes[v].shard))
            return true;
    return false;
}

void family_check_records(struct family *family)
{
    struct fixture *f = family->f;
    for (uint32_t i = 0; i < 1000 && pending(family); i++)
        fixture_run(f, ENV_MS(100));
    assert_false(pending(family));
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++)
        for (uint32_t c = 0; family->volumes[v].exists && c < family->blocks / STORE_CHUNK_BLOCKS; c++)
            check_chunk_records(family, &family->volumes[v], c);
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++)
        if (family->volumes[v].exists)
            store_committed(family->volumes[v].shard, f->epoch, f->lsn_n);
    fixture_run(f, ENV_MS(6000)); /* removals end, regions are cleaned, what was released is synced */
    family_flush(family);
    fixture_run(f, ENV_MS(2000));
    uint64_t before = fixture_stats(f).bytes_allocated;
    close_shards(family);
    fixture_close(f, /* clean= */ true);
    reopen(family);
    assert_int_equal(fixture_stats(f).bytes_allocated, before); /* I11 */
}

struct offline {
    bool done;
    int rc;
    struct store_check_stats stats;
};

static void offline_found(void *arg, const struct store_check_finding *finding)
{
    (void)arg;
    fail_msg("%s: volume %u chunk %u generation %u block %u unit %u", finding->what, (unsigned)finding->id.volume,
             finding->chunk, finding->generation, finding->block, finding->unit);
}

static void offline_done(void *arg, int rc, const struct store_check_stats *stats)
{
    struct offline *offline = arg;
    offline->done = true;
    offline->rc = rc;
    offline->stats = *stats;
}

void family_check_offline(struct family *family)
{
    struct fixture *f = family->f;
    struct offline offline = {.done = false};
    uint64_t allocated = fixture_stats(f).bytes_allocated;
    close_shards(family);
    fixture_close(f, /* clean= */ true);
    struct env *env = world_env_create(f->world, f->node);
    struct drive *drive;
    struct kv *kv;
    struct buf_pool *pool = buf_pool_create(4u << 20);
    assert_int_equal(drive_sim_open(f->disk, env, &drive), 0);
    assert_int_equal(kv_sim_open(f->base, env, &kv), 0);
    struct store_check config = {
        .drive = drive, .kv = kv, .pool = pool, .found = offline_found, .done = offline_done, .arg = &offline};
    assert_int_equal(store_check_start(&config), 0);
    assert_true(fixture_wait(f, &offline.done));
    assert_int_equal(offline.rc, 0);
    assert_int_equal(offline.stats.units_referenced * STORE_UNIT_BYTES, allocated);
    drive_close(drive);
    kv_close(kv);
    buf_pool_destroy(pool);
    reopen(family);
}
