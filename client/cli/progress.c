/* SPDX-License-Identifier: Apache-2.0 */
/* progress: one line on stderr about a long copy.
 *
 *   - a bar, the share of the whole, what was copied, the rate, and when it will be done at this rate
 * Failure modes: none; without a terminal nothing is drawn.
 */
#include "client/cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/cli/text.h"

#define DRAW_MS 200u
#define BAR 24u

static uint64_t now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

void progress_begin(struct progress *progress, const char *what, uint64_t total, bool quiet)
{
    *progress = (struct progress){.what = what, .total = total ? total : 1, .started_ms = now_ms()};
    progress->shown = !quiet && isatty(STDERR_FILENO);
}

static void draw(const struct progress *progress, uint64_t position, uint64_t spent_ms)
{
    char bar[BAR + 1], copied[TEXT_SIZE_MAX], rate[TEXT_SIZE_MAX];
    size_t filled = (size_t)(BAR * (double)position / (double)progress->total);
    memset(bar, '.', BAR);
    memset(bar, '#', filled < BAR ? filled : BAR);
    bar[BAR] = '\0';
    uint64_t per_s = spent_ms > 0 ? progress->copied * 1000 / spent_ms : 0;
    uint64_t left_s =
        position > 0 ? (uint64_t)((double)spent_ms * (double)(progress->total - position) / (double)position / 1000.0)
                     : 0;
    fprintf(stderr, "\r%s [%s] %3u %%  %s copied  %s/s  %llu:%02llu left   ", progress->what, bar,
            (unsigned)(100 * position / progress->total), text_size(progress->copied, copied), text_size(per_s, rate),
            (unsigned long long)(left_s / 60), (unsigned long long)(left_s % 60));
    (void)fflush(stderr);
}

void progress_at(struct progress *progress, uint64_t position, uint64_t copied)
{
    uint64_t now = now_ms();
    progress->copied += copied;
    if (!progress->shown || now - progress->drawn_ms < DRAW_MS)
        return;
    progress->drawn_ms = now;
    draw(progress, position < progress->total ? position : progress->total, now - progress->started_ms);
}

void progress_end(struct progress *progress)
{
    if (!progress->shown)
        return;
    draw(progress, progress->total, now_ms() - progress->started_ms);
    fprintf(stderr, "\n");
}
