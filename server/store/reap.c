/* SPDX-License-Identifier: Apache-2.0 */
/* reap: removes the records that serve no live generation, in the background, at a bounded rate.
 *
 *   store_generations -> shard->reap_wanted -> reap_kick -> page by page: scan, judge, one batch of deletions
 * - A record (c, g) serves [g, next newer record of c). Without a live generation in there it goes, with its sums; its units lose a
 *   reference, and what nobody references is free after the next sync (R22, I11). So does the newest one of a deleted volume.
 * - A record that stays lets go of units beneath blocks that were fresh when it ended, and are settled now (R21).
 * - Nothing is remembered over a restart: the list of live generations comes again, and the shard is gone through again.
 * - A page that was scanned before an older record changed is scanned again; a chunk whose older records are in use is left
 *   for another pass.
 * Failure: a kv error fails the store.
 */
#include "server/store/background.h"
#include "server/store/older.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE_RECORDS = 128 };
#define PAGE_DELAY_NS ENV_MS(5)
#define AGAIN_DELAY_NS ENV_MS(200)

static void step(struct env_timer *timer);

static bool may_run(const struct reaper *reaper)
{
    const struct store *store = reaper->store;
    assert(store->background);
    return store->opened && !store->failed && !store->background->stopping;
}

static void sleep_for(struct reaper *reaper, uint64_t ns)
{
    assert(!reaper->busy);
    if (!may_run(reaper))
        store_close_advance(reaper->store);
    else
        env_timer_start(reaper->store->env, &reaper->timer, ns, step);
}

void reap_kick(struct store *store)
{
    struct reaper *reaper = &store->background->reaper;
    assert(store->opened);
    if (!reaper->busy && !reaper->timer.armed)
        sleep_for(reaper, PAGE_DELAY_NS);
}

static void deleted(struct kv_write *write, int rc)
{
    struct reaper *reaper = write->owner;
    struct store *store = reaper->store;
    assert(reaper->busy && store->puts_in_flight > 0);
    store->puts_in_flight--;
    reaper->busy = false;
    if (rc)
        store_fail(store, rc);
    sleep_for(reaper, PAGE_DELAY_NS);
}

static void delete_record(struct reaper *reaper, const struct store_shard *shard, uint32_t index, uint32_t generation,
                          const uint32_t own[STORE_CHUNK_UNITS], const uint32_t base[STORE_CHUNK_UNITS])
{
    struct store *store = reaper->store;
    struct record_key map = record_key_chunk(RECORD_MAP, &shard->id, index, generation);
    struct record_key sums = record_key_chunk(RECORD_SUMS, &shard->id, index, generation);
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++) {
        if (own[unit] != UNIT_NONE)
            chunk_unref(store, &reaper->released, own[unit]);
        if (base && base[unit] != UNIT_NONE)
            chunk_unref(store, &reaper->released, base[unit]);
    }
    assert(map.len == RECORD_KEY_BYTES && sums.len == RECORD_KEY_BYTES);
    kv_batch_delete(&reaper->write.batch, map.bytes, map.len);
    kv_batch_delete(&reaper->write.batch, sums.bytes, sums.len);
    store->stats.records_removed++;
}

/* A record of the page. */
struct reaped {
    uint32_t index;
    struct record_map map;
};

static bool chunk_in_use(const struct store_shard *shard, const struct chunk *head)
{
    const struct sums *sums = head->sums;
    assert(!head->older);
    list_for_each(node, &shard->regions[head->index / REGION_CHUNKS]->pieces)
    {
        if (list_entry(node, struct piece, region_link)->chunk_index == head->index)
            return true;
    }
    return older_busy(shard, head->index) || (sums && (sums->pins || sums->writing || !sums->loaded));
}

/* The newest record serves nobody: the volume is deleted, and its clones read an older one, which becomes the newest. */
static void drop_newest(struct reaper *reaper, struct store_shard *shard, struct chunk *head, const struct reaped *next)
{
    uint32_t index = head->index;
    uint64_t mod_epoch = head->mod_epoch;
    delete_record(reaper, shard, index, head->generation, head->own, head->base);
    chunk_destroy(head);
    if (!next)
        return;
    assert(next->index == index);
    older_forget(shard, index, next->map.generation);
    head = chunk_obtain(shard, index, next->map.generation);
    chunk_import(head, &next->map);
    assert(!head->bare);
    if (mod_epoch > head->mod_epoch)
        head->mod_epoch = mod_epoch;
}

static bool is_fresh(const struct record_map *map, uint64_t settled_seq, uint32_t block)
{
    assert(block < STORE_CHUNK_BLOCKS);
    for (uint32_t c = 0; c < 2; c++)
        if (map->fresh[c].seq > settled_seq && map->fresh[c].bits[block / 64] >> (block % 64) & 1)
            return true;
    return false;
}

/* The unit beneath: 0: still needed; -EAGAIN: until what lies above it is settled; 1: by nobody. */
static int beneath(const struct record_map *map, uint64_t settled_seq, uint32_t unit)
{
    int needed = 1;
    assert(unit < STORE_CHUNK_UNITS);
    assert(map->base[unit] != UNIT_NONE);
    for (uint32_t b = unit * UNIT_BLOCKS; b < (unit + 1) * UNIT_BLOCKS; b++) {
        if (record_state_get(map->states, b) == BLOCK_BASE)
            return 0;
        if (record_state_get(map->states, b) == BLOCK_OVER && is_fresh(map, settled_seq, b))
            needed = -EAGAIN;
    }
    return needed;
}

/* A record that was its chunk's newest while blocks of it were fresh keeps units beneath them that it needs no more (R21). */
static void tidy_older(struct reaper *reaper, struct store_shard *shard, struct reaped *record, uint32_t until)
{
    struct store *store = reaper->store;
    struct record_map *map = &record->map;
    uint32_t let_go = 0;
    assert(lineage_needs(shard, map->generation, until));
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++) {
        int needed = map->base[unit] != UNIT_NONE ? beneath(map, store->settled_seq, unit) : 0;
        if (needed == -EAGAIN) {
            reaper->again = store->round.sync_wanted = true;
            round_kick(store);
        }
        if (needed != 1)
            continue;
        if (let_go++ == 0 && older_busy(shard, record->index)) {
            reaper->again = true;
            return;
        }
        chunk_unref(store, &reaper->released, map->base[unit]);
        map->base[unit] = UNIT_NONE;
        for (uint32_t b = unit * UNIT_BLOCKS; b < (unit + 1) * UNIT_BLOCKS; b++)
            if (record_state_get(map->states, b) == BLOCK_OVER)
                record_state_set(map->states, b, BLOCK_OWN);
    }
    if (!let_go)
        return;
    assert(!map->bare);
    older_forget(shard, record->index, map->generation);
    uint8_t value[RECORD_MAP_BYTES_MAX];
    struct record_key key = record_key_chunk(RECORD_MAP, &shard->id, record->index, map->generation);
    uint32_t bytes = record_map_encode(&key, map, value);
    kv_batch_put(&reaper->write.batch, key.bytes, key.len, value, bytes);
}

/* next: the chunk's next older record, NULL: none. */
static void judge(struct reaper *reaper, struct store_shard *shard, struct reaped *record, const struct reaped *next)
{
    uint32_t generation = record->map.generation;
    bool newest = reaper->chunk != record->index;
    uint32_t until = newest ? UINT32_MAX : reaper->generation;
    struct chunk *head = chunk_get(shard, record->index);
    reaper->chunk = record->index;
    reaper->generation = generation;
    if (!head || head->bare || generation > head->generation || (newest != (generation == head->generation)))
        return; /* it changed since: another pass tells */
    assert(until > generation);
    if (lineage_needs(shard, generation, until)) {
        if (!newest)
            tidy_older(reaper, shard, record, until);
        return;
    }
    bool settled = !next || (next->map.fresh[0].seq <= shard->store->settled_seq &&
                             next->map.fresh[1].seq <= shard->store->settled_seq);
    if (newest ? chunk_in_use(shard, head) || !settled : older_busy(shard, record->index)) {
        reaper->again = true;
        return;
    }
    if (newest) {
        drop_newest(reaper, shard, head, next);
        reaper->chunk = STORE_SHARD_CHUNKS; /* the next one is the newest now */
        return;
    }
    older_forget(shard, record->index, generation);
    delete_record(reaper, shard, record->index, generation, record->map.own, record->map.base);
}

static int read_pair(const struct kv_batch *pairs, uint32_t *cursor, struct reaped *ret_record)
{
    uint32_t key_len, value_len, generation;
    const uint8_t *key, *value;
    enum record_kind kind;
    struct store_shard_id id;
    bool is_delete;
    assert(ret_record);
    if (!kv_batch_next(pairs, cursor, &key, &key_len, &value, &value_len, &is_delete))
        return -ENOENT;
    if (record_key_decode(key, key_len, &kind, &id, &ret_record->index, &generation) ||
        record_map_decode(key, key_len, value, value_len, &ret_record->map))
        return -EBADMSG; /* it was readable at open */
    assert(generation == ret_record->map.generation);
    return 0;
}

/* Judges a page; where the next one begins goes to the scan. */
static void judge_page(struct reaper *reaper, struct store_shard *shard)
{
    struct kv_scan *scan = &reaper->scan;
    struct reaped records[2];
    uint32_t cursor = 0, at = 0, count = 0;
    int rc = read_pair(&scan->pairs, &cursor, &records[0]);
    while (!rc) {
        struct reaped *record = &records[at], *next = &records[1 - at];
        rc = read_pair(&scan->pairs, &cursor, next);
        if (rc == -ENOENT && scan->more && count)
            break; /* what follows it is on the next page */
        struct record_key after = record_key_chunk(RECORD_MAP, &shard->id, record->index, record->map.generation);
        judge(reaper, shard, record, !rc && next->index == record->index ? next : NULL);
        memcpy(scan->from, after.bytes, after.len);
        scan->from[after.len] = 0; /* its successor */
        scan->from_len = after.len + 1;
        at = 1 - at;
        count++;
    }
    assert(rc <= 0);
    if (rc == -EBADMSG)
        store_fail(reaper->store, rc);
}

static void end_shard(struct reaper *reaper, struct store_shard *shard)
{
    assert(!reaper->busy);
    assert(reaper->running);
    reaper->running = false;
    if (reaper->again && shard)
        shard->reap_wanted = true;
    if (shard) {
        shard->compact_wanted = true;
        compact_kick(reaper->store);
    }
    sleep_for(reaper, reaper->again ? AGAIN_DELAY_NS : PAGE_DELAY_NS);
}

static void page_scanned(struct kv_scan *scan, int rc)
{
    struct reaper *reaper = scan->owner;
    struct store *store = reaper->store;
    struct store_shard *shard = shard_find(store, &reaper->shard);
    assert(reaper->busy && !reaper->released.count);
    reaper->busy = false;
    if (rc)
        store_fail(store, rc);
    if (rc || !shard || !may_run(reaper)) {
        end_shard(reaper, shard);
        return;
    }
    if (shard->older_seq != reaper->seq) { /* what the page says may not be true any more */
        sleep_for(reaper, PAGE_DELAY_NS);
        return;
    }
    kv_batch_reset(&reaper->write.batch);
    judge_page(reaper, shard);
    reaper->at_end = !scan->more;
    if (!reaper->write.batch.count || store->failed) {
        if (reaper->at_end)
            end_shard(reaper, shard);
        else
            sleep_for(reaper, PAGE_DELAY_NS);
        return;
    }
    reaper->busy = true;
    reaper->write.cb = deleted;
    reaper->write.owner = reaper;
    store->puts_in_flight++;
    round_submit_put(store, &reaper->write);
    round_release(store, &reaper->released);
}

static void begin_shard(struct reaper *reaper, struct store_shard *shard)
{
    struct record_key from = record_key_chunk(RECORD_MAP, &shard->id, 0, UINT32_MAX);
    struct record_key last = record_key_chunk(RECORD_MAP, &shard->id, STORE_SHARD_CHUNKS - 1, 0);
    struct kv_scan *scan = &reaper->scan;
    assert(!reaper->busy && !reaper->running);
    reaper->running = true;
    reaper->again = reaper->at_end = false;
    reaper->shard = shard->id;
    reaper->chunk = STORE_SHARD_CHUNKS;
    shard->reap_wanted = false;
    memcpy(scan->from, from.bytes, from.len);
    scan->from_len = from.len;
    memcpy(scan->to, last.bytes, last.len);
    scan->to[last.len] = 0;
    scan->to_len = last.len + 1;
    scan->limit = PAGE_RECORDS;
    scan->cb = page_scanned;
    scan->owner = reaper;
}

static struct store_shard *next_shard(struct store *store)
{
    assert(store->opened);
    list_for_each(node, &store->shards)
    {
        struct store_shard *shard = list_entry(node, struct store_shard, link);
        if (shard->reap_wanted)
            return shard;
    }
    return NULL;
}

static void step(struct env_timer *timer)
{
    struct reaper *reaper = list_entry(timer, struct reaper, timer);
    struct store *store = reaper->store;
    assert(!reaper->busy);
    if (!may_run(reaper))
        return;
    struct store_shard *shard = reaper->running ? shard_find(store, &reaper->shard) : next_shard(store);
    if (reaper->running && (!shard || reaper->at_end)) {
        end_shard(reaper, shard);
        return;
    }
    if (!shard)
        return; /* until the next kick */
    if (!reaper->running)
        begin_shard(reaper, shard);
    reaper->seq = shard->older_seq;
    kv_batch_reset(&reaper->scan.pairs);
    reaper->busy = true;
    kv_scan(store->kv, &reaper->scan);
}

bool store_generations_pending(const struct store_shard *shard)
{
    const struct reaper *reaper = &shard->store->background->reaper;
    assert(shard->store->opened);
    return shard->reap_wanted || (reaper->running && id_equal(&reaper->shard, &shard->id));
}

void reap_close(struct store *store)
{
    struct reaper *reaper = &store->background->reaper;
    assert(!reaper->busy);
    kv_batch_free(&reaper->scan.pairs);
    kv_batch_free(&reaper->write.batch);
    unit_list_close(&reaper->released);
}
