/* SPDX-License-Identifier: Apache-2.0 */
/* store_model: what a shard may hold, by rule: a history of versions a block since its last flush.
 *
 * Every sector of a write carries the write's number, so that foreign bytes (I12), lost flushed data (I2) and stale reads
 * (I7) are each seen as what they are. Writes to one block are one at a time.
 */
#ifndef ASHLAR_TESTS_UNIT_STORE_MODEL_H
#define ASHLAR_TESTS_UNIT_STORE_MODEL_H

#include "common/prng.h"
#include "tests/unit/store/store_fixture.h"

#define MODEL_INFLIGHT_MAX 12u
#define MODEL_SNAPSHOTS_MAX 4u
#define MODEL_SECTORS (STORE_BLOCK_BYTES / DRIVE_SIM_SECTOR)

struct model_block {
    uint64_t flushed[MODEL_SECTORS]; /* ids[0]: what the last flush made sure of, sector by sector */
    uint64_t *ids;                   /* versions since, oldest first; 0: zeros */
    uint32_t count, capacity;
    uint32_t flush_cut; /* versions acknowledged when the running flush was asked for */
    bool busy;          /* the newest version is not acknowledged yet */
};

struct model_io {
    struct fixture_io *io; /* NULL: free */
    uint32_t first, count; /* blocks */
};

struct model {
    struct fixture *f;
    struct prng prng;
    uint32_t block_count;
    struct model_block *blocks;
    uint64_t next_id;
    struct model_io inflight[MODEL_INFLIGHT_MAX];
    uint32_t inflight_count;
    uint64_t *snapshots[MODEL_SNAPSHOTS_MAX]; /* a generation's content, sector by sector */
    uint32_t snapshot_count;
    uint32_t nospace_count;
    bool failed; /* the store answered -EIO: only crash and reopen help */
};

void model_create(struct model *model, struct fixture *f, uint64_t seed);
void model_destroy(struct model *model);
uint64_t model_below(struct model *model, uint64_t bound);

void model_write(struct model *model); /* submits one at random */
void model_zero(struct model *model);
void model_overwrite(struct model *model, uint32_t first, uint32_t count); /* submits this one */
void model_trim(struct model *model, uint32_t first, uint32_t count, uint32_t flags);
bool model_free_range(const struct model *model, uint32_t first, uint32_t count); /* nothing in flight there */
void model_reap(struct model *model, uint32_t leave); /* waits until at most that many are in flight */
void model_flush(struct model *model);                /* with what is in flight in flight */
void model_snapshot(struct model *model);             /* quiesces, flushes, opens the next generation */
void model_check_range(struct model *model, uint32_t first, uint32_t count); /* reads now: exact */
void model_check_all(struct model *model);                                   /* all, snapshots too; exact */
void model_crash(struct model *model, bool power); /* crash, reopen, check what survived, take it as given */
void model_check_allocator(struct model *model);   /* what open derives is what was (I11) */
void model_reopen(struct model *model);            /* clean stop and start; exact */

#endif
