/* SPDX-License-Identifier: Apache-2.0 */
/* volume_io: a client of the library that tests drive by lines on standard input; one line of answer each.
 *
 *   volume_io CLUSTER VOLUME [force|read-only]
 *   write OFFSET LENGTH SEED [fua]   check OFFSET LENGTH SEED   zero OFFSET LENGTH [trim]   flush   size   stats
 *   load MILLISECONDS SEED DEPTH     random writes and reads of the whole volume, each read compared with what was written
 *   start SEED DEPTH   progress   stop       the same until it is told to stop; what it did up to now
 *   verify                           reads all that was ever written by this process
 * Answers: "ok ...", "error NUMBER SENTENCE", "mismatch at OFFSET".
 *
 * A block's bytes follow from its number and a stamp; the process remembers the stamp of each block (0: it does not know
 * what is there). While a block is being written it is not touched by another request. A seed of 0 stands for zeros.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <ashlar.h>

#define BLOCK 4096u
#define DEPTH_MAX 256u
#define LENGTH_MAX (16u << 20)
#define LOAD_BLOCKS_MAX 32u
#define ZEROED UINT64_MAX

static struct ashlar_volume *volume;
static uint64_t size, block_count;
static uint64_t *stamps; /* of each block, as acknowledged; 0: unknown, ZEROED: zeros */
static bool *busy;       /* being written or read by the load */

static uint64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t mix(uint64_t x) /* splitmix64 */
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void fill(uint8_t *data, uint64_t offset, uint64_t length, uint64_t stamp)
{
    assert(offset % 8 == 0 && length % 8 == 0);
    for (uint64_t at = 0; at < length; at += 8) {
        uint64_t word = stamp != ZEROED ? mix(stamp ^ mix((offset + at) / 8)) : 0;
        memcpy(data + at, &word, 8);
    }
}

/* -1: equal, else the first offset that differs. */
static int64_t compare(const uint8_t *data, uint64_t offset, uint64_t length, uint64_t stamp)
{
    for (uint64_t at = 0; at < length; at += 8) {
        uint64_t word = stamp != ZEROED ? mix(stamp ^ mix((offset + at) / 8)) : 0;
        if (memcmp(data + at, &word, 8) != 0)
            return (int64_t)(offset + at);
    }
    return -1;
}

static void answer_rc(int rc)
{
    if (rc < 0)
        printf("error %d %s\n", rc, ashlar_error());
    else
        printf("ok\n");
}

/* ---- load: DEPTH requests at a time, each on blocks of its own */

struct slot {
    struct load *load;
    bool active, writes;
    uint64_t first, count, stamp, started_ns;
    uint8_t *data;
};

struct load {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct slot slots[DEPTH_MAX];
    unsigned active, depth;
    uint64_t state, end_ns, writes, reads, worst_ns;
    int rc;
    int64_t mismatch;
};

static uint64_t draw(struct load *load, uint64_t bound)
{
    load->state = mix(load->state + 1);
    return load->state % bound;
}

static void judge_read(struct load *load, const struct slot *slot)
{
    for (uint64_t i = 0; i < slot->count && load->mismatch < 0; i++)
        if (stamps[slot->first + i])
            load->mismatch = compare(slot->data + i * BLOCK, (slot->first + i) * BLOCK, BLOCK, stamps[slot->first + i]);
}

static void done(void *arg, int rc)
{
    struct slot *slot = arg;
    struct load *load = slot->load;
    (void)pthread_mutex_lock(&load->mutex);
    uint64_t took = now_ns() - slot->started_ns;
    if (took > load->worst_ns)
        load->worst_ns = took;
    if (rc < 0 && load->rc == 0)
        load->rc = rc;
    if (rc == 0 && !slot->writes)
        judge_read(load, slot);
    for (uint64_t i = 0; i < slot->count; i++) {
        if (rc == 0 && slot->writes)
            stamps[slot->first + i] = slot->stamp;
        busy[slot->first + i] = false;
    }
    *(slot->writes ? &load->writes : &load->reads) += 1;
    slot->active = false;
    load->active--;
    (void)pthread_cond_signal(&load->changed);
    (void)pthread_mutex_unlock(&load->mutex);
}

static bool choose(struct load *load, struct slot *slot)
{
    slot->count = 1 + draw(load, LOAD_BLOCKS_MAX);
    slot->first = draw(load, block_count - slot->count + 1);
    slot->writes = draw(load, 3) > 0;
    slot->stamp = draw(load, ZEROED - 1) + 1;
    for (uint64_t i = 0; i < slot->count; i++) {
        if (busy[slot->first + i])
            return false;
    }
    memset(busy + slot->first, 1, slot->count);
    return true;
}

static int submit(struct slot *slot)
{
    uint64_t offset = slot->first * BLOCK, length = slot->count * BLOCK;
    slot->started_ns = now_ns();
    if (!slot->writes)
        return ashlar_aio_read(volume, slot->data, length, offset, done, slot);
    fill(slot->data, offset, length, slot->stamp);
    return ashlar_aio_write(volume, slot->data, length, offset, 0, done, slot);
}

static void fill_slots(struct load *load, unsigned depth)
{
    for (unsigned i = 0; i < depth && load->rc == 0; i++) {
        struct slot *slot = &load->slots[i];
        if (slot->active || !choose(load, slot))
            continue;
        slot->active = true;
        load->active++;
        (void)pthread_mutex_unlock(&load->mutex);
        int rc = submit(slot);
        (void)pthread_mutex_lock(&load->mutex);
        if (rc < 0) {
            load->rc = rc;
            slot->active = false;
            load->active--;
        }
    }
}

/* Ends at end_ns, at the first error, or when it is told to; then waits for what is in flight. */
static void *turn_load(void *arg)
{
    struct load *load = arg;
    (void)pthread_mutex_lock(&load->mutex);
    while (now_ns() < load->end_ns && load->rc == 0 && load->mismatch < 0) {
        fill_slots(load, load->depth);
        if (load->active > 0)
            (void)pthread_cond_wait(&load->changed, &load->mutex);
    }
    while (load->active > 0)
        (void)pthread_cond_wait(&load->changed, &load->mutex);
    (void)pthread_mutex_unlock(&load->mutex);
    return NULL;
}

static struct load the_load;

static void begin_load(uint64_t end_ns, uint64_t seed, unsigned depth)
{
    struct load *load = &the_load;
    memset(load, 0, sizeof(*load));
    load->mismatch = -1;
    load->state = seed;
    load->end_ns = end_ns;
    load->depth = depth;
    (void)pthread_mutex_init(&load->mutex, NULL);
    (void)pthread_cond_init(&load->changed, NULL);
    for (unsigned i = 0; i < depth; i++) {
        load->slots[i].load = load;
        load->slots[i].data = aligned_alloc(BLOCK, LOAD_BLOCKS_MAX * BLOCK);
        assert(load->slots[i].data);
    }
}

static void tell_load(const struct load *load)
{
    if (load->mismatch >= 0)
        printf("mismatch at %" PRId64 "\n", load->mismatch);
    else if (load->rc < 0)
        printf("error %d %s\n", load->rc, strerror(-load->rc));
    else
        printf("ok writes=%" PRIu64 " reads=%" PRIu64 " worst_ms=%" PRIu64 "\n", load->writes, load->reads,
               load->worst_ns / 1000000u);
}

static void end_load(void)
{
    for (unsigned i = 0; i < the_load.depth; i++)
        free(the_load.slots[i].data);
    tell_load(&the_load);
}

static void run_load(uint64_t milliseconds, uint64_t seed, unsigned depth)
{
    begin_load(now_ns() + milliseconds * 1000000u, seed, depth);
    (void)turn_load(&the_load);
    end_load();
}

/* ---- a load of which this thread goes on obeying */

static pthread_t load_thread;
static bool load_runs;

static void start_load(uint64_t seed, unsigned depth)
{
    begin_load(UINT64_MAX, seed, depth);
    int rc = pthread_create(&load_thread, NULL, turn_load, &the_load);
    assert(rc == 0);
    load_runs = true;
    printf("ok\n");
}

static void tell_progress(void)
{
    (void)pthread_mutex_lock(&the_load.mutex);
    tell_load(&the_load);
    (void)pthread_mutex_unlock(&the_load.mutex);
}

static void stop_load(void)
{
    (void)pthread_mutex_lock(&the_load.mutex);
    the_load.end_ns = 0;
    (void)pthread_cond_signal(&the_load.changed);
    (void)pthread_mutex_unlock(&the_load.mutex);
    (void)pthread_join(load_thread, NULL);
    load_runs = false;
    end_load();
}

/* ---- single requests */

static void write_or_check(bool is_write, uint64_t offset, uint64_t length, uint64_t seed, unsigned flags)
{
    if (length > LENGTH_MAX || offset % 8 || length % 8 || length == 0) {
        printf("error -22 bad arguments\n");
        return;
    }
    uint8_t *data = malloc(length);
    assert(data);
    if (is_write) {
        fill(data, offset, length, seed);
        int rc = ashlar_write(volume, data, length, offset, flags);
        for (uint64_t block = offset / BLOCK; rc == 0 && offset % BLOCK == 0 && block < (offset + length) / BLOCK;
             block++)
            stamps[block] = seed;
        answer_rc(rc);
    } else {
        int rc = ashlar_read(volume, data, length, offset);
        int64_t at = rc == 0 ? compare(data, offset, length, seed) : -1;
        if (at >= 0)
            printf("mismatch at %" PRId64 "\n", at);
        else
            answer_rc(rc);
    }
    free(data);
}

static void verify(void)
{
    static uint8_t data[64 * BLOCK];
    uint64_t checked = 0;
    for (uint64_t first = 0; first < block_count; first += 64) {
        uint64_t count = block_count - first < 64 ? block_count - first : 64;
        bool wanted = false;
        for (uint64_t i = 0; i < count; i++)
            wanted = wanted || stamps[first + i];
        if (!wanted)
            continue;
        int rc = ashlar_read(volume, data, count * BLOCK, first * BLOCK);
        if (rc < 0) {
            answer_rc(rc);
            return;
        }
        for (uint64_t i = 0; i < count; i++) {
            if (!stamps[first + i])
                continue;
            int64_t at = compare(data + i * BLOCK, (first + i) * BLOCK, BLOCK, stamps[first + i]);
            checked++;
            if (at >= 0) {
                printf("mismatch at %" PRId64 "\n", at);
                return;
            }
        }
    }
    printf("ok blocks=%" PRIu64 "\n", checked);
}

static void zero(uint64_t offset, uint64_t length, unsigned flags)
{
    int rc = ashlar_zero(volume, length, offset, flags);
    for (uint64_t block = offset / BLOCK; rc == 0 && block < (offset + length) / BLOCK; block++)
        stamps[block] = ZEROED;
    answer_rc(rc);
}

static void tell_stats(void)
{
    struct ashlar_stats stats;
    int rc = ashlar_volume_stats(volume, &stats);
    if (rc < 0)
        answer_rc(rc);
    else
        printf("ok failovers=%" PRIu64 " resent=%" PRIu64 " attached=%u gateway=%s write_p50_us=%" PRIu64
               " read_p50_us=%" PRIu64 "\n",
               stats.failovers, stats.resent, stats.attached, stats.gateway, stats.op[ASHLAR_OP_WRITE].p50_ns / 1000u,
               stats.op[ASHLAR_OP_READ].p50_ns / 1000u);
}

static void obey(char *line)
{
    char word[4][32] = {{0}};
    uint64_t a = 0, b = 0, c = 0;
    (void)sscanf(line, "%31s %31s %31s %31s", word[0], word[1], word[2], word[3]);
    a = strtoull(word[1], NULL, 10);
    b = strtoull(word[2], NULL, 10);
    c = strtoull(word[3], NULL, 10);
    if (strcmp(word[0], "write") == 0 || strcmp(word[0], "check") == 0)
        write_or_check(word[0][0] == 'w', a, b, c ? c : ZEROED, strstr(line, " fua") ? ASHLAR_FUA : 0);
    else if (strcmp(word[0], "zero") == 0)
        zero(a, b, strstr(line, " trim") ? ASHLAR_TRIM : 0);
    else if (strcmp(word[0], "flush") == 0)
        answer_rc(ashlar_flush(volume));
    else if (strcmp(word[0], "size") == 0)
        printf("ok %" PRIu64 "\n", ashlar_size(volume));
    else if (strcmp(word[0], "load") == 0 && c > 0 && c <= DEPTH_MAX)
        run_load(a, b, (unsigned)c);
    else if (strcmp(word[0], "start") == 0 && b > 0 && b <= DEPTH_MAX && !load_runs)
        start_load(a, (unsigned)b);
    else if (strcmp(word[0], "progress") == 0 && load_runs)
        tell_progress();
    else if (strcmp(word[0], "stop") == 0 && load_runs)
        stop_load();
    else if (strcmp(word[0], "verify") == 0)
        verify();
    else if (strcmp(word[0], "stats") == 0)
        tell_stats();
    else
        printf("error -22 what is '%s'?\n", word[0]);
    (void)fflush(stdout);
}

int main(int argc, char **argv)
{
    struct ashlar_cluster *cluster = NULL;
    char line[256];
    if (argc < 3) {
        (void)fprintf(stderr, "usage: volume_io CLUSTER VOLUME [force|read-only]\n");
        return 2;
    }
    unsigned flags = argc > 3 && strcmp(argv[3], "force") == 0 ? ASHLAR_OPEN_FORCE : 0;
    if (argc > 3 && strcmp(argv[3], "read-only") == 0)
        flags = ASHLAR_OPEN_READ_ONLY;
    struct ashlar_options options = {.where = argv[1]};
    int rc = ashlar_connect(&options, &cluster);
    if (rc == 0)
        rc = ashlar_open(cluster, argv[2], flags, &volume);
    answer_rc(rc);
    (void)fflush(stdout);
    if (rc < 0)
        return 1;
    size = ashlar_size(volume);
    block_count = size / BLOCK;
    stamps = calloc(block_count, sizeof(*stamps));
    busy = calloc(block_count, sizeof(*busy));
    assert(stamps && busy);
    while (fgets(line, sizeof(line), stdin))
        obey(line);
    if (load_runs)
        stop_load();
    ashlar_close(volume);
    ashlar_disconnect(cluster);
    free(stamps);
    free(busy);
    return 0;
}
