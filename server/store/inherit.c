/* SPDX-License-Identifier: Apache-2.0 */
/* inherit: a record made from the one that serves another generation, or from the base's (clones).
 *
 * Who asks: a copy of an older generation (resync, takeover), the first write to a clone's chunk, rollback, flatten.
 *   inherit_start -> lookup of the source -> it is settled (R21) -> its checksums are there -> make_record -> the piece goes on
 * - The new record is the source's resolved map with every unit shared and counted, its checksums copied: no data moves.
 * - The put is not waited for: the kv keeps the order.
 * - The piece holds the whole chunk (piece.c: set_lock), so only a base's newest record can change on the way: then it starts again.
 * Failure: -ESTALE for a write of an older generation that is no copy; -ENOENT when the base is not here.
 */
#include "server/store/background.h"
#include "server/store/older.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool inherit_wanted(const struct piece *piece, const struct chunk *chunk)
{
    assert(piece->kind != PIECE_READ);
    assert(!chunk || !chunk->older);
    if (lineage_inherits(piece->shard, chunk))
        return true;
    return chunk && piece->generation < chunk->generation;
}

static bool unsettled(const struct chunk *chunk)
{
    uint64_t settled = chunk->shard->store->settled_seq;
    assert(chunk->index < STORE_SHARD_CHUNKS);
    for (uint32_t c = 0; chunk->fresh && c < 2; c++) {
        const struct record_fresh *fresh = &chunk->fresh->classes[c];
        if (fresh->seq > settled && (fresh->bits[0] | fresh->bits[1] | fresh->bits[2] | fresh->bits[3]))
            return true;
    }
    return false;
}

static void lookup_ended(struct lookup *lookup, int rc)
{
    struct detour *detour = lookup->owner;
    assert(detour->piece->detour == detour);
    detour->looked_up = !rc;
    piece_part_done(detour->piece, rc);
}

struct detour *detour_create(struct piece *piece, uint32_t source_generation)
{
    assert(!piece->detour);
    struct detour *detour = store_malloc(sizeof(*detour));
    detour->piece = piece;
    detour->source_generation = source_generation;
    detour->lookup.cb = lookup_ended;
    detour->lookup.owner = detour;
    piece->detour = detour;
    return detour;
}

static void let_go(struct detour *detour)
{
    assert(detour->piece);
    if (detour->sums)
        sums_unpin(detour->sums);
    detour->sums = NULL;
    if (detour->lookup.older)
        older_unpin(detour->lookup.older);
    detour->lookup.older = NULL;
    detour->looked_up = false;
    assert(!list_linked(&detour->lookup.link));
}

void detour_destroy(struct piece *piece)
{
    assert(piece->detour);
    let_go(piece->detour);
    free(piece->detour);
    piece->detour = NULL;
}

void inherit_start(struct piece *piece)
{
    struct chunk *head = chunk_get(piece->shard, piece->chunk_index);
    assert(piece->stage == PIECE_SUMS && !piece->pending);
    if (piece->kind != PIECE_INHERIT && head && !head->bare && piece->generation < head->generation &&
        !(piece->flags & STORE_IO_SYNC_COPY)) {
        piece_finish(piece, -ESTALE);
        return;
    }
    if (head && piece->epoch > head->mod_epoch) { /* R14: the newest record tells for all */
        head->mod_epoch = piece->epoch;
        if (!list_linked(&head->dirty_link))
            list_push_back(&piece->store->chunks_dirty, &head->dirty_link);
    }
    assert(!piece->chunk && !piece->sums);
    if (!piece->detour)
        (void)detour_create(piece, piece->generation);
    inherit_resume(piece);
}

void record_resolve(const struct chunk *chunk, struct record_map *ret_map)
{
    assert(!unsettled(chunk));
    chunk_export(chunk, ret_map);
    memset(ret_map->fresh, 0, sizeof(ret_map->fresh));
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++) {
        bool used = false;
        for (uint32_t b = unit * UNIT_BLOCKS; b < (unit + 1) * UNIT_BLOCKS; b++) {
            if (record_state_get(ret_map->states, b) == BLOCK_OVER)
                record_state_set(ret_map->states, b, BLOCK_OWN);
            used |= record_state_get(ret_map->states, b) == BLOCK_BASE;
        }
        if (!used)
            ret_map->base[unit] = UNIT_NONE;
    }
    assert(!ret_map->bare);
}

static void share_units(struct store *store, const struct record_map *map)
{
    for (uint32_t unit = 0; unit < STORE_CHUNK_UNITS; unit++) {
        int rc = map->own[unit] != UNIT_NONE ? alloc_ref(&store->alloc, map->own[unit]) : 0;
        assert(rc == 0);
        rc = map->base[unit] != UNIT_NONE ? alloc_ref(&store->alloc, map->base[unit]) : 0;
        assert(rc == 0);
    }
}

/* The chunk's newest record becomes the new one; what it was stays in the kv, except a bare one. */
static struct chunk *renew_head(struct piece *piece, const struct record_map *map, struct kv_batch *batch)
{
    struct chunk *chunk = chunk_obtain(piece->shard, piece->chunk_index, piece->generation);
    struct sums *sums = chunk->sums;
    uint64_t mod_epoch = chunk->mod_epoch > piece->epoch ? chunk->mod_epoch : piece->epoch;
    assert(!sums || !sums->pins);
    assert(!chunk->stored || chunk->generation < piece->generation);
    if (chunk->stored && chunk->bare) {
        struct record_key key = record_key_chunk(RECORD_MAP, &piece->shard->id, chunk->index, chunk->generation);
        kv_batch_delete(batch, key.bytes, key.len);
    } else if (sums && sums->dirty) {
        chunk_put_sums(chunk, batch);
    }
    chunk->sums = NULL; /* the cache entry serves on */
    chunk_clear(chunk);
    chunk_import(chunk, map);
    chunk->sums = sums;
    chunk->mod_epoch = mod_epoch;
    assert(chunk->generation == piece->generation);
    return chunk;
}

/* Checksums that nobody verified since an unclean stop are taken over as such. */
static void take_over_suspicion(const struct piece *piece, const struct chunk *source, struct kv_batch *batch)
{
    struct mark *mark = mark_find(piece->shard, piece->chunk_index);
    assert(source->index == piece->chunk_index);
    if (!mark || !mark_suspects(source->shard, source->index))
        return;
    mark_suspect_older(mark, piece->chunk_index, piece->generation, batch);
    verifier_kick(piece->store);
}

static void make_record(struct piece *piece)
{
    struct detour *detour = piece->detour;
    struct store *store = piece->store;
    struct chunk *source = detour->lookup.chunk;
    const struct chunk *head = chunk_get(piece->shard, piece->chunk_index);
    struct kv_write *write = small_put_create(store);
    struct record_map map = {.generation = 0};
    memset(map.own, 0xff, sizeof(map.own));
    memset(map.base, 0xff, sizeof(map.base));
    assert(!source || detour->sums);
    assert(!piece->chunk && !piece->older);
    if (source) {
        record_resolve(source, &map);
        if (source->stored && !source->bare)
            slots_share(source);
    }
    map.generation = piece->generation;
    map.mod_epoch = piece->epoch;
    share_units(store, &map);
    if (head && !head->bare && piece->generation < head->generation) {
        piece->older = older_insert(piece->shard, piece->chunk_index, &map);
        piece->chunk = &piece->older->chunk;
    } else {
        piece->chunk = renew_head(piece, &map, &write->batch);
    }
    piece->sums = sums_inherit(piece->chunk, detour->sums);
    chunk_put(piece->chunk, &write->batch, &piece->released);
    chunk_put_sums(piece->chunk, &write->batch);
    if (source)
        take_over_suspicion(piece, source, &write->batch);
    small_put_submit(write);
    if (piece->released.count)
        round_release(store, &piece->released);
    store->stats.records_inherited++;
}

static void go_on(struct piece *piece)
{
    assert(!piece->pending && piece->chunk && piece->sums->loaded);
    assert(piece->chunk->generation == piece->generation);
    detour_destroy(piece);
    switch (piece->kind) {
    case PIECE_WRITE: write_map(piece); break;
    case PIECE_ZERO: zero_apply(piece); break;
    case PIECE_INHERIT: piece_finish(piece, 0); break;
    case PIECE_COMPACT:
    case PIECE_READ: assert(!"they make no records"); break;
    }
}

/* The base's newest record moved on to a generation that the clone does not see. */
static bool moved_on(const struct detour *detour)
{
    const struct chunk *source = detour->lookup.chunk;
    assert(detour->looked_up);
    return source && !source->older && source->generation > detour->lookup.generation;
}

/* The record is there already; a write waits for its sums. */
static bool is_there(struct piece *piece)
{
    struct detour *detour = piece->detour;
    struct chunk *source = detour->lookup.chunk;
    bool own = source && detour->lookup.shard == piece->shard;
    assert(!own || source->index == piece->chunk_index);
    if (!own || piece->kind == PIECE_INHERIT || source->generation != piece->generation)
        return false;
    assert(source->older); /* else it would not have come here */
    piece->chunk = source;
    piece->older = detour->lookup.older;
    detour->lookup.older = NULL;
    piece->sums = sums_acquire(source, piece);
    return true;
}

/* Flatten: the shard's own record serves the generation, or nobody has anything. */
static bool nothing_to_do(const struct piece *piece)
{
    const struct detour *detour = piece->detour;
    assert(detour->looked_up);
    if (piece->kind == PIECE_ZERO)
        return !detour->lookup.chunk;
    bool flatten = piece->kind == PIECE_INHERIT && detour->source_generation == piece->generation;
    return flatten && (!detour->lookup.chunk || detour->lookup.shard == piece->shard);
}

/* 0: the source is known; -EINPROGRESS: it will be. */
static int look_up(struct piece *piece)
{
    struct detour *detour = piece->detour;
    struct lookup *lookup = &detour->lookup;
    assert(detour && detour->source_generation <= piece->generation);
    if (detour->looked_up && moved_on(detour))
        let_go(detour);
    if (detour->looked_up)
        return 0;
    lookup->shard = piece->shard;
    lookup->index = piece->chunk_index;
    lookup->generation = detour->source_generation;
    int rc = lookup_start(lookup);
    assert(rc <= 0);
    if (rc == -EINPROGRESS)
        piece->pending++;
    detour->looked_up = rc == 0;
    return rc;
}

void inherit_resume(struct piece *piece)
{
    struct detour *detour = piece->detour;
    struct store *store = piece->store;
    assert(piece->stage == PIECE_SUMS && !piece->pending);
    if (piece->chunk) { /* its sums came */
        go_on(piece);
        return;
    }
    int rc = piece->rc ? piece->rc : look_up(piece);
    if (rc == -EINPROGRESS)
        return;
    if (rc || nothing_to_do(piece)) {
        piece_finish(piece, rc);
        return;
    }
    if (is_there(piece)) {
        if (!piece->pending)
            go_on(piece);
        return;
    }
    struct chunk *source = detour->lookup.chunk;
    if (source && unsettled(source)) { /* R21: only settled blocks may become another record's */
        list_push_back(&store->settle_waiters, &piece->wait_link);
        store->round.sync_wanted = true;
        round_kick(store);
        return;
    }
    if (source && !detour->sums) {
        detour->sums = sums_acquire(source, piece);
        if (piece->pending)
            return;
    }
    make_record(piece);
    go_on(piece);
}
