/* SPDX-License-Identifier: Apache-2.0 */
/* ring_register: the ring's registered files and buffers, which spare the kernel a lookup and a pin per operation.
 *
 *   - a sparse file table of config.fixed_files entries, filled one by one (ring_register_file);
 *   - a sparse buffer table, made at the first region; a region above 1 GiB takes several entries.
 * Failure modes: -ENOSPC when a table is full, -ENOMEM when RLIMIT_MEMLOCK is too small: callers then use plain
 *   descriptors and addresses.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "common/log.h"
#include "common/ring/ring_internal.h"

#define LOG_MODULE "ring"
#define RING_FIXED_FILES_MAX 4096u

int ring_registry_init(struct ring_loop *loop)
{
    unsigned count = loop->config.fixed_files;
    assert(count <= RING_FIXED_FILES_MAX);
    if (count == 0)
        return 0;
    loop->file_used = calloc(count, 1);
    if (!loop->file_used)
        return -ENOMEM;
    int rc = io_uring_register_files_sparse(&loop->ring, count);
    if (rc < 0) {
        log_error("io_uring cannot register files (Linux 5.19) error=%d", rc);
        free(loop->file_used);
        loop->file_used = NULL;
    }
    return rc;
}

void ring_registry_close(struct ring_loop *loop)
{
    for (unsigned i = 0; loop->file_used && i < loop->config.fixed_files; i++)
        assert(!loop->file_used[i]);
    free(loop->file_used);
    loop->file_used = NULL; /* the tables themselves die with the ring */
}

int ring_register_file(struct ring_loop *loop, int fd)
{
    assert(fd >= 0);
    for (unsigned i = 0; loop->file_used && i < loop->config.fixed_files; i++) {
        if (loop->file_used[i])
            continue;
        int rc = io_uring_register_files_update(&loop->ring, i, &fd, 1);
        if (rc < 0)
            return rc;
        loop->file_used[i] = 1;
        return (int)i;
    }
    return -ENOSPC;
}

void ring_unregister_file(struct ring_loop *loop, int index)
{
    assert(index >= 0 && (unsigned)index < loop->config.fixed_files);
    assert(loop->file_used[index]);
    int none = -1;
    int rc = io_uring_register_files_update(&loop->ring, (unsigned)index, &none, 1);
    if (rc < 0)
        log_error("cannot unregister file index=%d error=%d", index, rc);
    loop->file_used[index] = 0;
}

int ring_register_region(struct ring_loop *loop, void *base, uint64_t bytes)
{
    assert(base && bytes > 0);
    if (!loop->regions_ready) {
        int rc = io_uring_register_buffers_sparse(&loop->ring, RING_REGION_COUNT_MAX);
        if (rc < 0)
            return rc;
        loop->regions_ready = true;
    }
    uint64_t pieces = (bytes + RING_REGION_BUFFER_BYTES - 1) / RING_REGION_BUFFER_BYTES;
    if (pieces > RING_REGION_COUNT_MAX - loop->region_buffers)
        return -ENOSPC;
    unsigned first = loop->region_buffers;
    for (uint64_t i = 0; i < pieces; i++) {
        uint64_t at = i * RING_REGION_BUFFER_BYTES, left = bytes - at;
        struct iovec vec = {.iov_base = (uint8_t *)base + at,
                            .iov_len = left < RING_REGION_BUFFER_BYTES ? left : RING_REGION_BUFFER_BYTES};
        __u64 tag = 0;
        int rc = io_uring_register_buffers_update_tag(&loop->ring, first + (unsigned)i, &vec, &tag, 1);
        if (rc < 0)
            return rc; /* pieces registered so far stay until the ring dies; their entries are reused */
    }
    loop->region_buffers += (unsigned)pieces;
    assert(loop->region_buffers <= RING_REGION_COUNT_MAX);
    return (int)first;
}
