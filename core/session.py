"""One link's hello, calls, streams and cancels: a state machine without I/O or clock (law 1).

Laws:
- Each side says HELLO first and once; nothing else is read before it. A refusal is a BYE that says why.
- A call's stream number is chosen by the caller and only grows; a number that was used is a broken peer.
- Each call ends exactly once, in RESULT or ERROR. What arrives for a call that we gave up is dropped; what arrives for
  a call that we never made is a broken peer.
- Items of a stream cost credit: the sender stops at zero, the reader gives back what it took. Only a caller that says
  so gets items (a last field of its CALL); any other gets them all in the result.
- Large bodies go out a chunk at a time, only when the link has room, the streams in turn. What other streams say
  overtakes them; what their own stream says after them waits behind them, so a stream stays in order.

`receive(bytes)` gives messages as `wire.unpack` made them, checked against these laws; `outgoing()` gives bytes.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from .errors import ProtocolError, SlipError, UsageError, from_wire
from .wire import CHUNK, FIRST_LIMIT, FRAME_LIMIT, LARGE_LIMIT, VERSION, Kind, Splitter, frame, pack, unpack

WINDOW: Final = 256 * 1024
"""Credit of a stream at its start: bytes of items that may be sent before any is taken."""
CALLS_LIMIT: Final = 1024
"""Calls that one peer may have open at once."""
LARGE_AT_ONCE: Final = 16
"""Large bodies that one peer may have under way at once."""


_RESULT, _ERROR, _CALL = int(Kind.RESULT), int(Kind.ERROR), int(Kind.CALL)
_ITEM_FRAME: Final = 24
"""Bytes of an ITEM at most, beside its value."""


class _Lane:
    """The bodies of one stream that wait to go out in chunks, in order."""

    __slots__ = ("at", "bodies", "number")

    def __init__(self) -> None:
        self.bodies: deque[bytes] = deque()
        self.number = 0
        self.at = 0


class Session:
    """The protocol state of one link.

    `hello` is what this side says of itself; the peer's is in `peer_hello` once it came. A ProtocolError from `receive`
    means: send what `outgoing` gives (a BYE that says why), then close.
    """

    def __init__(self, hello: dict[str, Any]) -> None:
        self.peer_hello: dict[str, Any] | None = None
        self.closed = False
        self._first: bytes | None = b""
        self._splitter = Splitter(FRAME_LIMIT)
        self._out: list[bytes] = []
        self._next_stream = 1
        self._last_in = 0
        self.calls_out: set[int] = set()
        self.calls_in: set[int] = set()
        self._credit: dict[int, int] = {}
        self._untaken: dict[int, int] = {}
        self._readers: set[int] = set()
        self._gaps: set[int] = set()
        self._refused = 0
        self._lanes: dict[int, _Lane] = {}
        self._turn: deque[int] = deque()
        self._lane_queue: deque[int] = deque()
        self._large_number = 0
        self.waiting = 0
        """Bytes of large bodies that wait to go out."""
        self._large_in: dict[int, tuple[int, bytearray]] = {}
        self.arriving: list[tuple[int, int]] = []
        """(number, bytes) of large bodies that began (bytes 0) or became whole since this list was last emptied."""
        self._send([Kind.HELLO, {"version": list(VERSION), **hello}])

    # -- in ------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[list[Any]]:
        """The messages that became whole with `data`, without those that the session keeps to itself.

        Raises:
            ProtocolError: the peer broke a law; the session is closed and `outgoing` holds a BYE with the reason.
        """
        if self.closed:
            return []
        messages: list[list[Any]] = []
        try:
            for body in self._split(data):
                if (message := self._take(unpack(body), len(body))) is not None:
                    messages.append(message)
                if self.closed:
                    break
        except ProtocolError as error:
            self.bye(error)
            raise
        return messages

    def _split(self, data: bytes) -> list[bytes]:
        bodies: list[bytes] = []
        if self._first is not None:  # the small limit holds for the hello alone, whatever came along with it
            data = self._first + data
            size = int.from_bytes(data[:4], "big")
            if len(data) >= 4 and size > FIRST_LIMIT:
                raise ProtocolError("a frame is too long", f"{size} bytes, and {FIRST_LIMIT} is the limit")
            if len(data) < 4 or len(data) < size + 4:
                self._first = data
                return bodies
            bodies.append(data[4 : size + 4])
            data, self._first = data[size + 4 :], None
        try:
            return bodies + self._splitter.feed(data)
        except ValueError as error:
            raise ProtocolError("a frame is too long", str(error)) from None

    def _take(self, message: list[Any], size: int) -> list[Any] | None:
        kind = message[0]
        if self.peer_hello is None:
            return self._take_hello(message)
        if kind == _RESULT or kind == _ERROR:
            if self._mine(message[1]):
                self.calls_out.discard(message[1])
                self._untaken.pop(message[1], None)
                return message
            return None
        if kind == _CALL:
            stream = message[1]
            if stream > self._last_in:
                # a number is skipped only while its call is on its way in chunks
                if stream - self._last_in - 1 + len(self._gaps) > CALLS_LIMIT:
                    raise ProtocolError(f"call {stream} came after {self._last_in}")
                self._gaps.update(range(self._last_in + 1, stream))
                self._last_in = stream
            elif stream in self._gaps:
                self._gaps.discard(stream)
            else:
                raise ProtocolError(f"call {stream} came again", f"the last one was {self._last_in}")
            if len(self.calls_in) >= CALLS_LIMIT:
                self._refused += 1
                if self._refused > CALLS_LIMIT:
                    raise ProtocolError("the peer floods this device", f"{self._refused} calls above the limit")
                error = SlipError(
                    "too many calls at once", f"{CALLS_LIMIT} are open on this link", "wait for some to end"
                )
                error.retry = True
                self._send([Kind.ERROR, stream, error.to_wire()])
                return None
            self._refused = 0
            self.calls_in.add(stream)
            if len(message) > 7 and message[7] is True:
                self._readers.add(stream)
            return message
        if kind == Kind.PROGRESS:
            return message if self._mine(message[1]) else None
        if kind == Kind.ITEM:
            if not self._mine(message[1]):
                return None
            self._take_item(message[1], message[3], size)
            return message
        if kind == Kind.CANCEL:
            self._gaps.discard(message[1])
            return message if message[1] in self.calls_in else None
        if kind == Kind.CREDIT:
            stream, more = message[1], message[2]
            if stream in self.calls_in:
                if more < 0 or self._credit.get(stream, WINDOW) + more > WINDOW:
                    raise ProtocolError(f"credit for call {stream} grew above its window")
                self._credit[stream] = self._credit.get(stream, WINDOW) + more
                return message
            return None
        if kind == Kind.LARGE:
            self._take_large(message[1], message[2])
            return None
        if kind == Kind.CHUNK:
            return self._take_chunk(message[1], message[2])
        if kind == Kind.HELLO:
            raise ProtocolError("a second HELLO")
        if kind == Kind.BYE:
            self.closed = True
        return message

    def _take_hello(self, message: list[Any]) -> list[Any]:
        if message[0] == Kind.BYE:
            self.closed = True
            return message
        if message[0] != Kind.HELLO:
            raise ProtocolError(f"a {Kind(message[0]).name} came before HELLO")
        hello = message[1]
        version = hello.get("version")
        if not (isinstance(version, list) and len(version) == 2 and all(type(v) is int for v in version)):
            raise ProtocolError("a HELLO without a version")
        if version[0] != VERSION[0]:
            theirs, ours = ".".join(map(str, version)), ".".join(map(str, VERSION))
            raise ProtocolError(f"the other device speaks protocol {theirs}, this one {ours}",
                                "different major versions do not understand each other",
                                "update Slipstream on the older device")  # fmt: skip
        self.peer_hello = hello
        return message

    def _mine(self, stream: int) -> bool:
        if stream in self.calls_out:
            return True
        if not 0 < stream < self._next_stream:
            raise ProtocolError(f"an answer to call {stream}, which was never made")
        return False

    def _take_item(self, stream: int, cost: int, size: int) -> None:
        if not min(size - _ITEM_FRAME, WINDOW) <= cost <= WINDOW:
            raise ProtocolError(f"an item of {size} bytes that costs {cost}")
        untaken = self._untaken[stream] = self._untaken.get(stream, 0) + cost
        if untaken > 2 * WINDOW:  # the last one may overdraw its credit
            raise ProtocolError(f"items of call {stream} beyond their credit")

    def _take_large(self, number: int, size: int) -> None:
        if number in self._large_in or len(self._large_in) >= LARGE_AT_ONCE:
            raise ProtocolError("too many large bodies at once", f"{LARGE_AT_ONCE} is the limit")
        waiting = sum(total for total, _ in self._large_in.values())
        if not 0 < size <= LARGE_LIMIT or waiting + size > 2 * LARGE_LIMIT:
            raise ProtocolError(f"a body of {size} bytes", f"{LARGE_LIMIT} is the limit")
        self._large_in[number] = (size, bytearray())  # not a list: pieces of two bytes would take thirty times as much
        self.arriving.append((number, 0))

    def _take_chunk(self, number: int, piece: bytes) -> list[Any] | None:
        if number not in self._large_in:
            raise ProtocolError("a chunk of nothing")
        size, body = self._large_in[number]
        if not piece:  # given up by its sender
            del self._large_in[number]
            return None
        if len(body) + len(piece) > size:
            raise ProtocolError("a chunk beyond its body's size")
        body += piece
        if len(body) < size:
            return None
        del self._large_in[number]
        self.arriving.append((number, size))
        message = unpack(bytes(body))
        if message[0] not in (Kind.CALL, Kind.RESULT, Kind.ITEM, Kind.NEWS, Kind.NOTE):
            raise ProtocolError(f"a {Kind(message[0]).name} may not be large")
        return self._take(message, size)

    # -- out -----------------------------------------------------------------------------------------------------

    def _send(self, message: list[Any], lane: int = 0) -> None:
        """Queue a message. `lane` keeps a stream in order: calls of ours are positive, calls of the peer's negative."""
        if self.closed:
            return
        body = pack(message)
        if len(body) <= 2 * CHUNK and (not self._lanes or lane not in self._lanes or not lane):
            self._out.append(frame(body))
            return
        if len(body) > LARGE_LIMIT:
            raise UsageError("too large to send", f"{len(body)} bytes, and {LARGE_LIMIT} is the limit")
        if lane not in self._lanes:
            self._lanes[lane] = _Lane()
            (self._turn if len(self._turn) < LARGE_AT_ONCE else self._lane_queue).append(lane)
        self._lanes[lane].bodies.append(body)
        self.waiting += len(body)

    def outgoing(self) -> bytes:
        """What must be written now; empty if nothing."""
        if not self._out:
            return b""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        return data

    def next_chunk(self) -> bytes:
        """A piece of a large body, each stream in its turn; empty if there is none. Ask while the link is not full."""
        if not self._turn:
            return b""
        key = self._turn.popleft()
        lane = self._lanes[key]
        body = lane.bodies[0]
        head = b""
        if lane.at == 0:
            self._large_number += 1
            lane.number = self._large_number
            head = frame(pack([Kind.LARGE, lane.number, len(body)]))
        piece = body[lane.at : lane.at + CHUNK]
        lane.at += CHUNK
        if lane.at >= len(body):
            self.waiting -= len(lane.bodies.popleft())
            lane.at = 0
        if lane.bodies:
            self._turn.append(key)
        else:
            self._close_lane(key)
        return head + frame(pack([Kind.CHUNK, lane.number, piece]))

    def _close_lane(self, key: int) -> None:
        self.waiting -= sum(map(len, self._lanes.pop(key).bodies))
        if self._lane_queue and len(self._turn) < LARGE_AT_ONCE:
            self._turn.append(self._lane_queue.popleft())

    def call(
        self, target: str, args: dict[str, Any], key: str = "", left: float = -1.0, origin: str = "", *,
        reads: bool = False,
    ) -> int:  # fmt: skip
        """Begin a call; the number of its stream. `left` is the seconds until its deadline, or -1; `reads` asks for the
        items of a stream one by one.

        Raises:
            UsageError: the arguments cannot be sent.
        """
        stream = self._next_stream
        self._send([_CALL, stream, target, args, key, left, origin, *([True] if reads else [])], stream)
        self._next_stream += 1
        self.calls_out.add(stream)
        return stream

    def give_up(self, stream: int, why: str) -> None:
        """Stop caring about a call of ours, and tell the other side to stop."""
        if stream in self.calls_out:
            self.calls_out.discard(stream)
            self._untaken.pop(stream, None)
            if self.closed:
                return
            if (lane := self._lanes.get(stream)) is not None:  # its arguments are still on their way
                if lane.at:
                    self._out.append(frame(pack([Kind.CHUNK, lane.number, b""])))
                (self._turn if stream in self._turn else self._lane_queue).remove(stream)
                self._close_lane(stream)
            self._send([Kind.CANCEL, stream, why])

    def result(self, stream: int, outcome: str, value: Any) -> None:
        """End a call of the peer's. A second end is ignored, so a late skill cannot answer twice."""
        if stream in self.calls_in:
            self._send([_RESULT, stream, outcome, value], -stream)
            self._ended(stream)

    def error(self, stream: int, error: SlipError) -> None:
        """End a call of the peer's with an error."""
        if stream in self.calls_in:
            self._send([Kind.ERROR, stream, error.to_wire()], -stream)
            self._ended(stream)

    def _ended(self, stream: int) -> None:
        self.calls_in.discard(stream)
        self._credit.pop(stream, None)
        self._readers.discard(stream)

    def reads(self, stream: int) -> bool:
        """Whether the caller of a call of the peer's takes items one by one."""
        return stream in self._readers

    def progress(self, stream: int, fraction: float, note: str) -> None:
        """Tell how far a call of the peer's is."""
        if stream in self.calls_in:
            self._send([Kind.PROGRESS, stream, float(fraction), note])

    def may_send(self, stream: int) -> bool:
        """Whether an item may go out now; after a false, a CREDIT message for the stream says when."""
        return self._credit.get(stream, WINDOW) > 0

    def item(self, stream: int, value: Any) -> None:
        """Send one item of a streamed result; it costs its own size."""
        if stream in self.calls_in:
            cost = min(len(pack([value])), WINDOW)
            self._credit[stream] = self._credit.get(stream, WINDOW) - cost
            self._send([Kind.ITEM, stream, value, cost], -stream)

    def took(self, stream: int, cost: int) -> None:
        """An item that cost so much was read; the sender may send as much again."""
        if stream in self.calls_out:
            self._untaken[stream] = self._untaken.get(stream, 0) - cost
            self._send([Kind.CREDIT, stream, cost])

    def news(self, announcements: list[Any]) -> None:
        """Send announcements of devices."""
        self._send([Kind.NEWS, announcements])

    def note(self, target: str, content: dict[str, Any]) -> None:
        """Send a message that has no answer."""
        self._send([Kind.NOTE, target, content])

    def beat(self, clock: float, echo: float, held: float) -> None:
        """Say that we are here; the three times let the peer work out the round trip."""
        self._send([Kind.BEAT, clock, echo, held])

    def bye(self, error: SlipError | None = None) -> None:
        """Say goodbye, with the reason if it is somebody's fault; nothing is read or sent after it."""
        if not self.closed:
            self._send([Kind.BYE, error.to_wire() if error else {}])
            self.closed = True

    def drop(self) -> None:
        """The link is gone: nothing is read any more, and nothing waits to go out."""
        self.closed = True
        self._out.clear()
        self._lanes.clear()
        self._turn.clear()
        self._lane_queue.clear()
        self._large_in.clear()
        self.waiting = 0


def reason(message: list[Any]) -> SlipError | None:
    """Why the peer said BYE; None if it just left."""
    return from_wire(message[1]) if message[1] else None
