"""Values that belong to somebody: what other devices get of them, whatever a plan says."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from pydantic import BaseModel
from trio.testing import MockClock

from slipstream import testing
from slipstream.core.errors import Refused, SlipError, UsageError
from slipstream.core.skill import Context, Effect, skill
from slipstream.core.trust import Role
from slipstream.skills.packs.labels import DeviceOnly, Personal

pytestmark = pytest.mark.anyio

NUMBER, NAME, TOKEN = "+49 151 2345 6789", "Anna Lena Brandl", "tok-7f3a9c11"
CANARIES = (NUMBER, TOKEN)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Person(BaseModel):
    name: Personal[str]
    number: DeviceOnly[str]
    token: DeviceOnly[str]


class Sent(BaseModel):
    to: Personal[str]
    ok: bool


@skill("contacts.find", effect=Effect.READ)
async def find(ctx: Context, name: Personal[str]) -> Person:
    """Find one."""
    return Person(name=NAME, number=NUMBER, token=TOKEN)


@skill("contacts.all", effect=Effect.READ)
async def everybody(ctx: Context) -> list[Person]:
    """Find all."""
    return [Person(name=NAME, number=NUMBER, token=TOKEN)] * 3


SENT: list[str] = []


@skill("message.send", effect=Effect.ONCE)
async def send(ctx: Context, to: Personal[str]) -> Sent:
    """Send one."""
    SENT.append(to)
    return Sent(to=to, ok=True)


@skill("message.ring", effect=Effect.ONCE)
async def ring(ctx: Context, to: Personal[str]) -> Sent:
    """Fail to ring one."""
    raise Refused(f"nobody is called {to}")


@skill("text.upper", effect=Effect.READ)
async def upper(ctx: Context, text: str) -> str:
    """Spell it large."""
    return text.upper()


@skill("car.show", effect=Effect.READ)
async def show(ctx: Context, text: Personal[str]) -> str:
    """Show it."""
    return f"shown {text}"


class Frames:
    """Every byte that one device sends another."""

    def __init__(self, m: testing.Mesh) -> None:
        self.seen: list[bytes] = []
        m.network.tap = self.seen.append

    def holds(self, canary: str) -> bool:
        return canary.encode() in b"".join(self.seen)


def mesh(**more: Any) -> Any:
    SENT.clear()
    skills = {"phone": [find, everybody, send, ring, upper], "car": [show, upper]}
    return testing.mesh("phone", "car", skills=skills, **more)


def journal_of(m: testing.Mesh, name: str) -> bytes:
    rows = []
    database = m[name].journal.database
    for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
        rows += [repr(row) for row in database.execute(f"select * from {table}").fetchall()]
    return "".join(rows).encode()


def nothing_leaked(m: testing.Mesh, frames: Frames, where: str = "car") -> None:
    for canary in CANARIES:
        assert not frames.holds(canary)
        assert canary.encode() not in journal_of(m, where)
        assert canary not in repr([event.to_wire() for event in m[where].events.recent])


async def test_another_device_gets_a_handle_in_the_place_of_what_may_not_leave() -> None:
    async with mesh() as m:
        frames = Frames(m)
        found = await m.call("contacts.find", {"name": "Anna"}, of="car")
        assert found["name"] == NAME
        assert found["number"].startswith("slip-handle:phone:")
        assert (await m.call("contacts.find", {"name": "Anna"}, of="phone"))["number"] == NUMBER
        nothing_leaked(m, frames)


async def test_a_handle_comes_to_its_value_only_on_its_device_and_what_is_made_of_it_stays_there_too() -> None:
    async with mesh() as m:
        frames = Frames(m)
        found = await m.call("contacts.find", {"name": "Anna"}, of="car")
        sent = await m.call("message.send", {"to": found["number"]}, of="car", key="k")
        assert SENT == [NUMBER]
        assert sent["ok"]
        assert sent["to"].startswith("slip-handle:")
        assert await m.call("car.show", {"text": found["number"]}, of="car") == {"result": f"shown {found['number']}"}
        # the first answer to a key is as private when the key comes back without the handle
        again = await m.call("message.send", {"to": "somebody"}, of="car", key="k")
        assert again["to"].startswith("slip-handle:")
        assert SENT == [NUMBER]
        nothing_leaked(m, frames)


async def test_why_a_skill_failed_is_as_private_when_its_key_comes_back_without_the_handle() -> None:
    async with mesh() as m:
        frames = Frames(m)
        handle = (await m.call("contacts.find", {"name": "Anna"}, of="car"))["number"]
        for to in (handle, "somebody"):
            with pytest.raises(Refused) as failed:
                await m.call("message.ring", {"to": to}, of="car", key="k")
            assert "why stays on its device" in str(failed.value.why)
        nothing_leaked(m, frames)


async def test_a_handle_is_not_opened_for_a_skill_that_does_not_promise_to_keep_it() -> None:
    async with mesh() as m:
        frames = Frames(m)
        found = await m.call("contacts.find", {"name": "Anna"}, of="car")
        with pytest.raises(UsageError, match="does not promise"):
            await m.call("text.upper", {"text": found["number"]}, on="phone", of="car")
        nothing_leaked(m, frames)


async def test_a_plan_that_could_leak_is_refused_before_it_runs_and_names_step_and_field() -> None:
    async with mesh() as m:
        frames = Frames(m)
        steps = [{"id": "who", "skill": "contacts.find", "args": {"name": "Anna"}}]
        shown = {"id": "show", "skill": "car.show", "args": {"text": {"$ref": "who.number"}}, "on": "car"}
        with pytest.raises(UsageError) as refused:
            await m.run({"goal": "leak", "steps": [*steps, shown]}, of="car")
        assert "show" in str(refused.value)
        assert "args.text" in str(refused.value)
        shout = {"id": "shout", "skill": "text.upper", "args": {"text": {"$ref": "who.number"}}, "on": "phone"}
        with pytest.raises(UsageError, match=r"args\.text"):
            await m.run({"goal": "leak", "steps": [*steps, shout]}, of="phone")
        assert not [e for e in m["phone"].events.recent if e.kind == "step.started"]
        nothing_leaked(m, frames)


async def test_steps_that_share_what_may_not_leave_run_on_one_device() -> None:
    async with mesh() as m:
        frames = Frames(m)
        run = await m.run({"goal": "tell Anna", "steps": [
            {"id": "who", "skill": "contacts.find", "args": {"name": "Anna"}},
            {"id": "tell", "skill": "message.send", "args": {"to": {"$ref": "who.number"}}},
            {"id": "name", "skill": "car.show", "args": {"text": {"$ref": "who.name"}}},
        ]}, of="car")  # fmt: skip
        assert run.state == "done", run.error
        assert SENT == [NUMBER]
        assert run.steps["tell"].device == "phone"
        nothing_leaked(m, frames)


async def arm(m: testing.Mesh, *steps: dict[str, Any]) -> Any:
    """Have the car arm steps on the phone without asking its own plan check, as a device would that was taken over."""
    whole = [
        {"epoch": 1, "key": f"run/{s['id']}/0", "needs": [], "reads": [], "when": None, "for_each": None,
         "seconds": None, "sends": ["car"], "from": {}, **s}
        for s in steps
    ]  # fmt: skip
    reports: dict[str, Any] = {}
    seen = m["car"].peer_note

    def note(peer: Any, target: str, content: dict[str, Any]) -> None:
        if target == "slip.report" and content["state"] not in ("running", "armed"):
            reports[content["step"]] = content
        seen(peer, target, content)

    m["car"].peer_note = note  # type: ignore[method-assign]
    await m["car"].request("phone", "slip.arm", {"run": "run", "have": {}, "steps": whole}, anyio.current_time() + 3)
    await anyio.sleep(1)
    return reports


async def test_an_owner_that_skips_the_plan_check_gets_no_more_than_handles() -> None:
    async with mesh() as m:
        frames = Frames(m)
        reads = {"needs": ["who"], "reads": ["who"]}
        reports = await arm(
            m,
            {"id": "who", "skill": "contacts.find", "args": {"name": "Anna"}},
            {"id": "loud", "skill": "text.upper", "args": {"text": {"$ref": "who.number"}}, **reads},
            {"id": "tell", "skill": "message.send", "args": {"to": {"$ref": "who.number"}}, **reads},
            {"id": "all", "skill": "contacts.all", "args": {}},
            {"id": "each", "skill": "text.upper", "args": {"text": {"$ref": "item.token"}}, "needs": ["all"],
             "reads": ["all"], "for_each": {"$ref": "all.result"}},
        )  # fmt: skip
        assert {name: r["state"] for name, r in reports.items()} == {
            "who": "done", "loud": "denied", "tell": "done", "all": "done", "each": "denied",
        }  # fmt: skip
        assert reports["tell"]["value"]["to"].startswith("slip-handle:")
        assert all(p["number"].startswith("slip-handle:") for p in reports["all"]["value"]["result"])
        nothing_leaked(m, frames)


async def test_a_guest_sees_nothing_that_is_personal_and_gets_no_step_that_reads_it() -> None:
    policy = testing.Policy([testing.Rule(("*",), ("*",), "allow")], {"personal": ("owner", "member")})
    async with mesh(policy=policy, roles={"car": Role.GUEST}) as m:
        frames = Frames(m)
        found = await m.call("contacts.find", {"name": "Anna"}, of="car")
        assert found["name"].startswith("slip-handle:")
        run = await m.run({"goal": "show", "steps": [
            {"id": "who", "skill": "contacts.find", "args": {"name": "Anna"}},
            {"id": "loud", "skill": "text.upper", "args": {"text": {"$ref": "who.name"}}},
        ]}, of="phone")  # fmt: skip
        assert run.state == "done", run.error
        assert run.steps["loud"].device == "phone"
        assert not frames.holds(NAME)
        nothing_leaked(m, frames)


@skill("contacts.call", effect=Effect.READ)
async def fails(ctx: Context, name: Personal[str]) -> str:
    """Fail, and say why."""
    raise UsageError(f"no contact is called {name}", name, name, field=name)


async def test_an_error_does_not_say_what_a_handle_stands_for() -> None:
    async with testing.mesh("phone", "car", skills={"phone": [find, fails], "car": [show]}) as m:
        frames = Frames(m)
        found = await m.call("contacts.find", {"name": "Anna"}, of="car")
        with pytest.raises(UsageError, match="why stays on its device"):
            await m.call("contacts.call", {"name": found["number"]}, of="car")
        run = await m.run({"goal": "call", "steps": [
            {"id": "who", "skill": "contacts.find", "args": {"name": "Anna"}},
            {"id": "call", "skill": "contacts.call", "args": {"name": {"$ref": "who.number"}}},
        ]}, of="car")  # fmt: skip
        assert run.steps["call"].state == "failed"
        nothing_leaked(m, frames)


async def test_a_result_is_as_private_under_any_order_that_reads_it() -> None:
    async with mesh() as m:
        frames = Frames(m)
        with pytest.raises(SlipError, match=r"cannot be read|another device"):  # a key that is not the step's
            await arm(m, {"id": "who", "skill": "text.upper", "args": {"text": "x"}, "key": "else/who/0"})
        first = {"id": "who", "skill": "contacts.find", "args": {"name": "Anna"}}
        again = {**first, "epoch": 2, "key": "run/who/1", "needs": ["never"]}
        reads = {"needs": ["who"], "reads": ["who"]}
        await arm(m, first)
        reports = await arm(
            m, again,
            {"id": "loud", "skill": "text.upper", "args": {"text": {"$ref": "who.number"}}, **reads},
            {"id": "when", "skill": "text.upper", "args": {"text": "x"}, **reads,
             "when": {"op": "lt", "left": {"$ref": "who.number"}, "right": "+5"}},
        )  # fmt: skip
        assert {name: r["state"] for name, r in reports.items()} == {"loud": "denied", "when": "denied"}
        with pytest.raises(SlipError, match="cannot be read"):
            await arm(m, {"id": "list", "skill": "text.upper", "args": {"text": {"$ref": "item"}}, **reads,
                          "for_each": [{"$ref": "who.number"}]})  # fmt: skip
        nothing_leaked(m, frames)


@skill("message.queue", effect=Effect.IDEMPOTENT, resumable=True)
async def queue(ctx: Context, to: Personal[str]) -> bool:
    """Send one in two goes, and tell of it."""
    first = "to" not in ctx.state
    await ctx.checkpoint(to=ctx.state.get("to", to))
    await ctx.progress(1.0, f"to {ctx.state['to']}")
    if first:
        raise SlipError("the line is busy")
    return True


async def test_how_far_a_skill_is_may_be_told_but_no_note_of_one_that_was_given_what_may_not_leave() -> None:
    async with testing.mesh("phone", "car", skills={"phone": [find, queue], "car": [show]}) as m:
        frames = Frames(m)
        told: list[tuple[float, str]] = []

        async def queued(to: str, of: str) -> None:
            key = f"{of}'s"
            await m[of].call("message.queue", {"to": to}, on="phone", key=key, on_progress=lambda *t: told.append(t))

        found = await m.call("contacts.find", {"name": "Anna"}, of="car")
        with pytest.raises(SlipError, match="failed"):
            await queued(found["number"], "car")
        await queued("somebody", "car")  # it goes on with what it was given before
        assert told == [(1.0, "")] * 2
        with pytest.raises(SlipError, match="busy"):
            await queued(found["number"], "phone")
        assert told[2:] == [(1.0, f"to {NUMBER}")]  # who is at the device may read it
        nothing_leaked(m, frames)


async def test_the_events_of_a_run_on_another_device_hold_no_note_of_what_may_not_leave() -> None:
    async with testing.mesh("phone", "car", skills={"phone": [find, queue], "car": [show]}) as m:
        frames = Frames(m)
        for of, note in (("car", ""), ("phone", f"to {NUMBER}")):
            await m.run({"goal": "tell Anna", "steps": [
                {"id": "who", "skill": "contacts.find", "args": {"name": "Anna"}},
                {"id": "tell", "skill": "message.queue", "args": {"to": {"$ref": "who.number"}}},
            ]}, of=of)  # fmt: skip
            told = [e.fields for e in m[of].events.recent if e.kind == "step.progress"]
            assert {(fields["step"], fields["fraction"], fields["note"]) for fields in told} == {("tell", 1.0, note)}
        nothing_leaked(m, frames)
