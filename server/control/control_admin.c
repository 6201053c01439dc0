/* SPDX-License-Identifier: Apache-2.0 */
/* control_admin: admin requests: a table of ops, reads at once, changes as entries, everything else relayed to the leader.
 *
 * - control_admin_frame: from a command line, over a link; control_admin: from inside the daemon
 * - `ping` and `stats` are answered where they arrive; every other op where the leader is
 *
 * Failure: no leader known, or no answer from it in time: a sentence says so, and the command may be given again.
 */
#include "server/control/control_admin.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "admin"
#include "common/log.h"

#define RELAY_NS ENV_MS(10000)
#define REQUEST_BYTES_MAX (64u * 1024u)

struct op {
    const char *name;
    bool local; /* answered by the node that is asked */
    json_t *(*read)(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX]);
    control_change_fn *change;
};

/* A change on its way. */
struct change {
    struct control *control;
    struct map_entry entry;
    uint64_t volumes[MAP_GROUP_MAX]; /* entry.volumes */
    control_admin_cb cb;
    void *arg;
};

static json_t *read_ping(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX]);
static json_t *read_transfer(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX]);

static const struct op ops[] = {
    {"ping", true, read_ping, NULL},
    {"stats", true, control_report_stats, NULL},
    {"status", false, control_report_status, NULL},
    {"node-list", false, control_report_nodes, NULL},
    {"volume-list", false, control_report_volumes, NULL},
    {"volume-info", false, control_report_volume, NULL},
    {"snapshot-list", false, control_report_snapshots, NULL},
    {"session-list", false, control_report_sessions, NULL},
    {"leader-transfer", false, read_transfer, NULL},
    {"volume-create", false, NULL, control_change_volume_create},
    {"volume-delete", false, NULL, control_change_volume_delete},
    {"volume-resize", false, NULL, control_change_volume_resize},
    {"volume-set", false, NULL, control_change_volume_set},
    {"snapshot-create", false, NULL, control_change_snapshot_create},
    {"snapshot-delete", false, NULL, control_change_snapshot_delete},
    {"volume-rollback", false, NULL, control_change_volume_rollback},
    {"volume-clone", false, NULL, control_change_volume_clone},
    {"volume-flatten", false, NULL, control_change_volume_flatten},
    {"session-close", false, NULL, control_change_session_close},
    {"force-promote", false, NULL, control_change_force_promote},
    {"node-out", false, NULL, control_change_node_out},
    {"node-remove", false, NULL, control_change_node_remove},
};

/* ---- answers ---- */

void control_admin_answer(control_admin_cb cb, void *arg, json_t *answer, int rc, const char *sentence)
{
    assert(sentence != NULL);
    assert(cb != NULL);
    if (!answer)
        answer = json_pack("{s:b,s:s,s:i}", "ok", 0, "error", sentence, "code", rc);
    else
        (void)json_object_set_new(answer, "ok", json_true());
    char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
    if (text && strlen(text) <= WIRE_BODY_MAX) {
        cb(arg, text, strlen(text));
    } else {
        static const char too_much[] = "{\"ok\":false,\"error\":\"the answer is too large\",\"code\":-90}";
        cb(arg, too_much, sizeof too_much - 1);
    }
    free(text);
    json_decref(answer);
}

static json_t *read_ping(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    (void)request;
    assert(sentence != NULL);
    return json_pack("{s:i,s:I,s:i,s:b,s:I}", "node", (int)c->config.node, "incarnation", (json_int_t)c->incarnation,
                     "leader", (int)control_leader_node(c), "registered", c->registration == REG_DONE, "map_version",
                     (json_int_t)map_version(c->map));
}

static json_t *read_transfer(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    (void)request;
    assert(c->leading);
    if (c->config.log->ops->transfer(c->config.log) == 0)
        return json_object();
    (void)snprintf(sentence, ADMIN_SENTENCE_MAX, "leadership can't be handed over now: no other voter is up to date");
    return NULL;
}

/* ---- changes ---- */

static void changed(void *arg, const struct map_result *result)
{
    struct change *change = arg;
    char sentence[ADMIN_SENTENCE_MAX] = "";
    json_t *answer = NULL;
    if (result->rc == 0 && change->entry.kind == MAP_ENTRY_SNAPSHOT_OPEN) {
        control_snap_wait(change->control, change->entry.snapshot, result, change->cb, change->arg);
        free(change);
        return;
    }
    if (result->rc == 0)
        answer = json_pack("{s:I,s:I}", "value", (json_int_t)result->value, "map_version", (json_int_t)result->version);
    else
        control_change_explain(&change->entry, result->rc, sentence);
    assert(result->rc <= 0);
    control_admin_answer(change->cb, change->arg, answer, result->rc, sentence);
    free(change);
}

/* "request": 32 hexadecimal digits of the asker's choice. Asked again with the same ones, at any node, a change is made once and
 * answered as the first time. Without: every asking is a change of its own. */
static int get_request_id(json_t *request, uint8_t ret_id[16], char *sentence)
{
    json_t *value = json_object_get(request, "request");
    const char *text = json_string_value(value);
    assert(ret_id != NULL);
    if (!value)
        return 0;
    (void)snprintf(sentence, ADMIN_SENTENCE_MAX, "request must be 32 hexadecimal digits, not all of them 0");
    if (!text || strlen(text) != 32 || strspn(text, "0123456789abcdef") != 32 || strspn(text, "0") == 32)
        return -EINVAL;
    for (size_t i = 0; i < 16; i++) {
        const char digits[3] = {text[2 * i], text[2 * i + 1], '\0'};
        ret_id[i] = (uint8_t)strtoul(digits, NULL, 16);
    }
    return 0;
}

/* What was asked before with the same id and went well is done, though it could not be done once more: what it deleted is gone. */
static bool done_before(struct control *c, const struct map_entry *entry, control_admin_cb cb, void *arg)
{
    static const uint8_t none[sizeof entry->request];
    struct map_result result;
    assert(c != NULL && cb != NULL);
    if (memcmp(entry->request, none, sizeof none) == 0 || !map_request_result(c->map, entry->request, &result) ||
        result.rc != 0)
        return false;
    control_admin_answer(
        cb, arg, json_pack("{s:I,s:I}", "value", (json_int_t)result.value, "map_version", (json_int_t)result.version),
        0, "");
    return true;
}

static void run_change(struct control *c, const struct op *op, json_t *request, control_admin_cb cb, void *arg)
{
    assert(c != NULL);
    struct map_weight weights[MAP_NODES_MAX];
    char sentence[ADMIN_SENTENCE_MAX] = "this request makes no sense";
    struct change *change = calloc(1, sizeof *change);
    if (change)
        change->entry.volumes = change->volumes;
    int rc = change ? get_request_id(request, change->entry.request, sentence) : -ENOMEM;
    if (rc == 0)
        rc = op->change(c, request, &change->entry, weights, sentence);
    assert(rc <= 0);
    if (rc == 0) {
        change->control = c;
        change->cb = cb;
        change->arg = arg;
        rc = control_propose_entry(c, &change->entry, changed, change);
        (void)snprintf(sentence, sizeof sentence, "too many requests: try again");
        if (rc == 0) {
            change->entry.weights = NULL; /* were encoded */
            change->entry.weight_count = 0;
            return;
        }
    }
    bool before = change && done_before(c, &change->entry, cb, arg);
    free(change);
    if (!before)
        control_admin_answer(cb, arg, NULL, rc, sentence);
}

/* ---- relaying ---- */

static void relay_end(struct control_admin_request *relay, const char *json, size_t len)
{
    assert(relay != NULL);
    assert(relay->cb != NULL);
    list_remove(&relay->node_link);
    relay->cb(relay->arg, json, len);
    free(relay);
}

static void relay_fail(struct control_admin_request *relay, const char *sentence)
{
    assert(relay != NULL);
    char text[ADMIN_SENTENCE_MAX + 64];
    int len = snprintf(text, sizeof text, "{\"ok\":false,\"error\":\"%s\",\"code\":%d}", sentence,
                       -EINPROGRESS); /* it was sent: a change may have been made */
    assert(len > 0 && (size_t)len < sizeof text);
    relay_end(relay, text, (size_t)len);
}

static void relay(struct control *c, const char *json, size_t len, control_admin_cb cb, void *arg)
{
    assert(cb != NULL);
    struct control_admin_request *relay = calloc(1, sizeof *relay);
    struct wire_header header = {.opcode = WIRE_CTL_ADMIN, .body_len = (uint32_t)len, .request_id = control_id(c)};
    assert(!c->leading);
    uint32_t leader = control_leader_node(c);
    int rc = relay && leader != 0 ? control_peer_send(c, leader, &header, json) : -EAGAIN;
    if (rc < 0) {
        free(relay);
        control_admin_answer(cb, arg, NULL, -EAGAIN,
                             leader == 0
                                 ? "no leader at the moment: is a majority of the voters up? Try again"
                                 : "the leader can't be reached from this node: try again, or ask another node");
        return;
    }
    relay->control = c;
    relay->id = header.request_id;
    relay->deadline_ns = control_now(c) + RELAY_NS;
    relay->cb = cb;
    relay->arg = arg;
    list_push_back(&c->admins, &relay->node_link);
}

void control_admin_relayed(struct control *c, const struct wire_header *reply, const void *body)
{
    assert(c != NULL);
    assert(reply->opcode == (WIRE_CTL_ADMIN | 1));
    list_for_each_safe(node, tmp, &c->admins)
    {
        struct control_admin_request *relay = list_entry(node, struct control_admin_request, node_link);
        if (relay->id != reply->request_id)
            continue;
        if (reply->status < 0 || reply->body_len == 0)
            relay_fail(relay, "the leader did not answer: try again");
        else
            relay_end(relay, body, reply->body_len);
        return;
    }
}

void control_admin_tick(struct control *c)
{
    assert(c != NULL);
    uint64_t now = control_now(c);
    list_for_each_safe(node, tmp, &c->admins)
    {
        struct control_admin_request *relay = list_entry(node, struct control_admin_request, node_link);
        if (now >= relay->deadline_ns)
            relay_fail(relay, "the leader did not answer in time: the request may have been carried out");
    }
    control_snap_turn(c); /* their patience ends, too */
    assert(now > 0);
}

void control_admin_close(struct control *c)
{
    assert(c != NULL);
    assert(c->stopping);
    control_snap_close(c);
    while (!list_empty(&c->admins))
        relay_fail(list_entry(c->admins.next, struct control_admin_request, node_link),
                   "this node is stopping: ask another one");
}

/* ---- in ---- */

static const struct op *find_op(const char *name)
{
    for (size_t i = 0; name && i < sizeof ops / sizeof ops[0]; i++) {
        if (strcmp(ops[i].name, name) == 0)
            return &ops[i];
    }
    return NULL;
}

void control_admin(struct control *c, const char *json, size_t len, control_admin_cb cb, void *arg)
{
    char sentence[ADMIN_SENTENCE_MAX] = "nothing is known about that";
    assert(cb != NULL);
    json_t *request = len <= REQUEST_BYTES_MAX ? json_loadb(json, len, 0, NULL) : NULL;
    const struct op *op = find_op(json_string_value(json_object_get(request, "op")));
    if (!op) {
        control_admin_answer(cb, arg, NULL, -EINVAL,
                             request ? "unknown op: this node may be of an older version"
                                     : "the request is no JSON object");
    } else if (!op->local && !c->leading) {
        relay(c, json, len, cb, arg);
    } else if (op->read) {
        json_t *answer = op->read(c, request, sentence);
        control_admin_answer(cb, arg, answer, answer ? 0 : -ENOENT, sentence);
    } else {
        run_change(c, op, request, cb, arg);
    }
    json_decref(request);
}

struct frame_answer {
    struct control *control;
    uint64_t conn, request_id;
};

static void frame_answered(void *arg, const char *json, size_t len)
{
    struct frame_answer *to = arg;
    struct wire_header request = {.opcode = WIRE_CTL_ADMIN, .request_id = to->request_id};
    struct wire_header reply = {.body_len = (uint32_t)len};
    struct control_conn *conn = control_conn_find(to->control, to->conn);
    assert(len <= WIRE_BODY_MAX);
    if (conn)
        control_conn_reply(conn, &request, &reply, json);
    free(to);
}

void control_admin_frame(struct control_conn *conn, struct msg *msg)
{
    assert(msg != NULL);
    struct frame_answer *to = calloc(1, sizeof *to);
    assert(msg->header.opcode == WIRE_CTL_ADMIN);
    if (!to) {
        control_conn_drop(conn);
        return;
    }
    *to = (struct frame_answer){.control = conn->control, .conn = conn->id, .request_id = msg->header.request_id};
    if (conn->role == HELLO_CONTROL && !conn->control->leading) { /* relayed to us, but we lead no more */
        control_admin_answer(frame_answered, to, NULL, -EAGAIN, "the leader changed just now: try again");
        return;
    }
    control_admin(conn->control, (const char *)msg->body, msg->header.body_len, frame_answered, to);
}
