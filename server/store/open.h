/* SPDX-License-Identifier: Apache-2.0 */
/* open: the state of a store that opens; shared by open.c and open_resolve.c.
 * Threading: the data thread's. Errors: opening_fail ends it. Ownership: the opening frees itself at its end. */
#ifndef ASHLAR_SERVER_STORE_OPEN_H
#define ASHLAR_SERVER_STORE_OPEN_H

#include "server/store/store_core.h"

/* A record of an unsettled class, to be checked against the drive. */
struct resolve_item {
    struct store_shard *shard;
    uint32_t chunk;
    struct record_map map;
};

struct opening {
    struct store *store;
    struct env_task task;
    struct drive_io io[SUPERBLOCK_COPIES];
    int io_rc[SUPERBLOCK_COPIES];
    uint32_t io_pending;
    struct kv_get get;
    struct kv_scan scan;
    struct kv_write write;
    uint32_t scan_kind;
    struct store_shard_id *drops;
    uint32_t drop_count, drop_capacity;
    uint64_t seq_max;  /* highest settle class seen */
    uint32_t unit_end; /* one past the highest referenced unit */
    /* open_resolve.c */
    struct resolve_item *items;
    uint32_t item_count, item_capacity, item_at;
    uint32_t block;     /* next block of the item to look at */
    uint32_t run_count; /* blocks being read */
    bool reading_base;  /* the older source of a block that never existed */
    bool item_changed;
    uint64_t base_wanted[STORE_CHUNK_BLOCKS / 64]; /* blocks whose older source counts again */
    uint32_t crcs[STORE_CHUNK_BLOCKS];
};

void opening_fail(struct opening *opening, int rc);
void opening_settle(struct opening *opening);
void opening_resolve(struct opening *opening);
void opening_add_item(struct opening *opening, struct store_shard *shard, uint32_t chunk, const struct record_map *map);
void opening_add_mark(struct store_shard *shard, uint32_t region, const struct record_mark *record);
void opening_add_drop(struct opening *opening, const struct store_shard_id *id);

#endif
