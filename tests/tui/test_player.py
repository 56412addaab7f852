"""A trace that is played shows at each moment what a monitor showed then."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.tui.board import Board
from slipstream.tui.player import SPEEDS, Player


def trace(count: int = 10) -> list[dict[str, Any]]:
    rows = [{"seq": 0, "time": 100.0, "whole": True, "rows": {"device/a": {"load": 0}}}]
    return rows + [
        {"seq": i, "time": 100.0 + i, "rows": {"device/a": {"load": i}}, "events": [{"kind": "warning", "seq": i}]}
        for i in range(1, count)
    ]


def load(player: Player) -> Any:
    return player.board.get("device", "a")["load"]


def test_it_begins_with_the_first_frame_and_plays_at_its_speed() -> None:
    player = Player(trace())
    assert load(player) == 0
    player.advance(2.5)
    assert load(player) == 2
    player.faster(1)
    player.advance(1.0)
    assert load(player) == 4


def test_a_paused_trace_stays_and_goes_on_where_it_was() -> None:
    player = Player(trace())
    player.toggle()
    assert not player.advance(5.0)
    player.toggle()
    assert player.advance(3.0)
    assert load(player) == 3


def test_at_its_end_it_stops_and_play_begins_again() -> None:
    player = Player(trace())
    player.advance(100.0)
    assert load(player) == 9
    assert not player.advance(1.0)
    player.toggle()
    assert load(player) == 0


def test_frames_are_stepped_both_ways() -> None:
    player = Player(trace())
    player.step(1)
    player.step(1)
    assert load(player) == 2
    player.step(-1)
    assert load(player) == 1
    for _ in range(20):
        player.step(-1)
    assert load(player) == 0


def test_speed_has_ends() -> None:
    player = Player(trace())
    for _ in range(20):
        player.faster(1)
    assert player.speed == SPEEDS[-1]
    for _ in range(20):
        player.faster(-1)
    assert player.speed == SPEEDS[0]


def test_an_empty_trace_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Player([])


def test_a_clock_that_was_set_back_does_not_play_backwards() -> None:
    frames = trace(4)
    frames[2]["time"] = 3.0
    player = Player(frames)
    player.advance(1.0)
    assert load(player) == 2
    assert player.end == 103.0


@given(st.lists(st.floats(95, 1100), min_size=1, max_size=8))
@settings(deadline=None)
def test_wherever_it_goes_the_board_is_that_of_the_frames_so_far(moments: list[float]) -> None:
    frames = trace(700)
    player = Player(frames)
    for moment in moments:
        player.seek(moment)
        plain = Board()
        for each in frames:
            if each["time"] <= player.at:
                plain.take(each)
        assert player.board.rows == plain.rows
        assert player.board.events == plain.events
        assert player.board.seen == plain.seen
