# SPDX-License-Identifier: Apache-2.0
"""A throw-away Ashlar cluster on this machine for a guest's disk, by the project's own commands.

Happy path: deploy/local brings up the nodes, ashlar makes and attaches a volume, whose URI goes to QEMU;
kill_primary() kills the daemon of node 1, where the volume is attached and therefore has its primary.

Failure modes: ClusterMissing if the project is not built; ClusterError, one line, if a command fails.
"""
import json
import os
import shutil
import signal
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("ASHLAR_BUILD") or os.path.join(ROOT, "build")
STORE_BYTES = 2 << 30
COMMAND_DEADLINE_S = 60


class ClusterMissing(Exception):
    """The project's commands are not there."""


class ClusterError(OSError):
    """A command of the project failed."""


class Volume:
    """A volume, attached on this host."""

    def __init__(self, cluster, name, uri):
        self.cluster, self.name, self.uri = cluster, name, uri

    def kill_primary(self):
        pid = self.cluster.daemon_pid(1)
        os.kill(pid, signal.SIGKILL)
        return f"killed the daemon of node 1, process {pid}"


class Cluster:
    """Up inside a with statement."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.deploy = os.path.join(ROOT, "deploy", "local")
        self.directory = None
        self.attached = []

    def __enter__(self):
        if not os.access(self.deploy, os.X_OK):
            raise ClusterMissing("there is no deploy/local")
        self.directory = tempfile.mkdtemp(prefix="ashlar-vm-cluster-", dir="/var/tmp")
        try:
            self.run(self.deploy, "up", "--nodes", str(self.nodes), "--dir", self.directory,
                     "--store-size", str(STORE_BYTES))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        try:
            for name in self.attached:
                self.run("ashlar", "detach", name)
            self.run(self.deploy, "down", "--dir", self.directory)
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, *argv):
        env = {**os.environ, "ASHLAR_DIR": self.directory, "ASHLAR_BUILD": BUILD,
               "PATH": f"{os.path.join(BUILD, 'bin')}:{os.environ.get('PATH', '')}"}
        try:
            program = shutil.which(argv[0], path=env["PATH"]) or argv[0]
            done = subprocess.run([program, *argv[1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                                  timeout=COMMAND_DEADLINE_S, env=env)
        except FileNotFoundError:
            raise ClusterMissing(f"{argv[0]}: no such command; build the project first") from None
        if done.returncode != 0:
            raise ClusterError(f"'{' '.join(argv)}' failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def volume(self, name, size_bytes, replicas):
        self.run("ashlar", "volume", "create", name, str(size_bytes), "--replicas", str(replicas))
        answer = self.run("ashlar", "attach", name, "--json")
        self.attached.append(name)
        return Volume(self, name, json.loads(answer)["uri"])

    def daemon_pid(self, node):
        """The ashlard whose configuration lies in the node's directory."""
        wanted = f"{self.directory}/node{node}/".encode()
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/cmdline", "rb") as f:
                    words = f.read().split(b"\0")
            except OSError:
                continue
            if os.path.basename(words[0]) == b"ashlard" and any(wanted in word for word in words):
                return int(name)
        raise ClusterError(f"no ashlard of node {node} runs")
