/* SPDX-License-Identifier: Apache-2.0 */
/* core_cut: requests of any alignment cut into pieces that the wire allows.
 *
 * - READ: aligned outwards to blocks, inside one 1 MiB chunk; the wanted part is copied out of the answer
 * - WRITE: whole blocks inside one chunk, or a piece inside one block, which the primary merges (head, body, tail)
 * - ZERO: whole blocks inside one 16 MiB region; a head and a tail are written as zeros, or left alone by a TRIM
 *
 * Failure: none; the range was checked by client_submit.
 */
#include <assert.h>
#include <string.h>

#include "client/core_internal.h"

static uint8_t zeros[WIRE_BLOCK_BYTES]; /* never written */

static uint64_t round_down(uint64_t value, uint64_t unit)
{
    return value / unit * unit;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* End of the next piece that is whole blocks within one span, or lies in one block. */
static uint64_t cut_end(const struct client_request *request, uint64_t span)
{
    uint64_t at = request->cursor;
    assert(at < request->end);
    if (at % WIRE_BLOCK_BYTES != 0 || request->end - at < WIRE_BLOCK_BYTES)
        return min_u64(request->end, round_down(at, WIRE_BLOCK_BYTES) + WIRE_BLOCK_BYTES);
    return min_u64(round_down(request->end, WIRE_BLOCK_BYTES), round_down(at, span) + span);
}

static void cut_read(struct client_request *request, struct piece *piece)
{
    uint64_t at = request->cursor;
    uint64_t end = min_u64(request->end, round_down(at, CLIENT_CHUNK_BYTES) + CLIENT_CHUNK_BYTES);
    piece->opcode = WIRE_READ;
    piece->offset = round_down(at, WIRE_BLOCK_BYTES);
    piece->length = (uint32_t)(round_down(end + WIRE_BLOCK_BYTES - 1, WIRE_BLOCK_BYTES) - piece->offset);
    piece->skip = (uint32_t)(at - piece->offset);
    piece->take = (uint32_t)(end - at);
    piece->data = request->data + (at - request->offset);
    assert(piece->length <= CLIENT_CHUNK_BYTES);
    assert(piece->skip + piece->take <= piece->length);
    request->cursor = end;
}

static void cut_write(struct client_request *request, struct piece *piece)
{
    uint64_t end = cut_end(request, CLIENT_CHUNK_BYTES);
    piece->opcode = WIRE_WRITE;
    piece->flags = request->flags & CLIENT_FUA ? WIRE_F_FUA : 0;
    piece->offset = request->cursor;
    piece->length = (uint32_t)(end - request->cursor);
    piece->data = request->data + (request->cursor - request->offset);
    request->cursor = end;
}

static bool is_whole(uint64_t from, uint64_t end)
{
    return from % WIRE_BLOCK_BYTES == 0 && (end - from) % WIRE_BLOCK_BYTES == 0;
}

static bool cut_zero(struct client_request *request, struct piece *piece)
{
    uint64_t from = request->cursor, end = cut_end(request, CLIENT_REGION_BYTES);
    if (!is_whole(from, end) && (request->flags & CLIENT_TRIM)) {
        request->cursor = end;
        if (end == request->end)
            return false;
        from = end;
        end = cut_end(request, CLIENT_REGION_BYTES);
        if (!is_whole(from, end)) {
            assert(end == request->end);
            request->cursor = end;
            return false;
        }
    }
    piece->flags = request->flags & CLIENT_FUA ? WIRE_F_FUA : 0;
    piece->offset = from;
    piece->length = (uint32_t)(end - from);
    if (is_whole(from, end)) {
        piece->opcode = WIRE_ZERO;
        piece->flags |= request->flags & CLIENT_TRIM ? WIRE_F_TRIM : 0;
        piece->flags |= request->flags & CLIENT_NO_HOLE ? WIRE_F_NO_HOLE : 0;
    } else {
        piece->opcode = WIRE_WRITE;
        piece->data = zeros;
    }
    request->cursor = end;
    return true;
}

static void cut_extents(struct client_request *request, struct piece *piece)
{
    uint64_t end = round_down(request->end + WIRE_BLOCK_BYTES - 1, WIRE_BLOCK_BYTES);
    piece->opcode = WIRE_EXTENTS;
    piece->aux = request->since;
    piece->offset = round_down(request->offset, WIRE_BLOCK_BYTES);
    piece->length = (uint32_t)min_u64(end - piece->offset, CLIENT_EXTENTS_LENGTH_MAX);
    request->cursor = request->end; /* one piece: what it does not cover is asked for by another request */
}

bool piece_cut(struct client_request *request, struct piece *piece)
{
    if (request->cursor == request->end)
        return false;
    assert(request->cursor < request->end);
    piece->request = request;
    piece->flags = 0;
    piece->data = NULL;
    piece->aux = 0;
    switch (request->op) {
    case CLIENT_READ: cut_read(request, piece); return true;
    case CLIENT_WRITE: cut_write(request, piece); return true;
    case CLIENT_ZERO: return cut_zero(request, piece);
    case CLIENT_EXTENTS: cut_extents(request, piece); return true;
    case CLIENT_FLUSH:
    case CLIENT_LIST:
        piece->opcode = request->op == CLIENT_FLUSH ? WIRE_FLUSH : WIRE_VOLUME_LIST;
        piece->offset = 0;
        piece->length = 0;
        request->cursor = request->end;
        return true;
    case CLIENT_OP_COUNT: break;
    }
    assert(!"a request of no kind");
    return false;
}
