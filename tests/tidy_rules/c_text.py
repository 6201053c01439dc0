# SPDX-License-Identifier: Apache-2.0
"""Just enough C: text without comments, strings and directives, and where the functions are."""
import re
from collections import namedtuple

Function = namedtuple("Function", "name first last body")

_SKIP = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.S)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.M)
_NAME_BEFORE = re.compile(r"([A-Za-z_]\w*)\s*$")
_NOT_FUNCTIONS = {"if", "for", "while", "switch", "return", "sizeof", "__attribute__"}


def _blank(match):
    text = match.group(0)
    keep = re.sub(r"[^\n]", " ", text)
    if text[0] in "\"'" and len(text) >= 2:
        return text[0] + keep[1:-1] + text[0]
    return keep


def blanked(text, directives=True):
    """The text with comments, the inside of strings and (if asked) directives turned to blanks;
    every line keeps its number."""
    text = _SKIP.sub(_blank, text)
    if directives:
        text = _DIRECTIVE.sub(_blank, text)
    return text


def _open_paren(text, close):
    depth = 0
    for at in range(close, -1, -1):
        if text[at] == ")":
            depth += 1
        elif text[at] == "(":
            depth -= 1
            if depth == 0:
                return at
    return -1


def _function_name(text, brace, since):
    """The name of the function whose body opens at brace, or None if it is something else."""
    end = brace
    while True:
        head = text[since:end].rstrip()
        if not head.endswith(")"):
            return None
        paren = _open_paren(text, since + len(head) - 1)
        match = _NAME_BEFORE.search(text[since:max(paren, since)])
        if paren <= since or match is None:
            return None
        if match.group(1) != "__attribute__":
            name = match.group(1)
            return None if name in _NOT_FUNCTIONS else (name, since + match.start(1))
        end = since + match.start(1)


def functions(text):
    """Every function definition of a blanked text."""
    found = []
    depth = 0
    since = 0
    current = None
    for match in re.finditer(r"[{};]", text):
        at = match.start()
        char = match.group(0)
        if char == "{":
            if depth == 0:
                named = _function_name(text, at, since)
                current = (named, at) if named else None
            depth += 1
        elif char == "}":
            depth = max(depth - 1, 0)
            if depth == 0 and current:
                (name, start), body = current
                found.append(Function(name, text.count("\n", 0, start) + 1,
                                      text.count("\n", 0, at) + 1, text[body:at + 1]))
                current = None
        if depth == 0:
            since = at + 1
    return found
