/* SPDX-License-Identifier: Apache-2.0 */
/* store_family: see store_family.h. This file: the volumes' life; store_family_check.c: what must hold. */
#include "tests/unit/store/store_family.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define SECTORS (STORE_BLOCK_BYTES / DRIVE_SIM_SECTOR)

static uint8_t data[STORE_CHUNK_BYTES];

void family_create(struct family *family, struct fixture *f, uint64_t seed)
{
    memset(family, 0, sizeof(*family));
    family->f = f;
    prng_seed(&family->prng, seed);
    family->blocks = (uint32_t)(f->shard_bytes / STORE_BLOCK_BYTES);
    family->next_volume = 10;
    family->next_id = 1;
}

static void forget(struct family_volume *volume)
{
    for (uint32_t g = 0; g < FAMILY_GENERATIONS; g++)
        free(volume->content[g]);
    memset(volume, 0, sizeof(*volume));
}

void family_destroy(struct family *family)
{
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++)
        forget(&family->volumes[v]);
}

uint64_t family_below(struct family *family, uint64_t bound)
{
    return prng_below(&family->prng, bound);
}

static uint64_t *content_create(struct family *family, const uint64_t *from)
{
    size_t count = (size_t)family->blocks * SECTORS;
    uint64_t *content = calloc(count, sizeof(*content));
    assert_non_null(content);
    if (from)
        memcpy(content, from, count * sizeof(*content));
    return content;
}

static void tell_live(struct family *family, struct family_volume *volume)
{
    uint32_t live[FAMILY_GENERATIONS], count = 0;
    for (uint32_t g = 0; g < FAMILY_GENERATIONS; g++)
        if (volume->content[g])
            live[count++] = g;
    assert_true(count > 0);
    if (!family->failed)
        store_generations(volume->shard, live, count);
}

bool family_held(const struct family *family, const struct family_volume *volume, uint32_t generation)
{
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++)
        if (family->volumes[v].base == volume && family->volumes[v].base_generation == generation)
            return true;
    return false;
}

bool family_has_clones(const struct family *family, const struct family_volume *volume)
{
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++)
        if (family->volumes[v].base == volume)
            return true;
    return false;
}

static struct family_volume *volume_create(struct family *family, uint32_t root)
{
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++) {
        struct family_volume *volume = &family->volumes[v];
        if (volume->exists)
            continue;
        *volume = (struct family_volume){.exists = true, .id = family->next_volume++, .family = root, .head = 1};
        struct store_shard_id id = {.volume = volume->id, .shard = 0, .instance = 1};
        assert_int_equal(store_shard_open(family->f->store, &id, family->f->shard_bytes, &volume->shard), 0);
        return volume;
    }
    return NULL;
}

struct family_volume *family_volume(struct family *family, uint32_t root)
{
    if (family->failed)
        return NULL;
    struct family_volume *volume = volume_create(family, root);
    if (!volume)
        return NULL;
    volume->content[1] = content_create(family, NULL);
    tell_live(family, volume);
    return volume;
}

/* --- content --- */

struct wait {
    union {
        struct store_chunk_generations generations;
        struct store_rollback rollback;
        struct store_flatten flatten;
    } req;
    bool done;
    int rc;
};

static void generations_done(struct store_chunk_generations *req, int rc)
{
    struct wait *wait = req->owner;
    wait->done = true;
    wait->rc = rc;
}

/* The first generation from which on a change at this one is not seen. */
static uint32_t visible_until(struct family *family, struct family_volume *volume, uint32_t generation, uint32_t chunk)
{
    uint32_t found[FAMILY_GENERATIONS];
    struct wait wait = {.done = false};
    wait.req.generations = (struct store_chunk_generations){.shard = volume->shard,
                                                            .chunk = chunk,
                                                            .generations = found,
                                                            .max = FAMILY_GENERATIONS,
                                                            .cb = generations_done,
                                                            .owner = &wait};
    store_chunk_generations(&wait.req.generations);
    assert_false(wait.done);
    assert_true(fixture_wait(family->f, &wait.done));
    if (wait.rc)
        family->failed = true;
    for (uint32_t i = 0; !wait.rc && i < wait.req.generations.count; i++) {
        assert_true(i == 0 || found[i - 1] < found[i]);
        if (found[i] > generation)
            return found[i];
    }
    return UINT32_MAX;
}

static void change(struct family *family, struct family_volume *volume, enum store_op op, uint32_t generation,
                   uint32_t first, uint32_t count)
{
    struct fixture *f = family->f;
    assert_true(op == STORE_ZERO || first / STORE_CHUNK_BLOCKS == (first + count - 1) / STORE_CHUNK_BLOCKS);
    if (family->failed)
        return;
    uint32_t until = UINT32_MAX;
    if (generation < volume->head) {
        assert_int_equal(first / STORE_CHUNK_BLOCKS, (first + count - 1) / STORE_CHUNK_BLOCKS);
        until = visible_until(family, volume, generation, first / STORE_CHUNK_BLOCKS);
        if (family->failed)
            return;
    }
    for (uint32_t g = generation; g <= volume->head && g < until; g++)
        volume->dirty[g] = true;
    uint64_t id = op == STORE_ZERO ? 0 : family->next_id++ << 24 | (uint64_t)volume->family << 16;
    for (uint32_t b = 0; op == STORE_WRITE && b < count; b++)
        for (uint32_t i = 0; i < STORE_BLOCK_BYTES / 8; i++) {
            uint64_t word = id | (first + b);
            memcpy(data + (size_t)b * STORE_BLOCK_BYTES + 8 * i, &word, 8);
        }
    f->shard = volume->shard;
    f->generation = generation;
    int rc = fixture_end(fixture_submit_flags(f, op, (uint64_t)first * STORE_BLOCK_BYTES, count * STORE_BLOCK_BYTES,
                                              data, generation < volume->head ? STORE_IO_SYNC_COPY : 0));
    f->shard = NULL;
    if (rc == -ENOSPC) {
        family->nospace++;
        return;
    }
    if (rc) {
        assert_int_equal(rc, -EIO);
        family->failed = true;
        return;
    }
    for (uint32_t g = generation; g <= volume->head && g < until; g++)
        for (uint32_t b = first; volume->content[g] && b < first + count; b++)
            for (uint32_t s = 0; s < SECTORS; s++)
                volume->content[g][b * SECTORS + s] = id ? id | b : 0;
}

void family_write(struct family *family, struct family_volume *volume, uint32_t generation, uint32_t first,
                  uint32_t count)
{
    change(family, volume, STORE_WRITE, generation, first, count);
}

void family_zero(struct family *family, struct family_volume *volume, uint32_t generation, uint32_t first,
                 uint32_t count)
{
    change(family, volume, STORE_ZERO, generation, first, count);
}

void family_flush(struct family *family)
{
    if (family->failed)
        return;
    int rc = fixture_flush(family->f);
    if (rc) {
        assert_int_equal(rc, -EIO);
        family->failed = true;
        return;
    }
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++)
        memset(family->volumes[v].dirty, 0, sizeof(family->volumes[v].dirty));
}

/* --- snapshots and clones --- */

void family_snapshot(struct family *family, struct family_volume *volume)
{
    uint32_t g = volume->head;
    if (family->failed || g + 2 >= FAMILY_GENERATIONS)
        return;
    volume->snapshot[g] = true;
    volume->content[g + 1] = content_create(family, volume->content[g]);
    volume->dirty[g + 1] = volume->dirty[g];
    volume->head++;
    tell_live(family, volume);
}

/* Lets go what nobody needs: hidden snapshots that no clone holds, deleted volumes that none holds. */
static void settle(struct family *family)
{
    for (bool again = true; again;) {
        again = false;
        for (uint32_t v = 0; v < FAMILY_VOLUMES; v++) {
            struct family_volume *volume = &family->volumes[v];
            uint32_t left = 0;
            bool changed = false;
            for (uint32_t g = 0; volume->exists && g < FAMILY_GENERATIONS; g++) {
                bool head = g == volume->head && !volume->deleted;
                if (volume->content[g] && !head && !volume->snapshot[g] && !family_held(family, volume, g)) {
                    free(volume->content[g]);
                    volume->content[g] = NULL;
                    changed = true;
                }
                left += volume->content[g] != NULL;
            }
            if (changed && left)
                tell_live(family, volume);
            if (!volume->exists || left)
                continue;
            struct store_shard_id id = store_shard_identity(volume->shard);
            store_shard_close(volume->shard);
            if (!family->failed)
                store_shard_drop(family->f->store, &id);
            forget(volume);
            again = true;
        }
    }
}

void family_delete_snapshot(struct family *family, struct family_volume *volume, uint32_t generation)
{
    if (family->failed)
        return;
    assert_true(volume->snapshot[generation]);
    volume->snapshot[generation] = false;
    settle(family);
}

struct family_volume *family_clone(struct family *family, struct family_volume *volume, uint32_t generation)
{
    if (family->failed)
        return NULL;
    assert_true(volume->snapshot[generation]);
    struct family_volume *clone = volume_create(family, volume->family);
    if (!clone)
        return NULL;
    struct store_base base = {.id = store_shard_identity(volume->shard), .generation = generation};
    assert_int_equal(store_shard_set_base(clone->shard, &base), 0);
    clone->base = volume;
    clone->base_generation = generation;
    clone->content[1] = content_create(family, volume->content[generation]);
    clone->dirty[1] = volume->dirty[generation];
    tell_live(family, clone);
    family_flush(family);
    return clone;
}

void family_delete(struct family *family, struct family_volume *volume)
{
    if (family->failed)
        return;
    volume->deleted = true;
    memset(volume->snapshot, 0, sizeof(volume->snapshot));
    /* Its clones keep it on the store; as long as it is there its own base is held, too. */
    settle(family);
}

static void rollback_done(struct store_rollback *req, int rc)
{
    struct wait *wait = req->owner;
    wait->done = true;
    wait->rc = rc;
}

void family_rollback(struct family *family, struct family_volume *volume, uint32_t generation)
{
    struct wait wait = {.done = false};
    uint32_t to = volume->head + 1;
    assert_true(family->failed || volume->snapshot[generation]);
    if (family->failed || to + 1 >= FAMILY_GENERATIONS)
        return;
    volume->content[to] = content_create(family, volume->content[generation]);
    volume->dirty[to] = true;
    volume->head = to;
    wait.req.rollback = (struct store_rollback){.shard = volume->shard,
                                                .from = generation,
                                                .to = to,
                                                .epoch = family->f->epoch,
                                                .cb = rollback_done,
                                                .owner = &wait};
    store_rollback(&wait.req.rollback);
    assert_false(wait.done);
    assert_true(fixture_wait(family->f, &wait.done));
    if (wait.rc) {
        assert_int_equal(wait.rc, -EIO);
        family->failed = true;
        return;
    }
    settle(family); /* the head that was is live no more */
    family_flush(family);
}

static void flatten_done(struct store_flatten *req, int rc)
{
    struct wait *wait = req->owner;
    wait->done = true;
    wait->rc = rc;
}

void family_flatten(struct family *family, struct family_volume *volume)
{
    struct wait wait = {.done = false};
    if (family->failed)
        return;
    wait.req.flatten = (struct store_flatten){.shard = volume->shard, .cb = flatten_done, .owner = &wait};
    store_flatten(&wait.req.flatten);
    assert_false(wait.done);
    assert_true(fixture_wait(family->f, &wait.done));
    if (wait.rc) {
        assert_int_equal(wait.rc, -EIO);
        family->failed = true;
        return;
    }
    struct store_base base;
    assert_false(store_shard_base(volume->shard, &base));
    family_flush(family);
    if (family->failed)
        return;
    volume->base = NULL;
    settle(family);
}
