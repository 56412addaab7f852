"""A list that is longer than the screen: which row is chosen, and which are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Window:
    """The chosen row, by its key: it stays chosen while others come and go before it."""

    key: str | None = None
    top: int = 0
    """Number of the first row that is shown."""
    at: int = 0
    """Number of the chosen row, as of the last look: if that row goes, the one in its place is chosen."""

    def show(self, keys: Sequence[str], height: int) -> range:
        """The numbers of the rows to show, the chosen one among them."""
        if not keys:
            self.key, self.top, self.at = None, 0, 0
            return range(0)
        if self.key is None or not (self.at < len(keys) and keys[self.at] == self.key):
            self.at = keys.index(self.key) if self.key in keys else min(self.at, len(keys) - 1)
        self.key = keys[self.at]
        height = max(1, height)
        self.top = max(0, min(max(min(self.top, self.at), self.at - height + 1), len(keys) - height))
        return range(self.top, min(len(keys), self.top + height))

    def move(self, keys: Sequence[str], by: int) -> None:
        """Choose another row, `by` further down; the ends are the ends."""
        if keys:
            self.show(keys, 1 << 30)
            self.at = max(0, min(len(keys) - 1, self.at + by))
            self.key = keys[self.at]


def moved_by(key: str, height: int) -> int | None:
    """How far a key moves the choice in any list; None if it is no such key."""
    far = 1 << 30
    return {
        "down": 1, "j": 1, "up": -1, "k": -1, "pagedown": height, "ctrl+f": height, "pageup": -height,
        "ctrl+b": -height, "home": -far, "g": -far, "end": far, "G": far, "shift+g": far,
    }.get(key)  # fmt: skip
