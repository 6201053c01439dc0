# SPDX-License-Identifier: Apache-2.0
"""Plain-language answers to the questions that a reader has, each with its evidence; pure functions.

Happy path: answers(results) is a list of Answer: a sentence, how it came out (good, bad, mixed, open), and the figures
that it rests on. Nothing that the noise could explain is said as a difference.
Failure modes: a question whose stacks were not measured is answered "open", with what is missing.
"""
from dataclasses import dataclass, field
from math import inf

from . import figures
from .drawing import times_text, time_text
from .figures import FASTER, NOISE, SLOWER, compare, geometric_mean
from .markup import short

GOOD, BAD, MIXED, OPEN, FACT = "good", "bad", "mixed", "open", "fact"
LISTED_MAX = 9


@dataclass
class Answer:
    question: str
    outcome: str
    text: str
    evidence: list = field(default_factory=list)
    label: str = ""   # in one or two words


def of_role(results, *roles):
    return [s for s in results.stack_names() if results.role(s) in roles]


def storage_workloads(results):
    """Those that the headline is about: not the controls, and not what a guest's processor dwarfs."""
    return [w for w in results.workloads() if w.group not in ("control", "guest")]


def listed(names):
    names = [short(name, 60) for name in names]
    more = f" and {len(names) - LISTED_MAX} more" if len(names) > LISTED_MAX else ""
    return ", ".join(names[:LISTED_MAX]) + more


def _spread(comparisons):
    ratios = [c.ratio["median"] for c in comparisons]
    return f"{times_text(min(ratios))} to {times_text(max(ratios))}"


def _evidence(comparisons, base):
    lines = []
    for c in comparisons:
        if c.ratio:
            said = f" ({c.said})" if c.said else ""
            lines.append(f"{c.workload.title}: {c.stack} is {times_text(c.ratio['median'])} {base} "
                         f"[{times_text(c.ratio['low'])} to {times_text(c.ratio['high'])}, {c.ratio['count']} rounds]{said}")
        else:
            lines.append(f"{c.workload.title}: {c.stack}: {c.said}")
    return lines


def against_bare(results):
    """The question that started it all."""
    floor = results.floor()
    question = "How much slower than bare metal is each way of giving a VM its disk?"
    if not floor:
        return Answer(question, OPEN, "No bare-metal floor was measured, so no slowdown can be told.")
    parts, evidence = [], []
    for stack in [s for s in results.stack_names() if s != floor]:
        row = [compare(results, w, stack, floor) for w in storage_workloads(results)]
        good = [c for c in row if c.ratio]
        if good:
            parts.append((geometric_mean([c.ratio["median"] for c in good]), stack))
            noise = sum(c.call == NOISE for c in good)
            evidence.append(f"{stack}: {times_text(parts[-1][0])} on geometric average over {len(good)} of {len(row)} workloads, "
                            f"{_spread(good)}" + (f"; {noise} below the noise" if noise else ""))
        else:
            evidence.append(f"{stack}: {results.trouble(stack) or 'nothing to compare'}")
    if not parts:
        return Answer(question, OPEN, f"Nothing could be compared with {floor}.", evidence)
    parts.sort()
    means = listed(f"{s} {times_text(mean)}" for mean, s in parts)
    text = f"On geometric average over the storage workloads, from the least: {means}."
    return Answer(question, FACT, text + " An average hides much: the figure has each workload.", evidence)


def duel(results, stack, rival):
    """Does stack beat rival? Workload by workload, rounds paired."""
    question = f"Does {stack} beat {rival}?"
    for name in (stack, rival):
        if results.trouble(name):
            return Answer(question, OPEN, f"Not known: {name} {results.trouble(name)}.")
    row = [compare(results, w, stack, rival) for w in storage_workloads(results)]
    row = [c for c in row if c.ratio or c.value]
    faster = [c for c in row if c.call == FASTER]
    slower = [c for c in row if c.call == SLOWER]
    undecided = [c for c in row if c not in faster and c not in slower]
    if not row:
        return Answer(question, OPEN, "Not known: they have no workload in common.")
    said = []
    if faster:
        said.append(f"faster in {len(faster)} (up to {times_text(1 / min(c.ratio['median'] for c in faster))}: "
                    f"{listed(c.workload.name for c in faster)})")
    if slower:
        said.append(f"slower in {len(slower)} (up to {times_text(max(c.ratio['median'] for c in slower))}: "
                    f"{listed(c.workload.name for c in slower)})")
    if undecided:
        said.append(f"no difference above the noise in {len(undecided)} ({listed(c.workload.name for c in undecided)})")
    outcome = GOOD if faster and not slower else BAD if slower and not faster else MIXED if faster else OPEN
    lead = {GOOD: "Yes", BAD: "No", MIXED: "In part", OPEN: "Not decided"}[outcome]
    text = f"{lead}: of {len(row)} workloads {stack} is {'; '.join(said)}."
    return Answer(question, outcome, text, _evidence(row, rival), lead.lower())


def durability(results):
    question = "Does any stack win by lying about durability?"
    checks = results.flush_checks
    if not checks:
        return Answer(question, OPEN, "No flush was checked in this run.")
    liars = [s for s, c in checks.items() if c["verdict"] == "does not reach the drive"]
    unsure = [s for s, c in checks.items() if c["verdict"] == "undecided"]
    unchecked = [s for s in results.stack_names() if s not in checks and not results.trouble(s)]
    evidence = [f"{s}: {c['verdict']}" + (f"; {c['text']}" if c.get("text") else "") for s, c in checks.items()]
    if liars:
        text = f"Yes: flushes of {listed(liars)} do not reach the drive; its write figures are not comparable."
    else:
        text = f"None that was seen: a flush was followed to the drive in {len(checks) - len(unsure)} of {len(checks)} stacks."
    if unsure:
        text += f" Undecided: {listed(unsure)}."
    if unchecked:
        text += f" Not checked: {listed(unchecked)}."
    return Answer(question, BAD if liars else OPEN if unsure or unchecked else GOOD, text, evidence,
                  "yes" if liars else "none seen" if not unsure and not unchecked else "")


def only_storage(results):
    """The control jobs: does everything slow down, or only storage?"""
    question = "Is it storage that slows down, and not the processor or memory?"
    floor, controls = results.floor(), [w for w in results.workloads() if w.group == "control"]
    others = [s for s in results.stack_names() if floor and s != floor]
    row = [c for c in (compare(results, w, s, floor) for w in controls for s in others) if c.ratio]
    if not row:
        return Answer(question, OPEN, "No control job was compared with the floor in this run.")
    off = [c for c in row if c.is_called and not 0.9 <= c.ratio["median"] <= 1.1]
    outliers = listed(f"{c.workload.name} on {c.stack} {times_text(c.ratio['median'])}" for c in off)
    text = (f"Not only: {outliers}." if off else
            f"Yes: the control jobs stay within 10 % of {floor} or in the noise ({_spread(row)}).")
    return Answer(question, BAD if off else GOOD, text, _evidence(row, floor), "not only" if off else "yes")


def when_things_break(results):
    question = "What does the workload notice when something happens?"
    shown = figures.series_by_scenario(results)
    if not shown:
        return Answer(question, OPEN, "No scenario was run.")
    passed, failed, evidence, worst = [], [], [], {}
    for scenario, by_stack in shown.items():
        for stack, record in by_stack.items():
            result = record.get("result") or {}
            {"pass": passed, "fail": failed}.get(result.get("verdict"), []).append(f"{scenario} on {stack}")
            stall = result.get("longest_stall_ms")
            if stall is not None and stall > worst.get(stack, (-inf,))[0]:
                worst[stack] = (stall, scenario)
            evidence.append(f"{scenario}, {stack}: {result.get('verdict') or 'no verdict'}" +
                            (f", longest stall {time_text(stall * 1e3)}" if stall is not None else "") +
                            (f", {result['errors']} I/O errors" if result.get("errors") is not None else "") +
                            (f"; {result['text']}" if result.get("text") else ""))
    text = f"{len(passed)} passed, {len(failed)} failed{' (' + listed(failed) + ')' if failed else ''}."
    if worst:
        stalls = listed(f"{s} {time_text(ms * 1e3)} ({scenario})" for s, (ms, scenario) in worst.items())
        text += f" Longest stalls: {stalls}."
    outcome = BAD if failed and not passed else MIXED if failed else GOOD if passed else OPEN
    return Answer(question, outcome, text, evidence, {BAD: "failed", MIXED: "some failed", GOOD: "all passed"}.get(outcome, ""))


def when_a_controller_dies(results):
    """The arrays' take-over time is assumed; what a cluster does is its own."""
    shown = figures.series_by_scenario(results).get("array-failover", {})
    stalls = {stack: record["result"]["longest_stall_ms"] for stack, record in shown.items()
              if (record.get("result") or {}).get("longest_stall_ms") is not None}
    if not stalls:
        return None
    ordered = sorted(stalls, key=stalls.get)
    text = f"The longest stall, from the least: {listed(f'{s} {time_text(stalls[s] * 1e3)}' for s in ordered)}."
    if any(s.startswith("array") for s in stalls):
        text += " Of an array's the time until its partner takes over is assumed, not measured."
    evidence = [f"{s}: {shown[s]['result'].get('verdict')}; {shown[s]['result'].get('text') or ''}" for s in ordered]
    return Answer("What does a storage controller's death cost, and what a node's?", FACT, text, evidence)


def where_time_goes(results):
    question = "Which layer costs the time?"
    found = figures.budgets(results)
    if not found:
        return Answer(question, OPEN, "No budget was measured.")
    parts, evidence = [], []
    for budget in found:
        top = max(budget.layers, key=lambda layer: layer["us"])
        share, total = 100 * top["us"] / budget.total_us, time_text(budget.total_us)
        parts.append(f"{budget.stack}: {top['name']} ({share:.0f} % of {total})")
        evidence.append(f"{budget.stack}, {budget.workload}: layers add up to {time_text(budget.sum_us)} of {total}"
                        f", {budget.off_percent:.1f} % off{'' if budget.adds_up else ': this budget does not add up'}")
    broken = [b for b in found if not b.adds_up]
    text = f"The largest: {listed(dict.fromkeys(parts))}."
    if broken:
        text += f" {len(broken)} of {len(found)} budgets do not add up within 10 %."
    return Answer(question, MIXED if broken else FACT, text, evidence)


def answers(results):
    arrays, rivals, locals_ = (of_role(results, role) for role in ("array", "rival", "local"))
    ours = of_role(results, "ashlar")
    champion = next((s for s in ours if s.endswith("x3")), ours[-1] if ours else None)
    found = [against_bare(results)]
    if champion:
        found += [duel(results, champion, other) for other in [*arrays, *rivals, *locals_]]
    death = when_a_controller_dies(results)
    return [*found, where_time_goes(results), *([death] if death else []), when_things_break(results), durability(results), only_storage(results)]
