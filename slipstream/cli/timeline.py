"""A run as text: a bar for each step, by device, with the reason why it ran there. A pure function of events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

WIDTH = 80
_BAR = 30
_GLYPHS = {"done": "✓", "submitted": "✓", "skipped": "–", "failed": "✗", "moved": "⇄"}


@dataclass(slots=True)
class Bar:
    """A step on one device: from when it was armed there to when it ended there, in seconds of the run."""

    step: str
    device: str
    armed: float
    began: float | None = None
    ended: float | None = None
    seconds: float | None = None
    state: str = "armed"
    why: str = ""


@dataclass(slots=True)
class Timeline:
    """The bars of a run, in the order in which they began."""

    bars: list[Bar] = field(default_factory=list)
    killed: dict[str, float] = field(default_factory=dict)
    """Devices that are no more, by name, and since when."""
    began: float = 0.0
    _now: dict[str, Bar] = field(default_factory=dict)
    _why: dict[str, str] = field(default_factory=dict)

    def see(self, event: Mapping[str, Any]) -> None:
        """Take in an event of the run, as a daemon's `events` tells it (with the device's `name`)."""
        kind, at = event["kind"], event["time"] - self.began
        if kind == "run.started":
            self.began = event["time"]
        elif kind == "run.assigned":
            self._why.update({step: placed["why"] for step, placed in event["assignment"].items()})
        elif kind == "step.armed":
            device = event["name"]
            before = self._now.get(event["step"])
            if before is not None and before.device == device and before.ended is None:
                return
            if before is not None and before.ended is None:
                before.state, before.ended = "moved", self.killed.get(before.device, at)
            bar = self._now[event["step"]] = Bar(event["step"], device, at, why=self._why.get(event["step"], ""))
            self.bars.append(bar)
        elif (now := self._now.get(event.get("step", ""))) is not None:
            if kind == "step.started":
                now.began = at if now.began is None else now.began
            elif kind == "step.done":
                now.state, now.ended, now.seconds = event["state"], at, event["seconds"]
                now.began = at if now.began is None else now.began

    def where(self) -> dict[str, str]:
        """The device on which each step ended."""
        return {step: bar.device for step, bar in self._now.items() if bar.ended is not None}

    def lines(self, *, plain: bool = False) -> list[str]:
        """The drawing: at most 80 columns; `plain` has ASCII only."""
        end = max((bar.ended or bar.armed for bar in self.bars), default=0.0)
        scale = (_BAR - 1) / max(end, 0.001)
        found: list[str] = []
        for device in dict.fromkeys(bar.device for bar in self.bars):
            mine = [bar for bar in self.bars if bar.device == device]
            if not mine:
                continue
            note = f" (killed at {self.killed[device]:.2f} s)" if device in self.killed else ""
            found.append(f"{device}{note} ".ljust(WIDTH, "─"))
            for bar in sorted(mine, key=lambda bar: bar.armed if bar.began is None else bar.began):
                found += self._lines(bar, scale)
        return [ascii_only(line) for line in found] if plain else found

    def _lines(self, bar: Bar, scale: float) -> Iterable[str]:
        ended = bar.armed if bar.ended is None else bar.ended
        if bar.state == "moved":
            start, drawn = bar.armed, "░"
            took = f"{bar.armed:5.2f} s  not begun" if bar.began is None else f"{bar.began:5.2f} s  cut off"
        else:
            start, drawn = ended if bar.began is None else bar.began, "█"
            took = f"{start:5.2f} s  {_seconds(bar)}"
        left = min(_BAR - 1, round(start * scale))
        length = max(1, min(_BAR - left, round((ended - start) * scale)))
        line = (drawn * length).rjust(left + length).ljust(_BAR)
        head = f"{_GLYPHS.get(bar.state, '✗')} {bar.state:<7.7} {bar.step:<13.13} "
        yield f"{head}{line} {took}"[:WIDTH].rstrip()
        yield from wrap(bar.why or "it was not said why", WIDTH, initial_indent="    here because: ",
                        subsequent_indent="      ")  # fmt: skip


def _seconds(bar: Bar) -> str:
    if bar.state == "skipped":
        return "condition false"
    if bar.seconds is None:
        return ""
    return f"{bar.seconds:.2f} s" if bar.seconds >= 0.1 else f"{bar.seconds * 1000:.1f} ms"


_ASCII = str.maketrans({"✓": "+", "–": "-", "✗": "x", "⇄": ">", "░": ".", "█": "#", "─": "-", "▶": ">", "→": ">",
                        "…": "_", "●": "*", "·": "."})  # fmt: skip


def ascii_only(line: str) -> str:
    """A line for a terminal that has no Unicode."""
    return line.translate(_ASCII).encode("ascii", "replace").decode("ascii")
