/* SPDX-License-Identifier: Apache-2.0 */
/* daemon_log: server/control/consensus.h as the replicated log of a control core (struct control_log).
 *
 * Threading: the control thread's. Errors: 0 or -errno of consensus.h, and one line that says what to do.
 * Ownership: settings are borrowed; the control core is borrowed until daemon_log_close's callback.
 */
#ifndef ASHLAR_SERVER_DAEMON_DAEMON_LOG_H
#define ASHLAR_SERVER_DAEMON_DAEMON_LOG_H

#include <stdbool.h>

#include "server/control/control.h"
#include "server/daemon/settings.h"

struct uv_loop_s;
struct daemon_log;

/* directory: exists. may_bootstrap: this voter's first start. failed: the log is dead, close it; may be called at any time later. */
int daemon_log_open(const struct settings *settings, const char *directory, bool may_bootstrap, struct uv_loop_s *loop,
                    void (*failed)(void *arg, int rc), void *arg, struct daemon_log **ret_log);
struct control_log *daemon_log_base(struct daemon_log *log);
int daemon_log_start(struct daemon_log *log, struct control *control); /* from here on entries reach the core */
void daemon_log_close(struct daemon_log *log, void (*cb)(void *arg), void *arg); /* frees before cb; NULL: cb at once */

#endif
