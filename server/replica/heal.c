/* SPDX-License-Identifier: Apache-2.0 */
/* heal: make the other members equal to the primary's own content over a range.
 *
 * - heal_start: for a takeover (unlocked, in COPYING, R11), or under an exclusive lock while serving (scrub found damage).
 * - heal_run: the next run of the range: data is read here and sent as a numbered WRITE, holes are sent as ZERO ("holes included").
 * - heal_sent: every member that must answer has: next run, or done.
 * Failure: a new epoch kills a takeover's heals; the next takeover starts from the kept windows. A run damaged everywhere is skipped:
 * reads of it answer -EIO.
 */
#include <assert.h>
#include <errno.h>

#include "common/log.h"
#include "server/replica/replica_internal.h"

#define LOG_MODULE "replica"
#define HEALS_MAX 512u

/* A damaged block is found by each read of it until the first heal is through. Of a flood the rest is found again. */
bool heal_covers(const struct replica *rep, uint64_t offset)
{
    replica_assert(rep);
    assert(offset % STORE_BLOCK_BYTES == 0);
    uint32_t heals = 0;
    list_for_each(pos, &rep->ops)
    {
        const struct op_ctx *ctx = list_entry(pos, struct op_ctx, link);
        if (ctx->kind != CTX_HEAL)
            continue;
        if ((ctx->offset <= offset && offset < ctx->heal_end) || ++heals == HEALS_MAX)
            return true;
    }
    return false;
}

struct op_ctx *heal_start(struct replica *rep, uint64_t start, uint64_t end, uint32_t generation, bool takeover,
                          void (*done)(struct op_ctx *ctx, int rc), void *owner)
{
    replica_assert(rep);
    assert(start < end);
    assert(start % STORE_BLOCK_BYTES == 0 && end % STORE_BLOCK_BYTES == 0);
    struct op_ctx *ctx = ctx_alloc(rep);
    ctx->kind = CTX_HEAL;
    ctx->takeover = ctx->unlocked = takeover;
    ctx->generation = generation; /* 0: the head, of the time of each run */
    ctx->heal_head = generation == 0;
    ctx->offset = start;
    ctx->length = 0;
    ctx->heal_end = end;
    ctx->done = done;
    ctx->owner = owner;
    if (takeover) {
        assert(rep->phase == PHASE_COPYING);
        ctx->state = CTX_HELD;
        list_push_back(&rep->ops, &ctx->link);
        heal_run(ctx);
    } else {
        ctx_begin(rep, ctx, start, end, true);
    }
    return ctx;
}

static void heal_done(struct op_ctx *ctx, int rc)
{
    assert(rc <= 0);
    ctx_assert(ctx);
    void (*done)(struct op_ctx *, int) = ctx->done;
    ctx->done = NULL;
    if (done)
        done(ctx, rc);
    op_finish(ctx, rc);
}

static void heal_end_task(struct env_task *task)
{
    struct op_ctx *ctx = list_entry(task, struct op_ctx, task);
    if (ctx->dead) {
        ctx_kill(ctx);
        return;
    }
    heal_done(ctx, 0);
}

static void heal_read_done(struct store_io *io, int rc)
{
    assert(rc <= 0);
    assert(io->owner != NULL);
    struct op_ctx *ctx = io->owner;
    if (ctx_ended_meanwhile(ctx))
        return;
    if (rc == -EILSEQ) {
        repair_start(ctx);
        return;
    }
    if (rc != 0) { /* the store failed: the role moves */
        heal_done(ctx, rc);
        return;
    }
    if (!op_may_run(ctx)) { /* the epoch changed while it read: again when the new one serves */
        ctx->state = CTX_HELD;
        return;
    }
    if (!seal_generation_live(ctx->replica, ctx->generation)) { /* again, in the one that it left its content to */
        ctx->state = CTX_HELD;
        heal_run(ctx);
        return;
    }
    ctx->started = true;
    write_send(ctx, false);
}

/* The first run (data, or hole) at offset: sets wire_op and length. */
static void choose_run(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    uint64_t limit = (ctx->offset / STORE_CHUNK_BYTES + 1) * STORE_CHUNK_BYTES;
    const struct map_volume *v = replica_volume(ctx->replica);
    if (ctx->heal_head && v)
        ctx->generation = v->generation;
    if (limit > ctx->heal_end)
        limit = ctx->heal_end;
    struct store_extent run = {.offset = ctx->offset, .length = limit - ctx->offset, .state = 1};
    uint32_t count = store_extents(ctx->replica->shard, ctx->generation, ctx->offset, limit - ctx->offset, &run, 1);
    if (count == 0)
        run = (struct store_extent){.offset = ctx->offset, .length = limit - ctx->offset, .state = 0};
    assert(run.offset == ctx->offset && run.length > 0);
    ctx->length = (uint32_t)run.length;
    ctx->wire_op = run.state == 1 ? WIRE_WRITE : WIRE_ZERO;
    ctx->wire_flags = run.state == 2 ? WIRE_F_NO_HOLE : 0;
}

void heal_run(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    assert(ctx->kind == CTX_HEAL || ctx->kind == CTX_COPY);
    assert(!ctx->io_busy);
    if (ctx->takeover && ctx->offset < ctx->heal_end) { /* the map may have changed since the run before */
        ctx->generation = takeover_generation(rep, ctx->generation);
        if (ctx->generation == 0)
            ctx->offset = ctx->heal_end;
    }
    if (ctx->offset >= ctx->heal_end) {
        ctx->state = CTX_PREPARING; /* end on a later turn: never inside the caller's loop */
        env_defer(rep->set->env, &ctx->task, heal_end_task);
        return;
    }
    choose_run(ctx);
    if (ctx->wire_op == WIRE_ZERO) {
        ctx->started = true;
        write_send(ctx, false);
        return;
    }
    if (!ctx->buf) {
        uint64_t left = ctx->heal_end - ctx->offset;
        ctx->buf = buf_alloc(rep->set->cfg.pool, left < STORE_CHUNK_BYTES ? (uint32_t)left : STORE_CHUNK_BYTES);
        ctx->buf_owned = ctx->buf != NULL;
        if (!ctx->buf) {
            ctx->state = CTX_HELD; /* back-pressure: the tick starts it again */
            return;
        }
    } else if (ctx->buf->refs > 1) {
        /* the transport still sends the previous run from it */
        buf_unref(ctx->buf);
        ctx->buf = NULL;
        ctx->buf_owned = false;
        heal_run(ctx);
        return;
    }
    ctx->state = CTX_PREPARING;
    ctx->io = (struct store_io){
        .shard = rep->shard,
        .op = STORE_READ,
        .generation = ctx->generation,
        .offset = ctx->offset,
        .length = ctx->length,
        .buf = ctx->buf,
        .crcs = ctx->crcs,
        .cb = heal_read_done,
        .owner = ctx,
    };
    ctx->io_busy = true;
    store_submit(&ctx->io);
}

void heal_sent(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    ctx->offset += ctx->length;
    ctx->length = 0;
    ctx->state = CTX_HELD;
    if (ctx->kind == CTX_COPY) {
        ctx->done(ctx, 0);
        return;
    }
    heal_run(ctx);
}

/* Heals that found no buffer go on when there is one. */
void heal_tick(struct replica *rep)
{
    replica_assert(rep);
    list_for_each(pos, &rep->ops)
    {
        struct op_ctx *ctx = list_entry(pos, struct op_ctx, link);
        if (ctx->kind != CTX_HEAL || ctx->state != CTX_HELD)
            continue;
        op_start(ctx);
        return; /* one a tick; the list may have changed */
    }
}
