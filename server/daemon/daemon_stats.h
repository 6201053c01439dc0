/* SPDX-License-Identifier: Apache-2.0 */
/* daemon_stats: what one daemon tells about itself, as JSON: its process, its store, its volumes' latencies.
 *
 * Threading: the control thread's. Errors: NULL: out of memory. Ownership: the text is malloc'ed, given.
 */
#ifndef ASHLAR_SERVER_DAEMON_DAEMON_STATS_H
#define ASHLAR_SERVER_DAEMON_DAEMON_STATS_H

#include "server/control/bridge.h"

char *daemon_stats_json(const struct bridge_stats *stats); /* stats may be NULL: none came yet */

#endif
