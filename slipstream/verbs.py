"""What the daemon answers on its control socket, verb by verb. Everything is plain JSON values."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import anyio

from . import plan_view as view
from .control_server import Talk, Verb
from .core import arguments
from .core import plan as plans
from .core.device import Device
from .core.dispatch import Dispatch
from .core.errors import Cancelled, UsageError
from .core.events import Event
from .core.node import Node
from .core.skill import nearest
from .core.wanted import want
from .feed import Feed, Viewer

PING_SECONDS: Final = 3.0
RATES: Final = (0.2, 20.0)
"""Frames a second that a monitor may ask for."""
ASKED_SECONDS: Final = 90.0
"""Deadline of a call that names none, of a skill that a person may have to allow first."""


READING: Final = (
    "status", "devices", "devices.show", "skills", "skills.show", "plan", "runs", "runs.show", "events", "watch",
    "consent.list", "consent.grants", "policy.explain",
)  # fmt: skip
"""The verbs that change nothing, by name: all that there is on the socket for reading."""


class Verbs:
    """The verbs of one daemon; `about` is what it says of itself beside the node's own facts."""

    def __init__(self, node: Node, about: Mapping[str, Any], feed: Feed) -> None:
        self._node, self._about, self._feed = node, about, feed
        self._began = node.wall()

    def table(self) -> dict[str, Verb]:
        """Every verb by name."""
        return {
            "status": self._status, "stop": self._stop, "devices": self._devices, "devices.show": self._device,
            "devices.ping": self._ping, "devices.forget": self._forget, "skills": self._skills,
            "skills.show": self._skill, "call": self._call, "plan": self._plan, "run": self._run,
            "runs": self._runs, "runs.show": self._show, "runs.cancel": self._cancel, "runs.resume": self._resume,
            "runs.move": self._move,
            "events": self._events, "watch": self._watch,
        }  # fmt: skip

    # -- this device, and others ---------------------------------------------------------------------------------------

    async def _status(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        node = self._node
        open_runs = [r for r in node.runs.by_id.values() if not r.ended.is_set()]
        return {
            "device": self._describe(node.members.me), "pid": os.getpid(), "seconds": node.wall() - self._began,
            "peers": [self._describe(d) for d in node.members.present()[1:]],
            "runs": [{"run": r.id, "goal": r.plan.goal, "state": r.state,
                      "done": sum(s.final for s in r.steps.values()), "steps": len(r.steps)} for r in open_runs],
            "interrupted": [r.id for r in node.runs.interrupted()], **self._about,
        }  # fmt: skip

    async def _stop(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        self._node.stop()
        return {"stopping": True, "pid": os.getpid()}

    async def _devices(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        now = self._node.clock()
        known = [(self._node.members.me, None), *self._node.members.known()]
        return {"devices": [self._describe(d, None if seen is None else now - seen) for d, seen in known]}

    async def _device(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        device = self._named(args)
        seen = next((s for d, s in self._node.members.known() if d.id == device.id), None)
        ago = None if seen is None else self._node.clock() - seen
        return {
            "device": {
                **self._describe(device, ago),
                "offers": [{"skill": o.name, "effect": o.effect} for o in device.offers],
                "neighbours": {
                    self._node.name_of(n): {"rtt_ms": _ms(q.rtt), "bytes_per_second": q.bandwidth}
                    for n, q in device.neighbours.items()
                },
            }
        }

    def _describe(self, device: Device, ago: float | None = None) -> dict[str, Any]:
        node = self._node
        via = node.members.via(device.id)
        link = node.members.link(node.id, device.id) if device.id != node.id else None
        r = device.resources
        return {
            "id": device.id, "name": device.name, "kind": device.kind, "state": node.members.state(device.id),
            "via": node.name_of(via) if via not in (None, device.id) else None,
            "rtt_ms": _ms(link.rtt) if link else None, "seen_seconds_ago": ago,
            "battery": r.battery, "charging": r.charging, "load": r.load, "slots": r.slots,
            "skills": len(device.offers), "simulated": device.simulated, "leaving": device.leaving,
            "addresses": list(device.addresses),
        }  # fmt: skip

    def _named(self, args: dict[str, Any]) -> Device:
        return self._node.members.get(_text(args, "device"))

    async def _ping(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        node, device = self._node, self._named(args)
        began = node.clock()
        await node.request(device.id, "slip.specs", {"digests": []}, began + PING_SECONDS)
        return {"device": device.name, "id": device.id, "rtt_ms": _ms(node.clock() - began)}

    async def _forget(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        device = self._named(args)
        self._node.members.forget(device.id)
        return {"forgotten": device.name, "id": device.id}

    # -- skills --------------------------------------------------------------------------------------------------------

    async def _skills(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        specs = await self._node.specs()
        return {
            "skills": [
                {"name": name, "effect": spec.get("effect"), "devices": self._offering(name),
                 "description": str(spec.get("description", "")), "phrases": spec.get("phrases", [])}
                for name, spec in sorted(specs.items())
            ]
        }  # fmt: skip

    async def _skill(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        name = _text(args, "skill")
        return {"skill": {**await self._spec(name), "devices": self._offering(name)}}

    def _offering(self, skill: str) -> list[str]:
        return [d.name for d in self._node.members.present() if d.offer(skill)]

    async def _spec(self, skill: str) -> Mapping[str, Any]:
        here = self._node.catalogue.specs.get(skill)
        if here is not None:
            return here.to_wire()
        specs = await self._node.specs()
        if skill not in specs:
            raise UsageError(f"unknown skill {skill}", "no device in the mesh offers it",
                             nearest(skill, specs) or "slip skills list", skill=skill)  # fmt: skip
        return specs[skill]

    async def _call(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        node, skill, on = self._node, _text(args, "skill"), _optional(args, "on", str)
        given, typed = _optional(args, "args", dict) or {}, _optional(args, "text", dict) or {}
        # a skill that nobody offers is refused below, where the mesh says who lacks it
        spec = await self._spec(skill) if self._offering(skill) else {}
        if spec:
            given = {**given, **arguments.read(skill, spec["inputSchema"], typed)}
        seconds = _optional(args, "seconds", int, float)
        if seconds is None and (spec.get("effect") == "physical" or spec.get("consent") == "always"):
            seconds = ASKED_SECONDS
        deadline = None if seconds is None else node.clock() + seconds

        def progress(fraction: float, note: str) -> None:
            talk.tell(progress=fraction, note=note)

        if spec.get("streaming"):
            async with aclosing(node.stream(skill, given, on=on, deadline=deadline, on_progress=progress)) as items:
                async for item in items:
                    await talk.send(item=item)
            return {"outcome": "done", "value": None}

        def heard(event: Event) -> None:
            fields = event.fields
            if event.kind == "consent.asked" and (fields["skill"], fields["caller"]) == (skill, node.id):
                talk.tell(asking=fields["request"], seconds=fields["seconds"])

        began = node.clock()
        stop = node.events.listen(heard)
        try:
            device, outcome, value = await node.invoke(skill, given, on=on, deadline=deadline, on_progress=progress)
        finally:
            stop()
        took = node.clock() - began
        return {"outcome": outcome, "value": value, "device": node.name_of(device), "seconds": took}

    # -- plans and runs ------------------------------------------------------------------------------------------------

    async def _plan(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        plan = plans.load(args.get("plan"), _optional(args, "inputs", dict))
        return {"plan": view.preview(plan, await self._node.runs.preview(plan), self._node.name_of)}

    async def _run(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        plan = plans.load(args.get("plan"), _optional(args, "inputs", dict))
        return await self._follow(await self._node.start(plan), args, talk)

    async def _resume(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        return await self._follow(await self._node.resume(self._run_id(args)), args, talk)

    async def _follow(self, run: Dispatch, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        """Tell what happens to a run until its end; it goes on when nobody listens any more."""
        if args.get("detach"):
            return {"run": {"run": run.id, "state": run.state, "goal": run.plan.goal}}
        names = self._node.name_of

        def told(event: Event) -> None:
            if event.fields.get("run") == run.id:
                talk.tell(event=view.with_name(event, names))

        stop = self._node.events.listen(told)
        try:
            await talk.send(run=run.id, goal=run.plan.goal, steps=[s.id for s in run.plan.steps])
            await run.ended.wait()
        finally:
            stop()
        return {"run": view.run(self._node, run.id)}

    async def _runs(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        broken = {r.id for r in self._node.runs.interrupted()}
        return {
            "runs": [
                {"run": r.id, "goal": r.plan.get("goal", ""), "state": "interrupted" if r.id in broken else r.state,
                 "began": r.began, "ended": r.ended, "steps": len(r.plan.get("steps", ()))}
                for r in self._node.journal.runs()
            ]
        }  # fmt: skip

    async def _show(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        return {"run": view.run(self._node, self._run_id(args))}

    async def _cancel(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        run_id = self._run_id(args)
        run = self._node.runs.by_id.get(run_id)
        if run is not None and not run.ended.is_set():
            run.cancel()
            return {"run": run_id, "state": "cancelling"}
        if (state := view.run(self._node, run_id)["state"]) != "interrupted":
            raise UsageError(f"run {run_id} is over", f"it is {state}", "slip runs list")
        for device in {row.device for row in self._node.journal.steps(run_id).values()}:
            if self._node.reachable(device):
                deadline = self._node.clock() + PING_SECONDS
                await self._node.request(device, "slip.end", {"run": run_id}, deadline)
        error = Cancelled(f"the run {run_id} was cancelled").to_wire()
        self._node.journal.run_state(run_id, "cancelled", None, error)
        row = self._node.journal.run(run_id)
        seconds = None if row is None or row.ended is None else row.ended - row.began
        self._node.events.tell("run.done", run=run_id, state="cancelled", seconds=seconds, error=error)
        return {"run": run_id, "state": "cancelled"}

    async def _move(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        run_id, step, device = self._run_id(args), _text(args, "step"), self._named(args)
        run = self._node.runs.by_id.get(run_id)
        if run is None or run.ended.is_set():
            raise UsageError(f"run {run_id} does not run", "only what has not begun moves", "slip runs list")
        want(run, step, device.id)
        return {"run": run_id, "step": step, "device": device.name}

    def _run_id(self, args: dict[str, Any]) -> str:
        """The run that is meant, by its id or the beginning of it."""
        said = _text(args, "run")
        if self._node.journal.run(said) is not None:
            return said
        ids = [r.id for r in self._node.journal.runs() if r.id.startswith(said)]
        if len(ids) != 1:
            why = f"{len(ids)} begin like that" if ids else "this device owns none of that id"
            raise UsageError(f"no run {said}", why, "slip runs list")
        return ids[0]

    # -- events --------------------------------------------------------------------------------------------------------

    async def _events(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        """Every event from now on, after those with a `seq` above `since`; ends when the client hangs up."""
        node, kinds = self._node, tuple(map(str, _optional(args, "kinds", list) or ()))
        tell: Callable[[Event], None] = partial(_tell, talk, kinds, node.name_of)
        since = _optional(args, "since", int)
        if since is not None:
            for event in list(node.events.recent):
                if event.seq > since:
                    tell(event)
        stop = node.events.listen(tell)
        try:
            await talk.send(listening=node.events.seq)
            await anyio.sleep_forever()
        finally:
            stop()
        raise AssertionError("sleep_forever ended")

    async def _watch(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        """What there is and what changes, in frames (feed.py), until the client hangs up: `rate` a second at most."""
        rate = _optional(args, "rate", int, float) or 4.0
        if not RATES[0] <= rate <= RATES[1]:
            raise UsageError(f"rate {rate:g} is not from {RATES[0]:g} to {RATES[1]:g}", "", "4", field="rate")
        kinds = tuple(map(str, _optional(args, "kinds", list) or ("",)))
        since = _optional(args, "since", int) or 0
        async with aclosing(self._feed.frames(Viewer(self._feed, kinds=kinds, since=since), rate)) as frames:
            async for frame in frames:
                await talk.send(**frame)
        raise AssertionError("frames ended")


def _tell(talk: Talk, kinds: tuple[str, ...], names: Callable[[str], str], event: Event) -> None:
    if not kinds or event.kind.startswith(kinds):
        talk.tell(event=view.with_name(event, names))


def _text(args: dict[str, Any], name: str) -> str:
    value = args.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{name} is missing", f'"args" needs "{name}", a text')
    return value


def _optional(args: dict[str, Any], name: str, *kinds: type) -> Any:
    value = args.get(name)
    if value is not None and not isinstance(value, kinds):
        wanted = " or ".join(_WORDS[kind] for kind in kinds)
        raise UsageError(f"{name} should be {wanted}", f"it is {type(value).__name__}", field=name)
    return value


_WORDS = {str: "text", dict: "an object", list: "a list", int: "a whole number", float: "a number"}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
