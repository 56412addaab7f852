"""Learned costs by tables and hypothesis; the clock is an argument."""

from math import inf, nan
from statistics import median, quantiles

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.core.costs import AGE, ENOUGH, KEYS, PEERS, WINDOW, Costs, quantile
from slipstream.core.device import LinkQuality

amounts = st.floats(0, 1e6)
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def fed(*seconds: float, size: float | None = None) -> Costs:
    costs = Costs()
    for k, value in enumerate(seconds):
        costs.saw("a.b", "d", value, size, float(k))
    return costs


def test_what_was_never_seen_costs_what_its_author_guesses() -> None:
    costs = Costs()
    assert costs.duration("a.b", "d", 0.3) == 0.3
    assert costs.duration_quantile("a.b", "d", 0.95, 0.3) == 0.3
    assert costs.size("a.b", 100.0) == 100.0
    assert costs.link("p") == LinkQuality(None, None)


def test_the_guess_is_one_sample_while_there_are_few_and_nothing_later() -> None:
    assert fed(1.0).duration("a.b", "d", 3.0) == 2.0
    assert fed(1.0, 1.0).duration("a.b", "d", 3.0) == 1.0
    assert fed(*[1.0] * (ENOUGH - 1)).duration_quantile("a.b", "d", 1.0, 3.0) == 3.0
    assert fed(*[1.0] * ENOUGH).duration_quantile("a.b", "d", 1.0, 3.0) == 1.0


@unhurried
@given(st.lists(amounts, min_size=ENOUGH, max_size=3 * WINDOW))
def test_the_estimate_is_the_median_of_the_last_samples(values: list[float]) -> None:
    costs = fed(*values)
    assert costs.duration("a.b", "d", 9.0) == pytest.approx(median(values[-WINDOW:]))
    expected = quantiles(values[-WINDOW:], n=20, method="inclusive")[-1]
    assert costs.duration_quantile("a.b", "d", 0.95, 9.0) == pytest.approx(expected)


@unhurried
@given(st.lists(amounts, min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise_with_their_share_and_stay_among_the_values(values: list[float], a: float, b: float) -> None:
    values.sort()
    low, high = (quantile(values, q) for q in sorted((a, b)))
    slack = 1e-9 * values[-1]
    assert values[0] - slack <= low <= high + slack <= values[-1] + 2 * slack


def test_a_change_of_behaviour_is_followed_within_a_few_tens_of_samples() -> None:
    costs = fed(*[1.0] * 1000)
    for k in range(20):
        costs.saw("a.b", "d", 5.0, None, 1000.0 + k)
    assert costs.duration("a.b", "d", 1.0) == 5.0


def test_one_stall_moves_nothing() -> None:
    assert fed(*[1.0] * 20, 900.0).duration("a.b", "d", 1.0) == 1.0


def test_samples_of_another_day_give_way_to_one_of_today() -> None:
    costs = fed(*[1.0] * 20)
    costs.saw("a.b", "d", 5.0, None, AGE + 100.0)
    assert costs.duration("a.b", "d", 5.0) == 5.0


def test_sizes_are_of_the_skill_whichever_device_ran_it() -> None:
    costs = Costs()
    for k in range(ENOUGH):
        costs.saw("a.b", f"device {k}", 1.0, 200.0, float(k))
    costs.saw("a.b", "d", 1.0, None, 99.0)
    assert costs.size("a.b", 9.0) == 200.0


def test_round_trips_are_smoothed_as_tcp_does() -> None:
    costs = Costs()
    costs.saw_rtt("p", 0.008)
    costs.saw_rtt("p", 0.016)
    assert costs.link("p").rtt == pytest.approx(0.009)
    for _ in range(60):
        costs.saw_rtt("p", 0.1)
    assert costs.link("p").rtt == pytest.approx(0.1, rel=0.01)


@unhurried
@given(st.floats(1e4, 1e9), st.floats(0, 1), st.lists(st.floats(1e5, 1e8), min_size=1, max_size=40))
def test_bandwidth_is_found_whatever_the_latency(rate: float, rtt: float, sizes: list[float]) -> None:
    costs = Costs()
    costs.saw_rtt("p", rtt)
    for size in sizes:
        # far more time for the bytes than for the way, so that the floor on their share never acts
        costs.saw_transfer("p", size * 1000, size * 1000 / rate + rtt / 2)
    found = costs.link("p").bandwidth
    assert found == pytest.approx(rate, rel=1e-6)


def test_small_transfers_say_nothing_about_bandwidth() -> None:
    costs = Costs()
    costs.saw_transfer("p", 100, 0.5)
    assert costs.link("p").bandwidth is None


def test_a_slower_link_is_followed() -> None:
    costs = Costs()
    for _ in range(100):
        costs.saw_transfer("p", 1e6, 0.1)
    for _ in range(30):
        costs.saw_transfer("p", 1e6, 1.0)
    assert costs.link("p").bandwidth == pytest.approx(1e6, rel=0.1)


@pytest.mark.parametrize("value", [nan, inf, -1.0])
def test_a_sample_that_is_no_amount_is_refused_and_leaves_no_trace(value: float) -> None:
    costs = Costs()
    for wrong in (
        lambda: costs.saw("a.b", "d", value, None, 0.0),
        lambda: costs.saw("a.b", "d", 1.0, value, 0.0),
        lambda: costs.saw_rtt("p", value),
        lambda: costs.saw_transfer("p", value, 1.0),
        lambda: costs.saw_transfer("p", 1e6, value),
    ):
        with pytest.raises(ValueError, match="no finite number"):
            wrong()
    assert costs.to_wire() == Costs().to_wire()


def test_memory_is_bounded_and_the_least_recently_seen_goes_first() -> None:
    costs = Costs()
    for k in range(KEYS):
        costs.saw("a.b", f"d{k}", 1.0, None, 0.0)
    costs.saw("a.b", "d0", 1.0, None, 0.0)
    costs.saw("a.b", "new", 1.0, None, 0.0)
    assert costs.duration("a.b", "d1", 9.0) == 9.0
    assert costs.duration("a.b", "d0", 9.0) != 9.0
    for k in range(PEERS + 1):
        costs.saw_rtt(f"p{k}", 0.1)
    assert costs.link("p0").rtt is None
    assert costs.link("p1").rtt == 0.1


def test_nothing_is_kept_of_a_skill_that_was_forgotten() -> None:
    costs = Costs()
    for k in range(KEYS + 10):
        costs.saw(f"s{k}.x", "d", 1.0, None, 0.0)
    assert len(costs._by_skill) == KEYS
    assert not costs.learned("s0.x")


@unhurried
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("de"), amounts, st.none() | amounts), max_size=100))
def test_what_was_learned_survives_a_restart(samples: list[tuple[str, str, float, float | None]]) -> None:
    costs = Costs()
    for k, (skill, device, seconds, size) in enumerate(samples):
        costs.saw(skill, device, seconds, size, float(k))
        costs.saw_rtt(device, seconds)
        costs.saw_transfer(skill, size or 0.0, seconds)
    again = Costs.from_wire(msgpack.unpackb(msgpack.packb(costs.to_wire())))
    assert again.to_wire() == costs.to_wire()
    for key in "abcde":
        assert again.duration(key, "d", 1.0) == costs.duration(key, "d", 1.0)
        assert again.size(key, 1.0) == costs.size(key, 1.0)
        assert again.link(key) == costs.link(key)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"v": 2, "durations": [], "sizes": [], "links": []},
        {"v": 1, "durations": [["a"]], "sizes": [], "links": []},
        {"v": 1, "durations": [["a", "b", [[0, -1.0]]]], "sizes": [], "links": []},
        {"v": 1, "durations": [], "sizes": [], "links": [["p", "x", 0, 0]]},
    ],
)
def test_a_damaged_file_is_an_error_not_a_guess(data: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Costs.from_wire(data)
