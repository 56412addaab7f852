"""Tasks made beforehand: reused, cancelled one at a time, as many as there are jobs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from slipstream.core.workers import IDLE_LIMIT, Worker, Workers

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return ("trio", {"clock": MockClock(autojump_threshold=0)}) if request.param == "trio" else "asyncio"


@asynccontextmanager
async def pool() -> AsyncIterator[Workers]:
    async with anyio.create_task_group() as group:
        workers = Workers(group)
        group.start_soon(workers.run)
        yield workers
        group.cancel_scope.cancel()


class Job:
    """A job that a test holds: when it begins, how it ends."""

    def __init__(self) -> None:
        self.began, self.go, self.over = anyio.Event(), anyio.Event(), anyio.Event()
        self.how = ""
        self.task = 0

    async def __call__(self) -> None:
        self.task = anyio.get_current_task().id
        self.began.set()
        try:
            await self.go.wait()
            self.how = "done"
        except BaseException:
            self.how = "cancelled"
            raise
        finally:
            self.over.set()


async def finish(job: Job) -> None:
    job.go.set()
    await job.over.wait()
    await anyio.wait_all_tasks_blocked()


async def test_an_idle_worker_keeps_nothing_of_its_last_job() -> None:
    async with pool() as workers:
        job = Job()
        kept = weakref.ref(job)
        workers.do(job)
        await finish(job)
        del job
        gc.collect()
        assert kept() is None


async def test_one_worker_runs_job_after_job_in_one_task() -> None:
    async with pool() as workers:
        seen: set[tuple[Worker, int]] = set()
        for _ in range(100):
            job = Job()
            worker = workers.do(job)
            await finish(job)
            assert job.how == "done"
            seen.add((worker, job.task))
        assert len(seen) == 1


async def test_jobs_run_side_by_side_when_no_worker_is_idle() -> None:
    async with pool() as workers:
        jobs = [Job() for _ in range(3 * IDLE_LIMIT)]
        used = {workers.do(job) for job in jobs}
        for job in jobs:
            await job.began.wait()
        assert len(used) == len(jobs)
        for job in jobs:
            await finish(job)
        assert [job.how for job in jobs] == ["done"] * len(jobs)
        again = [Job() for _ in jobs]
        reused = {workers.do(job) for job in again} & used
        assert len(reused) == IDLE_LIMIT
        for job in again:
            await finish(job)
            assert job.how == "done"


async def test_cancelling_a_job_leaves_every_other_job_alone() -> None:
    async with pool() as workers:
        jobs = [Job() for _ in range(5)]
        held = [workers.do(job) for job in jobs]
        for job in jobs:
            await job.began.wait()
        held[2].cancel()
        await jobs[2].over.wait()
        assert [job.how for job in jobs] == ["", "", "cancelled", "", ""]
        for job in jobs[:2] + jobs[3:]:
            await finish(job)
            assert job.how == "done"
        after = Job()
        assert workers.do(after) is not held[2]
        await finish(after)
        assert after.how == "done"


@pytest.mark.parametrize("idle", [False, True])
async def test_a_job_that_is_cancelled_at_once_still_begins_and_learns_of_it(idle: bool) -> None:
    async with pool() as workers:
        if idle:
            first = Job()
            workers.do(first)
            await finish(first)
        job = Job()
        workers.do(job).cancel()
        await job.over.wait()
        assert job.how == "cancelled"


async def test_a_job_that_ends_although_it_was_cancelled_takes_its_worker_with_it() -> None:
    async with pool() as workers:
        held: list[Worker] = []

        async def stubborn() -> None:
            held[0].cancel()

        held.append(workers.do(stubborn))
        await anyio.wait_all_tasks_blocked()
        job = Job()
        assert workers.do(job) is not held[0]
        await finish(job)
        assert job.how == "done"


async def test_a_job_may_ask_for_another_job() -> None:
    async with pool() as workers:
        inner = Job()

        async def outer() -> None:
            workers.do(inner)
            await inner.over.wait()

        workers.do(outer)
        await inner.began.wait()
        await finish(inner)
        assert inner.how == "done"


async def test_a_job_that_raises_ends_the_task_group() -> None:
    async def broken() -> None:
        raise LookupError("x")

    async def main() -> None:
        async with pool() as workers:
            workers.do(broken)
            await anyio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        await main()
    assert caught.group_contains(LookupError)
