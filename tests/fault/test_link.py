# SPDX-License-Identifier: Apache-2.0
"""A node's link cut one way and both ways: it is declared down, whoever is left carries on, and it comes back with nothing of its own
(R8, R9, R10, R23). Needs root: each node has a network namespace."""
import pytest

from load import Load, judge, leader_of

LONG = pytest.mark.long
CASES = [("primary", "in"), ("primary", "out"), ("primary", "both"), ("backup", "both"), ("leader", "out"),
         pytest.param("backup", "in", marks=LONG), pytest.param("backup", "out", marks=LONG),
         pytest.param("leader", "in", marks=LONG), pytest.param("leader", "both", marks=LONG)]


@pytest.fixture
def cluster(make_cluster):
    made = make_cluster(3, netns=True)
    made.up()
    return made


@pytest.mark.parametrize("what, way", CASES)
def test_a_cut_link_is_survived(cluster, what, way):
    """Home and primary is node 1; the client is at node 2, or at node 3 if node 2 leads and is cut off."""
    victim = {"primary": 1, "backup": 3}.get(what) or leader_of(cluster)
    load = Load(cluster, conf=cluster.conf_at(3 if victim == 2 else 2))
    load.start()
    cluster.cut(victim, way)
    cluster.wait_down(victim)
    load.wait_more()
    cluster.mend(victim)
    cluster.wait_up(victim)
    load.wait_more()
    load.finish()
    judge(load)


@pytest.mark.parametrize("way", ["both", pytest.param("in", marks=LONG), pytest.param("out", marks=LONG)])
def test_a_client_whose_own_node_is_cut_off_sees_no_error(cluster, way):
    """Its host is cut off with it, so that it may have to wait, and goes on by itself."""
    load = Load(cluster, conf=cluster.conf_at(1))
    load.start()
    cluster.cut(1, way)
    cluster.wait_down(1)
    cluster.mend(1)
    load.wait_more()
    load.finish()
    judge(load)


@LONG
def test_cuts_in_turn(cluster):
    """Each node in turn, each way in turn, with no time to heal between."""
    load = Load(cluster, conf=cluster.conf_at(2))
    load.start()
    for victim, way in ((3, "in"), (1, "out"), (2, "both"), (1, "in")):
        cluster.cut(victim, way)
        cluster.wait_down(victim)
        cluster.mend(victim)
    load.wait_more()
    load.finish()
    judge(load)
