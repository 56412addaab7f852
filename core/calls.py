"""Single calls of skills, by people, programs and other skills: found a device, and repeated over lost links."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from .errors import LinkLost
from .gate import Caller
from .links import Links
from .routes import Routes
from .serve import Server
from .skill import Catalogue, Submitted, spec_of

CALL_SECONDS = 30.0
"""Deadline of a call that names none."""


class Calls:
    """What a node does with one call of its own; the node has these."""

    id: str
    clock: Callable[[], float]
    new_id: Callable[[], str]
    catalogue: Catalogue
    links: Links
    _routes: Routes
    _server: Server

    async def call(
        self, skill: str | Callable[..., Any], args: Mapping[str, Any] | None = None, *, on: str | None = None,
        key: str = "", deadline: float | None = None, on_progress: Callable[[float, str], None] | None = None,
        origin: str = "",
    ) -> Any:  # fmt: skip
        """Run one skill where it runs best, or on the device `on` (id, name or kind); its result.

        A skill's name gives and takes plain values; the decorated function itself gives and takes its own types. A
        lost link is dialled again and the call repeated under the same key, which cannot double it.

        Raises:
            SlipError: no device has it, the arguments are wrong, or it failed; `fault` says whose it is.
        """
        spec = None if isinstance(skill, str) else spec_of(skill)
        name = skill if isinstance(skill, str) else spec_of(skill).name
        plain = dict(args or {}) if spec is None else spec.dump_args(args or {})
        _, outcome, value = await self.invoke(
            name, plain, on=on, key=key, deadline=deadline, on_progress=on_progress, origin=origin
        )
        if spec is None:
            return value
        return Submitted(**value) if outcome == "submitted" else spec.load(value)

    async def invoke(
        self, skill: str, args: dict[str, Any], *, on: str | None = None, key: str = "",
        deadline: float | None = None, on_progress: Callable[[float, str], None] | None = None, origin: str = "",
    ) -> tuple[str, str, Any]:  # fmt: skip
        """As `call`, by name: the device that ran it, the outcome (`done` or `submitted`) and the plain value."""
        if deadline is None:
            deadline = self.clock() + CALL_SECONDS
        device, repeatable = self._routes.find(skill, on)
        if not key and not repeatable:
            key = self.new_id()
        if device == self.id:
            spec = self.catalogue.get(skill)
            return device, *await self._server.here(spec, args, key, Caller(self.id, origin), deadline, on_progress)
        while True:
            peer = self.links.up.get(device) or await self.links.in_time(device, deadline)
            try:
                return device, *await peer.call(
                    skill, args, key=key, deadline=deadline, on_progress=on_progress, origin=origin
                )
            except LinkLost:
                # one that is not of this link is the skill's answer: it lost somebody else
                if not peer.lost or not (key or repeatable) or self.clock() >= deadline:
                    raise

    async def stream(
        self, skill: str, args: dict[str, Any], *, on: str | None = None, deadline: float | None = None,
        on_progress: Callable[[float, str], None] | None = None,
    ) -> AsyncGenerator[Any, None]:  # fmt: skip
        """Run a streaming skill and go through its items as they come.

        Raises:
            SlipError: as `call`.
        """
        device, _ = self._routes.find(skill, on)
        if device == self.id:
            spec, me = self.catalogue.get(skill), Caller(self.id)
            async with aclosing(self._server.stream_here(spec, args, me, deadline, on_progress)) as made:
                async for item in made:
                    yield item
            return
        peer = self.links.up.get(device) or await self.links.to(device)
        async with aclosing(peer.stream(skill, args, deadline=deadline, on_progress=on_progress)) as items:
            async for item in items:
                yield item
