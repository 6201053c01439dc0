/* SPDX-License-Identifier: Apache-2.0 */
/* control: life of a core, its turn and its tick (docs/internals/control.md).
 *
 * - control_create checks the times (R10: node timeout >= lease + drift); control_start listens and starts ticking
 * - the log's events change the map only, and wake the core: inside the log nothing may be called back
 * - control_turn does what follows: role, feeding, own registration, proposals, grants
 * - control_tick does what follows from time: heartbeats, silence, duties, retries
 * - control_stop ends every request with -ESHUTDOWN, closes every link, and reports when the last one is gone
 *
 * Failure: control_fail calls the fatal hook once; from then on the core only waits to be stopped.
 */
#include "server/control/control.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "control"
#include "common/log.h"
#include "server/control/control_state.h"

static void control_turn(struct env_task *task);
static void control_tick(struct env_timer *timer);

uint64_t control_now(struct control *c)
{
    assert(c != NULL);
    return env_now_ns(c->env);
}

uint64_t control_lived(const struct control *c)
{
    uint64_t gap = env_now_ns(c->env) - c->ticked_ns, step = control_lived_step(c);
    assert(c->started);
    return c->lived_ns + (gap < step ? gap : step);
}

uint64_t control_lived_step(const struct control *c)
{
    assert(c->config.heartbeat_ns >= 2);
    return c->config.heartbeat_ns / 2; /* two ticks */
}

uint64_t control_id(struct control *c)
{
    assert(c != NULL);
    assert(c->next_id < UINT64_MAX);
    return c->next_id++;
}

void control_wake(struct control *c)
{
    assert(c->env != NULL);
    if (!c->dead && !c->stopping)
        env_defer(c->env, &c->turn_task, control_turn);
}

void control_fail(struct control *c, int rc, const char *sentence)
{
    assert(c != NULL);
    assert(rc < 0);
    if (c->dead)
        return;
    c->dead = true;
    log_error("control core ends: %s rc=%d", sentence, rc);
    if (c->config.data)
        c->config.data->ops->lease(c->config.data, 0, map_version(c->map));
    if (c->config.hooks.fatal)
        c->config.hooks.fatal(c->config.arg, rc, sentence);
}

static void fill_defaults(struct control_config *config)
{
    assert(config != NULL);
    struct {
        uint64_t *field, value;
    } defaults[] = {
        {&config->heartbeat_ns, ENV_MS(200)},    {&config->node_timeout_ns, ENV_MS(1200)},
        {&config->lease_ns, ENV_MS(900)},        {&config->io_stall_ns, ENV_MS(10000)},
        {&config->out_after_ns, ENV_MS(600000)}, {&config->elect_grace_ns, ENV_MS(10000)},
        {&config->persist_ns, ENV_MS(5000)},     {&config->shard_bytes, MAP_SHARD_BYTES_DEFAULT},
    };
    for (size_t i = 0; i < sizeof defaults / sizeof defaults[0]; i++) {
        if (*defaults[i].field == 0)
            *defaults[i].field = defaults[i].value;
    }
    if (config->drift_ppm == 0)
        config->drift_ppm = 1000;
    if (config->heal_shards_max == 0)
        config->heal_shards_max = 8;
    assert(config->heartbeat_ns > 0);
}

static int check_config(const struct control_config *config)
{
    if (!config->env || !config->transport || !config->data || config->node == 0 || config->cluster_id == 0)
        return -EINVAL;
    if (config->voter_count < 1 || config->voter_count > CONTROL_VOTERS_MAX)
        return -EINVAL;
    if (config->listen_count < 1 || config->listen_count > CONTROL_LISTEN_MAX)
        return -EINVAL;
    bool voter = false;
    for (uint32_t i = 0; i < config->voter_count; i++)
        voter = voter || config->voters[i].node == config->node;
    if (voter != (config->log != NULL))
        return -EINVAL;
    uint64_t drift = 2 * config->lease_ns / 1000000 * config->drift_ppm;
    if (config->lease_ns > config->node_timeout_ns || config->node_timeout_ns - config->lease_ns < drift)
        return -EINVAL; /* R10 */
    if (config->heartbeat_ns * 2 > config->lease_ns)
        return -EINVAL;
    return 0;
}

int control_create(const struct control_config *config, struct control **ret_control)
{
    struct control_config full = *config;
    assert(ret_control != NULL);
    fill_defaults(&full);
    int rc = check_config(&full);
    if (rc < 0)
        return rc;
    struct control *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->config = full;
    c->env = full.env;
    c->map = map_create();
    c->bridge.ops = &control_bridge_ops;
    c->next_id = 1;
    c->kept_first = 1;
    list_head_init(&c->conns);
    list_head_init(&c->proposals);
    list_head_init(&c->submissions);
    list_head_init(&c->admins);
    list_head_init(&c->snap_waits);
    if (!full.log && full.saved_map && map_restore(c->map, full.saved_map, full.saved_map_len) == 0) {
        c->kept_first = map_version(c->map) + 1;
        if (map_cluster_id(c->map) != full.cluster_id) { /* of another cluster: worth nothing */
            map_destroy(c->map);
            c->map = map_create();
            c->kept_first = 1;
        }
    }
    assert(c->kept_first == map_version(c->map) + 1);
    *ret_control = c;
    return 0;
}

int control_start(struct control *c)
{
    assert(!c->started);
    int rc = control_links_listen(c);
    if (rc < 0)
        return rc;
    c->started = true;
    c->alive_ns = control_now(c);
    c->ticked_ns = c->lived_ns = c->alive_ns;
    c->heartbeat_after_ns = c->alive_ns;
    env_timer_start(c->env, &c->tick_timer, 1, control_tick);
    control_wake(c);
    assert(c->tick_timer.armed);
    return 0;
}

static void control_turn(struct env_task *task)
{
    struct control *c = (struct control *)(void *)((char *)task - offsetof(struct control, turn_task));
    assert(c->map != NULL);
    if (c->dead || c->stopping || !c->started)
        return;
    control_liveness_role(c);
    control_liveness_map(c);
    control_map_feed(c);
    control_node_turn(c);
    control_submit_turn(c);
    control_snap_turn(c);
    control_propose_turn(c);
    assert(c->data_version <= map_version(c->map));
}

static void control_tick(struct env_timer *timer)
{
    struct control *c = (struct control *)(void *)((char *)timer - offsetof(struct control, tick_timer));
    assert(c->started);
    if (c->dead || c->stopping)
        return;
    env_timer_start(c->env, &c->tick_timer, c->config.heartbeat_ns / 4, control_tick);
    uint64_t now = control_now(c);
    if (now - c->ticked_ns > CONTROL_SLEPT_BEATS * c->config.heartbeat_ns)
        control_liveness_slept(c);
    c->lived_ns = control_lived(c);
    c->ticked_ns = now;
    control_liveness_role(c);
    control_node_tick(c);
    control_follow_tick(c);
    control_lease_tick(c);
    control_liveness_tick(c);
    control_duties_tick(c);
    control_propose_tick(c);
    control_admin_tick(c);
    control_links_tick(c);
    control_map_persist(c);
    control_wake(c);
    assert(c->tick_timer.armed || c->dead);
}

/* ---- the log ---- */

void control_log_applied(struct control *c, uint64_t version, const void *bytes, size_t len)
{
    assert(c->config.log != NULL);
    assert(version == map_version(c->map) + 1);
    control_map_entry(c, version, bytes, len);
    control_wake(c);
}

int control_log_snapshot(struct control *c, void **ret_bytes, size_t *ret_len)
{
    assert(c != NULL);
    assert(c->config.log != NULL);
    return map_snapshot(c->map, ret_bytes, ret_len);
}

int control_log_restored(struct control *c, const void *bytes, size_t len, uint64_t version)
{
    assert(c->config.log != NULL);
    int rc = control_map_replace(c, bytes, len);
    if (rc == 0 && map_version(c->map) != version)
        rc = -EBADMSG;
    control_wake(c);
    assert(rc <= 0);
    return rc;
}

void control_log_role_changed(struct control *c)
{
    assert(c->config.log != NULL);
    if (!c->started || c->dead || c->stopping)
        return;
    control_liveness_role(c);
    control_propose_resend(c);
    c->heartbeat_now = true;
    control_wake(c);
}

/* ---- the end ---- */

static void stop_done(struct env_task *task)
{
    assert(task != NULL);
    struct control *c = (struct control *)(void *)((char *)task - offsetof(struct control, stop_task));
    assert(c->stopping);
    if (c->stopped || c->link_count > 0)
        return;
    c->stopped = true;
    if (c->stop_cb)
        c->stop_cb(c->stop_arg);
}

void control_link_opened(struct control *c)
{
    assert(c != NULL);
    c->link_count++;
    assert(c->link_count <= 2 * CONTROL_LINKS_MAX);
}

void control_link_gone(struct control *c)
{
    assert(c != NULL);
    assert(c->link_count > 0);
    c->link_count--;
    if (c->stopping && c->link_count == 0)
        env_defer(c->env, &c->stop_task, stop_done);
}

void control_stop(struct control *c, void (*cb)(void *arg), void *arg)
{
    assert(!c->stopping);
    c->stopping = true;
    c->stop_cb = cb;
    c->stop_arg = arg;
    env_timer_stop(c->env, &c->tick_timer);
    control_submit_close(c);
    control_propose_close(c);
    control_admin_close(c);
    control_liveness_close(c);
    control_links_close(c);
    if (c->link_count == 0)
        env_defer(c->env, &c->stop_task, stop_done);
    assert(list_empty(&c->proposals));
}

static void free_lists(struct control *c)
{
    assert(c != NULL);
    struct list_node *node;
    while ((node = list_pop_front(&c->proposals)) != NULL) {
        struct control_proposal *p = list_entry(node, struct control_proposal, node_link);
        free(p->bytes);
        free(p);
    }
    while ((node = list_pop_front(&c->submissions)) != NULL)
        free(list_entry(node, struct control_submission, node_link));
    while ((node = list_pop_front(&c->conns)) != NULL) {
        struct control_conn *conn = list_entry(node, struct control_conn, node_link);
        free(conn->snapshot);
        free(conn);
    }
    while ((node = list_pop_front(&c->admins)) != NULL)
        free(list_entry(node, struct control_admin_request, node_link));
    control_snap_forget(c);
    assert(list_empty(&c->conns));
}

void control_destroy(struct control *c)
{
    if (!c)
        return;
    assert(c->link_count == 0 || !c->stopped); /* a node may crash while it stops */
    env_timer_stop(c->env, &c->tick_timer);
    free_lists(c);
    for (uint32_t i = 0; i < c->peer_count; i++)
        free(c->peers[i]);
    control_map_close(c);
    control_node_close(c);
    map_destroy(c->map);
    free(c);
}

/* ---- questions ---- */

const struct map *control_map(const struct control *c)
{
    assert(c != NULL);
    return c->map;
}

bool control_is_leader(const struct control *c)
{
    assert(c != NULL);
    return c->leading;
}

uint64_t control_incarnation(const struct control *c)
{
    assert(c != NULL);
    return c->incarnation;
}

const char *control_listen_address(const struct control *c, uint32_t i)
{
    assert(c != NULL);
    assert(i < c->config.listen_count);
    return c->listeners[i] ? listener_address(c->listeners[i]) : NULL;
}

struct bridge_to_control *control_bridge(struct control *c)
{
    assert(c != NULL);
    assert(c->bridge.ops != NULL);
    return &c->bridge;
}
