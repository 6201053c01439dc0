/* SPDX-License-Identifier: Apache-2.0 */
/* frame_rx: received bytes to messages.
 *
 *   - a receive fills what frame_rx_space named: the rest of the body and payload under way, then the staging area;
 *   - frame_rx_next takes a header from staging, checks it, gets message and payload buffer, and copies what of both
 *     is staged already; so a 4 KiB payload is copied once, and of 1 MiB only what came along with the header;
 *   - when body and payload are whole, the body's CRC is checked and the message given.
 * The bytes are hostile: lengths are bounded before anything is allocated, and one frame at a time is under way.
 * Failure modes: a bad header or CRC, a length above the limit: -errno, the stream cannot be trusted any more. No
 *   payload buffer: -ENOBUFS, the header stays in staging and the call may be repeated.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/transport/frame_internal.h"

int frame_rx_init(struct frame_rx *rx, struct frame_pool *pool)
{
    assert(rx != NULL);
    assert(pool);
    memset(rx, 0, sizeof(*rx));
    rx->pool = pool;
    rx->staging = frame_pool_staging(pool);
    return rx->staging ? 0 : -ENOMEM;
}

void frame_rx_close(struct frame_rx *rx)
{
    if (!rx->staging)
        return;
    assert(rx->pool);
    msg_free(rx->msg);
    rx->msg = NULL;
    frame_pool_staging_put(rx->pool, rx->staging);
    rx->staging = NULL;
}

/* The staged header becomes rx->msg, or stays staged. */
static int rx_begin(struct frame_rx *rx, uint64_t now_ns)
{
    assert(rx != NULL);
    struct wire_header header;
    int rc = wire_decode(rx->staging + rx->start, &header);
    if (rc < 0)
        return rc;
    if (header.body_len > WIRE_BODY_MAX || header.payload_len > WIRE_PAYLOAD_MAX)
        return -EMSGSIZE;
    struct buf *payload = NULL;
    if (header.payload_len > 0 && rx->place)
        payload = rx->place(rx->place_arg, &header);
    if (header.payload_len > 0 && !payload) {
        payload = buf_alloc(frame_pool_bufs(rx->pool), header.payload_len);
        if (!payload)
            return -ENOBUFS;
    }
    assert(!payload || payload->capacity >= header.payload_len);
    struct msg *msg = frame_pool_msg(rx->pool, header.body_len);
    if (!msg) {
        buf_unref(payload);
        return -ENOMEM;
    }
    msg->header = header;
    msg->payload = payload;
    msg->received_ns = now_ns;
    rx->msg = msg;
    rx->body_got = rx->payload_got = 0;
    rx->start += WIRE_HEADER_BYTES;
    return 0;
}

/* Moves staged bytes to where they belong; true when the part is whole. */
static bool rx_fill(struct frame_rx *rx, uint8_t *to, uint32_t *got, uint32_t want)
{
    assert(rx != NULL);
    uint32_t bytes = rx->end - rx->start;
    assert(*got <= want);
    if (bytes > want - *got)
        bytes = want - *got;
    if (bytes > 0) {
        memcpy(to + *got, rx->staging + rx->start, bytes);
        rx->start += bytes;
        *got += bytes;
    }
    return *got == want;
}

int frame_rx_next(struct frame_rx *rx, uint64_t now_ns, struct msg **ret_msg)
{
    assert(rx->start <= rx->end && rx->end <= FRAME_STAGING_BYTES);
    if (!rx->msg) {
        if (rx->end - rx->start < WIRE_HEADER_BYTES)
            return 0;
        int rc = rx_begin(rx, now_ns);
        if (rc < 0)
            return rc;
    }
    struct msg *msg = rx->msg;
    const struct wire_header *header = &msg->header;
    if (!rx_fill(rx, msg->body, &rx->body_got, header->body_len))
        return 0;
    if (!rx_fill(rx, msg->payload ? msg->payload->data : NULL, &rx->payload_got, header->payload_len))
        return 0;
    if (crc32c(header->body_len ? msg->body : rx->staging, header->body_len) != header->body_crc)
        return -EBADMSG;
    rx->msg = NULL;
    *ret_msg = msg;
    assert((msg->body != NULL) == (header->body_len > 0));
    assert((msg->payload != NULL) == (header->payload_len > 0));
    return 1;
}

unsigned frame_rx_space(struct frame_rx *rx, struct iovec vec[FRAME_RX_VEC_MAX])
{
    unsigned n = 0;
    const struct msg *msg = rx->msg;
    if (msg) {
        assert(rx->start == rx->end);
        if (rx->body_got < msg->header.body_len)
            vec[n++] = (struct iovec){msg->body + rx->body_got, msg->header.body_len - rx->body_got};
        if (rx->payload_got < msg->header.payload_len)
            vec[n++] = (struct iovec){msg->payload->data + rx->payload_got, msg->header.payload_len - rx->payload_got};
        assert(n > 0);
    }
    if (rx->start > 0) {
        memmove(rx->staging, rx->staging + rx->start, rx->end - rx->start);
        rx->end -= rx->start;
        rx->start = 0;
    }
    assert(rx->end < WIRE_HEADER_BYTES);
    vec[n++] = (struct iovec){rx->staging + rx->end, FRAME_STAGING_BYTES - rx->end};
    assert(n <= FRAME_RX_VEC_MAX);
    return n;
}

static size_t rx_advance(uint32_t *got, uint32_t want, size_t bytes)
{
    uint32_t rest = want - *got;
    if (bytes < rest)
        rest = (uint32_t)bytes;
    *got += rest;
    return bytes - rest;
}

void frame_rx_filled(struct frame_rx *rx, size_t bytes)
{
    if (rx->msg) {
        bytes = rx_advance(&rx->body_got, rx->msg->header.body_len, bytes);
        bytes = rx_advance(&rx->payload_got, rx->msg->header.payload_len, bytes);
    }
    assert(bytes <= FRAME_STAGING_BYTES - rx->end);
    rx->end += (uint32_t)bytes;
}
