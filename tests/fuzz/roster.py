"""Statements of strangers: reading them, and a roster that takes them as if every signature were right.

An input is a stream of messages of a peer: a HELLO with its vouch, and notes of the exchange.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from slipstream.core.admission import Admission, read_vouch
from slipstream.core.errors import ProtocolError, Refused
from slipstream.core.events import Events
from slipstream.core.trust import Role, Roster, Statement
from slipstream.core.wire import FRAME_LIMIT, VERSION, Kind, Splitter, frame, pack, unpack

MESH = "root"
_UNREADABLE = (KeyError, TypeError, ValueError, AttributeError)
"""What `Admission.note` may raise for content that cannot be read; its caller closes the link for it."""


def _said(signer: str, seq: int, subject: str, role: Role | None, **more: Any) -> Statement:
    fields = {"name": subject, "device_kind": "car", "until": None, "profile": "", "number": 1, "keeps": b"", "at": 0.0}
    return Statement(kind="revoke" if role is None else "add", mesh=MESH, signer=signer, seq=seq, subject=subject,
                     role=role, spki=b"key of " + signer.encode(), signature=b"s", **(fields | more))  # fmt: skip


def _story() -> list[Statement]:
    """Owners who let each other in and throw each other out, members, a guest, somebody whom nobody let in."""
    owner = Role.OWNER
    return [
        _said(MESH, 1, "a", owner), _said("a", 1, "b", owner), _said("a", 2, "c", owner), _said("b", 1, "d", owner),
        _said("b", 2, "a", owner, number=2), _said("c", 1, "m", Role.MEMBER), _said("d", 1, "g", Role.GUEST, until=9e9),
        _said("c", 2, "d", None), _said("d", 2, "c", None), _said("a", 3, "a", None),
        _said("b", 3, "m", None), _said("b", 4, "c", owner, number=3), _said("z", 1, "y", owner),
    ]  # fmt: skip


def seeds() -> list[bytes]:
    """A peer's whole exchange, at once and one statement after the other."""
    story = [s.to_wire() for s in _story()]
    ids = [s.id for s in _story()]
    hello: list[Any] = [Kind.HELLO, {"version": list(VERSION), "name": "x", "vouch": story[:4]}]
    notes: list[dict[str, Any]] = [{"hash": b"h" * 16}, {"have": ids}, {"statements": story}]
    single = [{"statements": [s]} for s in reversed(story)]
    return [
        b"".join(frame(pack(message)) for message in [hello, *([Kind.NOTE, "slip.roster", note] for note in some)])
        for some in (notes, single)
    ]


def check(data: bytes) -> None:
    """Let a peer say it all, to a device that knows three statements and believes every signature."""
    keeper = _Believer()
    admission = Admission("m", keeper, Events(lambda: 0.0), lambda: 0.0, lambda: 0.0, lambda peer, content: None,
                          lambda: ["p"], lambda: None)  # fmt: skip
    try:
        bodies = Splitter(FRAME_LIMIT).feed(data)
    except ValueError:
        return
    came: list[Statement] = []
    for body in bodies:
        try:
            came += _believed(admission, unpack(body))
        except ProtocolError:
            continue
    keeper.roster.merge(came)
    admission.changed()
    _sound(keeper.roster, [*_story()[:3], *came])


def _believed(admission: Admission, message: list[Any]) -> list[Statement]:
    """What a message says of the roster, after the admission had a look at it."""
    if message[0] == Kind.HELLO:
        shown: Iterable[Any] = read_vouch(message[1])
    elif message[0] == Kind.NOTE:
        try:
            admission.note("p", message[2])
        except _UNREADABLE:
            return []
        shown = message[2].get("statements") or ()
    else:
        return []
    try:
        admission.hold("p", shown)
    except _UNREADABLE:
        return []
    return [Statement.from_wire(s) for s in shown]


def _sound(roster: Roster, said: list[Statement]) -> None:
    """What holds for every roster."""
    other = Roster(MESH)
    for statement in reversed(said):
        other.merge([statement])
    assert roster.digest == other.digest, "the order of statements matters"
    assert roster.members() == other.members(), "the order of statements matters"
    for member in roster.members():
        assert not roster.revoked(member.id)
        newcomer = Roster(MESH)
        newcomer.merge(roster.vouch(member.id))
        assert newcomer.member(member.id) is not None, "a vouch that does not vouch"
        try:
            roster.admitted(member.id, 1e9)
        except Refused as error:
            assert member.until is not None, error
    for statement in roster.statements:
        assert Statement.from_wire(statement.to_wire()) == statement


class _Believer:
    """A keeper that checks no signature."""

    def __init__(self) -> None:
        self.roster = Roster(MESH)
        self.roster.merge(_story()[:3])

    async def take(self, statements: list[bytes]) -> None:
        raise NotImplementedError

    async def renew(self, device: str, csr: bytes) -> dict[str, Any]:
        raise NotImplementedError

    async def retire(self, device: str) -> None:
        raise NotImplementedError
