"""Ends a skill that holds up the event loop, so that one bad skill does not take its device out of the mesh.

While skills run, a timer's signal looks every TICK seconds whether the loop has turned since the last look. When it
has not for STRIKES looks in a row, and what was interrupted is a skill's own code, `Blocked` is raised right there: in
a busy loop between two bytecodes, in `time.sleep` or a blocking read as soon as the system call returns EINTR
(PEP 475). Code that stays inside C without looking for signals is out of reach.

Laws: nothing is interrupted that is not below `Invoker._body`; one late look is no proof (a laptop that wakes up has
one pending), so it takes two; no skill, no timer: an idle daemon is not woken.
"""

from __future__ import annotations

import asyncio
import signal
from types import FrameType
from typing import Any, Final

from .core.invoke import Blocked, Invoker

TICK: Final = 0.25
STRIKES: Final = 2

_SKILL = Invoker._body.__code__


class StallGuard:
    """A `core.invoke.Guard` for asyncio in the main thread; use it as a context manager around the node's life."""

    def __init__(self) -> None:
        self._running = 0
        self._armed = False
        self._turned = True
        self._strikes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._before: Any = None

    def __enter__(self) -> StallGuard:
        self._loop = asyncio.get_running_loop()
        self._before = signal.signal(signal.SIGALRM, self._tick)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._armed = False
        signal.signal(signal.SIGALRM, self._before)

    def enter(self) -> None:
        """A skill is about to run."""
        self._running += 1
        if not self._armed:
            self._armed = True
            self._ask()
            signal.setitimer(signal.ITIMER_REAL, TICK, TICK)

    def leave(self) -> None:
        """It ended. The timer is stopped by the next tick, which costs quick skills no system call."""
        self._running -= 1

    def _ask(self) -> None:
        self._turned, self._strikes = False, 0
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._mark)

    def _mark(self) -> None:
        self._turned = True

    def _tick(self, number: int, frame: FrameType | None) -> None:
        if not self._running:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._armed = False
        elif self._turned:
            self._ask()
        else:
            self._strikes += 1
            if self._strikes >= STRIKES and _in_skill(frame):
                self._strikes = 0
                raise Blocked


def _in_skill(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code is _SKILL:
            return True
        frame = frame.f_back
    return False
