/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Consensus as its users see it: agreement, failover, restart, snapshots, close.
 *
 * The happy path: commit entries 1, 2, 3, ... and demand that every node holds
 * them under the versions 1, 2, 3, ..., whatever was stopped in between.
 *
 * Failure modes: see test_consensus_faults.c and test_consensus_io.c.
 */
#include "tests/unit/control/test_consensus_cluster.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void commit_range(struct cluster *cluster, uint64_t from, uint64_t to)
{
    for (uint64_t value = from; value <= to; value++)
        cluster_commit(cluster, value);
}

static bool all_called(struct cluster *cluster, void *arg)
{
    const struct cluster_proposal *proposals = arg;
    (void)cluster;
    for (unsigned i = 0; i < 100; i++)
        if (proposals[i].calls == 0)
            return false;
    return true;
}

/* False: on a machine this busy the leader lost its office meanwhile, so what was proposed may be unknown. */
static bool applied_in_order(unsigned n, const char *base_dir)
{
    struct cluster cluster;
    struct cluster_proposal proposals[100];
    bool kept = true;
    cluster_setup(&cluster, n, base_dir);
    cluster_boot_all(&cluster);
    unsigned leader = cluster_await_leader(&cluster);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(cluster_propose(&cluster, leader, i + 1, &proposals[i]), 0);
    cluster_await(&cluster, all_called, proposals, "all proposals");
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(proposals[i].calls, 1);
        kept = kept && proposals[i].rc != -EINPROGRESS;
    }
    if (kept)
        cluster_await_version(&cluster, 100);
    for (unsigned i = 0; i < 100 && kept; i++) {
        assert_int_equal(proposals[i].rc, 0);
        assert_int_equal(proposals[i].version, i + 1);
    }
    if (kept)
        cluster_assert_same(&cluster, 100);
    cluster_teardown(&cluster);
    return kept;
}

/* Goal: entries come out once, in order, everywhere, with the right version.
 * Method: 100 at once at the leader of 1, 3 or 5 nodes in a given file system. */
static void check_applied_in_order(unsigned n, const char *base_dir)
{
    for (unsigned attempt = 0; attempt < 10; attempt++)
        if (applied_in_order(n, base_dir))
            return;
    fail_msg("no leader of %u stays in office for 100 entries", n);
}

static void applied_on_all_in_order(void **state)
{
    (void)state;
    check_applied_in_order(3, "/tmp");
}

static void applied_by_five(void **state)
{
    (void)state;
    check_applied_in_order(5, "/tmp");
}

static void applied_by_one(void **state)
{
    (void)state;
    check_applied_in_order(1, "/tmp");
}

static void applied_on_tmpfs(void **state)
{
    (void)state;
    check_applied_in_order(3, "/dev/shm");
}

/* Goal: a follower takes nothing, and says so in time. */
static void follower_refuses(void **state)
{
    struct cluster cluster;
    struct cluster_proposal proposal;
    const char *address = NULL;
    uint64_t id = 0;
    (void)state;
    cluster_setup(&cluster, 3, "/tmp");
    cluster_boot_all(&cluster);
    unsigned leader = cluster_await_leader(&cluster);
    unsigned follower = (leader + 1) % 3;
    assert_int_equal(cluster_propose(&cluster, follower, 1, &proposal), -EAGAIN);
    assert_int_equal(consensus_leader(cluster.nodes[follower].c, &id, &address), 0);
    assert_int_equal(id, cluster.nodes[leader].id);
    assert_string_equal(address, cluster.nodes[leader].address);
    assert_int_equal(consensus_transfer(cluster.nodes[follower].c, 0), -EAGAIN);
    commit_range(&cluster, 1, 1);
    cluster_await_version(&cluster, 1);
    assert_int_equal(proposal.calls, 0);
    cluster_teardown(&cluster);
}

/* Goal: with the leader gone the others go on, with everything it committed. */
static void leader_dies_entries_survive(void **state)
{
    struct cluster cluster;
    uint64_t value = 0;
    (void)state;
    cluster_setup(&cluster, 3, "/tmp");
    cluster_boot_all(&cluster);
    for (unsigned round = 0; round < 5; round++) {
        commit_range(&cluster, value + 1, value + 10);
        value += 10;
        unsigned leader = cluster_await_leader(&cluster);
        cluster_stop(&cluster, leader);
        uint64_t begun = uv_hrtime();
        unsigned next = cluster_await_leader(&cluster);
        printf("election %u: %llu ms from the close of %u to a ready leader %u\n", round,
               (unsigned long long)((uv_hrtime() - begun) / 1000000), leader, next);
        assert_true(next != leader);
        assert_true(consensus_version(cluster.nodes[next].c) == value);
        cluster_commit(&cluster, ++value);
        cluster_boot(&cluster, leader);
        cluster_await_version(&cluster, value);
    }
    cluster_assert_same(&cluster, value);
    cluster_teardown(&cluster);
}

/* Goal: after all nodes restart, replay yields the same versions (R23). */
static void restart_of_all_replays(void **state)
{
    struct cluster cluster;
    (void)state;
    cluster_setup(&cluster, 3, "/tmp");
    cluster_boot_all(&cluster);
    commit_range(&cluster, 1, 50);
    for (unsigned i = 0; i < 3; i++)
        cluster_stop(&cluster, i);
    cluster_boot_all(&cluster);
    cluster_await_version(&cluster, 50);
    commit_range(&cluster, 51, 60);
    cluster_await_version(&cluster, 60);
    cluster_assert_same(&cluster, 60);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(cluster.nodes[i].applies, 60);
    cluster_teardown(&cluster);
}

static bool snapshot_restored(struct cluster *cluster, void *arg)
{
    struct consensus_stats stats;
    consensus_stats_get(cluster->nodes[*(unsigned *)arg].c, &stats);
    return stats.snapshots_restored > 0;
}

/* Goal: a node that was away longer than the log reaches is caught up by
 * snapshot, and counts on from the version it carries. Twice: then over its own
 * restart, too. */
static void away_node_gets_snapshot(void **state)
{
    struct cluster cluster;
    (void)state;
    cluster_setup(&cluster, 3, "/tmp");
    cluster.config.snapshot_threshold = 16;
    cluster.config.snapshot_trailing = 4;
    cluster_boot_all(&cluster);
    commit_range(&cluster, 1, 10);
    unsigned away = (cluster_await_leader(&cluster) + 1) % 3;
    cluster_stop(&cluster, away);
    commit_range(&cluster, 11, 200);
    cluster_boot(&cluster, away);
    cluster_await(&cluster, snapshot_restored, &away, "a snapshot");
    cluster_await_version(&cluster, 200);
    assert_true(cluster.nodes[away].applies < 200);
    commit_range(&cluster, 201, 210);
    cluster_await_version(&cluster, 210);
    cluster_assert_same(&cluster, 210);
    for (unsigned i = 0; i < 3; i++)
        cluster_stop(&cluster, i);
    cluster_boot_all(&cluster);
    for (unsigned i = 0; i < 3; i++)
        assert_true(consensus_version(cluster.nodes[i].c) > 0); /* from its snapshot */
    cluster_await_version(&cluster, 210);
    cluster_assert_same(&cluster, 210);
    cluster_teardown(&cluster);
}

static bool has_snapshot(struct cluster *cluster, void *arg)
{
    struct consensus_stats stats;
    (void)arg;
    consensus_stats_get(cluster->nodes[0].c, &stats);
    return stats.snapshots_taken > 0;
}

/* Goal: a lone voter snapshots, cuts its log and finds everything again. */
static void one_voter_snapshots(void **state)
{
    struct cluster cluster;
    struct consensus_stats stats;
    (void)state;
    cluster_setup(&cluster, 1, "/tmp");
    cluster.config.snapshot_threshold = 16;
    cluster.config.snapshot_trailing = 4;
    for (uint64_t round = 0; round < 3; round++) {
        cluster_boot_all(&cluster);
        commit_range(&cluster, round * 50 + 1, round * 50 + 50);
        cluster_assert_same(&cluster, round * 50 + 50);
        cluster_await(&cluster, has_snapshot, NULL, "a snapshot"); /* it is written in the background */
        consensus_stats_get(cluster.nodes[0].c, &stats);
        assert_false(stats.on_probation);
        cluster_stop(&cluster, 0);
    }
    cluster_teardown(&cluster);
}

static bool leads(struct cluster *cluster, void *arg)
{
    const struct cluster_node *node = &cluster->nodes[*(unsigned *)arg];
    return consensus_is_leader(node->c);
}

/* Goal: leadership goes where it was sent; old and new leader agree on it. */
static void transfer_moves_leadership(void **state)
{
    struct cluster cluster;
    struct cluster_proposal proposal;
    (void)state;
    cluster_setup(&cluster, 3, "/tmp");
    cluster_boot_all(&cluster);
    commit_range(&cluster, 1, 5);
    unsigned from = cluster_await_leader(&cluster);
    unsigned to = (from + 1) % 3;
    assert_int_equal(consensus_transfer(cluster.nodes[from].c, 999), -ENOENT);
    assert_int_equal(consensus_transfer(cluster.nodes[from].c, cluster.nodes[from].id), -ENOENT);
    assert_int_equal(consensus_transfer(cluster.nodes[from].c, cluster.nodes[to].id), 0);
    assert_int_equal(consensus_transfer(cluster.nodes[from].c, cluster.nodes[to].id), -EBUSY);
    assert_int_equal(cluster_propose(&cluster, from, 6, &proposal), -EBUSY);
    cluster_await(&cluster, leads, &to, "the new leader");
    assert_int_equal(cluster_await_leader(&cluster), to);
    assert_false(consensus_is_leader(cluster.nodes[from].c));
    commit_range(&cluster, 6, 10);
    cluster_await_version(&cluster, 10);
    cluster_assert_same(&cluster, 10);
    cluster_teardown(&cluster);
}

static bool all_unknown(struct cluster *cluster, void *arg)
{
    return all_called(cluster, arg);
}

/* Goal: what is in flight when leadership is lost becomes "unknown" (R4), once.
 * Method: both followers stop; the leader steps down for want of a quorum. */
static void lost_leadership_is_unknown(void **state)
{
    struct cluster cluster;
    struct cluster_proposal proposals[100];
    struct consensus_stats stats;
    (void)state;
    cluster_setup(&cluster, 3, "/tmp");
    cluster_boot_all(&cluster);
    commit_range(&cluster, 1, 3);
    unsigned leader = cluster_await_leader(&cluster);
    cluster_stop(&cluster, (leader + 1) % 3);
    cluster_stop(&cluster, (leader + 2) % 3);
    unsigned accepted = 0;
    for (unsigned i = 0; i < 100; i++) {
        int rc = cluster_propose(&cluster, leader, 4 + i, &proposals[i]);
        accepted += rc == 0;
        if (rc != 0) {
            assert_int_equal(rc, -EAGAIN);
            proposals[i].calls = 1;
            proposals[i].rc = -EINPROGRESS;
        }
    }
    consensus_stats_get(cluster.nodes[leader].c, &stats);
    assert_int_equal(stats.in_flight, accepted);
    cluster_await(&cluster, all_unknown, proposals, "unknown outcomes");
    assert_false(consensus_is_leader(cluster.nodes[leader].c));
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(proposals[i].calls, 1);
        assert_int_equal(proposals[i].rc, -EINPROGRESS);
        assert_int_equal(proposals[i].version, 0);
    }
    assert_int_equal(cluster_propose(&cluster, leader, 1000, &proposals[0]), -EAGAIN);
    cluster_boot(&cluster, (leader + 1) % 3);
    cluster_boot(&cluster, (leader + 2) % 3);
    cluster_await_leader(&cluster); /* and whatever happened to them: agreement */
    uint64_t version = consensus_version(cluster.nodes[cluster_await_leader(&cluster)].c);
    assert_true(version == 3 || version == 3 + accepted);
    cluster_await_version(&cluster, version);
    cluster_teardown(&cluster);
}

/* Goal: closing with everything in flight calls everything back and leaves no
 * handle. Method: close leader and followers right after 100 proposals. */
static void close_with_requests_in_flight(void **state)
{
    struct cluster cluster;
    struct cluster_proposal proposals[100];
    (void)state;
    for (unsigned n = 1; n <= 3; n += 2) {
        cluster_setup(&cluster, n, "/tmp");
        cluster_boot_all(&cluster);
        unsigned leader = cluster_await_leader(&cluster);
        for (unsigned i = 0; i < 100; i++)
            assert_int_equal(cluster_propose(&cluster, leader, i + 1, &proposals[i]), 0);
        cluster_stop(&cluster, leader);
        for (unsigned i = 0; i < 100; i++)
            assert_int_equal(proposals[i].calls, 1);
        cluster_teardown(&cluster);
    }
}

/* Goal: closing is right at any moment: before start, in the middle of the first
 * election, while connecting. */
static void close_at_any_time(void **state)
{
    struct cluster cluster;
    (void)state;
    for (unsigned turns = 0; turns < 40; turns += 4) {
        cluster_setup(&cluster, 3, "/tmp");
        assert_int_equal(cluster_open(&cluster, 0, true), 0);
        cluster_boot(&cluster, 1);
        cluster_boot(&cluster, 2);
        for (unsigned i = 0; i < turns; i++)
            uv_run(&cluster.loop, UV_RUN_ONCE);
        cluster_teardown(&cluster);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(applied_on_all_in_order),
        cmocka_unit_test(applied_by_five),
        cmocka_unit_test(applied_by_one),
        cmocka_unit_test(applied_on_tmpfs),
        cmocka_unit_test(follower_refuses),
        cmocka_unit_test(leader_dies_entries_survive),
        cmocka_unit_test(restart_of_all_replays),
        cmocka_unit_test(away_node_gets_snapshot),
        cmocka_unit_test(one_voter_snapshots),
        cmocka_unit_test(transfer_moves_leadership),
        cmocka_unit_test(lost_leadership_is_unknown),
        cmocka_unit_test(close_with_requests_in_flight),
        cmocka_unit_test(close_at_any_time),
    };
    return cmocka_run_group_tests_name("consensus", tests, NULL, NULL);
}
