"""Drafts: where they come from, and whether they pay, on costs and chances that are made up."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.runtime_ext.draft import DRAFT, Lookup, Worth


@pytest.mark.parametrize(
    ("tokens", "draft"),
    [
        ([], []),
        ([1], []),
        ([1, 2, 3, 4], []),
        ([5, 1, 2, 7, 8, 9, 1, 2], [7, 8, 9, 1]),  # what followed the two
        ([1, 2, 3, 4, 5, 9, 2, 3, 6, 7, 9, 1, 2, 3], [4, 5, 9, 2]),  # three before two
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2, 4]),  # the last time before others, and on over the end
        ([1, 1, 1], [1, 1, 1, 1]),
        ([7, 1, 2, 1, 2], [1, 2, 1, 2]),
    ],
)
def test_what_followed_the_last_tokens_is_drafted(tokens: list[int], draft: list[int]) -> None:
    assert Lookup(tokens).follow(4) == draft


@given(st.lists(st.integers(0, 3), max_size=60))
def test_a_draft_is_what_a_search_for_the_last_time_finds(tokens: list[int]) -> None:
    lookup, want = Lookup(tokens), []
    for n in (2, 3):
        end = tokens[-n:]
        at = [i for i in range(n, len(tokens)) if tokens[i - n : i] == end] if len(end) == n else []
        if at:
            want = [tokens[at[-1] + i % (len(tokens) - at[-1])] for i in range(DRAFT)]
    assert lookup.follow(DRAFT) == want
    assert lookup.tokens == tokens


FLAT = [1.0] * 8
STEEP = [1.0 * k for k in range(1, 9)]
TILES = [1.0, 1.86, 2.3, 2.76, 2.9, 3.0, 3.1, 3.27]
"""Measured: Q4_0, the shape of Qwen2.5-0.5B, one thread; pass of 1 to 8 tokens."""


def run(costs: list[float], chance: float, decide: Worth | None, drafted: int = 0, passes: int = 3000) -> float:
    """Tokens per time where each drafted token is right by chance: as decided, or always so many."""
    draw, tokens, time = Random(0), 0, 0.0
    for _ in range(passes):
        n = drafted if decide is None else decide.count(DRAFT)
        right = 0
        while right < n and draw.random() < chance:
            right += 1
        seconds = costs[n] * draw.uniform(0.9, 1.3)
        tokens, time = tokens + 1 + right, time + seconds
        if decide is not None:
            decide.took(1 + n, seconds)
            decide.saw(right if n else int(draw.random() < chance), n or 1)
    return tokens / time


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.6, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("costs", [FLAT, TILES, STEEP], ids=["flat", "tiles", "steep"])
def test_what_is_decided_is_near_the_best_that_could_have_been(costs: list[float], chance: float) -> None:
    best = max(run(costs, chance, None, n) for n in range(DRAFT + 1))
    assert run(costs, chance, Worth()) > 0.85 * best


def test_nothing_is_drafted_before_a_pass_was_measured_and_a_draft_would_have_been_right() -> None:
    worth = Worth()
    worth.saw(1, 1)
    assert worth.count(DRAFT) == 0
    worth.took(1, 1.0)
    assert Worth().count(DRAFT) == 0
    for _ in range(20):
        worth.saw(1, 1)
    assert worth.count(DRAFT) == DRAFT
    assert worth.count(3) == 3
    assert worth.count(0) == 0


def test_one_slow_pass_does_not_end_drafts_for_ever() -> None:
    worth = Worth()
    worth.took(1, 1.0)
    for _ in range(50):
        worth.saw(1, 1)
    worth.took(8, 1000.0)
    assert worth.seconds[8] == 8.0  # a pass of eight tokens costs no more than eight of one
    tried = 0
    while not (drafted := worth.count(DRAFT)):
        tried += 1
        assert tried < 500
    assert drafted


def test_the_text_that_changes_is_followed() -> None:
    worth = Worth()
    assert run(TILES, 1.0, worth, passes=200) > 1.5
    assert worth.count(DRAFT)
    run(TILES, 0.0, worth, passes=100)
    assert not worth.count(DRAFT)
