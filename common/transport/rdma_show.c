/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_show: what a connection waits for, in one line, for who looks for the reason of a stall.
 *
 *   - posted: of the send queue; reads: fetches under way, posted/asked for; credits: ours, owed and granted ones;
 *     windows: free, fetched by the peer but still held, on offer; held: filled slots that nobody parsed;
 *   - the device's line tells whether its queue is armed, and what is left of its slots.
 * Failure modes: none; a line is cut off where it is too long.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/transport/rdma_internal.h"

#define LOG_MODULE "rdma"

static const char *state_name(const struct rdma_conn *conn)
{
    static const char *const names[] = {"new", "address", "route", "connecting", "open", "doomed"};
    assert(conn->owner == RDMA_OWNER_CONN);
    assert((size_t)conn->state < sizeof(names) / sizeof(names[0]));
    return names[conn->state];
}

static unsigned count_held(const struct rdma_conn *conn)
{
    unsigned count = conn->current != RDMA_NO_SLOT;
    assert(conn->device != NULL);
    for (uint16_t slot = conn->held_first; slot != RDMA_NO_SLOT; slot = conn->device->receive_next[slot])
        count++;
    assert(count <= conn->device->receive_slots);
    return count;
}

static unsigned count_offered(const struct rdma_conn *conn)
{
    unsigned count = 0;
    rdma_conn_assert(conn);
    for (uint32_t i = 0; i < RDMA_WINDOWS; i++)
        count += conn->windows[i].state == RDMA_WINDOW_OFFERED;
    return count;
}

void rdma_show_conn(const struct rdma_conn *conn)
{
    const struct rdma_device *device = conn->device;
    rdma_conn_assert(conn);
    if (!device) {
        log_info("RDMA link peer=%s state=%s", conn->peer_text, state_name(conn));
        return;
    }
    log_info("RDMA link peer=%s state=%s queued_bytes=%zu posted=%u unsignalled=%u wants_completion=%d "
             "credits=%u/%u owed=%u granted=%u/%u reads=%u/%u dones=%u windows=%u+%u+%u queue=%u held=%u joining=%d",
             conn->peer_text, state_name(conn), conn->link ? conn->link->stream.tx.queued_bytes : 0, conn->posted_count,
             conn->unsignalled, conn->wants_completion, conn->credit.available, conn->credit.total, conn->credit.owed,
             conn->credit.granted, conn->credit.own, conn->reads_posted, conn->reads_count, conn->done_count,
             conn->windows_free_count, conn->windows_done_count, count_offered(conn), conn->queue_count,
             count_held(conn), conn->join.msg != NULL);
    log_info("RDMA device %s armed=%d all=%u doubtful=%d polled=%d reaping=%d links=%u slots_to_send=%u/%u",
             ibv_get_device_name(device->verbs->device), (int)device->armed, device->all_count, device->doubtful,
             device->channel_polled, conn->transport->reap_timer.armed, device->conn_count, device->send_free_count,
             device->send_slots);
}

void transport_rdma_show(const struct transport *base)
{
    const struct stream_transport *stream = (const struct stream_transport *)(const void *)base; /* its first field */
    const struct rdma_transport *transport = stream->loop;
    assert(transport->stream == stream);
    list_for_each(node, &transport->conns) rdma_show_conn(list_entry(node, struct rdma_conn, node));
    assert(transport->env != NULL);
}
