/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/map_u64. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "common/map_u64.h"

enum { KEYS = 2000 };

static int values[KEYS];

static void empty_map_finds_nothing(void **state)
{
    (void)state;
    struct map_u64 map;
    uint32_t at = 0;
    map_u64_init(&map);
    assert_null(map_u64_get(&map, 0));
    assert_null(map_u64_remove(&map, 0));
    assert_null(map_u64_next(&map, &at));
    map_u64_close(&map);
    map_u64_close(NULL);
}

static void put_replaces_and_remove_returns(void **state)
{
    (void)state;
    struct map_u64 map;
    map_u64_init(&map);
    assert_int_equal(map_u64_put(&map, 0, &values[0]), 0);
    assert_int_equal(map_u64_put(&map, UINT64_MAX, &values[1]), 0);
    assert_int_equal(map_u64_put(&map, 0, &values[2]), 0);
    assert_int_equal(map.count, 2);
    assert_ptr_equal(map_u64_get(&map, 0), &values[2]);
    assert_ptr_equal(map_u64_remove(&map, 0), &values[2]);
    assert_null(map_u64_get(&map, 0));
    assert_ptr_equal(map_u64_get(&map, UINT64_MAX), &values[1]);
    map_u64_close(&map);
}

static void both_keys_count(void **state)
{
    (void)state;
    struct map_u64 map;
    map_u64_init(&map);
    for (uint64_t a = 0; a < 40; a++) {
        for (uint64_t b = 0; b < 50; b++)
            assert_int_equal(map_u64_put2(&map, a, b, &values[a * 50 + b]), 0);
    }
    assert_int_equal(map.count, 2000);
    for (uint64_t a = 0; a < 40; a++) {
        for (uint64_t b = 0; b < 50; b++)
            assert_ptr_equal(map_u64_get2(&map, a, b), &values[a * 50 + b]);
    }
    assert_null(map_u64_get2(&map, 40, 0));
    assert_null(map_u64_get2(&map, 0, 50));
    map_u64_close(&map);
}

static void reserve_is_enough(void **state)
{
    (void)state;
    struct map_u64 map;
    map_u64_init(&map);
    assert_int_equal(map_u64_reserve(&map, KEYS), 0);
    const struct map_u64_slot *slots = map.slots;
    for (uint64_t key = 0; key < KEYS; key++)
        assert_int_equal(map_u64_put(&map, key << 32, &values[key]), 0);
    assert_ptr_equal(map.slots, slots);
    assert_int_equal(map_u64_reserve(&map, MAP_U64_MAX + 1), -ENOSPC);
    map_u64_close(&map);
}

/* A seeded storm against an array of what should be there; small tables, so that probes wrap and holes close. */
static void storm_agrees_with_a_model(void **state)
{
    (void)state;
    for (uint32_t keys = 5; keys <= KEYS; keys = keys * 3 + 1) {
        struct map_u64 map;
        int *model[KEYS] = {NULL};
        uint32_t count = 0;
        uint64_t x = keys;
        map_u64_init(&map);
        for (int step = 0; step < 40000; step++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            uint32_t key = (uint32_t)(x >> 33) % keys;
            if (x >> 63) {
                count += model[key] == NULL;
                model[key] = &values[x % KEYS];
                assert_int_equal(map_u64_put(&map, key, model[key]), 0);
            } else {
                count -= model[key] != NULL;
                assert_ptr_equal(map_u64_remove(&map, key), model[key]);
                model[key] = NULL;
            }
            uint32_t other = (uint32_t)(x >> 13) % keys;
            assert_ptr_equal(map_u64_get(&map, other), model[other]);
            assert_int_equal(map.count, count);
        }
        const struct map_u64_slot *slot;
        for (uint32_t at = 0; (slot = map_u64_next(&map, &at)) != NULL;) {
            assert_ptr_equal(slot->value, model[slot->key]);
            model[slot->key] = NULL;
            count--;
        }
        assert_int_equal(count, 0);
        map_u64_close(&map);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_map_finds_nothing),   cmocka_unit_test(put_replaces_and_remove_returns),
        cmocka_unit_test(both_keys_count),           cmocka_unit_test(reserve_is_enough),
        cmocka_unit_test(storm_agrees_with_a_model),
    };
    return cmocka_run_group_tests_name("map_u64", tests, NULL, NULL);
}
