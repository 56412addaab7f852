"""The day: the calendar, and what is shown on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import uuid4

import anyio
from pydantic import BaseModel, Field

from ....core.errors import UsageError
from ....core.skill import Context, Cost, Effect, Outcome, skill
from ..labels import Personal
from .sim import Entry, PhoneSim


@skill("calendar.next", effect=Effect.READ, cost=Cost(latency_ms=5),
       phrases=["[what is] [my] next (appointment|meeting|event)", "when is [my|the] next {query}"])  # fmt: skip
async def calendar_next(
    ctx: Context,
    query: Annotated[Personal[str], Field(max_length=200, description="words of its title or place; empty: any")] = "",
    travel: Annotated[bool, Field(description="only an entry that says where")] = False,
) -> Entry:
    """The next entry of the phone's calendar that has not ended."""
    phone = ctx.backend(PhoneSim)
    phone.use()
    words = query.casefold().split()
    ahead = [
        entry
        for entry in phone.state.calendar
        if entry.ends.timestamp() > phone.now()
        and (entry.location or not travel)
        and all(word in f"{entry.title} {entry.location}".casefold() for word in words)
    ]
    if not ahead:
        raise UsageError("the calendar has no such entry ahead", f"nothing with {query[:80]!r}" if query else "",
                         "add one: calendar.add", field="query")  # fmt: skip
    return min(ahead, key=lambda entry: entry.starts)


@skill("calendar.add", effect=Effect.ONCE, undoable=True, cost=Cost(latency_ms=20),
       phrases=["(add|put) {title} (to|in|into) [my|the] calendar (at|on) {starts} [(at|in) {location}]"])  # fmt: skip
async def calendar_add(
    ctx: Context,
    title: Annotated[Personal[str], Field(min_length=1, max_length=500)],
    starts: Annotated[Personal[datetime], Field(description="local time if it names no zone")],
    minutes: Annotated[int, Field(ge=1, le=60 * 24 * 31, description="how long, in minutes")] = 60,
    location: Annotated[Personal[str], Field(max_length=500, description="where")] = "",
) -> Entry:
    """Put an entry into the phone's calendar."""
    phone = ctx.backend(PhoneSim)
    try:
        start = starts.astimezone()
        end = start + timedelta(minutes=minutes)
        end.timestamp()
    except (OverflowError, ValueError) as error:
        raise UsageError("no calendar reaches that date", str(error), skill="calendar.add", field="starts") from error

    def act() -> Entry:
        phone.use()
        entry = Entry(id=uuid4().hex, title=title, starts=start, ends=end, location=location)
        phone.state.calendar.append(entry)
        return entry

    return phone.once(ctx, "calendar.add", Entry, act)


@calendar_add.undo
async def _(ctx: Context, args: Mapping[str, Any], result: Entry) -> None:
    phone = ctx.backend(PhoneSim)
    phone.state.calendar = [entry for entry in phone.state.calendar if entry.id != result.id]
    phone.save()


@calendar_add.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return ctx.backend(PhoneSim).outcome(ctx, "calendar.add")


class Shown(BaseModel):
    """A notification on the screen."""

    id: str
    title: Personal[str]
    text: Personal[str]
    at: float = Field(description="when, in Unix seconds")


@skill("notify.show", effect=Effect.ONCE, cost=Cost(latency_ms=30, energy_mwh=0.2), phrases=["notify me [that] {text}"])
async def notify_show(
    ctx: Context,
    text: Annotated[Personal[str], Field(min_length=1, max_length=2000)],
    title: Annotated[Personal[str], Field(max_length=200)] = "",
) -> Shown:
    """Show a notification on the phone's screen."""
    phone = ctx.backend(PhoneSim)

    def act() -> Shown:
        phone.use(0.2)
        return Shown(id=uuid4().hex, title=title, text=text, at=phone.now())

    shown = phone.once(ctx, "notify.show", Shown, act)
    await anyio.sleep(0.02)
    return shown


@notify_show.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return ctx.backend(PhoneSim).outcome(ctx, "notify.show")
