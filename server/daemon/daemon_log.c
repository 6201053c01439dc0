/* SPDX-License-Identifier: Apache-2.0 */
/* daemon_log: consensus as the replicated log of a control core.
 *
 *   - open makes the voter set of the settings; start gives the core its entries, through apply, snapshot, restore
 *   - a proposal of the core is one of consensus, its bookkeeping inside the core's own request
 * Failure modes: the directory was lost, is another voter's, or is in use; the port is taken: one line each. A log write that
 * fails later ends the log for good: `failed`.
 */
#include "server/daemon/daemon_log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/list.h"
#include "common/log.h"
#include "server/control/consensus.h"

#define LOG_MODULE "raft"
#define HEARTBEAT_MS \
    100u /* an idle daemon wakes at four times this rate; a leader is missed after 300 to 600 ms either way */

struct daemon_log {
    struct control_log base;
    struct consensus *consensus;
    struct control *control;
    const struct settings *settings;
    void (*failed)(void *arg, int rc);
    void *arg;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* ---- the core's side */

static struct daemon_log *of_base(struct control_log *base)
{
    struct daemon_log *log = list_entry(base, struct daemon_log, base);
    assert(log->consensus);
    return log;
}

static void proposed(struct consensus_propose_req *inner, int rc, uint64_t version)
{
    struct control_log_req *req = inner->data;
    assert(req->cb);
    assert(rc == 0 || version == 0);
    req->cb(req, rc);
}

static int propose(struct control_log *base, const void *bytes, size_t len, struct control_log_req *req,
                   control_log_cb cb)
{
    struct daemon_log *log = of_base(base);
    struct consensus_propose_req *inner = (struct consensus_propose_req *)(void *)req->impl;
    _Static_assert(sizeof(*inner) <= sizeof(req->impl), "a proposal fits into the core's request");
    req->cb = cb;
    inner->data = req;
    assert(cb && len > 0);
    return consensus_propose(log->consensus, bytes, len, inner, proposed);
}

static bool is_leader(struct control_log *base)
{
    assert(base);
    return consensus_is_leader(of_base(base)->consensus);
}

static uint32_t leader(struct control_log *base)
{
    uint64_t id = 0;
    if (consensus_leader(of_base(base)->consensus, &id, NULL) < 0)
        return 0;
    assert(id > 0 && id <= UINT32_MAX);
    return (uint32_t)id;
}

static uint64_t term(struct control_log *base)
{
    assert(base);
    return consensus_term(of_base(base)->consensus);
}

static int transfer(struct control_log *base)
{
    assert(base);
    return consensus_transfer(of_base(base)->consensus, 0);
}

static void leader_lost(struct control_log *base, uint32_t node)
{
    assert(base && node);
    consensus_leader_lost(of_base(base)->consensus, node);
}

static const struct control_log_ops log_ops = {.propose = propose,
                                               .is_leader = is_leader,
                                               .leader = leader,
                                               .term = term,
                                               .transfer = transfer,
                                               .leader_lost = leader_lost};

/* ---- the log's side */

static void apply(void *arg, uint64_t version, const void *entry, size_t len)
{
    struct daemon_log *log = arg;
    assert(version && entry && len);
    assert(log->control);
    control_log_applied(log->control, version, entry, len);
}

static int snapshot(void *arg, void **ret_bytes, size_t *ret_len)
{
    struct daemon_log *log = arg;
    assert(ret_bytes && ret_len);
    assert(log->control);
    return control_log_snapshot(log->control, ret_bytes, ret_len);
}

static int restore(void *arg, const void *bytes, size_t len, uint64_t version)
{
    struct daemon_log *log = arg;
    assert(bytes && len);
    assert(log->control);
    return control_log_restored(log->control, bytes, len, version);
}

static void role_changed(void *arg, bool leads, uint64_t leader_id, const char *leader_address)
{
    struct daemon_log *log = arg;
    assert(!leads || leader_id == log->settings->node);
    assert(log->control);
    log_info("role leader=%s leader_id=%llu address=%s", leads ? "self" : "other", (unsigned long long)leader_id,
             leader_address ? leader_address : "-");
    control_log_role_changed(log->control);
}

static void consensus_failed(void *arg, int rc)
{
    struct daemon_log *log = arg;
    assert(log->failed);
    assert(rc < 0);
    log_error("the log failed: this voter ends error=\"%s\"", strerror(-rc));
    log->failed(log->arg, rc);
}

static void library_line(void *arg, enum consensus_log_level level, const char *message)
{
    static const enum log_level levels[] = {[CONSENSUS_LOG_DEBUG] = LOG_TRACE,
                                            [CONSENSUS_LOG_INFO] = LOG_DEBUG,
                                            [CONSENSUS_LOG_WARN] = LOG_WARN,
                                            [CONSENSUS_LOG_ERROR] = LOG_ERROR};
    (void)arg;
    assert(level <= CONSENSUS_LOG_ERROR);
    log_at(levels[level], "%s", message);
}

/* ---- life */

static void explain(const struct settings *settings, const char *directory, int rc)
{
    assert(rc < 0);
    if (rc == -ENODATA)
        log_error(
            "%s: the log of this voter was lost; a voter that forgot what it promised may not come back by itself",
            directory);
    else if (rc == -EBUSY)
        log_error("%s: in use by another ashlard; stop that one first", directory);
    else if (rc == -EADDRINUSE)
        log_error("cannot listen on %s: the address is taken; correct node.raft", settings->raft);
    else if (rc == -ESTALE)
        log_error("%s: belongs to other voters than cluster.voter[] says; correct the configuration", directory);
    else
        log_error("%s: cannot open the log error=\"%s\"", directory, strerror(-rc));
}

int daemon_log_open(const struct settings *settings, const char *directory, bool may_bootstrap, struct uv_loop_s *loop,
                    void (*failed)(void *arg, int rc), void *arg, struct daemon_log **ret_log)
{
    struct consensus_voter voters[SETTINGS_VOTERS_MAX];
    assert(settings->voter_count > 0 && settings_own_voter(settings));
    assert(directory && loop && failed);
    struct daemon_log *log = calloc(1, sizeof(*log));
    if (!log)
        return -ENOMEM;
    *log = (struct daemon_log){.base = {.ops = &log_ops}, .settings = settings, .failed = failed, .arg = arg};
    for (uint32_t i = 0; i < settings->voter_count; i++)
        voters[i] = (struct consensus_voter){.id = settings->voters[i].id, .address = settings->voters[i].raft};
    struct consensus_config config = {.id = settings->node,
                                      .voters = voters,
                                      .voters_count = settings->voter_count,
                                      .dir = directory,
                                      .bind_address = settings->raft,
                                      .heartbeat_ms = HEARTBEAT_MS,
                                      .may_bootstrap = may_bootstrap,
                                      .log = library_line};
    struct consensus_callbacks callbacks = {.apply = apply,
                                            .snapshot = snapshot,
                                            .restore = restore,
                                            .role_changed = role_changed,
                                            .failed = consensus_failed,
                                            .arg = log};
    int rc = consensus_open(&config, loop, &callbacks, &log->consensus);
    assert(rc <= 0);
    if (rc < 0) {
        explain(settings, directory, rc);
        free(log);
        return rc;
    }
    *ret_log = log;
    return 0;
}

struct control_log *daemon_log_base(struct daemon_log *log)
{
    assert(log);
    return &log->base;
}

int daemon_log_start(struct daemon_log *log, struct control *control)
{
    assert(control && !log->control);
    assert(log->consensus);
    log->control = control;
    int rc = consensus_start(log->consensus);
    if (rc < 0)
        explain(log->settings, log->settings->store, rc);
    return rc;
}

static void closed(void *arg)
{
    struct daemon_log *log = arg;
    assert(log->base.ops == &log_ops);
    void (*cb)(void *) = log->closed;
    void *cb_arg = log->closed_arg;
    assert(cb);
    free(log);
    cb(cb_arg);
}

void daemon_log_close(struct daemon_log *log, void (*cb)(void *arg), void *arg)
{
    assert(cb);
    if (!log) {
        cb(arg);
        return;
    }
    log->closed = cb;
    log->closed_arg = arg;
    consensus_close(log->consensus, closed, log);
}
