/* SPDX-License-Identifier: Apache-2.0 */
/* Formats: round trips, every corrupted byte, every truncation, wrong keys; the order of keys. The allocator. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "server/store/alloc.h"
#include "server/store/records.h"
#include "server/store/superblock.h"

static const struct store_shard_id id = {.volume = 0x1122334455667788u, .shard = 3, .instance = 42};
static const struct store_shard_id other = {.volume = 0x1122334455667788u, .shard = 3, .instance = 43};

static struct record_map sample_map(void)
{
    struct record_map map = {.generation = 9, .mod_epoch = 77};
    memset(map.own, 0xff, sizeof(map.own));
    memset(map.base, 0xff, sizeof(map.base));
    map.own[0] = 17;
    map.own[15] = 0xfffffffe;
    map.base[0] = 99;
    record_state_set(map.states, 0, BLOCK_OWN);
    record_state_set(map.states, 1, BLOCK_BASE);
    record_state_set(map.states, 2, BLOCK_OVER);
    record_state_set(map.states, 255, BLOCK_OWN);
    map.fresh[0] = (struct record_fresh){.seq = 5, .bits = {4, 0, 0, 0}};
    map.fresh[1] = (struct record_fresh){.seq = 6, .bits = {1, 0, 0, 1ull << 63}};
    return map;
}

static void map_record_round_trips(void **state)
{
    (void)state;
    struct record_key key = record_key_chunk(RECORD_MAP, &id, 1023, 9);
    struct record_map map = sample_map(), back;
    uint8_t value[RECORD_MAP_BYTES_MAX];
    uint32_t bytes = record_map_encode(&key, &map, value);
    assert_int_equal(record_map_decode(key.bytes, key.len, value, bytes, &back), 0);
    assert_memory_equal(&map, &back, sizeof(map));
    memset(&map, 0, sizeof(map)); /* a tombstone is small and keeps mod_epoch (R14) */
    memset(map.own, 0xff, sizeof(map.own));
    memset(map.base, 0xff, sizeof(map.base));
    map.generation = 9;
    map.mod_epoch = UINT64_MAX;
    bytes = record_map_encode(&key, &map, value);
    assert_true(bytes <= 24);
    assert_int_equal(record_map_decode(key.bytes, key.len, value, bytes, &back), 0);
    assert_memory_equal(&map, &back, sizeof(map));
}

static int decode(enum record_kind kind, const struct record_key *key, const uint8_t *value, size_t bytes)
{
    struct record_map map;
    struct record_mark mark;
    struct record_super super;
    uint32_t crcs[STORE_CHUNK_BLOCKS];
    struct record_shard shard;
    switch (kind) {
    case RECORD_MAP: return record_map_decode(key->bytes, key->len, value, bytes, &map);
    case RECORD_SUMS: return record_sums_decode(key->bytes, key->len, value, bytes, crcs);
    case RECORD_MARK: return record_mark_decode(key->bytes, key->len, value, bytes, &mark);
    case RECORD_DROP: return record_drop_decode(key->bytes, key->len, value, bytes);
    case RECORD_SHARD: return record_shard_decode(key->bytes, key->len, value, bytes, &shard);
    case RECORD_SUPER: return record_super_decode(value, bytes, &super);
    }
    return -EINVAL;
}

static void check_corruption(enum record_kind kind, const struct record_key *key, const struct record_key *wrong,
                             uint8_t *value, size_t bytes)
{
    assert_int_equal(decode(kind, key, value, bytes), 0);
    for (size_t i = 0; i < bytes; i++) {
        value[i] ^= 0x20;
        assert_int_equal(decode(kind, key, value, bytes), -EBADMSG);
        value[i] ^= 0x20;
    }
    for (size_t i = 0; i < bytes; i++)
        assert_int_equal(decode(kind, key, value, i), -EBADMSG);
    value[bytes] = 0;
    assert_int_equal(decode(kind, key, value, bytes + 1), -EBADMSG);
    if (wrong) /* a record under another key is as bad as a torn one */
        assert_int_equal(decode(kind, wrong, value, bytes), -EBADMSG);
}

static void every_record_refuses_every_corruption(void **state)
{
    (void)state;
    uint8_t value[RECORD_SUMS_BYTES + 1];
    struct record_map map = sample_map();
    struct record_key key = record_key_chunk(RECORD_MAP, &id, 5, 9), wrong = record_key_chunk(RECORD_MAP, &id, 6, 9);
    check_corruption(RECORD_MAP, &key, &wrong, value, record_map_encode(&key, &map, value));
    uint32_t crcs[STORE_CHUNK_BLOCKS];
    for (uint32_t i = 0; i < STORE_CHUNK_BLOCKS; i++)
        crcs[i] = i * 2654435761u;
    key = record_key_chunk(RECORD_SUMS, &id, 5, 9);
    wrong = record_key_chunk(RECORD_SUMS, &id, 5, 8);
    record_sums_encode(&key, crcs, value);
    check_corruption(RECORD_SUMS, &key, &wrong, value, RECORD_SUMS_BYTES);
    key = record_key_mark(&id, 63);
    wrong = record_key_mark(&id, 62);
    record_mark_encode(&key, &(struct record_mark){.epoch = 5, .frozen = true}, value);
    check_corruption(RECORD_MARK, &key, &wrong, value, RECORD_MARK_BYTES);
    key = record_key_shard(RECORD_SHARD, &id);
    wrong = record_key_shard(RECORD_SHARD, &other);
    record_shard_encode(&key, &(struct record_shard){.bytes = STORE_SHARD_BYTES_MAX, .origin = 3}, value);
    check_corruption(RECORD_SHARD, &key, &wrong, value, RECORD_SHARD_BYTES);
    record_shard_encode(
        &key,
        &(struct record_shard){
            .bytes = STORE_SHARD_BYTES_MAX, .origin = 3, .has_base = true, .base = {.id = other, .generation = 7}},
        value);
    check_corruption(RECORD_SHARD, &key, &wrong, value, RECORD_SHARD_BYTES);
    key = record_key_shard(RECORD_DROP, &id);
    wrong = record_key_shard(RECORD_DROP, &other);
    record_drop_encode(&key, value);
    check_corruption(RECORD_DROP, &key, &wrong, value, RECORD_DROP_BYTES);
    key = record_key_super();
    record_super_encode(&(struct record_super){.clean = true, .boot_id = "b", .settled_seq = 3}, value);
    check_corruption(RECORD_SUPER, &key, NULL, value, RECORD_SUPER_BYTES);
}

static void newer_generations_sort_first(void **state)
{
    (void)state;
    struct record_key newer = record_key_chunk(RECORD_MAP, &id, 5, 10), older = record_key_chunk(RECORD_MAP, &id, 5, 9);
    struct record_key next = record_key_chunk(RECORD_MAP, &id, 6, UINT32_MAX);
    assert_true(memcmp(newer.bytes, older.bytes, newer.len) < 0);
    assert_true(memcmp(older.bytes, next.bytes, older.len) < 0);
    enum record_kind kind;
    struct store_shard_id decoded;
    uint32_t chunk, generation;
    assert_int_equal(record_key_decode(newer.bytes, newer.len, &kind, &decoded, &chunk, &generation), 0);
    assert_int_equal(kind, RECORD_MAP);
    assert_int_equal(decoded.instance, id.instance);
    assert_int_equal(chunk, 5);
    assert_int_equal(generation, 10);
    assert_int_equal(record_key_decode(newer.bytes, newer.len - 1, &kind, &decoded, &chunk, &generation), -EBADMSG);
    newer.bytes[21] = 4; /* chunk 1024 and more */
    assert_int_equal(record_key_decode(newer.bytes, newer.len, &kind, &decoded, &chunk, &generation), -EBADMSG);
}

static void superblock_refuses_every_corruption(void **state)
{
    (void)state;
    uint8_t block[STORE_BLOCK_BYTES];
    struct store_identity identity = {.uuid = {1, 2, 3}, .cluster_id = 7, .node = 9};
    struct superblock self;
    assert_int_equal(store_format_superblock(block, &identity, 1u << 20), -EINVAL);
    assert_int_equal(store_format_superblock(block, &identity, 1u << 30), 0);
    assert_int_equal(superblock_decode(block, &self), 0);
    assert_int_equal(self.identity.cluster_id, 7);
    assert_int_equal(self.identity.node, 9);
    assert_int_equal(self.drive_bytes, 1u << 30);
    for (uint32_t i = 0; i < STORE_BLOCK_BYTES; i++) {
        block[i] ^= 1;
        assert_int_equal(superblock_decode(block, &self), -EBADMSG);
        block[i] ^= 1;
    }
}

static void allocator_gives_a_chunk_neighbouring_units(void **state)
{
    (void)state;
    struct alloc alloc;
    assert_int_equal(alloc_init(&alloc, 8u << 20), 0);
    assert_int_equal(alloc.free, 7 * 16);
    uint32_t a = alloc_take(&alloc, RECORD_UNIT_NONE, 5); /* its chunk's sixth unit */
    assert_int_equal(a % 16, 5);
    uint32_t b = alloc_take(&alloc, RECORD_UNIT_NONE, 0); /* another chunk starts in another group */
    assert_int_not_equal(a / 16, b / 16);
    assert_int_equal(alloc_take(&alloc, a + 1, 6), a + 1);
    assert_int_equal(alloc_refs(&alloc, a), 1);
    for (uint32_t i = 3; i < 7 * 16; i++) /* down to the last one, wherever it is */
        assert_int_not_equal(alloc_take(&alloc, RECORD_UNIT_NONE, i % 16), RECORD_UNIT_NONE);
    assert_int_equal(alloc_take(&alloc, RECORD_UNIT_NONE, 0), RECORD_UNIT_NONE);
    assert_true(alloc_unref(&alloc, a)); /* in quarantine: neither free nor referenced by anybody (R22) */
    assert_false(alloc_is_free(&alloc, a));
    assert_int_equal(alloc_take(&alloc, a, 0), RECORD_UNIT_NONE);
    alloc_free(&alloc, a);
    assert_int_equal(alloc_take(&alloc, RECORD_UNIT_NONE, 0), a);
    alloc_close(&alloc);
}

static void allocator_keeps_below_the_watermark(void **state)
{
    (void)state;
    struct alloc alloc;
    assert_int_equal(alloc_init(&alloc, 8u << 20), 0);
    alloc_set_watermark(&alloc, 36);
    assert_int_equal(alloc.free_below, 20);
    for (uint32_t i = 0; i < 20; i++)
        assert_true(alloc_take(&alloc, 36 + i, 0) < 36);
    assert_int_equal(alloc_take(&alloc, RECORD_UNIT_NONE, 0), RECORD_UNIT_NONE);
    alloc_set_watermark(&alloc, 37);
    assert_int_equal(alloc_take(&alloc, RECORD_UNIT_NONE, 0), 36);
    alloc_close(&alloc);
}

static void reservations_hold_two_percent_back(void **state)
{
    (void)state;
    struct alloc alloc;
    assert_int_equal(alloc_init(&alloc, 64u << 20), 0);
    uint32_t units = alloc.free;
    assert_int_equal(alloc.held_back, (units + 49) / 50);
    assert_int_equal(alloc_reserve(&alloc, units - alloc.held_back), 0);
    assert_int_equal(alloc_reserve(&alloc, 1), -ENOSPC);
    assert_int_equal(alloc_reserve(&alloc, 0), 0);
    alloc_unreserve(&alloc, 1);
    assert_int_equal(alloc_reserve(&alloc, 1), 0);
    (void)alloc_take(&alloc, RECORD_UNIT_NONE, 0); /* uses up a promise, not somebody else's space */
    assert_int_equal(alloc.reserved, units - alloc.held_back - 1);
    assert_int_equal(alloc_reserve(&alloc, 1), -ENOSPC);
    alloc_close(&alloc);
}

static void references_are_checked_and_not_bounded(void **state)
{
    (void)state;
    struct alloc alloc;
    assert_int_equal(alloc_init(&alloc, 8u << 20), 0);
    assert_int_equal(alloc_ref(&alloc, 0), -ERANGE); /* the superblocks */
    assert_int_equal(alloc_ref(&alloc, 128), -ERANGE);
    assert_int_equal(alloc_ref(&alloc, RECORD_UNIT_NONE), -ERANGE);
    for (uint32_t i = 0; i < UINT16_MAX; i++)
        assert_int_equal(alloc_ref(&alloc, 20), 0);
    for (uint32_t i = 0; i < 100000; i++) /* tens of thousands of snapshots and clones may share a unit */
        assert_int_equal(alloc_ref(&alloc, 20), 0);
    for (uint32_t i = 1; i < 100000 + UINT16_MAX; i++)
        assert_false(alloc_unref(&alloc, 20));
    assert_int_equal(alloc_refs(&alloc, 20), 1);
    assert_true(alloc_unref(&alloc, 20));
    alloc_free(&alloc, 20);
    assert_true(alloc_is_free(&alloc, 20));
    alloc_close(&alloc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map_record_round_trips),
        cmocka_unit_test(every_record_refuses_every_corruption),
        cmocka_unit_test(newer_generations_sort_first),
        cmocka_unit_test(superblock_refuses_every_corruption),
        cmocka_unit_test(allocator_gives_a_chunk_neighbouring_units),
        cmocka_unit_test(allocator_keeps_below_the_watermark),
        cmocka_unit_test(reservations_hold_two_percent_back),
        cmocka_unit_test(references_are_checked_and_not_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
