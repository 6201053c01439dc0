/* SPDX-License-Identifier: Apache-2.0 */
/* daemon: one ashlard from start to end: its two threads, what joins them, signals.
 *
 * Threading: the calling thread becomes the control thread. Errors: an exit status, after one line in the log.
 * Ownership: settings are borrowed for the call.
 */
#ifndef ASHLAR_SERVER_DAEMON_DAEMON_H
#define ASHLAR_SERVER_DAEMON_DAEMON_H

#include <stdbool.h>

#include "server/daemon/settings.h"

/* Runs until SIGTERM or SIGINT (0), or until it cannot go on (1). *ret_start_anew: the cluster declared this node down while
 * it lived; the caller puts a new process in its place, which calls this with started_anew. */
int daemon_run(const struct settings *settings, bool started_anew, bool *ret_start_anew);

#endif
