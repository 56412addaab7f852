"""A battery-electric car as physics: what moves it, what warms it, what charges it. Pure functions and no clock.

The values are public ones, rounded, of a typical 77.4 kWh, 800 V crossover of 2022; no manufacturer's model is behind
them. Energies are in kWh, powers in kW, temperatures in °C, speeds in m/s, unless a name says otherwise.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace

GRAVITY = 9.80665
STEP_SECONDS, ASLEEP_STEP_SECONDS = 30.0, 600.0
"""Longest time over which powers count as constant, while something goes on and while nothing does."""

Curve = tuple[tuple[float, float], ...]

# what the inlet takes from a 350 kW charger, kW over % of charge: the plateaus of published sessions of such cars
# (Fastned's charging curve, InsideEVs 2021), scaled to the published 18 minutes from 10 to 80 %
CHARGE_CURVE: Curve = (
    (0, 110), (5, 180), (10, 200), (25, 212), (46, 221), (50, 176), (60, 171), (72, 160), (78, 130), (82, 108),
    (86, 76), (90, 62), (95, 45), (100, 16),
)  # fmt: skip
# the share of it that a pack takes at a temperature: slow when cold (about 70 kW at 5 °C), cut when hot
CHARGE_WARMTH: Curve = (
    (-20, 0.06), (-10, 0.14), (0, 0.27), (10, 0.48), (18, 0.78), (25, 1), (46, 1), (52, 0.5), (58, 0),
)  # fmt: skip
# heat that the heat pump moves per unit of electricity, over the outside temperature
HEATING_COP: Curve = ((-20, 1.1), (-10, 1.6), (0, 2.2), (10, 3.0), (20, 3.5))
COOLING_COP = 2.6


@dataclass(frozen=True, slots=True)
class Car:
    """What does not change while it is driven."""

    mass: float = 2150.0
    """In kg, with a driver and luggage."""
    drag_area: float = 0.75
    """Cd × A, in m²: 0.288 × 2.6."""
    rolling: float = 0.0092
    """Rolling resistance at 20 °C, per unit of weight."""
    capacity: float = 74.0
    """Usable, of 77.4 kWh."""
    drive_efficiency: float = 0.90
    """From the pack to the wheels: inverter 0.97, motor 0.95, gear 0.98."""
    regen_efficiency: float = 0.85
    """From the wheels to the pack."""
    regen_limit: float = 150.0
    """What the motor takes from the wheels and gives the pack at most; the brakes take the rest."""
    awake_load: float = 0.35
    asleep_load: float = 0.006
    ac_limit: float = 11.0
    """What the on-board charger takes at most."""
    hvac_limit: float = 6.0
    """Heat or cold that the climate unit gives at most."""
    cabin_leak: float = 0.09
    """Heat through walls, glass and fresh air, in kW/K."""
    cabin_heat: float = 120.0
    """Heat that the cabin holds, in kJ/K."""
    pack_leak: float = 0.025
    pack_heat: float = 450.0
    conditioner: float = 5.0
    """The heater that readies the pack for fast charging."""


@dataclass(frozen=True, slots=True)
class Body:
    """What changes. At every moment `energy` is what it was at first, plus `charged`, minus `used`."""

    energy: float
    """In the pack."""
    pack: float = 20.0
    cabin: float = 20.0
    distance: float = 0.0
    """Driven, in m."""
    charged: float = 0.0
    """Put into the pack by chargers."""
    used: float = 0.0
    """Taken out of the pack by everything, less what braking gave back."""


@dataclass(frozen=True, slots=True)
class Controls:
    """What is asked of the car, and what is around it."""

    speed: float = 0.0
    grade: float = 0.0
    """Rise per distance along the road."""
    outside: float = 20.0
    altitude: float = 0.0
    awake: bool = False
    target: float | None = None
    """The cabin's temperature to hold; None is off."""
    airing: float = 0.0
    """How far the windows are open, 0 to 1."""
    charger: float = 0.0
    """What the connected charger can give; up to 22 is AC."""
    limit: float = 1.0
    """The state of charge to charge to, 0 to 1."""
    condition: bool = False


def interpolate(curve: Curve, x: float) -> float:
    """The curve at x, straight between its points and level beyond its ends."""
    right = bisect_right(curve, (x, math.inf))
    if right == 0:
        return curve[0][1]
    if right == len(curve):
        return curve[-1][1]
    (x0, y0), (x1, y1) = curve[right - 1], curve[right]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def air_density(celsius: float, altitude: float) -> float:
    """Of dry air, in kg/m³: the ideal gas law at the barometric pressure of ICAO's standard atmosphere (Doc 7488)."""
    pressure: float = 101_325 * (1 - 2.25577e-5 * altitude) ** 5.25588
    return pressure / (287.05 * (celsius + 273.15))


def road_load(car: Car, speed: float, grade: float, outside: float, altitude: float) -> float:
    """The force at the wheels at a steady speed, in N; negative where the hill pushes.

    The road load equation (SAE J1263) with its coefficients by cause: rolling, drag, grade. Rolling resistance falls by
    0.86 % per K of warmth (UN GTR 15, Annex 4).
    """
    along = 1 / math.hypot(1, grade)
    weight = car.mass * GRAVITY
    rolling = weight * along * car.rolling * (1 + 0.0086 * (20 - max(-25.0, min(45.0, outside))))
    drag = 0.5 * air_density(outside, altitude) * car.drag_area * speed**2
    return (rolling if speed else 0.0) + drag + weight * grade * along


def traction(car: Car, speed: float, grade: float, outside: float, altitude: float, accepts: float = math.inf) -> float:
    """What driving takes from the pack; negative is what braking gives it, at most `accepts`."""
    wheels = road_load(car, speed, grade, outside, altitude) * speed / 1000
    if wheels >= 0:
        return wheels / car.drive_efficiency
    return -min(-wheels * car.regen_efficiency, car.regen_limit, accepts)


def climate_heat(car: Car, cabin: float, target: float | None, outside: float, airing: float = 0.0) -> float:
    """The heat that the climate unit gives the cabin to reach and hold its target; negative is cold."""
    if target is None:
        return 0.0
    wanted = _leak(car, airing) * (target - outside) + 0.6 * (target - cabin)
    return max(-car.hvac_limit, min(car.hvac_limit, wanted))


def climate_power(heat: float, outside: float) -> float:
    """The electricity that this heat, or cold, takes."""
    return heat / interpolate(HEATING_COP, outside) if heat > 0 else -heat / COOLING_COP


def inlet_power(car: Car, soc: float, pack: float, charger: float) -> float:
    """What the inlet takes from a charger at a state of charge (0 to 1) and a temperature of the pack."""
    taken = interpolate(CHARGE_CURVE, 100 * soc) * interpolate(CHARGE_WARMTH, pack)
    return max(0.0, min(charger, taken, car.ac_limit if is_ac(charger) else math.inf))


def is_ac(charger: float) -> bool:
    """Whether a charger of that power gives alternating current (IEC 61851 mode 3 ends at 22 kW in Europe)."""
    return charger <= 22


def inlet_efficiency(charger: float) -> float:
    """The share of the inlet's power that the pack keeps."""
    return 0.89 if is_ac(charger) else 0.95


def consumption(
    car: Car, speed: float, outside: float, altitude: float, target: float | None, grade: float = 0
) -> float:
    """What a steady drive takes, in kWh/km, with the cabin at its target."""
    climate = climate_power(climate_heat(car, outside if target is None else target, target, outside), outside)
    return (traction(car, speed, grade, outside, altitude) + car.awake_load + climate) / (3.6 * speed)


def charge_seconds(car: Car, start: float, end: float, pack: float, charger: float) -> float:
    """How long charging takes between two states of charge (0 to 1), the pack staying as warm as it is.

    The pack warms while it charges, so a cold one is done sooner than this says, never later.
    """
    seconds, soc, step = 0.0, start, 0.005
    while soc < end - 1e-9:
        part = min(step, end - soc)
        power = inlet_power(car, soc + part / 2, pack, charger) * inlet_efficiency(charger)
        if power <= 0:
            return math.inf
        seconds += 3600 * part * car.capacity / power
        soc += part
    return seconds


def advance(car: Car, body: Body, controls: Controls, seconds: float) -> Body:
    """The car after so many seconds with these controls; an empty one stands still."""
    asked = controls.speed or controls.condition or controls.target is not None
    while seconds > 0:
        filling = controls.charger and body.energy < controls.limit * car.capacity - 1e-6
        busy = filling or (asked and body.energy)
        step = min(seconds, STEP_SECONDS if busy else ASLEEP_STEP_SECONDS)
        body = _step(car, body, controls, step)
        seconds -= step
    return body


def draw(car: Car, body: Body, controls: Controls) -> float:
    """What the pack gives now, chargers left out; negative while braking gives it more."""
    soc = body.energy / car.capacity
    accepts = inlet_power(car, soc, body.pack, math.inf) if soc < 1 else 0.0
    heat = climate_heat(car, body.cabin, controls.target, controls.outside, controls.airing)
    power = climate_power(heat, controls.outside) + (car.awake_load if controls.awake else car.asleep_load)
    if controls.condition and body.pack < 25:
        power += car.conditioner
    power += _pack_cooling(body.pack) / COOLING_COP
    return power + traction(car, controls.speed, controls.grade, controls.outside, controls.altitude, accepts)


def _step(car: Car, body: Body, c: Controls, seconds: float) -> Body:
    hours = seconds / 3600
    drawn = draw(car, body, c) if body.energy > 0 else 0.0
    kept = inlet_efficiency(c.charger)
    inlet = inlet_power(car, body.energy / car.capacity, body.pack, c.charger)
    # at its limit the pack takes no more, and the charger feeds what the car itself uses
    room = max(0.0, c.limit * car.capacity - body.energy)
    inlet = max(0.0, min(inlet, (room / hours + max(0.0, drawn)) / kept))
    change = (inlet * kept - drawn) * hours
    energy = max(0.0, min(car.capacity, body.energy + change))
    # the share of the time that the pack lasted
    lasted = body.energy / -change if change < 0 and energy == 0 else 1.0

    heat = climate_heat(car, body.cabin, c.target, c.outside, c.airing) if body.energy > 0 else 0.0
    leak = _leak(car, c.airing)
    rest = c.outside + heat / leak
    cabin = rest + (body.cabin - rest) * math.exp(-leak * seconds / car.cabin_heat)

    moving = traction(car, c.speed, c.grade, c.outside, c.altitude, car.regen_limit) if body.energy > 0 else 0.0
    warming = 0.03 * abs(moving) + inlet * (0.02 if is_ac(c.charger) else 1 - kept) - _pack_cooling(body.pack)
    if c.condition and body.pack < 25 and body.energy > 0:
        warming += car.conditioner
    rest = c.outside + warming / car.pack_leak
    pack = rest + (body.pack - rest) * math.exp(-car.pack_leak * seconds / car.pack_heat)

    charged = inlet * kept * hours
    return replace(
        body, energy=energy, pack=pack, cabin=cabin, charged=body.charged + charged,
        distance=body.distance + (c.speed * seconds * lasted if body.energy > 0 else 0.0),
        used=body.used + charged - (energy - body.energy),
    )  # fmt: skip


def _leak(car: Car, airing: float) -> float:
    return car.cabin_leak * (1 + 6 * airing)


def _pack_cooling(pack: float) -> float:
    """Heat that the coolant takes out of a hot pack."""
    return max(0.0, min(8.0, 2 * (pack - 38)))
