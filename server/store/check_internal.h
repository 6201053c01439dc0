/* SPDX-License-Identifier: Apache-2.0 */
/* check_internal: what check.c (records) and check_chunk.c (data) share. Threading, errors: as in check.h.
 * Ownership: one struct check per run, freed before done. */
#ifndef ASHLAR_SERVER_STORE_CHECK_INTERNAL_H
#define ASHLAR_SERVER_STORE_CHECK_INTERNAL_H

#include "server/store/check.h"
#include "server/store/records.h"
#include "server/store/superblock.h"

#define CHECK_UNIT_BLOCKS (STORE_UNIT_BYTES / STORE_BLOCK_BYTES)

struct check;

struct check_run {
    struct drive_io io;
    struct check *check;
    uint32_t first, count; /* blocks of the chunk */
};

struct check_mark {
    struct store_shard_id id;
    uint32_t region;
};

/* Units may be shared by the records of one place (shard number, chunk, slot) of a family: a volume and what was cloned from
 * it, and from that (I12). */
struct check_family {
    uint64_t origin; /* volume at its root */
    uint32_t shard;
};

struct check_shard {
    struct store_shard_id id;
    struct record_shard record;
    bool removed; /* a removal is under way: its base may be gone already */
};

/* The map record whose data is being read. */
struct check_chunk {
    struct store_shard_id id;
    uint32_t index;
    struct record_map map;
    bool newest; /* of its chunk: digested */
    bool has_sums;
    uint32_t crcs[STORE_CHUNK_BLOCKS];
    uint64_t data[STORE_CHUNK_BLOCKS / 64];       /* blocks that hold data on the drive */
    uint64_t unreadable[STORE_CHUNK_BLOCKS / 64]; /* by the drive */
    struct kv_get get;
    struct check_run runs[STORE_CHUNK_BLOCKS];
    uint32_t pending;
};

struct check {
    struct store_check config;
    struct store_check_stats stats;
    struct record_super super;
    struct buf *buf; /* a chunk's content */
    uint32_t unit_first, unit_count;
    uint32_t *owners;              /* per unit: (family * 1024 + chunk) * 16 + slot, + 1; 0: nobody's */
    struct check_family *families; /* in order */
    uint32_t family_count, family_capacity;
    struct check_shard *shards; /* in key order */
    uint32_t shard_count, shard_capacity;
    struct store_shard_id *drops; /* in key order */
    uint32_t drop_count, drop_capacity;
    uint32_t family;          /* of last_id */
    struct check_mark *marks; /* in key order */
    uint32_t mark_count, mark_capacity;
    struct store_shard_id last_id; /* chunk seen last: its first record is its newest */
    uint32_t last_chunk;
    uint32_t step;
    struct kv_scan scan;
    uint32_t cursor; /* in scan.pairs */
    struct kv_get get;
    struct drive_io superblock_ios[SUPERBLOCK_COPIES];
    int superblock_rcs[SUPERBLOCK_COPIES];
    uint32_t superblocks_pending;
    struct check_chunk chunk;
};

/* check.c */
void check_damage(struct check *check, const char *what, const struct store_shard_id *id, uint32_t chunk,
                  uint32_t generation, uint32_t block, uint32_t unit);
void check_end(struct check *check, int rc);
void check_resume(struct check *check); /* the next pair of the page */
int check_compare_ids(const struct store_shard_id *a, const struct store_shard_id *b);
bool check_marked(const struct check *check, const struct store_shard_id *id, uint32_t chunk);

/* check_family.c */
int check_family_drop(struct check *check, const struct store_shard_id *id); /* before the shards; -ENOMEM */
int check_family_add(struct check *check, const struct store_shard_id *id,
                     const struct record_shard *record);                        /* -ENOMEM */
void check_families(struct check *check);                                       /* all shards are known */
uint32_t check_family_of(struct check *check, const struct store_shard_id *id); /* UINT32_MAX: too many */

/* check_chunk.c: true: I/O was begun, check_resume follows; false: nothing to read. */
bool check_chunk_start(struct check *check, const struct store_shard_id *id, uint32_t index,
                       const struct record_map *map, bool newest);

#endif
