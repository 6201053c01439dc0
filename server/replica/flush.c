/* SPDX-License-Identifier: Apache-2.0 */
/* flush: makes every acknowledged write of a volume durable on every in_sync member (I2, R13).
 *
 * - flush_submit: joins the volume's next job; one job a volume runs, those that come meanwhile share the following one.
 * - job_run: notes (shard, epoch, acknowledged writes) of the dirty shards, sends MEMBER_FLUSH once to each member node (joiners, too), flushes
 *   the own store in parallel.
 * - job_judge: counts only if each shard's epoch of the beginning is still the one in force and serving; else it is repeated.
 * Failures: a member out of reach or with a failing drive: the epoch will change; the job runs again after that.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mutant.h"
#include "server/replica/replica_internal.h"

#define LOG_MODULE "replica"
#define FLUSH_SHARDS_STEP 64u

struct flush_note {
    uint32_t shard;
    uint64_t epoch;
    uint64_t acked;
};

struct flush_node {
    uint32_t node;
    bool busy;
    int rc;
    struct peer_request request;
    struct flush_job *job;
};

struct flush_job {
    struct list_node link; /* replicas->flush_jobs */
    struct replicas *set;
    uint64_t volume;
    bool running, again;
    struct list_node ops; /* answered by this job */
    struct list_node next_ops;
    struct flush_note *notes;
    uint32_t note_count, note_capacity;
    uint32_t node_count;
    struct flush_node nodes[MAP_NODES_MAX];
    bool own_busy;
    int own_rc;
    struct store_flush own;
    struct env_timer timer;
};

static void job_assert(const struct flush_job *job)
{
    assert(job != NULL && job->set != NULL);
    assert(job->node_count <= MAP_NODES_MAX);
    assert(job->note_count <= job->note_capacity);
}

static void job_run(struct flush_job *job);

void flush_mark_dirty(struct replica *rep)
{
    replica_assert(rep);
    if (!list_linked(&rep->dirty_link))
        list_push_back(&rep->set->dirty, &rep->dirty_link);
}

static bool note_shard(struct flush_job *job, const struct replica *rep)
{
    replica_assert(rep);
    job_assert(job);
    if (job->note_count == job->note_capacity) {
        uint32_t capacity = job->note_capacity + FLUSH_SHARDS_STEP;
        struct flush_note *notes = realloc(job->notes, capacity * sizeof(*notes));
        if (!notes)
            return false;
        job->notes = notes;
        job->note_capacity = capacity;
    }
    job->notes[job->note_count++] =
        (struct flush_note){.shard = rep->index, .epoch = rep->map.epoch, .acked = rep->acked_writes};
    return true;
}

/* A joiner, too: what is flushed after its own flush of SYNC_JOIN began must be durable there before it may be added (R13, R17). */
static bool must_flush(const struct replica *rep, const struct map_member *m)
{
    bool joining = false;
    replica_assert(rep);
    if (m->node == rep->set->cfg.node)
        return false;
    return (m->flags & MAP_MEMBER_IN_SYNC) ||
           (sync_is_target(rep, m->node, &joining) && joining && !MUTANT(flush_forgets_the_joiner));
}

static void note_nodes(struct flush_job *job, const struct replica *rep)
{
    replica_assert(rep);
    job_assert(job);
    for (uint32_t i = 0; i < rep->map.member_count; i++) {
        const struct map_member *m = &rep->map.members[i];
        if (!must_flush(rep, m))
            continue;
        uint32_t k = 0;
        while (k < job->node_count && job->nodes[k].node != m->node)
            k++;
        if (k == job->node_count) {
            assert(k < MAP_NODES_MAX);
            job->nodes[job->node_count++] = (struct flush_node){.node = m->node, .job = job};
        }
    }
}

static void job_retry(struct env_timer *timer)
{
    job_run(list_entry(timer, struct flush_job, timer));
}

static void job_wait(struct flush_job *job)
{
    job_assert(job);
    env_timer_start(job->set->env, &job->timer, REPLICA_RETRY_NS, job_retry);
}

static void job_free(struct flush_job *job)
{
    assert(list_empty(&job->ops) && list_empty(&job->next_ops));
    env_timer_stop(job->set->env, &job->timer);
    list_remove(&job->link);
    free(job->notes);
    free(job);
}

static void job_end(struct flush_job *job)
{
    job_assert(job);
    struct replicas *r = job->set;
    struct list_node done;
    list_head_init(&done);
    struct list_node *node;
    job->running = false;
    while ((node = list_pop_front(&job->ops)))
        list_push_back(&done, node);
    while ((node = list_pop_front(&job->next_ops)))
        list_push_back(&job->ops, node);
    uint64_t now = env_now_ns(r->env);
    while ((node = list_pop_front(&done))) {
        struct replica_op *op = list_entry(node, struct replica_op, link);
        r->stats.flushes++;
        histogram_record(&r->stats.flush_total, now - op->t_submit);
        op_complete_later(r, op, 0);
    }
    if (list_empty(&job->ops))
        job_free(job);
    else
        job_run(job);
}

/* R13: judged by the epochs in force now, not by the set it started with. */
static bool note_holds(struct flush_job *job, const struct flush_note *note)
{
    job_assert(job);
    struct replica *rep = replica_find(job->set, job->volume, note->shard);
    if (!rep || rep->phase == PHASE_IDLE)
        return true; /* another node's duty now: the gateway sees the new map and asks there */
    if ((rep->map.epoch != note->epoch || rep->phase != PHASE_SERVING) && !MUTANT(flush_judged_by_its_beginning))
        return false;
    const struct map_volume *v = replica_volume(rep);
    if (!v || map_in_sync_count(&rep->map) < v->min_replicas)
        return false;
    if (map_in_sync_count(&rep->map) == 1 && !replica_lease_valid(rep))
        return false;
    assert(note->acked <= rep->acked_writes);
    if (rep->flushed_writes < note->acked)
        rep->flushed_writes = note->acked;
    if (rep->flushed_writes == rep->acked_writes && list_linked(&rep->dirty_link))
        list_remove(&rep->dirty_link);
    return true;
}

static void job_judge(struct flush_job *job)
{
    job_assert(job);
    bool held = job->own_rc == 0;
    if (job->own_busy)
        return;
    for (uint32_t i = 0; i < job->node_count; i++) {
        if (job->nodes[i].busy)
            return;
        held = held && job->nodes[i].rc == 0;
    }
    for (uint32_t i = 0; held && i < job->note_count; i++)
        held = note_holds(job, &job->notes[i]);
    if (held)
        job_end(job);
    else
        job_wait(job);
}

static void member_flushed(struct peer_request *req, int rc)
{
    assert(rc <= 0);
    assert(req->owner != NULL);
    struct flush_node *node = req->owner;
    struct replicas *r = node->job->set;
    node->busy = false;
    node->rc = rc;
    if (rc == -EIO) { /* its store failed: out of every shard it serves with us */
        for (uint32_t i = 0; i < node->job->note_count; i++) {
            struct replica *rep = replica_find(r, node->job->volume, node->job->notes[i].shard);
            if (rep && rep->phase != PHASE_IDLE)
                member_failed(rep, node->node);
        }
    }
    job_judge(node->job);
}

static void own_flushed(struct store_flush *req, int rc)
{
    assert(rc <= 0);
    struct flush_job *job = req->owner;
    assert(job->own_busy && job->set->flushes > 0);
    job->set->flushes--;
    job->own_busy = false;
    job->own_rc = rc;
    if (job->set->closing)
        job_free(job);
    else
        job_judge(job);
}

/* Dirty shards of the volume; false: one of them is between epochs, wait. */
static bool job_note(struct flush_job *job)
{
    job_assert(job);
    struct replicas *r = job->set;
    job->note_count = job->node_count = 0;
    list_for_each(pos, &r->dirty)
    {
        struct replica *rep = list_entry(pos, struct replica, dirty_link);
        if (rep->volume != job->volume)
            continue;
        if (rep->phase != PHASE_SERVING || !note_shard(job, rep))
            return false;
        note_nodes(job, rep);
    }
    return true;
}

static void job_run(struct flush_job *job)
{
    job_assert(job);
    struct replicas *r = job->set;
    assert(!job->own_busy);
    job->running = true;
    if (!job_note(job)) {
        job_wait(job);
        return;
    }
    if (job->note_count == 0) {
        job_end(job);
        return;
    }
    job->own_busy = true;
    for (uint32_t i = 0; i < job->node_count; i++) {
        struct flush_node *node = &job->nodes[i];
        struct wire_header h = {.opcode = WIRE_MEMBER_FLUSH, .volume = job->volume};
        node->request = (struct peer_request){.cb = member_flushed, .owner = node};
        node->busy = !MUTANT(flush_asks_nobody);
        if (!node->busy)
            continue;
        peers_request(r->cfg.peers, node->node, &h, NULL, NULL, 0, &node->request);
    }
    job->own = (struct store_flush){.cb = own_flushed, .owner = job};
    r->flushes++;
    store_flush(r->cfg.store, &job->own);
}

static struct flush_job *job_of(struct replicas *r, uint64_t volume)
{
    set_assert(r);
    list_for_each(pos, &r->flush_jobs)
    {
        struct flush_job *job = list_entry(pos, struct flush_job, link);
        if (job->volume == volume)
            return job;
    }
    struct flush_job *job = calloc(1, sizeof(*job));
    if (!job)
        return NULL;
    job->set = r;
    job->volume = volume;
    list_head_init(&job->ops);
    list_head_init(&job->next_ops);
    list_push_back(&r->flush_jobs, &job->link);
    return job;
}

static void job_start_task(struct env_task *task)
{
    struct replica_op *op = list_entry(task, struct replica_op, task);
    struct flush_job *job = op->impl;
    op->impl = NULL;
    if (!job) /* flush_cancel_all was faster */
        op->cb(op, -ESTALE);
    else if (!job->running)
        job_run(job);
}

void flush_submit(struct replicas *r, struct replica_op *op)
{
    set_assert(r);
    struct flush_job *job = job_of(r, op->volume);
    if (!job) {
        op_complete_later(r, op, -ENOMEM);
        return;
    }
    bool first = !job->running && list_empty(&job->ops);
    list_push_back(job->running ? &job->next_ops : &job->ops, &op->link);
    if (first) { /* a turn later: what arrives together is flushed together */
        op->impl = job;
        env_defer(r->env, &op->task, job_start_task);
    }
}

void flush_after_write(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replicas *r = ctx->replica->set;
    struct replica_op *op = ctx->op;
    ctx->op = NULL; /* the write is on every member: its lock is free, the answer waits for the flush */
    op_finish(ctx, 0);
    op->impl = NULL;
    flush_submit(r, op);
}

void flush_map_changed(struct replicas *r)
{
    set_assert(r);
    (void)r; /* jobs that wait look again by their timer */
}

void flush_cancel_all(struct replicas *r)
{
    set_assert(r);
    list_for_each_safe(pos, tmp, &r->flush_jobs)
    {
        struct flush_job *job = list_entry(pos, struct flush_job, link);
        struct list_node *node;
        for (uint32_t i = 0; i < job->node_count; i++)
            if (job->nodes[i].busy)
                peers_abandon(r->cfg.peers, &job->nodes[i].request);
        job->node_count = 0;
        env_timer_stop(r->env, &job->timer);
        /* Nothing was made durable for them: another primary must be asked (I2). */
        while ((node = list_pop_front(&job->ops)) || (node = list_pop_front(&job->next_ops))) {
            struct replica_op *op = list_entry(node, struct replica_op, link);
            if (op->impl)
                op->impl = NULL; /* job_start_task, which is on its way, ends it */
            else
                op_complete_later(r, op, -ESTALE);
        }
        if (!job->own_busy)
            job_free(job); /* else own_flushed does */
    }
}

/* ---- member's side ---- */

struct member_flush {
    struct store_flush flush;
    struct replicas *set;
    struct peer_source source;
    struct msg *msg;
};

static void member_flush_done(struct store_flush *req, int rc)
{
    assert(rc <= 0);
    struct member_flush *mf = req->owner;
    struct wire_header reply = {.status = rc};
    assert(mf->set->flushes > 0);
    mf->set->flushes--;
    peers_reply(mf->set->cfg.peers, &mf->source, &mf->msg->header, &reply, NULL, NULL, 0);
    msg_free(mf->msg);
    free(mf);
}

void flush_message(struct replicas *r, const struct peer_source *source, struct msg *msg)
{
    assert(source->node <= MAP_NODES_MAX);
    assert(msg != NULL);
    set_assert(r);
    struct member_flush *mf = calloc(1, sizeof(*mf));
    if (!mf) {
        msg_free(msg); /* no answer: the primary asks again after its time-out or a new link */
        return;
    }
    mf->set = r;
    mf->source = *source;
    mf->msg = msg;
    mf->flush.cb = member_flush_done;
    mf->flush.owner = mf;
    r->flushes++;
    store_flush(r->cfg.store, &mf->flush);
}
