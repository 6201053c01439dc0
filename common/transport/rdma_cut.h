/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_cut: a link's queue of frames cut into SENDs, and SENDs put together to frames: no verbs in it.
 *
 * Concept: rdma_cut plans one SEND from the front of a frame_tx: bytes that are copied into the send slot (headers, bodies,
 *   small or foreign payloads), payload pieces that the device gathers from the buffer pool, and payloads that are offered
 *   by reference. rdma_join is the other way: a received SEND's bytes become messages; a payload in it is copied once,
 *   from the receive slot to its pool buffer; a referenced one is only announced.
 * Threading: the loop's thread; no clock, no I/O.
 * Errors: rdma_join_next: what the peer may cause is returned: -EBADMSG, -EPROTONOSUPPORT, -EMSGSIZE; -ENOBUFS (no pool
 *   buffer: call again later), -ENOMEM.
 * Ownership: a plan borrows chunks and payloads of the queue until frame_tx_consume; a joined msg is given.
 */
#ifndef ASHLAR_COMMON_TRANSPORT_RDMA_CUT_H
#define ASHLAR_COMMON_TRANSPORT_RDMA_CUT_H

#include "common/transport/frame.h"
#include "common/transport/rdma_wire.h"

#define RDMA_CUT_PIECES_MAX 15u /* slot and payload pieces in turn: the device gathers so many */
#define RDMA_CUT_REFS_MAX 4u
#define RDMA_CUT_GATHER_MIN 512u /* a smaller payload is cheaper copied than gathered */

struct rdma_cut_limits {
    uint32_t bytes_max;          /* of this SEND's stream bytes */
    uint32_t pieces_max;         /* of the gather list, 1 .. RDMA_CUT_PIECES_MAX */
    uint32_t refs_max;           /* windows free now, at most RDMA_CUT_REFS_MAX */
    uint32_t ref_above;          /* payloads above it go by reference; 0: none does */
    const struct buf_pool *pool; /* what the device may gather from */
};

/* One element of the gather list: bytes of the slot (payload NULL), or of a payload. */
struct rdma_piece {
    struct buf *payload;
    uint32_t offset, bytes;
};

struct rdma_cut_ref {
    struct buf *payload;
    uint32_t offset, bytes;
    uint32_t slot_at; /* where its RDMA_REF_BYTES belong */
};

struct rdma_cut {
    struct rdma_piece pieces[RDMA_CUT_PIECES_MAX];
    struct rdma_cut_ref refs[RDMA_CUT_REFS_MAX];
    uint32_t piece_count, ref_count;
    uint32_t slot_bytes;   /* written into the slot */
    uint32_t stream_bytes; /* on the wire */
    size_t consumed;       /* for frame_tx_consume */
    uint64_t copied_bytes; /* payload bytes among slot_bytes */
};

/* slot: bytes_max bytes. An empty plan (stream_bytes 0): the first frame needs a window and there is none. */
void rdma_cut(const struct frame_tx *tx, const struct rdma_cut_limits *limits, uint8_t *slot, struct rdma_cut *ret_cut);

enum rdma_joined { RDMA_JOIN_MORE = 0, RDMA_JOIN_WHOLE = 1, RDMA_JOIN_REF = 2 };

struct rdma_join {
    /* private */
    struct frame_pool *pool;
    uint32_t ref_above; /* as the sender's */
    const uint8_t *at;
    uint32_t left;
    struct msg *msg;
    uint32_t body_got, payload_got;
    bool marked; /* RDMA_TAG_INLINE was seen: the payload is in the stream */
};

void rdma_join_init(struct rdma_join *join, struct frame_pool *pool, uint32_t ref_above);
void rdma_join_close(struct rdma_join *join);
/* The stream bytes of the next SEND; only after rdma_join_next said RDMA_JOIN_MORE. Borrowed until it says so again. */
void rdma_join_feed(struct rdma_join *join, const uint8_t *bytes, uint32_t count);
/* enum rdma_joined or -errno. RDMA_JOIN_REF: payload has its buffer, of which the bytes are to be fetched. */
int rdma_join_next(struct rdma_join *join, uint64_t now_ns, struct msg **ret_msg, struct rdma_ref *ret_ref);

#endif
