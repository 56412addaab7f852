"""Serves the calls that other devices make: each runs in a worker until it is done, overdue or no longer wanted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio

from .errors import Cancelled, SlipError, TimedOut
from .invoke import Invoker
from .peer import Peer
from .skill import SkillSpec
from .timers import Timer, Timers
from .workers import Worker, Workers


class Server:
    """The calls of others that are under way here."""

    def __init__(self, invoker: Invoker, workers: Workers, timers: Timers, clock: Callable[[], float]) -> None:
        self._invoker, self._workers, self._timers, self._clock = invoker, workers, timers, clock
        self._serving: dict[tuple[Peer, int], tuple[Worker, SkillSpec]] = {}
        self._credit: dict[tuple[Peer, int], anyio.Event] = {}

    def call(self, peer: Peer, stream: int, spec: SkillSpec, args: dict[str, Any], key: str, left: float) -> None:
        """Begin to serve a call; `left` is the seconds until its deadline, or negative. The answer goes to the peer."""
        deadline = self._clock() + left if left >= 0 else None
        self._serving[peer, stream] = (
            self._workers.do(partial(self._serve, peer, stream, spec, args, key, deadline)),
            spec,
        )

    async def _serve(
        self, peer: Peer, stream: int, spec: SkillSpec, args: dict[str, Any], key: str, deadline: float | None
    ) -> None:
        timer: Timer | None = None
        if deadline is not None:
            timer = self._timers.at(deadline, partial(self._too_late, peer, stream, spec.name))
        try:
            outcome, value = await self._invoker.invoke(
                spec, args, key=key, caller=peer.id, deadline=deadline, on_progress=partial(peer.progress, stream),
                on_item=partial(self._send_item, peer, stream) if spec.streaming and not key else None,
            )  # fmt: skip
        except SlipError as error:
            peer.fail(stream, error)
        except BaseException:
            peer.fail(stream, Cancelled(f"{spec.name} was cancelled"))
            raise
        else:
            peer.answer(stream, outcome, value)
        finally:
            if timer is not None:
                timer.cancel()
            self._serving.pop((peer, stream), None)
            self._credit.pop((peer, stream), None)

    def _too_late(self, peer: Peer, stream: int, skill: str) -> None:
        # the answer goes out now, also when the skill does not let itself be cancelled
        peer.fail(stream, TimedOut(f"{skill} was not done in time", skill=skill))
        if (serving := self._serving.get((peer, stream))) is not None:
            serving[0].cancel()

    async def _send_item(self, peer: Peer, stream: int, item: Any) -> None:
        more = self._credit[peer, stream] = anyio.Event()
        if peer.item(stream, item):
            await anyio.lowlevel.checkpoint()
        else:
            await more.wait()

    def credit(self, peer: Peer, stream: int) -> None:
        """A reader took items."""
        if (more := self._credit.get((peer, stream))) is not None:
            more.set()

    def cancel(self, peer: Peer, stream: int) -> None:
        """A caller gave up."""
        if (serving := self._serving.pop((peer, stream), None)) is not None:
            serving[0].cancel()

    def peer_gone(self, peer: Peer) -> None:
        """Nobody waits for the answers to a peer's calls: cancel what may be repeated; the rest ends under its key."""
        for (served, stream), (worker, spec) in list(self._serving.items()):
            if served is peer and spec.effect.repeatable:
                worker.cancel()
                self._serving.pop((served, stream), None)
