"""What monitors and traces are shown of a node: rows by key, and events, in frames that each takes at its own rate.

A frame: `{"schema": 1, "seq": n, "time": wall seconds, "rows": {key: row or null}, "events": [event...]}`; the first is
`whole`. Laws: an event marks keys, nothing more; a row is made when a frame is due and only if it was marked. What a
viewer did not take yet is bounded: its marks by MARKS (beyond them its next frame is whole again), its events by KEEP
(the oldest go, and are counted in `gap`). So a viewer that is slow, or stopped, costs the node nothing but that.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, Final

import anyio

from . import __version__
from .core.consent_table import Request
from .core.device import Device
from .core.dispatch import Dispatch
from .core.events import Event
from .core.journal import RunRow, StepRow
from .core.node import Node
from .core.run import StepState
from .plan_view import with_name

SCHEMA: Final = 1
KEEP: Final = 1000
"""Events that wait for a viewer."""
MARKS: Final = 10_000
"""Marks that wait for a viewer: rows come and go, and one that is stopped takes none of them."""
RUNS: Final = 20
"""Runs that are shown, the newest; those that ended go first."""
HANDOFFS: Final = 200
CANDIDATES: Final = 12
REFUSED: Final = 50
WHYS: Final = 8
"""Reasons in one frame: at 50 devices each takes a millisecond."""
LOOKS: Final = 2.0
"""Seconds after which charge, load and links are looked at, of which no event tells; then a frame comes anyway."""


Row = dict[str, Any]


class Viewer:
    """One that is shown things; `wants(key)` and `kinds` (beginnings of events' kinds) say which.

    Of the events that the node still knows, those after number `since` are in its first frame.
    """

    def __init__(
        self, feed: Feed, wants: Callable[[str], bool] = lambda key: True, kinds: tuple[str, ...] = ("",),
        since: int = 0,
    ) -> None:  # fmt: skip
        self._feed, self._wants, self._kinds = feed, wants, kinds
        self._marked: dict[str, None] = {}
        known = [e for e in feed.node.events.recent if e.seq > since and e.kind.startswith(kinds)]
        self._events: deque[Event] = deque(known[-KEEP:])
        self._missed = 0
        self._seq = 0
        self._whole = True
        self._news = anyio.Event()

    def mark(self, keys: Iterable[str]) -> None:
        """These rows changed, or came, or went."""
        if self._whole:
            return
        before = len(self._marked)
        self._marked.update((key, None) for key in keys if self._wants(key))
        if len(self._marked) > MARKS:
            self._marked, self._whole = {}, True
        elif len(self._marked) == before:
            return
        self._news.set()

    def tell(self, event: Event) -> None:
        """Something happened."""
        if event.kind.startswith(self._kinds):
            if len(self._events) >= KEEP:
                self._events.popleft()
                self._missed += 1
            self._events.append(event)
            self._news.set()

    @property
    def waiting(self) -> bool:
        """Whether there is something that it was not shown yet."""
        return bool(self._whole or self._marked or self._events)

    async def news(self) -> None:
        """Wait until there is something to show."""
        if not self.waiting:
            self._news = anyio.Event()
            await self._news.wait()

    def frame(self) -> Row:
        """All that is new since the last one."""
        feed, whole, self._whole = self._feed, self._whole, False
        if whole:
            self._marked = dict.fromkeys(filter(self._wants, feed.keys()))
        rows = feed.rows(self._take())
        events, self._events = self._events, deque()
        frame: Row = {"schema": SCHEMA, "seq": self._seq, "time": feed.node.wall(), "rows": rows,
                      "events": [with_name(event, feed.node.name_of) for event in events]}  # fmt: skip
        if whole:
            frame["whole"] = True
        if self._missed:
            frame["gap"], self._missed = self._missed, 0
        self._seq += 1
        return frame

    def _take(self) -> list[str]:
        """The marked keys; of reasons, which cost the most, some at a time."""
        reasons = [key for key in self._marked if key.startswith("why/")]
        later = reasons[WHYS:]
        taken = self._marked.keys() - later
        keys = [key for key in self._marked if key in taken]
        self._marked = dict.fromkeys(later)
        return keys


class Feed:
    """The rows of a node, kept up for whoever looks."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._about = {"began": node.wall(), "pid": os.getpid(), "version": __version__}
        self._viewers: list[Viewer] = []
        self._made: dict[str, Row] = {}
        self._stale: set[str] = set()
        self._now: _Now
        self._measured = float("-inf")
        self._handoffs: dict[str, Row] = {}
        self._moving: dict[tuple[str, str], str] = {}
        """The key of the last handoff of a step."""
        self._homes: dict[tuple[str, str], str] = {}
        """The device that each step of the runs that go on was armed on last."""
        self._freed: dict[tuple[str, str], float] = {}
        """When a step was freed there."""
        node.events.listen(self._heard)

    # -- viewers -------------------------------------------------------------------------------------------------------

    def open(self, viewer: Viewer) -> Callable[[], None]:
        """Show things to a viewer from now on; what is returned ends it."""
        self._viewers.append(viewer)

        def close() -> None:
            self._viewers.remove(viewer)
            if not self._viewers:
                self._made.clear()
                self._stale.clear()

        return close

    async def frames(self, viewer: Viewer, rate: float) -> AsyncGenerator[Row, None]:
        """The frames of a viewer, `rate` a second at most; who takes none for a while finds all news in the next."""
        close = self.open(viewer)
        try:
            yield viewer.frame()
            while True:
                await anyio.sleep(1 / rate)
                with anyio.move_on_after(LOOKS):
                    await viewer.news()
                self._measure()
                yield viewer.frame()
        finally:
            close()

    def _measure(self) -> None:
        """Mark what changes without an event."""
        now = self.node.clock()
        if now - self._measured >= LOOKS:
            self._measured, self._now = now, _Now(self.node)
            looked = [(key, row) for key, row in self._made.items() if key.startswith(("self/", "device/"))]
            self._mark([key for key, row in looked if self._make(key) != row])

    def _mark(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        self._stale.update(keys)
        if len(self._stale) > MARKS:
            self._made.clear()
            self._stale.clear()
        for viewer in self._viewers:
            viewer.mark(keys)

    # -- what happens --------------------------------------------------------------------------------------------------

    def _heard(self, event: Event) -> None:
        fields = event.fields
        if "step" in fields:
            self._follow(event, (fields["run"], fields["step"]))
        if not self._viewers:
            return
        self._mark(self._touched(event.kind, fields))
        for viewer in self._viewers:
            viewer.tell(event)

    def _touched(self, kind: str, fields: Mapping[str, Any]) -> Iterator[str]:
        """The rows that an event says something new of."""
        family = kind.partition(".")[0]
        match family:
            case "step":
                yield f"step/{fields['run']}/{fields['step']}"
                if kind in ("step.started", "step.done"):
                    yield f"device/{fields['device']}"
                if kind == "step.done":
                    yield f"run/{fields['run']}"
                if (key := self._moving.get((fields["run"], fields["step"]))) is not None:
                    yield key
            case "run":
                run = fields["run"]
                yield f"run/{run}"
                live = self.node.runs.by_id.get(run)
                if live is not None:
                    yield from (f"step/{run}/{step}" for step in live.steps)
                else:  # it was interrupted, and is over now
                    yield from (key for key in self._made if key.startswith(f"step/{run}/"))
                if kind == "run.assigned":
                    yield from (f"why/{run}/{step}" for step in fields["assignment"])
                if kind == "run.started":
                    yield from self._outdated()
            case "device" | "link":
                yield f"device/{fields['device']}"
                if family == "device":
                    yield f"skills/{fields['device']}"
            case "consent":
                yield f"consent/{fields['device']}/{fields['request']}"
            case "node" | "config":
                yield "self/"
                yield f"device/{self.node.id}"
                yield f"skills/{self.node.id}"

    def _outdated(self) -> Iterator[str]:
        """What of old runs is not shown any more, once there is a new one."""
        now = _Now(self.node)
        shown = {*now.runs, *now.interrupted}
        for key in self._made:
            kind, _, rest = key.partition("/")
            if kind in ("run", "step", "why") and rest.partition("/")[0] not in shown:
                yield key

    def _follow(self, event: Event, step: tuple[str, str]) -> None:
        """Steps that move from device to device are handoffs, as far as they came."""
        fields, kind = event.fields, event.kind
        if kind == "step.armed":
            before, self._homes[step] = self._homes.get(step), fields["device"]
            if before not in (None, fields["device"]):
                self._begin(event, step, str(before))
        elif kind == "step.freed":
            self._freed[step] = event.time
        elif kind == "step.done":
            self._homes.pop(step, None)
            self._freed.pop(step, None)
        key = self._moving.get(step)
        row = None if key is None else self._handoffs.get(key)
        if row is None or row["state"] != "moving":
            return
        if kind == "step.started":
            row["phases"] = [*row["phases"], ["running", event.time]]
            row["state"] = "done"
        elif kind == "step.done":
            row["state"] = "done" if fields["state"] in ("done", "submitted", "skipped") else "failed"

    def _begin(self, event: Event, step: tuple[str, str], before: str) -> None:
        live = self.node.runs.by_id.get(step[0])
        why = live.why if live is not None else ""
        decided = live.assigned_at if live is not None else event.time
        freed = self._freed.pop(step, None)
        phases = [["decided", decided], *([["freed", freed]] if freed is not None else []), ["armed", event.time]]
        if (last := self._moving.get(step)) in self._handoffs and self._handoffs[str(last)]["state"] == "moving":
            self._handoffs[str(last)]["state"] = "done"  # it moved on before it began there
        key = f"handoff/{step[0]}/{step[1]}/{event.seq}"
        self._moving[step] = key
        self._handoffs[key] = {
            "run": step[0], "step": step[1], "skill": event.fields["skill"], "from": before,
            "to": event.fields["device"], "why": why, "began": decided if freed is None else min(decided, freed),
            "phases": sorted(phases, key=lambda phase: phase[1]), "bytes": None, "state": "moving",
            "owner_before": before, "owner_after": event.fields["device"],
        }  # fmt: skip
        while len(self._handoffs) > HANDOFFS:
            oldest = next(iter(self._handoffs))
            del self._handoffs[oldest]
            self._moving = {s: k for s, k in self._moving.items() if k != oldest}
            self._mark([oldest])

    # -- rows ----------------------------------------------------------------------------------------------------------

    def keys(self) -> list[str]:
        """The rows that there are."""
        node = self.node
        devices = [node.members.me, *(device for device, _ in node.members.known())]
        found = ["self/", *(f"device/{d.id}" for d in devices), *(f"skills/{d.id}" for d in devices)]
        for run in _shown(node):
            found.append(f"run/{run.id}")
            found += [f"step/{run.id}/{step}" for step in run.steps]
            found += [f"why/{run.id}/{step}" for step, s in run.steps.items() if s.found is not None]
        for run_id, (row, _) in _Now(node).interrupted.items():
            found += [f"run/{run_id}", *(f"step/{run_id}/{step['id']}" for step in row.plan["steps"])]
        found += [f"consent/{r.device}/{r.id}" for r in node.gate.consents.open()]
        return [*found, *self._handoffs]

    def rows(self, keys: Iterable[str]) -> dict[str, Row | None]:
        """Rows by key, None for those that are not any more; what was not marked since is not made again."""
        found: dict[str, Row | None] = {}
        self._now = _Now(self.node)
        for key in keys:
            row = None if key in self._stale else self._made.get(key)
            if row is None:
                row = self._make(key)
                self._stale.discard(key)
                if row is None:
                    self._made.pop(key, None)
                else:
                    self._made[key] = row
            found[key] = row
        return found

    def _make(self, key: str) -> Row | None:
        kind, _, rest = key.partition("/")
        run, _, step = rest.partition("/")
        match kind:
            case "self":
                return self._me()
            case "device":
                return self._device(rest)
            case "skills":
                device = self.node.members.find(rest)
                return None if device is None else {"names": [offer.name for offer in device.offers]}
            case "run" | "step" | "why":
                live = self._now.runs.get(run)
                if live is None:
                    left = self._now.interrupted.get(run)
                    return None if left is None or kind == "why" else self._interrupted(*left, step)
                return self._run(live) if kind == "run" else _step(live, step) if kind == "step" else _why(live, step)
            case "consent":
                asked = (r for r in self.node.gate.consents.open() if f"{r.device}/{r.id}" == rest)
                return next((self._request(r) for r in asked), None)
            case _:
                row = self._handoffs.get(key)
                return None if row is None else dict(row)

    def _me(self) -> Row:
        me = self.node.members.me
        return {"id": me.id, "name": me.name, "kind": me.kind, "simulated": me.simulated, **self._about}

    def _device(self, device_id: str) -> Row | None:
        node, members = self.node, self.node.members
        device = members.find(device_id)
        if device is None:
            return None
        via, resources = members.via(device.id), device.resources
        link = members.link(node.id, device.id) if device.id != node.id else None
        return {
            "id": device.id, "name": device.name, "kind": device.kind, "state": members.state(device.id),
            "via": node.name_of(via) if via not in (None, device.id) else None,
            "rtt_ms": None if link is None or link.rtt is None else round(link.rtt * 1000, 1),
            "bandwidth": None if link is None or link.bandwidth is None else round(link.bandwidth, -3),
            "battery": resources.battery, "charging": resources.charging, "load": round(resources.load, 2),
            "slots": resources.slots, "radio": resources.radio, "skills": len(device.offers),
            "running": self._now.running[device.id], "sessions": 0, "simulated": device.simulated,
            "leaving": device.leaving, "seen": self._seen(device),
            "address": device.addresses[0] if device.addresses else None,
        }  # fmt: skip

    def _seen(self, device: Device) -> float | None:
        """When it was here last, by the wall's clock; None if it is."""
        at = self.node.members.seen(device.id)
        return None if at is None else round(self.node.wall() - (self.node.clock() - at))

    def _run(self, run: Dispatch) -> Row:
        state = "cancelling" if run.cancelling and not run.ended.is_set() else run.state
        return {
            "run": run.id, "goal": run.plan.goal, "state": state, "began": run.began + run.offset,
            "ended": None if run.ended_at is None else run.ended_at + run.offset, "owner": self.node.id,
            "steps": list(run.steps), "makespan": None if run.found is None else run.found.makespan, "why": run.why,
            "error": None if run.error is None else run.error.to_wire(),
        }  # fmt: skip

    def _interrupted(self, run: RunRow, steps: Mapping[str, StepRow], name: str) -> Row | None:
        """A run that the last life of this device left open, or a step of it, as the journal has them."""
        if not name:
            return {
                "run": run.id, "goal": run.plan["goal"], "state": "interrupted", "began": run.began, "ended": None,
                "owner": self.node.id, "steps": [step["id"] for step in run.plan["steps"]], "makespan": None, "why": "",
                "error": run.error,
            }  # fmt: skip
        planned, s = next((step for step in run.plan["steps"] if step["id"] == name), None), steps.get(name)
        if planned is None:
            return None
        return {
            "run": run.id, "step": name, "skill": planned["skill"], "needs": list(planned.get("after", ())),
            "reads": [], "state": s.state if s else "waiting", "device": s.device if s else "",
            "began": s.began if s else None, "ended": s.ended if s else None, "start": None, "end": None,
            "planned": None, "attempt": s.attempt if s else 0, "fraction": 0.0, "note": "", "why": "",
            "error": s.error if s else None, "size": s.result[2] if s else 0,
        }  # fmt: skip

    def _request(self, r: Request) -> Row:
        name, run = self.node.name_of, self.node.runs.by_id.get(r.run)
        return {
            "id": r.id, "skill": r.skill, "title": r.title, "effect": r.effect, "args": r.args, "run": r.run,
            "step": r.step, "goal": None if run is None else run.plan.goal, "device": r.device,
            "device_name": name(r.device), "caller": r.caller, "caller_name": name(r.caller), "origin": r.origin,
            "origin_name": name(r.origin), "asked_at": r.asked_at, "until": r.until,
        }  # fmt: skip


class _Now:
    """What many rows of one frame are made of: the runs that are shown, and how many steps run on each device."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.runs = {run.id: run for run in _shown(node)}
        self.running = Counter(
            s.device for run in self.runs.values() if not run.ended.is_set()
            for s in run.steps.values() if s.state == "running"
        )  # fmt: skip

    @cached_property
    def interrupted(self) -> dict[str, tuple[RunRow, dict[str, StepRow]]]:
        """The newest runs that the last life of this device left open, with their steps."""
        left = self._node.runs.interrupted()[:RUNS]
        return {run.id: (run, self._node.journal.steps(run.id)) for run in left}


def _shown(node: Node) -> list[Dispatch]:
    """The newest runs; those that go on are always among them."""
    runs = list(node.runs.by_id.values())
    ended = [run for run in runs if run.ended.is_set()]
    gone = set(islice((run.id for run in ended), max(0, len(runs) - RUNS)))
    return [run for run in runs if run.id not in gone]


def _step(run: Dispatch, name: str) -> Row | None:
    s = run.steps.get(name)
    if s is None:
        return None
    placed, first = s.predicted, s.planned
    return {
        "run": run.id, "step": name, "skill": s.step.skill, "needs": list(s.needs), "reads": list(s.step.data_needs),
        "state": "asking" if s.consent else s.state, "device": s.device, "began": s.wall[0], "ended": s.wall[1],
        "start": None if placed is None else placed.start + run.offset,
        "end": None if placed is None else placed.end + run.offset,
        "planned": None if first is None else [first.device, first.start + run.offset, first.end + run.offset],
        "attempt": s.attempt, "fraction": s.fraction, "note": s.note, "why": s.why,
        "error": None if s.error is None else s.error.to_wire(), "size": s.size,
    }  # fmt: skip


def _why(run: Dispatch, name: str) -> Row | None:
    s: StepState | None = run.steps.get(name)
    if s is None or s.found is None:
        return None
    candidates = s.found.candidates(name)
    could = [c for c in candidates if c.seconds is not None][:CANDIDATES]
    return {
        "why": s.why,
        "candidates": [
            {"device": c.device, "chosen": c.chosen, "seconds": c.seconds, "ready": c.ready, "end": c.end,
             "joules": c.joules, "why_not": c.why_not} for c in could
        ],
        "refused": dict(islice(((c.device, c.why_not) for c in candidates if c.seconds is None), REFUSED)),
    }  # fmt: skip
