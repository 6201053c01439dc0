/* SPDX-License-Identifier: Apache-2.0 */
/* frame_internal: what frame_pool.c, frame_rx.c and frame_tx.c share. Threading, errors, ownership: as in frame.h. */
#ifndef ASHLAR_COMMON_TRANSPORT_FRAME_INTERNAL_H
#define ASHLAR_COMMON_TRANSPORT_FRAME_INTERNAL_H

#include "common/list.h"
#include "common/transport/frame.h"

/* One allocation for message and body. */
struct frame_msg {
    struct msg msg; /* first */
    struct frame_pool *pool;
    struct list_node live;
    uint8_t *body_heap; /* body above FRAME_BODY_INLINE */
    uint8_t body_inline[FRAME_BODY_INLINE];
};

/* A queued frame: header and body contiguous, payload by reference. */
struct frame_chunk {
    struct frame_chunk *next;
    struct buf *payload; /* one reference, NULL without payload */
    uint32_t payload_offset, payload_bytes;
    uint32_t head_bytes;
    uint8_t *head; /* head_inline, or the heap for a large body */
    uint8_t head_inline[WIRE_HEADER_BYTES + FRAME_BODY_INLINE];
};

struct msg *frame_pool_msg(struct frame_pool *pool, uint32_t body_bytes); /* NULL: out of memory */
struct frame_chunk *frame_pool_chunk(struct frame_pool *pool, uint32_t body_bytes);
void frame_pool_chunk_put(struct frame_pool *pool, struct frame_chunk *chunk);
uint8_t *frame_pool_staging(struct frame_pool *pool);
void frame_pool_staging_put(struct frame_pool *pool, uint8_t *staging);

#endif
