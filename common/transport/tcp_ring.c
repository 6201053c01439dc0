/* SPDX-License-Identifier: Apache-2.0 */
/* tcp_ring: a stream transport's system calls as io_uring operations.
 *
 *   - a link keeps one receive in flight (recv into staging, or recvmsg scattered into body, payload and staging);
 *   - the first link_send of a turn queues one RING_SEND operation; its prepare runs when the turn ends and gathers
 *     everything queued by then: one sendmsg per link and turn; MSG_WAITALL lets the kernel finish a large one;
 *   - a receive that did not fill its space is followed by one that polls first (the socket is most likely empty).
 * Failure modes: an error of an operation closes the link with it. A closing link cancels its operations and is freed
 *   only when the last of them was reaped, since the kernel may write to its memory until then.
 */
#include "common/transport/tcp_ring.h"

#include <assert.h>
#include <errno.h>

#include "common/ring/ring_sqe.h"

struct ring_link {
    struct stream_link stream; /* first */
    struct ring_op recv_op, send_op, connect_op;
    unsigned in_flight;
    bool sending;
    bool recv_poll_first;
    size_t recv_space; /* bytes the receive in flight may bring */
    struct msghdr recv_msg, send_msg;
    struct iovec recv_vec[FRAME_RX_VEC_MAX];
    struct iovec send_vec[FRAME_TX_VEC_MAX];
    struct socket_address address;
};

struct ring_listener {
    struct stream_listener stream; /* first */
    struct ring_op accept_op;
    bool in_flight;
};

static struct ring_loop *loop_of(const struct stream_transport *transport)
{
    assert(transport->loop);
    return transport->loop;
}

/* After each completion: a closing link is gone with its last one. */
static void ring_link_reaped(struct ring_link *link)
{
    assert(link->in_flight > 0);
    link->in_flight--;
}

static void ring_link_check_gone(struct ring_link *link)
{
    assert(link != NULL);
    if (link->stream.state == STREAM_CLOSING && link->in_flight == 0 && !link->stream.reaped)
        stream_link_gone(&link->stream);
}

/* ---- receive */

static void recv_prepare(struct ring_op *op, struct io_uring_sqe *sqe)
{
    struct ring_link *link = list_entry(op, struct ring_link, recv_op);
    unsigned n = frame_rx_space(&link->stream.rx, link->recv_vec);
    assert(n >= 1 && n <= FRAME_RX_VEC_MAX);
    link->recv_space = 0;
    for (unsigned i = 0; i < n; i++)
        link->recv_space += link->recv_vec[i].iov_len;
    if (n == 1) {
        io_uring_prep_recv(sqe, link->stream.fd, link->recv_vec[0].iov_base, link->recv_vec[0].iov_len, 0);
    } else {
        link->recv_msg = (struct msghdr){.msg_iov = link->recv_vec, .msg_iovlen = n};
        io_uring_prep_recvmsg(sqe, link->stream.fd, &link->recv_msg, 0);
    }
    if (link->recv_poll_first)
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
}

static void recv_done(struct ring_op *op, int32_t res, uint32_t cqe_flags)
{
    struct ring_link *link = list_entry(op, struct ring_link, recv_op);
    assert(link->stream.reading);
    link->stream.reading = false;
    ring_link_reaped(link);
    link->recv_poll_first = res > 0 && (size_t)res < link->recv_space && (cqe_flags & IORING_CQE_F_SOCK_NONEMPTY) == 0;
    if (res == -EINTR || res == -EAGAIN)
        stream_link_retry(&link->stream);
    else
        stream_link_received(&link->stream, res);
    ring_link_check_gone(link);
}

/* ---- send */

static void send_prepare(struct ring_op *op, struct io_uring_sqe *sqe)
{
    struct ring_link *link = list_entry(op, struct ring_link, send_op);
    unsigned n = frame_tx_gather(&link->stream.tx, link->send_vec);
    assert(n > 0);
    link->send_msg = (struct msghdr){.msg_iov = link->send_vec, .msg_iovlen = n};
    if (n == 1)
        io_uring_prep_send(sqe, link->stream.fd, link->send_vec[0].iov_base, link->send_vec[0].iov_len,
                           MSG_NOSIGNAL | MSG_WAITALL);
    else
        io_uring_prep_sendmsg(sqe, link->stream.fd, &link->send_msg, MSG_NOSIGNAL | MSG_WAITALL);
}

static void send_done(struct ring_op *op, int32_t res, uint32_t cqe_flags)
{
    struct ring_link *link = list_entry(op, struct ring_link, send_op);
    (void)cqe_flags;
    assert(link->sending);
    link->sending = false;
    ring_link_reaped(link);
    if (res == -EINTR || res == -EAGAIN)
        stream_link_retry(&link->stream);
    else
        stream_link_sent(&link->stream, res);
    ring_link_check_gone(link);
}

static void ring_link_kick(struct stream_link *stream)
{
    struct ring_link *link = (struct ring_link *)(void *)stream;
    struct ring_loop *loop = loop_of(stream->transport);
    if (!link->sending && stream_link_wants_send(stream)) {
        link->sending = true;
        link->in_flight++;
        ring_submit(loop, RING_SEND, &link->send_op, send_prepare, send_done);
    }
    if (!stream->reading && stream_link_wants_read(stream)) {
        stream->reading = true;
        link->in_flight++;
        ring_submit(loop, RING_SEND, &link->recv_op, recv_prepare, recv_done);
    }
}

/* ---- connect, stop */

static void connect_prepare(struct ring_op *op, struct io_uring_sqe *sqe)
{
    struct ring_link *link = list_entry(op, struct ring_link, connect_op);
    assert(link->address.bytes > 0);
    io_uring_prep_connect(sqe, link->stream.fd, &link->address.any, link->address.bytes);
}

static void connect_done(struct ring_op *op, int32_t res, uint32_t cqe_flags)
{
    struct ring_link *link = list_entry(op, struct ring_link, connect_op);
    (void)cqe_flags;
    ring_link_reaped(link);
    assert(res <= 0);
    stream_link_connected(&link->stream, res);
    ring_link_check_gone(link);
}

static int ring_link_connect(struct stream_link *stream, const char *address)
{
    assert(stream != NULL);
    struct ring_link *link = (struct ring_link *)(void *)stream;
    /* Blocking sockets: the ring polls by itself; O_NONBLOCK would make it fail with EAGAIN instead. */
    int rc = stream_socket_connect(stream, address, /* nonblocking= */ false, &link->address);
    if (rc < 0)
        return rc;
    link->in_flight++;
    ring_submit(loop_of(stream->transport), RING_SEND, &link->connect_op, connect_prepare, connect_done);
    return 0;
}

static int ring_link_open(struct stream_link *stream)
{
    assert(stream->fd >= 0);
    return 0; /* the first kick does it all */
}

static void ring_link_stop(struct stream_link *stream)
{
    assert(stream != NULL);
    struct ring_link *link = (struct ring_link *)(void *)stream;
    struct ring_loop *loop = loop_of(stream->transport);
    ring_cancel(loop, &link->connect_op);
    ring_cancel(loop, &link->recv_op);
    ring_cancel(loop, &link->send_op);
    ring_link_check_gone(link);
}

/* ---- listener */

static void accept_prepare(struct ring_op *op, struct io_uring_sqe *sqe)
{
    struct ring_listener *listener = list_entry(op, struct ring_listener, accept_op);
    assert(listener->in_flight);
    io_uring_prep_accept(sqe, listener->stream.fd, NULL, NULL, SOCK_CLOEXEC);
}

static void accept_done(struct ring_op *op, int32_t res, uint32_t cqe_flags)
{
    assert(op != NULL);
    struct ring_listener *listener = list_entry(op, struct ring_listener, accept_op);
    (void)cqe_flags;
    listener->in_flight = false;
    stream_socket_accepted(&listener->stream, res);
    if (listener->stream.closing && !listener->in_flight && !listener->stream.gone_task.queued)
        stream_listener_gone(&listener->stream);
}

static void ring_listener_again(struct stream_listener *stream)
{
    assert(stream != NULL);
    struct ring_listener *listener = (struct ring_listener *)(void *)stream;
    assert(!listener->in_flight && !stream->closing);
    listener->in_flight = true;
    ring_submit(loop_of(stream->transport), RING_SEND, &listener->accept_op, accept_prepare, accept_done);
}

static int ring_listener_start(struct stream_listener *stream, const char *address)
{
    assert(stream != NULL);
    int rc = stream_socket_listen(stream, address, /* nonblocking= */ false);
    if (rc < 0)
        return rc;
    ring_listener_again(stream);
    return 0;
}

static void ring_listener_stop(struct stream_listener *stream)
{
    struct ring_listener *listener = (struct ring_listener *)(void *)stream;
    assert(stream->closing);
    stream_socket_unlisten(stream);
    if (listener->in_flight)
        ring_cancel(loop_of(stream->transport), &listener->accept_op);
    else
        stream_listener_gone(stream);
}

/* ---- the transport */

static const struct stream_io ring_io = {
    .link_bytes = sizeof(struct ring_link),
    .listener_bytes = sizeof(struct ring_listener),
    .connect = ring_link_connect,
    .open = ring_link_open,
    .kick = ring_link_kick,
    .stop = ring_link_stop,
    .listen = ring_listener_start,
    .listen_again = ring_listener_again,
    .listen_stop = ring_listener_stop,
};

int transport_ring_create(struct ring_loop *loop, struct buf_pool *bufs, struct transport **ret_transport)
{
    assert(loop && bufs);
    struct stream_transport *transport = stream_transport_create(&ring_io, ring_loop_env(loop), bufs, loop);
    if (!transport)
        return -ENOMEM;
    *ret_transport = &transport->base;
    return 0;
}
