"""A model behind an OpenAI-compatible endpoint: MiMo's, vLLM, SGLang, llama-server, Ollama; by httpx.

Laws: the key is read when it is used and never shown. Nothing is tried again once the first token is there. Whoever
stops listening ends the request. What leaves for an endpoint that is not on this machine leaves only if the config says
`personal = true` of it: conversations are personal, and nobody can tell which of them are not.
"""

from __future__ import annotations

import json
import os
import random
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import cache, partial
from ipaddress import ip_address
from math import inf
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ....core.errors import Denied, LinkLost, Refused, SkillFailed, SlipError, TimedOut, UsageError
from .local import Piece, Usage
from .openai import ANSWER, Answer, Events, body, complaint, never_fits, repaired, unfit

if TYPE_CHECKING:
    import httpx

AGAIN: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Answers after which it is worth asking again (RFC 9110, RFC 6585, RFC 8470)."""
TRIES: Final = 4
LONGEST_WAIT: Final = 20.0
"""Seconds that an endpoint may ask us to wait."""
_KEY_LIMIT: Final = 4096


class EndpointSettings(BaseModel):
    """What the config says of an endpoint, below [settings.llm.endpoints.NAME]."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(max_length=500, description="up to and with /v1")
    model: str = Field(max_length=200, description="as the endpoint calls it")
    key_file: Path | None = Field(None, description="a file that only its owner can read (mode 0600), with the key")
    key_env: str | None = Field(None, description="the name of a variable of the environment, with the key")
    personal: bool = Field(
        False, description="whether personal conversations may be sent there, never device-only values"
    )
    context: int | None = Field(None, ge=1, description="tokens of a conversation and its answer")
    connect_seconds: float = Field(5.0, gt=0, le=600)
    first_seconds: float = Field(60.0, gt=0, le=3600, description="until the first token")
    between_seconds: float = Field(30.0, gt=0, le=3600, description="from one token to the next")

    @field_validator("url")
    @classmethod
    def _safe(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("write like https://api.example.com/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("a key does not belong into the url: name a key_file or a key_env")
        if parts.scheme == "http" and not _near(parts.hostname):
            raise ValueError("http is for this machine and its own network only: write https")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _one_key(self) -> EndpointSettings:
        if self.key_file is not None and self.key_env is not None:
            raise ValueError("name a key_file or a key_env, not both")
        return self

    @property
    def host(self) -> str:
        """Where it is, without anything else of the url."""
        return urlsplit(self.url).hostname or ""

    @property
    def here(self) -> bool:
        """Whether it is on this machine."""
        return self.host == "localhost" or (_address(self.host) or ip_address("0.0.0.0")).is_loopback


def _address(host: str) -> Any:
    try:
        return ip_address(host)
    except ValueError:
        return None


@cache
def _tls() -> SSLContext:
    """Whose certificates are believed. To load httpx and them takes up to a quarter of a second: not on the event loop.

    Raises:
        ImportError: there is no httpx.
    """
    import httpx

    return httpx.create_ssl_context(trust_env=False)


def _near(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and (address.is_loopback or address.is_private))


class Endpoint:
    """A model that another program runs; it answers as `local.Engine` does."""

    def __init__(self, name: str, settings: EndpointSettings) -> None:
        self.name, self.settings = name, settings
        self.rate: float | None = None
        """Tokens per second of the last answer."""
        self.busy: Final = False
        """Whether who asks must wait for others, as far as is known here."""
        self._strict = True
        """Whether it takes schemas, as far as it is known."""

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r}, {self.settings.host!r})"

    @property
    def allowed(self) -> bool:
        """Whether conversations may be sent there."""
        return self.settings.here or self.settings.personal

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None,
        schema: Mapping[str, Any] | None = None, max_tokens: int = 512, temperature: float = 0.0, top_p: float = 1.0,
        seed: int | None = None, stop: Sequence[str] = (), deadline: float | None = None,
        max_joules: float | None = None, meter: Callable[[], float | None] | None = None,
    ) -> AsyncGenerator[Piece, None]:  # fmt: skip
        """Answer a conversation, piece by piece; close it early to cancel. Arguments as `local.Engine.chat`'s.

        Raises:
            UsageError: what is asked will not do.
            Denied: personal conversations may not be sent there, or the key is not accepted.
            Refused, LinkLost, TimedOut: it is busy, down or slow.
            SkillFailed: it talks nonsense, or gives nothing that fits the schema.
        """
        if tools and schema is not None:
            raise UsageError("tools and a schema cannot go together", "an answer is a call or fits the schema",
                             "ask for one of them", field="schema")  # fmt: skip
        if max_joules is not None:
            raise Refused(f"no budget in joules can be kept by {self.name}", "it runs elsewhere",
                          "leave max_joules out, or ask a model file of this device")  # fmt: skip
        if not self.allowed:
            raise Denied(f"{self.name} is not sent anything personal", f"{self.settings.host} is not this device",
                         f"if it may be: personal = true in [settings.llm.endpoints.{self.name}]")  # fmt: skip
        until = inf if deadline is None else anyio.current_time() + deadline
        options = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed,
                   "stop": list(stop)}  # fmt: skip
        said, answer = list(messages), Answer(plain=schema is not None)
        took: list[Usage | None] = []
        for round_ in range(2):
            answer = Answer(plain=schema is not None)
            began = anyio.current_time()
            async with aclosing(self._answer(answer, said, tools, schema, options, until)) as pieces:
                async for piece in pieces:
                    if piece is not None:
                        yield piece
            first, last = answer.times or (anyio.current_time(),) * 2
            took.append(answer.taken(first - began, last - first))
            if (told := took[-1]) is not None and told.completion_tokens > 1 and last > first:
                self.rate = (told.completion_tokens - 1) / (last - first)  # the first one came with the prompt
            if schema is None or answer.finish == "deadline" or not (wrong := unfit(answer.text, schema)):
                break
            if round_ or answer.finish == "length":
                raise never_fits(self.name, wrong)
            said = repaired(messages, answer.text, wrong, schema)
        end = answer.end()
        finish = "tool_calls" if end.calls else answer.finish or "stop"
        text = answer.text if schema is not None else ""
        yield Piece(text, calls=end.calls, problems=end.problems, finish=finish, usage=_total(took))

    async def _answer(
        self, answer: Answer, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None,
        schema: Mapping[str, Any] | None, options: Mapping[str, Any], until: float,
    ) -> AsyncGenerator[Piece | None, None]:  # fmt: skip
        tries, strict = 0, self._strict
        while True:
            sent = body(self.settings.model, messages, tools, schema, strict, options)
            try:
                async with aclosing(self._stream(answer, sent, until)) as pieces:
                    async for piece in pieces:
                        yield piece
                self._strict = strict if schema is not None else self._strict
                return
            except _Slow:
                answer.finish = "deadline"
                return
            except _Wait as error:
                if schema is not None and strict and error.broken and not answer.said:
                    strict = False  # llama-cpp-python's server answers 500 to a schema
                    continue
                tries += 1
                wait = _pause(tries, error.after)
                if tries >= TRIES or answer.said or anyio.current_time() + wait >= until:
                    raise error.told from None
                await anyio.sleep(wait)
            except UsageError:
                if schema is None or not strict or answer.said:
                    raise
                strict = False  # it may not know schemas: then it is told in words, and always if that is what helps

    async def _stream(
        self, answer: Answer, sent: Mapping[str, Any], until: float
    ) -> AsyncGenerator[Piece | None, None]:  # fmt: skip
        """One request."""
        try:
            tls = await to_thread.run_sync(_tls)
        except ImportError as error:
            raise SkillFailed("a library that endpoints need is missing", str(error),
                              "pip install 'slipstream-mesh[llm]'") from None  # fmt: skip
        import httpx

        settings = self.settings
        headers = {"accept": "text/event-stream", **self._key()}
        try:
            async with AsyncExitStack() as stack:
                timeout = httpx.Timeout(None, connect=settings.connect_seconds)
                client = await stack.enter_async_context(
                    httpx.AsyncClient(timeout=timeout, trust_env=False, verify=tls)
                )
                request = client.build_request("POST", f"{settings.url}/chat/completions", json=sent, headers=headers)
                response = await self._within(partial(client.send, request, stream=True), settings.first_seconds, until,
                                              "does not answer")  # fmt: skip
                stack.push_async_callback(response.aclose)
                if response.status_code != 200:
                    raise await self._refusal(response, until)
                async with aclosing(self._pieces(answer, response, until)) as pieces:
                    async for piece in pieces:
                        yield piece
        except httpx.TransportError as error:
            raise self._lost(error, answer) from None

    async def _pieces(
        self, answer: Answer, response: httpx.Response, until: float
    ) -> AsyncGenerator[Piece | None, None]:  # fmt: skip
        events, chunks = Events(), response.aiter_raw() if "content-encoding" not in response.headers else None
        source: AsyncIterator[bytes] = chunks if chunks is not None else response.aiter_bytes()
        streamed = response.headers.get("content-type", "").startswith("text/event-stream")
        whole = bytearray()
        done = False
        while not done:
            limit = self.settings.between_seconds if answer.said else self.settings.first_seconds
            data = await self._within(partial(anext, source, None), limit, until, "stalls")
            if data is None:
                break
            if not streamed:
                whole += data
                if len(whole) > ANSWER:
                    raise self._nonsense(f"more than {ANSWER} bytes")
                continue
            try:
                for event in events.feed(data):
                    if event == "[DONE]":
                        done = True
                        break
                    yield answer.piece(json.loads(event), anyio.current_time())
            except (ValueError, RecursionError) as error:
                raise self._nonsense(str(error)) from None
        if not streamed:
            try:
                yield answer.piece(json.loads(bytes(whole)), anyio.current_time())
            except (ValueError, RecursionError) as error:
                raise self._nonsense(str(error)) from None
        elif not done and answer.finish is None:
            raise self._cut(answer, "the stream ended before the answer did")

    async def _within(self, call: Callable[[], Any], seconds: float, until: float, what: str) -> Any:
        """Await something, for so long; the deadline of all is another matter than a slow endpoint."""
        limit = anyio.current_time() + seconds
        with anyio.move_on_at(min(limit, until)) as scope:
            return await call()
        assert scope.cancelled_caught
        if until <= limit:
            raise _Slow
        raise TimedOut(f"{self.name} {what}", f"nothing came from {self.settings.host} for {seconds:g} s",
                       f"ask another model, or allow more in [settings.llm.endpoints.{self.name}]")  # fmt: skip

    # -- what can go wrong ---------------------------------------------------------------------------------------------

    def _key(self) -> dict[str, str]:
        """The header with the key, read anew: it may have been changed.

        Raises:
            SkillFailed: it cannot be read, or others could read it.
        """
        settings = self.settings
        if settings.key_env is not None:
            key = os.environ.get(settings.key_env, "")
            source = f"the variable {settings.key_env}"
        elif settings.key_file is not None:
            key, source = self._key_of(settings.key_file.expanduser()), f"the file {settings.key_file}"
        else:
            return {}
        key = key.strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise SkillFailed(f"there is no key for {self.name}", f"{source} holds none", f"put it into {source}")
        return {"authorization": f"Bearer {key}"}

    def _key_of(self, path: Path) -> str:
        try:
            with path.open() as file:
                mode = os.fstat(file.fileno()).st_mode
                if stat.S_IMODE(mode) & 0o077:
                    raise SkillFailed(f"the key of {self.name} can be read by others", f"{path} has mode "
                                      f"{stat.S_IMODE(mode):04o}", f"chmod 600 {path}")  # fmt: skip
                return file.read(_KEY_LIMIT)
        except OSError as error:
            raise SkillFailed(
                f"the key of {self.name} cannot be read", error.strerror or str(error), str(path)
            ) from None
        except UnicodeDecodeError:
            return ""

    async def _refusal(self, response: httpx.Response, until: float) -> SlipError:
        """What an answer that is none means."""
        found = bytearray()
        data = response.aiter_bytes()
        while len(found) < 65536:
            more = await self._within(partial(anext, data, b""), self.settings.between_seconds, until, "stalls")
            if not more:
                break
            found += more
        text = self._keyless(found.decode("utf-8", "replace"))
        try:
            why = complaint(json.loads(text))[:300]
        except (ValueError, RecursionError):
            why = text[:200]
        status, host = response.status_code, self.settings.host
        told = f"{host} answers {status}{f': {why}' if why else ''}"
        if status in AGAIN:
            busy = Refused(f"{self.name} is busy" if status == 429 else f"{self.name} cannot answer now", told,
                           "try again later, or ask another model")  # fmt: skip
            return _Wait(busy, _retry_after(response.headers.get("retry-after", "")), broken=status == 500)
        if status in (401, 403):
            return Denied(f"{self.name} does not let this device in", told,
                          f"look at key_file or key_env in [settings.llm.endpoints.{self.name}]")  # fmt: skip
        if status == 404:
            return SkillFailed(f"{self.name} is not there", told, f"look at url and model in "
                               f"[settings.llm.endpoints.{self.name}]")  # fmt: skip
        if 300 <= status < 400:
            return SkillFailed(f"{self.name} is somewhere else now", f"{host} answers {status}: the key is not sent on",
                               f"mend url in [settings.llm.endpoints.{self.name}]")  # fmt: skip
        if 400 <= status < 500:
            return UsageError(f"{self.name} does not take this conversation", told, "shorten or mend it")
        return self._nonsense(told)

    def _keyless(self, said: str) -> str:
        """What an endpoint said, without our key: some show it."""
        key = self._key().get("authorization", "").removeprefix("Bearer ")
        return said.replace(key, "...") if key else said

    def _nonsense(self, why: str) -> SkillFailed:
        return SkillFailed(f"{self.name} talks nonsense", self._keyless(why)[:300],
                           f"does url in [settings.llm.endpoints.{self.name}] end with /v1?")  # fmt: skip

    def _cut(self, answer: Answer, why: str) -> SlipError:
        lost = LinkLost(f"{self.name} broke off", why, "ask again")
        return lost if answer.said else _Wait(lost, None)

    def _lost(self, error: httpx.TransportError, answer: Answer) -> SlipError:
        import httpx

        why = (str(error) or type(error).__name__)[:200]
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            down = LinkLost(f"{self.name} cannot be reached", f"{self.settings.host}: {why}",
                            "is it running, and is url right?")  # fmt: skip
            return _Wait(down, None)
        return self._cut(answer, why)


class _Slow(Exception):
    """The deadline of an answer passed."""


class _Wait(SlipError):
    """It may go better in `after` seconds; `told` is what to say if it does not."""

    def __init__(self, told: SlipError, after: float | None, *, broken: bool = False) -> None:
        super().__init__(told.what, told.why, told.hint)
        self.told, self.after, self.broken = told, after, broken


def _total(took: Sequence[Usage | None]) -> Usage | None:
    """What all requests for an answer took, if the endpoint told of each."""
    told = [each for each in took if each is not None]
    if len(told) < len(took):
        return None
    return Usage(
        sum(each.prompt_tokens for each in told), sum(each.reused_tokens for each in told),
        sum(each.completion_tokens for each in told), sum(each.prefill_seconds for each in told),
        sum(each.decode_seconds for each in told),
    )  # fmt: skip


def _retry_after(said: str) -> float | None:
    """Seconds that the header Retry-After asks for; a date is taken as unsaid (RFC 9110, 10.2.3)."""
    return float(said) if said.strip().isdigit() else None


def _pause(tries: int, after: float | None) -> float:
    """Seconds until the next try: as asked, else longer each time, and not in step with others."""
    return min(LONGEST_WAIT, after if after is not None else 0.5 * 2 ** (tries - 1) * random.uniform(0.75, 1.25))
