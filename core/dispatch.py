"""Runs a plan: sends its steps to devices, moves what should be elsewhere, retries, waits, and ends it.

Level-triggered: what is wanted (the assignment) and what is known (run.py) are compared on every change, and the
difference is sent. Every message may be repeated, so a lost one is mended by the next comparison.

A step moves only if it cannot have begun: its device gave it back, or is away and some input that it waits for is still
held by a device that answers. Otherwise, an effect that may not be doubled stays where it is, and ends *unknown* when
that device does not come back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from .device import Device, LinkQuality
from .errors import Cancelled, LinkLost, NoDevice, SlipError, TimedOut, UnknownOutcome, UsageError
from .loop import new_wake
from .moves import ASK_SECONDS, all_given_back, cannot_have_begun, given_back, stop_there
from .placing import pins
from .run import ENDED, GOOD, OFF_PART, OFF_SECONDS, Run, StepState, blind_to_personal, check_answer
from .scheduler import Assignment, Job, Placed, assign
from .settle import settle

AWAY_SECONDS = 20.0
"""How long a run waits for a device that alone can go on with it."""
OVERRUN_FACTOR, OVERRUN_SLACK = 3.0, 1.0
"""A step overruns when it takes this many times its predicted time and this many seconds more."""
MOVE_GAIN, MOVE_SECONDS = 0.05, 0.05
"""By how much a new assignment must be shorter than the one that runs: that part of it, and these seconds."""


class Dispatch(Run):
    """A run, and what is done about it."""

    _group: TaskGroup | None = None
    _no_device_since: float | None = None

    async def drive(self) -> None:
        """Bring the run to its end."""
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                while True:
                    self._wake = new_wake()
                    self._take_reports()
                    self._compare()
                    if self.error is not None or all(s.final for s in self.steps.values()):
                        break
                    with anyio.move_on_at(self._next_look()):
                        await self._wake
                group.cancel_scope.cancel()
            await settle(self)
        finally:
            self.ended.set()

    def _next_look(self) -> float:
        looks = [float("inf") if self._deadline is None else self._deadline]
        for s in self.steps.values():
            if s.away_since is not None:
                looks.append(s.away_since + AWAY_SECONDS)
            if s.state == "running":
                looks.append(self._off_at(s))
        if self._no_device_since is not None:
            looks.append(self._no_device_since + AWAY_SECONDS)
        return min(looks)

    def _off_at(self, s: StepState) -> float:
        """When a running step is later than was thought, or overruns."""
        if s.predicted is None or s.began is None or s.consent:
            return float("inf")
        length = s.predicted.end - s.predicted.start
        late = s.began + length * (1 + OFF_PART) + OFF_SECONDS
        return late if s.slow else min(late, self._overrun_at(s, s.began, length))

    @staticmethod
    def _overrun_at(s: StepState, began: float, length: float) -> float:
        return began + (length if s.thought is None else s.thought) * OVERRUN_FACTOR + OVERRUN_SLACK

    def _compare(self) -> None:
        now = self.clock()
        if self._cancelling:
            self.error = Cancelled(f"the run {self.id} was cancelled")
        elif self._deadline is not None and now >= self._deadline:
            late = ", ".join(s.step.id for s in self.steps.values() if not s.final)
            self.error = TimedOut(f"the run was not done in {self.plan.deadline_ms} ms", f"still open: {late}")
        else:
            self._find_failures()
        if self.error is not None:
            return
        self._find_away(now)
        self._find_late(now)
        self._find_lost_results()
        if self.error is None and (
            self._replan or any(s.state == "waiting" and not s.device for s in self.steps.values())
        ):
            self._assign()
        if self.error is None:
            self._send()

    def _find_failures(self) -> None:
        for s in self.steps.values():
            if s.state in ENDED - GOOD:
                self.error = s.error or SlipError(f"step {s.step.id} {s.state}")
                self.error.where.setdefault("step", s.step.id)
                return

    def _find_away(self, now: float) -> None:
        for s in self.steps.values():
            if s.state == "waiting" and s.device and not self.mesh.reachable(s.device):
                s.device = ""
                self.replan("a device is gone")
            if s.state not in ("armed", "running") or s.asking:
                continue
            if self.mesh.reachable(s.device):
                if s.away_since is not None:
                    s.away_since, s.told = None, False  # it is back: it is asked what became of the step
                continue
            if s.away_since is None:
                s.away_since, s.told, s.tried_to_free = now, False, False
                self.replan(f"{self.mesh.name_of(s.device)} is gone")
            elif now >= s.away_since + AWAY_SECONDS:
                gone, hint = f"{self.mesh.name_of(s.device)} is gone", f"slip runs resume {self.id}"
                if self.effects[s.step.id].repeatable:
                    s.error = NoDevice(f"no device can run {s.step.skill}", gone, f"bring it back, then: {hint}")
                    self.end_step(s, "failed")
                else:
                    what = f"nobody knows whether {s.step.skill} happened"
                    s.error = UnknownOutcome(what, gone, f"look, then: {hint}", step=s.step.id)
                    self.end_step(s, "unknown")
                self._find_failures()
                return

    def _find_late(self, now: float) -> None:
        for s in self.steps.values():
            if s.state != "running" or s.predicted is None or s.began is None or now < self._off_at(s):
                continue
            at, length, took = s.predicted.start, s.predicted.end - s.predicted.start, now - s.began
            overruns = not s.slow and now >= self._overrun_at(s, s.began, length)
            s.thought = length if s.thought is None else s.thought
            s.predicted = Placed(s.device, at, at + 2 * took)  # expect as long again
            self.replan(f"{s.step.id} takes longer than predicted on {self.mesh.name_of(s.device)}")
            if overruns:
                s.slow = True
                self._leave_slow(s)

    def _leave_slow(self, s: StepState) -> None:
        """A repeatable step that overruns is tried elsewhere, once, if somebody else has its skill."""
        others = [d for d in self.mesh.devices() if d.offer(s.step.skill) and d.id != s.device and d.id not in s.avoid]
        if not self.effects[s.step.id].repeatable or s.step.on is not None or not others or s.avoid:
            return
        s.avoid.add(s.device)
        content = {"run": self.id, "step": s.step.id, "epoch": s.epoch, "stop": True}
        self._spawn(partial(stop_there, self, s.device, content))
        self.tell("step.retried", s, why="it takes longer than predicted")
        self.release(s)

    def _find_lost_results(self) -> None:
        """A result that only a lost device held, and that somebody still needs, is made again if it may be."""
        for s in self.steps.values():
            if s.state in GOOD and s.state != "skipped" and not s.has_value and not self.mesh.reachable(s.device):
                waiting = [r for r in self.readers[s.step.id] if self.steps[r].state == "waiting"]
                if not waiting and s.step.id not in self.read_by_owner:
                    continue
                if self.effects[s.step.id].repeatable:
                    s.attempt += 1
                    self.release(s)
                    self.replan(f"the result of {s.step.id} was lost with {self.mesh.name_of(s.device)}")
                else:
                    s.error = LinkLost(f"the result of {s.step.id} was lost", f"with {self.mesh.name_of(s.device)}")
                    self.error = s.error

    # -- who does what -----------------------------------------------------------------------------------------------

    def _assign(self) -> None:
        why, self._replan = self._replan or "scheduled", ""
        now = self.clock()
        jobs, fixed = [], {}
        try:
            together = self._pins()
        except NoDevice as error:
            self._without_device(error, now)
            return
        blind = blind_to_personal(self.mesh) if self.flows.personal else frozenset()
        for s in self.steps.values():
            if s.state in GOOD and not self.mesh.reachable(s.device):
                self.hand_out(s)
            deadline = None if self._deadline is None else self._deadline - now
            on = together.get(s.step.id, s.step.on)
            unseen = blind if s.step.id in self.flows.personal else frozenset()
            jobs.append(Job(s.step.id, s.step.skill, s.needs, on, deadline, frozenset(s.avoid), unseen))
            if s.final and s.device:
                fixed[s.step.id] = Placed(s.device, 0.0, 0.0)
            elif s.state == "running" and s.away_since is None:
                at = 0.0 if s.began is None else s.began - now
                length = 0.0 if s.predicted is None else s.predicted.end - s.predicted.start
                fixed[s.step.id] = Placed(s.device, at, max(0.0, at + length))
            elif s.asking or (s.away_since is not None and not self.effects[s.step.id].repeatable):
                fixed[s.step.id] = Placed(
                    s.device, 0.0, 0.0 if s.predicted is None else max(0.0, s.predicted.end - now)
                )
        found = self._placed(jobs, fixed, now)
        if found is None:
            return
        self._make_way(now)
        changed = {}
        for s in self.steps.values():
            if s.final or s.step.id in fixed:
                continue
            p = found.steps[s.step.id]
            place = Placed(p.device, now + p.start, now + p.end)
            if s.state == "armed" and s.device == place.device:
                s.predicted = place
                continue
            s.why = found.why(s.step.id)
            changed[s.step.id] = {
                "device": self.mesh.name_of(place.device),
                "why": s.why,
                "start": place.start - self.began,
                "end": place.end - self.began,
                "refused": found.refused(s.step.id),
            }
            if s.state == "armed":
                self._ask_back(s, place)
            else:
                self._place(s, place)
        if changed:
            self.events.tell("run.assigned", run=self.id, assignment=changed, why=why, makespan=found.makespan)

    def _pins(self) -> dict[str, str]:
        held = {
            s.step.id: s.device for s in self.steps.values()
            if s.device and (s.final or s.state == "running" or s.asking)
        }  # fmt: skip
        skills = {s.step.id: s.step.skill for s in self.steps.values()}
        here = [d for d in self.mesh.devices() if self.mesh.reachable(d.id)]
        return pins(self.flows, self.mesh.id, skills, held, here, self._desk.costs)

    def _placed(self, jobs: list[Job], fixed: dict[str, Placed], now: float) -> Assignment | None:
        """Who does what; None if nothing can be placed now.

        A step whose only device is away waits for it (it joins `fixed`), and the others go on.
        """
        here = [d for d in self.mesh.devices() if self.mesh.reachable(d.id)]
        ids = {d.id for d in here}
        current = {
            s.step.id: Placed(s.device, s.predicted.start - now, s.predicted.end - now)
            for s in self.steps.values() if s.state == "armed" and s.predicted is not None and s.away_since is None
        }  # fmt: skip
        left = max((p.end for p in current.values()), default=0.0)
        gain = MOVE_GAIN + MOVE_SECONDS / max(left, MOVE_SECONDS)
        others, taken = self._of_others(now)
        missing: NoDevice | None = None
        while True:
            # what is done keeps its place even when its device is gone: nothing is asked of it any more
            gone = sorted({p.device for p in fixed.values()} - ids)
            devices = [*here, *(Device(id=g, name=self.mesh.name_of(g), kind="gone", leaving=True) for g in gone)]
            try:
                found = assign(
                    [*jobs, *others], devices, self._desk.costs, self._link(ids), fixed=fixed | taken,
                    incumbent=current, gain=gain, apart=taken.keys(),
                )  # fmt: skip
            except NoDevice as error:
                s = self.steps.get(str(error.where.get("step")))
                if s is None or not s.home or s.home in ids or s.step.id in fixed:
                    self._without_device(error, now)
                    return None
                missing = missing or error
                fixed[s.step.id] = Placed(s.home, 0.0, AWAY_SECONDS)
            except UsageError as error:
                self.error = error
                return None
            else:
                if missing is None:
                    self._no_device_since = None
                else:
                    self._without_device(missing, now)
                return found

    def _of_others(self, now: float) -> tuple[list[Job], dict[str, Placed]]:
        """What other runs of this device have done now, or before this one: it takes room."""
        jobs, placed = [], {}
        for run in self._desk.runs.values():
            if run is self or run.ended.is_set():
                continue
            for s in run.steps.values():
                first = s.state == "armed" and run.plan.priority >= self.plan.priority
                if s.predicted is None or not (first or s.state == "running"):
                    continue
                end = s.predicted.end - now
                if end > 0 and self.mesh.reachable(s.device):
                    name = f"{run.id}/{s.step.id}"
                    jobs.append(Job(name, s.step.skill))
                    placed[name] = Placed(s.device, s.predicted.start - now, end)
        return jobs, placed

    def _make_way(self, now: float) -> None:
        """Runs that matter less look again, now that this one is placed."""
        for run in self._desk.runs.values():
            if run.plan.priority < self.plan.priority and not run.ended.is_set():
                run.replan(f"{self.plan.goal} goes first")

    def _link(self, here: set[str]) -> Callable[[str, str], LinkQuality | None]:
        def link(a: str, b: str) -> LinkQuality | None:
            if a in here and b in here:
                return self.mesh.link_between(a, b)
            return LinkQuality()  # from a device that is gone: the owner hands out what it left

        return link

    def _without_device(self, error: NoDevice, now: float) -> None:
        """Nobody can run some step: at the start that is the end; later, a device may come back."""
        begun = self.resumed or any(s.epoch for s in self.steps.values())
        if self._no_device_since is None:
            self._no_device_since = now
        if not begun or now >= self._no_device_since + AWAY_SECONDS:
            self.error = error
        else:
            self._replan = "a device is missing"

    def _place(self, s: StepState, place: Placed) -> None:
        s.device = s.home = place.device
        s.predicted, s.thought, s.slow = place, None, False
        s.epoch += 1
        s.handed.clear()
        s.state, s.told, s.away_since = "waiting", False, None
        for need in s.needs:  # who made what it reads sends it there now
            self.steps[need].told = False
        for name in self.readers[s.step.id]:  # who reads it takes it from there only
            if self.steps[name].state == "armed":
                self.steps[name].told = False
        self.write(s)

    def _ask_back(self, s: StepState, place: Placed) -> None:
        if s.away_since is not None:
            self._place(s, place)
            return
        s.asking = True
        self._spawn(partial(self._take_back, s, place))

    async def _take_back(self, s: StepState, place: Placed) -> None:
        answer = await given_back(self, s, s.device)
        s.asking = False
        if answer is None:
            s.told = False  # it went silent: it is found away, or asked again
        elif answer["state"] != "absent":
            self.report(s.device, answer)
        elif s.state == "armed":
            self._place(s, place)
        self.poke()

    async def _try_to_free(self, s: StepState) -> None:
        held = await cannot_have_begun(self, s)
        s.asking = False
        if held and s.away_since is not None and s.state == "armed":
            self.release(s)
            self.left.setdefault(s.device, set()).add(s.step.id)
            s.device = ""
            self.replan(f"{s.step.id} had not begun")
        self.poke()

    # -- sending -----------------------------------------------------------------------------------------------------

    def _spawn(self, job: Callable[[], Any]) -> None:
        assert self._group is not None
        self._group.start_soon(job)

    def _send(self) -> None:
        batches: dict[str, list[StepState]] = {}
        for s in self.steps.values():
            if s.told or s.asking or not s.device:
                continue
            if s.final and (s.state not in GOOD or s.state == "skipped" or s.has_value):
                s.told = True
                if s.state in GOOD:  # it ended before its device heard of new readers: the owner hands it to them
                    self.hand_out(s)
                continue
            if s.away_since is not None and s.state == "armed" and not self.effects[s.step.id].repeatable:
                if s.needs and not s.tried_to_free:
                    s.asking = s.tried_to_free = True
                    self._spawn(partial(self._try_to_free, s))
            elif self.mesh.reachable(s.device):
                batches.setdefault(s.device, []).append(s)
        for device, states in batches.items():
            for s in states:
                s.asking = True
            self._spawn(partial(self._arm, device, states))

    async def _arm(self, device: str, states: list[StepState]) -> None:
        """Tell a device its steps, who reads their results, and the results that it may lack."""
        if device in self.left and not await all_given_back(self, device):
            for s in states:
                s.asking = False
            self._look_again()
            return
        have: dict[str, Any] = {}
        for s in states:
            s.told = True  # until something changes, be it before the answer
            for need in s.needs:
                p = self.steps[need]
                if p.state in GOOD and (p.has_value or p.state == "skipped"):
                    have[need] = (p.state, self.result_for(p, device))
                    s.handed.add(need)
        receivers = {s.step.id: self.receivers(s) for s in states}
        epochs = {s.step.id: s.epoch for s in states}
        content = {"run": self.id, "have": have, "steps": [self.order(s, receivers[s.step.id]) for s in states]}
        try:
            for s in states:
                if s.state == "waiting":
                    s.state = "armed"
                    self.write(s)
                    self.tell("step.armed", s)
            answer = await self.mesh.request(device, "slip.arm", content, self.clock() + ASK_SECONDS)
            check_answer(answer, receivers)
        except SlipError as error:
            for s in states:
                s.asking = s.told = False
                if s.device == device and s.epoch == epochs[s.step.id] and not s.final:
                    self._not_armed(s, error)
            self.poke()
            return
        for s in states:
            s.asking = False
            if s.device == device and s.epoch == epochs[s.step.id] and s.step.id in answer:
                self.report(device, answer[s.step.id])
                if answer[s.step.id]["state"] in GOOD:
                    self.hand_out(s)  # it ended in a former life of that device, or of this one
        self.poke()

    def _not_armed(self, s: StepState, error: SlipError) -> None:
        if error.code == "refused":
            s.error = error
            self._again(s, "failed")
        elif error.code in ("link_lost", "timed_out"):
            # it may have got it: treated like a device that is away, until it answers or is found gone
            s.told = False
            if self.mesh.reachable(s.device):
                self._look_again()
        else:
            s.error = error
            self.end_step(s, "failed")

    def _look_again(self) -> None:
        async def look_again() -> None:
            await anyio.sleep(0.2)
            self.poke()

        self._spawn(look_again)
