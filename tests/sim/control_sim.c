/* SPDX-License-Identifier: Apache-2.0 */
/* control_sim: lives of control planes.
 *
 *   - connect: an env of its own (the control thread), a transport, the bridge; messages of the data side wait
 *   - register: the log of a voter is opened over what its disk kept, the core is made and started, as server/daemon does
 *   - the world's node crashes: the log ends as a crash leaves it, the core is taken apart, its memory freed
 * Failure modes: a core that has to end (deposed, log failed, fatal) tells `ended` once, and does nothing more.
 */
#include "tests/sim/control_sim.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "tests/sim/control_sim_internal.h"

#define LOG_MODULE "sim"
#define POOL_BYTES (1u << 20) /* control frames have no payload */

static struct control_sim_node *node_of(const struct control_sim *sim, int node)
{
    assert(node > 0 && node <= sim->config.node_max);
    return (struct control_sim_node *)&sim->nodes[node];
}

void control_life_end(struct control_life *life)
{
    assert(!life->dying);
    if (life->told)
        return;
    life->told = true;
    if (life->ended)
        life->ended(life->ended_arg);
}

/* ---- hooks of the core ---- */

static void persist(void *arg, uint64_t version, const void *bytes, size_t len)
{
    struct control_life *life = arg;
    struct control_sim_node *node = life->node;
    assert(version > 0 && len > 0);
    free(node->saved_map);
    node->saved_map = malloc(len);
    assert(node->saved_map);
    memcpy(node->saved_map, bytes, len);
    node->saved_map_len = len;
}

static void deposed(void *arg)
{
    struct control_life *life = arg;
    life->node->sim->stats.deposed++;
    control_life_end(life);
}

static void fatal(void *arg, int rc, const char *sentence)
{
    struct control_life *life = arg;
    check_broken(life->node->sim, "node %d: the core ends rc=%d: %s", life->node->node, rc, sentence);
    control_life_end(life);
}

/* ---- start ---- */

struct bridge_to_control *control_sim_connect(struct control_sim *sim, int index, struct env *data_env,
                                              struct bridge_to_data *data, void (*ended)(void *arg), void *arg)
{
    struct control_sim_node *node = node_of(sim, index);
    struct control_life *life = calloc(1, sizeof(*life));
    assert(life && !node->life && world_node_up(sim->world, index));
    node->life = life;
    life->node = node;
    life->ended = ended;
    life->ended_arg = arg;
    life->env = world_env_create(sim->world, index);
    life->pool = buf_pool_create(POOL_BYTES);
    assert(life->pool);
    int rc = transport_sim_create(sim->config.net, index, life->env, life->pool, &life->transport);
    assert(rc == 0);
    struct bridge_sim_config config = {
        .control_env = life->env, .data_env = data_env, .data = data, .delay_max_ns = sim->config.bridge_delay_max_ns};
    check_watch(life, &config.watch);
    life->bridge = bridge_sim_create(&config);
    life->to_control = bridge_sim_to_control(life->bridge);
    return life->to_control;
}

static void fill_config(struct control_life *life, const struct map_node *info, struct control_config *config)
{
    const struct control_sim_config *c = &life->node->sim->config;
    *config = (struct control_config){
        .env = life->env,
        .transport = life->transport,
        .data = bridge_sim_to_data(life->bridge),
        .hooks = {.persist = persist, .deposed = deposed, .fatal = fatal},
        .arg = life,
        .cluster_id = CONTROL_SIM_CLUSTER,
        .node = (uint32_t)life->node->node,
        .self = *info,
        .voter_count = c->voter_count,
        .listen_count = 1,
        .heartbeat_ns = c->heartbeat_ns,
        .node_timeout_ns = c->node_timeout_ns,
        .lease_ns = c->lease_ns,
        .drift_ppm = c->drift_ppm,
        .io_stall_ns = c->io_stall_ns,
        .out_after_ns = c->out_after_ns,
        .elect_grace_ns = c->elect_grace_ns,
    };
    (void)snprintf(config->self.control_address, sizeof(config->self.control_address), "sim:%d:2", life->node->node);
    for (uint32_t i = 0; i < c->voter_count; i++) {
        config->voters[i].node = (uint32_t)c->voters[i];
        (void)snprintf(config->voters[i].address, sizeof(config->voters[i].address), "sim:%d:2", c->voters[i]);
    }
    if (!life->node->voter) {
        config->saved_map = life->node->saved_map;
        config->saved_map_len = life->node->saved_map_len;
    }
}

static struct control_life *life_of_bridge(struct bridge_to_control *b)
{
    struct control_life *life = bridge_sim_of(b)->arg;
    assert(life->to_control == b);
    return life;
}

void control_sim_register(struct bridge_to_control *b, const struct map_node *info)
{
    struct control_life *life = life_of_bridge(b);
    struct control_config config;
    char listen[32];
    assert(!life->control && info->id == (uint32_t)life->node->node);
    int rc = life->node->voter ? control_sim_log_open(life) : 0;
    assert(rc == 0);
    fill_config(life, info, &config);
    (void)snprintf(listen, sizeof(listen), "sim:%d:2", life->node->node);
    config.listen[0] = listen;
    config.log = life->raft ? &life->log : NULL;
    rc = control_create(&config, &life->control);
    assert(rc == 0);
    bridge_sim_set_control(life->bridge, control_bridge(life->control));
    rc = life->raft ? raft_sim_start(life->raft) : 0;
    assert(rc == 0);
    rc = control_start(life->control);
    assert(rc == 0);
}

void control_sim_stop(struct bridge_to_control *b)
{
    struct control_life *life = life_of_bridge(b);
    assert(!life->dying);
    life->told = true;
    if (life->stopping)
        return;
    life->stopping = true;
    if (life->control)
        control_stop(life->control, /* cb= */ NULL, NULL);
    bridge_sim_close_control(life->bridge);
}

void control_sim_disconnect(struct bridge_to_control *b)
{
    control_sim_stop(b);
    assert(life_of_bridge(b)->stopping);
}

/* ---- end ---- */

static void life_over(struct control_life *life)
{
    struct control_sim *sim = life->node->sim;
    assert(!world_node_up(sim->world, life->node->node));
    life->dying = true;
    life->node->life = NULL;
    requests_crashed(sim, life);
    if (life->raft)
        raft_sim_crash(life->raft);
    control_destroy(life->control);
    transport_sim_destroy(life->transport);
    bridge_sim_destroy(life->bridge);
    buf_pool_destroy(life->pool);
    free(life);
}

static void node_crashed(struct world_watcher *watcher, int index, enum world_crash kind)
{
    struct control_sim *sim = list_entry(watcher, struct control_sim, watcher);
    (void)kind; /* what was reported as written is durable; raft_sim decides on the rest */
    if (index < 1 || index > sim->config.node_max || !sim->nodes[index].life)
        return;
    life_over(sim->nodes[index].life);
    assert(!sim->nodes[index].life);
}

/* ---- the simulation ---- */

struct control_sim *control_sim_create(const struct control_sim_config *config)
{
    struct control_sim *sim = calloc(1, sizeof(*sim));
    assert(sim && config->node_max > 0 && config->node_max < WORLD_NODES_MAX);
    sim->config = *config;
    sim->world = config->world;
    sim->raft_net = raft_sim_net_create(config->world, config->net, /* reset_per_million= */ 0);
    list_head_init(&sim->attempts);
    list_head_init(&sim->attaches);
    for (int i = 1; i <= config->node_max; i++)
        sim->nodes[i] = (struct control_sim_node){.sim = sim, .node = i};
    for (uint32_t i = 0; i < config->voter_count; i++) {
        struct control_sim_node *node = node_of(sim, config->voters[i]);
        assert(!node->voter);
        node->voter = true;
        node->disk = raft_sim_disk_create(config->world, node->node, &config->disk);
    }
    sim->watcher.crashed = node_crashed;
    world_watch(config->world, &sim->watcher); /* behind those of the net: links are dead by then */
    check_open(sim);
    return sim;
}

void control_sim_destroy(struct control_sim *sim)
{
    if (!sim)
        return;
    requests_close(sim);
    check_close(sim);
    for (int i = 1; i <= sim->config.node_max; i++) {
        assert(!sim->nodes[i].life);
        raft_sim_disk_destroy(sim->nodes[i].disk);
        free(sim->nodes[i].saved_map);
    }
    raft_sim_net_destroy(sim->raft_net);
    world_unwatch(sim->world, &sim->watcher);
    free(sim);
}

/* ---- questions ---- */

const struct map *control_sim_map(const struct control_sim *sim)
{
    return sim->map;
}

struct control *control_sim_core(const struct control_sim *sim, int index)
{
    const struct control_life *life = node_of(sim, index)->life;
    return life ? life->control : NULL;
}

uint64_t control_sim_applied(const struct control_sim *sim, int index)
{
    const struct control *control = control_sim_core(sim, index);
    return control ? map_version(control_map(control)) : 0;
}

struct bridge_sim *control_sim_bridge(const struct control_sim *sim, int index)
{
    const struct control_life *life = node_of(sim, index)->life;
    return life ? life->bridge : NULL;
}

struct raft_sim_disk *control_sim_disk(const struct control_sim *sim, int index)
{
    assert(node_of(sim, index)->voter);
    return node_of(sim, index)->disk;
}

struct raft_sim_net *control_sim_raft_net(const struct control_sim *sim)
{
    return sim->raft_net;
}

int control_sim_leader(const struct control_sim *sim)
{
    uint64_t newest = 0;
    int leader = 0;
    for (int i = 1; i <= sim->config.node_max; i++) {
        const struct control_life *life = sim->nodes[i].life;
        if (!life || !life->raft)
            continue;
        uint64_t term = consensus_term(raft_sim_consensus(life->raft));
        bool leads = life->control && control_is_leader(life->control);
        if (term > newest || (term == newest && leads)) {
            leader = leads ? i : 0;
            newest = term;
        }
    }
    assert(leader >= 0);
    return leader;
}

void control_sim_hung(struct control_sim *sim, int index, bool hangs)
{
    struct control_life *life = node_of(sim, index)->life;
    if (!life || !life->control)
        return;
    bridge_sim_hang(life->bridge, hangs);
}

void control_sim_stats(const struct control_sim *sim, struct control_sim_stats *ret_stats)
{
    assert(ret_stats);
    *ret_stats = sim->stats;
    for (uint32_t i = 0; i < sim->config.voter_count; i++) {
        struct raft_sim_disk_stats disk;
        raft_sim_disk_stats(sim->nodes[sim->config.voters[i]].disk, &disk);
        ret_stats->installs_cut += disk.installs_cut;
    }
}
