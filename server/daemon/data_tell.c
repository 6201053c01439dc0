/* SPDX-License-Identifier: Apache-2.0 */
/* data_tell: what the data thread tells control about itself.
 *
 *   - each 200 ms: the age of the oldest I/O in flight; a thread that stops telling is taken for hung (R23)
 *   - when asked: counters of store, replicas, gateway
 * Failure modes: out of memory: no counters this time.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "server/daemon/data_internal.h"

static uint64_t oldest_io_ns(const struct data_thread *d)
{
    struct store_stats stats;
    if (!d->store || d->store_failed)
        return 0;
    store_stats(d->store, &stats);
    assert(stats.bytes_allocated <= stats.bytes_total);
    return stats.oldest_io_ns;
}

static void alive(struct env_timer *timer)
{
    struct data_thread *d = list_entry(timer, struct data_thread, alive_timer);
    assert(!timer->armed);
    assert(d->control);
    if (d->state == DATA_ENDED)
        return;
    uint64_t now_ns = env_now_ns(d->env);
    if (now_ns > timer->deadline_ns && now_ns - timer->deadline_ns > d->late_ns_max)
        d->late_ns_max = now_ns - timer->deadline_ns;
    d->control->ops->alive(d->control, oldest_io_ns(d));
    env_timer_start(d->env, &d->alive_timer, DATA_ALIVE_NS, alive);
}

void data_alive_start(struct data_thread *d)
{
    assert(d->control);
    assert(d->state == DATA_OPEN);
    env_timer_start(d->env, &d->alive_timer, DATA_ALIVE_NS, alive);
}

static void take_store_stats(const struct data_thread *d, struct bridge_stats *ret)
{
    struct store_stats stats;
    assert(d->store);
    store_stats(d->store, &stats);
    ret->oldest_io_ns = stats.oldest_io_ns;
    ret->bytes_total = stats.bytes_total;
    ret->bytes_allocated = stats.bytes_allocated;
    ret->bytes_reserved = stats.bytes_reserved;
    ret->bytes_prewritten = stats.bytes_prewritten;
    ret->chunks = stats.chunks;
    ret->marks = stats.marks;
    ret->suspect_regions = stats.suspect_regions;
    ret->reads = stats.reads;
    ret->writes = stats.writes;
    ret->zeroes = stats.zeroes;
    ret->flushes = stats.flushes;
    ret->drive_flushes = stats.drive_flushes;
    ret->kv_batches = stats.kv_batches;
    ret->kv_syncs = stats.kv_syncs;
    ret->bytes_written_guest = stats.bytes_written_guest;
    ret->bytes_written_drive = stats.bytes_written_drive;
    ret->blocks_verified = stats.blocks_verified;
    ret->blocks_adopted = stats.blocks_adopted;
    ret->blocks_damaged = stats.blocks_damaged;
    ret->blocks_repaired = stats.blocks_repaired;
    ret->scrub_passes = stats.scrub_passes;
    ret->scrub_errors = stats.scrub_errors;
    ret->records_removed = stats.records_removed;
    ret->shards_to_reap = stats.shards_to_reap;
    ret->near_full = stats.near_full;
    ret->full = stats.full;
    ret->failed = stats.failed;
}

static void take_syncs(struct data_thread *d, struct bridge_stats *ret)
{
    assert(d->replicas && !ret->syncs);
    struct replica_sync_info *infos = calloc(DATA_SYNCS_TOLD_MAX, sizeof(*infos));
    uint32_t count = infos ? replicas_syncs(d->replicas, infos, DATA_SYNCS_TOLD_MAX) : 0;
    assert(count <= DATA_SYNCS_TOLD_MAX);
    ret->syncs = count ? calloc(count, sizeof(*ret->syncs)) : NULL;
    ret->sync_count = ret->syncs ? count : 0;
    for (uint32_t i = 0; i < ret->sync_count; i++) {
        ret->syncs[i] = (struct bridge_shard_sync){.volume = infos[i].volume,
                                                   .shard = infos[i].shard,
                                                   .node = infos[i].node,
                                                   .chunks_total = infos[i].chunks_total,
                                                   .chunks_done = infos[i].chunks_done};
    }
    free(infos);
}

static void take_replica_stats(struct data_thread *d, struct bridge_stats *ret)
{
    assert(d->replicas);
    const struct replicas_stats *stats = replicas_stats(d->replicas);
    assert(stats->serving <= stats->primaries);
    ret->shards_primary = stats->primaries;
    ret->shards_serving = stats->serving;
    ret->shards_parked = stats->primaries - stats->serving;
    ret->takeovers = stats->takeovers;
    ret->resyncs_done = stats->syncs_completed;
    ret->seal_pauses = stats->seal_pause.count;
    ret->seal_pause_p99_ns = histogram_percentile(&stats->seal_pause, 99);
    ret->seal_pause_max_ns = stats->seal_pause.max_ns;
    ret->resync_chunks = stats->sync_chunks;
    ret->resync_bytes = stats->sync_bytes;
    take_syncs(d, ret);
}

static void take_gateway_stats(const struct data_thread *d, struct bridge_stats *ret)
{
    assert(d->gateway && !ret->volumes);
    uint32_t count = gateway_stats(d->gateway, NULL, 0);
    if (count > DATA_VOLUMES_TOLD_MAX)
        count = DATA_VOLUMES_TOLD_MAX;
    ret->volumes = count ? calloc(count, sizeof(*ret->volumes)) : NULL;
    ret->volume_count = ret->volumes ? count : 0;
    if (ret->volumes)
        (void)gateway_stats(d->gateway, ret->volumes, count);
    ret->readers = calloc(DATA_READERS_TOLD_MAX, sizeof(*ret->readers));
    ret->reader_count = ret->readers ? gateway_readers(d->gateway, ret->readers, DATA_READERS_TOLD_MAX) : 0;
    ret->clients = gateway_client_count(d->gateway);
    assert(ret->volumes || ret->volume_count == 0);
}

struct peer_count {
    const struct data_thread *d;
    uint32_t count;
};

static void count_peer(void *arg, const struct map_node *node)
{
    struct peer_count *count = arg;
    assert(count->d->peers);
    if (node->id != count->d->node && peers_is_up(count->d->peers, node->id))
        count->count++;
}

static void release(struct bridge_stats *self)
{
    assert(self);
    free(self->volumes);
    free(self->readers);
    free(self->syncs);
    free(self->links);
    free(self);
}

void data_tell_stats(struct data_thread *d)
{
    struct bridge_stats *stats = calloc(1, sizeof(*stats));
    if (!stats)
        return;
    assert(d->state != DATA_OPENING || !d->store);
    stats->release = release;
    stats->taken_ns = env_now_ns(d->env);
    stats->turn_ns_max = d->late_ns_max;
    d->late_ns_max = 0;
    if (d->store)
        take_store_stats(d, stats);
    if (d->state == DATA_SERVING) {
        struct peer_count peers = {.d = d};
        take_replica_stats(d, stats);
        take_gateway_stats(d, stats);
        map_each_node(d->map, count_peer, &peers);
        stats->peers = peers.count;
        data_rdma_tell(d, stats);
    }
    d->control->ops->stats(d->control, stats);
}
