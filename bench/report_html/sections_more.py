# SPDX-License-Identifier: Apache-2.0
"""The sections beside speed: scenarios over time, curves, scale, and the facts of stacks and machine (see sections)."""
import cost_model

from . import figures, lines
from .context import Section, file_part, heading
from .drawing import colours_of_names, figure
from .markup import element, join, short
from .tables import facts, flat, long, number, table

MODELS_MAX, COLUMNS_MAX = 20, 20


def _scenario_row(title, stack, record):
    r = record.get("result") or {}
    figures_of = ("longest_stall_ms", "errors", "lost", "deviation_percent", "rebuild_s", "rebuild_mib_s",
                  "p99_us_before", "p99_us_during", "blocks_verified")
    return [title, stack, r.get("verdict") or "–", *[number(r.get(name)) for name in figures_of], long(r.get("text") or "")]


def scenarios(context):
    results, shown = context.results, figures.series_by_scenario(context.results)
    if not shown:
        return None
    titles = {s["name"]: s.get("title") for s in results.run.get("scenarios", [])}
    parts, rows = [], []
    for i, (name, of_stacks) in enumerate(shown.items(), 1):
        title = titles.get(name) or name
        absent = [(f["stack"], f"failed: {f.get('text')}") for f in results.lists["failure"]
                  if f.get("what") == name and f.get("stack") and f["stack"] not in of_stacks]
        drawing = lines.scenario(of_stacks, context.colours, results.stack_names(), f"Scenario: {title}", absent)
        parts.append(element("h3", {}, short(title, 120)))
        parts.append(context.draw(f"scenario-{i}-{file_part(name)}", drawing, context.how(scenarios=[name])))
        rows += [_scenario_row(title, stack, record) for stack, record in of_stacks.items()]
    heads = ["scenario", "stack", "verdict", "longest stall ms#", "I/O errors#", "lost#", "% off the rate#", "rebuild s#",
             "rebuild MiB/s#", "p99 µs before#", "p99 µs meanwhile#", "blocks verified#", "in words"]
    return Section("scenarios", "Scenarios", join(
        heading("Scenarios over time",
                "A load at a fixed rate while something happens. Above: completed requests a second, with the target dotted; "
                "below: 99th percentile latency (solid), the longest (faint), the median (dotted). Of several rounds the worst "
                "is shown. Any I/O error fails a scenario."),
        parts, table("Scenarios", heads, rows)))


def _is_wide(values):
    """Do positive values span so much that a log axis reads better?"""
    values = [v for v in values if v is not None]
    return bool(values) and min(values) > 0 and max(values) > 50 * min(values)


def _curve(context, name, file_name, records):
    first = records[0]
    colours = colours_of_names(r["stack"] for r in records)
    colours.update({stack: colour for stack, colour in context.colours.items() if stack in colours})
    data = [(r["stack"], r["stack"], r["x"] or [], r["y"] or [], r.get("low"), r.get("high")) for r in records]
    title, x_name, y_name = first.get("title") or name, first.get("x_name") or "x", first.get("y_name") or "y"
    drawing = lines.curve(data, colours, title, x_name, y_name, log_x=_is_wide([v for _, _, xs, *_ in data for v in xs]))
    rows = [[stack, number(x), number(y)] for stack, _, xs, ys, *_ in data for x, y in zip(xs, ys)]
    own = next((r["command"] for r in records if r.get("command")), None)
    return join(element("h3", {}, short(title, 120)), context.draw(file_name, drawing, context.how(own=own)),
                table(short(title, 120), ["stack", f"{x_name}#", f"{y_name}#"], rows))


def curves(context):
    groups = {}
    for record in context.results.lists["curve"]:
        groups.setdefault(record["curve"], []).append(record)
    parts = [_curve(context, name, f"curve-{i}-{file_part(name)}", records)
             for i, (name, records) in enumerate(groups.items(), 1)]
    return Section("curves", "Curves", join(heading("Curves"), parts)) if parts else None


def _scale_figure(context, workload, rows, own_command):
    xs = [r["nodes"] for r in rows]
    measured, low, high, told = ([r[name] for r in rows] for name in ("measured_iops", "low_iops", "high_iops", "predicted_iops"))
    data = [("measured", "measured", xs, measured, low, high), ("model", "model", xs, told, None, None)]
    drawing = lines.curve(data, {"measured": "blue3", "model": "orange1"}, f"Scale-out on this machine: {workload}", "daemons",
                          "IOPS, all volumes", dashed=("model",), high=200)
    return join(element("h3", {}, short(workload)),
                context.draw(f"scale-{file_part(workload)}", drawing, context.how(own=own_command or "bench/scaleout")))


def scale(context):
    """Measured against foretold: more daemons on one machine."""
    runs = context.results.lists["scale"]
    if not runs:
        return None
    title = "Scale-out on this machine"
    try:
        rows = cost_model.check_scaleout(runs)
    except cost_model.ModelError as error:
        return Section("scale", "Scale-out", heading(title, f"Not compared: {error}."))
    parts = [_scale_figure(context, workload, [r for r in rows if r["workload"] == workload], runs[-1].get("command"))
             for workload in dict.fromkeys(r["workload"] for r in rows)]
    names = ("nodes", "measured_iops", "predicted_iops", "error_percent", "spread_percent", "measured_cpu_us", "predicted_cpu_us")
    cells = [[r["workload"], *[number(r[name]) for name in names], "fitted here" if r["fitted"] else "foretold"] for r in rows]
    heads = ["workload", "daemons#", "measured IOPS#", "model#", "error %#", "spread ± %#", "CPU µs measured#", "model#", "what"]
    return Section("scale", "Scale-out", join(
        heading(title, "The same load on the same cores and drive, spread over more daemons: not more hardware, but the cost of "
                       "more daemons. The model is fitted to the smallest cluster alone; the band is the range of the rounds."),
        parts, table("Measured and foretold", heads, cells)))


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _model(context, record):
    rows = [row for row in record["rows"] if row]
    names = list(dict.fromkeys(name for row in rows for name in row))[:COLUMNS_MAX]
    heads = [name.replace("_", " ") + ("#" if any(_is_number(row.get(name)) for row in rows) else "") for name in names]
    cells = [[number(row[n]) if _is_number(row.get(n)) else flat(row.get(n)) for n in names] for row in rows]
    question = short(record["question"] or "What would a larger cluster give?", 200)
    assumed = "; ".join(str(item) for item in record.get("assumptions") or ["nothing stated"])
    given = [(name, flat(list(one.values()) if isinstance(one, dict) else one)) for name, one in (record.get("inputs") or {}).items()]
    inputs = element("details", {}, element("summary", {}, f"Inputs ({len(given)}): value, unit, measured or assumed"), facts(given))
    return join(element("h3", {}, question), table(question, heads, cells), element("p", {"class": "say"}, "Assumes: ", assumed),
                inputs if given else None, context.how(own=record.get("command")))


def model(context):
    records = context.results.lists["model"][:MODELS_MAX]
    return Section("model", "Model", join(
        heading("What the model says of scale", "Predicted, not measured: from the cost of one I/O here."),
        [_model(context, record) for record in records])) if records else None


def _stack_row(results, name):
    record, check = results.stacks.get(name) or {}, results.flush_checks.get(name)
    known = record.get("facts") or {}
    copies = known.get("replicas")
    return [name, record.get("title") or "–", record.get("state") or "–", number(copies if _is_number(copies) else None),
            check["verdict"] if check else "not checked",
            f"{figure(check.get('flushes_seen'))} of {figure(check.get('writes'))}" if check else "–",
            *[long(flat(known.get(key) or "–")) for key in ("cache", "flush", "path", "versions", "notes")]]


def stacks(context):
    results = context.results
    rows = [_stack_row(results, name) for name in results.stack_names()]
    heads = ["stack", "what it is", "state", "copies#", "a flush", "flushes seen", "cache", "flush", "path", "versions", "notes"]
    return Section("stacks", "Stacks", join(
        heading("The stacks, and whether a flush reaches the drive",
                "Seen counts flushes at the drive for the flushed writes that a client sent. A stack whose flushes do not arrive "
                "is not durable, however fast it is."), table("Stacks", heads, rows))) if rows else None


def machine(context):
    run, results = context.results.run, context.results
    end = results.end or {}
    pairs = [("command", run.get("command")), *((run.get("machine") or {}).items()), *((run.get("method") or {}).items()),
             ("resumed", f"{results.resumed} times" if results.resumed else None),
             ("took", f"{figure(end['seconds'] / 60)} minutes" if end.get("seconds") else None)]
    others = []
    for workload in results.workloads():
        found = figures.summary([record.get("others_cores") for stack in results.stack_names()
                                 for record in results.rounds(workload, stack).values()])
        if found:
            others.append([workload.title, number(found["median"]), number(found["high"])])
    beside = figures.reference(results)
    names = next((list(found) for found in beside.values()), [])
    drift = [[stack, *[number(found.get(name)) for name in names]] for stack, found in beside.items()]
    return Section("machine", "Machine", join(
        heading("Machine and method"), facts([(key, flat(value)) for key, value in pairs if value is not None]),
        table("Cores used by processes that are no part of the test", ["workload", "median#", "most#"], others) if others else None,
        table("The reference job beside the runs of each stack: equal, if the machine was the same for all (medians)",
              ["stack", *[f"{name}#" for name in names]], drift) if drift else None))
