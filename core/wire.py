"""Bytes to messages and back: msgpack in length-prefixed frames, with limits checked before anything is allocated.

A frame is a length (4 bytes, big-endian) and a msgpack array `[kind, ...]`; `KINDS` gives the fields of each kind. A
message whose body is above CHUNK travels as LARGE and CHUNK frames, so that small ones overtake it. Sans-IO (law 1).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import msgpack

from .errors import ProtocolError, UsageError

try:
    from ..runtime_ext.frames import Splitter, fits, frame, survey
except ImportError as error:  # pragma: no cover
    raise ImportError("the extension runtime_ext.frames is not built; run: pip install -e . (or: make test)") from error

VERSION: Final = (1, 0)
"""Major, minor. A newer minor talks to an older one; another major is refused."""
FIRST_LIMIT: Final = 16 * 1024
"""Largest frame before the hello, in bytes."""
FRAME_LIMIT: Final = 256 * 1024
"""Largest frame after the hello, in bytes."""
CHUNK: Final = 32 * 1024
"""Bodies above twice this are cut into pieces of this size, in bytes."""
LARGE_LIMIT: Final = 32 * 1024 * 1024
"""Largest body that may arrive in chunks, in bytes."""
DEPTH_LIMIT: Final = 32
VALUES_LIMIT: Final = 100_000


class Kind(IntEnum):
    """What a message is."""

    HELLO = 0
    BYE = 1
    BEAT = 2
    NEWS = 3
    NOTE = 4
    CALL = 5
    RESULT = 6
    ERROR = 7
    PROGRESS = 8
    ITEM = 9
    CANCEL = 10
    CREDIT = 11
    LARGE = 12
    CHUNK = 13


_FIELDS: Final[dict[int, tuple[type, ...]]] = {
    Kind.HELLO: (dict,),
    Kind.BYE: (dict,),  # why, as an error
    Kind.BEAT: (float, float, float),  # my clock, your last clock or -1, seconds that I held it (RFC 3550 6.4.1)
    Kind.NEWS: (list,),  # announcements
    Kind.NOTE: (str, dict),  # target, content: a message without an answer
    Kind.CALL: (int, str, dict, str, float, str),  # stream, target, args, key, seconds left or -1, origin
    Kind.RESULT: (int, str, object),  # stream, outcome, value
    Kind.ERROR: (int, dict),  # stream, error
    Kind.PROGRESS: (int, float, str),  # stream, fraction, note
    Kind.ITEM: (int, object, int),  # stream, value, bytes that it costs
    Kind.CANCEL: (int, str),  # stream, why
    Kind.CREDIT: (int, int),  # stream, bytes that may be sent now
    Kind.LARGE: (int, int),  # number, bytes in all
    Kind.CHUNK: (int, bytes),  # number, piece
}

_packer = msgpack.Packer(use_bin_type=True, autoreset=True)


def pack(message: list[Any]) -> bytes:
    """The body of a message.

    Raises:
        UsageError: a value is of a type that the wire does not carry.
    """
    try:
        body: bytes = _packer.pack(message)
    except (TypeError, ValueError, OverflowError) as error:
        _packer.reset()
        raise UsageError("a value cannot be sent", str(error)[:200],
                         "send numbers, text, bytes, lists and maps with text keys") from None  # fmt: skip
    return body


def unpack(body: bytes) -> list[Any]:
    """The message in a body, checked for its limits and for the types of its fields.

    Raises:
        ProtocolError: it is no message of this protocol; `why` says what is wrong.
    """
    if wrong := survey(body, DEPTH_LIMIT, VALUES_LIMIT):
        raise ProtocolError("a frame cannot be read", wrong)
    try:
        message = msgpack.unpackb(body, use_list=True, raw=False, strict_map_key=True)
    except (ValueError, TypeError, UnicodeDecodeError, msgpack.UnpackException) as error:
        raise ProtocolError("a frame cannot be read", str(error)[:200] or type(error).__name__) from None
    if type(message) is not list or not message or type(message[0]) is not int:
        raise ProtocolError("a frame holds no message", "an array that begins with a kind is needed")
    fields = _FIELDS.get(message[0])
    if fields is None:
        raise ProtocolError(f"a message of unknown kind {message[0]}", "this version does not speak it")
    if not fits(message, fields):  # a newer minor version may add fields at the end; they are not read
        have = [type(value).__name__ for value in message[1 : len(fields) + 1]]
        need = [kind.__name__ for kind in fields]
        raise ProtocolError(f"a {Kind(message[0]).name} of ({', '.join(have)})", f"({', '.join(need)}) are needed")
    return message


__all__ = [
    "CHUNK", "DEPTH_LIMIT", "FIRST_LIMIT", "FRAME_LIMIT", "LARGE_LIMIT", "VALUES_LIMIT", "VERSION", "Kind", "Splitter",
    "frame", "pack", "unpack",
]  # fmt: skip
