"""One heap of deadlines for a whole node: a cancel scope per call would cost ten times as much."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

import anyio


class Timer:
    """Something that will happen unless it is cancelled."""

    __slots__ = ("_heap", "act", "when")

    def __init__(self, heap: Timers, when: float, act: Callable[[], None]) -> None:
        self._heap, self.when, self.act = heap, when, act

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when

    def cancel(self) -> None:
        """Let it not happen. Harmless when it already did."""
        if self.act is not _nothing:
            self.act = _nothing
            self._heap.cancelled()


def _nothing() -> None:
    """What a cancelled timer does."""


class Timers:
    """Deadlines on `anyio.current_time`'s clock; `run` in one task makes them happen."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._idle = 0
        self._wake = anyio.Event()
        self._until = float("-inf")

    def at(self, when: float, act: Callable[[], None]) -> Timer:
        """Call `act` at `when`, from the task in `run`; it must not block or raise."""
        timer = Timer(self, when, act)
        heappush(self._heap, timer)
        if when < self._until:
            self._wake.set()
        return timer

    def cancelled(self) -> None:
        """One more entry of the heap means nothing; when most do, they are thrown out."""
        self._idle += 1
        if self._idle > 64 and self._idle * 2 > len(self._heap):
            self._heap = [timer for timer in self._heap if timer.act is not _nothing]
            heapify(self._heap)
            self._idle = 0

    async def run(self) -> None:
        """Make timers happen, until cancelled."""
        while True:
            now = anyio.current_time()
            while self._heap and (self._heap[0].when <= now or self._heap[0].act is _nothing):
                timer = heappop(self._heap)
                if timer.act is _nothing:
                    self._idle -= 1
                act, timer.act = timer.act, _nothing
                act()
            self._wake = anyio.Event()
            self._until = self._heap[0].when if self._heap else float("inf")
            with anyio.move_on_at(self._until):
                await self._wake.wait()
            self._until = float("-inf")


class Sweep:
    """Deadlines of a table of calls, for the price of a comparison each: one timer, at the earliest of them.

    `sweep(now)` ends what is overdue and returns the next deadline, or infinity.
    """

    def __init__(self, timers: Timers, sweep: Callable[[float], float], clock: Callable[[], float]) -> None:
        self._timers, self._sweep, self._clock = timers, sweep, clock
        self._next = float("inf")

    def before(self, deadline: float) -> None:
        """There is something with this deadline."""
        if deadline < self._next:
            self._next = deadline
            self._timers.at(deadline, self._due)

    def _due(self) -> None:
        now = self._clock()
        if now >= self._next:
            self._next = float("inf")
            self.before(self._sweep(now))
