/* SPDX-License-Identifier: Apache-2.0 */
/* raft_sim_disk: what a voter keeps: term, vote, log, snapshot; and what happens to it at a crash.
 *
 *   - append, truncate and the installation of a leader's snapshot are operations in one queue: each takes its time, is carried
 *     out on the durable log, and is called back; a snapshot of our own has its own slot beside the queue
 *   - term and vote are durable when the call returns; a slow one makes the node stand still after it (world_node_pause)
 *   - detach (close, crash): a random number of the oldest operations is carried out, the rest is lost; all are cancelled
 * Failure modes: a write fails (I/O error, full): its entries may have reached the disk or not; every later one fails, too, until
 * the next attach, since a log without holes is all that libraft's own backend leaves.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/raft_sim_internal.h"

#define WRITE_MIN_NS 100000u
#define WRITE_MAX_NS 400000u
#define ENTRIES_MAX (1u << 20)

struct stored_entry {
    raft_term term;
    unsigned short type;
    size_t len;
    uint8_t *bytes;
};

struct stored_snapshot {
    raft_index index, conf_index;
    raft_term term;
    struct raft_configuration conf;
    size_t len;
    uint8_t *bytes;
};

enum op_kind { OP_APPEND, OP_TRUNCATE, OP_INSTALL };

struct op {
    struct list_node node;
    struct raft_sim_disk *disk; /* of a leader's snapshot only */
    enum op_kind kind;
    uint64_t due_ns;
    raft_index index; /* truncate */
    struct stored_entry *entries;
    unsigned n;
    struct stored_snapshot *snapshot;
    struct raft_io_append *append;
    raft_io_append_cb append_cb;
    struct raft_io_snapshot_put *put;
    raft_io_snapshot_put_cb put_cb;
};

struct raft_sim_disk {
    struct world *world;
    int node;
    struct raft_sim_faults faults;
    struct raft_sim_disk_stats stats;
    bool full, attached, broken;
    /* durable */
    bool bootstrapped, probation;
    raft_term term;
    raft_id vote;
    raft_index first; /* of entries[0] */
    size_t count, capacity;
    struct stored_entry *entries;
    struct stored_snapshot *snapshot;
    /* in flight */
    struct list_node ops;
    uint64_t last_due_ns;
    struct world_event done_event, put_event, stall_event;
    struct op *own; /* a snapshot of our own */
    unsigned own_trailing;
};

/* ---- memory ---- */

static uint8_t *copy_bytes(const void *bytes, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    assert(copy && (bytes || len == 0));
    if (len)
        memcpy(copy, bytes, len);
    return copy;
}

static void snapshot_free(struct stored_snapshot *snapshot)
{
    if (!snapshot)
        return;
    raft_configuration_close(&snapshot->conf);
    free(snapshot->bytes);
    free(snapshot);
}

static struct stored_snapshot *snapshot_copy(const struct raft_snapshot *from)
{
    struct stored_snapshot *snapshot = calloc(1, sizeof(*snapshot));
    size_t at = 0;
    assert(snapshot && from->index > 0);
    snapshot->index = from->index;
    snapshot->term = from->term;
    snapshot->conf_index = from->configuration_index;
    int rc = raft_sim_configuration_copy(&from->configuration, &snapshot->conf);
    assert(rc == 0);
    for (unsigned i = 0; i < from->n_bufs; i++)
        snapshot->len += from->bufs[i].len;
    snapshot->bytes = malloc(snapshot->len ? snapshot->len : 1);
    assert(snapshot->bytes);
    for (unsigned i = 0; i < from->n_bufs; i++) {
        memcpy(snapshot->bytes + at, from->bufs[i].base, from->bufs[i].len);
        at += from->bufs[i].len;
    }
    return snapshot;
}

static void op_free(struct op *op)
{
    for (unsigned i = 0; op->entries && i < op->n; i++)
        free(op->entries[i].bytes);
    free(op->entries);
    snapshot_free(op->snapshot);
    free(op);
}

/* ---- the durable log ---- */

static raft_index last_index(const struct raft_sim_disk *disk)
{
    assert(disk->first > 0);
    return disk->first + disk->count - 1;
}

static void log_push(struct raft_sim_disk *disk, struct stored_entry *entry) /* its bytes are given */
{
    assert(disk->count < ENTRIES_MAX && entry->term > 0);
    if (disk->count == disk->capacity) {
        disk->capacity = disk->capacity ? 2 * disk->capacity : 64;
        disk->entries = realloc(disk->entries, disk->capacity * sizeof(*disk->entries));
        assert(disk->entries);
    }
    disk->entries[disk->count++] = *entry;
    entry->bytes = NULL;
}

static void log_truncate(struct raft_sim_disk *disk, raft_index index)
{
    assert(index >= disk->first);
    while (disk->count > 0 && last_index(disk) >= index)
        free(disk->entries[--disk->count].bytes);
}

static void log_drop_front(struct raft_sim_disk *disk, raft_index before)
{
    size_t drop = before > disk->first ? (size_t)(before - disk->first) : 0;
    drop = drop < disk->count ? drop : disk->count;
    for (size_t i = 0; i < drop; i++)
        free(disk->entries[i].bytes);
    memmove(disk->entries, disk->entries + drop, (disk->count - drop) * sizeof(*disk->entries));
    disk->count -= drop;
    disk->first += drop;
    assert(disk->first > 0);
}

static void carry_out(struct raft_sim_disk *disk, struct op *op)
{
    assert(disk->attached);
    switch (op->kind) {
    case OP_APPEND:
        for (unsigned i = 0; i < op->n; i++)
            log_push(disk, &op->entries[i]);
        break;
    case OP_TRUNCATE:
        log_truncate(disk, op->index);
        disk->stats.truncations++;
        break;
    case OP_INSTALL:
        log_truncate(disk, disk->first);
        snapshot_free(disk->snapshot);
        disk->snapshot = op->snapshot;
        op->snapshot = NULL;
        disk->first = disk->snapshot->index + 1;
        disk->stats.installs++;
        break;
    }
}

static void carry_out_own(struct raft_sim_disk *disk)
{
    struct op *op = disk->own;
    assert(op->snapshot);
    if (disk->snapshot && disk->snapshot->index > op->snapshot->index)
        return; /* a leader's came meanwhile */
    snapshot_free(disk->snapshot);
    disk->snapshot = op->snapshot;
    op->snapshot = NULL;
    if (disk->snapshot->index > disk->own_trailing && world_chance(disk->world, 800)) /* segments go as a whole */
        log_drop_front(disk, disk->snapshot->index - disk->own_trailing + 1);
    disk->stats.snapshots++;
}

/* ---- the queue ---- */

static void call_back(struct op *op, int status)
{
    struct op copy = *op;
    assert(!list_linked(&op->node));
    if (op->kind == OP_INSTALL && op->disk && status != 0)
        op->disk->stats.installs_cut++;
    op_free(op);
    if (copy.append_cb)
        copy.append_cb(copy.append, status);
    else if (copy.put_cb)
        copy.put_cb(copy.put, status);
}

static uint64_t write_ns(struct raft_sim_disk *disk)
{
    const struct raft_sim_faults *f = &disk->faults;
    uint64_t min_ns = f->write_max_ns ? f->write_min_ns : WRITE_MIN_NS;
    uint64_t max_ns = f->write_max_ns ? f->write_max_ns : WRITE_MAX_NS;
    assert(min_ns <= max_ns);
    uint64_t ns = min_ns + world_random_below(disk->world, max_ns - min_ns + 1);
    disk->stats.writes++;
    if (f->slow_permille && world_chance(disk->world, f->slow_permille)) {
        ns += world_random_below(disk->world, f->slow_max_ns + 1);
        disk->stats.slow++;
    }
    return ns;
}

static bool fails(struct raft_sim_disk *disk)
{
    uint32_t rate = disk->faults.error_per_million;
    assert(rate <= 1000000);
    return rate && world_random_below(disk->world, 1000000) < rate;
}

static void op_done(struct world_event *event);

static void expect(struct raft_sim_disk *disk)
{
    uint64_t now_ns = world_now_ns(disk->world);
    if (list_empty(&disk->ops) || world_scheduled(&disk->done_event))
        return;
    uint64_t due_ns = list_entry(disk->ops.next, struct op, node)->due_ns;
    assert(disk->attached);
    world_schedule(disk->world, &disk->done_event, disk->node, due_ns > now_ns ? due_ns - now_ns : 0, op_done);
}

static void op_done(struct world_event *event)
{
    struct raft_sim_disk *disk = list_entry(event, struct raft_sim_disk, done_event);
    struct op *op = list_entry(list_pop_front(&disk->ops), struct op, node);
    int status = 0;
    assert(disk->attached);
    if (op->kind != OP_TRUNCATE && !disk->broken && (disk->full || fails(disk))) {
        status = disk->full ? RAFT_NOSPACE : RAFT_IOERR;
        if (world_chance(disk->world, 300)) /* it did reach the disk */
            carry_out(disk, op);
        disk->broken = true;
        disk->stats.failed++;
    } else if (disk->broken) {
        status = RAFT_IOERR;
    } else {
        carry_out(disk, op);
    }
    world_trace(disk->world, 201, (uint64_t)disk->node, (uint64_t)last_index(disk));
    expect(disk);
    call_back(op, status);
}

static void op_push(struct raft_sim_disk *disk, struct op *op)
{
    uint64_t due_ns = world_now_ns(disk->world) + (op->kind == OP_TRUNCATE ? 0 : write_ns(disk));
    assert(disk->attached);
    if (due_ns < disk->last_due_ns)
        due_ns = disk->last_due_ns;
    op->due_ns = disk->last_due_ns = due_ns;
    list_push_back(&disk->ops, &op->node);
    expect(disk);
}

static struct op *op_create(enum op_kind kind)
{
    struct op *op = calloc(1, sizeof(*op));
    assert(op);
    op->kind = kind;
    return op;
}

/* ---- raft_io ---- */

int raft_sim_disk_append(struct raft_sim_disk *disk, struct raft_io_append *req, const struct raft_entry entries[],
                         unsigned n, raft_io_append_cb cb)
{
    assert(n > 0);
    if (disk->full && world_chance(disk->world, 500)) { /* found at once, or when it is written */
        disk->broken = true;
        disk->stats.failed++;
        return RAFT_NOSPACE;
    }
    struct op *op = op_create(OP_APPEND);
    op->entries = calloc(n, sizeof(*op->entries));
    assert(op->entries);
    for (unsigned i = 0; i < n; i++)
        op->entries[i] = (struct stored_entry){.term = entries[i].term,
                                               .type = entries[i].type,
                                               .len = entries[i].buf.len,
                                               .bytes = copy_bytes(entries[i].buf.base, entries[i].buf.len)};
    op->n = n;
    op->append = req;
    op->append_cb = cb;
    op_push(disk, op);
    return 0;
}

int raft_sim_disk_truncate(struct raft_sim_disk *disk, raft_index index)
{
    struct op *op = op_create(OP_TRUNCATE);
    assert(index > 0);
    op->index = index;
    op_push(disk, op);
    return 0;
}

static void own_done(struct world_event *event)
{
    struct raft_sim_disk *disk = list_entry(event, struct raft_sim_disk, put_event);
    struct op *op = disk->own;
    int status = disk->full ? RAFT_NOSPACE : fails(disk) ? RAFT_IOERR : 0;
    assert(op && disk->attached);
    if (status == 0)
        carry_out_own(disk);
    disk->own = NULL;
    call_back(op, status);
}

int raft_sim_disk_put(struct raft_sim_disk *disk, unsigned trailing, struct raft_io_snapshot_put *req,
                      const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct op *op = op_create(OP_INSTALL);
    assert(disk->attached);
    op->snapshot = snapshot_copy(snapshot);
    op->put = req;
    op->put_cb = cb;
    if (trailing == 0) {
        op->disk = disk;
        op_push(disk, op);
        return 0;
    }
    assert(!disk->own);
    disk->own = op;
    disk->own_trailing = trailing;
    world_schedule(disk->world, &disk->put_event, disk->node, 4 * write_ns(disk), own_done);
    return 0;
}

static struct raft_snapshot *snapshot_give(const struct stored_snapshot *stored)
{
    struct raft_snapshot *snapshot = raft_calloc(1, sizeof(*snapshot));
    assert(snapshot && stored->index > 0);
    snapshot->index = stored->index;
    snapshot->term = stored->term;
    snapshot->configuration_index = stored->conf_index;
    int rc = raft_sim_configuration_copy(&stored->conf, &snapshot->configuration);
    assert(rc == 0);
    snapshot->n_bufs = 1;
    snapshot->bufs = raft_malloc(sizeof(*snapshot->bufs));
    assert(snapshot->bufs);
    snapshot->bufs[0].base = raft_malloc(stored->len ? stored->len : 1);
    snapshot->bufs[0].len = stored->len;
    assert(snapshot->bufs[0].base);
    memcpy(snapshot->bufs[0].base, stored->bytes, stored->len);
    return snapshot;
}

struct raft_snapshot *raft_sim_disk_get(const struct raft_sim_disk *disk)
{
    assert(disk->attached);
    return disk->snapshot ? snapshot_give(disk->snapshot) : NULL;
}

int raft_sim_disk_load(struct raft_sim_disk *disk, raft_term *term, raft_id *voted_for, struct raft_snapshot **snapshot,
                       raft_index *start_index, struct raft_entry *entries[], size_t *n_entries)
{
    assert(disk->attached && disk->bootstrapped);
    *term = disk->term;
    *voted_for = disk->vote;
    *snapshot = disk->snapshot ? snapshot_give(disk->snapshot) : NULL;
    if (disk->snapshot && last_index(disk) < disk->snapshot->index) { /* nothing of use is left of it */
        log_truncate(disk, disk->first);
        disk->first = disk->snapshot->index + 1;
    }
    *start_index = disk->first;
    *n_entries = disk->count;
    *entries = disk->count ? raft_calloc(disk->count, sizeof(**entries)) : NULL;
    for (size_t i = 0; i < disk->count; i++) {
        const struct stored_entry *stored = &disk->entries[i];
        struct raft_entry *entry = &(*entries)[i];
        entry->term = stored->term;
        entry->type = stored->type;
        entry->buf.len = stored->len;
        entry->buf.base = raft_malloc(stored->len);
        assert(entry->buf.base);
        memcpy(entry->buf.base, stored->bytes, stored->len);
        entry->batch = entry->buf.base;
    }
    return 0;
}

static void push_configuration(struct raft_sim_disk *disk, const struct raft_configuration *conf)
{
    struct raft_buffer buf;
    int rc = raft_configuration_encode(conf, &buf);
    assert(rc == 0);
    struct stored_entry entry = {
        .term = disk->term, .type = RAFT_CHANGE, .len = buf.len, .bytes = copy_bytes(buf.base, buf.len)};
    raft_free(buf.base);
    log_push(disk, &entry);
}

int raft_sim_disk_bootstrap(struct raft_sim_disk *disk, const struct raft_configuration *conf)
{
    if (disk->term != 0 || disk->count != 0)
        return RAFT_CANTBOOTSTRAP;
    disk->term = 1;
    disk->vote = 0;
    disk->first = 1;
    push_configuration(disk, conf);
    disk->bootstrapped = true;
    disk->probation = conf->n > 1;
    assert(disk->count == 1);
    return 0;
}

int raft_sim_disk_recover(struct raft_sim_disk *disk, const struct raft_configuration *conf)
{
    assert(disk->bootstrapped && list_empty(&disk->ops));
    push_configuration(disk, conf);
    return 0;
}

static void stall_over(struct world_event *event)
{
    struct raft_sim_disk *disk = list_entry(event, struct raft_sim_disk, stall_event);
    assert(disk->attached);
    world_node_pause(disk->world, disk->node, false);
}

/* The thread that wrote it stood still; here, the whole node does, after the call. */
static int meta_written(struct raft_sim_disk *disk)
{
    const struct raft_sim_faults *f = &disk->faults;
    assert(disk->attached);
    if (fails(disk)) {
        disk->stats.failed++;
        return RAFT_IOERR;
    }
    if (f->stall_permille && world_chance(disk->world, f->stall_permille) &&
        !world_node_paused(disk->world, disk->node)) {
        uint64_t ns = world_random_below(disk->world, f->stall_max_ns + 1);
        world_node_pause(disk->world, disk->node, true);
        world_schedule(disk->world, &disk->stall_event, WORLD_NOBODY, ns, stall_over);
    }
    return 0;
}

static void tell_meta(const struct raft_sim_disk *disk)
{
    assert(disk->attached);
    if (disk->faults.meta_written)
        disk->faults.meta_written(disk->faults.arg, disk->node);
}

int raft_sim_disk_set_term(struct raft_sim_disk *disk, raft_term term)
{
    int rc = meta_written(disk);
    assert(term >= disk->term);
    if (rc != 0 && world_chance(disk->world, 500)) /* failed, and nothing was written */
        return rc;
    disk->term = term;
    disk->vote = 0;
    world_trace(disk->world, 202, (uint64_t)disk->node, term);
    tell_meta(disk);
    return rc;
}

int raft_sim_disk_set_vote(struct raft_sim_disk *disk, raft_id vote)
{
    int rc = meta_written(disk);
    assert(disk->vote == 0 || disk->vote == vote || vote == 0);
    if (rc != 0 && world_chance(disk->world, 500))
        return rc;
    disk->vote = vote;
    world_trace(disk->world, 203, (uint64_t)disk->node, vote);
    tell_meta(disk);
    return rc;
}

/* ---- lives ---- */

void raft_sim_disk_attach(struct raft_sim_disk *disk)
{
    assert(!disk->attached && list_empty(&disk->ops) && !disk->own);
    disk->attached = true;
    disk->broken = false;
    disk->last_due_ns = 0;
}

void raft_sim_disk_detach(struct raft_sim_disk *disk)
{
    struct world *world = disk->world;
    struct list_node *node;
    assert(disk->attached);
    world_cancel(world, &disk->done_event);
    world_cancel(world, &disk->put_event);
    if (world_scheduled(&disk->stall_event)) {
        world_cancel(world, &disk->stall_event);
        world_node_pause(world, disk->node, false);
    }
    bool kept = !disk->broken;
    while ((node = list_pop_front(&disk->ops)) != NULL) {
        struct op *op = list_entry(node, struct op, node);
        kept = kept && world_chance(world, 500); /* the oldest first, and none behind a lost one */
        if (kept)
            carry_out(disk, op);
        disk->stats.kept += kept;
        disk->stats.lost += !kept;
        call_back(op, RAFT_CANCELED);
    }
    if (disk->own) {
        struct op *op = disk->own;
        if (!disk->broken && last_index(disk) >= op->snapshot->index && world_chance(world, 300))
            carry_out_own(disk);
        disk->own = NULL;
        call_back(op, RAFT_CANCELED);
    }
    disk->attached = false;
}

bool raft_sim_disk_bootstrapped(const struct raft_sim_disk *disk)
{
    return disk->bootstrapped;
}

bool raft_sim_disk_empty(const struct raft_sim_disk *disk)
{
    assert(disk->bootstrapped || disk->term == 0);
    return !disk->bootstrapped;
}

bool raft_sim_disk_probation(const struct raft_sim_disk *disk)
{
    return disk->probation;
}

void raft_sim_disk_probation_over(struct raft_sim_disk *disk)
{
    assert(disk->bootstrapped);
    disk->probation = false;
}

struct raft_sim_disk *raft_sim_disk_create(struct world *world, int node, const struct raft_sim_faults *faults)
{
    struct raft_sim_disk *disk = calloc(1, sizeof(*disk));
    assert(disk && node > 0);
    disk->world = world;
    disk->node = node;
    disk->faults = *faults;
    disk->first = 1;
    list_head_init(&disk->ops);
    return disk;
}

void raft_sim_disk_wipe(struct raft_sim_disk *disk)
{
    assert(!disk->attached);
    log_truncate(disk, disk->first);
    snapshot_free(disk->snapshot);
    disk->snapshot = NULL;
    disk->first = 1;
    disk->term = disk->vote = 0;
    disk->bootstrapped = disk->probation = false;
}

void raft_sim_disk_destroy(struct raft_sim_disk *disk)
{
    if (!disk)
        return;
    raft_sim_disk_wipe(disk);
    free(disk->entries);
    free(disk);
}

void raft_sim_disk_faults(struct raft_sim_disk *disk, const struct raft_sim_faults *faults)
{
    assert(faults->slow_permille <= 1000 && faults->stall_permille <= 1000);
    disk->faults = *faults;
}

void raft_sim_disk_full(struct raft_sim_disk *disk, bool full)
{
    assert(disk->node > 0);
    disk->full = full;
}

void raft_sim_disk_stats(const struct raft_sim_disk *disk, struct raft_sim_disk_stats *ret_stats)
{
    assert(ret_stats);
    *ret_stats = disk->stats;
    ret_stats->term = disk->term;
    ret_stats->first_index = disk->first;
    ret_stats->last_index = last_index(disk);
}
