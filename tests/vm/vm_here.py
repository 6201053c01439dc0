# SPDX-License-Identifier: Apache-2.0
"""The RDMA cases without a guest: on the RDMA devices that this machine has.

Happy path: the addresses of the active devices are found (or given), the transport's conformance suite runs between the
first two (or one and itself), and the three-node cluster of guest_rdma on all of them; `ashlar status` tells that its
links are RDMA's and how much went over them.

Failure modes: RdmaMissing, with what is not there; RdmaFailed, with the last words of what ran.
"""
import glob
import json
import os
import re
import shutil
import subprocess
import tempfile

from vm_cluster import BUILD
from vm_rdma import HERE, LONG_SUITE, SENDS_MIN, SHORT_SUITE, SUITE, RdmaFailed, RdmaMissing, check_passed, need

DEADLINE_S = 900


def _answer(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return json.loads(done.stdout or "[]") if done.returncode == 0 else []


def find_addresses():
    """IPv4 addresses of this machine's active RDMA devices; RdmaMissing says what there is instead."""
    if not glob.glob("/sys/class/infiniband/*"):
        raise RdmaMissing("this machine has no RDMA device (/sys/class/infiniband is empty)")
    netdevs = [link.get("netdev") for link in _answer("rdma", "-j", "link") if link.get("state") == "ACTIVE"]
    found = [address["local"] for netdev in netdevs if netdev
             for interface in _answer("ip", "-j", "-4", "addr", "show", "dev", netdev)
             for address in interface.get("addr_info", [])]
    if not found:
        raise RdmaMissing("no active RDMA device of this machine has an IPv4 address (rdma link; ip addr)")
    return found


def _run(argv, environment, say, directory):
    done = subprocess.run(argv, env={**os.environ, **environment}, cwd=directory, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False, timeout=DEADLINE_S)
    say(done.stdout.rstrip())
    if done.returncode:
        raise RdmaFailed(f"status {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def conformance_here(addresses, say, long):
    """The suite between two of the addresses; as many cases as passed."""
    program = os.path.join(BUILD, SUITE)
    need(program)
    pair = (addresses + addresses)[:2]
    text = "".join(_run([program, one], {"ASHLAR_TEST_RDMA": ",".join(pair)}, say, "/")
                   for one in (LONG_SUITE if long else SHORT_SUITE))
    return check_passed(text, LONG_SUITE if long else SHORT_SUITE)


def cluster_here(addresses, say):
    """Three nodes on the addresses; fio writes, reads back and compares; the links must be RDMA's."""
    for name in ("fio", "nbdkit"):
        if not shutil.which(name):
            raise RdmaMissing(f"{name} is not installed")
    need(os.path.join(BUILD, "bin", "ashlard"), os.path.join(BUILD, "bin", "ashlar"))
    three = (addresses * 3)[:3]
    with tempfile.TemporaryDirectory(prefix="ashlar-here-") as directory:
        for name in ("bin", "lib"):
            os.symlink(os.path.join(BUILD, name), os.path.join(directory, name))
        for name in ("guest_rdma", "guest_rdma_figures"):
            shutil.copy(os.path.join(HERE, name), directory)
        text = _run(["./guest_rdma", "rdma", "verify"],
                    {"ADDRESSES": ",".join(three), "DIR": os.path.join(directory, "s"), "RDMA_DEVS": ""}, say, directory)
    rows = re.findall(r"^status +\d+ +up +.*$", text, re.MULTILINE)
    sends = [int(n) for n in re.findall(r'"sends": (\d+)', re.sub(" +", " ", text))]
    if "result end ok" not in text or len(rows) != 3 or not all(re.search(r"\brdma\b(?!\+)", row) for row in rows):
        raise RdmaFailed(f"three nodes linked by RDMA are not to be seen:\n{text[-3000:]}")
    if len(sends) != 3 or min(sends) < SENDS_MIN:
        raise RdmaFailed(f"the nodes count {sends} SENDs: the replicas did not come by RDMA")
    return sum(sends)
