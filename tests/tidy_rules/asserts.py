# SPDX-License-Identifier: Apache-2.0
"""Asserts are many, and stay on."""
import re

from . import c_text
from .tree import PRODUCT, room_of

PER_FUNCTION_MIN = 1.5
_ASSERT = re.compile(r"(?<![\w.>])(assert|\w+_assert)\s*\(")
_NDEBUG = re.compile(r"(-D\s*NDEBUG|#\s*define\s+NDEBUG)\b")


def check_density(tree):
    rooms = {room: [0, 0] for room in PRODUCT if room == "common" or room.startswith("server/")}
    for path in tree.of_kind("c"):
        room = room_of(path)
        if room in rooms:
            for function in c_text.functions(c_text.blanked(tree.text(path))):
                rooms[room][0] += 1
                rooms[room][1] += len(_ASSERT.findall(function.body))
    for room, (functions, asserts) in rooms.items():
        if functions and asserts < PER_FUNCTION_MIN * functions:
            yield (room, 1, f"{asserts} asserts in {functions} functions: "
                   f"{asserts / functions:.2f} a function, {PER_FUNCTION_MIN} are the least")


def check_ndebug(tree):
    for path in tree.of_kind("c", "h", "cmake", "sh", "py"):
        if path.startswith("tests/tidy"):
            continue
        for number, line in enumerate(tree.text(path).split("\n"), 1):
            if _NDEBUG.search(line):
                yield path, number, "asserts stay on in every build"


RULES = {
    "assert-density": (f"at least {PER_FUNCTION_MIN} asserts a function in common/ and each room "
                       "of server/", check_density),
    "ndebug": ("nothing turns asserts off", check_ndebug),
}
