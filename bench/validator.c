/* SPDX-License-Identifier: Apache-2.0 */
/*
 * validator: a load of a fixed rate on an NBD export that knows what every block must hold.
 *
 * Happy path:
 * - issues reads and writes of 4 KiB at the given rate, whatever the answers' pace (latency counts from when a request
 *   was due, so that a stall is not hidden by requests that were not sent), with a flush now and then;
 * - every write stamps its block with a version; the journal gets each acknowledged version;
 * - every read, and a pass over all blocks at the end, demands: newest acknowledged version <= found <= newest issued (I1);
 * - prints "running", a line of JSON an interval, and one with "result" at the end.
 * --verify-only reads a journal instead and checks the blocks against it: after everything was off.
 *
 * Failure modes: failed requests are counted. A request that is not answered within the limit ("hung") or a lost
 * connection ("disconnected") ends the run. Exit: 0 sound; 1 errors, lost blocks, hung or disconnected; 2 wrong usage.
 */
#include <errno.h>
#include <inttypes.h>
#include <libnbd.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BLOCK_BYTES 4096u
#define DEPTH_MAX 128
#define LATENCIES_MAX 65536
#define STAMP_MAGIC UINT64_C(0x6173686c61727632)
#define SECOND_NS UINT64_C(1000000000)
#define LAG_NS_MAX SECOND_NS /* further behind than this, requests are left out and counted */

enum kind { WRITE, READ, FLUSH };

struct stamp {
    uint64_t magic;
    uint64_t block;
    uint64_t version;
};

struct journal_entry {
    uint32_t block;
    uint32_t version;
};

struct request {
    struct run *run;
    enum kind kind;
    bool busy;
    uint32_t block;
    uint32_t version;
    uint64_t due_ns;
    uint8_t data[BLOCK_BYTES];
};

struct run {
    struct nbd_handle *nbd;
    const char *uri, *journal_path;
    FILE *journal;
    double seconds;
    uint64_t rate, depth, write_percent, blocks, flush_every, interval_ms, limit_s, seed;
    bool verify_only;
    struct request requests[DEPTH_MAX];
    uint32_t *issued, *acked; /* [blocks]; 0: never */
    uint8_t *touched;         /* [blocks]; a request is in flight */
    uint64_t start_ns, last_done_ns, longest_ns, longest_at_ns, interval_stall_ns;
    uint64_t done, interval_done, errors, lost, verified, left_out, since_flush;
    bool hung, disconnected;
    char first_error[256];
    uint32_t latency_count;
    uint32_t latency_us[LATENCIES_MAX]; /* of the interval */
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
    return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

static uint64_t draw(struct run *run)
{
    run->seed ^= run->seed << 13;
    run->seed ^= run->seed >> 7;
    run->seed ^= run->seed << 17;
    return run->seed;
}

static void note(struct run *run, const char *text)
{
    if (run->first_error[0] != '\0')
        return;
    snprintf(run->first_error, sizeof(run->first_error), "%s", text);
    for (char *c = run->first_error; *c != '\0'; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
            *c = '\'';
}

static void fill(uint8_t *data, uint64_t block, uint64_t version)
{
    struct stamp stamp = {.magic = STAMP_MAGIC, .block = block, .version = version};

    memset(data, 0, BLOCK_BYTES);
    for (size_t at = 0; at + sizeof(stamp) <= BLOCK_BYTES; at += sizeof(stamp))
        memcpy(data + at, &stamp, sizeof(stamp));
}

/* The block holds one whole version between those that it may hold. */
static void check(struct run *run, const uint8_t *data, uint32_t block)
{
    static uint8_t expected[BLOCK_BYTES];
    struct stamp found;
    char text[200];

    memcpy(&found, data, sizeof(found));
    fill(expected, block, found.version);
    run->verified++;
    if (found.magic == STAMP_MAGIC && memcmp(data, expected, BLOCK_BYTES) == 0 && found.version >= run->acked[block] &&
        found.version <= run->issued[block])
        return;
    run->lost++;
    snprintf(text, sizeof(text),
             "block %" PRIu32 " holds version %" PRIu64 " (%s), acknowledged %" PRIu32 ", issued %" PRIu32, block,
             found.version, found.magic == STAMP_MAGIC ? "stamped" : "no stamp", run->acked[block], run->issued[block]);
    note(run, text);
}

static void note_gap(struct run *run, uint64_t until_ns)
{
    uint64_t gap_ns = until_ns - run->last_done_ns;

    if (gap_ns > run->interval_stall_ns)
        run->interval_stall_ns = gap_ns;
    if (gap_ns > run->longest_ns) {
        run->longest_ns = gap_ns;
        run->longest_at_ns = run->last_done_ns;
    }
}

static void acknowledge(struct run *run, const struct request *request)
{
    const struct journal_entry entry = {.block = request->block, .version = request->version};

    run->acked[request->block] = request->version;
    if (run->journal && fwrite(&entry, sizeof(entry), 1, run->journal) != 1) {
        run->errors++;
        note(run, "the journal can not be written");
    }
}

static int request_done(void *user_data, int *error)
{
    struct request *request = user_data;
    struct run *run = request->run;
    uint64_t now = now_ns();

    request->busy = false;
    if (request->kind != FLUSH)
        run->touched[request->block] = 0;
    if (*error) {
        run->errors++;
        note(run, strerror(*error));
        return 1;
    }
    note_gap(run, now);
    run->last_done_ns = now;
    run->done++;
    run->interval_done++;
    if (run->latency_count < LATENCIES_MAX)
        run->latency_us[run->latency_count++] = (uint32_t)((now - request->due_ns) / 1000);
    if (request->kind == WRITE)
        acknowledge(run, request);
    else if (request->kind == READ)
        check(run, request->data, request->block);
    return 1;
}

static void choose(struct run *run, struct request *request)
{
    if (run->flush_every && ++run->since_flush > run->flush_every) {
        run->since_flush = 0;
        request->kind = FLUSH;
        return;
    }
    do {
        request->block = (uint32_t)(draw(run) % run->blocks);
    } while (run->touched[request->block]); /* far more blocks than requests */
    request->kind = run->issued[request->block] == 0 || draw(run) % 100 < run->write_percent ? WRITE : READ;
    run->touched[request->block] = 1;
}

static void issue(struct run *run, struct request *request, uint64_t due_ns)
{
    nbd_completion_callback done = {.callback = request_done, .user_data = request};
    uint64_t offset;
    int64_t cookie;

    choose(run, request);
    request->busy = true;
    request->due_ns = due_ns;
    offset = (uint64_t)request->block * BLOCK_BYTES;
    if (request->kind == WRITE) {
        request->version = ++run->issued[request->block];
        fill(request->data, request->block, request->version);
        cookie = nbd_aio_pwrite(run->nbd, request->data, BLOCK_BYTES, offset, done, 0);
    } else if (request->kind == READ) {
        cookie = nbd_aio_pread(run->nbd, request->data, BLOCK_BYTES, offset, done, 0);
    } else {
        cookie = nbd_aio_flush(run->nbd, done, 0);
    }
    if (cookie < 0) {
        note(run, nbd_get_error());
        run->disconnected = true;
    }
}

static struct request *idle_request(struct run *run)
{
    for (uint64_t i = 0; i < run->depth; i++)
        if (!run->requests[i].busy)
            return &run->requests[i];
    return NULL;
}

/* Waits for answers until a moment; notices a lost connection, and a request that is not answered. */
static void wait_until(struct run *run, uint64_t until_ns)
{
    uint64_t now = now_ns();
    uint64_t left_ns = until_ns > now ? until_ns - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(left_ns / SECOND_NS), .tv_nsec = (long)(left_ns % SECOND_NS)};
    unsigned direction = nbd_aio_get_direction(run->nbd);
    struct pollfd fd = {.fd = nbd_aio_get_fd(run->nbd)};
    int rc;

    if (direction & LIBNBD_AIO_DIRECTION_READ)
        fd.events |= POLLIN;
    if (direction & LIBNBD_AIO_DIRECTION_WRITE)
        fd.events |= POLLOUT;
    rc = ppoll(&fd, 1, &timeout, NULL);
    if (rc > 0 && (fd.revents & (POLLIN | POLLHUP | POLLERR)))
        rc = nbd_aio_notify_read(run->nbd);
    else if (rc > 0 && (fd.revents & POLLOUT))
        rc = nbd_aio_notify_write(run->nbd);
    if (rc < 0 && errno != EINTR && (nbd_aio_is_dead(run->nbd) || nbd_aio_is_closed(run->nbd))) {
        note(run, nbd_get_error());
        run->disconnected = true;
    }
    now = now_ns();
    for (uint64_t i = 0; i < run->depth; i++)
        if (run->requests[i].busy && now > run->requests[i].due_ns + run->limit_s * SECOND_NS)
            run->hung = true;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void print_interval(struct run *run, uint64_t now)
{
    uint32_t n = run->latency_count;

    note_gap(run, now); /* a stall that has not ended counts as well */
    qsort(run->latency_us, n, sizeof(run->latency_us[0]), by_value);
    printf("{\"t_s\": %.3f, \"ops\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"stall_ms\": %.1f",
           (double)(now - run->start_ns) / 1e9, run->interval_done, run->errors, (double)run->interval_stall_ns / 1e6);
    if (n)
        printf(", \"p50_us\": %" PRIu32 ", \"p99_us\": %" PRIu32 ", \"max_us\": %" PRIu32, run->latency_us[n / 2],
               run->latency_us[(uint64_t)n * 99 / 100], run->latency_us[n - 1]);
    printf("}\n");
    fflush(stdout);
    if (run->journal)
        fflush(run->journal);
    run->latency_count = 0;
    run->interval_done = 0;
    run->interval_stall_ns = 0;
}

static bool may_go_on(const struct run *run)
{
    return !run->hung && !run->disconnected;
}

static void load(struct run *run)
{
    uint64_t now, due_ns, interval_ns = run->interval_ms * 1000000, step_ns = SECOND_NS / run->rate;
    uint64_t next_ns, end_ns;

    run->start_ns = run->last_done_ns = due_ns = now_ns();
    end_ns = run->start_ns + (uint64_t)(run->seconds * 1e9);
    next_ns = run->start_ns + interval_ns;
    printf("running\n");
    fflush(stdout);
    while (!stop_asked && may_go_on(run) && (now = now_ns()) < end_ns) {
        struct request *request;

        if (now >= next_ns) {
            print_interval(run, now);
            next_ns += interval_ns;
        }
        while (now > due_ns + LAG_NS_MAX) {
            due_ns += step_ns;
            run->left_out++;
        }
        request = now >= due_ns ? idle_request(run) : NULL;
        if (request) {
            issue(run, request, due_ns);
            due_ns += step_ns;
        } else {
            wait_until(run, now < due_ns && due_ns < next_ns ? due_ns : next_ns);
        }
    }
    for (uint64_t i = 0; i < run->depth; i++)
        while (run->requests[i].busy && may_go_on(run))
            wait_until(run, now_ns() + SECOND_NS / 10);
}

static void verify(struct run *run)
{
    static uint8_t data[BLOCK_BYTES];

    for (uint32_t block = 0; block < run->blocks; block++) {
        if (run->acked[block] == 0)
            continue;
        if (nbd_pread(run->nbd, data, BLOCK_BYTES, (uint64_t)block * BLOCK_BYTES, 0) < 0) {
            run->errors++;
            run->lost++;
            note(run, nbd_get_error());
            if (nbd_aio_is_dead(run->nbd) || nbd_aio_is_closed(run->nbd)) {
                run->disconnected = true;
                return;
            }
            continue;
        }
        check(run, data, block);
    }
}

static void print_result(const struct run *run)
{
    printf("{\"result\": true, \"done\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"lost\": %" PRIu64
           ", \"verified\": %" PRIu64 ", \"left_out\": %" PRIu64
           ", \"hung\": %s, \"disconnected\": %s, \"longest_stall_ms\": %.1f, "
           "\"longest_stall_at_s\": %.3f, \"first_error\": \"%s\"}\n",
           run->done, run->errors, run->lost, run->verified, run->left_out, run->hung ? "true" : "false",
           run->disconnected ? "true" : "false", (double)run->longest_ns / 1e6,
           run->longest_at_ns ? (double)(run->longest_at_ns - run->start_ns) / 1e9 : 0.0, run->first_error);
}

/* What an earlier run acknowledged; the newest issued version is not known then. */
static int read_journal(struct run *run)
{
    struct journal_entry entry;
    FILE *journal = fopen(run->journal_path, "rb");

    if (!journal)
        return -errno;
    while (fread(&entry, sizeof(entry), 1, journal) == 1) {
        if (entry.block >= run->blocks) {
            (void)fclose(journal);
            return -EINVAL;
        }
        if (entry.version > run->acked[entry.block])
            run->acked[entry.block] = entry.version;
        run->issued[entry.block] = UINT32_MAX;
    }
    (void)fclose(journal);
    return 0;
}

static bool parse(int argc, char **argv, struct run *run)
{
    const struct {
        const char *name;
        uint64_t *value, max;
    } numbers[] = {
        {"--rate", &run->rate, 1000000},
        {"--depth", &run->depth, DEPTH_MAX},
        {"--write-percent", &run->write_percent, 100},
        {"--blocks", &run->blocks, UINT64_C(1) << 24},
        {"--flush-every", &run->flush_every, 1000000},
        {"--interval-ms", &run->interval_ms, 60000},
        {"--limit", &run->limit_s, 3600},
        {"--seed", &run->seed, UINT32_MAX},
    };
    for (int i = 1; i < argc; i++) {
        size_t n = 0;

        if (strcmp(argv[i], "--verify-only") == 0) {
            run->verify_only = true;
            continue;
        }
        if (i + 1 == argc)
            return false;
        if (strcmp(argv[i], "--uri") == 0) {
            run->uri = argv[++i];
            continue;
        }
        if (strcmp(argv[i], "--journal") == 0) {
            run->journal_path = argv[++i];
            continue;
        }
        if (strcmp(argv[i], "--seconds") == 0) {
            run->seconds = atof(argv[++i]);
            continue;
        }
        while (n < sizeof(numbers) / sizeof(numbers[0]) && strcmp(argv[i], numbers[n].name) != 0)
            n++;
        if (n == sizeof(numbers) / sizeof(numbers[0]))
            return false;
        *numbers[n].value = strtoull(argv[++i], NULL, 10);
        if (*numbers[n].value > numbers[n].max || (*numbers[n].value == 0 && n != 2 && n != 4))
            return false;
    }
    return run->uri && run->seconds > 0 && run->blocks >= 4 * DEPTH_MAX && (!run->verify_only || run->journal_path);
}

static int prepare(struct run *run)
{
    run->issued = calloc(run->blocks, sizeof(run->issued[0]));
    run->acked = calloc(run->blocks, sizeof(run->acked[0]));
    run->touched = calloc(run->blocks, sizeof(run->touched[0]));
    if (!run->issued || !run->acked || !run->touched)
        return -ENOMEM;
    for (size_t i = 0; i < DEPTH_MAX; i++)
        run->requests[i].run = run;
    run->nbd = nbd_create();
    if (!run->nbd || nbd_connect_uri(run->nbd, run->uri) < 0) {
        fprintf(stderr, "validator: cannot connect to %s: %s\n", run->uri, nbd_get_error());
        return -ENOTCONN;
    }
    if (nbd_get_size(run->nbd) < (int64_t)(run->blocks * BLOCK_BYTES)) {
        fprintf(stderr, "validator: the export is smaller than %" PRIu64 " blocks\n", run->blocks);
        return -ENOSPC;
    }
    if (run->verify_only)
        return read_journal(run);
    if (run->journal_path && !(run->journal = fopen(run->journal_path, "wb")))
        return -errno;
    return 0;
}

int main(int argc, char **argv)
{
    static struct run run = {.seconds = 10,
                             .rate = 500,
                             .depth = 16,
                             .write_percent = 70,
                             .blocks = 16384,
                             .flush_every = 64,
                             .interval_ms = 500,
                             .limit_s = 60,
                             .seed = 88172645463325252u};
    struct sigaction action = {.sa_handler = on_signal};
    int rc;

    if (!parse(argc, argv, &run)) {
        fprintf(stderr,
                "usage: validator --uri NBD-URI [--seconds S] [--rate IOPS] [--depth N] [--write-percent N]\n"
                "       [--blocks N] [--flush-every N] [--interval-ms N] [--limit S] [--seed N] [--journal FILE]\n"
                "       [--verify-only]   (the first N blocks of 4 KiB are overwritten)\n");
        return 2;
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    rc = prepare(&run);
    if (rc < 0) {
        fprintf(stderr, "validator: %s\n", strerror(-rc));
        return 2;
    }
    if (!run.verify_only)
        load(&run);
    if (may_go_on(&run))
        verify(&run);
    print_result(&run);
    if (run.journal)
        (void)fclose(run.journal);
    nbd_close(run.nbd);
    free(run.issued);
    free(run.acked);
    free(run.touched);
    return run.errors || run.lost || !may_go_on(&run) ? 1 : 0;
}
