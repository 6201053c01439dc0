/* SPDX-License-Identifier: Apache-2.0 */
/* placement: which nodes hold a shard. Pure and integer only: every replica of the map must decide alike.
 *
 * - placement_init: the usable nodes with their weights (free space), hosts and racks turned into small numbers
 * - placement_choose: home first; then by weighted rendezvous hashing (score = -log2(hash) / weight, the lowest wins), each on a
 *   host not used yet, and on a rack not used yet while there is one
 *
 * Weighted rendezvous: a node gets its share by weight, and a node that comes or goes moves only its share.
 * Failure: fewer nodes than asked for: the count says so.
 */
#include <assert.h>
#include <string.h>

#include "server/control/map.h"
#include "server/control/map_state.h"

static uint64_t mix64(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

uint64_t map_rank(uint64_t volume, uint32_t shard, uint32_t node)
{
    return mix64(mix64(volume * 0x9e3779b97f4a7c15ull + shard) + node * 0xd1342543de82ef95ull);
}

/* -log2(hash / 2^64) with 24 bits of fraction. The logarithm of the mantissa is a parabola through its ends
 * (error below 0.6 %): shares need no more, equality on every machine is what counts. */
static uint64_t minus_log2(uint64_t hash)
{
    unsigned zeros = hash ? (unsigned)__builtin_clzll(hash) : 63;
    uint64_t mantissa = (hash << zeros << 1) >> 40; /* 24 bits after the leading one */
    uint64_t curve = (mantissa * ((1u << 24) - mantissa)) >> 24;
    uint64_t log = mantissa + (curve * 22487 >> 16); /* 0.3431 */
    assert(log <= (1u << 24) + (1u << 10));
    uint64_t whole = (uint64_t)(zeros + 1) << 24;
    return whole > log ? whole - log : 1;
}

static uint32_t label_class(const char *const *labels, uint32_t count, const char *label)
{
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(labels[i], label) == 0)
            return i;
    }
    return count;
}

static uint64_t weight_of(const struct map_node *node, const struct map_weight *weights, uint32_t weight_count)
{
    assert(node != NULL);
    if (weight_count == 0)
        return 1;
    for (uint32_t i = 0; i < weight_count; i++) {
        if (weights[i].node == node->id)
            return (weights[i].free_bytes >> 20) + 1;
    }
    return 1; /* nobody knows its space: last choice */
}

void placement_init(struct placement *p, const struct map *map, const struct map_weight *weights, uint32_t weight_count)
{
    const char *hosts[MAP_NODES_MAX], *racks[MAP_NODES_MAX];
    assert(weight_count == 0 || weights != NULL);
    p->count = 0;
    for (uint32_t i = 0; i < map->node_count; i++) {
        const struct map_node *node = map->nodes[i];
        if (!map_node_usable(node) || node->out)
            continue;
        struct placement_candidate *c = &p->candidates[p->count];
        c->node = node->id;
        c->weight = weight_of(node, weights, weight_count);
        /* An empty host label is a host of its own; empty rack labels are one rack. */
        c->host = node->host[0] ? label_class(hosts, p->count, node->host) : p->count;
        c->rack = label_class(racks, p->count, node->rack);
        hosts[p->count] = node->host[0] ? node->host : "\n";
        racks[p->count] = node->rack;
        p->count++;
    }
    assert(p->count <= MAP_NODES_MAX);
}

struct choice {
    const struct placement *p;
    uint64_t scores[MAP_NODES_MAX];                                /* 0: not to be used */
    uint64_t hosts[MAP_NODES_MAX / 64], racks[MAP_NODES_MAX / 64]; /* classes used so far */
};

static bool bit(const uint64_t *set, uint32_t i)
{
    return set[i / 64] >> (i % 64) & 1;
}

static void take(struct choice *choice, uint32_t candidate)
{
    const struct placement_candidate *c = &choice->p->candidates[candidate];
    assert(c->host < MAP_NODES_MAX);
    assert(c->rack < MAP_NODES_MAX);
    choice->hosts[c->host / 64] |= 1ull << (c->host % 64);
    choice->racks[c->rack / 64] |= 1ull << (c->rack % 64);
    choice->scores[candidate] = 0;
}

static bool better(const struct choice *choice, uint32_t a, uint32_t b)
{
    assert(choice != NULL);
    const struct placement_candidate *ca = &choice->p->candidates[a], *cb = &choice->p->candidates[b];
    bool new_rack_a = !bit(choice->racks, ca->rack), new_rack_b = !bit(choice->racks, cb->rack);
    if (new_rack_a != new_rack_b)
        return new_rack_a;
    unsigned __int128 left = (unsigned __int128)choice->scores[a] * cb->weight;
    unsigned __int128 right = (unsigned __int128)choice->scores[b] * ca->weight;
    return left != right ? left < right : ca->node < cb->node;
}

static bool excluded(uint32_t node, const uint32_t *exclude, uint32_t exclude_count)
{
    for (uint32_t i = 0; i < exclude_count; i++) {
        if (exclude[i] == node)
            return true;
    }
    return false;
}

uint32_t placement_choose(const struct placement *p, uint64_t volume, uint32_t shard, uint32_t replicas, uint32_t home,
                          const uint32_t *exclude, uint32_t exclude_count, uint32_t *ret_nodes)
{
    struct choice choice;
    uint32_t placed = 0;
    assert(replicas <= MAP_REPLICAS_MAX);
    choice.p = p;
    memset(choice.hosts, 0, sizeof choice.hosts);
    memset(choice.racks, 0, sizeof choice.racks);
    for (uint32_t i = 0; i < p->count; i++)
        choice.scores[i] = minus_log2(map_rank(volume, shard, p->candidates[i].node));
    for (uint32_t i = 0; i < p->count && exclude_count > 0; i++) {
        if (excluded(p->candidates[i].node, exclude, exclude_count))
            choice.scores[i] = 0;
    }
    for (uint32_t i = 0; i < p->count && placed < replicas; i++) {
        if (p->candidates[i].node == home && choice.scores[i] != 0) {
            ret_nodes[placed++] = home;
            take(&choice, i);
        }
    }
    while (placed < replicas) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = 0; i < p->count; i++) {
            if (choice.scores[i] == 0 || bit(choice.hosts, p->candidates[i].host))
                continue;
            if (best == UINT32_MAX || better(&choice, i, best))
                best = i;
        }
        if (best == UINT32_MAX)
            break;
        ret_nodes[placed++] = p->candidates[best].node;
        take(&choice, best);
    }
    assert(placed <= replicas);
    return placed;
}

uint32_t map_place(const struct map *map, uint64_t volume, uint32_t shard, uint32_t replicas, uint32_t home,
                   const struct map_weight *weights, uint32_t weight_count, const uint32_t *exclude,
                   uint32_t exclude_count, uint32_t *ret_nodes)
{
    assert(map != NULL);
    struct placement placement;
    placement_init(&placement, map, weights, weight_count);
    return placement_choose(&placement, volume, shard, replicas, home, exclude, exclude_count, ret_nodes);
}
