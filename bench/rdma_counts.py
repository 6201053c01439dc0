# SPDX-License-Identifier: Apache-2.0
"""Reads what the guest of bench/rdma prints: counts of each run, and the kernel's events of the traced ones.

Happy path: parse() gives each run's counts and, where it was traced, where the data threads of the daemons spent their
instructions; per_write() makes one row of a run with few and one with many writes: what one more write adds.

On the one CPU of the guest events follow each other, and its clock counts instructions: what lies between two events
belongs to whom the first one left running. Events cost instructions themselves, so the trace gives shares only; the
sum is that of the untraced runs.

Failure modes: ValueError, one line, for a run that is missing or whose numbers cannot be.
"""
import re
from dataclasses import dataclass, field

EVENT = re.compile(r"^ *(?P<comm>.+)-(?P<tid>\d+) +\[\d+\] +\S+ +(?P<at>\d+): (?P<name>\w+): ?(?P<rest>.*)$")
NEXT_TID = re.compile(r" next_pid=(\d+)")
SYSCALL_NAME = re.compile(r"^NR (\d+)")
# Where a data thread's instructions go: its own code; io_uring_enter; system calls of the verbs (on a soft device: the
# device itself is in them); other system calls; soft interrupts, which are the network's, or the soft device's.
KINDS = ("user", "ring", "verbs", "other", "softirq")
RING_CALLS = (425, 426, 427)
VERBS_CALLS = (0, 1, 16)  # read of an event, write and ioctl to a device
NODES = (1, 2, 3)


@dataclass
class Run:
    """One run of fio: counts after it less counts before it, and its trace."""

    writes: int = 0
    counts: dict = field(default_factory=dict)
    spent: dict = field(default_factory=dict)     # (node, kind): instructions of a data thread; node 0: all others
    syscalls: dict = field(default_factory=dict)  # (node, number): calls


class Trace:
    """One CPU's events in order."""

    def __init__(self, run, verbs):
        self.run, self.node_of = run, {}
        self.verbs_calls = VERBS_CALLS if verbs else ()
        self.inside = {}  # task: the kind of system call that it is in; else "user"
        self.softirq = False
        self.task = self.at = None

    def add_task(self, node, tid, comm):
        if comm == "data":
            self.node_of[tid] = node

    def _where(self):
        return self.node_of.get(self.task, 0), "softirq" if self.softirq else self.inside.get(self.task, "user")

    def event(self, line):
        found = EVENT.match(line)
        if not found:
            return
        at, tid, name = int(found["at"]), int(found["tid"]), found["name"]
        if self.task is None:
            self.task = tid
        else:
            where = self._where()
            self.run.spent[where] = self.run.spent.get(where, 0) + at - self.at
        self.at = at
        self._apply(name, tid, found["rest"])

    def _apply(self, name, tid, rest):
        if name == "sched_switch":
            self.task = int(NEXT_TID.search(rest).group(1))
        elif name == "softirq_entry":
            self.softirq = True
        elif name == "softirq_exit":
            self.softirq = False
        elif name == "sys_enter":
            number = int(SYSCALL_NAME.match(rest).group(1))
            self.inside[tid] = "ring" if number in RING_CALLS else "verbs" if number in self.verbs_calls else "other"
            key = self.node_of.get(tid, 0), number
            self.run.syscalls[key] = self.run.syscalls.get(key, 0) + 1
        elif name == "sys_exit":
            self.inside[tid] = "user"


def _counts(words):
    return {key: float(value) for key, _, value in (word.partition("=") for word in words) if value}


def parse(text):
    """{(transport, size, run): Run} of everything that the guest printed."""
    runs, before, trace = {}, {}, None
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["figure"] and len(words) > 5:
            key, counts = tuple(words[1:4]), _counts(words[5:])
            run = runs.setdefault(key, Run())
            if words[4] == "before":
                before[key] = counts
            else:
                run.writes = int(counts["writes"])
                run.counts = {name: value - before[key].get(name, 0) for name, value in counts.items()}
                run.counts["iops"] = counts.get("iops", 0)
        elif words[:2] == ["trace", "begin"]:
            trace = Trace(runs.setdefault(tuple(words[2:5]), Run()), words[2] == "rdma")
        elif words[:2] == ["trace", "task"] and trace:
            trace.add_task(int(words[2]), int(words[3]), " ".join(words[4:]))
        elif words[:2] == ["trace", "end"]:
            trace = None
        elif trace:
            trace.event(line)
    return runs


def slope(few, many, value):
    """What one more write adds to value(run)."""
    if many.writes <= few.writes:
        raise ValueError(f"{many.writes} writes are not more than {few.writes}")
    return (value(many) - value(few)) / (many.writes - few.writes)


def per_write(runs, transport, size):
    """{name: value} of one write by this transport, all nodes together."""
    def run(name):
        if (transport, size, name) not in runs or not runs[transport, size, name].counts:
            raise ValueError(f"the run {name} of {size} by {transport} is missing")
        return runs[transport, size, name]

    plain, traced = (run("few"), run("many")), (run("traced-few"), run("traced-many"))
    names = [name for name in plain[1].counts if name not in ("writes", "iops")]
    row = {name: slope(*plain, lambda r, name=name: r.counts.get(name, 0)) for name in names}
    row["ashlard"] = sum(row[f"cpu{node}"] for node in NODES)
    row["data"] = sum(row[f"data{node}"] for node in NODES)
    for kind in KINDS:
        row[kind] = slope(*traced, lambda r, kind=kind: sum(r.spent.get((node, kind), 0) for node in NODES))
    seen = sum(row[kind] for kind in KINDS)
    if seen <= 0:
        raise ValueError(f"the trace of {size} by {transport} shows no daemon at work")
    for kind in KINDS:
        row[kind] *= row["data"] / seen
    row["syscalls"] = slope(*traced, lambda r: sum(n for (node, _), n in r.syscalls.items() if node))
    row["iops"] = plain[1].counts["iops"]
    return row


def syscalls_per_write(runs, transport, size):
    """{number: calls a write} of the daemons."""
    few, many = runs[transport, size, "traced-few"], runs[transport, size, "traced-many"]
    numbers = {number for node, number in many.syscalls if node}
    return {number: slope(few, many, lambda r, number=number: sum(
        n for (node, other), n in r.syscalls.items() if node and other == number)) for number in sorted(numbers)}
