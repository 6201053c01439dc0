/* SPDX-License-Identifier: Apache-2.0 */
/* check_family: clones: who descends from whom, and whose units may be shared.
 *
 * - Shard records come in key order, before the maps: check_family_add keeps them, check_families judges bases.
 * - A clone and its base may be removed side by side: who is being removed needs no base any more.
 * - check_family_of says which family a map's shard belongs to: its record names the volume at the root.
 * Failure: a base that is not here, or a chain of bases that is too long, is a finding.
 */
#include "server/store/check_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define FAMILIES_MAX (UINT32_MAX / (STORE_SHARD_CHUNKS * STORE_CHUNK_UNITS) - 1)

int check_family_drop(struct check *check, const struct store_shard_id *id)
{
    assert(check->drop_count <= check->drop_capacity);
    assert(!check->drop_count || check_compare_ids(&check->drops[check->drop_count - 1], id) < 0);
    if (check->drop_count == check->drop_capacity) {
        uint32_t capacity = check->drop_capacity ? 2 * check->drop_capacity : 64;
        struct store_shard_id *drops = realloc(check->drops, capacity * sizeof(*drops));
        if (!drops)
            return -ENOMEM;
        check->drops = drops;
        check->drop_capacity = capacity;
    }
    check->drops[check->drop_count++] = *id;
    return 0;
}

static int compare_ids(const void *a, const void *b)
{
    assert(a && b);
    return check_compare_ids(a, b);
}

static bool is_removed(const struct check *check, const struct store_shard_id *id)
{
    assert(check->drop_count <= check->drop_capacity);
    return check->drop_count && bsearch(id, check->drops, check->drop_count, sizeof(*id), compare_ids);
}

int check_family_add(struct check *check, const struct store_shard_id *id, const struct record_shard *record)
{
    assert(check->shard_count <= check->shard_capacity);
    assert(!check->shard_count || check_compare_ids(&check->shards[check->shard_count - 1].id, id) < 0);
    if (check->shard_count == check->shard_capacity) {
        uint32_t capacity = check->shard_capacity ? 2 * check->shard_capacity : 256;
        struct check_shard *shards = realloc(check->shards, capacity * sizeof(*shards));
        if (!shards)
            return -ENOMEM;
        check->shards = shards;
        check->shard_capacity = capacity;
    }
    check->shards[check->shard_count++] =
        (struct check_shard){.id = *id, .record = *record, .removed = is_removed(check, id)};
    return 0;
}

static int compare_shards(const void *a, const void *b)
{
    assert(a && b);
    return check_compare_ids(&((const struct check_shard *)a)->id, &((const struct check_shard *)b)->id);
}

static const struct check_shard *find_shard(const struct check *check, const struct store_shard_id *id)
{
    struct check_shard wanted = {.id = *id};
    assert(check->shard_count <= check->shard_capacity);
    return check->shard_count ? bsearch(&wanted, check->shards, check->shard_count, sizeof(wanted), compare_shards)
                              : NULL;
}

void check_families(struct check *check)
{
    assert(check->family_count == 0);
    for (uint32_t i = 0; i < check->shard_count; i++) {
        const struct check_shard *shard = &check->shards[i], *at = shard;
        const char *what = NULL;
        for (uint32_t depth = 0; !what && !at->removed && at->record.has_base; depth++) {
            const struct check_shard *base = find_shard(check, &at->record.base.id);
            if (!base)
                what = "a clone's base is not here";
            else if (depth == STORE_BASE_DEPTH_MAX)
                what = "a chain of bases is too long";
            else if (base->record.origin != shard->record.origin)
                what = "a clone and its base belong to two families";
            at = base;
        }
        assert(what || at);
        if (what)
            check_damage(check, what, &shard->id, STORE_CHECK_NONE, STORE_CHECK_NONE, STORE_CHECK_NONE,
                         STORE_CHECK_NONE);
    }
}

uint32_t check_family_of(struct check *check, const struct store_shard_id *id)
{
    const struct check_shard *shard = find_shard(check, id);
    struct check_family family = {.origin = shard ? shard->record.origin : id->volume, .shard = id->shard};
    assert(check->family_count <= check->family_capacity);
    for (uint32_t i = check->family_count; i-- > 0;) /* the one added last is likely */
        if (check->families[i].origin == family.origin && check->families[i].shard == family.shard)
            return i;
    if (check->family_count == check->family_capacity) {
        uint32_t capacity = check->family_capacity ? 2 * check->family_capacity : 64;
        struct check_family *families =
            check->family_count < FAMILIES_MAX ? realloc(check->families, capacity * sizeof(*families)) : NULL;
        if (!families) {
            check_damage(check, "too many families to judge", id, STORE_CHECK_NONE, STORE_CHECK_NONE, STORE_CHECK_NONE,
                         STORE_CHECK_NONE);
            return UINT32_MAX;
        }
        check->families = families;
        check->family_capacity = capacity;
    }
    check->families[check->family_count] = family;
    return check->family_count++;
}
