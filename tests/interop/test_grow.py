# SPDX-License-Identifier: Apache-2.0
"""A volume grows while it is attached: new connections see it at once, those that are open go on (man ashlar, volume resize)."""
import json
import subprocess
import threading

from nbd_cluster import DEADLINE_S, MIB, cluster, run  # noqa: F401
from test_nbd_tools import QemuIo


class Load:
    """A connection that writes and reads back, over and over, until it is told to end; what went wrong is kept."""

    def __init__(self, uri, at):
        self.client, self.at, self.rounds, self.wrong, self.stop = QemuIo(uri), at, 0, [], threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        while not self.stop.is_set() and not self.wrong:
            pattern, at = self.rounds % 250 + 1, self.at + self.rounds % 16 * 65536
            for command, expected in ((f"write -P {pattern} {at} 64k", "wrote 65536"), (f"read -P {pattern} {at} 64k", "read 65536")):
                answer = self.client.call(command)
                if not answer.startswith(expected):
                    self.wrong.append(f"{command}: {answer}")
            self.rounds += 1

    def end(self):
        self.stop.set()
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive(), "the load hangs"
        assert self.client.close() == 0
        assert not self.wrong, self.wrong
        assert self.rounds > 0


def size_of(uri):
    return int(run("nbdinfo", "--size", uri).stdout)


def check_new_part(attached, size, pattern):
    """A new connection has the new size, and the new part takes data, up to its end."""
    assert size_of(attached.uri) == size
    info = json.loads(run("qemu-img", "info", "--output=json", "-f", "raw", attached.uri).stdout)
    assert info["virtual-size"] == size
    attached.qemu_io(f"read -P 0 {size - MIB} {MIB}", f"write -P {pattern} {size - MIB} {MIB}", f"read -P {pattern} {size - MIB} {MIB}")


# Goal: after a resize was answered every new connection has the new size, with no waiting, at whichever node it was asked for;
# connections that were open do I/O all the time and keep theirs; snapshots keep theirs.
def test_growth_is_seen_by_new_connections(cluster):  # noqa: F811
    volume = cluster.new(64 * MIB)
    load, old = Load(volume.uri, 0), QemuIo(volume.uri)
    cluster.ashlar("snapshot", "create", f"{volume.name}@before")
    for step in range(1, 9):
        node = step % 3 + 1
        size = 64 * MIB + step * 9 * MIB + 4096
        cluster.ashlar("volume", "resize", volume.name, size, env={"ASHLAR_CLUSTER": f"unix:{cluster.dir}/node{node}/run/data.sock"})
        assert size_of(volume.uri) == size
    check_new_part(volume, size, 0x5a)
    assert "64 MiB" in old.call("length")
    assert "failed" in old.call("read 64M 4k")
    assert old.call("write -P 9 63M 64k").startswith("wrote")
    for smaller in ("64M", "16M"):
        assert "attached" in cluster.ashlar("volume", "resize", volume.name, smaller, "--shrink", "--yes", status=1).stderr
    before = cluster.attach(f"{volume.name}@before")
    assert size_of(before.uri) == 64 * MIB
    load.end()
    old.close()
    cluster.detach(f"{volume.name}@before")
    cluster.detach(volume.name)
    volume = cluster.attach(volume.name)
    assert volume.size == size_of(volume.uri) == size
    volume.qemu_io("read -P 9 63M 64k", f"read -P 0x5a {size - MIB} {MIB}")
    cluster.clean()


# Goal: the same while the daemon that serves this host is killed; and once it is back.
def test_growth_while_the_gateway_dies(cluster):  # noqa: F811
    volume = cluster.new(64 * MIB, "--replicas", "2", "--home", "1")  # one node down leaves room
    load = Load(volume.uri, 0)
    for step, (verb, size) in enumerate((("kill", 96 * MIB), ("start", 128 * MIB + 8192)), 1):
        order = [lambda: cluster.local(verb, "--node", "1"), lambda: cluster.ashlar("volume", "resize", volume.name, size)]
        if step == 1:  # at the same time
            resize = threading.Thread(target=order[1])
            resize.start()
            order[0]()
            resize.join(DEADLINE_S)
            assert not resize.is_alive()
            cluster.ashlar("volume", "resize", volume.name, size)  # whatever became of the first
        else:
            order[0]()
            order[1]()
        check_new_part(volume, size, step)
    load.end()
    cluster.wait_healthy()
    cluster.clean()


class Machine:
    """A QEMU that does not run its guest, told by QMP."""

    def __init__(self, words):
        self.process = subprocess.Popen(["qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "q35,accel=tcg", "-m", "64",
                                         "-S", "-qmp", "stdio", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert "QMP" in self.process.stdout.readline()
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        self.process.stdin.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        for line in self.process.stdout:
            answer = json.loads(line)
            assert "error" not in answer, f"{command}: {answer}"
            if "return" in answer:
                return answer["return"]
        raise AssertionError(f"QEMU ended at {command}")

    def sizes(self):
        return {node["node-name"]: node["image"]["virtual-size"] for node in self.call("query-named-block-nodes")}

    def end(self):
        self.process.kill()
        self.process.communicate()


# Goal: a running QEMU, started with the line that attach prints, gets the new size by what the man page says.
# Names that QEMU takes for no node's are changed in the line.
def test_growth_reaches_a_running_qemu(cluster):  # noqa: F811
    volume = cluster.new(64 * MIB)
    machine = Machine(volume.answer["qemu"].split(" "))
    try:
        node, option = volume.name, {"discard": "unmap", "cache": {"direct": True}}
        cluster.ashlar("volume", "resize", volume.name, "96M")
        assert machine.sizes() == {node: 64 * MIB, f"{node}-nbd": 64 * MIB}
        machine.call("blockdev-add", **{"driver": "nbd", "node-name": f"{node}-nbd2", **option,
                                        "server": {"type": "unix", "path": volume.socket}})
        machine.call("blockdev-reopen", options=[{"driver": "raw", "node-name": node, "file": f"{node}-nbd2", **option}])
        machine.call("block_resize", **{"node-name": node, "size": 96 * MIB})
        machine.call("blockdev-del", **{"node-name": f"{node}-nbd"})
        assert machine.sizes() == {node: 96 * MIB, f"{node}-nbd2": 96 * MIB}
    finally:
        machine.end()
    cluster.clean()
    long = "7" + "x" * 29
    cluster.ashlar("volume", "create", long, "16M")
    cluster.volumes.append(long)
    cluster.ashlar("snapshot", "create", f"{long}@s")
    answers = [cluster.attach(name).answer for name in (long, f"{long}@s")]
    assert [answer["read_only"] for answer in answers] == [False, True]
    lines = [answer["qemu"] for answer in answers]
    assert len({line.split("node-name=")[1].split(",")[0] for line in lines}) == 2
    for line in lines:
        machine = Machine(line.split(" "))
        assert set(machine.sizes().values()) == {16 * MIB}
        machine.end()
    cluster.clean()
