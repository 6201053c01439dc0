# SPDX-License-Identifier: Apache-2.0
"""Bits that flip and a store file that is truncated, under running daemons: repaired from a peer, and told."""
import mmap
import os
import shutil
import struct

import pytest

from load import MIB, Load, fixtures, judge, status_json

FAST_SCRUB = {"store.scrub": "256M", "store.scrub_rest": "1s"}
BLOCK = 4096
MASK = (1 << 64) - 1


def mix(x):
    """As in volume_io.c."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def image(cluster, number):
    return os.path.join(cluster.nodes[number].store, "store.img")


def place_of(cluster, number, offset, seed):
    """Where in its image a node holds the block that was written at this offset with this seed."""
    wanted = b"".join(struct.pack("<Q", mix(seed ^ mix((offset + at) // 8))) for at in range(0, 64, 8))
    with open(image(cluster, number), "rb") as file:
        data = file.read(128 * MIB)
    place = data.find(wanted)
    assert place > 0 and place % 4096 == 0, "the block is not where it is looked for"
    return place


def flip(cluster, number, places):
    """One bit of each, behind the daemon's back: as the drive would, past the page cache. A buffered page that is dirty while
    the daemon writes there directly makes the kernel fail the file's next fsync (EIO), ours or the daemon's."""
    descriptor = os.open(image(cluster, number), os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, BLOCK) as block:
            for place in places:
                start = place - place % BLOCK
                assert os.preadv(descriptor, [block], start) == BLOCK
                block[place - start] ^= 0x10
                assert os.pwritev(descriptor, [block], start) == BLOCK
    finally:
        os.close(descriptor)


def counters(cluster, number):
    return cluster.admin("stats", number=number)["counters"]


def told(cluster, number, word):
    return any(f"node {number}" in line and word in line for line in status_json(cluster)["problems"])


@pytest.mark.parametrize("blocks", [1, 256])
@pytest.mark.parametrize("number", [1, 2])
def test_flipped_bits_are_repaired_and_told(make_cluster, number, blocks):
    """Node 1 is the primary, whose damage reads meet; node 2 a backup, whose damage its scrub finds."""
    cluster = make_cluster(3, settings=FAST_SCRUB if number == 2 else {"store.scrub": "0"})
    cluster.up()
    load = Load(cluster)
    load.volume.ok(f"write 0 {MIB} 5")
    load.volume.ok("flush")
    place = place_of(cluster, number, 0, 5)
    flip(cluster, number, [place + 4096 * block + 77 for block in range(blocks)])
    if number == 1:
        load.volume.ok(f"check 0 {MIB} 5")
    fixtures.wait_for(lambda: counters(cluster, number)["blocks_repaired"] >= blocks, "the repair")
    assert counters(cluster, number)["blocks_damaged"] == blocks
    fixtures.wait_for(lambda: told(cluster, number, "checksum"), "status to tell of it")
    load.volume.ok(f"check 0 {MIB} 5")
    judge(load)


@pytest.mark.parametrize("number", [pytest.param(1, marks=pytest.mark.long), 2])
def test_rot_under_load_is_repaired(make_cluster, number):
    cluster = make_cluster(3, settings=FAST_SCRUB)
    cluster.up()
    load = Load(cluster)
    load.fill()
    load.start()
    for _ in range(5):
        flip(cluster, number, [load.chooser.randrange(MIB, 64 * MIB) for _ in range(20)])
        load.wait_more(50)
    load.finish()
    passes = counters(cluster, number)["scrub_passes"]
    fixtures.wait_for(lambda: counters(cluster, number)["scrub_passes"] >= passes + 2, "two scrub passes")
    assert counters(cluster, number)["blocks_repaired"] > 0
    judge(load)


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_truncated_store_is_filled_again(make_cluster, number):
    """What is gone is repaired or served by the others; the daemon does not start on it again; an empty store is filled."""
    cluster = make_cluster(3, settings=FAST_SCRUB)
    cluster.up()
    load = Load(cluster)
    load.fill()
    load.volume.ok("flush")
    os.truncate(image(cluster, number), MIB)
    load.start()
    fixtures.wait_for(lambda: told(cluster, number, "drive"), "status to tell of it")
    load.wait_more()
    cluster.terminate(number)
    cluster.start(number)
    assert cluster.wait_exit(number) == 1
    assert "its drive is smaller than when it was formatted" in cluster.log(number)
    shutil.rmtree(cluster.nodes[number].store)
    cluster.local.format(cluster.nodes[number], "512M")
    cluster.start(number)
    load.wait_more()
    load.finish()
    judge(load)
