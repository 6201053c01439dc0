/* SPDX-License-Identifier: Apache-2.0 */
/* snap: the gateway's part in a snapshot (R20, I10).
 *
 * - it stamps what it routes with its map's head; when that moved on, primaries on other nodes are told (WIRE_SEAL)
 * - a group of volumes that are attached through several gateways needs one cut over all of them: while its snapshot is opening, answers to
 *   writes wait, so that nobody acts on a write of the new generation while another gateway still stamps the old one. Once the
 *   snapshot is complete, no primary takes older stamps. A single volume, or one gateway for all, needs no such thing.
 *
 * Failure: a snapshot that is given up ends the wait, too; the leader's patience with such a group is short.
 */
#include <assert.h>
#include <errno.h>

#include "server/gateway/gateway_internal.h"

/* Primaries elsewhere need not wait until a write tells them. */
static void tell_primaries(struct gateway *gw, struct gateway_volume *known, const struct map_volume *volume)
{
    assert(known->id == volume->id);
    if (volume->session.gateway != gw->cfg.node || !volume->session.open || !map_snap_opening(volume) ||
        known->seal_told == volume->generation || !gateway_volume_scan(known))
        return;
    known->seal_told = volume->generation;
    for (uint32_t i = 0; i < known->primary_count; i++) {
        struct wire_header header = {.opcode = WIRE_SEAL, .volume = volume->id, .generation = volume->generation};
        if (known->primaries[i] != gw->cfg.node)
            peers_notify(gw->cfg.peers, known->primaries[i], &header);
    }
}

struct group {
    const struct map *map;
    uint64_t number;
    uint32_t gateway; /* of the first one with a session */
    bool several;
};

static void look_at(void *arg, const struct map_volume *volume)
{
    struct group *group = arg;
    const struct map_snap *opening = map_snap_opening(volume);
    assert(group->number != 0);
    if (!opening || opening->group != group->number || !map_session_alive(group->map, volume))
        return;
    if (group->gateway != 0 && group->gateway != volume->session.gateway)
        group->several = true;
    group->gateway = volume->session.gateway;
}

void gateway_snap_changed(struct gateway_volume *volume)
{
    struct gateway *gw = volume->gateway;
    const struct map_volume *v = map_volume_by_id(gw->cfg.map, volume->id);
    const struct map_snap *opening = v ? map_snap_opening(v) : NULL;
    volume->hold_answers = false;
    if (!opening)
        return;
    struct group group = {.map = gw->cfg.map, .number = opening->group};
    map_each_volume(gw->cfg.map, look_at, &group);
    volume->hold_answers = group.several;
    tell_primaries(gw, volume, v);
    gateway_volume_assert(volume);
}

bool gateway_snap_hold(struct gateway_request *request)
{
    struct gateway *gw = request->gateway;
    uint16_t opcode = request->msg->header.opcode;
    assert(request->state == REQUEST_NEW);
    if (!request->volume || !request->volume->hold_answers || request->volume->removed || gw->closing ||
        !request->client->conn || (opcode != WIRE_WRITE && opcode != WIRE_ZERO))
        return false;
    request->state = REQUEST_HELD;
    list_push_back(&gw->held, &request->wait_link);
    gateway_request_assert(request);
    return true;
}

void gateway_snap_release(struct gateway *gw)
{
    assert(!gw->closing);
    list_for_each_safe(pos, tmp, &gw->held)
    {
        struct gateway_request *request = list_entry(pos, struct gateway_request, wait_link);
        assert(request->state == REQUEST_HELD);
        if (request->volume->hold_answers && !request->volume->removed)
            continue;
        list_remove(&request->wait_link);
        request->state = REQUEST_NEW;
        gateway_request_finish(request, 0);
    }
}
