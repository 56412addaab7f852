"""A form for a skill's arguments, made of the JSON schema that its device tells; no schema brings it down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..core import arguments
from ..core import schema as js
from ..core.errors import UsageError
from .text import plain

MOST: Final = 40
"""Fields that are asked for."""


@dataclass(frozen=True, slots=True)
class Field:
    """One argument: what it is called, what it may be, and whether it must be there."""

    name: str
    kind: str
    required: bool
    about: str = ""
    default: str = ""
    choices: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        """What may be typed."""
        must = "needed" if self.required else f"else {self.default}" if self.default else "may be left out"
        kind = " | ".join(self.choices) if self.choices else self.kind
        return f"{kind}, {must}"


class Form:
    """The fields of a skill's arguments, and what was typed into them."""

    def __init__(self, skill: str, schema: Any) -> None:
        self.skill = skill
        self._schema: dict[str, Any] = dict(schema) if isinstance(schema, Mapping) else {}
        self.fields = _fields(self._schema)
        self.typed: dict[str, str] = {}

    def args(self) -> dict[str, Any]:
        """The arguments; a field that was left empty is left out.

        Raises:
            UsageError: one cannot be read, or is missing; `where["field"]` names it.
        """
        typed = {name: text for name, text in self.typed.items() if text.strip()}
        for field in self.fields:
            if field.required and field.name not in typed:
                raise UsageError(f"{field.name} is needed", field.hint, field=field.name)
        try:
            found = arguments.read(self.skill, self._schema, typed)
        except (KeyError, TypeError, ValueError, RecursionError, AttributeError) as error:
            raise UsageError(
                "the skill's schema cannot be read", type(error).__name__, "slip call, with --args"
            ) from None
        return found


def _fields(schema: Mapping[str, Any]) -> list[Field]:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping):
        return []
    needed = set(map(str, required)) if isinstance(required, list) else set()
    fields = [_field(str(name), schema, shape, str(name) in needed) for name, shape in list(properties.items())[:MOST]]
    return sorted(fields, key=lambda field: not field.required)


def _field(name: str, schema: Mapping[str, Any], shape: Any, required: bool) -> Field:
    own = shape if isinstance(shape, Mapping) else {}
    try:
        found = js.at(dict(schema), [name]) or {}
        kinds = {kind for kind in js.types(found) if isinstance(kind, str)}
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError):
        found, kinds = {}, set()  # whatever is typed is tried, and the skill's device says what it thinks of it
    kind = " or ".join(sorted(kinds - {"null"})) or "anything"
    if kinds & {"object", "array"}:
        kind += " (JSON)"
    choices = found.get("enum") if isinstance(found, Mapping) else None
    return Field(
        name, kind, required, plain(own.get("description", "")), _text(own["default"]) if "default" in own else "",
        tuple(_text(each) for each in choices[:20]) if isinstance(choices, list) else (),
    )  # fmt: skip


def _text(value: Any) -> str:
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), 60)
