"""What the car is doing: speed and gear, where it is, what is wrong with it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from ....core.skill import Context, Cost, Driving, Effect, skill
from ..labels import Personal
from . import signals as vss
from .roads import PLACES, distance
from .sim import CarSim

_GEARS: dict[int, Literal["P", "R", "N", "D"]] = {vss.PARK: "P", vss.REVERSE: "R", vss.NEUTRAL: "N", vss.DRIVE: "D"}


class Status(BaseModel):
    """What the car is doing; what its signals do not freshly say is None."""

    driving: Driving = Field(description="as Android Automotive names it; moving when speed or gear is not known")
    speed_kmh: float | None = Field(description="in km/h")
    gear: Literal["P", "R", "N", "D"] | None
    charging: bool | None
    locked: bool | None = Field(description="whether every door is")
    odometer_km: float | None = Field(description="driven in the car's life, in km")
    outside_celsius: float | None = Field(description="air outside, in °C")


def _fresh(car: CarSim, signal: str) -> vss.Value | None:
    reading = car.fresh(signal)
    return None if reading is None else reading.value


def driving_state(speed: object, gear: object) -> Driving:
    """Parked, idling or moving from fresh values of speed (km/h) and selected gear; None, not known, is moving."""
    if not isinstance(speed, int | float) or not isinstance(gear, int) or speed != 0:
        return Driving.MOVING
    return Driving.PARKED if gear == vss.PARK else Driving.IDLING


def driving(car: CarSim) -> Driving:
    """What the car is doing now, for the policy: what its signals do not freshly say is moving (law 4)."""
    # a car that lacks a signal cannot say that it stands
    known = {vss.SPEED, vss.GEAR} <= car.present
    return driving_state(_fresh(car, vss.SPEED), _fresh(car, vss.GEAR)) if known else Driving.MOVING


@skill("car.state", effect=Effect.READ, needs=[f"vss:{vss.SPEED}", f"vss:{vss.GEAR}"], cost=Cost(latency_ms=5),
       phrases=["[what is] the car['s] (state|status|speed)", "is [the|my] car (moving|parked|locked)"])  # fmt: skip
async def car_state(ctx: Context) -> Status:
    """What the car is doing: speed, gear, parked or moving, locked or not."""
    car = ctx.backend(CarSim)
    speed, gear = _fresh(car, vss.SPEED), _fresh(car, vss.GEAR)
    charging, metres = _fresh(car, vss.IS_CHARGING), _fresh(car, "Vehicle.TraveledDistance")
    outside = _fresh(car, vss.OUTSIDE)
    locks = [_fresh(car, lock) for lock in vss.LOCKS]
    return Status(
        driving=driving_state(speed, gear),
        speed_kmh=float(speed) if isinstance(speed, int | float) else None,
        gear=_GEARS.get(gear) if isinstance(gear, int) else None,
        charging=charging if isinstance(charging, bool) else None,
        locked=None if None in locks else all(locks),
        odometer_km=round(metres / 1000, 1) if isinstance(metres, int) else None,
        outside_celsius=float(outside) if isinstance(outside, int | float) else None,
    )


class Where(BaseModel):
    """Where the car is."""

    place: Personal[str] = Field(description="the nearest place of the simulator's map")
    latitude: Personal[float] = Field(description="degrees north, WGS 84")
    longitude: Personal[float] = Field(description="degrees east, WGS 84")
    altitude_m: Personal[float] = Field(description="above the sea, in m")
    heading_degrees: Personal[float] = Field(description="clockwise from north")


@skill("car.location", effect=Effect.READ, needs=[f"vss:{vss.LOCATION}"], cost=Cost(latency_ms=5),
       phrases=["where is [the|my] car"])  # fmt: skip
async def car_location(ctx: Context) -> Where:
    """Where the car is, and which way it faces."""
    car = ctx.backend(CarSim)
    latitude, longitude = car.known(f"{vss.LOCATION}.Latitude"), car.known(f"{vss.LOCATION}.Longitude")
    return Where(
        place=min(PLACES.values(), key=lambda place: distance(place, latitude, longitude)).name,
        latitude=latitude,
        longitude=longitude,
        altitude_m=car.known(f"{vss.LOCATION}.Altitude"),
        heading_degrees=car.known(f"{vss.LOCATION}.Heading"),
    )


class Health(BaseModel):
    """What the car says of its own health."""

    troubles: list[str] = Field(description="active trouble codes (SAE J2012); empty is good")
    tires_kpa: list[int] = Field(description="front left, front right, rear left, rear right; gauge, in kPa")
    tires_low: bool
    battery_health_percent: float = Field(description="of the traction battery, in % of its first capacity")
    low_voltage: float = Field(description="of the 12 V battery, in V")
    service_km: float = Field(description="until the next service, in km")
    advice: list[str] = Field(description="what to do about it, in plain words")


@skill("car.diagnostics", effect=Effect.READ, needs=["vss:Vehicle.Diagnostics", "vss:Vehicle.Chassis"],
       cost=Cost(latency_ms=20), phrases=["(check|diagnose) [the|my] car",
                                          "is (something|anything) wrong with [the|my] car"])  # fmt: skip
async def car_diagnostics(ctx: Context) -> Health:
    """Trouble codes, tyre pressures, batteries and service of the car."""
    car = ctx.backend(CarSim)
    troubles = car.known("Vehicle.Diagnostics.DTCList")
    low = [tire for tire in vss.TIRES if car.known(f"{tire}.IsPressureLow")]
    service = car.known("Vehicle.Service.DistanceToService")
    advice = [f"have {code} looked at in a workshop" for code in troubles]
    if low:
        advice.append(f"fill {len(low)} tyre{'s' if len(low) > 1 else ''}")
    if service < 1500:
        advice.append("book a service")
    return Health(
        troubles=troubles,
        tires_kpa=[car.known(f"{tire}.Pressure") for tire in vss.TIRES],
        tires_low=bool(low),
        battery_health_percent=round(car.known(f"{vss.BATTERY}.StateOfHealth"), 1),
        low_voltage=car.known("Vehicle.LowVoltageBattery.CurrentVoltage"),
        service_km=round(service),
        advice=advice,
    )
