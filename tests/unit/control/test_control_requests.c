/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of what nodes ask for: proposals exactly once, sessions and their grants, non-voters that follow, replacement, admin. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "tests/unit/control/control_cluster.h"

static bool has_lease(struct cluster *k, uint64_t id)
{
    return cluster_has_lease(k, (uint32_t)id);
}

static bool in_step(struct cluster *k, uint64_t id)
{
    return map_version(k->nodes[id].data.map) == sim_log_length(k->log);
}

static struct map_entry create_entry(const char *name)
{
    struct map_entry e = {.kind = MAP_ENTRY_VOLUME_CREATE, .replicas = 2, .min_replicas = 1, .size = 1u << 30};
    (void)snprintf(e.name, sizeof e.name, "%s", name);
    return e;
}

static void a_result_comes_after_the_data_thread_was_fed(void **state)
{
    (void)state;
    struct cluster k;
    cluster_init(&k, 1, 5, 3);
    for (uint32_t id = 1; id <= 5; id++) {
        char name[8];
        (void)snprintf(name, sizeof name, "v%u", id);
        struct map_entry e = create_entry(name);
        struct cluster_request request;
        k.apply_delay_ns = 1; /* the mailbox is a thread's turn away */
        cluster_propose(&k, id, &e, &request);
        cluster_finish(&k, &request, 1000);
        assert_int_equal(request.rc, 0);
        cluster_run_ms(&k, 1);
        assert_non_null(map_volume_by_id(k.nodes[id].data.map, request.result.value));
        cluster_propose(&k, id, &e, &request);
        cluster_finish(&k, &request, 1000);
        assert_int_equal(request.rc, -EEXIST);
    }
    cluster_close(&k);
}

static uint32_t count_entries(struct cluster *k, enum map_entry_kind kind)
{
    uint32_t count = 0;
    for (uint64_t v = 1; v <= sim_log_length(k->log); v++) {
        size_t len;
        const uint8_t *bytes = sim_log_entry(k->log, v, &len);
        count += bytes[1] == kind;
    }
    return count;
}

/* Goal: exactly once. Method: the log commits proposals but tells their proposers "unknown", leaders change while proposals are on
 * their way, links break: each of many creations is applied once and answered once, with success. */
static void proposals_survive_leader_changes_exactly_once(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct cluster k;
        static struct cluster_request requests[60];
        uint32_t seen_twice = 0;
        cluster_init(&k, seed, 5, 3);
        for (uint32_t i = 0; i < 60; i++) {
            char name[16];
            (void)snprintf(name, sizeof name, "v%u", i);
            struct map_entry e = create_entry(name);
            cluster_propose(&k, 1 + i % 5, &e, &requests[i]);
            if (i % 5 == 0)
                sim_log_forget(k.log, 2);
            if (i % 6 == 0)
                sim_log_lead(k.log, 1 + (uint32_t)world_random_below(k.world, 3), world_chance(k.world, 500));
            if (i % 7 == 0)
                sim_net_reset(k.net, (int)(i % 5), 0);
            world_run(k.world, world_random_below(k.world, 2000000));
        }
        for (uint32_t i = 0; i < 60; i++) {
            if (!requests[i].done)
                cluster_finish(&k, &requests[i], 20000);
            assert_int_equal(requests[i].done, 1);
            assert_int_equal(requests[i].rc, 0);
            for (uint32_t j = 0; j < i; j++)
                assert_int_not_equal(requests[i].result.value, requests[j].result.value);
        }
        cluster_run_ms(&k, 2000);
        seen_twice = count_entries(&k, MAP_ENTRY_VOLUME_CREATE);
        assert_true(seen_twice >= 60);
        for (uint32_t id = 1; id <= 5; id++)
            assert_true(map_hash(k.nodes[id].data.map) == map_hash(cluster_map(&k)));
        cluster_close(&k);
    }
}

static void only_the_leader_declares_nodes_down(void **state)
{
    (void)state;
    struct cluster k;
    cluster_init(&k, 2, 4, 3);
    struct map_entry e = {.kind = MAP_ENTRY_NODE_DOWN, .node = 2};
    struct cluster_request request;
    e.incarnation = control_incarnation(k.nodes[2].control);
    cluster_propose(&k, 4, &e, &request);
    cluster_finish(&k, &request, 1000);
    assert_int_equal(request.rc, -EPERM);
    assert_true(cluster_is_up(&k, 2));
    cluster_close(&k);
}

static void a_stopped_core_ends_its_requests(void **state)
{
    (void)state;
    struct cluster k;
    struct cluster_request request, attach;
    cluster_init(&k, 3, 4, 3);
    struct map_entry e = create_entry("v");
    sim_net_isolate(k.net, 3, true);
    cluster_propose(&k, 4, &e, &request);
    cluster_attach(&k, 4, "v", 1, 0, &attach);
    cluster_run_ms(&k, 100);
    assert_int_equal(request.done + attach.done, 0);
    cluster_close(&k);
    assert_int_equal(request.done, 1);
    assert_int_equal(request.rc, -ESHUTDOWN);
    assert_int_equal(attach.rc, -ESHUTDOWN);
}

/* ---- sessions (R19) ---- */

static void start_volume(struct cluster *k, uint64_t seed)
{
    cluster_init(k, seed, 5, 3);
    (void)cluster_volume(k, "v", 3, 3, 2, 4);
    for (uint32_t id = 1; id <= 5; id++)
        cluster_await(k, has_lease, id, 3000);
}

static void a_session_is_granted_within_milliseconds(void **state)
{
    (void)state;
    struct cluster k;
    struct cluster_request first, second;
    start_volume(&k, 4);
    uint64_t start = cluster_now_ms(&k);
    cluster_attach(&k, 5, "v", 1, 0, &first);
    cluster_finish(&k, &first, 1000);
    assert_int_equal(first.rc, 0);
    assert_int_equal(first.attach.session, 1);
    assert_true(first.attach.size == 3ull << 30);
    assert_true(cluster_now_ms(&k) - start <= 10); /* nobody waited for a heartbeat's turn */
    for (uint32_t id = 1; id <= 5; id++)
        assert_true(map_version(k.nodes[id].data.map) >= first.attach.version);
    cluster_attach(&k, 4, "v", 2, 0, &second);
    cluster_finish(&k, &second, 1000);
    assert_int_equal(second.rc, -EBUSY);
    cluster_attach(&k, 4, "nothing", 2, 0, &second);
    cluster_finish(&k, &second, 1000);
    assert_int_equal(second.rc, -ENOENT);
    struct bridge_to_control *b = control_bridge(k.nodes[5].control);
    b->ops->detach(b, first.attach.volume, first.attach.session);
    cluster_run_ms(&k, 20);
    cluster_attach(&k, 4, "v", 2, 0, &second);
    cluster_finish(&k, &second, 1000);
    assert_int_equal(second.rc, 0);
    cluster_close(&k);
}

/* Goal: the grant waits for a node that has not applied the session, until its lease is over (R10, R19). */
static void a_session_waits_for_who_may_still_serve(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct cluster k;
        struct cluster_request request;
        start_volume(&k, seed);
        k.nodes[4].data.frozen = true; /* the primary's data thread does not apply */
        cluster_attach(&k, 5, "v", 1, 0, &request);
        while (!request.done && cluster_has_lease(&k, 4))
            cluster_run_ms(&k, 1);
        assert_int_equal(request.done, 0);
        if (seed % 2) /* cut off, or only hanging: then it gets no more leases after a while */
            sim_net_isolate(k.net, 3, true);
        cluster_finish(&k, &request, 4000);
        assert_int_equal(request.rc, 0);
        assert_false(cluster_has_lease(&k, 4));
        assert_true(seed % 2 || cluster_is_up(&k, 4));
        cluster_close(&k);
    }
}

/* Goal: R10. Method: the primary's process dies; the kernel refuses, so the node is down at once. The same attachment goes on
 * at once through another gateway; another attachment waits until the dead one's lease is over. */
static void a_failover_is_at_once_and_a_stranger_waits(void **state)
{
    (void)state;
    for (int stranger = 0; stranger < 2; stranger++) {
        struct cluster k;
        struct cluster_request first, second;
        start_volume(&k, 6);
        cluster_attach(&k, 4, "v", 1, 0, &first);
        cluster_finish(&k, &first, 1000);
        cluster_run_ms(&k, 230);
        uint64_t lease_left = (k.nodes[4].data.lease_until_ns - env_now_ns(k.nodes[4].env)) / 1000000;
        assert_in_range(lease_left, 300, 900);
        uint64_t start = cluster_now_ms(&k);
        cluster_crash(&k, 4, WORLD_CRASH_PROCESS);
        cluster_await(&k, cluster_is_down, 4, 100);
        cluster_attach(&k, 5, "v", stranger ? 9 : 1, stranger ? 0 : MAP_SESSION_FAILOVER, &second);
        cluster_finish(&k, &second, 2000);
        assert_int_equal(second.rc, 0);
        assert_int_equal(second.attach.session, 2);
        if (stranger)
            assert_true(cluster_now_ms(&k) - start >= lease_left);
        else
            assert_true(cluster_now_ms(&k) - start <= 30);
        cluster_close(&k);
    }
}

static void a_grant_survives_a_new_leader(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct cluster k;
        struct cluster_request request;
        start_volume(&k, seed);
        k.nodes[4].data.frozen = true;
        cluster_attach(&k, 5, "v", 1, 0, &request);
        cluster_run_ms(&k, 100 + 30 * seed);
        sim_log_lead(k.log, 3, true);
        cluster_run_ms(&k, 500);
        assert_int_equal(request.done, 0);
        k.nodes[4].data.frozen = false;
        world_schedule(k.world, &k.nodes[4].data.apply, 3, 1, k.nodes[4].data.apply.cb);
        cluster_finish(&k, &request, 3000);
        assert_int_equal(request.rc, 0);
        assert_int_equal(request.attach.session, 1); /* opened once */
        cluster_close(&k);
    }
}

/* ---- non-voters ---- */

static void a_non_voter_catches_up_by_entries_or_by_snapshot(void **state)
{
    (void)state;
    for (int far = 0; far < 2; far++) {
        struct cluster k;
        cluster_init(&k, 7, 5, 3);
        cluster_run_ms(&k, 6000); /* node 5 saved its map */
        assert_true(k.nodes[5].saved_version > 0);
        cluster_crash(&k, 5, WORLD_CRASH_POWER);
        cluster_await(&k, cluster_is_down, 5, 3000);
        struct map_entry e = {.kind = MAP_ENTRY_NODE_REMOVE, .node = 99};
        static struct cluster_request requests[5000];
        for (uint32_t i = 0; i < (far ? 5000u : 100u); i++) {
            cluster_propose(&k, 1, &e, &requests[i]);
            if (i % 50 == 49)
                cluster_run_ms(&k, 5);
        }
        cluster_run_ms(&k, 100);
        cluster_start(&k, 5, MAP_STOP_REBOOTED);
        cluster_await(&k, cluster_is_up, 5, 5000);
        cluster_await(&k, in_step, 5, 5000);
        assert_true(map_hash(k.nodes[5].data.map) == map_hash(cluster_map(&k)));
        if (far) /* the map it had saved, then one of the voter's */
            assert_true(k.nodes[5].data.snapshots >= 1 && k.nodes[5].data.entries < 1000);
        else
            assert_true(k.nodes[5].data.snapshots == 1 && k.nodes[5].data.entries >= 100);
        cluster_close(&k);
    }
}

static void a_non_voter_finds_the_next_leader(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct cluster k;
        cluster_init(&k, seed, 6, 3);
        cluster_crash(&k, 1, seed % 2 ? WORLD_CRASH_POWER : WORLD_CRASH_PROCESS);
        cluster_run_ms(&k, 300);
        sim_log_lead(k.log, 2 + seed % 2, true);
        cluster_await(&k, cluster_is_down, 1, 3000);
        cluster_run_ms(&k, 1500);
        for (uint32_t id = 2; id <= 6; id++) {
            assert_true(cluster_is_up(&k, id));
            assert_true(cluster_has_lease(&k, id));
            assert_true(in_step(&k, id));
        }
        cluster_close(&k);
    }
}

/* ---- R8 ---- */

static int report_member(struct cluster *k, uint64_t volume, uint32_t node)
{
    const struct map_shard *s = map_shard_at(cluster_map(k), volume, 0);
    struct map_entry e = {
        .kind = MAP_ENTRY_MEMBER_DROP, .volume = volume, .epoch = s->epoch, .node = node, .to_node = 4};
    struct cluster_request request;
    e.incarnation = map_node_by_id(cluster_map(k), node)->incarnation;
    cluster_propose(k, 4, &e, &request);
    cluster_finish(k, &request, 1000);
    return request.rc;
}

/* Goal: a primary that reaches nobody loses the role, though the leader hears it (R8). */
static void a_primary_that_reaches_nobody_is_the_one_cut_off(void **state)
{
    (void)state;
    struct cluster k;
    cluster_init(&k, 8, 5, 3);
    k.judged = k.primaries_act = true;
    uint64_t id = cluster_volume(&k, "v", 1, 3, 2, 4);
    const struct map_shard *s = map_shard_at(cluster_map(&k), id, 0);
    uint32_t others[2], count = 0;
    for (uint32_t m = 0; m < 3; m++)
        if (s->members[m].node != 4)
            others[count++] = s->members[m].node;
    cluster_await(&k, has_lease, 4, 3000);
    k.primaries_act = false;
    assert_int_equal(report_member(&k, id, others[0]), 0);
    assert_int_equal(report_member(&k, id, others[1]), -EBUSY);
    assert_true(cluster_has_lease(&k, 4));
    cluster_await(&k, cluster_is_down, 4, 3000);
    s = map_shard_at(cluster_map(&k), id, 0);
    assert_int_equal(s->primary, others[1]);
    cluster_run_ms(&k, 50);
    assert_true(k.judgements > 0);
    cluster_close(&k);
}

/* One report alone, or one about a node that is dead, condemns nobody. */
static void a_single_refused_report_moves_nothing(void **state)
{
    (void)state;
    struct cluster k;
    cluster_init(&k, 9, 5, 3);
    uint64_t id = cluster_volume(&k, "v", 1, 2, 2, 4);
    const struct map_shard *s = map_shard_at(cluster_map(&k), id, 0);
    uint32_t other = s->members[0].node != 4 ? s->members[0].node : s->members[1].node;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(report_member(&k, id, other), -EBUSY);
        cluster_run_ms(&k, 1000);
    }
    assert_true(cluster_is_up(&k, 4));
    assert_true(cluster_has_lease(&k, 4));
    cluster_close(&k);
}

/* ---- healing ---- */

static bool replaced(struct cluster *k, uint64_t volume)
{
    const struct map_volume *v = map_volume_by_id(cluster_map(k), volume);
    for (uint32_t i = 0; i < v->shard_count; i++) {
        const struct map_shard *s = &v->shards[i];
        if (map_member_of(s, 4) || map_in_sync_count(s) != v->replicas || s->member_count != v->replicas)
            return false;
        if (s->active_epoch != s->epoch)
            return false;
    }
    return true;
}

static void a_node_that_is_out_is_replaced(void **state)
{
    (void)state;
    struct cluster k;
    cluster_init(&k, 9, 6, 3);
    k.primaries_act = true;
    uint64_t id = cluster_volume(&k, "v", 40, 3, 2, 0);
    char *json = cluster_admin(&k, 5, "{\"op\":\"node-out\",\"node\":4}");
    assert_non_null(strstr(json, "\"ok\":true"));
    free(json);
    cluster_await(&k, replaced, id, 60000);
    assert_true(count_entries(&k, MAP_ENTRY_MEMBER_ATTACH) > 0);
    cluster_close(&k);
}

static void a_dead_node_is_out_after_a_while_and_replaced(void **state)
{
    (void)state;
    struct cluster k;
    cluster_init(&k, 10, 5, 3);
    for (uint32_t n = 1; n <= 3; n++) {
        cluster_crash(&k, n, WORLD_CRASH_PROCESS);
        k.times.out_after_ns = ENV_MS(5000);
        cluster_start(&k, n, MAP_STOP_CLEAN);
    }
    sim_log_lead(k.log, 2, false);
    cluster_await(&k, cluster_all_registered, 0, 10000);
    k.primaries_act = true;
    uint64_t id = cluster_volume(&k, "v", 20, 3, 2, 4);
    cluster_crash(&k, 4, WORLD_CRASH_POWER);
    cluster_await(&k, cluster_is_down, 4, 3000);
    cluster_run_ms(&k, 2000);
    assert_int_equal(count_entries(&k, MAP_ENTRY_MEMBER_ATTACH), 0);
    cluster_await(&k, replaced, id, 60000);
    assert_int_equal(count_entries(&k, MAP_ENTRY_NODE_OUT), 1);
    cluster_close(&k);
}

static bool all_serve(struct cluster *k, uint64_t volume)
{
    const struct map_volume *v = map_volume_by_id(cluster_map(k), volume);
    for (uint32_t i = 0; i < v->shard_count; i++) {
        if (v->shards[i].primary == 0 || v->shards[i].active_epoch != v->shards[i].epoch)
            return false;
    }
    return true;
}

/* All members restart, one does not come back: after the grace the leader elects among those that came (R18). */
static void shards_without_a_primary_get_one_after_the_grace(void **state)
{
    (void)state;
    struct cluster k;
    cluster_init(&k, 11, 6, 3);
    k.primaries_act = true;
    uint64_t id = cluster_volume(&k, "v", 1, 3, 1, 0);
    const struct map_shard *s = map_shard_at(cluster_map(&k), id, 0);
    uint32_t nodes[3] = {s->members[0].node, s->members[1].node, s->members[2].node};
    for (int i = 0; i < 3; i++) {
        if (nodes[i] <= 3)
            continue; /* a voter: it restarts below */
        cluster_crash(&k, nodes[i], WORLD_CRASH_PROCESS);
    }
    for (int i = 0; i < 3; i++) {
        if (nodes[i] <= 3) {
            cluster_crash(&k, nodes[i], WORLD_CRASH_PROCESS);
            cluster_start(&k, nodes[i], MAP_STOP_SAME_BOOT);
        }
    }
    sim_log_lead(k.log, 1 + nodes[0] % 3, true);
    for (int i = 1; i < 3; i++) {
        if (nodes[i] > 3)
            cluster_start(&k, nodes[i], MAP_STOP_SAME_BOOT);
    }
    cluster_await(&k, all_serve, id, 10000);
    cluster_close(&k);
}

/* ---- admin ---- */

static json_t *admin(struct cluster *k, uint32_t id, const char *request, bool ok)
{
    char *text = cluster_admin(k, id, request);
    json_t *answer = json_loads(text, 0, NULL);
    assert_non_null(answer);
    if (json_is_true(json_object_get(answer, "ok")) != ok)
        fail_msg("%s -> %s", request, text);
    if (!ok)
        assert_true(strlen(json_string_value(json_object_get(answer, "error"))) > 10);
    free(text);
    return answer;
}

static void admin_requests_work_at_any_node(void **state)
{
    (void)state;
    struct cluster k;
    cluster_init(&k, 12, 5, 3);
    cluster_run_ms(&k, 1500);
    json_decref(admin(&k, 5, "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":3221225472,\"home\":4}", true));
    json_decref(admin(&k, 2, "{\"op\":\"volume-create\",\"name\":\"b\",\"size\":4096,\"replicas\":1}", true));
    json_decref(admin(&k, 1, "{\"op\":\"volume-resize\",\"name\":\"b\",\"size\":8192}", true));
    json_decref(admin(&k, 4, "{\"op\":\"volume-set\",\"name\":\"b\",\"home\":2}", true));
    json_t *a = admin(&k, 3, "{\"op\":\"status\"}", true);
    assert_int_equal(json_integer_value(json_object_get(a, "leader")), 1);
    assert_int_equal(json_array_size(json_object_get(a, "nodes")), 5);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(a, "volumes"), "total")), 2);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(a, "shards"), "total")), 4);
    json_decref(a);
    a = admin(&k, 5, "{\"op\":\"volume-info\",\"name\":\"a\"}", true);
    assert_int_equal(json_array_size(json_object_get(a, "shards")), 3);
    assert_string_equal(json_string_value(json_object_get(json_object_get(a, "volume"), "state")), "healthy");
    json_decref(a);
    a = admin(&k, 5, "{\"op\":\"volume-list\"}", true);
    assert_int_equal(json_array_size(json_object_get(a, "volumes")), 2);
    json_decref(a);
    struct cluster_request attach;
    cluster_attach(&k, 4, "a", 3, 0, &attach);
    cluster_finish(&k, &attach, 1000);
    a = admin(&k, 5, "{\"op\":\"session-list\"}", true);
    assert_int_equal(json_array_size(json_object_get(a, "sessions")), 1);
    json_decref(a);
    json_decref(admin(&k, 2, "{\"op\":\"volume-delete\",\"name\":\"a\"}", false)); /* attached */
    json_decref(admin(&k, 2, "{\"op\":\"session-close\",\"name\":\"a\"}", true));
    json_decref(admin(&k, 2, "{\"op\":\"volume-delete\",\"name\":\"a\"}", true));
    json_decref(admin(&k, 5, "{\"op\":\"ping\"}", true));
    json_decref(admin(&k, 5, "{\"op\":\"node-list\"}", true));
    cluster_close(&k);
}

static uint64_t size_at(struct cluster *k, uint32_t id, const char *name)
{
    const struct map_volume *volume = map_volume_by_name(k->nodes[id].data.map, name);
    return volume ? volume->size : 0;
}

/* Goal: once a resize is answered, the gateway of whoever has the volume attached tells the new size, wherever the resize was asked
 * for; a gateway that died holds nobody up. */
static void a_resize_is_answered_when_the_gateway_knows(void **state)
{
    (void)state;
    struct cluster k;
    struct cluster_request attach;
    cluster_init(&k, 12, 5, 3);
    cluster_run_ms(&k, 1500);
    json_decref(admin(&k, 1, "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":4096,\"home\":4}", true));
    cluster_attach(&k, 4, "a", 3, 0, &attach);
    cluster_finish(&k, &attach, 1000);
    k.apply_delay_ns = ENV_MS(80); /* its data thread lags */
    for (uint32_t i = 2; i < 7; i++) {
        char request[128];
        (void)snprintf(request, sizeof request, "{\"op\":\"volume-resize\",\"name\":\"a\",\"size\":%u}", i * 4096);
        json_decref(admin(&k, 1 + i % 3, request, true));
        assert_int_equal(size_at(&k, 4, "a"), i * 4096);
    }
    cluster_crash(&k, 4, WORLD_CRASH_PROCESS);
    json_decref(admin(&k, 1, "{\"op\":\"volume-resize\",\"name\":\"a\",\"size\":409600}", true));
    cluster_close(&k);
}

/* Goal: a change whose answer was lost is asked again, elsewhere, and made once; the answer is the first one's. */
static void admin_change_asked_again_is_made_once(void **state)
{
    (void)state;
    struct cluster k;
    cluster_init(&k, 12, 5, 3);
    cluster_run_ms(&k, 1500);
    const char *change = "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":4096,\"replicas\":1,"
                         "\"request\":\"00112233445566778899aabbccddeeff\"}";
    json_t *first = admin(&k, 1, change, true), *again = admin(&k, 5, change, true);
    assert_int_equal(json_integer_value(json_object_get(first, "value")),
                     json_integer_value(json_object_get(again, "value")));
    json_decref(first);
    json_decref(again);
    again = admin(&k, 5,
                  "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":4096,\"replicas\":1,"
                  "\"request\":\"00112233445566778899aabbccddeef0\"}",
                  false); /* another one finds what the first made */
    assert_int_equal(json_integer_value(json_object_get(again, "code")), -EEXIST);
    json_decref(again);
    /* What a deletion deleted is not found any more, and that is no reason to say that it failed. */
    const char *removal = "{\"op\":\"volume-delete\",\"name\":\"a\",\"request\":\"00112233445566778899aabbccddeef1\"}";
    json_decref(admin(&k, 2, removal, true));
    json_decref(admin(&k, 4, removal, true));
    json_decref(admin(&k, 4, "{\"op\":\"volume-delete\",\"name\":\"a\"}", false));
    cluster_close(&k);
}

static void admin_requests_that_make_no_sense_get_a_sentence(void **state)
{
    (void)state;
    static const char *const requests[] = {
        "",
        "[",
        "[]",
        "{}",
        "{\"op\":1}",
        "{\"op\":\"dance\"}",
        "{\"op\":\"volume-create\"}",
        "{\"op\":\"volume-create\",\"name\":\"a\"}",
        "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":1}",
        "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":4096,\"request\":\"12\"}",
        "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":4096,\"request\":\"00000000000000000000000000000000\"}",
        "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":4096,\"request\":7}",
        "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":-4096}",
        "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":\"big\"}",
        "{\"op\":\"volume-create\",\"name\":\"a b\",\"size\":4096}",
        "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":4096,\"replicas\":9}",
        "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":4096,\"replicas\":5}",
        "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":4096,\"min_replicas\":4}",
        "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":4096,\"home\":77}",
        "{\"op\":\"volume-create\",\"name\":\"a\",\"size\":4096,\"shard_bytes\":5}",
        "{\"op\":\"volume-info\",\"name\":\"zzz\"}",
        "{\"op\":\"volume-info\"}",
        "{\"op\":\"volume-delete\",\"name\":\"zzz\"}",
        "{\"op\":\"volume-resize\",\"name\":\"zzz\",\"size\":4096}",
        "{\"op\":\"volume-set\",\"name\":\"zzz\"}",
        "{\"op\":\"node-remove\",\"node\":1}",
        "{\"op\":\"node-remove\",\"node\":99}",
        "{\"op\":\"node-out\"}",
        "{\"op\":\"force-promote\",\"name\":\"v\",\"node\":1}",
        "{\"op\":\"force-promote\",\"name\":\"v\",\"node\":1,\"confirm\":true}", /* it has a primary */
        "{\"op\":\"volume-set\",\"name\":\"v\",\"min_replicas\":5}",
    };
    struct cluster k;
    cluster_init(&k, 13, 4, 3);
    (void)cluster_volume(&k, "v", 1, 3, 2, 0);
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        json_decref(admin(&k, 1, requests[i], false));
        json_decref(admin(&k, 4, requests[i], false));
    }
    cluster_close(&k);
}

static void without_a_leader_admin_says_so(void **state)
{
    (void)state;
    struct cluster k;
    cluster_init(&k, 14, 4, 3);
    sim_net_isolate(k.net, 3, true);
    cluster_run_ms(&k, 12000); /* its links are dead */
    json_t *a = admin(&k, 4, "{\"op\":\"status\"}", false);
    assert_int_equal(json_integer_value(json_object_get(a, "code")), -EAGAIN);
    json_decref(a);
    cluster_close(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_result_comes_after_the_data_thread_was_fed),
        cmocka_unit_test(proposals_survive_leader_changes_exactly_once),
        cmocka_unit_test(only_the_leader_declares_nodes_down),
        cmocka_unit_test(a_stopped_core_ends_its_requests),
        cmocka_unit_test(a_session_is_granted_within_milliseconds),
        cmocka_unit_test(a_session_waits_for_who_may_still_serve),
        cmocka_unit_test(a_failover_is_at_once_and_a_stranger_waits),
        cmocka_unit_test(a_grant_survives_a_new_leader),
        cmocka_unit_test(a_non_voter_catches_up_by_entries_or_by_snapshot),
        cmocka_unit_test(a_non_voter_finds_the_next_leader),
        cmocka_unit_test(a_primary_that_reaches_nobody_is_the_one_cut_off),
        cmocka_unit_test(a_single_refused_report_moves_nothing),
        cmocka_unit_test(a_node_that_is_out_is_replaced),
        cmocka_unit_test(a_dead_node_is_out_after_a_while_and_replaced),
        cmocka_unit_test(shards_without_a_primary_get_one_after_the_grace),
        cmocka_unit_test(admin_requests_work_at_any_node),
        cmocka_unit_test(a_resize_is_answered_when_the_gateway_knows),
        cmocka_unit_test(admin_change_asked_again_is_made_once),
        cmocka_unit_test(admin_requests_that_make_no_sense_get_a_sentence),
        cmocka_unit_test(without_a_leader_admin_says_so),
    };
    return cmocka_run_group_tests(tests, /* setup= */ NULL, /* teardown= */ NULL);
}
