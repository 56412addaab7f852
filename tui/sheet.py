"""A sheet of cells: boxes with text, and ways between them, as they are seen through a window on it.

Laws: a cell that holds text is never drawn over, and what lies outside the window costs nothing. A way crosses boxes
only where they are empty, and other ways only straight; it shares cells with ways from the same box or to the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len

from .text import Line, Span

BLANK, FILL, TEXT, END, LEAD = range(5)
"""What a cell is: free; the inside of a box, which ways cross; text; the last cell of a box, where its ways begin; the
first, where ways to it end."""
_UP, _DOWN, _LEFT, _RIGHT = 1, 2, 4, 8
_VERTICAL, _HORIZONTAL = _UP | _DOWN, _LEFT | _RIGHT
_WAYS: Final = {
    _VERTICAL: "┊", _HORIZONTAL: "┄", _DOWN | _LEFT: "╮", _UP | _LEFT: "╯", _DOWN | _RIGHT: "╭", _UP | _RIGHT: "╰",
    _VERTICAL | _LEFT: "┤", _VERTICAL | _RIGHT: "├", _HORIZONTAL | _DOWN: "┬", _HORIZONTAL | _UP: "┴",
    _VERTICAL | _HORIZONTAL: "┼",
}  # fmt: skip
_TRIED: Final = 12
"""Columns in which a way is tried to go up or down."""

_Cell = tuple[int, int, int]
"""Row, column and directions of a piece of a way."""


@dataclass(slots=True)
class _Piece:
    """A cell of ways: where it leads, and which boxes' ways they are (-1: several)."""

    directions: int
    source: int
    goal: int


class Sheet:
    """A window of `width` × `height` cells, whose upper left corner is the sheet's cell (`top`, `left`)."""

    def __init__(self, width: int, height: int, top: int, left: int) -> None:
        self.width, self.height, self.top, self.left = width, height, top, left
        self._chars = [[" "] * width for _ in range(height)]
        self._styles = [[""] * width for _ in range(height)]
        self._kinds = [bytearray(width) for _ in range(height)]
        self._ways: dict[tuple[int, int], _Piece] = {}

    def shows(self, row: int, left: int, right: int) -> bool:
        """Whether some of a row's cells from `left` to before `right` are in the window."""
        return 0 <= row - self.top < self.height and left < self.left + self.width and right > self.left

    def put(self, row: int, column: int, text: str, style: str, kind: int) -> None:
        """Write text; what does not fit into the window is left out, and anything but text leaves ways as they are."""
        y, x = row - self.top, column - self.left
        if not 0 <= y < self.height:
            return
        chars, styles, kinds = self._chars[y], self._styles[y], self._kinds[y]
        for char in text:
            wide = 1 if char.isascii() else cell_len(char)
            if wide == 0:
                if 0 < x <= self.width and char != "\ufe0f":  # it would make what is before it wider
                    chars[x - 1] += char
                continue
            if x >= 0 and x + wide <= self.width and (kind == TEXT or (y, x) not in self._ways):
                chars[x], styles[x], kinds[x] = char, style, kind
                if wide == 2:
                    chars[x + 1], styles[x + 1], kinds[x + 1] = "", style, kind
            x += wide

    def fill(self, row: int, left: int, right: int, char: str, style: str, kind: int) -> None:
        """Fill a row's cells from `left` to before `right`."""
        left, right = max(left, self.left), min(right, self.left + self.width)
        if left < right:
            self.put(row, left, char * (right - left), style, kind)

    def over(self, row: int, left: int, right: int, char: str, style: str, kind: int) -> None:
        """Put a character into those of the cells that are of a kind."""
        y = row - self.top
        if 0 <= y < self.height:
            for x in range(max(0, left - self.left), min(self.width, right - self.left)):
                if self._kinds[y][x] == kind and (y, x) not in self._ways:
                    self._chars[y][x], self._styles[y][x] = char, style

    def lines(self) -> Iterator[Line]:
        """The window's rows, from above."""
        for chars, styles in zip(self._chars, self._styles, strict=True):
            spans: list[Span] = []
            begin = 0
            for x in range(1, self.width + 1):
                if x == self.width or styles[x] != styles[begin]:
                    spans.append(("".join(chars[begin:x]), styles[begin]))
                    begin = x
            yield tuple(spans)

    # -- ways ----------------------------------------------------------------------------------------------------------

    def way(self, source: tuple[int, int, int], goal: tuple[int, int], ends: tuple[int, int], style: str) -> bool:
        """Draw a way from a box to the first cell of another; False if there is no room for one.

        `source`: row, right end, end of the name beside it; `goal`: row, left end; `ends`: numbers of both boxes.
        """
        row, right, until = source
        to_row, to = goal
        first = [to, right - 1, until, to - 1] if until > right else [right, to, to - 1, right - 1]
        between = range(max(until, self.left) + 1, min(to - 1, self.left + self.width))
        tried = [*first, *between[:: max(1, len(between) // _TRIED)]]
        for column in dict.fromkeys(tried):
            begin = column if column == right - 1 else until
            if not begin <= column <= to:
                continue
            if all(self._free(c, ends, (row, right - 1), goal) for c in self._cells(row, begin, to_row, to, column)):
                for cell in self._cells(row, begin, to_row, to, column):
                    self._draw(cell, ends, style)
                corner = self._ways.get((row - self.top, right - 1 - self.left))
                if begin == right and corner is not None:  # another way of this box begins in its last cell
                    self._draw((row - self.top, right - 1 - self.left, _RIGHT), ends, style)
                return True
        return False

    def _cells(self, row: int, begin: int, to_row: int, to: int, column: int) -> Iterator[_Cell]:
        """The pieces of a way that goes up or down in `column`, as far as they are in the window."""
        away, home = (_DOWN, _UP) if to_row > row else (_UP, _DOWN)
        right = self.left + self.width
        if 0 <= row - self.top < self.height:
            for x in range(max(begin, self.left), min(column, right)):
                yield row - self.top, x - self.left, _HORIZONTAL
        if self.left <= column < right:
            x = column - self.left
            low, high = sorted((row, to_row))
            for y in range(max(low, self.top), min(high + 1, self.top + self.height)):
                yield y - self.top, x, _LEFT | away if y == row else _RIGHT | home if y == to_row else _VERTICAL
        if 0 <= to_row - self.top < self.height:
            for x in range(max(column + 1, self.left), min(to + 1, right)):
                yield to_row - self.top, x - self.left, _HORIZONTAL

    def _free(self, cell: _Cell, ends: tuple[int, int], begin: tuple[int, int], goal: tuple[int, int]) -> bool:
        y, x, directions = cell
        place = (y + self.top, x + self.left)
        piece = self._ways.get((y, x))
        kind = self._kinds[y][x]
        if piece is not None:
            cross = {piece.directions, directions} == {_VERTICAL, _HORIZONTAL} and kind != LEAD
            return cross or piece.source == ends[0] or piece.goal == ends[1]
        if kind in (FILL, END) and directions == _VERTICAL:
            return True
        return kind == BLANK or (kind == END and place == begin) or (kind == LEAD and place == goal)

    def _draw(self, cell: _Cell, ends: tuple[int, int], style: str) -> None:
        y, x, directions = cell
        piece = self._ways.get((y, x))
        if piece is None:
            piece = self._ways[y, x] = _Piece(0, *ends)
            self._styles[y][x] = style
        piece.directions |= directions
        piece.source = ends[0] if piece.source == ends[0] else -1
        piece.goal = ends[1] if piece.goal == ends[1] else -1
        self._chars[y][x] = "➤" if self._kinds[y][x] == LEAD else _WAYS[piece.directions]
