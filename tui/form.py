"""A form for a skill's arguments, made of the JSON schema that its device tells.

Law: a schema comes from another device. What is not of a schema's form is left out of it first (`sound`), so nothing
after that can fail on it; whatever a form lets through, the skill's device checks again.
"""

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
"""Fields that are asked for; those that may be left out are left out first."""
_DEPTH, _NODES, _LISTED = 12, 2000, 100
"""How deep a schema is read, how many schemas within it, and how many items of its lists."""


@dataclass(frozen=True, slots=True)
class Field:
    """One argument: what it is called, what it may be, and whether it must be there."""

    name: str
    """As the skill knows it; not for a screen."""
    kind: str
    """What may be typed, in words, with its bounds."""
    required: bool
    about: str = ""
    default: str = ""
    choices: tuple[str, ...] = ()
    """What may be typed where there are only a few; empty: anything of that kind."""

    @property
    def hint(self) -> str:
        """What may be typed."""
        must = "needed" if self.required else f"else {self.default}" if self.default else "may be left out"
        return f"{' | '.join(self.choices) or self.kind}, {must}"


class Form:
    """The fields of a skill's arguments, and what was typed into them."""

    def __init__(self, skill: str, schema: Any) -> None:
        self.skill = skill
        self._schema = sound(schema)
        properties, needed = self._schema.get("properties", {}), set(self._schema.get("required", ()))
        names = sorted(properties, key=lambda name: name not in needed)
        self.fields = [_field(name, self._schema, name in needed) for name in names[:MOST]]
        """Those that are needed first."""
        self.left_out = len(names) - len(self.fields)
        """Arguments that the form does not ask for: there are too many."""
        self.typed: dict[str, str] = {}
        """By name; nothing but blanks is the same as nothing."""

    def errors(self) -> dict[str, str]:
        """What is wrong, by the names of the fields; empty: nothing."""
        return {field.name: wrong for field in self.fields if (wrong := self._read(field)[1])}

    def args(self) -> dict[str, Any]:
        """The arguments; a field that was left empty is left out.

        Raises:
            UsageError: one cannot be read, or is missing; `where["field"]` names the first one.
        """
        for name, wrong in self.errors().items():
            raise UsageError(f"{plain(name)} {wrong}", field=name)
        return {name: value for field in self.fields for name, value in self._read(field)[0].items()}

    def _read(self, field: Field) -> tuple[dict[str, Any], str]:
        """What was typed into a field, and what is wrong with it."""
        text = self.typed.get(field.name, "")
        if not text.strip():
            return {}, "is needed" if field.required else ""
        try:
            found = arguments.read(self.skill, self._schema, {field.name: text})
            shape = js.at(self._schema, [field.name]) or {}
            wrong = js.problem(found[field.name], shape)
        except UsageError:
            return {}, f"should be {field.kind}"
        except RecursionError:  # JSON that is nested as deep as the schema of a tree allows
            return {}, "is nested too deep"
        if wrong is None:
            return found, ""
        where, sentence = wrong
        return {}, plain(f"{where} {sentence}".strip())


def sound(schema: Any) -> js.Schema:
    """What of a schema is of a schema's form: JSON Schema 2020-12 as far as skills speak it, bounded in every way."""
    return _sound(schema, [_NODES], _DEPTH)


def _sound(schema: Any, left: list[int], depth: int) -> js.Schema:
    left[0] -= 1
    if not isinstance(schema, Mapping) or left[0] < 0 or depth == 0:
        return {}  # anything may be there
    found: js.Schema = {}
    for key, value in schema.items():
        if key in ("title", "description", "$ref"):
            good = isinstance(value, str)
        elif key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            good = isinstance(value, int | float)
        elif key in ("minLength", "maxLength", "minItems", "maxItems"):
            good = isinstance(value, int)
        elif key in ("enum", "required", "type") and isinstance(value, list | tuple):
            good = key == "enum" or all(isinstance(item, str) for item in value)
            value = list(value[:_LISTED]) if key == "enum" else list(value)
        elif key in ("anyOf", "oneOf") and isinstance(value, list | tuple):
            good, value = True, [_sound(each, left, depth - 1) for each in value[:_LISTED]]
        elif key in ("properties", "$defs") and isinstance(value, Mapping):
            inner = {name: each for name, each in value.items() if isinstance(name, str)}
            good, value = True, {name: _sound(each, left, depth - 1) for name, each in inner.items() if left[0] > 0}
        elif key in ("items", "additionalProperties") and isinstance(value, Mapping):
            good, value = True, _sound(value, left, depth - 1)
        else:
            good = key in ("default", "const") or (key == "type" and isinstance(value, str))
            good = good or (key == "additionalProperties" and isinstance(value, bool))
        if good:
            found[key] = value
    return found


def _field(name: str, schema: js.Schema, required: bool) -> Field:
    own = schema["properties"][name]
    shape = js.at(schema, [name]) or {}
    found = [shape, *(js.resolve(branch, schema) for key in ("anyOf", "oneOf") for branch in shape.get(key, ()))]
    kinds = js.types(shape) - {"null"}
    enum = next((each["enum"] for each in found if each.get("enum")), ())
    choices = tuple(text for value in enum if (text := _text(value)) and text == plain(text))
    about = " ".join(
        part for part in (own.get("title", ""), own.get("description", "")) if part and not _says(part, name)
    )
    default = own.get("default", shape.get("default"))
    return Field(
        name, _kind(kinds, next((bounds for each in found if (bounds := _bounds(each))), "")), required, plain(about),
        "" if default is None else plain(_text(default), 60), choices if len(choices) <= 20 else (),
    )  # fmt: skip


def _says(title: str, name: str) -> bool:
    """Whether a title is only the name again, as pydantic makes it."""
    return title.casefold().replace(" ", "_") == name.casefold()


def _kind(kinds: set[str], bounds: str) -> str:
    words = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "yes or no",
             "array": 'a list: a, b or ["a", "b"]', "object": 'JSON: {"name": "value"}'}  # fmt: skip
    said = " or ".join(words.get(kind, plain(kind, 20)) for kind in sorted(kinds)) or "anything"
    return f"{said} {bounds}".strip()


def _bounds(shape: js.Schema) -> str:
    low, high = shape.get("minimum"), shape.get("maximum")
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    words = (("minimum", "at least"), ("exclusiveMinimum", "more than"), ("maximum", "at most"),
             ("exclusiveMaximum", "less than"), ("minLength", "of at least"), ("maxLength", "of at most"))  # fmt: skip
    found = [f"{said} {shape[key]:g}" for key, said in words if key in shape]
    letters = " characters" if found and found[-1].startswith("of") else ""
    return ", ".join(found) + letters


def _text(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):  # a value that holds itself, or nearly
        return "…"
