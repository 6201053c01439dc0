/* SPDX-License-Identifier: Apache-2.0 */
/* read: one chunk's part of a read.
 *
 * - read_start resolves blocks to runs that are contiguous on the drive, reads them, and fetches the checksums beside it.
 * - read_verify compares every block (CRC32C). Suspect chunks (unclean stop) adopt what the drive holds and count it;
 *   elsewhere a mismatch is damage: -EILSEQ and callbacks.damaged.
 * - A generation older than the newest takes map and sums from the kv: the newest record not above it.
 * Failure: a drive read that fails is retried block by block; blocks that stay unreadable count as damaged.
 */
#include "server/store/store_core.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"

static uint64_t block_offset(const struct piece *piece, uint32_t index)
{
    uint32_t block = piece->first + index;
    assert(index < piece->count);
    if (piece->old)
        return record_block_offset(&piece->old->map, block);
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

static void old_sums_done(struct kv_get *get, int rc)
{
    struct piece *piece = get->owner;
    assert(piece->stage == PIECE_DATA && piece->pending > 0);
    assert(piece->old);
    if (rc && rc != -ENOENT)
        store_fail(piece->store, rc);
    if (rc || record_sums_decode(get->key, get->key_len, get->value, get->value_len, piece->old->crcs))
        memset(piece->old->crcs, 0, sizeof(piece->old->crcs));
    piece_part_done(piece, 0);
}

static void old_map_done(struct kv_scan *scan, int rc)
{
    struct piece *piece = scan->owner;
    struct old_read *old = piece->old;
    uint32_t cursor = 0, key_len, value_len;
    const uint8_t *key, *value;
    bool is_delete;
    assert(old && piece->pending == 1);
    memset(old->map.own, 0xff, sizeof(old->map.own));
    memset(old->map.base, 0xff, sizeof(old->map.base));
    if (rc) {
        store_fail(piece->store, rc);
    } else if (kv_batch_next(&scan->pairs, &cursor, &key, &key_len, &value, &value_len, &is_delete)) {
        rc = record_map_decode(key, key_len, value, value_len, &old->map);
        if (!rc && submit_runs(piece)) {
            struct record_key sums =
                record_key_chunk(RECORD_SUMS, &piece->shard->id, piece->chunk_index, old->map.generation);
            memcpy(old->get.key, sums.bytes, sums.len);
            old->get.key_len = sums.len;
            old->get.cb = old_sums_done;
            old->get.owner = piece;
            piece->pending++;
            kv_get(piece->store->kv, &old->get);
        }
    } else {
        (void)submit_runs(piece); /* nothing that old: zeros */
    }
    piece_part_done(piece, rc ? -EILSEQ : 0);
}

/* The first record from (chunk, inverted generation) on is the newest that the generation sees (records.h). */
static void start_old(struct piece *piece)
{
    assert(piece->generation < piece->chunk->generation);
    struct old_read *old = store_malloc(sizeof(*old));
    assert(!piece->old);
    piece->old = old;
    struct record_key from = record_key_chunk(RECORD_MAP, &piece->shard->id, piece->chunk_index, piece->generation);
    struct record_key last = record_key_chunk(RECORD_MAP, &piece->shard->id, piece->chunk_index, 0);
    memcpy(old->scan.from, from.bytes, from.len);
    old->scan.from_len = from.len;
    memcpy(old->scan.to, last.bytes, last.len);
    old->scan.to[last.len] = 0; /* just after generation 0 */
    old->scan.to_len = last.len + 1;
    old->scan.limit = 1;
    old->scan.cb = old_map_done;
    old->scan.owner = piece;
    piece->pending++;
    kv_scan(piece->store->kv, &old->scan);
}

void read_start(struct piece *piece)
{
    assert(piece->kind == PIECE_READ);
    assert(!piece->pending);
    piece->chunk = chunk_get(piece->shard, piece->chunk_index);
    piece_move(piece, PIECE_DATA);
    if (piece->chunk && piece->generation < piece->chunk->generation) {
        start_old(piece);
        return;
    }
    if (submit_runs(piece))
        piece->sums = sums_acquire(piece->chunk, piece);
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
    store->stats.blocks_damaged++;
    if (piece->rc != -EILSEQ) {
        piece->rc = -EILSEQ;
        piece->bad_block = index;
    }
    if (store->config.callbacks.damaged)
        store->config.callbacks.damaged(store->config.arg, piece->shard,
                                        (uint64_t)piece->chunk_index * STORE_CHUNK_BYTES +
                                            (uint64_t)(piece->first + index) * STORE_BLOCK_BYTES);
}

/* R21: in a chunk that an unclean stop left suspect the drive's content is accepted and re-checksummed. */
static bool may_adopt(const struct piece *piece)
{
    const struct mark *mark = mark_find(piece->shard, piece->chunk_index);
    assert(piece->chunk || piece->old);
    return mark && mark->suspect >> (piece->chunk_index % REGION_CHUNKS) & 1;
}

static void verify_block(struct piece *piece, uint32_t index)
{
    assert(index < piece->count);
    assert(piece->first + index < STORE_CHUNK_BLOCKS);
    const uint8_t *data = piece->data + (size_t)index * STORE_BLOCK_BYTES;
    uint32_t block = piece->first + index;
    if (!(piece->valid[index / 64] >> (index % 64) & 1)) {
        if (piece->crcs)
            piece->crcs[index] = crc32c_zero_block();
        return;
    }
    bool unreadable = piece->unreadable[index / 64] >> (index % 64) & 1;
    uint32_t crc = unreadable ? 0 : crc32c(data, STORE_BLOCK_BYTES);
    uint32_t expected = piece->old ? piece->old->crcs[block] : piece->sums->crcs[block];
    if (piece->crcs)
        piece->crcs[index] = crc;
    if (unreadable) {
        report_damage(piece, index);
        return;
    }
    piece->store->stats.blocks_verified++;
    if (crc == expected || piece->flags & STORE_IO_RAW)
        return;
    if (!may_adopt(piece)) {
        report_damage(piece, index);
        return;
    }
    piece->store->stats.blocks_adopted++;
    if (piece->sums)
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
