/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_join: SENDs to frames.
 *
 *   - a header must lie whole in one SEND; body and payload may go over several;
 *   - body and payload are copied from the receive slot to where they stay: once;
 *   - above ref_above the stream holds a reference instead of the payload; the message waits for the READ.
 * The bytes are hostile: lengths are bounded before anything is allocated; nothing of the slot is trusted later, since
 * no remote key exists for it and what is needed was copied.
 * Failure modes: -EBADMSG, -EMSGSIZE, -EPROTONOSUPPORT: the link cannot be trusted; -ENOBUFS: the header stays.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/transport/frame_internal.h"
#include "common/transport/rdma_cut.h"

void rdma_join_init(struct rdma_join *join, struct frame_pool *pool, uint32_t ref_above)
{
    assert(join != NULL && pool != NULL);
    *join = (struct rdma_join){.pool = pool, .ref_above = ref_above};
}

void rdma_join_close(struct rdma_join *join)
{
    assert(join != NULL);
    msg_free(join->msg);
    join->msg = NULL;
    join->left = 0;
}

void rdma_join_feed(struct rdma_join *join, const uint8_t *bytes, uint32_t count)
{
    assert(join->left == 0);
    assert(bytes != NULL && count <= RDMA_RECEIVE_BYTES_MAX);
    join->at = bytes;
    join->left = count;
}

static void skip(struct rdma_join *join, uint32_t bytes)
{
    assert(bytes <= join->left);
    join->at += bytes;
    join->left -= bytes;
}

static int begin(struct rdma_join *join, uint64_t now_ns)
{
    struct wire_header header;
    assert(join->msg == NULL);
    assert(now_ns > 0);
    if (join->left < WIRE_HEADER_BYTES)
        return -EBADMSG;
    int rc = wire_decode(join->at, &header);
    if (rc < 0)
        return rc;
    if (header.body_len > WIRE_BODY_MAX || header.payload_len > WIRE_PAYLOAD_MAX)
        return -EMSGSIZE;
    struct buf *payload = NULL;
    if (header.payload_len > 0) {
        payload = buf_alloc(frame_pool_bufs(join->pool), header.payload_len);
        if (!payload)
            return -ENOBUFS;
    }
    struct msg *msg = frame_pool_msg(join->pool, header.body_len);
    if (!msg) {
        buf_unref(payload);
        return -ENOMEM;
    }
    msg->header = header;
    msg->payload = payload;
    msg->received_ns = now_ns;
    join->msg = msg;
    join->body_got = join->payload_got = 0;
    join->marked = false;
    skip(join, WIRE_HEADER_BYTES);
    return 0;
}

/* True when the part is whole. */
static bool fill(struct rdma_join *join, uint8_t *to, uint32_t *got, uint32_t want)
{
    assert(got != NULL);
    assert(*got <= want);
    uint32_t bytes = want - *got < join->left ? want - *got : join->left;
    if (bytes > 0) {
        assert(to != NULL);
        memcpy(to + *got, join->at, bytes);
        skip(join, bytes);
        *got += bytes;
    }
    return *got == want;
}

/* The body is whole: 1 with the reference in *ret_ref, 0 more bytes needed; or marked is set. */
static int take_reference(struct rdma_join *join, struct rdma_ref *ret_ref)
{
    assert(join->msg && !join->marked);
    assert(join->body_got == join->msg->header.body_len);
    if (join->left == 0)
        return 0; /* the reference begins the next SEND */
    if (join->left < RDMA_REF_BYTES)
        return -EBADMSG;
    struct rdma_ref ref;
    rdma_ref_decode(join->at, &ref);
    skip(join, RDMA_REF_BYTES);
    join->marked = ref.tag == RDMA_TAG_INLINE;
    if (!join->marked)
        *ret_ref = ref;
    return 1;
}

int rdma_join_next(struct rdma_join *join, uint64_t now_ns, struct msg **ret_msg, struct rdma_ref *ret_ref)
{
    assert(ret_msg != NULL && ret_ref != NULL);
    int rc = 0;
    if (!join->msg) {
        if (join->left == 0)
            return RDMA_JOIN_MORE;
        rc = begin(join, now_ns);
        if (rc < 0)
            return rc;
    }
    struct msg *msg = join->msg;
    const struct wire_header *header = &msg->header;
    bool ref = join->ref_above > 0 && header->payload_len > join->ref_above;
    if (!fill(join, msg->body, &join->body_got, header->body_len))
        return RDMA_JOIN_MORE;
    if (ref && !join->marked) {
        rc = take_reference(join, ret_ref);
        if (rc <= 0)
            return rc;
    }
    ref = ref && !join->marked;
    if (!ref && !fill(join, msg->payload ? msg->payload->data : NULL, &join->payload_got, header->payload_len))
        return RDMA_JOIN_MORE;
    if (crc32c(header->body_len ? msg->body : (const uint8_t *)"", header->body_len) != header->body_crc)
        return -EBADMSG;
    join->msg = NULL;
    *ret_msg = msg;
    assert((msg->payload != NULL) == (header->payload_len > 0));
    return ref ? RDMA_JOIN_REF : RDMA_JOIN_WHOLE;
}
