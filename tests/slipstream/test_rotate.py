"""A new key for a device: an owner gives itself one, a member is given one by an owner over its old link."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipstream.cli.throwaway import Devices, Heard
from slipstream.control import ask
from slipstream.core.audit import audit_key
from slipstream.core.audit_check import verify
from slipstream.core.identity import Identity


def slip(*words: str) -> Any:
    done = subprocess.run([sys.executable, "-m", "slipstream", *words, "--json"], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def wait(devices: Devices, at: str, kind: str, device: str = "") -> None:
    """Until an event of that kind was heard of there."""

    def heard(h: Heard) -> bool:
        return h.device == at and h.event.get("kind") == kind and device in ("", h.event.get("device"))

    devices.wait(heard, 30, f"{kind} on {at}")


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[Devices]:
    with Devices(tmp_path) as found:
        yield found


def test_a_member_is_given_a_new_key_and_its_old_one_is_out(devices: Devices) -> None:
    phone, car = devices.start("phone", "phone", ["phone"]), devices.start("car", "car", ["car"])
    old = Identity.load(car.state).id
    wait(devices, "car", "link.up")
    told = slip("pair", "rotate", "--state", str(car.state))
    assert told["revoked"] == old
    assert Identity.load(car.state).id == told["device"] != old
    wait(devices, "phone", "link.down", old)
    ids = {m["id"] for m in slip("pair", "roster", "--state", str(phone.state))["members"]}
    assert old not in ids
    assert told["device"] in ids
    car.killed = True  # it ends because we want it to
    ask(car.state, "stop")
    car.process.wait(timeout=20)
    # the same folder comes up as the new device, with its log of what it did whole
    again = subprocess.Popen([sys.executable, "-m", "slipstream", "up", "--state", str(car.state), "--port", "0",
                              "--host", "127.0.0.1", "--interface", "127.0.0.1", "--name", "car"],
                             stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        wait(devices, "phone", "link.up", told["device"])
    finally:
        again.terminate()
        again.wait(timeout=20)
    assert verify(car.state, audit_key(car.state)).ok


def test_an_owner_gives_itself_a_new_key(devices: Devices) -> None:
    phone, car = devices.start("phone", "phone", ["phone"]), devices.start("car", "car", ["car"])
    old = Identity.load(phone.state).id
    wait(devices, "car", "link.up")
    told = slip("pair", "rotate", "--state", str(phone.state))
    wait(devices, "car", "trust.changed")
    ids = {m["id"] for m in slip("pair", "roster", "--state", str(car.state))["members"]}
    assert old not in ids
    assert told["device"] in ids
