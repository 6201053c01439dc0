/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/wire: the frame header. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/wire.h"

/* Every field differs from every other, so that a swapped pair is seen. */
static struct wire_header sample_header(void)
{
    return (struct wire_header){
        .opcode = WIRE_REPLICATE,
        .version = 1,
        .flags = WIRE_F_FUA | WIRE_F_TAKEOVER,
        .status = -EIO,
        .request_id = 0x1011121314151617u,
        .body_len = 0x18191,
        .payload_len = 0x1c1d1,
        .src_node = 0x20212223u,
        .dst_node = 0x24252627u,
        .src_incarnation = 0x28292a2b2c2d2e2fu,
        .dst_incarnation = 0x3031323334353637u,
        .map_version = 0x38393a3b3c3d3e3fu,
        .volume = 0x4041424344454647u,
        .shard = 0x48494a4bu,
        .generation = 0x4c4d4e4fu,
        .epoch = 0x5051525354555657u,
        .session = 0x58595a5b5c5d5e5fu,
        .lsn_n = 0x6061626364656667u,
        .commit_n = 0x68696a6b6c6d6e6fu,
        .offset = 0x7071727374757677u,
        .length = 0x78797a7b7c7d7e7fu,
        .loss_number = 0x8081828384858687u,
        .aux = 0x88898a8b8c8d8e8fu,
        .aux2 = 0x9091929394959697u,
        .credits = -42,
        .stage_ns = {0x9c9d9e9fu, 0xa0a1a2a3u, 0xa4a5a6a7u, 0xa8a9aaabu},
        .body_crc = 0xacadaeafu,
    };
}

static void assert_same_header(const struct wire_header *a, const struct wire_header *b)
{
    assert_int_equal(a->opcode, b->opcode);
    assert_int_equal(a->version, b->version);
    assert_int_equal(a->flags, b->flags);
    assert_int_equal(a->status, b->status);
    assert_int_equal(a->request_id, b->request_id);
    assert_int_equal(a->body_len, b->body_len);
    assert_int_equal(a->payload_len, b->payload_len);
    assert_int_equal(a->src_node, b->src_node);
    assert_int_equal(a->dst_node, b->dst_node);
    assert_int_equal(a->src_incarnation, b->src_incarnation);
    assert_int_equal(a->dst_incarnation, b->dst_incarnation);
    assert_int_equal(a->map_version, b->map_version);
    assert_int_equal(a->volume, b->volume);
    assert_int_equal(a->shard, b->shard);
    assert_int_equal(a->generation, b->generation);
    assert_int_equal(a->epoch, b->epoch);
    assert_int_equal(a->session, b->session);
    assert_int_equal(a->lsn_n, b->lsn_n);
    assert_int_equal(a->commit_n, b->commit_n);
    assert_int_equal(a->offset, b->offset);
    assert_int_equal(a->length, b->length);
    assert_int_equal(a->loss_number, b->loss_number);
    assert_int_equal(a->aux, b->aux);
    assert_int_equal(a->aux2, b->aux2);
    assert_int_equal(a->credits, b->credits);
    assert_memory_equal(a->stage_ns, b->stage_ns, sizeof(a->stage_ns));
    assert_int_equal(a->body_crc, b->body_crc);
}

static void write_le32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

/* A hostile peer seals what it forged: the CRC alone protects nothing. */
static void reseal(uint8_t raw[WIRE_HEADER_BYTES])
{
    write_le32(raw + 188, crc32c(raw, 188));
}

static void assert_refused(const uint8_t raw[WIRE_HEADER_BYTES], int rc)
{
    struct wire_header header;
    struct wire_header untouched;
    memset(&header, 0x5a, sizeof(header));
    memset(&untouched, 0x5a, sizeof(untouched));
    assert_int_equal(wire_decode(raw, &header), rc);
    assert_memory_equal(&header, &untouched, sizeof(header));
}

static void round_trip_keeps_every_field(void **state)
{
    (void)state;
    struct wire_header header = sample_header();
    struct wire_header back;
    uint8_t raw[WIRE_HEADER_BYTES];
    wire_encode(&header, raw);
    assert_int_equal(wire_decode(raw, &back), 0);
    assert_same_header(&header, &back);
}

/* The bytes themselves, against docs/internals/wire.md: a peer of another build reads these. */
static void bytes_are_as_documented(void **state)
{
    (void)state;
    struct wire_header header = sample_header();
    uint8_t raw[WIRE_HEADER_BYTES];
    wire_encode(&header, raw);
    assert_memory_equal(raw, "ASHL", 4);
    assert_memory_equal(raw + 4, "\x01\x00\x40\x00", 4);
    assert_memory_equal(raw + 8, "\x09\x00\x00\x00\xfb\xff\xff\xff", 8);
    assert_memory_equal(raw + 16, "\x17\x16\x15\x14\x13\x12\x11\x10", 8);
    assert_memory_equal(raw + 72, "\x4b\x4a\x49\x48\x4f\x4e\x4d\x4c", 8);
    assert_memory_equal(raw + 144, "\x97\x96\x95\x94\x93\x92\x91\x90", 8);
    assert_memory_equal(raw + 152, "\xd6\xff\xff\xff\x9f\x9e\x9d\x9c", 8);
    assert_memory_equal(raw + 172, "\xaf\xae\xad\xac\0\0\0\0\0\0\0\0\0\0\0\0", 16);
    uint8_t seal[4];
    write_le32(seal, crc32c(raw, 188));
    assert_memory_equal(raw + 188, seal, 4);
}

static void version_zero_becomes_current(void **state)
{
    (void)state;
    struct wire_header header = {.opcode = WIRE_PING};
    struct wire_header back;
    uint8_t raw[WIRE_HEADER_BYTES];
    wire_encode(&header, raw);
    assert_int_equal(wire_decode(raw, &back), 0);
    assert_int_equal(back.version, WIRE_VERSION);
}

/* Each byte of the header takes each of its 255 other values: none gets through. */
static void every_corrupt_byte_is_refused(void **state)
{
    (void)state;
    struct wire_header header = sample_header();
    struct wire_header back;
    uint8_t raw[WIRE_HEADER_BYTES];
    wire_encode(&header, raw);
    for (size_t at = 0; at < sizeof(raw); at++) {
        uint8_t good = raw[at];
        for (unsigned change = 1; change < 256; change++) {
            raw[at] = (uint8_t)(good ^ change);
            assert_in_range(-wire_decode(raw, &back), 1, 4095);
        }
        raw[at] = good;
    }
    assert_int_equal(wire_decode(raw, &back), 0);
}

/* A frame cut short and padded with whatever the buffer held (zeros, ones) is refused at every length. */
static void every_truncated_length_is_refused(void **state)
{
    (void)state;
    struct wire_header header = sample_header();
    struct wire_header back;
    uint8_t whole[WIRE_HEADER_BYTES];
    wire_encode(&header, whole);
    for (size_t length = 0; length < sizeof(whole); length++) {
        for (int fill = 0; fill <= 0xff; fill += 0xff) {
            uint8_t raw[WIRE_HEADER_BYTES];
            memset(raw, fill, sizeof(raw));
            memcpy(raw, whole, length);
            if (memcmp(raw, whole, sizeof(raw)) != 0)
                assert_in_range(-wire_decode(raw, &back), 1, 4095);
        }
    }
}

static void forged_magic_and_version_are_refused(void **state)
{
    (void)state;
    struct wire_header header = sample_header();
    uint8_t raw[WIRE_HEADER_BYTES];
    wire_encode(&header, raw);
    raw[0] = 'B';
    reseal(raw);
    assert_refused(raw, -EBADMSG);
    for (unsigned version = 0; version < 0x10000; version++) {
        if (version >= WIRE_VERSION_MIN && version <= WIRE_VERSION)
            continue;
        wire_encode(&header, raw);
        raw[4] = (uint8_t)version;
        raw[5] = (uint8_t)(version >> 8);
        reseal(raw);
        assert_refused(raw, -EPROTONOSUPPORT);
    }
}

static void reserved_bytes_must_be_zero(void **state)
{
    (void)state;
    struct wire_header header = sample_header();
    for (size_t at = 176; at < 188; at++) {
        uint8_t raw[WIRE_HEADER_BYTES];
        wire_encode(&header, raw);
        raw[at] = 1;
        reseal(raw);
        assert_refused(raw, -EBADMSG);
    }
}

/* The limits themselves pass, one more does not: nobody allocates by a peer's word. */
static void lengths_are_bounded(void **state)
{
    (void)state;
    struct wire_header header = sample_header();
    struct wire_header back;
    uint8_t raw[WIRE_HEADER_BYTES];
    header.body_len = WIRE_BODY_MAX;
    header.payload_len = WIRE_PAYLOAD_MAX;
    wire_encode(&header, raw);
    assert_int_equal(wire_decode(raw, &back), 0);
    static const uint32_t bad[] = {1, 0x7fffffff, 0x80000000u, 0xffffffffu};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        wire_encode(&header, raw);
        write_le32(raw + 24, bad[i] > 1 ? bad[i] : WIRE_BODY_MAX + 1);
        reseal(raw);
        assert_refused(raw, -EMSGSIZE);
        wire_encode(&header, raw);
        write_le32(raw + 28, bad[i] > 1 ? bad[i] : WIRE_PAYLOAD_MAX + 1);
        reseal(raw);
        assert_refused(raw, -EMSGSIZE);
    }
}

/* All 65536 opcodes: those with a name decode, the others are refused; one-way messages have no answer. */
static void unknown_opcodes_are_refused(void **state)
{
    (void)state;
    struct wire_header header = {.opcode = WIRE_PING};
    unsigned known = 0;
    for (unsigned opcode = 0; opcode < 0x10000; opcode++) {
        struct wire_header back;
        uint8_t raw[WIRE_HEADER_BYTES];
        wire_encode(&header, raw);
        raw[6] = (uint8_t)opcode;
        raw[7] = (uint8_t)(opcode >> 8);
        reseal(raw);
        if (strcmp(wire_opcode_name(opcode), "unknown") == 0) {
            assert_refused(raw, -EBADMSG);
            continue;
        }
        assert_int_equal(wire_decode(raw, &back), 0);
        assert_int_equal(back.opcode, opcode);
        known++;
    }
    assert_in_range(known, 2 * 26, 128);
    assert_string_equal(wire_opcode_name(WIRE_COMMIT | 1), "unknown");
    assert_string_equal(wire_opcode_name(WIRE_CTL_SUSPECT | 1), "unknown");
    assert_string_equal(wire_opcode_name(WIRE_WRITE), "write");
    assert_string_equal(wire_opcode_name(WIRE_WRITE | 1), "write-reply");
    assert_string_equal(wire_opcode_name(0), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip_keeps_every_field),      cmocka_unit_test(bytes_are_as_documented),
        cmocka_unit_test(version_zero_becomes_current),      cmocka_unit_test(every_corrupt_byte_is_refused),
        cmocka_unit_test(every_truncated_length_is_refused), cmocka_unit_test(forged_magic_and_version_are_refused),
        cmocka_unit_test(reserved_bytes_must_be_zero),       cmocka_unit_test(lengths_are_bounded),
        cmocka_unit_test(unknown_opcodes_are_refused),
    };
    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
