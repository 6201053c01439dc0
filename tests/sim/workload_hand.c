/* SPDX-License-Identifier: Apache-2.0 */
/* workload_hand: single operations of a guest, placed by hand.
 *
 * - guest_by_hand: an idle slot begins the operation; the driver, the retries and the judgement are those of every other one.
 * - guest_peek: a read submitted to one node's replicas; what they answer is judged, what they refuse, or never answer, is nothing.
 * Failure: told by the return value.
 */
#include "tests/sim/workload_hand.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static struct slot *idle_slot(struct guest *g)
{
    for (uint32_t i = 0; i < g->slot_count; i++)
        if (!g->slots[i].busy)
            return &g->slots[i];
    if (g->slot_count == SLOTS_MAX)
        return NULL;
    struct slot *slot = &g->slots[g->slot_count++];
    slot->guest = g;
    return slot;
}

static void begin_change(struct slot *slot, bool zero)
{
    struct guest *g = slot->guest;
    slot->stamp = g->next_stamp++;
    if (zero && slot->stamp & 1) /* an odd one says: no hole (both drivers) */
        slot->stamp = g->next_stamp++;
    slot->ids = calloc(slot->cells, sizeof(*slot->ids));
    assert(slot->ids && slot->cells > 0);
    for (uint32_t i = 0; i < slot->cells; i++)
        slot->ids[i] = history_write_begin(g->history, slot->offset / HISTORY_CELL + i,
                                           zero ? HISTORY_ZERO : slot->stamp, slot->start_ns);
}

static bool kind_of(const char *word, enum kind *ret_kind)
{
    static const struct {
        const char *word;
        enum kind kind;
    } kinds[] = {
        {"write", KIND_WRITE}, {"fua", KIND_WRITE}, {"read", KIND_READ}, {"trim", KIND_ZERO}, {"flush", KIND_FLUSH}};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        *ret_kind = kinds[i].kind;
        if (strcmp(word, kinds[i].word) == 0)
            return true;
    }
    return false;
}

int guest_by_hand(struct guest *g, const char *word, uint64_t block, uint64_t blocks)
{
    enum kind kind;
    if (!kind_of(word, &kind))
        return -ENOENT;
    bool flush = kind == KIND_FLUSH;
    if (!flush && (blocks == 0 || (block + blocks) * STORE_BLOCK_BYTES > g->bytes))
        return -EINVAL;
    struct slot *slot = idle_slot(g);
    if (!slot)
        return -EBUSY;
    world_cancel(g->sim->world, &slot->event);
    slot->busy = true;
    slot->kind = kind;
    slot->tries = 0;
    slot->fua = strcmp(word, "fua") == 0;
    slot->start_ns = world_now_ns(g->sim->world);
    slot->offset = flush ? 0 : block * STORE_BLOCK_BYTES;
    slot->length = flush ? 0 : (uint32_t)(blocks * STORE_BLOCK_BYTES);
    slot->cells = slot->length / HISTORY_CELL;
    if (kind == KIND_WRITE || kind == KIND_ZERO)
        begin_change(slot, kind == KIND_ZERO);
    g->driver->submit(slot);
    return 0;
}

/* ---- peek ---- */

struct peek {
    struct replica_op op;
    struct world_event event;
    struct guest *guest;
    struct buf *buf;
    struct peek *older;
    uint64_t begun_ns;
    int node;
    uint32_t crcs[1];
};

static struct peek *peeks; /* one that its node never answered stays reachable: no leak */

static void peek_done(struct replica_op *op, int rc)
{
    struct peek *peek = op->owner;
    struct guest *g = peek->guest;
    uint64_t now = world_now_ns(g->sim->world), volume_offset = op->shard * g->shard_bytes + op->offset;
    sim_note(g->sim, "by hand: node %d's read says %s", peek->node, strerror(-rc));
    for (uint64_t i = 0; rc == 0 && i < STORE_BLOCK_BYTES / HISTORY_CELL; i++)
        if (!history_read(g->history, volume_offset / HISTORY_CELL + i,
                          history_stamp_of(peek->buf->data + i * HISTORY_CELL), peek->begun_ns, now))
            sim_fail(g->sim, "volume %" PRIu64 " offset %" PRIu64 ": node %d still serves what is history (I7, R9)",
                     g->volume, volume_offset, peek->node);
    buf_unref(peek->buf);
    peek->buf = NULL;
}

static void peek_submit(struct world_event *event)
{
    struct peek *peek = list_entry(event, struct peek, event);
    struct sim_node *node = peek->guest->sim->nodes[peek->node];
    if (!sim_node_serving(node))
        return;
    peek->buf = buf_alloc(sim_node_pool(node), STORE_BLOCK_BYTES);
    assert(peek->buf);
    peek->op.buf = peek->buf;
    peek->begun_ns = world_now_ns(peek->guest->sim->world);
    replicas_submit(sim_node_replicas(node), &peek->op);
}

int guest_peek(struct guest *g, int node, uint64_t block)
{
    uint64_t offset = block * STORE_BLOCK_BYTES;
    if (offset >= g->bytes)
        return -EINVAL;
    if (!sim_node_serving(g->sim->nodes[node]))
        return -EBUSY;
    struct peek *peek = calloc(1, sizeof(*peek));
    assert(peek);
    peek->older = peeks;
    peeks = peek;
    peek->guest = g;
    peek->node = node;
    peek->op = (struct replica_op){.opcode = WIRE_READ,
                                   .volume = g->volume,
                                   .shard = (uint32_t)(offset / g->shard_bytes),
                                   .offset = offset % g->shard_bytes,
                                   .length = STORE_BLOCK_BYTES,
                                   .crcs = peek->crcs,
                                   .cb = peek_done,
                                   .owner = peek};
    world_schedule(g->sim->world, &peek->event, node, 1000, peek_submit);
    return 0;
}
