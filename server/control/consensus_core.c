/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Life of a consensus instance and of a proposal.
 *
 * The happy path of a proposal:
 *  - consensus_propose() frames the bytes and gives them to raft_apply(), which
 *    submits the log write and the AppendEntries messages.
 *  - Some event later the entry is committed: apply() (consensus_fsm.c), then
 *    propose_done() from inside the library; it only moves the proposal to the
 *    list of completed ones.
 *  - consensus_core_settle() runs when the library has returned and calls back.
 *
 * Failure modes:
 *  - Not leader, too many, too long: refused, certainly not proposed.
 *  - Leadership lost: the library calls back with RAFT_LEADERSHIPLOST; unknown.
 *  - The instance failed (C3): the next tick completes all proposals as
 *    unknown; the library's own callbacks come at close and find req == NULL.
 *  - Closing: raft_close() calls all of them back; unknown.
 *
 *             consensus_core_create        consensus_core_start
 *   (nothing) ────────────────────▶ open ───────────────────────▶ running
 *                                    │                            │      │ consensus_fail
 *                    consensus_close │         consensus_close    │      ▼
 *                                    ▼       (on the next tick)   │    failed
 *                 released ◀──── closing ◀────────────────────────┴──────┘
 *                        raft_closed()
 */
#include "server/control/consensus_ops.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void raft_closed(struct raft *raft)
{
    struct consensus *c = raft->data;
    assert(c->close_submitted);
    assert(consensus_link_empty(&c->proposals));
    consensus_core_settle(c);
    assert(consensus_link_empty(&c->completed));
    assert(c->in_flight == 0);
    c->released(c->backend, c->close_cb, c->close_arg);
}

static void submit_close(struct consensus *c)
{
    assert(c->closing);
    assert(!c->close_submitted);
    c->close_submitted = true;
    raft_close(&c->raft, raft_closed);
}

void consensus_close(struct consensus *c, consensus_close_fn cb, void *arg)
{
    if (c == NULL) {
        if (cb != NULL)
            cb(arg);
        return;
    }
    assert(!c->closing);
    c->closing = true;
    c->close_cb = cb;
    c->close_arg = arg;
    /* raft_close() inside one of the library's callbacks is not safe; a tick is
     * the one place that is known to be outside. Without ticks nothing of the
     * library can be on the stack. */
    if (!c->started)
        submit_close(c);
}

static int find_self(const struct consensus *c)
{
    assert(c->peers_count > 0);
    assert(c->peers_count <= CONSENSUS_VOTERS_MAX);
    return consensus_peer_find(c, c->id) == NULL ? -EINVAL : 0;
}

static void copy_peers(struct consensus *c, const struct consensus_config *config)
{
    assert(config->voters_count <= CONSENSUS_VOTERS_MAX);
    c->peers_count = 0;
    for (unsigned i = 0; i < config->voters_count; i++) {
        unsigned at = c->peers_count++;
        while (at > 0 && c->peers[at - 1].id > config->voters[i].id) {
            c->peers[at] = c->peers[at - 1];
            at--;
        }
        assert(at < CONSENSUS_VOTERS_MAX);
        c->peers[at].id = config->voters[i].id;
        snprintf(c->peers[at].address, sizeof(c->peers[at].address), "%s", config->voters[i].address);
    }
    assert(find_self(c) == 0);
}

static void raft_address(uint64_t id, char address[CONSENSUS_RAFT_ADDRESS_MAX])
{
    int n = snprintf(address, CONSENSUS_RAFT_ADDRESS_MAX, "voter-%llu", (unsigned long long)id);
    assert(n > 0 && n < (int)CONSENSUS_RAFT_ADDRESS_MAX);
}

static void tune_raft(struct consensus *c, const struct consensus_config *config)
{
    unsigned threshold = config->snapshot_threshold;
    unsigned trailing = config->snapshot_trailing;
    assert(c->heartbeat_ms * 2 <= c->election_timeout_ms);
    raft_set_election_timeout(&c->raft, c->election_timeout_ms);
    raft_set_heartbeat_timeout(&c->raft, c->heartbeat_ms);
    raft_set_snapshot_threshold(&c->raft, threshold ? threshold : CONSENSUS_SNAPSHOT_THRESHOLD);
    /* Never 0: that is how an installed snapshot is told from our own. */
    raft_set_snapshot_trailing(&c->raft, trailing ? trailing : CONSENSUS_SNAPSHOT_TRAILING);
    raft_set_install_snapshot_timeout(&c->raft, CONSENSUS_INSTALL_SNAPSHOT_MS);
    raft_set_pre_vote(&c->raft, true); /* R23 */
    assert(c->raft.pre_vote);
}

int consensus_config_check(const struct consensus_config *config)
{
    assert(config != NULL);
    unsigned n = config->voters_count;
    bool self = false;
    if (config->voters == NULL || (n != 1 && n != 3 && n != 5) || config->dir == NULL)
        return -EINVAL;
    for (unsigned i = 0; i < n; i++) {
        const struct consensus_voter *voter = &config->voters[i];
        if (voter->id == 0 || voter->address == NULL || voter->address[0] == '\0' ||
            strlen(voter->address) >= CONSENSUS_ADDRESS_MAX)
            return -EINVAL;
        for (unsigned j = 0; j < i; j++)
            if (config->voters[j].id == voter->id)
                return -EINVAL;
        self = self || voter->id == config->id;
    }
    unsigned election = config->election_timeout_ms;
    unsigned heartbeat = config->heartbeat_ms;
    election = election ? election : CONSENSUS_ELECTION_TIMEOUT_MS;
    heartbeat = heartbeat ? heartbeat : CONSENSUS_HEARTBEAT_MS;
    if (!self || election > 60000 || heartbeat > 60000 || heartbeat * 2 > election)
        return -EINVAL;
    if (config->segment_bytes % 4096 != 0)
        return -EINVAL;
    return 0;
}

int consensus_core_create(const struct consensus_config *config, struct raft_io *inner,
                          const struct consensus_callbacks *callbacks, struct consensus **ret)
{
    assert(consensus_config_check(config) == 0);
    assert(callbacks->apply != NULL && callbacks->snapshot != NULL && callbacks->restore != NULL);
    char address[CONSENSUS_RAFT_ADDRESS_MAX];
    consensus_heap_install();
    struct consensus *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return -ENOMEM;
    c->callbacks = *callbacks;
    c->log = config->log;
    c->log_arg = config->log_arg;
    c->id = config->id;
    c->election_timeout_ms = config->election_timeout_ms ? config->election_timeout_ms : CONSENSUS_ELECTION_TIMEOUT_MS;
    c->heartbeat_ms = config->heartbeat_ms ? config->heartbeat_ms : CONSENSUS_HEARTBEAT_MS;
    copy_peers(c, config);
    consensus_link_init(&c->proposals);
    consensus_link_init(&c->completed);
    consensus_link_init(&c->appends);
    consensus_io_wire(c, inner);
    consensus_fsm_wire(c);
    raft_address(c->id, address);
    int raft_rc = raft_init(&c->raft, &c->outer, &c->fsm, c->id, address);
    if (raft_rc != 0) {
        consensus_log(c, CONSENSUS_LOG_ERROR, "raft_init: %s: %s", raft_strerror(raft_rc), raft_errmsg(&c->raft));
        free(c);
        return consensus_errno(raft_rc);
    }
    c->raft.data = c;
    tune_raft(c, config);
    *ret = c;
    return 0;
}

void consensus_core_destroy(struct consensus *c)
{
    if (c == NULL)
        return;
    assert(consensus_link_empty(&c->proposals));
    assert(consensus_link_empty(&c->appends));
    free(c);
}

/* Every voter spells the same bytes here: sorted by id, symbolic addresses. */
static int make_configuration(const struct consensus *c, struct raft_configuration *conf)
{
    int raft_rc = 0;
    raft_configuration_init(conf);
    for (unsigned i = 0; i < c->peers_count && raft_rc == 0; i++) {
        char address[CONSENSUS_RAFT_ADDRESS_MAX];
        assert(i == 0 || c->peers[i - 1].id < c->peers[i].id);
        raft_address(c->peers[i].id, address);
        raft_rc = raft_configuration_add(conf, c->peers[i].id, address, RAFT_VOTER);
    }
    if (raft_rc != 0)
        raft_configuration_close(conf);
    return raft_rc;
}

static int with_configuration(struct consensus *c, int (*call)(struct raft *, const struct raft_configuration *))
{
    struct raft_configuration conf;
    assert(!c->started);
    int raft_rc = make_configuration(c, &conf);
    if (raft_rc != 0)
        return raft_rc;
    raft_rc = call(&c->raft, &conf);
    raft_configuration_close(&conf);
    return raft_rc;
}

int consensus_core_bootstrap(struct consensus *c)
{
    int raft_rc = with_configuration(c, raft_bootstrap);
    if (raft_rc == RAFT_CANTBOOTSTRAP)
        return -EEXIST;
    if (raft_rc != 0) {
        consensus_log(c, CONSENSUS_LOG_ERROR, "bootstrap: %s: %s", raft_strerror(raft_rc), raft_errmsg(&c->raft));
        return consensus_errno(raft_rc);
    }
    /* (C2) Alone there is nobody to have promised anything to. */
    c->probation = c->peers_count > 1;
    return 0;
}

int consensus_core_force_voters(struct consensus *c)
{
    int raft_rc = with_configuration(c, raft_recover);
    consensus_log(c, CONSENSUS_LOG_WARN, "voter set forced onto the log: %s", raft_strerror(raft_rc));
    return consensus_errno(raft_rc);
}

static int check_voter_set(struct consensus *c)
{
    const struct raft_configuration *conf = &c->raft.configuration;
    assert(conf->n == 0 || conf->servers != NULL);
    bool same = conf->n == c->peers_count;
    for (unsigned i = 0; same && i < conf->n; i++)
        same = consensus_peer_find(c, conf->servers[i].id) != NULL;
    if (same)
        return 0;
    consensus_log(c, CONSENSUS_LOG_ERROR, "the log was written by another set of voters (%u there, %u configured)",
                  conf->n, c->peers_count);
    return -ESTALE;
}

int consensus_core_start(struct consensus *c)
{
    assert(!c->started && !c->closing);
    int raft_rc = raft_start(&c->raft);
    if (raft_rc != 0) {
        consensus_log(c, CONSENSUS_LOG_ERROR, "start: %s: %s", raft_strerror(raft_rc), raft_errmsg(&c->raft));
        return consensus_errno(raft_rc);
    }
    int rc = check_voter_set(c);
    if (rc < 0) {
        /* Silent until closed: no tick, no message reaches the library. */
        c->failed_rc = rc;
        c->failure_told = true;
    }
    c->started = true;
    return rc;
}

static void propose_done(struct raft_apply *apply, int status, void *result)
{
    struct consensus_proposal *p = apply->data;
    struct consensus *c = p->c;
    assert(!p->raft_done);
    p->raft_done = true;
    if (p->req == NULL) { /* completed as unknown when the instance failed */
        raft_free(p);
        return;
    }
    if (p->rc == -EINPROGRESS) /* waits in c->completed for the same reason */
        return;
    p->rc = status == 0 ? 0 : -EINPROGRESS;
    p->version = status == 0 ? *(uint64_t *)result : 0;
    if (status != 0)
        consensus_log(c, CONSENSUS_LOG_WARN, "outcome of a proposal is unknown: %s", raft_strerror(status));
    consensus_link_remove(&p->link);
    consensus_link_push(&c->completed, &p->link);
}

static int propose_check(const struct consensus *c, size_t len)
{
    assert(c != NULL);
    assert(c->in_flight <= CONSENSUS_IN_FLIGHT_MAX);
    if (c->closing || c->failed_rc != 0)
        return -ESHUTDOWN;
    if (len == 0)
        return -EINVAL;
    if (len > CONSENSUS_ENTRY_BYTES_MAX)
        return -EMSGSIZE;
    if (c->transferring)
        return -EBUSY;
    if (!consensus_is_leader(c))
        return -EAGAIN;
    return c->in_flight == CONSENSUS_IN_FLIGHT_MAX ? -EBUSY : 0;
}

int consensus_propose(struct consensus *c, const void *bytes, size_t len, struct consensus_propose_req *req,
                      consensus_propose_fn cb)
{
    struct raft_buffer buf;
    assert(req != NULL && cb != NULL);
    int rc = propose_check(c, len);
    if (rc < 0)
        return rc;
    struct consensus_proposal *p = raft_calloc(1, sizeof(*p));
    if (p == NULL)
        return -ENOMEM;
    rc = consensus_fsm_frame(bytes, len, &buf);
    if (rc < 0)
        goto err_after_alloc;
    p->c = c;
    p->req = req;
    p->cb = cb;
    p->apply.data = p;
    consensus_link_push(&c->proposals, &p->link);
    c->in_flight++;
    int raft_rc = raft_apply(&c->raft, &p->apply, &buf, 1, propose_done);
    if (raft_rc != 0) {
        consensus_log(c, CONSENSUS_LOG_WARN, "propose: %s", raft_strerror(raft_rc));
        rc = raft_rc == RAFT_NOTLEADER ? -EAGAIN : consensus_errno(raft_rc);
        goto err_after_link;
    }
    return 0;

err_after_link:
    c->in_flight--;
    consensus_link_remove(&p->link);
    raft_free(buf.base);
err_after_alloc:
    raft_free(p);
    assert(rc < 0);
    return rc;
}

/* (C4) Outside the library: every completed proposal is called back here. */
static void drain(struct consensus *c)
{
    assert(!c->draining);
    c->draining = true;
    while (!consensus_link_empty(&c->completed)) {
        struct consensus_link *link = c->completed.next;
        struct consensus_proposal *p =
            (struct consensus_proposal *)((char *)link - offsetof(struct consensus_proposal, link));
        struct consensus_propose_req *req = p->req;
        consensus_propose_fn cb = p->cb;
        int rc = p->rc;
        uint64_t version = p->version;
        assert(req != NULL);
        assert(rc == 0 || rc == -EINPROGRESS);
        consensus_link_remove(link);
        assert(c->in_flight > 0);
        c->in_flight--;
        p->req = NULL;
        if (p->raft_done)
            raft_free(p);
        cb(req, rc, version);
    }
    c->draining = false;
}

void consensus_fail(struct consensus *c, int rc, const char *what)
{
    assert(rc < 0);
    if (c->failed_rc != 0)
        return;
    c->failed_rc = rc;
    consensus_log(c, CONSENSUS_LOG_ERROR, "failed for good (%s): %s: %s", what, strerror(-rc), raft_errmsg(&c->raft));
    assert(!consensus_is_leader(c));
}

/* (C3), (C4): what was in flight is unknown; the library may call back later. */
static void tell_failure(struct consensus *c)
{
    assert(c->failed_rc < 0);
    c->failure_told = true;
    while (!consensus_link_empty(&c->proposals)) {
        struct consensus_link *link = c->proposals.next;
        struct consensus_proposal *p =
            (struct consensus_proposal *)((char *)link - offsetof(struct consensus_proposal, link));
        assert(!p->raft_done);
        p->rc = -EINPROGRESS;
        consensus_link_remove(link);
        consensus_link_push(&c->completed, link);
    }
    drain(c);
    consensus_role_tell(c);
    if (c->callbacks.failed != NULL)
        c->callbacks.failed(c->callbacks.arg, c->failed_rc);
}

bool consensus_core_tick(struct consensus *c)
{
    assert(c->started);
    if (c->close_submitted)
        return true;
    if (c->closing) {
        submit_close(c);
        return true;
    }
    if (c->failed_rc == 0)
        return false;
    if (!c->failure_told)
        tell_failure(c);
    return true;
}

void consensus_core_settle(struct consensus *c)
{
    assert(c->released != NULL);
    if (c->failed_rc == 0 && !c->closing && c->raft.state == RAFT_UNAVAILABLE)
        consensus_fail(c, -EIO, "the library gave up");
    if (c->failed_rc == 0 && !c->closing)
        consensus_role_tell_commit(c);
    if (c->failed_rc == 0 && !c->closing)
        consensus_role_update(c);
    drain(c);
    consensus_role_tell(c);
}

uint64_t consensus_version(const struct consensus *c)
{
    assert(c != NULL);
    return c->version;
}

uint64_t consensus_term(const struct consensus *c)
{
    assert(c != NULL);
    return c->raft.current_term;
}
