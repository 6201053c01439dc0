/* SPDX-License-Identifier: Apache-2.0 */
/* round_batch: what goes into a round's synced batch, and what its durability means.
 *
 * - round_pick_cleans chooses marks before the drive flush begins; round_fill deletes those that were not written since,
 *   together with the records (mod_epoch) and sums of their touched chunks: one batch (R14).
 * - round_fill also writes marks, raised mod_epochs, and the super record with the settled class.
 * - round_apply runs when the batch is durable.
 * Failure: none here.
 */
#include "server/store/store_core.h"

#include <stdlib.h>

enum { CLEAN_CHUNKS_MAX = 1024 };

static void add_clean(struct round *round, struct mark *mark)
{
    if (round->clean_count == round->clean_capacity) {
        uint32_t capacity = round->clean_capacity ? 2 * round->clean_capacity : 64;
        struct mark **cleans = realloc(round->cleans, capacity * sizeof(struct mark *));
        if (!cleans)
            abort();
        round->cleans = cleans;
        round->clean_capacity = capacity;
    }
    assert(round->clean_count < round->clean_capacity);
    round->cleans[round->clean_count++] = mark;
    mark->writes_at_flush = mark->writes;
    mark->picked = true;
    round->clean_chunks += (uint32_t)__builtin_popcount(mark->touched);
    assert(mark_cleanable(mark));
}

void round_pick_cleans(struct store *store)
{
    struct round *round = &store->round;
    assert(!round->clean_count);
    uint64_t now = env_now_ns(store->env);
    uint32_t max = store->config.active_set_max;
    uint32_t room = max / 16 + 1 + (store->mark_count > max ? store->mark_count - max : 0);
    round->clean_chunks = 0;
    list_for_each(node, &store->marks)
    {
        struct mark *mark = list_entry(node, struct mark, lru);
        if (round->clean_chunks >= CLEAN_CHUNKS_MAX)
            break;
        if (!mark_cleanable(mark))
            continue;
        bool idle = mark->last_write_ns + store->config.clean_idle_ns <= now;
        bool wanted =
            round->clean_all || (round->clean_idle && idle) || (round->room_wanted && round->clean_count < room);
        if (wanted)
            add_clean(round, mark);
    }
}

static void fill_marks(struct store *store)
{
    struct round *round = &store->round;
    for (uint32_t i = 0; i < round->mark_count; i++) {
        const struct mark *mark = round->marks[i];
        assert(mark->in_round && !mark->cleaning);
        assert(mark->writing_epoch >= mark->epoch);
        mark_put(mark, &round->write.batch);
        assert(round->write.batch.count > 0);
    }
}

static void fill_chunk(struct store *store, struct chunk *chunk)
{
    struct round *round = &store->round;
    assert(chunk);
    chunk_put(chunk, &round->write.batch, &round->frees);
    if (chunk->sums && chunk->sums->loaded && chunk->sums->dirty)
        chunk_put_sums(chunk, &round->write.batch);
}

/* R14: the one batch that deletes the mark writes mod_epoch and checksums. */
static void fill_clean(struct store *store, struct mark *mark)
{
    struct store_shard *shard = mark->shard;
    assert(!mark->cleaning);
    mark->cleaning = true;
    for (uint32_t i = 0; i < REGION_CHUNKS; i++) {
        uint32_t index = mark->region * REGION_CHUNKS + i;
        if (!(mark->touched >> i & 1) || index * (uint64_t)STORE_CHUNK_BYTES >= shard->bytes)
            continue;
        /* A chunk that lost its record to a crash still was modified in that epoch: a tombstone says so. */
        struct chunk *chunk = chunk_obtain_bare(shard, index);
        if (mark->epoch > chunk->mod_epoch)
            chunk->mod_epoch = mark->epoch;
        fill_chunk(store, chunk);
    }
    struct record_key key = record_key_mark(&shard->id, mark->region);
    kv_batch_delete(&store->round.write.batch, key.bytes, key.len);
}

static void fill_cleans(struct store *store)
{
    struct round *round = &store->round;
    uint32_t kept = 0;
    assert(round->clean_count <= round->clean_capacity);
    for (uint32_t i = 0; i < round->clean_count; i++) {
        struct mark *mark = round->cleans[i];
        mark->picked = false;
        /* R14: flushed and committed and not written since that flush began. */
        if (mark->writes != mark->writes_at_flush || !mark_cleanable(mark))
            continue;
        fill_clean(store, mark);
        round->cleans[kept++] = mark;
    }
    round->clean_count = kept;
}

void round_fill(struct store *store)
{
    struct round *round = &store->round;
    assert(!round->write.batch.count);
    fill_marks(store);
    fill_cleans(store);
    while (!list_empty(&store->chunks_dirty)) {
        struct list_node *node = store->chunks_dirty.next;
        fill_chunk(store, list_entry(node, struct chunk, dirty_link));
        assert(!list_linked(node)); /* chunk_put took it off */
    }
    if (!round->settle_target && !store->super_dirty)
        return;
    if (round->settle_target)
        store->super.settled_seq = round->settle_target;
    assert(store->super.settled_seq < store->settle_seq);
    store->super.watermark_units = store->alloc.watermark;
    uint8_t value[RECORD_SUPER_BYTES];
    struct record_key key = record_key_super();
    record_super_encode(&store->super, value);
    kv_batch_put(&round->write.batch, key.bytes, key.len, value, sizeof(value));
    store->super_dirty = false;
}

static void add_drain(struct store *store)
{
    struct round *round = &store->round;
    assert(store->drain_count <= DRAINS_MAX);
    if (!round->frees.count)
        return;
    if (store->drain_count == DRAINS_MAX)
        store->drain_count--; /* joins the youngest, with the later ticket */
    struct drain *drain = &store->drains[store->drain_count++];
    unit_list_move(&round->frees, &drain->units);
    drain->ticket = store->next_ticket;
}

static void apply_cleans(struct store *store)
{
    struct round *round = &store->round;
    assert(round->clean_count <= round->clean_capacity);
    for (uint32_t i = 0; i < round->clean_count; i++) {
        struct mark *mark = round->cleans[i];
        mark->cleaning = false;
        mark->durable = false;
        mark->epoch = mark->want_epoch = mark->last_lsn_n = 0;
        mark->touched = 0;
        mark->due_epoch = 0;
        if (list_empty(&mark->waiters))
            mark_destroy(mark);
        else
            piece_wake(&mark->waiters); /* they mark it again */
    }
    round->clean_count = 0;
}

void round_apply(struct store *store)
{
    struct round *round = &store->round;
    assert(round->phase == ROUND_IDLE);
    if (round->settle_target) {
        assert(round->settle_target > store->settled_seq);
        store->settled_seq = round->settle_target;
    }
    add_drain(store);
    uint32_t count = round->mark_count;
    round->mark_count = 0;
    for (uint32_t i = 0; i < count; i++)
        mark_written(round->marks[i]);
    apply_cleans(store);
    mark_wake_room(store);
    piece_wake(&store->settle_waiters);
    round_drain(store);
}
