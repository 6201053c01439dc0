/* SPDX-License-Identifier: Apache-2.0 */
/* control_heal: members of shards that should be others (R17): add, let it be synced, then remove the old one.
 *
 * - a member on a node that is out (or being replaced) does not count; a shard with fewer others than its volume wants gets a new
 *   member: MEMBER_ATTACH. Syncing and adding it is its primary's work
 * - a volume's home that is no member of a shard gets it, in place of another one
 * - once the others are all in_sync and active, the one that goes is removed: MEMBER_DETACH
 * - at most heal_shards_max members are being synced in the cluster, and CONTROL_DUTIES_MAX entries under way, at a time
 *
 * Failure: no node to put it on: the shard stays as it is, and is looked at again when the map changes.
 */
#include <assert.h>
#include <string.h>

#define LOG_MODULE "control"
#include "common/log.h"
#include "server/control/control_state.h"

struct heal {
    struct control *c;
    uint32_t syncing; /* members attached and not in_sync yet, on usable nodes */
    bool more;        /* work was left for want of room */
    struct map_weight weights[MAP_NODES_MAX];
    uint32_t weight_count;
};

static bool goes(const struct map *map, const struct map_member *m)
{
    assert(map != NULL);
    const struct map_node *node = map_node_by_id(map, m->node);
    assert(m->node != 0);
    return (m->flags & MAP_MEMBER_LEAVING) || !node || node->out;
}

static bool usable(const struct map *map, uint32_t node_id)
{
    assert(map != NULL);
    const struct map_node *node = node_id ? map_node_by_id(map, node_id) : NULL;
    return node && node->up && !node->store_failed && !node->out;
}

static void count_syncing(void *arg, const struct map_volume *volume)
{
    assert(volume != NULL);
    struct heal *heal = arg;
    assert(heal->c->leading);
    for (uint32_t i = 0; i < volume->shard_count; i++) {
        for (uint32_t m = 0; m < volume->shards[i].member_count; m++) {
            const struct map_member *member = &volume->shards[i].members[m];
            heal->syncing +=
                !(member->flags & MAP_MEMBER_IN_SYNC) && member->e_r == 0 && usable(heal->c->map, member->node);
        }
    }
}

static bool propose(struct heal *heal, const struct map_entry *entry)
{
    assert(heal != NULL);
    if (heal->c->duties_pending >= CONTROL_DUTIES_MAX / 2 || control_duty_propose(heal->c, entry) < 0) {
        heal->more = true;
        return false;
    }
    assert(heal->c->duties_pending > 0);
    return true;
}

static bool attach(struct heal *heal, const struct map_shard *shard, uint32_t node, uint32_t replaced)
{
    assert(heal != NULL);
    struct map_entry entry = {.kind = MAP_ENTRY_MEMBER_ATTACH, .volume = shard->volume, .shard = shard->index};
    if (heal->syncing >= heal->c->config.heal_shards_max) {
        heal->more = true;
        return true;
    }
    entry.epoch = shard->epoch;
    entry.node = node;
    entry.incarnation = map_node_by_id(heal->c->map, node)->incarnation;
    entry.to_node = replaced;
    if (propose(heal, &entry))
        heal->syncing++;
    assert(heal->syncing <= heal->c->config.heal_shards_max);
    return true;
}

struct same_host {
    const struct map_node *as;
    uint32_t *exclude;
    uint32_t count;
};

static void exclude_host(void *arg, const struct map_node *node)
{
    assert(node != NULL);
    struct same_host *same = arg;
    assert(same->count < MAP_NODES_MAX * 2);
    if (node->id == same->as->id || (node->host[0] && strcmp(node->host, same->as->host) == 0))
        same->exclude[same->count++] = node->id;
}

/* A node for one more member: none of the members, nor on the host of one that stays. 0: there is none. */
static uint32_t find_node(const struct heal *heal, const struct map_volume *volume, const struct map_shard *shard)
{
    assert(heal != NULL);
    uint32_t exclude[MAP_NODES_MAX * 2], found = 0;
    struct same_host same = {.exclude = exclude};
    for (uint32_t m = 0; m < shard->member_count; m++) {
        const struct map_member *member = &shard->members[m];
        same.as = map_node_by_id(heal->c->map, member->node);
        if (same.count > MAP_NODES_MAX)
            return 0;
        if (same.as && !goes(heal->c->map, member))
            map_each_node(heal->c->map, exclude_host, &same);
        else
            exclude[same.count++] = member->node;
    }
    assert(same.count <= MAP_NODES_MAX * 2);
    uint32_t placed = map_place(heal->c->map, shard->volume, shard->index, 1, volume->home, heal->weights,
                                heal->weight_count, exclude, same.count, &found);
    return placed == 1 ? found : 0;
}

static bool detach(struct heal *heal, const struct map_shard *shard, const struct map_member *member)
{
    assert(heal != NULL);
    struct map_entry entry = {.kind = MAP_ENTRY_MEMBER_DETACH, .volume = shard->volume, .shard = shard->index};
    assert(member->instance != 0);
    if (map_shard_is_base(heal->c->map, shard, member->node))
        return false; /* the clones' members go first */
    entry.epoch = shard->epoch;
    entry.node = member->node;
    entry.instance = member->instance;
    return propose(heal, &entry);
}

/* In_sync and live members other than `but`. */
static uint32_t good_without(const struct heal *heal, const struct map_shard *shard, const struct map_member *but)
{
    assert(heal != NULL);
    uint32_t count = 0;
    assert(shard->member_count <= MAP_MEMBERS_MAX);
    for (uint32_t m = 0; m < shard->member_count; m++) {
        const struct map_member *member = &shard->members[m];
        count += member != but && (member->flags & MAP_MEMBER_IN_SYNC) && map_member_live(heal->c->map, member);
    }
    return count;
}

/* The member that the shard can best do without: one that goes; else, of too many, the last in rank that is neither home nor primary. */
static const struct map_member *find_surplus(const struct heal *heal, const struct map_volume *volume,
                                             const struct map_shard *shard)
{
    assert(heal != NULL);
    const struct map_member *worst = NULL;
    uint64_t worst_rank = 0;
    for (uint32_t m = 0; m < shard->member_count; m++) {
        const struct map_member *member = &shard->members[m];
        if (goes(heal->c->map, member))
            return member;
        if (member->node == volume->home || member->node == shard->primary)
            continue;
        uint64_t rank = map_rank(shard->volume, shard->index, member->node) >> 1;
        if (!(member->flags & MAP_MEMBER_IN_SYNC))
            rank |= 1ull << 63;
        if (!worst || rank > worst_rank) {
            worst = member;
            worst_rank = rank;
        }
    }
    assert(shard->member_count >= 1);
    return shard->member_count > volume->replicas ? worst : NULL;
}

/* One change a shard at a time; true: something was proposed or is awaited. */
static bool heal_shard(struct heal *heal, const struct map_volume *volume, const struct map_shard *shard)
{
    assert(heal != NULL);
    const struct map *map = heal->c->map;
    uint32_t staying = 0, first_going = 0, syncing = 0;
    for (uint32_t m = 0; m < shard->member_count; m++) {
        const struct map_member *member = &shard->members[m];
        bool going = goes(map, member);
        staying += !going;
        syncing += !going && !(member->flags & MAP_MEMBER_IN_SYNC);
        if (going && first_going == 0 && !(member->flags & MAP_MEMBER_LEAVING))
            first_going = member->node;
    }
    assert(staying <= shard->member_count);
    const struct map_member *surplus = find_surplus(heal, volume, shard);
    if (surplus && shard->active_epoch == shard->epoch && good_without(heal, shard, surplus) >= volume->replicas)
        return detach(heal, shard, surplus);
    if (surplus && surplus->e_r == 0 && !(surplus->flags & (MAP_MEMBER_IN_SYNC | MAP_MEMBER_ELIGIBLE)) &&
        goes(map, surplus))
        return detach(heal, shard, surplus); /* never had any data */
    if (shard->member_count == MAP_MEMBERS_MAX || shard->primary == 0)
        return false;
    if (staying < volume->replicas) {
        uint32_t node = find_node(heal, volume, shard);
        return node != 0 && attach(heal, shard, node, first_going);
    }
    bool want_home = usable(map, volume->home) && !map_member_of(shard, volume->home);
    if (want_home && staying == volume->replicas && syncing == 0) {
        const struct map_member *other = NULL;
        for (uint32_t m = 0; m < shard->member_count; m++)
            other = shard->members[m].node != shard->primary || !other ? &shard->members[m] : other;
        return attach(heal, shard, volume->home, other->node);
    }
    return false;
}

static void heal_volume(void *arg, const struct map_volume *volume)
{
    assert(volume != NULL);
    struct heal *heal = arg;
    assert(volume->replicas >= 1);
    for (uint32_t i = 0; i < volume->shard_count && heal->c->duties_pending < CONTROL_DUTIES_MAX / 2; i++)
        (void)heal_shard(heal, volume, &volume->shards[i]);
}

void control_heal(struct control *c)
{
    struct heal heal = {.c = c};
    uint64_t version = map_version(c->map);
    assert(c->leading);
    if (c->duties_pending > 0)
        return; /* decide on their outcome */
    for (uint32_t i = 0; i < c->watch_count; i++) {
        if (c->watches[i].reported)
            heal.weights[heal.weight_count++] =
                (struct map_weight){c->watches[i].node, c->watches[i].report[REPORT_FREE_BYTES]};
    }
    map_each_volume(c->map, count_syncing, &heal);
    map_each_volume(c->map, heal_volume, &heal);
    assert(map_version(c->map) == version);
    if (!heal.more)
        c->duties_version = version;
}
