# SPDX-License-Identifier: Apache-2.0
"""A full drive: the writer is told, all members agree, what is there goes on working, and space given back is space."""
import shutil

import pytest

from load import MIB, Load, fixtures, judge, status_json

SMALL_SHARDS = {"cluster.shard_bytes": "16M"}


def fill_up(volume):
    """Writes until there is no space, and none again and again (space on its way back is found by a later try); how much it was."""
    written = refused = 0
    while refused < 10:
        answer = volume.call(f"write {written} {MIB} 7")
        assert answer == "ok" or answer.startswith("error -28 "), answer
        refused = 0 if answer == "ok" else refused + 1
        written += MIB if answer == "ok" else 0
        assert written < 512 * MIB, "more was written than fits"
    return written


@pytest.mark.parametrize("smallest", [pytest.param(None, id="equal", marks=pytest.mark.long), pytest.param(2, id="one-smaller")])
def test_a_full_drive_is_told_and_recovers(make_cluster, smallest):
    cluster = make_cluster(3, size="256M", settings=SMALL_SHARDS)
    if smallest:
        shutil.rmtree(cluster.nodes[smallest].store)
        cluster.local.format(cluster.nodes[smallest], "192M")
    cluster.up()
    load = Load(cluster)
    load.fill()
    load.start()  # overwrites only: it must not notice
    cluster.make_volume("big", 512 * MIB, 3, home=1)
    big = cluster.attach("big")
    written = fill_up(big)
    assert written >= 32 * MIB
    assert big.call(f"write {written + 8 * MIB} {MIB} 7").startswith("error -28 ")
    load.wait_more()
    big.ok(f"write 0 {MIB} 8")
    big.ok("flush")
    assert any("full" in line for line in status_json(cluster)["problems"])
    big.ok(f"zero {MIB} {16 * MIB} trim")
    big.ok("flush")
    fixtures.wait_for(lambda: big.call(f"write {written} {MIB} 9") == "ok", "space given back")
    cluster.kill9(2)
    cluster.start(2)
    fixtures.wait_for(lambda: big.call(f"write {written + MIB} {MIB} 9") == "ok", "space after a restart")
    big.ok(f"check 0 {MIB} 8")
    big.ok(f"check {written} {2 * MIB} 9")
    big.ok("verify")
    assert big.close() == 0
    cluster.admin("volume-delete", name="big")
    fixtures.wait_for(lambda: not any("full" in line for line in status_json(cluster)["problems"]), "space after a deletion")
    load.finish()
    judge(load)
