/* SPDX-License-Identifier: Apache-2.0 */
/* store_model: see store_model.h. */
#include "tests/unit/store/store_model.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TRASH_ID 0xdbdbdbdbdbdbdbdbu

static uint8_t chunk_data[STORE_CHUNK_BYTES];

void model_create(struct model *model, struct fixture *f, uint64_t seed)
{
    memset(model, 0, sizeof(*model));
    model->f = f;
    prng_seed(&model->prng, seed);
    model->block_count = (uint32_t)(f->shard_bytes / STORE_BLOCK_BYTES);
    model->blocks = calloc(model->block_count, sizeof(*model->blocks));
    assert_non_null(model->blocks);
    model->next_id = 1;
    for (uint32_t b = 0; b < model->block_count; b++) {
        model->blocks[b].capacity = 4;
        model->blocks[b].ids = calloc(4, sizeof(uint64_t));
        model->blocks[b].count = 1;
    }
}

void model_destroy(struct model *model)
{
    assert_int_equal(model->inflight_count, 0);
    for (uint32_t b = 0; b < model->block_count; b++)
        free(model->blocks[b].ids);
    for (uint32_t s = 0; s < model->snapshot_count; s++)
        free(model->snapshots[s]);
    free(model->blocks);
}

uint64_t model_below(struct model *model, uint64_t bound)
{
    return prng_below(&model->prng, bound);
}

static void add_version(struct model_block *block, uint64_t id)
{
    assert_false(block->busy);
    if (block->count == block->capacity) {
        block->capacity *= 2;
        block->ids = realloc(block->ids, block->capacity * sizeof(uint64_t));
        assert_non_null(block->ids);
    }
    block->ids[block->count++] = id;
    block->busy = true;
}

/* What a sector holds by now: the newest version, or what the flush left. */
static uint64_t current_id(const struct model_block *block, uint32_t sector)
{
    return block->count > 1 ? block->ids[block->count - 1] : block->flushed[sector];
}

bool model_free_range(const struct model *model, uint32_t first, uint32_t count)
{
    for (uint32_t b = first; b < first + count; b++)
        if (model->blocks[b].busy)
            return false;
    return true;
}

static struct model_io *slot(struct model *model)
{
    if (model->inflight_count == MODEL_INFLIGHT_MAX)
        model_reap(model, MODEL_INFLIGHT_MAX / 2);
    for (uint32_t i = 0; i < MODEL_INFLIGHT_MAX; i++)
        if (!model->inflight[i].io)
            return &model->inflight[i];
    fail_msg("no slot");
    return NULL;
}

void model_overwrite(struct model *model, uint32_t first, uint32_t count)
{
    if (model->failed)
        return;
    uint8_t *data = chunk_data;
    assert_true(count <= STORE_CHUNK_BLOCKS);
    struct model_io *io = slot(model);
    for (uint32_t b = 0; b < count; b++) {
        uint64_t id = model->next_id++;
        for (uint32_t i = 0; i < STORE_BLOCK_BYTES / 8; i++)
            memcpy(data + (size_t)b * STORE_BLOCK_BYTES + 8 * i, &id, 8);
        add_version(&model->blocks[first + b], id);
    }
    *io = (struct model_io){.first = first, .count = count};
    io->io =
        fixture_submit(model->f, STORE_WRITE, (uint64_t)first * STORE_BLOCK_BYTES, count * STORE_BLOCK_BYTES, data);
    model->inflight_count++;
}

void model_trim(struct model *model, uint32_t first, uint32_t count, uint32_t flags)
{
    if (model->failed)
        return;
    struct model_io *io = slot(model);
    for (uint32_t b = 0; b < count; b++)
        add_version(&model->blocks[first + b], 0);
    *io = (struct model_io){.first = first, .count = count};
    io->io = fixture_submit_flags(model->f, STORE_ZERO, (uint64_t)first * STORE_BLOCK_BYTES, count * STORE_BLOCK_BYTES,
                                  NULL, flags);
    model->inflight_count++;
}

void model_write(struct model *model)
{
    static const uint32_t lengths[] = {1, 1, 1, 2, 4, 16, 16, 32, 100, 256};
    uint32_t count = lengths[model_below(model, 10)];
    uint32_t chunk = (uint32_t)model_below(model, model->block_count / STORE_CHUNK_BLOCKS);
    uint32_t at = (uint32_t)model_below(model, STORE_CHUNK_BLOCKS - count + 1);
    if (count % 16 == 0 && model_below(model, 2))
        at -= at % 16;
    uint32_t first = chunk * STORE_CHUNK_BLOCKS + at;
    if (model_free_range(model, first, count))
        model_overwrite(model, first, count);
}

void model_zero(struct model *model)
{
    static const uint32_t lengths[] = {1, 3, 16, 32, 256, 700};
    uint32_t count = lengths[model_below(model, 6)];
    uint32_t first = (uint32_t)model_below(model, model->block_count - count + 1);
    if (count % 16 == 0 && model_below(model, 2))
        first -= first % count;
    if (model_free_range(model, first, count))
        model_trim(model, first, count, model_below(model, 4) ? 0 : STORE_IO_NO_HOLE);
}

static void end_one(struct model *model, struct model_io *io)
{
    for (uint32_t b = io->first; b < io->first + io->count; b++)
        model->blocks[b].busy = false;
    int rc = fixture_end(io->io);
    if (rc == -ENOSPC) {
        for (uint32_t b = io->first; b < io->first + io->count; b++)
            model->blocks[b].count--; /* all or nothing: here nothing */
        model->nospace_count++;
    } else if (rc) {
        /* Whether it took effect is unknown, as after a crash. */
        assert_int_equal(rc, -EIO);
        model->failed = true;
        for (uint32_t b = io->first; b < io->first + io->count; b++)
            model->blocks[b].busy = true;
    }
    io->io = NULL;
    model->inflight_count--;
}

void model_reap(struct model *model, uint32_t leave)
{
    while (model->inflight_count > leave) {
        uint32_t i = (uint32_t)model_below(model, MODEL_INFLIGHT_MAX);
        while (!model->inflight[i].io)
            i = (i + 1) % MODEL_INFLIGHT_MAX;
        end_one(model, &model->inflight[i]);
    }
}

void model_flush(struct model *model)
{
    for (uint32_t b = 0; b < model->block_count; b++) {
        struct model_block *block = &model->blocks[b];
        block->flush_cut = block->count - (block->busy ? 1 : 0);
    }
    int rc = fixture_flush(model->f);
    if (rc) {
        assert_int_equal(rc, -EIO);
        model->failed = true;
        return;
    }
    for (uint32_t b = 0; b < model->block_count; b++) {
        struct model_block *block = &model->blocks[b];
        uint32_t gone = block->flush_cut - 1;
        if (!gone)
            continue;
        for (uint32_t s = 0; s < MODEL_SECTORS; s++)
            block->flushed[s] = block->ids[gone];
        memmove(block->ids, block->ids + gone, (block->count - gone) * sizeof(uint64_t));
        block->count -= gone;
    }
}

static uint64_t sector_id(const uint8_t *data)
{
    uint64_t id;
    memcpy(&id, data, 8);
    for (uint32_t i = 8; i < DRIVE_SIM_SECTOR; i += 8)
        if (memcmp(data, data + i, 8))
            fail_msg("a sector is made of two writes");
    return id;
}

void model_check_range(struct model *model, uint32_t first, uint32_t count)
{
    uint8_t *data = chunk_data;
    assert_true(count <= STORE_CHUNK_BLOCKS);
    assert_true(model_free_range(model, first, count));
    int rc = fixture_read(model->f, (uint64_t)first * STORE_BLOCK_BYTES, count * STORE_BLOCK_BYTES, data);
    if (rc == -EIO)
        model->failed = true;
    else if (rc)
        fail_msg("read of block %u+%u: %d", first, count, rc);
    for (uint32_t b = 0; !rc && b < count; b++)
        for (uint32_t s = 0; s < MODEL_SECTORS; s++) {
            uint64_t id = sector_id(data + (size_t)b * STORE_BLOCK_BYTES + s * DRIVE_SIM_SECTOR);
            uint64_t expected = current_id(&model->blocks[first + b], s);
            if (id != expected) /* I7 */
                fail_msg("block %u sector %u holds %#llx, not %#llx", first + b, s, (unsigned long long)id,
                         (unsigned long long)expected);
        }
}

static void check_snapshot(struct model *model, uint32_t generation)
{
    uint8_t *data = chunk_data;
    const uint64_t *expected = model->snapshots[generation];
    uint32_t now = model->f->generation;
    model->f->generation = generation;
    for (uint32_t first = 0; first < model->block_count; first += STORE_CHUNK_BLOCKS) {
        int rc = fixture_read(model->f, (uint64_t)first * STORE_BLOCK_BYTES, STORE_CHUNK_BYTES, data);
        if (rc)
            fail_msg("read of generation %u block %u: %d", generation, first, rc);
        for (uint32_t s = 0; s < STORE_CHUNK_BLOCKS * MODEL_SECTORS; s++)
            if (sector_id(data + (size_t)s * DRIVE_SIM_SECTOR) != expected[first * MODEL_SECTORS + s])
                fail_msg("generation %u block %u changed", generation, first + s / MODEL_SECTORS);
    }
    model->f->generation = now;
}

void model_check_all(struct model *model)
{
    model_reap(model, 0);
    if (model->failed)
        return;
    for (uint32_t first = 0; first < model->block_count; first += STORE_CHUNK_BLOCKS)
        model_check_range(model, first, STORE_CHUNK_BLOCKS);
    for (uint32_t s = 0; s < model->snapshot_count; s++)
        check_snapshot(model, s);
    assert_int_equal(model->f->damaged_count, 0);
}

void model_snapshot(struct model *model)
{
    model_reap(model, 0);
    model_flush(model);
    if (model->failed || model->snapshot_count == MODEL_SNAPSHOTS_MAX)
        return;
    uint64_t *content = calloc((size_t)model->block_count * MODEL_SECTORS, sizeof(uint64_t));
    assert_non_null(content);
    for (uint32_t b = 0; b < model->block_count; b++)
        for (uint32_t s = 0; s < MODEL_SECTORS; s++)
            content[b * MODEL_SECTORS + s] = current_id(&model->blocks[b], s);
    model->snapshots[model->snapshot_count++] = content;
    model->f->generation = model->snapshot_count;
}

/* Power loss: any version since the flush, sector by sector, or trash where something was written. Process death: the last
 * acknowledged version, or the one in flight. */
static void check_survivor(const struct model_block *block, uint32_t b, uint32_t sector, uint64_t id, bool power)
{
    if (id == current_id(block, sector))
        return;
    uint32_t oldest = power ? 0 : block->busy ? block->count - 2 : block->count;
    bool written = false;
    for (uint32_t v = oldest; v < block->count; v++) {
        uint64_t allowed = v ? block->ids[v] : block->flushed[sector];
        if (id == allowed)
            return;
        written |= v > 0 && block->ids[v] != 0;
    }
    if (power && written && id == TRASH_ID)
        return;
    fail_msg("block %u sector %u holds %#llx after %s; flushed %#llx, %u versions since", b, sector,
             (unsigned long long)id, power ? "power loss" : "process death", (unsigned long long)block->flushed[sector],
             block->count - 1);
}

static void take_survivors(struct model *model, bool power)
{
    uint8_t *data = chunk_data;
    for (uint32_t first = 0; first < model->block_count; first += STORE_CHUNK_BLOCKS) {
        int rc = fixture_read(model->f, (uint64_t)first * STORE_BLOCK_BYTES, STORE_CHUNK_BYTES, data);
        if (rc)
            fail_msg("read of block %u after the crash: %d", first, rc);
        for (uint32_t i = 0; i < STORE_CHUNK_BLOCKS; i++) {
            struct model_block *block = &model->blocks[first + i];
            for (uint32_t s = 0; s < MODEL_SECTORS; s++) {
                uint64_t id = sector_id(data + (size_t)i * STORE_BLOCK_BYTES + s * DRIVE_SIM_SECTOR);
                check_survivor(block, first + i, s, id, power);
                block->flushed[s] = id; /* opening flushed it */
            }
            block->count = 1;
            block->busy = false;
        }
    }
}

void model_crash(struct model *model, bool power)
{
    struct fixture *f = model->f;
    fixture_crash(f, power);
    for (uint32_t i = 0; i < MODEL_INFLIGHT_MAX; i++) {
        free(model->inflight[i].io);
        model->inflight[i].io = NULL;
    }
    model->inflight_count = 0;
    model->failed = false;
    fixture_open_shard(f);
    take_survivors(model, power);
    assert_int_equal(f->damaged_count, 0);
    model_check_all(model);
}

void model_reopen(struct model *model)
{
    struct fixture *f = model->f;
    model_reap(model, 0);
    fixture_commit_all(f);
    fixture_close(f, /* clean= */ true);
    fixture_open_shard(f);
    assert_int_equal(store_last_stop(f->store), STORE_STOP_CLEAN);
    for (uint32_t b = 0; b < model->block_count; b++) {
        struct model_block *block = &model->blocks[b];
        for (uint32_t s = 0; s < MODEL_SECTORS; s++)
            block->flushed[s] = current_id(block, s);
        block->count = 1;
    }
    model_check_all(model);
}

void model_check_allocator(struct model *model)
{
    struct fixture *f = model->f;
    /* Derived at open, it must be what it was: nothing leaked, nothing freed twice (I11). */
    fixture_commit_all(f);
    fixture_run(f, ENV_MS(3000));
    uint64_t before = fixture_stats(f).bytes_allocated;
    fixture_close(f, /* clean= */ true);
    fixture_open_shard(f);
    assert_int_equal(fixture_stats(f).bytes_allocated, before);
}
