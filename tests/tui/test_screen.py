"""The whole screen at 80 x 24, as plain text; and what keys do to it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.tui.board import Board
from slipstream.tui.keys import Do, press
from slipstream.tui.player import Player
from slipstream.tui.screen import frame
from slipstream.tui.text import width_of
from slipstream.tui.ui import VIEWS, Ui, sift

from .scenes import BEGAN, board_of, device, rows, texts, trip

EVENTS = [
    {"seq": 1, "time": BEGAN, "kind": "run.started", "run": "r1", "goal": "drive home", "steps": 5},
    {"seq": 2, "time": BEGAN + 1, "kind": "step.done", "run": "r1", "step": "plan", "skill": "x.plan", "state": "done",
     "device": "pixel-9", "name": "pixel-9", "seconds": 1.0, "bytes": 42},
    {"seq": 3, "time": BEGAN + 2.1, "kind": "step.started", "run": "r1", "step": "route", "skill": "nav.route",
     "device": "ioniq-5", "name": "ioniq-5", "attempt": 0},
    {"seq": 4, "time": BEGAN + 3, "kind": "step.progress", "run": "r1", "step": "route", "skill": "nav.route",
     "device": "ioniq-5", "name": "ioniq-5", "fraction": 0.4, "note": "rolling"},
    {"seq": 5, "time": BEGAN + 3.5, "kind": "warning", "what": "a link is slow", "why": "far away", "hint": "move"},
]  # fmt: skip


def live(**more: Any) -> Ui:
    ui = Ui(**more)
    ui.connected, ui.heard = True, 10.0
    return ui


def show(ui: Ui, board: Board, width: int = 80, height: int = 24) -> list[str]:
    return texts(frame(ui, board, width, height, 10.5, BEGAN + 4))


def type_(ui: Ui, board: Board, *keys: str) -> list[Do | None]:
    done = []
    for key in keys:
        done.append(press(ui, board, key, 24))
        show(ui, board)
    return done


def test_the_mesh() -> None:
    assert show(live(), board_of(rows(trip()), EVENTS)) == [
        " slipstream ● live  on pixel-9  3 devices  1 run                     READ-WRITE",
        "  DEVICE            KIND   BATT        LOAD   LINK SKILLS RUNS SESS  STATE",
        "> pixel-9           phone  ███░░  62%   34%      -     11    0    0  ● self",
        "  hub               hub    -             5%  0.8ms     11    0    0  ● ready",
        "  ioniq-5           car    ████░  81%+  21%    7ms     11    0    0  ● ready",
        *[""] * 17,
        f" {clock(3.5)} warning a link is slow · far away · move",
        " 1 Mesh 2 Plan 3 Handoffs 4 Log 5 Replay  / filter  : command  ? help",
    ]


def test_the_log_follows_until_a_line_is_chosen_and_is_still_while_paused() -> None:
    board, ui = board_of(rows(trip()), EVENTS), live(view="log")
    assert show(ui, board)[1:6] == [
        f" {clock(0)} run.started       drive home, 5 steps",
        f" {clock(1)} step.done         plan done on pixel-9 in 1 s, 42B",
        f" {clock(2.1)} step.started      route runs on ioniq-5",
        f" {clock(3)} step.progress     route 40% rolling",
        f" {clock(3.5)} warning           a link is slow · far away · move",
    ]
    type_(ui, board, "p")
    board.take(
        {"seq": 1, "time": BEGAN + 5, "rows": {}, "events": [{"kind": "node.stopping", "seq": 6, "time": BEGAN}]}
    )
    assert "paused, 1 more since" in show(ui, board)[1]
    type_(ui, board, "p")
    assert "node.stopping" in "\n".join(show(ui, board)[1:-2])


def test_a_filter_shows_what_fits_and_how_much_that_is() -> None:
    board, ui = board_of(rows(trip()), EVENTS), live(view="log")
    sift(ui, "skill:nav.* !progress")
    shown = show(ui, board)
    assert shown[1] == " /skill:nav.* !progress  1 of 5; esc clears it"
    assert "route runs on ioniq-5" in shown[2]
    type_(ui, board, "escape")
    assert len([line for line in show(ui, board)[1:-2] if line]) == 5
    mesh = live()
    sift(mesh, "dev:ioniq*")
    assert show(mesh, board)[3].startswith("> ioniq-5")
    sift(mesh, "dev:nobody")
    assert "None of 3 fits the filter" in show(mesh, board)[3]


@pytest.mark.parametrize(
    ("view", "says"),
    [("mesh", "No other device yet. Let one in: slip pair invite"), ("plan", ":run FILE"), ("log", "Nothing happened"),
     ("handoffs", "slip demo shows it"), ("replay", "No run is recorded yet")],
)  # fmt: skip
def test_an_empty_view_names_the_next_command(view: str, says: str) -> None:
    board = board_of({"self/": {"name": "pixel-9", "id": "p"}, "device/p": device("pixel-9", state="self")})
    assert says in "\n".join(show(live(view=view), board))


def test_no_daemon_and_no_devices_are_different_answers() -> None:
    ui = Ui(lost="no daemon is running: nobody listens")
    shown = "\n".join(show(ui, Board()))
    assert "○ no daemon" in shown
    assert "nobody listens" in shown


def test_silence_is_told_with_its_length() -> None:
    ui = live()
    shown = texts(frame(ui, board_of(rows()), 80, 24, 40.0, BEGAN))
    assert shown[0].startswith(" slipstream ◌ silent 30.0s")


def test_enter_looks_closer_and_escape_goes_back() -> None:
    board, ui = board_of(rows(trip()), EVENTS), live()
    type_(ui, board, "j", "j", "enter")
    assert show(ui, board)[1] == " ioniq-5  car  ● ready"
    type_(ui, board, "escape", "2", "enter")
    assert show(ui, board)[1].startswith(" route  skill.route")
    type_(ui, board, "escape", "4", "k", "k", "enter")
    assert show(ui, board)[1].startswith(" route  skill.route")


def test_help_is_of_the_view_and_any_view_has_it() -> None:
    board, ui = board_of(rows(trip())), live()
    for number, view in enumerate(VIEWS, 1):
        type_(ui, board, str(number), "?")
        shown = "\n".join(show(ui, board))
        assert f" {view.capitalize()}" in shown
        assert "Everywhere" in shown
        type_(ui, board, "escape")


def test_only_letters_that_can_be_undone_do_something_at_once() -> None:
    """Nothing on one lower-case letter starts, stops or answers anything (the design's rule)."""
    made = rows(trip()) | {"consent/hub/q": {"id": "q", "skill": "garage.open"}}
    board = board_of(made, EVENTS)
    for view in VIEWS:
        for key in "abcdefghijklmnopqrstuvwxyz":
            done = press(live(view=view), board, key, 24)
            assert done is None or done.what in ("quit", "consent", "copy", "traces")


def test_a_played_trace_is_shown_by_the_same_views_with_where_it_is() -> None:
    first = {"seq": 0, "time": BEGAN, "whole": True, "rows": rows(trip()), "events": EVENTS[:1]}
    later = [{"seq": i, "time": BEGAN + i, "rows": {}, "events": [event]} for i, event in enumerate(EVENTS[1:], 1)]
    ui = live(view="replay", player=Player([first, *later], "drive home"))
    board = Board()
    assert "▶    0.00 s of 4.00 s  ×1" in show(ui, board)[-3]
    type_(ui, board, ".", ".", "4")
    shown = show(ui, board)
    assert "route runs on ioniq-5" in shown[3]
    assert "‖ replay" in shown[0]
    assert [do.what for do in type_(ui, board, "escape") if do] == ["live"]


def test_questions_are_counted_in_every_view_and_c_asks_for_them() -> None:
    board = board_of(rows(trip()) | {"consent/hub/q1": {"id": "q1"}, "consent/hub/q2": {"id": "q2"}})
    ui = live()
    for number in "12345":
        type_(ui, board, number)
        assert "?2 consent" in show(ui, board)[0]
    assert type_(ui, board, "c") == [Do("consent")]
    assert type_(ui, board_of(rows()), "c") == [None]


KEYS = st.lists(
    st.sampled_from([*"12345?jkgGhlnpfe+-[]/:cyq.,<>0 ", "enter", "escape", "pagedown", "home", "end", "space"]),
    max_size=25,
)  # fmt: skip
NAMES = st.text(max_size=12) | st.sampled_from(
    ["[@click=app.quit]x", "\x1b[31mred", "a\u202eb", "漢字", "x" * 90, "\n"]
)


@given(KEYS, st.integers(20, 200), st.integers(5, 60), NAMES)
@settings(max_examples=150, deadline=None)
def test_every_screen_has_its_size_whatever_is_pressed_and_whatever_things_are_called(
    keys: list[str], width: int, height: int, name: str
) -> None:
    made = rows(trip(), goal=name)
    made["device/ioniq-5"]["name"] = name
    made["step/r1/route"] |= {"note": name, "why": name, "skill": name}
    made["handoff/r1/route/1"] = {
        "step": name,
        "from": "ioniq-5",
        "to": "hub",
        "why": name,
        "began": BEGAN,
        "state": name,
    }
    made["why/r1/route"] = {"candidates": [{"device": name, "why_not": name}], "refused": {name: name}}
    events = [*EVENTS, {"seq": 9, "time": BEGAN, "kind": name, "device": name, "what": name, name: name}]
    board, ui = board_of(made, events), live()
    for key in ["", *keys]:
        press(ui, board, key, height)
        lines = frame(ui, board, width, height, 10.5, BEGAN + 4)
        assert len(lines) == height
        for line in lines:
            assert width_of(line) <= width
            for text, _ in line:
                assert text.isprintable(), repr(text)
                assert "\u202e" not in text


def clock(seconds: float) -> str:
    from slipstream.tui.log_view import clock as of

    return of(BEGAN + seconds)


LOOSE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["s", "r1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
NAMED = st.sampled_from([
    "id", "name", "kind", "state", "via", "rtt_ms", "battery", "load", "skills", "seen", "names", "run", "goal",
    "step", "steps", "skill", "device", "needs", "reads", "began", "ended", "start", "end", "planned", "fraction",
    "why", "error", "candidates", "refused", "from", "to", "phases", "args", "effect", "until", "asked_at", "time",
    "seq", "assignment",
])  # fmt: skip
ROW = st.dictionaries(NAMED, LOOSE, max_size=10)
KEYED = st.sampled_from(
    ["self/", "device/a", "device/b", "skills/a", "run/r1", "step/r1/s", "step/r1/t", "why/r1/s", "consent/a/q",
     "handoff/r1/s/1", "new/x", "step/r1", "run/"]
)  # fmt: skip
STREAM = st.lists(
    st.fixed_dictionaries({"seq": st.integers(0, 4), "rows": st.dictionaries(KEYED, ROW | LOOSE, max_size=6),
                           "events": st.lists(ROW | LOOSE, max_size=4)},
                          optional={"whole": st.booleans(), "gap": LOOSE, "time": LOOSE}),
    max_size=8,
)  # fmt: skip


@given(STREAM, KEYS)
@settings(max_examples=60, deadline=None)
def test_no_stream_whatever_its_order_gaps_and_kinds_brings_a_screen_down(stream: list[Any], keys: list[str]) -> None:
    board, ui = Board(), live()
    for told in [{"seq": 0, "whole": True, "rows": {}}, *stream]:
        board.take(told)
    for key in [*"12345", *keys]:
        press(ui, board, key, 24)
        lines = frame(ui, board, 80, 24, 10.5, BEGAN)
        assert len(lines) == 24
        assert all(width_of(line) <= 80 for line in lines)


@pytest.mark.parametrize("view", ["mesh", "plan", "handoffs", "log"])
@pytest.mark.parametrize("connected", [False, True])
def test_what_may_not_be_so_any_more_says_so_above_all_else_and_nothing_goes_on(view: str, connected: bool) -> None:
    ui, board = live(view=view), board_of(rows(trip()), EVENTS)
    ui.connected = connected
    early, late = (frame(ui, board, 80, 24, now, BEGAN + now) for now in (40.0, 90.0))
    assert len(early) == 24
    assert ("last heard 30.0s ago" if not connected else "for 30.0s") in texts(early)[1]
    assert "how it was then" in texts(early)[1]
    assert {style for line in early[2:-2] for _, style in line} <= {"dim", "cursor"}
    assert early[2:-2] == late[2:-2]


def test_what_is_asked_and_whether_this_monitor_may_answer_is_never_cut() -> None:
    made = rows(trip()) | {"self/": {"id": "p", "name": "long " * 60, "simulated": True}}
    made["consent/hub/q1"] = {"id": "q1", "skill": "garage.open", "asked_at": BEGAN, "until": BEGAN + 60}
    for width in (60, 80, 120):
        first = show(live(read_only=True), board_of(made), width)[0]
        assert "?1 consent" in first
        assert first.endswith("READ-ONLY")


def test_what_an_event_says_beyond_its_line_is_a_key_away() -> None:
    why = "it does not belong to this mesh, and nobody here has ever heard of it; " * 3
    board = board_of(rows(), [{"seq": 1, "time": BEGAN, "kind": "warning", "what": "a stranger", "why": why}])
    ui = live(view="log")
    type_(ui, board, "k", "enter")
    shown = show(ui, board)
    assert " ".join(" ".join(shown[3:-2]).split()).endswith(why.strip())
    type_(ui, board, "escape")
    assert ui.detail is None
