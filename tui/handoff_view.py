"""Handoffs as a list, the newest first: what moved, from where to where, how long each phase took, and why."""

from __future__ import annotations

from typing import Final

from .board import Board, Row, number, word
from .text import Line, Span, duration, fit, right, size

_STATES: Final = {"moving": ("⇄", "busy"), "done": ("✓", "good"), "failed": ("✗", "bad")}


def handoff_keys(board: Board) -> list[str]:
    """The handoffs, the newest first."""
    rows = board.rows["handoff"]
    return sorted(rows, key=lambda key: (-(number(rows[key].get("began")) or 0.0), key))


def handoff_head(width: int) -> Line:
    """The headings of the list."""
    text = f"  {fit('AGO', 6)} {fit('STEP', 16)} {fit('FROM → TO', 27)} {right('TOOK', 6)} {right('BYTES', 7)} STATE"
    return ((fit(f"{text}      {'WHY' if width >= 100 else ''}", width), "head"),)


def handoff_line(board: Board, key: str, width: int, now: float) -> Line:
    """One handoff, in one line."""
    row = board.get("handoff", key)
    state = word(row.get("state")) or "moving"
    glyph, style = _STATES.get(state, ("?", "dim"))
    began = number(row.get("began"))
    way = f"{board.name_of(row.get('from'))} → {board.name_of(row.get('to'))}"
    spans: list[Span] = [
        ("  ", ""), (fit("-" if began is None else duration(max(0.0, now - began)), 6), "dim"), (" ", ""),
        (fit(word(row.get("step")) or word(row.get("skill")), 16), "title"), (" ", ""), (fit(way, 27), ""), (" ", ""),
        (right(duration(handoff_seconds(row)), 6), ""), (" ", ""), (right(size(number(row.get("bytes"))), 7), ""),
        (" ", ""), (f"{glyph} {fit(state, 7)}", style),
    ]  # fmt: skip
    if width >= 100:
        spans.append((" " + word(row.get("why")), "dim"))
    return tuple(spans)


def handoff_words(board: Board, key: str) -> tuple[dict[str, str], str]:
    """What a filter looks at: a handoff's fields, and its text."""
    row = board.get("handoff", key)
    fields = {name: word(row.get(name)) for name in ("run", "step", "skill", "why", "state")}
    fields["from"], fields["to"] = board.name_of(row.get("from")), board.name_of(row.get("to"))
    fields["dev"] = fields["device"] = f"{fields['from']} {fields['to']}"
    return fields, " ".join((*fields.values(),))


def handoff_seconds(row: Row) -> float | None:
    """From its first phase to its last one; None while there is only one."""
    phases = row.get("phases")
    times = [number(p[1]) for p in phases if isinstance(p, list) and len(p) == 2] if isinstance(phases, list) else []
    known = [at for at in times if at is not None]
    return known[-1] - known[0] if len(known) > 1 else None
