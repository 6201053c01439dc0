/* SPDX-License-Identifier: Apache-2.0 */
/* daemon_internal: what daemon.c (life) and daemon_control.c (the control side) share.
 *
 * Threading: the control thread's. Errors: 0 or -errno. Ownership: the daemon owns all of it.
 */
#ifndef ASHLAR_SERVER_DAEMON_DAEMON_INTERNAL_H
#define ASHLAR_SERVER_DAEMON_DAEMON_INTERNAL_H

#include <uv.h>

#include "common/env.h"
#include "common/transport.h"
#include "server/control/control.h"
#include "server/daemon/daemon_bridge.h"
#include "server/daemon/daemon_log.h"
#include "server/daemon/data_thread.h"
#include "server/daemon/mailbox_uv.h"
#include "server/daemon/node_state.h"
#include "server/daemon/settings.h"
#include "server/daemon/spare_memory.h"

#define DAEMON_CONTROL_BUFFER_BYTES (8u << 20)
#define DAEMON_PATIENCE_MS 3000u  /* of a stop with the cluster's help; then control closes */
#define DAEMON_DEADLINE_MS 10000u /* of a stop */
#define DAEMON_BUSY_WAIT_MS 20000u
#define DAEMON_SIGNALS 3u

struct daemon {
    const struct settings *settings;
    bool started_anew;
    uv_loop_t loop;
    bool loop_open, box_open;
    struct env *env;
    struct buf_pool *pool;
    struct transport *transport;
    struct mailbox box;
    struct spare_memory spare;
    struct data_thread *data;
    struct daemon_bridge *bridge;
    uv_signal_t signals[DAEMON_SIGNALS];
    uint32_t signal_count;
    /* daemon_control.c */
    struct control *control;
    struct daemon_log *log; /* NULL: not a voter, or not open */
    void *saved_map;
    bool control_started, control_ending, control_ended;
    struct env_task stop_task;
    int stop_task_status;
    /* stop */
    bool stopping, data_started, data_ended, start_anew;
    int status; /* exit status */
    struct env_timer patience_timer, deadline_timer;
};

void daemon_stop(struct daemon *d, int status); /* idempotent; the worst status counts */

/* The store is open: this node's control side begins. */
int daemon_control_start(struct daemon *d);
void daemon_control_end(struct daemon *d); /* idempotent; ends by daemon_control_ended */
void daemon_control_ended(struct daemon *d);
void daemon_control_destroy(struct daemon *d);

#endif
