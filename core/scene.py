"""What an assignment is made from, by numbers: run times, links, energies, and what is fixed. Sans-IO.

Rows are jobs; columns are devices. What a device tells may be any number at all, and here it becomes one that the
scheduling core takes. There is no clock: times are seconds from now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import repeat
from math import inf
from typing import Any, Final, NamedTuple

from .costs import Costs
from .device import Device, LinkQuality, Offer
from .energy import Radio, price, radio
from .errors import UsageError

RTT: Final = 0.005
"""Seconds, for a link that was not measured yet."""
BANDWIDTH: Final = 10e6
"""Bytes per second, for a link that was not measured yet."""
SIZE: Final = 1024.0
"""Bytes, for the output of a skill that never ran."""
GUESS: Final = 0.05
"""Seconds, where an announced guess makes no sense."""
SAFE: Final = 0.9
"""Of run times, for deadlines: a plan is made on medians, and promised on this quantile."""
FACTS_KEPT: Final = 256
"""Devices whose offers are remembered by name, with what their energy is worth."""
_LARGE: Final = 1e12
"""Bytes or joules; no output is larger, and no run takes more."""
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


class _Facts(NamedTuple):
    """What does not change as long as a device announces nothing new."""

    device: Device
    offers: dict[str, Offer]
    worth: dict[str, float | None]
    """By skill that it offers, what the joules of a run are worth; None where it does not tell them."""
    told: bool
    """Whether it tells any of them."""
    price: float
    radio: Radio
    air: tuple[float, float, float]
    """What it is worth to send a byte, to receive one, and to be on the air for a second."""


_known: dict[int, _Facts] = {}


def _facts(device: Device) -> _Facts:
    """Those of a device; of those that were asked for lately they are remembered."""
    facts = _known.get(id(device))
    if facts is None or facts.device is not device:  # what is remembered is kept alive, so its id is nobody else's
        if len(_known) >= FACTS_KEPT:
            _known.clear()
        dear, own = price(device.resources, device.kind), radio(device.resources)
        takes = {o.name: joules_of(o) for o in device.offers}
        worth = {name: None if joules is None else joules * dear for name, joules in takes.items()}
        told = any(joules is not None for joules in takes.values())
        air = (dear * own.send, dear * own.receive, dear * own.watts)
        facts = _Facts(device, {o.name: o for o in device.offers}, worth, told, dear, own, air)
        _known[id(device)] = facts
    return facts


class Scene:
    """What an assignment was made from, numbered; columns are the devices, then those that only fixed jobs name."""

    __slots__ = (
        "_by_job", "_facts", "_locks", "_offering", "bandwidth", "carry", "column", "dear", "deps", "devices",
        "exclusive", "fixed", "ids", "index", "jobs", "latency", "radio", "seconds", "slots",
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
        # a device that does not say what it uses is not held back by it
        self.radio = [d.resources.radio not in (None, "ethernet") for d in devices] + [False] * gone
        self._links(link, gone)

        self._facts = facts = [_facts(d) for d in devices]
        self._offering = [(p, f.device.id, f.device.leaving, f.offers) for p, f in enumerate(facts)]
        self.carry: list[list[float]] = []
        self.dear: list[Sequence[float]] = []
        told = any(f.told for f in facts)
        if told or any(d.resources.battery is not None for d in devices):
            self._weigh_links(gone)
        if told:
            self._weigh_runs(gone)
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

    def _weigh_links(self, gone: int) -> None:
        """What a byte costs from device to device, at both ends, each as dear as it is there."""
        ends = [f.air for f in self._facts]
        for (send, _, on), rates in zip(ends, self.bandwidth, strict=False):
            row = [
                0.0 if rate is None else send + receive + (on + on_too) / rate
                for (_, receive, on_too), rate in zip(ends, rates, strict=False)
            ]
            self.carry.append(row + [0.0] * gone)
        self.carry += [[0.0] * len(self.ids)] * gone

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

    def _weigh_runs(self, gone: int) -> None:
        """What the joules of each job are worth on each device; one that does not say what it takes counts as the one
        that takes most: silence wins nothing."""
        skills, none = [job.skill for job in self.jobs], repeat(0.0)
        columns = [map(f.worth.get, skills, none) for f in self._facts]
        for row in zip(*columns, *[none] * gone, strict=False):
            if None in row:
                prices = [f.price for f in self._facts] + [1.0] * gone
                most = max(0.0 if w is None else w / price for w, price in zip(row, prices, strict=True))
                row = tuple(most * price if w is None else w for w, price in zip(row, prices, strict=True))
            self.dear.append(row)

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

    def _travel(self, p: int, q: int, size: float) -> float:
        rate = self.bandwidth[p][q]
        return 0.0 if p == q else inf if rate is None else self.latency[p][q] + size / rate


def joules_of(offer: Offer) -> float | None:
    """What an offer says that a run takes, if it makes sense."""
    joules = offer.joules
    return joules if joules is not None and 0 <= joules <= _LARGE else None
