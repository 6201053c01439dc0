/* SPDX-License-Identifier: Apache-2.0 */
/* control_sim_check: judges what the cores of a simulation do.
 *
 *   - the first core that applies version v defines entry v; every other core, and every data side, must get the same bytes:
 *     committed entries are neither lost nor changed. The map of these entries is the reference
 *   - a core's map hash, looked at now and then, equals the reference's at that version; so does a snapshot's
 *   - an incarnation is larger than all before it; a request id has one result, whoever asks, however often it is in the log
 *   - R10: nobody who lives is declared down while its data side may use a lease; R19: a session is granted to somebody
 *     else only when nobody who has not heard of it may use a lease
 * A lease counts as usable when its node lives, the node's own clock has not passed its end, and the data side has applied the map
 * version that came with it. Failure: `broken` is told; the run goes on.
 */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/control_sim_internal.h"

#define LOOK_NS ENV_MS(50)
#define VERSIONS_MAX (1u << 22)

void check_broken(struct control_sim *sim, const char *format, ...)
{
    char text[240];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    assert(format);
    sim->stats.broken++;
    if (sim->config.broken)
        sim->config.broken(sim->config.arg, text);
    else
        fprintf(stderr, "BROKEN: %s\n", text);
}

/* ---- leases ---- */

static bool lease_usable(const struct control_life *life)
{
    uint64_t now_ns = env_now_ns(life->env);
    uint32_t count = life->lease_count < LEASES_KEPT ? life->lease_count : LEASES_KEPT;
    assert(!life->dying);
    for (uint32_t i = 0; i < count; i++)
        if (life->leases[i].until_ns > now_ns && life->leases[i].version <= life->applied)
            return true;
    return false;
}

static void on_lease(void *arg, uint64_t until_ns, uint64_t version)
{
    struct control_life *life = arg;
    struct control_sim *sim = life->node->sim;
    uint64_t now_ns = env_now_ns(life->env);
    uint64_t lease_ns = sim->config.lease_ns ? sim->config.lease_ns : ENV_MS(900);
    if (until_ns == 0) { /* void now */
        life->lease_count = 0;
        return;
    }
    if (until_ns > now_ns + lease_ns)
        check_broken(sim, "R9: node %d got a lease longer than one from now on", life->node->node);
    sim->stats.leases++;
    life->leases[life->lease_count % LEASES_KEPT].until_ns = until_ns;
    life->leases[life->lease_count % LEASES_KEPT].version = version;
    life->lease_count++;
}

static void judge_down(struct control_sim *sim, const struct map_entry *entry)
{
    const struct control_sim_node *node = &sim->nodes[entry->node];
    const struct control_life *life = entry->node <= (uint32_t)sim->config.node_max ? node->life : NULL;
    if (!life || life->incarnation != entry->incarnation)
        return; /* its process is gone */
    assert(life->incarnation > 0);
    if (life->stopping)
        return; /* its data side stepped down before the core closed: it answers no reads */
    if (lease_usable(life))
        check_broken(sim, "R10: node %u incarnation %llu was declared down while it holds a lease", entry->node,
                     (unsigned long long)entry->incarnation);
}

void check_grant(struct control_sim *sim, uint64_t volume_id, uint64_t session, uint64_t version)
{
    const struct map_volume *volume = map_volume_by_id(sim->map, volume_id);
    sim->stats.grants++;
    if (version > map_version(sim->map))
        check_broken(sim, "a session was granted at version %llu, which nobody applied", (unsigned long long)version);
    if (!volume || volume->session.number != session || volume->session.continued)
        return; /* older than the newest, or of the same attachment: it reads what it wrote itself */
    for (int i = 1; i <= sim->config.node_max; i++) {
        const struct control_life *life = sim->nodes[i].life;
        if (life && life->incarnation && life->applied < version && lease_usable(life))
            check_broken(sim, "R19: session %llu of volume %llu was granted while node %d may serve an older one",
                         (unsigned long long)session, (unsigned long long)volume_id, i);
    }
}

/* ---- the reference ---- */

static void judge_registration(struct control_sim *sim, const struct map_entry *entry, const struct map_result *result,
                               uint64_t before)
{
    assert(entry->kind == MAP_ENTRY_NODE_REGISTER);
    if (result->rc == 0 && result->value <= before)
        check_broken(sim, "R1: node %u: incarnation %llu after %llu", entry->node, (unsigned long long)result->value,
                     (unsigned long long)before);
}

struct shards {
    struct map_shard *all;
    size_t count, capacity;
};

static void copy_shards(void *arg, const struct map_volume *volume)
{
    struct shards *shards = arg;
    if (shards->count + volume->shard_count > shards->capacity) {
        shards->capacity = 2 * (shards->count + volume->shard_count);
        shards->all = realloc(shards->all, shards->capacity * sizeof(*shards->all));
        assert(shards->all);
    }
    memcpy(shards->all + shards->count, volume->shards, volume->shard_count * sizeof(*shards->all));
    shards->count += volume->shard_count;
}

static void tell_shards(struct control_sim *sim, const struct shards *shards)
{
    assert(sim->config.shard_changed);
    for (size_t i = 0; i < shards->count; i++) {
        const struct map_shard *before = &shards->all[i];
        const struct map_shard *now = map_shard_at(sim->map, before->volume, before->index);
        if (now && now->changed_version != before->changed_version)
            sim->config.shard_changed(sim->config.arg, before, now);
    }
}

static void define(struct control_sim *sim, uint64_t version, const void *bytes, size_t len)
{
    struct map_entry entry;
    struct map_result result;
    struct shards shards = {0};
    uint64_t before = 0;
    if (version >= sim->entry_capacity) {
        sim->entry_capacity = sim->entry_capacity ? 2 * sim->entry_capacity : 1024;
        sim->entries = realloc(sim->entries, sim->entry_capacity * sizeof(*sim->entries));
        assert(sim->entries && version < sim->entry_capacity && version < VERSIONS_MAX);
    }
    uint64_t changes = sim->map_changes;
    struct map_result known;
    bool decoded = map_entry_decode(bytes, len, &entry) == 0;
    bool again = decoded && map_request_result(sim->map, entry.request, &known);
    if (decoded && entry.kind == MAP_ENTRY_NODE_REGISTER) {
        const struct map_node *node = map_node_by_id(sim->map, entry.node);
        before = node ? node->incarnation : 0;
    }
    if (decoded && entry.kind == MAP_ENTRY_NODE_DOWN) {
        const struct map_node *node = map_node_by_id(sim->map, entry.node);
        if (node && node->up && node->incarnation == entry.incarnation)
            judge_down(sim, &entry);
    }
    if (sim->config.shard_changed)
        map_each_volume(sim->map, copy_shards, &shards);
    map_apply(sim->map, version, bytes, len, &result);
    if (decoded && entry.kind == MAP_ENTRY_NODE_REGISTER && !again)
        judge_registration(sim, &entry, &result, before);
    if (again && (sim->map_changes != changes || result.rc != known.rc || result.value != known.value))
        check_broken(sim, "version %llu is a request that was applied before, and did something again",
                     (unsigned long long)version);
    sim->stats.repeated += again;
    if (decoded)
        map_entry_free(&entry);
    struct control_sim_entry *kept = &sim->entries[version];
    *kept = (struct control_sim_entry){.bytes = malloc(len), .len = len, .hash = map_hash(sim->map)};
    assert(kept->bytes);
    memcpy(kept->bytes, bytes, len);
    sim->stats.entries++;
    world_trace(sim->world, 230, version, kept->hash);
    if (sim->config.shard_changed)
        tell_shards(sim, &shards);
    free(shards.all);
}

void check_entry(struct control_life *life, uint64_t version, const void *bytes, size_t len)
{
    struct control_sim *sim = life->node->sim;
    uint64_t known = map_version(sim->map);
    assert(version > 0 && len > 0);
    if (version > known + 1) {
        check_broken(sim, "node %d applied version %llu, but nobody applied %llu", life->node->node,
                     (unsigned long long)version, (unsigned long long)known + 1);
    } else if (version == known + 1) {
        define(sim, version, bytes, len);
    } else {
        const struct control_sim_entry *entry = &sim->entries[version];
        if (entry->len != len || memcmp(entry->bytes, bytes, len) != 0)
            check_broken(sim, "node %d applied another entry as version %llu than was applied first", life->node->node,
                         (unsigned long long)version);
    }
}

void check_snapshot(struct control_life *life, uint64_t version, const void *bytes, size_t len)
{
    struct control_sim *sim = life->node->sim;
    struct map *map = map_create();
    int rc = map_restore(map, bytes, len);
    assert(version > 0);
    if (rc < 0 || map_version(map) != version || version > map_version(sim->map))
        check_broken(sim, "node %d got a snapshot of version %llu that nobody can have made", life->node->node,
                     (unsigned long long)version);
    else if (map_hash(map) != sim->entries[version].hash)
        check_broken(sim, "node %d got a snapshot of version %llu that differs", life->node->node,
                     (unsigned long long)version);
    sim->stats.compared++;
    map_destroy(map);
}

void check_result(struct control_sim *sim, const uint8_t request[16], const struct map_result *result)
{
    struct map_result known;
    if (result->version == 0)
        return; /* refused before it reached the log */
    if (!map_request_result(sim->map, request, &known))
        check_broken(sim, "a result of version %llu for a request that was not applied",
                     (unsigned long long)result->version);
    else if (known.rc != result->rc || known.value != result->value || known.version != result->version)
        check_broken(sim, "a request got a result (%d, %llu, %llu) that differs from the map's (%d, %llu, %llu)",
                     result->rc, (unsigned long long)result->value, (unsigned long long)result->version, known.rc,
                     (unsigned long long)known.value, (unsigned long long)known.version);
}

/* ---- what the bridge shows ---- */

static void on_registered(void *arg, uint64_t incarnation)
{
    struct control_life *life = arg;
    struct control_sim *sim = life->node->sim;
    const struct map_node *self = map_node_by_id(sim->map, (uint32_t)life->node->node);
    if (!self || self->incarnation < incarnation)
        check_broken(sim, "R1: node %d was told incarnation %llu, which nobody applied", life->node->node,
                     (unsigned long long)incarnation);
    if (incarnation <= life->incarnation)
        check_broken(sim, "R1: node %d registered again with an incarnation not newer", life->node->node);
    life->incarnation = incarnation;
}

static void on_snapshot(void *arg, uint64_t version, const void *bytes, size_t len)
{
    check_snapshot(arg, version, bytes, len);
}

static void on_entry(void *arg, uint64_t version, const void *bytes, size_t len)
{
    check_entry(arg, version, bytes, len);
}

static void on_applied(void *arg, uint64_t version)
{
    struct control_life *life = arg;
    assert(life->node);
    if (version > life->applied)
        life->applied = version;
}

void check_watch(struct control_life *life, struct bridge_sim_watch *ret_watch)
{
    assert(life->node);
    *ret_watch = (struct bridge_sim_watch){.registered = on_registered,
                                           .snapshot = on_snapshot,
                                           .entry = on_entry,
                                           .lease = on_lease,
                                           .applied = on_applied,
                                           .arg = life};
}

/* ---- now and then ---- */

static void look(struct world_event *event)
{
    struct control_sim *sim = list_entry(event, struct control_sim, look);
    for (int i = 1; i <= sim->config.node_max; i++) {
        struct control_life *life = sim->nodes[i].life;
        if (!life || !life->control)
            continue;
        const struct map *map = control_map(life->control);
        uint64_t version = map_version(map);
        if (version == 0 || version == life->compared_version || version > map_version(sim->map))
            continue;
        life->compared_version = version;
        sim->stats.compared++;
        if (map_hash(map) != sim->entries[version].hash)
            check_broken(sim, "node %d: its map differs at version %llu", i, (unsigned long long)version);
    }
    world_schedule(sim->world, &sim->look, WORLD_NOBODY, LOOK_NS, look);
}

static void node_changed(void *arg, const struct map_node *node)
{
    struct control_sim *sim = arg;
    assert(node);
    sim->map_changes++;
}

static void volume_changed(void *arg, const struct map_volume *volume)
{
    struct control_sim *sim = arg;
    assert(volume);
    sim->map_changes++;
}

static void volume_removed(void *arg, uint64_t volume)
{
    struct control_sim *sim = arg;
    assert(volume);
    sim->map_changes++;
}

static void shard_changed(void *arg, const struct map_volume *volume, const struct map_shard *shard)
{
    struct control_sim *sim = arg;
    assert(volume && shard);
    sim->map_changes++;
}

void check_open(struct control_sim *sim)
{
    struct map_observer observer = {.node_changed = node_changed,
                                    .volume_changed = volume_changed,
                                    .volume_removed = volume_removed,
                                    .shard_changed = shard_changed,
                                    .arg = sim};
    sim->map = map_create();
    assert(sim->map);
    map_set_observer(sim->map, &observer);
    world_schedule(sim->world, &sim->look, WORLD_NOBODY, LOOK_NS, look);
}

void check_close(struct control_sim *sim)
{
    world_cancel(sim->world, &sim->look);
    for (uint64_t v = 1; v <= map_version(sim->map); v++)
        free(sim->entries[v].bytes);
    free(sim->entries);
    map_destroy(sim->map);
}
