"""What the two sides of a pairing do once both have proven the token: one asks to be let in, the other lets it in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

from ..core import authority
from ..core.authority import Admitted
from ..core.device import clean
from ..core.errors import LinkLost, ProtocolError, Refused, SlipError
from ..core.trust import ROSTER_LIMIT
from .pairing_wire import MESSAGE_SECONDS, Wire

INVITATION_SECONDS: Final = 600.0
"""How long a code lives, and so how long a person may think."""
_BATCH: Final = 48
"""Statements in a frame."""
_ADDRESSES: Final = 8
_ADDRESS = re.compile(r"tls://(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,100}):[0-9]{1,5}")

Role = Literal["owner", "newcomer"]
Met = TypeVar("Met", covariant=True)


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A device that proved the token, and asks to be let in."""

    id: str
    name: str
    kind: str
    csr: bytes


@dataclass(frozen=True, slots=True)
class Welcome:
    """What an owner answers: what makes the newcomer a device of its mesh, and where the owner's daemon listens."""

    by: str
    admitted: Admitted
    addresses: tuple[str, ...]
    host: str = ""
    """Where the owner was met."""


class Side(Protocol[Met]):
    """One of the two: its id and role, and what it does once both have proven the token."""

    @property
    def id(self) -> str: ...

    @property
    def role(self) -> Role: ...

    async def meet(self, wire: Wire, other: str) -> Met:
        """Speak with the device `other`.

        Raises:
            SlipError: it came to nothing, and why.
        """
        ...


@dataclass(frozen=True, slots=True)
class OwnerSide:
    """An owner; `let_in` asks the person and admits the newcomer, or raises what the newcomer is told."""

    id: str
    let_in: Callable[[Newcomer], Awaitable[Welcome]]
    role: Role = "owner"

    async def meet(self, wire: Wire, other: str) -> Newcomer:
        """Let the newcomer in; it, once it has kept what it got."""
        said = await wire.read(csr=bytes, name=str, kind=str)
        newcomer = Newcomer(authority.id_of_request(said["csr"]), clean(said["name"]), clean(said["kind"]), said["csr"])
        if newcomer.id != other:
            raise Refused("the request is for another key", "not for the one that proved the token")
        if not newcomer.name.strip() or not newcomer.kind.strip():
            raise ProtocolError("the request names no device", "a name and a kind are needed")
        kept = asyncio.create_task(wire.read(None, kept=bool))
        try:
            welcome = await self._while_it_waits(newcomer, kept)
            try:
                await self._give(wire, welcome)
                async with asyncio.timeout(MESSAGE_SECONDS):
                    await kept
            except (SlipError, TimeoutError) as error:
                raise LinkLost(f"{newcomer.name} was let in, but did not say that it kept it", str(error),
                               f"if it does not come: slip pair revoke {newcomer.id}") from None  # fmt: skip
        finally:
            kept.cancel()
            await asyncio.gather(kept, return_exceptions=True)
        return newcomer

    async def _while_it_waits(self, newcomer: Newcomer, kept: asyncio.Task[dict[str, Any]]) -> Welcome:
        """What `let_in` says, unless the newcomer hangs up first."""
        letting = asyncio.ensure_future(self.let_in(newcomer))
        try:
            await asyncio.wait((kept, letting), return_when=asyncio.FIRST_COMPLETED)
            if not letting.done():
                await kept  # raises why it hung up
                raise ProtocolError("the newcomer kept what it was not given")
            return await letting
        finally:
            letting.cancel()
            await asyncio.gather(letting, return_exceptions=True)

    async def _give(self, wire: Wire, welcome: Welcome) -> None:
        admitted = welcome.admitted
        await wire.send(
            certificate=admitted.certificate, owner=admitted.owner, root=admitted.root,
            addresses=list(welcome.addresses[:_ADDRESSES]), statements=len(admitted.statements),
        )  # fmt: skip
        for at in range(0, len(admitted.statements), _BATCH):
            await wire.send(batch=admitted.statements[at : at + _BATCH])


@dataclass(frozen=True, slots=True)
class NewcomerSide:
    """A device that wants to be let in; `settle` keeps what it gets, or raises what the owner is told."""

    asked: authority.Request
    name: str
    kind: str
    settle: Callable[[Welcome], None]
    waits: Callable[[], None] = lambda: None
    """Called when the owner's person is asked."""
    role: Role = "newcomer"

    @property
    def id(self) -> str:
        """The id that it will have."""
        return self.asked.id

    async def meet(self, wire: Wire, other: str) -> Welcome:
        """Ask to be let in, and keep what comes."""
        await wire.send(csr=self.asked.csr, name=self.name, kind=self.kind)
        self.waits()
        said = await wire.read(
            INVITATION_SECONDS, certificate=bytes, owner=bytes, root=bytes, addresses=list, statements=int
        )
        statements: list[bytes] = []
        while len(statements) < min(said["statements"], ROSTER_LIMIT):
            batch = (await wire.read(batch=list))["batch"]
            if not batch or not all(type(s) is bytes for s in batch):
                raise ProtocolError("the roster cannot be read", "a batch of statements is needed")
            statements += batch
        admitted = Admitted(said["certificate"], said["owner"], said["root"], statements)
        addresses = tuple(a for a in said["addresses"] if type(a) is str and _ADDRESS.fullmatch(a))
        welcome = Welcome(other, admitted, addresses, wire.host)
        self.settle(welcome)
        await wire.send(kept=True)
        return welcome
