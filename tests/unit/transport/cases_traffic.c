/* SPDX-License-Identifier: Apache-2.0 */
/* cases_traffic: frames of all sizes arrive whole, once, in order; back-pressure works in both directions. */
#include <errno.h>
#include <string.h>

#include "tests/unit/transport/rig.h"

/* Goal: thousands of small frames both ways keep their order. */
static void many_small_frames_keep_their_order(struct rig *rig)
{
    enum { COUNT = 4000 };
    static struct endpoint a, b;
    a = (struct endpoint){0};
    b = (struct endpoint){0};
    rig_connect(rig, &a, &b);
    while (a.sent < COUNT) {
        for (int i = 0; i < 97 && a.sent < COUNT; i++) {
            assert_int_equal(endpoint_send(&a, (uint32_t)(a.sent * 37 % 300), 0), 0);
            assert_int_equal(endpoint_send(&b, (uint32_t)(b.sent * 53 % 200), 0), 0);
        }
        rig_turn(rig);
    }
    rig_until(rig, a.messages == COUNT && b.messages == COUNT);
    assert_int_equal(link_queued_bytes(a.link), 0);
}

/* Goal: no combination of odd sizes of body and payload confuses the parser; payloads are aligned. */
static void every_size_arrives_whole(struct rig *rig)
{
    static const uint32_t bodies[] = {0, 1, 63, 2047, 2048, 2049, 65537, WIRE_BODY_MAX};
    static const uint32_t payloads[] = {0, 1, 511, 4096, 4097, 65536, 262144, WIRE_PAYLOAD_MAX - 1, WIRE_PAYLOAD_MAX};
    static struct endpoint a, b;
    a = (struct endpoint){0};
    b = (struct endpoint){0};
    rig_connect(rig, &a, &b);
    for (unsigned i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
        for (unsigned j = 0; j < sizeof(payloads) / sizeof(payloads[0]); j++) {
            int rc = -ENOBUFS;
            rig_until(rig, (rc = endpoint_send(&a, bodies[i], payloads[j])) !=
                               -ENOBUFS); /* the queue holds all our buffers */
            assert_int_equal(rc, 0);
        }
    rig_until(rig, b.messages == a.sent);
    assert_int_equal(a.closed + b.closed, 0);
}

/* Goal: 4 KiB writes one way with answers the other way, as the data path has them. */
static void requests_and_answers_flow(struct rig *rig)
{
    enum { COUNT = 2000, DEPTH = 32 };
    static struct endpoint a, b;
    a = (struct endpoint){0};
    b = (struct endpoint){0};
    rig_connect(rig, &a, &b);
    uint64_t end_ms = rig_now_ms() + RIG_DEADLINE_MS;
    while (a.messages < COUNT) {
        while (a.sent < COUNT && a.sent - a.messages < DEPTH)
            assert_int_equal(endpoint_send(&a, 4, 4096), 0);
        while (b.sent < b.messages)
            assert_int_equal(endpoint_send(&b, 0, 0), 0);
        rig_turn(rig);
        assert_true(rig_now_ms() < end_ms);
    }
}

/* Goal: a reader that stops makes the writer's queue run full: -EAGAIN, then one writable, then everything arrives.
 * Method: one buffer sent again and again, so that the queue and not the pool is what fills. */
static void a_stopped_reader_pushes_back(struct rig *rig)
{
    static struct endpoint a, b;
    a = (struct endpoint){0};
    b = (struct endpoint){.no_check = true};
    rig_connect(rig, &a, &b);
    link_pause(b.link, true);
    struct buf *payload = buf_alloc(rig->a.bufs, WIRE_PAYLOAD_MAX);
    assert_non_null(payload);
    memset(payload->data, 7, WIRE_PAYLOAD_MAX);
    struct wire_header header = {.opcode = WIRE_WRITE, .payload_len = WIRE_PAYLOAD_MAX};
    uint64_t sent = 0;
    for (int rc = 0; rc == 0;) {
        rc = link_send(a.link, &header, NULL, payload, 0);
        assert_true(rc == 0 || rc == -EAGAIN);
        sent += rc == 0;
        rig_turn(rig);
        assert_true(sent < 4 * (LINK_QUEUE_BYTES_MAX / WIRE_PAYLOAD_MAX));
    }
    assert_true(link_queued_bytes(a.link) > LINK_QUEUE_BYTES_MAX);
    assert_true(link_queued_bytes(a.link) <= LINK_QUEUE_BYTES_MAX + WIRE_HEADER_BYTES + WIRE_PAYLOAD_MAX);
    rig_quiet(rig);
    assert_int_equal(a.writable, 0);
    assert_int_equal(b.messages, 0);
    link_pause(b.link, false);
    rig_until(rig, a.writable == 1);
    assert_true(link_queued_bytes(a.link) <= LINK_QUEUE_BYTES_MAX / 2);
    assert_int_equal(link_send(a.link, &header, NULL, payload, 0), 0);
    rig_until(rig, b.messages == sent + 1);
    assert_int_equal(a.writable, 1);
    buf_unref(payload);
}

/* Goal: after link_pause in a message callback not one more message comes; after going on, all the rest. */
static void a_paused_link_is_silent(struct rig *rig)
{
    static struct endpoint a, b;
    a = (struct endpoint){0};
    b = (struct endpoint){.pause_after = 3};
    rig_connect(rig, &a, &b);
    for (int i = 0; i < 100; i++)
        assert_int_equal(endpoint_send(&a, 100, 0), 0);
    rig_until(rig, b.messages == 3);
    rig_quiet(rig);
    assert_int_equal(b.messages, 3);
    b.pause_after = 50;
    link_pause(b.link, false);
    assert_int_equal(b.messages, 3); /* not inside the call */
    rig_until(rig, b.messages == 50);
    rig_quiet(rig);
    assert_int_equal(b.messages, 50);
    link_pause(b.link, false);
    link_pause(b.link, true);
    link_pause(b.link, false);
    rig_until(rig, b.messages == 100);
}

/* Goal: an exhausted pool stops reading, and nothing is lost when buffers come back. The pool has 2 MiB. */
static void an_exhausted_pool_stalls_and_recovers(struct rig *rig)
{
    enum { COUNT = 12 };
    static struct endpoint a, b;
    a = (struct endpoint){.no_check = true};
    b = (struct endpoint){.hold = true};
    rig_connect(rig, &a, &b);
    uint64_t end_ms = rig_now_ms() + RIG_DEADLINE_MS;
    uint64_t held_max = 0;
    while (b.messages < COUNT) {
        if (a.sent < COUNT) {
            int rc = endpoint_send(&a, 10, 1 << 20);
            assert_true(rc == 0 || rc == -ENOBUFS);
        }
        rig_turn(rig);
        held_max = b.held_count > held_max ? b.held_count : held_max;
        if (b.held_count == 2 || (a.sent == COUNT && b.held_count > 0)) {
            rig_quiet(rig); /* starved: nothing may come */
            assert_true(b.held_count <= 2);
            msg_free(b.held[--b.held_count]);
        }
        assert_true(rig_now_ms() < end_ms);
    }
    assert_int_equal(held_max, 2);
    endpoint_release(&b);
    struct buf_pool_stats stats;
    buf_pool_stats(rig->b.bufs, &stats);
    assert_true(stats.exhausted_count > 0);
}

/* Goal: two starved links both go on; a starved link can be closed. */
static void starved_links_share_what_comes_back(struct rig *rig)
{
    static struct endpoint a[3], b[3];
    memset(a, 0, sizeof(a));
    memset(b, 0, sizeof(b));
    for (int i = 0; i < 3; i++)
        b[i].hold = true;
    for (int i = 0; i < 3; i++)
        rig_connect(rig, &a[i], &b[i]);
    struct buf *hog[2];
    for (int i = 0; i < 2; i++) {
        hog[i] = buf_alloc(rig->b.bufs, 1 << 20);
        assert_non_null(hog[i]);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(endpoint_send(&a[i], 0, 4096), 0);
    struct buf_pool_stats stats;
    do {
        rig_turn(rig);
        buf_pool_stats(rig->b.bufs, &stats);
    } while (stats.exhausted_count < 3);
    link_close(b[1].link);
    rig_until(rig, b[1].closed && a[1].closed);
    buf_unref(hog[0]);
    rig_until(rig, b[0].messages + b[2].messages >= 1);
    buf_unref(hog[1]);
    rig_until(rig, b[0].messages == 1 && b[2].messages == 1);
    assert_int_equal(b[1].messages, 0);
    for (int i = 0; i < 3; i++)
        endpoint_release(&b[i]);
}

const struct rig_case traffic_cases[] = {
    {"many_small_frames_keep_their_order", many_small_frames_keep_their_order, 0, false},
    {"every_size_arrives_whole", every_size_arrives_whole, 0, false},
    {"requests_and_answers_flow", requests_and_answers_flow, 0, false},
    {"a_stopped_reader_pushes_back", a_stopped_reader_pushes_back, 0, false},
    {"a_paused_link_is_silent", a_paused_link_is_silent, 0, false},
    {"an_exhausted_pool_stalls_and_recovers", an_exhausted_pool_stalls_and_recovers, 2u << 20, false},
    {"starved_links_share_what_comes_back", starved_links_share_what_comes_back, 2u << 20, false},
};
const unsigned traffic_case_count = sizeof(traffic_cases) / sizeof(traffic_cases[0]);
