# SPDX-License-Identifier: Apache-2.0
"""What a benchmark run says of itself: the machine, the question, and the tables.

Happy path: machine() describes where it ran; speed_rows() turns samples into compared figures;
print_speed() and print_cpu() show them. Failure modes: a missing fact about the machine reads "unknown".
"""
import os
import platform
import subprocess
import time
from dataclasses import dataclass

import verdict
from load import UNITS


@dataclass(frozen=True)
class Target:
    """A figure that a stack has to reach, as a ratio to the floor (or absolute, for CPU)."""

    stack: str
    workload: str
    bound: float
    at_most: bool

    def text(self):
        return f"{'<=' if self.at_most else '>='} {self.bound:g}x"


TARGETS = [
    Target("ashlar-x3", "read-qd1", 1.5, True),
    Target("ashlar-x3", "read-qd32", 1.1, False),
    Target("ashlar-x3", "seq-read", 0.8, False),
    Target("ashlar-x3", "write-qd1", 3.0, True),
    Target("ashlar-x3", "write-qd32", 0.6, False),
    Target("ashlar-x1", "write-qd1", 1.6, True),
    Target("ashlar-x1", "write-qd32", 0.8, False),
    Target("ashlar-x3", "seq-write", 0.3, False),
    Target("ashlar-x3", "write-flush", 0.4, False),
]
CPU_TARGET_STACK, CPU_TARGET_WORKLOAD, CPU_TARGET_US = "ashlar-x3", "write-qd32", 190.0


def _output_of(*argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
        return done.stdout.strip().splitlines()[0] if done.returncode == 0 else "unknown"
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "unknown"


def _field(path, key):
    try:
        with open(path, encoding="utf-8") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith(key))
    except (OSError, StopIteration):
        return "unknown"


def machine(directory):
    here = os.path.dirname(os.path.abspath(__file__))
    drive = _output_of("findmnt", "--noheadings", "--output", "SOURCE,FSTYPE", "--target", directory)
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "cpu": f"{os.cpu_count()} x {_field('/proc/cpuinfo', 'model name')}",
        "memory": _field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "drive": " ".join(drive.split()),
        "load_average": os.getloadavg()[0],
        "fio": _output_of("fio", "--version"),
        "nbdkit": _output_of("nbdkit", "--version"),
        "qemu": _output_of("qemu-storage-daemon", "--version"),
        "commit": _output_of("git", "-C", here, "rev-parse", "--short", "HEAD"),
    }


def speed_rows(samples, floor, stacks, workloads):
    """samples[workload][stack] is a list of runs, one a round; a compared figure per (workload, stack)."""
    rows = []
    for workload in workloads:
        runs = samples[workload.name]
        base = [run[workload.metric] for run in runs[floor]]
        for stack in stacks:
            if stack == floor:
                continue
            own = [run[workload.metric] for run in runs[stack]]
            ratio = verdict.summary(verdict.ratios(own, base))
            target = next((t for t in TARGETS if (t.stack, t.workload) == (stack, workload.name)), None)
            rows.append({
                "workload": workload.name, "stack": stack, "metric": workload.metric,
                "floor": verdict.summary(base), "value": verdict.summary(own), "ratio": ratio,
                "p99_us": verdict.summary([run["p99_us"] for run in runs[stack]]),
                "target": target.text() if target else None,
                "verdict": verdict.judge(ratio, target.bound, target.at_most) if target
                else verdict.differs(ratio),
            })
    return rows


def cpu_rows(samples, stacks, workloads):
    """Microseconds of CPU a request, by process, medians over the rounds."""
    rows = []
    for workload in workloads:
        for stack in stacks:
            runs = samples[workload.name][stack]
            labels = sorted({label for run in runs for label in run["cpu_us"]})
            shares = {label: verdict.summary([run["cpu_us"].get(label, 0.0) for run in runs])["median"]
                      for label in labels}
            total = verdict.summary([sum(run["cpu_us"].values()) for run in runs])
            row = {"workload": workload.name, "stack": stack, "total_us": total, "shares_us": shares,
                   "target": None, "verdict": None}
            if (stack, workload.name) == (CPU_TARGET_STACK, CPU_TARGET_WORKLOAD):
                row["target"] = f"<= {CPU_TARGET_US:g} us"
                row["verdict"] = verdict.judge(total, CPU_TARGET_US, at_most=True)
            rows.append(row)
    return rows


def print_head(facts, question, baseline, options):
    print(f"question   {question}")
    print(f"machine    {facts['cpu']}, {facts['memory']}, Linux {facts['kernel']}, {facts['drive']}")
    print(f"software   {facts['fio']}; {facts['nbdkit']}; {facts['qemu']}; commit {facts['commit']}")
    print(f"baseline   {baseline}; {options}")
    print(f"time       {facts['time']}, load average before {facts['load_average']:.2f}")
    print("noise      in brackets the span (90 % or the whole range below 8 rounds) of the median;"
          " a ratio is formed round by round")


def _figure(stat, digits=0):
    return f"{stat['median']:.{digits}f} +-{verdict.spread_percent(stat):.0f}%"


def table(header, lines):
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    for line in [header, ["-" * w for w in widths], *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def print_speed(rows, floor):
    lines = []
    for row in rows:
        ratio = row["ratio"]
        lines.append([row["workload"], UNITS[row["metric"]], _figure(row["floor"]), row["stack"],
                      _figure(row["value"]), f"{ratio['median']:.2f}x [{ratio['low']:.2f} {ratio['high']:.2f}]",
                      row["target"] or "-", row["verdict"]])
    print()
    table(["workload", "unit", floor, "stack", "value", "ratio to floor", "target", "verdict"], lines)


def print_cpu(rows):
    lines = []
    for row in rows:
        total = row["total_us"]
        shares = ", ".join(f"{label} {us:.0f}" for label, us in row["shares_us"].items())
        lines.append([row["workload"], row["stack"], f"{total['median']:.0f} [{total['low']:.0f} "
                      f"{total['high']:.0f}]", shares, row["target"] or "-", row["verdict"] or "-"])
    print()
    table(["workload", "stack", "CPU us/request", "of which", "target", "verdict"], lines)
    print("CPU: user + system time of every thread of the named processes; kernel threads belong to nobody")
