# SPDX-License-Identifier: Apache-2.0
"""kill -9 of each role under load: nothing fails, nothing is lost, members are equal afterwards."""
import random

import pytest

from load import LOAD_MS, Load, fixtures, judge


def primary_of(cluster, name):
    return cluster.admin("volume-info", name=name)["shards"][0]["primary"]


def leader_of(cluster):
    return fixtures.wait_for(lambda: (cluster.ask("status") or {}).get("leader"), "a leader")


def role(cluster, load, what):
    primary = primary_of(cluster, load.name)
    if what == "primary":
        return primary
    if what == "backup":
        return random.choice([number for number in cluster.nodes if number != primary])
    if what == "leader":
        return leader_of(cluster)
    assert what == "local"  # the daemon the client is attached to
    return 1


@pytest.mark.parametrize("what", ["primary", "backup", "leader", "local"])
def test_a_killed_daemon_is_survived(cluster3, load3, what):
    load3.start()
    number = role(cluster3, load3, what)
    cluster3.kill9(number)
    cluster3.wait_down(number)
    cluster3.start(number)
    load3.finish()
    judge(load3)


def test_all_daemons_killed_at_once_come_back_with_everything(cluster3, load3):
    """The client's I/O freezes and goes on by itself."""
    load3.start()
    cluster3.kill9()
    cluster3.start()
    load3.finish()
    judge(load3)


def test_a_daemon_restarted_in_a_loop_does_no_harm(cluster3, load3):
    load3.start(3 * LOAD_MS // 2)
    for _ in range(4):
        cluster3.kill9(2)
        cluster3.start(2)
        cluster3.wait_up(2)
    load3.finish()
    judge(load3)


def test_two_of_three_killed_freezes_io_until_one_is_back(cluster3, load3):
    """Below min_replicas nothing is acknowledged and nothing fails (R6, R8)."""
    load3.start()
    cluster3.kill9(2, 3)
    cluster3.start(2)
    load3.finish()
    cluster3.start(3)
    judge(load3)


def test_a_volume_without_spare_copies_waits_for_its_node(make_cluster):
    cluster = make_cluster(3)
    cluster.up()
    load = Load(cluster, replicas=1)
    load.start()
    cluster.kill9(1)
    cluster.start(1)
    load.finish()
    load.verify()
