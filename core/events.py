"""Everything that can happen, in one vocabulary for log, monitor, trace and tests.

An event is a kind, a time and a few plain fields; `seq` numbers a node's events without gaps, so a reader that missed
some knows it. The hub keeps the last ones, so that a reader resynchronises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

KINDS: Final = {
    "node.started": "this device is up: name, addresses",
    "config.reloaded": "the config and the skill files were read again: changed, later (what needs a restart)",
    "node.stopping": "this device leaves gracefully",
    "device.joined": "a device is in the mesh: device, name, via",
    "device.changed": "a device's announcement changed: device",
    "device.suspect": "nothing was heard of a device for a while: device",
    "device.left": "a device is gone: device, name, why",
    "link.up": "an authenticated link: device, address",
    "link.down": "a link ended: device, why",
    "run.started": "a run begins: run, goal, steps",
    "run.assigned": "who does what, and why: run, assignment, why (scheduled, device left, step overran, ...), moved "
    "(how many steps went elsewhere), gain (seconds sooner than if none had; None: some had to)",
    "run.done": "a run ended: run, state, seconds",
    "step.armed": "a device holds a step that waits for its inputs: run, step, device",
    "step.started": "run, step, device, attempt",
    "step.freed": "a step that had not begun was given back, or cannot begin any more where it was: run, step, device",
    "step.progress": "run, step, device, fraction, note",
    "step.retried": "run, step, device, why",
    "step.done": "run, step, device, state, seconds, bytes",
    "step.undone": "a compensation ran: run, step, device",
    "skill.called": "a skill ran for a caller outside any run: skill, device, seconds, state",
    "step.asking": "a step waits for a person's consent: run, step, device",
    "consent.asked": "a person is asked: request, skill, device, caller, seconds (until it is denied)",
    "consent.answered": "the answer to a request, or that nobody gave one: request, skill, device, answer, by",
    "policy.refused": "a call was refused here: skill, caller, rule, why",
    "trust.changed": "the roster changed: joined, revoked (ids of devices)",
    "discovery.found": "mDNS suggests an address: device, address",
    "warning": "something that a person may want to mend: what, why, hint",
}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: its kind (a key of KINDS), the wall time in seconds, and its fields."""

    seq: int
    time: float
    kind: str
    fields: dict[str, Any]

    def to_wire(self) -> dict[str, Any]:
        """The event as one flat map."""
        return {"seq": self.seq, "time": self.time, "kind": self.kind, **self.fields}


class Events:
    """Where a node tells what happens, and where others listen; a slow listener is its own problem, not the node's."""

    def __init__(self, wall: Callable[[], float], keep: int = 2000) -> None:
        self._wall = wall
        self.recent: deque[Event] = deque(maxlen=keep)
        self._listeners: list[Callable[[Event], None]] = []
        self.seq = 0

    def tell(self, kind: str, **fields: Any) -> None:
        """Something happened; every listener is called at once, on the event loop."""
        if kind not in KINDS:
            raise ValueError(f"no such event: {kind}")
        self.seq += 1
        event = Event(self.seq, self._wall(), kind, fields)
        self.recent.append(event)
        for listener in tuple(self._listeners):
            listener(event)

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event from now on; what is returned stops it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)
