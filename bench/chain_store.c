/* SPDX-License-Identifier: Apache-2.0 */
/* chain_store: one store on its real edges with a chain of snapshots, driven without network or NBD: what the length of the chain
 * costs the store itself. bench/chain-store runs it and judges; it prints `name value` lines.
 *
 *   build DIR GENERATIONS MIB WRITES  formats a store; a volume of MIB is filled, then WRITES random 4 KiB writes are spread over
 *                                     GENERATIONS generations, all of them live
 *   build-wide DIR CHUNKS             formats a store; one 4 KiB write to each of so many chunks of volumes of 1 GiB
 *   read DIR GENERATIONS MIB DEPTH SECONDS GENERATION   random 4 KiB reads of that generation, memory, time to open
 *   write DIR GENERATIONS MIB DEPTH   every block once in random order: overwrites, then after a snapshot, then once more
 *   open DIR                          time to open
 * Failure: exit 1 and one line. Threading: one loop; RocksDB has its own threads.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "common/prng.h"
#include "common/ring/ring.h"
#include "server/daemon/store_tool.h"
#include "server/store/store.h"

#define DEPTH_MAX 64u
#define MIB (1ull << 20)

struct slot {
    struct store_io io;
    struct buf *buf;
    uint32_t crc;
    uint32_t reserved;
};

struct bench {
    struct ring_loop *loop;
    struct buf_pool *pool;
    struct store *store;
    struct store_shard *shard;
    struct prng prng;
    struct slot slots[DEPTH_MAX];
    uint32_t generation, busy;
    uint64_t blocks, done, lsn;
    uint64_t left;   /* requests still to be begun */
    uint64_t end_ns; /* 0: until none is left */
    uint32_t *order; /* NULL: at random */
    enum store_op op;
    bool flag;
    int rc;
};

static uint64_t now_ns(void)
{
    struct timespec at;
    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000ull + (uint64_t)at.tv_nsec;
}

static void die(const char *what, int rc)
{
    assert(what);
    (void)fprintf(stderr, "chain_store: %s: %s\n", what, strerror(rc < 0 ? -rc : rc));
    exit(1);
}

static void opened(void *arg, int rc)
{
    struct bench *bench = arg;
    assert(!bench->flag);
    bench->flag = true;
    bench->rc = rc;
}

static void failed(void *arg, int rc)
{
    assert(arg);
    die("the store failed", rc);
}

static void closed(void *arg)
{
    assert(arg);
    ((struct bench *)arg)->flag = true;
}

static void turn_until(struct bench *bench, const bool *flag)
{
    assert(bench->loop);
    while (!*flag)
        if (ring_loop_turn(bench->loop, -1) < 0)
            die("loop", EIO);
}

static void format(const char *directory, uint64_t bytes)
{
    const struct store_identity identity = {.uuid = "bench-of-chains", .cluster_id = 1, .node = 1};
    struct store_tool_format config = {.directory = directory, .bytes = bytes, .identity = identity};
    int rc = store_tool_format(&config);
    assert(bytes > 0);
    if (rc)
        die("format", rc);
}

static void bench_open(struct bench *bench, const char *directory)
{
    char path[STORE_TOOL_PATH_MAX];
    struct ring_config ring = {.entries = 256, .fixed_files = 8};
    struct drive *drive;
    struct kv *kv;
    memset(bench, 0, sizeof(*bench));
    prng_seed(&bench->prng, 7);
    int rc = ring_loop_create(&ring, &bench->loop);
    bench->pool = buf_pool_create(32u << 20);
    if (rc || !bench->pool)
        die("loop", rc ? rc : ENOMEM);
    rc = store_tool_drive_path(directory, path);
    rc = rc ? rc : drive_uring_open(bench->loop, bench->pool, path, &drive);
    rc = rc ? rc : store_tool_kv_path(directory, path);
    struct kv_rocksdb_config kv_config = {.path = path, .cache_bytes = 16 * MIB};
    rc = rc ? rc : kv_rocksdb_open(bench->loop, &kv_config, &kv);
    if (rc)
        die(directory, rc);
    struct store_config config = {.env = ring_loop_env(bench->loop),
                                  .drive = drive,
                                  .kv = kv,
                                  .pool = bench->pool,
                                  .sums_cache_bytes = 32 * MIB,
                                  .callbacks = {.opened = opened, .failed = failed},
                                  .arg = bench,
                                  .boot_id = "bench"};
    uint64_t began = now_ns();
    rc = store_open(&config, &bench->store);
    if (rc)
        die("store", rc);
    turn_until(bench, &bench->flag);
    if (bench->rc)
        die("store", bench->rc);
    printf("open_ms %.1f\n", (double)(now_ns() - began) / 1e6);
}

static void open_shard(struct bench *bench, uint64_t volume, uint64_t bytes)
{
    struct store_shard_id id = {.volume = volume, .shard = 0, .instance = 1};
    int rc = store_shard_open(bench->store, &id, bytes, &bench->shard);
    assert(bytes % STORE_BLOCK_BYTES == 0);
    if (rc)
        die("shard", rc);
    bench->blocks = bytes / STORE_BLOCK_BYTES;
}

static void bench_close(struct bench *bench)
{
    bench->flag = false;
    assert(!bench->busy);
    store_close(bench->store, /* clean= */ true, closed, bench);
    turn_until(bench, &bench->flag);
    for (uint32_t i = 0; i < DEPTH_MAX; i++)
        buf_unref(bench->slots[i].buf);
    buf_pool_destroy(bench->pool);
    ring_loop_destroy(bench->loop);
}

static void next_request(struct bench *bench, struct slot *slot);

static void request_done(struct store_io *io, int rc)
{
    struct bench *bench = io->owner;
    struct slot *slot = list_entry(io, struct slot, io);
    assert(bench->busy > 0);
    if (rc)
        die("request", rc);
    store_unreserve(bench->store, slot->reserved > io->units_allocated ? slot->reserved - io->units_allocated : 0);
    bench->busy--;
    bench->done++;
    next_request(bench, slot);
}

static void next_request(struct bench *bench, struct slot *slot)
{
    if (!bench->left || (bench->end_ns && bench->done % 16 == 0 && now_ns() >= bench->end_ns)) {
        bench->left = 0;
        return;
    }
    bench->left--;
    uint64_t block = bench->order ? bench->order[bench->left] : prng_below(&bench->prng, bench->blocks);
    assert(block < bench->blocks);
    slot->io = (struct store_io){.shard = bench->shard,
                                 .op = bench->op,
                                 .generation = bench->generation,
                                 .epoch = 1,
                                 .offset = block * STORE_BLOCK_BYTES,
                                 .length = STORE_BLOCK_BYTES,
                                 .buf = slot->buf,
                                 .crcs = &slot->crc,
                                 .cb = request_done,
                                 .owner = bench};
    slot->reserved = 0;
    if (bench->op == STORE_WRITE) {
        slot->io.lsn_n = ++bench->lsn;
        uint64_t stamp[2] = {bench->lsn, block};
        memcpy(slot->buf->data, stamp, sizeof(stamp));
        slot->crc = crc32c(slot->buf->data, STORE_BLOCK_BYTES);
        slot->reserved = store_units_needed(bench->shard, bench->generation, slot->io.offset, STORE_BLOCK_BYTES);
        if (store_reserve(bench->store, slot->reserved))
            die("the store is full", ENOSPC);
    }
    bench->busy++;
    store_submit(&slot->io);
}

/* So many requests, or as many as fit into ns; returns requests a second. */
static double run(struct bench *bench, enum store_op op, uint32_t depth, uint64_t count, uint64_t ns)
{
    uint64_t began = now_ns();
    assert(depth > 0 && depth <= DEPTH_MAX);
    bench->op = op;
    bench->left = count;
    bench->end_ns = ns ? began + ns : 0;
    bench->done = 0;
    for (uint32_t i = 0; i < depth; i++) {
        struct slot *slot = &bench->slots[i];
        if (!slot->buf)
            slot->buf = buf_alloc(bench->pool, STORE_BLOCK_BYTES);
        if (!slot->buf)
            die("buffer", ENOMEM);
        next_request(bench, slot);
    }
    while (bench->busy)
        if (ring_loop_turn(bench->loop, -1) < 0)
            die("loop", EIO);
    store_committed(bench->shard, 1, bench->lsn);
    return (double)bench->done * 1e9 / (double)(now_ns() - began);
}

static void flushed(struct store_flush *req, int rc)
{
    struct bench *bench = req->owner;
    if (rc)
        die("flush", rc);
    assert(!bench->flag);
    bench->flag = true;
}

static void flush(struct bench *bench)
{
    struct store_flush req = {.cb = flushed, .owner = bench};
    bench->flag = false;
    store_flush(bench->store, &req);
    turn_until(bench, &bench->flag);
    assert(bench->flag);
}

static void tell_live(struct bench *bench, uint32_t generations)
{
    uint32_t *live = calloc(generations, sizeof(*live));
    if (!live)
        die("memory", ENOMEM);
    for (uint32_t g = 0; g < generations; g++)
        live[g] = g + 1;
    store_generations(bench->shard, live, generations);
    assert(live[generations - 1] == generations);
    free(live);
}

static uint32_t *shuffled(struct bench *bench)
{
    uint32_t *order = calloc(bench->blocks, sizeof(*order));
    if (!order)
        die("memory", ENOMEM);
    for (uint32_t i = 0; i < bench->blocks; i++) {
        uint32_t at = (uint32_t)prng_below(&bench->prng, i + 1);
        order[i] = order[at];
        order[at] = i;
    }
    assert(bench->blocks <= UINT32_MAX);
    return order;
}

static void fill(struct bench *bench)
{
    uint32_t *order = calloc(bench->blocks, sizeof(*order));
    if (!order)
        die("memory", ENOMEM);
    for (uint32_t i = 0; i < bench->blocks; i++)
        order[i] = (uint32_t)bench->blocks - 1 - i;
    bench->order = order;
    (void)run(bench, STORE_WRITE, 32, bench->blocks, 0);
    bench->order = NULL;
    assert(bench->done == bench->blocks);
    free(order);
    flush(bench);
}

static long memory_kib(const char *key)
{
    char line[256];
    long kib = -1;
    FILE *file = fopen("/proc/self/status", "r");
    assert(key);
    while (file && fgets(line, sizeof(line), file))
        if (!strncmp(line, key, strlen(key)))
            kib = strtol(line + strlen(key), NULL, 10);
    if (file)
        (void)fclose(file);
    return kib;
}

static void build(const char *directory, uint32_t generations, uint64_t mib, uint64_t writes)
{
    struct bench bench;
    assert(generations > 0);
    format(directory, (mib * 3 / 2 + writes / 16 + 512) * MIB);
    bench_open(&bench, directory);
    open_shard(&bench, 1, mib * MIB);
    bench.generation = 1;
    tell_live(&bench, 1);
    fill(&bench);
    for (uint32_t g = 1; g <= generations; g++) {
        bench.generation = g;
        tell_live(&bench, g);
        uint64_t count = writes * g / generations - writes * (g - 1) / generations;
        (void)run(&bench, STORE_WRITE, 32, count, 0);
        flush(&bench);
    }
    store_shard_close(bench.shard);
    bench_close(&bench);
}

static void build_wide(const char *directory, uint32_t chunks)
{
    struct bench bench;
    uint32_t order[STORE_SHARD_CHUNKS];
    format(directory, ((uint64_t)chunks * STORE_UNIT_BYTES * 11 / 10) + 512 * MIB);
    bench_open(&bench, directory);
    bench.generation = 1;
    for (uint32_t i = 0; i < STORE_SHARD_CHUNKS; i++)
        order[i] = i * STORE_CHUNK_BLOCKS;
    for (uint32_t at = 0, volume = 1; at < chunks; at += STORE_SHARD_CHUNKS, volume++) {
        open_shard(&bench, volume, STORE_SHARD_BYTES_MAX);
        bench.order = order;
        uint32_t count = chunks - at < STORE_SHARD_CHUNKS ? chunks - at : STORE_SHARD_CHUNKS;
        (void)run(&bench, STORE_WRITE, 32, count, 0);
        store_shard_close(bench.shard);
    }
    assert(chunks > 0);
    bench_close(&bench);
}

static void measure_reads(const char *directory, uint32_t generations, uint64_t mib, uint32_t depth, double seconds,
                          uint32_t generation)
{
    struct bench bench;
    assert(generation > 0);
    bench_open(&bench, directory);
    open_shard(&bench, 1, mib * MIB);
    tell_live(&bench, generations);
    bench.generation = generation;
    (void)run(&bench, STORE_READ, 32, 4096, 0); /* warm */
    printf("reads_per_s %.0f\n", run(&bench, STORE_READ, depth, UINT64_MAX, (uint64_t)(seconds * 1e9)));
    printf("rss_kib %ld\n", memory_kib("VmRSS:"));
    printf("peak_kib %ld\n", memory_kib("VmHWM:"));
    store_shard_close(bench.shard);
    bench_close(&bench);
}

static void measure_writes(const char *directory, uint32_t generations, uint64_t mib, uint32_t depth)
{
    struct bench bench;
    static const char *const names[] = {"overwrites_per_s", "first_pass_per_s", "second_pass_per_s"};
    bench_open(&bench, directory);
    open_shard(&bench, 1, mib * MIB);
    for (uint32_t pass = 0; pass < 3; pass++) {
        bench.generation = generations + (pass > 0);
        tell_live(&bench, bench.generation);
        uint32_t *order = shuffled(&bench);
        bench.order = order;
        printf("%s %.0f\n", names[pass], run(&bench, STORE_WRITE, depth, bench.blocks, 0));
        free(order);
        flush(&bench);
    }
    assert(bench.shard);
    store_shard_close(bench.shard);
    bench_close(&bench);
}

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    unsigned long n[4] = {0};
    for (int i = 3; i < argc && i < 7; i++)
        n[i - 3] = strtoul(argv[i], NULL, 0);
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(verb, "build") && argc == 6) {
        build(argv[2], (uint32_t)n[0], n[1], n[2]);
    } else if (!strcmp(verb, "build-wide") && argc == 4) {
        build_wide(argv[2], (uint32_t)n[0]);
    } else if (!strcmp(verb, "read") && argc == 8) {
        measure_reads(argv[2], (uint32_t)n[0], n[1], (uint32_t)n[2], strtod(argv[6], NULL),
                      (uint32_t)strtoul(argv[7], NULL, 0));
    } else if (!strcmp(verb, "write") && argc == 6) {
        measure_writes(argv[2], (uint32_t)n[0], n[1], (uint32_t)n[2]);
    } else if (!strcmp(verb, "open") && argc == 3) {
        struct bench bench;
        bench_open(&bench, argv[2]);
        bench_close(&bench);
    } else {
        (void)fprintf(stderr, "usage: see the head of bench/chain_store.c\n");
        return 1;
    }
    return 0;
}
