/* SPDX-License-Identifier: Apache-2.0 */
/* control_sim_log: consensus as the log of a simulated core, as server/daemon/daemon_log.c does it over libuv.
 *
 *   - a proposal of the core is one of consensus, its bookkeeping inside the core's own request
 *   - what is applied is shown to the checker first
 * Failure modes: a log that fails ends the process. Nothing reaches a core whose node has crashed.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>

#include "common/log.h"
#include "tests/sim/control_sim_internal.h"

#define LOG_MODULE "raft"

static struct control_life *of_log(struct control_log *log)
{
    struct control_life *life = list_entry(log, struct control_life, log);
    assert(life->raft);
    return life;
}

static struct consensus *consensus_of(struct control_log *log)
{
    return raft_sim_consensus(of_log(log)->raft);
}

/* ---- the core's side ---- */

static void proposed(struct consensus_propose_req *inner, int rc, uint64_t version)
{
    struct control_log_req *req = inner->data;
    assert(rc == 0 || (rc == -EINPROGRESS && version == 0));
    req->cb(req, rc); /* of a crashed node: the core frees what it holds, and nothing leaves it any more */
}

static int log_propose(struct control_log *log, const void *bytes, size_t len, struct control_log_req *req,
                       control_log_cb cb)
{
    struct consensus_propose_req *inner = (struct consensus_propose_req *)(void *)req->impl;
    _Static_assert(sizeof(*inner) <= sizeof(req->impl), "a proposal fits into the core's request");
    req->cb = cb;
    inner->data = req;
    assert(cb && len > 0);
    return consensus_propose(consensus_of(log), bytes, len, inner, proposed);
}

static bool log_is_leader(struct control_log *log)
{
    return consensus_is_leader(consensus_of(log));
}

static uint32_t log_leader(struct control_log *log)
{
    uint64_t id = 0;
    if (consensus_leader(consensus_of(log), &id, NULL) < 0)
        return 0;
    assert(id > 0 && id < WORLD_NODES_MAX);
    return (uint32_t)id;
}

static uint64_t log_term(struct control_log *log)
{
    return consensus_term(consensus_of(log));
}

static int log_transfer(struct control_log *log)
{
    return consensus_transfer(consensus_of(log), 0);
}

static void log_leader_lost(struct control_log *log, uint32_t node)
{
    consensus_leader_lost(consensus_of(log), node);
}

const struct control_log_ops control_sim_log_ops = {.propose = log_propose,
                                                    .is_leader = log_is_leader,
                                                    .leader = log_leader,
                                                    .term = log_term,
                                                    .transfer = log_transfer,
                                                    .leader_lost = log_leader_lost};

/* ---- the log's side ---- */

static void apply(void *arg, uint64_t version, const void *entry, size_t len)
{
    struct control_life *life = arg;
    assert(life->control && !life->dying);
    check_entry(life, version, entry, len);
    control_log_applied(life->control, version, entry, len);
}

static int snapshot(void *arg, void **ret_bytes, size_t *ret_len)
{
    struct control_life *life = arg;
    assert(life->control);
    return control_log_snapshot(life->control, ret_bytes, ret_len);
}

static int restore(void *arg, const void *bytes, size_t len, uint64_t version)
{
    struct control_life *life = arg;
    assert(life->control);
    check_snapshot(life, version, bytes, len);
    return control_log_restored(life->control, bytes, len, version);
}

static void role_changed(void *arg, bool leads, uint64_t leader_id, const char *leader_address)
{
    struct control_life *life = arg;
    (void)leader_address;
    if (life->dying)
        return;
    log_debug("role leader=%s leader_id=%llu", leads ? "self" : "other", (unsigned long long)leader_id);
    life->node->sim->stats.leaders += leads && !life->leads;
    life->leads = leads;
    world_trace(life->node->sim->world, 220, (uint64_t)life->node->node, leader_id);
    control_log_role_changed(life->control);
}

static void failed(void *arg, int rc)
{
    struct control_life *life = arg;
    assert(rc < 0);
    if (life->dying)
        return;
    log_error("the log failed rc=%d: this voter ends", rc);
    life->node->sim->stats.log_failed++;
    control_life_end(life);
}

static void library_line(void *arg, enum consensus_log_level level, const char *message)
{
    static const enum log_level levels[] = {[CONSENSUS_LOG_DEBUG] = LOG_TRACE,
                                            [CONSENSUS_LOG_INFO] = LOG_DEBUG,
                                            [CONSENSUS_LOG_WARN] = LOG_DEBUG,
                                            [CONSENSUS_LOG_ERROR] = LOG_INFO};
    (void)arg;
    assert(level <= CONSENSUS_LOG_ERROR);
    log_at(levels[level], "%s", message);
}

int control_sim_log_open(struct control_life *life)
{
    struct control_sim *sim = life->node->sim;
    struct consensus_voter voters[CONTROL_VOTERS_MAX];
    char addresses[CONTROL_VOTERS_MAX][32];
    for (uint32_t i = 0; i < sim->config.voter_count; i++) {
        (void)snprintf(addresses[i], sizeof(addresses[i]), "raft:%d", sim->config.voters[i]);
        voters[i] = (struct consensus_voter){.id = (uint64_t)sim->config.voters[i], .address = addresses[i]};
    }
    struct consensus_config consensus = {.id = (uint64_t)life->node->node,
                                         .voters = voters,
                                         .voters_count = sim->config.voter_count,
                                         .dir = "",
                                         .snapshot_threshold = sim->config.snapshot_threshold,
                                         .snapshot_trailing = sim->config.snapshot_trailing,
                                         .may_bootstrap = !life->node->voted,
                                         .log = library_line};
    struct consensus_callbacks callbacks = {.apply = apply,
                                            .snapshot = snapshot,
                                            .restore = restore,
                                            .role_changed = role_changed,
                                            .failed = failed,
                                            .arg = life};
    struct raft_sim_config config = {.world = sim->world,
                                     .net = sim->raft_net,
                                     .disk = life->node->disk,
                                     .env = life->env,
                                     .node = life->node->node,
                                     .consensus = &consensus};
    life->log.ops = &control_sim_log_ops;
    int rc = raft_sim_open(&config, &callbacks, &life->raft);
    assert(rc <= 0);
    if (rc == 0)
        life->node->voted = true;
    return rc;
}
