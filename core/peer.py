"""One linked device: drives a session over a link, and gives each call its answer."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from math import inf, isfinite
from typing import Any, Final, Protocol

import anyio

from .device import clean
from .errors import LinkLost, ProtocolError, Refused, SkillFailed, SlipError, TimedOut, UsageError, from_wire
from .link import Link
from .loop import new_wake
from .session import CALLS_LIMIT, Session, reason
from .timers import Sweep, Timers
from .wire import Kind

FLOOD_LIMIT: Final = 5000
"""Messages in a second that nobody asked for, above which a link is closed."""
BURST: Final = 4096
"""Bytes that are joined at most before they go out."""
WAITING_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of large bodies that may wait for a peer that does not read."""
KEY_LIMIT: Final = 200
HELD_LIMIT: Final = 64
"""Messages that a peer may send while it is not yet known whether it is let in."""
_RESULT, _ERROR, _CALL = int(Kind.RESULT), int(Kind.ERROR), int(Kind.CALL)
_UNASKED: Final = frozenset((Kind.NOTE, Kind.NEWS, Kind.BEAT, Kind.CANCEL))


class PeerOwner(Protocol):
    """Whom a peer's messages reach. All of it is called on the event loop and must not block."""

    def peer_call(
        self, peer: Peer, stream: int, target: str, args: dict[str, Any], key: str, left: float, origin: str
    ) -> None:
        """The peer calls, on behalf of `origin` if it names one; the answer goes to `peer.answer` or `peer.fail`."""

    def peer_cancel(self, peer: Peer, stream: int, why: str) -> None:
        """The peer no longer wants an answer."""

    def peer_credit(self, peer: Peer, stream: int) -> None:
        """Items of a stream may go out again."""

    def peer_note(self, peer: Peer, target: str, content: dict[str, Any]) -> None:
        """A message that needs no answer."""

    def peer_news(self, peer: Peer, announcements: list[Any]) -> None:
        """Announcements of devices."""

    def peer_heard(self, peer: Peer, now: float) -> None:
        """Bytes came."""

    def peer_measured(self, peer: Peer, rtt: float | None, transfer: tuple[int, float] | None) -> None:
        """A round trip in seconds, or a transfer as (bytes, seconds), was measured in passing."""


class PeerKeeper(Protocol):
    """Who keeps the peers of a device."""

    def peer_hello(self, peer: Peer, hello: dict[str, Any]) -> bool:
        """The peer said who it is: whether it is let in now. If not, `admit` or `refuse` follows; a SlipError that is
        raised refuses it."""

    def peer_lost(self, peer: Peer, why: SlipError | None) -> None:
        """The link is gone; the last call about this peer."""


class Pending:
    """A call of ours that has no answer yet."""

    __slots__ = ("deadline", "error", "items", "more", "on_progress", "outcome", "target", "value", "wake")

    def __init__(self, target: str, deadline: float, on_progress: Callable[[float, str], None] | None) -> None:
        self.target, self.deadline = target, deadline
        self.wake = new_wake()
        self.outcome = ""
        self.value: Any = None
        self.error: SlipError | None = None
        self.on_progress = on_progress
        self.items: deque[tuple[Any, int]] | None = None
        self.more: anyio.Event | None = None


class Peer:
    """The other end of a link. It is `up` once both sides said HELLO and accepted it."""

    def __init__(
        self, owner: PeerOwner, keeper: PeerKeeper, link: Link, hello: dict[str, Any], timers: Timers,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.id = link.peer
        self.link = link
        self.up = False
        self.lost = False
        self.settled = anyio.Event()
        """Set once the link is up, was replaced by another one, or is lost."""
        self._owner, self._keeper, self._clock = owner, keeper, clock
        self._sweep = Sweep(timers, self._end_overdue, clock)
        self._session = Session(hello)
        self._pending: dict[int, Pending] = {}
        self._beat_in: tuple[float, float] | None = None
        self._arriving: dict[int, float] = {}
        self._refused: SlipError | None = None
        self._unasked, self._since = 0, 0.0
        self._burst = 0
        self._held: list[list[Any]] | None = None
        link.start(self)
        self.flush()

    @property
    def why(self) -> SlipError | None:
        """Why the link ended, where somebody said so."""
        return self._refused

    @property
    def busy(self) -> bool:
        """Whether calls are open in either direction."""
        return bool(self._session.calls_in or self._session.calls_out)

    # -- the link tells (Receiver) -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes of the peer: a burst of frames is one turn, and what it makes us say goes out together."""
        now = self._clock()
        self._owner.peer_heard(self, now)
        try:
            for message in self._session.receive(data):
                if self._held is None:
                    self._take(message, now)
                else:
                    self._hold(message)
        except SlipError as error:
            self.refuse(error)
            return
        if self._session.arriving:
            self._time_transfers(now)
        self.flush()

    def writable(self) -> None:
        """The link has room again."""
        self.flush()

    def link_lost(self, why: SlipError | None) -> None:
        """The link is gone; every open call fails now, not at its deadline."""
        if self.lost:
            return
        self.lost, self.up = True, False
        self._session.drop()
        why = self._refused or why
        for pending in self._pending.values():
            self._finish(pending, error=LinkLost(f"the link to {self.id[:7]} was lost", str(why or "it was closed")))
        self._pending.clear()
        self._keeper.peer_lost(self, why)

    def _take(self, message: list[Any], now: float) -> None:
        kind = message[0]
        if kind in _UNASKED:
            self._unasked += 1
            if now - self._since > 1.0:
                self._unasked, self._since = 1, now
            elif self._unasked > FLOOD_LIMIT:
                raise ProtocolError("the peer floods this device", f"more than {FLOOD_LIMIT} messages in a second")
        if kind == _RESULT or kind == _ERROR:
            if (pending := self._pending.pop(message[1], None)) is not None:
                if kind == _RESULT:
                    self._finish(pending, message[2], message[3])
                else:
                    self._finish(pending, error=from_wire(message[2]))
        elif kind == _CALL:
            _, stream, target, args, key, left, origin = message[:7]
            if len(key) > KEY_LIMIT:
                raise ProtocolError(f"an idempotency key of {len(key)} characters", f"{KEY_LIMIT} are allowed")
            if len(origin) > KEY_LIMIT:
                raise ProtocolError(f"an origin of {len(origin)} characters", f"{KEY_LIMIT} are allowed")
            self._owner.peer_call(self, stream, target, args, key, left, origin)
        elif kind == Kind.PROGRESS:
            pending = self._pending.get(message[1])
            if pending is not None and pending.on_progress is not None:
                pending.on_progress(min(1.0, max(0.0, message[2])), clean(message[3], 200))
        elif kind == Kind.ITEM:
            self._take_item(message[1], message[2], message[3])
        elif kind == Kind.CANCEL:
            self._owner.peer_cancel(self, message[1], clean(message[2], 200))
        elif kind == Kind.CREDIT:
            self._owner.peer_credit(self, message[1])
        elif kind == Kind.BEAT:
            if not (isfinite(message[1]) and message[3] >= 0):
                raise ProtocolError("a BEAT with impossible times")
            self._beat_in = (message[1], now)
            if message[2] >= 0 and (rtt := now - message[2] - message[3]) >= 0:
                self._owner.peer_measured(self, rtt, None)
        elif kind == Kind.NEWS:
            self._owner.peer_news(self, message[1])
        elif kind == Kind.NOTE:
            self._owner.peer_note(self, clean(message[1], 100), message[2])
        elif kind == Kind.HELLO:
            if self._keeper.peer_hello(self, message[1]):
                self.up = True
                self.settled.set()
            else:
                self._held = []
        elif kind == Kind.BYE:
            self._refused = reason(message)
            self.link.close()

    def _hold(self, message: list[Any]) -> None:
        if message[0] == Kind.BYE:
            self._take(message, self._clock())
        elif self._held is not None:
            self._held.append(message)
            if len(self._held) > HELD_LIMIT:
                raise ProtocolError("too much was said before this device was let in", f"{HELD_LIMIT} messages")

    def admit(self) -> None:
        """Let in a peer that `peer_hello` had wait: what it said meanwhile is heard now."""
        held, self._held = self._held or [], None
        self.up = True
        self.settled.set()
        now = self._clock()
        try:
            for message in held:
                self._take(message, now)
        except SlipError as error:
            self.refuse(error)
            return
        self.flush()

    def _take_item(self, stream: int, value: Any, cost: int) -> None:
        pending = self._pending.get(stream)
        if pending is None:
            return
        if pending.items is None or pending.more is None:
            raise ProtocolError("an item of a call that streams nothing")
        pending.items.append((value, cost))
        pending.more.set()

    def _time_transfers(self, now: float) -> None:
        for number, size in self._session.arriving:
            if not size:
                self._arriving[number] = now
            elif (began := self._arriving.pop(number, None)) is not None and now > began:
                self._owner.peer_measured(self, None, (size, now - began))
        self._session.arriving.clear()

    def _finish(self, pending: Pending, outcome: str = "", value: Any = None, error: SlipError | None = None) -> None:
        pending.outcome, pending.value, pending.error = outcome, value, error
        pending.wake.set()
        if pending.more is not None:
            pending.more.set()

    # -- we call -----------------------------------------------------------------------------------------------------

    def flush(self, *, now: bool = False) -> None:
        """Hand to the link what the session has to say; large bodies only while the link has room."""
        if data := self._session.outgoing():
            # a burst goes out in parts, so that the other side works on the first while we make the next
            self._burst += len(data)
            now = now or self._burst >= BURST
            if now:
                self._burst = 0
            self.link.write(data, now=now)
        while not self.link.full() and (data := self._session.next_chunk()):
            self.link.write(data)
        if self._session.waiting > WAITING_LIMIT and not self.lost:
            self.abort(
                LinkLost(f"{self.id[:7]} does not read what is sent to it", f"{self._session.waiting} bytes wait")
            )

    def _begin(self, pending: Pending, args: dict[str, Any], key: str, origin: str = "") -> int:
        if self.lost or self._session.closed:
            raise LinkLost(f"there is no link to {self.id[:7]}")
        if len(self._pending) >= CALLS_LIMIT:
            raise Refused("too many calls at once", f"{CALLS_LIMIT} are open to {self.id[:7]}", "wait for some to end")
        left = -1.0
        if pending.deadline != inf:
            left = pending.deadline - self._clock()
            if left <= 0:
                raise TimedOut(f"{pending.target} was not done in time")
            self._sweep.before(pending.deadline)
        stream = self._session.call(pending.target, args, key, left, origin, reads=pending.items is not None)
        self._pending[stream] = pending
        # the only call under way goes out at once; others are joined with those that the same turn makes
        self.flush(now=len(self._pending) == 1)
        return stream

    def _end_overdue(self, now: float) -> float:
        for stream, pending in list(self._pending.items()):
            if pending.deadline <= now:
                del self._pending[stream]
                self._session.give_up(stream, "deadline")
                self._finish(pending, error=TimedOut(f"{pending.target} was not done in time"))
        self.flush()
        return min((p.deadline for p in self._pending.values()), default=inf)

    async def call(
        self, target: str, args: dict[str, Any], *, key: str = "", deadline: float | None = None,
        on_progress: Callable[[float, str], None] | None = None, origin: str = "",
    ) -> tuple[str, Any]:  # fmt: skip
        """Call a skill there, or one of the mesh's own targets; its outcome and value.

        `deadline` is on `anyio.current_time`'s clock and travels with the call as the seconds that are left. Cancelling
        this cancels the skill there.

        Raises:
            SlipError: what the other side reported; LinkLost or TimedOut from this side.
        """
        pending = Pending(target, inf if deadline is None else deadline, on_progress)
        stream = self._begin(pending, args, key, origin)
        try:
            await pending.wake
        except BaseException:
            if self._pending.pop(stream, None) is not None:
                self._session.give_up(stream, "cancelled")
                self.flush()
            raise
        if pending.error is not None:
            raise pending.error
        return pending.outcome, pending.value

    async def stream(
        self, target: str, args: dict[str, Any], *, deadline: float | None = None,
        on_progress: Callable[[float, str], None] | None = None,
    ) -> AsyncGenerator[Any, None]:  # fmt: skip
        """Call a streaming skill there and go through its items; the sender waits when we are slow.

        Raises:
            SlipError: as `call`.
        """
        pending = Pending(target, inf if deadline is None else deadline, on_progress)
        pending.items, pending.more = deque(), anyio.Event()
        stream = self._begin(pending, args, "")
        try:
            while True:
                while pending.items:
                    value, cost = pending.items.popleft()
                    self._session.took(stream, cost)
                    self.flush()
                    yield value
                if pending.wake.is_set():
                    break
                pending.more = anyio.Event()
                await pending.more.wait()
        finally:
            if self._pending.pop(stream, None) is not None:
                self._session.give_up(stream, "cancelled")
                self.flush()
        if pending.error is not None:
            raise pending.error

    # -- we answer ---------------------------------------------------------------------------------------------------

    def answer(self, stream: int, outcome: str, value: Any) -> None:
        """The result of a call of the peer's; a value that cannot be sent becomes an error that says so."""
        try:
            self._session.result(stream, outcome, value)
        except UsageError as error:
            self._session.error(stream, SkillFailed("the result cannot be sent", str(error), error.hint))
        self.flush(now=not self._session.calls_in)  # the last of the calls under way takes the others along

    def fail(self, stream: int, error: SlipError) -> None:
        """The error of a call of the peer's."""
        self._session.error(stream, error)
        self.flush()

    def progress(self, stream: int, fraction: float, note: str) -> None:
        """How far a call of the peer's is."""
        self._session.progress(stream, fraction, note)
        self.flush()

    def item(self, stream: int, value: Any) -> bool:
        """Send an item of a streamed result; whether the next one `may_send` at once.

        Raises:
            SkillFailed: it cannot be sent.
        """
        try:
            self._session.item(stream, value)
        except UsageError as error:
            raise SkillFailed("an item of the result cannot be sent", str(error), error.hint) from None
        self.flush()
        return self._session.may_send(stream)

    def may_send(self, stream: int) -> bool:
        """Whether the next item may go out; if not, `peer_credit` says when to ask again."""
        return self._session.may_send(stream)

    def reads(self, stream: int) -> bool:
        """Whether the peer takes the result of a call of its own item by item."""
        return self._session.reads(stream)

    def note(self, target: str, content: dict[str, Any], *, now: bool = False) -> None:
        """Send a message that has no answer; `now` if somebody waits for it."""
        if not self._session.closed:
            self._session.note(target, content)
            self.flush(now=now)

    def news(self, announcements: list[Any]) -> None:
        """Send announcements."""
        if not self._session.closed:
            self._session.news(announcements)
            self.flush()

    def beat(self) -> None:
        """Say that we are here, so that silence means something."""
        if not self._session.closed:
            now = self._clock()
            echo, held = (-1.0, 0.0) if self._beat_in is None else (self._beat_in[0], now - self._beat_in[1])
            self._session.beat(now, echo, held)
            self.flush()

    def leave(self) -> None:
        """Say goodbye and close once it is sent."""
        self._session.bye()
        self.flush()
        self.link.close()

    def refuse(self, error: SlipError) -> None:
        """Say goodbye with the reason, and close once it is sent."""
        self._session.bye(error)
        self._refused = error
        self.flush()
        self.link.close()

    def abort(self, why: SlipError) -> None:
        """Drop the link now."""
        self._refused = why
        self.link.abort()
