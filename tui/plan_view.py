"""A run as a picture: a lane per device, steps as boxes in time, results as lines that jump from lane to lane."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log10
from typing import Final

from rich.cells import cell_len

from .board import Board, number, word
from .lanes import ENDED, FUTURE, Box, Scale, Span, boxes_of, lay, span_of, straight, stretched
from .text import Line, duration, fit
from .text import Span as Piece

GLYPHS: Final = {
    "done": ("✓", "good"), "submitted": ("✓", "good"), "skipped": ("–", "dim"), "failed": ("✗", "bad"),
    "denied": ("✗", "bad"), "unknown": ("✗", "bad"), "cancelled": ("✗", "bad"), "running": ("▶", "busy"),
    "asking": ("?", "warn"), "armed": ("…", ""), "waiting": ("…", "dim"),
}  # fmt: skip
"""The sign and the style of a step's state."""
MOVED: Final = "⇄"
CROWD: Final = 24
"""Lines between lanes that are drawn at once; of more, only those of the chosen step, unless all are asked for."""
_STEPS: Final = (1.0, 2.0, 5.0)
_MINUTES: Final = (60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0, 604_800.0)


@dataclass(slots=True)
class PlanState:
    """How a person looks at a plan."""

    run: str | None = None
    cursor: str | None = None
    """The chosen step."""
    zoom: float = 0.0
    """Cells a second; 0: as fits the whole plan."""
    origin: float = 0.0
    """Seconds after the run's beginning at the left edge, while zoomed."""
    follow: bool = True
    """Whether the present stays in sight, while zoomed."""
    all_edges: bool = False
    top: int = 0
    """The first line of lanes that is shown."""
    rate: float = 1.0
    seconds: float = 1.0
    """As drawn last: cells a second, and how many seconds are in sight."""


def plan_lines(board: Board, state: PlanState, width: int, height: int, now: float) -> list[Line]:
    """The plan of `state.run` as it is at the moment `now`: at most `height` lines of at most `width` cells."""
    run = state.run or ""
    boxes, without = boxes_of(board, run, now)
    span = span_of(board, run, boxes)
    names = [board.name_of(device) for device in dict.fromkeys(box.device for box in boxes)]
    label = min(max((cell_len(name) for name in names), default=6) + 1, max(6, width // 5))
    room = max(1, width - label - 1)
    cell = _look(state, boxes, span, room, now, word(board.get("run", run).get("state")) in ("running", "cancelling"))
    owner = word(board.get("run", run).get("owner"))
    placed, devices, firsts = lay(boxes, owner, cell)
    if state.cursor is None or all(box.step != state.cursor for box in placed):
        running = (box.step for box in boxes if box.row.get("state") == "running")
        state.cursor = next(running, boxes[0].step if boxes else None)
    grid = _Grid(len(devices), room)
    for box in placed:
        _draw(grid, box, box.step == state.cursor, floor(cell(now)))
    hidden = _edges(grid, placed, state)
    for box in placed:
        _ghost(grid, box, cell)
    lines = [_title(board, run, boxes, without, span, now), _axis(label, room, span, cell, now)]
    lines += _window(grid, devices, firsts, board, state, placed, label, height - len(lines) - bool(hidden or without))
    if without:
        lines.append(((fit(f" not placed yet: {', '.join(without)}", width), "dim"),))
    elif hidden:
        lines.append(((fit(f" {hidden} more results go from lane to lane; e draws all", width), "dim"),))
    return lines[:height]


def plan_key(board: Board, state: PlanState, key: str) -> PlanState:
    """What a key does to how a plan is looked at."""
    boxes, _ = boxes_of(board, state.run or "", board.time)
    steps = [box.step for box in boxes]
    at = steps.index(state.cursor) if state.cursor in steps else 0
    span = span_of(board, state.run or "", boxes)
    match key:
        case "j" | "down" | "k" | "up" if steps:
            return replace(state, cursor=steps[max(0, min(len(steps) - 1, at + (1 if key in ("j", "down") else -1)))])
        case "g" | "home" if steps:
            return replace(state, cursor=steps[0])
        case "G" | "end" if steps:
            return replace(state, cursor=steps[-1])
        case "n" | "p" if steps:
            lanes = list(dict.fromkeys(box.device for box in boxes))
            lane = lanes.index(boxes[at].device) + (1 if key == "n" else -1)
            wanted = lanes[lane % len(lanes)]
            nearest = min((b for b in boxes if b.device == wanted), key=lambda b: abs(b.begin - boxes[at].begin))
            return replace(state, cursor=nearest.step)
        case "+" | "=" | "-":
            rate = state.rate * (1.5 if key != "-" else 1 / 1.5)
            middle = (boxes[at].begin - span.begin) if boxes else 0.0
            width = state.rate * state.seconds
            origin = max(0.0, middle - width / rate / 2)
            return replace(state, zoom=max(1e-4, min(1e4, rate)), origin=origin, follow=False)
        case "h" | "left" | "l" | "right":
            by = state.seconds / 4 * (1 if key in ("l", "right") else -1)
            origin = state.origin if state.zoom else 0.0
            return replace(state, zoom=state.rate, origin=max(-state.seconds / 2, origin + by), follow=False)
        case "f":
            return replace(state, zoom=0.0, origin=0.0, follow=True)
        case "e":
            return replace(state, all_edges=not state.all_edges)
    return state


def _look(state: PlanState, boxes: Sequence[Box], span: Span, room: int, now: float, live: bool) -> Scale:
    """Where moments lie; and note it, for the next key."""
    if state.zoom <= 0:
        state.rate, state.seconds = room / (span.seconds * 1.02), span.seconds * 1.02
        return stretched(boxes, span, room)
    state.rate, state.seconds = state.zoom, room / state.zoom
    if state.follow and live:
        state.origin = max(0.0, now - span.begin - state.seconds * 0.7)
    return straight(span.begin + state.origin, state.rate)


# -- drawing -----------------------------------------------------------------------------------------------------------


class _Grid:
    """Cells of a picture; what is drawn first stays."""

    def __init__(self, lines: int, width: int) -> None:
        self.width = width
        self.cells = [[" "] * width for _ in range(lines)]
        self.styles = [[""] * width for _ in range(lines)]

    def free(self, line: int, x: int) -> bool:
        return 0 <= line < len(self.cells) and 0 <= x < self.width and self.cells[line][x] == " "

    def put(self, line: int, x: int, char: str, style: str) -> None:
        if 0 <= x < self.width and 0 <= line < len(self.cells):
            self.cells[line][x], self.styles[line][x] = char, style

    def write(self, line: int, x: int, text: str, until: int, style: str) -> int:
        """Write a text, cell by cell, before the cell `until`; where it ends."""
        for char in text:
            wide = cell_len(char)
            if wide == 0:
                continue
            if x + wide > until:
                break
            if x >= 0 and x + wide <= self.width:
                self.put(line, x, char, style)
                if wide == 2:
                    self.put(line, x + 1, "", style)
            x += wide
        return x

    def line(self, number: int) -> Line:
        """A line as pieces of one style."""
        pieces: list[Piece] = []
        text, style = "", None
        for char, named in zip(self.cells[number], self.styles[number], strict=True):
            if named != style and text:
                pieces.append((text, style or ""))
                text = ""
            style = named
            text += char
        return (*pieces, (text, style or ""))


def _draw(grid: _Grid, box: Box, chosen: bool, present: int) -> None:
    state = word(box.row.get("state"))
    glyph, style = GLYPHS.get(state, ("·", ""))
    planned = box.row.get("planned")
    if isinstance(planned, list) and planned and planned[0] != box.device and state not in ENDED:
        glyph = MOVED
    if chosen:
        style = "cursor"
    left = max(box.left, -1)
    x = grid.write(box.line, box.left, glyph, box.right, style)
    inner = box.right - 1 if box.right - box.left > 2 else box.right
    x = grid.write(box.line, x, box.step, inner, style)
    for at in range(max(x, left, 0), min(box.right, grid.width)):
        last = at == box.right - 1
        if state in ENDED:
            fill = "┤" if last else "─"
        elif state in ("running", "asking"):
            fill = "▷" if last else "▒" if at < present else "·"
        else:
            fill = "┆" if last else "·"
        grid.put(box.line, at, fill, style)


def _ghost(grid: _Grid, box: Box, cell: Scale) -> None:
    """Where a step was first thought to end, if that is some cells away."""
    planned = box.row.get("planned")
    if not isinstance(planned, list) or len(planned) != 3 or planned[0] != box.device:
        return
    end = number(planned[2])
    if end is None or abs(end - box.end) > FUTURE:
        return
    x = floor(cell(end)) - 1
    if abs(x - (box.right - 1)) >= 2 and grid.free(box.line, x):
        grid.put(box.line, x, "╎", "dim")


def _edges(grid: _Grid, placed: Sequence[Box], state: PlanState) -> int:
    """Draw the results that go to another device; how many were left out."""
    by_step = {box.step: box for box in placed}
    jumps = [
        (by_step[need], box)
        for box in placed for need in _list(box.row.get("needs"))
        if need in by_step and by_step[need].device != box.device
    ]  # fmt: skip
    mine = [jump for jump in jumps if state.cursor in (jump[0].step, jump[1].step)]
    others = [jump for jump in jumps if jump not in mine] if state.all_edges or len(jumps) <= CROWD else []
    for jump in mine:
        _edge(grid, *jump, "accent")
    for jump in others:
        _edge(grid, *jump, "dim")
    return len(jumps) - len(mine) - len(others)


def _edge(grid: _Grid, source: Box, target: Box, style: str) -> None:
    """From the end of one box to the beginning of another: down or up in one column, then on; never over a box."""
    down = target.line > source.line
    column = max(0, min(source.right, target.left - 1))
    if column >= grid.width or target.left < 0:
        return
    if column >= source.right and grid.free(source.line, column):
        grid.put(source.line, column, "╮" if down else "╯", style)
    for line in range(source.line + (1 if down else -1), target.line, 1 if down else -1):
        if grid.free(line, column):
            grid.put(line, column, "┊", style)
        elif grid.cells[line][column] == "─" and grid.styles[line][column] in ("dim", "accent"):
            grid.put(line, column, "┼", style)
    for x in range(column, target.left - 1):
        if grid.free(target.line, x):
            grid.put(target.line, x, ("╰" if down else "╭") if x == column else "─", style)
    if grid.free(target.line, target.left - 1):
        grid.put(target.line, target.left - 1, "➤", style)


def _list(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _window(
    grid: _Grid, devices: Sequence[str], firsts: Sequence[int], board: Board, state: PlanState,
    placed: Sequence[Box], label: int, height: int,
) -> Iterator[Line]:  # fmt: skip
    """The lines of lanes that fit, the chosen step's among them."""
    height = max(1, height)
    chosen = next((box.line for box in placed if box.step == state.cursor), 0)
    state.top = max(0, min(max(min(state.top, chosen), chosen - height + 1), len(devices) - height))
    heads = set(firsts)
    for number_ in range(state.top, min(len(devices), state.top + height)):
        name = board.name_of(devices[number_]) if number_ in heads or number_ == state.top else ""
        yield ((fit(name, label), "title"), ("│", "dim"), *grid.line(number_))


def _title(board: Board, run: str, boxes: Sequence[Box], without: Sequence[str], span: Span, now: float) -> Line:
    row = board.get("run", run)
    state = word(row.get("state")) or "planned"
    began, ended, makespan = number(row.get("began")), number(row.get("ended")), number(row.get("makespan"))
    over = sum(word(box.row.get("state")) in ENDED for box in boxes)
    glyph, style = GLYPHS.get(state, ("·", "accent"))
    took = "" if began is None else duration((now if ended is None else ended) - began)
    thought = f"{took} of about {duration(span.seconds)}" if state == "running" else took or duration(makespan)
    energy = number(row.get("joules"))
    more = "" if energy is None else f"  {energy:.3g} J"
    return (
        (f" {glyph} {state}", style), (f"  {over}/{len(boxes) + len(without)} steps  {thought}{more}", ""),
        (f"  {word(row.get('goal')) or run}", "title"), (f"  {run}", "dim"),
    )  # fmt: skip


def _axis(label: int, room: int, span: Span, cell: Scale, now: float) -> Line:
    """Seconds after the beginning, at round numbers; ▼ is now."""
    cells = [" "] * room
    present = floor(cell(now)) if abs(now - span.begin) < FUTURE else -1
    free = 0
    for seconds in _ticks(span, cell, room):
        x = floor(cell(span.begin + seconds) + 1e-6)
        text = duration(seconds).replace(".0s", "s") if seconds else "0s"
        if x >= free and x + len(text) <= room and not x <= present < x + len(text):
            cells[x : x + len(text)] = list(text)
            free = x + len(text) + 3
    if 0 <= present < room:
        return ((" " * (label + 1) + "".join(cells[:present]), "dim"), ("▼", "accent"),
                ("".join(cells[present + 1 :]), "dim"))  # fmt: skip
    return ((" " * (label + 1) + "".join(cells), "dim"),)


def _ticks(span: Span, cell: Scale, room: int) -> list[float]:
    """Round numbers of seconds that are worth a mark: coarse ones first win a place, so finer ones fill the gaps."""
    first = max(0.0, -cell(span.begin)) / max(cell.rate, 1e-9) if cell.rate else 0.0
    seconds = max(room / max(cell.rate, 1e-9), span.seconds) if cell.rate else span.seconds
    found: dict[float, None] = {}
    apart = _round(seconds / 8)
    for step in (apart, apart / 2, apart / 10):
        for i in range(floor(first / step), floor(first / step) + 100):
            found.setdefault(round(i * step, 6), None)
    taken: list[tuple[int, float]] = []
    for at in found:
        x = floor(cell(span.begin + at) + 1e-6)
        if 0 <= x < room and all(abs(x - other) >= 9 for other, _ in taken):
            taken.append((x, at))
    return [at for _, at in sorted(taken)]


def _round(seconds: float) -> float:
    """A round number of seconds, at least that many."""
    if seconds > 50:
        return next((step for step in _MINUTES if step >= seconds), _MINUTES[-1] * ceil(seconds / _MINUTES[-1]))
    power = 10.0 ** floor(log10(max(seconds, 1e-6)))
    return next((power * step for step in _STEPS if power * step >= seconds), power * 10)
