"""Changes to messages that stay messages: what random bytes would take years to hit.

A fuzzer's input is a stream of frames. A change is made inside one of them, in any value, also in one that is packed
in bytes once more as statements are; or frames are dropped, doubled and exchanged. Now and then bytes change.
"""

from __future__ import annotations

from random import Random
from typing import Any

import msgpack

_NUMBERS = (0, 1, -1, 2, 127, 255, 1024, 1025, 65536, 2**31, 2**32, 2**53, 2**63 - 1, 2**64 - 1, -(2**63))
_ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0.0,
    -1.0,
    1e300,
    float("nan"),
    float("inf"),
    "",
    b"",
    "\x00",
    "x" * 300,
    [],
    {},
    [[]],
)


def split(data: bytes) -> list[bytes]:
    """The bodies of the whole frames at the start of a stream, and what is left as a last one."""
    bodies = []
    while len(data) >= 4 and len(data) >= 4 + (size := int.from_bytes(data[:4], "big")):
        bodies.append(data[4 : 4 + size])
        data = data[4 + size :]
    return [*bodies, data] if data else bodies


def join(bodies: list[bytes]) -> bytes:
    """A stream of frames."""
    return b"".join(len(body).to_bytes(4, "big") + body for body in bodies)


def mutated(data: bytes, draw: Random, limit: int = 1 << 16) -> bytes:
    """A stream changed in one to four places, at most `limit` bytes."""
    bodies = split(data) or [b""]
    for _ in range(draw.randint(1, 4)):
        at, other = draw.randrange(len(bodies)), draw.randrange(len(bodies))
        match draw.randrange(10):
            case 0:
                bodies.insert(at, bodies[other])
            case 1 if len(bodies) > 1:
                del bodies[at]
            case 2:
                bodies[at], bodies[other] = bodies[other], bodies[at]
            case 3:
                bodies[at] = _bytes(bodies[at], draw)
            case _:
                bodies[at] = _inside(bodies[at], draw)
    changed = join(bodies)
    return (_bytes(changed, draw) if draw.random() < 0.05 else changed)[:limit]


def _bytes(data: bytes, draw: Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.randbytes(draw.randrange(4)) + data[at + draw.randrange(4) :]


def _inside(body: bytes, draw: Random) -> bytes:
    """A packed value, changed in one place; as bytes if it is none."""
    try:
        value = msgpack.unpackb(body, strict_map_key=False)
        return bytes(msgpack.packb(_changed(value, _leaves(value), draw)))
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        return _bytes(body, draw)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    return [leaf for inner in value for leaf in _leaves(inner)] if isinstance(value, list) else [value]


def _changed(value: Any, leaves: list[Any], draw: Random) -> Any:
    if isinstance(value, list) and value and draw.random() < 0.9:
        at = draw.randrange(len(value))
        match draw.randrange(8):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, value[at]]
            case _:
                return [*value[:at], _changed(value[at], leaves, draw), *value[at + 1 :]]
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        return value | {key: _changed(value[key], leaves, draw)}
    if isinstance(value, bytes) and len(value) > 8 and draw.random() < 0.8:
        return _inside(value, draw)
    same = [leaf for leaf in leaves if type(leaf) is type(value)]
    if same and draw.random() < 0.5:
        return draw.choice(same)
    if isinstance(value, int) and draw.random() < 0.7:
        return draw.choice((value + 1, value - 1, draw.choice(_NUMBERS)))
    return draw.choice((*_NUMBERS, *_ODD, draw.randbytes(draw.randrange(24))))
