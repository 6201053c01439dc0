# SPDX-License-Identifier: Apache-2.0
"""Whatever strangers send to any port costs them their link, and nobody else anything."""
import errno
import os
import random
import socket
import struct

import pytest
import wire
from conftest import wait_for

MIB = 1 << 20
PLACES = ["data", "control", "raft", "data.sock", "control.sock"]


def address_of(cluster, place):
    if place.endswith(".sock"):
        return "unix:" + cluster.socket_path(1, place)
    return f"tcp:{cluster.nodes[1].address(place)}"


@pytest.fixture
def serving(make_cluster):
    """A cluster with a volume and a client that must not notice anything."""
    cluster = make_cluster(1)
    cluster.up()
    cluster.make_volume("v", 16 * MIB, replicas=1)
    volume = cluster.attach("v")
    volume.ok("write 0 65536 1")
    pid = cluster.nodes[1].pid()
    yield cluster
    volume.ok("write 65536 65536 2")
    volume.ok("check 0 65536 1")
    volume.ok("flush")
    assert volume.ok("stats")["failovers"] == "0"
    assert cluster.nodes[1].pid() == pid
    assert cluster.terminate() == {1: 0}


def send_and_see(address, data):
    """Sends; the other side must close the link, or wait for more; it may do so before everything was taken."""
    with wire.Link(address, timeout_s=1.0) as link:
        try:
            link.send(data)
            link.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return
        try:
            link.wait_closed()
        except socket.timeout:
            raise AssertionError("the link stays open after an end of file") from None


@pytest.mark.parametrize("place", PLACES)
def test_garbage(serving, place):
    chooser = random.Random(f"garbage {place}")
    address = address_of(serving, place)
    for length in (0, 1, 7, 64, 191, 192, 193, 4096, 300000):
        send_and_see(address, chooser.randbytes(length))
    send_and_see(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    send_and_see(address, b"\0" * 100000)
    assert serving.up_nodes() == {1}


@pytest.mark.parametrize("place", [p for p in PLACES if p != "raft"])
def test_frames_with_one_thing_wrong(serving, place):
    address = address_of(serving, place)
    good = wire.header(wire.HELLO, b"\0" * 192)
    cases = [
        wire.header(wire.HELLO, magic=1),
        wire.header(wire.HELLO, version=0),
        wire.header(wire.HELLO, version=999),
        wire.header(65534),
        wire.header(wire.HELLO | 1),
        wire.header(wire.HELLO, body_len=0xFFFFFFFF),
        wire.header(wire.HELLO, body_len=256 * 1024 + 1),
        wire.header(wire.HELLO, b"", 0xFFFFFFFF),
        wire.header(wire.HELLO, b"", 1024 * 1024 + 1),
        wire.header(wire.HELLO, b"x" * 10, body_crc=1) + b"x" * 10,
        wire.frame(wire.HELLO, b"\xff" * 192),
        wire.frame(wire.HELLO, b"\xff" * 256 * 1024),
        wire.frame(wire.PING),
        wire.frame(wire.ATTACH, b"\xff" * 100),
        good[:100] + bytes([good[100] ^ 1]) + good[101:],
    ]
    for case in cases:
        send_and_see(address, case)


def mutated(chooser, data):
    data = bytearray(data)
    for _ in range(chooser.randrange(1, 6)):
        data[chooser.randrange(len(data))] = chooser.randrange(256)
    if len(data) >= wire.HEADER_BYTES and chooser.random() < 0.8: # past the checksum: to the handlers
        body_len = struct.unpack_from("<I", data, 24)[0]
        body = bytes(data[wire.HEADER_BYTES:wire.HEADER_BYTES + body_len])
        struct.pack_into("<I", data, 172, wire.crc32c(body) if body else 0)
        struct.pack_into("<I", data, 188, wire.crc32c(bytes(data[:188])))
    return bytes(data)


# Goal: handlers bound what they read. Method: after a good hello, frames of every opcode with random fields and bodies under
# right checksums. One seed, in the name of the test run.
@pytest.mark.parametrize("place, role", [("data", wire.ROLE_CLIENT), ("control", wire.ROLE_ADMIN),
                                         ("control", wire.ROLE_CONTROL)])
def test_wild_frames_after_a_good_hello(serving, place, role):
    seed = os.environ.get("ASHLAR_TEST_SEED", "1")
    chooser = random.Random(f"{seed} {place} {role}")
    address = address_of(serving, place)
    cluster_id = int(serving.admin("status")["cluster_id"], 16)
    opcodes = [*range(2, 44, 2), *range(64, 80, 2), *range(96, 108, 2), *range(128, 142, 2)]
    for _ in range(150):
        with wire.Link(address, timeout_s=5.0) as link:
            status, _ = link.hello(role, cluster_id=cluster_id,
                                   node=2 if role == wire.ROLE_CONTROL else 0,
                                   incarnation=1 if role == wire.ROLE_CONTROL else 0)
            if status < 0:
                continue
            try:
                for _ in range(chooser.randrange(1, 5)):
                    body = chooser.randbytes(chooser.choice([0, 0, 1, 4, 32, 200, 1024]))
                    payload = chooser.randbytes(chooser.choice([0, 0, 0, 4096, 8192]))
                    fields = {name: chooser.choice([0, 1, 2, chooser.randrange(1 << 16), (1 << 32) - 1])
                              for name in ("volume", "shard", "epoch", "session", "offset", "length", "aux", "aux2",
                                           "map_version", "lsn_n", "generation") if chooser.random() < 0.5}
                    if fields.get("map_version", 0) > 1 << 20 and chooser.random() < 0.9:
                        del fields["map_version"]
                    data = wire.frame(chooser.choice(opcodes), body, payload,
                                      request_id=chooser.randrange(1 << 40), **fields)
                    link.send(mutated(chooser, data) if chooser.random() < 0.3 else data)
            except OSError:
                continue
    wait_for(lambda: serving.up_nodes() == {1}, "still up")


# Goal: R23: a node whose version does not know what the cluster uses is told so, and takes no part.
def test_a_node_of_an_older_version_is_refused(serving):
    for level, status in ((0, -errno.EPROTONOSUPPORT), (1, 0)):
        with wire.Link(address_of(serving, "control")) as link:
            told = link.hello(wire.ROLE_CONTROL, node=9, incarnation=1, feature_level=level)
            assert told[0] == status, told
            assert ("upgrade" in told[1]["text"]) == (status != 0), told


# Goal: a link that says nothing is not kept. Method: many of them; they are closed, and others get in meanwhile.
@pytest.mark.parametrize("place, role", [("data", wire.ROLE_CLIENT), ("control", wire.ROLE_ADMIN)])
def test_silent_links_are_closed(serving, place, role):
    address = address_of(serving, place)
    links = [wire.Link(address, timeout_s=30.0) for _ in range(50)]
    try:
        with wire.Link(address) as link:
            assert link.hello(role)[0] == 0
        for link in links:
            assert link.wait_closed() == b""
    finally:
        for link in links:
            link.socket.close()


# Goal: half a frame holds nothing up. Method: links that stop in the middle of a header, a body and a payload stay open while
# the client of the fixture works.
def test_half_frames_hold_nobody_up(serving):
    address = address_of(serving, "data")
    pieces = [wire.frame(wire.HELLO, b"\0" * 192)[:100], wire.header(wire.HELLO, b"x" * 1000)[:] + b"x" * 10,
              wire.header(34, b"", 1024 * 1024) + b"y" * 5000]
    links = []
    try:
        for piece in pieces * 10:
            link = wire.Link(address, timeout_s=30.0)
            link.send(piece)
            links.append(link)
        assert serving.up_nodes() == {1}
        for link in links:
            link.wait_closed()
    finally:
        for link in links:
            link.socket.close()
