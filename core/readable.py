"""Values as a person is shown them before they decide: plain, cleaned and short, and what was left out is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .device import clean

LEAVES: Final = 100
DEPTH: Final = 6
TEXT: Final = 200


def readable(args: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a person is shown them: plain, cleaned, and short; `…` says where something was left out."""
    left = [LEAVES]
    shown: dict[str, Any] = _readable(dict(args), left, DEPTH)
    return shown


def _readable(value: Any, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if isinstance(value, Mapping) and depth:
        shown: dict[str, Any] = {}
        for name, inner in value.items():
            if left[0] <= 0:
                shown["…"] = f"{len(value) - len(shown)} more"
                break
            shown[_brief(name)] = _readable(inner, left, depth - 1)
        return shown
    if isinstance(value, list | tuple) and depth:
        items: list[Any] = []
        for inner in value:
            if left[0] <= 0:
                items.append(f"… {len(value) - len(items)} more")
                break
            items.append(_readable(inner, left, depth - 1))
        return items
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is int and abs(value) < 2**63:
        return value
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    return "…" if isinstance(value, Mapping | list | tuple) else _brief(value)


def _brief(value: object) -> str:
    text = clean(value, TEXT + 1)
    return text if len(text) <= TEXT else f"{text[: TEXT - 1]}…"
