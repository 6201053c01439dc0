/* SPDX-License-Identifier: Apache-2.0 */
/* ring: the data thread's event loop, centred on one io_uring (SINGLE_ISSUER, DEFER_TASKRUN).
 *
 * Concept: each turn reaps every completion and runs its callback, runs due timers and deferred tasks until quiet,
 *   then hands everything queued to the kernel with one enter: sends first, drive work after them, in the order
 *   peers and clients profit from. It implements env (clock, timers, defer, random) for the thread.
 * Threading: all calls on the loop's thread, except ring_post. The thread of the first turn is the loop's thread;
 *   before it, any thread may create the loop, arm timers and register files.
 * Errors: ring_loop_create fails with -errno (one log line says which kernel feature is missing).
 * Ownership: ring_op and ring_mail are embedded by the caller, borrowed until their callback ran. A loop is
 *   destroyed when no operation is in flight.
 */
#ifndef ASHLAR_COMMON_RING_H
#define ASHLAR_COMMON_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "common/env.h"

struct io_uring_sqe;
struct ring_loop;
struct ring_op;

/* res: result of the operation (cqe->res); cqe_flags: IORING_CQE_F_*. With IORING_CQE_F_MORE it is called again. */
typedef void (*ring_op_cb)(struct ring_op *op, int32_t res, uint32_t cqe_flags);

struct ring_op {
    ring_op_cb cb;
    /* private to the ring */
    struct ring_op *next; /* queue before submission */
    void (*prepare)(struct ring_op *op, struct io_uring_sqe *sqe);
    uint8_t state; /* enum ring_op_state; zero-initialise before first use */
};

/* A message from another thread: cb runs on the loop's thread. */
struct ring_mail {
    void (*cb)(struct ring_mail *mail);
    struct ring_mail *next; /* private */
};

enum ring_phase {
    RING_SEND = 0,  /* socket work: queued before drive work of the same turn */
    RING_DRIVE = 1, /* submitted after every RING_SEND of the turn */
};

struct ring_config {
    unsigned entries;      /* submission queue; the completion queue is 4 x this */
    unsigned fixed_files;  /* size of the registered file table */
    unsigned busy_poll_us; /* spin this long before sleeping; 0: off */
    uint64_t seed;         /* of env_random; 0: from the system */
};

int ring_loop_create(const struct ring_config *config, struct ring_loop **ret_loop);
void ring_loop_destroy(struct ring_loop *loop);
int ring_loop_run(struct ring_loop *loop);                      /* until ring_loop_stop; 0 or -errno */
int ring_loop_turn(struct ring_loop *loop, int64_t timeout_ns); /* one turn, waiting at most that long; tests */
void ring_loop_stop(struct ring_loop *loop);                    /* from its own thread */
struct env *ring_loop_env(struct ring_loop *loop);

/* Queues an operation: prepare is called with a zeroed sqe when the phase is flushed at the end of the turn, never
 * inside this call (so a link gathers in it all that the turn gave it to send); it must only fill the sqe, by an
 * io_uring_prep_* of common/ring/ring_sqe.h. user_data is set by the ring. Never fails: waits its turn when the
 * queue is full. */
void ring_submit(struct ring_loop *loop, enum ring_phase phase, struct ring_op *op,
                 void (*prepare)(struct ring_op *op, struct io_uring_sqe *sqe), ring_op_cb cb);
void ring_cancel(struct ring_loop *loop, struct ring_op *op); /* its cb still comes, -ECANCELED or its result */

/* Any thread. Wakes the loop at most once per batch (eventfd registered in the ring). */
void ring_post(struct ring_loop *loop, struct ring_mail *mail, void (*cb)(struct ring_mail *mail));

/* Registered files and buffers (drive). */
int ring_register_file(struct ring_loop *loop, int fd); /* index or -errno */
void ring_unregister_file(struct ring_loop *loop, int index);
/* Buffer index or -errno (memlock). A region above RING_REGION_BUFFER_BYTES takes consecutive indices, one for each
 * piece of that size. */
int ring_register_region(struct ring_loop *loop, void *base, uint64_t bytes);
#define RING_REGION_BUFFER_BYTES ((uint64_t)1 << 30) /* the kernel's limit for one registered buffer */

struct ring_stats {
    uint64_t turns, enters, completions, mails;
    uint64_t busy_ns; /* time not spent waiting in the kernel */
};
void ring_loop_stats(const struct ring_loop *loop, struct ring_stats *ret_stats);

#endif
