/* SPDX-License-Identifier: Apache-2.0 */
/* buf: the pool of I/O buffers: 4 KiB aligned, counted, bounded, reference counted.
 *
 * Concept: every payload (from wire to drive and back) lives in one contiguous region mapped at start, so that
 *   io_uring and RDMA can register it once. Size classes 4, 16, 64, 256 KiB and 1 MiB; memory is touched only
 *   when first used and never given back per request.
 * Threading: one pool per event loop; alloc, ref and unref on that loop's thread only.
 * Errors: exhaustion is NULL: back-pressure, never malloc.
 * Ownership: buf_alloc gives one reference; buf_unref of the last one returns the buffer to its pool (or, for a
 *   wrapped foreign buffer, calls its release function).
 */
#ifndef ASHLAR_COMMON_BUF_H
#define ASHLAR_COMMON_BUF_H

#include <stddef.h>
#include <stdint.h>

#define BUF_ALIGN 4096u
#define BUF_BYTES_MAX (1u << 20)

struct buf_pool;

struct buf {
    /* read-only */
    uint8_t *data;
    uint32_t capacity; /* bytes */
    uint32_t refs;
    struct buf_pool *pool;             /* NULL for a wrapped buffer */
    void (*release)(struct buf *self); /* wrapped buffers only: called when refs reach 0 */
    void *owner;                       /* wrapped buffers: free for the wrapper's use */
    /* private */
    struct buf *next;
};

struct buf_pool_stats {
    uint64_t limit_bytes;
    uint64_t used_bytes;
    uint64_t used_bytes_max;
    uint64_t exhausted_count;
};

/* limit_bytes is rounded down to whole MiB, at least one; NULL when memory cannot be mapped. ASHLAR_HUGETLB=1 in the
 * environment asks for explicit huge pages. */
struct buf_pool *buf_pool_create(size_t limit_bytes);
void buf_pool_destroy(struct buf_pool *pool); /* asserts that every buffer came back; accepts NULL */
void buf_pool_region(const struct buf_pool *pool, void **ret_base, size_t *ret_bytes);
void buf_pool_stats(const struct buf_pool *pool, struct buf_pool_stats *ret_stats);
/* A waiter is called (from a later buf_unref, one per freed buffer, FIFO) when memory came back, and is then off
 * the queue; it may still find too little and wait again. wait on a queued waiter and cancel of one that is not
 * queued do nothing. Zero-initialise, set cb. */
struct buf_waiter {
    void (*cb)(struct buf_waiter *waiter);
    struct buf_waiter *next;
    int queued;
};
void buf_pool_wait(struct buf_pool *pool, struct buf_waiter *waiter);
void buf_pool_wait_cancel(struct buf_pool *pool, struct buf_waiter *waiter);

struct buf *buf_alloc(struct buf_pool *pool, uint32_t bytes); /* bytes 1..BUF_BYTES_MAX; content undefined */
void buf_wrap(struct buf *self, void *data, uint32_t bytes, void (*release)(struct buf *self), void *owner);
struct buf *buf_ref(struct buf *buf);
void buf_unref(struct buf *buf); /* accepts NULL */

#endif
