"""Runs the steps of runs that their owners armed on this device.

An armed step waits on its device until its last input arrives, from wherever, and starts then; its result goes straight
to the devices that need it, and a report to the run's owner. Every message about a run may be repeated: what was begun
is not begun again, the first answer stands, and a new link brings everything that the last one may have lost.
One file because every message about a step ends in one table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

import anyio

from . import plan as plans
from .armed import Armed, RunHere
from .errors import Cancelled, Denied, Refused, SkillFailed, SlipError, TimedOut, UnknownOutcome, UsageError, from_wire
from .gate import Caller, Gate
from .invoke import Invoker
from .journal import Invocation, Journal
from .labels import Label
from .orders import check_order
from .serve import kept_back
from .skill import Effect, Outcome, SkillSpec
from .timers import Timer, Timers
from .wire import pack
from .workers import Workers

INLINE_LIMIT = 64 * 1024
"""Largest result, in bytes of msgpack, that is reported to the owner of a run as well, so that it can be given out
again when its device is gone."""
QUIET_SECONDS = 0.02
"""A step that ends sooner is reported once, at its end."""
CANCEL_GRACE = 8.0
"""Seconds that a cancelled skill has to end, where only its end tells whether it happened."""
RUNS_LIMIT, EARLY_LIMIT = 128, 32
"""Runs of one owner that a device remembers at once, the one that was touched least recently is forgotten first; and
runs of which one device sent results before their owner was heard of."""
STEPS_LIMIT = plans.STEPS_LIMIT


class Mesh(Protocol):
    """What the executor needs of its node."""

    id: str

    def note(self, device: str, target: str, content: dict[str, Any]) -> bool:
        """Send a message that has no answer if there is a link; otherwise ask for a link and answer false."""


class Executor:
    """Runs the steps that were armed on one device."""

    def __init__(
        self,
        mesh: Mesh,
        invoker: Invoker,
        gate: Gate,
        journal: Journal,
        timers: Timers,
        workers: Workers,
        clock: Callable[[], float],
    ) -> None:
        self.running = 0
        self.slots = 4
        self.leaving = False
        self.on_saw: Callable[[str, float, int], None] = lambda skill, seconds, size: None
        self._mesh, self._invoker, self._gate, self._journal = mesh, invoker, gate, journal
        self._catalogue = invoker.catalogue
        self._timers, self._workers, self._clock = timers, workers, clock
        self._runs: dict[str, RunHere] = {}
        self._ready: list[tuple[RunHere, Armed]] = []

    def arm(self, owner: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Take steps of a run, or news about ones that are here; the state of each.

        `request`: run, steps (see dispatch.py), have (results that the owner hands over).
        """
        check_order(request)
        run = self._runs.pop(request["run"], None) or RunHere(request["run"], owner)
        run.owner = run.owner or owner
        self._runs[run.id] = run
        if run.owner != owner:
            raise Refused("another device owns this run", run.owner[:7])
        if len(run.steps.keys() | {item["id"] for item in request["steps"]}) > STEPS_LIMIT:
            raise Refused("too many steps of one run", f"{STEPS_LIMIT} are allowed")
        self._forget_runs(owner)
        for name, (state, value) in request.get("have", {}).items():
            run.values.setdefault(name, (state, value))
        former = self._look_at_keys(run, request["steps"])
        states = {}
        for item in request["steps"]:
            armed = self._take_step(run, item, former)
            states[armed.step] = self._report_of(run, armed)
            if armed.final:
                self._deliver(run, armed)
            for need, maker in armed.makers.items():
                if (came := run.early.pop((need, maker), None)) is not None:
                    run.values.setdefault(need, came)
        self._start_ready(run)
        return states

    def _look_at_keys(self, run: RunHere, items: list[dict[str, Any]]) -> dict[str, Invocation | None]:
        """What the journal has of the keys of the steps that are to be taken: all of them may be, or none is.

        Raises:
            Refused: a key is another device's, or was used for another skill.
        """
        former = {}
        for item in items:
            armed = run.steps.get(item["id"])
            if armed is None or armed.gives_way(item["key"], item["epoch"]):
                former[item["key"]] = before = self._journal.invocation(item["key"])
                if before is not None and (before.caller != run.owner or before.skill != item["skill"]):
                    raise Refused("the key of another device", "only whoever used it first hears what became of it")
        return former

    def _take_step(self, run: RunHere, item: dict[str, Any], former: Mapping[str, Invocation | None]) -> Armed:
        there = armed = run.steps.get(item["id"])
        if armed is None or armed.gives_way(item["key"], item["epoch"]):
            before = former[item["key"]]
            armed = Armed(
                item["id"], item["epoch"], item["key"], item["skill"], item["args"], tuple(item["needs"]),
                tuple(item["reads"]), item["when"], item["for_each"], item["seconds"], set(item["sends"]),
                dict(item["from"]), item.get("priority", 0),
            )  # fmt: skip
            run.steps[armed.step] = armed
            armed.fresh = before is None
            if before is not None and before.state in (Outcome.DONE, Outcome.SUBMITTED):
                self._take_result(run, armed, before.state, before.result)
            if there is not None and there.queued:
                self._keep_turn(run, there, armed)
        elif armed.epoch <= item["epoch"] and armed.key == item["key"]:
            armed.epoch = item["epoch"]
            armed.sends |= set(item["sends"])
        return armed  # of an old epoch the answer shows the newer one

    def _keep_turn(self, run: RunHere, before: Armed, armed: Armed) -> None:
        """A step that waits for a slot and is armed again does not go to the queue's end."""
        if armed.state == "armed" and all(need in run.values for need in armed.needs):
            at = next(i for i, (_, queued) in enumerate(self._ready) if queued is before)
            self._ready[at] = run, armed
            armed.queued = True

    def _take_result(self, run: RunHere, armed: Armed, state: str, value: Any) -> None:
        """What a step came to in a former life of this device."""
        armed.spec = self._catalogue.specs.get(armed.skill)
        if armed.spec is None:  # nobody can say any more what in it is private
            why = f"{armed.skill} is not offered any more"
            armed.error = SkillFailed(f"the result of {armed.step} stays here", why, skill=armed.skill)
            armed.state = Outcome.FAILED.value
            return
        armed.private = self._journal.is_private(armed.key)
        armed.state, armed.value = state, value
        armed.size = len(_packed(armed.value))
        run.values[armed.step], run.made[armed.step] = (armed.state, armed.value), armed

    def _run_of(self, owner: str, run_id: str) -> RunHere | None:
        run = self._runs.get(run_id)
        if run is not None and run.owner not in ("", owner):
            raise Refused("another device owns this run", run.owner[:7])
        return run

    def disarm(self, owner: str, run_id: str, step: str, epoch: int, *, stop: bool = False) -> dict[str, Any]:
        """Give a step back if it has not begun, or in any case with `stop`; its state.

        Raises:
            Refused: another device owns the run, or nobody knows here whether the step was begun.
        """
        run = self._run_of(owner, run_id)
        armed = run.steps.get(step) if run else None
        if run is None or armed is None:
            if not stop and self._journal.may_have_happened(f"{run_id}/{step}"):
                raise Refused(f"{step} was begun before this device was restarted", "arm it to hear what became of it")
            return {"state": "absent"}
        if armed.state == "armed" and armed.epoch <= epoch:
            del run.steps[step]
            return {"state": "absent"}
        if stop and armed.state == "running" and armed.worker is not None and armed.epoch <= epoch:
            armed.ended = self._clock()  # nobody waits for it any more
            armed.worker.cancel()
            del run.steps[step]
            return {"state": "absent"}
        return self._report_of(run, armed)

    def withhold(self, owner: str, run_id: str, step: str, to: str) -> bool:
        """Stop sending a step's result to a device; whether it may already have gone there.

        A device that was restarted does not know what it sent before.

        Raises:
            Refused: another device owns the run.
        """
        run = self._run_of(owner, run_id)
        armed = run.steps.get(step) if run else None
        if armed is None:
            return True
        armed.sends.discard(to)
        return to in armed.sent

    def delivered(self, device: str, content: Mapping[str, Any]) -> None:
        """A result came straight from a device; it counts if the owner says that this device makes it."""
        run_id, step, came = str(content["run"]), str(content["step"]), (str(content["state"]), content["value"])
        run = self._runs.get(run_id)
        if run is None:  # it overtook the owner's arming
            run = self._runs[run_id] = RunHere(run_id, "", device)
            self._forget_early(device)
        if any(armed.makers.get(step) == device for armed in run.steps.values()):
            run.values.setdefault(step, came)
            self._start_ready(run)
        elif sum(sender == device for _, sender in run.early) < EARLY_LIMIT:
            run.early[step, device] = came

    def handed(self, run_id: str, step: str, state: str, value: Any) -> None:
        """The owner of a run, which is this device, takes in a result that a report brought."""
        run = self._runs.get(run_id)
        if run is None:  # it overtook the arming of this device's own steps
            run = self._runs[run_id] = RunHere(run_id, self._mesh.id)
            self._forget_runs(run.owner)
        run.owner = run.owner or self._mesh.id
        if run.owner == self._mesh.id:
            run.values.setdefault(step, (state, value))
            self._start_ready(run)

    def end(self, owner: str, run_id: str) -> None:
        """The owner's run is over: cancel what runs, forget the rest."""
        run = self._runs.get(run_id)
        if run is None or run.owner != owner:
            return
        run.cancelled = True
        del self._runs[run_id]
        self._ready = [entry for entry in self._ready if entry[0] is not run]
        for armed in run.steps.values():
            if armed.worker is not None and armed.state == "running":
                armed.worker.cancel()

    def link_up(self, device: str) -> None:
        """A new link: whatever the last one may have lost goes out again."""
        for run in list(self._runs.values()):
            for armed in run.steps.values():
                if armed.final:
                    armed.sent.discard(device)
                    self._deliver(run, armed)
                    if run.owner == device:
                        self._mesh.note(device, "slip.report", self._report(run, armed))

    def _forget_runs(self, owner: str) -> None:
        idle = [run for run in self._runs.values() if run.owner == owner]
        for run in idle[: max(0, len(idle) - RUNS_LIMIT)]:
            if not any(armed.queued or armed.state == "running" for armed in run.steps.values()):
                del self._runs[run.id]

    def _forget_early(self, sender: str) -> None:
        early = [run for run in self._runs.values() if not run.owner and run.sender == sender]
        for run in early[: max(0, len(early) - EARLY_LIMIT)]:
            del self._runs[run.id]

    def _start_ready(self, run: RunHere) -> None:
        for armed in run.steps.values():
            if armed.state == "armed" and not armed.queued and all(need in run.values for need in armed.needs):
                armed.queued = True
                self._ready.append((run, armed))
        self._start()

    def _start(self) -> None:
        while self._ready and self.running < self.slots:
            owner = self._ready[0][0].owner  # between owners it is first come, first served
            at = max(range(len(self._ready)), key=lambda i: (self._ready[i][0].owner == owner,
                                                             self._ready[i][1].priority, -i))  # fmt: skip
            run, armed = self._ready.pop(at)
            armed.queued = False
            if run.steps.get(armed.step) is not armed:  # it was given back, or armed anew
                continue
            armed.state = "running"
            self.running += 1
            armed.worker = self._workers.do(partial(self._run_step, run, armed))

    async def _run_step(self, run: RunHere, armed: Armed) -> None:
        armed.began = self._clock()
        spec = armed.spec = self._catalogue.specs.get(armed.skill)
        timers: list[Timer] = []
        overdue = False

        def too_late() -> None:
            nonlocal overdue
            overdue = True
            if armed.worker is not None:
                armed.worker.cancel()
            # a skill that does not let itself be cancelled must not keep the run waiting
            if spec is None or spec.effect.repeatable:
                self._finish(run, armed, self._late(armed))
            else:
                timers.append(self._timers.at(self._clock() + CANCEL_GRACE, give_up))

        def give_up() -> None:
            why = "it did not end when it was cancelled"
            self._finish(run, armed, UnknownOutcome(f"nobody knows whether {armed.skill} happened", why))

        def tell_running() -> None:
            self._mesh.note(run.owner, "slip.report", self._report(run, armed))

        if armed.seconds is not None:
            timers.append(self._timers.at(armed.began + armed.seconds, too_late))
        try:
            timers.append(self._timers.at(armed.began + QUIET_SECONDS, tell_running))
            state, value = await self._step_value(run, spec, armed)
            if not armed.final:
                armed.state, armed.value = state, value
        except SlipError as error:
            self._fail(armed, error)
        except Exception as error:  # whatever its owner made it of must not end the node
            self._fail(armed, SkillFailed(f"{armed.step} broke off", f"{type(error).__name__}: {error}"[:200]))
        except BaseException:
            self._after_cancel(armed, overdue)
            raise
        finally:
            for timer in timers:
                timer.cancel()
            self.running -= 1
            self._finish(run, armed, None)
            self._start()

    def _late(self, armed: Armed) -> SlipError:
        return TimedOut(f"{armed.skill} was not done in {armed.seconds or 0:g} s", skill=armed.skill)

    def _after_cancel(self, armed: Armed, overdue: bool) -> None:
        """What a cancelled step came to: what the journal holds, for effects that may not be doubled."""
        stopped = self._late(armed) if overdue else Cancelled(f"{armed.skill} was cancelled")
        known = self._journal.invocation(armed.key)
        if known is None or known.state == Outcome.CANCELLED or armed.final:
            self._fail(armed, stopped)
        elif known.state == Outcome.DONE:
            armed.state, armed.value = known.state, known.result
        elif known.error is not None:
            self._fail(armed, from_wire(known.error))
        else:
            self._fail(
                armed, UnknownOutcome(f"nobody knows whether {armed.skill} happened", "it was cancelled half-way")
            )

    def _fail(self, armed: Armed, error: SlipError) -> None:
        if not armed.final:
            armed.error = error
            armed.state = _STATE_OF.get(error.code, Outcome.FAILED.value)

    def _finish(self, run: RunHere, armed: Armed, error: SlipError | None) -> None:
        """A step ended: hand its result on, report, and start what waited for it here."""
        if error is not None:
            self._fail(armed, error)
        if armed.ended is not None:
            return
        armed.ended = self._clock()
        if run.cancelled:
            return
        if armed.state in ("done", "submitted", "skipped"):
            armed.size = len(_packed(armed.value))
            run.values[armed.step], run.made[armed.step] = (armed.state, armed.value), armed
            self._deliver(run, armed)
            if armed.state == "done" and armed.began is not None and not armed.asked:
                self.on_saw(armed.skill, armed.ended - armed.began, armed.size)
        self._mesh.note(run.owner, "slip.report", self._report(run, armed))
        self._start_ready(run)

    async def _step_value(self, run: RunHere, spec: SkillSpec | None, armed: Armed) -> tuple[str, Any]:
        if self.leaving:
            raise Refused("this device is leaving the mesh", skill=armed.skill, leaving=True)
        values = {name: run.values[name][1] for name in armed.needs}
        if any(run.values[name][0] == "skipped" for name in armed.reads):
            return "skipped", None
        if spec is not None:
            self._look_at_refs(run, spec, armed)
        if armed.when is not None and not plans.holds(armed.when, values):
            return "skipped", None
        if spec is None:
            raise Refused(f"{armed.skill} is not offered here any more", skill=armed.skill)
        deadline = None if armed.seconds is None or armed.began is None else armed.began + armed.seconds

        def on_progress(fraction: float, note: str) -> None:
            report = {"run": run.id, "step": armed.step, "epoch": armed.epoch, "fraction": fraction, "note": note}
            self._mesh.note(run.owner, "slip.progress", report)

        def on_asking(asking: bool) -> None:
            armed.asked = True
            armed.asking += 1 if asking else -1
            if armed.asking != int(asking):  # neither the first question nor the last answer
                return
            self.running += -1 if asking else 1  # whoever waits for a person keeps nobody else from running
            self._start()
            self._mesh.note(run.owner, "slip.report", self._report(run, armed))

        async def call(values: Mapping[str, Any], key: str, fresh: bool = False) -> tuple[str, Any]:
            args = plans.fill(armed.args, values)
            opened = self._gate.open(spec, args)
            # an answer or a checkpoint of before is of what was private then
            armed.private = armed.private or opened is not args or (not fresh and self._journal.is_private(key))
            return await self._invoker.invoke(
                spec, opened, key=key, caller=Caller(run.owner, "", run.id, armed.step, armed.private),
                deadline=deadline, on_progress=on_progress, on_asking=on_asking, fresh=fresh,
            )  # fmt: skip

        if armed.for_each is None:
            return await call(values, armed.key, armed.fresh)
        items = plans.fill(armed.for_each, values)
        if not isinstance(items, list) or len(items) > plans.ITEMS_LIMIT:
            raise UsageError(f"step {armed.step}: for_each", f"needs a list of at most {plans.ITEMS_LIMIT} items",
                             step=armed.step, field="for_each")  # fmt: skip
        results: list[Any] = [None] * len(items)

        async def one(i: int) -> None:
            results[i] = (await call({**values, "item": items[i]}, f"{armed.key}/{i}"))[1]

        await self._each(one, len(items), at_once=self.slots if spec.effect is Effect.READ else 1)
        return "done", {"result": results}

    def _look_at_refs(self, run: RunHere, spec: SkillSpec, armed: Armed) -> None:
        """See whether it reads what was made here and may not leave, whatever its owner thinks of it.

        Raises:
            Denied: it goes into an argument that does not promise to keep it.
        """
        item = plans.Ref.parse(armed.for_each["$ref"]) if armed.for_each and "$ref" in armed.for_each else None
        for place, ref in plans.refs_with_fields(armed.args, armed.when, armed.for_each):
            source, path = ref.source, ref.path
            if source == "item" and item is not None:
                source, path = item.source, (*item.path, "0", *ref.path)
            made = run.made.get(source)
            if made is None or made.spec is None:
                continue
            labels = self._gate.result_labels(made.spec)
            found = labels.at(path[2:] if made.for_each is not None else path) if labels else None
            hidden = found is not None and found.strictest >= Label.DEVICE
            if not hidden and not (made.private and found is not None):
                continue
            armed.private = True
            if place[0] == "when":
                raise Denied(f"{armed.step}: when may not read that", f"what {made.skill} gives there never leaves its "
                             "device, and whether a step ran tells of it", "decide by something else",
                             step=armed.step)  # fmt: skip
            if place[0] == "args" and not self._gate.keeps(spec, place[1:], found if hidden else None):
                raise Denied(
                    f"{armed.step}: {'.'.join(place)} may not have that",
                    f"what {made.skill} gives there never leaves its device; {spec.name} does not promise to keep it",
                    "give it to an argument that is labelled: slip skills show", step=armed.step,
                )  # fmt: skip

    async def _each(self, one: Callable[[int], Awaitable[None]], count: int, at_once: int) -> None:
        failed: list[SlipError] = []
        numbers = iter(range(count))

        async def lane() -> None:
            for i in numbers:
                if failed:
                    return
                try:
                    await one(i)
                except SlipError as error:
                    error.where.setdefault("item", i)
                    failed.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(min(at_once, count)):
                group.start_soon(lane)
        if failed:
            raise failed[0]

    # -- what is told ------------------------------------------------------------------------------------------------

    def _deliver(self, run: RunHere, armed: Armed) -> None:
        if armed.state not in ("done", "submitted", "skipped"):
            return
        for device in armed.sends - armed.sent:
            if device in (self._mesh.id, run.owner):
                continue  # the owner reads it in the report
            armed.sent.add(device)
            value = self._shown(armed, device)
            content = {"run": run.id, "owner": run.owner, "step": armed.step, "state": armed.state, "value": value}
            if not self._mesh.note(device, "slip.deliver", content):
                armed.sent.discard(device)  # no link: `link_up` sends it

    def _report_of(self, run: RunHere, armed: Armed) -> dict[str, Any]:
        inline = armed.size <= INLINE_LIMIT or run.owner in armed.sends
        return {
            "step": armed.step, "epoch": armed.epoch,
            "state": "asking" if armed.asking and armed.state == "running" else armed.state,
            "value": self._shown(armed, run.owner) if inline else None, "inline": inline, "size": armed.size,
            "error": self._error_of(run, armed),
            "seconds": (armed.ended - armed.began) if armed.ended is not None and armed.began is not None else None,
        }  # fmt: skip

    def _shown(self, armed: Armed, device: str) -> Any:
        """A step's result as a device may have it."""
        if armed.spec is None or armed.value is None or device == self._mesh.id:
            return armed.value
        return self._gate.out(
            armed.spec, armed.value, device, listed=armed.for_each is not None, private=armed.private, key=armed.key
        )

    def _error_of(self, run: RunHere, armed: Armed) -> dict[str, Any] | None:
        if armed.error is None:
            return None
        if armed.private and armed.spec is not None and run.owner != self._mesh.id:
            return kept_back(armed.error, armed.spec).to_wire()
        return armed.error.to_wire()

    def _report(self, run: RunHere, armed: Armed) -> dict[str, Any]:
        return {"run": run.id, **self._report_of(run, armed)}


_STATE_OF = {"cancelled": "cancelled", "unknown": "unknown", "denied": "denied"}


def _packed(value: Any) -> bytes:
    """A value as it would go over a link, to know its size."""
    return pack([value])
