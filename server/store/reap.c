/* SPDX-License-Identifier: Apache-2.0 */
/* reap: removes the records that serve no live generation, in the background, at a bounded rate.
 *
 *   store_generations -> shard->reap_wanted -> reap_kick -> page by page: scan, judge, one batch of deletions
 * - A record (c, g) serves [g, next newer record of c). Without a live generation in there it goes, with its sums; its units lose a
 *   reference, and what nobody references is free after the next sync (R22, I11). The newest record of a chunk always stays.
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

static void delete_record(struct reaper *reaper, struct store_shard *shard, const uint8_t *key,
                          const struct record_map *map, uint32_t index)
{
    struct store *store = reaper->store;
    uint8_t sums[RECORD_KEY_BYTES];
    assert(map->generation < chunk_get(shard, index)->generation); /* the newest stays */
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++) {
        if (map->own[unit] != UNIT_NONE)
            chunk_unref(store, &reaper->released, map->own[unit]);
        if (map->base[unit] != UNIT_NONE)
            chunk_unref(store, &reaper->released, map->base[unit]);
    }
    older_forget(shard, index, map->generation);
    assert(key[0] == RECORD_MAP);
    memcpy(sums, key, sizeof(sums));
    sums[0] = RECORD_SUMS;
    kv_batch_delete(&reaper->write.batch, key, RECORD_KEY_BYTES);
    kv_batch_delete(&reaper->write.batch, sums, sizeof(sums));
    store->stats.records_removed++;
}

/* Whether the record goes. */
static bool judge(struct reaper *reaper, struct store_shard *shard, uint32_t index, uint32_t generation)
{
    bool newest = reaper->chunk != index;
    uint32_t until = reaper->generation;
    const struct chunk *head = chunk_get(shard, index);
    reaper->chunk = index;
    reaper->generation = generation;
    if (newest || !head || generation >= head->generation)
        return false;
    assert(until > generation); /* newest first */
    assert(shard->live);
    if (lineage_needs(shard, generation, until))
        return false;
    if (!older_busy(shard, index))
        return true;
    reaper->again = true;
    return false;
}

static void end_shard(struct reaper *reaper, struct store_shard *shard)
{
    assert(!reaper->busy);
    assert(reaper->running);
    reaper->running = false;
    if (reaper->again && shard)
        shard->reap_wanted = true;
    sleep_for(reaper, reaper->again ? AGAIN_DELAY_NS : PAGE_DELAY_NS);
}

static void page_scanned(struct kv_scan *scan, int rc)
{
    struct reaper *reaper = scan->owner;
    struct store *store = reaper->store;
    struct store_shard *shard = shard_find(store, &reaper->shard);
    uint32_t cursor = 0, key_len, value_len, index = 0, generation;
    const uint8_t *key = NULL, *value;
    enum record_kind kind;
    struct store_shard_id id;
    struct record_map map;
    bool is_delete;
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
    while (kv_batch_next(&scan->pairs, &cursor, &key, &key_len, &value, &value_len, &is_delete)) {
        if (record_key_decode(key, key_len, &kind, &id, &index, &generation) ||
            record_map_decode(key, key_len, value, value_len, &map)) {
            store_fail(store, -EBADMSG); /* it was readable at open */
            break;
        }
        if (judge(reaper, shard, index, generation))
            delete_record(reaper, shard, key, &map, index);
    }
    if (key) { /* the next page: from the successor of the last key */
        memcpy(scan->from, key, RECORD_KEY_BYTES);
        scan->from[RECORD_KEY_BYTES] = 0;
        scan->from_len = RECORD_KEY_BYTES + 1;
    }
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
