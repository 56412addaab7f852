"""What a peer may send at all: frames, however the bytes are cut, and bodies that are a message or a ProtocolError."""

from __future__ import annotations

from slipstream.core.errors import ProtocolError, SlipError
from slipstream.core.wire import FRAME_LIMIT, Kind, Splitter, frame, pack, unpack


def seeds() -> list[bytes]:
    """One frame of every kind, and a stream of them."""
    frames = [
        frame(pack(message))
        for message in (
            [Kind.HELLO, {"version": [1, 0], "name": "phone", "vouch": [b"\x93\xc4\x01a"]}],
            [Kind.BYE, SlipError("x", "y", "z", step="s").to_wire()],
            [Kind.BEAT, 1.0, -1.0, 0.25],
            [Kind.NEWS, [{"id": "a" * 32, "version": [1, 2], "neighbours": {"b": [0.1, None]}, "offers": []}]],
            [Kind.NOTE, "slip.deliver", {"run": "r", "value": {"km": 160, "way": [[47.2, 11.4], [46.5, 11.3]]}}],
            [Kind.CALL, 1, "nav.route", {"to": "Bozen", "via": [], "now": True, "x": None}, "key", 2.5, ""],
            [Kind.RESULT, 1, "done", {"km": 160.5}],
            [Kind.ERROR, 1, SlipError("it broke").to_wire()],
            [Kind.PROGRESS, 1, 0.5, "half"],
            [Kind.ITEM, 1, "a token", 9],
            [Kind.CANCEL, 1, "nobody waits"],
            [Kind.CREDIT, 1, 65536],
            [Kind.LARGE, 1, 100_000],
            [Kind.CHUNK, 1, b"\x00" * 300],
        )
    ]
    return [*frames, b"".join(frames)]


def check(data: bytes) -> None:
    """Read a stream."""
    whole, cut = _bodies([data]), _bodies([data[i : i + 7] for i in range(0, len(data), 7)])
    assert whole == cut, "the frames depend on how the stream is cut"
    for body in whole or ():
        try:
            message = unpack(body)
        except ProtocolError as error:
            assert len(error.to_wire()["why"]) <= 2000
            continue
        again = pack(message)
        assert pack(unpack(again)) == again, "a message is not what it was after a round trip"


def _bodies(pieces: list[bytes]) -> list[bytes] | None:
    """The frames in pieces of a stream; None if one is too long."""
    splitter, bodies = Splitter(FRAME_LIMIT), []
    try:
        for piece in pieces:
            bodies += splitter.feed(piece)
    except ValueError:
        return None
    assert splitter.waiting <= FRAME_LIMIT + 4
    return bodies
