/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of the shard rules of the cluster map: who is in_sync, who is primary, what an election may choose. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/control/map_fixture.h"

enum { CLEAN = MAP_STOP_CLEAN, SAME_BOOT = MAP_STOP_SAME_BOOT, REBOOTED = MAP_STOP_REBOOTED, EMPTY = MAP_STOP_EMPTY };

/* Nodes 1..count, volume 1 with one shard, replicas on 1..replicas when count == replicas, home 1. */
static struct map_fixture start(uint32_t count, uint32_t replicas, uint32_t min_replicas)
{
    struct map_fixture f;
    map_fixture_init(&f);
    for (uint32_t n = 1; n <= count; n++)
        (void)map_fixture_register(&f, n, CLEAN);
    assert_int_equal(map_fixture_volume(&f, "v", 1, replicas, min_replicas, 1), 1);
    map_set_observer(f.map, NULL); /* f moves: its address is not the final one */
    return f;
}

static const struct map_shard *shard(const struct map_fixture *f)
{
    return map_fixture_shard(f, 1, 0);
}

static const struct map_member *member(const struct map_fixture *f, uint32_t node)
{
    const struct map_member *m = map_member_of(shard(f), node);
    assert_non_null(m);
    return m;
}

static int down(struct map_fixture *f, uint32_t node)
{
    return map_fixture_node(f, MAP_ENTRY_NODE_DOWN, node);
}

static void a_new_shard_is_active_with_its_home_as_primary(void **state)
{
    (void)state;
    struct map_fixture f = start(3, 3, 2);
    assert_int_equal(shard(&f)->primary, 1);
    assert_int_equal(shard(&f)->epoch, 1);
    assert_int_equal(shard(&f)->active_epoch, 1);
    assert_int_equal(map_in_sync_count(shard(&f)), 3);
    for (uint32_t n = 1; n <= 3; n++)
        assert_int_equal(member(&f, n)->flags, MAP_MEMBER_IN_SYNC | MAP_MEMBER_ELIGIBLE);
    map_fixture_close(&f);
}

static void node_down_moves_the_primary_and_records_e_r(void **state)
{
    (void)state;
    struct map_fixture f = start(3, 3, 2);
    assert_int_equal(down(&f, 1), 0);
    assert_int_equal(shard(&f)->epoch, 2);
    assert_int_equal(shard(&f)->active_epoch, 1);
    assert_int_equal(member(&f, 1)->e_r, 1); /* R15 */
    assert_int_equal(member(&f, 1)->flags, MAP_MEMBER_ELIGIBLE);
    uint32_t lower = map_rank(1, 0, 2) < map_rank(1, 0, 3) ? 2 : 3;
    assert_int_equal(shard(&f)->primary, lower);
    assert_int_equal(map_fixture_activate(&f, 1, 0), 0);
    assert_int_equal(shard(&f)->active_epoch, 2);
    assert_int_equal(member(&f, 1)->flags, 0); /* not eligible any more (R12) */
    /* A backup's loss leaves the primary alone. */
    assert_int_equal(down(&f, lower == 2 ? 3 : 2), 0);
    assert_int_equal(shard(&f)->primary, lower);
    assert_int_equal(shard(&f)->epoch, 3);
    map_fixture_close(&f);
}

static void node_down_needs_the_incarnation(void **state)
{
    (void)state;
    struct map_fixture f = start(3, 3, 2);
    struct map_entry e = {.kind = MAP_ENTRY_NODE_DOWN, .node = 2, .incarnation = map_fixture_incarnation(&f, 2) + 100};
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ESTALE);
    e.node = 9;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ENOENT);
    assert_int_equal(shard(&f)->epoch, 1);
    map_fixture_close(&f);
}

static void too_few_in_sync_never_become_active(void **state)
{
    (void)state;
    struct map_fixture f = start(3, 3, 2);
    assert_int_equal(down(&f, 2), 0);
    assert_int_equal(down(&f, 3), 0);
    assert_int_equal(shard(&f)->primary, 1);
    assert_int_equal(map_in_sync_count(shard(&f)), 1);
    assert_int_equal(map_fixture_activate(&f, 1, 0), -ESTALE); /* R6, R8 */
    assert_int_equal(shard(&f)->active_epoch, 1);
    /* Members of the last active epoch stay electable (R12). */
    for (uint32_t n = 1; n <= 3; n++)
        assert_true(member(&f, n)->flags & MAP_MEMBER_ELIGIBLE);
    map_fixture_close(&f);
}

static void the_last_one_stays_named_in_in_sync(void **state)
{
    (void)state;
    struct map_fixture f = start(2, 2, 1);
    assert_int_equal(down(&f, 2), 0);
    assert_int_equal(map_fixture_activate(&f, 1, 0), 0);
    uint64_t epoch = shard(&f)->epoch;
    assert_int_equal(down(&f, 1), 0);
    assert_int_equal(shard(&f)->primary, 0);
    assert_int_equal(shard(&f)->epoch, epoch + 1);
    assert_true(map_fixture_in_sync(&f, 1, 0, 1));
    /* The other one lacks writes: it may come back, but is never elected. */
    (void)map_fixture_register(&f, 2, CLEAN);
    assert_int_equal(map_fixture_elect(&f), 0);
    assert_int_equal(shard(&f)->primary, 0);
    /* The one that has the data elects itself at once: nothing better can come. */
    (void)map_fixture_register(&f, 1, SAME_BOOT);
    assert_int_equal(shard(&f)->primary, 1);
    assert_int_equal(shard(&f)->loss_number, 0);
    map_fixture_close(&f);
}

static void a_new_incarnation_is_a_loss_where_others_carry_on(void **state)
{
    (void)state;
    struct map_fixture f = start(3, 3, 2);
    (void)map_fixture_register(&f, 1, SAME_BOOT); /* R1, no NODE_DOWN before */
    assert_false(map_fixture_in_sync(&f, 1, 0, 1));
    assert_int_not_equal(shard(&f)->primary, 1);
    assert_int_not_equal(shard(&f)->primary, 0);
    assert_int_equal(member(&f, 1)->e_r, 1);
    /* It is resynced and added under its new incarnation; the primary is not moved by that. */
    uint32_t primary = shard(&f)->primary;
    assert_int_equal(map_fixture_add(&f, 1, 0, 1), 0);
    assert_int_equal(shard(&f)->primary, primary);
    assert_int_equal(member(&f, 1)->incarnation, map_fixture_incarnation(&f, 1));
    assert_int_equal(member(&f, 1)->flags & MAP_MEMBER_UNCLEAN, 0);
    map_fixture_close(&f);
}

static void a_sole_member_is_elected_by_its_own_registration(void **state)
{
    (void)state;
    struct map_fixture f = start(1, 1, 1);
    (void)map_fixture_register(&f, 1, SAME_BOOT);
    assert_int_equal(shard(&f)->primary, 1);
    assert_int_equal(shard(&f)->loss_number, 0);
    assert_int_equal(map_fixture_activate(&f, 1, 0), 0);
    (void)map_fixture_register(&f, 1, REBOOTED);
    assert_int_equal(shard(&f)->primary, 1);
    assert_int_equal(shard(&f)->loss_number, 1); /* R13 */
    assert_int_equal(map_fixture_activate(&f, 1, 0), 0);
    (void)map_fixture_register(&f, 1, CLEAN);
    assert_int_equal(shard(&f)->loss_number, 1);
    map_fixture_close(&f);
}

/* All three members go down and restart in every order and with every mix of stops: nobody is elected before the last
 * one came (there is no ELECT entry), and then it is the best one. */
static void all_restart_case(const uint32_t order[3], const uint8_t stops[3])
{
    struct map_fixture f = start(3, 3, 2);
    for (uint32_t n = 1; n <= 3; n++)
        assert_int_equal(down(&f, n), 0);
    assert_int_equal(shard(&f)->primary, 0);
    assert_true(map_fixture_in_sync(&f, 1, 0, 3)); /* the last one down */
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(shard(&f)->primary, 0);
        (void)map_fixture_register(&f, order[i], stops[order[i] - 1]);
    }
    uint8_t best = stops[0] < stops[1] ? stops[0] : stops[1];
    best = best < stops[2] ? best : stops[2];
    uint32_t winner = shard(&f)->primary;
    assert_int_not_equal(winner, 0);
    assert_int_equal(stops[winner - 1], best);
    if (stops[2] == best)
        assert_int_equal(winner, 3); /* ties: in_sync first */
    else if (stops[0] == best)
        assert_int_equal(winner, 1); /* then home */
    assert_int_equal(shard(&f)->loss_number, best == REBOOTED ? 1 : 0);
    assert_int_equal(map_in_sync_count(shard(&f)), 1);
    for (uint32_t n = 1; n <= 3; n++)
        if (n != winner)
            assert_int_equal(member(&f, n)->e_r, n == 2 && winner != 2 ? 2 : 1);
    map_fixture_close(&f);
}

static void all_members_restart_in_every_order_and_mix(void **state)
{
    (void)state;
    static const uint32_t orders[6][3] = {{1, 2, 3}, {1, 3, 2}, {2, 1, 3}, {2, 3, 1}, {3, 1, 2}, {3, 2, 1}};
    for (unsigned o = 0; o < 6; o++) {
        for (unsigned mix = 0; mix < 27; mix++) {
            uint8_t stops[3] = {(uint8_t)(mix % 3), (uint8_t)(mix / 3 % 3), (uint8_t)(mix / 9)};
            all_restart_case(orders[o], stops);
        }
    }
}

static void an_election_after_grace_takes_the_best_of_those_that_came(void **state)
{
    (void)state;
    struct map_fixture f = start(3, 3, 2);
    for (uint32_t n = 1; n <= 3; n++)
        assert_int_equal(down(&f, n), 0);
    (void)map_fixture_register(&f, 1, REBOOTED);
    (void)map_fixture_register(&f, 2, SAME_BOOT);
    assert_int_equal(shard(&f)->primary, 0);
    assert_int_equal(map_fixture_elect(&f), 0);
    assert_int_equal(shard(&f)->primary, 2);
    assert_int_equal(shard(&f)->loss_number, 0);
    /* 3 was in_sync in epoch 3, which never became active: what it is trusted with is epoch 1 (R18). */
    assert_false(map_fixture_in_sync(&f, 1, 0, 3));
    assert_int_equal(member(&f, 3)->e_r, 1);
    /* Before the new epoch is active, the others stay electable. */
    assert_int_equal(down(&f, 2), 0);
    (void)map_fixture_register(&f, 3, CLEAN);
    assert_int_equal(map_fixture_elect(&f), 0);
    assert_int_equal(shard(&f)->primary, 3);
    map_fixture_close(&f);
}

static void a_second_clean_restart_does_not_wash_away_a_reboot(void **state)
{
    (void)state;
    struct map_fixture f = start(2, 2, 2);
    assert_int_equal(down(&f, 1), 0);
    assert_int_equal(down(&f, 2), 0);
    (void)map_fixture_register(&f, 1, REBOOTED);
    (void)map_fixture_register(&f, 1, CLEAN);
    assert_int_equal(shard(&f)->primary, 0);
    assert_int_equal(map_fixture_elect(&f), 0);
    assert_int_equal(shard(&f)->primary, 1);
    assert_int_equal(shard(&f)->loss_number, 1); /* R13 */
    map_fixture_close(&f);
}

static void an_empty_store_is_never_elected(void **state)
{
    (void)state;
    struct map_fixture f = start(2, 2, 1);
    assert_int_equal(down(&f, 2), 0);
    assert_int_equal(map_fixture_activate(&f, 1, 0), 0);
    assert_int_equal(down(&f, 1), 0);
    uint64_t instance = member(&f, 2)->instance;
    (void)map_fixture_register(&f, 2, EMPTY);
    assert_int_equal(member(&f, 2)->e_r, 0);
    assert_true(member(&f, 2)->instance > instance); /* starts with no history (R3) */
    (void)map_fixture_register(&f, 1, EMPTY);
    assert_int_equal(map_fixture_elect(&f), 0);
    assert_int_equal(shard(&f)->primary, 0);
    /* The operator may give the data up. */
    struct map_entry e = {.kind = MAP_ENTRY_FORCE_PROMOTE, .volume = 1, .shard = UINT32_MAX, .node = 1};
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_int_equal(shard(&f)->primary, 1);
    assert_int_equal(shard(&f)->loss_number, 1);
    map_fixture_close(&f);
}

static void an_empty_in_sync_member_does_not_hold_up_the_others(void **state)
{
    (void)state;
    struct map_fixture f = start(3, 3, 2);
    for (uint32_t n = 1; n <= 3; n++)
        assert_int_equal(down(&f, n), 0);
    (void)map_fixture_register(&f, 1, SAME_BOOT);
    (void)map_fixture_register(&f, 2, SAME_BOOT);
    assert_int_equal(shard(&f)->primary, 0);
    (void)map_fixture_register(&f, 3, EMPTY); /* was the one in in_sync */
    assert_int_equal(shard(&f)->primary, 1);
    assert_int_equal(member(&f, 3)->e_r, 0);
    map_fixture_close(&f);
}

static void another_store_under_a_known_id_is_empty_or_refused(void **state)
{
    (void)state;
    struct map_fixture f = start(2, 2, 1);
    struct map_entry e = map_fixture_node_entry(2, CLEAN);
    e.node_info.store_uuid[5] = 0x77;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EEXIST); /* node 2 is up with its own store */
    assert_int_equal(down(&f, 2), 0);
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_int_equal(map_node_by_id(f.map, 2)->stop, EMPTY);
    assert_int_equal(member(&f, 2)->e_r, 0);
    e.incarnation = 12345;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ESTALE); /* R4 */
    map_fixture_close(&f);
}

static void a_drop_never_goes_below_min_replicas(void **state)
{
    (void)state;
    struct map_fixture f = start(3, 3, 2);
    assert_int_equal(map_fixture_drop(&f, 1, 0, 2), 0);
    assert_int_equal(shard(&f)->epoch, 2);
    assert_int_equal(member(&f, 2)->e_r, 1);
    assert_int_equal(map_fixture_drop(&f, 1, 0, 3), -EBUSY); /* R8 */
    assert_int_equal(shard(&f)->epoch, 2);
    assert_int_equal(map_fixture_drop(&f, 1, 0, 2), -ENOENT); /* is out already */
    assert_int_equal(down(&f, 3), 0);                         /* the control plane itself may */
    assert_int_equal(map_in_sync_count(shard(&f)), 1);
    map_fixture_close(&f);
}

static void changes_of_a_shard_are_compare_and_set(void **state)
{
    (void)state;
    struct map_fixture f = start(3, 3, 1);
    struct map_entry e = {.kind = MAP_ENTRY_MEMBER_DROP, .volume = 1, .shard = 0, .epoch = 7, .node = 2};
    e.incarnation = map_fixture_incarnation(&f, 2);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ESTALE);
    e.epoch = 1;
    e.incarnation += 50;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ESTALE);
    e.shard = 1;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ENOENT);
    assert_int_equal(map_fixture_drop(&f, 1, 0, 2), 0);
    /* Add: epoch, instance and incarnation, all three. */
    struct map_entry add = {.kind = MAP_ENTRY_MEMBER_ADD, .volume = 1, .epoch = 2, .node = 2};
    add.incarnation = map_fixture_incarnation(&f, 2);
    add.instance = member(&f, 2)->instance + 1;
    assert_int_equal(map_fixture_apply(&f, &add).rc, -ESTALE);
    add.instance--;
    add.incarnation++;
    assert_int_equal(map_fixture_apply(&f, &add).rc, -ESTALE);
    add.incarnation--;
    add.epoch = 1;
    assert_int_equal(map_fixture_apply(&f, &add).rc, -ESTALE);
    add.epoch = 2;
    assert_int_equal(map_fixture_apply(&f, &add).rc, 0);
    assert_int_equal(map_fixture_apply(&f, &add).rc, -ESTALE); /* the epoch moved on */
    assert_int_equal(map_fixture_add(&f, 1, 0, 2), -EEXIST);
    map_fixture_close(&f);
}

static void activation_needs_primary_incarnation_and_epoch(void **state)
{
    (void)state;
    struct map_fixture f = start(3, 3, 2);
    assert_int_equal(down(&f, 3), 0);
    struct map_active active = {1, 0, 2};
    struct map_entry e = {.kind = MAP_ENTRY_EPOCH_ACTIVE, .node = 2, .actives = &active, .active_count = 1};
    e.incarnation = map_fixture_incarnation(&f, 2);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ESTALE); /* not the primary */
    e.node = 1;
    e.incarnation = map_fixture_incarnation(&f, 1) + 9;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ESTALE);
    e.incarnation = map_fixture_incarnation(&f, 1);
    active.epoch = 1;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ESTALE);
    active.epoch = 2;
    struct map_active two[2] = {active, {1, 7, 2}};
    e.actives = two;
    e.active_count = 2;
    struct map_result r = map_fixture_apply(&f, &e); /* one of two */
    assert_int_equal(r.rc, -ESTALE);
    assert_int_equal(r.value, 1);
    assert_int_equal(shard(&f)->active_epoch, 2);
    map_fixture_close(&f);
}

static void only_the_one_in_office_moves_the_primary(void **state)
{
    (void)state;
    struct map_fixture f = start(3, 3, 2);
    struct map_entry e = {.kind = MAP_ENTRY_PRIMARY_MOVE, .volume = 1, .epoch = 1, .node = 2, .to_node = 3};
    e.incarnation = map_fixture_incarnation(&f, 2);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ESTALE); /* R10 */
    e.node = 1;
    e.incarnation = map_fixture_incarnation(&f, 1);
    e.to_node = 9;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ENOENT);
    e.to_node = 1;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EINVAL);
    e.to_node = 3;
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_int_equal(shard(&f)->primary, 3);
    assert_int_equal(shard(&f)->epoch, 2);
    map_fixture_close(&f);
}

static void replacement_adds_before_it_removes(void **state)
{
    (void)state;
    struct map_fixture f = start(3, 2, 1);
    uint32_t backup = map_member_of(shard(&f), 2) ? 2 : 3, spare = 5 - backup;
    struct map_entry attach = {
        .kind = MAP_ENTRY_MEMBER_ATTACH, .volume = 1, .epoch = 1, .node = spare, .to_node = backup};
    attach.incarnation = map_fixture_incarnation(&f, spare);
    struct map_result r = map_fixture_apply(&f, &attach);
    assert_int_equal(r.rc, 0);
    assert_int_equal(shard(&f)->epoch, 1);
    assert_int_equal(r.value, member(&f, spare)->instance);
    assert_true(member(&f, backup)->flags & MAP_MEMBER_LEAVING);
    assert_int_equal(map_fixture_apply(&f, &attach).rc, -EEXIST);
    struct map_entry detach = {.kind = MAP_ENTRY_MEMBER_DETACH, .volume = 1, .epoch = 1, .node = backup};
    detach.instance = member(&f, backup)->instance;
    assert_int_equal(map_fixture_apply(&f, &detach).rc, -EBUSY); /* R17 */
    assert_int_equal(map_fixture_add(&f, 1, 0, spare), 0);
    detach.epoch = 2;
    assert_int_equal(map_fixture_apply(&f, &detach).rc, -EBUSY); /* not active yet: the old set is what counts */
    assert_int_equal(map_fixture_activate(&f, 1, 0), 0);
    detach.instance++;
    assert_int_equal(map_fixture_apply(&f, &detach).rc, -ESTALE);
    detach.instance--;
    assert_int_equal(map_fixture_apply(&f, &detach).rc, 0);
    assert_null(map_member_of(shard(&f), backup));
    assert_int_equal(shard(&f)->member_count, 2);
    assert_int_equal(shard(&f)->epoch, 3);
    map_fixture_close(&f);
}

static void a_forced_promotion_lowers_every_other_e_r(void **state)
{
    (void)state;
    struct map_fixture f = start(3, 3, 1);
    assert_int_equal(down(&f, 3), 0); /* e_r 1 */
    assert_int_equal(map_fixture_activate(&f, 1, 0), 0);
    assert_int_equal(down(&f, 2), 0); /* e_r 2 */
    assert_int_equal(map_fixture_activate(&f, 1, 0), 0);
    (void)map_fixture_register(&f, 3, CLEAN);
    struct map_entry e = {.kind = MAP_ENTRY_FORCE_PROMOTE, .volume = 1, .shard = 0, .node = 3};
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EBUSY); /* there is a primary */
    assert_int_equal(down(&f, 1), 0);
    e.node = 2;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EHOSTDOWN);
    e.node = 3;
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_int_equal(shard(&f)->primary, 3);
    assert_int_equal(shard(&f)->loss_number, 1);
    assert_int_equal(member(&f, 1)->e_r, 1); /* R15: min(e_r, e_forced) */
    assert_int_equal(member(&f, 2)->e_r, 1);
    assert_int_equal(map_in_sync_count(shard(&f)), 1);
    map_fixture_close(&f);
}

static void a_failed_store_resigns_and_comes_back_by_registering(void **state)
{
    (void)state;
    struct map_fixture f = start(2, 2, 1);
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_STORE_FAILED, 1), 0);
    assert_int_equal(shard(&f)->primary, 2);
    assert_true(map_node_by_id(f.map, 1)->up);
    struct map_active active = {1, 0, 2};
    struct map_entry e = {.kind = MAP_ENTRY_EPOCH_ACTIVE, .node = 1, .actives = &active, .active_count = 1};
    e.incarnation = map_fixture_incarnation(&f, 1);
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ESTALE);
    assert_int_equal(map_fixture_add(&f, 1, 0, 1), -ESTALE);
    (void)map_fixture_register(&f, 1, SAME_BOOT);
    assert_int_equal(map_fixture_add(&f, 1, 0, 1), 0);
    map_fixture_close(&f);
}

static void a_node_is_removed_only_when_it_holds_nothing(void **state)
{
    (void)state;
    struct map_fixture f = start(3, 2, 1);
    uint32_t backup = map_member_of(shard(&f), 2) ? 2 : 3, spare = 5 - backup;
    struct map_entry e = {.kind = MAP_ENTRY_NODE_REMOVE, .node = spare};
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EBUSY); /* up */
    assert_int_equal(down(&f, spare), 0);
    assert_int_equal(map_fixture_apply(&f, &e).rc, 0);
    assert_null(map_node_by_id(f.map, spare));
    assert_int_equal(map_fixture_apply(&f, &e).rc, -ENOENT);
    assert_int_equal(down(&f, backup), 0);
    e.node = backup;
    assert_int_equal(map_fixture_apply(&f, &e).rc, -EBUSY); /* holds a member */
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_OUT, backup), 0);
    assert_true(map_node_by_id(f.map, backup)->out);
    (void)map_fixture_register(&f, backup, CLEAN);
    assert_false(map_node_by_id(f.map, backup)->out);
    assert_int_equal(map_fixture_node(&f, MAP_ENTRY_NODE_OUT, backup), -EBUSY);
    map_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_shard_is_active_with_its_home_as_primary),
        cmocka_unit_test(node_down_moves_the_primary_and_records_e_r),
        cmocka_unit_test(node_down_needs_the_incarnation),
        cmocka_unit_test(too_few_in_sync_never_become_active),
        cmocka_unit_test(the_last_one_stays_named_in_in_sync),
        cmocka_unit_test(a_new_incarnation_is_a_loss_where_others_carry_on),
        cmocka_unit_test(a_sole_member_is_elected_by_its_own_registration),
        cmocka_unit_test(all_members_restart_in_every_order_and_mix),
        cmocka_unit_test(an_election_after_grace_takes_the_best_of_those_that_came),
        cmocka_unit_test(a_second_clean_restart_does_not_wash_away_a_reboot),
        cmocka_unit_test(an_empty_store_is_never_elected),
        cmocka_unit_test(an_empty_in_sync_member_does_not_hold_up_the_others),
        cmocka_unit_test(another_store_under_a_known_id_is_empty_or_refused),
        cmocka_unit_test(a_drop_never_goes_below_min_replicas),
        cmocka_unit_test(changes_of_a_shard_are_compare_and_set),
        cmocka_unit_test(activation_needs_primary_incarnation_and_epoch),
        cmocka_unit_test(only_the_one_in_office_moves_the_primary),
        cmocka_unit_test(replacement_adds_before_it_removes),
        cmocka_unit_test(a_forced_promotion_lowers_every_other_e_r),
        cmocka_unit_test(a_failed_store_resigns_and_comes_back_by_registering),
        cmocka_unit_test(a_node_is_removed_only_when_it_holds_nothing),
    };
    return cmocka_run_group_tests(tests, /* setup= */ NULL, /* teardown= */ NULL);
}
