"""Letting a device in: two devices, one of which knows the other's code, prove to each other that both know its token.

Laws:
- The side that dials compares the key that it finds with the one in the code before it says anything, so nobody can
  stand between. The side that listens asks for the token's proof first. Neither side shows the token.
- A proof is of a role, both ids and both nonces: it is worth nothing in another conversation.
- A token works once, for ten minutes on the monotonic clock; three wrong proofs end it.
- Before both proofs nothing of the newcomer is read but its id, and nothing of the mesh is told but the owner's.

Which side is the owner is independent of which side listens: a car that can show but not type shows the code. Only
short-lived processes import this: a daemon lets nobody in.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Generic

import msgpack

from ..core.device import clean, short
from ..core.errors import Cancelled, Denied, LinkLost, ProtocolError, Refused, SlipError, TimedOut
from .invitation import Invitation
from .pairing_sides import INVITATION_SECONDS, Met, Side
from .pairing_wire import LARGER_LIMIT, Unreachable, Wire

CONNECTIONS: Final = 4
"""How many strangers are listened to at once. If one more comes, one makes way: of the address that most of them came
from, the one that has been unproven longest."""
WRONG_LIMIT: Final = 3
TRIES: Final = 3
"""How often an address is dialled that hangs up before it has said anything: others may have crowded in."""
TELL_LIMIT: Final = 8
"""How many refusals are told of: more would only fill the screen."""

_VERSION: Final = 1
_TAG: Final = "slipstream-pairing/1"
_NONCE_BYTES: Final = 32
_DEVICE = re.compile(r"[a-z2-7]{32}")


class _Guessed(Denied):
    """There were too many wrong proofs."""


class Listener(Generic[Met]):
    """Waits for the one that knows the code. `heard` is told why strangers were refused."""

    def __init__(
        self, side: Side[Met], invitation: Invitation, sockets: Sequence[socket.socket], context: ssl.SSLContext,
        heard: Callable[[str], None] = lambda said: None,
    ) -> None:  # fmt: skip
        self._side, self._invitation, self._sockets, self._context = side, invitation, list(sockets), context
        self._heard = heard
        self._hint = f"a new code: slip pair {'invite' if invitation.by_owner else 'show'}"
        self._told: set[str] = set()
        self._open: dict[asyncio.Task[None], str] = {}
        self._wrong = 0
        self._over: SlipError | None = None

    async def run(self) -> Met:
        """What the side comes to with the one that proves the token. The sockets are closed then; it works once.

        Raises:
            TimedOut: ten minutes are over.
            Denied: it was guessed at, or the person said no.
            SlipError: what went wrong after the proofs, on this side or on the other.
        """
        loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[Met] = loop.create_future()
        for bound in self._sockets:
            bound.setblocking(False)
            loop.add_reader(bound, self._accept, bound)  # a cancelled sock_accept loses a connection (CPython 3.11)
        try:
            async with asyncio.timeout(INVITATION_SECONDS):
                return await self._outcome
        except TimeoutError:
            self._over = TimedOut("the code is too old", f"it lives {INVITATION_SECONDS / 60:g} minutes", self._hint)
            raise self._over from None
        except asyncio.CancelledError:
            self._over = Cancelled("the other side broke it off", "", self._hint)
            raise
        finally:
            self._shut()
            await asyncio.gather(*self._open, return_exceptions=True)

    def _shut(self) -> None:
        """Listen to nobody any more, but to who proves the token just now."""
        while self._sockets:
            bound = self._sockets.pop()
            asyncio.get_running_loop().remove_reader(bound)
            bound.close()
        me = asyncio.current_task()
        for task in self._open:
            if task is not me:
                task.cancel()

    def _accept(self, bound: socket.socket) -> None:
        try:
            connection, name = bound.accept()
        except (BlockingIOError, ConnectionError):
            return  # it was gone before it was here
        if len(self._open) >= CONNECTIONS:
            hosts = list(self._open.values())
            crowd = max(hosts, key=hosts.count)
            longest = next(task for task, host in self._open.items() if host == crowd)
            del self._open[longest]
            longest.cancel()
        connection.setblocking(False)
        self._start(connection, name[0])

    def _start(self, connection: socket.socket, host: str) -> None:
        task = asyncio.create_task(self._serve(connection, host))
        self._open[task] = host

        def ended(task: asyncio.Task[None]) -> None:
            self._open.pop(task, None)
            connection.close()  # also of a task that was cancelled before it began
            if not task.cancelled() and (error := task.exception()) and not self._outcome.done():
                self._outcome.set_exception(error)

        task.add_done_callback(ended)

    async def _serve(self, connection: socket.socket, host: str) -> None:
        try:
            wire = await Wire.accept(connection, self._context)
        except LinkLost as error:
            self._tell(host, error)
            return
        async with _ending(wire, lambda: self._over):
            try:
                other = await self._prove(wire)
            except _Guessed:
                raise
            except SlipError as error:
                wire.refuse(error)
                self._tell(host, error)
                return
            met = await self._side.meet(wire, other)
        if not self._outcome.done():
            self._outcome.set_result(met)

    async def _prove(self, wire: Wire) -> str:
        """The id of the other side, once both have proven the token."""
        other, their_nonce = _greeting(await wire.read(v=int, id=str, nonce=bytes))
        nonce = os.urandom(_NONCE_BYTES)
        await wire.send(v=_VERSION, id=self._side.id, nonce=nonce)
        ours, theirs = _proofs(self._invitation.token, self._side, nonce, other, their_nonce)
        given = (await wire.read(proof=bytes))["proof"]
        if self._over is not None:
            raise self._over
        if not hmac.compare_digest(given, theirs):
            self._wrong += 1
            if self._wrong < WRONG_LIMIT:
                raise Denied("the token is wrong", f"{self._wrong} of {WRONG_LIMIT} tries", self._hint)
            self._over = _Guessed("the code does not count any more", f"{WRONG_LIMIT} wrong tokens came", self._hint)
            self._shut()
            raise self._over
        self._over = Refused("the code was used", "it works once", self._hint)
        self._shut()
        await wire.send(proof=ours)
        wire.limit = LARGER_LIMIT
        return other

    def _tell(self, host: str, error: SlipError) -> None:
        said = f"{host} was refused: {clean(error, 300)}"
        if said not in self._told and len(self._told) < TELL_LIMIT:
            self._told.add(said)
            self._heard(said)


async def dial(side: Side[Met], invitation: Invitation) -> Met:
    """What the side comes to with the one whose code that is.

    Raises:
        LinkLost: nobody is reached at its addresses.
        Refused: another device answers there.
        SlipError: what went wrong after that, on this side or on the other.
    """
    verb = "invite" if invitation.by_owner else "show"
    failed: SlipError | None = None
    left = deque((host, TRIES) for host in invitation.hosts)
    while left:
        host, tries = left.popleft()
        again = [(host, tries - 1)] if tries > 1 else []
        try:
            wire = await Wire.dial(host, invitation.port)
        except Unreachable as error:
            failed = failed or LinkLost(
                f"nobody waits at {', '.join(invitation.hosts)}",
                f"{host}: {error.why}; the code was used, is older than ten minutes, or of another network",
                f"a new code there: slip pair {verb}",
            )  # fmt: skip
            continue
        except LinkLost as error:
            failed = failed or error
            left += again
            continue
        async with _ending(wire, lambda: Cancelled("the other side broke it off")):
            if wire.key != invitation.device:
                failed = Refused(
                    "another device answers than the one that showed the code",
                    f"the key at {host} is {short(wire.key)}, not {short(invitation.device)}; "
                    "somebody stands between, or has that address now",
                    f"both devices in one network that you trust, then a new code: slip pair {verb}",
                )  # fmt: skip
                wire.refuse(failed)
                continue
            nonce = os.urandom(_NONCE_BYTES)
            try:
                await wire.send(v=_VERSION, id=side.id, nonce=nonce)
                said = await wire.read(v=int, id=str, nonce=bytes)
            except LinkLost as error:
                failed = failed or error
                left += again
                continue
            return await _prove(wire, side, invitation, nonce, said)
    assert failed is not None, "an invitation has an address"
    raise failed


async def _prove(wire: Wire, side: Side[Met], invitation: Invitation, nonce: bytes, said: dict[str, Any]) -> Met:
    other, their_nonce = _greeting(said)
    if other != invitation.device:
        raise ProtocolError("the other side says another id than its key's")
    ours, theirs = _proofs(invitation.token, side, nonce, other, their_nonce)
    await wire.send(proof=ours)
    if not hmac.compare_digest((await wire.read(proof=bytes))["proof"], theirs):
        raise Denied("the other side does not know the token", "it is not the one that showed the code")
    wire.limit = LARGER_LIMIT
    return await side.meet(wire, other)


def _greeting(said: dict[str, Any]) -> tuple[str, bytes]:
    """The id and the nonce of the other side."""
    if said["v"] != _VERSION:
        raise ProtocolError("the other side speaks another version of pairing", "", "the same slip on both devices")
    if not _DEVICE.fullmatch(said["id"]) or len(said["nonce"]) != _NONCE_BYTES:
        raise ProtocolError("the other side did not say who it is")
    return said["id"], said["nonce"]


def _proofs(token: bytes, side: Side[Any], nonce: bytes, other: str, their_nonce: bytes) -> tuple[bytes, bytes]:
    """What this side shows instead of the token, and what the other side must."""
    mine, yours = (side.id, nonce), (other, their_nonce)
    newcomer, owner = (mine, yours) if side.role == "newcomer" else (yours, mine)

    def by(role: str) -> bytes:
        return hmac.digest(token, msgpack.packb([_TAG, role, *newcomer, *owner]), "sha256")

    proofs = by("newcomer"), by("owner")
    return proofs if side.role == "newcomer" else proofs[::-1]


@asynccontextmanager
async def _ending(wire: Wire, over: Callable[[], SlipError | None]) -> AsyncIterator[None]:
    """Whatever ends a conversation, the other side hears why; who only makes way hears nothing."""
    try:
        yield
    except SlipError as error:
        wire.refuse(error)
        raise
    except asyncio.CancelledError:
        if (why := over()) is None:
            wire.abort()
        else:
            wire.refuse(why)
        raise
    finally:
        await wire.close()
