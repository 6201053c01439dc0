/* SPDX-License-Identifier: Apache-2.0 */
/* merge: a unit that would get a third source is rewritten whole (at most two sources a unit), and so is one with blocks whose older
 * source is still needed (R21) when it would be put beneath another.
 *
 * Per unit, one after the other: read the blocks that stay, lay the written ones over them, write a new unit. Then:
 * - flush the drive, one flush for all that wait: the record will not name the old sources any more, so it must never be durable before the data is (R22);
 * - switch all merged units in memory and go on with the rest of the write.
 * The piece holds the whole units exclusively (piece.c: set_lock).
 * Failure: an unreadable source ends the write with -EIO and changes nothing; failed writes and flushes fail the store.
 */
#include "server/store/store_core.h"

#include <errno.h>
#include <string.h>

static bool overwritten(const struct piece *piece, uint32_t block)
{
    assert(block < STORE_CHUNK_BLOCKS);
    if (piece->kind == PIECE_COMPACT)
        return false;
    return block >= piece->first && block < (uint32_t)piece->first + piece->count;
}

static void read_sources(struct piece *piece)
{
    uint32_t unit = piece->merges[piece->merge_at].unit, i = 0;
    assert(piece->merge_buf && piece->merge_at < piece->merge_count);
    uint8_t *data = piece->merge_buf->data;
    memset(data, 0, STORE_UNIT_BYTES);
    piece->merge_phase = MERGE_READ;
    piece->pending++;
    while (i < UNIT_BLOCKS) {
        uint32_t block = unit * UNIT_BLOCKS + i, count = 1;
        uint64_t offset = chunk_block_offset(piece->chunk, block);
        if (offset == UINT64_MAX || overwritten(piece, block)) {
            i++;
            continue;
        }
        while (i + count < UNIT_BLOCKS && !overwritten(piece, block + count) &&
               chunk_block_offset(piece->chunk, block + count) == offset + (uint64_t)count * STORE_BLOCK_BYTES)
            count++;
        run_submit(piece, DRIVE_READ, offset, i, count, data + (size_t)i * STORE_BLOCK_BYTES);
        i += count;
    }
    piece_part_done(piece, 0);
}

void merge_start(struct piece *piece)
{
    assert(piece->merge_count > 0);
    if (piece->stage != PIECE_MERGE)
        piece_move(piece, PIECE_MERGE);
    if (!piece_take_buf(piece, &piece->merge_buf))
        return;
    assert(piece->merge_buf->capacity >= STORE_UNIT_BYTES);
    if (piece->kind != PIECE_COMPACT)
        piece->store->stats.units_merged += piece->merge_count;
    read_sources(piece);
}

static void write_unit(struct piece *piece)
{
    const struct merge *merge = &piece->merges[piece->merge_at];
    assert(alloc_refs(&piece->store->alloc, merge->taken) == 1); /* R22: one unit, one owner */
    uint8_t *data = piece->merge_buf->data;
    assert(piece->merge_phase == MERGE_READ);
    for (uint32_t i = 0; i < UNIT_BLOCKS; i++) {
        uint32_t block = merge->unit * UNIT_BLOCKS + i;
        if (overwritten(piece, block))
            memcpy(data + (size_t)i * STORE_BLOCK_BYTES,
                   piece->data + (size_t)(block - piece->first) * STORE_BLOCK_BYTES, STORE_BLOCK_BYTES);
    }
    piece->merge_phase = MERGE_WRITE;
    run_submit(piece, DRIVE_WRITE, (uint64_t)merge->taken * STORE_UNIT_BYTES, 0, UNIT_BLOCKS, data);
}

static void switch_unit(struct piece *piece, const struct merge *merge)
{
    struct chunk *chunk = piece->chunk;
    uint32_t unit = merge->unit;
    uint32_t own = chunk->own[unit], base = chunk_base(chunk, unit);
    assert(merge->taken != own && merge->taken != base);
    assert(own != UNIT_NONE);
    chunk_unref(piece->store, &piece->released, own);
    if (base != UNIT_NONE)
        chunk_unref(piece->store, &piece->released, base);
    chunk->own[unit] = merge->taken;
    chunk_set_base(chunk, unit, UNIT_NONE);
    for (uint32_t b = unit * UNIT_BLOCKS; b < (unit + 1) * UNIT_BLOCKS; b++) {
        chunk_clear_fresh(chunk, b); /* flushed: settled without its record having been */
        if (overwritten(piece, b) || chunk_state(chunk, b) != BLOCK_ZERO)
            record_state_set(chunk->states, b, BLOCK_OWN);
    }
}

static void merged(struct piece *piece)
{
    assert(piece->merge_phase == MERGE_FLUSH && !piece->merges_applied);
    assert(piece->merge_at == piece->merge_count);
    for (uint32_t i = 0; i < piece->merge_count; i++)
        switch_unit(piece, &piece->merges[i]);
    piece->merges_applied = true;
    if (piece->kind == PIECE_COMPACT)
        write_submit_put(piece, /* with_sums= */ false);
    else
        write_data(piece);
}

static void flush_ended(struct drive_io *io, int rc);

static void flush_start(struct store *store)
{
    struct merge_flush *flush = &store->merge_flush;
    struct list_node *node;
    assert(!flush->running && list_empty(&flush->covered));
    while ((node = list_pop_front(&flush->waiting)))
        list_push_back(&flush->covered, node);
    flush->running = !list_empty(&flush->covered);
    if (!flush->running)
        return;
    flush_ahead_begun(store);
    memset(&flush->io, 0, sizeof(flush->io));
    flush->io.op = DRIVE_FLUSH;
    flush->io.cb = flush_ended;
    drive_submit(store->drive, &flush->io);
}

static void flush_ended(struct drive_io *io, int rc)
{
    struct store *store = list_entry(io, struct store, merge_flush.io);
    struct merge_flush *flush = &store->merge_flush;
    struct list_node ended, *node;
    assert(flush->running);
    list_head_init(&ended);
    while ((node = list_pop_front(&flush->covered)))
        list_push_back(&ended, node);
    flush->running = false;
    if (rc)
        store_fail(store, rc); /* R13: the next one might succeed without what this one lost */
    flush_start(store);
    while ((node = list_pop_front(&ended)))
        piece_part_done(list_entry(node, struct piece, wait_link), rc);
}

/* One flush at a time, shared by all that were written when it begins. */
static void await_flush(struct piece *piece)
{
    struct store *store = piece->store;
    assert(piece->merge_phase == MERGE_WRITE && !piece->pending);
    piece->merge_phase = MERGE_FLUSH;
    piece->pending++;
    list_push_back(&store->merge_flush.waiting, &piece->wait_link);
    if (!store->merge_flush.running)
        flush_start(store);
    struct buf *buf = piece->merge_buf;
    piece->merge_buf = NULL;
    store_give_buf(store, buf); /* last: who waits for it begins */
}

void merge_part_done(struct piece *piece)
{
    assert(piece->stage == PIECE_MERGE);
    assert(!piece->pending);
    if (piece->rc) {
        piece_finish(piece, piece->rc);
        return;
    }
    switch (piece->merge_phase) {
    case MERGE_READ: write_unit(piece); break;
    case MERGE_WRITE:
        if (++piece->merge_at < piece->merge_count)
            read_sources(piece);
        else
            await_flush(piece);
        break;
    case MERGE_FLUSH: merged(piece); break;
    }
}
