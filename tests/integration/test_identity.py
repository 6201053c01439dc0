# SPDX-License-Identifier: Apache-2.0
"""A daemon serves its own store, in its own cluster, in a format that it knows; and nothing else."""
import os

import pytest
import wire
from conftest import wait_for

MIB = 1 << 20


def refuses(cluster, number, *words):
    """The daemon ends by itself with status 1 and a line that has these words."""
    cluster.start(number)
    assert cluster.wait_exit(number) == 1
    for word in words:
        assert word in cluster.log(number)


def change_config(node, old, new):
    with open(node.config, encoding="utf-8") as file:
        text = file.read()
    assert old in text
    with open(node.config, "w", encoding="utf-8") as file:
        file.write(text.replace(old, new))


def test_a_store_of_another_cluster_is_refused(make_cluster):
    cluster = make_cluster(1)
    change_config(cluster.nodes[1], "name = test", "name = other")
    refuses(cluster, 1, "belongs to another cluster", "cluster.name")


def test_a_store_of_another_node_is_refused(make_cluster):
    cluster = make_cluster(3)
    change_config(cluster.nodes[2], cluster.nodes[2].store, cluster.nodes[3].store)
    refuses(cluster, 2, "is node 3's")


# Goal: refusing leaves the store as it was. Method: refused, then started rightly.
def test_a_refused_store_is_unharmed(make_cluster):
    cluster = make_cluster(1)
    cluster.up()
    cluster.make_volume("v", 16 * MIB, replicas=1)
    volume = cluster.attach("v")
    volume.ok("write 0 65536 3")
    volume.ok("flush")
    cluster.kill9()
    volume.kill()
    change_config(cluster.nodes[1], "name = test", "name = other")
    refuses(cluster, 1, "another cluster")
    change_config(cluster.nodes[1], "name = other", "name = test")
    cluster.up()
    assert cluster.admin("status")["nodes"][0]["stop"] == "same-boot"
    cluster.wait_healthy()
    cluster.attach("v", "force").ok("check 0 65536 3")


# Goal: a format of the future is not guessed at. Method: the version in both copies of the superblock is raised.
def test_a_store_of_a_later_format_is_refused(make_cluster):
    cluster = make_cluster(1)
    path = os.path.join(cluster.nodes[1].store, "store.img")
    with open(path, "r+b") as file:
        for offset in (0, 512 * 1024):
            file.seek(offset)
            block = bytearray(file.read(4096))
            old = bytes(block)
            patch_version(block)
            assert bytes(block) != old
            file.seek(offset)
            file.write(block)
    refuses(cluster, 1, "store")


def patch_version(block):
    """The u32 after the 8 bytes of magic is the version; the last u32 of the block its checksum."""
    version = int.from_bytes(block[8:12], "little")
    assert version == 1
    block[8:12] = (version + 1).to_bytes(4, "little")
    block[-4:] = wire.crc32c(bytes(block[:-4])).to_bytes(4, "little")


def test_a_store_with_damaged_superblocks_is_refused(make_cluster):
    cluster = make_cluster(1)
    with open(os.path.join(cluster.nodes[1].store, "store.img"), "r+b") as file:
        for offset in (0, 512 * 1024):
            file.seek(offset)
            file.write(b"\0" * 4096)
    refuses(cluster, 1, "store")


# Goal: one damaged superblock is no loss.
def test_a_store_with_one_damaged_superblock_serves(make_cluster):
    cluster = make_cluster(1)
    with open(os.path.join(cluster.nodes[1].store, "store.img"), "r+b") as file:
        file.write(b"\xff" * 4096)
    cluster.up()


# Goal: strangers get a sentence. Method: hellos with one thing wrong each, at the data and the control address.
@pytest.mark.parametrize("place", ["data", "control"])
def test_a_hello_that_does_not_fit_is_answered_with_a_reason(cluster1, place):
    address = cluster1.data_address(1) if place == "data" else cluster1.control_address(1)
    role = wire.ROLE_PEER if place == "data" else wire.ROLE_CONTROL
    with wire.Link(address) as link:
        status, told = link.hello(role, version_min=99, version_max=99)
        assert status < 0 and told["text"]
        link.wait_closed()
    with wire.Link(address) as link:
        status, told = link.hello(role, cluster_id=0x1234, node=1, incarnation=1)
        assert status < 0 and "cluster" in told["text"]
        link.wait_closed()
    wrong_role = wire.ROLE_ADMIN if place == "data" else wire.ROLE_PEER
    with wire.Link(address) as link:
        status, told = link.hello(wrong_role)
        assert status < 0 and told["text"]
        link.wait_closed()


# Goal: two clusters do not mix though one is told of the other's addresses. Method: node 1 of a second cluster names node 1 of
# the first as a voter beside itself: the first stays as it is.
def test_two_clusters_side_by_side_do_not_meet(make_cluster):
    first, second = make_cluster(1, name="one"), make_cluster(1, name="two")
    first.up()
    second.up()
    wait_for(lambda: first.up_nodes() == {1} and second.up_nodes() == {1}, "both up")
    ids = {cluster.admin("status")["cluster_id"] for cluster in (first, second)}
    assert len(ids) == 2
