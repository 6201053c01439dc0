/* SPDX-License-Identifier: Apache-2.0 */
/* forward: requests between gateways and primaries on different nodes.
 *
 * - gateway_forward: sends a client's request to the primary's node; what it answers is checked and passed on
 * - gateway_peer_request: serves another gateway's request as primary, or bounces it with this node's map version, for which
 *   the other side then waits before it routes again (R7)
 *
 * Failure: a lost link parks the request at its gateway; a primary that answers nonsense is treated like a lost one. When
 * three quarters of the buffers are in use, requests of others are bounced, so that replication always has the rest.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "server/gateway/gateway_internal.h"

#define LOG_MODULE "gateway"

/* ---- towards a primary */

static bool answer_well_formed(const struct gateway_request *request, const struct msg *reply)
{
    const struct wire_header *asked = &request->msg->header, *header = &reply->header;
    assert(!WIRE_IS_REPLY(asked->opcode));
    assert((reply->payload != NULL) == (header->payload_len > 0));
    switch (asked->opcode) {
    case WIRE_READ:
        return header->payload_len == asked->length &&
               header->body_len == asked->length / WIRE_BLOCK_BYTES * sizeof(uint32_t);
    case WIRE_EXTENTS:
        return header->payload_len == 0 && header->body_len > 0 && header->body_len % CLIENT_EXTENT_BYTES == 0 &&
               header->body_len / CLIENT_EXTENT_BYTES <= CLIENT_EXTENTS_MAX && header->length > 0 &&
               header->length <= asked->length;
    default: return header->payload_len == 0;
    }
}

static void forward_done(struct peer_request *peer, int rc)
{
    struct gateway_request *request = peer->owner;
    assert(request->state == REQUEST_REMOTE);
    assert(request->reply == NULL);
    request->state = REQUEST_NEW;
    request->reply = peers_take_reply(peer);
    uint64_t version = request->reply ? request->reply->header.map_version : 0;
    if (rc > 0 || (rc == 0 && (!request->reply || !answer_well_formed(request, request->reply)))) {
        log_warn("malformed answer node=%u opcode=%s", peer->node, wire_opcode_name(request->msg->header.opcode));
        rc = -EAGAIN;
        version = 0;
    }
    gateway_request_result(request, rc, version);
}

void gateway_forward(struct gateway_request *request, uint32_t node)
{
    struct gateway *gw = request->gateway;
    const struct msg *msg = request->msg;
    const struct map_shard *shard = map_shard_at(gw->cfg.map, request->volume_id, request->shard);
    const struct map_volume *v = map_volume_by_id(gw->cfg.map, request->volume_id);
    bool writes = msg->header.opcode == WIRE_WRITE || msg->header.opcode == WIRE_ZERO;
    assert(request->state == REQUEST_NEW);
    assert(node != gw->cfg.node);
    struct wire_header header = {
        .opcode = msg->header.opcode,
        .flags =
            (msg->header.flags & (WIRE_F_FUA | WIRE_F_TRIM | WIRE_F_NO_HOLE)) | (request->retried ? WIRE_F_RETRY : 0),
        .volume = request->volume_id,
        .shard = request->shard,
        .session = request->session,
        .epoch = shard ? shard->epoch : 0,
        .generation = writes && v ? v->generation : request->generation, /* R20: one gateway stamps, and only upwards */
        .aux = msg->header.opcode == WIRE_EXTENTS ? msg->header.aux : 0,
        .offset = request->shard_offset,
        .length = msg->header.length,
        .body_len = msg->header.body_len,
        .payload_len = msg->header.payload_len,
    };
    request->peer = (struct peer_request){.cb = forward_done, .owner = request};
    request->stamp = writes ? header.generation : 0;
    request->state = REQUEST_REMOTE;
    gateway_request_assert(request);
    peers_request(gw->cfg.peers, node, &header, msg->body, msg->payload, 0, &request->peer);
}

/* ---- as primary for another gateway */

static void peer_answer(struct gateway_request *request, int rc)
{
    struct gateway *gw = request->gateway;
    const struct wire_header *header = &request->msg->header;
    struct wire_header reply = {
        .status = rc,
        .volume = header->volume,
        .shard = header->shard,
        .offset = header->offset,
        .length = header->length,
        .map_version = map_version(gw->cfg.map),
        .loss_number = request->op.loss_number,
    };
    reply.stage_ns[1] = request->op.stage_ns[3];
    reply.stage_ns[2] = request->op.stage_ns[2];
    reply.stage_ns[3] = request->op.stage_ns[1];
    const void *body = NULL;
    struct buf *payload = NULL;
    if (rc == 0 && header->opcode == WIRE_READ) {
        uint32_t blocks = (uint32_t)(header->length / WIRE_BLOCK_BYTES);
        assert(request->buf != NULL);
        gateway_crcs_encode(request->crcs, blocks);
        body = request->crcs;
        payload = request->buf;
        reply.body_len = blocks * (uint32_t)sizeof(uint32_t);
        reply.payload_len = (uint32_t)header->length;
    }
    peers_reply(gw->cfg.peers, &request->source, header, &reply, body, payload, 0);
    gateway_request_free(request);
}

static void peer_op_done(struct replica_op *op, int rc)
{
    struct gateway_request *request = op->owner;
    assert(request->client == NULL);
    assert(request->state == REQUEST_LOCAL);
    gateway_request_assert(request);
    request->state = REQUEST_NEW;
    peer_answer(request, rc);
}

/* 0, or the bounce. */
static int peer_check(const struct gateway *gw, const struct msg *msg)
{
    const struct wire_header *header = &msg->header;
    struct buf_pool_stats pool;
    assert(!WIRE_IS_REPLY(header->opcode));
    if (!gateway_request_well_formed(msg))
        return -EINVAL;
    if (gw->closing)
        return -ESTALE;
    buf_pool_stats(gw->cfg.pool, &pool);
    if (header->opcode != WIRE_FLUSH && pool.used_bytes > pool.limit_bytes / 4 * 3)
        return -EAGAIN;
    const struct map_volume *v = map_volume_by_id(gw->cfg.map, header->volume);
    if (!v)
        return -ENOENT;
    if (header->opcode == WIRE_FLUSH)
        return 0;
    if (header->shard >= v->shard_count || header->offset > v->shard_bytes ||
        header->length > v->shard_bytes - header->offset)
        return -EINVAL;
    return v->shards[header->shard].primary == gw->cfg.node ? 0 : -ESTALE;
}

/* The replica's side of it: 0, or -EAGAIN without memory. */
static int peer_submit(struct gateway_request *request)
{
    struct gateway *gw = request->gateway;
    const struct wire_header *header = &request->msg->header;
    assert(header->length <= UINT32_MAX);
    request->op = (struct replica_op){
        .opcode = header->opcode,
        .flags = header->flags & (WIRE_F_FUA | WIRE_F_TRIM | WIRE_F_NO_HOLE),
        .volume = header->volume,
        .shard = header->shard,
        .session = header->session,
        .generation = header->generation,
        .epoch = header->epoch,
        .offset = header->offset,
        .length = (uint32_t)header->length,
        .crcs = request->crcs,
        .source = request->source,
        .cb = peer_op_done,
        .owner = request,
    };
    if (header->opcode == WIRE_READ) {
        request->buf = buf_alloc(gw->cfg.pool, request->op.length);
        if (!request->buf)
            return -EAGAIN;
        request->op.buf = request->buf;
    } else if (header->opcode == WIRE_WRITE) {
        bool taken = gateway_request_take_crcs(request);
        assert(taken);
        request->op.buf = request->msg->payload;
    }
    request->state = REQUEST_LOCAL;
    replicas_submit(gw->cfg.replicas, &request->op);
    return 0;
}

void gateway_peer_request(struct gateway *gateway, const struct peer_source *source, struct msg *msg)
{
    int rc = peer_check(gateway, msg);
    assert(source->node != 0);
    struct gateway_request *request = rc == 0 ? gateway_request_take(gateway, msg) : NULL;
    if (!request) {
        struct wire_header reply = {.status = rc ? rc : -EAGAIN, .map_version = map_version(gateway->cfg.map)};
        peers_reply(gateway->cfg.peers, source, &msg->header, &reply, /* body= */ NULL, /* payload= */ NULL, 0);
        msg_free(msg);
        return;
    }
    request->source = *source;
    if (msg->header.opcode == WIRE_EXTENTS) {
        gateway_extents_peer(request);
        return;
    }
    rc = peer_submit(request);
    if (rc < 0)
        peer_answer(request, rc);
}
