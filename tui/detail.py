"""All that is known of one step, device or handoff, as lines to scroll through.

A step's says why it is where it is: what was predicted of it on every device, and why some could not run it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from rich.cells import cell_len, chop_cells

from .board import Board, Row, number, word
from .lanes import names, step_rows
from .log_view import clock
from .text import Line, Span, duration, fit, right, size
from .words import GLYPHS, how, joules

_LABEL: Final = 12
"""Cells of what stands before a text."""
_LISTED: Final = 200
"""Rows of one table at most."""


def step_lines(board: Board, run: str, step: str, width: int) -> list[Line]:
    """A step: how it is, where and why, its times, what it needs, who needs it, the devices that were thought of."""
    row = board.get("step", f"{run}/{step}")
    why = board.get("why", f"{run}/{step}")
    if not row and not why:
        return [_cut(((f" {run} has no step {step} any more", "dim"),), width)]
    skill = word(row.get("skill"))
    glyph, style = GLYPHS.get(word(row.get("state")), ("…", "dim"))
    lines = [_cut(((f" {step}", "title"), (f"  {skill}" if skill != step else "", "")), width), ()]
    lines += _said("state", f"{glyph} {how(board, row)}", width, style)
    where = word(row.get("device"))
    lines += _said("on", board.name_of(where) if where else "no device yet", width)
    lines += _said("why there", word(row.get("why")) or word(why.get("why")), width)
    if step in names(board.get("run", run).get("late")):
        lines += _said("", "likely too late for its deadline", width, "warn")
    lines += _times(board, run, row, width)
    attempt = number(row.get("attempt"))
    if attempt:
        lines += _said("attempts", f"{attempt + 1:.0f}", width)
    lines += _said("needs", _states(board, run, names(row.get("needs"))), width)
    readers = [name for name, other in step_rows(board, run) if step in names(other.get("needs"))]
    lines += _said("needed by", _states(board, run, readers), width)
    told = number(row.get("size"))
    lines += _said("result", size(told) if told else "", width)
    lines += _error(row.get("error"), width)
    found, refused = why.get("candidates"), why.get("refused")
    thought = [c for c in found if isinstance(c, Mapping)][:_LISTED] if isinstance(found, list) else []
    could = [c for c in thought if number(c.get("seconds")) is not None]
    could_not = {word(c.get("device")): c.get("why_not") for c in thought if number(c.get("seconds")) is None}
    return (
        lines + _could(could, width) + _could_not(could_not | dict(refused if isinstance(refused, dict) else {}), width)
    )


def device_lines(board: Board, device: str, width: int) -> list[Line]:
    """A device: how it is and how it is reached, what runs and ran there, and its skills."""
    row = board.get("device", device)
    if not row:
        return [_cut(((f" {device} is not known any more", "dim"),), width)]
    name, kind = word(row.get("name")) or device[:7], word(row.get("kind"))
    lines = [_cut(((f" {name}", "title"), (f"  {kind}", ""), (f"  {_state(row, board.time)}", "")), width), ()]
    lines += _said("id", device, width)
    if row.get("simulated") is True:
        lines += _said("simulated", "its hardware is a program", width, "busy")
    lines += _said("link", _link(row), width)
    lines += _said("address", word(row.get("address")), width)
    charge, load, slots = (number(row.get(key)) for key in ("battery", "load", "slots"))
    if charge is not None:
        lines += _said("battery", f"{charge * 100:.0f} %{', charging' if row.get('charging') is True else ''}", width)
    elif row.get("charging") is True:
        lines += _said("battery", "mains", width)
    if load is not None:
        room = "" if slots is None else f", runs {slots:.0f} at once"
        lines += _said("load", f"{load * 100:.0f} % of the processor{room}", width)
    sessions = number(row.get("sessions"))
    lines += _said("sessions", f"{sessions:.0f}" if sessions else "", width)
    lines += _work(board, device, width)
    return lines + _skills(board.get("skills", device).get("names"), width)


def handoff_lines(board: Board, key: str, width: int) -> list[Line]:
    """A handoff: from where to where, why, its phases with their times, and who owned it before and after."""
    row = board.get("handoff", key)
    if not row:
        return [_cut(((f" {key} is not known any more", "dim"),), width)]
    what, skill = word(row.get("step")) or word(row.get("skill")), word(row.get("skill"))
    way = f"  {board.name_of(row.get('from'))} → {board.name_of(row.get('to'))}"
    lines = [_cut(((f" {what}", "title"), (way, "")), width), ()]
    state = word(row.get("state")) or "moving"
    glyph, style = {"done": ("✓", "good"), "failed": ("✗", "bad")}.get(state, ("⇄", "busy"))
    lines += _said("state", f"{glyph} {state}", width, style)
    lines += _said("why", word(row.get("why")), width)
    lines += _said("skill", skill if skill != what else "", width)
    goal = word(board.get("run", word(row.get("run"))).get("goal"))
    lines += _said("run", f"{word(row.get('run'))}{f'  {goal}' if goal else ''}", width)
    began = number(row.get("began"))
    lines += _said("began", "" if began is None else f"{duration(max(0.0, board.time - began))} ago", width)
    lines += _said("bytes", "" if number(row.get("bytes")) is None else size(number(row.get("bytes"))), width)
    before, after = row.get("owner_before"), row.get("owner_after")
    lines += _said("owner", f"{board.name_of(before)} before, {board.name_of(after)} after", width)
    return lines + _phases(row.get("phases"), width)


def event_lines(event: Row, width: int) -> list[Line]:
    """An event with all that it says, however long."""
    lines = [_cut(((f" {word(event.get('kind'))}", "title"), (f"  {clock(number(event.get('time')))}", "")), width), ()]
    for name, value in event.items():
        if name not in ("kind", "time", "seq", "v"):
            lines += _said(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), width)
    return lines


# -- pieces of a step --------------------------------------------------------------------------------------------------


def _times(board: Board, run: str, row: Row, width: int) -> list[Line]:
    """Predicted first, predicted now, and as it was: seconds since the run began."""
    zero = number(board.get("run", run).get("began")) or 0.0
    first = row.get("planned")
    if isinstance(first, list) and len(first) == 3:
        planned = number(first[1]), number(first[2])
        where = f" on {board.name_of(first[0])}" if first[0] != row.get("device") else ""
    else:
        planned, where = (None, None), ""
    predicted = number(row.get("start")), number(row.get("end"))
    real = number(row.get("began")), number(row.get("ended"))
    lines: list[Line] = []
    if predicted[0] is not None:
        lines += _said("predicted", _span(*predicted, zero), width)
    if planned[0] is not None and (planned != predicted or where):
        lines += _said("at first", f"{_span(*planned, zero)}{where}", width)
    if real[0] is not None:
        lines += _said("in fact", _span(*real, zero), width)
    return lines


def _span(start: float | None, end: float | None, zero: float) -> str:
    begin = "-" if start is None else duration(start - zero)
    if start is None or end is None:
        return f"{begin} →"
    return f"{begin} → {duration(end - zero)}  ({duration(end - start)})"


def _states(board: Board, run: str, steps: Iterable[str]) -> str:
    """Steps by name, each with its sign."""
    said = []
    for name in steps:
        state = word(board.get("step", f"{run}/{name}").get("state"))
        said.append(f"{GLYPHS.get(state, ('…', ''))[0]} {name}")
    return ", ".join(said)


def _error(error: Any, width: int) -> list[Line]:
    if not isinstance(error, Mapping):
        return []
    lines = _said("error", word(error.get("what")), width, "bad")
    lines += _said("", word(error.get("why")), width, "bad")
    hint = word(error.get("hint"))
    return lines + _said("", f"try: {hint}" if hint else "", width, "accent")


def _could(rows: list[Row], width: int) -> list[Line]:
    """What was predicted of a step on each device that could run it; times from when that was worked out."""
    if not rows:
        return []
    named = max(6, min(24, width - 46, max([12, *(cell_len(word(c.get("device"))) for c in rows)])))
    head = f"   {fit('COULD RUN ON', named)} {right('TAKES', 6)} {right('INPUTS', 7)} {right('ENDS', 7)} "
    lines: list[Line] = [(), _cut(((f"{head}{right('ENERGY', 8)}", "head"),), width)]
    for c in rows:
        chosen, energy = c.get("chosen") is True, number(c.get("joules"))
        text = f"{fit(word(c.get('device')), named)} {right(duration(number(c.get('seconds'))), 6)} "
        text += f"{right(duration(number(c.get('ready'))), 7)} {right(duration(number(c.get('end'))), 7)} "
        text += right("-" if energy is None else joules(energy), 8)
        begin = [(" → " if chosen else "   ", "good"), (text, "title" if chosen else "")]
        lines += _after(begin, word(c.get("why_not")), width, named + 35)
    return lines


def _could_not(found: Mapping[str, Any], width: int) -> list[Line]:
    if not found:
        return []
    lines: list[Line] = [(), _cut((("   COULD NOT RUN ON", "head"),), width)]
    rows = [(name, word(why)) for name, why in found.items()][:_LISTED]
    named = max(6, min(24, width - 30, max(cell_len(name) for name, _ in rows)))
    for name, why in rows:
        lines += _after([("   ", ""), (fit(name, named), "")], why, width, named + 3)
    return lines


# -- pieces of a device ------------------------------------------------------------------------------------------------


def _state(row: Row, now: float) -> str:
    state = "leaving" if row.get("leaving") is True else word(row.get("state"))
    said = {
        "self": "● this device", "linked": "● ready", "via": f"◌ reached via {word(row.get('via')) or 'others'}",
        "suspect": "? silent: nothing was heard of it for a while", "leaving": "◐ about to leave",
    }.get(state, f"○ {state or 'gone'}")  # fmt: skip
    seen = number(row.get("seen"))
    return said if seen is None else f"{said}, last heard {duration(max(0.0, now - seen))} ago"


def _link(row: Row) -> str:
    rtt, rate = number(row.get("rtt_ms")), number(row.get("bandwidth"))
    parts = (
        "" if rtt is None else f"{rtt:.1f} ms there and back", "" if rate is None else f"{size(rate)}/s",
        word(row.get("radio")),
    )  # fmt: skip
    return ", ".join(part for part in parts if part)


def _work(board: Board, device: str, width: int) -> list[Line]:
    """What of the runs that are known ran, runs and will run there."""
    lines: list[Line] = []
    runs = board.rows["run"]
    for run in sorted(runs, key=lambda r: (-(number(runs[r].get("began")) or 0.0), r)):
        steps = step_rows(board, run)
        here = [(name, row) for name, row in steps if row.get("device") == device]
        if here:
            share = f"{len(here)} of {len(steps)} steps"
            seconds = _seconds(row for _, row in here)
            everywhere = _seconds(row for _, row in steps)
            if seconds and everywhere:
                share += f", {duration(seconds)} ({seconds / everywhere * 100:.0f} % of all work)"
            goal = word(runs[run].get("goal")) or run
            lines.append(_cut((("   ", ""), (goal, "title"), (f"  {share}", "dim")), width))
            lines += _said("", _states(board, run, (name for name, _ in here)), width)
        if len(lines) > _LISTED:
            break
    return [(), _cut((("   RUNS", "head"),), width), *lines] if lines else []


def _seconds(rows: Iterable[Row]) -> float:
    ends = ((number(row.get("began")), number(row.get("ended"))) for row in rows)
    return sum(max(0.0, end - start) for start, end in ends if start is not None and end is not None)


def _skills(found: Any, width: int) -> list[Line]:
    """Its skills, in columns that read downwards."""
    there = sorted(names(found))
    if not there:
        return []
    column = max(1, min(max(cell_len(name) for name in there) + 2, width - 3))
    count = max(1, (width - 3) // column)
    height = -(-len(there) // count)
    lines: list[Line] = [(), _cut(((f"   SKILLS  {len(there)}", "head"),), width)]
    for y in range(height):
        lines.append(_cut((("   ", ""), ("".join(fit(name, column) for name in there[y::height]), "")), width))
    return lines


# -- pieces of a handoff -----------------------------------------------------------------------------------------------


def _phases(found: Any, width: int) -> list[Line]:
    """Each phase with the time until it was reached, as a bar below those before it."""
    phases = [
        (str(p[0]), at) for p in (found if isinstance(found, list) else [])[:_LISTED]
        if isinstance(p, list) and len(p) == 2 and (at := number(p[1])) is not None
    ]  # fmt: skip
    if not phases:
        return []
    named = max(6, min(16, width - 30, max(cell_len(name) for name, _ in phases)))
    room = max(1, width - named - 22)
    first, last = phases[0][1], max(at for _, at in phases)
    scale = room / max(last - first, 1e-9)
    lines: list[Line] = [
        (),
        _cut(((f"   {fit('PHASE', named)} {right('AFTER', 7)} {right('TOOK', 7)}", "head"),), width),
    ]
    before = first
    for name, at in phases:
        left, end = (int(max(0.0, min(room, (t - first) * scale))) for t in (before, at))
        bar = " " * left + "█" * max(0, end - left) if at > before else ""
        bar = f"{bar}▏" if at > before and end == left < room else bar
        took = "" if at == first else right(duration(max(0.0, at - before)), 7)
        lines.append(_cut((("   ", ""), (fit(name, named), ""), (f" {right(duration(at - first), 7)} ", "dim"),
                           (fit(took, 7), ""), ("  ", ""), (bar, "accent")), width))  # fmt: skip
        before = max(before, at)
    return lines


# -- text --------------------------------------------------------------------------------------------------------------


def _said(label: str, text: str, width: int, style: str = "") -> list[Line]:
    """A text after what it is, in as many lines as it takes; none if there is no text."""
    return _after([(f"   {fit(label, _LABEL)}", "dim")], text, width, _LABEL + 3, style) if text else []


def _after(begin: list[Span], text: str, width: int, indent: int, style: str = "dim") -> list[Line]:
    """A text in lines, beside a beginning of `indent` cells, or below it where there is no room."""
    if not text:
        return [_cut(tuple(begin), width)]
    room = width - indent - 2
    if room < 16:
        below = max(0, min(6, width - 10))
        under = (_cut(((" " * below, ""), (part, style)), width) for part in wrap(text, width - below))
        return [_cut(tuple(begin), width), *under]
    parts = list(wrap(text, room))
    lines = [_cut((*begin, ("  ", ""), (parts[0], style)), width)]
    return [*lines, *(((" " * (indent + 2), ""), (part, style)) for part in parts[1:])]


def wrap(text: str, width: int) -> Iterator[str]:
    """The text in pieces of at most `width` cells, between words where it can."""
    width = max(2, width)
    line = ""
    for piece in text.split():
        if line and cell_len(line) + 1 + cell_len(piece) > width:
            yield line
            line = ""
        *whole, piece = chop_cells(piece, width) if cell_len(piece) > width else [piece]
        if whole and line:
            yield line
            line = ""
        yield from whole
        line = f"{line} {piece}" if line else piece
    yield line


def _cut(line: Line, width: int) -> Line:
    """The line, in no more cells than there are."""
    kept: list[Span] = []
    for text, style in line:
        cells = cell_len(text)
        if cells > width:
            kept.append((fit(text, width), style))
            break
        kept.append((text, style))
        width -= cells
    return tuple(kept)
