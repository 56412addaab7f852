"""Skills that more than one kind of device offers, so that the scheduler has a choice: `weather.at`, `summary.text`."""

from __future__ import annotations

import math
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import BaseModel, Field, JsonValue

from ...core.errors import UsageError
from ...core.skill import Context, Cost, Effect, nearest, skill
from .labels import Personal

# mean °C of the coldest and of the warmest month, and the share of hours with rain or snow
_CLIMATE = {
    "berlin": (0.9, 19.5, 0.20), "bolzano": (1.5, 23.5, 0.15), "bregenz": (0.5, 19.0, 0.28),
    "brenner": (-4.5, 13.5, 0.30), "frankfurt": (2.0, 20.5, 0.20), "garmisch": (-1.5, 17.0, 0.32),
    "ingolstadt": (-0.2, 19.0, 0.21), "innsbruck": (-1.0, 19.0, 0.24), "kufstein": (-1.2, 18.5, 0.30),
    "milan": (3.0, 25.0, 0.16), "munich": (0.2, 19.3, 0.25), "nuremberg": (0.3, 19.4, 0.21),
    "rosenheim": (-0.5, 18.8, 0.28), "salzburg": (-0.3, 19.2, 0.31), "stuttgart": (1.5, 20.2, 0.20),
    "trento": (2.0, 23.5, 0.17), "venice": (4.0, 24.5, 0.16), "verona": (3.0, 25.0, 0.15),
    "vienna": (1.0, 21.5, 0.18), "zurich": (1.0, 19.0, 0.26),
}  # fmt: skip
_ENGLISH = {"münchen": "munich", "bozen": "bolzano", "mailand": "milan", "nürnberg": "nuremberg", "wien": "vienna",
            "zürich": "zurich", "venedig": "venice", "brennero": "brenner", "trient": "trento"}  # fmt: skip


class Weather(BaseModel):
    """The weather at one place in one hour."""

    place: str = Field(description="the place in the table that was meant")
    at: datetime = Field(description="the hour that it is for")
    celsius: float = Field(description="air temperature, in °C")
    condition: Literal["clear", "cloudy", "fog", "rain", "snow"]
    wind_kmh: float = Field(description="wind, in km/h")
    rain_percent: int = Field(description="chance of rain or snow, in %")
    source: Literal["simulated"] = Field("simulated", description="made by a table, not measured")


def _place(text: str) -> str:
    """The table's name of the place that a text such as "Innsbruck, Maria-Theresien-Straße 18" is in."""
    words = "".join(c if c.isalpha() else " " for c in text.casefold()).split()
    for word in words:
        if (name := _ENGLISH.get(word, word)) in _CLIMATE:
            return name
    towns = [name.title() for name in (*_CLIMATE, *_ENGLISH)]
    hint = next(filter(None, (nearest(word.title(), towns) for word in words)), "name a town between Berlin and Milan")
    raise UsageError(f"no weather for {text[:80]!r}", f"the simulated table has {len(_CLIMATE)} places",
                     hint, skill="weather.at", field="place")  # fmt: skip


def _chance(*what: object) -> float:
    """The same number for the same words, evenly spread over 0 to 1."""
    digest = sha256("|".join(map(str, what)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


@skill("weather.at", effect=Effect.READ, cost=Cost(latency_ms=1),
       phrases=["(what is|how is) the weather in {place}", "weather in {place}"])  # fmt: skip
async def weather_at(
    ctx: Context,
    place: Annotated[str, Field(max_length=200, description="a town, or an address in it")],
    at: Annotated[datetime | None, Field(description="when; now if it is left out")] = None,
) -> Weather:
    """The simulated weather at a place in an hour: the same question always has the same answer."""
    name = _place(place)
    moment = (at or datetime.now().astimezone()).replace(minute=0, second=0, microsecond=0)
    coldest, warmest, wet = _CLIMATE[name]
    season = math.cos(2 * math.pi * (moment.timetuple().tm_yday - 200) / 365.25)  # warmest about the 19th of July
    hour_of_day = math.cos(2 * math.pi * (moment.hour - 15) / 24)
    spell = _chance(name, moment.date())  # a day is warm or cold as a whole
    celsius = (coldest + warmest) / 2 + season * (warmest - coldest) / 2 + 4 * hour_of_day + 8 * (spell - 0.5)
    falls = _chance(name, moment.date(), moment.hour // 6) < wet
    sky = _chance(name, moment.date(), moment.hour // 3)
    condition: Literal["clear", "cloudy", "fog", "rain", "snow"]
    if falls:
        condition = "snow" if celsius < 1 else "rain"
    elif sky < 0.08 and moment.hour < 10:
        condition = "fog"
    else:
        condition = "clear" if sky > 0.55 else "cloudy"
    rain = 60 + 40 * sky if falls else 100 * wet * (1 - sky)
    wind = 3 + 22 * _chance(name, moment.date(), moment.hour) * (1.4 if falls else 1.0)
    return Weather(place=name.title(), at=moment, celsius=round(celsius, 1), condition=condition,
                   wind_kmh=round(wind, 1), rain_percent=round(rain))  # fmt: skip


class Summary(BaseModel):
    """A sentence for people."""

    text: Personal[str] = Field(description="one plain sentence")
    used: int = Field(description="how many facts are in it")
    left_out: int = Field(description="how many facts did not fit")


_UNITS = {"km": "km", "kmh": "km/h", "celsius": "°C", "percent": "%", "minutes": "min", "seconds": "s", "hours": "h",
          "kwh": "kWh", "m": "m", "w": "W"}  # fmt: skip


def _facts(name: str, value: JsonValue) -> list[str]:
    """A fact as phrases: `{"distance_km": 163.2}` as "distance 163.2 km", a map as one phrase for each of its facts."""
    if value is None or value in ("", [], {}):
        return []
    if isinstance(value, dict):
        return [phrase for key, inner in value.items() for phrase in _facts(key, inner)]
    words = name.replace(".", " ").replace("_", " ").split()
    unit = _UNITS.get(words[-1]) if words else None
    if isinstance(value, bool):
        return [" ".join(words if value else ["not", *words])]
    if isinstance(value, list):
        inner = [phrase for item in value for phrase in _facts("", item)]
        return [" ".join([*words, ", ".join(inner)])]
    if isinstance(value, str):
        return [" ".join([*words, _when(value) or " ".join(value.split())[:80]])]
    number = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
    return [" ".join([*words[:-1], number, unit] if unit else [*words, number])]


def _when(text: str) -> str | None:
    """A point in time as people say it, or None for any other text."""
    if not text[:4].isdigit() or len(text) < 16:
        return None
    try:
        return datetime.fromisoformat(text).strftime("%a %d %b, %H:%M")
    except ValueError:
        return None  # a text that only begins like a date


@skill("summary.text", effect=Effect.READ, cost=Cost(latency_ms=2))
async def summary_text(
    ctx: Context,
    facts: Annotated[dict[str, JsonValue], Field(max_length=100, description="by name; a unit ends it: distance_km")],
    limit: Annotated[int, Field(ge=40, le=2000, description="the longest sentence, in characters")] = 280,
) -> Summary:
    """Make one short plain sentence of some facts, the first ones first."""
    phrases = [phrase for phrase in _facts("", dict(facts)) if phrase]
    used = length = 0
    while used < len(phrases) and (length := length + len(phrases[used]) + 2) <= limit - len(" and 9999 more"):
        used += 1
    used = used or min(1, len(phrases))
    return Summary(text=_sentence(phrases[:used], len(phrases) - used)[:limit], used=used,
                   left_out=len(phrases) - used)  # fmt: skip


def _sentence(phrases: list[str], left_out: int) -> str:
    parts = [*phrases, f"{left_out} more"] if left_out else phrases
    if not parts:
        return "There is nothing to report."
    text = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"{text[:1].upper()}{text[1:]}."
