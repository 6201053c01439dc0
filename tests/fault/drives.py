# SPDX-License-Identifier: Apache-2.0
"""Drives that can be made to fail: a file that is served by nbdkit (drive_filter.c) through nbdfuse, so that the daemon under test
does its ordinary direct I/O on a regular file; and raw block devices: loop devices over files."""
import os
import shutil
import subprocess

from load import fixtures

DRIVE_BYTES = 512 << 20
FAULTS = ("read", "write", "flush", "hang")


def reformat(cluster, number, device, size=None, mount=None):
    """Gives a node that does not run an empty store on another drive; mount() puts a file system at its directory first."""
    node = cluster.nodes[number]
    shutil.rmtree(node.store)
    if mount:
        mount()
    argv = [fixtures.program("ashlard"), "store", "format", node.store, "--device", device, "--node", str(number), "--cluster",
            cluster.local.state["cluster"], "--force", *(["--size", str(size)] if size else [])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=fixtures.DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr


class FaultyDrive:
    """A regular file whose reads, writes and flushes fail, or wait, while set() says so."""

    def __init__(self, directory, size=DRIVE_BYTES):
        self.size, self.faults = size, os.path.join(directory, "faults")
        self.path, image = os.path.join(directory, "drive"), os.path.join(directory, "image")
        os.makedirs(self.faults)
        for path, length in ((self.path, 0), (image, size)):
            with open(path, "wb") as file:
                file.truncate(length)
        plugin = os.path.join(fixtures.BUILD, "tests", "fault", "nbdkit-drivefault-filter.so")
        self.process = subprocess.Popen(
            ["nbdfuse", self.path, "[", "nbdkit", "--exit-with-parent", "-f", f"--filter={plugin}", "file", image,
             f"faults={self.faults}", "]"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        fixtures.wait_for(lambda: os.path.getsize(self.path) == size, "the drive to appear")

    def set(self, *faults):
        for fault in FAULTS:
            path = os.path.join(self.faults, fault)
            if fault in faults:
                with open(path, "w", encoding="ascii"):
                    pass
            elif os.path.exists(path):
                os.unlink(path)

    def end(self):
        self.set()
        subprocess.run(["umount", self.path], capture_output=True, check=False)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            subprocess.run(["umount", "-l", self.path], capture_output=True, check=False)


class LoopDevice:
    """A raw block device over a file."""

    def __init__(self, directory, size=DRIVE_BYTES):
        image = os.path.join(directory, "image")
        with open(image, "wb") as file:
            file.truncate(size)
        self.path = subprocess.run(["losetup", "--find", "--show", "--direct-io=on", image], capture_output=True, text=True,
                                   check=True).stdout.strip()

    def end(self):
        subprocess.run(["losetup", "--detach", self.path], capture_output=True, check=False)
