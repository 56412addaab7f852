"""Every run is recorded; what was recorded is shown again, and is Chrome's trace format when that is asked for."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgpack import packb

from slipstream import testing, trace
from slipstream.core import plan as plans
from slipstream.core.errors import UsageError
from slipstream.core.skill import Context, Cost, Effect, skill
from slipstream.feed import Feed, Viewer
from slipstream.monitor_source import DaemonSource
from slipstream.perfetto import export
from slipstream.tui.board import Board
from slipstream.tui.player import Player

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # files are written in threads, and those know no virtual time


@skill("work.slow", effect=Effect.READ, cost=Cost(latency_ms=10))
async def work_slow(ctx: Context, seconds: float = 0.2) -> float:
    """Take its time."""
    await anyio.sleep(seconds)
    return seconds


@skill("work.slow", effect=Effect.READ, cost=Cost(latency_ms=9000))
async def work_slower(ctx: Context, seconds: float = 0.2) -> float:
    """The same, where it is thought to take longer."""
    await anyio.sleep(seconds)
    return seconds


def fork() -> plans.Plan:
    steps: list[dict[str, Any]] = [{"id": "first", "skill": "work.slow"}]
    steps += [{"id": f"s{i}", "skill": "work.slow", "after": ["first"]} for i in range(3)]
    return plans.load({"goal": "a fork", "steps": steps})


async def wait_for(true: Callable[[], bool]) -> None:
    """Until something is so of which no event tells: a file that a thread writes."""
    with anyio.fail_after(20):
        while not true():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def record(folder: Path, *, leave: bool = False) -> tuple[dict[str, Any], list[dict[str, Any]], Board]:
    """Run a plan with a recorder; its trace, and what a monitor knew at the end."""
    skills = {"phone": [work_slower], "car": [work_slow]}
    async with testing.mesh("phone", "car", skills=skills, wall=time.time) as m:
        feed = Feed(m["phone"])
        recorder = trace.Recorder(m["phone"], feed, folder)
        live = Board()

        async def watch() -> None:
            async with aclosing(feed.frames(Viewer(feed), 10.0)) as frames:
                async for told in frames:
                    live.take(told)

        async with anyio.create_task_group() as group:
            group.start_soon(recorder.run)
            group.start_soon(watch)
            await wait_for(lambda: bool(live.rows["self"]))
            run = await m["phone"].start(fork())
            if leave:
                await m.until(lambda: any(s.state == "running" for s in run.steps.values()))
                await m.leave("car")
            await run.ended.wait()
            await wait_for(lambda: live.get("run", run.id).get("state") == "done")
            await wait_for(lambda: any(r["run"] == run.id and r["state"] == "done" for r in trace.listed(folder)))
            group.cancel_scope.cancel()
    head, frames = trace.read(trace.find(folder, run.id[:6]))
    return head, frames, live


@pytest.mark.parametrize("leave", [False, True])
async def test_a_recorded_run_ends_as_a_monitor_saw_it_end(tmp_path: Path, leave: bool) -> None:
    head, frames, live = await record(tmp_path, leave=leave)
    assert (head["goal"], head["state"], head["device"]) == ("a fork", "done", "phone")
    player = Player(frames)
    player.seek(player.end)
    for kind in ("run", "step", "handoff"):
        assert player.board.rows[kind] == live.rows[kind], kind
    kinds = [event["kind"] for event in player.board.events]
    assert kinds[0] == "run.started"
    assert "run.done" in kinds
    assert (tmp_path / "traces").stat().st_mode & 0o777 == 0o700
    assert trace.find(tmp_path, head["run"]).stat().st_mode & 0o777 == 0o600


async def test_a_device_that_stops_writes_down_how_far_its_run_came(tmp_path: Path) -> None:
    async with testing.mesh("phone", skills={"phone": [work_slow]}, wall=time.time) as m:
        recorder = trace.Recorder(m["phone"], Feed(m["phone"]), tmp_path)
        async with anyio.create_task_group() as group:
            group.start_soon(recorder.run)
            run = await m["phone"].start(fork())
            await m.until(lambda: run.steps["first"].state == "running")
            await wait_for(lambda: bool(trace.listed(tmp_path)))
            group.cancel_scope.cancel()
        head, frames = trace.read(trace.find(tmp_path, run.id))
        assert head["state"] == "running"
        player = Player(frames)
        player.seek(player.end)
        assert player.board.get("step", f"{run.id}/first")["state"] == "running"


async def test_only_the_newest_traces_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "KEPT", 3)
    for _ in range(5):
        await record(tmp_path)
    assert len(trace.listed(tmp_path)) == 3


async def test_an_export_keeps_the_rules_of_the_format(tmp_path: Path) -> None:
    made = export(*(await record(tmp_path, leave=True))[:2])
    check_format(json.loads(json.dumps(made)))
    slices = [e for e in made["traceEvents"] if e["ph"] == "X"]
    names = {e["args"]["name"] for e in made["traceEvents"] if e["ph"] == "M" and e["name"] == "process_name"}
    assert names == {"phone", "car"}
    assert {"first", "s0", "s1", "s2"} <= {e["name"] for e in slices}
    assert any(e["name"].endswith("(waits, moves)") for e in slices)
    assert {e["cat"] for e in made["traceEvents"] if e["ph"] in "sf"} == {"handoff"}


def check_format(made: dict[str, Any]) -> None:
    """The rules of "Trace Event Format" that a viewer relies on."""
    assert isinstance(made["traceEvents"], list)
    flows: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    lanes: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in made["traceEvents"]:
        assert event["ph"] in ("X", "M", "s", "f", "i")
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
            continue
        assert isinstance(event["ts"], int)
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert isinstance(event["dur"], int)
            assert event["dur"] > 0
            lanes[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] in "sf":
            flows[event["id"]].append(event)
        else:
            assert event["s"] in ("g", "p", "t")
    for lane in lanes.values():  # on one thread slices nest or follow each other; ours follow
        ordered = sorted(lane)
        assert all(until <= begin for (_, until), (begin, _) in pairwise(ordered))
    for pair in flows.values():
        assert [e["ph"] for e in pair] in (["s", "f"], ["f", "s"])
        begin, end = sorted(pair, key=lambda e: e["ph"], reverse=True)
        assert end["bp"] == "e"
        assert begin["cat"] == end["cat"]
        for event in pair:
            assert any(a <= event["ts"] < b for a, b in lanes[event["pid"], event["tid"]])
    times = [e["ts"] for e in made["traceEvents"] if e["ph"] != "M"]
    assert times == sorted(times)


def test_data_that_goes_to_another_device_is_an_arrow() -> None:
    step = {"run": "r", "skill": "x.y", "state": "done", "attempt": 0, "why": "", "planned": None}
    rows = {
        "run/r": {"run": "r", "goal": "g", "state": "done", "began": 100.0, "steps": ["a", "b", "c"]},
        "device/p": {"name": "\x1b[31m<phone>"}, "device/q": {"name": "car"},
        "step/r/a": step | {"step": "a", "device": "p", "began": 100.0, "ended": 101.0, "needs": []},
        "step/r/b": step | {"step": "b", "device": "q", "began": 101.0, "ended": 102.0, "needs": ["a"]},
        "step/r/c": step | {"step": "c", "device": "q", "began": 101.0, "ended": 101.0, "needs": ["b", "a"]},
    }  # fmt: skip
    made = export({"run": "r", "began": 100.0}, [{"seq": 0, "time": 102.0, "whole": True, "rows": rows}])
    check_format(json.loads(json.dumps(made)))
    arrows = [(e["pid"], e["tid"], e["ts"]) for e in made["traceEvents"] if e["ph"] in "sf"]
    assert sorted(arrows) == [(1, 1, 999_999), (1, 1, 999_999), (2, 1, 1_000_000), (2, 2, 1_000_000)]


def whole(path: Path) -> bytes:
    head = {"slipstream": "trace", "schema": 1, "run": "r", "goal": "g", "began": 1.0, "device": "d"}
    frames = [{"seq": i, "time": 1.0 + i, "whole": i == 0, "rows": {}, "events": []} for i in range(5)]
    tail = packb({"end": True, "state": "done", "seconds": 4.0})
    return b"".join(packb(value) for value in (head, *frames)) + tail + b"\xce" + len(tail).to_bytes(4, "big")


@given(st.integers(0, 400))
def test_of_a_trace_that_was_cut_off_all_that_is_whole_is_shown(cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces" / "r.slt"
        path.parent.mkdir()
        data = whole(path)
        path.write_bytes(data[:cut])
        try:
            head, frames = trace.read(path)
        except UsageError as error:
            assert cut < len(data) // 2
            assert error.hint
            return
        assert head.get("cut", False) is (cut < len(data) - 5)
        assert [frame["seq"] for frame in frames] == list(range(len(frames)))
        assert [row["state"] for row in trace.listed(Path(folder))] == ["done" if cut >= len(data) else "cut off"]


@given(st.binary(max_size=200) | st.binary(max_size=40).map(lambda more: whole(Path())[:60] + more))
def test_a_file_of_anything_is_a_clear_error_or_what_is_whole_of_it(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces" / "x.slt"
        path.parent.mkdir()
        path.write_bytes(data)
        trace.listed(Path(folder))
        try:
            trace.read(path)
        except UsageError as error:
            assert error.what


def test_a_trace_of_another_version_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.slt"
    path.write_bytes(packb({"slipstream": "trace", "schema": 99, "run": "r", "began": 1.0}))
    with pytest.raises(UsageError, match="another version"):
        trace.read(path)


@pytest.mark.parametrize("named", ["nothere", "/no/such/file.slt"])
def test_a_trace_that_is_not_there_names_the_next_step(tmp_path: Path, named: str) -> None:
    with pytest.raises(UsageError) as error:
        trace.read(trace.find(tmp_path, named))
    assert error.value.hint == "slip trace list"


def test_a_monitor_waits_for_no_pipe_or_terminal_in_the_place_of_a_plan(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "plan.json")
    for name in (str(tmp_path / "plan.json"), "-", str(tmp_path), str(tmp_path / "none.json")):
        with pytest.raises(UsageError, match="no plan file"):
            DaemonSource(tmp_path, read_only=True).plan(name, {})
