# SPDX-License-Identifier: Apache-2.0
"""The sections that answer how fast: each a heading, a sentence, its figure, its table, the command that repeats it.

Each function takes a Context and returns a Section, or None if the run has nothing for it.
"""
from . import bars, figures, questions
from .context import Section, by_stack, heading
from .drawing import colours_of_names, figure, time_text, times_text
from .markup import element, join, short
from .tables import flat, long, number, table

NOISE_NOTE = ("Whiskers: the span that the noise allows for the median (90 %, or the whole range below 8 rounds). Rounds "
              "are paired: each ratio is of runs seconds apart. A faint bar marked ≈ can not be told from 1× in the noise.")
MARKS = {"good": "✓ good", "bad": "✕ bad", "mixed": "± mixed", "open": "? open", "fact": "i facts"}
GROUP_TITLES = {"micro": "Storage alone", "macro": "Programs on a file system in the volume",
                "control": "Controls: no storage, so nothing should change"}
TROUBLES_MAX, EVIDENCE_MAX = 100, 200


def _answer(answer):
    mark = f"{MARKS[answer.outcome][0]} {answer.label}" if answer.label else MARKS[answer.outcome]
    lines = [element("li", {}, short(line, 500)) for line in answer.evidence[:EVIDENCE_MAX]]
    evidence = element("details", {}, element("summary", {}, f"Evidence ({len(answer.evidence)})"), element("ul", {}, lines))
    return element("div", {"class": "answer"}, element("h3", {}, short(answer.question, 200)),
                   element("p", {}, element("span", {"class": f"tag {answer.outcome}"}, mark), short(answer.text, 1500)),
                   evidence if lines else None)


def _runner_verdicts(said):
    rows = [[v.get("question"), v.get("stack") or "–", v.get("workload") or "–",
             number((v.get("ratio") or {}).get("median"), texts=times_text),
             "called" if v.get("called") else "below the noise", long(v.get("text"))] for v in said]
    heads = ["question", "stack", "workload", "ratio#", "noise", "in words"]
    return element("details", {}, element("summary", {}, f"What the runner itself said ({len(said)} verdicts)"),
                   table("Verdicts of the runner", heads, rows, fold=False))


def summary(context):
    parts = [_answer(answer) for answer in questions.answers(context.results)]
    said = context.results.lists["verdict"]
    parts.append(_runner_verdicts(said) if said else None)
    return Section("answers", "Answers", join(heading("Questions and answers"), parts))


def _troubles(results):
    for name, record in results.stacks.items():
        if record["state"] != "ready":
            yield f"{name}: {record['state']}: {record.get('why') or 'no reason given'}"
    for f in results.lists["failure"]:
        yield f"{f.get('stack') or 'the run'}, {f['where']}{' ' + f['what'] if f.get('what') else ''}: {f.get('text')}"
    if results.end is None:
        yield "The run was cut off: there is no end record, so what is missing was not measured."
    elif not results.end["complete"]:
        missing = [str(item) for item in results.end.get("missing") or []]
        yield f"The run is not complete: {len(missing)} measurements are missing ({questions.listed(missing)})."
    for number_of_line, why in results.bad_lines:
        yield f"line {number_of_line} of the results was left out: {why}"
    if results.bad_count > len(results.bad_lines):
        yield f"{results.bad_count} lines in all were left out."
    if results.unknown_kinds:
        yield "Records of kinds that this report does not know: " + flat(results.unknown_kinds)


def trouble(context):
    """Failures, shown early and plainly."""
    items = list(_troubles(context.results))
    if not items:
        return None
    more = len(items) - TROUBLES_MAX
    shown = [element("li", {}, short(item, 400)) for item in items[:TROUBLES_MAX]]
    return Section("trouble", "Failures", join(
        heading("What failed or is missing", "Nothing below is filled in or guessed."),
        element("ul", {"class": "alarm"}, shown), element("p", {}, f"… and {more} more.") if more > 0 else None))


def _slowdown_row(c):
    ratio = c.ratio or {}
    return [c.workload.title, c.stack, number(c.value and c.value["median"]), c.workload.unit,
            *[number(ratio.get(name), texts=times_text) for name in ("median", "low", "high")], number(ratio.get("count")),
            c.said or ("slower" if c.call == figures.SLOWER else "faster")]


def slowdown(context):
    results, floor = context.results, context.floor
    if not floor or not results.samples:
        return None
    parts, rows = [], []
    for group, workloads in [(g, w) for g, w in context.groups.items() if g != "guest"]:
        chosen = figures.slowdowns(results, workloads, context.drawn, floor)
        if not chosen:
            continue
        rows += [_slowdown_row(c) for _, row in chosen for c in row]
        title = GROUP_TITLES.get(group, short(group))
        drawing = bars.slowdown(chosen, context.colours, floor, f"Slowdown against {floor}: {title}")
        parts.append(element("h3", {}, title))
        parts.append(context.draw(f"slowdown-{group}" if group in GROUP_TITLES else f"slowdown-other-{len(parts)}", drawing,
                                  context.how([w.name for w in workloads])))
    heads = ["workload", "stack", "median#", "unit", "slowdown#", "low#", "high#", "rounds#", "verdict"]
    return Section("slowdown", "Slowdown", join(
        heading(f"How many times slower than {short(floor)}",
                "By each workload's own figure: median latency, or rate where the rate is the point. Log axis; right of the "
                "line is slower. ", NOISE_NOTE),
        context.absent(), parts, table("Slowdown, every workload and stack", heads, rows)))


def _has_sides(results, workload):
    """Is it a mixed workload, whose reads and writes are told apart?"""
    return any("read" in record for s in results.stack_names() for record in results.rounds(workload, s).values())


def latency(context):
    results, groups, rows = context.results, [], []
    for workload in [w for w in context.workloads() if w.group not in ("control", "guest")]:
        for side in ("read", "write") if _has_sides(results, workload) else ("metrics",):
            found = by_stack(context, lambda s, w=workload, part=side: figures.percentiles(results, w, s, part))
            if any(p for _, p, _ in found):
                head = workload.title + ("" if side == "metrics" else f": {side}s")
                groups.append((head, found))
                rows += [[head, s, *[number(p.get(k), texts=time_text) for k in figures.PERCENTILES]] for s, p, _ in found if p]
    if not groups:
        return None
    drawing = bars.latency(groups, context.colours, "Latency percentiles")
    return Section("latency", "Latency", join(
        heading("Latency", "Dot: median; ring: 99 of 100 requests are faster; tick: 99.9 %. One log axis for all. "
                           "Medians over the rounds."),
        context.draw("latency", drawing, context.how()),
        table("Latency percentiles", ["workload", "stack", *[f"{p}#" for p in figures.PERCENTILES]], rows)))


def rate(context):
    groups, rows = [], []
    for workload in context.groups["micro"]:
        name, unit = ("mib_s", "MiB/s") if workload.metric == "mib_s" else ("iops", "IOPS")
        found = by_stack(context, lambda s, w=workload, n=name: figures.metric(context.results, w, s, n))
        if any(stat for _, stat, _ in found):
            groups.append((f"{workload.title} ({unit})", found))
            rows += [[workload.title, s, number(stat["median"]), unit, number(stat["low"]), number(stat["high"])]
                     for s, stat, _ in found if stat]
    if not groups:
        return None
    drawing = bars.plain(groups, context.colours, "Requests per second", "")
    return Section("rate", "Rate", join(
        heading("Rate", "Requests (or MiB) a second, median of the rounds; each panel has its own axis."),
        context.draw("rate", drawing, context.how()),
        table("Rate", ["workload", "stack", "median#", "unit", "low#", "high#"], rows)))


def cpu(context):
    groups, rows = [], []
    for workload in context.groups["micro"]:
        found = by_stack(context, lambda s, w=workload: figures.cpu(context.results, w, s))
        if any(shares for _, shares, _ in found):
            groups.append((workload.title, [(s, list(shares.items()), None, why) for s, shares, why in found]))
            rows += [[workload.title, s, number(sum(shares.values())),
                      long(", ".join(f"{n} {figure(us)}" for n, us in shares.items()))] for s, shares, _ in found if shares]
    if not groups:
        return None
    colours = colours_of_names(n for _, found in groups for _, parts, *_ in found for n, _ in parts)
    drawing = bars.stacked(groups, colours, "CPU per request", "Processor time of each process for one request.", columns=2)
    return Section("cpu", "CPU per I/O", join(
        heading("CPU time for one request",
                "User and system time of every process on the path, the load generator included, divided by the requests. "
                "Kernel threads belong to nobody and are not in it."),
        context.draw("cpu", drawing, context.how()),
        table("CPU µs a request", ["workload", "stack", "total µs#", "of which"], rows)))


def _budget_rows(budget):
    for layer in budget.layers:
        yield [budget.stack, budget.workload, layer["name"], number(layer["us"]), number(100 * layer["us"] / budget.total_us),
               layer.get("how") or "–", long(layer.get("note") or "")]
    yield [budget.stack, budget.workload, "not explained", number(budget.rest_us), number(100 * budget.rest_us / budget.total_us),
           "difference", long("adds up within 10 %" if budget.adds_up else "does not add up within 10 %")]


def layers(context):
    found = figures.budgets(context.results)
    if not found:
        return None
    colours = colours_of_names(layer["name"] for b in found for layer in b.layers)
    titles = {w.name: w.title for w in context.results.workloads()}
    groups = {}
    for b in found:
        parts = [(layer["name"], layer["us"]) for layer in b.layers]
        groups.setdefault(titles.get(b.workload, b.workload), []).append((b.stack, parts, b.total_us, ""))
    drawing = bars.stacked(list(groups.items()), colours, "Where the time of one I/O goes",
                           "Layers from the guest's side to the drive and back; hatched: what no layer explains.", "not explained")
    heads = ["stack", "workload", "layer", "µs#", "% of total#", "how", "note"]
    cpu = [[b.stack, b.workload, name, number(us)] for b in found for name, us in b.cpu_us.items()]
    return Section("layers", "Layers", join(
        heading("Where the time of one I/O goes",
                f"Layers of the {short(found[0].statistic)} latency. The line at the end of a bar is the total as measured from "
                "outside; hatched is what the layers leave unexplained, and 'over' says that they claim more than there was."),
        context.draw("layers", drawing, context.how(dict.fromkeys(b.workload for b in found))),
        table("Budget of one I/O", heads, [row for b in found for row in _budget_rows(b)]),
        table("Processor time of the same I/O", ["stack", "workload", "process", "CPU µs#"], cpu) if cpu else None))
