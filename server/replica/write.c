/* SPDX-License-Identifier: Apache-2.0 */
/* write: WRITE and ZERO at the primary: number, replicate, write here, acknowledge.
 *
 * - op_write_start: a piece smaller than a block is merged with its block first; checksums are verified before anything is sent;
 *   space is reserved at every member (reserve.c).
 * - write_send: gives the lsn, sends REPLICATE to every member that must answer (and to syncing ones), writes to the own store
 *   in parallel.
 * - write_check_done: I4: acknowledged when every in_sync member of the epoch in force answered in that epoch.
 * Failures: a lost link: sent again with the same lsn when it is back (R2), else the member is reported (member.c); a member whose
 *   drive failed is dropped at once; an older session noticed by a member: the members are made equal, then -EPERM (I6, I9).
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/log.h"
#include "common/mutant.h"
#include "server/replica/replica_internal.h"

#define LOG_MODULE "replica"

static uint32_t block_count(uint32_t bytes)
{
    return bytes / STORE_BLOCK_BYTES;
}

/* ---- a piece of a block: read, merge, write whole ---- */

static int merge_piece(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    const struct replica_op *op = ctx->op;
    const uint8_t *piece = op->buf->data + op->buf_offset;
    if (crc32c(piece, op->length) != op->crcs[0])
        return -EBADMSG;
    memcpy(ctx->buf->data + op->offset % STORE_BLOCK_BYTES, piece, op->length);
    crc32c_blocks(ctx->buf->data, 1, ctx->crcs);
    return 0;
}

static void rmw_read_done(struct store_io *io, int rc)
{
    assert(rc <= 0);
    assert(io->owner != NULL);
    struct op_ctx *ctx = io->owner;
    if (ctx_ended_meanwhile(ctx))
        return;
    if (rc == -EILSEQ) { /* the other bytes of the block are damaged here: they must not get a fresh checksum */
        repair_start(ctx);
        return;
    }
    if (rc == -EIO) {
        op_hold(ctx);
        return;
    }
    if (rc == 0)
        rc = merge_piece(ctx);
    if (rc != 0) {
        op_finish(ctx, rc);
        return;
    }
    ctx->exclusive_read = true; /* merged */
    ctx->state = CTX_HELD;
    op_start(ctx);
}

static void rmw_start(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    if (!ctx->buf) {
        ctx->buf = buf_alloc(rep->set->cfg.pool, STORE_BLOCK_BYTES);
        if (!ctx->buf) {
            op_finish(ctx, -ENOMEM);
            return;
        }
        ctx->buf_owned = true;
        ctx->buf_offset = 0;
    }
    ctx->state = CTX_PREPARING;
    ctx->io = (struct store_io){
        .shard = rep->shard,
        .op = STORE_READ,
        .generation =
            MUTANT(partial_block_from_the_snapshot) && ctx->generation > 1 ? ctx->generation - 1 : ctx->generation,
        .offset = ctx->offset,
        .length = STORE_BLOCK_BYTES,
        .buf = ctx->buf,
        .cb = rmw_read_done,
        .owner = ctx,
    };
    ctx->io_busy = true;
    store_submit(&ctx->io);
}

/* ---- start ---- */

static int take_payload(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    const struct replica_op *op = ctx->op;
    assert(op->length % STORE_BLOCK_BYTES == 0);
    ctx->buf = op->buf;
    ctx->buf_offset = op->buf_offset;
    uint32_t found[WIRE_BLOCKS_MAX];
    crc32c_blocks(op->buf->data + op->buf_offset, block_count(op->length), found);
    if (memcmp(found, op->crcs, block_count(op->length) * sizeof(found[0])) != 0)
        return -EBADMSG;
    memcpy(ctx->crcs, op->crcs, block_count(op->length) * sizeof(found[0]));
    return 0;
}

void op_write_start(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica_op *op = ctx->op;
    int rc = 0;
    if (op->opcode == WIRE_WRITE && op->length < ctx->length && !ctx->exclusive_read) {
        rmw_start(ctx);
        return;
    }
    if (op->opcode == WIRE_WRITE && !ctx->buf)
        rc = take_payload(ctx);
    if (rc == 0)
        rc = reserve_for_write(ctx);
    if (rc == -EINPROGRESS)
        return;
    if (rc != 0) {
        op_finish(ctx, rc);
        return;
    }
    ctx->started = true;
    write_send(ctx, true);
}

/* ---- members' answers ---- */

static void send_to(struct op_ctx *ctx, struct target *target, uint32_t extra_flags);

static void forward_failed(struct op_ctx *ctx, struct target *target, int rc)
{
    ctx_assert(ctx);
    target_assert(target);
    target->state = TARGET_IDLE;
    target->counted = ctx->kind == CTX_COPY; /* a joiner that fails falls back to syncing: its answer counts no more */
    if (ctx->kind == CTX_COPY)
        target->state = TARGET_REFUSED;
    sync_forward_failed(ctx->replica, target->node, ctx->offset, ctx->length, rc);
}

static bool in_sync_member(const struct replica *rep, uint32_t node)
{
    assert(node <= MAP_NODES_MAX);
    replica_assert(rep);
    const struct map_member *m = map_member_of(&rep->map, node);
    return m && (m->flags & MAP_MEMBER_IN_SYNC);
}

static void target_failed(struct op_ctx *ctx, struct target *target, int rc)
{
    assert(rc <= 0);
    ctx_assert(ctx);
    target_assert(target);
    struct replica *rep = ctx->replica;
    switch (rc) {
    case -ENOTCONN:
        target->state = TARGET_LOST;
        member_unreachable(rep, target->node);
        return;
    case -ESTALE: /* it knows a newer epoch: so will we, and send again under it (R7) */
        target->state = TARGET_REFUSED;
        return;
    case -EPERM: /* it knows a newer session (I6): only equality matters now */
        target->state = TARGET_RESEND;
        ctx->healing = true;
        ctx->session = 0;
        return;
    case -EBADMSG: /* damaged on the way: once more */ send_to(ctx, target, WIRE_F_RETRY); return;
    default:
        log_warn("volume %llu shard %u: member %u failed a write: %s", (unsigned long long)rep->volume, rep->index,
                 target->node, strerror(-rc));
        target->state = TARGET_REFUSED;
        member_failed(rep, target->node);
    }
}

static void target_answered(struct peer_request *req, int rc)
{
    assert(rc <= 0);
    assert(req->owner != NULL);
    struct target *target = req->owner;
    struct op_ctx *ctx = target->ctx;
    struct replica *rep = ctx->replica;
    if (req->reply)
        reserve_answered(rep->set, target->node, target->credits, req->reply->header.credits);
    target->credits = 0;
    if (rc == 0)
        target->state = TARGET_OK;
    else if (ctx->dead)
        target->state = TARGET_IDLE;
    if (rc != 0 && !in_sync_member(rep, target->node))
        forward_failed(ctx, target, rc);
    else if (rc != 0 && !ctx->dead)
        target_failed(ctx, target, rc);
    if (ctx->dead) {
        ctx_kill(ctx);
        return;
    }
    ctx->t_remote = env_now_ns(rep->set->env);
    write_check_done(ctx);
}

/* ---- sending ---- */

static void send_to(struct op_ctx *ctx, struct target *target, uint32_t extra_flags)
{
    ctx_assert(ctx);
    target_assert(target);
    struct replica *rep = ctx->replica;
    struct replicas *r = rep->set;
    if (!peers_is_up(r->cfg.peers, target->node)) {
        if (in_sync_member(rep, target->node)) {
            target->state = TARGET_LOST;
            member_unreachable(rep, target->node);
        } else {
            forward_failed(ctx, target, -ENOTCONN);
        }
        return;
    }
    struct wire_header h;
    replica_header(rep, &h, ctx->kind == CTX_COPY ? WIRE_SYNC_COPY : WIRE_REPLICATE);
    h.flags = ctx->wire_flags | extra_flags | (ctx->takeover ? WIRE_F_TAKEOVER : 0);
    if (!in_sync_member(rep, target->node))
        h.flags |= WIRE_F_TO_SYNC; /* a joiner, too, though it must answer (R17) */
    h.session = ctx->session;
    h.generation = ctx->generation;
    h.epoch = ctx->epoch;
    h.lsn_n = ctx->n;
    h.offset = ctx->offset;
    h.length = ctx->length;
    h.aux = ctx->wire_op;
    h.aux2 = target->credits;
    bool data = ctx->wire_op == WIRE_WRITE;
    h.body_len = data ? block_count(ctx->length) * 4u : 0;
    h.payload_len = data ? ctx->length : 0;
    target->state = TARGET_SENT;
    peers_request(r->cfg.peers, target->node, &h, data ? ctx->crcs : NULL, data ? ctx->buf : NULL, ctx->buf_offset,
                  &target->request);
}

static void add_target(struct op_ctx *ctx, uint32_t node, bool counted)
{
    assert(node <= MAP_NODES_MAX);
    ctx_assert(ctx);
    assert(ctx->target_count < MAP_MEMBERS_MAX);
    struct target *target = &ctx->targets[ctx->target_count++];
    memset(target, 0, sizeof(*target));
    target->node = node;
    target->counted = counted;
    target->ctx = ctx;
    target->request.cb = target_answered;
    target->request.owner = target;
    struct member_credit *credit = &ctx->replica->set->credit[node];
    uint32_t index = replica_member_index(ctx->replica, node);
    if (ctx->exact_mask & (1u << index)) {
        target->credits = ctx->exact_units[index];
    } else if (credit->units >= ctx->spend_units) {
        credit->units -= ctx->spend_units;
        target->credits = ctx->spend_units;
    }
}

static void choose_targets(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    for (uint32_t i = 0; i < ctx->target_count; i++) {
        /* an answer under an older lsn is no answer any more (I4) */
        if (ctx->targets[i].state == TARGET_SENT)
            peers_abandon(rep->set->cfg.peers, &ctx->targets[i].request);
    }
    ctx->target_count = 0;
    for (uint32_t i = 0; i < rep->map.member_count; i++) {
        const struct map_member *m = &rep->map.members[i];
        bool joining = false;
        if (m->node == rep->set->cfg.node)
            continue;
        if (m->flags & MAP_MEMBER_IN_SYNC)
            add_target(ctx, m->node, true);
        else if (sync_is_target(rep, m->node, &joining) && !MUTANT(syncing_member_gets_no_writes))
            add_target(ctx, m->node, joining && !MUTANT(joiner_need_not_answer));
    }
}

static void local_write_done(struct store_io *io, int rc)
{
    assert(rc <= 0);
    assert(io->owner != NULL);
    struct op_ctx *ctx = io->owner;
    struct replica *rep = ctx->replica;
    bool gone = ctx_ended_meanwhile(ctx);
    if (gone) {
        replica_drive_write_done(rep);
        return;
    }
    ctx->t_local = env_now_ns(rep->set->env);
    reserve_used(ctx, io->units_allocated);
    ctx->local_done = rc == 0;
    if (rc !=
        0) /* the store failed: the control plane moves the role; until then this stays unanswered (§4: resigns) */
        log_error("volume %llu shard %u: own store failed a write: %s", (unsigned long long)rep->volume, rep->index,
                  strerror(-rc));
    bool same = ctx->epoch == rep->map.epoch;
    replica_drive_write_done(rep);
    if (same)
        write_check_done(ctx);
}

static void write_here(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    ctx->io = (struct store_io){
        .shard = rep->shard,
        .op = ctx->wire_op == WIRE_WRITE ? STORE_WRITE : STORE_ZERO,
        .flags = ctx->wire_flags & WIRE_F_NO_HOLE ? STORE_IO_NO_HOLE : 0,
        .generation = ctx->generation,
        .epoch = ctx->epoch,
        .lsn_n = ctx->n,
        .offset = ctx->offset,
        .length = ctx->length,
        .buf = ctx->buf,
        .buf_offset = ctx->buf_offset,
        .crcs = ctx->crcs,
        .cb = local_write_done,
        .owner = ctx,
    };
    ctx->io_busy = true;
    ctx->local_done = false;
    rep->drive_writes++;
    store_submit(&ctx->io);
}

void write_send(struct op_ctx *ctx, bool local)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    assert(rep->phase == PHASE_SERVING || rep->phase == PHASE_COPYING || rep->phase == PHASE_MOVING ||
           (rep->phase == PHASE_PARKED && ctx->kind == CTX_COPY));
    assert(!ctx->io_busy);
    assert(ctx->length > 0);
    ctx->state = CTX_SENT;
    ctx->epoch = rep->map.epoch;
    ctx->n = ++rep->next_n;
    ctx->t_sent = env_now_ns(rep->set->env);
    if (list_linked(&ctx->sent_link))
        list_remove(&ctx->sent_link);
    list_push_back(&rep->sent, &ctx->sent_link);
    (void)window_add(rep, ctx->epoch, ctx->n, ctx->offset, ctx->length, ctx->generation);
    if (ctx->kind == CTX_COPY)
        ctx->target_count = 0;
    else
        choose_targets(ctx);
    ctx->exact_mask = 0;
    ctx->local_done = !local;
    if (ctx->kind == CTX_COPY)
        add_target(ctx, ctx->copy_node, true);
    /* Answers of peers come on later turns, so that sending before the own submit is safe and puts the wire first. */
    for (uint32_t i = 0; i < ctx->target_count; i++)
        send_to(ctx, &ctx->targets[i], 0);
    if (local)
        write_here(ctx);
    else
        write_check_done(ctx);
}

void write_peer_up(struct replica *rep, uint32_t node)
{
    assert(node <= MAP_NODES_MAX);
    replica_assert(rep);
    if (rep->phase == PHASE_SERVING)
        takeover_tell_done(rep, node); /* the one sent before may have gone with the old link */
    list_for_each(pos, &rep->sent)
    {
        struct op_ctx *ctx = list_entry(pos, struct op_ctx, sent_link);
        if (ctx->epoch != rep->map.epoch)
            continue;
        for (uint32_t i = 0; i < ctx->target_count; i++)
            if (ctx->targets[i].node == node && ctx->targets[i].state == TARGET_LOST)
                send_to(ctx, &ctx->targets[i], WIRE_F_RETRY); /* R2: same lsn */
    }
}

/* ---- the end ---- */

void write_commit_advance(struct replica *rep)
{
    replica_assert(rep);
    uint64_t commit = rep->next_n;
    list_for_each(pos, &rep->sent)
    { /* those of an older epoch stand first and wait for their new lsn */
        const struct op_ctx *ctx = list_entry(pos, struct op_ctx, sent_link);
        if (ctx->epoch != rep->map.epoch)
            continue;
        commit = ctx->n - 1;
        break;
    }
    if (MUTANT(commit_runs_ahead))
        commit = rep->next_n;
    assert(commit >= rep->commit_n);
    if (commit == rep->commit_n)
        return;
    rep->commit_n = commit;
    window_retire(rep, rep->map.epoch, commit);
    store_committed(rep->shard, rep->map.epoch, commit);
    if (rep->commit_n - rep->commit_told_n >= REPLICA_COMMIT_LAG_MAX)
        write_commit_tell(rep);
}

/* The commit point rides on REPLICATE; on an idle link it travels alone, so that windows and marks get cleared. */
void write_commit_tell(struct replica *rep)
{
    replica_assert(rep);
    if (rep->commit_told_n == rep->commit_n)
        return;
    rep->commit_told_n = rep->commit_n;
    for (uint32_t i = 0; i < rep->map.member_count; i++) {
        if (rep->map.members[i].node == rep->set->cfg.node)
            continue;
        struct wire_header h;
        replica_header(rep, &h, WIRE_COMMIT);
        peers_notify(rep->set->cfg.peers, rep->map.members[i].node, &h);
    }
}

static bool all_answered(const struct op_ctx *ctx)
{
    ctx_assert(ctx);
    for (uint32_t i = 0; i < ctx->target_count; i++)
        if (ctx->targets[i].counted && ctx->targets[i].state != TARGET_OK)
            return false;
    return true;
}

static bool wants_resend(const struct op_ctx *ctx)
{
    ctx_assert(ctx);
    for (uint32_t i = 0; i < ctx->target_count; i++)
        if (ctx->targets[i].counted && ctx->targets[i].state == TARGET_RESEND)
            return true;
    return false;
}

static bool awaits_answers(const struct op_ctx *ctx)
{
    ctx_assert(ctx);
    for (uint32_t i = 0; i < ctx->target_count; i++)
        if (ctx->targets[i].counted && ctx->targets[i].state == TARGET_SENT)
            return true;
    return false;
}

static void write_done(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    list_remove(&ctx->sent_link);
    rep->writes_done++;
    write_commit_advance(rep);
    if (rep->draining)
        env_defer(rep->set->env, &rep->set->drained_task, seal_drained_task);
    if (ctx->kind != CTX_CLIENT) {
        heal_sent(ctx);
        return;
    }
    rep->acked_writes++;
    flush_mark_dirty(rep);
    struct replica_op *op = ctx->op;
    uint64_t sent = ctx->t_sent;
    op->stage_ns[1] = ctx->t_local > sent ? (uint32_t)(ctx->t_local - sent) : 0;
    op->stage_ns[2] = ctx->t_remote > sent ? (uint32_t)(ctx->t_remote - sent) : 0;
    op->loss_number = rep->map.loss_number;
    if (ctx->healing) {
        op_finish(ctx, -EPERM);
    } else if (op->flags & WIRE_F_FUA && !MUTANT(fua_is_a_plain_write)) {
        flush_after_write(ctx);
    } else {
        op_finish(ctx, 0);
    }
}

void write_check_done(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    if (ctx->state != CTX_SENT || ctx->dead || !list_linked(&ctx->sent_link) ||
        (!ctx->local_done && !MUTANT(acknowledge_without_own_store)))
        return;
    if (ctx->epoch != rep->map.epoch)
        return; /* R7: sent again under the epoch in force */
    bool may_end = rep->phase == PHASE_SERVING || rep->phase == PHASE_MOVING ||
                   (ctx->takeover && rep->phase == PHASE_COPYING) ||
                   (ctx->kind == CTX_COPY && rep->phase == PHASE_PARKED);
    if (!may_end)
        return;
    if (wants_resend(ctx) && !awaits_answers(ctx)) {
        write_send(ctx, false); /* I9: the same content to all, no session: the range lock is still held */
        return;
    }
    if (ctx->kind == CTX_COPY && ctx->targets[0].state == TARGET_REFUSED) {
        op_abort(ctx, -EAGAIN); /* the sync has it on its list again; nobody else may wait for this lock */
        write_commit_advance(rep);
        return;
    }
    if (!all_answered(ctx) && !MUTANT(acknowledge_before_all))
        return;
    if (ctx->kind == CTX_CLIENT) {
        /* I4, R6, R8 */
        assert(rep->map.active_epoch == rep->map.epoch);
        uint32_t in_sync = map_in_sync_count(&rep->map);
        const struct map_volume *v = replica_volume(rep);
        if (!v || (in_sync < v->min_replicas && !MUTANT(acknowledge_below_min)))
            return;
        if (in_sync == 1 && !replica_lease_valid(rep))
            return; /* R9: a sole member needs the lease for acknowledgements too */
        if (sync_withholds_ack(rep) && !MUTANT(acknowledge_while_adding))
            return; /* R17: until the outcome of an add is known */
    }
    write_done(ctx);
}

void write_recheck_all(struct replica *rep)
{
    replica_assert(rep);
    bool again = true;
    while (again) {
        again = false;
        list_for_each(pos, &rep->sent)
        {
            struct op_ctx *ctx = list_entry(pos, struct op_ctx, sent_link);
            uint64_t before = rep->writes_done;
            write_check_done(ctx);
            if (rep->writes_done != before) { /* ctx is gone: start over */
                again = true;
                break;
            }
        }
    }
}
