"""The cabin as its camera sees it: a drawing of two seats and who sits on them, as PNG (ISO/IEC 15948)."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from random import Random

_Span = tuple[int, int]
_Colour = tuple[int, int, int]
_GLASS, _NIGHT = (170, 200, 225), (18, 22, 40)
_TRIM, _SEAT, _SKIN, _COAT = (62, 60, 64), (96, 84, 76), (205, 165, 140), (50, 75, 120)
_WEAK = bytes(r >> 5 for r in range(256))
_RAMP = bytes([*range(256), *([255] * 256)])


def cabin_picture(width: int, height: int, occupied: Sequence[bool], dark: bool, seed: float) -> bytes:
    """The front seats from above the dashboard, the driver's on the right, with the noise of a sensor.

    Rows are filled by spans: a loop over pixels would hold the event loop for too long.
    """
    random = Random(seed)
    light = 0.35 if dark else 1.0
    rows = []
    for y in range(height):
        row = bytearray(1 + 3 * width)  # each row begins with its filter: 0, none
        down = y / height
        noise = [random.randbytes(width).translate(_WEAK) for _ in range(3)]
        planes = [bytearray(width) for _ in range(3)]
        ground = (_NIGHT if dark else _GLASS) if down < 0.3 else _TRIM
        _fill(planes, noise, (0, width), ground, 1.0 if down < 0.3 else light)
        for n, taken in enumerate(occupied):
            middle = 0.72 - 0.44 * n
            for (left, right), colour in _seat(middle, down, taken):
                _fill(planes, noise, (int(left * width), int(right * width)), colour, light)
        for channel, plane in enumerate(planes):
            row[1 + channel :: 3] = plane
        rows.append(bytes(row))
    return _png(width, height, b"".join(rows))


def _seat(middle: float, down: float, taken: bool) -> Iterator[tuple[tuple[float, float], _Colour]]:
    """The spans of one seat in a row, as shares of the width, back to front."""
    if 0.18 < down < 0.34:
        yield (middle - 0.05, middle + 0.05), _SEAT  # the head-rest
    if down >= 0.34:
        half = 0.11 + 0.05 * (down - 0.34)
        yield (middle - half, middle + half), _SEAT
    if taken:
        head = 1 - ((down - 0.30) / 0.14) ** 2
        if head > 0:
            yield (middle - 0.055 * math.sqrt(head), middle + 0.055 * math.sqrt(head)), _SKIN
        if down > 0.42:
            half = min(0.10, 0.05 + 0.4 * (down - 0.42))
            yield (middle - half, middle + half), _COAT


def _fill(planes: Sequence[bytearray], noise: Sequence[bytes], span: _Span, colour: _Colour, light: float) -> None:
    for plane, grain, level in zip(planes, noise, colour, strict=True):
        bright = int(level * light)
        plane[slice(*span)] = grain[slice(*span)].translate(_RAMP[bright : bright + 256])


def _png(width: int, height: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data, level=6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
