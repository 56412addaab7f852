"""What moves or makes itself noticed outside: windows, doors, lights, the horn. Each is confirmed by its signal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import anyio
from pydantic import BaseModel, Field

from ....core.errors import TimedOut, UnknownOutcome
from ....core.skill import Consent, Context, Cost, Driving, Effect, Outcome, skill
from . import signals as vss
from .act import happened, move, steer
from .sim import CarSim

Window = Literal["all", "driver", "passenger", "rear_driver", "rear_passenger"]
_WINDOWS: dict[str, tuple[str, ...]] = {
    "all": vss.WINDOWS,
    **dict(zip(("driver", "passenger", "rear_driver", "rear_passenger"), ((w,) for w in vss.WINDOWS), strict=True)),
}


class Windows(BaseModel):
    """Where the windows stand; 0 % is closed, 100 % is open."""

    driver: int = Field(description="in %")
    passenger: int = Field(description="in %")
    rear_driver: int = Field(description="behind the driver, in %")
    rear_passenger: int = Field(description="behind the passenger, in %")


def _windows(car: CarSim) -> Windows:
    a, b, c, d = (car.known(window) for window in vss.WINDOWS)
    return Windows(driver=a, passenger=b, rear_driver=c, rear_passenger=d)


# neither windows nor doors have an undo: moving them back moves them again, and that is for a person to decide
@skill("windows.set", effect=Effect.PHYSICAL, needs=[f"vss:{vss.WINDOWS[0]}"], cost=Cost(latency_ms=4000),
       lock="car.windows", driving=Driving.MOVING,  # up to ventilation, which the policy's floor sees to
       phrases=["(open|set) [the] {which} window[s] to {percent} (percent|%)"])  # fmt: skip
async def windows_set(
    ctx: Context,
    percent: Annotated[int, Field(ge=0, le=100, description="0 is closed, 100 is open")],
    which: Annotated[Window, Field(description="which of them")] = "all",
) -> Windows:
    """Open or close the car's windows, and see that they are."""
    car = ctx.backend(CarSim)
    targets = dict.fromkeys(_WINDOWS[which], percent)
    return await move(ctx, "windows.set", Windows, targets, within=8, report=lambda: _windows(car))


@windows_set.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return happened(ctx, "windows.set", dict.fromkeys(_WINDOWS[args.get("which", "all")], args["percent"]))


class Doors(BaseModel):
    """Whether the doors are locked."""

    locked: bool = Field(description="whether every door is")


def _doors(car: CarSim) -> Doors:
    return Doors(locked=all(car.known(lock) for lock in vss.LOCKS))


_DOORS = [f"vss:{vss.LOCKS[0]}"]


@skill("doors.lock", effect=Effect.PHYSICAL, needs=_DOORS, cost=Cost(latency_ms=500), lock="car.doors",
       driving=Driving.MOVING, phrases=["lock [the|my] (car|doors)"])  # fmt: skip
async def doors_lock(ctx: Context) -> Doors:
    """Lock all doors of the car, and see that they are locked."""
    car = ctx.backend(CarSim)
    return await move(ctx, "doors.lock", Doors, dict.fromkeys(vss.LOCKS, True), within=3, report=lambda: _doors(car))


@skill("doors.unlock", effect=Effect.PHYSICAL, needs=_DOORS, cost=Cost(latency_ms=500), lock="car.doors",
       consent=Consent.ALWAYS, phrases=["unlock [the|my] (car|doors)"])  # fmt: skip
async def doors_unlock(ctx: Context) -> Doors:
    """Unlock all doors of the car, and see that they are unlocked."""
    car = ctx.backend(CarSim)
    return await move(ctx, "doors.unlock", Doors, dict.fromkeys(vss.LOCKS, False), within=3, report=lambda: _doors(car))


@doors_lock.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return happened(ctx, "doors.lock", dict.fromkeys(vss.LOCKS, True))


@doors_unlock.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return happened(ctx, "doors.unlock", dict.fromkeys(vss.LOCKS, False))


Switch = Literal["off", "position", "daytime", "auto", "beam"]
_SWITCH: dict[str, str] = {"off": "OFF", "position": "POSITION", "daytime": "DAYTIME_RUNNING_LIGHTS", "auto": "AUTO",
                           "beam": "BEAM"}  # fmt: skip
_SWITCHED: dict[str, Switch] = {
    "OFF": "off", "POSITION": "position", "DAYTIME_RUNNING_LIGHTS": "daytime", "AUTO": "auto", "BEAM": "beam",
}  # fmt: skip


class Lights(BaseModel):
    """The exterior lights after a change."""

    switch: Switch
    hazard: bool = Field(description="whether the hazard lights flash")
    beam: bool = Field(description="whether the low beam is on")
    previous_switch: Switch
    previous_hazard: bool


def _lights(switch: str | None, hazard: bool | None) -> dict[str, vss.Value]:
    targets: dict[str, vss.Value] = {}
    if switch is not None:
        targets[vss.SWITCH] = _SWITCH[switch]
    if hazard is not None:
        targets[vss.HAZARD] = hazard
    return targets


@skill("lights.set", effect=Effect.PHYSICAL, undoable=True, needs=[f"vss:{vss.LIGHTS}"], cost=Cost(latency_ms=150),
       lock="car.lights", driving=Driving.MOVING, phrases=["(set|turn) [the] [car] lights [to] {switch}",
                                                           "turn [the] hazard [lights] {hazard}"])  # fmt: skip
async def lights_set(
    ctx: Context,
    switch: Annotated[Switch | None, Field(description="the main light switch; left as it is if left out")] = None,
    hazard: Annotated[bool | None, Field(description="the hazard lights; left as they are if left out")] = None,
) -> Lights:
    """Set the car's exterior lights."""
    car = ctx.backend(CarSim)
    before, flashed = _SWITCHED[car.known(vss.SWITCH)], bool(car.known(vss.HAZARD))

    def report() -> Lights:
        return Lights(switch=_SWITCHED[car.known(vss.SWITCH)], hazard=car.known(vss.HAZARD),
                      beam=car.known(vss.LOW_BEAM), previous_switch=before, previous_hazard=flashed)  # fmt: skip

    return await move(ctx, "lights.set", Lights, _lights(switch, hazard), within=2, report=report)


@lights_set.undo
async def _(ctx: Context, args: Mapping[str, Any], result: Lights) -> None:
    await steer(ctx, "lights.set", _lights(result.previous_switch, result.previous_hazard), within=2)


@lights_set.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return happened(ctx, "lights.set", _lights(args.get("switch"), args.get("hazard")))


class Honked(BaseModel):
    """The horn was heard."""

    times: int
    seconds: float = Field(description="how long it all took, in seconds")


@skill("horn.honk", effect=Effect.PHYSICAL, needs=["vss:Vehicle.Body.Horn"], cost=Cost(latency_ms=600),
       lock="car.horn", driving=Driving.MOVING,
       phrases=["honk [the horn] [{times} times]", "make [the|my] car honk"])  # fmt: skip
async def horn_honk(ctx: Context, times: Annotated[int, Field(ge=1, le=5, description="how often")] = 1) -> Honked:
    """Honk the car's horn."""
    car = ctx.backend(CarSim)
    if (earlier := car.done(ctx, "horn.honk", Honked)) is not None:
        return earlier
    car.begin(ctx, "horn.honk")
    began = anyio.current_time()
    try:
        for n in range(times):
            if n:
                await anyio.sleep(0.3)
            await steer(ctx, "horn.honk", {vss.HORN: True}, within=1)
            await anyio.sleep(0.3)
            await steer(ctx, "horn.honk", {vss.HORN: False}, within=1)
    except TimedOut as error:
        raise UnknownOutcome(error.what, error.why, error.hint, skill="horn.honk") from error
    finally:
        car.restore({vss.HORN: False})  # whatever ends it, a horn must not go on
    return car.finish(ctx, "horn.honk", Honked(times=times, seconds=round(anyio.current_time() - began, 2)))


@horn_honk.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return ctx.backend(CarSim).outcome(ctx, "horn.honk")
