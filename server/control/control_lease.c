/* SPDX-License-Identifier: Apache-2.0 */
/* control_lease: the leader answers heartbeats, and each good answer is a lease (R9).
 *
 * - a heartbeat is noted at once (it proves life) but answered only after a quorum contact that began after its arrival: a
 *   deposed leader reaches no quorum in its term, so it renews nothing
 * - a quorum contact is a round of PINGs to the voters' cores: a voter that says "my newest term is T" had voted for nobody
 *   else by then; a majority of them means that no newer leader existed when the round began
 * - the leader remembers until when the lease can last, by the time it lives through (control_lived), with drift: arrival + lease
 *
 * Failure: without a majority nobody gets an answer, leases run out, and primaries stop reading by themselves.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#define LOG_MODULE "control"
#include "common/log.h"
#include "server/control/control_state.h"

static void answer(struct control *c, uint64_t conn_id, uint64_t request_id, struct wire_header *reply)
{
    assert(c != NULL);
    struct wire_header request = {.opcode = WIRE_CTL_HEARTBEAT, .request_id = request_id};
    struct control_conn *conn = conn_id ? control_conn_find(c, conn_id) : NULL;
    assert(reply->status <= 0);
    reply->map_version = map_version(c->map);
    if (conn_id == 0)
        control_node_answered(c, c->config.node, reply);
    else if (conn)
        control_conn_reply(conn, &request, reply, /* body= */ NULL);
}

/* Is that heartbeat's sender the one the map knows? */
static bool current(const struct control *c, uint32_t node, uint64_t incarnation)
{
    assert(c != NULL);
    const struct map_node *known = map_node_by_id(c->map, node);
    assert(node != 0);
    return known && known->up && known->incarnation == incarnation;
}

static void grant_lease(struct control *c, struct control_watch *w)
{
    struct wire_header reply = {.length = w->waiting_echo, .dst_incarnation = w->waiting_incarnation};
    assert(w->waiting);
    w->waiting = false;
    if (!current(c, w->node, w->waiting_incarnation) || w->down_proposed == w->waiting_incarnation) {
        reply.status = -ESTALE; /* R10: nobody who may be declared down gets a lease */
    } else if (!control_liveness_withheld(c, w)) {
        uint64_t until = control_lease_bound(c, w->arrived_ns);
        reply.aux = c->config.lease_ns;
        if (until > w->lease_until_ns)
            w->lease_until_ns = until;
        assert(w->lease_until_ns >= w->arrived_ns + c->config.lease_ns);
    }
    answer(c, w->waiting_conn, w->waiting_request, &reply);
}

/* A majority was with us at some time after started_ns. */
static void contact(struct control *c, uint64_t started_ns)
{
    assert(c != NULL);
    struct control_log *log = c->config.log;
    assert(c->leading);
    if (!log->ops->is_leader(log) || log->ops->term(log) != c->term)
        return;
    for (uint32_t i = 0; i < c->watch_count; i++) {
        if (c->watches[i].waiting && c->watches[i].arrived_ns <= started_ns)
            grant_lease(c, &c->watches[i]);
    }
}

static bool anybody_waits(const struct control *c)
{
    assert(c != NULL);
    for (uint32_t i = 0; i < c->watch_count; i++) {
        if (c->watches[i].waiting)
            return true;
    }
    return false;
}

static void round_send(struct control *c)
{
    assert(c != NULL);
    assert(c->round.running);
    c->round.resend_ns = control_now(c) + ENV_MS(50);
    for (uint32_t i = 0; i < c->config.voter_count; i++) {
        if (c->round.answers & (1u << i))
            continue;
        struct wire_header ping = {.opcode = WIRE_PING, .request_id = c->round.number, .aux = c->round.number};
        (void)control_peer_send(c, c->config.voters[i].node, &ping, /* body= */ NULL);
    }
}

static void round_finish(struct control *c);

static void round_begin(struct control *c)
{
    assert(!c->round.running);
    c->round.running = true;
    c->round.number++;
    c->round.started_ns = control_lived(c);
    c->round.answers = 0;
    for (uint32_t i = 0; i < c->config.voter_count; i++) {
        if (c->config.voters[i].node == c->config.node)
            c->round.answers |= 1u << i;
    }
    round_send(c);
    round_finish(c);
}

static void round_finish(struct control *c)
{
    uint32_t yes = (uint32_t)__builtin_popcount(c->round.answers);
    assert(c->round.running);
    assert(yes <= c->config.voter_count);
    if (yes * 2 <= c->config.voter_count)
        return;
    c->round.running = false;
    contact(c, c->round.started_ns);
}

void control_lease_ping(struct control_conn *conn, const struct wire_header *request)
{
    assert(conn != NULL);
    struct control_log *log = conn->control->config.log;
    struct wire_header reply = {.aux = request->aux};
    assert(request->opcode == WIRE_PING);
    if (log)
        reply.aux2 = log->ops->term(log);
    else
        reply.status = -EAGAIN;
    control_conn_reply(conn, request, &reply, /* body= */ NULL);
}

void control_lease_pong(struct control *c, uint32_t node, const struct wire_header *reply)
{
    assert(reply != NULL);
    if (!c->leading || !c->round.running || reply->status < 0 || reply->aux != c->round.number ||
        reply->aux2 != c->term)
        return;
    for (uint32_t i = 0; i < c->config.voter_count; i++) {
        if (c->config.voters[i].node == node)
            c->round.answers |= 1u << i;
    }
    round_finish(c);
    if (!c->round.running && anybody_waits(c))
        round_begin(c);
    assert(c->round.number > 0);
}

void control_lease_tick(struct control *c)
{
    if (!c->leading)
        return;
    assert(c->config.log != NULL);
    if (c->round.running && control_now(c) >= c->round.resend_ns)
        round_send(c);
    else if (!c->round.running && anybody_waits(c))
        round_begin(c);
}

static bool diverged(struct control *c, struct control_watch *w, const uint64_t *report)
{
    assert(c != NULL);
    uint64_t ours;
    assert(w->node != 0);
    if (!control_map_hash_at(c, report[REPORT_HASH_VERSION], &ours) || ours == report[REPORT_HASH])
        return false;
    if (!w->diverged)
        log_error("map of node=%u differs at version=%llu", w->node, (unsigned long long)report[REPORT_HASH_VERSION]);
    w->diverged = true;
    return true;
}

void control_lease_heartbeat(struct control *c, uint64_t conn, const struct wire_header *header, const uint64_t *report,
                             uint32_t report_count)
{
    assert(header != NULL);
    struct wire_header reply = {.length = header->length, .dst_incarnation = header->src_incarnation};
    struct control_watch *w = c->leading ? control_watch_get(c, header->src_node) : NULL;
    assert(report_count <= REPORT_COUNT);
    if (!c->leading) {
        reply.status = -EAGAIN;
        reply.aux = control_leader_node(c);
    } else if (!w || !current(c, header->src_node, header->src_incarnation)) {
        reply.status = -ESTALE;
    } else if (diverged(c, w, report)) {
        reply.status = -EILSEQ;
    }
    if (reply.status < 0) {
        answer(c, conn, header->request_id, &reply);
        return;
    }
    w->incarnation = w->applied_incarnation = header->src_incarnation;
    w->heard_ns = w->arrived_ns = control_lived(c);
    w->io_age_ns = header->aux;
    if (header->aux2 > w->applied)
        w->blocks_since_ns = 0;
    w->applied = header->aux2;
    memcpy(w->report, report, report_count * sizeof report[0]);
    w->reported = report[REPORT_TOTAL_BYTES] > 0;
    w->diverged = false;
    w->waiting = true;
    w->waiting_conn = conn;
    w->waiting_request = header->request_id;
    w->waiting_echo = header->length;
    w->waiting_incarnation = header->src_incarnation;
    if (!c->round.running)
        round_begin(c);
    control_wake(c); /* sessions may be granted */
}
