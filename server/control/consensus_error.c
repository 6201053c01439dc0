/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RAFT_* to -errno, and the log line that keeps what errno cannot say.
 *
 * The happy path: 0 stays 0. Each code maps to the errno nearest in meaning;
 * several share one, which is why callers log raft_strerror() as well.
 *
 * Failure modes: an unknown code becomes -EIO; a message too long for the line
 * is cut.
 */
#include "server/control/consensus_ops.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#define LOG_LINE_MAX 512u

int consensus_errno(int raft_rc)
{
    assert(raft_rc >= 0);
    switch (raft_rc) {
    case 0: return 0;
    case RAFT_NOMEM: return -ENOMEM;
    case RAFT_BADID:
    case RAFT_DUPLICATEID:
    case RAFT_DUPLICATEADDRESS:
    case RAFT_BADROLE:
    case RAFT_INVALID: return -EINVAL;
    case RAFT_MALFORMED:
    case RAFT_CORRUPT: return -EBADMSG;
    case RAFT_NOTLEADER: return -EAGAIN;
    case RAFT_LEADERSHIPLOST: return -EINPROGRESS;
    case RAFT_SHUTDOWN: return -ESHUTDOWN;
    case RAFT_CANTBOOTSTRAP: return -EEXIST;
    case RAFT_CANTCHANGE:
    case RAFT_BUSY: return -EBUSY;
    case RAFT_CANCELED: return -ECANCELED;
    case RAFT_NAMETOOLONG: return -ENAMETOOLONG;
    case RAFT_TOOBIG: return -EMSGSIZE;
    case RAFT_NOCONNECTION: return -ENOTCONN;
    case RAFT_NOTFOUND: return -ENOENT;
    case RAFT_UNAUTHORIZED: return -EACCES;
    case RAFT_NOSPACE: return -ENOSPC;
    case RAFT_TOOMANY: return -EMFILE;
    default: return -EIO;
    }
}

void consensus_log(const struct consensus *c, enum consensus_log_level level, const char *format, ...)
{
    char line[LOG_LINE_MAX];
    va_list args;
    assert(format != NULL);
    if (c->log == NULL)
        return;
    va_start(args, format);
    int n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    assert(n >= 0);
    c->log(c->log_arg, level, line);
}
