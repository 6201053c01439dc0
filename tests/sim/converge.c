/* SPDX-License-Identifier: Apache-2.0 */
/* converge: after the faults ended: are all members in sync, and are they equal (I9)?
 *
 * - reached: every volume has its full number of in_sync members, in an active epoch.
 * - compare: every chunk of every shard, in every live generation, is digested from every member's drive by the shipped code; digests must be equal.
 * Failure: the first differing block of each chunk is told, with the members' digests.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "server/store/store_core.h"
#include "tests/sim/sim.h"

struct verdict {
    struct sim *sim;
    bool reached, print;
};

static void look(void *arg, const struct map_volume *v)
{
    struct verdict *verdict = arg;
    for (uint32_t i = 0; i < v->shard_count; i++) {
        const struct map_shard *s = &v->shards[i];
        bool well = map_in_sync_count(s) >= v->replicas && s->active_epoch == s->epoch && s->primary != 0;
        verdict->reached = verdict->reached && well;
        if (!verdict->print || well)
            continue;
        fprintf(stderr, "  volume %" PRIu64 " shard %u: primary %u epoch %" PRIu64 " active %" PRIu64 " loss %" PRIu64,
                v->id, i, s->primary, s->epoch, s->active_epoch, s->loss_number);
        for (uint32_t k = 0; k < s->member_count; k++)
            fprintf(stderr, " | node %u flags %x e_R %" PRIu64 " inc %" PRIu64, s->members[k].node, s->members[k].flags,
                    s->members[k].e_r, s->members[k].incarnation);
        fprintf(stderr, "\n");
    }
}

bool converge_reached(struct sim *sim)
{
    struct verdict verdict = {.sim = sim, .reached = true};
    for (int i = 1; i <= sim->node_count; i++)
        if (!sim_node_serving(sim->nodes[i]) || sim_node_store_failed(sim->nodes[i]))
            return false;
    map_each_volume(plane_map(sim->plane), look, &verdict);
    return verdict.reached;
}

void converge_print(struct sim *sim)
{
    struct verdict verdict = {.sim = sim, .print = true};
    map_each_volume(plane_map(sim->plane), look, &verdict);
    for (int i = 1; i <= sim->node_count; i++) {
        const struct sim_node *node = sim->nodes[i];
        fprintf(stderr, "  node %d: %s%s life %u", i, sim_node_running(node) ? "runs" : "no process",
                sim_node_serving(node) ? ", serves" : "", sim_node_life(node));
        if (sim_node_serving(node)) {
            struct replica_sync_info infos[16];
            struct store_stats stats;
            const struct replicas_stats *rs = replicas_stats(sim_node_replicas(node));
            uint32_t count = replicas_syncs(sim_node_replicas(node), infos, 16);
            store_stats(sim_node_store(node), &stats);
            fprintf(stderr,
                    " map %" PRIu64 " marks %" PRIu64 " suspect %" PRIu64 " primaries %" PRIu64 " serving %" PRIu64
                    " parked %" PRIu64 " ops %" PRIu64 " units: %" PRIu64 " allocated %" PRIu64 " reserved %" PRIu64,
                    map_version(sim_node_map(node)), stats.marks, stats.suspect_regions, rs->primaries, rs->serving,
                    rs->parked_ops, rs->ops_in_flight, stats.bytes_total / STORE_UNIT_BYTES,
                    stats.bytes_allocated / STORE_UNIT_BYTES, stats.bytes_reserved / STORE_UNIT_BYTES);
            for (uint32_t k = 0; k < count; k++)
                fprintf(stderr, " | sync v%" PRIu64 " s%u -> %u %u/%u%s", infos[k].volume, infos[k].shard,
                        infos[k].node, infos[k].chunks_done, infos[k].chunks_total, infos[k].joining ? " joining" : "");
        }
        fprintf(stderr, "\n");
    }
}

/* ---- I9 ---- */

#define CRC32C_OF_ZEROS 0x98f94189u /* of a block */

struct digesting {
    struct store_digest digest;
    struct store_block_digest blocks[STORE_CHUNK_BLOCKS];
    bool busy;
    int rc;
};

static void digested(struct store_digest *req, int rc)
{
    struct digesting *d = req->owner;
    d->busy = false;
    d->rc = rc;
}

static bool digest_ended(void *arg)
{
    return !((struct digesting *)arg)->busy;
}

static bool digest_member(struct sim *sim, const struct map_volume *v, const struct map_shard *s,
                          const struct map_member *m, uint32_t chunk, uint32_t generation, struct digesting *d)
{
    struct sim_node *node = sim->nodes[m->node];
    if (!sim_node_serving(node))
        return false;
    struct store_shard_id id = {.volume = v->id, .shard = s->index, .instance = m->instance};
    struct store_shard *shard = shard_find(sim_node_store(node), &id);
    if (!shard)
        return false;
    memset(d, 0, sizeof(*d));
    d->busy = true;
    d->digest = (struct store_digest){
        .shard = shard, .chunk = chunk, .generation = generation, .blocks = d->blocks, .cb = digested, .owner = d};
    store_digest(&d->digest);
    return world_run_until(sim->world, digest_ended, d, ENV_MS(5000)) && d->rc == 0;
}

/* Zeros are zeros, whether nothing says so, or an allocated block, or 4096 bytes that a guest wrote. */
static bool is_data(const struct store_block_digest *d)
{
    return d->state == 1 && d->crc32c != CRC32C_OF_ZEROS;
}

static bool equal(const struct store_block_digest *a, const struct store_block_digest *b)
{
    bool data_a = is_data(a), data_b = is_data(b);
    return data_a == data_b && (!data_a || (a->crc32c == b->crc32c && a->crc64 == b->crc64));
}

/* An operator's late request may end a generation's life meanwhile (a flatten that was asked for again): who is quicker has removed its
 * records already. */
static bool still_live(struct sim *sim, uint64_t volume, uint32_t generation)
{
    const struct map_volume *v = map_volume_by_id(plane_map(sim->plane), volume);
    uint32_t *live = v ? malloc((v->snap_count + 1u) * sizeof(*live)) : NULL;
    bool found = false;
    assert(live || !v);
    for (uint32_t i = 0, count = v ? map_live_generations(v, live) : 0; i < count; i++)
        found = found || live[i] == generation;
    free(live);
    return found;
}

static bool compare_chunk(struct sim *sim, const struct map_volume *v, const struct map_shard *s, uint32_t chunk,
                          uint32_t generation, struct digesting *one, struct digesting *two)
{
    const struct map_member *first = NULL;
    for (uint32_t i = 0; i < s->member_count; i++) {
        const struct map_member *m = &s->members[i];
        if (!(m->flags & MAP_MEMBER_IN_SYNC))
            continue;
        if (!digest_member(sim, v, s, m, chunk, generation, first ? two : one)) {
            sim_fail(sim, "volume %" PRIu64 " shard %u chunk %u generation %u: node %u cannot be digested", v->id,
                     s->index, chunk, generation, m->node);
            return false;
        }
        if (!first) {
            first = m;
            continue;
        }
        for (uint32_t b = 0; b < STORE_CHUNK_BLOCKS; b++) {
            if (equal(&one->blocks[b], &two->blocks[b]))
                continue;
            if (!still_live(sim, v->id, generation))
                return true;
            sim_fail(
                sim,
                "volume %" PRIu64
                " shard %u chunk %u generation %u block %u: node %u has state %u crc %08x, node %u state %u crc %08x (I9)",
                v->id, s->index, chunk, generation, b, first->node, one->blocks[b].state, one->blocks[b].crc32c,
                m->node, two->blocks[b].state, two->blocks[b].crc32c);
            return false;
        }
    }
    return true;
}

static void compare_volume(void *arg, const struct map_volume *v)
{
    struct sim *sim = arg;
    struct digesting *one = malloc(sizeof(*one)), *two = malloc(sizeof(*two));
    assert(one && two);
    uint32_t bad = 0, *live = malloc((v->snap_count + 1u) * sizeof(*live));
    assert(live);
    uint32_t count = map_live_generations(v, live);
    for (uint32_t g = 0; g < count; g++)
        for (uint64_t at = 0; bad < 4 && at < v->size; at += STORE_CHUNK_BYTES)
            bad += !compare_chunk(sim, v, &v->shards[at / v->shard_bytes],
                                  (uint32_t)(at % v->shard_bytes / STORE_CHUNK_BYTES), live[g], one, two);
    free(live);
    free(one);
    free(two);
}

/* Rot that nobody has read yet is found by scrubbing: two passes of every node. */
struct scrubbed {
    struct sim *sim;
    uint64_t passes[SIM_NODES_MAX + 1];
};

static bool all_scrubbed(void *arg)
{
    const struct scrubbed *s = arg;
    for (int i = 1; i <= s->sim->node_count; i++) {
        struct store_stats stats;
        if (!sim_node_serving(s->sim->nodes[i]))
            return false;
        store_stats(sim_node_store(s->sim->nodes[i]), &stats);
        if (stats.scrub_passes < s->passes[i] + 2)
            return false;
    }
    return true;
}

void converge_scrub(struct sim *sim)
{
    struct scrubbed s = {.sim = sim};
    for (int i = 1; i <= sim->node_count; i++) {
        struct store_stats stats;
        store_stats(sim_node_store(sim->nodes[i]), &stats);
        s.passes[i] = stats.scrub_passes;
    }
    if (!world_run_until(sim->world, all_scrubbed, &s, ENV_MS(300000)))
        sim_fail(sim, "scrubbing does not end");
    world_run(sim->world, ENV_MS(2000)); /* repairs */
}

void converge_compare(struct sim *sim)
{
    map_each_volume(plane_map(sim->plane), compare_volume, sim);
}
