/* SPDX-License-Identifier: Apache-2.0 */
/* kv_rocksdb: atomic ordered batches, grouped writes and shared syncs, reads that see what was submitted before them. */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/unit/store_edges/edges_fixture.h"

static int setup(void **state)
{
    static struct edges edges;
    edges_init(&edges);
    edges_kv_open(&edges, /* create= */ true);
    *state = &edges;
    return 0;
}

static int teardown(void **state)
{
    edges_close(*state);
    return 0;
}

static void batch_is_applied_whole_and_in_order(void **state)
{
    struct edges *edges = *state;
    char value[64];
    struct kv_scan scan = {0};
    struct kv_write req = {.sync = true};
    assert_int_equal(edges_put(edges, "gone", "x", false), 0);
    kv_batch_put(&req.batch, "k", 1, "old", 3);
    kv_batch_put(&req.batch, "k", 1, "new", 3);
    kv_batch_delete(&req.batch, "gone", 4);
    kv_batch_put(&req.batch, "empty", 5, NULL, 0);
    assert_int_equal(edges_write(edges, &req), 0);
    assert_int_equal(edges_get(edges, "k", value, sizeof(value)), 0);
    assert_string_equal(value, "new");
    assert_int_equal(edges_get(edges, "gone", NULL, 0), -ENOENT);
    assert_int_equal(edges_get(edges, "empty", value, sizeof(value)), 0);
    assert_string_equal(value, "");
    assert_int_equal(edges_scan(edges, &scan, "a", "z", 10), 0);
    assert_int_equal(scan.pairs.count, 2);
    assert_false(scan.more);
    kv_batch_free(&scan.pairs);
}

/* ---- order: one turn's requests of every kind */

struct trace {
    char order[64];
    unsigned completed, expected;
    bool done;
};

static void trace_step(struct trace *trace, char letter)
{
    trace->order[trace->completed++] = letter;
    trace->done = trace->completed == trace->expected;
}

struct traced_write {
    struct kv_write req;
    struct trace *trace;
    char letter;
};

static void traced_write_done(struct kv_write *req, int rc)
{
    struct traced_write *traced = req->owner;
    assert_int_equal(rc, 0);
    trace_step(traced->trace, traced->letter);
}

static void traced_put(struct edges *edges, struct traced_write *traced, struct trace *trace, char letter, bool sync)
{
    *traced = (struct traced_write){.trace = trace, .letter = letter};
    traced->req.sync = sync;
    traced->req.cb = traced_write_done;
    traced->req.owner = traced;
    kv_batch_put(&traced->req.batch, "k", 1, &letter, 1);
    kv_write(edges->kv, &traced->req);
}

static void traced_get_done(struct kv_get *req, int rc)
{
    assert_int_equal(rc, 0);
    trace_step(req->owner, 'g');
}

static void traced_get(struct edges *edges, struct kv_get *get, struct trace *trace)
{
    *get = (struct kv_get){.key = "k", .key_len = 1, .cb = traced_get_done, .owner = trace};
    kv_get(edges->kv, get);
}

/* Goal: unsynced writes complete in order, synced ones after them, reads see exactly what was submitted before them. Method: everything in
 * one turn. */
static void writes_complete_in_order_and_reads_see_those_before(void **state)
{
    struct edges *edges = *state;
    struct trace trace = {.expected = 8};
    struct traced_write writes[6];
    struct kv_get gets[2];
    traced_put(edges, &writes[0], &trace, 'a', false);
    traced_put(edges, &writes[1], &trace, 'b', false);
    traced_get(edges, &gets[0], &trace);
    traced_put(edges, &writes[2], &trace, 'c', true);
    traced_put(edges, &writes[3], &trace, 'd', false);
    traced_get(edges, &gets[1], &trace);
    traced_put(edges, &writes[4], &trace, 'e', true);
    traced_put(edges, &writes[5], &trace, 'f', false);
    edges_run_until(edges, &trace.done);
    char writes_only[16];
    unsigned n = 0;
    for (unsigned i = 0; i < trace.completed; i++) {
        if (trace.order[i] != 'g')
            writes_only[n++] = trace.order[i];
    }
    writes_only[n] = '\0';
    assert_string_equal(writes_only, "abdfce");
    assert_int_equal(gets[0].value_len, 1);
    assert_memory_equal(gets[0].value, "b", 1);
    assert_memory_equal(gets[1].value, "d", 1);
    for (unsigned i = 0; i < 6; i++)
        kv_batch_free(&writes[i].req.batch);
    kv_get_free(&gets[0]);
    kv_get_free(&gets[1]);
}

/* Goal: a put does not wait for a sync behind it, a get does not wait for a sync before it. Method: the mail that brings
 * them is posted before the sync starts, so in the completion order both come before the synced write. */
static void sync_delays_nothing_before_it_and_no_read(void **state)
{
    struct edges *edges = *state;
    struct trace trace = {.expected = 3};
    struct traced_write writes[2];
    struct kv_get get;
    traced_put(edges, &writes[0], &trace, 'a', false);
    traced_put(edges, &writes[1], &trace, 's', true);
    traced_get(edges, &get, &trace);
    edges_run_until(edges, &trace.done);
    trace.order[3] = '\0';
    assert_string_equal(trace.order, "ags");
    assert_memory_equal(get.value, "s", 1);
    kv_batch_free(&writes[0].req.batch);
    kv_batch_free(&writes[1].req.batch);
    kv_get_free(&get);
}

/* ---- a sync that takes its time */

/* RocksDB's calls end here, because the program's symbols come first. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool shut, entered;
    int rc;
} gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false, 0};

__attribute__((visibility("default"))) int fdatasync(int fd)
{
    (void)pthread_mutex_lock(&gate.lock);
    gate.entered = true;
    (void)pthread_cond_broadcast(&gate.changed);
    while (gate.shut)
        (void)pthread_cond_wait(&gate.changed, &gate.lock);
    int rc = gate.rc;
    (void)pthread_mutex_unlock(&gate.lock);
    if (rc == 0)
        return (int)syscall(SYS_fdatasync, fd);
    errno = rc;
    return -1;
}

static void gate_set(bool shut, int rc)
{
    (void)pthread_mutex_lock(&gate.lock);
    gate.shut = shut;
    gate.rc = rc;
    gate.entered = false;
    (void)pthread_cond_broadcast(&gate.changed);
    (void)pthread_mutex_unlock(&gate.lock);
}

static void gate_await(void)
{
    (void)pthread_mutex_lock(&gate.lock);
    while (!gate.entered)
        (void)pthread_cond_wait(&gate.changed, &gate.lock);
    (void)pthread_mutex_unlock(&gate.lock);
}

/* Goal: while a sync runs, puts and gets go on; who asks for a sync meanwhile gets the next one. */
static void puts_and_gets_go_on_beside_a_sync(void **state)
{
    struct edges *edges = *state;
    struct trace trace = {.expected = 4};
    struct traced_write writes[4];
    struct kv_get gets[2];
    gate_set(/* shut= */ true, 0);
    traced_put(edges, &writes[0], &trace, 's', true);
    assert_int_equal(ring_loop_turn(edges->loop, 0), 0); /* hands it over */
    gate_await();
    traced_put(edges, &writes[1], &trace, 'a', false);
    traced_get(edges, &gets[0], &trace);
    traced_put(edges, &writes[2], &trace, 't', true);
    traced_put(edges, &writes[3], &trace, 'b', false);
    traced_get(edges, &gets[1], &trace);
    edges_run_until(edges, &trace.done);
    assert_string_equal(trace.order, "agbg");
    assert_memory_equal(gets[0].value, "a", 1);
    assert_memory_equal(gets[1].value, "b", 1);
    trace.done = false;
    trace.expected = 6;
    gate_set(/* shut= */ false, 0);
    edges_run_until(edges, &trace.done);
    assert_string_equal(trace.order, "agbgst");
    for (unsigned i = 0; i < 4; i++)
        kv_batch_free(&writes[i].req.batch);
    kv_get_free(&gets[0]);
    kv_get_free(&gets[1]);
}

/* Goal: what a failed sync should have made durable fails, and so does all that follows, though the next sync would succeed (R13). */
static void failed_sync_is_final(void **state)
{
    struct edges *edges = *state;
    assert_int_equal(edges_put(edges, "a", "x", false), 0);
    gate_set(/* shut= */ false, EIO);
    assert_int_equal(edges_sync(edges), -EIO);
    gate_set(/* shut= */ false, 0);
    assert_int_equal(edges_sync(edges), -EIO);
    assert_int_equal(edges_put(edges, "b", "x", false), -EIO);
    assert_int_equal(edges_put(edges, "c", "x", true), -EIO);
}

/* ---- scans */

static void scan_pages_through_a_range(void **state)
{
    struct edges *edges = *state;
    struct kv_write req = {.sync = false};
    char key[16];
    for (unsigned i = 0; i < 100; i++) {
        (void)snprintf(key, sizeof(key), "m%03u", i);
        kv_batch_put(&req.batch, key, 4, key, 4);
    }
    kv_batch_put(&req.batch, "n", 1, "outside", 7);
    assert_int_equal(edges_write(edges, &req), 0);
    struct kv_scan scan = {0};
    char from[16] = "m010";
    unsigned seen = 10, pages = 0;
    do {
        assert_int_equal(edges_scan(edges, &scan, from, "m095", 7), 0);
        assert_true(scan.pairs.count <= 7);
        const uint8_t *k, *v;
        uint32_t cursor = 0, k_len, v_len;
        bool is_delete;
        while (kv_batch_next(&scan.pairs, &cursor, &k, &k_len, &v, &v_len, &is_delete)) {
            (void)snprintf(key, sizeof(key), "m%03u", seen++);
            assert_false(is_delete);
            assert_int_equal(k_len, 4);
            assert_memory_equal(k, key, 4);
            assert_memory_equal(v, key, 4);
        }
        (void)snprintf(from, sizeof(from), "m%03u", seen); /* behind the last one */
        pages++;
    } while (scan.more);
    assert_int_equal(seen, 95);
    assert_int_equal(pages, 13);
    assert_int_equal(edges_scan(edges, &scan, "x", "y", 7), 0);
    assert_int_equal(scan.pairs.count, 0);
    assert_false(scan.more);
    kv_batch_free(&scan.pairs);
}

static void scan_page_is_bounded_in_bytes(void **state)
{
    struct edges *edges = *state;
    static uint8_t big[KV_VALUE_MAX];
    struct kv_scan scan = {0};
    for (unsigned i = 0; i < 40; i++) {
        char key[8];
        struct kv_write req = {.sync = false};
        (void)snprintf(key, sizeof(key), "b%02u", i);
        kv_batch_put(&req.batch, key, 3, big, sizeof(big));
        assert_int_equal(edges_write(edges, &req), 0);
    }
    assert_int_equal(edges_scan(edges, &scan, "b", "c", 1000), 0);
    assert_true(scan.more);
    assert_true(scan.pairs.count > 0 && scan.pairs.count < 40);
    kv_batch_free(&scan.pairs);
}

/* ---- life */

static void second_opener_is_refused(void **state)
{
    struct edges *edges = *state;
    struct kv *first = edges->kv;
    assert_int_equal(edges_kv_try_open(edges, false, false), -EBUSY);
    assert_int_equal(edges_kv_try_open(edges, false, /* read_only= */ true), -EBUSY);
    assert_int_equal(edges_kv_try_open(edges, /* create= */ true, false), -EEXIST);
    assert_ptr_equal(edges->kv, first); /* untouched on failure */
    edges_kv_reopen(edges);
}

static void open_without_a_database_is_refused(void **state)
{
    struct edges edges;
    (void)state;
    edges_init(&edges);
    assert_int_equal(edges_kv_try_open(&edges, false, false), -ENOENT);
    assert_int_equal(edges_kv_try_open(&edges, false, /* read_only= */ true), -ENOENT);
    edges_close(&edges);
}

static void read_only_reads_the_wal_and_writes_nothing(void **state)
{
    struct edges *edges = *state;
    char value[16];
    assert_int_equal(edges_put(edges, "ro", "seen", false), 0);
    kv_close(edges->kv);
    edges->kv = NULL;
    assert_int_equal(edges_kv_try_open(edges, false, /* read_only= */ true), 0);
    assert_int_equal(edges_get(edges, "ro", value, sizeof(value)), 0);
    assert_string_equal(value, "seen");
    assert_int_equal(edges_put(edges, "ro", "changed", true), -EROFS);
    assert_int_equal(edges_sync(edges), -EROFS);
    assert_int_equal(edges_get(edges, "ro", value, sizeof(value)), 0);
    assert_string_equal(value, "seen");
    edges_kv_reopen(edges);
}

struct closing {
    struct edges *edges;
    bool done;
};

static void close_in_callback(struct kv_write *req, int rc)
{
    struct closing *closing = req->owner;
    assert_int_equal(rc, 0);
    kv_close(closing->edges->kv);
    closing->edges->kv = NULL;
    closing->done = true;
}

static void kv_may_be_closed_by_its_last_callback(void **state)
{
    struct edges *edges = *state;
    struct closing closing = {.edges = edges};
    struct kv_write req = {.sync = true, .cb = close_in_callback, .owner = &closing};
    kv_batch_put(&req.batch, "last", 4, "x", 1);
    kv_write(edges->kv, &req);
    edges_run_until(edges, &closing.done);
    kv_batch_free(&req.batch);
    edges_kv_open(edges, /* create= */ false);
    assert_int_equal(edges_get(edges, "last", NULL, 0), 0);
}

/* ---- many at once */

#define LOAD_DEPTH 32u
#define LOAD_WRITES 20000u
#define LOAD_KEYS 4096u

struct load {
    struct edges *edges;
    struct kv_write writes[LOAD_DEPTH];
    uint32_t issued, completed, expected[LOAD_KEYS];
    bool done;
};

static void load_put(struct load *load, struct kv_write *req)
{
    uint32_t n = ++load->issued, key = n * 2654435761u % LOAD_KEYS;
    uint8_t value[1024];
    memset(value, (int)(n & 0xff), sizeof(value));
    memcpy(value, &n, sizeof(n));
    kv_batch_reset(&req->batch);
    kv_batch_put(&req->batch, &key, sizeof(key), value, sizeof(value));
    req->sync = n % 1000 == 0;
    load->expected[key] = n;
    kv_write(load->edges->kv, req);
}

static void load_put_done(struct kv_write *req, int rc)
{
    struct load *load = req->owner;
    assert_int_equal(rc, 0);
    load->completed++;
    if (load->issued < LOAD_WRITES)
        load_put(load, req);
    load->done = load->completed == LOAD_WRITES;
}

struct load_get {
    struct kv_get req;
    struct load *load;
    uint32_t expected;
};

static void load_get_done(struct kv_get *req, int rc)
{
    struct load_get *get = req->owner;
    uint32_t n = 0;
    assert_int_equal(rc, get->expected ? 0 : -ENOENT);
    if (rc == 0) {
        assert_int_equal(req->value_len, 1024);
        memcpy(&n, req->value, sizeof(n));
        assert_int_equal(n, get->expected);
    }
    get->load->done = ++get->load->completed == LOAD_KEYS;
}

static double cpu_seconds(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

/* Goal: the newest put of each key is found, whatever was grouped with what. Prints what a put costs here. */
static void load_of_puts_is_found_by_gets(void **state)
{
    struct load *load = calloc(1, sizeof(*load));
    struct load_get *gets = calloc(LOAD_KEYS, sizeof(*gets));
    assert_true(load && gets);
    load->edges = *state;
    double before = cpu_seconds();
    for (uint32_t i = 0; i < LOAD_DEPTH; i++) {
        load->writes[i] = (struct kv_write){.cb = load_put_done, .owner = load};
        load_put(load, &load->writes[i]);
    }
    edges_run_until(load->edges, &load->done);
    print_message("put of 1 KiB at depth %u: %.1f us of CPU in all threads\n", LOAD_DEPTH,
                  (cpu_seconds() - before) * 1e6 / LOAD_WRITES);
    edges_kv_reopen(load->edges);
    load->done = false;
    load->completed = 0;
    for (uint32_t key = 0; key < LOAD_KEYS; key++) {
        gets[key] = (struct load_get){.load = load, .expected = load->expected[key]};
        gets[key].req = (struct kv_get){.key_len = sizeof(key), .cb = load_get_done, .owner = &gets[key]};
        memcpy(gets[key].req.key, &key, sizeof(key));
        kv_get(load->edges->kv, &gets[key].req);
    }
    edges_run_until(load->edges, &load->done);
    for (uint32_t key = 0; key < LOAD_KEYS; key++)
        kv_get_free(&gets[key].req);
    for (uint32_t i = 0; i < LOAD_DEPTH; i++)
        kv_batch_free(&load->writes[i].batch);
    free(gets);
    free(load);
}

/* ---- puts that overwrite each other */

enum { AGAIN_KEYS = 8, AGAIN_ROUNDS = 100, AGAIN_BYTES = 48 * 1024, LOG_BYTES_MAX = 64 << 20 };

static uint64_t log_bytes(const struct edges *edges)
{
    char path[256], file[512];
    edges_path(edges, "kv", path);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    uint64_t sum = 0;
    struct stat st;
    for (struct dirent *entry; (entry = readdir(dir));) {
        (void)snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
        size_t len = strlen(file);
        if (len > 4 && strcmp(file + len - 4, ".log") == 0 && stat(file, &st) == 0)
            sum += (uint64_t)st.st_size;
    }
    (void)closedir(dir);
    return sum;
}

/* Larger, equal, smaller and empty values, and deletions, by turns. */
static void put_again(struct edges *edges, uint32_t key, uint32_t round, char *value)
{
    struct kv_write req = {0};
    size_t bytes = AGAIN_BYTES - (key + round) % 3 * 16000;
    memset(value, (int)('a' + (key + round) % 26), bytes);
    if ((key + round) % 7 == 0)
        kv_batch_delete(&req.batch, &key, sizeof(key));
    else
        kv_batch_put(&req.batch, &key, sizeof(key), value, (key + round) % 5 == 0 ? 0 : bytes);
    assert_int_equal(edges_write(edges, &req), 0);
}

static void expect_again(struct edges *edges, uint32_t key, uint32_t round)
{
    char name[8] = {0}, *value = malloc(AGAIN_BYTES + 1);
    assert_non_null(value);
    memcpy(name, &key, sizeof(key)); /* without zero bytes */
    int rc = edges_get(edges, name, value, AGAIN_BYTES + 1);
    assert_int_equal(rc, (key + round) % 7 == 0 ? -ENOENT : 0);
    if (rc == 0 && (key + round) % 5 == 0)
        assert_int_equal(strlen(value), 0);
    else if (rc == 0) {
        assert_int_equal(strlen(value), AGAIN_BYTES - (key + round) % 3 * 16000);
        assert_int_equal(value[0], (int)('a' + (key + round) % 26));
        assert_int_equal(strspn(value, (char[]){value[0], '\0'}), strlen(value));
    }
    free(value);
}

/* Goal: the newest put counts, whatever its size and what it replaces, before and after a start. */
static void puts_that_overwrite_each_other_end_with_the_newest(void **state)
{
    struct edges *edges = *state;
    char *value = malloc(AGAIN_BYTES);
    assert_non_null(value);
    for (uint32_t round = 0; round < AGAIN_ROUNDS; round++) {
        for (uint32_t i = 0; i < AGAIN_KEYS; i++)
            put_again(edges, 0x61616161u + i, round, value);
        for (uint32_t i = 0; round % 10 == 0 && i < AGAIN_KEYS; i++)
            expect_again(edges, 0x61616161u + i, round);
    }
    for (int start = 0; start < 2; start++) {
        for (uint32_t i = 0; i < AGAIN_KEYS; i++)
            expect_again(edges, 0x61616161u + i, AGAIN_ROUNDS - 1);
        edges_kv_reopen(edges);
    }
    free(value);
}

/* Goal: the log, which a start replays, stays bounded though the memtable never fills. */
static void puts_in_place_leave_a_bounded_log(void **state)
{
    struct edges *edges = *state;
    char *value = calloc(1, AGAIN_BYTES);
    assert_non_null(value);
    memset(value, 'v', AGAIN_BYTES - 1);
    uint64_t most = 0;
    for (uint32_t put = 0; put < 3 * (LOG_BYTES_MAX / AGAIN_BYTES); put++) {
        assert_int_equal(edges_put(edges, "again", value, false), 0);
        uint64_t now = put % 64 == 0 ? log_bytes(edges) : 0;
        most = now > most ? now : most;
    }
    assert_true(most > LOG_BYTES_MAX / 2); /* the memtable did not fill */
    const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
    for (int i = 0; i < 6000 && log_bytes(edges) > LOG_BYTES_MAX + (1 << 20); i++)
        (void)nanosleep(&pause, NULL); /* the table of an ended log is being written */
    assert_true(log_bytes(edges) <= LOG_BYTES_MAX + (1 << 20));
    edges_kv_reopen(edges);
    assert_int_equal(edges_get(edges, "again", NULL, 0), 0);
    free(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(batch_is_applied_whole_and_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_complete_in_order_and_reads_see_those_before, setup, teardown),
        cmocka_unit_test_setup_teardown(sync_delays_nothing_before_it_and_no_read, setup, teardown),
        cmocka_unit_test_setup_teardown(puts_and_gets_go_on_beside_a_sync, setup, teardown),
        cmocka_unit_test_setup_teardown(failed_sync_is_final, setup, teardown),
        cmocka_unit_test_setup_teardown(scan_pages_through_a_range, setup, teardown),
        cmocka_unit_test_setup_teardown(scan_page_is_bounded_in_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(second_opener_is_refused, setup, teardown),
        cmocka_unit_test(open_without_a_database_is_refused),
        cmocka_unit_test_setup_teardown(read_only_reads_the_wal_and_writes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(kv_may_be_closed_by_its_last_callback, setup, teardown),
        cmocka_unit_test_setup_teardown(load_of_puts_is_found_by_gets, setup, teardown),
        cmocka_unit_test_setup_teardown(puts_that_overwrite_each_other_end_with_the_newest, setup, teardown),
        cmocka_unit_test_setup_teardown(puts_in_place_leave_a_bounded_log, setup, teardown),
    };
    return cmocka_run_group_tests_name("kv_rocksdb", tests, NULL, NULL);
}
