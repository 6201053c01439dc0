# SPDX-License-Identifier: Apache-2.0
"""What the NBD world does with disks works on volumes: nbdinfo, nbdcopy, qemu-img, qemu-io, fio."""
import json
import os
import select
import signal
import subprocess

from nbd_cluster import (DEADLINE_S, MIB, PLUGIN, cluster, is_running, nbdkit, random_file, run,  # noqa: F401
                         scratch, volume, wait_for)


# Goal: clients learn what the volume can do. Method: nbdinfo's words against what the man page says.
def test_nbdinfo_tells_size_and_abilities(volume):  # noqa: F811
    info = json.loads(run("nbdinfo", "--json", volume.uri).stdout)["exports"][0]
    assert info["export-size"] == 64 * MIB
    for ability in ("can_flush", "can_fua", "can_trim", "can_zero", "can_fast_zero", "can_multi_conn"):
        assert info[ability] is True, ability
    assert info["is_read_only"] is False
    assert info["is_rotational"] is False
    assert (info["block_size_minimum"], info["block_size_preferred"], info["block_size_maximum"]) == (1, 4096, 32 * MIB)
    assert "base:allocation" in info["contexts"]


# Goal: without volume= the export name chooses, and the exports are the volumes.
def test_exports_are_listed_and_chosen_by_name(cluster):  # noqa: F811
    names = [cluster.make(16 * MIB), cluster.make(32 * MIB)]
    script = ('nbdinfo --list --json "nbd+unix:///?socket=$unixsocket" && echo --- && '
              f'nbdinfo --size "nbd+unix:///{names[1]}?socket=$unixsocket"')
    listed, size = nbdkit(PLUGIN, f"cluster={cluster.dir}/cluster.conf", script=script).stdout.split("---")
    exports = {one["export-name"]: one["export-size"] for one in json.loads(listed)["exports"]}
    assert exports == {names[0]: 16 * MIB, names[1]: 32 * MIB}
    assert int(size) == 32 * MIB
    cluster.clean()


# Goal: a wrong name is told in a sentence that says what to do.
def test_unknown_volume_is_refused_in_words(cluster):  # noqa: F811
    refused = cluster.ashlar("attach", "nosuch", status=1)
    assert refused.stderr.strip() == "ashlar attach: there is no volume 'nosuch'; see: ashlar volume ls"
    assert cluster.json("attachments", "ls")["attachments"] == []


# Goal: bulk copies in and out over several connections are exact (one handle serves them all).
def test_nbdcopy_round_trip_over_many_connections(volume, scratch):  # noqa: F811
    source = random_file(scratch, "source", 64 * MIB)
    back = os.path.join(scratch, "back")
    run("nbdcopy", "--connections=4", "--requests=16", "--flush", source, volume.uri)
    run("nbdcopy", "--connections=4", volume.uri, back)
    run("cmp", source, back)


# Goal: qemu-img moves images to and from volumes; holes stay holes.
def test_qemu_img_convert_and_compare(volume, scratch):  # noqa: F811
    image = os.path.join(scratch, "image.raw")
    with open(image, "wb") as file:
        file.truncate(64 * MIB)
        for at in (0, 5 * MIB + 512, 31 * MIB, 63 * MIB):
            file.seek(at)
            file.write(os.urandom(MIB // 2))
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, volume.uri)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, volume.uri)
    assert volume.types_at(40 * MIB, MIB) == {3}, "a hole of the image takes space"
    with open(image, "r+b") as file:
        file.seek(31 * MIB)
        file.write(b"x")
    assert run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, volume.uri, status=1)


# Goal: a volume can hold a qcow2 image, as OpenStack and others keep them.
def test_qcow2_on_a_volume_passes_check(volume, scratch):  # noqa: F811
    source = random_file(scratch, "source", 20 * MIB)
    run("qemu-img", "create", "-f", "qcow2", volume.uri, "48M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 1M 3M", "-c", "discard 2M 1M", "-c", "flush", volume.uri)
    run("qemu-io", "-f", "qcow2", "-c", "read -P 0x5a 1M 1M", volume.uri)
    run("qemu-img", "check", "-f", "qcow2", volume.uri)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", source, volume.uri)
    run("qemu-img", "check", "-f", "qcow2", volume.uri)
    read = run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, volume.uri)
    assert "identical" in read.stdout


# Goal: any byte range is served, over the borders of blocks, chunks (1 MiB), regions (16 MiB) and shards (16 MiB here).
def test_unaligned_ranges_read_back(volume):  # noqa: F811
    writes = [(0, 1), (511, 2), (4095, 2), (8191, 4098), (MIB - 1, 2), (MIB - 4097, 8194), (16 * MIB - 3, 7),
              (16 * MIB - 300, 600 * 1024), (32 * MIB - MIB, 2 * MIB), (64 * MIB - 513, 513)]
    for pattern, (at, length) in enumerate(writes, 1):
        volume.qemu_io(f"write -P {pattern} {at} {length}", f"read -P {pattern} {at} {length}")
    volume.qemu_io("read -P 1 0 1", "read -P 0 1 510", "read -P 2 511 2", "read -P 0 513 3582", "read -P 3 4095 2",
                   f"read -P 10 {64 * MIB - 513} 513", f"read -P 9 {32 * MIB + MIB - 1} 1",
                   f"read -P 0 {33 * MIB} 4096")


def fio_jobs(text):
    """fio's report; its NBD engine talks before it."""
    return json.loads(text[text.index("\n{") + 1:])["jobs"]


# Goal: data under fire stays right. Method: fio writes and verifies random pieces of mixed sizes, many at once.
def test_fio_verifies_mixed_sizes(volume):  # noqa: F811
    done = run("fio", "--aux-path=/tmp", "--name=mixed", "--ioengine=nbd", f"--uri={volume.uri}", "--rw=randwrite", "--size=48M",
               "--io_size=24M", "--bssplit=512/10:2k/10:4k/50:12k/10:64k/15:1m/5", "--bs_unaligned=0", "--iodepth=32",
               "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randrepeat=0", "--output-format=json")
    job = fio_jobs(done.stdout)[0]
    assert job["error"] == 0
    assert job["write"]["total_ios"] > 100
    assert job["read"]["total_ios"] > 100, "nothing was verified"


# Goal: trim gives space back, reads as zeros and shows as holes; only whole blocks go.
def test_trim_makes_holes(volume):  # noqa: F811
    assert volume.types_at(0, 64 * MIB) == {3}, "a new volume is one hole"
    volume.qemu_io("write -P 7 0 4M")
    assert volume.types_at(0, 4 * MIB) == {0}
    volume.qemu_io("discard 1M 1M", "read -P 0 1M 1M", "read -P 7 0 1M", "read -P 7 2M 2M", options=("-d", "unmap"))
    assert volume.types_at(MIB, MIB) == {3}
    assert volume.types_at(2 * MIB, 2 * MIB) == {0}


# Goal: writing zeros reads as zeros, with a hole or without, aligned or not.
def test_write_zeroes_with_and_without_hole(volume):  # noqa: F811
    volume.qemu_io("write -P 9 0 8M")
    volume.qemu_io("write -z -u 1M 1M", "write -z 3M 1M", "write -z -u 5000 3000", "flush")
    volume.qemu_io("read -P 0 1M 1M", "read -P 0 3M 1M", "read -P 0 5000 3000", "read -P 9 0 5000", "read -P 9 8000 4096",
                   "read -P 9 2M 1M", "read -P 9 4M 4M")
    assert volume.types_at(MIB, MIB) == {3}
    assert volume.types_at(3 * MIB, MIB) <= {2, 3}


def store_syncs(volume):  # noqa: F811
    """Flushes that the stores made durable, over all nodes."""
    nodes = volume.cluster.json("status")["nodes"]
    infos = [volume.cluster.json("node", "info", node["id"]) for node in nodes]
    return sum(info["stats"]["counters"]["kv_syncs"] for info in infos)


# Goal: FUA and flush reach the stores of all replicas, a plain write does not wait for them.
# Method: the nodes' counters of synced batches; they are renewed each second, so they are waited for.
def test_fua_and_flush_reach_every_store(volume):  # noqa: F811
    volume.qemu_io("write -P 1 0 4k", "flush")
    before = store_syncs(volume)
    volume.qemu_io("write -f -P 3 4k 4k")
    wait_for(lambda: store_syncs(volume) >= before + 3, "a FUA write on three stores")
    before = store_syncs(volume)
    volume.qemu_io("write -P 4 8k 4k", "flush")
    wait_for(lambda: store_syncs(volume) >= before + 3, "a flush of three stores")


class QemuIo:
    """A qemu-io that stays connected."""

    PROMPT = b"qemu-io> "

    def __init__(self, uri):
        self.process = subprocess.Popen(["qemu-io", "-f", "raw", uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, bufsize=0)
        self.until_prompt()

    def until_prompt(self):
        text = b""
        while not text.endswith(self.PROMPT):
            assert select.select([self.process.stdout], [], [], DEADLINE_S)[0], f"qemu-io hangs: {text}"
            piece = os.read(self.process.stdout.fileno(), 65536)
            assert piece, f"qemu-io ended: {text}"
            text += piece
        return text[:-len(self.PROMPT)].decode().strip()

    def call(self, command):
        """All that the command prints. One line at a time: qemu-io does not see more that is buffered."""
        self.process.stdin.write(command.encode() + b"\n")
        return self.until_prompt()

    def close(self):
        self.process.stdin.close()
        self.process.stdout.read()
        return self.process.wait(60)

    def kill(self):
        self.process.kill()
        self.process.communicate()


# Goal: multi-conn: a flush on one connection covers what others wrote, and all see the same bytes.
# Method: write on A, flush on B, read on C; all daemons are killed and started anew before the read.
def test_a_flush_covers_writes_of_other_connections(cluster, volume):  # noqa: F811
    one, other = QemuIo(volume.uri), QemuIo(volume.uri)
    for piece in range(8):
        assert one.call(f"write -P {piece + 1} {piece}M 64k").startswith("wrote 65536")
    assert other.call("read -P 3 2M 64k").startswith("read 65536")
    assert other.call("flush") == ""
    for node in (1, 2, 3):
        cluster.local("kill", "--node", str(node))
    for node in (1, 2, 3):
        cluster.local("start", "--node", str(node))
    third = QemuIo(volume.uri)
    for piece in range(8):
        assert third.call(f"read -P {piece + 1} {piece}M 64k").startswith("read 65536")
    assert [one.close(), other.close(), third.close()] == [0, 0, 0]
    cluster.wait_healthy()


# Goal: read-only means that: no write passes, reads do.
def test_read_only_attachment_refuses_writes(cluster):  # noqa: F811
    name = cluster.make(16 * MIB)
    writer = cluster.attach(name)
    writer.qemu_io("write -P 5 0 64k", "flush")
    cluster.detach(name)
    reader = cluster.attach(name, "--read-only")
    assert json.loads(run("nbdinfo", "--json", reader.uri).stdout)["exports"][0]["is_read_only"] is True
    reader.qemu_io("read -P 5 0 64k", options=("-r",))
    refused = reader.qemu_io("write -P 6 0 64k", status=1)
    assert "Permission denied" in refused.stderr
    refused = reader.qemu_io("write -P 6 0 64k", status=1, options=("-r",))
    assert "wrote" not in refused.stdout
    reader.qemu_io("read -P 5 0 64k", options=("-r",))
    cluster.clean()


# Goal: a volume has one client; --force takes it over and the older one fails with EPERM from then on (R19).
def test_a_second_client_is_refused_or_fences_the_first(cluster, volume):  # noqa: F811
    first = QemuIo(volume.uri)
    assert first.call("write -P 1 0 4k").startswith("wrote")
    conf = f"cluster={cluster.dir}/cluster.conf"
    refused = nbdkit(PLUGIN, f"volume={volume.name}", conf, script='nbdinfo "$uri"', status=None)
    assert refused.returncode != 0
    assert "is attached elsewhere" in refused.stderr
    second = nbdkit(PLUGIN, f"volume={volume.name}", conf, "force=true",
                    script='qemu-io -f raw -c "read -P 1 0 4k" -c "write -P 2 0 4k" "$uri"')
    assert "wrote 4096" in second.stdout
    assert "Operation not permitted" in first.call("write -P 3 0 4k")
    first.close()


# Goal: more connections than one, and more requests than threads, at once. Method: three fio jobs, verified.
def test_many_connections_at_once(volume):  # noqa: F811
    done = run("fio", "--aux-path=/tmp", "--ioengine=nbd", f"--uri={volume.uri}", "--rw=randrw", "--bs=4k", "--iodepth=64", "--numjobs=3",
               "--size=16M", "--offset_increment=16M", "--io_size=6M", "--verify=crc32c", "--verify_fatal=1", "--name=job",
               "--output-format=json")
    jobs = fio_jobs(done.stdout)
    assert len(jobs) == 3
    assert [job["error"] for job in jobs] == [0, 0, 0]


# Goal: the daemon that serves this host dies in the middle of a copy: the copy is complete and right.
def test_copy_survives_the_death_of_the_gateway(cluster, volume, scratch):  # noqa: F811
    source = random_file(scratch, "source", 64 * MIB)
    back = os.path.join(scratch, "back")
    copy = subprocess.Popen(["nbdcopy", "--flush", source, volume.uri], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: copy.poll() is not None or any(kind == 0 for _, _, kind in volume.extents()), "the first bytes")
    in_the_middle = copy.poll() is None
    cluster.local("kill", "--node", "1")
    errors = copy.communicate(timeout=120)[1]
    assert copy.returncode == 0, errors
    run("nbdcopy", volume.uri, back)
    run("cmp", source, back)
    cluster.local("start", "--node", "1")
    cluster.wait_healthy()
    assert in_the_middle, "the copy was too fast to be disturbed"


def log_of(volume):  # noqa: F811
    with open(os.path.join(os.path.dirname(volume.socket), "log"), encoding="utf-8") as file:
        return file.read()


# Goal: told to end while a client is connected, nbdkit ends in order once the client is gone (nbdkit then closes no handle).
def test_nbdkit_ends_in_order_with_open_handles(cluster, volume):  # noqa: F811
    client = QemuIo(volume.uri)
    assert client.call("write -P 1 0 4k").startswith("wrote")
    os.kill(volume.pid, signal.SIGTERM)
    client.kill()
    wait_for(lambda: not is_running(volume.pid), "the end of nbdkit")
    text = log_of(volume)
    assert "ssertion" not in text and "anitizer" not in text, text
    stale = cluster.ashlar("detach", volume.name, status=1)
    assert "had ended already" in stale.stderr
    cluster.attached.remove(volume.name)
    wait_for(lambda: not cluster.json("session", "ls")["sessions"], "the end of the session")


# Goal: detach does not pull a disk out from under a client, unless it is forced to.
def test_detach_waits_for_clients_unless_forced(cluster, volume):  # noqa: F811
    client = QemuIo(volume.uri)
    assert client.call("write -P 1 0 4k").startswith("wrote")
    refused = cluster.ashlar("detach", volume.name, status=1)
    assert "is in use by 1 connections" in refused.stderr
    assert client.call("read -P 1 0 4k").startswith("read")
    cluster.ashlar("detach", volume.name, "--force")
    cluster.attached.remove(volume.name)
    assert not is_running(volume.pid)
    client.kill()
