# SPDX-License-Identifier: Apache-2.0
"""Clients that get in each other's way, and strangers that talk nonsense, while a volume is under load (R19, I6)."""
import random
import subprocess

from load import SEED, Load, fixtures, judge, status_json

wire, wait_for = fixtures.wire, fixtures.wait_for


def test_a_second_client_is_refused_and_a_forced_one_fences_the_first(cluster3, load3):
    load3.volume.ok("write 0 65536 3")
    load3.start()
    second = fixtures.Volume(cluster3.conf, "v")
    assert second.opened.startswith("error -16 ") and "take it over by force" in second.opened
    assert second.process.wait(fixtures.DEADLINE_S) == 1
    load3.wait_more()  # the first one noticed nothing
    forced = cluster3.attach("v", "force")
    forced.ok("write 0 65536 4")
    wait_for(lambda: load3.volume.call("progress").startswith("error -116 "), "the first client to be told")
    assert load3.volume.call("stop").startswith("error -116 ")
    assert load3.volume.call("write 0 65536 5").startswith("error -116 ")
    forced.ok("check 0 65536 4")
    forced.ok("flush")
    load3.volume.kill()
    load3.volume = forced
    judge(load3)


def test_a_killed_client_is_let_go_after_its_grace(cluster3, load3):
    load3.start()
    load3.volume.kill()
    refused = fixtures.Volume(cluster3.conf, "v")
    assert refused.opened.startswith("error -16 ") and "lets go after some seconds" in refused.opened
    refused.process.wait(fixtures.DEADLINE_S)

    def attached():
        volume = fixtures.Volume(cluster3.conf, "v")
        cluster3.volumes.append(volume)
        return volume if volume.opened == "ok" else None
    load3.volume = wait_for(attached, "the session of the dead client to end")
    load3.volume.ok("write 0 65536 3")
    judge(load3)


def test_strangers_at_every_port_of_every_node_do_no_harm(cluster3, load3):
    """Garbage, and headers that announce more than may come, at TCP ports and unix sockets."""
    chooser = random.Random(f"strangers {SEED}")
    load3.start()
    pids = {number: node.pid() for number, node in cluster3.nodes.items()}
    for _ in range(3):
        for number, node in cluster3.nodes.items():
            places = [f"tcp:{node.address(what)}" for what in ("data", "control", "raft")]
            places += [f"unix:{cluster3.socket_path(number, name)}" for name in ("data.sock", "control.sock")]
            for place in places:
                for data in (chooser.randbytes(chooser.randrange(1, 300000)), wire.header(wire.HELLO, payload_len=(1 << 32) - 1),
                             wire.header(wire.HELLO, body_len=(1 << 32) - 1), wire.header(chooser.randrange(1 << 16))):
                    with wire.Link(place) as link:
                        try:
                            link.send(data)
                        except OSError:
                            pass
        load3.wait_more(50)
    assert load3.volume.ok("stats")["failovers"] == "0"
    assert pids == {number: node.pid() for number, node in cluster3.nodes.items()}
    load3.finish()
    judge(load3)


def ashlar(cluster, *words):
    argv = [fixtures.program("ashlar"), "--cluster", cluster.conf, *words]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=fixtures.DEADLINE_S,
                          check=False)


def test_force_promote_makes_an_older_copy_the_truth(make_cluster):
    """The node with all acknowledged writes is gone; the operator chooses the copy that is left; the other follows it later (R15)."""
    cluster = make_cluster(3, settings={"cluster.elect_grace": "0"})
    cluster.up()
    load = Load(cluster, replicas=2, min_replicas=1)
    load.volume.ok("write 0 1048576 3")
    load.volume.ok("flush")
    other = next(number for number in cluster.in_sync("v")[0] if number != 1)
    cluster.kill9(other)
    cluster.wait_down(other)
    load.volume.ok("write 0 1048576 4")  # node 1 alone has this
    assert load.volume.close() == 0
    refused = ashlar(cluster, "force-promote", "v", "1", "--yes")
    assert refused.returncode == 1 and "nothing needs to be forced" in refused.stderr
    cluster.kill9(1)
    cluster.wait_down(1)
    cluster.start(other)
    cluster.wait_up(other)
    wait_for(lambda: any("no live complete copy" in line for line in status_json(cluster)["problems"]), "status to say what is missing")
    done = ashlar(cluster, "force-promote", "v", str(other), "--yes")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: cluster.admin("volume-info", name="v")["shards"][0]["primary"] == other, "that copy to serve")
    assert cluster.admin("volume-info", name="v")["shards"][0]["loss_number"] == 1
    load.volume = cluster.attach("v", conf=cluster.conf_at(other))
    load.volume.ok("check 0 1048576 3")
    load.start()
    cluster.start(1)
    cluster.wait_up(1)
    load.wait_more()
    load.finish()
    judge(load)
