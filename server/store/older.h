/* SPDX-License-Identifier: Apache-2.0 */
/* older: maps of records that are not their chunk's newest, fetched on demand and kept in a bounded cache.
 *
 * Concept: a struct older is the chunk it embeds, for generations [chunk.generation, until). What it holds is what the kv
 *   holds: whoever changes it puts it before the piece ends. So memory does not grow with the number of snapshots, and
 *   a read finds its record with one seek however many there are.
 *   A lookup asks which record serves a generation, a clone's bases included.
 * Threading: the data thread's. Errors: -EILSEQ a record that can't be decoded, -EIO; -ENOENT the base is not here.
 * Ownership: lookups are embedded by the caller; an older is pinned from the lookup's end to older_unpin.
 */
#ifndef ASHLAR_SERVER_STORE_OLDER_H
#define ASHLAR_SERVER_STORE_OLDER_H

#include "server/store/store_core.h"

#define OLDER_MAX 512u /* cached */

struct older {
    struct chunk chunk;
    struct older *next;       /* of the same chunk */
    struct list_node lru;     /* store->older_lru, coldest first */
    struct list_node waiters; /* lookups, while it is fetched */
    uint32_t until;           /* while it is fetched: the generation asked for */
    uint32_t pins;
    bool loading;
    bool stale; /* a record came in between: fetched again */
    struct kv_scan scan;
};

struct lookup {
    /* public: set by the caller */
    struct store_shard *shard; /* out: where chunk is */
    uint32_t index;
    uint32_t generation; /* out: as seen in that shard */
    bool own_only;       /* the base is not asked */
    void (*cb)(struct lookup *lookup, int rc);
    void *owner;
    /* out */
    struct chunk *chunk; /* NULL: no record: zeros, or with own_only the base's */
    struct older *older; /* pinned, when chunk is part of it */
    /* private */
    struct list_node link;
    uint32_t depth;
};
/* 0: the answer is there; -EINPROGRESS: cb follows; else an error. */
int lookup_start(struct lookup *lookup);

/* A piece that the shard's newest record does not serve (inherit.c, read.c). */
struct detour {
    struct lookup lookup;
    struct piece *piece;
    uint32_t source_generation; /* the content wanted */
    bool looked_up;
    struct sums *sums; /* pinned: of the record inherited from */
};
struct detour *detour_create(struct piece *piece, uint32_t source_generation);
void detour_destroy(struct piece *piece);

void older_unpin(struct older *older);
/* A record that the caller is about to put; map: its content. Pinned. */
struct older *older_insert(struct store_shard *shard, uint32_t index, const struct record_map *map);
bool older_busy(const struct store_shard *shard, uint32_t index);                  /* being used or fetched */
void older_forget(struct store_shard *shard, uint32_t index, uint32_t generation); /* the record goes; not busy */
/* Those that verification adopted: put before anything says that the records are verified. */
void older_put_sums(const struct store_shard *shard, uint32_t index);
bool older_shard_busy(const struct store_shard *shard);
void older_forget_shard(struct store_shard *shard); /* nothing of it is busy */

/* inherit.c: a record made from the one that serves another generation or from the base's. */
bool inherit_wanted(const struct piece *piece, const struct chunk *chunk);
void inherit_start(struct piece *piece);
void inherit_resume(struct piece *piece); /* a part it waited for ended */
/* How a record reads once everything in it is settled: what nothing refers to is left out. */
void record_resolve(const struct chunk *chunk, struct record_map *ret_map);

#endif
