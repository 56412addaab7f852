"""What monitors are shown is what there is, whenever they look and however slowly, on virtual time."""

from __future__ import annotations

from contextlib import aclosing
from itertools import pairwise
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from slipstream import testing
from slipstream.core import plan as plans
from slipstream.core.node import Node
from slipstream.core.skill import Context, Cost, Effect, skill
from slipstream.feed import KEEP, WHYS, Feed, Viewer
from slipstream.tui.board import Board

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@skill("work.slow", effect=Effect.READ)
async def work_slow(ctx: Context, seconds: float = 1.0) -> float:
    """Take its time."""
    for part in range(4):
        await ctx.progress(part / 4, f"part {part}")
        await anyio.sleep(seconds / 4)
    return seconds


@skill("work.slow", effect=Effect.READ, cost=Cost(latency_ms=9000))
async def work_slower(ctx: Context, seconds: float = 1.0) -> float:
    """The same, where it is thought to take longer."""
    await anyio.sleep(seconds)
    return seconds


def chain(count: int) -> plans.Plan:
    steps: list[dict[str, Any]] = [
        {"id": f"s{i}", "skill": "work.slow", "args": {"seconds": 1.0}} for i in range(count)
    ]
    for i in range(1, count):
        steps[i]["after"] = [f"s{i - 1}"]
    return plans.load({"goal": "a chain", "steps": steps})


def settled(feed: Feed) -> Board:
    """A board of all there is now; reasons come in parts."""
    board, viewer = Board(), Viewer(feed)
    close = feed.open(viewer)
    board.take(viewer.frame())
    while viewer.waiting:
        board.take(viewer.frame())
    close()
    return board


async def look(feed: Feed, board: Board, rate: float = 4.0) -> None:
    async with aclosing(feed.frames(Viewer(feed), rate)) as frames:
        async for frame in frames:
            board.take(frame)


async def test_a_board_that_followed_a_run_is_that_of_whoever_looks_afterwards() -> None:
    async with testing.mesh("phone", "car", skills={"phone": [work_slow], "car": [work_slow]}) as m:
        feed, board = Feed(m["phone"]), Board()
        async with anyio.create_task_group() as group:
            group.start_soon(look, feed, board)
            await anyio.sleep(0.1)
            assert {row["name"] for row in board.rows["device"].values()} == {"phone", "car"}
            run = await m["phone"].start(chain(6))
            await run.ended.wait()
            await anyio.sleep(5)
            fresh = settled(feed)
            group.cancel_scope.cancel()
        for kind in ("self", "run", "step", "why", "consent", "handoff", "skills"):
            assert board.rows[kind] == fresh.rows[kind], kind
        assert {row["state"] for row in board.rows["step"].values()} == {"done"}
        assert board.get("run", run.id)["state"] == "done"
        assert board.get("run", run.id)["ended"] > board.get("run", run.id)["began"]


async def test_steps_are_shown_while_they_run_with_what_was_thought_of_them() -> None:
    async with testing.mesh("phone", "car", skills={"phone": [work_slow], "car": [work_slow]}) as m:
        feed, board = Feed(m["phone"]), Board()
        async with anyio.create_task_group() as group:
            group.start_soon(look, feed, board, 20.0)
            run = await m["phone"].start(chain(3))
            await anyio.sleep(1.6)
            first, second, third = board.steps(run.id)
            assert (first["state"], second["state"], third["state"]) == ("done", "running", "armed")
            assert (second["fraction"], second["note"]) == (0.5, "part 2")
            assert second["began"] == pytest.approx(first["ended"], abs=0.1)
            first_thought = run.steps["s2"].planned
            assert first_thought is not None
            assert third["planned"] == [
                first_thought.device,
                *(t + run.offset for t in (first_thought.start, first_thought.end)),
            ]
            assert board.get("device", second["device"])["running"] == 1
            assert [c["chosen"] for c in board.get("why", f"{run.id}/s2")["candidates"]] == [True, False]
            await run.ended.wait()
            group.cancel_scope.cancel()


async def test_a_step_that_moves_is_a_handoff_with_its_phases() -> None:
    skills = {"phone": [work_slower], "car": [work_slow]}
    async with testing.mesh("phone", "car", skills=skills, wall=anyio.current_time) as m:
        feed = Feed(m["phone"])
        run = await m["phone"].start(chain(4))
        await anyio.sleep(0.5)
        assert {s.device for s in run.steps.values()} == {"car"}
        await m.leave("car")
        await run.ended.wait()
        rows = settled(feed).rows["handoff"].values()
        assert {(row["from"], row["to"]) for row in rows} == {("car", "phone")}
        for row in rows:
            assert [name for name, _ in row["phases"]] == ["decided", "armed", "running"]
            times = [at for _, at in row["phases"]]
            assert times == sorted(times)
            assert (row["state"], row["owner_after"]) == ("done", "phone")


async def test_a_device_that_leaves_stays_a_row_and_says_when_it_was_seen() -> None:
    async with testing.mesh("phone", "car", skills={"phone": [work_slow], "car": [work_slow]}) as m:
        feed, board = Feed(m["phone"]), Board()
        async with anyio.create_task_group() as group:
            group.start_soon(look, feed, board)
            await anyio.sleep(1)
            await m.leave("car")
            await anyio.sleep(5)
            assert board.get("device", "car")["state"] == "absent"
            assert board.get("device", "car")["seen"] is not None
            group.cancel_scope.cancel()


async def test_a_viewer_that_takes_nothing_costs_a_bounded_buffer_and_is_told_what_it_missed() -> None:
    async with testing.mesh("phone", skills={"phone": [work_slow]}) as m:
        feed = Feed(m["phone"])
        viewer, board = Viewer(feed, since=m["phone"].events.seq), Board()
        close = feed.open(viewer)
        board.take(viewer.frame())
        for i in range(KEEP + 25):
            m["phone"].events.tell("warning", what=str(i), why="", hint="")
        frame = viewer.frame()
        assert (frame["gap"], len(frame["events"])) == (25, KEEP)
        board.take(frame)
        assert board.missed == 25
        close()


async def test_nothing_is_made_while_nobody_looks() -> None:
    async with testing.mesh("phone", skills={"phone": [work_slow]}) as m:
        feed, made = Feed(m["phone"]), []
        make = feed._make
        feed._make = lambda key: made.append(key) or make(key)  # type: ignore[method-assign,func-returns-value]
        run = await m["phone"].start(chain(3))
        await run.ended.wait()
        assert made == []
        settled(feed)
        assert len(made) == len(set(made)) > 0


async def test_reasons_come_some_at_a_time() -> None:
    async with testing.mesh("phone", skills={"phone": [work_slow]}) as m:
        feed = Feed(m["phone"])
        run = await m["phone"].start(chain(30))
        await anyio.sleep(0.5)
        viewer = Viewer(feed)
        close = feed.open(viewer)
        counts = []
        while not counts or viewer.waiting:
            counts.append(sum(key.startswith("why/") for key in viewer.frame()["rows"]))
        assert max(counts) == WHYS
        assert sum(counts) == 30
        close()
        run.cancel()
        await run.ended.wait()


async def test_a_rate_is_kept_whatever_happens() -> None:
    async with testing.mesh("phone", skills={"phone": [work_slow]}) as m:
        feed, times = Feed(m["phone"]), []

        async def watch() -> None:
            async with aclosing(feed.frames(Viewer(feed), 2.0)) as frames:
                async for _ in frames:
                    times.append(anyio.current_time())

        async def chatter(node: Node) -> None:
            while True:
                node.events.tell("warning", what="x", why="", hint="")
                await anyio.sleep(0.01)

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            group.start_soon(chatter, m["phone"])
            await anyio.sleep(10)
            group.cancel_scope.cancel()
        gaps = [b - a for a, b in pairwise(times)]
        assert min(gaps) >= 0.5
        assert 18 <= len(times) <= 22
