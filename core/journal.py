"""The durable log of a device: what runs it owns, what it ran for whom, and what it must remember over a restart.

SQLite in WAL mode. Every transition is written before it is acted on (law 8). `kill -9` loses nothing that was
committed; effects that must not happen twice are also synced to disk first, so that a power cut loses none of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from .errors import UsageError

SCHEMA = 2
KEEP_SECONDS = 7 * 86_400
"""How long ended runs and invocations are kept."""

_TABLES = """
create table if not exists facts (name text primary key, value blob not null) without rowid;
create table if not exists invocations (
    key text primary key, skill text not null, args blob not null, state text not null,
    result blob, error blob, began real not null, ended real, kept blob, caller text not null default '',
    private integer not null default 0) without rowid;
create table if not exists runs (
    id text primary key, plan blob not null, state text not null, began real not null, ended real,
    result blob, error blob) without rowid;
create table if not exists steps (
    run text not null, step text not null, state text not null, device text not null, epoch integer not null,
    attempt integer not null, result blob, error blob, began real, ended real,
    primary key (run, step)) without rowid;
"""


def _pack(value: Any) -> bytes:
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError("a value cannot be kept", str(error)[:200],
                         "keep numbers of 64 bits, text, bytes, lists and maps") from None  # fmt: skip
    return packed


def _unpack(blob: bytes | None) -> Any:
    return None if blob is None else msgpack.unpackb(blob, raw=False, strict_map_key=False)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One attempt at one step (or keyed call) on this device: begun, and perhaps ended."""

    key: str
    skill: str
    args: dict[str, Any]
    state: str
    """`begun`, `undone`, or an Outcome."""
    result: Any
    error: dict[str, Any] | None
    caller: str = ""
    """The device whose key it is: nobody else hears what became of it."""


@dataclass(frozen=True, slots=True)
class StepRow:
    """What the owner of a run knows of a step."""

    step: str
    state: str
    device: str
    epoch: int
    attempt: int
    result: Any
    error: dict[str, Any] | None
    began: float | None
    ended: float | None


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run that this device owns. `state` is `running`, `cancelling`, `done`, `failed`, `unknown` or `cancelled`."""

    id: str
    plan: dict[str, Any]
    state: str
    began: float
    ended: float | None
    result: Any
    error: dict[str, Any] | None


class Journal:
    """One device's journal. All calls are short and made on the event loop; `wall` gives wall-clock seconds."""

    def __init__(self, path: Path | str, wall: Callable[[], float]) -> None:
        """Open or create it; `:memory:` keeps it in memory, for tests.

        Raises:
            UsageError: it cannot be opened, belongs to another version, or another daemon has it.
        """
        self._wall = wall
        try:
            self._db = sqlite3.connect(str(path), isolation_level=None, timeout=0.2, cached_statements=64)
            with ExitStack() as on_error:
                on_error.callback(self._db.close)
                self._open(path)
                on_error.pop_all()
        except sqlite3.Error as error:
            raise UsageError(f"the journal {path} cannot be opened", str(error),
                             "is another daemon using this state folder?") from error  # fmt: skip

    def _open(self, path: Path | str) -> None:
        # WAL alone lets a second daemon in; the lock goes with the process, also when that is killed
        self._db.execute("pragma locking_mode = exclusive")
        version = self._db.execute("pragma user_version").fetchone()[0]
        if version not in (0, 1, SCHEMA):
            raise UsageError(f"the journal {path} is of version {version}", f"this one knows {SCHEMA}",
                             "update Slipstream on this device")  # fmt: skip
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        self._db.execute("pragma cache_size = -512")
        if version == 1:
            self._db.execute("begin immediate")
            self._db.execute("alter table invocations add column caller text not null default ''")
            self._db.execute("alter table invocations add column private integer not null default 0")
            self._db.execute(f"pragma user_version = {SCHEMA}")
            self._db.execute("commit")
        self._db.executescript(_TABLES)
        self._db.execute(f"pragma user_version = {SCHEMA}")

    @property
    def database(self) -> sqlite3.Connection:
        """The same file, for whoever keeps tables of its own in it; what is done inside `together` counts as one."""
        return self._db

    def close(self) -> None:
        """Write everything into the main file and let go of it."""
        self._db.close()

    def forbid_writing(self) -> None:
        """Let every later write raise `sqlite3.OperationalError`: how a test ends a device as `kill -9` would."""
        self._db.execute("pragma query_only = on")

    @contextmanager
    def together(self, *, durable: bool = False) -> Iterator[None]:
        """What is written inside counts as one; `durable` also waits for the disk."""
        if durable:
            self._db.execute("pragma synchronous = full")
        try:
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:  # a disk that is full ends the transaction by itself
                    self._db.execute("rollback")
                raise
        finally:
            if durable:
                self._db.execute("pragma synchronous = normal")

    def forget_old(self) -> None:
        """Drop what ended long ago."""
        before = self._wall() - KEEP_SECONDS
        with self.together():
            self._db.execute("delete from invocations where ended < ?", (before,))
            self._db.execute("delete from steps where run in (select id from runs where ended < ?)", (before,))
            self._db.execute("delete from runs where ended < ?", (before,))

    # -- facts ---------------------------------------------------------------------------------------------------

    def fact(self, name: str) -> Any:
        """Something small to remember over a restart; None if it was never told."""
        row = self._db.execute("select value from facts where name = ?", (name,)).fetchone()
        return _unpack(row[0]) if row else None

    def remember(self, name: str, value: Any) -> None:
        """Remember it over a restart."""
        self._db.execute("insert or replace into facts values (?, ?)", (name, _pack(value)))

    def next_boot(self) -> int:
        """How often this device was started, counting now: its incarnation, which no clock can turn back."""
        boot = int(self.fact("boot") or 0) + 1
        with self.together(durable=True):
            self.remember("boot", boot)
        return boot

    # -- invocations (on the device that executes) -----------------------------------------------------------------

    def invocation(self, key: str) -> Invocation | None:
        """What is known of an idempotency key."""
        row = self._db.execute(
            "select skill, args, state, result, error, caller from invocations where key = ?", (key,)
        ).fetchone()
        return row and Invocation(key, row[0], _unpack(row[1]), row[2], _unpack(row[3]), _unpack(row[4]), row[5])

    def may_have_happened(self, key: str) -> bool:
        """Whether something under a key that goes on from this one was begun, and is not known to have failed."""
        sql = """select 1 from invocations where key >= ? and key < ?
                 and state in ('begun', 'done', 'submitted', 'unknown') limit 1"""
        return self._db.execute(sql, (f"{key}/", f"{key}0")).fetchone() is not None  # "0" comes after "/"

    def is_private(self, key: str) -> bool:
        """Whether what ran under a key, or one that goes on from it, was given what may not leave this device."""
        sql = "select 1 from invocations where private and (key = ? or (key >= ? and key < ?)) limit 1"
        return self._db.execute(sql, (key, f"{key}/", f"{key}0")).fetchone() is not None  # "0" comes after "/"

    def begin(
        self, key: str, skill: str, args: dict[str, Any], *, durable: bool, caller: str = "", private: bool = False
    ) -> None:
        """An invocation is about to begin; `durable` when it must not happen twice, `private` as `is_private`."""
        row = (key, skill, _pack(args), "begun", self._wall(), caller, private)
        sql = """insert into invocations (key, skill, args, state, began, caller, private) values (?, ?, ?, ?, ?, ?, ?)
                 on conflict (key) do update set state = 'begun', error = null, ended = null,
                 private = private or excluded.private
                 where caller = excluded.caller"""
        if not durable:
            changed = self._db.execute(sql, row).rowcount
        else:
            with self.together(durable=True):
                changed = self._db.execute(sql, row).rowcount
        if not changed:
            raise UsageError(f"the key {key[:100]} was used for something else", hint="a new call needs a new key")

    def end(self, key: str, state: str, result: Any = None, error: dict[str, Any] | None = None) -> None:
        """An invocation ended; its first answer stands."""
        self._db.execute(
            "update invocations set state = ?, result = ?, error = ?, ended = ? where key = ? and state = 'begun'",
            (state, _pack(result), None if error is None else _pack(error), self._wall(), key),
        )

    def record(
        self, key: str, skill: str, args: dict[str, Any], state: str, result: Any, *, caller: str = "",
        private: bool = False,
    ) -> None:  # fmt: skip
        """An invocation that may be repeated ended; written once, at its end."""
        now = self._wall()
        self._db.execute(
            "insert or ignore into invocations values (?, ?, ?, ?, ?, null, ?, ?, null, ?, ?)",
            (key, skill, _pack(args), state, _pack(result), now, now, caller, private),
        )

    def state(self, key: str) -> dict[str, Any]:
        """What the last checkpoint of an invocation kept."""
        row = self._db.execute("select kept from invocations where key = ?", (key,)).fetchone()
        return (_unpack(row[0]) if row else None) or {}

    def keep_state(self, key: str, state: dict[str, Any]) -> None:
        """A checkpoint of an invocation that began."""
        self._db.execute("update invocations set kept = ? where key = ?", (_pack(state), key))

    def undone(self, key: str) -> None:
        """Its compensation ran."""
        self._db.execute("update invocations set state = 'undone' where key = ?", (key,))

    # -- runs (on the device that owns them) -------------------------------------------------------------------------

    def run_began(self, run: str, plan: dict[str, Any]) -> None:
        """A run is about to begin."""
        with self.together(durable=True):
            self._db.execute(
                "insert into runs (id, plan, state, began) values (?, ?, 'running', ?)",
                (run, _pack(plan), self._wall()),
            )

    def run_state(self, run: str, state: str, result: Any = None, error: dict[str, Any] | None = None) -> None:
        """The state of a run changed; one that ended keeps its result or error."""
        ended = None if state in ("running", "cancelling") else self._wall()
        self._db.execute(
            "update runs set state = ?, ended = ?, result = ?, error = ? where id = ?",
            (state, ended, _pack(result), None if error is None else _pack(error), run),
        )

    def run(self, run: str) -> RunRow | None:
        """A run of this device."""
        return next(self._runs("where id = ?", (run,)), None)

    def runs(self, limit: int = 100) -> list[RunRow]:
        """The last runs of this device, newest first."""
        return list(self._runs("order by began desc limit ?", (limit,)))

    def open_runs(self) -> list[RunRow]:
        """The runs that did not end."""
        return list(self._runs("where state in ('running', 'cancelling') order by began desc", ()))

    def _runs(self, which: str, values: tuple[Any, ...]) -> Iterator[RunRow]:
        for row in self._db.execute(f"select id, plan, state, began, ended, result, error from runs {which}", values):
            yield RunRow(row[0], _unpack(row[1]), row[2], row[3], row[4], _unpack(row[5]), _unpack(row[6]))

    def step(self, run: str, row: StepRow) -> None:
        """What the owner knows of a step, before it acts on it."""
        self._db.execute(
            "insert or replace into steps values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (run, row.step, row.state, row.device, row.epoch, row.attempt, _pack(row.result),
             None if row.error is None else _pack(row.error), row.began, row.ended),
        )  # fmt: skip

    def steps(self, run: str) -> dict[str, StepRow]:
        """What the owner knows of all steps of a run."""
        rows = self._db.execute(
            "select step, state, device, epoch, attempt, result, error, began, ended from steps where run = ?", (run,)
        )
        return {r[0]: StepRow(r[0], r[1], r[2], r[3], r[4], _unpack(r[5]), _unpack(r[6]), r[7], r[8]) for r in rows}
