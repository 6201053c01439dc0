# SPDX-License-Identifier: Apache-2.0
"""Charts over time or over a cause: scenarios with their events marked, curves.

A scenario is a column of strips, one a stack: the rate above (with its target), latency below on a log axis; events are
dashed lines through all strips. A second in which nothing completed is shaded and counted as what it is.
Failure modes: missing values break the line; a stack without a series shows why; long series are thinned to what a
screen can show, keeping the extremes.
"""
import math
import re

from .drawing import Linear, Log, figure, fits, line, linear_scale, log_scale, rect, svg, text, time_text, WIDTH
from .markup import element, join, short

NAME_WIDTH, SIDE_WIDTH = 152, 204
RATE_HIGH, LATENCY_HIGH, EXTRA_HIGH, STRIP_GAP = 58, 40, 24, 20
EXTRAS_MAX = 2
POINTS_MAX = 600
EVENTS_MAX, LABELS_MAX = 200, 8


def points_of(times, values):
    """[(t, value)] of what can be drawn; None where a value is missing."""
    found = []
    for t, value in zip(times or [], values or []):
        if t is None or not math.isfinite(t):
            continue
        found.append((t, value if value is not None and math.isfinite(value) else None))
    return found


def thinned(points, most=POINTS_MAX):
    """Of each bucket the lowest and the highest value, in order."""
    if len(points) <= most:
        return points
    size = math.ceil(2 * len(points) / most)
    found = []
    for i in range(0, len(points), size):
        bucket = points[i:i + size]
        good = [p for p in bucket if p[1] is not None]
        if not good:
            found.append(bucket[0])
            continue
        found.extend(sorted({min(good, key=lambda p: p[1]), max(good, key=lambda p: p[1])}))
    return found


def polylines(points, x, y, classes):
    """One line for each unbroken run of points."""
    runs, current = [], []
    for t, value in points:
        if value is None:
            runs.append(current)
            current = []
        else:
            current.append(f"{x(t):.1f},{y(value):.1f}")
    runs.append(current)
    return join([element("polyline", {"points": " ".join(run if len(run) > 1 else run * 2), "class": f"curve {classes}"})
                 for run in runs if run])


def stalls(points):
    """Spans in which the rate was 0, in seconds of the series."""
    found = []
    for (before, _), (t, value) in zip([(0.0, None), *points], points):
        if value == 0:
            if found and found[-1][1] >= before:
                found[-1] = (found[-1][0], t)
            else:
                found.append((before, t))
    return found


def _side(record, x, top, width):
    result = record.get("result") or {}
    said = result.get("verdict") or "no verdict"
    mark = {"pass": "✓ pass", "fail": "✕ fail"}.get(said, said)
    facts = []
    if result.get("longest_stall_ms") is not None:
        facts.append(f"longest stall {time_text(result['longest_stall_ms'] * 1e3)}")
    if result.get("errors") is not None:
        lost = f", {figure(result['lost'])} lost" if result.get("lost") is not None else ""
        facts.append(f"{figure(result['errors'])} I/O errors{lost}")
    if result.get("deviation_percent") is not None:
        facts.append(f"{figure(result['deviation_percent'])} % off the rate")
    if result.get("rebuild_s") is not None:
        facts.append(f"rebuilt in {figure(result['rebuild_s'])} s")
    if result.get("ready_s") is not None:
        facts.append(f"all ready in {figure(result['ready_s'])} s")
    if result.get("alone_s") is not None:
        facts.append(f"one alone in {figure(result['alone_s'])} s")
    lines = [text(x, top + 12, mark, f"strong {'good' if said == 'pass' else 'bad' if said == 'fail' else 'mute'}")]
    lines += [text(x, top + 28 + 15 * i, fits(fact, width, 11), "small") for i, fact in enumerate(facts)]
    return join(lines)


def _strip(record, stack, x, top, colour, latency_range):
    """One stack's rate and latency; (drawing, its height)."""
    rate = thinned(points_of(record.get("t_s"), record.get("iops")))
    target = record.get("rate_target_iops")
    y = linear_scale([v for _, v in rate] + [target * 1.15 if target else None], top + RATE_HIGH, top)
    parts = [text(NAME_WIDTH - 12, top + 12, fits(stack, NAME_WIDTH - 12), "title", "end"),
             text(NAME_WIDTH - 12, top + 28, "IOPS", "mute small", "end"),
             line(x.start, top + RATE_HIGH, x.end, top + RATE_HIGH, "axis")]
    for begin, end in stalls(points_of(record.get("t_s"), record.get("iops"))):
        tip = f"nothing completed from {figure(begin)} to {figure(end)} s"
        parts.append(rect(x(begin), top, x(end) - x(begin), RATE_HIGH, "stall", tip, 0))
    if target:
        parts.append(line(x.start, y(target), x.end, y(target), "axis target"))
        parts.append(text(x.start + 4, y(target) - 4, f"target {figure(target)}", "mute small"))
    parts.append(polylines(rate, x, y, f"line-{colour}"))
    height = RATE_HIGH
    if latency_range and any(record.get(name) for name in ("lat_us_p99", "lat_us_max", "lat_us_p50")):
        low, high = top + RATE_HIGH + 8 + LATENCY_HIGH, top + RATE_HIGH + 8
        y = Log(*latency_range, low, high)
        ticks = [t for t in y.ticks() if abs(math.log10(t) % 1) < 1e-6]
        parts += [line(x.start, y(t), x.end, y(t), "grid") for t in ticks]
        named = dict.fromkeys(ticks[:1] + ticks[-1:])
        parts += [text(x.start - 6, y(t) + 4, time_text(t), "mute small", "end") for t in named]
        for name, classes in (("lat_us_max", "thin noise"), ("lat_us_p99", ""), ("lat_us_p50", "thin target")):
            parts.append(polylines(thinned(points_of(record.get("t_s"), record.get(name))), x, y, f"line-{colour} {classes}"))
        height += 8 + LATENCY_HIGH
    for name, values in list((record.get("extra") or {}).items())[:EXTRAS_MAX]:
        points = thinned(points_of(record.get("t_s"), values))
        if any(v is not None for _, v in points):
            height += 10 + EXTRA_HIGH
            y = linear_scale([v for _, v in points], top + height, top + height - EXTRA_HIGH)
            most = figure(max(v for _, v in points if v is not None))
            parts += [line(x.start, y(0), x.end, y(0), "grid"), polylines(points, x, y, f"line-{colour} thin"),
                      text(x.start - 6, y(0) - EXTRA_HIGH / 2 + 4, fits(name, NAME_WIDTH - 12, 11), "mute small", "end"),
                      text(x.end - 4, y(y.high) + 9, f"most {most}", "mute small", "end")]
    parts.append(_side(record, x.end + 14, top, SIDE_WIDTH - 14))
    return join(parts), height


def scenario(by_stack, colours, order, title, absent):
    """by_stack: {stack: series record}; absent: [(stack, why)]."""
    records = [(stack, by_stack[stack]) for stack in order if stack in by_stack]
    times = [t for _, r in records for t, _ in points_of(r.get("t_s"), r.get("t_s"))]
    events, labels, noted = _events(records)
    x = Linear(0, max(times, default=1), NAME_WIDTH, WIDTH - SIDE_WIDTH)
    latencies = [v for _, r in records for name in ("lat_us_p50", "lat_us_p99", "lat_us_max")
                 for _, v in points_of(r.get("t_s"), r.get(name)) if v]
    bounds = log_scale(latencies, 0, 1) if latencies else None
    head = 8 + 15 * len(labels)
    top, parts = head + 12.0, []
    for stack, record in records:
        drawn, height = _strip(record, stack, x, top, colours[stack], (bounds.low, bounds.high) if bounds else None)
        parts.append(drawn)
        top += height + STRIP_GAP
    bottom = top - STRIP_GAP + 4
    for t in x.ticks(8):
        parts.append(line(x(t), bottom, x(t), bottom + 4, "axis"))
        parts.append(text(x(t), bottom + 18, f"{figure(t)} s", "mute small", "middle"))
    tops = {t: 16.0 + 15 * i for i, t in enumerate(labels.values())}
    parts += [line(x(t), tops.get(t, head), x(t), bottom, "event") for t, _ in events]
    for i, (label, t) in enumerate(labels.items()):
        right = x(t) < WIDTH * 0.6
        at, anchor = (x(t) + 4, None) if right else (x(t) - 4, "end")
        parts.append(text(at, 20.0 + 15 * i, fits(label, WIDTH * 0.5), "bad strong", anchor))
    bottom += 26
    for stack, why in absent:
        parts += [text(NAME_WIDTH - 12, bottom + 12, fits(stack, NAME_WIDTH - 12), "title", "end"),
                  text(x.start, bottom + 12, fits(f"✕ {why}", WIDTH - NAME_WIDTH, 12), "bad")]
        bottom += 20
    if noted:
        parts.append(text(x.start, bottom + 10, noted, "mute small"))
        bottom += 16
    told = "Rate and latency over time; dashed lines are events, shaded spans are without any completed request."
    return svg(bottom + 4, title, told, *parts)


def _events(records):
    """(events of all stacks, those at nearly the same time and of one name once; {label: where it stands}; a note if some
    are left out). Events that differ by a number alone share a label: snapshot s1 to s9."""
    found = []
    for _, record in records:
        for event in record.get("events") or []:
            t, name = event.get("t_s"), short(event.get("name") or "event", 70)
            if t is not None and not any(name == known and abs(t - at) < 1.0 for at, known in found[-50:]):
                found.append((t, name))
    found.sort()
    kept, alike = found[:EVENTS_MAX], {}
    for t, name in kept:
        alike.setdefault(re.sub(r"\d+", "#", name), []).append((t, name))
    labels = {}
    for some in alike.values():
        if len(some) <= 2:
            labels.update({f"{t:.3g} s: {name}": t for t, name in some})
        else:
            labels[f"{some[0][0]:.3g} to {some[-1][0]:.3g} s: {some[0][1]} … {some[-1][1]} ({len(some)} times)"] = some[0][0]
    shown = dict(sorted(labels.items(), key=lambda item: item[1])[:LABELS_MAX])
    left_out = len(found) - len(kept) + len(labels) - len(shown)
    return kept, shown, f"{left_out} more events are not drawn or not named" if left_out else None


# ---- curves


def curve(records, colours, title, x_name, y_name, log_x=False, dashed=(), high=300):
    """records: [(label, colour key, [x], [y], [low] or None, [high] or None)]."""
    left, right, top = 84, WIDTH - 190, 26
    xs = [v for _, _, x, *_ in records for v in x if v is not None]
    ys = [v for _, _, _, y, low, up in records for some in (y, low or [], up or []) for v in some if v is not None]
    positive = [v for v in xs if v > 0]
    x = log_scale(positive, left, right) if log_x and positive else Linear(min([0, *xs]), max([1, *xs]), left, right)
    bottom = top + high
    y = Linear(0, max(ys, default=1) * 1.08 or 1, bottom, top)
    parts = [text(left, top - 10, y_name, "mute small"), text(right, bottom + 32, x_name, "mute small", "end")]
    for t in y.ticks():
        parts += [line(left, y(t), right, y(t), "grid"), text(left - 8, y(t) + 4, figure(t), "mute small", "end")]
    for t in x.ticks():
        parts += [line(x(t), bottom, x(t), bottom + 4, "axis"), text(x(t), bottom + 18, figure(t), "mute small", "middle")]
    parts.append(line(left, bottom, right, bottom, "axis"))
    ends = []
    for label, key, own_x, own_y, low, up in records:
        points = sorted(p for p in points_of(own_x, own_y) if p[1] is not None)
        if not points:
            continue
        parts.append(_band(own_x, low, up, x, y, colours[key]))
        parts.append(polylines(thinned(points), x, y, f"line-{colours[key]}{' target' if label in dashed else ''}"))
        parts += [element("circle", {"cx": x(t), "cy": y(v), "r": 3.5, "class": f"fill-{colours[key]}"},
                          element("title", {}, f"{label}: {figure(v)} at {figure(t)}")) for t, v in thinned(points, 60)]
        ends.append([y(points[-1][1]), label])
    parts += [text(right + 12, at + 4, fits(label, 170), "strong") for at, label in _spread(ends)]
    return svg(bottom + 44, title, f"{y_name} against {x_name}.", *parts)


def _band(own_x, low, up, x, y, colour):
    if not low or not up:
        return None
    rows = [(t, a, b) for t, a, b in zip(own_x, low, up) if None not in (t, a, b)]
    outline = [(t, b) for t, _, b in rows] + [(t, a) for t, a, _ in reversed(rows)]
    corners = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in outline)
    return element("polygon", {"points": corners, "class": f"area fill-{colour}"}) if rows else None


def _spread(ends, least=15):
    """Labels at the ends of lines, moved apart so that none covers another."""
    placed = []
    for at, label in sorted(ends):
        at = max(at, placed[-1][0] + least) if placed else at
        placed.append((at, label))
    return placed
