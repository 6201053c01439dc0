/* SPDX-License-Identifier: Apache-2.0 */
/* replica_internal: the structures that the phases of the replication protocol share; one .c per phase.
 *
 * Life of a primary's phase (arrows: the function that makes them):
 *
 *   IDLE --takeover_start--> RAISING --takeover_copy--> COPYING --takeover_activate--> ACTIVATING --takeover_serve--> SERVING
 *    ^ |                       ^  any epoch change: takeover_start again                                                |
 *    | +--too few in_sync--> PARKED                                                                                     |
 *    +--replica_step_down (another node is primary, or none)------------------------------------------------------------+
 *   SERVING --move_start--> MOVING (hands the role home; R10) --map change--> IDLE
 *
 * Threading, errors, ownership: replica.h.
 */
#ifndef ASHLAR_SERVER_REPLICA_REPLICA_INTERNAL_H
#define ASHLAR_SERVER_REPLICA_REPLICA_INTERNAL_H

#include <assert.h>

#include "common/list.h"
#include "common/map_u64.h"
#include "common/slab.h"
#include "server/replica/replica.h"

#define REPLICA_WINDOW_MAX 8000u    /* entries a RAISE answer must be able to carry */
#define REPLICA_COMMIT_LAG_MAX 512u /* a COMMIT is sent when a member's window may hold this many retired entries */
#define REPLICA_COMMIT_IDLE_NS ENV_MS(50)
#define REPLICA_RETRY_NS ENV_MS(100)
#define SEAL_RUNS_MAX 4096u       /* in one entry */
#define REPLICA_CREDIT_UNITS 512u /* units of space asked from a member at once */

enum replica_phase {
    PHASE_IDLE,
    PHASE_PARKED,
    PHASE_RAISING,
    PHASE_COPYING,
    PHASE_ACTIVATING,
    PHASE_SERVING,
    PHASE_MOVING,
};

/* Block-range lock of one shard; granted in arrival order (lock.c). */
struct range_lock {
    struct list_node link;
    uint64_t start, end; /* bytes, block multiples */
    bool exclusive, held;
    void (*granted)(struct range_lock *lock); /* when a waiting lock becomes held */
};

/* A write that may not be on every member (R2, R11): range and lsn, retired by its own epoch's commit point or by a takeover. */
struct window_entry {
    struct list_node link; /* replica->window, ascending lsn */
    uint64_t epoch, n;
    uint64_t offset;
    uint32_t length;
    uint32_t generation;
    bool busy;                 /* its drive write has not completed */
    struct peer_source source; /* backup: whom to answer */
    struct wire_header request;
    struct msg *msg; /* backup: holds the payload while busy */
    struct replica *replica;
    struct store_io io;
    uint32_t credits; /* backup: granted units the primary spent on it */
    uint32_t extra;   /* backup: units reserved here beyond those */
};

enum target_state { TARGET_IDLE, TARGET_SENT, TARGET_OK, TARGET_LOST, TARGET_REFUSED, TARGET_RESEND };

struct op_ctx;
struct target {
    uint32_t node;
    uint8_t state;
    bool counted; /* must answer before the acknowledgement: in_sync, or JOINING (R17) */
    uint32_t credits;
    struct peer_request request;
    struct op_ctx *ctx;
};

enum ctx_kind { CTX_CLIENT, CTX_HEAL, CTX_COPY };
enum ctx_state {
    CTX_WAITING,   /* for its lock */
    CTX_HELD,      /* lock held, not started (or to be started again under a new epoch) */
    CTX_PREPARING, /* read-modify-write, repair, reservation */
    CTX_SENT,      /* numbered and on its way to the members (writes); reading (reads) */
};

/* One locked range operation at the primary. */
struct op_ctx {
    struct list_node link;      /* replica->ops, arrival order */
    struct list_node sent_link; /* replica->sent, lsn order: numbered and not committed */
    struct list_node wait_link; /* replicas->credit_waiters */
    struct range_lock lock;
    struct replica *replica;
    struct replica_op *op; /* CTX_CLIENT; NULL once answered early */
    enum ctx_kind kind;
    enum ctx_state state;
    bool started;  /* something of it may be on a drive: it must be re-sent or healed, never forgotten (R7) */
    bool io_busy;  /* io is with the store */
    bool dead;     /* free as soon as nothing is busy */
    bool healing;  /* session refused: equalise the members, then answer -ESTALE */
    bool takeover; /* CTX_HEAL of a takeover: dies with its epoch */
    bool unlocked; /* of a takeover in COPYING, or a copy while PARKED: nothing else writes then */
    bool local_done;
    bool exclusive_read;
    uint16_t wire_op; /* WIRE_WRITE or WIRE_ZERO (what REPLICATE applies), WIRE_READ */
    uint32_t wire_flags;
    uint64_t session;
    uint32_t generation;
    uint64_t epoch, n; /* lsn of the latest sending */
    uint64_t offset;   /* block aligned range of the current sending */
    uint32_t length;
    uint64_t heal_end; /* CTX_HEAL, CTX_COPY: runs up to here */
    bool heal_head;    /* CTX_HEAL: of the head generation, which may move on meanwhile */
    struct buf *buf;
    uint32_t buf_offset;
    bool buf_owned;
    uint32_t reserved_units; /* own store */
    uint32_t spend_units;    /* most a member may allocate for it */
    uint32_t exact_units[MAP_MEMBERS_MAX];
    uint32_t exact_mask; /* member indices that granted exactly this write (reserve.c) */
    struct store_io io;
    struct peer_request repair; /* REPAIR_READ in flight */
    uint32_t repair_next;       /* member index tried next */
    bool repair_busy;
    struct repair_search *search; /* repair.c, once nobody in sync could help; NULL before */
    uint32_t target_count;
    struct target targets[MAP_MEMBERS_MAX];
    uint64_t resumed;                         /* the last of replica->resumes that started it */
    uint32_t copy_node;                       /* CTX_COPY: the member being synced */
    void (*done)(struct op_ctx *ctx, int rc); /* CTX_HEAL, CTX_COPY */
    void *owner;
    struct env_task task;
    uint64_t t_sent, t_local, t_remote;
    uint64_t held_ns; /* waits for writes of the generation before since then; 0: does not (seal.c) */
    uint32_t crcs[WIRE_BLOCKS_MAX];
};

/* Range reported by a window, to be made equal on all members (R11). */
struct takeover_range {
    uint64_t start, end;
    uint32_t generation;
};

struct takeover_raise {
    struct peer_request request;
    struct replica *replica;
    uint32_t node;
    bool busy, answered;
};

struct takeover {
    uint64_t epoch;
    bool restamp_busy, restamped;
    struct store_restamp restamp;
    uint32_t raise_count;
    struct takeover_raise raises[MAP_MEMBERS_MAX];
    struct takeover_range *ranges;
    uint32_t range_count, range_capacity, range_next;
    uint32_t copies_busy;
    bool proposed;
    uint64_t proposed_ns;
};

/* A RAISE or JOIN that waits for earlier drive writes to drain. */
struct drain_wait {
    struct list_node link;
    struct replica *replica;
    struct peer_source source;
    struct wire_header request;
    uint64_t map_epoch;
    bool begun;
    struct store_restamp restamp;
    struct store_flush flush;
};

struct sync;

struct replica {
    struct replicas *set;
    uint64_t volume;
    uint32_t index;
    struct map_shard map; /* copy of the map's record at the version last looked at */
    struct store_shard *shard;
    uint64_t instance;
    enum replica_phase phase;
    bool in_table;
    uint64_t office_epoch; /* in which this node became primary without a break */
    uint64_t next_n;
    uint64_t commit_n;                     /* of map.epoch, while primary */
    uint64_t commit_told_n;                /* last sent to the members */
    uint64_t acked_writes, flushed_writes; /* counters: dirty when they differ (R13) */
    uint64_t writes_done;                  /* numbered writes that ended */
    uint32_t ctx_count;                    /* contexts that name this replica, waiting for answers ones too */
    uint32_t drive_writes;                 /* accepted writes whose store write has not completed */
    uint32_t digests;                      /* and other questions about records, with the store */
    struct list_node ops;                  /* op_ctx */
    struct list_node sent;                 /* op_ctx by sent_link */
    struct list_node locks;
    struct list_node parked; /* replica_op */
    struct list_node window;
    uint32_t window_count;
    struct list_node drains; /* drain_wait */
    struct takeover takeover;
    struct sync *syncs[MAP_MEMBERS_MAX];
    uint32_t sync_count;
    /* Snapshots (seal.c, rollback.c). */
    uint32_t floor;             /* R20: the oldest generation that a client's write may carry here */
    uint32_t seal_told;         /* generation that the gateway said it stamps */
    uint64_t seal_since_ns;     /* a snapshot waits for this shard since then; 0: none */
    bool draining;              /* writes below floor are under way: newer ones near them wait */
    bool sealing;               /* on replicas->drained, or in a job */
    struct list_node seal_link; /* replicas->drained */
    bool rolling;
    uint32_t rolled_to; /* rollback done in this run of the daemon */
    struct store_rollback rollback;
    struct store_flush rollback_flush;
    bool flattening;
    struct store_flatten flatten;
    struct store_flush flat_flush;
    struct replica_proposal full_proposal;
    struct env_timer retry;      /* takeover retries, drop_after, commit on idle */
    struct list_node dirty_link; /* volume_dirty list: shards with unflushed writes */
    struct list_node activate_link;
    uint64_t unreachable_since[MAP_MEMBERS_MAX]; /* by member index; 0: reachable */
    uint64_t serving_since_ns;
    uint64_t resumes; /* times that ops_resume ran */
    bool drop_proposed;
    bool move_proposed;
    struct replica_proposal drop_proposal, move_proposal;
};

struct member_credit { /* space granted by a member node, units; reset when the link ends */
    uint32_t units;
    bool asking;
    struct op_ctx *asker; /* the write named in the question; NULL once it ended */
    struct peer_request request;
    struct replicas *set;
    uint32_t node;
};

struct granted { /* space this node granted to a primary node */
    struct peer_source source;
    uint32_t units;
    uint32_t limit; /* of the last question: credits come back only up to it */
};

struct flush_job;

struct replicas {
    struct replicas_config cfg;
    struct env *env;
    struct map_u64 by_shard;   /* key (volume, shard) -> replica */
    struct slab pool;          /* of them */
    struct list_node dirty;    /* replicas with unflushed acknowledged writes */
    struct list_node activate; /* replicas whose epoch awaits EPOCH_ACTIVE */
    struct env_task activate_task;
    bool activate_scheduled;
    uint64_t lease_until_ns, lease_map_version;       /* effective lease (R9) */
    uint64_t lease_next_until_ns, lease_next_version; /* granted for a map version not applied yet */
    struct env_timer lease_timer;                     /* re-admits reads that wait for a lease */
    struct member_credit credit[MAP_NODES_MAX + 1];
    struct granted granted[MAP_NODES_MAX + 1];
    struct list_node free_ctx, free_window;
    uint32_t ctx_count;
    struct list_node flush_jobs;
    uint32_t flushes;         /* of the store, in flight */
    uint32_t activations;     /* proposed and not answered */
    struct list_node drained; /* replicas whose older writes ended: to be sealed */
    struct env_task seal_task;
    struct env_task drained_task; /* an older write of a draining replica ended */
    uint32_t seals;               /* jobs under way */
    uint32_t flattens;            /* shards under way */
    uint32_t diffs;               /* of block status and what changed, with the store */
    struct list_node credit_waiters;
    uint32_t syncs_running;
    struct env_timer tick;
    bool closing;
    bool in_submit; /* completions are deferred: never inside replicas_submit */
    struct replicas_stats stats;
};

/* What holds whenever a function of this room is entered. */
static inline void set_assert(const struct replicas *r)
{
    assert(r != NULL && r->env != NULL);
    assert(r->cfg.node > 0 && r->cfg.node <= MAP_NODES_MAX);
}

static inline void replica_assert(const struct replica *rep)
{
    assert(rep != NULL && rep->set != NULL);
    assert(rep->map.member_count <= MAP_MEMBERS_MAX);
    assert(rep->sync_count <= MAP_MEMBERS_MAX);
    assert(rep->commit_told_n <= rep->commit_n);
    assert(rep->ctx_count <= rep->set->ctx_count);
}

static inline void ctx_assert(const struct op_ctx *ctx)
{
    assert(ctx != NULL && ctx->replica != NULL);
    assert(ctx->target_count <= MAP_MEMBERS_MAX);
    assert(ctx->length <= STORE_REGION_BYTES);
    if (ctx->buf_owned)
        assert(ctx->buf != NULL);
    if (ctx->kind == CTX_CLIENT)
        assert(!ctx->takeover);
}

static inline void target_assert(const struct target *target)
{
    assert(target != NULL && target->ctx != NULL);
    assert(target->node > 0 && target->node <= MAP_NODES_MAX);
}

static inline void window_assert(const struct window_entry *entry)
{
    assert(entry != NULL && entry->replica != NULL);
    assert(entry->n > 0 && entry->length > 0);
}

static inline void takeover_assert(const struct takeover *t)
{
    assert(t->range_next <= t->range_count);
    assert(t->range_count <= t->range_capacity);
    assert(t->raise_count <= MAP_MEMBERS_MAX);
}

static inline void drain_assert(const struct drain_wait *wait)
{
    assert(wait != NULL && wait->replica != NULL);
}

/* replicas.c */
struct replica *replica_find(struct replicas *r, uint64_t volume, uint32_t shard);
const struct map_volume *replica_volume(const struct replica *rep);
bool replica_lease_valid(struct replica *rep);
uint32_t replica_member_index(const struct replica *rep, uint32_t node); /* UINT32_MAX: none */
void replica_header(const struct replica *rep, struct wire_header *h, uint16_t opcode);
void replica_step_down(struct replica *rep);
void ctx_begin(struct replica *rep, struct op_ctx *ctx, uint64_t start, uint64_t end, bool exclusive);
struct op_ctx *ctx_alloc(struct replica *rep);
void ctx_free(struct op_ctx *ctx);
struct window_entry *window_add(struct replica *rep, uint64_t epoch, uint64_t n, uint64_t offset, uint32_t length,
                                uint32_t generation);
void window_remove(struct window_entry *entry);
void window_retire(struct replica *rep, uint64_t epoch, uint64_t commit_n);
void window_retire_older(struct replica *rep, uint64_t epoch);
void replica_drive_write_done(struct replica *rep); /* counts down drive_writes, wakes drains and takeover */

/* lock.c */
bool range_lock_acquire(struct replica *rep, struct range_lock *lock); /* true: held at once */
void range_lock_release(struct replica *rep, struct range_lock *lock);

/* op.c: admission, start, completion of client operations */
void op_admit(struct replica *rep, struct replica_op *op);
void op_start(struct op_ctx *ctx);
bool op_may_run(const struct op_ctx *ctx); /* in the phase that its shard is in now */
void op_finish(struct op_ctx *ctx, int rc);
void op_hold(struct op_ctx *ctx); /* the own store failed: nothing ends here, the role moves */
void op_complete_later(struct replicas *r, struct replica_op *op, int rc);
void ops_resume(struct replica *rep); /* on SERVING: re-send, start, admit what was parked */
void ops_lease_renewed(struct replica *rep);
void ops_abort(struct replica *rep, int rc); /* not primary any more */
void op_abort(struct op_ctx *ctx, int rc);
void ctx_kill(struct op_ctx *ctx); /* lets go of everything not busy; frees when nothing is */
/* First thing of every store completion: true when ctx was aborted meanwhile and is gone now. */
bool ctx_ended_meanwhile(struct op_ctx *ctx);
void ctx_lock_granted(struct range_lock *lock);

/* write.c */
void op_write_start(struct op_ctx *ctx);
void write_send(struct op_ctx *ctx,
                bool local); /* numbers it and sends it to every target; local: write here as well */
void write_check_done(struct op_ctx *ctx);
void write_peer_up(struct replica *rep, uint32_t node);
void write_commit_advance(struct replica *rep);
void write_recheck_all(struct replica *rep);
void write_commit_tell(struct replica *rep);

/* read.c */
void op_read_start(struct op_ctx *ctx);
/* repair.c */
void repair_start(struct op_ctx *ctx); /* own copy is damaged: fetch from other members */

/* heal.c: make the members equal to the primary's own content over a range */
struct op_ctx *heal_start(struct replica *rep, uint64_t start, uint64_t end, uint32_t generation, bool takeover,
                          void (*done)(struct op_ctx *ctx, int rc), void *owner);
bool heal_covers(const struct replica *rep, uint64_t offset); /* one that has yet to pass there */
void heal_run(struct op_ctx *ctx);
void heal_sent(struct op_ctx *ctx);
void heal_tick(struct replica *rep);

/* reserve.c */
uint32_t reserve_units_spanned(uint64_t offset, uint32_t length); /* most that a write of this range may allocate */
int reserve_for_write(struct op_ctx *ctx); /* 0: reserved; -EINPROGRESS: op_start is called again; -ENOSPC */
void reserve_release(struct op_ctx *ctx);
void reserve_used(struct op_ctx *ctx, uint32_t allocated); /* the own write ended: gives back what it did not use */
void reserve_answered(struct replicas *r, uint32_t node, uint32_t spent, int32_t credits);
void reserve_peer_down(struct replicas *r, uint32_t node);
void reserve_source_lost(struct replicas *r, const struct peer_source *source);
int reserve_accept(struct window_entry *entry); /* -ENOSPC: a write to a member being synced is refused */
int32_t reserve_settle(struct replicas *r, const struct window_entry *entry, uint32_t allocated);
void reserve_tick(struct replicas *r);
void reserve_message(struct replicas *r, const struct peer_source *source, struct msg *msg);

/* backup.c */
void backup_message(struct replicas *r, const struct peer_source *source, struct msg *msg);
void drain_check(struct replica *rep);
void drain_add(struct replica *rep, const struct peer_source *source, struct msg *msg); /* msg: given */
void drain_end(struct drain_wait *wait, int rc);

/* flush.c */
void flush_submit(struct replicas *r, struct replica_op *op);
void flush_mark_dirty(struct replica *rep);
void flush_map_changed(struct replicas *r);
void flush_message(struct replicas *r, const struct peer_source *source, struct msg *msg);
void flush_after_write(struct op_ctx *ctx); /* FUA */
void flush_cancel_all(struct replicas *r);

/* takeover.c */
void takeover_start(struct replica *rep);
void takeover_step(struct replica *rep); /* something it waits for happened */
void takeover_cancel(struct replica *rep);
uint32_t takeover_generation(const struct replica *rep, uint32_t generation);
void takeover_retry(struct replica *rep);
void takeover_serve(struct replica *rep);
void takeover_tell_done(struct replica *rep, uint32_t node);
void takeover_active_flush(struct env_task *task);

/* seal.c: one generation ends, the next one begins (R20) */
int seal_admit(struct op_ctx *ctx, const struct map_volume *v); /* 0; -ESTALE: too old a stamp; -EINPROGRESS: waits */
bool seal_waits(const struct op_ctx *ctx);                      /* for writes of the generation before in its chunks */
int seal_read_generation(struct op_ctx *ctx, const struct map_volume *v);
bool seal_generation_live(const struct replica *rep, uint32_t generation);
void seal_drained_task(struct env_task *task);
void seal_refresh(struct replica *rep);
void seal_serve(struct replica *rep);
void seal_step_down(struct replica *rep);
void seal_tick(struct replica *rep);
void seal_told(struct replicas *r, uint64_t volume, uint32_t generation);
void seal_volume_changed(struct replicas *r, const struct map_volume *v);
void seal_generations(struct replica *rep, const uint32_t *live, uint32_t count);

/* rollback.c: rollbacks, clones */
bool rollback_wanted(const struct replica *rep);
void rollback_start(struct replica *rep);
int base_open(struct replica *rep, const struct map_volume *volume, const struct map_member *self);
void flatten_refresh(struct replica *rep);

/* member.c: unreachable members, moving the role home */
void member_unreachable(struct replica *rep, uint32_t node);
void member_failed(struct replica *rep, uint32_t node); /* answered with an I/O error: drop it at once */
void member_tick(struct replica *rep);
void move_check(struct replica *rep);

/* resync.c, sync_target.c */
void sync_refresh(struct replica *rep); /* starts, keeps or stops syncs as the map says */
void sync_stop_all(struct replica *rep);
void sync_tick(struct replica *rep);
void sync_step_all(struct replica *rep);
void sync_start_drained(struct drain_wait *wait);
bool sync_is_target(const struct replica *rep, uint32_t node, bool *ret_joining);
void sync_forward_failed(struct replica *rep, uint32_t node, uint64_t offset, uint64_t length, int rc);
void sync_peer_down(struct replica *rep, uint32_t node);
bool sync_withholds_ack(const struct replica *rep);
uint32_t sync_infos(const struct replica *rep, struct replica_sync_info *ret_infos, uint32_t max);
void sync_join_drained(struct drain_wait *wait);
void sync_chunk_locked(struct op_ctx *ctx);
void sync_target_message(struct replicas *r, const struct peer_source *source, struct msg *msg);

#endif
