"""A car at 60 km/h, one whose speed is stale, one whose gear says park while it moves, and one that is parked."""

from __future__ import annotations

import json
import time
from typing import Any

import anyio
import pytest

from slipstream.core.errors import Denied
from slipstream.skills.packs.car import signals as vss
from slipstream.skills.packs.car.state import CarState, Drive

SPEED = "Vehicle.Speed"
MOVING = {
    "moving": "[settings.car]\nspeed = 60\ncharger = 0\n",
    "stale": f'[settings.car]\ncharger = 0\nsilent = ["{SPEED}"]\n',
    "liar": "",
}
DANGEROUS: list[tuple[str, dict[str, Any]]] = [
    ("doors.unlock", {}), ("windows.set", {"percent": 80}), ("windows.set", {"percent": 80, "which": "passenger"}),
    ("charge.port.open", {}), ("seat.move", {"centimetres": 5}), ("media.video", {"title": "a film"}),
    ("keyboard.type", {"text": "where to"}), ("charge.start", {}),
]  # fmt: skip


WINDOW = '''
from contextlib import asynccontextmanager
from pathlib import Path
import anyio
from slipstream import Context, Effect, Pack, skill
from slipstream.core.skill import Driving

class Vehicle:
    state, go = Driving.PARKED, anyio.Event()

@asynccontextmanager
async def opened(settings):
    yield Vehicle()

@skill("windows.set", effect=Effect.PHYSICAL, driving=Driving.MOVING, lock="car.windows")
async def windows(ctx: Context, percent: int) -> int:
    """Set the windows; they do not arrive before the car is told to drive off."""
    with Path("world").open("a") as file:
        file.write(f"{percent}\\n")
    await ctx.progress(0.5, "on their way")
    await ctx.backend(Vehicle).go.wait()
    return percent

@skill("van.off", effect=Effect.IDEMPOTENT, driving=Driving.MOVING)
async def off(ctx: Context) -> bool:
    """Drive off."""
    van = ctx.backend(Vehicle)
    van.state = Driving.MOVING
    van.go.set()
    return True

pack = Pack("window", (windows, off), open=opened, driving=lambda van: van.state)
'''


@pytest.fixture(scope="module")
def house(bare: Any) -> Any:
    bare.add("phone", "phone")
    for name, settings in MOVING.items():
        bare.add(name, "car", "car", "world", settings=settings)
    bare.add("parked", "car", "car", "world")
    pack = bare.folder / "window.py"
    pack.write_text(WINDOW)
    bare.add("van", "van", str(pack), policy='[[rule]]\nwho = ["*"]\nskills = ["*"]\nthen = "allow"\n')
    state = CarState(at=time.time(), charger=0.0, drive=Drive(kmh=60.0, way=["Munich", "Holzkirchen"]))
    assert state.values[vss.GEAR] == vss.PARK  # a broken gear sensor: no setting can say so
    kept = bare["liar"].state / "packs" / "car" / "car.json"
    kept.parent.mkdir(mode=0o700, parents=True)
    kept.write_text(json.dumps(state.model_dump(mode="json")))
    return bare.start()


@pytest.mark.parametrize("name", MOVING)
def test_nothing_dangerous_is_done_for_an_owner_while_the_car_moves_or_may_move(house: Any, name: str) -> None:
    car = house[name]
    until = time.monotonic() + 30
    while (told := car.call("car.state", name))["driving"] != "moving":  # a signal is stale two seconds after its last
        assert name == "stale"
        assert time.monotonic() < until
    if name == "liar":
        assert (told["gear"], told["speed_kmh"]) == ("P", 60.0)
    for skill, args in DANGEROUS:
        for device in (house["phone"], car):  # nor for whoever sits in it
            with pytest.raises(Denied) as refused:
                device.call(skill, name, **args)
            assert "not in a vehicle that is moving" in refused.value.why
    assert car.ask("consent.list")["open"] == []  # it is not even asked for
    assert not car.did()
    after = car.call("car.state", name)
    assert after["locked"] is True
    assert house["phone"].call("windows.set", name, percent=5)["driver"] == 5  # for air, as the law of the house has it


def test_a_parked_car_does_it_and_asks_a_person_first_where_the_policy_says_so(house: Any) -> None:
    phone, car = house["phone"], house["parked"]
    assert car.call("car.state", "parked")["driving"] == "parked"
    assert phone.call("windows.set", "parked", percent=20)["driver"] == 20
    assert phone.call("charge.port.open", "parked") == {"result": 1}
    plan = {"goal": "open", "steps": [{"id": "u", "skill": "doors.unlock", "on": "parked"}]}
    run = phone.ask("run", plan=plan, detach=True)["run"]["run"]
    asked = house.until(lambda: house.heard("phone", "consent.asked", skill="doors.unlock"), "a person is asked")[0]
    assert car.call("car.state", "parked")["locked"] is True
    phone.ask("consent.answer", id=asked.said["request"], answer="once")
    done = house.until(lambda: house.heard("phone", "run.done", run=run), "the run ends")[0]
    assert done.said["state"] == "done"
    assert car.call("car.state", "parked")["locked"] is False


@pytest.mark.anyio
async def test_what_waited_for_another_window_is_looked_at_again_when_it_begins(house: Any, turned: Any) -> None:
    van = house["van"]
    async with turned(house.let_in("friend", "tablet"), van) as node, anyio.create_task_group() as group:
        on_their_way = anyio.Event()

        async def first() -> None:
            await node.call("windows.set", {"percent": 80}, on="van", on_progress=lambda *_: on_their_way.set())

        async def second() -> None:
            with pytest.raises(Denied, match="moving"):
                await node.call("windows.set", {"percent": 90}, on="van")

        group.start_soon(first)
        await on_their_way.wait()
        group.start_soon(second)
        await anyio.lowlevel.checkpoint()
        await node.request(van.id, "slip.specs", {"digests": []}, anyio.current_time() + 20)  # it waits there by now
        await node.call("van.off", {}, on="van")
    assert van.did() == ["80"]
