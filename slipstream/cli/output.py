"""What the verbs print: data to stdout; prose, progress and errors to stderr (prose and progress only to a terminal).

Whatever comes from another device is cleaned here, once, before it is shown (law 5).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ..core.device import clean
from ..core.errors import SlipError

_COLOURS = {"good": "32", "bad": "31", "dim": "2", "busy": "33"}
_STYLE_OF = {
    "done": "good", "submitted": "good", "ok": "good", "self": "good", "linked": "good", "failed": "bad",
    "denied": "bad", "unknown": "bad", "cancelled": "bad", "absent": "dim", "skipped": "dim", "suspect": "busy",
    "running": "busy", "interrupted": "busy", "warn": "busy",
}  # fmt: skip


def show_json(data: dict[str, Any]) -> None:
    """One JSON object on one line of stdout; ASCII only, so that nothing in it can steer a terminal."""
    print(json.dumps({"v": 1, **data}), flush=True)


def show_error(error: SlipError, *, as_json: bool = False) -> None:
    """What, why, and what next; with `--json` as an object on stdout."""
    if as_json:
        show_json({"error": error.to_wire()})
        return
    lines = [f"{paint('error', 'bad', sys.stderr)}: {clean(error.what, 500)}"]
    for why in error.why.split("; ") if error.why else ():
        lines.append(f"  {clean(why, 500)}")
    if error.hint:
        question = error.hint.startswith("did you mean")
        lines.append(f"  {clean(error.hint, 500)}" if question else f"  try: {clean(error.hint, 500)}")
    print("\n".join(lines), file=sys.stderr)


def note(text: str) -> None:
    """Prose for whoever sits at the terminal."""
    if sys.stderr.isatty():
        print(clean(text, 2000), file=sys.stderr)


def progress(text: str) -> None:
    """A line that the next one replaces; empty removes it. Only on a terminal."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{clean(text, max(width, 10))}", end="", file=sys.stderr, flush=True)


def paint(text: str, style: str, stream: Any = None) -> str:
    """The text in colour where that is wanted; the words carry the meaning without it."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{_COLOURS[style]}m{text}\x1b[0m"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], state: int | None = None) -> None:
    """Columns on stdout; column number `state` is coloured by what it says."""
    cells = [[clean("-" if cell is None or cell == "" else cell, 200) for cell in row] for row in rows]
    head = [name.upper() for name in header]
    widths = [max(len(row[i]) for row in [head, *cells]) for i in range(len(head))]
    for n, row in enumerate([head, *cells]):
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if n == 0:
            padded = [paint(cell, "dim") for cell in padded]
        elif state is not None and row[state] in _STYLE_OF:
            padded[state] = paint(padded[state], _STYLE_OF[row[state]])
        print("  ".join(padded).rstrip())


def line(text: str) -> None:
    """One line of data on stdout."""
    print(clean(text, 4000))


def harmless(text: str) -> str:
    """Text that a terminal can only show: its lines and tabs stay, everything that could steer it goes."""
    return "\n".join("\t".join(clean(cell, len(cell)) for cell in line.split("\t")) for line in text.split("\n"))


def value(found: Any) -> None:
    """A value that a skill gave: text as it is, everything else as JSON."""
    if isinstance(found, dict) and set(found) == {"result"}:
        found = found["result"]
    if isinstance(found, str):
        for part in found.splitlines() or [""]:
            print(clean(part, len(part)))
    elif found is not None:
        print(json.dumps(found, indent=2))


def duration(seconds: float | None) -> str:
    """A length of time as people read it."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.3g} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def energy(joules: float) -> str:
    """Joules as people read them."""
    for factor, unit in ((1e6, "MJ"), (1e3, "kJ"), (1.0, "J")):
        if joules >= factor:
            return f"{joules / factor:.3g} {unit}"
    return f"{joules * 1e3:.3g} mJ"


def percent(share: float | None) -> str | None:
    """A share from 0 to 1 as people read it."""
    return None if share is None else f"{share * 100:.0f}%"
