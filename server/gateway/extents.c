/* SPDX-License-Identifier: Apache-2.0 */
/* extents: block status of a volume or a snapshot, and what changed since an older one (WIRE_EXTENTS; aux: that generation).
 *
 * - the newest content of a volume without a parent is told at once from memory; everything else asks the store (older records may have
 *   to be fetched)
 *
 * Failure: bounced like any request; without memory it is tried again.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "server/gateway/gateway_internal.h"

static int encode(const struct store_extent *extents, uint32_t count, uint8_t **ret_body, uint32_t *ret_bytes,
                  uint64_t *ret_covered)
{
    uint8_t *body = malloc((size_t)count * CLIENT_EXTENT_BYTES);
    assert(count > 0 && count <= GATEWAY_EXTENTS_MAX);
    if (!body)
        return -ENOMEM;
    *ret_covered = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *at = body + (size_t)i * CLIENT_EXTENT_BYTES;
        client_put_u32(at, (uint32_t)(extents[i].length / WIRE_BLOCK_BYTES));
        client_put_u32(at + 4, extents[i].state);
        *ret_covered += extents[i].length;
    }
    *ret_body = body;
    *ret_bytes = count * CLIENT_EXTENT_BYTES;
    return 0;
}

static void answer(struct gateway_request *request, int rc, const struct store_extent *extents, uint32_t count)
{
    struct gateway *gw = request->gateway;
    const struct wire_header *header = &request->msg->header;
    uint8_t *body = NULL;
    uint32_t bytes = 0;
    uint64_t covered = 0;
    assert(request->state == REQUEST_NEW);
    if (rc == 0)
        rc = count > 0 ? encode(extents, count, &body, &bytes, &covered) : -EAGAIN;
    if (rc < 0 && request->client) {
        gateway_request_result(request, rc, /* version= */ 0);
        return;
    }
    struct wire_header reply = {.status = rc,
                                .volume = request->volume_id,
                                .shard = request->shard,
                                .offset = header->offset,
                                .length = covered,
                                .body_len = bytes,
                                .map_version = map_version(gw->cfg.map)};
    if (request->client)
        gateway_client_reply(request->client, header, &reply, body, /* payload= */ NULL, 0);
    else
        peers_reply(gw->cfg.peers, &request->source, header, &reply, body, /* payload= */ NULL, 0);
    free(body);
    gateway_request_free(request);
}

static void told(struct replica_extents *req, int rc)
{
    struct gateway_request *request = req->owner;
    struct store_extent *extents = req->extents;
    assert(request->state == REQUEST_LOCAL);
    request->state = REQUEST_NEW;
    answer(request, rc, extents, req->count);
    free(extents);
}

static void submit(struct gateway_request *request, uint64_t offset, uint32_t generation)
{
    struct gateway *gw = request->gateway;
    const struct wire_header *header = &request->msg->header;
    const struct map_volume *v = map_volume_by_id(gw->cfg.map, request->volume_id);
    uint32_t max = (uint32_t)(header->length / WIRE_BLOCK_BYTES), count = 0;
    assert(max > 0 && max <= GATEWAY_EXTENTS_MAX);
    struct store_extent *extents = malloc(max * sizeof(*extents));
    if (!extents || header->aux > UINT32_MAX) {
        free(extents);
        answer(request, extents ? -EINVAL : -ENOMEM, NULL, 0);
        return;
    }
    if (generation == 0 && header->aux == 0 && v && v->base.volume == 0) {
        int rc = replicas_extents(gw->cfg.replicas, request->volume_id, request->shard, offset, header->length, extents,
                                  max, &count);
        answer(request, rc, extents, count);
        free(extents);
        return;
    }
    request->extents = (struct replica_extents){
        .volume = request->volume_id,
        .shard = request->shard,
        .generation = generation,
        .since = (uint32_t)header->aux,
        .offset = offset,
        .length = header->length,
        .extents = extents,
        .max = max,
        .cb = told,
        .owner = request,
    };
    request->state = REQUEST_LOCAL;
    gateway_request_assert(request);
    replicas_extents_submit(gw->cfg.replicas, &request->extents);
}

/* A client's, at the primary. */
void gateway_extents_local(struct gateway_request *request)
{
    assert(request->client != NULL);
    submit(request, request->shard_offset, request->generation);
}

/* Of another gateway's client. */
void gateway_extents_peer(struct gateway_request *request)
{
    const struct wire_header *header = &request->msg->header;
    assert(request->client == NULL);
    request->volume_id = header->volume;
    request->shard = header->shard;
    submit(request, header->offset, header->generation);
}
