/* SPDX-License-Identifier: Apache-2.0 */
/* map_shard: the rules of one shard that several entries share.
 *
 * - map_shard_lose: a member's node went away: out of in_sync while another live one carries on, else the
 *   shard has no primary and in_sync goes on naming who has the data
 * - map_shard_elect: R18: one of in_sync and eligible becomes the only in_sync member
 * - map_shard_choose_primary: home first, then the lowest rendezvous rank, among live in_sync members (I3)
 * - map_shard_check: what holds of every shard at any time
 *
 * Why in_sync and eligible are all that is electable: acknowledgements need an active epoch, and the
 * entry that makes an epoch active makes `eligible` exactly its in_sync set. So until the next activation
 * each eligible member has every acknowledged write, whatever happens to in_sync in between (R12).
 */
#include <assert.h>
#include <string.h>

#include "common/mutant.h"
#include "server/control/map.h"
#include "server/control/map_state.h"

void map_shard_check(const struct map_volume *volume, const struct map_shard *shard)
{
    const struct map_member *primary = map_member_of(shard, shard->primary);
    assert(shard->volume == volume->id);
    assert(shard->member_count >= 1 && shard->member_count <= MAP_MEMBERS_MAX);
    assert(map_in_sync_count(shard) >= 1); /* somebody has the data */
    assert(shard->active_epoch <= shard->epoch);
    if (shard->primary != 0) {
        assert(primary != NULL);
        assert(primary->flags & MAP_MEMBER_IN_SYNC); /* I3 */
    }
}

void map_shard_init_member(struct map *map, struct map_member *member, const struct map_node *node)
{
    assert(node->id != 0);
    *member = (struct map_member){.node = node->id, .instance = map->next_instance++};
    assert(map->next_instance != 0);
}

uint32_t map_shard_choose_primary(const struct map *map, const struct map_volume *volume, const struct map_shard *shard)
{
    assert(map != NULL);
    uint32_t best = 0;
    uint64_t best_rank = 0;
    assert(shard->member_count <= MAP_MEMBERS_MAX);
    for (uint32_t i = 0; i < shard->member_count; i++) {
        const struct map_member *m = &shard->members[i];
        if (!(m->flags & MAP_MEMBER_IN_SYNC) || !map_member_live(map, m))
            continue;
        if (m->node == volume->home)
            return m->node;
        uint64_t rank = map_rank(shard->volume, shard->index, m->node);
        if (best == 0 || rank < best_rank) {
            best = m->node;
            best_rank = rank;
        }
    }
    return best;
}

static bool other_live(const struct map *map, const struct map_shard *shard, const struct map_member *but)
{
    assert(map != NULL);
    assert(shard != NULL);
    for (uint32_t i = 0; i < shard->member_count; i++) {
        const struct map_member *m = &shard->members[i];
        if (m != but && (m->flags & MAP_MEMBER_IN_SYNC) && map_member_live(map, m))
            return true;
    }
    return false;
}

void map_shard_remove_in_sync(struct map *map, struct map_volume *volume, struct map_shard *shard,
                              struct map_member *member)
{
    assert(member->flags & MAP_MEMBER_IN_SYNC);
    assert(map_in_sync_count(shard) > 1);
    member->flags &= ~(uint32_t)MAP_MEMBER_IN_SYNC;
    /* R15: set by the removing entry. A rollback is on every member only once its epoch is active. */
    bool rolling = volume->rollback.to > shard->sealed && shard->active_epoch < shard->epoch;
    member->e_r = member->flags & MAP_MEMBER_EMPTY ? 0 : rolling ? shard->active_epoch : shard->epoch;
    shard->epoch++;
    if (shard->primary == member->node)
        shard->primary = map_shard_choose_primary(map, volume, shard);
    map_touch_shard(map, volume, shard);
    map_shard_check(volume, shard);
}

void map_shard_lose(struct map *map, struct map_volume *volume, struct map_shard *shard, struct map_member *member)
{
    assert(map != NULL);
    assert(!map_member_live(map, member) || !(member->flags & MAP_MEMBER_IN_SYNC));
    if (!(member->flags & MAP_MEMBER_IN_SYNC))
        return;
    if (other_live(map, shard, member)) {
        map_shard_remove_in_sync(map, volume, shard, member);
        return;
    }
    if (shard->primary != 0) {
        shard->primary = 0;
        shard->epoch++;
        map_touch_shard(map, volume, shard);
    }
    map_shard_check(volume, shard);
}

/* Nothing better can come: every member that could be elected is up (an emptied store can never be). */
bool map_shard_electable_all_up(const struct map *map, const struct map_shard *shard)
{
    assert(map != NULL);
    uint32_t candidates = 0;
    for (uint32_t i = 0; i < shard->member_count; i++) {
        const struct map_member *m = &shard->members[i];
        if (!(m->flags & (MAP_MEMBER_IN_SYNC | MAP_MEMBER_ELIGIBLE)) || (m->flags & MAP_MEMBER_EMPTY))
            continue;
        if (!map_member_electable(map, m))
            return false;
        candidates++;
    }
    assert(candidates <= shard->member_count);
    return candidates > 0;
}

/* Lower is better: clean, same boot, rebooted; in_sync before eligible; home first; lowest id (R18). */
static uint64_t election_order(const struct map_volume *volume, const struct map_member *member)
{
    assert(volume != NULL);
    uint64_t stop = member->flags & MAP_MEMBER_REBOOTED ? 2 : member->flags & MAP_MEMBER_UNCLEAN ? 1 : 0;
    uint64_t not_in_sync = !(member->flags & MAP_MEMBER_IN_SYNC);
    uint64_t not_home = member->node != volume->home;
    assert(!(member->flags & MAP_MEMBER_EMPTY));
    return stop << 34 | not_in_sync << 33 | not_home << 32 | member->node;
}

bool map_shard_elect(struct map *map, struct map_volume *volume, struct map_shard *shard)
{
    assert(map != NULL);
    struct map_member *best = NULL;
    assert(shard->primary == 0);
    for (uint32_t i = 0; i < shard->member_count; i++) {
        struct map_member *m = &shard->members[i];
        if (map_member_electable(map, m) && (!best || election_order(volume, m) < election_order(volume, best)))
            best = m;
    }
    if (!best)
        return false;
    for (uint32_t i = 0; i < shard->member_count; i++) {
        struct map_member *m = &shard->members[i];
        if (m == best || !(m->flags & MAP_MEMBER_IN_SYNC))
            continue;
        m->flags &= ~(uint32_t)MAP_MEMBER_IN_SYNC;
        if (m->flags & MAP_MEMBER_EMPTY)
            m->e_r = 0;
        else if (m->flags & MAP_MEMBER_ELIGIBLE)
            m->e_r =
                MUTANT(e_r_too_new) ? shard->epoch : shard->active_epoch; /* else what it was before it was resynced */
    }
    if ((best->flags & MAP_MEMBER_REBOOTED) && !MUTANT(no_loss_number))
        shard->loss_number++; /* R13 */
    best->flags |= MAP_MEMBER_IN_SYNC;
    best->incarnation = map_find_node(map, best->node)->incarnation;
    shard->primary = best->node;
    shard->epoch++;
    map_touch_shard(map, volume, shard);
    map_shard_check(volume, shard);
    return true;
}
