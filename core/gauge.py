"""What a device has to give now: its battery, as a pack's backend tells, and the load of its processor."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .device import Resources

EVERY = 30.0
"""Seconds between two looks: what changes faster is not worth an announcement."""
STEP = 0.05
"""A load or charge that moved by less is not told."""


class Gauge:
    """Reads the resources of this device; of the packs' `meters`, the first that knows a battery wins."""

    def __init__(self, first: Resources, meters: Sequence[Callable[[], Mapping[str, Any]]]) -> None:
        self.last = first
        self._meters = meters
        self._next = float("-inf")

    def look(self, now: float) -> Resources:
        """The resources to announce, read again if it is time."""
        if now < self._next:
            return self.last
        self._next = now + EVERY
        fresh = replace(self.last, load=min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))
        for meter in self._meters:
            told = meter()
            if "battery" in told:
                fresh = replace(fresh, battery=float(told["battery"]), charging=told.get("charging"))
                break
        if self._differs(fresh):
            self.last = fresh
        return self.last

    def _differs(self, fresh: Resources) -> bool:
        last = self.last
        moved = abs(fresh.load - last.load) >= STEP or abs((fresh.battery or 0.0) - (last.battery or 0.0)) >= STEP
        return moved or (fresh.battery is None) != (last.battery is None) or fresh.charging != last.charging
