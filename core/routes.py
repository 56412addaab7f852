"""Which device runs a single call best."""

from __future__ import annotations

from collections.abc import Callable

from .costs import Costs
from .device import LinkQuality
from .errors import NoDevice
from .members import Members
from .scheduler import Job, assign
from .skill import Effect, nearest


class Routes:
    """The way of calls that name no plan: what a person named stays the same until the mesh changes."""

    def __init__(self, members: Members, costs: Costs, link: Callable[[str, str], LinkQuality | None]) -> None:
        self._members, self._costs, self._link = members, costs, link
        self._kept: dict[tuple[str, str | None], tuple[str, bool]] = {}

    def forget(self) -> None:
        """The mesh changed."""
        self._kept.clear()

    def find(self, skill: str, on: str | None) -> tuple[str, bool]:
        """The device that runs a call best, and whether the skill may be repeated there.

        Raises:
            NoDevice: none can run it, or not `on`.
        """
        if (route := self._kept.get((skill, on))) is not None:
            return route
        present = self._members.present()
        if not any(d.offer(skill) for d in present):
            names = {o.name for d in present for o in d.offers}
            raise NoDevice(
                f"no device can run {skill}", "none in the mesh offers it", nearest(skill, names), skill=skill
            )
        there = None if on is None else self._members.find(on)
        if there is None or there.offer(skill) is None:
            placed = assign([Job(skill, skill, on=on)], present, self._costs, self._link).steps[skill]
            there = self._members.get(placed.device)
        offer = there.offer(skill)
        route = there.id, offer is not None and Effect(offer.effect).repeatable
        if on is not None:  # the rest follows the costs
            self._kept[skill, on] = route
        return route
