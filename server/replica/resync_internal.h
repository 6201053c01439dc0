/* SPDX-License-Identifier: Apache-2.0 */
/* resync_internal: a sync and its chunks, shared by resync.c (life, list, pace) and resync_chunk.c (one chunk) only.
 * Threading, errors, ownership: replica.h. */
#ifndef ASHLAR_SERVER_REPLICA_RESYNC_INTERNAL_H
#define ASHLAR_SERVER_REPLICA_RESYNC_INTERNAL_H

#include "server/replica/replica_internal.h"

enum sync_state { SYNC_WAITING, SYNC_STARTING, SYNC_COPYING, SYNC_JOINING, SYNC_ADDING };

struct sync_chunk {
    struct op_ctx *ctx;
    struct sync *sync;
    uint32_t chunk;
    bool local_busy, remote_busy, ended;
    int rc;
    uint32_t next_block;
    bool holes_sent; /* of this generation */
    uint64_t mod_epoch;
    /* Live generations to be compared, ascending; which they are follows from the records of both sides. */
    uint32_t *generations;
    uint32_t generation_count, generation_at, snap_count;
    bool based; /* a clone, before it was asked which records there are: a flatten may end meanwhile */
    struct store_chunk_generations records;
    uint32_t *theirs; /* records of the member */
    uint32_t their_count;
    struct store_digest local;
    struct peer_request request;
    struct store_block_digest here[STORE_CHUNK_BLOCKS];
    struct store_block_digest there[STORE_CHUNK_BLOCKS];
};

struct sync {
    struct replica *replica;
    uint32_t node;
    uint64_t instance, incarnation, e_r;
    enum sync_state state;
    bool running; /* counted in replicas->syncs_running */
    bool request_busy, add_busy, dead;
    struct peer_request request;
    struct replica_proposal add;
    uint64_t join_epoch;
    uint64_t retry_at_ns, backoff_ns, pause_until_ns;
    uint64_t started_ns, bytes_copied, budget_ns;
    uint32_t chunks_total, todo_count, chunks_busy;
    uint32_t cursor;
    uint64_t todo[STORE_SHARD_CHUNKS / 64];
};

static inline void sync_assert(const struct sync *s)
{
    assert(s != NULL && s->replica != NULL);
    assert(s->todo_count <= STORE_SHARD_CHUNKS);
    assert(s->cursor < STORE_SHARD_CHUNKS);
}

static inline void chunk_assert(const struct sync_chunk *c)
{
    assert(c != NULL && c->sync != NULL);
    assert(c->chunk < STORE_SHARD_CHUNKS);
    assert(c->next_block <= STORE_CHUNK_BLOCKS);
}

/* resync.c */
void sync_list_chunk(struct sync *s, uint32_t chunk);
void sync_unlist_chunk(struct sync *s, uint32_t chunk);
void sync_free_if_quiet(struct sync *s);

/* resync_chunk.c */
void sync_chunk_begin(struct sync *s, uint32_t chunk);

#endif
