/* SPDX-License-Identifier: Apache-2.0 */
/* ring: the data thread's event loop over one io_uring.
 *
 * A turn (ring_loop_turn):
 *   - hand over what earlier callbacks queued: RING_SEND operations, then RING_DRIVE ones (ring_flush);
 *   - one enter: submits, and waits unless tasks, mail or due timers are there (ring_enter);
 *   - reap every completion, drain the mailbox, run due timers, then deferred tasks until quiet.
 * Failure modes: a kernel without SINGLE_ISSUER and DEFER_TASKRUN (before 6.1) costs speed, not function, and one
 *   line in the log; a full submission queue makes the turn enter more than once; an overflowing completion queue is
 *   kept by the kernel (IORING_FEAT_NODROP) and drained by the next enter.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "common/ring/ring_internal.h"

#define LOG_MODULE "ring"

#define RING_REAP_BATCH 64u
#define RING_TASKS_PER_TURN_MAX 65536u
#define RING_ENTRIES_MAX 16384u
#define RING_DISARM_TURNS_MAX 1000u
#define RING_WAIT_MAX_NS ((int64_t)3600 * 1000000000)

static struct ring_loop *loop_of(struct env *env)
{
    assert(env);
    return (struct ring_loop *)(void *)env; /* env is its first field */
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec ts;
    int rc = clock_gettime(clock, &ts);
    assert(rc == 0);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- env */

static uint64_t ring_env_now_ns(struct env *env)
{
    assert(env != NULL);
    (void)env;
    return clock_ns(CLOCK_BOOTTIME); /* R9: a suspended machine's leases run out */
}

static void ring_env_timer_start(struct env *env, struct env_timer *timer, uint64_t delay_ns, env_timer_cb cb)
{
    assert(cb);
    uint64_t now = ring_env_now_ns(env);
    uint64_t deadline = delay_ns > UINT64_MAX - 1 - now ? UINT64_MAX - 1 : now + delay_ns;
    timer_heap_disarm(&loop_of(env)->timers, timer);
    timer_heap_arm(&loop_of(env)->timers, timer, deadline, cb);
}

static void ring_env_timer_stop(struct env *env, struct env_timer *timer)
{
    assert(timer != NULL);
    timer_heap_disarm(&loop_of(env)->timers, timer);
    assert(!timer->armed);
}

static void ring_env_defer(struct env *env, struct env_task *task, env_task_cb cb)
{
    struct ring_loop *loop = loop_of(env);
    assert(cb);
    if (task->queued)
        return;
    task->cb = cb;
    task->queued = true;
    task->next = NULL;
    if (loop->task_tail)
        loop->task_tail->next = task;
    else
        loop->task_head = task;
    loop->task_tail = task;
}

static uint64_t ring_env_random(struct env *env)
{
    assert(env != NULL);
    return prng_next(&loop_of(env)->prng);
}

static const struct env_ops ring_env_ops = {
    .now_ns = ring_env_now_ns,
    .timer_start = ring_env_timer_start,
    .timer_stop = ring_env_timer_stop,
    .defer = ring_env_defer,
    .random = ring_env_random,
};

/* ---- creation */

static int ring_setup(struct ring_loop *loop)
{
    assert(loop != NULL);
    static const struct {
        unsigned flags;
        const char *missing;
    } tries[] = {
        {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL,
         NULL},
        {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL, "SINGLE_ISSUER or DEFER_TASKRUN (Linux 6.1)"},
        {0, "COOP_TASKRUN or SUBMIT_ALL (Linux 5.19)"},
    };
    int rc = -EINVAL;
    for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]) && rc == -EINVAL; i++) {
        struct io_uring_params params;
        memset(&params, 0, sizeof(params));
        params.flags = tries[i].flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
        params.cq_entries = 4 * loop->config.entries;
        rc = io_uring_queue_init_params(loop->config.entries, &loop->ring, &params);
        if (rc == 0 && tries[i].missing)
            log_warn("io_uring without %s: slower", tries[i].missing);
        loop->enabled = (tries[i].flags & IORING_SETUP_R_DISABLED) == 0;
    }
    assert(rc <= 0);
    if (rc < 0)
        log_error("io_uring_setup failed error=%d (%s)", rc, strerror(-rc));
    else if (!(loop->ring.features & IORING_FEAT_EXT_ARG)) {
        log_error("io_uring lacks EXT_ARG (Linux 5.11)");
        io_uring_queue_exit(&loop->ring);
        rc = -ENOSYS;
    }
    return rc;
}

static int ring_seed(struct ring_loop *loop)
{
    assert(loop != NULL);
    uint64_t seed = loop->config.seed;
    if (seed == 0 && getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        return -EIO;
    prng_seed(&loop->prng, seed);
    return 0;
}

int ring_loop_create(const struct ring_config *config, struct ring_loop **ret_loop)
{
    assert(config);
    assert(config->entries > 0 && config->entries <= RING_ENTRIES_MAX);
    struct ring_loop *loop = calloc(1, sizeof(*loop));
    if (!loop)
        return -ENOMEM;
    loop->env.ops = &ring_env_ops;
    loop->config = *config;
    timer_heap_init(&loop->timers);
    int rc = ring_seed(loop);
    if (rc < 0)
        goto err_after_alloc;
    rc = ring_setup(loop);
    if (rc < 0)
        goto err_after_alloc;
    rc = ring_mailbox_init(loop);
    if (rc < 0)
        goto err_after_setup;
    rc = ring_registry_init(loop);
    if (rc < 0)
        goto err_after_mailbox;
    *ret_loop = loop;
    return 0;

err_after_mailbox:
    ring_mailbox_close(loop);
err_after_setup:
    io_uring_queue_exit(&loop->ring);
err_after_alloc:
    timer_heap_close(&loop->timers);
    free(loop);
    assert(rc < 0);
    return rc;
}

/* Takes the eventfd's read back, so that the kernel writes nothing into the loop's memory any more. */
static void ring_disarm(struct ring_loop *loop)
{
    assert(loop != NULL);
    for (unsigned i = 0; loop->mailbox.read_armed && i < RING_DISARM_TURNS_MAX; i++) {
        ring_cancel(loop, &loop->mailbox.read_op);
        loop->stopping = true; /* not armed again */
        (void)ring_loop_turn(loop, 1000000);
    }
    assert(!loop->mailbox.read_armed);
}

void ring_loop_destroy(struct ring_loop *loop)
{
    if (!loop)
        return;
    assert(!loop->in_turn);
    ring_disarm(loop);
    assert(loop->in_flight == 0);
    ring_registry_close(loop);
    io_uring_queue_exit(&loop->ring);
    ring_mailbox_close(loop);
    timer_heap_close(&loop->timers);
    free(loop);
}

/* ---- submission */

static void queue_push(struct ring_op_queue *queue, struct ring_op *op)
{
    assert(op != NULL);
    op->next = NULL;
    if (queue->tail)
        queue->tail->next = op;
    else
        queue->head = op;
    queue->tail = op;
}

static void queue_remove(struct ring_op_queue *queue, struct ring_op *op)
{
    assert(op != NULL);
    struct ring_op *before = NULL;
    for (struct ring_op *at = queue->head; at != op; at = at->next) {
        assert(at);
        before = at;
    }
    if (before)
        before->next = op->next;
    else
        queue->head = op->next;
    if (queue->tail == op)
        queue->tail = before;
}

static struct ring_op *queue_pop(struct ring_op_queue *queue)
{
    struct ring_op *op = queue->head;
    if (op) {
        queue->head = op->next;
        if (!queue->head)
            queue->tail = NULL;
        op->next = NULL;
    }
    return op;
}

void ring_submit(struct ring_loop *loop, enum ring_phase phase, struct ring_op *op,
                 void (*prepare)(struct ring_op *op, struct io_uring_sqe *sqe), ring_op_cb cb)
{
    assert(phase == RING_SEND || phase == RING_DRIVE);
    assert(op->state == RING_OP_IDLE);
    assert(prepare && cb);
    op->cb = cb;
    op->prepare = prepare;
    op->state = RING_OP_QUEUED;
    loop->in_flight++;
    queue_push(&loop->queues[phase], op);
}

/* A free submission entry; NULL when the kernel takes none now (then the next turn goes on). */
static struct io_uring_sqe *ring_sqe_get(struct ring_loop *loop)
{
    assert(loop != NULL);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);
    if (!sqe && loop->enabled) {
        loop->stats.enters++;
        if (io_uring_submit(&loop->ring) > 0)
            sqe = io_uring_get_sqe(&loop->ring);
    }
    if (sqe)
        memset(sqe, 0, sizeof(*sqe));
    return sqe;
}

/* True when everything queued is in the submission queue. */
static bool ring_flush(struct ring_loop *loop)
{
    assert(loop != NULL);
    for (int phase = 0; phase < RING_PHASE_COUNT; phase++) {
        struct ring_op_queue *queue = &loop->queues[phase];
        while (queue->head) {
            if (queue->head->state == RING_OP_CANCELLED) {
                queue_push(&loop->cancelled, queue_pop(queue));
                continue;
            }
            struct io_uring_sqe *sqe = ring_sqe_get(loop);
            if (!sqe)
                return false;
            struct ring_op *op = queue_pop(queue);
            assert(op->state == RING_OP_QUEUED);
            op->state = RING_OP_SUBMITTED;
            op->prepare(op, sqe);
            io_uring_sqe_set_data(sqe, op);
        }
    }
    return true;
}

/* False when there is no room. */
static bool ring_cancel_now(struct ring_loop *loop, struct ring_op *op)
{
    assert(op->state == RING_OP_SUBMITTED || op->state == RING_OP_CANCEL_LATER);
    struct io_uring_sqe *sqe = ring_sqe_get(loop);
    if (!sqe)
        return false;
    io_uring_prep_cancel(sqe, op, 0);
    io_uring_sqe_set_data(sqe, NULL); /* its own completion is of no interest */
    return true;
}

void ring_cancel(struct ring_loop *loop, struct ring_op *op)
{
    assert(loop != NULL);
    assert(op != NULL);
    if (op->state == RING_OP_QUEUED) {
        op->state = RING_OP_CANCELLED;
    } else if (op->state == RING_OP_SUBMITTED && !ring_cancel_now(loop, op)) {
        op->state = RING_OP_CANCEL_LATER;
        queue_push(&loop->cancel_later, op);
    }
}

/* The cancellations that found no room; what completed meanwhile is out of the queue again. */
static bool ring_flush_cancels(struct ring_loop *loop)
{
    assert(loop != NULL);
    while (loop->cancel_later.head) {
        if (!ring_cancel_now(loop, loop->cancel_later.head))
            return false;
        struct ring_op *op = queue_pop(&loop->cancel_later);
        assert(op->state == RING_OP_CANCEL_LATER);
        op->state = RING_OP_SUBMITTED;
    }
    return true;
}

/* ---- the turn */

/* liburing 2.3's io_uring_enable_rings, which its shared library forgot to export. */
static int ring_enable(struct ring_loop *loop)
{
    assert(loop != NULL);
    assert(!loop->enabled);
    if (syscall(__NR_io_uring_register, loop->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
        return -errno;
    loop->enabled = true;
    return 0;
}

static bool ring_has_work(const struct ring_loop *loop)
{
    assert(loop != NULL);
    return loop->task_head || loop->cancelled.head;
}

/* How long the enter may wait: 0 not at all, up to limit_ns (negative: no limit of the caller's). */
static int64_t ring_wait_ns(struct ring_loop *loop, int64_t limit_ns, bool flushed)
{
    assert(loop != NULL);
    if (!flushed || ring_has_work(loop))
        return 0;
    int64_t wait = limit_ns < 0 || limit_ns > RING_WAIT_MAX_NS ? RING_WAIT_MAX_NS : limit_ns;
    uint64_t next = timer_heap_next_ns(&loop->timers);
    if (wait > 0 && next != UINT64_MAX) {
        uint64_t now = ring_env_now_ns(&loop->env);
        if (next <= now)
            return 0;
        if (next - now < (uint64_t)wait)
            wait = (int64_t)(next - now);
    }
    return wait;
}

/* Spins for config.busy_poll_us at most; true when something came. */
static bool ring_busy_poll(struct ring_loop *loop, int64_t wait_ns)
{
    assert(loop != NULL);
    uint64_t spin_ns = (uint64_t)loop->config.busy_poll_us * 1000u;
    if ((uint64_t)wait_ns < spin_ns)
        spin_ns = (uint64_t)wait_ns;
    uint64_t end = clock_ns(CLOCK_MONOTONIC) + spin_ns;
    do {
        loop->stats.enters++;
        (void)io_uring_submit_and_get_events(&loop->ring);
        if (io_uring_cq_ready(&loop->ring) > 0 || atomic_load(&loop->mailbox.head))
            return true;
    } while (clock_ns(CLOCK_MONOTONIC) < end);
    return false;
}

static int ring_wait(struct ring_loop *loop, int64_t wait_ns)
{
    assert(loop != NULL);
    if (ring_mailbox_sleep(loop)) {
        ring_mailbox_wake(loop);
        return io_uring_submit_and_get_events(&loop->ring);
    }
    struct __kernel_timespec ts = {.tv_sec = wait_ns / 1000000000, .tv_nsec = wait_ns % 1000000000};
    struct io_uring_cqe *cqe = NULL;
    uint64_t slept_ns = clock_ns(CLOCK_MONOTONIC);
    if (loop->woken_ns)
        loop->stats.busy_ns += slept_ns - loop->woken_ns;
    int rc = io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, &ts, NULL);
    loop->woken_ns = clock_ns(CLOCK_MONOTONIC);
    ring_mailbox_wake(loop);
    return rc;
}

static int ring_enter(struct ring_loop *loop, int64_t limit_ns)
{
    assert(loop != NULL);
    bool flushed = ring_flush_cancels(loop) && ring_flush(loop);
    int64_t wait_ns = ring_wait_ns(loop, limit_ns, flushed);
    assert(wait_ns >= 0);
    int rc;
    if (wait_ns > 0 && loop->config.busy_poll_us && ring_busy_poll(loop, wait_ns))
        return 0;
    loop->stats.enters++;
    if (wait_ns == 0)
        rc = io_uring_submit_and_get_events(&loop->ring);
    else
        rc = ring_wait(loop, wait_ns);
    if (rc == -ETIME || rc == -EINTR || rc == -EAGAIN || rc == -EBUSY)
        rc = 0;
    return rc < 0 ? rc : 0;
}

static void ring_complete(struct ring_loop *loop, struct ring_op *op, int32_t res, uint32_t cqe_flags)
{
    if ((cqe_flags & IORING_CQE_F_MORE) == 0) {
        assert(loop->in_flight > 0);
        if (op->state == RING_OP_CANCEL_LATER)
            queue_remove(&loop->cancel_later, op);
        op->state = RING_OP_IDLE;
        loop->in_flight--;
    }
    loop->stats.completions++;
    op->cb(op, res, cqe_flags);
}

static void ring_reap(struct ring_loop *loop)
{
    assert(loop != NULL);
    struct {
        struct ring_op *op;
        int32_t res;
        uint32_t flags;
    } batch[RING_REAP_BATCH];
    struct io_uring_cqe *cqes[RING_REAP_BATCH];
    unsigned n;
    while ((n = io_uring_peek_batch_cqe(&loop->ring, cqes, RING_REAP_BATCH)) > 0) {
        assert(n <= RING_REAP_BATCH);
        for (unsigned i = 0; i < n; i++) {
            batch[i].op = io_uring_cqe_get_data(cqes[i]);
            batch[i].res = cqes[i]->res;
            batch[i].flags = cqes[i]->flags;
        }
        io_uring_cq_advance(&loop->ring, n);
        for (unsigned i = 0; i < n; i++) {
            if (batch[i].op)
                ring_complete(loop, batch[i].op, batch[i].res, batch[i].flags);
        }
    }
    for (struct ring_op *op; (op = queue_pop(&loop->cancelled)) != NULL;)
        ring_complete(loop, op, -ECANCELED, 0);
}

static void ring_run_timers(struct ring_loop *loop)
{
    assert(loop != NULL);
    if (timer_heap_next_ns(&loop->timers) == UINT64_MAX)
        return;
    uint64_t now = ring_env_now_ns(&loop->env);
    for (struct env_timer *timer; (timer = timer_heap_pop(&loop->timers, now)) != NULL;) {
        assert(!timer->armed);
        timer->cb(timer);
    }
}

static void ring_run_tasks(struct ring_loop *loop)
{
    for (unsigned i = 0; loop->task_head && i < RING_TASKS_PER_TURN_MAX; i++) {
        struct env_task *task = loop->task_head;
        assert(task->queued);
        loop->task_head = task->next;
        if (!loop->task_head)
            loop->task_tail = NULL;
        task->queued = false;
        task->next = NULL;
        task->cb(task);
    }
}

int ring_loop_turn(struct ring_loop *loop, int64_t timeout_ns)
{
    assert(!loop->in_turn);
    if (!loop->enabled) {
        int rc = ring_enable(loop);
        if (rc < 0)
            return rc;
    }
    if (!loop->mailbox.read_armed && !loop->stopping)
        ring_mailbox_arm(loop);
    loop->in_turn = true;
    loop->stats.turns++;
    int rc = ring_enter(loop, timeout_ns);
    ring_reap(loop);
    ring_mailbox_drain(loop);
    ring_run_timers(loop);
    ring_run_tasks(loop);
    loop->in_turn = false;
    return rc;
}

int ring_loop_run(struct ring_loop *loop)
{
    assert(loop != NULL);
    int rc = 0;
    loop->stopping = false;
    while (rc == 0 && !loop->stopping)
        rc = ring_loop_turn(loop, -1);
    ring_disarm(loop);
    loop->stopping = false;
    return rc;
}

void ring_loop_stop(struct ring_loop *loop)
{
    assert(loop != NULL);
    loop->stopping = true;
}

struct env *ring_loop_env(struct ring_loop *loop)
{
    assert(loop);
    return &loop->env;
}

void ring_loop_stats(const struct ring_loop *loop, struct ring_stats *ret_stats)
{
    assert(loop && ret_stats);
    *ret_stats = loop->stats;
}
