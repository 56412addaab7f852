"""Where did I park? Two skills and the book that they write in."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from slipstream import Context, Cost, Effect, Pack, skill
from slipstream.core.errors import UsageError


class Parked(BaseModel):
    """Where the car stands."""

    spot: Annotated[str, Field(description="as the person said it", json_schema_extra={"privacy": "personal"})]
    since: float = Field(description="Unix seconds")


class Remembered(BaseModel):
    """What is remembered now, and what was before."""

    parked: Parked
    previous: Parked | None


class Book:
    """The last place, kept in a file if there is a folder for it."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.parked: Parked | None = None
        if file and file.exists():
            self.parked = Parked.model_validate_json(file.read_bytes())

    def write(self, parked: Parked | None) -> None:
        """Remember this place; None forgets."""
        self.parked = parked
        if self._file is None:
            return
        if parked is None:
            self._file.unlink(missing_ok=True)
            return
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(parked.model_dump(mode="json")), encoding="ascii")
        os.replace(fresh, self._file)


@skill("parking.remember", effect=Effect.IDEMPOTENT, undoable=True, cost=Cost(latency_ms=5),
       phrases=["[i] parked (at|in|on) {spot}", "remember that the car is (at|in|on) {spot}"])  # fmt: skip
async def remember(ctx: Context, spot: Annotated[str, Field(min_length=1, max_length=200)]) -> Remembered:
    """Remember where the car was parked."""
    book = ctx.backend(Book)
    previous = book.parked
    book.write(Parked(spot=spot, since=time.time()))
    assert book.parked is not None
    return Remembered(parked=book.parked, previous=previous)


@remember.undo
async def _(ctx: Context, args: Mapping[str, Any], result: Remembered) -> None:
    ctx.backend(Book).write(result.previous)


@skill("parking.find", effect=Effect.READ, cost=Cost(latency_ms=1),
       phrases=["where (is|did i park) [the|my] car"])  # fmt: skip
async def find(ctx: Context) -> Parked:
    """Say where the car was parked."""
    parked = ctx.backend(Book).parked
    if parked is None:
        raise UsageError("nobody said where the car is", hint="say: parked at ...")
    return parked


@asynccontextmanager
async def open_book(settings: Mapping[str, Any]) -> AsyncIterator[Book]:
    """The book in the folder `state`, or in memory."""
    folder = settings.get("state")
    yield Book(Path(folder) / "parking.json" if folder else None)


pack = Pack("parking", (remember, find), open=open_book)
