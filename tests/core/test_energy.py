"""What a joule is worth, and joules per skill, learned from gauges of every kind on a clock that is an argument."""

from collections.abc import Callable
from random import Random

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.core.costs import ENOUGH
from slipstream.core.device import Resources
from slipstream.core.energy import CAPACITY, EMPTY, MAINS, RADIOS, WH, Drain, Meter, price, radio

charges = st.floats(0, 1)
KINDS = st.sampled_from(["phone", "car", "hub", "watch", "computer"])


# ---- what a joule is worth


@pytest.mark.parametrize(
    ("resources", "kind", "joules"),
    [
        (Resources(battery=1.0), "phone", CAPACITY["phone"]),
        (Resources(battery=0.25), "phone", CAPACITY["phone"] / 4),
        (Resources(battery=0.5, capacity=10 * WH), "phone", 5 * WH),
        (Resources(battery=1.0), "car", CAPACITY["car"]),
        (Resources(), "phone", CAPACITY["phone"] / 2),
        (Resources(), "hub", MAINS),
        (Resources(battery=0.1, charging=True), "phone", MAINS),
        (Resources(battery=0.0), "phone", CAPACITY["phone"] * EMPTY),
        (Resources(battery=1.0), "robot", CAPACITY["phone"]),
    ],
)
def test_a_joule_is_worth_the_part_that_it_takes_of_what_is_left(
    resources: Resources, kind: str, joules: float
) -> None:
    assert price(resources, kind) == pytest.approx(1 / joules)


@given(charges, charges, KINDS, st.none() | st.floats(1, 1e8))
def test_a_joule_gets_no_cheaper_as_the_battery_empties_and_never_as_cheap_as_the_mains(
    a: float, b: float, kind: str, capacity: float | None
) -> None:
    less, more = sorted((a, b))
    fuller = price(Resources(battery=more, capacity=capacity), kind)
    assert price(Resources(battery=less, capacity=capacity), kind) >= fuller > price(Resources(), "hub") > 0
    assert price(Resources(battery=less, charging=True, capacity=capacity), kind) == price(Resources(), "hub")


@given(st.floats(), st.floats(), st.text(max_size=9), st.text(max_size=9))
def test_whatever_a_device_announces_its_joule_has_a_price(battery: float, capacity: float, kind: str, of: str) -> None:
    told = Resources(battery=battery, capacity=capacity, radio=of)
    assert 0 < price(told, kind) <= 1 / EMPTY
    assert radio(told) in RADIOS.values()


# ---- joules per skill


class Bench:
    """A device that draws what a test says, and a gauge that shows it in steps."""

    def __init__(self, step: float, every: float, idle: Callable[[], float]) -> None:
        self.meter, self.step, self.every, self.idle = Meter(), step, every, idle
        self.now = self.drawn = 0.0

    def run(self, seconds: float, *skills: str, watts: float = 0.0) -> None:
        """Let some time pass in which skills run, all together for `watts` above the idle drain."""
        for skill in skills:
            self.meter.began(skill, self.now)
        end = self.now + seconds
        while self.now < end:
            at = min(end, (self.now // self.every + 1) * self.every)
            self.drawn += (at - self.now) * (self.idle() + watts)
            self.now = at
            if at % self.every == 0:
                self.meter.read(Drain("test", self.drawn // self.step * self.step), at)
        for skill in skills:
            self.meter.ended(skill, seconds, self.now)


def fine(seed: int = 1) -> Bench:
    """A counter of microjoules, read every 5 s, of a machine that draws 10 W, give or take half a watt."""
    draw = Random(seed)
    return Bench(1e-6, 5.0, lambda: draw.gauss(10.0, 0.5))


def coarse() -> Bench:
    """A phone of 15 Wh that draws a watt and shows percents, read every 30 s."""
    return Bench(540.0, 30.0, lambda: 1.0)


def works(bench: Bench, watts: float) -> None:
    """Twenty times ten seconds of work, one right after the other."""
    for _ in range(20):
        bench.run(10.0, "x.work", watts=watts)


def test_a_skill_costs_what_the_gauge_shows_above_the_idle_drain_for_as_long_as_it_runs() -> None:
    bench = fine()
    bench.run(120.0)
    for _ in range(20):
        bench.run(2.0, "x.work", watts=20.0)
        bench.run(8.0)
    assert bench.meter.joules("x.work") == pytest.approx(40.0, rel=0.1)
    assert bench.meter.told == {"x.work": pytest.approx(40.0, rel=0.3)}


def test_a_gauge_of_percents_tells_what_runs_for_minutes() -> None:
    bench = coarse()
    bench.run(3 * 3600.0)
    for _ in range(8 * ENOUGH):
        bench.run(600.0, "x.long", watts=3.0)
        bench.run(60.0)
    assert bench.meter.joules("x.long") == pytest.approx(1800.0, rel=0.15)


def test_what_is_below_the_resolution_of_the_gauge_is_not_learned() -> None:
    bench = coarse()
    bench.run(3 * 3600.0)
    for _ in range(400):
        bench.run(2.0, "x.short", watts=3.0)
        bench.run(58.0)
    assert bench.meter.joules("x.short") is None


def test_noise_does_not_become_a_cost() -> None:
    costs = []
    for seed in range(20):
        bench = fine(seed)
        bench.run(300.0)
        for _ in range(40):
            bench.run(2.0, "x.nothing")
            bench.run(8.0)
        costs.append(bench.meter.joules("x.nothing"))
    assert costs.count(None) >= 18
    assert all(cost is None or 0 < cost < 1.0 for cost in costs)  # of the 20 J that the machine draws meanwhile


def test_skills_that_only_ever_run_together_are_not_told_apart_and_those_that_run_alone_are() -> None:
    bench = fine()
    bench.run(120.0)
    for _ in range(20):
        bench.run(10.0, "x.a", "x.b", watts=30.0)
    assert bench.meter.told == {}
    for _ in range(20):
        bench.run(10.0, "x.a", watts=20.0)
    assert bench.meter.joules("x.a") == pytest.approx(200.0, rel=0.1)
    assert bench.meter.joules("x.b") is None


def test_nothing_is_learned_before_the_idle_drain_is_known() -> None:
    bench = fine()
    for _ in range(50):
        bench.run(10.0, "x.work", watts=20.0)
    assert bench.meter.told == {}


def test_few_samples_are_not_told() -> None:
    bench = fine()
    bench.run(120.0)
    bench.run(5.0 * (ENOUGH - 1), "x.work", watts=20.0)
    assert bench.meter.told == {}
    bench.run(5.0, "x.work", watts=20.0)
    assert bench.meter.told != {}


@pytest.mark.parametrize("jump", [1e4, -1e4], ids=["while the gauge is silent", "between two readings"])
def test_no_window_spans_a_charge(jump: float) -> None:
    bench = fine()
    bench.run(120.0)
    for _ in range(3 * ENOUGH):
        bench.run(12.0, "x.work", watts=20.0)
        if jump > 0:
            bench.meter.read(None, bench.now)
        bench.drawn += jump
        bench.run(18.0)
    learned = bench.meter.to_wire()
    assert all(8.0 < watts < 12.0 for watts in learned["idle"])
    ((_, watts, _),) = learned["skills"]
    assert len(watts) >= ENOUGH
    assert all(15.0 < value < 25.0 for value in watts)


def test_what_a_coarse_gauge_showed_before_it_moved_says_nothing() -> None:
    bench = coarse()
    bench.drawn = 500.0  # it will move soon, as if 540 J had been drawn since it was first read
    bench.run(3 * 3600.0)
    assert bench.meter.to_wire()["idle"]
    assert all(0.9 < watts < 1.1 for watts in bench.meter.to_wire()["idle"])


def test_what_one_gauge_taught_is_forgotten_when_another_takes_its_place() -> None:
    bench = fine()
    bench.run(120.0)
    works(bench, 20.0)
    assert bench.meter.told
    bench.meter.read(Drain("other", 0.0), bench.now)
    assert not bench.meter.told
    assert bench.meter.joules("x.work") is None


def test_without_a_gauge_nothing_is_measured() -> None:
    meter = Meter()
    for k in range(50):
        meter.began("x.work", float(k))
        assert not meter.read(None, k + 0.5)
        meter.ended("x.work", 1.0, k + 1.0)
    assert (meter.source, meter.told, meter.running) == ("", {}, 0)


def test_a_figure_is_told_anew_only_when_it_moved() -> None:
    bench = fine()
    bench.run(120.0)
    works(bench, 20.0)
    told = dict(bench.meter.told)
    assert told
    works(bench, 22.0)
    assert bench.meter.told == told
    works(bench, 60.0)
    assert bench.meter.told["x.work"] > 2 * told["x.work"]


def test_what_was_learned_survives_a_restart() -> None:
    bench = fine()
    bench.run(120.0)
    works(bench, 20.0)
    again = Meter.from_wire(msgpack.unpackb(msgpack.packb(bench.meter.to_wire())), 0.0)
    assert again.to_wire() == bench.meter.to_wire()
    assert again.joules("x.work") == bench.meter.joules("x.work")
    assert again.told


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"v": 2, "source": "", "idle": [], "skills": []},
        {"v": 1, "source": "", "idle": ["x"], "skills": []},
        {"v": 1, "source": "", "idle": [float("nan")], "skills": []},
        {"v": 1, "source": "", "idle": [], "skills": [["a"]]},
    ],
)
def test_damaged_records_are_an_error_not_a_guess(data: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Meter.from_wire(data, 0.0)
