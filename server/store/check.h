/* SPDX-License-Identifier: Apache-2.0 */
/* check: reads a whole store and changes nothing: superblocks, records, references, every block against its checksum.
 *
 * Concept: what a start would refuse, or a read would call damage, is found here, and told one by one. A mismatch that
 *   an unclean stop explains is not damage: a marked region (R14) or an unsettled block (R21) is judged at the start.
 *   On the way a digest of each chunk's newest content can be had, for comparing members (I9).
 * Threading: the loop's thread; no store may be open on this drive and kv. Errors: done gets 0 when the check went through,
 *   whatever it found; -EBADMSG: no superblock is readable; -EIO and others: the kv can not be read.
 * Ownership: everything is borrowed until done.
 */
#ifndef ASHLAR_SERVER_STORE_CHECK_H
#define ASHLAR_SERVER_STORE_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "server/store/store.h"

#define STORE_CHECK_NONE UINT32_MAX

/* Fields that do not apply are STORE_CHECK_NONE, id all zeros. */
struct store_check_finding {
    const char *what; /* a sentence */
    struct store_shard_id id;
    uint32_t chunk, generation;
    uint32_t block; /* in the chunk */
    uint32_t unit;  /* of the drive */
};

struct store_check_stats {
    struct store_identity identity;
    bool clean;                    /* the last stop was */
    uint64_t shards, drops, marks; /* records */
    uint64_t maps, sums;           /* records, all generations */
    uint64_t units_total, units_referenced;
    uint64_t blocks_checked;   /* compared with their checksum */
    uint64_t blocks_suspect;   /* mismatch in a marked region after an unclean stop */
    uint64_t blocks_unsettled; /* mismatch of a block that no flush covered */
    uint64_t sums_left_over;   /* checksums without a map: useless, harmless */
    uint64_t damage;           /* findings */
};

struct store_check {
    struct drive *drive;
    struct kv *kv;
    struct buf_pool *pool; /* one buffer of 1 MiB */
    void (*found)(void *arg, const struct store_check_finding *finding);
    /* NULL: not wanted. Chunks that read as zeros are left out. Ascending order of id and chunk. */
    void (*digest)(void *arg, const struct store_shard_id *id, uint32_t chunk, uint64_t crc64, uint32_t crc32c);
    void (*done)(void *arg, int rc, const struct store_check_stats *stats);
    void *arg;
};
int store_check_start(const struct store_check *config); /* 0, then done once; -ENOMEM */

#endif
