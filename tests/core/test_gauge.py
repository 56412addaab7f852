"""What a device announces of its battery and load, and how seldom."""

from slipstream.core.device import Resources
from slipstream.core.gauge import EVERY, STEP, Gauge


def test_the_first_pack_that_knows_a_battery_is_believed() -> None:
    gauge = Gauge(Resources(slots=2), [dict, lambda: {"battery": 0.5, "charging": True}, lambda: {"battery": 0.1}])
    seen = gauge.look(0.0)
    assert (seen.battery, seen.charging, seen.slots) == (0.5, True, 2)


def test_it_is_read_again_only_when_it_is_time_and_told_only_when_it_moved() -> None:
    charge = [0.80]
    gauge = Gauge(Resources(), [lambda: {"battery": charge[0], "charging": False}])
    first = gauge.look(0.0)
    charge[0] = 0.2
    assert gauge.look(EVERY / 2) is first
    assert gauge.look(EVERY).battery == 0.2
    charge[0] = 0.2 - STEP / 2
    assert gauge.look(2 * EVERY).battery == 0.2


def test_a_device_without_a_battery_announces_none() -> None:
    assert Gauge(Resources(), [dict]).look(0.0).battery is None
