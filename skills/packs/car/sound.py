"""What the cabin hears: music, and the car speaking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import anyio
from pydantic import BaseModel, Field

from ....core.errors import UsageError
from ....core.skill import Context, Cost, Effect, Outcome, nearest, skill
from ..labels import Personal
from . import signals as vss
from .act import stands, steer
from .sim import CarSim

TRACKS = {"Alpine Morning": 214.0, "Brenner Pass": 187.5, "Night Drive": 251.0}
"""What is on the car's disk: titles, and how long they are in seconds."""
SECONDS_PER_WORD = 0.4
_NEEDS = [f"vss:{vss.MEDIA}"]


class Playing(BaseModel):
    """What the car's player plays."""

    track: str
    position_s: float = Field(description="how far it is, in seconds")
    duration_s: float = Field(description="how long the track is, in seconds")
    playing: bool


def _player(car: CarSim) -> Playing:
    action, sound = car.known(vss.ACTION), car.state.sound
    return Playing(track=sound.track, position_s=round(car.position(), 1), duration_s=sound.duration,
                   playing=action == "PLAY")  # fmt: skip


# once: a track that is started again begins anew, and everybody hears it
@skill("car.media.play", effect=Effect.ONCE, undoable=True, needs=_NEEDS, cost=Cost(latency_ms=150), lock="car.media",
       phrases=["play {track} in the car"])  # fmt: skip
async def car_play(
    ctx: Context,
    track: Annotated[str, Field(max_length=200, description="its title; empty goes on with what was paused")] = "",
    position_s: Annotated[float | None, Field(ge=0, description="where to begin, in seconds")] = None,
) -> Playing:
    """Start a track on the car's player; it plays on by itself."""
    car = ctx.backend(CarSim)
    if (earlier := car.done(ctx, "car.media.play", Playing)) is not None:
        return earlier
    car.advance()
    title = _title(track or car.state.sound.track)
    car.begin(ctx, "car.media.play")
    if track or position_s is not None or car.position() >= car.state.sound.duration:
        car.load(title, TRACKS[title], min(position_s or 0.0, TRACKS[title]))
    await steer(ctx, "car.media.play", {vss.ACTION: "PLAY"}, within=2)
    return car.finish(ctx, "car.media.play", _player(car))


@car_play.undo
async def _(ctx: Context, args: Mapping[str, Any], result: Playing) -> None:
    if ctx.backend(CarSim).known(vss.TRACK) == result.track:  # what was chosen since plays on
        await steer(ctx, "car.media.play", {vss.ACTION: "STOP"}, within=2)


@car_play.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return ctx.backend(CarSim).outcome(ctx, "car.media.play")


@skill("car.media.pause", effect=Effect.IDEMPOTENT, needs=_NEEDS, cost=Cost(latency_ms=150), lock="car.media",
       phrases=["(pause|stop) [the] (music|song|track) in the car"])  # fmt: skip
async def car_pause(ctx: Context) -> Playing:
    """Pause the car's player where it is."""
    car = ctx.backend(CarSim)
    await steer(ctx, "car.media.pause", {vss.ACTION: "STOP"}, within=2)
    return _player(car)


@car_pause.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return stands(ctx.backend(CarSim), {vss.ACTION: "STOP"})


def _title(wanted: str) -> str:
    titles = {title.casefold(): title for title in TRACKS}
    if (title := titles.get(" ".join(wanted.casefold().split()))) is not None:
        return title
    what = f"there is no track {wanted[:80]!r} in the car" if wanted else "nothing was paused in the car"
    raise UsageError(what, f"it has {', '.join(TRACKS)}", nearest(wanted.title(), TRACKS) or "name one of them",
                     skill="car.media.play", field="track")  # fmt: skip


class Spoken(BaseModel):
    """A text that the car spoke to its end."""

    text: Personal[str]
    seconds: float = Field(description="how long it took, in seconds")


@skill("car.speak", effect=Effect.ONCE, cost=Cost(latency_ms=3000), lock="car.speaker",
       phrases=["(say|read [out]) {text} in the car"])  # fmt: skip
async def car_speak(ctx: Context, text: Annotated[Personal[str], Field(min_length=1, max_length=1000)]) -> Spoken:
    """Say a text aloud in the car's cabin."""
    car = ctx.backend(CarSim)
    if (earlier := car.done(ctx, "car.speak", Spoken)) is not None:
        return earlier
    car.begin(ctx, "car.speak")
    seconds = round(0.3 + SECONDS_PER_WORD * len(text.split()), 2)
    await anyio.sleep(seconds)
    return car.finish(ctx, "car.speak", Spoken(text=text, seconds=seconds))


@car_speak.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return ctx.backend(CarSim).outcome(ctx, "car.speak")
