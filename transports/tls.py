"""Links over TCP and TLS 1.3, where both sides prove which device they are.

`TlsLink` drives OpenSSL by hand, over a plain asyncio transport instead of through asyncio's own TLS: it is quicker,
the alert that says why somebody was refused goes out before the connection closes, and no link has its own buffer.

Laws:
- Nothing of a peer is delivered before its certificate, its key and, when dialling, the asked-for id agree.
- No session is ever resumed: a resumed one skips the certificate (`num_tickets = 0`).
- Close says what is queued, then close_notify, then FIN, and waits for the other side's: a reset would drop the rest.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from math import inf
from typing import Any, Final

import anyio

from ..core.device import clean, short
from ..core.errors import LinkLost, SlipError, UsageError
from ..core.identity import Identity, host_of, id_of_certificate
from ..core.link import Link, Receiver
from .sockets import address_of, announced, bind, tune

HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds from the first packet until both sides are proven."""
HALF_OPEN, YIELD_AFTER = 64, 1.0
"""How many strangers may be in a handshake at once, and after how many seconds one makes way for a newcomer then."""
SILENCE: Final = 3.5
"""Seconds that sent bytes may stay unacknowledged, and that a close waits for the other side."""
HIGH_WATER, QUEUE_LIMIT = 256 * 1024, 16 * 1024 * 1024
"""Bytes queued from which on a link is `full`, and at which a peer that does not read is given up."""
TELL_EVERY: Final = 1.0
"""Seconds between two reports of strangers."""

_RECORD = 16384  # RFC 8446, 5.1: no record holds more
_SLICE = 65536
_ADDRESS = re.compile(r"tls://(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")
_DEVICE = re.compile(r"[a-z2-7]{32}")
_NO_LINGER = struct.pack("ii", 1, 0)


class TlsLink(asyncio.BufferedProtocol):
    """One link, from the first packet of its handshake on. Once it is settled it is either up or has a `failure`."""

    peer = ""
    address = ""

    def __init__(
        self, home: TlsTransport, context: ssl.SSLContext, expected: str | None, settled: Callable[[TlsLink], None]
    ) -> None:
        self.dialled = expected is not None
        self.failure: SlipError | None = None
        self._home, self._expected = home, expected
        self._settled: Callable[[TlsLink], None] | None = settled
        self._loop = asyncio.get_running_loop()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=expected is None,
            server_hostname=None if expected is None else host_of(expected),
        )  # fmt: skip
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._up = self._closing = False
        self._out: list[bytes] = []
        self._queued = 0
        self._in_turn = self._paused = self._waited_for = False

    # -- the user of the link ----------------------------------------------------------------------------------------

    def start(self, receiver: Receiver) -> None:
        """Begin to deliver; the first bytes come on the next turn of the loop."""
        self._receiver = receiver
        if self._transport is None:
            self._loop.call_soon(receiver.link_lost, self.failure)
        else:
            self._transport.resume_reading()
            self._loop.call_soon(self._read)

    def write(self, data: bytes, *, now: bool = False) -> None:
        """Queue bytes; what one turn of the loop writes is joined, unless it is wanted `now`."""
        if self._closing:
            return
        self._out.append(data)
        self._queued += len(data)
        if now:
            self._send_queued()
        elif not self._in_turn:
            self._in_turn = True
            self._loop.call_soon(self._end_turn)

    def full(self) -> bool:
        """Whether HIGH_WATER bytes are queued; then `writable` follows."""
        if self._paused or self._queued >= HIGH_WATER:
            self._waited_for = True
            return True
        return False

    def close(self) -> None:
        """Send what is queued and say goodbye; a peer that does not answer it is cut off after SILENCE seconds."""
        self._send_queued()
        self._finish(None)

    def abort(self, why: str = "this device gave it up") -> None:
        """Reset the connection."""
        self._closing = True
        if self._transport is not None:
            self.failure = self.failure or self._failed(why)
            with suppress(OSError):
                # zero linger: the reset tells the other side at once, and nothing stays in the kernel
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._transport.abort()

    # -- asyncio -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is up; a client says hello, a server listens."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._closing:  # the dial was cancelled while TCP came up
            self.abort()
            return
        try:
            self.address = address_of(transport.get_extra_info("socket").getpeername())
            tune(transport.get_extra_info("socket"), SILENCE)
        except OSError as error:  # it was reset before we looked
            self.abort(_why(error))
            return
        transport.set_write_buffer_limits(high=HIGH_WATER)
        if not self.dialled:
            self._timer = self._loop.call_later(HANDSHAKE_TIMEOUT, self.abort, "the handshake took too long")
            self._home.let_in(self)
        elif self._closing:  # given up while TCP was connecting
            self.abort()
        else:
            self._shake()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: all links share one buffer, for each empties it before the next one reads."""
        return self._home.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came: of the handshake, or of the peer."""
        if self._closing:
            return
        self._incoming.write(self._home.buffer[:nbytes])
        (self._read if self._up else self._shake)()

    def eof_received(self) -> None:
        """The other side will send nothing more; unless it or we said goodbye before, that is a broken link."""
        if not self._closing:
            self.abort("the other side ended it without a goodbye")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._tell_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; the one place from which `link_lost` is called."""
        self._closing = True
        if exc is not None and self.failure is None:
            self.failure = self._failed(_why(exc))
        self._out.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        self._home.opening.pop(self, None)
        self._settle()
        if self._receiver is not None:
            self._receiver.link_lost(self.failure)

    # -- TLS ---------------------------------------------------------------------------------------------------------

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send_records()
            return
        except ssl.SSLError as error:
            self._send_records()  # the alert
            self._finish(_why(error))
            return
        self._send_records()
        try:
            self.peer = _proven_id(self._tls, self._expected)
        except (ValueError, ssl.SSLError) as error:
            self._finish(str(error))
            return
        self._up = True
        if self._timer is not None:
            self._timer.cancel()
        self._home.opening.pop(self, None)
        if self._transport is not None:
            self._transport.pause_reading()  # until `start`
        self._settle()

    def _settle(self) -> None:
        if self._settled is not None:
            settled, self._settled = self._settled, None
            settled(self)

    def _read(self) -> None:
        """Deliver what is readable, all records at once; what that makes us say goes out before the loop turns."""
        if self._closing or self._receiver is None:
            return
        pieces: list[bytes] = []
        ended, broken = False, None
        try:
            # asking only while there are bytes saves an exception per turn
            while self._incoming.pending and not ended:
                pieces.append(self._tls.read(_RECORD))
                ended = not pieces[-1]  # close_notify
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            broken = error
        if data := pieces[0] if len(pieces) == 1 else b"".join(pieces):
            self._in_turn = True
            self._receiver.data_received(data)
            self._end_turn()
        self._send_records()  # the answer to a KeyUpdate, or the alert that says what is wrong
        if broken is not None:
            self._finish(_why(broken))
        elif ended:
            self.close()

    def _end_turn(self) -> None:
        self._in_turn = False
        self._send_queued()
        self._tell_writable()

    def _send_queued(self) -> None:
        if not self._out or self._closing:
            return
        queued = memoryview(self._out[0] if len(self._out) == 1 else b"".join(self._out))
        self._out.clear()
        self._queued = 0
        # in slices, for OpenSSL's buffer never shrinks again
        for at in range(0, len(queued), _SLICE):
            self._tls.write(queued[at : at + _SLICE])
            self._send_records()

    def _send_records(self) -> None:
        if self._outgoing.pending and self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())
            if self._paused and self._transport.get_write_buffer_size() > QUEUE_LIMIT:
                self.abort("the other side does not read what is sent to it")

    def _tell_writable(self) -> None:
        if self._waited_for and not self._paused and not self._closing and self._receiver is not None:
            self._waited_for = False
            self._receiver.writable()

    def _finish(self, why: str | None) -> None:
        """Say goodbye, or nothing more if something is wrong, and wait until the other side has read it all."""
        if self._closing or self._transport is None:
            return
        if why is None:
            with suppress(ssl.SSLError):  # it asks for the other side's close_notify, which may never come
                self._tls.unwrap()
            self._send_records()
        else:
            self.failure = self._failed(why)
        self._closing = True
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._transport.resume_reading()
            self._await_goodbye(None)
        self._settle()

    def _await_goodbye(self, before: int | None) -> None:
        """Wait for the other side's end, for as long as it still takes what is queued."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            size = self._transport.get_write_buffer_size()
            if before is None or size < before:
                self._timer = self._loop.call_later(SILENCE, self._await_goodbye, size)
            else:
                self.abort("the other side did not answer the goodbye")

    def _failed(self, why: str) -> LinkLost:
        return LinkLost(f"the link with {short(self.peer) or self.address} was lost", why)


class TlsTransport:
    """Links to the devices of one mesh: whoever its root vouches for.

    `hosts` are the addresses to bind; `::` is IPv6 only, so the default is both families. `port` 0 takes a free one,
    the same for all. `refused` hears of strangers as (address, why), at most every TELL_EVERY seconds.

    Raises:
        UsageError: the identity's key and certificate cannot be used.
    """

    scheme = "tls"

    def __init__(
        self, identity: Identity, hosts: Sequence[str] = ("0.0.0.0", "::"), port: int = 0,
        refused: Callable[[str, str], None] = lambda address, why: None,
    ) -> None:  # fmt: skip
        self.buffer = memoryview(bytearray(_SLICE))
        self.opening: dict[TlsLink, float] = {}
        self._hosts, self._port, self._on_refused = tuple(hosts), port, refused
        self._told, self._untold = -inf, 0
        try:
            self._server = _context(ssl.PROTOCOL_TLS_SERVER, identity)
            self._client = _context(ssl.PROTOCOL_TLS_CLIENT, identity)
        except (ssl.SSLError, OSError) as error:
            raise UsageError(f"the certificate {identity.certificate} cannot be used", _why(error)) from None
        self._server.num_tickets = 0

    @asynccontextmanager
    async def serve(self, accept: Callable[[Link], None]) -> AsyncIterator[list[str]]:
        """Accept links while the block runs; yields the addresses to announce. Links that are up outlive it.

        Raises:
            OSError: an address cannot be bound.
        """
        loop, serving = asyncio.get_running_loop(), True

        def settled(link: TlsLink) -> None:
            if link.peer:
                accept(link)
            elif serving:
                self._tell_refused(link)

        with ExitStack() as stack:
            sockets = [stack.enter_context(bound) for bound in bind(self._hosts, self._port)]
            for bound in sockets:
                server = await loop.create_server(lambda: TlsLink(self, self._server, None, settled), sock=bound)
                stack.callback(server.close)
            try:
                yield announced(sockets)
            finally:
                serving = False
                for link in tuple(self.opening):
                    link.abort()

    async def dial(self, address: str, peer: str) -> Link:
        """Open a link to `tls://host:port` and require that the device `peer` answers there.

        Raises:
            LinkLost: nobody answers within HANDSHAKE_TIMEOUT, or not `peer`, or not TLS 1.3; `why` says which.
        """
        what = f"no link to {short(peer)} at {clean(address, 200)}"
        match = _ADDRESS.fullmatch(address)
        if match is None or int(match[3]) > 65535:
            raise LinkLost(what, "that is no address like tls://host:port")
        if not _DEVICE.fullmatch(peer):
            raise LinkLost(what, "that is no device id")
        settled = anyio.Event()
        link = TlsLink(self, self._client, peer, lambda link: settled.set())
        loop = asyncio.get_running_loop()
        try:
            with anyio.fail_after(HANDSHAKE_TIMEOUT):
                host, port = match[1] or match[2], int(match[3])
                # a race of addresses may leak its winner when it is cancelled (CPython 3.11): only names have several
                race = None if match[1] or host[0].isdigit() else 0.25
                await loop.create_connection(lambda: link, host, port, happy_eyeballs_delay=race)
                await settled.wait()
        except BaseException as error:
            link.abort()
            if isinstance(error, (OSError, UnicodeError)):  # the latter: a host name that no resolver takes
                raise LinkLost(what, _why(error)) from None
            raise
        if not link.peer:
            raise LinkLost(what, link.failure.why if link.failure else "it was closed")
        return link

    def let_in(self, link: TlsLink) -> None:
        """Let a stranger begin its handshake, or not: there are HALF_OPEN at most, and who dawdles makes way."""
        now = asyncio.get_running_loop().time()
        if len(self.opening) >= HALF_OPEN:
            slowest, since = next(iter(self.opening.items()))
            if now - since < YIELD_AFTER:
                link.abort("too many strangers at once")
                return
            del self.opening[slowest]
            slowest.abort("it made way for others")
        self.opening[link] = now

    def _tell_refused(self, link: TlsLink) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told < TELL_EVERY:
            self._untold += 1
            return
        why = link.failure.why if link.failure else "it left in the middle of the handshake"
        more = f" (and {self._untold} more)" if self._untold else ""
        self._told, self._untold = now, 0
        self._on_refused(link.address, why + more)


def _context(protocol: int, identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.hostname_checks_common_name = False
    context.load_verify_locations(identity.root)
    context.load_cert_chain(identity.certificate, identity.key)
    return context


def _proven_id(tls: ssl.SSLObject, expected: str | None) -> str:
    """The id of the peer whose certificate OpenSSL has just verified; ValueError if key, name or expectation differ."""
    device_id = id_of_certificate(tls.getpeercert(binary_form=True) or b"")
    names: Any = (tls.getpeercert() or {}).get("subjectAltName")
    if names != (("DNS", host_of(device_id)),):
        raise ValueError("its certificate names another device than its key does")
    if expected is not None and device_id != expected:
        raise ValueError(f"another device answered: expected {expected}, got {device_id}")
    return device_id


def _why(error: Exception) -> str:
    """What went wrong, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == 62:  # X509_V_ERR_HOSTNAME_MISMATCH
            return "another device of this mesh answered there"
        return f"it is not a member of this mesh ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return "it is not a member of this mesh (it has no certificate)"
        words = reason.lower().replace("_", " ")
        if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
            return f"it does not take this device for a member of its mesh ({words})"
        return f"it does not speak TLS 1.3 as we do ({words})"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there (connection refused)"
    if isinstance(error, ConnectionError):
        return "the other side reset the connection"
    if isinstance(error, TimeoutError):
        return "no answer came in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
