"""Questions to a person: none is answered by accident, and what moves something needs its device's name in full."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from slipstream.tui.board import Board
from slipstream.tui.consents import GUARD, Answer, Consents

from .scenes import texts


def question(request: str, effect: str = "once", **more: Any) -> dict[str, Any]:
    return {
        "id": request, "skill": "garage.open", "title": "Open the garage", "effect": effect, "args": {"part": 0.5},
        "run": "r1", "step": "garage", "goal": "come home", "device": "v5obp2g", "device_name": "home",
        "caller": "bwlmr7j", "caller_name": "pixel-9", "origin": "bwlmr7j", "origin_name": "pixel-9", "asked_at": 100.0,
        "until": 160.0,
    } | more  # fmt: skip


class Desk:
    """A queue and what it is told, on a clock of its own."""

    def __init__(self) -> None:
        self.board, self.now, self.seq = Board(), 50.0, 0
        self.queue = Consents(self.board)
        self.put({})

    @property
    def wall(self) -> float:
        return self.now + 60

    def put(self, rows: dict[str, Any]) -> None:
        frame = {"seq": self.seq, "time": self.wall, "rows": rows, "whole": self.seq == 0}
        self.board.take(frame)
        self.seq += 1
        self.queue.refresh(self.now, self.wall)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.queue.refresh(self.now, self.wall)

    def press(self, *keys: str) -> list[Answer]:
        return [answer for key in keys if (answer := self.queue.press(key, self.now)) is not None]

    def shown(self) -> list[str]:
        return texts(self.queue.lines(70, self.now, self.wall))


def test_a_question_says_who_asks_for_what_where_and_how_long_is_left() -> None:
    desk = Desk()
    desk.put({"consent/v5obp2g/q1": question("q1", "physical")})
    desk.wait(1)
    assert desk.shown() == [
        " May this be done?", "",
        "  what          Open the garage (garage.open)",
        "  effect        MOVES SOMETHING IN THE WORLD",
        "  on            home  v5obp2g",
        "  asked by      pixel-9  bwlmr7j",
        "  for           step garage of run r1: come home", "",
        "  part          0.5", "",
        " ████████████████░░░░ 49.0s left, then it is denied", "",
        " y once   a always   n no   N never   esc later",
    ]  # fmt: skip


def test_keys_that_were_typed_ahead_answer_nothing() -> None:
    desk = Desk()
    assert desk.press("y", "n") == []
    desk.put({"consent/d/q1": question("q1")})
    assert desk.press("y", "a", "n", "N", "enter") == []
    desk.wait(GUARD - 0.01)
    assert desk.press("y") == []
    desk.wait(0.02)
    assert desk.press("y") == [Answer("q1", "once")]


def test_the_next_question_is_guarded_anew() -> None:
    desk = Desk()
    desk.put({"consent/d/q1": question("q1"), "consent/d/q2": question("q2", asked_at=101.0)})
    desk.wait(1)
    assert desk.press("n") == [Answer("q1", "no")]
    desk.wait(0)
    assert desk.press("n") == []
    desk.wait(1)
    assert desk.press("n") == [Answer("q2", "no")]


def test_what_moves_something_is_allowed_by_typing_its_devices_name_and_denied_by_a_key() -> None:
    desk = Desk()
    desk.put({"consent/d/q1": question("q1", "physical")})
    desk.wait(1)
    assert desk.press("y", *"hom", "enter") == []
    assert "that is not its name" in "\n".join(desk.shown())
    assert desk.press(*"homx", "backspace", *"e", "enter") == [Answer("q1", "once")]
    other = Desk()
    other.put({"consent/d/q1": question("q1", "physical")})
    other.wait(1)
    assert other.press("a", "escape", "n") == [Answer("q1", "no")]


def test_a_device_without_a_name_is_never_allowed_to_move_anything() -> None:
    desk = Desk()
    desk.put({"consent/d/q1": question("q1", "physical", device_name="")})
    desk.wait(1)
    assert desk.press("y", "enter", "enter") == []


def test_it_is_told_how_a_question_ended_that_this_monitor_did_not_answer() -> None:
    desk = Desk()
    desk.put({"consent/d/q1": question("q1")})
    desk.wait(5)
    desk.put({"consent/d/q1": None})
    assert "answered elsewhere" in desk.shown()[0]
    desk.put({"consent/d/q2": question("q2", until=desk.wall + 1)})
    desk.wait(2)
    desk.put({"consent/d/q2": None})
    assert "nobody answered in time, denied" in desk.shown()[0]


def test_an_answer_that_did_not_arrive_leaves_the_question_open() -> None:
    desk = Desk()
    desk.put({"consent/d/q1": question("q1")})
    desk.wait(1)
    desk.press("y")
    desk.wait(1)
    assert desk.queue.key is None
    desk.queue.failed("q1")
    desk.wait(1)
    assert desk.queue.key == "d/q1"


def test_many_and_long_arguments_are_cut_and_counted() -> None:
    desk = Desk()
    args = {f"a{i}": "x" * (500 if i == 0 else 3) for i in range(12)}
    desk.put({"consent/d/q1": question("q1", args=args)})
    desk.wait(1)
    shown = desk.shown()
    assert "  and 4 more: slip consent list" in shown
    assert shown.index("  a1            xxx") < 12


class Asked(RuleBasedStateMachine):
    """Questions come and go, and a person presses keys whenever."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.count = 0
        self.since: dict[str, float] = {}
        self.shown: str | None = None
        self.typed = ""

    def look(self) -> None:
        if self.desk.queue.key != self.shown:
            self.shown, self.typed = self.desk.queue.key, ""
            if self.shown is not None:
                self.since[self.shown] = self.desk.now

    @rule(effect=st.sampled_from(["once", "physical"]))
    def ask(self, effect: str) -> None:
        self.count += 1
        self.desk.put({f"consent/d/q{self.count}": question(f"q{self.count}", effect, asked_at=float(self.count))})
        self.look()

    @precondition(lambda self: self.desk.board.rows["consent"])
    @rule(data=st.data())
    def goes(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.desk.board.rows["consent"])))
        self.desk.put({f"consent/{key}": None})
        self.look()

    @rule(seconds=st.floats(0, 2))
    def wait(self, seconds: float) -> None:
        self.desk.wait(seconds)
        self.look()

    @rule(
        keys=st.lists(st.sampled_from(["y", "a", "n", "N", "h", "o", "m", "e", "enter", "tab", "escape", "backspace"]))
    )
    def press(self, keys: list[str]) -> None:
        for key in keys:
            before = self.desk.queue.key
            physical = before is not None and self.desk.board.rows["consent"][before]["effect"] == "physical"
            typed = self.desk.queue.typed
            for answer in self.desk.press(key):
                assert before is not None
                assert before.endswith(answer.request)
                assert self.desk.now >= self.since[before] + GUARD
                if physical and answer.answer in ("once", "always"):
                    assert (key, typed) == ("enter", "home")
            self.desk.queue.refresh(self.desk.now, self.desk.wall)
            self.look()


Asked.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAsked = Asked.TestCase
