/* SPDX-License-Identifier: Apache-2.0 */
/* close: ends a store, clean or not.
 *
 *   store_close -> pieces and background work end -> (clean) rounds flush and clean all that can be -> (clean) the super record
 *   says clean, synced -> memory, drive and kv go -> cb
 * store_close_advance is called whenever something ended; it moves on when nothing is under way.
 * Failure: a store that failed closes without the clean record.
 */
#include "server/store/background.h"

#include <stdlib.h>
#include <string.h>

static void free_pools(struct store *store)
{
    struct list_node *node;
    assert(list_empty(&store->pieces) && !store->piece_count);
    while ((node = list_pop_front(&store->pool_pieces))) {
        struct piece *piece = list_entry(node, struct piece, wait_link);
        kv_batch_free(&piece->put.batch);
        unit_list_close(&piece->released);
        free(piece);
    }
    while ((node = list_pop_front(&store->sums_pool)))
        free(list_entry(node, struct sums, lru));
    while (store->pool_runs) {
        struct run *run = store->pool_runs;
        store->pool_runs = run->next_free;
        free(run);
    }
    while (store->pool_fresh) {
        struct chunk_fresh *fresh = store->pool_fresh;
        store->pool_fresh = fresh->next_free;
        free(fresh);
    }
    slab_close(&store->pool_shards);
}

static void store_destroy(struct store *store)
{
    struct list_node *node;
    assert(store->closing && store->close_ended);
    assert(store->round.phase == ROUND_IDLE);
    assert(!store->piece_count && !store->puts_in_flight);
    for (uint32_t i = 0; i < store->wanted_count; i++)
        store->wanted[i]->wanted = false;
    background_destroy(store);
    list_for_each(shard_node, &store->shards) lineage_forget(list_entry(shard_node, struct store_shard, link));
    while (!list_empty(&store->shards)) {
        node = store->shards.next;
        struct store_shard *shard = list_entry(node, struct store_shard, link);
        shard_unlink(shard);
        shard_destroy(shard);
    }
    map_u64_close(&store->shard_map);
    assert(!store->older_count && !store->olders.count);
    map_u64_close(&store->olders);
    lineage_close(store);
    while (store->spare_count)
        buf_unref(store->spare[--store->spare_count]);
    round_close(store);
    free(store->wanted);
    unit_list_close(&store->released);
    free_pools(store);
    alloc_close(&store->alloc);
    drive_close(store->drive);
    kv_close(store->kv);
    void (*cb)(void *arg) = store->close_cb;
    void *arg = store->close_arg;
    free(store);
    if (cb)
        cb(arg);
}

static void close_step(struct env_task *task)
{
    struct store *store = list_entry(task, struct store, close_task);
    assert(store->closing);
    if (store->close_ended)
        store_destroy(store);
    else
        store_close_advance(store);
}

static void end(struct store *store)
{
    assert(!store->close_ended);
    store->close_ended = true;
    env_defer(store->env, &store->close_task, close_step);
}

static void clean_recorded(struct kv_write *write, int rc)
{
    struct store *store = write->owner;
    assert(store->closing && store->puts_in_flight == 1);
    store->puts_in_flight--;
    kv_batch_free(&write->batch);
    free(write);
    (void)rc; /* without the record the next start is an unclean one */
    end(store);
}

static bool any_suspect(const struct store *store)
{
    assert(store->closing);
    list_for_each(node, &store->marks) if (list_entry(node, struct mark, lru)->suspect) return true;
    return false;
}

static void record_clean(struct store *store)
{
    assert(!store->failed && store->opened);
    struct kv_write *write = store_malloc(sizeof(*write));
    assert(!store->unsettled_puts);
    store->super.clean = true;
    store->super.suspect = any_suspect(store); /* else the next start would call it damage */
    store->super.watermark_units = store->alloc.watermark;
    uint8_t value[RECORD_SUPER_BYTES];
    struct record_key key = record_key_super();
    record_super_encode(&store->super, value);
    kv_batch_put(&write->batch, key.bytes, key.len, value, sizeof(value));
    write->sync = true;
    write->cb = clean_recorded;
    write->owner = store;
    store->puts_in_flight++;
    kv_write(store->kv, write);
}

static bool clean_work_left(struct store *store)
{
    assert(store->closing && store->close_clean);
    assert(!store->piece_count);
    if (store->failed)
        return false;
    if (sums_checkpoint(store, UINT32_MAX) || store->puts_in_flight)
        return true;
    bool cleanable = false;
    list_for_each(node, &store->marks) cleanable |= mark_cleanable(list_entry(node, struct mark, lru));
    if (!cleanable && !store->unsettled_puts && !store->unsynced_puts && store->flushed_seq == store->write_seq &&
        list_empty(&store->chunks_dirty) && list_empty(&store->flushes) && list_empty(&store->restamps))
        return false;
    assert(store->round.phase == ROUND_IDLE);
    store->round.clean_all = store->round.sync_wanted = true;
    round_kick(store);
    return true;
}

void store_close_advance(struct store *store)
{
    if (!store->closing || store->close_ending)
        return;
    assert(store->background);
    if (store->piece_count || !list_empty(&store->done) || store->puts_in_flight || store->opening ||
        store->completing || store->round.phase != ROUND_IDLE || !background_idle(store) || store->failed_task.queued ||
        store->done_task.queued || store->space_task.queued)
        return;
    bool clean = store->close_clean && store->opened;
    if (clean && clean_work_left(store))
        return;
    if (store->round.phase != ROUND_IDLE)
        return;
    store->close_ending = true;
    if (clean && !store->failed)
        record_clean(store);
    else
        end(store);
}

void store_close(struct store *store, bool clean, void (*cb)(void *arg), void *arg)
{
    assert(!store || store->background);
    assert(store && !store->closing);
    store->closing = true;
    store->close_clean = clean;
    store->close_cb = cb;
    store->close_arg = arg;
    background_stop(store);
    env_defer(store->env, &store->close_task, close_step);
}
