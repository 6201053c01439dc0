/* SPDX-License-Identifier: Apache-2.0 */
/* rollback: what a member does to its store because the volume's history changed: rollback to a snapshot, and clones.
 *
 * - rollback_wanted, rollback_start: the map's entry gave every shard a new epoch; the primary does it before it copies anything
 *   (takeover.c), every other in_sync member before it answers RAISE (backup.c). What it touches counts as modified in the new epoch, so
 *   that members who were away get it by resync (R16).
 * - base_open: a clone's shard reads through its parent's on the same store.
 * - flatten_refresh: the map wants this member to hold everything itself; units are shared, no data is copied; then MEMBER_FULL.
 * Failure: a store that cannot do it has failed; a proposal that gets lost is made again by the tick.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mutant.h"
#include "server/replica/replica_internal.h"

#define LOG_MODULE "rollback"
#define FLATTENS_MAX 4u

/* ---- rollback ---- */

bool rollback_wanted(const struct replica *rep)
{
    replica_assert(rep);
    const struct map_volume *v = replica_volume(rep);
    const struct map_member *self = map_member_of(&rep->map, rep->set->cfg.node);
    return v && rep->shard && self && (self->flags & MAP_MEMBER_UNROLLED) && v->rollback.to > rep->rolled_to &&
           !MUTANT(no_rollback);
}

/* Durable: when the epoch is active the snapshot may go, and nobody can do it once more. */
static void rolled_flushed(struct store_flush *flush, int rc)
{
    assert(rc <= 0);
    struct replica *rep = flush->owner;
    assert(rep->rolling);
    rep->rolling = false;
    if (rc != 0) {
        log_error("volume %llu shard %u: cannot roll back to generation %u: %s", (unsigned long long)rep->volume,
                  rep->index, rep->rollback.from, strerror(-rc));
        return; /* the store failed: the role moves */
    }
    rep->rolled_to = rep->rollback.to;
    if (rep->phase == PHASE_RAISING)
        takeover_step(rep);
    drain_check(rep);
}

static void rolled(struct store_rollback *req, int rc)
{
    assert(rc <= 0);
    struct replica *rep = req->owner;
    assert(rep->rolling);
    rep->rollback_flush = (struct store_flush){.cb = rolled_flushed, .owner = rep};
    if (rc == 0)
        store_flush(rep->set->cfg.store, &rep->rollback_flush);
    else
        rolled_flushed(&rep->rollback_flush, rc);
}

void rollback_start(struct replica *rep)
{
    replica_assert(rep);
    const struct map_volume *v = replica_volume(rep);
    assert(rollback_wanted(rep));
    if (rep->rolling || rep->drive_writes > 0)
        return;
    rep->rolling = true;
    rep->rollback = (struct store_rollback){
        .shard = rep->shard,
        .from = v->rollback.from,
        .to = v->rollback.to,
        .epoch = rep->map.epoch,
        .cb = rolled,
        .owner = rep,
    };
    store_rollback(&rep->rollback);
}

/* ---- clones ---- */

int base_open(struct replica *rep, const struct map_volume *volume, const struct map_member *self)
{
    replica_assert(rep);
    assert(rep->shard != NULL);
    if (volume->base.volume == 0 || (self->flags & MAP_MEMBER_FULL))
        return 0;
    const struct map_shard *parent = map_shard_at(rep->set->cfg.map, volume->base.volume, rep->index);
    const struct map_member *there = parent ? map_member_of(parent, rep->set->cfg.node) : NULL;
    if (!there)
        return -ENOENT; /* no entry lets it come to this */
    struct store_base base = {
        .id = {.volume = volume->base.volume, .shard = rep->index, .instance = there->instance},
        .generation = volume->base.generation,
    };
    int rc = store_shard_set_base(rep->shard, &base);
    if (rc == -EEXIST && !store_shard_base(rep->shard, &base))
        rc = 0; /* flattened, and the map has not heard of it yet */
    return rc;
}

static void full_proposed(struct replica_proposal *p, const struct map_result *result)
{
    assert(result != NULL && p->owner != NULL);
    struct replica *rep = p->owner;
    assert(rep->flattening && rep->set->flattens > 0);
    rep->flattening = false;
    rep->set->flattens--;
}

static void flatten_end(struct replica *rep, int rc)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    assert(rep->flattening);
    if (rc != 0 || r->closing || rep->map.epoch == UINT64_MAX) {
        rep->flattening = false;
        r->flattens--;
        return;
    }
    struct map_run run = {.volume = rep->volume, .first = rep->index, .count = 1};
    struct map_entry entry = {
        .kind = MAP_ENTRY_MEMBER_FULL,
        .node = r->cfg.node,
        .incarnation = r->cfg.incarnation,
        .runs = &run,
        .run_count = 1,
    };
    rep->full_proposal = (struct replica_proposal){.cb = full_proposed, .owner = rep};
    r->cfg.callbacks.propose(r->cfg.arg, &entry, &rep->full_proposal);
}

static void flat_flushed(struct store_flush *req, int rc)
{
    flatten_end(req->owner, rc);
}

static void flat(struct store_flatten *req, int rc)
{
    assert(rc <= 0);
    struct replica *rep = req->owner;
    if (rc != 0) {
        log_warn("volume %llu shard %u: not flattened: %s", (unsigned long long)rep->volume, rep->index, strerror(-rc));
        flatten_end(rep, rc);
        return;
    }
    rep->flat_flush = (struct store_flush){.cb = flat_flushed, .owner = rep};
    store_flush(rep->set->cfg.store, &rep->flat_flush);
}

void flatten_refresh(struct replica *rep)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    const struct map_volume *v = replica_volume(rep);
    const struct map_member *self = map_member_of(&rep->map, r->cfg.node);
    if (!v || !v->flattening || !self || (self->flags & MAP_MEMBER_FULL) || rep->flattening || !rep->shard ||
        r->flattens >= FLATTENS_MAX || r->closing || rep->map.epoch == UINT64_MAX)
        return;
    rep->flattening = true;
    r->flattens++;
    rep->flatten = (struct store_flatten){.shard = rep->shard, .cb = flat, .owner = rep};
    store_flatten(&rep->flatten);
}
