/* SPDX-License-Identifier: Apache-2.0 */
/* flush_ahead: drains the drive's cache while guests write, so that the flush which somebody waits for finds little to do.
 *
 * - What a flush takes, and every write that meets it, grows with what was written since the last one. So each flush_ahead_bytes the
 *   store flushes the drive of its own accord, rests, and looks again.
 * - It makes data durable sooner than asked for, which no rule minds (R22), and promises nothing to anybody: no kv batch is synced.
 * Failure: as any failed flush it fails the store (R13: the next one might succeed without what this one lost).
 */
#include "server/store/background.h"

#include <string.h>

static void start(struct store *store);

static void tick(struct env_timer *timer)
{
    struct flush_ahead *ahead = list_entry(timer, struct flush_ahead, timer);
    struct store *store = list_entry(ahead, struct background, flush_ahead)->store;
    assert(ahead->resting && !ahead->busy);
    ahead->resting = false;
    start(store);
}

static void flushed(struct drive_io *io, int rc)
{
    struct flush_ahead *ahead = list_entry(io, struct flush_ahead, io);
    struct store *store = list_entry(ahead, struct background, flush_ahead)->store;
    assert(ahead->busy && !ahead->resting);
    assert(io->op == DRIVE_FLUSH);
    assert(ahead->flush_seq <= store->write_seq);
    ahead->busy = false;
    if (rc)
        store_fail(store, rc);
    else if (ahead->flush_seq > store->flushed_seq)
        store->flushed_seq = ahead->flush_seq;
    if (rc || store->background->stopping) {
        store_close_advance(store);
        return;
    }
    ahead->resting = true;
    env_timer_start(store->env, &ahead->timer, store->config.flush_ahead_rest_ns, tick);
}

static void start(struct store *store)
{
    struct flush_ahead *ahead = &store->background->flush_ahead;
    if (ahead->busy || ahead->resting || store->background->stopping || store->failed ||
        !store->drive->volatile_cache || store->unflushed_bytes < store->config.flush_ahead_bytes)
        return;
    assert(store->opened);
    ahead->busy = true;
    ahead->flush_seq = store->write_seq;
    store->unflushed_bytes = 0;
    store->stats.drive_flushes++;
    memset(&ahead->io, 0, sizeof(ahead->io));
    ahead->io.op = DRIVE_FLUSH;
    ahead->io.cb = flushed;
    drive_submit(store->drive, &ahead->io);
}

void flush_ahead_wrote(struct store *store, uint32_t bytes)
{
    assert(store->background && bytes > 0);
    store->unflushed_bytes += bytes;
    if (store->config.flush_ahead_bytes && store->opened)
        start(store);
}

void flush_ahead_stop(struct store *store)
{
    struct flush_ahead *ahead = &store->background->flush_ahead;
    assert(store->background->stopping);
    env_timer_stop(store->env, &ahead->timer);
    ahead->resting = false;
}
