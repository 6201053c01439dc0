/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_tx: what a connection posts: all of a turn with one doorbell.
 *
 *   - rdma_tx_flush chains, in this order: invalidations of windows whose payload was fetched, READs of payloads on
 *     offer to us, and SENDs, each with the binds of the payloads it offers before it; then rings once;
 *   - the last request of a chain is signalled, and every READ; the others complete with the next that is (trap 8). A
 *     chain of SENDs that hold no payload, answers mostly, is signalled only now and then: the next one does it;
 *   - a completion lets go what the requests up to it referred to. A send's completion says no more than that: only the
 *     peer's answer, a frame, counts above (trap 6);
 *   - a payload on offer is held until its window is invalidated, or the window and the queue pair are gone (trap 1).
 * Failure modes: no credit, slot, window or room in the send queue: what is queued waits, and the link pushes back at
 *   LINK_QUEUE_BYTES_MAX. A post that fails ends the connection.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "common/transport/rdma_internal.h"

#define LOG_MODULE "rdma"
#define DONES_ALONE 8u         /* so many done tags are worth a SEND of their own */
#define INVALIDATIONS_ALONE 4u /* so many windows to take back are worth a doorbell of their own */

struct batch {
    struct rdma_conn *conn;
    unsigned count;
    bool holds; /* a payload, or a window */
    struct ibv_send_wr works[RDMA_BATCH_MAX];
    struct ibv_sge pieces[RDMA_BATCH_MAX][RDMA_CUT_PIECES_MAX + 1];
};

static uint32_t room_of(const struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    assert(conn->posted_count <= RDMA_SQ_DEPTH);
    return RDMA_SQ_DEPTH - conn->posted_count;
}

/* ---- completions */

static void let_go(struct rdma_conn *conn, struct rdma_posted *posted)
{
    rdma_conn_assert(conn);
    struct rdma_device *device = conn->device;
    for (uint32_t i = 0; i < posted->buf_count; i++)
        buf_unref(posted->bufs[i]);
    posted->buf_count = 0;
    if (posted->kind == RDMA_POSTED_SEND) {
        assert(device->send_free_count < device->send_slots);
        device->send_free[device->send_free_count++] = posted->slot;
    } else if (posted->kind == RDMA_POSTED_INVALIDATE) {
        struct rdma_window *window = &conn->windows[posted->window];
        assert(window->state == RDMA_WINDOW_INVALIDATING);
        window->state = RDMA_WINDOW_FREE;
        buf_unref(window->payload);
        window->payload = NULL;
        conn->windows_free[conn->windows_free_count++] = posted->window;
    }
}

static struct rdma_posted *posted_pop(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    struct rdma_posted *posted = &conn->posted[conn->posted_first % RDMA_SQ_DEPTH];
    assert(conn->posted_count > 0);
    conn->posted_first++;
    conn->posted_count--;
    return posted;
}

void rdma_tx_completed(struct rdma_conn *conn, uint32_t sequence)
{
    rdma_conn_assert(conn);
    uint32_t done = sequence - conn->posted_first + 1;
    assert(done >= 1 && done <= conn->posted_count);
    while (done-- > 0) {
        struct rdma_posted *posted = posted_pop(conn);
        if (posted->kind == RDMA_POSTED_READ)
            rdma_rx_read_done(conn);
        else
            let_go(conn, posted);
    }
    if (conn->wants_completion) {
        conn->wants_completion = false;
        rdma_conn_dirty(conn);
        rdma_poll_wanted(conn);
    }
}

void rdma_tx_drop(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    assert(!conn->has_qp);
    conn->unsignalled = 0;
    while (conn->posted_count > 0) {
        struct rdma_posted *posted = posted_pop(conn);
        if (posted->kind != RDMA_POSTED_READ)
            let_go(conn, posted);
    }
    for (uint32_t i = 0; i < RDMA_WINDOWS; i++) {
        assert(!conn->windows[i].mw);
        conn->transport->stats.offers_cut += conn->windows[i].state == RDMA_WINDOW_OFFERED;
        buf_unref(conn->windows[i].payload);
        conn->windows[i].payload = NULL;
    }
}

/* ---- building the chain */

static struct ibv_send_wr *batch_add(struct batch *batch, enum rdma_posted_kind kind, struct rdma_posted **ret_posted)
{
    struct rdma_conn *conn = batch->conn;
    assert(batch->count < RDMA_BATCH_MAX);
    assert(room_of(conn) > 0);
    uint32_t sequence = conn->posted_first + conn->posted_count++;
    struct rdma_posted *posted = &conn->posted[sequence % RDMA_SQ_DEPTH];
    *posted = (struct rdma_posted){.kind = kind};
    struct ibv_send_wr *work = &batch->works[batch->count];
    memset(work, 0, sizeof(*work));
    work->wr_id = RDMA_SEND_ID | (uint64_t)conn->number << 32 | sequence;
    work->sg_list = batch->pieces[batch->count];
    if (batch->count > 0)
        batch->works[batch->count - 1].next = work;
    batch->count++;
    batch->holds = batch->holds || kind != RDMA_POSTED_SEND;
    *ret_posted = posted;
    return work;
}

static bool batch_has_room(const struct batch *batch, uint32_t works)
{
    assert(works <= RDMA_BATCH_MAX);
    return batch->count + works <= RDMA_BATCH_MAX && room_of(batch->conn) >= works;
}

static void add_invalidations(struct batch *batch)
{
    struct rdma_conn *conn = batch->conn;
    for (uint32_t i = 0; i < RDMA_WINDOWS && conn->windows_done_count > 0 && batch_has_room(batch, 1); i++) {
        struct rdma_posted *posted;
        struct rdma_window *window = &conn->windows[i];
        if (window->state != RDMA_WINDOW_DONE)
            continue;
        struct ibv_send_wr *work = batch_add(batch, RDMA_POSTED_INVALIDATE, &posted);
        work->opcode = IBV_WR_LOCAL_INV;
        work->invalidate_rkey = window->key;
        posted->window = (uint16_t)i;
        window->state = RDMA_WINDOW_INVALIDATING;
        assert(conn->windows_done_count > 0);
        conn->windows_done_count--;
    }
    conn->windows_due = conn->windows_due && conn->windows_done_count > 0;
}

static void add_reads(struct batch *batch)
{
    struct rdma_conn *conn = batch->conn;
    assert(conn->reads_posted <= conn->reads_count);
    while (conn->reads_posted < conn->reads_count && batch_has_room(batch, 1)) {
        struct rdma_posted *posted;
        const struct rdma_read *read = &conn->reads_ring[(conn->reads_first + conn->reads_posted) % RDMA_WINDOWS_MAX];
        const struct msg *msg = read->msg;
        struct ibv_send_wr *work = batch_add(batch, RDMA_POSTED_READ, &posted);
        work->opcode = IBV_WR_RDMA_READ;
        work->send_flags = IBV_SEND_SIGNALED;
        work->num_sge = 1;
        work->sg_list[0] = (struct ibv_sge){.addr = (uintptr_t)msg->payload->data,
                                            .length = msg->header.payload_len,
                                            .lkey = conn->device->pool_mr->lkey};
        work->wr.rdma.remote_addr = read->ref.address;
        work->wr.rdma.rkey = read->ref.key;
        conn->reads_posted++;
        conn->transport->stats.reads++;
        conn->transport->stats.read_bytes += msg->header.payload_len;
    }
}

/* The payload is on offer from here on: its window, bound for this queue pair alone, its key never used before. */
static void add_bind(struct batch *batch, const struct rdma_cut_ref *cut_ref, uint8_t *slot)
{
    struct rdma_conn *conn = batch->conn;
    struct rdma_posted *posted;
    assert(conn->windows_free_count > 0);
    uint16_t index = conn->windows_free[--conn->windows_free_count];
    struct rdma_window *window = &conn->windows[index];
    assert(window->state == RDMA_WINDOW_FREE && !window->payload);
    struct ibv_send_wr *work = batch_add(batch, RDMA_POSTED_BIND, &posted);
    posted->window = index;
    work->opcode = IBV_WR_BIND_MW;
    work->bind_mw.mw = window->mw;
    work->bind_mw.rkey = window->key = ibv_inc_rkey(window->mw->rkey);
    work->bind_mw.bind_info = (struct ibv_mw_bind_info){.mr = conn->device->pool_mr,
                                                        .addr = (uintptr_t)cut_ref->payload->data + cut_ref->offset,
                                                        .length = cut_ref->bytes,
                                                        .mw_access_flags = IBV_ACCESS_REMOTE_READ};
    window->state = RDMA_WINDOW_OFFERED;
    window->tag = index | ((window->tag >> 8) + 1) << 8;
    if (window->tag == RDMA_TAG_INLINE)
        window->tag = index;
    window->payload = buf_ref(cut_ref->payload);
    struct rdma_ref ref = {.address = work->bind_mw.bind_info.addr, .key = work->bind_mw.rkey, .tag = window->tag};
    rdma_ref_encode(&ref, slot + cut_ref->slot_at);
    conn->transport->stats.binds++;
}

static void add_pieces(struct rdma_conn *conn, const struct rdma_cut *cut, uint32_t head_bytes, uint8_t *slot,
                       struct ibv_send_wr *work, struct rdma_posted *posted)
{
    rdma_conn_assert(conn);
    const struct rdma_device *device = conn->device;
    struct ibv_sge *pieces = work->sg_list;
    int n = 1;
    pieces[0] = (struct ibv_sge){.addr = (uintptr_t)slot, .length = head_bytes, .lkey = device->slots_mr->lkey};
    for (uint32_t i = 0; i < cut->piece_count; i++) {
        const struct rdma_piece *piece = &cut->pieces[i];
        if (i == 0 && !piece->payload) {
            pieces[0].length += piece->bytes; /* they follow the head */
            continue;
        }
        pieces[n] = (struct ibv_sge){.length = piece->bytes};
        if (piece->payload) {
            assert(posted->buf_count < RDMA_SENT_BUFS_MAX);
            pieces[n].addr = (uintptr_t)piece->payload->data + piece->offset;
            pieces[n].lkey = device->pool_mr->lkey;
            posted->bufs[posted->buf_count++] = buf_ref(piece->payload);
        } else {
            pieces[n].addr = (uintptr_t)slot + head_bytes + piece->offset;
            pieces[n].lkey = device->slots_mr->lkey;
        }
        n++;
    }
    assert(n <= (int)device->pieces_max + 1);
    work->num_sge = n;
    if (n == 1 && pieces[0].length <= device->inline_bytes)
        work->send_flags |= IBV_SEND_INLINE;
}

/* Head and done tags at the slot's begin; returns their bytes. */
static uint32_t write_head(struct rdma_conn *conn, uint8_t *slot, uint32_t dones, uint32_t stream_bytes)
{
    rdma_conn_assert(conn);
    struct rdma_head head = {
        .credits = rdma_credit_take_owed(&conn->credit), .done_count = (uint16_t)dones, .stream_bytes = stream_bytes};
    assert(dones <= conn->done_count && dones <= RDMA_DONES_MAX);
    rdma_head_encode(&head, slot);
    for (uint32_t i = 0; i < dones; i++)
        rdma_tag_encode(conn->dones[i], slot + RDMA_HEAD_BYTES + i * RDMA_DONE_BYTES);
    conn->done_count -= dones;
    conn->dones_due = conn->dones_due && conn->done_count > 0;
    memmove(conn->dones, conn->dones + dones, conn->done_count * sizeof(conn->dones[0]));
    return RDMA_HEAD_BYTES + dones * RDMA_DONE_BYTES;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* One SEND with as much of the queue as fits. Returns the frame bytes consumed; *ret_sent: there was one. */
static size_t add_send(struct batch *batch, bool frames, bool *ret_sent)
{
    struct rdma_conn *conn = batch->conn;
    struct rdma_device *device = conn->device;
    struct rdma_posted *posted;
    struct rdma_cut cut = {.piece_count = 0};
    uint32_t dones = least(conn->done_count, RDMA_DONES_MAX);
    uint32_t head_bytes = RDMA_HEAD_BYTES + dones * RDMA_DONE_BYTES;
    assert(device->send_free_count > 0);
    uint16_t index = device->send_free[device->send_free_count - 1];
    uint8_t *slot = rdma_device_send_slot(device, index);
    *ret_sent = false;
    if (frames) {
        struct rdma_cut_limits limits = {
            .bytes_max = RDMA_RECEIVE_BYTES - head_bytes, /* the peer's are not smaller (greeting) */
            .pieces_max = device->pieces_max,
            .refs_max = conn->reads ? least(conn->windows_free_count, RDMA_CUT_REFS_MAX) : 0,
            .ref_above = conn->reads ? RDMA_SEND_PAYLOAD_MAX : 0,
            .pool = conn->transport->bufs,
        };
        rdma_cut(&conn->link->stream.tx, &limits, slot + head_bytes, &cut);
        if (cut.stream_bytes == 0)
            return 0;
    }
    for (uint32_t i = 0; i < cut.ref_count; i++)
        add_bind(batch, &cut.refs[i], slot + head_bytes);
    struct ibv_send_wr *work = batch_add(batch, RDMA_POSTED_SEND, &posted);
    device->send_free_count--;
    posted->slot = index;
    work->opcode = IBV_WR_SEND;
    work->send_flags = IBV_SEND_SOLICITED;
    (void)write_head(conn, slot, dones, cut.stream_bytes);
    add_pieces(conn, &cut, head_bytes, slot, work, posted);
    batch->holds = batch->holds || posted->buf_count > 0;
    rdma_credit_use(&conn->credit);
    struct transport_rdma_stats *stats = &conn->transport->stats;
    stats->sends++;
    stats->control_sends += cut.stream_bytes == 0;
    stats->sent_stream_bytes += cut.stream_bytes;
    stats->tx_copied_bytes += cut.copied_bytes;
    *ret_sent = true;
    return cut.consumed;
}

static bool must_control(const struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    assert(conn->done_count <= RDMA_WINDOWS_MAX);
    return rdma_credit_must_return(&conn->credit) ||
           ((conn->done_count >= DONES_ALONE || (conn->dones_due && conn->done_count > 0)) &&
            rdma_credit_may_send(&conn->credit));
}

/* Windows are taken back with whatever else goes, or when they waited long enough; meanwhile none but the peer that has
 * the payload can read it, and the buffer is held. */
static bool must_invalidate(const struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    assert(conn->windows_done_count <= RDMA_WINDOWS);
    return conn->windows_due || conn->windows_done_count >= INVALIDATIONS_ALONE ||
           conn->windows_free_count < RDMA_CUT_REFS_MAX || conn->reads_posted < conn->reads_count ||
           stream_link_wants_send(&conn->link->stream) || must_control(conn);
}

/* False: nothing more to send, or not now. */
static bool add_next_send(struct batch *batch)
{
    struct rdma_conn *conn = batch->conn;
    bool frames = stream_link_wants_send(&conn->link->stream) && rdma_credit_may_send(&conn->credit);
    bool sent = false;
    if (!frames && !must_control(conn))
        return false;
    if (!batch_has_room(batch, RDMA_CUT_REFS_MAX + 1) || conn->device->send_free_count == 0) {
        conn->wants_completion = room_of(conn) < RDMA_CUT_REFS_MAX + 1 || conn->device->send_free_count == 0;
        rdma_poll_reap_later(conn->transport);
        return false;
    }
    size_t consumed = add_send(batch, frames, &sent);
    if (!sent && frames) { /* the first frame needs a window: the peer's done tag, then an invalidation bring one */
        conn->wants_completion = conn->posted_count > 0;
        if (must_control(conn))
            (void)add_send(batch, /* frames= */ false, &sent);
        return false;
    }
    if (consumed > 0)
        stream_link_sent(&conn->link->stream, (ssize_t)consumed);
    return conn->state == RDMA_CONN_OPEN;
}

/* Unsignalled SENDs keep their slots: so few, that a link with few credits never waits for them. */
static void signal_last(struct batch *batch)
{
    struct rdma_conn *conn = batch->conn;
    uint32_t every = least(RDMA_SIGNAL_EVERY, conn->transport->config.credits / 4);
    assert(batch->count > 0 && batch->count <= conn->posted_count);
    if (!batch->holds && conn->unsignalled + batch->count < every && !conn->wants_completion) {
        conn->unsignalled += batch->count;
        return;
    }
    batch->works[batch->count - 1].send_flags |= IBV_SEND_SIGNALED;
    conn->unsignalled = 0;
    rdma_poll_reap_later(conn->transport);
}

static void ring_doorbell(struct batch *batch)
{
    struct rdma_conn *conn = batch->conn;
    struct ibv_send_wr *bad = NULL;
    assert(batch->count > 0);
    signal_last(batch);
    conn->transport->stats.doorbells++;
    int rc = ibv_post_send(conn->id->qp, batch->works, &bad);
    for (unsigned i = 0; rc == 0 && i < batch->count; i++)
        if (batch->works[i].opcode == IBV_WR_BIND_MW) /* the verbs leave this to us, and after the post */
            batch->works[i].bind_mw.mw->rkey = batch->works[i].bind_mw.rkey;
    if (rc != 0) {
        log_warn("RDMA post failed peer=%s opcode=%d error=\"%s\"", conn->peer_text, bad ? (int)bad->opcode : -1,
                 strerror(rc < 0 ? -rc : rc)); /* some providers return -errno */
        rdma_conn_fail(conn, -EIO);
    }
}

/* ibv_post_send takes the chain whole, or stops at the first it refuses: then the queue pair is destroyed, and what
 * was queued here is let go with it. */
void rdma_tx_flush(struct rdma_conn *conn)
{
    rdma_conn_assert(conn);
    struct batch batch; /* 13 KiB, of which little is used: not cleared */
    bool full = true;
    batch.conn = conn;
    while (full && conn->state == RDMA_CONN_OPEN && conn->link) {
        batch.count = 0;
        batch.holds = false;
        if (conn->windows_done_count > 0 && must_invalidate(conn))
            add_invalidations(&batch);
        add_reads(&batch);
        while (conn->state == RDMA_CONN_OPEN && conn->link && add_next_send(&batch))
            ;
        full = batch.count + RDMA_CUT_REFS_MAX + 1 > RDMA_BATCH_MAX;
        if (batch.count > 0 && conn->state == RDMA_CONN_OPEN)
            ring_doorbell(&batch);
    }
    if (conn->state == RDMA_CONN_OPEN)
        rdma_poll_wanted(conn);
}
