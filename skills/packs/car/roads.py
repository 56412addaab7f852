"""The simulator's map: towns between Berlin, Vienna, Zurich and Venice, the roads between them, chargers along them.

Places and altitudes are those of the real towns, lengths are close to the real roads'. The charging parks are made up.
A road rises or falls evenly between its ends, so a pass has a place of its own.
"""

from __future__ import annotations

import heapq
import math
import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

from ....core.errors import UsageError
from ....core.skill import nearest


@dataclass(frozen=True, slots=True)
class Place:
    """A town or a pass, and the charging park there: its power per stall in kW (0: none), and its stalls."""

    name: str
    latitude: float
    longitude: float
    altitude: float
    power: float = 0.0
    stalls: int = 0


@dataclass(frozen=True, slots=True)
class Road:
    """One way along a road: `kmh` is how fast it is driven when it is free."""

    origin: Place
    destination: Place
    km: float
    kmh: float

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return 3600 * self.km / self.kmh

    @property
    def grade(self) -> float:
        """Rise per distance."""
        return (self.destination.altitude - self.origin.altitude) / (1000 * self.km)


# name, °N, °E, m, kW per stall, stalls
_PLACES: Final = (
    ("Munich", 48.137, 11.576, 519, 300, 8), ("Holzkirchen", 47.877, 11.700, 680, 0, 0),
    ("Irschenberg", 47.829, 11.917, 730, 350, 10), ("Rosenheim", 47.856, 12.128, 447, 150, 4),
    ("Kufstein", 47.583, 12.170, 499, 350, 8), ("Wörgl", 47.490, 12.066, 511, 0, 0),
    ("Schwaz", 47.345, 11.710, 545, 50, 2), ("Innsbruck", 47.269, 11.404, 574, 300, 12),
    ("Matrei", 47.130, 11.452, 992, 0, 0), ("Brenner", 47.003, 11.508, 1374, 150, 6),
    ("Sterzing", 46.897, 11.433, 948, 300, 6), ("Brixen", 46.716, 11.657, 559, 150, 4),
    ("Klausen", 46.641, 11.566, 523, 0, 0), ("Bolzano", 46.498, 11.354, 262, 350, 8),
    ("Trento", 46.067, 11.122, 194, 300, 8), ("Rovereto", 45.890, 11.040, 204, 0, 0),
    ("Verona", 45.438, 10.992, 59, 350, 10), ("Peschiera", 45.439, 10.694, 68, 150, 4),
    ("Brescia", 45.541, 10.220, 149, 300, 8), ("Bergamo", 45.695, 9.670, 249, 150, 4),
    ("Milan", 45.464, 9.190, 120, 300, 12), ("Vicenza", 45.546, 11.535, 39, 150, 4),
    ("Padua", 45.406, 11.877, 12, 300, 8), ("Venice", 45.490, 12.240, 3, 150, 6),
    ("Garmisch", 47.492, 11.096, 708, 150, 4), ("Mittenwald", 47.442, 11.262, 923, 50, 2),
    ("Seefeld", 47.330, 11.187, 1180, 50, 2), ("Zirl", 47.275, 11.240, 622, 0, 0),
    ("Landeck", 47.140, 10.565, 816, 150, 4), ("Reschen", 46.840, 10.507, 1507, 22, 2),
    ("Merano", 46.671, 11.159, 325, 150, 4), ("Sankt Anton", 47.128, 10.264, 1284, 50, 2),
    ("Bludenz", 47.154, 9.822, 588, 150, 4), ("Bregenz", 47.503, 9.747, 427, 300, 6),
    ("Sankt Gallen", 47.424, 9.377, 675, 150, 4), ("Zurich", 47.377, 8.541, 408, 300, 8),
    ("Memmingen", 47.984, 10.181, 601, 350, 6), ("Augsburg", 48.366, 10.898, 494, 300, 8),
    ("Ulm", 48.401, 9.988, 478, 350, 8), ("Stuttgart", 48.775, 9.183, 245, 300, 8),
    ("Heilbronn", 49.142, 9.219, 157, 300, 6), ("Heidelberg", 49.399, 8.672, 114, 150, 6),
    ("Frankfurt", 50.110, 8.682, 112, 300, 12), ("Würzburg", 49.791, 9.953, 177, 350, 8),
    ("Ingolstadt", 48.766, 11.426, 374, 300, 6), ("Nuremberg", 49.454, 11.077, 309, 350, 10),
    ("Bayreuth", 49.946, 11.578, 340, 300, 6), ("Hof", 50.313, 11.913, 500, 150, 4),
    ("Leipzig", 51.340, 12.375, 113, 350, 10), ("Berlin", 52.520, 13.405, 34, 300, 12),
    ("Traunstein", 47.868, 12.643, 591, 0, 0), ("Salzburg", 47.810, 13.055, 424, 350, 8),
    ("Linz", 48.306, 14.286, 266, 300, 8), ("Sankt Pölten", 48.204, 15.627, 267, 150, 4),
    ("Vienna", 48.208, 16.374, 171, 300, 12),
)  # fmt: skip

# km and km/h of each road, both ways
_ROADS: Final = (
    ("Munich", "Holzkirchen", 31, 105), ("Holzkirchen", "Irschenberg", 18, 115), ("Irschenberg", "Rosenheim", 17, 110),
    ("Rosenheim", "Kufstein", 32, 115), ("Kufstein", "Wörgl", 16, 105), ("Wörgl", "Schwaz", 32, 105),
    ("Schwaz", "Innsbruck", 26, 100), ("Innsbruck", "Matrei", 18, 95), ("Matrei", "Brenner", 19, 95),
    ("Brenner", "Sterzing", 17, 95), ("Sterzing", "Brixen", 31, 105), ("Brixen", "Klausen", 12, 105),
    ("Klausen", "Bolzano", 29, 100), ("Bolzano", "Trento", 57, 110), ("Trento", "Rovereto", 25, 110),
    ("Rovereto", "Verona", 72, 115), ("Verona", "Peschiera", 27, 115), ("Peschiera", "Brescia", 40, 115),
    ("Brescia", "Bergamo", 50, 115), ("Bergamo", "Milan", 52, 110), ("Verona", "Vicenza", 52, 115),
    ("Vicenza", "Padua", 34, 115), ("Padua", "Venice", 39, 110), ("Munich", "Garmisch", 89, 105),
    ("Garmisch", "Mittenwald", 18, 65), ("Mittenwald", "Seefeld", 16, 65), ("Seefeld", "Zirl", 12, 55),
    ("Zirl", "Innsbruck", 14, 95), ("Zirl", "Landeck", 63, 105), ("Landeck", "Reschen", 45, 70),
    ("Reschen", "Merano", 78, 60), ("Merano", "Bolzano", 29, 90), ("Landeck", "Sankt Anton", 28, 90),
    ("Sankt Anton", "Bludenz", 38, 90), ("Bludenz", "Bregenz", 52, 105), ("Bregenz", "Sankt Gallen", 37, 85),
    ("Sankt Gallen", "Zurich", 85, 105), ("Bregenz", "Memmingen", 75, 110), ("Memmingen", "Munich", 115, 115),
    ("Memmingen", "Ulm", 55, 115), ("Munich", "Augsburg", 68, 110), ("Augsburg", "Ulm", 80, 115),
    ("Ulm", "Stuttgart", 93, 110), ("Stuttgart", "Heilbronn", 53, 110), ("Heilbronn", "Heidelberg", 70, 110),
    ("Heidelberg", "Frankfurt", 88, 115), ("Heilbronn", "Würzburg", 105, 115), ("Munich", "Ingolstadt", 81, 115),
    ("Ingolstadt", "Nuremberg", 93, 120), ("Nuremberg", "Würzburg", 110, 115), ("Würzburg", "Frankfurt", 118, 110),
    ("Nuremberg", "Bayreuth", 84, 115), ("Bayreuth", "Hof", 58, 115), ("Hof", "Leipzig", 165, 120),
    ("Leipzig", "Berlin", 190, 115), ("Rosenheim", "Traunstein", 51, 115), ("Traunstein", "Salzburg", 38, 110),
    ("Salzburg", "Linz", 132, 115), ("Linz", "Sankt Pölten", 122, 120), ("Sankt Pölten", "Vienna", 65, 110),
)  # fmt: skip

_ALSO: Final = {
    "münchen": "munich", "muenchen": "munich", "bozen": "bolzano", "brennero": "brenner", "trient": "trento",
    "mailand": "milan", "milano": "milan", "venedig": "venice", "venezia": "venice", "nürnberg": "nuremberg",
    "zürich": "zurich", "wien": "vienna", "meran": "merano", "bressanone": "brixen", "vipiteno": "sterzing",
    "sankt-anton": "sankt anton", "st anton": "sankt anton", "st gallen": "sankt gallen",
    "st pölten": "sankt pölten", "padova": "padua", "woergl": "wörgl", "wuerzburg": "würzburg",
}  # fmt: skip

PLACES: Final = {place[0]: Place(*place) for place in _PLACES}
ROADS: Final[dict[str, tuple[Road, ...]]] = {
    name: tuple(
        Road(PLACES[name], PLACES[b if a == name else a], km, kmh) for a, b, km, kmh in _ROADS if name in (a, b)
    )
    for name in PLACES
}
"""The roads that leave each place."""

_COORDINATES = re.compile(r"\s*(-?\d{1,2}(?:\.\d+)?)\s*[,; ]\s*(-?\d{1,3}(?:\.\d+)?)\s*")
_FOLDED = {place.casefold(): place for place in PLACES}


def find(text: str, field: str = "destination") -> Place:
    """The place of the map that a text means: a name, an address with one in it, or "48.14, 11.58" (°N, °E).

    Raises:
        UsageError: there is none; `hint` names the nearest one.
    """
    if at := _COORDINATES.fullmatch(text):
        latitude, longitude = float(at[1]), float(at[2])
        place = min(PLACES.values(), key=lambda p: distance(p, latitude, longitude))
        if (off := distance(place, latitude, longitude)) <= 25:
            return place
        raise UsageError(f"no road of the simulator's map is near {text.strip()}",
                         f"the nearest place is {place.name}, {off:.0f} km away", field=field)  # fmt: skip
    words = "".join(c if c.isalnum() else " " for c in text.casefold()).split()
    # names of two words before names of one: "Sankt Anton" is not "Sankt"
    for name in (*map(" ".join, pairwise(words)), *words):
        if (known := _FOLDED.get(_ALSO.get(name, name))) is not None:
            return PLACES[known]
    close = next(filter(None, (nearest(word.title(), PLACES) for word in words)), "")
    raise UsageError(f"{text[:80]!r} is not on the simulator's map", f"it has {len(PLACES)} places, Berlin to Milan",
                     close or "name a town of it", field=field)  # fmt: skip


def distance(place: Place, latitude: float, longitude: float) -> float:
    """Great-circle distance in km (haversine)."""
    a, b = math.radians(place.latitude), math.radians(latitude)
    across = math.radians(longitude - place.longitude)
    chord = math.sin((b - a) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin(across / 2) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(chord))


def heading(origin: Place, destination: Place) -> float:
    """From one place to another, in degrees clockwise from north."""
    a, b = math.radians(origin.latitude), math.radians(destination.latitude)
    across = math.radians(destination.longitude - origin.longitude)
    east = math.sin(across) * math.cos(b)
    north = math.cos(a) * math.sin(b) - math.sin(a) * math.cos(b) * math.cos(across)
    return math.degrees(math.atan2(east, north)) % 360


def road(origin: str, destination: str) -> Road:
    """The road between two neighbours."""
    return next(r for r in ROADS[origin] if r.destination.name == destination)


@cache
def seconds_to(destination: str) -> dict[str, float]:
    """The driving time from every place to that one (Dijkstra)."""
    seconds: dict[str, float] = {}
    queue = [(0.0, destination)]
    while queue:
        time, place = heapq.heappop(queue)
        if place not in seconds:
            seconds[place] = time
            for way in ROADS[place]:
                heapq.heappush(queue, (time + way.seconds, way.destination.name))
    return seconds


def fastest(origin: str, destination: str) -> list[str]:
    """The places of the fastest way, both ends included."""
    left, way = seconds_to(destination), [origin]
    while way[-1] != destination:
        onward = min(ROADS[way[-1]], key=lambda r: r.seconds + left[r.destination.name])
        way.append(onward.destination.name)
    return way
