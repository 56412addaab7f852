"""What a filter lets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.tui.filter import LONGEST, Filter

EVENT = {"kind": "step.progress", "dev": "Ioniq-5 ab12cd", "skill": "nav.route", "run": "r1", "step": "route"}
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
