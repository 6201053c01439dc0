# SPDX-License-Identifier: Apache-2.0
"""What every section of the report is given, and the pieces that all of them are made of."""
import re
import shlex
from dataclasses import dataclass, field

from .drawing import colours_of_stacks
from .markup import element, join, short
from .tables import command

COMMAND_CHARS_MAX = 900


@dataclass
class Section:
    anchor: str
    name: str
    content: object


@dataclass
class Context:
    results: object
    file_name: str
    figures: dict = field(default_factory=dict)   # name: drawing, so that each can be a file of its own

    def __post_init__(self):
        self.colours = colours_of_stacks(self.results)
        self.floor = self.results.floor()
        measured = set(self.results.samples)
        self.drawn = [s for s in self.results.stack_names() if any(stack == s for _, stack in measured)]
        self.groups = {"micro": [], "macro": [], "control": []}
        for workload in self.results.workloads():
            if any(name == workload.name for name, _ in measured):
                self.groups.setdefault(workload.group, []).append(workload)

    def workloads(self, *groups):
        return [w for group in groups or self.groups for w in self.groups[group]]

    def absent(self):
        """One sentence on what stands in no figure, because nothing of it was measured; or None."""
        results = self.results
        stacks = [f"{short(s)} ({short(results.trouble(s) or 'not measured', 120)})" for s in results.stack_names() if s not in self.drawn]
        drawn = {w.name for w in self.workloads()}
        workloads = [short(w.name) for w in results.workloads() if w.name not in drawn]
        parts = [f"{what} {', '.join(names)}" for what, names in (("stacks", stacks), ("workloads", workloads)) if names]
        return element("p", {"class": "say"}, f"Not drawn, because nothing was measured: {'; '.join(parts)}.") if parts else None

    def draw(self, name, drawing, how):
        """The figure with the command that repeats it."""
        self.figures[name] = drawing
        box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": f"figure {name}"}
        return element("figure", {}, element("div", box, drawing), how)

    def how(self, workloads=(), scenarios=(), own=None):
        """The command under a figure: the run's own, narrowed to what the figure shows."""
        if own:
            return command(short(own, COMMAND_CHARS_MAX))
        base = self.results.run.get("command")
        if not base:
            return element("p", {"class": "how"}, "The run did not record its command.")
        narrowed = "|only|scenarios|no-scenarios" if workloads or scenarios else ""
        # The same place again would go on with what is there.
        base = re.sub(rf"\s--(?:out{narrowed})(?:(?:=|\s+)(?!--)\S+)?(?=\s|$)", "", base)
        more = []
        if workloads:
            more.append(f"--only {shlex.quote(','.join(workloads))} --no-scenarios")
        if scenarios:
            quickest = next((w.name for w in self.results.workloads()), None)
            more.append(f"--only {shlex.quote(quickest)}" if quickest else "")
            more.append(f"--scenarios {shlex.quote(','.join(scenarios))}")
        words = " ".join(word for word in [base, *more, "--out again"] if word)
        return command(short(words, COMMAND_CHARS_MAX), "bench/report again/results.jsonl")


def heading(title, *say):
    return join(element("h2", {}, title), element("p", {"class": "say"}, say) if say else None)


def by_stack(context, measure):
    """[(stack, measure(stack), why if it is nothing)]"""
    results = context.results
    return [(s, measure(s), results.trouble(s) or "not measured") for s in context.drawn]


def file_part(name):
    """Of a name from the results, what may stand in a file's name."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in name)[:60]
