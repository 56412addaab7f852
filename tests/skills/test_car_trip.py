"""The map and the trips on it: the fastest ones, and never below the reserve."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.core.errors import UsageError
from slipstream.skills.packs.car.physics import Car, charge_seconds
from slipstream.skills.packs.car.roads import PLACES, ROADS, Road, distance, fastest, find, heading, road, seconds_to
from slipstream.skills.packs.car.trip import (
    STOP_SECONDS,
    WARM_PACK,
    Conditions,
    Trip,
    energy,
    least_soc,
    outside_at,
    plan,
)

CAR = Car()
MILD = Conditions()


def go(a: str, b: str, soc: float, conditions: Conditions = MILD) -> Trip:
    trip = plan(CAR, PLACES[a], PLACES[b], soc, conditions)
    assert trip is not None
    return trip


def test_every_road_is_longer_than_the_way_a_bird_flies_and_leads_back() -> None:
    for name, roads in ROADS.items():
        assert roads, name
        for way in roads:
            straight = distance(way.origin, way.destination.latitude, way.destination.longitude)
            assert straight <= way.km < 1.75 * straight
            assert road(way.destination.name, name).grade == -way.grade
            assert abs(way.grade) < 0.06


def test_every_place_can_be_reached_from_every_other() -> None:
    for name in PLACES:
        assert set(seconds_to(name)) == set(PLACES)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("Innsbruck, Innrain 52", "Innsbruck"), ("bozen", "Bolzano"), ("zum Hotel in MÜNCHEN", "Munich"),
        ("Sankt Anton", "Sankt Anton"), ("St. Gallen", "Sankt Gallen"), ("47.2692, 11.4041", "Innsbruck"),
        ("St. Anton am Arlberg", "Sankt Anton"),
    ],
)  # fmt: skip
def test_a_place_is_found_in_what_people_write(text: str, place: str) -> None:
    assert find(text).name == place


def test_a_place_that_is_not_on_the_map_names_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="not on the simulator's map") as unknown:
        find("Insbruck")
    assert unknown.value.hint == "did you mean Innsbruck?"
    with pytest.raises(UsageError, match="no road") as far:
        find("40.4, -3.7")
    assert "km away" in far.value.why


def test_south_is_south() -> None:
    assert heading(PLACES["Munich"], PLACES["Holzkirchen"]) == pytest.approx(162, abs=3)
    assert heading(PLACES["Brenner"], PLACES["Matrei"]) == pytest.approx(343, abs=3)


def test_the_fastest_way_is_no_slower_than_any_neighbours_way() -> None:
    way = fastest("Munich", "Bolzano")
    assert way[:3] == ["Munich", "Holzkirchen", "Irschenberg"]
    assert way[-3:] == ["Brixen", "Klausen", "Bolzano"]
    left = seconds_to("Bolzano")
    for name in way[:-1]:
        assert left[name] == pytest.approx(min(r.seconds + left[r.destination.name] for r in ROADS[name]))


def test_a_short_trip_needs_no_stop_and_a_long_one_charges_where_it_is_fast() -> None:
    short = go("Munich", "Innsbruck", 0.62)
    assert short.stops == ()
    assert short.seconds == pytest.approx(seconds_to("Innsbruck")["Munich"])
    long = go("Berlin", "Venice", 0.9)
    assert 3 <= len(long.stops) <= 6
    assert all(stop.place.power >= 300 for stop in long.stops)
    assert all(stop.leave < 0.85 for stop in long.stops)


def test_the_brenner_costs_more_on_the_way_up_than_on_the_way_down() -> None:
    up, down = road("Matrei", "Brenner"), road("Brenner", "Matrei")
    assert energy(CAR, up, MILD) > 3 * abs(energy(CAR, down, MILD))
    assert outside_at(10, 1500) == pytest.approx(3.5)


def test_winter_needs_more_energy_and_more_time_than_summer() -> None:
    summer = go("Munich", "Verona", 0.8)
    winter = go("Munich", "Verona", 0.8, Conditions(outside=-5, pack=-5))
    assert sum(leg.energy for leg in winter.legs) > 1.15 * sum(leg.energy for leg in summer.legs)
    assert winter.seconds > summer.seconds


def test_charging_where_it_pays_beats_charging_as_soon_as_possible() -> None:
    """Against every plan that charges once, at any one place, by any amount: the search is at least as fast."""
    best = go("Munich", "Bolzano", 0.5)
    way = fastest("Munich", "Bolzano")
    seconds = seconds_to("Bolzano")["Munich"]
    warming = CAR.pack_heat * (WARM_PACK - MILD.pack) / 3600 / CAR.capacity
    times = []
    for at in way:
        if not PLACES[at].power:
            continue
        for percent in range(11, 101):
            soc, ok, total = 0.5, True, seconds
            for name, following in [(None, way[0]), *pairwise(way)]:
                if name:
                    soc = min(1.0, soc - energy(CAR, road(name, following), MILD) / CAR.capacity)
                    ok = ok and soc >= MILD.reserve
                if following == at:
                    soc -= warming
                    ok = ok and MILD.reserve <= soc < percent / 100
                    if ok:
                        total += STOP_SECONDS + charge_seconds(CAR, soc, percent / 100, WARM_PACK, PLACES[at].power)
                        soc = percent / 100
            if ok:
                times.append(total)
    assert times
    # it charges in steps of two percent: at most one of them is more than it needed
    assert best.seconds <= min(times) + 40


def test_a_trip_that_begins_on_the_road_goes_on_at_the_next_place() -> None:
    half = Road(PLACES["Munich"], PLACES["Holzkirchen"], 15.0, 105.0)
    trip = plan(CAR, half.destination, PLACES["Innsbruck"], 0.6, MILD, half)
    assert trip is not None
    assert trip.legs[0].places[0] == "Holzkirchen"
    whole = go("Munich", "Innsbruck", 0.6)
    assert trip.legs[0].km == pytest.approx(whole.legs[0].km - 16)


def test_the_least_charge_is_enough_and_less_is_not() -> None:
    need = least_soc(CAR, PLACES["Reschen"], PLACES["Berlin"], MILD, None)
    assert need is not None
    assert plan(CAR, PLACES["Reschen"], PLACES["Berlin"], need, MILD) is not None
    assert plan(CAR, PLACES["Reschen"], PLACES["Berlin"], need - 0.05, MILD) is None
    assert least_soc(CAR, PLACES["Hof"], PLACES["Berlin"], Conditions(outside=-20, reserve=0.5), None) is None


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(PLACES)), st.sampled_from(sorted(PLACES)), st.floats(0.1, 1), st.floats(0, 0.3),
    st.floats(-20, 38),
)  # fmt: skip
def test_a_trip_never_falls_below_its_reserve_and_its_legs_add_up(
    a: str, b: str, soc: float, reserve: float, outside: float
) -> None:
    conditions = Conditions(outside=outside, pack=outside, reserve=reserve)
    trip = plan(CAR, PLACES[a], PLACES[b], soc, conditions)
    if trip is None:
        # only a car that cannot reach the next charger, or a full one that cannot reach it either, is turned down
        need = least_soc(CAR, PLACES[a], PLACES[b], conditions, None)
        assert need is None or need > soc - 0.05
        return
    charge, place = soc, a
    assert len(trip.legs) == len(trip.stops) + 1
    for n, leg in enumerate(trip.legs):
        before = sum(energy(CAR, road(x, y), conditions) for x, y in pairwise(leg.places))
        for x, y in pairwise(leg.places):
            charge = min(1.0, charge - energy(CAR, road(x, y), conditions) / CAR.capacity)
            assert charge >= reserve - 1e-6
        assert leg.places[0] == place
        assert leg.energy >= before - 1e-9
        if n < len(trip.stops):
            stop = trip.stops[n]
            assert leg.places[-1] == stop.place.name
            assert reserve - 1e-6 <= stop.arrive <= charge + 1e-9
            assert stop.arrive < stop.leave <= 1
            charge = stop.leave
        place = leg.places[-1]
    assert place == b
    assert trip.legs[-1].soc == pytest.approx(charge)
    assert trip.seconds >= seconds_to(b)[a] - 1e-6
