/* SPDX-License-Identifier: Apache-2.0 */
/* control_submit: what the leader does with proposals of all nodes, and when it grants a session (R19).
 *
 *   control_submit --> in the log --> logged() --> result known --> answered
 *         |                                             |  a session was opened
 *         | result known already (a retry)              v
 *         +------------------------------------>  waits for its grant --> answered
 *
 * - a grant to the same attachment waits until every member's node that is up has the session in force (or its lease ended):
 *   I/O goes on at once when a node died, epochs fence the write path (R10)
 * - a grant to another attachment waits until each node of the cluster has it in force, or can hold no lease any more: nobody reads
 *   what a node that is cut off might still serve
 * - a resize is answered when the gateway through which the volume is attached has it in force, or can hold no lease any more:
 *   who asks that gateway for the size from then on hears the new one
 *
 * Failure: not leading, or the outcome unknown: -EAGAIN, and the proposer tries again.
 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "control"
#include "common/log.h"
#include "server/control/control_state.h"

#define SUBMISSIONS_MAX (4u * CONTROL_PROPOSALS_MAX)

void control_submit_result_encode(const struct map_result *result, uint8_t out[24])
{
    uint64_t words[3] = {htole64((uint64_t)(int64_t)result->rc), htole64(result->value), htole64(result->version)};
    assert(result->rc <= 0);
    memcpy(out, words, sizeof words);
}

void control_submit_result_decode(const uint8_t in[24], struct map_result *ret_result)
{
    assert(ret_result != NULL);
    uint64_t words[3];
    memcpy(words, in, sizeof words);
    int64_t rc = (int64_t)le64toh(words[0]);
    ret_result->rc = rc <= 0 && rc > -4096 ? (int)rc : -EBADMSG;
    ret_result->value = le64toh(words[1]);
    ret_result->version = le64toh(words[2]);
    assert(ret_result->rc <= 0);
}

static void answer(struct control *c, uint64_t conn_id, uint64_t request_id, int status,
                   const struct map_result *result)
{
    assert(c != NULL);
    struct wire_header request = {.opcode = WIRE_CTL_PROPOSE, .request_id = request_id};
    struct wire_header reply = {.status = status};
    uint8_t body[24];
    assert(status <= 0);
    if (conn_id == 0) {
        control_propose_done(c, request_id, status, c->config.node, result);
        return;
    }
    struct control_conn *conn = control_conn_find(c, conn_id);
    if (!conn)
        return; /* it asks again */
    if (status == 0) {
        control_submit_result_encode(result, body);
        reply.body_len = sizeof body;
    } else {
        reply.aux = control_leader_node(c);
    }
    control_conn_reply(conn, &request, &reply, status == 0 ? body : NULL);
}

static void drop(struct control_submission *s)
{
    assert(s != NULL);
    assert(list_linked(&s->node_link));
    if (s->in_log) { /* the log still holds the request */
        s->dead = true;
        return;
    }
    list_remove(&s->node_link);
    free(s);
}

/* ---- grants ---- */

static void find_members(struct control *c, struct control_submission *s)
{
    assert(c != NULL);
    const struct map_volume *volume = map_volume_by_id(c->map, s->volume);
    if (s->members_version == map_version(c->map))
        return;
    s->members_version = map_version(c->map);
    s->member_count = 0;
    for (uint32_t i = 0; volume && i < volume->shard_count; i++) {
        for (uint32_t m = 0; m < volume->shards[i].member_count; m++) {
            uint32_t node = volume->shards[i].members[m].node, at = 0;
            while (at < s->member_count && s->members[at] != node)
                at++;
            if (at == s->member_count && at < MAP_NODES_MAX)
                s->members[s->member_count++] = node;
        }
    }
    assert(s->member_count <= MAP_NODES_MAX);
}

struct grant_check {
    struct control *c;
    const struct control_submission *s;
    uint64_t now;
    bool ok;
};

static bool is_member(const struct control_submission *s, uint32_t node)
{
    assert(s != NULL);
    for (uint32_t i = 0; i < s->member_count; i++) {
        if (s->members[i] == node)
            return true;
    }
    return false;
}

static void check_node(void *arg, const struct map_node *node)
{
    struct grant_check *check = arg;
    const struct control_submission *s = check->s;
    struct control_watch *w = control_watch_get(check->c, node->id);
    assert(s->session);
    if (s->continued && (!node->up || !is_member(s, node->id)))
        return;
    if (!w) {
        check->ok = false;
        return;
    }
    bool in_force = w->applied_incarnation == node->incarnation && w->applied >= s->result.version;
    if (!in_force && w->lease_until_ns > check->now) {
        check->ok = false;
        if (w->blocks_since_ns == 0)
            w->blocks_since_ns = check->now;
    }
}

static bool granted(struct control *c, struct control_submission *s)
{
    assert(c != NULL);
    struct grant_check check = {.c = c, .s = s, .now = control_lived(c), .ok = true};
    assert(s->result.rc == 0);
    const struct map_volume *volume = map_volume_by_id(c->map, s->volume);
    find_members(c, s);
    s->continued = volume && volume->session.number == s->result.value && volume->session.continued;
    map_each_node(c->map, check_node, &check);
    return check.ok;
}

static bool gateway_knows(struct control *c, const struct control_submission *s, uint64_t version)
{
    assert(s->resize);
    const struct map_volume *volume = map_volume_by_id(c->map, s->volume);
    const struct map_node *node =
        volume && volume->session.open ? map_node_by_id(c->map, volume->session.gateway) : NULL;
    if (!node || !node->up)
        return true; /* whoever attaches from now on hears it then */
    const struct control_watch *w = control_watch_get(c, node->id);
    assert(version > 0);
    return w && ((w->applied_incarnation == node->incarnation && w->applied >= version) ||
                 w->lease_until_ns <= control_lived(c));
}

/* ---- from the log to the answer ---- */

/* True when s was answered and is gone. */
static bool settle(struct control *c, struct control_submission *s)
{
    assert(c != NULL);
    struct map_result result;
    assert(!s->in_log);
    if (!map_request_result(c->map, s->request, &result)) {
        answer(c, s->conn, s->request_id, -EAGAIN, NULL);
    } else if (s->resize && result.rc == 0 && !gateway_knows(c, s, result.version)) {
        return false; /* control_submit_turn looks again */
    } else if (!s->session || result.rc < 0) {
        if (s->drop_reporter != 0 && (result.rc == 0 || result.rc == -EBUSY))
            control_liveness_accused(c, s->drop_reporter, s->drop_node, result.rc == -EBUSY);
        answer(c, s->conn, s->request_id, 0, &result);
    } else {
        s->result = result;
        if (!granted(c, s))
            return false; /* control_submit_turn looks again */
        answer(c, s->conn, s->request_id, 0, &result);
    }
    drop(s);
    return true;
}

static void logged(struct control_log_req *req, int rc)
{
    assert(req != NULL);
    struct control_submission *s = req->owner;
    struct control *c = s->control;
    assert(s->in_log);
    s->in_log = false;
    if (s->dead) {
        drop(s);
        return;
    }
    if (rc < 0) { /* R4: unknown */
        answer(c, s->conn, s->request_id, -EAGAIN, NULL);
        drop(s);
    }
    control_wake(c);
}

static void note_entry(struct control *c, struct control_submission *s, const void *bytes, size_t len)
{
    struct map_entry entry;
    assert(c->leading);
    if (map_entry_decode(bytes, len, &entry) < 0)
        return;
    if (entry.kind == MAP_ENTRY_SESSION_OPEN || entry.kind == MAP_ENTRY_VOLUME_RESIZE) {
        const struct map_volume *volume =
            entry.volume ? map_volume_by_id(c->map, entry.volume) : map_volume_by_name(c->map, entry.name);
        s->session = entry.kind == MAP_ENTRY_SESSION_OPEN;
        s->resize = !s->session;
        s->volume = volume ? volume->id : 0;
    }
    if (entry.kind == MAP_ENTRY_MEMBER_DROP && entry.to_node != 0) {
        s->drop_reporter = entry.to_node;
        s->drop_node = entry.node;
    }
    map_entry_free(&entry);
}

static int check_entry(const void *bytes, size_t len)
{
    struct map_entry entry;
    assert(len <= MAP_ENTRY_BYTES_MAX);
    int rc = map_entry_decode(bytes, len, &entry);
    if (rc < 0)
        return rc;
    bool leaders_own =
        entry.kind == MAP_ENTRY_NODE_DOWN || entry.kind == MAP_ENTRY_ELECT || entry.kind == MAP_ENTRY_CLUSTER_INIT;
    map_entry_free(&entry);
    return leaders_own ? -EPERM : 0;
}

static struct control_submission *find(struct control *c, const uint8_t request[16])
{
    assert(c != NULL);
    uint32_t count = 0;
    list_for_each(node, &c->submissions)
    {
        struct control_submission *s = list_entry(node, struct control_submission, node_link);
        if (!s->dead && memcmp(s->request, request, 16) == 0)
            return s;
        count++;
    }
    assert(count <= SUBMISSIONS_MAX);
    return NULL;
}

static struct control_submission *create(struct control *c, const void *bytes, size_t len, const uint8_t request[16])
{
    assert(c != NULL);
    struct control_submission *s = calloc(1, sizeof *s);
    assert(len >= MAP_ENTRY_HEADER_BYTES);
    if (!s)
        return NULL;
    s->control = c;
    memcpy(s->request, request, 16);
    note_entry(c, s, bytes, len);
    list_push_back(&c->submissions, &s->node_link);
    return s;
}

void control_submit(struct control *c, uint64_t conn, uint64_t request_id, const void *bytes, size_t len)
{
    struct control_log *log = c->config.log;
    struct map_result known;
    uint8_t request[16];
    if (!c->leading) {
        answer(c, conn, request_id, -EAGAIN, NULL);
        return;
    }
    int rc = check_entry(bytes, len);
    if (rc < 0) {
        answer(c, conn, request_id, rc, NULL);
        return;
    }
    (void)map_entry_request(bytes, len, request);
    struct control_submission *s = find(c, request);
    bool seen = s != NULL;
    if (!s)
        s = create(c, bytes, len, request);
    if (!s) {
        answer(c, conn, request_id, -EBUSY, NULL);
        return;
    }
    s->conn = conn;
    s->request_id = request_id;
    if (seen || map_request_result(c->map, request, &known)) {
        control_wake(c); /* a retry: the turn settles it */
        return;
    }
    s->in_log = true;
    s->req.owner = s;
    rc = log->ops->propose(log, bytes, len, &s->req, logged);
    if (rc == 0)
        return;
    assert(rc < 0);
    s->in_log = false;
    answer(c, conn, request_id, rc == -EMSGSIZE ? rc : -EAGAIN, NULL);
    drop(s);
}

void control_submit_turn(struct control *c)
{
    if (!c->leading)
        return;
    assert(c->config.log != NULL);
    list_for_each_safe(node, tmp, &c->submissions)
    {
        struct control_submission *s = list_entry(node, struct control_submission, node_link);
        if (!s->in_log && !s->dead)
            (void)settle(c, s);
    }
}

void control_submit_close(struct control *c)
{
    list_for_each_safe(node, tmp, &c->submissions)
    {
        struct control_submission *s = list_entry(node, struct control_submission, node_link);
        if (!s->dead)
            answer(c, s->conn, s->request_id, -EAGAIN, NULL);
        drop(s);
    }
    assert(!c->leading || c->stopping);
}
