# SPDX-License-Identifier: Apache-2.0
"""A file system and a database live on a volume: nbdfuse, a loop device with 4 KiB sectors, ext4, PostgreSQL.

This is the way of an attachment without a virtual machine; it needs root, FUSE and loop devices.
"""
import contextlib
import glob
import os
import shutil
import subprocess

import pytest
from nbd_cluster import DEADLINE_S, MIB, cluster, run, scratch, wait_for  # noqa: F401

POSTGRES = sorted(glob.glob("/usr/lib/postgresql/*/bin"))


def need(condition, what):
    if not condition:
        pytest.skip(f"this machine has no {what}")


def need_mounts():
    need(os.geteuid() == 0 and os.path.exists("/dev/fuse") and os.path.exists("/dev/loop-control"),
         "root with FUSE and loop devices")
    need(shutil.which("nbdfuse"), "nbdfuse (package libnbd-bin)")


@contextlib.contextmanager
def loop_device(volume, directory):
    """The volume as a block device."""
    point = os.path.join(directory, "fuse")
    os.makedirs(point, exist_ok=True)
    fuse = subprocess.Popen(["nbdfuse", os.path.join(point, "disk"), volume.uri], stderr=subprocess.DEVNULL)
    device = None
    try:
        def ready():
            assert fuse.poll() is None, "nbdfuse ended"
            path = os.path.join(point, "disk")
            return os.path.exists(path) and os.path.getsize(path) == volume.size
        wait_for(ready, "nbdfuse's file")
        device = run("losetup", "--find", "--show", "--sector-size", "4096", os.path.join(point, "disk")).stdout.strip()
        yield device
    finally:
        if device:
            run("losetup", "-d", device, status=None)
        fuse.terminate()
        try:
            fuse.wait(30)
        except subprocess.TimeoutExpired:
            fuse.kill()
            fuse.wait()
        run("umount", "-l", point, status=None)


@contextlib.contextmanager
def mounted(device, directory):
    point = os.path.join(directory, "mnt")
    os.makedirs(point, exist_ok=True)
    run("mount", "-t", "ext4", device, point)
    try:
        yield point
    finally:
        run("umount", point, status=None)
        if os.path.ismount(point):
            run("umount", "-l", point, status=None)


def check_ext4(device):
    run("e2fsck", "-fn", device)


# Goal: a file system works through everything it does: files, deletion with trim, remount, check.
def test_ext4_holds_files_and_trims(cluster, scratch):  # noqa: F811
    need_mounts()
    volume = cluster.new(256 * MIB)
    source = os.path.join(scratch, "tree")
    os.makedirs(source)
    for number in range(300):
        with open(os.path.join(source, f"f{number}"), "wb") as file:
            file.write(os.urandom(1 + number * 517))
    with loop_device(volume, scratch) as device:
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", device)
        with mounted(device, scratch) as point:
            run("cp", "-r", source, os.path.join(point, "tree"))
            run("cp", "-r", source, os.path.join(point, "gone"))
            run("sync", "-f", point)
            full = sum(length for _, length, kind in volume.extents() if kind == 0)
            shutil.rmtree(os.path.join(point, "gone"))
            run("sync", "-f", point)
            run("fstrim", point)
            assert sum(length for _, length, kind in volume.extents() if kind == 0) < full - 15 * MIB
        check_ext4(device)
        with mounted(device, scratch) as point:
            run("diff", "-r", source, os.path.join(point, "tree"))
    cluster.clean()


class Database:
    """PostgreSQL with its data on the volume, as user postgres."""

    def __init__(self, data, sockets):
        self.bin, self.data, self.sockets = POSTGRES[-1], data, sockets

    def call(self, program, *argv, status=0):
        return run("runuser", "-u", "postgres", "--", os.path.join(self.bin, program), *argv, status=status, cwd="/",
                   env={"PATH": os.environ["PATH"], "PGHOST": self.sockets, "PGDATABASE": "postgres", "LC_ALL": "C.UTF-8"})

    def start(self):
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.sockets}' -c shared_buffers=32MB"
        self.call("pg_ctl", "-D", self.data, "-w", "-t", str(int(DEADLINE_S)), "-l", os.path.join(self.sockets, "log"),
                  "-o", options, "start")

    def stop(self, mode, status=0):
        self.call("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop", status=status)

    def ask(self, sql):
        return self.call("psql", "-XAtc", sql).stdout.strip()

    def sums(self):
        """The four sums that every pgbench transaction changes alike, and the number of transactions."""
        columns = {"pgbench_accounts": "abalance", "pgbench_tellers": "tbalance", "pgbench_branches": "bbalance",
                   "pgbench_history": "delta"}
        return [int(self.ask(f"select coalesce(sum({column}), 0) from {table}")) for table, column in columns.items()], \
            int(self.ask("select count(*) from pgbench_history"))


# Goal: a database keeps every committed transaction although the node dies that serves this host, and over its own crash.
# Method: pgbench runs, the daemon of node 1 (gateway, home, primary) is killed, later PostgreSQL is stopped without
# a checkpoint; the sums that each transaction keeps equal are compared, its own checker and fsck look at the rest.
def test_postgresql_survives_a_dead_node_and_its_own_crash(cluster, scratch):  # noqa: F811
    need_mounts()
    need(POSTGRES and shutil.which("runuser"), "PostgreSQL (package postgresql)")
    os.chmod(scratch, 0o755)
    volume = cluster.new(640 * MIB)
    sockets = os.path.join(scratch, "s")
    os.makedirs(sockets)
    shutil.chown(sockets, "postgres")
    with loop_device(volume, scratch) as device:
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,nodiscard", device)
        with mounted(device, scratch) as point:
            os.makedirs(os.path.join(point, "data"))
            shutil.chown(os.path.join(point, "data"), "postgres")
            database = Database(os.path.join(point, "data"), sockets)
            database.call("initdb", "-D", database.data, "--data-checksums", "-A", "trust")
            database.start()
            try:
                database.call("pgbench", "-q", "-i", "-s", "2")
                bench = subprocess.Popen(["runuser", "-u", "postgres", "--", os.path.join(database.bin, "pgbench"), "-h", sockets,
                                          "-c", "4", "-T", "8", "postgres"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                         text=True, cwd="/")
                wait_for(lambda: database.sums()[1] > 20, "the first transactions")
                cluster.local("kill", "--node", "1")
                said = bench.communicate(timeout=DEADLINE_S)[0]
                assert bench.returncode == 0, said
                assert "number of failed transactions: 0" in said
                sums, count = database.sums()
                assert len(set(sums)) == 1, sums
                database.stop("immediate")
                database.start()
                assert database.sums() == (sums, count)
                database.call("pg_amcheck", "--install-missing", "-d", "postgres")
            finally:
                database.stop("fast", status=None)
        cluster.local("start", "--node", "1")
        cluster.wait_healthy()
        check_ext4(device)
    cluster.clean()
