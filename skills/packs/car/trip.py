"""A trip with its charging stops: the fastest one that never falls below its reserve.

A label-setting search over (place, state of charge): labels leave the queue in the order of time, so one that holds no
more charge than an earlier one at its place is worse in both and is dropped (Pareto; A* with the driving time that is
left as its bound). Charging goes in steps of two percent, so that where and how much to charge is one search.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from .physics import Car, charge_seconds, consumption
from .roads import PLACES, ROADS, Place, Road, seconds_to

LAPSE = 0.0065
"""How much colder it is per metre of height, in K (ICAO Doc 7488)."""
BASE = 500.0
"""The altitude that the outside temperature is meant for, in m."""
STOP_SECONDS = 300.0
"""Leaving the road, plugging in, and coming back."""
WARM_PACK = 25.0
_CHARGE_STEP = 0.02
_SAME = 0.004


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a trip depends on besides the road: °C outside at 500 m, in the pack, and wanted in the cabin."""

    outside: float = 20.0
    pack: float = 20.0
    target: float | None = 21.0
    reserve: float = 0.10
    """The state of charge that it keeps everywhere, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Leg:
    """What is driven without a stop."""

    places: tuple[str, ...]
    km: float
    seconds: float
    energy: float
    """From the pack, in kWh, with what warms the pack for the stop at its end."""
    soc: float
    """At its end, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop to charge; `seconds` has the way off and on the road in it."""

    place: Place
    arrive: float
    leave: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Trip:
    """One stop lies between each two legs."""

    legs: tuple[Leg, ...]
    stops: tuple[Stop, ...]

    @property
    def seconds(self) -> float:
        """From door to door."""
        return sum(leg.seconds for leg in self.legs) + sum(stop.seconds for stop in self.stops)


@dataclass(slots=True, eq=False)
class _Label:
    place: str
    soc: float
    seconds: float
    energy: float = 0.0
    km: float = 0.0
    charging: bool = False
    warm: bool = False
    before: _Label | None = None


def outside_at(outside: float, altitude: float) -> float:
    """The temperature at an altitude when it is `outside` at 500 m."""
    return outside - LAPSE * (altitude - BASE)


def energy(car: Car, way: Road, conditions: Conditions) -> float:
    """What driving a road takes from the pack, in kWh; negative where it gives more than it takes."""
    altitude = (way.origin.altitude + way.destination.altitude) / 2
    outside = outside_at(conditions.outside, altitude)
    return way.km * consumption(car, way.kmh / 3.6, outside, altitude, conditions.target, way.grade)


def plan(
    car: Car, origin: Place, destination: Place, soc: float, conditions: Conditions, first: Road | None = None
) -> Trip | None:
    """The fastest trip, or None if there is none that keeps the reserve.

    `first` is what is left of the road that the car is on; the trip goes on from its end.
    """
    start = _Label(origin.name, soc, 0.0)
    if first is not None:
        moved = _drive(car, start, first, conditions)
        if moved is None:
            return None
        start = moved
    bound = seconds_to(destination.name)
    queue = [(bound[start.place], 0, start)]
    pushed = 0
    most: dict[tuple[str, bool], float] = {}
    while queue:
        _, _, label = heapq.heappop(queue)
        if label.soc <= most.get((label.place, label.charging), -1.0) + _SAME:
            continue
        most[label.place, label.charging] = label.soc
        if label.place == destination.name and not label.charging:
            return _trip(label, first)
        for following in _onward(car, label, conditions):
            pushed += 1
            heapq.heappush(queue, (following.seconds + bound[following.place], pushed, following))
    return None


def least_soc(car: Car, origin: Place, destination: Place, conditions: Conditions, first: Road | None) -> float | None:
    """The charge in steps of 5 % that such a trip needs at its start, 0 to 1; None if a full pack will not do."""
    low, high = 0, 20
    if plan(car, origin, destination, 1.0, conditions, first) is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if plan(car, origin, destination, middle / 20, conditions, first) is None:
            low = middle
        else:
            high = middle
    return high / 20


def _onward(car: Car, label: _Label, conditions: Conditions) -> Iterable[_Label]:
    for way in ROADS[label.place]:
        if (moved := _drive(car, label, way, conditions)) is not None:
            yield moved
    power = PLACES[label.place].power
    if not label.charging and power:
        # the car warms its pack on the way to its first stop
        warming = 0.0 if label.warm else car.pack_heat * max(0.0, WARM_PACK - conditions.pack) / 3600
        soc = label.soc - warming / car.capacity
        if soc >= conditions.reserve - 1e-9:
            yield _Label(label.place, soc, label.seconds + STOP_SECONDS, label.energy + warming, label.km, True, True,
                         label)  # fmt: skip
    elif label.charging and label.soc < 1:
        soc = min(1.0, label.soc + _CHARGE_STEP)
        seconds = label.seconds + _charge_seconds(car, label.soc, soc, power)
        yield _Label(label.place, soc, seconds, label.energy, label.km, True, True, label)


def _drive(car: Car, label: _Label, way: Road, conditions: Conditions) -> _Label | None:
    used = energy(car, way, conditions)
    soc = min(1.0, label.soc - used / car.capacity)
    # the use of a road is even, so the charge is least at one of its ends
    if soc < conditions.reserve - 1e-9 or label.soc < conditions.reserve - 1e-9:
        return None
    return _Label(way.destination.name, soc, label.seconds + way.seconds, label.energy + used,
                  label.km + way.km, False, label.warm, label)  # fmt: skip


@cache
def _charge_curve(car: Car, power: float) -> tuple[float, ...]:
    """Seconds from empty to each half percent, with a warm pack."""
    total, curve = 0.0, [0.0]
    for half in range(200):
        total += charge_seconds(car, half / 200, (half + 1) / 200, WARM_PACK, power)
        curve.append(total)
    return tuple(curve)


def _charge_seconds(car: Car, start: float, end: float, power: float) -> float:
    curve = _charge_curve(car, power)

    def at(soc: float) -> float:
        whole = min(199, max(0, int(200 * soc)))
        return curve[whole] + (200 * soc - whole) * (curve[whole + 1] - curve[whole])

    return at(end) - at(start)


def _trip(end: _Label, first: Road | None) -> Trip:
    """The labels from the start to the end as legs and stops."""
    labels = [end]
    while labels[-1].before is not None:
        labels.append(labels[-1].before)
    labels.reverse()
    legs: list[Leg] = []
    stops: list[Stop] = []
    begin = labels[0]
    names = [begin.place] if first is None else []
    arrived: _Label | None = None
    for label in labels[1:]:
        if label.charging and arrived is None:
            assert label.before is not None
            arrived = label
            legs.append(_leg(begin, label, label.before.seconds, names))
        elif not label.charging:
            if arrived is not None:
                assert label.before is not None
                left = label.before
                assert arrived.before is not None
                stops.append(Stop(PLACES[left.place], arrived.soc, left.soc, left.seconds - arrived.before.seconds))
                begin, names, arrived = left, [left.place], None
            names.append(label.place)
    legs.append(_leg(begin, end, end.seconds, names))
    return Trip(tuple(legs), tuple(stops))


def _leg(begin: _Label, end: _Label, seconds: float, names: list[str]) -> Leg:
    return Leg(tuple(names), end.km - begin.km, seconds - begin.seconds, end.energy - begin.energy, end.soc)
