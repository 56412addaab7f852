"""What must not leave a phone is planted there, and looked for elsewhere: in files, logs, events and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from slipstream import control
from slipstream.core.errors import SlipError, UsageError
from slipstream.skills.packs.phone.sim import Contact, PhoneState

pytestmark = pytest.mark.anyio

NUMBER, TOKEN = "+4989777012345678", "tok-7f3a9c11d2e4b806"
CANARIES = (NUMBER, NUMBER.lstrip("+"), TOKEN)
OPEN = """
[[rule]]
who = ["*"]
skills = ["*"]
then = "allow"
[labels]
personal = ["owner", "member"]
"""


@pytest.fixture(scope="module")
def house(bare: Any) -> Any:
    bare.add("phone", "phone", "phone", policy=OPEN)
    bare.add("car", "car", "car", "world", policy=OPEN)
    kept = bare["phone"].state / "packs" / "phone" / "phone.json"
    kept.parent.mkdir(mode=0o700, parents=True)
    planted = PhoneState(contacts=[Contact(name="Anna Huber", number=NUMBER)], clipboard=TOKEN)
    kept.write_text(json.dumps(planted.model_dump(mode="json")))
    return bare.start()


@pytest.fixture(scope="module")
def friend(house: Any) -> Path:
    return Path(house.let_in("friend", "tablet"))


def nothing_leaked(house: Any, *said: Any) -> None:
    """See that no canary is in what a device was told, nor anywhere on the car; on the phone there is."""
    with control.talk(house["car"].state, "events", {"since": 0}, timeout=20) as lines:
        events = []
        for line in lines:
            if "listening" in line:
                break
            events.append(line)
    for canary in CANARIES:
        assert canary not in repr((said, events))
        assert house["car"].holds(canary) == []
        assert canary not in repr([h.said for h in house.told])  # no log of any device has it
    assert house["phone"].holds(TOKEN)


def test_the_car_gets_handles_and_can_use_them_without_having_what_they_stand_for(house: Any) -> None:
    car = house["car"]
    found = car.call("contacts.find", "phone", name="Anna")
    assert found["name"] == "Anna Huber"
    assert found["number"].startswith("slip-handle:")
    copied = car.call("clipboard.get", "phone")
    assert copied["text"].startswith("slip-handle:")
    sent = car.call("message.send", "phone", to=found["number"], text=copied["text"])
    assert sent["number"].startswith("slip-handle:")
    outbox = json.loads((house["phone"].state / "packs" / "phone" / "phone.json").read_text())["ledger"]
    assert [(m["number"], m["text"]) for m in outbox.values()] == [(NUMBER, TOKEN)]  # it really went there
    nothing_leaked(house, found, copied, sent)


def test_a_plan_that_sends_contacts_to_the_car_is_refused_naming_step_and_field(house: Any) -> None:
    who = {"id": "who", "skill": "contacts.find", "args": {"name": "Anna"}}
    leaks = [
        {"id": "show", "skill": "nav.set", "args": {"destination": {"$ref": "who.number"}}, "on": "car"},
        {"id": "tell", "skill": "world.send", "args": {"what": {"$ref": "who.number"}}},
        {"id": "name", "skill": "world.look", "args": {"at": {"$ref": "who.number"}}, "on": "car"},
    ]
    for owner in ("car", "phone"):
        for leak in leaks:
            with pytest.raises(UsageError) as refused:
                house[owner].ask("run", plan={"goal": "send my contacts to the car", "steps": [who, leak]})
            (field,) = leak["args"]
            assert leak["id"] in str(refused.value)
            assert f"args.{field}" in str(refused.value)
    assert not house.heard("phone", "step.started")
    nothing_leaked(house)


def test_a_plan_that_shares_them_among_steps_of_the_phone_runs_there(house: Any) -> None:
    plan = {"goal": "tell Anna", "steps": [
        {"id": "who", "skill": "contacts.find", "args": {"name": "Anna"}},
        {"id": "tell", "skill": "message.send", "args": {"to": {"$ref": "who.number"}, "text": "on my way"}},
    ], "output": {"sent": {"$ref": "tell.id"}}}  # fmt: skip
    run = house["car"].ask("run", plan=plan)["run"]
    assert run["state"] == "done"
    nothing_leaked(house, run, house["car"].ask("runs.show", run=run["run"]))


async def test_a_member_that_skips_the_plan_check_gets_handles_only(house: Any, friend: Path, turned: Any) -> None:
    phone = house["phone"]

    def step(name: str, skill: str, args: dict[str, Any], *needs: str) -> dict[str, Any]:
        return {"id": name, "epoch": 1, "key": f"hand/{name}/0", "skill": skill, "args": args, "needs": list(needs),
                "reads": list(needs), "when": None, "for_each": None, "seconds": None, "sends": [],
                "from": {}}  # fmt: skip

    steps = [
        step("who", "contacts.find", {"name": "Anna"}),
        step("clip", "clipboard.get", {}),
        step("tell", "message.send", {"to": {"$ref": "who.number"}, "text": "x"}, "who"),
        step("loud", "speech.say", {"text": {"$ref": "who.number"}}, "who"),
        step("sum", "summary.text", {"text": {"$ref": "clip.text"}}, "clip"),
    ]
    order = {"run": "hand", "have": {}, "steps": steps}
    async with turned(friend, phone) as node:
        reports: dict[str, Any] = {}
        changed = anyio.Event()
        seen = node.peer_note

        def note(peer: Any, target: str, content: dict[str, Any]) -> None:
            nonlocal changed
            if target == "slip.report" and content["state"] not in ("armed", "running"):
                reports[content["step"]] = content
                changed.set()
                changed = anyio.Event()
            seen(peer, target, content)

        node.peer_note = note
        told = await node.request(phone.id, "slip.arm", order, anyio.current_time() + 20)
        with anyio.fail_after(30):
            while len(reports) < len(steps):
                await changed.wait()
    assert reports["who"]["value"]["number"].startswith("slip-handle:")
    assert reports["clip"]["value"]["text"].startswith("slip-handle:")
    assert reports["tell"]["value"]["number"].startswith("slip-handle:")
    nothing_leaked(house, reports, told)


async def test_a_result_does_not_come_back_under_its_key_as_that_of_another_skill(
    house: Any, friend: Path, turned: Any
) -> None:
    phone, key = house["phone"], "swap/s/0"
    async with turned(friend, phone) as node:
        heard = [await node.call("message.send", {"to": "Anna", "text": "x"}, on="phone", key=key)]
        step = {"id": "s", "epoch": 1, "key": key, "skill": "phone.battery", "args": {}, "needs": [], "reads": [],
                "when": None, "for_each": None, "seconds": None, "sends": [], "from": {}}  # fmt: skip
        order = {"run": "swap", "have": {}, "steps": [step]}  # of a skill that labels nothing
        with pytest.raises(SlipError) as refused:
            await node.request(phone.id, "slip.arm", order, anyio.current_time() + 20)
        heard.append(refused.value.to_wire())
    nothing_leaked(house, heard)


async def test_a_handle_means_nothing_on_another_device_and_not_in_every_argument(
    house: Any, friend: Path, turned: Any
) -> None:
    async with turned(friend, house["phone"], house["car"]) as node:
        number = (await node.call("contacts.find", {"name": "Anna"}, on="phone"))["number"]
        heard: list[Any] = [await node.call("world.look", {"at": number}, on="car")]
        with pytest.raises(SlipError) as refused:
            await node.call("call.end", {"call": number}, on="phone")
        heard.append(refused.value.to_wire())
        assert heard[0] == {"result": f"seen {number}"}
        nothing_leaked(house, heard)
