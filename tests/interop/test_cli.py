# SPDX-License-Identifier: Apache-2.0
"""The ashlar command: exit codes, JSON of the promised shape, sentences, attachments as files."""
import json
import os
import re
import subprocess

import pytest
from nbd_cluster import MIB, ROOT, cluster, is_running, run, scratch, volume, wait_for  # noqa: F401

COMMANDS = ("status", "top", "node ls", "node info", "node out", "node remove", "volume create", "volume ls", "volume info",
            "volume rm", "volume resize", "volume set", "attach", "detach", "attachments ls", "session ls", "session close",
            "force-promote", "store check")
NUMBER = (int, float)


def check_shape(value, shape, where="answer"):
    """shape: a type, {key: shape}, or [shape of each item]."""
    if isinstance(shape, dict):
        assert isinstance(value, dict), where
        for key, inner in shape.items():
            assert key in value, f"{where}: no {key}"
            check_shape(value[key], inner, f"{where}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        for item in value:
            check_shape(item, shape[0], f"{where}[]")
    else:
        assert isinstance(value, shape) and not (shape is int and isinstance(value, bool)), f"{where}: {value!r}"


SESSION = {"open": bool, "number": int, "gateway": int, "read_only": bool, "attachment": str}
VOLUME = {"name": str, "id": int, "size": int, "shard_bytes": int, "shard_count": int, "replicas": int, "min_replicas": int,
          "home": int, "state": str, "degraded_shards": int, "unavailable_shards": int, "session": SESSION}
NODE = {"id": int, "state": str, "up": bool, "host": str, "rack": str, "data_address": str, "control_address": str,
        "members": int, "in_sync": int, "primaries": int}
STATUS = {"healthy": bool, "problems": [str], "cluster_id": str, "leader": int, "term": int, "map_version": int,
          "voters": [int], "nodes": [NODE], "volumes": {"total": int, "degraded": int, "unavailable": int},
          "shards": {"total": int, "degraded": int, "unavailable": int, "without_primary": int}, "sessions": int,
          "resync": {"replicas": int, "chunks_total": int, "chunks_done": int, "syncs": [dict]}}
SHARD = {"index": int, "primary": int, "epoch": int, "active_epoch": int, "loss_number": int,
         "members": [{"node": int, "in_sync": bool, "live": bool, "leaving": bool}]}
RATE = {"iops": float, "bytes_per_s": float, "mean_ns": int, "p99_ns_since_start": int}
STAGES = {"total": int, "gateway": int, "primary": int, "network": int, "drive": int}
TOP = {"seconds": NUMBER, "volumes": [{"name": str, "errors": int, "parked": int, "read": RATE, "write": RATE, "zero": RATE,
                                       "flush": RATE, "write_stages_mean_ns": STAGES}]}
ATTACHED = {"volume": str, "uri": str, "socket": str, "size": int, "pid": int, "read_only": bool, "qemu": str, "libvirt": str}
ATTACHMENTS = {"attachments": [{"volume": str, "uri": str, "socket": str, "pid": int, "read_only": bool, "connections": int,
                                "alive": bool}]}


# Goal: JSON keeps its shape; scripts live on it.
def test_json_has_the_promised_shape(cluster, volume):  # noqa: F811
    volume.qemu_io("write -P 1 0 1M")
    check_shape(volume.answer, ATTACHED)
    assert volume.answer["uri"] == f"nbd+unix:///?socket={volume.socket}"
    check_shape(cluster.status(), STATUS)
    check_shape(cluster.json("node", "ls"), {"nodes": [NODE]})
    check_shape(cluster.json("node", "info", "2"), {**NODE, "stats": {"counters": dict, "volumes": list, "syncs": list}})
    check_shape(cluster.json("volume", "ls"), {"volumes": [VOLUME]})
    info = cluster.json("volume", "info", volume.name)
    check_shape(info, {"volume": VOLUME, "shards": [SHARD]})
    assert [shard["index"] for shard in info["shards"]] == [0, 1, 2, 3]
    check_shape(cluster.json("session", "ls"), {"sessions": [{**SESSION, "name": str}]})
    check_shape(cluster.json("attachments", "ls"), ATTACHMENTS)
    check_shape(cluster.json("top", "--once"), TOP)


# Goal: every command tells what it is for, and the list of commands is complete.
def test_every_command_has_help(cluster):  # noqa: F811
    listed = cluster.ashlar("--help").stdout
    for command in COMMANDS:
        assert f"  {command} " in listed, command
        helped = cluster.ashlar(*command.split(), "--help").stdout
        assert helped.startswith(f"usage: ashlar {command} ")
    assert re.fullmatch(r"ashlar \d+\.\d+\.\d+\n", cluster.ashlar("--version").stdout)


# Goal: wrong usage is exit code 2, one line on stderr, nothing on stdout.
@pytest.mark.parametrize("argv, sentence", [
    ([], "no command"), (["frobnicate"], "no command 'frobnicate'"), (["volume", "mend"], "there is: volume create"),
    (["volume", "create", "x"], "arguments are missing"), (["status", "now"], "too many arguments: 'now'"),
    (["volume", "create", "x", "5k"], "write a multiple of 4096"), (["volume", "create", "x", "1G", "-r", "two"], "write a number"),
    (["status", "--chek"], "unknown option '--chek'"), (["top", "--interval"], "wants a value"),
    (["--timeout", "soon", "status"], "write a duration"), (["node", "info", "one"], "is no number of a node"),
    (["attach", "../x"], "is no name of a volume"), (["--cluster", "/no/such/file", "status"], "/no/such/file"),
    (["--colour", "blue", "status"], "always, never or auto"), (["volume", "set", "x"], "nothing to set")])
def test_wrong_usage_is_exit_code_2(cluster, argv, sentence):  # noqa: F811
    done = cluster.ashlar(*argv, status=2)
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


# Goal: what the cluster refuses is exit code 1 and its sentence.
@pytest.mark.parametrize("argv, sentence", [
    (["volume", "info", "nosuch"], "there is no volume named nosuch"),
    (["volume", "rm", "nosuch", "--yes"], "there is no volume named nosuch"),
    (["volume", "create", "x", "64M", "-r", "4"], "not enough nodes"),
    (["volume", "create", "x", "64M", "-r", "2", "-m", "3"], "min_replicas must be"),
    (["volume", "create", "_x", "64M"], "a name has letters"), (["node", "info", "77"], "there is no node 77"),
    (["node", "remove", "1", "--yes"], "the node is up"), (["detach", "nosuch"], "is not attached on this host"),
    (["session", "close", "nosuch", "--yes"], "there is no volume named nosuch")])
def test_refusals_are_exit_code_1(cluster, argv, sentence):  # noqa: F811
    done = cluster.ashlar(*argv, status=1)
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


# Goal: a cluster that does not answer is exit code 3, soon.
def test_unreachable_is_exit_code_3(cluster, scratch):  # noqa: F811
    conf = os.path.join(scratch, "cluster.conf")
    with open(conf, "w", encoding="ascii") as file:
        file.write(f"[client]\naddresses = unix:{scratch}/data.sock\n")
    done = cluster.ashlar("--cluster", conf, "status", status=3)
    assert f"unix:{scratch}/control.sock" in done.stderr
    done = cluster.ashlar("--cluster", conf, "--timeout", "1s", "attach", "x", status=3)
    assert "the cluster does not answer" in done.stderr
    assert cluster.json("attachments", "ls")["attachments"] == []


# Goal: status --check is for monitoring: 4 while a node is away, 0 when all is well; the screen says what to do.
def test_status_check_tells_a_degraded_cluster(cluster, volume):  # noqa: F811
    cluster.ashlar("status", "--check")
    cluster.local("kill", "--node", "3")
    wait_for(lambda: not cluster.status()["healthy"], "the loss of node 3 noticed")
    done = cluster.ashlar("status", "--check", status=4)
    wait_for(lambda: "node 3 is down" in cluster.ashlar("status").stdout, "node 3 shown as down")
    assert done.stdout.startswith("cluster ")
    assert "degraded" in cluster.ashlar("volume", "ls").stdout
    volume.qemu_io("write -P 1 0 1M", "flush")
    assert any("node 3 is down" in problem for problem in cluster.status()["problems"])
    cluster.local("start", "--node", "3")
    cluster.wait_healthy()
    cluster.ashlar("status", "--check")


# Goal: commands go on through a dead local node and a change of leader.
def test_commands_survive_a_change_of_leader(cluster):  # noqa: F811
    leader = cluster.status()["leader"]
    for node in sorted({1, leader}):
        cluster.local("kill", "--node", str(node))
        cluster.ashlar("volume", "create", f"while{node}gone", "16M", "--replicas", "2", "--home", "2" if node != 2 else "3")
        assert cluster.status()["leader"] != node
        cluster.local("start", "--node", str(node))
        cluster.wait_healthy()
        cluster.ashlar("volume", "rm", f"while{node}gone", "--yes")


# Goal: a volume's life: made, made again (refused), grown, changed, deleted.
def test_life_of_a_volume(cluster):  # noqa: F811
    name = cluster.make(32 * MIB, "--replicas", "2", "--home", "2")
    assert "exists" in cluster.ashlar("volume", "create", name, "32M", status=1).stderr
    info = cluster.json("volume", "info", name)
    assert (info["volume"]["replicas"], info["volume"]["home"], info["shards"][0]["primary"]) == (2, 2, 2)
    cluster.ashlar("volume", "resize", name, "48M")
    assert cluster.attach(name).size == 48 * MIB
    cluster.detach(name)
    assert "needs --shrink" in cluster.ashlar("volume", "resize", name, "16M", status=1).stderr
    cluster.ashlar("volume", "resize", name, "16M", "--shrink", "--yes")
    cluster.ashlar("volume", "set", name, "--replicas", "3", "--min-replicas", "1", "--home", "none")
    cluster.wait_healthy()
    volume = cluster.json("volume", "info", name)["volume"]  # noqa: F811
    assert (volume["size"], volume["replicas"], volume["min_replicas"], volume["home"]) == (16 * MIB, 3, 1, 0)
    cluster.clean()
    assert "there is no volume" in cluster.ashlar("volume", "info", name, status=1).stderr


# Goal: an attached volume is not deleted by mistake; --force deletes it and its client fails.
def test_attached_volumes_are_not_deleted(cluster, volume):  # noqa: F811
    assert "attached" in cluster.ashlar("volume", "rm", volume.name, "--yes", status=1).stderr
    volume.qemu_io("write -P 1 0 64k", "read -P 1 0 64k")
    cluster.ashlar("volume", "rm", volume.name, "--yes", "--force")
    cluster.volumes.remove(volume.name)
    wait_for(lambda: volume.qemu_io("read 0 64k", status=None).returncode != 0, "the client's failure")


# Goal: rm asks on a terminal, and takes anything but y for a no. Method: a pseudo terminal as stdin.
def test_rm_asks_on_a_terminal(cluster):  # noqa: F811
    name = cluster.make(16 * MIB)
    for answer, gone in (("n", False), ("y", True)):
        master, slave = os.openpty()
        process = subprocess.Popen(["ashlar", "volume", "rm", name], stdin=slave, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, env=cluster.env())
        os.write(master, f"{answer}\n".encode())
        errors = process.communicate(timeout=60)[1]
        os.close(master)
        os.close(slave)
        assert f"Delete volume {name} and all its data? [y/N]" in errors
        assert (process.returncode == 0) is gone
    cluster.volumes.remove(name)


# Goal: colour only where somebody looks at it.
def test_colour_is_for_terminals(cluster):  # noqa: F811
    assert "\x1b[" not in cluster.ashlar("status").stdout
    assert "\x1b[32mhealthy" in cluster.ashlar("--colour", "always", "status").stdout


# Goal: a session can be closed from outside: its client fails, the volume is free.
def test_session_close_fences_the_client(cluster, volume):  # noqa: F811
    volume.qemu_io("write -P 1 0 4k")
    assert volume.name in cluster.ashlar("session", "ls").stdout
    cluster.ashlar("session", "close", volume.name, "--yes")
    assert volume.name not in cluster.ashlar("session", "ls").stdout

    def refused():
        done = volume.qemu_io("write -P 2 0 4k", status=None)
        return "Operation not permitted" in done.stdout + done.stderr
    wait_for(refused, "the fence at the client's gateway")


# Goal: top sees the load. Method: writes go on while it looks.
def test_top_sees_writes(cluster, volume):  # noqa: F811
    writer = subprocess.Popen(["fio", "--aux-path=/tmp", "--name=w", "--ioengine=nbd", f"--uri={volume.uri}", "--rw=randwrite", "--bs=4k",
                               "--iodepth=4", "--size=16M", "--time_based", "--runtime=60", "--thread"], stdout=subprocess.DEVNULL)
    try:
        def busy():
            looked = cluster.json("top", "--once", volume.name)["volumes"]
            return [one for one in looked if one["write"]["iops"] > 0 and one["write_stages_mean_ns"]["drive"] > 0]
        row = wait_for(busy, "writes seen by top")[0]
        assert row["name"] == volume.name
        assert row["write"]["bytes_per_s"] >= 4096 * row["write"]["iops"] * 0.9
        assert row["write"]["mean_ns"] > 0
        shown = cluster.ashlar("top", "-n", "2", "--interval", "100ms").stdout
        assert shown.count("WRITE/s") == 2 and "DRIVE" in shown
    finally:
        writer.kill()
        writer.wait()


# Goal: only the process that attach started is ever signalled. Method: a pid file that names somebody else.
def test_detach_never_ends_another_process(cluster):  # noqa: F811
    volume = cluster.new(16 * MIB)  # noqa: F811
    directory = os.path.dirname(volume.socket)
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        with open(os.path.join(directory, "pid"), encoding="ascii") as file:
            kept = file.read()
        with open(f"/proc/{bystander.pid}/stat", encoding="ascii") as file:
            start = file.read().rsplit(")", 1)[1].split()[19]
        for forged in (f"{bystander.pid} {start}", f"{bystander.pid} {kept.split()[1]}"):
            with open(os.path.join(directory, "pid"), "w", encoding="ascii") as file:
                file.write(forged + "\n")
            assert [one["alive"] for one in cluster.json("attachments", "ls")["attachments"]] == [False]
        os.makedirs(directory, exist_ok=True)
        refused = cluster.ashlar("detach", volume.name, "--force", status=1)
        assert "had ended already" in refused.stderr
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
        os.kill(volume.pid, 15)
    wait_for(lambda: not is_running(volume.pid), "the end of nbdkit")
    cluster.attached.remove(volume.name)
    wait_for(lambda: not cluster.json("session", "ls")["sessions"], "the end of the session")
    cluster.clean()


# Goal: attaching twice is refused, a socket of one's own choice works, and nothing is left behind.
def test_attach_twice_and_elsewhere(cluster, scratch):  # noqa: F811
    name = cluster.make(16 * MIB)
    sock = os.path.join(scratch, "disk.sock")
    volume = cluster.attach(name, "--socket", sock)  # noqa: F811
    assert volume.socket == sock
    volume.qemu_io("write 0 4k")
    assert "is attached on this host already" in cluster.ashlar("attach", name, status=1).stderr
    cluster.detach(name)
    assert not os.path.exists(sock)
    assert not os.path.exists(os.path.join(cluster.dir, "run", "attach", name))
    cluster.clean()


# Goal: what attach prints for QEMU is a disk that QEMU opens. Method: qemu-img reads the blockdev's JSON form.
def test_qemu_line_opens(volume):  # noqa: F811
    words = volume.answer["qemu"].split(" ")
    assert words[0] == "-blockdev"
    options = dict(word.split("=", 1) for word in words[1].split(","))
    assert options["driver"] == "nbd"
    pseudo = {"driver": "raw", "file": {"driver": "nbd", "server": {"type": "unix", "path": options["server.path"]}}}
    info = json.loads(run("qemu-img", "info", "--output=json", "json:" + json.dumps(pseudo)).stdout)
    assert info["virtual-size"] == 64 * MIB
    assert "logical_block_size=4096" in volume.answer["qemu"] and f"socket='{volume.socket}'" in volume.answer["libvirt"]


# Goal: the word that commands share tells them; what is wrong with a name is told in one line that is about it.
def test_words_for_beginners(cluster, scratch):
    told = cluster.ashlar("snapshot", "--help").stdout
    assert all(f"  snapshot {verb} " in told for verb in ("create", "ls", "rm", "rollback", "diff")) and "volume create" not in told
    assert "there is: snapshot create" in cluster.ashlar("snapshot", status=2).stderr
    assert "no command" in cluster.ashlar("nosuch", "--help", status=2).stderr
    name = cluster.make(16 * MIB)
    cluster.ashlar("snapshot", "create", f"{name}@s")
    stream = os.path.join(scratch, "stream")
    cluster.ashlar("export", f"{name}@s", stream)
    wrong = (
        (1, ("volume", "create", "a@b", "16M"), "'a@b': a name has letters"),
        (2, ("snapshot", "create", f"{name}@{'x' * 64}"), "too long: at most 63"),
        (1, ("attach", f"{name}@nosuch"), f"there is no snapshot '{name}@nosuch'; see: ashlar snapshot ls {name}"),
        (1, ("import", stream, name), "--overwrite writes it anew, --resume goes on"),
        (1, ("volume", "resize", name, "4M"), "needs --shrink"),
    )
    for status, words, sentence in wrong:
        said = cluster.ashlar(*words, status=status).stderr
        assert sentence in said and said.count("\n") == 1, said
    cluster.ashlar("clone", f"{name}@s", f"{name}clone")
    assert f"parent        {name}@s\n" in cluster.ashlar("volume", "info", f"{name}clone").stdout
    assert "snapshots     1\n" in cluster.ashlar("volume", "info", name).stdout
    cluster.ashlar("volume", "rm", f"{name}clone", "--yes")
    again = cluster.ashlar("import", stream, f"{name}new", "--overwrite")
    assert again.stderr == ""
    cluster.ashlar("volume", "rm", f"{name}new", "--yes")
    cluster.clean()


# Goal: the store checker is reachable: a stopped node's store is sound, a folder that is no store is told apart.
def test_store_check_runs_ashlard(cluster, scratch):  # noqa: F811
    assert cluster.ashlar("store", "check", scratch, status=2).stderr.strip()
    cluster.local("stop", "--node", "3")
    store = os.path.join(cluster.dir, "node3", "store")
    assert isinstance(json.loads(cluster.ashlar("store", "check", store, "--json").stdout), dict)
    cluster.ashlar("store", "check", "--digest", store)
    cluster.local("start", "--node", "3")
    cluster.wait_healthy()


def options_of(helped):
    return set(re.findall(r"(--[a-z-]+)[= ]", helped))


# Goal: manual and completion do not lag behind the program.
def test_manual_and_completion_know_every_command(cluster):  # noqa: F811
    with open(os.path.join(ROOT, "docs", "man", "ashlar.1.in"), encoding="utf-8") as file:
        manual = re.sub(r"\\", "", file.read())
    with open(os.path.join(ROOT, "deploy", "completion", "ashlar"), encoding="utf-8") as file:
        completion = file.read()
    for command in COMMANDS:
        assert re.search(rf"^\.It Cm {command}\b", manual, re.M), command
        assert all(word in completion for word in command.split()), command
        for option in options_of(cluster.ashlar(*command.split(), "--help").stdout):
            name = option[2:]
            assert f"Fl -{name}" in manual or f", -{name}" in manual, f"{command} {option}"


def complete(cluster, line):  # noqa: F811
    """What bash offers behind line."""
    words = line.split(" ")
    script = ('source "$0"; COMP_WORDS=("${@}"); COMP_CWORD=$(($# - 1)); _ashlar ashlar "${COMP_WORDS[-1]}" '
              '"${COMP_WORDS[-2]}"; printf "%s\\n" "${COMPREPLY[@]}"')
    path = os.path.join(ROOT, "deploy", "completion", "ashlar")
    return set(run("bash", "-c", script, path, *words, env=cluster.env()).stdout.split())


# Goal: bash completes commands, options and the names that exist.
def test_completion_completes(cluster, volume):  # noqa: F811
    assert complete(cluster, "ashlar st") == {"status", "store"}
    assert complete(cluster, "ashlar volume r") == {"rm", "resize"}
    assert "--min-replicas" in complete(cluster, "ashlar volume create --")
    assert "--check" in complete(cluster, "ashlar status --c")
    assert volume.name in complete(cluster, "ashlar volume info ")
    assert complete(cluster, "ashlar detach ") == {volume.name}
    assert complete(cluster, "ashlar node info ") == {"1", "2", "3"}
