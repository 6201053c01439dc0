# SPDX-License-Identifier: Apache-2.0
"""Snapshots with real daemons: what was there when they were asked for, whatever is written or dies afterwards."""
import errno
import json
import os
import resource
import signal
import struct
import subprocess

import pytest
from conftest import Volume, program, wait_for

MIB = 1 << 20


@pytest.fixture
def three(make_cluster):
    """Three nodes and a volume of four shards on all of them, its home node 1."""
    cluster = make_cluster(3)
    cluster.up()
    cluster.make_volume("v", 64 * MIB, replicas=3, home=1, shard_bytes=16 * MIB)
    return cluster


def ashlar(cluster, *arguments, code=0):
    """Runs the command line; its standard output."""
    done = subprocess.run([program("ashlar"), "--cluster", cluster.conf, *arguments], capture_output=True, text=True,
                          check=False, timeout=90)
    assert done.returncode == code, f"ashlar {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def snapshot(cluster, *titles):
    return json.loads(ashlar(cluster, "--json", "snapshot", "create", *titles))


# Goal: I10: a snapshot keeps what was acknowledged before it, and nothing of what comes after.
def test_a_snapshot_of_an_attached_volume_stays_as_it_was(three):
    volume = three.attach("v")
    volume.ok("write 0 1048576 1")
    volume.ok(f"write {20 * MIB} 8192 2")
    snapshot(three, "v@one")
    volume.ok("write 4096 4096 3")
    volume.ok(f"zero {20 * MIB} 8192")
    volume.ok(f"write {40 * MIB} 65536 4")
    old = three.attach("v@one")
    old.ok("check 0 1048576 1")
    old.ok(f"check {20 * MIB} 8192 2")
    old.ok(f"check {40 * MIB} 65536 0")
    assert old.call("write 0 4096 9").startswith("error")
    volume.ok("check 0 4096 1")
    volume.ok("check 4096 4096 3")
    volume.ok("check 8192 1040384 1")
    volume.ok(f"check {20 * MIB} 8192 0")
    volume.ok(f"check {40 * MIB} 65536 4")


# Goal: detached volumes, groups, names, listing and deletion, and what the command line says of mistakes.
def test_snapshots_are_listed_and_deleted(three):
    three.make_volume("w", 16 * MIB, replicas=3, home=2)
    volume = three.attach("v")
    volume.ok("write 0 65536 1")
    assert volume.close() == 0
    snapshot(three, "v", "w", "--name", "both")
    snapshot(three, "v@second")
    listed = json.loads(ashlar(three, "--json", "snapshot", "ls", "v"))
    assert [(s["name"], s["state"]) for s in listed["snapshots"]] == [("both", "complete"), ("second", "complete")]
    other = json.loads(ashlar(three, "--json", "snapshot", "ls", "w"))["snapshots"]
    assert [s["name"] for s in other] == ["both"] and other[0]["group"] == listed["snapshots"][0]["group"]
    assert "both" in ashlar(three, "snapshot", "ls", "v")
    ashlar(three, "snapshot", "create", "v@both", code=1)
    ashlar(three, "snapshot", "create", "v", code=2)
    ashlar(three, "snapshot", "create", "nothing@x", code=1)
    ashlar(three, "snapshot", "rm", "v@both")
    ashlar(three, "snapshot", "rm", "v@both", code=1)
    snapshot(three, "v@both")
    old = three.attach("v@second")
    old.ok("check 0 65536 1")


# Goal: R16 over generations. Method: a member misses a snapshot and writes before and after it; it alone is asked in the end.
def test_a_member_that_was_away_gets_every_generation(three):
    volume = three.attach("v")
    volume.ok("write 0 1048576 1")
    snapshot(three, "v@one")
    three.kill9(3)
    three.wait_down(3)
    volume.ok("write 8192 8192 2")
    volume.ok(f"write {16 * MIB} 65536 2")
    snapshot(three, "v@two")
    volume.ok("write 8192 4096 3")
    volume.ok("zero 65536 65536 trim")
    snapshot(three, "v@three")
    volume.ok(f"write {17 * MIB} 65536 4")
    three.start(3)
    three.wait_healthy()
    assert volume.close() == 0
    three.kill9(1)
    three.wait_down(1)
    ashlar(three, "volume", "set", "v", "--home", "3")
    wait_for(lambda: all(s["primary"] in (2, 3) and s["epoch"] == s["active_epoch"]
                         for s in three.admin("volume-info", name="v")["shards"]), "every shard is served")
    one, two, last, head = (three.attach(name) for name in ("v@one", "v@two", "v@three", "v"))
    one.ok("check 0 1048576 1")
    one.ok(f"check {16 * MIB} 65536 0")
    two.ok("check 8192 8192 2")
    two.ok("check 65536 65536 1")
    two.ok(f"check {16 * MIB} 65536 2")
    last.ok("check 8192 4096 3")
    last.ok("check 12288 4096 2")
    last.ok("check 65536 65536 0")
    last.ok(f"check {17 * MIB} 65536 0")
    head.ok(f"check {17 * MIB} 65536 4")


# Goal: I10 under load, with the primary dying: snapshots go on, whoever serves; no write is lost.
def test_snapshots_while_nodes_die_under_load(three):
    volume = three.attach("v")
    volume.send("load 6000 41 16")
    wait_for(lambda: any(s.get("marks") for s in three.admin("status")["nodes"]), "writes under way")
    snapshot(three, "v@before")
    three.kill9(1)
    made = 0
    for i in range(5):
        done = subprocess.run([program("ashlar"), "--cluster", three.conf, "snapshot", "create", f"v@s{i}"],
                              capture_output=True, text=True, check=False, timeout=90)
        made += done.returncode == 0
    three.start(1)
    volume.finish("load")
    volume.ok("verify")
    assert made >= 1
    three.wait_healthy()
    volume.ok("verify")


# Goal: a client that disappears in the middle leaves nothing frozen.
def test_a_client_that_dies_leaves_no_frozen_volume(three):
    volume = three.attach("v")
    volume.send("load 20000 51 32")
    wait_for(lambda: any(s.get("marks") for s in three.admin("status")["nodes"]), "writes under way")
    making = subprocess.Popen([program("ashlar"), "--cluster", three.conf, "snapshot", "create", "v@torn"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    volume.kill()
    assert making.wait(90) == 0
    again = Volume(three.conf, "v", "force")
    assert again.opened.startswith("ok")
    again.ok("write 0 65536 7")
    snapshot(three, "v@whole")
    again.ok("write 0 65536 8")
    three.attach("v@whole").ok("check 0 65536 7")
    again.kill()


# Goal: a shard that is not served gives no snapshot and no harm: it is given up with a sentence, and can be made later.
def test_a_snapshot_without_a_served_shard_is_given_up(three):
    volume = three.attach("v")
    volume.ok("write 0 65536 1")
    three.kill9(2, 3)
    three.wait_down(2)
    done = subprocess.run([program("ashlar"), "--cluster", three.conf, "snapshot", "create", "v@no"],
                          capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode != 0
    volume.send("write 65536 65536 2")
    three.start(2, 3)
    volume.finish("write")
    three.wait_healthy()
    wait_for(lambda: not any(s["state"] == "opening" for s in
                             json.loads(ashlar(three, "--json", "snapshot", "ls", "v"))["snapshots"]), "nothing opens")
    snapshot(three, "v@yes")
    volume.ok("write 0 65536 3")
    three.attach("v@yes").ok("check 0 65536 1")


# Goal: an asker whose answer was lost asks another node and is told of its own snapshot: made, or given up; never of its name only.
# Method: the same request id at several nodes, served and not; then another id.
def test_asking_again_tells_of_the_same_snapshot(three):
    mine = {"volumes": ["v"], "snapshot": "s", "request": "ab" * 16}
    groups = {three.admin("snapshot-create", **mine)["group"] for _ in range(2)}
    assert len(groups) == 1
    other = three.ask("snapshot-create", 2, **{**mine, "request": "cd" * 16})
    assert not other["ok"] and other["code"] == -errno.EEXIST
    assert three.admin("snapshot-list", name="v")["snapshots"][0]["state"] == "complete"


# Goal: who reads a snapshot is not surprised by its deletion; forced, he gets errors, never other bytes.
def test_an_attached_snapshot_is_not_deleted(three):
    def readers():
        return sum(r["clients"] for node in (1, 2, 3) for r in (three.ask("stats", node) or {}).get("readers", []))

    volume = three.attach("v")
    volume.ok("write 0 1048576 1")
    snapshot(three, "v@one")
    old = three.attach("v@one")
    wait_for(lambda: readers() == 1, "the node tells of its reader")
    ashlar(three, "snapshot", "rm", "v@one", code=1)
    old.ok("check 0 1048576 1")
    assert old.close() == 0
    wait_for(lambda: readers() == 0, "the node tells that it is gone")
    ashlar(three, "snapshot", "rm", "v@one")
    snapshot(three, "v@two")
    old = three.attach("v@two")
    volume.ok("write 0 1048576 2")
    wait_for(lambda: readers() == 1, "the node tells of its reader")
    ashlar(three, "snapshot", "rm", "v@two", "--force")
    volume.ok("write 0 1048576 3")
    assert old.call("check 0 1048576 1").startswith("error")
    old.kill()


# Goal: rollback of a detached volume; later snapshots stay; a member that is away gets it, too.
def test_rollback(three):
    volume = three.attach("v")
    volume.ok("write 0 1048576 1")
    volume.ok(f"write {16 * MIB} 65536 1")
    snapshot(three, "v@one")
    volume.ok("write 4096 8192 2")
    volume.ok(f"write {32 * MIB} 65536 2")
    snapshot(three, "v@two")
    volume.ok(f"zero {16 * MIB} 65536")
    ashlar(three, "snapshot", "rollback", "v@one", code=1)
    assert volume.close() == 0
    three.kill9(3)
    three.wait_down(3)
    ashlar(three, "snapshot", "rollback", "v@one")
    volume = three.attach("v")
    volume.ok("check 0 1048576 1")
    volume.ok(f"check {16 * MIB} 65536 1")
    volume.ok(f"check {32 * MIB} 65536 0")
    volume.ok("write 0 4096 5")
    three.start(3)
    three.wait_healthy()
    assert volume.close() == 0
    three.kill9(1)
    three.wait_down(1)
    ashlar(three, "volume", "set", "v", "--home", "3")
    volume, two = three.attach("v"), three.attach("v@two")
    volume.ok("check 0 4096 5")
    volume.ok("check 4096 1044480 1")
    volume.ok(f"check {32 * MIB} 65536 0")
    two.ok("check 4096 8192 2")
    two.ok(f"check {32 * MIB} 65536 2")


# Goal: a clone is a volume of its own; deletion in any order takes only what nobody reads.
def test_clones(three):
    volume = three.attach("v")
    volume.ok("write 0 1048576 1")
    volume.ok(f"write {48 * MIB} 65536 1")
    snapshot(three, "v@image")
    volume.ok("write 0 8192 2")
    ashlar(three, "clone", "v@image", "c1")
    ashlar(three, "clone", "v@image", "c2")
    ashlar(three, "clone", "v@image", "c2", code=1)
    one, two = three.attach("c1"), three.attach("c2")
    one.ok("check 0 1048576 1")
    one.ok("write 4096 4096 3")
    two.ok("check 0 1048576 1")
    two.ok(f"zero {48 * MIB} 65536 trim")
    one.ok(f"check {48 * MIB} 65536 1")
    snapshot(three, "c1@inner")
    one.ok("write 8192 4096 4")
    ashlar(three, "clone", "c1@inner", "d")
    assert volume.close() == 0
    ashlar(three, "snapshot", "rm", "v@image")
    ashlar(three, "volume", "rm", "v")
    ashlar(three, "volume", "info", "v", code=1)
    three.kill9(2)
    three.wait_down(2)
    inner = three.attach("d")
    inner.ok("check 0 4096 1")
    inner.ok("check 4096 4096 3")
    inner.ok("check 8192 4096 1")
    inner.ok("write 12288 4096 5")
    three.start(2)
    three.wait_healthy()
    one.ok("check 8192 4096 4")
    two.ok(f"check {48 * MIB} 65536 0")
    ashlar(three, "volume", "flatten", "d")
    wait_for(lambda: "parent" not in three.admin("volume-info", name="d")["volume"], "d is independent")
    assert one.close() == 0
    ashlar(three, "volume", "rm", "c1")
    inner.ok("check 4096 4096 3")
    inner.ok("check 12288 4096 5")
    two.ok("check 4096 4096 1")
    inner.ok(f"check {48 * MIB} 65536 1")


# Goal: a backup restored on another cluster is identical, changes only after the first; a stream that broke off goes on.
def test_export_and_import(three, make_cluster, tmp_path):
    volume = three.attach("v")
    volume.ok("write 0 1048576 1")
    volume.ok(f"write {20 * MIB + 4096} {3 * MIB} 2")
    snapshot(three, "v@one")
    volume.ok("write 8192 4096 3")
    volume.ok(f"zero {21 * MIB} 65536 trim")
    volume.ok(f"write {63 * MIB} 4096 4")
    snapshot(three, "v@two")
    changed = json.loads(ashlar(three, "--json", "snapshot", "diff", "v@two", "--from", "one"))
    ranges = [(r["offset"], r["length"], r["type"]) for r in changed["ranges"]]
    assert ranges == [(8192, 4096, "data"), (21 * MIB, 65536, "zero"), (63 * MIB, 4096, "data")], ranges
    full, changes, torn = (str(tmp_path / name) for name in ("full", "changes", "torn"))
    ashlar(three, "export", "v@one", full)
    assert os.path.getsize(full) < 5 * MIB
    ashlar(three, "export", "v@two", changes, "--from", "one")
    assert os.path.getsize(changes) < 65536
    with open(full, "rb") as stream, open(torn, "wb") as out:
        out.write(stream.read(2 * MIB + 12345))
    three.kill9(1)
    ashlar(three, "export", "v@one", torn, "--resume")
    assert open(torn, "rb").read() == open(full, "rb").read()
    other = make_cluster(1)
    other.up()
    ashlar(other, "import", changes, "r", "--replicas", "1", code=1)
    damaged = bytearray(open(full, "rb").read())
    damaged[MIB] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    ashlar(other, "import", str(tmp_path / "damaged"), "bad", "--replicas", "1", code=1)
    (tmp_path / "short").write_bytes(bytes(damaged[:MIB // 2]))
    ashlar(other, "import", str(tmp_path / "short"), "short", "--replicas", "1", code=1)
    ashlar(other, "import", full, "r", "--replicas", "1")
    ashlar(other, "import", changes, "r")
    restored, one = other.attach("r"), other.attach("r@one")
    one.ok("check 0 1048576 1")
    one.ok(f"check {20 * MIB + 4096} {3 * MIB} 2")
    restored.ok("check 8192 4096 3")
    restored.ok("check 12288 1036288 1")
    restored.ok(f"check {21 * MIB} 65536 0")
    restored.ok(f"check {21 * MIB + 65536} 65536 2")
    restored.ok(f"check {63 * MIB} 4096 4")
    restored.ok("write 0 4096 5")
    restored.ok("write 8192 4096 5")
    assert restored.close() == 0
    ashlar(other, "import", changes, "r", code=1)
    ashlar(other, "import", changes, "r", "--resume", code=1)
    restored = other.attach("r")
    restored.ok("check 8192 4096 5")
    created = [[s["created_ms"] for s in json.loads(ashlar(cluster, "--json", "snapshot", "ls", name))["snapshots"]]
               for cluster, name in ((three, "v"), (other, "r"))]
    assert created[0] == created[1] and all(created[0]), created


# Goal: a position noted for a volume that is gone is not gone on with in a new one of its name; for the same one it is.
def test_import_resumes_only_in_the_same_volume(make_cluster, tmp_path):
    cluster = make_cluster(1)
    cluster.up()
    ashlar(cluster, "volume", "create", "v", "64M", "--replicas", "1")
    volume = cluster.attach("v")
    volume.ok("write 0 4096 1")
    volume.ok(f"write {32 * MIB} 4096 2")
    snapshot(cluster, "v@one")
    full = str(tmp_path / "full")
    ashlar(cluster, "export", "v@one", full)
    with open(full, "rb") as stream:
        kind, offset, length, _, chain = struct.unpack("<4xIQQII", stream.read(256 + 32)[256:])
    assert (kind, offset, length) == (1, 0, 4096)
    note = {"position": 256 + 32 + length, "records": 1, "at": length, "chain": chain, "volume": 1 << 40}
    for name, same, expected in (("new", False, 1), ("same", True, 0)):
        if same:
            ashlar(cluster, "volume", "create", name, "64M", "--replicas", "1")
            note["volume"] = cluster.admin("volume-info", name=name)["volume"]["id"]
        (tmp_path / f"full.{name}.import").write_text(json.dumps(note))
        ashlar(cluster, "import", full, name, "--replicas", "1", "--resume")
        assert not (tmp_path / f"full.{name}.import").exists()
        restored = cluster.attach(name)
        restored.ok(f"check 0 4096 {expected}")
        restored.ok(f"check {32 * MIB} 4096 2")


# Goal: an import never writes over a volume of which nobody said so; said so, what the stream does not tell is zeros there.
def test_import_leaves_an_existing_volume_alone(make_cluster, tmp_path):
    cluster = make_cluster(1)
    cluster.up()
    ashlar(cluster, "volume", "create", "v", "64M", "--replicas", "1")
    volume = cluster.attach("v")
    volume.ok("write 0 4096 1")
    snapshot(cluster, "v@one")
    full = str(tmp_path / "full")
    ashlar(cluster, "export", "v@one", full)
    ashlar(cluster, "volume", "create", "mine", "64M", "--replicas", "1")
    mine = cluster.attach("mine")
    mine.ok("write 0 8192 7")
    assert mine.close() == 0
    for refused in ((), ("--resume",)):
        ashlar(cluster, "import", full, "mine", *refused, code=1)
    mine = cluster.attach("mine")
    mine.ok("check 0 8192 7")
    assert mine.close() == 0
    ashlar(cluster, "import", full, "mine", "--overwrite")
    mine = cluster.attach("mine")
    mine.ok("check 0 4096 1")
    mine.ok("check 4096 4096 0")
    assert mine.close() == 0
    (tmp_path / "short").write_bytes(open(full, "rb").read()[:2048])
    ashlar(cluster, "import", str(tmp_path / "short"), "torn", "--replicas", "1", code=1)
    (tmp_path / "short").write_bytes(open(full, "rb").read())
    ashlar(cluster, "import", str(tmp_path / "short"), "torn", "--resume")
    cluster.attach("torn").ok("check 0 4096 1")


# Goal: a backup is what the snapshot was, although the node that served it died during the export, and the exporter, too.
# Method: the stream is read up to a third, then the primary is killed; another exporter is ended by its file's limit.
def test_a_backup_outlives_a_node_and_its_exporter(three, make_cluster, tmp_path):
    volume = three.attach("v")
    for i in range(48):
        volume.ok(f"write {i * MIB} 1048576 {i + 1}")
    snapshot(three, "v@one")
    volume.ok(f"write 0 {4 * MIB} 99")
    whole, torn = str(tmp_path / "whole"), str(tmp_path / "torn")
    exporting = subprocess.Popen([program("ashlar"), "--cluster", three.conf, "export", "v@one", "-"], stdout=subprocess.PIPE)
    with open(whole, "wb") as out:
        out.write(exporting.stdout.read(16 * MIB))
        three.kill9(1)
        out.write(exporting.stdout.read())
    assert exporting.wait(90) == 0
    limit = 20 * MIB + 777
    ended = subprocess.run([program("ashlar"), "--cluster", three.conf, "export", "v@one", torn], check=False, timeout=90,
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert ended.returncode == -signal.SIGXFSZ and os.path.getsize(torn) == limit
    ashlar(three, "export", "v@one", torn, "--resume")
    assert open(torn, "rb").read() == open(whole, "rb").read()
    other = make_cluster(1)
    other.up()
    ashlar(other, "import", torn, "r", "--replicas", "1")
    restored = other.attach("r")
    for i in range(48):
        restored.ok(f"check {i * MIB} 1048576 {i + 1}")
    restored.ok(f"check {48 * MIB} {16 * MIB} 0")


# Goal: changes of a volume that has grown grow the volume they are imported into; an import is gone on with although the client
# before it was killed just now and has the volume attached for some seconds still.
def test_import_grows_with_its_source(make_cluster, tmp_path):
    cluster = make_cluster(1)
    cluster.up()
    ashlar(cluster, "volume", "create", "v", "32M", "--replicas", "1", "--shard-size", "16M")
    volume = cluster.attach("v")
    volume.ok("write 0 4096 1")
    snapshot(cluster, "v@one")
    ashlar(cluster, "volume", "resize", "v", "96M")
    assert volume.close() == 0
    volume = cluster.attach("v")
    volume.ok(f"write {90 * MIB} 65536 2")
    snapshot(cluster, "v@two")
    full, changes = str(tmp_path / "full"), str(tmp_path / "changes")
    told = json.loads(ashlar(cluster, "--json", "export", "v@one", full))
    assert (told["volume"], told["snapshot"], told["file"], told["data_bytes"]) == ("v", "one", full, 4096)
    ashlar(cluster, "export", "v@two", changes, "--from", "one")
    ashlar(cluster, "import", full, "r", "--replicas", "1")
    restored = cluster.attach("r")
    restored.kill()
    ashlar(cluster, "import", changes, "r", "--resume")
    restored = cluster.attach("r")
    restored.ok("check 0 4096 1")
    restored.ok(f"check {90 * MIB} 65536 2")
    restored.ok(f"check {90 * MIB + 65536} {MIB} 0")
    sizes = [s["size"] for s in json.loads(ashlar(cluster, "--json", "snapshot", "ls", "r"))["snapshots"]]
    assert sizes == [32 * MIB, 96 * MIB]


# Goal: volumes grow while attached and with snapshots, and shrink only detached, and never below a snapshot.
def test_resize(three):
    volume = three.attach("v")
    volume.ok("write 0 65536 1")
    snapshot(three, "v@small")
    ashlar(three, "volume", "resize", "v", str(72 * MIB))
    ashlar(three, "volume", "resize", "v", str(16 * MIB), "--shrink", code=1)
    assert volume.close() == 0
    ashlar(three, "volume", "resize", "v", str(16 * MIB), "--shrink", code=1)
    volume, small = three.attach("v"), three.attach("v@small")
    volume.ok(f"write {70 * MIB} 65536 2")
    volume.ok(f"check {70 * MIB} 65536 2")
    small.ok("check 0 65536 1")
    assert small.call(f"check {64 * MIB} 4096 0").startswith("error")
    assert volume.close() == 0 and small.close() == 0
    ashlar(three, "clone", "v@small", "grown")
    ashlar(three, "volume", "resize", "grown", str(80 * MIB))
    grown = three.attach("grown")
    grown.ok(f"write {79 * MIB} 65536 3")
    grown.ok("check 0 65536 1")
    grown.ok(f"check {79 * MIB} 65536 3")
    ashlar(three, "snapshot", "rm", "v@small")
    ashlar(three, "volume", "resize", "v", str(16 * MIB), "--shrink", code=1)  # the clone still reads there
    ashlar(three, "volume", "flatten", "grown")
    wait_for(lambda: "parent" not in three.admin("volume-info", name="grown")["volume"], "the clone is independent")
    ashlar(three, "volume", "resize", "v", str(16 * MIB), "--shrink")
    volume = three.attach("v")
    volume.ok("check 0 65536 1")
    grown.ok("check 0 65536 1")


# Goal: images of other formats come in and go out through qemu-img.
def test_images_through_qemu_img(three, tmp_path):
    raw, qcow2, back = (str(tmp_path / name) for name in ("a.raw", "a.qcow2", "b.qcow2"))
    with open(raw, "wb") as out:
        out.write(os.urandom(3 * MIB))
        out.truncate(20 * MIB)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, qcow2], check=True)
    ashlar(three, "import", qcow2, "q")
    ashlar(three, "import", raw, "w", "--format", "raw")
    snapshot(three, "q", "w", "--name", "in")
    attached = json.loads(ashlar(three, "--json", "attach", "q@in"))
    try:
        subprocess.run(["qemu-img", "compare", raw, attached["uri"]], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", attached["uri"], back], check=True)
        subprocess.run(["qemu-img", "compare", raw, back], check=True, stdout=subprocess.DEVNULL)
    finally:
        ashlar(three, "detach", "q@in")


# Goal: I10 over several volumes and gateways. Method: each write to w follows the acknowledgement of the same one to v, which go through
# different nodes; whatever w's snapshot holds, v's must hold.
def test_a_group_is_one_cut_over_several_gateways(three):
    three.make_volume("w", 16 * MIB, replicas=3, home=2)
    first, second = three.attach("v"), three.attach("w", conf=three.conf_at(2))
    making = None
    for i in range(400):
        if i == 100:
            making = subprocess.Popen([program("ashlar"), "--cluster", three.conf, "snapshot", "create", "v", "w",
                                       "--name", "g"], stdout=subprocess.DEVNULL)
        first.ok(f"write {i * 4096} 4096 {i + 1}")
        second.ok(f"write {i * 4096} 4096 {i + 1}")
        if i > 100 and making.poll() is not None:
            break
    assert making.wait(90) == 0
    v, w = three.attach("v@g"), three.attach("w@g")
    held = [i for i in range(400) if w.call(f"check {i * 4096} 4096 {i + 1}") == "ok"]
    assert len(held) >= 100 and held == list(range(len(held)))
    for i in held:
        v.ok(f"check {i * 4096} 4096 {i + 1}")
    first.ok("write 0 4096 9")
