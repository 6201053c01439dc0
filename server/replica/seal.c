/* SPDX-License-Identifier: Apache-2.0 */
/* seal: how a primary lets one generation end and the next one begin (R20, I10).
 *
 *   the map opens generation g+1 ──▶ seal_refresh ──▶ floor = g+1: writes stamped <= g are bounced, those under way drain
 *        ──▶ drained ──▶ FLUSH of the volume: what g holds is durable on every member ──▶ SNAPSHOT_SEALED is proposed
 *
 * - Stamps come from the session's one gateway and only grow, so the writes that were accepted with <= g are a cut over all shards that
 *   a crash could have left, wherever each primary draws its line. It is drawn when the gateway is known to stamp g+1:
 *   by its word (WIRE_SEAL), by a write with that stamp, because it is this node's, because there is none, or after a while.
 * - seal_admit: a write of g+1 waits until none of g is under way in its chunk, so that an uncommitted write is always of its chunk's
 *   newest generation. Nothing else waits: the pause is that of one write, and of its neighbours only.
 * Failure: what gets lost on the way is done again by the tick; a shard that cannot serve seals nothing, and the leader gives the
 * snapshot up after a while. Nothing is frozen meanwhile.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mutant.h"
#include "server/replica/replica_internal.h"

#define LOG_MODULE "seal"
#define SEAL_UNTOLD_NS ENV_MS(150) /* the gateway's word may be lost: without it the line is drawn after this */

struct seal_item {
    uint32_t shard;
    uint64_t epoch;
};

/* The shards of one volume whose older writes have drained, on their way into the map. */
struct seal_job {
    struct replicas *set;
    struct replica_op flush;
    struct replica_proposal proposal;
    uint64_t volume;
    uint32_t generation;
    uint32_t count;
    struct seal_item items[];
};

/* ---- the line between two generations ---- */

static bool older_under_way(const struct replica *rep)
{
    replica_assert(rep);
    list_for_each(pos, &rep->sent)
    {
        const struct op_ctx *ctx = list_entry(pos, struct op_ctx, sent_link);
        if (ctx->generation < rep->floor && ctx->kind != CTX_COPY) /* copies hold their whole chunk */
            return true;
    }
    return false;
}

/* Is an older write under way in one of the chunks of that range? */
static bool older_near(const struct replica *rep, uint64_t offset, uint64_t length)
{
    replica_assert(rep);
    assert(length > 0);
    uint64_t first = offset / STORE_CHUNK_BYTES, last = (offset + length - 1) / STORE_CHUNK_BYTES;
    list_for_each(pos, &rep->sent)
    {
        const struct op_ctx *ctx = list_entry(pos, struct op_ctx, sent_link);
        if (ctx->generation >= rep->floor || ctx->kind == CTX_COPY)
            continue;
        if (ctx->offset / STORE_CHUNK_BYTES <= last && (ctx->offset + ctx->length - 1) / STORE_CHUNK_BYTES >= first)
            return true;
    }
    return false;
}

bool seal_waits(const struct op_ctx *ctx)
{
    ctx_assert(ctx);
    return ctx->replica->draining && !MUTANT(newer_writes_do_not_wait) &&
           older_near(ctx->replica, ctx->lock.start, ctx->lock.end - ctx->lock.start);
}

static void draw_line(struct replica *rep, uint32_t floor)
{
    replica_assert(rep);
    assert(floor > rep->floor);
    rep->floor = floor;
    rep->draining = older_under_way(rep);
}

int seal_admit(struct op_ctx *ctx, const struct map_volume *v)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    uint32_t stamp = ctx->op->generation ? ctx->op->generation : v->generation;
    if (stamp > v->generation)
        return -EINVAL; /* R3: who stamps so named a map that we have */
    if (stamp < rep->floor && !MUTANT(obey_sealed_stamp))
        return -ESTALE;
    const struct map_snap *opening = map_snap_opening(v);
    if (MUTANT(generation_late_on_one_shard) && opening && rep->index == 0 && rep->floor <= opening->generation)
        stamp = opening->generation;
    if (MUTANT(generation_early_on_one_shard) && opening && rep->index == 0)
        stamp = v->generation;
    if (ctx->generation != stamp)
        reserve_release(ctx); /* another generation may need other space */
    ctx->generation = stamp;
    if (stamp > rep->floor)
        draw_line(rep, stamp);
    if (!seal_waits(ctx)) {
        if (ctx->held_ns != 0)
            histogram_record(&rep->set->stats.seal_pause, env_now_ns(rep->set->env) - ctx->held_ns);
        ctx->held_ns = 0;
        return 0;
    }
    if (ctx->held_ns == 0)
        ctx->held_ns = env_now_ns(rep->set->env);
    return -EINPROGRESS;
}

int seal_read_generation(struct op_ctx *ctx, const struct map_volume *v)
{
    ctx_assert(ctx);
    uint32_t generation = ctx->op->generation;
    ctx->generation = generation ? generation : v->generation;
    if (generation == 0 || generation == v->generation)
        return 0;
    const struct map_snap *snap = map_snap_by_generation(v, generation);
    return snap && snap->state == MAP_SNAP_COMPLETE ? 0 : -ENOENT;
}

/* What was read in a generation that was deleted meanwhile may be older, or nothing (a clone that was flattened): a copy there would
 * become what later generations read on a member. So whoever copies asks when the read has ended. */
bool seal_generation_live(const struct replica *rep, uint32_t generation)
{
    replica_assert(rep);
    const struct map_volume *v = replica_volume(rep);
    /* No volume: all of it goes. A later generation: this node's map is behind. */
    return !v || generation >= v->generation || map_live_heir(v, generation) == generation;
}

/* Writes that waited for the older ones begin, in their order. */
static void start_held(struct replica *rep)
{
    replica_assert(rep);
    bool started = true;
    while (started && rep->phase == PHASE_SERVING) {
        started = false;
        list_for_each(pos, &rep->ops)
        {
            struct op_ctx *ctx = list_entry(pos, struct op_ctx, link);
            if (ctx->state != CTX_HELD || ctx->kind != CTX_CLIENT || ctx->op->opcode == WIRE_READ || seal_waits(ctx))
                continue;
            op_start(ctx); /* may end it: start over */
            started = true;
            break;
        }
    }
}

static void drained(struct replica *rep)
{
    replica_assert(rep);
    if (!rep->draining || rep->phase != PHASE_SERVING)
        return;
    rep->draining = older_under_way(rep);
    start_held(rep);
    if (!rep->draining)
        seal_refresh(rep);
}

void seal_drained_task(struct env_task *task)
{
    struct replicas *r = list_entry(task, struct replicas, drained_task);
    set_assert(r);
    const struct map_u64_slot *slot;
    for (uint32_t at = 0; !r->closing && (slot = map_u64_next(&r->by_shard, &at));)
        drained(slot->value);
}

/* ---- sealing ---- */

static void proposal_done(struct replica_proposal *p, const struct map_result *result)
{
    assert(result != NULL && p->owner != NULL);
    struct seal_job *job = p->owner;
    struct replicas *r = job->set;
    assert(r->seals > 0);
    r->seals--;
    for (uint32_t i = 0; i < job->count; i++) {
        struct replica *rep = replica_find(r, job->volume, job->items[i].shard);
        if (rep)
            rep->sealing = false; /* what the map did not take is done again by the tick */
    }
    free(job);
}

static void job_flushed(struct replica_op *op, int rc)
{
    assert(rc <= 0);
    struct seal_job *job = op->owner;
    struct replicas *r = job->set;
    struct map_result failed = {.rc = rc};
    struct map_run *runs = rc == 0 ? calloc(job->count, sizeof(*runs)) : NULL;
    uint32_t count = 0;
    if (!runs || r->closing) {
        free(runs);
        proposal_done(&job->proposal, &failed);
        return;
    }
    for (uint32_t i = 0; i < job->count; i++) {
        const struct seal_item *item = &job->items[i];
        struct map_run *last = count > 0 ? &runs[count - 1] : NULL;
        if (last && last->epoch == item->epoch && last->first + last->count == item->shard)
            last->count++;
        else
            runs[count++] = (struct map_run){.volume = job->volume,
                                             .first = item->shard,
                                             .count = 1,
                                             .epoch = item->epoch,
                                             .generation = job->generation};
    }
    struct map_entry entry = {
        .kind = MAP_ENTRY_SNAPSHOT_SEALED,
        .node = r->cfg.node,
        .incarnation = r->cfg.incarnation,
        .runs = runs,
        .run_count = count < SEAL_RUNS_MAX ? count : SEAL_RUNS_MAX,
    };
    r->cfg.callbacks.propose(r->cfg.arg, &entry, &job->proposal);
    free(runs);
}

static int by_shard(const void *a, const void *b)
{
    const struct seal_item *x = a, *y = b;
    return x->shard < y->shard ? -1 : x->shard > y->shard;
}

/* All drained shards of the volume of the first one in the list. */
static void start_job(struct replicas *r)
{
    set_assert(r);
    const struct replica *first = list_entry(r->drained.next, struct replica, seal_link);
    uint64_t volume = first->volume;
    uint32_t count = 0, generation = first->floor - 1;
    list_for_each(pos, &r->drained) count += list_entry(pos, struct replica, seal_link)->volume == volume;
    struct seal_job *job = calloc(1, sizeof(*job) + count * sizeof(job->items[0]));
    if (!job)
        abort();
    *job = (struct seal_job){.set = r, .volume = volume, .generation = generation};
    list_for_each_safe(pos, tmp, &r->drained)
    {
        struct replica *rep = list_entry(pos, struct replica, seal_link);
        if (rep->volume != volume)
            continue;
        assert(job->count < count);
        job->items[job->count++] = (struct seal_item){.shard = rep->index, .epoch = rep->map.epoch};
        list_remove(&rep->seal_link);
    }
    qsort(job->items, job->count, sizeof(job->items[0]), by_shard);
    job->proposal = (struct replica_proposal){.cb = proposal_done, .owner = job};
    job->flush = (struct replica_op){.opcode = WIRE_FLUSH, .volume = volume, .cb = job_flushed, .owner = job};
    r->seals++;
    if (MUTANT(seal_without_flush)) {
        job_flushed(&job->flush, 0);
        return;
    }
    replicas_submit(r, &job->flush);
}

static void seal_task(struct env_task *task)
{
    struct replicas *r = list_entry(task, struct replicas, seal_task);
    set_assert(r);
    while (!list_empty(&r->drained))
        start_job(r);
}

static bool gateway_stamps_new(const struct replica *rep, const struct map_volume *v)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    if (!map_session_alive(r->cfg.map, v) || v->session.gateway == r->cfg.node || rep->floor == v->generation)
        return true;
    return rep->seal_told == v->generation || env_now_ns(r->env) - rep->seal_since_ns >= SEAL_UNTOLD_NS;
}

void seal_refresh(struct replica *rep)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    const struct map_volume *v = replica_volume(rep);
    if (!v || rep->phase != PHASE_SERVING || r->closing)
        return;
    uint32_t floor = map_shard_floor(v, &rep->map);
    if (rep->floor < floor)
        draw_line(rep, floor);
    const struct map_snap *opening = map_snap_opening(v);
    if (!opening || rep->map.sealed >= opening->generation) {
        rep->seal_since_ns = 0;
        return;
    }
    if (rep->seal_since_ns == 0)
        rep->seal_since_ns = env_now_ns(r->env);
    if (rep->sealing || !gateway_stamps_new(rep, v))
        return;
    if (rep->floor < v->generation)
        draw_line(rep, v->generation);
    if (rep->draining && !MUTANT(seal_without_drain))
        return; /* drained comes back */
    rep->sealing = true;
    list_push_back(&r->drained, &rep->seal_link);
    env_defer(r->env, &r->seal_task, seal_task);
}

/* Serving begins: the line is where the map and this node's own memory say, whichever is later. */
void seal_serve(struct replica *rep)
{
    replica_assert(rep);
    assert(rep->phase == PHASE_SERVING);
    rep->draining = older_under_way(rep);
    seal_refresh(rep);
}

void seal_step_down(struct replica *rep)
{
    replica_assert(rep);
    rep->draining = false;
    if (list_linked(&rep->seal_link)) {
        list_remove(&rep->seal_link);
        rep->sealing = false;
    }
}

void seal_tick(struct replica *rep)
{
    replica_assert(rep);
    drained(rep);
    seal_refresh(rep);
}

/* WIRE_SEAL: the volume's gateway stamps that generation from now on. */
void seal_told(struct replicas *r, uint64_t volume, uint32_t generation)
{
    set_assert(r);
    const struct map_volume *v = map_volume_by_id(r->cfg.map, volume);
    if (!v || generation != v->generation || !map_snap_opening(v))
        return;
    for (uint32_t i = 0; i < v->shard_count; i++) {
        struct replica *rep = replica_find(r, volume, i);
        if (!rep || rep->phase != PHASE_SERVING)
            continue;
        rep->seal_told = generation;
        seal_refresh(rep);
    }
}

/* ---- following the map ---- */

/* The volume's snapshots changed: what must stay readable, and what is to be sealed. */
void seal_volume_changed(struct replicas *r, const struct map_volume *v)
{
    set_assert(r);
    uint32_t *live = malloc((v->snap_count + 1u) * sizeof(*live));
    if (!live)
        abort();
    uint32_t count = map_live_generations(v, live);
    for (uint32_t i = 0; i < v->shard_count; i++) {
        struct replica *rep = replica_find(r, v->id, i);
        if (!rep || !rep->shard || rep->map.epoch == UINT64_MAX)
            continue;
        rep->map.sealed = v->shards[i].sealed;
        seal_generations(rep, live, count);
        seal_refresh(rep);
    }
    free(live);
}

/* live NULL: of its volume. */
void seal_generations(struct replica *rep, const uint32_t *live, uint32_t count)
{
    replica_assert(rep);
    const struct map_volume *v = replica_volume(rep);
    uint32_t *own = NULL;
    assert(rep->shard != NULL);
    if (!live && v) {
        own = malloc((v->snap_count + 1u) * sizeof(*own));
        if (!own)
            abort();
        count = map_live_generations(v, own);
        live = own;
    }
    if (live && count > 0)
        store_generations(rep->shard, live, count); /* which compares it with the one it has */
    free(own);
}
