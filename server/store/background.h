/* SPDX-License-Identifier: Apache-2.0 */
/* background: what the store does on its own: cleaning, checkpoints, prewriting, removals, verification, scrub.
 * Threading: the data thread's. Errors: store_fail. Ownership: one struct background a store, from create to destroy. */
#ifndef ASHLAR_SERVER_STORE_BACKGROUND_H
#define ASHLAR_SERVER_STORE_BACKGROUND_H

#include "server/store/store_core.h"

struct drop {
    struct store *store;
    struct list_node link;
    struct store_shard_id id;
    struct store_shard *shard; /* until its memory went */
    struct env_timer timer;
    struct kv_scan scan;
    struct kv_write write;
    struct unit_list released;
    bool busy, ending;
    bool marks; /* no map is left: the page is of marks */
    struct drop *next_instance;
};

/* Walks blocks of shards, a unit at a time: checks them as any read does. */
struct walker {
    struct store *store;
    struct env_timer timer;
    struct buf *buf;
    struct store_shard_id shard; /* position */
    uint32_t chunk, unit;
    uint32_t crcs[UNIT_BLOCKS];
    bool busy, started;
    /* The scrubber, behind a chunk's newest record: the older ones, newest first. */
    uint32_t generation; /* UINT32_MAX: the newest */
    bool last;           /* no older one is left */
    struct record_map newer, older;
    struct kv_scan scan;
};

struct prewriter {
    struct env_timer timer;
    struct drive_io io;
    struct buf *buf;
    uint64_t writes_seen; /* of the store, at the last turn */
    uint32_t turns_left_out;
    bool busy;
};

struct flush_ahead {
    struct drive_io io;
    uint64_t flush_seq;       /* as its running flush began */
    uint64_t unflushed_bytes; /* written since any flush began */
    uint64_t begun_ns;        /* when that was */
    bool busy, left_alone;
};

/* Removes records that serve no live generation: reap.c. */
struct reaper {
    struct store *store;
    struct env_timer timer;
    struct kv_scan scan;
    struct kv_write write;
    struct unit_list released;
    struct store_shard_id shard; /* while running */
    uint32_t chunk, generation;  /* of the record judged last */
    uint64_t seq;                /* shard->older_seq when the page was asked for */
    bool running, busy, at_end;
    bool again; /* something was in use */
};

/* Merges units with two sources that nobody else references any more: compact.c. */
struct compactor {
    struct store *store;
    struct env_timer timer;
    struct store_shard_id shard; /* while running */
    uint32_t chunk;
    bool running, busy;
};

struct background {
    struct store *store;
    bool stopping;
    struct env_timer clean_timer, checkpoint_timer;
    struct prewriter prewriter;
    struct flush_ahead flush_ahead;
    struct walker verifier; /* suspect chunks after an unclean stop */
    struct walker scrubber;
    struct reaper reaper;
    struct compactor compactor;
    struct list_node drops;
    struct map_u64 drop_map; /* (volume, shard): the first of its drops */
    uint32_t digests;        /* and diffs, walks, ...: requests under way */
};

bool id_equal(const struct store_shard_id *a, const struct store_shard_id *b);
void drop_start_all(struct store *store);
void reap_kick(struct store *store);
void compact_kick(struct store *store);
void reap_close(struct store *store);
bool drop_idle(const struct store *store);
void drop_close_all(struct store *store);
void verifier_start(struct store *store);
void verifier_kick(struct store *store); /* something became suspect */
void scrubber_start(struct store *store);

#endif
