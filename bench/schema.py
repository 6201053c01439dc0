# SPDX-License-Identifier: Apache-2.0
"""Is a record what bench/schema.json says? Used by whoever writes or reads a line of results.

Happy path:
- problem(record) is None, or one line that says where and what is wrong;
- check(record) raises BadRecord with that line.

It knows the part of JSON Schema (2020-12) that schema.json uses: type, const, enum, required, properties,
additionalProperties, maxProperties, items, minItems, maxItems, minLength, maxLength, minimum, maximum, allOf,
if/then and $ref into $defs.
Failure modes: a schema with any other word is refused at once (SchemaError), so that no rule is silently ignored.
"""
import functools
import json
import os

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "schema.json")
_NOTES = {"$schema", "title", "description", "$defs"}
_WORDS = {"type", "const", "enum", "required", "properties", "additionalProperties", "maxProperties", "items",
          "minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum", "allOf", "if", "then", "$ref"}
SHOWN_MAX = 60


class BadRecord(ValueError):
    """One line."""


class SchemaError(Exception):
    """The schema itself can not be used."""


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_TYPES = {
    "object": lambda v: isinstance(v, dict), "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str), "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None, "number": _is_number,
    "integer": lambda v: _is_number(v) and v == int(v) if not isinstance(v, float) or v - v == 0 else False,
}


def _shown(value):
    text = ascii(value) if not isinstance(value, (dict, list)) else f"a {type(value).__name__} of {len(value)}"
    return text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "..."


def _place(at):
    return at or "the record"


def _same(a, b):
    return a == b and isinstance(a, bool) == isinstance(b, bool)


class Schema:
    """A schema, its words checked once."""

    def __init__(self, root):
        self.root = root
        self._verify(root)
        for one in root.get("$defs", {}).values():
            self._verify(one)

    def _verify(self, node):
        if not isinstance(node, dict) or set(node) - _WORDS - _NOTES:
            raise SchemaError(f"words that are not known: {sorted(set(node) - _WORDS - _NOTES)}")
        if "$ref" in node:
            self._target(node["$ref"])
        children = list(node.get("properties", {}).values()) + node.get("allOf", [])
        children += [node[word] for word in ("items", "additionalProperties", "if", "then") if word in node]
        for child in children:
            self._verify(child)

    def _target(self, ref):
        name = ref.removeprefix("#/$defs/")
        if name == ref or name not in self.root.get("$defs", {}):
            raise SchemaError(f"$ref to nowhere: {ref}")
        return self.root["$defs"][name]

    def problem(self, value, node=None, at=""):
        """None, or one line."""
        node = self.root if node is None else node
        found = self._plain(value, node, at)
        if found or value is None:
            return found
        if isinstance(value, dict):
            found = self._object(value, node, at)
        elif isinstance(value, list):
            found = self._array(value, node, at)
        return found or self._combined(value, node, at)

    def _plain(self, value, node, at):
        if "type" in node:
            wanted = node["type"] if isinstance(node["type"], list) else [node["type"]]
            if not any(_TYPES[one](value) for one in wanted):
                return f"{_place(at)}: {_shown(value)} is not {' or '.join(wanted)}"
        if "const" in node and not _same(value, node["const"]):
            return f"{_place(at)}: {_shown(value)} is not {_shown(node['const'])}"
        if "enum" in node and not any(_same(value, one) for one in node["enum"]):
            return f"{_place(at)}: {_shown(value)} is none of {', '.join(map(str, node['enum']))}"
        if isinstance(value, str):
            if not node.get("minLength", 0) <= len(value) <= node.get("maxLength", len(value)):
                return f"{_place(at)}: a string of {len(value)} characters"
        elif _is_number(value):
            if not node.get("minimum", value) <= value <= node.get("maximum", value):
                return f"{_place(at)}: {_shown(value)} is out of range"
        return self.problem(value, self._target(node["$ref"]), at) if "$ref" in node else None

    def _object(self, value, node, at):
        for name in node.get("required", ()):
            if name not in value:
                return f"{_place(at)}: no '{name}'"
        if len(value) > node.get("maxProperties", len(value)):
            return f"{_place(at)}: {len(value)} members"
        known = node.get("properties", {})
        others = node.get("additionalProperties")
        for name in value if others is not None else value.keys() & known.keys():
            found = self.problem(value[name], known.get(name, others), f"{at}.{_shown(name)[1:-1]}".lstrip("."))
            if found:
                return found
        return None

    def _array(self, value, node, at):
        if not node.get("minItems", 0) <= len(value) <= node.get("maxItems", len(value)):
            return f"{_place(at)}: {len(value)} items"
        items = node.get("items")
        found = (self.problem(one, items, f"{at}[{i}]") for i, one in enumerate(value)) if items else ()
        return next((one for one in found if one), None)

    def _combined(self, value, node, at):
        for one in node.get("allOf", ()):
            found = self.problem(value, one, at)
            if found:
                return found
        if "if" in node and self.problem(value, node["if"], at) is None:
            return self.problem(value, node.get("then", {}), at)
        return None


@functools.lru_cache(maxsize=1)
def _own():
    with open(PATH, encoding="utf-8") as f:
        return Schema(json.load(f))


def problem(record):
    return _own().problem(record)


def check(record):
    found = problem(record)
    if found:
        raise BadRecord(found)
