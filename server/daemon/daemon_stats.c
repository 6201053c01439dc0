/* SPDX-License-Identifier: Apache-2.0 */
/* daemon_stats: what one daemon tells about itself, as JSON.
 *
 *   - process: pid, version, memory, CPU; store: counters; volumes: counts and latency percentiles by operation and stage
 * Failure modes: out of memory: nothing is told.
 */
#include "server/daemon/daemon_stats.h"

#include <assert.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

static void put(json_t *object, const char *key, uint64_t value)
{
    int rc = json_object_set_new(object, key, json_integer((json_int_t)value));
    assert(object && key);
    (void)rc; /* out of memory: the key is missing */
}

static uint64_t resident_bytes(void)
{
    unsigned long long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file)
        return 0;
    int n = fscanf(file, "%llu %llu", &total, &resident);
    (void)fclose(file);
    assert(resident <= total);
    return n == 2 ? resident * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static json_t *process_json(void)
{
    struct rusage usage;
    json_t *object = json_object();
    int rc = getrusage(RUSAGE_SELF, &usage);
    assert(rc == 0);
    put(object, "pid", (uint64_t)getpid());
    put(object, "resident_bytes", resident_bytes());
    put(object, "cpu_user_us", (uint64_t)usage.ru_utime.tv_sec * 1000000u + (uint64_t)usage.ru_utime.tv_usec);
    put(object, "cpu_system_us", (uint64_t)usage.ru_stime.tv_sec * 1000000u + (uint64_t)usage.ru_stime.tv_usec);
    (void)json_object_set_new(object, "version", json_string(ASHLAR_VERSION));
    return object;
}

static json_t *histogram_json(const struct histogram *h)
{
    json_t *object = json_object();
    assert(h);
    put(object, "count", h->count);
    put(object, "mean_ns", histogram_mean(h));
    put(object, "p50_ns", histogram_percentile(h, 50));
    put(object, "p90_ns", histogram_percentile(h, 90));
    put(object, "p99_ns", histogram_percentile(h, 99));
    put(object, "p999_ns", histogram_percentile(h, 99.9));
    put(object, "max_ns", h->max_ns);
    return object;
}

static json_t *volume_json(const struct bridge_volume_stats *volume)
{
    static const char *const ops[BRIDGE_OP_COUNT] = {"read", "write", "zero", "flush"};
    static const char *const stages[BRIDGE_STAGE_COUNT] = {"total", "gateway", "primary", "network", "drive"};
    json_t *object = json_object();
    json_t *write_stages = json_object();
    assert(volume->volume);
    put(object, "volume", volume->volume);
    put(object, "errors", volume->errors);
    put(object, "parked", volume->parked);
    for (unsigned i = 0; i < BRIDGE_OP_COUNT; i++) {
        json_t *op = histogram_json(&volume->latency[i]);
        put(op, "count", volume->count[i]);
        put(op, "bytes", volume->bytes[i]);
        (void)json_object_set_new(object, ops[i], op);
    }
    for (unsigned i = 0; i < BRIDGE_STAGE_COUNT; i++)
        (void)json_object_set_new(write_stages, stages[i], histogram_json(&volume->write_stage[i]));
    (void)json_object_set_new(object, "write_stages", write_stages);
    return object;
}

static json_t *store_json(const struct bridge_stats *s)
{
    const struct {
        const char *key;
        uint64_t value;
    } counters[] = {
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
    };
    json_t *object = json_object();
    assert(s->bytes_allocated <= s->bytes_total);
    for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
        put(object, counters[i].key, counters[i].value);
    (void)json_object_set_new(object, "near_full", json_boolean(s->near_full));
    (void)json_object_set_new(object, "full", json_boolean(s->full));
    (void)json_object_set_new(object, "failed", json_boolean(s->failed));
    return object;
}

static json_t *replica_json(const struct bridge_stats *s)
{
    json_t *object = json_object();
    assert(s->shards_serving <= s->shards_primary);
    put(object, "shards_primary", s->shards_primary);
    put(object, "shards_serving", s->shards_serving);
    put(object, "shards_parked", s->shards_parked);
    put(object, "takeovers", s->takeovers);
    put(object, "resyncs_done", s->resyncs_done);
    put(object, "resync_bytes", s->resync_bytes);
    put(object, "peers", s->peers);
    put(object, "clients", s->clients);
    put(object, "oldest_io_ns", s->oldest_io_ns);
    put(object, "turn_ns_max", s->turn_ns_max);
    return object;
}

char *daemon_stats_json(const struct bridge_stats *stats)
{
    json_t *object = json_object();
    (void)json_object_set_new(object, "process", process_json());
    if (stats) {
        json_t *volumes = json_array();
        assert(stats->volumes || stats->volume_count == 0);
        (void)json_object_set_new(object, "store", store_json(stats));
        (void)json_object_set_new(object, "replica", replica_json(stats));
        for (uint32_t i = 0; i < stats->volume_count; i++)
            (void)json_array_append_new(volumes, volume_json(&stats->volumes[i]));
        (void)json_object_set_new(object, "volumes", volumes);
    }
    char *text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    return text;
}
