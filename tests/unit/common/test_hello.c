/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/hello: the first frame of a link. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/hello.h"
#include "common/wire.h"

static struct hello sample_hello(void)
{
    return (struct hello){
        .version_min = 1,
        .version_max = 0x0203,
        .role = HELLO_CONTROL,
        .node = 0x08090a0bu,
        .incarnation = 0x1011121314151617u,
        .cluster_id = 0x18191a1b1c1d1e1fu,
        .connection = 0x2021222324252627u,
        .map_version = 0x28292a2b2c2d2e2fu,
        .feature_level = 0x0c0d0e0fu,
        .inflight_bytes_max = 0x30313233u,
        .inflight_count_max = 0x34353637u,
        .text = "the cluster has another name",
    };
}

static void round_trip_keeps_every_field(void **state)
{
    (void)state;
    struct hello hello = sample_hello();
    struct hello back;
    uint8_t raw[HELLO_BYTES];
    hello_encode(&hello, raw);
    assert_int_equal(hello_decode(raw, sizeof(raw), &back), 0);
    assert_int_equal(back.version_min, hello.version_min);
    assert_int_equal(back.version_max, hello.version_max);
    assert_int_equal(back.role, hello.role);
    assert_int_equal(back.node, hello.node);
    assert_int_equal(back.incarnation, hello.incarnation);
    assert_int_equal(back.cluster_id, hello.cluster_id);
    assert_int_equal(back.connection, hello.connection);
    assert_int_equal(back.map_version, hello.map_version);
    assert_int_equal(back.feature_level, hello.feature_level);
    assert_int_equal(back.inflight_bytes_max, hello.inflight_bytes_max);
    assert_int_equal(back.inflight_count_max, hello.inflight_count_max);
    assert_string_equal(back.text, hello.text);
}

static void bytes_are_as_documented(void **state)
{
    (void)state;
    struct hello hello = sample_hello();
    uint8_t raw[HELLO_BYTES];
    hello_encode(&hello, raw);
    assert_memory_equal(raw, "\x01\x00\x03\x02\x03\x00\x00\x00", 8);
    assert_memory_equal(raw + 8, "\x0b\x0a\x09\x08\x0f\x0e\x0d\x0c", 8);
    assert_memory_equal(raw + 16, "\x17\x16\x15\x14\x13\x12\x11\x10", 8);
    assert_memory_equal(raw + 48, "\x33\x32\x31\x30\x37\x36\x35\x34", 8);
    assert_memory_equal(raw + 56, "\0\0\0\0\0\0\0\0", 8);
    assert_memory_equal(raw + 64, "the cluster", 11);
}

/* What lies behind the text's end in the sender's memory stays there. */
static void text_is_cut_and_padded_with_zeros(void **state)
{
    (void)state;
    struct hello hello = sample_hello();
    struct hello back;
    uint8_t raw[HELLO_BYTES];
    memset(hello.text, 'x', sizeof(hello.text));
    hello_encode(&hello, raw);
    assert_int_equal(hello_decode(raw, sizeof(raw), &back), 0);
    assert_int_equal(strlen(back.text), HELLO_TEXT_MAX - 1);
    hello.text[0] = '\0';
    hello_encode(&hello, raw);
    for (size_t i = 64; i < HELLO_BYTES; i++)
        assert_int_equal(raw[i], 0);
}

/* Each length on a heap block of just that size, so that a sanitizer sees any byte too far. */
static void short_bodies_are_refused_long_ones_read(void **state)
{
    (void)state;
    struct hello hello = sample_hello();
    struct hello back;
    uint8_t raw[HELLO_BYTES + 64] = {0};
    hello_encode(&hello, raw);
    assert_int_equal(hello_decode(NULL, 0, &back), -EBADMSG);
    for (size_t length = 1; length <= sizeof(raw); length++) {
        uint8_t *copy = malloc(length);
        assert_non_null(copy);
        memcpy(copy, raw, length);
        int rc = hello_decode(copy, length, &back);
        free(copy);
        assert_int_equal(rc, length < HELLO_BYTES ? -EBADMSG : 0);
    }
}

static void assert_byte_refused(size_t at, uint8_t value)
{
    struct hello hello = sample_hello();
    struct hello back = {.node = 77};
    uint8_t raw[HELLO_BYTES];
    hello_encode(&hello, raw);
    raw[at] = value;
    assert_int_equal(hello_decode(raw, sizeof(raw), &back), -EBADMSG);
    assert_int_equal(back.node, 77);
}

static void malformed_fields_are_refused(void **state)
{
    (void)state;
    assert_byte_refused(0, 0);    /* version_min 0 */
    assert_byte_refused(1, 0xff); /* version_min > version_max */
    assert_byte_refused(4, 0);    /* role 0 */
    assert_byte_refused(4, HELLO_ADMIN + 1);
    assert_byte_refused(7, 1);
    for (size_t at = 56; at < 64; at++)
        assert_byte_refused(at, 1);
    struct hello hello = sample_hello();
    struct hello back;
    uint8_t raw[HELLO_BYTES];
    hello_encode(&hello, raw);
    memset(raw + 64, 'x', HELLO_TEXT_MAX);
    assert_int_equal(hello_decode(raw, sizeof(raw), &back), -EBADMSG);
}

static void negotiation_takes_the_newest_common_version(void **state)
{
    (void)state;
    static const struct {
        uint16_t version_min, version_max;
        int rc;
    } cases[] = {
        {1, WIRE_VERSION, 0},
        {WIRE_VERSION, WIRE_VERSION, 0},
        {1, 0xffff, 0},
        {WIRE_VERSION + 1, 0xffff, -EPROTONOSUPPORT},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct hello hello = sample_hello();
        uint16_t version = 0;
        hello.version_min = cases[i].version_min;
        hello.version_max = cases[i].version_max;
        assert_int_equal(hello_negotiate(&hello, &version), cases[i].rc);
        assert_int_equal(version, cases[i].rc == 0 ? WIRE_VERSION : 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip_keeps_every_field),
        cmocka_unit_test(bytes_are_as_documented),
        cmocka_unit_test(text_is_cut_and_padded_with_zeros),
        cmocka_unit_test(short_bodies_are_refused_long_ones_read),
        cmocka_unit_test(malformed_fields_are_refused),
        cmocka_unit_test(negotiation_takes_the_newest_common_version),
    };
    return cmocka_run_group_tests_name("hello", tests, NULL, NULL);
}
