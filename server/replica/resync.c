/* SPDX-License-Identifier: Apache-2.0 */
/* resync: the primary brings a member back to in_sync while writes go on (R15..R17).
 *
 *   WAITING --sync_begin--> STARTING --list_answered--> COPYING --sync_join--> JOINING --propose_add--> ADDING --map--> gone
 *      ^                        |                          |                     |                       |
 *      +------------------------+----- link lost, refused -+---------------------+-----------------------+
 *
 * - from STARTING on every new write goes to the member too; one that fails there lists its chunk again.
 * - the list: chunks with mod_epoch > e_R or marked, here or there (R16). A chunk is compared under the exclusive lock of its range by
 *   checksums recomputed from both drives; runs of blocks that differ are sent as locked, numbered writes.
 * - JOINING: the member must answer every write, and flushes; ADDING: acknowledgements wait for the outcome (R17).
 * Failure: anything lost on the way puts the chunk, or the whole member, back in the queue with back-off.
 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mutant.h"
#include "server/replica/replica_internal.h"
#include "server/replica/resync_internal.h"
#include "server/replica/sync_wire.h"

#define LOG_MODULE "resync"
#define BACKOFF_MIN_NS ENV_MS(100)
#define BACKOFF_MAX_NS ENV_MS(5000)
#define NO_SPACE_PAUSE_NS ENV_MS(300)

/* ---- the list ---- */

static bool listed(const struct sync *s, uint32_t chunk)
{
    sync_assert(s);
    return (s->todo[chunk / 64] >> (chunk % 64)) & 1u;
}

void sync_list_chunk(struct sync *s, uint32_t chunk)
{
    sync_assert(s);
    assert(chunk < STORE_SHARD_CHUNKS);
    if (listed(s, chunk))
        return;
    s->todo[chunk / 64] |= 1ull << (chunk % 64);
    s->todo_count++;
    s->chunks_total++;
}

void sync_unlist_chunk(struct sync *s, uint32_t chunk)
{
    sync_assert(s);
    assert(listed(s, chunk) && s->todo_count > 0);
    s->todo[chunk / 64] &= ~(1ull << (chunk % 64));
    s->todo_count--;
    s->replica->set->stats.sync_chunks++;
}

static void list_own(struct sync *s)
{
    sync_assert(s);
    struct store_chunk_info infos[128];
    uint32_t from = 0;
    while (from < STORE_SHARD_CHUNKS) {
        uint32_t next = STORE_SHARD_CHUNKS;
        uint32_t count = store_chunks_modified(s->replica->shard, s->e_r, from, infos, 128, &next);
        for (uint32_t i = 0; i < count; i++)
            sync_list_chunk(s, infos[i].chunk);
        assert(next > from);
        from = next;
    }
}

/* ---- life ---- */

static struct sync *sync_find(const struct replica *rep, uint32_t node)
{
    assert(node <= MAP_NODES_MAX);
    replica_assert(rep);
    for (uint32_t i = 0; i < rep->sync_count; i++)
        if (rep->syncs[i]->node == node)
            return rep->syncs[i];
    return NULL;
}

static void sync_idle(struct sync *s)
{
    sync_assert(s);
    if (!s->running)
        return;
    s->running = false;
    assert(s->replica->set->syncs_running > 0);
    s->replica->set->syncs_running--;
}

static bool sync_run(struct sync *s)
{
    sync_assert(s);
    struct replicas *r = s->replica->set;
    if (s->running)
        return true;
    if (r->syncs_running >= r->cfg.sync_shards_max)
        return false;
    r->syncs_running++;
    s->running = true;
    return true;
}

void sync_free_if_quiet(struct sync *s)
{
    sync_assert(s);
    if (s->dead && s->chunks_busy == 0 && !s->add_busy)
        free(s);
}

static void sync_stop(struct sync *s)
{
    sync_assert(s);
    struct replica *rep = s->replica;
    if (s->request_busy)
        peers_abandon(rep->set->cfg.peers, &s->request);
    s->request_busy = false;
    sync_idle(s);
    for (uint32_t i = 0; i < rep->sync_count; i++)
        if (rep->syncs[i] == s)
            rep->syncs[i] = rep->syncs[--rep->sync_count];
    bool again = true;
    while (again) {
        again = false;
        list_for_each(pos, &rep->ops)
        {
            struct op_ctx *ctx = list_entry(pos, struct op_ctx, link);
            if (ctx->kind == CTX_COPY && ((struct sync_chunk *)ctx->owner)->sync == s) {
                op_abort(ctx, -ECANCELED);
                again = true;
                break;
            }
        }
    }
    s->dead = true; /* only now: the last chunk to end must not free it under us */
    sync_free_if_quiet(s);
}

void sync_stop_all(struct replica *rep)
{
    replica_assert(rep);
    while (rep->sync_count > 0)
        sync_stop(rep->syncs[0]);
}

/* Back to the beginning: the member missed something that only a new list shows. */
static void sync_restart(struct sync *s)
{
    sync_assert(s);
    struct replicas *r = s->replica->set;
    s->state = SYNC_WAITING;
    if (s->request_busy)
        peers_abandon(r->cfg.peers, &s->request);
    s->request_busy = false;
    sync_idle(s);
    s->backoff_ns = s->backoff_ns ? s->backoff_ns * 2 : BACKOFF_MIN_NS;
    if (s->backoff_ns > BACKOFF_MAX_NS)
        s->backoff_ns = BACKOFF_MAX_NS;
    s->retry_at_ns = env_now_ns(r->env) + s->backoff_ns;
    memset(s->todo, 0, sizeof(s->todo));
    s->todo_count = s->chunks_total = 0;
}

static void added(struct replica *rep, struct sync *s)
{
    replica_assert(rep);
    sync_assert(s);
    struct wire_header h;
    replica_header(rep, &h, WIRE_SYNC_END);
    h.aux = 1;
    peers_notify(rep->set->cfg.peers, s->node, &h);
    rep->set->stats.syncs_completed++;
    log_info("volume %llu shard %u: member %u is in sync again: %u chunks compared, %llu bytes copied",
             (unsigned long long)rep->volume, rep->index, s->node, s->chunks_total,
             (unsigned long long)s->bytes_copied);
    sync_stop(s);
}

static bool wanted(const struct replica *rep, const struct map_member *m)
{
    replica_assert(rep);
    const struct map_node *node = map_node_by_id(rep->set->cfg.map, m->node);
    return !(m->flags & (MAP_MEMBER_IN_SYNC | MAP_MEMBER_LEAVING)) && node && node->up && !node->store_failed;
}

void sync_refresh(struct replica *rep)
{
    replica_assert(rep);
    if (rep->phase == PHASE_IDLE)
        return;
    for (uint32_t i = 0; i < rep->sync_count;) {
        struct sync *s = rep->syncs[i];
        const struct map_member *m = map_member_of(&rep->map, s->node);
        const struct map_node *node = map_node_by_id(rep->set->cfg.map, s->node);
        if (m && (m->flags & MAP_MEMBER_IN_SYNC) && m->instance == s->instance)
            added(rep, s);
        else if (!m || m->instance != s->instance || !wanted(rep, m) || node->incarnation != s->incarnation)
            sync_stop(s);
        else
            i++;
    }
    for (uint32_t i = 0; i < rep->map.member_count; i++) {
        const struct map_member *m = &rep->map.members[i];
        if (m->node == rep->set->cfg.node || !wanted(rep, m) || sync_find(rep, m->node))
            continue;
        struct sync *s = calloc(1, sizeof(*s));
        if (!s)
            abort();
        s->replica = rep;
        s->node = m->node;
        s->instance = m->instance;
        s->incarnation = map_node_by_id(rep->set->cfg.map, m->node)->incarnation;
        assert(rep->sync_count < MAP_MEMBERS_MAX);
        rep->syncs[rep->sync_count++] = s;
    }
}

bool sync_is_target(const struct replica *rep, uint32_t node, bool *ret_joining)
{
    assert(node <= MAP_NODES_MAX);
    replica_assert(rep);
    const struct sync *s = sync_find(rep, node);
    if (!s || s->state == SYNC_WAITING)
        return false;
    *ret_joining = s->state == SYNC_JOINING || s->state == SYNC_ADDING;
    return true;
}

void sync_forward_failed(struct replica *rep, uint32_t node, uint64_t offset, uint64_t length, int rc)
{
    assert(node <= MAP_NODES_MAX);
    replica_assert(rep);
    struct sync *s = sync_find(rep, node);
    if (!s || s->state == SYNC_WAITING)
        return;
    if (rc == -ENOSPC) { /* other chunks may give space back there, or other shards: these are next, and no hurry */
        s->pause_until_ns = env_now_ns(rep->set->env) + NO_SPACE_PAUSE_NS;
        sync_idle(s);
    }
    if (s->state == SYNC_STARTING) { /* no list to put it on yet */
        sync_restart(s);
        return;
    }
    for (uint64_t chunk = offset / STORE_CHUNK_BYTES;
         chunk <= (offset + length - 1) / STORE_CHUNK_BYTES && !MUTANT(failed_forward_forgotten); chunk++)
        sync_list_chunk(s, (uint32_t)chunk);
    if (s->state == SYNC_JOINING)
        s->state = SYNC_COPYING;
}

void sync_peer_down(struct replica *rep, uint32_t node)
{
    assert(node <= MAP_NODES_MAX);
    replica_assert(rep);
    struct sync *s = sync_find(rep, node);
    if (s && s->state != SYNC_WAITING && s->state != SYNC_ADDING)
        sync_restart(s);
}

bool sync_withholds_ack(const struct replica *rep)
{
    replica_assert(rep);
    for (uint32_t i = 0; i < rep->sync_count; i++)
        if (rep->syncs[i]->state == SYNC_ADDING)
            return true;
    return false;
}

/* ---- STARTING ---- */

/* A new member of a clone has nothing of what the clone reads through its parent: every chunk is looked at. */
static void list_of_clone(struct sync *s)
{
    sync_assert(s);
    const struct replica *rep = s->replica;
    const struct map_volume *v = replica_volume(rep);
    const struct map_member *m = map_member_of(&rep->map, s->node);
    if (!v || v->base.volume == 0 || !m || !(m->flags & MAP_MEMBER_FULL) || s->e_r > 0)
        return;
    uint64_t left = v->size - v->shard_bytes * rep->index, bytes = left < v->shard_bytes ? left : v->shard_bytes;
    for (uint64_t at = 0; at < bytes; at += STORE_CHUNK_BYTES)
        sync_list_chunk(s, (uint32_t)(at / STORE_CHUNK_BYTES));
}

static void list_entry_seen(void *arg, const struct store_chunk_info *info)
{
    sync_list_chunk(arg, info->chunk);
}

static void list_answered(struct peer_request *req, int rc)
{
    assert(rc <= 0);
    assert(req->owner != NULL);
    struct sync *s = req->owner;
    s->request_busy = false;
    if (rc == 0 && !MUTANT(resync_ignores_the_members_list))
        rc = sync_list_decode(req->reply->body, req->reply->header.body_len, list_entry_seen, s);
    if (rc != 0) {
        sync_restart(s);
        return;
    }
    if (!MUTANT(resync_ignores_the_own_list))
        list_own(s);
    list_of_clone(s);
    s->state = SYNC_COPYING;
    s->cursor = 0;
    log_info("volume %llu shard %u: syncing member %u (e_R %llu): %u chunks to compare",
             (unsigned long long)s->replica->volume, s->replica->index, s->node, (unsigned long long)s->e_r,
             s->todo_count);
}

static void sync_begin(struct sync *s)
{
    sync_assert(s);
    struct replica *rep = s->replica;
    struct replicas *r = rep->set;
    const struct map_member *m = map_member_of(&rep->map, s->node);
    if (env_now_ns(r->env) < s->retry_at_ns || !peers_is_up(r->cfg.peers, s->node) || !m || !sync_run(s))
        return;
    s->state = SYNC_STARTING;
    s->e_r = m->e_r;
    s->started_ns = env_now_ns(r->env);
    struct wire_header h;
    replica_header(rep, &h, WIRE_SYNC_START);
    h.aux = s->e_r;
    s->request_busy = true;
    s->request = (struct peer_request){.cb = list_answered, .owner = s};
    peers_request(r->cfg.peers, s->node, &h, NULL, NULL, 0, &s->request);
}

/* ---- JOINING, ADDING ---- */

static void add_result(struct replica_proposal *p, const struct map_result *result)
{
    assert(result != NULL && p->owner != NULL);
    struct sync *s = p->owner;
    s->add_busy = false;
    if (s->dead) {
        sync_free_if_quiet(s);
        return;
    }
    if (result->rc != 0) {
        log_debug("volume %llu shard %u: member %u not added: %s", (unsigned long long)s->replica->volume,
                  s->replica->index, s->node, strerror(-result->rc));
        sync_restart(s);
    }
    write_recheck_all(s->replica);
}

static void propose_add(struct sync *s)
{
    sync_assert(s);
    struct replica *rep = s->replica;
    struct replicas *r = rep->set;
    s->state = SYNC_ADDING;
    s->add_busy = true;
    s->add = (struct replica_proposal){.cb = add_result, .owner = s};
    struct map_entry entry = {
        .kind = MAP_ENTRY_MEMBER_ADD,
        .volume = rep->volume,
        .shard = rep->index,
        .epoch = rep->map.epoch,
        .node = s->node,
        .incarnation = s->incarnation,
        .instance = s->instance,
    };
    r->cfg.callbacks.propose(r->cfg.arg, &entry, &s->add);
}

static void joined(struct peer_request *req, int rc)
{
    assert(rc <= 0);
    assert(req->owner != NULL);
    struct sync *s = req->owner;
    s->request_busy = false;
    if (rc != 0) {
        sync_restart(s);
        return;
    }
    /* Every write sent before the JOIN was answered before it; one that failed listed its chunk again. */
    if (s->state != SYNC_JOINING || s->todo_count > 0 || s->chunks_busy > 0 || s->join_epoch != s->replica->map.epoch) {
        s->state = SYNC_COPYING;
        return;
    }
    propose_add(s);
}

static void sync_join(struct sync *s)
{
    sync_assert(s);
    struct replica *rep = s->replica;
    struct wire_header h;
    s->state = SYNC_JOINING;
    s->join_epoch = rep->map.epoch;
    replica_header(rep, &h, WIRE_SYNC_JOIN);
    s->request_busy = true;
    s->request = (struct peer_request){.cb = joined, .owner = s};
    peers_request(rep->set->cfg.peers, s->node, &h, NULL, NULL, 0, &s->request);
}

/* ---- pace ---- */

static void copy_some(struct sync *s)
{
    sync_assert(s);
    struct replicas *r = s->replica->set;
    uint64_t now = env_now_ns(r->env);
    if (s->replica->phase == PHASE_PARKED && s->replica->drive_writes > 0)
        return; /* writes of the epoch before still drain */
    if (s->todo_count > 0 && (now < s->pause_until_ns || !sync_run(s)))
        return;
    while (s->todo_count > 0 && s->chunks_busy < r->cfg.sync_chunks_max && s->state == SYNC_COPYING) {
        if (r->cfg.sync_bytes_per_s) { /* budget_ns: when the next chunk may begin */
            if (s->budget_ns > now)
                return;
            uint64_t cost = (uint64_t)STORE_CHUNK_BYTES * 1000000000u / r->cfg.sync_bytes_per_s;
            s->budget_ns = (s->budget_ns + ENV_MS(100) > now ? s->budget_ns : now - ENV_MS(100)) + cost;
        }
        while (!listed(s, s->cursor))
            s->cursor = (s->cursor + 1) % STORE_SHARD_CHUNKS;
        sync_chunk_begin(s, s->cursor);
    }
    if (s->state == SYNC_COPYING && s->todo_count == 0 && s->chunks_busy == 0)
        sync_join(s);
}

void sync_step_all(struct replica *rep)
{
    replica_assert(rep);
    if (rep->phase != PHASE_SERVING && rep->phase != PHASE_PARKED)
        return;
    if (rollback_wanted(rep)) { /* before anybody gets a copy of what is not the head's content any more */
        rollback_start(rep);
        return;
    }
    for (uint32_t i = 0; i < rep->sync_count; i++) {
        struct sync *s = rep->syncs[i];
        if (s->state == SYNC_WAITING)
            sync_begin(s);
        else if (s->state == SYNC_COPYING && !s->request_busy)
            copy_some(s);
        else if (s->state == SYNC_JOINING && !s->request_busy)
            s->state = SYNC_COPYING; /* a new epoch came between */
    }
}

void sync_tick(struct replica *rep)
{
    replica_assert(rep);
    sync_refresh(rep);
    sync_step_all(rep);
}

uint32_t sync_infos(const struct replica *rep, struct replica_sync_info *ret_infos, uint32_t max)
{
    replica_assert(rep);
    uint32_t count = 0;
    for (uint32_t i = 0; i < rep->sync_count && count < max; i++) {
        const struct sync *s = rep->syncs[i];
        ret_infos[count++] = (struct replica_sync_info){
            .volume = rep->volume,
            .shard = rep->index,
            .node = s->node,
            .chunks_total = s->chunks_total,
            .chunks_done = s->chunks_total - s->todo_count,
            .bytes_copied = s->bytes_copied,
            .started_ns = s->started_ns,
            .joining = s->state >= SYNC_JOINING,
        };
    }
    return count;
}
