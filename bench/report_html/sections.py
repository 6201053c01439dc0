# SPDX-License-Identifier: Apache-2.0
"""The sections of the report: each a heading, a sentence, its figure, its table, and the command that repeats it.

Each function takes a Context and returns a Section, or None if the run has nothing for it. Figures are kept by name,
so that they can be written as files of their own.
"""
import re
import shlex
from dataclasses import dataclass, field

import cost_model

from . import bars, figures, lines, questions
from .drawing import colours_of_names, colours_of_stacks, figure, time_text, times_text
from .markup import element, join, short
from .tables import command, facts, flat, long, number, table

NOISE_NOTE = ("Whiskers: the span that the noise allows for the median (90 %, or the whole range below 8 rounds). Rounds are paired: "
              "each ratio is of runs seconds apart. A faint bar marked ≈ can not be told from 1× in the noise.")


@dataclass
class Section:
    anchor: str
    name: str
    content: object


@dataclass
class Context:
    results: object
    file_name: str
    figures: dict = field(default_factory=dict)   # name: drawing

    def __post_init__(self):
        self.colours = colours_of_stacks(self.results)
        self.floor = self.results.floor()
        self.groups = {"micro": [], "macro": [], "control": []}
        for workload in self.results.workloads():
            self.groups.setdefault(workload.group, []).append(workload)

    def draw(self, name, drawing, how, caption=None):
        """The figure with its caption and its command, and kept as a file to be."""
        self.figures[name] = drawing
        return element("figure", {}, element("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": f"figure {name}"}, drawing),
                       element("figcaption", {}, caption) if caption else None, how)

    def how(self, workloads=(), scenarios=(), own=None):
        """The command under a figure: the run's own, narrowed to what the figure shows."""
        if own:
            return command(own)
        base = self.results.run.get("command")
        if not base:
            return element("p", {"class": "how"}, "The run did not record its command.")
        narrowed = "|only|scenarios|no-scenarios" if workloads or scenarios else ""
        # The same place again would go on with what is there.
        base = re.sub(rf"\s--(?:out{narrowed})(?:(?:=|\s+)(?!--)\S+)?(?=\s|$)", "", base)
        more = [f"--only {shlex.quote(','.join(workloads))} --no-scenarios"] if workloads else []
        more += [f"--scenarios {shlex.quote(','.join(scenarios))}"] if scenarios else []
        return command(short(" ".join([base, *more, "--out again"]), 900), "bench/report again/results.jsonl")


def stacks_rows(context, stacks, measure):
    """[(stack, measure(stack), why if it is nothing)]"""
    return [(s, measure(s), context.results.trouble(s) or "not measured") for s in stacks]


# ---- the sections


def summary(context):
    parts = []
    for answer in questions.answers(context.results):
        mark = {"good": "✓ good", "bad": "✕ bad", "mixed": "± mixed", "open": "? open", "fact": "i facts"}[answer.outcome]
        mark = f"{mark[0]} {answer.label}" if answer.label else mark
        parts.append(element("div", {"class": "answer"}, element("h3", {}, short(answer.question, 200)),
                             element("p", {}, element("span", {"class": f"tag {answer.outcome}"}, mark), short(answer.text, 1500)),
                             element("details", {}, element("summary", {}, f"Evidence ({len(answer.evidence)})"),
                                     element("ul", {}, [element("li", {}, short(line, 500)) for line in answer.evidence[:200]]))
                             if answer.evidence else None))
    said = [v for v in context.results.lists["verdict"]]
    if said:
        rows = [[v.get("question"), v.get("stack") or "–", v.get("workload") or "–", number((v.get("ratio") or {}).get("median"), texts=times_text),
                 "called" if v.get("called") else "below the noise", long(v.get("text"))] for v in said]
        parts.append(element("details", {}, element("summary", {}, f"What the runner itself said ({len(said)} verdicts)"), table(
            "Verdicts of the runner", ["question", "stack", "workload", "ratio#", "noise", "in words"], rows)))
    return Section("answers", "Answers", join(element("h2", {}, "Questions and answers"), parts))


def trouble(context):
    """Failures, shown first and plainly."""
    results = context.results
    items = [f"{name}: {record['state']}: {record.get('why') or 'no reason given'}" for name, record in results.stacks.items()
             if record["state"] != "ready"]
    items += [f"{f.get('stack') or 'the run'}, {f['where']}{' ' + f['what'] if f.get('what') else ''}: {f.get('text')}" for f in results.lists["failure"]]
    if results.end is None:
        items.append("The run was cut off: there is no end record, so what is missing was not measured.")
    elif not results.end["complete"]:
        missing = results.end.get("missing") or []
        items.append(f"The run is not complete: {len(missing)} measurements are missing ({questions.listed(map(str, missing))}).")
    items += [f"line {n} of the results was left out: {why}" for n, why in results.bad_lines]
    if results.bad_count > len(results.bad_lines):
        items.append(f"{results.bad_count} lines in all were left out.")
    if results.unknown_kinds:
        items.append("Records of kinds that this report does not know: " + flat(results.unknown_kinds))
    if not items:
        return None
    shown = [element("li", {}, short(item, 400)) for item in items[:100]]
    return Section("trouble", "Failures", join(
        element("h2", {}, "What failed or is missing"), element("p", {"class": "say"}, "Nothing below is filled in or guessed."),
        element("ul", {"class": "alarm"}, shown), element("p", {}, f"… and {len(items) - 100} more.") if len(items) > 100 else None))


def slowdown(context):
    results, floor = context.results, context.floor
    if not floor or not results.samples:
        return None
    parts, all_rows = [], []
    titles = {"micro": "Storage alone", "macro": "Programs on a file system in the volume",
              "control": "Controls: no storage, so nothing should change"}
    for group, workloads in context.groups.items():
        chosen = [(w, row) for w, row in figures.slowdowns(results) if w in workloads]
        if not chosen:
            continue
        all_rows += [c for _, row in chosen for c in row]
        name = f"slowdown-{group}"
        parts.append(join(element("h3", {}, titles.get(group, short(group))), context.draw(
            name, bars.slowdown(chosen, context.colours, floor, f"Slowdown against {floor}: {titles.get(group, group)}"),
            context.how([w.name for w in workloads] if len(context.groups) > 1 else []))))
    rows = [[c.workload.title, c.stack, number(c.value and c.value["median"]), c.workload.unit,
             number(c.ratio and c.ratio["median"], texts=times_text), number(c.ratio and c.ratio["low"], texts=times_text),
             number(c.ratio and c.ratio["high"], texts=times_text), number(c.ratio and c.ratio["count"]),
             c.said or ("slower" if c.call == figures.SLOWER else "faster")] for c in all_rows]
    return Section("slowdown", "Slowdown", join(
        element("h2", {}, f"How many times slower than {short(floor)}"),
        element("p", {"class": "say"}, "By each workload's own figure: median latency, or rate where the rate is the point. Log axis; right of the line is slower. ",
                NOISE_NOTE), parts,
        table("Slowdown, every workload and stack", ["workload", "stack", "median#", "unit", "slowdown#", "low#", "high#", "rounds#", "verdict"], rows)))


def latency(context):
    results, groups, rows = context.results, [], []
    for workload in [w for w in results.workloads() if w.group != "control"]:
        for side in ("metrics", "read", "write"):
            found = stacks_rows(context, results.stack_names(), lambda s: figures.percentiles(results, workload, s, side))
            if not any(p for _, p, _ in found) or (side == "metrics" and any(
                    "read" in r for s in results.stack_names() for r in results.rounds(workload, s).values())):
                continue
            head = workload.title + ("" if side == "metrics" else f": {side}s")
            groups.append((head, found))
            rows += [[head, s, *[number(p.get(k), texts=time_text) for k in figures.PERCENTILES]] for s, p, _ in found if p]
    if not groups:
        return None
    drawing = bars.latency(groups, context.colours, "Latency percentiles")
    return Section("latency", "Latency", join(
        element("h2", {}, "Latency"), element("p", {"class": "say"}, "Dot: median; ring: 99 of 100 requests are faster; tick: 99.9 %. "
                                              "One log axis for all. Medians over the rounds."),
        context.draw("latency", drawing, context.how()),
        table("Latency percentiles", ["workload", "stack", *[f"{p}#" for p in figures.PERCENTILES]], rows)))


def rate(context):
    results, workloads = context.results, [w for w in context.results.workloads() if w.group == "micro"]
    groups, rows = [], []
    for workload in workloads:
        name = "mib_s" if workload.metric == "mib_s" else "iops"
        found = stacks_rows(context, results.stack_names(), lambda s: figures.metric(results, workload, s, name))
        if any(stat for _, stat, _ in found):
            unit = "MiB/s" if name == "mib_s" else "IOPS"
            groups.append((f"{workload.title} ({unit})", found))
            rows += [[workload.title, s, number(stat["median"]), unit, number(stat["low"]), number(stat["high"])] for s, stat, _ in found if stat]
    if not groups:
        return None
    return Section("rate", "Rate", join(
        element("h2", {}, "Rate"), element("p", {"class": "say"}, "Requests (or MiB) a second, median of the rounds; each panel has its own axis."),
        context.draw("rate", bars.plain(groups, context.colours, "Requests per second", ""), context.how()),
        table("Rate", ["workload", "stack", "median#", "unit", "low#", "high#"], rows)))


def cpu(context):
    results, groups, rows = context.results, [], []
    for workload in [w for w in results.workloads() if w.group == "micro"]:
        found = stacks_rows(context, results.stack_names(), lambda s: figures.cpu(results, workload, s))
        if any(shares for _, shares, _ in found):
            groups.append((workload.title, [(s, list(shares.items()), None, why) for s, shares, why in found]))
            rows += [[workload.title, s, number(sum(shares.values())), long(", ".join(f"{n} {figure(us)}" for n, us in shares.items()))]
                     for s, shares, _ in found if shares]
    if not groups:
        return None
    names = list(dict.fromkeys(n for _, found in groups for _, parts, *_ in found for n, _ in parts))
    colours = colours_of_names(names)
    drawing = bars.stacked(groups, colours, "CPU per request", "Bars are processor time of each process for one request.", columns=2)
    return Section("cpu", "CPU per I/O", join(
        element("h2", {}, "CPU time for one request"),
        element("p", {"class": "say"}, "User and system time of every process on the path, the load generator included, divided by the requests. "
                                       "Kernel threads belong to nobody and are not in it."),
        context.draw("cpu", drawing, context.how()),
        table("CPU µs a request", ["workload", "stack", "total µs#", "of which"], rows)))


def layers(context):
    found = figures.budgets(context.results)
    if not found:
        return None
    colours = colours_of_names(layer["name"] for b in found for layer in b.layers)
    titles = {w.name: w.title for w in context.results.workloads()}
    groups = {}
    for b in found:
        groups.setdefault(titles.get(b.workload, b.workload), []).append((b.stack, [(layer["name"], layer["us"]) for layer in b.layers], b.total_us, ""))
    drawing = bars.stacked(list(groups.items()), colours, "Where the time of one I/O goes",
                           "Layers from the guest's side to the drive and back; hatched: the rest that no layer explains.", "not explained")
    rows = [[b.stack, b.workload, layer["name"], number(layer["us"]), number(100 * layer["us"] / b.total_us), layer.get("how") or "–", long(layer.get("note") or "")]
            for b in found for layer in b.layers]
    rows += [[b.stack, b.workload, "not explained", number(b.rest_us), number(100 * b.rest_us / b.total_us), "difference",
              long("adds up within 10 %" if b.adds_up else "does not add up within 10 %")] for b in found]
    return Section("layers", "Layers", join(
        element("h2", {}, "Where the time of one I/O goes"),
        element("p", {"class": "say"}, f"Layers of the {found[0].statistic} latency. The line at the end of a bar is the total as measured from outside; hatched is what the "
                                       "layers leave unexplained, and 'over' says that they claim more than there was."),
        context.draw("layers", drawing, context.how(dict.fromkeys(b.workload for b in found))),
        table("Budget of one I/O", ["stack", "workload", "layer", "µs#", "% of total#", "how", "note"], rows)))


def scenarios(context):
    results, shown = context.results, figures.series_by_scenario(context.results)
    if not shown:
        return None
    titles = {s["name"]: s.get("title") for s in results.run.get("scenarios", [])}
    order, parts, rows = results.stack_names(), [], []
    for i, (name, by_stack) in enumerate(shown.items()):
        title = titles.get(name) or name
        failed = [(f["stack"], f"failed: {f.get('text')}") for f in results.lists["failure"] if f.get("what") == name and f.get("stack") not in by_stack
                  and f.get("stack")]
        drawing = lines.scenario(by_stack, context.colours, order, f"Scenario: {title}", failed)
        parts.append(join(element("h3", {}, short(title, 120)), context.draw(f"scenario-{i + 1}-{_file_part(name)}", drawing, context.how(scenarios=[name]))))
        for stack, record in by_stack.items():
            r = record.get("result") or {}
            rows.append([title, stack, r.get("verdict") or "–", number(r.get("longest_stall_ms")), number(r.get("errors")), number(r.get("lost")),
                         number(r.get("deviation_percent")), number(r.get("rebuild_s")), number(r.get("blocks_verified")), long(r.get("text") or "")])
    return Section("scenarios", "Scenarios", join(
        element("h2", {}, "Scenarios over time"),
        element("p", {"class": "say"}, "A load at a fixed rate while something happens. Above: completed requests a second, with the target dotted; below: 99th percentile latency "
                                       "(solid), the longest (faint), the median (dotted). Of several rounds the worst is shown. Any I/O error fails a scenario."),
        parts, table("Scenarios", ["scenario", "stack", "verdict", "longest stall ms#", "I/O errors#", "lost#", "% off the rate#", "rebuild s#",
                                   "blocks verified#", "in words"], rows)))


def _file_part(name):
    return "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in name)[:60]


def curves(context):
    groups = {}
    for record in context.results.lists["curve"]:
        groups.setdefault(record["curve"], []).append(record)
    parts = []
    for i, (name, records) in enumerate(groups.items()):
        colours = {**colours_of_names(r["stack"] for r in records), **{s: c for s, c in context.colours.items() if s in {r["stack"] for r in records}}}
        data = [(r["stack"], r["stack"], r["x"] or [], r["y"] or [], r.get("low"), r.get("high")) for r in records]
        xs = [v for r in records for v in r["x"] or [] if v]
        drawing = lines.curve(data, colours, records[0].get("title") or name, records[0].get("x_name") or "", records[0].get("y_name") or "",
                              log_x=bool(xs) and min(xs) > 0 and max(xs) > 50 * min(xs) and not any(v == 0 for r in records for v in r["x"] or []))
        own = next((r["command"] for r in records if r.get("command")), None)
        rows = [[r["stack"], number(x), number(y)] for r in records for x, y in zip(r["x"] or [], r["y"] or [])]
        parts.append(join(element("h3", {}, short(records[0].get("title") or name, 120)), context.draw(f"curve-{i + 1}-{_file_part(name)}", drawing, context.how(own=own)),
                          table(short(name), ["stack", f"{records[0].get('x_name') or 'x'}#", f"{records[0].get('y_name') or 'y'}#"], rows)))
    return Section("curves", "Curves", join(element("h2", {}, "Curves"), parts)) if parts else None


def stacks(context):
    results, rows = context.results, []
    for name in results.stack_names():
        record, check = results.stacks.get(name) or {}, results.flush_checks.get(name)
        known = record.get("facts") or {}
        seen = f"{figure(check.get('flushes_seen'))} of {figure(check.get('writes'))}" if check else "–"
        rows.append([name, record.get("title") or "–", record.get("state") or "–", number(known.get("replicas") if isinstance(known.get("replicas"), int) else None),
                     check["verdict"] if check else "not checked", seen, long(flat(known.get("cache"))), long(flat(known.get("flush"))), long(flat(known.get("path"))),
                     long(flat(known.get("versions") or {})), long(flat(known.get("notes") or []))])
    if not rows:
        return None
    return Section("stacks", "Stacks", join(
        element("h2", {}, "The stacks, and whether a flush reaches the drive"),
        element("p", {"class": "say"}, "Seen counts flushes at the drive for the flushed writes that a client sent. A stack whose flushes do not arrive is not durable, "
                                       "however fast it is."),
        table("Stacks", ["stack", "what it is", "state", "copies#", "a flush", "flushes seen", "cache", "flush", "path", "versions", "notes"], rows)))


def machine(context):
    run, results = context.results.run, context.results
    method = run.get("method") or {}
    pairs = [*((k, flat(v)) for k, v in (run.get("machine") or {}).items()), *((k, flat(v)) for k, v in method.items()),
             ("resumed", f"{results.resumed} times" if results.resumed else None),
             ("took", f"{figure(results.end['seconds'] / 60)} minutes" if results.end and results.end.get("seconds") else None)]
    rows = []
    for workload in results.workloads():
        others = figures.summary([r.get("others_cores") for s in results.stack_names() for r in results.rounds(workload, s).values()])
        if others:
            rows.append([workload.title, number(others["median"]), number(others["high"])])
    drift = [[stack, *[number(v) for v in found.values()]] for stack, found in figures.reference(results).items()]
    names = next((list(found) for found in figures.reference(results).values()), [])
    return Section("machine", "Machine", join(
        element("h2", {}, "Machine and method"), facts([("command", run.get("command")), *pairs]),
        table("Cores used by processes that are no part of the test", ["workload", "median#", "most#"], rows) if rows else None,
        table("The reference job beside the runs of each stack: equal, if the machine was the same for all (medians)",
              ["stack", *[f"{n}#" for n in names]], drift) if drift else None))


def model(context):
    records = context.results.lists["model"]
    parts = []
    for record in records[:20]:
        rows = [r for r in record["rows"] if r]
        heads = list(dict.fromkeys(k for r in rows for k in r))[:20]
        cells = [[number(r.get(h)) if isinstance(r.get(h), (int, float)) and not isinstance(r.get(h), bool) else flat(r.get(h)) for h in heads] for r in rows]
        parts.append(join(element("h3", {}, short(record["question"], 200)), table(
            short(record["question"], 200), [h + "#" if any(isinstance(r.get(h), (int, float)) for r in rows) else h for h in heads], cells),
            element("p", {"class": "say"}, "Assumes: " + "; ".join(str(a) for a in record.get("assumptions") or ["nothing stated"])),
            context.how(own=record.get("command"))))
    return Section("model", "Model", join(element("h2", {}, "What the model says of scale"), parts)) if parts else None


def scale(context):
    """Measured against foretold: more daemons on one machine."""
    runs = context.results.lists["scale"]
    if not runs:
        return None
    try:
        rows = cost_model.check_scaleout(runs)
    except cost_model.ModelError as error:
        return Section("scale", "Scale-out", join(element("h2", {}, "Scale-out on this machine"), element("p", {"class": "say"}, f"Not compared: {error}.")))
    parts = []
    for workload in dict.fromkeys(r["workload"] for r in rows):
        own = [r for r in rows if r["workload"] == workload]
        xs = [r["nodes"] for r in own]
        data = [("measured", "measured", xs, [r["measured_iops"] for r in own], [r["low_iops"] for r in own], [r["high_iops"] for r in own]),
                ("model", "model", xs, [r["predicted_iops"] for r in own], None, None)]
        drawing = lines.curve(data, {"measured": "blue3", "model": "orange1"}, f"Scale-out on this machine: {workload}", "daemons", "IOPS, all volumes", dashed=("model",), high=200)
        parts.append(join(element("h3", {}, short(workload)), context.draw(f"scale-{_file_part(workload)}", drawing, context.how(own=runs[-1].get("command") or "bench/scaleout"))))
    cells = [[r["workload"], number(r["nodes"]), number(r["measured_iops"]), number(r["predicted_iops"]), number(r["error_percent"]), number(r["spread_percent"]),
              number(r["measured_cpu_us"]), number(r["predicted_cpu_us"]), "fitted here" if r["fitted"] else "foretold"] for r in rows]
    return Section("scale", "Scale-out", join(
        element("h2", {}, "Scale-out on this machine"),
        element("p", {"class": "say"}, "The same load on the same cores and drive, spread over more daemons: not more hardware, but the cost of more daemons. The model is "
                                       "fitted to the smallest cluster alone; the band is the range of the rounds."), parts,
        table("Measured and foretold", ["workload", "daemons#", "measured IOPS#", "model#", "error %#", "spread ± %#", "CPU µs measured#", "model#", "what"], cells)))


ALL = [summary, trouble, slowdown, latency, rate, cpu, layers, scenarios, curves, scale, model, stacks, machine]
