/* SPDX-License-Identifier: Apache-2.0 */
/* nbdkit_process: starts and ends the nbdkit of an attachment.
 *
 * Concept: nbdkit runs in a session of its own, with the plugin found beside this program (build tree, or installed), on the
 *   attachment's socket, its messages in the attachment's log. It is told apart from any other process by attachment_alive.
 * Threading: blocking until the deadline. Errors: -errno. Ownership: the process outlives us.
 */
#ifndef ASHLAR_CLIENT_CLI_NBDKIT_PROCESS_H
#define ASHLAR_CLIENT_CLI_NBDKIT_PROCESS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/cli/attachment.h"

struct nbdkit_start {
    const char *cluster_path; /* NULL: addresses, then */
    const char *addresses;
    const char *io_timeout; /* NULL: none */
    bool read_only, force;
    uint32_t threads;
    uint64_t deadline_ms;
};
#define NBDKIT_WHY_MAX 512
/* Fills in a->pid; returns once the volume is served. why: a sentence about a failure. */
int nbdkit_process_start(struct attachment *a, const struct nbdkit_start *start, uint64_t *ret_size,
                         char why[NBDKIT_WHY_MAX]);
/* -ETIMEDOUT: it goes on (its requests wait for the cluster); force kills it. */
int nbdkit_process_stop(const struct attachment *a, bool force, uint64_t deadline_ms);
/* Path of a program or plugin of ours: beside the running program in a build tree, else as installed. */
int nbdkit_process_find(const char *in_build, const char *installed, char path[PATH_MAX]);

#endif
