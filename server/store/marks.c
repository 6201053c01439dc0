/* SPDX-License-Identifier: Apache-2.0 */
/* marks: dirty marks of regions (R14) and the bounded active set.
 *
 * - mark_acquire lets a piece through when its region's mark is durable in its epoch; else the mark joins the next round
 *   and the piece waits. The data is never written before the mark.
 * - mark_release counts it out; round_batch.c deletes marks that are flushed and committed and were not written since.
 * - The set is bounded by what a local flush could clean: marks of uncommitted writes don't count (no distributed deadlock).
 * Failure: if the mark can't be written the store failed, and the data is not written.
 */
#include "server/store/store_core.h"

#include <stdlib.h>

#include "common/mutant.h"

#define STREAM_AHEAD_MAX 32u /* regions marked before a stream: half a gigabyte more to compare after a crash */
#define STREAM_AHEAD_NS ENV_MS(2000)

static struct mark *mark_of(const struct store_shard *shard, uint32_t region)
{
    assert(region < SHARD_REGIONS);
    return shard->regions[region] ? shard->regions[region]->mark : NULL;
}

struct mark *mark_find(const struct store_shard *shard, uint32_t chunk)
{
    assert(chunk < STORE_SHARD_CHUNKS);
    return mark_of(shard, chunk / REGION_CHUNKS);
}

struct mark *mark_create(struct store_shard *shard, uint32_t region)
{
    assert(region < SHARD_REGIONS);
    assert(!mark_of(shard, region));
    struct mark *mark = store_malloc(sizeof(*mark));
    mark->shard = shard;
    mark->region = (uint16_t)region;
    list_head_init(&mark->waiters);
    list_push_back(&shard->store->marks, &mark->lru);
    shard->store->mark_count++;
    region_obtain(shard, region)->mark = mark;
    return mark;
}

void mark_destroy(struct mark *mark)
{
    assert(list_empty(&mark->waiters));
    assert(!mark->inflight);
    assert(!mark->wanted && !mark->in_round && !mark->picked);
    list_remove(&mark->lru);
    assert(mark->shard->store->mark_count > 0);
    mark->shard->store->mark_count--;
    mark->shard->regions[mark->region]->mark = NULL;
    while (mark->suspect_records)
        mark_record_verified(mark, mark->suspect_records->chunk, mark->suspect_records->generation);
    free(mark);
}

/* --- what an unclean stop left: the newest records by their bits, others by name --- */

bool mark_suspects(const struct store_shard *shard, uint32_t chunk)
{
    const struct mark *mark = mark_find(shard, chunk);
    assert(chunk < STORE_SHARD_CHUNKS);
    return mark && mark->suspect >> (chunk % REGION_CHUNKS) & 1;
}

static struct suspect_record **suspect_slot(struct mark *mark, uint32_t chunk, uint32_t generation)
{
    struct suspect_record **slot = &mark->suspect_records;
    while (*slot && ((*slot)->chunk != chunk || (*slot)->generation != generation))
        slot = &(*slot)->next;
    assert(chunk / REGION_CHUNKS == mark->region);
    return slot;
}

void mark_suspect_record(struct mark *mark, uint32_t chunk, uint32_t generation)
{
    struct suspect_record **slot = suspect_slot(mark, chunk, generation);
    mark->suspect |= (uint16_t)(1u << chunk % REGION_CHUNKS);
    if (*slot)
        return;
    *slot = store_malloc(sizeof(**slot));
    (*slot)->chunk = chunk;
    (*slot)->generation = generation;
    assert(!(*slot)->next);
}

void mark_put(const struct mark *mark, struct kv_batch *batch)
{
    struct record_mark record = {
        .epoch = mark->in_round && mark->writing_epoch > mark->epoch ? mark->writing_epoch : mark->epoch,
        .suspect_from = mark->suspect_from,
        .frozen = mark->frozen,
    };
    struct record_key key = record_key_mark(&mark->shard->id, mark->region);
    uint8_t value[RECORD_MARK_BYTES];
    assert(mark->durable || mark->in_round);
    assert(!mark->cleaning);
    record_mark_encode(&key, &record, value);
    kv_batch_put(batch, key.bytes, key.len, value, sizeof(value));
}

void mark_suspect_older(struct mark *mark, uint32_t chunk, uint32_t generation, struct kv_batch *batch)
{
    mark_suspect_record(mark, chunk, generation);
    if (mark->suspect_from && mark->suspect_from <= generation + 1)
        return;
    mark->suspect_from = generation + 1;
    if (mark->durable && !mark->cleaning)
        mark_put(mark, batch);
    assert(mark->suspect);
}

void mark_verified(struct mark *mark)
{
    assert(!mark->suspect && !mark->suspect_records);
    if (!mark->suspect_from)
        return;
    mark->suspect_from = 0;
    if (!mark->durable || mark->cleaning)
        return;
    struct kv_write *write = small_put_create(mark->shard->store);
    mark_put(mark, &write->batch);
    small_put_submit(write);
}

bool mark_next_suspect_record(const struct mark *mark, uint32_t chunk, uint32_t *ret_generation)
{
    assert(chunk / REGION_CHUNKS == mark->region);
    for (const struct suspect_record *at = mark->suspect_records; at; at = at->next) {
        if (at->chunk == chunk) {
            *ret_generation = at->generation;
            return true;
        }
    }
    return false;
}

void mark_record_verified(struct mark *mark, uint32_t chunk, uint32_t generation)
{
    assert(mark->suspect >> chunk % REGION_CHUNKS & 1);
    struct suspect_record **slot = suspect_slot(mark, chunk, generation), *record = *slot;
    if (!record)
        return;
    *slot = record->next;
    assert(record->generation == generation);
    free(record);
}

void mark_want(struct mark *mark, uint64_t epoch)
{
    struct store *store = mark->shard->store;
    assert(!mark->cleaning);
    if (epoch > mark->want_epoch)
        mark->want_epoch = epoch;
    if (mark->wanted)
        return;
    if (store->wanted_count == store->wanted_capacity) {
        uint32_t capacity = store->wanted_capacity ? 2 * store->wanted_capacity : 64;
        struct mark **wanted = realloc(store->wanted, capacity * sizeof(struct mark *));
        if (!wanted)
            abort();
        store->wanted = wanted;
        store->wanted_capacity = capacity;
    }
    store->wanted[store->wanted_count++] = mark;
    mark->wanted = true;
    round_kick(store);
}

/* R14: commit known in the mark's own epoch (or in a later one for everything up to it). */
bool mark_committed(const struct mark *mark)
{
    const struct store_shard *shard = mark->shard;
    assert(shard);
    if (MUTANT(marks_cleared_before_commit))
        return true;
    if (shard->epoch_committed > mark->epoch)
        return true;
    if (shard->epoch_committed < mark->due_epoch)
        return false;
    if (!mark->last_lsn_n)
        return true;
    return shard->commit_epoch == mark->epoch && shard->commit_n >= mark->last_lsn_n;
}

bool mark_cleanable(const struct mark *mark)
{
    assert(mark->shard);
    return mark->durable && !mark->wanted && !mark->in_round && !mark->cleaning && !mark->inflight && !mark->frozen &&
           !mark->suspect && list_empty(&mark->waiters) && mark_committed(mark);
}

static bool has_room(const struct store *store)
{
    assert(store->config.active_set_max > 0);
    if (store->mark_count < store->config.active_set_max)
        return true;
    uint32_t count = 0;
    list_for_each(node, &store->marks)
    {
        const struct mark *mark = list_entry(node, struct mark, lru);
        count += mark->cleaning || mark_cleanable(mark);
    }
    return count < store->config.active_set_max;
}

static void begin_write(struct mark *mark, struct piece *piece)
{
    struct store *store = piece->store;
    assert(mark->durable && !mark->cleaning); /* R14: durable before the first data write */
    assert(!piece->marked);
    mark->inflight++;
    mark->writes++;
    mark->touched |= (uint16_t)(1u << (piece->chunk_index % REGION_CHUNKS));
    if (piece->epoch == mark->epoch && piece->lsn_n > mark->last_lsn_n)
        mark->last_lsn_n = piece->lsn_n;
    mark->last_write_ns = piece->started_ns;
    list_remove(&mark->lru);
    list_push_back(&store->marks, &mark->lru);
    piece->mark = mark;
    piece->marked = true;
}

bool mark_acquire(struct piece *piece)
{
    struct store_shard *shard = piece->shard;
    struct mark *mark = mark_find(shard, piece->chunk_index);
    assert(!piece->marked);
    if (!mark) {
        if (!has_room(piece->store)) {
            list_push_back(&piece->store->room_waiters, &piece->wait_link);
            piece->store->round.room_wanted = true;
            round_kick(piece->store);
            return false;
        }
        mark = mark_create(shard, piece->chunk_index / REGION_CHUNKS);
    }
    if (mark->durable && !mark->cleaning && mark->epoch >= piece->epoch) {
        begin_write(mark, piece);
        return true;
    }
    list_push_back(&mark->waiters, &piece->wait_link);
    if (!mark->cleaning && !(mark->in_round && mark->writing_epoch >= piece->epoch))
        mark_want(mark, piece->epoch);
    return false;
}

void mark_release(struct piece *piece)
{
    struct mark *mark = piece->mark;
    assert(piece->marked);
    assert(mark->inflight > 0);
    mark->inflight--;
    mark->last_write_ns = env_now_ns(piece->store->env);
    piece->marked = false;
    if (!list_empty(&piece->store->room_waiters) && mark_cleanable(mark)) {
        piece->store->round.room_wanted = true;
        round_kick(piece->store);
    }
}

void mark_written(struct mark *mark)
{
    assert(mark->in_round);
    mark->in_round = false;
    if (mark->durable && mark->writing_epoch > mark->epoch) {
        /* R14: what earlier epochs left is committed when this one's takeover is complete: it tells of the one before. */
        mark->due_epoch = mark->writing_epoch - 1;
        mark->last_lsn_n = 0;
    }
    mark->durable = true;
    assert(mark->writing_epoch >= mark->epoch);
    mark->epoch = mark->writing_epoch;
    piece_wake(&mark->waiters);
}

void mark_wake_room(struct store *store)
{
    assert(store->opened);
    if (list_empty(&store->room_waiters))
        return;
    if (has_room(store))
        piece_wake(&store->room_waiters);
    else
        store->round.room_wanted = true; /* one more round of cleaning */
    round_kick(store);
}

/* Marks what is not marked yet of regions first to last, in one batch with whatever else waits. */
static void mark_ahead(struct store_shard *shard, uint32_t first, uint32_t last, uint64_t epoch, uint64_t now_ns)
{
    struct store *store = shard->store;
    assert(first > 0 && first <= last);
    for (uint32_t region = first; region <= last && region * (uint64_t)STORE_REGION_BYTES < shard->bytes; region++) {
        if (mark_of(shard, region))
            continue;
        if (store->mark_count >= store->config.active_set_max)
            return;
        struct mark *mark = mark_create(shard, region);
        mark->last_write_ns = now_ns;
        mark_want(mark, epoch);
    }
}

/* How many regions a stream that took region_ns for the last one writes in STREAM_AHEAD_NS; it is trusted step by step. */
static uint32_t stream_ahead(uint32_t run, uint64_t region_ns)
{
    assert(run > 0);
    uint64_t ahead = STREAM_AHEAD_NS / (region_ns + 1) + 1;
    uint64_t trust = run < 6 ? 1u << run : STREAM_AHEAD_MAX;
    ahead = ahead < trust ? ahead : trust;
    return (uint32_t)(ahead < STREAM_AHEAD_MAX ? ahead : STREAM_AHEAD_MAX);
}

/* Sequential streams pre-mark. One that crossed two regions has the next ones marked in a batch, as many as it is fast, whenever
 * half of them are used up: a sync of the log queues behind all data that is on its way to the drive. A short one has the
 * next region marked past the middle of this one. Writes of a stream may come out of order by a few. */
void mark_stream(struct store_shard *shard, const struct store_io *io)
{
    assert(io->op == STORE_WRITE);
    uint32_t region = (uint32_t)(io->offset / STORE_REGION_BYTES);
    shard->stream_length = io->offset == shard->stream_end ? shard->stream_length + 1 : 0;
    shard->stream_end = io->offset + io->length;
    if (region != shard->stream_region && region + 1 != shard->stream_region) {
        uint64_t now_ns = env_now_ns(shard->store->env);
        bool went_on = region == shard->stream_region + 1 && shard->stream_bytes >= STORE_REGION_BYTES / 2;
        shard->stream_run = went_on ? shard->stream_run + 1 : 0;
        shard->stream_bytes = 0;
        shard->stream_region_ns = now_ns - shard->stream_entered_ns;
        shard->stream_entered_ns = now_ns;
        shard->stream_region = region;
    }
    shard->stream_bytes += io->length;
    if (shard->stream_run >= 2 && region == shard->stream_region) {
        uint32_t ahead = stream_ahead(shard->stream_run, shard->stream_region_ns);
        uint32_t middle = region + (ahead + 1) / 2;
        if (middle < SHARD_REGIONS && !mark_of(shard, middle))
            mark_ahead(shard, region + 1, region + ahead, io->epoch, env_now_ns(shard->store->env));
        return;
    }
    if (shard->stream_length >= 4 && io->offset % STORE_REGION_BYTES >= STORE_REGION_BYTES / 2 &&
        region + 1 < SHARD_REGIONS && !mark_of(shard, region + 1))
        mark_ahead(shard, region + 1, region + 1, io->epoch, env_now_ns(shard->store->env));
}

void store_restamp(struct store_restamp *req)
{
    assert(req->shard && req->cb);
    struct store_shard *shard = req->shard;
    for (uint32_t region = 0; region < SHARD_REGIONS; region++) {
        struct mark *mark = mark_of(shard, region);
        if (!mark)
            continue;
        if (mark->cleaning) /* content known in the old epoch; marked again after that batch */
            continue;
        if (mark->want_epoch < req->epoch || mark->epoch < req->epoch)
            mark_want(mark, req->epoch);
    }
    req->link.next = req->link.prev = NULL;
    list_push_back(&shard->store->restamps, &req->link);
    if (shard->store->failed)
        store_fail_waiters(shard->store);
    else
        round_kick(shard->store);
}

void store_committed(struct store_shard *shard, uint64_t epoch, uint64_t commit_n)
{
    assert(shard->open);
    if (epoch < shard->commit_epoch || (epoch == shard->commit_epoch && commit_n <= shard->commit_n))
        return;
    assert(epoch >= shard->commit_epoch);
    shard->commit_epoch = epoch;
    shard->commit_n = commit_n;
    if (!list_empty(&shard->store->room_waiters))
        mark_wake_room(shard->store);
}

void store_epoch_committed(struct store_shard *shard, uint64_t epoch)
{
    assert(shard->open);
    if (epoch > shard->epoch_committed)
        shard->epoch_committed = epoch;
    assert(shard->epoch_committed >= epoch);
}

bool store_shard_suspect(const struct store_shard *shard)
{
    assert(shard->store);
    for (uint32_t region = 0; region < SHARD_REGIONS; region++) {
        const struct mark *mark = mark_of(shard, region);
        if (mark && mark->suspect)
            return true;
    }
    return false;
}

static void set_frozen(struct store_shard *shard, bool frozen)
{
    assert(shard->store);
    for (uint32_t region = 0; region < SHARD_REGIONS; region++) {
        struct mark *mark = mark_of(shard, region);
        if (!mark || mark->frozen == frozen || mark->cleaning)
            continue;
        mark->frozen = frozen;
        mark_want(mark, mark->epoch);
    }
}

void store_marks_freeze(struct store_shard *shard)
{
    assert(shard->open);
    set_frozen(shard, /* frozen= */ true);
}

void store_marks_thaw(struct store_shard *shard)
{
    assert(shard->open);
    set_frozen(shard, /* frozen= */ false);
}
