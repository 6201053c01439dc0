/* SPDX-License-Identifier: Apache-2.0 */
/* member: members that do not answer, and handing the primary role back to the volume's home.
 *
 * - member_unreachable: the first time a send found no link; after drop_after the member is reported: MEMBER_DROP, which the control
 *   plane refuses when it would leave fewer than min_replicas (R8).
 * - member_failed: a member answered with an I/O error: reported at once.
 * - move_check: home is in sync again: stop admitting, let what runs end, propose PRIMARY_MOVE (R10: the old primary agreed).
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "server/replica/replica_internal.h"

#define LOG_MODULE "replica"
#define MOVE_AFTER_NS ENV_MS(2000) /* serve at least this long before handing over */

static void drop_result(struct replica_proposal *p, const struct map_result *result)
{
    assert(result != NULL && p->owner != NULL);
    struct replica *rep = p->owner;
    rep->drop_proposed = false;
    if (result->rc != 0) {
        /* refused or overtaken: the map says what holds now; wait a full drop_after before reporting again */
        memset(rep->unreachable_since, 0, sizeof(rep->unreachable_since));
        log_debug("volume %llu shard %u: member drop: %s", (unsigned long long)rep->volume, rep->index,
                  strerror(-result->rc));
    }
}

static void propose_drop(struct replica *rep, const struct map_member *member)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    if (rep->drop_proposed || rep->map.epoch == UINT64_MAX)
        return;
    log_warn("volume %llu shard %u epoch %llu: reporting member %u as failed", (unsigned long long)rep->volume,
             rep->index, (unsigned long long)rep->map.epoch, member->node);
    rep->drop_proposed = true;
    r->stats.drops_proposed++;
    rep->drop_proposal = (struct replica_proposal){.cb = drop_result, .owner = rep};
    /* node: who is dropped; to_node: who reports (compare-and-set on epoch and incarnation, R4) */
    struct map_entry entry = {
        .kind = MAP_ENTRY_MEMBER_DROP,
        .volume = rep->volume,
        .shard = rep->index,
        .epoch = rep->map.epoch,
        .node = member->node,
        .incarnation = member->incarnation,
        .to_node = r->cfg.node,
    };
    r->cfg.callbacks.propose(r->cfg.arg, &entry, &rep->drop_proposal);
}

void member_unreachable(struct replica *rep, uint32_t node)
{
    assert(node <= MAP_NODES_MAX);
    replica_assert(rep);
    uint32_t index = replica_member_index(rep, node);
    if (index == UINT32_MAX || rep->unreachable_since[index])
        return;
    rep->unreachable_since[index] = env_now_ns(rep->set->env);
}

void member_failed(struct replica *rep, uint32_t node)
{
    assert(node <= MAP_NODES_MAX);
    replica_assert(rep);
    const struct map_member *member = map_member_of(&rep->map, node);
    if (rep->phase == PHASE_IDLE || !member || !(member->flags & MAP_MEMBER_IN_SYNC))
        return;
    propose_drop(rep, member);
}

void member_tick(struct replica *rep)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    if (rep->phase == PHASE_IDLE)
        return;
    for (uint32_t i = 0; i < rep->map.member_count; i++) {
        const struct map_member *m = &rep->map.members[i];
        if (m->node == r->cfg.node || !(m->flags & MAP_MEMBER_IN_SYNC))
            continue;
        if (peers_is_up(r->cfg.peers, m->node)) {
            rep->unreachable_since[i] = 0;
            continue;
        }
        member_unreachable(rep, m->node);
        if (env_now_ns(r->env) - rep->unreachable_since[i] > r->cfg.drop_after_ns)
            propose_drop(rep, m);
    }
}

/* ---- the role goes home ---- */

static void move_result(struct replica_proposal *p, const struct map_result *result)
{
    assert(result != NULL && p->owner != NULL);
    struct replica *rep = p->owner;
    rep->move_proposed = false;
    if (rep->phase != PHASE_MOVING)
        return; /* it moved, or something else happened: the map was followed */
    log_debug("volume %llu shard %u: move refused: %s", (unsigned long long)rep->volume, rep->index,
              strerror(-result->rc));
    rep->phase = PHASE_SERVING;
    rep->serving_since_ns = env_now_ns(rep->set->env);
    ops_resume(rep);
}

static bool calm(const struct replica *rep)
{
    replica_assert(rep);
    if (!list_empty(&rep->sent) || rep->drive_writes > 0)
        return false;
    list_for_each(pos, &rep->ops)
    {
        const struct op_ctx *ctx = list_entry(pos, struct op_ctx, link);
        if (ctx->state == CTX_SENT || ctx->state == CTX_PREPARING)
            return false;
    }
    return true;
}

void move_check(struct replica *rep)
{
    replica_assert(rep);
    struct replicas *r = rep->set;
    const struct map_volume *v = replica_volume(rep);
    if (rep->phase == PHASE_SERVING) {
        const struct map_member *home = v ? map_member_of(&rep->map, v->home) : NULL;
        if (!home || v->home == r->cfg.node || !(home->flags & MAP_MEMBER_IN_SYNC) ||
            !map_member_live(r->cfg.map, home) || rep->sync_count > 0 || rep->drop_proposed ||
            !peers_is_up(r->cfg.peers, v->home) || env_now_ns(r->env) - rep->serving_since_ns < MOVE_AFTER_NS)
            return;
        rep->phase = PHASE_MOVING; /* nothing new begins; what runs may end */
    }
    if (rep->phase != PHASE_MOVING || rep->move_proposed || !calm(rep) || !v)
        return;
    log_info("volume %llu shard %u: handing the primary role to its home, node %u", (unsigned long long)rep->volume,
             rep->index, v->home);
    rep->move_proposed = true;
    rep->move_proposal = (struct replica_proposal){.cb = move_result, .owner = rep};
    struct map_entry entry = {
        .kind = MAP_ENTRY_PRIMARY_MOVE,
        .volume = rep->volume,
        .shard = rep->index,
        .epoch = rep->map.epoch,
        .node = r->cfg.node,
        .incarnation = r->cfg.incarnation,
        .to_node = v->home,
    };
    r->cfg.callbacks.propose(r->cfg.arg, &entry, &rep->move_proposal);
}
