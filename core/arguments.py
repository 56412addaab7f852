"""`name=value` as a person types it, read as what a skill's schema wants."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from . import schema as js
from .errors import UsageError


def read(skill: str, schema: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that were typed, by the skill's input schema; what must be text stays text, `007` too.

    Raises:
        UsageError: an argument is unknown, or cannot be read as its type; it names both.
    """
    found: dict[str, Any] = {}
    for name, typed in text.items():
        if not isinstance(typed, str):
            raise UsageError(f"{skill}: {name} should be text as it was typed", skill=skill, field=name)
        known = schema.get("properties", {})
        if name not in known:
            from .skill import nearest

            have = f"it takes {', '.join(known)}" if known else "it takes no arguments"
            raise UsageError(f"{skill}: {name} is unknown", have, nearest(name, known), skill=skill, field=name)
        found[name] = _value(skill, name, typed, js.types(js.at(dict(schema), [name]) or {}))
    return found


def _value(skill: str, name: str, typed: str, kinds: set[str]) -> Any:
    if kinds == {"string"}:
        return typed
    try:
        value = json.loads(typed)
    except (ValueError, RecursionError):
        if not kinds or "string" in kinds:
            return typed
        if kinds == {"boolean"} and typed.lower() in _WORDS:
            return _WORDS[typed.lower()]
        if kinds == {"array"}:  # a list of words need not be quoted
            return [part.strip() for part in typed.split(",")]
        raise UsageError(
            f"{skill}: {name} should be {' or '.join(sorted(kinds))}", f"not {typed[:60]!r}",
            f"slip skills show {skill}", skill=skill, field=name,
        ) from None  # fmt: skip
    # text that happens to read as a number stays text where no number is wanted
    return typed if "string" in kinds and not js.fits({"type": _kind(value)}, {"type": sorted(kinds)}) else value


_WORDS = {"yes": True, "on": True, "no": False, "off": False}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")
