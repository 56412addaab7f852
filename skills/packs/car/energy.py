"""The battery: how full it is, how far that goes, and charging it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field

from ....core.errors import SkillFailed, SlipError
from ....core.skill import Context, Cost, Driving, Effect, Outcome, skill
from . import signals as vss
from .act import happened, move, stands, steer
from .sim import CarSim

_NEEDS = [f"vss:{vss.SOC}"]
_CHARGING = [f"vss:{vss.CHARGING}"]


class Charge(BaseModel):
    """How full the car's battery is."""

    percent: float = Field(description="state of charge, 0 to 100 %")
    energy_kwh: float = Field(description="in the battery, in kWh")
    charging: bool
    plugged: bool = Field(description="whether a charging cable is in")
    power_kw: float = Field(description="into the battery, in kW; negative is out of it")
    limit_percent: int = Field(description="it charges up to here, in %")
    minutes: float | None = Field(description="until that limit, in minutes; None when it does not charge")
    celsius: float = Field(description="of the battery, in °C")


def _charge(car: CarSim) -> Charge:
    charging = bool(car.known(vss.IS_CHARGING))
    seconds = car.known(f"{vss.CHARGING}.TimeToComplete")
    return Charge(
        percent=round(car.known(vss.SOC), 1),
        energy_kwh=round(car.known(f"{vss.BATTERY}.StateOfCharge.CurrentEnergy"), 2),
        charging=charging,
        plugged=car.known(vss.CABLE),
        power_kw=round(car.known(f"{vss.BATTERY}.CurrentPower") / 1000, 2),
        limit_percent=car.known(vss.CHARGE_LIMIT),
        minutes=round(seconds / 60, 1) if charging else None,
        celsius=car.known(f"{vss.BATTERY}.Temperature.Average"),
    )


def resources(car: CarSim) -> dict[str, object]:
    """The battery that drives, as what the car announces of itself; nothing while it is not known.

    It tells no drain: what skills take would be lost in what driving takes.
    """
    try:
        return {"battery": float(car.known(vss.SOC)) / 100, "charging": bool(car.known(vss.IS_CHARGING)),
                "capacity": car.car.capacity * 3.6e6}  # fmt: skip
    except SlipError:  # such a car, or a silent signal: it announces no battery
        return {}


@skill("car.soc", effect=Effect.READ, needs=_NEEDS, cost=Cost(latency_ms=5),
       phrases=["[what is] [the|my] car['s] (battery|charge|state of charge)", "how full is [the|my] car"])  # fmt: skip
async def car_soc(ctx: Context) -> Charge:
    """How full the car's battery is, and whether it charges."""
    return _charge(ctx.backend(CarSim))


class Range(BaseModel):
    """How far the car can go."""

    km: float = Field(description="at that speed on a level road, in km")
    empty_km: float = Field(description="the same to an empty battery, in km")
    speed_kmh: float = Field(description="the speed that it is for, in km/h")
    consumption_wh_per_km: float = Field(description="at that speed here and now, climate included, in Wh/km")
    reserve_percent: float = Field(description="kept in the battery, in %")


@skill("car.range", effect=Effect.READ, needs=_NEEDS, cost=Cost(latency_ms=5),
       phrases=["how far (can|does) [the|my] car (go|get)", "[what is] [the|my] [car's] range"])  # fmt: skip
async def car_range(
    ctx: Context,
    kmh: Annotated[float, Field(ge=30, le=160, description="steady speed, in km/h")] = 100.0,
    reserve: Annotated[float, Field(ge=0, le=50, description="to keep in the battery, in %")] = 10.0,
) -> Range:
    """How far the car can go at a steady speed, in the weather and with the climate of now."""
    car = ctx.backend(CarSim)
    soc = car.known(vss.SOC)
    per_km = car.consumption(kmh)
    capacity = car.car.capacity / 100
    return Range(
        km=round(max(0.0, soc - reserve) * capacity / per_km, 1),
        empty_km=round(soc * capacity / per_km, 1),
        speed_kmh=kmh,
        consumption_wh_per_km=round(1000 * per_km, 1),
        reserve_percent=reserve,
    )


class Limit(BaseModel):
    """The charge limit after a change."""

    percent: int = Field(description="it charges up to here, in %")
    previous: int = Field(description="what it was before, in %")


@skill("charge.limit", effect=Effect.IDEMPOTENT, undoable=True, needs=_CHARGING, cost=Cost(latency_ms=150),
       lock="car.charging", phrases=["set [the] charge limit to {percent} [percent|%]",
                                     "charge [the car] [up] to {percent} (percent|%)"])  # fmt: skip
async def charge_limit(
    ctx: Context, percent: Annotated[int, Field(ge=50, le=100, description="in %; 80 is kind to the battery")]
) -> Limit:
    """Set how full the car's battery is charged."""
    previous = int(ctx.backend(CarSim).known(vss.CHARGE_LIMIT))
    await steer(ctx, "charge.limit", {vss.CHARGE_LIMIT: percent}, within=2)
    return Limit(percent=percent, previous=previous)


@charge_limit.undo
async def _(ctx: Context, args: Mapping[str, Any], result: Limit) -> None:
    await steer(ctx, "charge.limit", {vss.CHARGE_LIMIT: result.previous}, within=2)


@charge_limit.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return stands(ctx.backend(CarSim), {vss.CHARGE_LIMIT: args["percent"]})


# physical: current flows, and somebody pays for it
@skill("charge.start", effect=Effect.PHYSICAL, undoable=True, needs=_CHARGING, cost=Cost(latency_ms=6500),
       lock="car.charging", phrases=["start charging [the car]", "charge [the|my] car"])  # fmt: skip
async def charge_start(ctx: Context) -> Charge:
    """Start charging the car, and see that current flows."""
    car = ctx.backend(CarSim)
    if (earlier := car.done(ctx, "charge.start", Charge)) is not None:
        return earlier
    if not car.known(vss.CABLE):
        raise SkillFailed("no charging cable is in", "a car cannot plug itself in", "plug it in, then start again",
                          skill="charge.start")  # fmt: skip
    soc, limit = car.known(vss.SOC), car.known(vss.CHARGE_LIMIT)
    if soc >= limit - 0.1:
        raise SkillFailed(f"the battery is at {soc:.0f} %, its limit is {limit} %", hint="raise it: charge.limit",
                          skill="charge.start")  # fmt: skip

    def report() -> Charge:
        if not (charge := _charge(car)).charging:
            raise SkillFailed("the charger gives no current", hint="look at the charger", skill="charge.start")
        return charge

    return await move(ctx, "charge.start", Charge, {vss.START_STOP: "START"}, within=20, report=report)


@charge_start.undo
async def _(ctx: Context, args: Mapping[str, Any], result: Charge) -> None:
    await steer(ctx, "charge.start", {vss.START_STOP: "STOP"}, within=3)


@charge_start.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return happened(ctx, "charge.start", {vss.IS_CHARGING: True})


@skill("charge.stop", effect=Effect.PHYSICAL, needs=_CHARGING, cost=Cost(latency_ms=300), lock="car.charging",
       driving=Driving.MOVING, phrases=["stop charging [the car]"])  # fmt: skip
async def charge_stop(ctx: Context) -> Charge:
    """Stop charging the car, and see that no current flows."""
    car = ctx.backend(CarSim)
    return await move(ctx, "charge.stop", Charge, {vss.START_STOP: "STOP"}, within=3, report=lambda: _charge(car))


@charge_stop.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return happened(ctx, "charge.stop", {vss.IS_CHARGING: False})
