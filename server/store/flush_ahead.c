/* SPDX-License-Identifier: Apache-2.0 */
/* flush_ahead: drains the drive's cache while guests write, so that the flush which somebody waits for finds little to do.
 *
 * - What a flush takes, and every write that meets it, grows with what was written since the last one. So each flush_ahead_bytes the
 *   store flushes the drive of its own accord.
 * - Only if it took flush_ahead_span_ns at least to write that much: whoever writes faster needs the drive's time for his writes
 *   (sequential ones fell to half), and is left alone until somebody asks for a flush.
 * - It makes data durable sooner than asked for, which no rule minds (R22), and promises nothing to anybody: no kv batch is synced.
 * Failure: as any failed flush it fails the store (R13: the next one might succeed without what this one lost).
 */
#include "server/store/background.h"

#include <string.h>

static void flushed(struct drive_io *io, int rc)
{
    struct flush_ahead *ahead = list_entry(io, struct flush_ahead, io);
    struct store *store = list_entry(ahead, struct background, flush_ahead)->store;
    assert(ahead->busy);
    assert(io->op == DRIVE_FLUSH);
    assert(ahead->flush_seq <= store->write_seq);
    ahead->busy = false;
    if (rc)
        store_fail(store, rc);
    else if (ahead->flush_seq > store->flushed_seq)
        store->flushed_seq = ahead->flush_seq;
    store_close_advance(store);
}

void flush_ahead_begun(struct store *store)
{
    assert(store->background);
    struct flush_ahead *ahead = &store->background->flush_ahead;
    store->stats.drive_flushes++;
    ahead->unflushed_bytes = 0;
    ahead->begun_ns = env_now_ns(store->env);
    ahead->left_alone = false;
}

static void start(struct store *store)
{
    struct flush_ahead *ahead = &store->background->flush_ahead;
    assert(store->opened && !ahead->busy);
    flush_ahead_begun(store);
    ahead->busy = true;
    ahead->flush_seq = store->write_seq;
    memset(&ahead->io, 0, sizeof(ahead->io));
    ahead->io.op = DRIVE_FLUSH;
    ahead->io.cb = flushed;
    drive_submit(store->drive, &ahead->io);
}

void flush_ahead_wrote(struct store *store, uint32_t bytes)
{
    struct flush_ahead *ahead = &store->background->flush_ahead;
    assert(bytes > 0);
    ahead->unflushed_bytes += bytes;
    if (ahead->unflushed_bytes < store->config.flush_ahead_bytes || !store->config.flush_ahead_bytes || ahead->busy ||
        ahead->left_alone || store->background->stopping || store->failed || !store->opened ||
        !store->drive->volatile_cache)
        return;
    if (env_now_ns(store->env) - ahead->begun_ns >= store->config.flush_ahead_span_ns)
        start(store);
    else
        ahead->left_alone = true;
}
