# SPDX-License-Identifier: Apache-2.0
"""Line plots as SVG, written by hand: no library, the same bytes from the same figures.

Happy path: svg([Panel(...), ...]) is the text of a file with the panels side by side.
Failure modes: a series may lack points (None): the line ends there.
"""
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 420, 300, 60, 40, 50
COLOURS = ["#0b6e4f", "#c1440e", "#33658a", "#7b2d8b"]


@dataclass
class Panel:
    title: str
    labels: list                                # of the x axis, evenly spaced
    x_title: str
    top: float                                  # of the y axis, which begins at 0
    series: dict = field(default_factory=dict)  # name: values


def _text(x, y, text, anchor="middle", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'


def _panel(panel, x0):
    inner_width, inner_height = WIDTH - LEFT - 20, HEIGHT - TOP - BOTTOM
    step = inner_width / max(1, len(panel.labels) - 1)

    def place(index, value):
        return x0 + LEFT + index * step, TOP + inner_height * (1 - min(value, panel.top) / panel.top)

    out = [_text(x0 + LEFT + inner_width / 2, 20, panel.title, extra=' font-weight="bold"'),
           _text(x0 + LEFT + inner_width / 2, HEIGHT - 10, panel.x_title)]
    for i in range(5):
        value = panel.top * i / 4
        _, y = place(0, value)
        out.append(f'<line x1="{x0 + LEFT}" x2="{x0 + LEFT + inner_width:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(_text(x0 + LEFT - 6, y + 4, f"{value:.3g}", "end"))
    for i, label in enumerate(panel.labels):
        out.append(_text(place(i, 0)[0], TOP + inner_height + 18, str(label)))
    for number, (name, values) in enumerate(panel.series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [place(i, v) for i, v in enumerate(values) if v is not None]
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
                   + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + '"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        if points:  # the name above its last point
            out.append(_text(points[-1][0], points[-1][1] - 8, name, "end", f' fill="{colour}"'))
    return out


def svg(panels):
    width = WIDTH * len(panels)
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" '
             'font-family="sans-serif" font-size="12">', f'<rect width="{width}" height="{HEIGHT}" fill="white"/>']
    for i, panel in enumerate(panels):
        lines += _panel(panel, i * WIDTH)
    return "\n".join([*lines, "</svg>"]) + "\n"
