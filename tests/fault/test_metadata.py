# SPDX-License-Identifier: Apache-2.0
"""The file system of a node's store directory (RocksDB, the Raft log) fails or is full, while the drive that holds the data works."""
import os
import subprocess

import pytest

from drives import FaultyDrive, reformat
from load import Load, fixtures, gave_up, judge

FILE_SYSTEM_BYTES = 256 << 20
DATA_BYTES = 512 << 20


class MountedStore:
    """A node's store directory on an ext4 of its own, over a drive that can be made to fail."""

    def __init__(self, directory, node):
        self.node, self.directory = node, directory
        self.drive = FaultyDrive(directory, FILE_SYSTEM_BYTES)
        self.device = None

    def make(self, cluster):
        self.device = self.run("losetup", "--find", "--show", self.drive.path)
        self.run("mkfs.ext4", "-q", "-F", self.device)
        data = os.path.join(self.directory, "data")
        with open(data, "wb") as file:
            file.truncate(DATA_BYTES)
        reformat(cluster, self.node.id, data, DATA_BYTES, mount=self.mount)

    @staticmethod
    def run(*argv):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=fixtures.DEADLINE_S, check=False)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout.strip()

    def mount(self):
        os.makedirs(self.node.store, exist_ok=True)
        self.run("mount", self.device, self.node.store)

    def mount_again(self):
        """What an operator does once the drive works again; the journal is replayed."""
        self.run("umount", self.node.store)
        done = subprocess.run(["e2fsck", "-p", self.device], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        self.mount()

    def fill(self):
        path = os.path.join(self.node.store, "ballast")
        with open(path, "wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                try:
                    while True:
                        file.write(b"\1" * size)
                except OSError:
                    pass
        return path

    def end(self):
        self.drive.set()
        for argv in (("umount", self.node.store), ("umount", "-l", self.node.store), ("losetup", "--detach", str(self.device))):
            subprocess.run(argv, capture_output=True, check=False)
        self.drive.end()


@pytest.fixture
def mounted(tmp_path, make_cluster):
    """A cluster, and the mounted store of one of its nodes."""
    made = []

    def make(number):
        cluster = make_cluster(3)
        made.append(MountedStore(str(tmp_path), cluster.nodes[number]))
        made.append(cluster)
        made[0].make(cluster)
        cluster.up()
        return cluster, made[0]

    yield make
    for part in reversed(made):  # the daemons first
        part.end()


def lost(cluster, number):
    """The node is down, or in sync with nothing."""
    return not cluster.nodes[number].pid() or gave_up(cluster, number)


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.long)])
def test_metadata_that_can_not_be_written_is_a_failed_node(mounted, number):
    """Node 1 is primary and the client's own, node 2 a backup."""
    cluster, store = mounted(number)
    load = Load(cluster)
    load.start()
    store.drive.set("write", "flush")
    fixtures.wait_for(lambda: lost(cluster, number), "the node to give up")
    load.wait_more()
    cluster.kill9(number)
    store.drive.set()
    store.mount_again()
    cluster.start(number)
    load.wait_more()
    load.finish()
    judge(load)


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_daemon_on_a_full_file_system_says_so_and_harms_nobody(mounted, number):
    """RocksDB keeps room for its log, so a running daemon goes on; one that starts needs more, and ends with one clear line."""
    cluster, store = mounted(number)
    load = Load(cluster)
    load.start()
    ballast = store.fill()
    load.wait_more()
    cluster.kill9(number)
    cluster.wait_down(number)
    load.wait_more()
    cluster.start(number)
    assert cluster.wait_exit(number) > 0
    assert "No space left on device" in cluster.log(number)
    load.wait_more()
    os.unlink(ballast)
    cluster.start(number)
    load.wait_more()
    load.finish()
    judge(load)
