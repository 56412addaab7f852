"""HubSim: a house without a house.

Its rooms warm up and its door travels as physics has it, worked out when somebody looks.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import anyio
from pydantic import BaseModel, Field

from ..labels import Personal
from ..simulated import Settings, Simulator, State, read_settings

DOOR_SECONDS = 10.0
"""What the garage door takes from one end to the other."""
OUTDOORS = 6.0
WARM_UP_SECONDS, COOL_DOWN_SECONDS = 45 * 60.0, 12 * 3600.0
"""Time constants of the house: heated towards the target, unheated towards the air outdoors."""


class Light(BaseModel):
    """The light in one room."""

    room: str
    on: bool = False
    brightness: int = Field(80, description="0 to 100 %")


class FamilyEntry(BaseModel):
    """An entry of the family's calendar."""

    who: Personal[str]
    title: Personal[str]
    starts: Personal[datetime]
    ends: Personal[datetime]
    location: Personal[str] = ""


class Travel(BaseModel):
    """The door's last movement: from where, to where (0 closed, 1 open), since when."""

    start: float = 0.0
    target: float = 0.0
    since: float = 0.0


class HubState(State):
    """What the house keeps over restarts."""

    lights: dict[str, Light] = Field(
        default_factory=lambda: {room: Light(room=room) for room in ("kitchen", "living room", "hall", "bedroom")}
    )
    target: float = 20.0
    indoors: float = 19.0
    door: Travel = Field(default_factory=Travel)
    calendar: list[FamilyEntry] = Field(default_factory=list)


class HubSettings(Settings):
    """What the config may say about the house."""

    garage_jams_at: float | None = Field(None, ge=0, le=1)
    """The garage door gets no further than this share of its travel: a fault to try things with."""


class HubSim(Simulator[HubState]):
    """A house with four rooms, heating, and a garage door that takes ten seconds."""

    def __init__(self, settings: HubSettings) -> None:
        super().__init__("hub", HubState, settings)
        self.jams_at = settings.garage_jams_at
        self.moved = anyio.Event()
        """Set and replaced when the door is told to move, so that whoever watches it looks again."""
        if not any(entry.ends.timestamp() > self.now() for entry in self.state.calendar):
            self.state.calendar += _family(self.today())
        self.advance()

    def advance(self) -> float:
        """Bring the house up to this moment; the temperature indoors, in °C."""
        state, now = self.state, self.now()
        seconds, state.at = max(0.0, now - state.at), now
        if state.indoors < state.target:
            # towards a flow temperature somewhat above the target, so that the target is reached and not only neared
            flow = state.target + 2
            state.indoors = min(state.target, flow - (flow - state.indoors) * math.exp(-seconds / WARM_UP_SECONDS))
        else:
            cooled = OUTDOORS + (state.indoors - OUTDOORS) * math.exp(-seconds / COOL_DOWN_SECONDS)
            state.indoors = max(state.target, cooled)
        return state.indoors

    def door(self) -> tuple[float, float]:
        """Where the door's sensor sees it now (0 closed, 1 open), and its speed in shares per second (0 at rest)."""
        travel = self.state.door
        end = self._end(travel)
        way = max(0.0, self.now() - travel.since) / DOOR_SECONDS
        if way > abs(end - travel.start) - 1e-6:  # Unix seconds as a float are good to a quarter of a microsecond
            return end, 0.0
        direction = math.copysign(1.0, end - travel.start)
        return travel.start + direction * way, direction / DOOR_SECONDS

    def drive(self, target: float) -> None:
        """Start the door's motor towards `target`; the motor tells nothing, only the sensor does."""
        position, _ = self.door()
        self.state.door = Travel(start=position, target=target, since=self.now())
        self.save()
        self.moved.set()
        self.moved = anyio.Event()

    def _end(self, travel: Travel) -> float:
        """Where that movement comes to rest: at its target, or where it jams."""
        low, high = sorted((travel.start, travel.target))
        if self.jams_at is not None and low <= self.jams_at <= high:
            return self.jams_at
        return travel.target


@asynccontextmanager
async def open_hub(settings: Mapping[str, Any]) -> AsyncIterator[HubSim]:
    """The house, as its settings describe it."""
    hub = HubSim(read_settings(HubSettings, "hub", settings))
    try:
        yield hub
    finally:
        hub.advance()
        hub.save()


def _family(today: datetime) -> list[FamilyEntry]:
    hour = today.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)

    def entry(who: str, title: str, start: float, hours: float, location: str = "") -> FamilyEntry:
        starts = hour + timedelta(hours=start)
        return FamilyEntry(who=who, title=title, starts=starts, ends=starts + timedelta(hours=hours), location=location)

    return [
        entry("Paul", "Football practice", 2, 1.5, "Munich, Sportplatz Lerchenau"),
        entry("Mia", "Piano lesson", 4, 1, "Munich, Schwabing"),
        entry("everyone", "Dinner at grandma's", 29, 3, "Rosenheim"),
    ]
