/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/crc32c, against published values and a bitwise reference. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/wire.h"

static uint32_t reference_crc32c(const uint8_t *data, size_t bytes)
{
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0x82f63b78u & (0u - (crc & 1u)));
    }
    return ~crc;
}

static uint64_t reference_crc64(const uint8_t *data, size_t bytes)
{
    uint64_t crc = UINT64_MAX;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0xc96c5795d7870f42u & (0u - (crc & 1u)));
    }
    return ~crc;
}

static void fill(uint8_t *data, size_t bytes)
{
    uint32_t x = 12345;
    for (size_t i = 0; i < bytes; i++) {
        x = x * 1664525u + 1013904223u;
        data[i] = (uint8_t)(x >> 24);
    }
}

/* RFC 3720, appendix B.4. */
static void published_values_hold(void **state)
{
    (void)state;
    uint8_t data[32] = {0};
    assert_int_equal(crc32c("123456789", 9), 0xe3069283u);
    assert_int_equal(crc32c(data, sizeof(data)), 0x8a9136aau);
    memset(data, 0xff, sizeof(data));
    assert_int_equal(crc32c(data, sizeof(data)), 0x62a8ab43u);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)i;
    assert_int_equal(crc32c(data, sizeof(data)), 0x46dd794eu);
    assert_int_equal(crc32c(NULL, 0), 0);
    assert_int_equal(crc64("123456789", 9), 0x995dc9bbdf1939fau);
    assert_int_equal(crc64(NULL, 0), 0);
}

/* Every short length at every alignment, where the fast code has its edges. */
static void reference_agrees_at_all_lengths(void **state)
{
    (void)state;
    uint8_t data[600];
    fill(data, sizeof(data));
    for (size_t start = 0; start < 16; start++) {
        for (size_t bytes = 1; bytes < 580; bytes++) {
            assert_int_equal(crc32c(data + start, bytes), reference_crc32c(data + start, bytes));
            assert_int_equal(crc64(data + start, bytes), reference_crc64(data + start, bytes));
        }
    }
}

static void extend_equals_the_whole(void **state)
{
    (void)state;
    uint8_t data[300];
    fill(data, sizeof(data));
    for (size_t cut = 0; cut <= sizeof(data); cut++) {
        uint32_t crc = crc32c(data, cut);
        assert_int_equal(crc32c_extend(crc, data + cut, sizeof(data) - cut), crc32c(data, sizeof(data)));
    }
}

static void blocks_have_a_crc_each(void **state)
{
    (void)state;
    enum { BLOCKS = 5 };
    uint8_t *data = malloc(BLOCKS * WIRE_BLOCK_BYTES);
    assert_non_null(data);
    fill(data, BLOCKS * WIRE_BLOCK_BYTES);
    memset(data + 2 * WIRE_BLOCK_BYTES, 0, WIRE_BLOCK_BYTES);
    uint32_t crcs[BLOCKS + 1];
    crcs[BLOCKS] = 0xdeadbeef;
    crc32c_blocks(data, BLOCKS, crcs);
    for (size_t i = 0; i < BLOCKS; i++)
        assert_int_equal(crcs[i], reference_crc32c(data + i * WIRE_BLOCK_BYTES, WIRE_BLOCK_BYTES));
    assert_int_equal(crcs[2], crc32c_zero_block());
    assert_int_equal(crcs[BLOCKS], 0xdeadbeef);
    crc32c_blocks(NULL, 0, NULL);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_values_hold),
        cmocka_unit_test(reference_agrees_at_all_lengths),
        cmocka_unit_test(extend_equals_the_whole),
        cmocka_unit_test(blocks_have_a_crc_each),
    };
    return cmocka_run_group_tests_name("crc32c", tests, NULL, NULL);
}
