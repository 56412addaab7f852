"""Who is of the mesh: signed statements, and the roster that they come to; sans-IO, signatures are checked elsewhere.

Laws:
- A roster is a set of statements. In whatever order, however often and from whomever they come, the same set says the
  same; nothing is ever taken back but by a statement more.
- A statement counts if its signer is the root, which signs the first owner in and is forgotten then, or an owner whose
  own admission counts and who was not revoked. A revoke wins for ever over every admission of that key, and voids all
  that the revoked owner ever said: whoever has its key could sign an old-looking statement at any time. What is to
  stand, the revoker says again; only the one statement that it stands on itself it may name as kept.
- What is in doubt counts against whom it is about. Owners who revoke each other, neither knowing of the other's revoke,
  are all out, and so is whom they revoked; whom they let in after that is not in. (Of the well-founded model of Van
  Gelder, Ross and Schlipf 1991, the revokes that are true or undecided, and the admissions that are true.) So nothing
  that is said by somebody who is no owner now lets anybody in, or back in.
- A revoke that would undo what made its own signer an owner counts for nothing; so does one of oneself.
- A member's new key comes in the place of its old one, and says so. A revoke of either is one of all keys of that line,
  for nobody knows which of them the thief has; one that only makes room for the new key names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from typing import Any, Final, Literal

import msgpack

from .device import clean, short
from .errors import ProtocolError, Refused

STATEMENT_LIMIT: Final = 1024
"""Bytes of a statement."""
ROSTER_LIMIT, WAITING_LIMIT = 4096, 1000
"""Statements that a roster holds, and those among them whose signer nobody has let in yet."""
REVOKES_LIMIT: Final = 1024
"""Revokes beyond that: an owner who fills the roster can still be thrown out."""
VOUCH_LIMIT: Final = 32
"""Statements that vouch for a device at most: they must fit into its HELLO."""
_ROUNDS: Final = 16
"""How deep revokes of revokers of revokers are looked into, in twos; deeper ones count, whoever made them up."""
_TAG: Final = "slipstream-statement/1"
_ID: Final = 16
_END_OF_TIME: Final = 253_402_300_800.0
"""The year 10000, which calendars do not have."""


class Role(StrEnum):
    """What a device may do with the roster; what it may do otherwise, the policy says."""

    OWNER = "owner"
    MEMBER = "member"
    GUEST = "guest"


_RANK = {Role.GUEST: 0, Role.MEMBER: 1, Role.OWNER: 2}


@dataclass(frozen=True)
class Statement:
    """That a key is of the mesh (`add`), or is not any more (`revoke`), signed by the key `signer`.

    `seq` counts the signer's statements; `number` the admissions of the subject, of which the highest says what it is;
    `keeps` is the id of the one statement of a revoked subject that still counts, if any; `line` the key in whose place
    an admitted one comes, or the one that came in the place of a revoked one, and is not revoked with it; `at` is for
    people only, clocks prove nothing.
    """

    kind: Literal["add", "revoke"]
    mesh: str
    signer: str
    seq: int
    subject: str
    role: Role | None
    name: str
    device_kind: str
    until: float | None
    profile: str
    number: int
    keeps: bytes
    at: float
    spki: bytes
    """The signer's public key (DER), which `signer` is the hash of."""
    signature: bytes
    """ECDSA over P-256 with SHA-256 (DER), of `body`."""
    line: str = ""

    @cached_property
    def body(self) -> bytes:
        """What is signed."""
        fields = [
            _TAG, self.kind, self.mesh, self.signer, self.seq, self.subject, self.role and self.role.value, self.name,
            self.device_kind, self.until, self.profile, self.number, self.keeps, self.line, self.at,
        ]  # fmt: skip
        packed: bytes = msgpack.packb(fields)
        return packed

    @cached_property
    def id(self) -> bytes:
        """Names this statement: equal ids, equal meaning."""
        return sha256(self.body).digest()[:_ID]

    def to_wire(self) -> bytes:
        """The statement with what proves it."""
        packed: bytes = msgpack.packb([self.body, self.spki, self.signature])
        return packed

    @classmethod
    def from_wire(cls, data: bytes) -> Statement:
        """The statement that `to_wire` wrote; whether its signature is right is not looked at.

        Raises:
            ProtocolError: it is none.
        """
        try:
            return cls._read(data)
        except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException) as error:
            raise ProtocolError("a statement cannot be read", f"{type(error).__name__}: {clean(error, 100)}") from None

    @classmethod
    def _read(cls, data: bytes) -> Statement:
        if len(data) > STATEMENT_LIMIT:
            raise ValueError(f"{len(data)} bytes; {STATEMENT_LIMIT} are allowed")
        body, spki, signature = _unpack(data, (bytes, bytes, bytes))
        text, maybe = str, type(None)
        kinds = (text, text, text, text, int, text, (text, maybe), text, text, (float, maybe), text, int, bytes, text,
                 float)  # fmt: skip
        (tag, kind, mesh, signer, seq, subject, role, name, device_kind, until, profile, number, keeps, line,
         at) = _unpack(body, kinds)  # fmt: skip
        if tag != _TAG or kind not in ("add", "revoke") or (kind == "add") != (role is not None):
            raise ValueError("it is of another version")
        for words in (mesh, signer, subject, name, device_kind, profile, line):
            if clean(words) != words:
                raise ValueError("a text that is too long, or cannot be shown")
        if not all(0 <= n < 2**53 for n in (seq, number)) or not seq or not subject:
            raise ValueError("a number out of its range")
        if len(keeps) not in (0, _ID) or (keeps and kind == "add"):
            raise ValueError("what is kept is no id")
        if not all(0 <= time < _END_OF_TIME for time in (at, 0.0 if until is None else until)):
            raise ValueError("a time out of its range")
        made = cls(kind, mesh, signer, seq, subject, None if role is None else Role(role), name, device_kind, until,
                   profile, number, keeps, at, spki, signature, line)  # fmt: skip
        if made.body != body:
            raise ValueError("it is not written in the one way that statements are")
        return made


def _unpack(data: bytes, kinds: tuple[Any, ...]) -> list[Any]:
    found = msgpack.unpackb(data, use_list=True, strict_map_key=True, max_array_len=len(kinds), max_map_len=0)
    if type(found) is not list or len(found) != len(kinds):
        raise ValueError(f"{len(kinds)} fields are needed")
    for value, kind in zip(found, kinds, strict=True):
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"a field is {type(value).__name__}")
    return found


@dataclass(frozen=True, slots=True)
class Member:
    """A device of the mesh: what its latest admission says of it."""

    id: str
    name: str
    kind: str
    role: Role
    until: float | None = None
    """When a guest's time is over, in Unix seconds."""
    profile: str = ""
    """What kind of guest: the policy says what that allows."""
    by: str = ""
    """Who let it in."""
    line: str = ""
    """The key in whose place it came."""


class Roster:
    """The statements that a device knows, and what they come to. `mesh` is the id of the root's key."""

    def __init__(self, mesh: str) -> None:
        self.mesh = mesh
        self._known: dict[bytes, Statement] = {}
        self._waiting: dict[bytes, Statement] = {}
        self._members: dict[str, Member] = {}
        self._chosen: dict[str, Statement] = {}
        self._way: dict[str, Statement] = {}
        self._revoked: set[str] = set()
        self._lines: dict[str, set[str]] = {}
        self._effective: set[bytes] = set()
        self._last: dict[str, int] = {}
        self._digest: bytes | None = None

    def merge(self, statements: Iterable[Statement]) -> list[Statement]:
        """Take statements in whose signatures were checked; those that were new here and are rooted now."""
        before = set(self._known)
        for statement in statements:
            if statement.mesh == self.mesh and statement.id not in self._known:
                self._waiting.setdefault(statement.id, statement)
        self._root()
        while len(self._waiting) > WAITING_LIMIT:
            del self._waiting[next(iter(self._waiting))]
        new = [s for i, s in self._known.items() if i not in before]
        if new:
            self._digest = None
            self._judge()
        return new

    def _root(self) -> None:
        """Take what waits and has a signer that was an owner at some time, whatever became of them."""
        owners = {s.subject for s in self._known.values() if s.role is Role.OWNER} | {self.mesh}
        by_signer: dict[str, list[Statement]] = {}
        for statement in self._waiting.values():
            by_signer.setdefault(statement.signer, []).append(statement)
        ready = [s for signer in by_signer.keys() & owners for s in by_signer.pop(signer)]
        while ready:
            statement = ready.pop()
            if len(self._known) >= ROSTER_LIMIT + (REVOKES_LIMIT if statement.kind == "revoke" else 0):
                continue  # it waits, and others may fit
            del self._waiting[statement.id]
            self._known[statement.id] = statement
            self._last[statement.signer] = max(self._last.get(statement.signer, 0), statement.seq)
            if statement.role is Role.OWNER:
                ready += by_signer.pop(statement.subject, ())

    # -- what the statements come to ---------------------------------------------------------------------------------

    def _judge(self) -> None:
        way = _ways(self._counting([]).values())
        revokes = [s for s in self._known.values() if s.kind == "revoke" and self._holds(s, way)]
        effective = revokes
        for _ in range(_ROUNDS):  # from above: the revokes that count unless one counts that is surely right
            sure = self._counting(effective)
            maybe = self._counting([r for r in revokes if r.id in sure])
            before, effective = effective, [r for r in revokes if r.id in maybe]
            if len(effective) == len(before):
                break
        counting = self._counting(effective)
        self._lines = _lines(counting.values())
        self._revoked = {r.subject for r in effective}
        for revoke in effective:
            if not revoke.line:
                self._revoked |= self._lines.get(revoke.subject, set())
        self._effective = {r.id for r in effective}
        self._way = _ways(counting.values())
        self._chosen, self._members = {}, {}
        for statement in counting.values():
            if statement.kind == "add" and statement.subject not in self._revoked:
                best = self._chosen.get(statement.subject)
                if best is None or _strength(statement) > _strength(best):
                    self._chosen[statement.subject] = statement
        for subject, s in self._chosen.items():
            assert s.role is not None
            self._members[subject] = Member(subject, s.name, s.device_kind, s.role, s.until, s.profile, s.signer,
                                            s.line)  # fmt: skip

    def _holds(self, revoke: Statement, way: dict[str, Statement]) -> bool:
        """Whether who says it is still an owner if it counts."""
        if revoke.signer == revoke.subject:
            return False
        at = revoke.signer
        while at != self.mesh:
            made = way[at]
            if made.signer == revoke.subject and made.id != revoke.keeps:
                return revoke.id in self._counting([revoke])  # it may be an owner by another way too
            at = made.signer
        return True

    def _counting(self, revokes: list[Statement]) -> dict[bytes, Statement]:
        """The statements that count if exactly these revokes do, by id; those of the root's nearest owners first."""
        kept: dict[str, set[bytes]] = {}
        for revoke in revokes:
            kept[revoke.subject] = kept.get(revoke.subject, {revoke.keeps}) & {revoke.keeps}
        by_signer: dict[str, list[Statement]] = {}
        for statement in self._known.values():
            by_signer.setdefault(statement.signer, []).append(statement)
        counting: dict[bytes, Statement] = {}
        owners = [self.mesh]
        for owner in owners:
            for statement in by_signer.pop(owner, ()):
                if owner not in kept or statement.id in kept[owner]:
                    counting[statement.id] = statement
                    if statement.role is Role.OWNER:
                        owners.append(statement.subject)
        return counting

    # -- questions ---------------------------------------------------------------------------------------------------

    def member(self, device: str) -> Member | None:
        """A device of the mesh, also a guest whose time is over."""
        return self._members.get(device)

    def members(self) -> list[Member]:
        """All devices of the mesh, in the order of their names."""
        return sorted(self._members.values(), key=lambda m: (m.name, m.id))

    def revoked(self, device: str) -> bool:
        """Whether a device was thrown out."""
        return device in self._revoked

    def line(self, device: str) -> list[Member]:
        """The keys of a device that are of the mesh, if one of them is this."""
        return [m for m in self.members() if m.id == device or m.id in self._lines.get(device, ())]

    def admitted(self, device: str, now: float) -> Member:
        """A device that may be here now; `now` in Unix seconds.

        Raises:
            Refused: it may not, and why.
        """
        member = self._members.get(device)
        if member is None:
            if device in self._revoked:
                raise Refused(f"{short(device)} was revoked", "an owner threw it out of this mesh",
                              "with a new key it can be let in again: slip pair invite")  # fmt: skip
            raise Refused(f"{short(device)} is not of this mesh", "no owner let it in", "slip pair invite")
        if member.until is not None and now >= member.until:
            raise Refused(f"the time of {member.name} is over", "it was let in as a guest",
                          "slip pair invite --role guest --for TIME")  # fmt: skip
        return member

    def vouch(self, device: str) -> list[Statement]:
        """The statements that let a device in, from the root down, also by owners who were revoked after that; empty if
        it is not of the mesh.
        """
        chain: list[Statement] = []
        statement = self._chosen.get(device)
        while statement is not None and len(chain) < VOUCH_LIMIT:
            chain.append(statement)
            statement = None if statement.signer == self.mesh else self._way[statement.signer]
        return chain[::-1]

    def stands_on(self, device: str, revoked: str) -> bytes:
        """The id of the statement of `revoked` that an owner's own admission stands on; empty if there is none."""
        return next((s.id for s in self.vouch(device) if s.signer == revoked), b"")

    def revokes(self) -> list[Statement]:
        """The revokes that count."""
        return [s for s in self._known.values() if s.kind == "revoke" and s.id in self._effective]

    def next_seq(self, signer: str) -> int:
        """What the signer's next statement is numbered."""
        return self._last.get(signer, 0) + 1

    def next_number(self, subject: str) -> int:
        """What the next admission of a device is numbered."""
        return 1 + max((s.number for s in self._known.values() if s.subject == subject), default=0)

    # -- the exchange ------------------------------------------------------------------------------------------------

    @property
    def statements(self) -> tuple[Statement, ...]:
        """Every statement whose signer was an owner once."""
        return tuple(self._known.values())

    def ids(self) -> list[bytes]:
        """The ids of all statements, sorted."""
        return sorted(self._known)

    @property
    def digest(self) -> bytes:
        """Equal digests, equal rosters."""
        if self._digest is None:
            self._digest = sha256(b"".join(self.ids())).digest()[:16]
        return self._digest

    def lacking(self, ids: Iterable[bytes]) -> list[Statement]:
        """What somebody lacks who has those."""
        have = set(ids)
        return [s for i, s in self._known.items() if i not in have]


def _ways(counting: Iterable[Statement]) -> dict[str, Statement]:
    """Of each owner, the admission that made it one on the shortest way from the root."""
    found: dict[str, Statement] = {}
    for statement in counting:
        if statement.role is Role.OWNER:
            found.setdefault(statement.subject, statement)
    return found


def _lines(counting: Iterable[Statement]) -> dict[str, set[str]]:
    """Of each key that came in the place of another, or made room for one, all those of its line.

    An owner's word is void with it, and with that the admission of the key that it gave itself: it needs no line.
    """
    adds = [s for s in counting if s.kind == "add"]
    owners = {s.subject for s in adds if s.role is Role.OWNER}
    found: dict[str, set[str]] = {}
    for add in adds:
        if add.line and add.subject not in owners and add.line not in owners:
            joined = found.get(add.subject, {add.subject}) | found.get(add.line, {add.line})
            found.update(dict.fromkeys(joined, joined))
    return found


def _strength(add: Statement) -> tuple[int, int, int, bytes]:
    """Which admission of a device counts: an owner's stays, then the highest number, then the lesser role."""
    assert add.role is not None
    return add.role is Role.OWNER, add.number, -_RANK[add.role], add.id
