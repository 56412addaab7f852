"""Acting on the car: command, then watch the signals until they say that it happened, with a deadline (law 6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import anyio
from pydantic import BaseModel

from ....core.errors import SkillFailed, TimedOut, UnknownOutcome
from ....core.skill import Context, Outcome
from .signals import Value
from .sim import CarSim

M = TypeVar("M", bound=BaseModel)

Targets = Mapping[str, Value]
"""Where signals are to go, by name."""


async def steer(ctx: Context, skill: str, targets: Targets, within: float) -> None:
    """Command each signal and wait until every one stands at its target; `within` is in seconds.

    Raises:
        SkillFailed: one came to rest elsewhere.
        TimedOut: the deadline passed, or a signal says nothing any more; the actuators may still arrive.
    """
    car = ctx.backend(CarSim)
    for signal, target in targets.items():
        await car.set(signal, target)
    deadline = min(anyio.current_time() + within, math.inf if ctx.deadline is None else ctx.deadline)
    while True:
        changed = car.changed
        readings = {signal: car.fresh(signal) for signal in targets}
        left = [s for s, reading in readings.items() if reading is None or reading.value != targets[s]]
        if not left:
            return
        for signal in left:
            reading = readings[signal]
            if reading is not None and car.actuators.rests(signal):
                told = car.actuators.told.get(signal)
                why = "something holds it" if told == targets[signal] else "somebody else moved it"
                raise SkillFailed(f"{signal} stands at {reading.value}, not at {targets[signal]}", why, "go and look",
                                  skill=skill)  # fmt: skip
        now = anyio.current_time()
        if now >= deadline:
            names = ", ".join(left)
            raise TimedOut(f"{names} did not say in time that it arrived", "it may still arrive, or be silent",
                           "read it again later", skill=skill)  # fmt: skip
        wake = max((car.actuators.left(signal) for signal in left), default=0.0)
        with anyio.move_on_after(min(max(wake, 0.01) if wake else math.inf, deadline - now)):
            await changed.wait()


async def move(
    ctx: Context, skill: str, kind: type[M], targets: Targets, within: float, report: Callable[[], M]
) -> M:  # fmt: skip
    """Do a physical act once: recorded before it begins, reported when its signals confirm it.

    Raises:
        UnknownOutcome: it began before, or nobody knows whether it arrived.
    """
    car = ctx.backend(CarSim)
    if (earlier := car.done(ctx, skill, kind)) is not None:
        return earlier
    car.begin(ctx, skill)
    try:
        await steer(ctx, skill, targets, within)
    except TimedOut as error:
        raise UnknownOutcome(error.what, error.why, error.hint, skill=skill) from error
    return car.finish(ctx, skill, report())


def stands(car: CarSim, targets: Targets) -> Outcome:
    """Whether the signals are at these targets; a stale one is unknown."""
    readings = [car.fresh(signal) for signal in targets]
    if any(reading is None for reading in readings):
        return Outcome.UNKNOWN
    there = all(r is not None and r.value == target for r, target in zip(readings, targets.values(), strict=True))
    return Outcome.DONE if there else Outcome.NOT_DONE


def happened(ctx: Context, skill: str, targets: Targets) -> Outcome:
    """Whether a physical act happened: one that began and does not stand at its target may still arrive."""
    car = ctx.backend(CarSim)
    outcome = car.outcome(ctx, skill)
    if outcome is Outcome.UNKNOWN and ctx.key and stands(car, targets) is Outcome.DONE:
        return Outcome.DONE
    return outcome
