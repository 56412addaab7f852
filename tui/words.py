"""Steps and runs in signs and words, as several views say them."""

from __future__ import annotations

from typing import Final

from .board import Board, Row, number, word
from .lanes import FINAL, step_rows
from .text import duration

GLYPHS: Final = {
    "done": ("✓", "good"), "submitted": ("»", "good"), "skipped": ("-", "dim"), "failed": ("✗", "bad"),
    "denied": ("✗", "bad"), "unknown": ("!", "warn"), "cancelled": ("×", "dim"), "running": ("▶", "busy"),
    "asking": ("?", "warn"), "armed": ("…", "dim"), "waiting": ("…", "dim"), "moved": ("⇄", "accent"),
}  # fmt: skip
"""State of a step → its sign and style."""
RUN_GLYPHS: Final = {
    "running": ("▶", "busy"), "cancelling": ("▶", "warn"), "done": ("✓", "good"), "failed": ("✗", "bad"),
    "cancelled": ("×", "dim"), "interrupted": ("!", "warn"), "planned": ("…", "accent"),
}  # fmt: skip
"""State of a run → its sign and style."""


def about_step(board: Board, row: Row) -> str:
    """A step in one sentence: what, where, how it is and how long that takes."""
    step, skill, where = word(row.get("step")), word(row.get("skill")), word(row.get("device"))
    what = step if skill in ("", step) else f"{step} ({skill})"
    return f"{what} {f'on {board.name_of(where)}' if where else 'on no device yet'}: {how(board, row)}"


def how(board: Board, row: Row) -> str:
    """How a step is, and how long it takes."""
    state = word(row.get("state")) or "waiting"
    began, ended = number(row.get("began")), number(row.get("ended"))
    start, end = number(row.get("start")), number(row.get("end"))
    thought = None if start is None or end is None else duration(max(0.0, end - start))
    if state == "running":
        so_far = "" if began is None else f" for {duration(max(0.0, board.time - began))}"
        fraction, note = number(row.get("fraction")), word(row.get("note"))
        said = f"running{so_far}{f' of about {thought}' if thought else ''}"
        return f"{said}{f', {fraction * 100:.0f} %' if fraction else ''}{f'; {note}' if note else ''}"
    if began is not None and ended is not None:
        return f"{state} in {duration(max(0.0, ended - began))}{f' (predicted {thought})' if thought else ''}"
    return f"{state}, will take about {thought}" if thought and state not in FINAL else state


def joules_of(board: Board, run: str) -> float | None:
    """What its steps are expected to take, as far as that is known."""
    there, total = board.rows["why"], None
    for name, _ in step_rows(board, run):
        candidates = there.get(f"{run}/{name}", {}).get("candidates")
        for c in candidates if isinstance(candidates, list) else []:
            if isinstance(c, dict) and c.get("chosen") is True and (found := number(c.get("joules"))) is not None:
                total = (total or 0.0) + found
    return total


def joules(value: float) -> str:
    """Joules as people read them."""
    for factor, unit in ((1e6, "MJ"), (1e3, "kJ"), (1.0, "J")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value * 1e3:.3g} mJ"
