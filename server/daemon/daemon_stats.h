/* SPDX-License-Identifier: Apache-2.0 */
/* daemon_stats: what one daemon tells about its process, as JSON.
 *
 * Threading: the control thread's. Errors: NULL: out of memory. Ownership: the text is malloc'ed, given.
 */
#ifndef ASHLAR_SERVER_DAEMON_DAEMON_STATS_H
#define ASHLAR_SERVER_DAEMON_DAEMON_STATS_H

char *daemon_stats_json(void);

#endif
