# SPDX-License-Identifier: Apache-2.0
"""Foreign eyes on the same faults: fio writes through the nbdkit plugin and verifies what it reads, while daemons are killed."""
import json
import os
import subprocess

import pytest

from load import MIB, Load, fixtures, judge, role

SIZE = 32 * MIB


class Export:
    """The volume's NBD export by the plugin, at node 1 first, then at any other."""

    def __init__(self, cluster, name, directory):
        self.socket = os.path.join(directory, "nbd")
        plugin = os.path.join(fixtures.BUILD, "lib", "nbdkit-ashlar-plugin.so")
        self.process = subprocess.Popen(["nbdkit", "-f", "-U", self.socket, plugin, f"volume={name}", f"cluster={cluster.conf}"],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        fixtures.wait_for(lambda: os.path.exists(self.socket) or self.process.poll() is not None, "nbdkit's socket")
        self.uri = f"nbd+unix:///?socket={self.socket}"

    def end(self):
        self.process.terminate()
        assert self.process.wait(fixtures.DEADLINE_S) == 0


class Fio:
    """Random writes of several sizes that are read back and verified all along, and once more at the end."""

    def __init__(self, uri, passes):
        self.process = subprocess.Popen(
            ["fio", "--name=verify", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bsrange=4k-64k", "--blockalign=4k",
             "--iodepth=8", f"--size={SIZE}", f"--loops={passes}", "--verify=crc32c", "--verify_backlog=64", "--verify_fatal=1",
             "--do_verify=1", "--verify_state_save=0", "--randrepeat=0", "--thread", "--fsync=64", "--output-format=json"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def runs(self):
        return self.process.poll() is None

    def finish(self):
        said, _ = self.process.communicate(timeout=4 * fixtures.DEADLINE_S)
        assert self.process.returncode == 0, said
        job = json.loads(said[said.index("{"):])["jobs"][0]
        assert job["error"] == 0 and job["read"]["total_ios"] > 0, said
        return job


@pytest.mark.parametrize("what, passes", [("in turn", 2), *(pytest.param(what, 8, marks=pytest.mark.long)
                                                           for what in ("primary", "backup", "leader", "local", "all"))])
def test_fio_verifies_while_daemons_are_killed(cluster3, tmp_path, what, passes):
    load = Load(cluster3, size=SIZE)
    assert load.volume.close() == 0  # the export is the only client
    export = Export(cluster3, "v", str(tmp_path))
    fio = Fio(export.uri, passes)
    kills = 0
    for victim in ["backup", "primary", "leader", "all"] if what == "in turn" else [what] * 20:
        if not fio.runs():
            break
        numbers = list(cluster3.nodes) if victim == "all" else [role(cluster3, load, victim)]
        cluster3.kill9(*numbers)
        kills += fio.runs()
        cluster3.start(*numbers)
        cluster3.wait_healthy()
    assert kills >= 2, "fio was done before anything could be killed"
    fio.finish()
    export.end()
    load.volume = cluster3.attach("v")
    judge(load)
