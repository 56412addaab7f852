"""A run as people see it: a lane for each device, a bar for each step, ways where a result goes to another device.

Drawn from a board and a small state alone, before the run begins (as predicted), while it goes on, and after it. Signs
beside those of `words.GLYPHS`: `━` so far, `▒` still to come, dotted: waits, `⇄` was there before it moved, `¦` planned
at first to begin or to end there (of the chosen step: `░`), `┃` now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, floor
from typing import Final

from rich.cells import cell_len, set_cell_size

from .board import Board, number, word
from .lanes import FINAL, Bar, Box, Layout, Scale, Scene, lay_out, names, scale, scene, step_rows
from .sheet import BLANK, END, FILL, LEAD, TEXT, Sheet
from .text import Line, Span, duration, fit, width_of
from .words import GLYPHS, RUN_GLYPHS, about_step, joules, joules_of

_ZOOM: Final = 1.5
_CLOSEST: Final = 4096.0
_CROWDED: Final = 3
"""Columns for each way; with fewer, only those of the chosen step are drawn."""
_APART: Final = 10
"""Cells between times on the axis, at least."""
_STEPS: Final = (
    *(86_400.0 * 10**e for e in range(4, -1, -1)), 21_600.0, 7200.0, 3600.0, 1800.0, 600.0, 300.0, 120.0, 60.0, 30.0,
    *(x * 10.0**-e for e in range(-1, 7) for x in (1, 0.5, 0.25, 0.2)),
)  # fmt: skip
"""Seconds between round times."""
_TRIED: Final = 100


@dataclass(slots=True)
class PlanState:
    """What a person chose to see of a run."""

    run: str | None = None
    cursor: str | None = None
    """The chosen step; drawing chooses one where there is none."""
    zoom: float = 1.0
    """How many times closer than the whole run."""
    origin: float = 0.0
    """The part of the picture that lies left of the screen; counts while nothing is followed."""
    follow: bool = True
    """Whether now stays in sight."""
    all_edges: bool = False
    """Whether ways are drawn also where they are crowded."""
    room: int = 66
    """Cells beside the devices' names, as drawn last: keys mean those."""


def plan_lines(board: Board, state: PlanState, width: int, height: int, now: float) -> list[Line]:
    """A run in at most `height` lines of at most `width` cells each; `now` is wall time."""
    run = state.run or ""
    if width <= 0 or height <= 0:
        return []
    if not board.get("run", run):
        return [((fit(" There is no such run.", width), "dim"),)]
    seen = scene(board, run, now)
    lines = [_head(board, run, seen, width)]
    if not seen.bars:
        return [*lines, ((fit(" None of its steps is known.", width), "dim"),)][:height]
    if state.cursor not in seen.numbers:
        state.cursor = _along(seen, state, 0)
    if width < 24 or height < 4:
        return lines
    foot = 3 if height >= 14 else 1 if height >= 7 else 0
    picture, hidden = _picture(board, state, seen, width, height - 1 - foot)
    lines += picture
    if foot:
        lines += [()] * (height - foot - len(lines))
        lines += _with_note(_foot(board, run, state), foot, hidden, width)
    return lines


def plan_key(board: Board, state: PlanState, key: str) -> PlanState:
    """What is to be seen after a key.

    `j` `k` `n` `p` choose a step (by time; on the next device), `g` `G` the first and the last, `h` `l` go in time,
    `+` `-` zoom, `f` shows all of it, `F` follows what runs, `e` shows all ways or not.
    """
    if state.run is None or not board.get("run", state.run):
        return state
    seen = scene(board, state.run, board.time)
    by = {"j": 1, "down": 1, "k": -1, "up": -1, "pagedown": 10, "pageup": -10, "ctrl+f": 10, "ctrl+b": -10}
    match key:
        case "+" | "=" | "plus" | "-" | "_" | "minus":
            return _zoomed(seen, state, _ZOOM if key in ("+", "=", "plus") else 1 / _ZOOM)
        case "h" | "left" | "l" | "right":
            quarter = state.room // 4 if key in ("l", "right") else -(state.room // 4)
            return _at_left(state, _left(seen, state, _scale(seen, state)) + quarter)
        case "f":
            return replace(state, zoom=1.0, origin=0.0, follow=True)
        case "F":
            return replace(state, follow=True)
        case "e":
            return replace(state, all_edges=not state.all_edges)
        case "n" | "p":
            return _on_screen(seen, state, _beside(seen, state, 1 if key == "n" else -1))
        case "g" | "home" | "G" | "end" | "shift+g":
            return _on_screen(seen, state, _along(seen, state, -(1 << 30) if key in ("g", "home") else 1 << 30))
        case _ if key in by:
            return _on_screen(seen, state, _along(seen, state, by[key]))
    return state


# -- what a key does ---------------------------------------------------------------------------------------------------


def _scale(seen: Scene, state: PlanState) -> Scale:
    return scale(seen, _whole(state))


def _whole(state: PlanState) -> float:
    """Cells of the whole run; beside them there is room for the names of short bars at its end."""
    return max(1, state.room - min(14, state.room // 8)) * state.zoom


def _left(seen: Scene, state: PlanState, cell: Scale) -> int:
    """The cell at the left edge."""
    if state.follow and seen.now is not None:
        return _inside(state, cell(seen.now) - state.room * 0.6)
    return _inside(state, state.origin * _whole(state))


def _inside(state: PlanState, left: float) -> int:
    return int(max(0.0, min(left, _whole(state) - _whole(state) / state.zoom)) + 0.5)


def _at_left(state: PlanState, left: float) -> PlanState:
    return replace(state, origin=_inside(state, left) / _whole(state), follow=False)


def _zoomed(seen: Scene, state: PlanState, factor: float) -> PlanState:
    """Closer or further, around the chosen step, else around what runs, else around the middle."""
    zoom = max(1.0, min(_CLOSEST, state.zoom * factor))
    after = replace(state, zoom=1.0 if zoom < 1.01 else zoom)
    before = _scale(seen, state)
    left = _left(seen, state, before)
    if state.cursor in seen.numbers:
        centre = seen.bars[seen.numbers[state.cursor]].start
    elif seen.now is not None:
        return after if state.follow else _at_left(after, _scale(seen, after)(seen.now) - (before(seen.now) - left))
    else:
        centre = before.seconds(left + state.room / 2)
    moved = _at_left(after, _scale(seen, after)(centre) - (before(centre) - left))
    return moved if moved.zoom > 1.0 else replace(moved, follow=state.follow)


def _along(seen: Scene, state: PlanState, by: int) -> str | None:
    """The step that is `by` later; without a chosen one, the first that runs, failed or asks, else the first."""
    order = seen.order()
    if not order:
        return None
    if state.cursor not in seen.numbers and abs(by) < 1 << 30:
        states = [seen.bars[i].state for i in order]
        telling = (at for state in ("running", "failed", "asking") for at, there in enumerate(states) if there == state)
        return seen.bars[order[next(telling, 0)]].step
    at = order.index(seen.numbers[state.cursor]) if state.cursor in seen.numbers else 0
    return seen.bars[order[max(0, min(len(order) - 1, at + by))]].step


def _beside(seen: Scene, state: PlanState, by: int) -> str | None:
    """The step on the next device whose start is nearest."""
    if state.cursor not in seen.numbers:
        return _along(seen, state, 1)
    here = seen.bars[seen.numbers[state.cursor]]
    devices = [d for d in seen.lanes if any(seen.bars[i].device == d for i in seen.numbers.values())]
    lane = devices[(devices.index(here.device) + by) % len(devices)]
    there = [i for i in seen.numbers.values() if seen.bars[i].device == lane]
    return seen.bars[min(there, key=lambda i: (abs(seen.bars[i].start - here.start), i))].step


def _on_screen(seen: Scene, state: PlanState, step: str | None) -> PlanState:
    """That step chosen, and in sight."""
    after = replace(state, cursor=step)
    if step is None or step not in seen.numbers:
        return after
    cell = _scale(seen, state)
    left, start = _left(seen, state, cell), cell(seen.bars[seen.numbers[step]].start)
    return after if left <= start <= left + state.room * 0.9 else _at_left(after, start - state.room / 4)


# -- the picture -------------------------------------------------------------------------------------------------------


def _picture(board: Board, state: PlanState, seen: Scene, width: int, height: int) -> tuple[list[Line], str]:
    """The axis and the lanes, and what is not drawn, in words."""
    called = {device: board.name_of(device) if device else "(no device)" for device in seen.lanes}
    margin = min(max([8, *map(cell_len, called.values())]), 12 if width < 100 else 20)
    state.room = room = width - margin - 1
    cell = _scale(seen, state)
    rows = height - 1
    layout = lay_out(seen, cell, rows)
    chosen = seen.numbers.get(state.cursor or "", -1)
    row = layout.boxes[chosen].row if chosen >= 0 else 0
    top = max(0, min(row - rows // 2, layout.rows - rows))
    sheet = Sheet(room, min(rows, layout.rows), top, _left(seen, state, cell))
    hidden = _draw(sheet, seen, layout, cell, chosen, state.all_edges)
    lines = [_axis(seen, sheet, cell, margin, top, layout.rows - top - sheet.height)]
    at = {layout.tops[device]: called[device] for device in seen.lanes}
    here = seen.bars[chosen].device if chosen >= 0 else None
    for y, line in enumerate(sheet.lines()):
        name = at.get(top + y, "")
        if y == 0 and not name:
            name = called[max((d for d in seen.lanes if layout.tops[d] <= top), key=layout.tops.__getitem__)]
        mine = here is not None and name == called[here]
        lines.append(((fit(name, margin), "title" if mine else ""), ("│", "dim"), *line))
    return lines, hidden


def _draw(sheet: Sheet, seen: Scene, layout: Layout, cell: Scale, chosen: int, all_edges: bool) -> str:
    """Bars, ways, and now; what is not drawn, in words."""
    now = None if seen.now is None else cell(seen.now)
    ways = _ways(sheet, seen, layout)
    crowded = not all_edges and len(ways) * _CROWDED > sheet.width
    drawn = [way for way in ways if chosen in way] if crowded else ways
    goals = {to for _, to in drawn}
    shown = [box for box in layout.boxes if sheet.shows(box.row, box.left, box.until)]
    for box in shown:
        _draw_box(sheet, seen.bars[box.bar], box, box.lead if box.bar in goals else 0, box.bar == chosen, now)
    reached = _draw_ways(sheet, layout, drawn, chosen)
    hidden = len(ways) - len(reached)
    without = goals - {to for _, to in reached}
    for box in shown:
        if box.bar in without:
            _draw_box(sheet, seen.bars[box.bar], box, 0, box.bar == chosen, now)
    for box in layout.boxes:
        _draw_planned(sheet, seen.bars[box.bar], box, cell, box.bar == chosen)
    if now is not None:
        for y in range(sheet.height):
            sheet.over(sheet.top + y, now, now + 1, "┃", "accent", BLANK)
    return f"{hidden} way{'' if hidden == 1 else 's'} not drawn{'; e draws them' if crowded else ''}" if hidden else ""


def _draw_box(sheet: Sheet, bar: Bar, box: Box, lead: int, chosen: bool, now: int | None) -> None:
    """A bar with its name, `lead` cells after its left end."""
    glyph, style = GLYPHS.get(bar.state, ("…", "dim"))
    running = bar.state == "running"
    marked, plain, faint = ("cursor", "cursor", "cursor") if chosen else (style, "", "dim")
    begin = box.left + lead
    if running:
        until = box.right if now is None else max(begin, min(now, box.right))
        sheet.fill(box.row, begin, until, "━", marked, FILL)
        sheet.fill(box.row, until, box.right, "▒", marked, FILL)
    else:
        solid = bar.state in FINAL or bar.state == "moved"
        sheet.fill(box.row, begin, box.right, "─" if solid else "·", faint, FILL)
    sheet.fill(box.row, box.left, begin, " ", "", LEAD)
    ended = box.right - begin > 1
    if ended:
        sheet.fill(box.row, box.right - 1, box.right, "▷" if running else "┤", marked if running else faint, END)
    begin = max(begin, sheet.left)
    room = box.right - ended - begin
    if room > 0:
        label = f"{glyph}{bar.step}" if box.inside else glyph
        if box.inside and running and bar.fraction > 0:
            label += f" {bar.fraction * 100:.0f}%"
        label = label if cell_len(label) <= room else set_cell_size(label, room)
        sheet.put(box.row, begin, label[:1], marked, TEXT)
        sheet.put(box.row, begin + 1, label[1:], plain, TEXT)
    if box.until > box.right:
        sheet.put(box.row, box.right, fit(bar.step, box.until - box.right), plain, TEXT)


def _ways(sheet: Sheet, seen: Scene, layout: Layout) -> list[tuple[int, int]]:
    """The ways of which something can be in the window."""
    found = []
    for to, bar in enumerate(seen.bars):
        goal = layout.boxes[to]
        for source in bar.reads:
            box = layout.boxes[source]
            low, high = sorted((box.row, goal.row))
            if (
                low < sheet.top + sheet.height
                and high >= sheet.top
                and (box.right <= sheet.left + sheet.width and goal.left >= sheet.left)
            ):
                found.append((source, to))
    return found


def _draw_ways(sheet: Sheet, layout: Layout, ways: list[tuple[int, int]], chosen: int) -> list[tuple[int, int]]:
    """Ways, the chosen step's first; those that there was room for."""

    def rank(way: tuple[int, int]) -> tuple[bool, int, int]:
        box, goal = layout.boxes[way[0]], layout.boxes[way[1]]
        return chosen not in way, goal.left, abs(goal.row - box.row)

    found = []
    for way in sorted(ways, key=rank):
        box, goal = layout.boxes[way[0]], layout.boxes[way[1]]
        style = "accent" if chosen in way else "dim"
        if sheet.way((box.row, box.right, box.until), (goal.row, goal.left), way, style):
            found.append(way)
    return found


def _draw_planned(sheet: Sheet, bar: Bar, box: Box, cell: Scale, chosen: bool) -> None:
    """Where it was to be at first, as far as that can be seen: `░` beside the chosen bar, `¦` where others were to
    begin and to end."""
    if bar.planned is None:
        return
    begin, end = map(cell, bar.planned)
    if begin < cell(bar.start):
        sheet.over(box.row, begin, box.left if chosen else begin + 1, "░" if chosen else "¦", "dim", BLANK)
    if end > cell(bar.end):
        sheet.over(box.row, box.until if chosen else end - 1, end, "░" if chosen else "¦", "dim", BLANK)
    elif end < cell(bar.end):
        sheet.over(box.row, end, min(end + 1, box.right - 1), "¦", "dim", FILL)


def _axis(seen: Scene, sheet: Sheet, cell: Scale, margin: int, above: int, below: int) -> Line:
    """Seconds since the run began, where there is room for them."""
    cells = [" "] * sheet.width
    here = -1 if seen.now is None else cell(seen.now) - sheet.left
    for seconds in _ticks(cell, sheet.left, sheet.left + sheet.width):
        x, label = cell(seconds) - sheet.left, _time(seconds)
        if x >= 0 and x + len(label) <= sheet.width and not x <= here <= x + len(label):
            cells[x : x + len(label)] = label
    more = f"{f'↑{above}' if above > 0 else ''}{f'↓{below}' if below > 0 else ''}"
    text = "".join(cells)
    if not 0 <= here < sheet.width:
        return ((fit(more, margin + 1), "accent"), (text, "dim"))
    return ((fit(more, margin + 1), "accent"), (text[:here], "dim"), ("▼", "accent"), (text[here + 1 :], "dim"))


def _ticks(cell: Scale, left: int, right: int) -> list[float]:
    """Round times between two cells, as evenly as time lets them."""
    first, last = cell.seconds(left), cell.seconds(right)
    return [at for _, at in _split(cell, (left - _APART, first - 1e-9), (right + _APART, last + 1e-9))]


def _split(cell: Scale, begin: tuple[int, float], end: tuple[int, float]) -> list[tuple[int, float]]:
    """The cells and times of ticks between two: the finest even ones, else the roundest one, and those between them."""
    (left, first), (right, last) = begin, end
    found: list[tuple[int, float]] = []
    one: list[tuple[int, float]] = []
    for step in _STEPS if right - left >= 3 * _APART else ():
        if (last - first) / step > _TRIED:
            break
        times = [round(n * step, 9) for n in range(floor(first / step) + 1, ceil(last / step))]
        places = [cell(at) for at in times]
        if times and all(b - a >= _APART for a, b in pairwise([left, *places, right])):
            found = list(zip(places, times, strict=True))
        one = one or [(x, at) for x, at in zip(places, times, strict=True) if left + _APART <= x <= right - _APART][:1]
    found = found or one
    if not found:
        return []
    ends = [begin, *found, end]
    return [tick for a, b in pairwise(ends) for tick in ([] if a is begin else [a]) + _split(cell, a, b)]


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds * 1000:.6g}ms" if 0 < seconds < 0.0995 else f"{seconds:.6g}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return "".join((f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{rest}s" if rest else ""))


# -- around it ---------------------------------------------------------------------------------------------------------


def _head(board: Board, run: str, seen: Scene, width: int) -> Line:
    """The goal, how the run is, how long it takes and was thought to, how many steps are done, and what it takes."""
    row = board.get("run", run)
    state = word(row.get("state")) or "running"
    glyph, style = RUN_GLYPHS.get(state, ("?", "dim"))
    steps = [seen.bars[i] for i in seen.numbers.values()]
    predicted = max((bar.end for bar in steps), default=None)
    planned = max((bar.planned[1] for bar in steps if bar.planned), default=None)
    ended = number(row.get("ended"))
    if state == "planned":
        took = f"about {duration(predicted)}"
    elif seen.now is not None:
        took = f"{duration(seen.now)} of about {duration(predicted)}"
    else:
        took = duration(None if ended is None else max(0.0, ended - seen.began))
        took += "" if planned is None else f" (planned {duration(planned)})"
    done = sum(bar.state in ("done", "submitted", "skipped") for bar in steps)
    energy = joules_of(board, run)
    tail = f"  {took}  {done} of {len(steps)} steps{'' if energy is None else f'  {joules(energy)}'} "
    said: tuple[Span, ...] = ((f"  {glyph} {state}", style), (tail, ""))
    room = width - width_of(said) - 1
    if room < 8:
        return ((fit(f" {glyph} {state}{tail}", width), style),)
    return ((" ", ""), (fit(word(row.get("goal")) or run, room), "title"), *said)


def _with_note(said: list[Span], height: int, note: str, width: int) -> list[Line]:
    """Sentences, one a line, and a note at the right end of the last line."""
    room = width - (cell_len(note) + 2 if note else 0)
    if room < 20:
        note, room = "", width
    said = said[:height] if len(said) >= height else [*said, *[("", "")] * (height - len(said))]
    return [*(((fit(text, width), style),) for text, style in said[:-1]),
            ((fit(said[-1][0], room), said[-1][1]), (f"  {note}" if note else "", "dim"))]  # fmt: skip


def _foot(board: Board, run: str, state: PlanState) -> list[Span]:
    """The chosen step in words, and what went wrong with it or with the run."""
    row = board.get("step", f"{run}/{state.cursor}")
    glyph, style = GLYPHS.get(word(row.get("state")), ("…", "dim"))
    said = [(f" {glyph} {about_step(board, row)}", style if style in ("bad", "warn") else "")]
    error = row.get("error") or board.get("run", run).get("error")
    why = word(row.get("why")) or word(board.get("why", f"{run}/{state.cursor}").get("why"))
    if isinstance(error, dict) and word(error.get("what")):
        said.append((f"   {'; '.join(filter(None, (word(error.get('what')), word(error.get('why')))))}", "bad"))
    elif why:
        said.append((f"   why there: {why}", "dim"))
    needs = ", ".join(names(row.get("needs")))
    read_by = ", ".join(name for name, other in step_rows(board, run) if state.cursor in names(other.get("needs")))
    return [*said, (f"   needs {needs or 'nothing'}; needed by {read_by or 'nothing'}", "dim")]
