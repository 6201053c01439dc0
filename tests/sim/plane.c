/* SPDX-License-Identifier: Apache-2.0 */
/* plane: hands every call to the control plane that the scenario chose.
 *
 * - control = 0: authority: quick, without consensus. control = 1: the shipped control cores over the shipped consensus.
 * Failure: none of its own.
 */
#include "tests/sim/plane.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/authority.h"
#include "tests/sim/control_sim.h"

static_assert(PLANE_CLUSTER == AUTHORITY_CLUSTER && PLANE_CLUSTER == CONTROL_SIM_CLUSTER, "one cluster");

struct plane {
    struct authority *authority;
    struct control_sim *control;
};

struct attaching {
    struct plane_attach *req;
    struct authority_attach authority;
    struct control_sim_attach control;
};

static void create_authority(struct plane *plane, const struct plane_config *config)
{
    const struct scenario *s = config->scenario;
    struct authority_config authority = {
        .world = config->world,
        .net = config->net,
        .node_max = config->node_max,
        .heartbeat_ns = ENV_MS(200),
        .node_timeout_ns = ENV_MS(1200),
        .lease_ns = ENV_MS(900),
        .grace_ns = ENV_MS(2500),
        .out_after_ns = ENV_MS(s->out_after_ms),
        .commit_min_ns = 200000,
        .commit_max_ns = ENV_MS(4),
        .shard_changed = config->shard_changed,
        .arg = config->arg,
    };
    plane->authority = authority_create(&authority);
}

static void create_control(struct plane *plane, const struct plane_config *config)
{
    const struct scenario *s = config->scenario;
    struct control_sim_config control = {
        .world = config->world,
        .net = config->net,
        .node_max = config->node_max,
        .voter_count = config->node_max >= 5 ? 5 : 3,
        .elect_grace_ns = ENV_MS(2500),
        .out_after_ns = s->out_after_ms ? ENV_MS(s->out_after_ms) : ENV_MS(3600000),
        .bridge_delay_max_ns = 200000,
        .shard_changed = config->shard_changed,
        .broken = config->broken,
        .arg = config->arg,
    };
    for (uint32_t i = 0; i < control.voter_count; i++)
        control.voters[i] = (int)i + 1;
    plane->control = control_sim_create(&control);
}

struct plane *plane_create(const struct plane_config *config)
{
    struct plane *plane = calloc(1, sizeof(*plane));
    assert(plane);
    if (config->scenario->control)
        create_control(plane, config);
    else
        create_authority(plane, config);
    return plane;
}

void plane_destroy(struct plane *plane)
{
    if (!plane)
        return;
    authority_destroy(plane->authority);
    control_sim_destroy(plane->control);
    free(plane);
}

const struct map *plane_map(const struct plane *plane)
{
    return plane->control ? control_sim_map(plane->control) : authority_map(plane->authority);
}

uint64_t plane_applied(const struct plane *plane, int node)
{
    return plane->control ? control_sim_applied(plane->control, node) : authority_applied(plane->authority, node);
}

int plane_apply(struct plane *plane, struct map_entry *entry, struct map_result *ret_result)
{
    return plane->control ? control_sim_apply(plane->control, entry, ret_result)
                          : authority_apply(plane->authority, entry, ret_result);
}

struct bridge_to_control *plane_connect(struct plane *plane, int node, struct env *env, struct bridge_to_data *data,
                                        void (*ended)(void *arg), void *arg)
{
    return plane->control ? control_sim_connect(plane->control, node, env, data, ended, arg)
                          : authority_connect(plane->authority, node, env, data, ended, arg);
}

void plane_register(struct plane *plane, struct bridge_to_control *b, const struct map_node *info)
{
    if (plane->control)
        control_sim_register(b, info);
    else
        authority_register(b, info);
}

void plane_stop(struct plane *plane, struct bridge_to_control *b)
{
    if (plane->control)
        control_sim_stop(b);
}

void plane_disconnect(struct plane *plane, struct bridge_to_control *b)
{
    if (plane->control)
        control_sim_disconnect(b);
    else
        authority_disconnect(b);
}

int plane_leader(const struct plane *plane)
{
    assert(plane != NULL);
    return plane->control ? control_sim_leader(plane->control) : 0;
}

struct control *plane_core(const struct plane *plane, int node)
{
    return plane->control ? control_sim_core(plane->control, node) : NULL;
}

/* ---- attach ---- */

static void attached(struct attaching *attaching, int rc, uint64_t session)
{
    struct plane_attach *req = attaching->req;
    free(attaching);
    req->cb(req, rc, session);
}

static void authority_attached(struct authority_attach *own, int rc, uint64_t session)
{
    attached(own->owner, rc, session);
}

static void control_attached(struct control_sim_attach *own, int rc, uint64_t session)
{
    attached(own->owner, rc, session);
}

void plane_attach(struct plane *plane, struct plane_attach *req)
{
    struct attaching *a = calloc(1, sizeof(*a));
    assert(a && req->cb);
    a->req = req;
    if (plane->control) {
        a->control = (struct control_sim_attach){
            .volume = req->volume, .gateway = req->gateway, .flags = req->flags, .cb = control_attached, .owner = a};
        memcpy(a->control.attachment, req->attachment, sizeof(req->attachment));
        control_sim_attach(plane->control, &a->control);
        return;
    }
    a->authority = (struct authority_attach){
        .volume = req->volume, .gateway = req->gateway, .flags = req->flags, .cb = authority_attached, .owner = a};
    memcpy(a->authority.attachment, req->attachment, sizeof(req->attachment));
    authority_attach(plane->authority, &a->authority);
}
