# SPDX-License-Identifier: Apache-2.0
"""Reads the JSON lines of a run (RESULTS.md) into one object that everybody can ask.

Happy path: results = read(path); results.values(workload, stack) are the compared figures, one a round.
Failure modes: a file that can not be read, or holds no usable record, raises BadResults with one line. A line that
is cut off, too long, no JSON or not what schema.json says is counted, named in .bad_lines, and left out.
"""
import json
import math
from dataclasses import dataclass, field

import schema

LINE_BYTES_MAX = 16 << 20
RECORDS_MAX = 1_000_000
BAD_LINES_SHOWN = 20
STORED_ONCE = ("stack", "flush-check")
LISTED = ("series", "budget", "curve", "scale", "model", "verdict", "failure")


class BadResults(Exception):
    """One line for the user."""


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    group: str
    metric: str
    lower_is_better: bool

    @property
    def unit(self):
        if self.metric.startswith("lat_us"):
            return "µs"
        return {"iops": "IOPS", "mib_s": "MiB/s", "aux.mib_s": "MiB/s", "aux.seconds": "s", "aux.tps": "transactions/s",
                "aux.ops_s": "operations/s"}.get(self.metric, self.metric.removeprefix("aux."))


@dataclass
class Results:
    path: str
    run: dict = field(default_factory=dict)
    resumed: int = 0
    end: dict = None
    stacks: dict = field(default_factory=dict)        # name: its record
    flush_checks: dict = field(default_factory=dict)  # name: its record
    samples: dict = field(default_factory=dict)       # (workload, stack): {round: record}
    lists: dict = field(default_factory=lambda: {kind: [] for kind in LISTED})
    bad_count: int = 0
    bad_lines: list = field(default_factory=list)     # (line number, why), the first few
    unknown_kinds: dict = field(default_factory=dict)
    records: int = 0

    def add(self, record):
        kind = record["kind"]
        self.records += 1
        if kind == "run":
            self.resumed += bool(self.run)
            self.run = record
        elif kind == "stack":
            self.stacks[record["stack"]] = record
        elif kind == "flush-check":
            self.flush_checks[record["stack"]] = record
        elif kind == "sample":
            self.samples.setdefault((record["workload"], record["stack"]), {})[record["round"]] = record
        elif kind == "end":
            self.end = record
        elif kind in self.lists:
            self.lists[kind].append(record)
        else:
            self.unknown_kinds[kind] = self.unknown_kinds.get(kind, 0) + 1

    def reject(self, number, why):
        self.bad_count += 1
        if len(self.bad_lines) < BAD_LINES_SHOWN:
            self.bad_lines.append((number, why))

    # -- asking

    def stack_names(self):
        """In the order of the run; then those that only turn up in records."""
        named = [*self.run.get("stacks", []), *self.stacks, *(stack for _, stack in self.samples)]
        named += [record["stack"] for kind in ("series", "budget") for record in self.lists[kind]]
        return list(dict.fromkeys(named))

    def workloads(self):
        found = {w["name"]: Workload(w["name"], w.get("title") or w["name"], w.get("group") or "micro", w["metric"],
                                     w["better"] == "lower") for w in self.run.get("workloads", [])}
        for name, _ in self.samples:
            found.setdefault(name, Workload(name, name, "micro", "iops", False))
        return list(found.values())

    def role(self, stack):
        return (self.stacks.get(stack) or {}).get("role") or guess_role(stack)

    def floor(self):
        """The stack that others are compared with, or None."""
        names = self.stack_names()
        return next((s for s in names if self.role(s) == "floor"), "bare" if "bare" in names else None)

    def rounds(self, workload, stack):
        return self.samples.get((workload.name, stack), {})

    def values(self, workload, stack):
        """{round: figure}; a round that could not be measured is absent, 0 is 0."""
        found = {n: metric_of(record, workload.metric) for n, record in self.rounds(workload, stack).items()}
        return {n: value for n, value in found.items() if value is not None}

    def trouble(self, stack):
        """Why there is nothing of a stack, or None."""
        record = self.stacks.get(stack)
        if record and record["state"] != "ready":
            return f"{record['state']}: {record.get('why') or 'no reason given'}"
        return None

    def failures_of(self, stack, what=None):
        return [f for f in self.lists["failure"] if f.get("stack") == stack and (what is None or f.get("what") == what)]


def guess_role(stack):
    for role, starts in (("floor", ("bare",)), ("local", ("local",)), ("array", ("array",)), ("ashlar", ("ashlar",)),
                         ("rival", ("ceph", "vitastor"))):
        if stack.startswith(starts):
            return role
    return "custom"


def metric_of(sample, metric):
    """metric is iops, mib_s, lat_us.p50, aux.NAME: a finite number or None."""
    head, _, rest = metric.partition(".")
    if head == "aux":
        value = (sample.get("aux") or {}).get(rest)
    elif head == "lat_us":
        value = ((sample.get("metrics") or {}).get("lat_us") or {}).get(rest)
    else:
        value = (sample.get("metrics") or {}).get(head)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if good else None


def _constant(text):
    raise ValueError(f"{text} is no JSON")


def _lines(file):
    """(number, bytes or None if longer than allowed) of each line."""
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) <= LINE_BYTES_MAX:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(LINE_BYTES_MAX)
        yield number, None


def _take(results, number, line):
    if line is None:
        results.reject(number, f"longer than {LINE_BYTES_MAX >> 20} MiB")
        return
    if not line.strip():
        return
    try:
        record = json.loads(line, parse_constant=_constant)
    except RecursionError:
        results.reject(number, "nested too deep")
        return
    except ValueError as error:
        results.reject(number, f"no JSON: {ascii(str(error))[1:81]}" if line.endswith(b"\n") else "cut off")
        return
    try:
        schema.check(record)
    except (schema.BadRecord, RecursionError) as error:
        results.reject(number, str(error) or "nested too deep")
        return
    results.add(record)


def read(path):
    results = Results(path)
    try:
        with open(path, "rb") as file:
            for number, line in _lines(file):
                if results.records >= RECORDS_MAX:
                    results.reject(number, f"more than {RECORDS_MAX} records; the rest is left out")
                    break
                _take(results, number, line)
    except OSError as error:
        raise BadResults(f"{path}: {error.strerror}") from None
    if not results.records:
        why = f"; line {results.bad_lines[0][0]}: {results.bad_lines[0][1]}" if results.bad_lines else ""
        raise BadResults(f"{path}: no result in it{why}")
    return results
