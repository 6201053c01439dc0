/* SPDX-License-Identifier: Apache-2.0 */
/* volume: what the gateway keeps of each volume it serves.
 *
 * - gateway_volume_get: made at the first use, referenced by clients and requests
 * - gateway_volume_scan: the distinct primaries and the loss numbers, read from the map again only when a shard changed,
 *   so that a flush of 4096 shards costs what one of a single shard does
 * - gateway_volume_grace: a client that left without a word may come back; then its session is closed
 *
 * Failure: without memory a scan is tried again later; the flush waits.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "server/gateway/gateway_internal.h"

void gateway_volume_assert(const struct gateway_volume *volume)
{
    assert(volume->gateway != NULL && volume->id != 0);
    assert(!volume->flush_waiting || volume->flush_running);
    assert(volume->parts_busy == 0 || (volume->flush_running && !volume->flush_waiting));
    assert(volume->flush_running || list_empty(&volume->flush_now));
    assert((volume->grace_session != 0) == volume->grace_timer.armed);
    assert(volume->primary_count <= MAP_NODES_MAX);
    assert(volume->loss_count <= CLIENT_LOSS_RUNS_MAX);
}

struct gateway_volume *gateway_volume_find(const struct gateway *gw, uint64_t id)
{
    struct gateway_volume *volume = map_u64_get(&gw->volumes, id);
    assert(!volume || volume->id == id);
    return volume;
}

struct gateway_volume *gateway_volume_get(struct gateway *gw, uint64_t id)
{
    assert(id != 0);
    struct gateway_volume *volume = gateway_volume_find(gw, id);
    if (!volume) {
        volume = calloc(1, sizeof(*volume));
        if (!volume || map_u64_put(&gw->volumes, id, volume) != 0) {
            free(volume);
            return NULL;
        }
        volume->gateway = gw;
        volume->id = id;
        volume->scanned_count = UINT64_MAX;
        volume->stats.volume = id;
        list_head_init(&volume->flush_next);
        list_head_init(&volume->flush_now);
        gateway_snap_changed(volume);
    }
    assert(!volume->removed);
    gateway_volume_assert(volume);
    volume->refs++;
    return volume;
}

void gateway_volume_free(struct gateway_volume *volume)
{
    assert(volume->refs == 0);
    assert(volume->parts_busy == 0 && !volume->flush_task.queued);
    assert(list_empty(&volume->flush_next) && list_empty(&volume->flush_now));
    env_timer_stop(volume->gateway->env, &volume->grace_timer);
    free(volume->losses);
    free(volume->loss_body);
    free(volume->parts);
    free(volume);
}

void gateway_volume_put(struct gateway_volume *volume)
{
    if (!volume)
        return;
    assert(volume->refs > 0);
    if (--volume->refs == 0 && volume->removed)
        gateway_volume_free(volume);
}

/* ---- routes */

static void note_primary(struct gateway_volume *volume, uint32_t node)
{
    for (uint32_t i = 0; i < volume->primary_count; i++) {
        if (volume->primaries[i] == node)
            return;
    }
    assert(volume->primary_count < MAP_NODES_MAX);
    volume->primaries[volume->primary_count++] = node;
}

static void note_loss(struct gateway_volume *volume, uint32_t shard, uint64_t loss)
{
    struct client_loss_run *last = volume->loss_count ? &volume->losses[volume->loss_count - 1] : NULL;
    assert(loss > 0);
    assert(!last || last->first + last->count <= shard);
    if (volume->loss_rest > 0) {
        volume->loss_rest++;
    } else if (last && last->loss == loss && last->first + last->count == shard) {
        last->count++;
    } else if (volume->loss_count == CLIENT_LOSS_RUNS_MAX) {
        volume->loss_rest = 1;
    } else {
        volume->losses[volume->loss_count++] = (struct client_loss_run){shard, 1, loss};
    }
}

static bool encode_losses(struct gateway_volume *volume)
{
    free(volume->loss_body);
    volume->loss_body = NULL;
    if (volume->loss_count == 0)
        return true;
    volume->loss_body = malloc((size_t)volume->loss_count * CLIENT_LOSS_RUN_BYTES);
    if (!volume->loss_body)
        return false;
    size_t bytes = client_loss_encode(volume->losses, volume->loss_count, volume->loss_body);
    assert(bytes == (size_t)volume->loss_count * CLIENT_LOSS_RUN_BYTES);
    return true;
}

bool gateway_volume_scan(struct gateway_volume *volume)
{
    const struct map_volume *v = map_volume_by_id(volume->gateway->cfg.map, volume->id);
    if (!v)
        return false;
    if (volume->scanned_count == volume->change_count)
        return true;
    if (!volume->losses)
        volume->losses = malloc(CLIENT_LOSS_RUNS_MAX * sizeof(*volume->losses));
    if (!volume->losses)
        return false;
    volume->primary_count = volume->loss_count = 0;
    volume->loss_rest = 0;
    volume->routes_ready = true;
    for (uint32_t i = 0; i < v->shard_count; i++) {
        const struct map_shard *shard = &v->shards[i];
        assert(shard->active_epoch <= shard->epoch);
        if (shard->primary == 0 || shard->active_epoch != shard->epoch) /* R12 */
            volume->routes_ready = false;
        else
            note_primary(volume, shard->primary);
        if (shard->loss_number > 0)
            note_loss(volume, i, shard->loss_number);
    }
    if (!encode_losses(volume))
        return false;
    volume->scanned_count = volume->change_count;
    gateway_volume_assert(volume);
    return true;
}

/* ---- the time a client has to come back */

static void grace_over(struct env_timer *timer)
{
    struct gateway_volume *volume = list_entry(timer, struct gateway_volume, grace_timer);
    struct gateway *gw = volume->gateway;
    assert(volume->grace_session != 0);
    uint64_t session = volume->grace_session;
    volume->grace_session = 0;
    const struct map_volume *v = map_volume_by_id(gw->cfg.map, volume->id);
    if (v && v->session.number == session && v->session.open)
        gw->cfg.control->ops->detach(gw->cfg.control, volume->id, session);
}

void gateway_volume_grace(struct gateway_volume *volume, uint64_t session)
{
    struct gateway *gw = volume->gateway;
    assert(session != 0);
    if (volume->removed || gw->closing || session < volume->grace_session)
        return;
    volume->grace_session = session;
    env_timer_start(gw->env, &volume->grace_timer, gw->cfg.grace_ns, grace_over);
    gateway_volume_assert(volume);
}

void gateway_volume_grace_end(struct gateway_volume *volume)
{
    env_timer_stop(volume->gateway->env, &volume->grace_timer);
    volume->grace_session = 0;
    gateway_volume_assert(volume);
}
