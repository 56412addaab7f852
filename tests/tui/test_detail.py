"""Details: all that is known of a step, a device and a handoff is said, in lines that fit; a preview is a board too."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.tui.board import Board
from slipstream.tui.detail import device_lines, handoff_lines, step_lines, wrap
from slipstream.tui.lanes import scene
from slipstream.tui.plan_view import PlanState, plan_lines
from slipstream.tui.preview import RUN, preview_board
from slipstream.tui.text import Line, cell_len, text_of, width_of

BEGAN = 1000.0


def mesh() -> Board:
    """A run of which a step moved to the car and failed there."""
    board = Board()
    board.take({"seq": 0, "whole": True, "time": BEGAN + 5, "rows": {
        "device/p": {"id": "p", "name": "pixel-9"},
        "device/i": {
            "id": "i", "name": "ioniq-5", "kind": "car", "state": "linked", "rtt_ms": 7.25, "bandwidth": 2.1e6,
            "battery": 0.81, "charging": True, "load": 0.21, "slots": 4, "radio": "wifi", "sessions": 2,
            "simulated": True, "address": "192.168.1.7:7447",
        },
        "skills/i": {"names": ["nav.route", "car.soc", "cabin.climate.set", "music.session", "car.speak"]},
        "run/r": {"run": "r", "goal": "ready for the drive", "began": BEGAN, "steps": ["route", "music", "heat"]},
        "step/r/route": {"step": "route", "state": "done", "device": "p", "began": BEGAN, "ended": BEGAN + 2},
        "step/r/heat": {"step": "heat", "needs": ["music"]},
        "step/r/music": {
            "step": "music", "skill": "music.session", "state": "failed", "device": "i", "needs": ["route"],
            "start": BEGAN + 3.7, "end": BEGAN + 8, "began": BEGAN + 3.7, "ended": BEGAN + 4.7, "attempt": 1,
            "planned": ["p", BEGAN + 2, BEGAN + 6.2], "size": 12345, "why": "it ends 1.9 s sooner there",
            "error": {"what": "no sound came out", "why": "a call has the speaker", "hint": "slip runs resume r"},
        },
        "why/r/music": {
            "candidates": [
                {"device": "ioniq-5", "chosen": True, "seconds": 4.3, "ready": 0.2, "end": 4.5, "joules": 3.2},
                {"device": "pixel-9", "chosen": False, "seconds": 6.2, "ready": 0, "end": 6.4, "joules": None,
                 "why_not": "would drain its battery below what is kept for calls"},
                {"device": "watch", "why_not": "it sleeps"},
            ],
            "refused": {"hub": "has no music.session"},
        },
        "handoff/r/music/1": {
            "run": "r", "step": "music", "skill": "music.session", "from": "p", "to": "i", "began": BEGAN + 3.7,
            "why": "another device ends it sooner", "bytes": 4.2e6, "state": "done", "owner_before": "p",
            "owner_after": "i", "phases": [["freeze", BEGAN + 3.7], ["copy", BEGAN + 3.75], ["commit", BEGAN + 3.8]],
        },
    }})  # fmt: skip
    return board


def said(lines: list[Line]) -> list[str]:
    return [text_of(line).rstrip() for line in lines]


def test_a_step_says_how_it_is_and_why_it_is_where_it_is() -> None:
    assert said(step_lines(mesh(), "r", "music", 80)) == [
        " music  music.session",
        "",
        "   state         ✗ failed in 1.0s (predicted 4.3s)",
        "   on            ioniq-5",
        "   why there     it ends 1.9 s sooner there",
        "   predicted     3.7s → 8.0s (4.3s)",
        "   at first      2.0s → 6.2s (4.2s) on pixel-9",
        "   in fact       3.7s → 4.7s (1.0s)",
        "   attempts      2",
        "   needs         ✓ route",
        "   needed by     … heat",
        "   result        12.3kB",
        "   error         no sound came out",
        "                 a call has the speaker",
        "                 try: slip runs resume r",
        "",
        "   COULD RUN ON  TAKES  INPUTS    ENDS   ENERGY",
        " → ioniq-5        4.3s   200ms    4.5s    3.2 J",
        "   pixel-9        6.2s     0ms    6.4s        -  would drain its battery below",
        "                                                 what is kept for calls",
        "",
        "   COULD NOT RUN ON",
        "   watch   it sleeps",
        "   hub     has no music.session",
    ]


def test_a_device_says_how_it_is_reached_what_it_runs_and_what_it_can() -> None:
    assert said(device_lines(mesh(), "i", 62)) == [
        " ioniq-5  car  ● ready",
        "",
        "   id            i",
        "   simulated     its hardware is a program",
        "   link          7.2 ms there and back, 2.1MB/s, wifi",
        "   address       192.168.1.7:7447",
        "   battery       81 %, charging",
        "   load          21 % of the processor, runs 4 at once",
        "   sessions      2",
        "",
        "   RUNS",
        "   ready for the drive  1 of 3 steps, 1.0s (33 % of all work)",
        "                 ✗ music",
        "",
        "   SKILLS  5",
        "   cabin.climate.set  car.speak          nav.route",
        "   car.soc            music.session",
    ]


def test_a_handoff_shows_how_long_each_phase_took() -> None:
    assert said(handoff_lines(mesh(), "r/music/1", 60)) == [
        " music  pixel-9 → ioniq-5",
        "",
        "   state         ✓ done",
        "   why           another device ends it sooner",
        "   skill         music.session",
        "   run           r ready for the drive",
        "   began         1.3s ago",
        "   bytes         4.2MB",
        "   owner         pixel-9 before, ioniq-5 after",
        "",
        "   PHASE    AFTER    TOOK",
        "   freeze     0ms",
        "   copy      50ms    50ms  ████████████████",
        "   commit   100ms    50ms                  ████████████████",
    ]


def test_what_is_gone_is_said_to_be_gone() -> None:
    board = Board()
    for lines in (step_lines(board, "r", "s", 40), device_lines(board, "x", 40), handoff_lines(board, "h", 40)):
        assert len(lines) == 1
        assert "any more" in text_of(lines[0])


ANSWER: dict[str, Any] = {
    "goal": "warm the car", "seconds": 3.0, "joules": 9.0, "late": ["heat"],
    "steps": [
        {"step": "where", "skill": "gps.here", "needs": [], "device": "pixel-9", "start": 0.0, "end": 1.0,
         "why": "the only device that has gps.here", "refused": {"hub": "has no gps.here"},
         "candidates": [{"device": "pixel-9", "chosen": True, "seconds": 1.0, "ready": 0, "end": 1.0, "joules": 9.0}]},
        {"step": "heat", "skill": "cabin.heat", "needs": ["where"], "device": "ioniq-5", "start": 1.0, "end": 3.0,
         "why": "the only device that has cabin.heat", "refused": {}, "candidates": []},
    ],
}  # fmt: skip


def test_a_plan_is_shown_with_its_reasons_before_it_is_started() -> None:
    board = preview_board(ANSWER, {"id": "p", "name": "pixel-9"})
    assert said(plan_lines(board, PlanState(RUN, "heat"), 80, 14, 1e9)) == [
        " warm the car                          … planned  about 3.0s  0 of 2 steps  9 J",
        "         0s                 1s                 2s                  3s",
        "pixel-9 │…where············┤╮",
        "        │                   ┊",
        "ioniq-5 │                   ➤…heat································┤",
        *[""] * 6,
        " … heat (cabin.heat) on ioniq-5: waiting, will take about 2.0s",
        "   why there: the only device that has cabin.heat",
        "   needs where; needed by nothing",
    ]
    assert scene(board, RUN, 0.0).lanes == ("p", "ioniq-5")
    reasons = said(step_lines(board, RUN, "where", 80))
    assert "   why there     the only device that has gps.here" in reasons
    assert "   hub     has no gps.here" in reasons
    assert any("too late" in line for line in said(step_lines(board, RUN, "heat", 80)))


ANY = st.text(max_size=8) | st.floats() | st.sampled_from([
    None, True, -1, 0, 3, 1e300, -1e300, 1e12, 1001.5, "", "a", "b", "running", "done", "via", "音楽を再生する" * 9,
    "❤\ufe0f " * 20, "x" * 300, [], ["a", "b", "a"], ["a", 1000.0, 1e300], [["a", 1], "b", None], [{"device": "a"}], {},
    {"what": "x" * 90, "why": "語 " * 40, "hint": 3}, {"a": "b", "語" * 20: "no"}, [{"step": "a"}, {}],
])  # fmt: skip
PHASES = st.lists(st.tuples(st.text(max_size=20), ANY).map(list) | ANY, max_size=5) | ANY
CANDIDATE = st.fixed_dictionaries(
    {"device": ANY, "seconds": ANY}, optional=dict.fromkeys(["chosen", "ready", "end", "joules", "why_not"], ANY)
)
FIELDS = (
    "step", "skill", "needs", "state", "device", "began", "ended", "start", "end", "planned", "fraction", "note", "why",
    "error", "attempt", "size", "name", "kind", "battery", "load", "slots", "seen", "via", "rtt_ms", "bandwidth",
    "sessions", "goal", "names", "steps", "late", "from", "to", "bytes", "owner_before", "joules", "seconds",
)  # fmt: skip
ROW = st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=16)


@settings(max_examples=300)
@given(
    st.fixed_dictionaries({"run/r": ROW, "step/r/a": ROW, "step/r/b": ROW, "device/a": ROW, "skills/a": ROW}),
    st.fixed_dictionaries({"candidates": st.lists(CANDIDATE, max_size=4) | ANY, "refused": ANY}),
    st.fixed_dictionaries({"run": st.just("r"), "phases": PHASES}), ROW, st.integers(1, 130), ANY,
)  # fmt: skip
def test_nothing_that_a_daemon_sends_breaks_it(
    rows: dict[str, Any], why: dict[str, Any], handoff: dict[str, Any], more: dict[str, Any], width: int, at: Any
) -> None:
    rows = {**rows, "why/r/a": why, "handoff/r/a/1": {**more, **handoff}}
    rows["run/r"] = {**rows["run/r"], "steps": ["a", "b"]}
    board = Board()
    board.take({"seq": 0, "whole": True, "time": at, "rows": rows})
    for lines in (step_lines(board, "r", "a", width), device_lines(board, "a", width),
                  handoff_lines(board, "r/a/1", width)):  # fmt: skip
        assert lines
        assert all(width_of(line) <= width for line in lines)


STEP = st.dictionaries(
    st.sampled_from(["step", "device", "start", "end", "needs", "why", "candidates", "refused"]), ANY
)


@given(st.dictionaries(st.sampled_from(["goal", "seconds", "late"]), ANY), st.lists(STEP | ANY, max_size=5) | ANY, ROW)
def test_any_answer_becomes_a_board(answer: dict[str, Any], steps: Any, me: dict[str, Any]) -> None:
    board = preview_board({**answer, "steps": steps}, me)
    lines = plan_lines(board, PlanState(RUN), 80, 21, 0.0)
    assert 0 < len(lines) <= 21
    assert all(width_of(line) <= 80 for line in lines)


@given(st.text(st.sampled_from("ab 語\u0301"), max_size=60), st.integers(2, 20))
def test_a_wrapped_text_keeps_every_character_but_spaces(text: str, width: int) -> None:
    parts = list(wrap(text, width))
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(cell_len(part) <= width for part in parts)
