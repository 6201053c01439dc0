/* SPDX-License-Identifier: Apache-2.0 */
/* ring_internal: what the files of common/ring share: the loop's fields. Threading: the loop's thread, but for the
 * mailbox's two atomics. Errors and ownership: as in ring.h. */
#ifndef ASHLAR_COMMON_RING_RING_INTERNAL_H
#define ASHLAR_COMMON_RING_RING_INTERNAL_H

#include <stdatomic.h>

#include "common/prng.h"
#include "common/ring/ring.h"
#include "common/ring/ring_sqe.h"
#include "common/timer_heap.h"

#define RING_PHASE_COUNT 2
#define RING_REGION_COUNT_MAX 64u

enum ring_op_state {
    RING_OP_IDLE = 0,
    RING_OP_QUEUED,       /* in a phase queue */
    RING_OP_CANCELLED,    /* in a phase queue; completes with -ECANCELED unsubmitted */
    RING_OP_SUBMITTED,    /* the kernel has it */
    RING_OP_CANCEL_LATER, /* the kernel has it; in cancel_later */
};

struct ring_op_queue {
    struct ring_op *head, *tail;
};

/* Messages of other threads: a lock-free stack, taken whole and reversed. */
struct ring_mailbox {
    _Atomic(struct ring_mail *) head;
    atomic_bool asleep; /* set by the loop before it blocks; who clears it writes the eventfd */
    int event_fd;
    struct ring_op read_op;
    uint64_t read_value; /* written by the kernel while read_armed */
    bool read_armed;
};

struct ring_loop {
    struct env env; /* first: env_ops get it */
    struct io_uring ring;
    struct timer_heap timers;
    struct env_task *task_head, *task_tail;
    struct ring_op_queue queues[RING_PHASE_COUNT];
    struct ring_op_queue cancelled;    /* completes in the next reap */
    struct ring_op_queue cancel_later; /* cancellations that found no room */
    uint64_t in_flight;                /* operations between ring_submit and their last callback */
    struct ring_mailbox mailbox;
    struct prng prng;
    struct ring_config config;
    struct ring_stats stats;
    uint64_t woken_ns;
    uint8_t *file_used; /* config.fixed_files entries */
    unsigned region_buffers;
    bool regions_ready;
    bool enabled; /* the first turn made its thread the submitter */
    bool in_turn;
    bool stopping;
};

int ring_mailbox_init(struct ring_loop *loop);
void ring_mailbox_close(struct ring_loop *loop);
void ring_mailbox_arm(struct ring_loop *loop);
/* True when there is mail, so the loop must not block. */
bool ring_mailbox_sleep(struct ring_loop *loop);
void ring_mailbox_wake(struct ring_loop *loop);
void ring_mailbox_drain(struct ring_loop *loop);

int ring_registry_init(struct ring_loop *loop);
void ring_registry_close(struct ring_loop *loop);

#endif
