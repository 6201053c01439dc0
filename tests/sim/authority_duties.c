/* SPDX-License-Identifier: Apache-2.0 */
/* authority_duties: what the leader does on its own: NODE_DOWN, ELECT, grants of sessions (R19), replacement of members.
 *
 * - silence longer than node_timeout, or a suspicion that a probe confirms (the connect is refused): NODE_DOWN.
 * - a shard without a primary, grace after the last registration: ELECT (R18).
 * - a session is granted when every node that may be primary of the volume applied it, or its lease ran out.
 * - a node down longer than out_after: NODE_OUT, then MEMBER_ATTACH of another, MEMBER_DETACH once the others suffice (R17).
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/authority_internal.h"
#include "tests/sim/transport_sim_internal.h"

#define TICK_NS ENV_MS(50)

static void declare_down(struct authority *a, const struct map_node *node)
{
    if (a->down_proposed[node->id])
        return;
    a->down_proposed[node->id] = true;
    a->down_since_ns[node->id] = world_now_ns(a->world);
    struct map_entry entry = {.kind = MAP_ENTRY_NODE_DOWN, .node = node->id, .incarnation = node->incarnation};
    commit_entry(a, &entry);
}

/* The leader connects to the node's control address: refused means that the process is gone. */
void duties_suspect(struct authority *a, uint32_t id)
{
    const struct map_node *node = map_node_by_id(a->map, id);
    if (!node || !node->up || (int)id > a->config.node_max)
        return;
    bool cut = sim_net_is_cut(a->config.net, a->config.node, (int)id) ||
               sim_net_is_cut(a->config.net, (int)id, a->config.node);
    bool refused = !cut && world_node_powered(a->world, (int)id) && !world_node_up(a->world, (int)id);
    if (refused)
        declare_down(a, node);
}

static void check_node(void *arg, const struct map_node *node)
{
    struct authority *a = arg;
    const struct port *port = port_of(a, (int)node->id);
    if (!node->up)
        return;
    uint64_t now = world_now_ns(a->world);
    uint64_t heard = port && port->incarnation == node->incarnation ? port->heard_ns : 0;
    if (heard == 0) { /* its life ended: the last one that had this incarnation */
        list_for_each(pos, &a->ports)
        {
            const struct port *old = list_entry(pos, struct port, link);
            if (old->incarnation == node->incarnation)
                heard = old->heard_ns;
        }
    }
    if (now > heard + a->config.node_timeout_ns)
        declare_down(a, node);
}

struct electable {
    const struct map *map;
    bool wanted;
};

static void look_for_orphans(void *arg, const struct map_volume *v)
{
    struct electable *e = arg;
    for (uint32_t i = 0; i < v->shard_count; i++)
        for (uint32_t k = 0; v->shards[i].primary == 0 && k < v->shards[i].member_count; k++)
            e->wanted = e->wanted || map_member_electable(e->map, &v->shards[i].members[k]);
}

static void check_elections(struct authority *a)
{
    struct electable e = {.map = a->map};
    if (a->elect_proposed || world_now_ns(a->world) < a->registered_ns + a->config.grace_ns)
        return;
    map_each_volume(a->map, look_for_orphans, &e);
    if (!e.wanted)
        return;
    a->elect_proposed = true;
    struct map_entry entry = {.kind = MAP_ENTRY_ELECT, .shard = UINT32_MAX};
    commit_entry(a, &entry);
}

/* ---- sessions ---- */

static bool node_knows(struct authority *a, uint32_t id, uint64_t version)
{
    const struct map_node *node = map_node_by_id(a->map, id);
    const struct port *port = port_of(a, (int)id);
    if (world_now_ns(a->world) > a->lease_until_ns[id] && (!node || !node->up))
        return true;
    return node && node->up && port && port->incarnation == node->incarnation && port->applied >= version;
}

static bool grant_ready(struct authority *a, const struct grant *grant)
{
    const struct map_volume *v = map_volume_by_id(a->map, grant->volume);
    for (uint32_t i = 0; v && i < v->shard_count; i++)
        for (uint32_t k = 0; k < v->shards[i].member_count; k++)
            if (!node_knows(a, v->shards[i].members[k].node, grant->version))
                return false;
    return true;
}

static void check_grants(struct authority *a)
{
    list_for_each_safe(pos, tmp, &a->grants)
    {
        struct grant *grant = list_entry(pos, struct grant, link);
        if (!grant_ready(a, grant))
            continue;
        list_remove(&grant->link);
        if (grant->attach) {
            grant->attach->cb(grant->attach, 0, grant->session);
        } else if (!grant->port->dead) {
            struct channel_msg *msg = channel_msg_create(DOWN_ATTACHED, NULL, 0);
            msg->req = grant->req;
            msg->a = grant->session;
            msg->b = grant->version;
            channel_push(&grant->port->down, msg);
        }
        free(grant);
    }
}

/* ---- replacement (R17) ---- */

static void check_out(void *arg, const struct map_node *node)
{
    struct authority *a = arg;
    if (node->up || node->out || world_now_ns(a->world) < a->down_since_ns[node->id] + a->config.out_after_ns)
        return;
    struct map_entry entry = {.kind = MAP_ENTRY_NODE_OUT, .node = node->id, .incarnation = node->incarnation};
    commit_entry(a, &entry);
}

static bool heal_shard(struct authority *a, const struct map_volume *v, const struct map_shard *s)
{
    uint32_t exclude[MAP_MEMBERS_MAX], count = 0, staying = 0;
    const struct map_member *gone = NULL;
    for (uint32_t i = 0; i < s->member_count; i++) {
        const struct map_member *m = &s->members[i];
        const struct map_node *node = map_node_by_id(a->map, m->node);
        exclude[count++] = m->node;
        if ((m->flags & MAP_MEMBER_LEAVING) || (node && node->out))
            gone = m;
        else
            staying++;
    }
    if (!gone)
        return false;
    struct map_entry entry = {.volume = v->id, .shard = s->index, .epoch = s->epoch};
    if (staying >= v->replicas) {
        if (map_in_sync_count(s) < v->replicas || s->active_epoch != s->epoch)
            return false;
        entry.kind = MAP_ENTRY_MEMBER_DETACH;
        entry.node = gone->node;
        entry.instance = gone->instance;
        commit_entry(a, &entry);
        return true;
    }
    uint32_t node_id = 0;
    if (s->member_count == MAP_MEMBERS_MAX ||
        map_place(a->map, v->id, s->index, 1, 0, NULL, 0, exclude, count, &node_id) != 1)
        return false;
    entry.kind = MAP_ENTRY_MEMBER_ATTACH;
    entry.node = node_id;
    entry.incarnation = map_node_by_id(a->map, node_id)->incarnation;
    entry.to_node = gone->node;
    commit_entry(a, &entry);
    return true;
}

static void check_members(void *arg, const struct map_volume *v)
{
    for (uint32_t i = 0; i < v->shard_count; i++)
        (void)heal_shard(arg, v, &v->shards[i]);
}

void duties_tick(struct world_event *event)
{
    struct authority *a = list_entry(event, struct authority, tick);
    map_each_node(a->map, check_node, a);
    check_elections(a);
    check_grants(a);
    if (a->config.out_after_ns && list_empty(&a->commits)) {
        map_each_node(a->map, check_out, a);
        map_each_volume(a->map, check_members, a);
    }
    world_schedule(a->world, &a->tick, WORLD_NOBODY, TICK_NS, duties_tick);
}
