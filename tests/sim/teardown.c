/* SPDX-License-Identifier: Apache-2.0 */
/* teardown: the end of a run with operators: is every snapshot what it was, and does all space come back (I11)?
 *
 * - every snapshot is read from its beginning to its end, and its cut judged (I10).
 * - some snapshots and volumes are deleted, in any order; what is left is read and compared once more: nothing of it was given away.
 * - in two of three runs everything is deleted: no store holds a unit, a record, a shard any more.
 * Failure: sim_fail, with what each store still holds.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/operators_internal.h"

static bool readers_idle(void *arg)
{
    return operators_idle(((struct sim *)arg)->operators);
}

static void read_snapshots(struct sim *sim)
{
    struct operators *all = sim->operators;
    for (uint32_t i = 0; i < SNAPS_MAX && sim->failures == 0; i++) {
        if (!all->snaps[i].image || all->snaps[i].deleting)
            continue;
        snapshot_reader_start(all->readers[0], &all->snaps[i], /* everything= */ true);
        if (!world_run_until(sim->world, readers_idle, sim, ENV_MS(60000)))
            sim_fail(sim, "reading snapshot %s@%s does not end", all->snaps[i].guest->name, all->snaps[i].name);
    }
}

static bool guests_idle(void *arg)
{
    const struct sim *sim = arg;
    for (uint32_t i = 0; i < sim->guest_count; i++)
        if (!guest_idle(sim->guests[i]))
            return false;
    return true;
}

static void read_guests(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->guest_count; i++)
        guest_read_all(sim->guests[i]);
    if (!world_run_until(sim->world, guests_idle, sim, ENV_MS(60000)))
        sim_fail(sim, "reading everything once more does not end");
}

/* ---- deleting ---- */

static void detach(struct sim *sim, struct guest *g)
{
    if (!g->detached)
        guest_detach(g);
    if (!world_run_until(sim->world, guests_idle, sim, ENV_MS(30000)))
        sim_fail(sim, "volume %s: its guest does not let go", g->name);
}

static void delete_volume(struct sim *sim, struct guest *g)
{
    struct map_entry entry = {.kind = MAP_ENTRY_VOLUME_DELETE, .volume = g->volume, .flags = MAP_FORCE};
    struct map_result result = {0};
    detach(sim, g);
    int rc = plane_apply(sim->plane, &entry, &result);
    if (rc != 0)
        sim_fail(sim, "deleting volume %s at the end: %s", g->name, strerror(-rc));
    guest_gone(g);
    for (uint32_t i = 0; i < SNAPS_MAX; i++)
        if (sim->operators->snaps[i].image && sim->operators->snaps[i].guest == g)
            snap_gone(&sim->operators->snaps[i]);
}

static void delete_snapshot(struct sim *sim, struct snap *snap)
{
    struct map_entry entry = {.kind = MAP_ENTRY_SNAPSHOT_DELETE, .volume = snap->guest->volume};
    struct map_result result = {0};
    (void)snprintf(entry.snapshot, sizeof(entry.snapshot), "%s", snap->name);
    int rc = plane_apply(sim->plane, &entry, &result);
    if (rc != 0)
        sim_fail(sim, "deleting snapshot %s@%s at the end: %s", snap->guest->name, snap->name, strerror(-rc));
    snap_gone(snap);
}

static void delete_some(struct sim *sim)
{
    for (uint32_t i = 0; i < SNAPS_MAX; i++)
        if (sim->operators->snaps[i].image && world_random_below(sim->world, 2) == 0)
            delete_snapshot(sim, &sim->operators->snaps[i]);
    for (uint32_t i = 0; i < sim->guest_count; i++)
        if (!sim->guests[i]->gone && world_random_below(sim->world, 3) == 0)
            delete_volume(sim, sim->guests[i]);
}

static bool nothing_to_reap(void *arg)
{
    const struct sim *sim = arg;
    for (int i = 1; i <= sim->node_count; i++) {
        struct store_stats stats;
        if (!sim_node_serving(sim->nodes[i]))
            return false;
        store_stats(sim_node_store(sim->nodes[i]), &stats);
        if (stats.shards_to_reap > 0)
            return false;
    }
    return true;
}

static bool all_empty(void *arg)
{
    const struct sim *sim = arg;
    for (int i = 1; i <= sim->node_count; i++) {
        struct store_stats stats;
        if (!sim_node_serving(sim->nodes[i]))
            return false;
        store_stats(sim_node_store(sim->nodes[i]), &stats);
        if (stats.bytes_allocated > 0 || stats.chunks > 0)
            return false;
    }
    return true;
}

static void tell_shard(void *arg, const struct store_shard_id *id)
{
    const struct sim_node *node = arg;
    fprintf(stderr, "    volume %" PRIu64 " shard %u instance %" PRIu64 "%s\n", id->volume, id->shard, id->instance,
            store_shard_is_base(sim_node_store(node), id) ? ", a base" : "");
}

static void tell_what_is_left(struct sim *sim)
{
    for (int i = 1; i <= sim->node_count; i++) {
        struct store_stats stats;
        store_stats(sim_node_store(sim->nodes[i]), &stats);
        fprintf(stderr, "  node %d: %" PRIu64 " units, %" PRIu64 " chunks, %" PRIu64 " shards to reap\n", i,
                stats.bytes_allocated / STORE_UNIT_BYTES, stats.chunks, stats.shards_to_reap);
        store_shard_each(sim_node_store(sim->nodes[i]), tell_shard, sim->nodes[i]);
    }
}

void teardown_run(struct sim *sim)
{
    read_snapshots(sim);
    if (sim->failures > 0)
        return;
    delete_some(sim);
    if (!world_run_until(sim->world, nothing_to_reap, sim, ENV_MS(60000)))
        sim_fail(sim, "what was deleted is not reaped");
    world_run(sim->world, ENV_MS(300));
    read_guests(sim);
    read_snapshots(sim);
    converge_compare(sim);
    if (world_random_below(sim->world, 3) == 0)
        return; /* the audit has something to look at, then */
    for (uint32_t i = 0; i < sim->guest_count && sim->failures == 0; i++)
        if (!sim->guests[i]->gone)
            delete_volume(sim, sim->guests[i]);
    if (sim->failures == 0 && !world_run_until(sim->world, all_empty, sim, ENV_MS(60000))) {
        sim_fail(sim, "everything is deleted, and the space does not come back (I11)");
        tell_what_is_left(sim);
    }
}
