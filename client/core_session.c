/* SPDX-License-Identifier: Apache-2.0 */
/* core_session: which gateway serves us, and what happens when it does not any more.
 *
 * - session_start dials the first address; hello and attach follow (core_attach.c)
 * - session_lost gives the link up, keeps every unanswered piece and dials the next address at once; when all of them failed
 *   it waits, 50 ms at first, 1 s at most
 * - the tick asks a silent gateway (PING), leaves one that stays silent, ends requests whose time is over
 * - fail-back: while another gateway serves, the first address is tried now and then; once it answers, the session moves there
 *
 * Failure: nothing here fails a request, but io_timeout: what timed out may still be under way, so the session is left too:
 * the next one fences it (R19).
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/core_internal.h"
#include "common/log.h"

#define LOG_MODULE "client"

static void dial(struct client *client);

void session_note_trouble(struct client *client, const char *what, int rc)
{
    assert(rc <= 0);
    const char *address = client->addresses[client->address_at];
    if (rc < 0)
        (void)snprintf(client->trouble, sizeof(client->trouble), "%.100s: %s (%s)", address, what, strerror(-rc));
    else
        (void)snprintf(client->trouble, sizeof(client->trouble), "%s", what);
}

/* ---- links */

static void conn_give_up(struct client_conn *conn)
{
    struct client *client = conn->client;
    assert(!conn->given_up);
    conn->given_up = true;
    if (client->conn == conn)
        client->conn = NULL;
    if (client->probe == conn)
        client->probe = NULL;
    link_close(conn->link); /* conn_closed follows */
}

static void conn_connected(struct link *link, void *owner)
{
    struct client_conn *conn = owner;
    assert(conn->link == link);
    if (!conn->given_up)
        session_greet(conn);
}

static void session_message(struct client *client, struct msg *msg)
{
    client->heard_ns = msg->received_ns;
    client->waiting_ns = client->sent_count > 0 ? client->heard_ns : 0;
    if (msg->header.map_version > client->map_version)
        client->map_version = msg->header.map_version;
    switch (msg->header.opcode) {
    case WIRE_ATTACH | 1: session_attached(client, msg); return;
    case WIRE_DETACH | 1:
        if (client->state == SESSION_DETACHING) {
            session_stop(client);
            client->state = SESSION_FAILED;
        }
        return;
    case WIRE_PING | 1: size_answered(client, msg); return;
    default:
        if (WIRE_IS_REPLY(msg->header.opcode) && client->state == SESSION_READY)
            piece_answered(client, msg);
        else if (client->state != SESSION_DETACHING)
            session_lost(client, "a frame that is not a gateway's");
    }
}

static void conn_message(struct link *link, void *owner, struct msg *msg)
{
    struct client_conn *conn = owner;
    assert(conn->link == link);
    if (!conn->given_up) {
        if (msg->header.opcode == (WIRE_HELLO | 1))
            session_greeted(conn, msg);
        else if (conn == conn->client->conn)
            session_message(conn->client, msg);
    }
    msg_free(msg);
}

static struct buf *conn_place(struct link *link, void *owner, const struct wire_header *header)
{
    struct client_conn *conn = owner;
    assert(conn->link == link);
    return conn == conn->client->conn && !conn->given_up ? piece_place(conn->client, header) : NULL;
}

static void conn_writable(struct link *link, void *owner)
{
    struct client_conn *conn = owner;
    assert(conn->link == link);
    if (conn == conn->client->conn)
        piece_pump(conn->client);
}

static void conn_closed(struct link *link, void *owner, int reason)
{
    struct client_conn *conn = owner;
    struct client *client = conn->client;
    assert(conn->link == link);
    bool current = client->conn == conn, detaching = client->state == SESSION_DETACHING;
    if (client->probe == conn)
        client->probe = NULL;
    list_remove(&conn->node);
    if (current) {
        client->conn = NULL;
        session_note_trouble(client, "the link ended", reason);
        if (detaching)
            client->state = SESSION_FAILED;
        else
            session_lost(client, /* why= */ NULL);
    }
    free(conn);
    client_check_closed(client);
}

static const struct link_callbacks conn_callbacks = {
    .connected = conn_connected,
    .message = conn_message,
    .writable = conn_writable,
    .closed = conn_closed,
    .place = conn_place,
};

static struct client_conn *conn_open(struct client *client, uint32_t address, int *ret_rc)
{
    struct client_conn *conn = calloc(1, sizeof(*conn));
    assert(address < client->address_count);
    *ret_rc = -ENOMEM;
    if (!conn)
        return NULL;
    conn->client = client;
    conn->address = address;
    *ret_rc = transport_connect(client->cfg.transport, client->addresses[address], &conn_callbacks, conn, &conn->link);
    if (*ret_rc < 0) {
        free(conn);
        return NULL;
    }
    list_push_back(&client->conns, &conn->node);
    return conn;
}

/* ---- dialling */

static void next_address(struct client *client)
{
    client->address_at = (client->address_at + 1) % client->address_count;
}

static void dial_now(struct env_task *task)
{
    struct client *client = list_entry(task, struct client, dial_task);
    dial(client);
    client_check_closed(client);
}

static void backoff_over(struct env_timer *timer)
{
    dial(list_entry(timer, struct client, backoff));
}

/* The current address did not do: the next one at once, or after a pause when all of them failed. */
static void dial_again(struct client *client)
{
    next_address(client);
    client->failures++;
    if (client->failures < client->address_count) {
        client->state = SESSION_DIALLING;
        client->deadline_ns = 0;
        env_defer(client->env, &client->dial_task, dial_now);
        return;
    }
    client->state = SESSION_BACKOFF;
    client->deadline_ns = 0;
    client->failures = 0;
    env_timer_start(client->env, &client->backoff, client->backoff_ns, backoff_over);
    client->backoff_ns *= 2;
    if (client->backoff_ns > SESSION_BACKOFF_MAX_NS)
        client->backoff_ns = SESSION_BACKOFF_MAX_NS;
}

static void dial(struct client *client)
{
    int rc;
    if (client->closing || client->state == SESSION_FAILED)
        return;
    assert(client->conn == NULL);
    assert(client->state == SESSION_DIALLING || client->state == SESSION_BACKOFF);
    client->state = SESSION_DIALLING;
    client->conn = conn_open(client, client->address_at, &rc);
    if (!client->conn) {
        session_note_trouble(client, "connect", rc);
        dial_again(client);
        return;
    }
    client->deadline_ns = env_now_ns(client->env) + SESSION_DIAL_NS;
}

void session_lost(struct client *client, const char *why)
{
    bool was_ready = client->state == SESSION_READY;
    if (client->closing || client->state == SESSION_FAILED || client->state == SESSION_BACKOFF)
        return;
    assert(client->state != SESSION_CLOSED);
    if (why)
        session_note_trouble(client, why, 0);
    if (client->conn)
        conn_give_up(client->conn);
    client->session = 0;
    client->waiting_ns = 0;
    piece_link_lost(client);
    if (was_ready) {
        log_warn("volume=%s gateway=%s left: %s", client->cfg.volume, client->addresses[client->address_at],
                 client->trouble);
        if (env_now_ns(client->env) - client->ready_ns >= SESSION_STEADY_NS) {
            client->failures = 0;
            client->backoff_ns = SESSION_BACKOFF_MIN_NS;
        }
    }
    dial_again(client);
}

void session_stop(struct client *client)
{
    if (client->conn)
        conn_give_up(client->conn);
    if (client->probe)
        conn_give_up(client->probe);
    piece_link_lost(client);
    env_timer_stop(client->env, &client->backoff);
    client->deadline_ns = 0;
    assert(client->conn == NULL && client->probe == NULL);
}

void session_detach(struct client *client)
{
    struct wire_header header = {.opcode = WIRE_DETACH,
                                 .request_id = ++client->next_id * CLIENT_PIECES_MAX,
                                 .volume = client->volume,
                                 .session = client->session,
                                 .dst_incarnation = client->gateway_incarnation};
    assert(client->state == SESSION_READY && client->closing);
    client->state = SESSION_DETACHING;
    client->deadline_ns = env_now_ns(client->env) + SESSION_DETACH_NS;
    (void)link_send(client->conn->link, &header, /* body= */ NULL, /* payload= */ NULL, 0);
}

/* ---- the tick */

uint64_t session_ping(struct client *client)
{
    struct wire_header header = {
        .opcode = WIRE_PING, .request_id = ++client->next_id * CLIENT_PIECES_MAX, .session = client->session};
    assert(client->state == SESSION_READY);
    assert(client->conn != NULL);
    client->asked_ns = env_now_ns(client->env);
    if (client->waiting_ns == 0)
        client->waiting_ns = client->asked_ns;
    return link_send(client->conn->link, &header, /* body= */ NULL, /* payload= */ NULL, 0) == 0 ? header.request_id
                                                                                                 : 0;
}

static void watch_gateway(struct client *client, uint64_t now_ns)
{
    assert(client->state == SESSION_READY);
    if (client->waiting_ns != 0 && now_ns > client->waiting_ns && now_ns - client->waiting_ns > SESSION_SILENCE_NS) {
        session_lost(client, "the gateway is silent");
        return;
    }
    uint64_t quiet_since = client->heard_ns > client->asked_ns ? client->heard_ns : client->asked_ns;
    if (now_ns > quiet_since && now_ns - quiet_since >= SESSION_PING_NS)
        (void)session_ping(client);
}

static void time_out_requests(struct client *client, uint64_t now_ns)
{
    bool under_way = false;
    if (client->cfg.io_timeout_ns == 0)
        return;
    while (!list_empty(&client->requests)) {
        struct client_request *request = list_entry(client->requests.next, struct client_request, link);
        if (now_ns < request->submitted_ns || now_ns - request->submitted_ns < client->cfg.io_timeout_ns)
            break;
        under_way = under_way || client->sent_count > 0;
        if (request->failed)
            break; /* its bytes are still with a link that is closing */
        client_request_fail(client, request, -ETIMEDOUT);
        if (request->pieces > 0)
            break;
    }
    if (under_way && client->state == SESSION_READY)
        session_lost(client, "a request timed out: what is left of it must not land later");
}

/* Another gateway than the preferred one serves: is that one back? */
static void probe_first(struct client *client, uint64_t now_ns)
{
    int rc;
    if (!client->cfg.fail_back || client->address_at == 0 || client->probe || client->closing)
        return;
    if (now_ns < client->probe_ns || now_ns - client->probe_ns < SESSION_FAIL_BACK_NS)
        return;
    client->probe_ns = now_ns;
    client->probe = conn_open(client, 0, &rc);
    if (client->probe)
        client->probe->probe = true;
}

static void deadline_over(struct client *client)
{
    assert(client->deadline_ns != 0);
    client->deadline_ns = 0;
    if (client->state == SESSION_DETACHING) {
        session_stop(client);
        client->state = SESSION_FAILED;
        return;
    }
    session_lost(client,
                 client->state == SESSION_ATTACHING ? "the gateway gets no session" : "the gateway does not answer");
}

static void tick(struct env_timer *timer)
{
    struct client *client = list_entry(timer, struct client, tick);
    uint64_t now_ns = env_now_ns(client->env);
    assert(client->state != SESSION_CLOSED);
    env_timer_start(client->env, &client->tick, SESSION_TICK_NS, tick);
    if (now_ns - client->last_tick_ns > 4 * SESSION_TICK_NS) { /* we were stopped, not the gateway */
        client->waiting_ns = client->waiting_ns ? now_ns : 0;
        if (client->deadline_ns != 0 && client->deadline_ns < now_ns)
            client->deadline_ns = now_ns + SESSION_TICK_NS;
    }
    client->last_tick_ns = now_ns;
    if (client->deadline_ns != 0 && now_ns >= client->deadline_ns)
        deadline_over(client);
    time_out_requests(client, now_ns);
    size_tick(client, now_ns);
    if (client->state != SESSION_READY)
        return;
    watch_gateway(client, now_ns);
    if (client->state == SESSION_READY)
        probe_first(client, now_ns);
}

void session_start(struct client *client)
{
    client->state = SESSION_DIALLING;
    client->backoff_ns = SESSION_BACKOFF_MIN_NS;
    client->last_tick_ns = env_now_ns(client->env);
    client->window_count = 1;
    env_timer_start(client->env, &client->tick, SESSION_TICK_NS, tick);
    env_defer(client->env, &client->dial_task, dial_now);
}
