/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_poll: completions: how they wake the loop, and to whom they belong.
 *
 *   channel readable ──▶ take one event, acknowledge it ──▶ poll until empty ──▶ arm ──▶ poll until empty ──▶ sleep (trap 7)
 *   - and once more by the reap timer, after each arming: a device may put a completion into the queue and look whether
 *     it is armed without an order between the two (rxe of Linux 6.1 does: rxe_cq_post looks outside of the lock), so
 *     that both sides may miss each other. What is lost then is found 10 ms later at the latest, not with the next event;
 *   - a receive's SEND was marked solicited; the queue is armed for those alone, so a completed send wakes nobody: it is
 *     reaped with the next receive, or by a timer. While a READ is under way, or a connection cannot go on before a
 *     send completed, it is armed for every completion, and always on a device that does not keep SENDs apart;
 *   - with rdma_spin_us the loop looks again for so long before it arms, and goes on turning meanwhile;
 *   - of a failed completion only wr_id, status and vendor_err are read (trap 8): wr_id tells what it was.
 * Failure modes: a failed completion ends its connection; one of a connection that is gone gives its slot back.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "common/ring/ring_sqe.h"
#include "common/transport/rdma_internal.h"

#include <poll.h>

#define LOG_MODULE "rdma"
#define POLL_BATCH 32
#define POLL_ROUNDS_MAX 16u
#define REAP_NS ENV_MS(5)

static void spin(struct env_timer *timer);

/* ---- one completion */

static void completed_send(struct rdma_transport *transport, const struct ibv_wc *wc)
{
    struct rdma_conn *conn = map_u64_get(&transport->by_number, (wc->wr_id & ~RDMA_SEND_ID) >> 32);
    assert(wc->wr_id & RDMA_SEND_ID);
    if (!conn || conn->state == RDMA_CONN_DOOMED)
        return;
    assert(conn->transport == transport);
    if (wc->status != IBV_WC_SUCCESS) {
        transport->stats.links_failed++;
        log_warn("RDMA link failed peer=%s device=%s status=\"%s\" vendor_err=0x%x", conn->peer_text,
                 ibv_get_device_name(conn->device->verbs->device), ibv_wc_status_str(wc->status), wc->vendor_err);
        rdma_conn_fail(conn, rdma_error_of_status(wc->status));
        return;
    }
    rdma_tx_completed(conn, (uint32_t)wc->wr_id);
}

static void completed_receive(struct rdma_device *device, const struct ibv_wc *wc)
{
    rdma_device_assert(device);
    uint16_t slot = (uint16_t)wc->wr_id;
    assert(wc->wr_id < device->receive_slots);
    struct rdma_conn *conn = map_u64_get(&device->by_qp, wc->qp_num);
    if (!conn || conn->state == RDMA_CONN_DOOMED) {
        rdma_device_receive(device, slot);
        return;
    }
    if (wc->status != IBV_WC_SUCCESS) {
        rdma_device_receive(device, slot);
        device->transport->stats.links_failed++;
        log_warn("RDMA receive failed peer=%s status=\"%s\" vendor_err=0x%x", conn->peer_text,
                 ibv_wc_status_str(wc->status), wc->vendor_err);
        rdma_conn_fail(conn, rdma_error_of_status(wc->status));
        return;
    }
    assert(wc->byte_len <= RDMA_RECEIVE_BYTES);
    rdma_rx_received(conn, slot, wc->byte_len);
}

/* Everybody who received something is told once, after a batch. */
static void deliver(struct rdma_transport *transport)
{
    struct list_node *node;
    while ((node = list_pop_front(&transport->arrived)) != NULL) {
        struct rdma_conn *conn = list_entry(node, struct rdma_conn, arrived_node);
        assert(conn->transport == transport);
        if (conn->state == RDMA_CONN_OPEN && conn->link)
            stream_link_arrived(&conn->link->stream);
        if (conn->state != RDMA_CONN_DOOMED) {
            rdma_conn_dirty(conn); /* credits, done tags, READs */
            rdma_poll_wanted(conn);
        }
    }
}

/* True when the queue was seen empty. */
static bool drain(struct rdma_device *device)
{
    rdma_device_assert(device);
    struct rdma_transport *transport = device->transport;
    struct ibv_wc wcs[POLL_BATCH];
    assert(device->cq != NULL);
    for (unsigned round = 0; round < POLL_ROUNDS_MAX; round++) {
        int n = ibv_poll_cq(device->cq, POLL_BATCH, wcs);
        if (n <= 0)
            return true;
        assert(n <= POLL_BATCH);
        device->active_ns = env_now_ns(transport->env);
        transport->stats.completions += (uint64_t)n;
        for (int i = 0; i < n; i++) {
            if (wcs[i].wr_id & RDMA_SEND_ID)
                completed_send(transport, &wcs[i]);
            else
                completed_receive(device, &wcs[i]);
        }
        deliver(transport);
    }
    return false;
}

/* ---- waking and sleeping */

void rdma_poll_wanted(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    struct rdma_device *device = conn->device;
    bool all = conn->state != RDMA_CONN_DOOMED && (conn->reads_posted > 0 || conn->wants_completion);
    assert(device != NULL);
    if (all == conn->all_counted)
        return;
    conn->all_counted = all;
    assert(all || device->all_count > 0);
    device->all_count += all ? 1 : -1u;
}

static bool arm(struct rdma_device *device)
{
    rdma_device_assert(device);
    enum rdma_armed wanted = device->all_count > 0 || !device->solicited ? RDMA_ARMED_ALL : RDMA_ARMED_SOLICITED;
    assert(device->cq != NULL);
    if (device->armed >= wanted)
        return false;
    int rc = ibv_req_notify_cq(device->cq, wanted == RDMA_ARMED_SOLICITED);
    assert(rc >= 0);
    if (rc != 0 && !device->removed)
        log_warn("RDMA device %s does not notify error=\"%s\"", ibv_get_device_name(device->verbs->device),
                 strerror(rc));
    device->armed = wanted;
    device->doubtful = true;
    rdma_poll_reap_later(device->transport);
    return true;
}

/* A receive that is found here had an event, or lost it: so the queue is armed anew, whatever we believe. */
static void look_again(struct rdma_device *device)
{
    struct rdma_transport *transport = device->transport;
    uint64_t receives = transport->stats.receives;
    rdma_device_assert(device);
    if (device->doubtful) /* armed just now, perhaps: so a whole period lies before the last look */
        rdma_poll_reap_later(transport);
    device->doubtful = false;
    rdma_poll(device);
    if (transport->stats.receives != receives) {
        device->armed = RDMA_UNARMED;
        rdma_poll(device);
    }
}

/* Sends that completed without waking anybody; what came unseen while its queue was armed; done tags that found no frame
 * to go with. */
static void reap(struct env_timer *timer)
{
    struct rdma_transport *transport = list_entry(timer, struct rdma_transport, reap_timer);
    assert(!timer->armed);
    list_for_each(node, &transport->devices) look_again(list_entry(node, struct rdma_device, node));
    list_for_each(node, &transport->conns)
    {
        struct rdma_conn *conn = list_entry(node, struct rdma_conn, node);
        if (conn->done_count > 0 || conn->windows_done_count > 0) { /* nothing went that could have carried them */
            conn->dones_due = conn->done_count > 0;
            conn->windows_due = conn->windows_done_count > 0;
            rdma_conn_dirty(conn);
        }
        if (conn->wants_completion && (!conn->reads || conn->windows_free_count > 0)) { /* another one had the slots */
            conn->wants_completion = false;
            rdma_conn_dirty(conn);
            rdma_poll_wanted(conn);
        }
        if (conn->posted_count > conn->unsignalled || conn->done_count > 0)
            rdma_poll_reap_later(transport);
    }
}

void rdma_poll_reap_later(struct rdma_transport *transport)
{
    assert(transport->env != NULL);
    if (!transport->reap_timer.armed)
        env_timer_start(transport->env, &transport->reap_timer, REAP_NS, reap);
}

void rdma_poll(struct rdma_device *device)
{
    rdma_device_assert(device);
    struct rdma_transport *transport = device->transport;
    bool empty = drain(device);
    uint64_t spin_ns = (uint64_t)transport->config.spin_us * 1000u;
    assert(transport->env != NULL);
    if (device->channel_cancelled) /* nothing may be left that calls for it once it is freed */
        return;
    if (!empty || (spin_ns > 0 && env_now_ns(transport->env) - device->active_ns < spin_ns)) {
        env_timer_start(transport->env, &device->spin_timer, 0, spin);
    } else {
        while (empty && arm(device)) /* what came before the arming raises no event */
            empty = drain(device);
        if (!empty && !device->channel_cancelled)
            env_timer_start(transport->env, &device->spin_timer, 0, spin);
    }
}

static void spin(struct env_timer *timer)
{
    struct rdma_device *device = list_entry(timer, struct rdma_device, spin_timer);
    assert(device->transport != NULL);
    rdma_poll(device);
}

static void channel_prepare(struct ring_op *op, struct io_uring_sqe *sqe)
{
    struct rdma_device *device = list_entry(op, struct rdma_device, channel_op);
    assert(device->channel_polled);
    io_uring_prep_poll_add(sqe, device->channel->fd, POLLIN);
}

static void channel_ready(struct ring_op *op, int32_t res, uint32_t cqe_flags)
{
    struct rdma_device *device = list_entry(op, struct rdma_device, channel_op);
    struct ibv_cq *cq = NULL;
    void *context = NULL;
    (void)cqe_flags;
    assert(device->channel_polled);
    device->channel_polled = false;
    if (device->channel_cancelled) {
        if (device->removed)
            rdma_device_free(device);
        return;
    }
    if (res > 0) {
        device->armed = RDMA_UNARMED; /* also if somebody else took the event: once too often does no harm */
        if (ibv_get_cq_event(device->channel, &cq, &context) == 0) {
            assert(cq == device->cq);
            ibv_ack_cq_events(cq, 1); /* or ibv_destroy_cq hangs (trap 7) */
            device->transport->stats.wakeups++;
        }
    }
    rdma_poll_watch(device);
    rdma_poll(device);
}

void rdma_poll_watch(struct rdma_device *device)
{
    rdma_device_assert(device);
    assert(!device->channel_polled);
    assert(device->channel != NULL);
    device->channel_polled = true;
    ring_submit(device->transport->loop, RING_SEND, &device->channel_op, channel_prepare, channel_ready);
}
