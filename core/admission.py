"""Whom this device keeps links with: the roster at work. It is asked on every link and every call, and exchanged.

Laws:
- Nobody is admitted but by the roster; a device that is not in it yet shows the statements that let it in (its HELLO
  carries them), and they count only once their signatures were checked.
- Rosters are sets of statements: two devices that differ tell each other what they have, and send what the other
  lacks. What is new here goes on to everybody at once.
- Signatures are checked elsewhere (the keeper's child process), a batch at a time; who sends chaff waits ever longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any, Final, Protocol

import anyio

from .device import short
from .errors import ProtocolError, Refused, SlipError
from .events import Events
from .trust import Member, Role, Roster, Statement

BATCH: Final = 64
"""Statements in one message."""
CSR_LIMIT: Final = 4096
"""Bytes of a request for a certificate."""
HELD_LIMIT: Final = 4096
"""Statements that may wait for their signatures to be checked."""
PEER_LIMIT: Final = 1024
"""Those of one peer among them."""
ANSWERS_LIMIT: Final = 32
"""Answers about the roster that one peer gets in a second."""
CHAFF_SECONDS, CHAFF_LIMIT = 1.0, 64.0
"""How long statements of a device are ignored after some that counted for nothing; each time twice as long."""


class Keeper(Protocol):
    """Where the roster of this device lies."""

    @property
    def roster(self) -> Roster:
        """As it is now."""

    async def take(self, statements: list[bytes]) -> None:
        """Check signatures, and keep what counts; `roster` has it then.

        Raises:
            SlipError: it could not be done; nothing was kept.
        """

    async def renew(self, device: str, csr: bytes) -> dict[str, Any]:
        """As an owner, let the new key of a device in beside its old one; what it is told (authority.Admitted).

        Raises:
            SlipError: this device is no owner, or the request proves no key.
        """

    async def retire(self, device: str) -> None:
        """As an owner, throw the key of a device out that asked for it, and has a new one.

        Raises:
            SlipError: it has none, or this device is no owner.
        """


class Admission:
    """Who may be here, and the exchange of rosters with the peers of one device."""

    def __init__(
        self, me: str, keeper: Keeper, events: Events, clock: Callable[[], float], wall: Callable[[], float],
        send: Callable[[str, dict[str, Any]], None], peers: Callable[[], Iterable[str]], changed: Callable[[], None],
    ) -> None:  # fmt: skip
        self._me, self._keeper, self._events = me, keeper, events
        self._clock, self._wall, self._send, self._peers, self._changed = clock, wall, send, peers, changed
        self._held: dict[tuple[str, bytes], bytes] = {}  # by sender too: a forged copy must not displace the right one
        self._more = anyio.Event()
        self._taken = anyio.Event()
        self._begun = self._ended = 0
        self._chaff: dict[str, tuple[float, float]] = {}
        self._renewing = anyio.Lock()
        self._answered: dict[str, tuple[float, int]] = {}
        self._ids = set(keeper.roster.ids())
        self._here = {m.id for m in keeper.roster.members()}

    @property
    def roster(self) -> Roster:
        """The statements that count here."""
        return self._keeper.roster

    def check(self, device: str) -> Member:
        """What a device is in this mesh, now.

        Raises:
            Refused: it is not of this mesh, was revoked, or its time is over.
        """
        return self._keeper.roster.admitted(device, self._wall())

    def admits(self, device: str) -> bool:
        """Whether a device is of this mesh."""
        try:
            self.check(device)
        except Refused:
            return False
        return True

    def vouch(self) -> list[bytes]:
        """The statements that let this device in, for its HELLO."""
        return [s.to_wire() for s in self.roster.vouch(self._me)]

    def seconds_left(self) -> float:
        """Until the time of the next guest is over; inf for never."""
        now = self._wall()
        return min((m.until - now for m in self.roster.members() if m.until is not None and m.until > now), default=inf)

    async def hear_out(self, device: str, hello: Mapping[str, Any]) -> None:
        """Look at what a device shows that is not known here: who let it in, and nothing else.

        Raises:
            SlipError: it is not of this mesh, or was thrown out.
        """
        if self.roster.revoked(device):
            self.check(device)
        try:
            self.hold(device, read_vouch(hello), adds_only=True)
        except (TypeError, ValueError) as error:
            raise ProtocolError("a vouch cannot be read", str(error)) from None
        await self.settled()
        self.check(device)

    async def rotate(self, device: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """A device has a new key: `csr` lets it in, and once that is safe there, `retire` ends the old one.

        Raises:
            SlipError: this device is no owner, or the request proves no key.
        """
        if content.get("retire") is True:
            await self._keeper.retire(device)
            return {}
        csr = content.get("csr")
        if not isinstance(csr, bytes) or len(csr) > CSR_LIMIT:
            raise ProtocolError("a request for a new key cannot be read")
        if self.check(device).role is Role.GUEST:
            raise Refused("a guest gets no new key", "it is here for a while only", "slip pair invite --role guest")
        async with self._renewing:
            return await self._keeper.renew(device, csr)

    # -- the exchange ------------------------------------------------------------------------------------------------

    def greet(self, peer: str) -> None:
        """Say what roster we have; whoever has another one answers."""
        self._send(peer, {"hash": self.roster.digest})

    def note(self, peer: str, content: Mapping[str, Any]) -> None:
        """A peer tells of its roster.

        Raises:
            ProtocolError, TypeError, ValueError: it cannot be read, or asks for too much.
        """
        if (digest := content.get("hash")) is not None and digest != self.roster.digest:
            self._count_answer(peer)
            self._send(peer, {"have": self.roster.ids()})
        if (have := content.get("have")) is not None:
            self._count_answer(peer)
            self._give(peer, self.roster.lacking(have))
        if (statements := content.get("statements")) is not None:
            if not isinstance(statements, list) or len(statements) > BATCH:
                raise ProtocolError("statements that cannot be read", f"{BATCH} may come at once")
            self.hold(peer, statements)

    def _count_answer(self, peer: str) -> None:
        """An answer is as large as the roster: nobody needs many."""
        now = self._clock()
        since, count = self._answered.get(peer, (now, 0))
        if now - since > 1.0:
            since, count = now, 0
        if len(self._answered) > HELD_LIMIT:
            self._answered.clear()
        self._answered[peer] = since, count + 1
        if count >= ANSWERS_LIMIT:
            raise ProtocolError(
                "the peer asks for the roster too often", f"more than {ANSWERS_LIMIT} times in a second"
            )

    def _give(self, peer: str, statements: list[Statement]) -> None:
        wire = [s.to_wire() for s in statements]
        for at in range(0, len(wire), BATCH):
            self._send(peer, {"statements": wire[at : at + BATCH]})

    def hold(self, peer: str, statements: Iterable[Any], *, adds_only: bool = False) -> int:
        """Statements came; those that are new wait for their signatures to be checked. How many are.

        `adds_only` for what a stranger shows: it may say who let it in, and throws nobody out.

        Raises:
            ProtocolError, TypeError: one cannot be read.
        """
        if self._clock() < self._chaff.get(peer, (-inf, 0.0))[0]:
            return 0
        read = [Statement.from_wire(s) for s in statements]
        have, new = set(self.roster.ids()), 0
        room = min(HELD_LIMIT - len(self._held), PEER_LIMIT - sum(sender == peer for sender, _ in self._held))
        for statement in read:
            if statement.id in have or new >= room or (adds_only and statement.kind != "add"):
                continue
            new += (peer, statement.id) not in self._held
            self._held.setdefault((peer, statement.id), statement.to_wire())
        if new:
            self._more.set()
        return new

    async def settled(self) -> None:
        """Wait until what came so far was checked."""
        last = self._begun + bool(self._held)
        while self._ended < last:
            await self._taken.wait()

    async def run(self) -> None:
        """Check what comes, until cancelled."""
        while True:
            self._more = anyio.Event()
            if not self._held:
                await self._more.wait()
                continue
            batch, self._held = self._held, {}
            self._begun += 1
            try:
                await self._keeper.take(list(batch.values()))
            except SlipError as error:
                self._events.tell("warning", what="news of the roster could not be taken", why=str(error),
                                  hint=error.hint)  # fmt: skip
            else:
                kept = set(self.roster.ids())
                for peer in {peer for peer, _ in batch} - {peer for peer, i in batch if i in kept}:
                    self._ignore(peer)
            self.changed()
            self._ended = self._begun
            taken, self._taken = self._taken, anyio.Event()
            taken.set()

    def _ignore(self, peer: str) -> None:
        if len(self._chaff) > HELD_LIMIT:
            self._chaff.clear()
        seconds = min(CHAFF_LIMIT, 2 * self._chaff.get(peer, (0.0, CHAFF_SECONDS / 2))[1])
        self._chaff[peer] = (self._clock() + seconds, seconds)
        self._events.tell("warning", what=f"{short(peer)} sent statements that nobody signed who may",
                          why="they were dropped", hint="slip pair revoke, if it does not stop")  # fmt: skip

    def changed(self) -> None:
        """The keeper may have another roster: act on it, and tell everybody what is new."""
        news = self.roster.lacking(self._ids)
        if not news:
            return
        self._ids.update(s.id for s in news)
        before, self._here = self._here, {m.id for m in self.roster.members()}
        self._events.tell("trust.changed", joined=sorted(self._here - before), revoked=sorted(before - self._here))
        self._changed()
        for peer in list(self._peers()):
            self._give(peer, news)


def read_vouch(hello: Mapping[str, Any]) -> list[Any]:
    """The statements in a HELLO.

    Raises:
        ProtocolError: they are no list, or too many.
    """
    vouch = hello.get("vouch", [])
    if not isinstance(vouch, list) or len(vouch) > BATCH:
        raise ProtocolError("a HELLO with a vouch that cannot be read")
    return vouch
