/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of a consensus instance, for whoever gives it a raft_io: the libuv
 * one (consensus_uv.c) or a simulated one. The core knows no clock, no socket
 * and no file; all of them are behind `inner`.
 *
 * Threading, errors, ownership: as in consensus.h. An implementer calls
 *   consensus_core_create -> [consensus_core_bootstrap] -> consensus_core_start
 * and gets `released` called when the inner raft_io may be freed.
 *
 * The layers, as one sees them from libraft:
 *
 *   struct raft ──▶ outer raft_io (consensus_io.c) ──▶ inner raft_io (uv | sim)
 *
 * The outer one repairs what libraft 0.15 leaves open; the invariants:
 *   (C1) A leader commits nothing by counting replicas until an entry of its
 *        own term is durable here (Raft 5.4.2; libraft counts older ones, too).
 *   (C2) A voter that starts empty neither votes nor stands for election with
 *        a log longer than the bootstrap entry until it caught up with a leader.
 *   (C3) After a failed log, term or vote write nothing is sent or believed
 *        any more: sticky `failed_rc` (libraft would go on with a log in
 *        memory that differs from the one on disk).
 *   (C4) Every accepted proposal completes exactly once, outside the library.
 *   (C5) apply() sees version n+1 right after version n.
 *   (C6) The library is shown no entry at or below its snapshot.
 *   (C7) A voter acknowledges no entry that it has not compared with the leader of this term, or knows to be committed.
 */
#ifndef ASHLAR_CONTROL_CONSENSUS_OPS_H
#define ASHLAR_CONTROL_CONSENSUS_OPS_H

#include <raft.h>

#include "server/control/consensus.h"

/* Voter v is "voter-<id>" inside Raft: the bootstrap entry is the same on all
 * voters whatever addresses their configs spell. */
#define CONSENSUS_RAFT_ADDRESS_MAX 32u

/* Doubly linked, circular; a head or an element. */
struct consensus_link {
    struct consensus_link *prev, *next;
};

struct consensus_peer {
    uint64_t id;
    char address[CONSENSUS_ADDRESS_MAX]; /* as configured */
};

/* One proposal inside the library. Lives until both raft and the caller are
 * done with it: raft's callback may come long after the caller's (C3). */
struct consensus_proposal {
    struct raft_apply apply;
    struct consensus *c;
    struct consensus_propose_req *req; /* NULL once completed */
    consensus_propose_fn cb;
    int rc;
    uint64_t version;
    bool raft_done;             /* raft will not call back any more */
    struct consensus_link link; /* in c->proposals or c->completed */
};

struct consensus {
    struct consensus_callbacks callbacks;
    consensus_log_fn log;
    void *log_arg;

    uint64_t id;
    unsigned peers_count; /* sorted by id, ourselves included */
    struct consensus_peer peers[CONSENSUS_VOTERS_MAX];
    unsigned election_timeout_ms, heartbeat_ms;

    struct raft raft;
    struct raft_fsm fsm;
    struct raft_io outer;  /* what libraft sees */
    struct raft_io *inner; /* borrowed until released() */
    raft_io_tick_cb raft_tick;
    raft_io_recv_cb raft_recv;
    raft_io_close_cb raft_io_closed;
    bool io_closed;
    bool started;

    /* Called once, when everything is closed and all proposals were called back:
     * free what is behind `inner`, consensus_core_destroy(), then cb(cb_arg). */
    void (*released)(void *arg, consensus_close_fn cb, void *cb_arg);
    /* (C2) Caught up: forget the marker of an empty start. Optional. */
    void (*probation_over)(void *arg);
    /* Uncached, to time what blocks the loop; raft_io.time may be cached. Optional. */
    uint64_t (*clock_ms)(void *arg);
    void *backend;

    /* Roles (consensus_role.c) */
    bool leader_ready; /* our barrier is applied */
    bool barrier_submitted;
    bool barrier_done;
    raft_index barrier_index;    /* first entry of our own term */
    struct raft_barrier barrier; /* in use while submitted && !done */
    bool barrier_in_use;
    raft_term leader_term;
    raft_term told_term; /* for which told_commit and told_barrier hold */
    bool told_barrier;   /* since our barrier is durable */
    raft_index told_commit[CONSENSUS_VOTERS_MAX];
    bool telling_commit;
    bool told_leader;
    uint64_t told_leader_id;
    bool transferring;
    struct raft_transfer transfer;

    /* (C2) */
    bool probation;
    raft_index probation_target; /* 0 until a leader was heard */

    /* (C7) */
    raft_term matched_term;
    raft_index matched_index; /* our log up to here is that of the leader of matched_term */
    bool rejecting;           /* the message being received was refused */

    /* (C3) */
    int failed_rc;
    bool failure_told;

    bool closing, close_submitted;
    consensus_close_fn close_cb;
    void *close_arg;

    uint64_t version; /* last applied */
    struct raft_buffer snapshot_bufs[2];

    struct consensus_link proposals; /* with raft */
    struct consensus_link completed; /* waiting for consensus_core_drain */
    unsigned in_flight;
    struct consensus_link appends; /* struct append_hook, consensus_io.c */
    raft_io_snapshot_put_cb put_cb;
    bool put_installs; /* that one came from a leader */
    bool draining;
    struct consensus_stats stats;
};

/* `inner` is raft_io-initialised but for init(). `config` was validated by
 * consensus_config_check. On failure nothing was kept. */
int consensus_config_check(const struct consensus_config *config);
int consensus_core_create(const struct consensus_config *config, struct raft_io *inner,
                          const struct consensus_callbacks *callbacks, struct consensus **ret);
/* 0, or -EEXIST if the directory holds state already. */
int consensus_core_bootstrap(struct consensus *c);
int consensus_core_force_voters(struct consensus *c);
int consensus_core_start(struct consensus *c);
void consensus_core_destroy(struct consensus *c);

/* Between the files of the core. */
void consensus_io_wire(struct consensus *c, struct raft_io *inner);
void consensus_io_abandon(struct consensus *c);
void consensus_fsm_wire(struct consensus *c);
int consensus_fsm_frame(const void *bytes, size_t len, struct raft_buffer *ret);
void consensus_fail(struct consensus *c, int rc, const char *what);
/* After every event of the library: roles, probation, failure, completions. */
void consensus_core_settle(struct consensus *c);
/* On each tick, before the library's own: true if it must not run. */
bool consensus_core_tick(struct consensus *c);
void consensus_role_update(struct consensus *c);
/* After an event that may have moved the commit index: followers that have what is committed hear of it at once. */
void consensus_role_tell_commit(struct consensus *c);
void consensus_role_tell(struct consensus *c);

/* RAFT_* to -errno, once. `io_errno` if the operation knows better. */
int consensus_errno(int raft_rc);
__attribute__((format(printf, 3, 4))) void consensus_log(const struct consensus *c, enum consensus_log_level level,
                                                         const char *format, ...);
const struct consensus_peer *consensus_peer_find(const struct consensus *c, uint64_t id);

void consensus_link_init(struct consensus_link *head);
bool consensus_link_empty(const struct consensus_link *head);
void consensus_link_push(struct consensus_link *head, struct consensus_link *link);
void consensus_link_remove(struct consensus_link *link);

/* Installs the counting allocator; idempotent. */
void consensus_heap_install(void);

#endif
