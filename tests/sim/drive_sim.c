/* SPDX-License-Identifier: Apache-2.0 */
/* drive_sim: see drive_sim.h.
 *
 * - `current` is what reads see, `stable` what survives power loss, dirty_seq[sector] says which write made it differ.
 * - An operation waits in its timer; when it fires it takes effect and completes.
 */
#include "tests/sim/drive_sim.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/list.h"
#include "common/prng.h"

struct op {
    struct env_timer timer;
    struct list_node link;
    struct drive_sim_disk *disk;
    struct drive_io *io;
    uint64_t flush_seq;
    int rc;
    bool due; /* fired while the drive was hung */
    struct op *abandoned;
};

struct handle {
    struct drive drive;
    struct drive_sim_disk *disk;
    struct env *env;
    struct list_node ops;
};

struct drive_sim_disk {
    uint64_t bytes;
    uint8_t *current, *stable;
    uint64_t *dirty_seq; /* a sector; 0: clean */
    uint32_t *dirty;
    uint64_t dirty_count, dirty_capacity;
    uint64_t seq;
    uint64_t flushing_seq; /* highest sequence that a flush in flight covers */
    struct prng prng;
    struct drive_sim_faults faults;
    struct drive_sim_stats stats;
    struct handle *handle;
    bool is_file;
    void (*trace)(void *arg, enum drive_op op, uint64_t offset, uint32_t length, bool done);
    void *trace_arg;
};

/* Content is kept XORed with the fill, so that a new disk is full of it and costs no memory. */
static void copy_in(uint8_t *to, const uint8_t *from, uint64_t length)
{
    assert(length % 8 == 0);
    for (uint64_t i = 0; i < length; i += 8) {
        uint64_t word;
        memcpy(&word, from + i, 8);
        word ^= DRIVE_SIM_FILL * 0x0101010101010101u;
        memcpy(to + i, &word, 8);
    }
}

static uint8_t *map_zeros(uint64_t bytes)
{
    assert(bytes > 0);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert(memory != MAP_FAILED);
    return memory;
}

struct drive_sim_disk *drive_sim_disk_create(uint64_t bytes, uint64_t seed)
{
    assert(bytes % 4096 == 0);
    struct drive_sim_disk *disk = calloc(1, sizeof(*disk));
    assert(disk);
    disk->bytes = bytes;
    disk->current = map_zeros(bytes);
    disk->stable = map_zeros(bytes);
    disk->dirty_seq = (uint64_t *)(void *)map_zeros(bytes / DRIVE_SIM_SECTOR * sizeof(uint64_t));
    prng_seed(&disk->prng, seed);
    return disk;
}

/* A dead process frees nothing: its requests stay reachable from here, which keeps leak checkers quiet about them. */
static struct op *abandoned;

static void free_handle(struct drive_sim_disk *disk)
{
    struct handle *handle = disk->handle;
    struct list_node *node;
    assert(handle);
    while ((node = list_pop_front(&handle->ops))) {
        struct op *op = list_entry(node, struct op, link);
        env_timer_stop(handle->env, &op->timer);
        op->abandoned = abandoned;
        abandoned = op;
    }
    free(handle);
    disk->handle = NULL;
}

void drive_sim_disk_destroy(struct drive_sim_disk *disk)
{
    if (!disk)
        return;
    if (disk->handle)
        free_handle(disk);
    assert(!disk->handle);
    munmap(disk->current, disk->bytes);
    munmap(disk->stable, disk->bytes);
    munmap(disk->dirty_seq, disk->bytes / DRIVE_SIM_SECTOR * sizeof(uint64_t));
    free(disk->dirty);
    free(disk);
}

static void make_dirty(struct drive_sim_disk *disk, uint64_t sector)
{
    assert(sector < disk->bytes / DRIVE_SIM_SECTOR);
    if (!disk->dirty_seq[sector]) {
        if (disk->dirty_count == disk->dirty_capacity) {
            disk->dirty_capacity = disk->dirty_capacity ? 2 * disk->dirty_capacity : 1024;
            disk->dirty = realloc(disk->dirty, disk->dirty_capacity * sizeof(*disk->dirty));
            assert(disk->dirty);
        }
        disk->dirty[disk->dirty_count++] = (uint32_t)sector;
    }
    disk->dirty_seq[sector] = ++disk->seq;
}

static void write_sector(struct drive_sim_disk *disk, const struct drive_io *io, uint32_t index)
{
    uint64_t offset = io->offset + (uint64_t)index * DRIVE_SIM_SECTOR;
    uint64_t seq = disk->dirty_seq[offset / DRIVE_SIM_SECTOR];
    assert(offset < disk->bytes);
    if (seq && seq <= disk->flushing_seq) /* a running flush covers what is overwritten now */
        memcpy(disk->stable + offset, disk->current + offset, DRIVE_SIM_SECTOR);
    copy_in(disk->current + offset, io->data + (uint64_t)index * DRIVE_SIM_SECTOR, DRIVE_SIM_SECTOR);
    make_dirty(disk, offset / DRIVE_SIM_SECTOR);
}

static void flush_sectors(struct drive_sim_disk *disk, uint64_t seq)
{
    uint64_t kept = 0;
    assert(seq <= disk->seq);
    for (uint64_t i = 0; i < disk->dirty_count; i++) {
        uint64_t sector = disk->dirty[i], at = sector * DRIVE_SIM_SECTOR;
        if (disk->dirty_seq[sector] > seq) {
            disk->dirty[kept++] = (uint32_t)sector;
            continue;
        }
        memcpy(disk->stable + at, disk->current + at, DRIVE_SIM_SECTOR);
        disk->dirty_seq[sector] = 0;
    }
    disk->dirty_count = kept;
}

static void take_effect(struct drive_sim_disk *disk, const struct op *op)
{
    struct drive_io *io = op->io;
    assert(io->offset + io->length <= disk->bytes);
    switch (io->op) {
    case DRIVE_READ: copy_in(io->data, disk->current + io->offset, io->length); break;
    case DRIVE_WRITE:
        if (prng_below(&disk->prng, 1000) < disk->faults.drop_write_permille)
            break;
        for (uint32_t i = 0; i < io->length / DRIVE_SIM_SECTOR; i++)
            write_sector(disk, io, i);
        break;
    case DRIVE_FLUSH: flush_sectors(disk, op->flush_seq); break;
    }
}

static void complete(struct op *op)
{
    struct drive_sim_disk *disk = op->disk;
    struct drive_io *io = op->io;
    int rc = op->rc;
    list_remove(&op->link);
    if (!rc)
        take_effect(disk, op);
    if (disk->trace)
        disk->trace(disk->trace_arg, io->op, io->offset, io->length, /* done= */ true);
    free(op);
    assert(rc <= 0);
    io->cb(io, rc);
}

static void fired(struct env_timer *timer)
{
    struct op *op = list_entry(timer, struct op, timer);
    assert(op->disk->handle);
    if (op->disk->faults.hung)
        op->due = true;
    else
        complete(op);
}

static bool fails_now(struct drive_sim_disk *disk, const struct drive_io *io)
{
    struct drive_sim_faults *faults = &disk->faults;
    assert(io->op <= DRIVE_FLUSH);
    if (!faults->fail_nth || (faults->fail_only_reads && io->op != DRIVE_READ))
        return false;
    return --faults->fail_nth == 0;
}

static void submit(struct drive *drive, struct drive_io *io)
{
    struct handle *handle = list_entry(drive, struct handle, drive);
    struct drive_sim_disk *disk = handle->disk;
    assert(io->offset % 4096 == 0 && io->length % 4096 == 0);
    assert(io->op == DRIVE_FLUSH ? io->length == 0 : io->length > 0);
    assert(io->offset + io->length <= disk->bytes);
    struct op *op = calloc(1, sizeof(*op));
    assert(op);
    op->disk = disk;
    op->io = io;
    op->flush_seq = disk->seq;
    if (io->op == DRIVE_FLUSH)
        disk->flushing_seq = disk->seq;
    if (fails_now(disk, io)) {
        disk->stats.failed++;
        op->rc = disk->faults.fail_rc ? disk->faults.fail_rc : -EIO;
    }
    disk->stats.reads += io->op == DRIVE_READ;
    disk->stats.writes += io->op == DRIVE_WRITE;
    disk->stats.flushes += io->op == DRIVE_FLUSH;
    disk->stats.bytes_written += io->op == DRIVE_WRITE ? io->length : 0;
    if (disk->trace)
        disk->trace(disk->trace_arg, io->op, io->offset, io->length, /* done= */ false);
    uint64_t delay = 20000 + prng_below(&disk->prng, 100000);
    if (io->op == DRIVE_FLUSH)
        delay *= 4;
    if (prng_below(&disk->prng, 1000) < disk->faults.slow_permille)
        delay = disk->faults.slow_ns;
    list_push_back(&handle->ops, &op->link);
    env_timer_start(handle->env, &op->timer, delay, fired);
}

static void close_handle(struct drive *drive)
{
    struct handle *handle = list_entry(drive, struct handle, drive);
    assert(list_empty(&handle->ops));
    assert(handle->disk->handle == handle);
    free_handle(handle->disk);
}

static const struct drive_ops ops = {.submit = submit, .close = close_handle};

int drive_sim_open(struct drive_sim_disk *disk, struct env *env, struct drive **ret_drive)
{
    assert(disk && env);
    if (disk->handle)
        return -EBUSY;
    struct handle *handle = calloc(1, sizeof(*handle));
    assert(handle);
    handle->disk = disk;
    handle->env = env;
    list_head_init(&handle->ops);
    handle->drive.ops = &ops;
    handle->drive.bytes = disk->bytes;
    handle->drive.prewritten = disk->is_file ? 0 : disk->bytes;
    handle->drive.volatile_cache = true;
    handle->drive.is_file = disk->is_file;
    disk->handle = handle;
    *ret_drive = &handle->drive;
    return 0;
}

/* What was in flight may have landed, sector by sector. */
static void crash_in_flight(struct drive_sim_disk *disk)
{
    assert(disk->handle);
    list_for_each(node, &disk->handle->ops)
    {
        struct op *op = list_entry(node, struct op, link);
        if (op->io->op != DRIVE_WRITE || prng_below(&disk->prng, 3) == 0)
            continue;
        bool whole = prng_below(&disk->prng, 2);
        for (uint32_t i = 0; i < op->io->length / DRIVE_SIM_SECTOR; i++)
            if (whole || prng_below(&disk->prng, 2))
                write_sector(disk, op->io, i);
    }
}

static void lose_power(struct drive_sim_disk *disk)
{
    /* One mood a crash, so that whole-sale loss and survival are as likely as mixtures. */
    uint64_t mood = prng_below(&disk->prng, 4);
    assert(disk->dirty_count <= disk->dirty_capacity);
    for (uint64_t i = 0; i < disk->dirty_count; i++) {
        uint64_t sector = disk->dirty[i], at = sector * DRIVE_SIM_SECTOR;
        uint64_t fate = mood < 2 ? mood : prng_below(&disk->prng, disk->faults.power_trashes_none ? 2 : 3);
        if (disk->faults.power_keeps_all)
            fate = 0;
        if (disk->faults.power_drops_all)
            fate = 1;
        if (fate == 2)
            memset(disk->current + at, DRIVE_SIM_TRASH ^ DRIVE_SIM_FILL, DRIVE_SIM_SECTOR);
        if (fate == 1)
            memcpy(disk->current + at, disk->stable + at, DRIVE_SIM_SECTOR);
        else
            memcpy(disk->stable + at, disk->current + at, DRIVE_SIM_SECTOR);
        disk->dirty_seq[sector] = 0;
    }
    disk->dirty_count = 0;
}

void drive_sim_crash(struct drive_sim_disk *disk, enum drive_sim_crash kind)
{
    assert(kind == DRIVE_SIM_PROCESS || kind == DRIVE_SIM_POWER);
    if (disk->handle) {
        crash_in_flight(disk);
        free_handle(disk);
    }
    if (kind == DRIVE_SIM_POWER)
        lose_power(disk);
    assert(!disk->handle);
}

struct drive_sim_faults *drive_sim_faults(struct drive_sim_disk *disk)
{
    assert(disk);
    return &disk->faults;
}

struct drive_sim_stats *drive_sim_stats(struct drive_sim_disk *disk)
{
    assert(disk);
    return &disk->stats;
}

void drive_sim_set_file(struct drive_sim_disk *disk, bool is_file)
{
    assert(!disk->handle);
    disk->is_file = is_file;
}

void drive_sim_kick(struct drive_sim_disk *disk)
{
    assert(!disk->faults.hung);
    if (!disk->handle)
        return;
    list_for_each(node, &disk->handle->ops)
    {
        struct op *op = list_entry(node, struct op, link);
        if (op->due && !op->timer.armed)
            env_timer_start(disk->handle->env, &op->timer, 1000, fired);
    }
}

void drive_sim_poke(struct drive_sim_disk *disk, uint64_t offset, const void *data, uint64_t length)
{
    assert(offset + length <= disk->bytes);
    assert(!disk->dirty_count);
    copy_in(disk->current + offset, data, length);
    copy_in(disk->stable + offset, data, length);
}

void drive_sim_peek(struct drive_sim_disk *disk, uint64_t offset, void *ret_data, uint64_t length)
{
    assert(offset + length <= disk->bytes);
    copy_in(ret_data, disk->current + offset, length);
}

void drive_sim_flip(struct drive_sim_disk *disk, uint64_t offset, uint8_t mask)
{
    assert(offset < disk->bytes && mask);
    disk->current[offset] ^= mask;
    disk->stable[offset] ^= mask;
}

void drive_sim_trace(struct drive_sim_disk *disk,
                     void (*trace)(void *arg, enum drive_op op, uint64_t offset, uint32_t length, bool done), void *arg)
{
    assert(disk);
    disk->trace = trace;
    disk->trace_arg = arg;
}
