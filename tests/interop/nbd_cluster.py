# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the interop tests: a cluster made by deploy/local, volumes attached by `ashlar attach`.

A test module imports the fixtures it uses; each module gets a cluster of its own. The build is found in $ASHLAR_BUILD.
Whatever happens, the cluster goes down, with every nbdkit that `ashlar attach` started.
"""
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("ASHLAR_BUILD") or os.path.join(ROOT, "build"))
PLUGIN = os.path.join(BUILD, "lib", "nbdkit-ashlar-plugin.so")
DEADLINE_S = 120.0  # a hang guard, never a measure
MIB = 1 << 20


def sanitizer_preload():
    """A plugin built with AddressSanitizer needs its runtime in nbdkit, too, which was built without."""
    symbols = subprocess.run(["nm", "-D", PLUGIN], capture_output=True, text=True, check=False).stdout
    if "__asan_init" not in symbols:
        return {}
    libraries = [subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True,
                                check=True).stdout.strip() for name in ("libasan.so", "libubsan.so")]
    return {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}


def run(*argv, env=None, status=0, deadline_s=DEADLINE_S, **more):
    """Runs a program; its result. status None: any."""
    done = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False, timeout=deadline_s, env=env, **more)
    shown = " ".join(str(word) for word in argv)
    assert status is None or done.returncode == status, \
        f"'{shown}' ended with {done.returncode}, not {status}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done


def wait_for(condition, what, deadline_s=DEADLINE_S):
    """Polls until the condition gives something true, which is returned."""
    deadline = time.monotonic() + deadline_s
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"waited {deadline_s:.0f} s in vain: {what}"
        time.sleep(0.05)


def is_running(pid):
    """A zombie runs no more."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def text_of(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


class Served:
    """What nbdkit() gives: output and status of the script, and what nbdkit said."""

    def __init__(self, returncode, stdout, stderr):
        self.returncode, self.stdout, self.stderr = returncode, stdout, stderr


def nbdkit(*argv, script, status=0, env=None):
    """Runs a shell script while nbdkit serves; the script finds $uri and $unixsocket.

    A sanitizer that is preloaded into nbdkit makes the C library hang in exit() once an error was told (by any plugin):
    then, if errors are expected (status None), nbdkit is killed instead of told to end.
    """
    preload = sanitizer_preload()
    with tempfile.TemporaryDirectory(prefix="ash-kit-") as directory:
        sock, words = os.path.join(directory, "sock"), os.path.join(directory, "stderr")
        with open(words, "w", encoding="utf-8") as stderr:
            process = subprocess.Popen(["nbdkit", "-f", "-U", sock, *argv], stdin=subprocess.DEVNULL, stderr=stderr,
                                       env={**os.environ, **preload, **(env or {})})
        done = None
        try:
            wait_for(lambda: os.path.exists(sock) or process.poll() is not None or (preload and "error:" in text_of(words)),
                     "nbdkit's socket")
            if os.path.exists(sock) and process.poll() is None:
                done = run("sh", "-c", script, status=None,
                           env={**os.environ, "uri": f"nbd+unix:///?socket={sock}", "unixsocket": sock})
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL if preload and status is None else signal.SIGTERM)
            ended = process.wait(DEADLINE_S)
        said = text_of(words)
    assert "ssertion" not in said and "ERROR: AddressSanitizer" not in said and "runtime error" not in said, said
    served = Served(done.returncode if done else ended, done.stdout if done else "", said + (done.stderr if done else ""))
    assert status is None or served.returncode == status, f"{served.returncode}: {served.stdout}{served.stderr}"
    return served


class Attached:
    """A volume on a socket of this host."""

    def __init__(self, cluster, name, answer):
        self.cluster, self.name, self.uri = cluster, name, answer["uri"]
        self.socket, self.pid, self.size, self.answer = answer["socket"], answer["pid"], answer["size"], answer

    def qemu_io(self, *commands, status=0, options=()):
        words = [word for command in commands for word in ("-c", command)]
        return run("qemu-io", *options, "-f", "raw", *words, self.uri, status=status)

    def extents(self):
        """[(offset, length, type)] as nbdinfo tells."""
        entries = json.loads(run("nbdinfo", "--map", "--json", self.uri).stdout)
        return [(entry["offset"], entry["length"], entry["type"]) for entry in entries]

    def types_at(self, offset, length):
        return {kind for at, size, kind in self.extents() if at < offset + length and offset < at + size}


class Cluster:
    """Three nodes of deploy/local, and the command line on them."""

    def __init__(self, directory, *settings):
        self.dir, self.count, self.attached, self.volumes = directory, 0, [], []
        words = [word for setting in settings for word in ("--set", setting)]
        self.local("up", "--nodes", "3", "--store-size", "1500M", *words)

    def local(self, verb, *argv):
        return run(os.path.join(ROOT, "deploy", "local"), verb, "--dir", self.dir, *argv, env=self.env())

    def env(self):
        env = {key: value for key, value in os.environ.items() if not key.startswith("ASHLAR_")}
        env["PATH"] = f"{os.path.join(BUILD, 'bin')}:{env.get('PATH', '')}"
        return {**env, "ASHLAR_DIR": self.dir, "ASHLAR_BUILD": BUILD}

    def ashlar(self, *argv, status=0, env=None):
        """The command's result."""
        preload = sanitizer_preload() if "attach" in argv else {}
        return run("ashlar", *argv, status=status, env={**self.env(), **preload, **(env or {})})

    def json(self, *argv, status=0):
        return json.loads(self.ashlar(*argv, "--json", status=status).stdout)

    def make(self, size=64 * MIB, *options):
        """Shards of 16 MiB, so that a small volume has several."""
        self.count += 1
        name = f"t{self.count}"
        self.ashlar("volume", "create", name, size, "--shard-size", "16M", *options)
        self.volumes.append(name)
        return name

    def attach(self, name, *options):
        volume = Attached(self, name, self.json("attach", name, *options))
        self.attached.append(name)
        return volume

    def detach(self, name):
        self.attached.remove(name)
        self.ashlar("detach", name)

    def new(self, size=64 * MIB, *options):
        """A volume, made and attached."""
        return self.attach(self.make(size, *options))

    def clean(self):
        for name in self.attached:
            self.ashlar("detach", name, "--force", status=None)
        for name in self.volumes:
            self.ashlar("volume", "rm", name, "--yes", "--force", status=None)
        self.attached, self.volumes = [], []

    def status(self):
        return self.json("status")

    def wait_healthy(self):
        wait_for(lambda: self.status()["healthy"], "every replica in sync")


@contextlib.contextmanager
def running_cluster(*settings):
    directory = tempfile.mkdtemp(prefix="ash-nbd-", dir=os.environ.get("ASHLAR_TEST_DIR") or "/tmp")
    made = None
    try:
        made = Cluster(directory, *settings)
        yield made
        made.clean()
        assert made.json("attachments", "ls")["attachments"] == []
    finally:
        if made:
            made.clean()
        run(os.path.join(ROOT, "deploy", "local"), "down", "--dir", directory, status=None)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster():
    with running_cluster("store.prewrite=0") as made:
        yield made


@pytest.fixture
def volume(cluster):  # pylint: disable=redefined-outer-name
    """A volume of four shards, attached; gone afterwards."""
    yield cluster.new(64 * MIB)
    cluster.clean()


@pytest.fixture
def scratch():
    """A directory for files of the test's size."""
    directory = tempfile.mkdtemp(prefix="ash-scratch-", dir=os.environ.get("ASHLAR_TEST_DIR") or "/tmp")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def random_file(directory, name, size):
    path = os.path.join(directory, name)
    with open(path, "wb") as file:
        file.write(os.urandom(size))
    return path
