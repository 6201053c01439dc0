# SPDX-License-Identifier: Apache-2.0
"""deploy/local, as a person uses it: by its command line."""
import json
import os
import shutil
import subprocess
import tempfile

import pytest
from conftest import BUILD, ROOT, local, program, wait_for

LOCAL = os.path.join(ROOT, "deploy", "local")


@pytest.fixture
def run():
    """A function that runs deploy/local on a directory of its own; whatever it made is taken down."""
    directory = tempfile.mkdtemp(prefix="ash-local-", dir="/tmp")
    os.rmdir(directory)

    def call(*argv, status=0):
        done = subprocess.run([LOCAL, *argv, "--dir", directory, "--build", BUILD], capture_output=True, text=True,
                              timeout=180, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    call.directory = directory
    yield call
    call("down")
    assert not os.path.exists(directory)


def status_of(run):
    done = subprocess.run([program("ashlar"), "--cluster", os.path.join(run.directory, "cluster.conf"), "status", "--json"],
                          capture_output=True, text=True, timeout=60, check=False)
    return json.loads(done.stdout) if done.stdout else {}


def nodes_up(run):
    return {node["id"] for node in status_of(run).get("nodes", []) if node["state"] == "up"}


# Goal: several at once on one directory wait for each other, and leave no lock behind. Method: TMPDIR, which holds the lock, is their own.
def test_at_once_on_one_directory(run, tmp_path):
    argv = [LOCAL, "up", "--nodes", "1", "--store-size", "256M", "--dir", run.directory, "--build", BUILD]
    started = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                env={**os.environ, "TMPDIR": str(tmp_path)}) for _ in range(4)]
    for process in started:
        said, _ = process.communicate(timeout=180)
        assert process.returncode == 0, said
    assert os.listdir(tmp_path) == []
    assert nodes_up(run) == {1}


# Goal: from nothing to a cluster and back, each step twice where that should not matter.
def test_a_cluster_from_up_to_down(run):
    report = json.loads(run("up", "--nodes", "3", "--store-size", "256M", "--json").stdout)
    assert [node["running"] for node in report["nodes"]] == [True] * 3
    assert status_of(run)["healthy"] is True
    run("up", "--nodes", "3")
    again = json.loads(run("status", "--json").stdout)
    assert [node["pid"] for node in again["nodes"]] == [node["pid"] for node in report["nodes"]]
    assert f"export ASHLAR_DIR={run.directory}\n" in run("env").stdout
    run("kill-node", "--node", "2")
    wait_for(lambda: nodes_up(run) == {1, 3}, "node 2 down")
    run("start", "--node", "2")
    run("start", "--node", "2")
    wait_for(lambda: nodes_up(run) == {1, 2, 3}, "node 2 up")
    run("restart-node", "--node", "1")
    wait_for(lambda: nodes_up(run) == {1, 2, 3}, "node 1 up")
    run("stop")
    assert not any(node["running"] for node in json.loads(run("status", "--json").stdout)["nodes"])
    run("up")
    assert nodes_up(run) == {1, 2, 3}
    run("down")
    run("down")


def test_mistakes_are_one_line(run):
    for argv in (["status"], ["start", "--node", "1"], ["env"]):
        done = run(*argv, status=1)
        assert done.stderr.count("\n") == 1 and "deploy/local up" in done.stderr
    assert run("up", "--nodes", "0", status=1).stderr.count("\n") == 1
    assert run("up", "--set", "nonsense", status=1).stderr.count("\n") == 1


# Goal: what a node says when it cannot start reaches the person. Method: a setting that it refuses.
def test_up_repeats_what_the_node_said(run):
    done = run("up", "--nodes", "1", "--store-size", "256M", "--set", "cluster.lease=5s", status=1)
    assert "cluster.lease" in done.stderr
    assert not os.path.exists(run.directory)


def namespaces(directory):
    """Those of this cluster."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    return listed.count(f"ashlar-{local.Network(directory).tag}-")


# Goal: links can be cut and mended. Method: a node in a namespace of its own is down when cut, up when mended; nothing is left.
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="namespaces need root and iproute2")
def test_a_cut_link_and_a_mended_one(run):
    run("up", "--nodes", "3", "--store-size", "256M", "--netns", "--rate", "10gbit")
    assert namespaces(run.directory) == 3
    run("cut", "--node", "2")
    wait_for(lambda: nodes_up(run) == {1, 3}, "node 2 down")
    run("mend", "--node", "2")
    wait_for(lambda: nodes_up(run) == {1, 2, 3}, "node 2 up")
    run("down")
    assert namespaces(run.directory) == 0


def test_a_cut_needs_namespaces(run):
    run("up", "--nodes", "1", "--store-size", "256M")
    assert "--netns" in run("cut", "--node", "1", status=1).stderr
