"""`@skill`, SkillSpec, Context, Effect, Catalogue: the contract between a skill and the mesh.

A skill is a typed async function. The decorator returns it unchanged and attaches its spec as `fn.spec`: name, schemas
and hints for others, and the two validators that its device uses. Names follow MCP (`inputSchema`, `annotations`).
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from json import dumps
from typing import Any, NotRequired, ParamSpec, Protocol, TypeVar, Union, cast

from pydantic import BaseModel, ConfigDict, PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from typing_extensions import TypedDict

from .errors import SkillFailed, UsageError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")


class Effect(StrEnum):
    """What a skill does to the world; it decides whether a step may be repeated or moved (law 6)."""

    READ = "read"
    IDEMPOTENT = "idempotent"
    ONCE = "once"
    PHYSICAL = "physical"

    @property
    def repeatable(self) -> bool:
        """Whether it may run again when nobody knows if it ran."""
        return self in (Effect.READ, Effect.IDEMPOTENT)


class Consent(StrEnum):
    """When a person is asked first."""

    NEVER = "never"
    DEFAULT = "default"
    ALWAYS = "always"


class Driving(StrEnum):
    """What a vehicle is doing, as Android Automotive names it; whoever does not know says `moving`."""

    PARKED = "parked"
    IDLING = "idling"
    MOVING = "moving"


class Outcome(StrEnum):
    """How an invocation ended, and what `reconcile` may answer (`done` or `not_done`)."""

    DONE = "done"
    SUBMITTED = "submitted"
    FAILED = "failed"
    DENIED = "denied"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    NOT_DONE = "not_done"


@dataclass(frozen=True, slots=True)
class Cost:
    """An author's first guess of what one invocation takes; the mesh learns the rest."""

    latency_ms: float = 50.0
    energy_mwh: float = 0.0


class Submitted(BaseModel):
    """Returned by a skill that handed its work on without seeing the effect: *submitted* is not *done*."""

    detail: str = ""


class Context:
    """What a running skill may ask of its device. One per invocation; the node makes the real one."""

    device: str = "here"
    """The name of the device it runs on."""
    key: str = ""
    """The idempotency key of this invocation."""
    caller: str = "here"
    """The id of the device that asked."""
    deadline: float | None = None
    """When it must be done, in seconds on `anyio.current_time`'s clock."""
    private: bool = False
    """Whether its arguments hold what may not leave this device."""

    def __init__(self, *backends: Any, state: Mapping[str, Any] | None = None) -> None:
        self.state: dict[str, Any] = dict(state or {})
        """What the last `checkpoint` kept: restored on the device that takes a session over."""
        self._backends = backends

    def backend(self, kind: type[T]) -> T:
        """The device's backend of that class, as its pack opened it.

        Raises:
            SkillFailed: this device has none.
        """
        for backend in self._backends:
            if isinstance(backend, kind):
                return backend
        raise SkillFailed(f"this device has no {kind.__name__}", hint="load the pack that opens it")

    def joules(self) -> float | None:
        """What this device has used so far, as its meter counts from some beginning; None where nobody measures."""
        return None

    async def progress(self, fraction: float, note: str = "") -> None:
        """Tell whoever waits how far it is (0 to 1), and in what."""

    async def checkpoint(self, **state: Any) -> None:
        """Keep `state`; cancellation and handoff land here."""
        self.state.update(state)

    async def call(self, skill: str, /, *, on: str | None = None, **args: Any) -> Any:
        """Call another skill anywhere in the mesh, as part of this invocation."""
        raise SkillFailed(f"{skill} cannot be called from here", "this context belongs to no mesh",
                          "run it in a mesh: testing.mesh(...)")  # fmt: skip


class SkillSpec:
    """What others see of a skill, and how its own device checks what goes in and what comes out."""

    def __init__(
        self, fn: Callable[..., Any], name: str, effect: Effect, *, title: str, undoable: bool, resumable: bool,
        needs: tuple[str, ...], cost: Cost, consent: Consent, lock: str | None, phrases: tuple[str, ...],
        driving: Driving | None = None,
    ) -> None:  # fmt: skip
        if not _NAME.fullmatch(name) or name.startswith("slip."):
            raise UsageError(f"{name!r} is no skill name", "it needs dotted lower-case words, outside slip.*",
                             "name it like nav.route")  # fmt: skip
        if not fn.__doc__:
            raise UsageError(f"{name} has no docstring", hint="say in one sentence what it does", skill=name)
        self.fn, self.name, self.effect = fn, name, effect
        self.title = title or name
        self.description = inspect.cleandoc(fn.__doc__)
        self.undoable, self.resumable, self.needs = undoable, resumable, needs
        self.cost, self.consent, self.lock, self.phrases = cost, consent, lock, phrases
        # what nobody thought about must not move anything in a moving car
        self.driving = driving or (Driving.IDLING if effect is Effect.PHYSICAL else Driving.MOVING)
        self.streaming = inspect.isasyncgenfunction(fn)
        if not self.streaming and not inspect.iscoroutinefunction(fn):
            raise UsageError(f"{name} is not async", hint="declare it with `async def`", skill=name)
        self.undo_fn: Callable[..., Awaitable[None]] | None = None
        self.reconcile_fn: Callable[..., Awaitable[Any]] | None = None

        try:
            hints = typing.get_type_hints(fn, include_extras=True)
        except NameError as error:
            raise UsageError(f"{name}: a hint of its signature is not known", str(error),
                             "declare the type at the top of its module", skill=name) from None  # fmt: skip
        parameters = list(inspect.signature(fn).parameters.values())
        first = hints.get(parameters[0].name, Context) if parameters else None
        if not (isinstance(first, type) and issubclass(first, Context)):
            raise UsageError(f"{name} takes no context", hint="its first parameter is `ctx: Context`", skill=name)
        if "return" not in hints:
            raise UsageError(f"{name} does not say what it returns", hint="annotate it: `-> Model`, or `-> None`",
                             skill=name)  # fmt: skip
        fields: dict[str, Any] = {}
        defaults: dict[str, Any] = {}
        for p in parameters[1:]:
            if p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) or p.name not in hints:
                raise UsageError(f"{name}: parameter {p.name} needs a name and a type", hint="annotate it", skill=name)
            fields[p.name] = hints[p.name] if p.default is p.empty else NotRequired[hints[p.name]]
            if p.default is not p.empty:
                defaults[p.name] = p.default
        # a TypedDict validates into the keyword arguments themselves: no model is built and taken apart per call
        make: Any = TypedDict
        arguments = make(f"{name} arguments", fields)
        arguments.__pydantic_config__ = ConfigDict(extra="forbid")
        returns: Any = hints["return"]
        if self.streaming:
            returns = next(iter(typing.get_args(returns)), None)
            if returns is None:
                raise UsageError(f"{name} does not say what it yields", hint="annotate it: `-> AsyncIterator[Item]`",
                                 skill=name)  # fmt: skip
        elif Submitted in typing.get_args(returns):
            # an outcome, not a value: what is observed later has the schema of the others
            returns = Union[tuple(kind for kind in typing.get_args(returns) if kind is not Submitted)]  # noqa: UP007
        try:
            self._input: TypeAdapter[dict[str, Any]] = TypeAdapter(arguments)
            self._output: TypeAdapter[Any] = TypeAdapter(returns)
            self.input_schema = self._input.json_schema()
            self.input_schema.update(type="object", title=name)
            properties = self.input_schema.setdefault("properties", {})
            for key, value in defaults.items():
                if key in properties:  # not under an alias
                    properties[key]["default"] = _plain(TypeAdapter(hints[key]), value, binary=False)
            output = self._output.json_schema(mode="serialization")
        except (PydanticUserError, PydanticUndefinedAnnotation, ValueError) as error:
            raise UsageError(f"{name}: a type or default of its signature has no schema", str(error).splitlines()[0],
                             "use pydantic models and plain types", skill=name) from None  # fmt: skip
        self._wrap = output.get("type") != "object" or self.streaming
        if self._wrap:
            defs = output.pop("$defs", None)
            inner = {"type": "array", "items": output} if self.streaming else output
            output = {"type": "object", "properties": {"result": inner}, "required": ["result"]}
            if defs:
                output["$defs"] = defs
        self.output_schema = output
        self._binary_in, self._binary_out = ('"binary"' in dumps(schema) for schema in (self.input_schema, output))

    def check(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, validated: what the function is called with.

        Raises:
            UsageError: an argument is missing, unknown or of the wrong type; it names each.
        """
        try:
            return self._input.validator.validate_python(args)  # type: ignore[no-any-return]
        except ValidationError as error:
            (field, what), *more = _wrong(error)
            raise UsageError(
                f"{self.name}: {field or 'arguments'}: {what}", "; ".join(f"{where}: {what}" for where, what in more),
                f"slip skills show {self.name}", skill=self.name, field=field or "arguments",
            ) from None  # fmt: skip

    def dump_args(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Typed arguments as plain values, for the wire."""
        plain: dict[str, Any] = _plain(self._input, self.check(args), binary=self._binary_in)
        return plain

    def dump(self, value: Any) -> Any:
        """What the function returned (or one streamed item), validated, as plain values.

        Raises:
            SkillFailed: it does not fit the skill's own output schema.
        """
        if type(value) is Submitted:
            return value.model_dump()
        try:
            plain = _plain(self._output, self._output.validator.validate_python(value), binary=self._binary_out)
        except (ValueError, TypeError) as error:
            raise SkillFailed(
                f"{self.name} returned what its schema does not allow", _why(error), "fix its return type",
                skill=self.name,
            ) from None  # fmt: skip
        return plain if not self._wrap or self.streaming else {"result": plain}

    def load(self, plain: Any) -> Any:
        """A result from the wire as the type that the function declares (a typed caller's end of `dump`).

        Raises:
            SkillFailed: what came does not fit.
        """
        try:
            if self.streaming:
                return [self._output.validator.validate_python(item) for item in plain["result"]]
            return self._output.validator.validate_python(plain["result"] if self._wrap else plain)
        except (ValidationError, KeyError, TypeError) as error:
            hint = "the two devices have different versions of the skill"
            raise SkillFailed(
                f"{self.name} sent a result that does not fit", _why(error), hint, skill=self.name
            ) from None

    @property
    def annotations(self) -> dict[str, bool]:
        """MCP's four hints, always all of them, derived from the effect."""
        return {
            "readOnlyHint": self.effect is Effect.READ,
            "destructiveHint": self.effect in (Effect.ONCE, Effect.PHYSICAL),
            "idempotentHint": self.effect.repeatable,
            "openWorldHint": self.effect is not Effect.READ,
        }

    def to_wire(self) -> dict[str, Any]:
        """The spec as others see it."""
        return {
            "name": self.name, "title": self.title, "description": self.description,
            "inputSchema": self.input_schema, "outputSchema": self.output_schema, "annotations": self.annotations,
            "effect": self.effect.value, "lock": self.lock, "driving": self.driving.value,
            "consent": self.consent.value, "undoable": self.undoable,
            "resumable": self.resumable, "streaming": self.streaming, "needs": list(self.needs),
            "phrases": list(self.phrases),
            "cost": {"latency_ms": self.cost.latency_ms, "energy_mwh": self.cost.energy_mwh},
        }  # fmt: skip

    @property
    def digest(self) -> str:
        """Names this version of the spec: equal digests, equal specs."""
        return spec_digest(self.to_wire())


def spec_digest(spec: Mapping[str, Any]) -> str:
    """What a spec is called (`SkillSpec.to_wire`).

    Raises:
        TypeError, ValueError: it holds what JSON does not.
    """
    return sha256(dumps(spec, sort_keys=True).encode()).hexdigest()[:16]


def _plain(adapter: TypeAdapter[Any], value: Any, *, binary: bool) -> Any:
    """A value as JSON would write it, except that bytes stay bytes (msgpack has them)."""
    # a model that was built around its checks is an error, not a warning
    if not binary:
        return adapter.serializer.to_python(value, mode="json", by_alias=True, warnings="error")
    return _keep_bytes(adapter.serializer.to_python(value, by_alias=True, warnings="error"))


def _keep_bytes(value: Any) -> Any:
    if type(value) is dict:
        names = value if all(type(name) is str for name in value) else to_jsonable_python(dict.fromkeys(value))
        return {name: _keep_bytes(inner) for name, inner in zip(names, value.values(), strict=True)}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_keep_bytes(inner) for inner in value]
    return value if type(value) is bytes else to_jsonable_python(value)


def _wrong(error: ValidationError) -> list[tuple[str, str]]:
    """The first few faults: where (dotted, empty for the whole), and what."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)[:8]
    return [(".".join(str(part) for part in f["loc"])[:100], f["msg"][:200]) for f in faults]


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{where}: {what}".removeprefix(": ") for where, what in _wrong(error))[:500]
    return f"{type(error).__name__}: {error}"[:500]


class Skill(Protocol[P, R_co]):
    """A function that `@skill` decorated: called as it was written, with its spec beside it."""

    spec: SkillSpec

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The function itself."""

    def undo(self, compensation: F) -> F:
        """Register `async (ctx, args, result) -> None`, run only after success, never after *unknown*."""

    def reconcile(self, answer: F) -> F:
        """Register `async (ctx, args) -> Outcome | result`: did it happen? A result says yes, and what it gave."""


def skill(
    name: str, *, effect: Effect, title: str = "", undoable: bool = False, resumable: bool = False,
    needs: Iterable[str] = (), cost: Cost = Cost(), consent: Consent = Consent.DEFAULT, lock: str | None = None,
    phrases: Iterable[str] = (), driving: Driving | None = None,
) -> Callable[[Callable[P, R_co]], Skill[P, R_co]]:  # fmt: skip
    """Make a skill of an async function `fn(ctx, ...)`; the function itself stays as it is.

    `effect` is what it does to the world; `needs` are capabilities without which it is not offered; `lock` is held by
    one invocation at a time, mesh-wide; `driving` is the most that a vehicle may be doing while it runs (left out:
    idling for what is physical, moving for the rest; the policy's floor stands above it). `fn.undo` and `fn.reconcile`
    register its compensation and its "did it happen?". `fn.spec` is the SkillSpec.

    Raises:
        UsageError: the name, the signature or the docstring will not do.
    """

    def decorate(fn: Callable[P, R_co]) -> Skill[P, R_co]:
        spec = SkillSpec(
            fn, name, effect, title=title, undoable=undoable, resumable=resumable, needs=tuple(needs), cost=cost,
            consent=consent, lock=lock, phrases=tuple(phrases), driving=driving,
        )  # fmt: skip

        def undo(compensation: F) -> F:
            if not undoable:
                raise UsageError(f"{name} is not undoable", hint="say undoable=True", skill=name)
            spec.undo_fn = awaited(compensation, "undo")
            return compensation

        def reconcile(answer: F) -> F:
            spec.reconcile_fn = awaited(answer, "reconcile")
            return answer

        def awaited(fn: F, what: str) -> F:
            if not inspect.iscoroutinefunction(fn):
                raise UsageError(f"{name}: its {what} is not async", hint="declare it with `async def`", skill=name)
            return fn

        made = cast(Skill[P, R_co], fn)
        made.spec, made.undo, made.reconcile = spec, undo, reconcile  # type: ignore[method-assign]
        return made

    return decorate


def spec_of(fn: Callable[..., Any]) -> SkillSpec:
    """The spec of a function that `@skill` decorated.

    Raises:
        UsageError: it is no skill.
    """
    spec = getattr(fn, "spec", None)
    if not isinstance(spec, SkillSpec):
        raise UsageError(f"{getattr(fn, '__name__', fn)!r} is no skill", hint="decorate it with @skill(...)")
    return spec


@dataclass(frozen=True)
class Pack:
    """Some skills and the backend that they share on one device.

    `open(settings)` is an async context manager that yields the backend (a simulator, a bus, an API client); a skill
    gets at it with `ctx.backend(Class)`. `settings` has what the config says, and `state`: a folder of the pack's own.
    `capabilities(backend)` says what is really there, `resources(backend)` its `battery` (0 to 1), `charging` and what
    else gauge.py takes, `driving(backend)` what the vehicle is doing, None if the pack belongs to none, and
    `seconds(backend)` first guesses, by skill, of durations that depend on what is there, before a skill's `cost`.
    """

    name: str
    skills: tuple[Callable[..., Any], ...]
    open: Callable[[Mapping[str, Any]], AbstractAsyncContextManager[Any]] = lambda settings: nullcontext()
    capabilities: Callable[[Any], Iterable[str]] = lambda backend: ()
    resources: Callable[[Any], Mapping[str, Any]] = lambda backend: {}
    simulated: bool = False
    driving: Callable[[Any], Driving | None] = lambda backend: None
    seconds: Callable[[Any], Mapping[str, float]] = lambda backend: {}


@dataclass
class Catalogue:
    """The skills that this device offers, by name."""

    specs: dict[str, SkillSpec] = field(default_factory=dict)

    def add(self, pack: Pack, capabilities: Iterable[str] = ()) -> None:
        """Offer a pack's skills; those that need what is not there are left out.

        Raises:
            UsageError: a name is taken by another skill.
        """
        have = set(capabilities)
        for fn in pack.skills:
            spec = spec_of(fn)
            if not have.issuperset(spec.needs):
                continue
            if self.specs.setdefault(spec.name, spec).fn is not fn:
                raise UsageError(f"two packs offer {spec.name}", f"one of them is {pack.name}", "rename or drop one")

    def get(self, name: str) -> SkillSpec:
        """The spec of that skill.

        Raises:
            UsageError: it is not offered here; `hint` names the nearest one.
        """
        spec = self.specs.get(name)
        if spec is None:
            raise UsageError(f"unknown skill {name}", "it is not offered here", nearest(name, self.specs), skill=name)
        return spec


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint with the most similar name, for an error about one that is not there."""
    from difflib import get_close_matches  # only when something is already wrong

    close = get_close_matches(name, list(names), n=1)
    return f"did you mean {close[0]}?" if close else ""
