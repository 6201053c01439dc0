/* SPDX-License-Identifier: Apache-2.0 */
/* open: from a drive and a kv to a store that serves.
 *
 * - Both superblocks are read; a bad copy is repaired from the other.
 * - The super record says how the last run ended (R1): clean, same boot, rebooted.
 * - Scans: removals under way, shards, marks, map records. References of every record build the allocator (I11); the newest
 *   generation of each chunk stays in memory.
 * - Rebooted: blocks that a record of an unsettled class made valid are checked against the drive (open_resolve.c, R21).
 * - The drive is flushed, then one synced batch settles everything and records this run as not (yet) clean. Opened.
 * Failure: callbacks.opened gets -EBADMSG for a drive or record that is not ours or damaged, -EIO, -ENOMEM; the caller then
 *   closes the store.
 */
#include "server/store/open.h"
#include "server/store/background.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SCAN_LIMIT = 1024 };

#define SUSPECT_GENERATIONS_MAX 256u /* snapshots made while a chunk waits to be verified: more is not believed */

static void scan_next(struct opening *opening);

static void opening_end(struct opening *opening, int rc)
{
    struct store *store = opening->store;
    assert(store->opening == opening);
    assert(rc <= 0);
    kv_get_free(&opening->get);
    kv_batch_free(&opening->scan.pairs);
    kv_batch_free(&opening->write.batch);
    free(opening->drops);
    free(opening->items);
    free(opening);
    store->opening = NULL;
    if (!rc) {
        store->opened = true;
        space_check(store);
        background_start(store);
    }
    store->config.callbacks.opened(store->config.arg, rc);
    store_close_advance(store);
}

void opening_fail(struct opening *opening, int rc)
{
    assert(rc < 0);
    assert(!opening->store->opened);
    opening_end(opening, rc);
}

/* --- the end: flush, settle, serve --- */

static void settled(struct kv_write *write, int rc)
{
    struct opening *opening = write->owner;
    struct store *store = opening->store;
    assert(!store->opened);
    if (rc) {
        opening_fail(opening, rc);
        return;
    }
    store->settled_seq = store->super.settled_seq;
    store->settle_seq = store->settled_seq + 1;
    opening_end(opening, 0);
}

static void flushed(struct drive_io *io, int rc)
{
    struct opening *opening = list_entry(io, struct opening, io[0]);
    struct store *store = opening->store;
    assert(io->op == DRIVE_FLUSH && !store->opened);
    if (rc) {
        opening_fail(opening, rc);
        return;
    }
    assert(opening->seq_max >= store->super.settled_seq);
    store->super.settled_seq = opening->seq_max;
    store->super.clean = false;
    memcpy(store->super.boot_id, store->config.boot_id, sizeof(store->super.boot_id));
    uint8_t value[RECORD_SUPER_BYTES];
    struct record_key key = record_key_super();
    record_super_encode(&store->super, value);
    kv_batch_put(&opening->write.batch, key.bytes, key.len, value, sizeof(value));
    opening->write.sync = true;
    opening->write.cb = settled;
    opening->write.owner = opening;
    kv_write(store->kv, &opening->write);
}

static void set_watermark(struct opening *opening)
{
    struct store *store = opening->store;
    const struct drive *drive = store->drive;
    assert(store->alloc.unit_first > 0);
    if (!drive->is_file || !store->config.prewrite_bytes_per_s)
        return; /* everything may be handed out */
    uint64_t units = store->super.watermark_units;
    if (drive->prewritten / STORE_UNIT_BYTES > units)
        units = drive->prewritten / STORE_UNIT_BYTES;
    if (opening->unit_end > units) /* what is referenced was prewritten, whatever was persisted lazily */
        units = opening->unit_end;
    if (units < store->alloc.unit_first)
        units = store->alloc.unit_first;
    if (units > store->alloc.unit_count)
        units = store->alloc.unit_count;
    alloc_set_watermark(&store->alloc, (uint32_t)units);
}

/* Those that became older, or were made, while they were suspect before: back to the oldest, or the last one where nothing is noted. */
static void suspect_older(struct mark *mark, uint32_t index, uint32_t newest)
{
    uint32_t generation = newest - 1;
    assert(newest > 0);
    mark_suspect_record(mark, index, generation);
    while (mark->suspect_from && generation + 1 > mark->suspect_from && newest - generation < SUSPECT_GENERATIONS_MAX)
        mark_suspect_record(mark, index, --generation);
}

void opening_settle(struct opening *opening)
{
    struct store *store = opening->store;
    assert(!store->opened);
    set_watermark(opening);
    bool was_suspect = store->last_stop != STORE_STOP_CLEAN || store->super.suspect;
    list_for_each(node, &store->marks)
    {
        struct mark *mark = list_entry(node, struct mark, lru);
        for (uint32_t i = 0; was_suspect && i < REGION_CHUNKS; i++) {
            uint32_t index = mark->region * REGION_CHUNKS + i;
            const struct chunk *chunk = chunk_get(mark->shard, index);
            if (!chunk)
                continue;
            mark->suspect |= (uint16_t)(1u << i);
            if (mark->shard->has_older && chunk->generation)
                suspect_older(mark, index, chunk->generation);
        }
    }
    for (uint32_t i = 0; i < opening->drop_count; i++)
        drop_resume(store, &opening->drops[i]);
    memset(&opening->io[0], 0, sizeof(opening->io[0]));
    opening->io[0].op = DRIVE_FLUSH;
    opening->io[0].cb = flushed;
    drive_submit(store->drive, &opening->io[0]);
}

/* --- scans --- */

static bool is_dropped(struct opening *opening, const struct store_shard_id *id)
{
    assert(id);
    for (uint32_t i = 0; i < opening->drop_count; i++)
        if (id_equal(&opening->drops[i], id))
            return true;
    return false;
}

static struct store_shard *shard_of(struct opening *opening, const struct store_shard_id *id)
{
    assert(id);
    struct store_shard *shard = shard_find(opening->store, id);
    if (shard || is_dropped(opening, id))
        return shard;
    return shard_create(opening->store, id);
}

static int load_map(struct opening *opening, const struct store_shard_id *id, uint32_t index,
                    const struct record_map *map)
{
    struct store *store = opening->store;
    assert(index < STORE_SHARD_CHUNKS);
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++) {
        uint32_t units[2] = {map->own[unit], map->base[unit]};
        for (uint32_t s = 0; s < 2; s++) {
            if (units[s] == UNIT_NONE)
                continue;
            if (alloc_ref(&store->alloc, units[s]))
                return -EBADMSG;
            if (units[s] >= opening->unit_end)
                opening->unit_end = units[s] + 1;
        }
    }
    bool unsettled = false;
    for (uint32_t c = 0; c < 2; c++) {
        unsettled |= map->fresh[c].seq > store->super.settled_seq;
        if (map->fresh[c].seq > opening->seq_max)
            opening->seq_max = map->fresh[c].seq;
    }
    struct store_shard *shard = shard_of(opening, id);
    if (!shard)
        return 0;                 /* being removed: only its references count */
    if (!chunk_get(shard, index)) /* the first record of a chunk is its newest (records.h) */
        chunk_import(chunk_obtain(shard, index, map->generation), map);
    else
        shard->has_older = true;
    if (unsettled && store->last_stop == STORE_STOP_REBOOTED)
        opening_add_item(opening, shard, index, map);
    return 0;
}

static int load_pair(struct opening *opening, const uint8_t *key, uint32_t key_len, const uint8_t *value,
                     uint32_t value_len)
{
    enum record_kind kind;
    struct store_shard_id id;
    uint32_t index, generation;
    int rc = record_key_decode(key, key_len, &kind, &id, &index, &generation);
    if (rc)
        return rc;
    assert(kind != RECORD_SUPER && kind != RECORD_SUMS);
    struct record_map map;
    struct record_mark record;
    struct record_shard shard_record;
    struct store_shard *shard;
    switch (kind) {
    case RECORD_MAP:
        rc = record_map_decode(key, key_len, value, value_len, &map);
        return rc ? rc : load_map(opening, &id, index, &map);
    case RECORD_MARK:
        rc = record_mark_decode(key, key_len, value, value_len, &record);
        shard = rc ? NULL : shard_of(opening, &id);
        if (shard)
            opening_add_mark(shard, index, &record);
        return rc;
    case RECORD_DROP:
        rc = record_drop_decode(key, key_len, value, value_len);
        if (!rc)
            opening_add_drop(opening, &id);
        return rc;
    case RECORD_SHARD:
        rc = record_shard_decode(key, key_len, value, value_len, &shard_record);
        shard = rc ? NULL : shard_of(opening, &id);
        if (shard) {
            shard->bytes = shard_record.bytes;
            shard->origin = shard_record.origin;
            shard->has_base = shard_record.has_base;
            shard->base = shard_record.base;
            shard->stored = true;
        }
        return rc;
    default: return -EBADMSG;
    }
}

static void scan_done(struct kv_scan *scan, int rc)
{
    struct opening *opening = scan->owner;
    assert(scan == &opening->scan);
    uint32_t cursor = 0, key_len = 0, value_len;
    const uint8_t *key = NULL, *value;
    bool is_delete;
    assert(opening->scan_kind < 4);
    while (!rc && kv_batch_next(&scan->pairs, &cursor, &key, &key_len, &value, &value_len, &is_delete))
        rc = load_pair(opening, key, key_len, value, value_len);
    if (rc) {
        opening_fail(opening, rc);
        return;
    }
    if (scan->more && key) { /* on from the successor of the last key */
        memcpy(scan->from, key, key_len);
        scan->from[key_len] = 0;
        scan->from_len = key_len + 1;
        kv_batch_reset(&scan->pairs);
        kv_scan(opening->store->kv, scan);
        return;
    }
    opening->scan_kind++;
    scan_next(opening);
}

static void scan_next(struct opening *opening)
{
    static const enum record_kind kinds[] = {RECORD_DROP, RECORD_SHARD, RECORD_MARK, RECORD_MAP};
    assert(opening->scan_kind <= 4);
    if (opening->scan_kind == 4) {
        int rc = lineage_resolve(opening->store);
        if (rc)
            opening_fail(opening, rc);
        else
            opening_resolve(opening);
        return;
    }
    struct record_key from = record_key_first(kinds[opening->scan_kind]);
    struct record_key to = record_key_end(kinds[opening->scan_kind]);
    kv_batch_reset(&opening->scan.pairs);
    memcpy(opening->scan.from, from.bytes, from.len);
    memcpy(opening->scan.to, to.bytes, to.len);
    opening->scan.from_len = from.len;
    opening->scan.to_len = to.len;
    opening->scan.limit = SCAN_LIMIT;
    opening->scan.cb = scan_done;
    opening->scan.owner = opening;
    kv_scan(opening->store->kv, &opening->scan);
}

/* --- the beginning: superblocks and the super record --- */

static void super_done(struct kv_get *get, int rc)
{
    struct opening *opening = get->owner;
    struct store *store = opening->store;
    assert(get->key_len == 1);
    if (!rc)
        rc = record_super_decode(get->value, get->value_len, &store->super);
    else if (rc == -ENOENT) { /* freshly formatted */
        rc = 0;
        store->super.clean = true;
    }
    if (rc) {
        opening_fail(opening, rc);
        return;
    }
    if (store->super.clean)
        store->last_stop = STORE_STOP_CLEAN;
    else if (!memcmp(store->super.boot_id, store->config.boot_id, sizeof(store->super.boot_id)))
        store->last_stop = STORE_STOP_SAME_BOOT;
    else
        store->last_stop = STORE_STOP_REBOOTED;
    opening->seq_max = store->super.settled_seq;
    scan_next(opening);
}

static void get_super(struct opening *opening)
{
    assert(opening->store->alloc.refs);
    struct record_key key = record_key_super();
    assert(key.len <= KV_KEY_MAX);
    memcpy(opening->get.key, key.bytes, key.len);
    opening->get.key_len = key.len;
    opening->get.cb = super_done;
    opening->get.owner = opening;
    kv_get(opening->store->kv, &opening->get);
}

static void repaired(struct drive_io *io, int rc)
{
    struct opening *opening = io->owner;
    assert(opening->io_pending == 1);
    opening->io_pending = 0;
    if (rc)
        opening_fail(opening, rc);
    else
        get_super(opening);
}

static void copies_read(struct opening *opening)
{
    struct store *store = opening->store;
    assert(!opening->io_pending);
    uint8_t *data = store->spare[0]->data;
    int rcs[SUPERBLOCK_COPIES], good = -1;
    for (uint32_t i = 0; i < SUPERBLOCK_COPIES; i++) {
        rcs[i] = opening->io_rc[i];
        if (!rcs[i])
            rcs[i] = superblock_decode(data + i * STORE_BLOCK_BYTES, &store->superblock);
        if (!rcs[i])
            good = (int)i;
    }
    int rc = good < 0 ? rcs[0] : 0;
    if (!rc && store->superblock.drive_bytes > store->drive->bytes)
        rc = -ENODATA; /* the drive shrank */
    if (!rc)
        rc = alloc_init(&store->alloc, store->drive->bytes);
    if (rc) {
        opening_fail(opening, rc);
        return;
    }
    uint32_t bad = 1 - (uint32_t)good;
    if (!rcs[bad] && !memcmp(data, data + STORE_BLOCK_BYTES, STORE_BLOCK_BYTES)) {
        get_super(opening);
        return;
    }
    assert(bad < SUPERBLOCK_COPIES);
    memcpy(data + bad * STORE_BLOCK_BYTES, data + (uint32_t)good * STORE_BLOCK_BYTES, STORE_BLOCK_BYTES);
    opening->io[bad].op = DRIVE_WRITE;
    opening->io[bad].cb = repaired;
    opening->io_pending = 1;
    drive_submit(store->drive, &opening->io[bad]);
}

static void copy_read(struct drive_io *io, int rc)
{
    struct opening *opening = io->owner;
    assert(opening->io_pending > 0);
    opening->io_rc[io - opening->io] = rc;
    if (--opening->io_pending == 0)
        copies_read(opening);
}

static void start(struct env_task *task)
{
    struct opening *opening = list_entry(task, struct opening, task);
    struct store *store = opening->store;
    assert(!opening->io_pending);
    if (store->spare_count < SPARE_BUFS) {
        opening_fail(opening, -ENOMEM);
        return;
    }
    opening->io_pending = SUPERBLOCK_COPIES;
    for (uint32_t i = 0; i < SUPERBLOCK_COPIES; i++) {
        struct drive_io *io = &opening->io[i];
        io->op = DRIVE_READ;
        io->offset = superblock_offsets[i];
        io->length = STORE_BLOCK_BYTES;
        io->data = store->spare[0]->data + i * STORE_BLOCK_BYTES;
        io->cb = copy_read;
        io->owner = opening;
        drive_submit(store->drive, io);
    }
}

static void set_defaults(struct store_config *config)
{
    assert(config->env && config->drive && config->kv && config->pool);
    if (!config->sums_cache_bytes)
        config->sums_cache_bytes = 64u << 20;
    if (!config->active_set_max)
        config->active_set_max = 4096;
    if (!config->near_full_percent)
        config->near_full_percent = 85;
    if (!config->checkpoint_ns)
        config->checkpoint_ns = ENV_MS(60000);
    if (!config->clean_idle_ns)
        config->clean_idle_ns = ENV_MS(5000);
}

static void init_lists(struct store *store)
{
    struct list_node *heads[] = {&store->shards,
                                 &store->pieces,
                                 &store->pool_pieces,
                                 &store->done,
                                 &store->space_waiters,
                                 &store->room_waiters,
                                 &store->buf_waiters,
                                 &store->settle_waiters,
                                 &store->merge_flush.waiting,
                                 &store->merge_flush.covered,
                                 &store->sums_lru,
                                 &store->sums_pool,
                                 &store->marks,
                                 &store->flushes,
                                 &store->restamps,
                                 &store->chunks_dirty,
                                 &store->round.flushes,
                                 &store->round.restamps,
                                 &store->older_lru};
    assert(store->next_ticket == 0);
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        list_head_init(heads[i]);
    map_u64_init(&store->shard_map);
    map_u64_init(&store->olders);
    store->next_ticket = 1;
}

int store_open(const struct store_config *config, struct store **ret_store)
{
    assert(config && ret_store);
    assert(config->callbacks.opened);
    if (memchr(config->boot_id, '\0', sizeof(config->boot_id)) == NULL)
        return -EINVAL;
    struct store *store = store_malloc(sizeof(*store));
    store->config = *config;
    set_defaults(&store->config);
    store->env = config->env;
    store->drive = config->drive;
    store->kv = config->kv;
    slab_init(&store->pool_shards, sizeof(struct store_shard));
    init_lists(store);
    uint64_t sums_max = store->config.sums_cache_bytes / sizeof(struct sums);
    store->sums_max = sums_max < 64 ? 64 : sums_max > 1u << 24 ? 1u << 24 : (uint32_t)sums_max;
    for (uint32_t i = 0; i < SPARE_BUFS; i++) {
        struct buf *buf = buf_alloc(config->pool, STORE_UNIT_BYTES);
        if (buf)
            store->spare[store->spare_count++] = buf;
    }
    background_create(store);
    struct opening *opening = store_malloc(sizeof(*opening));
    opening->store = store;
    store->opening = opening;
    env_defer(store->env, &opening->task, start);
    *ret_store = store;
    return 0;
}
