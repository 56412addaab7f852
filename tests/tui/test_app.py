"""The monitor as it runs: frames come in, keys go out, with a source that a test holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from slipstream.core.errors import Denied, NotRunning
from slipstream.tui.app import Monitor
from slipstream.tui.consent_screen import ConsentScreen
from slipstream.tui.consents import GUARD
from slipstream.tui.form_screen import FormScreen
from slipstream.tui.player import Player
from slipstream.tui.screen import frame

from .scenes import BEGAN, rows, texts, trip

pytestmark = pytest.mark.anyio
PLAN = {
    "plan": {"goal": "drive home", "seconds": 3.0, "joules": None, "steps": [
        {"step": "a", "skill": "nav.route", "needs": [], "device": "ioniq-5", "start": 0.0, "end": 2.0, "why": "only"},
    ]},
}  # fmt: skip
SPEC = {"skill": {"inputSchema": {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # Textual's own


class Held:
    """A source whose frames and answers a test gives."""

    def __init__(self, *, read_only: bool = False) -> None:
        self.read_only = read_only
        self.queue: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {
            "plan": PLAN, "run": {"run": {"run": "r1"}}, "skills.show": SPEC, "call": {"device": "ioniq-5", "value": 7},
            "devices.ping": {"device": "hub", "rtt_ms": 1.5}, "runs.cancel": {"run": "r1", "state": "cancelling"},
            "consent.answer": {"by": "pixel-9", "answer": "once"},
        }  # fmt: skip
        self.seq = 0

    def put(self, made: Mapping[str, Any], **more: Any) -> None:
        self.queue.put_nowait({"seq": self.seq, "time": BEGAN, "rows": made, "whole": self.seq == 0, **more})
        self.seq += 1

    async def frames(self, rate: float) -> AsyncIterator[Mapping[str, Any]]:
        while (told := await self.queue.get()) is not None:
            yield told
        self.seq = 0
        raise NotRunning("no daemon is running", "nobody listens", "slip up")

    async def ask(self, verb: str, args: Mapping[str, Any], seconds: float = 1.0) -> dict[str, Any]:
        self.asked.append((verb, dict(args)))
        answer = self.answers[verb]
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    def traces(self) -> list[dict[str, Any]]:
        return [{"run": "r1", "began": BEGAN, "seconds": 4.0, "state": "done", "goal": "drive home"}]

    def recorded(self, run: str) -> tuple[list[dict[str, Any]], str]:
        first = {"seq": 0, "time": BEGAN, "whole": True, "rows": rows(trip())}
        return [first, {"seq": 1, "time": BEGAN + 2, "rows": {}}], "drive home"

    def files(self) -> list[str]:
        return ["trip.json"]

    def plan(self, file: str, inputs: Mapping[str, str]) -> dict[str, Any]:
        return {"plan": {"file": file}, "inputs": dict(inputs)}


class Screen:
    """A monitor under test, and what is on it."""

    def __init__(self, app: Monitor, pilot: Any, held: Held | None) -> None:
        self.app, self.pilot, self.held = app, pilot, held

    def lines(self) -> list[str]:
        return [self.app._canvas.render_line(y).text.rstrip() for y in range(24)]

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.lines())

    async def keys(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def type(self, text: str) -> None:
        names = {":": "colon", " ": "space", ".": "full_stop", "=": "equals_sign", "-": "minus", "_": "underscore"}
        await self.keys(*(names.get(char, char) for char in text), "enter")

    async def until(self, text: str) -> None:
        for _ in range(200):
            if self.shows(text):
                return
            await self.pilot.pause(0.01)
        raise AssertionError(f"{text!r} is not among\n" + "\n".join(self.lines()))


class Running:
    """`async with Running(source) as screen`."""

    def __init__(self, held: Held | None, player: Player | None = None) -> None:
        self._held, self._app = held, Monitor(held, player)

    async def __aenter__(self) -> Screen:
        self._test = self._app.run_test(size=(80, 24))
        pilot = await self._test.__aenter__()
        return Screen(self._app, pilot, self._held)

    async def __aexit__(self, *error: Any) -> None:
        await self._test.__aexit__(*error)


def started(**more: Any) -> Held:
    held = Held(**more)
    held.put(rows(trip()))
    return held


async def test_what_a_frame_says_is_painted_and_each_number_is_a_view() -> None:
    async with Running(held := started()) as screen:
        await screen.until("ioniq-5")
        held.put({"device/hub": {"name": "attic", "kind": "hub", "state": "linked"}})
        await screen.until("attic")
        for key, text in (("2", "▶route"), ("3", "Nothing has moved"), ("4", "Nothing happened"), ("5", "RECORDED")):
            await screen.keys(key)
            await screen.until(text)


async def test_keys_that_follow_a_colon_at_once_are_the_commands() -> None:
    async with Running(started()) as screen:
        await screen.until("ioniq-5")
        await screen.keys("colon", "q", "u", "i")
        assert screen.app.is_running
        assert screen.app._command.input.value == "qui"
        await screen.keys("escape", "2")
        await screen.until("▶route")


async def test_a_plan_is_shown_before_it_is_started() -> None:
    async with Running(held := started()) as screen:
        await screen.until("ioniq-5")
        await screen.type(":run trip.json city=Bonn")
        await screen.until("planned")
        assert held.asked == [("plan", {"plan": {"file": "trip.json"}, "inputs": {"city": "Bonn"}})]
        await screen.keys("enter", "enter")
        assert len(held.asked) == 1  # it was meant for the command
        screen.app._previewed_at -= GUARD
        await screen.keys("enter")
        await screen.until("run r1 began")
        assert held.asked[1][1]["detach"] is True


async def test_a_plan_that_was_only_looked_at_is_not_started() -> None:
    async with Running(held := started()) as screen:
        await screen.until("ioniq-5")
        await screen.type(":plan trip.json")
        await screen.until("planned")
        await screen.keys("escape")
        await screen.keys("enter")
        assert [verb for verb, _ in held.asked] == ["plan"]


async def test_a_skill_is_called_through_a_form_and_its_answer_is_a_page() -> None:
    async with Running(held := started()) as screen:
        await screen.until("ioniq-5")
        await screen.type(":call nav.route")
        while not isinstance(screen.app.screen, FormScreen):
            await screen.pilot.pause()
        await screen.keys("enter")
        assert isinstance(screen.app.screen, FormScreen)  # `to` is needed
        await screen.keys("u", "l", "m", "enter")
        await screen.until('"value": 7')
        assert held.asked[-1] == ("call", {"skill": "nav.route", "args": {"to": "ulm"}, "text": {}})


async def test_what_the_daemon_refuses_is_said() -> None:
    async with Running(held := started()) as screen:
        await screen.until("ioniq-5")
        held.answers["runs.cancel"] = Denied("not you", "a rule says so", "ask")
        await screen.type(":cancel r1")
        await screen.until("not you; a rule says so")


async def test_a_question_comes_up_and_is_answered_after_its_guard() -> None:
    async with Running(held := started()) as screen:
        await screen.until("ioniq-5")
        held.put(
            {"consent/hub/q1": {"id": "q1", "skill": "garage.open", "effect": "once", "asked_at": 1.0, "until": 9e9}}
        )
        while not isinstance(screen.app.screen, ConsentScreen):
            await screen.pilot.pause()
        await screen.keys("y", "n", "a")
        assert held.asked == []
        screen.app._consents._shown_at -= GUARD  # its time has passed
        await screen.keys("y")
        assert held.asked == [("consent.answer", {"id": "q1", "answer": "once", "device": "hub"})]
        held.put({"consent/hub/q1": None})
        await screen.until("pixel-9 said once")


async def test_a_monitor_that_only_reads_asks_for_nothing_that_changes_anything() -> None:
    async with Running(held := started(read_only=True)) as screen:
        await screen.until("READ-ONLY")
        held.put({"consent/hub/q1": {"id": "q1", "skill": "garage.open", "asked_at": 1.0, "until": 9e9}})
        await screen.until("?1 consent")
        await screen.keys("c")
        await screen.until("READ-ONLY answers nothing")
        await screen.type(":cancel r1")
        await screen.until("READ-ONLY: no cancel")
        await screen.type(":run trip.json")
        await screen.until("planned")
        await screen.keys("enter")
        await screen.pilot.pause()
        assert [verb for verb, _ in held.asked] == ["plan"]


async def test_when_the_daemon_goes_it_is_said_and_when_it_is_back_all_is_shown_again() -> None:
    async with Running(held := started()) as screen:
        await screen.until("● live")
        held.queue.put_nowait(None)
        await screen.until("○ no daemon")
        held.put({**rows(), "device/new": {"name": "watch", "state": "linked"}})
        await screen.until("watch")
        await screen.until("● live")


async def test_a_recorded_run_is_opened_played_and_left() -> None:
    async with Running(started()) as screen:
        await screen.until("ioniq-5")
        await screen.keys("5")
        await screen.until("drive home")
        await screen.keys("enter")
        await screen.until("replay")
        await screen.keys("space")
        await screen.type(":goto 1.5")
        await screen.until("1.50 s of 2.00 s")
        await screen.keys("escape")
        await screen.until("● live")


async def test_a_replay_without_a_daemon_shows_what_a_monitor_showed_then() -> None:
    frames, title = Held().recorded("r1")
    async with Running(None, Player(frames, title)) as screen:
        await screen.keys("space")
        await screen.until("▶route")
        drawn = texts(frame(screen.app.ui, screen.app.board, 80, 24, 0.0, 0.0))
        assert [line.rstrip() for line in screen.lines()] == drawn
        await screen.type(":ping hub")
        await screen.until("can only be looked at")
        await screen.keys("escape", "escape")
        await screen.until("q closes it")


async def test_a_filter_is_typed_and_a_wrong_one_says_why() -> None:
    async with Running(started()) as screen:
        await screen.until("ioniq-5")
        await screen.keys("slash")
        await screen.keys("h", "u", "b", "enter")
        await screen.until("/hub  1 of 3")
        await screen.keys("slash", "space", "exclamation_mark", "enter")
        await screen.until("nothing to look for")


async def test_without_colour_the_same_words_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with Running(started()) as screen:
        await screen.until("● ready")
        assert screen.app.no_color


@pytest.mark.parametrize("before", [(), ("colon", "r"), ("slash",), ("question_mark",), ("c",)])
async def test_control_c_closes_it_whatever_is_open(before: tuple[str, ...]) -> None:
    held = Held()
    held.put({**rows(), "consent/hub/q1": {"id": "q1", "skill": "garage.open", "asked_at": 1.0, "until": 9e9}})
    async with Running(held) as screen:
        while not isinstance(screen.app.screen, ConsentScreen):
            await screen.pilot.pause()
        if before != ("c",):
            screen.app._consents._shown_at -= GUARD
            await screen.keys("escape", *before)
        await screen.keys("ctrl+c")
        assert not screen.app.is_running


async def test_a_question_that_came_while_something_was_typed_comes_up_after_it_and_rings() -> None:
    async with Running(held := started()) as screen:
        await screen.until("ioniq-5")
        rung: list[None] = []
        screen.app.bell = lambda: rung.append(None)  # type: ignore[method-assign]
        await screen.keys("colon", "r")
        row = {"id": "q1", "skill": "garage.open", "effect": "once", "asked_at": 1.0, "until": 9e9}
        held.put({"consent/hub/q1": row})
        await screen.until("?1 consent")
        assert len(rung) == 1
        assert not isinstance(screen.app.screen, ConsentScreen)
        await screen.keys("escape")
        screen.app._tick()
        await screen.pilot.pause()
        assert isinstance(screen.app.screen, ConsentScreen)
        screen.app._consents._shown_at -= GUARD
        await screen.keys("escape")
        held.put({"consent/hub/q1": {**row, "until": 8e9}})
        screen.app._tick()
        await screen.pilot.pause()
        assert not isinstance(screen.app.screen, ConsentScreen)  # it was put off
        held.put({"consent/hub/q2": {**row, "id": "q2"}})
        while not isinstance(screen.app.screen, ConsentScreen):
            await screen.pilot.pause()
        assert screen.app._consents.key == "hub/q2"
        assert len(rung) == 2


async def test_folders_are_looked_through_once_for_a_command_not_at_every_key() -> None:
    held, looked = started(), list[int]()
    held.files = lambda: looked.append(1) or ["trip.json"]  # type: ignore[method-assign,func-returns-value]
    async with Running(held) as screen:
        await screen.until("ioniq-5")
        for times in (1, 2):
            await screen.keys("colon", *"run", "space", *"trip")
            assert len(looked) == times
            await screen.keys("escape")
