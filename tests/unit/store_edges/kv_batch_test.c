/* SPDX-License-Identifier: Apache-2.0 */
/* kv_batch: what is appended is walked in order, across growth, reset and the largest sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "server/store/kv.h"

struct entry {
    const uint8_t *key, *value;
    uint32_t key_len, value_len;
    bool is_delete;
};

static bool next(const struct kv_batch *batch, uint32_t *cursor, struct entry *ret)
{
    return kv_batch_next(batch, cursor, &ret->key, &ret->key_len, &ret->value, &ret->value_len, &ret->is_delete);
}

static void batch_walks_in_order(void **state)
{
    (void)state;
    struct kv_batch batch = {0};
    struct entry entry;
    uint32_t cursor = 0;
    assert_false(next(&batch, &cursor, &entry));
    kv_batch_put(&batch, "a", 1, "one", 3);
    kv_batch_delete(&batch, "bb", 2);
    kv_batch_put(&batch, "c", 1, NULL, 0);
    assert_int_equal(batch.count, 3);
    assert_true(next(&batch, &cursor, &entry));
    assert_int_equal(entry.key_len, 1);
    assert_memory_equal(entry.key, "a", 1);
    assert_int_equal(entry.value_len, 3);
    assert_memory_equal(entry.value, "one", 3);
    assert_false(entry.is_delete);
    assert_true(next(&batch, &cursor, &entry));
    assert_memory_equal(entry.key, "bb", 2);
    assert_true(entry.is_delete);
    assert_true(next(&batch, &cursor, &entry));
    assert_int_equal(entry.value_len, 0);
    assert_false(entry.is_delete);
    assert_false(next(&batch, &cursor, &entry));
    kv_batch_free(&batch);
}

static void batch_grows_and_keeps_its_memory(void **state)
{
    (void)state;
    struct kv_batch batch = {0};
    struct entry entry;
    uint8_t key[KV_KEY_MAX], *value = malloc(KV_VALUE_MAX);
    assert_non_null(value);
    for (unsigned i = 0; i < 40; i++) {
        memset(key, (int)i, sizeof(key));
        memset(value, (int)(i + 1), KV_VALUE_MAX);
        kv_batch_put(&batch, key, sizeof(key), value, KV_VALUE_MAX - i);
    }
    uint32_t cursor = 0, seen = 0;
    while (next(&batch, &cursor, &entry)) {
        assert_int_equal(entry.key_len, KV_KEY_MAX);
        assert_int_equal(entry.key[KV_KEY_MAX - 1], seen);
        assert_int_equal(entry.value_len, KV_VALUE_MAX - seen);
        assert_int_equal(entry.value[entry.value_len - 1], seen + 1);
        seen++;
    }
    assert_int_equal(seen, 40);
    uint32_t capacity = batch.capacity;
    kv_batch_reset(&batch);
    assert_int_equal(batch.count, 0);
    assert_int_equal(batch.used, 0);
    assert_int_equal(batch.capacity, capacity);
    kv_batch_free(&batch);
    assert_null(batch.bytes);
    kv_batch_free(&batch);
    free(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch_walks_in_order),
        cmocka_unit_test(batch_grows_and_keeps_its_memory),
    };
    return cmocka_run_group_tests_name("kv_batch", tests, NULL, NULL);
}
