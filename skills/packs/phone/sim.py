"""PhoneSim: a phone without a phone.

Its battery is worked out when somebody looks, so nothing runs while nothing happens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import anyio
from pydantic import BaseModel, Field

from ....core.errors import Refused
from ..labels import DeviceOnly, Personal
from ..simulated import Settings, Simulator, State, read_settings

CAPACITY_MWH = 19_000.0
IDLE_MW, TORCH_MW, SOUND_MW, CALL_MW, CHARGER_MW = 190.0, 900.0, 350.0, 800.0, 18_000.0

TRACKS = {"Alpine Morning": 214.0, "Brenner Pass": 187.5, "Night Drive": 251.0}
"""What is on the phone: titles, and how long they are in seconds."""


class Contact(BaseModel):
    """A person in the address book."""

    name: Personal[str] = Field(description="full name")
    number: DeviceOnly[str] = Field(description="phone number, E.164")
    also: Personal[list[str]] = Field(default_factory=list, description="what the owner calls this person")


class Entry(BaseModel):
    """An entry of the calendar."""

    id: str
    title: Personal[str]
    starts: Personal[datetime]
    ends: Personal[datetime]
    location: Personal[str] = Field("", description="where; empty if it does not say")


class Line(BaseModel):
    """The call that is going on."""

    call: str
    to: str
    since: float


class PhoneState(State):
    """What the phone keeps over restarts."""

    battery: float = 0.8
    charging: bool = False
    torch: bool = False
    clipboard: str = ""
    place: str = "Munich"
    latitude: float = 48.1374
    longitude: float = 11.5755
    contacts: list[Contact] = Field(default_factory=list)
    calendar: list[Entry] = Field(default_factory=list)
    line: Line | None = None


class PhoneSettings(Settings):
    """What the config may say about the phone; what it says holds at every start, what it leaves out is as it was."""

    battery: float | None = Field(None, ge=0, le=1)
    charging: bool | None = None


@dataclass
class Playback:
    """The track that plays."""

    track: str
    position: float
    stop: anyio.Event = field(default_factory=anyio.Event)


class PhoneSim(Simulator[PhoneState]):
    """A phone near Munich with a few people, a trip to Innsbruck in its calendar, and a battery that drains."""

    def __init__(self, settings: PhoneSettings) -> None:
        super().__init__("phone", PhoneState, settings)
        self.playing: Playback | None = None
        self._speaking = 0
        state = self.state
        state.at = self.now()  # a phone that is off drains nothing
        state.battery = state.battery if settings.battery is None else settings.battery
        state.charging = state.charging if settings.charging is None else settings.charging
        state.contacts = state.contacts or _people()
        if not any(entry.ends.timestamp() > self.now() for entry in state.calendar):
            state.calendar += _plans(self.today())

    @property
    def power(self) -> float:
        """What it draws now, in mW, without the charger."""
        sound = SOUND_MW if self.playing or self._speaking else 0.0
        return IDLE_MW + sound + (TORCH_MW if self.state.torch else 0.0) + (CALL_MW if self.state.line else 0.0)

    def advance(self, used: float = 0.0) -> float:
        """Bring the battery up to this moment and take `used` mWh out of it; its charge, 0 to 1."""
        state, now = self.state, self.now()
        hours = (now - state.at) / 3600
        gain = (CHARGER_MW if state.charging else 0.0) - self.power
        state.battery = min(1.0, max(0.0, state.battery + (hours * gain - used) / CAPACITY_MWH))
        state.at = now
        return state.battery

    def use(self, mwh: float = 0.0) -> None:
        """Spend energy on something that is about to be done.

        Raises:
            Refused: the battery is empty; another device may do it.
        """
        if self.advance(mwh) == 0.0:
            raise Refused("the phone's battery is empty", hint="charge it")

    def plug(self, charging: bool) -> None:
        """Put the charger in or out."""
        self.advance()
        self.state.charging = charging
        self.save()

    def move(self, place: str, latitude: float, longitude: float) -> None:
        """Carry the phone to a place; degrees, WGS 84."""
        self.state.place, self.state.latitude, self.state.longitude = place, latitude, longitude
        self.save()

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Let the speaker draw power for a while."""
        self.advance()
        self._speaking += 1
        try:
            yield
        finally:
            self.advance()
            self._speaking -= 1

    @contextmanager
    def play(self, track: str, position: float) -> Iterator[Playback]:
        """Play a track; what played before stops."""
        self.advance()
        if self.playing:
            self.playing.stop.set()
        playback = self.playing = Playback(track, position)
        try:
            yield playback
        finally:
            self.advance()
            if self.playing is playback:
                self.playing = None


@asynccontextmanager
async def open_phone(settings: Mapping[str, Any]) -> AsyncIterator[PhoneSim]:
    """The phone, as its settings describe it."""
    phone = PhoneSim(read_settings(PhoneSettings, "phone", settings))
    try:
        yield phone
    finally:
        phone.advance()
        phone.save()


def _people() -> list[Contact]:
    # numbers that Germany and the UK reserve for fiction
    return [
        Contact(name="Anna Huber", number="+498999998101"),
        Contact(name="Jonas Weber", number="+498999998102", also=["Jo"]),
        Contact(name="Anna Lena Brandl", number="+498999998103", also=["Lena"]),
        Contact(name="Elisabeth Maier", number="+498999998104", also=["Mum", "Mama"]),
        Contact(name="Tyrol Conference Office", number="+447700900105"),
    ]


def _plans(today: datetime) -> list[Entry]:
    hour = today.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)

    def entry(name: str, title: str, start: float, hours: float, location: str = "") -> Entry:
        starts = hour + timedelta(hours=start)
        return Entry(id=f"{name}-{starts:%Y%m%d%H}", title=title, starts=starts, ends=starts + timedelta(hours=hours),
                     location=location)  # fmt: skip

    return [
        entry("workshop", "Workshop at the university", 3, 2, "Innsbruck, Innrain 52"),
        entry("dinner", "Dinner with Lena", 6.5, 2, "Innsbruck, Maria-Theresien-Straße 18"),
        entry("standup", "Stand-up", 20, 0.25),
        entry("dentist", "Dentist", 45, 1, "Munich, Leopoldstraße 44"),
    ]
