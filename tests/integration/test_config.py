# SPDX-License-Identifier: Apache-2.0
"""What ashlard says to a wrong command line or configuration: one line, what and where and what to do; 1 or 2."""
import subprocess

import pytest
from conftest import program

GOOD = {"cluster.name": "test", "cluster.voter[]": "1@127.0.0.1:7102,127.0.0.1:7101", "node.id": "1",
        "node.data": "127.0.0.1:7100", "node.control": "127.0.0.1:7101", "store.path": "/nonexistent/store"}


def run(*argv):
    return subprocess.run([program("ashlard"), *argv], capture_output=True, text=True, timeout=60, check=False,
                          stdin=subprocess.DEVNULL)


def write_config(path, changes):
    sections = {}
    for key, value in {**GOOD, **changes}.items():
        if value is not None:
            section, name = key.split(".", 1)
            sections.setdefault(section, []).extend(
                f"{name} = {one}" for one in (value if isinstance(value, list) else [value]))
    path.write_text("".join(f"[{s}]\n" + "\n".join(lines) + "\n" for s, lines in sections.items()))


# Goal: each mistake is named with its place. Method: one wrong entry in a good configuration.
@pytest.mark.parametrize("changes, words", [
    ({"cluster.name": None}, ["cluster", "name"]),
    ({"node.id": None}, ["node", "id"]),
    ({"node.id": "0"}, ["ashlard.conf:", "id"]),
    ({"node.id": "257"}, ["ashlard.conf:", "id"]),
    ({"node.id": "one"}, ["ashlard.conf:", "one"]),
    ({"node.data": "localhost"}, ["node.data", "localhost", "HOST:PORT"]),
    ({"node.data": "127.0.0.1:0"}, ["node.data", "HOST:PORT"]),
    ({"node.data": "127.0.0.1:99999"}, ["node.data", "HOST:PORT"]),
    ({"node.data": "::1:7100"}, ["node.data", "HOST:PORT"]),
    ({"node.control": "127.0.0.1:7100"}, ["node.control", "its own port"]),
    ({"cluster.voter[]": []}, ["voter", "1, 3 or 5"]),
    ({"cluster.voter[]": ["1@a:1,a:2", "2@b:1,b:2"]}, ["2 voters", "1, 3 or 5"]),
    ({"cluster.voter[]": ["1@a:1,a:2", "1@b:1,b:2", "3@c:1,c:2"]}, ["node 1", "twice"]),
    ({"cluster.voter[]": "1@127.0.0.1:7102"}, ["ashlard.conf:", "voter"]),
    ({"cluster.voter[]": "one@127.0.0.1:7102,127.0.0.1:7101"}, ["ashlard.conf:", "voter"]),
    ({"cluster.lease": "1200ms"}, ["cluster.lease", "node_timeout"]),
    ({"cluster.heartbeat": "500ms"}, ["cluster.heartbeat", "lease"]),
    ({"cluster.node_timeout": "soon"}, ["ashlard.conf:", "node_timeout"]),
    ({"cluster.shard_bytes": "17M"}, ["shard_bytes", "16M"]),
    ({"memory.buffers": "1M"}, ["ashlard.conf:", "buffers"]),
    ({"store.near_full": "100"}, ["ashlard.conf:", "near_full"]),
    ({"log.level": "loud"}, ["log.level", "loud", "debug"]),
    ({"log.file": "/nonexistent/log"}, ["log.file", "/nonexistent/log"]),
    ({"node.colour": "red"}, ["ashlard.conf:", "colour"]),
    ({"nod.id": "1"}, ["ashlard.conf:", "nod"]),
])
def test_a_mistake_is_named(tmp_path, changes, words):
    path = tmp_path / "ashlard.conf"
    write_config(path, changes)
    done = run("--config", str(path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_a_missing_file_is_named(tmp_path):
    done = run("--config", str(tmp_path / "none.conf"))
    assert done.returncode == 1
    assert "none.conf" in done.stderr and done.stderr.count("\n") == 1


# Goal: flags win over the file, and are checked like it.
def test_a_flag_is_checked_like_the_file(tmp_path):
    path = tmp_path / "ashlard.conf"
    write_config(path, {})
    done = run("--config", str(path), "--node.id=0")
    assert done.returncode == 1 and "node.id" in done.stderr


# Goal: a store that is not there is said so, with the command that makes one.
def test_a_missing_store_names_the_command(tmp_path):
    path = tmp_path / "ashlard.conf"
    write_config(path, {})
    done = run("--config", str(path))
    assert done.returncode == 1
    assert "ashlard store format /nonexistent/store" in done.stderr


@pytest.mark.parametrize("argv", [[], ["--config"], ["--nonsense"], ["serve"], ["--config", "x", "y"], ["store"],
                                  ["store", "mend"], ["store", "format"], ["store", "format", "d", "--node", "1"],
                                  ["store", "format", "d", "--node", "0", "--cluster", "c", "--size", "1G"],
                                  ["store", "format", "d", "--node", "1", "--cluster", "c", "--size", "much"],
                                  ["store", "format", "d", "--node", "1", "--cluster", "c"]])
def test_a_wrong_command_line_shows_the_usage(argv):
    done = run(*argv)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_help_names_every_section():
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    for word in ("cluster", "voter", "node", "store", "replica", "memory", "log", "store format"):
        assert word in done.stdout


def test_version():
    done = run("--version")
    assert done.returncode == 0 and done.stdout.startswith("ashlard ")


# Goal: formatting refuses what it would destroy. Method: twice; then with --force.
def test_format_does_not_overwrite(tmp_path):
    argv = ["store", "format", str(tmp_path / "s"), "--node", "1", "--cluster", "c", "--size", "256M"]
    assert run(*argv).returncode == 0
    again = run(*argv)
    assert again.returncode == 1 and "--force" in again.stderr
    assert run(*argv, "--force").returncode == 0
