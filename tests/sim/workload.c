/* SPDX-License-Identifier: Apache-2.0 */
/* workload: a client of one volume: random overlapping I/O, every cell stamped, judged by the history.
 *
 * - each of its slots issues an operation, waits for the answer, waits a little, issues the next.
 * - an operation is submitted to the replicas of the node that the map names as primary; refused or lost, it is tried again where
 *   the map says by then, under the client's newest session (what a gateway does, R7, R19).
 * - a fail-over opens a new session; what is in flight under the old one is tried again under the new one while the old attempts
 *   may still be on their way (I6, I8).
 * Failure: an answer no client should ever get is a failure of the run.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "tests/sim/sim.h"

#define SLOTS_MAX 32u
#define STUCK_NS ENV_MS(2500)
#define CHUNK STORE_CHUNK_BYTES

enum kind { KIND_READ, KIND_WRITE, KIND_ZERO, KIND_FLUSH };

struct slot;

/* One try of an operation (of a flush: at one primary). Lives until its callback, or as long as the process it was given to. */
struct attempt {
    struct replica_op op;
    struct slot *slot; /* NULL: nobody waits for it any more */
    struct client *client;
    struct world_event submit;
    struct buf *buf;
    struct list_node link; /* client->attempts */
    int node;
    uint32_t life;
    bool submitted;
    uint64_t begun_ns;
    uint32_t crcs[WIRE_BLOCKS_MAX];
};

struct slot {
    struct client *client;
    struct world_event event;
    bool busy;
    enum kind kind;
    uint64_t offset; /* bytes in the volume */
    uint32_t length;
    bool fua;
    uint64_t stamp, start_ns;
    uint64_t *ids;
    uint32_t cells, tries;
    struct attempt *attempt;
    /* flush */
    struct attempt *parts[SIM_NODES_MAX + 1];
    uint64_t epochs[64];
    uint64_t losses;
    bool read_all;
};

struct client {
    struct sim *sim;
    uint64_t volume, bytes, shard_bytes;
    uint32_t shards;
    struct history *history;
    struct plane_attach attach;
    bool attaching, quiet;
    uint64_t session, next_stamp, losses, ops, fails;
    uint64_t hot[64];
    uint32_t hot_count;
    struct list_node attempts;
    struct slot slots[SLOTS_MAX];
    uint32_t slot_count;
    struct world_event poll;
    uint64_t read_all_next;
    bool reading_all;
};

static void slot_next(struct world_event *event);
static void slot_try(struct slot *slot);

static struct world *world_of(const struct client *c)
{
    return c->sim->world;
}

static uint64_t below(const struct client *c, uint64_t bound)
{
    return world_random_below(world_of(c), bound);
}

static bool percent(const struct client *c, uint64_t percent_value)
{
    return below(c, 100) < percent_value;
}

/* ---- sessions ---- */

static void attached(struct plane_attach *req, int rc, uint64_t session);

static void attach_start(struct client *c, uint32_t flags)
{
    struct sim *sim = c->sim;
    uint32_t first = 1 + (uint32_t)below(c, (uint64_t)sim->node_count);
    c->attaching = true;
    c->attach.volume = c->volume;
    c->attach.flags = flags;
    c->attach.cb = attached;
    c->attach.owner = c;
    c->attach.gateway = first;
    for (uint32_t i = 0; i < (uint32_t)sim->node_count; i++) {
        uint32_t id = 1 + (first + i) % (uint32_t)sim->node_count;
        if (sim_node_serving(sim->nodes[id]))
            c->attach.gateway = id;
    }
    plane_attach(sim->plane, &c->attach);
}

static void attached(struct plane_attach *req, int rc, uint64_t session)
{
    struct client *c = req->owner;
    c->attaching = false;
    if (rc != 0)
        return; /* poll tries again */
    assert(session > c->session);
    sim_note(c->sim, "volume %" PRIu64 ": session %" PRIu64, c->volume, session);
    c->session = session;
    for (uint32_t i = 0; i < c->slot_count; i++) { /* R19: everything again, under the new number */
        struct slot *slot = &c->slots[i];
        if (!slot->busy || slot->kind == KIND_FLUSH)
            continue;
        if (slot->attempt)
            slot->attempt->slot = NULL;
        slot->attempt = NULL;
        slot_try(slot);
    }
}

void client_failover(struct client *c)
{
    if (!c->attaching && c->session)
        attach_start(c, MAP_SESSION_FAILOVER);
}

/* ---- ends ---- */

static void slot_done(struct slot *slot)
{
    struct client *c = slot->client;
    c->ops++;
    free(slot->ids);
    slot->ids = NULL;
    slot->busy = false;
    slot->attempt = NULL;
    uint64_t gap = c->reading_all ? 0 : below(c, 2 * c->sim->scenario.op_gap_us * 1000 + 1);
    world_schedule(world_of(c), &slot->event, WORLD_NOBODY, gap, slot_next);
}

static void judge_read(struct slot *slot, const struct attempt *attempt)
{
    struct client *c = slot->client;
    uint64_t now = world_now_ns(world_of(c));
    uint32_t found[WIRE_BLOCKS_MAX];
    crc32c_blocks(attempt->buf->data, slot->length / STORE_BLOCK_BYTES, found);
    if (memcmp(found, attempt->crcs, slot->length / STORE_BLOCK_BYTES * 4u) != 0)
        sim_fail(c->sim, "a read's checksums do not fit its bytes");
    uint64_t first = slot->offset / HISTORY_CELL;
    for (uint32_t i = 0; i < slot->cells; i++)
        if (!history_read(c->history, first + i, history_stamp_of(attempt->buf->data + (uint64_t)i * HISTORY_CELL),
                          attempt->begun_ns, now))
            sim_fail(c->sim, "volume %" PRIu64 " offset %" PRIu64 ": wrong content from node %d (I7)", c->volume,
                     (first + i) * HISTORY_CELL, attempt->node);
}

static void judge_write(struct slot *slot, int rc)
{
    struct client *c = slot->client;
    uint64_t first = slot->offset / HISTORY_CELL, now = world_now_ns(world_of(c));
    for (uint32_t i = 0; i < slot->cells; i++) {
        if (rc == -ENOSPC && slot->tries == 1)
            history_write_refused(c->history, first + i, slot->ids[i]);
        if (rc != 0)
            continue;
        history_write_acked(c->history, first + i, slot->ids[i], now);
        if (slot->fua)
            history_write_durable(c->history, first + i, slot->ids[i]);
    }
}

/* -EIO: that primary's drive; it resigns, and the next one answers. */
static bool again_later(const struct client *c, int rc)
{
    return rc == -ESTALE || rc == -ECANCELED || rc == -EPERM || rc == -EAGAIN ||
           (rc == -EIO && c->sim->scenario.drive_eio_per_min > 0);
}

static void slot_retry(struct slot *slot)
{
    struct client *c = slot->client;
    slot->attempt = NULL;
    world_schedule(world_of(c), &slot->event, WORLD_NOBODY, ENV_MS(1) + below(c, ENV_MS(20)), slot_next);
}

static void attempt_free(struct attempt *attempt)
{
    list_remove(&attempt->link);
    world_cancel(world_of(attempt->client), &attempt->submit);
    buf_unref(attempt->buf);
    free(attempt);
}

/* ---- flush: at every primary of the volume; counts if no shard changed its epoch meanwhile (R13) ---- */

static const struct map_volume *volume_now(const struct client *c)
{
    return map_volume_by_id(plane_map(c->sim->plane), c->volume);
}

static void flush_judge(struct slot *slot)
{
    struct client *c = slot->client;
    const struct map_volume *v = volume_now(c);
    for (int i = 1; i <= c->sim->node_count; i++)
        if (slot->parts[i])
            return;
    bool same = true;
    for (uint32_t i = 0; i < v->shard_count; i++)
        same = same && v->shards[i].epoch == slot->epochs[i];
    if (slot->tries == 0 || !same) {
        slot_retry(slot);
        return;
    }
    if (slot->losses == c->losses) /* else the client is told of a loss instead (R13) */
        history_flushed(c->history, slot->start_ns, world_now_ns(world_of(c)));
    slot_done(slot);
}

static void flush_part_done(struct slot *slot, struct attempt *attempt, int rc)
{
    assert(slot->parts[attempt->node] == attempt);
    slot->parts[attempt->node] = NULL;
    if (rc != 0)
        slot->tries = 0; /* failed: all again */
    flush_judge(slot);
}

/* ---- attempts ---- */

static void attempt_done(struct replica_op *op, int rc)
{
    struct attempt *attempt = op->owner;
    struct slot *slot = attempt->slot;
    struct client *c = attempt->client;
    if (slot && slot->kind == KIND_FLUSH) {
        if (rc != 0 && !again_later(c, rc))
            sim_fail(c->sim, "a flush ended with %s", strerror(-rc));
        flush_part_done(slot, attempt, rc);
    } else if (slot && again_later(c, rc)) {
        slot_retry(slot);
    } else if (slot) {
        if (rc == 0 && slot->kind == KIND_READ)
            judge_read(slot, attempt);
        else if (slot->kind != KIND_READ)
            judge_write(slot, rc);
        if (rc == -ENOSPC || (rc == -EIO && c->sim->scenario.rot_per_min > 0))
            c->fails++;
        else if (rc != 0)
            sim_fail(c->sim, "an operation of kind %d ended with %s", (int)slot->kind, strerror(-rc));
        slot_done(slot);
    }
    attempt_free(attempt);
}

static bool attempt_prepare(struct attempt *attempt, const struct slot *slot, struct buf_pool *pool)
{
    struct replica_op *op = &attempt->op;
    op->opcode = slot->kind == KIND_READ ? WIRE_READ : slot->kind == KIND_WRITE ? WIRE_WRITE : WIRE_ZERO;
    op->flags = slot->fua ? WIRE_F_FUA : 0;
    op->flags |= slot->kind == KIND_ZERO ? (slot->stamp & 1 ? WIRE_F_NO_HOLE : WIRE_F_TRIM) : 0;
    op->shard = (uint32_t)(slot->offset / slot->client->shard_bytes);
    op->offset = slot->offset % slot->client->shard_bytes;
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
    for (uint32_t i = 0; i < slot->cells; i++)
        history_fill(attempt->buf->data + (uint64_t)i * HISTORY_CELL, slot->stamp);
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
    struct sim_node *node = attempt->client->sim->nodes[attempt->node];
    bool there = sim_node_serving(node) && sim_node_life(node) == attempt->life;
    struct slot *slot = attempt->slot;
    if (there && slot && (slot->kind == KIND_FLUSH || attempt_prepare(attempt, slot, sim_node_pool(node)))) {
        attempt->submitted = true;
        attempt->op.cb = attempt_done;
        attempt->op.owner = attempt;
        attempt->op.volume = attempt->client->volume;
        if (slot->kind == KIND_FLUSH)
            attempt->op.opcode = WIRE_FLUSH;
        replicas_submit(sim_node_replicas(node), &attempt->op);
        return;
    }
    if (slot && slot->kind == KIND_FLUSH)
        flush_part_done(slot, attempt, -ECANCELED);
    else if (slot)
        slot_retry(slot);
    attempt_free(attempt);
}

static struct attempt *attempt_start(struct slot *slot, int node)
{
    struct client *c = slot->client;
    struct attempt *attempt = calloc(1, sizeof(*attempt));
    assert(attempt);
    attempt->slot = slot;
    attempt->client = c;
    attempt->node = node;
    attempt->life = sim_node_life(c->sim->nodes[node]);
    attempt->begun_ns = world_now_ns(world_of(c));
    attempt->op.session = c->session;
    list_push_back(&c->attempts, &attempt->link);
    world_schedule(world_of(c), &attempt->submit, node, 1000 + below(c, 20000), attempt_submit);
    return attempt;
}

static void flush_try(struct slot *slot)
{
    struct client *c = slot->client;
    const struct map_volume *v = volume_now(c);
    bool wanted[SIM_NODES_MAX + 1] = {false};
    assert(v->shard_count <= 64);
    slot->losses = c->losses;
    for (uint32_t i = 0; i < v->shard_count; i++) {
        int node = (int)v->shards[i].primary;
        slot->epochs[i] = v->shards[i].epoch;
        if (node == 0 || !sim_node_serving(c->sim->nodes[node])) {
            slot_retry(slot);
            return;
        }
        wanted[node] = true;
    }
    slot->tries = 1;
    for (int i = 1; i <= c->sim->node_count; i++)
        if (wanted[i])
            slot->parts[i] = attempt_start(slot, i);
}

static void slot_try(struct slot *slot)
{
    struct client *c = slot->client;
    world_cancel(world_of(c), &slot->event);
    if (slot->kind == KIND_FLUSH) {
        flush_try(slot);
        return;
    }
    const struct map_volume *v = volume_now(c);
    int node = (int)v->shards[slot->offset / c->shard_bytes].primary;
    if (!c->session || node == 0 || !sim_node_serving(c->sim->nodes[node])) {
        slot_retry(slot);
        return;
    }
    slot->tries++;
    slot->attempt = attempt_start(slot, node);
}

/* ---- what to do next ---- */

static uint64_t pick_block(const struct client *c)
{
    uint64_t blocks = c->bytes / STORE_BLOCK_BYTES;
    if (!percent(c, c->sim->scenario.hot_percent))
        return below(c, blocks);
    uint64_t spot = c->hot[below(c, c->hot_count)];
    return (spot + below(c, c->sim->scenario.hot_blocks / c->hot_count + 1)) % blocks;
}

static void choose_span(struct slot *slot)
{
    const struct client *c = slot->client;
    const struct scenario *s = &c->sim->scenario;
    uint64_t block = pick_block(c);
    slot->offset = block * STORE_BLOCK_BYTES;
    uint64_t left = CHUNK - slot->offset % CHUNK;
    uint64_t longest = percent(c, 1) ? CHUNK : percent(c, 10) ? s->write_max_kib * 1024 : 16384;
    if (slot->kind == KIND_ZERO)
        longest = percent(c, 10) ? 4 * CHUNK : 16 * STORE_BLOCK_BYTES;
    uint64_t length = (1 + below(c, longest / STORE_BLOCK_BYTES)) * STORE_BLOCK_BYTES;
    if (slot->kind == KIND_ZERO)
        left = STORE_REGION_BYTES - slot->offset % STORE_REGION_BYTES;
    if (c->shard_bytes - slot->offset % c->shard_bytes < left)
        left = c->shard_bytes - slot->offset % c->shard_bytes;
    slot->length = (uint32_t)(length < left ? length : left);
    if (slot->kind != KIND_WRITE || !percent(c, s->piece_percent))
        return;
    uint64_t first = below(c, 8), count = 1 + below(c, 8 - first);
    slot->offset += first * HISTORY_CELL;
    slot->length = (uint32_t)(count * HISTORY_CELL);
}

/* I8: a write waits for an earlier one of its own client that it overlaps: tried again, that one would land on top of it. */
static bool overlaps_busy(const struct slot *slot)
{
    const struct client *c = slot->client;
    uint64_t end = slot->offset + slot->length;
    for (uint32_t i = 0; i < c->slot_count; i++) {
        const struct slot *other = &c->slots[i];
        if (other != slot && other->busy && (other->kind == KIND_WRITE || other->kind == KIND_ZERO) &&
            other->offset < end && slot->offset < other->offset + other->length)
            return true;
    }
    return false;
}

static void slot_begin(struct slot *slot)
{
    struct client *c = slot->client;
    const struct scenario *s = &c->sim->scenario;
    slot->busy = true;
    slot->tries = 0;
    slot->start_ns = world_now_ns(world_of(c));
    slot->fua = false;
    slot->kind = percent(c, s->flush_percent)  ? KIND_FLUSH
                 : percent(c, s->read_percent) ? KIND_READ
                 : percent(c, s->zero_percent) ? KIND_ZERO
                                               : KIND_WRITE;
    if (slot->kind == KIND_FLUSH) {
        slot_try(slot);
        return;
    }
    choose_span(slot);
    if (s->serial_overlaps && slot->kind != KIND_READ && overlaps_busy(slot)) {
        slot->busy = false;
        world_schedule(world_of(c), &slot->event, WORLD_NOBODY, 100000, slot_next);
        return;
    }
    slot->cells = slot->length / HISTORY_CELL;
    if (slot->kind != KIND_READ) {
        slot->fua = percent(c, s->fua_percent);
        slot->stamp = c->next_stamp++;
        slot->ids = calloc(slot->cells, sizeof(*slot->ids));
        assert(slot->ids);
        for (uint32_t i = 0; i < slot->cells; i++)
            slot->ids[i] = history_write_begin(c->history, slot->offset / HISTORY_CELL + i,
                                               slot->kind == KIND_ZERO ? HISTORY_ZERO : slot->stamp, slot->start_ns);
    }
    slot_try(slot);
}

static bool begin_read_all(struct slot *slot)
{
    struct client *c = slot->client;
    if (c->read_all_next >= c->bytes)
        return false;
    slot->busy = true;
    slot->tries = 0;
    slot->fua = false;
    slot->start_ns = world_now_ns(world_of(c));
    slot->kind = KIND_READ;
    slot->offset = c->read_all_next;
    slot->length = CHUNK;
    slot->cells = CHUNK / HISTORY_CELL;
    c->read_all_next += CHUNK;
    slot_try(slot);
    return true;
}

static void slot_next(struct world_event *event)
{
    struct slot *slot = list_entry(event, struct slot, event);
    struct client *c = slot->client;
    if (slot->busy)
        slot_try(slot);
    else if (c->reading_all)
        (void)begin_read_all(slot);
    else if (!c->quiet)
        slot_begin(slot);
}

/* ---- what a dead link would tell ---- */

static void attempt_lost(struct attempt *attempt)
{
    struct slot *slot = attempt->slot;
    struct client *c = attempt->client;
    attempt->slot = NULL;
    if (slot && slot->kind == KIND_FLUSH)
        flush_part_done(slot, attempt, -ECANCELED);
    else if (slot && slot->attempt == attempt)
        slot_retry(slot);
    list_remove(&attempt->link);
    if (attempt->submitted) { /* the dead process's memory still points to it */
        static struct list_node graveyard;
        if (!graveyard.next)
            list_head_init(&graveyard);
        list_push_back(&graveyard, &attempt->link);
        return;
    }
    world_cancel(world_of(c), &attempt->submit);
    free(attempt);
}

static void poll(struct world_event *event)
{
    struct client *c = list_entry(event, struct client, poll);
    uint64_t now = world_now_ns(world_of(c));
    bool stuck = false;
    list_for_each_safe(pos, tmp, &c->attempts) {
        struct attempt *attempt = list_entry(pos, struct attempt, link);
        const struct sim_node *node = c->sim->nodes[attempt->node];
        if (!sim_node_running(node) || sim_node_life(node) != attempt->life) {
            attempt_lost(attempt);
            continue;
        }
        const struct map_volume *v = volume_now(c);
        bool moved = attempt->slot && attempt->slot->kind != KIND_FLUSH &&
                     v->shards[attempt->op.shard].primary != (uint32_t)attempt->node;
        stuck = stuck || (moved && now - attempt->begun_ns > STUCK_NS);
    }
    if (!c->session && !c->attaching)
        attach_start(c, 0);
    else if (stuck)
        client_failover(c); /* what the client does whose gateway is silent */
    world_schedule(world_of(c), &c->poll, WORLD_NOBODY, ENV_MS(20), poll);
}

/* ---- life ---- */

struct client *client_create(struct sim *sim, uint64_t volume)
{
    struct client *c = calloc(1, sizeof(*c));
    char name[32];
    assert(c);
    c->sim = sim;
    c->volume = volume;
    const struct map_volume *v = volume_now(c);
    assert(v);
    c->bytes = v->size;
    c->shard_bytes = v->shard_bytes;
    c->shards = v->shard_count;
    c->next_stamp = (volume << 40) + 1; /* bytes of another volume are nobody's here (I12) */
    (void)snprintf(name, sizeof(name), "volume %" PRIu64, volume);
    c->history = history_create(c->bytes / HISTORY_CELL, name);
    for (int i = 0; i < 16; i++)
        c->attach.attachment[i] = (uint8_t)(volume + 1);
    c->hot_count = 8;
    for (uint32_t i = 0; i < c->hot_count; i++)
        c->hot[i] = below(c, c->bytes / STORE_BLOCK_BYTES);
    list_head_init(&c->attempts);
    c->slot_count = 1 + (uint32_t)below(c, sim->scenario.clients_qd < SLOTS_MAX ? sim->scenario.clients_qd : SLOTS_MAX);
    for (uint32_t i = 0; i < c->slot_count; i++) {
        c->slots[i].client = c;
        world_schedule(sim->world, &c->slots[i].event, WORLD_NOBODY, below(c, ENV_MS(10)), slot_next);
    }
    world_schedule(sim->world, &c->poll, WORLD_NOBODY, ENV_MS(1), poll);
    return c;
}

void client_destroy(struct client *c)
{
    if (!c)
        return;
    for (uint32_t i = 0; i < c->slot_count; i++) {
        world_cancel(world_of(c), &c->slots[i].event);
        free(c->slots[i].ids);
    }
    world_cancel(world_of(c), &c->poll);
    list_for_each_safe(pos, tmp, &c->attempts) {
        struct attempt *attempt = list_entry(pos, struct attempt, link);
        attempt->slot = NULL;
        if (!attempt->submitted)
            attempt_free(attempt);
    }
    history_destroy(c->history);
    c->history = NULL;
    free(c);
}

void client_quiesce(struct client *c)
{
    c->quiet = true;
}

bool client_idle(const struct client *c)
{
    for (uint32_t i = 0; i < c->slot_count; i++)
        if (c->slots[i].busy)
            return false;
    return (!c->reading_all || c->read_all_next >= c->bytes) && !c->attaching && list_empty(&c->attempts);
}

void client_read_all(struct client *c)
{
    c->reading_all = true;
    c->read_all_next = 0;
    for (uint32_t i = 0; i < c->slot_count; i++)
        world_schedule(world_of(c), &c->slots[i].event, WORLD_NOBODY, 0, slot_next);
}

void client_shard_lost(struct client *c, uint32_t shard)
{
    uint64_t cells = c->shard_bytes / HISTORY_CELL;
    c->losses++;
    history_lost(c->history, shard * cells, cells, world_now_ns(world_of(c)));
}

uint64_t client_volume(const struct client *c)
{
    return c->volume;
}

uint64_t client_ops(const struct client *c)
{
    return c->ops;
}

void client_print(const struct client *c)
{
    for (uint32_t i = 0; i < c->slot_count; i++) {
        const struct slot *slot = &c->slots[i];
        if (!slot->busy)
            continue;
        fprintf(stderr, "  volume %" PRIu64 " slot %u: kind %d offset %" PRIu64 " (shard %" PRIu64 ") length %u since %.6f, try %u",
                c->volume, i, (int)slot->kind, slot->offset, slot->offset / c->shard_bytes, slot->length,
                (double)slot->start_ns / 1e9, slot->tries);
        if (slot->attempt)
            fprintf(stderr, " at node %d", slot->attempt->node);
        for (int k = 1; k <= c->sim->node_count; k++)
            if (slot->parts[k])
                fprintf(stderr, " part at node %d", k);
        fprintf(stderr, "\n");
    }
}
