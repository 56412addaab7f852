"""What a device learns of the energy of its skills reaches the others, on virtual time and a simulated battery."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from slipstream import testing
from slipstream.core.energy import J_PER_MWH
from slipstream.skills.packs.phone.sim import SOUND_MW, TRACKS

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def joules(m: testing.Mesh, skill: str) -> float | None:
    """What the hub knows of a skill's energy on the phone."""
    offer = m["hub"].members.get("phone").offer(skill)
    assert offer is not None
    return offer.joules


async def test_others_hear_the_authors_figure_first_and_then_what_the_battery_showed() -> None:
    track, seconds = "Brenner Pass", TRACKS["Brenner Pass"]
    drawn = seconds * SOUND_MW / 1000
    async with testing.mesh("hub", "phone") as m:
        assert joules(m, "media.play") == 20 * J_PER_MWH
        assert joules(m, "phone.battery") is None
        assert m["hub"].members.get("phone").resources.capacity == pytest.approx(19 * 3600)
        await anyio.sleep(600)
        for _ in range(2):
            await m.call("media.play", {"track": track}, on="phone", deadline=anyio.current_time() + 300)
        await anyio.sleep(60)
        assert joules(m, "media.play") == pytest.approx(drawn, rel=0.05)
        assert joules(m, "message.send") == 1 * J_PER_MWH
        await m.leave("phone")
        await m.restart("phone")
        await m.until(lambda: joules(m, "media.play") is not None)
        assert joules(m, "media.play") == pytest.approx(drawn, rel=0.05)


async def test_a_device_without_a_gauge_says_what_its_skills_authors_say() -> None:
    async with testing.mesh("phone", "hub") as m:
        await m.call("summary.text", {"facts": {"doors": 2}}, on="hub")
        assert m["hub"].members.me.resources.capacity is None
        assert all(offer.joules is None for offer in m["hub"].members.me.offers)
        assert m["hub"].invoker.energy is None
