/* SPDX-License-Identifier: Apache-2.0 */
/* sim_main: one seed in this process: sim_main SCENARIO SEED [trace]. tests/sim/run calls it.
 *
 * - prints the seed first, one line of result last, and on a failure what every node did last.
 * Failure: exit code 1; 2 for a scenario that is not understood; an abort of the shipped code reports before it dies.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/sim.h"

static void aborted(int signal_number)
{
    (void)signal(signal_number, SIG_DFL);
    sim_report_abort();
    (void)fflush(NULL);
    (void)raise(signal_number);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s SCENARIO SEED [trace]\n", argv[0]);
        return 2;
    }
    char *end;
    uint64_t seed = strtoull(argv[2], &end, 0);
    double virtual_seconds = 0;
    struct timespec began, ended;
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    (void)signal(SIGABRT, aborted);
    (void)signal(SIGSEGV, aborted);
    printf("seed %s\n", argv[2]);
    (void)clock_gettime(CLOCK_MONOTONIC, &began);
    int rc = sim_run(seed, argv[1], argc > 3 && strcmp(argv[3], "trace") == 0, &virtual_seconds);
    (void)clock_gettime(CLOCK_MONOTONIC, &ended);
    double real = (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9;
    printf("%.1f simulated seconds a second\n", virtual_seconds / (real > 0 ? real : 1));
    return rc;
}
