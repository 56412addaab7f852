"""A plan that did not begin, as a board: the plan view and the details show it as they show a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .board import Board, Row

RUN: Final = "preview"


def preview_board(answer: Mapping[str, Any], me: Row) -> Board:
    """What the verb `plan` answers (goal, seconds, joules, steps with device, start, end, candidates) as rows."""
    steps = [step for step in answer.get("steps") or () if isinstance(step, Mapping)]
    names = {str(step.get("device")) for step in steps} | {str(me.get("name"))}
    rows: dict[str, Any] = {"self/": dict(me), **{f"device/{name}": {"id": name, "name": name} for name in names}}
    rows[f"run/{RUN}"] = {
        "run": RUN, "goal": answer.get("goal"), "state": "planned", "began": None, "ended": None,
        "owner": me.get("name"), "steps": [str(step.get("step")) for step in steps],
        "makespan": answer.get("seconds"), "joules": answer.get("joules"),
    }  # fmt: skip
    for step in steps:
        name = str(step.get("step"))
        device, start, end = str(step.get("device")), step.get("start"), step.get("end")
        rows[f"step/{RUN}/{name}"] = {
            "run": RUN, "step": name, "skill": step.get("skill"), "needs": step.get("needs"), "state": "waiting",
            "device": device, "start": start, "end": end, "planned": [device, start, end], "why": step.get("why"),
        }  # fmt: skip
        could = [c for c in step.get("candidates") or () if isinstance(c, Mapping) and c.get("seconds") is not None]
        rows[f"why/{RUN}/{name}"] = {"why": step.get("why"), "candidates": could, "refused": step.get("refused") or {}}
    board = Board()
    board.take({"seq": 0, "time": 0.0, "whole": True, "rows": rows})
    return board
