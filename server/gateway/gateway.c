/* SPDX-License-Identifier: Apache-2.0 */
/* gateway: life of the gateway, and what the map, links and memory tell it.
 *
 * - the map's observer marks volumes as changed; gateway_map_settled wakes what waited for the change (R7)
 * - gateway_wake: a turn later every parked request is routed again, oldest first
 * - the tick closes silent clients and lets paused ones go on
 *
 * Failure: a map that was replaced as a whole (reset) makes every cached route void.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "common/log.h"
#include "server/gateway/gateway_internal.h"

#define LOG_MODULE "gateway"

/* ---- waking */

static void flush_wake_all(struct gateway *gw)
{
    assert(!gw->closing);
    const struct map_u64_slot *slot;
    for (uint32_t at = 0; (slot = map_u64_next(&gw->volumes, &at));) {
        struct gateway_volume *volume = slot->value;
        gateway_volume_assert(volume);
        if (volume->flush_waiting)
            gateway_flush_wake(volume); /* ends nothing at once: the map of volumes stays as it is */
    }
}

static void retry_due(struct env_timer *timer)
{
    gateway_wake(list_entry(timer, struct gateway, retry_timer));
}

void gateway_retry_later(struct gateway *gw)
{
    if (!gw->retry_timer.armed && !gw->closing)
        env_timer_start(gw->env, &gw->retry_timer, GATEWAY_RETRY_NS, retry_due);
}

static void wake_task(struct env_task *task)
{
    struct gateway *gw = list_entry(task, struct gateway, wake_task);
    if (gw->closing) /* it was queued before */
        return;
    struct list_node again;
    list_head_init(&again);
    struct list_node *node;
    while ((node = list_pop_front(&gw->parked)))
        list_push_back(&again, node);
    gw->parked_count = 0;
    uint64_t version = map_version(gw->cfg.map);
    while ((node = list_pop_front(&again))) {
        struct gateway_request *request = list_entry(node, struct gateway_request, wait_link);
        assert(request->state == REQUEST_PARKED);
        if (request->volume)
            request->volume->stats.parked--;
        request->state = REQUEST_NEW;
        if (request->wait_version > version && map_volume_by_id(gw->cfg.map, request->volume_id))
            gateway_request_park(request, request->wait_version);
        else
            gateway_request_route(request);
    }
    while (!list_empty(&gw->starved)) {
        struct gateway_request *request = list_entry(gw->starved.next, struct gateway_request, wait_link);
        assert(request->state == REQUEST_STARVED);
        list_remove(&request->wait_link);
        request->state = REQUEST_NEW;
        gateway_request_route(request);
        if (request->state == REQUEST_STARVED) /* still no memory: it is the last of the list now, keep the order */
            break;
    }
    flush_wake_all(gw);
}

void gateway_wake(struct gateway *gw)
{
    if (gw->closing)
        return;
    env_defer(gw->env, &gw->wake_task, wake_task);
}

static void pool_refilled(struct buf_waiter *waiter)
{
    struct gateway *gw = list_entry(waiter, struct gateway, pool_waiter);
    assert(!gw->closing || list_empty(&gw->starved));
    gateway_wake(gw);
}

void gateway_request_park(struct gateway_request *request, uint64_t wait_version)
{
    struct gateway *gw = request->gateway;
    assert(request->client != NULL); /* requests of other gateways are bounced, never parked here */
    assert(request->state == REQUEST_NEW);
    if (gw->closing) {
        gateway_request_finish(request, -ESHUTDOWN);
        return;
    }
    request->state = REQUEST_PARKED;
    request->wait_version = wait_version;
    list_push_back(&gw->parked, &request->wait_link);
    gateway_request_assert(request);
    gw->parked_count++;
    if (request->volume)
        request->volume->stats.parked++;
    gateway_retry_later(gw);
}

static void tick(struct env_timer *timer)
{
    struct gateway *gw = list_entry(timer, struct gateway, tick_timer);
    assert(!gw->closing);
    uint64_t now_ns = env_now_ns(gw->env);
    list_for_each_safe(pos, tmp, &gw->clients)
        gateway_client_tick(list_entry(pos, struct gateway_client, link), now_ns);
    flush_wake_all(gw);
    env_timer_start(gw->env, &gw->tick_timer, GATEWAY_TICK_NS, tick);
}

/* ---- what the map tells */

static void fence_clients(struct gateway *gw, const struct map_volume *volume)
{
    list_for_each(pos, &gw->clients)
    {
        struct gateway_client *client = list_entry(pos, struct gateway_client, link);
        gateway_client_assert(client);
        if (client->volume && client->volume->id == volume->id && client->session != 0 &&
            client->session < volume->session.number)
            client->fenced = true; /* I6, R19 */
    }
}

void gateway_volume_changed(struct gateway *gateway, const struct map_volume *volume)
{
    struct gateway_volume *known = gateway_volume_find(gateway, volume->id);
    assert(volume->id != 0);
    if (!known || gateway->closing)
        return;
    if (volume->deleting) { /* kept for its clones only */
        gateway_volume_removed(gateway, volume->id);
        return;
    }
    known->change_count++;
    gateway_snap_changed(known);
    if (known->grace_session != 0 && known->grace_session < volume->session.number)
        gateway_volume_grace_end(known);
    fence_clients(gateway, volume);
}

void gateway_volume_removed(struct gateway *gateway, uint64_t volume)
{
    struct gateway_volume *known = map_u64_remove(&gateway->volumes, volume);
    if (!known)
        return;
    assert(!known->removed);
    gateway_volume_assert(known);
    gateway_volume_grace_end(known);
    known->removed = true;
    known->change_count++;
    known->refs++; /* until here it stays */
    if (known->flush_waiting)
        gateway_flush_wake(known);
    gateway_volume_put(known);
}

void gateway_shard_changed(struct gateway *gateway, const struct map_volume *volume, const struct map_shard *shard)
{
    assert(shard->volume == volume->id);
    assert(shard->index < volume->shard_count);
    struct gateway_volume *known = gateway_volume_find(gateway, volume->id);
    if (known)
        known->change_count++;
}

void gateway_map_reset(struct gateway *gateway)
{
    const struct map_u64_slot *slot;
    bool removed = true;
    assert(gateway->cfg.map != NULL);
    while (removed && !gateway->closing) { /* a removal ends the walk: start over */
        removed = false;
        for (uint32_t at = 0; (slot = map_u64_next(&gateway->volumes, &at));) {
            struct gateway_volume *volume = slot->value;
            const struct map_volume *v = map_volume_by_id(gateway->cfg.map, volume->id);
            volume->change_count++;
            if (v) {
                gateway_volume_changed(gateway, v);
                continue;
            }
            gateway_volume_removed(gateway, volume->id);
            removed = true;
            break;
        }
    }
    gateway_map_settled(gateway);
}

void gateway_map_settled(struct gateway *gateway)
{
    if (gateway->closing)
        return;
    gateway_snap_release(gateway);
    gateway_wake(gateway);
}

void gateway_peer_up(struct gateway *gateway, uint32_t node)
{
    assert(node != gateway->cfg.node);
    if (!gateway->closing)
        gateway_wake(gateway);
}

/* ---- create, close */

struct gateway *gateway_create(const struct gateway_config *config)
{
    assert(config->env && config->peers && config->replicas && config->pool && config->map && config->control);
    assert(config->node != 0);
    struct gateway *gw = calloc(1, sizeof(*gw));
    if (!gw)
        return NULL;
    gw->cfg = *config;
    gw->env = config->env;
    if (gw->cfg.inflight_bytes_max == 0)
        gw->cfg.inflight_bytes_max = GATEWAY_INFLIGHT_BYTES_DEFAULT;
    if (gw->cfg.inflight_count_max == 0)
        gw->cfg.inflight_count_max = GATEWAY_INFLIGHT_COUNT_DEFAULT;
    if (gw->cfg.grace_ns == 0)
        gw->cfg.grace_ns = ENV_MS(GATEWAY_GRACE_DEFAULT_MS);
    if (gw->cfg.idle_ns == 0)
        gw->cfg.idle_ns = ENV_MS(GATEWAY_IDLE_DEFAULT_MS);
    struct buf_pool_stats pool;
    buf_pool_stats(config->pool, &pool);
    /* The rest stays free for what the peers send: a full pool on two nodes must not wait for each other. */
    gw->client_bytes_max = pool.limit_bytes / 2;
    gw->pool_waiter.cb = pool_refilled;
    list_head_init(&gw->clients);
    list_head_init(&gw->parked);
    list_head_init(&gw->starved);
    list_head_init(&gw->held);
    list_head_init(&gw->free_requests);
    map_u64_init(&gw->volumes);
    env_timer_start(gw->env, &gw->tick_timer, GATEWAY_TICK_NS, tick);
    return gw;
}

static void close_finish(struct env_task *task)
{
    struct gateway *gw = list_entry(task, struct gateway, close_task);
    assert(gw->closing && gw->flushes_running == 0);
    assert(gw->request_count == 0 && gw->client_bytes == 0);
    assert(list_empty(&gw->parked) && list_empty(&gw->starved) && list_empty(&gw->held) && list_empty(&gw->clients));
    const struct map_u64_slot *slot;
    for (uint32_t at = 0; (slot = map_u64_next(&gw->volumes, &at));)
        gateway_volume_free(slot->value);
    map_u64_close(&gw->volumes);
    struct list_node *node;
    while ((node = list_pop_front(&gw->free_requests)))
        free(list_entry(node, struct gateway_request, wait_link));
    void (*cb)(void *) = gw->close_cb;
    void *arg = gw->close_arg;
    free(gw);
    if (cb)
        cb(arg);
}

void gateway_check_closed(struct gateway *gw)
{
    assert(gw->client_count <= GATEWAY_CLIENTS_MAX);
    if (!gw->closing || gw->request_count > 0 || gw->client_count > 0 || gw->flushes_running > 0)
        return;
    env_defer(gw->env, &gw->close_task, close_finish);
}

void gateway_close(struct gateway *gateway, void (*cb)(void *arg), void *arg)
{
    assert(!gateway->closing);
    gateway->closing = true;
    gateway->close_cb = cb;
    gateway->close_arg = arg;
    env_timer_stop(gateway->env, &gateway->tick_timer);
    env_timer_stop(gateway->env, &gateway->retry_timer);
    const struct map_u64_slot *slot;
    for (uint32_t at = 0; (slot = map_u64_next(&gateway->volumes, &at));) {
        gateway_volume_grace_end(slot->value);
        gateway_flush_abandon(slot->value);
    }
    list_for_each_safe(pos, tmp, &gateway->clients)
    {
        struct gateway_client *client = list_entry(pos, struct gateway_client, link);
        if (client->conn)
            gateway_client_drop(client, "the daemon ends");
        else
            gateway_client_forget_requests(client); /* its link ended earlier */
    }
    while (!list_empty(&gateway->parked)) {
        struct gateway_request *request = list_entry(gateway->parked.next, struct gateway_request, wait_link);
        gateway_request_forget(request);
    }
    while (!list_empty(&gateway->starved))
        gateway_request_forget(list_entry(gateway->starved.next, struct gateway_request, wait_link));
    while (!list_empty(&gateway->held))
        gateway_request_forget(list_entry(gateway->held.next, struct gateway_request, wait_link));
    buf_pool_wait_cancel(gateway->cfg.pool, &gateway->pool_waiter);
    gateway_check_closed(gateway);
}

/* ---- telling */

uint32_t gateway_client_count(const struct gateway *gateway)
{
    assert(gateway->client_count <= GATEWAY_CLIENTS_MAX);
    return gateway->client_count;
}

uint32_t gateway_parked_count(const struct gateway *gateway)
{
    assert(gateway->parked_count <= gateway->request_count);
    return gateway->parked_count;
}

uint32_t gateway_stats(const struct gateway *gateway, struct bridge_volume_stats *ret_stats, uint32_t max)
{
    assert(ret_stats || max == 0);
    uint32_t count = 0;
    const struct map_u64_slot *slot;
    for (uint32_t at = 0; (slot = map_u64_next(&gateway->volumes, &at));) {
        const struct gateway_volume *volume = slot->value;
        if (count < max)
            ret_stats[count] = volume->stats;
        count++;
    }
    return count;
}

uint32_t gateway_readers(const struct gateway *gateway, struct bridge_reader *ret_readers, uint32_t max)
{
    assert(ret_readers && max > 0);
    uint32_t count = 0;
    list_for_each(node, &gateway->clients)
    {
        const struct gateway_client *client = list_entry(node, struct gateway_client, link);
        if (client->generation == 0 || client->detached || !client->conn)
            continue;
        uint32_t at = 0;
        while (at < count &&
               (ret_readers[at].volume != client->volume->id || ret_readers[at].generation != client->generation))
            at++;
        if (at == max)
            continue;
        if (at == count)
            ret_readers[count++] =
                (struct bridge_reader){.volume = client->volume->id, .generation = client->generation};
        ret_readers[at].clients++;
    }
    assert(count <= max);
    return count;
}
