/* SPDX-License-Identifier: Apache-2.0 */
/* control_link: links between control cores, and from command lines.
 *
 * - control_peer_send uses the link we opened to that node, and opens one if there is none; answers come back on it
 * - control_accept takes links that others opened; the first frame must be a hello; a newer link of a node closes its older
 *   ones before its hello is answered (R5)
 * - a node's link that ends by itself makes the node suspect (R10), and a voter without its leader stand soon
 *
 * Failure: without a ready link a send is -ENOTCONN and the sender's own retry takes over; whoever breaks the protocol loses
 * the link.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "control"
#include "common/log.h"
#include "server/control/control_state.h"

static void fill_identity(const struct control *c, struct wire_header *header)
{
    assert(c != NULL);
    header->src_node = c->config.node;
    header->src_incarnation = c->incarnation;
    if (header->map_version == 0)
        header->map_version = map_version(c->map);
    assert(header->src_node != 0);
}

void control_hello_fill(const struct control *c, struct hello *hello)
{
    assert(c != NULL);
    *hello = (struct hello){.version_min = WIRE_VERSION_MIN, .version_max = WIRE_VERSION, .role = HELLO_CONTROL};
    hello->node = c->config.node;
    hello->incarnation = c->incarnation;
    hello->cluster_id = c->config.cluster_id;
    hello->map_version = map_version(c->map);
    hello->feature_level = MAP_FEATURE_LEVEL;
    assert(hello->node != 0);
}

/* ---- links we open ---- */

static void peer_connected(struct link *link, void *owner)
{
    assert(link != NULL);
    struct control_peer *peer = owner;
    struct control *c = peer->control;
    struct hello hello;
    uint8_t body[HELLO_BYTES];
    assert(c->link_count > 0);
    if (peer->link != link || c->stopping)
        return;
    control_hello_fill(c, &hello);
    hello.connection = control_id(c);
    hello_encode(&hello, body);
    struct wire_header header = {.opcode = WIRE_HELLO, .body_len = HELLO_BYTES, .request_id = hello.connection};
    fill_identity(c, &header);
    (void)link_send(link, &header, body, /* payload= */ NULL, 0);
}

static void peer_hello(struct control_peer *peer, const struct msg *msg)
{
    assert(peer != NULL);
    struct control *c = peer->control;
    struct hello hello;
    if (msg->header.status < 0 || hello_decode(msg->body, msg->header.body_len, &hello) < 0 ||
        hello.node != peer->node) {
        log_warn("node=%u at %s refuses our hello status=%d", peer->node, peer->address, msg->header.status);
        link_close(peer->link);
        return;
    }
    if (hello.feature_level <
        map_feature_level(c->map)) { /* R23: it would apply entries that it does not know as nothing */
        log_warn("node=%u at %s runs a version that does not know what this cluster uses: upgrade it", peer->node,
                 peer->address);
        link_close(peer->link);
        return;
    }
    peer->ready = true;
    peer->incarnation = hello.incarnation;
    if (c->lost_node == peer->node)
        c->lost_node = 0;
    assert(peer->link != NULL);
    control_follow_ready(c, peer);
    if (peer->node == control_leader_node(c)) {
        control_propose_resend(c);
        c->heartbeat_now = true;
    }
    control_wake(c);
}

static void peer_message(struct link *link, void *owner, struct msg *msg)
{
    struct control_peer *peer = owner;
    assert(msg != NULL);
    if (peer->link == link && !peer->control->stopping && !peer->control->dead) {
        if (msg->header.opcode == (WIRE_HELLO | 1))
            peer_hello(peer, msg);
        else if (peer->ready)
            control_peer_message(peer, msg);
    }
    msg_free(msg);
}

static void peer_closed(struct link *link, void *owner, int reason)
{
    assert(link != NULL);
    struct control_peer *peer = owner;
    struct control *c = peer->control;
    bool was_ready = peer->ready;
    if (peer->link == link) {
        peer->link = NULL;
        peer->ready = false;
        peer->retry_ns = control_now(c) + CONTROL_RECONNECT_NS;
        control_follow_lost(c, peer);
        log_debug("link to node=%u closed reason=%d", peer->node, reason);
        if (c->leading && was_ready && reason < 0 && !c->stopping)
            control_liveness_suspect(c, peer->node);
        if (!c->leading && was_ready && reason < 0 && !c->stopping && c->config.log &&
            c->config.log->ops->leader_lost) {
            c->lost_node = peer->node;
            c->config.log->ops->leader_lost(c->config.log, peer->node);
        }
    }
    control_link_gone(c);
    assert(peer->link != link);
}

static const struct link_callbacks peer_callbacks = {
    .connected = peer_connected,
    .message = peer_message,
    .closed = peer_closed,
};

static const char *address_of(const struct control *c, uint32_t node)
{
    assert(c != NULL);
    const struct map_node *known = map_node_by_id(c->map, node);
    assert(node != 0);
    if (known && known->control_address[0])
        return known->control_address;
    for (uint32_t i = 0; i < c->config.voter_count; i++) {
        if (c->config.voters[i].node == node)
            return c->config.voters[i].address;
    }
    return NULL;
}

struct control_peer *control_peer_get(struct control *c, uint32_t node)
{
    assert(c != NULL);
    struct control_peer *peer = NULL;
    const char *address = address_of(c, node);
    for (uint32_t i = 0; i < c->peer_count && !peer; i++) {
        if (c->peers[i]->node == node)
            peer = c->peers[i];
    }
    if (!address)
        return peer;
    if (!peer) {
        peer = c->peer_count < CONTROL_PEERS_MAX ? calloc(1, sizeof *peer) : NULL;
        if (!peer)
            return NULL;
        peer->control = c;
        peer->node = node;
        c->peers[c->peer_count++] = peer;
    }
    assert(peer->control == c);
    if (strcmp(peer->address, address) != 0) {
        (void)snprintf(peer->address, sizeof peer->address, "%s", address);
        if (peer->link) /* it moved */
            link_close(peer->link);
    }
    return peer;
}

void control_peer_connect(struct control *c, struct control_peer *peer)
{
    assert(c != NULL);
    if (peer->link || c->stopping || c->dead || control_now(c) < peer->retry_ns)
        return;
    assert(!peer->ready);
    int rc = transport_connect(c->config.transport, peer->address, &peer_callbacks, peer, &peer->link);
    if (rc < 0) {
        log_debug("no link to node=%u at %s rc=%d", peer->node, peer->address, rc);
        peer->link = NULL;
        peer->retry_ns = control_now(c) + CONTROL_RECONNECT_NS;
        return;
    }
    control_link_opened(c);
}

int control_peer_send(struct control *c, uint32_t node, struct wire_header *header, const void *body)
{
    assert(c != NULL);
    struct control_peer *peer = node != 0 && node != c->config.node ? control_peer_get(c, node) : NULL;
    if (!peer)
        return -ENOTCONN;
    if (!peer->ready) {
        control_peer_connect(c, peer);
        return -ENOTCONN;
    }
    fill_identity(c, header);
    header->dst_node = node;
    header->dst_incarnation = peer->incarnation;
    assert(header->body_len == 0 || body != NULL);
    return link_send(peer->link, header, body, /* payload= */ NULL, 0);
}

/* ---- links that others open ---- */

struct control_conn *control_conn_find(struct control *c, uint64_t id)
{
    assert(c != NULL);
    assert(id != 0);
    list_for_each(node, &c->conns)
    {
        struct control_conn *conn = list_entry(node, struct control_conn, node_link);
        if (conn->id == id)
            return conn->doomed ? NULL : conn;
    }
    return NULL;
}

int control_conn_send(struct control_conn *conn, struct wire_header *header, const void *body)
{
    assert(conn != NULL);
    assert(header->body_len == 0 || body != NULL);
    if (conn->doomed)
        return -ENOTCONN;
    fill_identity(conn->control, header);
    header->dst_node = conn->node;
    if (header->dst_incarnation == 0)
        header->dst_incarnation = conn->incarnation;
    return link_send(conn->link, header, body, /* payload= */ NULL, 0);
}

void control_conn_reply(struct control_conn *conn, const struct wire_header *request, struct wire_header *reply,
                        const void *body)
{
    assert(conn != NULL);
    assert(!WIRE_IS_REPLY(request->opcode));
    reply->opcode = request->opcode | 1;
    reply->request_id = request->request_id;
    if (control_conn_send(conn, reply, body) == -EAGAIN)
        control_conn_drop(conn); /* it does not read what it asked for */
}

void control_conn_drop(struct control_conn *conn)
{
    assert(conn != NULL);
    assert(conn->link != NULL);
    if (conn->doomed)
        return;
    conn->doomed = true;
    link_close(conn->link);
}

static void refuse_hello(struct control_conn *conn, const struct wire_header *request, int status, const char *text)
{
    assert(conn != NULL);
    struct hello hello;
    uint8_t body[HELLO_BYTES];
    assert(status < 0);
    control_hello_fill(conn->control, &hello);
    (void)snprintf(hello.text, sizeof hello.text, "%s", text);
    hello_encode(&hello, body);
    struct wire_header reply = {.status = status, .body_len = HELLO_BYTES};
    control_conn_reply(conn, request, &reply, body);
    conn->role = 0; /* it may say nothing else */
    conn->hello_until_ns = control_now(conn->control) + CONTROL_REFUSED_NS;
}

void control_links_tick(struct control *c)
{
    assert(c != NULL);
    uint64_t now = control_now(c);
    assert(c->conn_count <= CONTROL_LINKS_MAX);
    list_for_each(node, &c->conns)
    {
        struct control_conn *conn = list_entry(node, struct control_conn, node_link);
        if (conn->role == 0 && now >= conn->hello_until_ns)
            control_conn_drop(conn);
    }
}

static void close_older(struct control_conn *conn)
{
    struct control *c = conn->control;
    list_for_each(node, &c->conns)
    {
        struct control_conn *other = list_entry(node, struct control_conn, node_link);
        if (other != conn && other->role == HELLO_CONTROL && other->node == conn->node)
            control_conn_drop(other); /* R5 */
    }
    assert(!conn->doomed);
}

static void conn_hello(struct control_conn *conn, const struct msg *msg)
{
    assert(conn != NULL);
    struct control *c = conn->control;
    struct hello theirs, ours;
    uint16_t version;
    uint8_t body[HELLO_BYTES];
    if (conn->role != 0 || hello_decode(msg->body, msg->header.body_len, &theirs) < 0) {
        control_conn_drop(conn);
        return;
    }
    if (hello_negotiate(&theirs, &version) < 0) {
        refuse_hello(conn, &msg->header, -EPROTONOSUPPORT, "no protocol version in common: upgrade the older side");
        return;
    }
    if (theirs.cluster_id != 0 && theirs.cluster_id != c->config.cluster_id) {
        refuse_hello(conn, &msg->header, -EXDEV, "this node belongs to another cluster: check the cluster's name");
        return;
    }
    if (theirs.role == HELLO_CONTROL && theirs.feature_level < map_feature_level(c->map)) { /* R23 */
        refuse_hello(conn, &msg->header, -EPROTONOSUPPORT,
                     "this cluster uses what that node's version does not know: upgrade that node");
        return;
    }
    if (theirs.role != HELLO_ADMIN && theirs.role != HELLO_CONTROL && theirs.role != HELLO_CLIENT) {
        refuse_hello(conn, &msg->header, -EINVAL, "this is a control address: use the data address");
        return;
    }
    conn->role = theirs.role == HELLO_CLIENT ? HELLO_ADMIN : theirs.role;
    conn->node = theirs.role == HELLO_CONTROL ? theirs.node : 0;
    conn->incarnation = theirs.incarnation;
    conn->connection = theirs.connection;
    if (conn->role == HELLO_CONTROL)
        close_older(conn);
    control_hello_fill(c, &ours);
    hello_encode(&ours, body);
    struct wire_header reply = {.body_len = HELLO_BYTES};
    control_conn_reply(conn, &msg->header, &reply, body);
    assert(conn->role != 0);
}

static void conn_message(struct link *link, void *owner, struct msg *msg)
{
    assert(link != NULL);
    struct control_conn *conn = owner;
    assert(conn->link == link);
    if (!conn->doomed && !conn->control->stopping && !conn->control->dead) {
        if (msg->header.opcode == WIRE_HELLO)
            conn_hello(conn, msg);
        else if (conn->role != 0)
            control_conn_message(conn, msg);
        else
            control_conn_drop(conn);
    }
    msg_free(msg);
}

static void conn_writable(struct link *link, void *owner)
{
    assert(link != NULL);
    struct control_conn *conn = owner;
    assert(conn->link == link);
    if (conn->subscribed && !conn->doomed && !conn->control->stopping)
        control_map_pump(conn);
}

static void conn_closed(struct link *link, void *owner, int reason)
{
    assert(link != NULL);
    struct control_conn *conn = owner;
    struct control *c = conn->control;
    uint32_t node = conn->role == HELLO_CONTROL && !conn->doomed ? conn->node : 0;
    assert(conn->link == link);
    list_remove(&conn->node_link);
    c->conn_count--;
    free(conn->snapshot);
    free(conn);
    if (c->leading && node != 0 && reason < 0 && !c->stopping)
        control_liveness_suspect(c, node);
    control_link_gone(c);
}

static const struct link_callbacks conn_callbacks = {
    .message = conn_message,
    .writable = conn_writable,
    .closed = conn_closed,
};

static void surplus_message(struct link *link, void *owner, struct msg *msg)
{
    assert(msg != NULL);
    (void)link;
    (void)owner;
    msg_free(msg);
}

static void surplus_closed(struct link *link, void *owner, int reason)
{
    (void)link;
    (void)reason;
    control_link_gone(owner);
}

static const struct link_callbacks surplus_callbacks = {.message = surplus_message, .closed = surplus_closed};

void control_accept(struct listener *listener, void *arg, struct link *link)
{
    assert(link != NULL);
    struct control *c = arg;
    struct control_conn *conn = c->conn_count < CONTROL_LINKS_MAX && !c->stopping ? calloc(1, sizeof *conn) : NULL;
    (void)listener;
    control_link_opened(c);
    if (!conn) {
        link_set_owner(link, &surplus_callbacks, c);
        link_close(link);
        return;
    }
    conn->control = c;
    conn->link = link;
    conn->id = control_id(c);
    conn->hello_until_ns = control_now(c) + CONTROL_HELLO_NS;
    list_push_back(&c->conns, &conn->node_link);
    c->conn_count++;
    link_set_owner(link, &conn_callbacks, conn);
    assert(c->conn_count <= CONTROL_LINKS_MAX);
}

int control_links_listen(struct control *c)
{
    int rc = 0;
    assert(c->config.listen_count >= 1);
    for (uint32_t i = 0; i < c->config.listen_count && rc == 0; i++)
        rc = transport_listen(c->config.transport, c->config.listen[i], control_accept, c, &c->listeners[i]);
    if (rc < 0) {
        for (uint32_t i = 0; i < c->config.listen_count; i++) {
            listener_close(c->listeners[i]);
            c->listeners[i] = NULL;
        }
    }
    assert(rc <= 0);
    return rc;
}

void control_links_close(struct control *c)
{
    assert(c != NULL);
    assert(c->stopping);
    for (uint32_t i = 0; i < c->config.listen_count; i++) {
        listener_close(c->listeners[i]);
        c->listeners[i] = NULL;
    }
    for (uint32_t i = 0; i < c->peer_count; i++) {
        if (c->peers[i]->link)
            link_close(c->peers[i]->link);
    }
    list_for_each(node, &c->conns) control_conn_drop(list_entry(node, struct control_conn, node_link));
}
