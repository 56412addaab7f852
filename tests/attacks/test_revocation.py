"""A device that was thrown out is out everywhere: at once where the news reaches, on healing where it could not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from slipstream.core.authority import Authority, admit_here
from slipstream.core.errors import SlipError
from slipstream.core.trust import Role

pytestmark = pytest.mark.anyio

OPEN = '[[rule]]\nwho = ["*"]\nskills = ["*"]\nthen = "allow"\n'
SECOND = 1.0
"""From the moment at which a revoke reaches a device until it has no link any more with whom it is about."""


@pytest.fixture(scope="module")
def house(bare: Any) -> Any:
    bare.add("phone", "phone")
    for name, role in (("tablet", Role.OWNER), ("car", Role.MEMBER), ("hub", Role.MEMBER), ("watch", Role.MEMBER)):
        bare.add(name, name, "world", role=role, policy=OPEN)
    return bare.start()


def revoke(house: Any, name: str) -> float:
    """Throw a device out at the phone, which everybody hears of but who is down; when the phone knew, Unix seconds."""
    out = house[name].id
    Authority.load(house["phone"].state).revoke(out)
    house["phone"].ask("roster.reload")
    (told,) = house.until(lambda: house.heard("phone", "trust.changed", revoked=[out]), "the phone knows")
    return float(told.at)


async def shut_out(house: Any, turned: Any, state: Path, name: str) -> None:
    """See that a device with that state gets no answer and no link."""
    async with turned(state) as out:
        before = len(house.heard(name, "link.up", device=out.id))
        with suppress(SlipError):  # its own end may be up for a moment: the other side's goodbye is on its way
            await out.connect(house[name].id, [house[name].address])
        with pytest.raises(SlipError):
            await out.request(house[name].id, "slip.specs", {"digests": []}, anyio.current_time() + 20)
        house.hear()
        assert len(house.heard(name, "link.up", device=out.id)) == before


async def test_a_revoked_device_is_cut_off_everywhere_within_a_second(
    house: Any, turned: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = house["hub"]
    assert hub.call("world.look", "car", at="the car") == {"result": "seen the car"}
    began = revoke(house, "hub")
    for name in ("phone", "tablet", "car", "watch"):
        house.until(lambda name=name: house.heard(name, "trust.changed", revoked=[hub.id]), f"{name} hears of it")
        house.until(lambda name=name: not house.linked(name, "hub"), f"{name} cuts the hub off")
        (news,) = house.heard(name, "trust.changed", revoked=[hub.id])
        down = house.heard(name, "link.down", device=hub.id)[-1]
        with capsys.disabled():
            print(f"\n  {name}: {1000 * (down.at - began):.0f} ms after the owner, "
                  f"{1000 * (down.at - news.at):.1f} ms after it checked the signature")  # fmt: skip
        assert down.at - began < SECOND
    with pytest.raises(SlipError):
        hub.call("world.send", "car", what="late")
    assert not house["car"].did()
    hub.end()
    await shut_out(house, turned, hub.state, "car")  # its key dials again, by hand


async def test_what_a_revoked_owner_signs_counts_nowhere_and_who_was_away_learns_it_when_it_is_back(
    house: Any, turned: Any
) -> None:
    tablet, car = house["tablet"], house["car"]
    early = house.let_in("early", "tablet")
    car.kill()
    revoke(house, "tablet")
    house.until(lambda: house.heard("watch", "trust.changed", revoked=[tablet.id]), "the watch knows")
    late = house.folder / "late" / "state"
    late.parent.mkdir(mode=0o700)
    admit_here(tablet.state, late, "late", "tablet", role=Role.OWNER)  # a thief with the tablet signs himself in
    car.start()
    house.until(lambda: house.heard("car", "trust.changed", revoked=[tablet.id]), "the car learns it")
    house.until(lambda: house.linked("car", "phone"), "the car is back")
    with pytest.raises(SlipError):
        tablet.call("world.send", "car", what="late")
    tablet.end()
    for name in ("car", "watch", "phone"):
        await shut_out(house, turned, late, name)
    async with turned(early, car) as friend:  # whom the phone let in while the car was down is believed
        assert await friend.call("world.look", {"at": "it"}, on="car") == {"result": "seen it"}
    assert not car.did()
