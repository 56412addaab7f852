"""A recorded trace, played: at any moment the board is what a monitor showed then. Sans-IO: time is handed in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .board import Board, number

_MARK: Final = 200
"""Frames between two boards that are kept, so that going back need not begin at the beginning."""
SPEEDS: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)


class Player:
    """Plays frames by their `time`; the first must be whole."""

    def __init__(self, frames: Sequence[Mapping[str, Any]], title: str = "") -> None:
        if not frames:
            raise ValueError("the trace is empty")
        self.title = title
        self._frames = frames
        times: list[float] = []
        for frame in frames:  # a clock that was set back does not play backwards
            at = number(frame.get("time"))
            times.append(max(times[-1] if times else 0.0, at if at is not None else 0.0))
        self._times = times
        self._marks: dict[int, Board] = {}
        self._next = 0
        self.board = Board()
        self.at = self.begin
        """The moment that is shown, in wall seconds of the recording."""
        self.playing = True
        self.speed = 1.0
        self.seek(self.begin)

    @property
    def begin(self) -> float:
        """When the recording begins."""
        return self._times[0]

    @property
    def end(self) -> float:
        """When it ends."""
        return self._times[-1]

    def advance(self, seconds: float) -> bool:
        """Play on for so long; whether anything changed. At the end it stops."""
        if not self.playing or self.at >= self.end:
            return False
        self.seek(self.at + seconds * self.speed)
        return True

    def toggle(self) -> None:
        """Play or pause; at the end, from the beginning."""
        if self.at >= self.end:
            self.seek(self.begin)
            self.playing = True
        else:
            self.playing = not self.playing

    def step(self, by: int) -> None:
        """Pause, and go so many frames on or back."""
        self.playing = False
        self.seek(self._times[max(0, min(len(self._times) - 1, self._next - 1 + by))], frames=self._next + by)

    def faster(self, by: int) -> None:
        """Another speed of SPEEDS."""
        now = min(range(len(SPEEDS)), key=lambda i: abs(SPEEDS[i] - self.speed))
        self.speed = SPEEDS[max(0, min(len(SPEEDS) - 1, now + by))]

    def seek(self, at: float, frames: int | None = None) -> None:
        """Show a moment; or that of a number of frames."""
        self.at = max(self.begin, min(self.end, at))
        wanted = bisect_right(self._times, self.at) if frames is None else frames
        wanted = max(1, min(len(self._frames), wanted))
        if wanted < self._next or self._next == 0:
            mark = max((n for n in self._marks if n <= wanted), default=0)
            self.board = self._marks[mark].copy() if mark else Board()
            self._next = mark
        while self._next < wanted:
            self.board.take(self._frames[self._next])
            self._next += 1
            if self._next % _MARK == 0 and self._next not in self._marks:
                self._marks[self._next] = self.board.copy()
