"""All runs that this device owns: checking a plan, starting it, resuming it from the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from . import plan as plans
from .dispatch import Dispatch
from .errors import UsageError
from .journal import RunRow, StepRow
from .labels import check_flows, labels_of
from .placing import pins
from .plan import Plan, Step
from .run import GOOD, Checked, Desk, StepState, blind_to_personal
from .scheduler import Assignment, Job, assign
from .skill import Effect

ENDED_KEPT = 50


class Runs:
    """All runs that this device owns."""

    def __init__(self, desk: Desk, new_id: Callable[[], str]) -> None:
        self.by_id: dict[str, Dispatch] = {}
        self._desk, self._new_id = replace(desk, runs=self.by_id), new_id

    async def check(self, plan: Plan) -> Checked:
        """Check a plan against the skills of the mesh, and that nothing can go where it may not.

        Raises:
            UsageError: it names the step and the field.
            NoDevice: no device has a skill that the plan names.
        """
        specs = await self._desk.mesh.specs()
        plans.check(plan, specs)
        flows = check_flows(plan, specs, self._could_run)
        effects = {step.id: Effect(specs[step.skill]["effect"]) for step in plan.steps}
        shapes = {skill: labels_of(specs[skill]["outputSchema"]) for skill in {step.skill for step in plan.steps}}
        labels = {step.id: found for step in plan.steps if (found := shapes[step.skill]) is not None}
        return Checked(effects, labels, flows)

    def _could_run(self, step: Step) -> set[str] | None:
        """The devices that a step could run on; None if nobody here can say."""
        offering = [d for d in self._desk.mesh.devices() if d.offer(step.skill)]
        return {d.id for d in offering if step.on in (None, d.id, d.name, d.kind)} or None

    async def preview(self, plan: Plan) -> Assignment:
        """Who would do what now; nothing starts.

        Raises:
            UsageError, NoDevice: it cannot run, and why.
        """
        checked, mesh = await self.check(plan), self._desk.mesh
        skills, costs = {s.id: s.skill for s in plan.steps}, self._desk.costs
        together = pins(checked.flows, mesh.id, skills, {}, mesh.devices(), costs, {})
        blind = blind_to_personal(mesh)
        jobs = [
            Job(s.id, s.skill, s.needs, together.get(s.id, s.on),
                None if plan.deadline_ms is None else plan.deadline_ms / 1000,
                blind=blind if s.id in checked.flows.personal else frozenset())
            for s in plan.steps
        ]  # fmt: skip
        return assign(jobs, mesh.devices(), costs, mesh.link_between)

    async def start(self, plan: Plan) -> Dispatch:
        """Begin a run; `drive` brings it to its end.

        Raises:
            UsageError: the plan does not fit the mesh. Nothing was started.
        """
        run = Dispatch(self._desk, self._new_id(), plan, await self.check(plan))
        self._desk.journal.run_began(run.id, plan.to_wire())
        self._add(run)
        self._desk.events.tell("run.started", run=run.id, goal=plan.goal, steps=len(plan.steps))
        return run

    async def resume(self, run_id: str) -> Dispatch:
        """Go on with a run that was interrupted, from the journal; what was done is not done again.

        Raises:
            UsageError: there is no such run here, it is running, or it ended.
        """
        row = self._desk.journal.run(run_id)
        if row is None:
            raise UsageError(f"no run {run_id} on this device", hint="slip runs list")
        if run_id in self.by_id and not self.by_id[run_id].ended.is_set():
            raise UsageError(f"run {run_id} is running", hint=f"slip runs show {run_id}")
        if row.state in ("done", "cancelled"):
            raise UsageError(f"run {run_id} is over: {row.state}", hint="start the plan again: slip run FILE")
        plan = plans.load(row.plan)
        run = Dispatch(self._desk, run_id, plan, await self.check(plan))
        run.resumed = True
        for step_id, known in self._desk.journal.steps(run_id).items():
            self._restore(run.steps[step_id], known)
        for s in run.steps.values():  # the last life may have handed out what it had
            s.handed = {need for need in s.needs if run.steps[need].state in GOOD}
            if s.epoch > 1 and not run.effects[s.step.id].repeatable:  # it may also have freed it somewhere
                for device in {other.device for other in run.steps.values()} - {s.device, ""}:
                    run.left.setdefault(device, set()).add(s.step.id)
        self._desk.journal.run_state(run_id, "running")
        self._add(run)
        self._desk.events.tell("run.started", run=run_id, goal=plan.goal, steps=len(plan.steps), resumed=True)
        return run

    def _restore(self, s: StepState, known: StepRow) -> None:
        s.device = s.home = known.device
        s.epoch, s.attempt = known.epoch, known.attempt
        s.wall = (known.began, known.ended)
        if known.state in GOOD:
            s.state = known.state
            s.has_value, s.value, s.size = known.result
            s.ended = self._desk.clock()
        elif known.device and known.state in ("armed", "running", "unknown", "cancelled"):
            s.state = "armed"  # its device is asked; it may have begun, be done, or never have heard of it
        else:
            s.attempt += 1

    def _add(self, run: Dispatch) -> None:
        """Keep it at hand; of those that ended, the last ones (the journal has them all)."""
        self.by_id[run.id] = run
        for old in [r for r in self.by_id.values() if r.ended.is_set()][:-ENDED_KEPT]:
            del self.by_id[old.id]

    def interrupted(self) -> list[RunRow]:
        """Runs that the last life of this device left open."""
        return [r for r in self._desk.journal.open_runs() if r.id not in self.by_id]

    def mesh_changed(self, why: str) -> None:
        """A device came, went or changed: every run looks again at what has not begun."""
        for run in self.by_id.values():
            if not run.ended.is_set():
                run.replan(why)

    def link_changed(self, device: str) -> None:
        """How good some link of a device is was measured, or announced: runs look whether that matters to them."""
        for run in self.by_id.values():
            if not run.ended.is_set():
                run.link_changed(device)

    def link_up(self, device: str) -> None:
        """A new link with a device: ask again what became of the steps that are there, which it may have forgotten."""
        for run in self.by_id.values():
            if not run.ended.is_set():
                for s in run.steps.values():
                    if s.device == device and s.final:
                        run.hand_out(s)
                    elif s.device == device:
                        s.told = False
                run.poke()
