"""Only what a person decided counts: no key from before, no key for another question, no move without the name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from slipstream.tui.board import Board
from slipstream.tui.consents import GUARD, HARMLESS, TOLD, Answer, Consents
from slipstream.tui.text import cell_len, plain, text_of, width_of

CAR, PIXEL = "c" * 32, "p" * 32
WALL = 1_000_000.0


def asked(request: str = "k1", effect: str = "once", **more: Any) -> dict[str, Any]:
    row = {
        "id": request, "skill": "doors.unlock", "title": "Unlock the doors", "effect": effect, "args": {"door": "all"},
        "run": "r1a2", "step": "unlock", "goal": "take me home", "device": CAR, "device_name": "ioniq-5",
        "caller": PIXEL, "caller_name": "pixel-9", "origin": PIXEL, "origin_name": "pixel-9", "asked_at": WALL,
        "until": WALL + 60,
    }  # fmt: skip
    return {**row, **more}


class Desk:
    """A queue with a board, a virtual clock, and somebody who looks at it."""

    def __init__(self) -> None:
        self.board, self.now, self.seq = Board(), 50.0, 0
        self.rows: dict[str, Any] = {}
        self.consents = Consents(self.board)

    def put(self, *rows: dict[str, Any], events: list[dict[str, Any]] | None = None) -> None:
        """From now on these are the open questions."""
        self.seq += 1
        self.rows = {f"consent/{row['device']}/{row['id']}": row for row in rows}
        self.board.take({"seq": self.seq, "whole": True, "rows": self.rows, "events": events or []})
        self.look()

    def look(self) -> list[str]:
        self.consents.refresh(self.now, WALL + self.now - 50)
        return [text_of(line) for line in self.consents.lines(76, 22, self.now, WALL + self.now - 50)]

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.look()

    def press(self, *keys: str) -> list[Answer]:
        return [answer for key in keys if (answer := self.consents.press(key, self.now)) is not None]


def desk(*rows: dict[str, Any], wait: float = GUARD) -> Desk:
    made = Desk()
    made.put(*rows)
    made.wait(wait)
    return made


@pytest.mark.parametrize(("key", "answer"), [("y", "once"), ("a", "always"), ("n", "no"), ("N", "never")])
def test_one_key_answers_what_moves_nothing(key: str, answer: str) -> None:
    for effect in HARMLESS:
        assert desk(asked(effect=effect)).press(key) == [Answer("k1", answer, CAR)]


@pytest.mark.parametrize("key", ["Y", "A", "enter", "space", "escape", "o", "x", "down", "1", ""])
def test_no_other_key_answers(key: str) -> None:
    assert desk(asked()).press(key) == []


def test_keys_from_before_the_question_answer_nothing() -> None:
    there = desk(asked(), wait=0.0)
    for _ in range(5):
        assert there.press("y", "n", "N", "a", "enter") == []
        there.wait(0.2)
    assert "read first" in there.look()[-1]
    there.wait(GUARD)
    assert "read first" not in there.look()[-1]
    assert there.press("y") == [Answer("k1", "once", CAR)]


def test_somebody_who_types_on_answers_nothing_however_long_it_takes() -> None:
    there = desk(asked(), wait=0.0)
    for letter in "my very long answer to something else, any way" * 3:
        there.wait(0.15)
        assert there.press(letter) == []
    there.wait(GUARD)
    assert there.press("n") == [Answer("k1", "no", CAR)]


def test_a_question_that_nobody_saw_yet_takes_no_key() -> None:
    there = Desk()
    there.board.take({"seq": 1, "whole": True, "rows": {f"consent/{CAR}/k1": asked()}})
    there.consents.refresh(there.now, WALL)
    there.now += 3600
    assert there.press("y") == []
    there.look()
    assert there.press("y") == []
    there.wait(GUARD)
    assert there.press("y")


def test_a_screen_that_comes_up_again_is_new() -> None:
    there = desk(asked(effect="physical"))
    there.press("y", *"ioniq")
    there.consents.appear()
    there.look()
    assert there.press("y", "enter") == []
    there.wait(GUARD)
    assert (there.consents.wanted, there.consents.typed) == ("", "")


@pytest.mark.parametrize(
    "change", [{"effect": "read"}, {"args": {"door": "boot"}}, {"device_name": "hub"}, {"skill": "garage.open"}]
)
def test_a_question_that_says_something_else_now_begins_anew(change: dict[str, Any]) -> None:
    there = desk(asked(effect="once"))
    there.put(asked(effect="once", **change) if "effect" not in change else asked(**change))
    assert there.press("y") == []
    there.wait(GUARD)
    assert there.press("y") == [Answer("k1", "once", CAR)]


def test_what_stays_open_for_longer_is_the_same_question() -> None:
    there = desk(asked())
    there.put(asked(until=WALL + 90))
    assert there.press("y") == [Answer("k1", "once", CAR)]


def test_the_next_question_is_guarded_too_whatever_became_of_the_one_before() -> None:
    there = desk(asked("k1"), asked("k2", asked_at=WALL + 1))
    assert there.press("y") == [Answer("k1", "once", CAR)]
    there.look()
    assert there.press("y", "y") == []
    there.wait(GUARD)
    there.put(asked("k3", asked_at=WALL + 2))  # k2 was answered elsewhere
    assert there.press("y") == []
    there.wait(GUARD)
    assert there.press("n") == [Answer("k3", "no", CAR)]


def test_the_oldest_question_comes_first_and_an_older_one_does_not_push_in() -> None:
    there = desk(asked("late", asked_at=WALL + 5), asked("early", asked_at=WALL + 1))
    assert there.press("n") == [Answer("early", "no", CAR)]
    there.look()
    there.put(asked("late", asked_at=WALL + 5), asked("older", asked_at=WALL - 9))
    there.wait(GUARD)
    assert there.press("n") == [Answer("late", "no", CAR)]


def test_tab_shows_the_next_one_with_its_own_guard() -> None:
    there = desk(asked("k1"), asked("k2", asked_at=WALL + 1))
    assert there.press("tab") == []
    there.look()
    assert there.press("y") == []
    there.wait(GUARD)
    assert there.press("y") == [Answer("k2", "once", CAR)]


@pytest.mark.parametrize("effect", ["physical", "", "PHYSICAL", "teleport"])
@pytest.mark.parametrize(("key", "answer"), [("y", "once"), ("a", "always")])
def test_what_moves_something_is_allowed_by_the_name_in_full_only(effect: str, key: str, answer: str) -> None:
    there = desk(asked(effect=effect))
    assert there.press(key) == []
    for wrong in ("", "ioniq", "ioniq-55", "IONIQ-5", "y", CAR):
        assert there.press(*wrong, "enter") == []
    assert any("not its name" in line for line in there.look())
    assert there.press(*"ioniq-4", "backspace", "5", "enter") == [Answer("k1", answer, CAR)]


@pytest.mark.parametrize(("key", "answer"), [("n", "no"), ("N", "never")])
def test_what_moves_something_is_denied_by_one_key(key: str, answer: str) -> None:
    assert desk(asked(effect="physical")).press(key) == [Answer("k1", answer, CAR)]


def test_letters_of_a_name_are_no_answers_and_esc_goes_back_to_them() -> None:
    there = desk(asked(effect="physical", device_name="nanny's van"))
    assert there.press("y", *"nanny's N", "escape") == []
    assert there.press("n") == [Answer("k1", "no", CAR)]


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("my car", ["m", "y", "space", "c", "a", "r"]),
        ("Zoë", list("Zoe\u0308")),
        (" van ", list("van")),
        ("漢字", list("漢字")),
    ],
)
def test_a_name_may_be_typed_as_keyboards_type_it(name: str, typed: list[str]) -> None:
    assert desk(asked(effect="physical", device_name=name)).press("y", *typed, "enter")


@pytest.mark.parametrize("name", ["", " ", None, 3])
def test_a_device_without_a_name_is_never_allowed_to_move_anything(name: object) -> None:
    there = desk(asked(effect="physical", device_name=name))
    assert there.press("y", "enter", "enter", "space", "enter", *CAR, "enter") == []


def test_an_answer_that_did_not_arrive_can_be_given_again() -> None:
    there = desk(asked())
    assert there.press("y")
    there.look()
    assert there.press("y") == []
    there.consents.failed(Answer("k1", "", CAR))
    there.look()
    there.wait(GUARD)
    assert there.press("n") == [Answer("k1", "no", CAR)]


@pytest.mark.parametrize(
    ("events", "wait", "told"),
    [
        ([{"answer": "no", "by": "pixel-9"}], 1, "pixel-9 said no"),
        ([{"answer": "once", "by": "hub"}], 1, "hub said once"),
        ([{"answer": "nobody", "by": ""}], 1, "nobody answered in time, denied"),
        ([{"answer": "withdrawn", "by": ""}], 1, "nobody wants it now"),
        ([{"answer": "no", "by": "thief", "device": PIXEL}], 1, "answered elsewhere"),
        ([], 1, "answered elsewhere"), ([], 61, "nobody answered in time, denied"), ([{}], 1, "somebody said"),
    ],
)  # fmt: skip
def test_it_is_told_how_a_question_ended(events: list[dict[str, Any]], wait: float, told: str) -> None:
    there = desk(asked(), wait=wait)
    there.put(events=[{"kind": "consent.answered", "request": "k1", "device": CAR, **event} for event in events])
    assert told in there.look()[0]
    there.wait(TOLD)
    assert there.look()[0] == " One moment ..."


def test_the_time_that_is_left_is_counted_down() -> None:
    there = desk(asked(), wait=0.0)
    lines = "\n".join(there.look())
    assert "█" * 20 in lines
    assert "60.0s left, then it is denied" in lines
    there.wait(45)
    lines = "\n".join(there.look())
    assert "█" * 5 + "░" * 15 in lines
    assert "15.0s left" in lines
    there.wait(99)
    assert "░" * 20 + " 0ms left" in "\n".join(there.look())


def test_a_question_says_who_asks_for_what_where_and_how_long_is_left() -> None:
    assert desk(asked(effect="physical"), wait=11.0).look() == [
        " May this be done?", "",
        "  what           Unlock the doors (doors.unlock)",
        "  effect         MOVES SOMETHING IN THE WORLD",
        f"  on             ioniq-5  {CAR}",
        "  asked by       pixel-9  ppppppp",
        "  for            step unlock of run r1a2: take me home", "",
        "  door           all", "",
        " ████████████████░░░░ 49.0s left, then it is denied", "",
        " y once   a always   n no   N never   esc later",
    ]  # fmt: skip


def test_everything_that_a_person_needs_is_on_80_by_24() -> None:
    args = {"note": "x" * 300, "door": "all", "list": [1, {"a": 2}], **{f"more{i:02}": i for i in range(30)}}
    rows = (asked(effect="physical", args=args, origin=CAR, origin_name="watch"), asked("k2", asked_at=WALL + 1))
    there = desk(*rows)
    shown = there.look()
    assert len(shown) == 22
    text = "\n".join(shown)
    for part in (
        "1 of 2", "Unlock the doors (doors.unlock)", "MOVES SOMETHING", "ioniq-5", CAR,
        "pixel-9  ppppppp, for watch  ccccccc",
        "step unlock of run r1a2: take me home", "door           all", "more: slip consent list",
        "left, then it is denied",
        "y once   a always   n no   N never",
    ):  # fmt: skip
        assert part in text
    listed = sum(line.startswith(("  door", "  list", "  more")) for line in shown)
    left_out = next(line for line in shown if "more: slip" in line)
    assert f"and {len(args) - listed} more" in left_out


def test_a_long_argument_says_how_long_it_is() -> None:
    text = "\n".join(desk(asked(args={"text": "word " * 40})).look())
    assert "… (200 characters)" in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ROW = st.fixed_dictionaries({}, optional=dict.fromkeys(asked(), JSON))
KEYS = st.sampled_from(["y", "a", "n", "N", "tab", "enter", "escape", "space", "x", "漢"])


@given(ROW, st.integers(1, 120), st.integers(1, 40), st.lists(KEYS, max_size=4))
def test_no_question_breaks_the_screen_or_is_wider_than_it(
    row: dict[str, Any], width: int, height: int, keys: list[str]
) -> None:
    there = Desk()
    there.board.take({"seq": 1, "whole": True, "rows": {f"consent/{CAR}/k1": row}})
    there.consents.refresh(there.now, WALL)
    for key in keys:
        for line in there.consents.lines(width, height, there.now, WALL):
            assert width < 60 or width_of(line) <= width
            assert all(plain(text, 10_000) == text for text, _ in line)
        there.now += GUARD
        there.press(key)
    assert len(there.consents.lines(width, height, there.now, WALL)) <= max(height, 3)


def test_wide_letters_are_cut_by_cells() -> None:
    lines = desk(asked(title="漢" * 200, args={"名": "字" * 300}, device_name="車" * 64)).look()
    assert all(cell_len(line) <= 76 for line in lines)
    assert sum(line.count("車") for line in lines) == 64


class Anything(RuleBasedStateMachine):
    """Whoever asks, changes, answers or withdraws whatever, and whoever types whatever, in whatever order."""

    @initialize()
    def begin(self) -> None:
        self.desk = Desk()
        self.open: dict[str, dict[str, Any]] = {}
        self.seen: tuple[str, dict[str, Any]] | None = None
        self.since = self.desk.now
        """What is on the screen, and since when."""
        self.letters = ""

    def watch(self) -> None:
        key = self.desk.consents.key
        said = {name: value for name, value in self.open[key].items() if name != "until"} if key in self.open else {}
        if key is None or (key, said) != self.seen:
            self.seen, self.since, self.letters = (None if key is None else (key, said)), self.desk.now, ""

    @rule(
        request=st.sampled_from("klm"),
        effect=st.sampled_from(["read", "once", "physical", "odd"]),
        at=st.integers(0, 9),
    )
    def ask(self, request: str, effect: str, at: int) -> None:
        self.open[f"{CAR}/{request}"] = asked(request, effect, asked_at=WALL + at)
        self.changed()

    @rule(request=st.sampled_from("klm"))
    def end(self, request: str) -> None:
        if self.open.pop(f"{CAR}/{request}", None):
            self.changed()

    def changed(self) -> None:
        self.desk.put(*self.open.values())
        self.watch()

    @rule(seconds=st.sampled_from([0.05, 0.3, 0.59, 0.6, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.desk.wait(seconds)
        self.watch()

    @rule()
    def paste(self) -> None:
        self.desk.consents.pasted(self.desk.now)

    @rule()
    def come_up(self) -> None:
        self.desk.consents.appear()
        self.seen = None
        self.desk.look()
        self.watch()

    @rule(keys=st.lists(st.sampled_from(["y", "a", "n", "N", "tab", "escape", "enter", *"ioniq-5"]), min_size=1))
    def type(self, keys: list[str]) -> None:
        for key in keys:
            self.one(key)

    @rule(first=st.sampled_from("ya"))
    def type_the_name(self, first: str) -> None:
        self.type([first, *"ioniq-5", "enter"])

    def one(self, key: str) -> None:
        shown, early = self.desk.consents.key, self.desk.now < self.since + GUARD
        self.letters = "" if early else self.letters[-50:] + key
        for answer in self.desk.press(key):
            assert not early, "a key from before answered"
            assert self.open[str(shown)]["id"] == answer.request
            if self.open[str(shown)]["effect"] not in HARMLESS and answer.answer in ("once", "always"):
                assert self.letters.endswith("ioniq-5enter"), "it moved without the name"
            self.desk.consents.failed(answer)  # so that it can be answered again
        self.desk.look()
        self.watch()

    @invariant()
    def what_is_shown_is_open(self) -> None:
        key = self.desk.consents.key
        assert key in self.open if self.open else key is None


TestAnything = Anything.TestCase
