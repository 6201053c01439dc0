/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_wire: the bytes that the RDMA transport itself exchanges, little-endian, and the credits that bound them.
 *
 * Concept: a greeting travels as rdma_cm's private data both ways. After it a link is a stream of frames (common/wire.h)
 *   cut into SENDs. A SEND is: head (16 bytes) | done_count tags of 4 bytes | stream_bytes of the stream. A frame's
 *   192-byte header is never split. Of a frame whose payload is above RDMA_SEND_PAYLOAD_MAX, on a link with windows, the
 *   stream holds a reference (16 bytes) in the place of the payload: the receiver fetches it by RDMA READ and answers
 *   with the reference's tag as a done tag.
 * Threading: pure functions over the caller's bytes.
 * Errors: -EBADMSG (not ours, or a lie), -EPROTONOSUPPORT (version). Ownership: none taken.
 */
#ifndef ASHLAR_COMMON_TRANSPORT_RDMA_WIRE_H
#define ASHLAR_COMMON_TRANSPORT_RDMA_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RDMA_WIRE_VERSION 1u
#define RDMA_GREETING_BYTES 32u /* rdma_cm carries 56 */
#define RDMA_HEAD_BYTES 16u
#define RDMA_DONE_BYTES 4u
#define RDMA_DONES_MAX 16u /* of one SEND */
#define RDMA_REF_BYTES 16u
#define RDMA_SEND_PAYLOAD_MAX 8192u
/* Head, dones, frame header, a body for 8 KiB of payload, and the payload. */
#define RDMA_RECEIVE_BYTES 8704u
#define RDMA_RECEIVE_BYTES_MAX 65536u
#define RDMA_CREDITS_MIN 4u
#define RDMA_CREDITS_MAX 1024u
#define RDMA_WINDOWS_MAX 64u /* payloads of one link that may be on offer at a time */

enum rdma_greeting_flags {
    RDMA_GREETING_READS = 1u << 0, /* offers windows, and fetches what is offered */
};

struct rdma_greeting {
    uint16_t version;
    uint16_t flags;
    uint32_t node; /* 0: not known (yet) */
    uint64_t incarnation;
    uint32_t receive_bytes; /* of each receive buffer */
    uint16_t credits;       /* receive buffers of this link at the start */
    uint16_t windows;       /* most payloads that it has on offer at a time */
};
void rdma_greeting_encode(const struct rdma_greeting *greeting, uint8_t out[RDMA_GREETING_BYTES]);
/* bytes may be more than the greeting: rdma_cm pads. */
int rdma_greeting_decode(const void *in, size_t bytes, struct rdma_greeting *ret_greeting);

struct rdma_head {
    uint16_t credits; /* receive buffers given back to the peer */
    uint16_t done_count;
    uint32_t stream_bytes;
};
void rdma_head_encode(const struct rdma_head *head, uint8_t out[RDMA_HEAD_BYTES]);
/* in: a received SEND of so many bytes: the lengths must fill it exactly. */
int rdma_head_decode(const uint8_t *in, size_t bytes, struct rdma_head *ret_head);

struct rdma_ref {
    uint64_t address;
    uint32_t key;
    uint32_t tag;
};
#define RDMA_TAG_INLINE UINT32_MAX /* the payload follows in the stream: it is not in the sender's registered pool */
void rdma_ref_encode(const struct rdma_ref *ref, uint8_t out[RDMA_REF_BYTES]);
void rdma_ref_decode(const uint8_t in[RDMA_REF_BYTES], struct rdma_ref *ret_ref);
void rdma_tag_encode(uint32_t tag, uint8_t out[RDMA_DONE_BYTES]);
uint32_t rdma_tag_decode(const uint8_t in[RDMA_DONE_BYTES]);

/* Credits of one direction pair. Each side may send as many SENDs as the other has receive buffers for it; the last one
 * is kept for a message that only gives credits back, and that one is sent when half of them are owed: so two sides
 * that both ran dry cannot wait for each other (tests/unit/transport/rdma_wire_test.c proves it by walking). */
struct rdma_credit {
    uint32_t total;     /* the peer's receive buffers for us */
    uint32_t available; /* of them, not used */
    uint32_t own;       /* our receive buffers for the peer */
    uint32_t owed;      /* of them, free again and not told */
    uint32_t granted;   /* of them, the peer may use */
};
void rdma_credit_init(struct rdma_credit *credit, uint32_t own, uint32_t total);
bool rdma_credit_may_send(const struct rdma_credit *credit);    /* frames */
bool rdma_credit_must_return(const struct rdma_credit *credit); /* a SEND without frames is due, and possible */
void rdma_credit_use(struct rdma_credit *credit);
uint16_t rdma_credit_take_owed(struct rdma_credit *credit);          /* for the head of the SEND that is being made */
void rdma_credit_freed(struct rdma_credit *credit);                  /* a receive buffer is posted again */
int rdma_credit_received(struct rdma_credit *credit);                /* a SEND came; -EBADMSG: the peer had no credit */
int rdma_credit_given(struct rdma_credit *credit, uint16_t credits); /* by the peer; -EBADMSG: more than there are */

#endif
