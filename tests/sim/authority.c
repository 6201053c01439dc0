/* SPDX-License-Identifier: Apache-2.0 */
/* authority: registration, commits, leases and sessions of the stand-in for the control plane.
 *
 * - a proposal arrives -> commit queue (a random delay, in order) -> map_apply here -> the entry's bytes go down to every
 *   registered node -> the result goes to who asked, behind the entry on the same channel (bridge.h).
 * - register: NODE_REGISTER is committed, then snapshot and `registered` go down.
 * - heartbeat: the lease counts from its send time on the node's clock (R9); the end is remembered for R19.
 * Failure: results for a dead port are dropped: the proposer is gone.
 */
#include "tests/sim/authority.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/authority_internal.h"

struct port *port_of(struct authority *a, int node)
{
    list_for_each(pos, &a->ports)
    {
        struct port *port = list_entry(pos, struct port, link);
        if (port->node == node && !port->dead)
            return port;
    }
    return NULL;
}

/* ---- commits ---- */

static void copy_shards(void *arg, const struct map_volume *volume)
{
    struct map_shard **at = arg;
    memcpy(*at, volume->shards, volume->shard_count * sizeof(**at));
    *at += volume->shard_count;
}

static void count_shards(void *arg, const struct map_volume *volume)
{
    *(uint32_t *)arg += volume->shard_count;
}

/* Tells the observer which shards changed, with what they were before. */
static void apply(struct authority *a, const uint8_t *bytes, size_t len, struct map_result *ret_result)
{
    uint32_t count = 0;
    map_each_volume(a->map, count_shards, &count);
    struct map_shard *before = calloc(count + 1, sizeof(*before)), *at = before;
    map_each_volume(a->map, copy_shards, &at);
    map_apply(a->map, map_version(a->map) + 1, bytes, len, ret_result);
    for (uint32_t i = 0; i < count; i++) {
        const struct map_shard *now = map_shard_at(a->map, before[i].volume, before[i].index);
        if (now && now->changed_version != before[i].changed_version && a->config.shard_changed)
            a->config.shard_changed(a->config.arg, &before[i], now);
    }
    free(before);
    list_for_each(pos, &a->ports)
    {
        struct port *port = list_entry(pos, struct port, link);
        if (port->dead || !port->incarnation)
            continue;
        struct channel_msg *msg = channel_msg_create(DOWN_ENTRY, bytes, len);
        msg->a = map_version(a->map);
        channel_push(&port->down, msg);
    }
}

static void registered(struct authority *a, struct commit *commit, const struct map_result *result)
{
    struct port *port = commit->port;
    if (port->dead)
        return;
    assert(result->rc == 0);
    void *bytes;
    size_t len;
    int rc = map_snapshot(a->map, &bytes, &len);
    assert(rc == 0);
    struct channel_msg *msg = channel_msg_create(DOWN_SNAPSHOT, bytes, len);
    msg->a = map_version(a->map);
    channel_push(&port->down, msg);
    free(bytes);
    msg = channel_msg_create(DOWN_REGISTERED, NULL, 0);
    msg->a = port->incarnation = result->value;
    channel_push(&port->down, msg);
    port->heard_ns = a->registered_ns = world_now_ns(a->world);
    a->lease_until_ns[port->node] = 0; /* a newer incarnation is the proof of exit (R10) */
    a->down_proposed[port->node] = false;
}

static void session_opened(struct authority *a, struct commit *commit, const struct map_result *result)
{
    if (result->rc != 0) {
        if (commit->attach) {
            commit->attach->cb(commit->attach, result->rc, 0);
        } else if (!commit->port->dead) {
            struct channel_msg *msg = channel_msg_create(DOWN_ATTACHED, NULL, 0);
            msg->req = commit->req;
            msg->result.rc = result->rc;
            channel_push(&commit->port->down, msg);
        }
        return;
    }
    struct map_entry entry;
    int rc = map_entry_decode(commit->bytes, commit->len, &entry);
    assert(rc == 0);
    struct grant *grant = calloc(1, sizeof(*grant));
    assert(grant);
    grant->port = commit->port;
    grant->req = commit->req;
    grant->attach = commit->attach;
    grant->volume = entry.volume;
    grant->session = result->value;
    grant->version = result->version;
    map_entry_free(&entry);
    list_push_back(&a->grants, &grant->link);
}

static void committed(struct authority *a, struct commit *commit)
{
    struct map_result result = {0};
    apply(a, commit->bytes, commit->len, &result);
    switch (commit->kind) {
    case UP_REGISTER: registered(a, commit, &result); return;
    case UP_ATTACH: session_opened(a, commit, &result); return;
    case UP_PROPOSE: break;
    default: a->elect_proposed = false; return;
    }
    struct channel_msg *msg = channel_msg_create(DOWN_RESULT, NULL, 0);
    msg->req = commit->req;
    msg->result = result;
    channel_push(&commit->port->down, msg);
}

static void commit_due(struct world_event *event)
{
    struct authority *a = list_entry(event, struct authority, commit_event);
    while (!list_empty(&a->commits)) {
        struct commit *commit = list_entry(a->commits.next, struct commit, link);
        uint64_t now = world_now_ns(a->world);
        if (commit->due_ns > now) {
            world_schedule(a->world, &a->commit_event, WORLD_NOBODY, commit->due_ns - now, commit_due);
            return;
        }
        list_remove(&commit->link);
        committed(a, commit);
        free(commit->bytes);
        free(commit);
    }
}

void commit_push(struct authority *a, struct commit *commit)
{
    uint64_t now = world_now_ns(a->world);
    uint64_t span = a->config.commit_max_ns - a->config.commit_min_ns;
    uint64_t due = now + a->config.commit_min_ns + world_random_below(a->world, span + 1);
    commit->due_ns = a->last_due_ns = due > a->last_due_ns ? due : a->last_due_ns;
    list_push_back(&a->commits, &commit->link);
    if (!world_scheduled(&a->commit_event))
        world_schedule(a->world, &a->commit_event, WORLD_NOBODY, commit->due_ns - now, commit_due);
}

static struct commit *commit_create(const struct map_entry *entry, enum channel_kind kind)
{
    struct commit *commit = calloc(1, sizeof(*commit));
    assert(commit);
    commit->kind = kind;
    if (!entry)
        return commit;
    commit->bytes = malloc(MAP_ENTRY_BYTES_MAX);
    assert(commit->bytes);
    int len = map_entry_encode(entry, commit->bytes, MAP_ENTRY_BYTES_MAX);
    assert(len > 0);
    commit->len = (size_t)len;
    commit->bytes = realloc(commit->bytes, commit->len);
    return commit;
}

void commit_entry(struct authority *a, const struct map_entry *entry)
{
    commit_push(a, commit_create(entry, UP_HEARTBEAT));
}

int authority_apply(struct authority *a, struct map_entry *entry, struct map_result *ret_result)
{
    uint8_t *bytes = malloc(MAP_ENTRY_BYTES_MAX);
    assert(bytes);
    int len = map_entry_encode(entry, bytes, MAP_ENTRY_BYTES_MAX);
    assert(len > 0);
    apply(a, bytes, (size_t)len, ret_result);
    free(bytes);
    return ret_result->rc;
}

/* ---- what nodes say ---- */

static void receive_register(struct port *port, const struct channel_msg *msg)
{
    struct map_entry entry = {.kind = MAP_ENTRY_NODE_REGISTER, .node = (uint32_t)port->node, .node_info = msg->info};
    struct commit *commit = commit_create(&entry, UP_REGISTER);
    commit->port = port;
    commit_push(port->authority, commit);
}

static void receive_propose(struct port *port, const struct channel_msg *msg)
{
    struct commit *commit = commit_create(NULL, UP_PROPOSE);
    commit->bytes = malloc(msg->len);
    assert(commit->bytes);
    memcpy(commit->bytes, msg->bytes, msg->len);
    commit->len = msg->len;
    commit->port = port;
    commit->req = msg->req;
    commit_push(port->authority, commit);
}

static void receive_heartbeat(struct port *port, const struct channel_msg *msg)
{
    struct authority *a = port->authority;
    const struct map_node *node = map_node_by_id(a->map, (uint32_t)port->node);
    if (!port->incarnation || !node)
        return;
    if (node->incarnation != port->incarnation || !node->up) {
        channel_push(&port->down, channel_msg_create(DOWN_DEPOSED, NULL, 0));
        return;
    }
    uint64_t now = world_now_ns(a->world);
    port->heard_ns = now;
    struct channel_msg *reply = channel_msg_create(DOWN_LEASE, NULL, 0);
    reply->a = msg->a + a->config.lease_ns; /* R9: counts from the send time */
    reply->b = map_version(a->map);
    channel_push(&port->down, reply);
    a->lease_until_ns[port->node] = now + a->config.lease_ns + a->config.lease_ns / 500;
}

static void receive_attach(struct port *port, const struct channel_msg *msg)
{
    struct bridge_attach *req = msg->req;
    struct authority *a = port->authority;
    const struct map_volume *v = port->dead ? NULL : map_volume_by_name(a->map, req->volume_name);
    if (!v) {
        struct channel_msg *reply = channel_msg_create(DOWN_ATTACHED, NULL, 0);
        reply->req = req;
        reply->result.rc = -ENOENT;
        channel_push(&port->down, reply);
        return;
    }
    struct map_entry entry = {.kind = MAP_ENTRY_SESSION_OPEN,
                              .volume = v->id,
                              .node = (uint32_t)port->node,
                              .incarnation = port->incarnation,
                              .flags = req->flags};
    memcpy(entry.attachment, req->attachment, sizeof(entry.attachment));
    struct commit *commit = commit_create(&entry, UP_ATTACH);
    commit->port = port;
    commit->req = req;
    commit_push(a, commit);
}

void authority_receive(struct port *port, struct channel_msg *msg)
{
    struct authority *a = port->authority;
    struct map_entry entry = {0};
    switch (msg->kind) {
    case UP_REGISTER: receive_register(port, msg); return;
    case UP_PROPOSE: receive_propose(port, msg); return;
    case UP_ATTACH: receive_attach(port, msg); return;
    case UP_DETACH:
        entry = (struct map_entry){.kind = MAP_ENTRY_SESSION_CLOSE, .volume = msg->a, .session = msg->b};
        commit_entry(a, &entry);
        return;
    case UP_APPLIED: port->applied = msg->a; return;
    case UP_SUSPECT: duties_suspect(a, (uint32_t)msg->a); return;
    case UP_STORE_FAILED:
        entry = (struct map_entry){
            .kind = MAP_ENTRY_STORE_FAILED, .node = (uint32_t)port->node, .incarnation = port->incarnation};
        commit_entry(a, &entry);
        return;
    case UP_HEARTBEAT: receive_heartbeat(port, msg); return;
    default: assert(!"a downward message on its way up");
    }
}

/* ---- the bridge of a node ---- */

static struct port *port_of_bridge(struct bridge_to_control *b)
{
    return list_entry(b, struct port, bridge);
}

static void up(struct bridge_to_control *b, enum channel_kind kind, void *req, uint64_t va, uint64_t vb)
{
    struct channel_msg *msg = channel_msg_create(kind, NULL, 0);
    msg->req = req;
    msg->a = va;
    msg->b = vb;
    channel_push(&port_of_bridge(b)->up, msg);
}

static void bridge_propose_op(struct bridge_to_control *b, struct bridge_propose *req, const void *entry, size_t len)
{
    struct channel_msg *msg = channel_msg_create(UP_PROPOSE, entry, len);
    msg->req = req;
    channel_push(&port_of_bridge(b)->up, msg);
}

static void bridge_attach_op(struct bridge_to_control *b, struct bridge_attach *req)
{
    up(b, UP_ATTACH, req, 0, 0);
}

static void bridge_detach_op(struct bridge_to_control *b, uint64_t volume, uint64_t session)
{
    up(b, UP_DETACH, NULL, volume, session);
}

static void bridge_applied_op(struct bridge_to_control *b, uint64_t version, uint64_t hash)
{
    (void)hash;
    up(b, UP_APPLIED, NULL, version, 0);
}

static void bridge_suspect_op(struct bridge_to_control *b, uint32_t node)
{
    up(b, UP_SUSPECT, NULL, node, 0);
}

static void bridge_store_failed_op(struct bridge_to_control *b, int rc)
{
    assert(rc < 0);
    up(b, UP_STORE_FAILED, NULL, 0, 0);
}

static void bridge_alive_op(struct bridge_to_control *b, uint64_t oldest_io_ns)
{
    (void)b;
    (void)oldest_io_ns;
}

static void bridge_stats_op(struct bridge_to_control *b, struct bridge_stats *stats)
{
    (void)b;
    stats->release(stats);
}

static const struct bridge_to_control_ops port_ops = {
    .propose = bridge_propose_op,
    .attach = bridge_attach_op,
    .detach = bridge_detach_op,
    .applied = bridge_applied_op,
    .suspect = bridge_suspect_op,
    .store_failed = bridge_store_failed_op,
    .alive = bridge_alive_op,
    .stats = bridge_stats_op,
};

static void heartbeat(struct env_timer *timer)
{
    struct port *port = list_entry(timer, struct port, heartbeat);
    up(&port->bridge, UP_HEARTBEAT, NULL, env_now_ns(port->env), 0);
    env_timer_start(port->env, &port->heartbeat, port->authority->config.heartbeat_ns, heartbeat);
}

struct bridge_to_control *authority_connect(struct authority *a, int node, struct env *env, struct bridge_to_data *data,
                                            void (*deposed)(void *arg), void *arg)
{
    assert(!port_of(a, node));
    struct port *port = calloc(1, sizeof(*port));
    assert(port);
    port_init(a, port, node);
    port->bridge.ops = &port_ops;
    port->env = env;
    port->data = data;
    port->deposed = deposed;
    port->arg = arg;
    list_push_back(&a->ports, &port->link);
    env_timer_start(env, &port->heartbeat, a->config.heartbeat_ns, heartbeat);
    return &port->bridge;
}

void authority_register(struct bridge_to_control *b, const struct map_node *info)
{
    struct channel_msg *msg = channel_msg_create(UP_REGISTER, NULL, 0);
    msg->info = *info;
    channel_push(&port_of_bridge(b)->up, msg);
}

void authority_disconnect(struct bridge_to_control *b)
{
    struct port *port = port_of_bridge(b);
    env_timer_stop(port->env, &port->heartbeat);
    port->dead = port->exited = true;
    channel_drop(&port->down);
}

uint64_t authority_applied(const struct authority *a, int node)
{
    const struct port *port = port_of((struct authority *)(uintptr_t)a, node);
    return port ? port->applied : 0;
}

void authority_attach(struct authority *a, struct authority_attach *req)
{
    const struct map_node *gateway = map_node_by_id(a->map, req->gateway);
    struct map_entry entry = {.kind = MAP_ENTRY_SESSION_OPEN,
                              .volume = req->volume,
                              .node = req->gateway,
                              .incarnation = gateway ? gateway->incarnation : 0,
                              .flags = req->flags};
    memcpy(entry.attachment, req->attachment, sizeof(entry.attachment));
    struct commit *commit = commit_create(&entry, UP_ATTACH);
    commit->attach = req;
    commit_push(a, commit);
}

/* ---- life ---- */

static void node_crashed(struct world_watcher *watcher, int node, enum world_crash kind)
{
    struct authority *a = list_entry(watcher, struct authority, watcher);
    struct port *port = port_of(a, node);
    if (!port)
        return;
    port->dead = true;
    port->exited = kind == WORLD_CRASH_PROCESS;
    channel_drop(&port->down);
    if (kind == WORLD_CRASH_POWER)
        channel_drop(&port->up);
}

struct authority *authority_create(const struct authority_config *config)
{
    struct authority *a = calloc(1, sizeof(*a));
    assert(a);
    a->config = *config;
    a->world = config->world;
    a->map = map_create();
    list_head_init(&a->ports);
    list_head_init(&a->commits);
    list_head_init(&a->grants);
    a->watcher.crashed = node_crashed;
    world_watch(a->world, &a->watcher);
    struct map_entry entry = {.kind = MAP_ENTRY_CLUSTER_INIT, .cluster_id = AUTHORITY_CLUSTER};
    struct map_result result;
    int rc = authority_apply(a, &entry, &result);
    assert(rc == 0);
    world_schedule(a->world, &a->tick, WORLD_NOBODY, ENV_MS(50), duties_tick);
    return a;
}

void authority_destroy(struct authority *a)
{
    struct list_node *node;
    if (!a)
        return;
    while ((node = list_pop_front(&a->ports))) {
        struct port *port = list_entry(node, struct port, link);
        channel_drop(&port->up);
        channel_drop(&port->down);
        if (!port->dead)
            env_timer_stop(port->env, &port->heartbeat);
        free(port);
    }
    while ((node = list_pop_front(&a->commits))) {
        struct commit *commit = list_entry(node, struct commit, link);
        free(commit->bytes);
        free(commit);
    }
    while ((node = list_pop_front(&a->grants)))
        free(list_entry(node, struct grant, link));
    world_cancel(a->world, &a->commit_event);
    world_cancel(a->world, &a->tick);
    world_unwatch(a->world, &a->watcher);
    map_destroy(a->map);
    free(a);
}

const struct map *authority_map(const struct authority *a)
{
    return a->map;
}
