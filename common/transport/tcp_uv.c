/* SPDX-License-Identifier: Apache-2.0 */
/* tcp_uv: a stream transport's system calls on a libuv loop.
 *
 *   - readable: recvmsg into what frame_rx_space names, again while it comes back full;
 *   - the first link_send of a turn defers one flush; it sends all that is queued by then; a full socket is watched
 *     for writability;
 *   - a connect is over when its socket is writable, with SO_ERROR as the result.
 * Failure modes: an error of a call closes the link with it. The link is freed after the watcher's close callback.
 */
#include "common/transport/tcp_uv.h"

#include <assert.h>
#include <errno.h>
#include <unistd.h>
#include <uv.h>

#define UV_RECEIVES_PER_TURN_MAX 8u
#define UV_SENDS_PER_TURN_MAX 16u
#define UV_ACCEPTS_PER_TURN_MAX 16u

struct uv_link {
    struct stream_link stream; /* first */
    uv_poll_t poll;
    int events; /* watched now */
    int connect_rc;
    struct env_task flush_task;
    bool flushing;
    bool send_blocked; /* the socket's buffer is full */
    bool poll_closed;
};

struct uv_listener {
    struct stream_listener stream; /* first */
    uv_poll_t poll;
    bool polling;
};

static struct uv_link *uv_link_of(struct stream_link *stream)
{
    assert(stream);
    return (struct uv_link *)(void *)stream; /* stream is its first field */
}

static uv_loop_t *loop_of(const struct stream_transport *transport)
{
    assert(transport->loop);
    return transport->loop;
}

static void link_ready(uv_poll_t *poll, int status, int events);

static void link_watch(struct uv_link *link)
{
    int events = 0;
    if (link->stream.state == STREAM_CONNECTING)
        events = UV_WRITABLE;
    else if (link->stream.state == STREAM_OPEN)
        events = (stream_link_wants_read(&link->stream) ? UV_READABLE : 0) | (link->send_blocked ? UV_WRITABLE : 0);
    else
        return; /* the handle is closing */
    if (events == link->events)
        return;
    int rc = events ? uv_poll_start(&link->poll, events, link_ready) : uv_poll_stop(&link->poll);
    assert(rc == 0);
    link->events = events;
}

/* ---- send */

static void link_flush(struct uv_link *link)
{
    assert(link != NULL);
    struct iovec vec[FRAME_TX_VEC_MAX];
    assert(!link->flushing);
    link->flushing = true;
    for (unsigned i = 0; i < UV_SENDS_PER_TURN_MAX; i++) {
        if (!stream_link_wants_send(&link->stream) || link->send_blocked)
            break;
        struct msghdr msg = {.msg_iov = vec, .msg_iovlen = frame_tx_gather(&link->stream.tx, vec)};
        ssize_t n = sendmsg(link->stream.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        int error = n < 0 ? errno : 0;
        if (error == EAGAIN)
            link->send_blocked = true;
        else if (error != EINTR)
            stream_link_sent(&link->stream, n < 0 ? -error : n);
    }
    link->flushing = false;
}

static void link_flush_task(struct env_task *task)
{
    assert(task != NULL);
    struct uv_link *link = list_entry(task, struct uv_link, flush_task);
    if (link->poll_closed)
        stream_link_gone(&link->stream);
    else if (link->connect_rc < 0)
        stream_link_connected(&link->stream, link->connect_rc);
    else if (link->stream.state == STREAM_OPEN) {
        link_flush(link);
        link->stream.transport->io->kick(&link->stream);
    }
}

static void uv_link_kick(struct stream_link *stream)
{
    assert(stream != NULL);
    struct uv_link *link = uv_link_of(stream);
    if (stream_link_wants_send(stream) && !link->send_blocked && !link->flushing)
        env_defer(stream->transport->env, &link->flush_task, link_flush_task);
    link_watch(link);
}

/* ---- receive, connect */

static void link_receive(struct uv_link *link)
{
    assert(link != NULL);
    for (unsigned i = 0; i < UV_RECEIVES_PER_TURN_MAX && stream_link_wants_read(&link->stream); i++) {
        struct iovec vec[FRAME_RX_VEC_MAX];
        size_t space = 0;
        struct msghdr msg = {.msg_iov = vec, .msg_iovlen = frame_rx_space(&link->stream.rx, vec)};
        for (size_t v = 0; v < msg.msg_iovlen; v++)
            space += vec[v].iov_len;
        ssize_t n = recvmsg(link->stream.fd, &msg, MSG_DONTWAIT);
        int error = n < 0 ? errno : 0;
        if (error == EAGAIN || error == EINTR)
            return;
        stream_link_received(&link->stream, n < 0 ? -error : n);
        if (n < (ssize_t)space)
            return;
    }
}

/* 0 or -errno */
static int link_error(const struct uv_link *link)
{
    assert(link != NULL);
    int error = 0;
    socklen_t bytes = sizeof(error);
    if (getsockopt(link->stream.fd, SOL_SOCKET, SO_ERROR, &error, &bytes) < 0)
        error = errno;
    assert(error >= 0);
    return -error;
}

static void link_ready(uv_poll_t *poll, int status, int events)
{
    struct uv_link *link = poll->data;
    if (link->stream.state == STREAM_CONNECTING) {
        stream_link_connected(&link->stream, link_error(link));
        return;
    }
    if (status < 0) {
        link->events = 0; /* libuv saw POLLERR and stopped watching */
        if (!stream_link_wants_read(&link->stream)) {
            int rc = link_error(link);
            stream_link_received(&link->stream, rc < 0 ? rc : -ECONNRESET);
            return;
        }
        events = UV_READABLE; /* what came before the error is read first, then the error */
    }
    if ((events & UV_WRITABLE) && link->send_blocked) {
        link->send_blocked = false;
        link_flush(link);
    }
    if (events & UV_READABLE)
        link_receive(link);
    uv_link_kick(&link->stream);
}

static int uv_link_connect(struct stream_link *stream, const char *text)
{
    assert(stream != NULL);
    struct uv_link *link = uv_link_of(stream);
    struct socket_address address;
    int rc = stream_socket_connect(stream, text, /* nonblocking= */ true, &address);
    if (rc < 0)
        return rc;
    rc = uv_poll_init(loop_of(stream->transport), &link->poll, stream->fd);
    if (rc < 0)
        return rc;
    link->poll.data = link;
    if (connect(stream->fd, &address.any, address.bytes) < 0 && errno != EINPROGRESS) {
        link->connect_rc = -errno; /* told by callback, as the slower refusals are */
        env_defer(stream->transport->env, &link->flush_task, link_flush_task);
    } else {
        link_watch(link);
    }
    return 0;
}

static int uv_link_open(struct stream_link *stream)
{
    assert(stream != NULL);
    struct uv_link *link = uv_link_of(stream);
    int rc = uv_poll_init(loop_of(stream->transport), &link->poll, stream->fd);
    link->poll.data = link;
    return rc;
}

static void link_poll_closed(uv_handle_t *handle)
{
    assert(handle != NULL);
    struct uv_link *link = handle->data;
    assert(link->stream.state == STREAM_CLOSING);
    link->poll_closed = true;
    if (!link->flush_task.queued)
        stream_link_gone(&link->stream);
}

static void uv_link_stop(struct stream_link *stream)
{
    struct uv_link *link = uv_link_of(stream);
    assert(!link->poll_closed);
    uv_close((uv_handle_t *)&link->poll, link_poll_closed);
}

/* ---- listener */

static void listener_ready(uv_poll_t *poll, int status, int events)
{
    struct uv_listener *listener = poll->data;
    (void)status;
    (void)events;
    for (unsigned i = 0; i < UV_ACCEPTS_PER_TURN_MAX && !listener->stream.closing; i++) {
        int fd = accept4(listener->stream.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        int error = fd < 0 ? errno : 0;
        if (error == EAGAIN)
            return;
        if (error) { /* watched again by listen_again */
            (void)uv_poll_stop(poll);
            listener->polling = false;
        }
        stream_socket_accepted(&listener->stream, fd < 0 ? -error : fd);
        if (!listener->polling)
            return;
    }
}

static void uv_listener_again(struct stream_listener *stream)
{
    struct uv_listener *listener = (struct uv_listener *)(void *)stream;
    assert(!stream->closing);
    if (listener->polling)
        return;
    int rc = uv_poll_start(&listener->poll, UV_READABLE, listener_ready);
    assert(rc == 0);
    listener->polling = true;
}

static int uv_listener_start(struct stream_listener *stream, const char *text)
{
    assert(stream != NULL);
    struct uv_listener *listener = (struct uv_listener *)(void *)stream;
    int rc = stream_socket_listen(stream, text, /* nonblocking= */ true);
    if (rc < 0)
        return rc;
    rc = uv_poll_init(loop_of(stream->transport), &listener->poll, stream->fd);
    if (rc < 0) {
        socket_listen_end(&stream->address);
        (void)close(stream->fd);
        return rc;
    }
    listener->poll.data = listener;
    uv_listener_again(stream);
    return 0;
}

static void listener_closed(uv_handle_t *handle)
{
    assert(handle != NULL);
    struct uv_listener *listener = handle->data;
    stream_listener_gone(&listener->stream);
}

static void uv_listener_stop(struct stream_listener *stream)
{
    struct uv_listener *listener = (struct uv_listener *)(void *)stream;
    assert(stream->closing);
    stream_socket_unlisten(stream);
    uv_close((uv_handle_t *)&listener->poll, listener_closed);
}

/* ---- the transport */

static const struct stream_io uv_io = {
    .link_bytes = sizeof(struct uv_link),
    .listener_bytes = sizeof(struct uv_listener),
    .receives_at_once = true,
    .connect = uv_link_connect,
    .open = uv_link_open,
    .kick = uv_link_kick,
    .stop = uv_link_stop,
    .listen = uv_listener_start,
    .listen_again = uv_listener_again,
    .listen_stop = uv_listener_stop,
};

int transport_uv_create(struct uv_loop_s *loop, struct env *env, struct buf_pool *bufs,
                        struct transport **ret_transport)
{
    assert(loop && env && bufs);
    struct stream_transport *transport = stream_transport_create(&uv_io, env, bufs, loop);
    if (!transport)
        return -ENOMEM;
    *ret_transport = &transport->base;
    return 0;
}
