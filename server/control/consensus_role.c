/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who leads, and whether we may say so.
 *
 * The happy path of becoming leader:
 *  - The library wins an election. consensus_role_update() runs right after that
 *    event and submits a barrier: the first entry of our term. libraft 0.15 does
 *    not do so itself, and old entries may only be committed through it (C1).
 *  - The barrier is committed and applied, and with it everything that any
 *    earlier leader committed: leader_ready, role_changed(true).
 *
 *   follower ──(library: elected)──▶ leading, not ready ──barrier_applied()──▶ ready
 *      ▲                                   │                                     │
 *      └──────(library: term seen, quorum lost, transfer)◀──────────────────────┘
 *
 * Failure modes:
 *  - The barrier finds no memory: tried again after the next event.
 *  - Leadership is lost meanwhile: the barrier is called back with an error.
 *
 * Also here: probation (C2), how a voter that lost its directory is kept from
 * voting until it has caught up. See docs/internals/raft-notes.md.
 */
#include "server/control/consensus_ops.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

bool consensus_is_leader(const struct consensus *c)
{
    assert(c != NULL);
    assert(!c->leader_ready || c->barrier_done);
    return c->leader_ready && c->raft.state == RAFT_LEADER && c->leader_term == c->raft.current_term &&
           c->failed_rc == 0 && !c->closing;
}

static uint64_t leader_id(const struct consensus *c)
{
    raft_id id = 0;
    const char *address = NULL;
    assert(c != NULL);
    if (c->failed_rc != 0 || c->closing || !c->started)
        return 0;
    if (c->raft.state == RAFT_LEADER)
        return consensus_is_leader(c) ? c->id : 0;
    if (c->raft.state == RAFT_FOLLOWER)
        raft_leader((struct raft *)&c->raft, &id, &address);
    assert(id != c->id);
    return id;
}

int consensus_leader(const struct consensus *c, uint64_t *ret_id, const char **ret_address)
{
    uint64_t id = leader_id(c);
    const struct consensus_peer *peer = id == 0 ? NULL : consensus_peer_find(c, id);
    if (peer == NULL)
        return -EAGAIN;
    assert(peer->id == id);
    if (ret_id != NULL)
        *ret_id = id;
    if (ret_address != NULL)
        *ret_address = peer->address;
    return 0;
}

static void barrier_applied(struct raft_barrier *barrier, int status)
{
    struct consensus *c = barrier->data;
    assert(c->barrier_in_use);
    c->barrier_in_use = false;
    if (status == 0 && c->raft.state == RAFT_LEADER && c->leader_term == c->raft.current_term)
        c->barrier_done = true;
}

/* (C1) The first entry of our term, before any answer of a follower is read. */
static void submit_barrier(struct consensus *c)
{
    assert(c->raft.state == RAFT_LEADER);
    if (c->barrier_in_use) /* an older term's; its callback is on the way */
        return;
    c->barrier.data = c;
    c->barrier_in_use = true;
    int raft_rc = raft_barrier(&c->raft, &c->barrier, barrier_applied);
    if (raft_rc != 0) {
        c->barrier_in_use = false;
        consensus_log(c, CONSENSUS_LOG_WARN, "barrier: %s", raft_strerror(raft_rc));
        return;
    }
    c->barrier_submitted = true;
    c->barrier_index = c->barrier.index;
    assert(c->barrier_index > 0);
}

static void update_leading(struct consensus *c)
{
    assert(c->raft.state == RAFT_LEADER);
    if (c->leader_term != c->raft.current_term) {
        c->leader_term = c->raft.current_term;
        c->barrier_submitted = false;
        c->barrier_done = false;
        c->leader_ready = false;
        consensus_log(c, CONSENSUS_LOG_INFO, "elected in term %llu", (unsigned long long)c->leader_term);
    }
    if (!c->barrier_submitted)
        submit_barrier(c);
    if (c->barrier_done)
        c->leader_ready = true;
}

/* (C2) Over once our log is as long as what a leader showed us. */
static void update_probation(struct consensus *c)
{
    assert(c->probation);
    bool caught_up =
        c->probation_target > 0 && c->raft.state == RAFT_FOLLOWER && c->raft.last_stored >= c->probation_target;
    if (!caught_up && !c->leader_ready)
        return;
    assert(c->peers_count > 1);
    c->probation = false;
    consensus_log(c, CONSENSUS_LOG_INFO, "caught up after an empty start: may vote again");
    if (c->probation_over != NULL)
        c->probation_over(c->backend);
}

void consensus_role_update(struct consensus *c)
{
    assert(c->failed_rc == 0 && !c->closing);
    if (c->raft.state == RAFT_LEADER) {
        update_leading(c);
    } else if (c->leader_ready) {
        c->leader_ready = false;
        consensus_log(c, CONSENSUS_LOG_INFO, "no longer leader");
    }
    if (c->probation)
        update_probation(c);
    assert(!c->leader_ready || c->raft.state == RAFT_LEADER);
}

void consensus_role_tell(struct consensus *c)
{
    bool is_leader = consensus_is_leader(c);
    uint64_t id = leader_id(c);
    const char *address = NULL;
    if (is_leader == c->told_leader && id == c->told_leader_id)
        return;
    assert(!is_leader || id == c->id);
    c->told_leader = is_leader;
    c->told_leader_id = id;
    if (id != 0 && consensus_leader(c, NULL, &address) < 0)
        return;
    if (c->callbacks.role_changed != NULL)
        c->callbacks.role_changed(c->callbacks.arg, is_leader, id, address);
}

/* The library tells followers of a commit with the next entry or heartbeat, up to heartbeat_ms later; each step of a takeover would
 * wait for that. A heartbeat that is due goes out on its tick, so it is made due for those who have what is committed. */
void consensus_role_tell_commit(struct consensus *c)
{
    struct raft *r = &c->raft;
    bool news = false;
    if (!c->started || c->telling_commit || r->state != RAFT_LEADER)
        return;
    if (c->told_term != r->current_term) {
        memset(c->told_commit, 0, sizeof(c->told_commit));
        c->told_term = r->current_term;
        c->told_barrier = false;
    }
    /* (C1) Answers that came before our own write ended were clamped: asked for again. */
    bool ask = c->barrier_submitted && c->leader_term == r->current_term && !c->told_barrier &&
               r->last_stored >= c->barrier_index;
    c->told_barrier = c->told_barrier || ask;
    assert(r->configuration.n <= CONSENSUS_VOTERS_MAX);
    for (unsigned i = 0; i < r->configuration.n; i++) {
        struct raft_progress *progress = &r->leader_state.progress[i];
        if (r->configuration.servers[i].id == c->id)
            continue;
        if (progress->match_index >= r->commit_index && c->told_commit[i] < r->commit_index)
            c->told_commit[i] = r->commit_index;
        else if (!ask)
            continue;
        progress->last_send = 0;
        news = true;
    }
    if (!news)
        return;
    c->telling_commit = true;
    c->raft_tick(&c->outer);
    c->telling_commit = false;
}

/* How many voters stand before us: they take turns, so that their votes are not split. */
static unsigned turn_of(const struct consensus *c, uint64_t lost)
{
    unsigned turn = 0;
    assert(c->id != lost);
    for (unsigned i = 0; i < c->peers_count; i++)
        if (c->peers[i].id != lost && c->peers[i].id < c->id)
            turn++;
    return turn;
}

void consensus_leader_lost(struct consensus *c, uint64_t id)
{
    struct raft *r = &c->raft;
    assert(id != 0);
    if (!c->started || c->closing || c->failed_rc != 0 || r->state != RAFT_FOLLOWER ||
        r->follower_state.current_leader.id != id)
        return;
    /* As the library does when it stands; a leader that lives is known again with its next heartbeat. */
    raft_free(r->follower_state.current_leader.address);
    r->follower_state.current_leader.address = NULL;
    r->follower_state.current_leader.id = 0;
    unsigned wait = CONSENSUS_STAND_FIRST_MS + turn_of(c, id) * CONSENSUS_STAND_NEXT_MS;
    raft_time now = c->inner->time(c->inner);
    unsigned timeout = r->follower_state.randomized_election_timeout;
    if (wait < timeout && now - r->election_timer_start + wait < timeout && now + wait >= timeout)
        r->election_timer_start = now + wait - timeout;
    consensus_log(c, CONSENSUS_LOG_INFO, "the link to leader %llu ended", (unsigned long long)id);
    consensus_core_settle(c);
}

static void transfer_done(struct raft_transfer *transfer)
{
    struct consensus *c = transfer->data;
    assert(c->transferring);
    c->transferring = false;
}

int consensus_transfer(struct consensus *c, uint64_t id)
{
    assert(c != NULL);
    if (!consensus_is_leader(c))
        return -EAGAIN;
    if (c->transferring)
        return -EBUSY;
    if (id == c->id || (id != 0 && consensus_peer_find(c, id) == NULL))
        return -ENOENT;
    c->transfer.data = c;
    c->transferring = true;
    int raft_rc = raft_transfer(&c->raft, &c->transfer, id, transfer_done);
    if (raft_rc == 0)
        return 0;
    c->transferring = false;
    consensus_log(c, CONSENSUS_LOG_WARN, "transfer: %s", raft_strerror(raft_rc));
    if (raft_rc == RAFT_NOTLEADER)
        return -EAGAIN;
    return raft_rc == RAFT_NOTFOUND || raft_rc == RAFT_BADID ? -ENOENT : consensus_errno(raft_rc);
}
