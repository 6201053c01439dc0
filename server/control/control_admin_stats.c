/* SPDX-License-Identifier: Apache-2.0 */
/* control_admin_stats: `stats`: the newest bridge_stats of this very node as JSON; where the time goes (top, metrics).
 *
 * - counters as they are; histograms as count, mean and percentiles in nanoseconds, by operation and, for writes, by stage
 * - what the daemon adds comes through the stats_json hook, under "daemon"
 *
 * Failure: no statistics yet: a sentence.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/control/control_admin.h"

static json_t *histogram_json(const struct histogram *h)
{
    assert(h != NULL);
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "count", (json_int_t)h->count, "mean_ns",
                     (json_int_t)histogram_mean(h), "p50_ns", (json_int_t)histogram_percentile(h, 50), "p95_ns",
                     (json_int_t)histogram_percentile(h, 95), "p99_ns", (json_int_t)histogram_percentile(h, 99),
                     "max_ns", (json_int_t)h->max_ns);
}

static json_t *volume_stats_json(const struct control *c, const struct bridge_volume_stats *v)
{
    assert(c != NULL);
    static const char *const op_names[BRIDGE_OP_COUNT] = {"read", "write", "zero", "flush"};
    static const char *const stage_names[BRIDGE_STAGE_COUNT] = {"total", "gateway", "primary", "network", "drive"};
    const struct map_volume *volume = map_volume_by_id(c->map, v->volume);
    json_t *operations = json_object(), *stages = json_object();
    assert(v->volume != 0);
    for (int i = 0; i < BRIDGE_OP_COUNT; i++) {
        json_t *op = json_pack("{s:I,s:I,s:o}", "count", (json_int_t)v->count[i], "bytes", (json_int_t)v->bytes[i],
                               "latency", histogram_json(&v->latency[i]));
        (void)json_object_set_new(operations, op_names[i], op);
    }
    for (int i = 0; i < BRIDGE_STAGE_COUNT; i++)
        (void)json_object_set_new(stages, stage_names[i], histogram_json(&v->write_stage[i]));
    return json_pack("{s:I,s:s,s:I,s:I,s:o,s:o}", "id", (json_int_t)v->volume, "name", volume ? volume->name : "",
                     "errors", (json_int_t)v->errors, "parked", (json_int_t)v->parked, "operations", operations,
                     "write_stages", stages);
}

static json_t *counters_json(const struct bridge_stats *s)
{
    assert(s != NULL);
    const struct {
        const char *name;
        uint64_t value;
    } counters[] = {
        {"taken_ns", s->taken_ns},
        {"oldest_io_ns", s->oldest_io_ns},
        {"turn_ns_max", s->turn_ns_max},
        {"bytes_total", s->bytes_total},
        {"bytes_allocated", s->bytes_allocated},
        {"bytes_reserved", s->bytes_reserved},
        {"bytes_prewritten", s->bytes_prewritten},
        {"chunks", s->chunks},
        {"marks", s->marks},
        {"suspect_regions", s->suspect_regions},
        {"reads", s->reads},
        {"writes", s->writes},
        {"zeroes", s->zeroes},
        {"flushes", s->flushes},
        {"drive_flushes", s->drive_flushes},
        {"kv_batches", s->kv_batches},
        {"kv_syncs", s->kv_syncs},
        {"bytes_written_guest", s->bytes_written_guest},
        {"bytes_written_drive", s->bytes_written_drive},
        {"blocks_verified", s->blocks_verified},
        {"blocks_adopted", s->blocks_adopted},
        {"blocks_damaged", s->blocks_damaged},
        {"blocks_repaired", s->blocks_repaired},
        {"scrub_passes", s->scrub_passes},
        {"scrub_errors", s->scrub_errors},
        {"records_removed", s->records_removed},
        {"shards_to_reap", s->shards_to_reap},
        {"near_full", s->near_full},
        {"full", s->full},
        {"failed", s->failed},
        {"shards_primary", s->shards_primary},
        {"shards_serving", s->shards_serving},
        {"shards_parked", s->shards_parked},
        {"takeovers", s->takeovers},
        {"resyncs_done", s->resyncs_done},
        {"resync_chunks", s->resync_chunks},
        {"resync_bytes", s->resync_bytes},
        {"seal_pauses", s->seal_pauses},
        {"seal_pause_p99_ns", s->seal_pause_p99_ns},
        {"seal_pause_max_ns", s->seal_pause_max_ns},
        {"peers", s->peers},
        {"clients", s->clients},
    };
    json_t *object = json_object();
    for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++)
        (void)json_object_set_new(object, counters[i].name, json_integer((json_int_t)counters[i].value));
    assert(json_object_size(object) == sizeof counters / sizeof counters[0]);
    return object;
}

static json_t *links_json(const struct bridge_stats *s)
{
    json_t *links = json_array();
    assert(s->links || s->link_count == 0);
    for (uint32_t i = 0; i < s->link_count; i++) {
        const struct bridge_link *link = &s->links[i];
        assert(link->node > 0);
        (void)json_array_append_new(links, json_pack("{s:I,s:b,s:s,s:s,s:s}", "node", (json_int_t)link->node, "up",
                                                     link->up, "transport", link->rdma ? "rdma" : "tcp", "device",
                                                     link->device, "reason", link->reason));
    }
    return links;
}

static json_t *rdma_json(const struct bridge_rdma *r)
{
    assert(r != NULL);
    json_t *object =
        json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "sends", (json_int_t)r->sends, "control_sends",
                  (json_int_t)r->control_sends, "reads", (json_int_t)r->reads, "read_bytes", (json_int_t)r->read_bytes,
                  "offers", (json_int_t)r->offers, "doorbells", (json_int_t)r->doorbells);
    json_t *more = json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "completions", (json_int_t)r->completions, "wakeups",
                             (json_int_t)r->wakeups, "receives", (json_int_t)r->receives, "tx_copied_bytes",
                             (json_int_t)r->tx_copied_bytes, "rx_copied_bytes", (json_int_t)r->rx_copied_bytes,
                             "links_failed", (json_int_t)r->links_failed, "offers_cut", (json_int_t)r->offers_cut);
    assert(object && more);
    (void)json_object_update(object, more);
    json_decref(more);
    return object;
}

json_t *control_report_stats(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX])
{
    assert(c != NULL);
    const struct bridge_stats *s = c->stats;
    (void)request;
    assert(sentence != NULL);
    if (!s) {
        (void)snprintf(sentence, ADMIN_SENTENCE_MAX, "this node has no statistics yet: try again in a second");
        return NULL;
    }
    json_t *volumes = json_array(), *syncs = json_array();
    for (uint32_t i = 0; i < s->volume_count && i < ADMIN_LIST_MAX / 4; i++)
        (void)json_array_append_new(volumes, volume_stats_json(c, &s->volumes[i]));
    for (uint32_t i = 0; i < s->sync_count && i < ADMIN_LIST_MAX; i++)
        (void)json_array_append_new(
            syncs, json_pack("{s:I,s:I,s:I,s:I,s:I}", "volume", (json_int_t)s->syncs[i].volume, "shard",
                             (json_int_t)s->syncs[i].shard, "node", (json_int_t)s->syncs[i].node, "chunks_total",
                             (json_int_t)s->syncs[i].chunks_total, "chunks_done", (json_int_t)s->syncs[i].chunks_done));
    json_t *readers = json_array();
    for (uint32_t i = 0; i < s->reader_count && i < ADMIN_LIST_MAX; i++)
        (void)json_array_append_new(readers, json_pack("{s:I,s:I,s:I}", "volume", (json_int_t)s->readers[i].volume,
                                                       "generation", (json_int_t)s->readers[i].generation, "clients",
                                                       (json_int_t)s->readers[i].clients));
    json_t *answer = json_pack("{s:I,s:o,s:o,s:o,s:o,s:o,s:o}", "node", (json_int_t)c->config.node, "counters",
                               counters_json(s), "volumes", volumes, "syncs", syncs, "links", links_json(s), "rdma",
                               rdma_json(&s->rdma), "readers", readers);
    char *own = c->config.hooks.stats_json ? c->config.hooks.stats_json(c->config.arg, s) : NULL;
    json_t *daemon = own ? json_loads(own, 0, NULL) : NULL;
    if (daemon)
        (void)json_object_set_new(answer, "daemon", daemon);
    free(own);
    return answer;
}
