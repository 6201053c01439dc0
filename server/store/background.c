/* SPDX-License-Identifier: Apache-2.0 */
/* background: starts and stops the store's own work; idle regions are cleaned, checksums checkpointed on timers.
 *
 * - clean_tick: a region idle for clean_idle_ns makes a round that cleans (R14); so do released units that wait for a sync.
 * - checkpoint_tick: dirty checksums go to the kv every checkpoint_ns, a page at a time, marks untouched.
 * Failure: none here; a failed store stops ticking.
 */
#include "server/store/background.h"

#include <stdlib.h>

enum { CHECKPOINT_PAGE = 128 };

static void clean_tick(struct env_timer *timer)
{
    struct background *background = list_entry(timer, struct background, clean_timer);
    struct store *store = background->store;
    assert(store->background == background);
    assert(store->opened);
    if (background->stopping || store->failed)
        return;
    uint64_t now = env_now_ns(store->env);
    if (!list_empty(&store->marks)) {
        const struct mark *coldest = list_entry(store->marks.next, struct mark, lru);
        if (coldest->last_write_ns + store->config.clean_idle_ns <= now)
            store->round.clean_idle = true;
    }
    if (store->released.count || !list_empty(&store->chunks_dirty) || store->super_dirty)
        store->round.sync_wanted = true;
    round_kick(store);
    env_timer_start(store->env, timer, store->config.clean_idle_ns / 2, clean_tick);
}

static void checkpoint_tick(struct env_timer *timer)
{
    struct background *background = list_entry(timer, struct background, checkpoint_timer);
    struct store *store = background->store;
    assert(store->background == background);
    assert(store->opened);
    if (background->stopping || store->failed)
        return;
    bool more = sums_checkpoint(store, CHECKPOINT_PAGE);
    env_timer_start(store->env, timer, more ? ENV_MS(50) : store->config.checkpoint_ns, checkpoint_tick);
}

void background_create(struct store *store)
{
    assert(!store->background);
    struct background *background = store_malloc(sizeof(*background));
    background->store = store;
    background->verifier.store = background->scrubber.store = background->reaper.store = store;
    background->compactor.store = store;
    list_head_init(&background->drops);
    map_u64_init(&background->drop_map);
    store->background = background;
}

void background_start(struct store *store)
{
    struct background *background = store->background;
    assert(store->opened && !background->stopping);
    env_timer_start(store->env, &background->clean_timer, store->config.clean_idle_ns / 2, clean_tick);
    env_timer_start(store->env, &background->checkpoint_timer, store->config.checkpoint_ns, checkpoint_tick);
    drop_start_all(store);
    prewrite_kick(store);
    verifier_start(store);
    scrubber_start(store);
}

static void walker_stop(struct store *store, struct walker *walker)
{
    assert(walker->store == store);
    env_timer_stop(store->env, &walker->timer);
}

void background_stop(struct store *store)
{
    struct background *background = store->background;
    assert(background);
    background->stopping = true;
    env_timer_stop(store->env, &background->clean_timer);
    env_timer_stop(store->env, &background->checkpoint_timer);
    env_timer_stop(store->env, &background->prewriter.timer);
    env_timer_stop(store->env, &background->reaper.timer);
    env_timer_stop(store->env, &background->compactor.timer);
    walker_stop(store, &background->verifier);
    walker_stop(store, &background->scrubber);
}

bool background_idle(const struct store *store)
{
    const struct background *background = store->background;
    assert(background->stopping);
    return !background->verifier.busy && !background->scrubber.busy && !background->prewriter.busy &&
           !background->flush_ahead.busy && !background->reaper.busy && !background->compactor.busy &&
           !background->digests && drop_idle(store);
}

void background_destroy(struct store *store)
{
    struct background *background = store->background;
    assert(background && background->stopping);
    assert(background_idle(store));
    drop_close_all(store);
    reap_close(store);
    buf_unref(background->prewriter.buf);
    buf_unref(background->verifier.buf);
    buf_unref(background->scrubber.buf);
    assert(!background->drop_map.count);
    map_u64_close(&background->drop_map);
    free(background);
    store->background = NULL;
}
