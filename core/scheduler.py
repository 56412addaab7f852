"""Steps + devices + costs → assignment: hard rules never bend, and every choice can say why. The door to runtime_ext.

`assign` takes steps and devices by name, as the dispatcher has them; problem.py is the same by numbers. There is no
clock: times are seconds from now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import inf
from typing import Final

from .costs import Costs
from .device import Device, LinkQuality, short
from .errors import NoDevice, UsageError
from .scene import Job, Placed, Scene, joules_of

try:
    from ..runtime_ext.scheduler import Infeasible, Packed
except ImportError as error:
    raise ImportError("the scheduler's extension is not built; run: make test, or: pip install -e .") from error

__all__ = ["WORK", "Assignment", "Candidate", "Job", "Placed", "assign"]

WORK: Final = 2_000
"""Units of work for an assignment: some 60 µs."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device on which a step could run, or could not: what was predicted of it, in seconds, all else as it is."""

    device: str
    """Its name."""
    chosen: bool
    seconds: float | None = None
    """How long the step would run there; None, as the others, where it cannot."""
    ready: float | None = None
    """When its inputs would be there, from now."""
    end: float | None = None
    """When it would end there; on any device but the chosen one, if it were free by then."""
    why_not: str = ""
    """Why it cannot run there, or is not expected to end there in time."""
    joules: float | None = None
    """What it would take of all devices: its run, and what the radios at both ends of its inputs draw; None if nobody
    says what its run takes there."""


@dataclass(slots=True)
class Assignment:
    """Who does what, and when. The reasons are worked out only when they are asked for."""

    steps: dict[str, Placed]
    makespan: float
    late: tuple[str, ...]
    """Steps that would miss their deadline if every step took as long as nine times out of ten it takes at most."""
    _scene: _Reasons = field(repr=False, compare=False)

    @property
    def joules(self) -> float | None:
        """What the steps that have not begun are expected to take of all devices, radios included, as far as their
        devices say; None if none of them does."""
        return self._scene.total(self.steps)

    def why(self, step_id: str) -> str:
        """One sentence: why the step is where it is.

        Raises:
            KeyError: there is no such step.
        """
        return self._scene.why(self.steps, step_id)

    def refused(self, step_id: str) -> dict[str, str]:
        """Device name → why the step could not run there, for each device of which that is so.

        Raises:
            KeyError: there is no such step.
        """
        return self._scene.refused(self.steps, step_id)

    def candidates(self, step_id: str) -> list[Candidate]:
        """What was predicted of the step on each device; those that could run it come first, the sooner the better.

        Raises:
            KeyError: there is no such step.
        """
        return self._scene.candidates(self.steps, step_id)


def assign(
    jobs: Sequence[Job], devices: Sequence[Device], costs: Costs, link: Callable[[str, str], LinkQuality | None], *,
    fixed: Mapping[str, Placed] | None = None, incumbent: Mapping[str, Placed] | None = None, gain: float = 0.0,
    apart: Set[str] = frozenset(), work: int = WORK,
) -> Assignment:  # fmt: skip
    """Assign every job to a device of the mesh.

    `link(p, q)` is the quality of the link from p to q, None if there is none; `fixed` are the jobs that are done or
    run already, `incumbent` where the others are placed now: that stays unless something else is shorter by more than
    the part `gain`, or misses fewer deadlines. `apart` are fixed jobs of other plans, which only take room. `work` is
    how much may be tried. Of plans of one length the one whose joules are worth least counts (energy.price), if any
    device tells its charge or what its skills take. Equal choices go to the device with most of the inputs, then to the
    earlier one in `devices`.

    Raises:
        NoDevice: a job can run nowhere; it says for each device why not.
        UsageError: a job needs an unknown one or itself, or `on` is the name of two devices.
    """
    scene = _Reasons(jobs, devices, costs, link, fixed or {})
    try:
        packed = Packed(
            scene.seconds, scene.deps, scene.bandwidth, scene.latency, scene.slots, (), scene.exclusive, scene.fixed,
            {i: job.deadline for i, job in enumerate(jobs) if job.deadline is not None},
            joules=scene.dear, carry=scene.carry, apart=[scene.index[job_id] for job_id in apart],
            radio=scene.radio,
        )  # fmt: skip
        now = scene.numbered(incumbent) if incumbent else None
        device, start, end, _, makespan, *_ = packed.solve(work, incumbent=now, margin=gain)
    except Infeasible as error:
        raise scene.complaint(jobs[error.step], error.rule) from None
    except ValueError as error:
        raise UsageError("these steps cannot be scheduled", str(error)) from None
    ids = scene.ids
    steps = {job.id: Placed(ids[p], s, e) for job, p, s, e in zip(jobs, device, start, end, strict=True)}
    late = scene.late(steps, costs) if any(job.deadline is not None for job in jobs) else ()
    return Assignment(steps, makespan, late, scene)


class _Reasons(Scene):
    """A scene that can say why."""

    __slots__ = ()

    # ---- energy

    def _joules(self, steps: Mapping[str, Placed], i: int, p: int) -> float | None:
        """What job `i` takes on device `p`, with its inputs' way there."""
        run = joules_of(self._offering[p][3][self.jobs[i].skill])
        return None if run is None else run + self._hauled(steps, i, p)

    def _hauled(self, steps: Mapping[str, Placed], i: int, p: int) -> float:
        """What the radios at both ends of a job's inputs draw."""
        radios, joules = [f.radio for f in self._facts], 0.0
        for producer, size in self.inputs(i):
            q = self.column[steps[self.jobs[producer].id].device]
            if q != p and q < len(radios) and (rate := self.bandwidth[q][p]) is not None:
                joules += size * (radios[q].send + radios[p].receive + (radios[q].watts + radios[p].watts) / rate)
        return joules

    def _worth(self, steps: Mapping[str, Placed], i: int, p: int) -> float:
        """What the energy of job `i` would be worth on device `p`, with all that comes to it and goes from it."""
        before, after = self._edges()
        at = [self.column[steps[job.id].device] for job in self.jobs]
        worth = self.dear[i][p] if self.dear else 0.0
        worth += sum(size * self.carry[at[j]][p] for j, size in before[i] if at[j] != p)
        return worth + sum(
            size * self.carry[p][at[j]] for j in after[i] if at[j] != p for k, size in before[j] if k == i
        )

    def total(self, steps: Mapping[str, Placed]) -> float | None:
        at = [(i, self.column[steps[job.id].device]) for i, job in enumerate(self.jobs) if i not in self.fixed]
        runs = [joules_of(self._offering[p][3][self.jobs[i].skill]) for i, p in at]
        if all(run is None for run in runs):
            return None
        return sum(run or 0.0 for run in runs) + sum(self._hauled(steps, i, p) for i, p in at)

    # ---- reasons

    def _name(self, p: int) -> str:
        if p >= len(self.devices):
            return short(self.ids[p])
        device = self.devices[p]
        alone = sum(d.name == device.name for d in self.devices) == 1
        return device.name if alone else f"{device.name} ({short(device.id)})"

    def _reason(self, job: Job, p: int) -> str | None:
        """Why a device cannot run a job, whatever the others do."""
        device = self.devices[p]
        if job.skill not in self._offering[p][3]:
            return f"has no {job.skill}"
        asked = self._asked(job)
        if asked is not None and device.id not in asked:
            return f"is not {job.on}, which the plan asks for"
        if device.id in job.avoid:
            return "refused it before"
        if device.id in job.blind:
            return "may not see what it reads, which is personal"
        return "is leaving" if device.leaving else None

    def _arrival(self, steps: Mapping[str, Placed], i: int, p: int) -> float:
        """When the inputs of job `i` are at device `p`; inf for never."""
        ready = 0.0
        for producer, size in self.inputs(i):
            placed = steps[self.jobs[producer].id]
            ready = max(ready, placed.end + self._travel(self.column[placed.device], p, size))
        return ready

    def refused(self, steps: Mapping[str, Placed], step_id: str) -> dict[str, str]:
        i = self.index[step_id]
        reasons = {}
        for p in range(len(self.devices)):
            reason = self._reason(self.jobs[i], p)
            if reason is None and self.ids[p] != steps[step_id].device:
                reason = self._unlinked(steps, i, p)
            if reason is not None:
                reasons[self._name(p)] = reason
        return reasons

    def candidates(self, steps: Mapping[str, Placed], step_id: str) -> list[Candidate]:
        i, placed, refused = self.index[step_id], steps[step_id], self.refused(steps, step_id)
        found = []
        for p in range(len(self.devices)):
            name, chosen, run = self._name(p), self.ids[p] == placed.device, self.seconds[i][p]
            if name in refused or run is None:
                found.append(Candidate(name, chosen, why_not=refused.get(name, "")))
                continue
            ready = self._arrival(steps, i, p)
            busy = not chosen and self._busy(steps, step_id, p, ready, ready + run)
            end = placed.end if chosen else ready + run
            joules = self._joules(steps, i, p)
            found.append(Candidate(name, chosen, run, ready, end, "is busy then" if busy else "", joules))
        return sorted(found, key=lambda c: (c.end is None, not c.chosen, c.end or 0.0))

    def _unlinked(self, steps: Mapping[str, Placed], i: int, p: int) -> str | None:
        before, after = self._edges()
        for j, to in (*((j, False) for j, _ in before[i]), *((j, True) for j in after[i])):
            other = self.column[steps[self.jobs[j].id].device]
            if self._travel(*((p, other) if to else (other, p)), 0.0) == inf:
                return f"has no link {'to' if to else 'from'} {self._name(other)}"
        return None

    def why(self, steps: Mapping[str, Placed], step_id: str) -> str:
        i = self.index[step_id]
        job, placed, row = self.jobs[i], steps[step_id], self.seconds[i]
        p = self.column[placed.device]
        if i in self.fixed:
            return "it is done there" if placed.end <= 0 else "it runs there already"
        run = row[p] or 0.0
        rivals = [q for q in range(len(self.devices)) if q != p and row[q] is not None]
        if not rivals:
            if sum(job.skill in offers for *_, offers in self._offering) == 1:
                return f"the only device that has {job.skill}"
            if job.on is not None:
                return f"asked for by the plan (on: {job.on})"
            others = [f"{self._name(q)} {self._reason(job, q)}" for q in range(len(self.devices)) if q != p]
            return f"the only device left for it: {', '.join(others)}"
        linked = [q for q in rivals if self._unlinked(steps, i, q) is None]
        if not linked:
            first = rivals[0]
            return f"the only device with the links it needs: {self._name(first)} {self._unlinked(steps, i, first)}"
        ready = self._arrival(steps, i, p)
        there, best = min((self._arrival(steps, i, q) + (row[q] or 0.0), q) for q in linked)
        rival, faster = self._name(best), row[best] or 0.0
        cheaper = bool(self.carry) and self._worth(steps, i, p) < self._worth(steps, i, best)
        if ready + run > there:
            if self._busy(steps, step_id, best, there - faster, there):
                return f"{rival} is busy then"
            if cheaper and self._in_time(steps, i, best, there):
                return f"soon enough here, and its energy is dearer on {rival}"
            return f"what follows it goes quicker from here than from {rival}"
        if run < faster:
            return f"{_time(run)} here, {_time(faster)} on {rival}"
        if ready + run < there:
            return f"its inputs are here: {_time(run)}, and {_time(there - ready)} on {rival}"
        return f"no later here than on {rival}" + (", where its energy is dearer" if cheaper else "")

    def _in_time(self, steps: Mapping[str, Placed], i: int, p: int, end: float) -> bool:
        """Whether all that follows job `i` could begin when it does if that one ended then on device `p`."""
        before, after = self._edges()
        return all(
            end + self._travel(p, self.column[steps[self.jobs[j].id].device], size) <= steps[self.jobs[j].id].start
            for j in after[i] for k, size in before[j] if k == i
        )  # fmt: skip

    def _busy(self, steps: Mapping[str, Placed], step_id: str, p: int, begin: float, end: float) -> bool:
        at = self.ids[p]
        there = [s for s, x in steps.items() if s != step_id and x.device == at and x.start < end and x.end > begin]
        return len(there) >= self.slots[p]

    def complaint(self, job: Job, rule: str) -> NoDevice:
        """Why a job has no place, in the person's words."""
        asked = self._asked(job)
        reasons = []
        for p in range(len(self.devices)):
            reason = self._reason(job, p) or "has no link to where its inputs are or its result is needed"
            reasons.append(f"{self._name(p)} {reason}")
        for need in job.needs:
            placed = self.fixed.get(self.index[need])
            if placed is not None and placed[0] >= len(self.devices):
                reasons.append(f"the result of {need} is on {self._name(placed[0])}, which is gone")
        hint = "slip skills list"
        if asked is not None and not asked:
            what = f"{job.skill} must run on {job.on}; none is here"
            hint = f"here are {', '.join(map(self._name, range(len(self.devices)))) or 'no devices'}"
        elif rule == "link":
            what = f"no link carries the inputs or the result of {job.skill}"
            hint = "connect those devices, or change `on`"
        elif asked is not None:
            what = f"{job.skill} must run on {job.on}, which cannot run it now"
        else:
            what = f"no device can run {job.skill}"
        return NoDevice(what, "; ".join(reasons) or "no device is here", hint, step=job.id, skill=job.skill)


def _time(seconds: float) -> str:
    if seconds >= 100:
        return f"{seconds:.0f} s"
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{seconds * 1000:.3g} ms"
