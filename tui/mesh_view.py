"""The mesh as a list: each device with its battery, load, link, what it offers and how it is."""

from __future__ import annotations

from typing import Final

from .board import Board, Row, number, word
from .text import Line, Span, duration, fit, right, size

_STATES: Final = {
    "self": ("●", "good"), "linked": ("●", "good"), "via": ("◌", "good"), "suspect": ("?", "busy"),
    "leaving": ("◐", "busy"),
}  # fmt: skip
_WORDS: Final = {"self": "self", "linked": "ready", "via": "via", "suspect": "silent", "leaving": "leaving"}
_BAR: Final = 5


def device_keys(board: Board) -> list[str]:
    """The devices, this one first, then by name: a row never jumps because its state changes."""
    me = word(board.me.get("id"))
    rows = board.rows["device"]
    return sorted(rows, key=lambda key: (key != me, word(rows[key].get("name")).casefold(), key))


def device_head(width: int) -> Line:
    """The headings of the list."""
    wide = _wide(width)
    left = f"  {fit('DEVICE', _name_width(width))} {fit('KIND', 6)} {fit('BATT', 11)} {right('LOAD', 4)} "
    left += f"{right('LINK', 6)} "
    if wide:
        left += f"{right('RATE', 8)} {fit('RADIO', 9)} "
    return ((fit(f"{left}{right('SKILLS', 6)} {right('RUNS', 4)} {right('SESS', 4)}  STATE", width), "head"),)


def device_line(board: Board, key: str, width: int) -> Line:
    """One device, in one line."""
    row = board.get("device", key)
    glyph, style, state = device_state(row)
    load = number(row.get("load"))
    simulated = " sim" if row.get("simulated") is True else ""
    spans: list[Span] = [
        ("  ", ""), (fit(word(row.get("name")) or key[:7], _name_width(width)), "title"), (" ", ""),
        (fit(word(row.get("kind")), 6), ""), (" ", ""), *_battery(row), (" ", ""),
        (right("-" if load is None else f"{load * 100:.0f}%", 4), _load_style(load)), (" ", ""),
        (right(_link(row), 6), ""), (" ", ""),
    ]  # fmt: skip
    if _wide(width):
        rate = number(row.get("bandwidth"))
        spans += [(right("-" if rate is None else f"{size(rate)}/s", 8), ""), (" ", ""),
                  (fit(word(row.get("radio")) or "-", 9), ""), (" ", "")]  # fmt: skip
    spans += [
        (right(_count(row, "skills"), 6), ""), (" ", ""), (right(_count(row, "running"), 4), ""), (" ", ""),
        (right(_count(row, "sessions"), 4), ""), ("  ", ""), (f"{glyph} ", style), (state, style), (simulated, "dim"),
    ]  # fmt: skip
    return tuple(spans)


def device_words(board: Board, key: str) -> tuple[dict[str, str], str]:
    """What a filter looks at: a device's fields, and its text."""
    row = board.get("device", key)
    fields = {name: word(row.get(name)) for name in ("name", "kind", "radio", "via", "id")}
    fields["device"], fields["device_kind"] = fields["id"], fields["kind"]
    fields["state"] = device_state(row)[2]
    names = board.get("skills", key).get("names")
    fields["skill"] = " ".join(map(str, names)) if isinstance(names, list) else ""
    return fields, f"{fields['name']} {fields['kind']} {fields['state']}"


def _wide(width: int) -> bool:
    return width >= 100


def _name_width(width: int) -> int:
    return max(8, min(28, width - (82 if _wide(width) else 63)))


def _count(row: Row, name: str) -> str:
    found = number(row.get(name))
    return "-" if found is None else f"{found:.0f}"


def device_state(row: Row) -> tuple[str, str, str]:
    """The sign of how a device is, its style, and the word for it."""
    state = "leaving" if row.get("leaving") is True else word(row.get("state"))
    glyph, style = _STATES.get(state, ("○", "dim"))
    said = _WORDS.get(state, state or "gone")
    via = word(row.get("via"))
    return glyph, style, f"{said} {via}" if state == "via" and via else said


def _link(row: Row) -> str:
    rtt = number(row.get("rtt_ms"))
    return "-" if rtt is None else duration(rtt / 1000) if rtt >= 1 else f"{rtt:.1f}ms"


def _load_style(load: float | None) -> str:
    return "" if load is None or load < 0.7 else "busy" if load < 0.9 else "bad"


def _battery(row: Row) -> tuple[Span, ...]:
    charge = number(row.get("battery"))
    if charge is None:
        return ((fit("mains" if row.get("charging") is True else "-", _BAR + 6), "dim"),)
    charge = min(1.0, max(0.0, charge))
    full = round(charge * _BAR)
    style = "good" if charge >= 0.4 else "busy" if charge >= 0.15 else "bad"
    mark = "+" if row.get("charging") is True else " "
    return (("█" * full + "░" * (_BAR - full), style), (f" {charge * 100:3.0f}%{mark}", ""))
