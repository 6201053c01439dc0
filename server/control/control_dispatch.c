/* SPDX-License-Identifier: Apache-2.0 */
/* control_dispatch: a frame to its handler.
 *
 * - control_conn_message: requests of others, on links they opened
 * - control_peer_message: answers and the map's stream, on links we opened
 *
 * Failure: a frame that its role may not send, or with a body that does not decode, costs the link.
 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "server/control/control_state.h"

static void on_heartbeat(struct control_conn *conn, const struct msg *msg)
{
    assert(conn != NULL);
    uint64_t report[REPORT_COUNT] = {0};
    uint32_t count = msg->header.body_len / 8;
    assert(conn->role == HELLO_CONTROL);
    if (msg->header.body_len % 8 != 0 || msg->header.src_node != conn->node) {
        control_conn_drop(conn);
        return;
    }
    count = count < REPORT_COUNT ? count : REPORT_COUNT; /* a newer node may tell more */
    for (uint32_t i = 0; i < count; i++) {
        uint64_t value;
        memcpy(&value, msg->body + 8 * i, sizeof value);
        report[i] = le64toh(value);
    }
    control_lease_heartbeat(conn->control, conn->id, &msg->header, report, count);
}

static void on_propose(struct control_conn *conn, const struct msg *msg)
{
    assert(conn != NULL);
    assert(conn->role == HELLO_CONTROL);
    if (msg->header.body_len < MAP_ENTRY_HEADER_BYTES || msg->header.body_len > MAP_ENTRY_BYTES_MAX)
        control_conn_drop(conn);
    else
        control_submit(conn->control, conn->id, msg->header.request_id, msg->body, msg->header.body_len);
}

static void on_subscribe(struct control_conn *conn, const struct msg *msg)
{
    assert(conn != NULL);
    struct control *c = conn->control;
    assert(conn->role == HELLO_CONTROL);
    struct wire_header reply = {.status = 0};
    if (!c->config.log)
        reply.status = -EAGAIN; /* not a voter */
    control_conn_reply(conn, &msg->header, &reply, /* body= */ NULL);
    if (reply.status < 0 || conn->snapshot)
        return;
    conn->subscribed = true;
    conn->next_version = msg->header.map_version + 1;
    if (msg->header.map_version > map_version(c->map))
        conn->next_version = map_version(c->map) + 1; /* we are behind it: it drops what it has */
    control_map_pump(conn);
}

void control_conn_message(struct control_conn *conn, struct msg *msg)
{
    assert(conn != NULL);
    assert(conn->role != 0);
    if (msg->header.opcode == WIRE_CTL_ADMIN) {
        control_admin_frame(conn, msg);
        return;
    }
    if (conn->role != HELLO_CONTROL) {
        control_conn_drop(conn);
        return;
    }
    switch (msg->header.opcode) {
    case WIRE_CTL_HEARTBEAT: on_heartbeat(conn, msg); break;
    case WIRE_CTL_PROPOSE: on_propose(conn, msg); break;
    case WIRE_CTL_SUBSCRIBE: on_subscribe(conn, msg); break;
    case WIRE_CTL_SUSPECT: control_liveness_suspect(conn->control, (uint32_t)msg->header.aux); break;
    case WIRE_PING: control_lease_ping(conn, &msg->header); break;
    default: control_conn_drop(conn); break;
    }
}

void control_peer_message(struct control_peer *peer, struct msg *msg)
{
    struct control *c = peer->control;
    assert(peer->ready);
    switch (msg->header.opcode) {
    case WIRE_CTL_HEARTBEAT | 1: control_node_answered(c, peer->node, &msg->header); break;
    case WIRE_CTL_PROPOSE | 1:
        if (msg->header.body_len == 24 || msg->header.status < 0)
            control_propose_answer(c, peer->node, &msg->header, msg->header.body_len == 24 ? msg->body : NULL);
        break;
    case WIRE_CTL_MAP_ENTRY:
    case WIRE_CTL_MAP_SNAPSHOT: control_follow_message(c, peer, msg); break;
    case WIRE_PING | 1: control_lease_pong(c, peer->node, &msg->header); break;
    case WIRE_CTL_ADMIN | 1: control_admin_relayed(c, &msg->header, msg->body); break;
    case WIRE_CTL_SUBSCRIBE | 1:
        if (msg->header.status < 0)
            control_follow_lost(c, peer);
        break;
    default: link_close(peer->link); break;
    }
    assert(msg->header.opcode != (WIRE_HELLO | 1));
}
