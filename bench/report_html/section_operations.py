# SPDX-License-Identifier: Apache-2.0
"""The section on control operations beside a load: how long each took, in each scenario that has any (see sections)."""
from . import bars, figures
from .context import Section, file_part, heading
from .drawing import time_text
from .markup import element, join, short
from .tables import number, table

NAMES_MAX = 24
SPANS = (("until all are ready", "ready_s"), ("one alone", "alone_s"))


def _stat(operation):
    """A bar to the median, a whisker to the worst."""
    middle, worst = (operation or {}).get("median_ms"), (operation or {}).get("worst_ms")
    return None if middle is None or worst is None else {"median": middle, "low": middle, "high": worst, "count": 2}


def ms_text(value):
    return time_text(value * 1e3)


def _spans(records, field):
    found = []
    for stack, record in records:
        seconds = (record.get("result") or {}).get(field)
        if seconds is not None:
            found.append((stack, {"median": seconds * 1e3, "low": seconds * 1e3, "high": seconds * 1e3, "count": 1}, ""))
    return found


def operations(context):
    """None if no scenario has any."""
    parts, rows = [], []
    titles = {s["name"]: s.get("title") for s in context.results.run.get("scenarios", [])}
    for scenario, of_stacks in figures.series_by_scenario(context.results).items():
        records = [(s, r) for s, r in of_stacks.items() if (r.get("result") or {}).get("operations")]
        names = list(dict.fromkeys(name for _, r in records for name in r["result"]["operations"]))[:NAMES_MAX]
        groups = [(head, _spans(records, field)) for head, field in SPANS if _spans(records, field)]
        for name in names:
            found = [(s, _stat(r["result"]["operations"].get(name)), "not done") for s, r in records]
            if any(stat for _, stat, _ in found):
                groups.append((short(name, 60), found))
        if not groups:
            continue
        title = short(titles.get(scenario) or scenario, 120)
        drawing = bars.plain(groups, context.colours, f"Operations: {title}", "", texts=ms_text)
        parts += [element("h3", {}, title),
                  context.draw(f"operations-{file_part(scenario)}", drawing, context.how(scenarios=[scenario]))]
        for stack, record in records:
            for name, one in record["result"]["operations"].items():
                rows.append([title, stack, short(name, 60), *[number(one.get(k)) for k in ("count", "median_ms", "worst_ms")]])
    if not parts:
        return None
    heads = ["scenario", "stack", "operation", "count#", "median ms#", "worst ms#"]
    return Section("operations", "Operations", join(
        heading("Control operations beside a load",
                "Bar: median; whisker: the longest. Each is one call of the stack's own commands; the start of the program is in "
                "it (the scenario's words tell what that costs alone)."),
        parts, table("Control operations", heads, rows)))
