/* SPDX-License-Identifier: Apache-2.0 */
/* walk: two background walkers that read blocks a unit at a time, as any read does: verified, excluded from writes.
 *
 * - The verifier goes through the suspect chunks an unclean stop left: mismatches are adopted (read.c); a chunk that was
 *   walked is suspect no more, so that its region can be cleaned.
 * - The scrubber goes through everything, round after round, at scrub_bytes_per_s; what mismatches is damage and reported.
 *   Its position is persisted with whatever is synced next.
 * Failure: a read that fails is counted and passed over.
 */
#include "server/store/background.h"

#include <errno.h>
#include <string.h>

#define VERIFY_BYTES_PER_S (200u << 20)
#define REST_NS ENV_MS(1000)

static void verify_step(struct env_timer *timer);
static void scrub_step(struct env_timer *timer);

static bool is_verifier(const struct walker *walker)
{
    assert(walker->store);
    return walker == &walker->store->background->verifier;
}

static bool may_run(struct walker *walker)
{
    struct store *store = walker->store;
    assert(store->opened);
    assert(!walker->busy);
    if (store->background->stopping || store->failed)
        return false;
    if (!walker->buf)
        walker->buf = buf_alloc(store->config.pool, STORE_UNIT_BYTES);
    return true;
}

static void sleep_for(struct walker *walker, uint64_t ns)
{
    assert(ns > 0 && !walker->busy);
    assert(!walker->timer.armed);
    env_timer_start(walker->store->env, &walker->timer, ns, is_verifier(walker) ? verify_step : scrub_step);
}

static void read_done(struct piece *piece)
{
    struct walker *walker = piece->owner;
    struct store *store = walker->store;
    assert(walker->unit < STORE_CHUNK_UNITS && piece->count == UNIT_BLOCKS);
    assert(walker->busy);
    walker->busy = false;
    uint64_t rate = is_verifier(walker) ? VERIFY_BYTES_PER_S : store->config.scrub_bytes_per_s;
    if (!is_verifier(walker)) {
        store->stats.scrub_position += STORE_UNIT_BYTES;
        if (piece->rc == -EILSEQ)
            store->stats.scrub_errors++;
    }
    walker->unit++;
    if (store->background->stopping || store->failed)
        store_close_advance(store);
    else
        sleep_for(walker, STORE_UNIT_BYTES * 1000000000ull / rate);
}

static void read_unit(struct walker *walker, struct store_shard *shard)
{
    assert(walker->buf && !walker->busy);
    assert(walker->unit < STORE_CHUNK_UNITS);
    struct piece *piece = piece_create(shard, PIECE_READ, walker->chunk, walker->unit * UNIT_BLOCKS, UNIT_BLOCKS);
    piece->generation = UINT32_MAX;
    piece->data = walker->buf->data;
    piece->crcs = walker->crcs;
    piece->done = read_done;
    piece->owner = walker;
    walker->busy = true;
    piece_submit(piece);
}

static bool unit_held(const struct chunk *chunk, uint32_t unit)
{
    assert(unit < STORE_CHUNK_UNITS);
    return chunk->own[unit] != UNIT_NONE || chunk_base(chunk, unit) != UNIT_NONE;
}

/* On to the next unit of the chunk that holds anything; false: the chunk is through. */
static bool next_unit(struct walker *walker, const struct chunk *chunk)
{
    assert(walker->unit <= STORE_CHUNK_UNITS);
    while (chunk && walker->unit < STORE_CHUNK_UNITS && !unit_held(chunk, walker->unit))
        walker->unit++;
    return chunk && walker->unit < STORE_CHUNK_UNITS;
}

static struct mark *first_suspect(struct store *store)
{
    assert(store->opened);
    list_for_each(node, &store->marks) if (list_entry(node, struct mark, lru)->suspect) return list_entry(
        node, struct mark, lru);
    return NULL;
}

static void verify_step(struct env_timer *timer)
{
    struct walker *walker = list_entry(timer, struct walker, timer);
    struct mark *mark;
    assert(is_verifier(walker));
    if (!may_run(walker))
        return;
    if (!walker->buf) {
        sleep_for(walker, ENV_MS(50));
        return;
    }
    while ((mark = first_suspect(walker->store))) {
        uint32_t bit = (uint32_t)__builtin_ctz(mark->suspect);
        uint32_t index = mark->region * REGION_CHUNKS + bit;
        if (!walker->started || walker->chunk != index || !id_equal(&walker->shard, &mark->shard->id)) {
            walker->shard = mark->shard->id;
            walker->chunk = index;
            walker->unit = 0;
            walker->started = true;
        }
        if (next_unit(walker, chunk_get(mark->shard, index))) {
            read_unit(walker, mark->shard);
            return;
        }
        mark->suspect &= (uint16_t) ~(1u << bit);
        walker->started = false;
        assert(!(mark->suspect >> bit & 1));
    }
    /* Nothing is suspect any more, and nothing becomes so before the next start. */
    buf_unref(walker->buf);
    walker->buf = NULL;
}

void verifier_start(struct store *store)
{
    struct walker *walker = &store->background->verifier;
    assert(!walker->busy);
    if (first_suspect(store))
        sleep_for(walker, ENV_MS(1));
}

/* The shard at or after the walker's position; NULL: the pass ends. */
static struct store_shard *scrub_shard(struct walker *walker)
{
    struct store_shard *best = NULL;
    const struct store_shard_id *at = &walker->shard;
    list_for_each(node, &walker->store->shards)
    {
        struct store_shard *shard = list_entry(node, struct store_shard, link);
        const struct store_shard_id *id = &shard->id;
        bool after = id->volume != at->volume ? id->volume > at->volume
                     : id->shard != at->shard ? id->shard > at->shard
                                              : id->instance >= at->instance;
        if (!after)
            continue;
        const struct store_shard_id *b = best ? &best->id : NULL;
        if (!b || id->volume < b->volume ||
            (id->volume == b->volume &&
             (id->shard < b->shard || (id->shard == b->shard && id->instance < b->instance))))
            best = shard;
    }
    assert(!best || best->store == walker->store);
    return best;
}

static void pass_ends(struct walker *walker)
{
    struct store *store = walker->store;
    assert(!is_verifier(walker));
    store->stats.scrub_passes++;
    store->stats.scrub_position = 0;
    memset(&walker->shard, 0, sizeof(walker->shard));
    walker->chunk = walker->unit = 0;
    assert(!walker->busy);
    sleep_for(walker, store->config.scrub_rest_ns ? store->config.scrub_rest_ns : REST_NS);
}

static void scrub_step(struct env_timer *timer)
{
    struct walker *walker = list_entry(timer, struct walker, timer);
    struct store *store = walker->store;
    struct store_shard *shard;
    assert(!is_verifier(walker) && store->config.scrub_bytes_per_s);
    if (!may_run(walker))
        return;
    if (!walker->buf) {
        sleep_for(walker, ENV_MS(50));
        return;
    }
    while ((shard = scrub_shard(walker))) {
        assert(walker->chunk <= STORE_SHARD_CHUNKS);
        if (!id_equal(&shard->id, &walker->shard)) {
            walker->shard = shard->id;
            walker->chunk = walker->unit = 0;
        }
        for (; walker->chunk < STORE_SHARD_CHUNKS; walker->chunk++, walker->unit = 0)
            if (next_unit(walker, chunk_get(shard, walker->chunk)))
                break;
        if (walker->chunk < STORE_SHARD_CHUNKS) {
            store->super.scrub_volume = shard->id.volume;
            store->super.scrub_shard = shard->id.shard;
            store->super.scrub_chunk = walker->chunk;
            read_unit(walker, shard);
            return;
        }
        walker->chunk = walker->unit = 0;
        walker->shard.instance++; /* past this one */
        assert(walker->shard.instance > shard->id.instance);
    }
    pass_ends(walker);
}

void scrubber_start(struct store *store)
{
    struct walker *walker = &store->background->scrubber;
    assert(!walker->busy);
    if (!store->config.scrub_bytes_per_s)
        return;
    walker->shard.volume = store->super.scrub_volume;
    walker->shard.shard = store->super.scrub_shard;
    struct store_shard *shard = scrub_shard(walker);
    if (shard && shard->id.volume == store->super.scrub_volume && shard->id.shard == store->super.scrub_shard) {
        walker->shard = shard->id;
        walker->chunk = store->super.scrub_chunk % STORE_SHARD_CHUNKS;
    }
    sleep_for(walker, REST_NS);
}
