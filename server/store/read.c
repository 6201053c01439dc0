/* SPDX-License-Identifier: Apache-2.0 */
/* read: one chunk's part of a read.
 *
 * - read_start resolves blocks to runs that are contiguous on the drive, reads them, and fetches the checksums beside it.
 * - read_verify compares every block (CRC32C). Suspect chunks (unclean stop) adopt what the drive holds and count it;
 *   elsewhere a mismatch is damage: -EILSEQ and callbacks.damaged.
 * - A generation older than the newest reads through the record that serves it (older.h), a clone's chunk without a record
 *   through the base's shard, whose writes it must stay clear of: the piece moves over there.
 * Failure: a drive read that fails is retried block by block; blocks that stay unreadable count as damaged.
 */
#include "server/store/older.h"

#include <errno.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/mutant.h"
#include "server/store/bad_blocks.h"

static uint64_t block_offset(const struct piece *piece, uint32_t index)
{
    uint32_t block = piece->first + index;
    assert(index < piece->count);
    return piece->chunk ? chunk_block_offset(piece->chunk, block) : UINT64_MAX;
}

/* Submits the runs; zero blocks are filled here. Returns whether any block holds data. */
static bool submit_runs(struct piece *piece)
{
    bool any = false;
    uint32_t i = 0;
    assert(piece->data);
    while (i < piece->count) {
        uint64_t offset = block_offset(piece, i);
        uint32_t count = 1;
        uint8_t *data = piece->data + (size_t)i * STORE_BLOCK_BYTES;
        if (offset == UINT64_MAX) {
            while (i + count < piece->count && block_offset(piece, i + count) == UINT64_MAX)
                count++;
            memset(data, 0, (size_t)count * STORE_BLOCK_BYTES);
        } else {
            while (i + count < piece->count &&
                   block_offset(piece, i + count) == offset + (uint64_t)count * STORE_BLOCK_BYTES)
                count++;
            for (uint32_t b = i; b < i + count; b++)
                piece->valid[b / 64] |= 1ull << (b % 64);
            run_submit(piece, DRIVE_READ, offset, i, count, data);
            any = true;
        }
        i += count;
    }
    return any;
}

static void start_runs(struct piece *piece)
{
    assert(piece->stage == PIECE_DATA);
    assert(!piece->sums && !piece->detour);
    if (submit_runs(piece))
        piece->sums = sums_acquire(piece->chunk, piece);
}

/* A detour's answer; pending counts it. False: the piece went to the base. */
static bool found(struct piece *piece)
{
    struct lookup *lookup = &piece->detour->lookup;
    struct store_shard *shard = piece->shard;
    assert(lookup->own_only && lookup->shard == shard);
    piece->chunk = lookup->chunk;
    piece->older = lookup->older;
    lookup->older = NULL;
    detour_destroy(piece);
    if (piece->chunk || !shard->has_base) {
        start_runs(piece);
        return true;
    }
    if (!shard->base_shard) {
        piece->rc = -ENOENT;
        return true;
    }
    piece->pending = 0;
    piece_rehome(piece, shard->base_shard, shard->base.generation);
    return false;
}

static void lookup_ended(struct lookup *lookup, int rc)
{
    struct detour *detour = lookup->owner;
    struct piece *piece = detour->piece;
    struct store *store = piece->store;
    struct store_shard *left = piece->shard;
    uint32_t region = piece->chunk_index / REGION_CHUNKS;
    assert(piece->stage == PIECE_DATA && piece->pending == 1);
    store->submit_depth++;
    if (rc || store->failed || found(piece))
        piece_part_done(piece, rc);
    else if (left->queued)
        piece_start_queued(left, region);
    store->submit_depth--;
}

/* Not served by the newest record in memory. */
static void take_detour(struct piece *piece)
{
    struct detour *detour = detour_create(piece, piece->generation);
    assert(!piece->pending);
    detour->lookup = (struct lookup){.shard = piece->shard,
                                     .index = piece->chunk_index,
                                     .generation = piece->generation,
                                     .own_only = true,
                                     .cb = lookup_ended,
                                     .owner = detour};
    piece->pending++;
    int rc = lookup_start(&detour->lookup);
    if (rc != -EINPROGRESS && (rc || piece->store->failed || found(piece)))
        piece_part_done(piece, rc); /* else whoever starts it goes on to what waits behind it */
}

void read_start(struct piece *piece)
{
    struct chunk *chunk = chunk_get(piece->shard, piece->chunk_index);
    assert(piece->kind == PIECE_READ);
    assert(!piece->pending);
    piece_move(piece, PIECE_DATA);
    if (lineage_inherits(piece->shard, chunk) || (chunk && piece->generation < chunk->generation)) {
        take_detour(piece);
        return;
    }
    piece->chunk = chunk;
    start_runs(piece);
    if (!piece->pending)
        read_verify(piece);
}

int read_failed(struct piece *piece, const struct run *run)
{
    assert(run->count > 0 && run->piece == piece);
    assert(piece->kind == PIECE_READ || piece->stage == PIECE_MERGE);
    if (piece->kind != PIECE_READ)
        return -EIO;
    if (run->count > 1) {
        for (uint32_t i = 0; i < run->count; i++) {
            uint32_t index = run->first + i;
            run_submit(piece, DRIVE_READ, run->io.offset + (uint64_t)i * STORE_BLOCK_BYTES, index, 1,
                       piece->data + (size_t)index * STORE_BLOCK_BYTES);
        }
        return 0;
    }
    piece->unreadable[run->first / 64] |= 1ull << (run->first % 64);
    return 0;
}

static void report_damage(struct piece *piece, uint32_t index)
{
    struct store *store = piece->store;
    assert(piece->kind == PIECE_READ);
    assert(index < piece->count);
    bad_blocks_found(piece, index, piece->unreadable[index / 64] >> (index % 64) & 1);
    if (piece->rc != -EILSEQ) {
        piece->rc = -EILSEQ;
        piece->bad_block = index;
    }
    if (store->config.callbacks.damaged)
        store->config.callbacks.damaged(store->config.arg, piece->io ? piece->io->shard : piece->shard,
                                        (uint64_t)piece->chunk_index * STORE_CHUNK_BYTES +
                                            (uint64_t)(piece->first + index) * STORE_BLOCK_BYTES);
}

/* R21: in a chunk that an unclean stop left suspect the drive's content is accepted and re-checksummed. */
static bool may_adopt(const struct piece *piece)
{
    assert(piece->chunk && piece->chunk->index == piece->chunk_index);
    return mark_suspects(piece->chunk->shard,
                         piece->chunk_index); /* of the base, where a clone has nothing of its own */
}

static void verify_block(struct piece *piece, uint32_t index)
{
    assert(index < piece->count);
    assert(piece->first + index < STORE_CHUNK_BLOCKS);
    const uint8_t *data = piece->data + (size_t)index * STORE_BLOCK_BYTES;
    uint32_t block = piece->first + index;
    bool valid = piece->valid[index / 64] >> (index % 64) & 1;
    if (piece->io && piece->io->recorded) { /* READ: one piece, the whole request */
        assert(piece->io->recorded_count < piece->count);
        piece->io->recorded[index] = valid ? piece->sums->crcs[block] : crc32c_zero_block();
        piece->io->recorded_count++;
    }
    if (!valid) {
        if (piece->crcs)
            piece->crcs[index] = crc32c_zero_block();
        return;
    }
    bool unreadable = piece->unreadable[index / 64] >> (index % 64) & 1;
    uint32_t crc = unreadable ? 0 : crc32c(data, STORE_BLOCK_BYTES);
    uint32_t expected = piece->sums->crcs[block];
    if (piece->crcs)
        piece->crcs[index] = crc;
    if (unreadable) {
        report_damage(piece, index);
        return;
    }
    piece->store->stats.blocks_verified++;
    if (crc == expected || piece->flags & STORE_IO_RAW || MUTANT(read_trusts_the_drive) ||
        MUTANT(zero_block_shows_its_unit)) {
        if (crc == expected && piece->store->bad_blocks.count && !piece->older && !piece->detour)
            bad_blocks_read(piece, index);
        return;
    }
    if (!may_adopt(piece)) {
        report_damage(piece, index);
        return;
    }
    piece->store->stats.blocks_adopted++;
    sums_set(piece->sums, block, crc);
}

void read_verify(struct piece *piece)
{
    assert(piece->rc || !piece->sums || piece->sums->loaded);
    assert(!piece->pending);
    assert(piece->stage == PIECE_DATA);
    if (!piece->rc)
        for (uint32_t i = 0; i < piece->count; i++)
            verify_block(piece, i);
    piece_finish(piece, piece->rc);
}
