"""The specs of all skills in the mesh: announcements carry digests, and a spec that is not known yet is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import anyio

from .device import Device
from .errors import SlipError
from .events import Events

ASK_SECONDS = 3.0
KEPT = 4096
"""Specs of others that are kept; the oldest is forgotten first."""

Ask = Callable[[str, str, dict[str, Any], float], Awaitable[Any]]


class Specs:
    """Specs by digest. Equal digests are equal specs, so nothing here grows old."""

    def __init__(self, ask: Ask, events: Events, clock: Callable[[], float]) -> None:
        self._ask, self._events, self._clock = ask, events, clock
        self._by_digest: dict[str, Mapping[str, Any]] = {}

    def keep(self, digest: str, spec: Mapping[str, Any]) -> None:
        """Remember a spec."""
        self._by_digest[digest] = spec
        while len(self._by_digest) > KEPT:
            del self._by_digest[next(iter(self._by_digest))]

    def of(self, digests: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """Those of the specs that are known here."""
        return {d: self._by_digest[d] for d in digests if d in self._by_digest}

    async def of_mesh(self, devices: Sequence[Device]) -> dict[str, Mapping[str, Any]]:
        """The specs of everything that `devices` offer, by name; of two that differ, the first device's.

        All devices are asked at once; one that does not answer is told about, and left out.
        """
        async with anyio.create_task_group() as group:
            for device in devices:
                if missing := [o.digest for o in device.offers if o.digest not in self._by_digest]:
                    group.start_soon(self._fetch, device, missing)
        found: dict[str, Mapping[str, Any]] = {}
        for device in devices:
            for offer in device.offers:
                if offer.digest in self._by_digest:
                    found.setdefault(offer.name, self._by_digest[offer.digest])
        return found

    async def _fetch(self, device: Device, missing: list[str]) -> None:
        try:
            answer = await self._ask(device.id, "slip.specs", {"digests": missing}, self._clock() + ASK_SECONDS)
        except SlipError as error:
            self._events.tell("warning", what=f"{device.name} does not tell what its skills are", why=str(error),
                              hint=f"slip devices ping {device.name}")  # fmt: skip
            return
        for digest, spec in answer.items() if isinstance(answer, dict) else ():
            if digest in missing and _readable(spec):
                self.keep(digest, spec)


def _readable(spec: Any) -> bool:
    """Whether a spec of another device has what plans are checked against."""
    return (
        isinstance(spec, dict)
        and isinstance(spec.get("inputSchema"), dict)
        and isinstance(spec.get("outputSchema"), dict)
        and spec.get("effect") in ("read", "idempotent", "once", "physical")
    )
