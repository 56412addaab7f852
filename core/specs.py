"""The specs of all skills in the mesh: announcements carry digests, and a spec that is not known yet is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import anyio

from .device import Device
from .errors import SlipError
from .events import Events
from .labels import Labels, labels_of
from .skill import Effect, spec_digest

ASK_SECONDS = 3.0
_EFFECTS = tuple(effect.value for effect in Effect)
KEPT = 4096
"""Specs of others that are kept; the oldest is forgotten first."""

Ask = Callable[[str, str, dict[str, Any], float], Awaitable[Any]]


class Specs:
    """Specs by digest. Equal digests are equal specs, so nothing here grows old."""

    def __init__(self, ask: Ask, events: Events, clock: Callable[[], float]) -> None:
        self._ask, self._events, self._clock = ask, events, clock
        self._by_digest: dict[str, Mapping[str, Any]] = {}
        self._labels: dict[str, Labels | None] = {}

    def keep(self, digest: str, spec: Mapping[str, Any]) -> None:
        """Remember a spec."""
        self._by_digest[digest] = spec
        while len(self._by_digest) > KEPT:
            del self._by_digest[next(iter(self._by_digest))]

    def of(self, digests: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """Those of the specs that are known here."""
        return {d: self._by_digest[d] for d in digests if d in self._by_digest}

    def result_labels(self, digest: str) -> Labels | None:
        """Where the results of that spec are labelled; None also if the spec is not known here."""
        if digest not in self._labels and digest in self._by_digest:
            if len(self._labels) >= KEPT:
                self._labels.clear()
            self._labels[digest] = labels_of(self._by_digest[digest]["outputSchema"])
        return self._labels.get(digest)

    async def of_mesh(self, devices: Sequence[Device]) -> dict[str, Mapping[str, Any]]:
        """The specs of everything that `devices` offer, by name; of two that differ, this device's
        (the first one), or the one whose effect asks for the most care: no device makes another's look harmless.

        All devices are asked at once; one that does not answer is told about, and left out.
        """
        async with anyio.create_task_group() as group:
            for device in devices:
                if missing := [o.digest for o in device.offers if o.digest not in self._by_digest]:
                    group.start_soon(self._fetch, device, missing)
        found: dict[str, Mapping[str, Any]] = {}
        for device in devices:
            for offer in device.offers:
                if (spec := self._by_digest.get(offer.digest)) is None:
                    continue
                known = found.get(offer.name)
                if known is None or (device is not devices[0] and _rank(spec) > _rank(known)):
                    found[offer.name] = spec
        for offer in devices[0].offers if devices else ():
            if offer.digest in self._by_digest:
                found[offer.name] = self._by_digest[offer.digest]
        return found

    async def _fetch(self, device: Device, missing: list[str]) -> None:
        try:
            answer = await self._ask(device.id, "slip.specs", {"digests": missing}, self._clock() + ASK_SECONDS)
        except SlipError as error:
            self._events.tell("warning", what=f"{device.name} does not tell what its skills are", why=str(error),
                              hint=f"slip devices ping {device.name}")  # fmt: skip
            return
        for digest, spec in answer.items() if isinstance(answer, dict) else ():
            if digest in missing and _readable(spec) and _digest(spec) == digest:
                self.keep(digest, spec)


def _rank(spec: Mapping[str, Any]) -> int:
    return _EFFECTS.index(str(spec.get("effect")))


def _digest(spec: Any) -> str:
    try:
        return spec_digest(spec)
    except (TypeError, ValueError, RecursionError):
        return ""


def _readable(spec: Any) -> bool:
    """Whether a spec of another device has what plans are checked against."""
    return (
        isinstance(spec, dict)
        and isinstance(spec.get("inputSchema"), dict)
        and isinstance(spec.get("outputSchema"), dict)
        and spec.get("effect") in _EFFECTS
    )
