/* SPDX-License-Identifier: Apache-2.0 */
/* extents: block status of a range, and what changed in it from one generation to another, from records alone.
 *
 * - replicas_extents_submit: at the serving primary only; the store tells runs, gaps are filled with STORE_EXTENT_SAME, so that the
 *   answer has no holes whichever was asked
 * Failure: -ESTALE: not primary here, or no lease; -ENOENT: no such snapshot; the store's own.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "server/replica/replica_internal.h"

static void answer(struct replica_extents *req, int rc)
{
    struct replicas *r = req->set;
    assert(r->diffs > 0);
    r->diffs--;
    req->cb(req, rc);
}

static void add(struct replica_extents *req, uint64_t offset, uint64_t length, uint32_t state)
{
    struct store_extent *last = req->count > 0 ? &req->extents[req->count - 1] : NULL;
    assert(length > 0);
    if (last && last->state == state && last->offset + last->length == offset)
        last->length += length;
    else if (req->count < req->max)
        req->extents[req->count++] = (struct store_extent){.offset = offset, .length = length, .state = state};
}

/* What the store left out is the same in both generations. */
static void told(struct store_diff *diff, int rc)
{
    assert(rc <= 0);
    struct replica_extents *req = diff->owner;
    struct replica *rep = replica_find(req->set, req->volume, req->shard);
    if (rep && rep->shard == diff->shard) {
        assert(rep->digests > 0);
        rep->digests--;
    }
    if (rc == 0) {
        uint64_t at = req->offset,
                 end = diff->next < req->offset + req->length ? diff->next : req->offset + req->length;
        uint32_t state = req->since ? STORE_EXTENT_SAME : 0;
        for (uint32_t i = 0; i < diff->count && req->count < req->max; i++) {
            const struct store_extent *run = &req->found[i];
            if (run->offset > at)
                add(req, at, run->offset - at, state);
            add(req, run->offset, run->length, run->state);
            at = run->offset + run->length;
        }
        if (at < end && req->count < req->max)
            add(req, at, end - at, state);
        if (req->count == 0)
            rc = -EAGAIN;
    }
    free(req->found);
    req->found = NULL;
    answer(req, rc);
}

static void refuse_task(struct env_task *task)
{
    struct replica_extents *req = list_entry(task, struct replica_extents, task);
    answer(req, req->rc);
}

static int check(struct replica *rep, struct replica_extents *req, uint32_t *ret_generation)
{
    if (!rep || rep->phase != PHASE_SERVING || !rep->shard || !replica_lease_valid(rep))
        return -ESTALE;
    const struct map_volume *v = replica_volume(rep);
    if (!v)
        return -ESTALE;
    uint32_t generation = req->generation ? req->generation : v->generation;
    const struct map_snap *snap = map_snap_by_generation(v, generation);
    if (generation != v->generation && (!snap || snap->state != MAP_SNAP_COMPLETE))
        return -ENOENT;
    const struct map_snap *since = req->since ? map_snap_by_generation(v, req->since) : NULL;
    if (req->since && (!since || since->state != MAP_SNAP_COMPLETE))
        return -ENOENT;
    if (req->since >= generation)
        return -EINVAL;
    *ret_generation = generation;
    return 0;
}

void replicas_extents_submit(struct replicas *r, struct replica_extents *req)
{
    set_assert(r);
    assert(req->max > 0 && req->cb != NULL);
    struct replica *rep = replica_find(r, req->volume, req->shard);
    uint32_t generation = 0;
    req->set = r;
    req->count = 0;
    r->diffs++;
    req->rc = check(rep, req, &generation);
    req->found = req->rc == 0 ? malloc(req->max * sizeof(*req->found)) : NULL;
    if (req->rc == 0 && !req->found)
        req->rc = -ENOMEM;
    if (req->rc != 0) {
        env_defer(r->env, &req->task, refuse_task);
        return;
    }
    rep->digests++; /* the shard stays open until the answer */
    req->diff = (struct store_diff){
        .shard = rep->shard,
        .since = req->since,
        .generation = generation,
        .offset = req->offset,
        .length = req->length,
        .extents = req->found,
        .max = req->max,
        .cb = told,
        .owner = req,
    };
    store_diff(&req->diff);
}
