"""What the hot path takes from the event loop itself, on asyncio, where anyio's own would cost several times as much.

On every other loop (trio in tests, on virtual time) it is anyio's. Callbacks of asyncio run outside any task, where
anyio does not know which loop it is on; what is here works there too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Protocol

import anyio


class Wake(Protocol):
    """Something that one task awaits and another, or a callback, sets; once."""

    def set(self) -> None:
        """Wake the task. Harmless when it was set before."""

    def is_set(self) -> bool:
        """Whether it was set."""

    def __await__(self) -> Generator[Any, Any, None]: ...


class _FutureWake(asyncio.Future[None]):
    def set(self) -> None:
        if not self.done():
            self.set_result(None)

    is_set = asyncio.Future.done


class _EventWake:
    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._event.wait().__await__()


def new_wake() -> Wake:
    """A wake for the loop that runs now."""
    try:
        return _FutureWake(loop=asyncio.get_running_loop())
    except RuntimeError:
        return _EventWake()


def clock_of_loop() -> Callable[[], float]:
    """`anyio.current_time` for the loop that runs now."""
    try:
        return asyncio.get_running_loop().time
    except RuntimeError:
        return anyio.current_time
