"""Skills that raise, hang, or return what they may not: the call fails and says whose fault it is, all else goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel
from trio.testing import MockClock

from slipstream import testing
from slipstream.core.errors import LinkLost, SkillFailed, SlipError, TimedOut, UsageError
from slipstream.core.skill import Context, Effect, skill
from slipstream.core.wire import LARGE_LIMIT

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Reading(BaseModel):
    celsius: float


over: list[bool] = []
"""Not empty once a test is over."""


class Unprintable(Exception):
    def __str__(self) -> str:
        return self.missing  # type: ignore[attr-defined, no-any-return]


RAISES: dict[str, Any] = {
    "value": lambda: ValueError("the sensor says no"),
    "group": lambda: ExceptionGroup("two things", [ValueError("one"), OSError("two")]),
    "unprintable": Unprintable,
    "exit": lambda: SystemExit(3),
    "long": lambda: RuntimeError("x" * 5_000_000),
    "odd": lambda: SkillFailed("no reading", device=Path("/dev/null"), why="y" * 5_000_000),
    "control": lambda: ValueError("\x1b[2J\x00\ud800"),
}


@skill("bad.raise", effect=Effect.READ)
async def raises(ctx: Context, what: str) -> Reading:
    """Raise something."""
    await anyio.sleep(0.1)
    raise RAISES[what]()


@skill("bad.raise_at_once", effect=Effect.ONCE)
async def raises_at_once(ctx: Context, what: str) -> Reading:
    """Raise something before anything was awaited."""
    raise RAISES[what]()


@skill("bad.hang", effect=Effect.READ)
async def hang(ctx: Context) -> Reading:
    """Never end."""
    await anyio.sleep_forever()
    raise AssertionError


@skill("bad.cling", effect=Effect.READ)
async def cling(ctx: Context) -> Reading:
    """Never end, and not let oneself be cancelled."""
    with anyio.CancelScope(shield=True):
        while not over:  # noqa: ASYNC110
            await anyio.sleep(60)
    return Reading(celsius=1)


@skill("bad.swallow", effect=Effect.READ)
async def swallow(ctx: Context) -> Reading:
    """Take a cancellation for an answer."""
    with anyio.CancelScope() as scope:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            scope.cancel()
            raise
    return Reading(celsius=1)


@skill("bad.type", effect=Effect.READ)
async def wrong_type(ctx: Context, what: str) -> Reading:
    """Return something else than promised."""
    other: Any = {"text": "warm", "none": None, "field": {"fahrenheit": 7}, "object": object()}
    return other[what]  # type: ignore[no-any-return]


@skill("bad.unsendable", effect=Effect.READ)
async def unsendable(ctx: Context) -> Any:
    """Return what no wire carries."""
    return {"self": lambda: None, "big": 2**70}


@skill("bad.number", effect=Effect.READ)
async def number(ctx: Context) -> int:
    """Return a number that is too large for the wire."""
    return 2**70


@skill("bad.huge", effect=Effect.READ)
async def huge(ctx: Context, size: int) -> bytes:
    """Return a lot."""
    return bytes(size)


@skill("bad.stream", effect=Effect.READ)
async def stream(ctx: Context, what: str) -> AsyncIterator[int]:
    """Begin well."""
    yield 1
    yield 2
    await anyio.sleep(0.1)
    if what == "raise":
        raise ValueError("out of numbers")
    if what == "type":
        yield "three"  # type: ignore[misc]
    if what == "huge":
        yield 2**70


@skill("bad.relay", effect=Effect.READ)
async def relay(ctx: Context, skill: str, on: str) -> Reading:
    """Have another skill do it."""
    return Reading(**await ctx.call(skill, on=on, what="value"))


@skill("bad.chatter", effect=Effect.READ)
async def chatter(ctx: Context, times: int) -> int:
    """Tell of progress far too often."""
    for i in range(times):
        await ctx.progress(i / times, "still at it")
    return times


@skill("good.read", effect=Effect.READ)
async def good(ctx: Context) -> Reading:
    """Just work."""
    return Reading(celsius=21.5)


ALL = [raises, raises_at_once, hang, cling, swallow, wrong_type, unsendable, number, huge, stream, relay, chatter, good]


@asynccontextmanager
async def mesh(*names: str) -> AsyncIterator[testing.Mesh]:
    """A mesh whose first device has no skills; at its end even the skills that cling let go."""
    over.clear()
    async with testing.mesh(*names, skills=dict.fromkeys(names[1:], ALL)) as m:
        try:
            yield m
        finally:
            over.append(True)


async def failure(m: testing.Mesh, name: str, args: dict[str, Any] | None = None, **more: Any) -> SlipError:
    """Why a call to the car fails, while it answers another one at the same moment and keeps its link."""
    link = m["phone"].links.up["car"]
    failed: list[SlipError] = []

    async def call() -> None:
        try:
            await m.call(name, args or {}, on="car", **more)
        except SlipError as error:
            failed.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await anyio.sleep(0.05)
        began = anyio.current_time()
        assert await m.call("good.read", on="car") == {"celsius": 21.5}
        assert anyio.current_time() - began < 0.01
    assert await m.call("good.read", on="car") == {"celsius": 21.5}
    assert m["phone"].links.up["car"] is link
    assert not m["car"].links.up["phone"].busy
    (error,) = failed
    return error


@pytest.mark.parametrize("name", ["bad.raise", "bad.raise_at_once"])
@pytest.mark.parametrize("what", RAISES)
async def test_a_skill_that_raises_fails_its_call_and_nothing_else(name: str, what: str) -> None:
    async with mesh("phone", "car") as m:
        error = await failure(m, name, {"what": what})
        assert isinstance(error, SkillFailed)
        assert error.fault == "skill"
        assert len(str(error)) < 3000


async def test_what_a_skill_raised_is_named_with_its_place() -> None:
    async with mesh("phone", "car") as m:
        error = await failure(m, "bad.raise", {"what": "value"})
        assert "bad.raise raised ValueError" in error.what
        assert error.why == "the sensor says no"
        assert "test_skills_at_fault.py:" in error.hint
        assert error.where["skill"] == "bad.raise"


@pytest.mark.parametrize("name", ["bad.hang", "bad.cling", "bad.swallow"])
async def test_a_skill_that_hangs_fails_at_its_deadline(name: str) -> None:
    async with mesh("phone", "car") as m:
        began = anyio.current_time()
        error = await failure(m, name, deadline=began + 2)
        assert anyio.current_time() - began < 2.05
        assert isinstance(error, TimedOut)
        assert error.fault == "skill"
        assert name in error.what


async def test_skills_that_hang_use_up_nothing_that_others_need() -> None:
    async with mesh("phone", "car") as m:
        for _ in range(3):
            async with anyio.create_task_group() as group:

                async def one() -> None:
                    with pytest.raises(TimedOut):
                        await m.call("bad.cling", on="car", deadline=anyio.current_time() + 1)

                for _ in range(500):
                    group.start_soon(one)
        assert await m.call("good.read", on="car") == {"celsius": 21.5}
        assert not m["car"].links.up["phone"].busy


@pytest.mark.parametrize("what", ["text", "none", "field", "object"])
async def test_a_result_that_does_not_fit_its_schema_is_the_fault_of_the_skill(what: str) -> None:
    async with mesh("phone", "car") as m:
        error = await failure(m, "bad.type", {"what": what})
        assert isinstance(error, SkillFailed)
        assert "what its schema does not allow" in error.what


@pytest.mark.parametrize("name", ["bad.unsendable", "bad.number"])
async def test_a_result_that_no_wire_carries_is_the_fault_of_the_skill(name: str) -> None:
    async with mesh("phone", "car") as m:
        error = await failure(m, name)
        assert isinstance(error, SkillFailed)
        assert error.fault == "skill"


async def test_a_result_above_the_limit_is_the_fault_of_the_skill_and_the_limit_is_named() -> None:
    async with mesh("phone", "car") as m:
        error = await failure(m, "bad.huge", {"size": LARGE_LIMIT})
        assert isinstance(error, SkillFailed)
        assert str(LARGE_LIMIT) in error.why
        fits = await m.call("bad.huge", {"size": LARGE_LIMIT - 100}, on="car")
        assert len(fits["result"]) == LARGE_LIMIT - 100


async def test_arguments_that_do_not_fit_are_the_fault_of_the_caller() -> None:
    async with mesh("phone", "car") as m:
        error = await failure(m, "bad.raise", {"whta": "value"})
        assert isinstance(error, UsageError)
        assert error.fault == "caller"
        assert "whta" in f"{error} {error.why}" or "what" in str(error)


@pytest.mark.parametrize(("what", "why"), [("raise", "ValueError"), ("type", "schema"), ("huge", "cannot be sent")])
async def test_a_stream_that_breaks_off_gives_what_it_had_and_then_the_fault(what: str, why: str) -> None:
    async with mesh("phone", "car") as m:
        got: list[int] = []

        async def read() -> None:
            async for item in m["phone"].stream("bad.stream", {"what": what}, on="car"):
                got.append(item)

        with pytest.raises(SkillFailed, match=why) as failed:
            await read()
        assert got == [1, 2]
        assert failed.value.fault == "skill"
        assert await m.call("good.read", on="car") == {"celsius": 21.5}
        assert not m["car"].links.up["phone"].busy


async def test_of_a_skill_that_calls_another_the_one_that_failed_is_named() -> None:
    async with mesh("phone", "car", "hub") as m:
        error = await failure(m, "bad.relay", {"skill": "bad.raise", "on": "hub"})
        assert isinstance(error, SkillFailed)
        assert error.where["skill"] == "bad.raise"
        assert "the sensor says no" in error.why


async def test_of_a_skill_that_calls_a_device_that_dies_the_network_is_named() -> None:
    async with mesh("phone", "car", "hub") as m:
        async with anyio.create_task_group() as group:

            async def die() -> None:
                await anyio.sleep(0.05)
                await m.crash("hub")

            group.start_soon(die)
            with pytest.raises(LinkLost, match="hub") as lost:
                await m.call("bad.relay", {"skill": "bad.raise", "on": "hub"}, on="car")
        assert lost.value.fault == "network"
        assert m["phone"].reachable("car")


async def test_a_skill_that_chatters_does_not_cost_its_device_the_link() -> None:
    async with mesh("phone", "car") as m:
        assert await m.call("bad.chatter", {"times": 20_000}, on="car") == {"result": 20_000}
        plan = {"goal": "x", "steps": [{"id": "s", "skill": "bad.chatter", "on": "car", "args": {"times": 20_000}}],
                "output": {"n": {"$ref": "s.result"}}}  # fmt: skip
        run = await m.run(plan)
        assert run.output == {"n": 20_000}, run.error
        assert not told_lost(m)


@pytest.mark.parametrize("name", ["bad.raise", "bad.raise_at_once"])
@pytest.mark.parametrize("what", RAISES)
async def test_a_step_whose_skill_raises_fails_with_whose_fault_it_is(name: str, what: str) -> None:
    async with mesh("phone", "car") as m:
        plan = {"goal": "x", "steps": [{"id": "s", "skill": name, "on": "car", "args": {"what": what}}]}
        run = await m.run(plan)
        assert run.state == "failed"
        assert run.error is not None
        assert run.error.fault == "skill"
        assert await m.call("good.read", on="car") == {"celsius": 21.5}
        assert not told_lost(m)


def told_lost(m: testing.Mesh) -> list[Any]:
    """The links that were lost."""
    return [e for node in m.nodes.values() for e in node.events.recent if e.kind == "link.down"]


@pytest.mark.parametrize("what", ["text", "none", "field", "object"])
async def test_a_step_whose_result_does_not_fit_fails_with_whose_fault_it_is(what: str) -> None:
    async with mesh("phone", "car") as m:
        plan = {"goal": "x", "steps": [{"id": "s", "skill": "bad.type", "on": "car", "args": {"what": what}}]}
        run = await m.run(plan)
        assert run.error is not None
        assert (run.state, run.error.fault) == ("failed", "skill")
        assert "schema" in run.error.what


@pytest.mark.parametrize("name", ["bad.unsendable", "bad.number"])
async def test_a_step_whose_result_no_wire_carries_fails_with_whose_fault_it_is(name: str) -> None:
    async with mesh("phone", "car") as m:
        run = await m.run({"goal": "x", "steps": [{"id": "s", "skill": name, "on": "car"}]})
        assert run.error is not None
        assert (run.state, run.error.fault) == ("failed", "skill")
        assert await m.call("good.read", on="car") == {"celsius": 21.5}


@pytest.mark.parametrize("name", ["bad.hang", "bad.cling"])
async def test_a_step_that_hangs_fails_at_its_deadline(name: str) -> None:
    async with mesh("phone", "car") as m:
        began = anyio.current_time()
        run = await m.run({"goal": "x", "steps": [{"id": "s", "skill": name, "on": "car", "deadline_ms": 2000}]})
        assert anyio.current_time() - began < 10
        assert run.state == "failed"
        assert run.error is not None
        assert run.error.code == "timed_out"
        assert await m.call("good.read", on="car") == {"celsius": 21.5}
