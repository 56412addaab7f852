"""The server behind `slip llm serve`: HTTP/1.1 on TCP, by h11; what is said on it is in llm_api.py.

Laws: whoever hangs up ends its answer within one pass. Nothing grows with what clients do: connections, bytes of a
head and a body, requests that wait, and the time to send and to take are bounded (`Limits`). An answer is made no
faster than it is taken. When the server stops, answers that are being made end with an error, and no client is left
without a word.

Source: RFC 9110, 9112 (HTTP); html.spec.whatwg.org, server-sent events.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import anyio
import h11
from anyio.abc import SocketAttribute, SocketStream

from .core.errors import SlipError, UsageError
from .llm_api import BODY_LIMIT, PATHS, Answer, ApiError, Ask, Gate, chat_of, completion_of, error_of, routed
from .skills.packs.llm.backend import Llm
from .skills.packs.llm.local import Piece

HEAD_LIMIT: Final = 16 * 1024
"""Bytes of a request line and headers."""
AHEAD_LIMIT: Final = 64 * 1024
"""Bytes that a client may send before it has its answer."""
_GONE: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, ConnectionError)
_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may use: seconds, and counts."""

    clients: int = 64
    """Connections at a time."""
    waiting: int = 16
    """Requests for a model, with the one that is answered."""
    request_seconds: float = 20.0
    """From a request's first byte to its last."""
    idle_seconds: float = 60.0
    """Between two requests on a connection."""
    send_seconds: float = 10.0
    """For a client to take what is sent; so long it may keep others waiting."""
    stop_seconds: float = 2.0
    """For clients to hear that the server stops."""


class Server:
    """Answers for the models of an `Llm`; `on_fault` hears of exceptions that nothing should raise."""

    def __init__(
        self, llm: Llm, gate: Gate, on_fault: Callable[[Exception], None], limits: Limits | None = None
    ) -> None:
        self._llm, self._gate, self._on_fault, self._limits = llm, gate, on_fault, limits or Limits()
        self._since = int(time.time())
        self._stop = anyio.Event()
        self._asked: Counter[str] = Counter()
        self._wires: set[_Wire] = set()

    def stop(self) -> None:
        """End answers, tell their clients, and let `serve` return."""
        self._stop.set()
        for wire in self._wires:
            wire.stop()

    async def serve(self, host: str, port: int, ready: Callable[[int], None]) -> None:
        """Listen until `stop`; `ready` is told the port, which is another one if `port` is 0.

        Raises:
            UsageError: it cannot listen there.
        """
        try:
            listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
        except OSError as error:
            raise UsageError(f"{host}:{port} cannot be listened on", error.strerror or str(error),
                             "--port 0 takes a free one") from None  # fmt: skip
        async with anyio.create_task_group() as clients:
            async with listener, anyio.create_task_group() as accepting:
                accepting.start_soon(listener.serve, self._client, clients)
                ready(listener.extra(SocketAttribute.local_port))
                await self._stop.wait()
                accepting.cancel_scope.cancel()
            clients.cancel_scope.deadline = anyio.current_time() + self._limits.stop_seconds

    async def _client(self, stream: SocketStream) -> None:
        wire = _Wire(stream, self._limits)
        self._wires.add(wire)
        try:
            async with stream:
                if len(self._wires) > self._limits.clients:
                    await wire.refuse(ApiError(503, "too many clients at once", f"{self._limits.clients} are served",
                                               "close some"))  # fmt: skip
                    return
                while not self._stop.is_set() and await self._exchange(wire):
                    pass
        except _GONE:
            pass  # a client that hangs up in mid-sentence is its own business
        finally:
            self._wires.discard(wire)

    async def _exchange(self, wire: _Wire) -> bool:
        """One request and its answer; whether the connection can be used again."""
        try:
            with wire.ending() as reading:
                if (head := await wire.head()) is None:
                    return False
                path = self._admit(head)
                body = await wire.body()
            if reading.cancelled_caught:
                return False
        except SlipError as error:
            await wire.refuse(error)
            return False
        with wire.ending() as answering:
            async with anyio.create_task_group() as group:
                group.start_soon(wire.watch)
                await self._answer(wire, path, body)
                group.cancel_scope.cancel()
        if answering.cancelled_caught:
            if not wire.gone:
                await wire.fail(ApiError(503, "the server stops", "somebody asked it to", "ask again later"))
            return False
        return wire.again()

    def _admit(self, head: h11.Request) -> str:
        headers: dict[str, str] = {}
        for name, value in head.headers:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        self._gate.check(headers)
        path = routed(head.method.decode("latin-1"), head.target.decode("latin-1"))
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > BODY_LIMIT:
            raise too_large()
        return path

    async def _answer(self, wire: _Wire, path: str, body: bytes) -> None:
        """Answer; whatever goes wrong is told to the client, if it is still there."""
        try:
            match path:
                case "/health":
                    await wire.tell(200, self._health())
                case "/v1/chat/completions":
                    await self._generate(wire, chat_of(body))
                case "/v1/completions":
                    await self._generate(wire, completion_of(body))
                case _:
                    await wire.tell(200, self._models(path.removeprefix("/v1/models").removeprefix("/")))
        except SlipError as error:
            await wire.fail(error)
        except _GONE:
            wire.gone = True
        except Exception as error:  # a fault of ours costs this client its answer, and nobody else anything
            self._on_fault(error)
            await wire.fail(SlipError(f"the server failed: {type(error).__name__}", "", "its output says where"))

    def _health(self) -> dict[str, Any]:
        engines = {name: self._llm.loaded(name) for name in self._llm.paths}
        return {"status": "ok", "models": [
            {"id": name, "loaded": engine is not None, "busy": engine is not None and engine.busy,
             "requests": self._asked[name]}
            for name, engine in engines.items()
        ]}  # fmt: skip

    def _models(self, name: str) -> dict[str, Any]:
        models = [
            {"id": each, "object": "model", "created": self._since, "owned_by": "local"} for each in self._llm.paths
        ]
        if not name:
            return {"object": "list", "data": models}
        found = next((model for model in models if model["id"] == name), None)
        if found is None:
            raise UsageError(f"there is no model {name[:80]!r} here", f"there are {', '.join(self._llm.paths)}",
                             field="model")  # fmt: skip
        return found

    async def _generate(self, wire: _Wire, ask: Ask) -> None:
        name = ask.model or next(iter(self._llm.paths))
        if self._asked[name] >= self._limits.waiting:
            raise ApiError(429, f"too many requests for {name[:80]!r}", f"{self._asked[name]} wait", "ask again later")
        self._asked[name] += 1
        try:
            async with aclosing(self._pieces(name, ask)) as pieces:
                answer = Answer(ask, name, uuid4().hex, int(time.time()))
                if ask.stream:
                    await wire.stream(answer, pieces)
                else:
                    await wire.tell(200, answer.whole([piece async for piece in pieces]))
        finally:
            self._asked[name] -= 1
            if not self._asked[name]:
                del self._asked[name]

    async def _pieces(self, name: str, ask: Ask) -> AsyncGenerator[Piece, None]:
        engine = await self._llm.engine(name)
        options = ask.options | {"max_tokens": ask.options["max_tokens"] or engine.context}
        made = engine.complete(ask.said, **options) if isinstance(ask.said, str) else engine.chat(ask.said, **options)
        async with aclosing(made) as pieces:
            async for piece in pieces:
                yield piece


class _Wire:
    """One connection: requests in, answers out, each within its time."""

    def __init__(self, stream: SocketStream, limits: Limits) -> None:
        self._stream, self._limits = stream, limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self._until = 0.0
        self._silent = False
        self._streaming = False
        self._patience = limits.send_seconds
        self._sending, self._ending, self._stopped = anyio.CancelScope(), anyio.CancelScope(), False
        self.gone = False
        """Whether the client hung up."""

    @contextmanager
    def ending(self) -> Iterator[anyio.CancelScope]:
        """A block that ends when the server stops or the client hangs up."""
        with anyio.CancelScope() as self._ending:
            if self._stopped:
                self._ending.cancel()
            yield self._ending

    def stop(self) -> None:
        """End what is done for the client; it has a moment to hear so."""
        self._stopped = True
        self._ending.cancel()
        self._patience = self._limits.stop_seconds
        self._sending.deadline = min(self._sending.deadline, anyio.current_time() + self._patience)

    # Requests

    async def head(self) -> h11.Request | None:
        """The next request's line and headers; None if the client has no more to ask.

        Raises:
            ApiError: that is no request, or it came too slowly.
        """
        self._streaming = self._silent = False
        if not self._http.trailing_data[0]:
            with anyio.move_on_after(self._limits.idle_seconds) as idle:
                self._http.receive_data(await self._received())
            if idle.cancelled_caught:
                return None
        self._until = anyio.current_time() + self._limits.request_seconds
        event = await self._event()
        if not isinstance(event, h11.Request):
            return None
        self._silent = event.method == b"HEAD"
        return event

    async def body(self) -> bytes:
        """The body of the request.

        Raises:
            ApiError: it is too large, or came too slowly.
        """
        parts = bytearray()
        while isinstance(event := await self._event(), h11.Data):
            parts += event.data
            if len(parts) > BODY_LIMIT:
                raise too_large()
        return bytes(parts)

    async def _event(self) -> Any:
        try:
            with anyio.fail_after(self._until - anyio.current_time()):
                while (event := self._http.next_event()) is h11.NEED_DATA:
                    if self._http.they_are_waiting_for_100_continue:
                        await self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
                    self._http.receive_data(await self._received())
                return event
        except TimeoutError:
            raise ApiError(
                408, "the request came too slowly", f"{self._limits.request_seconds:g} s are given"
            ) from None
        except h11.RemoteProtocolError as error:
            raise ApiError(error.error_status_hint, "that is no request", str(error)) from None

    async def _received(self) -> bytes:
        try:
            return await self._stream.receive()
        except anyio.EndOfStream:
            return b""

    async def watch(self) -> None:
        """End the block when the client hangs up, or sends more and more before it has its answer."""
        ahead = 0
        try:
            while ahead <= AHEAD_LIMIT and (data := await self._received()):
                self._http.receive_data(data)
                ahead += len(data)
        except _GONE:
            pass  # it hung up, too
        self.gone = True
        self._sending.cancel()
        self._ending.cancel()

    def again(self) -> bool:
        """Whether another request can follow, now that this one is answered."""
        if self.gone or (self._http.our_state, self._http.their_state) != (h11.DONE, h11.DONE):
            return False
        self._http.start_next_cycle()
        return True

    # Answers

    async def tell(self, status: int, told: Mapping[str, Any], headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """Answer with one object."""
        data = _json(told)
        length = (b"content-length", str(len(data)).encode())
        await self._send(
            h11.Response(status_code=status, headers=[_JSON, length, *headers]),
            *([] if self._silent else [h11.Data(data=data)]), h11.EndOfMessage(),
        )  # fmt: skip

    async def stream(self, answer: Answer, pieces: AsyncGenerator[Piece, None]) -> None:
        """Answer with events, as pieces come. What is wrong before the first is an error of the whole."""
        async for piece in pieces:
            if told := b"".join(_event(chunk) for chunk in answer.chunks(piece)):
                begin = [] if self._streaming else [h11.Response(status_code=200, headers=_EVENTS)]
                self._streaming = True
                await self._send(*begin, h11.Data(data=told))
        await self._send(h11.Data(data=b"data: [DONE]\n\n"), h11.EndOfMessage())

    async def fail(self, error: SlipError) -> None:
        """Answer with an error, or end with it what has begun."""
        status, told = error_of(error)
        try:
            if self._streaming:
                await self._send(h11.Data(data=_event(told)), h11.EndOfMessage())
            elif self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await self.tell(status, told, _advice(status))
        except _GONE:
            self.gone = True

    async def refuse(self, error: SlipError) -> None:
        """Answer a request of which not all was read, and hear it out for a moment: else the answer would be lost."""
        await self.fail(error)
        with anyio.move_on_after(1):
            await self._stream.send_eof()
            while await self._received():
                pass

    async def _send(self, *events: Any) -> None:
        """Send as a whole, or hold the client for gone: whoever stops in between could not go on with an error."""
        data = b"".join(self._http.send(event) or b"" for event in events)
        with anyio.CancelScope(deadline=anyio.current_time() + self._patience, shield=True) as self._sending:
            await self._stream.send(data)
        if self._sending.cancelled_caught:
            raise anyio.BrokenResourceError


def too_large() -> ApiError:
    """The error for a body that is not read to its end."""
    return ApiError(413, "the body is too large", f"at most {BODY_LIMIT} bytes are read", "leave older messages out")


def _event(told: Mapping[str, Any]) -> bytes:
    return b"data: " + _json(told) + b"\n\n"


def _json(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, allow_nan=False, separators=(",", ":")).encode()


def _advice(status: int) -> tuple[tuple[bytes, bytes], ...]:
    """Headers that go with a status."""
    match status:
        case 401:
            return ((b"www-authenticate", b"Bearer"),)
        case 429 | 503:
            return ((b"retry-after", b"1"),)
        case 405:
            return ((b"allow", ", ".join(sorted(set(PATHS.values()))).encode()),)
        case _:
            return ()
