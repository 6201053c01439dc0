/* SPDX-License-Identifier: Apache-2.0 */
/* cases_rdma: a peer of bare verbs that lies ends its own link, and reaches no byte that is not on offer to it. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/transport/rdma.h"
#include "common/transport/rdma_internal.h"
#include "tests/unit/transport/raw_rdma.h"

#define raw_until(rig, raw, condition) rig_until(rig, (raw_step(raw), (condition)))

static void good_greeting(uint8_t out[RDMA_GREETING_BYTES])
{
    const struct rdma_greeting greeting = {.version = RDMA_WIRE_VERSION,
                                           .flags = RDMA_GREETING_READS,
                                           .node = 9,
                                           .incarnation = 1,
                                           .receive_bytes = RDMA_RECEIVE_BYTES,
                                           .credits = 32,
                                           .windows = 8};
    rdma_greeting_encode(&greeting, out);
}

static struct raw *raw_open(struct rig *rig, struct endpoint *b)
{
    uint8_t greeting[RDMA_GREETING_BYTES];
    good_greeting(greeting);
    rig->accept_into = b;
    struct raw *raw = raw_connect_start(rig, greeting, sizeof(greeting));
    raw_until(rig, raw, raw_is_up(raw) && b->link);
    return raw;
}

/* The listener is as good as new. */
static void expect_served(struct rig *rig)
{
    static struct endpoint a, b;
    a = (struct endpoint){0};
    b = (struct endpoint){0};
    rig_connect(rig, &a, &b);
    assert_int_equal(endpoint_send(&a, 3, 4096), 0);
    assert_int_equal(endpoint_send(&a, 3, 100000), 0);
    rig_until(rig, b.messages == 2);
    link_close(a.link);
    rig_until(rig, a.closed && b.closed);
}

/* Goal: a stranger's greeting, or another version's, is rejected before anything is made for it. */
static void foreign_greetings_are_rejected(struct rig *rig)
{
    uint8_t greeting[RDMA_GREETING_BYTES];
    for (int i = 0; i < 3; i++) {
        good_greeting(greeting);
        if (i == 0)
            memset(greeting, 0x5a, sizeof(greeting));
        else if (i == 1)
            greeting[4] = 99;
        struct raw *raw = raw_connect_start(rig, greeting, i == 2 ? 8 : sizeof(greeting));
        raw_until(rig, raw, raw_is_rejected(raw) || raw_is_up(raw));
        assert_true(raw_is_rejected(raw));
        raw_close(raw);
    }
    assert_int_equal(rig->accepted, 0);
    expect_served(rig);
}

/* One link, one SEND (or many), its end. */
static void expect_end(struct rig *rig, const void *bytes, uint32_t count, int times, int reason)
{
    static struct endpoint b;
    b = (struct endpoint){.no_check = true};
    struct raw *raw = raw_open(rig, &b);
    for (int i = 0; i < times; i++)
        raw_post(raw, RAW_SEND, bytes, count, 0, 0);
    raw_until(rig, raw, b.closed);
    assert_int_equal(b.reason, reason);
    assert_int_equal(b.messages, 0);
    raw_until(rig, raw, raw_is_gone(raw));
    raw_close(raw);
}

static uint32_t with_head(uint8_t *out, uint16_t credits, uint16_t dones, uint32_t stream_bytes)
{
    const struct rdma_head head = {.credits = credits, .done_count = dones, .stream_bytes = stream_bytes};
    rdma_head_encode(&head, out);
    return RDMA_HEAD_BYTES + dones * RDMA_DONE_BYTES + stream_bytes;
}

/* Goal: garbage, broken frames, credits and tags that do not exist, and more SENDs than credits end the link. */
static void lies_end_the_link(struct rig *rig)
{
    uint8_t bytes[1000];
    memset(bytes, 0x5a, sizeof(bytes));
    expect_end(rig, bytes, sizeof(bytes), 1, -EBADMSG);
    expect_end(rig, bytes, 5, 1, -EBADMSG);
    expect_end(rig, bytes, with_head(bytes, 0, 0, 500), 1, -EBADMSG);  /* a frame that is none */
    expect_end(rig, bytes, with_head(bytes, 0, 0, 100), 1, -EBADMSG);  /* a header that is split */
    expect_end(rig, bytes, with_head(bytes, 1000, 0, 0), 1, -EBADMSG); /* credits nobody used */
    memset(bytes, 0x5a, sizeof(bytes));
    expect_end(rig, bytes, with_head(bytes, 0, 1, 0), 1, -EBADMSG);  /* the tag of no payload */
    expect_end(rig, bytes, with_head(bytes, 0, 0, 0), 60, -EBADMSG); /* 60 where 32 were granted */
    expect_served(rig);
}

static uint32_t frame_with_ref(uint8_t *out, uint32_t payload_bytes, const struct rdma_ref *ref)
{
    struct wire_header header = {.opcode = WIRE_WRITE, .version = WIRE_VERSION, .payload_len = payload_bytes};
    header.body_crc = crc32c((const uint8_t *)"", 0);
    wire_encode(&header, out + RDMA_HEAD_BYTES);
    rdma_ref_encode(ref, out + RDMA_HEAD_BYTES + WIRE_HEADER_BYTES);
    return with_head(out, 0, 0, WIRE_HEADER_BYTES + RDMA_REF_BYTES);
}

/* Goal: on a device without memory windows no payload is offered, references are mere bytes of the stream, and no key
 * that a peer can guess reads or writes anything. */
static void nothing_is_offered(struct rig *rig)
{
    for (int attempt = 0; attempt < 2; attempt++) {
        static struct endpoint b;
        uint32_t bytes = 0;
        b = (struct endpoint){.no_check = true};
        struct raw *raw = raw_open(rig, &b);
        assert_false(raw_has_windows(raw));
        assert_int_equal(endpoint_send(&b, 0, 65536), 0);
        raw_until(rig, raw, raw_received(raw, &bytes));
        assert_true(bytes > RDMA_HEAD_BYTES + WIRE_HEADER_BYTES + RDMA_REF_BYTES); /* the payload itself is in it */
        raw_post(raw, attempt ? RAW_WRITE : RAW_READ, NULL, 16, 0x7f0000001000, 0x1234);
        raw_until(rig, raw, b.closed);
        assert_int_equal(b.messages, 0);
        raw_close(raw);
    }
    expect_served(rig);
}

/* Goal: a reference to nothing fails the READ and ends the link; the buffer that waited for it comes back. So do more
 * references than the peer said it would have on offer. */
static void false_references_end_the_link(struct rig *rig)
{
    uint8_t bytes[RDMA_RECEIVE_BYTES];
    const struct rdma_ref ref = {.address = 0x7f0000001000, .key = 0x1234, .tag = 1};
    static struct endpoint b;
    b = (struct endpoint){.no_check = true};
    struct raw *raw = raw_open(rig, &b);
    if (!raw_has_windows(raw)) {
        raw_close(raw);
        rig_until(rig, b.closed);
        nothing_is_offered(rig);
        return;
    }
    raw_post(raw, RAW_SEND, bytes, frame_with_ref(bytes, 1u << 20, &ref), 0, 0);
    raw_until(rig, raw, b.closed);
    assert_true(b.reason < 0);
    assert_int_equal(b.messages, 0);
    raw_close(raw);
    expect_served(rig);
}

/* Goal: of all our memory the peer can read the payload on offer, no byte beyond it, write nothing, and read nothing
 * any more once it said that it is done (trap 1, I12). Method: each attempt has its own link, since it ends it. */
static void remote_access_is_limited(struct rig *rig)
{
    enum { READ_ALL, READ_BEYOND, WRITE_IT, READ_AFTER, ATTEMPTS };
    enum { BYTES = 65536 };
    for (int attempt = READ_ALL; attempt < ATTEMPTS; attempt++) {
        static struct endpoint b;
        struct rdma_ref ref;
        uint32_t bytes = 0;
        b = (struct endpoint){.no_check = true};
        struct raw *raw = raw_open(rig, &b);
        if (!raw_has_windows(raw)) { /* nothing is ever offered: false_references_end_the_link shows it */
            raw_close(raw);
            rig_until(rig, b.closed);
            break;
        }
        /* rxe (Linux 6.1, rxe_resp.c check_rkey) checks a window's rights, queue pair and validity, but the bounds of
         * the region below it instead of the window's. */
        bool unbounded = strncmp(transport_rdma_device(b.link), "rxe", 3) == 0;
        assert_int_equal(endpoint_send(&b, 0, BYTES), 0);
        raw_until(rig, raw, raw_received(raw, &bytes));
        assert_int_equal(bytes, RDMA_HEAD_BYTES + WIRE_HEADER_BYTES + RDMA_REF_BYTES);
        rdma_ref_decode(raw_received(raw, &bytes) + RDMA_HEAD_BYTES + WIRE_HEADER_BYTES, &ref);
        if (attempt == READ_BEYOND)
            raw_post(raw, RAW_READ, NULL, BYTES + 1, ref.address, ref.key);
        else if (attempt == WRITE_IT)
            raw_post(raw, RAW_WRITE, NULL, 16, ref.address, ref.key);
        else
            raw_post(raw, RAW_READ, NULL, BYTES, ref.address, ref.key);
        raw_until(rig, raw, raw_done(raw) == 1);
        if (attempt == READ_BEYOND || attempt == WRITE_IT) {
            if (!raw_refused(raw) && !(attempt == READ_BEYOND && unbounded))
                fail_msg("attempt %d: not refused, but status %d", attempt, raw_status(raw));
        } else {
            assert_int_equal(raw_status(raw), 0);
            assert_int_equal(raw_memory(raw)[0], (0 + 1) * 131 & 0xff); /* the pattern of frame 0's payload */
        }
        if (attempt == READ_AFTER) {
            struct buf_pool_stats stats;
            uint8_t done[RDMA_HEAD_BYTES + RDMA_DONE_BYTES];
            uint32_t count = with_head(done, 0, 1, 0);
            rdma_tag_encode(ref.tag, done + RDMA_HEAD_BYTES);
            raw_post(raw, RAW_SEND, done, count, 0, 0);
            raw_until(rig, raw, (buf_pool_stats(rig->b.bufs, &stats), stats.used_bytes == 0));
            raw_post(raw, RAW_READ, NULL, 1, ref.address, ref.key);
            raw_until(rig, raw, raw_done(raw) == 3);
            assert_true(raw_refused(raw));
        }
        raw_close(raw);
        rig_until(rig, b.closed);
    }
    expect_served(rig);
}

/* Goal: a peer that is there and takes nothing makes back-pressure: no loss, no growth, and the link can be closed. */
static void a_half_dead_peer_pushes_back(struct rig *rig)
{
    static struct endpoint b;
    b = (struct endpoint){0};
    struct raw *raw = raw_open(rig, &b);
    struct buf *payload = buf_alloc(rig->b.bufs, WIRE_PAYLOAD_MAX);
    assert_non_null(payload);
    memset(payload->data, 1, WIRE_PAYLOAD_MAX);
    struct wire_header header = {.opcode = WIRE_WRITE, .payload_len = WIRE_PAYLOAD_MAX};
    int rc = 0, sent = 0;
    for (; rc == 0 && sent < 1000; sent++) {
        rc = link_send(b.link, &header, NULL, payload, 0);
        rig_turn(rig);
        raw_step(raw);
    }
    assert_int_equal(rc, -EAGAIN);
    assert_true(link_queued_bytes(b.link) > LINK_QUEUE_BYTES_MAX);
    assert_true(payload->refs > 1);
    link_close(b.link);
    raw_until(rig, raw, b.closed);
    assert_int_equal(b.reason, 0);
    assert_int_equal(payload->refs, 1); /* nothing of it can be read any more */
    buf_unref(payload);
    raw_close(raw);
}

/* Goal: with rdma_spin_us the loop finds completions by looking, and sleeps when nothing came for so long (both are seen
 * by the events that woke it); without, every message that comes alone is such an event. */
static void spinning_spares_wakeups(struct rig *rig)
{
    enum { COUNT = 200 };
    static struct endpoint a, b;
    struct transport_rdma_stats before, after;
    a = (struct endpoint){0};
    b = (struct endpoint){0};
    rig_connect(rig, &a, &b);
    rig_quiet(rig);
    transport_rdma_stats(rig->b.transport, &before);
    for (unsigned i = 1; i <= COUNT; i++) {
        assert_int_equal(endpoint_send(&a, 4, 512), 0);
        rig_until(rig, b.messages == i);
        assert_int_equal(endpoint_send(&b, 0, 0), 0);
        rig_until(rig, a.messages == i);
    }
    transport_rdma_stats(rig->b.transport, &after);
    uint64_t wakeups = after.wakeups - before.wakeups;
    if (rig->kind->connector != RIG_RDMA_SPIN) {
        assert_true(wakeups >= COUNT / 4);
        return;
    }
    assert_true(wakeups <= COUNT / 8);
    uint64_t end_ms = rig_now_ms() + RIG_SPIN_US / 1000 * 3;
    while (rig_now_ms() < end_ms) /* nothing comes for longer than it spins */
        rig_turn(rig);
    transport_rdma_stats(rig->b.transport, &before);
    assert_int_equal(endpoint_send(&a, 4, 512), 0);
    rig_until(rig, b.messages == COUNT + 1);
    transport_rdma_stats(rig->b.transport, &after);
    assert_true(after.wakeups > before.wakeups);
}

/* The one device that a side's links run on. */
static struct rdma_device *device_of(const struct rig_side *side)
{
    const struct stream_transport *stream = (const struct stream_transport *)(const void *)side->transport;
    const struct rdma_transport *transport = stream->loop;
    assert_ptr_not_equal(transport->devices.next, &transport->devices);
    return list_entry(transport->devices.next, struct rdma_device, node);
}

/* Goal: a completion whose event is lost is found all the same (trap 7): a device may miss that it was armed. Method: the
 * case takes the event away, before the loop whose it is turns again; nothing else ever wakes that loop. */
static void a_lost_event_stalls_nobody(struct rig *rig)
{
    enum { TIMES = 20, TURN_NS = 1000000 };
    static struct endpoint a, b;
    a = (struct endpoint){0};
    b = (struct endpoint){0};
    rig_connect(rig, &a, &b);
    rig_quiet(rig);
    const struct rdma_device *device = device_of(&rig->b);
    for (unsigned i = 1; i <= TIMES; i++) {
        struct pollfd readable = {.fd = device->channel->fd, .events = POLLIN};
        struct ibv_cq *cq = NULL;
        void *context = NULL;
        assert_int_equal(endpoint_send(&a, 4, 512), 0);
        rig_until(rig, b.messages == 2 * i - 1 && poll(&readable, 1, 0) == 0);
        assert_int_not_equal(device->armed, RDMA_UNARMED);
        assert_int_equal(endpoint_send(&a, 4, 512), 0);
        uint64_t end_ms = rig_now_ms() + RIG_DEADLINE_MS;
        while (poll(&readable, 1, 0) == 0) {
            assert_int_equal(ring_loop_turn(rig->a.ring, TURN_NS), 0);
            assert_true(rig_now_ms() < end_ms);
        }
        assert_int_equal(ibv_get_cq_event(device->channel, &cq, &context), 0);
        ibv_ack_cq_events(cq, 1);
        rig_until(rig, b.messages == 2 * i);
    }
}

/* Goal: no wakeup is lost between arming and sleeping. Method: messages that come alone, each waited for, on links that
 * share a completion queue on both sides, so that completions race with the arming. */
static void lonely_messages_all_arrive(struct rig *rig)
{
    enum { LINKS = 3, ROUNDS = 250 };
    static struct endpoint a[LINKS], b[LINKS];
    for (unsigned i = 0; i < LINKS; i++) {
        a[i] = b[i] = (struct endpoint){0};
        rig_connect(rig, &a[i], &b[i]);
    }
    for (unsigned round = 1; round <= ROUNDS; round++) {
        for (unsigned i = 0; i < LINKS; i++) {
            if ((round + i) % LINKS == 0) {
                assert_int_equal(endpoint_send(&b[i], 0, 16384), 0); /* by READ, where there are windows */
                rig_until(rig, a[i].messages == b[i].sent);
            }
            assert_int_equal(endpoint_send(&a[i], 4, 512), 0);
        }
        for (unsigned i = 0; i < LINKS; i++)
            rig_until(rig, b[i].messages == round);
    }
}

/* Goal: answers without a payload cost few completions, and are let go all the same (trap 8). Method: what completed at
 * the side that answers, less what it received. */
static void answers_are_seldom_signalled(struct rig *rig)
{
    enum { COUNT = 100 };
    static struct endpoint a, b;
    struct transport_rdma_stats before, after;
    a = (struct endpoint){0};
    b = (struct endpoint){0};
    rig_connect(rig, &a, &b);
    transport_rdma_stats(rig->b.transport, &before);
    for (unsigned i = 1; i <= COUNT; i++) {
        assert_int_equal(endpoint_send(&a, 4, 512), 0);
        rig_until(rig, b.messages == i);
        assert_int_equal(endpoint_send(&b, 16, 0), 0);
        rig_until(rig, a.messages == i);
    }
    rig_quiet(rig);
    transport_rdma_stats(rig->b.transport, &after);
    uint64_t sends = after.sends - before.sends;
    uint64_t completed = after.completions - before.completions - (after.receives - before.receives);
    assert_true(sends >= COUNT);
    assert_true(completed + 1 >= sends / 8 && completed <= sends / 4);
    const struct rdma_device *device = device_of(&rig->b);
    assert_true(device->send_free_count + 8 > device->send_slots);
}

const struct rig_case spin_cases[] = {
    {"spinning_spares_wakeups", spinning_spares_wakeups, 0, false},
};
const unsigned spin_case_count = sizeof(spin_cases) / sizeof(spin_cases[0]);

const struct rig_case rdma_cases[] = {
    {"foreign_greetings_are_rejected", foreign_greetings_are_rejected, 0, false},
    {"lies_end_the_link", lies_end_the_link, 0, false},
    {"false_references_end_the_link", false_references_end_the_link, 0, false},
    {"remote_access_is_limited", remote_access_is_limited, 0, false},
    {"a_half_dead_peer_pushes_back", a_half_dead_peer_pushes_back, 0, false},
    {"a_lost_event_stalls_nobody", a_lost_event_stalls_nobody, 0, false},
    {"lonely_messages_all_arrive", lonely_messages_all_arrive, 0, false},
    {"answers_are_seldom_signalled", answers_are_seldom_signalled, 0, false},
};
const unsigned rdma_case_count = sizeof(rdma_cases) / sizeof(rdma_cases[0]);
