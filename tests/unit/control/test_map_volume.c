/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of volumes, sessions, remembered results, observers and sizes of the cluster map. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/unit/control/map_fixture.h"

static void init(struct map_fixture *f, uint32_t nodes)
{
    map_fixture_init(f);
    for (uint32_t n = 1; n <= nodes; n++)
        (void)map_fixture_register(f, n, MAP_STOP_CLEAN);
}

static struct map_entry create_entry(const char *name, uint64_t size, uint32_t replicas)
{
    struct map_entry e = {.kind = MAP_ENTRY_VOLUME_CREATE, .size = size, .replicas = replicas, .min_replicas = 1};
    (void)snprintf(e.name, sizeof e.name, "%s", name);
    return e;
}

static void a_volume_is_created_once_and_only_if_it_makes_sense(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    struct map_entry e = create_entry("disk-1", 4096, 3);
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EEXIST);
    e = create_entry("-x", 4096, 3);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EINVAL);
    e = create_entry("a/b", 4096, 3);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EINVAL);
    e = create_entry("", 4096, 3);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EINVAL);
    e = create_entry("b", 4095, 3);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EINVAL);
    e = create_entry("b", 0, 3);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EINVAL);
    e = create_entry("b", UINT64_MAX - 4095, 3);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EINVAL);
    e = create_entry("b", 4096, 6);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EINVAL);
    e = create_entry("b", 4096, 4);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ENOSPC); /* three nodes */
    e = create_entry("b", 4096, 2);
    e.min_replicas = 3;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EINVAL);
    e.min_replicas = 1;
    e.home = 9;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ENOENT);
    e.home = 0;
    e.shard_bytes = 5;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EINVAL);
    e.shard_bytes = 16ull << 20;
    e.size = 100ull << 20;
    struct map_result r = map_fixture_apply(&f, &e);
    assert_int_equal(r.rc, 0);
    assert_int_equal(map_volume_by_id(f.map, r.value)->shard_count, 7);
    map_fixture_close(&f);
}

static void ids_are_never_used_again(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 1);
    uint64_t first = map_fixture_volume(&f, "v", 1, 1, 1, 0);
    uint64_t instance = map_fixture_shard(&f, first, 0)->members[0].instance;
    struct map_entry e = {.kind = MAP_ENTRY_VOLUME_DELETE, .name = "v"};
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_int_equal(f.removed_events, 1);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ENOENT);
    uint64_t second = map_fixture_volume(&f, "v", 1, 1, 1, 0);
    assert_true(second > first); /* R3 */
    assert_true(map_fixture_shard(&f, second, 0)->members[0].instance > instance);
    map_fixture_close(&f);
}

static void a_volume_grows_and_shrinks_only_at_shard_borders(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t id = map_fixture_volume(&f, "v", 2, 2, 1, 1);
    struct map_entry e = {.kind = MAP_ENTRY_VOLUME_RESIZE, .volume = id, .size = 3 * MAP_SHARD_BYTES_DEFAULT + 4096};
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_int_equal(map_volume_by_id(f.map, id)->shard_count, 4);
    assert_int_equal(map_fixture_shard(&f, id, 3)->primary, 1);
    uint64_t instance = map_fixture_shard(&f, id, 1)->members[0].instance;
    e.size = MAP_SHARD_BYTES_DEFAULT;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EINVAL); /* not without force */
    e.flags = MAP_FORCE;
    e.size += 4096;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EINVAL);
    e.size -= 4096;
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_int_equal(map_volume_by_id(f.map, id)->shard_count, 1);
    e.size = 2 * MAP_SHARD_BYTES_DEFAULT;
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_true(map_fixture_shard(&f, id, 1)->members[0].instance > instance); /* old bytes can't come back */
    map_fixture_close(&f);
}

static struct map_entry attach_entry(const struct map_fixture *f, uint64_t volume, uint32_t node, uint8_t attachment)
{
    struct map_entry e = {.kind = MAP_ENTRY_SESSION_OPEN, .volume = volume, .node = node, .attachment = {attachment}};
    e.incarnation = map_fixture_incarnation(f, node);
    return e;
}

static void a_session_is_exclusive_but_follows_its_attachment(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t id = map_fixture_volume(&f, "v", 1, 3, 2, 1);
    struct map_entry a = attach_entry(&f, id, 1, 'a'), b = attach_entry(&f, id, 2, 'b');
    assert_int_equal(map_fixture_apply(&f, &a).value, 1);
    assert_int_equal(map_fixture_apply(&f, &b).rc, -EBUSY);
    /* The same attachment through another gateway: always, with a new number (R19). */
    struct map_entry moved = attach_entry(&f, id, 3, 'a');
    moved.flags = MAP_SESSION_FAILOVER;
    assert_int_equal(map_fixture_apply(&f, &moved).value, 2);
    assert_int_equal(map_volume_by_id(f.map, id)->session.gateway, 3);
    /* By force: a newer number fences the holder (I6). */
    b.flags = MAP_SESSION_FORCE;
    assert_int_equal(map_fixture_apply(&f, &b).value, 3);
    /* An old holder can't close what is not his any more. */
    struct map_entry close = {.kind = MAP_ENTRY_SESSION_CLOSE, .volume = id, .session = 2};
    assert_int_equal(map_fixture_apply(&f, &close).rc, -ESTALE);
    /* The gateway is gone: free. */
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, 2), 0);
    assert_int_equal(map_fixture_apply(&f, &a).value, 4);
    /* A gateway that restarted holds no session of its earlier life, and can't open one in its name. */
    (void)map_fixture_register(&f, 1, MAP_STOP_SAME_BOOT);
    assert_int_equal(map_fixture_apply(&f, &a).rc, -ESTALE);
    struct map_entry other = attach_entry(&f, id, 3, 'c');
    assert_int_equal(map_fixture_apply(&f, &other).value, 5);
    close.session = 5;
    assert_int_equal(map_fixture_apply(&f, &close).rc, 0);
    assert_false(map_volume_by_id(f.map, id)->session.open);
    close.flags = MAP_SESSION_FORCE;
    assert_int_equal(map_fixture_apply(&f, &close).value, 6);
    map_fixture_close(&f);
}

/* I6. Goal: who was fenced can't come back by a fail-over, not even when the volume is free again; by a new attach he can. */
static void the_fenced_do_not_come_back(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t id = map_fixture_volume(&f, "v", 1, 3, 2, 1);
    struct map_entry a = attach_entry(&f, id, 1, 'a'), b = attach_entry(&f, id, 2, 'b');
    struct map_entry back = attach_entry(&f, id, 3, 'a');
    struct map_entry close = {.kind = MAP_ENTRY_SESSION_CLOSE, .volume = id, .session = 2};
    back.flags = MAP_SESSION_FAILOVER;
    b.flags = MAP_SESSION_FORCE;
    assert_int_equal(map_fixture_apply(&f, &a).value, 1);
    assert_int_equal(map_fixture_apply(&f, &b).value, 2);
    assert_int_equal(map_fixture_apply(&f, &back).rc, -EPERM);
    assert_int_equal(map_fixture_apply(&f, &close).rc, 0);
    assert_int_equal(map_fixture_apply(&f, &back).rc, -EPERM);
    assert_int_equal(map_fixture_apply(&f, &a).value, 3);
    close.session = 3;
    assert_int_equal(map_fixture_apply(&f, &close).rc, 0); /* its gateway's grace ended */
    assert_int_equal(map_fixture_apply(&f, &back).value, 4);
    close.flags = MAP_SESSION_FORCE;
    assert_int_equal(map_fixture_apply(&f, &close).value, 5);
    assert_int_equal(map_fixture_apply(&f, &back).rc, -EPERM);
    map_fixture_close(&f);
}

static void an_attached_volume_is_not_deleted(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 1);
    uint64_t id = map_fixture_volume(&f, "v", 1, 1, 1, 1);
    struct map_entry a = attach_entry(&f, id, 1, 'a'), e = {.kind = MAP_ENTRY_VOLUME_DELETE, .volume = id};
    assert_int_equal(map_fixture_apply(&f, &a).rc, 0);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EBUSY);
    e.flags = MAP_FORCE;
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    map_fixture_close(&f);
}

/* Goal: exactly once. Method: the same request id again, before and after a snapshot, and after the ring has forgotten it. */
static void a_request_id_is_applied_once(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 1);
    struct map_entry e = create_entry("v", 4096, 1);
    e.request[3] = 7;
    struct map_result first = map_fixture_apply(&f, &e);
    assert_int_equal(first.rc, 0);
    struct map_result again = map_fixture_apply(&f, &e);
    assert_int_equal(again.rc, 0);
    assert_int_equal(again.value, first.value);
    assert_int_equal(again.version, first.version);
    assert_int_equal(map_version(f.map), first.version + 1);
    struct map_entry failing = create_entry("v", 4096, 1);
    failing.request[3] = 8;
    assert_int_equal(map_fixture_apply(&f, &failing).rc, -EEXIST);
    void *bytes;
    size_t len;
    assert_int_equal(map_snapshot(f.map, &bytes, &len), 0);
    assert_int_equal(map_restore(f.map, bytes, len), 0);
    assert_int_equal(f.reset_events, 1);
    free(bytes);
    assert_int_equal(map_fixture_apply(&f, &e).value, first.value);
    assert_int_equal(map_fixture_apply(&f, &failing).rc, -EEXIST);
    f.unchecked = true;
    for (uint32_t i = 0; i < 10000; i++) {
        struct map_entry filler = {.kind = MAP_ENTRY_NODE_REMOVE, .node = 77};
        memcpy(filler.request + 8, &i, sizeof i);
        filler.request[0] = 1;
        assert_int_equal(map_fixture_apply(&f, &filler).rc, -ENOENT);
        struct map_result known;
        assert_true(map_request_result(f.map, filler.request, &known));
        assert_int_equal(known.rc, -ENOENT);
    }
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EEXIST); /* forgotten, and then a condition decides */
    map_fixture_close(&f);
}

static void the_observer_hears_what_changed_and_nothing_else(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 4);
    assert_int_equal(f.node_events, 4);
    uint64_t id = map_fixture_volume(&f, "v", 50, 3, 2, 1);
    assert_int_equal(f.volume_events, 1);
    assert_int_equal(f.shard_events, 50);
    uint32_t of_node_2 = 0;
    for (uint32_t i = 0; i < 50; i++)
        of_node_2 += map_member_of(map_fixture_shard(&f, id, i), 2) != NULL;
    assert_in_range(of_node_2, 20, 45);
    f.shard_events = 0;
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, 2), 0);
    assert_int_equal(f.shard_events, of_node_2);
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, 2), 0); /* nothing new */
    assert_int_equal(f.shard_events, of_node_2);
    map_fixture_close(&f);
}

static void malformed_bytes_change_only_the_version(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 2);
    struct map_result r;
    uint64_t version = map_version(f.map);
    map_apply(f.map, version + 1, "nonsense", 8, &r);
    assert_int_equal(r.rc, -EBADMSG);
    map_apply(f.map, version + 2, NULL, 0, &r);
    assert_int_equal(r.rc, -EBADMSG);
    assert_int_equal(map_version(f.map), version + 2);
    assert_int_equal(map_node_count(f.map), 2);
    map_fixture_close(&f);
}

static void the_cluster_gets_its_id_once(void **state)
{
    (void)state;
    struct map_fixture f;
    map_fixture_init(&f);
    struct map_entry e = {.kind = MAP_ENTRY_CLUSTER_INIT, .cluster_id = 42};
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    e.cluster_id = 43;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EEXIST);
    assert_int_equal(map_cluster_id(f.map), 42);
    map_fixture_close(&f);
}

static double seconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* 65,536 shards of three replicas: create, node down, hash, snapshot, restore. Times are printed; the guard is generous. */
static void the_largest_volume_is_quick(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 5);
    f.unchecked = true;
    double t0 = seconds();
    uint64_t id = map_fixture_volume(&f, "big", 65536, 3, 2, 1);
    double t1 = seconds();
    uint64_t h = map_hash(f.map);
    double t2 = seconds();
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, 2), 0);
    double t3 = seconds();
    assert_true(map_hash(f.map) != h);
    double t4 = seconds();
    void *bytes;
    size_t len;
    assert_int_equal(map_snapshot(f.map, &bytes, &len), 0);
    double t5 = seconds();
    h = map_hash(f.map);
    assert_int_equal(map_restore(f.map, bytes, len), 0);
    double t6 = seconds();
    assert_true(map_hash(f.map) == h);
    print_message(
        "65536 shards: create %.1f ms, hash %.1f, node down %.1f, hash after it %.1f, snapshot %.1f (%zu bytes), "
        "restore %.1f\n",
        (t1 - t0) * 1e3, (t2 - t1) * 1e3, (t3 - t2) * 1e3, (t4 - t3) * 1e3, (t5 - t4) * 1e3, len, (t6 - t5) * 1e3);
    free(bytes);
    assert_true(t6 - t0 < 10);
    assert_int_equal(map_fixture_shard(&f, id, 65535)->primary, 1);
    map_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_volume_is_created_once_and_only_if_it_makes_sense),
        cmocka_unit_test(ids_are_never_used_again),
        cmocka_unit_test(a_volume_grows_and_shrinks_only_at_shard_borders),
        cmocka_unit_test(a_session_is_exclusive_but_follows_its_attachment),
        cmocka_unit_test(the_fenced_do_not_come_back),
        cmocka_unit_test(an_attached_volume_is_not_deleted),
        cmocka_unit_test(a_request_id_is_applied_once),
        cmocka_unit_test(the_observer_hears_what_changed_and_nothing_else),
        cmocka_unit_test(malformed_bytes_change_only_the_version),
        cmocka_unit_test(the_cluster_gets_its_id_once),
        cmocka_unit_test(the_largest_volume_is_quick),
    };
    return cmocka_run_group_tests(tests, /* setup= */ NULL, /* teardown= */ NULL);
}
