"""One thing looked at closely: a step and why it is where it is, a device, a handoff."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from textwrap import wrap
from typing import Any, Final

from .board import Board, Row, number, word
from .handoff_view import handoff_seconds
from .log_view import clock
from .mesh_view import battery_words, device_state
from .plan_view import GLYPHS
from .text import Line, duration, fit, right, size

_BAR: Final = 24


def step_lines(board: Board, run: str, step: str, width: int) -> list[Line]:
    """A step: where it is, why there, when, and what every other device would have taken or lacks."""
    row = board.get("step", f"{run}/{step}")
    if not row:
        return [((f" There is no step {step} of run {run} any more; esc goes back", "dim"),)]
    state = word(row.get("state")) or "waiting"
    glyph, style = GLYPHS.get(state, ("·", ""))
    lines: list[Line] = [
        ((f" {step}", "title"), (f"  {word(row.get('skill'))}  ", ""), (f"{glyph} {state}", style)),
        (),
    ]
    device = board.name_of(row.get("device"))
    lines += _field("on", device if device != "-" else "no device yet", width)
    lines += _field("because", word(row.get("why")) or "it was not said why", width)
    lines += _field("run", f"{run}: {word(board.get('run', run).get('goal'))}", width)
    lines += _times(board, run, row, width)
    part, note = number(row.get("fraction")), word(row.get("note"))
    if state == "running" and (part or note):
        lines += _field("so far", f"{(part or 0) * 100:.0f}% {note}", width)
    attempt = number(row.get("attempt")) or 0
    if attempt:
        lines += _field("tries", f"this is number {attempt + 1:.0f}", width)
    lines += _field("waits for", ", ".join(_texts(row.get("needs"))) or "nothing", width)
    readers = [word(other.get("step")) for other in board.steps(run) if step in _texts(other.get("needs"))]
    lines += _field("wait for it", ", ".join(readers) or "nothing", width)
    if number(row.get("size")):
        lines += _field("result", size(number(row.get("size"))), width)
    lines += _error(row.get("error"), width)
    return lines + _candidates(board.get("why", f"{run}/{step}"), width)


def device_lines(board: Board, key: str, width: int) -> list[Line]:
    """A device: how it is, how it is reached, what it offers, what runs there."""
    row = board.get("device", key)
    if not row:
        return [((f" The device {key[:7]} is not known any more; esc goes back", "dim"),)]
    glyph, style, state = device_state(row)
    lines: list[Line] = [((f" {word(row.get('name'))}", "title"), (f"  {word(row.get('kind'))}  ", ""),
                          (f"{glyph} {state}", style)), ()]  # fmt: skip
    if row.get("simulated") is True:
        lines += _field("note", "simulated: its hardware is a program", width)
    lines += _field("id", key, width)
    lines += _field("address", word(row.get("address")) or "-", width)
    rtt, rate = number(row.get("rtt_ms")), number(row.get("bandwidth"))
    if row.get("state") != "self":
        link = "not measured yet" if rtt is None else f"{rtt:.1f} ms there and back"
        lines += _field("link", link + (f", {size(rate)}/s" if rate is not None else ""), width)
    lines += _field("network", word(row.get("radio")) or "not told", width)
    lines += _field("power", battery_words(row), width)
    load, slots = number(row.get("load")), number(row.get("slots"))
    lines += _field(
        "load", "-" if load is None else f"{load * 100:.0f}%, room for {slots or 0:.0f} steps at once", width
    )
    seen = number(row.get("seen"))
    if seen is not None:
        lines += _field("last here", f"{clock(seen)[:8]}, {duration(max(0.0, board.time - seen))} ago", width)
    running = [f"{word(s.get('step'))} ({word(s.get('skill'))})" for _, s in board.all("step")
               if s.get("device") == key and s.get("state") == "running"]  # fmt: skip
    lines += _field("runs now", ", ".join(running) or "nothing of this device's runs", width)
    names = sorted(_texts(board.get("skills", key).get("names")))
    lines += [(), ((f" Offers {len(names)} skills", "title"),)]
    return lines + _columns(names, width)


def handoff_lines(board: Board, key: str, width: int) -> list[Line]:
    """A handoff: its phases with their times, who owned what it is about before and after, and why it was made."""
    row = board.get("handoff", key)
    if not row:
        return [((" That handoff is not kept any more; esc goes back", "dim"),)]
    state = word(row.get("state"))
    what = word(row.get("step")) or word(row.get("skill"))
    lines: list[Line] = [((f" {what}", "title"), (f"  {word(row.get('skill'))}  ", ""),
                          (state, {"done": "good", "failed": "bad"}.get(state, "busy"))), ()]  # fmt: skip
    lines += _field("from", f"{board.name_of(row.get('from'))} → {board.name_of(row.get('to'))}", width)
    lines += _field("because", word(row.get("why")) or "it was not said why", width)
    before, after = board.name_of(row.get("owner_before")), board.name_of(row.get("owner_after"))
    lines += _field("owner", f"{before} before, {after} after", width)
    lines += _field("run", word(row.get("run")), width)
    if number(row.get("bytes")) is not None:
        lines += _field("bytes", size(number(row.get("bytes"))), width)
    lines += _field("took", duration(handoff_seconds(row)), width)
    return [*lines, (), ((" Phases", "title"),), *_phases(row, width)]


def _phases(row: Row, width: int) -> Iterable[Line]:
    raw = row.get("phases")
    phases = (
        [(word(p[0]), number(p[1])) for p in raw if isinstance(p, list) and len(p) == 2]
        if isinstance(raw, list)
        else []
    )
    times = [at for _, at in phases if at is not None]
    if not times:
        return
    begin, length = times[0], max(times[-1] - times[0], 1e-9)
    for (name, at), (_, until) in zip(phases, [*phases[1:], ("", None)], strict=True):
        if at is None:
            continue
        left = max(0, min(_BAR - 1, round((at - begin) / length * (_BAR - 1))))
        end = left + 1 if until is None else max(left + 1, round((until - begin) / length * (_BAR - 1)))
        took = "" if until is None else duration(until - at)
        bar = (" " * left + "█" * (min(end, _BAR) - left)).ljust(_BAR)
        yield ((f"  {fit(name, 12)} {clock(at)} ", ""), (bar, "accent"), (f" {took}", "dim"))


def _times(board: Board, run: str, row: Row, width: int) -> list[Line]:
    zero = number(board.get("run", run).get("began"))
    planned = row.get("planned")
    lines: list[Line] = []
    if isinstance(planned, list) and len(planned) == 3:
        lines += _field("thought at first", f"{_when(number(planned[1]), number(planned[2]), zero)} on "
                        f"{board.name_of(planned[0])}", width)  # fmt: skip
    start, end = number(row.get("start")), number(row.get("end"))
    if start is not None and end is not None and row.get("began") is None:
        lines += _field("thought now", _when(start, end, zero), width)
    began, ended = number(row.get("began")), number(row.get("ended"))
    if began is not None:
        lines += _field("really", _when(began, ended, zero), width)
    return lines


def _when(begin: float | None, end: float | None, zero: float | None) -> str:
    if begin is None:
        return "-"
    at = f"from {duration(max(0.0, begin - zero))} on" if zero is not None else "-"
    return at if end is None else f"{at}, for {duration(end - begin)}"


def _error(error: Any, width: int) -> list[Line]:
    if not isinstance(error, Mapping):
        return []
    said = [word(error.get(part)) for part in ("what", "why")]
    lines = _field("error", "; ".join(part for part in said if part), width, "bad")
    return lines + (_field("try", word(error.get("hint")), width) if word(error.get("hint")) else [])


def _candidates(why: Row, width: int) -> list[Line]:
    raw = why.get("candidates")
    candidates = [c for c in raw if isinstance(c, Mapping)] if isinstance(raw, list) else []
    refused = why.get("refused")
    lines: list[Line] = []
    if candidates:
        head = f"  {fit('DEVICE', 16)} {right('TAKES', 7)} {right('INPUTS', 7)} {right('ENDS', 7)} {right('ENERGY', 8)}"
        lines += [(), ((" Where it could run, and when it would end there", "title"),), ((head, "head"),)]
    for c in candidates:
        joules = number(c.get("joules"))
        cells = [right(_seconds(c.get(name)), 7) for name in ("seconds", "ready", "end")]
        energy = right("-" if joules is None else f"{joules:.3g} J", 8)
        text = f"{fit(word(c.get('device')), 16)} {' '.join(cells)} {energy}  {word(c.get('why_not'))}"
        lines.append((("> " if c.get("chosen") is True else "  ", "accent"), (fit(text, width - 2).rstrip(), "")))
    if isinstance(refused, Mapping) and refused:
        lines += [(), ((" Where it cannot run", "title"),)]
        lines += [((f"  {fit(str(name), 16)} ", ""), (fit(str(reason), width - 20).rstrip(), "dim"))
                  for name, reason in refused.items()]  # fmt: skip
    return lines


def _seconds(value: Any) -> str:
    return duration(number(value))


def _field(name: str, text: str, width: int, style: str = "") -> list[Line]:
    parts = wrap(text, max(10, width - 20)) or [""]
    return [((f"  {fit(name if i == 0 else '', 16)} ", "dim"), (fit(part, width - 19).rstrip(), style))
            for i, part in enumerate(parts)]  # fmt: skip


def _texts(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _columns(names: list[str], width: int) -> list[Line]:
    across = max(1, (width - 2) // 26)
    down = -(-len(names) // across)
    return [(("  " + "".join(fit(name, 26) for name in names[i::down]), ""),) for i in range(down)]
