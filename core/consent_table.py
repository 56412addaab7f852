"""What must be known of questions after a restart, in the journal's file: those with a key, and what is remembered."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from json import dumps, loads
from typing import Any, Final

KEEP_SECONDS: Final = 7 * 86_400
"""How long answers are kept: as long as what came of them."""

_TABLES = """
create table if not exists consents (
    id text primary key, key text not null, skill text not null, title text not null, effect text not null,
    args text not null, caller text not null, origin text not null, device text not null, run text not null,
    step text not null, asked real not null, until real not null, digest text not null, answer text,
    by text not null default '') without rowid;
create index if not exists consents_by_key on consents (key);
create table if not exists grants (
    id text primary key, skill text not null, caller text not null, origin text not null, answer text not null,
    by text not null, since real not null, unique (skill, caller, origin)) without rowid;
"""
_REQUEST = "id, key, skill, title, effect, args, caller, origin, device, run, step, asked, until"


@dataclass(frozen=True, slots=True)
class Request:
    """One question. Times are wall-clock seconds of this device; `args` are shortened to what a person can read."""

    id: str
    key: str
    """The idempotency key of the invocation; empty if it has none, or the question is another device's."""
    skill: str
    title: str
    effect: str
    args: dict[str, Any]
    caller: str
    origin: str
    device: str
    """The device that will run it, and that asks."""
    run: str
    step: str
    asked_at: float
    until: float


@dataclass(frozen=True, slots=True)
class Stands:
    """What stands: an answer of a person, `nobody` (its time was up) or `withdrawn`; and who gave it."""

    id: str
    answer: str
    by: str


class ConsentTable:
    """The table of one device."""

    def __init__(self, database: sqlite3.Connection, wall: Callable[[], float], new_id: Callable[[], str]) -> None:
        self._db, self._wall, self._new_id = database, wall, new_id
        self._db.executescript(_TABLES)
        self._db.execute("delete from consents where until < ?", (wall() - KEEP_SECONDS,))

    def open(self) -> list[tuple[Request, str]]:
        """The questions whose time is not up and that nobody answered, each with its digest."""
        sql = f"select {_REQUEST}, digest from consents where answer is null and until > ?"
        rows = self._db.execute(sql, (self._wall(),)).fetchall()
        return [(Request(*(*row[:5], loads(row[5]), *row[6:13])), row[13]) for row in rows]

    def begin(self, request: Request, digest: str) -> None:
        """A question with a key is about to be asked."""
        r = request
        self._db.execute(
            f"insert into consents ({_REQUEST}, digest) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (r.id, r.key, r.skill, r.title, r.effect, dumps(r.args), r.caller, r.origin, r.device, r.run, r.step,
             r.asked_at, r.until, digest),
        )  # fmt: skip

    def drop(self, request: Request) -> None:
        """Nobody wants to know any more."""
        self._db.execute("delete from consents where id = ?", (request.id,))

    def same(self, key: str, digest: str) -> Stands | None:
        """What stands of the question that was asked under a key before; `nobody` also as long as it is open."""
        sql = "select id, coalesce(answer, 'nobody'), by from consents where key = ? and digest = ?"
        return self._stands(sql, (key, digest))

    def find(self, request: str) -> Stands | None:
        """What stands of a question."""
        return self._stands("select id, coalesce(answer, 'nobody'), by from consents where id = ?", (request,))

    def remembered(self, skill: str, caller: str, origin: str) -> Stands | None:
        """What was said once for all: `always` or `never`."""
        sql = "select id, answer, by from grants where skill = ? and caller = ? and origin = ?"
        return self._stands(sql, (skill, caller, origin))

    def _stands(self, sql: str, values: tuple[str, ...]) -> Stands | None:
        row = self._db.execute(sql, values).fetchone()
        return None if row is None else Stands(*row)

    def settle(self, answers: Iterable[tuple[Request, str]], by: str) -> None:
        """Questions were answered; `always` and `never` are remembered with them, all as one."""
        with self._db:
            self._db.execute("begin immediate")
            for r, answer in answers:
                self._db.execute("update consents set answer = ?, by = ? where id = ?", (answer, by, r.id))
                if answer in ("always", "never"):
                    row = (self._new_id(), r.skill, r.caller, r.origin, answer, by, self._wall())
                    self._db.execute("insert or replace into grants values (?, ?, ?, ?, ?, ?, ?)", row)

    def grants(self) -> list[dict[str, Any]]:
        """What was said once for all, newest first."""
        names = ("id", "skill", "caller", "origin", "answer", "by", "since")
        rows = self._db.execute(f"select {', '.join(names)} from grants order by since desc, id")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def forget(self, grant: str) -> bool:
        """Remember it no longer; whether it was."""
        return self._db.execute("delete from grants where id = ?", (grant,)).rowcount > 0
