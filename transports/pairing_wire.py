"""One connection of a pairing: TLS 1.3 without a client's certificate, and messages in sized frames.

A frame is four bytes of length and a msgpack map: at most 16 KiB before both sides have proven the token, 64 KiB after.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import msgpack

from ..core.errors import LinkLost, ProtocolError, SlipError, TimedOut, from_wire
from ..core.identity import Identity, id_of_certificate
from ..core.wire import FIRST_LIMIT
from .sockets import tune

LARGER_LIMIT: Final = 64 * 1024
"""Bytes of a frame after the proofs."""
CONNECT_SECONDS, HANDSHAKE_SECONDS, MESSAGE_SECONDS = 2.0, 5.0, 10.0
_GOODBYE_SECONDS: Final = 1.0
_FIELDS: Final = 64


class Unreachable(LinkLost):
    """Nobody answers at an address."""


class Wire:
    """A connection whose TLS is up, of one task. `key` is the id of the server's key, and empty on the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
        self._reader, self._writer, self.key = reader, writer, key
        self.host = str(writer.get_extra_info("peername")[0])
        self.limit = FIRST_LIMIT

    @classmethod
    async def accept(cls, connection: socket.socket, context: ssl.SSLContext) -> Self:
        """The server's end of a connection that was accepted.

        Raises:
            LinkLost: the handshake came to nothing.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            tune(connection, MESSAGE_SECONDS)
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=context, ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_GOODBYE_SECONDS,
            )  # fmt: skip
        except OSError as error:
            raise LinkLost("the handshake failed", _why(error)) from None
        return cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop), "")

    @classmethod
    async def dial(cls, host: str, port: int) -> Self:
        """The client's end. Whose key the server has is for the caller to compare.

        Raises:
            Unreachable: nobody listens there.
            LinkLost: the handshake came to nothing.
        """
        what = f"no pairing with {host}"
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                plain = await _connected(host, port)
        except (OSError, TimeoutError) as error:
            raise Unreachable(what, _why(error) or "it does not answer") from None
        try:
            reader, writer = await asyncio.open_connection(
                sock=plain, ssl=_client(), server_hostname="", ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_GOODBYE_SECONDS,
            )  # fmt: skip
        except OSError as error:
            raise LinkLost(what, _why(error)) from None
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
        try:
            return cls(reader, writer, id_of_certificate(shown))
        except ValueError as error:
            writer.transport.abort()
            raise LinkLost(what, f"it shows no certificate of a device: {error}") from None

    async def send(self, **message: Any) -> None:
        """Send a message.

        Raises:
            LinkLost: the other side is gone.
            TimedOut: it does not read.
        """
        self._write(message)
        try:
            async with asyncio.timeout(MESSAGE_SECONDS):
                await self._writer.drain()
        except TimeoutError:
            raise TimedOut("the other side does not read", f"for {MESSAGE_SECONDS:g} s") from None
        except OSError as error:
            raise LinkLost("the other side hung up", _why(error)) from None

    async def read(self, seconds: float | None = MESSAGE_SECONDS, **fields: type) -> dict[str, Any]:
        """The next message, which must have these fields.

        Raises:
            ProtocolError: it is too long, cannot be read, or another one.
            LinkLost: the other side hung up.
            TimedOut: it said nothing for so long.
            SlipError: what the other side refused for.
        """
        try:
            async with asyncio.timeout(seconds):
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                if size > self.limit:
                    raise ProtocolError("a frame is too long", f"{size} bytes; {self.limit} are allowed")
                body = await self._reader.readexactly(size)
        except TimeoutError:
            raise TimedOut("the other side said nothing", f"for {seconds:g} s") from None
        except (EOFError, OSError) as error:
            raise LinkLost("the other side hung up", _why(error) if isinstance(error, OSError) else "") from None
        message = _unpacked(body)
        if "refused" in message:
            raise from_wire(message["refused"])
        for name, kind in fields.items():
            if type(message.get(name)) is not kind:
                raise ProtocolError("the other side sent another message", f"one with {', '.join(fields)} is needed")
        return message

    def refuse(self, error: SlipError) -> None:
        """Say why this side ends it; whether the other side still hears that is not known."""
        if not self._writer.is_closing():
            self._write({"refused": error.to_wire()})

    async def close(self) -> None:
        """Send what is queued, and end the connection."""
        self._writer.close()
        with suppress(OSError):  # it is over either way
            await self._writer.wait_closed()

    def abort(self) -> None:
        """End the connection at once."""
        self._writer.transport.abort()

    def _write(self, message: dict[str, Any]) -> None:
        body: bytes = msgpack.packb(message)
        self._writer.write(len(body).to_bytes(4, "big") + body)


def _unpacked(body: bytes) -> dict[str, Any]:
    try:
        message = msgpack.unpackb(body, strict_map_key=True, max_array_len=_FIELDS, max_map_len=_FIELDS, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolError("a frame cannot be read", type(error).__name__) from None
    if type(message) is not dict:
        raise ProtocolError("a frame holds no message", "a map is needed")
    return message


async def _connected(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    plain = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    plain.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(plain, (host, port))
        tune(plain, MESSAGE_SECONDS)
    except BaseException:
        plain.close()
        raise
    return plain


def _client() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # no chain proves a device that is of no mesh of ours: its key is compared with the pinned one
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def server_of(identity: Identity) -> ssl.SSLContext:
    """The context of a listening side that is a device already."""
    return _server(identity.certificate, identity.key)


def server_of_key(certificate: bytes, key: bytes) -> ssl.SSLContext:
    """The context of a listening side that is no device yet; its key touches no disk."""
    with open(os.memfd_create("pairing", os.MFD_CLOEXEC), "wb", buffering=0) as file:
        file.write(certificate + key)
        return _server(*[Path(f"/proc/self/fd/{file.fileno()}")] * 2)


def _server(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(certificate, key)
    return context


def _why(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return f"it does not speak TLS 1.3 as we do ({(error.reason or str(error)).lower().replace('_', ' ')})"
    if isinstance(error, ConnectionResetError):
        return "it reset the connection"
    return getattr(error, "strerror", None) or str(error)
