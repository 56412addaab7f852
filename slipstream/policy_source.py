"""The policy in force: the file in the state folder, read again when it changed, or the one in this package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from .core.errors import SlipError
from .core.policy import Policy
from .places import POLICY
from .policy_file import load

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the file, at least; it is only looked at when somebody calls."""


class PolicyFile:
    """The policy of a state folder; a wrong file is refused at the start, and not taken over later."""

    def __init__(self, state: Path, clock: Callable[[], float], warn: Callable[[SlipError], None]) -> None:
        """Read it.

        Raises:
            UsageError: it cannot be used; it names file, line and field.
        """
        self._path, self._clock, self._warn = state / POLICY, clock, warn
        self._stamp = self._look()
        self._policy = load(self._path if self._stamp else None)
        self._looked = clock()

    def current(self) -> Policy:
        """As it is now."""
        if self._clock() - self._looked >= LOOK_EVERY:
            self.read_again()
        return self._policy

    def read_again(self) -> None:
        """Take the file over if it changed; what is wrong with it is told, and the last good one stays in force."""
        self._looked = self._clock()
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._policy = load(self._path if stamp else None)
        except SlipError as error:
            self._warn(error)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
