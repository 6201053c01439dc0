# SPDX-License-Identifier: Apache-2.0
"""Volumes with chains of snapshots: Ashlar's, and the same chain in QCOW2 under qemu-storage-daemon.

Happy path of both:
- build() fills a disk and spreads random 4 KiB writes over its snapshots, the same ones in both;
- uri is what a client connects to, memory() what the server processes hold, attach_s() how long it takes to get the disk served;
- stop() ends everything and removes its files.

Failure modes: BenchError, one line. A chain in QCOW2 that takes longer than its deadline to build raises TooSlow: it is left out.
"""
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import time

import proc
from cluster import Cluster
from nbd import Disk
from stacks import QSD_TUNABLES, BenchError, ServedStack, last_line, need_program, stop_process, unix_path_of

MIB, BLOCK = 1 << 20, 4096
SEED = 5


class TooSlow(BenchError):
    """Not an error of ours: what is compared with cannot be had in time."""


def spread(disk, mib, writes, links, snapshot, deadline_s=None):
    """Fills the disk, then takes the snapshots one by one, with an equal part of the writes after each."""
    chance = random.Random(SEED)
    disk.write_all(((i * MIB, chance.randbytes(MIB)) for i in range(mib)), 4)
    disk.flush()
    times, began = [], time.monotonic()
    for link in range(1, links + 1):
        begin = time.monotonic()
        snapshot(link)
        times.append(time.monotonic() - begin)
        count = writes * link // links - writes * (link - 1) // links
        disk.write_all([(chance.randrange(mib * MIB // BLOCK) * BLOCK, chance.randbytes(BLOCK)) for _ in range(count)], 8)
        if deadline_s and time.monotonic() - began > deadline_s:
            raise TooSlow(f"{link} of {links} links took more than {deadline_s} s to make")
    disk.flush()
    return times


class AshlarChain:
    """A cluster of its own, so that what a daemon holds in memory is what this chain costs."""

    name = "ashlar"

    def __init__(self, work_dir, links, mib, nodes):
        self.links, self.mib, self.size_bytes = links, mib, mib * MIB
        self.cluster = Cluster(os.path.join(work_dir, f"ashlar-{links}"), nodes, (mib * 3 + 512) * MIB)
        self.uri = None

    def attach_s(self):
        """Seconds from the command to a volume that is served."""
        if self.uri:
            self.uri = None
            self.cluster.ashlar("detach", "chain")
        begin = time.monotonic()
        self.uri = json.loads(self.cluster.ashlar("attach", "chain", "--json"))["uri"]
        return time.monotonic() - begin

    def begin(self):
        self.cluster.up()
        self.cluster.ashlar("volume", "create", "chain", str(self.size_bytes), "--replicas", str(min(3, self.cluster.nodes)))
        self.attach_s()

    def take(self, link):
        self.cluster.ashlar("snapshot", "create", f"chain@s{link}")

    def build(self, writes, say):
        self.begin()
        disk = Disk(self.uri)
        try:
            def snapshot(link):
                say(f"ashlar, chain of {self.links}: snapshot {link}")
                self.take(link)
            return spread(disk, self.mib, writes, self.links, snapshot)
        finally:
            disk.close()

    def settle(self):
        self.cluster.wait_idle()

    def pids(self):
        plugin = {proc.name_of(pid): pid for pid in proc.listener_pids(unix_path_of(self.uri))}
        return {**plugin, **self.cluster.daemon_pids()}

    def memory(self):
        """Of the largest daemon."""
        return max(proc.rss_bytes(pid) for pid in self.cluster.daemon_pids().values())

    def stop(self):
        if self.uri:
            self.uri = None
            self.cluster.ashlar("detach", "chain")
        for pid in proc.pids_mentioning(self.cluster.directory + "/", "nbdkit"):
            os.kill(pid, signal.SIGTERM)  # of an attach that was interrupted
        self.cluster.down()


class Qcow2Chain(ServedStack):
    """One file a snapshot, each node named on the command line so that all are opened alike."""

    label = "qemu-storage-daemon"

    def __init__(self, work_dir, links, mib, deadline_s):
        self.directory = os.path.join(work_dir, f"qcow2-{links}")
        os.makedirs(self.directory)
        super().__init__("qcow2", self.directory, mib * MIB)
        self.links, self.mib, self.deadline_s = links, mib, deadline_s
        self.control_path = os.path.join(self.directory, "qmp")
        self.control = None
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * links + 1024)), hard))

    def file(self, link):
        return os.path.join(self.directory, f"{link}.qcow2")

    def _start(self, top):
        arguments = []
        for link in range(top + 1):
            mode = "" if link == top else ",read-only=on"
            arguments += ["--blockdev", f"driver=file,node-name=file{link},filename={self.file(link)},cache.direct=on,"
                                        f"aio=io_uring,discard=unmap{mode}",
                          "--blockdev", f"driver=qcow2,node-name=disk{link},file=file{link},cache.direct=on{mode}"
                                        + (f",backing=disk{link - 1}" if link else "")]
        if os.path.exists(self.socket_path):
            os.unlink(self.socket_path)
        self._serve([self.label, *arguments, "--nbd-server", f"addr.type=unix,addr.path={self.socket_path}",
                     "--export", f"type=nbd,id=export,node-name=disk{top},name=,writable=on",
                     "--chardev", f"socket,path={self.control_path},server=on,wait=off,id=control", "--monitor", "chardev=control"],
                    {"GLIBC_TUNABLES": QSD_TUNABLES})

    def begin(self):
        need_program(self.label, "qemu-img")
        done = subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.file(0), str(self.size_bytes)], check=False,
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchError(f"qemu-img: {last_line(done.stderr)}")
        self._start(0)
        self.control = _Control(self.control_path)

    def take(self, link):
        self.control.call("blockdev-snapshot-sync", {"node-name": f"disk{link - 1}", "snapshot-file": self.file(link),
                                                     "snapshot-node-name": f"disk{link}", "format": "qcow2"})

    def build(self, writes, say):
        self.begin()
        disk = Disk(self.uri)
        try:
            def snapshot(link):
                say(f"qcow2, chain of {self.links}: snapshot {link}")
                self.take(link)
            times = spread(disk, self.mib, writes, self.links, snapshot, self.deadline_s)
        finally:
            disk.close()
            stop_process(self.process)
        self.attach_s()
        return times

    def attach_s(self):
        if self.control:
            self.control.close()
            self.control = None
        stop_process(self.process)
        begin = time.monotonic()
        self._start(self.links)
        return time.monotonic() - begin

    def settle(self):
        pass

    def memory(self):
        return proc.rss_bytes(self.process.pid)

    def stop(self):
        super().stop()
        shutil.rmtree(self.directory, ignore_errors=True)


class _Control:
    """qemu-storage-daemon's monitor."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.call("qmp_capabilities", {})

    def call(self, command, arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            line = self.file.readline()
            if not line:
                raise BenchError(f"qemu-storage-daemon ended during {command}")
            answer = json.loads(line)
            if "error" in answer:
                raise BenchError(f"qemu-storage-daemon: {command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return

    def close(self):
        self.file.close()
        self.socket.close()
