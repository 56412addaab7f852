"""One link's state machine against a peer that says anything, in pieces of any size, while this side answers.

The first frame of an input is one byte: how the stream is cut, and what this side does about each message.
"""

from __future__ import annotations

from random import Random
from typing import Any

from slipstream.core.errors import ProtocolError, SlipError
from slipstream.core.session import CALLS_LIMIT, Session
from slipstream.core.wire import VERSION, Kind, frame, pack, unpack

_HELLO = frame(pack([Kind.HELLO, {"version": list(VERSION), "name": "peer"}]))


def seeds() -> list[bytes]:
    """What a real session says: calls of every size, answers, items, credit, chunks, and goodbye."""
    peer = Session({"name": "peer"})
    peer.receive(Session({}).outgoing())
    for n in range(3):
        peer.call("nav.route", {"to": "Bozen", "n": n}, f"key {n}", 2.5, reads=n > 0)
    large = peer.call("media.play", {"cover": bytes(70_000)})
    peer.news([{"id": "a"}])
    peer.note("slip.roster", {"hash": b"h"})
    peer.beat(1.0, -1.0, 0.0)
    chunks = [peer.outgoing(), peer.next_chunk(), peer.next_chunk()]
    peer.give_up(large, "nobody waits")
    rest = [peer.outgoing(), frame(pack([Kind.BYE, {}]))]
    answers = [
        _HELLO,
        *(frame(pack(message)) for message in (
            [Kind.PROGRESS, 1, 0.5, "half"], [Kind.ITEM, 1, "a token", 9], [Kind.ITEM, 2, [1, 2], 4],
            [Kind.CALL, 1, "a.b", {}, "", -1.0, "", True], [Kind.CREDIT, 1, 0], [Kind.RESULT, 1, "done", {"km": 160}],
            [Kind.ERROR, 2, SlipError("it broke").to_wire()], [Kind.CANCEL, 1, "why"], [Kind.LARGE, 7, 5],
            [Kind.CHUNK, 7, b"\x95\x06"], [Kind.CHUNK, 7, b""], [Kind.RESULT, 3, "done", None],
        )),
    ]  # fmt: skip
    return [
        frame(bytes((n,))) + stream for n in (0, 77, 200) for stream in (b"".join(chunks + rest), b"".join(answers))
    ]


def check(data: bytes) -> None:
    """Let a peer say it all."""
    draw = Random(data[4:5])
    stream = data[5:]
    pieces, at = [], 0
    while at < len(stream):
        size = draw.choice((1, 3, 17, 256, 4096, 65536))
        pieces.append(stream[at : at + size])
        at += size
    whole, cut = _quiet([stream]), _quiet(pieces)
    # of two things that are wrong, or one after a BYE, the cut decides which is seen first
    assert whole == cut or (whole == (True, "") and cut[0]), "what is read depends on how the stream is cut"
    session, sent = _session(), 0
    for piece in pieces:
        try:
            messages = session.receive(piece)
        except ProtocolError:
            assert session.closed
            assert unpack(_last_frame(session.outgoing()))[0] == Kind.BYE, "the peer is not told why"
            return
        for message in messages:
            _answer(session, message, draw)
        assert len(session.calls_in) <= CALLS_LIMIT
        sent += len(session.outgoing()) + len(session.next_chunk())
    assert sent <= 400 * len(data) + 4096, "few bytes make this side send many"


def _session() -> Session:
    session = Session({"name": "me"})
    for n in range(3):
        session.call("a.b", {"n": n}, reads=True)
    session.outgoing()
    return session


def _quiet(pieces: list[bytes]) -> tuple[bool, str]:
    """Whether a session that does nothing about it is closed then, and what it read; nothing if the peer is broken."""
    session, messages = _session(), []
    try:
        for piece in pieces:
            messages += session.receive(piece)
    except ProtocolError:
        return True, ""
    return session.closed, repr((messages, session.arriving, session.calls_in, session.calls_out))


def _answer(session: Session, message: list[Any], draw: Random) -> None:
    kind, stream = message[0], message[1]
    if kind == Kind.CALL:
        match draw.randrange(5):
            case 0:
                session.result(stream, "done", {"ok": True})
            case 1:
                session.error(stream, SlipError("no"))
            case 2 if session.reads(stream) and session.may_send(stream):
                session.item(stream, "x" * draw.choice((1, 300)))
                session.result(stream, "done", None)
            case 3:
                session.progress(stream, 0.5, "half")
    elif kind == Kind.ITEM and draw.random() < 0.8:
        session.took(stream, message[3])
    elif kind == Kind.PROGRESS and draw.random() < 0.3:
        session.give_up(stream, "enough")


def _last_frame(data: bytes) -> bytes:
    body = b""
    while data:
        size = int.from_bytes(data[:4], "big")
        body, data = data[4 : 4 + size], data[4 + size :]
    return body
