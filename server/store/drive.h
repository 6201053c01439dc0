/* SPDX-License-Identifier: Apache-2.0 */
/* drive: the seam to one block device or preallocated file. Real: io_uring, O_DIRECT. Simulated: volatile cache, faults.
 *
 * Concept: aligned reads and writes of a fixed span of bytes, and a flush that makes completed writes durable.
 * Threading: the data thread's. Errors: -EIO, -ENOSPC (sparse file on a full host), ... in the callback.
 * Ownership: drive_io is embedded by the caller (zero-initialise before first use) and, with its buffer, borrowed until
 *   cb; cb never runs inside submit.
 */
#ifndef ASHLAR_SERVER_STORE_DRIVE_H
#define ASHLAR_SERVER_STORE_DRIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/ring/ring.h"

enum drive_op { DRIVE_READ, DRIVE_WRITE, DRIVE_FLUSH };

struct drive_io {
    /* public: set by the caller */
    enum drive_op op;
    uint64_t offset; /* bytes from the drive's start, 4 KiB multiple */
    uint32_t length; /* bytes, 4 KiB multiple; 0 for a flush */
    uint8_t *data;   /* 4 KiB aligned, inside a pool buffer where possible (registered) */
    void (*cb)(struct drive_io *io, int rc);
    void *owner;
    /* private */
    struct ring_op ring; /* real side */
    uint64_t submitted_ns;
    void *impl;
    struct drive_io *next;
    uint32_t done, retries; /* real side: bytes transferred so far, attempts that made none */
};

struct drive;
struct drive_ops {
    void (*submit)(struct drive *drive, struct drive_io *io); /* always completes through io->cb, once */
    void (*close)(struct drive *drive); /* no io in flight; releases the exclusive lock (R1) and frees */
};
struct drive {
    const struct drive_ops *ops;
    uint64_t bytes;      /* read-only: size */
    uint64_t prewritten; /* bytes from the start that are written extents; device: all; file: 0, raised by the store */
    bool volatile_cache; /* read-only: a flush is needed for durability */
    bool is_file;        /* regular file: prewriting is worth it */
};

static inline void drive_submit(struct drive *drive, struct drive_io *io)
{
    drive->ops->submit(drive, io);
}
static inline void drive_close(struct drive *drive)
{
    if (drive)
        drive->ops->close(drive);
}

/* Real side (drive_uring.c). Opens with O_DIRECT and takes an exclusive lock on the very descriptor that does the
 * I/O (R1: flock for files, O_EXCL + flock for block devices): -EBUSY when another daemon holds it. */
int drive_uring_open(struct ring_loop *loop, struct buf_pool *pool, const char *path, struct drive **ret_drive);
/* Creates (or checks the size of) a preallocated regular file: `store format`. Synchronous. */
int drive_file_create(const char *path, uint64_t bytes);

#endif
