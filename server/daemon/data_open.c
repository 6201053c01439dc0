/* SPDX-License-Identifier: Apache-2.0 */
/* data_open: the data thread opens its store and follows what becomes of it.
 *
 *   - drive (with its lock, R1), RocksDB, store_open; `opened` compares the identity with the configuration
 *   - from then on: damage and failure are told to replicas and control
 * Failure modes: every one is one line that says what to do, and `opened` with -errno. A drive that is locked is tried
 * again for a while only when this process took its own place by exec: what it had in flight holds the lock till it ends.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "server/daemon/data_internal.h"
#include "server/daemon/store_tool.h"

#define LOG_MODULE "store"
#define BUSY_RETRY_NS ENV_MS(50)

static void store_opened(void *arg, int rc);

/* ---- callbacks of the store */

static void store_failed(void *arg, int rc)
{
    struct data_thread *d = arg;
    assert(rc < 0 && !d->store_failed);
    assert(d->store);
    d->store_failed = true;
    log_error("the store failed: this node gives its replicas up error=\"%s\"", strerror(-rc));
    if (d->replicas)
        replicas_store_failed(d->replicas);
    if (d->state == DATA_SERVING || d->state == DATA_OPEN)
        d->control->ops->store_failed(d->control, rc);
}

static void store_damaged(void *arg, struct store_shard *shard, uint64_t offset)
{
    struct data_thread *d = arg;
    struct store_shard_id id = store_shard_identity(shard);
    assert(offset % STORE_BLOCK_BYTES == 0);
    assert(shard && d->store);
    uint32_t held_back = 0;
    if (log_allow(&d->damage_limiter, env_now_ns(d->env), &held_back))
        log_warn("a block is unreadable or has a wrong checksum volume=%" PRIu64 " shard=%u offset=%" PRIu64
                 " lines_held_back=%u",
                 id.volume, id.shard, offset, held_back);
    if (d->replicas)
        replicas_store_damaged(d->replicas, shard, offset);
}

static void store_space_changed(void *arg)
{
    struct data_thread *d = arg;
    struct store_stats stats;
    assert(d->store);
    store_stats(d->store, &stats);
    log_warn("space allocated=%" PRIu64 " of=%" PRIu64 " state=%s", stats.bytes_allocated, stats.bytes_total,
             stats.full        ? "full"
             : stats.near_full ? "near-full"
                               : "enough");
    data_tell_stats(d);
}

/* ---- opening */

static int read_boot_id(char ret_id[40])
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, ret_id, 39);
    int rc = n < 0 ? -errno : n == 0 ? -ENODATA : 0;
    (void)close(fd);
    if (rc < 0)
        return rc;
    assert(n <= 39);
    ret_id[n] = '\0';
    ret_id[strcspn(ret_id, "\n")] = '\0';
    return 0;
}

static int open_drive(struct data_thread *d)
{
    assert(!d->drive && d->pool);
    char path[STORE_TOOL_PATH_MAX];
    const char *directory = d->config.settings->store;
    int rc = store_tool_drive_path(directory, path);
    if (rc < 0)
        return rc;
    uint64_t deadline_ns = env_now_ns(d->env) + ENV_MS(d->config.busy_wait_ms);
    rc = drive_uring_open(d->loop, d->pool, path, &d->drive);
    while (rc == -EBUSY && env_now_ns(d->env) < deadline_ns) {
        (void)ring_loop_turn(d->loop, BUSY_RETRY_NS);
        rc = drive_uring_open(d->loop, d->pool, path, &d->drive);
    }
    assert(rc <= 0);
    if (rc == -EBUSY)
        log_error("store %s: another ashlard runs on it; stop that one first", directory);
    else if (rc == -ENOENT)
        log_error("store %s: there is none; make it with: ashlard store format %s --size SIZE --node %u --cluster %s",
                  directory, directory, d->config.settings->node, d->config.settings->cluster_name);
    else if (rc < 0)
        log_error("store %s: cannot open its drive %s error=\"%s\"", directory, path, strerror(-rc));
    return rc;
}

static int open_kv(struct data_thread *d)
{
    assert(!d->kv && d->drive);
    char path[STORE_TOOL_PATH_MAX];
    const struct settings *settings = d->config.settings;
    int rc = store_tool_kv_path(settings->store, path);
    if (rc < 0)
        return rc;
    struct kv_rocksdb_config config = {.path = path, .cache_bytes = settings->kv_cache_bytes};
    rc = kv_rocksdb_open(d->loop, &config, &d->kv);
    assert(rc <= 0);
    if (rc < 0)
        log_error("store %s: cannot open its RocksDB error=\"%s\"", settings->store, strerror(-rc));
    return rc;
}

static int open_store(struct data_thread *d)
{
    assert(d->drive && d->kv);
    const struct settings *settings = d->config.settings;
    struct store_config config = {
        .env = d->env,
        .drive = d->drive,
        .kv = d->kv,
        .pool = d->pool,
        .callbacks = {.opened = store_opened,
                      .failed = store_failed,
                      .damaged = store_damaged,
                      .space_changed = store_space_changed},
        .arg = d,
        .sums_cache_bytes = settings->sums_cache_bytes,
        .active_set_max = settings->active_set_max,
        .scrub_bytes_per_s = settings->scrub_bytes_per_s,
        .scrub_rest_ns = ENV_MS(settings->scrub_rest_ms),
        .near_full_percent = settings->near_full_percent,
        .prewrite_bytes_per_s = settings->prewrite_bytes_per_s,
        .flush_ahead_bytes = settings->flush_ahead_bytes,
        .flush_ahead_span_ns = ENV_MS(settings->flush_ahead_span_ms),
    };
    int rc = read_boot_id(config.boot_id);
    if (rc < 0) {
        log_error("cannot read the boot id of this kernel error=\"%s\"", strerror(-rc));
        return rc;
    }
    d->opened.capacity_bytes = d->drive->bytes;
    rc = store_open(&config, &d->store);
    assert(rc <= 0);
    if (rc < 0) {
        log_error("store %s: cannot open error=\"%s\"", settings->store, strerror(-rc));
        return rc;
    }
    d->store_opening = true;
    d->drive = NULL; /* the store's */
    d->kv = NULL;
    return 0;
}

static int check_identity(const struct data_thread *d)
{
    const struct settings *settings = d->config.settings;
    const struct store_identity *identity = &d->opened.identity;
    assert(settings->cluster_id);
    assert(d->store);
    if (identity->cluster_id != settings->cluster_id) {
        log_error("store %s belongs to another cluster than '%s'; correct cluster.name or store.path", settings->store,
                  settings->cluster_name);
        return -EXDEV;
    }
    if (identity->node != settings->node) {
        log_error("store %s is node %u's, the configuration says node %u; correct node.id or store.path",
                  settings->store, identity->node, settings->node);
        return -EXDEV;
    }
    return 0;
}

static void note_shard(void *arg, const struct store_shard_id *id)
{
    struct data_thread *d = arg;
    assert(d->state == DATA_OPENING);
    assert(id);
    d->opened.empty = false;
}

static void failed_opening(struct data_thread *d, int rc)
{
    assert(d->state == DATA_OPENING);
    assert(rc < 0);
    drive_close(d->drive);
    kv_close(d->kv);
    d->drive = NULL;
    d->kv = NULL;
    data_tell_opened(d, rc);
    d->stop_rc = rc;
    data_stop(d);
}

static void store_opened(void *arg, int rc)
{
    struct data_thread *d = arg;
    assert(rc <= 0);
    assert(d->state == DATA_OPENING && d->store_opening);
    d->store_opening = false;
    if (rc == -ENODATA) {
        log_error(
            "store %s: its drive is smaller than when it was formatted; replace it, format, and the other nodes fill it",
            d->config.settings->store);
    } else if (rc < 0) {
        log_error("store %s: cannot read it error=\"%s\"", d->config.settings->store, strerror(-rc));
    } else {
        d->opened.identity = *store_identity(d->store);
        d->opened.stop = store_last_stop(d->store);
        d->opened.empty = true;
        store_shard_each(d->store, note_shard, d);
        rc = check_identity(d);
    }
    if (rc < 0) {
        failed_opening(d, rc);
        return;
    }
    d->state = DATA_OPEN;
    log_info("store %s is open bytes=%" PRIu64 " last_stop=%s", d->config.settings->store, d->opened.capacity_bytes,
             d->opened.stop == STORE_STOP_CLEAN       ? "clean"
             : d->opened.stop == STORE_STOP_SAME_BOOT ? "process-died"
                                                      : "rebooted");
    data_alive_start(d);
    data_tell_opened(d, 0);
    if (d->stop_wanted)
        data_stop(d);
}

void data_open(struct data_thread *d)
{
    assert(!d->store);
    assert(d->state == DATA_OPENING);
    int rc = open_drive(d);
    if (rc == 0)
        rc = open_kv(d);
    if (rc == 0)
        rc = open_store(d);
    if (rc < 0)
        failed_opening(d, rc);
}
