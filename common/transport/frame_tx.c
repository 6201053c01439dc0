/* SPDX-License-Identifier: Apache-2.0 */
/* frame_tx: the queue of frames a link has yet to send.
 *
 *   - frame_tx_push encodes header and body into one chunk and takes a reference on the payload;
 *   - frame_tx_gather names the front of the queue as vectors: one vectored send for all a turn queued;
 *   - frame_tx_consume drops what was sent, also when a send ended in the middle of a frame.
 * Failure modes: the queue is bounded: above LINK_QUEUE_BYTES_MAX a push is refused, and frame_tx_unblock tells when
 *   it is worth trying again.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/transport/frame_internal.h"

#define FRAME_TX_LOW_BYTES (LINK_QUEUE_BYTES_MAX / 2)

void frame_tx_init(struct frame_tx *tx, struct frame_pool *pool)
{
    assert(tx != NULL);
    assert(pool);
    memset(tx, 0, sizeof(*tx));
    tx->pool = pool;
}

static void tx_pop(struct frame_tx *tx)
{
    struct frame_chunk *chunk = tx->head;
    assert(chunk);
    tx->head = chunk->next;
    if (!tx->head)
        tx->tail = NULL;
    tx->head_sent = 0;
    frame_pool_chunk_put(tx->pool, chunk);
}

void frame_tx_close(struct frame_tx *tx)
{
    while (tx->head)
        tx_pop(tx);
    tx->queued_bytes = 0;
    tx->blocked = false;
    assert(!tx->tail);
}

int frame_tx_push(struct frame_tx *tx, const struct wire_header *header, const void *body, struct buf *payload,
                  uint32_t payload_offset)
{
    assert(header->body_len <= WIRE_BODY_MAX && header->payload_len <= WIRE_PAYLOAD_MAX);
    assert((body != NULL) || header->body_len == 0);
    assert((payload != NULL) || header->payload_len == 0);
    if (tx->queued_bytes > LINK_QUEUE_BYTES_MAX) {
        tx->blocked = true;
        return -EAGAIN;
    }
    struct frame_chunk *chunk = frame_pool_chunk(tx->pool, header->body_len);
    if (!chunk)
        return -ENOMEM;
    struct wire_header copy = *header;
    copy.version = WIRE_VERSION;
    copy.body_crc = crc32c(body ? body : "", header->body_len);
    wire_encode(&copy, chunk->head);
    if (header->body_len > 0)
        memcpy(chunk->head + WIRE_HEADER_BYTES, body, header->body_len);
    chunk->head_bytes = WIRE_HEADER_BYTES + header->body_len;
    if (header->payload_len > 0) {
        assert(payload_offset <= payload->capacity);
        assert(header->payload_len <= payload->capacity - payload_offset);
        chunk->payload = buf_ref(payload);
        chunk->payload_offset = payload_offset;
        chunk->payload_bytes = header->payload_len;
    }
    if (tx->tail)
        tx->tail->next = chunk;
    else
        tx->head = chunk;
    tx->tail = chunk;
    tx->queued_bytes += chunk->head_bytes + chunk->payload_bytes;
    return 0;
}

unsigned frame_tx_gather(const struct frame_tx *tx, struct iovec vec[FRAME_TX_VEC_MAX])
{
    unsigned n = 0;
    uint32_t skip = tx->head_sent;
    for (const struct frame_chunk *chunk = tx->head; chunk && n + 2 <= FRAME_TX_VEC_MAX; chunk = chunk->next) {
        if (skip < chunk->head_bytes) {
            vec[n++] = (struct iovec){chunk->head + skip, chunk->head_bytes - skip};
            skip = 0;
        } else {
            skip -= chunk->head_bytes;
        }
        assert(skip == 0 || skip < chunk->payload_bytes);
        if (chunk->payload_bytes > 0)
            vec[n++] = (struct iovec){chunk->payload->data + chunk->payload_offset + skip, chunk->payload_bytes - skip};
        skip = 0;
    }
    assert(n <= FRAME_TX_VEC_MAX);
    return n;
}

void frame_tx_consume(struct frame_tx *tx, size_t bytes)
{
    assert(bytes <= tx->queued_bytes);
    tx->queued_bytes -= bytes;
    while (bytes > 0) {
        assert(tx->head);
        uint32_t rest = tx->head->head_bytes + tx->head->payload_bytes - tx->head_sent;
        if (bytes < rest) {
            tx->head_sent += (uint32_t)bytes;
            return;
        }
        bytes -= rest;
        tx_pop(tx);
    }
}

bool frame_tx_unblock(struct frame_tx *tx)
{
    if (!tx->blocked || tx->queued_bytes > FRAME_TX_LOW_BYTES)
        return false;
    tx->blocked = false;
    return true;
}
