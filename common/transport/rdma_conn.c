/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_conn: a connection's life: queue pair, windows, greeting, and the end of all of them.
 *
 *   connect ──▶ ADDRESS ──▶ ROUTE ──▶ CONNECTING ──▶ OPEN
 *   request ─────────────────────────▶ CONNECTING ──▶ OPEN   (rdma_events.c makes these arrows)
 *        any ──rdma_conn_doom──▶ DOOMED ──rdma_conn_destroy (work task)──▶ freed, stream_link_gone
 *
 * The end, in this order (trap 1): the queue pair goes to the error state (rdma_disconnect), windows are deallocated: no
 * remote access is possible any more; the queue pair is destroyed: no local one is; only then buffers are let go.
 * Failure modes: limits and memory end the connection before it is one, with one line.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/transport/rdma_internal.h"

#define LOG_MODULE "rdma"
/* 4.096 us * 2^14 = 67 ms until a packet that nobody acknowledged is sent again; with the retries below a dead peer is
 * noticed within about half a second (trap 9: the default means seconds). */
#define ACK_TIMEOUT 14
#define RETRY_COUNT 6
/* rxe of Linux 6.1 must not send again what is only late. It begins with the oldest request that is not complete, and does
 * the binds among those once more: they fail, and the queue pair is in error, or stands still for good (rxe_req.c,
 * rxe_do_local_ops). And it does so beside the part that takes acknowledgements, without a lock. It is as slow as its host.
 * So 4.3 s: more than heartbeats allow; a packet that is really lost is asked for when the next one comes. */
#define ACK_TIMEOUT_RXE 20
/* Receives are credited, so "receiver not ready" is a bug of the peer: not 7, which retries for ever (trap 5). */
#define RNR_RETRY_COUNT 3

/* A device that cannot set it (iWARP) has TCP's own time-outs. */
static void set_ack_timeout(struct rdma_cm_id *id, uint8_t ack_timeout)
{
    assert(id != NULL && ack_timeout > 0);
    (void)rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &ack_timeout, sizeof(ack_timeout));
}

struct rdma_conn *rdma_conn_create(struct rdma_transport *transport, struct rdma_cm_id *id)
{
    struct rdma_conn *conn = calloc(1, sizeof(*conn));
    if (!conn)
        return NULL;
    assert(id != NULL);
    conn->owner = RDMA_OWNER_CONN;
    conn->transport = transport;
    conn->id = id;
    conn->number = ++transport->next_number & 0x7fffffff;
    conn->held_first = conn->held_last = conn->current = RDMA_NO_SLOT;
    if (map_u64_put(&transport->by_number, conn->number, conn) < 0) {
        free(conn);
        return NULL;
    }
    id->context = conn;
    list_push_back(&transport->conns, &conn->node);
    transport->conn_count++;
    return conn;
}

/* ---- greeting */

void rdma_conn_greet(const struct rdma_conn *conn, uint8_t out[RDMA_GREETING_BYTES])
{
    rdma_conn_assert(conn);
    const struct rdma_transport *transport = conn->transport;
    assert(conn->device != NULL);
    struct rdma_greeting greeting = {
        .version = RDMA_WIRE_VERSION,
        .flags = conn->device->windows ? RDMA_GREETING_READS : 0,
        .node = transport->node,
        .incarnation = transport->incarnation,
        .receive_bytes = RDMA_RECEIVE_BYTES,
        .credits = (uint16_t)transport->config.credits,
        .windows = conn->device->windows ? RDMA_WINDOWS : 0,
    };
    rdma_greeting_encode(&greeting, out);
}

int rdma_conn_learn(struct rdma_conn *conn, const void *data, size_t bytes)
{
    rdma_conn_assert(conn);
    assert(conn->state == RDMA_CONN_CONNECTING || conn->state == 0);
    int rc = rdma_greeting_decode(data, bytes, &conn->peer);
    if (rc < 0)
        return rc;
    rdma_credit_init(&conn->credit, conn->transport->config.credits, conn->peer.credits);
    return 0;
}

/* Both greetings are known: do payloads go by reference? */
static void settle_reads(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    assert(conn->device && conn->peer.version == RDMA_WIRE_VERSION);
    conn->reads = conn->device->windows && (conn->peer.flags & RDMA_GREETING_READS) != 0 && conn->peer.windows > 0;
    rdma_join_init(&conn->join, conn->transport->stream->frames, conn->reads ? RDMA_SEND_PAYLOAD_MAX : 0);
}

void rdma_conn_params(const struct rdma_conn *conn, const uint8_t *greeting, struct rdma_conn_param *ret_params)
{
    rdma_conn_assert(conn);
    uint8_t depth = (uint8_t)conn->device->read_depth;
    assert(greeting != NULL);
    /* Too low would serialise READs (trap 2). The passive side may not ask for more than the active one offered. */
    *ret_params = (struct rdma_conn_param){.private_data = greeting,
                                           .private_data_len = RDMA_GREETING_BYTES,
                                           .responder_resources = depth,
                                           .initiator_depth = depth,
                                           .retry_count = RETRY_COUNT,
                                           .rnr_retry_count = RNR_RETRY_COUNT};
    if (conn->responder_resources < depth && conn->listener)
        ret_params->responder_resources = conn->responder_resources;
    if (conn->initiator_depth < depth && conn->listener)
        ret_params->initiator_depth = conn->initiator_depth;
}

/* ---- device and queue pair */

static int make_windows(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    struct rdma_device *device = conn->device;
    assert(conn->windows_free_count == 0);
    for (uint32_t i = 0; device->windows && i < RDMA_WINDOWS; i++) {
        conn->windows[i].mw = ibv_alloc_mw(device->pd, IBV_MW_TYPE_2);
        if (!conn->windows[i].mw)
            return errno > 0 ? -errno : -EIO;
        conn->windows_free[conn->windows_free_count++] = (uint16_t)i;
    }
    return 0;
}

static int create_queue_pair(struct rdma_conn *conn, uint32_t inline_bytes)
{
    struct rdma_device *device = conn->device;
    rdma_conn_assert(conn);
    /* Made anew for each try: the library writes into it, also when it fails (a peer that gave up meanwhile). */
    struct ibv_qp_init_attr attr = {
        .send_cq = device->cq,
        .recv_cq = device->cq,
        .srq = device->srq,
        .qp_type = IBV_QPT_RC,
        .cap = {.max_send_wr = RDMA_SQ_DEPTH, .max_send_sge = device->pieces_max + 1, .max_inline_data = inline_bytes}};
    assert(!conn->has_qp);
    if (rdma_create_qp(conn->id, device->pd, &attr) == 0)
        return 0;
    return errno > 0 ? -errno : -EIO;
}

static int make_queue_pair(struct rdma_conn *conn)
{
    struct rdma_device *device = conn->device;
    rdma_conn_assert(conn);
    int rc = create_queue_pair(conn, device->inline_bytes);
    if (rc < 0 && device->inline_bytes > 0) { /* a device may refuse instead of giving what it can */
        rc = create_queue_pair(conn, 0);
        if (rc == 0)
            device->inline_bytes = 0;
    }
    if (rc < 0)
        return rc;
    conn->has_qp = true;
    assert(conn->id->qp != NULL);
    return map_u64_put(&device->by_qp, conn->id->qp->qp_num, conn);
}

int rdma_conn_prepare(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    struct rdma_transport *transport = conn->transport;
    struct rdma_device *device;
    assert(!conn->device);
    if (!conn->id->verbs)
        return -ENODEV;
    int rc = rdma_device_get(transport, conn->id->verbs, &device);
    if (rc < 0)
        return rc;
    if (device->credits_left < transport->config.credits) {
        log_error("RDMA device %s: no receive buffers for another link (%u have them); raise transport.rdma_links",
                  ibv_get_device_name(device->verbs->device), device->conn_count);
        return -ENOBUFS;
    }
    device->credits_left -= transport->config.credits;
    device->conn_count++;
    conn->device = device;
    set_ack_timeout(conn->id, device->rxe ? ACK_TIMEOUT_RXE : ACK_TIMEOUT);
    rc = make_queue_pair(conn);
    if (rc == 0)
        rc = make_windows(conn);
    if (rc < 0)
        log_error("RDMA device %s: no queue pair or windows for a link error=\"%s\"; is RLIMIT_MEMLOCK unlimited?",
                  ibv_get_device_name(device->verbs->device), strerror(-rc));
    return rc;
}

/* ---- opening and ending */

void rdma_conn_established(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    assert(conn->state == RDMA_CONN_CONNECTING);
    settle_reads(conn);
    conn->state = RDMA_CONN_OPEN;
    log_debug("RDMA link peer=%s device=%s node=%u incarnation=%llu reads=%s", conn->peer_text,
              ibv_get_device_name(conn->device->verbs->device), conn->peer.node,
              (unsigned long long)conn->peer.incarnation, conn->reads ? "yes" : "no");
    if (!conn->link) { /* passive side */
        struct rdma_listener *listener = conn->listener;
        struct rdma_transport *transport = conn->transport;
        conn->listener = NULL;
        transport->offered = conn;
        int rc = stream_listener_offer(&listener->stream, /* fd= */ -1, conn->peer_text);
        transport->offered = NULL;
        if (rc < 0) {
            log_warn("accepted RDMA connection dropped peer=%s error=%d", conn->peer_text, rc);
            rdma_conn_doom(conn);
        }
    } else if (conn->link->stream.state == STREAM_CONNECTING) {
        stream_link_connected(&conn->link->stream, 0);
    }
    if (conn->state == RDMA_CONN_OPEN && conn->link) {
        stream_link_arrived(&conn->link->stream); /* a SEND may have come before the event */
        rdma_conn_dirty(conn);
    }
}

static void work_soon(struct rdma_transport *transport);

void rdma_conn_doom(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    if (conn->state == RDMA_CONN_DOOMED)
        return;
    assert(!list_linked(&conn->doomed_node));
    conn->state = RDMA_CONN_DOOMED;
    list_push_back(&conn->transport->doomed, &conn->doomed_node);
    work_soon(conn->transport);
}

void rdma_conn_fail(struct rdma_conn *conn, int reason)
{
    rdma_conn_assert(conn);
    assert(reason < 0);
    struct stream_link *stream = conn->link ? &conn->link->stream : NULL;
    if (stream && stream->state == STREAM_CONNECTING)
        stream_link_connected(stream, reason);
    else if (stream && stream->state == STREAM_OPEN)
        stream_link_received(stream, reason);
    rdma_conn_doom(conn); /* the link's end did it already, if there is one */
}

static void destroy_windows(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    assert(conn->state == RDMA_CONN_DOOMED);
    for (uint32_t i = 0; i < RDMA_WINDOWS; i++) {
        if (conn->windows[i].mw)
            (void)ibv_dealloc_mw(conn->windows[i].mw);
        conn->windows[i].mw = NULL;
    }
}

static void leave_device(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    struct rdma_device *device = conn->device;
    struct rdma_transport *transport = conn->transport;
    rdma_poll_wanted(conn);
    rdma_tx_drop(conn);
    rdma_rx_drop(conn);
    rdma_poll(device); /* completions that the queue pair left behind: their slots are posted again */
    assert(device->conn_count > 0);
    device->conn_count--;
    device->credits_left += transport->config.credits;
    conn->device = NULL;
    if (device->removed && device->conn_count == 0)
        rdma_device_stop(device);
}

void rdma_conn_destroy(struct rdma_conn *conn)
{
    struct rdma_transport *transport = conn->transport;
    struct rdma_device *device = conn->device;
    assert(conn->state == RDMA_CONN_DOOMED && !list_linked(&conn->doomed_node));
    if (conn->has_qp) {
        (void)rdma_disconnect(conn->id); /* fails where there is no connection yet, or the peer was first */
        destroy_windows(conn);
        /* A provider drops what completed of a destroyed queue pair and was not polled: receive slots would be lost. */
        rdma_poll(conn->device);
        (void)map_u64_remove(&conn->device->by_qp, conn->id->qp->qp_num);
        rdma_destroy_qp(conn->id);
        conn->has_qp = false;
    }
    if (conn->device)
        leave_device(conn);
    if (!device || !rdma_device_anchor(device, conn->id))
        (void)rdma_destroy_id(conn->id);
    (void)map_u64_remove(&transport->by_number, conn->number);
    if (list_linked(&conn->dirty_node))
        list_remove(&conn->dirty_node);
    if (list_linked(&conn->arrived_node))
        list_remove(&conn->arrived_node);
    list_remove(&conn->node);
    assert(transport->conn_count > 0);
    transport->conn_count--;
    if (conn->link) {
        conn->link->conn = NULL;
        stream_link_gone(&conn->link->stream);
    }
    free(conn);
}

/* ---- the work of a turn */

/* Once a turn, after the tasks that were queued when it was asked for: they may have more to send. */
static void work(struct env_task *task)
{
    struct rdma_transport *transport = list_entry(task, struct rdma_transport, work_task);
    struct list_node *node;
    if (!transport->work_passed) {
        transport->work_passed = true;
        env_defer(transport->env, task, work);
        return;
    }
    transport->work_passed = false;
    while ((node = list_pop_front(&transport->dirty)) != NULL) {
        struct rdma_conn *conn = list_entry(node, struct rdma_conn, dirty_node);
        assert(conn->transport == transport);
        if (conn->state == RDMA_CONN_OPEN)
            rdma_tx_flush(conn);
    }
    while ((node = list_pop_front(&transport->doomed)) != NULL)
        rdma_conn_destroy(list_entry(node, struct rdma_conn, doomed_node));
    list_for_each(at, &transport->devices)
    {
        struct rdma_device *device = list_entry(at, struct rdma_device, node);
        if (device->all_count > 0 && device->armed == RDMA_ARMED_SOLICITED)
            rdma_poll(device); /* arms it for READs and sends, too */
    }
}

static void work_soon(struct rdma_transport *transport)
{
    assert(transport->env != NULL);
    env_defer(transport->env, &transport->work_task, work);
}

void rdma_conn_dirty(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    if (conn->state != RDMA_CONN_OPEN)
        return;
    if (!list_linked(&conn->dirty_node))
        list_push_back(&conn->transport->dirty, &conn->dirty_node);
    assert(list_linked(&conn->dirty_node));
    work_soon(conn->transport);
}
