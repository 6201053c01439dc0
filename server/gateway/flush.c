/* SPDX-License-Identifier: Apache-2.0 */
/* flush: makes every acknowledged write of a volume durable, whichever primaries took them (I2, R13).
 *
 * - gateway_flush_submit: joins the volume's next round; one round runs, those that come meanwhile share the following one
 * - round_start: notes the routes (the volume's change count stands for every shard's epoch and primary) and asks each distinct
 *   primary once: this node's by replicas_submit, others by WIRE_FLUSH
 * - round_judge: waits until the own map is as new as the answers, and answers only if no shard's route changed since the
 *   beginning; else the round is repeated: a flush is never judged by the set it started with
 *
 *   IDLE --submit--> RUNNING --all answered--> judged --unchanged--> answered
 *                     ^  |                        |
 *                     |  +--no primary, link down-+--changed, bounced--> WAITING --gateway_flush_wake--> RUNNING
 *
 * Failure: waits for the map as requests do. A drive flush that failed fails its store, never this flush, unless no other
 * member can take over.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "server/gateway/gateway_internal.h"

static void round_start(struct gateway_volume *volume);

static void job_wait(struct gateway_volume *volume, uint64_t version)
{
    assert(volume->flush_running);
    assert(volume->parts_busy == 0);
    volume->flush_waiting = true;
    volume->flush_wait_version = version;
    gateway_retry_later(volume->gateway);
}

/* Answers the round's requests; the next round begins if others came meanwhile. */
static void job_end(struct gateway_volume *volume, int rc)
{
    struct list_node *node;
    assert(volume->parts_busy == 0);
    volume->flush_waiting = false;
    volume->flush_eio_tries = 0;
    while ((node = list_pop_front(&volume->flush_now))) {
        struct gateway_request *request = list_entry(node, struct gateway_request, wait_link);
        assert(request->state == REQUEST_FLUSHING);
        request->state = REQUEST_NEW;
        gateway_request_finish(request, rc);
    }
    if (!list_empty(&volume->flush_next) && !volume->gateway->closing) {
        round_start(volume);
        return;
    }
    volume->flush_running = false;
    struct gateway *gw = volume->gateway;
    assert(gw->flushes_running > 0);
    gw->flushes_running--;
    gateway_volume_put(volume);
    gateway_check_closed(gw);
}

/* R13: any shard whose epoch or primary moved since the round began makes it void. */
static void round_compare(struct gateway_volume *volume)
{
    assert(volume->flush_running);
    assert(volume->parts_busy == 0);
    if (volume->removed)
        job_end(volume, -ENOENT);
    else if (volume->change_count == volume->flush_change_count)
        job_end(volume, 0);
    else
        round_start(volume);
}

static void round_judge(struct gateway_volume *volume)
{
    uint64_t version = 0;
    bool held = true, eio = false;
    assert(volume->parts_busy == 0);
    gateway_volume_assert(volume);
    for (uint32_t i = 0; i < volume->part_count; i++) {
        const struct gateway_flush_part *part = &volume->parts[i];
        held = held && part->rc == 0;
        eio = eio || part->rc == -EIO;
        if (part->version > version)
            version = part->version;
    }
    if (volume->gateway->closing)
        job_end(volume, -ESHUTDOWN);
    else if (volume->removed)
        job_end(volume, -ENOENT);
    else if (eio && ++volume->flush_eio_tries > GATEWAY_EIO_TRIES_MAX)
        job_end(volume, -EIO);
    else if (!held) {
        volume->flush_change_count = UINT64_MAX; /* never equal: a new round */
        job_wait(volume, version);
    } else if (map_version(volume->gateway->cfg.map) < version)
        job_wait(volume, version); /* an answer knows more than this map: compare when it has caught up */
    else
        round_compare(volume);
}

static void part_done(struct gateway_flush_part *part, int rc, uint64_t version)
{
    struct gateway_volume *volume = part->volume;
    assert(part->busy);
    assert(volume->parts_busy > 0);
    part->busy = false;
    part->rc = rc;
    part->version = version;
    if (--volume->parts_busy == 0)
        round_judge(volume);
}

static void part_op_done(struct replica_op *op, int rc)
{
    assert(op->opcode == WIRE_FLUSH);
    part_done(op->owner, rc, /* version= */ 0);
}

static void part_peer_done(struct peer_request *peer, int rc)
{
    uint64_t version = peer->reply ? peer->reply->header.map_version : 0;
    assert(rc != 0 || peer->reply != NULL);
    part_done(peer->owner, rc > 0 ? -EAGAIN : rc, version);
}

static void part_send(struct gateway_volume *volume, struct gateway_flush_part *part, uint32_t node)
{
    struct gateway *gw = volume->gateway;
    assert(node != 0);
    *part = (struct gateway_flush_part){.node = node, .busy = true, .volume = volume};
    volume->parts_busy++;
    if (node == gw->cfg.node) {
        part->op = (struct replica_op){.opcode = WIRE_FLUSH, .volume = volume->id, .cb = part_op_done, .owner = part};
        replicas_submit(gw->cfg.replicas, &part->op);
        return;
    }
    struct wire_header header = {.opcode = WIRE_FLUSH, .volume = volume->id};
    part->peer = (struct peer_request){.cb = part_peer_done, .owner = part};
    peers_request(gw->cfg.peers, node, &header, /* body= */ NULL, /* payload= */ NULL, 0, &part->peer);
}

static bool primaries_reachable(const struct gateway_volume *volume)
{
    const struct gateway *gw = volume->gateway;
    assert(volume->primary_count <= MAP_NODES_MAX);
    for (uint32_t i = 0; i < volume->primary_count; i++) {
        if (volume->primaries[i] != gw->cfg.node && !peers_is_up(gw->cfg.peers, volume->primaries[i]))
            return false;
    }
    return true;
}

static bool parts_reserve(struct gateway_volume *volume, uint32_t count)
{
    assert(volume->parts_busy == 0);
    if (volume->parts && volume->part_count >= count) {
        volume->part_count = count;
        return true;
    }
    free(volume->parts);
    volume->part_count = 0;
    volume->parts = calloc(count ? count : 1, sizeof(*volume->parts));
    if (volume->parts)
        volume->part_count = count;
    return volume->parts != NULL;
}

static void round_start(struct gateway_volume *volume)
{
    struct list_node *node;
    assert(volume->flush_running);
    assert(volume->parts_busy == 0);
    volume->flush_waiting = false;
    while ((node = list_pop_front(&volume->flush_next))) /* they may join: nothing is sent yet */
        list_push_back(&volume->flush_now, node);
    if (volume->removed || volume->gateway->closing) {
        job_end(volume, volume->removed ? -ENOENT : -ESHUTDOWN);
        return;
    }
    if (list_empty(&volume->flush_now)) { /* their clients are gone */
        job_end(volume, 0);
        return;
    }
    volume->flush_change_count = UINT64_MAX;
    if (!gateway_volume_scan(volume) || !volume->routes_ready || !primaries_reachable(volume) ||
        !parts_reserve(volume, volume->primary_count)) {
        volume->part_count = 0;
        job_wait(volume, /* version= */ 0);
        return;
    }
    volume->flush_change_count = volume->change_count;
    volume->parts_busy = 1; /* this function's: a part never ends it meanwhile */
    for (uint32_t i = 0; i < volume->primary_count; i++)
        part_send(volume, &volume->parts[i], volume->primaries[i]);
    if (--volume->parts_busy == 0)
        round_judge(volume);
}

void gateway_flush_wake(struct gateway_volume *volume)
{
    assert(volume->flush_waiting);
    gateway_volume_assert(volume);
    if (volume->removed) {
        job_end(volume, -ENOENT);
        return;
    }
    if (map_version(volume->gateway->cfg.map) < volume->flush_wait_version) {
        gateway_retry_later(volume->gateway);
        return;
    }
    volume->flush_waiting = false;
    round_compare(volume);
}

static void flush_task(struct env_task *task)
{
    struct gateway_volume *volume = list_entry(task, struct gateway_volume, flush_task);
    assert(volume->flush_running);
    round_start(volume);
}

void gateway_flush_submit(struct gateway_request *request)
{
    struct gateway_volume *volume = request->volume;
    assert(request->state == REQUEST_NEW);
    request->state = REQUEST_FLUSHING;
    list_push_back(&volume->flush_next, &request->wait_link);
    if (volume->flush_running)
        return;
    volume->flush_running = true;
    volume->gateway->flushes_running++;
    volume->refs++; /* job_end's */
    gateway_volume_assert(volume);
    gateway_request_assert(request);
    env_defer(volume->gateway->env, &volume->flush_task, flush_task);
}

void gateway_flush_abandon(struct gateway_volume *volume)
{
    struct gateway *gw = volume->gateway;
    assert(gw->closing);
    for (uint32_t i = 0; i < volume->part_count; i++) {
        struct gateway_flush_part *part = &volume->parts[i];
        if (!part->busy || part->node == gw->cfg.node)
            continue;
        peers_abandon(gw->cfg.peers, &part->peer);
        part->busy = false;
        volume->parts_busy--;
    }
    if (volume->flush_running && volume->parts_busy == 0 && !volume->flush_task.queued)
        job_end(volume, -ESHUTDOWN);
}
