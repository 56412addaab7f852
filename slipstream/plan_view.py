"""Plans and runs as plain values for people and programs: who would do what, who did what, how long it took and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .core.device import clean
from .core.errors import UsageError
from .core.events import Event
from .core.node import Node
from .core.plan import Plan, order
from .core.run import StepState
from .core.scheduler import Assignment

Names = Callable[[str], str]


def preview(plan: Plan, found: Assignment, names: Names) -> dict[str, Any]:
    """A plan as it would run now: for each step the device, the predicted times in seconds, the joules as far as known,
    and the reason."""
    return {
        "goal": plan.goal, "seconds": found.makespan, "joules": found.joules, "late": list(found.late),
        "steps": [
            {
                "step": s.id, "skill": s.skill, "needs": list(s.needs), "device": names(found.steps[s.id].device),
                "start": found.steps[s.id].start, "end": found.steps[s.id].end, "why": found.why(s.id),
                "refused": found.refused(s.id),
                "candidates": [
                    {"device": c.device, "chosen": c.chosen, "seconds": c.seconds, "ready": c.ready, "end": c.end,
                     "joules": c.joules, "why_not": c.why_not} for c in found.candidates(s.id)
                ],
            }
            for s in order(plan)
        ],
    }  # fmt: skip


def run(node: Node, run_id: str) -> dict[str, Any]:
    """A run as its owner knows it, live or from the journal.

    Raises:
        UsageError: this device owns no such run.
    """
    row = node.journal.run(run_id)
    if row is None:
        raise UsageError(f"no run {run_id} on this device", hint="slip runs list")
    live = node.runs.by_id.get(run_id)
    measured = _measured(node, run_id)
    rows = node.journal.steps(run_id)
    steps = []
    for planned in row.plan.get("steps", ()):
        known = rows.get(planned["id"])
        at = live.steps[planned["id"]] if live is not None else None
        began, ended = (known.began, known.ended) if known else (None, None)
        seconds = measured.get(planned["id"])
        if seconds is None and began is not None and ended is not None:
            seconds = ended - began
        steps.append({
            "step": planned["id"], "skill": planned["skill"], "state": _state(at, known.state if known else "waiting"),
            "device": node.name_of(known.device) if known and known.device else None,
            "start": None if began is None else began - row.began,
            "end": None if ended is None else ended - row.began, "seconds": seconds,
            "attempts": known.attempt + 1 if known else 0, "why": at.why if at else "",
            "error": known.error if known else None,
        })  # fmt: skip
    interrupted = live is None and row.state in ("running", "cancelling")
    return {
        "run": row.id, "goal": row.plan.get("goal", ""), "state": "interrupted" if interrupted else row.state,
        "began": row.began, "ended": row.ended,
        "seconds": None if row.ended is None else row.ended - row.began,
        "output": row.result, "error": row.error, "steps": steps,
    }  # fmt: skip


def _state(live: StepState | None, known: str) -> str:
    return known if live is None else live.state


def _measured(node: Node, run_id: str) -> dict[str, float]:
    """What the devices themselves measured, as far as the events still remember it."""
    return {
        e.fields["step"]: e.fields["seconds"]
        for e in node.events.recent
        if e.kind == "step.done" and e.fields.get("run") == run_id and e.fields.get("seconds") is not None
    }


def with_name(event: Event, names: Names) -> dict[str, Any]:
    """An event as a map, with the device's name beside its id."""
    told = event.to_wire()
    device = told.get("device")
    if isinstance(device, str) and "name" not in told:
        told["name"] = clean(names(device))
    return told
