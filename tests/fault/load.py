# SPDX-License-Identifier: Apache-2.0
"""A load that runs while something breaks, and what must hold afterwards.

A load writes and reads random blocks of a whole volume through libashlar, comparing each read with what it wrote, until it is
told to stop; whoever breaks something first waits until it runs, and afterwards until it goes on. judge() is what every
fault must leave behind: no error seen by the client, no acknowledged write lost, every member in sync, stores sound,
members byte-identical.
"""
import importlib.util
import json
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
        self.cluster, self.name, self.depth, self.size = cluster, name, depth, size
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

    def fill(self, seed=1):
        """Writes every block of the volume, so that the load needs no more space."""
        for offset in range(0, self.size, 16 * MIB):
            self.volume.ok(f"write {offset} {min(16 * MIB, self.size - offset)} {seed}")

    def verify(self):
        self.volume.ok("verify")
        self.volume.ok("flush")
        self.volume.ok("verify")


def check_store(cluster, number, *arguments):
    """store check of a stopped store: its exit status and what it says."""
    argv = [fixtures.program("ashlard"), "store", "check", cluster.nodes[number].store, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=fixtures.DEADLINE_S, check=False)
    return done.returncode, done.stdout + done.stderr


def holders(cluster):
    """{(volume, shard): nodes}, once every shard has as many copies in sync as it should and none is on its way elsewhere."""
    found = {}
    listed = cluster.ask("volume-list")
    for volume in listed["volumes"] if listed else []:
        answer = cluster.ask("volume-info", name=volume["name"])
        for shard in answer["shards"] if answer else []:
            members = {member["node"] for member in shard["members"] if member["in_sync"] and not member.get("leaving")}
            if len(shard["members"]) != len(members) or len(members) < volume["replicas"]:
                return None
            found[(volume["id"], shard["index"])] = members
    return found


def check_stores(cluster, held):
    """Stopped stores are sound; the digests of what they hold agree shard by shard."""
    digests = {}
    for number in set.union(*held.values()):
        status, text = check_store(cluster, number)
        assert status == 0, f"node {number}: {text}"
        status, text = check_store(cluster, number, "--digest")
        assert status == 0, f"node {number}: {text}"
        for line in text.splitlines():
            volume, shard = (int(word) for word in line.split()[:2])
            digests.setdefault((volume, shard), {}).setdefault(number, []).append(line)
    assert digests, "there is nothing in the stores"
    for shard, members in held.items():
        lines = {number: sorted(digests.get(shard, {}).get(number, [])) for number in members}
        first = min(members)
        for number in members:
            assert lines[number] == lines[first], f"shard {shard}: nodes {first} and {number} hold different bytes"


def judge(load, everybody=True):
    """everybody: all nodes must be up in the end."""
    load.verify()
    cluster = load.cluster
    if everybody:
        cluster.wait_healthy()
    held = fixtures.wait_for(lambda: holders(cluster), "every shard whole and at rest")
    load.verify()
    assert load.volume.close() == 0
    stopped = cluster.terminate(*[number for number, node in cluster.nodes.items() if node.pid()])
    assert all(status == 0 for status in stopped.values()), stopped
    check_stores(cluster, held)


def status_json(cluster):
    """What `ashlar status --json` says."""
    argv = [fixtures.program("ashlar"), "--cluster", cluster.conf, "status", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=fixtures.DEADLINE_S, check=False)
    return json.loads(done.stdout)


def gave_up(cluster, number, name="v"):
    """The node is in sync with nothing of the volume."""
    return not any(number in members for members in cluster.in_sync(name).values())


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
