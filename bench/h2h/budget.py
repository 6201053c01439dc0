# SPDX-License-Identifier: Apache-2.0
"""Where the time of one 4 KiB write goes, at depth 1: layers measured apart, and whether they add up to the whole.

Happy path: in turns (A B C A B C ...), so that drift of the machine hits parts and wholes alike,
- the whole: fio's mean on the stack; the drive with its file system: fio's mean on the bare file;
- foreign stacks: the same path with a file in RAM at its end (the stack's program `hollow`), then what the bare file on the
  drive costs beyond the bare file in RAM;
- stacks that count themselves (the program `stages`): their counters, each including the next;
- Ashlar: the stages that the gateway stamps into every answer (`ashlar node info --json`), probes in the client library
  (stamps), and the NBD server over no storage.
What is left is named "unexplained" and is no layer: the sum is of what was measured.

Failure modes: a stack without means to look inside gets one layer for what can't be told apart; an error is a failure
record of that stack's budget.
"""
import json
import os
import subprocess
import time

from contextlib import ExitStack
from statistics import mean, median

from h2h import hops, loads, stamps
from stacks import BenchError, NbdkitNull

WORKLOAD, SECONDS, WARMUP_S, SHARE_OFF = "randwrite-qd1", 1, 0.3, 10.0
TURNS, TURNS_QUICK = 5, 3
STAGES = ("total", "gateway", "primary", "network", "drive")
STATS_DEADLINE_S = 5


class Target:
    """What loads.run() wants of a stack."""

    def __init__(self, name, uri, size_bytes):
        self.name, self.uri, self.size_bytes = name, uri, size_bytes

    def pids(self):
        return {}


def sample_of(session, target):
    return loads.run(target, {"name": WORKLOAD}, {"seconds": SECONDS, "warmup_s": WARMUP_S}, session.work_dir)


class Seen:
    """Figures by name, one a turn. What is measured apart is the median of its turns; what is counted in the very runs that
    make a whole, and that whole, are means: so one slow turn is in both."""

    def __init__(self):
        self.lists = {}

    def add(self, name, us):
        self.lists.setdefault(name, []).append(us)

    def __contains__(self, name):
        return name in self.lists

    def __getitem__(self, name):
        return median(self.lists[name])

    def mean(self, name):
        return mean(self.lists[name])


def layer(name, us, how, note=""):
    return {"name": name, "us": round(us, 1), "how": how, "note": note}


def record(total_us, layers):
    """Adds up what was measured; pure."""
    sum_us = sum(part["us"] for part in layers)
    off = 100 * (sum_us - total_us) / total_us
    return {"workload": WORKLOAD, "total_us": round(total_us, 1), "statistic": "mean", "layers": layers,
            "sum_us": round(sum_us, 1), "off_percent": round(off, 1), "adds_up": abs(off) <= SHARE_OFF}


def ashlar_layers(stages, nbd_us, hop_us, how):
    """From the means of the stages; drive and backups run side by side, so only what is beyond the drive counts."""
    inside = max(stages["drive"], stages["network"])
    return [
        layer("load, NBD socket, nbdkit", nbd_us, "measured", "mean of the same load on nbdkit's null plugin"),
        layer("plugin and client, to the daemon and back", hop_us, *how),
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

    @staticmethod
    def means(before, after):
        found = {}
        for stage in STAGES:
            count = after[stage][0] - before[stage][0]
            if count <= 0:
                raise BenchError("the gateway stamped no write")
            found[stage] = (after[stage][1] - before[stage][1]) / count / 1000
        return found


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


def of_ashlar(stack, seen, stages):
    if f"{stack.name} call" in seen:
        hop_us = seen.mean(f"{stack.name} call") - stages["total"]
        how = ("difference", "probed: the plugin's call of the client library, less what the gateway stamped")
    else:
        hop_us, how = seen["hop"], ("measured", "apart: 4 KiB over a unix socket to another process and an answer")
    return ashlar_layers(stages, seen["nbd"], hop_us, how)


def of_hollow(stack, seen):
    """The same path with a file in RAM, then the drive."""
    path_us, layers = seen[f"{stack.name} hollow"], [layer("load, NBD socket, QEMU", seen["qemu"], "measured", "local-raw with its file in RAM")]
    link_us = seen["link"] if stack.name.startswith("array") else 0.0
    if link_us:
        layers.append(layer("link", link_us, "measured", "4 KiB to a process behind such a link and an answer"))
    if stack.name != "local-raw":
        name = "NFS client, filer, QCOW2" if "nfs" in stack.name else "initiator and target" if link_us else "image format"
        layers.append(layer(name, path_us - seen["qemu"] - link_us, "difference",
                            f"{path_us:.0f} us for the same load with a file in RAM at its end, less the above"))
    if "nfs" in stack.name:  # the drive is not on the way of a write: the filer answers from RAM
        return layers
    return [*layers, layer("file system and drive", seen["bare"] - seen["ram"], "difference",
                           f"the same load on the bare file, less {seen['ram']:.0f} us on a bare file in RAM")]


def of_stages(seen, stages):
    """A stack that tells what it spent: from the outermost counter inwards, each includes the next."""
    names, layers = list(stages), [layer("load, NBD socket, QEMU", seen["qemu"], "measured", "local-raw with its file in RAM")]
    for name, inner in zip(names, [*names[1:], None]):
        layers.append(layer(name, stages[name] - stages.get(inner, 0.0), "measured", "by the stack's own counters"))
    return layers


def of_outside(seen, total_us):
    """Nothing can be taken out of it: what is not path, link or drive is one layer."""
    known = [layer("load, NBD socket, QEMU", seen["qemu"], "measured", "local-raw with its file in RAM")]
    return [*known, layer("all behind it", max(0.0, total_us - seen["qemu"]), "difference", "what is left: not told apart from outside")]


class Counters:
    """What a stack's program `stages` prints, sums and counts by name: {"drive": {"count", "sum_us"}}."""

    def __init__(self, stack):
        self.stack = stack

    def settled(self):
        try:
            return {name: (c["count"], c["sum_us"]) for name, c in json.loads(self.stack.call("stages")).items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BenchError("its program 'stages' prints no counters") from None

    @staticmethod
    def means(before, after):
        found = {}
        for name, (count, sum_us) in after.items():
            more = count - before[name][0]
            if more <= 0:
                raise BenchError(f"it counted no write as '{name}'")
            found[name] = (sum_us - before[name][1]) / more
        return found


class Round:
    """All that is up for the budget; failures take a stack out of it."""

    def __init__(self, session, stacks, closing):
        self.session, self.closing, self.seen = session, closing, Seen()
        self.stacks, self.hollow, self.counters, self.before, self.cpu = list(stacks), {}, {}, {}, {}
        self.probes = None

    def drop(self, stack, error):
        self.stacks.remove(stack)
        self.session.fail(stack.name, "budget", None, error)

    def start(self):
        null = NbdkitNull("nbdkit-null", self.session.work_dir, self.session.method["size_bytes"])
        self.closing.callback(null.stop)
        null.start()
        self.null = Target("nbdkit-null", null.uri, null.size_bytes)
        self.ram = self._ram_file()
        for stack in list(self.stacks):
            try:
                self._prepare(stack)
            except (BenchError, OSError) as e:
                self.drop(stack, e)
        try:
            library = os.path.join(self.session.build, "lib", "libashlar.so")
            if any(s.name.startswith("ashlar") for s in self.stacks):
                self.probes = self.closing.enter_context(stamps.Stamps(library))
        except (BenchError, OSError) as e:
            self.session.line(f"bench/headtohead: budget: {e}; the way to the daemon is measured apart")

    def _ram_file(self):
        bare = self.session.stacks["bare"]
        path = f"/dev/shm/h2h-{bare.environment['H2H_TAG']}-bare"
        with open(path, "wb") as f:
            self.closing.callback(os.unlink, path)
            for _ in range(bare.size_bytes >> 20):  # written, not only allocated: a page's first write costs more
                f.write(bytes(1 << 20))
        return Target("ram", f"file:{path}", bare.size_bytes)

    def _prepare(self, stack):
        if stack.can("hollow"):
            self.closing.callback(self._close_hollow, stack)
            uri = stack.call("hollow", "up").splitlines()[-1]
            self.hollow[stack.name] = Target(f"{stack.name} hollow", uri, stack.size_bytes)
        if stack.name.startswith("ashlar") or stack.can("stages"):
            self.counters[stack.name] = Stages(self.session, stack) if stack.name.startswith("ashlar") else Counters(stack)
            self.before[stack.name] = self.counters[stack.name].settled()

    def _close_hollow(self, stack):
        try:
            stack.call("hollow", "down")
        except (BenchError, OSError) as e:
            self.session.fail(stack.name, "down", "hollow", e)

    def turn(self):
        self.seen.add("nbd", self.mean_us(self.null))
        self.seen.add("bare", self.mean_us(self.session.stacks["bare"]))
        self.seen.add("ram", self.mean_us(self.ram))
        self.seen.add("hop", hops.unix_us(self.session.work_dir))
        self.seen.add("link", hops.link_us(self.session.method["link_rate"]))
        for stack in list(self.stacks):
            try:
                self._measure(stack)
            except (BenchError, OSError) as e:
                self.drop(stack, e)

    def mean_us(self, target):
        return sample_of(self.session, target)["metrics"]["lat_us"]["mean"]

    def _measure(self, stack):
        if stack.name in self.hollow:
            us = self.mean_us(self.hollow[stack.name])
            self.seen.add(f"{stack.name} hollow", us)
            if stack.name == "local-raw":
                self.seen.add("qemu", us)
        if self.probes:
            self.probes.clear()
        sample = sample_of(self.session, stack)
        self.seen.add(stack.name, sample["metrics"]["lat_us"]["mean"])
        for label, us in sample["cpu_us"].items():
            self.cpu.setdefault(stack.name, Seen()).add(label, us)
        if self.probes and stack.name.startswith("ashlar"):
            self.seen.add(f"{stack.name} call", self.probes.span_us())

    def conclude(self, stack):
        total_us, stages = self.seen[stack.name], None
        if stack.name in self.counters:
            counters = self.counters[stack.name]
            stages, total_us = counters.means(self.before[stack.name], counters.settled()), self.seen.mean(stack.name)
        if stack.name.startswith("ashlar"):
            layers = of_ashlar(stack, self.seen, stages)
        elif "qemu" not in self.seen:
            return None  # QEMU's own share is measured on local-raw, which is not in this run
        elif stack.name in self.hollow:
            layers = of_hollow(stack, self.seen)
        else:
            layers = of_stages(self.seen, stages) if stages else of_outside(self.seen, total_us)
        cpu = self.cpu[stack.name]
        return {**record(total_us, layers), "cpu_us": {label: cpu.mean(label) for label in cpu.lists}}


def run(session):
    wanted = [s for s in session.ready() if s.name != "bare" and s.name != "custom" and
              not session.results.of("budget", stack=s.name)]
    if not wanted or "bare" not in session.stacks:
        return
    turns = TURNS_QUICK if session.options.quick else TURNS
    session.eta.add("budget", turns)
    with ExitStack() as closing:
        # local-raw comes first: the other QEMU stacks use its path without a drive.
        round_ = Round(session, sorted(wanted, key=lambda s: s.name != "local-raw"), closing)
        try:
            session.say("where the time goes: the parts")
            round_.start()
            for number in range(1, turns + 1):
                session.say(f"where the time goes, turn {number} of {turns}")
                begin = time.monotonic()
                round_.turn()
                session.eta.finished("budget", time.monotonic() - begin)
        except (BenchError, OSError) as e:
            session.fail("all", "budget", None, e)
            return
        for stack in list(round_.stacks):
            try:
                found = round_.conclude(stack)
                if found:
                    session.results.append("budget", stack=stack.name, **found)
            except (BenchError, OSError, KeyError) as e:
                session.fail(stack.name, "budget", None, e)
