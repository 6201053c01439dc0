/* SPDX-License-Identifier: Apache-2.0 */
/* peers: links to the other daemons, out and in; requests and answers.
 *
 * Outgoing: DOWN --connect--> CONNECTING --connected--> GREETING --hello answered--> UP --closed--> DOWN (after reconnect_ns)
 * Incoming: peers_accept --incarnation known--> live; --newer than our map knows--> held until the map says so (R1, R3).
 *
 * Failures: refused, reset and silence are hints for the control plane (suspect), nothing more. Silence: a link with no frame for
 * PING_AFTER is pinged, after DEAD_AFTER it is closed, so that a cut that raises no event cannot stall a write for ever.
 */
#include "server/replica/peers.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/hello.h"
#include "common/log.h"
#include "common/mutant.h"
#include "server/replica/peers_internal.h"

#define LOG_MODULE "peers"
#define PEERS_TICK_NS ENV_MS(250)
#define PING_AFTER_NS ENV_MS(400)
#define DEAD_AFTER_NS ENV_MS(1500)
#define HELLO_WAIT_NS ENV_MS(5000)
#define HELD_PAUSE 256u
#define RECONNECT_DEFAULT_NS ENV_MS(100)

static void in_assert(const struct peer_in *in)
{
    assert(in != NULL && in->peers != NULL);
    if (in->live)
        assert(in->peers->in[in->node] == in);
}

static void out_connect(struct peer_out *out);

static void identify(struct peers *p, struct wire_header *h, uint32_t node, uint64_t incarnation)
{
    assert(node <= MAP_NODES_MAX);
    peers_assert(p);
    h->src_node = p->cfg.node;
    h->src_incarnation = p->cfg.incarnation;
    h->dst_node = node;
    h->dst_incarnation = incarnation;
    h->map_version = map_version(p->cfg.map);
}

static void closed_task(struct env_task *task)
{
    struct peers *p = list_entry(task, struct peers, closed_task);
    void (*cb)(void *) = p->closed;
    void *arg = p->closed_arg;
    assert(!p->unsent_task.queued && list_empty(&p->unsent));
    for (uint32_t i = 0; i <= MAP_NODES_MAX; i++)
        map_u64_close(&p->out[i].pending);
    free(p);
    if (cb)
        cb(arg);
}

void peers_link_gone(struct peers *p)
{
    peers_assert(p);
    assert(p->links > 0);
    if (--p->links == 0 && p->closing)
        env_defer(p->env, &p->closed_task, closed_task);
}

/* ---- outgoing ---- */

/* True when the callback took the reply. The request may be gone then. */
static bool request_end(struct peer_out *out, struct peer_request *req, int rc, struct msg *reply)
{
    assert(req->owner != NULL);
    out_assert(out);
    bool taken = false;
    (void)map_u64_remove(&out->pending, req->request_id);
    list_remove(&req->link);
    req->reply = reply;
    req->taken = &taken;
    req->cb(req, rc);
    return taken;
}

static void fail_pending(struct peer_out *out)
{
    out_assert(out);
    while (!list_empty(&out->order))
        (void)request_end(out, list_entry(out->order.next, struct peer_request, link), -ENOTCONN, NULL);
}

static void out_closed(struct link *link, void *owner, int reason)
{
    struct peer_out *out = owner;
    struct peers *p = out->peers;
    enum out_state was = out->state;
    (void)link;
    out->link = NULL;
    out->state = OUT_DOWN;
    out->retry_at_ns = env_now_ns(p->env) + p->cfg.reconnect_ns;
    bool tcp_next = was == OUT_CONNECTING && out->by_rdma && peers_path_failed(out, reason ? reason : -ETIMEDOUT);
    if (was == OUT_CONNECTING && !out->by_rdma)
        out->rdma_at_ns = out->rdma_rest_ns = 0; /* nobody is there at all: when somebody is, RDMA comes first */
    fail_pending(out);
    const struct map_node *node = map_node_by_id(p->cfg.map, out->node);
    bool current = node && node->up && !tcp_next && (was == OUT_CONNECTING || node->incarnation == out->incarnation);
    if (was == OUT_UP) {
        log_info("link to node %u ended: %s", out->node, reason ? strerror(-reason) : "closed here");
        if (!p->closing && p->cfg.callbacks.peer_down)
            p->cfg.callbacks.peer_down(p->cfg.arg, out->node);
    }
    if (!p->closing && current && reason != 0 && p->cfg.callbacks.suspect)
        p->cfg.callbacks.suspect(p->cfg.arg, out->node);
    if (tcp_next && !p->closing)
        out_connect(out);
    peers_link_gone(p);
}

static void out_connected(struct link *link, void *owner)
{
    struct peer_out *out = owner;
    struct peers *p = out->peers;
    struct wire_header h = {.opcode = WIRE_HELLO, .body_len = HELLO_BYTES};
    uint8_t body[HELLO_BYTES];
    struct hello hello = {
        .version_min = WIRE_VERSION_MIN,
        .version_max = WIRE_VERSION,
        .role = HELLO_PEER,
        .node = p->cfg.node,
        .incarnation = p->cfg.incarnation,
        .cluster_id = map_cluster_id(p->cfg.map),
        .connection = ++p->next_connection,
        .map_version = map_version(p->cfg.map),
        .feature_level = MAP_FEATURE_LEVEL,
    };
    hello_encode(&hello, body);
    identify(p, &h, out->node, out->incarnation);
    h.request_id = 0;
    out->state = OUT_GREETING;
    peers_path_connect_done(out);
    out->received_ns = env_now_ns(p->env);
    if (link_send(link, &h, body, NULL, 0) != 0)
        link_close(link);
}

static void out_greeted(struct peer_out *out, const struct msg *msg)
{
    assert(msg != NULL);
    out_assert(out);
    struct peers *p = out->peers;
    struct hello hello;
    int rc = msg->header.status;
    if (rc == 0)
        rc = hello_decode(msg->body, msg->header.body_len, &hello);
    if (rc == 0 && (hello.node != out->node || hello.incarnation != out->incarnation))
        rc = -ESTALE; /* R1: somebody else answers there now */
    if (rc != 0) {
        log_debug("node %u refused our hello: %s", out->node, strerror(-rc));
        link_close(out->link);
        return;
    }
    out->state = OUT_UP;
    log_info("link to node %u is up transport=%s", out->node, out->by_rdma ? "rdma" : "tcp");
    if (p->cfg.callbacks.peer_up)
        p->cfg.callbacks.peer_up(p->cfg.arg, out->node);
}

static void out_message(struct link *link, void *owner, struct msg *msg)
{
    assert(msg != NULL);
    struct peer_out *out = owner;
    (void)link;
    out->received_ns = msg->received_ns;
    if (msg->header.opcode == (WIRE_HELLO | 1) && out->state == OUT_GREETING) {
        out_greeted(out, msg);
        msg_free(msg);
        return;
    }
    if (out->state != OUT_UP || msg->header.src_incarnation != out->incarnation ||
        msg->header.dst_incarnation != out->peers->cfg.incarnation || !WIRE_IS_REPLY(msg->header.opcode)) {
        msg_free(msg); /* R1 */
        return;
    }
    struct peer_request *req = map_u64_get(&out->pending, msg->header.request_id);
    if (!req || !request_end(out, req, msg->header.status, msg))
        msg_free(msg);
}

static const struct link_callbacks out_callbacks = {
    .connected = out_connected, .message = out_message, .closed = out_closed};

static void out_connect(struct peer_out *out)
{
    out_assert(out);
    struct peers *p = out->peers;
    const struct map_node *node = map_node_by_id(p->cfg.map, out->node);
    if (!node || !node->up || node->data_address[0] == '\0' || p->closing)
        return;
    assert(out->state == OUT_DOWN && out->link == NULL);
    out->incarnation = node->incarnation;
    int rc = peers_path_connect(out, &out_callbacks);
    if (rc != 0) {
        out->retry_at_ns = env_now_ns(p->env) + p->cfg.reconnect_ns;
        log_debug("cannot connect to node %u at %s: %s", out->node, node->data_address, strerror(-rc));
        return;
    }
    out->state = OUT_CONNECTING;
    out->received_ns = env_now_ns(p->env);
    p->links++;
}

/* ---- requests ---- */

/* Requests that found no link fail on a later turn. */
static void fail_unsent(struct env_task *task)
{
    struct peers *p = list_entry(task, struct peers, unsent_task);
    struct list_node failed;
    struct list_node *node;
    list_head_init(&failed);
    while ((node = list_pop_front(&p->unsent)))
        list_push_back(&failed, node);
    while ((node = list_pop_front(&failed))) {
        struct peer_request *req = list_entry(node, struct peer_request, link);
        req->cb(req, -ENOTCONN);
    }
}

void peers_request(struct peers *p, uint32_t node, struct wire_header *header, const void *body, struct buf *payload,
                   uint32_t payload_offset, struct peer_request *req)
{
    peers_assert(p);
    assert(node > 0 && node <= MAP_NODES_MAX);
    assert(req->cb != NULL);
    struct peer_out *out = &p->out[node];
    req->reply = NULL;
    req->node = node;
    req->link.next = req->link.prev = NULL;
    req->request_id = ++p->next_request;
    identify(p, header, node, out->incarnation);
    header->request_id = req->request_id;
    if (out->state != OUT_UP || map_u64_put(&out->pending, req->request_id, req) != 0) {
        req->request_id = 0;
        list_push_back(&p->unsent, &req->link);
        env_defer(p->env, &p->unsent_task, fail_unsent);
        return;
    }
    req->sent_ns = env_now_ns(p->env);
    list_push_back(&out->order, &req->link);
    int rc = link_send(out->link, header, body, payload, payload_offset);
    if (rc != 0) { /* more queued than the limit: a peer that takes nothing any more */
        log_warn("cannot send to node %u: %s", node, strerror(-rc));
        link_close(out->link);
    }
}

void peers_notify(struct peers *p, uint32_t node, struct wire_header *header)
{
    peers_assert(p);
    assert(node > 0 && node <= MAP_NODES_MAX);
    struct peer_out *out = &p->out[node];
    if (out->state != OUT_UP)
        return;
    identify(p, header, node, out->incarnation);
    header->request_id = 0;
    (void)link_send(out->link, header, NULL, NULL, 0);
}

void peers_abandon(struct peers *p, struct peer_request *req)
{
    peers_assert(p);
    if (list_linked(&req->link)) {
        if (req->request_id)
            (void)map_u64_remove(&p->out[req->node].pending, req->request_id);
        list_remove(&req->link);
    }
}

bool peers_is_up(const struct peers *p, uint32_t node)
{
    peers_assert(p);
    return node > 0 && node <= MAP_NODES_MAX && p->out[node].state == OUT_UP;
}

/* ---- incoming ---- */

static void drop_held(struct peer_in *in)
{
    in_assert(in);
    while (in->held_first) {
        struct msg *msg = in->held_first;
        in->held_first = msg->next;
        msg_free(msg);
    }
    in->held_last = NULL;
    in->held_count = 0;
}

/* R5: from here on nothing of this link is processed. */
static void in_end(struct peer_in *in)
{
    in_assert(in);
    struct peers *p = in->peers;
    if (in->closing)
        return;
    in->closing = true;
    drop_held(in);
    msg_free(in->hello);
    in->hello = NULL;
    if (in->live) {
        struct peer_source source = {.node = in->node, .connection = in->connection};
        assert(p->in[in->node] == in);
        p->in[in->node] = NULL;
        in->live = false;
        if (p->cfg.callbacks.source_lost)
            p->cfg.callbacks.source_lost(p->cfg.arg, &source);
    }
    link_close(in->link);
}

static void in_closed(struct link *link, void *owner, int reason)
{
    struct peer_in *in = owner;
    struct peers *p = in->peers;
    (void)link;
    if (reason != 0 && in->node != 0)
        log_info("link from node %u ended: %s", in->node, strerror(-reason));
    in_end(in);
    list_remove(&in->link_node);
    free(in);
    peers_link_gone(p);
}

static void in_request(struct peer_in *in, struct msg *msg)
{
    assert(msg != NULL);
    in_assert(in);
    struct peers *p = in->peers;
    struct peer_source source = {.node = in->node, .connection = in->connection};
    if (msg->header.opcode == WIRE_PING) {
        struct wire_header reply = {.status = 0};
        peers_reply(p, &source, &msg->header, &reply, NULL, NULL, 0);
        msg_free(msg);
        return;
    }
    p->cfg.callbacks.request(p->cfg.arg, &source, msg);
}

static void in_message(struct link *link, void *owner, struct msg *msg)
{
    assert(msg != NULL);
    struct peer_in *in = owner;
    struct peers *p = in->peers;
    (void)link;
    const struct wire_header *h = &msg->header;
    bool ours = in->live && h->src_node == in->node && h->src_incarnation == in->incarnation &&
                h->dst_node == p->cfg.node && h->dst_incarnation == p->cfg.incarnation && !WIRE_IS_REPLY(h->opcode);
    if (in->closing || !ours) { /* R1 */
        msg_free(msg);
        if (!in->closing) {
            log_warn("frame with a foreign identity on the link from node %u: closing it", in->node);
            in_end(in);
        }
        return;
    }
    msg->next = NULL;
    if (in->held_first || h->map_version > map_version(p->cfg.map)) { /* R3, in order */
        if (in->held_last)
            in->held_last->next = msg;
        else
            in->held_first = msg;
        in->held_last = msg;
        if (++in->held_count == HELD_PAUSE)
            link_pause(in->link, true);
        return;
    }
    in_request(in, msg);
}

static const struct link_callbacks in_callbacks = {.message = in_message, .closed = in_closed};

static void release_held(struct peer_in *in)
{
    in_assert(in);
    struct peers *p = in->peers;
    while (in->held_first && in->held_first->header.map_version <= map_version(p->cfg.map)) {
        struct msg *msg = in->held_first;
        in->held_first = msg->next;
        if (!in->held_first)
            in->held_last = NULL;
        if (in->held_count-- == HELD_PAUSE)
            link_pause(in->link, false);
        in_request(in, msg);
        if (in->closing)
            return;
    }
}

static void answer_hello(struct peer_in *in, const struct wire_header *request, int rc, const char *text)
{
    in_assert(in);
    struct peers *p = in->peers;
    struct hello hello = {
        .version_min = WIRE_VERSION_MIN,
        .version_max = WIRE_VERSION,
        .role = HELLO_PEER,
        .node = p->cfg.node,
        .incarnation = p->cfg.incarnation,
        .cluster_id = map_cluster_id(p->cfg.map),
        .map_version = map_version(p->cfg.map),
        .feature_level = MAP_FEATURE_LEVEL,
    };
    uint8_t body[HELLO_BYTES];
    strncpy(hello.text, text, sizeof(hello.text) - 1);
    hello_encode(&hello, body);
    struct wire_header h = {
        .opcode = WIRE_HELLO | 1, .status = rc, .request_id = request->request_id, .body_len = HELLO_BYTES};
    identify(p, &h, request->src_node, request->src_incarnation);
    (void)link_send(in->link, &h, body, NULL, 0);
}

/* 0: welcome; -EAGAIN: our map does not know it yet; else refused. */
static int judge_hello(struct peers *p, const struct wire_header *h, const struct hello *hello, const char **ret_text)
{
    peers_assert(p);
    const struct map_node *node = map_node_by_id(p->cfg.map, hello->node);
    uint16_t version;
    *ret_text = "";
    if (hello_negotiate(hello, &version) != 0) {
        *ret_text = "no protocol version in common: upgrade the older side";
        return -EPROTONOSUPPORT;
    }
    if (hello->cluster_id != map_cluster_id(p->cfg.map)) {
        *ret_text = "another cluster's node: check the addresses in the configuration";
        return -EXDEV;
    }
    if (hello->node == 0 || hello->node > MAP_NODES_MAX || hello->node == p->cfg.node) {
        *ret_text = "impossible node number";
        return -EINVAL;
    }
    if (h->dst_incarnation != p->cfg.incarnation) {
        *ret_text = "meant for another incarnation of this daemon";
        return -ESTALE;
    }
    if (!node || node->incarnation < hello->incarnation) {
        *ret_text = "not in this node's map";
        return -EAGAIN;
    }
    if (node->incarnation > hello->incarnation || !node->up) {
        *ret_text = "an older incarnation, or declared down";
        return -ESTALE;
    }
    return 0;
}

static void try_hello(struct peer_in *in)
{
    in_assert(in);
    struct peers *p = in->peers;
    struct hello hello;
    const char *text = "malformed hello";
    assert(in->hello != NULL && !in->live);
    int rc = hello_decode(in->hello->body, in->hello->header.body_len, &hello);
    if (rc == 0)
        rc = judge_hello(p, &in->hello->header, &hello, &text);
    if (rc == -EAGAIN && env_now_ns(p->env) - in->hello_at_ns < HELLO_WAIT_NS)
        return;
    if (rc != 0) {
        log_debug("hello refused: %s", text);
        answer_hello(in, &in->hello->header, rc == -EAGAIN ? -ESTALE : rc, text);
        in_end(in);
        return;
    }
    if (p->in[hello.node] && !MUTANT(old_link_stays_open))
        in_end(p->in[hello.node]); /* R5: before the hello is answered */
    in->node = hello.node;
    in->incarnation = hello.incarnation;
    in->connection = ++p->next_connection;
    in->live = true;
    p->in[in->node] = in;
    answer_hello(in, &in->hello->header, 0, "");
    msg_free(in->hello);
    in->hello = NULL;
}

void peers_accept(struct peers *p, struct link *link, struct msg *hello_msg)
{
    peers_assert(p);
    struct peer_in *in = calloc(1, sizeof(*in));
    if (!in)
        abort();
    in->peers = p;
    in->link = link;
    in->hello = hello_msg;
    in->hello_at_ns = env_now_ns(p->env);
    list_push_back(&p->ins, &in->link_node);
    p->links++;
    link_set_owner(link, &in_callbacks, in);
    try_hello(in);
}

void peers_reply(struct peers *p, const struct peer_source *source, const struct wire_header *request,
                 struct wire_header *reply, const void *body, struct buf *payload, uint32_t payload_offset)
{
    peers_assert(p);
    assert(source->node <= MAP_NODES_MAX);
    struct peer_in *in = p->in[source->node];
    if (!in || in->connection != source->connection || in->closing || request->request_id == 0)
        return;
    reply->opcode = (uint16_t)(request->opcode | 1u);
    reply->request_id = request->request_id;
    identify(p, reply, in->node, in->incarnation);
    if (link_send(in->link, reply, body, payload, payload_offset) != 0)
        in_end(in);
}

/* ---- following the map, time ---- */

static void check_node(struct peers *p, uint32_t id)
{
    peers_assert(p);
    struct peer_out *out = &p->out[id];
    const struct map_node *node = map_node_by_id(p->cfg.map, id);
    bool wanted = node && node->up && id != p->cfg.node;
    if (out->link && (!wanted || out->incarnation != node->incarnation))
        link_close(out->link); /* R1: that daemon is history */
    if (p->in[id] && (!wanted || p->in[id]->incarnation != node->incarnation))
        in_end(p->in[id]);
    if (wanted && out->state == OUT_DOWN && env_now_ns(p->env) >= out->retry_at_ns)
        out_connect(out);
}

void peers_map_changed(struct peers *p)
{
    peers_assert(p);
    if (p->closing)
        return;
    list_for_each_safe(pos, tmp, &p->ins)
    {
        struct peer_in *in = list_entry(pos, struct peer_in, link_node);
        if (in->hello && !in->closing)
            try_hello(in);
        else if (in->held_first && !in->closing)
            release_held(in);
    }
    for (uint32_t id = 1; id <= MAP_NODES_MAX; id++)
        check_node(p, id);
}

static void ping(struct peer_out *out, uint64_t now)
{
    out_assert(out);
    if (now - out->received_ns > DEAD_AFTER_NS) {
        log_info("node %u is silent: closing its link", out->node);
        if (out->peers->cfg.callbacks.suspect)
            out->peers->cfg.callbacks.suspect(out->peers->cfg.arg, out->node);
        link_close(out->link);
        return;
    }
    if (out->state != OUT_UP || now - out->received_ns < PING_AFTER_NS)
        return;
    struct wire_header h = {.opcode = WIRE_PING};
    identify(out->peers, &h, out->node, out->incarnation);
    h.request_id = ++out->peers->next_request;
    (void)link_send(out->link, &h, NULL, NULL, 0);
}

static void tick(struct env_timer *timer)
{
    struct peers *p = list_entry(timer, struct peers, tick);
    uint64_t now = env_now_ns(p->env);
    for (uint32_t id = 1; id <= MAP_NODES_MAX; id++) {
        struct peer_out *out = &p->out[id];
        if (out->link)
            ping(out, now);
        if (out->link)
            peers_path_tick(out);
        else if (out->state == OUT_DOWN && now >= out->retry_at_ns && id != p->cfg.node)
            out_connect(out);
    }
    list_for_each_safe(pos, tmp, &p->ins)
    {
        struct peer_in *in = list_entry(pos, struct peer_in, link_node);
        if (in->hello && !in->closing)
            try_hello(in);
    }
    env_timer_start(p->env, &p->tick, PEERS_TICK_NS, tick);
}

/* ---- life ---- */

struct peers *peers_create(const struct peers_config *config)
{
    assert(config->env && config->transport && config->map && config->callbacks.request);
    assert(config->node > 0 && config->node <= MAP_NODES_MAX);
    struct peers *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->cfg = *config;
    p->env = config->env;
    if (!p->cfg.reconnect_ns)
        p->cfg.reconnect_ns = RECONNECT_DEFAULT_NS;
    list_head_init(&p->ins);
    list_head_init(&p->unsent);
    for (uint32_t i = 0; i <= MAP_NODES_MAX; i++) {
        p->out[i].peers = p;
        p->out[i].node = i;
        map_u64_init(&p->out[i].pending);
        list_head_init(&p->out[i].order);
    }
    /* request ids and connection numbers of one incarnation never repeat; those of another are refused by R1 */
    env_timer_start(p->env, &p->tick, PEERS_TICK_NS, tick);
    return p;
}

void peers_close(struct peers *p, void (*cb)(void *arg), void *arg)
{
    peers_assert(p);
    p->closing = true;
    p->closed = cb;
    p->closed_arg = arg;
    env_timer_stop(p->env, &p->tick);
    for (uint32_t i = 0; i <= MAP_NODES_MAX; i++)
        if (p->out[i].link)
            link_close(p->out[i].link);
    for (uint32_t i = 0; i <= MAP_NODES_MAX; i++)
        if (p->out[i].probe)
            link_close(p->out[i].probe);
    list_for_each_safe(pos, tmp, &p->ins)
    {
        in_end(list_entry(pos, struct peer_in, link_node));
    }
    if (p->links == 0)
        env_defer(p->env, &p->closed_task, closed_task);
}
