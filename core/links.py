"""The links of this device: accepts and dials them, and keeps one for each pair of devices.

Discovered is not reachable: an address is only dialled, and the handshake proves who is there. When both sides dial at
once, the link that the smaller id dialled stays, on both sides; a new link from the side that made the old one replaces
it, since that side knows that the old one is dead.

Who is not of the mesh is refused for as long as the roster stays as it is. Both sides know that then, so neither
dials the other again before a long wait is over or its roster changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup

from .device import short
from .errors import LinkLost, ProtocolError, Refused, SlipError, TimedOut
from .events import Events
from .link import Link, Transport
from .peer import Peer, PeerOwner
from .timers import Timers
from .workers import Workers

DIAL_SECONDS = 6.0
FOUND_LIMIT = 16
"""Links that are opened because a device was found; more are opened only when something must be sent."""
HELLO_SECONDS = 5.0
"""How long the other end of a new link may take to say who it is."""
RETIRE_SECONDS = 0.2
TELL_EVERY, TELL_LIMIT = 60.0, 32
"""Seconds between two warnings of links with one device that did not come up, and how many devices are told of in that
time; the others are counted."""
OUT_SECONDS, OUT_LIMIT = 30.0, 64
"""Seconds that a device is at least let be, wherever it is found, once one of us told the other that it is not of the
mesh; and of how many devices that is remembered."""


class Suggestion(Protocol):
    """A device, and addresses where it may be."""

    @property
    def device(self) -> str:
        """Its id."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where to dial."""


class Candidates(Protocol):
    """Whom to dial, and when; what it suggests is believed only after the handshake."""

    def due(self, now: float) -> Sequence[Suggestion]:
        """Whom to dial now."""

    def next_due(self) -> float | None:
        """When to ask again."""

    def addresses(self, device: str) -> tuple[str, ...]:
        """Where a device may be."""

    def failed(self, device: str, now: float) -> None:
        """Dialling it came to nothing."""

    def linked(self, device: str) -> None:
        """There is a link with it."""

    def lost(self, device: str, now: float) -> None:
        """The link with it is gone."""


class LinksOwner(PeerOwner, Protocol):
    """What a node is to its links."""

    events: Events

    def link_up(self, peer: Peer, hello: dict[str, Any]) -> None:
        """There is a new link with a device; the one before it, if any, may have lost what was sent last."""

    def link_down(self, peer: Peer, why: SlipError | None) -> None:
        """The link with a device is gone, and no other one took its place."""

    def addresses_of(self, device: str) -> tuple[str, ...]:
        """Where the members say that a device is."""


class Door(Protocol):
    """Who is let in (admission.Admission)."""

    def check(self, device: str) -> object:
        """Raise Refused unless a device is of this mesh now."""

    async def hear_out(self, device: str, hello: Mapping[str, Any]) -> None:
        """Look at what a device shows that is not known here; raise a SlipError unless it is of this mesh then."""


class _Dial:
    """A dial under way, and why it came to nothing."""

    __slots__ = ("addresses", "done", "why")

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = frozenset(addresses)
        self.done = anyio.Event()
        self.why: LinkLost | None = None


class Links:
    """All links of one device, by the id of the other end."""

    def __init__(
        self, me: str, hello: dict[str, Any], transports: Mapping[str, Transport], candidates: Candidates | None,
        timers: Timers, clock: Callable[[], float], owner: LinksOwner, group: TaskGroup,
        door: Door, workers: Workers,
    ) -> None:  # fmt: skip
        self.up: dict[str, Peer] = {}
        self.stopping = False
        self.hello = hello
        self._me, self._transports, self._candidates = me, transports, candidates
        self._timers, self._clock, self._owner, self._group, self._door = timers, clock, owner, group, door
        self._workers = workers
        self._all: set[Peer] = set()
        self._dialling: dict[str, _Dial] = {}
        self._look = anyio.Event()
        self._gone = anyio.Event()
        self._told: dict[str, float] = {}
        self._untold = 0
        self._out: dict[str, float] = {}  # who is not of the mesh, as its roster or ours says: let be until then

    def accept(self, link: Link) -> None:
        """Somebody dialled us, and the transport proved who."""
        self._meet(link)

    def _meet(self, link: Link) -> Peer:
        peer = Peer(self._owner, self, link, self.hello, self._timers, self._clock)
        self._all.add(peer)

        def too_late() -> None:
            if not peer.settled.is_set():
                peer.refuse(ProtocolError("no HELLO came in time", f"{HELLO_SECONDS:g} s are allowed"))

        self._timers.at(self._clock() + HELLO_SECONDS, too_late)
        return peer

    async def dial_candidates(self) -> None:
        """Dial what is found, when it is due; runs until cancelled."""
        if self._candidates is None:
            return
        while True:
            if len(self.up) < FOUND_LIMIT:
                now = self._clock()
                for found in self._candidates.due(now):
                    if now < self._out.get(found.device, -inf):
                        self._candidates.failed(found.device, now)
                    else:
                        self._group.start_soon(self._dial_candidate, self._candidates, found.device, found.addresses)
            self._look = anyio.Event()
            at = self._candidates.next_due() if len(self.up) < FOUND_LIMIT else None
            with anyio.move_on_at(float("inf") if at is None else at):
                await self._look.wait()

    async def _dial_candidate(self, candidates: Candidates, device: str, addresses: tuple[str, ...]) -> None:
        try:
            await self._dial(device, addresses)
        except SlipError:
            candidates.failed(device, self._clock())
            self._look.set()

    def suggested(self) -> None:
        """There may be new addresses among the candidates."""
        self._look.set()

    async def to(self, device: str, addresses: tuple[str, ...] = ()) -> Peer:
        """The link to a device, dialled if there is none.

        Raises:
            LinkLost: it cannot be reached; `why` says what was tried last.
        """
        if (peer := self.up.get(device)) is not None:
            return peer
        addresses += self._owner.addresses_of(device)
        if self._candidates is not None:
            addresses += self._candidates.addresses(device)
        while (dial := self._dialling.get(device)) is not None:
            await dial.done.wait()
            if (peer := self.up.get(device)) is not None:
                return peer
            if dial.why is not None and dial.addresses.issuperset(addresses):  # all that we know was just tried
                raise LinkLost(dial.why.what, dial.why.why, dial.why.hint)
        return await self._dial(device, tuple(dict.fromkeys(addresses)))

    async def in_time(self, device: str, deadline: float) -> Peer:
        """As `to`, but not for longer than until `deadline`.

        Raises:
            LinkLost, TimedOut: it cannot be reached, or not in time.
        """
        try:
            with anyio.fail_after(max(0.0, deadline - self._clock())):
                return await self.to(device)
        except TimeoutError:
            raise TimedOut(
                f"{short(device)} was not reached in time", hint=f"slip devices ping {short(device)}"
            ) from None

    def dialling(self, device: str) -> bool:
        """Whether a dial is under way."""
        return device in self._dialling

    async def _dial(self, device: str, addresses: tuple[str, ...]) -> Peer:
        if (peer := self.up.get(device)) is not None:
            return peer
        why: SlipError = LinkLost(f"{short(device)} cannot be reached", "no address of it is known")
        dial = self._dialling[device] = _Dial(addresses)
        try:
            for address in addresses:
                transport = self._transports.get(address.partition("://")[0])
                if transport is None:
                    continue
                try:
                    with anyio.fail_after(DIAL_SECONDS):
                        dialled = self._meet(await transport.dial(address, device))
                        await dialled.settled.wait()
                except TimeoutError:
                    why = LinkLost(f"{short(device)} cannot be reached", f"{address} did not answer in time")
                    continue
                except LinkLost as error:
                    why = error
                    continue
                if (peer := self.up.get(device)) is not None:
                    return peer
                why = dialled.why or why
            if not isinstance(why, LinkLost):
                why = LinkLost(f"{short(device)} refused the link", str(why), why.hint)
            dial.why = why
            raise why
        finally:
            if self._dialling.get(device) is dial:
                del self._dialling[device]
            dial.done.set()

    def peer_hello(self, peer: Peer, hello: dict[str, Any]) -> bool:
        """A peer said who it is: there is a link with it, unless there is a better one already.

        False for one that is not known here but shows who let it in: that takes a moment to check.

        Raises:
            Refused: the link is not wanted.
        """
        if peer.id == self._me:
            raise Refused("this is the same device", "a device keeps no link with itself")
        if self.stopping:
            raise Refused("this device is leaving the mesh")
        try:
            with _at_the_door():
                self._door.check(peer.id)
        except Refused:
            if not hello.get("vouch"):
                raise
            self._workers.do(partial(self._hear_out, peer, hello))  # a callback of asyncio starts no task
            return False
        self._settle(peer, hello)
        return True

    async def _hear_out(self, peer: Peer, hello: dict[str, Any]) -> None:
        try:
            with _at_the_door():
                await self._door.hear_out(peer.id, hello)
            if self.stopping:
                raise Refused("this device is leaving the mesh")
        except SlipError as error:
            peer.refuse(error)
            return
        except Exception as error:  # whatever a stranger shows must not end the node
            peer.refuse(ProtocolError("a vouch cannot be read", type(error).__name__))
            return
        if not peer.lost:
            self._settle(peer, hello)
            peer.admit()

    def recheck(self) -> None:
        """The roster changed, or somebody's time is over: whoever is not of this mesh any more is cut off now."""
        for peer in list(self._all):
            if peer.settled.is_set() and not peer.lost:
                try:
                    with _at_the_door():
                        self._door.check(peer.id)
                except Refused as error:
                    peer.refuse(error)
        out, self._out = self._out, {}
        for device, until in out.items():
            try:
                self._door.check(device)
            except Refused:
                self._out[device] = until
                continue
            if self._candidates is not None and len(self.up) < FOUND_LIMIT:
                addresses = self._candidates.addresses(device)
                self._workers.do(partial(self._dial_candidate, self._candidates, device, addresses))

    def _settle(self, peer: Peer, hello: dict[str, Any]) -> None:
        other = self.up.get(peer.id)
        if other is not None and other.link.dialled != peer.link.dialled and peer.link.dialled != (self._me < peer.id):
            self._retire(peer)
            return
        self.up[peer.id] = peer
        self._out.pop(peer.id, None)
        if other is not None:
            self._retire(other)
        if self._candidates is not None:
            self._candidates.linked(peer.id)
        self._owner.link_up(peer, hello)

    def _retire(self, peer: Peer) -> None:
        """Close a link that another one replaced, once its calls have their answers."""
        peer.settled.set()

        def close() -> None:
            if peer.lost:
                return
            if peer.busy:
                self._timers.at(self._clock() + RETIRE_SECONDS, close)
            else:
                peer.leave()

        self._timers.at(self._clock() + RETIRE_SECONDS, close)

    def peer_lost(self, peer: Peer, why: SlipError | None) -> None:
        """A link is gone."""
        self._all.discard(peer)
        if isinstance(peer.why, Refused) and not peer.why.retry:
            self._let_be(peer.id)
        if peer.why is not None and not peer.settled.is_set() and not self.stopping:
            self._tell_refused(peer, peer.why)
        peer.settled.set()
        if self.up.get(peer.id) is peer:
            del self.up[peer.id]
            if self._candidates is not None:
                self._candidates.lost(peer.id, self._clock())
            self._look.set()
            self._owner.link_down(peer, why)
        if not self._all:
            self._gone.set()

    def _let_be(self, device: str) -> None:
        self._out.pop(device, None)
        if len(self._out) >= OUT_LIMIT:
            del self._out[next(iter(self._out))]
        self._out[device] = self._clock() + OUT_SECONDS

    def _tell_refused(self, peer: Peer, why: SlipError) -> None:
        """A link that never came up is no news of its device, but a person may want to mend what is behind it."""
        now = self._clock()
        self._told = {device: at for device, at in self._told.items() if now < at + TELL_EVERY}
        if peer.id in self._told or len(self._told) >= TELL_LIMIT:
            self._untold += 1
            return
        more = f" (and {self._untold} more)" if self._untold else ""
        self._told[peer.id], self._untold = now, 0
        self._owner.events.tell("warning", what=f"no link with {short(peer.id)}", why=f"{why}{more}", hint=why.hint)

    async def leave(self) -> None:
        """Say goodbye on every link, and wait a moment until that is sent."""
        self.stopping = True
        for peer in list(self._all):
            peer.leave()
        with anyio.move_on_after(1.0):
            while self._all:
                self._gone = anyio.Event()
                await self._gone.wait()


@contextmanager
def _at_the_door() -> Iterator[None]:
    """Who is refused here is told that trying again does not help."""
    try:
        yield
    except Refused as error:
        error.retry = False
        raise
