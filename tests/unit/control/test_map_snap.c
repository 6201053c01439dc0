/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of snapshots, clones, rollback and flatten in the cluster map (R20, I10). */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/control/map_fixture.h"

static void init(struct map_fixture *f, uint32_t nodes)
{
    map_fixture_init(f);
    for (uint32_t n = 1; n <= nodes; n++)
        (void)map_fixture_register(f, n, MAP_STOP_CLEAN);
}

static const struct map_volume *volume_of(const struct map_fixture *f, uint64_t id)
{
    const struct map_volume *v = map_volume_by_id(f->map, id);
    assert_non_null(v);
    return v;
}

static int open_snap(struct map_fixture *f, const uint64_t *volumes, uint32_t count, const char *name)
{
    struct map_entry e = {.kind = MAP_ENTRY_SNAPSHOT_OPEN, .created_ms = 7, .volumes = volumes, .volume_count = count};
    (void)snprintf(e.snapshot, sizeof e.snapshot, "%s", name);
    return map_fixture_apply(f, &e).rc;
}

/* One shard, as its primary of now says it; how many the map took. */
static uint64_t seal(struct map_fixture *f, uint64_t volume, uint32_t shard, uint32_t generation)
{
    const struct map_shard *s = map_fixture_shard(f, volume, shard);
    struct map_run run = {.volume = volume, .first = shard, .count = 1, .epoch = s->epoch, .generation = generation};
    struct map_entry e = {.kind = MAP_ENTRY_SNAPSHOT_SEALED, .node = s->primary, .runs = &run, .run_count = 1};
    e.incarnation = s->primary ? map_fixture_incarnation(f, s->primary) : 0;
    return map_fixture_apply(f, &e).value;
}

static void make_snap(struct map_fixture *f, uint64_t volume, const char *name)
{
    assert_int_equal(open_snap(f, &volume, 1, name), 0);
    const struct map_volume *v = volume_of(f, volume);
    for (uint32_t i = 0; i < v->shard_count; i++)
        assert_int_equal(seal(f, volume, i, v->generation - 1), 1);
    assert_int_equal(map_snap_by_name(volume_of(f, volume), name)->state, MAP_SNAP_COMPLETE);
}

static struct map_result on_snap(struct map_fixture *f, enum map_entry_kind kind, const char *volume,
                                 const char *snapshot, const char *to)
{
    struct map_entry e = {.kind = kind};
    (void)snprintf(e.name, sizeof e.name, "%s", volume);
    (void)snprintf(e.snapshot, sizeof e.snapshot, "%s", snapshot);
    (void)snprintf(e.to_name, sizeof e.to_name, "%s", to);
    return map_fixture_apply(f, &e);
}

static int remove_volume(struct map_fixture *f, const char *name)
{
    struct map_entry e = {.kind = MAP_ENTRY_VOLUME_DELETE};
    (void)snprintf(e.name, sizeof e.name, "%s", name);
    return map_fixture_apply(f, &e).rc;
}

static void a_snapshot_is_complete_when_every_shard_is_sealed(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t v = map_fixture_volume(&f, "v", 3, 3, 2, 1);
    assert_int_equal(open_snap(&f, &v, 1, "-no"), -EINVAL);
    assert_int_equal(open_snap(&f, &v, 1, "one"), 0);
    assert_int_equal(open_snap(&f, &v, 1, "one"), -EEXIST);
    assert_int_equal(open_snap(&f, &v, 1, "two"), -EBUSY);
    const struct map_volume *volume = volume_of(&f, v);
    assert_int_equal(volume->generation, 2);
    assert_int_equal(map_shard_floor(volume, &volume->shards[0]), 1);
    assert_int_equal(seal(&f, v, 0, 1), 1);
    assert_int_equal(map_shard_floor(volume, &volume->shards[0]), 2);
    assert_int_equal(seal(&f, v, 0, 1), 0); /* once */
    assert_int_equal(seal(&f, v, 1, 2), 0); /* another generation */
    assert_int_equal(seal(&f, v, 1, 1), 1);
    /* R4: the last shard's primary changes: what the old one says counts no more. */
    struct map_run stale = {.volume = v, .first = 2, .count = 1, .epoch = 1, .generation = 1};
    struct map_entry e = {.kind = MAP_ENTRY_SNAPSHOT_SEALED, .node = 1, .runs = &stale, .run_count = 1};
    e.incarnation = map_fixture_incarnation(&f, 1);
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, 1), 0);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ESTALE);
    assert_int_equal(seal(&f, v, 2, 1), 0); /* not active yet */
    assert_int_equal(map_snap_opening(volume)->generation, 1);
    assert_int_equal(map_fixture_activate(&f, v, 2), 0);
    assert_int_equal(seal(&f, v, 2, 1), 1);
    assert_null(map_snap_opening(volume));
    assert_int_equal(map_snap_by_name(volume, "one")->state, MAP_SNAP_COMPLETE);
    uint32_t live[4];
    assert_int_equal(map_live_generations(volume, live), 2);
    assert_int_equal(live[0], 1);
    assert_int_equal(live[1], 2);
    map_fixture_close(&f);
}

static void what_a_deleted_snapshot_held_is_the_next_ones(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t v = map_fixture_volume(&f, "v", 1, 3, 2, 1);
    make_snap(&f, v, "one");
    make_snap(&f, v, "two");
    make_snap(&f, v, "three");
    for (uint32_t generation = 1; generation <= 4; generation++)
        assert_int_equal(map_live_heir(volume_of(&f, v), generation), generation);
    assert_int_equal(on_snap(&f, MAP_ENTRY_SNAPSHOT_DELETE, "v", "two", "").rc, 0);
    assert_int_equal(map_live_heir(volume_of(&f, v), 1), 1);
    assert_int_equal(map_live_heir(volume_of(&f, v), 2), 3);
    assert_int_equal(on_snap(&f, MAP_ENTRY_SNAPSHOT_DELETE, "v", "three", "").rc, 0);
    assert_int_equal(map_live_heir(volume_of(&f, v), 2), 4);
    (void)on_snap(&f, MAP_ENTRY_VOLUME_CLONE, "v", "one", "c");
    assert_int_equal(remove_volume(&f, "v"), 0); /* only what the clone reads is left */
    assert_int_equal(map_live_heir(volume_of(&f, v), 1), 1);
    assert_int_equal(map_live_heir(volume_of(&f, v), 2), 0);
    map_fixture_close(&f);
}

static void a_group_is_complete_or_given_up_as_a_whole(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t v[3] = {map_fixture_volume(&f, "a", 1, 3, 2, 1), map_fixture_volume(&f, "b", 2, 3, 2, 2), 0};
    v[2] = map_fixture_volume(&f, "c", 1, 3, 2, 3);
    uint64_t twisted[2] = {v[1], v[0]};
    assert_int_equal(open_snap(&f, twisted, 2, "g"), -EINVAL);
    uint64_t missing[2] = {v[0], 99};
    assert_int_equal(open_snap(&f, missing, 2, "g"), -ENOENT);
    assert_int_equal(volume_of(&f, v[0])->generation, 1); /* all or none */
    assert_int_equal(open_snap(&f, v, 2, "g"), 0);
    assert_int_equal(open_snap(&f, &v[2], 1, "other"), 0);
    assert_int_equal(seal(&f, v[0], 0, 1), 1);
    assert_int_equal(seal(&f, v[1], 0, 1), 1);
    assert_non_null(map_snap_opening(volume_of(&f, v[0])));
    assert_int_equal(seal(&f, v[1], 1, 1), 1);
    assert_null(map_snap_opening(volume_of(&f, v[0])));
    assert_null(map_snap_opening(volume_of(&f, v[1])));
    assert_non_null(map_snap_opening(volume_of(&f, v[2])));
    assert_int_equal(open_snap(&f, v, 2, "h"), 0);
    assert_int_equal(seal(&f, v[0], 0, 2), 1);
    struct map_entry e = {.kind = MAP_ENTRY_SNAPSHOT_ABORT, .volume = v[1], .generation = 1};
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ENOENT); /* that one is complete */
    e.generation = 2;
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    for (int i = 0; i < 2; i++) {
        const struct map_volume *volume = volume_of(&f, v[i]);
        assert_null(map_snap_by_name(volume, "h"));
        assert_int_equal(volume->generation, 3); /* R3: the number is gone for good */
        assert_int_equal(map_shard_floor(volume, &volume->shards[0]), 3);
    }
    map_fixture_close(&f);
}

static void deletion_keeps_what_clones_read(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t v = map_fixture_volume(&f, "v", 2, 3, 2, 1);
    make_snap(&f, v, "one");
    make_snap(&f, v, "two");
    assert_int_equal(on_snap(&f, MAP_ENTRY_VOLUME_CLONE, "v", "no", "c").rc, -ENOENT);
    assert_int_equal(on_snap(&f, MAP_ENTRY_VOLUME_CLONE, "v", "one", "v").rc, -EEXIST);
    uint64_t c = on_snap(&f, MAP_ENTRY_VOLUME_CLONE, "v", "one", "c").value;
    assert_int_equal(volume_of(&f, c)->base.volume, v);
    assert_int_equal(volume_of(&f, c)->base.generation, 1);
    make_snap(&f, c, "inner");
    uint64_t d = on_snap(&f, MAP_ENTRY_VOLUME_CLONE, "c", "inner", "d").value;
    assert_int_equal(on_snap(&f, MAP_ENTRY_SNAPSHOT_DELETE, "v", "one", "").rc, 0);
    assert_null(map_snap_by_name(volume_of(&f, v), "one"));
    assert_int_equal(map_snap_by_generation(volume_of(&f, v), 1)->state, MAP_SNAP_HELD);
    assert_int_equal(remove_volume(&f, "v"), 0);
    assert_null(map_volume_by_name(f.map, "v"));
    assert_true(volume_of(&f, v)->deleting);
    uint32_t live[4];
    assert_int_equal(map_live_generations(volume_of(&f, v), live), 1); /* no head, no "two" */
    assert_int_equal(live[0], 1);
    (void)map_fixture_volume(&f, "v", 1, 3, 2, 1); /* the name is free */
    assert_int_equal(remove_volume(&f, "c"), 0);
    assert_non_null(map_volume_by_id(f.map, c)); /* d reads through it, and through v */
    assert_non_null(map_volume_by_id(f.map, v));
    uint32_t removed = f.removed_events;
    assert_int_equal(remove_volume(&f, "d"), 0);
    assert_null(map_volume_by_id(f.map, d));
    assert_null(map_volume_by_id(f.map, c));
    assert_null(map_volume_by_id(f.map, v));
    assert_int_equal(f.removed_events, removed + 3);
    map_fixture_close(&f);
}

static void a_clone_sits_with_its_parent(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 4);
    uint64_t v = map_fixture_volume(&f, "v", 2, 3, 2, 1);
    make_snap(&f, v, "s");
    assert_int_equal(map_fixture_drop(&f, v, 0, map_fixture_shard(&f, v, 0)->members[1].node), 0);
    assert_int_equal(map_fixture_activate(&f, v, 0), 0);
    uint64_t c = on_snap(&f, MAP_ENTRY_VOLUME_CLONE, "v", "s", "c").value;
    const struct map_shard *shard = map_fixture_shard(&f, c, 0);
    assert_int_equal(shard->member_count, 2); /* only who has what it reads */
    assert_int_equal(map_fixture_shard(&f, c, 1)->member_count, 3);
    for (uint32_t i = 0; i < 2; i++) {
        assert_true(map_fixture_in_sync(&f, v, 0, shard->members[i].node));
        assert_false(shard->members[i].flags & MAP_MEMBER_FULL);
    }
    /* The parent's member stays while a clone reads there; a new member of the clone holds everything itself. */
    uint32_t newcomer = 0;
    for (uint32_t n = 1; n <= 4; n++)
        newcomer = map_member_of(shard, n) ? newcomer : n;
    struct map_entry e = {.kind = MAP_ENTRY_MEMBER_ATTACH, .volume = c, .shard = 0, .epoch = 1, .node = newcomer};
    e.incarnation = map_fixture_incarnation(&f, newcomer);
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_true(map_member_of(shard, newcomer)->flags & MAP_MEMBER_FULL);
    assert_false(map_shard_is_base(f.map, map_fixture_shard(&f, v, 0), newcomer));
    uint32_t reader = map_fixture_shard(&f, v, 1)->members[2].node;
    assert_true(map_shard_is_base(f.map, map_fixture_shard(&f, v, 1), reader));
    /* R3: a store that is replaced has nothing of the parent either. */
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, reader), 0);
    (void)map_fixture_register(&f, reader, MAP_STOP_EMPTY);
    assert_true(map_member_of(map_fixture_shard(&f, c, 1), reader)->flags & MAP_MEMBER_FULL);
    assert_false(map_shard_is_base(f.map, map_fixture_shard(&f, v, 1), reader));
    map_fixture_close(&f);
}

/* R8: fewer than min_replicas have the snapshot; the clone is there, and its writes wait in an epoch that is not active. */
static void a_clone_below_min_replicas_is_not_active(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t v = map_fixture_volume(&f, "v", 1, 3, 2, 1);
    make_snap(&f, v, "s");
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, 2), 0);
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, 3), 0);
    uint64_t c = on_snap(&f, MAP_ENTRY_VOLUME_CLONE, "v", "s", "c").value;
    const struct map_shard *shard = map_fixture_shard(&f, c, 0);
    assert_int_equal(shard->member_count, 1);
    assert_int_equal(shard->primary, 1);
    assert_true(shard->active_epoch < shard->epoch);
    assert_int_not_equal(map_fixture_activate(&f, c, 0), 0);
    map_fixture_close(&f);
}

static void a_higher_min_replicas_ends_the_epoch_below_it(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t v = map_fixture_volume(&f, "v", 1, 3, 1, 1);
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, 2), 0);
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, 3), 0);
    assert_int_equal(map_fixture_activate(&f, v, 0), 0);
    uint64_t epoch = map_fixture_shard(&f, v, 0)->epoch;
    struct map_entry e = {.kind = MAP_ENTRY_VOLUME_SET, .volume = v, .min_replicas = 2};
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_int_equal(map_fixture_shard(&f, v, 0)->epoch, epoch + 1);
    assert_int_equal(map_fixture_shard(&f, v, 0)->active_epoch, epoch);
    e.min_replicas = 3; /* it is not active as it is */
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_int_equal(map_fixture_shard(&f, v, 0)->epoch, epoch + 1);
    map_fixture_close(&f);
}

static void a_flattened_clone_lets_its_parent_go(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t v = map_fixture_volume(&f, "v", 2, 3, 2, 1);
    make_snap(&f, v, "s");
    uint64_t c = on_snap(&f, MAP_ENTRY_VOLUME_CLONE, "v", "s", "c").value;
    assert_int_equal(on_snap(&f, MAP_ENTRY_VOLUME_FLATTEN, "v", "", "").rc, -EINVAL);
    struct map_run run = {.volume = c, .first = 0, .count = 2};
    struct map_entry e = {.kind = MAP_ENTRY_MEMBER_FULL, .runs = &run, .run_count = 1};
    e.node = 1;
    e.incarnation = map_fixture_incarnation(&f, 1);
    assert_int_equal(map_fixture_apply(&f, &e).value, 0); /* nobody asked for it */
    assert_int_equal(on_snap(&f, MAP_ENTRY_VOLUME_FLATTEN, "c", "", "").rc, 0);
    assert_int_equal(remove_volume(&f, "v"), 0);
    for (uint32_t n = 1; n <= 3; n++) {
        assert_int_equal(volume_of(&f, c)->base.volume, v);
        e.node = n;
        e.incarnation = map_fixture_incarnation(&f, n);
        assert_int_equal(map_fixture_apply(&f, &e).value, 2);
    }
    assert_int_equal(volume_of(&f, c)->base.volume, 0);
    assert_null(map_volume_by_id(f.map, v));
    map_fixture_close(&f);
}

static void rollback_makes_a_new_head_in_a_new_epoch(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t v = map_fixture_volume(&f, "v", 1, 3, 2, 1);
    make_snap(&f, v, "one");
    make_snap(&f, v, "two");
    struct map_entry e = {.kind = MAP_ENTRY_SESSION_OPEN, .volume = v, .node = 1, .attachment = {1}};
    e.incarnation = map_fixture_incarnation(&f, 1);
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_int_equal(on_snap(&f, MAP_ENTRY_VOLUME_ROLLBACK, "v", "one", "").rc, -EBUSY);
    struct map_entry close = {.kind = MAP_ENTRY_SESSION_CLOSE, .volume = v, .session = 1};
    assert_int_equal(map_fixture_apply(&f, &close).rc, 0);
    assert_int_equal(on_snap(&f, MAP_ENTRY_VOLUME_ROLLBACK, "v", "one", "").value, 4);
    const struct map_volume *volume = volume_of(&f, v);
    assert_int_equal(volume->rollback.from, 1);
    assert_int_equal(volume->rollback.to, 4);
    assert_non_null(map_snap_by_name(volume, "two"));
    assert_int_equal(map_fixture_shard(&f, v, 0)->epoch, 2);
    assert_int_equal(map_fixture_shard(&f, v, 0)->active_epoch, 1);
    e.flags = MAP_SESSION_FAILOVER; /* the client of before does not come back to other content */
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EPERM);
    /* R15: who goes before the epoch was active may not have done it: its e_R is the epoch before. */
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, 3), 0);
    assert_int_equal(map_member_of(map_fixture_shard(&f, v, 0), 3)->e_r, 1);
    assert_int_equal(map_fixture_activate(&f, v, 0), 0);
    make_snap(&f, v, "three");
    assert_int_equal(map_snap_by_name(volume_of(&f, v), "three")->generation, 4);
    map_fixture_close(&f);
}

/* Members make the new head from the snapshot: one that is deleted meanwhile stays until the last of them has done it for good. */
static void a_snapshot_stays_until_every_member_rolled_back_to_it(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t v = map_fixture_volume(&f, "v", 2, 3, 2, 1);
    uint32_t live[4];
    make_snap(&f, v, "s");
    assert_int_equal(on_snap(&f, MAP_ENTRY_VOLUME_ROLLBACK, "v", "s", "").value, 3);
    assert_int_equal(on_snap(&f, MAP_ENTRY_SNAPSHOT_DELETE, "v", "s", "").rc, 0);
    assert_null(map_snap_by_name(volume_of(&f, v), "s"));
    assert_int_equal(map_live_generations(volume_of(&f, v), live), 2);
    assert_int_equal(live[0], 1);
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_DOWN, 3), 0); /* before it did it */
    assert_int_equal(map_fixture_activate(&f, v, 0), 0);
    assert_int_equal(map_fixture_activate(&f, v, 1), 0);
    assert_int_equal(map_live_generations(volume_of(&f, v), live), 2);
    (void)map_fixture_register(&f, 3, MAP_STOP_SAME_BOOT);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(map_live_generations(volume_of(&f, v), live), 2);
        assert_true(map_member_of(map_fixture_shard(&f, v, i), 3)->flags & MAP_MEMBER_UNROLLED);
        assert_int_equal(map_fixture_add(&f, v, i, 3), 0);
        assert_false(map_member_of(map_fixture_shard(&f, v, i), 3)->flags &
                     MAP_MEMBER_UNROLLED); /* the resync did it */
        assert_int_equal(map_fixture_activate(&f, v, i), 0);
    }
    assert_int_equal(map_live_generations(volume_of(&f, v), live), 1);
    assert_int_equal(live[0], 3);
    map_fixture_close(&f);
}

/* The parent's snapshot ends before the new shard: its members read nothing there. */
static void a_clone_grows_beyond_its_parent(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t v = map_fixture_volume(&f, "v", 1, 3, 2, 1);
    make_snap(&f, v, "s");
    uint64_t c = on_snap(&f, MAP_ENTRY_VOLUME_CLONE, "v", "s", "c").value;
    struct map_entry e = {.kind = MAP_ENTRY_VOLUME_RESIZE, .volume = c, .size = 2 * MAP_SHARD_BYTES_DEFAULT};
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    for (uint32_t i = 0; i < 3; i++) {
        assert_false(map_fixture_shard(&f, c, 0)->members[i].flags & MAP_MEMBER_FULL);
        assert_true(map_fixture_shard(&f, c, 1)->members[i].flags & MAP_MEMBER_FULL);
    }
    map_fixture_close(&f);
}

static void no_shrink_goes_below_a_snapshot(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t v = map_fixture_volume(&f, "v", 2, 3, 2, 1);
    make_snap(&f, v, "s");
    struct map_entry e = {.kind = MAP_ENTRY_VOLUME_RESIZE, .volume = v, .size = 3 * MAP_SHARD_BYTES_DEFAULT};
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_int_equal(map_fixture_shard(&f, v, 2)->sealed, 1); /* nothing older was ever written there */
    e.flags = MAP_FORCE;
    e.size = 2 * MAP_SHARD_BYTES_DEFAULT;
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    e.size = MAP_SHARD_BYTES_DEFAULT;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ENOTEMPTY);
    assert_int_equal(on_snap(&f, MAP_ENTRY_SNAPSHOT_DELETE, "v", "s", "").rc, 0);
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    map_fixture_close(&f);
}

static void the_most_snapshots_fit_and_survive_a_restore(void **state)
{
    (void)state;
    struct map_fixture f;
    void *bytes;
    size_t len;
    init(&f, 3);
    uint64_t v = map_fixture_volume(&f, "v", 1, 3, 2, 1);
    f.unchecked = true;
    for (uint32_t i = 0; i < MAP_SNAPSHOTS_MAX; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "s%u", i);
        make_snap(&f, v, name);
    }
    assert_int_equal(open_snap(&f, &v, 1, "more"), -ENOSPC);
    (void)on_snap(&f, MAP_ENTRY_VOLUME_CLONE, "v", "s77", "c");
    struct map *other = map_create();
    assert_int_equal(map_snapshot(f.map, &bytes, &len), 0);
    assert_true(len < MAP_SNAPSHOTS_MAX * 40u + 300000u); /* 4096 request results included */
    assert_int_equal(map_restore(other, bytes, len), 0);
    assert_true(map_hash(other) == map_hash(f.map));
    assert_int_equal(map_snap_by_name(map_volume_by_id(other, v), "s77")->holders, 1);
    map_destroy(other);
    free(bytes);
    map_fixture_close(&f);
}

/* Goal: a hostile map snapshot whose count of unsealed shards is not what its shards say would end the process at the next seal. */
static void a_wrong_count_of_seals_is_refused(void **state)
{
    (void)state;
    struct map_fixture f;
    init(&f, 3);
    uint64_t v = map_fixture_volume(&f, "v", 2, 3, 2, 1);
    assert_int_equal(open_snap(&f, &v, 1, "s"), 0);
    struct map_volume *volume = (struct map_volume *)(uintptr_t)map_volume_by_id(f.map, v);
    assert_int_equal(volume->unsealed, 2);
    struct map *other = map_create();
    for (uint32_t unsealed = 0; unsealed <= 2; unsealed++) {
        void *bytes;
        size_t len;
        volume->unsealed = unsealed;
        assert_int_equal(map_snapshot(f.map, &bytes, &len), 0);
        assert_int_equal(map_restore(other, bytes, len), unsealed == 2 ? 0 : -EBADMSG);
        free(bytes);
    }
    uint32_t sealed = volume->shards[0].sealed;
    void *bytes;
    size_t len;
    volume->shards[0].sealed = volume->generation;
    volume->unsealed = 1;
    assert_int_equal(map_snapshot(f.map, &bytes, &len), 0);
    assert_int_equal(map_restore(other, bytes, len), -EBADMSG);
    free(bytes);
    volume->shards[0].sealed = sealed;
    volume->unsealed = 2;
    map_destroy(other);
    map_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wrong_count_of_seals_is_refused),
        cmocka_unit_test(a_snapshot_is_complete_when_every_shard_is_sealed),
        cmocka_unit_test(what_a_deleted_snapshot_held_is_the_next_ones),
        cmocka_unit_test(a_group_is_complete_or_given_up_as_a_whole),
        cmocka_unit_test(deletion_keeps_what_clones_read),
        cmocka_unit_test(a_clone_sits_with_its_parent),
        cmocka_unit_test(a_clone_below_min_replicas_is_not_active),
        cmocka_unit_test(a_higher_min_replicas_ends_the_epoch_below_it),
        cmocka_unit_test(a_flattened_clone_lets_its_parent_go),
        cmocka_unit_test(rollback_makes_a_new_head_in_a_new_epoch),
        cmocka_unit_test(a_snapshot_stays_until_every_member_rolled_back_to_it),
        cmocka_unit_test(a_clone_grows_beyond_its_parent),
        cmocka_unit_test(no_shrink_goes_below_a_snapshot),
        cmocka_unit_test(the_most_snapshots_fit_and_survive_a_restore),
    };
    return cmocka_run_group_tests(tests, /* setup= */ NULL, /* teardown= */ NULL);
}
