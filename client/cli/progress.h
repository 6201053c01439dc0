/* SPDX-License-Identifier: Apache-2.0 */
/* progress: one line on stderr that says how far a long copy is: share, bytes, rate, time left.
 *
 * Concept: drawn anew a few times a second, on a terminal only; progress_end leaves the last line.
 * Threading: one thread. Errors: none. Ownership: the struct is the caller's.
 */
#ifndef ASHLAR_CLIENT_CLI_PROGRESS_H
#define ASHLAR_CLIENT_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *what;
    uint64_t total, started_ms, drawn_ms;
    uint64_t copied; /* bytes of data, holes left out */
    bool shown;
};

void progress_begin(struct progress *progress, const char *what, uint64_t total, bool quiet);
void progress_at(struct progress *progress, uint64_t position, uint64_t copied);
void progress_end(struct progress *progress);

#endif
