/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_rx: what a connection receives: SENDs to messages, READs to payloads, in the order of the stream.
 *
 *   receive slot ──▶ held (while the link is paused or starved) ──▶ joined to messages ──▶ delivered
 *   - a slot is posted again as soon as its bytes were copied out; only then its credit is owed to the peer (trap 4);
 *   - a message whose payload is fetched waits in a queue, and what was parsed behind it waits, too: READs complete in
 *     the order in which they were posted;
 *   - when a READ completed its tag is owed to the peer, which then takes the payload off offer.
 * Failure modes: a SEND that is not ours, a tag or credit that does not exist, more SENDs than credits: the link ends.
 *   A link that reads nothing holds its slots and gives no credit: back-pressure, bounded by its credits.
 */
#include <assert.h>
#include <errno.h>

#include "common/transport/rdma_internal.h"

static void slot_release(struct rdma_conn *conn, uint16_t slot)
{
    rdma_conn_assert(conn);
    assert(slot != RDMA_NO_SLOT);
    rdma_device_receive(conn->device, slot);
    rdma_credit_freed(&conn->credit);
}

/* The peer fetched a payload: it goes off offer. */
static int window_done(struct rdma_conn *conn, uint32_t tag)
{
    rdma_conn_assert(conn);
    uint32_t index = tag & 0xff;
    if (index >= RDMA_WINDOWS || conn->windows[index].state != RDMA_WINDOW_OFFERED || conn->windows[index].tag != tag)
        return -EBADMSG;
    assert(conn->windows[index].payload != NULL);
    conn->windows[index].state = RDMA_WINDOW_DONE;
    conn->windows_done_count++;
    rdma_poll_reap_later(conn->transport);
    return 0;
}

static int take_head(struct rdma_conn *conn, const uint8_t *bytes, uint32_t count, struct rdma_head *ret_head)
{
    rdma_conn_assert(conn);
    int rc = rdma_credit_received(&conn->credit);
    assert(count <= RDMA_RECEIVE_BYTES);
    if (rc == 0)
        rc = rdma_head_decode(bytes, count, ret_head);
    if (rc == 0)
        rc = rdma_credit_given(&conn->credit, ret_head->credits);
    for (uint32_t i = 0; rc == 0 && i < ret_head->done_count; i++)
        rc = window_done(conn, rdma_tag_decode(bytes + RDMA_HEAD_BYTES + i * RDMA_DONE_BYTES));
    return rc;
}

void rdma_rx_received(struct rdma_conn *conn, uint16_t slot, uint32_t bytes)
{
    rdma_conn_assert(conn);
    struct rdma_device *device = conn->device;
    struct rdma_head head = {.credits = 0};
    assert(conn->state != RDMA_CONN_DOOMED);
    conn->transport->stats.receives++;
    int rc = take_head(conn, rdma_device_slot(device, slot), bytes, &head);
    if (rc < 0) {
        rdma_device_receive(device, slot);
        rdma_conn_fail(conn, rc);
        return;
    }
    if (!list_linked(&conn->arrived_node))
        list_push_back(&conn->transport->arrived, &conn->arrived_node);
    if (head.stream_bytes == 0) {
        slot_release(conn, slot);
        return;
    }
    device->receive_bytes[slot] = (uint16_t)bytes;
    device->receive_next[slot] = RDMA_NO_SLOT;
    if (conn->held_last == RDMA_NO_SLOT)
        conn->held_first = slot;
    else
        device->receive_next[conn->held_last] = slot;
    conn->held_last = slot;
}

/* ---- parsing */

/* The next held slot becomes the one that is parsed; false: there is none. */
static bool next_slot(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    struct rdma_device *device = conn->device;
    struct rdma_head head;
    if (conn->current != RDMA_NO_SLOT)
        slot_release(conn, conn->current);
    conn->current = conn->held_first;
    if (conn->current == RDMA_NO_SLOT)
        return false;
    conn->held_first = device->receive_next[conn->current];
    if (conn->held_first == RDMA_NO_SLOT)
        conn->held_last = RDMA_NO_SLOT;
    const uint8_t *bytes = rdma_device_slot(device, conn->current);
    int rc = rdma_head_decode(bytes, device->receive_bytes[conn->current], &head);
    assert(rc == 0); /* it was, when it came, and nobody else writes there */
    conn->transport->stats.rx_copied_bytes += head.stream_bytes;
    rdma_join_feed(&conn->join, bytes + RDMA_HEAD_BYTES + head.done_count * RDMA_DONE_BYTES, head.stream_bytes);
    return true;
}

static void queue_push(struct rdma_conn *conn, struct msg *msg)
{
    rdma_conn_assert(conn);
    assert(conn->queue_count < RDMA_QUEUE_MAX);
    msg->next = NULL;
    if (conn->queue_last)
        conn->queue_last->next = msg;
    else
        conn->queue_first = msg;
    conn->queue_last = msg;
    conn->queue_count++;
}

static struct msg *queue_pop(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    struct msg *msg = conn->queue_first;
    assert(msg && conn->queue_count > 0);
    conn->queue_first = msg->next;
    if (!conn->queue_first)
        conn->queue_last = NULL;
    conn->queue_count--;
    msg->next = NULL;
    return msg;
}

static bool queue_ready(const struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    assert((conn->queue_first == NULL) == (conn->queue_count == 0));
    if (!conn->queue_first)
        return false;
    return conn->reads_count == 0 || conn->reads_ring[conn->reads_first % RDMA_WINDOWS_MAX].msg != conn->queue_first;
}

static int read_start(struct rdma_conn *conn, struct msg *msg, const struct rdma_ref *ref)
{
    rdma_conn_assert(conn);
    assert(msg->payload != NULL);
    queue_push(conn, msg);
    if (conn->reads_count + conn->done_count >= conn->peer.windows)
        return -EBADMSG; /* it said that it never offers so many */
    conn->reads_ring[(conn->reads_first + conn->reads_count) % RDMA_WINDOWS_MAX] =
        (struct rdma_read){.msg = msg, .ref = *ref};
    conn->reads_count++;
    rdma_conn_dirty(conn);
    return 0;
}

/* stream_io's next: 1 and a message, 0, or -errno. */
int rdma_rx_next(struct rdma_conn *conn, uint64_t now_ns, struct msg **ret_msg)
{
    rdma_conn_assert(conn);
    assert(ret_msg != NULL);
    for (;;) {
        struct msg *msg = NULL;
        struct rdma_ref ref;
        if (queue_ready(conn)) {
            *ret_msg = queue_pop(conn);
            return 1;
        }
        if (conn->queue_count >= RDMA_QUEUE_MAX)
            return 0; /* behind a READ */
        int rc = rdma_join_next(&conn->join, now_ns, &msg, &ref);
        if (rc == RDMA_JOIN_MORE) {
            if (!next_slot(conn))
                return 0;
        } else if (rc == -ENOBUFS && conn->queue_count > 0) {
            return 0; /* what waits here holds buffers: a READ's end goes on, not the pool */
        } else if (rc < 0) {
            return rc;
        } else if (rc == RDMA_JOIN_REF) {
            rc = read_start(conn, msg, &ref);
            if (rc < 0)
                return rc;
        } else {
            queue_push(conn, msg);
        }
    }
}

void rdma_rx_read_done(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    struct rdma_read *read = &conn->reads_ring[conn->reads_first % RDMA_WINDOWS_MAX];
    assert(conn->reads_posted > 0 && conn->reads_count >= conn->reads_posted);
    assert(conn->done_count < RDMA_WINDOWS_MAX);
    conn->dones[conn->done_count++] = read->ref.tag;
    rdma_poll_reap_later(conn->transport);
    read->msg = NULL;
    conn->reads_first++;
    conn->reads_count--;
    conn->reads_posted--;
    if (!list_linked(&conn->arrived_node))
        list_push_back(&conn->transport->arrived, &conn->arrived_node);
}

void rdma_rx_drop(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    struct rdma_device *device = conn->device;
    assert(!conn->has_qp);
    while (conn->queue_first)
        msg_free(queue_pop(conn));
    conn->reads_count = conn->reads_posted = 0;
    rdma_join_close(&conn->join);
    if (conn->current != RDMA_NO_SLOT)
        rdma_device_receive(device, conn->current);
    while (conn->held_first != RDMA_NO_SLOT) {
        uint16_t slot = conn->held_first;
        conn->held_first = device->receive_next[slot];
        rdma_device_receive(device, slot);
    }
    conn->current = conn->held_last = RDMA_NO_SLOT;
}
