"""Boards for tests: a mesh of three, a plan on its way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slipstream.tui.board import Board
from slipstream.tui.text import Line, text_of

BEGAN = 1_000_000.0


def step(
    name: str, device: str, state: str, begin: float, end: float, needs: Sequence[str] = (), **more: Any
) -> dict[str, Any]:
    """A step with its times in seconds after the run's beginning."""
    row: dict[str, Any] = {
        "run": "r1", "step": name, "skill": f"skill.{name}", "device": device, "state": state, "needs": list(needs),
        "reads": list(needs), "start": BEGAN + begin, "end": BEGAN + end, "began": None, "ended": None,
        "planned": [device, BEGAN + begin, BEGAN + end], "attempt": 0, "fraction": 0.0, "note": "", "why": "",
        "error": None, "size": 0,
    }  # fmt: skip
    if state in ("done", "failed"):
        row |= {"began": BEGAN + begin, "ended": BEGAN + end}
    if state in ("running", "asking"):
        row["began"] = BEGAN + begin
    return row | more


def device(name: str, **more: Any) -> dict[str, Any]:
    return {
        "id": name, "name": name, "kind": "phone", "state": "linked", "via": None, "rtt_ms": 7.0, "bandwidth": 4e6,
        "battery": 0.62, "charging": False, "load": 0.34, "slots": 4, "skills": 11, "running": 0, "sessions": 0,
        "simulated": False, "leaving": False, "seen": None, "radio": "wifi", "address": "tls://10.0.0.2:7447",
    } | more  # fmt: skip


def rows(steps: Sequence[dict[str, Any]] = (), **run: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "self/": {"id": "pixel-9", "name": "pixel-9", "kind": "phone"},
        "device/pixel-9": device("pixel-9", state="self", rtt_ms=None, bandwidth=None),
        "device/ioniq-5": device("ioniq-5", kind="car", battery=0.81, charging=True, load=0.21),
        "device/hub": device("hub", kind="hub", battery=None, load=0.05, rtt_ms=0.8, radio="ethernet"),
        "skills/pixel-9": {"names": ["calendar.next", "message.send"]},
        "skills/ioniq-5": {"names": ["cabin.preheat", "nav.route"]},
        "skills/hub": {"names": ["home.lights.set"]},
    }
    if steps:
        made["run/r1"] = {"run": "r1", "goal": "drive home", "state": "running", "began": BEGAN, "ended": None,
                          "owner": "pixel-9", "steps": [s["step"] for s in steps], "makespan": 8.0, "why": "scheduled",
                          "error": None} | run  # fmt: skip
    return made | {f"step/r1/{s['step']}": s for s in steps}


def board_of(made: dict[str, Any], events: Sequence[dict[str, Any]] = (), at: float = 4.0) -> Board:
    board = Board()
    board.take({"seq": 0, "time": BEGAN + at, "whole": True, "rows": made, "events": list(events)})
    return board


def trip() -> list[dict[str, Any]]:
    return [
        step("plan", "pixel-9", "done", 0, 1),
        step("calendar", "pixel-9", "done", 1, 2, ["plan"]),
        step("route", "ioniq-5", "running", 2.1, 6, ["calendar"], fraction=0.4, note="rolling"),
        step("preheat", "ioniq-5", "armed", 6, 8, ["route"]),
        step("tell", "pixel-9", "armed", 6.2, 7, ["route"]),
    ]


def texts(lines: Sequence[Line]) -> list[str]:
    return [text_of(line).rstrip() for line in lines]
