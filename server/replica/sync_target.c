/* SPDX-License-Identifier: Apache-2.0 */
/* sync_target: the side of the member that is being synced (R16, R17).
 *
 * - SYNC_START: earlier drive writes drain, marks freeze, the chunks that may differ are listed.
 * - SYNC_GENERATIONS: which generations have a record of a chunk. SYNC_DIGEST: checksums recomputed from the own drive. SYNC_EPOCH: mod_epoch := max.
 * - SYNC_JOIN: earlier writes drain, then a flush: what was copied is durable before this member may be added.
 * - SYNC_END: added: the frozen marks go.
 * Failure: every refusal is a status; the primary starts over.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mutant.h"
#include "server/replica/replica_internal.h"
#include "server/replica/sync_wire.h"

#define LOG_MODULE "resync"

/* ---- START ---- */

static uint32_t encode_list(struct replica *rep, uint64_t since_epoch, uint8_t *body)
{
    replica_assert(rep);
    struct store_chunk_info infos[128];
    uint32_t count = 0, from = 0;
    while (from < STORE_SHARD_CHUNKS) {
        uint32_t next = STORE_SHARD_CHUNKS;
        uint32_t got = store_chunks_modified(rep->shard, since_epoch, from, infos, 128, &next);
        for (uint32_t i = 0; i < got; i++)
            sync_list_put(body, count++, &infos[i]);
        assert(next > from);
        from = next;
    }
    assert(count <= STORE_SHARD_CHUNKS);
    return count * SYNC_LIST_ENTRY_BYTES;
}

void sync_start_drained(struct drain_wait *wait)
{
    drain_assert(wait);
    struct replica *rep = wait->replica;
    if (wait->request.epoch != rep->map.epoch) {
        drain_end(wait, -ESTALE);
        return;
    }
    uint8_t *body = malloc((size_t)STORE_SHARD_CHUNKS * SYNC_LIST_ENTRY_BYTES);
    if (!body) {
        drain_end(wait, -ENOMEM);
        return;
    }
    store_marks_freeze(rep->shard);
    struct wire_header reply = {.status = 0, .epoch = rep->map.epoch};
    reply.body_len = encode_list(rep, wait->request.aux, body);
    peers_reply(rep->set->cfg.peers, &wait->source, &wait->request, &reply, body, NULL, 0);
    free(body);
    list_remove(&wait->link);
    free(wait);
}

/* ---- JOIN ---- */

static void join_flushed(struct store_flush *req, int rc)
{
    assert(rc <= 0);
    struct drain_wait *wait = req->owner;
    struct replica *rep = wait->replica;
    struct wire_header reply = {.status = rc, .epoch = wait->request.epoch};
    peers_reply(rep->set->cfg.peers, &wait->source, &wait->request, &reply, NULL, NULL, 0);
    list_remove(&wait->link);
    free(wait);
}

void sync_join_drained(struct drain_wait *wait)
{
    drain_assert(wait);
    wait->flush = (struct store_flush){.cb = join_flushed, .owner = wait};
    if (MUTANT(joiner_does_not_flush)) {
        join_flushed(&wait->flush, 0);
        return;
    }
    store_flush(wait->replica->set->cfg.store, &wait->flush);
}

/* ---- DIGEST ---- */

struct digest_job {
    struct store_digest digest;
    struct replica *replica;
    struct peer_source source;
    struct wire_header request;
    struct store_block_digest blocks[STORE_CHUNK_BLOCKS];
};

static void digest_done(struct store_digest *req, int rc)
{
    assert(rc <= 0);
    struct digest_job *job = req->owner;
    uint8_t body[SYNC_DIGEST_BYTES];
    struct wire_header reply = {.status = rc};
    if (rc == 0) {
        sync_digest_encode(job->blocks, body);
        reply.body_len = sizeof(body);
    }
    assert(job->replica->digests > 0);
    job->replica->digests--;
    peers_reply(job->replica->set->cfg.peers, &job->source, &job->request, &reply, rc == 0 ? body : NULL, NULL, 0);
    free(job);
}

static int digest_start(struct replica *rep, const struct peer_source *source, const struct wire_header *h)
{
    assert(source->node <= MAP_NODES_MAX);
    replica_assert(rep);
    struct digest_job *job = calloc(1, sizeof(*job));
    if (!job)
        return -ENOMEM;
    job->replica = rep;
    job->source = *source;
    job->request = *h;
    rep->digests++;
    job->digest = (struct store_digest){
        .shard = rep->shard,
        .chunk = (uint32_t)(h->offset / STORE_CHUNK_BYTES),
        .generation = h->generation,
        .blocks = job->blocks,
        .cb = digest_done,
        .owner = job,
    };
    store_digest(&job->digest);
    return 1; /* answered later */
}

/* ---- GENERATIONS ---- */

struct records_job {
    struct store_chunk_generations records;
    struct replica *replica;
    struct peer_source source;
    struct wire_header request;
    uint32_t generations[STORE_LIVE_MAX];
    uint8_t body[STORE_LIVE_MAX * 4];
};

static void records_done(struct store_chunk_generations *req, int rc)
{
    assert(rc <= 0);
    struct records_job *job = req->owner;
    struct wire_header reply = {.status = rc};
    if (rc == 0)
        reply.body_len = (uint32_t)sync_generations_encode(job->generations, req->count, job->body);
    assert(job->replica->digests > 0);
    job->replica->digests--;
    peers_reply(job->replica->set->cfg.peers, &job->source, &job->request, &reply,
                reply.body_len > 0 ? job->body : NULL, NULL, 0);
    free(job);
}

static int records_start(struct replica *rep, const struct peer_source *source, const struct wire_header *h)
{
    assert(source->node <= MAP_NODES_MAX);
    replica_assert(rep);
    struct records_job *job = malloc(sizeof(*job));
    if (!job)
        return -ENOMEM;
    job->replica = rep;
    job->source = *source;
    job->request = *h;
    rep->digests++;
    job->records = (struct store_chunk_generations){
        .shard = rep->shard,
        .chunk = (uint32_t)(h->offset / STORE_CHUNK_BYTES),
        .generations = job->generations,
        .max = STORE_LIVE_MAX,
        .cb = records_done,
        .owner = job,
    };
    store_chunk_generations(&job->records);
    return 1; /* answered later */
}

static void simple_reply(struct replicas *r, const struct peer_source *source, struct msg *msg, int rc)
{
    assert(rc <= 0);
    assert(source->node <= MAP_NODES_MAX);
    set_assert(r);
    struct wire_header reply = {.status = rc, .map_version = map_version(r->cfg.map)};
    peers_reply(r->cfg.peers, source, &msg->header, &reply, NULL, NULL, 0);
    msg_free(msg);
}

void sync_target_message(struct replicas *r, const struct peer_source *source, struct msg *msg)
{
    assert(source->node <= MAP_NODES_MAX);
    assert(msg != NULL);
    set_assert(r);
    const struct wire_header *h = &msg->header;
    struct replica *rep = replica_find(r, h->volume, h->shard);
    uint32_t chunk = (uint32_t)(h->offset / STORE_CHUNK_BYTES);
    int rc = 0;
    if (!rep || !rep->shard || h->epoch != rep->map.epoch || rep->map.primary != source->node)
        rc = -ESTALE; /* I5 */
    else if (h->offset / STORE_CHUNK_BYTES >= STORE_SHARD_CHUNKS)
        rc = -EINVAL;
    if (rc != 0) {
        simple_reply(r, source, msg, rc);
        return;
    }
    assert(rep->phase == PHASE_IDLE);
    switch (h->opcode) {
    case WIRE_SYNC_START:
    case WIRE_SYNC_JOIN: drain_add(rep, source, msg); return;
    case WIRE_SYNC_DIGEST: rc = h->generation == 0 ? -EINVAL : digest_start(rep, source, h); break;
    case WIRE_SYNC_GENERATIONS: rc = records_start(rep, source, h); break;
    case WIRE_SYNC_EPOCH: store_raise_mod_epoch(rep->shard, chunk, h->aux); break;
    case WIRE_SYNC_END:
        if (h->aux == 1)
            store_marks_thaw(rep->shard);
        break;
    default: rc = -EBADMSG;
    }
    if (rc > 0)
        msg_free(msg);
    else
        simple_reply(r, source, msg, rc);
}
