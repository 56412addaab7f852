"""What a device has to give now, and what its skills take of it: as its packs' backends and the machine itself tell."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .device import Resources
from .energy import Drain, Meter

EVERY = 30.0
"""Seconds between two looks: what changes faster is not worth an announcement."""
CLOSELY = 5.0
"""The same while skills run, for the meter: of what they took, the share that can be told is the larger."""
STEP = 0.05
"""A load or charge that moved by less is not told."""


class Gauge:
    """Reads the resources of this device; of the packs' `meters`, the first that knows a battery wins.

    A meter tells, as far as it knows: `battery` (0 to 1) and `charging`, `capacity` (of that battery, in joules),
    `drain` (source and joules so far, of what skills run on and little else that comes and goes), `radio` (the kind of
    network interface in use). `energy` learns from the drain that comes with the battery, or from the first without.
    """

    def __init__(
        self, first: Resources, meters: Sequence[Callable[[], Mapping[str, Any]]], energy: Meter | None = None
    ) -> None:
        self.last = first
        self.energy = Meter() if energy is None else energy
        self.learned = False
        """Whether the last look taught the meter something to announce."""
        self._meters = meters
        self._next = float("-inf")

    def look(self, now: float) -> Resources:
        """The resources to announce, read again if it is time."""
        self.learned = False
        if now < self._next - (EVERY - CLOSELY if self.energy.running else 0.0):
            return self.last
        self._next = now + EVERY
        fresh = replace(self.last, load=min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))
        told = [meter() for meter in self._meters]
        power = next((each for name in ("battery", "drain") for each in told if name in each), {})
        if "battery" in power:
            fresh = replace(fresh, battery=float(power["battery"]), charging=power.get("charging"),
                            capacity=power.get("capacity"))  # fmt: skip
        fresh = replace(fresh, radio=next((each["radio"] for each in told if "radio" in each), fresh.radio))
        drain = power.get("drain")
        self.learned = self.energy.read(None if drain is None else Drain(*drain), now)
        if self._differs(fresh):
            self.last = fresh
        return self.last

    def joules(self) -> float | None:
        """What the device has used by now, of the drain that is learned from; None where nobody measures."""
        told = [meter() for meter in self._meters]
        drain = next((each for name in ("battery", "drain") for each in told if name in each), {}).get("drain")
        return None if drain is None else Drain(*drain).joules

    def _differs(self, fresh: Resources) -> bool:
        last = self.last
        moved = abs(fresh.load - last.load) >= STEP or abs((fresh.battery or 0.0) - (last.battery or 0.0)) >= STEP
        known = (fresh.battery is None, fresh.charging, fresh.capacity, fresh.radio)
        return moved or known != (last.battery is None, last.charging, last.capacity, last.radio)
