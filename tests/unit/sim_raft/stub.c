/* SPDX-License-Identifier: Apache-2.0 */
/* stub: a data side that stores nothing: it follows the map and proposes what a primary would.
 *
 *   - start: env, receiver, connect; a moment later ("the store is open") register
 *   - entries are applied as they come, settled a little later: then applied() is told
 *   - on a timer: alive(); each shard it leads is made active; members that came back are added
 * Failure modes: `ended` crashes the process from a later event and starts it anew.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/control_sim_internal.h"
#include "tests/unit/sim_raft/rig.h"

#define TURN_MS 100u

struct stub_life {
    struct stub *stub;
    struct env *env;
    struct map *map;
    struct bridge_to_data receiver;
    struct bridge_to_control *control;
    struct env_timer turn_timer, settle_timer, open_timer;
    uint64_t incarnation;
    struct list_node proposals;
};

struct stub_proposal {
    struct bridge_propose req;
    struct list_node node;
    struct rig *rig;
    uint8_t request[16];
};

/* ---- proposals ---- */

static void proposed(struct bridge_propose *req, const struct map_result *result)
{
    struct stub_proposal *p = list_entry(req, struct stub_proposal, req);
    if (result->rc != -ESHUTDOWN && result->rc != -EAGAIN) {
        p->rig->answers++;
        check_result(p->rig->control, p->request, result);
    }
    list_remove(&p->node);
    free(p);
}

static void propose(struct stub_life *life, const struct map_entry *entry)
{
    struct rig *rig = life->stub->rig;
    struct stub_proposal *p = calloc(1, sizeof(*p));
    struct map_entry copy = *entry;
    uint8_t *bytes = malloc(MAP_ENTRY_BYTES_MAX);
    uint64_t id[2] = {world_random(rig->world) | 1, world_random(rig->world)};
    assert(p && bytes);
    memcpy(copy.request, id, sizeof(copy.request));
    memcpy(p->request, id, sizeof(p->request));
    int len = map_entry_encode(&copy, bytes, MAP_ENTRY_BYTES_MAX);
    assert(len > 0);
    p->rig = rig;
    p->req.cb = proposed;
    list_push_back(&life->proposals, &p->node);
    rig->requests++;
    life->control->ops->propose(life->control, &p->req, bytes, (size_t)len);
    free(bytes);
}

bool stub_propose(struct stub *stub, const struct map_entry *entry)
{
    if (!stub->life || !stub->life->incarnation)
        return false;
    propose(stub->life, entry);
    return true;
}

static void add_member(struct stub_life *life, const struct map_shard *shard, const struct map_member *member)
{
    const struct map_node *node = map_node_by_id(life->map, member->node);
    if ((member->flags & MAP_MEMBER_IN_SYNC) || !node || !node->up || node->store_failed ||
        env_random(life->env) % 10 != 0)
        return;
    struct map_entry entry = {.kind = MAP_ENTRY_MEMBER_ADD, .volume = shard->volume, .shard = shard->index};
    entry.epoch = shard->epoch;
    entry.node = member->node;
    entry.incarnation = node->incarnation;
    entry.instance = member->instance;
    propose(life, &entry);
}

static void lead_volume(void *arg, const struct map_volume *volume)
{
    struct stub_life *life = arg;
    uint32_t self = (uint32_t)life->stub->node;
    for (uint32_t i = 0; i < volume->shard_count; i++) {
        const struct map_shard *shard = &volume->shards[i];
        if (shard->primary != self)
            continue;
        struct map_active active = {.volume = volume->id, .shard = i, .epoch = shard->epoch};
        struct map_entry entry = {.kind = MAP_ENTRY_EPOCH_ACTIVE,
                                  .node = self,
                                  .incarnation = life->incarnation,
                                  .actives = &active,
                                  .active_count = 1};
        if (shard->active_epoch != shard->epoch && map_in_sync_count(shard) >= volume->min_replicas)
            propose(life, &entry);
        for (uint32_t m = 0; shard->active_epoch == shard->epoch && m < shard->member_count; m++)
            add_member(life, shard, &shard->members[m]);
    }
}

/* ---- turns ---- */

static void turn(struct env_timer *timer)
{
    struct stub_life *life = list_entry(timer, struct stub_life, turn_timer);
    env_timer_start(life->env, timer, ENV_MS(TURN_MS), turn);
    life->control->ops->alive(life->control, 0);
    if (life->incarnation)
        map_each_volume(life->map, lead_volume, life);
}

static void settle(struct env_timer *timer)
{
    struct stub_life *life = list_entry(timer, struct stub_life, settle_timer);
    uint64_t hash = env_random(life->env) % 4 == 0 ? map_hash(life->map) : 0;
    assert(map_version(life->map) > 0);
    life->control->ops->applied(life->control, map_version(life->map), hash);
}

static void map_changed(struct stub_life *life)
{
    if (!life->settle_timer.armed)
        env_timer_start(life->env, &life->settle_timer, env_random(life->env) % ENV_MS(5), settle);
}

/* ---- what control says ---- */

static struct stub_life *of_data(struct bridge_to_data *b)
{
    return list_entry(b, struct stub_life, receiver);
}

static void on_registered(struct bridge_to_data *b, uint64_t cluster_id, uint32_t node, uint64_t incarnation)
{
    struct stub_life *life = of_data(b);
    const struct map_node *self = map_node_by_id(life->map, node);
    assert(cluster_id == CONTROL_SIM_CLUSTER && node == (uint32_t)life->stub->node);
    if (!self || self->incarnation != incarnation)
        rig_fail(life->stub->rig, "node %u was registered before its map showed it", node);
    if (incarnation <= life->incarnation)
        rig_fail(life->stub->rig, "node %u: incarnation %llu after %llu", node, (unsigned long long)incarnation,
                 (unsigned long long)life->incarnation);
    life->incarnation = incarnation;
    life->stub->registered_ns = world_now_ns(life->stub->rig->world);
}

static void on_snapshot(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len)
{
    struct stub_life *life = of_data(b);
    int rc = map_restore(life->map, bytes, len);
    if (rc < 0 || map_version(life->map) != version)
        rig_fail(life->stub->rig, "node %d: a snapshot does not restore", life->stub->node);
    map_changed(life);
}

static void on_entry(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len)
{
    struct stub_life *life = of_data(b);
    struct map_result result;
    if (version != map_version(life->map) + 1) {
        rig_fail(life->stub->rig, "node %d: entry %llu after %llu", life->stub->node, (unsigned long long)version,
                 (unsigned long long)map_version(life->map));
        return;
    }
    map_apply(life->map, version, bytes, len, &result);
    map_changed(life);
}

static void on_lease(struct bridge_to_data *b, uint64_t until_ns, uint64_t version)
{
    (void)b;
    (void)until_ns;
    (void)version; /* control_sim_check knows what may be done with it */
}

static void on_nothing(struct bridge_to_data *b)
{
    (void)b;
}

static const struct bridge_to_data_ops receiver_ops = {.registered = on_registered,
                                                       .map_snapshot = on_snapshot,
                                                       .map_entry = on_entry,
                                                       .lease = on_lease,
                                                       .stats_request = on_nothing,
                                                       .stop = on_nothing};

/* ---- lives ---- */

static void end_now(struct world_event *event)
{
    struct stub *stub = list_entry(event, struct stub, end_event);
    if (stub->life)
        rig_crash(stub->rig, stub->node, WORLD_CRASH_PROCESS);
}

static void ended(void *arg)
{
    struct stub *stub = arg;
    assert(stub->life);
    world_schedule(stub->rig->world, &stub->end_event, WORLD_NOBODY, ENV_MS(1), end_now);
}

static void store_opened(struct env_timer *timer)
{
    struct stub_life *life = list_entry(timer, struct stub_life, open_timer);
    struct stub *stub = life->stub;
    struct map_node info = {.id = (uint32_t)stub->node, .capacity_bytes = 1ull << 40};
    info.stop = stub->lives == 1 ? MAP_STOP_CLEAN : stub->rebooted ? MAP_STOP_REBOOTED : MAP_STOP_SAME_BOOT;
    stub->rebooted = false;
    (void)snprintf((char *)info.store_uuid, sizeof(info.store_uuid), "store-%d", stub->node);
    (void)snprintf(info.data_address, sizeof(info.data_address), "sim:%d:1", stub->node);
    (void)snprintf(info.host, sizeof(info.host), "host%d", stub->node);
    control_sim_register(life->control, &info);
    env_timer_start(life->env, &life->turn_timer, ENV_MS(TURN_MS), turn);
}

void stub_start(struct stub *stub)
{
    struct world *world = stub->rig->world;
    struct stub_life *life = calloc(1, sizeof(*life));
    assert(life && !stub->life);
    if (!world_node_up(world, stub->node))
        world_node_start(world, stub->node);
    stub->life = life;
    stub->lives++;
    stub->registered_ns = 0;
    stub->started_ns = world_now_ns(world);
    life->stub = stub;
    life->env = world_env_create(world, stub->node);
    life->map = map_create();
    life->receiver.ops = &receiver_ops;
    list_head_init(&life->proposals);
    life->control = control_sim_connect(stub->rig->control, stub->node, life->env, &life->receiver, ended, stub);
    env_timer_start(life->env, &life->open_timer, ENV_MS(1) + env_random(life->env) % ENV_MS(50), store_opened);
}

void stub_crash(struct stub *stub, enum world_crash kind)
{
    struct world *world = stub->rig->world;
    struct stub_life *life = stub->life;
    struct list_node *node;
    stub->rebooted = stub->rebooted || kind == WORLD_CRASH_POWER;
    if (!life) { /* no process, but the power may still go */
        if (kind == WORLD_CRASH_POWER && world_node_powered(world, stub->node)) {
            world_node_start(world, stub->node);
            world_node_crash(world, stub->node, kind);
        }
        return;
    }
    stub->life = NULL;
    world_cancel(world, &stub->end_event);
    world_node_crash(world, stub->node, kind); /* control_sim takes its side apart */
    while ((node = list_pop_front(&life->proposals)) != NULL)
        free(list_entry(node, struct stub_proposal, node));
    map_destroy(life->map);
    free(life);
}

void stub_suspect(struct stub *stub, int node)
{
    assert(node != stub->node);
    if (stub->life && stub->life->incarnation)
        stub->life->control->ops->suspect(stub->life->control, (uint32_t)node);
}

const struct map *stub_map(const struct stub *stub)
{
    return stub->life ? stub->life->map : NULL;
}

uint64_t stub_incarnation(const struct stub *stub)
{
    return stub->life ? stub->life->incarnation : 0;
}
