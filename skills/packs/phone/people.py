"""People: who they are, messages to them, calls with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import uuid4

import anyio
from pydantic import BaseModel, Field

from ....core.errors import Refused, UsageError
from ....core.skill import Context, Cost, Effect, Outcome, nearest, skill
from ..labels import DeviceOnly, Personal
from .sim import Contact, Line, PhoneSim

Person = Annotated[Personal[str], Field(min_length=1, max_length=200, description="a contact's name, or a number")]

_NUMBER = re.compile(r"\+?[0-9][0-9 ()/-]{2,24}")


def _find(phone: PhoneSim, name: str) -> Contact:
    """The one contact with that name, or whose name has a word that begins with each word of it."""
    wanted = name.casefold().split()
    people = phone.state.contacts
    same = [p for p in people if wanted in [n.casefold().split() for n in (p.name, *p.also)]]
    found = same or [p for p in people if wanted and _fits(wanted, p.name.casefold().split())]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{len(found)} contacts are called {name[:80]!r}", ", ".join(p.name for p in found[:5]),
                         "say which one", field="name")  # fmt: skip
    names = [n for p in people for n in (p.name, *p.name.split(), *p.also)]
    raise UsageError(f"no contact is called {name[:80]!r}", hint=nearest(name.title(), names), field="name")


def _fits(wanted: list[str], words: list[str]) -> bool:
    return all(any(word.startswith(w) for word in words) for w in wanted)


def _reach(phone: PhoneSim, to: str) -> Contact:
    """Whom a name or a number means."""
    if not _NUMBER.fullmatch(to.strip()):
        return _find(phone, to)
    number = re.sub(r"[^0-9+]", "", to)
    known = (p for p in phone.state.contacts if p.number == number)
    return next(known, Contact(name=number, number=number))


@skill("contacts.find", effect=Effect.READ, cost=Cost(latency_ms=5),
       phrases=["(find|who is) [the|my] contact {name}", "[what is] the number of {name}"])  # fmt: skip
async def contacts_find(
    ctx: Context, name: Annotated[Personal[str], Field(min_length=1, max_length=200, description="or a part of it")]
) -> Contact:
    """Find one person in the phone's address book."""
    phone = ctx.backend(PhoneSim)
    phone.use()
    return _find(phone, name)


class Sent(BaseModel):
    """A message that the network took."""

    id: str
    to: Personal[str] = Field(description="the name that it went to")
    number: DeviceOnly[str]
    text: Personal[str]
    at: float = Field(description="when, in Unix seconds")


@skill("message.send", effect=Effect.ONCE, cost=Cost(latency_ms=400, energy_mwh=1),
       phrases=["(text|message|tell) {to} [that] {text}", "send [a] message to {to} [saying] {text}"])  # fmt: skip
async def message_send(
    ctx: Context, to: Person, text: Annotated[Personal[str], Field(min_length=1, max_length=2000)]
) -> Sent:
    """Send a text message to one person."""
    phone = ctx.backend(PhoneSim)
    person = _reach(phone, to)

    def act() -> Sent:
        phone.use(1)
        return Sent(id=uuid4().hex, to=person.name, number=person.number, text=text, at=phone.now())

    sent = phone.once(ctx, "message.send", Sent, act)
    await anyio.sleep(0.4)  # the network's receipt
    return sent


@message_send.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return ctx.backend(PhoneSim).outcome(ctx, "message.send")


class Call(BaseModel):
    """A call that rings or goes on."""

    call: str = Field(description="its id, for call.end")
    to: Personal[str]
    number: DeviceOnly[str]


class Ended(BaseModel):
    """A call that is over."""

    call: str
    to: Personal[str]
    seconds: float = Field(description="how long the line was open, in seconds")


@skill("call.start", effect=Effect.ONCE, cost=Cost(latency_ms=300, energy_mwh=5), lock="phone.line",
       phrases=["(call|ring|phone) {to}"])  # fmt: skip
async def call_start(ctx: Context, to: Person) -> Call:
    """Call one person; it is done when it rings at their end."""
    phone = ctx.backend(PhoneSim)
    person = _reach(phone, to)

    def act() -> Call:
        phone.use(5)
        if phone.state.line:
            raise Refused("the phone is in a call already", f"with {phone.state.line.to}", "end it first: call.end")
        line = phone.state.line = Line(call=uuid4().hex, to=person.name, since=phone.now())
        return Call(call=line.call, to=line.to, number=person.number)

    call = phone.once(ctx, "call.start", Call, act)
    await anyio.sleep(0.3)
    return call


@call_start.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return ctx.backend(PhoneSim).outcome(ctx, "call.start")


@skill("call.end", effect=Effect.ONCE, cost=Cost(latency_ms=20), lock="phone.line",
       phrases=["(end|finish) [the|this] call", "hang up"])  # fmt: skip
async def call_end(
    ctx: Context, call: Annotated[str, Field(max_length=64, description="its id; empty is the one that goes on")] = ""
) -> Ended:
    """End the call that goes on."""
    phone = ctx.backend(PhoneSim)

    def act() -> Ended:
        line = phone.state.line
        if line is None or (call and call != line.call):
            raise UsageError("there is no such call", "the line is free" if line is None else f"{line.to} is on it")
        phone.advance()
        phone.state.line = None
        return Ended(call=line.call, to=line.to, seconds=round(phone.now() - line.since, 1))

    return phone.once(ctx, "call.end", Ended, act)


@call_end.reconcile
async def _(ctx: Context, args: Mapping[str, Any]) -> Outcome:
    return ctx.backend(PhoneSim).outcome(ctx, "call.end")
