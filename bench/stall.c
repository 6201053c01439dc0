/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stall: a depth-1 writer on an NBD export that reports the longest time without a completed write.
 *
 * Happy path:
 * - writes 4 KiB blocks, scattered over a region, each stamped with its number and place;
 * - says "running" on stdout after the first writes, so that a script may break something now;
 * - goes on for the given seconds, or until SIGTERM or SIGINT;
 * - reads every block of the region back: each must hold its last acknowledged stamp (I1, I7);
 * - prints one line of JSON: writes, errors, longest gaps and when, latency, lost blocks.
 *
 * Failure modes: a failed write is counted, and its block may then hold either stamp. A write that never
 * completes within the limit, or a lost connection, ends the run: "hung" or "disconnected" is true.
 * Exit status: 0 all acknowledged and found again; 1 errors, lost blocks, hung or disconnected; 2 wrong usage
 * or no connection.
 */
#include <errno.h>
#include <inttypes.h>
#include <libnbd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_BYTES 4096u
#define REGION_BLOCKS 16384u /* 64 MiB: four dirty regions */
#define WARM_WRITES 200u     /* before "running" is said */
#define GAPS_MAX 16
#define STAMP_MAGIC UINT64_C(0x6173686c61727374)
#define LATENCIES_MAX (1u << 22)

struct stamp {
    uint64_t magic;
    uint64_t block;
    uint64_t sequence;
};

struct gap {
    double at_s;
    double length_ms;
};

struct run {
    struct nbd_handle *nbd;
    uint64_t start_ns;
    uint64_t limit_ns;     /* a write that takes longer hangs */
    uint64_t gap_ns;       /* gaps from here on are listed */
    uint64_t last_done_ns; /* when the last write was acknowledged */
    uint64_t sequence;     /* of the last write issued */
    uint64_t acknowledged; /* number of writes */
    uint64_t errors;
    uint64_t lost;
    uint64_t longest_ns;
    uint64_t longest_at_ns;
    bool hung;
    bool disconnected;
    char first_error[256];
    struct gap gaps[GAPS_MAX];
    int gap_count;
    uint32_t latency_count;
    uint32_t *latency_us;     /* [LATENCIES_MAX] */
    uint64_t *acked_sequence; /* [REGION_BLOCKS], 0: never acknowledged */
    uint64_t *tried_sequence; /* [REGION_BLOCKS], the newest failed write after it */
};

static volatile sig_atomic_t stop_asked;

static void on_signal(int number)
{
    (void)number;
    stop_asked = 1;
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fill_block(uint8_t *block_data, uint64_t block, uint64_t sequence)
{
    struct stamp stamp = {.magic = STAMP_MAGIC, .block = block, .sequence = sequence};

    for (size_t at = 0; at + sizeof(stamp) <= BLOCK_BYTES; at += sizeof(stamp))
        memcpy(block_data + at, &stamp, sizeof(stamp));
}

static void note_error(struct run *run, const char *what)
{
    const char *why = nbd_get_error();

    run->errors++;
    if (run->first_error[0] != '\0')
        return;
    snprintf(run->first_error, sizeof(run->first_error), "%s: %s", what, why ? why : "no reason given");
    for (char *c = run->first_error; *c != '\0'; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
            *c = '\'';
}

static void note_gap(struct run *run, uint64_t until_ns)
{
    uint64_t length_ns = until_ns - run->last_done_ns;

    if (length_ns > run->longest_ns) {
        run->longest_ns = length_ns;
        run->longest_at_ns = run->last_done_ns;
    }
    if (length_ns < run->gap_ns || run->gap_count == GAPS_MAX)
        return;
    run->gaps[run->gap_count].at_s = (double)(run->last_done_ns - run->start_ns) / 1e9;
    run->gaps[run->gap_count].length_ms = (double)length_ns / 1e6;
    run->gap_count++;
}

/* Waits for one command: 0, or -1 after noting why not. */
static int await_command(struct run *run, int64_t cookie, uint64_t issued_ns, const char *what)
{
    for (;;) {
        int done = nbd_aio_command_completed(run->nbd, (uint64_t)cookie);

        if (done == 1)
            return 0;
        if (done < 0) {
            note_error(run, what);
            run->disconnected = nbd_aio_is_dead(run->nbd) || nbd_aio_is_closed(run->nbd);
            return -1;
        }
        if (now_ns() - issued_ns > run->limit_ns) {
            run->hung = true;
            return -1;
        }
        if (nbd_poll(run->nbd, 50) < 0 && errno != EINTR) {
            note_error(run, what);
            run->disconnected = true;
            return -1;
        }
    }
}

static void write_one(struct run *run)
{
    static uint8_t data[BLOCK_BYTES];
    uint64_t sequence = ++run->sequence;
    uint64_t block = (sequence * 40503u) % REGION_BLOCKS; /* odd factor: visits every block in turn */
    uint64_t issued_ns = now_ns();
    uint64_t done_ns;
    int64_t cookie;

    fill_block(data, block, sequence);
    cookie = nbd_aio_pwrite(run->nbd, data, BLOCK_BYTES, block * BLOCK_BYTES, NBD_NULL_COMPLETION, 0);
    if (cookie < 0) {
        note_error(run, "write");
        run->disconnected = true;
        return;
    }
    if (await_command(run, cookie, issued_ns, "write") < 0) {
        run->tried_sequence[block] = sequence;
        return;
    }
    done_ns = now_ns();
    note_gap(run, done_ns);
    run->last_done_ns = done_ns;
    run->acked_sequence[block] = sequence;
    run->tried_sequence[block] = 0;
    run->acknowledged++;
    if (run->latency_count < LATENCIES_MAX)
        run->latency_us[run->latency_count++] = (uint32_t)((done_ns - issued_ns) / 1000);
}

static void write_for(struct run *run, double seconds)
{
    uint64_t end_ns;
    bool said = false;

    run->start_ns = run->last_done_ns = now_ns();
    end_ns = run->start_ns + (uint64_t)(seconds * 1e9);
    while (!stop_asked && !run->hung && !run->disconnected && now_ns() < end_ns) {
        write_one(run);
        if (!said && run->acknowledged == WARM_WRITES) {
            said = true;
            /* The gaps of the warm-up (the first touch of each region) are not the question. */
            run->longest_ns = 0;
            run->gap_count = 0;
            printf("running\n");
            fflush(stdout);
        }
    }
    note_gap(run, now_ns()); /* a stall that never ended counts as well */
}

static void verify(struct run *run)
{
    static uint8_t data[BLOCK_BYTES], expected[BLOCK_BYTES];

    for (uint64_t block = 0; block < REGION_BLOCKS; block++) {
        int64_t cookie;

        if (run->acked_sequence[block] == 0)
            continue;
        cookie = nbd_aio_pread(run->nbd, data, BLOCK_BYTES, block * BLOCK_BYTES, NBD_NULL_COMPLETION, 0);
        if (cookie < 0 || await_command(run, cookie, now_ns(), "read") < 0) {
            run->lost++;
            if (run->hung || run->disconnected || cookie < 0)
                return;
            continue;
        }
        fill_block(expected, block, run->acked_sequence[block]);
        if (memcmp(data, expected, BLOCK_BYTES) == 0)
            continue;
        fill_block(expected, block, run->tried_sequence[block]);
        if (run->tried_sequence[block] == 0 || memcmp(data, expected, BLOCK_BYTES) != 0)
            run->lost++;
    }
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void print_result(struct run *run)
{
    uint32_t n = run->latency_count;

    qsort(run->latency_us, n, sizeof(run->latency_us[0]), by_value);
    printf("{\"writes\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"lost\": %" PRIu64
           ", \"hung\": %s, \"disconnected\": %s, \"first_error\": \"%s\", ",
           run->acknowledged, run->errors, run->lost, run->hung ? "true" : "false",
           run->disconnected ? "true" : "false", run->first_error);
    printf("\"longest_gap_ms\": %.1f, \"longest_gap_at_s\": %.3f, \"p50_us\": %u, \"p99_us\": %u, \"gaps\": [",
           (double)run->longest_ns / 1e6, run->longest_at_ns ? (double)(run->longest_at_ns - run->start_ns) / 1e9 : 0.0,
           n ? run->latency_us[n / 2] : 0, n ? run->latency_us[(uint64_t)n * 99 / 100] : 0);
    for (int i = 0; i < run->gap_count; i++)
        printf("%s{\"at_s\": %.3f, \"ms\": %.1f}", i ? ", " : "", run->gaps[i].at_s, run->gaps[i].length_ms);
    printf("]}\n");
}

static void usage(FILE *out)
{
    fprintf(out, "usage: stall --uri NBD-URI [--seconds S] [--limit S] [--gap-ms MS]\n"
                 "Writes stamped blocks one at a time into the first 64 MiB (overwriting them), then reads back.\n"
                 "  --seconds S   how long to write (default 10)\n"
                 "  --limit S     a write that takes longer is a hang, which ends the run (default 30)\n"
                 "  --gap-ms MS   list gaps from this length on (default 100)\n");
}

static int parse(int argc, char **argv, struct run *run, const char **ret_uri, double *ret_seconds)
{
    for (int i = 1; i < argc; i += 2) {
        double number;

        if (i + 1 == argc)
            return -EINVAL;
        number = atof(argv[i + 1]);
        if (strcmp(argv[i], "--uri") == 0)
            *ret_uri = argv[i + 1];
        else if (number <= 0 || number > 86400)
            return -EINVAL;
        else if (strcmp(argv[i], "--seconds") == 0)
            *ret_seconds = number;
        else if (strcmp(argv[i], "--limit") == 0)
            run->limit_ns = (uint64_t)(number * 1e9);
        else if (strcmp(argv[i], "--gap-ms") == 0)
            run->gap_ns = (uint64_t)(number * 1e6);
        else
            return -EINVAL;
    }
    return *ret_uri ? 0 : -EINVAL;
}

static int connect_to(struct run *run, const char *uri)
{
    run->nbd = nbd_create();
    if (run->nbd == NULL || nbd_set_opt_mode(run->nbd, false) < 0 || nbd_connect_uri(run->nbd, uri) < 0) {
        fprintf(stderr, "stall: cannot connect to %s: %s\n", uri, nbd_get_error());
        return -ENOTCONN;
    }
    if (nbd_get_size(run->nbd) < (int64_t)REGION_BLOCKS * BLOCK_BYTES) {
        fprintf(stderr, "stall: the export is smaller than 64 MiB\n");
        return -ENOSPC;
    }
    run->latency_us = calloc(LATENCIES_MAX, sizeof(run->latency_us[0]));
    run->acked_sequence = calloc(REGION_BLOCKS, sizeof(run->acked_sequence[0]));
    run->tried_sequence = calloc(REGION_BLOCKS, sizeof(run->tried_sequence[0]));
    return run->latency_us && run->acked_sequence && run->tried_sequence ? 0 : -ENOMEM;
}

int main(int argc, char **argv)
{
    static struct run run = {.limit_ns = UINT64_C(30000000000), .gap_ns = 100000000};
    struct sigaction action = {.sa_handler = on_signal};
    const char *uri = NULL;
    double seconds = 10;
    bool bad;

    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        usage(stdout);
        return 0;
    }
    if (parse(argc, argv, &run, &uri, &seconds) < 0) {
        usage(stderr);
        return 2;
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (connect_to(&run, uri) < 0)
        return 2;
    write_for(&run, seconds);
    if (!run.hung && !run.disconnected)
        verify(&run);
    print_result(&run);
    bad = run.errors != 0 || run.lost != 0 || run.hung || run.disconnected || run.acknowledged == 0;
    nbd_close(run.nbd);
    free(run.latency_us);
    free(run.acked_sequence);
    free(run.tried_sequence);
    return bad ? 1 : 0;
}
