/* SPDX-License-Identifier: Apache-2.0 */
/* store_core: the store's inner types, shared by its files only.
 *
 * Concept: a request (store_io) runs as pieces, one a chunk; a piece is a small machine (enum piece_stage). What must
 *   become durable rides in rounds: drive flush, then one synced kv batch (round.c). Marks gate the first write to a region.
 * Threading: the data thread's. Errors: store_fail makes the store sticky-failed (R13).
 * Ownership: pieces, drive requests and sums come from pools of the store.
 */
#ifndef ASHLAR_SERVER_STORE_CORE_H
#define ASHLAR_SERVER_STORE_CORE_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/list.h"
#include "common/map_u64.h"
#include "common/slab.h"
#include "server/store/alloc.h"
#include "server/store/records.h"
#include "server/store/store.h"
#include "server/store/superblock.h"

#define REGION_CHUNKS (STORE_REGION_BYTES / STORE_CHUNK_BYTES)
#define SHARD_REGIONS (STORE_SHARD_CHUNKS / REGION_CHUNKS)
#define UNIT_BLOCKS (STORE_UNIT_BYTES / STORE_BLOCK_BYTES)
#define UNIT_NONE RECORD_UNIT_NONE
#define SPARE_BUFS 4u /* 64 KiB buffers for merges, scrub, digests */
#define RUNS_MAX STORE_CHUNK_BLOCKS

struct store;
struct piece;

/* A growing list of units. */
struct unit_list {
    uint32_t *items;
    uint32_t count, capacity;
};
void unit_list_add(struct unit_list *list, uint32_t unit);
void unit_list_move(struct unit_list *from, struct unit_list *to); /* appends, empties from */
void unit_list_close(struct unit_list *list);

/* Fresh blocks of a chunk: present while something of it is unsettled (R21). */
struct chunk_fresh {
    struct record_fresh classes[2];
    struct chunk_fresh *next_free;
};

/* Checksums of a chunk's newest generation, cached. */
struct sums {
    struct chunk *chunk;
    struct list_node lru;     /* store->sums_lru, coldest first */
    struct list_node waiters; /* pieces (sums_link) until loaded */
    uint32_t pins;            /* pieces that use it */
    bool loaded, dirty, writing;
    int rc; /* of the load */
    struct kv_get get;
    struct kv_write write;
    uint32_t crcs[STORE_CHUNK_BLOCKS];
};

/* The newest generation's map of a chunk, always in memory. */
struct chunk {
    uint32_t own[STORE_CHUNK_UNITS];
    uint8_t states[STORE_CHUNK_BLOCKS / 4];
    uint32_t *base;  /* NULL: none */
    uint16_t *slots; /* of shared own units: free to be filled, a bit a block (slots.c); NULL: none known */
    struct chunk_fresh *fresh;
    struct sums *sums;
    struct store_shard *shard;
    struct list_node dirty_link; /* store->chunks_dirty: mod_epoch to be written with the next synced batch */
    uint64_t mod_epoch;
    uint32_t generation;
    uint16_t index;
    bool stored : 1; /* has a map record */
    bool bare : 1;   /* carries mod_epoch only; generation 0, no other record */
    bool older : 1;  /* not the newest: part of a struct older (older.h) */
};

/* A dirty mark (R14). Arrows: absent -> wanted (mark_acquire) -> durable (round_done) -> cleaning (round) -> absent. */
/* A record beside the newest whose checksums were taken over, or left behind, before an unclean stop's chunk was verified. */
struct suspect_record {
    struct suspect_record *next;
    uint32_t chunk, generation;
};

struct mark {
    struct store_shard *shard;
    struct list_node lru;     /* store->marks, coldest first */
    struct list_node waiters; /* pieces (wait_link) until the mark is durable in their epoch */
    uint64_t epoch;           /* durable one */
    uint64_t want_epoch;      /* to be made durable */
    uint64_t writing_epoch;   /* in the running round's batch */
    uint64_t last_lsn_n;      /* of the newest write in `epoch` */
    uint64_t writes;          /* begun, ever: has it been written since the flush began? (R14) */
    uint64_t writes_at_flush;
    uint64_t last_write_ns;
    uint32_t inflight; /* pieces between mark and completion */
    uint16_t region;
    uint16_t touched;                       /* chunks written under this mark */
    uint16_t suspect;                       /* chunks whose content an unclean stop left unverified */
    struct suspect_record *suspect_records; /* of those chunks, beside their newest ones */
    uint32_t suspect_from; /* the oldest of them, plus 1, durable with the mark, for the next unclean stop; 0: none */
    bool durable, wanted, in_round, cleaning;
    bool picked;        /* for cleaning by the running round: nobody may free it */
    bool frozen;        /* R17: stays until the member is added again */
    uint64_t due_epoch; /* commit of everything up to here must be told first: what earlier epochs or lives left */
};

/* 16 MiB of a shard, made when something is there or comes: most of a large volume is empty, and costs next to nothing. */
struct region {
    struct chunk *chunks[REGION_CHUNKS];
    struct mark *mark;
    struct list_node pieces; /* running and queued, in order of arrival */
};

struct store_shard {
    struct store *store;
    struct store_shard_id id;
    uint64_t bytes;
    bool open;
    bool stored;         /* has a shard record */
    bool has_base;       /* a clone (lineage.c) */
    bool has_older;      /* chunks may have more than one record */
    bool compact_wanted; /* units may have two sources for nothing (compact.c) */
    bool drop_wanted;    /* when its last clone is gone */
    bool reap_wanted;    /* records that serve no live generation may be left (reap.c) */
    uint64_t origin;     /* volume at the root of the family */
    struct store_base base;
    struct store_shard *base_shard;        /* where base is */
    uint32_t clones;                       /* shards here whose base this is */
    uint64_t older_seq;                    /* counts changes of older records */
    struct live *live;                     /* NULL: every generation may be */
    struct region *regions[SHARD_REGIONS]; /* NULL: nothing was ever there, and nothing comes */
    uint32_t queued;                       /* pieces waiting for an overlapping one */
    struct list_node link;                 /* store->shards */
    struct store_shard *next_instance;     /* of the same shard */
    uint64_t commit_epoch, commit_n;       /* store_committed */
    uint64_t epoch_committed;              /* store_epoch_committed */
    uint64_t stream_end;                   /* end of the last write: sequential streams pre-mark */
    uint32_t stream_length;
    uint32_t stream_region, stream_run; /* where it writes, and how many regions it crossed one after the other */
    uint64_t stream_bytes;              /* written since it came there */
    uint64_t stream_entered_ns, stream_region_ns; /* when it came there, what the one before took */
};

enum piece_kind { PIECE_READ, PIECE_WRITE, PIECE_ZERO, PIECE_INHERIT, PIECE_COMPACT };
enum piece_stage {
    PIECE_QUEUED, /* behind an overlapping piece */
    PIECE_MARK,   /* waits for the region's mark */
    PIECE_SUMS,   /* waits for checksums before the map may change */
    PIECE_MAP,    /* waits for space or a buffer */
    PIECE_MERGE,  /* third source: reads, writes whole units, flushes */
    PIECE_DATA,   /* drive I/O and checksums under way */
    PIECE_PUT,    /* record on its way to the kv */
    PIECE_DONE,
    PIECE_STAGES
};

/* One drive request of a piece. */
struct run {
    struct drive_io io;
    struct piece *piece;
    struct run *next_free;
    uint16_t first, count; /* blocks */
};

enum merge_phase { MERGE_READ, MERGE_WRITE, MERGE_FLUSH };
struct merge {
    uint16_t unit;  /* in the chunk */
    uint32_t taken; /* the new unit on the drive */
};

struct piece {
    struct list_node region_link;
    struct list_node age_link;  /* store->pieces, oldest first; not while queued or waiting for space */
    struct list_node wait_link; /* one of many waiting lists, or the pool */
    struct list_node sums_link; /* sums->waiters: a fetch runs beside other stages */
    struct store *store;
    struct store_shard *shard;
    struct store_io *io;               /* NULL: the store's own */
    void (*done)(struct piece *piece); /* without io */
    void *owner;
    enum piece_kind kind;
    enum piece_stage stage;
    uint32_t flags, generation;
    uint64_t epoch, lsn_n;
    uint16_t chunk_index, first, count; /* blocks in the chunk */
    uint16_t lock_first, lock_count;    /* range that excludes others: whole units when merging */
    uint64_t ticket, started_ns, drive_ns;
    uint8_t *data;
    uint32_t *crcs;
    int rc;
    uint32_t bad_block; /* in the piece */
    uint32_t pending;
    uint64_t valid[STORE_CHUNK_BLOCKS / 64]; /* READ: blocks that hold data, by index in the piece */
    uint64_t unreadable[STORE_CHUNK_BLOCKS / 64];
    uint32_t units_allocated;
    bool queued, map_changed;
    bool marked; /* counts in mark->inflight */
    struct chunk *chunk;
    struct mark *mark;
    struct sums *sums;
    struct older *older;   /* pinned: chunk is its part */
    struct detour *detour; /* not served by the shard's newest record: older.h */
    struct merge *merges;  /* units with a third source: rare, allocated when needed */
    uint32_t merge_count, merge_capacity, merge_at;
    enum merge_phase merge_phase;
    bool merges_applied;
    struct buf *merge_buf;
    struct kv_write put;
    struct unit_list released; /* go to quarantine with the put */
};

enum round_phase { ROUND_IDLE, ROUND_DUE, ROUND_DRIVE, ROUND_KV };
struct round {
    enum round_phase phase;
    struct env_task task;
    struct drive_io flush;
    struct kv_write write;
    struct list_node flushes, restamps; /* requests this round answers */
    struct mark **marks;                /* written in this round's batch */
    uint32_t mark_count, mark_capacity;
    struct mark **cleans; /* candidates, then those deleted by the batch */
    uint32_t clean_count, clean_capacity;
    uint32_t clean_chunks;  /* records the batch will take for them */
    struct unit_list frees; /* released by what this round makes durable */
    uint64_t settle_target; /* 0: this round settles nothing */
    uint64_t flush_seq;
    bool sync_wanted, clean_idle, clean_all, room_wanted;
    uint64_t started_ns;
};

/* The drive flush that merged units wait for (merge.c). */
struct merge_flush {
    struct drive_io io;
    struct list_node waiting, covered; /* pieces: for the next one, by the running one */
    bool running;
};

/* Units synced, but perhaps still read: reusable when every piece older than ticket is gone (R22). */
struct drain {
    struct unit_list units;
    uint64_t ticket;
};
#define DRAINS_MAX 8u

/* Blocks that could not be read and were not read well since (bad_blocks.c). */
#define BAD_BLOCKS_MAX 1024u
#define BAD_UNREADABLE_MAX 256u
struct bad_block {
    uint64_t instance; /* of the shard replica: never reused (R3) */
    uint32_t block;    /* in the shard */
    bool unreadable;   /* the drive gave an error, not wrong bytes */
    bool rewritten;    /* since it was found */
};
struct bad_blocks {
    struct bad_block blocks[BAD_BLOCKS_MAX];
    uint32_t count, unreadable_count, evict_next;
};

struct live;       /* lineage.c */
struct older;      /* older.h */
struct detour;     /* older.h */
struct background; /* timers and walkers: background.h */
struct opening;

struct store {
    struct store_config config;
    struct env *env;
    struct drive *drive;
    struct kv *kv;
    struct superblock superblock;
    struct record_super super;
    enum store_stop last_stop;
    bool opened, failed, failed_told, closing;
    struct opening *opening; /* until opened */
    int fail_rc;
    struct env_task failed_task, space_task;
    struct alloc alloc;

    struct list_node shards;
    struct map_u64 shard_map; /* (volume, shard) -> struct store_shard, newest instance */

    struct list_node pieces; /* that may be reading or writing the drive, oldest first */
    uint64_t next_ticket;
    uint32_t piece_count;
    struct list_node pool_pieces;
    struct run *pool_runs;
    struct chunk_fresh *pool_fresh;
    struct slab pool_shards;
    struct list_node done; /* pieces to be completed by done_task */
    struct env_task done_task;
    uint32_t submit_depth;         /* inside store_submit */
    bool completing;               /* inside run_done_list */
    struct list_node flushes_done; /* flush requests answered without work */

    struct list_node space_waiters, room_waiters, buf_waiters, settle_waiters;
    struct buf *spare[SPARE_BUFS];
    uint32_t spare_count;

    struct list_node sums_lru;
    struct list_node sums_pool;
    uint32_t sums_count, sums_max;

    struct live *last_live; /* given last: shards of one volume share it */
    struct map_u64 olders;  /* (shard, chunk) -> struct older, a list */
    struct list_node older_lru;
    uint32_t older_count;

    struct list_node marks;
    uint32_t mark_count;
    struct mark **wanted; /* marks for the next round */
    uint32_t wanted_count, wanted_capacity;
    struct list_node flushes, restamps; /* requests for the next round */
    struct list_node chunks_dirty;
    struct round round;

    uint64_t write_seq;      /* data writes completed */
    uint64_t flushed_seq;    /* of these, durable */
    uint64_t settle_seq;     /* class of record puts made now */
    uint64_t settled_seq;    /* durable */
    uint64_t unsettled_puts; /* map records put in class settle_seq */
    uint64_t unsynced_puts;  /* kv batches since the last synced one */
    struct merge_flush merge_flush;
    uint32_t puts_in_flight;
    bool super_dirty;
    struct unit_list released; /* by puts submitted since the last sync */
    struct drain drains[DRAINS_MAX];
    uint32_t drain_count;

    struct bad_blocks bad_blocks;
    struct background *background;
    void (*close_cb)(void *arg);
    void *close_arg;
    bool close_clean, close_ending, close_ended;
    struct env_task close_task;
    struct store_stats stats;
};

/* store.c */
void store_fail(struct store *store, int rc);
void store_fail_waiters(struct store *store); /* later, outside any submit: all that waits ends with -EIO */
void *store_malloc(size_t bytes);             /* zeroed; aborts when memory is exhausted */

/* chunk.c: the map of one chunk */
struct chunk *chunk_get(struct store_shard *shard, uint32_t index); /* NULL: absent */
struct chunk *chunk_obtain(struct store_shard *shard, uint32_t index, uint32_t generation);
struct chunk *chunk_obtain_bare(struct store_shard *shard, uint32_t index);
void chunk_clear(struct chunk *chunk);
void chunk_destroy(struct chunk *chunk);
struct chunk_fresh *chunk_fresh_obtain(struct chunk *chunk);
static inline enum block_state chunk_state(const struct chunk *chunk, uint32_t block)
{
    return record_state_get(chunk->states, block);
}
bool chunk_empty(const struct chunk *chunk); /* no block is valid and no unit held */
static inline uint32_t chunk_base(const struct chunk *chunk, uint32_t unit)
{
    return chunk->base ? chunk->base[unit] : UNIT_NONE;
}
void chunk_set_base(struct chunk *chunk, uint32_t unit, uint32_t base);
void chunk_set_fresh(struct chunk *chunk, uint32_t block);
void chunk_clear_fresh(struct chunk *chunk, uint32_t block);
bool chunk_is_fresh(const struct chunk *chunk, uint32_t block); /* valid, but not settled */
/* Forgets what is settled: OVER becomes OWN, bases that nothing uses are released into the list. */
void chunk_tidy(struct chunk *chunk, struct unit_list *released);
void chunk_export(const struct chunk *chunk, struct record_map *ret_map);
void chunk_import(struct chunk *chunk, const struct record_map *map);
void chunk_put(struct chunk *chunk, struct kv_batch *batch,
               struct unit_list *released);                                       /* tidies, puts the map record */
void chunk_put_sums(struct chunk *chunk, struct kv_batch *batch);                 /* clears dirty */
void chunk_unref(struct store *store, struct unit_list *released, uint32_t unit); /* the last one is released */

/* slots.c: a bit a block of the unit */
uint16_t slots_free(const struct chunk *chunk, uint32_t generation,
                    uint32_t unit); /* a write may go to own[unit] there */
uint16_t slots_of(uint32_t unit, uint32_t first,
                  uint32_t count);                   /* of the blocks [first, first + count) in that unit */
void slots_share(struct chunk *chunk);               /* before its units get another reference */
void slots_use(struct chunk *chunk, uint32_t block); /* the record uses the block in its own unit */
void slots_forget(struct chunk *chunk);

/* Where a block's bytes are: drive offset of the block, or UINT64_MAX for zero. */
uint64_t record_block_offset(const struct record_map *map, uint32_t block);
uint64_t chunk_block_offset(const struct chunk *chunk, uint32_t block);

/* sums.c */
struct sums *sums_acquire(struct chunk *chunk, struct piece *waiter); /* pins; not loaded: wakes waiter later */
/* The chunk's sums become those of another record (NULL: nothing there is valid); dirty, pinned. */
struct sums *sums_inherit(struct chunk *chunk, const struct sums *source);
void sums_unpin(struct sums *sums);
void sums_set(struct sums *sums, uint32_t block, uint32_t crc);
void sums_forget(struct chunk *chunk);                   /* drops the cached entry; nothing pinned */
bool sums_checkpoint(struct store *store, uint32_t max); /* true: more remain */
void sums_shrink(struct store *store);

/* marks.c */
struct mark *mark_find(const struct store_shard *shard, uint32_t chunk);
bool mark_suspects(const struct store_shard *shard, uint32_t chunk);
/* The record that serves this generation is to be verified before the chunk is suspect no more; makes it suspect. */
void mark_suspect_record(struct mark *mark, uint32_t chunk, uint32_t generation);
/* The same, durable with the batch that makes or leaves the record. */
void mark_suspect_older(struct mark *mark, uint32_t chunk, uint32_t generation, struct kv_batch *batch);
void mark_verified(struct mark *mark); /* nothing in it is suspect any more */
bool mark_next_suspect_record(const struct mark *mark, uint32_t chunk, uint32_t *ret_generation); /* false: none */
void mark_record_verified(struct mark *mark, uint32_t chunk, uint32_t generation);
void mark_put(const struct mark *mark, struct kv_batch *batch);
bool mark_acquire(struct piece *piece); /* true: durable in the piece's epoch, piece counted; else it waits */
void mark_release(struct piece *piece);
void mark_want(struct mark *mark, uint64_t epoch);
struct mark *mark_create(struct store_shard *shard, uint32_t region);
void mark_destroy(struct mark *mark);
bool mark_committed(const struct mark *mark);
bool mark_cleanable(const struct mark *mark);
void mark_written(struct mark *mark); /* the round made it durable */
void mark_stream(struct store_shard *shard, const struct store_io *io);
void mark_wake_room(struct store *store);

/* round.c */
void round_kick(struct store *store);
void round_submit_put(struct store *store, struct kv_write *write);  /* unsynced, in order */
void round_release(struct store *store, struct unit_list *released); /* with a put submitted just now */
void round_drain(struct store *store);                               /* frees what nobody reads any more */
void round_close(struct store *store);

/* round_batch.c: what goes into a round's synced batch, and what its durability means */
void round_pick_cleans(struct store *store);
void round_fill(struct store *store);
void round_apply(struct store *store);

/* piece.c */
struct piece *piece_create(struct store_shard *shard, enum piece_kind kind, uint32_t chunk, uint32_t first,
                           uint32_t count);
void piece_submit(struct piece *piece);
void piece_move(struct piece *piece, enum piece_stage stage);
void piece_finish(struct piece *piece, int rc);
void piece_wake(struct list_node *waiters); /* runs each waiter's stage again */
void piece_resume(struct piece *piece);
void piece_part_done(struct piece *piece, int rc); /* one of pending ended; after the last the stage goes on */
/* One drive request for blocks first.. of the piece (a flush: first 0, count 1, data NULL); one more pending part. */
void run_submit(struct piece *piece, enum drive_op op, uint64_t offset, uint32_t first, uint32_t count, uint8_t *data);
bool piece_take_buf(struct piece *piece, struct buf **ret_buf); /* false: waits for a spare buffer */
void store_give_buf(struct store *store, struct buf *buf);
void piece_rehome(struct piece *piece, struct store_shard *shard, uint32_t generation); /* a read goes to the base */
void piece_start_queued(struct store_shard *shard, uint32_t region);
uint64_t piece_oldest_ticket(const struct store *store);

/* read.c, write.c, merge.c, zero.c: the stages of each kind */
void read_start(struct piece *piece);
void read_verify(struct piece *piece);
int read_failed(struct piece *piece, const struct run *run); /* a drive read failed: retried block by block */
void write_start(struct piece *piece);
void write_data_done(struct piece *piece);
/* May a write of these blocks merge the unit, and so exclude others from all of it? */
bool write_locks_unit(const struct chunk *chunk, uint32_t generation, uint32_t unit, uint32_t first, uint32_t count);
void write_after_sums(struct piece *piece);
void write_map(struct piece *piece);
void write_data(struct piece *piece); /* merges are done: the rest of the blocks */
void write_submit_put(struct piece *piece, bool with_sums);
void merge_start(struct piece *piece);
void merge_part_done(struct piece *piece);
void compact_start(struct piece *piece);
void zero_start(struct piece *piece);
void zero_apply(struct piece *piece);
bool zero_is_noop(const struct piece *piece);

/* generation.c: the newest record moves to the piece's generation. */
void generation_switch(struct piece *piece);

/* lineage.c: live generations, bases */
bool lineage_needs(const struct store_shard *shard, uint32_t first, uint32_t end); /* a live one in [first, end)? */
void lineage_written(struct store_shard *shard, uint32_t generation); /* before a record of that generation is made */
uint32_t lineage_oldest(const struct store_shard *shard);             /* oldest live one; 1 when not known */
void lineage_close(struct store *store);
int lineage_resolve(struct store *store);           /* after the shard records were read */
void lineage_forget(struct store_shard *shard);     /* it goes */
void lineage_clear_base(struct store_shard *shard); /* flattened */
/* The piece's chunk has no record of its own that serves it: the base has (clones). */
static inline bool lineage_inherits(const struct store_shard *shard, const struct chunk *chunk)
{
    return shard->has_base && (!chunk || chunk->bare);
}

/* open.c, shard.c, background.c ... */
struct store_shard *shard_create(struct store *store, const struct store_shard_id *id);
struct region *region_obtain(struct store_shard *shard, uint32_t index);
struct chunk *shard_next_chunk(const struct store_shard *shard, uint32_t *at);
struct store_shard *shard_find(const struct store *store, const struct store_shard_id *id);
void shard_unlink(struct store_shard *shard);
bool shard_quiet(const struct store_shard *shard);
void shard_destroy(struct store_shard *shard); /* unlinked and quiet */
void shard_put_record(struct store_shard *shard);
struct kv_write *small_put_create(struct store *store); /* frees itself */
void small_put_submit(struct kv_write *write);
bool drop_running(const struct store *store, const struct store_shard_id *id);
void drop_resume(struct store *store, const struct store_shard_id *id);
void background_create(struct store *store);
void background_start(struct store *store);
void background_stop(struct store *store); /* no more work is begun */
bool background_idle(const struct store *store);
void background_destroy(struct store *store);
void prewrite_kick(struct store *store);
/* flush_ahead.c: data was written to the drive; a flush of it begins, whoever asked for it */
void flush_ahead_wrote(struct store *store, uint32_t bytes);
void flush_ahead_begun(struct store *store);
void store_close_advance(struct store *store); /* called whenever something ended while closing */
void space_check(struct store *store);
void store_space_task(struct env_task *task);

#endif
