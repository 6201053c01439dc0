/* SPDX-License-Identifier: Apache-2.0 */
/* store_tool: makes a store: directory, drive, RocksDB, superblock.
 *
 *   - the drive is opened as the daemon opens it, lock included: formatting under a running daemon is -EBUSY;
 *   - what is there already (a database, a store's image, anything but zeros at a drive's start) needs force;
 *   - RocksDB is made and synced first, the superblock's copies are written and flushed last: only then it is a store.
 * Failure modes: -EEXIST (force is missing), -EBUSY, -ENOSPC, whatever drive and kv say; nothing is undone but a
 * half-made image file: formatting again with force starts over.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "server/daemon/store_tool.h"
#include "server/store/superblock.h"

#define LOG_MODULE "store"
#define SIGNATURE_BYTES (128u * 1024u) /* where file systems, volume managers and partition tables sign */
#define FORMAT_CACHE_BYTES (8u << 20)

static int path_join(const char *directory, const char *name, char ret_path[STORE_TOOL_PATH_MAX])
{
    assert(directory && name);
    int n = snprintf(ret_path, STORE_TOOL_PATH_MAX, "%s/%s", directory, name);
    return n < 0 || (unsigned)n >= STORE_TOOL_PATH_MAX ? -ENAMETOOLONG : 0;
}

int store_tool_drive_path(const char *directory, char ret_path[STORE_TOOL_PATH_MAX])
{
    struct stat st;
    assert(directory && ret_path);
    int rc = path_join(directory, "device", ret_path);
    if (rc == 0 && lstat(ret_path, &st) < 0)
        rc = path_join(directory, "store.img", ret_path);
    assert(rc <= 0);
    return rc;
}

int store_tool_kv_path(const char *directory, char ret_path[STORE_TOOL_PATH_MAX])
{
    assert(directory && ret_path);
    return path_join(directory, "kv", ret_path);
}

/* ---- one request, waited for */

struct wait {
    bool done;
    int rc;
};

static void io_done(struct drive_io *io, int rc)
{
    struct wait *wait = io->owner;
    assert(!wait->done);
    assert(rc <= 0);
    *wait = (struct wait){.done = true, .rc = rc};
}

static void write_done(struct kv_write *req, int rc)
{
    struct wait *wait = req->owner;
    assert(!wait->done);
    assert(rc <= 0);
    *wait = (struct wait){.done = true, .rc = rc};
}

static int wait_for(struct ring_loop *loop, struct wait *wait)
{
    while (!wait->done) {
        int rc = ring_loop_turn(loop, -1);
        if (rc < 0)
            return rc;
    }
    assert(wait->rc <= 0);
    return wait->rc;
}

static int drive_run(struct ring_loop *loop, struct drive *drive, enum drive_op op, uint64_t offset, uint32_t length,
                     uint8_t *data)
{
    struct wait wait = {.done = false};
    struct drive_io io = {.op = op, .offset = offset, .length = length, .data = data, .cb = io_done, .owner = &wait};
    assert(offset <= drive->bytes && length <= drive->bytes - offset);
    drive_submit(drive, &io);
    return wait_for(loop, &wait);
}

/* ---- steps of a format */

static int make_directory(const char *directory)
{
    assert(directory);
    if (mkdir(directory, 0700) == 0 || errno == EEXIST)
        return 0;
    int rc = -errno;
    log_error("cannot create %s error=\"%s\"", directory, strerror(-rc));
    return rc;
}

static int link_device(const char *directory, const char *drive)
{
    char link[STORE_TOOL_PATH_MAX], target[STORE_TOOL_PATH_MAX], here[STORE_TOOL_PATH_MAX / 2];
    assert(drive && drive[0]);
    int n, rc = path_join(directory, "device", link);
    if (rc < 0)
        return rc;
    if (drive[0] == '/') /* as given: /dev/disk/by-id/... stays true when /dev/sdX moves */
        n = snprintf(target, sizeof(target), "%s", drive);
    else if (getcwd(here, sizeof(here)))
        n = snprintf(target, sizeof(target), "%s/%s", here, drive);
    else
        return -errno;
    if (n < 0 || (size_t)n >= sizeof(target))
        return -ENAMETOOLONG;
    if (unlink(link) < 0 && errno != ENOENT)
        return -errno;
    return symlink(target, link) < 0 ? -errno : 0;
}

static int check_size(const struct store_identity *identity, uint64_t bytes)
{
    uint8_t block[STORE_BLOCK_BYTES];
    assert(bytes % STORE_BLOCK_BYTES == 0);
    int rc = store_format_superblock(block, identity, bytes);
    assert(rc == 0 || rc == -EINVAL);
    if (rc < 0)
        log_error("%llu bytes are no size for a store", (unsigned long long)bytes);
    return rc;
}

/* The drive's path; makes its file when it is to be one. */
static int prepare_drive(const struct store_tool_format *format, char ret_path[STORE_TOOL_PATH_MAX])
{
    struct stat st;
    int rc = format->drive ? (snprintf(ret_path, STORE_TOOL_PATH_MAX, "%s", format->drive) < (int)STORE_TOOL_PATH_MAX
                                  ? 0
                                  : -ENAMETOOLONG)
                           : path_join(format->directory, "store.img", ret_path);
    if (rc < 0)
        return rc;
    if (stat(ret_path, &st) == 0 && S_ISBLK(st.st_mode)) {
        if (format->bytes == 0)
            return 0;
        log_error("%s is a device, which is used whole: give no size", ret_path);
        return -EINVAL;
    }
    uint64_t bytes = format->bytes - format->bytes % STORE_BLOCK_BYTES;
    assert(bytes <= format->bytes);
    if (bytes == 0) {
        log_error("%s is to be a file: give its size", ret_path);
        return -EINVAL;
    }
    rc = check_size(&format->identity, bytes);
    if (rc < 0)
        return rc;
    rc = drive_file_create(ret_path, bytes);
    if (rc == -EEXIST && !format->force) {
        log_error("%s exists: --force overwrites it", ret_path);
    } else if (rc == -EEXIST) {
        rc = (uint64_t)st.st_size == bytes ? 0 : -EEXIST;
        if (rc < 0)
            log_error("%s exists with %llu bytes, not %llu: remove it first", ret_path, (unsigned long long)st.st_size,
                      (unsigned long long)bytes);
    }
    return rc;
}

static int check_blank(struct ring_loop *loop, struct drive *drive, const char *path, uint8_t *buffer)
{
    assert(!drive->is_file);
    uint32_t length = drive->bytes < SIGNATURE_BYTES ? (uint32_t)drive->bytes : SIGNATURE_BYTES;
    int rc = drive_run(loop, drive, DRIVE_READ, 0, length, buffer);
    for (uint32_t i = 0; rc == 0 && i < length; i++) {
        if (buffer[i] != 0)
            rc = -EEXIST;
    }
    assert(length % BUF_ALIGN == 0);
    if (rc == -EEXIST) {
        struct superblock super;
        bool ours = superblock_decode(buffer, &super) == 0;
        log_error("%s holds %s: --force overwrites it", path, ours ? "a store" : "data of something else");
    }
    assert(rc <= 0);
    return rc;
}

/* A database directory is flat; what is not a plain file there is not ours to remove. */
static int remove_database(const char *path)
{
    assert(path && path[0]);
    DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT ? 0 : -errno;
    int rc = 0;
    for (struct dirent *entry; rc == 0 && (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(dir), entry->d_name, 0) < 0)
            rc = -errno;
    }
    (void)closedir(dir);
    if (rc < 0)
        log_error("cannot empty %s error=\"%s\"", path, strerror(-rc));
    return rc;
}

static int make_database(struct ring_loop *loop, const struct store_tool_format *format)
{
    char path[STORE_TOOL_PATH_MAX];
    struct kv *kv = NULL;
    struct wait wait = {.done = false};
    struct kv_write sync = {.sync = true, .cb = write_done, .owner = &wait};
    int rc = store_tool_kv_path(format->directory, path);
    if (rc == 0 && format->force)
        rc = remove_database(path);
    if (rc < 0)
        return rc;
    struct kv_rocksdb_config config = {.path = path, .cache_bytes = FORMAT_CACHE_BYTES, .create = true};
    rc = kv_rocksdb_open(loop, &config, &kv);
    if (rc < 0)
        return rc;
    kv_write(kv, &sync);
    rc = wait_for(loop, &wait);
    assert(wait.done || rc < 0);
    kv_close(kv);
    return rc;
}

static int write_superblocks(struct ring_loop *loop, struct drive *drive, const struct store_identity *identity,
                             uint8_t *buffer)
{
    int rc = store_format_superblock(buffer, identity, drive->bytes);
    assert(rc == 0); /* check_size */
    for (uint32_t i = 0; rc == 0 && i < SUPERBLOCK_COPIES; i++)
        rc = drive_run(loop, drive, DRIVE_WRITE, superblock_offsets[i], STORE_BLOCK_BYTES, buffer);
    if (rc == 0)
        rc = drive_run(loop, drive, DRIVE_FLUSH, 0, 0, NULL);
    assert(rc <= 0);
    return rc;
}

/* While the drive is locked: an older store's superblocks go first, so that a format that is interrupted leaves none. */
static int format_drive(struct ring_loop *loop, struct drive *drive, const char *path,
                        const struct store_tool_format *format)
{
    uint8_t *buffer = aligned_alloc(BUF_ALIGN, SIGNATURE_BYTES);
    if (!buffer)
        return -ENOMEM;
    int rc = check_size(&format->identity, drive->bytes);
    if (rc == 0 && !drive->is_file && !format->force)
        rc = check_blank(loop, drive, path, buffer);
    memset(buffer, 0, SIGNATURE_BYTES);
    assert(SIGNATURE_BYTES >= STORE_BLOCK_BYTES);
    for (uint32_t i = 0; rc == 0 && i < SUPERBLOCK_COPIES; i++) {
        if (superblock_offsets[i] + STORE_BLOCK_BYTES <= drive->bytes)
            rc = drive_run(loop, drive, DRIVE_WRITE, superblock_offsets[i], STORE_BLOCK_BYTES, buffer);
    }
    if (rc == 0)
        rc = drive_run(loop, drive, DRIVE_FLUSH, 0, 0, NULL);
    if (rc == 0)
        rc = make_database(loop, format);
    if (rc == 0 && format->drive)
        rc = link_device(format->directory, format->drive);
    if (rc == 0)
        rc = write_superblocks(loop, drive, &format->identity, buffer);
    free(buffer);
    return rc;
}

static int sync_directory(const char *directory)
{
    assert(directory);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = fsync(fd) < 0 ? -errno : 0;
    (void)close(fd);
    return rc;
}

int store_tool_format(const struct store_tool_format *format)
{
    char path[STORE_TOOL_PATH_MAX], kv_path[STORE_TOOL_PATH_MAX];
    struct ring_config config = {.entries = 16, .fixed_files = 4};
    struct ring_loop *loop = NULL;
    struct drive *drive = NULL;
    struct stat st;
    assert(format && format->directory);
    int rc = store_tool_kv_path(format->directory, kv_path);
    if (rc == 0 && !format->force && stat(kv_path, &st) == 0) {
        log_error("%s holds a store: --force overwrites it", format->directory);
        rc = -EEXIST;
    }
    if (rc == 0)
        rc = make_directory(format->directory);
    if (rc == 0)
        rc = prepare_drive(format, path);
    if (rc == 0)
        rc = ring_loop_create(&config, &loop);
    if (rc < 0)
        return rc;
    rc = drive_uring_open(loop, /* pool= */ NULL, path, &drive);
    if (rc == 0) {
        rc = format_drive(loop, drive, path, format);
        drive_close(drive);
    }
    ring_loop_destroy(loop);
    if (rc == 0)
        rc = sync_directory(format->directory);
    assert(rc <= 0);
    return rc;
}
