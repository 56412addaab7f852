"""The policy in force: the file in the state folder, read again when it changed, or the one in this package.

Only a file that can be read takes the place of another. One that was there and is gone, or cannot be read any more,
leaves the last good policy in force, for an editor takes a file away before it puts another one there; the package's
own comes into force at a start without a file, and not before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from .core.errors import SlipError, UsageError
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
        """Take the file over if it changed; what is wrong with it is told once, and the last good stays in force."""
        self._looked = self._clock()
        before, self._stamp = self._stamp, self._look()
        if self._stamp == before:
            return
        try:
            if self._stamp is None:
                raise UsageError(f"{self._path} is gone", "only a start without it takes the policy of Slipstream",
                                 "put it back, or: slip down, then slip up")  # fmt: skip
            self._policy = load(self._path)
        except SlipError as error:
            self._warn(error)

    def _look(self) -> tuple[int, ...] | None:
        """What differs once the file is another one; None if there is none."""
        try:
            found = self._path.stat()
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not self._path.is_symlink():
                return None
            return (error.errno or 0,)  # reading it says why
        return found.st_ctime_ns, found.st_size, found.st_ino  # ctime: its mode may have changed
