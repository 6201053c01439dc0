# SPDX-License-Identifier: Apache-2.0
"""Fixtures: clusters of real daemons on loopback, and clients of their volumes.

What is used: deploy/local as a module (addresses, formatting, processes), wire.py for the admin protocol, volume_io for data.
The build is found in $ASHLAR_BUILD. Whatever happens, a test ends without its processes and its files; logs of a test that failed
are kept in $ASHLAR_BUILD/logs/integration.
"""
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.machinery import SourceFileLoader

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import wire  # noqa: E402  pylint: disable=wrong-import-position

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("ASHLAR_BUILD") or os.path.join(ROOT, "build"))
DEADLINE_S = 90.0  # a hang guard, never a measure


def _load_local():
    loader = SourceFileLoader("deploy_local", os.path.join(ROOT, "deploy", "local"))
    spec = importlib.util.spec_from_loader("deploy_local", loader)
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


local = _load_local()


def program(name):
    path = os.path.join(BUILD, "bin", name)
    assert os.access(path, os.X_OK), f"{path} is missing: build the project, or set ASHLAR_BUILD"
    return path


def wait_for(condition, what, deadline_s=DEADLINE_S):
    """Polls until the condition gives something true, which is returned."""
    deadline = time.monotonic() + deadline_s
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"waited {deadline_s:.0f} s in vain: {what}"
        time.sleep(0.05)


class Volume:
    """A volume_io process with a volume attached: call() sends one line and waits for its answer."""

    def __init__(self, conf, name, mode=None):
        argv = [program("volume_io"), conf, name] + ([mode] if mode else [])
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        text=True, bufsize=1)
        self.opened = self.answer()

    def send(self, line):
        self.process.stdin.write(line + "\n")

    def answer(self):
        return self.process.stdout.readline().strip()

    def call(self, line):
        self.send(line)
        return self.answer()

    def ok(self, line):
        answer = self.call(line)
        assert answer.split(" ")[0] == "ok", f"{line}: {answer}"
        return dict(word.split("=", 1) for word in answer.split(" ") if "=" in word)

    def finish(self, line):
        """Waits for the answer of a line that was sent before, which must be ok."""
        answer = self.answer()
        assert answer.split(" ")[0] == "ok", f"{line}: {answer}"
        return dict(word.split("=", 1) for word in answer.split(" ") if "=" in word)

    def close(self):
        """Detaches; the exit status."""
        self.process.stdin.close()
        return self.process.wait(DEADLINE_S)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)


class Options:
    """What deploy/local's command line would give."""

    def __init__(self, directory, nodes, size, settings, name, netns):
        self.dir, self.build, self.nodes, self.store_size, self.name = directory, BUILD, nodes, size, name
        self.netns, self.rate, self.set = netns, None, [f"{key}={value}" for key, value in settings.items()]


class Cluster:
    """Nodes numbered from 1; formatted, not started."""

    def __init__(self, directory, nodes, size, settings, name, netns=False):
        os.makedirs(directory, exist_ok=True)
        options = Options(directory, nodes, size, settings, name, netns)
        self.dir, self.volumes, self.paused, self.cut_off = directory, [], set(), set()
        self.local = local.Cluster(options)
        try:
            self.local.create(options)
        except BaseException:
            self.local.network.remove()
            raise
        self.conf = self.local.conf
        self.nodes = {node.id: node for node in self.local.nodes}

    def start(self, *numbers):
        for number in numbers or self.nodes:
            self.nodes[number].start(program("ashlard"))

    def up(self):
        self.start()
        return self.wait_up()

    def kill9(self, *numbers):
        for number in numbers or self.nodes:
            self.nodes[number].signal(signal.SIGKILL)
        for number in numbers or self.nodes:
            self.wait_exit(number)

    def wait_exit(self, number):
        """The exit status of a daemon that was told to end, or ended by itself; negative: the signal."""
        return self.nodes[number].process.wait(DEADLINE_S)

    def terminate(self, *numbers):
        for number in numbers or self.nodes:
            self.nodes[number].signal(signal.SIGTERM)
        return {number: self.wait_exit(number) for number in numbers or self.nodes}

    def pause(self, number):
        self.paused.add(number)
        self.nodes[number].signal(signal.SIGSTOP)

    def resume(self, number):
        self.nodes[number].signal(signal.SIGCONT)
        self.paused.discard(number)

    def cut(self, number, way="both"):
        """Takes a node's link away: what it would receive, what it would send, or both. Of clusters in namespaces."""
        self.cut_off.add(number)
        self.local.network.cut(number, way)

    def mend(self, number):
        self.local.network.mend(number, None)
        self.cut_off.discard(number)

    def conf_at(self, number):
        """A client's configuration on the host of that node: its socket first, then the others."""
        path = os.path.join(self.dir, f"client{number}.conf")
        others = [f"tcp:{node.address('data')}" for node in self.nodes.values() if node.id != number]
        with open(path, "w", encoding="utf-8") as file:
            file.write("[client]\naddresses = " + ",".join([f"unix:{self.socket_path(number, 'data.sock')}", *others]) + "\n")
        return path

    def log(self, number):
        with open(self.nodes[number].log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def control_address(self, number):
        return f"tcp:{self.nodes[number].address('control')}"

    def data_address(self, number):
        return f"tcp:{self.nodes[number].address('data')}"

    def socket_path(self, number, name):
        return os.path.join(self.nodes[number].run, name)

    def ask(self, op, number=None, **arguments):
        """An admin request to one node, or to whichever answers it; None: nobody does."""
        for one in [number] if number else [n for n in self.nodes if n not in self.paused | self.cut_off]:
            try:
                answer = wire.admin(self.control_address(one), op, **arguments)
            except (OSError, wire.Closed):
                continue
            if answer.get("ok") or number:
                return answer
        return None

    def admin(self, op, **arguments):
        """A request that must be granted in the end."""
        return wait_for(lambda: self.ask(op, **arguments), f"{op} {arguments}")

    def up_nodes(self):
        status = self.ask("status")
        return {node["id"] for node in status["nodes"] if node["state"] == "up"} if status else set()

    def is_registered(self, number):
        """In this very life, and the cluster knows."""
        ping = self.ask("ping", number)
        status = ping and ping.get("registered") and self.ask("status")
        return status and any(n["id"] == number and n["state"] == "up" and n["incarnation"] == ping["incarnation"]
                              for n in status["nodes"])

    def wait_up(self, *numbers):
        wanted = set(numbers or self.nodes)

        def all_up():
            for number in wanted:
                assert self.nodes[number].pid(), f"node {number} ended: {self.nodes[number].last_words()}"
            return all(self.is_registered(number) for number in wanted)
        wait_for(all_up, f"nodes {wanted} up")

    def wait_down(self, number):
        wait_for(lambda: number not in self.up_nodes(), f"node {number} noticed to be down")

    def healthy(self):
        status = self.ask("status")
        shards = status["shards"] if status else None
        return shards and shards["degraded"] == 0 and shards["unavailable"] == 0 and \
            self.up_nodes() == set(self.nodes)

    def wait_healthy(self):
        wait_for(self.healthy, "every member of every shard in sync")

    def make_volume(self, name, size, replicas, home=0, **arguments):
        self.admin("volume-create", name=name, size=size, replicas=replicas, home=home, **arguments)

    def attach(self, name, mode=None, conf=None):
        volume = Volume(conf or self.conf, name, mode)
        self.volumes.append(volume)
        assert volume.opened == "ok", volume.opened
        return volume

    def in_sync(self, name):
        """{shard: set of nodes}"""
        answer = self.admin("volume-info", name=name)
        return {shard["index"]: {m["node"] for m in shard["members"] if m["in_sync"]} for shard in answer["shards"]}

    def end(self):
        for volume in self.volumes:
            volume.kill()
        for node in self.nodes.values():
            node.signal(signal.SIGCONT)
            node.signal(signal.SIGKILL)
        for node in self.nodes.values():
            if node.process:
                node.process.wait(DEADLINE_S)
        if self.local.state["netns"]:
            self.local.network.remove()

    def crashes(self):
        """Lines that no daemon may ever write."""
        bad = re.compile(r"Assertion|ERROR: AddressSanitizer|runtime error:|LeakSanitizer|WARNING: ThreadSanitizer")
        return [f"node {number}: {line}" for number in self.nodes if os.path.exists(self.nodes[number].log)
                for line in self.log(number).split("\n") if bad.search(line)]


def _mentioning(path):
    """Processes whose command line names the directory."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if path.encode() in file.read():
                    found.append(int(pid))
        except OSError:
            continue
    return found


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    report = outcome.get_result()
    setattr(item, f"report_{report.when}", report)


def _keep_logs(request, clusters):
    kept = os.path.join(BUILD, "logs", "integration", re.sub(r"[^\w.-]", "_", request.node.name))
    shutil.rmtree(kept, ignore_errors=True)
    os.makedirs(kept)
    for index, cluster in enumerate(clusters):
        for number, node in cluster.nodes.items():
            if os.path.exists(node.log):
                shutil.copy(node.log, os.path.join(kept, f"cluster{index}-node{number}.log"))


@pytest.fixture
def make_cluster(request):
    """A function that makes clusters; all of them are taken down, and none may have crashed."""
    clusters = []
    directory = tempfile.mkdtemp(prefix="ash-", dir=os.environ.get("ASHLAR_TEST_DIR") or "/tmp")

    def make(nodes=1, size="512M", settings=None, name="test", netns=False):
        settings = {"store.prewrite": "0", **(settings or {})}
        clusters.append(Cluster(os.path.join(directory, f"c{len(clusters)}"), nodes, size, settings, name, netns))
        return clusters[-1]

    yield make
    for cluster in clusters:
        cluster.end()
    crashes = [line for cluster in clusters for line in cluster.crashes()]
    report = getattr(request.node, "report_call", None)
    if crashes or (report and report.failed):
        _keep_logs(request, clusters)
    shutil.rmtree(directory, ignore_errors=True)
    assert not crashes, crashes[0]
    assert not _mentioning(directory), "processes were left behind"


@pytest.fixture
def cluster1(make_cluster):
    cluster = make_cluster(1)
    cluster.up()
    return cluster


@pytest.fixture
def cluster3(make_cluster):
    cluster = make_cluster(3)
    cluster.up()
    return cluster
