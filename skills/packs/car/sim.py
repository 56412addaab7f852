"""CarSim: a car without a car. Its state is read and commanded as signals of the Vehicle Signal Specification.

Everything is worked out when somebody looks, so nothing runs while nothing happens. A command only starts an actuator;
whether it arrived, its signal tells (law 6).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio

from ....core.errors import SkillFailed, UsageError
from ..simulated import Simulator, read_settings
from . import signals as vss
from .actuators import Actuators
from .physics import Body, Car, Controls, advance, charge_seconds, consumption, draw
from .roads import PLACES, Place, Road, fastest, find, heading, road
from .sensors import SENSORS
from .signals import Value
from .state import CarSettings, CarState, Drive, Gear, Sound
from .trip import Conditions, outside_at

BUS_SECONDS = 0.02
"""From a command to the actuator."""
STALE_SECONDS = 2.0
"""A value older than this counts as unknown."""
PARKED_CLIMATE_SECONDS = 1800.0
"""How long the climate of a parked car runs unless it is told to again."""
_FAR_END = "Verona"
"""Where a car that drives without a destination is going."""
_GEARS: dict[Gear, int] = {"P": vss.PARK, "R": vss.REVERSE, "N": vss.NEUTRAL, "D": vss.DRIVE}


@dataclass(frozen=True, slots=True)
class Reading:
    """What a signal last said, and when, in Unix seconds."""

    value: Value
    at: float


class CarSim(Simulator[CarState]):
    """A simulated electric car on the simulator's map."""

    def __init__(self, settings: CarSettings) -> None:
        super().__init__("car", CarState, settings)
        self.car: Car = Car()
        self.changed = anyio.Event()
        """Set and replaced when something is commanded, so that whoever watches a signal looks again."""
        self.actuators = Actuators(self.state)
        self._silent: dict[str, Reading] = {}
        absent = tuple(settings.without)
        self.present = {n for n in vss.SIGNALS if not any(n == a or n.startswith(f"{a}.") for a in absent)}
        state = self.state
        state.at = min(state.at, self.now())
        self.advance()
        if settings.soc is not None:
            state.energy = settings.soc / 100 * self.car.capacity
        if settings.outside is not None and settings.outside != state.outside:
            state.outside = state.pack = state.cabin = settings.outside
        if settings.place is not None:
            state.drive = Drive(way=[find(settings.place, "place").name])
        gear = settings.gear or ("D" if settings.speed else "P")
        if settings.charger is not None or gear != "P":
            self.plug(settings.charger or 0.0)
        if settings.speed is not None or settings.gear is not None:
            self.drive(settings.speed or 0.0, gear)
        for name in settings.silent:
            self.silence(name)

    def get(self, signal: str) -> Reading:
        """What the signal says; a silent one still says what it said last.

        Raises:
            UsageError: this car has no such signal.
        """
        self._signal(signal)
        if (frozen := self._silent.get(signal)) is not None:
            return frozen
        self.advance()
        read = SENSORS.get(signal)
        return Reading(self.actuators.stands(signal) if read is None else read(self), self.now())

    def fresh(self, signal: str) -> Reading | None:
        """The same, or None if the value is stale."""
        reading = self.get(signal)
        return reading if self.now() - reading.at <= STALE_SECONDS else None

    def known(self, signal: str) -> Any:
        """The value of a signal that must be fresh.

        Raises:
            SkillFailed: it is stale, and so unknown.
        """
        if (reading := self.fresh(signal)) is None:
            age = self.now() - self.get(signal).at
            raise SkillFailed(f"{signal} is not known", f"it last spoke {age:.0f} s ago", "look at the car itself")
        return reading.value

    async def set(self, signal: str, target: Value) -> None:
        """Tell an actuator where to go; it starts, and arrives later or not at all.

        Raises:
            UsageError: no program may command it, or it cannot have that value.
        """
        checked = self._signal(signal).check(target)
        if signal not in vss.MOVABLE:
            raise UsageError(f"{signal} cannot be commanded", "it can only be read", field="signal")
        await anyio.sleep(BUS_SECONDS)
        self.advance()
        sound = self.state.sound
        if signal == vss.ACTION:
            sound.position, sound.since = self.position(), self.now()
        self.actuators.command(signal, checked)
        if signal == vss.FAN:
            self.state.climate_until = self.now() + PARKED_CLIMATE_SECONDS
        self._tell()

    def restore(self, values: Mapping[str, Value]) -> None:
        """Put actuators back at once, where a cancelled skill can no longer wait for the bus."""
        self.advance()
        for signal, value in values.items():
            self.actuators.command(signal, value)
        self._tell()

    def load(self, track: str, duration: float, position: float) -> None:
        """Put a track in the player; times in seconds."""
        self.advance()
        self.state.sound = Sound(track=track, duration=duration, position=position, since=self.now())
        self._tell()

    def silence(self, signal: str, silent: bool = True) -> None:
        """Let a signal stop reporting, or report again."""
        if silent:
            self._silent[signal] = self.get(signal)
        else:
            self._silent.pop(signal, None)

    def drive(self, kmh: float, gear: Gear = "D") -> None:
        """Drive at a speed: to the destination if there is one, else down the road to Verona; there the car parks.

        Raises:
            UsageError: the speed does not go with the gear, the cable or the charge.
        """
        if kmh and gear != "D":
            raise UsageError(f"{kmh:.0f} km/h does not go with gear {gear}", "it drives in D", field="speed")
        self.advance()
        state, move = self.state, self.state.drive
        if kmh and state.charger:
            raise UsageError("the charging cable is in", hint="take it out: charger = 0", field="speed")
        if kmh and not state.energy:
            raise UsageError("the battery is empty", hint="charge it: soc = 80", field="speed")
        if kmh and len(move.way) == 1:
            move.way = fastest(move.way[0], state.destination or _FAR_END)
        move.kmh = kmh if len(move.way) > 1 else 0.0
        state.values[vss.GEAR], state.values[vss.PARK_LOCK] = _GEARS[gear], gear == "P"
        self._tell()

    def plug(self, charger: float) -> None:
        """Put the cable of a charger of that power, in kW, in, or take it out (0).

        Raises:
            UsageError: the car moves.
        """
        self.advance()
        if charger and self.state.drive.kmh:
            raise UsageError("the car moves", hint="stop it first: speed = 0", field="charger")
        self.state.charger = charger
        if not charger:
            self.state.moves.pop(vss.START_STOP, None)
            self.state.values[vss.START_STOP] = "STOP"
        self._tell()

    def guide(self, destination: str) -> None:
        """Guide to a place of the map, or nowhere (""); a moving car turns off at the next place."""
        self.advance()
        state, move = self.state, self.state.drive
        state.destination = destination
        at = PLACES[destination] if destination else None
        state.values[f"{vss.DESTINATION}.Latitude"] = at.latitude if at else 0.0
        state.values[f"{vss.DESTINATION}.Longitude"] = at.longitude if at else 0.0
        if len(move.way) > 1 and (move.km or move.kmh):
            move.way = [move.way[0], *fastest(move.way[1], destination or _FAR_END)]
        else:
            move.way = move.way[:1]
        self._tell()

    def advance(self) -> None:
        """Bring the car up to this moment."""
        state, now = self.state, self.now()
        while state.at < now:
            # what is asked of the car is constant up to the next rest of an actuator, arrival or end of a timer
            controls, until = self.controls(), min(now, self._boundary(now))
            before = self.body
            after = advance(self.car, before, controls, until - state.at)
            state.energy, state.pack, state.cabin = after.energy, after.pack, after.cabin
            state.metres, state.charged, state.used = after.distance, after.charged, after.used
            state.at = until
            self.actuators.settle()
            self._roll((after.distance - before.distance) / 1000)
            if state.climate_until is not None and until >= state.climate_until:
                state.climate_until = None
                if state.values[vss.GEAR] == vss.PARK:
                    state.values[vss.FAN] = 0

    @property
    def body(self) -> Body:
        """The state as physics has it."""
        s = self.state
        return Body(s.energy, s.pack, s.cabin, s.metres, s.charged, s.used)

    @property
    def soc(self) -> float:
        """State of charge, 0 to 1."""
        return self.state.energy / self.car.capacity

    @property
    def limit(self) -> float:
        """The state of charge that it charges to, 0 to 1."""
        return self.actuators.number(vss.CHARGE_LIMIT) / 100

    @property
    def charging(self) -> bool:
        """Whether energy flows in to fill the pack."""
        return bool(self._charger()) and self.soc < self.limit - 1e-3

    def controls(self) -> Controls:
        """What is asked of the car, and what is around it."""
        here, stands, move = self.here(), self.actuators, self.state.drive
        climate = stands.number(vss.FAN) > 0
        return Controls(
            speed=move.kmh / 3.6, grade=road(*move.way[:2]).grade if move.kmh else 0.0,
            outside=outside_at(self.state.outside, here.altitude), altitude=here.altitude,
            awake=climate or self.charging or stands.stands(vss.GEAR) != vss.PARK,
            target=stands.number(vss.TARGET) if climate else None,
            airing=sum(map(stands.number, vss.WINDOWS)) / (100 * len(vss.WINDOWS)),
            charger=self._charger(), limit=self.limit,
        )  # fmt: skip

    def power(self) -> float:
        """Into the pack, in kW; negative is out of it."""
        controls = self.controls()
        if controls.charger:
            return 3600 * (advance(self.car, self.body, controls, 1.0).energy - self.state.energy)
        return -draw(self.car, self.body, controls)

    def charge_seconds(self) -> float:
        """Until the charge limit is reached, with the pack as warm as it is; 0 when it does not charge."""
        if not self.charging:
            return 0.0
        return charge_seconds(self.car, self.soc, self.limit, self.state.pack, self.state.charger)

    def consumption(self, kmh: float = 100.0) -> float:
        """On a level road here and now, in kWh/km."""
        now = self.controls()
        return consumption(self.car, kmh / 3.6, now.outside, now.altitude, now.target)

    def conditions(self, reserve: float) -> Conditions:
        """What a trip that began now would depend on."""
        return Conditions(self.state.outside, self.state.pack, self.actuators.number(vss.TARGET), reserve)

    def here(self) -> Place:
        """Where the car is: a place of the map, or a point on a road."""
        move = self.state.drive
        start = PLACES[move.way[0]]
        if not move.km:
            return start
        way = road(*move.way[:2])
        end, part = way.destination, min(1.0, move.km / way.km)
        latitude = start.latitude + part * (end.latitude - start.latitude)
        longitude = start.longitude + part * (end.longitude - start.longitude)
        altitude = start.altitude + part * (end.altitude - start.altitude)
        return Place(f"near {start.name if part < 0.5 else end.name}", latitude, longitude, altitude)

    def ahead(self) -> Road | None:
        """What is left of the road that the car is on; None at a place."""
        move = self.state.drive
        if not move.km:
            return None
        way = road(*move.way[:2])
        return Road(self.here(), way.destination, max(0.001, way.km - move.km), way.kmh)

    def heading(self) -> float:
        """Degrees clockwise from north."""
        way = self.state.drive.way
        return heading(PLACES[way[0]], PLACES[way[1]]) if len(way) > 1 else 0.0

    def position(self) -> float:
        """How far the track in the player is, in seconds."""
        sound = self.state.sound
        playing = self.actuators.stands(vss.ACTION) == "PLAY"
        return min(sound.duration, sound.position + (self.state.at - sound.since if playing else 0.0))

    def _signal(self, signal: str) -> vss.Signal:
        found = vss.signal_of(signal)
        if signal not in self.present:
            raise UsageError(f"this car has no {signal}", "its settings leave it out", field="signal")
        return found

    def _charger(self) -> float:
        """What the connected charger can give, once it has been started."""
        return self.state.charger if self.actuators.stands(vss.START_STOP) == "START" else 0.0

    def _boundary(self, now: float) -> float:
        state, move = self.state, self.state.drive
        ends = [self.actuators.next_rest(), state.climate_until]
        if move.kmh:
            ends.append(state.at + 3600 * max(0.0, road(*move.way[:2]).km - move.km) / move.kmh + 1e-3)
        # a moment that is no later than this one would never be passed
        return min((end for end in ends if end is not None and end > state.at + 1e-6), default=now)

    def _roll(self, km: float) -> None:
        """Move along the way; at its end, or with an empty pack, the car parks."""
        move, values = self.state.drive, self.state.values
        if not move.kmh:
            return
        move.km += km
        if move.km >= road(*move.way[:2]).km - 1e-6:
            move.way, move.km = move.way[1:], 0.0
        if len(move.way) == 1 or not self.state.energy:
            move.kmh, values[vss.GEAR], values[vss.PARK_LOCK] = 0.0, vss.PARK, True

    def _tell(self) -> None:
        """Keep the state, and let watchers look."""
        self.save()
        self.changed.set()
        self.changed = anyio.Event()


@asynccontextmanager
async def open_car(settings: Mapping[str, Any]) -> AsyncIterator[CarSim]:
    """The car, as its settings describe it."""
    car = CarSim(read_settings(CarSettings, "car", settings))
    try:
        yield car
    finally:
        car.advance()
        car.save()


def capabilities(car: CarSim) -> set[str]:
    """The signals that this car has and the branches above them, as `vss:` and the name."""
    return vss.branches(car.present)
