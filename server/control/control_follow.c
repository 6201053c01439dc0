/* SPDX-License-Identifier: Apache-2.0 */
/* control_follow: how a core finds the leader, and how one that is no voter follows the map.
 *
 * - a voter asks its log who leads; any other keeps a hint, corrected by answers (-EAGAIN names the leader) and moved on to the
 *   next voter when nothing is heard
 * - SUBSCRIBE says which version we have; the voter sends a snapshot in pieces if need be, then every entry
 *
 * Failure: a gap, a piece out of place or a snapshot that does not check ends the subscription; the next tick subscribes anew.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "control"
#include "common/log.h"
#include "server/control/control_state.h"

static uint32_t next_voter(const struct control *c, uint32_t node)
{
    assert(c != NULL);
    uint32_t at = 0;
    for (uint32_t i = 0; i < c->config.voter_count; i++) {
        if (c->config.voters[i].node == node)
            at = (i + 1) % c->config.voter_count;
    }
    assert(c->config.voter_count > 0);
    return c->config.voters[at].node;
}

uint32_t control_leader_node(struct control *c)
{
    assert(c != NULL);
    if (c->config.log)
        return c->config.log->ops->leader(c->config.log);
    if (c->leader_hint == 0)
        c->leader_hint = c->config.voters[env_random(c->env) % c->config.voter_count].node;
    assert(c->leader_hint != 0);
    return c->leader_hint;
}

static bool is_voter(const struct control *c, uint32_t node)
{
    assert(c != NULL);
    for (uint32_t i = 0; i < c->config.voter_count; i++) {
        if (c->config.voters[i].node == node)
            return true;
    }
    return false;
}

/* Somebody we took for the leader says who it is. */
void control_leader_hint(struct control *c, uint32_t from, uint32_t leader)
{
    assert(c != NULL);
    if (c->config.log || from != c->leader_hint || leader == from || !is_voter(c, leader))
        return;
    log_debug("leader is node=%u says node=%u", leader, from);
    c->leader_hint = leader;
    assert(c->leader_hint != 0);
    control_propose_resend(c);
    c->heartbeat_now = true;
    control_wake(c);
}

static void subscribe(struct control *c, uint32_t node)
{
    struct wire_header header = {.opcode = WIRE_CTL_SUBSCRIBE, .map_version = map_version(c->map)};
    header.request_id = control_id(c);
    assert(!c->config.log);
    free(c->piece_bytes);
    c->piece_bytes = NULL;
    c->piece_have = c->piece_total = 0;
    if (control_peer_send(c, node, &header, NULL) < 0)
        return; /* a link is being made: control_follow_ready */
    uint32_t old = c->follow_node;
    c->follow_node = node;
    for (uint32_t i = 0; i < c->peer_count; i++) {
        if (old != node && c->peers[i]->node == old && c->peers[i]->link)
            link_close(c->peers[i]->link); /* ends the old subscription */
    }
}

void control_follow_tick(struct control *c)
{
    assert(c != NULL);
    uint64_t now = control_now(c);
    if (c->config.log)
        return;
    uint64_t heard = c->leader_answered_ns > c->follow_heard_ns ? c->leader_answered_ns : c->follow_heard_ns;
    if (now - heard > 3 * c->config.heartbeat_ns && heard != 0) {
        uint32_t next = next_voter(c, control_leader_node(c));
        log_debug("nothing heard from node=%u, asking node=%u", c->leader_hint, next);
        c->leader_hint = next;
        c->leader_answered_ns = now;
        control_propose_resend(c);
    } else if (heard == 0) {
        c->leader_answered_ns = now;
    }
    uint32_t leader = control_leader_node(c);
    assert(leader != 0);
    if (c->follow_node != leader)
        subscribe(c, leader);
}

void control_follow_ready(struct control *c, struct control_peer *peer)
{
    assert(peer != NULL);
    assert(peer->ready);
    if (!c->config.log && peer->node == control_leader_node(c))
        subscribe(c, peer->node);
}

void control_follow_lost(struct control *c, struct control_peer *peer)
{
    assert(c != NULL);
    assert(peer->node != 0);
    if (c->follow_node == peer->node)
        c->follow_node = 0;
}

static int follow_entry(struct control *c, const struct msg *msg)
{
    assert(c != NULL);
    uint64_t version = msg->header.aux;
    if (version <= map_version(c->map))
        return 0; /* we subscribed twice */
    if (version != map_version(c->map) + 1 || msg->header.body_len > MAP_ENTRY_BYTES_MAX || c->piece_bytes)
        return -EBADMSG;
    assert(c->piece_have == 0);
    control_map_entry(c, version, msg->body, msg->header.body_len);
    return 0;
}

static int follow_piece(struct control *c, const struct msg *msg)
{
    assert(msg != NULL);
    const struct wire_header *h = &msg->header;
    if (h->offset == 0) {
        free(c->piece_bytes);
        c->piece_bytes = NULL;
        c->piece_have = 0;
        if (h->length == 0 || h->length > CONTROL_SNAPSHOT_BYTES_MAX)
            return -EMSGSIZE;
        c->piece_bytes = malloc((size_t)h->length);
        if (!c->piece_bytes)
            return -ENOMEM;
        c->piece_total = (size_t)h->length;
        c->piece_version = h->map_version;
    }
    if (!c->piece_bytes || h->offset != c->piece_have || h->length != c->piece_total ||
        h->map_version != c->piece_version)
        return -EBADMSG;
    if (h->body_len == 0 || h->body_len > c->piece_total - c->piece_have)
        return -EBADMSG;
    memcpy(c->piece_bytes + c->piece_have, msg->body, h->body_len);
    c->piece_have += h->body_len;
    if (c->piece_have < c->piece_total)
        return 0;
    int rc = 0;
    if (c->piece_version > map_version(c->map))
        rc = control_map_replace(c, c->piece_bytes, c->piece_total);
    free(c->piece_bytes);
    c->piece_bytes = NULL;
    c->piece_have = c->piece_total = 0;
    assert(rc <= 0);
    return rc;
}

void control_follow_message(struct control *c, struct control_peer *peer, struct msg *msg)
{
    assert(c != NULL);
    int rc;
    assert(WIRE_CTL_MAP_ENTRY == msg->header.opcode || WIRE_CTL_MAP_SNAPSHOT == msg->header.opcode);
    if (c->config.log || peer->node != c->follow_node)
        return; /* an older subscription */
    if (msg->header.opcode == WIRE_CTL_MAP_ENTRY)
        rc = follow_entry(c, msg);
    else
        rc = follow_piece(c, msg);
    if (rc < 0) {
        log_warn("subscription to node=%u ends rc=%d", peer->node, rc);
        c->follow_node = 0;
        link_close(peer->link);
        return;
    }
    c->follow_heard_ns = control_now(c);
    control_wake(c);
}
