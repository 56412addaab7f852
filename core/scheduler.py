"""Steps + devices + costs → assignment: hard rules never bend, and every choice can say why. The door to runtime_ext.

`assign` takes steps and devices by name, as the dispatcher has them; problem.py is the same by numbers. There is no
clock: times are seconds from now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import Any, Final, NamedTuple

from .costs import Costs
from .device import Device, LinkQuality, Offer, short
from .errors import NoDevice, UsageError

try:
    from ..runtime_ext.scheduler import Infeasible, Packed
except ImportError as error:
    raise ImportError("the scheduler's extension is not built; run: make test, or: pip install -e .") from error

RTT: Final = 0.005
"""Seconds, for a link that was not measured yet."""
BANDWIDTH: Final = 10e6
"""Bytes per second, for a link that was not measured yet."""
SIZE: Final = 1024.0
"""Bytes, for the output of a skill that never ran."""
GUESS: Final = 0.05
"""Seconds, where an announced guess makes no sense."""
WORK: Final = 2_000
"""Units of work for an assignment: some 60 µs."""
SAFE: Final = 0.9
"""Of run times, for deadlines: a plan is made on medians, and promised on this quantile."""
OFFERS_KEPT: Final = 256
"""Devices whose offers are remembered by name."""
_LARGE: Final = 1e12
"""Bytes; no output is larger."""
_LONG: Final = 86_400.0
"""Seconds; what a device announces above that makes no sense."""


@dataclass(frozen=True, slots=True)
class Job:
    """A step as the scheduler sees it."""

    id: str
    skill: str
    needs: tuple[str, ...] = ()
    """Ids of the steps whose output or end it waits for."""
    on: str | None = None
    """The id, name or kind of the device that it must run on."""
    deadline: float | None = None
    """Seconds from now; soft."""
    avoid: frozenset[str] = frozenset()
    """Ids of devices that refused it."""
    blind: frozenset[str] = frozenset()
    """Ids of devices that may not see what it reads."""


class Placed(NamedTuple):
    """A step's device (its id) and times, in seconds from now; negative for what began before."""

    device: str
    start: float
    end: float


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


@dataclass(slots=True)
class Assignment:
    """Who does what, and when. The reasons are worked out only when they are asked for."""

    steps: dict[str, Placed]
    makespan: float
    late: tuple[str, ...]
    """Steps that would miss their deadline if every step took as long as nine times out of ten it takes at most."""
    _scene: _Scene = field(repr=False, compare=False)

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
    how much may be tried. Equal choices go to the device with most of the inputs, then to the earlier one in `devices`.

    Raises:
        NoDevice: a job can run nowhere; it says for each device why not.
        UsageError: a job needs an unknown one or itself, or `on` is the name of two devices.
    """
    scene = _Scene(jobs, devices, costs, link, fixed or {})
    try:
        packed = Packed(
            scene.seconds, scene.deps, scene.bandwidth, scene.latency, scene.slots, (), scene.exclusive, scene.fixed,
            {i: job.deadline for i, job in enumerate(jobs) if job.deadline is not None},
            apart=[scene.index[job_id] for job_id in apart],
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


_named: dict[int, tuple[tuple[Offer, ...], dict[str, Offer]]] = {}


def _by_name(offers: tuple[Offer, ...]) -> dict[str, Offer]:
    """A device's offers by name; of those that were asked for lately it is remembered."""
    known = _named.get(id(offers))
    if known is None or known[0] is not offers:  # what is remembered is kept alive, so its id is nobody else's
        if len(_named) >= OFFERS_KEPT:
            _named.clear()
        known = _named[id(offers)] = offers, {o.name: o for o in offers}
    return known[1]


class _Scene:
    """What an assignment was made from, numbered; columns are the devices, then those that only fixed jobs name."""

    __slots__ = (
        "_by_job", "_locks", "_offering", "bandwidth", "column", "deps", "devices", "exclusive", "fixed", "ids",
        "index", "jobs", "latency", "seconds", "slots",
    )  # fmt: skip

    def __init__(
        self, jobs: Sequence[Job], devices: Sequence[Device], costs: Costs,
        link: Callable[[str, str], LinkQuality | None], fixed: Mapping[str, Placed],
    ) -> None:  # fmt: skip
        self.jobs, self.devices = jobs, devices
        self.index = index = {job.id: i for i, job in enumerate(jobs)}
        self.ids = ids = [d.id for d in devices]
        self.column = column = {device_id: p for p, device_id in enumerate(ids)}
        for placed in fixed.values():
            if placed.device not in column:
                column[placed.device] = len(ids)
                ids.append(placed.device)
        gone = len(ids) - len(devices)
        self.fixed = {index[s]: (column[f.device], f.start, f.end) for s, f in fixed.items() if s in index}
        self.slots = [d.resources.slots for d in devices] + [1] * gone
        self._links(link, gone)

        self._offering = [(p, d.id, d.leaving, _by_name(d.offers)) for p, d in enumerate(devices)]
        self._locks: dict[str, str] = {}
        self._by_job: tuple[list[list[tuple[int, float]]], list[list[int]]] | None = None
        rows: dict[Any, list[float | None]] = {}
        self.seconds: list[list[float | None]] = []
        self.deps: list[tuple[int, int, float]] = []
        locked: dict[str, list[int]] = {}
        size = costs.size
        sizes = [size(job.skill, SIZE) for job in jobs]
        for i, job in enumerate(jobs):
            # a fixed job's row is not looked at, so what it asked for no longer matters
            free = i in self.fixed or (job.on is None and not job.avoid and not job.blind)
            key = job.skill if free else (job.skill, job.on, job.avoid, job.blind)
            row = rows.get(key)
            if row is None:
                avoid, wanted = (frozenset(), None) if free else (job.avoid | job.blind, self._asked(job))
                row = rows[key] = self._row(job.skill, avoid, wanted, costs)
            self.seconds.append(row)
            lock = self._locks.get(job.skill)
            if lock is not None:
                locked.setdefault(lock, []).append(i)
            for need in job.needs:
                producer = index.get(need)
                if producer is None:
                    raise UsageError(f"step {job.id} needs {need}", "there is no such step", step=job.id, field="needs")
                self.deps.append((producer, i, min(sizes[producer], _LARGE)))
        self.exclusive = list(locked.values())

    def numbered(self, placed: Mapping[str, Placed]) -> tuple[list[int], list[float]]:
        """Device and start of each job, as `Packed.solve` wants an incumbent."""
        at = [placed.get(job.id) for job in self.jobs]
        return [-1 if p is None else self.column.get(p.device, -1) for p in at], [p.start if p else 0.0 for p in at]

    def _links(self, link: Callable[[str, str], LinkQuality | None], gone: int) -> None:
        self.bandwidth: list[list[float | None]] = []
        self.latency: list[list[float]] = []
        here = self.ids[: len(self.devices)]
        for sender in here:
            rates: list[float | None] = []
            delays = []
            for receiver in here:
                quality = link(sender, receiver) if sender != receiver else None
                if quality is None:
                    rates.append(None)
                    delays.append(0.0)
                    continue
                # what a device tells of its links may be any number at all
                rtt, rate = quality.rtt, quality.bandwidth
                delays.append(rtt / 2 if rtt is not None and 0 <= rtt < _LONG else RTT / 2)
                rates.append(min(rate, _LARGE) if rate is not None and 1 <= rate < inf else BANDWIDTH)
            self.bandwidth.append(rates + [None] * gone)
            self.latency.append(delays + [0.0] * gone)
        for _ in range(gone):
            self.bandwidth.append([None] * len(self.ids))
            self.latency.append([0.0] * len(self.ids))

    def _row(self, skill: str, avoid: Set[str], wanted: Set[str] | None, costs: Costs) -> list[float | None]:
        row: list[float | None] = [None] * len(self.ids)
        learned = costs.learned(skill)
        for p, device_id, leaving, offers in self._offering:
            offer = offers.get(skill)
            if offer is None:
                continue
            if offer.lock is not None:
                self._locks[skill] = offer.lock
            if leaving or device_id in avoid or (wanted is not None and device_id not in wanted):
                continue
            known = learned.get(device_id)
            if known is not None and known.sure is not None:
                row[p] = min(known.sure, _LONG)
                continue
            guess = offer.seconds if 0 <= offer.seconds < _LONG else GUESS
            row[p] = guess if known is None else min(known.value(guess), _LONG)
        return row

    def _asked(self, job: Job) -> Set[str] | None:
        """The ids of the devices that `job.on` means, an id before a name before a kind; None for any."""
        on = job.on
        if on is None:
            return None
        if any(d.id == on for d in self.devices):
            return {on}
        named = [d.id for d in self.devices if d.name == on]
        if len(named) > 1:
            raise UsageError(f"{on} is the name of two devices", " and ".join(named[:2]), "say which by its id",
                             step=job.id, field="on")  # fmt: skip
        return set(named) or {d.id for d in self.devices if d.kind == on}

    def late(self, steps: Mapping[str, Placed], costs: Costs) -> tuple[str, ...]:
        """Those that end too late where every step takes its SAFE quantile, in the planned order of each device."""
        end: dict[int, float] = {}
        lanes = [[0.0] * min(slots, len(self.jobs)) for slots in self.slots]
        for i in sorted(range(len(self.jobs)), key=lambda i: steps[self.jobs[i].id].start):
            job, p = self.jobs[i], self.column[steps[self.jobs[i].id].device]
            placed = steps[job.id]
            free = heappop(lanes[p])
            if i in self.fixed:
                end[i] = placed.end
            else:
                ready = max(placed.start, free)
                for producer, size in self.inputs(i):
                    at = self.column[steps[self.jobs[producer].id].device]
                    ready = max(ready, end[producer] + self._travel(at, p, size))
                took = costs.duration_quantile(job.skill, self.ids[p], SAFE, placed.end - placed.start)
                end[i] = ready + max(took, placed.end - placed.start)
            heappush(lanes[p], max(free, end[i]))
        return tuple(job.id for i, job in enumerate(self.jobs) if job.deadline is not None and end[i] > job.deadline)

    def inputs(self, i: int) -> list[tuple[int, float]]:
        """What job `i` waits for, and the size of each."""
        return self._edges()[0][i]

    def _edges(self) -> tuple[list[list[tuple[int, float]]], list[list[int]]]:
        """By job, what it waits for with its size, and what waits for it; worked out when somebody asks for reasons."""
        if self._by_job is None:
            self._by_job = [[] for _ in self.jobs], [[] for _ in self.jobs]
            for producer, consumer, size in self.deps:
                self._by_job[0][consumer].append((producer, size))
                self._by_job[1][producer].append(consumer)
        return self._by_job

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

    def _travel(self, p: int, q: int, size: float) -> float:
        rate = self.bandwidth[p][q]
        return 0.0 if p == q else inf if rate is None else self.latency[p][q] + size / rate

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
            found.append(Candidate(name, chosen, run, ready, end, "is busy then" if busy else ""))
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
        if ready + run > there:
            busy = self._busy(steps, step_id, best, there - faster, there)
            return f"{rival} is busy then" if busy else f"what follows it goes quicker from here than from {rival}"
        if run < faster:
            return f"{_time(run)} here, {_time(faster)} on {rival}"
        if ready + run < there:
            return f"its inputs are here: {_time(run)}, and {_time(there - ready)} on {rival}"
        return f"no later here than on {rival}"

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
