/* SPDX-License-Identifier: Apache-2.0 */
/* real_fixture: see the header. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/crc32c.h"
#include "server/daemon/store_tool.h"
#include "server/store/store.h"
#include "tests/unit/store_edges/real_fixture.h"

uint64_t real_slot_offset(uint32_t slot)
{
    return (uint64_t)slot * 7919 % (SHARD_BYTES / STORE_BLOCK_BYTES) * STORE_BLOCK_BYTES;
}

void real_slot_content(uint32_t write, uint8_t *block)
{
    for (uint32_t i = 0; i < STORE_BLOCK_BYTES / 4; i++) {
        uint32_t word = (write + 1) * 2654435761u + i;
        memcpy(block + i * 4, &word, 4);
    }
}

static void store_opened(void *arg, int rc)
{
    struct real *real = arg;
    real->opened = true;
    real->opened_rc = rc;
}

static void store_failed(void *arg, int rc)
{
    (void)arg;
    print_message("the store failed: %d\n", rc);
    abort();
}

static void store_damaged(void *arg, struct store_shard *shard, uint64_t offset)
{
    (void)arg;
    (void)shard;
    (void)offset;
    abort();
}

static void store_space(void *arg)
{
    (void)arg;
}

static void store_closed(void *arg)
{
    ((struct real *)arg)->closed = true;
}

int real_open(struct real *real, const char *directory)
{
    char path[STORE_TOOL_PATH_MAX];
    struct drive *drive = NULL;
    struct kv *kv = NULL;
    struct ring_config ring = {.entries = 64, .fixed_files = 8};
    int rc = ring_loop_create(&ring, &real->edges.loop);
    real->pool = buf_pool_create(16u << 20);
    real->opened = real->closed = false;
    if (rc < 0 || !real->pool || store_tool_drive_path(directory, path) < 0)
        return -ENOMEM;
    rc = drive_uring_open(real->edges.loop, real->pool, path, &drive);
    if (rc < 0 || store_tool_kv_path(directory, path) < 0)
        return rc;
    struct kv_rocksdb_config kv_config = {.path = path, .cache_bytes = 8u << 20};
    rc = kv_rocksdb_open(real->edges.loop, &kv_config, &kv);
    if (rc < 0)
        return rc;
    struct store_config config = {
        .env = ring_loop_env(real->edges.loop),
        .drive = drive,
        .kv = kv,
        .pool = real->pool,
        .callbacks = {.opened = store_opened,
                      .failed = store_failed,
                      .damaged = store_damaged,
                      .space_changed = store_space},
        .arg = real,
        .boot_id = "the-boot-of-this-test",
    };
    rc = store_open(&config, &real->store);
    while (rc == 0 && !real->opened)
        rc = ring_loop_turn(real->edges.loop, -1);
    if (rc == 0)
        rc = real->opened_rc;
    struct store_shard_id id = {.volume = 5, .shard = 0, .instance = 9};
    return rc < 0 ? rc : store_shard_open(real->store, &id, SHARD_BYTES, &real->shard);
}

void real_close(struct real *real)
{
    store_shard_close(real->shard);
    store_close(real->store, /* clean= */ true, store_closed, real);
    edges_run_until(&real->edges, &real->closed);
    buf_pool_destroy(real->pool);
    ring_loop_destroy(real->edges.loop);
}

struct one {
    struct store_io io;
    struct store_flush flush;
    uint32_t crc;
    bool done;
    int rc;
};

static void io_done(struct store_io *io, int rc)
{
    struct one *one = io->owner;
    one->done = true;
    one->rc = rc;
}

static void flush_done(struct store_flush *req, int rc)
{
    struct one *one = req->owner;
    one->done = true;
    one->rc = rc;
}

int real_io(struct real *real, enum store_op op, uint64_t offset, struct buf *buf, uint64_t lsn)
{
    struct one one = {.crc = crc32c(buf->data, STORE_BLOCK_BYTES)};
    one.io = (struct store_io){.shard = real->shard,
                               .op = op,
                               .generation = 1,
                               .epoch = 1,
                               .lsn_n = lsn,
                               .offset = offset,
                               .length = STORE_BLOCK_BYTES,
                               .buf = buf,
                               .crcs = op == STORE_WRITE ? &one.crc : NULL,
                               .cb = io_done,
                               .owner = &one};
    int rc = op == STORE_WRITE
                 ? store_reserve(real->store, store_units_needed(real->shard, 1, offset, STORE_BLOCK_BYTES))
                 : 0;
    if (rc < 0)
        return rc;
    store_submit(&one.io);
    while (rc == 0 && !one.done)
        rc = ring_loop_turn(real->edges.loop, -1);
    return rc < 0 ? rc : one.rc;
}

int real_flush(struct real *real)
{
    struct one one = {.done = false};
    one.flush = (struct store_flush){.cb = flush_done, .owner = &one};
    store_flush(real->store, &one.flush);
    edges_run_until(&real->edges, &one.done);
    return one.rc;
}

/* ---- the child */

int real_child_writes(const char *directory)
{
    struct real real = {.opened = false};
    if (real_open(&real, directory) < 0)
        return 2;
    struct buf *buf = buf_alloc(real.pool, STORE_BLOCK_BYTES);
    for (uint32_t write_number = 0;; write_number++) {
        real_slot_content(write_number, buf->data);
        if (real_io(&real, STORE_WRITE, real_slot_offset(write_number % SLOTS), buf, write_number + 1) < 0)
            return 3;
        if (write(STDOUT_FILENO, &write_number, sizeof(write_number)) != (ssize_t)sizeof(write_number))
            return 4;
    }
}

uint32_t real_kill_writer(const char *directory, uint32_t writes)
{
    int fds[2], status;
    uint32_t number = 0;
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(fds[1], STDOUT_FILENO);
        (void)close(fds[0]);
        (void)close(fds[1]);
        (void)execl("/proc/self/exe", "writer", "writes", directory, (char *)NULL);
        _exit(99);
    }
    (void)close(fds[1]);
    while (number + 1 < writes)
        assert_int_equal(read(fds[0], &number, sizeof(number)), sizeof(number));
    assert_int_equal(kill(pid, SIGKILL), 0);
    while (read(fds[0], &number, sizeof(number)) == (ssize_t)sizeof(number))
        ;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    (void)close(fds[0]);
    return number + 1;
}

/* ---- the parent */

/* Each slot holds its last answered write; only the one in flight at the kill may be newer. */
void real_check_slots(struct real *real, uint32_t answered)
{
    struct buf *buf = buf_alloc(real->pool, STORE_BLOCK_BYTES);
    uint8_t expected[STORE_BLOCK_BYTES];
    for (uint32_t slot = 0; slot < SLOTS && slot < answered; slot++) {
        uint32_t newest = (answered - 1 - slot) / SLOTS * SLOTS + slot;
        assert_int_equal(real_io(real, STORE_READ, real_slot_offset(slot), buf, 0), 0);
        real_slot_content(newest, expected);
        if (memcmp(buf->data, expected, sizeof(expected)) != 0 && slot == answered % SLOTS)
            real_slot_content(answered, expected); /* the one in flight */
        assert_memory_equal(buf->data, expected, sizeof(expected));
    }
    buf_unref(buf);
}

void real_format(const struct edges *edges, char ret_path[256])
{
    const struct store_identity identity = {.uuid = "0123456789abcde", .cluster_id = 7, .node = 3};
    edges_path(edges, "store", ret_path);
    struct store_tool_format format = {.directory = ret_path, .bytes = FILE_BYTES, .identity = identity};
    assert_int_equal(store_tool_format(&format), 0);
}
