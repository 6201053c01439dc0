/* SPDX-License-Identifier: Apache-2.0 */
/* client: one client's link, from hello to good-bye.
 *
 * - gateway_accept: checks cluster and version, answers with the limits on what may be in flight
 * - ATTACH: the control plane opens a session (R19); the answer names it, the volume's size, its loss numbers (R13) and the
 *   addresses of all gateways
 * - requests go to request.c; PING is answered at once, and tells who is attached how large the volume is now; VOLUME_LIST is
 *   answered from the map
 * - DETACH closes the session; a link that just ends leaves it open for a grace, in which the client may come back
 *
 * Failure: whoever breaks the protocol loses the link (and only that one does). A client with more in flight than it was told
 * is not read from until it is below again; one that takes no answers or is silent for too long is closed.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/hello.h"
#include "common/log.h"
#include "server/gateway/gateway_internal.h"

#define LOG_MODULE "gateway"

void gateway_client_reply(struct gateway_client *client, const struct wire_header *request, struct wire_header *reply,
                          const void *body, struct buf *payload, uint32_t payload_offset)
{
    struct gateway *gw = client->gateway;
    assert(!WIRE_IS_REPLY(request->opcode));
    if (!client->conn || client->dropped)
        return;
    reply->opcode = request->opcode | 1u;
    reply->request_id = request->request_id;
    reply->src_node = gw->cfg.node;
    reply->src_incarnation = gw->cfg.incarnation;
    reply->map_version = map_version(gw->cfg.map);
    reply->session = client->session;
    if (client->volume)
        reply->volume = client->volume->id;
    int rc = link_send(client->conn, reply, body, payload, payload_offset);
    if (rc < 0)
        gateway_client_drop(client, "it takes no answers");
    else if (client->request_count > 0 && replicas_cut_off(client->gateway->cfg.replicas))
        gateway_client_drop(client, "this node is cut off from the cluster: another gateway serves it better");
}

void gateway_client_assert(const struct gateway_client *client)
{
    assert(client->gateway != NULL);
    assert((client->state == CLIENT_ATTACHED) == (client->session != 0));
    assert((client->volume != NULL) == (client->session != 0));
    assert((client->generation != 0) == (client->session >= GATEWAY_SNAPSHOT_SESSION));
    assert(client->request_count > 0 || list_empty(&client->requests));
    assert(client->inflight_bytes <= client->gateway->client_bytes);
    assert(client->request_count > 0 || client->inflight_bytes == 0);
}

static void reply_status(struct gateway_client *client, const struct wire_header *request, int status)
{
    struct wire_header reply = {.status = status};
    assert(status <= 0);
    gateway_client_reply(client, request, &reply, /* body= */ NULL, /* payload= */ NULL, 0);
}

void gateway_client_maybe_free(struct gateway_client *client)
{
    struct gateway *gw = client->gateway;
    if (client->conn || client->request_count > 0 || client->state == CLIENT_ATTACHING)
        return;
    gateway_client_assert(client);
    assert(list_empty(&client->requests));
    assert(client->inflight_bytes == 0);
    list_remove(&client->link);
    assert(gw->client_count > 0);
    gw->client_count--;
    gateway_volume_put(client->volume);
    free(client);
    gateway_check_closed(gw);
}

void gateway_client_drop(struct gateway_client *client, const char *why)
{
    assert(why != NULL);
    if (!client->conn || client->dropped)
        return;
    client->dropped = true;
    log_info("client closed peer=%s session=%llu: %s", link_peer_name(client->conn),
             (unsigned long long)client->session, why);
    link_close(client->conn); /* client_closed follows */
}

/* ---- flow */

void gateway_client_flow(struct gateway_client *client)
{
    struct gateway *gw = client->gateway;
    assert(gw->cfg.inflight_count_max > 0);
    assert(gw->cfg.inflight_bytes_max >= STORE_CHUNK_BYTES);
    if (!client->conn)
        return;
    bool over = client->request_count > gw->cfg.inflight_count_max ||
                client->inflight_bytes > gw->cfg.inflight_bytes_max ||
                link_queued_bytes(client->conn) > gw->cfg.inflight_bytes_max ||
                (gw->client_bytes > gw->client_bytes_max && client->inflight_bytes > 0);
    if (over == client->paused)
        return;
    client->paused = over;
    link_pause(client->conn, over);
}

void gateway_client_tick(struct gateway_client *client, uint64_t now_ns)
{
    if (!client->conn)
        return;
    assert(client->gateway->cfg.idle_ns > 0);
    if (link_queued_bytes(client->conn) == 0)
        client->drained_ns = now_ns;
    gateway_client_flow(client);
    if (client->paused) /* not read from: its silence is ours */
        client->received_ns = now_ns;
    if (now_ns > client->received_ns && now_ns - client->received_ns > client->gateway->cfg.idle_ns)
        gateway_client_drop(client, "silent for too long");
    else if (now_ns > client->drained_ns && now_ns - client->drained_ns > client->gateway->cfg.idle_ns)
        gateway_client_drop(client, "it takes no answers");
    else if (client->request_count > 0 && replicas_cut_off(client->gateway->cfg.replicas))
        gateway_client_drop(client, "this node is cut off from the cluster: another gateway serves it better");
}

/* ---- attach */

struct attached_answer {
    uint8_t *out;
    size_t bytes;
};

static void add_address(void *arg, const struct map_node *node)
{
    struct attached_answer *answer = arg;
    assert(answer->bytes >= CLIENT_ATTACHED_HEAD_BYTES);
    if (node->data_address[0] != '\0')
        answer->bytes = client_attached_address(answer->out, answer->bytes, node->data_address);
}

static void attached_reply(struct gateway_client *client, const struct map_volume *v)
{
    struct gateway_volume *volume = client->volume;
    assert(volume != NULL && volume->id == v->id);
    gateway_client_assert(client);
    struct attached_answer answer = {.out = malloc(CLIENT_ATTACHED_BYTES_MAX)};
    if (!answer.out || !gateway_volume_scan(volume)) {
        free(answer.out);
        reply_status(client, &client->attach_header, -EAGAIN);
        return;
    }
    answer.bytes = client_attached_begin(answer.out, v->shard_bytes, volume->losses, volume->loss_count);
    map_each_node(client->gateway->cfg.map, add_address, &answer);
    assert(answer.bytes <= CLIENT_ATTACHED_BYTES_MAX);
    struct wire_header reply = {.length = client->generation ? client->snapshot_size : v->size,
                                .generation = client->generation,
                                .body_len = (uint32_t)answer.bytes,
                                .aux = volume->loss_rest};
    gateway_client_reply(client, &client->attach_header, &reply, answer.out, /* payload= */ NULL, 0);
    free(answer.out);
}

/* The client's side of a granted session. */
static int client_adopt(struct gateway_client *client, const struct map_volume *v)
{
    assert(client->volume == NULL);
    client->volume = gateway_volume_get(client->gateway, v->id);
    if (!client->volume)
        return -EAGAIN;
    client->session = client->attach.session;
    client->read_only = (client->attach.flags & MAP_SESSION_READ_ONLY) != 0;
    client->fenced = client->session < v->session.number;
    client->state = CLIENT_ATTACHED;
    gateway_client_assert(client);
    return 0;
}

static void attach_done(struct bridge_attach *attach, int rc)
{
    struct gateway_client *client = attach->owner;
    struct gateway *gw = client->gateway;
    assert(client->state == CLIENT_ATTACHING);
    assert(&client->attach == attach);
    client->state = CLIENT_READY;
    const struct map_volume *v = rc == 0 ? map_volume_by_id(gw->cfg.map, attach->volume) : NULL;
    if (rc == 0 && !v)
        rc = -ENOENT;
    if (rc == 0)
        rc = client_adopt(client, v);
    if (rc == -ESTALE || rc == -ESHUTDOWN)
        rc = -EAGAIN; /* this gateway's trouble, not the client's: try another one */
    if (rc != 0) {
        reply_status(client, &client->attach_header, rc);
        gateway_client_maybe_free(client);
        return;
    }
    assert(client->session != 0);
    if (client->conn) {
        log_info("attached volume=%s session=%llu peer=%s", v->name, (unsigned long long)client->session,
                 link_peer_name(client->conn));
        gateway_volume_grace_end(client->volume);
        attached_reply(client, v);
        return;
    }
    gateway_volume_grace(client->volume, client->session);
    gateway_client_maybe_free(client);
}

/* A snapshot has no session: nobody changes it, any number of clients may read it, and nobody is fenced by them. */
static int attach_snapshot(struct gateway_client *client)
{
    struct gateway *gw = client->gateway;
    const struct map_volume *v = map_volume_by_name(gw->cfg.map, client->attach.volume_name);
    const struct map_snap *snap = v ? map_snap_by_name(v, client->attach_snapshot) : NULL;
    assert(client->state == CLIENT_READY);
    if (!snap)
        return -ENOENT;
    if (snap->state != MAP_SNAP_COMPLETE)
        return -EAGAIN;
    if (!(client->attach.flags & MAP_SESSION_READ_ONLY))
        return -EROFS;
    client->volume = gateway_volume_get(gw, v->id);
    if (!client->volume)
        return -EAGAIN;
    client->session = GATEWAY_SNAPSHOT_SESSION + gw->snapshot_sessions++;
    client->generation = snap->generation;
    client->snapshot_size = snap->size;
    client->read_only = true;
    client->state = CLIENT_ATTACHED;
    gateway_client_assert(client);
    log_info("attached volume=%s snapshot=%s generation=%u peer=%s", v->name, snap->name, snap->generation,
             link_peer_name(client->conn));
    attached_reply(client, v);
    return 0;
}

static void attach_begin(struct gateway_client *client, struct msg *msg)
{
    struct gateway *gw = client->gateway;
    struct client_attach body;
    assert(msg->header.opcode == WIRE_ATTACH);
    if (client->state != CLIENT_READY || msg->header.payload_len != 0 ||
        client_attach_decode(msg->body, msg->header.body_len, &body) < 0) {
        gateway_client_drop(client, "malformed attach");
        return;
    }
    client->attach = (struct bridge_attach){.cb = attach_done, .owner = client};
    _Static_assert(sizeof(body.name) == sizeof(client->attach.volume_name), "one length of names");
    memcpy(client->attach.volume_name, body.name, sizeof(body.name));
    memcpy(client->attach.attachment, body.attachment, sizeof(body.attachment));
    if (msg->header.flags & WIRE_F_READ_ONLY)
        client->attach.flags |= MAP_SESSION_READ_ONLY;
    if (msg->header.flags & WIRE_F_FORCE)
        client->attach.flags |= MAP_SESSION_FORCE;
    if (msg->header.flags & WIRE_F_FAILOVER)
        client->attach.flags |= MAP_SESSION_FAILOVER;
    client->attach_header = msg->header;
    _Static_assert(sizeof(body.snapshot) == sizeof(client->attach_snapshot), "one length of names");
    memcpy(client->attach_snapshot, body.snapshot, sizeof(body.snapshot));
    if (body.snapshot[0] != '\0') {
        int rc = attach_snapshot(client);
        if (rc != 0)
            reply_status(client, &client->attach_header, rc);
        return;
    }
    client->state = CLIENT_ATTACHING;
    gw->cfg.control->ops->attach(gw->cfg.control, &client->attach);
}

static void detach(struct gateway_client *client, const struct msg *msg)
{
    struct gateway *gw = client->gateway;
    if (client->state != CLIENT_ATTACHED) {
        gateway_client_drop(client, "detach without a session");
        return;
    }
    gateway_client_assert(client);
    assert(msg->header.opcode == WIRE_DETACH);
    if (!client->detached && !client->fenced && !client->volume->removed && client->generation == 0)
        gw->cfg.control->ops->detach(gw->cfg.control, client->volume->id, client->session);
    client->detached = true;
    reply_status(client, &msg->header, 0);
}

/* What is attached may have grown since: clients ask by PING (docs/internals/wire.md). */
static void ping_reply(struct gateway_client *client, const struct msg *msg)
{
    const struct map_volume *v = client->volume ? map_volume_by_id(client->gateway->cfg.map, client->volume->id) : NULL;
    struct wire_header reply = {.length = 0};
    assert(msg->header.opcode == WIRE_PING);
    assert((client->volume != NULL) == (client->session != 0));
    if (client->generation != 0)
        reply.length = client->snapshot_size;
    else if (v && !v->deleting)
        reply.length = v->size;
    gateway_client_reply(client, &msg->header, &reply, /* body= */ NULL, /* payload= */ NULL, 0);
}

/* ---- list */

struct list_page {
    uint64_t after;
    uint32_t count;
    bool more;
    uint8_t *out;
};

static void list_volume(void *arg, const struct map_volume *v)
{
    struct list_page *page = arg;
    assert(page->count <= CLIENT_LIST_ENTRIES_MAX);
    if (v->id <= page->after || v->deleting)
        return;
    if (page->count == CLIENT_LIST_ENTRIES_MAX) {
        page->more = true;
        return;
    }
    struct client_list_entry entry = {
        .id = v->id, .size = v->size, .flags = v->session.open ? CLIENT_LIST_ATTACHED : 0};
    memcpy(entry.name, v->name, sizeof(entry.name));
    assert(entry.name[sizeof(entry.name) - 1] == '\0');
    client_list_entry_encode(&entry, page->out + (size_t)page->count * CLIENT_LIST_ENTRY_BYTES);
    page->count++;
}

static void list_reply(struct gateway_client *client, const struct msg *msg)
{
    struct list_page page = {.after = msg->header.aux,
                             .out = malloc((size_t)CLIENT_LIST_ENTRIES_MAX * CLIENT_LIST_ENTRY_BYTES)};
    if (!page.out) {
        reply_status(client, &msg->header, -EAGAIN);
        return;
    }
    map_each_volume(client->gateway->cfg.map, list_volume, &page); /* ascending ids */
    assert(page.count <= CLIENT_LIST_ENTRIES_MAX);
    assert(!page.more || page.count == CLIENT_LIST_ENTRIES_MAX);
    struct wire_header reply = {.aux = page.more, .body_len = page.count * CLIENT_LIST_ENTRY_BYTES};
    gateway_client_reply(client, &msg->header, &reply, page.count ? page.out : NULL, /* payload= */ NULL, 0);
    free(page.out);
}

/* ---- the link */

static void client_message(struct link *link, void *owner, struct msg *msg)
{
    struct gateway_client *client = owner;
    assert(client->conn == link);
    gateway_client_assert(client);
    client->received_ns = msg->received_ns;
    const struct wire_header *header = &msg->header;
    if (header->dst_incarnation != 0 && header->dst_incarnation != client->gateway->cfg.incarnation) {
        gateway_client_drop(client, "it means another incarnation"); /* R1 */
        msg_free(msg);
        return;
    }
    switch (header->opcode) {
    case WIRE_READ:
    case WIRE_WRITE:
    case WIRE_ZERO:
    case WIRE_FLUSH:
    case WIRE_EXTENTS:
        gateway_request_begin(client, msg); /* given */
        return;
    case WIRE_ATTACH: attach_begin(client, msg); break;
    case WIRE_DETACH: detach(client, msg); break;
    case WIRE_VOLUME_LIST: list_reply(client, msg); break;
    case WIRE_PING: ping_reply(client, msg); break;
    default: gateway_client_drop(client, "a frame that is not a client's");
    }
    msg_free(msg);
}

static void client_writable(struct link *link, void *owner)
{
    struct gateway_client *client = owner;
    assert(client->conn == link);
    gateway_client_flow(client);
}

void gateway_client_forget_requests(struct gateway_client *client)
{
    client->request_count++; /* forgetting the last request must not free it under us */
    list_for_each_safe(pos, tmp, &client->requests)
        gateway_request_forget(list_entry(pos, struct gateway_request, link));
    client->request_count--;
    gateway_client_maybe_free(client);
}

static void client_closed(struct link *link, void *owner, int reason)
{
    struct gateway_client *client = owner;
    assert(client->conn == link);
    log_debug("client link ended session=%llu reason=%d", (unsigned long long)client->session, reason);
    client->conn = NULL;
    if (client->state == CLIENT_ATTACHED && !client->detached && !client->fenced && client->generation == 0)
        gateway_volume_grace(client->volume, client->session);
    gateway_client_forget_requests(client);
}

static const struct link_callbacks client_callbacks = {
    .message = client_message,
    .writable = client_writable,
    .closed = client_closed,
};

static int hello_check(const struct gateway *gw, const struct msg *msg, struct hello *ret_theirs, const char **ret_why)
{
    assert(gw->client_count <= GATEWAY_CLIENTS_MAX);
    *ret_why = "malformed hello";
    if (msg->header.opcode != WIRE_HELLO || hello_decode(msg->body, msg->header.body_len, ret_theirs) < 0)
        return -EBADMSG;
    uint16_t version;
    *ret_why = "no common protocol version: update the older side";
    if (hello_negotiate(ret_theirs, &version) < 0)
        return -EPROTONOSUPPORT;
    *ret_why = "another cluster's client: look at its gateway addresses";
    if (ret_theirs->cluster_id != 0 && ret_theirs->cluster_id != map_cluster_id(gw->cfg.map))
        return -EXDEV;
    *ret_why = "too many clients";
    if (gw->client_count >= GATEWAY_CLIENTS_MAX || gw->closing)
        return -EAGAIN;
    *ret_why = "";
    return 0;
}

static void hello_answer(struct gateway *gw, struct link *link, const struct msg *msg, int status, const char *why)
{
    struct hello ours = {
        .version_min = WIRE_VERSION_MIN,
        .version_max = WIRE_VERSION,
        .role = HELLO_CLIENT,
        .node = gw->cfg.node,
        .incarnation = gw->cfg.incarnation,
        .cluster_id = map_cluster_id(gw->cfg.map),
        .map_version = map_version(gw->cfg.map),
        .feature_level = map_feature_level(gw->cfg.map),
        .inflight_bytes_max = gw->cfg.inflight_bytes_max,
        .inflight_count_max = gw->cfg.inflight_count_max,
    };
    uint8_t body[HELLO_BYTES];
    assert(status <= 0);
    assert(status == 0 || why[0] != '\0');
    (void)snprintf(ours.text, sizeof(ours.text), "%s", why);
    hello_encode(&ours, body);
    struct wire_header reply = {
        .opcode = WIRE_HELLO | 1,
        .status = status,
        .request_id = msg->header.request_id,
        .body_len = sizeof(body),
        .src_node = gw->cfg.node,
        .src_incarnation = gw->cfg.incarnation,
        .map_version = ours.map_version,
    };
    (void)link_send(link, &reply, body, /* payload= */ NULL, 0); /* a link that is gone tells by closed */
}

/* A refused link: closed by the client once it has read the answer, or by this after a while. */
struct refusal {
    struct env *env;
    struct link *link;
    struct env_timer timer;
};

static void refusal_message(struct link *link, void *owner, struct msg *msg)
{
    struct refusal *refusal = owner;
    assert(refusal->link == link);
    msg_free(msg);
    link_close(link);
}

static void refusal_closed(struct link *link, void *owner, int reason)
{
    struct refusal *refusal = owner;
    (void)reason;
    assert(refusal->link == link);
    env_timer_stop(refusal->env, &refusal->timer);
    free(refusal);
}

static void refusal_over(struct env_timer *timer)
{
    link_close(list_entry(timer, struct refusal, timer)->link);
}

static const struct link_callbacks refusal_callbacks = {.message = refusal_message, .closed = refusal_closed};

static void refuse(struct gateway *gw, struct link *link, const struct msg *msg, int rc, const char *why)
{
    struct refusal *refusal = calloc(1, sizeof(*refusal));
    assert(rc < 0);
    if (!refusal) {
        link_close(link);
        return;
    }
    refusal->env = gw->env;
    refusal->link = link;
    link_set_owner(link, &refusal_callbacks, refusal);
    hello_answer(gw, link, msg, rc, why);
    env_timer_start(gw->env, &refusal->timer, ENV_MS(1000), refusal_over);
}

void gateway_accept(struct gateway *gateway, struct link *link, struct msg *hello_msg)
{
    struct hello theirs;
    const char *why;
    assert(link != NULL && hello_msg != NULL);
    int rc = hello_check(gateway, hello_msg, &theirs, &why);
    if (rc == 0 && replicas_cut_off(gateway->cfg.replicas)) {
        rc = -ENETDOWN;
        why = "this node is cut off from the cluster";
    }
    struct gateway_client *client = rc == 0 ? calloc(1, sizeof(*client)) : NULL;
    if (!client) {
        log_info("client refused peer=%s: %s", link_peer_name(link), rc ? why : "out of memory");
        refuse(gateway, link, hello_msg, rc ? rc : -ENOMEM, why);
        msg_free(hello_msg);
        return;
    }
    client->gateway = gateway;
    client->conn = link;
    client->received_ns = client->drained_ns = env_now_ns(gateway->env);
    list_head_init(&client->requests);
    list_push_back(&gateway->clients, &client->link);
    gateway->client_count++;
    link_set_owner(link, &client_callbacks, client);
    hello_answer(gateway, link, hello_msg, 0, why);
    msg_free(hello_msg);
}
