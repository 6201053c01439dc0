/* SPDX-License-Identifier: Apache-2.0 */
/* reserve: space is certain at every member before a write is sent: the guest gets ENOSPC from all members or from none.
 *
 * Primary's side: a member grants credits (units of 64 KiB) to this node's link. A write spends as many as it could allocate at
 *   most; the member's answer gives back what it could reserve again, so that in steady state no message is added.
 * - credits short: WIRE_RESERVE asks for more, naming the write. A member near its limit grants exactly what that write needs
 *   (aux = 1): 0 units for an overwrite, so overwrites go on when a drive is full; -ENOSPC otherwise.
 * Member's side: credits are a store reservation, dropped when the link they were granted on ends.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "server/replica/replica_internal.h"

#define LOG_MODULE "replica"

uint32_t reserve_units_spanned(uint64_t offset, uint32_t length)
{
    return (uint32_t)((offset + length - 1) / STORE_UNIT_BYTES - offset / STORE_UNIT_BYTES + 1);
}

/* ---- primary's side ---- */

static void waiters_go_on(struct replicas *r)
{
    set_assert(r);
    struct list_node again;
    list_head_init(&again);
    struct list_node *node;
    while ((node = list_pop_front(&r->credit_waiters)))
        list_push_back(&again, node);
    while ((node = list_pop_front(&again))) {
        struct op_ctx *ctx = list_entry(node, struct op_ctx, wait_link);
        assert(ctx->state == CTX_PREPARING);
        ctx->state = CTX_HELD;
        op_start(ctx);
    }
}

static void waiter_refused(struct replicas *r, struct op_ctx *ctx)
{
    set_assert(r);
    ctx_assert(ctx);
    list_remove(&ctx->wait_link);
    op_finish(ctx, -ENOSPC);
    (void)r;
}

static void reserve_reply(struct peer_request *req, int rc)
{
    assert(rc <= 0);
    assert(req->owner != NULL);
    struct member_credit *credit = req->owner;
    struct replicas *r = credit->set;
    assert(credit->asking);
    credit->asking = false;
    struct op_ctx *ctx = credit->asker;
    credit->asker = NULL;
    bool waits = ctx && list_linked(&ctx->wait_link);
    if (rc == 0 && req->reply && req->reply->header.aux == 1) {
        uint32_t index = waits ? replica_member_index(ctx->replica, credit->node) : UINT32_MAX;
        if (index != UINT32_MAX) {
            ctx->exact_mask |= 1u << index;
            ctx->exact_units[index] = (uint32_t)req->reply->header.credits;
        } else {
            credit->units += (uint32_t)req->reply->header.credits;
        }
    } else if (rc == 0 && req->reply && req->reply->header.credits > 0) {
        credit->units += (uint32_t)req->reply->header.credits;
    } else if (rc == -ENOSPC && waits) {
        waiter_refused(r, ctx);
    }
    if (rc == -ENOTCONN || rc == -ESTALE)
        return; /* the tick, a new link or a new epoch asks again */
    waiters_go_on(r);
}

static void ask(struct op_ctx *ctx, struct member_credit *credit)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    struct replicas *r = rep->set;
    if (credit->asking || !peers_is_up(r->cfg.peers, credit->node))
        return;
    struct wire_header h;
    replica_header(rep, &h, WIRE_RESERVE);
    h.generation = ctx->generation;
    h.offset = ctx->offset;
    h.length = ctx->length;
    h.aux = REPLICA_CREDIT_UNITS;
    credit->asking = true;
    credit->asker = ctx;
    credit->request = (struct peer_request){.cb = reserve_reply, .owner = credit};
    peers_request(r->cfg.peers, credit->node, &h, NULL, NULL, 0, &credit->request);
}

static bool members_grant(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    struct replicas *r = rep->set;
    bool granted = true;
    for (uint32_t i = 0; i < rep->map.member_count; i++) {
        const struct map_member *m = &rep->map.members[i];
        if (m->node == r->cfg.node || !(m->flags & MAP_MEMBER_IN_SYNC) || (ctx->exact_mask & (1u << i)))
            continue;
        struct member_credit *credit = &r->credit[m->node];
        if (credit->units >= ctx->spend_units)
            continue;
        granted = false;
        if (!peers_is_up(r->cfg.peers, m->node))
            member_unreachable(rep, m->node);
        ask(ctx, credit);
    }
    return granted;
}

int reserve_for_write(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    struct replica *rep = ctx->replica;
    struct replicas *r = rep->set;
    ctx->spend_units = ctx->wire_op == WIRE_WRITE ? reserve_units_spanned(ctx->offset, ctx->length) : 0;
    if (ctx->spend_units > 0 && !members_grant(ctx)) {
        ctx->state = CTX_PREPARING;
        if (!list_linked(&ctx->wait_link))
            list_push_back(&r->credit_waiters, &ctx->wait_link);
        return -EINPROGRESS;
    }
    if (ctx->wire_op != WIRE_WRITE || ctx->reserved_units > 0)
        return 0;
    uint32_t units = store_units_needed(rep->shard, ctx->generation, ctx->offset, ctx->length);
    if (units == 0)
        return 0;
    int rc = store_reserve(r->cfg.store, units);
    if (rc == 0)
        ctx->reserved_units = units;
    return rc;
}

void reserve_release(struct op_ctx *ctx)
{
    ctx_assert(ctx);
    if (ctx->reserved_units == 0)
        return;
    store_unreserve(ctx->replica->set->cfg.store, ctx->reserved_units);
    ctx->reserved_units = 0;
}

void reserve_used(struct op_ctx *ctx, uint32_t allocated)
{
    ctx_assert(ctx);
    ctx->reserved_units -= allocated < ctx->reserved_units ? allocated : ctx->reserved_units;
    reserve_release(ctx);
}

void reserve_answered(struct replicas *r, uint32_t node, uint32_t spent, int32_t credits)
{
    set_assert(r);
    assert(node <= MAP_NODES_MAX);
    if (credits > 0 && (uint32_t)credits <= spent)
        r->credit[node].units += (uint32_t)credits;
}

void reserve_peer_down(struct replicas *r, uint32_t node)
{
    set_assert(r);
    assert(node <= MAP_NODES_MAX);
    r->credit[node].units = 0;
}

/* Waiters whose question went lost, or whose set of members changed. */
void reserve_tick(struct replicas *r)
{
    set_assert(r);
    if (!list_empty(&r->credit_waiters))
        waiters_go_on(r);
}

/* ---- member's side ---- */

void reserve_source_lost(struct replicas *r, const struct peer_source *source)
{
    set_assert(r);
    assert(source->node <= MAP_NODES_MAX);
    struct granted *granted = &r->granted[source->node];
    if (granted->source.connection != source->connection)
        return;
    if (granted->units > 0)
        store_unreserve(r->cfg.store, granted->units);
    memset(granted, 0, sizeof(*granted));
}

static struct granted *granted_to(struct replicas *r, const struct peer_source *source)
{
    set_assert(r);
    assert(source->node <= MAP_NODES_MAX);
    struct granted *granted = &r->granted[source->node];
    if (granted->source.connection != source->connection) {
        if (granted->units > 0)
            store_unreserve(r->cfg.store, granted->units);
        granted->units = 0;
        granted->source = *source;
    }
    return granted;
}

/* A write begins: what it may allocate is reserved, by the credits it spends or here and now, so that no allocation ever uses up
 * what was promised to another. */
int reserve_accept(struct window_entry *entry)
{
    struct replica *rep = entry->replica;
    struct replicas *r = rep->set;
    const struct wire_header *h = &entry->request;
    struct granted *granted = &r->granted[entry->source.node];
    uint32_t spent = h->aux2 > STORE_CHUNK_UNITS + 1 ? 0 : (uint32_t)h->aux2;
    assert(entry->credits == 0 && entry->extra == 0);
    if (granted->source.connection == entry->source.connection && granted->units >= spent) {
        granted->units -= spent;
        entry->credits = spent;
    }
    uint32_t needed = h->aux == WIRE_WRITE ? store_units_needed(rep->shard, h->generation, h->offset, h->length) : 0;
    if (needed <= entry->credits)
        return 0;
    if (store_reserve(r->cfg.store, needed - entry->credits) == 0) {
        entry->extra = needed - entry->credits;
        return 0;
    }
    bool syncing = (h->flags & WIRE_F_TO_SYNC) || h->opcode == WIRE_SYNC_COPY;
    if (!syncing)
        return 0; /* it must answer: what is held back may do; else it is dropped */
    granted->units += entry->credits;
    entry->credits = 0;
    return -ENOSPC;
}

/* It ended: what it did not allocate is given back to the store, and the primary gets as many credits again as can be reserved,
 * but never more than the last question was granted: near the limit idle credits dry up. */
int32_t reserve_settle(struct replicas *r, const struct window_entry *entry, uint32_t allocated)
{
    set_assert(r);
    struct granted *granted = &r->granted[entry->source.node];
    uint32_t held = entry->credits + entry->extra;
    if (held > allocated)
        store_unreserve(r->cfg.store, held - allocated);
    if (entry->credits == 0 || granted->source.connection != entry->source.connection ||
        granted->units + entry->credits > granted->limit || store_reserve(r->cfg.store, entry->credits) != 0)
        return 0;
    granted->units += entry->credits;
    return (int32_t)entry->credits;
}

/* As many as asked for, but at most a sixteenth of what is free. */
static uint32_t generous(struct replicas *r, uint64_t asked)
{
    struct store_stats stats;
    store_stats(r->cfg.store, &stats);
    uint64_t used = stats.bytes_allocated + stats.bytes_reserved;
    uint64_t free_units = stats.bytes_total > used ? (stats.bytes_total - used) / STORE_UNIT_BYTES : 0;
    uint64_t most = asked < REPLICA_CREDIT_UNITS ? asked : REPLICA_CREDIT_UNITS;
    return (uint32_t)(most < free_units / 16 ? most : free_units / 16);
}

void reserve_message(struct replicas *r, const struct peer_source *source, struct msg *msg)
{
    assert(source->node <= MAP_NODES_MAX);
    assert(msg != NULL);
    set_assert(r);
    const struct wire_header *q = &msg->header;
    struct wire_header reply = {.status = -ESTALE};
    struct replica *rep = replica_find(r, q->volume, q->shard);
    bool sane = q->length > 0 && q->length <= STORE_CHUNK_BYTES && q->offset <= STORE_SHARD_BYTES_MAX - q->length;
    if (rep && rep->shard && sane && q->epoch >= rep->map.epoch) {
        struct granted *granted = granted_to(r, source);
        uint32_t units = generous(r, q->aux), span = reserve_units_spanned(q->offset, (uint32_t)q->length);
        reply.status = 0;
        granted->limit = units;
        if (units < span || store_reserve(r->cfg.store, units) != 0) {
            units = store_units_needed(rep->shard, q->generation, q->offset, q->length);
            reply.aux = 1;
            if (units > 0 && store_reserve(r->cfg.store, units) != 0)
                reply.status = -ENOSPC;
        }
        if (reply.status == 0) {
            granted->units += units;
            reply.credits = (int32_t)units;
        }
    }
    peers_reply(r->cfg.peers, source, q, &reply, NULL, NULL, 0);
    msg_free(msg);
}
