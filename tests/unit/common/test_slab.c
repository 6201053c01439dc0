/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/slab. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#include "common/slab.h"

enum { ITEMS = 9000, ITEM_BYTES = 780 };

static uint8_t *items[ITEMS];

static void assert_zero(const uint8_t *item)
{
    for (uint32_t i = 0; i < ITEM_BYTES; i++)
        assert_int_equal(item[i], 0);
}

/* Goal: what is taken is zeroed, aligned, and nobody else's, over blocks of every size, also after it was given back. */
static void items_are_zeroed_and_apart(void **state)
{
    (void)state;
    struct slab slab;
    slab_init(&slab, ITEM_BYTES);
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < ITEMS; i++) {
            items[i] = slab_take(&slab);
            assert_int_equal((uintptr_t)items[i] % 16, 0);
            assert_zero(items[i]);
            memset(items[i], (int)(i % 251 + 1), ITEM_BYTES);
        }
        assert_int_equal(slab.taken, ITEMS);
        for (uint32_t i = 0; i < ITEMS; i++) {
            uint32_t which = i * 7 % ITEMS; /* 7 and ITEMS have no common divisor */
            for (uint32_t k = 0; k < ITEM_BYTES; k++)
                assert_int_equal(items[which][k], which % 251 + 1);
            slab_give(&slab, items[which]);
        }
    }
    slab_close(&slab);
}

/* Goal: giving back and taking again needs no more memory. */
static void given_back_is_taken_again(void **state)
{
    (void)state;
    struct slab slab;
    slab_init(&slab, ITEM_BYTES);
    void *first = slab_take(&slab);
    struct slab_block *block = slab.blocks;
    for (uint32_t i = 0; i < ITEMS; i++) {
        slab_give(&slab, first);
        first = slab_take(&slab);
    }
    assert_ptr_equal(slab.blocks, block);
    slab_give(&slab, first);
    slab_close(&slab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_are_zeroed_and_apart),
        cmocka_unit_test(given_back_is_taken_again),
    };
    return cmocka_run_group_tests_name("common/slab", tests, NULL, NULL);
}
