"""A board is what the frames say, whatever order, gaps and nonsense they come in; and text in it is harmless."""

from __future__ import annotations

import unicodedata
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from slipstream.tui.board import Board
from slipstream.tui.text import cell_len, duration, fit, harmless, plain, right, size

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["device/a", "device/b", "run/r", "step/r/s", "unknown/x", "self/", "", "device"])
FRAMES = st.lists(
    VALUES | st.fixed_dictionaries({"seq": st.integers(0, 9), "rows": st.dictionaries(KEYS, VALUES, max_size=4)},
                                   optional={"whole": st.booleans(), "events": VALUES, "gap": VALUES, "time": VALUES}),
    max_size=12,
)  # fmt: skip


def frame(seq: int, rows: dict[str, Any], *, whole: bool = False, **more: Any) -> dict[str, Any]:
    return {"seq": seq, "time": 100.0 + seq, "rows": rows, "whole": whole, **more}


def board_of(*frames: dict[str, Any]) -> Board:
    board = Board()
    for each in frames:
        board.take(each)
    return board


def test_rows_are_those_of_the_last_frame_that_named_them() -> None:
    board = board_of(
        frame(0, {"device/a": {"name": "pixel"}, "device/b": {"name": "ioniq"}}, whole=True),
        frame(1, {"device/a": {"name": "pixel-9"}, "device/b": None}),
    )
    assert dict(board.all("device")) == {"a": {"name": "pixel-9"}}
    assert board.name_of("a") == "pixel-9"


def test_a_whole_frame_forgets_what_it_does_not_name() -> None:
    board = board_of(frame(0, {"device/a": {}, "run/r": {}}, whole=True), frame(7, {"device/b": {}}, whole=True))
    assert [*board.rows["device"], *board.rows["run"]] == ["b"]


def test_after_a_missing_frame_nothing_is_taken_until_a_whole_one_comes() -> None:
    board = board_of(frame(0, {"device/a": {"load": 0.1}}, whole=True), frame(2, {"device/a": {"load": 0.9}}))
    assert board.lost
    assert board.get("device", "a") == {"load": 0.1}
    board.take(frame(3, {"device/a": {"load": 0.5}}))
    assert board.get("device", "a") == {"load": 0.1}
    board.take(frame(0, {"device/a": {"load": 0.7}}, whole=True))
    assert not board.lost
    assert board.get("device", "a") == {"load": 0.7}


def test_a_frame_that_comes_twice_changes_nothing() -> None:
    first, second = frame(0, {}, whole=True), frame(1, {"run/r": {}}, events=[{"kind": "run.started"}])
    board = board_of(first, second, second)
    assert board.seen == 1
    assert not board.lost


def test_missed_events_are_counted_and_shown_as_a_gap() -> None:
    board = board_of(frame(0, {}, whole=True), frame(1, {}, events=[{"kind": "warning"}], gap=12))
    assert board.missed == 12
    assert [e["kind"] for e in board.events] == ["gap", "warning"]


def test_a_changed_row_is_named_with_its_kind() -> None:
    board = board_of(frame(0, {"device/a": {}}, whole=True))
    changed = board.take(frame(1, {"device/a": {"load": 1.0}, "step/r/s": {}}, events=[{"kind": "step.armed"}]))
    assert changed == {"device/a", "step/r/s", "events"}


@given(FRAMES)
def test_no_frames_whatever_they_are_bring_a_board_down(frames: list[Any]) -> None:
    board = Board()
    for each in frames:
        board.take(each)
    for kind, rows in board.rows.items():
        assert all(isinstance(row, dict) for row in rows.values()), kind


@given(st.text() | st.text("a\u0301\u0489\u200d\u202e\x1b[]", max_size=30))
def test_text_from_elsewhere_neither_steers_a_terminal_nor_paints_over_its_neighbours(text: str) -> None:
    shown = plain(text)
    assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for c in shown)
    marks = 0
    for char in shown:
        marks = marks + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        assert marks <= 2


@given(VALUES)
def test_what_is_harmless_stays_as_it_is(value: Any) -> None:
    once = harmless(value)
    assert repr(harmless(once)) == repr(once)


@given(st.text(), st.integers(0, 40))
def test_fitted_text_takes_exactly_its_cells(text: str, width: int) -> None:
    assert cell_len(fit(plain(text), width)) == width
    assert cell_len(right(plain(text), width)) == width


def test_lengths_of_time_and_sizes_take_at_most_six_cells() -> None:
    assert [duration(s) for s in (None, 0, 0.34, 2.14, 99.94, 840, 12_600, 200_000)] == [
        "-", "0ms", "340ms", "2.1s", "99.9s", "14m", "3.5h", "2d",
    ]  # fmt: skip
    assert [size(n) for n in (None, 0, 512, 4200, 17e6, 2.5e9)] == ["-", "0B", "512B", "4.2kB", "17MB", "2.5GB"]
    for exponent in range(-4, 7):
        for digit in (1, 9.994, 9.996, 5):
            assert len(duration(digit * 10**exponent)) <= 6
            assert len(size(digit * 10**exponent)) <= 7
