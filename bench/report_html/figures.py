# SPDX-License-Identifier: Apache-2.0
"""From results to compared figures; pure functions.

Happy path: compare(results, workload, stack, base) pairs the rounds of two stacks into a ratio "how many times slower",
with its spread and what may be said of it; slowdowns() does so for all. Medians are over rounds.
Failure modes: what can not be compared is a Comparison without ratio, whose .said tells why in words.
"""
import math
from dataclasses import dataclass
from statistics import median

import verdict

PERCENTILES = ("p50", "p90", "p95", "p99", "p99.9", "max")
WHOLE_STACK = ("preflight", "up", "flush-check", "fill")   # where a failure leaves nothing of a stack
# From so many rounds on, pairs that all point one way are chance in 3 % at most; below, the spreads must not overlap, either.
PAIRS_SUFFICE = 6
PAIRS_LEAST = 3  # two lie on one side by chance too often
SLOWER, FASTER, NOISE, ONE_ROUND, NO_RATIO = "slower", "faster", "noise", "one round", "none"


@dataclass(frozen=True)
class Comparison:
    """ratio > 1: the stack is that many times slower than the base."""

    workload: object
    stack: str
    base: str
    value: dict = None    # summary of the stack's own figure
    ratio: dict = None
    call: str = NO_RATIO
    said: str = ""

    @property
    def is_called(self):
        return self.call in (SLOWER, FASTER)


def summary(values):
    values = [v for v in values if v is not None and math.isfinite(v)]
    return verdict.summary(values) if values else None


def paired(own, base, lower_is_better):
    """[how many times slower] over the rounds that both have; infinite if nothing was completed."""
    found = []
    for turn in sorted(own.keys() & base.keys()):
        a, b = (own[turn], base[turn]) if lower_is_better else (base[turn], own[turn])
        if a == 0 and b == 0:
            continue
        found.append(a / b if b else math.inf)
    return found


def _why_nothing(results, workload, stack):
    trouble = results.trouble(stack)
    if trouble:
        return trouble
    for failure in results.failures_of(stack, workload.name):
        return f"failed: {failure.get('text') or 'no reason given'}"
    for failure in results.failures_of(stack):
        if failure["where"] in WHOLE_STACK and failure.get("what") in (None, ""):
            return f"failed: {failure.get('text') or 'no reason given'}"
    return "not measured"


def _overlap(a, b):
    return a["low"] <= b["high"] and b["low"] <= a["high"]


def compare(results, workload, stack, base):
    own, other = results.values(workload, stack), results.values(workload, base) if base else {}
    value = summary(own.values())
    if not own:
        return Comparison(workload, stack, base, said=_why_nothing(results, workload, stack))
    if not workload.lower_is_better and not any(own.values()):
        return Comparison(workload, stack, base, value, said="nothing was completed (0)")
    ratios = paired(own, other, workload.lower_is_better)
    if not ratios or not all(0 < r < math.inf for r in ratios):
        why = f"no round that {base} has, too" if not ratios else "0 in a round"
        return Comparison(workload, stack, base, value, said=why if base else "no floor was measured")
    ratio = verdict.summary(ratios)
    if ratio["count"] < 2:
        return Comparison(workload, stack, base, value, ratio, ONE_ROUND, "one round: no verdict")
    if ratio["count"] < PAIRS_LEAST:
        return Comparison(workload, stack, base, value, ratio, NOISE, f"{ratio['count']} rounds: too few to call")
    if ratio["low"] <= 1 <= ratio["high"] or (ratio["count"] < PAIRS_SUFFICE and _overlap(value, summary(other.values()))):
        return Comparison(workload, stack, base, value, ratio, NOISE, "below the noise")
    return Comparison(workload, stack, base, value, ratio, SLOWER if ratio["low"] > 1 else FASTER)


def slowdowns(results, workloads, stacks, base):
    """[(workload, [Comparison of each stack])], the base itself left out."""
    return [(w, [compare(results, w, s, base) for s in stacks if s != base]) for w in workloads]


def geometric_mean(values):
    values = [v for v in values if v and 0 < v < math.inf]
    return math.exp(sum(math.log(v) for v in values) / len(values)) if values else None


def percentiles(results, workload, stack, side="metrics"):
    """{percentile: median over the rounds}, of what was measured."""
    runs = [((r.get(side) or {}).get("lat_us") or {}) for r in results.rounds(workload, stack).values()]
    found = {}
    for name in PERCENTILES:
        values = [run[name] for run in runs if run.get(name)]
        if values:
            found[name] = median(values)
    return found


def metric(results, workload, stack, name):
    """summary of iops or mib_s over the rounds, or None."""
    values = [(r.get("metrics") or {}).get(name) for r in results.rounds(workload, stack).values()]
    return summary(values)


def cpu(results, workload, stack):
    """{process: median CPU µs a request}; {} if it was not measured."""
    runs = [r.get("cpu_us") or {} for r in results.rounds(workload, stack).values()]
    runs = [run for run in runs if run]
    names = dict.fromkeys(name for run in runs for name in run)
    found = {name: median([run.get(name) or 0 for run in runs]) for name in names}
    return {name: us for name, us in found.items() if us > 0}


def reference(results):
    """{stack: {figure of the reference job: median over what ran beside the stack's own runs}}"""
    found = {}
    for (_, stack), rounds in results.samples.items():
        for record in rounds.values():
            for side in (record.get("reference") or {}).values():
                for name, value in (side.items() if isinstance(side, dict) else ()):
                    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                        found.setdefault(name, {}).setdefault(stack, []).append(value)
    stacks = [s for s in results.stack_names() if any(s in by_stack for by_stack in found.values())]
    return {s: {name: median(by_stack[s]) if s in by_stack else None for name, by_stack in found.items()} for s in stacks}


@dataclass(frozen=True)
class Budget:
    """Where the time of one I/O goes: layers that add up to sum_us, and what is left of the measured total."""

    stack: str
    workload: str
    statistic: str
    total_us: float
    layers: list   # of {"name", "us", "how", "note"}
    sum_us: float
    rest_us: float
    cpu_us: dict   # by process

    @property
    def off_percent(self):
        return 100 * abs(self.rest_us) / self.total_us

    @property
    def adds_up(self):
        return self.off_percent <= 10


def budgets(results):
    """The last of each stack and workload; our own addition, not the record's."""
    found = {}
    for record in results.lists["budget"]:
        total = record.get("total_us")
        layers = [layer for layer in record["layers"] if layer.get("us") is not None]
        if not total or not layers:
            continue
        summed = sum(layer["us"] for layer in layers)
        found[record["workload"], record["stack"]] = Budget(
            record["stack"], record["workload"], record.get("statistic") or "mean", total, layers, summed, total - summed,
            record.get("cpu_us") or {})
    return list(found.values())


def series_by_scenario(results):
    """{scenario: {stack: the round with the longest stall}}: the worst is shown, not the best."""
    found = {}
    for record in results.lists["series"]:
        by_stack = found.setdefault(record["scenario"], {})
        kept = by_stack.get(record["stack"])
        if kept is None or _badness(record) > _badness(kept):
            by_stack[record["stack"]] = record
    return found


def _badness(record):
    result = record.get("result") or {}
    return (result.get("verdict") == "fail", result.get("errors") or 0, result.get("longest_stall_ms") or 0)
