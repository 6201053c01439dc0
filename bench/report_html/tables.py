# SPDX-License-Identifier: Apache-2.0
"""Tables that sort by a click or the keyboard and scroll in their own container; keys, facts and commands."""
import math

from .drawing import figure
from .markup import element, join, short

CELL_CHARS_MAX = 600
OPEN_ROWS_MAX = 16  # a longer table is folded away


class Cell:
    """What is shown, and the number to sort by if there is one."""

    def __init__(self, shown, value=None, classes=None):
        self.shown, self.value, self.classes = shown, value, classes


def number(value, shown=None, texts=figure):
    """A cell of a number; nothing measured is a dash that sorts behind."""
    if value is None or not math.isfinite(value):
        return Cell(shown or "–", None, "number")
    return Cell(shown or texts(value), value, "number")


def long(value):
    return Cell(value, None, "long")


def _cell(item):
    item = item if isinstance(item, Cell) else Cell(item, None, "name")
    shown = short(item.shown, CELL_CHARS_MAX) if type(item.shown) is str else item.shown
    value = None if item.value is None else repr(float(item.value))
    return element("td", {"class": item.classes, "data-value": value}, shown)


def table(caption, heads, rows, fold=True):
    """heads: names; a name that ends in '#' heads a column of numbers."""
    top = [element("th", {"scope": "col", "class": "number" if h.endswith("#") else None},
                   element("button", {"type": "button", "title": "Sort by this column"}, h.rstrip("#"))) for h in heads]
    body = [element("tr", {}, [_cell(item) for item in row]) for row in rows]
    whole = element("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": caption},
                    element("table", {"class": "sortable"}, element("caption", {}, caption),
                            element("thead", {}, element("tr", {}, top)), element("tbody", {}, body)))
    if not fold or len(rows) <= OPEN_ROWS_MAX:
        return whole
    return element("details", {}, element("summary", {}, f"All figures as a table ({len(rows)} rows)"), whole)


def facts(pairs):
    """Name and value, one line each."""
    rows = [join(element("dt", {}, short(name, 80)), element("dd", {}, short(value, CELL_CHARS_MAX)))
            for name, value in pairs if value not in (None, "")]
    return element("dl", {"class": "facts"}, rows)


def command(*lines):
    shown = [join(" " if i else "", element("code", {}, line)) for i, line in enumerate(lines)]
    return element("p", {"class": "how"}, "Reproduce: ", shown)


def flat(value, depth=0):
    """Facts of any shape as one text."""
    if isinstance(value, dict) and depth < 4:
        return ", ".join(f"{k} {flat(v, depth + 1)}" for k, v in list(value.items())[:60])
    if isinstance(value, list) and depth < 4:
        return "; ".join(flat(v, depth + 1) for v in value[:60])
    if isinstance(value, float):
        return figure(value)
    return "–" if value is None else short(value, CELL_CHARS_MAX)
