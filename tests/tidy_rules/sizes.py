# SPDX-License-Identifier: Apache-2.0
"""A file fits a reader, a function fits a screen."""
import ast
import re
import subprocess

from . import c_text

FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
ALLOW = "tests/tidy.allow"

_SH_OPEN = re.compile(r"^(?:function\s+)?([A-Za-z_]\w*)\s*\(\)\s*[{(]\s*(?:#.*)?$")


def check_files(tree):
    for path in tree.of_kind("c", "h", "py", "sh"):
        lines = tree.text(path).count("\n")
        if lines > FILE_LINES_MAX:
            yield path, lines, f"{lines} lines, {FILE_LINES_MAX} are the most"


def _python_functions(text):
    try:
        nodes = ast.walk(ast.parse(text))
    except SyntaxError as error:
        yield f"(syntax error: {error.msg})", error.lineno or 1, 10 ** 6
        return
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1


def _shell_functions(text):
    name = first = None
    for number, line in enumerate(text.split("\n"), 1):
        match = _SH_OPEN.match(line)
        if match:
            name, first = match.group(1), number
        elif name and line[:1] in ("}", ")"):
            yield name, first, number - first + 1
            name = None


def lengths(tree, path):
    text = tree.text(path)
    kind = tree.kind(path)
    if kind == "py":
        return list(_python_functions(text))
    if kind == "sh":
        return list(_shell_functions(text))
    return [(f.name, f.first, f.last - f.first + 1)
            for f in c_text.functions(c_text.blanked(text))]


def _allowed(text):
    entries = {}
    for line in (text or "").split("\n"):
        fields = line.split("#", 1)[0].split()
        if len(fields) == 2 and fields[1].isdigit():
            entries[fields[0]] = int(fields[1])
    return entries


def check_functions(tree):
    allowed = _allowed(tree.text(ALLOW) if ALLOW in tree.paths else "")
    used = set()
    for path in tree.of_kind("c", "h", "py", "sh"):
        for name, first, lines in lengths(tree, path):
            key = f"{path}:{name}"
            if lines <= FUNCTION_LINES_MAX:
                continue
            used.add(key)
            if lines > allowed.get(key, FUNCTION_LINES_MAX):
                most = allowed.get(key, FUNCTION_LINES_MAX)
                yield path, first, f"{name} has {lines} lines, {most} are the most"
    for key in sorted(set(allowed) - used):
        yield ALLOW, 1, f"{key} is short enough (or gone): take it off the list"


def _git(tree, *args):
    done = subprocess.run(["git", "-C", tree.root, *args], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def check_allow_list(tree):
    if ALLOW not in tree.paths:
        return
    versions = [_allowed(tree.text(ALLOW))]
    for commit in _git(tree, "log", "--format=%H", "--", ALLOW).split():
        versions.append(_allowed(_git(tree, "show", f"{commit}:{ALLOW}")))
    for new, old in zip(versions, versions[1:]):
        for key in sorted(new):
            if new[key] > old.get(key, 0):
                yield ALLOW, 1, f"{key} was added or grew: the list may only shrink"


RULES = {
    "file-size": (f"a file has at most {FILE_LINES_MAX} lines", check_files),
    "function-size": (f"a function has at most {FUNCTION_LINES_MAX} lines (or the number that "
                      f"{ALLOW} grants it)", check_functions),
    "allow-list": (f"{ALLOW} may only shrink", check_allow_list),
}
