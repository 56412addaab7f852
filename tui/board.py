"""What a monitor knows: rows by key and the last events, folded from the frames of a daemon or of a recorded trace.

A frame: `{"seq": n, "time": wall seconds, "rows": {key: row or null}, "events": [event...]}`. The first one, and any
that has `"whole": true`, names every row that there is. `seq` counts without gaps; after one that is missing nothing is
taken until a whole frame comes (`lost`). `"gap": n` says that n events before these were not sent; rows are never
missed: a frame has the newest of each that changed. A null row is gone.

Law: the screens are functions of a board and of nothing else of the mesh, so a recorded trace shows the same ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

from .text import harmless

SCHEMA: Final = 1
"""The version of rows and events that this reads."""
KINDS: Final = ("self", "device", "skills", "run", "step", "why", "consent", "handoff")
"""The first part of a key; what is unknown is kept and not shown."""

Row = Mapping[str, Any]


class Board:
    """Rows and events as of the last frame."""

    def __init__(self, keep: int = 5000) -> None:
        self.rows: dict[str, dict[str, Row]] = {kind: {} for kind in KINDS}
        """By kind, then by the rest of the key."""
        self.events: deque[Row] = deque(maxlen=keep)
        self.seen = 0
        """Events that were ever taken in, gaps included: the number of the next one."""
        self.missed = 0
        self.time = 0.0
        """Wall time of the last frame."""
        self.lost = False
        """Whether a frame is missing: ask for a whole one."""
        self._seq: int | None = None

    def take(self, frame: Any) -> set[str]:
        """Take a frame in; the keys of the rows that changed, and `events` if there are new ones.

        What is not of a frame's form is left out, piece by piece: a screen outlives whatever it is sent.
        """
        if not isinstance(frame, Mapping):
            return set()
        seq, whole = frame.get("seq"), frame.get("whole") is True
        if not isinstance(seq, int) or isinstance(seq, bool):
            return set()
        if not whole and (self._seq is None or seq != self._seq + 1):
            self.lost = self.lost or self._seq is None or seq > self._seq + 1
            return set()
        self._seq, self.lost = seq, False
        self.time = max(self.time, number(frame.get("time")) or 0.0)
        changed = self._take_rows(frame.get("rows"), whole)
        if self._take_events(frame):
            changed.add("events")
        return changed

    def _take_rows(self, rows: Any, whole: bool) -> set[str]:
        rows = rows if isinstance(rows, Mapping) else {}
        changed = set()
        if whole:
            for kind, there in self.rows.items():
                for name in [name for name in there if f"{kind}/{name}" not in rows]:
                    del there[name]
                    changed.add(f"{kind}/{name}")
        for key, row in rows.items():
            kind, _, name = harmless(str(key)).partition("/")
            there = self.rows.setdefault(kind, {})
            if isinstance(row, Mapping):
                before = there.get(name)
                fresh = harmless(row, before)
                if fresh == before:
                    continue
                there[name] = fresh
            elif there.pop(name, None) is None:
                continue
            changed.add(f"{kind}/{name}")
        return changed

    def _take_events(self, frame: Mapping[str, Any]) -> bool:
        gap = frame.get("gap")
        if isinstance(gap, int) and gap > 0:
            self.missed += gap
            self.events.append({"kind": "gap", "time": self.time, "seq": 0, "missed": gap})
            self.seen += 1
        events = frame.get("events")
        fresh = [harmless(e) for e in events if isinstance(e, Mapping)] if isinstance(events, list | tuple) else []
        self.events.extend(fresh)
        self.seen += len(fresh)
        return bool(fresh) or (isinstance(gap, int) and gap > 0)

    def copy(self) -> Board:
        """The board as it is now; rows are never changed in place, so they are shared."""
        other = Board()
        other.rows = {kind: dict(rows) for kind, rows in self.rows.items()}
        other.events = self.events.copy()
        other.seen, other.missed, other.time = self.seen, self.missed, self.time
        other.lost, other._seq = self.lost, self._seq
        return other

    # -- looking -------------------------------------------------------------------------------------------------------

    @property
    def me(self) -> Row:
        """The device whose daemon this is; empty before the first frame."""
        return self.rows["self"].get("", {})

    def all(self, kind: str) -> Iterable[tuple[str, Row]]:
        """The rows of a kind with the rest of their keys."""
        return self.rows.get(kind, {}).items()

    def get(self, kind: str, name: str) -> Row:
        """A row; empty if there is none."""
        return self.rows.get(kind, {}).get(name, {})

    def steps(self, run: str) -> list[Row]:
        """The steps of a run that are known, in the order of its plan."""
        there = self.rows["step"]
        order = self.get("run", run).get("steps")
        names = order if isinstance(order, list) else []
        return [there[key] for key in (f"{run}/{name}" for name in names) if key in there]

    def name_of(self, device: object) -> str:
        """How people call a device."""
        if not isinstance(device, str) or not device:
            return "-"
        return word(self.get("device", device).get("name")) or device[:7]


def number(value: Any) -> float | None:
    """A finite number, None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > 1e300:
        return None
    return float(value)


def word(value: Any) -> str:
    """A text, empty if it is none."""
    return value if isinstance(value, str) else ""
