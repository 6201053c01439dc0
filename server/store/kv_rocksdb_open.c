/* SPDX-License-Identifier: Apache-2.0 */
/* kv_rocksdb_open: opens the database directory: lock, options, recovery.
 *
 *   - the directory is locked (flock) for as long as it is open, read-only opens included: `store check` never reads
 *     under a running daemon;
 *   - DIR/boot_id tells whether the last writer died within this boot, which decides how the WAL is read;
 *   - options keep a daemon's RocksDB under 80 MB (usually a few) and its background work out of the guests' way.
 *
 * How the WAL is recovered. Unsynced records may be torn; synced ones must all come back, or it is an error.
 *   Same boot: only the process died, the kernel kept every byte that was written. Nothing but an incomplete last
 *     record can be missing: kTolerateCorruptedTailRecords takes that for the end and anything else for corruption.
 *   Rebooted: the unsynced tail may have holes, because pages reach the drive in any order. What follows a hole must not
 *     be applied without what the hole held: kPointInTimeRecovery stops at the first bad record. (The other mode would
 *     skip a hole of zeros.) Its price: rot inside the synced part of the last WAL reads as its end. It is
 *     logged by RocksDB (DIR/LOG) and found by the store's own checks, not here.
 *   kAbsoluteConsistency would refuse to start after almost every power loss.
 *
 * Failure modes: locked: -EBUSY; corrupt: -EUCLEAN; not formatted: -ENOENT; create over an existing one: -EEXIST.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/log.h"
#include "server/store/kv_rocksdb_db.h"

#define LOG_MODULE "kv"
/* Small: records of new generations never overwrite each other, so a chain of snapshots fills whatever is given here. Many: what
 * waits for a drive that is behind has room. The numbers of level 0 are the usual amount of bytes in tables of this size. */
#define WRITE_BUFFER_BYTES (3u << 20)
#define WRITE_BUFFERS 16 /* in memory at most; two or three unless the drive is behind */
#define LEVEL0_COMPACT 12
#define LEVEL0_SLOWDOWN 100
#define LEVEL0_STOP 150
#define BACKGROUND_IO_BYTES (256u << 10) /* of one read or write of flush and compaction: a buffer for each table */
#define LOG_SYNC_BYTES (64u << 10)       /* of the log, handed to the drive at once: a sync finds little to do */
#define RATE_BYTES_PER_S (64 << 20)
#define SPACE_BYTES_MIN ((uint64_t)32 << 20) /* free, to open: what recovery writes as tables, and a new log */
#define CACHE_BYTES_MIN (4u << 20)
#define OPEN_FILES_MAX 256
#define BOOT_ID_MAX 64
enum { WAL_TOLERATE_TAIL = 0, WAL_POINT_IN_TIME = 2 }; /* rocksdb::WALRecoveryMode */
enum { INFO_LOG_WARN = 2 };                            /* rocksdb::InfoLogLevel */

static int lock_directory(struct kv_db *self, const char *path)
{
    int rc, fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        rc = -errno;
        log_error("cannot open %s error=\"%s\"", path, strerror(-rc));
        return rc;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
        assert(rc < 0);
        if (rc == -EBUSY)
            log_error("%s is locked: another daemon uses this store", path);
        else
            log_error("cannot lock %s error=\"%s\"", path, strerror(-rc));
        (void)close(fd);
        return rc;
    }
    assert(fd > 0);
    self->lock_fd = fd;
    return 0;
}

/* RocksDB ends the process, by an assertion, where it finds no space while it opens. */
static int check_space(const struct kv_db *self, const char *path)
{
    struct statvfs fs;
    assert(self->lock_fd > 0);
    if (fstatvfs(self->lock_fd, &fs) < 0)
        return -errno;
    uint64_t bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (bytes >= SPACE_BYTES_MIN)
        return 0;
    log_error("%s: the file system has %" PRIu64 " MiB free, %" PRIu64 " are needed to start: make room error=\"%s\"",
              path, bytes >> 20, SPACE_BYTES_MIN >> 20, strerror(ENOSPC));
    return -ENOSPC;
}

static bool read_boot_id(int dir_fd, const char *path, char ret_id[BOOT_ID_MAX])
{
    assert(path && ret_id);
    int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, ret_id, BOOT_ID_MAX - 1);
    (void)close(fd);
    if (n <= 0)
        return false;
    assert(n < BOOT_ID_MAX);
    ret_id[n] = '\0';
    return true;
}

/* Replaced whole, so never half there. */
static int write_boot_id(int dir_fd, const char *id)
{
    size_t length = strlen(id);
    int rc = 0, fd = openat(dir_fd, "boot_id.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    assert(length > 0);
    if (write(fd, id, length) != (ssize_t)length || fsync(fd) < 0)
        rc = errno ? -errno : -EIO;
    (void)close(fd);
    if (rc == 0 && renameat(dir_fd, "boot_id.new", dir_fd, "boot_id") < 0)
        rc = -errno;
    if (rc == 0 && fsync(dir_fd) < 0)
        rc = -errno;
    return rc;
}

/* Whether the last writer lived in this boot of the kernel. */
static bool is_same_boot(const struct kv_db *self)
{
    char now[BOOT_ID_MAX], last[BOOT_ID_MAX];
    assert(self->lock_fd > 0);
    return read_boot_id(AT_FDCWD, "/proc/sys/kernel/random/boot_id", now) &&
           read_boot_id(self->lock_fd, "boot_id", last) && strcmp(now, last) == 0;
}

/* After the open, which turned every recovered WAL into tables, and before the first write of this boot. */
static int record_boot(const struct kv_db *self)
{
    char now[BOOT_ID_MAX];
    assert(!self->read_only);
    if (!read_boot_id(AT_FDCWD, "/proc/sys/kernel/random/boot_id", now))
        return 0; /* unknown: the next open takes the last writer for one of an earlier boot */
    int rc = write_boot_id(self->lock_fd, now);
    if (rc < 0)
        log_error("cannot write boot_id error=\"%s\"", strerror(-rc));
    return rc;
}

static rocksdb_block_based_table_options_t *table_options(struct kv_db *self, uint64_t cache_bytes)
{
    rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();
    assert(table && !self->cache);
    self->cache = rocksdb_cache_create_lru(cache_bytes < CACHE_BYTES_MIN ? CACHE_BYTES_MIN : cache_bytes);
    rocksdb_block_based_options_set_block_cache(table, self->cache);
    rocksdb_block_based_options_set_block_size(table, 4096); /* a sums record is 1 KiB, gets are random */
    rocksdb_block_based_options_set_format_version(table, 5);
    rocksdb_block_based_options_set_filter_policy(table, rocksdb_filterpolicy_create_bloom_full(10));
    /* Inside the cache, so that the cache's size is the bound; high priority and pinned, so that they stay. */
    rocksdb_block_based_options_set_cache_index_and_filter_blocks(table, 1);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks_with_high_priority(table, 1);
    rocksdb_block_based_options_set_pin_l0_filter_and_index_blocks_in_cache(table, 1);
    rocksdb_block_based_options_set_pin_top_level_index_and_filter(table, 1);
    return table;
}

static rocksdb_options_t *options_create(struct kv_db *self, const struct kv_rocksdb_config *config, int wal_mode)
{
    rocksdb_options_t *options = rocksdb_options_create();
    assert(options);
    assert(wal_mode == WAL_TOLERATE_TAIL || wal_mode == WAL_POINT_IN_TIME);
    rocksdb_options_set_create_if_missing(options, config->create);
    rocksdb_options_set_error_if_exists(options, config->create);
    rocksdb_options_set_paranoid_checks(options, 1);
    rocksdb_options_set_wal_recovery_mode(options, wal_mode);

    rocksdb_options_set_write_buffer_size(options, WRITE_BUFFER_BYTES);
    rocksdb_options_set_max_write_buffer_number(options, WRITE_BUFFERS);
    rocksdb_options_set_level0_file_num_compaction_trigger(options, LEVEL0_COMPACT);
    rocksdb_options_set_level0_slowdown_writes_trigger(options, LEVEL0_SLOWDOWN);
    rocksdb_options_set_level0_stop_writes_trigger(options, LEVEL0_STOP);
    rocksdb_options_compaction_readahead_size(options, BACKGROUND_IO_BYTES);
    rocksdb_options_set_writable_file_max_buffer_size(options, BACKGROUND_IO_BYTES);
    rocksdb_options_set_max_open_files(options, OPEN_FILES_MAX);
    /* One writer: nothing to gain from the machinery for many. */
    rocksdb_options_set_allow_concurrent_memtable_write(options, 0);
    rocksdb_options_set_enable_write_thread_adaptive_yield(options, 0);
    /* The same records are put again and again. Overwritten in the memtable they stay in the processor's caches; as new
     * versions they filled it every 16 MiB of puts, and half the time of a put went into finding its place there. What
     * that forbids is not used here: RocksDB's snapshots, and an iterator that lives while something is written. The log
     * does not end with the memtable then: kv_db_group_write ends it. */
    rocksdb_options_set_inplace_update_support(options, 1);

    rocksdb_options_set_compression(options, rocksdb_no_compression); /* checksums and pointers do not compress */
    rocksdb_options_set_level_compaction_dynamic_level_bytes(options, 1);
    rocksdb_options_set_target_file_size_base(options, 32u << 20);
    rocksdb_options_set_max_bytes_for_level_base(options, 128u << 20);
    rocksdb_options_set_max_background_jobs(options, 2); /* one flush, one compaction */
    rocksdb_options_set_bytes_per_sync(options, 1u << 20);
    rocksdb_options_set_wal_bytes_per_sync(options, LOG_SYNC_BYTES);
    rocksdb_ratelimiter_t *limiter = rocksdb_ratelimiter_create(RATE_BYTES_PER_S, 100 * 1000, 10);
    rocksdb_options_set_ratelimiter(options, limiter);
    rocksdb_ratelimiter_destroy(limiter);

    rocksdb_options_set_info_log_level(options, INFO_LOG_WARN);
    rocksdb_options_set_max_log_file_size(options, 1u << 20);
    rocksdb_options_set_keep_log_file_num(options, 4);
    rocksdb_options_set_stats_dump_period_sec(options, 0);
    rocksdb_options_set_stats_persist_period_sec(options, 0);
    rocksdb_options_set_skip_stats_update_on_db_open(options, 1);

    rocksdb_block_based_table_options_t *table = table_options(self, config->cache_bytes);
    rocksdb_options_set_block_based_table_factory(options, table);
    rocksdb_block_based_options_destroy(table);
    return options;
}

static int open_database(struct kv_db *self, const struct kv_rocksdb_config *config, const rocksdb_options_t *options)
{
    const char *names[1] = {"default"};
    const rocksdb_options_t *family_options[1] = {options};
    char *error = NULL;
    assert(!self->db);
    if (config->read_only)
        self->db = rocksdb_open_for_read_only_column_families(options, config->path, 1, names, family_options,
                                                              &self->family, /* error_if_wal_file_exists= */ 0, &error);
    else
        self->db = rocksdb_open_column_families(options, config->path, 1, names, family_options, &self->family, &error);
    if (!error) {
        assert(self->db && self->family);
        return 0;
    }
    self->db = NULL;
    self->family = NULL;
    return kv_db_error("open", error);
}

static int check_directory(const struct kv_rocksdb_config *config)
{
    struct stat st;
    char path[4096];
    int n = snprintf(path, sizeof(path), "%s/CURRENT", config->path);
    if (n < 0 || (size_t)n >= sizeof(path))
        return -ENAMETOOLONG;
    assert(!(config->create && config->read_only));
    bool exists = stat(path, &st) == 0;
    if (exists && config->create) {
        log_error("%s holds a database already", config->path);
        return -EEXIST;
    }
    if (!exists && !config->create) {
        log_error("%s holds no database: format the store first", config->path);
        return -ENOENT;
    }
    if (config->create && mkdir(config->path, 0700) < 0 && errno != EEXIST) {
        int rc = -errno;
        assert(rc < 0);
        log_error("cannot create %s error=\"%s\"", config->path, strerror(-rc));
        return rc;
    }
    return 0;
}

int kv_db_open(struct kv_db *self, const struct kv_rocksdb_config *config)
{
    assert(self && config && config->path);
    assert(!(config->read_only && config->create));
    *self = (struct kv_db){.read_only = config->read_only};
    int rc = check_directory(config);
    if (rc < 0)
        return rc;
    rc = lock_directory(self, config->path);
    if (rc == 0 && !config->read_only)
        rc = check_space(self, config->path);
    if (rc < 0)
        goto err_after_check;
    bool same_boot = is_same_boot(self);
    rocksdb_options_t *options = options_create(self, config, same_boot ? WAL_TOLERATE_TAIL : WAL_POINT_IN_TIME);
    rocksdb_options_set_use_direct_io_for_flush_and_compaction(options, 1);
    rc = open_database(self, config, options);
    if (rc == -EOPNOTSUPP) {
        log_warn("%s has no direct I/O: the page cache is used", config->path);
        rocksdb_options_set_use_direct_io_for_flush_and_compaction(options, 0);
        rc = open_database(self, config, options);
    }
    rocksdb_options_destroy(options);
    if (rc == 0 && !same_boot && !self->read_only)
        rc = record_boot(self);
    if (rc < 0)
        goto err_after_check;
    self->group = rocksdb_writebatch_create();
    self->write_options = rocksdb_writeoptions_create(); /* WAL on, unsynced */
    self->read_options = rocksdb_readoptions_create();   /* checksums verified */
    self->flush_options = rocksdb_flushoptions_create();
    rocksdb_flushoptions_set_wait(self->flush_options, 0);
    self->written = 1;
    return 0;

err_after_check:
    kv_db_close(self);
    assert(rc < 0);
    return rc;
}

/* RocksDB ends the process (WritableFileWriter, by an assertion) when it closes a log whose write failed. So such a database
 * stays open until the process ends, which the failure has made a matter of time; what was not written is gone either way. */
static void abandon(struct kv_db *self)
{
    static struct abandoned {
        struct abandoned *next;
        rocksdb_t *db;
        rocksdb_column_family_handle_t *family;
        rocksdb_cache_t *cache;
    } * all; /* by the threads that close: at most one store closes at a time in a process */
    struct abandoned *one = malloc(sizeof(*one));
    assert(one && self->failed);
    *one = (struct abandoned){all, self->db, self->family, self->cache};
    all = one;
    self->db = NULL;
    self->family = NULL;
    self->cache = NULL;
    self->lock_fd = 0; /* nobody else may open it meanwhile */
}

void kv_db_close(struct kv_db *self)
{
    assert(self);
    if (self->failed)
        abandon(self);
    if (self->group)
        rocksdb_writebatch_destroy(self->group);
    if (self->write_options)
        rocksdb_writeoptions_destroy(self->write_options);
    if (self->read_options)
        rocksdb_readoptions_destroy(self->read_options);
    if (self->flush_options)
        rocksdb_flushoptions_destroy(self->flush_options);
    if (self->family)
        rocksdb_column_family_handle_destroy(self->family);
    if (self->db)
        rocksdb_close(self->db);
    if (self->cache)
        rocksdb_cache_destroy(self->cache);
    if (self->lock_fd > 0)
        (void)close(self->lock_fd);
    *self = (struct kv_db){0};
}
