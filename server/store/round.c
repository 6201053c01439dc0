/* SPDX-License-Identifier: Apache-2.0 */
/* round: the one way to durability: a drive flush, then one synced kv batch (R21, R22), one round at a time.
 *
 *   IDLE --round_kick--> DUE --start--> DRIVE --flush_done--> KV --write_done--> IDLE (and again while work waits)
 *
 * - What waits when a round starts rides in it: flush requests, marks, restamps, cleaning. Concurrent flushes share one.
 * - The drive flush is skipped when no data write completed since the last; the sync when nothing was put since the last.
 * - Records put before the drive flush began are settled by the round; those put later belong to the next class.
 * - Units released by puts up to the sync are reusable after it, once older readers are gone (R22).
 * Failure: a failed drive flush or synced write fails the store and is never retried (R13).
 */
#include "server/store/store_core.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/mutant.h"

static void round_start(struct env_task *task);

static bool work_waits(const struct store *store)
{
    const struct round *round = &store->round;
    assert(round->phase == ROUND_IDLE || round->phase == ROUND_DUE);
    return !list_empty(&store->flushes) || !list_empty(&store->restamps) || store->wanted_count || round->sync_wanted ||
           round->clean_idle || round->clean_all || round->room_wanted;
}

void round_kick(struct store *store)
{
    assert(store->round.phase <= ROUND_KV);
    if (store->round.phase != ROUND_IDLE || store->failed || !store->opened || !work_waits(store))
        return;
    store->round.phase = ROUND_DUE;
    env_defer(store->env, &store->round.task, round_start);
}

void round_submit_put(struct store *store, struct kv_write *write)
{
    assert(write->batch.count > 0);
    write->sync = false;
    store->unsynced_puts++;
    store->stats.kv_batches++;
    kv_write(store->kv, write);
}

void round_release(struct store *store, struct unit_list *released)
{
    assert(store->unsynced_puts > 0);
    unit_list_move(released, &store->released);
    assert(!released->count);
    if (store->released.count && !list_empty(&store->space_waiters)) {
        store->round.sync_wanted = true;
        round_kick(store);
    }
}

static void list_take(struct list_node *from, struct list_node *to)
{
    struct list_node *node;
    assert(list_empty(to));
    while ((node = list_pop_front(from)))
        list_push_back(to, node);
}

static void take_marks(struct store *store)
{
    struct round *round = &store->round;
    assert(!round->mark_count);
    struct mark **marks = round->marks;
    uint32_t capacity = round->mark_capacity;
    round->marks = store->wanted;
    round->mark_capacity = store->wanted_capacity;
    round->mark_count = store->wanted_count;
    store->wanted = marks;
    store->wanted_capacity = capacity;
    store->wanted_count = 0;
    for (uint32_t i = 0; i < round->mark_count; i++) {
        struct mark *mark = round->marks[i];
        assert(mark->wanted && !mark->in_round);
        mark->wanted = false;
        mark->in_round = true;
        mark->writing_epoch = mark->want_epoch;
    }
}

static void end_round(struct store *store, int rc)
{
    struct round *round = &store->round;
    assert(round->phase == ROUND_DRIVE || round->phase == ROUND_KV);
    struct list_node flushes, restamps, *node;
    list_head_init(&flushes);
    list_head_init(&restamps);
    list_take(&round->flushes, &flushes);
    list_take(&round->restamps, &restamps);
    if (rc || store->failed) {
        rc = -EIO;
        for (uint32_t i = 0; i < round->mark_count; i++)
            round->marks[i]->in_round = false;
        for (uint32_t i = 0; i < round->clean_count; i++)
            round->cleans[i]->cleaning = round->cleans[i]->picked = false;
        round->mark_count = round->clean_count = 0;
    }
    round->phase = ROUND_IDLE;
    if (!rc)
        round_apply(store);
    while ((node = list_pop_front(&restamps))) {
        struct store_restamp *req = list_entry(node, struct store_restamp, link);
        req->cb(req, rc);
    }
    while ((node = list_pop_front(&flushes))) {
        struct store_flush *req = list_entry(node, struct store_flush, link);
        req->cb(req, rc);
    }
    round_kick(store);
    store_close_advance(store);
}

static void write_done(struct kv_write *write, int rc)
{
    struct store *store = list_entry(write, struct store, round.write);
    assert(write->sync);
    assert(store->round.phase == ROUND_KV);
    if (rc)
        store_fail(store, rc);
    end_round(store, rc);
}

static void round_write(struct store *store)
{
    struct round *round = &store->round;
    assert(!store->failed && !round->frees.count);
    assert(round->phase == ROUND_DRIVE);
    round->phase = ROUND_KV;
    kv_batch_reset(&round->write.batch);
    round_fill(store);
    unit_list_move(&store->released, &round->frees);
    if (!round->write.batch.count && !store->unsynced_puts) {
        end_round(store, 0);
        return;
    }
    store->unsynced_puts = 0;
    store->stats.kv_syncs++;
    round->write.sync = true;
    round->write.cb = write_done;
    kv_write(store->kv, &round->write);
}

static void flush_done(struct drive_io *io, int rc)
{
    struct store *store = list_entry(io, struct store, round.flush);
    assert(io->op == DRIVE_FLUSH);
    assert(store->round.phase == ROUND_DRIVE);
    if (rc)
        store_fail(store, rc);
    if (store->failed) {
        end_round(store, -EIO);
        return;
    }
    if (store->round.flush_seq > store->flushed_seq) /* else one that was ahead covers it */
        store->flushed_seq = store->round.flush_seq;
    assert(store->flushed_seq <= store->write_seq);
    round_write(store);
}

/* Every sync of the log is preceded by a flush of the drive (R22), unless nothing unsettled would become durable. */
static bool flush_needed(const struct store *store, bool heavy)
{
    assert(store->flushed_seq <= store->write_seq);
    if (!store->drive->volatile_cache || store->flushed_seq == store->write_seq)
        return false;
    if (MUTANT(flush_skips_the_drive))
        return false;
    return heavy || store->unsettled_puts;
}

static void round_start(struct env_task *task)
{
    struct store *store = list_entry(task, struct store, round.task);
    struct round *round = &store->round;
    assert(!round->mark_count && !round->clean_count); /* one round at a time */
    assert(round->phase == ROUND_DUE);
    round->phase = ROUND_DRIVE;
    if (store->failed) {
        end_round(store, -EIO);
        return;
    }
    list_take(&store->flushes, &round->flushes);
    list_take(&store->restamps, &round->restamps);
    take_marks(store);
    if (round->clean_idle || round->clean_all || round->room_wanted)
        round_pick_cleans(store);
    bool heavy = !list_empty(&round->flushes) || round->sync_wanted || round->clean_count;
    round->sync_wanted = round->clean_idle = round->clean_all = round->room_wanted = false;
    round->flush_seq = store->write_seq;
    round->started_ns = env_now_ns(store->env);
    bool flush = flush_needed(store, heavy);
    round->settle_target = 0;
    if (store->unsettled_puts) {
        round->settle_target = store->settle_seq++;
        store->unsettled_puts = 0;
    }
    if (!flush) {
        round_write(store);
        return;
    }
    flush_ahead_begun(store);
    memset(&round->flush, 0, sizeof(round->flush));
    round->flush.op = DRIVE_FLUSH;
    round->flush.cb = flush_done;
    drive_submit(store->drive, &round->flush);
}

/* R22: synced; now their readers. */
void round_drain(struct store *store)
{
    uint64_t oldest = piece_oldest_ticket(store);
    bool freed = false;
    assert(store->drain_count <= DRAINS_MAX);
    while (store->drain_count && store->drains[0].ticket <= oldest) {
        struct unit_list units = store->drains[0].units;
        for (uint32_t i = 0; i < units.count; i++)
            alloc_free(&store->alloc, units.items[i]);
        freed |= units.count > 0;
        units.count = 0;
        store->drain_count--;
        memmove(&store->drains[0], &store->drains[1], store->drain_count * sizeof(store->drains[0]));
        store->drains[store->drain_count] = (struct drain){.units = units};
    }
    if (freed) {
        space_check(store);
        piece_wake(&store->space_waiters);
    }
}

void round_close(struct store *store)
{
    struct round *round = &store->round;
    assert(list_empty(&round->flushes) && list_empty(&round->restamps));
    assert(round->phase == ROUND_IDLE || round->phase == ROUND_DUE);
    kv_batch_free(&round->write.batch);
    unit_list_close(&round->frees);
    for (uint32_t i = 0; i < DRAINS_MAX; i++)
        unit_list_close(&store->drains[i].units);
    free(round->marks);
    free(round->cleans);
}

void store_flush(struct store *store, struct store_flush *req)
{
    assert(store && req && req->cb);
    assert(store->opened);
    req->link.next = req->link.prev = NULL;
    store->stats.flushes++;
    list_push_back(&store->flushes, &req->link);
    if (store->failed)
        store_fail_waiters(store);
    else
        round_kick(store);
}
