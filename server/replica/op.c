/* SPDX-License-Identifier: Apache-2.0 */
/* op: client operations at the primary, from admission to answer.
 *
 * - replicas_submit: not primary -> -ESTALE; not serving -> parked; else op_admit.
 * - op_admit: takes the block-range lock; op_start runs when it is held.
 * - op_start: and *then* checks phase, session and lease; hands over to read.c or write.c.
 * - op_finish: releases the lock, answers.
 * Failure: losing the role aborts what has not begun with -ESTALE; what has begun waits for its drive write, is then answered
 * -ESTALE and stays in the window for the next primary's takeover (R11).
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "common/mutant.h"
#include "server/replica/replica_internal.h"

#define LOG_MODULE "replica"

static void complete_task(struct env_task *task)
{
    struct replica_op *op = list_entry(task, struct replica_op, task);
    op->cb(op, op->rc);
}

void op_complete_later(struct replicas *r, struct replica_op *op, int rc)
{
    set_assert(r);
    assert(rc <= 0);
    assert(!list_linked(&op->link));
    op->rc = rc;
    env_defer(r->env, &op->task, complete_task);
}

static void answer(struct replicas *r, struct replica_op *op, int rc)
{
    assert(rc <= 0);
    set_assert(r);
    if (r->in_submit)
        op_complete_later(r, op, rc);
    else
        op->cb(op, rc);
}

static int check_range(const struct replica *rep, const struct replica_op *op)
{
    replica_assert(rep);
    const struct map_volume *v = replica_volume(rep);
    if (!v)
        return -ESTALE;
    uint64_t shard_end = v->size - v->shard_bytes * rep->index;
    if (shard_end > v->shard_bytes)
        shard_end = v->shard_bytes;
    shard_end = (shard_end + STORE_BLOCK_BYTES - 1) / STORE_BLOCK_BYTES * STORE_BLOCK_BYTES;
    if (op->length == 0 || op->offset > shard_end || op->length > shard_end - op->offset)
        return -EINVAL;
    bool aligned = op->offset % STORE_BLOCK_BYTES == 0 && op->length % STORE_BLOCK_BYTES == 0;
    uint64_t span = op->opcode == WIRE_ZERO ? STORE_REGION_BYTES : STORE_CHUNK_BYTES;
    if (op->offset / span != (op->offset + op->length - 1) / span)
        return -EINVAL;
    if (!aligned && (op->opcode != WIRE_WRITE ||
                     op->offset / STORE_BLOCK_BYTES != (op->offset + op->length - 1) / STORE_BLOCK_BYTES))
        return -EINVAL;
    return 0;
}

void replicas_submit(struct replicas *r, struct replica_op *op)
{
    set_assert(r);
    assert(op->cb != NULL);
    assert(op->opcode == WIRE_READ || op->opcode == WIRE_WRITE || op->opcode == WIRE_ZERO || op->opcode == WIRE_FLUSH);
    op->t_submit = env_now_ns(r->env);
    memset(op->stage_ns, 0, sizeof(op->stage_ns));
    memset(&op->link, 0, sizeof(op->link));
    op->loss_number = 0;
    if (op->opcode == WIRE_FLUSH) {
        flush_submit(r, op);
        return;
    }
    struct replica *rep = replica_find(r, op->volume, op->shard);
    if (!rep || rep->phase == PHASE_IDLE) {
        op_complete_later(r, op, -ESTALE);
        return;
    }
    int rc = check_range(rep, op);
    if (rc != 0) {
        op_complete_later(r, op, rc);
        return;
    }
    if (rep->phase != PHASE_SERVING) {
        list_push_back(&rep->parked, &op->link);
        r->stats.parked_ops++;
        return;
    }
    r->in_submit = true;
    op_admit(rep, op);
    r->in_submit = false;
}

/* ---- lock and start ---- */

void ctx_lock_granted(struct range_lock *lock)
{
    struct op_ctx *ctx = list_entry(lock, struct op_ctx, lock);
    assert(ctx->state == CTX_WAITING);
    ctx->state = CTX_HELD;
    op_start(ctx);
}

void ctx_begin(struct replica *rep, struct op_ctx *ctx, uint64_t start, uint64_t end, bool exclusive)
{
    replica_assert(rep);
    ctx_assert(ctx);
    assert(start % STORE_BLOCK_BYTES == 0 && end % STORE_BLOCK_BYTES == 0);
    ctx->state = CTX_WAITING;
    ctx->lock.start = start;
    ctx->lock.end = end;
    ctx->lock.exclusive = exclusive;
    ctx->lock.granted = ctx_lock_granted;
    if (!list_linked(&ctx->link))
        list_push_back(&rep->ops, &ctx->link);
    if (range_lock_acquire(rep, &ctx->lock)) {
        ctx->state = CTX_HELD;
        op_start(ctx);
    }
}

void op_admit(struct replica *rep, struct replica_op *op)
{
    replica_assert(rep);
    assert(rep->phase == PHASE_SERVING);
    struct op_ctx *ctx = ctx_alloc(rep);
    ctx->kind = CTX_CLIENT;
    ctx->op = op;
    ctx->session = op->session;
    ctx->wire_op = op->opcode;
    ctx->wire_flags = op->flags & (WIRE_F_NO_HOLE | WIRE_F_TRIM);
    op->impl = ctx;
    uint64_t start = op->offset / STORE_BLOCK_BYTES * STORE_BLOCK_BYTES;
    uint64_t end = (op->offset + op->length + STORE_BLOCK_BYTES - 1) / STORE_BLOCK_BYTES * STORE_BLOCK_BYTES;
    ctx->offset = start;
    ctx->length = (uint32_t)(end - start);
    ctx_begin(rep, ctx, start, end, op->opcode != WIRE_READ);
}

static void start_client(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    struct replica_op *op = ctx->op;
    const struct map_volume *v = replica_volume(rep);
    if (!v) {
        op_finish(ctx, -ESTALE);
        return;
    }
    /* I6: once a newer session was acknowledged, an older one changes (and reads) nothing. */
    if (op->session != 0 && op->session != v->session.number && !MUTANT(obey_older_session)) {
        op_finish(ctx, op->session < v->session.number ? -EPERM : -ESTALE);
        return;
    }
    /* I8: a frame of an earlier time in office; its sender may long have had it done by the primary between. */
    if (op->epoch != 0 && op->epoch < rep->office_epoch && !MUTANT(obey_frame_of_earlier_office)) {
        op_finish(ctx, -ESTALE);
        return;
    }
    int rc = op->opcode == WIRE_READ ? seal_read_generation(ctx, v) : seal_admit(ctx, v);
    if (rc == -EINPROGRESS)
        return; /* R20: goes on, with its lock, when the writes of the generation before ended (seal.c) */
    if (rc != 0) {
        op_finish(ctx, rc);
        return;
    }
    op->loss_number = rep->map.loss_number;
    if (!op->t_start)
        op->t_start = env_now_ns(rep->set->env);
    if (op->opcode == WIRE_READ) {
        if (!replica_lease_valid(rep))
            return; /* R9: parked with its lock until ops_lease_renewed */
        op_read_start(ctx);
    } else {
        op_write_start(ctx);
    }
}

bool op_may_run(const struct op_ctx *ctx)
{
    enum replica_phase phase = ctx->replica->phase;
    assert(!ctx->dead);
    return phase == PHASE_SERVING || (ctx->takeover && phase == PHASE_COPYING) ||
           (ctx->kind == CTX_COPY && phase == PHASE_PARKED);
}

void op_start(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    assert(ctx->unlocked || ctx->lock.held);
    assert(ctx->state == CTX_HELD);
    if (!op_may_run(ctx))
        return; /* R7: goes on when the new epoch serves */
    switch (ctx->kind) {
    case CTX_CLIENT: start_client(ctx); return;
    case CTX_HEAL: heal_run(ctx); return;
    case CTX_COPY: sync_chunk_locked(ctx); return;
    }
}

/* ---- end ---- */

static void unlink_ctx(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    if (list_linked(&ctx->sent_link))
        list_remove(&ctx->sent_link);
    if (list_linked(&ctx->wait_link))
        list_remove(&ctx->wait_link);
    if (list_linked(&ctx->link))
        list_remove(&ctx->link);
    reserve_release(ctx);
    if (list_linked(&ctx->lock.link))
        range_lock_release(rep, &ctx->lock);
}

void ctx_kill(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    ctx->dead = true;
    if (ctx->io_busy || ctx->repair_busy || ctx->task.queued)
        return;
    for (uint32_t i = 0; i < ctx->target_count; i++)
        if (ctx->targets[i].state == TARGET_SENT)
            return;
    ctx_free(ctx);
}

bool ctx_ended_meanwhile(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    assert(ctx->io_busy);
    ctx->io_busy = false;
    if (!ctx->dead)
        return false;
    struct replica_op *op = ctx->op;
    ctx->op = NULL;
    ctx_kill(ctx);
    if (op)
        op->cb(op, op->rc);
    return true;
}

static void record_stats(struct replicas *r, struct replica_op *op, uint64_t now)
{
    set_assert(r);
    uint64_t total = now - op->t_submit;
    op->stage_ns[3] = total > UINT32_MAX ? UINT32_MAX : (uint32_t)total;
    if (op->t_start >= op->t_submit && op->t_start)
        op->stage_ns[0] = (uint32_t)(op->t_start - op->t_submit);
    switch (op->opcode) {
    case WIRE_READ:
        r->stats.reads++;
        r->stats.read_bytes += op->length;
        histogram_record(&r->stats.read_total, total);
        histogram_record(&r->stats.read_drive, op->stage_ns[1]);
        break;
    case WIRE_WRITE:
        r->stats.writes++;
        r->stats.written_bytes += op->length;
        histogram_record(&r->stats.write_total, total);
        histogram_record(&r->stats.write_wait, op->stage_ns[0]);
        histogram_record(&r->stats.write_drive, op->stage_ns[1]);
        histogram_record(&r->stats.write_network, op->stage_ns[2]);
        break;
    default: r->stats.zeroes++; break;
    }
}

void op_finish(struct op_ctx *ctx, int rc)
{
    assert(rc <= 0);
    ctx_assert(ctx);
    struct replicas *r = ctx->replica->set;
    struct replica_op *op = ctx->op;
    assert(!ctx->io_busy);
    ctx->op = NULL;
    unlink_ctx(ctx);
    ctx_kill(ctx);
    if (!op)
        return;
    op->impl = NULL;
    if (rc == 0)
        record_stats(r, op, env_now_ns(r->env));
    answer(r, op, rc);
}

/* The store fails for good (R13), and control takes the role away: ops_abort bounces it to the next primary. Should this be the
 * last copy, the request waits, as all do whose shard has no copy that serves. */
void op_hold(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    assert(!ctx->io_busy && !ctx->repair_busy);
    ctx->state = CTX_PREPARING;
}

/* ---- following phases ---- */

void ops_resume(struct replica *rep)
{
    replica_assert(rep);
    assert(rep->phase == PHASE_SERVING);
    const struct map_volume *v = replica_volume(rep);
    /* R7: every uncommitted write again, to all members of the new epoch, this one included, with new lsns in the old order. */
    struct list_node again;
    list_head_init(&again);
    struct list_node *node;
    while ((node = list_pop_front(&rep->sent)))
        list_push_back(&again, node);
    while ((node = list_pop_front(&again))) {
        struct op_ctx *ctx = list_entry(node, struct op_ctx, sent_link);
        assert(!ctx->io_busy); /* RAISING drained the drive */
        /* Rolled back with everything else: no store takes it any more, and nobody can read it. */
        if (v && ctx->generation < v->rollback.to) {
            op_finish(ctx, -ESTALE);
            continue;
        }
        /* Its snapshot was given up: members may have the chunk's newest record in a later generation by now, from a copy. */
        uint32_t generation = takeover_generation(rep, ctx->generation);
        if (generation != 0)
            ctx->generation = generation;
        if (ctx->kind == CTX_CLIENT && v && ctx->session && ctx->session != v->session.number) {
            ctx->healing = true; /* nobody waits for it any more, but the members must agree */
            ctx->session = 0;
        }
        assert(ctx->kind != CTX_COPY); /* takeover_start ended them */
        if (MUTANT(no_resend_in_new_epoch) && ctx->kind == CTX_CLIENT) {
            ctx->epoch = rep->map.epoch; /* whoever answered in the old epoch will do */
            ctx->n = ++rep->next_n;
            list_push_back(&rep->sent, &ctx->sent_link);
            for (uint32_t i = 0; i < ctx->target_count; i++)
                ctx->targets[i].counted = false;
            write_check_done(ctx);
            continue;
        }
        write_send(ctx, ctx->kind == CTX_CLIENT);
    }
    bool started = true;
    rep->resumes++;
    while (started && rep->phase == PHASE_SERVING) {
        started = false;
        list_for_each(pos, &rep->ops)
        {
            struct op_ctx *ctx = list_entry(pos, struct op_ctx, link);
            if (ctx->state != CTX_HELD || ctx->resumed == rep->resumes)
                continue; /* once: a heal that finds no buffer stays held until the tick */
            ctx->resumed = rep->resumes;
            bool waits =
                ctx->kind == CTX_CLIENT && (ctx->op->opcode == WIRE_READ ? !replica_lease_valid(rep) : seal_waits(ctx));
            if (waits)
                continue;
            op_start(ctx); /* may end it: start over */
            started = true;
            break;
        }
    }
    while (rep->phase == PHASE_SERVING && (node = list_pop_front(&rep->parked))) {
        assert(rep->set->stats.parked_ops > 0);
        rep->set->stats.parked_ops--;
        op_admit(rep, list_entry(node, struct replica_op, link));
    }
}

void ops_lease_renewed(struct replica *rep)
{
    replica_assert(rep);
    if (rep->phase != PHASE_SERVING)
        return;
    bool again = true;
    while (again && replica_lease_valid(rep)) {
        again = false;
        list_for_each(pos, &rep->ops)
        {
            struct op_ctx *ctx = list_entry(pos, struct op_ctx, link);
            if (ctx->state == CTX_HELD && ctx->kind == CTX_CLIENT && ctx->op->opcode == WIRE_READ) {
                op_start(ctx);
                again = true;
                break;
            }
        }
    }
    write_recheck_all(rep);
}

void op_abort(struct op_ctx *ctx, int rc)
{
    assert(rc <= 0);
    ctx_assert(ctx);
    struct replicas *r = ctx->replica->set;
    for (uint32_t i = 0; i < ctx->target_count; i++) {
        if (ctx->targets[i].state == TARGET_SENT)
            peers_abandon(r->cfg.peers, &ctx->targets[i].request);
        ctx->targets[i].state = TARGET_IDLE;
    }
    if (ctx->repair_busy) {
        peers_abandon(r->cfg.peers, &ctx->repair);
        ctx->repair_busy = false;
    }
    struct replica_op *op = ctx->op;
    if (op && ctx->io_busy) {
        op->rc = rc; /* its buffer is with the drive: answered by the completion (ctx_ended_meanwhile) */
        ctx->dead = true;
        unlink_ctx(ctx);
        return;
    }
    void (*done)(struct op_ctx *, int) = ctx->done;
    ctx->op = NULL;
    ctx->done = NULL;
    if (done && ctx->kind != CTX_CLIENT)
        done(ctx, rc);
    unlink_ctx(ctx);
    ctx_kill(ctx);
    if (op)
        op_complete_later(r, op, rc);
}

void ops_abort(struct replica *rep, int rc)
{
    assert(rc <= 0);
    replica_assert(rep);
    struct replicas *r = rep->set;
    struct list_node *node;
    /* Locks of aborted requests are released one by one: nothing may start meanwhile, the phase is not SERVING. */
    assert(rep->phase == PHASE_IDLE);
    while (!list_empty(&rep->ops))
        op_abort(list_entry(rep->ops.next, struct op_ctx, link), rc);
    while ((node = list_pop_front(&rep->parked))) {
        assert(r->stats.parked_ops > 0);
        r->stats.parked_ops--;
        op_complete_later(r, list_entry(node, struct replica_op, link), rc);
    }
}
