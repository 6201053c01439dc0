/* SPDX-License-Identifier: Apache-2.0 */
/* control_bridge: what the data thread asks of its core (bridge.h), arrived on the control thread.
 *
 * - propose and attach become proposals; their callbacks come from a later turn
 * - applied, alive and stats are noted for the next heartbeat
 *
 * Failure: too many proposals: the request ends with -EAGAIN in a later turn.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "control"
#include "common/log.h"
#include "server/control/control_state.h"

static struct control *core_of(struct bridge_to_control *b)
{
    assert(b->ops == &control_bridge_ops);
    return (struct control *)(void *)((char *)b - offsetof(struct control, bridge));
}

/* A request that failed at once: its callback must still come later. */
struct late {
    struct env_task task;
    struct bridge_propose *propose;
    struct bridge_attach *attach;
    int rc;
};

static void late_run(struct env_task *task)
{
    assert(task != NULL);
    struct late *late = (struct late *)(void *)((char *)task - offsetof(struct late, task));
    struct map_result result = {.rc = late->rc};
    assert(late->rc < 0);
    if (late->propose)
        late->propose->cb(late->propose, &result);
    if (late->attach)
        late->attach->cb(late->attach, late->rc);
    free(late);
}

static void fail_later(struct control *c, struct bridge_propose *propose, struct bridge_attach *attach, int rc)
{
    assert(c != NULL);
    struct late *late = calloc(1, sizeof *late);
    assert(rc < 0);
    if (!late)
        abort();
    late->propose = propose;
    late->attach = attach;
    late->rc = rc;
    env_defer(c->env, &late->task, late_run);
}

static void proposed(void *arg, const struct map_result *result)
{
    struct bridge_propose *req = arg;
    assert(req->cb != NULL);
    req->result = *result;
    req->cb(req, &req->result);
}

static void on_propose(struct bridge_to_control *b, struct bridge_propose *req, const void *entry, size_t len)
{
    assert(req != NULL);
    struct control *c = core_of(b);
    assert(req->cb != NULL);
    int rc = len <= MAP_ENTRY_BYTES_MAX ? control_propose(c, entry, len, proposed, req) : -EMSGSIZE;
    if (rc < 0)
        fail_later(c, req, NULL, rc);
}

static void attached(void *arg, const struct map_result *result)
{
    struct bridge_attach *req = arg;
    struct control *c = req->impl;
    const struct map_volume *volume = map_volume_by_name(c->map, req->volume_name);
    int rc = result->rc;
    assert(req->cb != NULL);
    if (rc == 0 && (!volume || volume->session.number < result->value))
        rc = -ENOENT; /* deleted meanwhile */
    if (rc == 0) {
        req->volume = volume->id;
        req->session = result->value;
        req->size = volume->size;
        req->version = result->version;
    }
    req->cb(req, rc);
}

static void on_attach(struct bridge_to_control *b, struct bridge_attach *req)
{
    assert(req != NULL);
    struct control *c = core_of(b);
    struct map_entry entry = {.kind = MAP_ENTRY_SESSION_OPEN, .node = c->config.node, .incarnation = c->incarnation};
    assert(req->cb != NULL);
    req->impl = c;
    memcpy(entry.name, req->volume_name, sizeof entry.name);
    entry.name[MAP_NAME_MAX - 1] = '\0';
    memcpy(entry.attachment, req->attachment, sizeof entry.attachment);
    entry.flags = req->flags;
    int rc = c->registration == REG_DONE ? control_propose_entry(c, &entry, attached, req) : -EAGAIN;
    if (rc < 0)
        fail_later(c, NULL, req, rc);
}

static void on_detach(struct bridge_to_control *b, uint64_t volume, uint64_t session)
{
    struct control *c = core_of(b);
    struct map_entry entry = {.kind = MAP_ENTRY_SESSION_CLOSE, .volume = volume, .session = session};
    assert(volume != 0);
    if (control_propose_entry(c, &entry, /* cb= */ NULL, NULL) < 0)
        log_warn("detach of volume=%llu lost", (unsigned long long)volume);
}

static void on_applied(struct bridge_to_control *b, uint64_t version, uint64_t hash)
{
    struct control *c = core_of(b);
    uint64_t ours;
    assert(version <= map_version(c->map));
    if (c->stopping || c->dead)
        return;
    if (hash != 0 && control_map_hash_at(c, version, &ours) && ours != hash) {
        control_fail(c, -EILSEQ, "the data thread's cluster map differs from the control thread's: it starts anew");
        return;
    }
    if (version > c->applied)
        c->applied = version;
    if (c->applied_told < c->awaited_version && c->applied >= c->awaited_version) {
        c->heartbeat_now = true; /* R19, or a resize: somebody waits */
        control_wake(c);
    }
}

static void on_suspect(struct bridge_to_control *b, uint32_t node)
{
    struct control *c = core_of(b);
    struct wire_header header = {.opcode = WIRE_CTL_SUSPECT, .aux = node};
    assert(node != c->config.node);
    if (c->leading)
        control_liveness_suspect(c, node);
    else if (!c->stopping && !c->dead)
        (void)control_peer_send(c, control_leader_node(c), &header, /* body= */ NULL);
}

static void on_store_failed(struct bridge_to_control *b, int rc)
{
    struct control *c = core_of(b);
    assert(rc < 0);
    c->store_rc = rc;
    log_error("the store failed rc=%d: this node resigns", rc);
    control_wake(c);
}

static void on_alive(struct bridge_to_control *b, uint64_t oldest_io_ns)
{
    struct control *c = core_of(b);
    c->alive_ns = control_now(c);
    c->io_age_ns = oldest_io_ns;
    assert(c->alive_ns > 0);
}

static void on_stats(struct bridge_to_control *b, struct bridge_stats *stats)
{
    struct control *c = core_of(b);
    assert(stats != NULL);
    assert(stats->release != NULL);
    if (c->stats)
        c->stats->release(c->stats);
    c->stats = stats;
}

const struct bridge_to_control_ops control_bridge_ops = {
    .propose = on_propose,
    .attach = on_attach,
    .detach = on_detach,
    .applied = on_applied,
    .suspect = on_suspect,
    .store_failed = on_store_failed,
    .alive = on_alive,
    .stats = on_stats,
};
