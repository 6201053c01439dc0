# SPDX-License-Identifier: Apache-2.0
"""Volumes keep what was acknowledged while nodes die, hang and return; and the client never sees an error for it."""
import os
import random
import subprocess

import pytest
import wire
from conftest import Volume, program, wait_for

MIB = 1 << 20
SMALL_SHARDS = {"cluster.shard_bytes": "16M"}


@pytest.fixture
def three(make_cluster):
    """Three nodes and a volume of four shards on all of them, its home node 1."""
    cluster = make_cluster(3, settings=SMALL_SHARDS)
    cluster.up()
    cluster.make_volume("v", 64 * MIB, replicas=3, home=1)
    return cluster


def shards(cluster, name="v"):
    return cluster.admin("volume-info", name=name)["shards"]


# Goal: new volumes get the shards that cluster.shard_bytes says, unless they ask for others.
def test_new_volumes_have_the_configured_shards(three):
    assert len(shards(three)) == 4
    three.make_volume("w", 64 * MIB, replicas=1, shard_bytes=32 * MIB)
    assert len(shards(three, "w")) == 2


# Goal: any alignment is served. Method: overlapping writes of odd sizes, then what must be there.
def test_writes_of_any_alignment_read_back(three):
    volume = three.attach("v")
    volume.ok("write 0 1048576 1")
    volume.ok("write 4104 16 2")
    volume.ok("write 8184 8208 3")
    volume.ok("check 0 4104 1")
    volume.ok("check 4104 16 2")
    volume.ok("check 4120 4064 1")
    volume.ok("check 8184 8208 3")
    volume.ok(f"write {16 * MIB - 12288} 24576 4")
    volume.ok(f"check {16 * MIB - 12288} 24576 4")
    volume.ok(f"check {48 * MIB} 1048576 0")


# Goal: zero and trim read as zeros, over shard borders and in the middle of blocks.
def test_zero_and_trim_read_as_zeros(three):
    volume = three.attach("v")
    volume.ok(f"write {15 * MIB} {2 * MIB} 1")
    volume.ok(f"zero {16 * MIB - 65536} 131072")
    volume.ok(f"check {16 * MIB - 65536} 131072 0")
    volume.ok(f"zero {15 * MIB} 65536 trim")
    volume.ok(f"check {15 * MIB} 65536 0")
    volume.ok(f"check {15 * MIB + 65536} 65536 1")


# Goal: a dead backup, a dead primary with the client's gateway, a dead leader: no error, nothing lost, all whole again.
@pytest.mark.parametrize("victim", ["backup", "primary", "leader"])
def test_a_node_dies_under_load(three, victim):
    volume = three.attach("v")
    number = {"backup": 2, "primary": 1, "leader": three.admin("status")["leader"]}[victim]
    volume.send("load 3000 11 16")
    wait_for(lambda: any(s.get("marks") for s in three.admin("status")["nodes"]), "writes under way")
    three.kill9(number)
    volume.finish("load")
    volume.ok("verify")
    volume.ok("flush")
    three.start(number)
    three.wait_healthy()
    volume.ok("load 500 12 16")
    volume.ok("verify")


# Goal: R10, I6: a primary that hangs and comes back after another one took over serves nothing stale and harms nothing.
def test_a_primary_hangs_and_comes_back(three):
    volume = three.attach("v")
    volume.send("load 4000 21 16")
    wait_for(lambda: any(s.get("marks") for s in three.admin("status")["nodes"]), "writes under way")
    three.pause(1)
    wait_for(lambda: three.ask("status", 2) and 1 not in three.up_nodes(), "node 1 declared down")
    three.resume(1)
    volume.finish("load")
    volume.ok("verify")
    three.wait_healthy()
    volume.ok("verify")
    assert int(volume.ok("stats")["failovers"]) >= 1


# Goal: the death of every process loses no acknowledged write, flushed or not.
def test_all_nodes_die_at_once(three):
    volume = three.attach("v")
    volume.send("load 3000 31 16")
    wait_for(lambda: any(s.get("marks") for s in three.admin("status")["nodes"]), "writes under way")
    three.kill9()
    three.start()
    volume.finish("load")
    volume.ok("verify")
    three.wait_healthy()
    volume.ok("verify")
    volume.ok("flush")


# Goal: R6, R8: with fewer than min_replicas nothing is acknowledged, nothing fails, and it goes on when they are back.
def test_requests_wait_while_replicas_are_missing(three):
    volume = three.attach("v")
    volume.ok("write 0 65536 1")
    three.kill9(2)
    three.wait_down(2)
    volume.ok("write 65536 65536 2")
    three.kill9(3)
    volume.send("write 131072 65536 3")
    three.start(2, 3)
    volume.finish("write")
    volume.ok("check 0 65536 1")
    volume.ok("check 65536 65536 2")
    volume.ok("check 131072 65536 3")
    three.wait_healthy()


# Goal: upgrades in order. Method: each node is ended and started again under load.
def test_a_rolling_restart_under_load(three):
    volume = three.attach("v")
    for number in (1, 2, 3):
        volume.send(f"load 1000 {40 + number} 16")
        assert three.terminate(number) == {number: 0}
        three.start(number)
        volume.finish("load")
        three.wait_healthy()
    volume.ok("verify")


# Goal: R19: one client a volume, unless forced; the one that lost it is told and can do no harm.
def test_a_volume_is_attached_once(three):
    first = three.attach("v")
    first.ok("write 0 4096 1")
    second = Volume(three.conf, "v")
    assert second.opened.startswith("error -16 ")
    assert second.process.wait(60) == 1
    second = three.attach("v", "force")
    second.ok("write 0 4096 2")
    assert first.call("write 0 4096 3").startswith("error -116 ")
    second.ok("check 0 4096 2")


def test_a_read_only_attachment_cannot_write(three):
    writer = three.attach("v")
    writer.ok("write 0 4096 1")
    assert writer.close() == 0
    reader = three.attach("v", "read-only")
    reader.ok("check 0 4096 1")
    assert reader.call("write 0 4096 2").startswith("error -30 ")


def test_a_volume_that_is_not_there_is_named(three):
    volume = Volume(three.conf, "nothing")
    assert volume.opened.startswith("error -2 ")
    assert volume.process.wait(60) == 1


# Goal: attaching leaves nothing behind. Method: often.
def test_attach_and_detach_many_times(three):
    for seed in range(1, 11):
        volume = three.attach("v")
        if seed > 1:
            volume.ok(f"check 0 4096 {seed - 1}")
        volume.ok(f"write 0 4096 {seed}")
        assert volume.close() == 0
    assert three.admin("session-list")["sessions"] == []


# Goal: a deleted volume's bytes are nowhere to be read (I12). Method: its space is used by the next one, which reads zeros.
def test_a_new_volume_reads_zeros_where_a_deleted_one_was(make_cluster):
    cluster = make_cluster(1, settings=SMALL_SHARDS)
    cluster.up()
    for seed in (5, 6):
        cluster.make_volume("v", 64 * MIB, replicas=1)
        volume = cluster.attach("v")
        for offset in range(0, 64 * MIB, 16 * MIB):
            volume.ok(f"check {offset} {16 * MIB} 0")
            volume.ok(f"write {offset} {16 * MIB} {seed}")
        assert volume.close() == 0
        cluster.admin("volume-delete", name="v")
        wait_for(lambda: cluster.ask("volume-info", 1, name="v")["ok"] is False, "the volume gone")


# Goal: a full drive says so, to the writer and before anything is lost; space given back is space again.
def test_a_full_drive_says_no_space(make_cluster):
    cluster = make_cluster(1, size="256M", settings=SMALL_SHARDS)
    cluster.up()
    cluster.make_volume("v", 512 * MIB, replicas=1)
    volume = cluster.attach("v")
    written = 0
    while volume.call(f"write {written} {MIB} 7") == "ok":
        written += MIB
        assert written < 512 * MIB, "more was written than fits"
    assert written > 128 * MIB
    assert volume.call(f"write {written} {MIB} 7").startswith("error -28 ")
    volume.ok("verify")
    volume.ok(f"write 0 {MIB} 8")
    volume.ok(f"zero {MIB} {32 * MIB} trim")
    volume.ok("flush")
    wait_for(lambda: volume.call(f"write {written} {MIB} 9") == "ok", "space given back")
    volume.ok(f"check 0 {MIB} 8")
    volume.ok(f"check {written} {MIB} 9")
    volume.ok("verify")


# Goal: data of a node that was away for long is the others' data. Method: everything is overwritten meanwhile, then the two
# that saw it go, and the returned one with one other serves alone.
def test_a_node_catches_up_with_what_it_missed(three):
    volume = three.attach("v")
    for offset in range(0, 64 * MIB, 8 * MIB):
        volume.ok(f"write {offset} {8 * MIB} 1")
    three.kill9(3)
    three.wait_down(3)
    for offset in range(0, 64 * MIB, 8 * MIB):
        volume.ok(f"write {offset} {4 * MIB} 2")
    volume.ok(f"zero {4 * MIB} {2 * MIB} trim")
    three.start(3)
    three.wait_healthy()
    three.kill9(1)
    wait_for(lambda: all(s["primary"] in (2, 3) for s in shards(three)), "other primaries")
    for offset in range(0, 64 * MIB, 8 * MIB):
        volume.ok(f"check {offset} {4 * MIB} 2")
        if offset:
            volume.ok(f"check {offset + 4 * MIB} {4 * MIB} 1")
    volume.ok(f"check {4 * MIB} {2 * MIB} 0")
    volume.ok(f"check {6 * MIB} {2 * MIB} 1")


# Goal: reads do not leave the home node when all is well. Method: its primary is there again after it was away.
def test_the_primary_comes_home(three):
    volume = three.attach("v")
    three.kill9(1)
    volume.ok("write 0 65536 1")
    three.start(1)
    three.wait_healthy()
    wait_for(lambda: all(s["primary"] == 1 for s in shards(three)), "node 1 primary of all shards")
    volume.ok("check 0 65536 1")


# Goal: whatever happens in whatever order. Method: faults drawn from a seed, in turn with time to heal; one client throughout.
def test_faults_in_random_order(three):
    seed = os.environ.get("ASHLAR_TEST_SEED", "1")
    chooser = random.Random(f"faults {seed}")
    volume = three.attach("v")
    for turn in range(6):
        number = chooser.randrange(1, 4)
        fault = chooser.choice(["kill", "pause", "stop", "kill two"])
        volume.send(f"load {chooser.randrange(500, 2500)} {turn + 100} {chooser.choice([1, 8, 32])}")
        if fault == "pause":
            three.pause(number)
            wait_for(lambda n=number: n not in three.up_nodes(), "the paused node down")
            three.resume(number)
        elif fault == "stop":
            three.terminate(number)
            three.start(number)
        else:
            victims = [number] if fault == "kill" else [n for n in three.nodes if n != number]
            three.kill9(*victims)
            three.start(*victims)
        volume.finish(f"turn {turn}: {fault} {number}")
        three.wait_healthy()
        volume.ok("verify")


# Goal: the admin protocol says what is wrong with a request, in a sentence.
@pytest.mark.parametrize("op, arguments", [
    ("volume-create", {"name": "v", "size": MIB * 64, "replicas": 3}),
    ("volume-create", {"name": "w", "size": 0, "replicas": 3}),
    ("volume-create", {"name": "w", "size": 64 * MIB, "replicas": 4}),
    ("volume-create", {"name": "", "size": 64 * MIB, "replicas": 1}),
    ("volume-delete", {"name": "nothing"}),
    ("no-such-op", {}),
])
def test_a_refused_request_has_a_sentence(three, op, arguments):
    answer = wire.admin(three.control_address(1), op, **arguments)
    assert answer["ok"] is False
    assert any(isinstance(value, str) and " " in value for value in answer.values())


# Goal: I9: members hold the same bytes when all is quiet, and stores are sound. Method: faults under load, heal, end in order;
# the offline check reads every store.
def test_members_are_identical_and_stores_sound_after_faults(three):
    volume = three.attach("v")
    for number in (2, 1):
        volume.send(f"load 2000 {60 + number} 16")
        wait_for(lambda: any(s.get("marks") for s in three.admin("status")["nodes"]), "writes under way")
        three.kill9(number)
        volume.finish("load")
        three.start(number)
        three.wait_healthy()
    volume.ok("verify")
    assert volume.close() == 0
    assert three.terminate() == {1: 0, 2: 0, 3: 0}
    digests = {}
    for number, node in three.nodes.items():
        for arguments in ([], ["--digest"]):
            done = subprocess.run([program("ashlard"), "store", "check", node.store, *arguments], capture_output=True,
                                  text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        digests[number] = done.stdout
    assert digests[1].count("\n") > 32
    assert digests[1] == digests[2] == digests[3]
