/* SPDX-License-Identifier: Apache-2.0 */
/* What was freed stays in the process and is used again; idle periods give it back. Method: the process's own resident size;
 * time is a stub's. */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/daemon/spare_memory.h"

#define BLOCK_BYTES (512u << 10)
#define BLOCKS 24u
#define MIB (1ull << 20)

static struct env_timer *armed;

static void stub_start(struct env *env, struct env_timer *timer, uint64_t delay_ns, env_timer_cb cb)
{
    (void)env;
    assert_int_equal(delay_ns, ENV_MS(SPARE_MEMORY_PERIOD_MS));
    timer->cb = cb;
    timer->armed = true;
    armed = timer;
}

static void stub_stop(struct env *env, struct env_timer *timer)
{
    (void)env;
    timer->armed = false;
    armed = NULL;
}

static const struct env_ops ops = {.timer_start = stub_start, .timer_stop = stub_stop};
static struct env env = {.ops = &ops};

static void fire(void)
{
    struct env_timer *timer = armed;
    assert_non_null(timer);
    armed = NULL;
    timer->armed = false;
    timer->cb(timer);
}

static uint64_t resident_bytes(void)
{
    unsigned long long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%llu %llu", &total, &resident), 2);
    (void)fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Blocks of which the last stays: what is below it does not go back by itself, wherever the threshold is. */
static void *use_and_free(void)
{
    char *blocks[BLOCKS];
    for (uint32_t i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(BLOCK_BYTES);
        assert_non_null(blocks[i]);
        memset(blocks[i], 1, BLOCK_BYTES);
    }
    void *last = malloc(64);
    assert_non_null(last);
    for (uint32_t i = 0; i < BLOCKS; i++)
        free(blocks[i]);
    return last;
}

/* Goal: what was freed is used again and not faulted in anew; then it goes back. */
static void test_freed_is_kept_until_it_is_given_back(void **state)
{
    (void)state;
    spare_memory_init();
    uint64_t before = resident_bytes();
    void *last = use_and_free();
    assert_true(resident_bytes() >= before + BLOCKS * BLOCK_BYTES - MIB);
    assert_true(spare_memory_give_back() >= BLOCKS * BLOCK_BYTES - MIB);
    assert_true(resident_bytes() <= before + 2 * MIB);
    assert_true(spare_memory_give_back() == 0 || mallinfo2().fordblks >= SPARE_MEMORY_MIN);
    free(last);
}

static void burn(uint64_t ns)
{
    struct timespec begin, now;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin), 0);
    do {
        assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now), 0);
    } while ((uint64_t)(now.tv_sec - begin.tv_sec) * 1000000000u + (uint64_t)now.tv_nsec <
             ns + (uint64_t)begin.tv_nsec);
}

/* Goal: a busy period gives nothing back, an idle one does, and the timer goes on. */
static void test_only_idle_periods_give_back(void **state)
{
    (void)state;
    struct spare_memory spare = {0};
    spare_memory_init();
    spare_memory_start(&spare, &env);
    void *last = use_and_free();
    uint64_t full = resident_bytes();
    burn(ENV_MS(SPARE_MEMORY_PERIOD_MS) / 15);
    fire();
    assert_true(resident_bytes() + MIB >= full);
    fire();
    assert_true(resident_bytes() + BLOCKS * BLOCK_BYTES <= full + 2 * MIB);
    assert_non_null(armed);
    spare_memory_stop(&spare);
    assert_null(armed);
    spare_memory_stop(&spare);
    free(last);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_freed_is_kept_until_it_is_given_back),
        cmocka_unit_test(test_only_idle_periods_give_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
