/* SPDX-License-Identifier: Apache-2.0 */
/* log: structured lines "TIME LEVEL node=N module: message key=value ..." to stderr, a file or a hook.
 *
 * Concept: one line an event, written whole; rate-limited per call site where a peer could cause floods.
 * Threading: any thread; a line is one write(2).
 * Errors: none returned; a log that cannot be written is dropped.
 * Ownership: nothing kept but what log_init copied.
 */
#ifndef ASHLAR_COMMON_LOG_H
#define ASHLAR_COMMON_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR = 0, LOG_WARN = 1, LOG_INFO = 2, LOG_DEBUG = 3, LOG_TRACE = 4 };

/* line: the message alone; control characters are replaced by '?' wherever it goes. */
typedef void (*log_hook)(void *arg, enum log_level level, const char *module, const char *line);

void log_init(enum log_level level, const char *node_label); /* stderr until log_to_file; label may be NULL */
int log_to_file(const char *path);                           /* append; 0 or -errno; call again to reopen */
void log_set_hook(log_hook hook, void *arg);                 /* replaces the output (simulator, tests); NULL: back */
enum log_level log_level_get(void);
int log_level_parse(const char *name, enum log_level *ret_level);
void log_line(enum log_level level, const char *module, const char *format, ...) __attribute__((format(printf, 3, 4)));

#define LOG_LINE_MAX 1024 /* bytes of a whole line; longer ones are cut and end in "..." */

/* For lines that a peer can cause: LOG_BURST_MAX of them in LOG_WINDOW_NS, then silence until the window ends. The
 * time is the caller's env clock. Zero-initialise. */
#define LOG_BURST_MAX 10u
#define LOG_WINDOW_NS 10000000000u
struct log_limiter {
    uint64_t window_start_ns;
    uint32_t count;      /* lines let through in this window */
    uint32_t suppressed; /* lines held back since the last one let through; the line may report it */
};
/* suppressed is reset by the first line of a new window: *ret_suppressed (may be NULL) says how many were held back. */
bool log_allow(struct log_limiter *limiter, uint64_t now_ns, uint32_t *ret_suppressed);

/* LOG_MODULE is a string literal each .c file defines before its first use. */
#define log_at(level, ...)                              \
    do {                                                \
        if ((level) <= log_level_get())                 \
            log_line((level), LOG_MODULE, __VA_ARGS__); \
    } while (0)
#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)
#define log_trace(...) log_at(LOG_TRACE, __VA_ARGS__)

#endif
