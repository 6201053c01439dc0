/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_events: the rdma_cm event channel, polled through the ring, and what each event means.
 *
 *   active:  ADDR_RESOLVED ──▶ device, queue pair, rdma_resolve_route ──▶ ROUTE_RESOLVED ──▶ rdma_connect (greeting)
 *            ──▶ ESTABLISHED (the peer's greeting)
 *   passive: CONNECT_REQUEST (greeting) ──▶ device, queue pair, rdma_accept (greeting) ──▶ ESTABLISHED ──▶ link offered
 *   every event is acknowledged before it is acted upon: rdma_destroy_id waits for that.
 * Failure modes: a greeting that is not ours, or no room, is rejected with our -errno as private data; DISCONNECTED,
 *   DEVICE_REMOVAL and all errors end the connection; a listener whose device went away listens again when it is back.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/ring/ring_sqe.h"
#include "common/transport/rdma_internal.h"

#include <poll.h>

#define LOG_MODULE "rdma"
#define ROUTE_TIMEOUT_MS 1000
#define BACKLOG 64
#define LISTEN_AGAIN_NS ENV_MS(1000)
#define EVENTS_PER_TURN_MAX 64
#define REJECT_BYTES 8u

/* What outlives the acknowledgement of an event. */
struct happened {
    enum rdma_cm_event_type type;
    int status;
    uint8_t data[256];
    size_t data_bytes;
    uint8_t responder_resources, initiator_depth;
};

/* ---- active side */

static int address_resolved(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    assert(conn->state == RDMA_CONN_ADDRESS);
    int rc = rdma_conn_prepare(conn);
    if (rc < 0)
        return rc;
    conn->state = RDMA_CONN_ROUTE;
    return rdma_resolve_route(conn->id, ROUTE_TIMEOUT_MS) == 0 ? 0 : -errno;
}

static int route_resolved(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    uint8_t greeting[RDMA_GREETING_BYTES];
    struct rdma_conn_param params;
    assert(conn->state == RDMA_CONN_ROUTE);
    rdma_conn_greet(conn, greeting);
    rdma_conn_params(conn, greeting, &params);
    conn->state = RDMA_CONN_CONNECTING;
    return rdma_connect(conn->id, &params) == 0 ? 0 : -errno;
}

static int rejected(const struct happened *happened)
{
    uint32_t error = 0;
    assert(happened->type == RDMA_CM_EVENT_REJECTED);
    if (happened->data_bytes >= REJECT_BYTES && memcmp(happened->data, "ARMR", 4) == 0)
        error = rdma_tag_decode(happened->data + 4);
    if (error == EPROTONOSUPPORT)
        return -EPROTONOSUPPORT;
    return error ? -ECONNREFUSED : rdma_error_of_event(happened->type, happened->status);
}

static void conn_happened(struct rdma_conn *conn, const struct happened *happened)
{
    rdma_conn_assert(conn);
    int rc = 0;
    assert(conn->owner == RDMA_OWNER_CONN);
    if (conn->state == RDMA_CONN_DOOMED)
        return;
    switch (happened->type) {
    case RDMA_CM_EVENT_ADDR_RESOLVED: rc = address_resolved(conn); break;
    case RDMA_CM_EVENT_ROUTE_RESOLVED: rc = route_resolved(conn); break;
    case RDMA_CM_EVENT_ESTABLISHED:
        if (!conn->listener)
            rc = rdma_conn_learn(conn, happened->data, happened->data_bytes);
        if (rc == 0)
            rdma_conn_established(conn);
        break;
    case RDMA_CM_EVENT_REJECTED: rc = rejected(happened); break;
    case RDMA_CM_EVENT_DEVICE_REMOVAL:
        if (conn->device)
            (void)rdma_device_lost(conn->transport, conn->device->verbs);
        log_warn("RDMA device removed peer=%s: its links end", conn->peer_text);
        rc = -ENODEV;
        break;
    case RDMA_CM_EVENT_DISCONNECTED:
        if (conn->state == RDMA_CONN_OPEN)
            rdma_poll(conn->device); /* what arrived before is delivered before */
        rc = conn->state == RDMA_CONN_DOOMED ? 0 : -EPIPE;
        break;
    case RDMA_CM_EVENT_TIMEWAIT_EXIT: break;
    default: /* ADDR_ERROR, ROUTE_ERROR, CONNECT_ERROR, UNREACHABLE, ADDR_CHANGE */
        rc = rdma_error_of_event(happened->type, happened->status);
        break;
    }
    if (rc < 0)
        rdma_conn_fail(conn, rc);
}

/* ---- passive side */

static void reject(struct rdma_cm_id *id, int rc)
{
    uint8_t data[REJECT_BYTES] = "ARMR";
    assert(rc < 0);
    rdma_tag_encode((uint32_t)-rc, data + 4);
    (void)rdma_reject(id, data, sizeof(data));
}

static int accept_request(struct rdma_conn *conn, const struct happened *happened)
{
    rdma_conn_assert(conn);
    uint8_t greeting[RDMA_GREETING_BYTES];
    struct rdma_conn_param params;
    struct socket_address peer = {.bytes = sizeof(peer.storage)};
    memcpy(&peer.storage, rdma_get_peer_addr(conn->id), sizeof(struct sockaddr_in6));
    socket_address_format(&peer, conn->peer_text);
    assert(conn->listener != NULL);
    int rc = rdma_conn_learn(conn, happened->data, happened->data_bytes);
    if (rc < 0) {
        log_warn("RDMA connection refused peer=%s: its greeting is not ours error=\"%s\"", conn->peer_text,
                 strerror(-rc));
        return rc;
    }
    rc = rdma_conn_prepare(conn);
    if (rc < 0)
        return rc;
    rdma_conn_greet(conn, greeting);
    rdma_conn_params(conn, greeting, &params);
    conn->state = RDMA_CONN_CONNECTING;
    return rdma_accept(conn->id, &params) == 0 ? 0 : -errno;
}

static void requested(struct rdma_listener *listener, struct rdma_cm_id *id, const struct happened *happened)
{
    struct rdma_transport *transport = listener->stream.transport->loop;
    struct rdma_conn *conn = transport->closing ? NULL : rdma_conn_create(transport, id);
    if (!conn) {
        reject(id, -ENOMEM);
        (void)rdma_destroy_id(id);
        return;
    }
    assert(!listener->stream.closing);
    conn->listener = listener;
    conn->responder_resources = happened->responder_resources;
    conn->initiator_depth = happened->initiator_depth;
    int rc = accept_request(conn, happened);
    if (rc < 0) {
        reject(id, rc);
        rdma_conn_doom(conn);
    }
}

/* ---- listeners */

int rdma_events_listen(struct rdma_listener *listener)
{
    struct rdma_transport *transport = listener->stream.transport->loop;
    struct rdma_cm_id *id = NULL;
    assert(!listener->listening.id);
    if (rdma_create_id(transport->events, &id, &listener->listening, RDMA_PS_TCP) != 0)
        return -errno;
    if (rdma_bind_addr(id, (struct sockaddr *)&listener->bound) != 0 || rdma_listen(id, BACKLOG) != 0) {
        int rc = -errno;
        (void)rdma_destroy_id(id);
        assert(rc < 0);
        return rc;
    }
    listener->listening.id = id;
    return 0;
}

static void listen_again(struct env_timer *timer)
{
    struct stream_listener *stream = list_entry(timer, struct stream_listener, retry_timer);
    struct rdma_listener *listener = (struct rdma_listener *)(void *)stream;
    assert(!stream->closing);
    if (rdma_events_listen(listener) < 0)
        env_timer_start(stream->transport->env, timer, LISTEN_AGAIN_NS, listen_again);
    else
        log_info("RDMA device is back: listening again address=%s", stream->text);
}

static void listener_lost(struct rdma_listener *listener)
{
    struct stream_listener *stream = &listener->stream;
    struct rdma_cm_id *id = listener->listening.id;
    struct rdma_transport *transport = stream->transport->loop;
    assert(id != NULL);
    /* The device may have no connection that would hear of it. */
    struct rdma_device *device = id->verbs ? rdma_device_lost(transport, id->verbs) : NULL;
    if (!device || !rdma_device_anchor(device, id))
        (void)rdma_destroy_id(id);
    listener->listening.id = NULL;
    log_warn("RDMA device removed: nobody can connect by RDMA address=%s", stream->text);
    env_timer_start(stream->transport->env, &stream->retry_timer, LISTEN_AGAIN_NS, listen_again);
}

/* ---- the channel */

static void keep(const struct rdma_cm_event *event, struct happened *happened)
{
    const struct rdma_conn_param *conn = &event->param.conn;
    assert(event != NULL && happened != NULL);
    *happened = (struct happened){.type = event->event, .status = event->status};
    if (event->event == RDMA_CM_EVENT_CONNECT_REQUEST || event->event == RDMA_CM_EVENT_ESTABLISHED ||
        event->event == RDMA_CM_EVENT_REJECTED) {
        happened->data_bytes = conn->private_data ? conn->private_data_len : 0;
        memcpy(happened->data, conn->private_data ? conn->private_data : "", happened->data_bytes);
        happened->responder_resources = conn->responder_resources;
        happened->initiator_depth = conn->initiator_depth;
    }
}

static void events_read(struct rdma_transport *transport)
{
    struct rdma_cm_event *event;
    assert(!transport->closing);
    for (int i = 0; i < EVENTS_PER_TURN_MAX && rdma_get_cm_event(transport->events, &event) == 0; i++) {
        struct happened happened;
        struct rdma_cm_id *id = event->id;
        void *context = event->event == RDMA_CM_EVENT_CONNECT_REQUEST ? event->listen_id->context : id->context;
        keep(event, &happened);
        (void)rdma_ack_cm_event(event);
        log_debug("RDMA event %s status=%d", rdma_event_str(happened.type), happened.status);
        if (*(enum rdma_owner *)context == RDMA_OWNER_CONN) {
            conn_happened(context, &happened);
        } else if (*(enum rdma_owner *)context == RDMA_OWNER_LISTENER) {
            struct rdma_listener *listener = ((struct rdma_listening *)context)->listener;
            if (happened.type == RDMA_CM_EVENT_CONNECT_REQUEST)
                requested(listener, id, &happened);
            else if (happened.type == RDMA_CM_EVENT_DEVICE_REMOVAL)
                listener_lost(listener);
        }
    }
}

static void events_prepare(struct ring_op *op, struct io_uring_sqe *sqe)
{
    struct rdma_transport *transport = list_entry(op, struct rdma_transport, events_op);
    assert(transport->events_polled);
    io_uring_prep_poll_add(sqe, transport->events->fd, POLLIN);
}

static void events_ready(struct ring_op *op, int32_t res, uint32_t cqe_flags)
{
    struct rdma_transport *transport = list_entry(op, struct rdma_transport, events_op);
    (void)cqe_flags;
    assert(transport->events_polled);
    transport->events_polled = false;
    if (transport->closing)
        return;
    if (res > 0)
        events_read(transport);
    if (!transport->closing)
        rdma_events_watch(transport);
}

void rdma_events_watch(struct rdma_transport *transport)
{
    assert(!transport->events_polled);
    transport->events_polled = true;
    ring_submit(transport->loop, RING_SEND, &transport->events_op, events_prepare, events_ready);
}
