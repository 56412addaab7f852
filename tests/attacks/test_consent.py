"""A question outlives the device that asks it, and what was approved happens once."""

from __future__ import annotations

from typing import Any

import pytest

from slipstream.core.audit import LOG, audit_key
from slipstream.core.audit_check import read, verify
from slipstream.core.errors import UsageError

OPEN = '[[rule]]\nwho = ["*"]\nskills = ["*"]\nthen = "allow"\n'
PLAN = {"goal": "move it", "steps": [{"id": "m", "skill": "world.move", "args": {"what": "moved"}, "on": "car"}]}


@pytest.fixture(scope="module")
def house(bare: Any) -> Any:
    bare.add("phone", "phone")
    bare.add("car", "car", "world", policy=OPEN)
    return bare.start()


def test_a_question_is_still_open_after_kill_9_and_its_answer_lets_it_happen_once(house: Any) -> None:
    phone, car = house["phone"], house["car"]
    run = phone.ask("run", plan=PLAN, detach=True)["run"]["run"]
    (asked,) = house.until(lambda: house.heard("car", "consent.asked", skill="world.move"), "the car asks")
    request = asked.said["request"]
    house.until(lambda: house.heard("phone", "consent.asked", request=request), "a person is asked")
    assert [q["id"] for q in phone.ask("consent.list")["open"]] == [request]
    car.kill()
    car.start()
    assert [q["id"] for q in car.ask("consent.list")["open"]] == [request]
    house.until(lambda: house.linked("car", "phone") and house.linked("phone", "car"), "the car is back")
    assert not car.did()
    assert phone.ask("consent.answer", id=request, answer="once")["answer"] == "once"
    (done,) = house.until(lambda: house.heard("phone", "run.done", run=run), "the run ends")
    assert done.said["state"] == "done"
    assert car.did() == ["moved"]
    with pytest.raises(UsageError, match="answered already"):
        phone.ask("consent.answer", id=request, answer="once")
    assert car.did() == ["moved"]


def test_what_was_decided_is_in_the_audit_log_and_a_changed_byte_of_it_is_found(house: Any) -> None:
    car = house["car"]
    car.end()
    key = audit_key(car.state)
    assert verify(car.state, key).ok
    what = [line["what"] for line in read(car.state) if line.get("skill") == "world.move"]
    assert what[0] == "asked"
    assert what[-1] == "effect"
    assert what.count("effect") == 1
    log = car.state / LOG
    as_it_was = log.read_bytes()
    at = as_it_was.index(b'"effect"')
    log.write_bytes(as_it_was[:at] + b'"affect"' + as_it_was[at + 8 :])
    changed = verify(car.state, key)
    assert not changed.ok
    assert changed.line == as_it_was[:at].count(b"\n") + 1
    log.write_bytes(as_it_was)
    assert verify(car.state, key).ok
