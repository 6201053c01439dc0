/* SPDX-License-Identifier: Apache-2.0 */
/* rdma: the transport: addresses, the stream's I/O side, start and end.
 *
 *   - the life of links and listeners is stream.c's, as for TCP; here a link is tied to a connection (rdma_conn.c);
 *   - connect: rdma_create_id and rdma_resolve_addr, the rest follows by events; kick: the connection is flushed at the
 *     end of the turn; stop: the connection is destroyed by the work task, then the link is gone.
 * Failure modes: no RDMA on this host is -ENODEV at create; an address without a device is -ENODEV at listen and
 *   connect, in the call or as the reason.
 */
#include "common/transport/rdma.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/transport/rdma_internal.h"

#define LOG_MODULE "rdma"
#define RESOLVE_TIMEOUT_MS 1000

static struct rdma_transport *rdma_of(const struct stream_transport *stream)
{
    assert(stream->loop != NULL);
    return stream->loop;
}

static struct rdma_transport *rdma_of_base(const struct transport *base)
{
    const struct stream_transport *stream = (const struct stream_transport *)(const void *)base; /* its first field */
    return rdma_of(stream);
}

static struct rdma_link *link_of(struct stream_link *stream)
{
    assert(stream != NULL);
    return (struct rdma_link *)(void *)stream; /* its first field */
}

/* "rdma:HOST:PORT" */
static int parse_address(const char *text, struct socket_address *ret_address)
{
    char tcp[SOCKET_ADDRESS_CHARS];
    assert(text != NULL);
    if (strncmp(text, "rdma:", 5) != 0)
        return -EINVAL;
    int n = snprintf(tcp, sizeof(tcp), "tcp:%s", text + 5);
    if (n < 0 || n >= (int)sizeof(tcp))
        return -EINVAL;
    return socket_address_parse(tcp, ret_address);
}

static void format_address(const struct sockaddr *address, uint16_t port, char text[SOCKET_ADDRESS_CHARS])
{
    struct socket_address parsed;
    char tcp[SOCKET_ADDRESS_CHARS];
    memset(&parsed, 0, sizeof(parsed));
    parsed.bytes = address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    memcpy(&parsed.storage, address, parsed.bytes);
    if (address->sa_family == AF_INET6)
        ((struct sockaddr_in6 *)(void *)&parsed.storage)->sin6_port = port;
    else
        ((struct sockaddr_in *)(void *)&parsed.storage)->sin_port = port;
    socket_address_format(&parsed, tcp);
    assert(strncmp(tcp, "tcp:", 4) == 0);
    (void)snprintf(text, SOCKET_ADDRESS_CHARS, "rdma:%.*s", (int)(SOCKET_ADDRESS_CHARS - 6), tcp + 4);
}

/* ---- links */

static int rdma_link_connect(struct stream_link *stream, const char *text)
{
    struct rdma_transport *transport = rdma_of(stream->transport);
    struct socket_address address, source;
    struct rdma_cm_id *id = NULL;
    struct rdma_conn *conn = NULL;
    bool bound = transport->source[0] != '\0';
    int rc = parse_address(text, &address);
    if (rc == 0 && bound)
        rc = parse_address(transport->source, &source);
    if (rc < 0)
        return rc;
    if (rdma_create_id(transport->events, &id, NULL, RDMA_PS_TCP) != 0)
        return -errno;
    conn = rdma_conn_create(transport, id);
    if (!conn) {
        (void)rdma_destroy_id(id);
        return -ENOMEM;
    }
    conn->state = RDMA_CONN_ADDRESS;
    (void)snprintf(conn->peer_text, sizeof(conn->peer_text), "%s", text);
    if (rdma_resolve_addr(id, bound ? &source.any : NULL, &address.any, RESOLVE_TIMEOUT_MS) != 0) {
        rc = -errno;
        rdma_conn_doom(conn);
        assert(rc < 0);
        return rc;
    }
    conn->link = link_of(stream);
    link_of(stream)->conn = conn;
    return 0;
}

static int rdma_link_open(struct stream_link *stream)
{
    struct rdma_conn *conn = rdma_of(stream->transport)->offered;
    assert(conn && !conn->link);
    conn->link = link_of(stream);
    link_of(stream)->conn = conn;
    return 0;
}

static void rdma_link_kick(struct stream_link *stream)
{
    struct rdma_conn *conn = link_of(stream)->conn;
    assert(!conn || conn->link == link_of(stream));
    if (conn)
        rdma_conn_dirty(conn);
}

static void rdma_link_stop(struct stream_link *stream)
{
    struct rdma_conn *conn = link_of(stream)->conn;
    assert(stream->state == STREAM_CLOSING);
    if (conn)
        rdma_conn_doom(conn); /* stream_link_gone follows */
    else
        stream_link_gone(stream);
}

static int rdma_link_next(struct stream_link *stream, uint64_t now_ns, struct msg **ret_msg)
{
    struct rdma_conn *conn = link_of(stream)->conn;
    assert(stream->state == STREAM_OPEN);
    if (!conn || conn->state != RDMA_CONN_OPEN)
        return 0;
    return rdma_rx_next(conn, now_ns, ret_msg);
}

/* ---- listeners */

static int rdma_listener_start(struct stream_listener *stream, const char *text)
{
    struct rdma_listener *listener = (struct rdma_listener *)(void *)stream;
    struct socket_address address;
    int rc = parse_address(text, &address);
    if (rc < 0)
        return rc;
    listener->listening.owner = RDMA_OWNER_LISTENER;
    listener->listening.listener = listener;
    memcpy(&listener->bound, &address.storage, sizeof(listener->bound));
    rc = rdma_events_listen(listener);
    if (rc < 0)
        return rc;
    uint16_t port = rdma_get_src_port(listener->listening.id);
    assert(port != 0);
    format_address((struct sockaddr *)&listener->bound, port, stream->text);
    if (listener->bound.ss_family == AF_INET6)
        ((struct sockaddr_in6 *)(void *)&listener->bound)->sin6_port = port;
    else
        ((struct sockaddr_in *)(void *)&listener->bound)->sin_port = port;
    return 0;
}

static void rdma_listener_stop(struct stream_listener *stream)
{
    struct rdma_listener *listener = (struct rdma_listener *)(void *)stream;
    struct rdma_transport *transport = rdma_of(stream->transport);
    assert(stream->closing);
    env_timer_stop(transport->env, &stream->retry_timer);
    if (listener->listening.id)
        (void)rdma_destroy_id(listener->listening.id);
    listener->listening.id = NULL;
    list_for_each(node, &transport->conns)
    {
        struct rdma_conn *conn = list_entry(node, struct rdma_conn, node);
        if (conn->listener != listener)
            continue;
        conn->listener = NULL;
        rdma_conn_doom(conn);
    }
    stream_listener_gone(stream);
}

static const struct stream_io rdma_io = {
    .link_bytes = sizeof(struct rdma_link),
    .listener_bytes = sizeof(struct rdma_listener),
    .connect = rdma_link_connect,
    .open = rdma_link_open,
    .kick = rdma_link_kick,
    .stop = rdma_link_stop,
    .next = rdma_link_next,
    .listen = rdma_listener_start,
    .listen_stop = rdma_listener_stop,
};

/* ---- the transport */

static int open_channel(struct rdma_transport *transport)
{
    int count = 0;
    struct ibv_device **devices = ibv_get_device_list(&count);
    if (devices)
        ibv_free_device_list(devices);
    if (count == 0)
        return -ENODEV;
    transport->events = rdma_create_event_channel();
    if (!transport->events)
        return errno == ENOENT || errno == 0 ? -ENODEV : -errno;
    int rc = fcntl(transport->events->fd, F_SETFL, O_NONBLOCK) == 0 ? 0 : -errno;
    assert(rc <= 0);
    return rc;
}

static void transport_free(struct rdma_transport *transport)
{
    assert(transport != NULL);
    if (transport->events)
        rdma_destroy_event_channel(transport->events);
    map_u64_close(&transport->by_number);
    free(transport);
}

int transport_rdma_create(struct ring_loop *loop, struct buf_pool *bufs, const struct transport_rdma_config *config,
                          struct transport **ret_transport)
{
    assert(loop && bufs && config);
    struct rdma_transport *transport = calloc(1, sizeof(*transport));
    if (!transport)
        return -ENOMEM;
    transport->loop = loop;
    transport->env = ring_loop_env(loop);
    transport->bufs = bufs;
    transport->config = *config;
    transport->config.source = NULL;
    if (transport->config.links_max == 0)
        transport->config.links_max = RDMA_LINKS_DEFAULT;
    if (transport->config.credits == 0)
        transport->config.credits = RDMA_CREDITS_DEFAULT;
    assert(transport->config.links_max <= RDMA_LINKS_LIMIT);
    assert(transport->config.credits >= RDMA_CREDITS_MIN && transport->config.credits <= RDMA_CREDITS_MAX);
    if (config->source && config->source[0])
        (void)snprintf(transport->source, sizeof(transport->source), "rdma:%s:0", config->source);
    struct list_node *heads[] = {&transport->devices, &transport->conns, &transport->dirty, &transport->doomed,
                                 &transport->arrived};
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        list_head_init(heads[i]);
    map_u64_init(&transport->by_number);
    int rc = open_channel(transport);
    if (rc == 0) {
        transport->stream = stream_transport_create(&rdma_io, transport->env, bufs, transport);
        rc = transport->stream ? 0 : -ENOMEM;
    }
    if (rc < 0) {
        transport_free(transport);
        return rc;
    }
    rdma_events_watch(transport);
    *ret_transport = &transport->stream->base;
    return 0;
}

void transport_rdma_identify(struct transport *base, uint32_t node, uint64_t incarnation)
{
    struct rdma_transport *transport = rdma_of_base(base);
    assert(node > 0);
    assert(incarnation > 0);
    transport->node = node;
    transport->incarnation = incarnation;
}

void transport_rdma_shutdown(struct transport *base)
{
    struct rdma_transport *transport = rdma_of_base(base);
    if (transport->closing)
        return;
    stream_transport_shutdown(base);
    transport->closing = true;
    list_for_each(node, &transport->conns) rdma_conn_doom(list_entry(node, struct rdma_conn, node));
    list_for_each(node, &transport->devices) rdma_device_stop(list_entry(node, struct rdma_device, node));
    env_timer_stop(transport->env, &transport->reap_timer);
    if (transport->events_polled)
        ring_cancel(transport->loop, &transport->events_op);
    assert(transport->closing);
}

size_t transport_rdma_live(const struct transport *base)
{
    const struct rdma_transport *transport = rdma_of_base(base);
    size_t live = stream_transport_live(base) + transport->conn_count + transport->events_polled;
    assert(transport->conn_count <= 2 * RDMA_LINKS_LIMIT);
    list_for_each(node, &transport->devices) live += list_entry(node, struct rdma_device, node)->channel_polled;
    return live + transport->work_task.queued;
}

void transport_rdma_destroy(struct transport *base)
{
    if (!base)
        return;
    struct rdma_transport *transport = rdma_of_base(base);
    if (transport->events_polled && !transport->closing)
        transport_rdma_shutdown(base);
    assert(transport_rdma_live(base) == 0);
    env_timer_stop(transport->env, &transport->reap_timer);
    list_for_each_safe(node, next, &transport->devices) rdma_device_free(list_entry(node, struct rdma_device, node));
    stream_transport_destroy(base);
    transport_free(transport);
}

void transport_rdma_stats(const struct transport *base, struct transport_rdma_stats *ret_stats)
{
    assert(base != NULL);
    assert(ret_stats != NULL);
    *ret_stats = rdma_of_base(base)->stats;
}

const char *transport_rdma_device(const struct link *base)
{
    const struct rdma_link *link = (const struct rdma_link *)(const void *)base; /* its first field, of its first */
    assert(link != NULL);
    if (!link->conn || !link->conn->device)
        return "";
    return ibv_get_device_name(link->conn->device->verbs->device);
}
