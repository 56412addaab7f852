"""Tasks made beforehand that run one job after the other: starting a task per call costs three times as much.

A job is cancelled by cancelling its worker, which ends; the next job gets another one. So a call needs neither a task
nor a cancel scope of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from .loop import new_wake

Job = Callable[[], Awaitable[None]]

IDLE_LIMIT = 64


class Worker:
    """A task that runs jobs."""

    __slots__ = ("_cancelled", "_job", "_pool", "_scope", "_wake")

    def __init__(self, pool: Workers, job: Job) -> None:
        self._pool = pool
        self._job: Job | None = job
        self._scope: anyio.CancelScope | None = None
        self._wake = new_wake()
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether it runs no more jobs."""
        return self._cancelled

    def cancel(self) -> None:
        """Cancel the job that runs, and this worker with it."""
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    def take(self, job: Job) -> None:
        """The next job of an idle worker."""
        self._job = job
        self._wake.set()

    async def run(self) -> None:
        """Run jobs until cancelled, or until there are enough idle workers.

        A job that is cancelled before its start still runs up to its first checkpoint, so that it can clean up.
        """
        with anyio.CancelScope() as self._scope:
            if self._cancelled:
                self._scope.cancel()
            while self._job is not None:
                job, self._job = self._job, None
                await job()
                del job  # an idle worker keeps nothing of whom it last worked for
                if self._cancelled or not self._pool.rest(self):
                    return
                try:
                    await self._wake
                except BaseException:
                    if (late := self._job) is not None:
                        await late()
                    raise
                self._wake = new_wake()


class Workers:
    """The workers of a node, in its task group. A job handles its errors: one that raises ends the node."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._idle: list[Worker] = []
        self._hired: list[Worker] = []
        self._wanted = new_wake()

    async def run(self) -> None:
        """Start workers as they are wanted, until cancelled: callbacks of asyncio are no tasks, and can start none."""
        while True:
            await self._wanted
            self._wanted = new_wake()
            hired, self._hired = self._hired, []
            for worker in hired:
                self._group.start_soon(worker.run)

    def do(self, job: Job) -> Worker:
        """Run a job soon; the worker that will can be cancelled as long as the job runs."""
        while self._idle:
            worker = self._idle.pop()
            if not worker.cancelled:
                worker.take(job)
                return worker
        worker = Worker(self, job)
        self._hired.append(worker)
        self._wanted.set()
        return worker

    def rest(self, worker: Worker) -> bool:
        """Keep an idle worker for the next job; false when there are enough."""
        if len(self._idle) >= IDLE_LIMIT:
            return False
        self._idle.append(worker)
        return True
