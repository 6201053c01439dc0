# SPDX-License-Identifier: Apache-2.0
"""A drive that fails, hangs, or is a raw device: the node gives its replicas up, the others carry on, a new drive is filled (R13, R23)."""
import pytest

from drives import FaultyDrive, LoopDevice, reformat
from load import Load, fixtures, gave_up, judge, status_json


@pytest.fixture
def drives(tmp_path):
    """A function that makes drives; they end after the daemons on them."""
    made = []

    def make(kind, **arguments):
        directory = tmp_path / f"drive{len(made)}"
        directory.mkdir()
        made.append(kind(str(directory), **arguments))
        return made[-1]

    yield make
    for drive in made:
        drive.end()


@pytest.fixture
def faulty(drives, make_cluster):
    """A cluster whose node 1 or 2 has a drive that can fail; and that drive."""
    def make(number, **arguments):
        drive = drives(FaultyDrive)
        cluster = make_cluster(3, **arguments)
        reformat(cluster, number, drive.path, drive.size)
        cluster.up()
        return cluster, drive
    return make


FAST_SCRUB = {"store.scrub": "256M", "store.scrub_rest": "1s"}  # a backup reads nothing but for the scrub


@pytest.mark.parametrize("number, fault", [
    (1, "read"), (1, "flush"), (2, "read"), (2, "write"),
    *(pytest.param(*case, marks=pytest.mark.long) for case in ((1, "write"), (2, "flush"), (1, "read write flush"),
                                                               (2, "read write flush")))])
def test_a_failed_drive_is_replaced(faulty, number, fault):
    """Node 1 is primary and the client's own, node 2 a backup. The drive fails; later an empty one is in its place."""
    cluster, drive = faulty(number, settings=FAST_SCRUB)
    load = Load(cluster)
    load.start()
    drive.set(*fault.split())
    load.volume.ok("flush")
    fixtures.wait_for(lambda: gave_up(cluster, number), "the node to give up")
    assert any(f"node {number}" in line and "drive" in line for line in status_json(cluster)["problems"])
    load.wait_more()
    load.volume.ok("flush")
    cluster.terminate(number)
    drive.set()
    reformat(cluster, number, drive.path, drive.size)
    cluster.start(number)
    load.wait_more()
    load.finish()
    judge(load)


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_drive_that_hangs_is_a_failed_node(faulty, number):
    """R23: I/O older than io_stall. When the drive answers again, the daemon starts anew and catches up."""
    cluster, drive = faulty(number, settings={"cluster.io_stall": "1s"})
    load = Load(cluster)
    load.start()
    drive.set("hang")
    cluster.wait_down(number)
    load.wait_more()
    drive.set()
    load.wait_more()
    load.finish()
    judge(load)


def test_raw_block_devices_are_drives(drives, make_cluster):
    """Every node on a loop device; a daemon is killed under load."""
    cluster = make_cluster(3)
    for number in cluster.nodes:
        reformat(cluster, number, drives(LoopDevice).path)
    cluster.up()
    load = Load(cluster)
    load.start()
    cluster.kill9(1)
    cluster.wait_down(1)
    cluster.start(1)
    load.wait_more()
    load.finish()
    judge(load)
