/* SPDX-License-Identifier: Apache-2.0 */
/* mailbox_uv: messages from other threads into a libuv loop; what ring_post is for the data thread.
 *
 * Concept: mailbox_post pushes onto a lock-free stack and wakes the loop if the stack was empty; the loop takes the whole
 *   stack and reverses it, so the order of one poster is kept.
 * Threading: post on any thread, all else and the callbacks on the loop's. Errors: none after create.
 * Ownership: mail is embedded by the caller, borrowed until its callback. Mail that was posted and not delivered when
 *   mailbox_close is called is delivered from inside that call; nobody may post after it.
 */
#ifndef ASHLAR_SERVER_DAEMON_MAILBOX_UV_H
#define ASHLAR_SERVER_DAEMON_MAILBOX_UV_H

#include <stdatomic.h>
#include <uv.h>

struct mailbox_mail {
    void (*cb)(struct mailbox_mail *mail);
    struct mailbox_mail *next; /* private */
};

struct mailbox { /* private */
    uv_async_t async;
    _Atomic(struct mailbox_mail *) head;
};

int mailbox_init(struct mailbox *box, uv_loop_t *loop); /* 0 or -errno */
void mailbox_post(struct mailbox *box, struct mailbox_mail *mail, void (*cb)(struct mailbox_mail *mail));
void mailbox_close(struct mailbox *box); /* the loop must run once more */

#endif
