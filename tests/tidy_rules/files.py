# SPDX-License-Identifier: Apache-2.0
"""Names, licence lines, head comments, stray words, orphans."""
import os
import re

from .tree import PRODUCT, room_of

SPDX = "SPDX-License-Identifier: Apache-2.0"
_BAD_STEMS = {"util", "utils", "helper", "helpers", "misc"}
_BAD_NAMES = {"base.c", "base.h", "common.c", "common.h"}
README_LINES_MAX = 15
README_ROOMS = [room for room in PRODUCT if room != "client/cli"]

# Text that speaks of one person's machine or of somebody's tracker, not of the project.
_WORDS = (
    (re.compile(r"(?<![\w.$}/-])/(work|home|root)/"), "a path of one machine"),
    (re.compile(r"/tmp/(ash|build)(/|-)"), "a path of one machine"),
    (re.compile(r"(?<![\w/])shared/(architecture|protocol|style|rivals)\b"), "a file not in the tree"),
    (re.compile(r"\bissue\s+#?\d+\b|\bissue\s+#", re.I), "a number in a tracker"),
    (re.compile(r"\b(pkill|killall)\b"), "kills by name: end only the processes you started"),
)


def check_names(tree):
    for path in tree.paths:
        parts = path.split("/")
        name = parts[-1]
        if name in _BAD_NAMES or os.path.splitext(name)[0] in _BAD_STEMS:
            yield path, 1, "a name that says nothing"
        if _BAD_STEMS & set(parts[:-1]):
            yield path, 1, "a folder name that says nothing"


def check_spdx(tree):
    for path in tree.of_kind("c", "h", "py", "sh", "cmake"):
        lines = tree.text(path).split("\n")
        if tree.kind(path) in ("c", "h"):
            if lines[0] != f"/* {SPDX} */":
                yield path, 1, f"the first line must be /* {SPDX} */"
        elif not any(SPDX in line for line in lines[:3]):
            yield path, 1, f"no # {SPDX} in the first three lines"


def check_head_comment(tree):
    for path in tree.of_kind("c"):
        if room_of(path) not in PRODUCT:
            continue
        head = re.match(r"\s*(?://[^\n]*\n|/\*.*?\*/)", tree.text(path).split("\n", 1)[-1], re.S)
        if head is None or head.group(0).strip().count("\n") < 2:
            yield path, 2, "no head comment: what it does, the happy path, the failure modes"


def check_words(tree):
    for path in tree.paths:
        text = tree.text(path)
        if text is None or tree.is_data(path) or path == "LICENSE":
            continue
        if path == "tests/tidy_rules/files.py" or path == "tests/tidy_test":
            continue
        for number, line in enumerate(text.split("\n"), 1):
            for pattern, what in _WORDS:
                match = pattern.search(line)
                if match:
                    yield path, number, f"{what}: {match.group(0)}"


def check_whitespace(tree):
    for path in tree.of_kind("c", "h", "py", "sh", "cmake", "md"):
        text = tree.text(path)
        if text and not text.endswith("\n"):
            yield path, text.count("\n") + 1, "no newline at the end of the file"
        lines = text.split("\n")
        blanks = [n for n, line in enumerate(lines, 1) if line != line.rstrip()]
        tabs = [n for n, line in enumerate(lines, 1) if "\t" in line]
        if blanks:
            yield path, blanks[0], f"blanks at the end of {len(blanks)} lines"
        if tabs and tree.kind(path) in ("c", "h", "py", "cmake"):
            yield path, tabs[0], f"tabs in {len(tabs)} lines"


def check_readme(tree):
    for room in README_ROOMS:
        if not any(path.startswith(room + "/") for path in tree.paths):
            continue
        path = f"{room}/README.md"
        if path not in tree.paths:
            yield path, 1, "the room has no README.md that says its role"
        elif tree.text(path).count("\n") > README_LINES_MAX:
            yield path, README_LINES_MAX + 1, f"more than {README_LINES_MAX} lines"


def check_orphans(tree):
    for path in tree.of_kind("c"):
        folder = os.path.dirname(path)
        name = os.path.basename(path)
        while folder:
            text = tree.text(f"{folder}/CMakeLists.txt") if f"{folder}/CMakeLists.txt" in tree.paths \
                else ""
            stem = os.path.splitext(name)[0]
            if re.search(rf"(?<![\w-]){re.escape(stem)}(?![\w-])", text) or "GLOB" in text:
                break
            folder = os.path.dirname(folder)
        if not folder and not path.startswith("cmake/"):
            yield path, 1, "no CMakeLists.txt builds it"


RULES = {
    "name": ("no file or folder named util, utils, helper, misc, base or common", check_names),
    "spdx": ("the licence line comes first", check_spdx),
    "head-comment": ("a source file opens with its story", check_head_comment),
    "words": ("text speaks of the project only; nothing is killed by name", check_words),
    "whitespace": ("no blanks at line ends, no tabs, a newline at the end", check_whitespace),
    "readme": (f"a room has a README.md of at most {README_LINES_MAX} lines", check_readme),
    "orphan": ("every source file is built", check_orphans),
}
