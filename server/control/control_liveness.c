/* SPDX-License-Identifier: Apache-2.0 */
/* control_liveness: who leads, and who is gone (R10, R23).
 *
 * - becoming leader starts every clock anew: silence counts from the election, and any node may hold a lease of the leader
 *   before until election + lease
 * - a node silent for node_timeout, or whose oldest I/O is older than io_stall, is proposed down
 * - a suspect node is probed by a connect: refused, or a newer incarnation behind the address, is down at once; its lease is
 *   remembered, and sessions of another attachment wait for it
 * - a leader that misses more than half of the others at once hands leadership over first: perhaps it is the one cut off
 *
 * Failure: a proposal that is lost is proposed again by whoever leads then, on its own evidence.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#define LOG_MODULE "control"
#include "common/log.h"
#include "server/control/control_state.h"

uint64_t control_lease_bound(const struct control *c, uint64_t from_ns)
{
    assert(c != NULL);
    uint64_t drift = c->config.lease_ns / 1000000 * c->config.drift_ppm;
    assert(c->config.lease_ns + 2 * drift <= c->config.node_timeout_ns);
    return from_ns + c->config.lease_ns + drift + control_lived_step(c); /* of a jump, one step may count */
}

struct control_watch *control_watch_get(struct control *c, uint32_t node)
{
    for (uint32_t i = 0; i < c->watch_count; i++) {
        if (c->watches[i].node == node)
            return &c->watches[i];
    }
    if (!map_node_by_id(c->map, node))
        return NULL;
    struct control_watch *w = NULL;
    for (uint32_t i = 0; i < c->watch_count && !w; i++) { /* of a node that was removed */
        if (!map_node_by_id(c->map, c->watches[i].node) && !c->watches[i].probe.link)
            w = &c->watches[i];
    }
    if (!w) {
        if (c->watch_count == MAP_NODES_MAX)
            return NULL;
        w = &c->watches[c->watch_count++];
    }
    memset(w, 0, sizeof *w);
    w->node = node;
    w->heard_ns = control_lived(c);
    w->lease_until_ns = control_lease_bound(c, c->elected_ns);
    assert(w->node != 0);
    return w;
}

/* ---- leading ---- */

static void lead(struct control *c)
{
    assert(c != NULL);
    struct control_log *log = c->config.log;
    c->leading = true;
    c->term = log->ops->term(log);
    c->elected_ns = control_lived(c);
    c->node_change_ns = control_now(c);
    c->liveness_version = 0;
    c->duties_version = 0;
    c->headless_since_ns = 0;
    c->transferred = false;
    c->round.running = false;
    for (uint32_t i = 0; i < c->watch_count; i++) {
        struct control_watch *w = &c->watches[i];
        w->heard_ns = c->elected_ns;
        w->lease_until_ns = control_lease_bound(c, c->elected_ns); /* the leader before may have given one just now */
        w->applied = w->applied_incarnation = 0;
        w->io_age_ns = 0;
        w->waiting = false;
        w->down_proposed = w->out_proposed = 0;
        w->down_since_ns = 0;
        w->cut_off = false;
        w->blocks_since_ns = 0;
        memset(w->accused, 0, sizeof w->accused);
    }
    log_info("leading term=%llu", (unsigned long long)c->term);
    assert(c->term > 0);
    c->heartbeat_now = true;
    if (c->lost_node) /* R10: most likely the leader before us; nobody could be told then */
        control_liveness_suspect(c, c->lost_node);
    c->lost_node = 0;
}

static void follow(struct control *c)
{
    c->leading = false;
    c->round.running = false;
    for (uint32_t i = 0; i < c->watch_count; i++) {
        c->watches[i].waiting = false;
        if (c->watches[i].probe.link)
            link_close(c->watches[i].probe.link);
    }
    log_info("no longer leading term=%llu", (unsigned long long)c->term);
    control_submit_close(c);
    c->heartbeat_now = true;
    assert(!c->leading);
}

void control_liveness_role(struct control *c)
{
    struct control_log *log = c->config.log;
    if (!log)
        return;
    bool leader = log->ops->is_leader(log);
    if (c->leading && (!leader || log->ops->term(log) != c->term))
        follow(c);
    if (leader && !c->leading)
        lead(c);
    assert(c->leading == leader);
}

void control_liveness_close(struct control *c)
{
    assert(c != NULL);
    for (uint32_t i = 0; i < c->watch_count; i++) {
        if (c->watches[i].probe.link)
            link_close(c->watches[i].probe.link);
    }
    c->leading = false;
    assert(c->watch_count <= MAP_NODES_MAX);
}

/* Judging now would take everybody for dead whose frames wait to be read, and our own data thread for hung. Leases need no care:
 * what this core did not live through does not count towards their ends. */
void control_liveness_slept(struct control *c)
{
    uint64_t now = control_now(c), lived = control_lived(c);
    assert(c->started);
    log_warn("this thread stood still for %llu ms", (unsigned long long)(now - c->ticked_ns) / 1000000);
    c->alive_ns = now;
    for (uint32_t i = 0; i < c->watch_count; i++)
        c->watches[i].heard_ns = lived;
}

/* ---- the map's view of nodes ---- */

static void watch_node(void *arg, const struct map_node *node)
{
    struct control *c = arg;
    struct control_watch *w = control_watch_get(c, node->id);
    if (!w)
        return;
    bool usable = node->up && !node->store_failed;
    if (w->incarnation != node->incarnation) { /* registered anew */
        w->incarnation = node->incarnation;
        w->heard_ns = control_lived(c);
        w->io_age_ns = 0;
        w->waiting = false;
        w->cut_off = false;
        w->blocks_since_ns = 0;
        memset(w->accused, 0, sizeof w->accused);
        c->node_change_ns = control_now(c);
    }
    if (!usable && w->down_since_ns == 0) {
        w->down_since_ns = control_now(c);
        c->node_change_ns = w->down_since_ns;
    }
    if (usable)
        w->down_since_ns = 0;
    assert(w->node == node->id);
}

void control_liveness_map(struct control *c)
{
    if (!c->leading || c->liveness_version == map_version(c->map))
        return;
    c->liveness_version = map_version(c->map);
    map_each_node(c->map, watch_node, c);
    assert(c->watch_count <= MAP_NODES_MAX);
}

static void propose_down(struct control *c, struct control_watch *w, const char *why)
{
    assert(c != NULL);
    const struct map_node *node = map_node_by_id(c->map, w->node);
    assert(c->leading);
    if (!node || !node->up || w->down_proposed == node->incarnation)
        return;
    struct map_entry entry = {.kind = MAP_ENTRY_NODE_DOWN, .node = w->node, .incarnation = node->incarnation};
    if (control_duty_propose(c, &entry) < 0)
        return; /* the next tick */
    log_warn("node=%u incarnation=%llu is down: %s", w->node, (unsigned long long)node->incarnation, why);
    w->down_proposed = node->incarnation;
    w->waiting = false;
}

/* ---- time ---- */

static bool silent(const struct control *c, const struct control_watch *w, uint64_t now)
{
    assert(now >= w->heard_ns);
    assert(w->heard_ns >= c->elected_ns || !c->leading);
    return now - w->heard_ns >= c->config.node_timeout_ns && now >= w->lease_until_ns;
}

/* R23: true while we give another one the chance to judge. */
static bool suspects_itself(struct control *c, uint64_t now)
{
    assert(c != NULL);
    uint32_t others = 0, lost = 0;
    assert(c->leading);
    for (uint32_t i = 0; i < c->watch_count; i++) {
        const struct map_node *node = map_node_by_id(c->map, c->watches[i].node);
        if (!node || !node->up || node->id == c->config.node)
            continue;
        others++;
        lost += silent(c, &c->watches[i], now);
    }
    if (lost * 2 <= others || others < 2 || c->config.voter_count < 2)
        return false;
    if (c->transferred)
        return now - c->transferred_ns < c->config.node_timeout_ns; /* nobody took it */
    if (now - c->elected_ns < 2 * c->config.node_timeout_ns)
        return false; /* new in office, and others before us thought the same */
    c->transferred = true;
    c->transferred_ns = now;
    log_warn("%u of %u nodes silent at once: handing leadership over", lost, others);
    return c->config.log->ops->transfer(c->config.log) == 0;
}

static void probe_expire(struct control *c, struct control_watch *w, uint64_t now)
{
    assert(w->node != 0);
    if (w->probe.link && now - w->probe.started_ns > CONTROL_PROBE_NS)
        link_close(w->probe.link);
    assert(c->leading || !w->waiting);
}

void control_liveness_tick(struct control *c)
{
    uint64_t now = control_lived(c);
    for (uint32_t i = 0; i < c->watch_count; i++)
        probe_expire(c, &c->watches[i], control_now(c));
    if (!c->leading || suspects_itself(c, now))
        return;
    for (uint32_t i = 0; i < c->watch_count; i++) {
        struct control_watch *w = &c->watches[i];
        if (silent(c, w, now))
            propose_down(c, w, "silent");
        else if (w->io_age_ns > c->config.io_stall_ns && now >= w->lease_until_ns)
            propose_down(c, w, "its I/O hangs"); /* R10: it may go on any moment, so its lease has to end first */
        else if (w->cut_off && now >= w->lease_until_ns)
            propose_down(c, w, "it reaches no other member");
    }
    assert(c->watch_count <= MAP_NODES_MAX);
}

/* ---- who is given no lease ---- */

bool control_liveness_withheld(const struct control *c, const struct control_watch *w)
{
    assert(c->leading);
    assert(w->node != 0);
    if (w->io_age_ns > c->config.io_stall_ns || w->cut_off)
        return true; /* it is going to be declared down */
    /* A session waits for its data thread, which applies nothing: without a lease it need not be waited for (R19). */
    return w->blocks_since_ns != 0 && control_lived(c) - w->blocks_since_ns > c->config.node_timeout_ns;
}

/* R8: a primary may not go below min_replicas at its own word. If it can't reach two others that we hear well, it is the one that is
 * cut off: the role moves, once its lease has ended. */
void control_liveness_accused(struct control *c, uint32_t reporter, uint32_t node, bool refused)
{
    struct control_watch *w = c->leading ? control_watch_get(c, reporter) : NULL;
    uint64_t now = control_lived(c);
    uint32_t others = 0, slot = 0;
    assert(reporter != 0);
    if (!w || node == reporter)
        return;
    for (uint32_t i = 0; i < CONTROL_ACCUSED_MAX; i++) {
        if (w->accused[i].node == node)
            slot = i;
        else if (w->accused[slot].node != node && w->accused[i].at_ns < w->accused[slot].at_ns)
            slot = i;
    }
    w->accused[slot].node = node;
    w->accused[slot].at_ns = now;
    for (uint32_t i = 0; i < CONTROL_ACCUSED_MAX; i++) {
        const struct map_node *known = w->accused[i].node ? map_node_by_id(c->map, w->accused[i].node) : NULL;
        const struct control_watch *other = known && known->up ? control_watch_get(c, known->id) : NULL;
        bool lately = now - w->accused[i].at_ns < 4 * c->config.node_timeout_ns;
        others += other && lately && now - other->heard_ns < 2 * c->config.heartbeat_ns;
    }
    assert(others <= CONTROL_ACCUSED_MAX);
    if (refused && others >= 2 && !w->cut_off) {
        log_warn("node=%u reaches neither of %u members that live: it is the one that is cut off", reporter, others);
        w->cut_off = true;
    }
}

/* ---- probes (R10) ---- */

static struct control_watch *watch_of(struct control_probe *probe)
{
    assert(probe != NULL);
    assert(probe->node != 0);
    return (struct control_watch *)(void *)((char *)probe - offsetof(struct control_watch, probe));
}

static void probe_connected(struct link *link, void *owner)
{
    assert(link != NULL);
    struct control_probe *probe = owner;
    struct hello hello;
    uint8_t body[HELLO_BYTES];
    assert(probe->link == link);
    probe->connected = true;
    control_hello_fill(probe->control, &hello);
    hello.role = HELLO_ADMIN; /* a hello of the node itself would close its working links (R5) */
    hello_encode(&hello, body);
    struct wire_header header = {.opcode = WIRE_HELLO, .body_len = HELLO_BYTES, .request_id = 1};
    (void)link_send(link, &header, body, /* payload= */ NULL, 0);
}

static void probe_message(struct link *link, void *owner, struct msg *msg)
{
    assert(link != NULL);
    struct control_probe *probe = owner;
    struct hello hello;
    const struct map_node *node = map_node_by_id(probe->control->map, probe->node);
    assert(probe->link == link);
    /* Only the one that the probe was about: the newer one may have registered meanwhile. */
    bool same = node && node->incarnation == probe->incarnation;
    if (msg->header.opcode == (WIRE_HELLO | 1) && hello_decode(msg->body, msg->header.body_len, &hello) == 0 && same &&
        probe->control->leading && hello.node == probe->node && hello.incarnation > probe->incarnation)
        propose_down(probe->control, watch_of(probe), "a newer incarnation answers");
    msg_free(msg);
    link_close(link);
}

static void probe_closed(struct link *link, void *owner, int reason)
{
    assert(link != NULL);
    struct control_probe *probe = owner;
    struct control *c = probe->control;
    const struct map_node *node = map_node_by_id(c->map, probe->node);
    assert(probe->link == link);
    probe->link = NULL;
    if (c->leading && !probe->connected && reason == -ECONNREFUSED && node && node->incarnation == probe->incarnation)
        propose_down(c, watch_of(probe), "its address refuses connections");
    control_link_gone(c);
}

static const struct link_callbacks probe_callbacks = {
    .connected = probe_connected,
    .message = probe_message,
    .closed = probe_closed,
};

void control_liveness_suspect(struct control *c, uint32_t node)
{
    const struct map_node *known = node != 0 && node != c->config.node ? map_node_by_id(c->map, node) : NULL;
    if (!c->leading || c->stopping || c->dead || !known || !known->up)
        return;
    struct control_watch *w = control_watch_get(c, node);
    if (!w || w->probe.link || w->down_proposed == known->incarnation)
        return;
    w->probe = (struct control_probe){.control = c, .node = node, .incarnation = known->incarnation};
    w->probe.started_ns = control_now(c);
    int rc =
        transport_connect(c->config.transport, known->control_address, &probe_callbacks, &w->probe, &w->probe.link);
    if (rc < 0) {
        w->probe.link = NULL;
        return;
    }
    control_link_opened(c);
    assert(w->probe.link != NULL);
}
