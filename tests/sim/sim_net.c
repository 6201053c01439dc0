/* SPDX-License-Identifier: Apache-2.0 */
/* sim_net: the faults of the simulated network: cuts, resets, crashes and what comes of them.
 *
 *   - a cut stalls arrivals (transport_sim.c) and gives every link between the two nodes dead_ns to live;
 *   - healing both directions takes that back and lets stalled segments go on; an end whose peer is gone by then, and
 *     which has no end of file in its queue, gets the reset it could not get before;
 *   - a restarted node answers what it does not know with resets.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/transport_sim_internal.h"

#define SIM_DEAD_MS 10000u
#define SIM_DELAY_MIN_NS 20000u
#define SIM_DELAY_MAX_NS 80000u
#define SIM_PROBE_MAX_MS 1000u /* how soon an end talks to a restarted node */

typedef void (*link_visitor)(struct sim_net *net, struct sim_link *link);

/* Every live end at node `at` of a link to node `to`. */
static void visit_links(struct sim_net *net, int at, int to, link_visitor visit)
{
    list_for_each(pos, &net->sides)
    {
        struct sim_side *side = list_entry(pos, struct sim_side, net_node);
        if (side->dead || side->node != at)
            continue;
        list_for_each_safe(node, next, &side->stream->links)
        {
            struct sim_link *link = list_entry(node, struct sim_link, stream.node);
            assert(link->side == side);
            if (!link->stopped && link->remote_node == to && link->stream.state == STREAM_OPEN)
                visit(net, link);
        }
    }
}

/* ---- cuts */

static void link_cut(struct sim_net *net, struct sim_link *link)
{
    assert(!link->stopped);
    if (!world_scheduled(&link->death))
        sim_link_kill(link, -ETIMEDOUT,
                      net->config.dead_ns + world_random_below(net->world, net->config.dead_ns / 4 + 1));
}

static bool ends_in_end_of_file(const struct sim_link *link)
{
    return !list_empty(&link->inbound) && list_entry(link->inbound.prev, struct sim_segment, node)->bytes == 0;
}

static void link_healed(struct sim_net *net, struct sim_link *link)
{
    assert(!link->stopped);
    if (link->stalled) {
        uint64_t late_ns = world_now_ns(net->world) + sim_net_delay_ns(net, 0);
        link->stalled = false;
        list_entry(link->inbound.next, struct sim_segment, node)->due_ns = late_ns;
        if (link->last_due_ns < late_ns)
            link->last_due_ns = late_ns;
        sim_link_expect(link);
    }
    if (sim_net_is_cut(net, link->side->node, link->remote_node) ||
        sim_net_is_cut(net, link->remote_node, link->side->node))
        return;
    if (link->peer || !world_node_powered(net->world, link->remote_node))
        return; /* link_spared decides */
    if (!ends_in_end_of_file(link))
        sim_link_kill(link, -ECONNRESET, sim_net_delay_ns(net, 0));
}

static void link_spared(struct sim_net *net, struct sim_link *link)
{
    bool cut = sim_net_is_cut(net, link->side->node, link->remote_node) ||
               sim_net_is_cut(net, link->remote_node, link->side->node);
    assert(!link->stopped);
    if (!cut && link->peer && link->death_reason == -ETIMEDOUT)
        world_cancel(net->world, &link->death);
}

static void links_of_pair(struct sim_net *net, int a, int b, link_visitor visit)
{
    visit_links(net, a, b, visit);
    if (a != b)
        visit_links(net, b, a, visit);
}

void sim_net_cut(struct sim_net *net, int from, int to, bool cut)
{
    assert(from != to);
    assert(from >= 0 && from < WORLD_NODES_MAX && to >= 0 && to < WORLD_NODES_MAX);
    if (net->cut[from][to] == cut)
        return;
    net->cut[from][to] = cut;
    net->cut_since_ns[from][to] = world_now_ns(net->world);
    world_trace(net->world, cut ? 101 : 102, (uint64_t)from, (uint64_t)to);
    if (cut) {
        links_of_pair(net, from, to, link_cut);
    } else {
        links_of_pair(net, from, to, link_healed);
        links_of_pair(net, from, to, link_spared);
    }
}

void sim_net_isolate(struct sim_net *net, int node, bool cut)
{
    for (int other = 0; other < WORLD_NODES_MAX; other++) {
        if (other == node)
            continue;
        sim_net_cut(net, node, other, cut);
        sim_net_cut(net, other, node, cut);
    }
}

void sim_net_heal(struct sim_net *net)
{
    memset(net->slow_ns, 0, sizeof(net->slow_ns));
    for (int from = 0; from < WORLD_NODES_MAX; from++)
        for (int to = 0; to < WORLD_NODES_MAX; to++)
            if (net->cut[from][to])
                sim_net_cut(net, from, to, false);
}

void sim_net_slow(struct sim_net *net, int from, int to, uint64_t extra_ns)
{
    assert(from >= 0 && from < WORLD_NODES_MAX && to >= 0 && to < WORLD_NODES_MAX);
    net->slow_ns[from][to] = extra_ns;
    world_trace(net->world, 104, (uint64_t)from << 32 | (uint64_t)to, extra_ns);
}

/* ---- resets and crashes */

static void link_reset(struct sim_net *net, struct sim_link *link)
{
    struct sim_link *peer = link->peer;
    sim_link_detach(link);
    sim_link_kill(link, -ECONNRESET, sim_net_delay_ns(net, 0));
    if (peer && !peer->stopped)
        sim_link_kill(peer, -ECONNRESET, sim_net_delay_ns(net, 0));
}

void sim_net_reset(struct sim_net *net, int a, int b)
{
    world_trace(net->world, 103, (uint64_t)a, (uint64_t)b);
    links_of_pair(net, a, b, link_reset);
}

static void node_crashed(struct world_watcher *watcher, int node, enum world_crash kind)
{
    struct sim_net *net = list_entry(watcher, struct sim_net, watcher);
    list_for_each(pos, &net->sides)
    {
        struct sim_side *side = list_entry(pos, struct sim_side, net_node);
        if (side->node == node && !side->dead)
            sim_side_crash(side, kind);
    }
}

static void link_unknown(struct sim_net *net, struct sim_link *link)
{
    if (!link->peer && !sim_net_is_cut(net, link->side->node, link->remote_node) &&
        !sim_net_is_cut(net, link->remote_node, link->side->node))
        sim_link_kill(link, -ECONNRESET, world_random_below(net->world, ENV_MS(SIM_PROBE_MAX_MS)));
}

static void node_started(struct world_watcher *watcher, int node)
{
    struct sim_net *net = list_entry(watcher, struct sim_net, watcher);
    assert(world_node_up(net->world, node));
    for (int other = 0; other < WORLD_NODES_MAX; other++)
        visit_links(net, other, node, link_unknown);
}

/* ---- the net */

struct sim_net *sim_net_create(struct world *world, const struct sim_net_config *config)
{
    struct sim_net *net = calloc(1, sizeof(*net));
    assert(net && config);
    net->world = world;
    net->config = *config;
    if (net->config.delay_max_ns == 0) {
        net->config.delay_min_ns = SIM_DELAY_MIN_NS;
        net->config.delay_max_ns = SIM_DELAY_MAX_NS;
    }
    if (net->config.dead_ns == 0)
        net->config.dead_ns = ENV_MS(SIM_DEAD_MS);
    net->next_port = 1000;
    list_head_init(&net->sides);
    net->watcher.crashed = node_crashed;
    net->watcher.started = node_started;
    world_watch(world, &net->watcher);
    return net;
}

void sim_net_destroy(struct sim_net *net)
{
    if (!net)
        return;
    assert(list_empty(&net->sides));
    world_unwatch(net->world, &net->watcher);
    free(net);
}

void sim_net_stats(const struct sim_net *net, struct sim_net_stats *ret_stats)
{
    assert(net && ret_stats);
    *ret_stats = net->stats;
}
