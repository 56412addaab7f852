"""Text as a terminal shows it: made harmless once, on the way in; cut and padded by cells, not by characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from rich.cells import cell_len, set_cell_size

from ..core.device import clean

LONGEST: Final = 400
"""Characters of a text that are shown at most."""
_MARKS: Final = 2
"""Combining marks that may follow each other; more of them would paint over the lines above and below."""
_ENDLESS: Final = 10_000
"""Values of one row that are looked at; what is beyond is left out."""

Span = tuple[str, str]
"""A piece of a line: its text, and the name of a style (STYLES in theme.py; empty: plain)."""
Line = tuple[Span, ...]
"""One line of the screen."""


_known: dict[str, str] = {}
"""Short texts that were made harmless lately: names and kinds come again with every frame, and are kept once."""


def plain(text: object, limit: int = LONGEST) -> str:
    """Text from elsewhere, harmless: without C0, C1, bidi and invisible characters, and of combining marks a few."""
    if type(text) is str and len(text) <= limit and text.isascii() and text.isprintable():
        return text  # as nearly all of it is
    shown = clean(text, limit)
    if shown.isascii():
        return shown
    kept, marks = [], 0
    for char in shown:
        category = unicodedata.category(char)
        if category in ("Cf", "Co", "Cn"):
            continue
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks <= _MARKS:
            kept.append(" " if category == "Zs" else char)
    return "".join(kept)


def harmless(value: Any, before: Mapping[str, Any] | None = None) -> Any:
    """A row or an event with every text in it, names included, made harmless.

    What is as in `before`, the same row made harmless earlier, is taken from there.
    """
    if type(value) is not dict or len(value) > _ENDLESS:
        return _harmless(value, [_ENDLESS], 12)
    left, made = [_ENDLESS], {}
    for name, field in value.items():
        kind = type(field)
        if before is not None and type(old := before.get(name, _NOTHING)) is kind and old == field:
            made[name] = old  # also known by its name: that was made harmless as well
        elif kind in _SAFE:
            made[_short(name)] = field
        else:
            made[_short(name)] = _short(field) if kind is str else _harmless(field, left, 11)
    return made


_SAFE: Final = frozenset((int, float, bool, type(None)))
_NOTHING: Final = object()


def _short(text: Any) -> str:
    if type(text) is not str or len(text) > 64:
        return plain(text)
    if (found := _known.get(text)) is None:
        if len(_known) >= 8192:
            _known.clear()
        found = _known[text] = plain(text)
    return found


def _harmless(value: Any, left: list[int], depth: int) -> Any:
    left[0] -= 1
    kind = type(value)
    if kind in _SAFE:
        return value
    if isinstance(value, str):
        return _short(value)
    if isinstance(value, Mapping):
        if depth == 0:
            return {}
        return {_short(k): _harmless(v, left, depth - 1) for k, v in value.items() if left[0] > 0}
    if isinstance(value, list | tuple):
        return [] if depth == 0 else [_harmless(v, left, depth - 1) for v in value if left[0] > 0]
    return plain(value)


@lru_cache(maxsize=2048)
def fit(text: str, width: int) -> str:
    """The text in exactly `width` cells: padded on the right, or cut with `…`."""
    if width <= 0:
        return ""
    if text.isascii():
        return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"
    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


@lru_cache(maxsize=2048)
def right(text: str, width: int) -> str:
    """The same, padded on the left."""
    length = cell_len(text)
    return " " * (width - length) + text if length <= width else fit(text, width)


def width_of(line: Line) -> int:
    """The cells that a line takes."""
    return sum(cell_len(text) for text, _ in line)


def text_of(line: Line) -> str:
    """A line without its styles."""
    return "".join(text for text, _ in line)


def duration(seconds: float | None) -> str:
    """A length of time in at most six characters: `340ms`, `2.1s`, `14m`, `3.5h`, `2d`."""
    if seconds is None or seconds != seconds:
        return "-"
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 99.95:
        return f"{seconds:.1f}s"
    if seconds < 5970:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.3g}h" if seconds < 172_800 else f"{seconds / 86_400:.0f}d"


def size(number: float | None) -> str:
    """Bytes in at most six characters: `512B`, `4.2kB`, `17MB`."""
    if number is None or number != number:
        return "-"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return f"{number:.0f}B"
