"""A bad network between two daemons: a proxy that holds bytes back as a slow and lossy path would.

TCP loses no bytes: what a path drops is sent again after the retransmission timeout, and all that follows waits for it
(RFC 6298; 0.2 s is Linux's least timeout, doubled for every repetition). So a drop is a stall here, and the end of the
link when the same bytes are dropped too often.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

TIMEOUT: Final = 0.2
REPETITIONS: Final = 6
"""Times that the same bytes are sent again before the path counts as dead."""
_PIECES, _PIECE = 256, 16384


class Path:
    """One direction of a path: when each piece of it arrives. Sans-IO."""

    def __init__(self, latency: float, drop: float, random: Random) -> None:
        self._latency, self._drop, self._random = latency, drop, random
        self._last = 0.0

    def arrival(self, now: float) -> float | None:
        """When a piece that is sent now arrives, never before the one ahead of it; None: the path gives up."""
        stall, timeout = 0.0, TIMEOUT
        for _ in range(REPETITIONS + 1):
            if self._random.random() >= self._drop:
                self._last = max(self._last, now + self._latency + stall)
                return self._last
            stall, timeout = stall + timeout, 2 * timeout
        return None


class Proxy:
    """Passes connections on to `port` of this machine, over paths of one `latency` (s) and `drop` (0 to 1) each way."""

    def __init__(self, port: int, latency: float, drop: float, seed: int = 0) -> None:
        self._port, self._latency, self._drop = port, latency, drop
        self._random = Random(seed)

    async def run(self, *, task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED) -> None:
        """Pass on until cancelled; starts with the port to connect to."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener:
            task_status.started(listener.extra(SocketAttribute.local_port))
            await listener.serve(self._connection)

    async def _connection(self, near: SocketStream) -> None:
        async with near:
            try:
                far = await anyio.connect_tcp("127.0.0.1", self._port)
            except OSError:
                return  # nobody is there: the one who dialled sees its connection close
            async with far, anyio.create_task_group() as group:
                group.start_soon(self._pass, near, far, group.cancel_scope)
                group.start_soon(self._pass, far, near, group.cancel_scope)

    async def _pass(self, source: ByteStream, sink: ByteStream, both: anyio.CancelScope) -> None:
        """Carry bytes one way until either end closes or the path gives up; then the connection ends both ways."""
        path = Path(self._latency, self._drop, self._random)
        send: MemoryObjectSendStream[tuple[float, bytes]]
        receive: MemoryObjectReceiveStream[tuple[float, bytes]]
        send, receive = anyio.create_memory_object_stream(_PIECES)
        async with anyio.create_task_group() as group:
            group.start_soon(self._read, source, send, path.arrival)
            try:
                async with receive:
                    async for at, piece in receive:
                        await anyio.sleep_until(at)
                        await sink.send(piece)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass  # its reader is gone
            both.cancel()

    async def _read(
        self, source: ByteStream, send: MemoryObjectSendStream[tuple[float, bytes]],
        arrival: Callable[[float], float | None],
    ) -> None:  # fmt: skip
        async with send:
            try:
                while True:
                    piece = await source.receive(_PIECE)
                    at = arrival(anyio.current_time())
                    if at is None:
                        return
                    await send.send((at, piece))
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # the other end closed; what is under way still arrives
