/* SPDX-License-Identifier: Apache-2.0 */
/* backup: a member's side: REPLICATE, COMMIT, RAISE, TAKEOVER_DONE, and reads that repair a damaged primary.
 *
 * - REPLICATE: refuse older epochs (I5) and older sessions (I6); an lsn seen before is answered, not applied again (R2); remember
 *   (lsn, range) in the window; verify checksums; write; answer.
 * - RAISE: drain every drive write accepted earlier, restamp the marks (R14), report the window and keep it (R11).
 * - TAKEOVER_DONE: windows of older epochs are retired.
 * Failure: a failed drive write is answered -EIO: the primary drops this member; the store is sticky-failed by then.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/log.h"
#include "common/mutant.h"
#include "server/replica/replica_internal.h"
#include "server/replica/window_wire.h"

#define LOG_MODULE "replica"

static void refuse(struct replicas *r, const struct peer_source *source, struct msg *msg, int rc)
{
    assert(source->node <= MAP_NODES_MAX);
    set_assert(r);
    assert(rc < 0);
    struct wire_header reply = {.status = rc, .map_version = map_version(r->cfg.map)};
    peers_reply(r->cfg.peers, source, &msg->header, &reply, NULL, NULL, 0);
    msg_free(msg);
}

/* ---- REPLICATE ---- */

static void replicate_answer(struct replica *rep, struct window_entry *entry, int rc, int32_t credits)
{
    replica_assert(rep);
    window_assert(entry);
    struct wire_header reply = {.status = rc, .credits = credits, .epoch = entry->epoch, .lsn_n = entry->n};
    uint64_t drive_ns = entry->io.drive_ns;
    reply.stage_ns[3] = drive_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)drive_ns;
    peers_reply(rep->set->cfg.peers, &entry->source, &entry->request, &reply, NULL, NULL, 0);
}

static void replicate_written(struct store_io *io, int rc)
{
    assert(rc <= 0);
    assert(io->owner != NULL);
    struct window_entry *entry = io->owner;
    struct replica *rep = entry->replica;
    assert(entry->busy);
    int32_t credits = reserve_settle(rep->set, entry, io->units_allocated);
    replicate_answer(rep, entry, rc, credits);
    entry->busy = false;
    msg_free(entry->msg);
    entry->msg = NULL;
    if (rc == 0 && entry->epoch == rep->map.epoch && entry->n <= rep->commit_n)
        window_remove(entry);
    replica_drive_write_done(rep);
}

static bool sane_write(const struct replica *rep, const struct msg *msg)
{
    assert(msg != NULL);
    replica_assert(rep);
    const struct wire_header *h = &msg->header;
    const struct map_volume *v = replica_volume(rep);
    if (!v || h->length == 0 || h->offset % STORE_BLOCK_BYTES || h->length % STORE_BLOCK_BYTES ||
        h->offset >= v->shard_bytes || h->length > v->shard_bytes - h->offset || h->generation == 0 ||
        h->generation > v->generation)
        return false;
    uint64_t span = h->aux == WIRE_WRITE ? STORE_CHUNK_BYTES : STORE_REGION_BYTES;
    if (h->offset / span != (h->offset + h->length - 1) / span)
        return false;
    if (h->aux == WIRE_ZERO)
        return h->payload_len == 0;
    return h->aux == WIRE_WRITE && h->payload_len == h->length &&
           h->body_len == h->length / STORE_BLOCK_BYTES * sizeof(uint32_t);
}

static bool checksums_hold(const struct msg *msg)
{
    assert(msg != NULL);
    uint32_t found[WIRE_BLOCKS_MAX];
    uint32_t blocks = msg->header.payload_len / STORE_BLOCK_BYTES;
    crc32c_blocks(msg->payload->data, blocks, found);
    return memcmp(found, msg->body, blocks * sizeof(found[0])) == 0;
}

static struct window_entry *window_find(struct replica *rep, uint64_t epoch, uint64_t n)
{
    replica_assert(rep);
    for (struct list_node *pos = rep->window.prev; pos != &rep->window; pos = pos->prev) {
        struct window_entry *entry = list_entry(pos, struct window_entry, link);
        if (entry->epoch == epoch && entry->n == n)
            return entry;
        if (entry->epoch == epoch && entry->n < n)
            return NULL;
    }
    return NULL;
}

static void note_commit(struct replica *rep, uint64_t epoch, uint64_t commit_n)
{
    replica_assert(rep);
    if (epoch != rep->map.epoch || commit_n <= rep->commit_n)
        return;
    rep->commit_n = commit_n;
    window_retire(rep, epoch, commit_n);
    store_committed(rep->shard, epoch, commit_n);
}

/* R2: an lsn seen before. True when the request was dealt with. */
static bool seen_before(struct replica *rep, const struct peer_source *source, struct msg *msg)
{
    assert(source->node <= MAP_NODES_MAX);
    assert(msg != NULL);
    replica_assert(rep);
    struct replicas *r = rep->set;
    struct window_entry *entry = window_find(rep, msg->header.epoch, msg->header.lsn_n);
    if (entry && entry->busy) { /* its answer goes to the newer question */
        entry->source = *source;
        entry->request = msg->header;
        msg_free(msg);
        return true;
    }
    if (!entry && msg->header.lsn_n > rep->commit_n)
        return false;
    struct wire_header reply = {.status = 0, .epoch = msg->header.epoch, .lsn_n = msg->header.lsn_n};
    peers_reply(r->cfg.peers, source, &msg->header, &reply, NULL, NULL, 0);
    msg_free(msg);
    return true;
}

/* 0, or why the sender may not change anything here. */
static int may_write(struct replica *rep, const struct peer_source *source, const struct wire_header *h)
{
    assert(source->node <= MAP_NODES_MAX);
    replica_assert(rep);
    struct replicas *r = rep->set;
    bool current = h->epoch == rep->map.epoch && rep->map.primary == source->node && source->node != r->cfg.node;
    if (!current && !MUTANT(obey_older_epoch))
        return -ESTALE; /* I5; a newer epoch cannot be here: the frame waited for the map (R3) */
    const struct map_volume *v = replica_volume(rep);
    bool exempt = (h->flags & WIRE_F_TAKEOVER) || h->opcode == WIRE_SYNC_COPY || h->session == 0;
    if (v && !exempt && h->session < v->session.number && !MUTANT(obey_older_session))
        return -EPERM; /* I6 */
    if (!exempt && h->generation <= rep->map.sealed)
        return -ESTALE; /* R20: sealed by a primary of this epoch or an older one */
    const struct map_member *self = map_member_of(&rep->map, r->cfg.node);
    bool syncing = (h->flags & WIRE_F_TO_SYNC) || h->opcode == WIRE_SYNC_COPY;
    if (!self || (!(self->flags & MAP_MEMBER_IN_SYNC) && !syncing))
        return -ESTALE;
    return 0;
}

static void replicate(struct replicas *r, const struct peer_source *source, struct msg *msg)
{
    assert(source->node <= MAP_NODES_MAX);
    assert(msg != NULL);
    set_assert(r);
    const struct wire_header *h = &msg->header;
    struct replica *rep = replica_find(r, h->volume, h->shard);
    int rc = rep && rep->shard ? may_write(rep, source, h) : -ESTALE;
    if (rc == 0 && !sane_write(rep, msg))
        rc = -EINVAL;
    if (rc != 0) {
        refuse(r, source, msg, rc);
        return;
    }
    note_commit(rep, h->epoch, h->commit_n);
    if (seen_before(rep, source, msg))
        return;
    if (h->aux == WIRE_WRITE && !checksums_hold(msg)) {
        refuse(r, source, msg, -EBADMSG);
        return;
    }
    assert(h->epoch == rep->map.epoch || MUTANT(obey_older_epoch));
    /* Older generations are changed by copies only: the primary drained its writes before newer ones began. */
    bool copy = h->opcode == WIRE_SYNC_COPY ||
                ((h->flags & WIRE_F_TAKEOVER) && h->generation < replica_volume(rep)->generation);
    struct window_entry *entry = window_add(rep, h->epoch, h->lsn_n, h->offset, (uint32_t)h->length, h->generation);
    entry->source = *source;
    entry->request = *h;
    rc = reserve_accept(entry);
    if (rc != 0) {
        window_remove(entry);
        refuse(r, source, msg, rc);
        return;
    }
    entry->busy = true;
    entry->msg = msg;
    entry->io = (struct store_io){
        .shard = rep->shard,
        .op = h->aux == WIRE_WRITE ? STORE_WRITE : STORE_ZERO,
        .flags = (h->flags & WIRE_F_NO_HOLE ? STORE_IO_NO_HOLE : 0) | (copy ? STORE_IO_SYNC_COPY : 0),
        .generation = h->generation,
        .epoch = h->epoch,
        .lsn_n = h->lsn_n,
        .offset = h->offset,
        .length = (uint32_t)h->length,
        .buf = msg->payload,
        .crcs = (uint32_t *)(void *)msg->body,
        .cb = replicate_written,
        .owner = entry,
    };
    rep->drive_writes++;
    store_submit(&entry->io);
}

/* ---- RAISE, drains ---- */

static void raise_answer(struct drain_wait *wait)
{
    drain_assert(wait);
    struct replica *rep = wait->replica;
    struct wire_header reply = {.status = 0, .epoch = rep->map.epoch};
    uint8_t *body = malloc(WIRE_BODY_MAX);
    if (!body)
        abort();
    reply.body_len = window_encode(rep, body, WIRE_BODY_MAX);
    peers_reply(rep->set->cfg.peers, &wait->source, &wait->request, &reply, body, NULL, 0);
    if (MUTANT(window_dropped_at_raise))
        window_retire_older(rep, rep->map.epoch);
    free(body);
}

void drain_end(struct drain_wait *wait, int rc)
{
    assert(rc <= 0);
    drain_assert(wait);
    struct replica *rep = wait->replica;
    if (rc == 0 && wait->map_epoch != rep->map.epoch)
        rc = -ESTALE; /* raised again meanwhile: that question is answered on its own */
    if (rc == 0) {
        raise_answer(wait);
    } else {
        struct wire_header reply = {.status = rc, .map_version = map_version(rep->set->cfg.map)};
        peers_reply(rep->set->cfg.peers, &wait->source, &wait->request, &reply, NULL, NULL, 0);
    }
    list_remove(&wait->link);
    free(wait);
}

static void raise_restamped(struct store_restamp *req, int rc)
{
    assert(rc <= 0);
    drain_end(req->owner, rc);
}

void drain_check(struct replica *rep)
{
    replica_assert(rep);
    if (rep->drive_writes > 0 && !MUTANT(raise_without_drain))
        return;
    list_for_each_safe(pos, tmp, &rep->drains)
    {
        struct drain_wait *wait = list_entry(pos, struct drain_wait, link);
        if (wait->begun)
            continue;
        if (wait->request.opcode == WIRE_RAISE && wait->request.epoch == rep->map.epoch && rollback_wanted(rep)) {
            rollback_start(rep); /* comes back here */
            return;
        }
        wait->begun = true;
        wait->map_epoch = rep->map.epoch;
        if (wait->request.opcode == WIRE_SYNC_JOIN) {
            sync_join_drained(wait);
        } else if (wait->request.opcode == WIRE_SYNC_START) {
            sync_start_drained(wait);
        } else if (wait->request.epoch != rep->map.epoch) {
            drain_end(wait, -ESTALE);
        } else {
            wait->restamp = (struct store_restamp){
                .shard = rep->shard, .epoch = rep->map.epoch, .cb = raise_restamped, .owner = wait};
            if (MUTANT(backup_does_not_restamp))
                raise_restamped(&wait->restamp, 0);
            else
                store_restamp(&wait->restamp);
        }
    }
}

void drain_add(struct replica *rep, const struct peer_source *source, struct msg *msg)
{
    assert(source->node <= MAP_NODES_MAX);
    assert(msg != NULL);
    replica_assert(rep);
    struct drain_wait *wait = calloc(1, sizeof(*wait));
    if (!wait)
        abort();
    wait->replica = rep;
    wait->source = *source;
    wait->request = msg->header;
    msg_free(msg);
    list_push_back(&rep->drains, &wait->link);
    drain_check(rep);
}

static void raise_message(struct replicas *r, const struct peer_source *source, struct msg *msg)
{
    assert(source->node <= MAP_NODES_MAX);
    assert(msg != NULL);
    set_assert(r);
    struct replica *rep = replica_find(r, msg->header.volume, msg->header.shard);
    if (!rep || !rep->shard || msg->header.epoch != rep->map.epoch || rep->map.primary != source->node) {
        refuse(r, source, msg, -ESTALE);
        return;
    }
    assert(rep->phase == PHASE_IDLE); /* the map names another primary for this very epoch */
    drain_add(rep, source, msg);
}

static void takeover_done_message(struct replicas *r, const struct peer_source *source, struct msg *msg)
{
    assert(source->node <= MAP_NODES_MAX);
    assert(msg != NULL);
    set_assert(r);
    struct replica *rep = replica_find(r, msg->header.volume, msg->header.shard);
    const struct map_member *self = rep ? map_member_of(&rep->map, r->cfg.node) : NULL;
    /* Only who was raised in this epoch holds what it says is settled; others keep their marks until they are compared (R16). */
    if (rep && rep->shard && self && (self->flags & MAP_MEMBER_IN_SYNC || MUTANT(takeover_done_for_outsiders)) &&
        msg->header.epoch == rep->map.epoch && rep->map.primary == source->node) {
        window_retire_older(rep, rep->map.epoch);
        store_epoch_committed(rep->shard, rep->map.epoch - 1);
    }
    struct wire_header reply = {.status = 0};
    peers_reply(r->cfg.peers, source, &msg->header, &reply, NULL, NULL, 0);
    msg_free(msg);
}

/* ---- reads for a damaged primary ---- */

struct repair_read {
    struct store_io io;
    struct replicas *set;
    struct peer_source source;
    struct msg *msg;
    struct buf *buf;
    uint32_t crcs[WIRE_BLOCKS_MAX];
};

static void repair_read_done(struct store_io *io, int rc)
{
    assert(rc <= 0);
    assert(io->owner != NULL);
    struct repair_read *rr = io->owner;
    struct wire_header reply = {.status = rc};
    if (rc == 0) {
        reply.payload_len = io->length;
        reply.body_len = io->length / STORE_BLOCK_BYTES * 4u;
    }
    peers_reply(rr->set->cfg.peers, &rr->source, &rr->msg->header, &reply, rc == 0 ? rr->crcs : NULL,
                rc == 0 ? rr->buf : NULL, 0);
    buf_unref(rr->buf);
    msg_free(rr->msg);
    free(rr);
}

static void repair_read(struct replicas *r, const struct peer_source *source, struct msg *msg)
{
    assert(source->node <= MAP_NODES_MAX);
    assert(msg != NULL);
    set_assert(r);
    const struct wire_header *h = &msg->header;
    struct replica *rep = replica_find(r, h->volume, h->shard);
    bool sane = h->length > 0 && h->length <= STORE_CHUNK_BYTES && h->offset % STORE_BLOCK_BYTES == 0 &&
                h->length % STORE_BLOCK_BYTES == 0 && h->offset <= STORE_SHARD_BYTES_MAX - h->length &&
                h->offset / STORE_CHUNK_BYTES == (h->offset + h->length - 1) / STORE_CHUNK_BYTES;
    struct repair_read *rr = rep && rep->shard && sane && h->epoch == rep->map.epoch ? calloc(1, sizeof(*rr)) : NULL;
    struct buf *buf = rr ? buf_alloc(r->cfg.pool, (uint32_t)h->length) : NULL;
    if (!buf) {
        free(rr);
        refuse(r, source, msg, -ESTALE);
        return;
    }
    rr->set = r;
    rr->source = *source;
    rr->msg = msg;
    rr->buf = buf;
    rr->io = (struct store_io){
        .shard = rep->shard,
        .op = STORE_READ,
        .generation = h->generation,
        .offset = h->offset,
        .length = (uint32_t)h->length,
        .buf = buf,
        .crcs = rr->crcs,
        .cb = repair_read_done,
        .owner = rr,
    };
    store_submit(&rr->io);
}

static void damaged(struct replicas *r, struct msg *msg)
{
    assert(msg != NULL);
    set_assert(r);
    const struct wire_header *h = &msg->header;
    struct replica *rep = replica_find(r, h->volume, h->shard);
    const struct map_volume *v = rep ? replica_volume(rep) : NULL;
    if (v && rep->phase == PHASE_SERVING && h->offset % STORE_BLOCK_BYTES == 0 &&
        h->offset <= v->shard_bytes - STORE_BLOCK_BYTES && !heal_covers(rep, h->offset))
        (void)heal_start(rep, h->offset, h->offset + STORE_BLOCK_BYTES, 0, false, NULL, NULL);
    msg_free(msg);
}

void backup_message(struct replicas *r, const struct peer_source *source, struct msg *msg)
{
    assert(source->node <= MAP_NODES_MAX);
    assert(msg != NULL);
    set_assert(r);
    switch (msg->header.opcode) {
    case WIRE_REPLICATE:
    case WIRE_SYNC_COPY: replicate(r, source, msg); return;
    case WIRE_COMMIT: {
        struct replica *rep = replica_find(r, msg->header.volume, msg->header.shard);
        if (rep && rep->shard && rep->map.primary == source->node)
            note_commit(rep, msg->header.epoch, msg->header.commit_n);
        msg_free(msg);
        return;
    }
    case WIRE_RAISE: raise_message(r, source, msg); return;
    case WIRE_TAKEOVER_DONE: takeover_done_message(r, source, msg); return;
    case WIRE_REPAIR_READ: repair_read(r, source, msg); return;
    case WIRE_DAMAGED: damaged(r, msg); return;
    default: refuse(r, source, msg, -EBADMSG);
    }
}
