/* SPDX-License-Identifier: Apache-2.0 */
/* map_apply_shard: entries that change one shard (or, for activation, a batch; for elections, all).
 *
 * - from the shard's primary: MEMBER_DROP, MEMBER_ADD, EPOCH_ACTIVE, PRIMARY_MOVE
 * - from the leader: MEMBER_ATTACH, MEMBER_DETACH, ELECT
 * - from the operator: FORCE_PROMOTE
 *
 * Failure: -ESTALE when the compare-and-set on epoch, incarnation or instance does not hold (R4); -EBUSY when it would leave
 * too few (R8, R17); -ENOENT, -EEXIST, -EINVAL, -ENOSPC (MAP_MEMBERS_MAX), -EHOSTDOWN (promoted node is down).
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "server/control/map.h"
#include "server/control/map_state.h"

struct target {
    struct map_volume *volume;
    struct map_shard *shard;
    struct map_member *member; /* of entry->node; may be NULL */
};

/* The shard that the entry names, in the epoch that it names. */
static bool cas_shard(struct map *map, const struct map_entry *entry, struct target *ret, struct map_result *result)
{
    assert(map != NULL);
    assert(result->rc == 0);
    *ret = (struct target){0};
    ret->shard = map_find_shard(map, entry->volume, entry->shard, &ret->volume);
    if (!ret->shard) {
        result->rc = -ENOENT;
        return false;
    }
    ret->member = map_find_member(ret->shard, entry->node);
    if (ret->shard->epoch != entry->epoch)
        result->rc = -ESTALE;
    result->value = ret->shard->epoch;
    return result->rc == 0;
}

void map_apply_member_drop(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct target t;
    assert(entry->kind == MAP_ENTRY_MEMBER_DROP);
    if (!cas_shard(map, entry, &t, result))
        return;
    if (entry->to_node != 0 && entry->to_node != t.shard->primary)
        result->rc = -ESTALE;
    else if (!t.member || !(t.member->flags & MAP_MEMBER_IN_SYNC))
        result->rc = -ENOENT;
    else if (t.member->incarnation != entry->incarnation)
        result->rc = -ESTALE;
    else if (map_in_sync_count(t.shard) - 1 < t.volume->min_replicas)
        result->rc = -EBUSY; /* R8: not at a primary's word alone */
    if (result->rc < 0)
        return;
    assert(t.volume->min_replicas >= 1);
    map_shard_remove_in_sync(map, t.volume, t.shard, t.member);
    result->value = t.shard->epoch;
}

void map_apply_member_add(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct target t;
    assert(entry->kind == MAP_ENTRY_MEMBER_ADD);
    if (!cas_shard(map, entry, &t, result))
        return;
    const struct map_node *node = map_find_node(map, entry->node);
    if (!t.member)
        result->rc = -ENOENT;
    else if (t.member->flags & MAP_MEMBER_IN_SYNC)
        result->rc = -EEXIST;
    else if (t.member->instance != entry->instance || !map_node_usable(node) || node->incarnation != entry->incarnation)
        result->rc = -ESTALE;
    if (result->rc < 0)
        return;
    assert(t.shard->primary != 0 || map_in_sync_count(t.shard) > 0);
    t.member->flags |= MAP_MEMBER_IN_SYNC;
    /* UNROLLED, too: the resync compared every chunk that a rollback changed (R16). Rolling back now would bring back, where both read the
     * same and nothing was copied, what was overwritten since. */
    t.member->flags &= ~(uint32_t)(MAP_MEMBER_UNCLEAN | MAP_MEMBER_REBOOTED | MAP_MEMBER_EMPTY | MAP_MEMBER_UNROLLED);
    t.member->incarnation = entry->incarnation;
    t.shard->epoch++;
    map_touch_shard(map, t.volume, t.shard);
    map_shard_check(t.volume, t.shard);
    result->value = t.shard->epoch;
}

/* R12: from here on acknowledgements may be given in this epoch; who has them all is exactly in_sync. */
static void activate(struct map *map, struct map_volume *volume, struct map_shard *shard)
{
    assert(map != NULL);
    assert(map_in_sync_count(shard) >= volume->min_replicas);
    shard->active_epoch = shard->epoch;
    for (uint32_t i = 0; i < shard->member_count; i++) {
        struct map_member *m = &shard->members[i];
        m->flags &= ~(uint32_t)MAP_MEMBER_ELIGIBLE;
        m->eligible_incarnation = 0;
        if (!(m->flags & MAP_MEMBER_IN_SYNC))
            continue;
        m->flags &= ~(uint32_t)(MAP_MEMBER_UNCLEAN | MAP_MEMBER_REBOOTED | MAP_MEMBER_EMPTY | MAP_MEMBER_UNROLLED);
        m->flags |= MAP_MEMBER_ELIGIBLE;
        m->eligible_incarnation = m->incarnation;
    }
    map_touch_shard(map, volume, shard);
    map_shard_check(volume, shard);
    map_snap_unneeded(map, volume, volume->rollback.from);
}

void map_apply_epoch_active(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    const struct map_node *node = map_find_node(map, entry->node);
    assert(entry->kind == MAP_ENTRY_EPOCH_ACTIVE);
    if (!map_node_usable(node) || node->incarnation != entry->incarnation) {
        result->rc = -ESTALE;
        return;
    }
    for (uint32_t i = 0; i < entry->active_count; i++) {
        struct map_volume *volume;
        struct map_shard *shard = map_find_shard(map, entry->actives[i].volume, entry->actives[i].shard, &volume);
        if (!shard || shard->epoch != entry->actives[i].epoch || shard->primary != entry->node)
            continue;
        if (map_in_sync_count(shard) < volume->min_replicas)
            continue;
        if (shard->active_epoch != shard->epoch)
            activate(map, volume, shard);
        result->value++;
    }
    assert(result->value <= entry->active_count);
    if (result->value < entry->active_count)
        result->rc = -ESTALE; /* some: the map says which */
}

void map_apply_primary_move(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct target t;
    assert(entry->kind == MAP_ENTRY_PRIMARY_MOVE);
    if (!cas_shard(map, entry, &t, result))
        return;
    const struct map_member *to = map_find_member(t.shard, entry->to_node);
    const struct map_node *from = map_find_node(map, entry->node);
    if (t.shard->primary != entry->node || !from || from->incarnation != entry->incarnation)
        result->rc = -ESTALE; /* R10: only the one in office can agree */
    else if (!to || !(to->flags & MAP_MEMBER_IN_SYNC) || !map_member_live(map, to))
        result->rc = -ENOENT;
    else if (entry->to_node == entry->node)
        result->rc = -EINVAL;
    if (result->rc < 0)
        return;
    t.shard->primary = entry->to_node;
    t.shard->epoch++;
    map_touch_shard(map, t.volume, t.shard);
    map_shard_check(t.volume, t.shard);
    assert(t.shard->active_epoch < t.shard->epoch);
    result->value = t.shard->epoch;
}

/* to_node: member that the new one replaces, 0: none. An attachment alone changes no epoch: who must answer stays. */
void map_apply_member_attach(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct target t;
    assert(entry->kind == MAP_ENTRY_MEMBER_ATTACH);
    if (!cas_shard(map, entry, &t, result))
        return;
    const struct map_node *node = map_find_node(map, entry->node);
    struct map_member *replaced = entry->to_node ? map_find_member(t.shard, entry->to_node) : NULL;
    if (t.member)
        result->rc = -EEXIST;
    else if (!map_node_usable(node) || node->incarnation != entry->incarnation)
        result->rc = -ESTALE;
    else if (entry->to_node && !replaced)
        result->rc = -ENOENT;
    else if (t.shard->member_count == MAP_MEMBERS_MAX)
        result->rc = -ENOSPC;
    if (result->rc < 0)
        return;
    if (replaced)
        replaced->flags |= MAP_MEMBER_LEAVING;
    assert(t.shard->member_count < MAP_MEMBERS_MAX);
    struct map_member *added = &t.shard->members[t.shard->member_count++];
    map_shard_init_member(map, added, node);
    if (t.volume->base.volume != 0)
        added->flags |= MAP_MEMBER_FULL; /* nobody knows what of the parent is on that node */
    map_touch_shard(map, t.volume, t.shard);
    map_shard_check(t.volume, t.shard);
    result->value = added->instance;
}

/* May the member go? One without data: always. Else the remaining live in_sync members must be the volume's full number, in an
 * active epoch, so that nobody would ever want to elect the one that goes (R17: add, sync, then remove). */
static bool detach_allowed(const struct map *map, const struct target *t)
{
    uint32_t remaining = 0;
    assert(t->member != NULL);
    if (!(t->member->flags & (MAP_MEMBER_IN_SYNC | MAP_MEMBER_ELIGIBLE)) && t->member->e_r == 0)
        return true;
    for (uint32_t i = 0; i < t->shard->member_count; i++) {
        const struct map_member *m = &t->shard->members[i];
        remaining += m != t->member && (m->flags & MAP_MEMBER_IN_SYNC) && map_member_live(map, m);
    }
    assert(remaining < MAP_MEMBERS_MAX);
    return remaining >= t->volume->replicas && t->shard->active_epoch == t->shard->epoch;
}

void map_apply_member_detach(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    assert(map != NULL);
    struct target t;
    assert(entry->kind == MAP_ENTRY_MEMBER_DETACH);
    if (!cas_shard(map, entry, &t, result))
        return;
    if (!t.member)
        result->rc = -ENOENT;
    else if (t.member->instance != entry->instance)
        result->rc = -ESTALE;
    else if (!detach_allowed(map, &t) || map_shard_is_base(map, t.shard, entry->node))
        result->rc = -EBUSY;
    if (result->rc < 0)
        return;
    if (t.member->flags & MAP_MEMBER_IN_SYNC)
        map_shard_remove_in_sync(map, t.volume, t.shard, t.member);
    uint32_t at = (uint32_t)(t.member - t.shard->members);
    t.shard->member_count--;
    memmove(&t.shard->members[at], &t.shard->members[at + 1],
            (t.shard->member_count - at) * sizeof(t.shard->members[0]));
    memset(&t.shard->members[t.shard->member_count], 0, sizeof(t.shard->members[0]));
    map_touch_shard(map, t.volume, t.shard);
    map_shard_check(t.volume, t.shard);
    map_snap_unneeded(map, t.volume, t.volume->rollback.from);
    result->value = t.shard->epoch;
}

/* Every shard without a primary, of all volumes or of one, or one shard (R18). */
void map_apply_elect(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    assert(entry->kind == MAP_ENTRY_ELECT);
    assert(result->value == 0);
    for (uint32_t v = 0; v < map->volume_count; v++) {
        struct map_volume *volume = map->volumes[v];
        if (entry->volume != 0 && entry->volume != volume->id)
            continue;
        for (uint32_t s = 0; s < volume->shard_count; s++) {
            struct map_shard *shard = &volume->shards[s];
            if ((entry->shard == UINT32_MAX || entry->shard == s) && shard->primary == 0)
                result->value += map_shard_elect(map, volume, shard);
        }
    }
}

static void promote(struct map *map, struct map_volume *volume, struct map_shard *shard, struct map_member *forced)
{
    assert(map != NULL);
    uint64_t e_forced = forced->flags & MAP_MEMBER_IN_SYNC ? shard->epoch : forced->e_r;
    for (uint32_t i = 0; i < shard->member_count; i++) {
        struct map_member *m = &shard->members[i];
        uint64_t e_r = m->flags & MAP_MEMBER_IN_SYNC ? shard->epoch : m->e_r;
        m->flags &= ~(uint32_t)(MAP_MEMBER_IN_SYNC | MAP_MEMBER_ELIGIBLE);
        m->eligible_incarnation = 0;
        if (m->flags & MAP_MEMBER_EMPTY)
            e_r = 0;
        m->e_r = e_r < e_forced ? e_r : e_forced; /* R15 */
    }
    forced->flags &= ~(uint32_t)(MAP_MEMBER_EMPTY | MAP_MEMBER_UNCLEAN | MAP_MEMBER_REBOOTED | MAP_MEMBER_LEAVING);
    forced->flags |= MAP_MEMBER_IN_SYNC;
    forced->incarnation = map_find_node(map, forced->node)->incarnation;
    shard->primary = forced->node;
    shard->epoch++;
    shard->loss_number++; /* R13 */
    map_touch_shard(map, volume, shard);
    assert(map_in_sync_count(shard) == 1);
    map_shard_check(volume, shard);
}

/* R18: the operator's explicit command. Without MAP_FORCE only shards that have no primary. */
void map_apply_force_promote(struct map *map, const struct map_entry *entry, struct map_result *result)
{
    struct map_volume *volume = map_entry_volume(map, entry);
    const struct map_node *node = map_find_node(map, entry->node);
    uint32_t members = 0;
    assert(entry->kind == MAP_ENTRY_FORCE_PROMOTE);
    if (!volume || !node)
        result->rc = -ENOENT;
    else if (!map_node_usable(node))
        result->rc = -EHOSTDOWN;
    else if (entry->shard != UINT32_MAX && entry->shard >= volume->shard_count)
        result->rc = -ENOENT;
    if (result->rc < 0)
        return;
    for (uint32_t s = 0; s < volume->shard_count; s++) {
        struct map_shard *shard = &volume->shards[s];
        if (entry->shard != UINT32_MAX && entry->shard != s)
            continue;
        struct map_member *member = map_find_member(shard, entry->node);
        members += member != NULL;
        if (!member || (shard->primary != 0 && !(entry->flags & MAP_FORCE)))
            continue;
        promote(map, volume, shard, member);
        result->value++;
    }
    if (result->value == 0)
        result->rc = members == 0 ? -ENOENT : -EBUSY;
    assert(result->rc == 0 || result->value == 0);
}
