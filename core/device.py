"""Device, Resources, LinkQuality: what a device tells of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
NAME_LIMIT = 64


def clean(text: object, limit: int = NAME_LIMIT) -> str:
    """Text from elsewhere made safe to show: no C0, C1, bidi or invisible characters, at most `limit` long (law 5)."""
    return _UNSAFE.sub("", str(text))[:limit]


def short(device_id: str) -> str:
    """The first group of a device id, as people read it."""
    return device_id[:7]


@dataclass(frozen=True, slots=True)
class Resources:
    """What a device has to give now; `None` means that it cannot tell."""

    battery: float | None = None
    """State of charge, 0 to 1."""
    charging: bool | None = None
    load: float = 0.0
    """Share of the processor in use, 0 to 1."""
    slots: int = 4
    """Steps that it runs at once."""
    capacity: float | None = None
    """Of its battery, in joules."""
    radio: str | None = None
    """The kind of network interface that it uses: `wifi`, `cellular`, `bluetooth`, `ethernet`."""


@dataclass(frozen=True, slots=True)
class LinkQuality:
    """A link as measured in passing; `None` until there was something to measure."""

    rtt: float | None = None
    """Round trip, in seconds."""
    bandwidth: float | None = None
    """Bytes per second."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One skill in a device's announcement: what scheduling needs; the full spec is asked for by its digest."""

    name: str
    digest: str
    effect: str
    lock: str | None = None
    seconds: float = 0.05
    """The author's first guess of its duration."""
    joules: float | None = None
    """What an invocation takes of this device: as it learned, else as the author declares; `None`: nobody says."""


@dataclass(frozen=True, slots=True)
class Device:
    """What a device announces of itself. `version` orders its news: (incarnation, sequence), larger is newer."""

    id: str
    name: str
    kind: str
    version: tuple[int, int] = (0, 0)
    addresses: tuple[str, ...] = ()
    offers: tuple[Offer, ...] = ()
    resources: Resources = Resources()
    neighbours: Mapping[str, LinkQuality] = field(default_factory=dict)
    """The devices that it has links with, by id, and how good those are: what makes the mesh a graph (members.py)."""
    simulated: bool = False
    leaving: bool = False

    def offer(self, skill: str) -> Offer | None:
        """The offer of that skill, if this device has it."""
        for offer in self.offers:
            if offer.name == skill:
                return offer
        return None

    def to_wire(self) -> dict[str, Any]:
        """The announcement as a map of plain values."""
        return {
            "id": self.id, "name": self.name, "kind": self.kind, "version": self.version, "addresses": self.addresses,
            "offers": [{"name": o.name, "digest": o.digest, "effect": o.effect, "lock": o.lock, "seconds": o.seconds}
                       | ({} if o.joules is None else {"joules": o.joules}) for o in self.offers],
            "resources": {"battery": self.resources.battery, "charging": self.resources.charging,
                          "load": self.resources.load, "slots": self.resources.slots,
                          "capacity": self.resources.capacity, "radio": self.resources.radio},
            "neighbours": {n: (q.rtt, q.bandwidth) for n, q in self.neighbours.items()},
            "simulated": self.simulated, "leaving": self.leaving,
        }  # fmt: skip

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Device:
        """The announcement that `to_wire` wrote, with every text cleaned and every list bounded.

        Energies, capacity and radio may be left out, as older devices do.

        Raises:
            KeyError, TypeError, ValueError: it is not an announcement.
        """
        incarnation, sequence = data["version"]
        r = data["resources"]
        return cls(
            id=clean(data["id"]),
            name=clean(data["name"]),
            kind=clean(data["kind"]),
            version=(int(incarnation), int(sequence)),
            addresses=tuple(clean(a, 200) for a in data["addresses"][:16]),
            offers=tuple(
                Offer(clean(o["name"], 100), clean(o["digest"]), clean(o["effect"]),
                      None if o["lock"] is None else clean(o["lock"]), float(o["seconds"]),
                      None if o.get("joules") is None else float(o["joules"]))
                for o in data["offers"][:1000]
            ),
            resources=Resources(
                None if r["battery"] is None else float(r["battery"]),
                None if r["charging"] is None else bool(r["charging"]),
                float(r["load"]),
                max(1, min(1024, int(r["slots"]))),
                None if r.get("capacity") is None else float(r["capacity"]),
                None if r.get("radio") is None else clean(r["radio"]),
            ),
            neighbours={
                clean(n): LinkQuality(None if rtt is None else float(rtt), None if rate is None else float(rate))
                for n, (rtt, rate) in list(data["neighbours"].items())[:1000]
            },
            simulated=data["simulated"] is True,
            leaving=data["leaving"] is True,
        )  # fmt: skip
