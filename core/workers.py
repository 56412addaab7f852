"""Tasks made beforehand that run one job after the other: starting a task per call costs three times as much.

A job is cancelled by cancelling its worker, which ends; the next job gets another one. So a call needs neither a task
nor a cancel scope of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

Job = Callable[[], Awaitable[None]]

IDLE_LIMIT = 64


class Worker:
    """A task that runs jobs."""

    __slots__ = ("_job", "_pool", "_scope", "_wake")

    def __init__(self, pool: Workers, job: Job) -> None:
        self._pool, self._job = pool, job
        self._scope = anyio.CancelScope()
        self._wake = anyio.Event()

    def cancel(self) -> None:
        """Cancel the job that runs, and this worker with it."""
        self._scope.cancel()

    def take(self, job: Job) -> None:
        """The next job of an idle worker."""
        self._job = job
        self._wake.set()

    async def run(self) -> None:
        """Run jobs until cancelled, or until there are enough idle workers."""
        with self._scope:
            while True:
                await self._job()
                if self._scope.cancel_called or not self._pool.rest(self):
                    return
                await self._wake.wait()
                self._wake = anyio.Event()


class Workers:
    """The workers of a node, in its task group. A job handles its errors: one that raises ends the node."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._idle: list[Worker] = []

    def do(self, job: Job) -> Worker:
        """Run a job soon; the worker that will can be cancelled as long as the job runs."""
        while self._idle:
            worker = self._idle.pop()
            if not worker._scope.cancel_called:
                worker.take(job)
                return worker
        worker = Worker(self, job)
        self._group.start_soon(worker.run)
        return worker

    def rest(self, worker: Worker) -> bool:
        """Keep an idle worker for the next job; false when there are enough."""
        if len(self._idle) >= IDLE_LIMIT:
            return False
        self._idle.append(worker)
        return True
