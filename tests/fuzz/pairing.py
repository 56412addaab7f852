"""What a stranger may say while a device is let in: frames before anything is proven, and codes that people paste."""

from __future__ import annotations

import msgpack

from slipstream.core.authority import Admitted
from slipstream.core.errors import ProtocolError, UsageError
from slipstream.transports.invitation import Invitation
from slipstream.transports.pairing_wire import _unpacked


def seeds() -> list[bytes]:
    """A message of each kind, and two codes."""
    messages = [
        {"v": 1, "id": "a" * 32, "nonce": b"n" * 16},
        {"proof": b"p" * 32, "csr": b"c" * 200, "name": "car", "kind": "car"},
        {"certificate": b"c", "owner": b"", "root": b"r", "statements": [b"s"] * 3},
        {"certificate": 2**40, "owner": b"", "root": 7, "statements": [2**40]},
        {"refused": {"code": "refused", "what": "no", "why": "", "hint": ""}},
    ]
    codes = [
        Invitation("a" * 32, ("192.168.1.7", "fe80::1"), 7447, True, b"t" * 16).code(),
        Invitation("b" * 32, ("10.0.0.1",), 1, False, b"u" * 16).code(),
    ]
    return [*(msgpack.packb(message) for message in messages), *(code.encode() for code in codes)]


def check(data: bytes) -> None:
    """Read it as a frame, as what lets a device in, and as a code."""
    try:
        message = _unpacked(data)
    except ProtocolError:
        message = None
    if message is not None:
        try:
            Admitted.from_wire(message)
        except ProtocolError as error:
            assert len(error.to_wire()["why"]) <= 2000
    try:
        code = Invitation.parse(data.decode("utf-8", "surrogateescape"))
    except UsageError as error:
        assert error.where["field"] == "code"
    else:
        assert Invitation.parse(code.code()) == code, "a code is not what it was after a round trip"
