# SPDX-License-Identifier: Apache-2.0
"""Elements of HTML and SVG that escape whatever they are given.

Happy path: element("text", {"x": 1}, "a < b") is Markup; Markup children are kept, any other child is escaped.
Attributes whose value is None or False are left out. The output is well-formed XML as well as HTML.
Failure modes: none for content: what XML or the eye can not bear (control characters, lone surrogates, marks that turn
the reading direction) becomes U+FFFD. A bad tag or attribute name is our own bug: assert.
"""
import re

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9:-]*\Z")
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069"
                    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
_VOID = {"br", "hr", "meta", "link", "input", "path", "rect", "line", "circle", "polyline", "polygon", "use", "col"}


class Markup(str):
    """Text that is markup already."""


def escape(value):
    text = _UNFIT.sub("\ufffd", str(value))
    return Markup(re.sub("[&<>\"']", lambda found: _ESCAPES[found.group()], text))


def short(value, most=60):
    text = str(value)
    return text if len(text) <= most else text[:most - 1] + "…"


def number(value):
    """As short as coordinates need."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _flat(children):
    for child in children:
        if child is None:
            continue
        if isinstance(child, (list, tuple)) or hasattr(child, "__next__"):
            yield from _flat(child)
        else:
            yield child if isinstance(child, Markup) else escape(number(child))


def element(tag, attributes=None, *children):
    assert _NAME.match(tag)
    parts = [f"<{tag}"]
    for name, value in (attributes or {}).items():
        assert _NAME.match(name), name
        if value is not None and value is not False:
            parts.append(f' {name}="{escape(number(value) if value is not True else name)}"')
    content = "".join(_flat(children))
    if tag in _VOID and not content:
        return Markup("".join(parts) + "/>")
    return Markup("".join(parts) + f">{content}</{tag}>")


def join(*children):
    return Markup("".join(_flat(children)))
