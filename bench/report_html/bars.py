# SPDX-License-Identifier: Apache-2.0
"""Charts of rows: slowdown, throughput, latency percentiles, stacked CPU and layers.

Each panel is one workload; its rows are the stacks, each with its name and its number written out. Panels of one
chart stand in columns and, for slowdown, share one axis.
Failure modes: a row without a figure shows the reason instead of a bar.
"""
from .drawing import (WIDTH, axis_x, figure, fits, hatch, ink_on, key, line, linear_scale, log_scale, moved, rect, svg, text,
                      time_text, times_text)
from .figures import NOISE, ONE_ROUND
from .markup import element, join

ROW, BAR, HEAD, FOOT, GAP = 19, 13, 30, 36, 26
NAME_WIDTH, VALUE_WIDTH = 134, 84


class Grid:
    """Panels in columns, each as high as its rows."""

    def __init__(self, columns, name_width=NAME_WIDTH, value_width=VALUE_WIDTH, foot=FOOT):
        self.columns, self.foot = columns, foot
        self.width = (WIDTH - (columns - 1) * GAP) / columns
        self.name_width, self.value_width = name_width, value_width
        self.placed, self.tops = [], [0.0] * columns

    def place(self, rows):
        """(left, top of the rows, left of the bars, right of the bars, bottom of the rows) of the next panel."""
        column = len(self.placed) % self.columns
        if column == 0:
            self.tops = [max(self.tops)] * self.columns
        left, top = column * (self.width + GAP), self.tops[column] + HEAD
        bottom = top + rows * ROW
        self.tops[column] = bottom + self.foot
        self.placed.append((left, top))
        return left, top, left + self.name_width, left + self.width - self.value_width, bottom

    def height(self):
        return max(self.tops, default=0)


def heading(left, top, width, title, note=None):
    space = width - (min(len(note), 24) * 11 * 0.6 + 10 if note else 0)
    return join(text(left, top - 13, fits(title, space, 12.5), "title"),
                text(left + width, top - 13, fits(note, width * 0.4, 11), "mute small", "end") if note else None)


def row_name(left, width, middle, name):
    return text(left + width - 8, middle + 4, fits(name, width - 8), None, "end")


def reason(x, middle, why, width):
    return text(x + 4, middle + 4, fits(f"✕ {why}", width, 11), "bad small")


def whisker(scale, stat, middle):
    if stat["count"] < 2 or stat["low"] == stat["high"]:
        return None
    low, high = scale(stat["low"]), scale(stat["high"])
    shape = [(low, middle, high, middle), *[(x, middle - 3, x, middle + 3) for x in (low, high)]]
    return join([line(*one, "halo") for one in shape], [line(*one, "whisker") for one in shape])


def measure_name(workload):
    known = {"lat_us.p50": "by median latency", "lat_us.mean": "by mean latency", "iops": "by IOPS", "mib_s": "by MiB/s",
             "aux.tps": "by transactions/s", "aux.ops_s": "by operations/s", "aux.seconds": "by run time"}
    return known.get(workload.metric, f"by {workload.unit}")


# ---- slowdown


def slowdown(groups, colours, base, title):
    """groups: [(workload, comparisons)]; one log axis for all panels, bars start at 1."""
    grid = Grid(2)
    values = [c.ratio[k] for _, row in groups for c in row if c.ratio for k in ("low", "high")]
    parts = []
    for workload, row in groups:
        left, top, start, end, bottom = grid.place(len(row))
        scale = log_scale(values, start, end, around=1)
        parts.append(heading(left, top, grid.width, workload.title, measure_name(workload)))
        parts.append(axis_x(scale, top, bottom, None, lambda t: f"{t:g}×"))
        for i, c in enumerate(row):
            middle = top + i * ROW + ROW / 2
            parts.append(row_name(left, grid.name_width, middle, c.stack))
            parts.append(_slowdown_bar(c, scale, middle, colours, end, grid.value_width, start))
        parts.append(line(scale(1), top - 2, scale(1), bottom, "one"))
        parts.append(text(scale(1), bottom + 27, f"= {fits(base, 120, 11)}", "mute small", "middle"))
    return svg(grid.height() + 4, title, f"Bars right of the line are slower than {base}, left of it faster.", *parts)


def _slowdown_bar(c, scale, middle, colours, end, width, start):
    if not c.ratio:
        return reason(scale(1), middle, c.said, end + width - scale(1))
    x1, x2 = sorted((scale(1), scale(c.ratio["median"])))
    faint = " noise" if c.call in (NOISE, ONE_ROUND) else ""
    tip = (f"{c.stack}: {times_text(c.ratio['median'])} [{times_text(c.ratio['low'])} to {times_text(c.ratio['high'])}], "
           f"{c.ratio['count']} rounds{', ' + c.said if c.said else ''}")
    label = times_text(c.ratio["median"]) + (" ≈" if c.call == NOISE else " (1 run)" if c.call == ONE_ROUND else "")
    return join(rect(x1, middle - BAR / 2, x2 - x1, BAR, f"fill-{colours[c.stack]}{faint}", tip), whisker(scale, c.ratio, middle),
                text(end + 10, middle + 4, label, "mute" if faint else "strong"))


# ---- one number a row


def plain(groups, colours, title, unit, texts=figure, columns=2):
    """groups: [(heading, [(stack, summary or None, why)])]; a linear axis for each panel."""
    grid = Grid(columns)
    parts = []
    for head, rows in groups:
        left, top, start, end, bottom = grid.place(len(rows))
        scale = linear_scale([stat["high"] for _, stat, _ in rows if stat], start, end)
        parts.append(heading(left, top, grid.width, head, unit))
        parts.append(axis_x(scale, top, bottom, None, texts))
        for i, (stack, stat, why) in enumerate(rows):
            middle = top + i * ROW + ROW / 2
            parts.append(row_name(left, grid.name_width, middle, stack))
            if stat is None:
                parts.append(reason(start, middle, why, end + grid.value_width - start))
                continue
            parts.append(rect(start, middle - BAR / 2, scale(stat["median"]) - start, BAR, f"fill-{colours[stack]}",
                              f"{stack}: {texts(stat['median'])} {unit} [{texts(stat['low'])} to {texts(stat['high'])}]"))
            parts.append(whisker(scale, stat, middle))
            parts.append(text(end + 10, middle + 4, texts(stat["median"]), "strong"))
    return svg(grid.height() + 4, title, f"Longer bars: more {unit}.", *parts)


# ---- latency percentiles


def latency(groups, colours, title):
    """groups: [(heading, [(stack, {percentile: µs}, why)])]: from the median (dot) to p99 (ring) and p99.9 (bar)."""
    grid = Grid(2, value_width=132)
    values = [us for _, rows in groups for _, found, _ in rows for name, us in found.items() if name != "max"]
    parts = []
    for head, rows in groups:
        left, top, start, end, bottom = grid.place(len(rows))
        scale = log_scale(values, start, end)
        parts.append(heading(left, top, grid.width, head, "p50 · p99"))
        parts.append(axis_x(scale, top, bottom, None, time_text))
        for i, (stack, found, why) in enumerate(rows):
            middle = top + i * ROW + ROW / 2
            parts.append(row_name(left, grid.name_width, middle, stack))
            if not found:
                parts.append(reason(start, middle, why, end + grid.value_width - start))
                continue
            parts.append(_latency_marks(found, scale, middle, colours[stack], stack))
            shown = " · ".join(time_text(found[p]) for p in ("p50", "p99") if p in found)
            parts.append(text(end + 10, middle + 4, fits(shown, grid.value_width), "strong"))
    return svg(grid.height() + 4, title, "Dot: median. Ring: 99th percentile. Tick: 99.9th percentile. Log axis.", *parts)


def _latency_marks(found, scale, middle, colour, stack):
    low, high = scale(min(found.values())), scale(max(us for name, us in found.items() if name != "max"))
    tip = f"{stack}: " + ", ".join(f"{name} {time_text(us)}" for name, us in found.items())
    marks = [element("line", {"x1": low, "y1": middle, "x2": high, "y2": middle, "class": f"range line-{colour}"},
                     element("title", {}, tip))]
    if "p50" in found:
        marks.append(element("circle", {"cx": scale(found["p50"]), "cy": middle, "r": 5, "class": f"fill-{colour}"}))
    if "p99" in found:
        marks.append(element("circle", {"cx": scale(found["p99"]), "cy": middle, "r": 4.5, "class": f"ground line-{colour}",
                                        "stroke-width": 2}))
    if "p99.9" in found:
        x = scale(found["p99.9"])
        marks.append(element("line", {"x1": x, "y1": middle - 6, "x2": x, "y2": middle + 6, "class": f"line-{colour}",
                                      "stroke-width": 2}))
    return join(marks)


# ---- stacked parts


def stacked(groups, colours, title, description, rest_name=None, columns=1):
    """groups: [(heading, [(stack, [(part, us)], total or None, why)])]; what parts leave of a total is hatched."""
    grid = Grid(columns, name_width=NAME_WIDTH, value_width=150 if columns == 1 else 70)
    identifier = "hatch-" + "".join(c for c in title.lower() if c.isascii() and c.isalnum())[:40]
    names = list(dict.fromkeys(name for _, rows in groups for _, found, *_ in rows for name, _ in found))
    swatches, space = key(colours, names)
    parts = []
    for head, rows in groups:
        left, top, start, end, bottom = grid.place(len(rows))
        scale = linear_scale([max(total or 0, sum(us for _, us in found)) for _, found, total, _ in rows], start, end)
        parts.append(heading(left, top, grid.width, head, "µs"))
        parts.append(axis_x(scale, top, bottom, None))
        for i, (stack, found, total, why) in enumerate(rows):
            middle = top + i * ROW + ROW / 2
            parts.append(row_name(left, grid.name_width, middle, stack))
            if not found:
                parts.append(reason(start, middle, why, end + grid.value_width - start))
                continue
            parts.append(_stack_of(found, total, scale, middle, colours, identifier, rest_name))
            parts.append(text(end + 10, middle + 4, _stack_label(found, total), "strong"))
    return svg(grid.height() + space + 4, title, description, hatch(identifier), swatches, moved(join(parts), space))


def _stack_label(found, total):
    summed = sum(us for _, us in found)
    if total is None:
        return f"{figure(summed)} µs"
    off = 100 * (total - summed) / total
    return f"{figure(total)} µs, {'rest' if off >= 0 else 'over'} {abs(off):.0f} %"


def _stack_of(found, total, scale, middle, colours, identifier, rest_name):
    parts, at, top = [], 0.0, middle - BAR / 2 - 1
    for name, us in found:
        if us <= 0:
            continue
        x, width = scale(at), scale(at + us) - scale(at)
        parts.append(rect(x, top, width, BAR + 2, f"fill-{colours[name]} gap", f"{name}: {figure(us)} µs", 0))
        if width > 26:
            ink = f"small {ink_on(colours[name])}"
            parts.append(text(x + width / 2, middle + 4, fits(figure(us), width, 11), ink, "middle"))
        at += us
    if total is not None and total > at:
        x, width = scale(at), scale(total) - scale(at)
        box = {"x": x, "y": top, "width": max(width, 0.5), "height": BAR + 2, "fill": f"url(#{identifier})", "class": "rest"}
        parts.append(element("rect", box, element("title", {}, f"{rest_name}: {figure(total - at)} µs")))
    if total is not None:
        parts.append(line(scale(total), top - 2, scale(total), top + BAR + 4, "one"))
    return join(parts)
