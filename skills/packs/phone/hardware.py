"""The phone itself: battery, location, torch, clipboard, camera."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from random import Random
from typing import Annotated, Any

import anyio
from pydantic import BaseModel, Field

from ....core.skill import Context, Cost, Effect, Outcome, skill
from ..labels import DeviceOnly, Personal
from .sim import CAPACITY_MWH, CHARGER_MW, PhoneSim


class Battery(BaseModel):
    """How much there is left."""

    percent: float = Field(description="charge, 0 to 100 %")
    charging: bool
    power_mw: float = Field(description="what the phone draws now, in mW")
    hours: float | None = Field(description="until it is empty at this draw, in hours; None while it charges")


@skill("phone.battery", effect=Effect.READ, cost=Cost(latency_ms=1),
       phrases=["[what is] [the|my] phone['s] battery [level]", "how much battery (is left|do i have)"])  # fmt: skip
async def battery(ctx: Context) -> Battery:
    """How much charge the phone has left, and for how long."""
    phone = ctx.backend(PhoneSim)
    level, draw = phone.advance(), phone.power
    charging = phone.state.charging and draw < CHARGER_MW
    hours = None if charging else round(level * CAPACITY_MWH / draw, 1)
    return Battery(percent=round(100 * level, 1), charging=charging, power_mw=draw, hours=hours)


def resources(phone: PhoneSim) -> dict[str, object]:
    """The battery, and what left it, as what the phone announces of itself; energies in joules."""
    level, capacity, charging = phone.advance(), 3.6 * CAPACITY_MWH, phone.state.charging
    told: dict[str, object] = {"battery": level, "charging": charging, "capacity": capacity}
    return told if charging else told | {"drain": ("phone", (1 - level) * capacity)}


class Location(BaseModel):
    """Where the phone is."""

    place: Personal[str] = Field(description="the town it is in or near")
    latitude: Personal[float] = Field(description="degrees north, WGS 84")
    longitude: Personal[float] = Field(description="degrees east, WGS 84")
    accuracy_m: float = Field(description="the true place is within so many metres")


@skill("location.get", effect=Effect.READ, cost=Cost(latency_ms=300, energy_mwh=0.1),
       phrases=["where (am i|is my phone)"])  # fmt: skip
async def location_get(ctx: Context) -> Location:
    """Where the phone is now."""
    phone = ctx.backend(PhoneSim)
    phone.use(0.1)
    await anyio.sleep(0.3)
    # a fix wanders a few metres around the true place
    north, east = 3 * math.sin(phone.now() / 41), 3 * math.cos(phone.now() / 67)
    state = phone.state
    return Location(
        place=state.place,
        latitude=round(state.latitude + north / 111_320, 6),
        longitude=round(state.longitude + east / (111_320 * max(0.01, math.cos(math.radians(state.latitude)))), 6),
        accuracy_m=5.0,
    )


class Torch(BaseModel):
    """The torch after a change."""

    on: bool
    previous: bool = Field(description="what it was before")


@skill("torch.set", effect=Effect.IDEMPOTENT, undoable=True, cost=Cost(latency_ms=5),
       phrases=["turn {on} [the|my] (torch|flashlight)", "turn [the|my] (torch|flashlight) {on}"])  # fmt: skip
async def torch_set(ctx: Context, on: Annotated[bool, Field(description="on or off")]) -> Torch:
    """Turn the phone's torch on or off."""
    phone = ctx.backend(PhoneSim)
    phone.use()
    previous, phone.state.torch = phone.state.torch, on
    phone.save()
    return Torch(on=on, previous=previous)


@torch_set.undo
async def _(ctx: Context, args: Mapping[str, Any], result: Torch) -> None:
    await torch_set(ctx, result.previous)


@torch_set.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return Outcome.DONE if ctx.backend(PhoneSim).state.torch == args["on"] else Outcome.NOT_DONE


class Clipboard(BaseModel):
    """What the clipboard holds: often a password, so it stays on the device."""

    text: DeviceOnly[str]


class Copied(BaseModel):
    """A clipboard that was filled."""

    characters: int
    previous: DeviceOnly[str] = Field(description="what it held before")


@skill("clipboard.get", effect=Effect.READ, cost=Cost(latency_ms=1), phrases=["what is (in|on) [the|my] clipboard"])
async def clipboard_get(ctx: Context) -> Clipboard:
    """What the phone's clipboard holds."""
    phone = ctx.backend(PhoneSim)
    phone.use()
    return Clipboard(text=phone.state.clipboard)


@skill("clipboard.set", effect=Effect.IDEMPOTENT, undoable=True, cost=Cost(latency_ms=5),
       phrases=["copy {text} [to (the|my) (clipboard|phone)]"])  # fmt: skip
async def clipboard_set(ctx: Context, text: Annotated[Personal[str], Field(max_length=100_000)]) -> Copied:
    """Put a text on the phone's clipboard."""
    phone = ctx.backend(PhoneSim)
    phone.use()
    previous, phone.state.clipboard = phone.state.clipboard, text
    phone.save()
    return Copied(characters=len(text), previous=previous)


@clipboard_set.undo
async def _(ctx: Context, args: Mapping[str, Any], result: Copied) -> None:
    phone = ctx.backend(PhoneSim)
    if phone.state.clipboard == args["text"]:  # what the person copied since is theirs
        await clipboard_set(ctx, result.previous)


class Photo(BaseModel):
    """A picture."""

    png: Personal[bytes] = Field(description="the picture, PNG, 8-bit RGB")
    width: int = Field(description="in pixels")
    height: int = Field(description="in pixels")
    taken: Personal[float] = Field(description="when, in Unix seconds")


@skill("camera.take", effect=Effect.READ, cost=Cost(latency_ms=250, energy_mwh=2), lock="phone.camera",
       phrases=["take a (photo|picture)"])  # fmt: skip
async def camera_take(
    ctx: Context,
    size: Annotated[int, Field(ge=16, le=512, description="width in pixels; 192 gives about 70 kB")] = 192,
) -> Photo:
    """Take a picture with the phone's camera: a simulated mountain in the light of the hour."""
    phone = ctx.backend(PhoneSim)
    phone.use(2)
    await anyio.sleep(0.2)
    height = size * 3 // 4
    moment = phone.now()
    return Photo(png=_picture(size, height, moment, phone.today().hour), width=size, height=height, taken=moment)


def _picture(width: int, height: int, seed: float, hour: int) -> bytes:
    """A mountain under a sky, with the noise of a sensor, as PNG (ISO/IEC 15948).

    Rows are made of whole `bytes` operations: a loop over pixels would hold the event loop for half a second.
    """
    random = Random(seed)
    light = 0.25 + 0.75 * max(0.0, math.sin(math.pi * (hour - 5) / 15))
    peak = random.uniform(0.3, 0.7)
    rows = []
    for y in range(height):
        down = y / height
        half = width if down > 0.85 else int(width * 0.6 * max(0.0, down - 0.3))
        left, right = max(0, int(peak * width) - half), min(width, int(peak * width) + half)
        row = bytearray(1 + 3 * width)  # each row begins with its filter: 0, none
        for channel, (sky, rock) in enumerate(((110 + 90 * down, 95), (150 + 60 * down, 100), (235 - 30 * down, 110))):
            noise = random.randbytes(width).translate(_WEAK)
            plane = bytearray(noise.translate(_near(sky * light)))
            plane[left:right] = noise[left:right].translate(_near((245 if down < 0.42 else rock) * light))
            row[1 + channel :: 3] = plane
        rows.append(bytes(row))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(rows), level=1)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


_WEAK = bytes(r >> 3 for r in range(256))
_RAMP = bytes([0] * 16 + list(range(256)) + [255] * 256)


def _near(level: float) -> bytes:
    """A table from weak noise, 0 to 31, to a brightness within 16 of `level`."""
    return _RAMP[int(level) : int(level) + 256]
