/* SPDX-License-Identifier: Apache-2.0 */
/* drop: removal of a shard instance in the background; survives restart.
 *
 * - store_shard_drop takes the shard out of the table at once and puts a drop record.
 * - When nothing of it is under way its memory goes; then, page by page at a bounded rate, its map and sums records, whose
 *   units go to quarantine (R22, I12); then, in one batch, the marks that are there, its shard record and the drop record.
 * - A volume of 4 TiB has 4096 shards, all dropped at once: running drops are found by (volume, shard), and marks that were
 *   never written leave no tombstones.
 * Failure: a kv error fails the store; the drop record makes the next start resume.
 */
#include "server/store/background.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE_RECORDS = 64 };
#define PAGE_DELAY_NS ENV_MS(5)

static void step(struct env_timer *timer);

bool id_equal(const struct store_shard_id *a, const struct store_shard_id *b)
{
    assert(a && b);
    return a->volume == b->volume && a->shard == b->shard && a->instance == b->instance;
}

static struct drop *drop_first(const struct store *store, const struct store_shard_id *id)
{
    assert(store->background);
    return map_u64_get2(&store->background->drop_map, id->volume, id->shard);
}

bool drop_running(const struct store *store, const struct store_shard_id *id)
{
    for (const struct drop *drop = drop_first(store, id); drop; drop = drop->next_instance)
        if (id_equal(&drop->id, id))
            return true;
    return false;
}

static void drop_link(struct drop *drop)
{
    assert(!drop->next_instance && !list_linked(&drop->link));
    struct background *background = drop->store->background;
    drop->next_instance = drop_first(drop->store, &drop->id);
    list_push_back(&background->drops, &drop->link);
    if (map_u64_put2(&background->drop_map, drop->id.volume, drop->id.shard, drop))
        abort();
    assert(drop_running(drop->store, &drop->id));
}

static void drop_unlink(struct drop *drop)
{
    struct background *background = drop->store->background;
    struct drop *first = drop_first(drop->store, &drop->id);
    assert(first);
    list_remove(&drop->link);
    if (first != drop) {
        while (first->next_instance != drop)
            first = first->next_instance;
        first->next_instance = drop->next_instance;
    } else if (!drop->next_instance) {
        (void)map_u64_remove2(&background->drop_map, drop->id.volume, drop->id.shard);
    } else if (map_u64_put2(&background->drop_map, drop->id.volume, drop->id.shard, drop->next_instance)) {
        abort();
    }
}

static void drop_end(struct drop *drop)
{
    assert(!drop->busy && !drop->timer.armed);
    drop_unlink(drop);
    kv_batch_free(&drop->scan.pairs);
    kv_batch_free(&drop->write.batch);
    unit_list_close(&drop->released);
    free(drop);
}

static void again(struct drop *drop)
{
    struct store *store = drop->store;
    assert(!drop->busy);
    if (store->background->stopping || store->failed)
        store_close_advance(store);
    else
        env_timer_start(store->env, &drop->timer, PAGE_DELAY_NS, step);
}

static void page_deleted(struct kv_write *write, int rc)
{
    struct drop *drop = write->owner;
    assert(write == &drop->write);
    struct store *store = drop->store;
    assert(drop->busy && store->puts_in_flight > 0);
    store->puts_in_flight--;
    drop->busy = false;
    if (rc)
        store_fail(store, rc);
    if (!rc && drop->ending) {
        drop_end(drop);
        store_close_advance(store);
        return;
    }
    again(drop);
}

static void submit_page(struct drop *drop)
{
    struct store *store = drop->store;
    assert(!drop->shard); /* nobody reads it any more (I12) */
    assert(drop->busy);
    drop->write.cb = page_deleted;
    drop->write.owner = drop;
    store->puts_in_flight++;
    round_submit_put(store, &drop->write);
    round_release(store, &drop->released);
}

/* What is left when no map is: the marks of the last page of the scan, and what names the shard. */
static void delete_rest(struct drop *drop)
{
    uint32_t cursor = 0, key_len, value_len;
    const uint8_t *key, *value;
    bool is_delete;
    assert(!drop->ending && !drop->released.count);
    assert(!drop->write.batch.count);
    while (kv_batch_next(&drop->scan.pairs, &cursor, &key, &key_len, &value, &value_len, &is_delete))
        kv_batch_delete(&drop->write.batch, key, key_len);
    struct record_key shard = record_key_shard(RECORD_SHARD, &drop->id);
    kv_batch_delete(&drop->write.batch, shard.bytes, shard.len);
    struct record_key mark = record_key_shard(RECORD_DROP, &drop->id);
    kv_batch_delete(&drop->write.batch, mark.bytes, mark.len);
    drop->ending = true;
    submit_page(drop);
}

static void delete_record(struct drop *drop, const uint8_t *key, uint32_t key_len, const uint8_t *value,
                          uint32_t value_len)
{
    struct store *store = drop->store;
    struct record_map map;
    assert(key_len == RECORD_KEY_BYTES);
    if (record_map_decode(key, key_len, value, value_len, &map)) {
        store_fail(store, -EBADMSG); /* it was readable at open */
        return;
    }
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++) {
        if (map.own[unit] != UNIT_NONE)
            chunk_unref(store, &drop->released, map.own[unit]);
        if (map.base[unit] != UNIT_NONE)
            chunk_unref(store, &drop->released, map.base[unit]);
    }
    kv_batch_delete(&drop->write.batch, key, key_len);
    uint8_t sums[RECORD_KEY_BYTES];
    memcpy(sums, key, key_len);
    sums[0] = RECORD_SUMS;
    kv_batch_delete(&drop->write.batch, sums, key_len);
}

static void page_scanned(struct kv_scan *scan, int rc);

static void scan_page(struct drop *drop, const struct record_key *from, const struct record_key *last)
{
    _Static_assert(SHARD_REGIONS <= PAGE_RECORDS, "the marks are one page");
    assert(drop->busy);
    memcpy(drop->scan.from, from->bytes, from->len);
    drop->scan.from_len = from->len;
    memcpy(drop->scan.to, last->bytes, last->len);
    drop->scan.to[last->len] = 0;
    drop->scan.to_len = last->len + 1;
    drop->scan.limit = PAGE_RECORDS;
    drop->scan.cb = page_scanned;
    drop->scan.owner = drop;
    kv_batch_reset(&drop->scan.pairs);
    kv_scan(drop->store->kv, &drop->scan);
}

static void scan_marks(struct drop *drop)
{
    struct record_key from = record_key_mark(&drop->id, 0), last = record_key_mark(&drop->id, SHARD_REGIONS - 1);
    assert(!drop->marks);
    drop->marks = true;
    scan_page(drop, &from, &last);
}

static void page_scanned(struct kv_scan *scan, int rc)
{
    struct drop *drop = scan->owner;
    assert(!drop->shard && !drop->ending);
    struct store *store = drop->store;
    uint32_t cursor = 0, key_len, value_len;
    const uint8_t *key, *value;
    bool is_delete;
    assert(drop->busy);
    if (rc)
        store_fail(store, rc);
    if (store->failed) {
        drop->busy = false;
        again(drop);
        return;
    }
    kv_batch_reset(&drop->write.batch);
    if (drop->marks) {
        assert(!scan->more);
        delete_rest(drop);
        return;
    }
    while (kv_batch_next(&scan->pairs, &cursor, &key, &key_len, &value, &value_len, &is_delete))
        delete_record(drop, key, key_len, value, value_len);
    if (drop->write.batch.count)
        submit_page(drop);
    else
        scan_marks(drop);
}

static void step(struct env_timer *timer)
{
    struct drop *drop = list_entry(timer, struct drop, timer);
    struct store *store = drop->store;
    assert(!drop->busy);
    if (store->background->stopping || store->failed)
        return;
    if (drop->shard) {
        if (!shard_quiet(drop->shard)) {
            again(drop);
            return;
        }
        shard_destroy(drop->shard);
        drop->shard = NULL;
    }
    struct record_key from = record_key_chunk(RECORD_MAP, &drop->id, 0, UINT32_MAX);
    struct record_key last = record_key_chunk(RECORD_MAP, &drop->id, STORE_SHARD_CHUNKS - 1, 0);
    drop->busy = true;
    scan_page(drop, &from, &last);
}

static struct drop *drop_create(struct store *store, const struct store_shard_id *id)
{
    assert(!drop_running(store, id));
    struct drop *drop = store_malloc(sizeof(*drop));
    drop->store = store;
    drop->id = *id;
    drop_link(drop);
    return drop;
}

void drop_resume(struct store *store, const struct store_shard_id *id)
{
    assert(!store->opened); /* started with the rest of the background work */
    (void)drop_create(store, id);
}

void drop_start_all(struct store *store)
{
    assert(store->opened);
    list_for_each(node, &store->background->drops) again(list_entry(node, struct drop, link));
}

bool drop_idle(const struct store *store)
{
    assert(store->background);
    list_for_each(node, &store->background->drops) if (list_entry(node, struct drop, link)->busy) return false;
    return true;
}

void drop_close_all(struct store *store)
{
    assert(drop_idle(store));
    list_for_each_safe(node, next, &store->background->drops)
    {
        struct drop *drop = list_entry(node, struct drop, link);
        env_timer_stop(store->env, &drop->timer);
        if (drop->shard)
            shard_destroy(drop->shard);
        drop_end(drop);
    }
}

void store_shard_drop(struct store *store, const struct store_shard_id *id)
{
    assert(store->opened && !store->closing);
    struct store_shard *shard = shard_find(store, id);
    if (drop_running(store, id) || store->failed)
        return;
    assert(!shard || !shard->open);
    if (shard && shard->clones) { /* they read through it: when the last one is gone (lineage.c) */
        shard->drop_wanted = true;
        return;
    }
    struct kv_write *write = small_put_create(store);
    struct record_key key = record_key_shard(RECORD_DROP, id);
    uint8_t value[RECORD_DROP_BYTES];
    record_drop_encode(&key, value);
    kv_batch_put(&write->batch, key.bytes, key.len, value, sizeof(value));
    small_put_submit(write);
    struct drop *drop = drop_create(store, id);
    if (shard) {
        shard_unlink(shard);
        drop->shard = shard;
    }
    again(drop);
}
