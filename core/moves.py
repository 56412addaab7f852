"""Asking devices to give steps back, so that a step moves only where it cannot have begun."""

from __future__ import annotations

from typing import Any

from .errors import SlipError
from .run import Run, StepState, check_answer

ASK_SECONDS = 3.0
"""How long a device has to answer a message about a run."""


async def given_back(run: Run, s: StepState, device: str) -> dict[str, Any] | None:
    """Ask a device for an armed step; its state there (`absent`: it gave it back), None if the device is silent."""
    content = {"run": run.id, "step": s.step.id, "epoch": s.epoch}
    try:
        answer: dict[str, Any] = await run.mesh.request(device, "slip.disarm", content, run.clock() + ASK_SECONDS)
        if answer != {"state": "absent"}:
            check_answer({s.step.id: answer}, [s.step.id])
    except SlipError:
        return None
    return answer


async def all_given_back(run: Run, device: str) -> bool:
    """Have a device that is back give up what was freed while it was away; false if it is silent.

    Until then nothing of the run may reach it, or it would begin what by now is done elsewhere.
    """
    steps = run.left[device]
    for step in sorted(steps):
        if await given_back(run, run.steps[step], device) is None:
            return False
        steps.discard(step)
    if steps:  # it was away again meanwhile
        return False
    run.left.pop(device, None)
    for s in run.steps.values():
        if s.device == device:
            for need in s.needs:  # who made what it reads may send it there now
                run.steps[need].told = False
    return True


async def cannot_have_begun(run: Run, s: StepState) -> bool:
    """Whether some input that a step of a device that is gone waits for is held back by a device that answers."""
    for need in s.needs:
        producer = run.steps[need]
        if need in s.handed or producer.epoch > 1:  # moved: its result may have come from where it was before
            continue
        if producer.device == s.device or not run.mesh.reachable(producer.device):
            continue
        content = {"run": run.id, "step": need, "to": s.device}
        try:
            answer = await run.mesh.request(producer.device, "slip.withhold", content, run.clock() + ASK_SECONDS)
        except SlipError:
            continue
        if answer == {"sent": False}:
            return True
    return False


async def stop_there(run: Run, device: str, content: dict[str, Any]) -> None:
    """Tell a device to stop a repeatable step that is tried elsewhere."""
    try:
        await run.mesh.request(device, "slip.disarm", content, run.clock() + ASK_SECONDS)
    except SlipError as error:
        run.events.tell("warning", what=f"{content['step']} may still run on {run.mesh.name_of(device)}",
                        why=str(error), hint="its result will not be used")  # fmt: skip
