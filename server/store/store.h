/* SPDX-License-Identifier: Apache-2.0 */
/* store: one daemon's replicas on one drive plus its RocksDB (architecture: docs/ARCHITECTURE.md, docs/internals/disk.md).
 *
 * Concept: a store holds shard instances. A shard is 1024 chunks of 1 MiB; a chunk has per generation a map record (16 unit
 *   pointers, 2-bit state a block) and a sums record (CRC32C a block). Writes go in place where the current generation owns
 *   the block, else by redirect into a new 64 KiB unit. Regions (16 chunks) carry dirty marks (R14).
 * Threading: the data thread's; no clock, no I/O but through env, drive and kv.
 * Errors: in the callback, 0 / -errno: -EILSEQ checksum mismatch (bad_block says which), -ENOSPC, -EIO (the store failed: sticky,
 *   rule "a failed drive flush fails the store", R13), -ENOENT (no such shard instance here), -ESTALE (see Generations).
 * Ownership: request structs are embedded by the caller and borrowed until cb; cb never runs inside the call.
 */
#ifndef ASHLAR_SERVER_STORE_STORE_H
#define ASHLAR_SERVER_STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/env.h"
#include "common/list.h"
#include "server/store/drive.h"
#include "server/store/kv.h"

#define STORE_BLOCK_BYTES 4096u
#define STORE_UNIT_BYTES (64u * 1024u)
#define STORE_CHUNK_BYTES (1024u * 1024u)
#define STORE_REGION_BYTES (16u * STORE_CHUNK_BYTES)
#define STORE_SHARD_BYTES_MAX (1024ull * STORE_CHUNK_BYTES)
#define STORE_CHUNK_BLOCKS 256u
#define STORE_CHUNK_UNITS 16u
#define STORE_SHARD_CHUNKS 1024u
#define STORE_ZERO_BYTES_MAX STORE_REGION_BYTES

struct store;

/* Identity of a shard replica here. instance: membership instance from the cluster map (R3: never reused); a shard with
 * another instance than the stored one starts with no history, the old one's records are removed in the background. */
struct store_shard_id {
    uint64_t volume;
    uint32_t shard;
    uint64_t instance;
};
struct store_shard; /* handle of an open shard replica */

struct store_identity {
    uint8_t uuid[16];
    uint64_t cluster_id;
    uint32_t node;
};

enum store_stop { STORE_STOP_CLEAN, STORE_STOP_SAME_BOOT, STORE_STOP_REBOOTED }; /* R1 */

struct store_callbacks {
    void (*opened)(void *arg, int rc); /* once; reads and overwrites may be submitted from here on */
    void (*failed)(void *arg, int rc); /* once, at the first sticky failure: the daemon resigns (R13) */
    /* scrub or a read found a block that does not match its checksum outside any suspect region */
    void (*damaged)(void *arg, struct store_shard *shard, uint64_t offset);
    void (*space_changed)(void *arg); /* near-full or full thresholds crossed, either way */
};

struct store_config {
    struct env *env;
    struct drive *drive; /* given */
    struct kv *kv;       /* given */
    struct buf_pool *pool;
    struct store_callbacks callbacks;
    void *arg;
    char boot_id[40];              /* of this kernel boot, compared with the stored one (R1) */
    uint64_t sums_cache_bytes;     /* bound on cached checksum records */
    uint32_t active_set_max;       /* regions marked at once, default 4096 */
    uint64_t scrub_bytes_per_s;    /* 0: off */
    uint64_t scrub_rest_ns;        /* between the end of a pass and the next one; 0: one second */
    uint32_t near_full_percent;    /* default 85 */
    uint64_t checkpoint_ns;        /* sums of hot chunks, default one minute */
    uint64_t clean_idle_ns;        /* a marked region untouched this long is cleaned in batches, default 5 s */
    uint64_t prewrite_bytes_per_s; /* file stores; 0: off */
    uint64_t flush_ahead_bytes;    /* written before the drive is flushed unasked; 0: never */
    uint64_t flush_ahead_span_ns;  /* ... if writing them took so long; else the writer is left alone */
};

/* Writes superblock and initial records to an empty drive and kv. */
int store_format_superblock(uint8_t block[STORE_BLOCK_BYTES], const struct store_identity *id, uint64_t drive_bytes);
int store_open(const struct store_config *config, struct store **ret_store); /* callbacks.opened follows */
const struct store_identity *store_identity(const struct store *store);      /* after opened */
enum store_stop store_last_stop(const struct store *store);                  /* after opened */
/* clean: flushes, checkpoints, clears what can be cleared, records a clean stop. Frees drive and kv too. cb may be NULL. */
void store_close(struct store *store, bool clean, void (*cb)(void *arg), void *arg);

/* Shards. Opening is synchronous and cheap (the table of chunks is in memory). epoch: the map's current one. */
int store_shard_open(struct store *store, const struct store_shard_id *id, uint64_t bytes,
                     struct store_shard **ret_shard);
void store_shard_close(struct store_shard *shard);                           /* no I/O in flight */
void store_shard_drop(struct store *store, const struct store_shard_id *id); /* background removal; survives restart */
struct store_shard_id store_shard_identity(const struct store_shard *shard);
/* Calls fn for each shard instance that has records here (start-up: what does not belong is dropped by the caller). */
void store_shard_each(struct store *store, void (*fn)(void *arg, const struct store_shard_id *id), void *arg);

enum store_op { STORE_READ, STORE_WRITE, STORE_ZERO };
enum store_io_flags {
    STORE_IO_NO_HOLE = 1u << 0, /* ZERO: keep the space */
    STORE_IO_SYNC_COPY =
        1u << 1,            /* resync or takeover copy: marks like any write; mod_epoch = max(own, epoch); may name a
                                   * generation older than the chunk's newest record (see Generations) */
    STORE_IO_RAW = 1u << 3, /* READ: do not fail on a checksum mismatch, recompute (digest, adoption) */
};

struct store_io {
    /* public: caller */
    struct store_shard *shard;
    enum store_op op;
    uint32_t flags;
    uint32_t generation; /* WRITE, ZERO: generation written; READ: generation read (newest record <= it) */
    uint64_t epoch;      /* of the write: marks and mod_epoch (R14) */
    uint64_t lsn_n;      /* of the write: commit bookkeeping of marks */
    uint64_t offset;     /* bytes in the shard; 4 KiB multiple */
    uint32_t length;     /* bytes; 4 KiB multiple; READ and WRITE inside one chunk, ZERO <= STORE_ZERO_BYTES_MAX */
    struct buf *buf;     /* READ, WRITE: data at buf->data + buf_offset (4 KiB aligned), borrowed until cb */
    uint32_t buf_offset;
    uint32_t *crcs;     /* WRITE: in, one a block, already verified by the caller; READ: out, may be NULL */
    uint32_t *recorded; /* READ: out, may be NULL: the checksum that each block should have */
    void (*cb)(struct store_io *io, int rc);
    void *owner;
    /* out, valid in cb */
    uint32_t recorded_count;  /* of recorded; fewer than the blocks: the others are not known */
    uint32_t bad_block;       /* -EILSEQ: index of the first bad block in the request */
    uint32_t units_allocated; /* units this request took from the free space */
    uint64_t drive_ns;        /* time the drive took */
    /* private to the store */
    struct list_node link;
    uint8_t stage;
    int rc;
    uint32_t pending;
    uint64_t started_ns;
    void *impl; /* state of a running request, from the store's own pool */
};
/* Order: requests on overlapping ranges of a shard must not be in flight together (the replica's range locks see to it),
 * except that a backup may submit a later overlapping write, which the store then applies after the earlier one. */
void store_submit(struct store_io *io);

/* Space. A reservation makes later allocations of that many units certain; unused ones are given back.
 * store_units_needed: how many units a write of this range could take now (0 for plain overwrites). */
uint32_t store_units_needed(struct store_shard *shard, uint32_t generation, uint64_t offset, uint64_t length);
int store_reserve(struct store *store, uint32_t units); /* 0 or -ENOSPC: 2 % stay back for merges, cleaning, trims */
void store_unreserve(struct store *store, uint32_t units);

/* Flush: drive flush, then WAL sync (R21, R22); concurrent flushes share one; skips what is clean. */
struct store_flush {
    void (*cb)(struct store_flush *req, int rc);
    void *owner;
    struct list_node link; /* private */
};
void store_flush(struct store *store, struct store_flush *req);

/* Marks (R14). Restamp: every marked region of the shard gets the epoch, one synced batch. Commit: all writes
 * (epoch, n <= commit_n) are committed: together with a flush this lets marks be cleared. */
struct store_restamp {
    struct store_shard *shard;
    uint64_t epoch;
    void (*cb)(struct store_restamp *req, int rc);
    void *owner;
    struct list_node link; /* private */
};
void store_restamp(struct store_restamp *req);
void store_committed(struct store_shard *shard, uint64_t epoch, uint64_t commit_n);
/* Commit of everything up to and including this epoch is known (takeover complete). */
void store_epoch_committed(struct store_shard *shard, uint64_t epoch);

/* Resync (R15, R16). Chunks of the shard in ascending order with mod_epoch > since_epoch, or marked (frozen or live). */
struct store_chunk_info {
    uint32_t chunk;
    uint64_t mod_epoch;
    bool marked;
};
/* Fills up to max entries starting at from_chunk; returns the count, *ret_next = STORE_SHARD_CHUNKS at the end. */
uint32_t store_chunks_modified(struct store_shard *shard, uint64_t since_epoch, uint32_t from_chunk,
                               struct store_chunk_info *ret_infos, uint32_t max, uint32_t *ret_next);
/* Recomputes from the drive the content checksums of one chunk as generation `generation` sees it. */
struct store_block_digest {
    uint32_t crc32c;
    uint32_t state; /* 0 hole, 1 data, 2 zeros in allocated space */
    uint64_t crc64;
};
struct store_digest {
    struct store_shard *shard;
    uint32_t chunk;
    uint32_t generation;
    struct store_block_digest *blocks; /* out: STORE_CHUNK_BLOCKS entries, caller's */
    void (*cb)(struct store_digest *req, int rc);
    void *owner;
    void *impl;
};
void store_digest(struct store_digest *req);
/* mod_epoch := max(own, epoch), also where nothing was sent; durable with the next synced batch. */
void store_raise_mod_epoch(struct store_shard *shard, uint32_t chunk, uint64_t epoch);
/* Marks present at open (unclean stop) are suspect: content adopted on read, counted. Freeze keeps the marks of a dropped
 * member until it was added again (R16, R17). */
bool store_shard_suspect(const struct store_shard *shard);
void store_marks_freeze(struct store_shard *shard);
void store_marks_thaw(struct store_shard *shard);

/* Allocation state for block status: runs in ascending order. state: 0 hole (reads zero), 1 data, 2 zero but allocated. */
struct store_extent {
    uint64_t offset, length; /* bytes in the shard */
    uint32_t state;
};
uint32_t store_extents(struct store_shard *shard, uint32_t generation, uint64_t offset, uint64_t length,
                       struct store_extent *ret_extents, uint32_t max);

/* Generations (R20, R22). A record (chunk, g) serves every generation from g up to the chunk's next newer record, so a
 * snapshot that nothing was written since costs nothing, and what is read never depends on how many there are.
 * - WRITE, ZERO with generation > the chunk's newest record: the record of a new generation is made from the resolved map of
 *   the newest one, its units shared and counted; when no live generation needs the older record it is moved instead.
 * - WRITE, ZERO with generation < the chunk's newest record: with STORE_IO_SYNC_COPY it changes the record of exactly that
 *   generation (made from the record that serves it, if it has none); newer records stay what they are. Generations between
 *   it and the next newer record see it. Without the flag: -ESTALE. Such copies never overwrite in place.
 * - READ, digest, extents: any generation. Generations that are not live read as anything. */
#define STORE_LIVE_MAX 8192u
/* live: ascending, the head included, borrowed for the call. Records that serve none of them are removed in the background at
 * a bounded rate, again after every restart (the list is not stored; until the first call everything stays). The
 * first write of a generation that is newer than all of the list makes the list void until the next call: nothing is removed. */
void store_generations(struct store_shard *shard, const uint32_t *live, uint32_t count);
/* True while records that serve no live generation may be left. */
bool store_generations_pending(const struct store_shard *shard);

/* Which generations have a record of the chunk, ascending; clones: own records only. Resync compares each of them at source
 * and target, oldest first. -ENOSPC: more than max (count says how many there are). */
struct store_chunk_generations {
    struct store_shard *shard;
    uint32_t chunk;
    uint32_t *generations; /* out, caller's */
    uint32_t max;
    uint32_t count; /* out */
    void (*cb)(struct store_chunk_generations *req, int rc);
    void *owner;
    void *impl; /* private */
};
void store_chunk_generations(struct store_chunk_generations *req);

/* Extents of any generation, or what changed from one generation to another, from records alone: no data is read.
 * since 0: extents of `generation`; states as in store_extent. Else: the blocks whose place on the drive differs between the
 * two, as runs with their state in `generation`; a block that was merged or written with what it held is told, too. Runs
 * that are the same are left out. next: where to go on (offset + length: all told). */
struct store_diff {
    struct store_shard *shard;
    uint32_t since, generation;
    uint64_t offset, length;      /* bytes in the shard; 4 KiB multiples */
    struct store_extent *extents; /* out, caller's */
    uint32_t max;
    uint32_t count; /* out */
    uint64_t next;  /* out */
    void (*cb)(struct store_diff *req, int rc);
    void *owner;
    void *impl; /* private */
};
void store_diff(struct store_diff *req);

/* The head becomes generation `to` (newer than every record) that reads as `from`: each chunk with records newer than
 * `from` gets a record `to` with the resolved map of `from`, units shared. Idempotent: a crash on the way is followed by the same call
 * again. No write to the shard from the call to cb. Durable after a flush. */
struct store_rollback {
    struct store_shard *shard;
    uint32_t from, to;
    uint64_t epoch;       /* of the change: mod_epoch of the chunks it touches */
    uint32_t chunks_done; /* out, while it runs: of STORE_SHARD_CHUNKS */
    void (*cb)(struct store_rollback *req, int rc);
    void *owner;
    void *impl; /* private */
};
void store_rollback(struct store_rollback *req);

/* Clones. A chunk without a record of its own reads through the base: the record that serves base.generation there, or the
 * base's own base. The first write makes the clone's own record: a resolved copy with shared, counted units. The base shard must be
 * on this store (open or not), base.generation live in it; store_shard_drop of an instance that is
 * somebody's base, or opening another instance of its shard, removes it when its last clone here is gone or flattened (not
 * remembered over restarts: ask again). A shard that has a base keeps it over restarts.
 * Set before the first request: 0 (also when it is this one already); -ENOENT no such shard here; -ELOOP more than
 * STORE_BASE_DEPTH_MAX bases; -EEXIST another base, or chunks of its own without one.
 * Order: a member's copy of the base must be in sync before a clone there is: resync the base first. */
#define STORE_BASE_DEPTH_MAX 16u
struct store_base {
    struct store_shard_id id;
    uint32_t generation;
};
int store_shard_set_base(struct store_shard *shard, const struct store_base *base);
bool store_shard_base(const struct store_shard *shard, struct store_base *ret_base);  /* false: none */
bool store_shard_is_base(const struct store *store, const struct store_shard_id *id); /* of a shard that is here */
/* Gives every chunk that reads through the base a record of its own (shared units, no data is copied), then forgets the base.
 * I/O may go on meanwhile. Durable after a flush. Nothing to do without a base. */
struct store_flatten {
    struct store_shard *shard;
    uint32_t chunks_done; /* out, while it runs: of STORE_SHARD_CHUNKS */
    void (*cb)(struct store_flatten *req, int rc);
    void *owner;
    void *impl; /* private */
};
void store_flatten(struct store_flatten *req);

struct store_stats {
    uint64_t bytes_total, bytes_allocated, bytes_reserved, bytes_prewritten;
    uint64_t chunks, marks, suspect_regions;
    uint64_t reads, writes, zeroes, flushes, drive_flushes, kv_batches, kv_syncs;
    uint64_t bytes_written_guest, bytes_written_drive; /* allocated/written, amplification */
    uint64_t units_merged;                             /* third sources */
    uint64_t units_compacted;                          /* of two sources one is left: space came back */
    uint64_t blocks_verified, blocks_adopted, blocks_reverted, blocks_damaged, blocks_repaired;
    uint64_t scrub_position, scrub_passes, scrub_errors;
    uint64_t records_switched, records_moved,
        records_inherited;                    /* made by a new generation, renamed, from another record */
    uint64_t records_removed, shards_to_reap; /* served no live generation; where some may be left */
    uint64_t old_maps_cached, old_maps_loaded;
    uint64_t oldest_io_ns; /* age of the oldest I/O in flight: a hung drive is a failed node (R23) */
    bool near_full, full, failed;
};
void store_stats(const struct store *store, struct store_stats *ret_stats);

#endif
