/* SPDX-License-Identifier: Apache-2.0 */
/* daemon_bridge: server/control/bridge.h between two threads.
 *
 * Concept: each side talks to a proxy with the ops of the other side. A message is copied into a mail (ring_post towards
 *   data, mailbox_post towards control), and the receiver's own ops are called on its thread. A request that crosses
 *   has a twin on the control thread; its result comes back as mail, behind the map entries that made it.
 * Threading: to_data on the control thread, to_control on the data thread; create and destroy while only one of them runs.
 * Errors: none after create. Out of memory ends the process: a lost message would be worse.
 * Ownership: loops, mailbox and receivers are borrowed.
 */
#ifndef ASHLAR_SERVER_DAEMON_DAEMON_BRIDGE_H
#define ASHLAR_SERVER_DAEMON_DAEMON_BRIDGE_H

#include "common/ring/ring.h"
#include "server/control/bridge.h"
#include "server/daemon/mailbox_uv.h"

struct daemon_bridge;

struct daemon_bridge_config {
    struct ring_loop *data_loop;
    struct mailbox *control_box;
    struct bridge_to_data *data;       /* the data thread's receiver */
    struct bridge_to_control *control; /* the control thread's; may be set later by daemon_bridge_set_control */
    /* On the data thread, before the result of a request is given to it. May be NULL. */
    void (*before_result)(void *arg);
    void *arg;
};

int daemon_bridge_create(const struct daemon_bridge_config *config, struct daemon_bridge **ret_bridge);
void daemon_bridge_destroy(struct daemon_bridge *bridge); /* no message on its way; accepts NULL */
struct bridge_to_data *daemon_bridge_to_data(struct daemon_bridge *bridge);
struct bridge_to_control *daemon_bridge_to_control(struct daemon_bridge *bridge);
/* Control thread. NULL: control closed; requests that arrive from now on end with -ESHUTDOWN, messages are dropped. */
void daemon_bridge_set_control(struct daemon_bridge *bridge, struct bridge_to_control *control);
/* Control thread: the data thread is gone; messages to it are dropped. */
void daemon_bridge_data_ended(struct daemon_bridge *bridge);

#endif
