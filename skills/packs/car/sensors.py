"""What each sensor of the simulated car says; an actuator that is not here says where it stands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from . import signals as vss
from .signals import Value

if TYPE_CHECKING:
    from .sim import CarSim

TIRE_KPA, TIRE_LOW_KPA, AIR_KPA = 250.0, 210.0, 101.0
SERVICE_KM = 30_000.0


def _gear(car: CarSim) -> int:
    return {vss.DRIVE: 1, vss.REVERSE: -1}.get(int(car.actuators.number(vss.GEAR)), 0)


def _tire_pressure(car: CarSim) -> int:
    """Filled at 20 °C: gauge pressure by Gay-Lussac's law."""
    return round((TIRE_KPA + AIR_KPA) * (car.controls().outside + 273.15) / 293.15 - AIR_KPA)


def _is_tire_low(car: CarSim) -> bool:
    return _tire_pressure(car) < TIRE_LOW_KPA


def _occupied(car: CarSim, seat: str) -> str:
    driven = car.actuators.stands(vss.GEAR) != vss.PARK
    return "OCCUPIED" if (driven if seat.endswith("DriverSide") else car.state.passenger) else "EMPTY"


def _action(car: CarSim) -> Value:
    told = car.actuators.stands(vss.ACTION)
    return "STOP" if told == "PLAY" and car.position() >= car.state.sound.duration else told


def _health(car: CarSim) -> float:
    """A fifth of the capacity is gone after 1,500 full cycles."""
    return max(0.0, 100 - 20 * car.state.charged / car.car.capacity / 1500)


def is_dark(car: CarSim) -> bool:
    """Whether the light sensor would have the beam on."""
    return not 7 <= car.today().hour < 19


def _low_beam(car: CarSim) -> bool:
    switch = car.actuators.stands(vss.SWITCH)
    return switch == "BEAM" or (switch == "AUTO" and is_dark(car) and car.controls().awake)


def _low_voltage(car: CarSim) -> float:
    """A lead battery at rest, or held by the DC/DC converter."""
    return 14.2 if car.controls().awake else 12.6


SENSORS: Final[dict[str, Callable[[CarSim], Value]]] = {
    vss.SPEED: lambda car: car.state.drive.kmh,
    "Vehicle.IsMoving": lambda car: car.state.drive.kmh != 0,
    "Vehicle.TraveledDistance": lambda car: int(car.state.metres),
    "Vehicle.Powertrain.Transmission.CurrentGear": _gear,
    f"{vss.LOCATION}.Latitude": lambda car: round(car.here().latitude, 6),
    f"{vss.LOCATION}.Longitude": lambda car: round(car.here().longitude, 6),
    f"{vss.LOCATION}.Altitude": lambda car: round(car.here().altitude, 1),
    f"{vss.LOCATION}.Heading": lambda car: round(car.heading(), 1),
    vss.OUTSIDE: lambda car: round(car.controls().outside, 1),
    vss.SOC: lambda car: 100 * car.soc,
    f"{vss.BATTERY}.StateOfCharge.CurrentEnergy": lambda car: car.state.energy,
    f"{vss.BATTERY}.NetCapacity": lambda car: int(car.car.capacity),
    f"{vss.BATTERY}.GrossCapacity": lambda car: 77,
    f"{vss.BATTERY}.StateOfHealth": _health,
    f"{vss.BATTERY}.Temperature.Average": lambda car: round(car.state.pack, 1),
    f"{vss.BATTERY}.CurrentPower": lambda car: round(1000 * car.power()),
    f"{vss.BATTERY}.Range": lambda car: int(1000 * car.state.energy / car.consumption()),
    f"{vss.BATTERY}.AccumulatedChargedEnergy": lambda car: car.state.charged,
    f"{vss.BATTERY}.AccumulatedConsumedEnergy": lambda car: car.state.used,
    vss.CABLE: lambda car: car.state.charger > 0,
    vss.IS_CHARGING: lambda car: car.charging,
    f"{vss.CHARGING}.TimeToComplete": lambda car: int(min(car.charge_seconds(), 2**32 - 1)),
    vss.INSIDE: lambda car: round(car.state.cabin, 2),
    **{f"{seat}.OccupancyStatus": partial(_occupied, seat=seat) for seat in vss.SEATS},
    vss.LOW_BEAM: _low_beam,
    vss.ACTION: _action,
    vss.TRACK: lambda car: car.state.sound.track,
    **{f"{tire}.Pressure": _tire_pressure for tire in vss.TIRES},
    **{f"{tire}.IsPressureLow": _is_tire_low for tire in vss.TIRES},
    "Vehicle.LowVoltageBattery.CurrentVoltage": _low_voltage,
    "Vehicle.LowVoltageSystemState": lambda car: "ON" if car.controls().awake else "OFF",
    "Vehicle.Diagnostics.DTCCount": lambda car: len(car.state.troubles),
    "Vehicle.Diagnostics.DTCList": lambda car: list(car.state.troubles),
    "Vehicle.Service.DistanceToService": lambda car: SERVICE_KM - car.state.metres / 1000 % SERVICE_KM,
    "Vehicle.VersionVSS.Major": lambda car: 6,
    "Vehicle.VersionVSS.Minor": lambda car: 0,
}  # fmt: skip
