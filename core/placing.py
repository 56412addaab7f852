"""Which steps of a plan must share a device, because what one gives the other may not leave it; and when steps move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .costs import Costs
from .device import Device
from .errors import NoDevice
from .labels import Flows

MOVE_GAIN, MOVE_SECONDS = 0.05, 0.05
"""By how much what is new must be shorter than what is assigned already: that part of it, and these seconds."""


def pins(
    flows: Flows, me: str, skills: Mapping[str, str], held: Mapping[str, str], devices: Sequence[Device], costs: Costs,
    placed: Mapping[str, str],
) -> dict[str, str]:  # fmt: skip
    """The device, by step, of every step whose values may not leave it; `me` owns the run.

    `skills`, `held` and `placed` go by step: what it names, where it is done or runs already, and where it would begin
    by now. Of several devices, the one that takes the least time for all of them is taken, where that is a gain.

    Raises:
        NoDevice: no device can run such steps together.
    """
    found = dict.fromkeys(flows.at_owner, me)
    for group in flows.groups():
        there = {held[s] for s in group if s in held} | {found[s] for s in group if s in found}
        if len(there) != 1:
            open_steps = sorted(s for s in group if s not in held)
            able = [
                d for d in devices
                if (not there or d.id in there) and not d.leaving and all(d.offer(skills[s]) for s in open_steps)
            ]  # fmt: skip
            if not able:
                names = " and ".join(sorted({skills[s] for s in group}))
                why, step = "what one gives the other may not leave its device", open_steps[0] if open_steps else None
                raise NoDevice(f"no device can run {names} together", why, "slip skills list", step=step)
            took = {d.id: sum(_seconds(costs, skills[s], d) for s in open_steps) for d in able}
            best = min(took, key=lambda d: took[d])
            now = {placed[s] for s in open_steps if s in placed}
            stay = next((d for d in took if d in now), best)
            there = {stay if took[stay] <= took[best] * (1 + MOVE_GAIN) + MOVE_SECONDS else best}
        found.update(dict.fromkeys(group, next(iter(there))))
    return found


def _seconds(costs: Costs, skill: str, device: Device) -> float:
    offer = device.offer(skill)
    return costs.duration(skill, device.id, offer.seconds if offer is not None else 0.0)
