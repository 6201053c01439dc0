/* SPDX-License-Identifier: Apache-2.0 */
/* takeover: what a primary does at every epoch change, whether it is new or carries on (R7, R11, R12).
 *
 * - takeover_start: fewer than min_replicas in_sync -> PARKED (R8: no epoch below it ever becomes active). Else RAISING: drain own
 *   drive writes, restamp own marks (R14, R15), send RAISE to every other in_sync member.
 * - takeover_copy (COPYING): the union of the reported windows and the own one is sent again from own content, holes included.
 * - takeover_activate (ACTIVATING): EPOCH_ACTIVE is proposed, one entry a turn for all shards that wait (R12).
 * - takeover_serve (SERVING): windows of older epochs are retired everywhere; uncommitted own writes are sent again; parked ones begin.
 * Failures: a member out of reach is retried each tick and reported by member.c; any new epoch starts over; members keep their
 * windows until TAKEOVER_DONE, so a takeover interrupted by another loses nothing.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mutant.h"
#include "server/replica/replica_internal.h"
#include "server/replica/window_wire.h"

#define LOG_MODULE "takeover"
#define COPIES_MAX 8u
#define ACTIVES_MAX 4096u

static void takeover_copy(struct replica *rep);
static void takeover_activate(struct replica *rep);

/* ---- ranges ---- */

static void add_range(struct takeover *t, uint64_t start, uint64_t end, uint32_t generation)
{
    takeover_assert(t);
    assert(start < end);
    if (t->range_count == t->range_capacity) {
        uint32_t capacity = t->range_capacity ? t->range_capacity * 2 : 64;
        struct takeover_range *ranges = realloc(t->ranges, capacity * sizeof(*ranges));
        if (!ranges)
            abort();
        t->ranges = ranges;
        t->range_capacity = capacity;
    }
    t->ranges[t->range_count++] = (struct takeover_range){.start = start, .end = end, .generation = generation};
}

/* Older generations first: what a newer one shares with them is copied once. */
static int by_start(const void *a, const void *b)
{
    const struct takeover_range *x = a, *y = b;
    if (x->generation != y->generation)
        return x->generation < y->generation ? -1 : 1;
    return x->start < y->start ? -1 : x->start > y->start;
}

static void merge_ranges(struct takeover *t)
{
    takeover_assert(t);
    if (t->range_count < 2)
        return;
    qsort(t->ranges, t->range_count, sizeof(t->ranges[0]), by_start);
    uint32_t out = 0;
    for (uint32_t i = 1; i < t->range_count; i++) {
        struct takeover_range *last = &t->ranges[out];
        if (t->ranges[i].start <= last->end && t->ranges[i].generation == last->generation) {
            if (t->ranges[i].end > last->end)
                last->end = t->ranges[i].end;
        } else {
            t->ranges[++out] = t->ranges[i];
        }
    }
    t->range_count = out + 1;
}

static void reported(void *arg, const struct window_range *range)
{
    add_range(arg, range->offset, range->offset + range->length, range->generation);
}

/* ---- RAISING ---- */

static void raise_send(struct replica *rep, struct takeover_raise *raise);

static void raise_answered(struct peer_request *req, int rc)
{
    assert(rc <= 0);
    assert(req->owner != NULL);
    struct takeover_raise *raise = req->owner;
    struct replica *rep = raise->replica;
    const struct map_volume *v = replica_volume(rep);
    raise->busy = false;
    if (rep->phase != PHASE_RAISING)
        return;
    if (rc == 0 && v && req->reply) {
        rc = window_decode(req->reply->body, req->reply->header.body_len, v->shard_bytes, reported, &rep->takeover);
        raise->answered = rc == 0;
    }
    if (rc == -EIO)
        member_failed(rep, raise->node);
    if (rc != 0)
        return; /* the tick, a new link or a new epoch tries again */
    takeover_step(rep);
}

static void raise_send(struct replica *rep, struct takeover_raise *raise)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    assert(!raise->busy && !raise->answered);
    if (!peers_is_up(r->cfg.peers, raise->node)) {
        member_unreachable(rep, raise->node);
        return;
    }
    struct wire_header h;
    replica_header(rep, &h, WIRE_RAISE);
    raise->busy = true;
    raise->request = (struct peer_request){.cb = raise_answered, .owner = raise};
    peers_request(r->cfg.peers, raise->node, &h, NULL, NULL, 0, &raise->request);
}

static void restamped(struct store_restamp *req, int rc)
{
    assert(rc <= 0);
    struct replica *rep = req->owner;
    rep->takeover.restamp_busy = false;
    if (req->epoch != rep->map.epoch || rep->phase != PHASE_RAISING) {
        if (rep->phase == PHASE_RAISING)
            takeover_step(rep); /* a newer epoch waited for this one to end */
        return;
    }
    if (rc != 0) {
        log_error("volume %llu shard %u: cannot restamp marks: %s", (unsigned long long)rep->volume, rep->index,
                  strerror(-rc));
        return;
    }
    rep->takeover.restamped = true;
    takeover_step(rep);
}

void takeover_step(struct replica *rep)
{
    replica_assert(rep);
    struct takeover *t = &rep->takeover;
    assert(rep->phase == PHASE_RAISING);
    assert(t->epoch == rep->map.epoch);
    if (rep->drive_writes > 0 || t->restamp_busy || rep->rolling)
        return;
    if (rollback_wanted(rep)) {
        rollback_start(rep); /* comes back here */
        return;
    }
    if (!t->restamped && MUTANT(primary_does_not_restamp))
        t->restamped = true;
    if (!t->restamped) {
        t->restamp_busy = true;
        t->restamp =
            (struct store_restamp){.shard = rep->shard, .epoch = rep->map.epoch, .cb = restamped, .owner = rep};
        store_restamp(&t->restamp);
        return;
    }
    for (uint32_t i = 0; i < t->raise_count; i++)
        if (!t->raises[i].answered)
            return;
    takeover_copy(rep);
}

void takeover_retry(struct replica *rep)
{
    replica_assert(rep);
    struct takeover *t = &rep->takeover;
    if (rep->phase == PHASE_RAISING) {
        for (uint32_t i = 0; i < t->raise_count; i++)
            if (!t->raises[i].busy && !t->raises[i].answered)
                raise_send(rep, &t->raises[i]);
        takeover_step(rep);
    } else if (rep->phase == PHASE_ACTIVATING && !t->proposed) {
        takeover_activate(rep);
    }
}

static void abandon_raises(struct replica *rep)
{
    replica_assert(rep);
    struct takeover *t = &rep->takeover;
    for (uint32_t i = 0; i < t->raise_count; i++)
        if (t->raises[i].busy)
            peers_abandon(rep->set->cfg.peers, &t->raises[i].request);
    t->raise_count = 0;
}

/* Copies and heals of an older epoch end here; syncs take their chunks up again later. */
static void abandon_copies(struct replica *rep)
{
    replica_assert(rep);
    bool again = true;
    while (again) {
        again = false;
        list_for_each(pos, &rep->ops)
        {
            struct op_ctx *ctx = list_entry(pos, struct op_ctx, link);
            if (ctx->kind == CTX_COPY || ctx->takeover) {
                op_abort(ctx, -ESTALE);
                again = true;
                break;
            }
        }
    }
    rep->takeover.copies_busy = 0;
}

void takeover_cancel(struct replica *rep)
{
    replica_assert(rep);
    abandon_raises(rep);
    if (list_linked(&rep->activate_link))
        list_remove(&rep->activate_link);
    rep->takeover.range_count = rep->takeover.range_next = 0;
    rep->takeover.proposed = false;
}

void takeover_start(struct replica *rep)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    struct takeover *t = &rep->takeover;
    const struct map_volume *v = replica_volume(rep);
    takeover_cancel(rep);
    rep->phase = PHASE_PARKED;
    abandon_copies(rep);
    t->epoch = rep->map.epoch;
    t->restamped = false;
    if (rollback_wanted(rep))
        sync_stop_all(rep); /* they start over: the change is not forwarded to them, their new lists have it */
    if (!v || (map_in_sync_count(&rep->map) < v->min_replicas && !MUTANT(acknowledge_below_min))) {
        log_info("volume %llu shard %u epoch %llu: %u of %u members in sync: parked", (unsigned long long)rep->volume,
                 rep->index, (unsigned long long)rep->map.epoch, map_in_sync_count(&rep->map), v ? v->min_replicas : 0);
        return;
    }
    rep->phase = PHASE_RAISING;
    r->stats.takeovers++;
    for (uint32_t i = 0; i < rep->map.member_count; i++) {
        const struct map_member *m = &rep->map.members[i];
        if (m->node == r->cfg.node || !(m->flags & MAP_MEMBER_IN_SYNC))
            continue;
        t->raises[t->raise_count++] = (struct takeover_raise){.replica = rep, .node = m->node};
    }
    for (uint32_t i = 0; i < t->raise_count; i++)
        raise_send(rep, &t->raises[i]);
    takeover_step(rep);
}

/* ---- COPYING ---- */

static void copy_more(struct replica *rep);

static void copied(struct op_ctx *ctx, int rc)
{
    assert(rc <= 0);
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    if (rc == -ESTALE || rep->phase != PHASE_COPYING)
        return; /* abandoned */
    assert(rep->takeover.copies_busy > 0);
    rep->takeover.copies_busy--;
    if (rc != 0)
        return; /* the own store failed: the role moves */
    copy_more(rep);
}

/* In which generation a range is copied that was written in this one; 0: in none.
 * - A snapshot that was deleted left what it held to the next one. Here its record may be gone, and what is read in its generation older; a
 *   member whose newest record is of that generation serves later ones from it, and a copy there would change those.
 * - A write of a generation that was rolled back is void, unless a snapshot still shows it. */
uint32_t takeover_generation(const struct replica *rep, uint32_t generation)
{
    const struct map_volume *v = replica_volume(rep);
    replica_assert(rep);
    if (!v || generation > v->generation)
        return generation;
    uint32_t heir = map_live_heir(v, generation);
    assert(heir == 0 || heir >= generation);
    if (v->rollback.from < generation && generation < v->rollback.to && heir >= v->rollback.to)
        return 0;
    return heir;
}

static void copy_more(struct replica *rep)
{
    replica_assert(rep);
    struct takeover *t = &rep->takeover;
    while (t->range_next < t->range_count && t->copies_busy < COPIES_MAX) {
        struct takeover_range range = t->ranges[t->range_next++];
        if (takeover_generation(rep, range.generation) == 0)
            continue;
        t->copies_busy++;
        (void)heal_start(rep, range.start, range.end, range.generation, true, copied, NULL);
    }
    if (t->copies_busy == 0 && t->range_next == t->range_count)
        takeover_activate(rep);
}

static void takeover_copy(struct replica *rep)
{
    replica_assert(rep);
    struct takeover *t = &rep->takeover;
    assert(rep->phase == PHASE_RAISING && t->restamped && rep->drive_writes == 0);
    list_for_each(pos, &rep->window)
    {
        const struct window_entry *e = list_entry(pos, struct window_entry, link);
        assert(!e->busy);
        add_range(t, e->offset, e->offset + e->length, e->generation);
    }
    merge_ranges(t);
    t->range_next = 0;
    if (t->raise_count == 0 || MUTANT(takeover_copies_nothing))
        t->range_count = 0; /* nobody to be made equal */
    rep->phase = PHASE_COPYING;
    log_debug("volume %llu shard %u epoch %llu: takeover copies %u ranges", (unsigned long long)rep->volume, rep->index,
              (unsigned long long)rep->map.epoch, t->range_count);
    copy_more(rep);
}

/* ---- ACTIVATING ---- */

struct activation {
    struct replica_proposal proposal;
    struct replicas *set;
    uint32_t count;
    struct map_active actives[ACTIVES_MAX];
};

static void activated(struct replica_proposal *p, const struct map_result *result)
{
    assert(result != NULL && p->owner != NULL);
    struct activation *a = p->owner;
    assert(a->set->activations > 0);
    a->set->activations--;
    /* Success shows in the map (replicas_shard_changed); what it did not cover is proposed again by the tick (R4). */
    for (uint32_t i = 0; i < a->count; i++) {
        struct replica *rep = replica_find(a->set, a->actives[i].volume, a->actives[i].shard);
        if (rep && rep->phase == PHASE_ACTIVATING && rep->map.epoch == a->actives[i].epoch)
            rep->takeover.proposed = false;
    }
    if (result->rc != 0 && result->rc != -ESTALE)
        log_warn("activation of %u shards: %s", a->count, strerror(-result->rc));
    free(a);
}

void takeover_active_flush(struct env_task *task)
{
    struct replicas *r = list_entry(task, struct replicas, activate_task);
    while (!list_empty(&r->activate)) {
        struct activation *a = malloc(sizeof(*a));
        if (!a)
            abort();
        a->set = r;
        a->count = 0;
        a->proposal = (struct replica_proposal){.cb = activated, .owner = a};
        r->activations++;
        struct list_node *node;
        while (a->count < ACTIVES_MAX && (node = list_pop_front(&r->activate))) {
            struct replica *rep = list_entry(node, struct replica, activate_link);
            a->actives[a->count++] =
                (struct map_active){.volume = rep->volume, .shard = rep->index, .epoch = rep->map.epoch};
        }
        struct map_entry entry = {
            .kind = MAP_ENTRY_EPOCH_ACTIVE,
            .node = r->cfg.node,
            .incarnation = r->cfg.incarnation,
            .actives = a->actives,
            .active_count = a->count,
        };
        r->cfg.callbacks.propose(r->cfg.arg, &entry, &a->proposal);
    }
}

static void takeover_activate(struct replica *rep)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    assert(rep->phase == PHASE_COPYING || rep->phase == PHASE_ACTIVATING);
    assert(rep->takeover.copies_busy == 0);
    rep->phase = PHASE_ACTIVATING;
    if (MUTANT(serve_before_active) && rep->map.active_epoch < rep->map.epoch)
        rep->map.active_epoch = rep->map.epoch;
    if (rep->map.active_epoch == rep->map.epoch) {
        takeover_serve(rep);
        return;
    }
    rep->takeover.proposed = true;
    if (!list_linked(&rep->activate_link))
        list_push_back(&r->activate, &rep->activate_link);
    env_defer(r->env, &r->activate_task, takeover_active_flush);
}

/* ---- SERVING ---- */

void takeover_tell_done(struct replica *rep, uint32_t node)
{
    assert(node <= MAP_NODES_MAX);
    replica_assert(rep);
    struct wire_header h;
    replica_header(rep, &h, WIRE_TAKEOVER_DONE);
    peers_notify(rep->set->cfg.peers, node, &h);
}

void takeover_serve(struct replica *rep)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    assert(rep->map.active_epoch == rep->map.epoch); /* R12 */
    assert(rep->map.primary == r->cfg.node);         /* I3 */
    takeover_cancel(rep);
    rep->phase = PHASE_SERVING;
    rep->serving_since_ns = env_now_ns(r->env);
    for (uint32_t i = 0; i < rep->map.member_count; i++)
        if (rep->map.members[i].node != r->cfg.node && (rep->map.members[i].flags & MAP_MEMBER_IN_SYNC))
            takeover_tell_done(rep, rep->map.members[i].node);
    window_retire_older(rep, rep->map.epoch);
    store_epoch_committed(rep->shard, rep->map.epoch - 1);
    if (rep->map.epoch > 1) { /* R13: what an earlier primary acknowledged may not be flushed yet */
        rep->acked_writes++;
        flush_mark_dirty(rep);
        log_info("volume %llu shard %u: serving as primary in epoch %llu", (unsigned long long)rep->volume, rep->index,
                 (unsigned long long)rep->map.epoch);
    }
    seal_serve(rep);
    ops_resume(rep);
    sync_refresh(rep);
}
