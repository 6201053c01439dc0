/* SPDX-License-Identifier: Apache-2.0 */
/* request: one request of a client: checked, routed, answered.
 *
 * - gateway_request_begin: checks every field, counts it against the client's limits
 * - gateway_request_route: looks at the map: primary here -> replicas_submit, elsewhere -> forward.c, none -> parked
 * - gateway_request_result: done, or bounced: parked and routed again once the map moved (R7)
 * - gateway_request_finish: the answer, with stage times
 *
 * Failure: only for reasons that all replicas share (ENOSPC, damage everywhere), or because a newer session exists (R19:
 * nothing is sent again for an older one). EIO of one primary is retried: it resigns meanwhile.
 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "server/gateway/gateway_internal.h"

#define LOG_MODULE "gateway"

/* ---- requests as objects */

void gateway_request_assert(const struct gateway_request *request)
{
    bool waits = request->state == REQUEST_PARKED || request->state == REQUEST_STARVED ||
                 request->state == REQUEST_FLUSHING || request->state == REQUEST_HELD;
    assert(request->gateway != NULL && request->msg != NULL);
    assert((request->client != NULL) != (request->source.node != 0));
    assert(!request->client || (request->volume && (request->session != 0) == (request->generation == 0)));
    assert(waits == list_linked(&request->wait_link));
    assert(request->state == REQUEST_NEW || request->state == REQUEST_HELD || !request->reply);
    assert(request->state != REQUEST_LOCAL || request->op.cb || request->extents.cb);
    assert(request->state != REQUEST_REMOTE || request->client);
}

struct gateway_request *gateway_request_take(struct gateway *gw, struct msg *msg)
{
    struct gateway_request *request;
    assert(msg != NULL);
    assert(gw->request_count <= GATEWAY_REQUESTS_MAX);
    struct list_node *node = list_pop_front(&gw->free_requests);
    if (node)
        request = list_entry(node, struct gateway_request, wait_link);
    else if (gw->request_count >= GATEWAY_REQUESTS_MAX || !(request = malloc(sizeof(*request))))
        return NULL;
    memset(request, 0, offsetof(struct gateway_request, crcs));
    request->gateway = gw;
    request->msg = msg;
    gw->request_count++;
    return request;
}

/* What a request took of the limits is given back. */
static void discharge(struct gateway_client *client, uint64_t bytes)
{
    struct gateway *gw = client->gateway;
    assert(client->inflight_bytes >= bytes);
    assert(gw->client_bytes >= bytes);
    client->inflight_bytes -= bytes;
    bool over = gw->client_bytes > gw->client_bytes_max;
    gw->client_bytes -= bytes;
    gateway_client_flow(client);
    if (!over || gw->client_bytes > gw->client_bytes_max)
        return;
    list_for_each(pos, &gw->clients) gateway_client_flow(list_entry(pos, struct gateway_client, link));
}

void gateway_request_free(struct gateway_request *request)
{
    struct gateway *gw = request->gateway;
    struct gateway_client *client = request->client;
    assert(!list_linked(&request->wait_link));
    assert(!request->op.task.queued);
    buf_unref(request->buf);
    msg_free(request->reply);
    msg_free(request->msg);
    gateway_volume_put(request->volume);
    assert(gw->request_count > 0);
    gw->request_count--;
    list_push_front(&gw->free_requests, &request->wait_link);
    if (!client) {
        gateway_check_closed(gw);
        return;
    }
    list_remove(&request->link);
    assert(client->request_count > 0);
    client->request_count--;
    discharge(client, request->charged_bytes);
    gateway_client_maybe_free(client);
    gateway_check_closed(gw);
}

void gateway_request_forget(struct gateway_request *request)
{
    struct gateway *gw = request->gateway;
    gateway_request_assert(request);
    switch (request->state) {
    case REQUEST_PARKED:
        assert(gw->parked_count > 0);
        gw->parked_count--;
        if (request->volume)
            request->volume->stats.parked--;
        /* fall through */
    case REQUEST_STARVED:
    case REQUEST_HELD:
    case REQUEST_FLUSHING:
        list_remove(&request->wait_link);
        gateway_request_free(request);
        return;
    case REQUEST_REMOTE:
        if (!gw->closing)
            return; /* ends by its callback, unheard */
        /* the primary may wait for this very node to go, and answer only then */
        peers_abandon(gw->cfg.peers, &request->peer);
        gateway_request_free(request);
        return;
    case REQUEST_NEW:
    case REQUEST_LOCAL: return; /* ends by its callback, unheard */
    }
    assert(!"a request in no state");
}

/* ---- checks */

static bool range_inside(uint64_t offset, uint64_t length, uint64_t span)
{
    assert(span > 0);
    assert(span % WIRE_BLOCK_BYTES == 0);
    return length > 0 && length <= span && offset <= UINT64_MAX - length &&
           offset / span == (offset + length - 1) / span;
}

static bool write_well_formed(const struct wire_header *header)
{
    assert(header->opcode == WIRE_WRITE);
    if (header->payload_len != header->length || !range_inside(header->offset, header->length, STORE_CHUNK_BYTES))
        return false;
    bool blocks = header->offset % WIRE_BLOCK_BYTES == 0 && header->length % WIRE_BLOCK_BYTES == 0;
    if (blocks)
        return header->body_len == header->length / WIRE_BLOCK_BYTES * sizeof(uint32_t);
    return header->body_len == sizeof(uint32_t) && range_inside(header->offset, header->length, WIRE_BLOCK_BYTES);
}

bool gateway_request_well_formed(const struct msg *msg)
{
    const struct wire_header *header = &msg->header;
    bool aligned = header->offset % WIRE_BLOCK_BYTES == 0 && header->length % WIRE_BLOCK_BYTES == 0;
    assert((msg->payload != NULL) == (header->payload_len > 0));
    if (header->opcode == WIRE_WRITE)
        return write_well_formed(header);
    if (header->payload_len != 0 || header->body_len != 0)
        return false;
    switch (header->opcode) {
    case WIRE_READ: return aligned && range_inside(header->offset, header->length, STORE_CHUNK_BYTES);
    case WIRE_ZERO: return aligned && range_inside(header->offset, header->length, STORE_REGION_BYTES);
    case WIRE_EXTENTS:
        return aligned && header->length > 0 && header->length <= CLIENT_EXTENTS_LENGTH_MAX &&
               header->offset <= UINT64_MAX - header->length;
    case WIRE_FLUSH: return true;
    default: return false;
    }
}

bool gateway_request_take_crcs(struct gateway_request *request)
{
    const struct msg *msg = request->msg;
    uint32_t count = msg->header.body_len / (uint32_t)sizeof(uint32_t);
    assert(msg->header.opcode == WIRE_WRITE);
    if (count == 0 || count > WIRE_BLOCKS_MAX)
        return false;
    memcpy(request->crcs, msg->body, count * sizeof(uint32_t));
    for (uint32_t i = 0; i < count; i++)
        request->crcs[i] = le32toh(request->crcs[i]);
    return true;
}

void gateway_crcs_encode(uint32_t *crcs, uint32_t count)
{
    assert(count <= WIRE_BLOCKS_MAX);
    for (uint32_t i = 0; i < count; i++)
        crcs[i] = htole32(crcs[i]);
}

/* What the client may ask at all: 0 or its answer. */
static int check_allowed(const struct gateway_request *request)
{
    const struct gateway_client *client = request->client;
    const struct wire_header *header = &request->msg->header;
    gateway_client_assert(client);
    if (client->fenced)
        return -EPERM;
    if (client->generation != 0 && header->opcode == WIRE_FLUSH)
        return -EALREADY; /* nothing to be done: what is sealed is durable */
    if (client->read_only && (header->opcode == WIRE_WRITE || header->opcode == WIRE_ZERO))
        return -EROFS;
    return 0;
}

static uint64_t bytes_charged(const struct wire_header *header)
{
    assert(!WIRE_IS_REPLY(header->opcode));
    return header->opcode == WIRE_READ || header->opcode == WIRE_WRITE ? header->length : 0;
}

void gateway_request_begin(struct gateway_client *client, struct msg *msg)
{
    struct gateway *gw = client->gateway;
    const char *why = NULL;
    gateway_client_assert(client);
    assert(client->conn != NULL);
    if (client->state != CLIENT_ATTACHED || client->detached || msg->header.session != client->session)
        why = "a request without its session";
    else if (!gateway_request_well_formed(msg))
        why = "a malformed request";
    struct gateway_request *request = why ? NULL : gateway_request_take(gw, msg);
    if (!request) {
        gateway_client_drop(client, why ? why : "too many requests");
        msg_free(msg);
        return;
    }
    request->client = client;
    request->volume = client->volume;
    request->volume->refs++;
    request->volume_id = client->volume->id;
    request->session = client->generation ? 0 : client->session;
    request->generation = client->generation;
    request->charged_bytes = bytes_charged(&msg->header);
    list_push_back(&client->requests, &request->link);
    client->request_count++;
    client->inflight_bytes += request->charged_bytes;
    gw->client_bytes += request->charged_bytes;
    gateway_client_flow(client);
    gateway_request_assert(request);
    int rc = check_allowed(request);
    if (rc != 0)
        gateway_request_finish(request, rc == -EALREADY ? 0 : rc);
    else
        gateway_request_route(request);
}

/* ---- route */

static void op_done(struct replica_op *op, int rc)
{
    struct gateway_request *request = op->owner;
    assert(request->state == REQUEST_LOCAL);
    request->state = REQUEST_NEW;
    gateway_request_result(request, rc, /* version= */ 0);
}

static void starve(struct gateway_request *request)
{
    struct gateway *gw = request->gateway;
    assert(request->msg->header.opcode == WIRE_READ);
    assert(request->state == REQUEST_NEW);
    request->state = REQUEST_STARVED;
    list_push_back(&gw->starved, &request->wait_link);
    buf_pool_wait(gw->cfg.pool, &gw->pool_waiter);
}

/* This node is primary. */
static void route_local(struct gateway_request *request)
{
    struct gateway *gw = request->gateway;
    const struct wire_header *header = &request->msg->header;
    struct replica_op *op = &request->op;
    assert(header->length <= UINT32_MAX);
    *op = (struct replica_op){
        .opcode = header->opcode,
        .flags = header->flags & (WIRE_F_FUA | WIRE_F_TRIM | WIRE_F_NO_HOLE),
        .volume = request->volume_id,
        .shard = request->shard,
        .session = request->session,
        .generation = request->generation, /* 0: of the map when it starts, which is this gateway's, too (R20) */
        .offset = request->shard_offset,
        .length = (uint32_t)header->length,
        .crcs = request->crcs,
        .cb = op_done,
        .owner = request,
    };
    if (header->opcode == WIRE_READ) {
        if (!request->buf)
            request->buf = buf_alloc(gw->cfg.pool, op->length);
        if (!request->buf) {
            starve(request);
            return;
        }
        op->buf = request->buf;
    } else if (header->opcode == WIRE_WRITE) {
        bool taken = gateway_request_take_crcs(request);
        assert(taken);
        op->buf = request->msg->payload;
    }
    request->state = REQUEST_LOCAL;
    gateway_request_assert(request);
    replicas_submit(gw->cfg.replicas, op);
}

/* Shard and offset in it: 0 or the client's answer. */
static int locate(struct gateway_request *request, const struct map_volume *v)
{
    struct wire_header *header = &request->msg->header;
    uint64_t size = request->generation && request->client ? request->client->snapshot_size : v->size;
    if (header->offset > size || header->length > size - header->offset || size > v->shard_bytes * v->shard_count)
        return -EINVAL;
    request->shard = (uint32_t)(header->offset / v->shard_bytes);
    request->shard_offset = header->offset % v->shard_bytes;
    uint64_t rest = v->shard_bytes - request->shard_offset;
    assert(request->shard < v->shard_count);
    if (header->length > rest) {
        if (header->opcode != WIRE_EXTENTS)
            return -EINVAL;
        header->length = rest; /* the answer says how much it covers */
    }
    return 0;
}

void gateway_request_route(struct gateway_request *request)
{
    struct gateway *gw = request->gateway;
    assert(request->state == REQUEST_NEW);
    gateway_request_assert(request);
    if (!request->client->conn || gw->closing) {
        gateway_request_free(request);
        return;
    }
    const struct map_volume *v = map_volume_by_id(gw->cfg.map, request->volume_id);
    int rc = 0;
    if (!v || v->deleting)
        rc = -ENOENT;
    else if (request->generation == 0 && request->session < v->session.number)
        rc = -EPERM; /* R19: nothing is sent again for a session that is not the newest */
    else if (request->msg->header.opcode != WIRE_FLUSH)
        rc = locate(request, v);
    if (rc != 0) {
        gateway_request_finish(request, rc);
        return;
    }
    if (request->msg->header.opcode == WIRE_FLUSH) {
        gateway_flush_submit(request);
        return;
    }
    uint32_t primary = v->shards[request->shard].primary;
    if (primary == gw->cfg.node && request->msg->header.opcode == WIRE_EXTENTS)
        gateway_extents_local(request);
    else if (primary == gw->cfg.node)
        route_local(request);
    else if (primary != 0 && peers_is_up(gw->cfg.peers, primary))
        gateway_forward(request, primary);
    else
        gateway_request_park(request, /* wait_version= */ 0);
}

/* ---- result */

static void park_bounced(struct gateway_request *request, int rc, uint64_t version)
{
    struct gateway *gw = request->gateway;
    const struct map_volume *v = map_volume_by_id(gw->cfg.map, request->volume_id);
    uint32_t stamp = request->stamp;
    assert(rc < 0);
    request->stamp = 0;
    gateway_request_park(request, version);
    /* R20: the primary takes older stamps no more; ours is newer meanwhile, or will be with the map version it named. */
    if (rc == -ESTALE && stamp != 0 && v && stamp < v->generation)
        gateway_wake(gw);
}

void gateway_request_result(struct gateway_request *request, int rc, uint64_t version)
{
    assert(rc <= 0);
    assert(request->client != NULL);
    assert(request->state == REQUEST_NEW);
    gateway_request_assert(request);
    switch (rc) {
    case -EIO: /* that primary's drive; it resigns, and the next one answers */
        if (++request->eio_tries > GATEWAY_EIO_TRIES_MAX)
            break;
        /* fall through */
    case -ESTALE:
    case -ENOTCONN:
    case -ECANCELED:
    case -EAGAIN:
    case -ENOMEM:
    case -ESHUTDOWN:
        msg_free(request->reply);
        request->reply = NULL;
        request->retried = true;
        request->state = REQUEST_NEW;
        if (!request->client->conn)
            gateway_request_free(request);
        else
            park_bounced(request, rc, version);
        return;
    default: break;
    }
    gateway_request_finish(request, rc);
}

static enum bridge_op stats_op(uint16_t opcode)
{
    assert(!WIRE_IS_REPLY(opcode));
    switch (opcode) {
    case WIRE_READ: return BRIDGE_OP_READ;
    case WIRE_WRITE: return BRIDGE_OP_WRITE;
    case WIRE_ZERO: return BRIDGE_OP_ZERO;
    case WIRE_FLUSH: return BRIDGE_OP_FLUSH;
    default: return BRIDGE_OP_COUNT;
    }
}

/* stage_ns of an answer: gateway (with parking and the way to the primary), primary, network and backups, drive. */
static void note_stages(const struct gateway_request *request, uint64_t total_ns, uint32_t ret_stage_ns[4])
{
    const uint32_t *from = request->reply ? request->reply->header.stage_ns : NULL;
    assert(request->state == REQUEST_NEW);
    uint32_t primary_ns = from ? from[1] : request->op.stage_ns[3];
    uint64_t gateway_ns = total_ns > primary_ns ? total_ns - primary_ns : 0;
    ret_stage_ns[0] = gateway_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)gateway_ns;
    ret_stage_ns[1] = primary_ns;
    ret_stage_ns[2] = from ? from[2] : request->op.stage_ns[2];
    ret_stage_ns[3] = from ? from[3] : request->op.stage_ns[1];
}

static void note_stats(const struct gateway_request *request, int rc, const uint32_t stage_ns[4], uint64_t total_ns)
{
    struct bridge_volume_stats *stats = &request->volume->stats;
    enum bridge_op op = stats_op(request->msg->header.opcode);
    assert(rc <= 0);
    if (rc < 0)
        stats->errors++;
    if (rc < 0 || op == BRIDGE_OP_COUNT)
        return;
    stats->count[op]++;
    stats->bytes[op] += op == BRIDGE_OP_FLUSH ? 0 : request->msg->header.length;
    histogram_record(&stats->latency[op], total_ns);
    if (op != BRIDGE_OP_WRITE)
        return;
    histogram_record(&stats->write_stage[BRIDGE_STAGE_TOTAL], total_ns);
    histogram_record(&stats->write_stage[BRIDGE_STAGE_GATEWAY], stage_ns[0]);
    histogram_record(&stats->write_stage[BRIDGE_STAGE_PRIMARY], stage_ns[1]);
    histogram_record(&stats->write_stage[BRIDGE_STAGE_NETWORK], stage_ns[2]);
    histogram_record(&stats->write_stage[BRIDGE_STAGE_DRIVE], stage_ns[3]);
}

void gateway_request_finish(struct gateway_request *request, int rc)
{
    struct gateway *gw = request->gateway;
    const struct wire_header *header = &request->msg->header;
    const struct msg *from = request->reply;
    assert(request->state == REQUEST_NEW);
    gateway_request_assert(request);
    if (rc == 0 && gateway_snap_hold(request))
        return;
    struct wire_header reply = {
        .status = rc, .shard = request->shard, .offset = header->offset, .length = header->length};
    const void *body = NULL;
    struct buf *payload = NULL;
    uint64_t now_ns = env_now_ns(gw->env);
    uint64_t total_ns = now_ns > request->msg->received_ns ? now_ns - request->msg->received_ns : 0;
    if (rc == 0) {
        note_stages(request, total_ns, reply.stage_ns);
        reply.loss_number = from ? from->header.loss_number : request->op.loss_number; /* R13 */
    }
    note_stats(request, rc, reply.stage_ns, total_ns);
    if (rc == 0 && header->opcode == WIRE_READ) {
        uint32_t blocks = (uint32_t)(header->length / WIRE_BLOCK_BYTES);
        if (!from)
            gateway_crcs_encode(request->crcs, blocks);
        body = from ? (const void *)from->body : request->crcs;
        payload = from ? from->payload : request->buf;
        reply.body_len = blocks * (uint32_t)sizeof(uint32_t);
        reply.payload_len = (uint32_t)header->length;
    } else if (rc == 0 && header->opcode == WIRE_EXTENTS) {
        assert(from != NULL);
        body = from->body;
        reply.body_len = from->header.body_len;
        reply.length = from->header.length;
    } else if (rc == 0 && header->opcode == WIRE_FLUSH) {
        body = request->volume->loss_body; /* R13 */
        reply.body_len = request->volume->loss_count * CLIENT_LOSS_RUN_BYTES;
        reply.aux = request->volume->loss_rest;
    }
    gateway_client_reply(request->client, header, &reply, body, payload, 0);
    gateway_request_free(request);
}
