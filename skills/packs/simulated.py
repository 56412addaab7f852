"""What every simulated machine has: a clock, state that outlives the process, and a ledger of what was done.

The ledger answers "did it happen?" by idempotency key. An act and its record are made in one turn of the loop, so the
answer is exact; an act that lasts is recorded when it begins, so one that was cut off is *unknown* and not *not done*.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import uuid4

import anyio
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...core.errors import SlipError, UnknownOutcome, UsageError
from ...core.skill import Context, Outcome

S = TypeVar("S", bound="State")
M = TypeVar("M", bound=BaseModel)
C = TypeVar("C", bound="Settings")

LEDGER_LIMIT = 1000
"""Acts remembered: far more than can lie between a lost link and the question that follows it."""


class Settings(BaseModel):
    """What the config may say about a simulated machine."""

    model_config = ConfigDict(extra="forbid")

    state: Path | None = None
    """The folder that its state is kept in; None keeps nothing."""
    now: float | None = None
    """What its clock shows when it starts, in Unix seconds; None is the computer's clock."""


class State(BaseModel):
    """What a simulated machine keeps over restarts."""

    at: float = 0.0
    """The moment that it describes, in Unix seconds."""
    ledger: dict[str, dict[str, Any] | None] = Field(default_factory=dict)
    """What each act gave, by skill and key, oldest first; None while it lasts and after it was cut off."""


def read_settings(kind: type[C], name: str, settings: Mapping[str, Any]) -> C:
    """The settings of a pack, checked.

    Raises:
        UsageError: one is unknown or of the wrong type; it names the setting.
    """
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        setting = ".".join(map(str, first["loc"]))
        raise UsageError(f"the setting {setting} of the pack {name} will not do", first["msg"],
                         f"it knows {', '.join(kind.model_fields)}", field=setting) from None  # fmt: skip


class Simulator(Generic[S]):
    """A simulated machine; its file survives `kill -9` (it is replaced whole, never written in place)."""

    def __init__(self, name: str, kind: type[S], settings: Settings) -> None:
        self.name = name
        self._file = settings.state / f"{name}.json" if settings.state else None
        wall = time.time() if settings.now is None else settings.now
        self._offset = wall - anyio.current_time()
        self.state = self._read(kind)
        if not self.state.at:
            self.state.at = wall

    def now(self) -> float:
        """Unix seconds; they pass as `anyio.current_time` does, so that tests run on virtual time."""
        return self._offset + anyio.current_time()

    def today(self) -> datetime:
        """The same moment in local time."""
        return datetime.fromtimestamp(self.now()).astimezone()

    def done(self, ctx: Context, skill: str, kind: type[M]) -> M | None:
        """What this invocation gave when it already ran to its end, else None."""
        result = self.state.ledger.get(_entry(skill, ctx.key)) if ctx.key else None
        return None if result is None else kind.model_validate(result)

    def begin(self, ctx: Context, skill: str, again: bool = False) -> None:
        """Record that a lasting act begins; `again` when it goes on from a checkpoint.

        Raises:
            UnknownOutcome: this invocation began before, and how it ended is not known (law 6).
        """
        entry = _entry(skill, ctx.key)
        if ctx.key and entry in self.state.ledger and not again:
            raise UnknownOutcome(f"{skill} began before", "it is under way, or it was cut off",
                                 "look at the device, then ask again", skill=skill)  # fmt: skip
        if ctx.key:
            self._record(entry, None)

    def finish(self, ctx: Context, skill: str, result: M) -> M:
        """Record that the act is done, and what it gave."""
        self._record(_entry(skill, ctx.key or uuid4().hex), result.model_dump(mode="json"))
        return result

    def once(self, ctx: Context, skill: str, kind: type[M], act: Callable[[], M]) -> M:
        """Do it, unless this invocation did it before: then give what that gave."""
        earlier = self.done(ctx, skill, kind)
        return earlier if earlier is not None else self.finish(ctx, skill, act())

    def outcome(self, ctx: Context, skill: str) -> Outcome:
        """Whether this invocation happened."""
        entry = _entry(skill, ctx.key)
        if not ctx.key or (entry in self.state.ledger and self.state.ledger[entry] is None):
            return Outcome.UNKNOWN
        return Outcome.DONE if entry in self.state.ledger else Outcome.NOT_DONE

    def acts(self, skill: str, kind: type[M]) -> list[M]:
        """What this machine did with that skill to the end, oldest first: for a message, its outbox."""
        mine = (r for entry, r in self.state.ledger.items() if entry.startswith(f"{skill} "))
        return [kind.model_validate(result) for result in mine if result is not None]

    def save(self) -> None:
        """Replace the file with the state as it is now.

        Raises:
            SlipError: the folder cannot be written.
        """
        if self._file is None:
            return
        # ASCII with escapes: a lone surrogate in somebody's text must not make the whole state unwritable
        text = json.dumps(self.state.model_dump(mode="json"))
        fresh = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
                file.write(text)
            os.replace(fresh, self._file)
        except OSError as error:
            raise SlipError(f"the simulated {self.name} cannot keep its state", str(error),
                            "make room, or point its setting `state` elsewhere") from error  # fmt: skip

    def _record(self, entry: str, result: dict[str, Any] | None) -> None:
        ledger = self.state.ledger
        ledger.pop(entry, None)
        ledger[entry] = result
        while len(ledger) > LEDGER_LIMIT:
            del ledger[next(iter(ledger))]
        self.save()

    def _read(self, kind: type[S]) -> S:
        """The state that was kept, or a fresh one if nothing was."""
        try:
            text = self._file.read_text(encoding="ascii") if self._file else "{}"
            return kind.model_validate(json.loads(text))
        except FileNotFoundError:
            return kind()
        except (OSError, ValueError) as error:
            why = f"{self._file}: {str(error).splitlines()[0]}"
            raise SlipError(f"the state of the simulated {self.name} cannot be read", why,
                            "delete that file to begin anew") from error  # fmt: skip


def _entry(skill: str, key: str) -> str:
    """The ledger's name of an invocation; a lone surrogate is escaped, for as a name it would not come back."""
    return f"{skill} {key}".encode("utf-8", "backslashreplace").decode()
