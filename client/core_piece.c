/* SPDX-License-Identifier: Apache-2.0 */
/* core_piece: pieces of requests on their way to the gateway and back.
 *
 * - piece_pump: cuts requests in order of arrival and sends, as long as the gateway's window allows
 * - piece_answered: finds the piece by its id, checks the answer, copies what was read, ends the piece
 * - piece_link_lost: everything unanswered waits to be sent again, in its old order
 *
 * A write's bytes are sent from the caller's memory: the piece, and so the request, ends only when the transport has dropped
 * its reference (PIECE_ENDING).
 * Failure: a checksum that does not match is tried again a few times, then -EIO; -EPERM means a newer session: session_lost
 * asks for another one, which tells whether it is ours. An answer that makes no sense costs the gateway its link.
 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/core_internal.h"
#include "common/crc32c.h"
#include "common/mutant.h"

void piece_init(struct client *client)
{
    assert(client->pieces != NULL);
    list_head_init(&client->to_send);
    list_head_init(&client->sent);
    list_head_init(&client->released);
    list_head_init(&client->free_pieces);
    for (uint32_t i = 0; i < CLIENT_PIECES_MAX; i++) {
        client->pieces[i].client = client;
        list_push_back(&client->free_pieces, &client->pieces[i].link);
    }
}

/* ---- the end of a piece */

static void piece_free(struct piece *piece)
{
    struct client *client = piece->client;
    struct client_request *request = piece->request;
    assert(!list_linked(&piece->link));
    assert(!piece->wrapped);
    piece->state = PIECE_FREE;
    piece->request = NULL;
    piece->id = 0;
    list_push_front(&client->free_pieces, &piece->link);
    assert(request->pieces > 0);
    request->pieces--;
    client_request_check(client, request);
}

void piece_released(struct client *client)
{
    struct list_node *node;
    assert(client != NULL);
    while ((node = list_pop_front(&client->released)))
        piece_free(list_entry(node, struct piece, link));
}

/* The last reference of a write's bytes is gone. */
static void wrap_released(struct buf *buf)
{
    struct piece *piece = buf->owner;
    struct client *client = piece->client;
    assert(piece->wrapped && piece->state == PIECE_ENDING);
    piece->wrapped = false;
    if (piece->unref_here)
        return;
    list_push_back(&client->released, &piece->link); /* deep inside the transport: later */
    env_defer(client->env, &client->done_task, client->done_task.cb);
}

/* Off every list; the request goes on when the bytes are free. */
static void piece_end(struct piece *piece)
{
    assert(!list_linked(&piece->link));
    piece->state = PIECE_ENDING;
    if (piece->wrapped) {
        piece->unref_here = true;
        buf_unref(&piece->wrap);
        piece->unref_here = false;
        if (piece->wrapped)
            return; /* wrap_released follows */
    }
    piece_free(piece);
}

/* The reader gets its memory back while an answer may still be coming: the rest of it goes to the sink. */
static void piece_leave_reader(struct piece *piece)
{
    struct placed *placed = piece->placed;
    if (!placed)
        return;
    assert(placed->piece == piece && piece->length <= CLIENT_CHUNK_BYTES);
    placed->wrap.data = piece->client->sink;
    placed->piece = NULL;
    piece->placed = NULL;
}

static void unlink_piece(struct piece *piece)
{
    struct client *client = piece->client;
    assert(piece->state == PIECE_TO_SEND || piece->state == PIECE_SENT);
    piece_leave_reader(piece);
    list_remove(&piece->link);
    if (piece->state == PIECE_SENT) {
        assert(client->sent_count > 0);
        client->sent_count--;
        assert(client->sent_bytes >= piece->length);
        client->sent_bytes -= piece->length;
    }
}

void piece_abandon(struct piece *piece)
{
    assert(piece->request->failed);
    unlink_piece(piece);
    piece_end(piece);
}

void piece_drop_request(struct client *client, const struct client_request *request)
{
    assert(request->failed);
    for (uint32_t i = 0; i < CLIENT_PIECES_MAX; i++) {
        struct piece *piece = &client->pieces[i];
        if (piece->request == request && (piece->state == PIECE_TO_SEND || piece->state == PIECE_SENT))
            piece_abandon(piece);
    }
}

/* ---- sending */

static void piece_checksum(struct piece *piece)
{
    uint32_t count = piece->length / WIRE_BLOCK_BYTES;
    assert(piece->opcode == WIRE_WRITE);
    if (piece->length % WIRE_BLOCK_BYTES == 0 && piece->offset % WIRE_BLOCK_BYTES == 0) {
        crc32c_blocks(piece->data, count, piece->crcs);
    } else {
        count = 1;
        piece->crcs[0] = crc32c(piece->data, piece->length);
    }
    for (uint32_t i = 0; i < count; i++)
        piece->crcs[i] = htole32(piece->crcs[i]);
}

static uint32_t piece_body_bytes(const struct piece *piece)
{
    assert(piece->length <= CLIENT_REGION_BYTES || piece->opcode == WIRE_EXTENTS);
    if (piece->opcode != WIRE_WRITE)
        return 0;
    uint32_t blocks = piece->length / WIRE_BLOCK_BYTES;
    return (blocks > 0 ? blocks : 1) * (uint32_t)sizeof(uint32_t);
}

static int piece_send(struct client *client, struct piece *piece)
{
    bool write = piece->opcode == WIRE_WRITE;
    struct wire_header header = {
        .opcode = piece->opcode,
        .flags = piece->flags | (piece->sent_before ? WIRE_F_RETRY : 0),
        .request_id = piece->id,
        .body_len = piece_body_bytes(piece),
        .payload_len = write ? piece->length : 0,
        .dst_node = client->gateway_node,
        .dst_incarnation = client->gateway_incarnation,
        .volume = client->volume,
        .session = client->session,
        .offset = piece->offset,
        .length = piece->length,
        .aux = piece->aux,
    };
    return link_send(client->conn->link, &header, write ? piece->crcs : NULL, write ? &piece->wrap : NULL, 0);
}

static bool window_allows(const struct client *client, const struct piece *piece)
{
    if (client->sent_count == 0)
        return true;
    return client->sent_count < client->window_count && client->sent_bytes + piece->length <= client->window_bytes;
}

/* The next request's next piece, on to_send; NULL: nothing to cut, or no room. */
static struct piece *cut_next(struct client *client)
{
    while (!list_empty(&client->pending) && !list_empty(&client->free_pieces)) {
        struct client_request *request = list_entry(client->pending.next, struct client_request, pending_link);
        struct piece *piece = list_entry(client->free_pieces.next, struct piece, link);
        bool cut = !request->failed && piece_cut(request, piece);
        if (cut) {
            list_remove(&piece->link);
            request->pieces++;
            piece->tries = 0;
            piece->sent_before = false;
            piece->state = PIECE_TO_SEND;
            piece->id = ++client->next_id * CLIENT_PIECES_MAX + (uint64_t)(piece - client->pieces);
            list_push_back(&client->to_send, &piece->link);
            if (piece->opcode == WIRE_WRITE) {
                piece_checksum(piece);
                buf_wrap(&piece->wrap, piece->data, piece->length, wrap_released, piece);
                piece->wrapped = true;
            }
        }
        if (!cut || request->cursor == request->end)
            list_remove(&request->pending_link);
        if (cut)
            return piece;
        client_request_check(client, request);
    }
    return NULL;
}

static bool changes(const struct piece *piece)
{
    return piece->opcode == WIRE_WRITE || piece->opcode == WIRE_ZERO;
}

/* I8: a write waits for the one before it that it overlaps. Were both in flight when the session is lost, the earlier could be
 * done, then the later be acknowledged, and then the earlier be done again on top of it. */
static bool overlaps_sent(const struct client *client, const struct piece *piece)
{
    assert(piece->state == PIECE_TO_SEND);
    if (!changes(piece))
        return false;
    list_for_each(pos, &client->sent)
    {
        const struct piece *other = list_entry(pos, struct piece, link);
        if (!MUTANT(overlapping_writes_in_flight) && changes(other) && other->offset < piece->offset + piece->length &&
            piece->offset < other->offset + other->length)
            return true;
    }
    return false;
}

void piece_pump(struct client *client)
{
    while (client->state == SESSION_READY) {
        struct piece *piece =
            list_empty(&client->to_send) ? cut_next(client) : list_entry(client->to_send.next, struct piece, link);
        if (!piece || !window_allows(client, piece) || overlaps_sent(client, piece))
            return;
        int rc = piece_send(client, piece);
        if (rc < 0)
            return; /* -EAGAIN: writable pumps again; -ENOTCONN: closed follows */
        uint64_t now_ns = env_now_ns(client->env);
        if (piece->sent_before)
            client->stats.resent++;
        list_remove(&piece->link);
        list_push_back(&client->sent, &piece->link);
        piece->state = PIECE_SENT;
        piece->sent_before = true;
        piece->sent_ns = now_ns;
        client->sent_count++;
        client->sent_bytes += piece->length;
        if (client->waiting_ns == 0)
            client->waiting_ns = now_ns;
    }
}

static void piece_again(struct piece *piece)
{
    struct client *client = piece->client;
    unlink_piece(piece);
    piece->state = PIECE_TO_SEND;
    piece->id = ++client->next_id * CLIENT_PIECES_MAX + (uint64_t)(piece - client->pieces);
    list_push_front(&client->to_send, &piece->link);
}

void piece_link_lost(struct client *client)
{
    while (!list_empty(&client->sent)) /* from the back to the front: the old order */
        piece_again(list_entry(client->sent.prev, struct piece, link));
    assert(client->sent_count == 0 && client->sent_bytes == 0);
}

/* ---- answers */

static void placed_free(struct buf *wrap)
{
    struct placed *placed = wrap->owner;
    if (placed->piece)
        placed->piece->placed = NULL;
    free(placed);
}

/* Large reads of whole blocks land where they are wanted. Of an answer that then turns out wrong the reader's memory keeps
 * something; it is undefined until the request has ended well. After it ended nothing is written to it: piece_leave_reader. */
struct buf *piece_place(struct client *client, const struct wire_header *header)
{
    struct piece *piece = &client->pieces[header->request_id % CLIENT_PIECES_MAX];
    if (header->opcode != (WIRE_READ | 1) || header->payload_len < PIECE_PLACE_BYTES || header->status != 0)
        return NULL;
    if (piece->state != PIECE_SENT || piece->id != header->request_id || piece->opcode != WIRE_READ ||
        piece->length != header->payload_len || piece->take != piece->length)
        return NULL;
    struct placed *placed = malloc(sizeof(*placed));
    if (!placed)
        return NULL;
    assert(piece->skip == 0 && piece->request && !piece->request->failed && !piece->placed);
    buf_wrap(&placed->wrap, piece->data, piece->length, placed_free, placed);
    placed->piece = piece;
    piece->placed = placed;
    return &placed->wrap;
}

/* 0; -EBADMSG: the data does not match; -EPROTO: the answer makes no sense. */
static int take_read(struct piece *piece, const struct msg *msg)
{
    uint32_t blocks = piece->length / WIRE_BLOCK_BYTES, found[WIRE_BLOCKS_MAX];
    if (msg->header.payload_len != piece->length || msg->header.body_len != blocks * sizeof(uint32_t))
        return -EPROTO;
    assert(blocks > 0 && blocks <= WIRE_BLOCKS_MAX);
    crc32c_blocks(msg->payload->data, blocks, found); /* over what memory holds now, wherever it was placed */
    for (uint32_t i = 0; i < blocks; i++) {
        if (client_get_u32(msg->body + (size_t)i * sizeof(uint32_t)) != found[i])
            return -EBADMSG;
    }
    if (msg->payload->data != piece->data)
        memcpy(piece->data, msg->payload->data + piece->skip, piece->take);
    return 0;
}

static int take_extents(struct piece *piece, const struct msg *msg)
{
    struct client_request *request = piece->request;
    uint32_t count = msg->header.body_len / CLIENT_EXTENT_BYTES;
    uint64_t at = piece->offset;
    if (count == 0 || count > CLIENT_EXTENTS_MAX || msg->header.body_len % CLIENT_EXTENT_BYTES != 0)
        return -EPROTO;
    free(request->extents);
    request->extent_count = 0;
    request->extents = malloc(count * sizeof(*request->extents));
    if (!request->extents)
        return -ENOMEM;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *entry = msg->body + (size_t)i * CLIENT_EXTENT_BYTES;
        uint64_t end = at + (uint64_t)client_get_u32(entry) * WIRE_BLOCK_BYTES;
        if (end == at || end > piece->offset + piece->length)
            return -EPROTO;
        if (end > request->offset) {
            uint64_t from = at > request->offset ? at : request->offset;
            request->extents[request->extent_count++] =
                (struct client_extent){.offset = from, .length = end - from, .state = client_get_u32(entry + 4)};
        }
        at = end;
    }
    return request->extent_count > 0 ? 0 : -EPROTO;
}

/* -EINPROGRESS: there are more pages. */
static int take_list(struct piece *piece, const struct msg *msg)
{
    struct client_request *request = piece->request;
    uint32_t count = msg->header.body_len / CLIENT_LIST_ENTRY_BYTES;
    if (msg->header.body_len % CLIENT_LIST_ENTRY_BYTES != 0 || (count == 0 && msg->header.aux != 0))
        return -EPROTO;
    struct client_list_entry *entries =
        realloc(request->entries, (request->entry_count + count + 1) * sizeof(*entries));
    if (!entries)
        return -ENOMEM;
    request->entries = entries;
    for (uint32_t i = 0; i < count; i++) {
        struct client_list_entry *entry = &entries[request->entry_count];
        if (client_list_entry_decode(msg->body + (size_t)i * CLIENT_LIST_ENTRY_BYTES, entry) < 0 ||
            entry->id <= piece->aux)
            return -EPROTO;
        piece->aux = entry->id;
        request->entry_count++;
    }
    return msg->header.aux != 0 ? -EINPROGRESS : 0;
}

/* R13: false when acknowledged data was lost. */
static bool take_flush(struct client *client, const struct piece *piece, const struct msg *msg, int *ret_rc)
{
    uint32_t max = msg->header.body_len / CLIENT_LOSS_RUN_BYTES, count = 0;
    struct client_loss_run *runs = max > 0 ? malloc(max * sizeof(*runs)) : NULL;
    *ret_rc = max > 0 && !runs ? -ENOMEM : 0;
    if (*ret_rc == 0 && msg->header.body_len > 0 &&
        client_loss_decode(msg->body, msg->header.body_len, runs, max, &count) < 0)
        *ret_rc = -EPROTO;
    bool kept = *ret_rc != 0 || loss_listed(client, runs, count, msg->header.aux);
    free(runs);
    if (*ret_rc == 0 && kept)
        loss_flushed(client, piece->request->flush_seq);
    return kept;
}

static void note_stages(struct client *client, const struct piece *piece, const struct msg *msg)
{
    bool write = piece->opcode == WIRE_WRITE;
    uint64_t *stage_ns = write ? client->stats.write_stage_ns : client->stats.read_stage_ns;
    uint64_t *wire_ns = write ? &client->stats.write_wire_ns : &client->stats.read_wire_ns;
    if (!write && piece->opcode != WIRE_READ)
        return;
    uint64_t total_ns = msg->received_ns > piece->sent_ns ? msg->received_ns - piece->sent_ns : 0;
    uint64_t gateway_ns = (uint64_t)msg->header.stage_ns[0] + msg->header.stage_ns[1];
    for (int i = 0; i < 4; i++)
        stage_ns[i] += msg->header.stage_ns[i];
    *wire_ns += total_ns > gateway_ns ? total_ns - gateway_ns : 0;
    if (write)
        client->stats.write_pieces++;
    else
        client->stats.read_pieces++;
}

/* A good answer: what it carries is taken. False when acknowledged data was lost (R13). */
static bool piece_take(struct client *client, struct piece *piece, const struct msg *msg, int *ret_rc)
{
    uint64_t loss = msg->header.loss_number;
    *ret_rc = 0;
    switch (piece->opcode) {
    case WIRE_READ: *ret_rc = take_read(piece, msg); return loss_seen(client, piece->offset, loss);
    case WIRE_WRITE:
    case WIRE_ZERO: return loss_acked(client, piece->offset, loss, (piece->flags & WIRE_F_FUA) != 0);
    case WIRE_FLUSH: return take_flush(client, piece, msg, ret_rc);
    case WIRE_EXTENTS: *ret_rc = take_extents(piece, msg); return true;
    default:
        assert(piece->opcode == WIRE_VOLUME_LIST);
        *ret_rc = take_list(piece, msg);
        return true;
    }
}

/* rc of an answer that is not the piece's end: it is sent again, or the gateway is left. True: done with the answer. */
static bool piece_retry(struct client *client, struct piece *piece, int rc)
{
    switch (rc) {
    case -EINPROGRESS:
        piece_again(piece);
        piece_pump(client);
        return true;
    case -EBADMSG: /* damaged on the way: the data, or what the caller changed while it was under way */
        client->stats.checksum_errors++;
        if (++piece->tries >= PIECE_TRIES_MAX)
            return false;
        if (piece->opcode == WIRE_WRITE)
            piece_checksum(piece);
        piece_again(piece);
        piece_pump(client);
        return true;
    case -EPERM: session_lost(client, "the session is not the newest any more"); return true;
    case -EAGAIN:
    case -ESHUTDOWN: session_lost(client, "the gateway gave up"); return true;
    case -EPROTO: session_lost(client, "the gateway's answer makes no sense"); return true;
    default: return false;
    }
}

static struct piece *piece_of(struct client *client, const struct msg *msg)
{
    struct piece *piece = &client->pieces[msg->header.request_id % CLIENT_PIECES_MAX];
    assert(piece->client == client);
    if (piece->state != PIECE_SENT || piece->id != msg->header.request_id)
        return NULL;
    return msg->header.opcode == (piece->opcode | 1u) ? piece : NULL;
}

void piece_answered(struct client *client, struct msg *msg)
{
    struct piece *piece = piece_of(client, msg);
    if (!piece) {
        /* Abandoned meanwhile (time-out): nobody waits. An unknown number cannot be told from that; it does no harm. */
        return;
    }
    int rc = msg->header.status;
    if (rc > 0)
        rc = -EPROTO;
    if (rc == 0 && !piece_take(client, piece, msg, &rc)) {
        client_fail(client, -EIO, "acknowledged data that was not flushed may be lost");
        return;
    }
    if (rc == -ENOENT) {
        client_fail(client, rc, "the volume was deleted");
        return;
    }
    if (rc != 0 && piece_retry(client, piece, rc))
        return;
    if (rc == 0)
        note_stages(client, piece, msg);
    struct client_request *request = piece->request;
    unlink_piece(piece);
    piece->state = PIECE_ENDING;
    if (rc != 0 && !request->failed)
        client_request_fail(client, request, rc == -EBADMSG ? -EIO : rc);
    piece_end(piece);
    piece_pump(client);
}
