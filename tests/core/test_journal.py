"""The journal: what was told is there, over a close, a kill and a broken file."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slipstream.core.errors import SkillFailed, UsageError
from slipstream.core.journal import KEEP_SECONDS, SCHEMA, Invocation, Journal, RunRow, StepRow


class Clock:
    """Wall time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def reopened(journal: Journal, path: Path) -> Journal:
    """The journal of the next life of the same device."""
    journal.close()
    return Journal(path, Clock())


PLAIN: list[Any] = [None, 0, 2**64 - 1, -1.5, "°C", b"\xff\x00", [1, [2]], {"a": {"b": None}}, {7: "seven"}]


# -- facts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", PLAIN)
def test_a_fact_is_remembered_over_a_restart(value: Any, path: Path, clock: Clock) -> None:
    journal = Journal(path, clock)
    assert journal.fact("x") is None
    journal.remember("x", "before")
    journal.remember("x", value)
    assert journal.fact("x") == value
    again = reopened(journal, path)
    assert again.fact("x") == value
    again.close()


def test_every_boot_has_a_number_that_was_never_used(path: Path, clock: Clock) -> None:
    journal = Journal(path, clock)
    boots = []
    for _ in range(4):
        boots.append(journal.next_boot())
        clock.now -= 100  # the clock of a phone may go back
        journal = reopened(journal, path)
    journal.close()
    assert boots == [1, 2, 3, 4]


@pytest.mark.parametrize("value", [object(), 2**64, "\ud800", {1, 2}])
def test_what_cannot_be_kept_is_refused_and_changes_nothing(value: Any, clock: Clock) -> None:
    journal = Journal(":memory:", clock)
    journal.remember("x", 1)
    with pytest.raises(UsageError, match="a value cannot be kept") as caught:
        journal.remember("x", value)
    assert caught.value.hint
    assert journal.fact("x") == 1
    journal.close()


# -- invocations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_an_invocation_begins_and_ends(durable: bool, path: Path, clock: Clock) -> None:
    journal = Journal(path, clock)
    assert journal.invocation("k") is None
    journal.begin("k", "a.b", {"n": 1}, durable=durable)
    assert journal.invocation("k") == Invocation("k", "a.b", {"n": 1}, "begun", None, None)
    journal = reopened(journal, path)
    journal.end("k", "done", {"result": b"\xff"})
    assert journal.invocation("k") == Invocation("k", "a.b", {"n": 1}, "done", {"result": b"\xff"}, None)
    journal.close()


def test_the_first_end_of_an_invocation_stands(clock: Clock) -> None:
    journal = Journal(":memory:", clock)
    journal.begin("k", "a.b", {}, durable=True)
    journal.end("k", "done", 1)
    journal.end("k", "failed", None, SkillFailed("x").to_wire())
    journal.record("k", "a.other", {"n": 2}, "done", 2)
    assert journal.invocation("k") == Invocation("k", "a.b", {}, "done", 1, None)
    journal.close()


def test_the_end_of_what_never_began_is_not_kept(clock: Clock) -> None:
    journal = Journal(":memory:", clock)
    journal.end("k", "done", 1)
    journal.undone("k")
    journal.keep_state("k", {"n": 1})
    assert journal.invocation("k") is None
    assert journal.state("k") == {}
    journal.close()


def test_an_invocation_that_failed_keeps_its_error_until_it_begins_again(clock: Clock) -> None:
    journal = Journal(":memory:", clock)
    error = SkillFailed("it broke", "why", "hint", skill="a.b").to_wire()
    journal.begin("k", "a.b", {}, durable=True)
    journal.end("k", "failed", None, error)
    assert journal.invocation("k") == Invocation("k", "a.b", {}, "failed", None, error)
    journal.begin("k", "a.b", {}, durable=True)
    assert journal.invocation("k") == Invocation("k", "a.b", {}, "begun", None, None)
    journal.close()


def test_what_may_be_repeated_is_recorded_at_its_end(path: Path, clock: Clock) -> None:
    journal = Journal(path, clock)
    journal.record("k", "a.b", {"n": 1}, "done", {"x": 2})
    journal = reopened(journal, path)
    assert journal.invocation("k") == Invocation("k", "a.b", {"n": 1}, "done", {"x": 2}, None)
    journal.close()


def test_the_last_checkpoint_is_there_for_the_next_attempt(path: Path, clock: Clock) -> None:
    journal = Journal(path, clock)
    journal.begin("k", "a.b", {}, durable=True)
    assert journal.state("k") == {}
    journal.keep_state("k", {"position": 1})
    journal.keep_state("k", {"position": 2})
    journal = reopened(journal, path)
    journal.begin("k", "a.b", {}, durable=True)
    assert journal.state("k") == {"position": 2}
    journal.close()


def test_what_was_undone_says_so_and_keeps_its_result(clock: Clock) -> None:
    journal = Journal(":memory:", clock)
    journal.record("k", "a.b", {}, "done", 1)
    journal.undone("k")
    assert journal.invocation("k") == Invocation("k", "a.b", {}, "undone", 1, None)
    journal.close()


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_begins_changes_its_state_and_ends(path: Path, clock: Clock) -> None:
    journal = Journal(path, clock)
    assert journal.run("r") is None
    journal.run_began("r", {"goal": "go"})
    assert journal.run("r") == RunRow("r", {"goal": "go"}, "running", 1000, None, None, None)
    clock.now = 1010
    journal.run_state("r", "cancelling")
    assert journal.run("r") == RunRow("r", {"goal": "go"}, "cancelling", 1000, None, None, None)
    journal.run_state("r", "failed", None, {"code": "x"})
    assert journal.run("r") == RunRow("r", {"goal": "go"}, "failed", 1000, 1010, None, {"code": "x"})
    journal.run_state("r", "running")
    assert journal.run("r") == RunRow("r", {"goal": "go"}, "running", 1000, None, None, None)
    journal.run_state("r", "done", {"eta": 5})
    journal = reopened(journal, path)
    assert journal.run("r") == RunRow("r", {"goal": "go"}, "done", 1000, 1010, {"eta": 5}, None)
    journal.close()


def test_a_run_begins_once(clock: Clock) -> None:
    journal = Journal(":memory:", clock)
    journal.run_began("r", {"n": 1})
    with pytest.raises(sqlite3.IntegrityError):
        journal.run_began("r", {"n": 2})
    journal.run_began("s", {})
    assert journal.run("r") == RunRow("r", {"n": 1}, "running", 1000, None, None, None)
    journal.close()


def test_runs_come_newest_first_and_no_more_than_asked_for(clock: Clock) -> None:
    journal = Journal(":memory:", clock)
    for i in range(120):
        clock.now += 1
        journal.run_began(f"r{i}", {})
    assert [row.id for row in journal.runs(3)] == ["r119", "r118", "r117"]
    assert len(journal.runs()) == 100
    journal.close()


def test_the_last_word_on_a_step_is_kept(path: Path, clock: Clock) -> None:
    journal = Journal(path, clock)
    assert journal.steps("r") == {}
    first = StepRow("a", "armed", "car", 1, 0, None, None, None, None)
    last = StepRow("a", "done", "phone", 2, 1, [True, {"x": b"\xff"}, 3], {"code": "x"}, 1.5, 2.5)
    other = StepRow("b", "running", "car", 1, 0, None, None, 1.0, None)
    for row in (first, other, last):
        journal.step("r", row)
    journal.step("s", first)
    journal = reopened(journal, path)
    assert journal.steps("r") == {"a": last, "b": other}
    assert journal.steps("s") == {"a": first}
    journal.close()


# -- together, and for how long ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_what_is_written_together_is_there_as_a_whole_or_not_at_all(durable: bool, clock: Clock) -> None:
    journal = Journal(":memory:", clock)

    def half_way() -> None:
        with journal.together(durable=durable):
            journal.remember("a", 1)
            raise LookupError

    with pytest.raises(LookupError):
        half_way()
    assert journal.fact("a") is None
    with journal.together(durable=durable):
        journal.remember("a", 2)
        journal.remember("b", 3)
    assert (journal.fact("a"), journal.fact("b")) == (2, 3)
    journal.close()


def test_waiting_for_the_disk_ends_with_what_asked_for_it(path: Path, clock: Clock) -> None:
    def level(journal: Journal) -> int:
        return int(journal._db.execute("pragma synchronous").fetchone()[0])

    journal = Journal(path, clock)
    normal = level(journal)
    assert journal._db.execute("pragma journal_mode").fetchone()[0] == "wal"  # what makes `normal` safe from kill -9
    with journal.together(durable=True):
        assert level(journal) == 2
    assert level(journal) == normal == 1
    journal.forbid_writing()
    with pytest.raises(sqlite3.OperationalError):
        journal.begin("k", "a.b", {}, durable=True)
    assert level(journal) == normal
    journal.close()


def test_what_ended_long_ago_is_forgotten_and_what_is_open_never(clock: Clock) -> None:
    journal = Journal(":memory:", clock)
    step = StepRow("a", "done", "car", 1, 0, None, None, None, None)
    for age in ("old", "new"):
        journal.begin(f"{age} open", "a.b", {}, durable=True)
        journal.record(f"{age} done", "a.b", {}, "done", 1)
        for run in (f"{age} run", f"{age} running"):
            journal.run_began(run, {})
            journal.step(run, step)
        journal.run_state(f"{age} run", "done")
        clock.now += KEEP_SECONDS + 1 if age == "old" else KEEP_SECONDS
    journal.remember("x", 1)
    journal.forget_old()
    left = {key for key in ("old open", "old done", "new open", "new done") if journal.invocation(key)}
    assert left == {"old open", "new open", "new done"}
    assert {row.id for row in journal.runs()} == {"old running", "new run", "new running"}
    assert {run for run in ("old run", "old running", "new run", "new running") if journal.steps(run)} == {
        "old running", "new run", "new running",
    }  # fmt: skip
    assert journal.fact("x") == 1
    journal.close()


# -- files that will not do -------------------------------------------------------------------------------------------


def test_a_journal_of_a_later_version_is_refused_and_left_as_it_is(path: Path, clock: Clock) -> None:
    db = sqlite3.connect(path)
    db.execute(f"pragma user_version = {SCHEMA + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(UsageError, match=f"is of version {SCHEMA + 1}") as caught:
        Journal(path, clock)
    assert str(path) in caught.value.what
    assert "update" in caught.value.hint
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_path_that_is_no_journal_is_refused(tmp_path: Path, clock: Clock) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(b"this is no database" * 100)
    for path in (tmp_path, tmp_path / "missing" / "journal.db", noise, noise / "journal.db"):
        with pytest.raises(UsageError, match="cannot be opened") as caught:
            Journal(path, clock)
        assert str(path) in caught.value.what
        assert caught.value.why
        assert caught.value.hint
    assert noise.read_bytes() == b"this is no database" * 100


def test_a_second_daemon_is_refused_until_the_first_lets_go(path: Path, clock: Clock) -> None:
    first = Journal(path, clock)
    first.remember("x", 1)
    with pytest.raises(UsageError, match="cannot be opened") as caught:
        Journal(path, clock)
    assert "another daemon" in caught.value.hint
    assert "another daemon" in other_process(path)
    first.remember("x", 2)
    first.close()
    assert other_process(path) == "2"


def other_process(path: Path) -> str:
    """The fact `x` as another process finds it, or the hint of its refusal."""
    code = """
import sys
from slipstream.core.errors import UsageError
from slipstream.core.journal import Journal
try:
    print(Journal(sys.argv[1], lambda: 0.0).fact("x"), end="")
except UsageError as error:
    print(error.hint, end="")
"""
    return subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True).stdout


def test_after_writing_was_forbidden_what_was_told_before_is_all_there_is(path: Path, clock: Clock) -> None:
    journal = Journal(path, clock)
    journal.remember("x", 1)
    journal.forbid_writing()
    with pytest.raises(sqlite3.OperationalError):
        journal.remember("x", 2)
    journal = reopened(journal, path)
    assert journal.fact("x") == 1
    journal.remember("x", 3)
    journal.close()


# -- kill -9 ----------------------------------------------------------------------------------------------------------

_WRITER = """
import sys
from slipstream.core.journal import Journal, StepRow

journal = Journal(sys.argv[1], lambda: 5.0)
life = journal.next_boot()
print("boot", life, flush=True)
i = 0
while True:
    key = f"{life}/{i}"
    journal.begin(key, "a.b", {"i": i}, durable=i % 7 == 0)
    print("begun", key, flush=True)
    journal.keep_state(key, {"position": i})
    print("kept", key, flush=True)
    with journal.together(durable=i % 5 == 0):
        journal.end(key, "done", "x" * (i % 3000))
        journal.step(key, StepRow("s", "done", "car", 1, 0, i, None, None, None))
    print("done", key, flush=True)
    journal.remember("last", [life, i])
    print("last", key, flush=True)
    i += 1
"""


def test_whatever_was_acknowledged_survives_kill_9(path: Path, clock: Clock) -> None:
    chance = random.Random(9)
    told: list[tuple[str, str]] = []
    for life in range(1, 11):
        child = subprocess.Popen([sys.executable, "-c", _WRITER, path], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(chance.randrange(1, 400)):
            told.append(split(child.stdout.readline()))
        child.send_signal(signal.SIGKILL)  # while it writes on
        rest, _ = child.communicate()
        assert child.returncode == -signal.SIGKILL
        told += [split(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        journal = Journal(path, clock)
        check(journal, told, life)
        journal.close()
    assert len(told) > 500


def split(line: str) -> tuple[str, str]:
    what, _, key = line.rstrip("\n").partition(" ")
    return what, key


def check(journal: Journal, told: list[tuple[str, str]], life: int) -> None:
    """Every acknowledgement is in the journal, and what is there is whole."""
    assert journal.fact("boot") == life
    last = [0, 0]
    for what, key in told:
        if what == "boot":
            continue
        i = int(key.split("/")[1])
        row = journal.invocation(key)
        assert row is not None
        assert row.args == {"i": i}
        assert row.state in (("done",) if what in ("done", "last") else ("begun", "done"))
        # both halves of what was written together, or neither
        assert (row.result == "x" * (i % 3000)) == (row.state == "done") == bool(journal.steps(key))
        if what != "begun":
            assert journal.state(key) == {"position": i}
        if what == "last":
            last = [int(key.split("/")[0]), i]
    assert (journal.fact("last") or [0, 0]) >= last
    assert journal._db.execute("pragma integrity_check").fetchone()[0] == "ok"


# -- against a dictionary ---------------------------------------------------------------------------------------------

keys = st.sampled_from(["k1", "k2", "k3"])
plain = st.sampled_from(PLAIN)
errors = st.none() | st.just(SkillFailed("x").to_wire())


class JournalMachine(RuleBasedStateMachine):
    """The journal against plain dictionaries, closed and opened at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.journal = Journal(self.path, self.clock)
        self.facts: dict[str, Any] = {}
        self.invocations: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.steps: dict[tuple[str, str], StepRow] = {}

    @property
    def path(self) -> Path:
        return Path(self.folder.name) / "journal.db"

    def teardown(self) -> None:
        self.journal.close()
        self.folder.cleanup()

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.journal = Journal(self.path, self.clock)

    @rule(seconds=st.sampled_from([1, KEEP_SECONDS / 2]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(name=keys, value=plain)
    def remember(self, name: str, value: Any) -> None:
        self.journal.remember(name, value)
        self.facts[name] = value

    @rule(key=keys, n=st.integers(0, 9), durable=st.booleans())
    def begin(self, key: str, n: int, durable: bool) -> None:
        self.journal.begin(key, "a.b", {"n": n}, durable=durable)
        row = self.invocations.setdefault(key, {"skill": "a.b", "args": {"n": n}, "result": None, "kept": {}})
        row.update(state="begun", error=None, ended=None)

    @rule(key=keys, state=st.sampled_from(["done", "failed", "unknown"]), value=plain, error=errors)
    def end(self, key: str, state: str, value: Any, error: Any) -> None:
        self.journal.end(key, state, value, error)
        row = self.invocations.get(key)
        if row is not None and row["state"] == "begun":
            row.update(state=state, result=value, error=error, ended=self.clock.now)

    @rule(key=keys, value=plain)
    def record(self, key: str, value: Any) -> None:
        self.journal.record(key, "a.c", {}, "done", value)
        row = {"skill": "a.c", "args": {}, "state": "done", "result": value, "error": None, "kept": {}}
        self.invocations.setdefault(key, {**row, "ended": self.clock.now})

    @rule(key=keys, n=st.integers(0, 9))
    def keep_state(self, key: str, n: int) -> None:
        self.journal.keep_state(key, {"n": n})
        if key in self.invocations:
            self.invocations[key]["kept"] = {"n": n}

    @rule(key=keys)
    def undone(self, key: str) -> None:
        self.journal.undone(key)
        if key in self.invocations:
            self.invocations[key]["state"] = "undone"

    @rule(run=keys)
    def run_began(self, run: str) -> None:
        if run in self.runs:
            with pytest.raises(sqlite3.IntegrityError):
                self.journal.run_began(run, {})
        else:
            self.journal.run_began(run, {"goal": run})
            self.runs[run] = {"state": "running", "began": self.clock.now, "ended": None, "result": None, "error": None}

    @rule(run=keys, state=st.sampled_from(["running", "cancelling", "done", "failed"]), value=plain, error=errors)
    def run_state(self, run: str, state: str, value: Any, error: Any) -> None:
        self.journal.run_state(run, state, value, error)
        if run in self.runs:
            ended = None if state in ("running", "cancelling") else self.clock.now
            self.runs[run].update(state=state, ended=ended, result=value, error=error)

    @rule(run=keys, step=keys, state=st.sampled_from(["armed", "done"]), value=plain, error=errors)
    def step(self, run: str, step: str, state: str, value: Any, error: Any) -> None:
        row = StepRow(step, state, "car", 1, 2, value, error, None, self.clock.now)
        self.journal.step(run, row)
        self.steps[run, step] = row

    @precondition(lambda self: self.clock.now > KEEP_SECONDS)
    @rule()
    def forget_old(self) -> None:
        self.journal.forget_old()

        def old(row: dict[str, Any]) -> bool:
            return row["ended"] is not None and row["ended"] < self.clock.now - KEEP_SECONDS

        gone = {run for run, row in self.runs.items() if old(row)}
        self.invocations = {key: row for key, row in self.invocations.items() if not old(row)}
        self.runs = {run: row for run, row in self.runs.items() if run not in gone}
        self.steps = {name: row for name, row in self.steps.items() if name[0] not in gone}

    @invariant()
    def agrees(self) -> None:
        for key in ("k1", "k2", "k3"):
            assert self.journal.fact(key) == self.facts.get(key)
            row = self.invocations.get(key)
            kept = {} if row is None else row["kept"]
            found = row and Invocation(key, *(row[name] for name in ("skill", "args", "state", "result", "error")))
            assert self.journal.invocation(key) == found
            assert self.journal.state(key) == kept
            run = self.runs.get(key)
            assert self.journal.run(key) == (run and RunRow(key, {"goal": key}, **run))
            assert self.journal.steps(key) == {step: row for (of, step), row in self.steps.items() if of == key}
        assert {row.id for row in self.journal.runs()} == set(self.runs)


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
