/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Consensus: one replicated, ordered list of opaque entries, agreed by 1, 3 or
 * 5 static voters through Raft (libraft). Every committed entry is handed to
 * apply() once per process life, in order, numbered 1, 2, 3, ... : that number
 * is the map version (R3, R23). What the entries mean is the caller's affair.
 *
 * Threading: one instance belongs to one libuv loop; every call and every
 * callback happens on that loop's thread. Several instances may share a loop.
 *
 * Errors: 0 or -errno, out-parameters untouched on failure. RAFT_* codes are
 * translated once, in the wrapper, and appear in the log as text.
 *
 * Ownership: config, voters, strings and bytes passed in are borrowed for the
 * call only; a proposal request is borrowed until its callback. apply() and
 * restore() lend their bytes; snapshot() gives malloc'ed bytes away.
 *
 * Re-entrancy: apply, snapshot and restore run inside the Raft library and may
 * call only the getters below. role_changed, failed and every completion run
 * outside it, may call anything here, and never run inside the call that
 * started them (rule: a submit fails, or completes exactly once, later).
 *
 * Restrictions, each with its remedy:
 *  - Replay. At start the state is that of the last snapshot; later entries
 *    come through apply() as soon as a leader confirms them. Act on the map
 *    only once a leader is known; the leader itself reports is_leader only
 *    after everything committed before its term has been applied.
 *  - Term and vote are written synchronously on the loop thread: a drive that
 *    stalls stalls the loop for that long, though only around elections.
 *    Put the directory on the best drive there is.
 *  - A failed log write fails the instance for good (sticky: memory and disk may
 *    disagree): failed() is called; close it and open it again.
 *  - A voter that lost its directory must not vote as if it never promised
 *    anything. See may_bootstrap below and docs/internals/raft-notes.md.
 *  - libuv writes to sockets that peers have closed: the process must ignore
 *    SIGPIPE. consensus_open() asserts that it does.
 *  - The Raft port has no authentication; bind it to the storage network.
 */
#ifndef ASHLAR_CONTROL_CONSENSUS_H
#define ASHLAR_CONTROL_CONSENSUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONSENSUS_VOTERS_MAX 5u
#define CONSENSUS_ENTRY_BYTES_MAX (256u * 1024u)
#define CONSENSUS_SNAPSHOT_BYTES_MAX (64u * 1024u * 1024u)
#define CONSENSUS_IN_FLIGHT_MAX 1024u
#define CONSENSUS_ADDRESS_MAX 256u

/* Defaults, used where the config field is zero. */
#define CONSENSUS_ELECTION_TIMEOUT_MS 300u
#define CONSENSUS_HEARTBEAT_MS 60u
#define CONSENSUS_STAND_FIRST_MS 20u /* after a leader was lost: the others see that, too */
#define CONSENSUS_STAND_NEXT_MS 100u /* later, each voter after the first */
#define CONSENSUS_SNAPSHOT_THRESHOLD 1024u
#define CONSENSUS_SNAPSHOT_TRAILING 256u
#define CONSENSUS_INSTALL_SNAPSHOT_MS 5000u /* a follower that is busy drops it silently: sent again after this */
#define CONSENSUS_CONNECT_RETRY_MS 100u
#define CONSENSUS_CONNECT_TIMEOUT_MS 1000u
#define CONSENSUS_PEER_TIMEOUT_MS 3000u
#define CONSENSUS_SEGMENT_BYTES (1024u * 1024u)
#define CONSENSUS_HEAP_BYTES_MAX (256u * 1024u * 1024u)

struct uv_loop_s;
struct consensus;

enum consensus_log_level {
    CONSENSUS_LOG_DEBUG,
    CONSENSUS_LOG_INFO,
    CONSENSUS_LOG_WARN,
    CONSENSUS_LOG_ERROR,
};

typedef void (*consensus_log_fn)(void *arg, enum consensus_log_level level, const char *message);

struct consensus_voter {
    uint64_t id;         /* > 0 */
    const char *address; /* "host:port"; names are resolved once, at open */
};

struct consensus_config {
    uint64_t id; /* which of the voters this instance is */
    const struct consensus_voter *voters;
    unsigned voters_count;    /* 1, 3 or 5; the same set on every voter */
    const char *dir;          /* must exist; 3 to 4 segments of space */
    const char *bind_address; /* NULL: the voter's own address */

    /* Zero means the default above. heartbeat * 2 <= election timeout. */
    unsigned election_timeout_ms; /* a follower waits 1x to 2x of this */
    unsigned heartbeat_ms;
    unsigned snapshot_threshold; /* entries between snapshots */
    unsigned snapshot_trailing;  /* entries kept after one */
    unsigned connect_retry_ms;   /* pause before a peer is tried again */
    unsigned connect_timeout_ms; /* a silent peer: give up connecting */
    unsigned peer_timeout_ms;    /* unacknowledged bytes: drop the link */
    size_t segment_bytes;        /* multiple of 4096 */

    /*
     * May an empty directory be taken for a first start? Pass true exactly
     * once in a voter's life (the daemon's store remembers). With false an
     * empty directory is refused with -ENODATA: it means lost state.
     */
    bool may_bootstrap;
    /*
     * Disaster only: a majority of voters is gone for good. Force `voters`
     * onto this directory's log. On exactly one survivor, the one with the
     * longest log; copy its directory to the others; see raft_recover().
     */
    bool force_voters;

    consensus_log_fn log; /* may be NULL */
    void *log_arg;
};

struct consensus_callbacks {
    /* Every committed entry, in order; version counts them from 1. */
    void (*apply)(void *arg, uint64_t version, const void *entry, size_t len);
    /* The state as of the last apply(). Bytes are malloc'ed and given.
     * -EAGAIN: not now, ask again after some more entries. */
    int (*snapshot)(void *arg, void **ret_bytes, size_t *ret_len);
    /* Replace the whole state by a snapshot taken at `version`. */
    int (*restore)(void *arg, const void *bytes, size_t len, uint64_t version);
    /* Leadership or knowledge of the leader changed. leader_id 0: unknown.
     * Optional. */
    void (*role_changed)(void *arg, bool is_leader, uint64_t leader_id, const char *leader_address);
    /* The instance is dead (log write failed, out of memory, corrupt): all
     * proposals in flight completed as unknown before. Close it. Optional. */
    void (*failed)(void *arg, int rc);
    void *arg;
};

struct consensus_propose_req;

/*
 * rc 0: committed and applied here as `version`.
 * rc -EINPROGRESS: unknown (R4). Leadership was lost, or the instance failed or
 * was closed, after the entry may have left this voter: it may be committed,
 * now, later or never. Read the map, then decide. version is 0.
 */
typedef void (*consensus_propose_fn)(struct consensus_propose_req *req, int rc, uint64_t version);

struct consensus_propose_req {
    void *data; /* public: the caller's */
};

typedef void (*consensus_close_fn)(void *arg);

/*
 * Open the directory, take its lock, bootstrap it if empty and allowed. No
 * traffic yet. -EBUSY: another process holds the directory. -ENODATA: empty but
 * may_bootstrap is false. -EINVAL: bad config. -EBADMSG: corrupt log. `loop` is
 * borrowed until the close callback.
 */
int consensus_open(const struct consensus_config *config, struct uv_loop_s *loop,
                   const struct consensus_callbacks *callbacks, struct consensus **ret);

/*
 * Load snapshot (restore() is called from inside) and log, listen, take part.
 * -EADDRINUSE: bind failed. -ESTALE: the directory belongs to another voter set.
 * After a failure only consensus_close() is allowed.
 */
int consensus_start(struct consensus *c);

/*
 * Stop everything; nothing of `c` is touched after cb. Proposals in flight
 * complete as unknown first. NULL c: cb is still called, at once.
 */
void consensus_close(struct consensus *c, consensus_close_fn cb, void *arg);

/*
 * Propose an entry of 1..CONSENSUS_ENTRY_BYTES_MAX bytes, copied. On a negative
 * return the entry was certainly not proposed and cb is never called:
 * -EAGAIN: not the leader (consensus_leader() says who may be);
 * -EBUSY: CONSENSUS_IN_FLIGHT_MAX reached, or leadership is being transferred;
 * -EMSGSIZE: too long; -ENOMEM; -ESHUTDOWN: failed or closing.
 */
int consensus_propose(struct consensus *c, const void *bytes, size_t len, struct consensus_propose_req *req,
                      consensus_propose_fn cb);

/* True from the moment all earlier commits are applied here, while we lead. */
bool consensus_is_leader(const struct consensus *c);

/* 0, or -EAGAIN while no leader is known. Address as in the config; lent until
 * close. Either out-parameter may be NULL. */
int consensus_leader(const struct consensus *c, uint64_t *ret_id, const char **ret_address);

/* The newest applied version; 0 before the first entry. */
uint64_t consensus_version(const struct consensus *c);

/* Raft's term: a voter's statement "my term is T and you lead it", made after
 * it heard from the leader at time t, is the quorum contact R9 asks for. */
uint64_t consensus_term(const struct consensus *c);

/*
 * Hand leadership to voter id, or to the best follower if 0. The outcome shows
 * in role_changed. -EAGAIN: not leader; -EBUSY: already transferring; -ENOENT:
 * nobody to transfer to, or no such voter.
 */
int consensus_transfer(struct consensus *c, uint64_t id);

/*
 * A hint that voter id, if it leads, is gone: some link to it ended by itself.
 * Others are asked within CONSENSUS_STAND_FIRST_MS (pre-vote: they refuse while
 * they hear from a leader), not after a whole election timeout. Never inside a
 * callback of the library.
 */
void consensus_leader_lost(struct consensus *c, uint64_t id);

struct consensus_stats {
    uint64_t appends;           /* log writes completed */
    uint64_t append_ms_max;     /* slowest of them */
    uint64_t append_pending_ms; /* age of the oldest one in flight */
    uint64_t meta_ms_max;       /* slowest term or vote write (blocks the loop) */
    uint64_t snapshots_taken;
    uint64_t snapshots_restored;
    uint64_t votes_withheld; /* while on probation after an empty start */
    unsigned in_flight;      /* proposals */
    bool on_probation;
};

void consensus_stats_get(const struct consensus *c, struct consensus_stats *ret);

/*
 * libraft's heap, for the whole process: an upper bound (rule 41). Call before
 * the first open; afterwards only the bound may change. An allocation above it
 * fails, which fails the request or the instance, never the process.
 */
void consensus_heap_set_max(size_t bytes_max);
size_t consensus_heap_used(void);

#endif
