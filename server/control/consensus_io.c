/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raft_io between libraft and its backend: passes every call through and
 * repairs, on the way, what libraft 0.15 gets wrong.
 *
 * The happy path of a log write:
 *  - outer_append() wraps the request in an append_hook and submits it below.
 *  - append_done() passes success up, measures, and settles (roles, proposals).
 *
 * Failure modes, and what is done about them:
 *  - A log write fails. libraft would cut the entry from the log in memory
 *    although followers may have stored it, and write another one at the same
 *    index and term; with two writes failing it cuts twice and runs off the
 *    array. So: never passed up while running; the instance fails (C3). At close
 *    the hooks are passed up as if they had succeeded: libraft, which is unavailable by then, believes nothing of
 *    it and cuts nothing; it only drops its references. (Cutting for entries that a later leader's have replaced runs off, too.)
 *  - A backend refuses a write at once, having queued it: same treatment, since
 *    the request now belongs to the hook and not to libraft's stack of errors.
 *  - Term or vote cannot be written, the log cannot be truncated, an installed
 *    snapshot cannot be stored: the instance fails. Of term and vote libraft is not even told: a follower that is asked to
 *    stand (raft_transfer) and cannot write its term goes back to a state whose leader's address is the number 1.
 *  - Storing our own snapshot fails: harmless, libraft tries again.
 *  - Old-term entries must not be committed by counting replicas (C1): until our
 *    barrier is durable here, followers' matches are clamped below last_stored.
 *  - Probation (C2): RequestVote is dropped in both directions.
 *  - A leader that lost a connection starts again behind what it knows of us, perhaps before our snapshot. libraft takes
 *    entries that it has dropped since for new ones and appends them at the end of its log: they are skipped here (C6).
 *  - Two voters, one with the longer log and one with the newer term, refuse each other's pre-votes for ever, since neither
 *    learns the other's term from that. A refusal tells it.
 *  - A follower whose log write ends after it lost its leader answers it all the same: to nobody. Dropped here.
 *  - A follower of libraft answers every heartbeat with the end of its log, though only what the leader sent was compared:
 *    the uncommitted tail of a former leader would count as a copy of other entries. Answers are clamped to what was (C7).
 *  - libraft's libuv backend may say that it is closed twice: once more when the files of the last segment are. Only the first counts.
 */
#include "server/control/consensus_ops.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define TICK_MS_MIN 5u
#define SLOW_WRITE_MS 1000u

struct append_hook {
    struct raft_io_append inner;
    struct raft_io_append *outer;
    raft_io_append_cb cb;
    struct consensus *c;
    raft_time begun;
    struct consensus_link link; /* in c->appends, oldest first */
};

static struct consensus *of_outer(struct raft_io *io)
{
    assert(io != NULL);
    assert(io->impl != NULL);
    return io->impl;
}

static struct consensus *of_inner(struct raft_io *io)
{
    assert(io != NULL);
    assert(io->data != NULL);
    return io->data;
}

static raft_time now_ms(struct consensus *c)
{
    assert(c->inner != NULL);
    return c->inner->time(c->inner);
}

/* The library reads the reason of an error from the outer raft_io. */
static int pass_error(struct consensus *c, int raft_rc)
{
    _Static_assert(sizeof(c->outer.errmsg) == sizeof(c->inner->errmsg), "same type");
    if (raft_rc != 0)
        for (size_t i = 0; i < sizeof(c->outer.errmsg); i++)
            c->outer.errmsg[i] = c->inner->errmsg[i];
    assert(c->outer.errmsg[sizeof(c->outer.errmsg) - 1] == '\0');
    return raft_rc;
}

static int outer_init(struct raft_io *io, raft_id id, const char *address)
{
    struct consensus *c = of_outer(io);
    assert(id == c->id);
    return pass_error(c, c->inner->init(c->inner, id, address));
}

static int outer_load(struct raft_io *io, raft_term *term, raft_id *voted_for, struct raft_snapshot **snapshot,
                      raft_index *start_index, struct raft_entry *entries[], size_t *n_entries)
{
    struct consensus *c = of_outer(io);
    assert(!c->started);
    return pass_error(c, c->inner->load(c->inner, term, voted_for, snapshot, start_index, entries, n_entries));
}

static int outer_bootstrap(struct raft_io *io, const struct raft_configuration *conf)
{
    struct consensus *c = of_outer(io);
    assert(conf->n == c->peers_count);
    return pass_error(c, c->inner->bootstrap(c->inner, conf));
}

static int outer_recover(struct raft_io *io, const struct raft_configuration *conf)
{
    struct consensus *c = of_outer(io);
    assert(conf->n == c->peers_count);
    return pass_error(c, c->inner->recover(c->inner, conf));
}

/* Term and vote are written on this thread: note how long it stood still. */
static int meta_written(struct consensus *c, uint64_t begun, int raft_rc, const char *what)
{
    uint64_t took = c->clock_ms == NULL ? 0 : c->clock_ms(c->backend) - begun;
    if (took > c->stats.meta_ms_max)
        c->stats.meta_ms_max = took;
    if (took >= SLOW_WRITE_MS)
        consensus_log(c, CONSENSUS_LOG_WARN, "%s took %llu ms, on the loop's own thread", what,
                      (unsigned long long)took);
    if (raft_rc != 0) {
        (void)pass_error(c, raft_rc);
        consensus_fail(c, consensus_errno(raft_rc), what);
    }
    assert(raft_rc == 0 || c->failed_rc != 0);
    return 0; /* (C3) of a dead instance nothing is sent, and the library's own way out frees what it has not allocated */
}

static uint64_t meta_begin(const struct consensus *c)
{
    assert(c->backend != NULL || c->clock_ms == NULL);
    return c->clock_ms == NULL ? 0 : c->clock_ms(c->backend);
}

static int outer_set_term(struct raft_io *io, raft_term term)
{
    struct consensus *c = of_outer(io);
    uint64_t begun = meta_begin(c);
    assert(term >= c->raft.current_term);
    if (c->failed_rc != 0) /* (C3) nothing behind a failed write: a vote without its term would be worse than none */
        return 0;
    return meta_written(c, begun, c->inner->set_term(c->inner, term), "writing the term");
}

static int outer_set_vote(struct raft_io *io, raft_id id)
{
    struct consensus *c = of_outer(io);
    uint64_t begun = meta_begin(c);
    assert(id == 0 || consensus_peer_find(c, id) != NULL);
    if (c->failed_rc != 0)
        return 0;
    return meta_written(c, begun, c->inner->set_vote(c->inner, id), "writing the vote");
}

/* (C2) A log beyond the bootstrap entry, but not yet all we may have promised. */
static bool may_stand(const struct consensus *c)
{
    assert(c->started);
    return !c->probation || raft_last_index((struct raft *)&c->raft) <= 1;
}

/* (C7) How much of our log is known to be the current leader's. */
static raft_index matched_index(const struct consensus *c)
{
    raft_index matched = c->matched_term == c->raft.current_term ? c->matched_index : 0;
    assert(c->raft.commit_index >= c->raft.last_applied);
    return matched > c->raft.commit_index ? matched : c->raft.commit_index;
}

static int send_append_result(struct consensus *c, struct raft_io_send *req, const struct raft_message *message,
                              raft_io_send_cb cb)
{
    struct raft_message copy = *message;
    raft_index matched = matched_index(c);
    assert(message->type == RAFT_IO_APPEND_ENTRIES_RESULT);
    if (copy.append_entries_result.rejected > 0)
        c->rejecting = true;
    else if (copy.append_entries_result.last_log_index > matched)
        copy.append_entries_result.last_log_index = matched;
    return pass_error(c, c->inner->send(c->inner, req, &copy, cb));
}

/* A refused pre-vote of an older term is answered with that term: with ours, the candidate learns how far behind it is. */
static int send_vote_result(struct consensus *c, struct raft_io_send *req, const struct raft_message *message,
                            raft_io_send_cb cb)
{
    struct raft_message copy = *message;
    assert(message->type == RAFT_IO_REQUEST_VOTE_RESULT);
    if (!copy.request_vote_result.vote_granted && copy.request_vote_result.term < c->raft.current_term)
        copy.request_vote_result.term = c->raft.current_term;
    return pass_error(c, c->inner->send(c->inner, req, &copy, cb));
}

static int outer_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *message,
                      raft_io_send_cb cb)
{
    struct consensus *c = of_outer(io);
    assert(message->server_id != c->id);
    if (c->failed_rc != 0) /* (C3) */
        return RAFT_NOCONNECTION;
    if (consensus_peer_find(c, message->server_id) ==
        NULL) /* id 0, address NULL: the leader is gone, see the head comment */
        return RAFT_NOCONNECTION;
    if (message->type == RAFT_IO_REQUEST_VOTE && !may_stand(c)) {
        c->stats.votes_withheld++;
        return RAFT_NOCONNECTION;
    }
    if (message->type == RAFT_IO_APPEND_ENTRIES_RESULT)
        return send_append_result(c, req, message, cb);
    if (message->type == RAFT_IO_REQUEST_VOTE_RESULT)
        return send_vote_result(c, req, message, cb);
    return pass_error(c, c->inner->send(c->inner, req, message, cb));
}

static void append_done(struct raft_io_append *req, int status)
{
    struct append_hook *hook = req->data;
    struct consensus *c = hook->c;
    uint64_t took = (uint64_t)(now_ms(c) - hook->begun);
    c->stats.appends++;
    if (took > c->stats.append_ms_max)
        c->stats.append_ms_max = took;
    if (took >= SLOW_WRITE_MS)
        consensus_log(c, CONSENSUS_LOG_WARN, "a log write took %llu ms", (unsigned long long)took);
    if (status != 0 && !c->closing)
        consensus_fail(c, consensus_errno(status), "log write");
    /* Kept until close: see the head comment. */
    if (status != 0 || c->failed_rc != 0 || c->close_submitted)
        return;
    struct raft_io_append *outer = hook->outer;
    raft_io_append_cb cb = hook->cb;
    consensus_link_remove(&hook->link);
    raft_free(hook);
    assert(c->raft.state != RAFT_UNAVAILABLE || c->closing);
    cb(outer, 0);
    consensus_core_settle(c);
}

static int outer_append(struct raft_io *io, struct raft_io_append *req, const struct raft_entry entries[], unsigned n,
                        raft_io_append_cb cb)
{
    struct consensus *c = of_outer(io);
    assert(n > 0);
    struct append_hook *hook = raft_calloc(1, sizeof(*hook));
    if (hook == NULL)
        return RAFT_NOMEM;
    hook->outer = req;
    hook->cb = cb;
    hook->c = c;
    hook->begun = now_ms(c);
    hook->inner.data = hook;
    req->cb = cb;
    consensus_link_push(&c->appends, &hook->link);
    if (c->failed_rc != 0) /* (C3) stays in the list until close */
        return 0;
    int raft_rc = c->inner->append(c->inner, &hook->inner, entries, n, append_done);
    if (raft_rc != 0) {
        pass_error(c, raft_rc);
        consensus_fail(c, consensus_errno(raft_rc), "submitting a log write");
    }
    return 0;
}

static int outer_truncate(struct raft_io *io, raft_index index)
{
    struct consensus *c = of_outer(io);
    assert(index > 0);
    if (c->failed_rc != 0)
        return 0;
    int raft_rc = c->inner->truncate(c->inner, index);
    if (raft_rc != 0)
        consensus_fail(c, consensus_errno(raft_rc), "truncating the log");
    return pass_error(c, raft_rc);
}

static void put_done(struct raft_io_snapshot_put *put, int status)
{
    struct consensus *c =
        (struct consensus *)((char *)put - offsetof(struct consensus, raft) - offsetof(struct raft, snapshot.put));
    raft_io_snapshot_put_cb cb = c->put_cb;
    assert(cb != NULL);
    c->put_cb = NULL;
    if (status == 0)
        c->stats.snapshots_taken++;
    else if (!c->closing)
        consensus_log(c, CONSENSUS_LOG_WARN, "storing a snapshot: %s", raft_strerror(status));
    /* An installed snapshot has replaced the log in memory already. */
    if (status != 0 && c->put_installs && !c->closing)
        consensus_fail(c, consensus_errno(status), "storing a leader's snapshot");
    cb(put, status);
    if (!c->close_submitted)
        consensus_core_settle(c);
}

static int outer_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                              const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct consensus *c = of_outer(io);
    assert(c->put_cb == NULL);
    assert(req == &c->raft.snapshot.put);
    c->put_cb = cb;
    c->put_installs = trailing == 0;
    int raft_rc = c->inner->snapshot_put(c->inner, trailing, req, snapshot, put_done);
    if (raft_rc == 0)
        return 0;
    c->put_cb = NULL;
    if (c->put_installs)
        consensus_fail(c, consensus_errno(raft_rc), "storing a leader's snapshot");
    return pass_error(c, raft_rc);
}

static int outer_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req, raft_io_snapshot_get_cb cb)
{
    struct consensus *c = of_outer(io);
    assert(cb != NULL);
    return pass_error(c, c->inner->snapshot_get(c->inner, req, cb));
}

static raft_time outer_time(struct raft_io *io)
{
    return now_ms(of_outer(io));
}

static int outer_random(struct raft_io *io, int min, int max)
{
    struct consensus *c = of_outer(io);
    assert(min <= max);
    return c->inner->random(c->inner, min, max);
}

static int outer_async_work(struct raft_io *io, struct raft_io_async_work *req, raft_io_async_work_cb cb)
{
    struct consensus *c = of_outer(io);
    assert(c->inner->version >= 2);
    return pass_error(c, c->inner->async_work(c->inner, req, cb));
}

static void tick_hook(struct raft_io *inner)
{
    struct consensus *c = of_inner(inner);
    assert(c->raft_tick != NULL);
    if (!c->started || consensus_core_tick(c))
        return;
    c->raft_tick(&c->outer);
    consensus_core_settle(c);
}

static void free_batches(const struct raft_entry *entries, unsigned n, const void *kept)
{
    assert(entries != NULL);
    for (unsigned i = 0; i < n; i++)
        if (entries[i].batch != kept && (i == 0 || entries[i].batch != entries[i - 1].batch))
            raft_free(entries[i].batch);
}

/* A message that the library will not see: it would have freed these. */
static void drop_message(struct raft_message *message)
{
    assert(message != NULL);
    if (message->type == RAFT_IO_INSTALL_SNAPSHOT) {
        raft_configuration_close(&message->install_snapshot.conf);
        raft_free(message->install_snapshot.data.base);
    }
    if (message->type != RAFT_IO_APPEND_ENTRIES || message->append_entries.n_entries == 0)
        return;
    free_batches(message->append_entries.entries, message->append_entries.n_entries, /* kept= */ NULL);
    raft_free(message->append_entries.entries);
}

/* (C1) libraft commits last_stored if a majority matches it, whatever its term.
 * Below last_stored no match can do that, and claiming less is always safe. */
static void clamp_match(const struct consensus *c, struct raft_append_entries_result *result)
{
    assert(c->raft.state == RAFT_LEADER);
    bool own_term_durable =
        c->barrier_submitted && c->leader_term == c->raft.current_term && c->raft.last_stored >= c->barrier_index;
    if (own_term_durable || result->rejected > 0 || c->raft.last_stored == 0)
        return;
    if (result->last_log_index >= c->raft.last_stored)
        result->last_log_index = c->raft.last_stored - 1;
    assert(result->last_log_index < c->raft.last_stored);
}

/* (C6) Everything up to our snapshot is committed, so any leader has it, too: what comes before it needs no look. */
static void skip_compacted(const struct consensus *c, struct raft_append_entries *args)
{
    raft_index base = c->raft.log.snapshot.last_index;
    if (args->term < c->raft.current_term || args->prev_log_index >= base)
        return;
    raft_index behind = base - args->prev_log_index;
    unsigned skip = behind < args->n_entries ? (unsigned)behind : args->n_entries;
    args->prev_log_index = base;
    args->prev_log_term = c->raft.log.snapshot.last_term;
    if (args->n_entries == 0)
        return;
    assert(skip > 0 && args->entries != NULL);
    free_batches(args->entries, skip, /* kept= */ skip < args->n_entries ? args->entries[skip].batch : NULL);
    args->n_entries -= skip;
    memmove(args->entries, args->entries + skip, args->n_entries * sizeof(args->entries[0]));
    if (args->n_entries == 0) { /* the library frees nothing of a heartbeat */
        raft_free(args->entries);
        args->entries = NULL;
    }
}

/* (C2) How long the log of a live leader is. */
static void note_leader_log(struct consensus *c, const struct raft_append_entries *args)
{
    assert(c->probation);
    if (args->term < c->raft.current_term)
        return;
    raft_index last = args->prev_log_index + args->n_entries;
    last = args->leader_commit > last ? args->leader_commit : last;
    if (last > c->probation_target)
        c->probation_target = last;
}

/* (C7) The library answers from inside; a refusal takes the claim back. */
static void recv_from_leader(struct consensus *c, struct raft_message *message)
{
    bool append = message->type == RAFT_IO_APPEND_ENTRIES;
    raft_term term = append ? message->append_entries.term : message->install_snapshot.term;
    raft_index last = append ? message->append_entries.prev_log_index + message->append_entries.n_entries
                             : message->install_snapshot.last_index;
    raft_term old_term = c->matched_term;
    raft_index old_index = c->matched_index;
    assert(append || message->type == RAFT_IO_INSTALL_SNAPSHOT);
    if (term >= c->raft.current_term) {
        c->matched_index = term == old_term && old_index > last ? old_index : last;
        c->matched_term = term;
    }
    c->rejecting = false;
    c->raft_recv(&c->outer, message);
    if (c->rejecting || c->raft.current_term != term) {
        c->matched_index = old_index;
        c->matched_term = old_term;
    } else if (c->matched_index > raft_last_index(&c->raft)) { /* dropped: a snapshot is being stored */
        c->matched_index = raft_last_index(&c->raft);
    }
}

static void recv_hook(struct raft_io *inner, struct raft_message *message)
{
    struct consensus *c = of_inner(inner);
    assert(c->raft_recv != NULL);
    if (!c->started || c->failed_rc != 0 || c->close_submitted) { /* (C3) */
        drop_message(message);
        return;
    }
    if (message->type == RAFT_IO_REQUEST_VOTE && c->probation && message->request_vote.last_log_index > 1) {
        c->stats.votes_withheld++;
        drop_message(message);
        return;
    }
    if (message->type == RAFT_IO_APPEND_ENTRIES && c->probation)
        note_leader_log(c, &message->append_entries);
    if (message->type == RAFT_IO_APPEND_ENTRIES)
        skip_compacted(c, &message->append_entries);
    if (message->type == RAFT_IO_APPEND_ENTRIES_RESULT && c->raft.state == RAFT_LEADER)
        clamp_match(c, &message->append_entries_result);
    if (message->type == RAFT_IO_APPEND_ENTRIES || message->type == RAFT_IO_INSTALL_SNAPSHOT)
        recv_from_leader(c, message);
    else
        c->raft_recv(&c->outer, message);
    consensus_core_settle(c);
}

static int outer_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick, raft_io_recv_cb recv)
{
    struct consensus *c = of_outer(io);
    assert(msecs == c->heartbeat_ms);
    c->raft_tick = tick;
    c->raft_recv = recv;
    /* libraft ticks once a heartbeat, so election timers expire in such coarse
     * steps that candidates collide. Heartbeats are sent by age, not by tick. */
    unsigned period = msecs / 4 > TICK_MS_MIN ? msecs / 4 : TICK_MS_MIN;
    return pass_error(c, c->inner->start(c->inner, period, tick_hook, recv_hook));
}

void consensus_io_abandon(struct consensus *c)
{
    assert(c->close_submitted);
    assert(c->raft.state == RAFT_UNAVAILABLE);
    while (!consensus_link_empty(&c->appends)) {
        struct consensus_link *oldest = c->appends.next;
        struct append_hook *hook = (struct append_hook *)((char *)oldest - offsetof(struct append_hook, link));
        struct raft_io_append *outer = hook->outer;
        raft_io_append_cb cb = hook->cb;
        assert(hook->c == c);
        consensus_link_remove(oldest);
        raft_free(hook);
        cb(outer, /* status= */ 0);
    }
}

static void close_hook(struct raft_io *inner)
{
    struct consensus *c = of_inner(inner);
    raft_io_close_cb cb = c->raft_io_closed;
    assert(c->close_submitted);
    if (c->io_closed) /* see the head comment */
        return;
    c->io_closed = true;
    consensus_io_abandon(c);
    cb(&c->outer);
}

static void outer_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct consensus *c = of_outer(io);
    assert(c->raft_io_closed == NULL);
    c->raft_io_closed = cb;
    c->inner->close(c->inner, close_hook);
}

void consensus_io_wire(struct consensus *c, struct raft_io *inner)
{
    assert(inner->version >= 1);
    c->inner = inner;
    inner->data = c;
    c->outer = (struct raft_io){
        .version = inner->version,
        .impl = c,
        .init = outer_init,
        .close = outer_close,
        .load = outer_load,
        .start = outer_start,
        .bootstrap = outer_bootstrap,
        .recover = outer_recover,
        .set_term = outer_set_term,
        .set_vote = outer_set_vote,
        .send = outer_send,
        .append = outer_append,
        .truncate = outer_truncate,
        .snapshot_put = outer_snapshot_put,
        .snapshot_get = outer_snapshot_get,
        .time = outer_time,
        .random = outer_random,
        .async_work = outer_async_work,
    };
    assert(c->outer.data == NULL); /* libraft's own */
}

void consensus_stats_get(const struct consensus *c, struct consensus_stats *ret)
{
    assert(c != NULL);
    *ret = c->stats;
    ret->in_flight = c->in_flight;
    ret->on_probation = c->probation;
    ret->append_pending_ms = 0;
    if (!consensus_link_empty(&c->appends)) {
        const struct append_hook *oldest =
            (const struct append_hook *)((const char *)c->appends.next - offsetof(struct append_hook, link));
        assert(oldest->c == c);
        ret->append_pending_ms = (uint64_t)(c->inner->time(c->inner) - oldest->begun);
    }
}
