"""The stall guard, on a real event loop with real signals: who blocks is interrupted, and nobody else."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
import pytest

from slipstream.core.errors import SkillFailed
from slipstream.core.events import Events
from slipstream.core.gate import Caller
from slipstream.core.invoke import Blocked, Invoker
from slipstream.core.journal import Journal
from slipstream.core.skill import Catalogue, Context, Effect, Pack, skill
from slipstream.guard import StallGuard
from slipstream.testing import OpenDoor

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Nobody:
    """A node that has no mesh around it."""

    id = name = "here"

    async def call(self, skill: str, args: Any, **more: Any) -> Any:
        raise AssertionError(f"{skill} is not to be called")


@skill("test.sleep", effect=Effect.READ)
async def sleep(ctx: Context) -> int:
    """Block the loop in a system call."""
    time.sleep(30)
    return 1


@skill("test.spin", effect=Effect.READ)
async def spin(ctx: Context) -> int:
    """Block the loop in Python."""
    while True:
        pass


@skill("test.stubborn", effect=Effect.READ)
async def stubborn(ctx: Context) -> int:
    """Block the loop, and catch what ordinary code catches."""
    while True:
        try:
            time.sleep(30)
        except Exception:
            continue


@skill("test.quick", effect=Effect.READ)
async def quick(ctx: Context) -> int:
    """Block the loop for a moment, as file systems do."""
    time.sleep(0.02)
    return 2


@skill("test.patient", effect=Effect.READ)
async def patient(ctx: Context, turns: int) -> int:
    """Outlast several ticks, giving the loop back in between."""
    for _ in range(turns):
        await anyio.sleep(0.1)
    return turns


@skill("test.stream", effect=Effect.READ)
async def stream(ctx: Context) -> AsyncIterator[int]:
    """Give one item, then block."""
    yield 1
    time.sleep(30)


@pytest.fixture
def journal() -> Any:
    made = Journal(":memory:", time.time)
    yield made
    made.close()


def invoker(journal: Journal, guard: StallGuard) -> Invoker:
    catalogue = Catalogue()
    catalogue.add(Pack("test", (sleep, spin, stubborn, quick, patient, stream)))
    made = Invoker(Nobody(), catalogue, journal, Events(time.time), OpenDoor())  # type: ignore[arg-type]
    made.guard = guard
    return made


async def call(made: Invoker, name: str, **args: Any) -> Any:
    return (await made.invoke(made.catalogue.get(name), args, caller=Caller("here")))[1]["result"]


@pytest.mark.parametrize("name", ["test.sleep", "test.spin", "test.stubborn", "test.stream"])
async def test_a_skill_that_blocks_the_loop_fails_by_its_own_fault_and_the_next_one_runs(
    journal: Journal, name: str
) -> None:
    with StallGuard() as guard:
        made = invoker(journal, guard)
        assert await call(made, "test.quick") == 2
        with pytest.raises(SkillFailed, match="blocked the event loop") as caught:
            await call(made, name)
        assert caught.value.fault == "skill"
        assert caught.value.where["skill"] == name
        assert await call(made, "test.quick") == 2


async def test_whoever_only_waits_is_not_hit_when_another_skill_blocks(journal: Journal) -> None:
    answers: list[Any] = []
    with StallGuard() as guard:
        made = invoker(journal, guard)

        async def wait() -> None:
            answers.append(await call(made, "test.patient", turns=8))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            with pytest.raises(SkillFailed):
                await call(made, "test.spin")
    assert answers == [8]


async def test_code_outside_of_skills_is_never_interrupted(journal: Journal) -> None:
    with StallGuard() as guard:
        made = invoker(journal, guard)
        async with anyio.create_task_group() as group:
            group.start_soon(partial(call, made, "test.patient", turns=1000))
            while signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0):
                await anyio.lowlevel.checkpoint()
            for _ in range(4):
                signal.pause()  # holds the loop up until the next look
            group.cancel_scope.cancel()


async def test_the_timer_runs_only_while_a_skill_does(journal: Journal) -> None:
    with StallGuard() as guard:
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        made = invoker(journal, guard)
        assert await call(made, "test.quick") == 2
        while signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0):  # the next look finds nobody
            await anyio.lowlevel.checkpoint()
        async with anyio.create_task_group() as group:
            group.start_soon(partial(call, made, "test.patient", turns=1000))
            while signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0):  # armed anew
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


async def test_the_handler_of_before_is_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with StallGuard():
        assert signal.getsignal(signal.SIGALRM) != before
    assert signal.getsignal(signal.SIGALRM) == before


def test_no_ordinary_except_of_a_skill_catches_what_the_guard_raises() -> None:
    assert issubclass(Blocked, BaseException)
    assert not issubclass(Blocked, Exception)
