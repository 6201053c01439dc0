/* SPDX-License-Identifier: Apache-2.0 */
/* stream_socket: where links and listeners of a stream transport meet descriptors.
 *
 *   - connect: address to socket; listen: address to a bound socket; accept: descriptor to link.
 * Failure modes: a process out of descriptors pauses accepting for STREAM_ACCEPT_RETRY_MS; a connection that died in
 *   the queue, or for which there is no memory, is dropped with a line in the log.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "common/log.h"
#include "common/transport/stream.h"

#define LOG_MODULE "transport"

int stream_socket_connect(struct stream_link *link, const char *text, bool nonblocking,
                          struct socket_address *ret_address)
{
    assert(link->fd < 0);
    int rc = socket_address_parse(text, ret_address);
    if (rc < 0)
        return rc;
    int fd = socket_create(ret_address, nonblocking);
    if (fd < 0)
        return fd;
    link->fd = fd;
    return 0;
}

int stream_socket_listen(struct stream_listener *listener, const char *text, bool nonblocking)
{
    assert(listener->fd < 0);
    int rc = socket_address_parse(text, &listener->address);
    if (rc < 0)
        return rc;
    int fd = socket_listen(&listener->address, nonblocking);
    if (fd < 0)
        return fd;
    listener->fd = fd;
    socket_address_format(&listener->address, listener->text);
    return 0;
}

void stream_socket_unlisten(struct stream_listener *listener)
{
    assert(listener->fd >= 0);
    env_timer_stop(listener->transport->env, &listener->retry_timer);
    socket_listen_end(&listener->address);
}

static void listen_retry(struct env_timer *timer)
{
    struct stream_listener *listener = list_entry(timer, struct stream_listener, retry_timer);
    assert(!listener->closing);
    listener->transport->io->listen_again(listener);
}

/* The descriptor becomes a link or is closed. */
static void accept_one(struct stream_listener *listener, int fd)
{
    assert(listener != NULL);
    char text[SOCKET_ADDRESS_CHARS] = "unknown";
    struct socket_address peer = {.bytes = sizeof(peer.storage)};
    assert(fd >= 0);
    socket_tune(fd);
    if (getpeername(fd, &peer.any, &peer.bytes) == 0)
        socket_address_format(&peer, text);
    int rc = stream_listener_offer(listener, fd, text);
    if (rc < 0) {
        log_warn("accepted connection dropped address=%s peer=%s error=%d", listener->text, text, rc);
        (void)close(fd);
    }
}

void stream_socket_accepted(struct stream_listener *listener, int fd_or_error)
{
    if (listener->closing) {
        if (fd_or_error >= 0)
            (void)close(fd_or_error);
        return;
    }
    if (fd_or_error >= 0) {
        accept_one(listener, fd_or_error);
    } else if (fd_or_error != -ECONNABORTED && fd_or_error != -EINTR && fd_or_error != -EAGAIN) {
        log_warn("accept failed address=%s error=%d", listener->text, fd_or_error);
        env_timer_start(listener->transport->env, &listener->retry_timer, ENV_MS(STREAM_ACCEPT_RETRY_MS), listen_retry);
        return;
    }
    if (!listener->closing) /* the accept callback may have closed it */
        listener->transport->io->listen_again(listener);
}
