/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log: one line an event, put together on the stack and written whole.
 *
 * - log_line formats the message, replaces control characters (peers' text may be in it), adds the
 *   wall-clock time, and hands the line to the hook or to one write(2)
 * - log_to_file opens the file and slides it under the same descriptor number, so that a reopening
 *   never leaves another thread with a closed descriptor
 *
 * A line that can not be written, or not whole, is lost: logging never blocks or fails its caller.
 * Level and descriptor are atomics; label and hook are set before other threads start.
 */
#include "common/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

enum { LABEL_MAX = 64, PREFIX_MAX = 256 };
_Static_assert(PREFIX_MAX < LOG_LINE_MAX, "room for a message after the prefix");

static const char *const level_names[] = {"ERROR", "WARN", "INFO", "DEBUG", "TRACE"};
_Static_assert(sizeof(level_names) / sizeof(level_names[0]) == LOG_TRACE + 1, "a name a level");

static struct {
    atomic_int level;
    atomic_int fd;
    char label[LABEL_MAX];
    log_hook hook;
    void *hook_arg;
} log_state = {.level = LOG_INFO, .fd = STDERR_FILENO};

void log_init(enum log_level level, const char *node_label)
{
    assert(level >= LOG_ERROR);
    assert(level <= LOG_TRACE);
    atomic_store(&log_state.level, (int)level);
    log_state.label[0] = '\0';
    if (node_label != NULL)
        (void)snprintf(log_state.label, sizeof(log_state.label), "%s", node_label);
}

int log_to_file(const char *path)
{
    assert(path != NULL);
    int fresh = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    if (fresh < 0)
        return -errno;
    int fd = atomic_load(&log_state.fd);
    assert(fd != fresh);
    if (fd == STDERR_FILENO) {
        atomic_store(&log_state.fd, fresh);
        return 0;
    }
    int rc = dup3(fresh, fd, O_CLOEXEC) < 0 ? -errno : 0;
    (void)close(fresh);
    return rc;
}

void log_set_hook(log_hook hook, void *arg)
{
    assert(hook != NULL || arg == NULL);
    log_state.hook = hook;
    log_state.hook_arg = arg;
}

enum log_level log_level_get(void)
{
    int level = atomic_load_explicit(&log_state.level, memory_order_relaxed);
    assert(level >= LOG_ERROR && level <= LOG_TRACE);
    return (enum log_level)level;
}

int log_level_parse(const char *name, enum log_level *ret_level)
{
    assert(name != NULL);
    assert(ret_level != NULL);
    for (int i = LOG_ERROR; i <= LOG_TRACE; i++) {
        if (strcasecmp(name, level_names[i]) == 0) {
            *ret_level = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

bool log_allow(struct log_limiter *limiter, uint64_t now_ns, uint32_t *ret_suppressed)
{
    assert(limiter != NULL);
    assert(limiter->count <= LOG_BURST_MAX);
    uint32_t suppressed = 0;
    if (limiter->count == 0 || now_ns - limiter->window_start_ns >= LOG_WINDOW_NS) {
        suppressed = limiter->suppressed;
        *limiter = (struct log_limiter){.window_start_ns = now_ns};
    }
    if (limiter->count == LOG_BURST_MAX) {
        if (limiter->suppressed < UINT32_MAX)
            limiter->suppressed++;
        return false;
    }
    limiter->count++;
    if (ret_suppressed != NULL)
        *ret_suppressed = suppressed;
    return true;
}

/* "2025-01-31T12:00:00.123456Z WARN node=3 gateway: "; returns its length. */
static size_t write_prefix(char *line, enum log_level level, const char *module)
{
    struct timespec now;
    struct tm utc;
    int rc = clock_gettime(CLOCK_REALTIME, &now);
    assert(rc == 0);
    if (gmtime_r(&now.tv_sec, &utc) == NULL)
        memset(&utc, 0, sizeof(utc));
    char date[32];
    if (strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &utc) == 0)
        date[0] = '\0';
    const char *label = log_state.label;
    int length = snprintf(line, PREFIX_MAX, "%s.%06ldZ %s %s%s%s%s: ", date, now.tv_nsec / 1000, level_names[level],
                          label[0] != '\0' ? "node=" : "", label, label[0] != '\0' ? " " : "", module);
    assert(length > 0);
    return length < PREFIX_MAX ? (size_t)length : PREFIX_MAX - 1u;
}

/* One line is one line: what a peer sent can not forge another. Returns the length. */
static size_t write_message(char *out, size_t size, const char *format, va_list args)
{
    assert(out != NULL);
    assert(size > 4);
    int length = vsnprintf(out, size, format, args);
    if (length < 0)
        return 0;
    size_t kept = (size_t)length;
    if (kept >= size) {
        kept = size - 1;
        memcpy(out + kept - 3, "...", 3);
    }
    for (size_t i = 0; i < kept; i++) {
        unsigned char c = (unsigned char)out[i];
        if (c < 0x20 || c == 0x7f)
            out[i] = '?';
    }
    return kept;
}

void log_line(enum log_level level, const char *module, const char *format, ...)
{
    assert(level >= LOG_ERROR && level <= LOG_TRACE);
    assert(module != NULL);
    assert(format != NULL);
    int saved_errno = errno;
    char line[LOG_LINE_MAX];
    log_hook hook = log_state.hook;
    size_t length = hook == NULL ? write_prefix(line, level, module) : 0;
    va_list args;
    va_start(args, format);
    length += write_message(line + length, sizeof(line) - length - 1, format, args);
    va_end(args);
    assert(length < sizeof(line) - 1);
    if (hook != NULL) {
        line[length] = '\0';
        hook(log_state.hook_arg, level, module, line);
    } else {
        line[length++] = '\n';
        ssize_t written = write(atomic_load(&log_state.fd), line, length);
        (void)written; /* a log that can not be written is dropped */
    }
    errno = saved_errno;
}
