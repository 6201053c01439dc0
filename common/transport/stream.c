/* SPDX-License-Identifier: Apache-2.0 */
/* stream: the life of a link.
 *
 *   stream_connect ──▶ CONNECTING ──stream_link_connected──▶ OPEN ◀── stream_listener_offer
 *                          │ stream_link_fail                  │ stream_link_fail (link_close, error, end of file)
 *                          └───────────────▶ CLOSING ◀─────────┘
 *                                               │ the I/O side reaped everything: stream_link_gone
 *                                               ▼ closed callback, freed
 *   - received bytes are parsed and delivered until there are no more, the owner paused or closed the link, or the
 *     buffer pool is empty (then the link waits for the pool and reads nothing: back-pressure reaches the peer);
 *   - sent frames are queued; the I/O side gathers them once a turn.
 * Failure modes: a peer that lies (bad frame) or dies ends its own link only; no buffers stall it.
 */
#include "common/transport/stream.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct transport_ops stream_transport_ops;

static struct stream_transport *stream_transport_of(struct transport *base)
{
    assert(base->ops == &stream_transport_ops);
    return (struct stream_transport *)(void *)base; /* base is its first field */
}

static struct stream_link *stream_of(struct link *link)
{
    assert(link);
    return (struct stream_link *)(void *)link; /* base is its first field */
}

/* The end of a link: everything stops now, the closed callback follows. */
static void stream_link_fail(struct stream_link *link, int reason)
{
    assert(reason <= 0);
    if (link->state == STREAM_CLOSING)
        return;
    link->state = STREAM_CLOSING;
    link->reason = reason;
    env_timer_stop(link->transport->env, &link->connect_timer);
    if (link->starved)
        buf_pool_wait_cancel(frame_pool_bufs(link->transport->frames), &link->pool_waiter);
    link->starved = false;
    link->transport->io->stop(link);
}

static void stream_connect_timeout(struct env_timer *timer)
{
    struct stream_link *link = list_entry(timer, struct stream_link, connect_timer);
    assert(link->state == STREAM_CONNECTING);
    stream_link_fail(link, -ETIMEDOUT);
}

/* ---- receiving */

static void stream_deliver(struct stream_link *link)
{
    assert(link != NULL);
    uint64_t now_ns = env_now_ns(link->transport->env);
    while (link->state == STREAM_OPEN && !link->paused) {
        struct msg *msg = NULL;
        int rc = link->transport->io->next ? link->transport->io->next(link, now_ns, &msg)
                                           : frame_rx_next(&link->rx, now_ns, &msg);
        if (rc == 0)
            return;
        if (rc == -ENOBUFS) {
            link->starved = true;
            buf_pool_wait(frame_pool_bufs(link->transport->frames), &link->pool_waiter);
            return;
        }
        if (rc < 0) {
            stream_link_fail(link, rc);
            return;
        }
        assert(rc == 1);
        link->callbacks->message(&link->base, link->owner, msg);
    }
}

static void stream_link_finish(struct stream_link *link);

static void stream_resume(struct env_task *task)
{
    assert(task != NULL);
    struct stream_link *link = list_entry(task, struct stream_link, resume_task);
    if (link->reaped) {
        stream_link_finish(link);
        return;
    }
    if (link->state != STREAM_OPEN || link->paused || link->starved)
        return;
    if (!link->reading) /* a receive in flight means that nothing whole is staged */
        stream_deliver(link);
    link->transport->io->kick(link);
}

/* Called from inside some buf_unref: only notes it. */
static void stream_pool_refilled(struct buf_waiter *waiter)
{
    struct stream_link *link = list_entry(waiter, struct stream_link, pool_waiter);
    assert(link->starved);
    link->starved = false;
    env_defer(link->transport->env, &link->resume_task, stream_resume);
}

bool stream_link_wants_read(const struct stream_link *link)
{
    assert(link != NULL);
    return link->state == STREAM_OPEN && !link->paused && !link->starved && !link->resume_task.queued;
}

void stream_link_received(struct stream_link *link, ssize_t bytes_or_error)
{
    if (link->state == STREAM_CLOSING)
        return;
    assert(link->state == STREAM_OPEN);
    if (bytes_or_error <= 0) {
        stream_link_fail(link, bytes_or_error < 0 ? (int)bytes_or_error : -EPIPE);
        return;
    }
    frame_rx_filled(&link->rx, (size_t)bytes_or_error);
    if (!link->resume_task.queued)
        stream_deliver(link);
    link->transport->io->kick(link);
}

void stream_link_arrived(struct stream_link *link)
{
    assert(link->transport->io->next != NULL);
    if (stream_link_wants_read(link))
        stream_deliver(link);
}

void stream_link_retry(struct stream_link *link)
{
    assert(link->state != STREAM_CONNECTING);
    link->transport->io->kick(link); /* does nothing on a closing link */
}

/* ---- sending */

bool stream_link_wants_send(const struct stream_link *link)
{
    assert(link != NULL);
    return link->state == STREAM_OPEN && link->tx.queued_bytes > 0;
}

void stream_link_sent(struct stream_link *link, ssize_t bytes_or_error)
{
    assert(link != NULL);
    if (link->state == STREAM_CLOSING)
        return;
    if (bytes_or_error < 0) {
        stream_link_fail(link, (int)bytes_or_error);
        return;
    }
    frame_tx_consume(&link->tx, (size_t)bytes_or_error);
    if (frame_tx_unblock(&link->tx) && link->callbacks->writable)
        link->callbacks->writable(&link->base, link->owner);
    link->transport->io->kick(link);
}

static int stream_send(struct link *base, const struct wire_header *header, const void *body, struct buf *payload,
                       uint32_t payload_offset)
{
    assert(base != NULL);
    struct stream_link *link = stream_of(base);
    if (link->state != STREAM_OPEN)
        return -ENOTCONN;
    int rc = frame_tx_push(&link->tx, header, body, payload, payload_offset);
    if (rc == 0)
        link->transport->io->kick(link);
    return rc;
}

/* ---- making and ending links */

static struct buf *stream_place(void *arg, const struct wire_header *header)
{
    struct stream_link *link = arg;
    assert(link->state == STREAM_OPEN);
    return link->callbacks && link->callbacks->place ? link->callbacks->place(&link->base, link->owner, header) : NULL;
}

static struct stream_link *stream_link_create(struct stream_transport *transport, enum stream_state state)
{
    assert(transport != NULL);
    if (transport->link_count >= STREAM_LINKS_MAX)
        return NULL;
    struct stream_link *link = calloc(1, transport->io->link_bytes);
    if (!link)
        return NULL;
    if (frame_rx_init(&link->rx, transport->frames) < 0) {
        free(link);
        return NULL;
    }
    if (transport->io->receives_at_once) {
        link->rx.place = stream_place;
        link->rx.place_arg = link;
    }
    frame_tx_init(&link->tx, transport->frames);
    link->base.transport = &transport->base;
    link->transport = transport;
    link->fd = -1;
    link->state = state;
    link->pool_waiter.cb = stream_pool_refilled;
    list_push_back(&transport->links, &link->node);
    transport->link_count++;
    return link;
}

/* Without a word to the owner. */
static void stream_link_free(struct stream_link *link)
{
    assert(!link->connect_timer.armed && !link->starved);
    if (link->fd >= 0)
        (void)close(link->fd);
    frame_rx_close(&link->rx);
    frame_tx_close(&link->tx);
    list_remove(&link->node);
    assert(link->transport->link_count > 0);
    link->transport->link_count--;
    free(link);
}

/* The last of a link: its owner hears why, exactly once, from a task and so never inside a call. */
static void stream_link_finish(struct stream_link *link)
{
    assert(link->state == STREAM_CLOSING);
    assert(!link->resume_task.queued);
    const struct link_callbacks *callbacks = link->callbacks;
    if (callbacks)
        callbacks->closed(&link->base, link->owner, link->reason);
    stream_link_free(link);
}

void stream_link_gone(struct stream_link *link)
{
    assert(link->state == STREAM_CLOSING);
    assert(!link->reaped);
    link->reaped = true;
    env_defer(link->transport->env, &link->resume_task, stream_resume);
}

static int stream_connect(struct transport *base, const char *address, const struct link_callbacks *callbacks,
                          void *owner, struct link **ret_link)
{
    struct stream_transport *transport = stream_transport_of(base);
    assert(callbacks && callbacks->connected && callbacks->message && callbacks->closed);
    struct stream_link *link = stream_link_create(transport, STREAM_CONNECTING);
    if (!link)
        return -ENOMEM;
    link->callbacks = callbacks;
    link->owner = owner;
    (void)snprintf(link->peer, sizeof(link->peer), "%s", address);
    int rc = transport->io->connect(link, address);
    if (rc < 0) {
        stream_link_free(link);
        return rc;
    }
    env_timer_start(transport->env, &link->connect_timer, transport->connect_timeout_ns, stream_connect_timeout);
    *ret_link = &link->base;
    return 0;
}

void stream_link_connected(struct stream_link *link, int rc)
{
    if (link->state == STREAM_CLOSING)
        return;
    assert(link->state == STREAM_CONNECTING);
    if (rc < 0) {
        stream_link_fail(link, socket_connect_error(rc));
        return;
    }
    env_timer_stop(link->transport->env, &link->connect_timer);
    link->state = STREAM_OPEN;
    link->callbacks->connected(&link->base, link->owner);
    link->transport->io->kick(link);
}

static void stream_close(struct link *base)
{
    stream_link_fail(stream_of(base), 0);
}

static void stream_set_owner(struct link *base, const struct link_callbacks *callbacks, void *owner)
{
    assert(callbacks && callbacks->message && callbacks->closed);
    stream_of(base)->callbacks = callbacks;
    stream_of(base)->owner = owner;
}

static void stream_pause(struct link *base, bool paused)
{
    assert(base != NULL);
    struct stream_link *link = stream_of(base);
    if (link->paused == paused)
        return;
    link->paused = paused;
    if (!paused && link->state == STREAM_OPEN)
        env_defer(link->transport->env, &link->resume_task, stream_resume);
}

static size_t stream_queued_bytes(const struct link *link)
{
    assert(link != NULL);
    return ((const struct stream_link *)(const void *)link)->tx.queued_bytes;
}

static const char *stream_peer_name(const struct link *link)
{
    assert(link != NULL);
    return ((const struct stream_link *)(const void *)link)->peer;
}

/* ---- listening */

static int stream_listen(struct transport *base, const char *address, transport_accept_cb cb, void *arg,
                         struct listener **ret_listener)
{
    struct stream_transport *transport = stream_transport_of(base);
    assert(cb);
    struct stream_listener *listener = calloc(1, transport->io->listener_bytes);
    if (!listener)
        return -ENOMEM;
    listener->base.transport = base;
    listener->transport = transport;
    listener->fd = -1;
    listener->cb = cb;
    listener->arg = arg;
    int rc = transport->io->listen(listener, address);
    if (rc < 0) {
        free(listener);
        return rc;
    }
    assert(listener->text[0] != '\0');
    list_push_back(&transport->listeners, &listener->node);
    transport->listener_count++;
    *ret_listener = &listener->base;
    return 0;
}

int stream_listener_offer(struct stream_listener *listener, int fd, const char *peer)
{
    assert(listener != NULL);
    struct stream_transport *transport = listener->transport;
    assert(!listener->closing);
    struct stream_link *link = stream_link_create(transport, STREAM_OPEN);
    if (!link)
        return -ENOMEM;
    link->fd = fd;
    (void)snprintf(link->peer, sizeof(link->peer), "%s", peer);
    int rc = transport->io->open(link);
    if (rc < 0) {
        link->fd = -1; /* still the caller's */
        stream_link_free(link);
        return rc;
    }
    listener->cb(&listener->base, listener->arg, &link->base);
    if (!link->callbacks)
        stream_link_fail(link, 0);
    if (link->state == STREAM_OPEN)
        transport->io->kick(link);
    return 0;
}

static const char *stream_listener_address(struct listener *base)
{
    assert(base != NULL);
    return ((struct stream_listener *)(void *)base)->text;
}

static void stream_listener_close(struct listener *base)
{
    struct stream_listener *listener = (struct stream_listener *)(void *)base;
    if (listener->closing)
        return;
    listener->closing = true;
    listener->transport->io->listen_stop(listener);
}

static void stream_listener_finish(struct env_task *task)
{
    struct stream_listener *listener = list_entry(task, struct stream_listener, gone_task);
    assert(listener->closing);
    assert(listener->transport->listener_count > 0);
    if (listener->fd >= 0)
        (void)close(listener->fd);
    list_remove(&listener->node);
    listener->transport->listener_count--;
    free(listener);
}

void stream_listener_gone(struct stream_listener *listener)
{
    assert(listener->closing);
    assert(!listener->gone_task.queued);
    env_defer(listener->transport->env, &listener->gone_task, stream_listener_finish);
}

/* ---- the transport */

static const struct transport_ops stream_transport_ops = {
    .connect = stream_connect,
    .listen = stream_listen,
    .listener_address = stream_listener_address,
    .listener_close = stream_listener_close,
    .send = stream_send,
    .close = stream_close,
    .set_owner = stream_set_owner,
    .pause = stream_pause,
    .queued_bytes = stream_queued_bytes,
    .peer_name = stream_peer_name,
};

struct stream_transport *stream_transport_create(const struct stream_io *io, struct env *env, struct buf_pool *bufs,
                                                 void *loop)
{
    assert(io->link_bytes >= sizeof(struct stream_link));
    assert(io->listener_bytes >= sizeof(struct stream_listener));
    struct stream_transport *transport = calloc(1, sizeof(*transport));
    if (!transport)
        return NULL;
    transport->frames = frame_pool_create(bufs);
    if (!transport->frames) {
        free(transport);
        return NULL;
    }
    transport->base.ops = &stream_transport_ops;
    transport->env = env;
    transport->io = io;
    transport->loop = loop;
    transport->connect_timeout_ns = ENV_MS(STREAM_CONNECT_TIMEOUT_MS);
    list_head_init(&transport->links);
    list_head_init(&transport->listeners);
    return transport;
}

void stream_transport_shutdown(struct transport *base)
{
    assert(base != NULL);
    struct stream_transport *transport = stream_transport_of(base);
    list_for_each_safe(node, next, &transport->links) stream_link_fail(list_entry(node, struct stream_link, node), 0);
    list_for_each_safe(node, next, &transport->listeners)
        stream_listener_close(&list_entry(node, struct stream_listener, node)->base);
}

size_t stream_transport_live(const struct transport *base)
{
    const struct stream_transport *transport = (const struct stream_transport *)(const void *)base;
    assert(base->ops == &stream_transport_ops);
    return transport->link_count + transport->listener_count;
}

void stream_transport_destroy(struct transport *base)
{
    if (!base)
        return;
    struct stream_transport *transport = stream_transport_of(base);
    assert(stream_transport_live(base) == 0);
    frame_pool_destroy(transport->frames);
    free(transport);
}

void stream_transport_abandon(struct transport *base)
{
    struct stream_transport *transport = stream_transport_of(base);
    list_for_each_safe(node, next, &transport->links)
    {
        struct stream_link *link = list_entry(node, struct stream_link, node);
        if (link->starved)
            buf_pool_wait_cancel(frame_pool_bufs(transport->frames), &link->pool_waiter);
        link->starved = false;
        assert(!link->connect_timer.armed && !link->resume_task.queued);
        stream_link_free(link);
    }
    list_for_each_safe(node, next, &transport->listeners)
    {
        struct stream_listener *listener = list_entry(node, struct stream_listener, node);
        list_remove(node);
        transport->listener_count--;
        free(listener);
    }
    frame_pool_abandon(transport->frames);
    stream_transport_destroy(base);
}

void stream_transport_set_connect_timeout(struct transport *base, uint64_t timeout_ns)
{
    struct stream_transport *transport = stream_transport_of(base);
    assert(timeout_ns > 0);
    transport->connect_timeout_ns = timeout_ns;
}
