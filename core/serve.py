"""Serves the calls that other devices make: each runs in a worker until it is done, overdue or no longer wanted."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

import anyio

from .errors import Cancelled, SkillFailed, SlipError, TimedOut
from .gate import Caller, Gate
from .invoke import Invoker
from .loop import new_wake
from .peer import Peer
from .skill import SkillSpec
from .timers import Sweep, Timers
from .workers import Worker, Workers

CALLERS_KEPT = 256


def kept_back(error: SlipError, spec: SkillSpec) -> SlipError:
    """An error as another device may hear it, of a skill that was given what may not leave this one."""
    why = "why stays on its device: it was given what may not leave it"
    return type(error).of(f"{spec.name} failed", why, "", error.fault, error.retry, {"skill": spec.name})


class _Serving:
    """One call: what answers it, until when, for whom."""

    __slots__ = ("caller", "deadline", "spec", "worker")

    def __init__(self, spec: SkillSpec, deadline: float, caller: Caller) -> None:
        self.spec, self.deadline, self.caller = spec, deadline, caller
        self.worker: Worker | None = None


class Server:
    """The calls of others that are under way here."""

    def __init__(
        self, invoker: Invoker, gate: Gate, workers: Workers, timers: Timers, clock: Callable[[], float]
    ) -> None:
        self._invoker, self._gate, self._workers, self._timers, self._clock = invoker, gate, workers, timers, clock
        self._callers: dict[tuple[str, str], Caller] = {}
        self._serving: dict[tuple[Peer, int], _Serving] = {}
        self._credit: dict[tuple[Peer, int], anyio.Event] = {}
        self._sweep = Sweep(timers, self._end_overdue, clock)

    def call(
        self, peer: Peer, stream: int, spec: SkillSpec, args: dict[str, Any], key: str, left: float, origin: str
    ) -> None:
        """Begin to serve a call, on behalf of `origin` if it names one; the answer goes to the peer.

        `left` is the seconds until its deadline, or negative.
        """
        deadline = inf
        if left >= 0:
            deadline = self._clock() + left
            self._sweep.before(deadline)
        serving = self._serving[peer, stream] = _Serving(spec, deadline, self._caller(peer.id, origin))
        serving.worker = self._workers.do(partial(self._serve, peer, stream, serving, args, key))

    def _caller(self, device: str, origin: str) -> Caller:
        if (known := self._callers.get((device, origin))) is None:
            if len(self._callers) > CALLERS_KEPT:
                self._callers.clear()
            known = self._callers[device, origin] = Caller(device, origin)
        return known

    async def here(
        self, spec: SkillSpec, args: dict[str, Any], key: str, caller: Caller, deadline: float,
        on_progress: Callable[[float, str], None] | None,
    ) -> tuple[str, Any]:  # fmt: skip
        """Serve a call of this device's own: it ends at its deadline too, whatever the skill does to its cancellation.

        Raises:
            SlipError: as `Invoker.invoke`, or TimedOut.
        """
        answered = new_wake()
        found: list[tuple[str, Any] | SlipError] = []

        async def job() -> None:
            try:
                opened = self._gate.open(spec, args)
                by = caller if opened is args else replace(caller, private=True)
                found.append(
                    await self._invoker.invoke(
                        spec, opened, key=key, caller=by, deadline=deadline, on_progress=on_progress
                    )
                )
            except SlipError as error:
                found.append(error)
            finally:
                answered.set()

        worker = self._workers.do(job)
        timer = self._timers.at(deadline, answered.set)
        try:
            await answered
        finally:
            timer.cancel()
            if not found:
                worker.cancel()
        if not found:
            raise TimedOut(f"{spec.name} was not done in time", skill=spec.name)
        if isinstance(found[0], SlipError):
            raise found[0]
        return found[0]

    async def stream_here(
        self, spec: SkillSpec, args: dict[str, Any], caller: Caller, deadline: float | None,
        on_progress: Callable[[float, str], None] | None,
    ) -> AsyncGenerator[Any, None]:  # fmt: skip
        """Serve a streaming call of this device's own: its items as they come; the skill waits while nobody takes them.

        Raises:
            SlipError: as `Invoker.invoke`, or TimedOut.
        """
        give, take = anyio.create_memory_object_stream[Any]()
        found: list[SlipError | None] = []

        async def job() -> None:
            error: SlipError | None = None
            try:
                opened = self._gate.open(spec, args)
                by = caller if opened is args else replace(caller, private=True)
                await self._invoker.invoke(
                    spec, opened, caller=by, deadline=deadline, on_progress=on_progress, on_item=give.send
                )
            except SlipError as failed:
                error = failed
            finally:
                end(error)

        def end(error: SlipError | None) -> None:
            if not found:
                found.append(error)
            give.close()

        def overdue() -> None:
            if not found:  # else the worker is at somebody else's job by now
                end(TimedOut(f"{spec.name} was not done in time", skill=spec.name))
                worker.cancel()

        worker = self._workers.do(job)
        timer = None if deadline is None else self._timers.at(deadline, overdue)
        try:
            async for item in take:
                yield item
        finally:
            if timer is not None:
                timer.cancel()
            if not found:
                worker.cancel()
            take.close()
        if found[0] is not None:
            raise found[0]

    async def _serve(self, peer: Peer, stream: int, serving: _Serving, args: dict[str, Any], key: str) -> None:
        spec, caller = serving.spec, serving.caller
        try:
            opened = self._gate.open(spec, args)
            if opened is not args:
                caller = replace(caller, private=True)
            send_item = None
            if spec.streaming and not key and peer.reads(stream):
                send_item = partial(self._send_item, peer, stream, spec, caller.private)
            outcome, value = await self._invoker.invoke(
                spec, opened, key=key, caller=caller, deadline=None if serving.deadline == inf else serving.deadline,
                on_progress=partial(peer.progress, stream), on_item=send_item,
            )  # fmt: skip
        except SlipError as error:
            # the first answer to a key may be one to a call that brought more than this one does
            private = caller.private or (bool(key) and self._invoker.is_private(key))
            peer.fail(stream, kept_back(error, spec) if private else error)
        except (Exception, SystemExit) as error:  # what a skill does to itself must not end the node
            peer.fail(stream, SkillFailed(f"{spec.name} broke off", type(error).__name__, skill=spec.name))
        except BaseException:
            peer.fail(stream, Cancelled(f"{spec.name} was cancelled"))
            raise
        else:
            if self._gate.result_labels(spec):
                private = caller.private or (bool(key) and self._invoker.is_private(key))  # as above
                value = self._gate.out(spec, value, peer.id, key=key or None, private=private)
            peer.answer(stream, outcome, value)
        finally:
            self._serving.pop((peer, stream), None)
            if spec.streaming:
                self._credit.pop((peer, stream), None)

    def _end_overdue(self, now: float) -> float:
        for (peer, stream), serving in list(self._serving.items()):
            if serving.deadline <= now:
                # the answer goes out now, also when the skill does not let itself be cancelled
                peer.fail(stream, TimedOut(f"{serving.spec.name} was not done in time", skill=serving.spec.name))
                self.cancel(peer, stream)
        return min((s.deadline for s in self._serving.values()), default=inf)

    async def _send_item(self, peer: Peer, stream: int, spec: SkillSpec, private: bool, item: Any) -> None:
        if peer.item(stream, self._gate.item_out(spec, item, peer.id, private=private)):
            await anyio.lowlevel.checkpoint()
        while not peer.may_send(stream):  # some credit may be too little: the last item may have overdrawn it
            more = self._credit[peer, stream] = anyio.Event()
            await more.wait()

    def credit(self, peer: Peer, stream: int) -> None:
        """A reader took items."""
        if (more := self._credit.get((peer, stream))) is not None:
            more.set()

    def cancel(self, peer: Peer, stream: int) -> None:
        """A caller gave up; also where the skill does not let itself be cancelled, the call is over."""
        if (serving := self._serving.pop((peer, stream), None)) is not None and serving.worker is not None:
            peer.fail(stream, Cancelled(f"{serving.spec.name} was cancelled", skill=serving.spec.name))
            serving.worker.cancel()

    def peer_gone(self, peer: Peer) -> None:
        """Nobody waits for the answers to a peer's calls: cancel what may be repeated; the rest ends under its key."""
        for (served, stream), serving in list(self._serving.items()):
            if served is peer and serving.spec.effect.repeatable:
                self.cancel(peer, stream)
