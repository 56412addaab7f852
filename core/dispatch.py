"""Runs a plan: sends its steps to devices, moves what should be elsewhere, retries, waits, and ends it.

Level-triggered: what is wanted (the assignment) and what is known (run.py) are compared on every change, and the
difference is sent. Every message may be repeated, so a lost one is mended by the next comparison.

A step moves only if it cannot have begun: its device gave it back, or is away and some input that it waits for is still
held by a device that answers. Otherwise, an effect that may not be doubled stays where it is, and ends *unknown* when
that device does not come back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from .device import Device, LinkQuality
from .errors import Cancelled, LinkLost, NoDevice, SlipError, TimedOut, UnknownOutcome, UsageError
from .loop import new_wake
from .moves import ASK_SECONDS, all_given_back, cannot_have_begun, given_back, stop_there
from .placing import MOVE_GAIN, MOVE_SECONDS, pins
from .run import ENDED, GOOD, StepState, blind_to_personal, check_answer
from .scheduler import Assignment, Job, Placed, assign
from .settle import settle
from .watch import Watch

AWAY_SECONDS = 20.0
"""How long a run waits for a device that alone can go on with it."""


class Dispatch(Watch):
    """A run, and what is done about it."""

    found: Assignment | None = None
    """Who does what, as of the last look that changed something; `why` it was looked, and when, by the wall's clock."""
    why = ""
    assigned_at = 0.0
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
        looks = [self.next_late(), float("inf") if self._deadline is None else self._deadline]
        for s in self.steps.values():
            if s.away_since is not None:
                looks.append(s.away_since + AWAY_SECONDS)
        if self._no_device_since is not None:
            looks.append(self._no_device_since + AWAY_SECONDS)
        return min(looks)

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
        self.find_links(now)
        self.find_kept(now)
        for s in self.find_late(now):
            self._leave_slow(s, now)
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

    def _leave_slow(self, s: StepState, now: float) -> None:
        """A repeatable step that overruns is tried elsewhere, where that is predicted to end sooner than here."""
        if not self.effects[s.step.id].repeatable or s.predicted is None:
            return
        try:
            jobs, fixed = self._jobs(now, leaving=s)
            place = self._solve(jobs, fixed, now)[0].steps[s.step.id]
        except (NoDevice, UsageError):
            return  # there is nowhere else: it runs on
        if place.device == s.device or now + place.end >= s.predicted.end:
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
        for s in self.steps.values():
            if s.state in GOOD and not self.mesh.reachable(s.device):
                self.hand_out(s)
        try:
            jobs, fixed = self._jobs(now)
            found, missing = self._solve(jobs, fixed, now)
        except NoDevice as error:
            self._without_device(error, now)
            return
        except UsageError as error:
            self.error = error
            return
        if missing is None:
            self._no_device_since = None
        else:
            self._without_device(missing, now)
        self._make_way(now)
        places = {i: Placed(p.device, now + p.start, now + p.end) for i, p in found.steps.items() if i in self.steps}
        free = [s for s in self.steps.values() if not s.final and s.step.id not in fixed]
        moved = sum(s.home not in ("", places[s.step.id].device) for s in free)
        gain = self._gain(found.makespan, jobs, fixed, now) if moved else 0.0
        changed = {}
        for s in free:
            place = places[s.step.id]
            if s.state == "armed" and s.device == place.device:
                s.predicted = place
                continue
            s.found, s.why = found, found.why(s.step.id)
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
            self.found, self.why, self.assigned_at = found, why, self._desk.wall()
            self.events.tell("run.assigned", run=self.id, assignment=changed, why=why, makespan=found.makespan,
                             moved=moved, gain=gain)  # fmt: skip

    def _jobs(self, now: float, leaving: StepState | None = None) -> tuple[list[Job], dict[str, Placed]]:
        """The steps as the scheduler sees them, and those of them that keep their places.

        Raises:
            NoDevice: no device can run steps that must share one.
        """
        jobs, fixed = [], {}
        here = self._here()
        lives = {(d.id, d.version[0]) for d in here}
        together = self._pins(here, leaving)
        blind = blind_to_personal(self.mesh) if self.flows.personal else frozenset()
        deadline = None if self._deadline is None else self._deadline - now
        for s in self.steps.values():
            on = together.get(s.step.id, s.step.on)
            unseen = blind if s.step.id in self.flows.personal else frozenset()
            avoid = s.avoid | {d for d, _ in lives & s.leaving.items()} if s.leaving else s.avoid
            if s is leaving:
                avoid = avoid | {s.device}
            jobs.append(Job(s.step.id, s.step.skill, s.needs, on, deadline, frozenset(avoid), unseen))
            if s is leaving:
                continue
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
        return jobs, fixed

    def _here(self) -> list[Device]:
        return [d for d in self.mesh.devices() if self.mesh.reachable(d.id)]

    def _pins(self, here: list[Device], leaving: StepState | None) -> dict[str, str]:
        held = {
            s.step.id: s.device for s in self.steps.values()
            if s.device and s is not leaving and (s.final or s.state == "running" or s.asking)
        }  # fmt: skip
        skills = {s.step.id: s.step.skill for s in self.steps.values()}
        placed = {s.step.id: s.device for s in self.steps.values() if s.state == "armed"}
        there = {d.id for d in here if not d.leaving}
        wanted = {s.step.id: s.pin for s in self.steps.values() if s.pin in there and not s.final and s is not leaving}
        return wanted | pins(self.flows, self.mesh.id, skills, held, here, self._desk.costs, placed)

    def _current(self, now: float) -> dict[str, Placed]:
        """Where the steps are that have not begun, and can go on to be."""
        return {
            s.step.id: Placed(s.device, s.predicted.start - now, s.predicted.end - now)
            for s in self.steps.values() if s.state == "armed" and s.predicted is not None and s.away_since is None
        }  # fmt: skip

    def _solve(self, jobs: list[Job], fixed: dict[str, Placed], now: float) -> tuple[Assignment, NoDevice | None]:
        """Who does what, and what is missing for it to be all.

        A step whose only device is away, or leaves, waits for it (it joins `fixed`), and the others go on.

        Raises:
            NoDevice: nothing can be placed now.
            UsageError: the steps cannot be scheduled.
        """
        here = self._here()
        ids = {d.id for d in here}
        current = self._current(now)
        left = max((p.end for p in current.values()), default=0.0)
        gain = MOVE_GAIN + MOVE_SECONDS / max(left, MOVE_SECONDS)
        others, taken = self._of_others(here, now)
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
                if s is None or not s.home or s.step.id in fixed or (s.home in ids and s.home not in s.leaving):
                    raise
                missing = missing or error
                fixed[s.step.id] = Placed(s.home, 0.0, AWAY_SECONDS)
            else:
                return found, missing

    def _gain(self, makespan: float, jobs: list[Job], fixed: dict[str, Placed], now: float) -> float | None:
        """By how many seconds the run ends sooner than if all that has not begun stayed; None: it could not."""
        at = {s.step.id: s.home for s in self.steps.values() if s.home and not s.final}
        try:
            stay, missing = self._solve([replace(job, on=at.get(job.id, job.on)) for job in jobs], dict(fixed), now)
        except (NoDevice, UsageError):
            return None
        return stay.makespan - makespan if missing is None else None

    def _of_others(self, here: list[Device], now: float) -> tuple[list[Job], dict[str, Placed]]:
        """What takes room: what other runs of this device have done now, or before this one; and, on a device that kept
        steps waiting, what others have there."""
        jobs, placed = [], {}
        room = {d.id: d.resources.slots for d in here}
        for run in self._desk.runs.values():
            if run.ended.is_set():
                continue
            for s in run.steps.values():
                if s.state == "running":
                    room[s.device] = room.get(s.device, 0) - 1
                first = s.state == "armed" and run.plan.priority >= self.plan.priority
                if run is self or s.predicted is None or not (first or s.state == "running"):
                    continue
                end = s.predicted.end - now
                if end > 0 and self.mesh.reachable(s.device):
                    name = f"{run.id}/{s.step.id}"
                    jobs.append(Job(name, s.step.skill))
                    placed[name] = Placed(s.device, s.predicted.start - now, end)
        for device, (since, until) in self._desk.full.items():
            for i in range(room.get(device, 0) if until > now else 0):
                name = f"{device}/{i}"
                jobs.append(Job(name, ""))
                placed[name] = Placed(device, since - now, until - now)
        return jobs, placed

    def _make_way(self, now: float) -> None:
        """Runs that matter less look again, now that this one is placed."""
        for run in self._desk.runs.values():
            if run.plan.priority < self.plan.priority and not run.ended.is_set():
                run.replan(f"{self.plan.goal} goes first")

    def _link(self, here: set[str]) -> Callable[[str, str], LinkQuality | None]:
        def link(a: str, b: str) -> LinkQuality | None:
            if a in here and b in here:
                quality = self.mesh.link_between(a, b)
                if quality is not None:
                    self._links.setdefault(a, {})[b] = quality
                return quality
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
        s.planned = s.planned or place
        s.fraction, s.note = 0.0, ""
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
            self.tell("step.freed", s)
            self._place(s, place)
        self.poke()

    async def _try_to_free(self, s: StepState) -> None:
        held = await cannot_have_begun(self, s)
        s.asking = False
        if held and s.away_since is not None and s.state == "armed":
            self.release(s)
            self.left.setdefault(s.device, set()).add(s.step.id)
            self.tell("step.freed", s)
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
