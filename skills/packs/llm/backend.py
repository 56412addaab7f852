"""The models of this device: which there are, which is loaded, and which answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import to_thread
from pydantic import Field, field_validator

from ....core.errors import Refused, SlipError, UsageError
from ....core.skill import nearest
from ....runtime_ext.memory import available
from ..simulated import Settings, read_settings
from .endpoint import Endpoint, EndpointSettings
from .local import CONTEXT, Card, Engine, Kv, Progress, card, fits

GUESSED: Final = 128
"""Tokens of an answer, until durations are learned."""
IDLE: Final = 300.0
"""Seconds that a model stays loaded though nobody asks it: to load it again takes a few seconds, to read a conversation
again a second for some hundred tokens, and until then the memory is of use to other programs."""
READ: Final = 10e9
"""Bytes of memory that a device reads in a second, until durations are learned: a phone of 2020 or later (LPDDR4X)."""


class LlmSettings(Settings):
    """What the config may say about models."""

    models: tuple[Path, ...] = ()
    """Model files (GGUF); each is called by its file's name without the ending. The first answers if none is named."""
    threads: int | None = Field(None, ge=1, le=256)
    """Processors to use; None takes all that the daemon may use."""
    endpoints: dict[str, EndpointSettings] = Field(default_factory=dict)
    """Models that other programs run, by name."""
    context: int | None = Field(None, ge=64, le=2**20)
    """Tokens of a conversation and its answer; None takes 4096, or what the model has if that is less."""

    kv: Kv = "f16"
    """How conversations are kept: q8_0 takes about half the memory of f16, and is as good as exact."""

    @field_validator("models")
    @classmethod
    def _named_apart(cls, models: tuple[Path, ...]) -> tuple[Path, ...]:
        if len({path.stem for path in models}) < len(models):
            raise ValueError("two files have one name: rename one")
        found = tuple(path.expanduser() for path in models)
        if any(not path.is_absolute() for path in found):
            raise ValueError("a daemon has no folder that a path could begin in: write all of it, or from ~ on")
        return found


class Llm:
    """The models that the config names: files, loaded when they are first asked for, and endpoints."""

    def __init__(self, settings: LlmSettings) -> None:
        self.paths = {path.stem: path for path in settings.models}
        self.endpoints = {name: Endpoint(name, each) for name, each in settings.endpoints.items()}
        self._settings = settings
        self._engines: dict[str, Engine] = {}
        self._loading = anyio.Lock()
        self._loaded = anyio.Event()
        self._cards: dict[str, tuple[tuple[int, int], Card]] = {}

    @property
    def names(self) -> list[str]:
        """All models."""
        return [*self.paths, *self.endpoints]

    @property
    def answers(self) -> list[str]:
        """Models that may be asked: their file is there, or they are an endpoint that may be sent conversations. The
        first answers if none is named."""
        files = [name for name, path in self.paths.items() if path.is_file()]
        return files + [name for name, endpoint in self.endpoints.items() if endpoint.allowed]

    def loaded(self, name: str) -> Engine | None:
        """A model's engine, if it is loaded."""
        return self._engines.get(name)

    def context(self, card: Card) -> int:
        """Tokens that a conversation with a model may have here."""
        return min(self._settings.context or CONTEXT, card.context)

    async def card(self, name: str) -> Card:
        """What a model's file says of itself.

        Raises:
            SkillFailed: it cannot be run here.
        """
        return await to_thread.run_sync(self._card, name)

    async def answering(self, name: str, progress: Progress | None = None) -> Engine | Endpoint:
        """What answers under a name.

        Raises:
            UsageError, Refused, SkillFailed: as `engine`.
        """
        return self.endpoints[name] if name in self.endpoints else await self.engine(name, progress)

    async def engine(self, name: str, progress: Progress | None = None) -> Engine:
        """A model file, loaded; no name is the first one. Others that nobody uses make room for it.

        Raises:
            UsageError: there is no such model.
            Refused: it does not fit into memory.
            SkillFailed: it cannot be run here.
        """
        name = name or next(iter(self.paths))
        if name not in self.paths:
            raise UsageError(f"there is no model {name[:80]!r} here", f"there are {', '.join(self.names)}",
                             nearest(name, self.names), field="model")  # fmt: skip
        async with self._loading:
            if (found := self._engines.get(name)) is None:
                await self._make_room(name)
                found = self._engines[name] = await Engine.open(
                    self.paths[name],
                    threads=self._settings.threads,
                    context=self._settings.context,
                    kv=self._settings.kv,
                    progress=progress,
                )
                self._loaded.set()
            return found

    async def unload_idle(self) -> None:
        """Unload models that nobody asked for a while, for ever; it sleeps until one may be due."""
        while True:
            if not self._engines:
                self._loaded = anyio.Event()
                await self._loaded.wait()
            now = anyio.current_time()
            due = {name: now if engine.busy else engine.used for name, engine in self._engines.items()}
            await anyio.sleep_until(min(due.values()) + IDLE)
            for name in [name for name, engine in self._engines.items() if _unused(engine)]:
                del self._engines[name]

    async def _make_room(self, name: str) -> None:
        wanted = await self.card(name)
        while not self._fits(wanted):
            idle = [other for other, engine in self._engines.items() if not engine.busy]
            if not idle:
                break
            del self._engines[min(idle, key=lambda other: self._engines[other].used)]
        try:
            fits(wanted, self.context(wanted))
        except Refused as error:
            raise Refused(error.what, error.why, await self._smaller(wanted) or error.hint) from None

    async def _smaller(self, wanted: Card) -> str:
        """A hint that names the largest model which is smaller and fits; empty if there is none."""
        found: list[tuple[int, str]] = []
        for name in self.paths:
            try:
                each = await self.card(name)
            except SlipError:
                continue  # it is not why somebody asks for another one
            if each.weights < wanted.weights and self._fits(each):
                found.append((each.weights, name))
        return f"ask for the smaller model {max(found)[1]}" if found else ""

    def _fits(self, card: Card) -> bool:
        room = available()
        return room is None or card.needs(self.context(card)) <= room

    def _card(self, name: str) -> Card:
        path = self.paths[name]
        try:
            now = path.stat()
        except OSError:
            return card(path, self._settings.kv)  # which says what is wrong
        version = (now.st_mtime_ns, now.st_size)
        if name not in self._cards or self._cards[name][0] != version:
            self._cards[name] = (version, card(path, self._settings.kv))
        return self._cards[name][1]


@asynccontextmanager
async def open_llm(settings: Mapping[str, Any]) -> AsyncIterator[Llm]:
    """The models, as their settings name them; none is loaded yet."""
    llm = Llm(read_settings(LlmSettings, "llm", settings))
    async with anyio.create_task_group() as group:
        group.start_soon(llm.unload_idle)
        yield llm
        group.cancel_scope.cancel()


def _unused(engine: Engine) -> bool:
    return not engine.busy and anyio.current_time() >= engine.used + IDLE


def capabilities(llm: Llm) -> list[str]:
    """`llm.models` where the config names models, `llm.generate` where one may be asked."""
    return ["llm.models"] * bool(llm.names) + ["llm.generate"] * bool(llm.answers)


def seconds(llm: Llm) -> dict[str, float]:
    """A first guess of an answer of the device's first model: GUESSED tokens, each of which reads all weights once."""
    path = next((path for path in llm.paths.values() if path.is_file()), None)
    return {} if path is None else {"llm.generate": GUESSED * path.stat().st_size / READ}
