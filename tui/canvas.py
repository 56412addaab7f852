"""The one widget of the monitor: lines, of which only those that changed are painted again.

A DataTable of Textual repaints its viewport for every cell that changes: 42 % of a core where this costs 2 to 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from .text import Line
from .theme import STYLES

_RICH = {name: Style.parse(words) if words else Style() for name, words in STYLES.items()}


@lru_cache(maxsize=512)
def _strip(line: Line, width: int) -> Strip:
    plain = _RICH[""]
    return Strip([Segment(text, _RICH.get(name, plain)) for text, name in line]).adjust_cell_length(width, plain)


class Canvas(Widget):
    """Shows lines as they are: text in them is never markup."""

    DEFAULT_CSS: ClassVar[str] = """
    Canvas { width: 1fr; height: 1fr; background: ansi_default; color: ansi_default; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: Sequence[Line] = ()

    def show(self, lines: Sequence[Line]) -> None:
        """Show these lines from now on."""
        before, self._lines = self._lines, lines
        width = self.size.width
        if len(before) != len(lines):
            self.refresh()
            return
        changed = [Region(0, y, width, 1) for y, line in enumerate(lines) if line != before[y]]
        if changed:
            self.refresh(*changed)

    def render_line(self, y: int) -> Strip:
        """One line, as Textual asks for it."""
        return _strip(self._lines[y] if y < len(self._lines) else (), self.size.width)
