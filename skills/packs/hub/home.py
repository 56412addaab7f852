"""The house: lights, heating, the family's calendar."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, Field

from ....core.errors import UsageError
from ....core.skill import Context, Cost, Effect, Outcome, nearest, skill
from .sim import FamilyEntry, HubSim, Light

Room = Annotated[str, Field(max_length=100, description="the room's name; `all` is every room")]


class Lights(BaseModel):
    """The lights that were asked for."""

    lights: list[Light]


class LightsSet(BaseModel):
    """Some lights after a change."""

    lights: list[Light]
    previous: list[Light] = Field(description="as they were before")


def _rooms(hub: HubSim, room: str) -> list[Light]:
    wanted = " ".join(room.casefold().split())
    lights = hub.state.lights
    if wanted in ("all", "every", "everywhere"):
        return list(lights.values())
    if wanted in lights:
        return [lights[wanted]]
    why = f"there are {', '.join(lights)}"
    raise UsageError(f"there is no room {room[:80]!r}", why, nearest(wanted, lights), field="room")


@skill("home.lights.get", effect=Effect.READ, cost=Cost(latency_ms=10),
       phrases=["(is|are) the [{room}] (light|lights) on"])  # fmt: skip
async def lights_get(ctx: Context, room: Room = "all") -> Lights:
    """Which lights of the house are on, and how bright."""
    return Lights(lights=[light.model_copy() for light in _rooms(ctx.backend(HubSim), room)])


@skill("home.lights.set", effect=Effect.IDEMPOTENT, undoable=True, cost=Cost(latency_ms=60),
       phrases=["turn {on} [the] [{room}] (light|lights)", "turn [the] [{room}] (light|lights) {on}"])  # fmt: skip
async def lights_set(
    ctx: Context,
    on: Annotated[bool, Field(description="on or off")],
    room: Room = "all",
    brightness: Annotated[int | None, Field(ge=1, le=100, description="1 to 100 %; left out: as it was")] = None,
) -> LightsSet:
    """Turn lights of the house on or off, or dim them."""
    hub = ctx.backend(HubSim)
    lights = _rooms(hub, room)
    previous = [light.model_copy() for light in lights]
    for light in lights:
        light.on, light.brightness = on, light.brightness if brightness is None else brightness
    hub.save()
    return LightsSet(lights=[light.model_copy() for light in lights], previous=previous)


@lights_set.undo
async def _(ctx: Context, args: Mapping[str, Any], result: LightsSet) -> None:
    hub = ctx.backend(HubSim)
    hub.state.lights.update({light.room: light.model_copy() for light in result.previous})
    hub.save()


class Heating(BaseModel):
    """The heating now."""

    target: float = Field(description="what it heats to, in °C")
    indoors: float = Field(description="what the rooms have, in °C")
    heating: bool = Field(description="whether it heats now")


class HeatingSet(BaseModel):
    """The heating after a change."""

    target: float = Field(description="what it heats to now, in °C")
    previous: float = Field(description="what it heated to before, in °C")


@skill("home.heating.get", effect=Effect.READ, cost=Cost(latency_ms=10),
       phrases=["how warm is it (at home|in the house|inside)"])  # fmt: skip
async def heating_get(ctx: Context) -> Heating:
    """How warm the house is, and what it is heated to."""
    hub = ctx.backend(HubSim)
    indoors = hub.advance()
    return Heating(target=hub.state.target, indoors=round(indoors, 1), heating=indoors < hub.state.target)


@skill("home.heating.set", effect=Effect.IDEMPOTENT, undoable=True, cost=Cost(latency_ms=60), lock="home.heating",
       phrases=["(set|turn) [the] heating to {target} [degrees]",
                "heat [the] (house|home) to {target} [degrees]"])  # fmt: skip
async def heating_set(ctx: Context, target: Annotated[float, Field(ge=5, le=28, description="in °C")]) -> HeatingSet:
    """Set what the house is heated to, in °C; the rooms follow within the hour."""
    hub = ctx.backend(HubSim)
    hub.advance()
    previous, hub.state.target = hub.state.target, target
    hub.save()
    return HeatingSet(target=target, previous=previous)


@heating_set.undo
async def _(ctx: Context, args: Mapping[str, Any], result: HeatingSet) -> None:
    await heating_set(ctx, result.previous)


@heating_set.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return Outcome.DONE if ctx.backend(HubSim).state.target == args["target"] else Outcome.NOT_DONE


class FamilyCalendar(BaseModel):
    """What the family is up to, the soonest first."""

    entries: list[FamilyEntry]


@skill("home.calendar", effect=Effect.READ, cost=Cost(latency_ms=10),
       phrases=["what is [on] [in] the family calendar", "what (is|are) {who} doing today"])  # fmt: skip
async def home_calendar(
    ctx: Context,
    hours: Annotated[int, Field(ge=1, le=24 * 366, description="how far ahead, in hours")] = 24,
    who: Annotated[str, Field(max_length=100, description="one member of the family; empty is everyone")] = "",
) -> FamilyCalendar:
    """What is in the family's calendar in the next hours."""
    hub = ctx.backend(HubSim)
    now, until = hub.now(), (hub.today() + timedelta(hours=hours)).timestamp()
    wanted = who.strip().casefold()
    ahead = [
        entry
        for entry in hub.state.calendar
        if entry.ends.timestamp() > now
        and entry.starts.timestamp() < until
        and (not wanted or entry.who.casefold() in (wanted, "everyone"))
    ]
    return FamilyCalendar(entries=sorted(ahead, key=lambda entry: entry.starts))
