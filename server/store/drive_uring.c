/* SPDX-License-Identifier: Apache-2.0 */
/* drive_uring: the real side of the drive seam: one block device or preallocated file on the data thread's io_uring.
 *
 *   - drive_uring_open opens with O_DIRECT, locks the very descriptor that will do the I/O (R1) and registers it,
 *     and the buffer pool's region, with the ring;
 *   - drive_submit queues a read, write or flush; the ring hands it to the kernel at the end of the turn;
 *   - a short transfer goes on with its rest, -EAGAIN and -EINTR are retried a bounded number of times;
 *   - a flush is fdatasync: on a device it flushes the cache, on a file it makes extents and size durable, too.
 * There is no O_DSYNC: durability is asked for, never bought with every write.
 *
 * Failure modes: the lock is held or the device is in use: -EBUSY; no direct I/O here, or logical blocks above 4 KiB:
 * -EINVAL. In I/O whatever the kernel says becomes -EIO (logged with the original), except -ENOSPC and -EDQUOT. A
 * failed flush is reported once and never retried here (R13). Without room to register, plain descriptors and buffers.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "common/env.h"
#include "common/log.h"
#include "common/ring/ring_sqe.h"
#include "server/store/drive.h"

#define LOG_MODULE "drive"
#define DRIVE_ALIGN 4096u
#define RETRY_MAX 64u
#define LOCK_ATTEMPTS_MAX 100u
#define LOCK_PAUSE_NS (10 * 1000 * 1000)

struct uring_drive {
    struct drive base;
    struct ring_loop *loop;
    int fd;
    int file_index;   /* of the ring's file table, -1: plain descriptor */
    int buffer_index; /* first of the pool's region, -1: plain addresses */
    const uint8_t *region;
    uint64_t region_bytes;
    uint32_t in_flight;
    uint64_t errors;
};

static struct drive_io *io_of(struct ring_op *op)
{
    return (struct drive_io *)(void *)((char *)op - offsetof(struct drive_io, ring));
}

static struct uring_drive *drive_of(struct drive_io *io)
{
    assert(io->impl); /* in flight */
    return io->impl;
}

static int buffer_index(const struct uring_drive *self, const uint8_t *data, uint32_t bytes)
{
    if (self->buffer_index < 0 || data < self->region || data >= self->region + self->region_bytes)
        return -1;
    uint64_t at = (uint64_t)(data - self->region);
    assert(bytes <= self->region_bytes - at); /* a buffer never straddles the pool's end */
    if (at / RING_REGION_BUFFER_BYTES != (at + bytes - 1) / RING_REGION_BUFFER_BYTES)
        return -1;
    return self->buffer_index + (int)(at / RING_REGION_BUFFER_BYTES);
}

static void prepare(struct ring_op *op, struct io_uring_sqe *sqe)
{
    struct drive_io *io = io_of(op);
    struct uring_drive *self = drive_of(io);
    int fd = self->file_index >= 0 ? self->file_index : self->fd;
    assert(io->done <= io->length);
    uint32_t left = io->length - io->done;
    uint8_t *data = io->data + io->done;
    uint64_t offset = io->offset + io->done;
    int index = io->op == DRIVE_FLUSH ? -1 : buffer_index(self, data, left);
    switch (io->op) {
    case DRIVE_READ:
        if (index >= 0)
            io_uring_prep_read_fixed(sqe, fd, data, left, offset, index);
        else
            io_uring_prep_read(sqe, fd, data, left, offset);
        break;
    case DRIVE_WRITE:
        if (index >= 0)
            io_uring_prep_write_fixed(sqe, fd, data, left, offset, index);
        else
            io_uring_prep_write(sqe, fd, data, left, offset);
        break;
    case DRIVE_FLUSH: io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC); break;
    }
    if (self->file_index >= 0)
        sqe->flags |= IOSQE_FIXED_FILE;
}

static const char *op_name(enum drive_op op)
{
    return op == DRIVE_READ ? "read" : op == DRIVE_WRITE ? "write" : "flush";
}

static void complete(struct drive_io *io, int rc)
{
    struct uring_drive *self = drive_of(io);
    assert(rc <= 0);
    assert(self->in_flight > 0);
    self->in_flight--;
    if (rc < 0) {
        uint64_t nth = ++self->errors; /* a dying drive must not fill the log: 1, 2, 4, 8, ... */
        if ((nth & (nth - 1)) == 0)
            log_error("%s failed offset=%llu length=%u errors=%llu error=\"%s\"", op_name(io->op),
                      (unsigned long long)io->offset, io->length, (unsigned long long)nth, strerror(-rc));
        if (rc != -ENOSPC && rc != -EDQUOT)
            rc = -EIO; /* one word for it: -EILSEQ and others have meanings of their own in the store */
    }
    io->impl = NULL;
    io->cb(io, rc);
}

static void op_done(struct ring_op *op, int32_t res, uint32_t cqe_flags)
{
    struct drive_io *io = io_of(op);
    struct uring_drive *self = drive_of(io);
    (void)cqe_flags;
    assert(io->done < io->length || io->op == DRIVE_FLUSH);
    if (res == -EAGAIN || res == -EINTR) {
        if (io->retries++ == RETRY_MAX) {
            complete(io, res);
            return;
        }
    } else if (res < 0 || io->op == DRIVE_FLUSH) {
        assert(res <= 0);
        complete(io, res);
        return;
    } else {
        assert((uint32_t)res <= io->length - io->done);
        if ((uint32_t)res == io->length - io->done) {
            complete(io, 0);
            return;
        }
        /* Short: direct I/O goes on from a whole block. No progress at all means that the drive ends here. */
        uint32_t whole = (uint32_t)res / DRIVE_ALIGN * DRIVE_ALIGN;
        if (res == 0 || (whole == 0 && io->retries++ == RETRY_MAX)) {
            complete(io, -EIO);
            return;
        }
        io->done += whole;
    }
    ring_submit(self->loop, RING_DRIVE, &io->ring, prepare, op_done);
}

static void submit(struct drive *drive, struct drive_io *io)
{
    struct uring_drive *self = (struct uring_drive *)drive;
    assert(io->cb);
    if (io->op == DRIVE_FLUSH) {
        assert(io->length == 0);
    } else {
        assert(io->length > 0 && io->length % DRIVE_ALIGN == 0);
        assert(io->offset % DRIVE_ALIGN == 0);
        assert((uintptr_t)io->data % DRIVE_ALIGN == 0);
        assert(io->offset <= drive->bytes && io->length <= drive->bytes - io->offset);
    }
    io->impl = self;
    io->done = 0;
    io->retries = 0;
    io->submitted_ns = env_now_ns(ring_loop_env(self->loop));
    self->in_flight++;
    ring_submit(self->loop, RING_DRIVE, &io->ring, prepare, op_done);
}

static void unlock_and_close(int fd)
{
    /* Explicitly: the ring may hold on to the open file for a moment longer than this descriptor lives. */
    (void)flock(fd, LOCK_UN);
    (void)close(fd);
}

static void drive_uring_close(struct drive *drive)
{
    struct uring_drive *self = (struct uring_drive *)drive;
    assert(self->in_flight == 0);
    assert(self->fd >= 0);
    if (self->file_index >= 0)
        ring_unregister_file(self->loop, self->file_index);
    unlock_and_close(self->fd);
    free(self);
}

static const struct drive_ops uring_ops = {.submit = submit, .close = drive_uring_close};

/* R1: the lock is on the descriptor that does the I/O. For a device O_EXCL keeps mounts and other daemons' opens away. */
static int open_and_lock(const char *path, bool is_device, int *ret_fd, const char **ret_failed)
{
    int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC | O_NOCTTY | (is_device ? O_EXCL : 0));
    *ret_failed = "open";
    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
        assert(rc < 0);
        *ret_failed = "lock";
        (void)close(fd);
        return rc;
    }
    assert(fd >= 0);
    *ret_fd = fd;
    return 0;
}

static void explain(const char *path, bool is_device, const char *failed, int rc)
{
    assert(rc < 0);
    if (rc == -EBUSY)
        log_error("%s is locked: another daemon uses this drive%s", path, is_device ? ", or it is mounted" : "");
    else
        log_error("cannot %s %s error=\"%s\"%s", failed, path, strerror(-rc),
                  rc == -EINVAL ? ": this file system has no direct I/O" : "");
}

/* A killed daemon's ring lives on for some milliseconds, until its last I/O ended, and with it the lock, rightly: no
 * write of the old one may land under the new one. udev, too, locks a device for a moment after it was closed. So a
 * busy drive is tried again for a second. */
static int open_locked(const char *path, int *ret_fd, struct stat *ret_stat)
{
    struct stat before;
    const char *failed = "open";
    int rc = stat(path, &before) < 0 ? -errno : 0;
    if (rc == 0 && !S_ISBLK(before.st_mode) && !S_ISREG(before.st_mode)) {
        log_error("%s is neither a block device nor a regular file", path);
        return -EINVAL;
    }
    bool is_device = rc == 0 && S_ISBLK(before.st_mode);
    for (unsigned attempt = 0; rc == 0; attempt++) {
        struct timespec pause = {.tv_nsec = LOCK_PAUSE_NS};
        rc = open_and_lock(path, is_device, ret_fd, &failed);
        if (rc != -EBUSY || attempt == LOCK_ATTEMPTS_MAX)
            break;
        (void)nanosleep(&pause, NULL);
        rc = 0;
    }
    if (rc < 0) {
        explain(path, is_device, failed, rc);
        return rc;
    }
    if (fstat(*ret_fd, ret_stat) < 0 || S_ISBLK(ret_stat->st_mode) != is_device) {
        (void)close(*ret_fd); /* replaced between stat and open */
        *ret_fd = -1;
        return -EINVAL;
    }
    return 0;
}

/* The cache of a device that says "write through" loses nothing; a partition's queue is its parent's. */
static bool device_cache_is_volatile(dev_t device)
{
    static const char *const queues[] = {"queue", "../queue"};
    for (size_t i = 0; i < sizeof(queues) / sizeof(queues[0]); i++) {
        char path[96], text[32];
        int n = snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/write_cache", major(device), minor(device),
                         queues[i]);
        assert(n > 0 && (size_t)n < sizeof(path));
        FILE *file = fopen(path, "re");
        if (!file)
            continue;
        bool through = fgets(text, sizeof(text), file) && strncmp(text, "write through", 13) == 0;
        (void)fclose(file);
        return !through;
    }
    return true;
}

static int probe_device(struct uring_drive *self, const struct stat *st, const char *path)
{
    int block_bytes = 0;
    uint64_t bytes = 0;
    if (ioctl(self->fd, BLKSSZGET, &block_bytes) < 0 || ioctl(self->fd, BLKGETSIZE64, &bytes) < 0) {
        int rc = -errno;
        assert(rc < 0);
        log_error("cannot ask %s for its geometry error=\"%s\"", path, strerror(-rc));
        return rc;
    }
    assert(block_bytes > 0);
    assert(!self->base.is_file);
    if ((unsigned)block_bytes > DRIVE_ALIGN) {
        log_error("%s has logical blocks of %d bytes: more than 4096 is not supported", path, block_bytes);
        return -EINVAL;
    }
    self->base.bytes = bytes;
    self->base.volatile_cache = device_cache_is_volatile(st->st_rdev);
    return 0;
}

static int probe_file(struct uring_drive *self, const struct stat *st, const char *path)
{
    struct statx sx;
    memset(&sx, 0, sizeof(sx));
    self->base.bytes = (uint64_t)st->st_size;
    self->base.volatile_cache = true; /* a file's extents need the journal, whatever the device says */
    self->base.is_file = true;
#ifdef STATX_DIOALIGN
    if (statx(self->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && (sx.stx_mask & STATX_DIOALIGN) &&
        (sx.stx_dio_offset_align == 0 || sx.stx_dio_offset_align > DRIVE_ALIGN || sx.stx_dio_mem_align > DRIVE_ALIGN)) {
        log_error("%s allows no direct I/O at 4096 bytes (offset alignment %u)", path, sx.stx_dio_offset_align);
        return -EINVAL;
    }
#endif
    assert(self->base.is_file);
    assert(st->st_size >= 0);
    return 0;
}

static void register_with_ring(struct uring_drive *self, struct buf_pool *pool, const char *path)
{
    self->file_index = ring_register_file(self->loop, self->fd);
    if (self->file_index < 0) {
        log_info("%s is used unregistered error=\"%s\"", path, strerror(-self->file_index));
        self->file_index = -1;
    }
    if (!pool)
        return;
    void *base = NULL;
    size_t bytes = 0;
    buf_pool_region(pool, &base, &bytes);
    assert(base && bytes > 0);
    int index = ring_register_region(self->loop, base, bytes);
    if (index < 0) {
        log_info("buffers are used unregistered: raise the memlock limit error=\"%s\"", strerror(-index));
        return;
    }
    self->buffer_index = index;
    self->region = base;
    self->region_bytes = bytes;
}

int drive_uring_open(struct ring_loop *loop, struct buf_pool *pool, const char *path, struct drive **ret_drive)
{
    assert(loop && path && ret_drive);
    struct stat st;
    struct uring_drive *self = calloc(1, sizeof(*self));
    if (!self)
        return -ENOMEM;
    *self = (struct uring_drive){.base.ops = &uring_ops, .loop = loop, .fd = -1, .file_index = -1, .buffer_index = -1};
    int rc = open_locked(path, &self->fd, &st);
    if (rc < 0)
        goto err_after_alloc;
    rc = S_ISBLK(st.st_mode) ? probe_device(self, &st, path) : probe_file(self, &st, path);
    if (rc < 0)
        goto err_after_open;
    self->base.bytes -= self->base.bytes % DRIVE_ALIGN;
    if (self->base.bytes == 0) {
        log_error("%s is empty", path);
        rc = -EINVAL;
        goto err_after_open;
    }
    assert(self->fd >= 0);
    self->base.prewritten = self->base.is_file ? 0 : self->base.bytes;
    register_with_ring(self, pool, path);
    *ret_drive = &self->base;
    return 0;

err_after_open:
    unlock_and_close(self->fd);
err_after_alloc:
    free(self);
    assert(rc < 0);
    return rc;
}
