"""OpenAI's protocol as our server speaks it: what a request means, who may ask, what an answer looks like.

Laws: pure; sockets are in llm_server.py. A field that is not known is ignored, unless it asks for something else than
what would be done without it: that is refused by name. What a client is told in an error is what, why and what next.

Source: the API reference at platform.openai.com/docs/api-reference/chat and /completions.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, ClassVar, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from .core.errors import Refused, SlipError, UsageError
from .skills.packs.llm.local import Chance, Finish, Piece, Usage, arguments

BODY_LIMIT: Final = 4 * 2**20
"""Bytes of a request's body."""
PATHS: Final = {
    "/v1/chat/completions": "POST", "/v1/completions": "POST", "/v1/models": "GET", "/health": "GET",
}  # fmt: skip

_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "suffix": ("",), "logit_bias": ({},), "frequency_penalty": (0,),
    "presence_penalty": (0,), "repeat_penalty": (1,), "repetition_penalty": (1,), "top_k": (0, -1), "min_p": (0,),
    "typical_p": (1,), "mirostat": (0,), "ignore_eos": (False,), "parallel_tool_calls": (True,), "functions": ([],),
    "function_call": ("none", "auto"), "modalities": (["text"],), "audio": (), "web_search_options": (),
    "grammar": ("",), "json_schema": (), "guided_json": (), "guided_regex": (), "guided_grammar": (),
    "chat_template": (), "chat_template_kwargs": ({},),
}  # fmt: skip
"""Fields that are not spoken here, and the values with which they change nothing."""
_FINISH: Final[Mapping[Finish, str]] = {"stop": "stop", "tool_calls": "tool_calls"}
"""All other ends are a budget that ran out."""


class ApiError(SlipError):
    """A request that is turned away before any model sees it; `status` is HTTP's."""

    fault = "caller"

    def __init__(self, status: int, what: str, why: str = "", hint: str = "", **where: Any) -> None:
        super().__init__(what, why, hint, **where)
        self.status = status


# -- what requests mean


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for: `said` is a conversation, or a text to go on with; `options` are those of the engine."""

    model: str
    said: list[dict[str, JsonValue]] | str
    options: dict[str, Any]
    stream: bool
    include_usage: bool
    """Whether a stream ends with what it took."""

    @property
    def chat(self) -> bool:
        """Whether it is a conversation."""
        return not isinstance(self.said, str)


class _Base(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _StreamOptions(_Base):
    include_usage: bool | None = None


class _Request(_Base):
    model: str | None = Field(None, max_length=200)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: str | list[str] | None = None

    def ask(self, said: list[dict[str, JsonValue]] | str, max_tokens: int | None = None, **more: Any) -> Ask:
        """This request, given what differs between conversations and texts."""
        for name, value in (self.model_extra or {}).items():
            if value is not None and name in _NEUTRAL and value not in _NEUTRAL[name]:
                usual = " or ".join(f"{each!r}" for each in _NEUTRAL[name])
                raise UsageError(f"{name} is not supported here", "to ignore it would change the answer",
                                 f"leave it out{f', or set it to {usual}' if usual else ''}", field=name)  # fmt: skip
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        options = {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "seed": None if self.seed is None else self.seed % 2**64,
            "stop": stop,
            "max_tokens": max_tokens or self.max_tokens,
            **more,
        }
        told = self.stream_options is not None and bool(self.stream_options.include_usage)
        return Ask(self.model or "", said, options, bool(self.stream), told)


class _JsonSchema(_Base):
    schema_: dict[str, JsonValue] = Field(alias="schema")


class _Format(_Base):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None

    def schema_asked(self) -> dict[str, JsonValue] | None:
        """The schema that an answer is to fit."""
        if self.type == "json_schema" and self.json_schema is None:
            raise UsageError("response_format has no json_schema", "", '{"type": "json_schema", "json_schema": '
                             '{"name": "...", "schema": {...}}}', field="response_format")  # fmt: skip
        if self.type == "json_schema" and self.json_schema is not None:
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


class _Chat(_Request):
    messages: list[dict[str, JsonValue]] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    tools: list[dict[str, JsonValue]] | None = Field(None, max_length=1000)
    tool_choice: JsonValue = None
    response_format: _Format | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class _Completion(_Request):
    prompt: str | list[str]


def chat_of(body: bytes) -> Ask:
    """What a body of POST /v1/chat/completions asks for.

    Raises:
        ApiError: it is none; `field` says where.
        UsageError: it asks for what is not supported.
    """
    asked = _read(_Chat, body)
    tools = asked.tools or []
    if asked.tool_choice not in (None, "auto", "none"):
        raise UsageError("tool_choice must be auto or none", "a call cannot be forced here",
                         "leave it out, or ask for JSON by response_format", field="tool_choice")  # fmt: skip
    for number, tool in enumerate(tools):
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UsageError(f"tool {number} is no function with a name", "", '{"type": "function", "function": '
                             '{"name": "...", "parameters": {...}}}', field=f"tools.{number}")  # fmt: skip
    if asked.tool_choice == "none":
        tools = []
    schema = None if asked.response_format is None else asked.response_format.schema_asked()
    if tools and schema is not None:
        raise UsageError("tools and JSON cannot go together", "an answer is a call or fits the schema",
                         "ask for one of them, or set tool_choice to none", field="response_format")  # fmt: skip
    if asked.top_logprobs and not asked.logprobs:
        raise UsageError("top_logprobs needs logprobs", "", "set logprobs to true", field="top_logprobs")
    chances = (asked.top_logprobs or 0) if asked.logprobs else None
    return asked.ask(asked.messages, asked.max_completion_tokens, tools=tools, schema=schema, logprobs=chances)


def completion_of(body: bytes) -> Ask:
    """What a body of POST /v1/completions asks for.

    Raises:
        ApiError, UsageError: as `chat_of`.
    """
    asked = _read(_Completion, body)
    extra = asked.model_extra or {}
    if extra.get("logprobs") is not None:
        raise UsageError("logprobs is not supported for texts", "", "POST /v1/chat/completions", field="logprobs")
    texts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if len(texts) != 1:
        raise UsageError(f"{len(texts)} prompts cannot be answered at once", "", "send one text", field="prompt")
    return asked.ask(texts[0])


_Kind = TypeVar("_Kind", bound=_Request)


def _read(kind: type[_Kind], body: bytes) -> _Kind:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or None
        what = "the body is no JSON" if first["type"] == "json_invalid" else f"{where or 'the body'} will not do"
        raise ApiError(400, what, first["msg"], field=where) from None


# -- who may ask


@dataclass(frozen=True, slots=True)
class Gate:
    """Whom the server answers: `names` are hosts by which it is called beside addresses, `key` is what they must show.

    A browser can be led here by a name that points at this machine (DNS rebinding), and by any page: the first shows in
    Host, the second in Origin.
    """

    names: frozenset[str] = frozenset({"localhost"})
    key: str | None = None

    def check(self, headers: Mapping[str, str]) -> None:
        """Let a request in, by its headers: names in lower case, values as latin-1 has them.

        Raises:
            ApiError: it is turned away.
        """
        host = headers.get("host", "")
        if not self._ours(host):
            raise ApiError(403, "this host is not served here", f"Host is {host[:80]!r}", "call it by its address")
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise ApiError(403, "pages of other origins are not served here", f"Origin is {origin[:80]!r}",
                           "call it from a program, not from a page")  # fmt: skip
        if self.key is not None:
            scheme, _, shown = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(shown.strip().encode("latin-1", "replace"), self.key.encode())
            if scheme.lower() != "bearer" or not right:
                raise ApiError(401, "the key is missing or wrong", "", "send it as: Authorization: Bearer KEY")

    def _ours(self, host: str) -> bool:
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if name.lower().rstrip(".") in self.names:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


def routed(method: str, target: str) -> str:
    """The path of a request that is served here.

    Raises:
        ApiError: there is no such path, or not by that method.
    """
    path = target.partition("?")[0]
    known = "/v1/models" if path.startswith("/v1/models/") else path
    if known not in PATHS:
        raise ApiError(404, f"there is no {path[:80]!r} here", f"there are {', '.join(PATHS)}")
    if method != PATHS[known] and (method, PATHS[known]) != ("HEAD", "GET"):
        raise ApiError(405, f"{method[:20]} does not go with {path[:80]}", "", f"use {PATHS[known]}")
    return path


# -- what answers look like


def error_of(error: SlipError) -> tuple[int, dict[str, Any]]:
    """HTTP's status for an error, and the error as OpenAI's protocol has it."""
    status = 500
    if isinstance(error, ApiError):
        status = error.status
    elif isinstance(error, UsageError):
        status = 404 if error.where.get("field") == "model" else 400
    elif isinstance(error, Refused):
        status = 503
    kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(status)
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    code = "model_not_found" if status == 404 and error.where.get("field") == "model" else None
    told = {"message": f"{error}; {error.hint}" if error.hint else str(error), "type": kind,
            "param": error.where.get("field"), "code": code}  # fmt: skip
    return status, {"error": told}


class Answer:
    """An answer in the making, as a stream of objects or as one; `ident` is of this answer alone, `created` in s."""

    def __init__(self, ask: Ask, model: str, ident: str, created: int) -> None:
        self._ask, self._ident = ask, ident
        self._head = {"id": f"{'chatcmpl' if ask.chat else 'cmpl'}-{ident}", "created": created, "model": model}
        self._calls = 0
        self._begun = not ask.chat

    def chunks(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """What a stream says of a piece: nothing for an empty one, the end and what it took for the last."""
        if not self._begun:
            self._begun = True
            yield self._chunk({"role": "assistant", "content": ""})
        said: dict[str, Any] = {name: value for name, value in self._said([piece]).items() if value}
        if "tool_calls" in said:
            for call in said["tool_calls"]:
                call["index"] = int(call["id"].rpartition("_")[2])
        if said or piece.chances:
            yield self._chunk(said, chances=piece.chances)
        if piece.finish is not None:
            yield self._chunk({}, finish=piece.finish)
            if self._ask.include_usage and piece.usage is not None:
                yield self._object(True) | {"choices": [], "usage": _usage(piece.usage)}

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The answer as one object, when it has ended."""
        said, last = self._said(pieces), pieces[-1]
        chances = tuple(chance for piece in pieces for chance in piece.chances)
        choice: dict[str, Any] = {"index": 0, "finish_reason": _finish(last.finish)}
        if self._ask.chat:
            message = {"role": "assistant", **{k: v for k, v in said.items() if v or k == "content"}}
            if said.get("tool_calls") and not message["content"]:
                message["content"] = None
            choice |= {"message": message, "logprobs": self._logprobs(chances)}
        else:
            choice |= {"text": said["text"], "logprobs": None}
        usage = {} if last.usage is None else {"usage": _usage(last.usage)}
        return self._object(False) | {"choices": [choice]} | usage

    def _said(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        if not self._ask.chat:
            return {"text": text}
        calls = []
        for call in (call for piece in pieces for call in piece.calls):
            calls.append({"id": f"call_{self._ident}_{self._calls}", "type": "function",
                          "function": {"name": call.name, "arguments": arguments(call)}})  # fmt: skip
            self._calls += 1
        return {"content": text, "reasoning_content": "".join(piece.reasoning for piece in pieces),
                "tool_calls": calls,
                "problems": [f"{each.why}: {each.text}" for piece in pieces for each in piece.problems]}  # fmt: skip

    def _chunk(
        self, said: dict[str, Any], *, chances: Sequence[Chance] = (), finish: Finish | None = None
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": None if finish is None else _finish(finish)}
        if self._ask.chat:
            choice |= {"delta": said, "logprobs": self._logprobs(chances) if chances else None}
        else:
            choice |= {"text": said.get("text", ""), "logprobs": None}
        return self._object(True) | {"choices": [choice]} | ({"usage": None} if self._ask.include_usage else {})

    def _object(self, part: bool) -> dict[str, Any]:
        kind = "text_completion" if not self._ask.chat else "chat.completion.chunk" if part else "chat.completion"
        return {**self._head, "object": kind}

    def _logprobs(self, chances: Sequence[Chance]) -> dict[str, Any] | None:
        if self._ask.options.get("logprobs") is None:
            return None
        return {"refusal": None, "content": [
            _chance(chance.token, chance.logprob) | {"top_logprobs": [_chance(*each) for each in chance.likeliest]}
            for chance in chances
        ]}  # fmt: skip


def _finish(finish: Finish | None) -> str | None:
    return None if finish is None else _FINISH.get(finish, "length")


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.reused_tokens},
    }  # fmt: skip


def _chance(token: bytes, logprob: float) -> dict[str, Any]:
    # JSON has no infinity: -9999 is what the protocol says for it
    return {"token": token.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(token)}
