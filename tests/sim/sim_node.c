/* SPDX-License-Identifier: Apache-2.0 */
/* sim_node: lives of a node: start, registration, following the map, stop, crash.
 *
 * - start: drive and kv handles, store_open; opened -> plane_register; registered -> peers, replicas, gateway, listener.
 * - the map: entries are applied as they come, settled once a turn, as the daemon's data thread does.
 * - stop: gateway, peers, replicas, store (clean), transport; then the process is gone.
 * Failure: a store that does not open ends the process; deposed (declared down while alive) likewise: it is started anew.
 */
#include "tests/sim/sim_node.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/hello.h"
#include "common/log.h"
#include "common/transport/stream.h"
#include "server/store/superblock.h"
#include "tests/sim/transport_sim.h"

#define LOG_MODULE "sim"
#define POOL_BYTES (96u << 20)

struct life;

struct accepting {
    struct life *life;
};

struct proposal {
    struct bridge_propose req;
    struct life *life;
    struct replica_proposal *proposal;
};

#define PATIENCE_NS ENV_MS(3000)

struct life {
    struct sim_node *node;
    struct life *older; /* graveyard */
    struct env *env;
    struct buf_pool *pool;
    struct transport *transport;
    struct listener *listener;
    struct store *store;
    struct map *map;
    struct peers *peers;
    struct replicas *replicas;
    struct gateway *gateway;
    struct bridge_to_data receiver;
    struct bridge_to_control *control;
    uint64_t incarnation;
    uint32_t proposals;
    struct env_timer alive_timer;
    bool opened, serving, stopping, swept, map_changed, store_failed, ended, replicas_gone;
    struct env_task settle_task, end_task;
    struct env_timer stop_timer, patience_timer;
};

struct sim_node {
    struct sim_node_config config;
    struct drive_sim_disk *disk;
    struct kv_sim_base *kv;
    struct life *life; /* NULL: no process */
    struct life *graveyard;
    uint32_t boots, lives;
    bool told;          /* the cluster heard of this store: the daemon's file DIR/registered */
    uint32_t told_boot; /* boot of the last life that registered */
    uint8_t store_uuid[16];
    char address[32];
    bool wants_restart;
};

extern struct life *dead_lives[WORLD_NODES_MAX];
struct life *dead_lives[WORLD_NODES_MAX]; /* reachable for ever: a dead process's memory is no leak */

static void settle(struct env_task *task);
static void life_leave(struct life *life);

/* ---- the map's observer: as server/daemon/data_map.c ---- */

static void node_changed(void *arg, const struct map_node *node)
{
    struct life *life = arg;
    if (life->replicas)
        replicas_node_changed(life->replicas, node);
}

static void volume_changed(void *arg, const struct map_volume *volume)
{
    struct life *life = arg;
    if (life->replicas)
        replicas_volume_changed(life->replicas, volume);
    if (life->gateway)
        gateway_volume_changed(life->gateway, volume);
}

static void volume_removed(void *arg, uint64_t volume)
{
    struct life *life = arg;
    if (life->gateway)
        gateway_volume_removed(life->gateway, volume);
    if (life->replicas)
        replicas_volume_removed(life->replicas, volume);
}

static void shard_changed(void *arg, const struct map_volume *volume, const struct map_shard *shard)
{
    struct life *life = arg;
    if (life->replicas)
        replicas_shard_changed(life->replicas, volume, shard);
    if (life->gateway)
        gateway_shard_changed(life->gateway, volume, shard);
}

static void shards_cut(void *arg, uint64_t volume, uint32_t first, uint32_t end)
{
    struct life *life = arg;
    if (life->replicas)
        replicas_shards_cut(life->replicas, volume, first, end);
}

static void map_was_reset(void *arg)
{
    struct life *life = arg;
    if (life->replicas)
        replicas_map_reset(life->replicas);
    if (life->gateway)
        gateway_map_reset(life->gateway);
}

static void sweep_shard(void *arg, const struct store_shard_id *id)
{
    struct life *life = arg;
    const struct map_shard *shard = map_shard_at(life->map, id->volume, id->shard);
    const struct map_member *self = shard ? map_member_of(shard, (uint32_t)life->node->config.node) : NULL;
    if (!self || self->instance != id->instance)
        store_shard_drop(life->store, id);
}

static void settle_now(struct life *life)
{
    if (!life->map_changed || !life->serving)
        return;
    life->map_changed = false;
    const struct map_node *self = map_node_by_id(life->map, (uint32_t)life->node->config.node);
    if (!life->swept && self && self->incarnation == life->incarnation) {
        life->swept = true;
        store_shard_each(life->store, sweep_shard, life);
    }
    replicas_map_settled(life->replicas);
    if (life->gateway)
        gateway_map_settled(life->gateway);
    peers_map_changed(life->peers);
    life->control->ops->applied(life->control, map_version(life->map), map_hash(life->map));
}

static void settle(struct env_task *task)
{
    settle_now(list_entry(task, struct life, settle_task));
}

static void map_has_changed(struct life *life)
{
    life->map_changed = true;
    env_defer(life->env, &life->settle_task, settle);
}

/* ---- what the peers tell ---- */

static void peer_request(void *arg, const struct peer_source *source, struct msg *msg)
{
    struct life *life = arg;
    switch (msg->header.opcode) {
    case WIRE_READ:
    case WIRE_WRITE:
    case WIRE_ZERO:
    case WIRE_FLUSH:
    case WIRE_EXTENTS:
        if (life->gateway)
            gateway_peer_request(life->gateway, source, msg);
        else
            msg_free(msg);
        return;
    default:
        if (life->replicas)
            replicas_message(life->replicas, source, msg);
        else
            msg_free(msg);
    }
}

static void peer_up(void *arg, uint32_t node)
{
    struct life *life = arg;
    if (life->replicas)
        replicas_peer_up(life->replicas, node);
    if (life->gateway)
        gateway_peer_up(life->gateway, node);
}

static void peer_down(void *arg, uint32_t node)
{
    struct life *life = arg;
    if (life->replicas)
        replicas_peer_down(life->replicas, node);
}

static void source_lost(void *arg, const struct peer_source *source)
{
    struct life *life = arg;
    if (life->replicas)
        replicas_source_lost(life->replicas, source);
}

static void suspect(void *arg, uint32_t node)
{
    struct life *life = arg;
    if (life->serving)
        life->control->ops->suspect(life->control, node);
}

/* ---- proposals ---- */

static void proposed(struct bridge_propose *req, const struct map_result *result)
{
    struct proposal *own = list_entry(req, struct proposal, req);
    struct life *life = own->life;
    struct replica_proposal *proposal = own->proposal;
    free(own);
    life->proposals--;
    settle_now(life);
    if (!life->replicas_gone)
        proposal->cb(proposal, result);
}

static void propose(void *arg, const struct map_entry *entry, struct replica_proposal *proposal)
{
    struct life *life = arg;
    struct proposal *own = calloc(1, sizeof(*own));
    uint8_t *bytes = malloc(MAP_ENTRY_BYTES_MAX);
    assert(own && bytes);
    int len = map_entry_encode(entry, bytes, MAP_ENTRY_BYTES_MAX);
    assert(len > 0);
    own->life = life;
    own->proposal = proposal;
    own->req.cb = proposed;
    life->proposals++;
    life->control->ops->propose(life->control, &own->req, bytes, (size_t)len);
    free(bytes);
}

/* ---- accepting ---- */

static void first_message(struct link *link, void *owner, struct msg *msg)
{
    struct accepting *accepting = owner;
    struct life *life = accepting->life;
    struct hello hello;
    if (msg->header.opcode != WIRE_HELLO || hello_decode(msg->body, msg->header.body_len, &hello) != 0 ||
        !life->peers || life->stopping) {
        msg_free(msg);
        link_close(link);
        return;
    }
    free(accepting);
    if (hello.role == HELLO_PEER)
        peers_accept(life->peers, link, msg);
    else
        gateway_accept(life->gateway, link, msg);
}

static void accepting_closed(struct link *link, void *owner, int reason)
{
    (void)link;
    (void)reason;
    free(owner);
}

static const struct link_callbacks accepting_callbacks = {.message = first_message, .closed = accepting_closed};

static void accepted(struct listener *listener, void *arg, struct link *link)
{
    struct accepting *accepting = calloc(1, sizeof(*accepting));
    assert(accepting && listener);
    accepting->life = arg;
    link_set_owner(link, &accepting_callbacks, accepting);
}

/* ---- registered ---- */

static void damage_found(void *arg, uint64_t volume, uint32_t shard, uint64_t offset, bool repaired)
{
    (void)arg;
    log_info("damaged block volume=%llu shard=%u offset=%llu repaired=%d", (unsigned long long)volume, shard,
             (unsigned long long)offset, repaired);
}

static void make_rooms(struct life *life)
{
    const struct sim_node_config *config = &life->node->config;
    uint32_t id = (uint32_t)config->node;
    struct peers_config peers = {
        .env = life->env,
        .transport = life->transport,
        .map = life->map,
        .node = id,
        .incarnation = life->incarnation,
        .callbacks = {.request = peer_request,
                      .peer_up = peer_up,
                      .peer_down = peer_down,
                      .source_lost = source_lost,
                      .suspect = suspect},
        .arg = life,
    };
    life->peers = peers_create(&peers);
    struct replicas_config replicas = {
        .env = life->env,
        .store = life->store,
        .peers = life->peers,
        .pool = life->pool,
        .map = life->map,
        .node = id,
        .incarnation = life->incarnation,
        .sync_chunks_max = config->sync_chunks,
        .callbacks = {.propose = propose, .damage_found = damage_found},
        .arg = life,
    };
    life->replicas = replicas_create(&replicas);
    struct gateway_config gateway = {
        .env = life->env,
        .peers = life->peers,
        .replicas = life->replicas,
        .pool = life->pool,
        .map = life->map,
        .control = life->control,
        .node = id,
        .incarnation = life->incarnation,
    };
    life->gateway = gateway_create(&gateway);
    assert(life->peers && life->replicas && life->gateway);
    int rc = transport_listen(life->transport, life->node->address, accepted, life, &life->listener);
    assert(rc == 0);
}

/* R23: a data side that is silent is taken for hung. */
static void alive(struct env_timer *timer)
{
    struct life *life = list_entry(timer, struct life, alive_timer);
    struct store_stats stats;
    if (!life->store)
        return;
    store_stats(life->store, &stats);
    life->control->ops->alive(life->control, stats.oldest_io_ns);
    env_timer_start(life->env, &life->alive_timer, ENV_MS(200), alive);
}

static void receive_registered(struct bridge_to_data *b, uint64_t cluster_id, uint32_t node, uint64_t incarnation)
{
    struct life *life = list_entry(b, struct life, receiver);
    assert(cluster_id == PLANE_CLUSTER && node == (uint32_t)life->node->config.node);
    assert(!life->incarnation);
    life->incarnation = incarnation;
    life->node->told = true;
    life->node->told_boot = life->node->boots;
    make_rooms(life);
    life->serving = true;
    struct map_observer observer = {.node_changed = node_changed,
                                    .volume_changed = volume_changed,
                                    .volume_removed = volume_removed,
                                    .shard_changed = shard_changed,
                                    .shards_cut = shards_cut,
                                    .reset = map_was_reset,
                                    .arg = life};
    map_set_observer(life->map, &observer);
    map_was_reset(life);
    map_has_changed(life);
}

static void receive_snapshot(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len)
{
    struct life *life = list_entry(b, struct life, receiver);
    int rc = map_restore(life->map, bytes, len);
    assert(rc == 0);
    assert(map_version(life->map) == version);
    map_has_changed(life);
}

static void receive_entry(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len)
{
    struct life *life = list_entry(b, struct life, receiver);
    struct map_result result;
    map_apply(life->map, version, bytes, len, &result);
    map_has_changed(life);
}

static void receive_lease(struct bridge_to_data *b, uint64_t until_ns, uint64_t version)
{
    struct life *life = list_entry(b, struct life, receiver);
    if (life->replicas)
        replicas_lease(life->replicas, until_ns, version);
}

static void receive_nothing(struct bridge_to_data *b)
{
    (void)b;
}

static const struct bridge_to_data_ops receiver_ops = {
    .registered = receive_registered,
    .map_snapshot = receive_snapshot,
    .map_entry = receive_entry,
    .lease = receive_lease,
    .stats_request = receive_nothing,
    .stop = receive_nothing,
};

/* A process that ends on its own: from a task, so that nobody's callback is on the stack. */
static void life_exit(struct env_task *task)
{
    struct life *life = list_entry(task, struct life, end_task);
    life->node->wants_restart = true;
    sim_node_crash(life->node, WORLD_CRASH_PROCESS);
}

static void deposed(void *arg)
{
    struct life *life = arg;
    if (!life->stopping)
        env_defer(life->env, &life->end_task, life_exit);
}

/* ---- the store ---- */

/* As server/daemon/node_state.c: a reboot before a life that never registered must not be forgotten (R1). */
static enum map_stop last_stop(const struct sim_node *node, enum store_stop stop)
{
    if (!node->told)
        return MAP_STOP_EMPTY;
    if (stop == STORE_STOP_CLEAN)
        return MAP_STOP_CLEAN;
    return stop == STORE_STOP_SAME_BOOT && node->told_boot == node->boots ? MAP_STOP_SAME_BOOT : MAP_STOP_REBOOTED;
}

static void store_opened(void *arg, int rc)
{
    struct life *life = arg;
    struct sim_node *node = life->node;
    if (rc != 0) {
        log_error("node %d: the store does not open: %s", node->config.node, strerror(-rc));
        env_defer(life->env, &life->end_task, life_exit);
        return;
    }
    life->opened = true;
    env_timer_start(life->env, &life->alive_timer, 0, alive);
    struct map_node info = {.id = (uint32_t)node->config.node, .capacity_bytes = node->config.drive_bytes};
    info.stop = (uint8_t)last_stop(node, store_last_stop(life->store));
    memcpy(info.store_uuid, node->store_uuid, sizeof(info.store_uuid));
    (void)snprintf(info.data_address, sizeof(info.data_address), "%s", node->address);
    (void)snprintf(info.control_address, sizeof(info.control_address), "sim:%d:2", node->config.node);
    (void)snprintf(info.host, sizeof(info.host), "host%d", node->config.node);
    plane_register(node->config.plane, life->control, &info);
}

static void store_has_failed(void *arg, int rc)
{
    struct life *life = arg;
    life->store_failed = true;
    if (life->replicas)
        replicas_store_failed(life->replicas);
    if (life->serving)
        life->control->ops->store_failed(life->control, rc);
    else if (!life->stopping)
        env_defer(life->env, &life->end_task, life_exit);
}

static void store_found_damage(void *arg, struct store_shard *shard, uint64_t offset)
{
    struct life *life = arg;
    if (life->replicas)
        replicas_store_damaged(life->replicas, shard, offset);
}

static void store_space(void *arg)
{
    (void)arg;
}

void sim_node_open_seams(struct sim_node *node, struct env *env, struct drive **ret_drive, struct kv **ret_kv)
{
    int rc = drive_sim_open(node->disk, env, ret_drive);
    assert(rc == 0);
    rc = kv_sim_open(node->kv, env, ret_kv);
    assert(rc == 0);
}

static void open_store(struct life *life)
{
    struct sim_node *node = life->node;
    struct drive *drive;
    struct kv *kv;
    sim_node_open_seams(node, life->env, &drive, &kv);
    struct store_config config = {
        .env = life->env,
        .drive = drive,
        .kv = kv,
        .pool = life->pool,
        .arg = life,
        .callbacks = {.opened = store_opened,
                      .failed = store_has_failed,
                      .damaged = store_found_damage,
                      .space_changed = store_space},
        .sums_cache_bytes = 4u << 20,
        .active_set_max = 64,
        .checkpoint_ns = ENV_MS(3000),
        .clean_idle_ns = ENV_MS(1000),
        .scrub_bytes_per_s = 8u << 20,
        .flush_ahead_bytes = node->config.flush_ahead_bytes,
        .flush_ahead_span_ns = ENV_MS(20),
    };
    (void)snprintf(config.boot_id, sizeof(config.boot_id), "boot-%d-%u", node->config.node, node->boots);
    int rc = store_open(&config, &life->store);
    assert(rc == 0);
}

/* ---- start, stop, crash ---- */

void sim_node_start(struct sim_node *node)
{
    struct world *world = node->config.world;
    assert(!node->life);
    node->wants_restart = false;
    if (!world_node_up(world, node->config.node)) {
        node->boots += !world_node_powered(world, node->config.node);
        world_node_start(world, node->config.node);
    }
    struct life *life = calloc(1, sizeof(*life));
    assert(life);
    node->life = life;
    node->lives++;
    life->node = node;
    life->env = world_env_create(world, node->config.node);
    life->pool = buf_pool_create(POOL_BYTES);
    life->map = map_create();
    life->receiver.ops = &receiver_ops;
    assert(life->pool && life->map);
    int rc = transport_sim_create(node->config.net, node->config.node, life->env, life->pool, &life->transport);
    assert(rc == 0);
    life->control = plane_connect(node->config.plane, node->config.node, life->env, &life->receiver, deposed, life);
    open_store(life);
}

void sim_node_crash(struct sim_node *node, enum world_crash kind)
{
    struct life *life = node->life;
    if (!life) { /* no process, but the power may still go */
        if (kind == WORLD_CRASH_POWER && world_node_powered(node->config.world, node->config.node)) {
            world_node_start(node->config.world, node->config.node);
            world_node_crash(node->config.world, node->config.node, kind);
            drive_sim_crash(node->disk, DRIVE_SIM_POWER);
            kv_sim_crash(node->kv, KV_SIM_POWER);
        }
        return;
    }
    world_node_crash(node->config.world, node->config.node, kind);
    drive_sim_crash(node->disk, kind == WORLD_CRASH_POWER ? DRIVE_SIM_POWER : DRIVE_SIM_PROCESS);
    kv_sim_crash(node->kv, kind == WORLD_CRASH_POWER ? KV_SIM_POWER : KV_SIM_PROCESS);
    transport_sim_destroy(life->transport);
    life->older = node->graveyard; /* reachable: a dead process's memory is no leak */
    node->graveyard = life;
    node->life = NULL;
}

static void wait_for_quiet(struct env_timer *timer)
{
    life_leave(list_entry(timer, struct life, stop_timer));
}

static void process_ended(struct env_task *task)
{
    struct life *life = list_entry(task, struct life, end_task);
    struct sim_node *node = life->node;
    if (stream_transport_live(life->transport) > 0 || life->proposals > 0) {
        env_timer_start(life->env, &life->stop_timer, ENV_MS(1), wait_for_quiet);
        return;
    }
    env_timer_stop(life->env, &life->patience_timer);
    plane_disconnect(node->config.plane, life->control);
    transport_sim_destroy(life->transport);
    map_destroy(life->map);
    buf_pool_destroy(life->pool);
    node->life = NULL;
    free(life);
    world_node_crash(node->config.world, node->config.node, WORLD_CRASH_PROCESS);
}

static void life_leave(struct life *life)
{
    env_defer(life->env, &life->end_task, process_ended);
}

static void store_closed(void *arg)
{
    struct life *life = arg;
    life->store = NULL;
    env_timer_stop(life->env, &life->alive_timer);
    stream_transport_shutdown(life->transport);
    plane_stop(life->node->config.plane, life->control);
    life_leave(life);
}

static void peers_closed(void *arg)
{
    struct life *life = arg;
    life->peers = NULL;
    store_close(life->store, /* clean= */ !life->store_failed, store_closed, life);
}

static void wait_for_replicas(struct env_timer *timer)
{
    struct life *life = list_entry(timer, struct life, stop_timer);
    if (!replicas_quiet(life->replicas)) {
        env_timer_start(life->env, &life->stop_timer, ENV_MS(5), wait_for_replicas);
        return;
    }
    struct replicas *replicas = life->replicas;
    life->replicas = NULL;
    life->replicas_gone = true;
    replicas_destroy(replicas);
    peers_close(life->peers, peers_closed, life);
}

static void gateway_closed(void *arg)
{
    struct life *life = arg;
    env_timer_start(life->env, &life->stop_timer, 0, wait_for_replicas);
}

/* As the daemon does: what waits for a control plane that does not answer is ended. */
static void patience_ended(struct env_timer *timer)
{
    struct life *life = list_entry(timer, struct life, patience_timer);
    assert(life->stopping);
    plane_stop(life->node->config.plane, life->control);
}

void sim_node_stop(struct sim_node *node)
{
    struct life *life = node->life;
    assert(life && life->serving);
    env_timer_start(life->env, &life->patience_timer, PATIENCE_NS, patience_ended);
    life->stopping = true;
    life->serving = false;
    map_set_observer(life->map, &(struct map_observer){.arg = NULL});
    listener_close(life->listener);
    life->listener = NULL;
    struct gateway *gateway = life->gateway;
    life->gateway = NULL;
    replicas_stop(life->replicas);
    gateway_close(gateway, gateway_closed, life);
}

struct sim_node *sim_node_create(const struct sim_node_config *config)
{
    struct sim_node *node = calloc(1, sizeof(*node));
    uint8_t block[STORE_BLOCK_BYTES];
    assert(node);
    node->config = *config;
    node->disk = drive_sim_disk_create(config->drive_bytes, config->seed);
    node->kv = kv_sim_base_create(config->seed + 1);
    drive_sim_faults(node->disk)->power_trashes_none = true; /* faults.c says when it does */
    (void)snprintf(node->address, sizeof(node->address), "sim:%d:1", config->node);
    (void)snprintf((char *)node->store_uuid, sizeof(node->store_uuid), "store-%d", config->node);
    struct store_identity identity = {.cluster_id = PLANE_CLUSTER, .node = (uint32_t)config->node};
    memcpy(identity.uuid, node->store_uuid, sizeof(identity.uuid));
    int rc = store_format_superblock(block, &identity, config->drive_bytes);
    assert(rc == 0);
    for (uint32_t i = 0; i < SUPERBLOCK_COPIES; i++)
        drive_sim_poke(node->disk, superblock_offsets[i], block, sizeof(block));
    return node;
}

void sim_node_destroy(struct sim_node *node)
{
    if (!node)
        return;
    assert(!node->life);
    drive_sim_disk_destroy(node->disk);
    kv_sim_base_destroy(node->kv);
    dead_lives[node->config.node] = node->graveyard;
    free(node);
}

bool sim_node_running(const struct sim_node *node)
{
    return node->life != NULL;
}

bool sim_node_serving(const struct sim_node *node)
{
    return node->life && node->life->serving;
}

bool sim_node_wants_restart(const struct sim_node *node)
{
    return !node->life && node->wants_restart;
}

uint32_t sim_node_life(const struct sim_node *node)
{
    return node->lives;
}

struct env *sim_node_env(const struct sim_node *node)
{
    return node->life->env;
}

struct replicas *sim_node_replicas(const struct sim_node *node)
{
    return node->life->replicas;
}

struct store *sim_node_store(const struct sim_node *node)
{
    return node->life->store;
}

struct buf_pool *sim_node_pool(const struct sim_node *node)
{
    return node->life->pool;
}

const struct map *sim_node_map(const struct sim_node *node)
{
    return node->life->map;
}

struct drive_sim_disk *sim_node_disk(const struct sim_node *node)
{
    return node->disk;
}

struct kv_sim_base *sim_node_kv(const struct sim_node *node)
{
    return node->kv;
}

uint64_t sim_node_incarnation(const struct sim_node *node)
{
    return node->life ? node->life->incarnation : 0;
}

const char *sim_node_address(const struct sim_node *node)
{
    return node->address;
}

bool sim_node_store_failed(const struct sim_node *node)
{
    return node->life && node->life->store_failed;
}
