# SPDX-License-Identifier: Apache-2.0
"""A node that is gone for good: after out_after its replicas are made anew elsewhere (R17); should it come back, what it holds is void."""
import re
import subprocess

import pytest

from load import Load, fixtures, judge, status_json


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


def test_status_tells_how_a_resync_goes(make_cluster):
    """Progress, speed and time left while it runs; what was copied afterwards."""
    cluster = make_cluster(3, settings={"replica.sync_rate": "5M", "cluster.shard_bytes": "16M"})
    cluster.up()
    load = Load(cluster)
    cluster.kill9(2)
    cluster.wait_down(2)
    load.fill()
    cluster.start(2)
    telling = re.compile(r"resync: \d+ replicas, \d+ of \d+ chunks compared .*, \d+ chunks/s, .*/s copied, .* left")
    told = []
    while not told or not telling.search(told[-1]):
        argv = [fixtures.program("ashlar"), "--cluster", cluster.conf, "status"]
        told.append(subprocess.run(argv, capture_output=True, text=True, timeout=fixtures.DEADLINE_S, check=False).stdout)
        # at this rate it lasts a dozen seconds: it ends in vain only if status never tells it
        assert cluster.ask("status") is None or status_json(cluster)["resync"]["bytes_copied"] < load.size, "\n".join(told)
    cluster.wait_healthy()
    fixtures.wait_for(lambda: status_json(cluster)["resync"]["bytes_copied"] >= load.size, "what was copied")
    judge(load)
