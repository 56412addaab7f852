"""What the phone lets hear: speech, and music that another device can go on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import anyio
from pydantic import BaseModel, Field

from ....core.errors import UsageError
from ....core.skill import Context, Cost, Effect, Outcome, nearest, skill
from ..labels import Personal
from .sim import TRACKS, PhoneSim

SECONDS_PER_WORD = 0.4


class Said(BaseModel):
    """A text that was spoken to its end."""

    text: Personal[str]
    seconds: float = Field(description="how long it took, in seconds")


@skill("speech.say", effect=Effect.ONCE, cost=Cost(latency_ms=3000, energy_mwh=0.5), lock="phone.speaker",
       phrases=["(say|read [out]) {text} [(on|with) (the|my) phone]"])  # fmt: skip
async def speech_say(ctx: Context, text: Annotated[Personal[str], Field(min_length=1, max_length=1000)]) -> Said:
    """Say a text aloud on the phone."""
    phone = ctx.backend(PhoneSim)
    if said := phone.done(ctx, "speech.say", Said):
        return said
    phone.use()
    phone.begin(ctx, "speech.say")
    seconds = 0.3 + SECONDS_PER_WORD * len(text.split())
    with phone.speaking():
        await anyio.sleep(seconds)
    return phone.finish(ctx, "speech.say", Said(text=text, seconds=seconds))


@speech_say.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return ctx.backend(PhoneSim).outcome(ctx, "speech.say")


class Played(BaseModel):
    """A track that ended or was stopped."""

    track: str
    position: float = Field(description="how far it came, in seconds")
    duration: float = Field(description="how long the track is, in seconds")
    finished: bool = Field(description="whether it came to its end")


# no lock of the speaker: a phone turns the music down while it speaks, it does not wait for the end of the song
@skill("media.play", effect=Effect.ONCE, resumable=True, cost=Cost(latency_ms=200_000, energy_mwh=20),
       lock="phone.media", phrases=["play {track} [on (my|the) phone]"])  # fmt: skip
async def media_play(ctx: Context, track: Annotated[str, Field(max_length=200, description="its title")]) -> Played:
    """Play a track on the phone, from where it was left if another device played it before."""
    phone = ctx.backend(PhoneSim)
    if played := phone.done(ctx, "media.play", Played):
        return played
    title = _title(track)
    duration = TRACKS[title]
    phone.use()
    phone.begin(ctx, "media.play", again="position" in ctx.state)
    with phone.play(title, min(duration, max(0.0, float(ctx.state.get("position", 0.0))))) as playback:
        while playback.position < duration and not playback.stop.is_set():
            began, start = anyio.current_time(), playback.position
            with anyio.move_on_after(min(1.0, duration - start)):
                await playback.stop.wait()
            playback.position = min(duration, start + anyio.current_time() - began)
            phone.use()
            await ctx.checkpoint(position=playback.position)
    finished = playback.position >= duration
    played = Played(track=title, position=round(playback.position, 3), duration=duration, finished=finished)
    return phone.finish(ctx, "media.play", played)


@media_play.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return ctx.backend(PhoneSim).outcome(ctx, "media.play")


def _title(wanted: str) -> str:
    """The title on the phone that is meant."""
    titles = {title.casefold(): title for title in TRACKS}
    if (title := titles.get(" ".join(wanted.casefold().split()))) is not None:
        return title
    raise UsageError(f"there is no track {wanted[:80]!r} on the phone", f"it has {', '.join(TRACKS)}",
                     nearest(wanted.title(), TRACKS), skill="media.play", field="track")  # fmt: skip


class Stopped(BaseModel):
    """What no longer plays."""

    track: str | None = Field(description="None if nothing played")
    position: float = Field(description="how far it came, in seconds")


@skill("media.stop", effect=Effect.IDEMPOTENT, cost=Cost(latency_ms=5),
       phrases=["(stop|pause) [the] (music|song|track|playback)"])  # fmt: skip
async def media_stop(ctx: Context) -> Stopped:
    """Stop what the phone plays."""
    playback = ctx.backend(PhoneSim).playing
    if playback is None:
        return Stopped(track=None, position=0.0)
    playback.stop.set()
    return Stopped(track=playback.track, position=round(playback.position, 3))
