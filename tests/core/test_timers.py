"""One heap of deadlines, on virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from slipstream.core.timers import Sweep, Timer, Timers

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Bench:
    """Running timers, and what they did when."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.start = anyio.current_time()
        self.did: list[tuple[float, str]] = []

    def now(self) -> float:
        return round(anyio.current_time() - self.start, 6)

    def at(self, seconds: float, name: str, then: Callable[[], object] = lambda: None) -> Timer:
        def act() -> None:
            self.did.append((self.now(), name))
            then()

        return self.timers.at(self.start + seconds, act)


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    bench = Bench()
    async with anyio.create_task_group() as group:
        group.start_soon(bench.timers.run)
        yield bench
        group.cancel_scope.cancel()


async def test_timers_happen_in_the_order_of_their_deadlines_and_at_them() -> None:
    async with running() as bench:
        for seconds in (30, 10, 20, 10.5):
            bench.at(seconds, f"{seconds}")
        await anyio.sleep(60)
        assert bench.did == [(10, "10"), (10.5, "10.5"), (20, "20"), (30, "30")]


async def test_a_deadline_that_has_passed_happens_at_the_next_turn() -> None:
    async with running() as bench:
        await anyio.sleep(5)
        bench.at(1, "late")
        await anyio.sleep(0.001)
        assert bench.did == [(5, "late")]


async def test_timers_that_were_set_before_anybody_runs_them_happen_too() -> None:
    bench = Bench()
    bench.at(1, "early")
    async with anyio.create_task_group() as group:
        group.start_soon(bench.timers.run)
        await anyio.sleep(2)
        assert bench.did == [(1, "early")]
        group.cancel_scope.cancel()


async def test_a_cancelled_timer_does_not_happen_and_cancelling_again_is_harmless() -> None:
    async with running() as bench:
        timer = bench.at(1, "never")
        other = bench.at(2, "other")
        timer.cancel()
        timer.cancel()
        await anyio.sleep(3)
        other.cancel()
        assert bench.did == [(2, "other")]
        assert (bench.timers._heap, bench.timers._idle) == ([], 0)


async def test_a_callback_may_cancel_itself_and_others() -> None:
    async with running() as bench:
        others = [bench.at(5, "same moment"), bench.at(6, "later")]
        own = bench.at(4, "self", lambda: [own.cancel(), *(other.cancel() for other in others)])
        bench.at(7, "last")
        await anyio.sleep(10)
        assert bench.did == [(4, "self"), (7, "last")]
        assert (bench.timers._heap, bench.timers._idle) == ([], 0)


async def test_a_callback_may_cancel_a_timer_of_the_same_moment() -> None:
    async with running() as bench:
        timers: list[Timer] = []
        timers.extend(bench.at(5, name, lambda: [timer.cancel() for timer in timers]) for name in "abc")
        await anyio.sleep(10)
        assert len(bench.did) == 1


async def test_a_callback_may_set_the_next_timer() -> None:
    async with running() as bench:

        def again() -> None:
            if len(bench.did) < 4:
                bench.at(bench.now() + 3600, "tick", again)

        bench.at(0, "tick", again)
        await anyio.sleep(5 * 3600)
        assert [when for when, _ in bench.did] == [0, 3600, 7200, 10800]


async def test_an_earlier_deadline_wakes_whoever_waits_for_a_later_one() -> None:
    async with running() as bench:
        bench.at(3600, "hour")
        await anyio.sleep(1)
        bench.at(60, "minute")
        bench.at(7200, "hours")
        await anyio.sleep(8000)
        assert bench.did == [(60, "minute"), (3600, "hour"), (7200, "hours")]


async def test_days_of_virtual_time_pass_with_every_timer_at_its_moment() -> None:
    async with running() as bench:
        for hour in range(24 * 30):
            bench.at(hour * 3600, f"{hour}")
        await anyio.sleep(31 * 86_400)
        assert [when for when, _ in bench.did] == [hour * 3600 for hour in range(24 * 30)]


async def test_cancelling_masses_of_timers_does_not_grow_the_heap() -> None:
    async with running() as bench:
        kept = [bench.at(9000 + i, f"kept {i}") for i in range(10)]
        for i in range(10_000):
            bench.at(8000 + i, "never").cancel()
            assert len(bench.timers._heap) <= 2 * len(kept) + 130
        await anyio.sleep(10_000)
        assert [name for _, name in bench.did] == [f"kept {i}" for i in range(10)]
        assert bench.timers._heap == []
        assert bench.timers._idle <= 0


async def test_a_mass_cancel_in_a_callback_leaves_the_others_in_order() -> None:
    async with running() as bench:
        doomed = [bench.at(10 + i % 7, "never") for i in range(500)]
        for i in range(20):
            bench.at(20 - i, f"{20 - i}")
        bench.at(0.5, "cancel", lambda: [timer.cancel() for timer in doomed])
        await anyio.sleep(30)
        assert bench.did == [(0.5, "cancel"), *((float(i), f"{i}") for i in range(1, 21))]
        assert bench.timers._idle == 0


async def test_a_sweep_ends_each_entry_of_a_table_at_its_deadline_with_one_timer_at_a_time() -> None:
    async with running() as bench:
        table: dict[str, float] = {}
        ended: list[tuple[float, str]] = []

        def sweep(now: float) -> float:
            for name in [name for name, deadline in table.items() if deadline <= now]:
                ended.append((bench.now(), name))
                del table[name]
            return min(table.values(), default=float("inf"))

        deadlines = Sweep(bench.timers, sweep, anyio.current_time)
        for seconds in (50, 20, 40, 20, 90, 10):
            name = f"{seconds}.{len(table)}"
            table[name] = bench.start + seconds
            deadlines.before(table[name])
        await anyio.sleep(15)
        table["late"] = bench.start + 17
        deadlines.before(table["late"])
        del table["40.2"]
        await anyio.sleep(20)
        assert ended == [(10, "10.5"), (17, "late"), (20, "20.1"), (20, "20.3")]
        await anyio.sleep(100)
        assert [when for when, _ in ended[4:]] == [50, 90]
        assert table == {}
        table["again"] = bench.start + 140
        deadlines.before(table["again"])
        await anyio.sleep(100)
        assert ended[-1] == (140, "again")
        assert bench.timers._heap == []


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))))
def test_what_happens_is_what_was_set_and_not_cancelled_before(plan: list[tuple[int, int, int]]) -> None:
    """Each timer: set at one moment for another, cancelled at a third."""

    async def main() -> None:
        async with running() as bench, anyio.create_task_group() as group:
            for i, (set_at, due, cancel_at) in enumerate(plan):
                group.start_soon(life, bench, i, set_at, due, cancel_at)
            await anyio.sleep(200)
            due_of = {i: max(set_at, due + 0.5) for i, (set_at, due, cancel_at) in enumerate(plan) if happens(i)}
            assert sorted((name, when) for when, name in bench.did) == sorted((f"{i}", t) for i, t in due_of.items())
            assert [when for when, _ in bench.did] == sorted(when for when, _ in bench.did)

    def happens(i: int) -> bool:
        set_at, due, cancel_at = plan[i]
        return cancel_at <= set_at or max(set_at, due + 0.5) < cancel_at

    async def life(bench: Bench, i: int, set_at: int, due: int, cancel_at: int) -> None:
        await anyio.sleep(set_at)
        timer = bench.at(due + 0.5, f"{i}")
        if cancel_at > set_at:
            await anyio.sleep(cancel_at - set_at)
            timer.cancel()

    run: Callable[[Callable[[], Awaitable[None]]], None] = partial(
        anyio.run, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)}
    )
    run(main)
