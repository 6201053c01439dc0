/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes what the RDMA transport decodes without verbs; the first byte chooses between
 *   - a greeting (rdma_cm's private data): what decodes is within its limits and is what encode writes;
 *   - a link with (or without) windows: SENDs, two bytes of length before each, go through head and join as in rdma_rx.c: they end in
 *     messages within their limits, in references for payloads above the limit alone, or in an errno.
 * Either way every message and buffer comes back. */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/transport/frame.h"
#include "common/transport/rdma_cut.h"
#include "common/transport/rdma_wire.h"

#define FUZZ_BUFS_BYTES (4u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_greeting(const uint8_t *data, size_t size)
{
    struct rdma_greeting greeting;
    uint8_t again[RDMA_GREETING_BYTES];
    int rc = rdma_greeting_decode(data, size, &greeting);
    assert(rc == 0 || rc == -EBADMSG || rc == -EPROTONOSUPPORT);
    if (rc < 0)
        return;
    struct rdma_credit credit;
    rdma_credit_init(&credit, RDMA_CREDITS_MIN, greeting.credits); /* as rdma_conn.c does: it asserts its limits */
    assert(rdma_credit_may_send(&credit));
    assert(greeting.receive_bytes >= RDMA_RECEIVE_BYTES && greeting.windows <= RDMA_WINDOWS_MAX);
    rdma_greeting_encode(&greeting, again);
    assert(memcmp(again, data, 28) == 0); /* the rest is zero here, and not looked at there */
}

static void check_msg(const struct msg *msg, bool is_ref, uint32_t ref_above)
{
    const struct wire_header *header = &msg->header;
    assert(header->body_len <= WIRE_BODY_MAX && header->payload_len <= WIRE_PAYLOAD_MAX);
    assert((msg->body != NULL) == (header->body_len > 0));
    assert((msg->payload != NULL) == (header->payload_len > 0));
    if (msg->payload) /* a READ of payload_len bytes goes there */
        assert(msg->payload->capacity >= header->payload_len);
    if (is_ref)
        assert(ref_above > 0 && header->payload_len > ref_above);
}

/* The stream bytes of one SEND; 0 or the error that ends the link. */
static int join_send(struct rdma_join *join, const uint8_t *stream, uint32_t bytes, uint32_t ref_above)
{
    rdma_join_feed(join, stream, bytes);
    for (;;) {
        struct msg *msg = NULL;
        struct rdma_ref ref = {.tag = RDMA_TAG_INLINE};
        int rc = rdma_join_next(join, 1, &msg, &ref);
        if (rc <= 0)
            return rc;
        assert(rc == RDMA_JOIN_WHOLE || ref.tag != RDMA_TAG_INLINE);
        check_msg(msg, rc == RDMA_JOIN_REF, ref_above);
        msg_free(msg);
    }
}

static void check_sends(struct frame_pool *pool, const uint8_t *data, size_t size, uint32_t ref_above)
{
    struct rdma_join join;
    int rc = 0;
    rdma_join_init(&join, pool, ref_above);
    while (rc == 0 && size >= 2) {
        size_t bytes = data[0] | (size_t)data[1] << 8;
        data += 2;
        size -= 2;
        bytes = bytes < size ? bytes : size;
        bytes = bytes < RDMA_RECEIVE_BYTES ? bytes : RDMA_RECEIVE_BYTES; /* the device's bound */
        struct rdma_head head;
        uint8_t *slot = malloc(bytes > 0 ? bytes : 1); /* of the exact size: a sanitizer sees the byte beyond */
        assert(slot);
        memcpy(slot, data, bytes);
        rc = rdma_head_decode(slot, bytes, &head);
        assert(rc == 0 || rc == -EBADMSG);
        if (rc == 0) {
            size_t dones = (size_t)head.done_count * RDMA_DONE_BYTES;
            assert(head.done_count <= RDMA_DONES_MAX && RDMA_HEAD_BYTES + dones + head.stream_bytes == bytes);
            rc = head.stream_bytes > 0 ? join_send(&join, slot + RDMA_HEAD_BYTES + dones, head.stream_bytes, ref_above)
                                       : 0;
            assert(rc == 0 || rc == -EBADMSG || rc == -EPROTONOSUPPORT || rc == -EMSGSIZE);
        }
        free(slot);
        data += bytes;
        size -= bytes;
    }
    rdma_join_close(&join);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct buf_pool *bufs;
    static struct frame_pool *pool;
    struct buf_pool_stats stats;
    if (!bufs) {
        bufs = buf_pool_create(FUZZ_BUFS_BYTES);
        assert(bufs);
        pool = frame_pool_create(bufs);
    }
    assert(pool);
    if (size == 0)
        return 0;
    if (data[0] % 3 == 0)
        check_greeting(data + 1, size - 1);
    else
        check_sends(pool, data + 1, size - 1, data[0] % 3 == 1 ? RDMA_SEND_PAYLOAD_MAX : 0);
    buf_pool_stats(bufs, &stats);
    assert(stats.used_bytes == 0);
    return 0;
}
