/* SPDX-License-Identifier: Apache-2.0 */
/* rollback: walks that give chunks a record made from another one (inherit.c): rollback to a snapshot, flattening of a clone.
 *
 * - One chunk after the other, each excluded from other work while its record is made; no data is read or copied.
 * - Rollback: chunks with records newer than `from` get record `to`. What is at `to` already stays: so a crash on the way is
 *   followed by the same call again.
 * - Flatten: chunks that read through the base at the oldest live generation get a record of that generation; then the base
 *   is forgotten, in the kv after those records.
 * Failure: the first error ends the walk and is told; what was made stays (both may be called again).
 */
#include "server/store/background.h"
#include "server/store/older.h"

#include <errno.h>
#include <stdlib.h>

struct inherit_walk {
    struct store_rollback *rollback; /* or */
    struct store_flatten *flatten;
    struct store *store;
    struct store_shard *shard;
    struct env_task task;
    uint32_t chunk;
    int rc;
};

enum { CHUNKS_A_TURN = 64 };

static void walk(struct env_task *task);

static void walk_end(struct inherit_walk *self)
{
    struct store *store = self->store;
    struct store_rollback *rollback = self->rollback;
    struct store_flatten *flatten = self->flatten;
    int rc = self->rc;
    assert(store->background->digests > 0);
    store->background->digests--;
    if (!rc && flatten && self->shard->has_base)
        lineage_clear_base(self->shard);
    if (!rc && rollback && self->shard->has_older) {
        self->shard->reap_wanted = self->shard->live != NULL;
        reap_kick(store);
    }
    free(self);
    if (rollback) {
        rollback->impl = NULL;
        rollback->cb(rollback, rc);
    } else {
        flatten->impl = NULL;
        flatten->cb(flatten, rc);
    }
    store_close_advance(store);
}

static void chunk_done(struct piece *piece)
{
    struct inherit_walk *self = piece->owner;
    assert(piece->kind == PIECE_INHERIT && piece->chunk_index == self->chunk);
    assert(!self->rc && piece->rc <= 0);
    self->rc = piece->rc;
    self->chunk++;
    env_defer(self->store->env, &self->task, walk);
}

static void chunk_start(struct inherit_walk *self)
{
    struct piece *piece = piece_create(self->shard, PIECE_INHERIT, self->chunk, 0, STORE_CHUNK_BLOCKS);
    uint32_t oldest = lineage_oldest(self->shard);
    assert(!self->rc);
    piece->generation = self->rollback ? self->rollback->to : oldest;
    piece->epoch = self->rollback ? self->rollback->epoch : 1; /* what was there from the volume's beginning (R16) */
    piece->done = chunk_done;
    piece->owner = self;
    if (self->rollback)
        lineage_written(self->shard, self->rollback->to);
    (void)detour_create(piece, self->rollback ? self->rollback->from : oldest);
    self->store->submit_depth++;
    piece_submit(piece);
    self->store->submit_depth--;
}

/* Whether the chunk needs a record: what is in memory tells most of it, inherit.c the rest. */
static bool concerns(const struct inherit_walk *self)
{
    const struct chunk *chunk = chunk_get(self->shard, self->chunk);
    assert(self->chunk < STORE_SHARD_CHUNKS);
    if (self->rollback)
        return chunk && !chunk->bare && chunk->generation > self->rollback->from &&
               chunk->generation < self->rollback->to;
    return lineage_inherits(self->shard, chunk) || (chunk && chunk->generation > lineage_oldest(self->shard));
}

static void walk(struct env_task *task)
{
    struct inherit_walk *self = list_entry(task, struct inherit_walk, task);
    assert(self->chunk <= STORE_SHARD_CHUNKS);
    assert(!self->rollback || !self->flatten);
    if (!self->rc && (self->store->failed || self->store->background->stopping))
        self->rc = -EIO;
    uint32_t steps = 0;
    while (!self->rc && self->chunk < STORE_SHARD_CHUNKS && !concerns(self) && steps++ < CHUNKS_A_TURN)
        self->chunk++;
    if (self->rollback)
        self->rollback->chunks_done = self->chunk;
    else
        self->flatten->chunks_done = self->chunk;
    if (self->rc || self->chunk == STORE_SHARD_CHUNKS)
        walk_end(self);
    else if (concerns(self))
        chunk_start(self);
    else
        env_defer(self->store->env, &self->task, walk);
}

static struct inherit_walk *walk_create(struct store_shard *shard)
{
    struct inherit_walk *self = store_malloc(sizeof(*self));
    assert(shard->open);
    self->shard = shard;
    self->store = shard->store;
    shard->store->background->digests++;
    return self;
}

void store_rollback(struct store_rollback *req)
{
    assert(req->shard && req->cb);
    assert(req->from < req->to);
    struct inherit_walk *self = walk_create(req->shard);
    self->rollback = req;
    req->impl = self;
    req->chunks_done = 0;
    env_defer(self->store->env, &self->task, walk);
}

void store_flatten(struct store_flatten *req)
{
    assert(req->shard && req->cb);
    struct inherit_walk *self = walk_create(req->shard);
    assert(self->shard == req->shard);
    self->flatten = req;
    req->impl = self;
    req->chunks_done = 0;
    if (!req->shard->has_base)
        self->chunk = STORE_SHARD_CHUNKS;
    env_defer(self->store->env, &self->task, walk);
}
