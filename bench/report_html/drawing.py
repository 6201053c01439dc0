# SPDX-License-Identifier: Apache-2.0
"""What all charts share: scales, number texts, colours, the frame of an SVG.

A chart is an svg() of a fixed drawing width; the page lets it shrink, and scrolls it on a narrow screen. Colours are
classes, so that one style sheet serves light, dark and print; each meaning is written out as text as well.
"""
import math
import re

from .markup import element, escape, join, number, short

WIDTH = 1080
TICK_SPACE = 48  # least pixels between two marks on an axis
CHAR = 0.58  # mean width of a character, in font sizes, on the generous side

# Okabe and Ito's palette and neighbours: told apart with any colour vision, 3:1 on their ground. (light, dark)
PALETTE = {
    "grey1": ("#5f6b7a", "#a3afbd"), "grey2": ("#8593a3", "#7d8998"), "grey3": ("#98a4b0", "#77848f"),
    "orange1": ("#d55e00", "#ff8a3d"), "orange2": ("#e39a1b", "#ffc061"), "orange3": ("#9c4a0c", "#d98a55"),
    "blue1": ("#7ab8e0", "#cfe8fb"), "blue2": ("#3d93cc", "#8ec9f4"), "blue3": ("#0b66a8", "#4f9fe3"),
    "blue4": ("#134a7c", "#3279bd"), "purple1": ("#a6568f", "#e29ccb"), "purple2": ("#6d4c9f", "#b39ddb"),
    "green1": ("#008766", "#3cc9a3"), "green2": ("#5d9c2a", "#9ad061"), "yellow1": ("#8f8300", "#e8dc55"),
    "red1": ("#b3261e", "#ff8a80"),
}
BY_ROLE = {"floor": ["grey1"], "local": ["grey2", "grey3"], "array": ["orange1", "orange2", "orange3"],
           "ashlar": ["blue1", "blue2", "blue3", "blue4"], "rival": ["purple1", "purple2"],
           "custom": ["green1", "green2", "yellow1"]}
LAYERS = ["blue3", "orange2", "green1", "purple1", "blue1", "orange1", "yellow1", "purple2", "grey1", "orange3"]


def colours_of_stacks(results):
    """{stack: colour name}: hue by role, shades as far apart as they go."""
    by_role = {}
    for stack in results.stack_names():
        by_role.setdefault(results.role(stack) if results.role(stack) in BY_ROLE else "custom", []).append(stack)
    found = {}
    for role, stacks in by_role.items():
        shades = BY_ROLE[role]
        if len(stacks) == 1:
            found[stacks[0]] = shades[len(shades) // 2]
            continue
        step = (len(shades) - 1) / (len(stacks) - 1) if len(stacks) <= len(shades) else 1
        found.update({stack: shades[round(i * step) % len(shades)] for i, stack in enumerate(stacks)})
    return {stack: found[stack] for stack in results.stack_names()}


def colours_of_names(names):
    return {name: LAYERS[i % len(LAYERS)] for i, name in enumerate(dict.fromkeys(names))}


def _colour_rules(shade):
    rules = [f".fill-{name}{{fill:{pair[shade]}}}.line-{name}{{stroke:{pair[shade]}}}.key-{name}{{background:{pair[shade]}}}"
             for name, pair in PALETTE.items()]
    ink, mute, grid, axis, ground, bad, good = [
        ("#1c2733", "#56616e", "#e4e8ec", "#9aa5b1", "#ffffff", "#b3261e", "#00694f"),
        ("#e6ebf1", "#a0acba", "#2b3541", "#5b6776", "#161d26", "#ff8a80", "#4fd1ac")][shade]
    return "".join([
        *rules, f".chart text{{fill:{ink}}}.chart .mute{{fill:{mute}}}.chart .grid{{stroke:{grid}}}",
        f".chart .axis{{stroke:{axis}}}.chart .ground{{fill:{ground}}}",
        f".chart .one,.chart .whisker,.chart .rest{{stroke:{ink}}}",
        f".chart .bad{{fill:{bad}}}.chart .good{{fill:{good}}}.chart .event{{stroke:{bad}}}.chart .stall{{fill:{bad}}}",
        f".chart .band{{fill:{grid}}}.chart .hatch{{stroke:{mute}}}.chart .gap,.chart .halo{{stroke:{ground}}}"])


CHART_CSS = (
    ".chart text{font:12px system-ui,-apple-system,'Segoe UI','Helvetica Neue','DejaVu Sans',sans-serif}"
    ".chart .head{font-size:17px;font-weight:600}.chart .title{font-size:13px;font-weight:600}"
    ".chart .small{font-size:11px}.chart .strong{font-weight:600}"
    ".chart .grid,.chart .axis{stroke-width:1;fill:none}.chart .one{stroke-width:1.5}.chart .whisker{stroke-width:1.2;fill:none}"
    ".chart .curve{fill:none;stroke-width:1.8;stroke-linejoin:round}.chart .thin{stroke-width:1.1}"
    ".chart .event{stroke-width:1.2;stroke-dasharray:4 3}.chart .stall{opacity:.18}.chart .area{opacity:.16}"
    ".chart .noise{opacity:.4}.chart .target{stroke-dasharray:2 3}.chart .hatch{stroke-width:1.2}"
    ".chart .rest,.chart .gap{stroke-width:1}.chart .halo{stroke-width:3.4;opacity:.75}"
    ".chart .range{stroke-width:5;stroke-linecap:round;opacity:.3}.chart .white{fill:#fff}.chart .black{fill:#10161d}")
LIGHT_CSS, DARK_CSS = _colour_rules(0), _colour_rules(1)


def ink_on(colour):
    """The class of text that is readable on a colour, in light and in dark: only dark shades take white."""
    return "white" if colour in ("blue3", "blue4", "purple1", "purple2", "green1", "grey1", "orange3", "red1") else "black"


def style_sheet():
    return CHART_CSS + LIGHT_CSS + "@media screen and (prefers-color-scheme:dark){" + DARK_CSS + "}"


# ---- number texts


def figure(value):
    """Three digits that matter, thousands apart."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "∞"
    size = abs(value)
    if size >= 999.5:
        return f"{value:,.0f}".replace(",", "\u202f") if size < 1e10 else f"{value:.2e}"
    if size == int(size):
        return f"{value:.0f}"
    if size < 0.01:
        return f"{value:.1e}"
    return f"{value:.0f}" if size >= 99.5 else f"{value:.1f}" if size >= 9.95 else f"{value:.2f}"


def time_text(us):
    if us is None:
        return "–"
    return f"{figure(us)} µs" if us < 999.5 else f"{figure(us / 1e3)} ms" if us < 999.5e3 else f"{figure(us / 1e6)} s"


def times_text(ratio):
    """Near 1 two decimals matter, far from it none."""
    if ratio is None or not math.isfinite(ratio) or ratio == int(ratio):
        return f"{figure(ratio)}×"
    if ratio < 1.995:
        return f"{ratio:.2f}×" if ratio > 0.095 else f"{figure(ratio)}×"
    return f"{ratio:.1f}×" if ratio < 9.95 else f"{ratio:.0f}×"


# ---- scales


class Linear:
    def __init__(self, low, high, start, end):
        self.low, self.high, self.start, self.end = low, high if high > low else low + 1, start, end

    def __call__(self, value):
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, -0.02), 1.02) * (self.end - self.start)

    def ticks(self, about=5):
        raw = (self.high - self.low) / about
        step = 10 ** math.floor(math.log10(raw))
        step *= next(m for m in (1, 2, 5, 10) if m * step >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, min(last, first + 20) + 1)]


class Log:
    """Of positive values; what is not positive lies at the low end."""

    def __init__(self, low, high, start, end):
        self.low, self.high = low, max(high, low * 1.5)
        self.start, self.end = start, end

    def __call__(self, value):
        share = math.log(max(value, self.low * 0.9) / self.low) / math.log(self.high / self.low)
        return self.start + min(max(share, -0.02), 1.02) * (self.end - self.start)

    def ticks(self):
        most = max(abs(self.end - self.start) / TICK_SPACE, 1)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 1.2, 1.5, 2, 3, 4, 5, 7), (1, 1.5, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            found = [m * 10.0 ** d for d in decades for m in steps if self.low * 0.999 <= m * 10.0 ** d <= self.high * 1.001]
            if len(found) <= most:
                break
        return found


def log_scale(values, start, end, around=None):
    """A scale over the positive values and around, with a little air."""
    good = [v for v in values if v and v > 0 and math.isfinite(v)] + ([around] if around else [])
    low, high = (min(good), max(good)) if good else (1, 10)
    return Log(low / 1.15, high * 1.15, start, end)


def linear_scale(values, start, end):
    good = [v for v in values if v is not None and math.isfinite(v)]
    return Linear(0, max(good, default=1) * 1.03 or 1, start, end)


# ---- pieces


def text(x, y, content, classes=None, anchor=None):
    return element("text", {"x": float(x), "y": float(y), "class": classes, "text-anchor": anchor}, content)


def line(x1, y1, x2, y2, classes):
    return element("line", {"x1": float(x1), "y1": float(y1), "x2": float(x2), "y2": float(y2), "class": classes})


def rect(x, y, width, height, classes, tip=None, radius=2):
    return element("rect", {"x": float(x), "y": float(y), "width": float(max(width, 0.5)), "height": float(height),
                            "rx": radius, "class": classes}, element("title", {}, tip) if tip else None)


def fits(content, width, size=12):
    """The text cut so that it fits."""
    most = max(int(width / (CHAR * size)), 1)
    return short(content, most)


def axis_x(scale, top, bottom, label, texts=figure):
    ticks = scale.ticks()
    return join([line(scale(t), top, scale(t), bottom, "grid") for t in ticks],
                [text(scale(t), bottom + 14, texts(t), "mute small", "middle") for t in ticks],
                text(scale.end, bottom + 28, label, "mute small", "end") if label else None)


def hatch(identifier):
    return element("defs", {}, element(
        "pattern", {"id": identifier, "width": 6, "height": 6, "patternUnits": "userSpaceOnUse",
                    "patternTransform": "rotate(45)"},
        element("line", {"x1": 0, "y1": 0, "x2": 0, "y2": 6, "class": "hatch"})))


def svg(height, title, description, *content, width=WIDTH):
    """The drawing as it goes into the page."""
    return element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {int(height) + 1}", "class": "chart",
                           "role": "img", "width": width, "height": int(height) + 1, "aria-label": title},
                   element("desc", {}, description), *content)


def key(colours, names, left=0.0, width=WIDTH):
    """Swatches with names, wrapped: (drawing, its height)."""
    x, y, parts = left, 4.0, []
    for name in names:
        shown = short(name, 40)
        space = 24 + len(shown) * 12 * CHAR + 16
        if x + space > left + width and x > left:
            x, y = left, y + 20
        parts += [rect(x, y, 12, 12, f"fill-{colours[name]}"), text(x + 18, y + 10.5, shown)]
        x += space
    return join(parts), y + 26 if parts else 0.0


def moved(drawing, down):
    return element("g", {"transform": f"translate(0 {number(down)})"}, drawing)


_HEAD = re.compile(r'<svg [^>]*viewBox="0 0 (\d+) (\d+)"[^>]*aria-label="([^"]*)"[^>]*>')
MARGIN, TITLE_SPACE = 24, 52


def standalone(drawing):
    """The same drawing as a file of its own: with its style, its title, and a ground to stand on."""
    found = _HEAD.match(drawing)
    assert found
    width, height, title = int(found[1]) + 2 * MARGIN, int(found[2]) + TITLE_SPACE + MARGIN, found[3]
    style = element("style", {}, escape(style_sheet().replace("'", "")))
    return (f'<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" class="chart" role="img" aria-label="{title}">{style}'
            f'<rect class="ground" width="100%" height="100%"/><text x="{MARGIN}" y="32" class="head">{title}</text>'
            f'<g transform="translate({MARGIN} {TITLE_SPACE})">' + drawing[found.end():].removesuffix("</svg>") + "</g></svg>\n")
