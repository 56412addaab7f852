"""The end of a run: what still runs is stopped, what was done is undone if the plan says so, everybody forgets it."""

from __future__ import annotations

import anyio

from . import plan as plans
from .errors import SlipError, UsageError
from .run import Run

UNDO_SECONDS = 30.0
END_SECONDS = 1.0


async def settle(run: Run) -> None:
    """Bring the world and the journal to the state that the run ended with."""
    with anyio.CancelScope(shield=True):
        if run.error is not None:
            run.journal.run_state(run.id, "cancelling")
        if run.error is None:
            try:
                values = {"inputs": run.plan.inputs, **{s.step.id: s.value for s in run.steps.values()}}
                skipped = {s.step.id for s in run.steps.values() if s.state == "skipped"}
                run.output = {
                    name: None
                    if any(r.source in skipped for _, r in plans.refs_of(value))
                    else plans.fill(value, values)
                    for name, value in run.plan.output.items()
                }
            except UsageError as error:
                run.error = error
        if run.error is not None:
            await _stop_steps(run)
            if run.plan.on_failure == "compensate" and run.error.code != "unknown":
                await _compensate(run)
        else:
            await _end_everywhere(run)
        code = run.error.code if run.error else ""
        run.state = "done" if not run.error else code if code in ("unknown", "cancelled") else "failed"
        run.journal.run_state(run.id, run.state, run.output, run.error.to_wire() if run.error else None)
        run.ended_at = run.clock()
        seconds = run.ended_at - run.began
        run.events.tell("run.done", run=run.id, state=run.state, seconds=seconds,
                          **({"error": run.error.to_wire()} if run.error else {}))  # fmt: skip


async def _stop_steps(run: Run) -> None:
    await _end_everywhere(run)
    for s in run.steps.values():
        if not s.final:
            began = s.state == "running" and not run.effects[s.step.id].repeatable
            s.error = None
            run.end_step(s, "unknown" if began else "cancelled")


async def _end_everywhere(run: Run) -> None:
    """Every device that knows of the run forgets it; one that does not answer forgets by itself."""
    devices = {s.device for s in run.steps.values() if s.device and run.mesh.reachable(s.device)}

    async def end(device: str) -> None:
        try:
            await run.mesh.request(device, "slip.end", {"run": run.id}, run.clock() + END_SECONDS)
        except SlipError as error:
            run.events.tell("warning", what=f"{run.mesh.name_of(device)} was not told that {run.id} ended",
                              why=str(error), hint="it forgets the run by itself")  # fmt: skip

    async with anyio.create_task_group() as group:
        for device in devices:
            group.start_soon(end, device)


async def _compensate(run: Run) -> None:
    """Undo what was done, the last first."""
    done = [s for s in run.steps.values() if s.state == "done" and s.device]
    for s in sorted(done, key=lambda s: s.ended or 0.0, reverse=True):
        key = f"{run.id}/{s.step.id}/{s.attempt}"
        keys = [key]
        if s.step.for_each is not None and s.has_value:
            keys = [f"{key}/{i}" for i in reversed(range(len(s.value["result"])))]
        for one in keys:
            try:
                deadline = run.clock() + UNDO_SECONDS
                if (await run.mesh.request(s.device, "slip.undo", {"key": one}, deadline))["undone"]:
                    run.tell("step.undone", s)
            except SlipError as error:
                run.events.tell("warning", what=f"step {s.step.id} could not be undone", why=str(error),
                                hint=f"undo it by hand on {run.mesh.name_of(s.device)}")  # fmt: skip
