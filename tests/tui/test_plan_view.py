"""How a run is drawn: boxes that never touch, results that jump from lane to lane, and whatever else comes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.tui.board import Board
from slipstream.tui.lanes import boxes_of, lay, span_of, straight, stretched
from slipstream.tui.plan_view import PlanState, plan_key, plan_lines
from slipstream.tui.preview import RUN, preview_board
from slipstream.tui.text import width_of

from .scenes import BEGAN, board_of, rows, step, texts, trip

WORDS = st.sampled_from(["a", "bb", "route", "a long name of a step", "漢字の段階", ""])
ANY = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.floats() | st.text(max_size=3), max_size=4)
)
TIMES = st.floats(BEGAN - 10, BEGAN + 1000) | ANY
STATES = st.sampled_from(["done", "running", "armed", "failed", "?"])
STEPS = st.lists(
    st.fixed_dictionaries({
        "step": WORDS, "device": WORDS | ANY, "state": STATES | ANY,
        "needs": st.lists(WORDS, max_size=3) | ANY, "began": TIMES, "ended": TIMES, "start": TIMES, "end": TIMES,
        "planned": st.tuples(WORDS, TIMES, TIMES).map(list) | ANY, "fraction": ANY, "note": ANY,
    }),
    max_size=8, unique_by=lambda s: s["step"],
)  # fmt: skip


def test_a_plan_on_its_way_at_80_columns() -> None:
    shown = texts(plan_lines(board_of(rows(trip())), PlanState(run="r1"), 80, 8, BEGAN + 4))
    assert shown == [
        " ▶ running  2/5 steps  4.0s of about 8.0s  drive home  r1",
        "         0s                2s       3s       ▼                6s",
        "pixel-9 │✓plan──┤✓calendar┤╮                                  ╭➤…tell·┆",
        "ioniq-5 │                  ➤▶route▒▒▒▒▒▒▒▒▒▒▒················▷…preheat········┆",
    ]


def test_steps_that_run_at_once_on_one_device_lie_on_lines_of_their_own() -> None:
    steps = [step(f"s{i}", "hub", "running", 0.5 * i, 6) for i in range(3)]
    shown = texts(plan_lines(board_of(rows(steps)), PlanState(run="r1"), 80, 10, BEGAN + 4))
    assert [line[:10].rstrip() for line in shown[2:]] == ["hub    │▶s0", "       │", "       │"] or len(shown) == 5
    assert sum("▶s" in line for line in shown) == 3


def test_a_step_that_was_to_run_elsewhere_shows_that_it_moved_and_one_that_is_late_where_it_was_to_end() -> None:
    moved = step("b", "ioniq-5", "armed", 5, 7, planned=["hub", BEGAN + 2, BEGAN + 4])
    late = step("a", "pixel-9", "running", 0, 6, planned=["pixel-9", BEGAN, BEGAN + 6])
    over = step("c", "hub", "done", 0, 2, planned=["hub", BEGAN, BEGAN + 5])
    shown = "\n".join(texts(plan_lines(board_of(rows([late, moved, over])), PlanState(run="r1"), 80, 10, BEGAN + 4)))
    assert "⇄b" in shown
    assert "╎" in shown


def test_a_step_without_a_place_is_named() -> None:
    waits = step("later", "", "waiting", 0, 0) | {"start": None, "end": None, "planned": None}
    shown = texts(plan_lines(board_of(rows([*trip(), waits])), PlanState(run="r1"), 80, 10, BEGAN + 4))
    assert shown[-1] == " not placed yet: later"


def test_of_many_jumps_only_those_of_the_chosen_step_are_drawn_until_all_are_asked_for() -> None:
    steps = [step("s0", "pixel-9", "done", 0, 1)]
    steps += [step(f"s{i}", ("hub", "pixel-9")[i % 2], "armed", i, i + 1, [f"s{i - 1}"]) for i in range(1, 40)]
    board, state = board_of(rows(steps)), PlanState(run="r1", cursor="s3")
    assert "36 more results" in texts(plan_lines(board, state, 120, 20, BEGAN))[-1]
    state = plan_key(board, state, "e")
    assert "more results" not in texts(plan_lines(board, state, 120, 20, BEGAN))[-1]


def test_keys_choose_steps_by_time_and_by_device_zoom_move_and_fit() -> None:
    board, state = board_of(rows(trip())), PlanState(run="r1", cursor="plan")
    plan_lines(board, state, 80, 10, BEGAN + 4)
    for key, chosen in (
        ("j", "calendar"),
        ("n", "route"),
        ("p", "calendar"),
        ("G", "tell"),
        ("k", "preheat"),
        ("g", "plan"),
    ):
        state = plan_key(board, state, key)
        assert state.cursor == chosen
    near = plan_key(board, state, "+")
    assert near.zoom > state.rate
    plan_lines(board, near, 80, 10, BEGAN + 4)
    further = plan_key(board, near, "l")
    assert further.origin > near.origin
    assert plan_key(board, further, "f").zoom == 0


def test_the_chosen_step_stays_in_sight_among_many_lanes() -> None:
    steps = [step(f"s{i}", f"dev{i}", "armed", i, i + 1) for i in range(40)]
    board, state = board_of(rows(steps)), PlanState(run="r1", cursor="s0")
    for key in ["j"] * 39:
        state = plan_key(board, state, key)
        shown = plan_lines(board, state, 80, 12, BEGAN)
        assert any(style == "cursor" for line in shown for _, style in line)


def test_a_previewed_plan_is_drawn_like_a_run() -> None:
    answer = {
        "goal": "drive home", "seconds": 3.0, "joules": 12.0, "steps": [
            {"step": "a", "skill": "nav.route", "needs": [], "device": "ioniq-5", "start": 0.0, "end": 2.0, "why": ""},
            {"step": "b", "skill": "x.y", "needs": ["a"], "device": "pixel-9", "start": 2.0, "end": 3.0, "why": ""},
        ],
    }  # fmt: skip
    board = preview_board(answer, {"name": "pixel-9"})
    shown = texts(plan_lines(board, PlanState(run=RUN), 80, 8, 0.0))
    assert shown[0].startswith(" · planned  0/2 steps  3.0s  12 J  drive home")
    assert any("…a" in line for line in shown)
    assert any("…b" in line for line in shown)


@given(
    STEPS,
    st.integers(1, 130),
    st.integers(1, 30),
    st.floats(BEGAN - 5, BEGAN + 50),
    st.text("jknphl+-fgGe", max_size=6),
)
@settings(max_examples=150)
def test_no_rows_and_no_keys_bring_it_down_and_no_line_is_too_wide(
    steps: list[dict[str, Any]], width: int, height: int, now: float, keys: str
) -> None:
    board = Board()
    made = {f"step/r1/{s['step']}": s for s in steps}
    made["run/r1"] = {"steps": [s["step"] for s in steps], "began": BEGAN}
    board.take({"seq": 0, "whole": True, "rows": made})
    state = PlanState(run="r1")
    for key in ["", *keys]:
        state = plan_key(board, state, key)
        lines = plan_lines(board, state, width, height, now)
        assert len(lines) <= height
        for line in lines[1:]:  # the first is cut with the header
            assert width_of(line) <= max(width, 8)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 100), st.floats(0, 30)), min_size=1, max_size=30),
    st.integers(5, 200),
)
def test_boxes_never_touch_and_stretched_time_never_runs_back(raw: list[tuple[int, float, float]], room: int) -> None:
    steps = [step(f"s{i}", f"d{d}", "armed", begin, begin + length) for i, (d, begin, length) in enumerate(raw)]
    board = board_of(rows(steps))
    boxes, _ = boxes_of(board, "r1", BEGAN)
    span = span_of(board, "r1", boxes)
    for scale in (stretched(boxes, span, room), straight(span.begin, room / span.seconds)):
        placed, devices, _ = lay(boxes, "d0", scale)
        by_line: dict[int, list[tuple[int, int]]] = {}
        for box in placed:
            assert devices[box.line] == box.device
            by_line.setdefault(box.line, []).append((box.left, box.right))
        for line in by_line.values():
            for (_, until), (left, _) in pairwise(sorted(line)):
                assert until <= left
        moments = sorted({t for box in boxes for t in (box.begin, box.end)})
        cells = [scale(at) for at in moments]
        assert all(b >= a - 1e-6 for a, b in pairwise(cells))


@pytest.mark.parametrize("seconds", [0.001, 0.5, 9, 100, 5000, 90_000])
def test_the_axis_has_round_numbers_at_every_length(seconds: float) -> None:
    steps = [step("a", "hub", "done", 0, seconds)]
    axis = texts(plan_lines(board_of(rows(steps)), PlanState(run="r1"), 80, 8, BEGAN + 2 * seconds))[1]
    assert axis.split()[0] == "0s"
    assert 3 <= len(axis.split()) <= 9
