"""Which plans could send labelled values where they may not go, and what those that could not bind their steps to."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from slipstream.core import plan as plans
from slipstream.core.errors import UsageError
from slipstream.core.labels import Flows, check_flows
from slipstream.core.skill import Context, Effect, skill
from slipstream.skills.packs.labels import DeviceOnly, Personal, Secret


class Address(BaseModel):
    town: Personal[str]
    country: str


class Person(BaseModel):
    name: Personal[str]
    number: DeviceOnly[str] | None = None
    pin: Secret[int] = 0
    homes: list[Address] = []
    work: DeviceOnly[Address] | None = None
    marks: dict[str, DeviceOnly[str]] = {}
    times: int = 0


class Sent(BaseModel):
    id: str
    to: Personal[str]


class Found(BaseModel):
    contacts: list[Person]


@skill("contacts.find", effect=Effect.READ)
async def find(ctx: Context, name: Personal[str]) -> Person:
    """Find one."""
    raise NotImplementedError


@skill("contacts.list", effect=Effect.READ)
async def all_of_them(ctx: Context) -> Found:
    """Find all."""
    raise NotImplementedError


@skill("message.send", effect=Effect.READ)
async def send(ctx: Context, to: Personal[str], text: Personal[str] = "") -> Sent:
    """Send one."""
    raise NotImplementedError


@skill("card.make", effect=Effect.READ)
async def card(ctx: Context, of: Person, note: str = "") -> Secret[str]:
    """Make one."""
    raise NotImplementedError


@skill("text.upper", effect=Effect.READ)
async def upper(ctx: Context, text: Any, more: list[str] = []) -> str:  # noqa: B006
    """Spell it large."""
    raise NotImplementedError


SPECS: dict[str, Any] = {f.spec.name: f.spec.to_wire() for f in (find, all_of_them, send, card, upper)}
FIND = {"id": "find", "skill": "contacts.find", "args": {"name": "Anna"}}
LIST = {"id": "list", "skill": "contacts.list"}


def step(name: str, skill: str, *, args: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    refs = {k: {"$ref": v[1:]} if isinstance(v, str) and v.startswith("$") else v for k, v in (args or {}).items()}
    return {"id": name, "skill": skill, "args": refs, **more}


def flows(*steps: dict[str, Any], on: dict[str, set[str]] | None = None, **fields: Any) -> Flows:
    plan = plans.load({"goal": "test", "steps": list(steps), **fields})
    plans.check(plan, SPECS)
    return check_flows(plan, SPECS, lambda s: (on or {}).get(s.id))


def test_a_plan_without_labelled_values_binds_nothing() -> None:
    found = flows(
        FIND, step("a", "text.upper", args={"text": "$find.times"}),
        step("b", "message.send", args={"to": "$inputs.x"}),
        inputs={"x": "Anna"}, output={"n": {"$ref": "find.times"}, "x": {"$ref": "inputs.x"}, "id": {"$ref": "b.id"}},
    )  # fmt: skip
    assert found == Flows()


def test_who_reads_what_is_personal_must_be_one_who_may() -> None:
    found = flows(
        FIND, step("a", "message.send", args={"to": "$find.name"}),
        step("b", "text.upper", args={"text": "$find.name"}),
        step("c", "text.upper", args={"text": 1}, when={"op": "eq", "left": {"$ref": "find.name"}, "right": "x"}),
        step("d", "text.upper", args={"text": 1}, after=["find"]), output={"who": {"$ref": "find.name"}},
    )  # fmt: skip
    assert found == Flows(personal={"a", "b", "c"})


def test_who_reads_what_never_leaves_its_device_runs_there() -> None:
    found = flows(
        FIND, step("a", "message.send", args={"to": "$find.number"}), step("b", "card.make", args={"of": "$find"}),
        step("d", "message.send", args={"to": "$find.name"}),
    )  # fmt: skip
    assert found == Flows(together=[("find", "a"), ("find", "b")], personal={"d"})
    assert found.groups() == [{"find", "a", "b"}]


def test_no_condition_reads_what_never_leaves_its_device_for_whether_a_step_ran_tells_of_it() -> None:
    when = {"op": "not", "left": {"op": "eq", "left": {"$ref": "find.pin"}}}
    with pytest.raises(UsageError, match=r"step c: when\.left.*whether a step ran"):
        flows(FIND, step("c", "text.upper", args={"text": 1}, when=when))


def test_groups_are_all_that_hang_together() -> None:
    assert Flows(together=[("a", "b"), ("c", "d"), ("e", "d"), ("f", "f")]).groups() == [
        {"a", "b"}, {"c", "d", "e"}, {"f"},
    ]  # fmt: skip
    assert Flows(together=[("a", "b"), ("c", "d"), ("b", "c")]).groups() == [{"a", "b", "c", "d"}]


def test_what_goes_to_the_owner_and_never_leaves_its_device_is_made_by_the_owner() -> None:
    found = flows(
        FIND, step("a", "card.make", args={"of": "$find"}), {**LIST, "id": "b"},
        output={"x": [{"$ref": "find.marks.x"}], "y": {"z": {"$ref": "a.result"}}, "b": {"$ref": "b.contacts.0.name"}},
    )  # fmt: skip
    assert found.at_owner == {"find", "a"}
    assert flows(FIND, output={"all": {"$ref": "find"}}).at_owner == {"find"}


def test_each_item_of_a_list_has_its_own_labels() -> None:
    found = flows(
        LIST, step("a", "message.send", args={"to": "$item.number"}, for_each={"$ref": "list.contacts"}),
        step("b", "text.upper", args={"text": "$a.result.0.id"}),
        step("c", "message.send", args={"to": "$list.contacts.0.homes.0.town"}),
        step("d", "message.send", args={"to": "$item.town"}, for_each={"$ref": "list.contacts.1.homes"}),
        step("e", "card.make", args={"of": "$item"}, for_each={"$ref": "list.contacts"}),
    )  # fmt: skip
    assert found == Flows(together=[("list", "a"), ("list", "e")], personal={"c", "d"})


@pytest.mark.parametrize(
    ("steps", "field", "why"),
    [
        ([step("x", "text.upper", args={"text": "$find.number"})], "args.text",
         "contacts.find gives number, which never leaves its device; args.text of text.upper does not promise"),
        ([step("x", "text.upper", args={"text": "$find"})], "args.text", "contacts.find gives a result, which never"),
        ([step("x", "text.upper", args={"text": {"a": [{"$ref": "find.work.country"}]}})], "args.text.a.0",
         "gives work.country"),
        ([step("x", "text.upper", args={"text": "", "more": ["a", {"$ref": "find.marks.b"}]})], "args.more.1",
         "gives marks.b"),
        ([step("x", "card.make", args={"of": "$find", "note": "$find.number"})], "args.note", "gives number"),
        ([step("x", "card.make", args={"of": {"name": "x", "times": {"$ref": "find.pin"}}})], "args.of.times",
         "gives pin"),
        ([LIST, step("x", "text.upper", args={"text": "$item.number"}, for_each={"$ref": "list.contacts"})],
         "args.text", "contacts.list gives contacts.0.number"),
        ([LIST, step("x", "text.upper", args={"text": "$item"}, for_each={"$ref": "list.contacts"})], "args.text",
         "contacts.list gives contacts.0,"),
        ([step("a", "message.send", args={"to": "$find.number"}), step("x", "text.upper", args={"text": "$a.to"})],
         "args.text", "message.send gives to, which is made of what never leaves its device"),
        ([step("a", "card.make", args={"of": "$find"}), step("x", "text.upper", args={"text": "$a.result"})],
         "args.text", "card.make gives result, which is made of"),
    ],
)  # fmt: skip
def test_a_plan_that_could_leak_is_refused_with_step_and_field(steps: list[Any], field: str, why: str) -> None:
    with pytest.raises(UsageError) as refused:
        flows(FIND, *steps)
    assert refused.value.where == {"step": "x", "field": field}
    assert why in refused.value.why
    assert "slip skills show" in refused.value.hint


@pytest.mark.parametrize(
    "on",
    [
        {"find": {"phone"}, "a": {"car"}},
        {"find": {"phone", "tablet"}, "a": {"car", "hub"}},
        {"find": {"phone"}, "b": {"car"}},
        {"find": {"phone", "car"}, "a": {"car", "hub"}, "b": {"phone", "hub"}},
        {"find": set()},
    ],
)
def test_steps_that_no_device_can_run_together_are_refused_before_anything_starts(on: dict[str, set[str]]) -> None:
    send_number = step("a", "message.send", args={"to": "$find.number"})
    make_card = step("b", "card.make", args={"of": {"name": "x", "number": {"$ref": "a.to"}}})
    with pytest.raises(UsageError, match="no device for") as refused:
        flows(make_card, send_number, FIND, on=on)
    assert refused.value.where in ({"step": "a", "field": "args.to"}, {"step": "b", "field": "args.of.number"})
    assert '"on"' in refused.value.hint


def test_steps_that_one_device_can_run_together_are_not() -> None:
    send_number = step("a", "message.send", args={"to": "$find.number"})
    assert flows(FIND, send_number, on={"find": {"phone", "car"}, "a": {"hub", "phone"}}).together == [("find", "a")]
    send_name = step("a", "message.send", args={"to": "$find.name"})
    assert flows(FIND, send_name, on={"find": {"phone"}, "a": {"car"}}).personal == {"a"}


def test_what_is_given_on_is_kept_through_every_step_that_reads_it() -> None:
    chain = [
        step(f"s{i}", "message.send", args={"to": f"${'find.number' if i == 0 else f's{i - 1}.to'}"}) for i in range(9)
    ]
    found = flows(FIND, *chain, step("end", "text.upper", args={"text": "$s8.id"}), output={"to": {"$ref": "s8.to"}})
    assert found.groups() == [{"find", *(f"s{i}" for i in range(9))}]
    assert found.at_owner == {"s8"}
    assert not found.personal
