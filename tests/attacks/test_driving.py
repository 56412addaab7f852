"""A car at 60 km/h, one whose speed is stale, one whose gear says park while it moves, and one that is parked."""

from __future__ import annotations

import json
import time
from typing import Any

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


@pytest.fixture(scope="module")
def house(bare: Any) -> Any:
    bare.add("phone", "phone")
    for name, settings in MOVING.items():
        bare.add(name, "car", "car", "world", settings=settings)
    bare.add("parked", "car", "car", "world")
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
