# SPDX-License-Identifier: Apache-2.0
"""The RDMA cases: the transport's conformance suite and a three-node cluster in a guest with soft-RDMA devices.

Happy path: the built programs go into the guest (guest_rdma is its side of the cluster cases); what it prints is judged
here: counters of the devices, the links that `ashlar status` shows, results of fio's verification.

Failure modes: RdmaFailed, with the guest's last words; RdmaMissing if what is needed is not built or installed.
"""
import os
import re
import shutil
import tempfile

from vm_cluster import BUILD, ROOT
from vm_machine import Machine, Options
from vm_siw import missing_for_siw

HERE = os.path.dirname(os.path.abspath(__file__))
ADDRESSES = "10.77.0.1,10.77.0.2"
SHORT_SUITE = ["rdma/*", "rdma_plain/*size*", "rdma_mixed/requests*", "rdma_spin/spinning*"]
LONG_SUITE = ["rdma/*", "rdma_plain/*", "rdma_mixed/*", "rdma_spin/*"]
SIW_SUITE = ["rdma/*size*", "rdma/requests*", "rdma/remote*", "rdma/false*"]
# After the suite: how often each device took a request for lost.
AGAIN = " && for d in $RDMA_DEVS; do echo again $d $(cat /sys/class/infiniband/$d/ports/1/hw_counters/completer_retry_err); done"
# A guest that stands still for seconds may send something again; with a time-out of 67 ms it was 36 in a run.
AGAIN_MAX = 5
SUITE = os.path.join("tests", "unit", "transport", "common_transport_test")
# Of a run of guest_rdma's verify: far above what a broken link's retries make, far below what it really sends.
SENDS_MIN = 500


class RdmaFailed(Exception):
    """A case did not hold."""


class RdmaMissing(Exception):
    """A case can't run here, and why."""


def run_guest(options, command, say):
    output = []

    def collect(data):
        text = data.decode(errors="replace")
        output.append(text)
        say(text.rstrip())

    status = Machine(options, command, on_out=collect, on_err=collect).run()
    text = "".join(output)
    if status != 0:
        raise RdmaFailed(f"the guest ended with status {status}:\n{text[-12000:]}")
    kernel = re.findall(r"^guest kernel: .*", text, re.MULTILINE)
    if kernel:
        raise RdmaFailed(f"the guest's kernel complained:\n{chr(10).join(kernel)}")
    return text


def need(*paths):
    for path in paths:
        if not os.access(path, os.X_OK):
            raise RdmaMissing(f"{os.path.relpath(path, ROOT)} is not built")


def check_passed(text, filters):
    """Each filter must have passed something: one that fits no case is no error to the suite."""
    passed = re.findall(r"\[ +OK \] (\S+)", text)
    patterns = [re.escape(one).replace(r"\*", ".*") for one in filters] + ["rdma/remote_access_is_limited"]
    missing = [one for one in patterns if not any(re.match(one, name) for name in passed)]
    if missing:
        raise RdmaFailed(f"nothing passed of {', '.join(missing)}:\n{text[-2000:]}")
    return len(passed)


def conformance(say, long, driver="rxe"):
    """The suite of transport.h on two devices; status 0 of each filter, and every kind did run."""
    program = os.path.join(BUILD, SUITE)
    need(program)
    if driver == "siw" and missing_for_siw():
        raise RdmaMissing(f"the siw module is built here, and not installed are: {', '.join(missing_for_siw())}")
    with tempfile.TemporaryDirectory(prefix="ashlar-vm-") as directory:
        shutil.copy(program, directory)
        filters = LONG_SUITE if long else SHORT_SUITE if driver == "rxe" else SIW_SUITE
        script = " && ".join(f"./{os.path.basename(program)} '{one}'" for one in filters) + (AGAIN if driver == "rxe" else "")
        text = run_guest(Options(driver=driver, nodes=2, files=[directory], timeout_s=600 if long else 200),
                         ["sh", "-c", f"export ASHLAR_TEST_RDMA={ADDRESSES}; {script}"], say)
    if driver == "rxe":
        judge_sent_once(text)
    return check_passed(text, filters)


def judge_sent_once(text):
    """Nothing was lost in the guest, so hardly anything was sent again: what rxe sends again it sends wrong (rdma_conn.c)."""
    again = re.findall(r"^again (\S+) (\d+)$", text, re.MULTILINE)
    if not again or sum(int(count) for _, count in again) > AGAIN_MAX:
        raise RdmaFailed(f"the devices sent again what was not lost: {again}")


def cluster(say, transports, commands, timeout_s=240, counted=False, environment=(), driver="rxe"):
    """guest_rdma with the built daemon, command and plugin; everything it printed. environment: "NAME=VALUE", ..."""
    for name in ("fio", "nbdkit"):
        if not shutil.which(name):
            raise RdmaMissing(f"{name} is not installed")
    bin_dir, lib_dir = os.path.join(BUILD, "bin"), os.path.join(BUILD, "lib")
    need(os.path.join(bin_dir, "ashlard"), os.path.join(bin_dir, "ashlar"),
         os.path.join(lib_dir, "nbdkit-ashlar-plugin.so"))
    with tempfile.TemporaryDirectory(prefix="ashlar-vm-") as directory:
        for folder, names in (("bin", ["ashlard", "ashlar"]),
                              ("lib", [name for name in os.listdir(lib_dir) if ".so" in name])):
            os.mkdir(os.path.join(directory, folder))
            for name in names:
                shutil.copy(os.path.join(BUILD, folder, name), os.path.join(directory, folder), follow_symlinks=False)
        for name in ("guest_rdma", "guest_rdma_figures"):
            shutil.copy(os.path.join(HERE, name), directory)
        text = run_guest(Options(driver=driver, nodes=3, files=[directory], programs=["fio", "nbdkit", "setpriv"],
                                 memory="2600M", timeout_s=timeout_s, counted=counted),
                         ["env", f"SENDS_MIN={SENDS_MIN}", *environment, "./guest_rdma", transports, *commands], say)
    if "result end ok" not in text:
        raise RdmaFailed(f"the guest did not come to its end:\n{text[-2000:]}")
    return text


def counters(text, when):
    found = {}
    for device, name, value in re.findall(rf"^counter {when} (\S+) (\S+) (\d+)$", text, re.MULTILINE):
        found[device, name] = int(value)
    return found


def judge_verified(text, transport):
    """Written, read back and compared; and `ashlar status` shows three nodes linked by this transport alone."""
    for fio in ("small", "large", "odd"):
        if f"result fio_{fio} ok" not in text:
            raise RdmaFailed(f"fio {fio} did not verify")
    rows = re.findall(r"^status +\d+ +up +.*$", text, re.MULTILINE)
    if len(rows) != 3 or not all(re.search(rf"\b{transport}\b(?!\+)", row) for row in rows):
        raise RdmaFailed(f"ashlar status does not show three nodes linked by {transport}:\n" + "\n".join(rows) +
                         f"\n{told(text)}")


def told(text):
    """What the guest told that explains a failure: counters, cuts, rounds, the nodes' lines on their links."""
    return "\n".join(re.findall(r"^(?:counter|cuts|verify|log) .*", text, re.MULTILINE))


def judge_replication(text):
    """Written, read back and compared; and it went by RDMA in its last round: the devices counted it, no link fell back,
    status says so; and no RNR ever."""
    judge_verified(text, "rdma")
    rounds = re.findall(r"^verify \d+ cuts \d+ fallbacks (\d+) sends \d+$", text, re.MULTILINE)
    before, after = counters(text, "before"), counters(text, "after")
    if not rounds or int(rounds[-1]):
        raise RdmaFailed(f"no verify that RDMA carried alone in {len(rounds)} rounds:\n{told(text)}")
    for device in ("rxe1", "rxe2", "rxe3"):
        sends = after[device, "rdma_sends"] - before[device, "rdma_sends"]
        if sends < SENDS_MIN:
            raise RdmaFailed(f"{device} counted {sends} SENDs: the replicas did not come by RDMA:\n{told(text)}")
        for name in ("send_rnr_err", "rcvd_rnr_err", "retry_exceeded_err"):
            if after[device, name]:
                raise RdmaFailed(f"{device}: {name} is {after[device, name]}: credits do not hold:\n{told(text)}")
