/* SPDX-License-Identifier: Apache-2.0 */
/* audit: the shipped check of a store (`ashlard store check`), over what each stopped node left: I11, and what a start would refuse.
 *
 * - each drive and each kv is opened as a process of its own, checked, and left alone.
 * Failure: each finding is a failure of the run.
 */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "server/store/check.h"
#include "tests/sim/sim.h"

#define POOL_BYTES (4u << 20)

struct audit {
    struct sim *sim;
    int node;
    bool over;
};

static void found(void *arg, const struct store_check_finding *f)
{
    struct audit *audit = arg;
    sim_fail(audit->sim,
             "node %d: store check: %s: volume %" PRIu64 " shard %u chunk %d generation %d block %d unit %d",
             audit->node, f->what, f->id.volume, f->id.shard, (int)f->chunk, (int)f->generation, (int)f->block,
             (int)f->unit);
}

static void done(void *arg, int rc, const struct store_check_stats *stats)
{
    struct audit *audit = arg;
    (void)stats;
    if (rc != 0)
        sim_fail(audit->sim, "node %d: the store cannot be checked: %s", audit->node, strerror(-rc));
    audit->over = true;
}

static bool is_over(void *arg)
{
    return ((struct audit *)arg)->over;
}

static void audit_node(struct sim *sim, int node)
{
    struct audit audit = {.sim = sim, .node = node};
    struct store_check check = {.found = found, .done = done, .arg = &audit};
    world_node_start(sim->world, node);
    struct env *env = world_env_create(sim->world, node);
    sim_node_open_seams(sim->nodes[node], env, &check.drive, &check.kv);
    check.pool = buf_pool_create(POOL_BYTES);
    assert(check.pool);
    int rc = store_check_start(&check);
    assert(rc == 0);
    if (!world_run_until(sim->world, is_over, &audit, ENV_MS(60000)))
        sim_fail(sim, "node %d: the check of its store does not end", node);
    drive_close(check.drive);
    kv_close(check.kv);
    buf_pool_destroy(check.pool);
    world_node_crash(sim->world, node, WORLD_CRASH_PROCESS);
}

void audit_run(struct sim *sim)
{
    for (int i = 1; i <= sim->node_count; i++)
        if (!sim_node_running(sim->nodes[i]))
            audit_node(sim, i);
}
