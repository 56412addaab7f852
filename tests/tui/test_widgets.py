"""The widgets, in an application of their own: keys in, messages and lines out, nothing as markup."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from textual import events
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from slipstream.tui import consent_screen
from slipstream.tui.bar import CommandBar, FilterBar
from slipstream.tui.board import Board
from slipstream.tui.command import Command
from slipstream.tui.consent_screen import ConsentScreen
from slipstream.tui.consents import GUARD, Answer, Consents
from slipstream.tui.form_screen import FormScreen

from .scenes import board_of, rows, trip

pytestmark = pytest.mark.anyio
HOSTILE = "[@click=app.quit]x[/] [red]\x1b[31m\u202e"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # Textual's own


class Host(App[None]):
    """Nothing but what is tested, and what it said."""

    AUTO_FOCUS = None

    def __init__(self, board: Board, files: Sequence[str] = ()) -> None:
        super().__init__(ansi_color=True)
        self.command, self.filter = CommandBar(lambda: board, lambda: files), FilterBar()
        self.said: list[Any] = []

    def compose(self) -> ComposeResult:
        yield self.command
        yield self.filter

    def on_command_bar_said(self, message: CommandBar.Said) -> None:
        self.said.append(message.command)

    def on_command_bar_left(self, message: CommandBar.Left) -> None:
        self.said.append("left")

    def on_filter_bar_said(self, message: FilterBar.Said) -> None:
        self.said.append(message.text)

    def screen_text(self) -> str:
        width, height = self.size
        lines = self.screen._compositor.render_strips(self.size) if width and height else []
        return "\n".join("".join(segment.text for segment in line) for line in lines)


async def typed(pilot: Pilot[None], text: str, *keys: str) -> None:
    names = {" ": "space", ".": "full_stop", "-": "minus", "'": "apostrophe", "/": "slash", "!": "exclamation_mark"}
    await pilot.press(*(names.get(char, char) for char in text), *keys)
    await pilot.pause()


async def opened(app: Host, pilot: Pilot[None]) -> None:
    app.command.open()
    await pilot.pause()


# -- the command bar ---------------------------------------------------------------------------------------------------


async def test_a_command_is_completed_by_tab_and_said_by_enter() -> None:
    app = Host(board_of(rows(trip())), ["examples/my trip.json"])
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        await typed(pilot, "pin", "tab")
        assert app.command.input.value == "ping "
        await typed(pilot, "io", "tab", "enter")
        assert app.said == [Command("ping", {"device": "ioniq-5"})]
        assert not app.command.display
        await opened(app, pilot)
        await typed(pilot, "run my", "tab", "enter")
        assert app.said[1:] == [Command("run", {"file": "examples/my trip.json"})]


async def test_arrows_choose_among_what_is_offered_and_wrap() -> None:
    app = Host(board_of(rows(trip())))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        await typed(pilot, "ping ", "down", "down", "tab")
        assert app.command.input.value == "ping hub "
        await opened(app, pilot)
        await typed(pilot, "ping ", "up", "tab")
        assert app.command.input.value == "ping hub "
        await opened(app, pilot)
        await typed(pilot, "ping ", "down", "down", "down", "tab")
        assert app.command.input.value == "ping pixel-9 "


async def test_in_the_middle_of_a_line_the_rest_stays() -> None:
    app = Host(board_of(rows(trip())))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        await typed(pilot, "call nav --on hub", *["left"] * len(" --on hub"))
        await typed(pilot, "", "tab")
        assert app.command.input.value == "call nav.route  --on hub"
        await typed(pilot, "to=x", "enter")
        assert app.said == [Command("call", {"skill": "nav.route", "on": "hub"}, {"to": "x"})]


async def test_what_is_wrong_is_said_and_the_line_stays_to_be_mended() -> None:
    app = Host(board_of(rows(trip())))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        await typed(pilot, "pign hub", "enter")
        assert "did you mean ping?" in app.screen_text()
        assert app.command.input.value == "pign hub"
        await typed(pilot, "", "backspace")
        assert "did you mean" not in app.screen_text()
        assert app.said == []
        await typed(pilot, "", "escape")
        assert app.said == ["left"]
        assert not app.command.display


async def test_up_on_an_empty_line_brings_back_what_was_said_newest_first() -> None:
    app = Host(board_of(rows(trip())))
    async with app.run_test(size=(80, 24)) as pilot:
        for line in ("log", "help", "help", "mesh"):
            await opened(app, pilot)
            await typed(pilot, line, "enter")
        found = []
        await opened(app, pilot)
        for key in ("up", "up", "up", "up", "down", "down", "down"):
            await typed(pilot, "", key)
            found.append(app.command.input.value)
        assert found == ["mesh", "help", "log", "log", "help", "mesh", ""]
        await typed(pilot, "", "up", "enter")
        assert app.said[-1] == Command("mesh")


async def test_an_empty_line_is_left() -> None:
    app = Host(Board())
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        await typed(pilot, "  ", "enter")
        assert app.said == ["left"]


async def test_hostile_names_are_text_in_the_bar() -> None:
    board = board_of({"device/x": {"name": HOSTILE, "kind": HOSTILE}, "skills/x": {"names": [HOSTILE]}})
    app = Host(board, [HOSTILE, "[red]plan.json"])
    async with app.run_test(size=(80, 24)) as pilot:
        for verb, shown in (
            ("run ", "[red]plan.json"),
            ("ping ", "[@click=app.quit]x"),
            ("call ", "[@click=app.quit]x"),
        ):
            await opened(app, pilot)
            await typed(pilot, verb)
            text = app.screen_text()
            assert shown in text
            assert "\x1b" not in text
            assert "\u202e" not in text


# -- the filter bar ----------------------------------------------------------------------------------------------------


async def test_a_filter_is_said_by_enter_and_stays_as_it_was_by_esc() -> None:
    app = Host(Board())
    async with app.run_test(size=(80, 24)) as pilot:
        app.filter.open("dev")
        await typed(pilot, "x", "enter")
        app.filter.open("old")
        await typed(pilot, "y", "escape")
        assert app.said == ["devx", None]


# -- questions ---------------------------------------------------------------------------------------------------------


class Clock(SimpleNamespace):
    """Time stands still until a test says so."""

    def __init__(self) -> None:
        super().__init__(at=1000.0)

    def monotonic(self) -> float:
        return float(self.at)

    def time(self) -> float:
        return float(self.at)


class Asking:
    """A screen of questions on a clock that a test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **row: Any) -> None:
        self.clock = Clock()
        monkeypatch.setattr(consent_screen, "time", self.clock)
        self.board, self.seq = Board(), 0
        self.row = {
            "id": "q1", "skill": "garage.open", "title": "Open the garage", "effect": "once", "args": {"part": 0.5},
            "device": "hub", "device_name": "hub", "caller": "p", "caller_name": "pixel-9", "origin": "p",
            "asked_at": 1000.0, "until": 1060.0,
        } | row  # fmt: skip
        self.put(self.row)
        self.app = Host(self.board)
        self.answers: list[tuple[str, str]] = []
        self.screen = ConsentScreen(Consents(self.board), self.answer)

    def put(self, *there: dict[str, Any]) -> None:
        made = {f"consent/hub/{row['id']}": row for row in there}
        self.board.take({"seq": self.seq, "time": self.clock.at, "whole": True, "rows": made})
        self.seq += 1

    async def answer(self, answer: Answer) -> str:
        self.answers.append((answer.request, answer.answer))
        return f"hub said {answer.answer}"

    async def after(self, pilot: Pilot[None], seconds: float, *keys: str) -> None:
        self.clock.at += seconds
        self.screen.look()
        await typed(pilot, "", *keys)


async def test_a_question_is_answered_by_a_key_after_its_guard_and_the_screen_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asking = Asking(monkeypatch)
    async with asking.app.run_test(size=(80, 24)) as pilot:
        await asking.app.push_screen(asking.screen)
        await asking.after(pilot, 0.1, "y", "n", "escape", "enter", "N")
        assert asking.app.screen is asking.screen
        assert asking.answers == []
        assert "read first" in asking.app.screen_text()
        await asking.after(pilot, GUARD)
        text = asking.app.screen_text()
        for part in ("Open the garage (garage.open)", "hub  hub", "pixel-9", "y once   a always", "then it is denied"):
            assert part in text
        await asking.after(pilot, 0, "y")
        await pilot.pause()
        assert asking.answers == [("q1", "once")]
        assert asking.app.screen is not asking.screen


async def test_an_answer_that_did_not_arrive_is_told_and_the_question_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Asking(monkeypatch)

    async def fails(answer: Answer) -> str:
        asking.screen._queue.failed(answer)
        return "the hub is away"

    asking.screen = ConsentScreen(Consents(asking.board), fails)
    async with asking.app.run_test(size=(80, 24)) as pilot:
        await asking.app.push_screen(asking.screen)
        await asking.after(pilot, GUARD, "y")
        await pilot.pause()
        assert asking.app.screen is asking.screen
        assert "the hub is away" in asking.app.screen_text()
        await asking.after(pilot, 0.1, "y")
        assert "read first" in asking.app.screen_text()


async def test_an_answer_arrives_though_the_screen_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Asking(monkeypatch)
    arrives = asyncio.Event()

    async def slow(answer: Answer) -> str:
        await arrives.wait()
        return await asking.answer(answer)

    asking.screen = ConsentScreen(Consents(asking.board), slow)
    async with asking.app.run_test(size=(80, 24)) as pilot:
        await asking.app.push_screen(asking.screen)
        await asking.after(pilot, GUARD, "y", "escape")
        assert asking.app.screen is not asking.screen
        arrives.set()
        await pilot.pause()
        assert asking.answers == [("q1", "once")]


async def test_beside_the_next_question_it_is_told_what_became_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Asking(monkeypatch)
    asking.put(asking.row, asking.row | {"id": "q2", "title": "Close it", "asked_at": 1001.0})
    async with asking.app.run_test(size=(80, 24)) as pilot:
        await asking.app.push_screen(asking.screen)
        await asking.after(pilot, GUARD)
        assert "1 of 2" in asking.app.screen_text()
        await typed(pilot, "", "n")
        await pilot.pause()
        text = asking.app.screen_text()
        assert "Close it" in text
        assert "hub said no" in text
        assert asking.answers == [("q1", "no")]


async def test_esc_puts_a_question_off_and_it_is_guarded_again_when_it_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asking = Asking(monkeypatch)
    async with asking.app.run_test(size=(80, 24)) as pilot:
        await asking.app.push_screen(asking.screen)
        await asking.after(pilot, GUARD, "escape")
        assert asking.app.screen is not asking.screen
        again = ConsentScreen(asking.screen._queue, asking.answer)
        await asking.app.push_screen(again)
        await typed(pilot, "", "y", "a")
        assert asking.answers == []


async def test_what_moves_something_needs_the_name_typed_and_a_paste_is_not_typed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asking = Asking(monkeypatch, effect="physical", device_name="my-hub")
    async with asking.app.run_test(size=(80, 24)) as pilot:
        await asking.app.push_screen(asking.screen)
        await asking.after(pilot, GUARD, "y")
        assert "type the device's name" in asking.app.screen_text()
        asking.screen.post_message(events.Paste("my-hub"))
        await pilot.pause()
        await typed(pilot, "", "enter")
        assert "that is not its name" in asking.app.screen_text()
        await typed(pilot, "my-hub", "enter")
        assert asking.answers == [("q1", "once")]


async def test_when_its_time_is_up_it_is_said_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Asking(monkeypatch)
    async with asking.app.run_test(size=(80, 24)) as pilot:
        await asking.app.push_screen(asking.screen)
        await asking.after(pilot, 59)
        assert "1.0s left" in asking.app.screen_text()
        asking.clock.at += 1
        asking.put()
        await asking.after(pilot, 0)
        assert "nobody answered in time, denied" in asking.app.screen_text()
        assert asking.app.screen is asking.screen


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (200, 60)])
async def test_how_to_answer_is_always_on_the_screen_and_names_are_text(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    args = {HOSTILE: HOSTILE, **{f"a{i}": "word " * 30 for i in range(40)}}
    asking = Asking(
        monkeypatch, title=HOSTILE * 4, device_name=HOSTILE, args=args, effect="physical", run="r", goal="x" * 900
    )
    async with asking.app.run_test(size=size) as pilot:
        await asking.app.push_screen(asking.screen)
        await asking.after(pilot, GUARD)
        text = asking.app.screen_text()
        assert "y once" in text
        assert "esc later" in text
        assert "left, then it is denied" in text
        assert "\x1b" not in text
        if size[1] > 12:
            assert "[@click=app.quit]x" in text


# -- forms -------------------------------------------------------------------------------------------------------------

SCHEMA = {
    "properties": {
        "to": {"type": "string", "description": HOSTILE}, "mode": {"enum": ["fast", "short"], "type": "string"},
        "celsius": {"type": "number", "minimum": 16, "maximum": 28},
    },
    "required": ["to"],
}  # fmt: skip


async def formed(app: Host, pilot: Pilot[None], schema: Any = SCHEMA) -> list[Any]:
    found: list[Any] = []
    await app.push_screen(FormScreen("nav.route", schema), found.append)
    await pilot.pause()
    return found


async def test_a_form_gives_what_was_typed() -> None:
    app = Host(Board())
    async with app.run_test(size=(80, 24)) as pilot:
        found = await formed(app, pilot)
        assert "[@click=app.quit]x[/] [red]" in app.screen_text()
        await typed(pilot, "Bonn", "enter")
        await typed(pilot, "sh", "right", "enter")  # the rest of the word is suggested
        await typed(pilot, "21", "enter")
        assert found == [{"to": "Bonn", "mode": "short", "celsius": 21}]


async def test_each_wrong_field_says_why_and_the_first_one_has_the_cursor() -> None:
    app = Host(Board())
    async with app.run_test(size=(80, 24)) as pilot:
        found = await formed(app, pilot)
        await typed(pilot, "", "down", "down")
        await typed(pilot, "99", "enter")
        text = app.screen_text()
        assert "is needed" in text
        assert "should be at most 28" in text
        assert found == []
        await typed(pilot, "Bonn", "up")
        await typed(pilot, "", "backspace", "backspace")
        await typed(pilot, "20", "enter")
        assert found == [{"to": "Bonn", "celsius": 20}]


async def test_esc_gives_nothing_and_a_skill_without_arguments_is_called_by_enter() -> None:
    app = Host(Board())
    async with app.run_test(size=(80, 24)) as pilot:
        found = await formed(app, pilot)
        await typed(pilot, "x", "escape")
        assert found == [None]
        found = await formed(app, pilot, {"properties": 7})
        await typed(pilot, "", "enter")
        assert found == [{}]


async def test_a_form_with_many_fields_says_what_it_leaves_out_and_scrolls() -> None:
    app = Host(Board())
    schema = {"properties": {f"a{i:02}\x1b[31m": {"type": "string", "title": HOSTILE} for i in range(60)}}
    async with app.run_test(size=(80, 24)) as pilot:
        found = await formed(app, pilot, schema)
        await typed(pilot, "", "up")  # from the first field to the last one
        await typed(pilot, "z")
        text = app.screen_text()
        assert "a39[31m" in text
        assert "\x1b" not in text
        await typed(pilot, "", "enter")
        assert found == [{"a39\x1b[31m": "z"}]
