/* SPDX-License-Identifier: Apache-2.0 */
/* transport_sim: endpoints, segments, connects.
 *
 *   - kick defers io_task of the endpoint's env: it cuts what is queued into segments for the peer, within the peer's
 *     window, and gives arrived segments to the parser, which may leave them (pause, no buffers);
 *   - a segment's arrival is an event at the receiving node, never earlier than that of the segment before it;
 *   - connect: an event at the listener's node, then one back with the answer.
 * Failure modes are the point: cut (sim_net.c), reset, crash, power loss, refusal, time-out of a connect.
 */
#include "tests/sim/transport_sim.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/transport_sim_internal.h"

static struct sim_link *sim_link_of(struct stream_link *stream)
{
    assert(stream);
    return (struct sim_link *)(void *)stream; /* stream is its first field */
}

static struct sim_side *side_of(const struct stream_transport *transport)
{
    assert(transport->loop);
    return transport->loop;
}

uint64_t sim_net_delay_ns(struct sim_net *net, uint64_t bytes)
{
    const struct sim_net_config *config = &net->config;
    uint64_t ns =
        config->delay_min_ns + world_random_below(net->world, config->delay_max_ns - config->delay_min_ns + 1);
    assert(config->delay_max_ns >= config->delay_min_ns);
    if (config->tail_permille && world_chance(net->world, config->tail_permille))
        ns += world_random_below(net->world, config->tail_max_ns + 1);
    if (config->bytes_per_s)
        ns += bytes * 1000000000u / config->bytes_per_s;
    return ns;
}

uint64_t sim_net_slowness_ns(const struct sim_net *net, int from, int to)
{
    assert(from >= 0 && from < WORLD_NODES_MAX && to >= 0 && to < WORLD_NODES_MAX);
    return net->slow_ns[from][to];
}

bool sim_net_is_cut(const struct sim_net *net, int from, int to)
{
    assert(from >= 0 && from < WORLD_NODES_MAX && to >= 0 && to < WORLD_NODES_MAX);
    return from != to && net->cut[from][to];
}

/* ---- segments */

static void segments_drop(struct sim_link *link)
{
    for (struct list_node *node; (node = list_pop_front(&link->inbound)) != NULL;)
        free(list_entry(node, struct sim_segment, node));
    link->inbound_bytes = 0;
    world_cancel(link->side->net->world, &link->arrival);
    link->stalled = false;
}

static void segment_arrived(struct world_event *event);

void sim_link_expect(struct sim_link *link)
{
    struct world *world = link->side->net->world;
    if (list_empty(&link->inbound) || link->stalled || world_scheduled(&link->arrival))
        return;
    uint64_t due_ns = list_entry(link->inbound.next, struct sim_segment, node)->due_ns, now_ns = world_now_ns(world);
    assert(due_ns <= link->last_due_ns);
    world_schedule(world, &link->arrival, link->side->node, due_ns > now_ns ? due_ns - now_ns : 0, segment_arrived);
}

static void segment_push(struct sim_link *to, struct sim_segment *segment)
{
    struct sim_net *net = to->side->net;
    uint64_t due_ns = world_now_ns(net->world) + sim_net_delay_ns(net, segment->bytes) +
                      sim_net_slowness_ns(net, to->remote_node, to->side->node);
    if (due_ns < to->last_due_ns)
        due_ns = to->last_due_ns; /* a stream keeps its order */
    segment->due_ns = to->last_due_ns = due_ns;
    assert(due_ns >= world_now_ns(net->world));
    list_push_back(&to->inbound, &segment->node);
    to->inbound_bytes += segment->bytes;
    net->stats.segments++;
    net->stats.bytes += segment->bytes;
    sim_link_expect(to);
}

static struct sim_segment *segment_create(uint32_t bytes)
{
    struct sim_segment *segment = malloc(sizeof(*segment) + bytes);
    assert(segment);
    *segment = (struct sim_segment){.bytes = bytes};
    return segment;
}

/* Arrived, and before the direction was cut if it is. */
static bool segment_is_here(const struct sim_link *link)
{
    const struct sim_net *net = link->side->net;
    if (link->stalled || list_empty(&link->inbound))
        return false;
    uint64_t due_ns = list_entry(link->inbound.next, struct sim_segment, node)->due_ns;
    assert(due_ns <= link->last_due_ns);
    if (sim_net_is_cut(net, link->remote_node, link->side->node) &&
        due_ns > net->cut_since_ns[link->remote_node][link->side->node])
        return false;
    return due_ns <= world_now_ns(net->world);
}

/* ---- the two directions of an endpoint */

static bool can_send(const struct sim_link *link)
{
    return stream_link_wants_send(&link->stream) && link->peer && link->peer->inbound_bytes < SIM_WINDOW_BYTES;
}

static void sim_send(struct sim_link *link)
{
    struct iovec vec[FRAME_TX_VEC_MAX];
    while (can_send(link)) {
        unsigned n = frame_tx_gather(&link->stream.tx, vec);
        uint32_t room = SIM_WINDOW_BYTES - (uint32_t)link->peer->inbound_bytes, bytes = 0;
        room = room < SIM_SEGMENT_BYTES ? room : SIM_SEGMENT_BYTES;
        for (unsigned i = 0; i < n && bytes < room; i++)
            bytes += vec[i].iov_len < room - bytes ? (uint32_t)vec[i].iov_len : room - bytes;
        struct sim_segment *segment = segment_create(bytes);
        uint32_t at = 0;
        for (unsigned i = 0; at < bytes; i++) {
            uint32_t piece = vec[i].iov_len < bytes - at ? (uint32_t)vec[i].iov_len : bytes - at;
            memcpy(segment->data + at, vec[i].iov_base, piece);
            at += piece;
        }
        segment_push(link->peer, segment);
        stream_link_sent(&link->stream, bytes);
    }
}

/* Gives the parser a piece of the first segment. */
static void receive_piece(struct sim_link *link, struct sim_segment *segment)
{
    struct iovec vec[FRAME_RX_VEC_MAX];
    unsigned n = frame_rx_space(&link->stream.rx, vec);
    uint32_t got = 0;
    for (unsigned i = 0; i < n && segment->taken < segment->bytes; i++) {
        uint32_t piece = segment->bytes - segment->taken;
        if (piece > vec[i].iov_len)
            piece = (uint32_t)vec[i].iov_len;
        memcpy(vec[i].iov_base, segment->data + segment->taken, piece);
        segment->taken += piece;
        got += piece;
    }
    assert(got > 0 && link->inbound_bytes >= got);
    link->inbound_bytes -= got;
    if (segment->taken == segment->bytes) {
        list_remove(&segment->node);
        free(segment);
    }
    stream_link_received(&link->stream, got);
}

static void sim_receive(struct sim_link *link)
{
    while (stream_link_wants_read(&link->stream) && segment_is_here(link)) {
        struct sim_segment *segment = list_entry(link->inbound.next, struct sim_segment, node);
        if (segment->bytes > 0) {
            receive_piece(link, segment);
            continue;
        }
        list_remove(&segment->node); /* end of file */
        free(segment);
        stream_link_received(&link->stream, 0);
    }
    if (link->stopped)
        return;
    if (!segment_is_here(link))
        sim_link_expect(link);
    if (link->peer && can_send(link->peer)) /* the window opened */
        link->peer->stream.transport->io->kick(&link->peer->stream);
}

static void sim_io(struct env_task *task)
{
    struct sim_link *link = list_entry(task, struct sim_link, io_task);
    if (link->stopped) {
        stream_link_gone(&link->stream);
        return;
    }
    sim_send(link);
    sim_receive(link);
}

static void sim_link_kick(struct stream_link *stream)
{
    struct sim_link *link = sim_link_of(stream);
    if (can_send(link) || (stream_link_wants_read(stream) && segment_is_here(link)))
        env_defer(stream->transport->env, &link->io_task, sim_io);
}

static void segment_arrived(struct world_event *event)
{
    struct sim_link *link = list_entry(event, struct sim_link, arrival);
    struct sim_net *net = link->side->net;
    assert(!link->stopped && !link->side->dead);
    if (list_empty(&link->inbound))
        return; /* held by a pause, and taken since by the endpoint's task */
    if (sim_net_is_cut(net, link->remote_node, link->side->node)) {
        link->stalled = true; /* sim_net_cut(..., false) goes on */
        net->stats.stalls++;
        return;
    }
    sim_receive(link);
}

/* ---- ends */

static void link_dies(struct world_event *event)
{
    struct sim_link *link = list_entry(event, struct sim_link, death);
    assert(!link->stopped && !link->side->dead);
    assert(link->death_reason < 0);
    link->side->net->stats.resets++;
    segments_drop(link);
    if (link->stream.state == STREAM_CONNECTING)
        stream_link_connected(&link->stream, link->death_reason);
    else
        stream_link_received(&link->stream, link->death_reason);
}

void sim_link_kill(struct sim_link *link, int reason, uint64_t delay_ns)
{
    assert(reason < 0 && !link->stopped);
    link->death_reason = reason;
    world_schedule(link->side->net->world, &link->death, link->side->node, delay_ns, link_dies);
}

void sim_link_detach(struct sim_link *link)
{
    if (link->peer) {
        assert(link->peer->peer == link);
        link->peer->peer = NULL;
        link->peer = NULL;
    }
}

/* What the kernel does at close(2): end of file behind the data in flight, or a reset if something was unread. */
static void sim_say_goodbye(struct sim_link *link)
{
    struct sim_net *net = link->side->net;
    struct sim_link *peer = link->peer;
    if (!peer)
        return;
    bool reset = link->stream.reason != 0 || !list_empty(&link->inbound) || world_chance(net->world, 300);
    if (!reset)
        segment_push(peer, segment_create(0));
    else if (!sim_net_is_cut(net, link->side->node, link->remote_node))
        sim_link_kill(peer, -ECONNRESET, sim_net_delay_ns(net, 0));
}

static void sim_link_stop(struct stream_link *stream)
{
    struct sim_link *link = sim_link_of(stream);
    if (link->side->dead)
        return; /* transport_sim_destroy frees it */
    assert(!link->stopped);
    link->stopped = true;
    sim_say_goodbye(link);
    sim_link_detach(link);
    segments_drop(link);
    world_cancel(link->side->net->world, &link->death);
    world_cancel(link->side->net->world, &link->connecting);
    if (!link->io_task.queued)
        stream_link_gone(stream);
}

/* ---- connect, listen */

static void sim_link_init(struct sim_link *link, struct sim_side *side, int remote_node)
{
    list_head_init(&link->inbound);
    link->side = side;
    link->remote_node = remote_node;
    assert(!link->peer);
}

static struct stream_listener *listener_find(struct sim_net *net, const char *address)
{
    list_for_each(pos, &net->sides)
    {
        struct sim_side *side = list_entry(pos, struct sim_side, net_node);
        if (side->dead)
            continue;
        list_for_each(at, &side->stream->listeners)
        {
            struct stream_listener *listener = list_entry(at, struct stream_listener, node);
            if (!listener->closing && strcmp(listener->text, address) == 0)
                return listener;
        }
    }
    return NULL;
}

static void connect_answered(struct world_event *event)
{
    struct sim_link *link = list_entry(event, struct sim_link, connecting);
    assert(!link->stopped && link->stream.state == STREAM_CONNECTING);
    if (sim_net_is_cut(link->side->net, link->remote_node, link->side->node))
        return; /* lost: the connect times out */
    stream_link_connected(&link->stream, link->connect_rc);
}

/* At the listener's node. */
static void connect_arrived(struct world_event *event)
{
    struct sim_link *link = list_entry(event, struct sim_link, connecting);
    struct sim_net *net = link->side->net;
    char peer[SOCKET_ADDRESS_CHARS];
    assert(!link->stopped && !link->peer);
    if (sim_net_is_cut(net, link->side->node, link->remote_node) || !world_node_powered(net->world, link->remote_node))
        return;
    struct stream_listener *listener = listener_find(net, link->stream.peer);
    link->connect_rc = -ECONNREFUSED;
    link->last_due_ns = world_now_ns(net->world) + sim_net_delay_ns(net, 0);
    world_schedule(net->world, &link->connecting, link->side->node, link->last_due_ns - world_now_ns(net->world),
                   connect_answered);
    if (!listener)
        return;
    link->connect_rc = 0;
    (void)snprintf(peer, sizeof(peer), "sim:%d:0", link->side->node);
    net->offered = link;
    int rc = stream_listener_offer(listener, -1, peer);
    assert(rc == 0);
    net->stats.links++;
}

static int sim_link_connect(struct stream_link *stream, const char *address)
{
    struct sim_link *link = sim_link_of(stream);
    struct sim_side *side = side_of(stream->transport);
    int node = -1, port = 0;
    char rest = 0;
    if (sscanf(address, "sim:%d:%d%c", &node, &port, &rest) != 2 || port <= 0 || node < 0 || node >= WORLD_NODES_MAX)
        return -EINVAL;
    assert(!side->dead);
    sim_link_init(link, side, node);
    world_schedule(side->net->world, &link->connecting, node, sim_net_delay_ns(side->net, 0), connect_arrived);
    return 0;
}

static int sim_link_open(struct stream_link *stream)
{
    struct sim_link *link = sim_link_of(stream);
    struct sim_side *side = side_of(stream->transport);
    struct sim_link *other = side->net->offered;
    assert(other && !other->peer);
    side->net->offered = NULL;
    sim_link_init(link, side, other->side->node);
    link->last_due_ns = other->last_due_ns; /* the connector sends only once it is connected */
    link->peer = other;
    other->peer = link;
    return 0;
}

static int sim_listen(struct stream_listener *listener, const char *address)
{
    struct sim_side *side = side_of(listener->transport);
    int node = -1, port = 0;
    char rest = 0;
    if (sscanf(address, "sim:%d:%d%c", &node, &port, &rest) != 2 || port < 0 || node != side->node)
        return -EINVAL;
    if (port == 0)
        port = side->net->next_port++;
    (void)snprintf(listener->text, sizeof(listener->text), "sim:%d:%d", node, port);
    assert(port > 0);
    return listener_find(side->net, listener->text) ? -EADDRINUSE : 0;
}

static void sim_listen_again(struct stream_listener *listener)
{
    assert(!listener->closing); /* nothing to arm: connects look for listeners */
}

static void sim_listen_stop(struct stream_listener *listener)
{
    assert(listener->closing);
    if (!side_of(listener->transport)->dead)
        stream_listener_gone(listener);
}

/* ---- the transport */

static const struct stream_io sim_io_ops = {
    .link_bytes = sizeof(struct sim_link),
    .listener_bytes = sizeof(struct stream_listener),
    .receives_at_once = true,
    .connect = sim_link_connect,
    .open = sim_link_open,
    .kick = sim_link_kick,
    .stop = sim_link_stop,
    .listen = sim_listen,
    .listen_again = sim_listen_again,
    .listen_stop = sim_listen_stop,
};

int transport_sim_create(struct sim_net *net, int node, struct env *env, struct buf_pool *bufs,
                         struct transport **ret_transport)
{
    assert(world_node_up(net->world, node));
    struct sim_side *side = calloc(1, sizeof(*side));
    assert(side);
    side->net = net;
    side->node = node;
    side->stream = stream_transport_create(&sim_io_ops, env, bufs, side);
    assert(side->stream);
    list_push_back(&net->sides, &side->net_node);
    *ret_transport = &side->stream->base;
    return 0;
}

void transport_sim_destroy(struct transport *transport)
{
    if (!transport)
        return;
    struct sim_side *side = side_of((struct stream_transport *)(void *)transport);
    list_remove(&side->net_node);
    if (side->dead)
        stream_transport_abandon(transport);
    else
        stream_transport_destroy(transport);
    free(side);
}

/* The node's crash: its endpoints fall silent; the peers learn in time. */
void sim_side_crash(struct sim_side *side, enum world_crash kind)
{
    struct sim_net *net = side->net;
    list_for_each(pos, &side->stream->links)
    {
        struct sim_link *link = list_entry(pos, struct sim_link, stream.node);
        struct sim_link *peer = link->peer;
        if (link->stopped)
            continue;
        sim_link_detach(link);
        segments_drop(link);
        world_cancel(net->world, &link->death);
        world_cancel(net->world, &link->connecting);
        if (!peer)
            continue;
        bool told = kind == WORLD_CRASH_PROCESS && !sim_net_is_cut(net, side->node, peer->side->node);
        if (told)
            sim_link_kill(peer, -ECONNRESET, sim_net_delay_ns(net, 0));
        else if (!world_scheduled(&peer->death))
            sim_link_kill(peer, -ETIMEDOUT, net->config.dead_ns);
    }
    side->dead = true;
}
