/* SPDX-License-Identifier: Apache-2.0 */
/* store_tool_check: `store check`: the store logic's offline check (server/store/check.h) over the real drive and kv.
 *
 *   - drive (locked) and RocksDB (read-only) are opened as the daemon would; a ring loop of its own runs the check;
 *   - findings are lines, or members of one JSON document; with --digest the chunks' digests are.
 * Failure modes: a store that cannot be opened, or not by us: status 2 and a line in the log; anything damaged, a corrupt
 * RocksDB included: status 1. Only the first FINDINGS_MAX findings are told in full, all are counted.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "common/log.h"
#include "server/daemon/store_tool.h"
#include "server/store/check.h"

#define LOG_MODULE "store"
#define FINDINGS_MAX 1000u
#define CHECK_POOL_BYTES (8u << 20)
#define CHECK_CACHE_BYTES (32u << 20)

struct run {
    const struct store_tool_check *check;
    FILE *out;
    struct ring_loop *loop;
    struct buf_pool *pool;
    struct drive *drive;
    struct kv *kv;
    json_t *findings;
    uint32_t told;
    bool done;
    int rc;
    struct store_check_stats stats;
};

static void print_field(FILE *out, const char *name, uint32_t value)
{
    assert(out && name);
    if (value != STORE_CHECK_NONE)
        (void)fprintf(out, " %s=%" PRIu32, name, value);
}

static void print_finding(FILE *out, const struct store_check_finding *finding)
{
    assert(out && finding->what);
    (void)fprintf(out, "damage: %s", finding->what);
    if (finding->id.volume)
        (void)fprintf(out, " volume=%" PRIu64 " shard=%" PRIu32 " instance=%" PRIu64, finding->id.volume,
                      finding->id.shard, finding->id.instance);
    print_field(out, "chunk", finding->chunk);
    print_field(out, "generation", finding->generation);
    print_field(out, "block", finding->block);
    print_field(out, "unit", finding->unit);
    (void)fputc('\n', out);
}

static void add_field(json_t *object, const char *name, uint32_t value)
{
    assert(object && name);
    if (value != STORE_CHECK_NONE)
        (void)json_object_set_new(object, name, json_integer((json_int_t)value));
}

static json_t *finding_json(const struct store_check_finding *finding)
{
    json_t *object = json_pack("{s:s}", "what", finding->what);
    assert(object);
    if (finding->id.volume) {
        (void)json_object_set_new(object, "volume", json_integer((json_int_t)finding->id.volume));
        (void)json_object_set_new(object, "shard", json_integer((json_int_t)finding->id.shard));
        (void)json_object_set_new(object, "instance", json_integer((json_int_t)finding->id.instance));
    }
    add_field(object, "chunk", finding->chunk);
    add_field(object, "generation", finding->generation);
    add_field(object, "block", finding->block);
    add_field(object, "unit", finding->unit);
    return object;
}

static void found(void *arg, const struct store_check_finding *finding)
{
    struct run *run = arg;
    assert(!run->done);
    if (run->told++ >= FINDINGS_MAX)
        return;
    if (run->check->json)
        (void)json_array_append_new(run->findings, finding_json(finding));
    else
        print_finding(run->check->digest ? stderr : run->out, finding);
}

static void digest(void *arg, const struct store_shard_id *id, uint32_t chunk, uint64_t crc64, uint32_t crc32c)
{
    struct run *run = arg;
    assert(run->check->digest && !run->done);
    (void)fprintf(run->out, "%" PRIu64 " %" PRIu32 " %" PRIu32 " %016" PRIx64 " %08" PRIx32 "\n", id->volume, id->shard,
                  chunk, crc64, crc32c);
}

static void done(void *arg, int rc, const struct store_check_stats *stats)
{
    struct run *run = arg;
    assert(!run->done);
    run->done = true;
    run->rc = rc;
    run->stats = *stats;
}

/* ---- the report */

static void print_summary(const struct run *run, enum store_tool_status status)
{
    const struct store_check_stats *s = &run->stats;
    assert(run->done || status != STORE_TOOL_CLEAN);
    if (status == STORE_TOOL_CANNOT) {
        (void)fprintf(run->out, "%s: not checked: %s\n", run->check->directory, strerror(-run->rc));
        return;
    }
    if (run->told > FINDINGS_MAX)
        (void)fprintf(run->out, "... and %" PRIu32 " more\n", run->told - FINDINGS_MAX);
    (void)fprintf(run->out,
                  "%s: %s: node %" PRIu32 ", last stop %s, %" PRIu64 " shards, %" PRIu64 " maps, %" PRIu64
                  " of %" PRIu64 " units used, %" PRIu64 " blocks compared, %" PRIu64 " damaged, %" PRIu64
                  " suspect, %" PRIu64 " unsettled\n",
                  run->check->directory,
                  status == STORE_TOOL_CLEAN     ? "clean"
                  : status == STORE_TOOL_DAMAGED ? "damaged"
                                                 : "not checked",
                  s->identity.node, s->clean ? "clean" : "unclean", s->shards, s->maps, s->units_referenced,
                  s->units_total, s->blocks_checked, s->damage, s->blocks_suspect, s->blocks_unsettled);
}

static void print_json(struct run *run, enum store_tool_status status)
{
    const struct store_check_stats *s = &run->stats;
    assert(run->findings);
    json_t *root =
        json_pack("{s:s, s:s, s:i, s:I, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O}", "directory",
                  run->check->directory, "status",
                  status == STORE_TOOL_CLEAN     ? "clean"
                  : status == STORE_TOOL_DAMAGED ? "damaged"
                                                 : "not-checked",
                  "error", run->rc, "node", (json_int_t)s->identity.node, "clean_stop", s->clean, "shards",
                  (json_int_t)s->shards, "drops", (json_int_t)s->drops, "marks", (json_int_t)s->marks, "maps",
                  (json_int_t)s->maps, "units_total", (json_int_t)s->units_total, "units_used",
                  (json_int_t)s->units_referenced, "blocks_compared", (json_int_t)s->blocks_checked, "blocks_suspect",
                  (json_int_t)s->blocks_suspect, "blocks_unsettled", (json_int_t)s->blocks_unsettled, "sums_left_over",
                  (json_int_t)s->sums_left_over, "damage", (json_int_t)s->damage, "findings", run->findings);
    assert(root);
    (void)json_dumpf(root, run->out, JSON_INDENT(2));
    (void)fputc('\n', run->out);
    json_decref(root);
}

/* ---- the run */

static int open_edges(struct run *run)
{
    char path[STORE_TOOL_PATH_MAX];
    struct ring_config ring = {.entries = 256, .fixed_files = 4};
    int rc = ring_loop_create(&ring, &run->loop);
    if (rc < 0)
        return rc;
    run->pool = buf_pool_create(CHECK_POOL_BYTES);
    if (!run->pool)
        return -ENOMEM;
    rc = store_tool_drive_path(run->check->directory, path);
    if (rc == 0)
        rc = drive_uring_open(run->loop, run->pool, path, &run->drive);
    if (rc == 0)
        rc = store_tool_kv_path(run->check->directory, path);
    if (rc < 0)
        return rc;
    struct kv_rocksdb_config config = {.path = path, .cache_bytes = CHECK_CACHE_BYTES, .read_only = true};
    rc = kv_rocksdb_open(run->loop, &config, &run->kv);
    assert(rc <= 0);
    return rc;
}

static void close_edges(struct run *run)
{
    kv_close(run->kv);
    drive_close(run->drive);
    if (run->loop)
        ring_loop_destroy(run->loop);
    assert(run->done || run->rc <= 0);
    buf_pool_destroy(run->pool);
}

static int run_check(struct run *run)
{
    struct store_check check = {.drive = run->drive,
                                .kv = run->kv,
                                .pool = run->pool,
                                .found = found,
                                .digest = run->check->digest ? digest : NULL,
                                .done = done,
                                .arg = run};
    int rc = store_check_start(&check);
    while (rc == 0 && !run->done)
        rc = ring_loop_turn(run->loop, -1);
    assert(rc <= 0);
    return rc < 0 ? rc : run->rc;
}

static enum store_tool_status status_of(const struct run *run)
{
    assert(run->rc <= 0);
    if (run->rc == -EUCLEAN || run->rc == -EBADMSG)
        return STORE_TOOL_DAMAGED;
    if (run->rc < 0)
        return STORE_TOOL_CANNOT;
    return run->stats.damage ? STORE_TOOL_DAMAGED : STORE_TOOL_CLEAN;
}

enum store_tool_status store_tool_check(const struct store_tool_check *check, FILE *out)
{
    assert(check && check->directory && out);
    assert(!(check->json && check->digest));
    struct run run = {.check = check, .out = out, .findings = json_array()};
    if (!run.findings)
        return STORE_TOOL_CANNOT;
    int rc = open_edges(&run);
    if (rc == 0)
        rc = run_check(&run);
    close_edges(&run);
    run.rc = rc;
    if (rc < 0)
        log_error("%s: the check did not get through error=\"%s\"", check->directory, strerror(-rc));
    enum store_tool_status status = status_of(&run);
    if (check->json)
        print_json(&run, status);
    else if (!check->digest)
        print_summary(&run, status);
    json_decref(run.findings);
    return status;
}
