"""A network in memory: seeded delay, jitter, loss, bandwidth and partitions, on whatever clock anyio has.

Under trio's MockClock a mesh lives hours on it in milliseconds. It carries what TCP would: each link delivers all its
bytes in order or breaks, so a lost packet is a delay by its retransmission, and only links overtake each other. A cut
is silent: nobody is told, what is sent waits in the network, and arrives if the cut heals while both ends still care.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from errno import EADDRINUSE
from heapq import heappop, heappush
from math import ceil, inf
from random import Random
from types import TracebackType
from typing import Final, Literal, Self

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from ..core.device import short
from ..core.errors import LinkLost, SlipError
from ..core.link import Link, Receiver

HIGH_WATER: Final = 256 * 1024
LOW_WATER: Final = 64 * 1024
"""Bytes under way from which on a link is `full`, and below which it no longer is."""
DIAL_TIMEOUT: Final = 5.0
RETRANSMIT: Final = 0.2
"""Seconds, beside a round trip, until TCP sends a lost packet again; doubled with each loss (RFC 6298, 5)."""

_PACKET = 1400
_RETRIES = 8
_SYN_AGAIN = 0.5


@dataclass(frozen=True, slots=True)
class Conditions:
    """How it is between two devices: `delay` one way and `jitter` (up to as much more) in seconds, `loss` as the share
    of packets lost, `bandwidth` in bytes per second each way."""

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    bandwidth: float = inf


class Network:
    """All devices and what lies between them; use it as `async with Network(seed) as network`.

    Equal seeds give equal delays and losses to each link. Times of arrival are rounded up to a multiple of `tick`
    seconds, so that one wake-up serves many; without any delay bytes arrive on the next turn of the loop.
    """

    def __init__(self, seed: int = 0, conditions: Conditions = Conditions(), tick: float = 0.001) -> None:
        self.seed, self.tick = seed, tick
        self.tap: Callable[[bytes], None] = lambda data: None
        """Hears all that anybody sends: what on a real network only the ends of a link can read."""
        self._conditions = conditions
        self._between: dict[frozenset[str], Conditions] = {}
        self._cut: set[frozenset[str]] = set()
        self._doors: dict[str, Callable[[Link], None]] = {}
        self._ends: dict[str, dict[MemoryLink, None]] = {}
        self._links = 0
        self._due: list[tuple[float, int, MemoryLink]] = []
        self._order = 0
        self._scope = anyio.CancelScope()
        self._sleeps_until = -inf
        self._tasks: TaskGroup | None = None

    # -- what the weather is -----------------------------------------------------------------------------------------

    def set(self, a: str, b: str, conditions: Conditions) -> None:
        """How it is between two devices from now on."""
        self._between[frozenset((a, b))] = conditions

    def cut(self, a: str, b: str) -> None:
        """Let nothing through between two devices, and tell nobody."""
        self._cut.add(frozenset((a, b)))

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut every pair of devices that are in different groups."""
        sets = [frozenset(group) for group in groups]
        for i, group in enumerate(sets):
            self._cut.update(frozenset((a, b)) for other in sets[i + 1 :] for a in group for b in other if a != b)

    def heal(self, a: str = "", b: str = "") -> None:
        """End the cut between two devices, or every cut; what waited goes on its way in order."""
        healed = {frozenset((a, b))} if a else set(self._cut)
        self._cut -= healed
        now = anyio.current_time()
        for pair in sorted(healed, key=sorted):
            delay = self.conditions(pair).delay
            for device in sorted(pair):
                for link in self._ends.get(device, ()):
                    if link.pair == pair:
                        link.release(now + delay)

    def kill(self, device: str) -> None:
        """End a device as `kill -9` does: its links are reset, and nobody listens there until it serves again."""
        self._doors.pop(device, None)
        for link in tuple(self._ends.get(device, ())):
            link.reset("this device was killed")

    def conditions(self, pair: frozenset[str]) -> Conditions:
        """How it is between two devices."""
        return self._between.get(pair, self._conditions)

    def is_cut(self, pair: frozenset[str]) -> bool:
        """Whether nothing gets through between two devices."""
        return pair in self._cut

    # -- doors and links ---------------------------------------------------------------------------------------------

    def open(self, device: str, accept: Callable[[Link], None]) -> None:
        """Have the links to a device accepted.

        Raises:
            OSError: it accepts them already.
        """
        if device in self._doors:
            raise OSError(EADDRINUSE, f"{device} serves already")
        self._doors[device] = accept

    def shut(self, device: str, accept: Callable[[Link], None]) -> None:
        """Accept no more links; another door that was opened since stays open."""
        if self._doors.get(device) is accept:
            del self._doors[device]

    def listens(self, device: str) -> bool:
        """Whether links to a device are accepted."""
        return device in self._doors

    async def reach(self, a: str, b: str) -> bool:
        """Go to another device and back twice; whether that came to an end within DIAL_TIMEOUT."""
        pair = frozenset((a, b))
        with anyio.move_on_after(DIAL_TIMEOUT):
            while True:
                await anyio.sleep(4 * self.conditions(pair).delay)
                if pair not in self._cut:
                    return True
                await anyio.sleep(_SYN_AGAIN)
        return False

    def link(self, a: str, b: str) -> MemoryLink:
        """A link that `a` dialled; `b` accepts it when the first packet has arrived."""
        self._links += 1
        end, other = MemoryLink(self, a, b, True, self._links), MemoryLink(self, b, a, False, self._links)
        end.other, other.other = other, end
        self._ends.setdefault(a, {})[end] = None
        self._ends.setdefault(b, {})[other] = None
        end.knock()
        return end

    def answer(self, link: MemoryLink) -> None:
        """A link has arrived at its device's door."""
        if (accept := self._doors.get(link.device)) is not None:
            accept(link)
        else:
            link.reset("nobody listens here")

    def forget(self, link: MemoryLink) -> None:
        """A link's end is over."""
        self._ends.get(link.device, {}).pop(link, None)

    # -- how it runs -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._pump)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        return await self._tasks.__aexit__(exc_type, exc, traceback)

    def schedule(self, link: MemoryLink, due: float) -> None:
        """Have `link.arrive` called at that time."""
        self._order += 1
        heappush(self._due, (due, self._order, link))
        if due < self._sleeps_until:
            self._sleeps_until = -inf
            self._scope.cancel()

    async def _pump(self) -> None:
        """The one task: what arrives, arrives here."""
        while True:
            now, last = anyio.current_time(), self._order
            due = self._due
            # what an arrival causes without delay waits for the next turn, or two devices could stop the clock
            while due and due[0][0] <= now and due[0][1] <= last:
                heappop(due)[2].arrive()
            if due and due[0][0] <= now:
                await anyio.lowlevel.checkpoint()
                continue
            self._sleeps_until = due[0][0] if due else inf
            with anyio.CancelScope(deadline=self._sleeps_until) as self._scope:
                await anyio.sleep_forever()
            self._sleeps_until = -inf


@dataclass(slots=True)
class _Arrival:
    """Something on its way to one end of a link: a door to knock at, joined bytes, or the end."""

    kind: Literal["open", "data", "end"]
    due: float
    pieces: list[bytes]
    failure: SlipError | None = None


class MemoryLink:
    """One end of a link. What comes to it waits in `_coming`, in order; each scheduled time lets the first one in."""

    def __init__(self, network: Network, device: str, peer: str, dialled: bool, number: int) -> None:
        self.peer, self.dialled, self.number = peer, dialled, number
        self.address = f"memory://{peer}"
        self.device = device
        self.pair = frozenset((device, peer))
        self.other = self
        self._network = network
        self._receiver: Receiver | None = None
        self._opened = dialled
        self._coming: deque[_Arrival] = deque()
        self._stuck = 0
        self._under_way = 0
        self._waited_for = False
        self._over = self._told = False
        self._failure: SlipError | None = None
        self._random: Random | None = None
        self._turn = self._free_at = self._last_due = -inf
        self._extra = 0.0

    # -- the user of the link ----------------------------------------------------------------------------------------

    def start(self, receiver: Receiver) -> None:
        """Begin to deliver; the first bytes come on the next turn of the loop."""
        self._receiver = receiver
        self.release(anyio.current_time())
        if self._over:
            self._network.schedule(self, anyio.current_time())

    def write(self, data: bytes, *, now: bool = False) -> None:
        """Queue bytes; what one moment writes is joined."""
        if not self._over:
            self._under_way += len(data)
            self._network.tap(data)
            self._send("data", data)

    def full(self) -> bool:
        """Whether HIGH_WATER bytes are under way; then `writable` follows."""
        if self._under_way >= HIGH_WATER:
            self._waited_for = True
            return True
        return False

    def close(self) -> None:
        """End the link behind what is under way."""
        if not self._over:
            self._send("end")
            self._end(None)

    def abort(self) -> None:
        """End the link at once at both ends, as a reset does."""
        self.reset("this device gave it up")

    def reset(self, why: str) -> None:
        """Drop what is under way, and have the other end hear of it one delay from now."""
        if self._over:
            return
        network, other = self._network, self.other
        due = anyio.current_time() + network.conditions(self.pair).delay
        other._coming.clear()
        other._coming.append(_Arrival("end", due, [], other._lost("the other side reset the connection")))
        network.schedule(other, due)
        self._end(self._lost(why))

    # -- the network -------------------------------------------------------------------------------------------------

    def knock(self) -> None:
        """Be announced to the other device."""
        self._send("open")

    def release(self, due: float) -> None:
        """Let in at that time what could not be let in before."""
        for _ in range(self._stuck):
            self._network.schedule(self, due)
        self._stuck = 0

    def arrive(self) -> None:
        """Let in the first that waits, unless a cut or a missing receiver holds it back."""
        if self._over:
            self._tell_lost()
            return
        if not self._coming:
            return
        first = self._coming[0]
        if self._network.is_cut(self.pair) or (self._opened and self._receiver is None):
            self._stuck += 1
            return
        self._coming.popleft()
        if first.kind == "end":
            self._over, self._failure = True, first.failure
            self._network.forget(self)
            self._tell_lost()
        elif first.kind == "open":
            self._opened = True
            self._network.answer(self)
        elif self._receiver is not None:
            data = first.pieces[0] if len(first.pieces) == 1 else b"".join(first.pieces)
            self._receiver.data_received(data)
            self.other._arrived(len(data))

    def _arrived(self, size: int) -> None:
        self._under_way -= size
        if self._waited_for and self._under_way <= LOW_WATER and not self._over and self._receiver is not None:
            self._waited_for = False
            self._receiver.writable()

    def _send(self, kind: Literal["open", "data", "end"], data: bytes = b"") -> None:
        network = self._network
        now = anyio.current_time()
        conditions = network.conditions(self.pair)
        if now != self._turn:
            self._turn, self._extra = now, self._chance(conditions, len(data))
        due = now + conditions.delay + self._extra
        if conditions.bandwidth < inf:
            self._free_at = max(self._free_at, now) + len(data) / conditions.bandwidth
            due += self._free_at - now
        if due > now:
            due = ceil(due / network.tick - 1e-6) * network.tick
        self._last_due = due = max(due, self._last_due)
        coming = self.other._coming
        if kind == "data" and coming and coming[-1].due == due and coming[-1].kind == "data":
            coming[-1].pieces.append(data)
        else:
            coming.append(_Arrival(kind, due, [data]))
            network.schedule(self.other, due)

    def _chance(self, conditions: Conditions, size: int) -> float:
        """Seconds that jitter and lost packets add to what is sent now."""
        if not conditions.jitter and not conditions.loss:
            return 0.0
        if self._random is None:
            self._random = Random(f"{self._network.seed} {self.device} {self.peer} {self.number}")
        extra = self._random.random() * conditions.jitter
        lost = 1 - (1 - conditions.loss) ** max(1, ceil(size / _PACKET))
        wait = RETRANSMIT + 2 * conditions.delay
        for _ in range(_RETRIES):
            if self._random.random() >= lost:
                break
            extra += wait
            wait, lost = wait * 2, conditions.loss
        return extra

    def _end(self, failure: SlipError | None) -> None:
        self._over, self._failure = True, failure
        self._coming.clear()
        self._network.forget(self)
        self._network.schedule(self, anyio.current_time())

    def _tell_lost(self) -> None:
        self._coming.clear()
        if self._receiver is not None and not self._told:
            self._told = True
            self._receiver.link_lost(self._failure)

    def _lost(self, why: str) -> LinkLost:
        return LinkLost(f"the link with {short(self.peer)} was lost", why)


class MemoryTransport:
    """Links between devices of one Network, which vouches for who they are; addresses are `memory://<id>`."""

    scheme = "memory"

    def __init__(self, network: Network, device: str) -> None:
        self._network, self._device = network, device

    @asynccontextmanager
    async def serve(self, accept: Callable[[Link], None]) -> AsyncIterator[list[str]]:
        """Accept links while the block runs; yields the one address.

        Raises:
            OSError: the device serves already.
        """
        self._network.open(self._device, accept)
        try:
            yield [f"memory://{self._device}"]
        finally:
            self._network.shut(self._device, accept)

    async def dial(self, address: str, peer: str) -> Link:
        """Open a link to `memory://<id>`; it takes the two round trips of TCP and TLS 1.3.

        Raises:
            LinkLost: nobody answers within DIAL_TIMEOUT, or not `peer`; `why` says which.
        """
        what = f"no link to {short(peer)} at {address}"
        scheme, _, device = address.partition("://")
        if scheme != self.scheme or not device:
            raise LinkLost(what, "that is no address like memory://id")
        if not await self._network.reach(self._device, device):
            raise LinkLost(what, f"no answer within {DIAL_TIMEOUT:g} s")
        if not self._network.listens(device):
            raise LinkLost(what, "nobody listens there (connection refused)")
        if device != peer:
            raise LinkLost(what, f"another device answered: expected {peer}, got {device}")
        return self._network.link(self._device, device)
