/* SPDX-License-Identifier: Apache-2.0 */
/* core_attach: hello and attach: a link becomes a session.
 *
 * - session_greet: hello; the answer gives the window and shows that it is our cluster
 * - session_greeted: ATTACH with the attachment's id, WIRE_F_FAILOVER once we had a session (R19)
 * - session_attached: session, size, loss numbers (R13), the addresses of all gateways; then everything unanswered goes out
 *
 * Failure: -EBUSY, -EPERM, -ESTALE on a fail-over: another client took the volume: fenced for good. -ENOENT: deleted. Anything
 * else is this gateway's trouble, and the next one is tried.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/core_internal.h"
#include "common/hello.h"
#include "common/log.h"

#define LOG_MODULE "client"

void session_greet(struct client_conn *conn)
{
    struct client *client = conn->client;
    uint8_t body[HELLO_BYTES];
    struct hello hello = {
        .version_min = WIRE_VERSION_MIN,
        .version_max = WIRE_VERSION,
        .role = HELLO_CLIENT,
        .cluster_id = client->cluster_id,
        .connection = ++client->connection,
    };
    struct wire_header header = {.opcode = WIRE_HELLO, .request_id = client->connection, .body_len = sizeof(body)};
    hello_encode(&hello, body);
    if (conn == client->conn)
        client->state = SESSION_GREETING;
    (void)link_send(conn->link, &header, body, /* payload= */ NULL, 0);
}

static void attach(struct client *client)
{
    struct client_attach request;
    uint8_t body[CLIENT_ATTACH_SNAPSHOT_BYTES];
    memcpy(request.attachment, client->attachment, sizeof(request.attachment));
    memcpy(request.name, client->cfg.volume, sizeof(request.name));
    memcpy(request.snapshot, client->cfg.snapshot, sizeof(request.snapshot));
    size_t bytes = client_attach_encode(&request, body);
    struct wire_header header = {.opcode = WIRE_ATTACH,
                                 .request_id = ++client->next_id * CLIENT_PIECES_MAX,
                                 .dst_incarnation = client->gateway_incarnation,
                                 .body_len = (uint32_t)bytes};
    if ((client->cfg.open_flags & CLIENT_OPEN_READ_ONLY) || client->cfg.snapshot[0] != '\0')
        header.flags |= WIRE_F_READ_ONLY;
    if (client->ever_attached)
        header.flags |= WIRE_F_FAILOVER;
    else if (client->cfg.open_flags & CLIENT_OPEN_FORCE)
        header.flags |= WIRE_F_FORCE;
    client->state = SESSION_ATTACHING;
    client->deadline_ns = env_now_ns(client->env) + SESSION_ATTACH_NS;
    (void)link_send(client->conn->link, &header, body, /* payload= */ NULL, 0);
}

void session_ready(struct client *client)
{
    assert(client->conn != NULL);
    client->state = SESSION_READY;
    client->deadline_ns = 0;
    client->ready_ns = client->heard_ns = client->asked_ns = client->probe_ns = env_now_ns(client->env);
    client->waiting_ns = 0;
    if (!client->opened) {
        client->opened = true;
        client->cfg.opened(client->cfg.arg, 0);
    }
    if (client->state == SESSION_READY)
        size_ask(client);
    if (client->state == SESSION_READY)
        piece_pump(client);
}

/* The preferred gateway answers again: the session moves to it, as if the current one were lost. */
static void fail_back(struct client *client, struct client_conn *conn)
{
    assert(client->state == SESSION_READY);
    assert(conn->probe);
    log_info("volume=%s goes back to gateway=%s", client->cfg.volume, client->addresses[conn->address]);
    client->probe = NULL;
    conn->probe = false;
    struct client_conn *old = client->conn;
    client->conn = conn;
    old->given_up = true;
    link_close(old->link);
    piece_link_lost(client);
    client->session = 0;
    client->waiting_ns = 0;
    client->address_at = conn->address;
}

/* 0, or why this gateway is not ours. */
static const char *check_greeting(const struct client *client, const struct msg *msg, struct hello *ret_hello)
{
    uint16_t version;
    if (hello_decode(msg->body, msg->header.body_len, ret_hello) < 0)
        return "its hello is malformed";
    if (msg->header.status != 0)
        return ret_hello->text[0] ? ret_hello->text : "it refuses us";
    if (hello_negotiate(ret_hello, &version) < 0)
        return "no common protocol version";
    if (client->cluster_id != 0 && ret_hello->cluster_id != client->cluster_id)
        return "it belongs to another cluster";
    if (ret_hello->inflight_bytes_max < CLIENT_CHUNK_BYTES || ret_hello->inflight_count_max == 0)
        return "its limits are too small";
    return NULL;
}

void session_greeted(struct client_conn *conn, struct msg *msg)
{
    struct client *client = conn->client;
    struct hello hello;
    const char *why = check_greeting(client, msg, &hello);
    if (conn->probe) {
        assert(client->probe == conn);
        if (why || client->state != SESSION_READY || hello.map_version < client->map_version) {
            conn->given_up = true; /* not yet */
            client->probe = NULL;
            link_close(conn->link);
            return;
        }
        fail_back(client, conn);
    } else if (client->state != SESSION_GREETING) {
        session_lost(client, "a second hello");
        return;
    }
    assert(client->conn == conn);
    if (why) {
        session_lost(client, why);
        return;
    }
    client->cluster_id = hello.cluster_id;
    client->gateway_incarnation = hello.incarnation;
    client->gateway_node = hello.node;
    client->window_bytes = hello.inflight_bytes_max;
    client->window_count = hello.inflight_count_max < CLIENT_PIECES_MAX ? hello.inflight_count_max : CLIENT_PIECES_MAX;
    if (client->cfg.volume[0] == '\0')
        session_ready(client);
    else
        attach(client);
}

/* ---- the answer to ATTACH */

static void learn_addresses(struct client *client, struct client_attached *attached)
{
    char address[CLIENT_ADDRESS_MAX];
    while (client_attached_next(attached, address) == 0) {
        bool known = client->address_count == CLIENT_GATEWAYS_MAX;
        for (uint32_t i = 0; i < client->address_count && !known; i++)
            known = strcmp(client->addresses[i], address) == 0;
        if (!known)
            memcpy(client->addresses[client->address_count++], address, strlen(address) + 1);
    }
    assert(client->address_count <= CLIENT_GATEWAYS_MAX);
}

/* 0; -EPROTO; -ENOENT: another volume of that name; -EIO: data was lost (R13). */
static int take_attached(struct client *client, const struct msg *msg)
{
    const struct wire_header *header = &msg->header;
    struct client_attached attached;
    if (client_attached_decode(msg->body, header->body_len, &attached) < 0 || header->session == 0 ||
        header->volume == 0 || header->length == 0 || header->length % WIRE_BLOCK_BYTES != 0 ||
        attached.shard_bytes % CLIENT_REGION_BYTES != 0)
        return -EPROTO;
    if (client->ever_attached && (client->volume != header->volume || client->shard_bytes != attached.shard_bytes))
        return -ENOENT;
    client->volume = header->volume;
    client->shard_bytes = attached.shard_bytes;
    client->session = header->session;
    if (size_learn(client, header->length) < 0)
        return -EPROTO;
    uint32_t max = (uint32_t)(attached.runs_bytes / CLIENT_LOSS_RUN_BYTES), count = 0;
    if (max > 0) {
        struct client_loss_run *runs = malloc(max * sizeof(*runs));
        int rc = runs ? client_loss_decode(attached.runs, attached.runs_bytes, runs, max, &count) : -EPROTO;
        bool kept = rc < 0 || loss_listed(client, runs, count, header->aux);
        free(runs);
        if (rc < 0)
            return -EPROTO;
        if (!kept)
            return -EIO;
    }
    learn_addresses(client, &attached);
    return 0;
}

static void attach_refused(struct client *client, int rc)
{
    assert(rc < 0);
    switch (rc) {
    case -ENOENT:
        if (client->cfg.snapshot[0] != '\0')
            client_fail(client, rc, client->ever_attached ? "the snapshot was deleted" : "there is no such snapshot");
        else
            client_fail(client, rc, client->ever_attached ? "the volume was deleted" : "there is no such volume");
        return;
    case -EBUSY:
    case -EPERM:
    case -ESTALE:
        if (client->ever_attached)
            client_fail(client, -ESTALE, "another client attached the volume: fenced");
        else
            client_fail(client, rc,
                        "another client has the volume attached: detach it there, or take it over by force; of a "
                        "client that died its gateway lets go after some seconds");
        return;
    case -EINVAL:
    case -EACCES:
    case -ENAMETOOLONG: client_fail(client, rc, "the cluster refuses to attach the volume"); return;
    default: session_note_trouble(client, "attach", rc); session_lost(client, /* why= */ NULL);
    }
}

void session_attached(struct client *client, struct msg *msg)
{
    if (client->state != SESSION_ATTACHING) {
        session_lost(client, "a second session");
        return;
    }
    int rc = msg->header.status;
    if (rc == -ENOENT && client->ever_attached && msg->header.map_version < client->map_version)
        rc = -EAGAIN; /* its map is older than what we have heard of already: a node that starts may say so */
    if (rc == 0)
        rc = take_attached(client, msg);
    if (rc == -EIO) {
        client_fail(client, rc, "acknowledged data that was not flushed may be lost");
    } else if (rc > 0 || rc == -EPROTO) {
        session_lost(client, "the gateway's answer to attach makes no sense");
    } else if (rc < 0) {
        attach_refused(client, rc);
    } else {
        if (client->ever_attached)
            client->stats.failovers++;
        client->ever_attached = true;
        session_ready(client);
    }
}
