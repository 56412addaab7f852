"""OpenAI's protocol as a client speaks it: what is sent, and what comes back piece by piece. Sans-IO.

Laws: however a stream is cut, the same comes out. What an endpoint sends is sized before it is kept. What is said of an
endpoint's failures never holds the key.

Sources: platform.openai.com/docs/api-reference/chat (create, streaming); WHATWG HTML, 9.2 Server-sent events;
`reasoning_content` as DeepSeek's and MiMo's APIs have it: handed back with the calls of tools that it led to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ....core.errors import SkillFailed, UsageError
from ....core.schema import problem
from .local import Finish, Piece, Usage

LINE: Final = 1 << 20
"""Bytes of one line of a stream."""
ANSWER: Final = 16 << 20
"""Bytes of a whole answer."""
CALLS: Final = 128
_FINISH: Final[Mapping[str, Finish]] = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls",
    "content_filter": "stop",
}  # fmt: skip


class Events:
    """A stream of server-sent events, as bytes that come in any pieces: the data of each event."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._after_cr = False

    def feed(self, data: bytes) -> Iterator[str]:
        """Take bytes in; the events that are whole now.

        Raises:
            ValueError: a line is too long, or is no UTF-8.
        """
        for part in data.splitlines(keepends=True):
            if self._after_cr and part == b"\n":
                self._after_cr = False
                continue
            self._after_cr = part.endswith(b"\r")
            self._rest += part
            if len(self._rest) + sum(map(len, self._data)) > LINE:
                raise ValueError(f"an event has more than {LINE} bytes")
            if self._rest.endswith((b"\n", b"\r")):
                line = bytes(self._rest).rstrip(b"\r\n")
                self._rest.clear()
                yield from self._line(line)

    def _line(self, line: bytes) -> Iterator[str]:
        if not line:
            if self._data:
                event, self._data = b"\n".join(self._data), []
                yield event.decode()
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))


@dataclass(slots=True)
class _Calling:
    """A call of a tool that comes in parts."""

    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Answer:
    """An answer as it comes; `piece` takes a chunk in, `end` what is left at its end."""

    plain: bool = False
    """Whether texts are held back until the end: they must fit a schema as a whole."""
    text: str = ""
    finish: Finish | None = None
    usage: tuple[int, int, int] | None = None
    """Tokens of the prompt, of those the ones that were there already, and of the answer; None if nobody told."""
    times: tuple[float, float] | None = None
    """When the first and the last of it came, by the clock of whoever takes it in."""
    said: bool = False
    """Whether anything came that a person or a program may have seen."""
    _calls: dict[int, _Calling] = field(default_factory=dict)
    _size: int = 0

    def piece(self, chunk: Any, now: float) -> Piece | None:
        """What a chunk that came at `now` (in s) says that is new.

        Raises:
            ValueError: it is no chunk of an answer.
        """
        if not isinstance(chunk, Mapping):
            raise ValueError("a chunk is no object")
        if "error" in chunk:
            raise ValueError(f"it reports: {complaint(chunk)}")
        self._take_usage(chunk.get("usage"))
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            raise ValueError("a chunk has no choices")
        if not choices:
            return None
        choice = choices[0]
        said = choice.get("delta", choice.get("message")) if isinstance(choice, Mapping) else None
        if not isinstance(said, Mapping):
            raise ValueError("a choice has neither delta nor message")
        text, reasoning = _text(said, "content"), _text(said, "reasoning_content") or _text(said, "reasoning")
        self._take_calls(said.get("tool_calls"))
        reason = choice.get("finish_reason")
        if isinstance(reason, str):
            self.finish = _FINISH.get(reason, "stop")
        self._size += len(text) + len(reasoning)
        if self._size > ANSWER:
            raise ValueError(f"an answer has more than {ANSWER} bytes")
        self.text += text
        if text or reasoning or said.get("tool_calls"):
            self.times = (now if self.times is None else self.times[0], now)
        self.said = self.said or bool(text or reasoning or self._calls)
        shown = "" if self.plain else text
        return Piece(shown, reasoning) if shown or reasoning else None

    def end(self) -> Piece:
        """The calls of tools, now that they are whole."""
        from ....runtime_ext.reply import Call, Problem

        calls, problems = [], []
        for _, calling in sorted(self._calls.items()):
            try:
                arguments = json.loads(calling.arguments or "{}")
            except (ValueError, RecursionError) as error:
                arguments, why = None, f"its arguments are no JSON: {error}"
            else:
                why = "its arguments are no object"
            if isinstance(arguments, dict) and calling.name:
                calls.append(Call(calling.name, arguments))
            else:
                problems.append(
                    Problem(f"{calling.name}({calling.arguments})", why if calling.name else "it has no name")
                )
        return Piece(calls=tuple(calls), problems=tuple(problems))

    def _take_calls(self, calls: Any) -> None:
        for n, each in enumerate(calls if isinstance(calls, list) else ()):
            if not isinstance(each, Mapping):
                raise ValueError("a call of a tool is no object")
            index = each.get("index", n)
            function = each.get("function")
            if not isinstance(index, int) or not isinstance(function, Mapping) or len(self._calls) > CALLS:
                raise ValueError("a call of a tool cannot be read")
            calling = self._calls.setdefault(index, _Calling())
            calling.name += _text(function, "name")
            calling.arguments += _text(function, "arguments")
            self._size += len(_text(function, "arguments"))

    def _take_usage(self, usage: Any) -> None:
        if isinstance(usage, Mapping):
            details = usage.get("prompt_tokens_details")
            reused = _count(details, "cached_tokens") if isinstance(details, Mapping) else 0
            self.usage = (_count(usage, "prompt_tokens"), reused, _count(usage, "completion_tokens"))

    def taken(self, first: float, rest: float) -> Usage | None:
        """What it took, if the endpoint told; seconds until the first token, and from then on."""
        if self.usage is None:
            return None
        prompt, reused, completion = self.usage
        return Usage(prompt, reused, completion, first, rest)


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    return value if isinstance(value, str) else ""


def _count(said: Mapping[str, Any], name: str) -> int:
    value = said.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def body(
    model: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None,
    schema: Mapping[str, Any] | None, strict: bool, options: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """A request. `strict`: the endpoint holds answers to the schema; else it is told of it and asked for JSON.

    Raises:
        UsageError: a message is no message.
    """
    said = [_message(n, message) for n, message in enumerate(messages)]
    made: dict[str, Any] = {"model": model, "messages": said, "stream": True, "stream_options": {"include_usage": True}}
    made |= {name: value for name, value in options.items() if value is not None and value != []}
    if tools:
        made["tools"] = list(tools)
    if schema is not None and strict:
        form = {"name": "answer", "schema": dict(schema), "strict": True}
        made["response_format"] = {"type": "json_schema", "json_schema": form}
    elif schema is not None:
        made["response_format"] = {"type": "json_object"}
        asked = f"Answer with JSON that fits this JSON schema, and with nothing else:\n{json.dumps(schema)}"
        made["messages"] = _asked(said, asked)
    return made


def _asked(said: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """The conversation with a wish at its end, in the user's words: not every model's template knows a system's."""
    if said and said[-1].get("role") == "user" and isinstance(said[-1].get("content"), str):
        return [*said[:-1], {**said[-1], "content": f"{said[-1]['content']}\n\n{what}"}]
    return [*said, {"role": "user", "content": what}]


def _message(n: int, message: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise UsageError(f"message {n} has no role", "", '{"role": "user", "content": "..."}', field="messages")
    made = dict(message)
    if not made.get("tool_calls"):  # reasoning belongs to the calls that it led to; elsewhere it is not sent again
        made.pop("reasoning_content", None)
    return made


def repaired(messages: Sequence[Mapping[str, Any]], answer: str, wrong: str, schema: Mapping[str, Any]) -> list[Any]:
    """The conversation, going on with what was wrong with an answer."""
    asked = (
        f"That does not fit: {wrong}. Answer again, only with JSON that fits this JSON schema:\n{json.dumps(schema)}"
    )
    return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": asked}]


def complaint(said: Any) -> str:
    """What an endpoint says is wrong, in its words: as long as they are."""
    error = said.get("error", said.get("message", said.get("detail"))) if isinstance(said, Mapping) else said
    if isinstance(error, Mapping):
        error = error.get("message") or error.get("code") or error
    return error if isinstance(error, str) else json.dumps(error, default=str)


def unfit(text: str, schema: Mapping[str, Any]) -> str:
    """Why a text is not JSON that fits a schema; empty if it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"it is no JSON ({error})"
    wrong = problem(value, dict(schema))
    return "" if wrong is None else f"{wrong[0] or 'it'} {wrong[1]}"


def never_fits(name: str, wrong: str) -> SkillFailed:
    """What to say when a second answer does not fit either."""
    hint = "allow more in the schema, or take another model"
    return SkillFailed(f"{name} gives no answer that fits the schema", wrong, hint)
