/* SPDX-License-Identifier: Apache-2.0 */
/* sim_main: seeds in this process, one after the other: sim_main SCENARIO SEED[-LAST] [trace]. tests/sim/run calls it.
 *
 * - prints each seed first, one line of result last, and on a failure what every node did last. Several seeds are quicker than
 *   as many processes: the memory is there already. A seed does not depend on those before it.
 * Failure: the worst seed's exit code: 1; 2 for a scenario that is not understood; 3 if all went well, but not all of its steps
 *   came. An abort of the shipped code reports, and dies: the seeds after it did not run.
 */
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/sim.h"

#define HUGE_BYTES (2u << 20)
#define HEAP_BYTES (256u << 20)

static void aborted(int signal_number)
{
    (void)signal(signal_number, SIG_DFL);
    sim_report_abort();
    (void)fflush(NULL);
    (void)raise(signal_number);
}

/* Buffers come and go all the time: given back to the kernel, or in small pages, each would be faulted in again. */
static void warm_heap(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 30);
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
    (void)mallopt(M_TOP_PAD, 16 << 20);
    char *memory = malloc(HEAP_BYTES);
    if (memory) {
        uintptr_t first = ((uintptr_t)memory + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
        (void)madvise((void *)first, HEAP_BYTES - HUGE_BYTES, MADV_HUGEPAGE);
    }
    free(memory);
}

static double seconds(const struct timespec *began, const struct timespec *ended)
{
    double passed = (double)(ended->tv_sec - began->tv_sec) + (double)(ended->tv_nsec - began->tv_nsec) / 1e9;
    return passed > 1e-6 ? passed : 1e-6;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s SCENARIO SEED [trace]\n", argv[0]);
        return 2;
    }
    char *end;
    uint64_t seed = strtoull(argv[2], &end, 0), last = *end == '-' ? strtoull(end + 1, &end, 0) : seed;
    double virtual_seconds = 0;
    int worst = 0;
    struct timespec began, ended, began_cpu, ended_cpu;
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    (void)signal(SIGABRT, aborted);
    (void)signal(SIGSEGV, aborted);
    warm_heap();
    (void)clock_gettime(CLOCK_MONOTONIC, &began);
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &began_cpu);
    for (; seed <= last; seed++) {
        double one = 0;
        printf("seed %" PRIu64 "\n", seed);
        int rc = sim_run(seed, argv[1], argc > 3 && strcmp(argv[3], "trace") == 0, &one);
        virtual_seconds += one;
        if (rc != 0 && worst != 1)
            worst = rc;
    }
    (void)clock_gettime(CLOCK_MONOTONIC, &ended);
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ended_cpu);
    printf("%.0f simulated seconds a second of one core, %.0f of the wall clock's\n",
           virtual_seconds / seconds(&began_cpu, &ended_cpu), virtual_seconds / seconds(&began, &ended));
    return worst;
}
