"""A plan that did not begin, as rows of a board: so the same views show how it would run, and why so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .board import Board, Row, number, word

RUN: Final = "preview"
"""Id of the run that is shown; its state is `planned`."""


def preview_board(answer: Mapping[str, Any], me: Row) -> Board:
    """A board with what the verb `plan` answered, and `me`, the row of the device that would own the run.

    The run begins at second 0; devices are known by their names alone. What is not of the answer's form is left out.
    """
    names = {word(me.get("name")): word(me.get("id"))}

    def device(name: Any) -> str:
        return names.get(word(name)) or word(name)

    told = answer.get("steps")
    steps = [step for step in told if isinstance(step, Mapping)] if isinstance(told, list) else []
    steps = [step for step in steps if word(step.get("step"))]
    rows: dict[str, Any] = {"self/": dict(me), f"device/{word(me.get('id'))}": dict(me)}
    for step in steps:
        name, where = word(step.get("step")), device(step.get("device"))
        rows.setdefault(f"device/{where}", {"id": where, "name": word(step.get("device"))})
        rows[f"step/{RUN}/{name}"] = {
            "run": RUN, "step": name, "skill": step.get("skill"), "needs": step.get("needs"), "state": "waiting",
            "device": where, "start": step.get("start"), "end": step.get("end"), "why": step.get("why"),
        }  # fmt: skip
        rows[f"why/{RUN}/{name}"] = {key: step.get(key) for key in ("why", "candidates", "refused")}
    rows[f"run/{RUN}"] = {
        "run": RUN, "goal": answer.get("goal"), "state": "planned", "began": 0.0, "owner": word(me.get("id")),
        "steps": [word(step.get("step")) for step in steps], "makespan": number(answer.get("seconds")),
        "late": answer.get("late"),
    }  # fmt: skip
    board = Board()
    board.take({"seq": 0, "whole": True, "time": 0.0, "rows": rows})
    return board
