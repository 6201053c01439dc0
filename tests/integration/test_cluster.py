# SPDX-License-Identifier: Apache-2.0
"""Daemons come up, find each other, survive each other, and end in order."""
import os
import signal

import pytest
from conftest import wait_for

MIB = 1 << 20


# Goal: the smallest cluster serves. Method: one node, status over TCP and over its unix socket.
def test_one_node_comes_up(cluster1):
    import wire
    for address in (cluster1.control_address(1), "unix:" + cluster1.socket_path(1, "control.sock")):
        status = wire.admin(address, "status")
        assert status["ok"] and status["leader"] == 1
        assert [node["state"] for node in status["nodes"]] == ["up"]


# Goal: three voters agree on one map. Method: each of them is asked; versions meet.
def test_three_nodes_come_up_and_agree(cluster3):
    def agree():
        answers = [cluster3.ask("status", number) for number in cluster3.nodes]
        return len({(a["leader"], a["map_version"]) for a in answers if a and a["ok"]}) == 1 and \
            all(a and a["ok"] for a in answers)
    wait_for(agree, "one leader and one version at all nodes")


# Goal: nodes beyond the voters take part. Method: five nodes have three voters; all five are up.
def test_nodes_that_do_not_vote_take_part(make_cluster):
    cluster = make_cluster(5)
    cluster.up()
    status = cluster.admin("status")
    assert len(status["voters"]) == 3 and len(status["nodes"]) == 5


# Goal: state outlives processes, however they end. Method: a volume with data; all nodes end; the data is there.
@pytest.mark.parametrize("end", ["terminate", "kill9"])
def test_everything_survives_a_restart_of_all(make_cluster, end):
    cluster = make_cluster(3, settings={"cluster.shard_bytes": "16M"})
    cluster.up()
    cluster.make_volume("v", 40 * MIB, replicas=3, home=1)
    volume = cluster.attach("v")
    for shard in range(3):
        volume.ok(f"write {shard * 16 * MIB} 65536 {shard + 7}")
    volume.ok("flush")
    assert volume.close() == 0
    getattr(cluster, end)()
    cluster.up()
    cluster.wait_healthy()
    volume = cluster.attach("v")
    for shard in range(3):
        volume.ok(f"check {shard * 16 * MIB} 65536 {shard + 7}")
        volume.ok(f"check {shard * 16 * MIB + 65536} 65536 0")


# Goal: an ordinary end is one. Method: SIGTERM, idle; status 0, the store says clean at the next start.
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(cluster1, number):
    cluster1.nodes[1].signal(number)
    assert cluster1.wait_exit(1) == 0
    assert "ended status=0" in cluster1.log(1)
    cluster1.up()
    assert cluster1.admin("status")["nodes"][0]["stop"] == "clean"


# Goal: likewise with requests in flight and peers that go on talking. Method: each node in turn, under load.
def test_sigterm_under_load_ends_in_order(make_cluster):
    cluster = make_cluster(3, settings={"cluster.shard_bytes": "16M"})
    cluster.up()
    cluster.make_volume("v", 64 * MIB, replicas=3, home=1)
    volume = cluster.attach("v")
    for number in (2, 1, 3):
        volume.send("load 1500 5 16")
        assert cluster.terminate(number) == {number: 0}
        volume.finish("load")
        cluster.start(number)
        cluster.wait_up()
        cluster.wait_healthy()
    volume.ok("verify")


# Goal: a death is noticed, and so is the return. Method: kill -9 of one of three.
def test_a_killed_node_is_noticed_and_comes_back(cluster3):
    cluster3.kill9(2)
    cluster3.wait_down(2)
    cluster3.start(2)
    cluster3.wait_up()
    node = [n for n in cluster3.admin("status")["nodes"] if n["id"] == 2][0]
    assert node["stop"] == "same-boot"


# Goal: a daemon that was declared down while it lived starts anew. Method: SIGSTOP until it is down, then SIGCONT.
def test_a_paused_node_is_declared_down_and_starts_anew(cluster3):
    before = {n["id"]: n["incarnation"] for n in cluster3.admin("status")["nodes"]}
    cluster3.pause(2)
    cluster3.wait_down(2)
    cluster3.resume(2)
    cluster3.wait_up()
    after = {n["id"]: n["incarnation"] for n in cluster3.admin("status")["nodes"]}
    assert after[2] > before[2] and after[1] == before[1]
    assert "starting anew" in cluster3.log(2)


# Goal: R1, one daemon a drive. Method: a second one with the same configuration, and one with other addresses.
def test_two_daemons_on_one_store_are_refused(cluster1, tmp_path):
    import subprocess
    from conftest import local, program
    node = cluster1.nodes[1]
    with open(node.config, encoding="utf-8") as file:
        text = file.read()
    other = tmp_path / "other.conf"
    [spec] = local.pick_addresses(1)
    other.write_text(text.replace(node.spec["host"] + ":", spec["host"] + ":").replace(node.run, str(tmp_path)))
    for config in (node.config, str(other)):
        done = subprocess.run([program("ashlard"), "--config", config], capture_output=True, text=True, timeout=60,
                              check=False)
        assert done.returncode == 1
        assert "another ashlard runs on it" in done.stderr
    assert cluster1.up_nodes() == {1}


# Goal: SIGHUP reopens the log file. Method: it is moved away, as logrotate does.
def test_sighup_reopens_the_log(make_cluster):
    cluster = make_cluster(1)
    path = os.path.join(cluster.dir, "ashlard.log")
    with open(cluster.nodes[1].config, "a", encoding="utf-8") as file:
        file.write(f"[log]\nfile = {path}\n")
    cluster.up()
    os.rename(path, path + ".1")
    cluster.nodes[1].signal(signal.SIGHUP)
    wait_for(lambda: os.path.exists(path), "a new log file")
    assert cluster.terminate() == {1: 0}
    with open(path, encoding="utf-8") as file:
        assert "ended status=0" in file.read()


# Goal: an end in order needs nobody else. Method: the last of three, with requests that wait for replicas.
def test_sigterm_without_a_quorum_ends_in_order(make_cluster):
    cluster = make_cluster(3, settings={"cluster.shard_bytes": "16M"})
    cluster.up()
    cluster.make_volume("v", 32 * MIB, replicas=3, home=1)
    volume = cluster.attach("v")
    volume.ok("write 0 65536 1")
    cluster.kill9(2, 3)
    volume.send("write 65536 65536 2")
    assert cluster.terminate(1) == {1: 0}
    cluster.start()
    volume.finish("write")
    volume.ok("check 0 65536 1")
    volume.ok("check 65536 65536 2")


# Goal: it can be ended at any moment of its start. Method: SIGTERM as soon as the log has one more line each time.
def test_sigterm_while_it_starts(make_cluster):
    cluster = make_cluster(1)
    cluster.up()
    assert cluster.terminate() == {1: 0}
    lines_before = cluster.log(1).count("\n")
    for lines in range(1, 9):
        cluster.start()
        wait_for(lambda n=lines: cluster.log(1).count("\n") >= lines_before + n, "a line of the log")
        status = cluster.terminate()[1]
        assert status in ((0, -signal.SIGTERM) if lines == 1 else (0,)) # the first line comes before the handlers
        lines_before = cluster.log(1).count("\n")
    cluster.up()
    assert cluster.admin("status")["nodes"][0]["stop"] == "clean"
