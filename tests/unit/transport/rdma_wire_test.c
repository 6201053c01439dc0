/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_wire: what of the RDMA transport needs no verbs: bytes, credits, frames cut into SENDs and joined again.
 * Method: pure functions; a fake wire of our own takes the place of the device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/prng.h"
#include "common/transport/frame.h"
#include "common/transport/rdma_cut.h"
#include "common/transport/rdma_wire.h"

/* ---- bytes */

/* Goal: a greeting survives the wire; what is no greeting, or a lie, is refused. */
static void greetings_are_checked(void **state)
{
    const struct rdma_greeting sent = {.version = RDMA_WIRE_VERSION,
                                       .flags = RDMA_GREETING_READS,
                                       .node = 3,
                                       .incarnation = 0x1122334455667788,
                                       .receive_bytes = RDMA_RECEIVE_BYTES,
                                       .credits = 64,
                                       .windows = 32};
    struct rdma_greeting got;
    uint8_t bytes[56] = {0}, bad[56];
    (void)state;
    rdma_greeting_encode(&sent, bytes);
    assert_int_equal(rdma_greeting_decode(bytes, sizeof(bytes), &got), 0);
    assert_memory_equal(&got, &sent, sizeof(sent));
    assert_int_equal(rdma_greeting_decode(bytes, RDMA_GREETING_BYTES - 1, &got), -EBADMSG);
    assert_int_equal(rdma_greeting_decode(NULL, 0, &got), -EBADMSG);
    static const struct {
        unsigned at;
        uint8_t value;
        int rc;
    } lies[] = {{0, 0, -EBADMSG},     {4, 99, -EPROTONOSUPPORT},          {13, 0x10, -EBADMSG} /* small receives */,
                {14, 0xff, -EBADMSG}, {24, 1, -EBADMSG} /* one credit */, {25, 0xff, -EBADMSG},
                {26, 200, -EBADMSG}};
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        memcpy(bad, bytes, sizeof(bad));
        bad[lies[i].at] = lies[i].value;
        assert_int_equal(rdma_greeting_decode(bad, sizeof(bad), &got), lies[i].rc);
    }
}

/* Goal: the lengths of a SEND's head fill it exactly, or it is refused, whatever the bytes. */
static void heads_must_fill_their_send(void **state)
{
    const struct rdma_head sent = {.credits = 7, .done_count = 2, .stream_bytes = 100};
    struct rdma_head got;
    uint8_t bytes[RDMA_HEAD_BYTES + 8 + 100] = {0};
    struct prng prng;
    (void)state;
    rdma_head_encode(&sent, bytes);
    assert_int_equal(rdma_head_decode(bytes, sizeof(bytes), &got), 0);
    assert_memory_equal(&got, &sent, sizeof(sent));
    for (size_t n = 0; n < sizeof(bytes); n++)
        assert_int_equal(rdma_head_decode(bytes, n, &got), -EBADMSG);
    prng_seed(&prng, 1);
    for (int i = 0; i < 20000; i++) {
        uint8_t junk[64];
        for (size_t k = 0; k < sizeof(junk); k++)
            junk[k] = (uint8_t)prng_next(&prng);
        memcpy(junk, bytes, (size_t)i % RDMA_HEAD_BYTES);
        if (rdma_head_decode(junk, sizeof(junk), &got) == 0)
            assert_int_equal(got.stream_bytes + got.done_count * RDMA_DONE_BYTES + RDMA_HEAD_BYTES, sizeof(junk));
    }
}

/* ---- credits */

#define FLIGHT_MAX 4096

struct party {
    struct rdma_credit credit;
    uint32_t to_send, received, held; /* frames to send; frames that came; receive buffers not given back yet */
    uint16_t flight[FLIGHT_MAX];      /* towards the other: credits carried; the top bit: a frame */
    uint32_t flight_first, flight_count;
    bool paused;
};

static void party_send(struct party *p, bool frame)
{
    rdma_credit_use(&p->credit);
    uint16_t value = (uint16_t)(rdma_credit_take_owed(&p->credit) | (frame ? 0x8000 : 0));
    assert_true(p->flight_count < FLIGHT_MAX);
    p->flight[(p->flight_first + p->flight_count++) % FLIGHT_MAX] = value;
    p->to_send -= frame;
}

static bool party_step(struct party *p, struct party *other, uint64_t choice)
{
    if (choice % 4 == 0 && p->to_send > 0 && rdma_credit_may_send(&p->credit)) {
        party_send(p, true);
        return true;
    }
    if (choice % 4 == 1 && rdma_credit_must_return(&p->credit)) {
        party_send(p, false);
        return true;
    }
    if (choice % 4 == 2 && other->flight_count > 0) {
        uint16_t value = other->flight[other->flight_first % FLIGHT_MAX];
        other->flight_first++;
        other->flight_count--;
        assert_int_equal(rdma_credit_received(&p->credit), 0);
        assert_int_equal(rdma_credit_given(&p->credit, value & 0x7fff), 0);
        if (value & 0x8000) {
            p->received++;
            p->held++;
        } else {
            rdma_credit_freed(&p->credit);
        }
        return true;
    }
    if (choice % 4 == 3 && p->held > 0 && !p->paused) {
        p->held--;
        rdma_credit_freed(&p->credit);
        return true;
    }
    return false;
}

/* Goal: no order of events overruns a receive queue (no RNR), nor makes both sides wait for each other: when nothing
 * can move any more, everything was sent. Method: random walks over two parties with small, unequal queues and pauses. */
static void credits_neither_overrun_nor_deadlock(void **state)
{
    static struct party a, b;
    struct prng prng;
    (void)state;
    for (uint64_t seed = 1; seed <= 400; seed++) {
        prng_seed(&prng, seed);
        uint32_t queues[2] = {4 + (uint32_t)(prng_next(&prng) % 9), 4 + (uint32_t)(prng_next(&prng) % 60)};
        memset(&a, 0, sizeof(a));
        memset(&b, 0, sizeof(b));
        rdma_credit_init(&a.credit, queues[0], queues[1]);
        rdma_credit_init(&b.credit, queues[1], queues[0]);
        a.to_send = 200;
        b.to_send = seed % 3 == 0 ? 0 : 200;
        uint32_t a_total = a.to_send, b_total = b.to_send;
        for (int i = 0; i < 2000; i++) {
            if (prng_next(&prng) % 50 == 0)
                a.paused = !a.paused;
            if (prng_next(&prng) % 50 == 0)
                b.paused = !b.paused;
            uint64_t choice = prng_next(&prng);
            (void)((choice >> 32) % 2 ? party_step(&a, &b, choice) : party_step(&b, &a, choice));
            assert_true(a.flight_count + b.held <= queues[1]); /* never more than there are buffers */
            assert_true(b.flight_count + a.held <= queues[0]);
        }
        a.paused = b.paused = false;
        for (bool moved = true; moved;) {
            moved = false;
            for (uint64_t choice = 0; choice < 4; choice++)
                moved = party_step(&a, &b, choice) | party_step(&b, &a, choice) | moved;
        }
        assert_int_equal(b.received, a_total);
        assert_int_equal(a.received, b_total);
    }
}

/* Goal: a peer that sends without credit, or gives credits that do not exist, is noticed. */
static void lies_about_credits_are_noticed(void **state)
{
    struct rdma_credit credit;
    (void)state;
    rdma_credit_init(&credit, 4, 8);
    assert_int_equal(rdma_credit_given(&credit, 1), -EBADMSG);
    rdma_credit_use(&credit);
    assert_int_equal(rdma_credit_given(&credit, 2), -EBADMSG);
    assert_int_equal(rdma_credit_given(&credit, 1), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(rdma_credit_received(&credit), 0);
    assert_int_equal(rdma_credit_received(&credit), -EBADMSG);
}

/* ---- cut and join */

struct wire_rig {
    struct buf_pool *bufs, *foreign_bufs;
    struct frame_pool *frames, *joined;
    struct frame_tx tx;
    struct rdma_join join;
    uint32_t ref_above;
};

static void rig_init(struct wire_rig *rig, uint32_t ref_above)
{
    memset(rig, 0, sizeof(*rig));
    rig->bufs = buf_pool_create(16u << 20);
    rig->foreign_bufs = buf_pool_create(4u << 20);
    rig->frames = frame_pool_create(rig->bufs);
    rig->joined = frame_pool_create(rig->bufs);
    frame_tx_init(&rig->tx, rig->frames);
    rig->ref_above = ref_above;
    rdma_join_init(&rig->join, rig->joined, ref_above);
}

static void rig_end(struct wire_rig *rig)
{
    frame_tx_close(&rig->tx);
    rdma_join_close(&rig->join);
    frame_pool_destroy(rig->frames);
    frame_pool_destroy(rig->joined);
    buf_pool_destroy(rig->bufs);
    buf_pool_destroy(rig->foreign_bufs);
}

static void rig_push(struct wire_rig *rig, uint64_t number, uint32_t body_bytes, uint32_t payload_bytes, bool foreign)
{
    struct wire_header header = {
        .opcode = WIRE_WRITE, .request_id = number, .body_len = body_bytes, .payload_len = payload_bytes};
    uint8_t *body = calloc(1, body_bytes + 1);
    struct buf *payload = payload_bytes ? buf_alloc(foreign ? rig->foreign_bufs : rig->bufs, payload_bytes) : NULL;
    assert_non_null(body);
    memset(body, (int)(number & 0xff), body_bytes);
    if (payload)
        memset(payload->data, (int)(~number & 0xff), payload_bytes);
    assert_int_equal(frame_tx_push(&rig->tx, &header, body_bytes ? body : NULL, payload, 0), 0);
    buf_unref(payload);
    free(body);
}

static void check_message(const struct msg *msg, uint64_t number, uint32_t body_bytes, uint32_t payload_bytes)
{
    assert_int_equal(msg->header.request_id, number);
    assert_int_equal(msg->header.body_len, body_bytes);
    assert_int_equal(msg->header.payload_len, payload_bytes);
    for (uint32_t i = 0; i < body_bytes; i++)
        assert_int_equal(msg->body[i], number & 0xff);
    for (uint32_t i = 0; i < payload_bytes; i++)
        if (msg->payload->data[i] != (uint8_t)~number)
            fail_msg("payload of %lu differs at %u", (unsigned long)number, i);
}

/* What the device would gather. */
static uint32_t gather(const struct rdma_cut *cut, const uint8_t *slot, uint8_t *out)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < cut->piece_count; i++) {
        const struct rdma_piece *piece = &cut->pieces[i];
        memcpy(out + n, (piece->payload ? piece->payload->data : slot) + piece->offset, piece->bytes);
        n += piece->bytes;
    }
    assert_int_equal(n, cut->stream_bytes);
    return n;
}

/* One SEND over the fake wire; messages are checked against the sizes; returns how many came. */
static uint64_t pass_send(struct wire_rig *rig, const struct rdma_cut_limits *limits, const uint32_t (*sizes)[2],
                          uint64_t expected)
{
    static uint8_t slot[RDMA_RECEIVE_BYTES], sent[RDMA_RECEIVE_BYTES];
    static struct buf *offered[RDMA_CUT_REFS_MAX];
    struct rdma_cut cut;
    struct msg *msg;
    struct rdma_ref ref;
    uint64_t first = expected;
    int rc;
    rdma_cut(&rig->tx, limits, slot, &cut);
    assert_true(cut.stream_bytes > 0);
    assert_true(cut.piece_count <= limits->pieces_max && cut.ref_count <= limits->refs_max);
    for (uint32_t i = 0; i < cut.ref_count; i++) {
        struct rdma_ref made = {.address = cut.refs[i].offset, .key = 5, .tag = i};
        rdma_ref_encode(&made, slot + cut.refs[i].slot_at);
        offered[i] = buf_ref(cut.refs[i].payload);
    }
    uint32_t bytes = gather(&cut, slot, sent);
    frame_tx_consume(&rig->tx, cut.consumed);
    memset(slot, 0xee, sizeof(slot));
    rdma_join_feed(&rig->join, sent, bytes);
    while ((rc = rdma_join_next(&rig->join, 1, &msg, &ref)) != RDMA_JOIN_MORE) {
        assert_true(rc > 0);
        const uint32_t *size = sizes[expected];
        if (rc == RDMA_JOIN_REF) /* the READ */
            memcpy(msg->payload->data, offered[ref.tag]->data + ref.address, msg->header.payload_len);
        assert_int_equal(rc == RDMA_JOIN_REF && size[1] <= rig->ref_above, 0);
        check_message(msg, expected, size[0], size[1]);
        msg_free(msg);
        expected++;
    }
    for (uint32_t i = 0; i < cut.ref_count; i++)
        buf_unref(offered[i]);
    return expected - first;
}

/* Goal: whatever the sizes, limits and kinds of frames: cut, gathered and joined they are the same, in order; odd
 * boundaries (a SEND of two packets, trap 10) included. Method: random frames, random limits, a SEND at a time. */
static void frames_survive_cutting_and_joining(void **state)
{
    enum { COUNT = 12 };
    static const uint32_t bodies[] = {0, 4, 8, 300, 2048, 2049, 8500, 20000};
    static const uint32_t payloads[] = {0, 1, 511, 512, 4096, 8191, 8192, 8193, 16384, 65536, 100001};
    struct prng prng;
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct wire_rig rig;
        uint32_t sizes[COUNT][2];
        prng_seed(&prng, seed);
        rig_init(&rig, seed % 2 ? RDMA_SEND_PAYLOAD_MAX : 0);
        for (uint64_t i = 0; i < COUNT; i++) {
            sizes[i][0] = bodies[prng_next(&prng) % (sizeof(bodies) / sizeof(bodies[0]))];
            sizes[i][1] = payloads[prng_next(&prng) % (sizeof(payloads) / sizeof(payloads[0]))];
            rig_push(&rig, i, sizes[i][0], sizes[i][1], prng_next(&prng) % 4 == 0);
        }
        uint64_t got = 0;
        for (int sends = 0; got < COUNT; sends++) {
            struct rdma_cut_limits limits = {
                .bytes_max = RDMA_RECEIVE_BYTES - RDMA_HEAD_BYTES - (uint32_t)(prng_next(&prng) % 16) * RDMA_DONE_BYTES,
                .pieces_max = 1 + (uint32_t)(prng_next(&prng) % RDMA_CUT_PIECES_MAX),
                .refs_max = rig.ref_above ? 1 + (uint32_t)(prng_next(&prng) % RDMA_CUT_REFS_MAX) : 0,
                .ref_above = rig.ref_above,
                .pool = rig.bufs};
            got += pass_send(&rig, &limits, (const uint32_t(*)[2])sizes, got);
            assert_true(sends < 1000);
        }
        assert_int_equal(rig.tx.queued_bytes, 0);
        rig_end(&rig);
    }
}

/* Goal: a 4 KiB payload of the pool is not copied by the sender, one above 8 KiB by nobody. */
static void payloads_are_not_copied(void **state)
{
    struct wire_rig rig;
    static uint8_t slot[RDMA_RECEIVE_BYTES];
    struct rdma_cut cut;
    struct rdma_cut_limits limits = {.bytes_max = RDMA_RECEIVE_BYTES - RDMA_HEAD_BYTES,
                                     .pieces_max = RDMA_CUT_PIECES_MAX,
                                     .refs_max = RDMA_CUT_REFS_MAX,
                                     .ref_above = RDMA_SEND_PAYLOAD_MAX};
    (void)state;
    rig_init(&rig, RDMA_SEND_PAYLOAD_MAX);
    limits.pool = rig.bufs;
    rig_push(&rig, 0, 4, 4096, false);
    rdma_cut(&rig.tx, &limits, slot, &cut);
    assert_int_equal(cut.copied_bytes, 0);
    assert_int_equal(cut.piece_count, 2);
    assert_int_equal(cut.stream_bytes, WIRE_HEADER_BYTES + 4 + 4096);
    frame_tx_consume(&rig.tx, cut.consumed);
    rig_push(&rig, 1, 1024, 1u << 20, false);
    rdma_cut(&rig.tx, &limits, slot, &cut);
    assert_int_equal(cut.copied_bytes, 0);
    assert_int_equal(cut.ref_count, 1);
    assert_int_equal(cut.stream_bytes, WIRE_HEADER_BYTES + 1024 + RDMA_REF_BYTES);
    assert_int_equal(cut.consumed, WIRE_HEADER_BYTES + 1024 + (1u << 20));
    frame_tx_consume(&rig.tx, cut.consumed);
    /* without a free window it waits, and holds up what is behind it */
    rig_push(&rig, 2, 0, 65536, false);
    rig_push(&rig, 3, 0, 0, false);
    limits.refs_max = 0;
    rdma_cut(&rig.tx, &limits, slot, &cut);
    assert_int_equal(cut.stream_bytes, 0);
    rig_end(&rig);
}

/* Goal: whatever a peer sends, joining ends in messages or an error, never beyond the bytes given (sanitizers watch). */
static void joining_survives_garbage(void **state)
{
    struct prng prng;
    (void)state;
    prng_seed(&prng, 5);
    for (int i = 0; i < 3000; i++) {
        struct wire_rig rig;
        static uint8_t slot[RDMA_RECEIVE_BYTES], sent[RDMA_RECEIVE_BYTES];
        struct rdma_cut cut;
        struct rdma_cut_limits limits = {.bytes_max = RDMA_RECEIVE_BYTES - RDMA_HEAD_BYTES,
                                         .pieces_max = RDMA_CUT_PIECES_MAX,
                                         .refs_max = 4,
                                         .ref_above = RDMA_SEND_PAYLOAD_MAX};
        rig_init(&rig, RDMA_SEND_PAYLOAD_MAX);
        limits.pool = rig.bufs;
        rig_push(&rig, 1, 100, i % 3 ? 4096 : 70000, false);
        rdma_cut(&rig.tx, &limits, slot, &cut);
        uint32_t bytes = gather(&cut, slot, sent);
        if (i % 2)
            sent[prng_next(&prng) % bytes] ^= (uint8_t)(1u << (prng_next(&prng) % 8));
        else
            bytes = (uint32_t)(prng_next(&prng) % bytes);
        uint8_t *exact = malloc(bytes ? bytes : 1);
        assert_non_null(exact);
        memcpy(exact, sent, bytes);
        rdma_join_feed(&rig.join, exact, bytes);
        struct msg *msg = NULL;
        struct rdma_ref ref;
        int rc = rdma_join_next(&rig.join, 1, &msg, &ref);
        assert_true(rc <= RDMA_JOIN_REF);
        if (rc > 0)
            msg_free(msg);
        rig_end(&rig);
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greetings_are_checked),
        cmocka_unit_test(heads_must_fill_their_send),
        cmocka_unit_test(credits_neither_overrun_nor_deadlock),
        cmocka_unit_test(lies_about_credits_are_noticed),
        cmocka_unit_test(frames_survive_cutting_and_joining),
        cmocka_unit_test(payloads_are_not_copied),
        cmocka_unit_test(joining_survives_garbage),
    };
    return cmocka_run_group_tests_name("rdma_wire", tests, NULL, NULL);
}
