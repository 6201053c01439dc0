/* SPDX-License-Identifier: Apache-2.0 */
/* open_resolve: after a reboot, what unsettled records made valid is checked against the drive (R21).
 *
 * For each record with blocks of an unsettled class, one after the other:
 * - fetch its sums; read the fresh blocks, a unit at a time;
 * - a block whose checksum matches holds; one that does not never existed: zero again, or its older source in the base unit,
 *   whose checksum is taken from the drive;
 * - put the record without fresh classes, and the sums when they changed.
 * Failure: kv errors fail the opening; an unreadable fresh block counts as one that never existed.
 */
#include "server/store/open.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"

static void item_next(struct opening *opening);
static void run_next(struct opening *opening);

void opening_add_item(struct opening *opening, struct store_shard *shard, uint32_t chunk, const struct record_map *map)
{
    assert(shard && map);
    if (opening->item_count == opening->item_capacity) {
        opening->item_capacity = opening->item_capacity ? 2 * opening->item_capacity : 16;
        opening->items = realloc(opening->items, opening->item_capacity * sizeof(*opening->items));
        if (!opening->items)
            abort();
    }
    assert(opening->item_count < opening->item_capacity);
    opening->items[opening->item_count++] = (struct resolve_item){.shard = shard, .chunk = chunk, .map = *map};
}

void opening_add_mark(struct store_shard *shard, uint32_t region, const struct record_mark *record)
{
    assert(!shard->regions[region] || !shard->regions[region]->mark);
    struct mark *mark = mark_create(shard, region);
    mark->durable = true;
    mark->epoch = mark->want_epoch = record->epoch;
    mark->frozen = record->frozen;
    mark->suspect_from = record->suspect_from;
    mark->due_epoch = record->epoch;
    mark->touched = 0xffff; /* which ones is not known any more */
    assert(!mark->wanted);
}

void opening_add_drop(struct opening *opening, const struct store_shard_id *id)
{
    assert(id);
    if (opening->drop_count == opening->drop_capacity) {
        opening->drop_capacity = opening->drop_capacity ? 2 * opening->drop_capacity : 16;
        opening->drops = realloc(opening->drops, opening->drop_capacity * sizeof(*opening->drops));
        if (!opening->drops)
            abort();
    }
    assert(opening->drop_count < opening->drop_capacity);
    opening->drops[opening->drop_count++] = *id;
}

static bool unsettled(const struct opening *opening, const struct record_map *map, uint32_t block)
{
    assert(block < STORE_CHUNK_BLOCKS);
    for (uint32_t c = 0; c < 2; c++)
        if (map->fresh[c].seq > opening->store->super.settled_seq && map->fresh[c].bits[block / 64] >> (block % 64) & 1)
            return true;
    return false;
}

static void batch_put_done(struct kv_write *write, int rc)
{
    struct opening *opening = write->owner;
    assert(opening->item_at <= opening->item_count);
    kv_batch_reset(&write->batch);
    if (rc)
        opening_fail(opening, rc);
    else
        item_next(opening);
}

static void item_done(struct opening *opening)
{
    struct resolve_item *item = &opening->items[opening->item_at++];
    struct kv_batch *batch = &opening->write.batch;
    memset(item->map.fresh, 0, sizeof(item->map.fresh));
    uint8_t map[RECORD_MAP_BYTES_MAX], sums[RECORD_SUMS_BYTES];
    struct record_key key = record_key_chunk(RECORD_MAP, &item->shard->id, item->chunk, item->map.generation);
    uint32_t bytes = record_map_encode(&key, &item->map, map);
    kv_batch_put(batch, key.bytes, key.len, map, bytes);
    if (opening->item_changed) {
        key = record_key_chunk(RECORD_SUMS, &item->shard->id, item->chunk, item->map.generation);
        record_sums_encode(&key, opening->crcs, sums);
        kv_batch_put(batch, key.bytes, key.len, sums, sizeof(sums));
    }
    struct chunk *chunk = chunk_get(item->shard, item->chunk);
    assert(chunk); /* the scan made it */
    if (chunk->generation == item->map.generation)
        chunk_import(chunk, &item->map);
    if (batch->count < 256) {
        item_next(opening);
        return;
    }
    opening->write.sync = false;
    opening->write.cb = batch_put_done;
    opening->write.owner = opening;
    kv_write(opening->store->kv, &opening->write);
}

static void judge_block(struct opening *opening, uint32_t block, const uint8_t *data, int rc)
{
    struct record_map *map = &opening->items[opening->item_at].map;
    assert(block < STORE_CHUNK_BLOCKS);
    uint32_t crc = rc ? 0 : crc32c(data, STORE_BLOCK_BYTES);
    if (opening->reading_base) {
        opening->crcs[block] = crc;
        opening->item_changed = true;
        record_state_set(map->states, block, BLOCK_BASE);
        return;
    }
    if (!rc && crc == opening->crcs[block])
        return;
    opening->store->stats.blocks_reverted++;
    bool over = record_state_get(map->states, block) == BLOCK_OVER;
    record_state_set(map->states, block, over ? BLOCK_BASE : BLOCK_ZERO);
    if (over) {
        assert(!opening->base_wanted[block / 64] || map->base[block / UNIT_BLOCKS] != UNIT_NONE);
        opening->base_wanted[block / 64] |= 1ull << (block % 64);
    }
}

static void run_done(struct drive_io *io, int rc)
{
    struct opening *opening = list_entry(io, struct opening, io[0]);
    assert(opening->run_count > 0);
    for (uint32_t i = 0; i < opening->run_count; i++)
        judge_block(opening, opening->block + i, io->data + (size_t)i * STORE_BLOCK_BYTES, rc);
    opening->block += opening->run_count;
    run_next(opening);
}

static bool to_read(const struct opening *opening, uint32_t block)
{
    const struct record_map *map = &opening->items[opening->item_at].map;
    assert(block < STORE_CHUNK_BLOCKS);
    if (opening->reading_base)
        return opening->base_wanted[block / 64] >> (block % 64) & 1;
    return unsettled(opening, map, block);
}

static void run_next(struct opening *opening)
{
    const struct record_map *map = &opening->items[opening->item_at].map;
    while (opening->block < STORE_CHUNK_BLOCKS && !to_read(opening, opening->block))
        opening->block++;
    if (opening->block == STORE_CHUNK_BLOCKS) {
        if (opening->reading_base) {
            item_done(opening);
            return;
        }
        opening->reading_base = true; /* second pass: older sources */
        opening->block = 0;
        run_next(opening);
        return;
    }
    uint32_t count = 1;
    while ((opening->block + count) % UNIT_BLOCKS && to_read(opening, opening->block + count) &&
           record_block_offset(map, opening->block + count) ==
               record_block_offset(map, opening->block) + (uint64_t)count * STORE_BLOCK_BYTES)
        count++;
    opening->run_count = count;
    struct drive_io *io = &opening->io[0];
    memset(io, 0, sizeof(*io));
    io->op = DRIVE_READ;
    io->offset = record_block_offset(map, opening->block);
    assert(io->offset != UINT64_MAX); /* fresh blocks are valid (records.c) */
    io->length = count * STORE_BLOCK_BYTES;
    io->data = opening->store->spare[0]->data;
    io->cb = run_done;
    drive_submit(opening->store->drive, io);
}

static void sums_done(struct kv_get *get, int rc)
{
    struct opening *opening = get->owner;
    assert(opening->item_at < opening->item_count);
    if (rc && rc != -ENOENT) {
        opening_fail(opening, rc);
        return;
    }
    if (rc || record_sums_decode(get->key, get->key_len, get->value, get->value_len, opening->crcs))
        memset(opening->crcs, 0, sizeof(opening->crcs));
    opening->block = 0;
    opening->reading_base = opening->item_changed = false;
    memset(opening->base_wanted, 0, sizeof(opening->base_wanted));
    run_next(opening);
}

static void item_next(struct opening *opening)
{
    if (opening->item_at == opening->item_count) {
        opening_settle(opening); /* what is left in the batch rides in the last one */
        return;
    }
    const struct resolve_item *item = &opening->items[opening->item_at];
    struct record_key key = record_key_chunk(RECORD_SUMS, &item->shard->id, item->chunk, item->map.generation);
    assert(key.len <= KV_KEY_MAX);
    memcpy(opening->get.key, key.bytes, key.len);
    opening->get.key_len = key.len;
    opening->get.cb = sums_done;
    opening->get.owner = opening;
    kv_get(opening->store->kv, &opening->get);
}

void opening_resolve(struct opening *opening)
{
    assert(!opening->item_at);
    assert(!opening->item_count || opening->store->last_stop == STORE_STOP_REBOOTED);
    item_next(opening);
}
