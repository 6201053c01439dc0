/* SPDX-License-Identifier: Apache-2.0 */
/* raft_sim_net: messages between voters.
 *
 *   - a channel a direction: messages arrive in order, each after a delay of the sim_net's kind, as an event at the receiver
 *   - a cut in the direction stalls the channel; in either direction, for longer than PATIENCE_MS, it breaks the connection:
 *     everything on its way is lost, and only the last few messages wait for the next one
 *   - nobody listens: the same, and these few arrive, stale, when somebody does
 *   - a crash of the sender loses what was on its way, or does not; a reset (rate) loses it
 * Failure modes are the point; libraft bears loss and delay, and order is kept within a direction only.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "tests/sim/raft_sim_internal.h"
#include "tests/sim/transport_sim_internal.h"

#define LOG_MODULE "raft"

#define PATIENCE_MS 3000u /* consensus_tcp: TCP_USER_TIMEOUT */
#define STALL_MS 20u      /* how soon a stalled or refused channel is tried again */
#define RECONNECT_MS 100u
#define KEPT_MAX 3u /* messages that wait for a connection */
#define QUEUED_MAX 4096u

struct parcel {
    struct list_node node;
    uint64_t due_ns;
    struct raft_message message; /* its memory is libraft's heap, as recv gives it away */
};

struct channel {
    struct raft_sim_net *net;
    int from, to;
    struct list_node parcels;
    uint32_t count;
    struct world_event arrival;
    uint64_t last_due_ns, blocked_since_ns;
    bool broken;
};

struct raft_sim_net {
    struct world *world;
    struct sim_net *net;
    struct raft_sim *voters[WORLD_NODES_MAX];
    struct channel *channels[WORLD_NODES_MAX][WORLD_NODES_MAX]; /* [from][to] */
    char address[WORLD_NODES_MAX][CONSENSUS_RAFT_ADDRESS_MAX];
    struct world_watcher watcher;
    uint32_t reset_per_million;
    bool cut[WORLD_NODES_MAX][WORLD_NODES_MAX];
    struct raft_sim_net_stats stats;
};

/* ---- copies ---- */

int raft_sim_configuration_copy(const struct raft_configuration *from, struct raft_configuration *to)
{
    int rc = 0;
    assert(from->n <= CONSENSUS_VOTERS_MAX);
    raft_configuration_init(to);
    for (unsigned i = 0; i < from->n && rc == 0; i++)
        rc = raft_configuration_add(to, from->servers[i].id, from->servers[i].address, from->servers[i].role);
    return rc;
}

static void copy_entries(const struct raft_append_entries *from, struct raft_append_entries *to)
{
    size_t bytes = 0, at = 0;
    assert(from->n_entries > 0);
    for (unsigned i = 0; i < from->n_entries; i++)
        bytes += from->entries[i].buf.len;
    uint8_t *batch = raft_malloc(bytes ? bytes : 1);
    to->entries = raft_calloc(from->n_entries, sizeof(*to->entries));
    assert(batch && to->entries);
    for (unsigned i = 0; i < from->n_entries; i++) {
        const struct raft_entry *entry = &from->entries[i];
        memcpy(batch + at, entry->buf.base, entry->buf.len);
        to->entries[i] = *entry;
        to->entries[i].buf.base = batch + at;
        to->entries[i].batch = batch;
        at += entry->buf.len;
    }
}

static size_t message_copy(const struct raft_message *from, struct raft_message *to)
{
    *to = *from;
    assert(from->type >= RAFT_IO_APPEND_ENTRIES && from->type <= RAFT_IO_TIMEOUT_NOW);
    if (from->type == RAFT_IO_APPEND_ENTRIES && from->append_entries.n_entries > 0) {
        size_t bytes = 0;
        copy_entries(&from->append_entries, &to->append_entries);
        for (unsigned i = 0; i < from->append_entries.n_entries; i++)
            bytes += from->append_entries.entries[i].buf.len;
        return 64 + bytes;
    }
    if (from->type == RAFT_IO_INSTALL_SNAPSHOT) {
        const struct raft_install_snapshot *args = &from->install_snapshot;
        int rc = raft_sim_configuration_copy(&args->conf, &to->install_snapshot.conf);
        to->install_snapshot.data.base = raft_malloc(args->data.len ? args->data.len : 1);
        assert(rc == 0 && to->install_snapshot.data.base);
        memcpy(to->install_snapshot.data.base, args->data.base, args->data.len);
        return 64 + args->data.len;
    }
    return 64;
}

static void message_free(struct raft_message *message)
{
    assert(message->type != 0);
    if (message->type == RAFT_IO_APPEND_ENTRIES && message->append_entries.n_entries > 0) {
        raft_free(message->append_entries.entries[0].batch);
        raft_free(message->append_entries.entries);
    } else if (message->type == RAFT_IO_INSTALL_SNAPSHOT) {
        raft_configuration_close(&message->install_snapshot.conf);
        raft_free(message->install_snapshot.data.base);
    }
}

static void describe(const char *what, int from, int to, const struct raft_message *m)
{
    static const char *const names[] = {"?",           "append",   "append_result", "vote",
                                        "vote_result", "snapshot", "timeout_now"};
    unsigned long long a = 0, b = 0, c = 0, d = 0;
    assert(m->type <= RAFT_IO_TIMEOUT_NOW);
    switch (m->type) {
    case RAFT_IO_APPEND_ENTRIES:
        a = m->append_entries.prev_log_index;
        b = m->append_entries.prev_log_term;
        c = m->append_entries.n_entries;
        d = m->append_entries.leader_commit;
        break;
    case RAFT_IO_APPEND_ENTRIES_RESULT:
        a = m->append_entries_result.rejected;
        b = m->append_entries_result.last_log_index;
        break;
    case RAFT_IO_REQUEST_VOTE:
        a = m->request_vote.last_log_index;
        b = m->request_vote.last_log_term;
        c = m->request_vote.pre_vote;
        break;
    case RAFT_IO_REQUEST_VOTE_RESULT: a = m->request_vote_result.vote_granted; break;
    case RAFT_IO_INSTALL_SNAPSHOT:
        a = m->install_snapshot.last_index;
        b = m->install_snapshot.last_term;
        break;
    default: break;
    }
    /* The term is the first field of each. */
    log_trace("%s %d->%d %s term=%llu %llu %llu %llu %llu", what, from, to, names[m->type], m->append_entries.term, a,
              b, c, d);
}

/* ---- channels ---- */

static void drop(struct channel *channel, struct list_node *node)
{
    struct parcel *parcel = list_entry(node, struct parcel, node);
    assert(channel->count > 0);
    list_remove(node);
    channel->count--;
    channel->net->stats.dropped++;
    message_free(&parcel->message);
    free(parcel);
    if (channel->count == 0)
        world_cancel(channel->net->world, &channel->arrival);
}

static void keep_last(struct channel *channel, uint32_t keep)
{
    while (channel->count > keep)
        drop(channel, channel->parcels.next);
    assert(channel->count <= keep);
}

static void keep_first(struct channel *channel, uint32_t keep)
{
    while (channel->count > keep)
        drop(channel, channel->parcels.prev);
    assert(channel->count <= keep);
}

static void arrived(struct world_event *event);

static void expect(struct channel *channel, uint64_t wait_ns)
{
    struct world *world = channel->net->world;
    if (list_empty(&channel->parcels) || world_scheduled(&channel->arrival))
        return;
    uint64_t due_ns = list_entry(channel->parcels.next, struct parcel, node)->due_ns, now_ns = world_now_ns(world);
    assert(channel->count > 0);
    uint64_t delay_ns = due_ns > now_ns ? due_ns - now_ns : 0;
    world_schedule(world, &channel->arrival, channel->to, delay_ns > wait_ns ? delay_ns : wait_ns, arrived);
}

/* May the message at hand arrive now? Otherwise *ret_wait_ns says when to look again. */
static bool passes(struct channel *channel, uint64_t *ret_wait_ns)
{
    struct raft_sim_net *net = channel->net;
    uint64_t now_ns = world_now_ns(net->world);
    bool both = net->cut[channel->from][channel->to];
    bool there = both || sim_net_is_cut(net->net, channel->from, channel->to);
    bool back = both || sim_net_is_cut(net->net, channel->to, channel->from);
    assert(channel->from != channel->to);
    *ret_wait_ns = ENV_MS(STALL_MS);
    if (!there && !back)
        channel->blocked_since_ns = 0;
    else if (channel->blocked_since_ns == 0)
        channel->blocked_since_ns = now_ns;
    if ((there || back) && now_ns - channel->blocked_since_ns > ENV_MS(PATIENCE_MS))
        channel->broken = true;
    if (!net->voters[channel->to])
        channel->broken = true; /* refused */
    else if (!there && !back)
        channel->broken = false;
    if (channel->broken) {
        keep_last(channel, KEPT_MAX);
        *ret_wait_ns = ENV_MS(RECONNECT_MS);
        return false;
    }
    net->stats.stalled += there;
    return !there;
}

static void arrived(struct world_event *event)
{
    struct channel *channel = list_entry(event, struct channel, arrival);
    struct raft_sim_net *net = channel->net;
    uint64_t wait_ns;
    bool was_broken = channel->broken;
    if (!passes(channel, &wait_ns)) {
        expect(channel, wait_ns);
        return;
    }
    struct parcel *parcel = list_entry(list_pop_front(&channel->parcels), struct parcel, node);
    struct raft_message message = parcel->message;
    assert(channel->count > 0 && net->voters[channel->to]);
    channel->count--;
    free(parcel);
    net->stats.delivered++;
    net->stats.stale += was_broken;
    expect(channel, 0);
    message.server_id = (raft_id)channel->from;
    message.server_address = net->address[channel->from];
    describe("got", channel->from, channel->to, &message);
    world_trace(net->world, 210 + message.type, (uint64_t)channel->from, (uint64_t)channel->to);
    raft_sim_receive(net->voters[channel->to], &message);
}

static struct channel *channel_of(struct raft_sim_net *net, int from, int to)
{
    assert(from > 0 && from < WORLD_NODES_MAX && to > 0 && to < WORLD_NODES_MAX && from != to);
    struct channel *channel = net->channels[from][to];
    if (channel)
        return channel;
    channel = calloc(1, sizeof(*channel));
    assert(channel);
    channel->net = net;
    channel->from = from;
    channel->to = to;
    list_head_init(&channel->parcels);
    net->channels[from][to] = channel;
    return channel;
}

int raft_sim_net_send(struct raft_sim_net *net, int from, const struct raft_message *message)
{
    assert(message->server_id > 0 && message->server_id < WORLD_NODES_MAX);
    struct channel *channel = channel_of(net, from, (int)message->server_id);
    net->stats.sent++;
    describe("sent", from, channel->to, message);
    if (net->reset_per_million && world_random_below(net->world, 1000000) < net->reset_per_million) {
        keep_last(channel, 0);
        return RAFT_NOCONNECTION;
    }
    if (channel->count >= QUEUED_MAX)
        return RAFT_NOCONNECTION;
    struct parcel *parcel = calloc(1, sizeof(*parcel));
    assert(parcel);
    size_t bytes = message_copy(message, &parcel->message);
    uint64_t due_ns =
        world_now_ns(net->world) + sim_net_delay_ns(net->net, bytes) + sim_net_slowness_ns(net->net, from, channel->to);
    if (due_ns < channel->last_due_ns)
        due_ns = channel->last_due_ns;
    parcel->due_ns = channel->last_due_ns = due_ns;
    list_push_back(&channel->parcels, &parcel->node);
    channel->count++;
    expect(channel, 0);
    return channel->broken ? RAFT_NOCONNECTION : 0;
}

/* ---- voters ---- */

void raft_sim_net_attach(struct raft_sim_net *net, int node, struct raft_sim *raft)
{
    assert(node > 0 && node < WORLD_NODES_MAX);
    assert(!raft || !net->voters[node]);
    net->voters[node] = raft;
}

static void node_crashed(struct world_watcher *watcher, int node, enum world_crash kind)
{
    struct raft_sim_net *net = list_entry(watcher, struct raft_sim_net, watcher);
    for (int other = 0; other < WORLD_NODES_MAX; other++) {
        struct channel *out = net->channels[node][other], *in = net->channels[other][node];
        if (out && (kind == WORLD_CRASH_POWER || world_chance(net->world, 500)))
            keep_first(out, (uint32_t)world_random_below(net->world, out->count + 1u));
        if (in)
            keep_last(in, world_chance(net->world, 500) ? KEPT_MAX : 0);
    }
}

struct raft_sim_net *raft_sim_net_create(struct world *world, struct sim_net *sim_net, uint32_t reset_per_million)
{
    struct raft_sim_net *net = calloc(1, sizeof(*net));
    assert(net && world && sim_net);
    net->world = world;
    net->net = sim_net;
    net->reset_per_million = reset_per_million;
    for (int i = 0; i < WORLD_NODES_MAX; i++)
        (void)snprintf(net->address[i], sizeof(net->address[i]), "voter-%d", i);
    net->watcher.crashed = node_crashed;
    world_watch(world, &net->watcher);
    return net;
}

void raft_sim_net_destroy(struct raft_sim_net *net)
{
    if (!net)
        return;
    for (int from = 0; from < WORLD_NODES_MAX; from++) {
        assert(!net->voters[from]);
        for (int to = 0; to < WORLD_NODES_MAX; to++) {
            struct channel *channel = net->channels[from][to];
            if (!channel)
                continue;
            keep_last(channel, 0);
            world_cancel(net->world, &channel->arrival);
            free(channel);
        }
    }
    world_unwatch(net->world, &net->watcher);
    free(net);
}

void raft_sim_net_cut(struct raft_sim_net *net, int a, int b, bool cut)
{
    assert(a > 0 && a < WORLD_NODES_MAX && b > 0 && b < WORLD_NODES_MAX && a != b);
    net->cut[a][b] = net->cut[b][a] = cut;
}

void raft_sim_net_resets(struct raft_sim_net *net, uint32_t per_million)
{
    assert(per_million <= 1000000);
    net->reset_per_million = per_million;
}

void raft_sim_net_stats(const struct raft_sim_net *net, struct raft_sim_net_stats *ret_stats)
{
    assert(ret_stats);
    *ret_stats = net->stats;
}
