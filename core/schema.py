"""The part of JSON Schema 2020-12 that skills speak: looking into one, and whether a value or another schema fits it.

The full validation is pydantic's, where the skill runs; this is for plans, which are checked before anything starts and
against skills whose code is on another device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Schema = dict[str, Any]

_PYTHON: dict[str, tuple[type, ...]] = {
    "string": (str, bytes), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list, tuple),
    "object": (dict,), "null": (type(None),),
}  # fmt: skip


def resolve(schema: Schema, root: Schema) -> Schema:
    """The schema behind a local `$ref`, if it is one."""
    for _ in range(16):
        ref = schema.get("$ref")
        if not isinstance(ref, str) or not ref.startswith("#/$defs/"):
            return schema
        schema = root.get("$defs", {}).get(ref[8:], {})
    return {}


def _branches(schema: Schema, root: Schema, seen: set[str] | None = None) -> list[Schema]:
    seen = set() if seen is None else seen  # a schema from elsewhere may lead back to itself
    if isinstance(ref := schema.get("$ref"), str):
        if ref in seen:
            return []
        seen.add(ref)
    schema = resolve(schema, root)
    options = schema.get("anyOf") or schema.get("oneOf")
    return [b for o in options for b in _branches(o, root, seen)] if options else [schema]


def at(schema: Schema, path: Sequence[str]) -> Schema | None:
    """The schema of what is at `path` (names and list indexes); `{}`: anything may be there, None: nothing can."""
    root = schema
    for part in path:
        found: list[Schema] = []
        for branch in _branches(schema, root):
            kinds = _kinds(branch)
            more = branch.get("additionalProperties", "properties" not in branch)
            if part in branch.get("properties", {}):
                found.append(branch["properties"][part])
            elif not kinds and not branch.keys() & {"properties", "enum", "const"}:
                found.append({})
            elif "array" in kinds and part.isdecimal():
                found.append(branch.get("items", {}))
            elif "object" in kinds and more is not False:
                found.append({} if more is True else more)
        if not found:
            return None
        schema = found[0] if len(found) == 1 else {"anyOf": found}
    schema = resolve(schema, root)
    return {**schema, "$defs": root["$defs"]} if "$defs" in root and schema else schema


def types(schema: Schema) -> set[str]:
    """The JSON types that a value of this schema may have; empty if any."""
    found: set[str] = set()
    for branch in _branches(schema, schema):
        kinds = _kinds(branch)
        if not kinds and "enum" in branch:
            kinds = [name for v in branch["enum"] for name, py in _PYTHON.items() if type(v) in py]
        if not kinds:
            return set()
        found.update(kinds)
    return found


def _kinds(schema: Schema) -> list[str]:
    kinds = schema.get("type", [])
    return [kinds] if isinstance(kinds, str) else list(kinds)


def fits(source: Schema, target: Schema) -> bool:
    """Whether some value of `source` can be a value of `target`: false only when no value ever could."""
    have, want = types(source), types(target)
    if not have or not want:
        return True
    return bool(have & want) or ("integer" in have and "number" in want) or ("number" in have and "integer" in want)


def problem(value: Any, schema: Schema, root: Schema | None = None, where: str = "") -> tuple[str, str] | None:
    """What is wrong with a literal: (field, sentence), or None. Mappings `{"$ref": ...}` fit everything here.

    Checks type, required and unknown fields, enum, const, and the bounds of numbers, strings and lists.
    """
    root = schema if root is None else root
    if isinstance(value, dict) and set(value) == {"$ref"}:
        return None
    branches = _branches(schema, root)
    found = [_problem(value, branch, root, where) for branch in branches]
    return None if not found or None in found else found[0]


def _problem(value: Any, schema: Schema, root: Schema, where: str) -> tuple[str, str] | None:
    kinds = _kinds(schema)
    listed = "enum" in schema and value in schema["enum"]  # Python's equality, as pydantic's: true is 1
    if kinds and not listed and not any(_is(value, kind) for kind in kinds):
        return where, f"should be {' or '.join(kinds)}, not {_name(value)}"
    if "enum" in schema and not listed:
        return where, f"should be one of {', '.join(map(str, schema['enum'][:12]))}"
    if "const" in schema and value != schema["const"]:
        return where, f"should be {schema['const']}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        for bound, breaks, words in _BOUNDS:
            if bound in schema and breaks(value, schema[bound]):
                return where, f"should be {words} {schema[bound]}"
    if isinstance(value, (str, list, tuple)):
        low, high = ("minLength", "maxLength") if isinstance(value, str) else ("minItems", "maxItems")
        if len(value) < schema.get(low, 0) or len(value) > schema.get(high, len(value)):
            return where, f"has {len(value)} characters or items, outside what is allowed"
    if isinstance(value, (list, tuple)) and "items" in schema:
        for i, item in enumerate(value):
            if wrong := problem(item, schema["items"], root, f"{where}.{i}".lstrip(".")):
                return wrong
    if isinstance(value, dict) and "properties" in schema:
        properties = schema["properties"]
        for name in schema.get("required", ()):
            if name not in value:
                return f"{where}.{name}".lstrip("."), "is missing"
        for name, item in value.items():
            if name in properties:
                if wrong := problem(item, properties[name], root, f"{where}.{name}".lstrip(".")):
                    return wrong
            elif schema.get("additionalProperties") is False:
                return f"{where}.{name}".lstrip("."), f"is unknown; there are {', '.join(properties) or 'no arguments'}"
    return None


_BOUNDS: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
    ("minimum", lambda v, b: v < b, "at least"),
    ("maximum", lambda v, b: v > b, "at most"),
    ("exclusiveMinimum", lambda v, b: v <= b, "more than"),
    ("exclusiveMaximum", lambda v, b: v >= b, "less than"),
)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _PYTHON.get(kind, (object,)))


def _name(value: Any) -> str:
    return next((name for name, py in _PYTHON.items() if type(value) in py), type(value).__name__)
