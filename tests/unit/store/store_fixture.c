/* SPDX-License-Identifier: Apache-2.0 */
/* store_fixture: see store_fixture.h. A crash abandons the store's memory: what a dead process leaves is not freed here but
 * kept reachable (abandoned), so that leak checkers stay quiet about it and loud about the rest. */
#include "tests/unit/store/store_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/crc32c.h"
#include "server/store/superblock.h"

#define POOL_BYTES (16u << 20)

static void opened(void *arg, int rc)
{
    struct fixture *f = arg;
    assert_false(f->opened);
    f->opened = true;
    f->opened_rc = rc;
}

static void failed(void *arg, int rc)
{
    struct fixture *f = arg;
    assert_true(rc < 0);
    f->failed_count++;
}

static void damaged(void *arg, struct store_shard *shard, uint64_t offset)
{
    struct fixture *f = arg;
    (void)shard;
    f->damaged_count++;
    f->damaged_offset = offset;
}

static void space_changed(void *arg)
{
    struct fixture *f = arg;
    f->space_count++;
}

void fixture_create(struct fixture *f, uint64_t drive_bytes, uint64_t seed)
{
    memset(f, 0, sizeof(*f));
    f->world = world_create(seed);
    f->node = world_node_add(f->world);
    f->disk = drive_sim_disk_create(drive_bytes, seed * 3 + 1);
    f->base = kv_sim_base_create(seed * 5 + 2);
    f->shard_bytes = 64u * STORE_CHUNK_BYTES;
    f->epoch = 1;
    f->boot = 1;
    f->config.callbacks = (struct store_callbacks){
        .opened = opened, .failed = failed, .damaged = damaged, .space_changed = space_changed};
    struct store_identity id = {.cluster_id = 99, .node = 1};
    uint8_t block[STORE_BLOCK_BYTES];
    assert_int_equal(store_format_superblock(block, &id, drive_bytes), 0);
    drive_sim_poke(f->disk, 0, block, sizeof(block));
}

int fixture_open(struct fixture *f)
{
    f->env = world_env_create(f->world, f->node);
    f->pool = buf_pool_create(POOL_BYTES);
    assert_non_null(f->pool);
    f->config.env = f->env;
    f->config.pool = f->pool;
    f->config.arg = f;
    assert_int_equal(drive_sim_open(f->disk, f->env, &f->config.drive), 0);
    assert_int_equal(kv_sim_open(f->base, f->env, &f->config.kv), 0);
    snprintf(f->config.boot_id, sizeof(f->config.boot_id), "boot-%u", f->boot);
    f->opened = f->closed = false;
    f->shard = NULL;
    assert_int_equal(store_open(&f->config, &f->store), 0);
    assert_true(fixture_wait(f, &f->opened));
    return f->opened_rc;
}

void fixture_open_shard(struct fixture *f)
{
    struct store_shard_id id = {.volume = FIXTURE_VOLUME, .shard = 0, .instance = 1};
    assert_int_equal(fixture_open(f), 0);
    assert_int_equal(store_shard_open(f->store, &id, f->shard_bytes, &f->shard), 0);
}

static void closed(void *arg)
{
    struct fixture *f = arg;
    f->closed = true;
}

void fixture_close(struct fixture *f, bool clean)
{
    if (f->shard)
        store_shard_close(f->shard);
    f->shard = NULL;
    store_close(f->store, clean, closed, f);
    assert_true(fixture_wait(f, &f->closed));
    f->store = NULL;
    buf_pool_destroy(f->pool); /* asserts that every buffer came back */
    f->pool = NULL;
}

struct remains {
    struct remains *next;
    void *store, *pool;
};
static struct remains *abandoned;

void fixture_crash(struct fixture *f, bool power)
{
    struct remains *remains = calloc(1, sizeof(*remains));
    assert_non_null(remains);
    *remains = (struct remains){.next = abandoned, .store = f->store, .pool = f->pool};
    abandoned = remains;
    world_node_crash(f->world, f->node, power ? WORLD_CRASH_POWER : WORLD_CRASH_PROCESS);
    drive_sim_crash(f->disk, power ? DRIVE_SIM_POWER : DRIVE_SIM_PROCESS);
    kv_sim_crash(f->base, power ? KV_SIM_POWER : KV_SIM_PROCESS);
    world_node_start(f->world, f->node);
    f->store = NULL;
    f->shard = NULL;
    f->pool = NULL;
    f->boot += power;
}

void fixture_destroy(struct fixture *f)
{
    if (f->store)
        fixture_close(f, /* clean= */ false);
    drive_sim_disk_destroy(f->disk);
    kv_sim_base_destroy(f->base);
    world_destroy(f->world);
}

static void io_done(struct store_io *io, int rc)
{
    struct fixture_io *self = io->owner;
    assert_false(self->done);
    self->done = true;
    self->rc = rc;
}

struct fixture_io *fixture_submit_flags(struct fixture *f, enum store_op op, uint64_t offset, uint32_t length,
                                        const uint8_t *data, uint32_t flags)
{
    struct fixture_io *self = calloc(1, sizeof(*self));
    assert_non_null(self);
    self->f = f;
    self->io.shard = f->shard;
    self->io.op = op;
    self->io.flags = flags;
    self->io.offset = offset;
    self->io.length = length;
    self->io.generation = f->generation;
    self->io.epoch = f->epoch;
    self->io.lsn_n = op == STORE_READ ? 0 : ++f->lsn_n;
    self->io.cb = io_done;
    self->io.owner = self;
    self->io.crcs = self->crcs;
    if (op != STORE_ZERO) {
        self->io.buf = buf_alloc(f->pool, length);
        assert_non_null(self->io.buf);
    }
    if (op == STORE_WRITE) {
        memcpy(self->io.buf->data, data, length);
        crc32c_blocks(self->io.buf->data, length / STORE_BLOCK_BYTES, self->crcs);
    }
    store_submit(&self->io);
    assert_false(self->done); /* never from inside the submit */
    return self;
}

struct fixture_io *fixture_submit(struct fixture *f, enum store_op op, uint64_t offset, uint32_t length,
                                  const uint8_t *data)
{
    return fixture_submit_flags(f, op, offset, length, data, 0);
}

static bool is_done(void *arg)
{
    return *(const bool *)arg;
}

bool fixture_wait(struct fixture *f, const bool *done)
{
    bool flag;
    memcpy(&flag, done, sizeof(flag));
    return flag || world_run_until(f->world, is_done, (void *)(uintptr_t)done, FIXTURE_WAIT_NS);
}

int fixture_end(struct fixture_io *io)
{
    assert_true(fixture_wait(io->f, &io->done));
    int rc = io->rc;
    buf_unref(io->io.buf);
    free(io);
    return rc;
}

int fixture_write_data(struct fixture *f, uint64_t offset, uint32_t length, const uint8_t *data)
{
    return fixture_end(fixture_submit(f, STORE_WRITE, offset, length, data));
}

int fixture_write(struct fixture *f, uint64_t offset, uint32_t length, uint8_t fill)
{
    uint8_t *data = malloc(length);
    assert_non_null(data);
    memset(data, fill, length);
    int rc = fixture_write_data(f, offset, length, data);
    free(data);
    return rc;
}

int fixture_read(struct fixture *f, uint64_t offset, uint32_t length, uint8_t *ret_data)
{
    struct fixture_io *io = fixture_submit(f, STORE_READ, offset, length, NULL);
    assert_true(fixture_wait(f, &io->done));
    memcpy(ret_data, io->io.buf->data, length);
    for (uint32_t i = 0; !io->rc && i < length / STORE_BLOCK_BYTES; i++)
        assert_int_equal(io->crcs[i], crc32c(ret_data + (size_t)i * STORE_BLOCK_BYTES, STORE_BLOCK_BYTES));
    return fixture_end(io);
}

int fixture_zero(struct fixture *f, uint64_t offset, uint32_t length, uint32_t flags)
{
    return fixture_end(fixture_submit_flags(f, STORE_ZERO, offset, length, NULL, flags));
}

struct flush_wait {
    struct store_flush req;
    bool done;
    int rc;
};

static void flush_done(struct store_flush *req, int rc)
{
    struct flush_wait *wait = req->owner;
    wait->done = true;
    wait->rc = rc;
}

int fixture_flush(struct fixture *f)
{
    struct flush_wait wait = {.req = {.cb = flush_done}};
    wait.req.owner = &wait;
    store_flush(f->store, &wait.req);
    assert_false(wait.done);
    assert_true(fixture_wait(f, &wait.done));
    return wait.rc;
}

void fixture_commit_all(struct fixture *f)
{
    store_committed(f->shard, f->epoch, f->lsn_n);
}

bool fixture_holds(struct fixture *f, uint64_t offset, uint32_t length, uint8_t fill)
{
    uint8_t *data = malloc(length);
    assert_non_null(data);
    assert_int_equal(fixture_read(f, offset, length, data), 0);
    bool holds = true;
    for (uint32_t i = 0; i < length; i++)
        holds &= data[i] == fill;
    free(data);
    return holds;
}

struct store_stats fixture_stats(struct fixture *f)
{
    struct store_stats stats;
    store_stats(f->store, &stats);
    return stats;
}

void fixture_run(struct fixture *f, uint64_t duration_ns)
{
    world_run(f->world, duration_ns);
}
