# SPDX-License-Identifier: Apache-2.0
"""kill -9 of each role under load: nothing fails, nothing is lost, members are equal afterwards."""
import pytest

from load import Load, fixtures, judge, role

ROUNDS = [0, *(pytest.param(number, marks=pytest.mark.long) for number in range(1, 10))]


@pytest.mark.parametrize("turn", ROUNDS)
@pytest.mark.parametrize("what", ["primary", "backup", "leader", "local"])
def test_a_killed_daemon_is_survived(cluster3, load3, what, turn):
    load3.start()
    number = role(cluster3, load3, what)
    cluster3.kill9(number)
    cluster3.wait_down(number)
    load3.wait_more()
    cluster3.start(number)
    load3.wait_more()
    load3.finish()
    judge(load3)


@pytest.mark.parametrize("turn", ROUNDS)
def test_all_daemons_killed_at_once_come_back_with_everything(cluster3, load3, turn):
    """The client's I/O freezes and goes on by itself."""
    load3.start()
    cluster3.kill9()
    cluster3.start()
    load3.wait_more()
    load3.finish()
    judge(load3)


@pytest.mark.parametrize("turns", [4, pytest.param(30, marks=pytest.mark.long)])
def test_a_daemon_restarted_in_a_loop_does_no_harm(cluster3, load3, turns):
    load3.start()
    for _ in range(turns):
        cluster3.kill9(2)
        cluster3.start(2)
        cluster3.wait_up(2)
        load3.wait_more(50)
    load3.finish()
    judge(load3)


def test_two_of_three_killed_freezes_io_until_one_is_back(cluster3, load3):
    """Below min_replicas nothing is acknowledged and nothing fails (R6, R8)."""
    load3.start()
    cluster3.kill9(2, 3)
    cluster3.start(2)
    load3.wait_more()
    load3.finish()
    cluster3.start(3)
    judge(load3)


def test_a_volume_without_spare_copies_waits_for_its_node(make_cluster):
    cluster = make_cluster(3)
    cluster.up()
    load = Load(cluster, replicas=1)
    load.start()
    cluster.kill9(1)
    fixtures.wait_for(lambda: 1 not in cluster.up_nodes(), "node 1 noticed to be down")
    cluster.start(1)
    load.wait_more()
    load.finish()
    load.verify()
