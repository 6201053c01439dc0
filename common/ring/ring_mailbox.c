/* SPDX-License-Identifier: Apache-2.0 */
/* ring_mailbox: messages from other threads into the loop.
 *
 *   - ring_post pushes onto a lock-free stack; the loop takes the whole stack and reverses it: order per poster kept;
 *   - before it blocks, the loop says so (asleep), looks once more at the stack, and only then waits;
 *   - a poster who finds asleep set takes it and writes the eventfd, whose read is kept armed in the ring: at most
 *     one write(2) per batch, none at all while the loop is awake.
 * The push and the loop's second look are both sequentially consistent: one of the two sees the other (Dekker).
 * Failure modes: a failed eventfd write can only be EAGAIN (already signalled), which is as good as a success.
 */
#include <assert.h>
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/list.h"
#include "common/ring/ring_internal.h"

int ring_mailbox_init(struct ring_loop *loop)
{
    assert(loop != NULL);
    struct ring_mailbox *box = &loop->mailbox;
    atomic_init(&box->head, NULL);
    atomic_init(&box->asleep, false);
    box->event_fd = eventfd(0, EFD_CLOEXEC); /* blocking: else the ring's read would fail with EAGAIN */
    return box->event_fd < 0 ? -errno : 0;
}

void ring_mailbox_close(struct ring_loop *loop)
{
    assert(!loop->mailbox.read_armed);
    assert(atomic_load(&loop->mailbox.head) == NULL);
    (void)close(loop->mailbox.event_fd);
}

static void mailbox_prepare(struct ring_op *op, struct io_uring_sqe *sqe)
{
    struct ring_mailbox *box = list_entry(op, struct ring_mailbox, read_op);
    assert(box->read_armed);
    io_uring_prep_read(sqe, box->event_fd, &box->read_value, sizeof(box->read_value), 0);
}

static void mailbox_read_done(struct ring_op *op, int32_t res, uint32_t cqe_flags)
{
    struct ring_mailbox *box = list_entry(op, struct ring_mailbox, read_op);
    (void)cqe_flags;
    assert(res == (int32_t)sizeof(box->read_value) || res == -ECANCELED || res == -EINTR);
    box->read_armed = false; /* the next turn arms it again */
}

void ring_mailbox_arm(struct ring_loop *loop)
{
    assert(loop != NULL);
    assert(!loop->mailbox.read_armed);
    loop->mailbox.read_armed = true;
    ring_submit(loop, RING_SEND, &loop->mailbox.read_op, mailbox_prepare, mailbox_read_done);
}

bool ring_mailbox_sleep(struct ring_loop *loop)
{
    assert(loop != NULL);
    atomic_store(&loop->mailbox.asleep, true);
    return atomic_load(&loop->mailbox.head) != NULL;
}

void ring_mailbox_wake(struct ring_loop *loop)
{
    assert(loop != NULL);
    atomic_store(&loop->mailbox.asleep, false);
}

void ring_mailbox_drain(struct ring_loop *loop)
{
    assert(loop != NULL);
    if (!atomic_load_explicit(&loop->mailbox.head, memory_order_relaxed))
        return;
    struct ring_mail *newest = atomic_exchange(&loop->mailbox.head, NULL), *oldest = NULL;
    while (newest) {
        struct ring_mail *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        struct ring_mail *mail = oldest;
        oldest = mail->next;
        mail->next = NULL;
        loop->stats.mails++;
        mail->cb(mail);
    }
}

void ring_post(struct ring_loop *loop, struct ring_mail *mail, void (*cb)(struct ring_mail *mail))
{
    struct ring_mailbox *box = &loop->mailbox;
    assert(mail && cb);
    mail->cb = cb;
    mail->next = atomic_load_explicit(&box->head, memory_order_relaxed);
    while (!atomic_compare_exchange_weak(&box->head, &mail->next, mail))
        ;
    if (atomic_load(&box->asleep) && atomic_exchange(&box->asleep, false)) {
        uint64_t one = 1;
        ssize_t n = write(box->event_fd, &one, sizeof(one));
        assert(n == (ssize_t)sizeof(one) || errno == EAGAIN || errno == EINTR);
    }
}
