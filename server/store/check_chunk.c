/* SPDX-License-Identifier: Apache-2.0 */
/* check_chunk: compares what a map record points to with its checksums.
 *
 *   - the record of the checksums is fetched; the blocks are read in runs that are contiguous on the drive;
 *   - a run the drive can not read is read again block by block;
 *   - every block is judged: it matches, or an unclean stop explains the mismatch (suspect, unsettled), or it is damage;
 *   - the newest record's content is digested as a whole chunk, holes as zeros.
 * Failure: a kv that fails ends the check; everything else is a finding.
 */
#include "server/store/check_internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/crc32c.h"

static void run_done(struct drive_io *io, int rc);

static bool bit_get(const uint64_t *bits, uint32_t block)
{
    assert(block < STORE_CHUNK_BLOCKS);
    return bits[block / 64] >> (block % 64) & 1;
}

static void bit_set(uint64_t *bits, uint32_t block)
{
    assert(block < STORE_CHUNK_BLOCKS);
    bits[block / 64] |= 1ull << (block % 64);
}

/* Unit that holds the block's content; RECORD_UNIT_NONE: none does. */
static uint32_t block_unit(const struct record_map *map, uint32_t block)
{
    enum block_state state = record_state_get(map->states, block);
    assert(block < STORE_CHUNK_BLOCKS);
    if (state == BLOCK_ZERO)
        return RECORD_UNIT_NONE;
    return state == BLOCK_BASE ? map->base[block / CHECK_UNIT_BLOCKS] : map->own[block / CHECK_UNIT_BLOCKS];
}

static uint64_t block_offset(const struct record_map *map, uint32_t block)
{
    uint32_t unit = block_unit(map, block);
    assert(unit != RECORD_UNIT_NONE);
    assert(block < STORE_CHUNK_BLOCKS);
    return (uint64_t)unit * STORE_UNIT_BYTES + (uint64_t)(block % CHECK_UNIT_BLOCKS) * STORE_BLOCK_BYTES;
}

static bool is_unsettled(const struct check *check, uint32_t block)
{
    const struct record_map *map = &check->chunk.map;
    assert(block < STORE_CHUNK_BLOCKS);
    for (uint32_t c = 0; c < 2; c++) {
        if (map->fresh[c].seq > check->super.settled_seq && bit_get(map->fresh[c].bits, block))
            return true;
    }
    return false;
}

static void judge_block(struct check *check, uint32_t block)
{
    struct check_chunk *chunk = &check->chunk;
    uint32_t generation = chunk->map.generation, unit = block_unit(&chunk->map, block);
    assert(bit_get(chunk->data, block));
    assert(unit >= check->unit_first && unit < check->unit_count);
    if (bit_get(chunk->unreadable, block)) {
        check_damage(check, "the drive cannot read a block", &chunk->id, chunk->index, generation, block, unit);
        return;
    }
    check->stats.blocks_checked++;
    const uint8_t *data = check->buf->data + (size_t)block * STORE_BLOCK_BYTES;
    if (chunk->has_sums && crc32c(data, STORE_BLOCK_BYTES) == chunk->crcs[block])
        return;
    bool may_be_suspect = !check->stats.clean || check->super.suspect;
    if (may_be_suspect && check_marked(check, &chunk->id, chunk->index))
        check->stats.blocks_suspect++;
    else if (!check->stats.clean && is_unsettled(check, block))
        check->stats.blocks_unsettled++;
    else
        check_damage(check, "a block does not match its checksum", &chunk->id, chunk->index, generation, block, unit);
}

static void digest(struct check *check)
{
    const struct check_chunk *chunk = &check->chunk;
    const uint8_t *data = check->buf->data;
    assert(chunk->newest && check->config.digest);
    if (data[0] == 0 && memcmp(data, data + 1, STORE_CHUNK_BYTES - 1) == 0)
        return; /* zeros, stored or not */
    check->config.digest(check->config.arg, &chunk->id, chunk->index, crc64(data, STORE_CHUNK_BYTES),
                         crc32c(data, STORE_CHUNK_BYTES));
}

static void all_read(struct check *check)
{
    struct check_chunk *chunk = &check->chunk;
    assert(chunk->pending == 0);
    assert(check->buf->capacity >= STORE_CHUNK_BYTES);
    for (uint32_t block = 0; block < STORE_CHUNK_BLOCKS; block++) {
        if (bit_get(chunk->data, block))
            judge_block(check, block);
    }
    if (chunk->newest && check->config.digest)
        digest(check);
    check_resume(check);
}

static void run_submit(struct check *check, struct check_run *run, uint32_t first, uint32_t count)
{
    struct check_chunk *chunk = &check->chunk;
    assert(count > 0);
    assert(first + count <= STORE_CHUNK_BLOCKS);
    memset(run, 0, sizeof(*run));
    run->check = check;
    run->first = first;
    run->count = count;
    run->io.op = DRIVE_READ;
    run->io.offset = block_offset(&chunk->map, first);
    run->io.length = count * STORE_BLOCK_BYTES;
    run->io.data = check->buf->data + (size_t)first * STORE_BLOCK_BYTES;
    run->io.cb = run_done;
    run->io.owner = run;
    chunk->pending++;
    drive_submit(check->config.drive, &run->io);
}

static void run_done(struct drive_io *io, int rc)
{
    struct check_run *run = io->owner;
    struct check *check = run->check;
    struct check_chunk *chunk = &check->chunk;
    uint32_t first = run->first, count = run->count;
    assert(chunk->pending > 0);
    assert(run >= chunk->runs && run < chunk->runs + STORE_CHUNK_BLOCKS);
    chunk->pending--;
    if (rc && count > 1) {
        for (uint32_t i = 0; i < count; i++) /* a run of n blocks owns the slots of its n blocks */
            run_submit(check, &chunk->runs[first + i], first + i, 1);
        return;
    }
    if (rc) {
        bit_set(chunk->unreadable, first);
        memset(check->buf->data + (size_t)first * STORE_BLOCK_BYTES, 0, STORE_BLOCK_BYTES);
    }
    if (chunk->pending == 0)
        all_read(check);
}

static void read_runs(struct check *check)
{
    struct check_chunk *chunk = &check->chunk;
    uint32_t block = 0;
    assert(chunk->pending == 0);
    memset(check->buf->data, 0, STORE_CHUNK_BYTES);
    memset(chunk->unreadable, 0, sizeof(chunk->unreadable));
    chunk->pending = 1; /* this function's own */
    while (block < STORE_CHUNK_BLOCKS) {
        if (!bit_get(chunk->data, block)) {
            block++;
            continue;
        }
        uint32_t count = 1;
        uint64_t offset = block_offset(&chunk->map, block);
        while (block + count < STORE_CHUNK_BLOCKS && bit_get(chunk->data, block + count) &&
               block_offset(&chunk->map, block + count) == offset + (uint64_t)count * STORE_BLOCK_BYTES)
            count++;
        run_submit(check, &chunk->runs[block], block, count);
        block += count;
    }
    chunk->pending--;
    assert(chunk->pending > 0); /* callbacks never come from inside a submit */
}

static void sums_got(struct kv_get *get, int rc)
{
    struct check *check = get->owner;
    struct check_chunk *chunk = &check->chunk;
    assert(get == &chunk->get);
    assert(chunk->pending == 0);
    if (rc && rc != -ENOENT && rc != -EUCLEAN) {
        check_end(check, rc);
        return;
    }
    chunk->has_sums =
        rc == 0 && record_sums_decode(get->key, get->key_len, get->value, get->value_len, chunk->crcs) == 0;
    if (rc == 0 && !chunk->has_sums)
        check_damage(check, "a record of checksums is broken", &chunk->id, chunk->index, chunk->map.generation,
                     STORE_CHECK_NONE, STORE_CHECK_NONE);
    else if (rc == -EUCLEAN)
        check_damage(check, "a record of checksums cannot be read", &chunk->id, chunk->index, chunk->map.generation,
                     STORE_CHECK_NONE, STORE_CHECK_NONE);
    read_runs(check);
}

bool check_chunk_start(struct check *check, const struct store_shard_id *id, uint32_t index,
                       const struct record_map *map, bool newest)
{
    struct check_chunk *chunk = &check->chunk;
    bool any = false;
    assert(chunk->pending == 0);
    assert(index < STORE_SHARD_CHUNKS);
    chunk->id = *id;
    chunk->index = index;
    chunk->map = *map;
    chunk->newest = newest;
    memset(chunk->data, 0, sizeof(chunk->data));
    for (uint32_t block = 0; block < STORE_CHUNK_BLOCKS; block++) {
        uint32_t unit = block_unit(map, block);
        if (unit < check->unit_first || unit >= check->unit_count)
            continue; /* zero; or told already: the unit is not of this drive */
        bit_set(chunk->data, block);
        any = true;
    }
    if (!any)
        return false;
    struct record_key key = record_key_chunk(RECORD_SUMS, id, index, map->generation);
    assert(key.len <= KV_KEY_MAX);
    memcpy(chunk->get.key, key.bytes, key.len);
    chunk->get.key_len = key.len;
    chunk->get.cb = sums_got;
    chunk->get.owner = check;
    kv_get(check->config.kv, &chunk->get);
    return true;
}
