"""Which device steps get that must share one: the quickest for all of them, and not another one for next to nothing."""

from __future__ import annotations

import pytest

from slipstream.core.costs import Costs
from slipstream.core.device import Device, Offer
from slipstream.core.errors import NoDevice
from slipstream.core.labels import Flows
from slipstream.core.placing import pins

FLOWS = Flows(together=[("make", "use")])
SKILLS = {"make": "photo.take", "use": "photo.size"}


def device(name: str, *seconds: float) -> Device:
    offers = zip(SKILLS.values(), seconds, strict=False)
    return Device(name, name, name, offers=tuple(Offer(skill, "", "read", seconds=took) for skill, took in offers))


@pytest.mark.parametrize(
    ("car", "placed", "held", "where"),
    [
        ((0.5, 0.4), {}, {}, "car"),  # 0.9 s in all, and 1 s on the phone
        ((0.5, 0.6), {}, {}, "phone"),  # of equals the first
        ((0.5, 0.49), {"make": "phone", "use": "phone"}, {}, "phone"),
        ((0.5, 0.39), {"make": "phone", "use": "phone"}, {}, "car"),
        ((0.6, 0.49), {"make": "car", "use": "car"}, {}, "car"),
        ((9.0, 9.0), {"use": "car"}, {"make": "car"}, "car"),
        ((0.1, 0.1), {"use": "hub"}, {"make": "phone"}, "phone"),
        ((0.5, 0.49), {"make": "hub", "use": "hub"}, {}, "car"),  # the hub is not here any more
    ],
)
def test_steps_that_share_a_device_stay_on_it_unless_another_is_quicker_by_a_margin(
    car: tuple[float, float], placed: dict[str, str], held: dict[str, str], where: str
) -> None:
    devices = [device("phone", 0.5, 0.5), device("car", *car)]
    assert pins(FLOWS, "phone", SKILLS, held, devices, Costs(), placed) == {"make": where, "use": where}


def test_steps_that_no_device_can_run_together_are_named() -> None:
    with pytest.raises(NoDevice, match=r"photo\.size and photo\.take together"):
        pins(FLOWS, "phone", SKILLS, {}, [device("phone", 0.5)], Costs(), {"make": "phone"})
