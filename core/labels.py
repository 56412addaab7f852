"""Privacy labels at work: what of a value others may see, what stands in its place, and which plans could leak.

A field of a skill's schema says `"privacy": "personal"`, `"device"` or `"secret"`; `label_graph` finds those. `conceal`
puts handles in the place of what may not be seen, which mean nothing but to the device that minted them (`Handles`).

Laws:
- What a handle stands for comes back only on the device that minted it, and only into arguments whose schema promises
  to keep it, by labelling them at all.
- What a skill makes of such an argument is kept as strictly: all that it labels never leaves the device (`through`).
- `check_flows` refuses a plan early and kindly; where a skill runs, the handles hold whatever the plan says.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import Any, Final

import msgpack

from ..runtime_ext.frames import begins
from . import plan as plans
from .errors import SkillFailed, UsageError
from .label_graph import Label, Labels, label_at, labels_of
from .plan import Plan, Ref, Step

HANDLES_LIMIT, HANDLES_BYTES = 1_000, 16 * 1024 * 1024
"""Values that handles stand for at a time, and their size as msgpack; those unused for longest are forgotten first."""
_PREFIX: Final = "slip-handle:"
_HANDLE: Final = re.compile(_PREFIX + r"([^:\s]{1,64}):[A-Za-z0-9_-]{22}")
_NO_HANDLE: Final = frozenset((int, float, bool, bytes, type(None)))

MaySee = Callable[[Label], bool]


def conceal(value: Any, labels: Labels | None, may_see: MaySee, handle: Callable[[Any], str]) -> Any:
    """The value with `handle(part)` for every part that may not be seen; the same object if there is none."""
    return _walk(value, labels, may_see, lambda part, _: handle(part)) if labels else value


def redact(value: Any, labels: Labels | None, at_least: Label = Label.SECRET) -> Any:
    """The value for traces and screens: `‹secret›` and the like for every part with that label or a stricter one."""
    return _walk(value, labels, lambda label: label < at_least, lambda _, label: f"‹{label}›") if labels else value


def through(may_see: MaySee) -> MaySee:
    """Who may see what a skill made of a value that never leaves its device: all that it labels is kept as that is."""
    return lambda label: label is Label.PUBLIC or may_see(max(label, Label.DEVICE))


def _walk(value: Any, labels: Labels, may_see: MaySee, instead: Callable[[Any, Label], str]) -> Any:
    if labels.label is not Label.PUBLIC and not may_see(labels.label):
        return instead(value, labels.label)
    changed: Any = None
    if isinstance(value, dict):
        for name in value if labels.rest else labels.names.keys() & value.keys():
            if below := labels.names.get(name, labels.rest):
                part = _walk(value[name], below, may_see, instead)
                if part is not value[name]:
                    changed = dict(value) if changed is None else changed
                    changed[name] = part
    elif isinstance(value, (list, tuple)) and labels.items:
        parts = [_walk(item, labels.items, may_see, instead) for item in value]
        if any(part is not item for part, item in zip(parts, value, strict=True)):
            changed = parts
    return value if changed is None else changed


class Handles:
    """What the handles of one device stand for, until it restarts. `random` gives that many random bytes."""

    def __init__(self, device: str, random: Callable[[int], bytes] = token_bytes) -> None:
        self._device, self._random = device, random
        self._values: OrderedDict[str, tuple[bytes, tuple[str, bytes] | None]] = OrderedDict()
        self._minted: dict[tuple[str, bytes], str] = {}
        self._size = 0

    def mint(self, value: Any, key: str | None = None) -> str:
        """An opaque text that stands for a plain value; one that this device gave out already stays what it is.

        The same value gets the same handle again for the same `key` only (an invocation's): otherwise whoever can
        have values of his own minted could guess others'.

        Raises:
            SkillFailed: it is no plain value.
        """
        if type(value) is str and value in self._values:
            return value
        try:
            packed = msgpack.packb(value, use_bin_type=True)
        except (TypeError, ValueError, OverflowError) as error:
            raise SkillFailed("a value cannot be kept for later", type(error).__name__,
                              "return numbers, text, bytes, lists and maps with text keys") from None  # fmt: skip
        known = None if key is None else (key, packed)
        if known and (handle := self._minted.get(known)):
            self._values.move_to_end(handle)
            return handle
        handle = f"{_PREFIX}{self._device}:{urlsafe_b64encode(self._random(16)).rstrip(b'=').decode()}"
        self._values[handle] = packed, known
        self._size += len(packed)
        if known:
            self._minted[known] = handle
        while len(self._values) > HANDLES_LIMIT or (self._size > HANDLES_BYTES and len(self._values) > 1):
            _, (old, known) = self._values.popitem(last=False)
            self._size -= len(old)
            if known:
                del self._minted[known]
        return handle

    @staticmethod
    def any_in(value: Any) -> bool:
        """Whether there may be handles in a value, of whichever device."""
        return begins(value, _PREFIX)

    def resolve(self, value: Any, labels: Labels | None) -> Any:
        """Arguments with what the handles of this device stand for; the same object if there is none.

        Others' handles stay. `labels` are those of the arguments' schema. What a skill makes of resolved arguments
        may be seen by those only whom `through` lets.

        Raises:
            UsageError: what a handle stands for is not known any more, or is not to be kept where it goes.
        """
        return self._resolve(value, labels, Label.PUBLIC, "")

    def _resolve(self, value: Any, labels: Labels | None, around: Label, where: str) -> Any:
        label = max(around, labels.label) if labels else around
        if isinstance(value, str):
            return self._meant(value, label, where) if value.startswith(_PREFIX) else value
        changed: Any = None
        if isinstance(value, dict):
            for name, inner in value.items():
                below = labels.names.get(name, labels.rest) if labels else None
                part = inner if type(inner) in _NO_HANDLE else self._resolve(inner, below, label, f"{where}.{name}")
                if part is not inner:
                    changed = dict(value) if changed is None else changed
                    changed[name] = part
        elif isinstance(value, (list, tuple)):
            items = labels.items if labels else None
            parts = [
                inner if type(inner) in _NO_HANDLE else self._resolve(inner, items, label, f"{where}.{i}")
                for i, inner in enumerate(value)
            ]
            if any(part is not inner for part, inner in zip(parts, value, strict=True)):
                changed = parts
        return value if changed is None else changed

    def _meant(self, handle: str, label: Label, where: str) -> Any:
        form = _HANDLE.fullmatch(handle)
        if not form or form[1] != self._device:
            return handle
        name = where[1:] or "value"
        if label is Label.PUBLIC:
            raise UsageError(f"{name}: a handle cannot go there", "what it stands for never leaves this device, and "
                             f"{name} is not labelled, so the skill does not promise to keep it",
                             "give it to an argument that is labelled: slip skills show", field=name)  # fmt: skip
        if handle not in self._values:
            raise UsageError(f"{name}: nobody knows any more what this handle stands for",
                             "this device restarted since, or gave out many handles", "run the step again that gave it",
                             field=name)  # fmt: skip
        self._values.move_to_end(handle)
        return msgpack.unpackb(self._values[handle][0], strict_map_key=False)


# -- plans -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flows:
    """Where the values of a plan may go, by the ids of its steps."""

    together: list[tuple[str, str]] = field(default_factory=list)
    """A step, and one that reads what never leaves its device: both must run on one."""
    at_owner: set[str] = field(default_factory=set)
    """Steps of which the plan's output has what never leaves their device: only the run's owner may run them."""
    personal: set[str] = field(default_factory=set)
    """Steps that read what is personal: only devices that may see that may run them."""

    def groups(self) -> list[set[str]]:
        """The steps that must share a device, over all pairs of `together`."""
        found: dict[str, set[str]] = {}
        for one, other in self.together:
            groups = found.setdefault(one, {one}), found.setdefault(other, {other})
            less, more = sorted(groups, key=len)
            if less is not more:
                more |= less
                found.update(dict.fromkeys(less, more))
        return list({id(group): group for group in found.values()}.values())


@dataclass(slots=True)
class _Group:
    """Steps that must share a device, and those that all of them could run on (None: any)."""

    steps: set[str]
    devices: Set[str] | None


def check_flows(plan: Plan, specs: Mapping[str, Mapping[str, Any]], on_of: Callable[[Step], Set[str] | None]) -> Flows:
    """Find out where a plan, which `plan.check` let pass, sends values that are labelled.

    `specs` are those of the mesh's skills (`SkillSpec.to_wire`, by name); `on_of` says which devices, by id, a step
    could run on, None for any.

    Raises:
        UsageError: what never leaves its device would go into an argument that is not labelled, or to steps that no
            device can run together; it names the step and the field.
    """
    return _Check(plan, specs, on_of).run()


class _Check:
    def __init__(
        self, plan: Plan, specs: Mapping[str, Mapping[str, Any]], on_of: Callable[[Step], Set[str] | None]
    ) -> None:
        self._plan, self._specs, self._on_of = plan, specs, on_of
        self._steps = {step.id: step for step in plan.steps}
        self._shapes: dict[tuple[str, str], Labels | None] = {}
        self._made_of_kept: set[str] = set()
        self._groups: dict[str, _Group] = {}
        self._pairs: dict[tuple[str, str], None] = {}
        self._flows = Flows()

    def run(self) -> Flows:
        for step in plans.order(self._plan):
            listed = Ref.parse(step.for_each["$ref"]) if step.for_each is not None else None
            for name, ref in step.refs():
                if ref.source == "item" and listed is not None:
                    self._read(step, name, Ref(listed.source, (*listed.path, "0", *ref.path)))
                else:
                    self._read(step, name, ref)
        for _, ref in plans.refs_of(self._plan.output):
            labels, least = self._pointed(ref)
            if labels and labels.strictest >= least:
                self._flows.at_owner.add(ref.source)
        self._flows.together.extend(self._pairs)
        return self._flows

    def _read(self, step: Step, name: str, ref: Ref) -> None:
        labels, least = self._pointed(ref)
        if labels is None:
            return
        if labels.strictest < least:
            self._flows.personal.add(step.id)
            return
        which = "never leaves its device" if least is Label.DEVICE else "is made of what never leaves its device"
        gives = f"{self._steps[ref.source].skill} gives {'.'.join(ref.path) or 'a result'}, which {which}"
        if name.startswith("args."):
            shape = self._shape(step.skill, "inputSchema")
            place = shape.at(name.split(".")[1:]) if shape else None
            if place is None or not place.keeps(labels, least):
                raise _leak(step, name, f"{gives}; {name} of {step.skill} does not promise to keep it",
                            f"refer to something else, or label it: slip skills show {step.skill}")  # fmt: skip
            self._made_of_kept.add(step.id)
        if name.startswith("when"):
            raise _leak(step, name, f"{gives}; whether a step ran tells of it", "decide by something else")
        self._bind(step, name, ref.source, gives)

    def _pointed(self, ref: Ref) -> tuple[Labels | None, Label]:
        """The labels of what a reference points at, and from which one on it never leaves its device."""
        step = self._steps.get(ref.source)
        labels = self._shape(step.skill, "outputSchema") if step else None
        if step and labels and step.for_each is not None:
            each = Labels(items=labels, strictest=labels.strictest)
            labels = Labels(names={"result": each}, strictest=labels.strictest)
        return labels and labels.at(ref.path), Label.PERSONAL if ref.source in self._made_of_kept else Label.DEVICE

    def _shape(self, skill: str, side: str) -> Labels | None:
        if (skill, side) not in self._shapes:
            self._shapes[skill, side] = labels_of(self._specs[skill][side])
        return self._shapes[skill, side]

    def _bind(self, step: Step, name: str, source: str, gives: str) -> None:
        self._pairs[source, step.id] = None
        less, more = sorted((self._group(source), self._group(step.id)), key=lambda group: len(group.steps))
        if less is more:
            return
        more.steps |= less.steps
        if less.devices is not None:
            more.devices = less.devices if more.devices is None else less.devices & more.devices
        if more.devices is not None and not more.devices:
            names = " and ".join(sorted({self._steps[s].skill for s in more.steps}))
            raise _leak(step, name, f"{gives}, and there is no device for {names} together",
                        f'let steps {", ".join(sorted(more.steps))} run on one device: the same "on" or none, '
                        "and skills that one device has")  # fmt: skip
        self._groups.update(dict.fromkeys(less.steps, more))

    def _group(self, step: str) -> _Group:
        if step not in self._groups:
            self._groups[step] = _Group({step}, self._on_of(self._steps[step]))
        return self._groups[step]


def _leak(step: Step, name: str, why: str, hint: str) -> UsageError:
    return UsageError(f"plan: step {step.id}: {name}", why, hint, step=step.id, field=name)


__all__ = [
    "HANDLES_BYTES", "HANDLES_LIMIT", "Flows", "Handles", "Label", "Labels", "MaySee", "check_flows", "conceal",
    "label_at", "labels_of", "redact", "through",
]  # fmt: skip
