# SPDX-License-Identifier: Apache-2.0
"""A load that runs while something breaks, and what must hold afterwards.

A load writes and reads random blocks of a whole volume through libashlar, comparing each read with what it wrote, and in the end reads
everything back. judge() is what every fault must leave behind: no error seen by the client, no acknowledged write lost, every member
in sync, stores sound, members byte-identical.
"""
import importlib.util
import os
import random
import subprocess
import time

_FIXTURES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration", "conftest.py")
_spec = importlib.util.spec_from_file_location("integration_fixtures", _FIXTURES)
fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixtures)

MIB = 1 << 20
VOLUME_BYTES = 64 * MIB
LOAD_MS = 6000


class Load:
    """A volume with three replicas, home node 1, under load."""

    def __init__(self, cluster, name="v", depth=8, size=VOLUME_BYTES, replicas=3, **arguments):
        self.cluster, self.name, self.running = cluster, name, False
        cluster.make_volume(name, size, replicas, home=1, **arguments)
        self.volume = cluster.attach(name)
        self.depth, self.seed = depth, random.randrange(1, 1 << 30)

    def start(self, milliseconds=LOAD_MS):
        self.volume.send(f"load {milliseconds} {self.seed} {self.depth}")
        self.running = True
        time_begun = time.monotonic()
        # the fault must meet I/O in flight: wait until some writes happened (condition, not a pause)
        fixtures.wait_for(lambda: self.written() > 0 or time.monotonic() - time_begun > 30, "the load to begin")
        return self

    def written(self):
        status = self.cluster.ask("status")
        return sum(node.get("bytes_written_guest") or 0 for node in status["nodes"]) if status else 0

    def finish(self):
        """The load's own figures; asserts that no request failed and nothing was misread."""
        self.running = False
        return self.volume.finish("load")

    def verify(self):
        self.volume.ok("verify")
        self.volume.ok("flush")
        self.volume.ok("verify")


def check_stores(cluster, numbers):
    """store check of stopped stores; the digests of their content, which must agree member by member."""
    digests = {}
    for number in numbers:
        argv = [fixtures.program("ashlard"), "store", "check", cluster.nodes[number].store]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=fixtures.DEADLINE_S, check=False)
        assert done.returncode == 0, f"node {number}: {done.stdout}{done.stderr}"
        done = subprocess.run([*argv, "--digest"], capture_output=True, text=True, timeout=fixtures.DEADLINE_S, check=False)
        assert done.returncode == 0, f"node {number}: {done.stdout}{done.stderr}"
        digests[number] = sorted(done.stdout.splitlines())
    first = digests[numbers[0]]
    for number in numbers[1:]:
        assert digests[number] == first, f"nodes {numbers[0]} and {number} hold different bytes"
    return first


def judge(load, numbers=None):
    load.verify()
    cluster = load.cluster
    cluster.wait_healthy()
    load.verify()
    assert load.volume.close() == 0
    stopped = cluster.terminate()
    assert all(status == 0 for status in stopped.values()), stopped
    assert check_stores(cluster, numbers or list(cluster.nodes)), "there is nothing in the stores"
