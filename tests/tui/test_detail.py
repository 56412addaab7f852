"""What is said of one step, device or handoff; and that nothing in rows brings it down."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from slipstream.tui.board import Board
from slipstream.tui.detail import device_lines, handoff_lines, step_lines
from slipstream.tui.handoff_view import handoff_line
from slipstream.tui.mesh_view import device_head, device_line
from slipstream.tui.text import width_of

from .scenes import BEGAN, board_of, rows, texts, trip

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from([
    "id", "name", "kind", "state", "via", "rtt_ms", "bandwidth", "battery", "charging", "load", "slots", "skills",
    "seen", "names", "run", "step", "skill", "device", "needs", "began", "ended", "start", "end", "planned", "attempt",
    "fraction", "note", "why", "error", "size", "candidates", "refused", "from", "to", "phases", "bytes", "goal",
])  # fmt: skip
ROWS = st.dictionaries(NAMES, VALUES, max_size=20)


def test_a_step_says_where_it_is_why_and_what_every_other_device_would_have_taken() -> None:
    made = rows(trip())
    made["step/r1/route"]["why"] = "2.1 s here, 4 s on pixel-9"
    made["why/r1/route"] = {
        "candidates": [
            {"device": "ioniq-5", "chosen": True, "seconds": 3.9, "ready": 2.0, "end": 5.9, "joules": 12.5},
            {"device": "pixel-9", "chosen": False, "seconds": 4.2, "ready": 2.0, "end": 6.2, "why_not": "is busy then"},
        ],
        "refused": {"hub": "has no nav.route"},
    }
    assert texts(step_lines(board_of(made), "r1", "route", 80)) == [
        " route  skill.route  ▶ running", "",
        "  on               ioniq-5",
        "  because          2.1 s here, 4 s on pixel-9",
        "  run              r1: drive home",
        "  thought at first from 2.1s on, for 3.9s on ioniq-5",
        "  really           from 2.1s on",
        "  so far           40% rolling",
        "  waits for        calendar",
        "  wait for it      preheat, tell", "",
        " Where it could run, and when it would end there",
        "  DEVICE             TAKES  INPUTS    ENDS   ENERGY",
        "> ioniq-5             3.9s    2.0s    5.9s   12.5 J",
        "  pixel-9             4.2s    2.0s    6.2s        -  is busy then", "",
        " Where it cannot run",
        "  hub              has no nav.route",
    ]  # fmt: skip


def test_a_failed_step_says_what_why_and_what_to_try() -> None:
    made = rows(trip())
    made["step/r1/route"] |= {
        "state": "failed",
        "error": {"what": "no route", "why": "no roads", "hint": "go by train"},
    }
    shown = texts(step_lines(board_of(made), "r1", "route", 80))
    assert "  error            no route; no roads" in shown
    assert "  try              go by train" in shown


def test_a_device_says_how_it_is_and_what_it_offers() -> None:
    shown = texts(device_lines(board_of(rows(trip())), "ioniq-5", 80))
    assert shown[0] == " ioniq-5  car  ● ready"
    for line in (
        "  link             7.0 ms there and back, 4MB/s", "  power            81%, charging",
        "  runs now         route (skill.route)", " Offers 2 skills", "  cabin.preheat             nav.route",
    ):  # fmt: skip
        assert line in shown


def test_a_handoff_shows_its_phases_as_bars_in_time() -> None:
    made = rows()
    made["handoff/r1/route/7"] = {
        "run": "r1", "step": "route", "skill": "nav.route", "from": "pixel-9", "to": "ioniq-5", "why": "pixel-9 left",
        "began": BEGAN, "phases": [["decided", BEGAN], ["armed", BEGAN + 0.01], ["running", BEGAN + 0.02]],
        "bytes": None, "state": "done", "owner_before": "pixel-9", "owner_after": "ioniq-5",
    }  # fmt: skip
    board = board_of(made)
    shown = texts(handoff_lines(board, "r1/route/7", 80))
    assert "  owner            pixel-9 before, ioniq-5 after" in shown
    assert [line.split()[0] for line in shown[-3:]] == ["decided", "armed", "running"]
    assert "10ms" in shown[-3]
    line = texts([handoff_line(board, "r1/route/7", 80, BEGAN + 60)])[0]
    assert line == "  60.0s  route            pixel-9 → ioniq-5             20ms       - ✓ done"


def test_what_is_gone_says_so() -> None:
    board = Board()
    for lines in (step_lines(board, "r", "s", 80), device_lines(board, "d", 80), handoff_lines(board, "h", 80)):
        assert len(lines) == 1
        assert "any more" in texts(lines)[0]


def test_a_device_is_one_line_of_80_cells_or_of_more() -> None:
    board = board_of(rows())
    assert texts([device_head(80), device_line(board, "ioniq-5", 80), device_line(board, "hub", 80)]) == [
        "  DEVICE            KIND   BATT        LOAD   LINK SKILLS RUNS SESS  STATE",
        "  ioniq-5           car    ████░  81%+  21%    7ms     11    0    0  ● ready",
        "  hub               hub    -             5%  0.8ms     11    0    0  ● ready",
    ]
    assert texts([device_line(board, "ioniq-5", 120)])[0].split()[5:8] == ["7ms", "4MB/s", "wifi"]


@given(ROWS, ROWS, ROWS, ROWS, st.integers(1, 200))
def test_no_rows_bring_it_down(step: Any, why: Any, device: Any, handoff: Any, width: int) -> None:
    board = board_of({"step/r/s": step, "why/r/s": why, "device/d": device, "skills/d": device, "handoff/h": handoff})
    for lines in (
        step_lines(board, "r", "s", width), device_lines(board, "d", width), handoff_lines(board, "h", width),
        [device_line(board, "d", width), handoff_line(board, "h", width, 0.0)],
    ):  # fmt: skip
        for line in lines:
            assert width_of(line) >= 0
