# SPDX-License-Identifier: Apache-2.0
"""A load that runs while something breaks, and what must hold afterwards.

A load writes and reads random blocks of a whole volume through libashlar, comparing each read with what it wrote, until it is
told to stop; whoever breaks something first waits until it runs, and afterwards until it goes on. judge() is what every
fault must leave behind: no error seen by the client, no acknowledged write lost, every member in sync, stores sound,
members byte-identical.
"""
import importlib.util
import os
import random
import subprocess

_FIXTURES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration", "conftest.py")
_spec = importlib.util.spec_from_file_location("integration_fixtures", _FIXTURES)
fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixtures)

MIB = 1 << 20
VOLUME_BYTES = 64 * MIB
SEED = int(os.environ.get("ASHLAR_TEST_SEED") or random.randrange(1, 1 << 30))


class Load:
    """A volume with three replicas, home node 1, under load."""

    def __init__(self, cluster, name="v", depth=8, size=VOLUME_BYTES, replicas=3, conf=None, **arguments):
        self.cluster, self.name, self.depth = cluster, name, depth
        cluster.make_volume(name, size, replicas, home=1, **arguments)
        self.volume = cluster.attach(name, conf=conf)
        self.chooser = random.Random(f"load {SEED}")

    def start(self):
        """Returns at a random moment of a load that runs."""
        self.volume.ok(f"start {self.chooser.randrange(1, 1 << 30)} {self.depth}")
        self.wait_more(self.chooser.randrange(100, 1000))
        return self

    def done(self):
        """Requests that were answered up to now; none of them may have failed."""
        progress = self.volume.ok("progress")
        return int(progress["writes"]) + int(progress["reads"])

    def wait_more(self, count=200):
        """I/O goes on: so many more requests are answered."""
        goal = self.done() + count
        fixtures.wait_for(lambda: self.done() >= goal, f"{count} more requests to be answered")

    def finish(self):
        """The load's own figures; asserts that no request failed and nothing was misread."""
        return self.volume.ok("stop")

    def verify(self):
        self.volume.ok("verify")
        self.volume.ok("flush")
        self.volume.ok("verify")


def check_store(cluster, number, *arguments):
    """store check of a stopped store: its exit status and what it says."""
    argv = [fixtures.program("ashlard"), "store", "check", cluster.nodes[number].store, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=fixtures.DEADLINE_S, check=False)
    return done.returncode, done.stdout + done.stderr


def check_stores(cluster, numbers):
    """Stopped stores are sound; the digests of their content, which must agree member by member."""
    digests = {}
    for number in numbers:
        status, text = check_store(cluster, number)
        assert status == 0, f"node {number}: {text}"
        status, text = check_store(cluster, number, "--digest")
        assert status == 0, f"node {number}: {text}"
        digests[number] = sorted(text.splitlines())
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


def primary_of(cluster, name):
    return cluster.admin("volume-info", name=name)["shards"][0]["primary"]


def leader_of(cluster):
    return fixtures.wait_for(lambda: (cluster.ask("status") or {}).get("leader"), "a leader")


def role(cluster, load, what):
    """The node that has a role now."""
    primary = primary_of(cluster, load.name)
    if what == "primary":
        return primary
    if what == "backup":
        return load.chooser.choice([number for number in cluster.nodes if number != primary])
    if what == "leader":
        return leader_of(cluster)
    assert what == "local"  # the daemon the client is attached to
    return 1
