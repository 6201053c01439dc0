# SPDX-License-Identifier: Apache-2.0
"""A node that is gone for good: after out_after its replicas are made anew elsewhere (R17); should it come back, what it holds is void."""
import pytest

from load import Load, fixtures, judge


@pytest.mark.parametrize("what, returns", [
    ("primary", False), ("backup", True),
    pytest.param("primary", True, marks=pytest.mark.long), pytest.param("backup", False, marks=pytest.mark.long)])
def test_a_node_gone_for_good_is_replaced(make_cluster, what, returns):
    cluster = make_cluster(4, settings={"cluster.out_after": "1s", "cluster.shard_bytes": "16M"})
    cluster.up()
    load = Load(cluster)
    load.fill()
    load.start()
    members = set.union(*cluster.in_sync("v").values())
    victim = 1 if what == "primary" else next(number for number in (2, 3, 4) if number in members)
    cluster.kill9(victim)
    left = set(cluster.nodes) - {victim}
    fixtures.wait_for(lambda: all(now == left for now in cluster.in_sync("v").values()), "the others to hold every shard")
    load.wait_more()
    if returns:
        cluster.start(victim)
        cluster.wait_up(victim)
        load.wait_more()
    load.finish()
    judge(load, everybody=returns)
