"""The events that the log shows: those that pass its filter, kept up as they come, and held still when paused."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import islice

from .board import Board, Row
from .filter import Filter
from .log_view import event_words
from .window import Window


class Log:
    """The log's own list. Each event has a number that stays, so that the chosen line stays chosen."""

    def __init__(self) -> None:
        self.filter = Filter.parse("")
        self.window = Window()
        self.paused = False
        self.following = True
        """Whether the newest line is the chosen one."""
        self._shown: deque[tuple[int, Row]] = deque()
        self._taken = 0
        self._board: Board | None = None

    def sift(self, text: str) -> None:
        """Show only what fits from now on, the past included.

        Raises:
            ValueError: it is no filter.
        """
        self.filter = Filter.parse(text)
        self._board = None

    def refresh(self, board: Board) -> None:
        """Take in what came since the last time, unless paused."""
        if board is not self._board:
            self._shown.clear()
            self._board, self._taken = board, board.seen - len(board.events)
        elif self.paused:
            return
        fresh = min(board.seen - self._taken, len(board.events))
        number = board.seen - fresh
        for event in islice(board.events, len(board.events) - fresh, None):
            if self.filter.fits(*event_words(board, event)) or event.get("kind") == "gap":
                self._shown.append((number, event))
            number += 1
        self._taken = board.seen
        oldest = board.seen - len(board.events)
        while self._shown and self._shown[0][0] < oldest:
            self._shown.popleft()

    def lines(self, height: int) -> list[tuple[int, Row, bool]]:
        """The numbered events to show, and which of them is the chosen one."""
        shown = list(self._shown)
        if not shown:
            return []
        last = len(shown) - 1
        at = last if self.following else min(last, bisect_left(shown, int(self.window.key or 0), key=lambda e: e[0]))
        self.window.at, self.window.key = at, str(shown[at][0])
        top = max(0, min(max(min(self.window.top, at), at - height + 1), len(shown) - height))
        self.window.top = top
        return [(number, event, top + i == at) for i, (number, event) in enumerate(shown[top : top + height])]

    def move(self, by: int) -> None:
        """Choose another line; the last one follows what comes."""
        shown = len(self._shown)
        if shown:
            at = max(0, min(shown - 1, self.window.at + by))
            self.window.at, self.window.key = at, str(self._shown[at][0])
            self.following = at == shown - 1 and by > 0

    @property
    def taken(self) -> int:
        """The number of the next event that it will take in."""
        return self._taken

    @property
    def count(self) -> int:
        """How many are shown."""
        return len(self._shown)

    @property
    def chosen(self) -> Row:
        """The chosen event; empty if there is none."""
        at = min(self.window.at, len(self._shown) - 1)
        return self._shown[at][1] if self._shown and at >= 0 else {}
