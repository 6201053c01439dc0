/* SPDX-License-Identifier: Apache-2.0 */
/* replicas: the set of this node's shard replicas and how it follows the cluster map.
 *
 * - replicas_shard_changed: a shard gained, lost or changed this node: open or close its store shard, then let the phase follow
 *   the epoch: primary -> takeover_start, anything else -> replica_step_down.
 * - replicas_message: a peer's request goes to the file of its phase (no logic here).
 * - replicas_lease: reads and sole-member acknowledgements need it (R9).
 * Failure: a shard instance that cannot be opened in the store makes this node useless as its member: the store fails.
 */
#include "server/replica/replica.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mutant.h"
#include "server/replica/replica_internal.h"

#define LOG_MODULE "replica"
#define TICK_NS ENV_MS(50)
#define CUT_OFF_NS ENV_MS(200) /* past the end of the lease */

/* ---- look-ups ---- */

struct replica *replica_find(struct replicas *r, uint64_t volume, uint32_t shard)
{
    set_assert(r);
    return map_u64_get2(&r->by_shard, volume, shard);
}

const struct map_volume *replica_volume(const struct replica *rep)
{
    replica_assert(rep);
    return map_volume_by_id(rep->set->cfg.map, rep->volume);
}

uint32_t replica_member_index(const struct replica *rep, uint32_t node)
{
    assert(node <= MAP_NODES_MAX);
    replica_assert(rep);
    for (uint32_t i = 0; i < rep->map.member_count; i++)
        if (rep->map.members[i].node == node)
            return i;
    return UINT32_MAX;
}

bool replica_lease_valid(struct replica *rep)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    /* R9: the clock is read afresh, and the lease covers a shard only as far as the map version it was granted for. */
    if (MUTANT(read_past_lease))
        return true;
    return rep->map.changed_version <= r->lease_map_version && env_now_ns(r->env) < r->lease_until_ns;
}

void replica_header(const struct replica *rep, struct wire_header *h, uint16_t opcode)
{
    replica_assert(rep);
    assert(!WIRE_IS_REPLY(opcode));
    memset(h, 0, sizeof(*h));
    h->opcode = opcode;
    h->volume = rep->volume;
    h->shard = rep->index;
    h->epoch = rep->map.epoch;
    h->commit_n = rep->commit_n;
    h->loss_number = rep->map.loss_number;
}

/* ---- pools ---- */

struct op_ctx *ctx_alloc(struct replica *rep)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    struct list_node *node = list_pop_front(&r->free_ctx);
    struct op_ctx *ctx = node ? list_entry(node, struct op_ctx, link) : malloc(sizeof(*ctx));
    if (!ctx)
        abort(); /* a few KiB at start-up of a burst; admission bounds the count */
    memset(ctx, 0, offsetof(struct op_ctx, crcs));
    ctx->replica = rep;
    r->ctx_count++;
    rep->ctx_count++;
    return ctx;
}

void ctx_free(struct op_ctx *ctx)
{
    struct replicas *r = ctx->replica->set;
    assert(!ctx->io_busy && !ctx->repair_busy);
    assert(!ctx->task.queued);
    assert(!list_linked(&ctx->link) && !list_linked(&ctx->lock.link));
    assert(!list_linked(&ctx->sent_link) && !list_linked(&ctx->wait_link));
    assert(ctx->reserved_units == 0);
    for (uint32_t i = 0; i < ctx->replica->map.member_count; i++) {
        struct member_credit *credit = &r->credit[ctx->replica->map.members[i].node];
        if (credit->asker == ctx)
            credit->asker = NULL;
    }
    if (ctx->buf_owned)
        buf_unref(ctx->buf);
    free(ctx->search);
    assert(r->ctx_count > 0);
    r->ctx_count--;
    ctx->replica->ctx_count--;
    list_push_front(&r->free_ctx, &ctx->link);
}

/* ---- windows (R2) ---- */

struct window_entry *window_add(struct replica *rep, uint64_t epoch, uint64_t n, uint64_t offset, uint32_t length,
                                uint32_t generation)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    struct list_node *node = list_pop_front(&r->free_window);
    struct window_entry *entry = node ? list_entry(node, struct window_entry, link) : malloc(sizeof(*entry));
    if (!entry)
        abort();
    memset(entry, 0, sizeof(*entry));
    entry->replica = rep;
    entry->epoch = epoch;
    entry->n = n;
    entry->offset = offset;
    entry->length = length;
    entry->generation = generation;
    list_push_back(&rep->window, &entry->link);
    rep->window_count++;
    return entry;
}

void window_remove(struct window_entry *entry)
{
    window_assert(entry);
    struct replica *rep = entry->replica;
    assert(!entry->busy);
    assert(rep->window_count > 0);
    assert(entry->msg == NULL);
    rep->window_count--;
    list_remove(&entry->link);
    list_push_front(&rep->set->free_window, &entry->link);
}

/* R2: an entry is retired only by the commit point of its own epoch ... */
void window_retire(struct replica *rep, uint64_t epoch, uint64_t commit_n)
{
    replica_assert(rep);
    list_for_each_safe(pos, tmp, &rep->window)
    {
        struct window_entry *entry = list_entry(pos, struct window_entry, link);
        if (entry->epoch == epoch && entry->n <= commit_n && !entry->busy)
            window_remove(entry);
        else if (entry->epoch == epoch && entry->n > commit_n)
            break; /* ascending within an epoch, and no later epoch can follow before a takeover */
    }
}

/* ... or by a takeover that names it. */
void window_retire_older(struct replica *rep, uint64_t epoch)
{
    replica_assert(rep);
    list_for_each_safe(pos, tmp, &rep->window)
    {
        struct window_entry *entry = list_entry(pos, struct window_entry, link);
        if (entry->epoch < epoch && !entry->busy)
            window_remove(entry);
    }
}

void replica_drive_write_done(struct replica *rep)
{
    replica_assert(rep);
    assert(rep->drive_writes > 0);
    rep->drive_writes--;
    if (rep->drive_writes > 0)
        return;
    drain_check(rep);
    if (rep->phase == PHASE_RAISING)
        takeover_step(rep);
}

/* ---- following the map ---- */

static struct replica *replica_create(struct replicas *r, const struct map_volume *volume,
                                      const struct map_shard *shard)
{
    assert(volume != NULL && volume->id != 0);
    set_assert(r);
    struct replica *rep = slab_take(&r->pool);
    rep->set = r;
    rep->volume = volume->id;
    rep->index = shard->index;
    list_head_init(&rep->ops);
    list_head_init(&rep->sent);
    list_head_init(&rep->locks);
    list_head_init(&rep->parked);
    list_head_init(&rep->window);
    list_head_init(&rep->drains);
    if (map_u64_put2(&r->by_shard, rep->volume, rep->index, rep) != 0)
        abort();
    r->stats.shards++;
    return rep;
}

static int open_shard(struct replica *rep, const struct map_volume *volume, const struct map_member *member)
{
    assert(volume != NULL && volume->id != 0);
    replica_assert(rep);
    struct store_shard_id id = {.volume = rep->volume, .shard = rep->index, .instance = member->instance};
    assert(rep->shard == NULL);
    /* the whole span: a volume may grow while it is open */
    int rc = store_shard_open(rep->set->cfg.store, &id, volume->shard_bytes, &rep->shard);
    if (rc != 0)
        return rc;
    rep->instance = member->instance;
    seal_generations(rep, /* live= */ NULL, 0);
    return base_open(rep, volume, member);
}

static void forget_window(struct replica *rep)
{
    replica_assert(rep);
    list_for_each_safe(pos, tmp, &rep->window)
    {
        window_remove(list_entry(pos, struct window_entry, link));
    }
}

/* Nothing refers to the shard any more: give the store handle back. */
static bool replica_quiet(const struct replica *rep)
{
    replica_assert(rep);
    return rep->drive_writes == 0 && rep->digests == 0 && rep->ctx_count == 0 && list_empty(&rep->drains) &&
           rep->sync_count == 0 && !rep->takeover.restamp_busy && rep->takeover.copies_busy == 0 &&
           !rep->drop_proposed && !rep->move_proposed && !rep->rolling && !rep->flattening;
}

static void replica_release(struct replica *rep)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    assert(replica_quiet(rep));
    takeover_cancel(rep);
    forget_window(rep);
    if (list_linked(&rep->dirty_link))
        list_remove(&rep->dirty_link);
    if (list_linked(&rep->activate_link))
        list_remove(&rep->activate_link);
    seal_step_down(rep);
    struct store_shard_id id = {.volume = rep->volume, .shard = rep->index, .instance = rep->instance};
    if (rep->shard)
        store_shard_close(rep->shard);
    if (!r->closing && rep->instance)
        store_shard_drop(r->cfg.store, &id);
    (void)map_u64_remove2(&r->by_shard, rep->volume, rep->index);
    free(rep->takeover.ranges);
    assert(r->stats.shards > 0);
    r->stats.shards--;
    slab_give(&r->pool, rep);
}

void replica_step_down(struct replica *rep)
{
    replica_assert(rep);
    if (rep->phase != PHASE_IDLE)
        takeover_cancel(rep);
    rep->phase = PHASE_IDLE;
    seal_step_down(rep);
    sync_stop_all(rep);
    ops_abort(rep, -ESTALE);
    rep->takeover.copies_busy = 0; /* they were among them */
    if (list_linked(&rep->dirty_link))
        list_remove(&rep->dirty_link);
    rep->acked_writes = rep->flushed_writes = 0;
}

static void epoch_changed(struct replica *rep, uint64_t old_epoch)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    const struct map_member *self = map_member_of(&rep->map, r->cfg.node);
    bool primary = self && rep->map.primary == r->cfg.node && (self->flags & MAP_MEMBER_IN_SYNC) &&
                   self->incarnation == r->cfg.incarnation;
    memset(rep->unreachable_since, 0, sizeof(rep->unreachable_since));
    rep->next_n = rep->commit_n = rep->commit_told_n = 0; /* lsn = (epoch, n) */
    /* An epoch not seen (a snapshot of the map): somebody else may have been primary in it. */
    if (!primary || (rep->phase != PHASE_IDLE && rep->map.epoch != old_epoch + 1)) {
        if (rep->phase != PHASE_IDLE)
            log_info("volume %llu shard %u: not primary any more in epoch %llu", (unsigned long long)rep->volume,
                     rep->index, (unsigned long long)rep->map.epoch);
        replica_step_down(rep);
    }
    if (!primary) {
        drain_check(rep);
        return;
    }
    if (rep->phase == PHASE_IDLE)
        rep->office_epoch = rep->map.epoch;
    /* A volume's first epoch is born active: nothing was ever written, so there is nothing to take over. */
    if (rep->map.epoch == 1 && rep->map.active_epoch == 1 && rep->phase == PHASE_IDLE) {
        rep->takeover.epoch = 1;
        takeover_serve(rep);
        return;
    }
    takeover_start(rep);
}

static void removed_here(struct replica *rep)
{
    replica_assert(rep);
    replica_step_down(rep);
    rep->map.epoch = UINT64_MAX; /* every message is of an older epoch now (I5) */
    if (replica_quiet(rep))
        replica_release(rep);
}

void replicas_shard_changed(struct replicas *r, const struct map_volume *volume, const struct map_shard *shard)
{
    assert(volume != NULL && volume->id != 0);
    set_assert(r);
    const struct map_member *self = map_member_of(shard, r->cfg.node);
    struct replica *rep = replica_find(r, volume->id, shard->index);
    if (!self) {
        if (rep)
            removed_here(rep);
        return;
    }
    if (rep && rep->map.epoch == UINT64_MAX)
        return; /* an earlier instance still drains: member_tick opens the new one */
    if (!rep)
        rep = replica_create(r, volume, shard);
    uint64_t old_epoch = rep->map.epoch;
    bool was_active = rep->map.epoch == rep->map.active_epoch;
    if (rep->instance && rep->instance != self->instance) {
        removed_here(rep); /* R3: another instance starts with no history */
        if (replica_find(r, volume->id, shard->index))
            return;
        rep = replica_create(r, volume, shard);
        old_epoch = 0;
    }
    rep->map = *shard;
    if (!rep->shard) {
        int rc = open_shard(rep, volume, self);
        if (rc != 0) {
            log_error("volume %llu shard %u: cannot open its store shard: %s", (unsigned long long)volume->id,
                      shard->index, strerror(-rc));
            return;
        }
    }
    assert(rep->map.epoch >= old_epoch);
    if (rep->map.epoch != old_epoch)
        epoch_changed(rep, old_epoch);
    else if (!was_active && rep->map.active_epoch == rep->map.epoch && rep->phase == PHASE_ACTIVATING)
        takeover_serve(rep);
    sync_refresh(rep);
}

void replicas_volume_changed(struct replicas *r, const struct map_volume *volume)
{
    assert(volume != NULL && volume->id != 0);
    set_assert(r);
    /* A newer session or a resize: waiting requests of older sessions fail when they get their lock (I6). */
    if (volume->snaps_version == volume->changed_version)
        seal_volume_changed(r, volume);
}

static void volume_removed_shard(struct replicas *r, uint64_t volume, uint32_t index)
{
    set_assert(r);
    struct replica *rep = replica_find(r, volume, index);
    if (rep)
        removed_here(rep);
}

void replicas_volume_removed(struct replicas *r, uint64_t volume)
{
    set_assert(r);
    const struct map_volume *v = map_volume_by_id(r->cfg.map, volume);
    for (uint32_t i = 0; v && i < v->shard_count; i++)
        volume_removed_shard(r, volume, i);
}

void replicas_shards_cut(struct replicas *r, uint64_t volume, uint32_t first, uint32_t end)
{
    set_assert(r);
    assert(first < end);
    for (uint32_t i = first; i < end; i++)
        volume_removed_shard(r, volume, i);
}

void replicas_node_changed(struct replicas *r, const struct map_node *node)
{
    set_assert(r);
    if (!node->up)
        reserve_peer_down(r, node->id);
}

static void reset_volume(void *arg, const struct map_volume *volume)
{
    assert(volume != NULL && volume->id != 0);
    struct replicas *r = arg;
    for (uint32_t i = 0; i < volume->shard_count; i++)
        replicas_shard_changed(r, volume, &volume->shards[i]);
    seal_volume_changed(r, volume);
}

void replicas_map_reset(struct replicas *r)
{
    set_assert(r);
    const struct map_u64_slot *slot;
    bool again = true;
    while (again) { /* removed_here changes the table: restart the walk after each removal */
        again = false;
        for (uint32_t at = 0; (slot = map_u64_next(&r->by_shard, &at));) {
            struct replica *rep = slot->value;
            if (map_shard_at(r->cfg.map, rep->volume, rep->index) || rep->map.epoch == UINT64_MAX)
                continue;
            removed_here(rep);
            again = true;
            break;
        }
    }
    map_each_volume(r->cfg.map, reset_volume, r);
    replicas_map_settled(r);
}

void replicas_map_settled(struct replicas *r)
{
    set_assert(r);
    if (r->lease_next_version && map_version(r->cfg.map) >= r->lease_next_version)
        replicas_lease(r, r->lease_next_until_ns, r->lease_next_version);
    flush_map_changed(r);
}

/* ---- lease ---- */

void replicas_lease(struct replicas *r, uint64_t until_ns, uint64_t version)
{
    set_assert(r);
    if (until_ns == 0) { /* void now */
        r->lease_until_ns = r->lease_next_version = 0;
        return;
    }
    if (map_version(r->cfg.map) < version) { /* R9: counts only once this thread applied that version */
        r->lease_next_until_ns = until_ns;
        r->lease_next_version = version;
        return;
    }
    r->lease_next_version = 0;
    bool was_valid = env_now_ns(r->env) < r->lease_until_ns;
    bool advanced = version > r->lease_map_version;
    if (until_ns > r->lease_until_ns)
        r->lease_until_ns = until_ns;
    if (version > r->lease_map_version)
        r->lease_map_version = version;
    if (was_valid && !advanced)
        return;
    const struct map_u64_slot *slot;
    for (uint32_t at = 0; (slot = map_u64_next(&r->by_shard, &at));)
        ops_lease_renewed(slot->value);
}

bool replicas_cut_off(const struct replicas *r)
{
    set_assert(r);
    assert(r->env != NULL);
    return r->lease_until_ns != 0 && env_now_ns(r->env) > r->lease_until_ns + CUT_OFF_NS;
}

/* ---- the tick: retries, unreachable members, idle commits ---- */

static void reopen_if_quiet(struct replicas *r, struct replica *rep)
{
    set_assert(r);
    replica_assert(rep);
    uint64_t volume = rep->volume;
    uint32_t index = rep->index;
    if (!replica_quiet(rep))
        return;
    replica_release(rep);
    const struct map_volume *v = map_volume_by_id(r->cfg.map, volume);
    if (v && index < v->shard_count)
        replicas_shard_changed(r, v, &v->shards[index]);
}

static void tick_one(struct replicas *r, struct replica *rep)
{
    set_assert(r);
    replica_assert(rep);
    if (rep->map.epoch == UINT64_MAX) {
        reopen_if_quiet(r, rep);
        return;
    }
    flatten_refresh(rep);
    if (rep->phase == PHASE_IDLE)
        return;
    member_tick(rep);
    if (rep->phase == PHASE_SERVING)
        seal_tick(rep);
    if (rep->phase == PHASE_RAISING || rep->phase == PHASE_ACTIVATING || rep->phase == PHASE_COPYING)
        takeover_retry(rep);
    if (rep->phase == PHASE_SERVING || rep->phase == PHASE_COPYING)
        heal_tick(rep);
    if (rep->phase == PHASE_SERVING || rep->phase == PHASE_PARKED) {
        write_commit_tell(rep);
        sync_tick(rep);
    }
    if (rep->phase == PHASE_SERVING || rep->phase == PHASE_MOVING)
        move_check(rep);
}

static bool needs_tick(const struct replica *rep)
{
    replica_assert(rep);
    const struct map_volume *v = replica_volume(rep);
    return rep->map.epoch == UINT64_MAX || rep->phase != PHASE_IDLE || (v && v->flattening);
}

static void tick(struct env_timer *timer)
{
    struct replicas *r = list_entry(timer, struct replicas, tick);
    /* tick_one may remove a replica: collect first, bounded by the table. */
    uint32_t count = 0;
    struct replica **list = malloc((r->by_shard.count + 1u) * sizeof(*list));
    const struct map_u64_slot *slot;
    for (uint32_t at = 0; list && (slot = map_u64_next(&r->by_shard, &at));)
        if (needs_tick(slot->value))
            list[count++] = slot->value;
    for (uint32_t i = 0; i < count; i++)
        tick_one(r, list[i]);
    free(list);
    reserve_tick(r);
    env_timer_start(r->env, &r->tick, TICK_NS, tick);
}

/* ---- messages ---- */

void replicas_message(struct replicas *r, const struct peer_source *source, struct msg *msg)
{
    assert(source->node <= MAP_NODES_MAX);
    assert(msg != NULL);
    set_assert(r);
    if (r->closing) { /* the link goes next: the sender sees that */
        msg_free(msg);
        return;
    }
    switch (msg->header.opcode) {
    case WIRE_REPLICATE:
    case WIRE_SYNC_COPY:
    case WIRE_COMMIT:
    case WIRE_RAISE:
    case WIRE_TAKEOVER_DONE:
    case WIRE_REPAIR_READ:
    case WIRE_DAMAGED: backup_message(r, source, msg); return;
    case WIRE_MEMBER_FLUSH: flush_message(r, source, msg); return;
    case WIRE_RESERVE: reserve_message(r, source, msg); return;
    case WIRE_SEAL:
        seal_told(r, msg->header.volume, msg->header.generation);
        msg_free(msg);
        return;
    case WIRE_SYNC_START:
    case WIRE_SYNC_DIGEST:
    case WIRE_SYNC_GENERATIONS:
    case WIRE_SYNC_EPOCH:
    case WIRE_SYNC_JOIN:
    case WIRE_SYNC_END: sync_target_message(r, source, msg); return;
    default: {
        struct wire_header reply = {.status = -EBADMSG};
        peers_reply(r->cfg.peers, source, &msg->header, &reply, NULL, NULL, 0);
        msg_free(msg);
    }
    }
}

void replicas_peer_up(struct replicas *r, uint32_t node)
{
    assert(node <= MAP_NODES_MAX);
    set_assert(r);
    const struct map_u64_slot *slot;
    for (uint32_t at = 0; (slot = map_u64_next(&r->by_shard, &at));) {
        struct replica *rep = slot->value;
        uint32_t index = replica_member_index(rep, node);
        if (index == UINT32_MAX || rep->phase == PHASE_IDLE)
            continue;
        rep->unreachable_since[index] = 0;
        if (rep->phase == PHASE_RAISING)
            takeover_retry(rep);
        else
            write_peer_up(rep, node);
    }
}

void replicas_peer_down(struct replicas *r, uint32_t node)
{
    assert(node <= MAP_NODES_MAX);
    set_assert(r);
    reserve_peer_down(r, node);
    const struct map_u64_slot *slot;
    for (uint32_t at = 0; (slot = map_u64_next(&r->by_shard, &at));) {
        struct replica *rep = slot->value;
        if (rep->phase == PHASE_IDLE || replica_member_index(rep, node) == UINT32_MAX)
            continue;
        member_unreachable(rep, node);
        sync_peer_down(rep, node);
    }
}

void replicas_source_lost(struct replicas *r, const struct peer_source *source)
{
    assert(source->node <= MAP_NODES_MAX);
    set_assert(r);
    reserve_source_lost(r, source);
    /* R5: what a dead link asked for and has not begun is never begun. */
    const struct map_u64_slot *slot;
    for (uint32_t at = 0; (slot = map_u64_next(&r->by_shard, &at));) {
        struct replica *rep = slot->value;
        list_for_each_safe(pos, tmp, &rep->parked)
        {
            struct replica_op *op = list_entry(pos, struct replica_op, link);
            if (op->source.node != source->node || op->source.connection != source->connection)
                continue;
            list_remove(&op->link);
            r->stats.parked_ops--;
            op_complete_later(r, op, -ECANCELED);
        }
        list_for_each_safe(pos, tmp, &rep->ops)
        {
            struct op_ctx *ctx = list_entry(pos, struct op_ctx, link);
            if (!ctx->op || ctx->started || ctx->op->source.node != source->node ||
                ctx->op->source.connection != source->connection)
                continue;
            op_abort(ctx, -ECANCELED); /* a read may be with the drive */
            tmp = rep->ops.next;       /* the list may have changed: start over */
        }
    }
}

void replicas_store_damaged(struct replicas *r, struct store_shard *shard, uint64_t offset)
{
    set_assert(r);
    struct store_shard_id id = store_shard_identity(shard);
    struct replica *rep = replica_find(r, id.volume, id.shard);
    if (!rep || rep->shard != shard)
        return;
    if (rep->phase == PHASE_SERVING) {
        if (!heal_covers(rep, offset))
            (void)heal_start(rep, offset, offset + STORE_BLOCK_BYTES, 0, false, NULL, NULL);
        return;
    }
    if (rep->map.primary && rep->map.primary != r->cfg.node) {
        struct wire_header h;
        replica_header(rep, &h, WIRE_DAMAGED);
        h.offset = offset;
        h.length = STORE_BLOCK_BYTES;
        peers_notify(r->cfg.peers, rep->map.primary, &h);
    }
}

void replicas_store_failed(struct replicas *r)
{
    set_assert(r);
    /* The control plane takes every role away (STORE_FAILED); until then nothing here completes. */
    log_error("the store failed: resigning from every shard");
    (void)r;
}

/* ---- life ---- */

struct replicas *replicas_create(const struct replicas_config *config)
{
    assert(config->env && config->store && config->peers && config->map);
    assert(config->node > 0 && config->node <= MAP_NODES_MAX);
    struct replicas *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->cfg = *config;
    r->env = config->env;
    if (!r->cfg.drop_after_ns)
        r->cfg.drop_after_ns = ENV_MS(1000);
    if (!r->cfg.sync_shards_max)
        r->cfg.sync_shards_max = 2;
    if (!r->cfg.sync_chunks_max)
        r->cfg.sync_chunks_max = 4;
    map_u64_init(&r->by_shard);
    slab_init(&r->pool, sizeof(struct replica));
    list_head_init(&r->dirty);
    list_head_init(&r->activate);
    list_head_init(&r->drained);
    list_head_init(&r->free_ctx);
    list_head_init(&r->free_window);
    list_head_init(&r->flush_jobs);
    list_head_init(&r->credit_waiters);
    for (uint32_t i = 0; i <= MAP_NODES_MAX; i++) {
        r->credit[i].set = r;
        r->credit[i].node = i;
    }
    env_timer_start(r->env, &r->tick, TICK_NS, tick);
    return r;
}

static void free_pools(struct replicas *r)
{
    set_assert(r);
    struct list_node *node;
    while ((node = list_pop_front(&r->free_ctx)))
        free(list_entry(node, struct op_ctx, link));
    while ((node = list_pop_front(&r->free_window)))
        free(list_entry(node, struct window_entry, link));
}

void replicas_stop(struct replicas *r)
{
    set_assert(r);
    assert(!r->closing);
    r->closing = true;
    env_timer_stop(r->env, &r->tick);
    flush_cancel_all(r);
    const struct map_u64_slot *slot;
    for (uint32_t at = 0; (slot = map_u64_next(&r->by_shard, &at));)
        replica_step_down(slot->value);
}

bool replicas_quiet(const struct replicas *r)
{
    set_assert(r);
    const struct map_u64_slot *slot;
    for (uint32_t at = 0; (slot = map_u64_next(&r->by_shard, &at));) {
        if (!replica_quiet(slot->value))
            return false;
    }
    return r->ctx_count == 0 && r->flushes == 0 && r->activations == 0 && list_empty(&r->activate) && r->seals == 0 &&
           r->diffs == 0;
}

void replicas_destroy(struct replicas *r)
{
    if (!r)
        return;
    r->closing = true;
    env_timer_stop(r->env, &r->tick);
    flush_cancel_all(r);
    const struct map_u64_slot *slot;
    uint32_t at = 0;
    while ((slot = map_u64_next(&r->by_shard, &at))) {
        struct replica *rep = slot->value;
        replica_step_down(rep);
        assert(replica_quiet(rep)); /* the daemon drains its drive and links first */
        replica_release(rep);
        at = 0;
    }
    map_u64_close(&r->by_shard);
    slab_close(&r->pool);
    free_pools(r);
    free(r);
}

const struct replicas_stats *replicas_stats(const struct replicas *r)
{
    set_assert(r);
    struct replicas *mutable_r = (struct replicas *)(uintptr_t)r;
    mutable_r->stats.primaries = mutable_r->stats.serving = mutable_r->stats.ops_in_flight = 0;
    const struct map_u64_slot *slot;
    for (uint32_t at = 0; (slot = map_u64_next(&r->by_shard, &at));) {
        const struct replica *rep = slot->value;
        mutable_r->stats.primaries += rep->phase != PHASE_IDLE;
        mutable_r->stats.serving += rep->phase == PHASE_SERVING;
    }
    mutable_r->stats.ops_in_flight = r->ctx_count;
    return &r->stats;
}

uint32_t replicas_syncs(const struct replicas *r, struct replica_sync_info *ret_infos, uint32_t max)
{
    set_assert(r);
    uint32_t count = 0;
    const struct map_u64_slot *slot;
    for (uint32_t at = 0; count < max && (slot = map_u64_next(&r->by_shard, &at));)
        count += sync_infos(slot->value, ret_infos + count, max - count);
    return count;
}

int replicas_extents(struct replicas *r, uint64_t volume, uint32_t shard, uint64_t offset, uint64_t length,
                     struct store_extent *ret_extents, uint32_t max, uint32_t *ret_count)
{
    set_assert(r);
    struct replica *rep = replica_find(r, volume, shard);
    if (!rep || rep->phase != PHASE_SERVING || !replica_lease_valid(rep))
        return -ESTALE;
    const struct map_volume *v = replica_volume(rep);
    *ret_count = store_extents(rep->shard, v ? v->generation : 1, offset, length, ret_extents, max);
    return 0;
}
