"""A person wants a step on another device: it goes there if the hard rules let it, and stays while that one is here."""

from __future__ import annotations

from .dispatch import Dispatch
from .errors import UsageError
from .placing import pins
from .run import StepState
from .skill import nearest


def want(run: Dispatch, step_id: str, device: str) -> None:
    """Have a step that has not begun run on the device of that id.

    Raises:
        UsageError: there is no such step, it has begun, or that device cannot run it: why not.
    """
    s = run.steps.get(step_id)
    if s is None:
        raise UsageError(f"run {run.id} has no step {step_id}", f"it has {', '.join(run.steps)}"[:300],
                         nearest(step_id, run.steps), field="step")  # fmt: skip
    name = run.mesh.name_of(device)
    if s.final or s.state == "running" or s.consent:
        how = "waits for a person" if s.consent else f"is {s.state}"
        raise UsageError(f"{step_id} cannot move", f"it {how} on {run.mesh.name_of(s.device)}",
                         "only what has not begun moves", field="step")  # fmt: skip
    if why := _why_not(run, s, device):
        raise UsageError(f"{step_id} cannot run on {name}", why, "another device: slip plan FILE --why", field="device")
    s.pin = device
    s.avoid.discard(device)
    run.replan(f"{step_id} is wanted on {name}")


def _why_not(run: Dispatch, s: StepState, device: str) -> str:
    here = [d for d in run.mesh.devices() if run.mesh.reachable(d.id)]
    found = next((d for d in here if d.id == device), None)
    if found is None:
        return "it is not here"
    if found.leaving:
        return "it is leaving"
    if found.offer(s.step.skill) is None:
        return f"it has no {s.step.skill}"
    if s.step.on not in (None, found.id, found.name, found.kind):
        return f"the plan asks for {s.step.on}"
    held = {name: other.device for name, other in run.steps.items() if other.final and other.device}
    skills = {name: other.step.skill for name, other in run.steps.items()}
    bound = pins(run.flows, run.mesh.id, skills, held, here, run.costs, {}).get(s.step.id, device)
    if bound != device:
        return f"what it reads or gives may not leave {run.mesh.name_of(bound)}"
    if run.found is not None and s.step.id in run.found.steps:
        return run.found.refused(s.step.id).get(found.name, "")
    return ""
