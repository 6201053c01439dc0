/* SPDX-License-Identifier: Apache-2.0 */
/* sums: the bounded cache of checksum records (1 KiB a chunk; newest records and cached older ones).
 *
 * - sums_acquire pins a chunk's entry, fetching it from the kv when it is not cached; the piece counts one more pending
 *   part until it is there, so the fetch runs beside its data I/O.
 * - sums_set makes it dirty; it reaches the kv with a map record (R21), with cleaning (R14), by checkpoint, or here before
 *   eviction. A dirty entry stays until its write was acknowledged.
 * Failure: a kv error fails the store. A missing or broken record counts as all zeros: its blocks then mismatch.
 */
#include "server/store/store_core.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void load_done(struct kv_get *get, int rc)
{
    struct sums *sums = get->owner;
    struct store *store = sums->chunk->shard->store;
    assert(!sums->loaded);
    assert(sums->pins > 0);
    if (rc && rc != -ENOENT)
        store_fail(store, rc);
    if (rc || record_sums_decode(get->key, get->key_len, get->value, get->value_len, sums->crcs))
        memset(sums->crcs, 0, sizeof(sums->crcs));
    kv_get_free(get);
    sums->loaded = true;
    struct list_node *node;
    while ((node = list_pop_front(&sums->waiters)))
        piece_part_done(list_entry(node, struct piece, sums_link), 0);
}

static struct sums *sums_create(struct chunk *chunk)
{
    struct store *store = chunk->shard->store;
    assert(!chunk->sums);
    sums_shrink(store);
    struct list_node *node = list_pop_front(&store->sums_pool);
    struct sums *sums = node ? list_entry(node, struct sums, lru) : store_malloc(sizeof(*sums));
    memset(sums, 0, sizeof(*sums));
    list_head_init(&sums->waiters);
    list_push_back(&store->sums_lru, &sums->lru);
    store->sums_count++;
    sums->chunk = chunk;
    chunk->sums = sums;
    return sums;
}

static void sums_destroy(struct sums *sums)
{
    struct store *store = sums->chunk->shard->store;
    assert(!sums->pins);
    assert(!sums->writing);
    assert(store->sums_count > 0);
    store->sums_count--;
    sums->chunk->sums = NULL;
    list_remove(&sums->lru);
    kv_batch_free(&sums->write.batch);
    if (store->sums_count + 64 > store->sums_max)
        list_push_back(&store->sums_pool, &sums->lru);
    else
        free(sums);
}

struct sums *sums_acquire(struct chunk *chunk, struct piece *waiter)
{
    struct store *store = chunk->shard->store;
    assert(waiter);
    struct sums *sums = chunk->sums;
    if (!sums) {
        sums = sums_create(chunk);
        if (!chunk->stored) {
            sums->loaded = true;
        } else {
            struct record_key key = record_key_chunk(RECORD_SUMS, &chunk->shard->id, chunk->index, chunk->generation);
            memcpy(sums->get.key, key.bytes, key.len);
            sums->get.key_len = key.len;
            sums->get.cb = load_done;
            sums->get.owner = sums;
            kv_get(store->kv, &sums->get);
        }
    } else {
        list_remove(&sums->lru);
        list_push_back(&store->sums_lru, &sums->lru);
    }
    sums->pins++;
    if (!sums->loaded) {
        waiter->pending++;
        list_push_back(&sums->waiters, &waiter->sums_link);
    }
    return sums;
}

struct sums *sums_inherit(struct chunk *chunk, const struct sums *source)
{
    struct sums *sums = chunk->sums ? chunk->sums : sums_create(chunk);
    assert(!sums->pins && sums != source);
    assert(!source || (source->loaded && source->pins));
    if (source)
        memcpy(sums->crcs, source->crcs, sizeof(sums->crcs));
    else
        memset(sums->crcs, 0, sizeof(sums->crcs));
    sums->loaded = sums->dirty = true;
    sums->pins++;
    return sums;
}

static void write_done(struct kv_write *write, int rc)
{
    struct sums *sums = write->owner;
    struct store *store = sums->chunk->shard->store;
    assert(sums->writing);
    assert(store->puts_in_flight > 0);
    sums->writing = false;
    store->puts_in_flight--;
    if (rc)
        store_fail(store, rc);
    sums_shrink(store);
    store_close_advance(store);
}

static void write_back(struct sums *sums)
{
    struct store *store = sums->chunk->shard->store;
    assert(sums->loaded && sums->dirty);
    assert(!sums->writing);
    sums->writing = true;
    kv_batch_reset(&sums->write.batch);
    chunk_put_sums(sums->chunk, &sums->write.batch);
    sums->write.cb = write_done;
    sums->write.owner = sums;
    store->puts_in_flight++;
    round_submit_put(store, &sums->write);
}

void sums_shrink(struct store *store)
{
    uint32_t steps = 0;
    assert(store->sums_max > 0);
    list_for_each_safe(node, next, &store->sums_lru)
    {
        if (store->sums_count < store->sums_max || steps++ >= 32)
            return;
        struct sums *sums = list_entry(node, struct sums, lru);
        if (sums->pins || sums->writing || !sums->loaded)
            continue;
        if (!sums->dirty)
            sums_destroy(sums);
        else if (!store->failed)
            write_back(sums);
    }
}

void sums_unpin(struct sums *sums)
{
    assert(sums->pins > 0);
    assert(sums->loaded);
    sums->pins--;
}

void sums_set(struct sums *sums, uint32_t block, uint32_t crc)
{
    assert(sums->loaded);
    assert(block < STORE_CHUNK_BLOCKS);
    sums->crcs[block] = crc;
    sums->dirty = true;
}

void sums_forget(struct chunk *chunk)
{
    assert(chunk);
    if (chunk->sums)
        sums_destroy(chunk->sums);
    assert(!chunk->sums);
}

bool sums_checkpoint(struct store *store, uint32_t max)
{
    assert(max > 0);
    assert(store->opened);
    list_for_each(node, &store->sums_lru)
    {
        struct sums *sums = list_entry(node, struct sums, lru);
        if (!sums->loaded || !sums->dirty || sums->writing)
            continue;
        if (!max--)
            return true;
        write_back(sums);
    }
    return false;
}
