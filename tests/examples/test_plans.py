"""Every example runs: over devices in memory, on virtual time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from slipstream import testing
from slipstream.core import plan as plans
from slipstream.core.errors import UsageError
from slipstream.core.execute import INLINE_LIMIT
from slipstream.skills import load

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def plan_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EXAMPLES / name / "plan.json").read_text(encoding="utf-8"))
    return found


async def test_the_photo_of_the_parking_place_goes_straight_from_the_phone_to_the_hub() -> None:
    phone = load(["phone", str(EXAMPLES / "third_party" / "slipstream_parking.py")])
    hub = load(["hub", str(EXAMPLES / "parking" / "album.py")])
    async with testing.mesh("car", "phone", "hub", packs={"phone": phone, "hub": hub}) as m:
        run = await m.run(plan_of("parking"))
        assert run.state == "done", run.error
        assert {s: state.device for s, state in run.steps.items()} == {
            "place": "phone", "photo": "phone", "kept": "hub", "remembered": "phone", "who": "phone",
            "words": run.steps["words"].device, "message": "phone",
        }  # fmt: skip
        photo = run.steps["photo"]
        assert photo.size > INLINE_LIMIT
        assert not photo.has_value, "the owner of the run never held the photo"
        assert run.output["told"] == "Anna Lena Brandl"
        assert run.output["photo"] in run.output["text"]
        kept = await m.call("album.keep", {"png": (await m.call("camera.take", {"size": 16}))["png"]})
        assert kept["device"] == "hub"


async def test_the_album_refuses_what_is_no_picture() -> None:
    hub = load([str(EXAMPLES / "parking" / "album.py")])
    async with testing.mesh("car", "hub", packs={"car": load(["phone"]), "hub": hub}) as m:
        with pytest.raises(UsageError, match="no PNG"):
            await m.call("album.keep", {"png": b"GIF89a"})


async def test_the_morning_runs_on_all_three_devices() -> None:
    async with testing.mesh("phone", "car", "hub") as m:
        run = await m.run(plan_of("commute"))
        assert run.state == "done", run.error
        assert {s.device for s in run.steps.values()} == {"phone", "car", "hub"}
        assert "next" in run.output["text"].lower()
        warm = run.steps["warm"]
        cold = run.steps["weather"].value["celsius"] < run.plan.inputs["cold_below"]
        assert warm.state == ("done" if cold else "skipped")
        lights = await m.call("home.lights.get")
        assert not any(light["on"] for light in lights["lights"])


@pytest.mark.parametrize("name", ["trip", "commute"])
async def test_the_plan_fits_the_schemas_of_the_packs(name: str) -> None:
    async with testing.mesh("phone", "car", "hub") as m:
        await m["phone"].runs.check(plans.load(plan_of(name)))


async def test_the_trip_goes_on_without_the_hub_that_was_killed_in_the_middle() -> None:
    async with testing.mesh("phone", "car", "hub") as m:
        run = await m["phone"].start(plans.load(plan_of("trip")))
        at_home = [run.steps[step] for step in ("garage", "close", "heating", "lights")]
        await m.until(lambda: all(s.final for s in at_home))
        assert m["phone"].name_of(run.steps["report"].device) == "hub"
        assert run.steps["report"].state == "armed"
        await m.crash("hub")
        await run.ended.wait()
        assert run.state == "done", run.error
        assert run.steps["report"].device in ("phone", "car")
        assert run.steps["report"].epoch == 2
        assert run.output["stops"], "it arrives with more than it could without charging"
        assert "told Anna Lena Brandl" in run.output["text"]


async def test_the_trip_leaves_the_house_as_the_plan_says() -> None:
    async with testing.mesh("phone", "car", "hub") as m:
        run = await m.run(plan_of("trip"))
        assert run.state == "done", run.error
        assert run.steps["close"].state == "skipped", "the garage was closed already"
        cold = run.steps["weather"].value["celsius"] < run.plan.inputs["cold_below"]
        assert run.steps["cabin"].state == ("done" if cold else "skipped")
        assert (await m.call("home.heating.get"))["target"] == run.plan.inputs["heat_to"]
        assert (await m.call("nav.set", {"destination": ""}))["previous"] == "Innsbruck"


def test_the_third_party_package_passes_its_own_test() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"], cwd=EXAMPLES / "third_party", text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
