/* SPDX-License-Identifier: Apache-2.0 */
/* piece: the life of one request inside one chunk.
 *
 *   QUEUED --piece_start--> MARK --mark_acquire--> SUMS --write_map--> MAP --> MERGE --> DATA --> PUT --> DONE
 * A read goes from QUEUED to DATA; a zero from MARK (SUMS) to PUT; every stage may end in DONE.
 * - store_submit (store_io.c) makes pieces; piece_submit queues one behind earlier overlapping pieces of its region (at least one
 *   of the two writes), so that a backup's overlapping writes apply in order of arrival.
 * - Waiting lists hold pieces by wait_link; piece_wake runs their stage again.
 * - piece_finish hands over to the done list, which completes outside any submit and without recursion.
 * Failure: once the store failed, every piece ends with -EIO at its next step.
 */
#include "server/store/bad_blocks.h"
#include "server/store/older.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/mutant.h"

static const uint16_t stage_next[PIECE_STAGES] = {
    [PIECE_QUEUED] =
        1 << PIECE_MARK | 1 << PIECE_SUMS | 1 << PIECE_MERGE | 1 << PIECE_DATA | 1 << PIECE_PUT | 1 << PIECE_DONE,
    [PIECE_MARK] = 1 << PIECE_SUMS | 1 << PIECE_DONE,
    [PIECE_SUMS] = 1 << PIECE_MAP | 1 << PIECE_PUT | 1 << PIECE_DONE,
    [PIECE_MAP] = 1 << PIECE_MERGE | 1 << PIECE_DATA | 1 << PIECE_DONE,
    [PIECE_MERGE] = 1 << PIECE_DATA | 1 << PIECE_PUT | 1 << PIECE_DONE,
    [PIECE_DATA] = 1 << PIECE_PUT | 1 << PIECE_DONE,
    [PIECE_PUT] = 1 << PIECE_DONE,
};

void piece_move(struct piece *piece, enum piece_stage stage)
{
    assert(stage < PIECE_STAGES);
    assert(stage_next[piece->stage] >> stage & 1);
    assert(!list_linked(&piece->wait_link));
    piece->stage = stage;
}

static bool piece_writes(const struct piece *piece)
{
    assert(piece->kind <= PIECE_COMPACT);
    return piece->kind != PIECE_READ;
}

struct piece *piece_create(struct store_shard *shard, enum piece_kind kind, uint32_t chunk, uint32_t first,
                           uint32_t count)
{
    assert(first + count <= STORE_CHUNK_BLOCKS);
    assert(count > 0);
    struct store *store = shard->store;
    struct list_node *node = list_pop_front(&store->pool_pieces);
    struct piece *piece = node ? list_entry(node, struct piece, wait_link) : NULL;
    if (piece) { /* keeps the memory of its batch and list */
        struct kv_batch batch = piece->put.batch;
        struct unit_list released = piece->released;
        memset(piece, 0, sizeof(*piece));
        piece->put.batch = batch;
        piece->released = released;
        piece->released.count = 0;
    } else {
        piece = store_malloc(sizeof(*piece));
    }
    piece->store = store;
    piece->shard = shard;
    piece->kind = kind;
    piece->chunk_index = (uint16_t)chunk;
    piece->first = piece->lock_first = (uint16_t)first;
    piece->count = piece->lock_count = (uint16_t)count;
    return piece;
}

/* Merging rewrites whole units, so it excludes whole units; making a record excludes everything else in the chunk. */
static void set_lock(struct piece *piece)
{
    piece->lock_first = piece->first;
    piece->lock_count = piece->count;
    if (piece->kind == PIECE_READ)
        return;
    const struct chunk *chunk = chunk_get(piece->shard, piece->chunk_index);
    if (inherit_wanted(piece, chunk)) {
        piece->lock_first = 0;
        piece->lock_count = STORE_CHUNK_BLOCKS;
        return;
    }
    if (piece->kind != PIECE_WRITE || !chunk)
        return;
    uint32_t first = piece->first, end = first + piece->count;
    assert(end <= STORE_CHUNK_BLOCKS);
    if (write_locks_unit(chunk, piece->generation, first / UNIT_BLOCKS, piece->first, piece->count))
        first -= first % UNIT_BLOCKS;
    if (end % UNIT_BLOCKS && write_locks_unit(chunk, piece->generation, end / UNIT_BLOCKS, piece->first, piece->count))
        end += UNIT_BLOCKS - end % UNIT_BLOCKS;
    piece->lock_first = (uint16_t)first;
    piece->lock_count = (uint16_t)(end - first);
}

static bool conflicts(const struct piece *a, const struct piece *b)
{
    assert(a != b);
    if (a->chunk_index != b->chunk_index || (!piece_writes(a) && !piece_writes(b)))
        return false;
    if (a->kind == PIECE_WRITE && b->kind == PIECE_WRITE && MUTANT(store_does_not_order))
        return false;
    if (piece_writes(a) && piece_writes(b) && a->generation != b->generation)
        return true;
    return a->lock_first < b->lock_first + b->lock_count && b->lock_first < a->lock_first + a->lock_count;
}

static bool must_queue(struct piece *piece)
{
    assert(list_linked(&piece->region_link));
    struct list_node *head = &piece->shard->regions[piece->chunk_index / REGION_CHUNKS]->pieces;
    set_lock(piece);
    list_for_each(node, head)
    {
        const struct piece *earlier = list_entry(node, struct piece, region_link);
        if (earlier == piece)
            return false;
        if (conflicts(piece, earlier))
            return true;
    }
    assert(!"a submitted piece is on its region's list");
    return false;
}

/* From here on it may use units: what is freed later waits for it (R22). */
static void take_ticket(struct piece *piece)
{
    assert(!list_linked(&piece->age_link));
    piece->ticket = piece->store->next_ticket++;
    list_push_back(&piece->store->pieces, &piece->age_link);
}

static void piece_start(struct piece *piece)
{
    assert(piece->stage == PIECE_QUEUED);
    take_ticket(piece);
    if (piece->store->failed) {
        piece_finish(piece, -EIO);
        return;
    }
    switch (piece->kind) {
    case PIECE_READ: read_start(piece); break;
    case PIECE_WRITE: write_start(piece); break;
    case PIECE_ZERO: zero_start(piece); break;
    case PIECE_INHERIT:
        piece_move(piece, PIECE_SUMS);
        inherit_start(piece);
        break;
    case PIECE_COMPACT: compact_start(piece); break;
    }
}

/* Behind what overlaps it, or at once. */
static void enter(struct piece *piece)
{
    assert(piece->stage == PIECE_QUEUED && !list_linked(&piece->region_link));
    list_push_back(&region_obtain(piece->shard, piece->chunk_index / REGION_CHUNKS)->pieces, &piece->region_link);
    if (must_queue(piece)) {
        piece->queued = true;
        piece->shard->queued++;
        return;
    }
    piece_start(piece);
}

void piece_submit(struct piece *piece)
{
    struct store *store = piece->store;
    assert(piece->stage == PIECE_QUEUED);
    piece->started_ns = env_now_ns(store->env);
    store->piece_count++;
    enter(piece);
}

/* Where one ended or left. Not from inside a piece's start, and nothing ends meanwhile: the list must stay what it is. */
void piece_start_queued(struct store_shard *shard, uint32_t region)
{
    assert(region < SHARD_REGIONS);
    assert(shard->store->completing || shard->store->submit_depth);
    list_for_each_safe(node, next, &shard->regions[region]->pieces)
    {
        struct piece *piece = list_entry(node, struct piece, region_link);
        if (!piece->queued || must_queue(piece))
            continue;
        assert(shard->queued > 0);
        piece->queued = false;
        shard->queued--;
        piece_start(piece);
    }
}

/* A clone's read of what the base holds: it starts again there, among the pieces it must stay clear of. */
void piece_rehome(struct piece *piece, struct store_shard *shard, uint32_t generation)
{
    assert(piece->kind == PIECE_READ && shard != piece->shard);
    assert(!piece->pending && !piece->detour && !piece->older && !piece->sums);
    assert(piece->stage == PIECE_DATA && shard->store == piece->store);
    list_remove(&piece->region_link);
    list_remove(&piece->age_link);
    piece->shard = shard;
    piece->generation = generation;
    piece->stage = PIECE_QUEUED;
    enter(piece);
}

uint64_t piece_oldest_ticket(const struct store *store)
{
    assert(store->next_ticket > 0);
    if (list_empty(&store->pieces))
        return store->next_ticket;
    return list_entry(store->pieces.next, struct piece, age_link)->ticket;
}

void piece_resume(struct piece *piece)
{
    assert(!list_linked(&piece->wait_link));
    if (piece->store->failed) {
        if (piece->pending)
            return; /* ends with its last part */
        piece_finish(piece, -EIO);
        return;
    }
    switch (piece->stage) {
    case PIECE_MARK:
        if (piece->kind == PIECE_WRITE)
            write_start(piece);
        else
            zero_start(piece);
        break;
    case PIECE_SUMS: write_after_sums(piece); break;
    case PIECE_MAP:
        take_ticket(piece);
        write_map(piece);
        break;
    case PIECE_MERGE: merge_start(piece); break;
    default: assert(!"no other stage waits on a list"); break;
    }
}

void piece_wake(struct list_node *waiters)
{
    struct list_node batch, *node;
    list_head_init(&batch);
    while ((node = list_pop_front(waiters)))
        list_push_back(&batch, node);
    while ((node = list_pop_front(&batch)))
        piece_resume(list_entry(node, struct piece, wait_link));
    assert(list_empty(&batch));
}

void piece_part_done(struct piece *piece, int rc)
{
    assert(piece->pending > 0);
    if (rc && !piece->rc)
        piece->rc = rc;
    if (--piece->pending)
        return;
    if (list_linked(&piece->wait_link))
        return; /* the sums came while it waits for space or a buffer */
    if (piece->store->failed) {
        piece_finish(piece, -EIO);
        return;
    }
    switch (piece->stage) {
    case PIECE_SUMS: write_after_sums(piece); break;
    case PIECE_MAP: piece_finish(piece, piece->rc); break; /* no space, and the sums have come */
    case PIECE_MERGE: merge_part_done(piece); break;
    case PIECE_DATA:
        if (piece->kind == PIECE_READ)
            read_verify(piece);
        else
            write_data_done(piece);
        break;
    case PIECE_PUT: piece_finish(piece, piece->rc); break;
    default: assert(!"no part runs in this stage"); break;
    }
}

static void release_piece(struct piece *piece)
{
    struct store *store = piece->store;
    assert(!piece->pending);
    assert(!list_linked(&piece->wait_link));
    if (piece->marked)
        mark_release(piece);
    if (piece->sums)
        sums_unpin(piece->sums);
    if (piece->detour)
        detour_destroy(piece);
    if (piece->older)
        older_unpin(piece->older);
    for (uint32_t i = 0; i < piece->merge_count && !piece->merges_applied; i++) {
        bool last = alloc_unref(&store->alloc, piece->merges[i].taken);
        assert(last); /* no record ever named it */
        alloc_free(&store->alloc, piece->merges[i].taken);
    }
    free(piece->merges);
    if (piece->merge_buf)
        store_give_buf(store, piece->merge_buf);
    list_remove(&piece->region_link);
    if (list_linked(&piece->age_link)) /* not when it failed while waiting for space */
        list_remove(&piece->age_link);
    assert(store->piece_count > 0);
    store->piece_count--;
}

static void complete_io(struct piece *piece)
{
    struct store_io *io = piece->io;
    assert(io->pending > 0);
    if (piece->rc && !io->rc) {
        io->rc = piece->rc;
        io->bad_block = piece->bad_block;
    }
    io->units_allocated += piece->units_allocated;
    if (piece->drive_ns > io->drive_ns)
        io->drive_ns = piece->drive_ns;
    if (--io->pending == 0)
        io->cb(io, io->rc);
}

static void run_done_list(struct store *store)
{
    struct list_node *node;
    if (store->completing)
        return;
    store->completing = true;
    while ((node = list_pop_front(&store->done))) {
        struct piece *piece = list_entry(node, struct piece, wait_link);
        struct store_shard *shard = piece->shard;
        uint32_t region = piece->chunk_index / REGION_CHUNKS;
        release_piece(piece);
        if (shard->queued)
            piece_start_queued(shard, region);
        if (piece->io)
            complete_io(piece);
        else
            piece->done(piece);
        list_push_back(&store->pool_pieces, &piece->wait_link);
    }
    store->completing = false;
    assert(list_empty(&store->done));
    if (store->drain_count)
        round_drain(store);
    store_close_advance(store);
}

static void done_task(struct env_task *task)
{
    struct store *store = list_entry(task, struct store, done_task);
    assert(!store->submit_depth);
    run_done_list(store);
}

void piece_finish(struct piece *piece, int rc)
{
    struct store *store = piece->store;
    assert(rc <= 0);
    piece_move(piece, PIECE_DONE);
    piece->rc = rc;
    bool rewrites = (piece->kind == PIECE_WRITE || piece->kind == PIECE_ZERO) && !piece->older;
    if (rc == 0 && rewrites && store->bad_blocks.count)
        bad_blocks_written(piece);
    list_push_back(&store->done, &piece->wait_link);
    if (store->submit_depth)
        env_defer(store->env, &store->done_task, done_task);
    else
        run_done_list(store);
}

static void run_done(struct drive_io *io, int rc)
{
    struct run *run = list_entry(io, struct run, io);
    struct piece *piece = run->piece;
    struct store *store = piece->store;
    uint64_t took = env_now_ns(store->env) - piece->started_ns;
    assert(piece->pending > 0);
    if (took > piece->drive_ns)
        piece->drive_ns = took;
    if (io->op == DRIVE_READ && rc && !store->failed)
        rc = read_failed(piece, run); /* takes runs from the pool: this one must not be there yet */
    else if (io->op == DRIVE_WRITE && rc)
        store_fail(store, rc);
    else if (io->op == DRIVE_WRITE) {
        store->write_seq++;
        flush_ahead_wrote(store, io->length);
    }
    run->next_free = store->pool_runs;
    store->pool_runs = run;
    piece_part_done(piece, rc);
}

void run_submit(struct piece *piece, enum drive_op op, uint64_t offset, uint32_t first, uint32_t count, uint8_t *data)
{
    struct store *store = piece->store;
    struct run *run = store->pool_runs;
    assert(count > 0);
    assert(op != DRIVE_FLUSH);           /* those are shared: round.c, merge.c */
    assert(offset >= STORE_CHUNK_BYTES); /* never the superblocks */
    if (run)
        store->pool_runs = run->next_free;
    else
        run = store_malloc(sizeof(*run));
    memset(run, 0, sizeof(*run));
    run->piece = piece;
    run->first = (uint16_t)first;
    run->count = (uint16_t)count;
    run->io.op = op;
    run->io.offset = offset;
    run->io.length = count * STORE_BLOCK_BYTES;
    run->io.data = data;
    run->io.cb = run_done;
    piece->pending++;
    if (op == DRIVE_WRITE)
        store->stats.bytes_written_drive += run->io.length;
    drive_submit(store->drive, &run->io);
}

bool piece_take_buf(struct piece *piece, struct buf **ret_buf)
{
    struct store *store = piece->store;
    assert(store->spare_count <= SPARE_BUFS);
    if (!store->spare_count) {
        list_push_back(&store->buf_waiters, &piece->wait_link);
        return false;
    }
    *ret_buf = store->spare[--store->spare_count];
    return true;
}

void store_give_buf(struct store *store, struct buf *buf)
{
    assert(buf);
    assert(store->spare_count < SPARE_BUFS);
    store->spare[store->spare_count++] = buf;
    if (!list_empty(&store->buf_waiters))
        piece_wake(&store->buf_waiters);
}
