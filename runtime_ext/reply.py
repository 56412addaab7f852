"""What a model wrote, taken apart as it comes: text, reasoning, and calls of tools.

Laws: however the stream is cut, the same comes out. What looks like a call and is none is a problem that keeps what was
written, never text for a person and never a call. A tag counts only where the form allows it: `<think>` before text,
`</tool_call>` not inside of a JSON string.

Forms: Hermes and Qwen, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`; MiMo and Qwen3-Coder,
`<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`; `<think>...</think>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

THINK, THOUGHT, CALL, CALLED = "<think>", "</think>", "<tool_call>", "</tool_call>"

_JSON_MARK: Final = re.compile(rf'\\.|"|{CALLED}', re.DOTALL)
_OBJECT: Final = re.compile(r"\s*\{")
_FUNCTION: Final = re.compile(r"\s*<function=([^<>\n]+)>(.*)</function>\s*", re.DOTALL)
_PARAMETER: Final = re.compile(r"\s*<parameter=([^<>\n]+)>(.*?)</parameter>", re.DOTALL)
_PYTHON: Final = {"True": "true", "False": "false", "None": "null"}
"""Templates show earlier values as Python writes them, and models follow."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool: `arguments` by name, as JSON values."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """What was meant as a call and is none: as it was written, and why."""

    text: str
    why: str


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new: some `text`, some `reasoning`, a `call` or a `problem`; the others are empty."""

    text: str = ""
    reasoning: str = ""
    call: Call | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer; `text` and `reasoning` without space around them."""

    text: str
    reasoning: str
    calls: tuple[Call, ...]
    problems: tuple[Problem, ...]


class _Wrong(Exception):
    """Why something is no call."""


class _Trimmed:
    """Text that comes in pieces, without the space around it: that at the end is held until it is not the end."""

    __slots__ = ("_space", "parts")

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._space = ""

    def add(self, text: str) -> str:
        text = self._space + text if self.parts else text.lstrip()
        said = text.rstrip()
        self._space = text[len(said) :]
        if said:
            self.parts.append(said)
        return said


class Reader:
    """Takes an answer apart. `tools` (as OpenAI's protocol has them) give names and types; None: any name is one.

    `thinking`: the prompt has opened the reasoning already, so the answer begins within it.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]] | None = None, thinking: bool = False) -> None:
        self._tools = None if tools is None else {name: spec for name, spec in map(_tool, tools) if name}
        self._state = THINK if thinking else ""
        self._buffer = ""
        self._at = 0  # what of a call was looked through
        self._quoted = False
        self._text, self._reasoning = _Trimmed(), _Trimmed()
        self._calls: list[Call] = []
        self._problems: list[Problem] = []

    def feed(self, text: str) -> list[Piece]:
        """What is certain now, in the order in which it was written."""
        self._buffer += text
        pieces: list[Piece] = []
        while self._step(pieces):
            pass
        return pieces

    def finish(self) -> tuple[list[Piece], Reply]:
        """What is left at the end, and the whole."""
        pieces: list[Piece] = []
        while self._state == CALL:
            body, self._buffer = self._buffer, ""
            head, closed, rest = body.partition(CALLED)
            why = "a string in it does not end" if closed else "it does not end"
            self._fault(head + closed, why, pieces)
            self._state, self._buffer = "", rest
            pieces += self.feed("")
        self._say(self._buffer, pieces)
        self._buffer = ""
        reply = Reply(
            "".join(self._text.parts), "".join(self._reasoning.parts), tuple(self._calls), tuple(self._problems)
        )
        return pieces, reply

    def _step(self, pieces: list[Piece]) -> bool:
        """Take one thing from the buffer; whether there may be more."""
        if self._state == CALL:
            return self._close(pieces)
        marks = (THOUGHT,) if self._state == THINK else (CALL,) if self._text.parts else (CALL, THINK)
        found = [(at, mark) for mark in marks if (at := self._buffer.find(mark)) >= 0]
        if not found:
            keep = max((n for mark in marks for n in range(1, len(mark)) if self._buffer.endswith(mark[:n])), default=0)
            cut = len(self._buffer) - keep
            self._say(self._buffer[:cut], pieces)
            self._buffer = self._buffer[cut:]
            return False
        at, mark = min(found)
        self._say(self._buffer[:at], pieces)
        if mark == THINK and self._text.parts:
            self._say(mark, pieces)
        else:
            self._state = "" if mark == THOUGHT else mark
        self._buffer = self._buffer[at + len(mark) :]
        self._at, self._quoted = 0, False
        return True

    def _say(self, text: str, pieces: list[Piece]) -> None:
        if self._state == THINK:
            if said := self._reasoning.add(text):
                pieces.append(Piece(reasoning=said))
        elif said := self._text.add(text):
            pieces.append(Piece(text=said))

    def _close(self, pieces: list[Piece]) -> bool:
        end = self._end()
        if end < 0:
            return False
        body, self._buffer, self._state = self._buffer[:end], self._buffer[end + len(CALLED) :], ""
        try:
            call = self._read(body)
        except _Wrong as wrong:
            self._fault(body + CALLED, str(wrong), pieces)
        else:
            self._calls.append(call)
            pieces.append(Piece(call=call))
        return True

    def _end(self) -> int:
        """Where the call ends, or -1; what was looked through is not looked through again."""
        last = len(self._buffer) - len(CALLED) + 1  # a mark that begins here or later may not be whole
        if not _OBJECT.match(self._buffer):
            end = self._buffer.find(CALLED, self._at)
            self._at = max(0, last)
            return end
        for mark in _JSON_MARK.finditer(self._buffer, self._at):
            if mark[0] == CALLED:
                if not self._quoted:
                    return mark.start()
            elif mark[0] == '"':
                self._quoted = not self._quoted
            self._at = mark.end()
        self._at = max(self._at, last)
        return -1

    def _fault(self, body: str, why: str, pieces: list[Piece]) -> None:
        problem = Problem(CALL + body, why)
        self._problems.append(problem)
        pieces.append(Piece(problem=problem))

    def _read(self, body: str) -> Call:
        name, arguments = _by_json(body) if _OBJECT.match(body) else _by_tags(body)
        if self._tools is not None and name not in self._tools:
            raise _Wrong(f"there is no tool {name!r:.80}")
        if all(type(value) is not _Raw for value in arguments.values()):
            return Call(name, arguments)
        schema = self._tools[name] if self._tools is not None else {}
        return Call(name, {key: _typed(key, value.text, schema) for key, value in arguments.items()})


@dataclass(frozen=True, slots=True)
class _Raw:
    """A value that is not typed yet."""

    text: str


def _tool(tool: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    function = tool.get("function") or tool
    return function.get("name", ""), function.get("parameters") or {}


def _constant(name: str) -> NoReturn:
    raise _Wrong(f"{name} is no JSON")


def _loads(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_constant)
    except RecursionError:
        raise _Wrong("it is nested too deep") from None
    except ValueError as error:
        raise _Wrong(f"it is no JSON: {error}") from None
    return value


def _by_json(body: str) -> tuple[str, dict[str, Any]]:
    value = _loads(body)
    name, arguments = value.get("name"), value.get("arguments", {})
    if not isinstance(name, str) or not name:
        raise _Wrong("it has no name")
    if isinstance(arguments, str):
        arguments = _loads(arguments)
    if not isinstance(arguments, dict):
        raise _Wrong("its arguments are no object")
    return name, arguments


def _by_tags(body: str) -> tuple[str, dict[str, Any]]:
    function = _FUNCTION.fullmatch(body)
    if function is None:
        raise _Wrong("it is neither a JSON object nor <function=NAME>...</function>")
    name, inner = function[1].strip(), function[2]
    arguments: dict[str, Any] = {}
    at = 0
    while parameter := _PARAMETER.match(inner, at):
        key, at = parameter[1].strip(), parameter.end()
        if key in arguments:
            raise _Wrong(f"the parameter {key!r:.80} is there twice")
        arguments[key] = _Raw(parameter[2].removeprefix("\n").removesuffix("\n"))
    if inner[at:].strip():
        raise _Wrong(f"{inner[at:].strip()!r:.80} is no <parameter=NAME>...</parameter>")
    return name, arguments


_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "integer": (int,), "number": (int, float), "boolean": (bool,), "object": (dict,), "array": (list,),
    "null": (type(None),),
}  # fmt: skip


def _typed(key: str, text: str, schema: Mapping[str, Any]) -> Any:
    """A value as its schema has it: text where that is allowed and nothing else fits, or where nothing is said."""
    properties = schema.get("properties")
    inner = properties.get(key) if isinstance(properties, Mapping) else None
    kinds = _kinds(inner, schema, set())
    wanted = {kind for name in kinds for kind in _KINDS.get(name, ())}
    if wanted:
        try:
            value = _loads(_PYTHON.get(text.strip(), text))
        except _Wrong:
            value = text
        if type(value) is float and float not in wanted and int in wanted and value.is_integer():
            return int(value)
        if type(value) in wanted:
            return value
        if "string" not in kinds:
            raise _Wrong(f"the parameter {key!r:.80} is no {' or '.join(sorted(kinds))}: {text!r:.80}")
    return text


def _kinds(schema: Any, root: Mapping[str, Any], seen: set[str]) -> set[str]:
    """The types that a schema allows, by name; none where it says nothing. Each reference is followed once."""
    if not isinstance(schema, Mapping):
        return set()
    kinds = schema.get("type", [])
    found = {kinds} if isinstance(kinds, str) else {kind for kind in kinds if isinstance(kind, str)}
    if not found:
        for value in [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]:
            found |= (
                {"string"} if isinstance(value, str) else {k for k, types in _KINDS.items() if type(value) in types}
            )
    for name in ("anyOf", "oneOf", "allOf"):
        for inner in schema.get(name, ()):
            found |= _kinds(inner, root, seen)
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/") and reference not in seen:
        seen.add(reference)
        target: Any = root
        for step in reference[2:].split("/"):
            target = target.get(step) if isinstance(target, Mapping) else None
        found |= _kinds(target, root, seen)
    return found
