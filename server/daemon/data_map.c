/* SPDX-License-Identifier: Apache-2.0 */
/* data_map: the data thread's replica of the cluster map, fed with the very bytes that control applied.
 *
 *   - map_entry, map_snapshot change the map; its observer forwards what changed to gateway and replicas
 *   - once for all entries of a turn: replicas, gateway, peers settle; then control hears `applied` (R3, R19)
 *   - the first time the map shows this registration, store shards that it does not name are dropped: an older map could
 *     not know the newest instances, this one knows all that were before us
 *   - proposals of replicas go to control and come back
 * Failure modes: a snapshot that does not decode, a gap in the versions: our own bug, asserted.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "server/daemon/data_internal.h"

#define LOG_MODULE "daemon"

struct data_proposal {
    struct bridge_propose req;
    struct list_node link;
    struct data_thread *d;
    struct replica_proposal *proposal; /* NULL: replicas are gone */
};

static void settle(struct env_task *task);

/* ---- the observer */

static void node_changed(void *arg, const struct map_node *node)
{
    struct data_thread *d = arg;
    assert(node->id);
    assert(d->map);
    if (d->replicas)
        replicas_node_changed(d->replicas, node);
}

static void volume_changed(void *arg, const struct map_volume *volume)
{
    struct data_thread *d = arg;
    assert(volume->id);
    assert(d->map);
    if (d->replicas)
        replicas_volume_changed(d->replicas, volume);
    if (d->gateway)
        gateway_volume_changed(d->gateway, volume);
}

static void volume_removed(void *arg, uint64_t volume)
{
    struct data_thread *d = arg;
    assert(volume);
    assert(d->map);
    if (d->gateway)
        gateway_volume_removed(d->gateway, volume);
    if (d->replicas)
        replicas_volume_removed(d->replicas, volume);
}

static void shards_cut(void *arg, uint64_t volume, uint32_t first, uint32_t end)
{
    struct data_thread *d = arg;
    assert(volume && first < end);
    if (d->replicas)
        replicas_shards_cut(d->replicas, volume, first, end);
}

static void shard_changed(void *arg, const struct map_volume *volume, const struct map_shard *shard)
{
    struct data_thread *d = arg;
    assert(shard->volume == volume->id);
    assert(shard->index < volume->shard_count);
    if (d->replicas)
        replicas_shard_changed(d->replicas, volume, shard);
    if (d->gateway)
        gateway_shard_changed(d->gateway, volume, shard);
}

static void map_was_reset(void *arg)
{
    struct data_thread *d = arg;
    assert(d->map);
    if (d->replicas)
        replicas_map_reset(d->replicas);
    if (d->gateway)
        gateway_map_reset(d->gateway);
}

/* From registration on: nothing above the map exists before. */
void data_map_observe(struct data_thread *d)
{
    struct map_observer observer = {.node_changed = node_changed,
                                    .volume_changed = volume_changed,
                                    .volume_removed = volume_removed,
                                    .shard_changed = shard_changed,
                                    .shards_cut = shards_cut,
                                    .reset = map_was_reset,
                                    .arg = d};
    assert(d->replicas && d->gateway);
    assert(d->state == DATA_SERVING);
    map_set_observer(d->map, &observer);
    map_was_reset(d);
    d->map_changed = true;
    env_defer(d->env, &d->settle_task, settle);
}

/* ---- settling */

static void sweep_shard(void *arg, const struct store_shard_id *id)
{
    struct data_thread *d = arg;
    const struct map_shard *shard = map_shard_at(d->map, id->volume, id->shard);
    const struct map_member *self = shard ? map_member_of(shard, d->node) : NULL;
    assert(d->swept && d->store);
    assert(d->node);
    if (self && self->instance == id->instance)
        return;
    log_info("dropping a replica that is no member any more volume=%" PRIu64 " shard=%u instance=%" PRIu64, id->volume,
             id->shard, id->instance);
    store_shard_drop(d->store, id);
}

static void sweep_once(struct data_thread *d)
{
    const struct map_node *self = map_node_by_id(d->map, d->node);
    if (d->swept || !self || self->incarnation != d->incarnation)
        return;
    assert(d->incarnation);
    d->swept = true;
    assert(d->store);
    store_shard_each(d->store, sweep_shard, d);
}

void data_settle_now(struct data_thread *d)
{
    assert(d->map);
    if (!d->map_changed || !d->incarnation || d->state != DATA_SERVING)
        return;
    d->map_changed = false;
    sweep_once(d);
    replicas_map_settled(d->replicas);
    gateway_map_settled(d->gateway);
    peers_map_changed(d->peers); /* last: it lets go of frames that waited for this very map (R3) */
    d->control->ops->applied(d->control, map_version(d->map), map_hash(d->map));
}

static void settle(struct env_task *task)
{
    struct data_thread *d = list_entry(task, struct data_thread, settle_task);
    assert(!task->queued);
    assert(d->map);
    data_settle_now(d);
}

static void map_has_changed(struct data_thread *d)
{
    assert(d->state != DATA_ENDED);
    assert(d->env);
    d->map_changed = true;
    env_defer(d->env, &d->settle_task, settle);
}

/* ---- messages of control */

static struct data_thread *of_receiver(struct bridge_to_data *b)
{
    struct data_thread *d = list_entry(b, struct data_thread, receiver);
    assert(b->ops == &data_receiver_ops);
    return d;
}

static void receive_registered(struct bridge_to_data *b, uint64_t cluster_id, uint32_t node, uint64_t incarnation)
{
    struct data_thread *d = of_receiver(b);
    assert(incarnation);
    if (d->state == DATA_STOPPING || d->state == DATA_ENDED)
        return;
    if (!d->incarnation) {
        int rc = data_registered(d, cluster_id, node, incarnation);
        if (rc < 0) {
            d->stop_rc = rc;
            data_stop(d);
        }
        return;
    }
    /* Declared down while alive: all that we hold for the older incarnation is void (R1). Nothing is served from here on;
     * the process starts anew, which leaves nothing behind by construction. */
    log_warn("was declared down while alive, starts anew incarnation=%" PRIu64 " registered_now=%" PRIu64,
             d->incarnation, incarnation);
    data_tell_anew(d);
    data_stop(d);
}

static void receive_snapshot(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len)
{
    struct data_thread *d = of_receiver(b);
    if (d->state == DATA_ENDED)
        return;
    int rc = map_restore(d->map, bytes, len);
    if (rc < 0)
        log_error("the map's snapshot does not restore version=%" PRIu64 " error=\"%s\"", version, strerror(-rc));
    assert(rc == 0); /* control restored the same bytes */
    assert(map_version(d->map) == version);
    map_has_changed(d);
}

static void receive_entry(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len)
{
    struct data_thread *d = of_receiver(b);
    struct map_result result;
    if (d->state == DATA_ENDED)
        return;
    assert(version == map_version(d->map) + 1);
    assert(len <= MAP_ENTRY_BYTES_MAX);
    map_apply(d->map, version, bytes, len, &result);
    assert(map_version(d->map) == version);
    map_has_changed(d);
}

static void receive_lease(struct bridge_to_data *b, uint64_t until_ns, uint64_t map_version)
{
    struct data_thread *d = of_receiver(b);
    assert(d->map);
    if (d->replicas)
        replicas_lease(d->replicas, until_ns, map_version);
}

static void receive_stats_request(struct bridge_to_data *b)
{
    struct data_thread *d = of_receiver(b);
    assert(d->map);
    data_tell_stats(d);
}

static void receive_stop(struct bridge_to_data *b)
{
    struct data_thread *d = of_receiver(b);
    assert(d->map);
    data_stop(d);
}

const struct bridge_to_data_ops data_receiver_ops = {
    .registered = receive_registered,
    .map_snapshot = receive_snapshot,
    .map_entry = receive_entry,
    .lease = receive_lease,
    .stats_request = receive_stats_request,
    .stop = receive_stop,
};

/* ---- proposals of replicas */

static void proposed(struct bridge_propose *req, const struct map_result *result)
{
    struct data_proposal *own = list_entry(req, struct data_proposal, req);
    struct replica_proposal *proposal = own->proposal;
    assert(!proposal || own->d->replicas);
    assert(result && list_linked(&own->link));
    list_remove(&own->link);
    free(own);
    if (proposal)
        proposal->cb(proposal, result);
}

void data_propose(void *arg, const struct map_entry *entry, struct replica_proposal *proposal)
{
    struct data_thread *d = arg;
    assert(proposal && proposal->cb);
    assert(d->state == DATA_SERVING || d->state == DATA_STOPPING);
    int len = map_entry_encode(entry, d->entry_buffer, MAP_ENTRY_BYTES_MAX);
    assert(len > 0);
    struct data_proposal *own = calloc(1, sizeof(*own));
    if (!own)
        abort(); /* a role that can be neither taken nor given up */
    own->d = d;
    own->proposal = proposal;
    own->req.cb = proposed;
    list_push_back(&d->proposals, &own->link);
    d->control->ops->propose(d->control, &own->req, d->entry_buffer, (size_t)len);
}

/* Replicas are gone: their results come to nobody. Once the thread was joined they do not come at all. */
void data_proposals_forget(struct data_thread *d)
{
    assert(!d->replicas);
    assert(d->state != DATA_SERVING);
    list_for_each_safe(pos, tmp, &d->proposals)
    {
        struct data_proposal *own = list_entry(pos, struct data_proposal, link);
        own->proposal = NULL;
        if (!d->started) {
            list_remove(&own->link);
            free(own);
        }
    }
}
