/* SPDX-License-Identifier: Apache-2.0 */
/* spare_memory: what the process once needed goes back to the kernel when nobody needs it.
 *
 *   - malloc keeps what is freed: its thresholds are fixed, where they would follow the sizes that pass by. RocksDB's
 *     memtables come and go by the megabyte, and the pages of a new one are the freed pages of an old one;
 *   - every five seconds: has the process been idle, and is a megabyte free, all that is free goes back.
 *
 * Failure modes: none; a process that is never idle keeps its peak, which the sizes of its caches and buffers bound.
 */
#include "server/daemon/spare_memory.h"

#include <assert.h>
#include <malloc.h>
#include <sys/resource.h>

#include "common/list.h"
#include "common/log.h"

#define LOG_MODULE "daemon"
#define MMAP_THRESHOLD_BYTES (4 << 20) /* what is larger is not kept: the pools of the start */
#define TRIM_THRESHOLD_BYTES (32 << 20)
#define IDLE_PERCENT 5u /* of a core */

void spare_memory_init(void)
{
    assert(MMAP_THRESHOLD_BYTES < TRIM_THRESHOLD_BYTES);
    (void)mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES); /* a sanitizer's malloc has no such option */
    (void)mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES);
}

static uint64_t cpu_us(void)
{
    struct rusage usage;
    int rc = getrusage(RUSAGE_SELF, &usage);
    assert(rc == 0);
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000u +
           (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

size_t spare_memory_give_back(void)
{
    struct mallinfo2 info = mallinfo2();
    assert(info.fordblks <= info.arena);
    if (info.fordblks < SPARE_MEMORY_MIN)
        return 0;
    return malloc_trim(0) ? info.fordblks : 0;
}

static void period_ended(struct env_timer *timer)
{
    struct spare_memory *self = list_entry(timer, struct spare_memory, timer);
    uint64_t now_us = cpu_us(), used_us = now_us - self->cpu_us;
    assert(now_us >= self->cpu_us);
    self->cpu_us = now_us;
    if (used_us <= SPARE_MEMORY_PERIOD_MS * 1000u * IDLE_PERCENT / 100u) {
        size_t bytes = spare_memory_give_back();
        if (bytes > 0)
            log_debug("memory goes back free=%zu", bytes);
    }
    env_timer_start(self->env, &self->timer, ENV_MS(SPARE_MEMORY_PERIOD_MS), period_ended);
}

void spare_memory_start(struct spare_memory *self, struct env *env)
{
    assert(env && !self->env);
    self->env = env;
    self->cpu_us = cpu_us();
    env_timer_start(env, &self->timer, ENV_MS(SPARE_MEMORY_PERIOD_MS), period_ended);
}

void spare_memory_stop(struct spare_memory *self)
{
    if (self->env)
        env_timer_stop(self->env, &self->timer);
    assert(!self->timer.armed);
    self->env = NULL;
}
