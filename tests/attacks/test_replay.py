"""What was said once and is said again: calls, orders of runs and statements.

A frame cannot be said again on another connection: TLS 1.3 keys are made anew for each, and no session is resumed
(tests/transports/test_tls.py). So whoever replays is a member who says the same once more.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from slipstream.core.errors import LinkLost, Refused, UnknownOutcome
from slipstream.core.roster_file import RosterFile
from slipstream.core.trust import Role

pytestmark = pytest.mark.anyio

OPEN = '[[rule]]\nwho = ["*"]\nskills = ["*"]\nthen = "allow"\n'


@pytest.fixture(scope="module")
def house(bare: Any) -> Any:
    bare.add("phone", "phone")
    bare.add("car", "car", "world", policy=OPEN)
    return bare.start()


@pytest.fixture(scope="module")
def friend(house: Any) -> Path:
    return Path(house.let_in("friend", "tablet"))


async def test_a_key_that_comes_again_is_answered_from_the_journal_and_only_to_whose_it_is(
    house: Any, friend: Path, turned: Any
) -> None:
    car = house["car"]
    async with turned(friend, car) as node:
        first = await node.call("world.send", {"what": "once"}, on="car", key="again")
        assert await node.call("world.send", {"what": "once"}, on="car", key="again") == first
        car.kill()
        await anyio.to_thread.run_sync(car.start)
        await turned.meet(node, car)
        assert await node.call("world.send", {"what": "once"}, on="car", key="again") == first
    async with turned(house.let_in("other", "tablet"), car) as node:
        with pytest.raises(Refused, match="another device"):
            await node.call("world.send", {"what": "once"}, on="car", key="again")
    assert car.did().count("once") == 1


async def test_what_was_half_done_when_its_device_was_killed_is_not_done_again(
    house: Any, friend: Path, turned: Any
) -> None:
    car = house["car"]
    async with turned(friend, car) as node, anyio.create_task_group() as group:
        half_way = anyio.Event()

        async def begin() -> None:
            with pytest.raises(LinkLost):
                await node.call("world.begin", {"what": "half"}, on="car", key="half",
                                on_progress=lambda *_: half_way.set())  # fmt: skip

        group.start_soon(begin)
        await half_way.wait()
        car.kill()
        await anyio.to_thread.run_sync(car.start)
        await turned.meet(node, car)
        with pytest.raises(UnknownOutcome):
            await node.call("world.begin", {"what": "half"}, on="car", key="half")
    assert car.did().count("half") == 1


async def test_an_old_epoch_is_answered_with_the_newer_state(house: Any, friend: Path, turned: Any) -> None:
    step = {"id": "s", "key": "r/s/0", "skill": "world.send", "args": {"what": "old"}, "needs": ["never"], "reads": [],
            "when": None, "for_each": None, "seconds": None, "sends": [], "from": {}}  # fmt: skip
    async with turned(friend, house["car"]) as node:

        async def arm(epoch: int, **more: Any) -> Any:
            request = {"run": "r", "have": {}, "steps": [{**step, "epoch": epoch, **more}]}
            return (await node.request(house["car"].id, "slip.arm", request, anyio.current_time() + 20))["s"]

        assert (await arm(2))["epoch"] == 2
        old = await arm(1, needs=[])  # the older order would begin at once
        assert (old["epoch"], old["state"]) == (2, "armed")
    assert "old" not in house["car"].did()


async def test_a_statement_that_is_shown_again_or_changed_says_nothing_new(
    house: Any, friend: Path, turned: Any
) -> None:
    car = house["car"]
    async with turned(friend, car) as node:
        known = RosterFile(friend).load()
        (mine,) = [s for s in known.statements if s.subject == node.id]
        before = (car.state / "roster").read_bytes()
        assert node.note(car.id, "slip.roster", {"statements": [s.to_wire() for s in known.statements]})
        forged = replace(mine, role=Role.OWNER, seq=known.next_seq(mine.signer), number=9)  # signed for something else
        assert node.note(car.id, "slip.roster", {"statements": [forged.to_wire()]})
        await house.waits(
            lambda: [h for h in house.heard("car", "warning") if "nobody signed who may" in h.said["what"]],
            "the car drops it",
        )
        assert (car.state / "roster").read_bytes() == before
        assert not house.heard("car", "trust.changed", revoked=[node.id])
        assert await node.call("world.look", {}, on="car") == {"result": "seen "}
