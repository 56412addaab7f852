"""What a device announces of its battery and load, and how seldom."""

from slipstream.core.device import Resources
from slipstream.core.gauge import CLOSELY, EVERY, STEP, Gauge


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


def test_of_the_battery_that_counts_its_capacity_and_the_drain_of_no_other_meter_are_taken() -> None:
    battery = {"battery": 0.5, "charging": True, "capacity": 54_000.0}
    gauge = Gauge(Resources(), [lambda: battery, lambda: {"drain": ("other", 1.0), "radio": "cellular"}])
    seen = gauge.look(0.0)
    assert (seen.capacity, seen.radio, gauge.energy.source) == (54_000.0, "cellular", "")
    battery |= {"charging": False, "drain": ("phone", 2.0)}
    gauge.look(EVERY)
    assert gauge.energy.source == "phone"


def test_what_was_used_so_far_is_the_drain_that_is_learned_from() -> None:
    used = [1.0]
    gauge = Gauge(
        Resources(), [dict, lambda: {"battery": 0.5, "drain": ("phone", used[0])}, lambda: {"drain": ("x", 9.0)}]
    )
    assert gauge.joules() == 1.0
    used[0] = 4.0
    assert gauge.joules() == 4.0
    assert Gauge(Resources(), [dict]).joules() is None


def test_a_drain_without_a_battery_is_learned_from() -> None:
    gauge = Gauge(Resources(), [dict, lambda: {"drain": ("processors", 1.0)}])
    assert gauge.look(0.0).battery is None
    assert gauge.energy.source == "processors"


def test_it_looks_more_closely_while_skills_run() -> None:
    looks = []
    gauge = Gauge(Resources(), [lambda: looks.append(1) or {}])
    gauge.look(0.0)
    gauge.look(CLOSELY)
    assert len(looks) == 1
    gauge.energy.began("x.y", CLOSELY)
    gauge.look(CLOSELY)
    gauge.look(CLOSELY + CLOSELY / 2)
    assert len(looks) == 2


def test_what_skills_take_is_told_once_it_is_learned() -> None:
    drawn = [0.0]
    gauge = Gauge(Resources(), [lambda: {"drain": ("counter", drawn[0])}])
    now, told = 0.0, []
    for busy in [False] * 12 + [True] * 12:
        if busy:
            gauge.energy.began("x.y", now)
        now += EVERY
        drawn[0] += EVERY * (30.0 if busy else 10.0)
        if busy:
            gauge.energy.ended("x.y", EVERY, now)
        gauge.look(now)
        told.append(gauge.learned)
    assert told.count(True) == 1
    assert abs(gauge.energy.told["x.y"] - 20.0 * EVERY) < 1.0
