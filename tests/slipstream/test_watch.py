"""The verb `watch` and the socket for reading: a board has what there is, and looking changes nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from slipstream import control, feed, places, testing
from slipstream.control_server import ControlServer, Verb
from slipstream.core import plan as plans
from slipstream.core.device import Resources
from slipstream.core.node import Node
from slipstream.core.skill import Context, Cost, Effect, skill
from slipstream.feed import Feed, Viewer
from slipstream.trust_verbs import TrustVerbs
from slipstream.tui.board import Board
from slipstream.verbs import READING, Verbs

CHANGING = frozenset((
    "stop", "devices.ping", "devices.forget", "call", "run", "runs.cancel", "runs.resume", "runs.move", "roster.reload",
    "roster.renew", "consent.answer", "consent.forget",
))  # fmt: skip


@skill("work.slow", effect=Effect.READ)
async def slow(ctx: Context, seconds: float = 1.0) -> float:
    """Take its time."""
    await ctx.progress(0.5, "half of it")
    await anyio.sleep(seconds)
    return seconds


@skill("work.slow", effect=Effect.READ, cost=Cost(latency_ms=9000))
async def slower(ctx: Context, seconds: float = 1.0) -> float:
    """The same, where it is thought to take longer."""
    await anyio.sleep(seconds)
    return seconds


def chain(count: int) -> plans.Plan:
    steps: list[dict[str, Any]] = [{"id": f"s{i}", "skill": "work.slow"} for i in range(count)]
    for i in range(1, count):
        steps[i]["after"] = [f"s{i - 1}"]
    return plans.load({"goal": "a chain", "steps": steps})


def of(board: Board) -> dict[str, dict[str, Any]]:
    """The rows of a board without what is measured all the time, and without what a new feed never saw."""
    measured = ("rtt_ms", "bandwidth")
    return {
        f"{kind}/{name}": {f: v for f, v in row.items() if f not in measured and (kind, f) != ("self", "began")}
        for kind, rows in board.rows.items() if kind != "handoff" for name, row in rows.items()
    }  # fmt: skip


def snapshot(node: Node) -> Board:
    """A board of what there is, made anew."""
    board, now = Board(), Feed(node)
    viewer = Viewer(now)
    close = now.open(viewer)
    while viewer.waiting:
        board.take(viewer.frame())
    close()
    return board


async def look(now: Feed, board: Board, rate: float) -> None:
    async with aclosing(now.frames(Viewer(now), rate)) as frames:
        async for frame in frames:
            board.take(frame)


def virtual(main: Callable[..., Any], *args: Any) -> None:
    anyio.run(main, *args, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})


# -- a board has what there is -----------------------------------------------------------------------------------------

DOINGS = ("start", "cancel", "car leaves", "car comes", "cut", "heal", "load", "rename", "wait", "wait long")


async def after(doings: list[str]) -> None:
    skills = {"phone": [slower], "car": [slow], "hub": [slow]}
    async with testing.mesh("phone", "car", "hub", skills=skills, wall=anyio.current_time) as m:
        node, board, quick = m["phone"], Board(), Board()
        now = Feed(node)
        async with anyio.create_task_group() as group:
            group.start_soon(look, now, board, 0.5)
            group.start_soon(look, now, quick, 20.0)
            runs = []
            away = cut = False
            for doing in doings:
                if doing == "start":
                    runs.append(await node.start(chain(3)))
                elif doing == "cancel" and runs:
                    runs[-1].cancel()
                elif doing == "car leaves" and not away:
                    away = True
                    await m.leave("car")
                elif doing == "car comes" and away and not cut:
                    away = False
                    await m.restart("car")
                elif doing in ("cut", "heal"):
                    cut = doing == "cut"
                    (m.drop_link if cut else m.heal)("phone", "hub")
                elif doing == "load":
                    node.members.change(node.clock(), resources=Resources(load=len(runs) / 8 + 0.1))
                elif doing == "rename":
                    node.rename(f"phone{len(runs)}")
                await anyio.sleep({"wait": 1.0, "wait long": 10.0}.get(doing, 0.05))
            await anyio.sleep(60)
            assert of(board) == of(quick) == of(snapshot(node))
            assert board.rows["handoff"] == quick.rows["handoff"]
            assert not board.lost
            group.cancel_scope.cancel()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(DOINGS), max_size=8))
def test_whatever_happens_a_board_that_followed_is_that_of_whoever_looks_anew(doings: list[str]) -> None:
    virtual(after, doings)


async def replanned() -> None:
    async with testing.mesh("phone", "car", skills={"phone": [slower], "car": [slow]}, wall=anyio.current_time) as m:
        node, board = m["phone"], Board()
        now = Feed(node)
        async with anyio.create_task_group() as group:
            group.start_soon(look, now, board, 4.0)
            run = await node.start(chain(4))
            await anyio.sleep(1.5)
            before = board.get("why", f"{run.id}/s0")
            await m.leave("car")
            await run.ended.wait()
            await anyio.sleep(5)
            group.cancel_scope.cancel()
        assert {run.steps[s].device for s in ("s0", "s3")} == {"car", "phone"}
        fresh = snapshot(node)
        assert [c["device"] for c in before["candidates"]] == ["car", "phone"]
        assert fresh.get("why", f"{run.id}/s0") == board.get("why", f"{run.id}/s0") == before
        assert fresh.get("why", f"{run.id}/s3") == board.get("why", f"{run.id}/s3")
        assert [c["device"] for c in fresh.get("why", f"{run.id}/s3")["candidates"]] == ["phone"]


def test_why_a_step_is_where_it_is_stays_what_was_thought_when_it_went_there() -> None:
    virtual(replanned)


async def cut_off(then: str) -> None:
    async with testing.mesh("phone", "car", skills={"phone": [slower], "car": [slow]}, wall=anyio.current_time) as m:
        before = await m["phone"].start(chain(3))
        await anyio.sleep(1.5)
        await m.crash("phone")
        node, board = await m.restart("phone"), Board()
        now = Feed(node)
        async with anyio.create_task_group() as group:
            group.start_soon(look, now, board, 4.0)
            await anyio.sleep(1)
            row = board.get("run", before.id)
            assert (row["state"], row["goal"], row["steps"]) == ("interrupted", "a chain", ["s0", "s1", "s2"])
            assert [s["state"] for s in board.steps(before.id)] == ["done", "armed", "armed"]  # as was written down
            assert {s["device"] for s in board.steps(before.id)} == {"car"}
            if then == "resume":
                run = await node.resume(before.id)
                await run.ended.wait()
            else:
                await table(node, now)["runs.cancel"]({"run": before.id}, None)  # type: ignore[arg-type]
            await anyio.sleep(5)
            assert of(board) == of(snapshot(node))
            assert board.get("run", before.id).get("state") == ("done" if then == "resume" else None)
            assert len(board.rows["step"]) == (3 if then == "resume" else 0)
            group.cancel_scope.cancel()


@pytest.mark.parametrize("then", ["resume", "cancel"])
def test_a_run_that_was_interrupted_is_shown_until_it_goes_on_or_is_over(then: str) -> None:
    virtual(cut_off, then)


async def given_back() -> None:
    async with testing.mesh("phone", "car", skills={"phone": [slow], "car": []}, wall=anyio.current_time) as m:
        node = m["phone"]
        now = Feed(node)
        run = await node.start(chain(4))
        await anyio.sleep(0.5)
        for _ in range(40):
            node.costs.saw("work.slow", "phone", 30.0, 10, 0.0)
            node.costs.saw("work.slow", "tablet", 1.0, 10, 0.0)
        await m.add("tablet", packs=[testing.Pack("t", (slow,))])
        await run.ended.wait()
        board, viewer = Board(), Viewer(now)
        now.open(viewer)
        board.take(viewer.frame())
        moves = list(board.rows["handoff"].values())
        assert {(row["from"], row["to"], row["state"]) for row in moves} == {("phone", "tablet", "done")}
        for row in moves:
            assert [name for name, _ in row["phases"]] == ["decided", "freed", "armed", "running"]
            assert [at for _, at in row["phases"]] == sorted(at for _, at in row["phases"])


def test_a_step_that_is_asked_back_says_when_it_was_free() -> None:
    virtual(given_back)


async def stopped(limit: int) -> None:
    async with testing.mesh("phone", skills={"phone": [slow]}, wall=anyio.current_time) as m:
        node = m["phone"]
        now, board = Feed(node), Board()
        viewer = Viewer(now)
        now.open(viewer)
        board.take(viewer.frame())
        for _ in range(12):
            run = await node.start(chain(5))
            await run.ended.wait()
            assert len(viewer._marked) <= limit
            assert len(now._stale) <= limit
        frame = viewer.frame()
        assert frame["whole"] is True
        board.take(frame)
        while viewer.waiting:
            board.take(viewer.frame())
        assert of(board) == of(snapshot(node))


def test_a_viewer_that_is_stopped_for_long_costs_a_bounded_number_of_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MARKS", 40)
    monkeypatch.setattr(feed, "RUNS", 3)
    virtual(stopped, 40)


# -- the sockets -------------------------------------------------------------------------------------------------------


def table(node: Node, now: Feed) -> dict[str, Verb]:
    return {**Verbs(node, {}, now).table(), **TrustVerbs(node, lambda: None).table()}


class Lines:
    """A client that reads when it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.transport = reader, writer.transport

    @classmethod
    @asynccontextmanager
    async def of(cls, path: Path, verb: str, args: dict[str, Any]) -> AsyncIterator[Lines]:
        reader, writer = await asyncio.open_unix_connection(path, limit=2**24)
        try:
            writer.write(control.encode({"v": 1, "verb": verb, "args": args}))
            yield cls(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    async def next(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(await self._reader.readline())
        return line

    async def into(self, board: Board) -> int:
        """Have a board take the next frame; how many events that tells of."""
        frame = await self.next()
        board.take(frame)
        return len(frame["events"]) + int(frame.get("gap", 0))


async def one_is_stopped(folder: Path) -> None:
    path = folder / "rw.sock"
    async with testing.mesh("phone", skills={"phone": [slow]}) as m:
        node, now = m["phone"], Feed(m["phone"])
        made = 0
        frame = Viewer.frame

        def counted(viewer: Viewer) -> Any:
            nonlocal made
            made += 1
            return frame(viewer)

        server = ControlServer({"watch": table(node, now)["watch"]}, lambda error: None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Viewer, "frame", counted)
            asked = {"rate": 20, "kinds": ["warning"], "since": node.events.seq}
            async with (
                server.serve(path), Lines.of(path, "watch", asked) as idle, Lines.of(path, "watch", asked) as busy,
            ):  # fmt: skip
                boards = Board(), Board()
                await idle.into(boards[0])
                await busy.into(boards[1])
                idle.transport.pause_reading()  # type: ignore[attr-defined]
                told = heard = taken = 0
                while taken < 20:
                    for _ in range(feed.KEEP // 2):
                        node.events.tell("warning", what="x" * 1000, why="", hint="")
                        told += 1
                    while heard < told:
                        heard += await busy.into(boards[1])
                        taken += 1
                assert made < 2 + taken + 5  # of the stopped one's no more than went into the socket's buffers
                idle.transport.resume_reading()  # type: ignore[attr-defined]
                while told > 0:
                    told -= await idle.into(boards[0])
                assert told == 0
                assert boards[1].missed == 0
                assert boards[0].missed > 0
                assert not boards[0].lost


def test_a_client_that_does_not_read_holds_up_nobody_and_has_all_rows_when_it_reads_again(tmp_path: Path) -> None:
    anyio.run(one_is_stopped, tmp_path)


def test_every_verb_is_said_to_change_something_or_nothing() -> None:
    async def names() -> None:
        async with testing.mesh("phone", skills={"phone": [slow]}) as m:
            known = set(table(m["phone"], Feed(m["phone"])))
            assert known == CHANGING | set(READING)
            assert not CHANGING & set(READING)

    virtual(names)


GIVEN: dict[str, dict[str, Any]] = {
    "devices.show": {"device": "phone"}, "skills.show": {"skill": "work.slow"},
    "plan": {"plan": {"goal": "x", "steps": [{"id": "a", "skill": "work.slow"}]}},
    "policy.explain": {"skill": "work.slow", "device": "phone"},
}  # fmt: skip


async def asked(verb: str) -> None:
    async with testing.mesh("phone", "car", skills={"phone": [slow], "car": [slow]}, wall=anyio.current_time) as m:
        node = m["phone"]
        run = await m.run(chain(2))
        verbs = table(node, Feed(node))
        args = {"run": run.id} if verb == "runs.show" else GIVEN.get(verb, {})

        class Silent:
            def tell(self, **line: Any) -> None: ...

            async def send(self, **line: Any) -> None: ...

        def state() -> Any:
            grants = node.gate.consents.grants(), node.gate.consents.open()
            steps = {name: (s.state, s.device) for name, s in run.steps.items()}
            return list(node.journal.database.iterdump()), node.members.me, node.events.seq, grants, steps

        before = state()
        with anyio.move_on_after(0.05):  # two of them go on until the client has enough
            await verbs[verb](args, Silent())  # type: ignore[arg-type]
        assert state() == before
        assert not node._stop.is_set()


@pytest.mark.parametrize("verb", READING)
def test_a_verb_for_reading_changes_nothing(verb: str) -> None:
    virtual(asked, verb)


def test_on_the_socket_for_reading_there_is_no_verb_that_changes_anything(alone: Any) -> None:
    path = places.socket_of(alone.state, read_only=True)
    assert path.stat().st_mode & 0o777 == 0o600

    async def refused() -> None:
        for verb in sorted(CHANGING):
            async with Lines.of(path, verb, {}) as client:
                assert (await client.next())["error"]["what"] == f"unknown verb '{verb}'"
        async with Lines.of(path, "watch", {}) as client:
            assert (await client.next())["whole"] is True

    anyio.run(refused)
    assert control.ask(alone.state, "status")["pid"] == alone.process.pid


def test_a_script_gets_the_frames_of_a_monitor(alone: Any, clean_env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "slipstream", "events", "--rows"]
    env = {**clean_env, "SLIPSTREAM_STATE": str(alone.state)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            board = Board()
            for _ in range(2):
                board.take(json.loads(process.stdout.readline()))
            assert not board.lost
            assert [row["name"] for row in board.rows["device"].values()] == ["alone"]
            assert not board.events  # what was before is not asked for
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
        finally:
            process.kill()
