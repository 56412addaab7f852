"""Where to: routes with their charging stops, chargers along them, and the destination."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

import anyio.lowlevel
from pydantic import BaseModel, Field

from ....core.errors import SkillFailed
from ....core.skill import Context, Cost, Effect, Outcome, skill
from ..labels import Personal
from . import signals as vss
from .roads import PLACES, Place, Road, distance, fastest, find, road
from .sim import CarSim
from .trip import Conditions, least_soc, plan

_NEEDS = [f"vss:{vss.DESTINATION}"]
_Text = Annotated[Personal[str], Field(max_length=200)]
_From = Annotated[Personal[str], Field(max_length=200, description="a place or an address; empty is where the car is")]


class Leg(BaseModel):
    """What is driven without a stop."""

    origin: Personal[str]
    destination: Personal[str]
    via: Personal[list[str]] = Field(description="places on the way")
    distance_km: float = Field(description="in km")
    duration_s: float = Field(description="in seconds")
    energy_kwh: float = Field(description="out of the battery, in kWh")
    arrival_soc: float = Field(description="at its end, in %")


class Stop(BaseModel):
    """A stop to charge."""

    place: Personal[str]
    power_kw: float = Field(description="of one stall, in kW")
    stalls: int
    arrival_soc: float = Field(description="in %")
    departure_soc: float = Field(description="in %")
    duration_s: float = Field(description="with the way off and onto the road, in seconds")


class Route(BaseModel):
    """A trip on the simulator's map, with the stops that it needs."""

    origin: Personal[str]
    destination: Personal[str]
    distance_km: float = Field(description="in km")
    duration_s: float = Field(description="driving and charging, in seconds")
    charging_s: float = Field(description="of it for charging stops, in seconds")
    energy_kwh: float = Field(description="out of the battery, in kWh")
    departure_soc: float = Field(description="at its start, in %")
    arrival_soc: float = Field(description="at its end, in %")
    legs: list[Leg]
    stops: list[Stop]


def _from(car: CarSim, origin: str) -> tuple[str, Place, Road | None]:
    """The name of the start, the place where planning begins, and what is left of the road until there."""
    car.advance()
    if origin.strip():
        place = find(origin, "origin")
        return place.name, place, None
    ahead = car.ahead()
    return car.here().name, ahead.destination if ahead else car.here(), ahead


@skill("nav.route", effect=Effect.READ, needs=_NEEDS, cost=Cost(latency_ms=20),
       phrases=["[plan|find] [a|the] route [from {origin}] to {destination}",
                "how long (is|does) [it take] [the drive] to {destination}"])  # fmt: skip
async def nav_route(
    ctx: Context,
    destination: Annotated[_Text, Field(description="a town, an address in it, or degrees north and east")],
    origin: _From = "",
    soc: Annotated[float | None, Field(ge=0, le=100, description="charge at the start, in %; the car's if left out")]
    = None,
    reserve: Annotated[float, Field(ge=0, le=50, description="charge to keep everywhere, in %")] = 10.0,
) -> Route:  # fmt: skip
    """The fastest way there on the simulator's map, with climbs, weather and charging stops reckoned in."""
    car = ctx.backend(CarSim)
    await anyio.lowlevel.checkpoint()
    end = find(destination)
    start, place, first = _from(car, origin)
    charge = (car.known(vss.SOC) if soc is None else soc) / 100
    conditions = car.conditions(reserve / 100)
    trip = plan(car.car, place, end, charge, conditions, first)
    if trip is None:
        raise _impossible(car, start, place, end, charge, conditions, first)
    legs, begin = [], start
    for leg in trip.legs:
        names = leg.places if leg.places[0] != begin else leg.places[1:]
        legs.append(Leg(
            origin=begin, destination=leg.places[-1], via=list(names[:-1]), distance_km=round(leg.km, 1),
            duration_s=round(leg.seconds), energy_kwh=round(leg.energy, 2), arrival_soc=round(100 * leg.soc, 1),
        ))  # fmt: skip
        begin = leg.places[-1]
    stops = [
        Stop(place=stop.place.name, power_kw=stop.place.power, stalls=stop.place.stalls, duration_s=round(stop.seconds),
             arrival_soc=round(100 * stop.arrive, 1), departure_soc=round(100 * stop.leave, 1))
        for stop in trip.stops
    ]  # fmt: skip
    return Route(
        origin=start, destination=end.name, distance_km=round(sum(leg.km for leg in trip.legs), 1),
        duration_s=round(trip.seconds), charging_s=round(sum(stop.seconds for stop in trip.stops)),
        energy_kwh=round(sum(leg.energy for leg in trip.legs), 2), departure_soc=round(100 * charge, 1),
        arrival_soc=round(100 * trip.legs[-1].soc, 1), legs=legs, stops=stops,
    )  # fmt: skip


def _impossible(
    car: CarSim, start: str, place: Place, end: Place, charge: float, conditions: Conditions, first: Road | None
) -> SkillFailed:  # fmt: skip
    """Why there is no such trip, and what would help."""
    reserve = 100 * conditions.reserve
    what = f"{end.name} cannot be reached from {start} with {100 * charge:.0f} % and a reserve of {reserve:.0f} %"
    need = least_soc(car.car, place, end, conditions, first)
    if need is not None:
        why, hint = "no charger is near enough", f"charge to {100 * need:.0f} % first, or keep a smaller reserve"
    else:
        why, hint = "a full battery does not reach from charger to charger with that", "keep a smaller reserve"
    return SkillFailed(what, why, hint, skill="nav.route")


class Site(BaseModel):
    """A charging park."""

    place: Personal[str]
    power_kw: float = Field(description="of one stall, in kW")
    stalls: int
    latitude: Personal[float] = Field(description="degrees north, WGS 84")
    longitude: Personal[float] = Field(description="degrees east, WGS 84")
    along_km: Personal[float] = Field(description="from the start to where the route passes nearest, in km")
    off_km: float = Field(description="from there as the crow flies, in km")


class Sites(BaseModel):
    """Charging parks near a route, in the order of the way."""

    origin: Personal[str]
    destination: Personal[str]
    chargers: list[Site]


@skill("nav.chargers", effect=Effect.READ, needs=_NEEDS, cost=Cost(latency_ms=10),
       phrases=["[find] chargers (on [the] way|near [the] route) [from {origin}] to {destination}"])  # fmt: skip
async def nav_chargers(
    ctx: Context,
    destination: Annotated[_Text, Field(description="a town, an address in it, or degrees north and east")],
    origin: _From = "",
    least_kw: Annotated[float, Field(ge=0, le=400, description="least power of a stall, in kW")] = 50.0,
    within_km: Annotated[float, Field(ge=0, le=100, description="furthest from the route, in km")] = 10.0,
) -> Sites:
    """The charging parks near the fastest way there, on the simulator's map."""
    car = ctx.backend(CarSim)
    end = find(destination)
    start, place, first = _from(car, origin)
    names = fastest(place.name, end.name)
    way = ([first] if first else []) + [road(a, b) for a, b in pairwise(names)]
    # the points of the way, a kilometre apart
    points: list[tuple[float, float, float]] = [] if way else [(0.0, place.latitude, place.longitude)]
    done = 0.0
    for part in way:
        a, b = part.origin, part.destination
        steps = max(1, round(part.km))
        for n in range(steps + 1):
            x = n / steps
            points.append((done + x * part.km, a.latitude + x * (b.latitude - a.latitude),
                           a.longitude + x * (b.longitude - a.longitude)))  # fmt: skip
        done += part.km
    sites = []
    for site in PLACES.values():
        if site.power < max(least_kw, 1.0):
            continue
        off, along = min((distance(site, latitude, longitude), km) for km, latitude, longitude in points)
        if off <= within_km:
            sites.append(Site(
                place=site.name, power_kw=site.power, stalls=site.stalls, latitude=site.latitude,
                longitude=site.longitude, along_km=round(along, 1), off_km=round(off, 1),
            ))  # fmt: skip
    await anyio.lowlevel.checkpoint()
    return Sites(origin=start, destination=end.name, chargers=sorted(sites, key=lambda s: (s.along_km, s.off_km)))


class Destination(BaseModel):
    """Where the navigation guides to after a change."""

    destination: Personal[str] = Field(description="place of the simulator's map; empty is nowhere")
    latitude: Personal[float] = Field(description="degrees north, WGS 84; 0 for nowhere")
    longitude: Personal[float] = Field(description="degrees east, WGS 84; 0 for nowhere")
    previous: Personal[str] = Field(description="where it guided to before; empty is nowhere")


@skill("nav.set", effect=Effect.IDEMPOTENT, undoable=True, needs=_NEEDS, cost=Cost(latency_ms=20), lock="car.display",
       phrases=["(navigate|drive|take me) to {destination}", "set [the] destination to {destination}"])  # fmt: skip
async def nav_set(
    ctx: Context, destination: Annotated[_Text, Field(description="a town, an address in it; empty ends guidance")]
) -> Destination:
    """Set the navigation's destination, or end the guidance."""
    car = ctx.backend(CarSim)
    previous = car.state.destination
    name = find(destination).name if destination.strip() else ""
    await anyio.sleep(0.02)
    car.guide(name)
    return Destination(
        destination=name,
        latitude=car.known(f"{vss.DESTINATION}.Latitude"),
        longitude=car.known(f"{vss.DESTINATION}.Longitude"),
        previous=previous,
    )


@nav_set.undo
async def _(ctx: Context, args: Mapping[str, Any], result: Destination) -> None:
    car = ctx.backend(CarSim)
    if car.state.destination == result.destination:  # what the driver chose since is the driver's
        car.guide(result.previous)


@nav_set.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    wanted = find(args["destination"]).name if args["destination"].strip() else ""
    return Outcome.DONE if ctx.backend(CarSim).state.destination == wanted else Outcome.NOT_DONE
