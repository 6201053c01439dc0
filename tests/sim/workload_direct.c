/* SPDX-License-Identifier: Apache-2.0 */
/* workload_direct: operations go to the primary's replicas without links between.
 *
 * - submit: the node that the map names as primary; refused or lost, it is tried again where the map says by then, under the
 *   guest's newest session (what a gateway does, R7, R19).
 * - a fail-over opens a new session; what is in flight under the old one is tried again under the new one while the old attempts
 *   may still be on their way (I6, I8).
 * - a flush goes to every primary of the volume; it counts if no shard changed its epoch meanwhile (R13).
 * Failure: a process that dies takes its attempts with it; the poll notices, as a dead link would tell.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "tests/sim/workload.h"

#define STUCK_NS ENV_MS(2500)

/* One try of an operation (of a flush: at one primary). Lives until its callback, or as long as the process it was given to. */
struct attempt {
    struct replica_op op;
    struct slot *slot; /* NULL: nobody waits for it any more */
    struct direct *direct;
    struct world_event submit;
    struct buf *buf;
    struct list_node link; /* direct->attempts */
    int node;
    uint32_t life;
    bool submitted;
    uint64_t begun_ns;
    uint32_t crcs[WIRE_BLOCKS_MAX];
};

struct flushing {
    struct attempt *parts[SIM_NODES_MAX + 1];
    uint64_t epochs[64];
    bool failed;
};

struct direct {
    struct guest *guest;
    struct plane_attach attach;
    bool attaching;
    bool fenced; /* a newer session than ours is open: an attach of ours whose answer was lost */
    uint64_t session;
    struct list_node attempts;
    struct world_event poll;
    struct attempt *current[SLOTS_MAX];
    struct flushing flushes[SLOTS_MAX];
};

static void direct_submit(struct slot *slot);

static struct world *world_of(const struct direct *d)
{
    return d->guest->sim->world;
}

static uint32_t slot_index(const struct slot *slot)
{
    return (uint32_t)(slot - slot->guest->slots);
}

/* ---- sessions ---- */

static void attached(struct plane_attach *req, int rc, uint64_t session)
{
    struct direct *d = req->owner;
    struct guest *g = d->guest;
    d->attaching = false;
    if (rc != 0)
        return; /* poll tries again */
    assert(session > d->session);
    sim_note(g->sim, "volume %" PRIu64 ": session %" PRIu64, g->volume, session);
    d->session = session;
    d->fenced = false;
    for (uint32_t i = 0; i < g->slot_count; i++) { /* R19: everything again, under the new number */
        struct slot *slot = &g->slots[i];
        if (!slot->busy || slot->kind == KIND_FLUSH)
            continue;
        if (d->current[i])
            d->current[i]->slot = NULL;
        d->current[i] = NULL;
        direct_submit(slot);
    }
}

static void attach_start(struct direct *d, uint32_t flags)
{
    struct sim *sim = d->guest->sim;
    uint32_t first = 1 + (uint32_t)guest_random(d->guest, (uint64_t)sim->node_count);
    d->attaching = true;
    d->attach.flags = flags;
    d->attach.gateway = first;
    for (uint32_t i = 0; i < (uint32_t)sim->node_count; i++) {
        uint32_t id = 1 + (first + i) % (uint32_t)sim->node_count;
        if (sim_node_serving(sim->nodes[id]))
            d->attach.gateway = id;
    }
    plane_attach(sim->plane, &d->attach);
}

static void direct_failover(struct guest *g)
{
    struct direct *d = g->impl;
    if (!d->attaching && d->session)
        attach_start(d, MAP_SESSION_FAILOVER);
}

static void direct_crash(struct guest *g)
{
    struct direct *d = g->impl;
    for (uint32_t i = 0; i < g->slot_count; i++) {
        struct slot *slot = &g->slots[i];
        if (!slot->busy || g->reading_all)
            continue;
        if (d->current[i])
            d->current[i]->slot = NULL;
        d->current[i] = NULL;
        for (int k = 0; k <= SIM_NODES_MAX; k++) {
            if (d->flushes[i].parts[k])
                d->flushes[i].parts[k]->slot = NULL;
            d->flushes[i].parts[k] = NULL;
        }
        slot_ended(slot, -EOWNERDEAD, NULL, 0, 0);
    }
    direct_failover(g);
}

/* ---- ends of attempts ---- */

/* -EIO: that primary's drive; it resigns, and the next one answers. */
static bool again_later(const struct guest *g, int rc)
{
    return rc == -ESTALE || rc == -ECANCELED || rc == -EPERM || rc == -EAGAIN ||
           (rc == -EIO && g->sim->scenario.drive_eio_per_min > 0);
}

static void attempt_free(struct attempt *attempt)
{
    list_remove(&attempt->link);
    world_cancel(world_of(attempt->direct), &attempt->submit);
    buf_unref(attempt->buf);
    free(attempt);
}

static void flush_judge(struct slot *slot)
{
    struct direct *d = slot->guest->impl;
    struct flushing *f = &d->flushes[slot_index(slot)];
    const struct map_volume *v = guest_map_volume(slot->guest);
    for (int i = 1; i <= slot->guest->sim->node_count; i++)
        if (f->parts[i])
            return;
    bool same = !f->failed;
    for (uint32_t i = 0; i < v->shard_count; i++)
        same = same && v->shards[i].epoch == f->epochs[i];
    if (same)
        slot_ended(slot, 0, NULL, slot->start_ns, 0);
    else
        slot_retry(slot);
}

static void flush_part_done(struct slot *slot, const struct attempt *attempt, int rc)
{
    struct direct *d = slot->guest->impl;
    struct flushing *f = &d->flushes[slot_index(slot)];
    assert(f->parts[attempt->node] == attempt);
    f->parts[attempt->node] = NULL;
    if (rc != 0)
        f->failed = true;
    if (rc != 0 && !again_later(slot->guest, rc))
        sim_fail(slot->guest->sim, "a flush ended with %s", strerror(-rc));
    flush_judge(slot);
}

static void attempt_over(struct attempt *attempt, int rc)
{
    struct slot *slot = attempt->slot;
    struct direct *d = attempt->direct;
    attempt->slot = NULL;
    if (!slot)
        return;
    if (slot->kind == KIND_FLUSH) {
        flush_part_done(slot, attempt, rc);
        return;
    }
    d->fenced = d->fenced || (rc == -EPERM && attempt->op.session == d->session);
    assert(d->current[slot_index(slot)] == attempt);
    d->current[slot_index(slot)] = NULL;
    if (again_later(d->guest, rc))
        slot_retry(slot);
    else
        slot_ended(slot, rc, attempt->buf ? attempt->buf->data : NULL, attempt->begun_ns, attempt->node);
}

static void check_sums(const struct attempt *attempt)
{
    uint32_t found[WIRE_BLOCKS_MAX], count = attempt->op.length / STORE_BLOCK_BYTES;
    crc32c_blocks(attempt->buf->data, count, found);
    if (memcmp(found, attempt->crcs, count * 4u) != 0)
        sim_fail(attempt->direct->guest->sim, "a read's checksums do not fit its bytes");
}

static void attempt_done(struct replica_op *op, int rc)
{
    struct attempt *attempt = op->owner;
    if (rc == 0 && op->opcode == WIRE_READ)
        check_sums(attempt);
    attempt_over(attempt, rc);
    attempt_free(attempt);
}

/* ---- attempts ---- */

static bool attempt_prepare(struct attempt *attempt, const struct slot *slot, struct buf_pool *pool)
{
    struct replica_op *op = &attempt->op;
    op->opcode = slot->kind == KIND_READ ? WIRE_READ : slot->kind == KIND_WRITE ? WIRE_WRITE : WIRE_ZERO;
    op->flags = slot->fua ? WIRE_F_FUA : 0;
    op->flags |= slot->kind == KIND_ZERO ? (slot->stamp & 1 ? WIRE_F_NO_HOLE : WIRE_F_TRIM) : 0;
    op->shard = (uint32_t)(slot->offset / slot->guest->shard_bytes);
    op->offset = slot->offset % slot->guest->shard_bytes;
    op->length = slot->length;
    op->crcs = attempt->crcs;
    if (slot->kind == KIND_ZERO)
        return true;
    attempt->buf = buf_alloc(pool, slot->length < STORE_BLOCK_BYTES ? STORE_BLOCK_BYTES : slot->length);
    if (!attempt->buf)
        return false;
    op->buf = attempt->buf;
    if (slot->kind == KIND_READ)
        return true;
    slot_fill(slot, attempt->buf->data);
    if (slot->length < STORE_BLOCK_BYTES)
        attempt->crcs[0] = crc32c(attempt->buf->data, slot->length);
    else
        crc32c_blocks(attempt->buf->data, slot->length / STORE_BLOCK_BYTES, attempt->crcs);
    return true;
}

/* In the node's own context, and not while it is paused. */
static void attempt_submit(struct world_event *event)
{
    struct attempt *attempt = list_entry(event, struct attempt, submit);
    struct guest *g = attempt->direct->guest;
    struct sim_node *node = g->sim->nodes[attempt->node];
    struct slot *slot = attempt->slot;
    bool there = slot && sim_node_serving(node) && sim_node_life(node) == attempt->life;
    attempt->op.opcode = WIRE_FLUSH;
    if (there && slot->kind != KIND_FLUSH)
        there = attempt_prepare(attempt, slot, sim_node_pool(node));
    if (!there) {
        attempt_over(attempt, -ECANCELED);
        attempt_free(attempt);
        return;
    }
    attempt->submitted = true;
    attempt->op.cb = attempt_done;
    attempt->op.owner = attempt;
    attempt->op.volume = g->volume;
    replicas_submit(sim_node_replicas(node), &attempt->op);
}

static struct attempt *attempt_start(struct slot *slot, int node)
{
    struct direct *d = slot->guest->impl;
    struct attempt *attempt = calloc(1, sizeof(*attempt));
    assert(attempt);
    attempt->slot = slot;
    attempt->direct = d;
    attempt->node = node;
    attempt->life = sim_node_life(slot->guest->sim->nodes[node]);
    attempt->begun_ns = world_now_ns(world_of(d));
    attempt->op.session = d->session;
    list_push_back(&d->attempts, &attempt->link);
    world_schedule(world_of(d), &attempt->submit, node, 1000 + guest_random(slot->guest, 20000), attempt_submit);
    return attempt;
}

static void flush_submit_all(struct slot *slot)
{
    struct direct *d = slot->guest->impl;
    struct sim *sim = slot->guest->sim;
    struct flushing *f = &d->flushes[slot_index(slot)];
    const struct map_volume *v = guest_map_volume(slot->guest);
    bool wanted[SIM_NODES_MAX + 1] = {false};
    assert(v->shard_count <= 64);
    f->failed = false;
    for (uint32_t i = 0; i < v->shard_count; i++) {
        int node = (int)v->shards[i].primary;
        f->epochs[i] = v->shards[i].epoch;
        if (node == 0 || !sim_node_serving(sim->nodes[node])) {
            slot_retry(slot);
            return;
        }
        wanted[node] = true;
    }
    for (int i = 1; i <= sim->node_count; i++)
        if (wanted[i])
            f->parts[i] = attempt_start(slot, i);
}

static void direct_submit(struct slot *slot)
{
    struct direct *d = slot->guest->impl;
    world_cancel(world_of(d), &slot->event);
    slot->tries++;
    if (slot->kind == KIND_FLUSH) {
        flush_submit_all(slot);
        return;
    }
    const struct map_volume *v = guest_map_volume(slot->guest);
    int node = (int)v->shards[slot->offset / slot->guest->shard_bytes].primary;
    if (!d->session || node == 0 || !sim_node_serving(slot->guest->sim->nodes[node])) {
        slot->tries--;
        slot_retry(slot);
        return;
    }
    d->current[slot_index(slot)] = attempt_start(slot, node);
}

/* ---- what a dead link would tell ---- */

static void attempt_lost(struct attempt *attempt)
{
    static struct list_node graveyard; /* a dead process's memory still points to it */
    attempt_over(attempt, -ECANCELED);
    if (!attempt->submitted) {
        attempt_free(attempt);
        return;
    }
    if (!graveyard.next)
        list_head_init(&graveyard);
    list_remove(&attempt->link);
    list_push_back(&graveyard, &attempt->link);
}

static void poll(struct world_event *event)
{
    struct direct *d = list_entry(event, struct direct, poll);
    struct guest *g = d->guest;
    uint64_t now = world_now_ns(world_of(d));
    const struct map_volume *v = guest_map_volume(g);
    bool stuck = false;
    list_for_each_safe(pos, tmp, &d->attempts)
    {
        struct attempt *attempt = list_entry(pos, struct attempt, link);
        const struct sim_node *node = g->sim->nodes[attempt->node];
        if (!sim_node_running(node) || sim_node_life(node) != attempt->life) {
            attempt_lost(attempt);
            continue;
        }
        bool moved = attempt->slot && attempt->slot->kind != KIND_FLUSH &&
                     v->shards[attempt->op.shard].primary != (uint32_t)attempt->node;
        stuck = stuck || (moved && now - attempt->begun_ns > STUCK_NS);
    }
    if (!d->session && !d->attaching)
        attach_start(d, 0);
    else if (stuck || d->fenced)
        direct_failover(g); /* what the client does whose gateway is silent */
    world_schedule(world_of(d), &d->poll, WORLD_NOBODY, ENV_MS(20), poll);
}

/* ---- life ---- */

static void direct_create(struct guest *g)
{
    struct direct *d = calloc(1, sizeof(*d));
    assert(d);
    d->guest = g;
    g->impl = d;
    list_head_init(&d->attempts);
    d->attach.volume = g->volume;
    d->attach.cb = attached;
    d->attach.owner = d;
    memset(d->attach.attachment, (int)(g->volume + 1), sizeof(d->attach.attachment));
    world_schedule(world_of(d), &d->poll, WORLD_NOBODY, ENV_MS(1), poll);
}

static void direct_destroy(struct guest *g)
{
    struct direct *d = g->impl;
    world_cancel(world_of(d), &d->poll);
    list_for_each_safe(pos, tmp, &d->attempts)
    {
        struct attempt *attempt = list_entry(pos, struct attempt, link);
        attempt->slot = NULL;
        attempt_lost(attempt);
    }
    free(d);
}

static bool direct_idle(const struct guest *g)
{
    const struct direct *d = g->impl;
    return !d->attaching && list_empty(&d->attempts);
}

static void direct_print(const struct slot *slot)
{
    const struct direct *d = slot->guest->impl;
    const struct flushing *f = &d->flushes[slot_index(slot)];
    if (d->current[slot_index(slot)])
        fprintf(stderr, " at node %d", d->current[slot_index(slot)]->node);
    for (int k = 1; k <= slot->guest->sim->node_count; k++)
        if (f->parts[k])
            fprintf(stderr, " part at node %d", k);
}

const struct driver workload_direct = {
    .create = direct_create,
    .destroy = direct_destroy,
    .submit = direct_submit,
    .failover = direct_failover,
    .crash = direct_crash,
    .idle = direct_idle,
    .print = direct_print,
};
