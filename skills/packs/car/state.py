"""What the simulated car keeps over restarts, and what the config may say about it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from ..simulated import Settings, State
from . import signals as vss
from .physics import Car
from .signals import Value

Gear = Literal["P", "R", "N", "D"]

DEFAULTS: dict[str, Value] = {
    vss.GEAR: vss.PARK, vss.PARK_LOCK: True, vss.CHARGE_LIMIT: 80, vss.START_STOP: "STOP", vss.TARGET: 21.0, vss.FAN: 0,
    vss.SWITCH: "AUTO", vss.HAZARD: False, vss.HORN: False, vss.ACTION: "STOP", f"{vss.DESTINATION}.Latitude": 0.0,
    f"{vss.DESTINATION}.Longitude": 0.0, **dict.fromkeys(vss.LOCKS, True), **dict.fromkeys(vss.WINDOWS, 0),
    **{f"{door}.IsOpen": False for door in vss.DOORS}, **dict.fromkeys(vss.SEAT_HEAT, 0),
}  # fmt: skip
"""Where every actuator of a new car stands."""


class Move(BaseModel):
    """An actuator on its way to `end`, which is not its target when it jams."""

    start: Value
    end: Value
    since: float


class Drive(BaseModel):
    """What the car is doing on the road: `km` past the first place of its `way`, towards the second."""

    kmh: float = 0.0
    way: list[str] = Field(default_factory=lambda: ["Munich"])
    km: float = 0.0


class Sound(BaseModel):
    """The track in the player, and how far it was at a moment; all in seconds."""

    track: str = ""
    duration: float = 0.0
    position: float = 0.0
    since: float = 0.0


class CarState(State):
    """A crossover in Munich at 62 %, parked and locked, its cable in an 11 kW wallbox."""

    energy: float = 0.62 * Car().capacity
    pack: float = 18.0
    cabin: float = 14.0
    metres: float = 18_240_000.0
    charged: float = 3_310.0
    used: float = 3_264.0
    outside: float = 12.0
    """Air temperature at 500 m, in °C."""
    charger: float = 11.0
    """Power of the charger whose cable is in, in kW; 0 is no cable."""
    values: dict[str, Value] = Field(default_factory=lambda: dict(DEFAULTS))
    """Where each actuator stands, or was told to go."""
    moves: dict[str, Move] = Field(default_factory=dict)
    climate_until: float | None = None
    """When the climate of a parked car turns itself off, in Unix seconds."""
    drive: Drive = Field(default_factory=Drive)
    destination: str = ""
    sound: Sound = Field(default_factory=Sound)
    troubles: list[str] = Field(default_factory=list)
    """Active trouble codes."""
    passenger: bool = False
    """Whether somebody sits beside the driver."""


class CarSettings(Settings):
    """What the config may say about the car; what it says holds at every start, what it leaves out is as it was."""

    soc: float | None = Field(None, ge=0, le=100)
    """In %."""
    speed: float | None = Field(None, ge=0, le=180)
    """In km/h."""
    gear: Gear | None = None
    """D for a car that moves, else P."""
    place: str | None = None
    outside: float | None = Field(None, ge=-30, le=45)
    """Air temperature at 500 m, in °C."""
    charger: float | None = Field(None, ge=0, le=400)
    """Power of the charger whose cable is in, in kW; 0 is no cable."""
    without: list[str] = Field(default_factory=list)
    """Branches of signals that this car lacks, such as Vehicle.Cabin.Seat."""
    silent: list[str] = Field(default_factory=list)
    """Signals that no longer report: a fault to try things with."""
