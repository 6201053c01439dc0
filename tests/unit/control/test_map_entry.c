/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of the bytes of entries and snapshots: every kind there and back, every cut and every flipped byte refused or harmless. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/control/map_fixture.h"

static const enum map_entry_kind kinds[] = {
    MAP_ENTRY_CLUSTER_INIT,    MAP_ENTRY_NODE_REGISTER,   MAP_ENTRY_NODE_DOWN,      MAP_ENTRY_NODE_OUT,
    MAP_ENTRY_NODE_REMOVE,     MAP_ENTRY_STORE_FAILED,    MAP_ENTRY_VOLUME_CREATE,  MAP_ENTRY_VOLUME_DELETE,
    MAP_ENTRY_VOLUME_RESIZE,   MAP_ENTRY_VOLUME_SET,      MAP_ENTRY_SESSION_OPEN,   MAP_ENTRY_SESSION_CLOSE,
    MAP_ENTRY_MEMBER_DROP,     MAP_ENTRY_MEMBER_ADD,      MAP_ENTRY_EPOCH_ACTIVE,   MAP_ENTRY_PRIMARY_MOVE,
    MAP_ENTRY_MEMBER_ATTACH,   MAP_ENTRY_MEMBER_DETACH,   MAP_ENTRY_ELECT,          MAP_ENTRY_FORCE_PROMOTE,
    MAP_ENTRY_SNAPSHOT_OPEN,   MAP_ENTRY_SNAPSHOT_SEALED, MAP_ENTRY_SNAPSHOT_ABORT, MAP_ENTRY_SNAPSHOT_DELETE,
    MAP_ENTRY_VOLUME_ROLLBACK, MAP_ENTRY_VOLUME_CLONE,    MAP_ENTRY_VOLUME_FLATTEN, MAP_ENTRY_MEMBER_FULL,
};
#define KINDS (sizeof kinds / sizeof kinds[0])

static const struct map_weight weights[] = {{1, 1ull << 40}, {2, 77}};
static const struct map_active actives[] = {{1, 2, 3}, {4, 5, 6}, {7, 8, UINT64_MAX}};

static const uint64_t volumes[] = {1, 2, UINT64_MAX};
static const struct map_run runs[] = {{1, 2, 3, 4, 5}, {UINT64_MAX, 0, 1, 7, UINT32_MAX}};

static struct map_entry full_entry(enum map_entry_kind kind)
{
    struct map_entry e = map_fixture_node_entry(3, MAP_STOP_REBOOTED);
    e.kind = kind;
    memset(e.request, 0xab, sizeof e.request);
    e.incarnation = 0x1122334455667788u;
    e.volume = 5;
    e.shard = 6;
    e.epoch = 7;
    e.instance = 8;
    e.to_node = 9;
    e.size = 1ull << 46;
    e.shard_bytes = 1ull << 30;
    e.replicas = 3;
    e.min_replicas = 2;
    e.home = 4;
    e.session = 10;
    memset(e.attachment, 0x5c, sizeof e.attachment);
    e.flags = 11;
    e.cluster_id = 12;
    strcpy(e.name, "a-name");
    strcpy(e.node_info.unix_address, "unix:/run/ashlar/data.sock");
    strcpy(e.node_info.rack, "r1");
    e.weights = weights;
    e.weight_count = 2;
    e.actives = actives;
    e.active_count = 3;
    strcpy(e.snapshot, "monday");
    strcpy(e.to_name, "copy");
    e.generation = 13;
    e.created_ms = 14;
    e.volumes = volumes;
    e.volume_count = 3;
    e.runs = runs;
    e.run_count = 2;
    return e;
}

static void every_kind_survives_the_way_there_and_back(void **state)
{
    (void)state;
    for (unsigned k = 0; k < KINDS; k++) {
        struct map_entry e = full_entry(kinds[k]), back;
        uint8_t bytes[2048], again[2048], request[16];
        int len = map_entry_encode(&e, bytes, sizeof bytes);
        assert_true(len > (int)MAP_ENTRY_HEADER_BYTES);
        assert_int_equal(map_entry_decode(bytes, (size_t)len, &back), 0);
        assert_int_equal(back.kind, kinds[k]);
        assert_int_equal(map_entry_encode(&back, again, sizeof again), len);
        assert_memory_equal(bytes, again, (size_t)len);
        map_entry_free(&back);
        assert_int_equal(map_entry_request(bytes, (size_t)len, request), 0);
        assert_memory_equal(request, e.request, 16);
        /* Too short a buffer, every cut, and one byte too many. */
        assert_int_equal(map_entry_encode(&e, again, (size_t)len - 1), -EMSGSIZE);
        for (int cut = 0; cut < len; cut++)
            assert_int_equal(map_entry_decode(bytes, (size_t)cut, &back), -EBADMSG);
        bytes[len] = 0;
        assert_int_equal(map_entry_decode(bytes, (size_t)len + 1, &back), -EBADMSG);
    }
}

static void fields_arrive_where_they_belong(void **state)
{
    (void)state;
    struct map_entry e = full_entry(MAP_ENTRY_NODE_REGISTER), back;
    uint8_t bytes[2048];
    int len = map_entry_encode(&e, bytes, sizeof bytes);
    assert_int_equal(map_entry_decode(bytes, (size_t)len, &back), 0);
    assert_int_equal(back.node, 3);
    assert_true(back.incarnation == 0x1122334455667788u);
    assert_int_equal(back.node_info.stop, MAP_STOP_REBOOTED);
    assert_string_equal(back.node_info.unix_address, "unix:/run/ashlar/data.sock");
    assert_string_equal(back.node_info.host, "host3");
    assert_string_equal(back.node_info.rack, "r1");
    e = full_entry(MAP_ENTRY_EPOCH_ACTIVE);
    len = map_entry_encode(&e, bytes, sizeof bytes);
    assert_int_equal(map_entry_decode(bytes, (size_t)len, &back), 0);
    assert_int_equal(back.active_count, 3);
    assert_true(back.actives[2].epoch == UINT64_MAX);
    assert_int_equal(back.actives[1].shard, 5);
    map_entry_free(&back);
    /* Byte order and place, as documented. */
    e = full_entry(MAP_ENTRY_NODE_DOWN);
    len = map_entry_encode(&e, bytes, sizeof bytes);
    static const uint8_t tail[] = {3, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};
    assert_int_equal(len, 20 + (int)sizeof tail);
    assert_int_equal(bytes[0], 1);
    assert_int_equal(bytes[1], MAP_ENTRY_NODE_DOWN);
    assert_memory_equal(bytes + 20, tail, sizeof tail);
}

static void unknown_kinds_and_versions_are_refused(void **state)
{
    (void)state;
    struct map_entry e = full_entry(MAP_ENTRY_NODE_DOWN), back;
    uint8_t bytes[2048];
    int len = map_entry_encode(&e, bytes, sizeof bytes);
    bytes[1] = 7;
    assert_int_equal(map_entry_decode(bytes, (size_t)len, &back), -EBADMSG);
    bytes[1] = 250;
    assert_int_equal(map_entry_decode(bytes, (size_t)len, &back), -EBADMSG);
    bytes[1] = MAP_ENTRY_NODE_DOWN;
    bytes[0] = 2;
    assert_int_equal(map_entry_decode(bytes, (size_t)len, &back), -EBADMSG);
    e.kind = (enum map_entry_kind)99;
    assert_int_equal(map_entry_encode(&e, bytes, sizeof bytes), -EINVAL);
}

static struct map *sample_map(void **ret_bytes, size_t *ret_len)
{
    struct map_fixture f;
    map_fixture_init(&f);
    for (uint32_t n = 1; n <= 3; n++)
        (void)map_fixture_register(&f, n, MAP_STOP_CLEAN);
    (void)map_fixture_volume(&f, "one", 2, 3, 2, 1);
    (void)map_fixture_volume(&f, "two", 1, 2, 1, 0);
    (void)map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, 1);
    struct map_entry e = full_entry(MAP_ENTRY_NODE_REMOVE);
    (void)map_fixture_apply(&f, &e);
    assert_int_equal(map_snapshot(f.map, ret_bytes, ret_len), 0);
    struct map *map = f.map;
    map_set_observer(map, NULL);
    free(f.before);
    return map;
}

static void a_damaged_snapshot_leaves_the_map_as_it_was(void **state)
{
    (void)state;
    void *bytes;
    size_t len;
    struct map *map = sample_map(&bytes, &len), *other = map_create();
    uint64_t hash = map_hash(map);
    assert_int_equal(map_restore(other, bytes, len), 0);
    assert_true(map_hash(other) == hash);
    uint8_t *damaged = malloc(len);
    assert_non_null(damaged);
    for (size_t i = 0; i < len; i++) {
        memcpy(damaged, bytes, len);
        damaged[i] ^= 0x10;
        int rc = map_restore(other, damaged, len);
        assert_true(rc == -EBADMSG || rc == -EPROTONOSUPPORT);
        assert_int_equal(map_restore(other, bytes, i), -EBADMSG);
    }
    assert_true(map_hash(other) == hash);
    free(damaged);
    free(bytes);
    map_destroy(map);
    map_destroy(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_survives_the_way_there_and_back),
        cmocka_unit_test(fields_arrive_where_they_belong),
        cmocka_unit_test(unknown_kinds_and_versions_are_refused),
        cmocka_unit_test(a_damaged_snapshot_leaves_the_map_as_it_was),
    };
    return cmocka_run_group_tests(tests, /* setup= */ NULL, /* teardown= */ NULL);
}
