"""The plan view: what is drawn of a run, that bars never overlap, what keys do, and that nothing breaks it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.tui.board import Board
from slipstream.tui.lanes import lay_out, scale, scene
from slipstream.tui.plan_view import PlanState, plan_key, plan_lines
from slipstream.tui.sheet import END, FILL, LEAD, TEXT, Sheet
from slipstream.tui.text import text_of, width_of

BEGAN = 1000.0
DEVICES = {"p": "pixel-9", "i": "ioniq-5", "h": "hub"}


def step(name: str, device: str, start: float, end: float, needs: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """A row; `began`, `ended`, `start`, `end` and `planned` are in seconds since the run began."""
    first = more.pop("planned", (device, start, end))
    at = {key: BEGAN + more.pop(key) for key in ("began", "ended") if key in more}
    return {
        "step": name, "skill": f"skill.{name}", "needs": list(needs), "reads": list(needs), "state": "waiting",
        "device": device, "start": BEGAN + start, "end": BEGAN + end, "fraction": 0.0, "note": "", "why": "",
        "planned": [first[0], BEGAN + first[1], BEGAN + first[2]], "error": None, **at, **more,
    }  # fmt: skip


def done(name: str, device: str, start: float, end: float, needs: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return step(name, device, start, end, needs, **{"state": "done", "began": start, "ended": end, **more})


def board_of(steps: list[dict[str, Any]], seconds: float, run: dict[str, Any] | None = None, **rows: Any) -> Board:
    board = Board()
    there = {f"device/{key}": {"id": key, "name": name} for key, name in DEVICES.items()}
    there["run/r"] = {
        "run": "r", "goal": "ready for the drive", "state": "running", "began": BEGAN, "ended": None, "owner": "p",
        "steps": [row["step"] for row in steps], **(run or {}),
    }  # fmt: skip
    there |= {f"step/r/{row['step']}": row for row in steps} | rows
    board.take({"seq": 0, "whole": True, "time": BEGAN + seconds, "rows": there})
    return board


def picture(board: Board, state: PlanState, width: int = 80, height: int = 21) -> list[str]:
    return [text_of(line).rstrip() for line in plan_lines(board, state, width, height, board.time)]


def drive() -> Board:
    return board_of(
        [
            done("plan", "p", 0, 0.6),
            done("calendar", "p", 0.6, 1.3, ("plan",)),
            done("nav.route", "i", 1.4, 3.6, ("calendar",)),
            step("music.session", "i", 3.7, 8, ("nav.route",), planned=("p", 2, 6.2), state="running", began=3.7,
                 fraction=0.35, note="copying"),
            step("cabin.preheat", "i", 8, 9, ("music.session",)),
        ],
        5.0,
        **{"handoff/r/music.session/1": {"run": "r", "step": "music.session", "from": "p", "to": "i",
                                         "began": BEGAN + 3.7}},
    )  # fmt: skip


def test_a_run_that_goes_on_is_drawn_with_what_was_what_is_and_what_will_be() -> None:
    assert picture(drive(), PlanState("r", "music.session")) == [
        " ready for the drive                ▶ running  5.0s of about 9.0s  3 of 5 steps",
        "         0s              2s          4s   ▼     6s         8s           10s",
        "pixel-9 │✓plan┤✓calen┤╮  ⇄music.se┤╮      ┃",
        "        │             ┊            ┊      ┃",
        "ioniq-5 │             ➤✓nav.route┤ ➤▶music.session 35%▒▒▒▒▷…cabin┤",
        *[""] * 13,
        " ▶ music.session (skill.music.session) on ioniq-5: running for 1.3s of about 4.…",
        "   needs nav.route; needed by cabin.preheat",
        "",
    ]


def test_a_fork_and_a_join_over_three_devices_show_how_results_go() -> None:
    board = board_of(
        [
            done("split", "p", 0, 1.2, planned=("p", 0, 1)),
            done("a", "p", 1.2, 2.5, ("split",), planned=("p", 1.2, 3)),
            step("b", "i", 1.3, 4, ("split",), state="running", began=1.3),
            done("c", "h", 1.3, 2, ("split",), state="failed", error={"what": "no such place"}),
            step("join", "i", 4.1, 5, ("a", "b", "c")),
        ],
        2.6,
    )
    assert picture(board, PlanState("r", "c"), height=12) == [
        " ready for the drive                ▶ running  2.6s of about 5.0s  2 of 5 steps",
        "         0s         1s         2s     ▼    3s         4s          5s         6s",
        "pixel-9 │✓split─────¦╮✓a────────────┤┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄╮",
        "        │            ┊                ┃                ┊",
        "ioniq-5 │            ├┄➤▶b━━━━━━━━━━━━▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▷ ➤…join····┤",
        "        │            ┊                ┃                ┊",
        "hub     │            ╰┄➤✗c────┤┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄╯",
        *[""] * 4,
        " ✗ c (skill.c) on hub: failed in 700ms (predicted 700ms)",
    ]


def test_a_plan_is_drawn_before_it_runs_without_a_now() -> None:
    board = board_of([step("a", "p", 0, 1), step("b", "i", 1, 3, ("a",))], 500, {"state": "planned"})
    assert picture(board, PlanState("r"), height=7) == [
        " ready for the drive                        … planned  about 3.0s  0 of 2 steps",
        "         0s                 1s                 2s                  3s",
        "pixel-9 │…a················┤╮",
        "        │                   ┊",
        "ioniq-5 │                   ➤…b···································┤",
        "",
        " … a (skill.a) on pixel-9: waiting, will take about 1.0s",
    ]


def test_what_was_planned_otherwise_leaves_marks_and_the_chosen_step_casts_a_shadow() -> None:
    board = board_of(
        [done("late", "p", 4, 6, planned=("p", 1, 3)), done("short", "i", 0, 2, planned=("i", 0, 8)),
         done("long", "h", 0, 8, planned=("h", 0, 4))],
        8, {"state": "done", "ended": BEGAN + 8},
    )  # fmt: skip
    assert picture(board, PlanState("r", "short"), height=8)[2:5] == [
        "pixel-9 │       ¦                     ✓late─────────┤",
        "ioniq-5 │✓short───────┤░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░",
        "hub     │✓long────────────────────────¦────────────────────────────┤",
    ]


def test_a_step_of_which_nothing_is_known_but_its_name_is_drawn_after_what_it_needs() -> None:
    board = board_of([done("a", "p", 0, 2), {"step": "b", "needs": ["a"], "device": "i"}], 1)
    seen = scene(board, "r", BEGAN + 1)
    assert [(bar.step, bar.start, bar.end) for bar in seen.bars] == [("a", 0, 2), ("b", 2, 3)]


def test_a_step_that_should_have_begun_is_drawn_from_now_on_and_pushes_what_needs_it() -> None:
    board = board_of([step("a", "p", 0, 1), step("b", "p", 1, 2, ("a",))], 5)
    assert [(bar.start, bar.end) for bar in scene(board, "r", BEGAN + 5).bars] == [(5, 6), (6, 7)]


def test_a_way_that_would_go_back_in_time_is_not_drawn_and_leaves_no_gap() -> None:
    run = {"state": "done", "ended": BEGAN + 10}
    steps = [done("a", "p", 0, 10), done("b", "i", 1, 5, ("a",))]
    lines = picture(board_of(steps, 10, run), PlanState("r"), height=8)
    assert "1 way not drawn" in lines[-1]
    assert "➤" not in "".join(lines)
    begin = scale(scene(board_of(steps, 10, run), "r", BEGAN + 10), 63)(1)
    assert lines[4].index("✓") == len("ioniq-5 │") + begin


def test_the_owner_is_the_first_lane_then_devices_as_they_are_first_used() -> None:
    board = board_of([done("a", "h", 0, 1), done("b", "i", 1, 2), done("c", "p", 2, 3), step("d", "", 3, 4)], 3)
    assert scene(board, "r", BEGAN + 3).lanes == ("p", "h", "i", "")


# -- keys --------------------------------------------------------------------------------------------------------------


def press(board: Board, state: PlanState, keys: str) -> PlanState:
    for key in keys.split():
        state = plan_key(board, state, key)
    return state


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        ("j", "music.session"), ("j j", "cabin.preheat"), ("j j j", "cabin.preheat"), ("j k", "nav.route"),
        ("g", "plan"), ("g k", "plan"), ("G", "cabin.preheat"), ("g j", "calendar"), ("g n", "nav.route"),
        ("g n n", "calendar"), ("g p", "nav.route"), ("g pagedown", "cabin.preheat"), ("x", None), ("h", None),
    ],
)  # fmt: skip
def test_keys_choose_steps_by_time_and_by_device(keys: str, chosen: str | None) -> None:
    assert press(drive(), PlanState("r"), keys).cursor == chosen


@pytest.mark.parametrize(
    ("states", "chosen"),
    [("done running failed", "s1"), ("done failed waiting", "s1"), ("done done", "s0"), ("done waiting asking", "s2")],
)
def test_at_first_the_step_that_people_look_for_is_chosen(states: str, chosen: str) -> None:
    rows = [done(f"s{i}", "p", i, i + 1, state=state) for i, state in enumerate(states.split())]
    state = PlanState("r")
    plan_lines(board_of(rows, 3), state, 80, 21, BEGAN + 3)
    assert state.cursor == chosen


def test_zoom_stays_within_the_run_and_fit_undoes_it() -> None:
    board = drive()
    closer = press(board, PlanState("r"), "+ +")
    assert closer.zoom == pytest.approx(2.25)
    assert press(board, closer, "- -") == PlanState("r", origin=0.0)
    assert press(board, closer, "- - - - -").zoom == 1.0
    assert press(board, closer, "h f") == PlanState("r")


def test_what_runs_stays_in_sight_until_a_person_looks_elsewhere() -> None:
    board = drive()
    closer = press(board, PlanState("r"), "+ + +")
    assert any("▼" in line for line in picture(board, closer))
    earlier = press(board, closer, "h h h h h h")
    assert (earlier.follow, earlier.origin) == (False, 0.0)
    assert not any("▼" in line for line in picture(board, earlier))
    assert any("▼" in line for line in picture(board, press(board, earlier, "F")))


def test_a_chosen_step_comes_into_sight() -> None:
    board = drive()
    state = press(board, PlanState("r"), "+ + + + + g")
    assert any("plan" in line for line in picture(board, state)[2:6])
    state = press(board, state, "G")
    assert any("…" in line for line in picture(board, state)[2:6])


# -- many, and hostile -------------------------------------------------------------------------------------------------


def crowd(devices: int, steps: int) -> Board:
    rows: list[dict[str, Any]] = []
    free, ends = [0.0] * devices, list[float]()
    for i in range(steps):
        on = i * 7 % devices
        begin = max(free[on], ends[i - 11] if i > 10 else 0.0)
        free[on] = end = begin + 0.3 + i % 5 / 4
        ends.append(end)
        rows.append(step(f"s{i}", f"d{on}", begin, end, (f"s{i - 11}",) if i > 10 else ()))
    return board_of(rows, 0.0, {"state": "planned"})


def test_of_fifty_devices_those_around_the_chosen_step_are_shown() -> None:
    board = crowd(50, 200)
    for name in ("s0", "s99", "s199"):
        lines = picture(board, PlanState("r", name), 120, 40)
        assert len(lines) == 40
        assert any(f"…{name}" in line or f"┤{name}" in line for line in lines[2:-3]), name
        assert "↓" in lines[1] or "↑" in lines[1]


def test_ways_that_are_too_many_are_those_of_the_chosen_step_and_the_others_are_counted() -> None:
    board = crowd(50, 200)
    lines = picture(board, PlanState("r", "s40"), 120, 40)
    assert "ways not drawn; e draws them" in lines[-1]
    assert sum(line.count("➤") for line in lines) <= 2
    every = picture(board, PlanState("r", "s40", all_edges=True), 120, 40)
    assert sum(line.count("➤") for line in every) > 10


SECONDS = st.floats(0, 30) | st.sampled_from([0.0, 1e-3, 5.0])
NAMES = st.sampled_from(["a", "nav.route", "音楽を再生する", "❤\ufe0f\ufe0f", "e\u0301e\u0301", "long" * 9, "x y"])


@st.composite
def plans(draw: st.DrawFn) -> Board:
    """A run as a daemon might tell of it."""
    rows: list[dict[str, Any]] = []
    for i in range(draw(st.integers(1, 14))):
        begin, device = draw(SECONDS), draw(st.sampled_from(["p", "i", "h", ""]))
        needs = tuple(row["step"] for row in rows if draw(st.integers(0, 3)) == 0)
        state = draw(st.sampled_from(["waiting", "armed", "running", "done", "failed", "skipped", "asking", "odd"]))
        really = {"began": draw(SECONDS)} if state in ("running", "done", "failed") else {}
        if state in ("done", "failed"):
            really["ended"] = really["began"] + draw(SECONDS)
        planned = (draw(st.sampled_from(["p", "i"])), draw(SECONDS), draw(SECONDS))
        rows.append(step(f"{draw(NAMES)}{i}", device, begin, begin + draw(SECONDS), needs, state=state,
                         planned=planned, fraction=draw(st.floats(0, 1)), **really))  # fmt: skip
    return board_of(rows, draw(SECONDS), {"state": draw(st.sampled_from(["running", "done", "planned"]))})


STATES = st.builds(
    PlanState, run=st.just("r"), cursor=st.none(), zoom=st.floats(1, 5000), origin=st.floats(-1, 2),
    follow=st.booleans(), all_edges=st.booleans(), room=st.integers(0, 200),
)  # fmt: skip
SIZES = st.tuples(st.integers(1, 130), st.integers(1, 50))


@given(plans(), st.floats(1, 5000), st.integers(1, 60))
def test_bars_in_a_row_never_overlap(board: Board, room: float, height: int) -> None:
    seen = scene(board, "r", board.time)
    layout = lay_out(seen, scale(seen, room), height)
    rows: dict[int, list[tuple[int, int]]] = {}
    for box in layout.boxes:
        assert box.left < box.right <= box.until
        rows.setdefault(box.row, []).append((box.left, box.until))
    for there in rows.values():
        there.sort()
        assert all(until <= left for (_, until), (left, _) in pairwise(there))
    for box in layout.boxes:
        lane = seen.bars[box.bar].device
        assert layout.tops[lane] <= box.row
        assert all(top <= layout.tops[lane] or top > box.row for top in layout.tops.values())


@given(plans(), st.floats(20, 5000), st.lists(st.floats(0, 1), max_size=8))
def test_time_goes_on_from_left_to_right_and_fills_the_room(board: Board, room: float, parts: list[float]) -> None:
    seen = scene(board, "r", board.time)
    cell = scale(seen, room)
    assert cell(0) == 0
    assert room - 1 <= cell(seen.span) <= room + 1
    times = [seen.span * part for part in sorted(parts)]
    assert [cell(at) for at in times] == sorted(cell(at) for at in times)
    assert all(abs(cell(cell.seconds(x)) - x) <= 1 for x in range(int(room)))


def test_short_steps_have_room_for_their_names_beside_a_long_one() -> None:
    steps = [done(f"step{i}", "p", i / 1000, (i + 1) / 1000) for i in range(4)]
    board = board_of([*steps, done("long", "p", 0.004, 10)], 10, {"state": "done", "ended": BEGAN + 10})
    assert picture(board, PlanState("r"), height=5)[1:3] == [
        "         0s                             1s          5s              10s",
        "pixel-9 │✓step0┤✓step1┤✓step2┤✓step3┤✓long─────────────────────────┤",
    ]


@given(plans(), STATES, SIZES, st.integers(0, 13))
def test_no_line_is_wider_than_the_screen_and_none_is_too_many(
    board: Board, state: PlanState, size: tuple[int, int], chosen: int
) -> None:
    width, height = size
    names = board.get("run", "r")["steps"]
    lines = plan_lines(board, replace(state, cursor=names[chosen % len(names)]), width, height, board.time)
    assert 0 < len(lines) <= height
    assert all(width_of(line) <= width for line in lines)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 40), NAMES), min_size=2, max_size=20),
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=20),
    st.tuples(st.integers(1, 40), st.integers(1, 13), st.integers(0, 6), st.integers(0, 20)),
)
def test_ways_are_never_drawn_over_text(
    texts: list[tuple[int, int, str]], ways: list[tuple[int, int]], window: tuple[int, int, int, int]
) -> None:
    sheet, bare = Sheet(*window), Sheet(*window)
    for each in (sheet, bare):
        for row, column, _ in texts:
            each.fill(row, column, column + 12, "─", "", FILL)
            each.put(row, column + 11, "┤", "", END)
            each.put(row, column, " ", "", LEAD)
        for row, column, text in texts:
            each.put(row, column, text, "", TEXT)
    for source, to in ways:
        (row, column, _), (to_row, to_column, _) = texts[source % len(texts)], texts[to % len(texts)]
        sheet.way((row, column + 12, column + 12), (to_row, to_column), (source, to), "dim")
    changed = {
        (before, after)
        for line, other in zip(bare.lines(), sheet.lines(), strict=True)
        for before, after in zip(text_of(line), text_of(other), strict=True)
        if before != after
    }
    assert {before for before, _ in changed} <= set(" ─┤")
    assert {after for _, after in changed} <= set("┊┄╮╯╭╰┤├┬┴┼➤")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["a", "b", "c", "p", "i", "running", "done", "waiting", 1e308, -1e300, 1e12]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
STEP = st.dictionaries(
    st.sampled_from(["step", "needs", "reads", "state", "device", "began", "ended", "start", "end", "planned",
                     "fraction", "note", "why", "error", "skill", "attempt", "size"]), ANY, max_size=12,
)  # fmt: skip
RUN = st.fixed_dictionaries(
    {"steps": st.lists(st.sampled_from(["a", "b", "c"]) | ANY, max_size=6) | ANY},
    optional={"state": ANY, "began": ANY, "ended": ANY, "owner": ANY, "goal": ANY, "error": ANY},
)
KEYS = st.lists(st.sampled_from(["j", "k", "n", "p", "h", "l", "+", "-", "f", "F", "e", "g", "G", "x"]), max_size=12)


@settings(max_examples=300)
@given(RUN, st.fixed_dictionaries(dict.fromkeys("abc", STEP)), ANY, ANY, SIZES, KEYS, ANY)
def test_nothing_that_a_daemon_sends_breaks_it(
    run: dict[str, Any], steps: dict[str, Any], handoff: Any, why: Any, size: tuple[int, int], keys: list[str], at: Any
) -> None:
    board = Board()
    rows = {f"step/r/{name}": row for name, row in steps.items()}
    moved = {"handoff/r/a/1": {"run": "r", "step": "a", "from": handoff, "to": "p", "began": at}}
    board.take({"seq": 0, "whole": True, "time": at, "rows": {"run/r": run, "why/r/a": why, **rows, **moved}})
    state = PlanState("r")
    for key in keys:
        state = plan_key(board, state, key)
        lines = plan_lines(board, state, *size, board.time)
        assert 0 < len(lines) <= size[1]
        assert all(width_of(line) <= size[0] for line in lines)
