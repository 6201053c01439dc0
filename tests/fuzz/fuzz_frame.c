/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the stream parser: the first byte chooses between
 *   - a raw stream, cut into pieces as further bytes say, which must end in messages within their limits or an errno;
 *   - a round trip: the bytes describe frames, frame_tx gathers them, any cutting must give them back unchanged.
 * Either way every message and buffer comes back, and an exhausted pool loses nothing. */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/transport/frame.h"

#define FUZZ_BUFS_BYTES (4u << 20)
#define FUZZ_FRAMES_MAX 8u
#define FUZZ_STREAM_MAX (4u << 20)
#define FUZZ_POOL_RUNS 100u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *data;
    size_t size, at;
};

static uint32_t take(struct input *input)
{
    return input->at < input->size ? input->data[input->at++] : 0;
}

static uint32_t sizes(struct input *input, uint32_t max)
{
    static const uint32_t steps[] = {0, 1, 2, 191, 192, 193, 2047, 2048, 2049, 4096, 65535, 262144, 1048576};
    uint32_t choice = take(input), more = take(input);
    uint32_t bytes = steps[choice % (sizeof(steps) / sizeof(steps[0]))] + (choice & 0x80 ? more : 0);
    return bytes < max ? bytes : max;
}

static void check_msg(const struct msg *msg)
{
    const struct wire_header *header = &msg->header;
    assert(header->body_len <= WIRE_BODY_MAX && header->payload_len <= WIRE_PAYLOAD_MAX);
    assert((msg->body != NULL) == (header->body_len > 0));
    assert((msg->payload != NULL) == (header->payload_len > 0));
    if (msg->payload)
        assert(msg->payload->capacity >= header->payload_len && (uintptr_t)msg->payload->data % BUF_ALIGN == 0);
}

/* How much goes at once: 1 byte to a few MiB; all when the input is used up. */
static size_t take_cut(struct input *input)
{
    if (input->at >= input->size)
        return FUZZ_STREAM_MAX;
    uint32_t small = take(input);
    return 1 + (size_t)small * (1 + (size_t)take(input) * 64);
}

/* WIRE_PAYLOAD_MAX bytes that follow from `seed`. */
static const uint8_t *pattern(uint64_t seed)
{
    static uint8_t table[WIRE_PAYLOAD_MAX + 256];
    if (table[1] == 0)
        for (uint32_t i = 0; i < sizeof(table); i++)
            table[i] = (uint8_t)i;
    return table + (seed & 0xff);
}

/* The round trip's bytes follow from the frame's number. */
static void check_content(const struct msg *msg, uint64_t number)
{
    assert(msg->header.request_id == number);
    if (msg->body)
        assert(memcmp(msg->body, pattern(number), msg->header.body_len) == 0);
    if (msg->payload)
        assert(memcmp(msg->payload->data, pattern(number * 3), msg->header.payload_len) == 0);
}

/* Takes what is whole; 0 or the parser's error. */
static int drain(struct frame_rx *rx, struct buf_pool *bufs, bool is_round_trip, uint64_t *number, bool hog)
{
    struct buf *hogs[FUZZ_BUFS_BYTES / BUF_BYTES_MAX];
    unsigned count = 0;
    while (hog && count < sizeof(hogs) / sizeof(hogs[0]) && (hogs[count] = buf_alloc(bufs, BUF_BYTES_MAX)) != NULL)
        count++;
    for (;;) {
        struct msg *msg = NULL;
        int rc = frame_rx_next(rx, 1, &msg);
        if (rc == -ENOBUFS && count > 0) {
            while (count > 0)
                buf_unref(hogs[--count]);
            continue;
        }
        if (rc <= 0) {
            while (count > 0)
                buf_unref(hogs[--count]);
            return rc;
        }
        check_msg(msg);
        if (is_round_trip)
            check_content(msg, *number);
        ++*number;
        msg_free(msg);
    }
}

static uint64_t parse(struct frame_pool *pool, const uint8_t *stream, size_t bytes, struct input *cuts,
                      bool is_round_trip)
{
    struct frame_rx rx;
    uint64_t number = 0;
    int rc = frame_rx_init(&rx, pool);
    assert(rc == 0);
    for (size_t at = 0; at < bytes && rc == 0;) {
        struct iovec vec[FRAME_RX_VEC_MAX];
        unsigned n = frame_rx_space(&rx, vec);
        size_t limit = take_cut(cuts), got = 0;
        for (unsigned i = 0; i < n; i++) {
            size_t piece = bytes - at < limit - got ? bytes - at : limit - got;
            piece = piece < vec[i].iov_len ? piece : vec[i].iov_len;
            if (piece == 0)
                break;
            memcpy(vec[i].iov_base, stream + at, piece);
            at += piece;
            got += piece;
        }
        assert(got > 0);
        frame_rx_filled(&rx, got);
        rc = drain(&rx, frame_pool_bufs(pool), is_round_trip, &number, (take(cuts) & 7) == 1);
        assert(rc == 0 || rc == -EBADMSG || rc == -EPROTONOSUPPORT || rc == -EMSGSIZE);
    }
    if (is_round_trip)
        assert(rc == 0);
    frame_rx_close(&rx);
    return number;
}

static void round_trip(struct frame_pool *pool, struct input *input)
{
    static uint8_t stream[FUZZ_STREAM_MAX];
    struct frame_tx tx;
    uint64_t frames = 1 + take(input) % FUZZ_FRAMES_MAX, pushed = 0;
    size_t bytes = 0;
    frame_tx_init(&tx, pool);
    for (uint64_t number = 0; number < frames; number++) {
        struct wire_header header = {.opcode = WIRE_WRITE, .request_id = number};
        header.body_len = sizes(input, WIRE_BODY_MAX);
        header.payload_len = sizes(input, WIRE_PAYLOAD_MAX);
        struct buf *payload = header.payload_len ? buf_alloc(frame_pool_bufs(pool), header.payload_len) : NULL;
        if (tx.queued_bytes + header.body_len + header.payload_len + WIRE_HEADER_BYTES > sizeof(stream) ||
            (header.payload_len && !payload)) {
            buf_unref(payload);
            break;
        }
        if (payload)
            memcpy(payload->data, pattern(number * 3), header.payload_len);
        int rc = frame_tx_push(&tx, &header, pattern(number), payload, 0);
        assert(rc == 0);
        buf_unref(payload);
        pushed++;
    }
    while (tx.queued_bytes > 0) {
        struct iovec vec[FRAME_TX_VEC_MAX];
        unsigned n = frame_tx_gather(&tx, vec);
        size_t limit = take_cut(input), sent = 0;
        for (unsigned i = 0; i < n && sent < limit; i++) {
            size_t piece = vec[i].iov_len < limit - sent ? vec[i].iov_len : limit - sent;
            memcpy(stream + bytes, vec[i].iov_base, piece);
            bytes += piece;
            sent += piece;
        }
        assert(sent > 0);
        frame_tx_consume(&tx, sent);
    }
    frame_tx_close(&tx);
    input->at = input->size / 2; /* cut what is received, too */
    uint64_t received = parse(pool, stream, bytes, input, /* is_round_trip= */ true);
    assert(received == pushed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct buf_pool *bufs;
    static struct frame_pool *pool;
    static unsigned runs;
    if (!bufs)
        bufs = buf_pool_create(FUZZ_BUFS_BYTES);
    assert(bufs);
    if (runs++ % FUZZ_POOL_RUNS == 0) {
        frame_pool_destroy(pool); /* asserts that everything came back */
        pool = frame_pool_create(bufs);
    }
    assert(pool);
    struct input input = {data, size, 0};
    if (take(&input) & 1) {
        round_trip(pool, &input);
    } else {
        struct input cuts = {data, size, 0};
        (void)parse(pool, data + input.at, size - input.at, &cuts, /* is_round_trip= */ false);
    }
    struct buf_pool_stats stats;
    buf_pool_stats(bufs, &stats);
    assert(stats.used_bytes == 0);
    return 0;
}
