"""The car pack on virtual time: every skill, its undo, its "did it happen?", and what happens when the car does not."""

import json
import struct
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from slipstream.core.errors import SkillFailed, TimedOut, UnknownOutcome, UsageError
from slipstream.core.skill import Catalogue, Context, Effect, Outcome, spec_of
from slipstream.skills.packs.car import CarSim, pack
from slipstream.skills.packs.car import signals as vss
from slipstream.skills.packs.car.actuators import BLOCKED
from slipstream.skills.packs.car.body import doors_lock, doors_unlock, horn_honk, lights_set, windows_set
from slipstream.skills.packs.car.cabin import cabin_camera, climate_get, climate_set, preheat, seat_heat
from slipstream.skills.packs.car.energy import car_range, car_soc, charge_limit, charge_start, charge_stop
from slipstream.skills.packs.car.nav import nav_chargers, nav_route, nav_set
from slipstream.skills.packs.car.sound import car_pause, car_play, car_speak
from slipstream.skills.packs.car.status import car_diagnostics, car_location, car_state, driving_state

pytestmark = pytest.mark.anyio
NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC).timestamp()


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
async def car(anyio_backend: Any) -> Any:
    async with pack.open({"now": NOON}) as car:
        yield car


def keyed(car: CarSim, key: str) -> Context:
    ctx = Context(car)
    ctx.key = key
    return ctx


async def undo(fn: Any, ctx: Context, args: dict[str, Any], result: Any) -> None:
    compensation = spec_of(fn).undo_fn
    assert compensation is not None
    await compensation(ctx, args, result)


async def happened(fn: Any, ctx: Context, **args: Any) -> Outcome:
    reconcile = spec_of(fn).reconcile_fn
    assert reconcile is not None
    answer = await reconcile(ctx, args)
    assert isinstance(answer, Outcome)
    return answer


class Told(Context):
    """A context that keeps the progress it was told."""

    def __init__(self, car: CarSim) -> None:
        super().__init__(car)
        self.told: list[float] = []

    async def progress(self, fraction: float, note: str = "") -> None:
        self.told.append(fraction)


# the contract


def test_what_acts_can_say_whether_it_happened_and_what_is_undoable_has_an_undo() -> None:
    specs = [spec_of(fn) for fn in pack.skills]
    acting = [s for s in specs if s.effect is not Effect.READ]
    assert {s.name for s in acting if s.reconcile_fn is None} == set()
    assert {s.name for s in specs if s.undoable != (s.undo_fn is not None)} == set()
    assert {s.name for s in acting if not s.lock} == {"cabin.preheat"}
    assert pack.simulated
    assert len(specs) >= 24


def test_what_moves_or_is_heard_outside_is_physical() -> None:
    effects = {s.name: s.effect for s in map(spec_of, pack.skills)}
    assert {name for name, effect in effects.items() if effect is Effect.PHYSICAL} == {
        "windows.set", "doors.lock", "doors.unlock", "lights.set", "horn.honk", "seat.heat", "charge.start",
        "charge.stop",
    }  # fmt: skip


def test_where_the_car_is_and_who_sits_in_it_stays_in_the_mesh() -> None:
    assert all(p["privacy"] == "personal" for p in spec_of(car_location).output_schema["properties"].values())
    assert spec_of(cabin_camera).output_schema["properties"]["png"]["privacy"] == "personal"
    assert spec_of(nav_route).input_schema["properties"]["destination"]["privacy"] == "personal"


async def test_every_result_fits_its_schema_and_survives_the_wire(car: CarSim) -> None:
    args: dict[str, dict[str, Any]] = {
        "charge.limit": {"percent": 90}, "nav.route": {"destination": "Verona"}, "nav.set": {"destination": "Bozen"},
        "nav.chargers": {"destination": "Bolzano"}, "cabin.climate.set": {"celsius": 22}, "seat.heat": {"level": 2},
        "windows.set": {"percent": 20}, "car.media.play": {"track": "Night Drive"}, "car.speak": {"text": "hello"},
        "weather.at": {"place": "Innsbruck"}, "summary.text": {"facts": {"a": 1}},
    }  # fmt: skip
    for spec in map(spec_of, pack.skills):
        result = await spec.fn(Context(car), **spec.check(args.get(spec.name, {})))
        assert spec.load(spec.dump(result)) == result


async def test_a_car_without_seats_in_its_signals_offers_no_seat_heating() -> None:
    async with pack.open({"without": ["Vehicle.Cabin.Seat", "Vehicle.Body.Horn"]}) as car:
        catalogue = Catalogue()
        catalogue.add(pack, pack.capabilities(car))
        missing = {spec_of(fn).name for fn in pack.skills} - set(catalogue.specs)
        assert missing == {"seat.heat", "cabin.camera", "horn.honk"}
        with pytest.raises(UsageError, match="has no"):
            car.get("Vehicle.Body.Horn.IsActive")


# signals


async def test_every_signal_reads_as_its_type_within_its_bounds(car: CarSim) -> None:
    for settings in ({}, {"speed": 60.0, "gear": "D"}):
        if settings:
            car.plug(0)
            car.drive(60)
            await anyio.sleep(100)
        for name, signal in vss.SIGNALS.items():
            reading = car.get(name)
            assert signal.check(reading.value) == reading.value, name
            assert reading.at == car.now()


@pytest.mark.parametrize(
    ("signal", "value"),
    [
        (vss.CHARGE_LIMIT, 101), (vss.CHARGE_LIMIT, -1), (vss.CHARGE_LIMIT, 80.5), (vss.CHARGE_LIMIT, True),
        (vss.CHARGE_LIMIT, "80"), (vss.START_STOP, "GO"), (vss.HORN, 1), (vss.TARGET, float("nan")),
        (vss.TARGET, float("inf")), (vss.WINDOWS[0], 256), (vss.SEAT_HEAT[0], -101),
    ],
)  # fmt: skip
async def test_a_write_that_the_specification_does_not_allow_is_refused(car: CarSim, signal: str, value: Any) -> None:
    before = car.get(signal).value
    with pytest.raises(UsageError) as refused:
        await car.set(signal, value)
    assert refused.value.where["field"] == signal
    assert car.get(signal).value == before


async def test_sensors_gears_and_handles_cannot_be_commanded(car: CarSim) -> None:
    for signal, value in ((vss.SPEED, 0.0), (vss.GEAR, vss.DRIVE), (f"{vss.DOORS[0]}.IsOpen", True)):
        with pytest.raises(UsageError, match="cannot be commanded"):
            await car.set(signal, value)
    with pytest.raises(UsageError) as unknown:
        car.get("Vehicle.Sped")
    assert unknown.value.hint == "did you mean Vehicle.Speed?"


@given(st.sampled_from(sorted(vss.SIGNALS)), st.integers() | st.floats() | st.booleans() | st.text(max_size=9))
def test_what_a_signal_accepts_is_of_its_type_and_what_it_does_not_is_refused(name: str, value: Any) -> None:
    signal = vss.SIGNALS[name]
    try:
        kept = signal.check(value)
    except UsageError:
        return
    assert kept == (float(value) if isinstance(kept, float) else value)
    assert isinstance(kept, bool) == (signal.datatype == "boolean")
    assert isinstance(kept, float) == (signal.datatype in ("float", "double"))


async def test_a_stale_value_is_unknown(car: CarSim) -> None:
    car.silence(vss.SOC)
    assert (await car_soc(Context(car))).percent == 62
    await anyio.sleep(3)
    assert car.get(vss.SOC).value == pytest.approx(62)
    assert car.fresh(vss.SOC) is None
    with pytest.raises(SkillFailed, match="is not known"):
        await car_soc(Context(car))
    car.silence(vss.SOC, False)
    assert (await car_soc(Context(car))).percent == pytest.approx(62, abs=0.1)


# speed and gear


@pytest.mark.parametrize(
    ("speed", "gear", "state"),
    [
        (0.0, vss.PARK, "parked"), (0.0, vss.DRIVE, "idling"), (0.0, vss.NEUTRAL, "idling"), (5.0, vss.DRIVE, "moving"),
        (5.0, vss.PARK, "moving"), (None, vss.PARK, "moving"), (0.0, None, "moving"), (None, None, "moving"),
    ],
)  # fmt: skip
def test_parked_needs_both_signals_and_whatever_is_not_known_is_moving(speed: Any, gear: Any, state: str) -> None:
    assert driving_state(speed, gear) == state


async def test_settings_start_it_driving_and_it_comes_along_the_road() -> None:
    async with pack.open({"now": NOON, "speed": 90, "gear": "D"}) as car:
        state = await car_state(Context(car))
        assert (state.driving, state.speed_kmh, state.gear) == ("moving", 90, "D")
        await anyio.sleep(20 * 60)
        where = await car_location(Context(car))
        assert where.place == "Holzkirchen"
        assert where.altitude_m == pytest.approx(680, abs=10)
        after = await car_state(Context(car))
        assert after.odometer_km is not None
        assert state.odometer_km is not None
        assert after.odometer_km - state.odometer_km == pytest.approx(30, abs=0.1)
        used = 0.62 * 74 - car.state.energy
        assert 4 < used < 8  # 30 km and 156 m up
        car.silence(vss.SPEED)
        await anyio.sleep(3)
        unsure = await car_state(Context(car))
        assert (unsure.driving, unsure.speed_kmh) == ("moving", None)


async def test_at_its_destination_the_car_parks_and_an_empty_one_stops_on_the_way() -> None:
    async with pack.open({"now": NOON, "place": "Innsbruck", "speed": 100}) as car:
        await nav_set(Context(car), "Brenner")
        await anyio.sleep(3600)
        state = await car_state(Context(car))
        assert (state.driving, (await car_location(Context(car))).place) == ("parked", "Brenner")
    async with pack.open({"now": NOON, "soc": 3, "speed": 100}) as car:
        await anyio.sleep(3600)
        assert (await car_state(Context(car))).driving == "parked"
        assert car.here().name.startswith("near")
        with pytest.raises(UsageError, match="empty"):
            car.drive(50)


async def test_a_car_with_a_cable_in_does_not_drive_and_a_moving_one_takes_no_cable(car: CarSim) -> None:
    with pytest.raises(UsageError, match="cable"):
        car.drive(50)
    with pytest.raises(UsageError, match="gear P"):
        car.drive(50, "P")
    car.plug(0)
    car.drive(50)
    with pytest.raises(UsageError, match="moves"):
        car.plug(11)


async def test_a_new_destination_turns_a_moving_car_at_the_next_place() -> None:
    async with pack.open({"now": NOON, "place": "Irschenberg", "speed": 100, "soc": 90}) as car:
        await anyio.sleep(60)
        route = await nav_route(Context(car), "Salzburg")
        assert route.origin == "near Irschenberg"
        await nav_set(Context(car), "Salzburg")
        await anyio.sleep(2 * 3600)
        assert (await car_location(Context(car))).place == "Salzburg"
        driven = car.state.metres / 1000 - 18_240
        assert driven == pytest.approx(route.distance_km + 100 / 60, abs=0.2)


# energy


async def test_range_falls_with_speed_and_with_cold(car: CarSim) -> None:
    slow, fast = await car_range(Context(car), 80), await car_range(Context(car), 130)
    assert slow.km > 1.4 * fast.km
    assert slow.empty_km * slow.consumption_wh_per_km == pytest.approx(1000 * 0.62 * 74, rel=0.01)
    async with pack.open({"now": NOON, "outside": -15}) as cold:
        await climate_set(Context(cold), 21)
        assert (await car_range(Context(cold), 80)).km < 0.8 * slow.km


async def test_charging_starts_when_current_flows_and_ends_at_the_limit(car: CarSim) -> None:
    began = anyio.current_time()
    charge = await charge_start(keyed(car, "a"))
    assert anyio.current_time() - began == pytest.approx(6, abs=0.2)  # the handshake
    assert charge.charging
    assert charge.power_kw == pytest.approx(9.4, abs=0.2)
    assert charge.minutes is not None
    await anyio.sleep(60 * charge.minutes * 1.1)
    full = await car_soc(Context(car))
    assert (full.percent, full.charging) == (pytest.approx(80, abs=0.1), False)
    with pytest.raises(SkillFailed, match="its limit is 80 %"):
        await charge_start(keyed(car, "b"))
    limit = await charge_limit(Context(car), 90)
    assert limit.previous == 80
    assert (await car_soc(Context(car))).charging
    await undo(charge_limit, Context(car), {"percent": 90}, limit)
    assert not (await car_soc(Context(car))).charging


async def test_a_fast_charger_fills_a_warm_car_from_10_to_80_in_about_20_minutes() -> None:
    async with pack.open({"now": NOON, "soc": 10, "charger": 350, "outside": 25}) as car:
        await charge_start(Context(car))
        await anyio.sleep(17 * 60)
        assert 74 < (await car_soc(Context(car))).percent < 80
        await anyio.sleep(3 * 60)
        assert (await car_soc(Context(car))).percent == pytest.approx(80, abs=0.1)


async def test_without_a_cable_charging_fails_and_says_what_to_do(car: CarSim) -> None:
    car.plug(0)
    with pytest.raises(SkillFailed) as failed:
        await charge_start(keyed(car, "a"))
    assert failed.value.hint == "plug it in, then start again"
    assert await happened(charge_start, keyed(car, "a")) is Outcome.NOT_DONE


async def test_stopping_and_undoing_both_end_the_current(car: CarSim) -> None:
    charge = await charge_start(keyed(car, "a"))
    assert await happened(charge_start, keyed(car, "a")) is Outcome.DONE
    await undo(charge_start, Context(car), {}, charge)
    assert not (await car_soc(Context(car))).charging
    await charge_start(keyed(car, "b"))
    assert not (await charge_stop(keyed(car, "c"))).charging


# where to


async def test_a_route_adds_up_and_stops_where_it_must(car: CarSim) -> None:
    route = await nav_route(Context(car), "Verona")
    assert (route.origin, route.destination) == ("Munich", "Verona")
    assert len(route.legs) == len(route.stops) + 1 >= 2
    assert route.distance_km == pytest.approx(sum(leg.distance_km for leg in route.legs), abs=0.2)
    driving = sum(leg.duration_s for leg in route.legs)
    assert route.duration_s == pytest.approx(driving + route.charging_s, abs=3)
    assert all(stop.arrival_soc >= 10 for stop in route.stops)
    assert route.arrival_soc >= 10
    assert [leg.origin for leg in route.legs[1:]] == [stop.place for stop in route.stops]
    full = await nav_route(Context(car), "Innsbruck, Innrain 52", origin="Bozen", soc=100)
    assert full.stops == []
    assert full.legs[0].via[0] == "Klausen"
    here = await nav_route(Context(car), "München")
    assert (here.distance_km, here.duration_s) == (0, 0)


async def test_an_impossible_trip_says_why_and_what_would_help(car: CarSim) -> None:
    with pytest.raises(SkillFailed) as low:
        await nav_route(Context(car), "Berlin", origin="Hof", soc=5)
    assert low.value.what == "Berlin cannot be reached from Hof with 5 % and a reserve of 10 %"
    need = float(low.value.hint.split()[2])
    assert (await nav_route(Context(car), "Berlin", origin="Hof", soc=need)).stops
    car.state.outside = -20
    with pytest.raises(SkillFailed, match="cannot be reached") as never:
        await nav_route(Context(car), "Berlin", origin="Hof", soc=100, reserve=50)
    assert never.value.hint == "keep a smaller reserve"


async def test_chargers_come_in_the_order_of_the_way_and_only_as_strong_as_asked(car: CarSim) -> None:
    all_of_them = await nav_chargers(Context(car), "Bolzano", least_kw=0)
    strong = await nav_chargers(Context(car), "Bolzano", least_kw=300)
    along = [site.along_km for site in all_of_them.chargers]
    assert along == sorted(along)
    assert {site.place for site in strong.chargers} < {site.place for site in all_of_them.chargers}
    assert all(site.power_kw >= 300 for site in strong.chargers)
    assert {"Irschenberg", "Kufstein", "Innsbruck", "Bolzano"} <= {site.place for site in strong.chargers}
    near = await nav_chargers(Context(car), "Bolzano", within_km=40)
    assert {"Seefeld", "Merano"} <= {site.place for site in near.chargers}
    assert all(site.off_km <= 40 for site in near.chargers)


async def test_the_destination_is_set_and_undone_unless_the_driver_chose_another(car: CarSim) -> None:
    ctx = Context(car)
    first = await nav_set(ctx, "Bozen")
    assert (first.destination, first.previous, first.latitude) == ("Bolzano", "", pytest.approx(46.498))
    assert await happened(nav_set, ctx, destination="Bolzano") is Outcome.DONE
    second = await nav_set(ctx, "Verona")
    assert second.previous == "Bolzano"
    await undo(nav_set, ctx, {"destination": "Verona"}, second)
    assert car.state.destination == "Bolzano"
    car.guide("Venice")
    await undo(nav_set, ctx, {"destination": "Bozen"}, first)
    assert car.state.destination == "Venice"
    assert (await nav_set(ctx, "")).destination == ""


# the cabin


async def test_the_climate_is_set_at_once_and_the_air_follows_in_minutes(car: CarSim) -> None:
    ctx = Context(car)
    done = await climate_set(ctx, 24)
    assert (done.previous, done.was_on) == (21, False)
    at_first = await climate_get(ctx)
    assert (at_first.on, at_first.target_celsius) == (True, 24)
    assert at_first.inside_celsius < 15
    await anyio.sleep(15 * 60)
    assert (await climate_get(ctx)).inside_celsius == pytest.approx(24, abs=0.5)
    assert await happened(climate_set, ctx, celsius=24, on=True) is Outcome.DONE
    await undo(climate_set, ctx, {"celsius": 24}, done)
    after = await climate_get(ctx)
    assert (after.on, after.target_celsius) == (False, 21)
    assert await happened(climate_set, ctx, celsius=24) is Outcome.NOT_DONE


async def test_preheating_ends_when_the_cabin_is_warm_and_tells_how_far_it_is() -> None:
    async with pack.open({"now": NOON, "outside": -5, "charger": 0}) as car:
        ctx = Told(car)
        warm = await preheat(ctx, 21)
        assert warm.celsius == pytest.approx(21, abs=0.5)
        assert 5 < warm.minutes < 20
        assert 0.3 < warm.energy_kwh < 1.5
        assert ctx.told == sorted(ctx.told)
        assert ctx.told[-1] > 0.9
        assert await happened(preheat, ctx, celsius=21.0) is Outcome.DONE
        await anyio.sleep(30 * 60)  # nobody came
        assert not (await climate_get(ctx)).on


async def test_preheating_that_cannot_succeed_in_its_time_says_how_far_it_came() -> None:
    async with pack.open({"now": NOON, "outside": -25}) as car:
        with pytest.raises(TimedOut, match=r"the cabin is at -?\d+.\d °C, not at 21.0 °C"):
            await preheat(Context(car), 21, minutes=2)
        assert await happened(preheat, Context(car), celsius=21.0) is Outcome.NOT_DONE


async def test_a_cancelled_preheating_leaves_the_climate_as_it_was(car: CarSim) -> None:
    with anyio.move_on_after(60) as scope:
        await preheat(Context(car), 26)
    assert scope.cancelled_caught
    await anyio.sleep(1)
    state = await climate_get(Context(car))
    assert (state.on, state.target_celsius) == (False, 21)


async def test_preheating_stops_for_the_reserve_and_for_whoever_sets_the_climate_meanwhile() -> None:
    async with pack.open({"now": NOON, "soc": 10, "charger": 0}) as car:
        with pytest.raises(SkillFailed, match="below the reserve"):
            await preheat(Context(car), 21)
    async with pack.open({"now": NOON, "outside": -5}) as car:
        async with anyio.create_task_group() as tasks:

            async def heat() -> None:
                with pytest.raises(SkillFailed, match="somebody changed the climate"):
                    await preheat(Context(car), 21)

            tasks.start_soon(heat)
            await anyio.sleep(60)
            await climate_set(Context(car), 18)
        assert (await climate_get(Context(car))).target_celsius == 18


async def test_a_seat_is_heated_and_put_back(car: CarSim) -> None:
    done = await seat_heat(keyed(car, "a"), 3, "passenger")
    assert (done.previous, car.get(vss.SEAT_HEAT[1]).value, car.get(vss.SEAT_HEAT[0]).value) == (0, 100, 0)
    await undo(seat_heat, Context(car), {"level": 3, "seat": "passenger"}, done)
    assert car.get(vss.SEAT_HEAT[1]).value == 0


def pixels(png: bytes) -> tuple[int, int, bytes]:
    """A small PNG reader: width, height, RGB rows; every checksum is checked."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        assert struct.unpack(">I", png[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 2)
    raw = zlib.decompress(chunks[b"IDAT"])
    assert len(raw) == height * (1 + 3 * width)
    rows = [raw[y * (1 + 3 * width) : (y + 1) * (1 + 3 * width)] for y in range(height)]
    assert all(row[0] == 0 for row in rows)
    return width, height, b"".join(row[1:] for row in rows)


async def test_the_cabin_camera_sees_who_sits_there(car: CarSim) -> None:
    def face(picture: bytes, side: float) -> tuple[int, int, int]:
        width, height, rgb = pixels(picture)
        at = 3 * (int(0.32 * height) * width + int(side * width))
        return rgb[at], rgb[at + 1], rgb[at + 2]

    empty = await cabin_camera(Context(car), 160)
    assert (empty.width, empty.height) == (160, 90) == pixels(empty.png)[:2]
    car.plug(0)
    car.drive(50)
    driven = await cabin_camera(Context(car), 160)
    red, _, blue = face(driven.png, 0.72)
    assert red > blue + 20  # skin
    red, _, blue = face(empty.png, 0.72)
    assert red < blue + 30  # the seat
    assert face(driven.png, 0.28) != face(driven.png, 0.72)


# what moves


async def test_windows_are_open_when_they_have_travelled_not_when_they_were_told(car: CarSim) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(windows_set, keyed(car, "a"), 100, "driver")
        await anyio.sleep(2.02)
        assert car.get(vss.WINDOWS[0]).value == pytest.approx(50, abs=2)
        assert await happened(windows_set, keyed(car, "a"), percent=100, which="driver") is Outcome.UNKNOWN
    assert car.get(vss.WINDOWS[0]).value == 100
    assert await happened(windows_set, keyed(car, "a"), percent=100, which="driver") is Outcome.DONE
    began = anyio.current_time()
    shut = await windows_set(keyed(car, "b"), 0)
    assert (shut.driver, shut.rear_passenger) == (0, 0)
    assert anyio.current_time() - began == pytest.approx(4, abs=0.2)


async def test_a_window_that_jams_fails_with_where_it_stands_and_leaves_a_trouble_code(car: CarSim) -> None:
    car.actuators.jams[vss.WINDOWS[2]] = 40
    with pytest.raises(SkillFailed, match="stands at 40, not at 100") as failed:
        await windows_set(keyed(car, "a"), 100)
    assert failed.value.hint == "go and look"
    health = await car_diagnostics(Context(car))
    assert health.troubles == [BLOCKED]
    assert health.advice == [f"have {BLOCKED} looked at in a workshop"]
    assert await happened(windows_set, keyed(car, "a"), percent=100) is Outcome.UNKNOWN


async def test_the_same_invocation_never_moves_a_window_twice(car: CarSim) -> None:
    done = await windows_set(keyed(car, "a"), 30, "driver")
    await windows_set(keyed(car, "b"), 0, "driver")
    assert await windows_set(keyed(car, "a"), 30, "driver") == done
    assert car.get(vss.WINDOWS[0]).value == 0
    with anyio.move_on_after(0.5):
        await windows_set(keyed(car, "c"), 100, "driver")
    with pytest.raises(UnknownOutcome):
        await windows_set(keyed(car, "c"), 100, "driver")


async def test_a_silent_lock_leaves_the_outcome_unknown_and_a_jammed_one_fails(car: CarSim) -> None:
    assert not (await doors_unlock(keyed(car, "a"))).locked
    car.silence(vss.LOCKS[1])
    await anyio.sleep(3)
    with pytest.raises(UnknownOutcome, match="did not say in time"):
        await doors_lock(keyed(car, "b"))
    assert await happened(doors_lock, keyed(car, "b")) is Outcome.UNKNOWN
    car.silence(vss.LOCKS[1], False)
    assert await happened(doors_lock, keyed(car, "b")) is Outcome.DONE  # it was locked after all
    car.actuators.jams[vss.LOCKS[0]] = True
    with pytest.raises(SkillFailed, match="IsLocked stands at True"):
        await doors_unlock(keyed(car, "c"))


async def test_a_deadline_that_comes_first_leaves_a_physical_act_unknown(car: CarSim) -> None:
    ctx = keyed(car, "a")
    ctx.deadline = anyio.current_time() + 1
    with pytest.raises(UnknownOutcome):
        await windows_set(ctx, 100)
    assert anyio.current_time() == pytest.approx(ctx.deadline, abs=0.05)


async def test_two_commands_to_one_window_end_where_the_later_one_said(car: CarSim) -> None:
    async with anyio.create_task_group() as tasks:

        async def open_it() -> None:
            with pytest.raises(SkillFailed) as failed:
                await windows_set(keyed(car, "a"), 100, "driver")
            assert failed.value.why == "somebody else moved it"

        tasks.start_soon(open_it)
        await anyio.sleep(1)
        assert (await windows_set(keyed(car, "b"), 0, "driver")).driver == 0


async def test_lights_are_set_and_undone_and_auto_follows_the_dark(car: CarSim) -> None:
    done = await lights_set(keyed(car, "a"), switch="beam", hazard=True)
    assert (done.switch, done.hazard, done.beam, done.previous_switch) == ("beam", True, True, "auto")
    assert await happened(lights_set, keyed(car, "a"), switch="beam", hazard=True) is Outcome.DONE
    await undo(lights_set, Context(car), {"switch": "beam", "hazard": True}, done)
    assert (car.get(vss.SWITCH).value, car.get(vss.HAZARD).value) == ("AUTO", False)
    untouched = await lights_set(keyed(car, "b"), hazard=False)
    assert untouched.switch == "auto"


async def test_a_horn_falls_silent_however_its_skill_ends(car: CarSim) -> None:
    honked = await horn_honk(keyed(car, "a"), 3)
    assert honked.times == 3
    assert honked.seconds == pytest.approx(3 * 0.3 + 2 * 0.3 + 6 * 0.12, abs=0.1)
    assert await horn_honk(keyed(car, "a"), 3) == honked
    with anyio.move_on_after(0.2):
        await horn_honk(keyed(car, "b"))
    await anyio.sleep(0.2)
    assert car.get(vss.HORN).value is False
    assert await happened(horn_honk, keyed(car, "b")) is Outcome.UNKNOWN
    assert await happened(horn_honk, keyed(car, "c")) is Outcome.NOT_DONE


# sound


async def test_music_plays_on_by_itself_pauses_and_goes_on_where_it_was(car: CarSim) -> None:
    ctx = Context(car)
    with pytest.raises(UsageError, match="nothing was paused"):
        await car_play(ctx)
    started = await car_play(keyed(car, "a"), "night drive", 100)
    assert (started.track, started.playing) == ("Night Drive", True)
    await anyio.sleep(60)
    paused = await car_pause(ctx)
    assert paused.position_s == pytest.approx(160, abs=0.5)
    await anyio.sleep(60)
    resumed = await car_play(ctx)
    assert resumed.position_s == pytest.approx(160, abs=0.5)
    await anyio.sleep(100)
    assert (await car_pause(ctx)).position_s == 251  # its end
    again = await car_play(ctx)
    assert (again.playing, again.position_s) == (True, pytest.approx(0, abs=0.5))
    await undo(car_play, ctx, {"track": "Night Drive"}, again)
    assert await happened(car_pause, ctx) is Outcome.DONE
    with pytest.raises(UsageError) as unknown:
        await car_play(ctx, "Nite Drive")
    assert unknown.value.hint == "did you mean Night Drive?"


async def test_the_car_speaks_once_for_as_long_as_it_takes(car: CarSim) -> None:
    began = anyio.current_time()
    said = await car_speak(keyed(car, "a"), "we arrive at ten past four")
    assert anyio.current_time() - began == pytest.approx(said.seconds) == pytest.approx(2.7)
    assert await car_speak(keyed(car, "a"), "we arrive at ten past four") == said
    assert anyio.current_time() - began == pytest.approx(2.7)
    assert await happened(car_speak, keyed(car, "a")) is Outcome.DONE


# time and restarts


async def test_cold_tyres_lose_pressure_and_are_told_of() -> None:
    async with pack.open({"now": NOON, "outside": 20}) as warm, pack.open({"now": NOON, "outside": -25}) as cold:
        a, b = await car_diagnostics(Context(warm)), await car_diagnostics(Context(cold))
        assert a.tires_kpa == [pytest.approx(250, abs=1)] * 4
        assert b.tires_low
        assert b.advice == ["fill 4 tyres"]


async def test_a_month_in_the_garage_costs_a_few_percent_and_moves_nothing(car: CarSim) -> None:
    await anyio.sleep(30 * 86_400)
    soc = await car_soc(Context(car))
    assert 54 < soc.percent < 60
    assert (await car_state(Context(car))).driving == "parked"


async def test_looking_often_and_looking_once_come_to_the_same() -> None:
    async def after(looks: int) -> tuple[float, float, float]:
        async with pack.open({"now": NOON, "speed": 100, "outside": 0}) as car:
            await climate_set(Context(car), 22)
            for _ in range(looks):
                await anyio.sleep(3600 / looks)
                car.get(vss.SOC)
            return car.soc, car.state.metres, car.state.cabin

    often, once = await after(720), await after(1)
    assert often == pytest.approx(once, rel=2e-3)


async def test_the_state_is_kept_over_restarts_and_settings_hold_at_every_start(tmp_path: Path) -> None:
    async with pack.open({"now": NOON, "state": tmp_path}) as car:
        await charge_limit(Context(car), 70)
        await nav_set(Context(car), "Bozen")
        await doors_unlock(keyed(car, "a"))
    assert json.loads((tmp_path / "car.json").read_text())["destination"] == "Bolzano"
    async with pack.open({"now": NOON + 60, "state": tmp_path, "soc": 33}) as car:
        assert (await car_soc(Context(car))).limit_percent == 70
        assert (await car_soc(Context(car))).percent == 33
        assert (await nav_set(Context(car), "Verona")).previous == "Bolzano"
        assert (await car_state(Context(car))).locked is False
        assert await happened(doors_unlock, keyed(car, "a")) is Outcome.DONE


async def test_a_window_on_its_way_at_a_restart_has_arrived_afterwards(tmp_path: Path) -> None:
    async with pack.open({"now": NOON, "state": tmp_path}) as car:
        await car.set(vss.WINDOWS[0], 100)
        await anyio.sleep(1)
        assert car.get(vss.WINDOWS[0]).value == 25
    async with pack.open({"now": NOON + 10, "state": tmp_path}) as car:
        assert car.get(vss.WINDOWS[0]).value == 100


async def test_a_setting_that_will_not_do_is_named() -> None:
    for settings, field in (({"soc": 120}, "soc"), ({"gaer": "D"}, "gaer"), ({"place": "Atlantis"}, "place"),
                            ({"speed": 50, "gear": "P"}, "speed")):  # fmt: skip
        with pytest.raises(UsageError) as wrong:
            async with pack.open(settings):
                raise AssertionError("it opened")
        assert wrong.value.where["field"] == field
