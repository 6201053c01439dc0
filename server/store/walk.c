/* SPDX-License-Identifier: Apache-2.0 */
/* walk: two background walkers that read blocks a unit at a time, as any read does: verified, excluded from writes.
 *
 * - The verifier goes through the suspect chunks an unclean stop left: mismatches are adopted (read.c). Checksums that were taken
 *   over into another record meanwhile are verified there, too. Then the chunk is suspect no more, so that its region can be cleaned.
 * - The scrubber goes through everything, round after round, at scrub_bytes_per_s; what mismatches is damage and reported.
 *   Behind the newest record of a chunk it takes the older ones from the kv, one at a time, and reads of each what the next newer
 *   one does not hold at the same place. Its position is persisted with whatever is synced next.
 * Failure: a read that fails is counted and passed over.
 */
#include "server/store/background.h"
#include "server/store/older.h"

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
    piece->generation = walker->generation;
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
            walker->generation = UINT32_MAX;
            walker->started = true;
        }
        if (walker->generation == UINT32_MAX ? next_unit(walker, chunk_get(mark->shard, index))
                                             : walker->unit < STORE_CHUNK_UNITS) {
            read_unit(walker, mark->shard);
            return;
        }
        if (walker->generation != UINT32_MAX)
            mark_record_verified(mark, index, walker->generation);
        if (mark_next_suspect_record(mark, index, &walker->generation)) {
            walker->unit = 0;
            continue;
        }
        older_put_sums(mark->shard, index);
        mark->suspect &= (uint16_t) ~(1u << bit);
        walker->started = false;
        assert(!(mark->suspect >> bit & 1));
        if (!mark->suspect)
            mark_verified(mark);
    }
    /* Nothing is suspect any more; what becomes so has it from what is. */
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

void verifier_kick(struct store *store)
{
    struct walker *walker = &store->background->verifier;
    assert(store->opened);
    if (!walker->busy && !walker->timer.armed && !store->background->stopping)
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

static void begin_chunk(struct walker *walker, uint32_t chunk)
{
    assert(chunk <= STORE_SHARD_CHUNKS && !is_verifier(walker));
    walker->chunk = chunk;
    walker->unit = 0;
    walker->generation = UINT32_MAX;
    walker->last = false;
    assert(!walker->busy);
}

/* --- older records of a chunk --- */

static uint64_t place_of(const struct record_map *map, uint32_t block)
{
    uint32_t state = map->states[block / 4] >> (block % 4 * 2) & 3;
    assert(block < STORE_CHUNK_BLOCKS);
    if (map->bare || state == BLOCK_ZERO)
        return UINT64_MAX;
    return state == BLOCK_BASE ? map->base[block / UNIT_BLOCKS] : map->own[block / UNIT_BLOCKS];
}

/* Does the older record hold a block of the unit where the newer one holds it not? */
static bool unit_differs(const struct walker *walker)
{
    assert(walker->unit < STORE_CHUNK_UNITS);
    for (uint32_t i = 0; i < UNIT_BLOCKS; i++) {
        uint32_t block = walker->unit * UNIT_BLOCKS + i;
        uint64_t place = place_of(&walker->older, block);
        if (place != UINT64_MAX && place != place_of(&walker->newer, block))
            return true;
    }
    return false;
}

/* At most two: the record that was walked last, and the next older one. */
static int take_page(struct walker *walker)
{
    const uint8_t *key, *value;
    uint32_t cursor = 0, key_len, value_len, index, generation, count = 0;
    enum record_kind kind;
    struct store_shard_id id;
    bool is_delete;
    int rc = 0;
    assert(walker->busy && !is_verifier(walker));
    assert(walker->scan.limit == 2);
    while (!rc && kv_batch_next(&walker->scan.pairs, &cursor, &key, &key_len, &value, &value_len, &is_delete)) {
        rc = record_key_decode(key, key_len, &kind, &id, &index, &generation);
        if (!rc)
            rc = record_map_decode(key, key_len, value, value_len, count == 0 ? &walker->newer : &walker->older);
        count++;
    }
    walker->last = count < 2;
    walker->unit = 0;
    if (count == 2)
        walker->generation = walker->older.generation;
    assert(count <= 2);
    return rc;
}

static void page_scanned(struct kv_scan *scan, int rc)
{
    struct walker *walker = scan->owner;
    struct store *store = walker->store;
    assert(walker->busy && scan == &walker->scan);
    if (!rc)
        rc = take_page(walker);
    kv_batch_free(&scan->pairs);
    walker->busy = false;
    if (rc)
        store_fail(store, rc);
    if (store->background->stopping || store->failed)
        store_close_advance(store);
    else
        sleep_for(walker, STORE_BLOCK_BYTES * 1000000000ull / store->config.scrub_bytes_per_s);
}

static void fetch_older(struct walker *walker, const struct store_shard *shard)
{
    struct record_key from = record_key_chunk(RECORD_MAP, &shard->id, walker->chunk, walker->generation);
    struct record_key last = record_key_chunk(RECORD_MAP, &shard->id, walker->chunk, 0);
    assert(!walker->busy && shard->has_older);
    memset(&walker->scan, 0, sizeof(walker->scan));
    memcpy(walker->scan.from, from.bytes, from.len);
    walker->scan.from_len = from.len;
    memcpy(walker->scan.to, last.bytes, last.len);
    walker->scan.to[last.len] = 0;
    walker->scan.to_len = last.len + 1;
    walker->scan.limit = 2;
    walker->scan.cb = page_scanned;
    walker->scan.owner = walker;
    walker->busy = true;
    assert(walker->scan.from_len <= KV_KEY_MAX && walker->scan.to_len <= KV_KEY_MAX);
    kv_scan(walker->store->kv, &walker->scan);
}

/* True: something is under way. */
static bool scrub_chunk(struct walker *walker, struct store_shard *shard)
{
    const struct chunk *chunk = chunk_get(shard, walker->chunk);
    assert(walker->chunk < STORE_SHARD_CHUNKS);
    if (!chunk)
        return false;
    if (walker->generation == UINT32_MAX) {
        if (next_unit(walker, chunk)) {
            read_unit(walker, shard);
            return true;
        }
    } else {
        while (walker->unit < STORE_CHUNK_UNITS && !unit_differs(walker))
            walker->unit++;
        if (walker->unit < STORE_CHUNK_UNITS) {
            read_unit(walker, shard);
            return true;
        }
    }
    if (!shard->has_older || walker->last)
        return false;
    fetch_older(walker, shard);
    return true;
}

static bool scrub_chunks(struct walker *walker, struct store_shard *shard)
{
    struct store *store = walker->store;
    assert(id_equal(&shard->id, &walker->shard));
    assert(!walker->busy && walker->buf);
    for (; walker->chunk < STORE_SHARD_CHUNKS; begin_chunk(walker, walker->chunk + 1)) {
        store->super.scrub_volume = shard->id.volume;
        store->super.scrub_shard = shard->id.shard;
        store->super.scrub_chunk = walker->chunk;
        if (scrub_chunk(walker, shard))
            return true;
    }
    return false;
}

static void pass_ends(struct walker *walker)
{
    struct store *store = walker->store;
    assert(!is_verifier(walker));
    store->stats.scrub_passes++;
    store->stats.scrub_position = 0;
    memset(&walker->shard, 0, sizeof(walker->shard));
    begin_chunk(walker, 0);
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
        assert(walker->chunk <= STORE_SHARD_CHUNKS && !walker->busy);
        if (!id_equal(&shard->id, &walker->shard)) {
            walker->shard = shard->id;
            begin_chunk(walker, 0);
        }
        if (scrub_chunks(walker, shard))
            return;
        begin_chunk(walker, 0);
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
    begin_chunk(walker, 0);
    walker->shard.volume = store->super.scrub_volume;
    walker->shard.shard = store->super.scrub_shard;
    struct store_shard *shard = scrub_shard(walker);
    if (shard && shard->id.volume == store->super.scrub_volume && shard->id.shard == store->super.scrub_shard) {
        walker->shard = shard->id;
        walker->chunk = store->super.scrub_chunk % STORE_SHARD_CHUNKS;
    }
    sleep_for(walker, REST_NS);
}
