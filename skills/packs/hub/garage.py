"""The garage door: it is opened when its sensor says so, not when its motor was told to (law 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import anyio
from pydantic import BaseModel, Field

from ....core.errors import SkillFailed, UnknownOutcome
from ....core.skill import Context, Cost, Effect, Outcome, skill
from .sim import DOOR_SECONDS, HubSim

CLOSED, OPEN = 0.0, 1.0


class Door(BaseModel):
    """What the door's sensor sees."""

    state: Literal["open", "closed", "opening", "closing", "stopped"]
    percent: Annotated[int, Field(description="how far it is open, 0 to 100 %")]


def _see(hub: HubSim) -> Door:
    position, speed = hub.door()
    state: Literal["open", "closed", "opening", "closing", "stopped"]
    if speed:
        state = "opening" if speed > 0 else "closing"
    else:
        state = "open" if position == OPEN else "closed" if position == CLOSED else "stopped"
    return Door(state=state, percent=round(100 * position))


@skill("garage.state", effect=Effect.READ, cost=Cost(latency_ms=10),
       phrases=["is the garage [door] (open|closed)"])  # fmt: skip
async def garage_state(ctx: Context) -> Door:
    """Whether the garage door is open."""
    return _see(ctx.backend(HubSim))


# neither has an undo: moving the door back moves it again, and that is for a person to decide
@skill("garage.open", effect=Effect.PHYSICAL, cost=Cost(latency_ms=10_500), lock="home.garage",
       phrases=["open [the|my] garage [door]"])  # fmt: skip
async def garage_open(ctx: Context) -> Door:
    """Open the garage door, and see that it is open."""
    return await _move(ctx, "garage.open", OPEN)


@skill("garage.close", effect=Effect.PHYSICAL, cost=Cost(latency_ms=10_500), lock="home.garage",
       phrases=["(close|shut) [the|my] garage [door]"])  # fmt: skip
async def garage_close(ctx: Context) -> Door:
    """Close the garage door, and see that it is closed."""
    return await _move(ctx, "garage.close", CLOSED)


@garage_open.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return _happened(ctx, "garage.open", OPEN)


@garage_close.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return _happened(ctx, "garage.close", CLOSED)


def _happened(ctx: Context, skill: str, target: float) -> Outcome:
    """A door that was told to move and is not there may still come, or stand against something: *unknown*."""
    hub = ctx.backend(HubSim)
    outcome = hub.outcome(ctx, skill)
    return Outcome.DONE if outcome is Outcome.UNKNOWN and ctx.key and hub.door() == (target, 0.0) else outcome


async def _move(ctx: Context, skill: str, target: float) -> Door:
    """Drive the door and watch its sensor until it is there; cancelling ends the watching, the door goes on."""
    hub = ctx.backend(HubSim)
    if door := hub.done(ctx, skill, Door):
        return door
    hub.begin(ctx, skill)
    if hub.door() != (target, 0.0):
        hub.drive(target)
    deadline = min(anyio.current_time() + 1.5 * DOOR_SECONDS, math.inf if ctx.deadline is None else ctx.deadline)
    while True:
        (position, speed), moved = hub.door(), hub.moved
        door = _see(hub)
        if (position, speed) == (target, 0.0):
            return hub.finish(ctx, skill, door)
        if speed == 0.0 or (speed > 0) != (target > position):
            why = "something is in its way" if hub.state.door.target == target else "somebody else moved it"
            raise SkillFailed(
                f"the garage door is {door.state}, {door.percent} % open", why, "go and look", skill=skill
            )
        if anyio.current_time() >= deadline:
            raise UnknownOutcome(f"the garage door is still {door.state}, {door.percent} % open", "its time is up",
                                 "look again: garage.state", skill=skill)  # fmt: skip
        await ctx.progress(1 - abs(target - position), door.state)
        left = min(1.0, abs(target - position) / abs(speed), deadline - anyio.current_time())
        with anyio.move_on_after(left):
            await moved.wait()
