"""A member without a grant, and one that pretends to act for somebody else: refused where the skill runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from slipstream.core.errors import Denied, Refused, SlipError
from slipstream.core.trust import Role

pytestmark = pytest.mark.anyio

CLOSED = '[[rule]]\nwho = ["owner"]\nskills = ["*"]\nthen = "allow"\n'
OPEN = CLOSED + '[[rule]]\nwho = ["member"]\nskills = ["world.look"]\nthen = "allow"\n'


@pytest.fixture(scope="module")
def house(bare: Any) -> Any:
    bare.add("phone", "phone")
    bare.add("car", "car", "world", policy=CLOSED)
    return bare.start()


@pytest.fixture(scope="module")
def friend(house: Any) -> Path:
    return Path(house.let_in("friend", "tablet"))


async def test_a_member_without_a_grant_is_refused_in_a_call_and_in_a_plan(
    house: Any, friend: Path, turned: Any
) -> None:
    async with turned(friend, house["car"]) as node:
        with pytest.raises(Denied, match="no rule lets friend"):
            await node.call("world.send", {"what": "mine"}, on="car")
        step = {"id": "s", "epoch": 1, "key": "r/s/0", "skill": "world.send", "args": {"what": "mine"}, "needs": [],
                "reads": [], "when": None, "for_each": None, "seconds": None, "sends": [], "from": {}}  # fmt: skip
        request = {"run": "r", "have": {}, "steps": [step]}  # as a device that skips its own checks
        await node.request(house["car"].id, "slip.arm", request, anyio.current_time() + 20)
        await house.waits(lambda: len(house.heard("car", "policy.refused", skill="world.send")) == 2, "both are told")
        armed = await node.request(house["car"].id, "slip.arm", request, anyio.current_time() + 20)
        assert armed["s"]["state"] == "denied"
    assert house["phone"].call("world.look", "car") == {"result": "seen "}
    assert not house["car"].did()


async def test_a_forged_origin_gains_nothing(house: Any, friend: Path, turned: Any) -> None:
    phone, car = house["phone"], house["car"]
    valet = house.let_in("valet", "phone", Role.GUEST, "valet")
    for state in (friend, valet):
        async with turned(state, car) as node:
            for origin in (phone.id, car.id):
                with pytest.raises(Denied, match="no rule lets"):
                    await node.call("world.send", {"what": "forged"}, on="car", origin=origin)
            with pytest.raises(Refused, match="not of this mesh"):
                await node.call("world.send", {"what": "forged"}, on="car", origin="a" * 32)
    assert not car.did()


async def test_a_result_counts_only_from_the_device_that_makes_it(house: Any, friend: Path, turned: Any) -> None:
    car = house["car"]
    step = {"id": "b", "epoch": 1, "key": "given/b/0", "skill": "world.send", "args": {"what": {"$ref": "a.result"}},
            "needs": ["a"], "reads": ["a"], "when": None, "for_each": None, "seconds": None, "sends": []}  # fmt: skip
    until = anyio.current_time() + 30
    owner = house.let_in("owner", "phone", Role.OWNER)
    async with turned(owner, car) as node, turned(friend, car) as other:
        order = {"run": "given", "have": {}, "steps": [{**step, "from": {"a": node.id}}]}
        await node.request(car.id, "slip.arm", order, until)
        given = {"run": "given", "owner": node.id, "step": "a", "state": "done"}
        assert other.note(car.id, "slip.deliver", {**given, "value": {"result": "of somebody else"}})
        # what comes next on the same link is answered after it
        await other.request(car.id, "slip.specs", {"digests": []}, until)
        assert (await node.request(car.id, "slip.arm", order, until))["b"]["state"] == "armed"
        assert node.note(car.id, "slip.deliver", {**given, "value": {"result": "of its maker"}})
        while (await node.request(car.id, "slip.arm", order, until))["b"]["state"] != "done":
            assert anyio.current_time() < until
    assert car.did() == ["of its maker"]


async def test_the_rules_are_read_again_when_they_change_and_a_broken_file_changes_nothing(
    house: Any, friend: Path, turned: Any
) -> None:
    car = house["car"]
    policy = car.state / "policy.toml"
    async with turned(friend, car) as node:

        async def may_look() -> bool:
            try:
                await node.call("world.look", {}, on="car")
            except SlipError as error:
                assert isinstance(error, Denied)
                return False
            return True

        assert not await may_look()
        policy.write_text(OPEN)
        until = time.monotonic() + 30
        while not await may_look():
            assert time.monotonic() < until
        policy.write_text(OPEN + "[[rule]\n")
        while not (
            told := [h for h in house.heard("car", "warning") if "the policy stays as it was" in h.said["what"]]
        ):
            assert await may_look()
            assert time.monotonic() < until
            house.hear()
        assert "policy.toml" in told[0].said["what"] + told[0].said["why"]
        assert await may_look()
        with pytest.raises(Denied):
            await node.call("world.send", {"what": "mine"}, on="car")
    assert len(house.heard("car", "ready")) == 1
