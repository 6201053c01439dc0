# SPDX-License-Identifier: Apache-2.0
"""Where the time of one 4 KiB write goes, at depth 1: layers measured apart, and whether they add up to the whole.

Happy path:
- the whole: fio's mean on the stack; the drive with its file system: fio's mean on the bare file, minutes apart at most;
- foreign stacks: the same path with its file in RAM (the stack's program `hollow`), then the drive;
- Ashlar: the stages that the gateway stamps into every answer (`ashlar node info --json`), the NBD server over no storage,
  and one hop between plugin and daemon.
What is left is named "unexplained" and is no layer: the sum is of what was measured.

Failure modes: a stack without means to look inside gets one layer for what can't be told apart; an error is a failure
record of that stack's budget.
"""
import json
import os
import subprocess
import time

from h2h import hops, loads
from stacks import BenchError, NbdkitNull

WORKLOAD, SECONDS, WARMUP_S, SHARE_OFF = "randwrite-qd1", 2, 0.3, 10.0
STAGES = ("total", "gateway", "primary", "network", "drive")
STATS_DEADLINE_S = 5


class Target:
    """What loads.run() wants of a stack."""

    def __init__(self, name, uri, size_bytes):
        self.name, self.uri, self.size_bytes = name, uri, size_bytes

    def pids(self):
        return {}


def mean_us(session, target):
    sample = loads.run(target, {"name": WORKLOAD}, {"seconds": SECONDS, "warmup_s": WARMUP_S}, session.work_dir)
    return sample["metrics"]["lat_us"]["mean"]


def layer(name, us, how, note=""):
    return {"name": name, "us": round(us, 1), "how": how, "note": note}


def record(total_us, layers):
    """Adds up what was measured; pure."""
    sum_us = sum(part["us"] for part in layers)
    off = 100 * (sum_us - total_us) / total_us
    return {"workload": WORKLOAD, "total_us": round(total_us, 1), "statistic": "mean", "layers": layers,
            "sum_us": round(sum_us, 1), "off_percent": round(off, 1), "adds_up": abs(off) <= SHARE_OFF}


def ashlar_layers(stages, nbd_us, threads_us, hop_us):
    """From the means of the stages; drive and backups run side by side, so only what is beyond the drive counts."""
    inside = max(stages["drive"], stages["network"])
    return [
        layer("load, NBD socket, nbdkit", nbd_us, "measured", "mean of the same load on nbdkit's null plugin"),
        layer("nbdkit's worker to the plugin's loop and back", threads_us, "measured", "two hand-overs by eventfd"),
        layer("plugin to daemon and back", hop_us, "measured", "4 KiB over a unix socket to another process and an answer"),
        layer("gateway", stages["gateway"], "measured", "stamped; the way to the primary is in it where that is another node"),
        layer("primary, before and after", max(0.0, stages["primary"] - inside), "measured", "stamped: primary less the next two"),
        layer("drive of the primary", stages["drive"], "measured", "stamped"),
        layer("network and backups, beyond the drive", inside - stages["drive"], "measured",
              f"stamped: {stages['network']:.0f} us in all, beside the drive"),
    ]


class Stages:
    """The sums behind the gateway's stamps, from the daemons of a stack's cluster."""

    def __init__(self, session, stack):
        self.volume = stack.name
        directory = os.path.join(session.work_dir, "ashlar")
        self.base = [os.path.join(session.build, "bin", "ashlar"), "--cluster", os.path.join(directory, "cluster.conf")]
        self.nodes = range(1, 5)

    def _ask(self, node):
        done = subprocess.run([*self.base, "node", "info", str(node), "--json"], capture_output=True, text=True, timeout=20,
                              check=False)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise BenchError(f"node {node} does not tell its counters") from None

    def look(self):
        """{stage: (count, sum_ns)} over all gateways."""
        found = {stage: [0, 0] for stage in STAGES}
        for node in self.nodes:
            for volume in find_volumes(self._ask(node)):
                if volume.get("name") == self.volume:
                    for stage in STAGES:
                        figures = volume["write_stages"][stage]
                        found[stage][0] += figures["count"]
                        found[stage][1] += figures["count"] * figures["mean_ns"]
        return found

    def settled(self):
        """The daemons take a snapshot of their counters each second: two equal looks, then nothing is missing."""
        deadline, last = time.monotonic() + STATS_DEADLINE_S, None
        while time.monotonic() < deadline:
            now = self.look()
            if now == last:
                return now
            last = now
            time.sleep(1.2)
        raise BenchError("the daemons' counters do not come to rest")


def find_volumes(answer):
    """The list "volumes" wherever `node info --json` has it."""
    if isinstance(answer, dict):
        if isinstance(answer.get("volumes"), list):
            return answer["volumes"]
        for value in answer.values():
            found = find_volumes(value)
            if found:
                return found
    return []


def stage_means(before, after):
    means = {}
    for stage in STAGES:
        count = after[stage][0] - before[stage][0]
        if count <= 0:
            raise BenchError("the gateway stamped no write")
        means[stage] = (after[stage][1] - before[stage][1]) / count / 1000
    return means


def of_ashlar(session, stack, parts):
    stages = Stages(session, stack)
    before = stages.settled()
    total = mean_us(session, stack)
    means = stage_means(before, stages.settled())
    return record(total, ashlar_layers(means, parts["nbd"], parts["threads"], parts["hop"]))


def of_hollow(session, stack, parts):
    """The same path with its file in RAM, then the drive."""
    try:
        uri = stack.call("hollow", "up").splitlines()[-1]
        path_us = mean_us(session, Target("hollow", uri, stack.size_bytes))
    finally:
        stack.call("hollow", "down")
    total = mean_us(session, stack)
    what = "the same load with the file in RAM"
    if stack.name == "local-raw":
        parts["qemu"] = path_us
        layers = [layer("load, NBD socket, QEMU", path_us, "measured", what)]
    else:
        layers = [layer("load, NBD socket, QEMU", parts["qemu"], "measured", "of local-raw with its file in RAM")]
        link_us = parts["link"] if stack.name.startswith("array") else 0.0
        if link_us:
            layers.append(layer("link", link_us, "measured", "4 KiB to a process behind such a link and an answer"))
        name = "initiator and target" if link_us else "image format"
        layers.append(layer(name, path_us - parts["qemu"] - link_us, "difference", f"{path_us:.0f} us for {what}, less the above"))
    layers.append(layer("file system and drive", parts["bare"], "measured", "mean of the same load on the bare file"))
    return record(total, layers)


def of_outside(session, stack, parts):
    """Nothing can be taken out of it: what is not path, link or drive is one layer."""
    total = mean_us(session, stack)
    known = [layer("load, NBD socket, QEMU", parts["qemu"], "measured", "of local-raw with its file in RAM")]
    if stack.name.startswith("array"):
        known.append(layer("link", parts["link"], "measured", "4 KiB to a process behind such a link and an answer"))
    rest = total - sum(part["us"] for part in known)
    what = "NFS client, filer, QCOW2 (the filer answers from RAM)" if "nfs" in stack.name else "QCOW2, file system and drive"
    return record(total, [*known, layer(what, max(0.0, rest), "difference", "what is left: not told apart from outside")])


def common_parts(session):
    """What every budget is made of, measured once."""
    null = NbdkitNull("nbdkit-null", session.work_dir, session.method["size_bytes"])
    try:
        null.start()
        nbd_us = mean_us(session, Target("nbdkit-null", null.uri, null.size_bytes))
    finally:
        null.stop()
    return {"nbd": nbd_us, "bare": mean_us(session, session.stacks["bare"]), "hop": hops.unix_us(session.work_dir), "threads": hops.threads_us(),
            "link": hops.link_us(session.method["link_rate"])}


def run(session):
    wanted = [s for s in session.ready() if s.name != "bare" and s.name != "custom" and
              not session.results.of("budget", stack=s.name)]
    if not wanted or "bare" not in session.stacks:
        return
    session.eta.add("budget", len(wanted) + 1)
    session.say("where the time goes: the parts")
    try:
        parts = common_parts(session)
    except (BenchError, OSError) as e:
        session.fail("all", "budget", None, e)
        return
    session.eta.finished("budget", 8)
    # local-raw comes first: the other QEMU stacks use its path without a drive.
    for stack in sorted(wanted, key=lambda s: s.name != "local-raw"):
        session.say(f"where the time goes: {stack.name}")
        begin = time.monotonic()
        try:
            kind = of_ashlar if stack.name.startswith("ashlar") else of_hollow if stack.can("hollow") else of_outside
            if kind is not of_ashlar and "qemu" not in parts and stack.name != "local-raw":
                continue  # QEMU's own share is measured on local-raw, which is not in this run
            session.results.append("budget", stack=stack.name, **kind(session, stack, parts))
        except (BenchError, OSError, KeyError) as e:
            session.fail(stack.name, "budget", None, e)
        session.eta.finished("budget", time.monotonic() - begin)
