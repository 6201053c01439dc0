/* SPDX-License-Identifier: Apache-2.0 */
/* bad_blocks: what this store remembers of blocks that could not be read back, until they could be.
 *
 * - a read finds a block damaged (rot, or the drive can't read it): bad_blocks_found, counted once
 * - somebody writes it, mostly a repair with another member's content: bad_blocks_written
 * - the next read of it is good: bad_blocks_read forgets it
 * Failure: a block that is bad again although it was written, or more unreadable blocks than BAD_UNREADABLE_MAX at a time: the
 * drive does not keep what it is given. The store fails (R13), so that others serve instead of repairing for ever.
 */
#include "server/store/bad_blocks.h"

#include <errno.h>

static uint32_t block_of(const struct piece *piece, uint32_t index)
{
    assert(index < piece->count);
    return (uint32_t)piece->chunk_index * STORE_CHUNK_BLOCKS + piece->first + index;
}

static struct bad_block *find(struct store *store, const struct piece *piece, uint32_t index)
{
    struct bad_blocks *bad = &store->bad_blocks;
    uint32_t block = block_of(piece, index);
    assert(bad->count <= BAD_BLOCKS_MAX);
    for (uint32_t i = 0; i < bad->count; i++) {
        if (bad->blocks[i].block == block && bad->blocks[i].instance == piece->shard->id.instance)
            return &bad->blocks[i];
    }
    return NULL;
}

static void forget(struct bad_blocks *bad, struct bad_block *block)
{
    assert(bad->count > 0);
    assert(block >= bad->blocks && block < bad->blocks + bad->count);
    bad->unreadable_count -= block->unreadable;
    *block = bad->blocks[--bad->count];
}

static void remember(struct store *store, const struct piece *piece, uint32_t index, bool unreadable)
{
    struct bad_blocks *bad = &store->bad_blocks;
    assert(bad->unreadable_count <= bad->count);
    if (bad->count == BAD_BLOCKS_MAX) /* one that was rewritten and never read since, or whichever */
        forget(bad, &bad->blocks[bad->evict_next++ % BAD_BLOCKS_MAX]);
    bad->blocks[bad->count++] = (struct bad_block){
        .instance = piece->shard->id.instance, .block = block_of(piece, index), .unreadable = unreadable};
    bad->unreadable_count += unreadable;
    store->stats.blocks_damaged++;
    if (bad->unreadable_count > BAD_UNREADABLE_MAX)
        store_fail(store, -EIO);
    assert(bad->count <= BAD_BLOCKS_MAX);
}

void bad_blocks_found(const struct piece *piece, uint32_t index, bool unreadable)
{
    struct store *store = piece->store;
    assert(piece->kind == PIECE_READ);
    if (piece->older || piece->detour) { /* writes go to newer generations: it is not known whether it was rewritten */
        store->stats.blocks_damaged++;
        return;
    }
    struct bad_block *known = find(store, piece, index);
    if (!known)
        remember(store, piece, index, unreadable);
    else if (known->rewritten)
        store_fail(store, -EIO);
}

void bad_blocks_read(const struct piece *piece, uint32_t index)
{
    assert(piece->kind == PIECE_READ);
    struct bad_block *known = find(piece->store, piece, index);
    if (known)
        forget(&piece->store->bad_blocks, known);
}

void bad_blocks_written(const struct piece *piece)
{
    struct store *store = piece->store;
    struct bad_blocks *bad = &store->bad_blocks;
    assert(piece->kind != PIECE_READ);
    uint32_t first = block_of(piece, 0);
    for (uint32_t i = 0; i < bad->count; i++) {
        struct bad_block *block = &bad->blocks[i];
        if (block->rewritten || block->instance != piece->shard->id.instance || block->block < first ||
            block->block - first >= piece->count)
            continue;
        block->rewritten = true;
        store->stats.blocks_repaired++;
    }
    assert(bad->count <= BAD_BLOCKS_MAX);
}
