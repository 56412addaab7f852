"""Runs one skill on this device, once: the first answer to a key stands, and what may not be doubled never is.

An effect that may not happen twice is journalled before it begins; one that was begun and has no known end is asked
about (`reconcile`), never repeated (law 6).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol

import anyio

from .energy import Meter
from .errors import Cancelled, Refused, SkillFailed, SlipError, UnknownOutcome, UsageError, from_wire
from .events import Events
from .gate import Caller
from .journal import Invocation, Journal
from .skill import Catalogue, Context, Outcome, SkillSpec, Submitted


class Blocked(BaseException):
    """Raised into a skill that holds up the event loop. No `except Exception` of the skill can catch it."""


class Guard(Protocol):
    """Watches that skills give the event loop back."""

    def enter(self) -> None:
        """A skill is about to run."""

    def leave(self) -> None:
        """It ended."""


class Mesh(Protocol):
    """What the executor needs of its node."""

    id: str
    name: str

    async def call(
        self, skill: str, args: Mapping[str, Any], *, on: str | None, deadline: float | None, origin: str
    ) -> Any:
        """Call a skill anywhere in the mesh, on behalf of the device `origin`."""


class Door(Protocol):
    """What stands before skills (gate.Gate)."""

    def again(self, spec: SkillSpec, args: Mapping[str, Any], caller: Caller) -> None:
        """Look again after a wait; raises Denied where it is refused by now."""

    def undoing(self, spec: SkillSpec, args: Mapping[str, Any], caller: Caller) -> None:
        """Whether what was done may be undone now; raises Denied where not."""

    def must_ask(self, spec: SkillSpec, args: Mapping[str, Any], caller: Caller) -> bool:
        """Whether a person must be asked first; raises Denied where it is refused."""

    async def ask(
        self, spec: SkillSpec, args: Mapping[str, Any], key: str, caller: Caller, on_asking: Callable[[bool], None]
    ) -> None:
        """Ask a person; raises Denied unless they allow it."""


RECONCILE_SECONDS = 5.0
PROGRESS_EVERY = 0.05
"""Seconds between two tellings of an invocation's progress: nobody reads faster, and a peer that floods is left."""


class LiveContext(Context):
    """The context of an invocation in a running node."""

    def __init__(
        self, invoker: Invoker, backends: tuple[Any, ...], key: str, caller: Caller, deadline: float | None,
        on_progress: Callable[[float, str], None] | None,
    ) -> None:  # fmt: skip
        super().__init__(*backends)
        self.device, self.key, self.caller, self.deadline = invoker.mesh.name, key, caller.device, deadline
        self._origin, self.private = caller.origin or caller.device, caller.private
        self._invoker, self._on_progress = invoker, on_progress
        self._next_progress = float("-inf")
        # a note is free text: nobody can tell what in it is of what may not leave this device
        self._notes = not caller.private or caller.device == invoker.mesh.id

    def joules(self) -> float | None:
        return self._invoker.joules()

    async def progress(self, fraction: float, note: str = "") -> None:
        now = anyio.current_time()
        if self._on_progress is not None and (now >= self._next_progress or fraction >= 1):
            self._next_progress = now + PROGRESS_EVERY
            self._on_progress(float(fraction), str(note) if self._notes else "")
        await anyio.lowlevel.checkpoint()

    async def checkpoint(self, **state: Any) -> None:
        await super().checkpoint(**state)
        self._invoker.keep_state(self.key, self.state)
        await anyio.lowlevel.checkpoint()

    async def call(self, skill: str, /, *, on: str | None = None, **args: Any) -> Any:
        return await self._invoker.mesh.call(skill, args, on=on, deadline=self.deadline, origin=self._origin)


class Invoker:
    """Runs skills, one invocation at a time."""

    guard: Guard | None = None
    energy: Meter | None = None
    """Hears what runs when."""
    joules: Callable[[], float | None] = staticmethod(lambda: None)
    """What the device has used so far."""

    def __init__(self, mesh: Mesh, catalogue: Catalogue, journal: Journal, events: Events, gate: Door) -> None:
        self.catalogue = catalogue
        self.backends: tuple[Any, ...] = ()
        self.mesh, self._journal, self._events, self._gate = mesh, journal, events, gate
        self._under_way: dict[str, anyio.Event] = {}
        self._locks: dict[str, anyio.Lock] = {}

    async def invoke(
        self, spec: SkillSpec, args: Mapping[str, Any], *, caller: Caller, key: str = "",
        deadline: float | None = None, on_progress: Callable[[float, str], None] | None = None,
        on_item: Callable[[Any], Awaitable[None]] | None = None, fresh: bool = False,
        on_asking: Callable[[bool], None] = lambda asking: None,
    ) -> tuple[str, Any]:  # fmt: skip
        """Run a skill once; its outcome (`done`, `submitted`) and its value as plain data.

        With a key, the first answer stands, also over a restart; an effect that may not happen twice is journalled
        before it begins, and one that was begun and never ended is reconciled, never repeated. `fresh` says that the
        caller looked already, and that nobody else uses the key. `on_asking` hears when a person is asked first,
        and when no more.

        Raises:
            Denied: the policy or a person says no.
            SlipError: what went wrong, and whose fault it is.
        """
        checked = spec.check(args)
        if self._gate.must_ask(spec, args, caller):
            await self._gate.ask(spec, args, key, caller, on_asking)
        if not key and spec.lock is None:  # most calls: nothing to wait for, nothing to journal
            ctx = LiveContext(self, self.backends, key, caller, deadline, on_progress)
            value = await self._body(spec, ctx, checked, on_item)
            return _outcome(value).value, {"result": value} if spec.streaming else spec.dump(value)
        if not key:
            return await self._invoke(spec, checked, args, key, caller, deadline, on_progress, on_item)
        if fresh:
            return await self._invoke(spec, checked, args, key, caller, deadline, on_progress, on_item)
        async with self._alone(key):
            if (before := self._journal.invocation(key)) is not None:
                answer = await self._before(spec, before, checked, caller, deadline)
                if answer is not None:
                    return answer
            return await self._invoke(spec, checked, args, key, caller, deadline, on_progress, on_item)

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        """One at a time per key, from the first look at the journal on: asking whether it happened takes time."""
        while key in self._under_way:
            await self._under_way[key].wait()
        self._under_way[key] = anyio.Event()
        try:
            yield
        finally:
            self._under_way.pop(key).set()

    async def _before(
        self, spec: SkillSpec, before: Invocation, checked: dict[str, Any], caller: Caller, deadline: float | None
    ) -> tuple[str, Any] | None:
        """The first answer to a key; None if it may (still) be run."""
        if before.caller != caller.device:
            raise Refused("the key of another device", "only whoever used it first hears what became of it")
        if before.skill != spec.name:
            raise UsageError(f"the key {before.key} was used for {before.skill}", hint="a new call needs a new key")
        if before.error is not None:
            raise from_wire(before.error)
        if before.state in (Outcome.DONE, Outcome.SUBMITTED, "undone"):
            return before.state, before.result
        if spec.effect.repeatable:
            return None
        if spec.resumable:
            return None  # it goes on from its last checkpoint
        outcome, result = await self._reconcile(spec, checked, before.key, caller, deadline)
        if outcome is Outcome.DONE:
            self._journal.end(before.key, Outcome.DONE, result)
            return Outcome.DONE.value, result
        if outcome is Outcome.NOT_DONE:
            return None
        raise UnknownOutcome(
            f"nobody knows whether {spec.name} happened", "it was begun and never reported its end",
            "look, then decide: slip runs show", skill=spec.name,
        )  # fmt: skip

    async def _reconcile(
        self, spec: SkillSpec, checked: dict[str, Any], key: str, caller: Caller, deadline: float | None
    ) -> tuple[Outcome, Any]:
        """Whether it happened, as far as the skill can tell, and the result if it knows that too."""
        if spec.reconcile_fn is None:
            return Outcome.UNKNOWN, {}
        ctx = LiveContext(self, self.backends, key, caller, deadline, None)
        try:
            with anyio.fail_after(RECONCILE_SECONDS):
                answer = await spec.reconcile_fn(ctx, checked)
            if answer is None:  # most likely a forgotten `return`, also in a skill that returns nothing
                raise SkillFailed("it gave no answer", skill=spec.name)
            return (answer, {}) if isinstance(answer, Outcome) else (Outcome.DONE, spec.dump(answer))
        except Exception as error:
            self._events.tell("warning", what=f"{spec.name} could not be reconciled", why=str(error), hint="")
            return Outcome.UNKNOWN, {}

    async def _invoke(
        self, spec: SkillSpec, checked: dict[str, Any], args: Mapping[str, Any], key: str, caller: Caller,
        deadline: float | None, on_progress: Callable[[float, str], None] | None,
        on_item: Callable[[Any], Awaitable[None]] | None,
    ) -> tuple[str, Any]:  # fmt: skip
        if spec.lock is not None:
            async with self._locks.setdefault(spec.lock, anyio.Lock()):
                self._gate.again(spec, args, caller)  # the car may have moved off meanwhile
                return await self._keyed(spec, checked, args, key, caller, deadline, on_progress, on_item)
        return await self._keyed(spec, checked, args, key, caller, deadline, on_progress, on_item)

    async def _keyed(
        self, spec: SkillSpec, checked: dict[str, Any], args: Mapping[str, Any], key: str, caller: Caller,
        deadline: float | None, on_progress: Callable[[float, str], None] | None,
        on_item: Callable[[Any], Awaitable[None]] | None,
    ) -> tuple[str, Any]:  # fmt: skip
        if spec.resumable and key and not caller.private and self._journal.is_private(key):
            caller = replace(caller, private=True)  # its last checkpoint kept what it was given then
        ctx = LiveContext(self, self.backends, key, caller, deadline, on_progress)
        once = bool(key) and not spec.effect.repeatable
        if key and spec.resumable:
            ctx.state = self._journal.state(key)
        if once or (key and spec.resumable):  # a checkpoint needs a row, whatever the effect
            self._journal.begin(key, spec.name, dict(args), durable=once, caller=caller.device,
                                private=caller.private)  # fmt: skip
        try:
            value = await self._body(spec, ctx, checked, on_item)
            plain = {"result": value} if spec.streaming else spec.dump(value)
            state = _outcome(value)
            if key:
                self._keep(spec, key, args, state, plain, caller)
        except SlipError as error:
            if once:
                self._journal.end(key, Outcome.FAILED, None, error.to_wire())
            raise
        except BaseException:
            # cancelled in the middle: of an effect that may not be doubled, only the skill can say whether it happened
            if once and not spec.resumable:
                with anyio.CancelScope(shield=True):
                    outcome, result = await self._reconcile(spec, checked, key, caller, None)
                if outcome is Outcome.NOT_DONE:
                    self._journal.end(key, Outcome.CANCELLED, None, Cancelled(f"{spec.name} was cancelled").to_wire())
                elif outcome is Outcome.DONE:
                    self._journal.end(key, Outcome.DONE, result)
                # otherwise its row stays as it is, begun, and whoever uses the key again asks again
            raise
        return state.value, plain

    def _keep(
        self, spec: SkillSpec, key: str, args: Mapping[str, Any], state: Outcome, plain: Any, caller: Caller
    ) -> None:
        try:
            if spec.effect.repeatable and not spec.resumable:
                self._journal.record(key, spec.name, dict(args), state, plain, caller=caller.device,
                                     private=caller.private)  # fmt: skip
                return
            with self._journal.together(durable=not spec.effect.repeatable):
                self._journal.end(key, state, plain)
        except UsageError as error:
            raise SkillFailed(f"{spec.name} returned what cannot be kept", error.why, error.hint,
                              skill=spec.name) from None  # fmt: skip

    async def _body(
        self, spec: SkillSpec, ctx: LiveContext, checked: dict[str, Any],
        on_item: Callable[[Any], Awaitable[None]] | None,
    ) -> Any:  # fmt: skip
        """Run the skill's own code; the guard finds this frame on the stack when the loop is held up."""
        if self.guard is not None:
            self.guard.enter()
        if (energy := self.energy) is not None:
            began = anyio.current_time()
            energy.began(spec.name, began)
        try:
            if not spec.streaming:
                return await spec.fn(ctx, **checked)
            items: list[Any] = []
            async with aclosing(spec.fn(ctx, **checked)) as stream:  # its `finally` runs here, under its lock
                async for item in stream:
                    if on_item is None:
                        items.append(spec.dump(item))
                    else:
                        await on_item(spec.dump(item))
            return items
        except SlipError:
            raise
        except Blocked:
            raise SkillFailed(f"{spec.name} blocked the event loop", "it did not give it back in time",
                              "run slow code with anyio.to_thread.run_sync", skill=spec.name) from None  # fmt: skip
        except (Exception, SystemExit) as error:  # a library that calls sys.exit() must not end the device
            raise SkillFailed(f"{spec.name} raised {type(error).__name__}", _words(error), where_raised(error),
                              skill=spec.name) from error  # fmt: skip
        finally:
            if energy is not None:
                now = anyio.current_time()
                energy.ended(spec.name, now - began, now)
            if self.guard is not None:
                self.guard.leave()

    def keep_state(self, key: str, state: dict[str, Any]) -> None:
        """Keep what a resumable skill's checkpoint said, over a restart."""
        if key:
            self._journal.keep_state(key, state)

    def is_private(self, key: str) -> bool:
        """Whether what ran under a key was given what may not leave this device."""
        return self._journal.is_private(key)

    async def undo(self, key: str, caller: Caller) -> bool:
        """Run the compensation of what a key did; false if there is nothing to undo.

        Raises:
            Denied: the policy refuses what it did, by now.
            Refused: it is another device's key.
            SlipError: the compensation failed.
        """
        async with self._alone(key):
            return await self._undo(key, caller)

    async def _undo(self, key: str, caller: Caller) -> bool:
        done = self._journal.invocation(key)
        if done is None or done.state != Outcome.DONE:
            return False
        if done.caller != caller.device:
            raise Refused("the key of another device", "only whoever used it first may undo what it did")
        spec = self.catalogue.get(done.skill)
        if spec.undo_fn is None:
            return False
        self._gate.undoing(spec, done.args, caller)
        ctx = LiveContext(self, self.backends, f"{key}/undo", caller, None, None)
        try:
            await spec.undo_fn(ctx, spec.check(done.args), spec.load(done.result) if done.result else None)
        except SlipError:
            raise
        except Exception as error:
            raise SkillFailed(f"undoing {spec.name} raised {type(error).__name__}", _words(error),
                              where_raised(error), skill=spec.name) from error  # fmt: skip
        with self._journal.together(durable=True):
            self._journal.undone(key)
        return True


def _outcome(value: Any) -> Outcome:
    return Outcome.SUBMITTED if type(value) is Submitted else Outcome.DONE


def _words(error: BaseException) -> str:
    """What an exception of a skill's own class says, if it can say it."""
    try:
        return str(error)[:500]
    except Exception as broken:
        return f"it cannot be shown: {type(broken).__name__}"


def where_raised(error: BaseException) -> str:
    """The file and line where a skill raised, for the hint."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
