"""The cabin: its climate, its seats, and what its camera sees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import anyio
from pydantic import BaseModel, Field

from ....core.errors import SkillFailed, TimedOut
from ....core.skill import Consent, Context, Cost, Driving, Effect, Outcome, skill
from ..labels import Personal
from . import signals as vss
from .act import happened, move, stands, steer
from .picture import cabin_picture
from .sensors import is_dark
from .sim import CarSim

AUTO_FAN = 45
"""The fan's speed when the climate is turned on, in %."""
NEAR_KELVIN = 0.5
"""A cabin this near to its target is warm, or cool, enough."""
_ENERGY = f"{vss.BATTERY}.StateOfCharge.CurrentEnergy"
_NEEDS = [f"vss:{vss.TARGET}", f"vss:{vss.FAN}", f"vss:{vss.INSIDE}"]
_Celsius = Annotated[float, Field(ge=15, le=30, description="in °C")]


class Climate(BaseModel):
    """The cabin's climate."""

    on: bool
    target_celsius: float = Field(description="what the climate holds when it is on, in °C")
    inside_celsius: float = Field(description="air in the cabin, in °C")
    outside_celsius: float = Field(description="air outside, in °C")


class ClimateSet(BaseModel):
    """The cabin's climate after a change; the air itself follows in minutes."""

    celsius: float = Field(description="the target now, in °C")
    on: bool
    previous: float = Field(description="the target before, in °C")
    was_on: bool


@skill("cabin.climate.get", effect=Effect.READ, needs=_NEEDS, cost=Cost(latency_ms=5),
       phrases=["how (warm|cold) is [it in] the (cabin|car)", "[what is] the (cabin|car) temperature"])  # fmt: skip
async def climate_get(ctx: Context) -> Climate:
    """How warm the cabin is, and what its climate is set to."""
    car = ctx.backend(CarSim)
    return Climate(
        on=car.known(vss.FAN) > 0,
        target_celsius=car.known(vss.TARGET),
        inside_celsius=round(car.known(vss.INSIDE), 1),
        outside_celsius=car.known(vss.OUTSIDE),
    )


def _climate(celsius: float, on: bool) -> dict[str, vss.Value]:
    return {vss.TARGET: float(celsius), vss.FAN: AUTO_FAN if on else 0}


@skill("cabin.climate.set", effect=Effect.IDEMPOTENT, undoable=True, needs=_NEEDS, consent=Consent.NEVER,
       cost=Cost(latency_ms=150, energy_mwh=2), lock="cabin.hvac",
       phrases=["set [the] (cabin|car|climate) to {celsius} [degrees]"])  # fmt: skip
async def climate_set(
    ctx: Context,
    celsius: _Celsius,
    on: Annotated[bool, Field(description="off keeps the target and blows nothing")] = True,
) -> ClimateSet:
    """Set the cabin's target temperature, and turn its climate on or off."""
    car = ctx.backend(CarSim)
    previous, was_on = car.known(vss.TARGET), car.known(vss.FAN) > 0
    await steer(ctx, "cabin.climate.set", _climate(celsius, on), within=2)
    return ClimateSet(celsius=celsius, on=on, previous=previous, was_on=was_on)


@climate_set.undo
async def _(ctx: Context, args: Mapping[str, Any], result: ClimateSet) -> None:
    await steer(ctx, "cabin.climate.set", _climate(result.previous, result.was_on), within=2)


@climate_set.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return stands(ctx.backend(CarSim), _climate(args["celsius"], args.get("on", True)))


class Preheated(BaseModel):
    """A cabin that has reached its temperature; the climate goes on for the rest of half an hour."""

    celsius: float = Field(description="air in the cabin, in °C")
    began_celsius: float = Field(description="what it was at first, in °C")
    minutes: float = Field(description="how long it took, in minutes")
    energy_kwh: float = Field(description="out of the battery, in kWh; less than 0 while it charges")
    previous: float = Field(description="the target before, in °C")
    was_on: bool


# no lock: it takes minutes, and whoever sets the climate meanwhile is heard at once
@skill("cabin.preheat", effect=Effect.IDEMPOTENT, undoable=True, needs=[*_NEEDS, f"vss:{vss.SOC}"],
       cost=Cost(latency_ms=480_000, energy_mwh=700_000),
       phrases=["(preheat|precool|precondition|warm up) [the|my] (cabin|car) [to {celsius} [degrees]]"])  # fmt: skip
async def preheat(
    ctx: Context,
    celsius: _Celsius = 21.0,
    minutes: Annotated[float, Field(ge=1, le=30, description="give up after so many minutes")] = 30.0,
    reserve: Annotated[float, Field(ge=5, le=90, description="do not go below this charge, in %")] = 15.0,
) -> Preheated:
    """Warm or cool the cabin before a drive, and wait until it has reached that temperature."""
    car = ctx.backend(CarSim)
    previous, was_on = car.known(vss.TARGET), car.known(vss.FAN) > 0
    began, first, energy = anyio.current_time(), car.known(vss.INSIDE), car.known(_ENERGY)
    _enough(car, reserve)
    deadline = min(began + 60 * minutes, math.inf if ctx.deadline is None else ctx.deadline)
    try:
        await steer(ctx, "cabin.preheat", _climate(celsius, True), within=2)
        while abs((inside := car.known(vss.INSIDE)) - celsius) > NEAR_KELVIN:
            _enough(car, reserve)
            if car.known(vss.FAN) == 0 or car.known(vss.TARGET) != celsius:
                raise SkillFailed("somebody changed the climate meanwhile", hint="look at it: cabin.climate.get",
                                  skill="cabin.preheat")  # fmt: skip
            left = deadline - anyio.current_time()
            if left <= 0:
                raise TimedOut(f"the cabin is at {inside:.1f} °C, not at {celsius:.1f} °C", "its time is up",
                               "allow more minutes", skill="cabin.preheat")  # fmt: skip
            way = abs(celsius - first)
            await ctx.progress(1 - min(1.0, abs(celsius - inside) / way) if way else 1.0, f"{inside:.1f} °C")
            changed = car.changed
            with anyio.move_on_after(min(10.0, left)):
                await changed.wait()
    except anyio.get_cancelled_exc_class():
        # nobody waits for a warm cabin any more; the climate as it was costs no await
        car.restore({vss.TARGET: previous, vss.FAN: AUTO_FAN if was_on else 0})
        raise
    seconds = anyio.current_time() - began
    return Preheated(
        celsius=round(inside, 1), began_celsius=round(first, 1), minutes=round(seconds / 60, 1),
        energy_kwh=round(energy - car.known(_ENERGY), 3), previous=previous, was_on=was_on,
    )  # fmt: skip


@preheat.undo
async def _(ctx: Context, args: Mapping[str, Any], result: Preheated) -> None:
    await steer(ctx, "cabin.preheat", _climate(result.previous, result.was_on), within=2)


@preheat.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    car = ctx.backend(CarSim)
    set_so = stands(car, _climate(args.get("celsius", 21.0), True))
    if set_so is not Outcome.DONE:
        return set_so
    near = abs(car.known(vss.INSIDE) - args.get("celsius", 21.0)) <= NEAR_KELVIN
    return Outcome.DONE if near else Outcome.NOT_DONE


def _enough(car: CarSim, reserve: float) -> None:
    if (soc := car.known(vss.SOC)) < reserve and not car.known(vss.IS_CHARGING):
        raise SkillFailed(f"the battery is at {soc:.0f} %, below the reserve of {reserve:.0f} %",
                          hint="charge first: charge.start", skill="cabin.preheat")  # fmt: skip


Seat = Literal["driver", "passenger"]
_SEATS: dict[str, str] = dict(zip(("driver", "passenger"), vss.SEAT_HEAT, strict=True))
_LEVELS = (0, 33, 67, 100)


class SeatHeat(BaseModel):
    """A seat's heating after a change."""

    seat: Seat
    level: int = Field(description="0 is off, 3 is most")
    previous: int = Field(description="the level before")


@skill("seat.heat", effect=Effect.PHYSICAL, undoable=True, needs=["vss:Vehicle.Cabin.Seat"], cost=Cost(latency_ms=150),
       lock="car.seats", driving=Driving.MOVING,
       phrases=["(heat|set) [the] {seat} seat [heating] to [level] {level}"])  # fmt: skip
async def seat_heat(
    ctx: Context,
    level: Annotated[int, Field(ge=0, le=3, description="0 is off, 3 is most")],
    seat: Annotated[Seat, Field(description="which one")] = "driver",
) -> SeatHeat:
    """Set a seat's heating."""
    car = ctx.backend(CarSim)
    now = car.known(_SEATS[seat])
    previous = min(range(4), key=lambda n: abs(_LEVELS[n] - now))
    return await move(ctx, "seat.heat", SeatHeat, {_SEATS[seat]: _LEVELS[level]}, within=2,
                      report=lambda: SeatHeat(seat=seat, level=level, previous=previous))  # fmt: skip


@seat_heat.undo
async def _(ctx: Context, args: Mapping[str, Any], result: SeatHeat) -> None:
    await steer(ctx, "seat.heat", {_SEATS[result.seat]: _LEVELS[result.previous]}, within=2)


@seat_heat.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return happened(ctx, "seat.heat", {_SEATS[args.get("seat", "driver")]: _LEVELS[args["level"]]})


class Picture(BaseModel):
    """What the cabin's camera saw."""

    png: Personal[bytes] = Field(description="the picture, PNG, 8-bit RGB")
    width: int = Field(description="in pixels")
    height: int = Field(description="in pixels")
    taken: Personal[float] = Field(description="when, in Unix seconds")


@skill("cabin.camera", effect=Effect.READ, needs=["vss:Vehicle.Cabin.Seat"], cost=Cost(latency_ms=150, energy_mwh=1),
       lock="cabin.camera", phrases=["show [me] the (cabin|inside of the car)"])  # fmt: skip
async def cabin_camera(
    ctx: Context, width: Annotated[int, Field(ge=32, le=512, description="in pixels; 160 gives about 20 kB")] = 160
) -> Picture:
    """Take a picture with the cabin's camera: a drawing of the simulated seats and who sits on them."""
    car = ctx.backend(CarSim)
    await anyio.sleep(0.1)
    taken = [car.known(f"{seat}.OccupancyStatus") == "OCCUPIED" for seat in vss.SEATS]
    height = width * 9 // 16
    png = cabin_picture(width, height, taken, dark=is_dark(car), seed=car.now())
    return Picture(png=png, width=width, height=height, taken=car.now())
