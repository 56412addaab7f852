"""The phone pack on virtual time: every skill, its undo, its "did it happen?", and its state over restarts."""

import json
import struct
import tempfile
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from slipstream.core.errors import Refused, SlipError, UnknownOutcome, UsageError
from slipstream.core.skill import Context, Effect, Outcome, spec_of
from slipstream.skills.packs import simulated
from slipstream.skills.packs.common import summary_text, weather_at
from slipstream.skills.packs.phone import PhoneSim, pack
from slipstream.skills.packs.phone.agenda import Shown, calendar_add, calendar_next, notify_show
from slipstream.skills.packs.phone.hardware import (
    battery,
    camera_take,
    clipboard_get,
    clipboard_set,
    location_get,
    torch_set,
)
from slipstream.skills.packs.phone.people import Sent, call_end, call_start, contacts_find, message_send
from slipstream.skills.packs.phone.sound import Played, Said, media_play, media_stop, speech_say

pytestmark = pytest.mark.anyio
NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC).timestamp()


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
async def phone(anyio_backend: Any) -> Any:
    async with pack.open({"now": NOON}) as phone:
        yield phone


def keyed(phone: PhoneSim, key: str, **state: Any) -> Context:
    ctx = Context(phone, state=state)
    ctx.key = key
    return ctx


async def undo(fn: Any, ctx: Context, args: dict[str, Any], result: Any) -> None:
    compensation = spec_of(fn).undo_fn
    assert compensation is not None
    await compensation(ctx, args, result)


async def happened(fn: Any, ctx: Context, **args: Any) -> Outcome:
    reconcile = spec_of(fn).reconcile_fn
    assert reconcile is not None
    return await reconcile(ctx, args)


def test_every_skill_that_acts_once_can_say_whether_it_happened() -> None:
    specs = [spec_of(fn) for fn in pack.skills]
    assert {s.name for s in specs if s.effect in (Effect.ONCE, Effect.PHYSICAL) and s.reconcile_fn is None} == set()
    assert {s.name for s in specs if s.undoable and s.undo_fn is None} == set()


def test_numbers_and_the_clipboard_never_leave_the_device_and_names_stay_in_the_mesh() -> None:
    contact = spec_of(contacts_find).output_schema["properties"]
    assert (contact["number"]["privacy"], contact["name"]["privacy"]) == ("device", "personal")
    assert spec_of(clipboard_get).output_schema["properties"]["text"]["privacy"] == "device"
    assert spec_of(message_send).input_schema["properties"]["text"]["privacy"] == "personal"


async def test_results_fit_their_schemas_and_survive_the_wire(phone: PhoneSim) -> None:
    ctx = Context(phone)
    for fn, args in (
        (battery, {}), (location_get, {}), (contacts_find, {"name": "jonas"}), (calendar_next, {"travel": True}),
        (torch_set, {"on": "on"}), (message_send, {"to": "Mum", "text": "hi"}), (camera_take, {"size": 16}),
        (weather_at, {"place": "Innsbruck"}), (summary_text, {"facts": {"a": 1}}),
    ):  # fmt: skip
        spec = spec_of(fn)
        result = await fn(ctx, **spec.check(args))
        assert spec.load(spec.dump(result)) == result


async def test_the_battery_drains_with_time_and_faster_with_the_torch_on(phone: PhoneSim) -> None:
    ctx = Context(phone)
    before = (await battery(ctx)).percent
    await anyio.sleep(10 * 3600)
    idle = before - (await battery(ctx)).percent
    assert idle == pytest.approx(10, abs=0.2)  # 190 mW of 19 Wh: 1 % in an hour
    await torch_set(ctx, True)
    await anyio.sleep(3600)
    assert before - idle - (await battery(ctx)).percent > 5 * idle / 10


async def test_an_empty_phone_refuses_so_that_another_device_may_do_it_until_it_is_charged(phone: PhoneSim) -> None:
    ctx = Context(phone)
    await anyio.sleep(100 * 3600)
    assert (await battery(ctx)).percent == 0
    with pytest.raises(Refused) as refused:
        await message_send(ctx, "Jonas", "hi")
    assert refused.value.retry
    phone.plug(True)
    await anyio.sleep(600)
    assert (await message_send(ctx, "Jonas", "hi")).to == "Jonas Weber"
    assert (await battery(ctx)).hours is None


async def test_the_location_is_within_its_accuracy_of_where_the_phone_was_carried(phone: PhoneSim) -> None:
    phone.move("Innsbruck", 47.2692, 11.4041)
    fix = await location_get(Context(phone))
    assert fix.place == "Innsbruck"
    north, east = (fix.latitude - 47.2692) * 111_320, (fix.longitude - 11.4041) * 111_320 * 0.678
    assert 0 < (north**2 + east**2) ** 0.5 <= fix.accuracy_m


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("anna huber", "Anna Huber"), ("Lena", "Anna Lena Brandl"), ("mum", "Elisabeth Maier"), ("  JO ", "Jonas Weber"),
     ("conference", "Tyrol Conference Office")],
)  # fmt: skip
async def test_a_contact_is_found_by_name_nickname_or_the_beginning_of_a_word(
    phone: PhoneSim, wanted: str, found: str
) -> None:
    assert (await contacts_find(Context(phone), wanted)).name == found


async def test_a_name_that_two_people_have_or_nobody_is_refused_with_what_to_say_instead(phone: PhoneSim) -> None:
    with pytest.raises(UsageError, match="2 contacts") as two:
        await message_send(Context(phone), "Anna", "hi")
    assert "Anna Huber, Anna Lena Brandl" in two.value.why
    with pytest.raises(UsageError) as nobody:
        await contacts_find(Context(phone), "jonsa")
    assert nobody.value.hint == "did you mean Jonas?"
    assert phone.acts("message.send", Sent) == []


async def test_a_message_with_a_repeated_key_is_sent_once(phone: PhoneSim) -> None:
    ctx = keyed(phone, "k1")
    assert await happened(message_send, ctx) is Outcome.NOT_DONE
    first = await message_send(ctx, "+49 89 99998101", "on my way")
    assert await message_send(keyed(phone, "k1"), "+49 89 99998101", "on my way") == first
    assert first.to == "Anna Huber"  # whose number it is
    assert await happened(message_send, ctx) is Outcome.DONE
    assert await happened(message_send, keyed(phone, "k2")) is Outcome.NOT_DONE
    assert phone.acts("message.send", Sent) == [first]


async def test_without_a_key_every_message_counts_and_nobody_can_say_whether_it_happened(phone: PhoneSim) -> None:
    for _ in range(2):
        await message_send(Context(phone), "Jonas", "again")
    assert len(phone.acts("message.send", Sent)) == 2
    assert await happened(message_send, Context(phone)) is Outcome.UNKNOWN


async def test_a_message_cut_off_while_it_waits_for_its_receipt_was_sent(phone: PhoneSim) -> None:
    ctx = keyed(phone, "k1")
    with anyio.move_on_after(0.1) as cut:
        await message_send(ctx, "Jonas", "hi")
    assert cut.cancelled_caught
    assert await happened(message_send, ctx) is Outcome.DONE


async def test_a_call_occupies_the_line_until_it_ends(phone: PhoneSim) -> None:
    call = await call_start(keyed(phone, "c1"), "Mum")
    with pytest.raises(Refused, match="in a call"):
        await call_start(keyed(phone, "c2"), "Jonas")
    assert await happened(call_start, keyed(phone, "c2")) is Outcome.NOT_DONE
    await anyio.sleep(60)
    with pytest.raises(UsageError, match="no such call"):
        await call_end(Context(phone), "another")
    ended = await call_end(keyed(phone, "e1"), call.call)
    assert (ended.to, ended.seconds) == ("Elisabeth Maier", pytest.approx(60.3, abs=0.1))
    assert await call_end(keyed(phone, "e1"), call.call) == ended
    assert await happened(call_start, keyed(phone, "c1")) is await happened(call_end, keyed(phone, "e1"))
    with pytest.raises(UsageError, match="no such call"):
        await call_end(Context(phone))


async def test_the_next_entry_moves_on_when_it_has_ended(phone: PhoneSim) -> None:
    ctx = Context(phone)
    trip = await calendar_next(ctx)
    assert "Innsbruck" in trip.location
    assert trip.starts > datetime.fromtimestamp(NOON, UTC)
    assert (await calendar_next(ctx, "dentist")).title == "Dentist"
    await anyio.sleep((trip.ends - datetime.fromtimestamp(NOON, UTC)).total_seconds())
    assert (await calendar_next(ctx)).id != trip.id
    with pytest.raises(UsageError, match="no such entry"):
        await calendar_next(ctx, "opera")


async def test_an_added_entry_is_found_and_undo_takes_out_only_it(phone: PhoneSim) -> None:
    ctx, starts = keyed(phone, "a1"), datetime.fromtimestamp(NOON, UTC) + timedelta(minutes=5)
    before = list(phone.state.calendar)
    entry = await calendar_add(ctx, "Opera", starts, location="Munich")
    assert await calendar_add(ctx, "Opera", starts, location="Munich") == entry
    assert await happened(calendar_add, ctx) is Outcome.DONE
    assert await calendar_next(ctx, "opera") == entry
    assert entry.ends - entry.starts == timedelta(hours=1)
    await undo(calendar_add, ctx, {}, entry)
    assert phone.state.calendar == before


@pytest.mark.parametrize("starts", [datetime.min, datetime.max])
async def test_a_date_at_the_end_of_time_is_refused_and_not_a_crash(phone: PhoneSim, starts: datetime) -> None:
    with pytest.raises(UsageError, match="no calendar reaches"):
        await calendar_add(Context(phone), "The end", starts)


async def test_a_notification_is_shown_once(phone: PhoneSim) -> None:
    ctx = keyed(phone, "n1")
    shown = await notify_show(ctx, "Leave now", title="Trip")
    assert await notify_show(ctx, "Leave now", title="Trip") == shown
    assert phone.acts("notify.show", Shown) == [shown]
    assert await happened(notify_show, ctx) is Outcome.DONE


async def test_torch_and_clipboard_go_back_to_what_they_were(phone: PhoneSim) -> None:
    ctx = Context(phone)
    lit = await torch_set(ctx, True)
    assert await happened(torch_set, ctx, on=True) is Outcome.DONE
    await undo(torch_set, ctx, {"on": True}, lit)
    assert await happened(torch_set, ctx, on=True) is Outcome.NOT_DONE

    await clipboard_set(ctx, "old")
    copied = await clipboard_set(ctx, "new")
    await undo(clipboard_set, ctx, {"text": "new"}, copied)
    assert (await clipboard_get(ctx)).text == "old"


async def test_undo_leaves_alone_what_the_person_copied_since(phone: PhoneSim) -> None:
    ctx = Context(phone)
    copied = await clipboard_set(ctx, "from the plan")
    await clipboard_set(ctx, "by hand")
    await undo(clipboard_set, ctx, {"text": "from the plan"}, copied)
    assert (await clipboard_get(ctx)).text == "by hand"


async def test_a_picture_is_a_sound_png_and_can_be_larger_than_64_kib(phone: PhoneSim) -> None:
    photo = await camera_take(Context(phone), 192)
    assert len(photo.png) > 64 * 1024
    assert photo.png.startswith(b"\x89PNG\r\n\x1a\n")
    body, chunks = photo.png[8:], {}
    while body:
        (length,) = struct.unpack(">I", body[:4])
        kind, data, check = body[4:8], body[8 : 8 + length], body[8 + length : 12 + length]
        assert zlib.crc32(kind + data) == int.from_bytes(check)
        chunks[kind], body = data, body[12 + length :]
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (photo.width, photo.height) == (192, 144)
    rows = zlib.decompress(chunks[b"IDAT"])
    assert len(rows) == 144 * (1 + 3 * 192)
    assert set(rows[:: 1 + 3 * 192]) == {0}  # every row's filter
    later = await camera_take(Context(phone), 192)
    assert later.png != photo.png


async def test_speech_takes_as_long_as_its_words_and_one_cut_off_is_unknown(phone: PhoneSim) -> None:
    ctx = keyed(phone, "s1")
    before = anyio.current_time()
    said = await speech_say(ctx, "turn left after the bridge")
    assert anyio.current_time() - before == pytest.approx(said.seconds) == pytest.approx(2.3)
    assert await speech_say(ctx, "turn left after the bridge") == said
    assert phone.acts("speech.say", Said) == [said]
    cut = keyed(phone, "s2")
    with anyio.move_on_after(1):
        await speech_say(cut, "turn left after the bridge")
    assert await happened(speech_say, cut) is Outcome.UNKNOWN
    with pytest.raises(UnknownOutcome):
        await speech_say(cut, "turn left after the bridge")


async def test_a_track_plays_to_its_end_and_its_position_is_kept_every_second(phone: PhoneSim) -> None:
    kept: list[float] = []

    class Recording(Context):
        async def checkpoint(self, **state: Any) -> None:
            kept.append(state["position"])

    before = anyio.current_time()
    played = await media_play(Recording(phone), "night  drive")
    assert (played.track, played.finished, played.position) == ("Night Drive", True, 251.0)
    assert anyio.current_time() - before == pytest.approx(251)
    assert len(kept) == 251
    assert kept == sorted(kept)


async def test_a_track_goes_on_where_the_other_device_left_it(phone: PhoneSim) -> None:
    before = anyio.current_time()
    ctx = keyed(phone, "m1", position=200.0)
    played = await media_play(ctx, "Night Drive")
    assert played.finished
    assert anyio.current_time() - before == pytest.approx(51)
    assert await happened(media_play, ctx) is Outcome.DONE


async def test_a_track_that_was_cut_off_goes_on_from_its_checkpoint_but_does_not_begin_again(phone: PhoneSim) -> None:
    ctx = keyed(phone, "m1")
    with anyio.move_on_after(30.5):
        await media_play(ctx, "Night Drive")
    assert ctx.state["position"] == pytest.approx(30)
    assert await happened(media_play, ctx) is Outcome.UNKNOWN
    assert phone.playing is None
    with pytest.raises(UnknownOutcome):
        await media_play(keyed(phone, "m1"), "Night Drive")
    played: Played = await media_play(ctx, "Night Drive")
    assert played.finished


async def test_stop_ends_the_track_where_it_is_and_twice_is_harmless(phone: PhoneSim) -> None:
    async with anyio.create_task_group() as group:
        results: list[Played] = []

        async def play() -> None:
            results.append(await media_play(Context(phone), "Brenner Pass"))

        group.start_soon(play)
        await anyio.sleep(12.25)
        assert (await media_stop(Context(phone))).track == "Brenner Pass"
    assert results[0].position == pytest.approx(12.25)
    assert not results[0].finished
    assert (await media_stop(Context(phone))).track is None


async def test_a_second_track_replaces_the_first(phone: PhoneSim) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(media_play, Context(phone), "Brenner Pass")
        await anyio.sleep(5)
        assert (await media_play(Context(phone), "Alpine Morning")).finished
    with pytest.raises(UsageError, match="no track"):
        await media_play(Context(phone), "Ode to Joy")


async def test_weather_is_the_same_for_the_same_question_and_cold_in_winter(phone: PhoneSim) -> None:
    ctx = Context(phone)
    hours = [datetime(2026, month, 15, 12) for month in (1, 7)]
    winter, summer = [await weather_at(ctx, "Innsbruck, Innrain 52", at) for at in hours]
    assert (winter.place, winter.source) == ("Innsbruck", "simulated")
    assert winter.celsius < summer.celsius - 5
    assert await weather_at(ctx, "innsbruck", hours[0]) == winter
    assert (await weather_at(ctx, "München")).place == "Munich"
    kinds = {(await weather_at(ctx, "Salzburg", hours[0] + timedelta(hours=6 * n))).condition for n in range(200)}
    assert {"clear", "cloudy"} < kinds
    with pytest.raises(UsageError) as unknown:
        await weather_at(ctx, "Inssbruck")
    assert unknown.value.hint == "did you mean Innsbruck?"


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, "There is nothing to report."),
        ({"trip to": "Innsbruck", "distance_km": 163.0, "percent": 40}, "Trip to Innsbruck, distance 163 km and 40 %."),
        ({"weather": {"condition": "snow", "celsius": -3.25}, "old": None}, "Condition snow and -3.2 °C."),
        ({"charging": False, "starts": "2026-03-02T15:00:00+01:00"}, "Not charging and starts Mon 02 Mar, 15:00."),
        ({"with": ["Anna", "Jo"], "note": "two\nlines"}, "With Anna, Jo and note two lines."),
    ],
)
async def test_facts_become_one_sentence(facts: dict[str, Any], text: str) -> None:
    assert (await summary_text(Context(), facts)).text == text


@given(facts=st.dictionaries(st.text(max_size=30), st.text(max_size=60) | st.floats() | st.none(), max_size=40))
@settings(max_examples=50, deadline=None)
def test_a_sentence_is_never_longer_than_its_limit_and_counts_what_it_leaves_out(facts: dict[str, Any]) -> None:
    summary = anyio.run(lambda: summary_text(Context(), facts, limit=80), backend="trio")
    assert len(summary.text) <= 80
    assert summary.used + summary.left_out <= len(facts)


async def test_everything_is_still_there_after_a_restart(tmp_path: Path) -> None:
    where = {"state": tmp_path / "phone", "now": NOON}
    async with pack.open(where) as phone:
        ctx = keyed(phone, "k1")
        sent = await message_send(ctx, "Jonas", "hi")
        await torch_set(ctx, True)
        await clipboard_set(ctx, "kept")
        phone.begin(keyed(phone, "k9"), "speech.say")
        level = phone.advance()
    async with pack.open({"state": tmp_path / "phone", "now": NOON + 3600}) as phone:
        assert phone.acts("message.send", Sent) == [sent]
        assert await happened(message_send, keyed(phone, "k1")) is Outcome.DONE
        assert await happened(speech_say, keyed(phone, "k9")) is Outcome.UNKNOWN
        assert phone.state.torch
        assert (await clipboard_get(Context(phone))).text == "kept"
        assert phone.advance() == level  # a phone that is off drains nothing
    assert (tmp_path / "phone" / "phone.json").stat().st_mode & 0o077 == 0


async def test_what_was_done_is_in_the_file_before_the_answer_is_given(tmp_path: Path) -> None:
    async with pack.open({"state": tmp_path, "now": NOON}) as phone:
        with anyio.move_on_after(0):  # as if killed at the first moment that it waits
            await message_send(keyed(phone, "k1"), "Jonas", "hi")
        kept = json.loads((tmp_path / "phone.json").read_text())
        assert kept["ledger"]["message.send k1"]["text"] == "hi"


async def test_what_the_config_says_of_the_battery_holds_at_every_start(tmp_path: Path) -> None:
    async with pack.open({"state": tmp_path, "battery": 0.3, "charging": True}) as phone:
        assert phone.advance() == pytest.approx(0.3)
        await anyio.sleep(7200)
        assert phone.advance() == 1.0
    async with pack.open({"state": tmp_path, "battery": 0.5}) as phone:
        assert (phone.advance(), phone.state.charging) == (pytest.approx(0.5), True)


async def test_the_calendar_has_something_ahead_again_after_a_week(tmp_path: Path) -> None:
    async with pack.open({"state": tmp_path, "now": NOON}) as phone:
        first = await calendar_next(Context(phone))
    async with pack.open({"state": tmp_path, "now": NOON + 7 * 86400}) as phone:
        assert (await calendar_next(Context(phone))).starts == first.starts + timedelta(days=7)


async def test_a_state_that_cannot_be_read_says_which_file_to_delete(tmp_path: Path) -> None:
    (tmp_path / "phone.json").write_text('{"battery": "green"}')
    with pytest.raises(SlipError, match=r"phone\.json") as error:
        async with pack.open({"state": tmp_path}):
            pass
    assert "delete" in error.value.hint


async def test_a_folder_that_cannot_be_written_is_an_error_and_not_silence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SlipError, match="cannot"):
        async with pack.open({"state": tmp_path / "file"}) as phone:
            phone.plug(True)


async def test_a_setting_that_it_does_not_know_is_named() -> None:
    with pytest.raises(UsageError, match="batery") as error:
        async with pack.open({"batery": 0.5}):
            pass
    assert "battery" in error.value.hint


async def test_the_ledger_forgets_the_oldest_acts_only(phone: PhoneSim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "LEDGER_LIMIT", 3)
    for n in range(5):
        await notify_show(keyed(phone, f"k{n}"), f"{n}")
    assert [shown.text for shown in phone.acts("notify.show", Shown)] == ["2", "3", "4"]


anything = st.text(st.characters(exclude_categories=()), min_size=1, max_size=40)  # lone surrogates too


@given(
    steps=st.lists(st.tuples(st.sampled_from(["copy", "show", "add", "text", "move"]), anything, anything), max_size=6)
)
@example([("show", "0", "\ud800")])
@settings(max_examples=40, deadline=None)
def test_no_text_can_break_the_state_file(steps: list[tuple[str, str, str]]) -> None:
    async def act(folder: Path) -> None:
        async with pack.open({"state": folder, "now": NOON}) as phone:
            for what, a, b in steps:
                ctx = keyed(phone, b)
                match what:
                    case "copy":
                        await clipboard_set(ctx, a)
                    case "show":
                        await notify_show(ctx, a, title=b)
                    case "add":
                        await calendar_add(ctx, a, datetime(2026, 5, 1), location=b)
                    case "text":
                        await message_send(ctx, "Jonas", a)
                    case "move":
                        phone.move(a, 48.0, 11.0)
            before = phone.state
        async with pack.open({"state": folder, "now": phone.now()}) as phone:
            assert phone.state == before

    with tempfile.TemporaryDirectory() as folder:
        anyio.run(act, Path(folder), backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})
