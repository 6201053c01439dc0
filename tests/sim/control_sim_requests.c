/* SPDX-License-Identifier: Apache-2.0 */
/* control_sim_requests: what operators and clients ask of simulated control planes.
 *
 *   - apply: one request id, proposed through one live core after the other until one of them has the result
 *   - attach: through the gateway's core, as its data side would; the result, or the gateway's end, is told by an event of nobody
 * Failure modes: a core that dies ends an attach with -ENOTCONN; an apply goes on elsewhere.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/control_sim_internal.h"

#define TRY_NS ENV_MS(1000)
#define TRIES_MAX 120u

/* ---- apply ---- */

struct attempt {
    struct bridge_propose req;
    struct list_node node;
    struct map_result *result; /* of the caller, NULL when it is gone */
    bool *done;
};

static void attempt_done(struct bridge_propose *req, const struct map_result *result)
{
    struct attempt *attempt = list_entry(req, struct attempt, req);
    if (attempt->done && result->rc != -ESHUTDOWN && result->rc != -EAGAIN) {
        *attempt->result = *result;
        *attempt->done = true;
    }
    list_remove(&attempt->node);
    free(attempt);
}

static bool is_done(void *arg)
{
    return *(bool *)arg;
}

static struct control *any_core(struct control_sim *sim)
{
    int start = (int)world_random_below(sim->world, (uint64_t)sim->config.node_max);
    for (int i = 0; i < sim->config.node_max; i++) {
        struct control *core = control_sim_core(sim, 1 + (start + i) % sim->config.node_max);
        if (core && control_incarnation(core) != 0)
            return core;
    }
    return NULL;
}

static void try_apply(struct control_sim *sim, const void *bytes, size_t len, struct map_result *result, bool *done)
{
    struct control *core = any_core(sim);
    if (core) {
        struct attempt *attempt = calloc(1, sizeof(*attempt));
        assert(attempt);
        attempt->req.cb = attempt_done;
        attempt->result = result;
        attempt->done = done;
        list_push_back(&sim->attempts, &attempt->node);
        struct bridge_to_control *b = control_bridge(core);
        b->ops->propose(b, &attempt->req, bytes, len);
    }
    (void)world_run_until(sim->world, is_done, done, TRY_NS);
}

static void forget_attempts(struct control_sim *sim)
{
    list_for_each(node, &sim->attempts) list_entry(node, struct attempt, node)->done = NULL;
}

int control_sim_apply(struct control_sim *sim, struct map_entry *entry, struct map_result *ret_result)
{
    uint8_t *bytes = malloc(MAP_ENTRY_BYTES_MAX);
    uint64_t id[2] = {world_random(sim->world) | 1, world_random(sim->world)};
    bool done = false;
    assert(bytes && ret_result);
    memcpy(entry->request, id, sizeof(entry->request));
    int len = map_entry_encode(entry, bytes, MAP_ENTRY_BYTES_MAX);
    for (uint32_t i = 0; len > 0 && i < TRIES_MAX && !done; i++)
        try_apply(sim, bytes, (size_t)len, ret_result, &done);
    forget_attempts(sim);
    free(bytes);
    if (len < 0)
        return len;
    if (!done)
        return -ETIMEDOUT;
    check_result(sim, entry->request, ret_result);
    return ret_result->rc;
}

/* ---- attach ---- */

struct attaching {
    struct bridge_attach req;
    struct list_node node;
    struct control_sim *sim;
    struct control_life *life; /* NULL: it ended */
    struct control_sim_attach *asker;
    struct world_event event;
    int rc;
    bool told;
};

static void attaching_told(struct world_event *event)
{
    struct attaching *a = list_entry(event, struct attaching, event);
    struct control_sim_attach *asker = a->asker;
    int rc = a->rc;
    uint64_t session = a->req.session;
    assert(a->told);
    list_remove(&a->node);
    free(a);
    asker->cb(asker, rc, session);
}

static void tell(struct attaching *a, int rc)
{
    assert(!a->told);
    a->told = true;
    a->rc = rc;
    world_schedule(a->sim->world, &a->event, WORLD_NOBODY, ENV_MS(1) / 10, attaching_told);
}

static void attach_done(struct bridge_attach *req, int rc)
{
    struct attaching *a = list_entry(req, struct attaching, req);
    assert(rc <= 0);
    if (rc == 0)
        check_grant(a->sim, req->volume, req->session, req->version);
    tell(a, rc);
}

void control_sim_attach(struct control_sim *sim, struct control_sim_attach *asker)
{
    struct attaching *a = calloc(1, sizeof(*a));
    const struct map_volume *volume = map_volume_by_id(sim->map, asker->volume);
    struct control_life *life = sim->nodes[asker->gateway].life;
    assert(a && asker->cb && asker->gateway > 0 && asker->gateway <= (uint32_t)sim->config.node_max);
    a->sim = sim;
    a->asker = asker;
    list_push_back(&sim->attaches, &a->node);
    if (!volume || !life || !life->control) {
        tell(a, volume ? -ENOTCONN : -ENOENT);
        return;
    }
    a->life = life;
    a->req.cb = attach_done;
    a->req.flags = asker->flags;
    memcpy(a->req.volume_name, volume->name, sizeof(a->req.volume_name));
    memcpy(a->req.attachment, asker->attachment, sizeof(a->req.attachment));
    struct bridge_to_control *b = control_bridge(life->control);
    b->ops->attach(b, &a->req);
}

/* ---- ends ---- */

void requests_crashed(struct control_sim *sim, struct control_life *life)
{
    assert(life->dying);
    list_for_each(node, &sim->attaches)
    {
        struct attaching *a = list_entry(node, struct attaching, node);
        if (a->life == life && !a->told)
            tell(a, -ENOTCONN);
    }
}

void requests_close(struct control_sim *sim)
{
    struct list_node *node;
    while ((node = list_pop_front(&sim->attempts)) != NULL)
        free(list_entry(node, struct attempt, node));
    while ((node = list_pop_front(&sim->attaches)) != NULL) {
        struct attaching *a = list_entry(node, struct attaching, node);
        world_cancel(sim->world, &a->event);
        free(a);
    }
    assert(list_empty(&sim->attempts));
}
