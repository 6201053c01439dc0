/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Consensus over a raft_io that the test drives by hand: no loop, no socket, no
 * disk, no clock but a counter. Shows that the core runs on any raft_io, and
 * makes the interleavings that real ones hardly ever show.
 *
 * The happy path: a voter of three (we are 1) loads a log of two entries, the
 * second a command of an older term; ticks make it a candidate, two messages
 * a leader; log writes wait in `writes` until the test lets them finish.
 *
 * Failure modes covered: entries of older terms (C1), probation (C2), messages
 * after a failure (C3), cancelled writes at close (C4).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/control/consensus_ops.h"

#define WRITES_MAX 16u
#define SENT_MAX 256u

struct fake {
    struct raft_io io;
    struct consensus *c;
    raft_time now;
    raft_term term;
    raft_io_tick_cb tick;
    raft_io_recv_cb recv;
    raft_io_close_cb close_cb;
    bool with_old_entry; /* load() returns a command of term 1 at index 2 */
    unsigned writes_count, writes_done;
    struct raft_io_append *writes[WRITES_MAX];
    unsigned sent_count;
    unsigned short sent[SENT_MAX]; /* types */
    struct raft_message last_sent; /* its pointers are dead */
    raft_index told_commit[4];     /* to each voter, the newest */
    bool with_snapshot;            /* load() returns one of index 5, and nothing before it */
    raft_term failing_term;        /* set_term() fails from this one on */
    uint64_t applied;
    unsigned proposals_done;
    int proposal_rc;
    bool closed;
    unsigned released;
    bool closes_twice; /* then the test destroys what was released */
    size_t heap_used;  /* libraft's, at setup */
};

static int fake_init(struct raft_io *io, raft_id id, const char *address)
{
    (void)io;
    assert_int_equal(id, 1);
    assert_string_equal(address, "voter-1");
    return 0;
}

static void fake_close(struct raft_io *io, raft_io_close_cb cb)
{
    ((struct fake *)io->impl)->close_cb = cb;
}

/* Entries are given to libraft: one batch per load, here one each. */
static void load_entry(struct raft_entry *entry, unsigned short type, struct raft_buffer buf)
{
    entry->term = 1;
    entry->type = type;
    entry->buf = buf;
    entry->batch = buf.base;
}

/* Of version 3, after entries 1 (configuration) to 5, the last of term 1. */
static struct raft_snapshot *make_snapshot(void)
{
    const uint64_t frame[4] = {UINT64_C(0x3150414e53485341), 3, 0, 0}; /* consensus_fsm.c */
    struct raft_snapshot *snapshot = raft_calloc(1, sizeof(*snapshot));
    assert_non_null(snapshot);
    *snapshot = (struct raft_snapshot){.index = 5, .term = 1, .configuration_index = 1, .n_bufs = 1};
    raft_configuration_init(&snapshot->configuration);
    assert_int_equal(raft_configuration_add(&snapshot->configuration, 1, "voter-1", RAFT_VOTER), 0);
    assert_int_equal(raft_configuration_add(&snapshot->configuration, 2, "voter-2", RAFT_VOTER), 0);
    assert_int_equal(raft_configuration_add(&snapshot->configuration, 3, "voter-3", RAFT_VOTER), 0);
    snapshot->bufs = raft_malloc(sizeof(*snapshot->bufs));
    assert_non_null(snapshot->bufs);
    snapshot->bufs[0].base = raft_malloc(sizeof(frame));
    snapshot->bufs[0].len = sizeof(frame);
    assert_non_null(snapshot->bufs[0].base);
    memcpy(snapshot->bufs[0].base, frame, sizeof(frame));
    return snapshot;
}

static int fake_load(struct raft_io *io, raft_term *term, raft_id *voted_for, struct raft_snapshot **snapshot,
                     raft_index *start_index, struct raft_entry *entries[], size_t *n_entries)
{
    struct fake *fake = io->impl;
    struct raft_configuration conf;
    struct raft_buffer buf;
    *term = fake->term;
    *voted_for = 0;
    *snapshot = NULL;
    if (fake->with_snapshot) {
        *snapshot = make_snapshot();
        *start_index = 6;
        *entries = NULL;
        *n_entries = 0;
        return 0;
    }
    *start_index = 1;
    *n_entries = fake->with_old_entry ? 2 : 1;
    *entries = raft_calloc(*n_entries, sizeof(**entries));
    assert_non_null(*entries);
    raft_configuration_init(&conf);
    assert_int_equal(raft_configuration_add(&conf, 1, "voter-1", RAFT_VOTER), 0);
    assert_int_equal(raft_configuration_add(&conf, 2, "voter-2", RAFT_VOTER), 0);
    assert_int_equal(raft_configuration_add(&conf, 3, "voter-3", RAFT_VOTER), 0);
    assert_int_equal(raft_configuration_encode(&conf, &buf), 0);
    raft_configuration_close(&conf);
    load_entry(&(*entries)[0], RAFT_CHANGE, buf);
    if (fake->with_old_entry) {
        assert_int_equal(consensus_fsm_frame("old", 3, &buf), 0);
        load_entry(&(*entries)[1], RAFT_COMMAND, buf);
    }
    return 0;
}

static int fake_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick, raft_io_recv_cb recv)
{
    struct fake *fake = io->impl;
    assert_int_equal(msecs, CONSENSUS_HEARTBEAT_MS / 4);
    fake->tick = tick;
    fake->recv = recv;
    return 0;
}

static int fake_bootstrap(struct raft_io *io, const struct raft_configuration *conf)
{
    (void)io;
    assert_int_equal(conf->n, 3);
    return 0;
}

static int fake_set_term(struct raft_io *io, raft_term term)
{
    struct fake *fake = io->impl;
    if (fake->failing_term != 0 && term >= fake->failing_term)
        return RAFT_IOERR;
    fake->term = term;
    return 0;
}

static int fake_set_vote(struct raft_io *io, raft_id id)
{
    (void)io;
    (void)id;
    return 0;
}

static int fake_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *message,
                     raft_io_send_cb cb)
{
    struct fake *fake = io->impl;
    assert_true(fake->sent_count < SENT_MAX);
    fake->sent[fake->sent_count++] = message->type;
    fake->last_sent = *message;
    if (message->type == RAFT_IO_APPEND_ENTRIES)
        fake->told_commit[message->server_id] = message->append_entries.leader_commit;
    (void)req;
    (void)cb;
    return RAFT_NOCONNECTION; /* synchronous refusal: nothing to remember */
}

static int fake_append(struct raft_io *io, struct raft_io_append *req, const struct raft_entry entries[], unsigned n,
                       raft_io_append_cb cb)
{
    struct fake *fake = io->impl;
    (void)entries;
    assert_true(n > 0 && fake->writes_count < WRITES_MAX);
    req->cb = cb;
    fake->writes[fake->writes_count++] = req;
    return 0;
}

static raft_time fake_time(struct raft_io *io)
{
    return ((struct fake *)io->impl)->now;
}

static int fake_random(struct raft_io *io, int min, int max)
{
    (void)io;
    (void)max;
    return min;
}

static void on_apply(void *arg, uint64_t version, const void *entry, size_t len)
{
    struct fake *fake = arg;
    (void)entry;
    assert_true(len > 0);
    assert_int_equal(version, ++fake->applied);
}

static int on_snapshot(void *arg, void **ret_bytes, size_t *ret_len)
{
    (void)arg;
    (void)ret_bytes;
    (void)ret_len;
    return -EAGAIN;
}

static int on_restore(void *arg, const void *bytes, size_t len, uint64_t version)
{
    struct fake *fake = arg;
    (void)bytes;
    if (!fake->with_snapshot)
        return -EINVAL;
    assert_int_equal(len, 0);
    fake->applied = version;
    return 0;
}

static void on_released(void *arg, consensus_close_fn cb, void *cb_arg)
{
    struct fake *fake = arg;
    fake->released++;
    if (!fake->closes_twice)
        consensus_core_destroy(fake->c);
    cb(cb_arg);
}

static void on_closed(void *arg)
{
    ((struct fake *)arg)->closed = true;
}

static void fake_setup(struct fake *fake, bool with_old_entry)
{
    static const struct consensus_voter voters[] = {{1, "a:1"}, {2, "b:1"}, {3, "c:1"}};
    const struct consensus_config config = {.id = 1, .voters = voters, .voters_count = 3, .dir = ""};
    const struct consensus_callbacks callbacks = {
        .apply = on_apply, .snapshot = on_snapshot, .restore = on_restore, .arg = fake};
    memset(fake, 0, sizeof(*fake));
    fake->with_old_entry = with_old_entry;
    fake->term = 1;
    fake->heap_used = consensus_heap_used();
    fake->io = (struct raft_io){
        .version = 1,
        .impl = fake,
        .init = fake_init,
        .close = fake_close,
        .load = fake_load,
        .start = fake_start,
        .bootstrap = fake_bootstrap,
        .set_term = fake_set_term,
        .set_vote = fake_set_vote,
        .send = fake_send,
        .append = fake_append,
        .time = fake_time,
        .random = fake_random,
    };
    assert_int_equal(consensus_core_create(&config, &fake->io, &callbacks, &fake->c), 0);
    fake->c->backend = fake;
    fake->c->released = on_released;
}

static void fake_teardown(struct fake *fake)
{
    consensus_close(fake->c, on_closed, fake);
    assert_false(fake->closed);
    fake->tick(&fake->io); /* closes outside the library */
    assert_non_null(fake->close_cb);
    for (unsigned i = fake->writes_done; i < fake->writes_count; i++)
        fake->writes[i]->cb(fake->writes[i], RAFT_CANCELED); /* oldest first, as libuv */
    fake->close_cb(&fake->io);
    assert_true(fake->closed);
    if (fake->closes_twice) {
        fake->close_cb(&fake->io);
        consensus_core_destroy(fake->c);
    }
    assert_int_equal(fake->released, 1);
    assert_int_equal(consensus_heap_used(), fake->heap_used);
}

static void advance(struct fake *fake, unsigned ms)
{
    for (unsigned i = 0; i < ms; i += 15) {
        fake->now += 15;
        fake->tick(&fake->io);
    }
}

static void receive(struct fake *fake, struct raft_message message)
{
    message.server_id = 2;
    message.server_address = "voter-2";
    fake->recv(&fake->io, &message);
}

static void finish_write(struct fake *fake)
{
    assert_true(fake->writes_done < fake->writes_count);
    struct raft_io_append *req = fake->writes[fake->writes_done++];
    req->cb(req, 0);
}

static void become_leader(struct fake *fake)
{
    struct raft_message vote = {.type = RAFT_IO_REQUEST_VOTE_RESULT};
    advance(fake, 2 * CONSENSUS_ELECTION_TIMEOUT_MS);
    assert_int_equal(fake->c->raft.state, RAFT_CANDIDATE);
    vote.request_vote_result.term = fake->c->raft.current_term + 1;
    vote.request_vote_result.vote_granted = true;
    vote.request_vote_result.pre_vote = raft_tribool_true;
    receive(fake, vote);
    vote.request_vote_result.term = fake->c->raft.current_term;
    vote.request_vote_result.pre_vote = raft_tribool_false;
    receive(fake, vote);
    assert_int_equal(fake->c->raft.state, RAFT_LEADER);
    assert_false(consensus_is_leader(fake->c));
}

static void answer_append(struct fake *fake, raft_index last)
{
    struct raft_message message = {.type = RAFT_IO_APPEND_ENTRIES_RESULT};
    message.append_entries_result.term = fake->c->raft.current_term;
    message.append_entries_result.last_log_index = last;
    receive(fake, message);
}

/* Goal: (C1), Raft figure 8. Entry 2 is of an older term and on a majority; it
 * must not be committed before an entry of this term is. */
static void older_term_is_not_committed_by_count(void **state)
{
    struct fake fake;
    (void)state;
    fake_setup(&fake, true);
    assert_int_equal(consensus_core_start(fake.c), 0);
    become_leader(&fake);
    assert_int_equal(fake.writes_count, 1); /* the barrier, at index 3 */
    answer_append(&fake, 2);
    answer_append(&fake, 2);
    assert_int_equal(fake.applied, 0);
    assert_int_equal(fake.c->raft.commit_index, 1);
    finish_write(&fake);
    answer_append(&fake, 2);
    assert_int_equal(fake.applied, 0);
    assert_false(consensus_is_leader(fake.c));
    answer_append(&fake, 3);
    assert_int_equal(fake.applied, 1); /* along with the barrier */
    assert_true(consensus_is_leader(fake.c));
    fake_teardown(&fake);
}

static void on_proposed(struct consensus_propose_req *req, int rc, uint64_t version)
{
    struct fake *fake = req->data;
    (void)version;
    fake->proposals_done++;
    fake->proposal_rc = rc;
}

/* Goal: (C4). Three writes are cancelled at close, oldest first: each proposal
 * is unknown once, and the library's log is not cut twice at one place. */
static void cancelled_writes_at_close_are_survived(void **state)
{
    struct fake fake;
    struct consensus_propose_req reqs[3] = {{&fake}, {&fake}, {&fake}};
    (void)state;
    fake_setup(&fake, true);
    assert_int_equal(consensus_core_start(fake.c), 0);
    become_leader(&fake);
    finish_write(&fake);
    answer_append(&fake, 3);
    assert_true(consensus_is_leader(fake.c));
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(consensus_propose(fake.c, "new", 3, &reqs[i], on_proposed), 0);
    assert_int_equal(fake.proposals_done, 0);
    fake_teardown(&fake);
    assert_int_equal(fake.proposals_done, 3);
    assert_int_equal(fake.proposal_rc, -EINPROGRESS);
    assert_int_equal(fake.applied, 1);
}

/* Goal: followers hear of a commit, and are asked again once clamped answers count, without a heartbeat's delay. */
static void commits_are_told_at_once(void **state)
{
    struct fake fake;
    (void)state;
    fake_setup(&fake, true);
    assert_int_equal(consensus_core_start(fake.c), 0);
    become_leader(&fake);
    answer_append(&fake, 3); /* (C1) clamped: our own write of the barrier has not ended */
    unsigned sent = fake.sent_count;
    finish_write(&fake);
    assert_int_equal(fake.sent_count, sent + 2); /* both voters are asked again */
    answer_append(&fake, 3);
    assert_true(consensus_is_leader(fake.c));
    assert_int_equal(fake.told_commit[2], 3);
    fake_teardown(&fake);
}

/* Goal: libraft's libuv backend may call back a second time when it is closed (github.com/cowsql/raft, pull request 45). */
static void a_second_close_callback_is_ignored(void **state)
{
    struct fake fake;
    struct consensus_propose_req req = {&fake};
    (void)state;
    fake_setup(&fake, true);
    fake.closes_twice = true;
    assert_int_equal(consensus_core_start(fake.c), 0);
    become_leader(&fake);
    finish_write(&fake);
    answer_append(&fake, 3);
    assert_int_equal(consensus_propose(fake.c, "new", 3, &req, on_proposed), 0);
    fake_teardown(&fake);
    assert_int_equal(fake.proposals_done, 1);
}

/* A message as the backend delivers it: the entries are given to the receiver. */
static struct raft_message append_message(raft_term term, raft_index prev, unsigned n)
{
    struct raft_message message = {.type = RAFT_IO_APPEND_ENTRIES};
    struct raft_append_entries *args = &message.append_entries;
    args->term = term;
    args->prev_log_index = prev;
    args->prev_log_term = 1;
    args->n_entries = n;
    if (n == 0)
        return message;
    args->entries = raft_calloc(n, sizeof(*args->entries));
    char *batch = raft_calloc(n, 16);
    for (unsigned i = 0; i < n; i++) {
        args->entries[i].term = term;
        args->entries[i].type = RAFT_BARRIER;
        args->entries[i].buf = (struct raft_buffer){batch + 16 * i, 8};
        args->entries[i].batch = batch;
    }
    return message;
}

/* Goal: (C3). After a failed write a follower takes nothing more in, sends
 * nothing more out, and loses no memory over the messages it drops. */
static void nothing_passes_after_a_failure(void **state)
{
    struct fake fake;
    (void)state;
    fake_setup(&fake, true);
    assert_int_equal(consensus_core_start(fake.c), 0);
    receive(&fake, append_message(2, 2, 3));
    assert_int_equal(fake.writes_count, 1);
    struct raft_io_append *req = fake.writes[fake.writes_done++];
    req->cb(req, RAFT_IOERR);
    assert_int_equal(fake.c->failed_rc, -EIO);
    unsigned sent = fake.sent_count;
    receive(&fake, append_message(2, 5, 4));
    receive(&fake, append_message(3, 0, 0));
    advance(&fake, 10 * CONSENSUS_ELECTION_TIMEOUT_MS);
    assert_int_equal(fake.sent_count, sent);
    assert_int_equal(fake.writes_count, 1);
    assert_int_equal(fake.c->raft.current_term, 2);
    fake_teardown(&fake);
}

static void ask_for_vote(struct fake *fake, raft_index last)
{
    struct raft_message message = {.type = RAFT_IO_REQUEST_VOTE};
    message.request_vote.term = 5;
    message.request_vote.candidate_id = 2;
    message.request_vote.last_log_index = last;
    message.request_vote.last_log_term = 1;
    message.request_vote.disrupt_leader = true;
    receive(fake, message);
}

static bool has_sent(const struct fake *fake, unsigned short type)
{
    for (unsigned i = 0; i < fake->sent_count; i++)
        if (fake->sent[i] == type)
            return true;
    return false;
}

/* Goal: (C2) in single steps: a voter bootstrapped just now votes among equals,
 * not for a log it may once have known more of, until a leader filled it. */
static void probation_step_by_step(void **state)
{
    struct fake fake;
    (void)state;
    fake_setup(&fake, false);
    assert_int_equal(consensus_core_bootstrap(fake.c), 0);
    assert_int_equal(consensus_core_start(fake.c), 0);
    ask_for_vote(&fake, 7);
    assert_false(has_sent(&fake, RAFT_IO_REQUEST_VOTE_RESULT));
    assert_int_equal(fake.c->raft.current_term, 1);
    /* A leader of term 5 with 7 entries shows up; the log is 4 long now. */
    receive(&fake, append_message(5, 7, 0));
    assert_int_equal(fake.c->probation_target, 7);
    receive(&fake, append_message(5, 1, 3));
    finish_write(&fake);
    assert_int_equal(fake.c->raft.last_stored, 4);
    fake.sent_count = 0;
    advance(&fake, 10 * CONSENSUS_ELECTION_TIMEOUT_MS); /* it may not stand, too */
    assert_false(has_sent(&fake, RAFT_IO_REQUEST_VOTE));
    assert_true(fake.c->stats.votes_withheld > 1);
    assert_true(fake.c->probation);
    struct raft_message rest = append_message(5, 4, 3);
    rest.append_entries.prev_log_term = 5;
    receive(&fake, rest);
    finish_write(&fake);
    assert_int_equal(fake.c->raft.last_stored, 7);
    assert_false(fake.c->probation);
    fake_teardown(&fake);
}

/* Goal: (C7). Entry 2 is an uncommitted one of an older leader. A heartbeat that speaks of entry 1 compares nothing else. */
static void heartbeat_acknowledges_only_what_it_compared(void **state)
{
    struct fake fake;
    (void)state;
    fake_setup(&fake, true);
    assert_int_equal(consensus_core_start(fake.c), 0);
    receive(&fake, append_message(2, 1, 0));
    assert_int_equal(fake.last_sent.type, RAFT_IO_APPEND_ENTRIES_RESULT);
    assert_int_equal(fake.last_sent.append_entries_result.rejected, 0);
    assert_int_equal(fake.last_sent.append_entries_result.last_log_index, 1);
    receive(&fake, append_message(2, 2, 0)); /* this one names it, and its term */
    assert_int_equal(fake.last_sent.append_entries_result.last_log_index, 2);
    receive(&fake, append_message(3, 1, 0)); /* a new leader, a new comparison */
    assert_int_equal(fake.last_sent.append_entries_result.last_log_index, 1);
    fake_teardown(&fake);
}

/* Goal: the end of a link to the leader makes a voter ask the others soon, and depose nobody: the leader's next heartbeat, of
 * the same term, ends it. That of a link to anybody else means nothing. */
static void lost_leader_is_a_hint(void **state)
{
    struct fake fake;
    (void)state;
    fake_setup(&fake, true);
    assert_int_equal(consensus_core_start(fake.c), 0);
    receive(&fake, append_message(2, 1, 0));
    fake.sent_count = 0;
    fake.now += 10000; /* an uptime */
    receive(&fake, append_message(2, 1, 0));
    fake.sent_count = 0;
    consensus_leader_lost(fake.c, 3);
    advance(&fake, CONSENSUS_STAND_FIRST_MS + 30);
    assert_false(has_sent(&fake, RAFT_IO_REQUEST_VOTE));
    assert_int_equal(consensus_leader(fake.c, NULL, NULL), 0);
    consensus_leader_lost(fake.c, 2);
    assert_int_equal(consensus_leader(fake.c, NULL, NULL), -EAGAIN);
    consensus_leader_lost(fake.c, 2); /* twice: nothing */
    advance(&fake, CONSENSUS_STAND_FIRST_MS + 30);
    assert_true(has_sent(&fake, RAFT_IO_REQUEST_VOTE));
    assert_int_equal(fake.c->raft.current_term, 2); /* only asked */
    receive(&fake, append_message(2, 1, 0));
    assert_int_equal(fake.c->raft.state, RAFT_FOLLOWER);
    assert_int_equal(consensus_leader(fake.c, NULL, NULL), 0);
    fake_teardown(&fake);
}

/* Goal: (C6). Our log begins at 6. A leader that starts again at entry 1 sends 1 to 4, then 1 to 7: only 6 and 7 are new. */
static void entries_below_the_snapshot_are_skipped(void **state)
{
    struct fake fake;
    (void)state;
    fake_setup(&fake, false);
    fake.with_snapshot = true;
    assert_int_equal(consensus_core_start(fake.c), 0);
    assert_int_equal(fake.applied, 3);
    assert_int_equal(raft_last_index(&fake.c->raft), 5);
    struct raft_message message = append_message(2, 0, 4);
    message.append_entries.prev_log_term = 0;
    receive(&fake, message);
    assert_int_equal(raft_last_index(&fake.c->raft), 5);
    assert_int_equal(fake.writes_count, 0);
    assert_int_equal(fake.last_sent.append_entries_result.rejected, 0);
    assert_int_equal(fake.last_sent.append_entries_result.last_log_index, 5);
    message = append_message(2, 0, 7);
    message.append_entries.prev_log_term = 0;
    receive(&fake, message);
    assert_int_equal(raft_last_index(&fake.c->raft), 7);
    assert_int_equal(fake.writes_count, 1);
    finish_write(&fake);
    assert_int_equal(fake.last_sent.append_entries_result.last_log_index, 7);
    fake_teardown(&fake);
}

/* Goal: a refused pre-vote of an older term says what our term is. */
static void refused_pre_vote_tells_the_term(void **state)
{
    struct fake fake;
    struct raft_message message = {.type = RAFT_IO_REQUEST_VOTE};
    (void)state;
    fake_setup(&fake, true);
    assert_int_equal(consensus_core_start(fake.c), 0);
    receive(&fake, append_message(9, 1, 0));
    advance(&fake, 3 * CONSENSUS_ELECTION_TIMEOUT_MS); /* that leader is forgotten */
    message.request_vote.term = 6;
    message.request_vote.candidate_id = 2;
    message.request_vote.last_log_index = 7;
    message.request_vote.last_log_term = 1;
    message.request_vote.pre_vote = true;
    receive(&fake, message);
    assert_int_equal(fake.last_sent.type, RAFT_IO_REQUEST_VOTE_RESULT);
    assert_false(fake.last_sent.request_vote_result.vote_granted);
    assert_int_equal(fake.last_sent.request_vote_result.term, 9);
    fake_teardown(&fake);
}

/* Goal: a log write that ends when the leader is forgotten is answered to nobody. */
static void answer_to_nobody_is_not_sent(void **state)
{
    struct fake fake;
    (void)state;
    fake_setup(&fake, true);
    assert_int_equal(consensus_core_start(fake.c), 0);
    receive(&fake, append_message(2, 2, 1));
    advance(&fake, 3 * CONSENSUS_ELECTION_TIMEOUT_MS);
    assert_int_equal(fake.c->raft.state, RAFT_CANDIDATE);
    struct raft_message message = {
        .type = RAFT_IO_REQUEST_VOTE}; /* somebody else stands: a follower again, without a leader */
    message.request_vote.term = 3;
    message.request_vote.candidate_id = 2;
    message.request_vote.last_log_index = 1;
    message.request_vote.last_log_term = 1;
    receive(&fake, message);
    assert_int_equal(fake.c->raft.state, RAFT_FOLLOWER);
    unsigned sent = fake.sent_count;
    finish_write(&fake);
    for (unsigned i = sent; i < fake.sent_count; i++)
        assert_int_not_equal(fake.sent[i], RAFT_IO_APPEND_ENTRIES_RESULT);
    fake_teardown(&fake);
}

/* Goal: (C3). A voter that is told to stand and cannot write its term dies in order, and writes no vote. */
static void failed_term_write_of_a_candidate_is_survived(void **state)
{
    struct fake fake;
    struct raft_message message = {.type = RAFT_IO_TIMEOUT_NOW};
    (void)state;
    fake_setup(&fake, true);
    assert_int_equal(consensus_core_start(fake.c), 0);
    receive(&fake, append_message(2, 2, 0));
    fake.failing_term = 3;
    message.timeout_now.term = 2;
    message.timeout_now.last_log_index = 2;
    message.timeout_now.last_log_term = 1;
    unsigned sent = fake.sent_count;
    receive(&fake, message);
    assert_int_equal(fake.c->failed_rc, -EIO);
    assert_int_equal(fake.term, 2);
    advance(&fake, 3 * CONSENSUS_ELECTION_TIMEOUT_MS);
    assert_int_equal(fake.sent_count, sent);
    fake_teardown(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(older_term_is_not_committed_by_count),
        cmocka_unit_test(commits_are_told_at_once),
        cmocka_unit_test(a_second_close_callback_is_ignored),
        cmocka_unit_test(cancelled_writes_at_close_are_survived),
        cmocka_unit_test(nothing_passes_after_a_failure),
        cmocka_unit_test(probation_step_by_step),
        cmocka_unit_test(heartbeat_acknowledges_only_what_it_compared),
        cmocka_unit_test(lost_leader_is_a_hint),
        cmocka_unit_test(entries_below_the_snapshot_are_skipped),
        cmocka_unit_test(refused_pre_vote_tells_the_term),
        cmocka_unit_test(answer_to_nobody_is_not_sent),
        cmocka_unit_test(failed_term_write_of_a_candidate_is_survived),
    };
    return cmocka_run_group_tests_name("consensus_io", tests, NULL, NULL);
}
