/* SPDX-License-Identifier: Apache-2.0 */
/* mailbox_uv: messages from other threads into a libuv loop.
 *
 *   - post: compare-and-swap onto the stack; who finds it empty wakes the loop
 *   - deliver: take the whole stack, reverse it, run the callbacks
 * Failure modes: none; uv_async_send only fails for a handle that is no async.
 */
#include "server/daemon/mailbox_uv.h"

#include <assert.h>
#include <stddef.h>

static void deliver(struct mailbox *box)
{
    struct mailbox_mail *newest = atomic_exchange(&box->head, NULL);
    struct mailbox_mail *oldest = NULL;
    while (newest) {
        struct mailbox_mail *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        struct mailbox_mail *next = oldest->next; /* the callback may free it */
        assert(oldest->cb);
        oldest->cb(oldest);
        oldest = next;
    }
}

static void woken(uv_async_t *async)
{
    assert(async->data);
    deliver(async->data);
}

int mailbox_init(struct mailbox *box, uv_loop_t *loop)
{
    assert(box && loop);
    atomic_init(&box->head, NULL);
    int rc = uv_async_init(loop, &box->async, woken);
    box->async.data = box;
    return rc;
}

void mailbox_post(struct mailbox *box, struct mailbox_mail *mail, void (*cb)(struct mailbox_mail *mail))
{
    assert(mail && cb);
    mail->cb = cb;
    struct mailbox_mail *head = atomic_load(&box->head);
    do {
        mail->next = head;
    } while (!atomic_compare_exchange_weak(&box->head, &head, mail));
    if (!head) {
        int rc = uv_async_send(&box->async);
        assert(rc == 0);
    }
}

void mailbox_close(struct mailbox *box)
{
    assert(!uv_is_closing((uv_handle_t *)&box->async));
    uv_close((uv_handle_t *)&box->async, NULL);
    while (atomic_load(&box->head))
        deliver(box);
}
