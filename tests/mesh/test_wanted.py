"""A person moves steps that have not begun: they go where the hard rules let them, and stay there."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from slipstream import testing
from slipstream.core import plan as plans
from slipstream.core.errors import UsageError
from slipstream.core.skill import Context, Cost, Effect, skill
from slipstream.core.wanted import want

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@skill("work.slow", effect=Effect.READ, cost=Cost(latency_ms=10))
async def work_quick(ctx: Context) -> str:
    """Say where it ran, after a while."""
    await anyio.sleep(1)
    return ctx.device


@skill("work.slow", effect=Effect.READ, cost=Cost(latency_ms=9000))
async def work_slow(ctx: Context) -> str:
    """The same, where it is thought to take longer."""
    await anyio.sleep(1)
    return ctx.device


@skill("car.only", effect=Effect.READ)
async def car_only(ctx: Context) -> str:
    """What the car alone has."""
    return ctx.device


SKILLS = {"phone": [work_slow], "car": [work_quick, car_only], "hub": [work_slow]}


def chain(*more: dict[str, Any]) -> plans.Plan:
    steps: list[dict[str, Any]] = [{"id": f"s{i}", "skill": "work.slow"} for i in range(3)]
    for i in (1, 2):
        steps[i]["after"] = [f"s{i - 1}"]
    return plans.load({"goal": "a chain", "steps": [*steps, *more], "output": {"where": {"$ref": "s2"}}})


async def test_a_step_that_waits_goes_where_a_person_wants_it_and_the_others_stay() -> None:
    async with testing.mesh("phone", "car", "hub", skills=SKILLS) as m:
        run = await m["phone"].start(chain())
        await anyio.sleep(0.5)
        assert {s.device for s in run.steps.values()} == {"car"}
        want(run, "s2", "hub")
        await run.ended.wait()
        assert [run.steps[f"s{i}"].device for i in range(3)] == ["car", "car", "hub"]
        assert run.output == {"where": {"result": "hub"}}


async def test_when_the_wanted_device_leaves_the_step_goes_where_it_can() -> None:
    async with testing.mesh("phone", "car", "hub", skills=SKILLS) as m:
        run = await m["phone"].start(chain())
        await anyio.sleep(0.5)
        want(run, "s2", "hub")
        await anyio.sleep(0.1)
        assert run.steps["s2"].device == "hub"
        await m.leave("hub")
        await run.ended.wait()
        assert run.steps["s2"].device == "car"
        assert run.state == "done"


@pytest.mark.parametrize(
    ("step", "device", "says"),
    [
        ("s0", "hub", "cannot move: it is running on car"), ("s9", "hub", "no step s9"),
        ("s1", "tablet", "it is not here"),
        ("only", "hub", "it has no car.only"), ("asked", "hub", "the plan asks for car"),
    ],
)  # fmt: skip
async def test_what_cannot_move_says_why_and_nothing_changes(step: str, device: str, says: str) -> None:
    more = (
        {"id": "only", "skill": "car.only", "after": ["s1"]},
        {"id": "asked", "skill": "work.slow", "after": ["s1"], "on": "car"},
    )
    async with testing.mesh("phone", "car", "hub", skills=SKILLS) as m:
        run = await m["phone"].start(chain(*more))
        await anyio.sleep(0.5)
        with pytest.raises(UsageError) as error:
            want(run, step, device)
        assert says in str(error.value)
        await run.ended.wait()
        assert {s.device for s in run.steps.values()} == {"car"}


async def test_what_ended_does_not_move() -> None:
    async with testing.mesh("phone", "car", skills={"phone": [work_slow], "car": [work_quick]}) as m:
        run = await m["phone"].start(chain())
        await run.ended.wait()
        with pytest.raises(UsageError, match="cannot move"):
            want(run, "s2", "phone")
