"""A scheduling problem by numbers, from Python or from JSON (`slipstream-sched/1`), and its schedule. Sans-IO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ..runtime_ext.scheduler import Infeasible, Packed
from .errors import NoDevice, UsageError


@dataclass(frozen=True, slots=True)
class Problem:
    """n numbered steps on m numbered devices, in any consistent units of time and size, from time 0 on.

    An empty `latency`, `slots` or `available` means 0, 1, always. A fixed step is done or runs: (device, start, end).
    """

    seconds: Sequence[Sequence[float | None] | float]
    """(n, m), run times; None: it cannot run there. A number is the cost of the step, which takes cost / speed."""
    deps: Sequence[tuple[int, int, float]]
    """(producer, consumer, size)."""
    bandwidth: Sequence[Sequence[float | None]]
    """(m, m), row = sender; None: no link. The diagonal is not read."""
    latency: Sequence[Sequence[float]] = ()
    slots: Sequence[int] = ()
    available: Sequence[tuple[float, float | None]] = ()
    exclusive: Sequence[Sequence[int]] = ()
    """Groups of steps of which no two may overlap in time, on whatever devices."""
    fixed: Mapping[int, tuple[int, float, float]] = field(default_factory=dict)
    deadlines: Mapping[int, float] = field(default_factory=dict)
    """Soft: what is found to miss one is reported, not refused."""
    weights: Mapping[int, float] = field(default_factory=dict)
    """What a missed deadline weighs, where that is not 1."""
    joules: Sequence[Sequence[float]] = ()
    """(n, m), what a run costs there, as dear as it is; of schedules of one length the cheapest counts."""
    carry: Sequence[Sequence[float]] = ()
    """(m, m), what moving a unit of size costs."""
    speed: Sequence[float] = ()
    """(m), of the devices, where a row of `seconds` is a cost."""
    radio: Sequence[bool] = ()
    """(m), whether a device has one half-duplex radio: transfers from and to it do not overlap in time."""

    @classmethod
    def from_json(cls, data: Any) -> Problem:
        """The problem in a `slipstream-sched/1` document (plain values, extensions included).

        Raises:
            UsageError: it is none; `where["field"]` names what is wrong.
        """
        try:
            document = _document().validate_python(data, strict=False)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise _bad(".".join(map(str, first["loc"])), first["msg"]) from None
        tasks, devices, links = document["tasks"], document["devices"], document["links"]
        cost, speed = tasks["cost"], devices["speed"]
        n, m = len(cost), len(speed)
        times = tasks.get("time") or [None] * n
        latency = links.get("latency") or []
        slots, available = devices.get("slots") or [], devices.get("available") or []
        radio = devices.get("radio") or []
        tables = {"links.speed": links["speed"], "links.latency": latency or links["speed"]}
        given = {"slots": slots or speed, "available": available or speed, "radio": radio or speed}
        for name, count, entries in (
            ("tasks.time", n, len(times)),
            *((name, m, len(rows)) for name, rows in tables.items()),
            *((f"devices.{name}", m, len(values)) for name, values in given.items()),
            *((f"tasks.time.{i}", m, len(row)) for i, row in enumerate(times) if row is not None),
            *((f"{name}.{p}", m, len(row)) for name, rows in tables.items() for p, row in enumerate(rows)),
        ):
            if entries != count:
                raise _bad(name, f"it has {entries} entries and needs {count}")
        for k, (i, j, _) in enumerate(document["deps"]):
            if not (0 <= i < n and 0 <= j < n):
                raise _bad(f"deps.{k}", f"there are {n} steps, counted from 0")
        exclusive = document.get("exclusive") or {}
        for name, group in exclusive.items():
            if not all(0 <= i < n for i in group):
                raise _bad(f"exclusive.{name}", f"there are {n} steps, counted from 0")
        return cls(
            [c if row is None else row for c, row in zip(cost, times, strict=True)],
            document["deps"],
            [[rate if rate is not None and rate > 0 else None for rate in row] for row in links["speed"]],
            [[delay or 0.0 for delay in row] for row in latency],
            slots, available, list(exclusive.values()), speed=speed, radio=radio,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Schedule:
    """Where and when each step runs, in step order; `late` are the steps that end after their deadline."""

    device: list[int]
    start: list[float]
    end: list[float]
    late: list[int]
    makespan: float
    bound: float
    """No schedule is shorter."""
    proven: bool
    """Whether this one is as short as can be."""
    energy: float
    moved: float
    """Size that goes from device to device."""
    work: int
    """Units of work that it took."""
    transfers: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """With radios: (start, end) of each dep that goes to another device, by its number, without the latency."""


def schedule(problem: Problem, *, work: int = 0, budget_us: float = 0, seed: int = 1) -> Schedule:
    """A short schedule that keeps every hard rule, and the shorter the more it may cost.

    List schedules compete, then local search goes on for `work` units (some 30 ns each), or until `budget_us` are over;
    the same work and seed give the same schedule, and more work none that is worse.

    Raises:
        NoDevice: a step has no place; `where` has its number `step` and the `rule`: device, window or link.
        UsageError: the numbers do not describe a problem.
    """
    p = problem
    try:
        packed = Packed(p.seconds, p.deps, p.bandwidth, p.latency, p.slots, p.available, p.exclusive, p.fixed,
                        p.deadlines, p.weights, p.joules, p.carry, p.speed, radio=p.radio)  # fmt: skip
        return Schedule(*packed.solve(work, budget_us, seed), packed.transfers())
    except Infeasible as error:
        raise NoDevice(str(error), step=error.step, rule=error.rule) from None
    except ValueError as error:
        raise UsageError("this is no scheduling problem", str(error)) from None


_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Tasks(TypedDict):
    cost: list[_Amount]
    time: NotRequired[list[list[_Amount | None] | None] | None]


class _Devices(TypedDict):
    speed: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    slots: NotRequired[list[Annotated[int, Field(ge=1, lt=2**31)]] | None]
    available: NotRequired[list[tuple[_Amount, _Amount | None]] | None]
    radio: NotRequired[list[bool] | None]


class _Links(TypedDict):
    speed: list[list[Annotated[float, Field(allow_inf_nan=False)] | None]]
    latency: NotRequired[list[list[_Amount | None]] | None]


class _Document(TypedDict):
    format: Literal["slipstream-sched/1"]
    tasks: _Tasks
    devices: _Devices
    links: _Links
    deps: list[tuple[int, int, _Amount]]
    exclusive: NotRequired[dict[str, list[int]] | None]


@cache
def _document() -> TypeAdapter[_Document]:
    return TypeAdapter(_Document)


def _bad(where: str, why: str) -> UsageError:
    return UsageError(f"this is no scheduling problem: {where}", why, field=where)
