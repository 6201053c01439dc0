# SPDX-License-Identifier: Apache-2.0
"""What has to be there before anything is started: root, programs, room. Ports are no matter: servers that listen on
TCP do so in network namespaces of their own, all others on sockets in the run's directory.

check_all() raises for what nothing works without; check_stack() gives one line for what one stack lacks, or None.
"""
import os
import shutil

from stacks import BenchError

ALWAYS = ["fio", "nbdinfo"]
NAMESPACES = ["ip", "tc"]
QEMU = ["qemu-storage-daemon", "qemu-img"]
NEEDS = {
    "local-raw": QEMU, "local-qcow2": QEMU, "array-iscsi": [*QEMU, *NAMESPACES, "tgtd", "tgtadm"],
    "array-nfs-qcow2": [*QEMU, *NAMESPACES, "ganesha.nfsd", "rpcbind", "nsenter", "unshare"],
    "ceph-rbd-x3": [*QEMU, *NAMESPACES, "ceph-mon", "ceph-osd", "ceph-mgr", "rbd"],
}
ASHLAR = [*NAMESPACES, "nbdkit"]
ROOM_LEFT_BYTES = 2 << 30


def copies_of(name):
    """How often a stack writes its volume to this machine's drive."""
    return 3 if "x3" in name else 2 if "x2" in name else 0 if name == "custom" else 1


def store_bytes(names, size_bytes):
    """Of each node's store: every Ashlar volume, room for snapshots and merging."""
    volumes = sum(1 for name in names if name.startswith("ashlar"))
    return (1 << 30) + int(1.5 * volumes * size_bytes)


def room_needed(names, size_bytes):
    ashlar = any(name.startswith("ashlar") for name in names)
    others = sum(copies_of(name) for name in names if not name.startswith("ashlar"))
    return others * size_bytes + (4 * store_bytes(names, size_bytes) if ashlar else 0) + ROOM_LEFT_BYTES


def check_all(names, size_bytes, directory):
    if os.geteuid() != 0:
        raise BenchError("needs root: for network namespaces, loop devices and the kernel's counters")
    for program in ALWAYS:
        if not shutil.which(program):
            raise BenchError(f"{program} is not installed (deploy/install-packages bench)")
    need, have = room_needed(names, size_bytes), shutil.disk_usage(directory).free
    if need > have:
        raise BenchError(f"{directory} has {have >> 20} MiB free, {need >> 20} MiB are needed: fewer --stacks, a smaller "
                         "--size or another --dir")


def check_stack(name, build, custom_uri):
    """Why it can't be brought up, in one line; None if it may try."""
    if name.startswith("ashlar"):
        for program in ("ashlar", "ashlard"):
            if not os.access(os.path.join(build, "bin", program), os.X_OK):
                return f"{os.path.join(build, 'bin', program)} is missing: build the project or set ASHLAR_BUILD"
    if name == "custom" and not custom_uri:
        return "no URI was given (--custom URI)"
    missing = [p for p in (ASHLAR if name.startswith("ashlar") else NEEDS.get(name, [])) if not shutil.which(p)]
    return f"not installed: {', '.join(missing)} (deploy/install-packages bench)" if missing else None
