/* SPDX-License-Identifier: Apache-2.0 */
/* frame: bytes to messages and messages to bytes, shared by every transport that sees a stream.
 *
 * Concept: frame_rx parses whatever a receive brought: small frames out of a staging area, the rest of a large body or
 *   payload straight into its place (frame_rx_space hands both to one scattered receive). frame_tx queues frames, head
 *   and body copied, payload by reference, and gathers as many as fit into one vectored send.
 * Threading: a frame_pool and all that hangs on it belong to one event loop.
 * Errors: what the peer may cause is returned: -EBADMSG, -EPROTONOSUPPORT, -EMSGSIZE (close the link), -ENOBUFS (the
 *   buffer pool is exhausted: stop reading, call again when it has room), -ENOMEM.
 * Ownership: frame_rx_next gives the msg; frame_tx_push copies header and body and takes a payload reference.
 */
#ifndef ASHLAR_COMMON_TRANSPORT_FRAME_H
#define ASHLAR_COMMON_TRANSPORT_FRAME_H

#include <stdbool.h>
#include <sys/uio.h>

#include "common/transport.h"

#define FRAME_STAGING_BYTES (256u * 1024u)
#define FRAME_BODY_INLINE 2048u /* bodies up to this need no malloc */
#define FRAME_RX_VEC_MAX 3u     /* rest of body, payload, staging */
#define FRAME_TX_VEC_MAX 128u

struct frame_chunk;
struct frame_pool;

/* Free lists of messages, send chunks and staging areas. */
struct frame_pool *frame_pool_create(struct buf_pool *bufs); /* borrowed; NULL: out of memory */
void frame_pool_destroy(struct frame_pool *pool);            /* asserts that all came back; accepts NULL */
/* Frees every message still held (a simulated crash): their holders are gone. */
void frame_pool_abandon(struct frame_pool *pool);
struct buf_pool *frame_pool_bufs(const struct frame_pool *pool);

struct frame_rx {
    /* may be set: where a payload is to be put (transport.h: place) */
    struct buf *(*place)(void *arg, const struct wire_header *header);
    void *place_arg;
    /* private */
    struct frame_pool *pool;
    uint8_t *staging;
    uint32_t start, end; /* staged bytes not parsed yet */
    struct msg *msg;     /* header parsed, body or payload incomplete */
    uint32_t body_got, payload_got;
};

int frame_rx_init(struct frame_rx *rx, struct frame_pool *pool);
void frame_rx_close(struct frame_rx *rx);
/* 1: *ret_msg is given; 0: more bytes needed; or -errno. */
int frame_rx_next(struct frame_rx *rx, uint64_t now_ns, struct msg **ret_msg);
/* Where the next bytes belong, in order; valid until the next call of frame_rx_next. Call it only after
 * frame_rx_next said 0. Returns the number of vectors, at least 1. */
unsigned frame_rx_space(struct frame_rx *rx, struct iovec vec[FRAME_RX_VEC_MAX]);
void frame_rx_filled(struct frame_rx *rx, size_t bytes);

struct frame_tx {
    /* read-only */
    size_t queued_bytes;
    bool blocked; /* a push was refused since the last frame_tx_unblock */
    /* private */
    struct frame_pool *pool;
    struct frame_chunk *head, *tail;
    uint32_t head_sent; /* bytes of the first chunk gone already */
};

void frame_tx_init(struct frame_tx *tx, struct frame_pool *pool);
void frame_tx_close(struct frame_tx *tx); /* drops what is queued */
/* 0, -EAGAIN above LINK_QUEUE_BYTES_MAX, -ENOMEM for a large body. */
int frame_tx_push(struct frame_tx *tx, const struct wire_header *header, const void *body, struct buf *payload,
                  uint32_t payload_offset);
/* Vectors of what is queued, from its front; they stay valid until frame_tx_consume or frame_tx_close. */
unsigned frame_tx_gather(const struct frame_tx *tx, struct iovec vec[FRAME_TX_VEC_MAX]);
void frame_tx_consume(struct frame_tx *tx, size_t bytes);
/* True once when the queue fell to the low mark after a refused push. */
bool frame_tx_unblock(struct frame_tx *tx);

#endif
