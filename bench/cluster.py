# SPDX-License-Identifier: Apache-2.0
"""A throw-away Ashlar cluster on this machine, and volumes of it, by the project's own commands.

What is asked of them:
- deploy/local up --nodes N --dir DIR --store-size BYTES; deploy/local down --dir DIR; the files and the command
  line of the daemon of node K mention DIR/nodeK/;
- deploy/local start --dir DIR --node K starts a daemon that died; cut and mend --node K take its links away and
  give them back;
- ashlar volume create NAME BYTES --replicas N, volume delete NAME, attach NAME --json with a "uri", detach NAME,
  status --json with "healthy" (every member in sync) and "leader" (a node).

Failure modes: a command that fails, hangs or is missing raises BenchError, one line.
"""
import json
import os
import shutil
import subprocess
import time

import proc
from stacks import ROOT, BenchError, last_line, unix_path_of

BUILD = os.environ.get("ASHLAR_BUILD") or os.path.join(ROOT, "build")
COMMAND_DEADLINE_S = 60


class Cluster:
    """up() to down()."""

    def __init__(self, directory, nodes, store_bytes, own_links=False):
        self.directory, self.nodes, self.store_bytes = directory, nodes, store_bytes
        self.own_links = own_links  # each node in a network namespace: its links can be cut
        self.deploy_path = os.path.join(ROOT, "deploy", "local")
        self.up_called = False

    def run(self, *argv):
        """Runs a command of the project; its standard output."""
        shown = " ".join([os.path.basename(argv[0]), *argv[1:]])
        env = {**os.environ, "ASHLAR_DIR": self.directory, "ASHLAR_BUILD": BUILD,
               "PATH": f"{os.path.join(BUILD, 'bin')}:{os.environ.get('PATH', '')}"}
        program = shutil.which(argv[0], path=env["PATH"])
        if not program:
            raise BenchError(f"{argv[0]}: no such command; build the project first")
        try:
            done = subprocess.run([program, *argv[1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=COMMAND_DEADLINE_S, check=False, env=env)
        except subprocess.TimeoutExpired:
            raise BenchError(f"'{shown}' did not end in {COMMAND_DEADLINE_S} s") from None
        if done.returncode != 0:
            raise BenchError(f"'{shown}' failed: {last_line(done.stderr or done.stdout)}")
        return done.stdout

    def ashlar(self, *argv):
        return self.run("ashlar", *argv)

    def deploy(self, verb, *argv):
        return self.run(self.deploy_path, verb, "--dir", self.directory, *argv)

    def up(self):
        if not os.access(self.deploy_path, os.X_OK):
            raise BenchError("there is no deploy/local to bring up a cluster with")
        self.up_called = True
        self.deploy("up", "--nodes", str(self.nodes), "--store-size", str(self.store_bytes),
                    *(["--netns"] if self.own_links else []))

    def down(self):
        if self.up_called:
            self.up_called = False
            self.deploy("down")
            shutil.rmtree(self.directory, ignore_errors=True)

    def daemon_pid(self, node):
        pids = proc.pids_mentioning(f"{self.directory}/node{node}/", "ashlard")
        if not pids:
            raise BenchError(f"no ashlard of node {node} runs")
        return pids[0]

    def daemon_pids(self):
        """{"ashlard-K": pid} of those that run."""
        pids = {}
        for node in range(1, self.nodes + 1):
            for pid in proc.pids_mentioning(f"{self.directory}/node{node}/", "ashlard"):
                pids[f"ashlard-{node}"] = pid
        return pids

    def status(self):
        return json.loads(self.ashlar("status", "--json"))

    def wait_healthy(self, deadline_s=120):
        deadline = time.monotonic() + deadline_s
        while not self.status().get("healthy"):
            if time.monotonic() > deadline:
                raise BenchError(f"the cluster is not healthy after {deadline_s} s")
            time.sleep(0.1)

    def is_prewritten(self):
        """Whether every store is zeroed to its end: what is written before that pays for it, and no later day is like it."""
        for node in range(1, self.nodes + 1):
            stats = json.loads(self.ashlar("node", "info", str(node), "--json")).get("stats") or {}
            counters = stats.get("counters")
            if not counters or counters["bytes_prewritten"] < counters["bytes_total"]:
                return False
        return True

    def wait_idle(self, share=0.03, deadline_s=300, say=lambda text: None):
        """Waits until no daemon works in the background (prewriting its store, resync)."""
        deadline = time.monotonic() + deadline_s
        while not self.is_prewritten():
            if time.monotonic() > deadline:
                raise BenchError(f"the stores are not prewritten after {deadline_s} s")
            say("waiting for the stores to be prewritten")
            time.sleep(0.5)
        while time.monotonic() < deadline:
            meter = proc.CpuMeter(self.daemon_pids())
            time.sleep(1.0)
            busiest = max(meter.stop()[0].values(), default=0) / 1e6
            if busiest < share:
                return
            say(f"waiting for the daemons to settle ({busiest:.0%} of a core)")
        raise BenchError(f"the daemons are still busy after {deadline_s} s")


class AshlarVolume:
    """A volume of the cluster, attached on the node where the client runs; a stack of bench/micro."""

    def __init__(self, cluster, replicas, size_bytes):
        self.cluster, self.replicas, self.size_bytes = cluster, replicas, size_bytes
        self.name = f"ashlar-x{replicas}"
        self.volume = f"bench-x{replicas}"
        self.uri = None
        self.created = False
        self.needs_fill = True

    def start(self):
        self.cluster.ashlar("volume", "create", self.volume, str(self.size_bytes),
                            "--replicas", str(self.replicas))
        self.created = True
        answer = self.cluster.ashlar("attach", self.volume, "--json")
        try:
            self.uri = json.loads(answer)["uri"]
        except (ValueError, KeyError, TypeError):
            raise BenchError(f"'ashlar attach --json' printed no uri: {last_line(answer)}") from None

    def pids(self):
        path = unix_path_of(self.uri)
        plugin = {proc.name_of(pid): pid for pid in proc.listener_pids(path)} if path else {}
        return {**plugin, **self.cluster.daemon_pids()}

    def stop(self):
        if self.uri:
            self.uri = None
            self.cluster.ashlar("detach", self.volume)
        if self.created:
            self.created = False
            self.cluster.ashlar("volume", "delete", self.volume)
