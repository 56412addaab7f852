"""Energy: what a joule is worth on a device, what a byte costs its radio, and joules per skill, learned. Sans-IO.

Laws of the meter: it learns only from a gauge that moved, between two moves of it; only from what runs long enough to
be seen above the idle drain, and alone enough to be told from other skills; which windows count is settled before
anyone looks at what they say, so that noise does not become a cost. What it cannot tell stays unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Final, NamedTuple

from .costs import KEYS, Learned, quantile, touch
from .device import Resources

J_PER_MWH: Final = 3.6
WH: Final = 3600.0

# ---- what a joule is worth

CAPACITY: Final[Mapping[str, float]] = {
    "phone": 15 * WH, "watch": 1.2 * WH, "tablet": 30 * WH, "laptop": 55 * WH, "car": 60_000 * WH,
}  # fmt: skip
"""Joules in the full battery of a kind of device, where its gauge does not tell: usual ones of these years."""
MAINS: Final = 1e6 * WH
"""What the mains count as: a battery of so many joules, always full."""
EMPTY: Final = 0.01
"""A state of charge below this counts as this."""


def price(resources: Resources, kind: str) -> float:
    """What a joule of a device is worth, per joule: the part that it takes of the joules that are left there.

    So it doubles when the charge halves, and a phone's joule is 4,000 times as dear as one of an equally full car. On
    the mains, while it charges, and of a device without a battery it is little, but not nothing. A device of a kind
    that has a battery and does not tell its charge counts as half full.
    """
    usual = CAPACITY.get(kind)
    if resources.charging or (resources.battery is None and usual is None):
        return 1 / MAINS
    capacity = resources.capacity
    if capacity is None or not 1 <= capacity < MAINS:
        capacity = CAPACITY["phone"] if usual is None else usual
    charge = 0.5 if resources.battery is None else resources.battery
    return 1 / (capacity * min(charge if charge > EMPTY else EMPTY, 1.0))


# ---- what a byte costs the radio


class Radio(NamedTuple):
    """What a network interface draws while it sends or receives: `watts` as long as it lasts, and joules a byte."""

    watts: float
    send: float
    receive: float


RADIOS: Final[Mapping[str, Radio]] = {
    "wifi": Radio(0.133, 2.27e-6, 1.10e-6),
    "cellular": Radio(1.288, 3.51e-6, 0.416e-6),
    "bluetooth": Radio(0.1, 0.5e-6, 0.5e-6),
    "ethernet": Radio(0.0, 8e-9, 8e-9),
}
"""By kind of interface. Wi-Fi and cellular (LTE): Huang et al., "A close examination of performance and power
characteristics of 4G LTE networks", MobiSys 2012, table 4 (uplink 283.17 and 438.39 mW/Mbps, downlink 137.01 and 51.97,
base 132.86 and 1288.04 mW; 1 mW/Mbps is 8 nJ a byte). The tail after a transfer is not in them: whoever has a link has
it anyway. Bluetooth and Ethernet are orders of magnitude, not measurements: a class 2 radio of 0.1 W at 2 Mbps, and 1 W
of a gigabit controller at line rate."""
USUAL: Final = "wifi"
"""Where a device does not say what it uses, or says what is not in the table."""


def radio(resources: Resources) -> Radio:
    """What the network interface of a device draws."""
    return RADIOS.get(resources.radio or USUAL) or RADIOS[USUAL]


# ---- joules per skill


class Drain(NamedTuple):
    """A gauge's reading: how many joules left it so far, from any origin; of one `source` readings can be compared."""

    source: str
    joules: float


BUSY: Final = 0.1
"""The part of a window for which a skill must have run, to be seen above the idle drain."""
IDLE: Final = 0.01
"""A window in which skills ran for no longer part of it tells the idle drain."""
ALONE: Final = 0.8
"""The part of all running time in a window that must be one skill's, to be told from the others."""
SEEN: Final = 0.25
"""Of what a skill drew, this quantile must be above the idle drain: else it is below what the gauge can tell."""
MOVED: Final = 0.25
"""A learned figure that moved by a smaller part is not told anew."""


class Meter:
    """Learns what skills take here, from a gauge's readings and from what ran between them.

    `now` are seconds of one clock that does not jump. `told` are the joules of an invocation, by skill, as they are to
    be announced. What one source of readings taught is forgotten when another takes its place.
    """

    def __init__(self) -> None:
        self.told: dict[str, float] = {}
        self.running = 0
        self.source = ""
        """Of the readings; empty while there are none: nothing can be measured here."""
        self._count: dict[str, int] = {}
        self._busy: dict[str, float] = {}
        self._since = 0.0
        self._last: tuple[float, Drain] | None = None
        self._moved = False
        self._idle = Learned()
        self._watts: dict[str, Learned] = {}
        self._seconds: dict[str, Learned] = {}

    def began(self, skill: str, now: float) -> None:
        """An invocation begins to run."""
        self._pass(now)
        self._count[skill] = self._count.get(skill, 0) + 1
        self.running += 1

    def ended(self, skill: str, seconds: float, now: float) -> None:
        """An invocation that `began` ended, and took so long."""
        self._pass(now)
        self.running -= 1
        self._count[skill] -= 1
        if not self._count[skill]:
            del self._count[skill]
        touch(self._seconds, skill, Learned, KEYS).add(seconds, now)

    def read(self, drain: Drain | None, now: float) -> bool:
        """The gauge says `drain`, or nothing (it charges, it is silent); whether `told` is different now."""
        self._pass(now)
        last = self._last
        if drain is not None and drain.source != self.source:
            self.source, self._idle = drain.source, Learned()
            self._watts.clear()
            self.told.clear()
        if drain is None or last is None or drain.source != last[1].source or not drain.joules >= last[1].joules:
            self._open(drain, now, moved=False)
            return False
        if drain.joules == last[1].joules:
            return False
        # a window from anywhere to the first move of a coarse gauge says little: it began between two of its marks
        changed = self._moved and now > last[0] and self._learn(now - last[0], drain.joules - last[1].joules, now)
        self._open(drain, now, moved=True)
        return changed

    def joules(self, skill: str) -> float | None:
        """What an invocation takes above the idle drain, once that is sure: watts, times how long it usually runs."""
        watts, seconds = self._watts.get(skill), self._seconds.get(skill)
        if watts is None or watts.sure is None or seconds is None or quantile(watts.values, SEEN) <= 0:
            return None
        return watts.sure * quantile(seconds.values, 0.5)

    def to_wire(self) -> dict[str, Any]:
        """What was learned, as plain values; their age is not kept."""
        return {
            "v": 1, "source": self.source,
            "idle": [value for _, value in self._idle.samples],
            "skills": [[skill, [v for _, v in watts.samples], [v for _, v in self._seconds[skill].samples]]
                       for skill, watts in self._watts.items() if skill in self._seconds],
        }  # fmt: skip

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], now: float) -> Meter:
        """What `to_wire` wrote, as if it had been learned now.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        if data["v"] != 1:
            raise ValueError(f"energies of version {data['v']!r}; this is version 1")
        meter = cls()
        meter.source = str(data["source"])
        for value in data["idle"]:
            meter._idle.add(_finite(value), now)
        for skill, watts, seconds in data["skills"]:
            for table, values in ((meter._watts, watts), (meter._seconds, seconds)):
                for value in values:
                    touch(table, str(skill), Learned, KEYS).add(_finite(value), now)
            meter._tell(str(skill))
        return meter

    def _pass(self, now: float) -> None:
        for skill, count in self._count.items():
            self._busy[skill] = self._busy.get(skill, 0.0) + count * max(0.0, now - self._since)
        self._since = now

    def _open(self, drain: Drain | None, now: float, *, moved: bool) -> None:
        self._last = None if drain is None else (now, drain)
        self._moved = moved
        self._busy.clear()

    def _learn(self, seconds: float, joules: float, now: float) -> bool:
        """A window is over."""
        ran = sum(self._busy.values())
        if ran <= IDLE * seconds:
            self._idle.add(joules / seconds, now)
            return False
        skill = max(self._busy, key=self._busy.__getitem__)
        if self._idle.sure is None or self._busy[skill] < max(BUSY * seconds, ALONE * ran):
            return False
        # by time, so the skill's part of what was drawn is its part of the time
        touch(self._watts, skill, Learned, KEYS).add((joules - self._idle.sure * seconds) / ran, now)
        return self._tell(skill)

    def _tell(self, skill: str) -> bool:
        told, joules = self.told.get(skill), self.joules(skill)
        if joules is None:
            return self.told.pop(skill, None) is not None
        if told is not None and abs(joules - told) <= MOVED * told:
            return False
        self.told[skill] = joules
        return True


def _finite(value: float) -> float:
    if not isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)
