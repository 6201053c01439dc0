/* SPDX-License-Identifier: Apache-2.0 */
/* kv_rocksdb while a sync of its log runs: what shares it, what it covers, what failures do meanwhile.
 *
 * fdatasync and fsync of this program, RocksDB's included, are the ones below: they note which file was synced up to which size,
 * and can hold back or fail those of logs, and hold back those of tables.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/unit/store_edges/edges_fixture.h"

/* ---- the syncs of logs */

#define LOGS_MAX 16

struct synced_log {
    ino_t inode;
    off_t bytes; /* what a sync that ended covered at its beginning */
};

static struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool held, failing, tables_held;
    unsigned waiting, begun;
    struct synced_log logs[LOGS_MAX];
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static bool ends_with(int fd, const char suffix[5])
{
    char link[64], path[512];
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    return n > 4 && memcmp(path + n - 4, suffix, 4) == 0;
}

static void note_synced(const struct stat *st)
{
    for (unsigned i = 0; i < LOGS_MAX; i++) {
        struct synced_log *log = &gate.logs[i];
        if (log->inode && log->inode != st->st_ino)
            continue;
        log->inode = st->st_ino;
        log->bytes = st->st_size > log->bytes ? st->st_size : log->bytes;
        return;
    }
    abort();
}

static int sync_file(long number, int fd)
{
    struct stat st;
    (void)pthread_mutex_lock(&gate.lock);
    while (gate.tables_held && ends_with(fd, ".sst"))
        (void)pthread_cond_wait(&gate.changed, &gate.lock);
    (void)pthread_mutex_unlock(&gate.lock);
    if (!ends_with(fd, ".log") || fstat(fd, &st) < 0)
        return (int)syscall(number, fd);
    (void)pthread_mutex_lock(&gate.lock);
    gate.begun++;
    gate.waiting++;
    (void)pthread_cond_broadcast(&gate.changed);
    while (gate.held)
        (void)pthread_cond_wait(&gate.changed, &gate.lock);
    gate.waiting--;
    bool failing = gate.failing;
    (void)pthread_mutex_unlock(&gate.lock);
    if (failing) {
        errno = EIO;
        return -1;
    }
    int rc = (int)syscall(number, fd);
    (void)pthread_mutex_lock(&gate.lock);
    if (rc == 0)
        note_synced(&st);
    (void)pthread_mutex_unlock(&gate.lock);
    return rc;
}

__attribute__((visibility("default"))) int fdatasync(int fd)
{
    return sync_file(SYS_fdatasync, fd);
}

__attribute__((visibility("default"))) int fsync(int fd)
{
    return sync_file(SYS_fsync, fd);
}

static void gate_set(bool held, bool failing)
{
    (void)pthread_mutex_lock(&gate.lock);
    gate.held = held;
    gate.failing = failing;
    (void)pthread_cond_broadcast(&gate.changed);
    (void)pthread_mutex_unlock(&gate.lock);
}

static void gate_hold_tables(bool held)
{
    (void)pthread_mutex_lock(&gate.lock);
    gate.tables_held = held;
    (void)pthread_cond_broadcast(&gate.changed);
    (void)pthread_mutex_unlock(&gate.lock);
}

static unsigned gate_begun(void)
{
    (void)pthread_mutex_lock(&gate.lock);
    unsigned begun = gate.begun;
    (void)pthread_mutex_unlock(&gate.lock);
    return begun;
}

/* Until a sync of a log stands at the closed gate. */
static void gate_await(void)
{
    struct timespec deadline;
    int rc = 0;
    (void)clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 60;
    (void)pthread_mutex_lock(&gate.lock);
    while (!gate.waiting && rc == 0)
        rc = pthread_cond_timedwait(&gate.changed, &gate.lock, &deadline);
    (void)pthread_mutex_unlock(&gate.lock);
    assert_int_equal(rc, 0);
}

static int setup(void **state)
{
    static struct edges edges;
    gate_set(/* held= */ false, /* failing= */ false);
    memset(gate.logs, 0, sizeof(gate.logs));
    edges_init(&edges);
    edges_kv_open(&edges, /* create= */ true);
    *state = &edges;
    return 0;
}

static int teardown(void **state)
{
    gate_set(/* held= */ false, /* failing= */ false);
    gate_hold_tables(false);
    edges_close(*state);
    return 0;
}

/* ---- requests that are under way */

struct request {
    struct kv_write write;
    bool done;
    int rc;
};

static void write_done(struct kv_write *write, int rc)
{
    struct request *request = write->owner;
    assert_false(request->done);
    request->done = true;
    request->rc = rc;
    kv_batch_free(&write->batch);
}

static void submit(struct edges *edges, struct request *request, const char *key, bool sync)
{
    *request = (struct request){.write = {.sync = sync, .cb = write_done, .owner = request}};
    if (key)
        kv_batch_put(&request->write.batch, key, strlen(key), "value", 5);
    kv_write(edges->kv, &request->write);
}

static void await(struct edges *edges, const struct request *request, int rc)
{
    edges_run_until(edges, &request->done);
    assert_int_equal(request->rc, rc);
}

/* A synced put whose sync stands at the gate. */
static void submit_held(struct edges *edges, struct request *request, const char *key)
{
    gate_set(/* held= */ true, /* failing= */ false);
    submit(edges, request, key, /* sync= */ true);
    assert_int_equal(edges_put(edges, "kick", "the turn hands over", false), 0);
    gate_await();
    assert_false(request->done);
}

/* ---- tests */

/* Goal: what comes while a sync runs waits for the next one, and shares it. */
static void syncs_that_wait_for_another_share_the_next_one(void **state)
{
    struct edges *edges = *state;
    struct request first, rest[20];
    submit_held(edges, &first, "first");
    unsigned before = gate_begun();
    for (unsigned i = 0; i < 20; i++) {
        submit(edges, &rest[i], i % 3 ? "rest" : NULL, /* sync= */ true);
        assert_int_equal(edges_put(edges, "between", "x", false), 0); /* another turn */
        assert_false(rest[i].done);
    }
    assert_int_equal(gate_begun(), before); /* one at a time */
    gate_set(/* held= */ false, /* failing= */ false);
    await(edges, &first, 0);
    for (unsigned i = 0; i < 20; i++)
        await(edges, &rest[i], 0);
    assert_int_equal(gate_begun(), before + 1);
}

static void sync_with_nothing_new_syncs_nothing(void **state)
{
    struct edges *edges = *state;
    assert_int_equal(edges_put(edges, "k", "x", true), 0);
    unsigned before = gate_begun();
    assert_int_equal(edges_sync(edges), 0);
    assert_int_equal(gate_begun(), before);
    assert_int_equal(edges_put(edges, "k", "y", false), 0);
    assert_int_equal(edges_sync(edges), 0);
    assert_int_equal(gate_begun(), before + 1);
}

/* R13. Goal: a failed sync fails all that waited for it, and whatever comes later; puts that completed beside it are not concerned. */
static void failed_sync_fails_its_group_and_all_that_comes(void **state)
{
    struct edges *edges = *state;
    struct request first, next, put;
    submit_held(edges, &first, "first");
    submit(edges, &next, "next", /* sync= */ true);
    submit(edges, &put, "put", /* sync= */ false);
    await(edges, &put, 0);
    unsigned before = gate_begun();
    gate_set(/* held= */ false, /* failing= */ true);
    await(edges, &first, -EIO);
    await(edges, &next, -EIO);
    gate_set(/* held= */ false, /* failing= */ false);
    assert_int_equal(edges_put(edges, "more", "x", false), -EIO);
    assert_int_equal(edges_put(edges, "more", "x", true), -EIO);
    assert_int_equal(edges_sync(edges), -EIO);
    assert_int_equal(edges_get(edges, "first", NULL, 0), -EIO);
    assert_int_equal(gate_begun(), before); /* never tried again */
}

/* Every log in the directory was synced as far as it is long. */
static void expect_all_logs_synced(const struct edges *edges, unsigned count)
{
    char command[400], name[128], path[600];
    struct stat st;
    unsigned seen = 0;
    (void)snprintf(command, sizeof(command), "ls %s/kv | grep 'log$'", edges->directory);
    FILE *list = popen(command, "re");
    assert_non_null(list);
    while (fgets(name, sizeof(name), list)) {
        name[strcspn(name, "\n")] = '\0';
        (void)snprintf(path, sizeof(path), "%s/kv/%s", edges->directory, name);
        assert_int_equal(stat(path, &st), 0);
        off_t synced = 0;
        (void)pthread_mutex_lock(&gate.lock);
        for (unsigned i = 0; i < LOGS_MAX; i++)
            synced = gate.logs[i].inode == st.st_ino ? gate.logs[i].bytes : synced;
        (void)pthread_mutex_unlock(&gate.lock);
        assert_int_equal(synced, st.st_size);
        seen++;
    }
    (void)pclose(list);
    assert_int_equal(seen, count);
}

/* Goal: a log that ends while a sync of it runs is not forgotten: what was written to it meanwhile is durable after the next sync.
 * Method: the log gets longer and ends (its memtable is full) while its sync stands at the gate; the table that would make it
 * obsolete is held back. */
static void log_that_ends_during_a_sync_is_synced_to_its_end(void **state)
{
    struct edges *edges = *state;
    struct request synced;
    static char value[60 * 1024 + 1];
    char key[16];
    memset(value, 'v', sizeof(value) - 1);
    gate_hold_tables(true);
    submit_held(edges, &synced, "s");
    for (unsigned i = 0; i < 80; i++) { /* 4.8 MB: more than a memtable, less than two */
        (void)snprintf(key, sizeof(key), "k%03u", i);
        assert_int_equal(edges_put(edges, key, value, false), 0);
    }
    assert_false(synced.done);
    gate_set(/* held= */ false, /* failing= */ false);
    await(edges, &synced, 0);
    assert_int_equal(edges_sync(edges), 0);
    expect_all_logs_synced(edges, 2);
    gate_hold_tables(false);
    edges_kv_reopen(edges);
    for (unsigned i = 0; i < 80; i++) {
        (void)snprintf(key, sizeof(key), "k%03u", i);
        assert_int_equal(edges_get(edges, key, NULL, 0), 0);
    }
}

/* R13. Goal: a write that fails while a sync runs fails the synced writes that wait behind it, too, and no sync is begun any more:
 * RocksDB ends the process when a log is synced whose write failed. Method: the file size limit. */
static void write_that_fails_beside_a_sync_lets_no_other_begin(void **state)
{
    struct edges *edges = *state;
    struct request running, waiting;
    struct rlimit before, limit;
    static char value[60 * 1024 + 1];
    char key[16];
    int rc = 0;
    memset(value, 'v', sizeof(value) - 1);
    submit_held(edges, &running, "running");
    submit(edges, &waiting, "waiting", /* sync= */ true);
    assert_int_equal(edges_put(edges, "between", "x", false), 0); /* it is written */
    unsigned begun = gate_begun();
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 1u << 20;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (unsigned i = 0; i < 40 && rc == 0; i++) {
        (void)snprintf(key, sizeof(key), "k%03u", i);
        rc = edges_put(edges, key, value, false);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_true(rc < 0);
    gate_set(/* held= */ false, /* failing= */ false);
    await(edges, &running, 0);
    await(edges, &waiting, -EIO);
    assert_int_equal(gate_begun(), begun);
    assert_int_equal(edges_sync(edges), -EIO);
}

/* ---- many at once: no seam, real syncs */

#define LOAD_DEPTH 16u
#define LOAD_WRITES 6000u

struct load {
    struct edges *edges;
    struct kv_write writes[LOAD_DEPTH];
    uint32_t numbers[LOAD_DEPTH];
    uint32_t issued, completed, last_unsynced, last_synced;
    bool done;
};

static void load_put(struct load *load, uint32_t slot)
{
    struct kv_write *write = &load->writes[slot];
    uint32_t n = load->numbers[slot] = ++load->issued;
    kv_batch_reset(&write->batch);
    kv_batch_put(&write->batch, "n", 1, &n, sizeof(n));
    write->sync = n % 7 == 0;
    kv_write(load->edges->kv, write);
}

static void load_done(struct kv_write *write, int rc)
{
    struct load *load = write->owner;
    uint32_t slot = (uint32_t)(write - load->writes);
    uint32_t *last = write->sync ? &load->last_synced : &load->last_unsynced;
    assert_int_equal(rc, 0);
    assert_true(load->numbers[slot] > *last); /* each kind in its order */
    *last = load->numbers[slot];
    load->completed++;
    if (load->issued < LOAD_WRITES)
        load_put(load, slot);
    load->done = load->completed == LOAD_WRITES;
}

/* Goal: each kind of write completes in its order, the newest put is what counts. */
static void each_kind_completes_in_its_order(void **state)
{
    struct load load = {.edges = *state};
    char value[8] = {0};
    uint32_t n;
    for (uint32_t i = 0; i < LOAD_DEPTH; i++) {
        load.writes[i] = (struct kv_write){.cb = load_done, .owner = &load};
        load_put(&load, i);
    }
    edges_run_until(load.edges, &load.done);
    edges_kv_reopen(load.edges);
    assert_int_equal(edges_get(load.edges, "n", value, sizeof(value)), 0);
    memcpy(&n, value, sizeof(n));
    assert_int_equal(n, LOAD_WRITES);
    for (uint32_t i = 0; i < LOAD_DEPTH; i++)
        kv_batch_free(&load.writes[i].batch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(syncs_that_wait_for_another_share_the_next_one, setup, teardown),
        cmocka_unit_test_setup_teardown(sync_with_nothing_new_syncs_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(log_that_ends_during_a_sync_is_synced_to_its_end, setup, teardown),
        cmocka_unit_test_setup_teardown(each_kind_completes_in_its_order, setup, teardown),
        cmocka_unit_test_setup_teardown(failed_sync_fails_its_group_and_all_that_comes, setup, teardown),
        cmocka_unit_test_setup_teardown(write_that_fails_beside_a_sync_lets_no_other_begin, setup, teardown),
    };
    return cmocka_run_group_tests_name("kv_sync", tests, NULL, NULL);
}
