/* SPDX-License-Identifier: Apache-2.0 */
/* Random families of volumes against a model with restarts of every kind, and a fault at every operation in turn.
 * A seed that failed: STORE_SEED=n runs it alone. */
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

static struct family_volume *pick_volume(struct family *family)
{
    for (uint32_t i = 0; i < 20; i++) {
        struct family_volume *volume = &family->volumes[family_below(family, FAMILY_VOLUMES)];
        if (volume->exists && !volume->deleted)
            return volume;
    }
    return NULL;
}

/* 0: none. */
static uint32_t pick_snapshot(struct family *family, const struct family_volume *volume)
{
    for (uint32_t i = 0; i < 10; i++) {
        uint32_t g = 1 + (uint32_t)family_below(family, volume->head);
        if (volume->snapshot[g])
            return g;
    }
    return 0;
}

static void change_something(struct family *family, struct family_volume *volume, uint32_t generation)
{
    static const uint32_t lengths[] = {1, 1, 2, 4, 16, 16, 40, 256};
    uint32_t count = lengths[family_below(family, 8)];
    uint32_t chunk = (uint32_t)family_below(family, family->blocks / STORE_CHUNK_BLOCKS);
    uint32_t at = (uint32_t)family_below(family, STORE_CHUNK_BLOCKS - count + 1);
    if (count >= 16 && family_below(family, 2))
        at -= at % 16;
    if (family_below(family, 4))
        family_write(family, volume, generation, chunk * STORE_CHUNK_BLOCKS + at, count);
    else
        family_zero(family, volume, generation, chunk * STORE_CHUNK_BLOCKS + at, count);
}

static void act_on_snapshot(struct family *family, struct family_volume *volume, uint64_t dice)
{
    uint32_t g = pick_snapshot(family, volume);
    if (!g)
        return;
    if (dice < 3)
        family_delete_snapshot(family, volume, g);
    else if (dice < 5)
        (void)family_clone(family, volume, g);
    else if (dice < 6 && !family_has_clones(family, volume))
        family_rollback(family, volume, g);
    else if (dice < 8 && !family_has_clones(family, volume))
        change_something(family, volume, g); /* as resync would */
    else if (dice < 9)
        family_check(family, volume, g);
    else
        family_check_diff(family, volume, family_below(family, 2) ? g : 0, volume->head);
}

static void act(struct family *family)
{
    struct family_volume *volume = pick_volume(family);
    uint64_t dice = family_below(family, 100);
    if (!volume) {
        (void)family_volume(family, (uint32_t)family_below(family, 200));
        return;
    }
    if (dice < 45)
        change_something(family, volume, volume->head);
    else if (dice < 55)
        family_snapshot(family, volume);
    else if (dice < 82)
        act_on_snapshot(family, volume, family_below(family, 10));
    else if (dice < 84)
        (void)family_volume(family, (uint32_t)family_below(family, 200));
    else if (dice < 86)
        family_delete(family, volume);
    else if (dice < 88 && volume->base)
        family_flatten(family, volume);
    else if (dice < 93)
        family_flush(family);
    else if (dice < 96)
        fixture_run(family->f, ENV_MS(family_below(family, 3000)));
    else
        family_check(family, volume, volume->head);
}

static void close_all(struct fixture *f, struct family *family)
{
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++)
        if (family->volumes[v].exists)
            store_shard_close(family->volumes[v].shard);
    family_destroy(family);
    fixture_destroy(f);
}

static void run_seed(uint64_t seed)
{
    struct fixture f;
    struct family family;
    fixture_create(&f, (seed % 3 ? 96u : 20u) * MIB, seed); /* every third runs out of space */
    f.shard_bytes = 2u * MIB;
    f.config.clean_idle_ns = ENV_MS(1000);
    f.config.sums_cache_bytes = 1; /* the least: evicts */
    assert_int_equal(fixture_open(&f), 0);
    family_create(&family, &f, seed);
    for (uint32_t life = 0; life < 4; life++) {
        uint32_t steps = 20 + (uint32_t)family_below(&family, 150);
        for (uint32_t i = 0; i < steps; i++)
            act(&family);
        uint64_t how = family_below(&family, 4);
        if (how == 0)
            family_check_offline(&family);
        else
            family_crash(&family, how >= 2);
        f.epoch += family_below(&family, 2);
        family_check_records(&family);
    }
    family_check_all(&family);
    family_check_offline(&family);
    for (uint32_t v = 0; v < FAMILY_VOLUMES; v++) /* clones keep what they read through */
        if (family.volumes[v].exists && !family.volumes[v].deleted)
            family_delete(&family, &family.volumes[v]);
    family_check_records(&family);
    assert_int_equal(fixture_stats(&f).bytes_allocated, 0);
    close_all(&f, &family);
}

static void random_families_survive_restarts_of_every_kind(void **state)
{
    (void)state;
    const char *one = getenv("STORE_SEED");
    const char *many = getenv("STORE_SEEDS");
    uint64_t first = one ? strtoull(one, NULL, 0) : 1;
    uint64_t last = one ? first : many ? strtoull(many, NULL, 0) : 12;
    for (uint64_t seed = first; seed <= last; seed++) {
        if (one || many)
            printf("seed %llu\n", (unsigned long long)seed);
        run_seed(seed);
    }
}

static void small_work(struct family *family)
{
    struct family_volume *parent = &family->volumes[0], *clone;
    family_write(family, parent, 1, 0, 40);
    family_snapshot(family, parent);
    family_write(family, parent, 2, 8, 4);
    family_flush(family);
    family_snapshot(family, parent);
    family_write(family, parent, 3, 9, 1); /* a third source: merges */
    family_write(family, parent, 2, 30, 3);
    family_write(family, parent, 1, 30, 5);
    family_zero(family, parent, 2, 16, 16);
    clone = family_clone(family, parent, 2);
    if (clone) {
        family_write(family, clone, 1, 3, 2);
        family_snapshot(family, clone);
        family_zero(family, clone, 2, 0, 16);
    }
    family_rollback(family, parent, 1);
    family_write(family, parent, parent->head, 12, 2);
    if (clone)
        family_flatten(family, clone);
    if (!family->failed)
        family_delete_snapshot(family, parent, 2);
    fixture_run(family->f, ENV_MS(1500)); /* reaps */
    family_flush(family);
    family_delete(family, parent);
    fixture_run(family->f, ENV_MS(1500));
    family_flush(family);
}

/* Returns whether the fault was hit. */
static bool sweep_one(uint64_t n, bool kv, bool power)
{
    struct fixture f;
    struct family family;
    fixture_create(&f, 32u * MIB, 1000 + n);
    f.shard_bytes = 1u * MIB;
    f.config.clean_idle_ns = ENV_MS(1000);
    assert_int_equal(fixture_open(&f), 0);
    family_create(&family, &f, n);
    assert_non_null(family_volume(&family, 1));
    family_flush(&family);
    uint64_t *fail_nth = kv ? &kv_sim_faults(f.base)->fail_nth : &drive_sim_faults(f.disk)->fail_nth;
    *fail_nth = n;
    small_work(&family);
    bool hit = *fail_nth == 0;
    *fail_nth = 0;
    fixture_run(&f, ENV_MS(1));
    family.failed |= fixture_stats(&f).failed;
    family_crash(&family, power);
    family_check_records(&family);
    family_check_offline(&family);
    family_check_all(&family);
    close_all(&f, &family);
    return hit;
}

static void sweep(bool kv, bool power)
{
    uint64_t n = 1;
    while (sweep_one(n, kv, power))
        n++;
    assert_true(n > 10);
}

static void every_failing_drive_operation_leaves_families_whole(void **state)
{
    (void)state;
    sweep(/* kv= */ false, /* power= */ false);
    sweep(/* kv= */ false, /* power= */ true);
}

static void every_failing_kv_operation_leaves_families_whole(void **state)
{
    (void)state;
    sweep(/* kv= */ true, /* power= */ false);
    sweep(/* kv= */ true, /* power= */ true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_families_survive_restarts_of_every_kind),
        cmocka_unit_test(every_failing_drive_operation_leaves_families_whole),
        cmocka_unit_test(every_failing_kv_operation_leaves_families_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
