"""Step, Ref, Plan: immutable values, and the checks of a plan's graph and of its references.

The same JSON is what a person writes, what a model is asked to produce and what `slip run` takes. Data, never code:
`{"$ref": "step.field"}` points at another step's result, `when` is a comparison, `for_each` a list to go through.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from . import schema as js
from .errors import UsageError
from .skill import nearest

STEPS_LIMIT = 1000
PRIORITIES = 10
ITEMS_LIMIT = 1000
DEPTH_LIMIT = 16
_ID = re.compile(r"[a-z][a-z0-9_]{0,39}")
_STRICT = ConfigDict(extra="forbid")

Op = Literal["eq", "ne", "lt", "le", "gt", "ge", "in", "and", "or", "not"]


@dataclass(frozen=True, slots=True)
class Ref:
    """A pointer to a value: `source` is a step's id, `inputs` or `item`; `path` leads into it."""

    source: str
    path: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Ref:
        """The reference that `{"$ref": text}` means."""
        source, *path = text.split(".")
        return cls(source, tuple(path))

    def __str__(self) -> str:
        return ".".join((self.source, *self.path))

    def into(self, value: Any) -> Any:
        """What the path leads to inside `value`.

        Raises:
            UsageError: there is nothing there.
        """
        for part in self.path:
            try:
                value = value[int(part)] if isinstance(value, (list, tuple)) else value[part]
            except (KeyError, IndexError, TypeError, ValueError):
                raise UsageError(f"nothing at {self}", f"{part!r} is not there", field=str(self)) from None
        return value


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison of literals and references; `and`, `or` and `not` take conditions."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    op: Op
    left: Any
    right: Any = None


@dataclass(frozen=True, slots=True)
class Step:
    """One skill, with its arguments and what it waits for."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    id: str
    skill: str
    args: dict[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    when: Condition | None = None
    for_each: Annotated[dict[Literal["$ref"], str], Field(min_length=1)] | None = None
    on: str | None = None
    deadline_ms: int | None = None
    on_error: Literal["fail", "skip", "replan"] = "fail"

    @property
    def data_needs(self) -> tuple[str, ...]:
        """Ids of the steps whose results this one reads, each once, in the order of their mention."""
        sources = dict.fromkeys(ref.source for _, ref in self.refs())
        return tuple(s for s in sources if s not in ("inputs", "item"))

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of all steps that must end first."""
        return tuple(dict.fromkeys((*self.data_needs, *self.after)))

    def refs(self) -> Iterator[tuple[str, Ref]]:
        """Every reference in it, with the field where it stands."""
        for name, value in self.args.items():
            yield from _refs(value, f"args.{name}")
        if self.when is not None:
            yield from _condition_refs(self.when)
        if self.for_each is not None:
            yield "for_each", Ref.parse(self.for_each["$ref"])


@dataclass(frozen=True, slots=True)
class Plan:
    """A DAG of steps, with the wish that it serves."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    goal: str
    steps: tuple[Step, ...]
    version: Literal["1"] = "1"
    inputs: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    deadline_ms: int | None = None
    priority: int = 0
    """0 to 9: steps of a plan with a higher one go before those of others that have not begun."""
    on_failure: Literal["compensate", "stop", "replan"] = "stop"
    planner: str = "file"

    def to_wire(self) -> dict[str, Any]:
        """The plan as plain values: the JSON that people and models write."""
        plain: dict[str, Any] = _adapter().dump_python(self, mode="json", exclude_defaults=True)
        return plain

    def step(self, step_id: str) -> Step:
        """The step with that id.

        Raises:
            KeyError: there is none.
        """
        for step in self.steps:
            if step.id == step_id:
                return step
        raise KeyError(step_id)


@cache
def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def plan_schema() -> dict[str, Any]:
    """The JSON Schema of a plan: what constrains a model that writes one."""
    return _adapter().json_schema()


def load(data: Any, inputs: Mapping[str, Any] | None = None) -> Plan:
    """A plan from plain values, checked for its form, its graph and its references (not against skills: `check`).

    Raises:
        UsageError: it names the step and the field.
    """
    try:
        plan = _adapter().validate_python(data)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # an unknown field explains the missing one beside it: it is the likelier slip of the pen
        first = next((e for e in errors if e["type"] == "unexpected_keyword_argument"), errors[0])
        path = list(first["loc"])
        where = None
        if len(path) >= 2 and path[0] == "steps" and isinstance(path[1], int):
            try:
                where = str(data["steps"][path[1]]["id"])
            except (KeyError, TypeError, IndexError):
                where = f"number {path[1] + 1}"
            path = path[2:]
        name = ".".join(map(str, path)) or "plan"
        unknown = first["type"] == "unexpected_keyword_argument"
        fields = [f for f in (Step if where else Plan).__dataclass_fields__ if not f.startswith("_")]
        why = "is unknown here" if unknown else first["msg"]
        raise _wrong(
            where, name, why, nearest(name, fields) if unknown else "README.md shows the form of a plan"
        ) from None
    for name in inputs or ():
        if name not in plan.inputs:
            there = ", ".join(plan.inputs) or "none"
            raise _wrong(
                None, f"inputs.{name}", f"the plan has no such input; there are {there}", nearest(name, plan.inputs)
            )
    if inputs:
        plan = Plan(**{**{f: getattr(plan, f) for f in Plan.__dataclass_fields__ if f != "__pydantic_config__"},
                       "inputs": {**plan.inputs, **inputs}})  # fmt: skip
    _check_graph(plan)
    return plan


def _wrong(step: str | None, name: str, why: str, hint: str = "") -> UsageError:
    what = f"step {step}: {name}" if step else name
    return UsageError(f"plan: {what}", why, hint, step=step, field=name)


def _check_graph(plan: Plan) -> None:
    if not plan.steps:
        raise _wrong(None, "steps", "there are none", "add a step: {\"id\": \"...\", \"skill\": \"...\"}")  # fmt: skip
    if len(plan.steps) > STEPS_LIMIT:
        raise _wrong(None, "steps", f"{len(plan.steps)} are more than {STEPS_LIMIT}", "split the plan")
    if plan.priority not in range(PRIORITIES):
        raise _wrong(None, "priority", f"must be from 0 to {PRIORITIES - 1}", "0 for what can wait")
    ids: dict[str, Step] = {}
    for step in plan.steps:
        if not _ID.fullmatch(step.id) or step.id in ("inputs", "item"):
            raise _wrong(step.id, "id", "needs lower-case letters, digits and _, and may not be inputs or item")
        if step.id in ids:
            raise _wrong(step.id, "id", "is there twice", "give each step an id of its own")
        if step.deadline_ms is not None and step.deadline_ms <= 0:
            raise _wrong(step.id, "deadline_ms", "must be more than 0")
        ids[step.id] = step
    for step in plan.steps:
        for name in step.after:
            if name not in ids:
                raise _wrong(step.id, "after", f"there is no step {name}", nearest(name, ids))
        for name, ref in _deep(step.refs, step.id):
            if ref.source == "item":
                if step.for_each is None or name == "for_each":
                    raise _wrong(step.id, name, "item is there only inside for_each", "say what to go through")
            elif ref.source == "inputs":
                if not ref.path or ref.path[0] not in plan.inputs:
                    raise _wrong(step.id, name, f"there is no input {'.'.join(ref.path)}",
                                 f"give it: slip run --input {'.'.join(ref.path) or 'NAME'}=VALUE")  # fmt: skip
            elif ref.source not in ids:
                raise _wrong(step.id, name, f"there is no step {ref.source}", nearest(ref.source, ids))
    for name, ref in _deep(lambda: _refs(plan.output, "output"), None):
        if ref.source not in ids and ref.source != "inputs":
            raise _wrong(None, name, f"there is no step {ref.source}", nearest(ref.source, ids))
    order(plan)


def _deep(refs: Callable[[], Iterator[tuple[str, Ref]]], step: str | None) -> list[tuple[str, Ref]]:
    try:
        return list(refs())
    except RecursionError:
        raise _wrong(step, "args", f"is nested more than {DEPTH_LIMIT} deep", "flatten it") from None


def order(plan: Plan) -> list[Step]:
    """The steps in an order in which each comes after what it needs (Kahn's algorithm).

    Raises:
        UsageError: some steps wait for each other; it names the circle.
    """
    waiting = {step.id: set(step.needs) for step in plan.steps}
    found: list[Step] = []
    ready = [step for step in plan.steps if not waiting[step.id]]
    readers: dict[str, list[Step]] = {}
    for step in plan.steps:
        for need in waiting[step.id]:
            readers.setdefault(need, []).append(step)
    while ready:
        step = ready.pop(0)
        found.append(step)
        for reader in readers.get(step.id, ()):
            waiting[reader.id].discard(step.id)
            if not waiting[reader.id]:
                ready.append(reader)
    if len(found) < len(plan.steps):
        stuck = {s for s, needs in waiting.items() if needs}
        circle = [min(stuck)]
        while circle.count(circle[-1]) < 2:
            circle.append(min(waiting[circle[-1]] & stuck))
        circle = circle[circle.index(circle[-1]) :]
        raise _wrong(circle[0], "needs", f"a cycle: {' waits for '.join(circle)}", "break it at one of them")
    return found


def check(plan: Plan, specs: Mapping[str, Mapping[str, Any]]) -> None:
    """Check the plan against the specs of the mesh's skills (`SkillSpec.to_wire`, by name).

    Raises:
        UsageError: an unknown skill, a missing, unknown or ill-typed argument, or a reference to a field that a schema
            does not have or whose type cannot fit; it names the step and the field.
    """
    for step in plan.steps:
        if step.skill not in specs:
            raise _wrong(step.id, "skill", f"no device has {step.skill}", nearest(step.skill, specs))
    outputs = {s.id: _output(specs[s.skill], listed=s.for_each is not None) for s in plan.steps}
    for step in plan.steps:
        spec = specs[step.skill]
        if wrong := js.problem(step.args, spec["inputSchema"]):
            raise _wrong(step.id, f"args.{wrong[0]}", wrong[1], f"slip skills show {step.skill}")
        for name, ref in step.refs():
            if ref.source in ("inputs", "item"):
                continue
            source = js.at(outputs[ref.source], ref.path)
            if source is None:
                have = ", ".join(outputs[ref.source].get("properties", {}))
                skill = plan.step(ref.source).skill
                raise _wrong(step.id, name, f"{skill} gives no {'.'.join(ref.path)}", f"it gives {have}")
            target: Mapping[str, Any] | None = {"type": "array"} if name == "for_each" else None
            if name.startswith("args."):
                target = js.at(spec["inputSchema"], name.split(".")[1:])
            if target is not None and not js.fits(source, dict(target)):
                raise _wrong(step.id, name, f"{ref} is {_words(source)}, and {_words(dict(target))} is needed",
                             f"slip skills show {step.skill}")  # fmt: skip
    for name, ref in _refs(plan.output, "output"):
        if ref.source in outputs and js.at(outputs[ref.source], ref.path) is None:
            raise _wrong(None, name, f"step {ref.source} gives no {'.'.join(ref.path)}")


def _output(spec: Mapping[str, Any], *, listed: bool) -> dict[str, Any]:
    one = dict(spec["outputSchema"])
    if not listed:
        return one
    wrapped: dict[str, Any] = {"type": "object", "properties": {"result": {"type": "array", "items": one}}}
    if "$defs" in one:
        wrapped["$defs"] = one["$defs"]
    return wrapped


def _words(schema: dict[str, Any]) -> str:
    return " or ".join(sorted(js.types(schema))) or "anything"


def refs_with_fields(args: Any, when: Any, for_each: Any) -> Iterator[tuple[tuple[str, ...], Ref]]:
    """Every reference in a step as its device is told of it, with its place: `("args", NAME, ...)`, `("when", ...)`."""
    for name, value in (("args", args), ("when", when), ("for_each", for_each)):
        for where, ref in _refs(value, name):
            yield tuple(where.split(".")), ref


def refs_of(value: Any) -> Iterator[tuple[str, Ref]]:
    """Every reference in a value, with the field where it stands."""
    return _refs(value, "output")


def _refs(value: Any, where: str, depth: int = 0) -> Iterator[tuple[str, Ref]]:
    if depth > DEPTH_LIMIT:
        raise RecursionError
    if isinstance(value, dict):
        if set(value) == {"$ref"} and isinstance(value["$ref"], str):
            yield where, Ref.parse(value["$ref"])
            return
        for name, inner in value.items():
            yield from _refs(inner, f"{where}.{name}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _refs(inner, f"{where}.{i}", depth + 1)


def _condition_refs(condition: Any, depth: int = 0) -> Iterator[tuple[str, Ref]]:
    for side in ("left", "right"):
        value = condition.get(side) if isinstance(condition, dict) else getattr(condition, side)
        if isinstance(value, dict) and "op" in value and depth < DEPTH_LIMIT:
            yield from _condition_refs(value, depth + 1)
        else:
            yield from _refs(value, f"when.{side}", depth)


def fill(value: Any, values: Mapping[str, Any]) -> Any:
    """`value` with every reference whose source is in `values` replaced by what it points at; others stay.

    Raises:
        UsageError: a path leads nowhere.
    """
    if isinstance(value, dict):
        if set(value) == {"$ref"} and isinstance(value["$ref"], str):
            ref = Ref.parse(value["$ref"])
            return ref.into(values[ref.source]) if ref.source in values else value
        return {name: fill(inner, values) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [fill(inner, values) for inner in value]
    return value


def holds(condition: Any, values: Mapping[str, Any]) -> bool:
    """Whether a condition holds, with the results of steps in `values`. Things that cannot be compared do not hold.

    Raises:
        UsageError: a path leads nowhere, or the operator is unknown.
    """
    if isinstance(condition, Condition):
        condition = {"op": condition.op, "left": condition.left, "right": condition.right}
    op, left, right = condition["op"], condition.get("left"), condition.get("right")
    if op == "not":
        return not holds(left, values)
    if op in ("and", "or"):
        return (all if op == "and" else any)(holds(side, values) for side in (left, right))
    compare = _COMPARE.get(op)
    if compare is None:
        raise UsageError(f"unknown operator {op!r}", "", f"there are {', '.join([*_COMPARE, 'and', 'or', 'not'])}")
    try:
        return bool(compare(fill(left, values), fill(right, values)))
    except TypeError:
        return False


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "in": lambda a, b: a in b,
}
