"""The daemon's end of the control socket: one request per connection, many connections at once.

What a verb tells on the way waits in an `Outbox`, bounded: a client that reads slowly loses the oldest lines and is
told how many, and neither the daemon nor another client waits for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import anyio

from .control import REQUEST_LIMIT, VERSION, encode
from .core.errors import Refused, SlipError, UsageError
from .places import short_path

CLIENTS: Final = 64
BACKLOG: Final = 1024
"""Clients that may wait to be accepted, so that a burst of them is answered and not turned away by the kernel."""
OUTBOX: Final = 1000
"""Lines that wait for a slow client."""
REQUEST_SECONDS: Final = 10.0
"""How long a client may take to say what it wants."""


class Outbox:
    """What one client is still to be sent."""

    def __init__(self, limit: int = OUTBOX) -> None:
        self._lines: deque[dict[str, Any]] = deque()
        self._limit = limit
        self._missed = 0
        self._more = anyio.Event()

    def tell(self, **line: Any) -> None:
        """Something to send soon; may be called from anywhere on the loop."""
        if len(self._lines) >= self._limit:
            self._lines.popleft()
            self._missed += 1
        self._lines.append(line)
        self._more.set()

    async def wait(self) -> None:
        """Wait until there is something to take."""
        while not self._lines:
            self._more = anyio.Event()
            await self._more.wait()

    def take(self) -> dict[str, Any] | None:
        """The next line, None if there is none; `{"gap": n}` first where n lines were dropped."""
        if self._missed:
            missed, self._missed = self._missed, 0
            return {"gap": missed}
        return self._lines.popleft() if self._lines else None


Verb = Callable[[dict[str, Any], "Talk"], Awaitable[dict[str, Any]]]


class Talk:
    """One request: `tell` what happens on the way (bounded), `send` what must arrive (waits for the client)."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._turn = anyio.Lock()
        self._outbox = Outbox()
        self.tell = self._outbox.tell

    async def send(self, **line: Any) -> None:
        """Send a line now; what was told before goes first."""
        async with self._turn:
            await self._drain()
            await self._write(line)

    async def keep_sending(self) -> None:
        """Send what is told, until cancelled."""
        while True:
            await self._outbox.wait()
            async with self._turn:
                await self._drain()

    async def _drain(self) -> None:
        while (line := self._outbox.take()) is not None:
            await self._write(line)

    async def _write(self, line: dict[str, Any]) -> None:
        self._writer.write(encode({"v": VERSION, **line}))
        await self._writer.drain()


class ControlServer:
    """Answers requests by a table of verbs; `on_fault` hears of exceptions that no verb should raise.

    It is asyncio's own streams underneath: anyio's Unix streams, when cancelled as the client hangs up, may set a
    future twice (4.16).
    """

    def __init__(self, verbs: Mapping[str, Verb], on_fault: Callable[[Exception], None]) -> None:
        self._verbs, self._on_fault = verbs, on_fault
        self._serving = 0

    @asynccontextmanager
    async def serve(self, path: Path) -> AsyncIterator[None]:
        """Listen at `path` (mode 0600, its folder 0700) while the block runs; then every connection is closed.

        Raises:
            UsageError: the socket cannot be made.
        """
        try:
            listening = _listen(path)
        except OSError as error:
            raise UsageError(f"the control socket {path} cannot be made", error.strerror or str(error),
                             "choose another folder: XDG_RUNTIME_DIR or --state") from None  # fmt: skip
        async with anyio.create_task_group() as group:
            server = await asyncio.start_unix_server(
                lambda reader, writer: group.start_soon(self._client, reader, writer),
                sock=listening, limit=REQUEST_LIMIT, backlog=BACKLOG,
            )  # fmt: skip
            try:
                yield
            finally:
                server.close()
                group.cancel_scope.cancel()
                with suppress(FileNotFoundError):
                    os.unlink(path)
        await anyio.lowlevel.cancel_shielded_checkpoint()  # the turn in which asyncio closes what was aborted

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, Talk(writer))
        except* ConnectionError:
            pass  # a client that hangs up in mid-sentence is its own business
        except* BaseException:
            writer.transport.abort()
            raise
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, talk: Talk) -> None:
        try:
            verb, args = await self._request(reader)
            if self._serving >= CLIENTS:
                raise Refused("too many clients at once", f"{CLIENTS} are served", "close some")
        except SlipError as error:
            await talk.send(end=True, error=error.to_wire())
            return
        self._serving += 1
        try:
            await self._answer(reader, talk, verb, args)
        finally:
            self._serving -= 1

    async def _answer(self, reader: asyncio.StreamReader, talk: Talk, verb: Verb, args: dict[str, Any]) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._hung_up, reader, group.cancel_scope)
            group.start_soon(talk.keep_sending)
            try:
                answer = await verb(args, talk)
            except SlipError as error:
                answer = {"error": error.to_wire()}
            except ConnectionError:
                raise
            except Exception as error:  # a fault of ours costs the client its answer, not the device its mesh
                self._on_fault(error)
                fault = SlipError(f"the daemon failed: {type(error).__name__}", str(error)[:200], "its log says where")
                answer = {"error": fault.to_wire()}
            await talk.send(end=True, **answer)
            group.cancel_scope.cancel()

    async def _request(self, reader: asyncio.StreamReader) -> tuple[Verb, dict[str, Any]]:
        try:
            with anyio.fail_after(REQUEST_SECONDS):
                line = await reader.readuntil(b"\n")
        except (asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            raise UsageError("that is no request", f"no line of at most {REQUEST_LIMIT} bytes came") from None
        except TimeoutError:
            raise UsageError("that is no request", f"no line came in {REQUEST_SECONDS:g} s") from None
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError("that is no request", f"no JSON: {error}"[:200]) from None
        if not isinstance(request, dict) or not isinstance(args := request.get("args", {}), dict):
            raise UsageError("that is no request", 'it looks like {"v":1,"verb":"status","args":{}}')
        if request.get("v") != VERSION:
            raise UsageError(f"unknown version {request.get('v')!r}", f"this daemon speaks {VERSION}",
                             "use the slip that came with the daemon")  # fmt: skip
        verb = self._verbs.get(str(request.get("verb")))
        if verb is None:
            raise UsageError(f"unknown verb {str(request.get('verb'))[:40]!r}", f"there are {', '.join(self._verbs)}")
        return verb, args

    async def _hung_up(self, reader: asyncio.StreamReader, scope: anyio.CancelScope) -> None:
        """Take the request back when the client closes its end; whatever else it sends is dropped."""
        with suppress(ConnectionError):
            while await reader.read(65536):
                pass
        scope.cancel()


def _listen(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)  # of a daemon that was killed: the state folder's lock says that it is gone
    name, folder = short_path(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(name)
        path.chmod(0o600)
    except OSError:
        listening.close()
        raise
    finally:
        if folder is not None:
            os.close(folder)
    return listening
