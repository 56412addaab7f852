"""What a filter lets through."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.tui.board import Board
from slipstream.tui.filter import LONGEST, Filter
from slipstream.tui.log import Log
from slipstream.tui.mesh_view import device_words

EVENT = {
    "kind": "step.progress",
    "dev": "Ioniq-5 ab12cd",
    "attempt": 2,
    "why": None,
    "skill": "nav.route",
    "run": "r1",
    "step": "route",
}
TEXT = "step.progress route 40% über Bonn"


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("", True), ("route", True), ("ROUTE", True), ("kettle", False), ("!kettle", True), ("!progress", False),
        ("skill:nav.*", True), ("skill:nav", True), ("skill:media.*", False), ("!skill:media.*", True),
        ("dev:ioniq", True), ("device:ioniq-5", True), ("dev:ioniq-?", True), ("dev:io*5", True), ("dev:ab*", True),
        ("dev:pixel", False), ("skill:nav.* dev:ioniq !progress", False), ("skill:nav.* dev:ioniq !done", True),
        ("r*te", True), ("ÜBER", True), ("40%", True), ("(", False), ("skill:n?v.route", True), ("nothere:x", False),
        ("a:b:c", False), ("http://x", False), ("skill:ro?te", False),
        ("attempt:2", True), ("why:none", False), ("!why:none", True), ("in:step.*", True), ("skill:*.*", True),
        ("skill:*v*r*e", True), ("skill:*v*r*t", False), ("dev:i* dev:a*", True), ("dev:i*cd", False), ("p*ss", True),
    ],
)  # fmt: skip
def test_words_are_joined_and_turned_round(text: str, fits: bool) -> None:
    assert Filter.parse(text).fits(EVENT, TEXT) is fits


@pytest.mark.parametrize("text", ["!", "dev:", "a !dev: b"])
def test_a_word_without_anything_to_look_for_is_refused_and_named(text: str) -> None:
    with pytest.raises(ValueError, match="nothing to look for"):
        Filter.parse(text)


def test_a_filter_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        Filter.parse("x" * (LONGEST + 1))


@given(st.text(max_size=60), st.dictionaries(st.sampled_from(["kind", "dev", "skill"]), st.text()), st.text())
def test_no_filter_and_no_row_bring_it_down_and_turned_round_it_says_the_opposite(
    text: str, fields: dict[str, str], row: str
) -> None:
    try:
        chosen = Filter.parse(text)
    except ValueError:
        return
    fits = chosen.fits(fields, row)
    if len(chosen.words) == 1:
        word = text.strip()
        turned = Filter.parse(word[1:] if word.startswith("!") else f"!{word}")
        if len(turned.words) == 1 and turned.words[0].inverted != chosen.words[0].inverted:
            assert turned.fits(fields, row) is not fits


def test_a_device_is_found_by_its_name_and_its_id_wherever_a_row_has_them() -> None:
    event = {"name": "ioniq-5", "device": "ab12cd"}
    for text in ("dev:ioniq", "device:ab12*", "dev:i* dev:ab*"):
        assert Filter.parse(text).fits(event, "")
    assert not Filter.parse("dev:cd12").fits(event, "")


@given(
    st.text("ab*?.", min_size=1, max_size=12), st.lists(st.text("ab.", min_size=1, max_size=8), min_size=1, max_size=3)
)
def test_patterns_are_those_of_the_shell_within_one_word(pattern: str, words: list[str]) -> None:
    fits = Filter.parse(f"f:{pattern}").fits({"f": " ".join(words)}, "")
    if "*" in pattern or "?" in pattern:
        assert fits == any(re.match(fnmatch.translate(pattern), word) for word in words)
        inside = any(re.match(fnmatch.translate(f"*{pattern}*"), word) for word in words)
        assert Filter.parse(pattern).fits({}, " ".join(words)) == inside
    else:
        assert fits == any(pattern in word for word in words)


def test_a_pattern_of_many_stars_takes_no_longer_for_it() -> None:
    # one that goes back would try (400 over 20) ways here
    assert not Filter.parse("f:" + "*a" * 20 + "b").fits({"f": "a" * 400}, "")
    assert not Filter.parse("a*" * 20 + "b").fits({}, "a" * 400)


def test_a_device_in_the_list_is_found_by_its_name_its_id_and_its_kind() -> None:
    board = Board()
    board.take({"seq": 0, "whole": True, "rows": {"device/ab12": {"id": "ab12", "name": "ioniq-5", "kind": "car"}}})
    for text, fits in (
        ("dev:ioniq", True),
        ("dev:ab*", True),
        ("dev:car", True),
        ("kind:car", True),
        ("dev:hub", False),
    ):
        assert Filter.parse(text).fits(*device_words(board, "ab12")) is fits


def test_a_text_that_costs_is_made_only_for_rows_whose_fields_fit() -> None:
    made = []

    def text() -> str:
        made.append(1)
        return "rolling"

    assert not Filter.parse("rolling !x skill:car.*").fits(EVENT, text)
    assert made == []
    assert Filter.parse("rolling !x skill:nav.*").fits(EVENT, text)
    assert made == [1]


def test_the_log_shows_what_fits_of_what_was_and_of_what_comes() -> None:
    board, log = Board(), Log()
    kinds = ["step.started", "step.progress", "step.done"]
    events = [{"seq": i, "time": 1.0, "kind": kinds[i % 3], "run": "r1", "step": f"s{i % 2}", "name": "hub"}
              for i in range(12)]  # fmt: skip
    board.take({"seq": 0, "whole": True, "events": events[:6]})
    log.sift("dev:hub !progress s1")
    log.refresh(board)
    assert [event["seq"] for _, event, _ in log.lines(9)] == [3, 5]
    board.take({"seq": 1, "events": events[6:]})
    log.refresh(board)
    assert [event["seq"] for _, event, _ in log.lines(9)] == [3, 5, 9, 11]


def test_an_event_is_found_by_the_skill_of_its_step_and_the_kind_of_its_device() -> None:
    board, log = Board(), Log()
    rows = {
        "step/r1/route": {"skill": "nav.route"}, "step/r1/tell": {"skill": "message.send"},
        "device/ab12": {"kind": "car"}, "device/cd34": {"kind": "phone"},
    }  # fmt: skip
    told = [("step.started", "route", "ab12"), ("step.progress", "route", "ab12"), ("step.done", "route", "cd34"),
            ("step.started", "tell", "ab12"), ("step.done", "gone", "ab12"), ("link.up", None, {"a": 1})]  # fmt: skip
    events = [{"seq": i, "kind": kind, "run": "r1", "step": step, "device": device, "name": "x", "why": ["odd"]}
              for i, (kind, step, device) in enumerate(told)]  # fmt: skip
    board.take({"seq": 0, "whole": True, "rows": rows, "events": events})
    for text, seen in (("skill:nav.* dev:car !progress", [0]), ("dev:car", [0, 1, 3, 4]), ("skill:nav", [0, 1, 2])):
        log.sift(text)
        log.refresh(board)
        assert [event["seq"] for _, event, _ in log.lines(9)] == seen
