"""The hub pack on virtual time: lights, heating, calendar, and a door that is watched until it is there."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from slipstream.core.errors import SkillFailed, UnknownOutcome, UsageError
from slipstream.core.skill import Context, Effect, Outcome, spec_of
from slipstream.skills.packs import phone as phone_pack
from slipstream.skills.packs.hub import HubSim, pack
from slipstream.skills.packs.hub.garage import Door, garage_close, garage_open, garage_state
from slipstream.skills.packs.hub.home import heating_get, heating_set, home_calendar, lights_get, lights_set

pytestmark = pytest.mark.anyio
NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC).timestamp()


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
async def hub(anyio_backend: Any) -> Any:
    async with pack.open({"now": NOON}) as hub:
        yield hub


def keyed(hub: HubSim, key: str, **more: Any) -> Context:
    ctx = Context(hub)
    ctx.key = key
    ctx.deadline = more.get("deadline")
    return ctx


async def undo(fn: Any, ctx: Context, result: Any) -> None:
    compensation = spec_of(fn).undo_fn
    assert compensation is not None
    await compensation(ctx, {}, result)


async def happened(fn: Any, ctx: Context, **args: Any) -> Outcome:
    reconcile = spec_of(fn).reconcile_fn
    assert reconcile is not None
    return await reconcile(ctx, args)


def test_phone_and_hub_offer_the_same_skills_to_choose_between() -> None:
    shared = {spec_of(fn).name for fn in set(pack.skills) & set(phone_pack.pack.skills)}
    assert shared == {"weather.at", "summary.text"}


def test_what_moves_the_door_is_physical_and_nothing_moves_it_back_by_itself() -> None:
    for fn in (garage_open, garage_close):
        spec = spec_of(fn)
        assert (spec.effect, spec.undoable) == (Effect.PHYSICAL, False)
        assert spec.reconcile_fn is not None


async def test_lights_are_set_by_room_and_undo_restores_each(hub: HubSim) -> None:
    ctx = Context(hub)
    await lights_set(ctx, True, "Living  Room", 30)
    every = await lights_set(ctx, False)
    assert not any(light.on for light in (await lights_get(ctx)).lights)
    await undo(lights_set, ctx, every)
    assert [(x.room, x.brightness) for x in (await lights_get(ctx)).lights if x.on] == [("living room", 30)]
    with pytest.raises(UsageError) as unknown:
        await lights_get(ctx, "kichen")
    assert unknown.value.hint == "did you mean kitchen?"


async def test_a_result_does_not_change_when_the_light_does(hub: HubSim) -> None:
    seen = await lights_get(Context(hub), "hall")
    await lights_set(Context(hub), True, "hall")
    assert not seen.lights[0].on


async def test_the_house_follows_its_heating_within_hours_and_cools_slowly(hub: HubSim) -> None:
    ctx = Context(hub)
    change = await heating_set(ctx, 23)
    assert (await heating_get(ctx)).heating
    await anyio.sleep(1200)
    assert 19 < (await heating_get(ctx)).indoors < 23
    await anyio.sleep(3 * 3600)
    assert (await heating_get(ctx)).indoors == 23
    assert await happened(heating_set, ctx, target=23.0) is Outcome.DONE
    await undo(heating_set, ctx, change)
    assert (await heating_get(ctx)).target == change.previous == 20
    await anyio.sleep(3600)
    cooled = await heating_get(ctx)
    assert 20 < cooled.indoors < 23
    assert not cooled.heating


@given(looks=st.lists(st.floats(0, 1e6), max_size=20), target=st.floats(5, 28))
@settings(max_examples=40, deadline=None)
def test_how_often_somebody_looks_does_not_change_how_warm_it_gets(looks: list[float], target: float) -> None:
    async def warm(moments: list[float]) -> float:
        async with pack.open({"now": NOON}) as hub:
            await heating_set(Context(hub), target)
            for moment in moments:
                await anyio.sleep(moment)
                hub.advance()
            return float(hub.advance())

    def run(moments: list[float]) -> float:
        return anyio.run(warm, moments, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})

    assert run(looks) == pytest.approx(run([sum(looks)]), abs=1e-3)


async def test_the_family_calendar_shows_who_does_what_soonest_first(hub: HubSim) -> None:
    ctx = Context(hub)
    day = (await home_calendar(ctx)).entries
    assert [entry.who for entry in day] == ["Paul", "Mia"]
    assert [entry.who for entry in (await home_calendar(ctx, 48, "mia")).entries] == ["Mia", "everyone"]
    await anyio.sleep(4.75 * 3600)
    assert [entry.who for entry in (await home_calendar(ctx)).entries] == ["Mia"]


async def test_open_returns_when_the_sensor_sees_the_door_open_and_not_before(hub: HubSim) -> None:
    notes: list[tuple[float, str]] = []

    class Telling(Context):
        async def progress(self, fraction: float, note: str = "") -> None:
            notes.append((fraction, note))

    before = anyio.current_time()
    assert await garage_open(Telling(hub)) == Door(state="open", percent=100)
    assert anyio.current_time() - before == pytest.approx(10, abs=0.01)
    assert [note for _, note in notes] == ["opening"] * len(notes)
    assert [round(fraction, 1) for fraction, _ in notes][:3] == [0.0, 0.1, 0.2]
    assert await garage_open(Context(hub)) == Door(state="open", percent=100)
    assert anyio.current_time() - before == pytest.approx(10, abs=0.01)  # it was open already
    assert (await garage_close(Context(hub))).state == "closed"


async def test_a_door_that_jams_is_a_failure_that_says_where_it_stands(hub: HubSim) -> None:
    hub.jams_at = 0.4
    ctx = keyed(hub, "g1")
    with pytest.raises(SkillFailed, match="stopped, 40 % open") as jam:
        await garage_open(ctx)
    assert not jam.value.retry
    assert anyio.current_time() == pytest.approx(4, abs=0.01)
    assert await happened(garage_open, ctx) is Outcome.UNKNOWN
    hub.jams_at = None
    assert (await garage_close(Context(hub))).state == "closed"


async def test_a_deadline_that_passes_first_leaves_the_outcome_unknown_and_the_door_moving(hub: HubSim) -> None:
    ctx = keyed(hub, "g1", deadline=anyio.current_time() + 3)
    with pytest.raises(UnknownOutcome, match="still opening, 30 % open"):
        await garage_open(ctx)
    assert await happened(garage_open, ctx) is Outcome.UNKNOWN
    with pytest.raises(UnknownOutcome):
        await garage_open(keyed(hub, "g1"))  # never repeated by itself
    await anyio.sleep(8)
    assert (await garage_state(ctx)).state == "open"
    assert await happened(garage_open, ctx) is Outcome.DONE


async def test_whoever_is_cut_off_learns_later_whether_the_door_came_to_be_open(hub: HubSim) -> None:
    ctx = keyed(hub, "g1")
    assert await happened(garage_open, ctx) is Outcome.NOT_DONE
    with anyio.move_on_after(2.5):
        await garage_open(ctx)
    assert (await garage_state(ctx)).state == "opening"
    await anyio.sleep(60)
    assert await happened(garage_open, ctx) is Outcome.DONE
    assert await happened(garage_open, keyed(hub, "")) is Outcome.UNKNOWN


async def test_the_one_that_opens_notices_at_once_that_somebody_else_closes(hub: HubSim) -> None:
    async with anyio.create_task_group() as group:

        async def close_later() -> None:
            await anyio.sleep(4.25)
            assert (await garage_close(Context(hub))).state == "closed"

        group.start_soon(close_later)
        with pytest.raises(SkillFailed, match=r"closing, 4\d % open: somebody else"):
            await garage_open(Context(hub))
        assert anyio.current_time() == pytest.approx(4.25, abs=0.01)
    assert anyio.current_time() == pytest.approx(8.5, abs=0.01)


async def test_the_same_key_does_not_move_the_door_again_after_somebody_closed_it(hub: HubSim) -> None:
    first = await garage_open(keyed(hub, "g1"))
    await garage_close(Context(hub))
    assert await garage_open(keyed(hub, "g1")) == first
    assert (await garage_state(Context(hub))).state == "closed"


async def test_the_door_travels_on_while_the_hub_restarts(tmp_path: Path) -> None:
    async with pack.open({"state": tmp_path, "now": NOON}) as hub:
        with anyio.move_on_after(3):
            await garage_open(keyed(hub, "g1"))
        await lights_set(Context(hub), True, "hall")
    async with pack.open({"state": tmp_path, "now": NOON + 5}) as hub:
        assert await garage_state(Context(hub)) == Door(state="opening", percent=50)
        assert (await lights_get(Context(hub), "hall")).lights[0].on
        await anyio.sleep(6)
        assert await happened(garage_open, keyed(hub, "g1")) is Outcome.DONE


@given(
    drives=st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.floats(0, 15)), max_size=12),
    jam=st.none() | st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_the_door_never_jumps_and_never_leaves_its_rails(drives: list[tuple[float, float]], jam: float | None) -> None:
    async def act() -> None:
        async with pack.open({"now": NOON, "garage_jams_at": jam}) as hub:
            for target, seconds in drives:
                before, _ = hub.door()
                hub.drive(target)
                assert hub.door()[0] == pytest.approx(before, abs=1e-5)
                await anyio.sleep(seconds)
                position, speed = hub.door()
                assert 0 <= position <= 1
                assert abs(position - before) <= seconds / 10 + 1e-5
                assert speed == 0 or (speed > 0) == (target > position)

    anyio.run(act, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})


async def test_a_setting_out_of_range_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="garage_jams_at"):
        async with pack.open({"garage_jams_at": 7}):
            pass
