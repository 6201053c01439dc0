/* SPDX-License-Identifier: Apache-2.0 */
/* cases_hostile: a raw socket that lies, stops or dies ends its own link, with the right reason, and nothing else. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "tests/unit/transport/rig.h"

static int raw_open(struct rig *rig, struct endpoint *b)
{
    if (!rig->listener)
        rig_listen(rig);
    rig->accept_into = b;
    int fd = rig_raw_connect(rig);
    rig_until(rig, b->link);
    return fd;
}

static void raw_send(int fd, const void *data, size_t bytes)
{
    assert_int_equal(send(fd, data, bytes, MSG_NOSIGNAL), (ssize_t)bytes);
}

static size_t good_frame(uint8_t *out, uint32_t body_bytes)
{
    struct wire_header header = {.opcode = WIRE_PING, .version = WIRE_VERSION, .body_len = body_bytes};
    memset(out + WIRE_HEADER_BYTES, 'b', body_bytes);
    header.body_crc = crc32c(out + WIRE_HEADER_BYTES, body_bytes);
    wire_encode(&header, out);
    return WIRE_HEADER_BYTES + body_bytes;
}

/* One raw peer sends `bytes`; its link closes with the reason, after `messages`, and the listener is as good as new. */
static void expect_end(struct rig *rig, const void *data, size_t bytes, bool end_of_file, int reason, uint64_t messages)
{
    static struct endpoint b, a2, b2;
    b = (struct endpoint){.no_check = true};
    a2 = (struct endpoint){0};
    b2 = (struct endpoint){0};
    int fd = raw_open(rig, &b);
    raw_send(fd, data, bytes);
    if (end_of_file)
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
    rig_until(rig, b.closed);
    assert_int_equal(b.reason, reason);
    assert_int_equal(b.messages, messages);
    (void)close(fd);
    rig_connect(rig, &a2, &b2);
    assert_int_equal(endpoint_send(&a2, 3, 4096), 0);
    rig_until(rig, b2.messages == 1);
    link_close(a2.link);
    rig_until(rig, a2.closed && b2.closed);
}

static void garbage_closes_the_link(struct rig *rig)
{
    uint8_t junk[1000];
    for (unsigned i = 0; i < sizeof(junk); i++)
        junk[i] = (uint8_t)(i * 37 + 11);
    expect_end(rig, junk, sizeof(junk), false, -EBADMSG, 0);
    uint8_t frames[2 * WIRE_HEADER_BYTES + 20];
    size_t n = good_frame(frames, 10);
    memset(frames + n, 0x5a, sizeof(frames) - n);
    expect_end(rig, frames, sizeof(frames), false, -EBADMSG, 1);
}

static void a_truncated_frame_is_end_of_file(struct rig *rig)
{
    uint8_t frame[WIRE_HEADER_BYTES + 100];
    size_t n = good_frame(frame, 100);
    expect_end(rig, frame, 50, true, -EPIPE, 0);
    expect_end(rig, frame, n - 1, true, -EPIPE, 0);
    expect_end(rig, frame, n, true, -EPIPE, 1);
}

static void a_damaged_body_closes_the_link(struct rig *rig)
{
    uint8_t frame[WIRE_HEADER_BYTES + 100];
    size_t n = good_frame(frame, 100);
    frame[n - 7] ^= 1;
    expect_end(rig, frame, n, false, -EBADMSG, 0);
}

/* Byte offsets of wire.h's layout are wire.c's own; lengths and version are patched through it. */
static void oversized_and_foreign_frames_close_the_link(struct rig *rig)
{
    uint8_t frame[WIRE_HEADER_BYTES], probe[WIRE_HEADER_BYTES];
    struct wire_header header = {.opcode = WIRE_PING, .version = WIRE_VERSION};
    struct wire_header marked = header;
    wire_encode(&header, frame);
    marked.body_len = WIRE_BODY_MAX; /* only body_len (and a header checksum, if any) differs */
    wire_encode(&marked, probe);
    unsigned at = 0;
    while (frame[at] == probe[at])
        at++;
    memset(frame + (at & ~3u), 0xff, 4);
    struct wire_header decoded;
    int reason = wire_decode(frame, &decoded);
    assert_true(reason == -EMSGSIZE || reason == -EBADMSG);
    expect_end(rig, frame, sizeof(frame), false, reason, 0);
}

/* Goal: a frame that comes byte by byte is a frame. */
static void a_dripping_frame_arrives(struct rig *rig)
{
    uint8_t frame[WIRE_HEADER_BYTES + 77];
    size_t n = good_frame(frame, 77);
    static struct endpoint b;
    b = (struct endpoint){.no_check = true};
    int fd = raw_open(rig, &b);
    for (size_t i = 0; i < n; i++) {
        raw_send(fd, frame + i, 1);
        rig_turn(rig);
        assert_true(i == n - 1 || b.messages == 0);
        if (i == n - 2)
            rig_quiet(rig);
    }
    rig_until(rig, b.messages == 1);
    (void)close(fd);
    rig_until(rig, b.closed);
    assert_int_equal(b.reason, -EPIPE);
}

/* Goal: a peer that connects and never reads cannot hold the link: it closes with a send under way. */
static void a_peer_that_never_reads_is_closed(struct rig *rig)
{
    static struct endpoint b;
    b = (struct endpoint){0};
    int fd = raw_open(rig, &b);
    struct buf *payload = buf_alloc(rig->b.bufs, WIRE_PAYLOAD_MAX);
    assert_non_null(payload);
    memset(payload->data, 1, WIRE_PAYLOAD_MAX);
    struct wire_header header = {.opcode = WIRE_WRITE, .payload_len = WIRE_PAYLOAD_MAX};
    for (int i = 0; i < 20; i++)
        assert_int_equal(link_send(b.link, &header, NULL, payload, 0), 0);
    rig_quiet(rig);
    assert_true(link_queued_bytes(b.link) > 0);
    assert_true(payload->refs > 1);
    link_close(b.link);
    rig_until(rig, b.closed);
    assert_int_equal(b.reason, 0);
    assert_int_equal(payload->refs, 1); /* the kernel is done with it */
    buf_unref(payload);
    (void)close(fd);
}

/* Goal: a reset while the reader is paused and the writer blocked is noticed, without spinning. */
static void a_reset_ends_a_paused_link(struct rig *rig)
{
    static struct endpoint b;
    b = (struct endpoint){0};
    int fd = raw_open(rig, &b);
    link_pause(b.link, true);
    struct buf *payload = buf_alloc(rig->b.bufs, WIRE_PAYLOAD_MAX);
    assert_non_null(payload);
    memset(payload->data, 1, WIRE_PAYLOAD_MAX);
    struct wire_header header = {.opcode = WIRE_WRITE, .payload_len = WIRE_PAYLOAD_MAX};
    for (int i = 0; i < 20; i++)
        assert_int_equal(link_send(b.link, &header, NULL, payload, 0), 0);
    buf_unref(payload);
    rig_quiet(rig);
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
    (void)close(fd);
    rig_until(rig, b.closed);
    assert_true(b.reason == -ECONNRESET || b.reason == -EPIPE);
}

/* Goal: many peers that come and go at once leave nothing behind (rig_close counts). */
static void fleeting_peers_leave_nothing(struct rig *rig)
{
    enum { PEERS = 30 };
    static struct endpoint b[PEERS];
    int fds[PEERS];
    memset(b, 0, sizeof(b));
    for (int i = 0; i < PEERS; i++) {
        fds[i] = raw_open(rig, &b[i]);
        raw_send(fds[i], "ASHL", 4);
    }
    for (int i = 0; i < PEERS; i++)
        (void)close(fds[i]);
    for (int i = 0; i < PEERS; i++)
        rig_until(rig, b[i].closed);
}

const struct rig_case hostile_cases[] = {
    {"garbage_closes_the_link", garbage_closes_the_link, 0, true},
    {"a_truncated_frame_is_end_of_file", a_truncated_frame_is_end_of_file, 0, true},
    {"a_damaged_body_closes_the_link", a_damaged_body_closes_the_link, 0, true},
    {"oversized_and_foreign_frames_close_the_link", oversized_and_foreign_frames_close_the_link, 0, true},
    {"a_dripping_frame_arrives", a_dripping_frame_arrives, 0, true},
    {"a_peer_that_never_reads_is_closed", a_peer_that_never_reads_is_closed, 0, true},
    {"a_reset_ends_a_paused_link", a_reset_ends_a_paused_link, 0, true},
    {"fleeting_peers_leave_nothing", fleeting_peers_leave_nothing, 0, true},
};
const unsigned hostile_case_count = sizeof(hostile_cases) / sizeof(hostile_cases[0]);
