/* SPDX-License-Identifier: Apache-2.0 */
/* prewrite: zeroes a file store ahead of the allocation, so that data never meets unwritten extents.
 *
 * - Units are handed out below the watermark only; it rises by 1 MiB writes of zeros, at prewrite_bytes_per_s while 64 MiB
 *   are free below it, else as fast as the drive goes.
 * - While somebody writes it goes at an eighth of that: a flush, and every write that meets it, waits for the zeros before it.
 * - The watermark is persisted with whatever batch is synced next; after a crash the references say how far it was.
 * Failure: a failed write fails the store.
 */
#include "server/store/background.h"

#include <string.h>

enum { AHEAD_UNITS = (64u << 20) / STORE_UNIT_BYTES, BUSY_TURNS = 8 };

static void tick(struct env_timer *timer);

static void rest(struct store *store)
{
    struct prewriter *prewriter = &store->background->prewriter;
    assert(!prewriter->busy);
    env_timer_start(store->env, &prewriter->timer,
                    STORE_CHUNK_BYTES * UINT64_C(1000000000) / store->config.prewrite_bytes_per_s, tick);
}

/* Whether this turn is left to those who write. */
static bool gives_way(struct store *store)
{
    struct prewriter *prewriter = &store->background->prewriter;
    bool writing = store->stats.writes != prewriter->writes_seen;
    prewriter->writes_seen = store->stats.writes;
    if (!writing || store->alloc.free_below < AHEAD_UNITS || prewriter->turns_left_out + 1 == BUSY_TURNS)
        prewriter->turns_left_out = 0;
    else
        prewriter->turns_left_out++;
    assert(prewriter->turns_left_out < BUSY_TURNS);
    return prewriter->turns_left_out > 0;
}

static void tick(struct env_timer *timer)
{
    struct prewriter *prewriter = list_entry(timer, struct prewriter, timer);
    struct background *background = list_entry(prewriter, struct background, prewriter);
    assert(!prewriter->busy);
    if (gives_way(background->store))
        rest(background->store);
    else
        prewrite_kick(background->store);
}

static void written(struct drive_io *io, int rc)
{
    struct prewriter *prewriter = list_entry(io, struct prewriter, io);
    struct store *store = list_entry(prewriter, struct background, prewriter)->store;
    assert(io->offset == (uint64_t)store->alloc.watermark * STORE_UNIT_BYTES);
    assert(prewriter->busy);
    prewriter->busy = false;
    if (rc) {
        store_fail(store, rc);
        store_close_advance(store);
        return;
    }
    alloc_set_watermark(&store->alloc, (uint32_t)((io->offset + io->length) / STORE_UNIT_BYTES));
    flush_ahead_wrote(store, io->length);
    store->drive->prewritten = (uint64_t)store->alloc.watermark * STORE_UNIT_BYTES;
    piece_wake(&store->space_waiters);
    if (store->background->stopping) {
        store_close_advance(store);
        return;
    }
    if (store->alloc.free_below < AHEAD_UNITS)
        prewrite_kick(store);
    else
        rest(store);
}

void prewrite_kick(struct store *store)
{
    struct prewriter *prewriter = &store->background->prewriter;
    struct alloc *alloc = &store->alloc;
    if (prewriter->busy || store->background->stopping || store->failed || !store->opened ||
        alloc->watermark >= alloc->unit_count)
        return;
    assert(store->config.prewrite_bytes_per_s); /* else the watermark is at the end */
    env_timer_stop(store->env, &prewriter->timer);
    if (!prewriter->buf) {
        prewriter->buf = buf_alloc(store->config.pool, STORE_CHUNK_BYTES);
        if (!prewriter->buf) {
            env_timer_start(store->env, &prewriter->timer, ENV_MS(50), tick);
            return;
        }
        memset(prewriter->buf->data, 0, STORE_CHUNK_BYTES);
    }
    uint32_t units = alloc->unit_count - alloc->watermark;
    if (units > STORE_CHUNK_UNITS)
        units = STORE_CHUNK_UNITS;
    for (uint32_t i = 0; i < units; i++)
        assert(alloc_is_free(alloc, alloc->watermark + i)); /* I11: never over data */
    memset(&prewriter->io, 0, sizeof(prewriter->io));
    prewriter->io.op = DRIVE_WRITE;
    prewriter->io.offset = (uint64_t)alloc->watermark * STORE_UNIT_BYTES;
    prewriter->io.length = units * STORE_UNIT_BYTES;
    prewriter->io.data = prewriter->buf->data;
    prewriter->io.cb = written;
    prewriter->busy = true;
    drive_submit(store->drive, &prewriter->io);
}
