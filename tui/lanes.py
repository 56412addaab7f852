"""Where each step of a plan lies on the screen: a lane per device, sub-lanes so that no two boxes touch.

Times are wall seconds. A step that ran lies where it ran, one that did not where it is predicted to.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import Final

from .board import Board, Row, number, word

ENDED: Final = frozenset(("done", "submitted", "skipped", "failed", "denied", "unknown", "cancelled"))
WIDTHS: Final = (12, 9, 7, 5, 4, 3, 2, 1)
"""Cells that a step's name may have at most: the first number with which all fit."""
FUTURE: Final = 1e7
"""Seconds from its beginning beyond which nothing of a run is drawn."""


@dataclass(frozen=True, slots=True)
class Box:
    """A step: when it begins and ends, drawn from cell `left` to before cell `right` of the line `line`."""

    step: str
    device: str
    begin: float
    end: float
    row: Row
    left: int = 0
    right: int = 0
    line: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """When a run begins and ends, real or predicted."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length; never nothing."""
        return max(self.end - self.begin, 1e-3)


def boxes_of(board: Board, run: str, now: float) -> tuple[list[Box], list[str]]:
    """The steps that have a time and a device, by when they begin; and the names of those that have none yet."""
    found, without = [], []
    began = number(board.get("run", run).get("began"))
    for row in board.steps(run):
        step, device = word(row.get("step")), word(row.get("device"))
        begin, end = _times(row, now)
        if not device or begin is None or end is None or (began is not None and abs(begin - began) > FUTURE):
            without.append(step)
            continue
        found.append(Box(step, device, begin, min(end, begin + FUTURE), row))
    found.sort(key=lambda box: (box.begin, box.end, box.step))
    return found, without


def _times(row: Row, now: float) -> tuple[float | None, float | None]:
    began, ended = number(row.get("began")), number(row.get("ended"))
    start, end = number(row.get("start")), number(row.get("end"))
    state = word(row.get("state"))
    planned = row.get("planned")
    if start is None and isinstance(planned, list) and len(planned) == 3:
        start, end = number(planned[1]), number(planned[2])
    if state in ENDED:
        if ended is None:
            return start, end
        begin = ended if began is None else began
        return begin, max(begin, ended)
    if began is not None:
        length = (end - start) if end is not None and start is not None else 0.0
        return began, max(began + max(0.0, length), now)
    if start is None or end is None:
        return None, None
    late = max(0.0, now - start)  # what has not begun cannot begin in the past
    return start + late, max(start, end) + late


def span_of(board: Board, run: str, boxes: Sequence[Box]) -> Span:
    """From when a run began until all of it is over."""
    begin = number(board.get("run", run).get("began"))
    first = min((box.begin for box in boxes), default=0.0)
    begin = first if begin is None else min(begin, first) if boxes else begin
    return Span(begin, max((box.end for box in boxes), default=begin + 1.0))


class Scale:
    """Which cell a moment lies in. Straight, or stretched where short steps are, so that their names can be read."""

    def __init__(self, times: Sequence[float], cells: Sequence[float], rate: float) -> None:
        self._times, self._cells, self.rate = times, cells, rate

    def __call__(self, at: float) -> float:
        """The cell of a moment; beyond the known ones as fast as elsewhere."""
        times, cells = self._times, self._cells
        i = bisect_right(times, at)
        if i == 0:
            return cells[0] + (at - times[0]) * self.rate
        if i == len(times):
            return cells[-1] + (at - times[-1]) * self.rate
        part = (at - times[i - 1]) / (times[i] - times[i - 1])
        return cells[i - 1] + part * (cells[i] - cells[i - 1])


def straight(origin: float, rate: float) -> Scale:
    """So many cells a second."""
    return Scale([origin], [0.0], rate)


def stretched(boxes: Sequence[Box], span: Span, room: int) -> Scale:
    """The whole of a run in `room` cells: as straight as it can be while each step has cells for its name."""
    times = sorted({span.begin, span.end, *(box.begin for box in boxes), *(box.end for box in boxes)})
    number_of = {at: i for i, at in enumerate(times)}
    ends: list[list[tuple[int, int]]] = [[] for _ in times]
    for box in boxes:
        ends[number_of[box.end]].append((number_of[box.begin], len(box.step) + 2))
    for most in WIDTHS:
        if _cells(times, ends, 0.0, most)[-1] <= room * 0.8:
            break
    low, high = 0.0, room / span.seconds
    for _ in range(16):
        rate = (low + high) / 2
        low, high = (rate, high) if _cells(times, ends, rate, most)[-1] <= room else (low, rate)
    return Scale(times, _cells(times, ends, low, most), low)


def _cells(times: Sequence[float], ends: Sequence[Sequence[tuple[int, int]]], rate: float, most: int) -> list[float]:
    """The cell of each moment, if time runs at that rate and each step has at least its name's cells, up to `most`."""
    cells = [0.0]
    for i in range(1, len(times)):
        at = cells[-1] + (times[i] - times[i - 1]) * rate
        for begin, wanted in ends[i]:
            if begin < i:
                at = max(at, cells[begin] + min(wanted, most))
        cells.append(at)
    return cells


def lay(boxes: Sequence[Box], owner: str, cell: Scale) -> tuple[list[Box], list[str], list[int]]:
    """Boxes on lines: the boxes, of each line its device, and the lines with which a device begins.

    Lines are filled first-fit in the order in which steps begin.
    """
    devices = list(dict.fromkeys([*(box.device for box in boxes if box.device == owner), *(b.device for b in boxes)]))
    placed: list[Box] = []
    names: list[str] = []
    firsts: list[int] = []
    for device in devices:
        firsts.append(len(names))
        free: list[int] = []
        for box in boxes:
            if box.device != device:
                continue
            left = floor(cell(box.begin) + 1e-6)
            right = max(left + 1, floor(cell(box.end) + 1e-6))
            line = next((i for i, until in enumerate(free) if until <= left), len(free))
            if line == len(free):
                free.append(0)
            free[line] = right
            placed.append(Box(box.step, device, box.begin, box.end, box.row, left, right, len(names) + line))
        names += [device] * len(free)
    return placed, names, firsts
