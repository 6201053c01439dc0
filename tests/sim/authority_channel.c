/* SPDX-License-Identifier: Apache-2.0 */
/* authority_channel: the ordered channels between a node and the authority.
 *
 * - push: due after a random delay, never before what was pushed earlier.
 * - deliver: all that is due; while the network between is cut the channel stalls, and goes on after it (TCP retransmits).
 * Failure: a dead port's downward messages are dropped, upward ones that were sent before may still arrive.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/authority_internal.h"
#include "tests/sim/transport_sim_internal.h"

#define STALL_NS ENV_MS(10)

struct channel_msg *channel_msg_create(enum channel_kind kind, const void *bytes, size_t len)
{
    struct channel_msg *msg = calloc(1, sizeof(*msg));
    assert(msg);
    msg->kind = kind;
    if (len > 0) {
        msg->bytes = malloc(len);
        assert(msg->bytes);
        memcpy(msg->bytes, bytes, len);
        msg->len = len;
    }
    return msg;
}

static void msg_destroy(struct channel_msg *msg)
{
    free(msg->bytes);
    free(msg);
}

static void down(struct port *port, struct channel_msg *msg)
{
    struct bridge_to_data *data = port->data;
    switch (msg->kind) {
    case DOWN_SNAPSHOT: data->ops->map_snapshot(data, msg->a, msg->bytes, msg->len); break;
    case DOWN_REGISTERED: data->ops->registered(data, AUTHORITY_CLUSTER, (uint32_t)port->node, msg->a); break;
    case DOWN_ENTRY: data->ops->map_entry(data, msg->a, msg->bytes, msg->len); break;
    case DOWN_LEASE: data->ops->lease(data, msg->a, msg->b); break;
    case DOWN_RESULT: {
        struct bridge_propose *req = msg->req;
        req->cb(req, &msg->result);
        break;
    }
    case DOWN_ATTACHED: {
        struct bridge_attach *req = msg->req;
        req->session = msg->a;
        req->version = msg->b;
        const struct map_volume *v = map_volume_by_name(port->authority->map, req->volume_name);
        req->volume = v ? v->id : 0;
        req->size = v ? v->size : 0;
        req->cb(req, msg->result.rc);
        break;
    }
    case DOWN_DEPOSED: port->deposed(port->arg); break;
    default: assert(!"an upward message on its way down");
    }
}

static void deliver(struct world_event *event);

static void expect(struct channel *channel)
{
    struct world *world = channel->port->authority->world;
    if (list_empty(&channel->msgs) || world_scheduled(&channel->event))
        return;
    uint64_t due = list_entry(channel->msgs.next, struct channel_msg, link)->due_ns, now = world_now_ns(world);
    world_schedule(world, &channel->event, channel->up ? WORLD_NOBODY : channel->port->node, due > now ? due - now : 0,
                   deliver);
}

static void deliver(struct world_event *event)
{
    struct channel *channel = list_entry(event, struct channel, event);
    struct port *port = channel->port;
    struct authority *a = port->authority;
    int from = channel->up ? port->node : a->config.node, to = channel->up ? a->config.node : port->node;
    if (sim_net_is_cut(a->config.net, from, to)) {
        world_schedule(a->world, &channel->event, channel->up ? WORLD_NOBODY : port->node, STALL_NS, deliver);
        return;
    }
    while (!list_empty(&channel->msgs)) {
        struct channel_msg *msg = list_entry(channel->msgs.next, struct channel_msg, link);
        if (msg->due_ns > world_now_ns(a->world))
            break;
        list_remove(&msg->link);
        if (channel->up)
            authority_receive(port, msg);
        else if (!port->dead)
            down(port, msg);
        msg_destroy(msg);
    }
    expect(channel);
}

void channel_push(struct channel *channel, struct channel_msg *msg)
{
    struct authority *a = channel->port->authority;
    uint64_t due = world_now_ns(a->world) + 50000 + world_random_below(a->world, 400000);
    if (world_chance(a->world, 20))
        due += world_random_below(a->world, ENV_MS(30)); /* a node may learn an entry much later than its peers */
    if (channel->port->dead && !channel->up) {
        msg_destroy(msg);
        return;
    }
    if (due < channel->last_due_ns)
        due = channel->last_due_ns;
    msg->due_ns = channel->last_due_ns = due;
    list_push_back(&channel->msgs, &msg->link);
    expect(channel);
}

void channel_drop(struct channel *channel)
{
    struct list_node *node;
    while ((node = list_pop_front(&channel->msgs)))
        msg_destroy(list_entry(node, struct channel_msg, link));
    world_cancel(channel->port->authority->world, &channel->event);
}

void port_init(struct authority *a, struct port *port, int node)
{
    port->authority = a;
    port->node = node;
    port->up.port = port->down.port = port;
    port->up.up = true;
    list_head_init(&port->up.msgs);
    list_head_init(&port->down.msgs);
}
