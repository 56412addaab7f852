"""A run as bars on lanes: which device, from when to when, in which row; for the plan view.

Laws: a lane is a device, a row of it (a sub-lane) holds bars that do not overlap, their names included. A bar is drawn
right of those that it needs, also where all of them are shorter than a cell; time is stretched where it is full of
short steps. What is not known yet is drawn where it is predicted; what should have begun by now, from now on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import ceil, log2
from typing import Final

from rich.cells import cell_len

from .board import Board, Row, number, word

FINAL: Final = frozenset({"done", "submitted", "skipped", "failed", "denied", "unknown", "cancelled"})
"""States that a step does not leave."""
_BEGUN: Final = FINAL | {"running"}
_LONGEST: Final = 1e9
"""Seconds that a run is shown for at most."""
_GUESS: Final = 1.0
"""Seconds of a step of which nobody says how long it takes."""
_PUSHED: Final = 8
"""Cells that a bar may be drawn later than it was, to be right of what it needs."""
_INSIDE: Final = 7
"""Cells of a bar that a cut name still goes into; into fewer only a whole one."""
_WIDTHS: Final = (16, 12, 9, 7, 5, 3, 1)
"""Cells that each bar has at least, if its name takes so many: the first of these with which all fit."""
_FOR_NAMES: Final = 0.6
"""The part of all cells that names may take from straight time."""
_NEWTON: Final = 8
_NAMES: Final = (24, 14, 8, 4, 0)
"""Cells of a name beside its bar, as there is room."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A step on a device; times in seconds since the run began."""

    step: str
    device: str
    """Its id; empty: it has none yet."""
    state: str
    """As the step's row says, or `moved`: where a step was before."""
    start: float
    end: float
    planned: tuple[float, float] | None = None
    """As first predicted, on this device."""
    fraction: float = 0.0
    needs: tuple[int, ...] = ()
    """Numbers of the bars that come before."""
    reads: tuple[int, ...] = ()
    """Numbers of the bars on other devices whose results come here."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A run's bars, in the order of its plan (where a step was before it moved comes before it), and its devices."""

    bars: tuple[Bar, ...]
    lanes: tuple[str, ...]
    """The devices, the owner first, then as they are first used."""
    began: float
    """Wall time of its second 0."""
    span: float
    """Seconds that show all of it."""
    now: float | None
    """Seconds since it began, while it goes on."""
    numbers: dict[str, int]
    """Number of each step's bar."""

    def order(self) -> list[int]:
        """The steps' bars by time."""
        return sorted(self.numbers.values(), key=lambda i: (self.bars[i].start, i))


def live(row: Row) -> bool:
    """Whether a run goes on."""
    return row.get("state") in ("running", "cancelling") and number(row.get("ended")) is None


def scene(board: Board, run: str, now: float) -> Scene:
    """What a board knows of a run; `now` is wall time."""
    row = board.get("run", run)
    going = live(row)
    steps = step_rows(board, run)
    began = number(row.get("began"))
    if began is None:
        known = [at for _, step in steps for at in (number(step.get("began")), number(step.get("start"))) if at]
        began = min(known, default=now)
    second = _clip(now - began) if going else None
    bars: list[Bar] = []
    numbers: dict[str, int] = {}
    left = _left(board, run, began)
    for name, step in steps:
        bar = _bar(name, step, bars, numbers, began, second)
        before = _before(bar, step, left.get(name), began)
        if before is not None:
            bars.append(before)
            way = (len(bars) - 1,)
            bar = replace(bar, needs=bar.needs + way, reads=bar.reads + way, planned=None)
        numbers[name] = len(bars)
        bars.append(bar)
    ends = [at for bar in bars for at in (bar.end, *(bar.planned or ()))]
    span = _round_up(max([*ends, second or 0.0, 1e-3]))
    return Scene(tuple(bars), _lanes(bars, word(row.get("owner"))), began, span, second, numbers)


def step_rows(board: Board, run: str) -> list[tuple[str, Row]]:
    """The steps of a run that are known, by name, in the order of its plan."""
    there, order = board.rows["step"], board.get("run", run).get("steps")
    names = dict.fromkeys(name for name in order if isinstance(name, str)) if isinstance(order, list) else {}
    return [(name, there[f"{run}/{name}"]) for name in names if f"{run}/{name}" in there]


def names(value: object) -> list[str]:
    """The texts in a list from elsewhere."""
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _bar(name: str, row: Row, bars: list[Bar], numbers: dict[str, int], began: float, now: float | None) -> Bar:
    def at(value: object) -> float | None:
        if value is None:
            return None
        found = number(value)
        return None if found is None else _clip(found - began)

    state = word(row.get("state")) or "waiting"
    device = word(row.get("device"))
    first = row.get("planned")
    planned = None
    first_start = first_end = None
    if isinstance(first, list) and len(first) == 3:
        first_start, first_end = at(first[1]), at(first[2])
        if first_start is not None and first_end is not None and first[0] == device:
            planned = (first_start, max(first_start, first_end))
    told, reads = row.get("needs"), row.get("reads")
    needs = tuple([numbers[need] for need in names(told) if need in numbers])
    ready = max([bars[i].end for i in needs], default=0.0)
    start, end = at(row.get("start")), at(row.get("end"))
    if start is None or end is None:
        start, end = first_start, first_end
    if start is None or end is None:
        start, end = ready, ready + _GUESS
    length = max(0.0, end - start)
    really, stopped = at(row.get("began")), at(row.get("ended"))
    if state in _BEGUN or really is not None:
        start = really if really is not None else stopped if stopped is not None else start
        if stopped is not None:
            end = stopped
        elif state in FINAL:
            end = max(end, start) if really is not None else start
        else:
            end = max(end, now or 0.0)
    elif now is not None:
        start = max(start, ready, now)
        end = start + length
    sources = dict.fromkeys(names(reads if isinstance(reads, list) else told))
    return Bar(
        name, device, state, start, max(start, end), planned, min(1.0, max(0.0, number(row.get("fraction")) or 0.0)),
        needs, tuple([numbers[s] for s in sources if s in numbers and bars[numbers[s]].device != device]),
    )  # fmt: skip


def _left(board: Board, run: str, began: float) -> dict[str, tuple[str, float]]:
    """The device that each step that moved left last, and when."""
    left: dict[str, tuple[str, float]] = {}
    for row in sorted(board.rows["handoff"].values(), key=lambda r: number(r.get("began")) or 0.0):
        at = number(row.get("began"))
        if row.get("run") == run and at is not None:
            left[word(row.get("step"))] = (word(row.get("from")), _clip(at - began))
    return left


def _before(bar: Bar, row: Row, left: tuple[str, float] | None, began: float) -> Bar | None:
    """Where a step was before it moved."""
    first = row.get("planned")
    if not isinstance(first, list) or len(first) != 3:
        return None
    begin, end = number(first[1]), number(first[2])
    if begin is None or end is None:
        return None
    device, until = left or (word(first[0]), min(_clip(end - began), bar.start))
    if not device or not bar.device or device == bar.device:
        return None
    return Bar(bar.step, device, "moved", min(_clip(begin - began), until), until)


def _lanes(bars: list[Bar], owner: str) -> tuple[str, ...]:
    first: dict[str, tuple[float, int]] = {}
    for i, bar in enumerate(bars):
        at = bar.planned[0] if bar.planned else bar.start
        first[bar.device] = min(first.get(bar.device, (at, i)), (at, i))
    return tuple(sorted(first, key=lambda device: (device == "", device != owner, first[device])))


def _clip(seconds: float) -> float:
    return 0.0 if seconds < 0 else _LONGEST if seconds > _LONGEST else seconds


def _round_up(span: float) -> float:
    """A little more than `span`, so that the picture is not scaled anew every time a run takes longer."""
    step = 2.0 ** (ceil(log2(span)) - 4)
    return step * ceil(span / step + 1e-9)


# -- cells -------------------------------------------------------------------------------------------------------------


class Scale:
    """Which cell a moment lies in: as straight as it can be while short steps have cells for their names."""

    def __init__(self, times: Sequence[float], cells: Sequence[float]) -> None:
        self._times, self._cells = times, cells
        self._known = {at: int(cell + 1e-6) for at, cell in zip(times, cells, strict=True)}

    def __call__(self, seconds: float) -> int:
        """The cell of a moment within the run."""
        known = self._known.get(seconds)
        return int(_between(self._times, self._cells, seconds) + 1e-6) if known is None else known

    def seconds(self, cell: float) -> float:
        """The moment at the left edge of a cell."""
        return _between(self._cells, self._times, cell)


def _between(places: Sequence[float], values: Sequence[float], place: float) -> float:
    i = max(1, min(len(places) - 1, bisect_right(places, place)))
    width = places[i] - places[i - 1]
    return values[i - 1] + (values[i] - values[i - 1]) * ((place - places[i - 1]) / width if width > 0 else 1.0)


def scale(scene: Scene, room: float) -> Scale:
    """A scene's seconds on `room` cells."""
    moments = {0.0, scene.span, *(bar.start for bar in scene.bars), *(bar.end for bar in scene.bars)}
    times = sorted(moments)
    number_of = {at: i for i, at in enumerate(times)}
    ends: list[list[tuple[int, int, int]]] = [[] for _ in times]
    for bar in scene.bars:
        if bar.end > bar.start:
            ends[number_of[bar.end]].append((number_of[bar.start], cell_len(bar.step) + 2, 1 if bar.reads else 0))
    for most in _WIDTHS:
        cells, slope = _stretch(times, ends, 0.0, most)
        if cells[-1] <= room * _FOR_NAMES:
            break
    rate = room / scene.span
    cells, slope = _stretch(times, ends, rate, most)
    for _ in range(_NEWTON):  # the width is convex in the rate: from above, each step comes nearer and none too far
        if cells[-1] <= room + 0.5 or slope <= 0:
            break
        rate = max(0.0, rate - (cells[-1] - room) / slope)
        cells, slope = _stretch(times, ends, rate, most)
    return Scale(times, cells)


def _stretch(
    times: Sequence[float], ends: Sequence[Sequence[tuple[int, int, int]]], rate: float, most: int
) -> tuple[list[float], float]:
    """The cell of each moment at `rate` cells a second, where each bar has at least the cells for `most` of its name;
    and by how much the last one moves with the rate."""
    cells, slopes = [0.0], [0.0]
    for i in range(1, len(times)):
        length = times[i] - times[i - 1]
        at, slope = cells[-1] + length * rate, slopes[-1] + length
        for begin, wanted, lead in ends[i]:
            least = cells[begin] + lead + (wanted if wanted < most else most)
            if least > at:
                at, slope = least, slopes[begin]
        cells.append(at)
        slopes.append(slope)
    return cells, slopes[-1]


# -- rows --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Box:
    """A bar in cells: `left` to `right` is its time, `until` the end of the name beside it."""

    bar: int
    row: int
    left: int
    right: int
    until: int
    inside: bool
    """Whether its name is in it."""
    lead: int
    """1 if its first cell is for the arrow of what comes from other devices."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Every bar of a scene in its row."""

    boxes: tuple[Box, ...]
    """In the order of the scene's bars."""
    tops: dict[str, int]
    """First row of each device."""
    rows: int


@dataclass(frozen=True, slots=True)
class _Shape:
    """A bar without a row: `names` is how many cells its name takes beside it, all of it."""

    left: int
    right: int
    lead: int
    names: int


def lay_out(scene: Scene, cell: Scale, height: int) -> Layout:
    """Put every bar into a row; names beside bars are as long as `height` rows allow.

    Names are worth scrolling: they may take twice as many.
    """
    shapes = _shapes(scene, cell)
    beside, margin = 0, 0
    rows, tops, count = _pack(scene, shapes, beside, margin)
    most = max(height, 2 * count)
    for wanted in _NAMES:
        found = _pack(scene, shapes, wanted, 1)
        if found[2] <= most:
            (rows, tops, count), beside = found, wanted
            break
    apart = count + len(scene.lanes) <= height  # then an empty row below each device
    number_of = {device: i if apart else 0 for i, device in enumerate(scene.lanes)}
    boxes = tuple(
        Box(i, rows[i] + number_of[scene.bars[i].device], s.left, s.right, s.right + min(s.names, beside),
            s.names == 0, s.lead) for i, s in enumerate(shapes)
    )  # fmt: skip
    tops = {device: top + number_of[device] for device, top in tops.items()}
    return Layout(boxes, tops, count + (len(scene.lanes) - 1 if apart else 0))


def _shapes(scene: Scene, cell: Scale) -> list[_Shape]:
    shapes: list[_Shape] = []
    read = {source for bar in scene.bars for source in bar.reads}
    for i, bar in enumerate(scene.bars):
        true, lead = cell(bar.start), 1 if bar.reads else 0
        needed = max([shapes[n].right for n in bar.needs if scene.bars[n].end <= bar.start], default=0)
        left = max(true, min(needed, true + _PUSHED))
        right = max(left + 1 + lead + (i in read), cell(bar.end))
        name = cell_len(bar.step)
        inside = right - left >= min(name + 2, _INSIDE) + lead
        shapes.append(_Shape(left, right, lead, 0 if inside else name))
    return shapes


def _pack(scene: Scene, shapes: list[_Shape], beside: int, margin: int) -> tuple[list[int], dict[str, int], int]:
    """First fit by start: each bar into the first row of its device that is free there; the rows, each device's first
    one, and how many there are."""
    by_lane: dict[str, list[tuple[int, int]]] = {device: [] for device in scene.lanes}
    for i, shape in enumerate(shapes):
        by_lane[scene.bars[i].device].append((shape.left - margin * shape.lead, i))
    rows, tops, top = [0] * len(shapes), {}, 0
    for device, bars in by_lane.items():
        tops[device] = top
        taken: list[tuple[int, int]] = []
        free: list[int] = []
        count = 0
        for left, i in sorted(bars):
            while taken and taken[0][0] <= left:
                heappush(free, heappop(taken)[1])
            if free:
                row = heappop(free)
            else:
                row, count = count, count + 1
            rows[i] = top + row
            name = min(shapes[i].names, beside)
            heappush(taken, (shapes[i].right + name + (name > 0), row))
        top += max(1, count)
    return rows, tops, top
