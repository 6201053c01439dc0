/* SPDX-License-Identifier: Apache-2.0 */
/* control_node: what this node does for itself: registration (R1), heartbeats and its lease (R9).
 *
 *            map has the cluster's id         entry applied here          NODE_DOWN for our incarnation
 *   REG_IDLE ------------------------> PROPOSED -----------------> DONE ------------------------------> DEPOSED
 *      ^        control_node_turn               registered()               check_deposed()                 |
 *      +------------------------------- lease ended, no hook: register again ------------------------------+
 *
 * - a heartbeat says when it was sent, and the answer repeats that: the lease counts from there (R9)
 * - the oldest I/O grows with the data thread's silence: a thread that hangs can't say so itself (R23)
 * - a session entry that the data thread applied is reported at once: somebody waits for its grant (R19)
 *
 * Failure: answers of an older incarnation or without a term of ours are ignored; a map that differs from the leader's is fatal.
 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "control"
#include "common/log.h"
#include "server/control/control_state.h"

static void void_lease(struct control *c)
{
    assert(c != NULL);
    struct bridge_to_data *data = c->config.data;
    data->ops->lease(data, 0, map_version(c->map));
    assert(data->ops->lease != NULL);
}

/* ---- registration ---- */

static void registered(void *arg, const struct map_result *result)
{
    struct control *c = arg;
    struct bridge_to_data *data = c->config.data;
    assert(c->registration == REG_PROPOSED);
    if (c->stopping || result->rc == -ESHUTDOWN)
        return;
    if (result->rc == -EEXIST) {
        control_fail(c, -EEXIST, "another store that is up uses this node id: give this node an id of its own");
        return;
    }
    if (result->rc < 0) {
        log_warn("registration refused rc=%d", result->rc);
        c->registration = REG_IDLE;
        return;
    }
    c->registration = REG_DONE;
    c->incarnation = result->value;
    c->registered_version = result->version;
    c->lease_until_ns = 0;
    c->alive_ns = control_now(c);
    c->io_age_ns = 0;
    c->applied_told = 0;
    c->store_failed_proposed = false;
    c->heartbeat_now = true;
    assert(c->data_version >= result->version);
    log_info("registered node=%u incarnation=%llu", c->config.node, (unsigned long long)c->incarnation);
    data->ops->registered(data, c->config.cluster_id, c->config.node, c->incarnation);
    if (c->config.hooks.registered)
        c->config.hooks.registered(c->config.arg, c->incarnation);
    control_wake(c);
}

static void propose_registration(struct control *c)
{
    assert(c != NULL);
    struct map_entry entry = {.kind = MAP_ENTRY_NODE_REGISTER, .node = c->config.node, .node_info = c->config.self};
    assert(c->registration == REG_IDLE);
    if (control_propose_entry(c, &entry, registered, c) == 0)
        c->registration = REG_PROPOSED;
}

static void check_deposed(struct control *c)
{
    assert(c != NULL);
    const struct map_node *self = map_node_by_id(c->map, c->config.node);
    assert(c->registration == REG_DONE);
    if (map_version(c->map) < c->registered_version || (self && self->up && self->incarnation == c->incarnation))
        return;
    c->registration = REG_DEPOSED;
    void_lease(c);
    if (self && self->incarnation > c->incarnation) {
        control_fail(c, -EEXIST, "another daemon registered as this node: only one may run");
        return;
    }
    log_warn("declared down while alive: incarnation=%llu", (unsigned long long)c->incarnation);
    c->incarnation = 0;
    if (c->config.hooks.deposed)
        c->config.hooks.deposed(c->config.arg);
}

static void report_failed_store(struct control *c)
{
    struct map_entry entry = {.kind = MAP_ENTRY_STORE_FAILED, .node = c->config.node, .incarnation = c->incarnation};
    assert(c->store_rc < 0);
    if (!c->store_failed_proposed && control_propose_entry(c, &entry, /* cb= */ NULL, NULL) == 0)
        c->store_failed_proposed = true;
}

void control_node_turn(struct control *c)
{
    assert(c->started);
    if (c->registration == REG_DONE)
        check_deposed(c);
    if (c->registration == REG_DEPOSED && !c->config.hooks.deposed && control_now(c) > c->lease_until_ns) {
        c->config.self.stop = MAP_STOP_SAME_BOOT; /* nothing was lost; the leases ended */
        c->registration = REG_IDLE;
    }
    if (c->registration == REG_IDLE && map_cluster_id(c->map) == c->config.cluster_id)
        propose_registration(c);
    if (c->registration == REG_DONE && c->store_rc < 0)
        report_failed_store(c);
    if (c->heartbeat_now)
        control_node_heartbeat(c);
}

/* ---- heartbeats ---- */

static uint64_t io_age(const struct control *c, uint64_t now)
{
    assert(c != NULL);
    uint64_t silence = now - c->alive_ns;
    assert(now >= c->alive_ns);
    if (c->io_age_ns > 0)
        return c->io_age_ns + silence;
    return silence > ENV_MS(1000) ? silence : 0;
}

static void fill_report(const struct control *c, uint64_t report[REPORT_COUNT])
{
    assert(c != NULL);
    const struct bridge_stats *stats = c->stats;
    uint64_t newest = map_version(c->map) / CONTROL_HASH_EVERY * CONTROL_HASH_EVERY;
    memset(report, 0, REPORT_COUNT * sizeof report[0]);
    if (control_map_hash_at(c, newest, &report[REPORT_HASH]))
        report[REPORT_HASH_VERSION] = newest;
    if (!stats)
        return;
    assert(stats->release != NULL);
    report[REPORT_TOTAL_BYTES] = stats->bytes_total;
    report[REPORT_ALLOCATED_BYTES] = stats->bytes_allocated;
    report[REPORT_FREE_BYTES] =
        stats->bytes_total > stats->bytes_allocated ? stats->bytes_total - stats->bytes_allocated : 0;
    report[REPORT_SPACE] = (uint64_t)stats->near_full | (uint64_t)stats->full << 1 | (uint64_t)stats->failed << 2;
    report[REPORT_MARKS] = stats->marks;
    report[REPORT_SUSPECT_REGIONS] = stats->suspect_regions;
    report[REPORT_DAMAGED] = stats->blocks_damaged;
    report[REPORT_SERVING] = stats->shards_serving;
    report[REPORT_PARKED] = stats->shards_parked;
    report[REPORT_CLIENTS] = stats->clients;
    report[REPORT_SYNCS] = stats->sync_count;
    report[REPORT_RESYNC_BYTES] = stats->resync_bytes;
    report[REPORT_REAPING] = stats->shards_to_reap;
    report[REPORT_REAPED] = stats->records_removed;
}

void control_node_heartbeat(struct control *c)
{
    assert(c != NULL);
    uint64_t now = control_now(c), report[REPORT_COUNT], body[REPORT_COUNT];
    c->heartbeat_now = false;
    if (c->registration != REG_DONE)
        return;
    c->heartbeat_after_ns = now + c->config.heartbeat_ns;
    fill_report(c, report);
    struct wire_header header = {.opcode = WIRE_CTL_HEARTBEAT, .request_id = control_id(c)};
    header.aux = io_age(c, now);
    header.aux2 = c->applied;
    header.length = now; /* R9: the lease counts from here */
    header.body_len = sizeof body;
    c->applied_told = c->applied;
    assert(c->incarnation != 0);
    if (c->leading) {
        header.src_node = c->config.node;
        header.src_incarnation = c->incarnation;
        control_lease_heartbeat(c, /* conn= */ 0, &header, report, REPORT_COUNT);
        return;
    }
    for (uint32_t i = 0; i < REPORT_COUNT; i++)
        body[i] = htole64(report[i]);
    (void)control_peer_send(c, control_leader_node(c), &header, body);
}

void control_node_answered(struct control *c, uint32_t from, const struct wire_header *reply)
{
    assert(c != NULL);
    struct bridge_to_data *data = c->config.data;
    uint64_t now = control_now(c);
    if (reply->status == -EAGAIN) {
        control_leader_hint(c, from, (uint32_t)reply->aux);
        return;
    }
    if (reply->status == -EILSEQ) {
        control_fail(c, -EILSEQ, "this node's cluster map differs from the leader's: it starts anew from a snapshot");
        return;
    }
    c->leader_answered_ns = now;
    if (reply->status < 0 || c->registration != REG_DONE || reply->dst_incarnation != c->incarnation)
        return;
    if (reply->length > now || reply->aux > c->config.node_timeout_ns)
        return; /* not our clock, or a lease nobody may give */
    uint64_t until = reply->length + reply->aux;
    if (until <= c->lease_until_ns)
        return;
    c->lease_until_ns = until;
    assert(until <= now + c->config.node_timeout_ns);
    data->ops->lease(data, until, reply->map_version);
}

void control_node_tick(struct control *c)
{
    assert(c != NULL);
    uint64_t now = control_now(c);
    assert(c->config.heartbeat_ns > 0);
    if (c->registration == REG_DONE && now >= c->stats_after_ns) {
        c->stats_after_ns = now + CONTROL_STATS_NS;
        c->config.data->ops->stats_request(c->config.data);
    }
    if (now >= c->heartbeat_after_ns)
        control_node_heartbeat(c);
}

void control_node_close(struct control *c)
{
    assert(c != NULL);
    if (c->stats)
        c->stats->release(c->stats);
    c->stats = NULL;
    assert(c->stats == NULL);
}
