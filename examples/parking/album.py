"""A skill that takes a photo: an album on the home hub."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from slipstream import Context, Cost, Effect, Pack, skill
from slipstream.core.errors import UsageError

PNG = b"\x89PNG\r\n\x1a\n"


class Kept(BaseModel):
    """A photo in the album."""

    name: str = Field(description="by its content: the same photo has the same name")
    kilobytes: int
    device: str = Field(description="the device that has the album")


class Album:
    """Photos, in a folder if there is one."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.photos: dict[str, bytes] = {}

    def keep(self, png: bytes) -> str:
        """Put a photo in; its name."""
        name = f"{sha256(png).hexdigest()[:12]}.png"
        self.photos[name] = png
        if self._folder is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = self._folder / f"{name}.new"
            fresh.write_bytes(png)
            os.replace(fresh, self._folder / name)
        return name


@skill("album.keep", effect=Effect.IDEMPOTENT, cost=Cost(latency_ms=5))
async def keep(
    ctx: Context, png: Annotated[bytes, Field(max_length=8_000_000, json_schema_extra={"privacy": "personal"})]
) -> Kept:
    """Keep a photo in the album at home."""
    if not png.startswith(PNG):
        raise UsageError("this is no PNG picture", f"it begins with {png[:8].hex()}", field="png")
    return Kept(name=ctx.backend(Album).keep(png), kilobytes=round(len(png) / 1000), device=ctx.device)


@asynccontextmanager
async def open_album(settings: Mapping[str, Any]) -> AsyncIterator[Album]:
    """The album in the folder `state`, or in memory."""
    folder = settings.get("state")
    yield Album(Path(folder) / "album" if folder else None)


pack = Pack("album", (keep,), open=open_album)
