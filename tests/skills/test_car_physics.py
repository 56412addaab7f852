"""The car's physics against published values and against what physics forbids."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.skills.packs.car.physics import (
    GRAVITY,
    Body,
    Car,
    Controls,
    advance,
    air_density,
    charge_seconds,
    consumption,
    inlet_power,
    road_load,
    traction,
)

CAR = Car()


@pytest.mark.parametrize(
    ("celsius", "altitude", "density"),
    [(15, 0, 1.225), (8.5, 1000, 1.112), (2, 2000, 1.007), (-4.5, 3000, 0.909), (40, 0, 1.127)],
)
def test_air_is_as_dense_as_in_the_standard_atmosphere(celsius: float, altitude: float, density: float) -> None:
    assert air_density(celsius, altitude) == pytest.approx(density, abs=0.001)


@pytest.mark.parametrize(
    ("kmh", "outside", "altitude", "wh_per_km", "source"),
    [
        (110, 25, 100, (185, 205), "Automotive News Europe, Milan to Paris: 19 to 20 kWh/100 km"),
        (130, 25, 100, (225, 255), "the same, on the way back: 23.5 kWh/100 km"),
        (113, 5, 1600, (190, 215), "InsideEVs, 70 mph in Colorado: 74 kWh over 227 miles are 203"),
        (50, 20, 0, (70, 134), "less than the EPA's city cycle: 74 kWh over 344 miles are 134"),
        (110, -10, 0, (230, 275), "a fifth to two fifths more than in summer"),
    ],
)
def test_it_uses_what_such_cars_were_measured_to_use(
    kmh: float, outside: float, altitude: float, wh_per_km: tuple[float, float], source: str
) -> None:
    low, high = wh_per_km
    assert low < 1000 * consumption(CAR, kmh / 3.6, outside, altitude, 21.0) < high, source


def test_on_the_level_the_road_takes_rolling_and_drag_and_on_a_hill_the_weight_too() -> None:
    rolling = CAR.mass * GRAVITY * CAR.rolling
    assert road_load(CAR, 1e-9, 0, 20, 0) == pytest.approx(rolling)
    drag = 0.5 * air_density(20, 0) * 0.75 * 30**2
    assert road_load(CAR, 30, 0, 20, 0) == pytest.approx(rolling + drag)
    climb = road_load(CAR, 30, 0.06, 20, 0) - road_load(CAR, 30, 0, 20, 0)
    assert climb == pytest.approx(CAR.mass * GRAVITY * 0.06, rel=0.01)
    assert road_load(CAR, 0, 0, 20, 0) == 0


def test_a_hill_costs_its_height_and_gives_back_less() -> None:
    height, km = 855.0, 37.0  # from Innsbruck to the Brenner
    grade, speed = height / (1000 * km), 90 / 3.6
    up, down, flat = (consumption(CAR, speed, 20, 900, 21, g) * km for g in (grade, -grade, 0.0))
    potential = CAR.mass * GRAVITY * height / 3.6e6
    assert up - flat == pytest.approx(potential / CAR.drive_efficiency, rel=0.02)
    assert 0 < flat - down < potential / CAR.drive_efficiency * 1.001
    assert up + down >= 2 * flat


def test_braking_downhill_gives_what_the_motor_can_take_and_no_more() -> None:
    assert traction(CAR, 30, -0.10, 20, 0) == pytest.approx(
        road_load(CAR, 30, -0.10, 20, 0) * 30 / 1000 * CAR.regen_efficiency
    )
    assert traction(CAR, 50, -0.30, 20, 0) == -CAR.regen_limit
    assert traction(CAR, 30, -0.10, 20, 0, accepts=7.0) == -7.0
    full = Body(energy=CAR.capacity, pack=25)
    assert advance(CAR, full, Controls(speed=30, grade=-0.1, awake=True), 600).energy <= CAR.capacity


def charge(start: float, end: float, pack: float, charger: float) -> tuple[float, Body]:
    body, seconds = Body(energy=start * CAR.capacity, pack=pack, cabin=pack), 0
    while body.energy < end * CAR.capacity - 1e-6:
        body = advance(CAR, body, Controls(charger=charger, outside=pack, awake=True, limit=end), 10)
        seconds += 10
        assert seconds < 36_000
    return seconds / 60, body


@pytest.mark.parametrize(
    ("start", "end", "pack", "charger", "minutes"),
    [
        (0.1, 0.8, 25, 350, (17.5, 20)),  # published: 18
        (0.1, 0.8, 25, 50, (62, 72)),  # published: 70 for 50 kW
        (0.1, 1.0, 20, 11, (390, 440)),  # published: 7 h 20 at 11 kW
        (0.1, 0.8, 5, 350, (24, 35)),  # cold, not conditioned
        (0.8, 1.0, 25, 350, (17, 23)),  # Battery Life's session: 21
    ],
)
def test_charging_takes_as_long_as_published(
    start: float, end: float, pack: float, charger: float, minutes: tuple[float, float]
) -> None:
    taken, body = charge(start, end, pack, charger)
    assert minutes[0] < taken < minutes[1]
    assert body.pack < 50  # the coolant holds it


@given(st.floats(0, 0.9), st.floats(0.05, 1), st.floats(0, 45), st.sampled_from([11, 50, 150, 350]))
def test_charging_is_never_slower_than_was_said(start: float, more: float, pack: float, charger: float) -> None:
    end = min(1.0, start + more)
    said = charge_seconds(CAR, start, end, pack, charger)
    body = Body(energy=start * CAR.capacity, pack=pack)
    # the coolant of a hot pack draws some of it, and so does what is awake
    after = advance(CAR, body, Controls(charger=charger, outside=pack, limit=end), said * 1.06)
    assert after.energy + after.used >= end * CAR.capacity - 0.1


def test_the_limit_holds_while_the_climate_runs_on_the_charger() -> None:
    body = Body(energy=0.8 * CAR.capacity, pack=20, cabin=0)
    after = advance(CAR, body, Controls(charger=11, limit=0.8, outside=-5, target=21.0, awake=True), 3600)
    assert after.energy == pytest.approx(body.energy)
    assert after.cabin == pytest.approx(21, abs=0.5)


def test_a_cold_cabin_warms_in_minutes_and_cools_again_when_the_climate_is_off() -> None:
    cold = Body(energy=40, cabin=-5, pack=0)
    warm = advance(CAR, cold, Controls(outside=-5, target=21.0, awake=True), 15 * 60)
    assert warm.cabin == pytest.approx(21, abs=1)
    assert 0.5 < cold.energy - warm.energy < 1.5
    assert advance(CAR, warm, Controls(outside=-5), 2 * 3600).cabin == pytest.approx(-5, abs=0.3)
    aired = advance(CAR, warm, Controls(outside=-5, airing=1.0), 300).cabin
    assert aired < advance(CAR, warm, Controls(outside=-5), 300).cabin - 5


def test_conditioning_warms_the_pack_to_where_it_charges_fast() -> None:
    cold = Body(energy=40, pack=-10)
    ready = advance(CAR, cold, Controls(outside=-10, condition=True, awake=True), 3600)
    assert ready.pack == pytest.approx(25, abs=1)
    assert inlet_power(CAR, 0.3, ready.pack, 350) > 5 * inlet_power(CAR, 0.3, -10, 350)


def test_an_empty_car_stands_still() -> None:
    nearly = Body(energy=0.5, pack=20)
    empty = advance(CAR, nearly, Controls(speed=30, awake=True), 3600)
    assert empty.energy == 0
    assert 1000 < empty.distance < 4000
    later = advance(CAR, empty, Controls(speed=30, awake=True), 3600)
    assert (later.energy, later.distance, later.used) == (0, empty.distance, empty.used)


CONTROLS = st.builds(
    Controls,
    speed=st.floats(0, 50),
    grade=st.floats(-0.12, 0.12),
    outside=st.floats(-25, 42),
    altitude=st.floats(0, 2500),
    awake=st.booleans(),
    target=st.none() | st.floats(15, 30),
    airing=st.floats(0, 1),
    limit=st.floats(0.5, 1),
    condition=st.booleans(),
)


@given(
    st.floats(0, CAR.capacity),
    st.floats(-15, 45),
    st.lists(st.tuples(CONTROLS, st.sampled_from([0, 11, 350]), st.floats(0.1, 1800)), max_size=5),
)
def test_energy_is_kept_count_of_and_the_charge_stays_within_the_pack(
    energy: float, pack: float, parts: list[tuple[Controls, float, float]]
) -> None:
    body = first = Body(energy=energy, pack=pack, cabin=pack)
    for controls, charger, seconds in parts:
        body = advance(CAR, body, replace(controls, charger=0.0 if controls.speed else charger), seconds)
        assert 0 <= body.energy <= CAR.capacity
        assert body.energy == pytest.approx(first.energy + body.charged - body.used, abs=1e-6)
        assert -40 < body.pack < 70
        assert -40 < body.cabin < 60


@given(st.floats(5, 45), st.floats(0, 0.10), st.floats(500, 20_000), st.floats(-20, 35))
def test_no_way_up_and_down_a_hill_creates_energy(speed: float, grade: float, metres: float, outside: float) -> None:
    body = Body(energy=40, pack=25)
    seconds = metres / speed
    up = advance(CAR, body, Controls(speed=speed, grade=grade, outside=outside, awake=True), seconds)
    there = advance(CAR, up, Controls(speed=speed, grade=-grade, outside=outside, awake=True), seconds)
    rolling_at_least = 2 * metres * CAR.mass * GRAVITY * CAR.rolling * 0.7 / 3.6e6
    assert up.energy < body.energy
    assert body.energy - there.energy > rolling_at_least
