"""The contract of a transport: it moves bytes and knows who is on the other side, nothing more.

A link is callbacks, not a stream: a byte stream with a task at each end costs twice the latency of one callback
(measured, see ARCHITECTURE.md). Callbacks run on the event loop, never block and never await.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from .errors import SlipError


class Receiver(Protocol):
    """The side that uses a link; the transport calls it."""

    def data_received(self, data: bytes) -> None:
        """Some bytes, in order, at any boundary."""

    def writable(self) -> None:
        """The link was `full` and no longer is."""

    def link_lost(self, reason: SlipError | None) -> None:
        """The last call on this object; `None` after an orderly close by either side."""


@runtime_checkable
class Link(Protocol):
    """An authenticated, encrypted, ordered byte channel to one device."""

    peer: str
    """The id of the device at the other end, proven by the handshake."""
    address: str
    """Where the other end is, with its scheme: `tls://[fe80::1%eth0]:7447`."""
    dialled: bool
    """Whether this side opened it."""

    def start(self, receiver: Receiver) -> None:
        """Begin to deliver; what arrived before is delivered at once. Called once."""

    def write(self, data: bytes, *, now: bool = False) -> None:
        """Queue bytes; what one turn of the loop writes is joined, unless `now` asks for this much at once.

        Ignored after `close`.
        """

    def full(self) -> bool:
        """Whether enough is queued that large transfers should wait for `writable`."""

    def close(self) -> None:
        """Send what is queued, then close; `link_lost(None)` follows."""

    def abort(self) -> None:
        """Close now and drop what is queued."""


class Transport(Protocol):
    """One way to reach devices, chosen by the scheme of an address."""

    scheme: str

    def serve(self, accept: Callable[[Link], None]) -> AbstractAsyncContextManager[list[str]]:
        """Accept links while the block runs; yields the addresses to announce. `accept` calls `link.start`.

        Raises:
            OSError: the address cannot be bound.
        """

    async def dial(self, address: str, peer: str) -> Link:
        """Open a link to `address` and require that `peer` (a device id) answers there.

        Raises:
            LinkLost: nobody answers, or somebody else does; `why` says which.
        """
