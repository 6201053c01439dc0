/* SPDX-License-Identifier: Apache-2.0 */
/* attachment: the nbdkit processes that `ashlar attach` left running on this host, as files.
 *
 *   RUN/attach/NAME/pid     "PID START": the process and its start time (/proc/PID/stat), so that a reused pid is not taken for it
 *   RUN/attach/NAME/nbd.sock, log, options (what attach was asked for)
 *   RUN is DIR/run of a cluster of deploy/local (its file is DIR/cluster.conf), else $ASHLAR_DIR/run, else /run/ashlar,
 *   for another user than root $XDG_RUNTIME_DIR/ashlar
 * Concept: an attachment lives while its process does; what a dead one left is removed by the next attach or detach.
 * Threading: commands lock RUN/attach/NAME.lock. Errors: -errno. Ownership: strings are in the struct.
 */
#ifndef ASHLAR_CLIENT_CLI_ATTACHMENT_H
#define ASHLAR_CLIENT_CLI_ATTACHMENT_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define ATTACHMENT_NAME_MAX 128u /* VOLUME or VOLUME@SNAPSHOT */

struct attachment {
    char name[ATTACHMENT_NAME_MAX];
    char directory[PATH_MAX];
    char socket[PATH_MAX];
    char log[PATH_MAX];
    bool read_only;
    pid_t pid; /* 0: none */
    uint64_t start_ticks;
    int lock_fd; /* -1: not locked */
};

bool attachment_name_valid(const char *name);
/* Fills in paths and what the files say. -EINVAL: no volume has such a name. */
int attachment_load(struct attachment *a, const char *cluster_path, const char *name);
/* Makes the directory and locks it; -EBUSY: another attach or detach of the name runs. */
int attachment_lock(struct attachment *a);
void attachment_unlock(struct attachment *a); /* of an attachment that was removed: its directories, too */
int attachment_save(const struct attachment *a);
void attachment_remove(struct attachment *a);            /* files only */
bool attachment_alive(const struct attachment *a);       /* the very process that attach started */
uint32_t attachment_clients(const struct attachment *a); /* connections to its socket now */
uint64_t attachment_start_ticks(pid_t pid);              /* 0: no such process */

/* Calls fn for each attachment there is a directory of. */
int attachment_each(const char *cluster_path, int (*fn)(const struct attachment *a, void *arg), void *arg);

#endif
