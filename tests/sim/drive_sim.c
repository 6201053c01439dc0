/* SPDX-License-Identifier: Apache-2.0 */
/* drive_sim: see drive_sim.h.
 *
 * - `current` is what reads see; a block that was written since its last flush has a slot with what is stable of it.
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

#define BLOCK 4096u
#define BLOCK_SECTORS (BLOCK / DRIVE_SIM_SECTOR)
#define SLAB_SLOTS 256u

/* A block whose newest write is not flushed: what power loss may bring back. */
struct slot {
    uint64_t seq; /* the newest write */
    uint32_t block;
    uint32_t place; /* in disk->dirty */
    uint8_t stable[BLOCK];
};

struct drive_sim_disk {
    uint64_t bytes;
    uint8_t *current;
    uint8_t *written;      /* a byte a block: zero: still full of DRIVE_SIM_FILL */
    struct slot **slot_of; /* a block; NULL: clean */
    struct slot **dirty;   /* all slots: the first dirty_count in use, the others free */
    uint32_t dirty_count, slot_count;
    struct slot **slabs;
    uint32_t slab_count;
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

/* The contents of disks that are gone, for disks to come: fresh memory costs more than all that is written to it. What is in it
 * does not matter (disk->written). */
struct spare {
    struct spare *next;
    uint64_t bytes;
    uint8_t *memory;
};

static struct spare *spares;

static uint8_t *content_take(uint64_t bytes)
{
    assert(bytes > 0);
    for (struct spare **at = &spares; *at; at = &(*at)->next) {
        struct spare *spare = *at;
        if (spare->bytes != bytes)
            continue;
        uint8_t *memory = spare->memory;
        *at = spare->next;
        free(spare);
        return memory;
    }
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert(memory != MAP_FAILED);
    (void)madvise(memory, bytes, MADV_HUGEPAGE); /* fewer faults, if the kernel likes it */
    return memory;
}

static void content_give(uint8_t *memory, uint64_t bytes)
{
    struct spare *spare = malloc(sizeof(*spare));
    assert(spare && memory);
    *spare = (struct spare){.next = spares, .bytes = bytes, .memory = memory};
    spares = spare;
}

struct drive_sim_disk *drive_sim_disk_create(uint64_t bytes, uint64_t seed)
{
    assert(bytes % BLOCK == 0 && bytes / BLOCK < UINT32_MAX);
    struct drive_sim_disk *disk = calloc(1, sizeof(*disk));
    assert(disk);
    disk->bytes = bytes;
    disk->current = content_take(bytes);
    disk->written = calloc(bytes / BLOCK, 1);
    disk->slot_of = calloc(bytes / BLOCK, sizeof(*disk->slot_of));
    assert(disk->written && disk->slot_of);
    prng_seed(&disk->prng, seed);
    return disk;
}

/* A block that is read or changed in part has to be there. */
static uint8_t *block_at(struct drive_sim_disk *disk, uint64_t block)
{
    assert(block < disk->bytes / BLOCK);
    uint8_t *data = disk->current + block * BLOCK;
    if (!disk->written[block])
        memset(data, DRIVE_SIM_FILL, BLOCK);
    disk->written[block] = 1;
    return data;
}

static void disk_read(struct drive_sim_disk *disk, uint64_t offset, uint8_t *data, uint64_t length)
{
    assert(offset + length <= disk->bytes);
    while (length > 0) {
        uint64_t block = offset / BLOCK, in = offset % BLOCK, part = BLOCK - in < length ? BLOCK - in : length;
        if (disk->written[block])
            memcpy(data, disk->current + offset, part);
        else
            memset(data, DRIVE_SIM_FILL, part);
        offset += part;
        data += part;
        length -= part;
    }
}

static void add_slab(struct drive_sim_disk *disk)
{
    struct slot *slab = malloc(SLAB_SLOTS * sizeof(*slab));
    disk->slabs = realloc(disk->slabs, (disk->slab_count + 1) * sizeof(struct slot *));
    disk->dirty = realloc(disk->dirty, (disk->slot_count + SLAB_SLOTS) * sizeof(struct slot *));
    assert(slab && disk->slabs && disk->dirty);
    disk->slabs[disk->slab_count++] = slab;
    for (uint32_t i = 0; i < SLAB_SLOTS; i++)
        disk->dirty[disk->slot_count++] = &slab[i];
}

/* The block's content is about to change: keeps what is stable of it. */
static void make_dirty(struct drive_sim_disk *disk, uint64_t block)
{
    struct slot *slot = disk->slot_of[block];
    assert(block < disk->bytes / BLOCK);
    if (!slot) {
        if (disk->dirty_count == disk->slot_count)
            add_slab(disk);
        slot = disk->dirty[disk->dirty_count];
        slot->place = disk->dirty_count++;
        slot->block = (uint32_t)block;
        disk->slot_of[block] = slot;
        disk_read(disk, block * BLOCK, slot->stable, BLOCK);
    } else if (slot->seq <= disk->flushing_seq) { /* a running flush covers what is overwritten now */
        memcpy(slot->stable, disk->current + block * BLOCK, BLOCK);
    }
    slot->seq = ++disk->seq;
}

static void make_clean(struct drive_sim_disk *disk, struct slot *slot)
{
    struct slot *last = disk->dirty[--disk->dirty_count];
    assert(disk->dirty[slot->place] == slot);
    disk->dirty[slot->place] = last;
    last->place = slot->place;
    disk->dirty[disk->dirty_count] = slot;
    disk->slot_of[slot->block] = NULL;
}

static void write_block(struct drive_sim_disk *disk, const struct drive_io *io, uint32_t index)
{
    uint64_t block = io->offset / BLOCK + index;
    make_dirty(disk, block);
    disk->written[block] = 1;
    memcpy(disk->current + block * BLOCK, io->data + (uint64_t)index * BLOCK, BLOCK);
}

static void write_sector(struct drive_sim_disk *disk, const struct drive_io *io, uint32_t index)
{
    uint64_t offset = io->offset + (uint64_t)index * DRIVE_SIM_SECTOR;
    make_dirty(disk, offset / BLOCK);
    (void)block_at(disk, offset / BLOCK);
    memcpy(disk->current + offset, io->data + (uint64_t)index * DRIVE_SIM_SECTOR, DRIVE_SIM_SECTOR);
}

static void flush_blocks(struct drive_sim_disk *disk, uint64_t seq)
{
    assert(seq <= disk->seq);
    for (uint32_t i = disk->dirty_count; i-- > 0;)
        if (disk->dirty[i]->seq <= seq)
            make_clean(disk, disk->dirty[i]);
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
    content_give(disk->current, disk->bytes);
    for (uint32_t i = 0; i < disk->slab_count; i++)
        free(disk->slabs[i]);
    free(disk->slabs);
    free(disk->dirty);
    free(disk->slot_of);
    free(disk->written);
    free(disk);
}

static void take_effect(struct drive_sim_disk *disk, const struct op *op)
{
    struct drive_io *io = op->io;
    assert(io->offset + io->length <= disk->bytes);
    switch (io->op) {
    case DRIVE_READ: disk_read(disk, io->offset, io->data, io->length); break;
    case DRIVE_WRITE:
        if (prng_below(&disk->prng, 1000) < disk->faults.drop_write_permille)
            break;
        if (disk->faults.drop_writes > 0) {
            disk->faults.drop_writes--;
            break;
        }
        for (uint32_t i = 0; i < io->length / BLOCK; i++)
            write_block(disk, io, i);
        break;
    case DRIVE_FLUSH: flush_blocks(disk, op->flush_seq); break;
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
    if (io->op == DRIVE_FLUSH && disk->faults.slow_flush_ns)
        delay = disk->faults.slow_flush_ns;
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

/* One unflushed sector: 0 kept, 1 dropped, 2 trashed. */
static uint64_t fate_of(struct drive_sim_disk *disk, uint64_t mood)
{
    assert(mood < 4);
    if (disk->faults.power_keeps_all)
        return 0;
    if (disk->faults.power_drops_all)
        return 1;
    return mood < 2 ? mood : prng_below(&disk->prng, disk->faults.power_trashes_none ? 2 : 3);
}

static void lose_power(struct drive_sim_disk *disk)
{
    /* One mood a crash, so that whole-sale loss and survival are as likely as mixtures. */
    uint64_t mood = prng_below(&disk->prng, 4);
    while (disk->dirty_count > 0) {
        struct slot *slot = disk->dirty[disk->dirty_count - 1];
        uint8_t *now = block_at(disk, slot->block);
        for (uint32_t i = 0; i < BLOCK_SECTORS; i++) {
            uint64_t fate = fate_of(disk, mood), at = (uint64_t)i * DRIVE_SIM_SECTOR;
            if (fate == 1)
                memcpy(now + at, slot->stable + at, DRIVE_SIM_SECTOR);
            else if (fate == 2 && memcmp(now + at, slot->stable + at, DRIVE_SIM_SECTOR) != 0)
                memset(now + at, DRIVE_SIM_TRASH, DRIVE_SIM_SECTOR);
        }
        make_clean(disk, slot);
    }
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
    for (uint64_t block = offset / BLOCK; block * BLOCK < offset + length; block++)
        (void)block_at(disk, block);
    memcpy(disk->current + offset, data, length);
}

void drive_sim_peek(struct drive_sim_disk *disk, uint64_t offset, void *ret_data, uint64_t length)
{
    assert(offset + length <= disk->bytes);
    disk_read(disk, offset, ret_data, length);
}

void drive_sim_flip(struct drive_sim_disk *disk, uint64_t offset, uint8_t mask)
{
    assert(offset < disk->bytes && mask);
    struct slot *slot = disk->slot_of[offset / BLOCK];
    block_at(disk, offset / BLOCK)[offset % BLOCK] ^= mask;
    if (slot)
        slot->stable[offset % BLOCK] ^= mask;
}

void drive_sim_trace(struct drive_sim_disk *disk,
                     void (*trace)(void *arg, enum drive_op op, uint64_t offset, uint32_t length, bool done), void *arg)
{
    assert(disk);
    disk->trace = trace;
    disk->trace_arg = arg;
}
