"""What the owner of a run knows of it: the state of each step, as the devices report it.

The journal is written before anything is done about a change (law 8). Old epochs and repeated news change nothing
(law 7), so every report may come late, twice or never.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Protocol

import anyio

from . import plan as plans
from .costs import Costs
from .device import Device, LinkQuality, clean
from .errors import ProtocolError, SlipError, from_wire
from .events import Events
from .journal import Journal, StepRow
from .labels import Flows, Label, Labels
from .loop import new_wake
from .plan import Plan, Step
from .scheduler import Assignment, Placed
from .skill import Effect

OFF_PART, OFF_SECONDS = 0.2, 0.05
"""By so much of what was thought, and so many seconds, a step must be off for the rest to be looked at again."""
ATTEMPTS = 3
"""Times that a repeatable step is tried."""
ENDED = frozenset(("done", "submitted", "skipped", "failed", "denied", "unknown", "cancelled"))
GOOD = frozenset(("done", "submitted", "skipped"))


class Mesh(Protocol):
    """What runs need of their node."""

    id: str

    def devices(self) -> Sequence[Device]:
        """The devices that are here, this one first."""

    def reachable(self, device: str) -> bool:
        """Whether a device is here and not suspected."""

    def link_between(self, a: str, b: str) -> LinkQuality | None:
        """How good the link of two devices is; None if they have none."""

    def name_of(self, device: str) -> str:
        """How people call a device."""

    async def request(self, device: str, target: str, content: dict[str, Any], deadline: float) -> Any:
        """Ask a device (this one too) something about a run."""

    def labels_of(self, device: str, skill: str) -> Labels | None:
        """Where the results of a skill are labelled, as the device that offers it says."""

    def shown(self, value: Any, labels: Labels | None, to: str, *, key: str, listed: bool) -> Any:
        """A step's result as another device may have it."""

    def may_see(self, device: str, label: Label) -> bool:
        """Whether a device may have values with that label."""

    async def specs(self) -> Mapping[str, Mapping[str, Any]]:
        """The specs of all skills in the mesh, by name."""


def blind_to_personal(mesh: Mesh) -> frozenset[str]:
    """The devices that may not see what is personal."""
    return frozenset(d.id for d in mesh.devices() if not mesh.may_see(d.id, Label.PERSONAL))


@dataclass(frozen=True, slots=True)
class Desk:
    """What all runs of a device share."""

    mesh: Mesh
    journal: Journal
    events: Events
    costs: Costs
    clock: Callable[[], float]
    wall: Callable[[], float]
    runs: Mapping[str, Run] = field(default_factory=dict)
    """The runs of this device, by id."""
    full: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Devices that kept steps waiting though these runs left them room: since when, and until when that is expected."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check of a plan found: by step, its effect and the labels of its result; and where values may go."""

    effects: Mapping[str, Effect]
    labels: Mapping[str, Labels]
    flows: Flows


@dataclass(slots=True)
class StepState:
    """What the owner knows and wants of one step."""

    step: Step
    needs: tuple[str, ...]
    state: str = "waiting"
    device: str = ""
    home: str = ""
    """The device that it was placed on last, also while it has none."""
    epoch: int = 0
    attempt: int = 0
    value: Any = None
    has_value: bool = False
    size: int = 0
    error: SlipError | None = None
    began: float | None = None
    ended: float | None = None
    predicted: Placed | None = None
    planned: Placed | None = None
    """As it was predicted first."""
    found: Assignment | None = None
    """By what it was placed: it can say why, and what was thought of other devices then."""
    fraction: float = 0.0
    note: str = ""
    """How far it is, and in what, as its device told last."""
    thought: float | None = None
    """How long it was to take, of one that takes longer: then `predicted` is what is thought by now."""
    asked: bool = False
    """Whether a person was: then how long it took says nothing of the skill."""
    slow: bool = False
    """Whether it overran."""
    pin: str = ""
    """The device that a person wants it on, while that one is here."""
    why: str = ""
    told: bool = False
    """Whether its device confirmed its epoch and who reads its result."""
    tried_to_free: bool = False
    asking: bool = False
    consent: bool = False
    """Whether a person is asked first, on its device or another one."""
    away_since: float | None = None
    avoid: set[str] = field(default_factory=set)
    leaving: dict[str, int] = field(default_factory=dict)
    """Devices that refused it because they leave the mesh, and which of their lives that was."""
    handed: set[str] = field(default_factory=set)
    """Needs whose results the owner itself handed to its device."""
    wall: tuple[float | None, float | None] = (None, None)

    @property
    def final(self) -> bool:
        """Whether it ended."""
        return self.state in ENDED


class Run:
    """One execution of a plan, on the device that owns it."""

    def __init__(self, desk: Desk, run_id: str, plan: Plan, checked: Checked) -> None:
        self.id, self.plan, self.effects = run_id, plan, checked.effects
        self.labels, self.flows = checked.labels, checked.flows
        self.state = "running"
        self.resumed = False
        self.error: SlipError | None = None
        self.output: Any = None
        self.steps = {step.id: StepState(step, step.needs) for step in plan.steps}
        self.readers: dict[str, set[str]] = {s: set() for s in self.steps}
        for step in plan.steps:
            for need in step.needs:
                self.readers[need].add(step.id)
        self.left: dict[str, set[str]] = {}
        """Steps that were freed while their device was away, by the device that may still hold them."""
        self.read_by_owner = {r.source for _, r in plans.refs_of(plan.output)}
        self.ended = anyio.Event()
        self._desk = desk
        self.mesh, self.journal, self.events, self.clock = desk.mesh, desk.journal, desk.events, desk.clock
        self.costs = desk.costs
        self._wake = new_wake()
        self._reports: deque[tuple[str, Mapping[str, Any], float]] = deque()
        self.began = self.clock()
        self.offset = desk.wall() - self.began
        """Of wall time from this device's clock."""
        self.ended_at: float | None = None
        self._deadline = None if plan.deadline_ms is None else self.began + plan.deadline_ms / 1000
        self._replan = ""
        self._cancelling = False

    # -- what others tell --------------------------------------------------------------------------------------------

    def poke(self) -> None:
        """Something changed: compare again."""
        self._wake.set()

    @property
    def cancelling(self) -> bool:
        """Whether somebody had it stopped."""
        return self._cancelling

    def cancel(self) -> None:
        """Stop: cancel what runs, start nothing more."""
        self._cancelling = True
        self.poke()

    def replan(self, why: str) -> None:
        """The mesh changed: what has not begun may be better elsewhere."""
        self._replan = self._replan or why
        self.poke()

    def report(self, device: str, content: Mapping[str, Any]) -> None:
        """A device tells the state of a step. It is written down in the run's own task: the next step must not wait."""
        self._reports.append((device, content, self.clock()))
        self.poke()

    def _take_reports(self) -> None:
        while self._reports:
            self._take_report(*self._reports.popleft())

    def _take_report(self, device: str, content: Mapping[str, Any], now: float) -> None:
        """Old epochs and repeated news change nothing (law 7)."""
        s = self.steps.get(content["step"])
        if s is None or s.final or device != s.device or content["epoch"] != s.epoch:
            return
        state = content["state"]
        s.away_since = None
        if state == "armed":
            return
        seconds = content["seconds"]
        if state == "asking":
            self._started(s, now)
            s.asked = True
            if not s.consent:
                s.consent = True
                self.tell("step.asking", s)
            return
        if s.consent:  # what follows is measured from the answer on
            s.consent, s.began = False, now
        if state == "running" or (seconds is not None and s.state != "running"):
            self._started(s, now - (seconds or 0.0))
        if state == "running":
            return
        if state not in ENDED:
            return
        s.error = from_wire(content["error"]) if content["error"] else None
        if state not in GOOD and self._again(s, state):
            return
        s.value, s.has_value, s.size = content["value"], bool(content["inline"]), int(content["size"])
        if seconds is not None and state == "done" and not s.asked:
            self._desk.costs.saw(s.step.skill, device, float(seconds), s.size, self._desk.wall())
        self.end_step(s, state, seconds)
        self._look_whether_off(s, seconds)

    def _look_whether_off(self, s: StepState, seconds: float | None) -> None:
        """A step that took much longer or shorter than was thought: what follows may be better elsewhere."""
        if (
            seconds is None
            or s.asked
            or s.predicted is None
            or all(other.state != "armed" for other in self.steps.values())
        ):
            return
        thought = s.predicted.end - s.predicted.start if s.thought is None else s.thought
        if abs(seconds - thought) > max(OFF_PART * thought, OFF_SECONDS):
            self.replan(f"{s.step.id} took {seconds:.2g} s where {thought:.2g} s were thought")

    def _started(self, s: StepState, began: float) -> None:
        if s.state != "running":
            s.state, s.began = "running", began
            self._desk.full.pop(s.device, None)
            s.wall = (self._desk.wall() - (self.clock() - began), None)
            self.tell("step.started", s, attempt=s.attempt)

    def matches(self, device: str, content: Mapping[str, Any]) -> bool:
        """Whether a report is of a step that is there now."""
        s = self.steps.get(content["step"])
        return s is not None and not s.final and device == s.device and content["epoch"] == s.epoch

    def progress(self, device: str, content: Mapping[str, Any]) -> None:
        """A device tells how far a step is."""
        s = self.steps.get(content["step"])
        if s is not None and device == s.device and content["epoch"] == s.epoch and not s.final:
            s.fraction = min(1.0, max(0.0, float(content["fraction"])))  # also of what is no number
            s.note = clean(content["note"], 200)
            self.tell("step.progress", s, fraction=s.fraction, note=s.note)

    def _again(self, s: StepState, state: str) -> bool:
        """Try a failed step once more, where that can help and cannot double anything."""
        error = s.error
        if error is None or state != "failed" or self._cancelling:
            return False
        untouched = error.code == "refused"  # it refused before it began
        replan = s.step.on_error == "replan" or self.plan.on_failure == "replan"
        if not (untouched or (self.effects[s.step.id].repeatable and (error.retry or replan))):
            return False
        if untouched and error.where.get("leaving"):
            self._leave(s, error)
            return True
        if s.attempt + 1 >= ATTEMPTS * (3 if untouched else 1):
            return False
        others = (d for d in self.mesh.devices() if d.id not in s.avoid and d.id != s.device)
        if any(d.offer(s.step.skill) for d in others):
            s.avoid.add(s.device)
        self.tell("step.retried", s, why=str(error))
        s.attempt += 1
        self.release(s)
        self.replan(f"{s.step.id} failed on {self.mesh.name_of(s.device)}: {error.what}")
        return True

    def _leave(self, s: StepState, error: SlipError) -> None:
        """Its device leaves: that is none of its tries; if no other can run it, it waits as for one that is away."""
        s.leaving |= {d.id: d.version[0] for d in self.mesh.devices() if d.id == s.device}
        self.tell("step.retried", s, why=str(error))
        self.replan(f"{self.mesh.name_of(s.device)} is leaving")
        self.release(s)
        s.device = ""

    def hand_out(self, s: StepState) -> None:
        """Let the owner hand a result to the readers that may not have it from where it was made."""
        for name in self.readers[s.step.id]:
            reader = self.steps[name]
            if reader.state == "armed" and reader.told and s.step.id not in reader.handed:
                reader.told = False
                self.poke()

    def result_for(self, s: StepState, device: str) -> Any:
        """The result of a step as that device may have it."""
        labels = self.mesh.labels_of(s.device, s.step.skill) or self.labels.get(s.step.id)
        return self.mesh.shown(s.value, labels, device, key=f"{self.id}/{s.step.id}",
                               listed=s.step.for_each is not None)  # fmt: skip

    def release(self, s: StepState) -> None:
        s.state, s.began, s.told, s.away_since = "waiting", None, False, None
        s.predicted = None

    def end_step(self, s: StepState, state: str, seconds: float | None = None) -> None:
        if state not in GOOD and s.step.on_error == "skip" and state == "failed":
            state = "skipped"
        s.state, s.ended = state, self.clock()
        s.wall = (s.wall[0], self._desk.wall())
        self.write(s)
        self.tell("step.done", s, state=state, seconds=seconds, bytes=s.size,
                   **({"error": s.error.to_wire()} if s.error else {}))  # fmt: skip

    def write(self, s: StepState) -> None:
        self.journal.step(self.id, StepRow(
            s.step.id, s.state, s.device, s.epoch, s.attempt, [s.has_value, s.value, s.size],
            s.error.to_wire() if s.error else None, *s.wall,
        ))  # fmt: skip

    def tell(self, kind: str, s: StepState, **fields: Any) -> None:
        self.events.tell(kind, run=self.id, step=s.step.id, skill=s.step.skill, device=s.device, **fields)

    def receivers(self, s: StepState) -> frozenset[str]:
        devices = {self.steps[r].device for r in self.readers[s.step.id] if not self.steps[r].final}
        if s.step.id in self.read_by_owner:
            devices.add(self.mesh.id)
        return frozenset(d for d in devices if d and d not in self.left)

    def order(self, s: StepState, receivers: frozenset[str]) -> dict[str, Any]:
        """A step as its device is told of it: inputs filled in, references to other steps left for their results."""
        inputs = {"inputs": self.plan.inputs}
        step = s.step
        left = None if step.deadline_ms is None else step.deadline_ms / 1000
        if self._deadline is not None:
            rest = self._deadline - self.clock()
            left = rest if left is None else min(left, rest)
        when = None
        if step.when is not None:
            when = {
                "op": step.when.op,
                "left": plans.fill(step.when.left, inputs),
                "right": plans.fill(step.when.right, inputs),
            }
        return {
            "id": step.id, "epoch": s.epoch, "key": f"{self.id}/{step.id}/{s.attempt}", "skill": step.skill,
            "args": plans.fill(step.args, inputs), "needs": list(step.needs),
            "reads": list(step.data_needs), "when": when,
            "for_each": plans.fill(step.for_each, inputs) if step.for_each else None,
            "seconds": left, "priority": self.plan.priority, "sends": sorted(receivers),
            "from": {need: self.steps[need].device for need in step.needs},
        }  # fmt: skip


_REPORT: dict[str, tuple[type, ...]] = {
    "step": (str,), "epoch": (int,), "state": (str,), "inline": (bool,), "size": (int,),
    "error": (dict, type(None)), "seconds": (float, type(None)),
}  # fmt: skip
_STATES = ENDED | {"armed", "running", "asking", "absent"}


def check_report(content: Mapping[str, Any]) -> None:
    """Check the form of a report from another device, before a run takes it in.

    Raises:
        KeyError, TypeError: something is missing or of the wrong type.
    """
    content["value"]
    for name, kinds in _REPORT.items():
        if not isinstance(content[name], kinds) or (isinstance(content[name], bool) and bool not in kinds):
            raise TypeError(f"{name} is {type(content[name]).__name__}")
    seconds = content["seconds"] or 0.0
    if content["state"] not in _STATES or not (isfinite(seconds) and seconds >= 0 and content["size"] >= 0):
        raise ValueError("a state, a time or a size that there is not")


def check_answer(answer: Any, asked: Iterable[str]) -> None:
    """Check the form of what a device says of the steps that it was armed with.

    Raises:
        ProtocolError: it is something else.
    """
    try:
        if not isinstance(answer, Mapping):
            raise TypeError(f"it is {type(answer).__name__}")
        for step in asked:
            if step in answer:
                check_report(answer[step])
                if answer[step]["step"] != step:
                    raise ValueError("it is of another step")
    except (KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ProtocolError("what a device says of its steps cannot be read", why) from None
