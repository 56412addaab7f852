"""Traces from elsewhere say anything, and what a daemon records may be anything: neither ends in a traceback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgpack import packb
from trio.testing import MockClock

from slipstream import cli, testing, trace
from slipstream.core import plan as plans
from slipstream.core.skill import Context, Effect, skill
from slipstream.feed import Feed, Viewer
from slipstream.perfetto import export

pytestmark = pytest.mark.usefixtures("unseen")
FIELDS = ("kind", "time", "run", "step", "device", "name", "state", "seconds", "needs", "planned", "began", "ended",
          "assignment", "why", "attempt", "steps", "goal", "skill", "answer", "by")  # fmt: skip
HEAD = {"slipstream": "trace", "schema": 1, "run": "r", "goal": "g", "began": 1.0, "device": "d"}


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written of columns and colours depends on no terminal."""
    monkeypatch.setenv("NO_COLOR", "1")


def junk() -> st.SearchStrategy[Any]:
    plain = (
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=6) | st.just("r")
    )
    names = st.sampled_from(FIELDS) | st.text(max_size=4)
    return st.recursive(plain, lambda more: st.lists(more, max_size=4) | st.dictionaries(names, more, max_size=6))


def event() -> st.SearchStrategy[dict[str, Any]]:
    kinds = ("run.started", "run.assigned", "step.armed", "step.started", "step.done", "consent.asked", "x")
    real = st.fixed_dictionaries(
        {"kind": st.sampled_from(kinds), "time": st.floats(0, 10), "run": st.just("r")},
        optional={"step": st.just("a") | junk(), "device": st.just("p") | junk(), "name": junk(), "state": junk(),
                  "seconds": junk(), "assignment": junk()},
    )  # fmt: skip
    return real | st.dictionaries(st.sampled_from(FIELDS), junk(), max_size=8)


def frame() -> st.SearchStrategy[dict[str, Any]]:
    keys = st.sampled_from(("run/r", "step/r/a", "step/r/b", "device/p", "self/", "why/r/a", "odd"))
    row = st.dictionaries(st.sampled_from(FIELDS), junk() | st.just(["a", "b"]), max_size=10)
    return st.fixed_dictionaries(
        {"seq": st.integers(0, 3), "time": junk(), "whole": st.booleans()},
        optional={
            "rows": st.dictionaries(keys, row | junk(), max_size=5) | junk(),
            "events": st.lists(event()) | junk(),
        },
    )


def written(folder: Path, *values: Any) -> Path:
    path = folder / trace.FOLDER / "r.slt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(packb(value) for value in values))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(
    st.just(HEAD) | st.fixed_dictionaries({**{k: junk() for k in HEAD}, "slipstream": st.just("trace")}),
    st.lists(frame() | junk(), max_size=4),
    st.fixed_dictionaries({"end": st.just(True), "state": junk(), "seconds": junk()}),
)
def test_a_trace_that_says_anything_is_listed_shown_and_exported_or_refused_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], head: Any, frames: list[Any], end: Any
) -> None:
    path = written(tmp_path, head, *frames, end)
    for words in (["list"], ["show", str(path)], ["show", str(path), "--json"], ["export", str(path), "--perfetto"]):
        assert cli.main(["trace", *words, "--state", str(tmp_path)]) in (0, 2)
        shown = capsys.readouterr()
        assert not set("\x1b\u202e\x9b\r") & set(shown.out + shown.err)
        if words[0] == "export" and shown.out:
            json.loads(shown.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


ROWS = {
    "run/r": {"run": "r", "goal": "g", "state": "done", "began": 1.0, "steps": ["a", "b"]},
    "step/r/a": {"run": "r", "step": "a", "device": "p", "began": 5.0, "ended": 6.0, "attempt": float("nan")},
    "step/r/b": {"run": "r", "step": "b", "device": "q", "began": 1.0, "ended": 2.0, "needs": ["a"], "attempt": 1},
}  # fmt: skip


def exported(rows: Any) -> list[Any]:
    made = export(HEAD, [{"seq": 0, "time": 9.0, "whole": True, "rows": rows, "events": []}])
    found: list[Any] = json.loads(json.dumps(made, allow_nan=False))["traceEvents"]
    return found


def test_an_export_has_no_arrow_back_in_time_and_no_number_that_json_lacks() -> None:
    kinds = [e["ph"] for e in exported(ROWS)]
    assert kinds.count("X") == 2
    assert "s" not in kinds
    assert "s" in [e["ph"] for e in exported({**ROWS, "step/r/a": {**ROWS["step/r/a"], "began": 0.5, "ended": 0.9}})]


@pytest.mark.parametrize("needs", [5, {"a": 1}, [5, ["a"], None], "a"])
def test_an_export_takes_needs_that_are_none(needs: Any) -> None:
    assert "X" in [e["ph"] for e in exported({**ROWS, "step/r/b": {**ROWS["step/r/b"], "needs": needs}})]


@pytest.mark.parametrize(
    "odd",
    [{"kind": "step.armed"}, {"kind": "run.assigned", "assignment": 5}, {"kind": "step.armed", "step": [], "name": "c"},
     {"kind": "run.assigned", "assignment": {"a": 1}}],
)  # fmt: skip
def test_events_that_cannot_be_read_leave_the_others_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], odd: dict[str, Any]
) -> None:
    good = [{"kind": "run.started"}, {"kind": "step.armed", "step": "a", "name": "car"},
            {"kind": "step.done", "step": "a", "name": "car", "state": "done", "seconds": 1.0}]  # fmt: skip
    events = [{"time": 1.0 + i, "run": "r", **e} for i, e in enumerate([good[0], odd, *good[1:]])]
    path = written(tmp_path, HEAD, {"seq": 0, "whole": True, "rows": {}, "events": events})
    assert cli.main(["trace", "show", str(path), "--state", str(tmp_path)]) == 0
    assert "done    a" in capsys.readouterr().out


@pytest.mark.parametrize("field", ["run", "goal", "device", "began"])
@pytest.mark.parametrize("value", [None, [], {}, 1e300, float("nan"), True])
def test_a_head_that_does_not_say_of_which_run_it_is_is_no_trace(tmp_path: Path, field: str, value: Any) -> None:
    path = written(tmp_path, {**HEAD, field: value}, {"seq": 0, "whole": True, "rows": {}})
    with pytest.raises(trace.UsageError, match="is no trace"):
        trace.read(path)
    assert trace.listed(tmp_path) == []


def test_a_tail_does_not_speak_for_the_head(tmp_path: Path) -> None:
    end = {"end": True, "state": "done", "seconds": 2.0, "run": "other", "path": "/etc/passwd"}
    head, _ = trace.read(written(tmp_path, HEAD, {"seq": 0, "whole": True, "rows": {}}, end))
    assert (head["run"], head["state"], head["seconds"], "path" in head) == ("r", "done", 2.0, False)


def test_a_list_that_claims_to_be_endless_is_the_end_of_what_is_whole(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD, {"seq": 0, "whole": True, "rows": {}})
    path.write_bytes(path.read_bytes() + b"\xdd\x03\xff\xff\xff" * 300)
    head, frames = trace.read(path)
    assert (head["cut"], len(frames)) == (True, 1)


# -- recording ---------------------------------------------------------------------------------------------------------


@skill("work.slow", effect=Effect.READ)
async def slow(ctx: Context) -> int:
    """Take its time."""
    await anyio.sleep(0.5)
    return 1


PLAN = plans.load({"goal": "one", "steps": [{"id": "a", "skill": "work.slow"}]})


def over(folder: Path, run: str, warned: list[str]) -> bool:
    written_down = any(row["run"] == run and row["state"] == "done" for row in trace.listed(folder))
    return written_down or any(run in what for what in warned)


async def recorded(folder: Path, before: Callable[[Any], None]) -> tuple[Any, list[Any]]:
    """Record a run; the node's run, and what was warned of."""
    warned: list[Any] = []
    async with (
        testing.mesh("phone", skills={"phone": [slow]}, wall=anyio.current_time) as m,
        anyio.create_task_group() as group,
    ):
        node = m["phone"]
        recorder = trace.Recorder(node, Feed(node), folder)
        group.start_soon(recorder.run)
        await anyio.lowlevel.checkpoint()
        node.events.listen(lambda e: warned.append(e.fields["what"]) if e.kind == "warning" else None)
        before(node)
        for _ in range(2):
            run = await m.run(PLAN)
            done = partial(over, folder, run.id, warned)
            for _ in iter(done, True):
                await anyio.sleep(0.1)  # threads write, whatever the time
        assert run.state == "done"
        group.cancel_scope.cancel()
    return run, warned


def record(folder: Path, before: Callable[[Any], None] = lambda node: None) -> tuple[Any, list[Any]]:
    clock = {"clock": MockClock(autojump_threshold=0)}
    found: tuple[Any, list[Any]] = anyio.run(recorded, folder, before, backend="trio", backend_options=clock)
    return found


def test_what_no_file_can_hold_is_recorded_as_far_as_it_can_be(tmp_path: Path) -> None:
    def strange(node: Any) -> None:
        odd = {"what": "a path: \udcff", "why": "", "hint": ""}
        node.events.listen(lambda e: node.events.tell("warning", **odd) if e.kind == "step.started" else None)

    run, _ = record(tmp_path, strange)
    head, frames = trace.read(trace.find(tmp_path, run.id))
    assert head["state"] == "done"
    assert "cut" not in head
    assert "a path: ?" in [e.get("what") for f in frames for e in f["events"]]


@pytest.mark.parametrize("fault", [KeyError("oops"), OSError(28, "No space left on device")])
def test_a_recording_that_fails_costs_neither_the_run_nor_the_daemon(
    tmp_path: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(viewer: Viewer) -> Any:
        raise fault

    monkeypatch.setattr(Viewer, "frame", fails)
    run, warned = record(tmp_path)
    assert run.state == "done"
    assert f"run {run.id} is not recorded" in warned


def test_old_traces_go_when_all_together_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "LARGEST", 30_000)
    monkeypatch.setattr(trace, "TOGETHER", 50_000)
    (tmp_path / trace.FOLDER).mkdir()
    for i in range(5):
        path = tmp_path / trace.FOLDER / f"old{i}.slt"
        path.write_bytes(bytes(8_000))
        os.utime(path, (1000 + i, 1000 + i))
    run, _ = record(tmp_path)
    names = {path.stem for path in (tmp_path / trace.FOLDER).iterdir()}
    assert run.id in names
    assert {"old4"} <= names
    assert not {"old0", "old1", "old2"} & names
