"""The log: what happened, an event a line, in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from .board import Board, Row, number, word
from .text import Line, Span, fit, size

_STYLES: Final = {
    "warning": "warn", "device.joined": "good", "device.left": "bad", "device.suspect": "busy", "link.down": "bad",
    "link.up": "good", "policy.refused": "bad", "consent.asked": "warn", "consent.answered": "accent",
    "step.retried": "busy", "gap": "bad",
}  # fmt: skip
_BAD: Final = frozenset(("failed", "denied", "unknown", "cancelled"))
_FRAME: Final = frozenset(("kind", "time", "seq", "run", "device", "name", "v"))
_KIND: Final = 17


def event_line(event: Row, width: int) -> Line:
    """When, what, and the rest in words."""
    kind = word(event.get("kind"))
    style = _STYLES.get(kind, "")
    if word(event.get("state")) in _BAD:
        style = "bad"
    at = number(event.get("time"))
    spans: list[Span] = [(f" {clock(at)} ", "dim"), (fit(kind, _KIND), style or "accent"), (" ", "")]
    spans.append((sentence(event), style if style in ("warn", "bad") else ""))
    return tuple(spans)


def event_words(board: Board, event: Row) -> tuple[Row, Callable[[], str]]:
    """What a filter looks at: an event's fields, and its text, which costs more than all else.

    Few events name the skill of their step, and none the kind of its device; the board knows them.
    """
    more = {}
    if "skill" not in event and (step := board.rows["step"].get(f"{event.get('run')}/{event.get('step')}")):
        more["skill"] = step.get("skill")
    if device := board.rows["device"].get(word(event.get("device"))):
        more["device_kind"] = device.get("kind")
    return {**event, **more}, lambda: f"{word(event.get('kind'))} {sentence(event)}"


def clock(at: float | None) -> str:
    """The time of day, to the millisecond."""
    if at is None or not 0 <= at < 4e9:
        return "--:--:--.---"
    return f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at * 1000) % 1000:03d}"


def sentence(event: Row) -> str:
    """What an event says beside its kind, for a person: never markup, one line."""
    kind, name = word(event.get("kind")), word(event.get("name")) or word(event.get("device"))[:7]
    step, skill = word(event.get("step")), word(event.get("skill"))
    match kind:
        case "gap":
            return f"{event.get('missed')} events were missed: more came than fits"
        case "step.armed":
            return f"{step} waits on {name}"
        case "step.started":
            return f"{step} runs on {name}"
        case "step.done":
            seconds, amount = number(event.get("seconds")), number(event.get("bytes"))
            took = "" if seconds is None else f" in {_seconds(seconds)}"
            return f"{step} {word(event.get('state'))} on {name}{took}" + (f", {size(amount)}" if amount else "")
        case "step.progress":
            part = number(event.get("fraction"))
            return f"{step} {'' if part is None else f'{part * 100:.0f}% '}{word(event.get('note'))}".rstrip()
        case "step.retried":
            return f"{step} again: {word(event.get('why'))}"
        case "step.asking":
            return f"{step} waits for a person, on {name}"
        case "step.undone":
            return f"{step} was undone on {name}"
        case "run.started":
            return f"{word(event.get('goal')) or word(event.get('run'))}, {event.get('steps')} steps"
        case "run.done":
            seconds = number(event.get("seconds"))
            return f"{word(event.get('state'))}{'' if seconds is None else f' in {_seconds(seconds)}'}"
        case "run.assigned":
            placed = event.get("assignment")
            moved = number(event.get("moved")) or 0
            many = len(placed) if isinstance(placed, Mapping) else 0
            return f"{word(event.get('why'))}: {many} steps placed" + (f", {moved:.0f} moved" if moved else "")
        case "device.joined" | "device.changed" | "device.suspect" | "link.up":
            return name
        case "device.left" | "link.down":
            return f"{name}: {word(event.get('why'))}" if word(event.get("why")) else name
        case "consent.asked":
            return f"{skill} on {name} needs a yes"
        case "consent.answered":
            answer, by = word(event.get("answer")), word(event.get("by"))
            return (
                f"{skill} on {name}: {'timed out, denied' if answer == 'nobody' else answer}{f' by {by}' if by else ''}"
            )
        case "warning":
            said = [word(event.get(part)) for part in ("what", "why", "hint")]
            return " · ".join(part for part in said if part)
        case _:
            where = f"{name} " if name else ""
            return where + " ".join(f"{n}={_brief(v)}" for n, v in event.items() if n not in _FRAME)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{seconds * 1000:.3g} ms"


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(map(str, value))
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
