/* SPDX-License-Identifier: Apache-2.0 */
/* workload: random overlapping I/O on one volume, every cell stamped, judged by the history.
 *
 * - each slot of a guest issues an operation, waits for the answer, waits a little, issues the next.
 * - the history is told when a write begins and when it is acknowledged, and judges what reads return.
 * Failure: an answer no guest should ever get is a failure of the run.
 */
#include "tests/sim/workload.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK STORE_CHUNK_BYTES
#define HOT_SPOTS 8u

static void slot_next(struct world_event *event);

static struct world *world_of(const struct guest *g)
{
    return g->sim->world;
}

uint64_t guest_random(const struct guest *g, uint64_t bound)
{
    return world_random_below(world_of(g), bound);
}

static bool percent(const struct guest *g, uint64_t value)
{
    return guest_random(g, 100) < value;
}

const struct map_volume *guest_map_volume(const struct guest *g)
{
    return map_volume_by_id(plane_map(g->sim->plane), g->volume);
}

void slot_fill(const struct slot *slot, uint8_t *data)
{
    for (uint32_t i = 0; i < slot->cells; i++)
        history_fill(data + (uint64_t)i * HISTORY_CELL, slot->stamp);
}

/* ---- ends ---- */

static void slot_done(struct slot *slot)
{
    struct guest *g = slot->guest;
    g->ops++;
    free(slot->ids);
    slot->ids = NULL;
    slot->busy = false;
    uint64_t gap = g->reading_all ? 0 : guest_random(g, 2 * g->sim->scenario.op_gap_us * 1000 + 1);
    world_schedule(world_of(g), &slot->event, WORLD_NOBODY, gap, slot_next);
}

void slot_retry(struct slot *slot)
{
    world_schedule(world_of(slot->guest), &slot->event, WORLD_NOBODY, ENV_MS(1) + guest_random(slot->guest, ENV_MS(20)),
                   slot_next);
}

static void judge_read(struct slot *slot, const uint8_t *data, uint64_t begun_ns, int node)
{
    struct guest *g = slot->guest;
    uint64_t now = world_now_ns(world_of(g)), first = slot->offset / HISTORY_CELL;
    for (uint32_t i = 0; i < slot->cells; i++)
        if (!history_read(g->history, first + i, history_stamp_of(data + (uint64_t)i * HISTORY_CELL), begun_ns, now))
            sim_fail(g->sim, "volume %" PRIu64 " offset %" PRIu64 ": wrong content from node %d (I7)", g->volume,
                     (first + i) * HISTORY_CELL, node);
    for (uint32_t i = 0; g->origin && i < slot->cells; i++)
        if (!image_seen(g->origin, first + i, history_stamp_of(data + (uint64_t)i * HISTORY_CELL)))
            sim_fail(g->sim, "volume %" PRIu64 " offset %" PRIu64 ": not what its snapshot holds (I10)", g->volume,
                     (first + i) * HISTORY_CELL);
}

static void judge_write(struct slot *slot, int rc, uint64_t begun_ns)
{
    struct guest *g = slot->guest;
    uint64_t first = slot->offset / HISTORY_CELL, now = world_now_ns(world_of(g));
    for (uint32_t i = 0; i < slot->cells; i++) {
        if (rc == -ENOSPC && slot->tries == 1 && g->driver == &workload_direct)
            history_write_refused(g->history, first + i, slot->ids[i]);
        if (rc != 0)
            continue;
        history_write_acked(g->history, first + i, slot->ids[i], begun_ns, now);
        if (slot->fua)
            history_write_durable(g->history, first + i, slot->ids[i]);
    }
}

static void judge_flush(struct slot *slot)
{
    struct guest *g = slot->guest;
    if (g->lost_dirty && slot->start_ns > g->sim->lost_at_ns)
        sim_fail(g->sim, "volume %" PRIu64 ": a flush succeeded over lost data (R13)", g->volume);
    uint64_t oldest_read = g->cuts > 0 ? g->cut_asked_ns : UINT64_MAX; /* a snapshot is a read, too */
    for (uint32_t i = 0; i < g->slot_count; i++)
        if (g->slots[i].busy && g->slots[i].kind == KIND_READ && g->slots[i].start_ns < oldest_read)
            oldest_read = g->slots[i].start_ns;
    history_flushed(g->history, slot->start_ns, oldest_read, world_now_ns(world_of(g)));
}

void slot_ended(struct slot *slot, int rc, const uint8_t *data, uint64_t begun_ns, int node)
{
    struct guest *g = slot->guest;
    assert(slot->busy);
    if (slot->kind == KIND_READ && rc == 0)
        judge_read(slot, data, begun_ns, node);
    else if (slot->kind == KIND_FLUSH && rc == 0)
        judge_flush(slot);
    else if (slot->kind != KIND_READ && slot->kind != KIND_FLUSH)
        judge_write(slot, rc, begun_ns);
    if (rc == -ENOSPC || (rc == -EIO && g->sim->scenario.rot_per_min > 0))
        g->fails++;
    else if (rc != 0 && rc != -EOWNERDEAD && !g->removing) /* the driver's word for: the client was told of a loss */
        sim_fail(g->sim, "an operation of kind %d ended with %s", (int)slot->kind, strerror(-rc));
    slot_done(slot);
}

/* ---- what to do next ---- */

static uint64_t pick_block(const struct guest *g)
{
    uint64_t blocks = g->bytes / STORE_BLOCK_BYTES;
    if (!percent(g, g->sim->scenario.hot_percent))
        return guest_random(g, blocks);
    return (g->hot[guest_random(g, HOT_SPOTS)] + guest_random(g, g->sim->scenario.hot_blocks / HOT_SPOTS + 1)) % blocks;
}

static void choose_span(struct slot *slot)
{
    const struct guest *g = slot->guest;
    const struct scenario *s = &g->sim->scenario;
    slot->offset = pick_block(g) * STORE_BLOCK_BYTES;
    uint64_t left = CHUNK - slot->offset % CHUNK;
    uint64_t longest = guest_random(g, 1000) < s->big_permille ? CHUNK
                       : percent(g, 10)                        ? s->write_max_kib * 1024
                                                               : 16384;
    if (slot->kind == KIND_ZERO) {
        longest = percent(g, 10) ? 4 * CHUNK : 16 * STORE_BLOCK_BYTES;
        left = STORE_REGION_BYTES - slot->offset % STORE_REGION_BYTES;
    }
    if (g->shard_bytes - slot->offset % g->shard_bytes < left)
        left = g->shard_bytes - slot->offset % g->shard_bytes;
    if (g->driver == &workload_wire ||
        g->bytes - slot->offset < left) /* the client cuts what spans chunks and shards */
        left = g->bytes - slot->offset;
    uint64_t length = (1 + guest_random(g, longest / STORE_BLOCK_BYTES)) * STORE_BLOCK_BYTES;
    slot->length = (uint32_t)(length < left ? length : left);
    if (slot->kind == KIND_ZERO || !percent(g, s->piece_percent))
        return;
    uint64_t first = guest_random(g, 8), count = 1 + guest_random(g, 8 - first);
    if (g->driver == &workload_wire) { /* any cells */
        slot->offset += first * HISTORY_CELL;
        slot->length -= (uint32_t)(first * HISTORY_CELL);
    } else if (slot->kind == KIND_WRITE) { /* a piece of one block */
        slot->offset += first * HISTORY_CELL;
        slot->length = (uint32_t)(count * HISTORY_CELL);
    }
}

/* No client of ours has overlapping writes in flight (I8: tried again, the earlier one would land on top of the later). */
static bool overlaps_busy(const struct slot *slot)
{
    const struct guest *g = slot->guest;
    uint64_t end = slot->offset + slot->length;
    for (uint32_t i = 0; i < g->slot_count; i++) {
        const struct slot *other = &g->slots[i];
        if (other != slot && other->busy && (other->kind == KIND_WRITE || other->kind == KIND_ZERO) &&
            other->offset < end && slot->offset < other->offset + other->length)
            return true;
    }
    return false;
}

/* Never sent, and never to be. */
void slot_unsent(struct slot *slot)
{
    assert(slot->busy);
    for (uint32_t i = 0; slot->ids && i < slot->cells; i++)
        history_write_refused(slot->guest->history, slot->offset / HISTORY_CELL + i, slot->ids[i]);
    slot_done(slot);
}

static void begin_write(struct slot *slot)
{
    struct guest *g = slot->guest;
    slot->fua = percent(g, g->sim->scenario.fua_percent);
    slot->stamp = g->next_stamp++;
    slot->ids = calloc(slot->cells, sizeof(*slot->ids));
    assert(slot->ids);
    for (uint32_t i = 0; i < slot->cells; i++)
        slot->ids[i] = history_write_begin(g->history, slot->offset / HISTORY_CELL + i,
                                           slot->kind == KIND_ZERO ? HISTORY_ZERO : slot->stamp, slot->start_ns);
}

static void slot_begin(struct slot *slot)
{
    struct guest *g = slot->guest;
    const struct scenario *s = &g->sim->scenario;
    slot->tries = 0;
    slot->start_ns = world_now_ns(world_of(g));
    slot->fua = false;
    slot->length = slot->cells = 0;
    slot->kind = percent(g, s->flush_percent)  ? KIND_FLUSH
                 : percent(g, s->read_percent) ? KIND_READ
                 : percent(g, s->zero_percent) ? KIND_ZERO
                                               : KIND_WRITE;
    if (slot->kind != KIND_FLUSH)
        choose_span(slot);
    bool write = slot->kind == KIND_WRITE || slot->kind == KIND_ZERO;
    if (write && s->serial_overlaps && overlaps_busy(slot)) {
        world_schedule(world_of(g), &slot->event, WORLD_NOBODY, 100000, slot_next);
        return;
    }
    slot->busy = true;
    slot->cells = slot->length / HISTORY_CELL;
    if (write)
        begin_write(slot);
    g->driver->submit(slot);
}

static void begin_read_all(struct slot *slot)
{
    struct guest *g = slot->guest;
    if (g->gone || g->detached || g->read_all_next >= g->bytes)
        return;
    slot->busy = true;
    slot->tries = 0;
    slot->fua = false;
    slot->start_ns = world_now_ns(world_of(g));
    slot->kind = KIND_READ;
    slot->offset = g->read_all_next;
    slot->length = (uint32_t)(g->bytes - slot->offset < CHUNK ? g->bytes - slot->offset : CHUNK);
    slot->cells = slot->length / HISTORY_CELL;
    g->read_all_next += slot->length;
    g->driver->submit(slot);
}

static void slot_next(struct world_event *event)
{
    struct slot *slot = list_entry(event, struct slot, event);
    struct guest *g = slot->guest;
    if (slot->busy)
        g->driver->submit(slot);
    else if (g->reading_all)
        begin_read_all(slot);
    else if (!g->quiet && !g->detached)
        slot_begin(slot);
}

/* ---- life ---- */

struct guest *guest_create(struct sim *sim, uint64_t volume, struct image *origin)
{
    struct guest *g = calloc(1, sizeof(*g));
    assert(g);
    g->sim = sim;
    g->volume = volume;
    g->index = sim->guest_count;
    const struct map_volume *v = guest_map_volume(g);
    assert(v);
    (void)snprintf(g->name, sizeof(g->name), "%s", v->name);
    g->bytes = g->size = v->size;
    g->shard_bytes = v->shard_bytes;
    g->next_stamp = (volume << 40) + 1; /* bytes of another volume are nobody's here (I12) */
    g->origin = origin ? image_ref(origin) : NULL;
    g->history = origin ? image_history(origin, g->bytes / HISTORY_CELL, g->name)
                        : history_create(g->bytes / HISTORY_CELL, g->name);
    for (uint32_t i = 0; i < HOT_SPOTS; i++)
        g->hot[i] = guest_random(g, g->bytes / STORE_BLOCK_BYTES);
    uint64_t depth = sim->scenario.clients_qd < SLOTS_MAX ? sim->scenario.clients_qd : SLOTS_MAX;
    g->slot_count = 1 + (uint32_t)guest_random(g, depth);
    for (uint32_t i = 0; i < g->slot_count; i++) {
        g->slots[i].guest = g;
        world_schedule(sim->world, &g->slots[i].event, WORLD_NOBODY, guest_random(g, ENV_MS(10)), slot_next);
    }
    g->driver = sim->scenario.wire ? &workload_wire : &workload_direct;
    g->driver->create(g);
    return g;
}

void guest_destroy(struct guest *g)
{
    if (!g)
        return;
    g->driver->destroy(g);
    for (uint32_t i = 0; i < g->slot_count; i++) {
        world_cancel(world_of(g), &g->slots[i].event);
        free(g->slots[i].ids);
    }
    history_destroy(g->history);
    image_unref(g->origin);
    free(g);
}

void guest_quiesce(struct guest *g)
{
    g->quiet = true;
}

bool guest_idle(const struct guest *g)
{
    for (uint32_t i = 0; i < g->slot_count; i++)
        if (g->slots[i].busy)
            return false;
    return (!g->reading_all || g->gone || g->detached || g->read_all_next >= g->bytes) && g->driver->idle(g);
}

void guest_read_all(struct guest *g)
{
    g->reading_all = true;
    g->read_all_next = 0;
    for (uint32_t i = 0; i < g->slot_count; i++)
        world_schedule(world_of(g), &g->slots[i].event, WORLD_NOBODY, 0, slot_next);
}

void guest_failover(struct guest *g)
{
    g->driver->failover(g);
}

/* ---- what operators do with it ---- */

void guest_detach(struct guest *g)
{
    assert(g->driver->detach && !g->detached);
    g->detached = true;
    g->driver->detach(g);
}

void guest_attach(struct guest *g)
{
    assert(g->detached && !g->gone);
    g->detached = false;
    g->driver->attach(g);
    for (uint32_t i = 0; i < g->slot_count; i++)
        if (!g->slots[i].busy)
            world_schedule(world_of(g), &g->slots[i].event, WORLD_NOBODY, guest_random(g, ENV_MS(5)), slot_next);
}

void guest_migrate(struct guest *g)
{
    sim_note(g->sim, "volume %" PRIu64 ": migrates", g->volume);
    if (!g->detached)
        g->driver->migrate(g);
}

void guest_gone(struct guest *g)
{
    assert(g->detached);
    g->gone = g->quiet = true;
}

void guest_asks_cut(struct guest *g)
{
    if (g->cuts++ == 0)
        g->cut_asked_ns = world_now_ns(world_of(g));
}

void guest_has_cut(struct guest *g)
{
    assert(g->cuts > 0);
    g->cuts--;
}

void guest_resized(struct guest *g, uint64_t size)
{
    if (size < g->bytes)
        g->bytes = size;
    g->size = size;
    history_resize(g->history, size / HISTORY_CELL);
}

void guest_rolled_back(struct guest *g, struct image *image)
{
    assert(g->detached && g->driver->idle(g));
    history_destroy(g->history);
    image_ref(image);
    image_unref(g->origin);
    g->origin = image;
    g->history = image_history(image, g->size / HISTORY_CELL, g->name);
}

void guest_crash(struct guest *g)
{
    if (g->gone)
        return;
    sim_note(g->sim, "volume %" PRIu64 ": its guest crashes", g->volume);
    g->driver->crash(g);
}

void guest_shard_lost(struct guest *g, uint32_t shard)
{
    uint64_t cells = g->shard_bytes / HISTORY_CELL;
    g->losses++;
    if (history_lost(g->history, shard * cells, cells, g->life_ns) && g->driver == &workload_wire) {
        g->lost_dirty = true;
        g->sim->lost_at_ns = world_now_ns(world_of(g));
    }
}

uint64_t guest_volume(const struct guest *g)
{
    return g->volume;
}

uint64_t guest_ops(const struct guest *g)
{
    return g->ops;
}

void guest_print(const struct guest *g)
{
    for (uint32_t i = 0; i < g->slot_count; i++) {
        const struct slot *slot = &g->slots[i];
        if (!slot->busy)
            continue;
        fprintf(stderr,
                "  volume %" PRIu64 " slot %u: kind %d offset %" PRIu64 " (shard %" PRIu64
                ") length %u since %.6f, try %u",
                g->volume, i, (int)slot->kind, slot->offset, slot->offset / g->shard_bytes, slot->length,
                (double)slot->start_ns / 1e9, slot->tries);
        g->driver->print(slot);
        fprintf(stderr, "\n");
    }
}
