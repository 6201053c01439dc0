/* SPDX-License-Identifier: Apache-2.0 */
/* control_duties: what the leader proposes by itself, beside declaring nodes down.
 *
 * - CLUSTER_INIT, once, when the map has no id yet
 * - NODE_OUT when a node was down (or its store failed) for out_after
 * - ELECT when shards are without a primary though a candidate is up, elect_grace after the last node came or went (R18)
 * - replacement of members: control_heal.c
 *
 * Failure: an entry is proposed once and never forwarded; if its outcome is unknown, the next look at the map decides (R4).
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "control"
#include "common/log.h"
#include "server/control/control_state.h"

#define DUTIES_PERIOD_NS ENV_MS(500)
#define DUTY_BYTES_MAX 256u /* none of these entries has lists or texts */

static void duty_done(struct control_log_req *req, int rc)
{
    struct control_duty *duty = req->owner;
    struct control *c = duty->control;
    assert(duty->busy);
    assert(c->duties_pending > 0);
    duty->busy = false;
    c->duties_pending--;
    for (uint32_t i = 0; i < c->watch_count && rc < 0; i++) {
        if (c->watches[i].node == duty->down_node && c->watches[i].down_proposed == duty->down_incarnation)
            c->watches[i].down_proposed = 0;
    }
    control_wake(c);
}

int control_duty_propose(struct control *c, const struct map_entry *entry)
{
    struct control_log *log = c->config.log;
    struct control_duty *duty = NULL;
    uint8_t bytes[DUTY_BYTES_MAX];
    assert(c->leading);
    assert(entry->weight_count == 0 && entry->active_count == 0);
    for (uint32_t i = 0; i < CONTROL_DUTIES_MAX && !duty; i++)
        duty = c->duties[i].busy ? NULL : &c->duties[i];
    if (!duty)
        return -EBUSY;
    int rc = map_entry_encode(entry, bytes, sizeof bytes);
    if (rc > 0) {
        memset(duty, 0, sizeof *duty);
        duty->control = c;
        duty->req.owner = duty;
        duty->down_node = entry->kind == MAP_ENTRY_NODE_DOWN ? entry->node : 0;
        duty->down_incarnation = entry->incarnation;
        rc = log->ops->propose(log, bytes, (size_t)rc, &duty->req, duty_done);
    }
    if (rc < 0)
        return rc;
    duty->busy = true;
    c->duties_pending++;
    assert(c->duties_pending <= CONTROL_DUTIES_MAX);
    return 0;
}

static void init_cluster(struct control *c)
{
    assert(c != NULL);
    struct map_entry entry = {.kind = MAP_ENTRY_CLUSTER_INIT, .cluster_id = c->config.cluster_id};
    assert(map_cluster_id(c->map) == 0);
    if (c->duties_pending == 0 && control_duty_propose(c, &entry) == 0)
        log_info("new cluster id=%llx", (unsigned long long)entry.cluster_id);
}

static void take_out(struct control *c, uint64_t now)
{
    assert(c != NULL);
    for (uint32_t i = 0; i < c->watch_count; i++) {
        struct control_watch *w = &c->watches[i];
        const struct map_node *node = map_node_by_id(c->map, w->node);
        if (!node || node->out || w->down_since_ns == 0 || w->out_proposed == node->incarnation)
            continue;
        assert(now >= w->down_since_ns);
        if (now - w->down_since_ns < c->config.out_after_ns)
            continue;
        struct map_entry entry = {.kind = MAP_ENTRY_NODE_OUT, .node = node->id, .incarnation = node->incarnation};
        if (control_duty_propose(c, &entry) < 0)
            continue;
        w->out_proposed = node->incarnation;
        log_warn("node=%u is out: its shards get new members", node->id);
    }
}

struct headless {
    const struct map *map;
    bool found;
};

/* A shard without primary, one of whose candidates is up. */
static void look_for_headless(void *arg, const struct map_volume *volume)
{
    assert(volume != NULL);
    struct headless *h = arg;
    assert(volume->shards != NULL);
    for (uint32_t i = 0; i < volume->shard_count && !h->found; i++) {
        const struct map_shard *shard = &volume->shards[i];
        for (uint32_t m = 0; shard->primary == 0 && m < shard->member_count; m++)
            h->found = h->found || map_member_electable(h->map, &shard->members[m]);
    }
}

static void elect(struct control *c, uint64_t now)
{
    assert(c != NULL);
    struct headless h = {.map = c->map};
    assert(c->leading);
    if (c->duties_version != map_version(c->map)) {
        map_each_volume(c->map, look_for_headless, &h);
        if (!h.found)
            c->headless_since_ns = 0;
        else if (c->headless_since_ns == 0)
            c->headless_since_ns = now;
    }
    if (c->headless_since_ns == 0 || now - c->headless_since_ns < c->config.elect_grace_ns)
        return;
    if (now - c->node_change_ns < c->config.elect_grace_ns)
        return; /* a better one may be on its way */
    struct map_entry entry = {.kind = MAP_ENTRY_ELECT, .shard = UINT32_MAX};
    if (control_duty_propose(c, &entry) == 0) {
        log_warn("electing primaries of shards whose members all restarted");
        c->headless_since_ns = now;
    }
}

void control_duties_tick(struct control *c)
{
    uint64_t now = control_now(c);
    if (!c->leading || now < c->duties_after_ns)
        return;
    c->duties_after_ns = now + DUTIES_PERIOD_NS;
    if (map_cluster_id(c->map) == 0) {
        c->duties_after_ns = now;
        init_cluster(c);
        return;
    }
    if (map_cluster_id(c->map) != c->config.cluster_id)
        return;
    control_liveness_map(c);
    take_out(c, now);
    elect(c, now);
    control_snap_duty(c);
    if (c->duties_version != map_version(c->map))
        control_heal(c);
    assert(c->duties_version <= map_version(c->map));
}
