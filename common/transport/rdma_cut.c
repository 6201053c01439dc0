/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_cut: frames to SENDs.
 *
 *   - a frame's header and body are copied into the slot; its payload becomes a piece of the gather list, or a reference;
 *   - a frame that fits into a SEND of its own is not split: it waits for the next one; larger ones fill what there is;
 *   - a frame's 192-byte header is never split, nor is a reference.
 * Failure modes: none; what does not fit stays in the queue.
 */
#include "common/transport/rdma_cut.h"

#include <assert.h>
#include <string.h>

#include "common/transport/frame_internal.h"

struct cutter {
    const struct rdma_cut_limits *limits;
    uint8_t *slot;
    struct rdma_cut *cut;
};

static uint32_t room_of(const struct cutter *c)
{
    assert(c->cut->stream_bytes <= c->limits->bytes_max);
    return c->limits->bytes_max - c->cut->stream_bytes;
}

static bool by_reference(const struct cutter *c, const struct frame_chunk *chunk)
{
    assert(chunk != NULL);
    return c->limits->ref_above > 0 && chunk->payload_bytes > c->limits->ref_above &&
           chunk->payload->pool == c->limits->pool;
}

static bool needs_mark(const struct cutter *c, const struct frame_chunk *chunk)
{
    assert(chunk != NULL);
    return c->limits->ref_above > 0 && chunk->payload_bytes > c->limits->ref_above && !by_reference(c, chunk);
}

/* True when one more piece of the slot's can be named. */
static bool slot_piece_fits(const struct cutter *c)
{
    const struct rdma_cut *cut = c->cut;
    assert(cut->piece_count <= c->limits->pieces_max);
    return cut->piece_count < c->limits->pieces_max ||
           (cut->piece_count > 0 && cut->pieces[cut->piece_count - 1].payload == NULL);
}

/* The slot's next bytes; they continue the last piece, if that is the slot's. */
static uint8_t *slot_take(struct cutter *c, uint32_t bytes)
{
    struct rdma_cut *cut = c->cut;
    assert(bytes > 0);
    assert(bytes <= room_of(c));
    struct rdma_piece *last = cut->piece_count > 0 ? &cut->pieces[cut->piece_count - 1] : NULL;
    if (last && !last->payload) {
        last->bytes += bytes;
    } else {
        assert(cut->piece_count < c->limits->pieces_max);
        cut->pieces[cut->piece_count++] = (struct rdma_piece){.offset = cut->slot_bytes, .bytes = bytes};
    }
    uint8_t *at = c->slot + cut->slot_bytes;
    cut->slot_bytes += bytes;
    cut->stream_bytes += bytes;
    return at;
}

static void cut_payload(struct cutter *c, const struct frame_chunk *chunk, uint32_t skip, uint32_t bytes)
{
    struct rdma_cut *cut = c->cut;
    struct buf *payload = chunk->payload;
    uint32_t offset = chunk->payload_offset + skip;
    assert(bytes > 0 && bytes <= chunk->payload_bytes - skip);
    if (payload->pool == c->limits->pool && bytes >= RDMA_CUT_GATHER_MIN && cut->piece_count < c->limits->pieces_max) {
        cut->pieces[cut->piece_count++] = (struct rdma_piece){.payload = payload, .offset = offset, .bytes = bytes};
        cut->stream_bytes += bytes;
    } else {
        memcpy(slot_take(c, bytes), payload->data + offset, bytes);
        cut->copied_bytes += bytes;
    }
    cut->consumed += bytes;
}

/* A large payload that the device cannot offer: a mark in the reference's place, then its bytes. */
static void cut_mark(struct cutter *c)
{
    struct rdma_ref mark = {.tag = RDMA_TAG_INLINE};
    assert(room_of(c) > RDMA_REF_BYTES);
    assert(c->limits->ref_above > 0);
    rdma_ref_encode(&mark, slot_take(c, RDMA_REF_BYTES));
}

static void cut_reference(struct cutter *c, const struct frame_chunk *chunk)
{
    struct rdma_cut *cut = c->cut;
    assert(cut->ref_count < c->limits->refs_max);
    assert(chunk->payload->pool == c->limits->pool);
    struct rdma_cut_ref *ref = &cut->refs[cut->ref_count++];
    *ref = (struct rdma_cut_ref){.payload = chunk->payload,
                                 .offset = chunk->payload_offset,
                                 .bytes = chunk->payload_bytes,
                                 .slot_at = cut->slot_bytes};
    (void)slot_take(c, RDMA_REF_BYTES);
    assert(cut->slot_bytes == ref->slot_at + RDMA_REF_BYTES);
    cut->consumed += chunk->payload_bytes;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* May this frame begin (skip 0) or go on in the SEND under way? */
static bool chunk_fits(const struct cutter *c, const struct frame_chunk *chunk, uint32_t skip)
{
    bool ref = by_reference(c, chunk);
    uint32_t whole = chunk->head_bytes + (ref ? RDMA_REF_BYTES : chunk->payload_bytes);
    assert(skip < chunk->head_bytes + chunk->payload_bytes);
    if (!slot_piece_fits(c))
        return false;
    if (skip == 0 && whole > room_of(c) && whole <= c->limits->bytes_max)
        return false;
    if (skip == 0 && room_of(c) < WIRE_HEADER_BYTES)
        return false;
    /* A frame whose reference fits nowhere yet does not begin unless it needs SENDs before it. */
    if (ref && chunk->head_bytes - least(skip, chunk->head_bytes) + RDMA_REF_BYTES <= c->limits->bytes_max &&
        c->cut->ref_count == c->limits->refs_max)
        return false;
    return true;
}

/* Cuts what fits of one frame; true when all of it went and the next may follow. */
static bool cut_chunk(struct cutter *c, const struct frame_chunk *chunk, uint32_t skip)
{
    assert(room_of(c) > 0);
    assert(skip < chunk->head_bytes + chunk->payload_bytes);
    if (skip < chunk->head_bytes) {
        uint32_t bytes = least(chunk->head_bytes - skip, room_of(c));
        memcpy(slot_take(c, bytes), chunk->head + skip, bytes);
        c->cut->consumed += bytes;
        skip += bytes;
        if (skip < chunk->head_bytes)
            return false;
    }
    if (chunk->payload_bytes == 0)
        return true;
    assert(skip >= chunk->head_bytes);
    skip -= chunk->head_bytes;
    if (by_reference(c, chunk)) {
        assert(skip == 0);
        if (room_of(c) < RDMA_REF_BYTES || c->cut->ref_count == c->limits->refs_max || !slot_piece_fits(c))
            return false;
        cut_reference(c, chunk);
        return true;
    }
    if (skip == 0 && needs_mark(c, chunk)) {
        if (room_of(c) <= RDMA_REF_BYTES || !slot_piece_fits(c))
            return false;
        cut_mark(c);
    }
    uint32_t bytes = least(chunk->payload_bytes - skip, room_of(c));
    if (bytes == 0 || (c->cut->piece_count == c->limits->pieces_max && !slot_piece_fits(c)))
        return false;
    cut_payload(c, chunk, skip, bytes);
    return skip + bytes == chunk->payload_bytes;
}

void rdma_cut(const struct frame_tx *tx, const struct rdma_cut_limits *limits, uint8_t *slot, struct rdma_cut *ret_cut)
{
    struct cutter c = {.limits = limits, .slot = slot, .cut = ret_cut};
    assert(limits->pieces_max >= 1 && limits->pieces_max <= RDMA_CUT_PIECES_MAX);
    assert(limits->refs_max <= RDMA_CUT_REFS_MAX);
    assert(limits->bytes_max >= WIRE_HEADER_BYTES + RDMA_REF_BYTES);
    memset(ret_cut, 0, sizeof(*ret_cut));
    uint32_t skip = tx->head_sent;
    for (const struct frame_chunk *chunk = tx->head; chunk; chunk = chunk->next) {
        if (room_of(&c) == 0 || !chunk_fits(&c, chunk, skip) || !cut_chunk(&c, chunk, skip))
            break;
        skip = 0;
    }
    assert(ret_cut->stream_bytes <= limits->bytes_max);
}
