"""What a device lets others do: rules, labels and the floor; sans-IO, evaluated where the skill runs, on every call.

Laws:
- The first rule that fits decides; where none fits, it is refused. The floor (driving.py) stands above all of them.
- Of the caller, which TLS proved, and the origin, which it only names, the stricter answer counts: an origin takes
  authority away and never adds any.
- A skill's author can have a person asked each time; nothing that an author says stops a rule from asking.
- `device` and `secret` are seen by no other device, whatever the file says.

How it is quick: a rule is a bit, and every condition (who, driving, time, argument) a mask of the rules that it lets
fit. What cannot change for a skill and a device is kept; then a call is a few `and`s, and its rule the lowest bit left.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final, Literal

from .driving import Limit, limits, named
from .skill import Consent, Driving, Effect, SkillSpec
from .trust import Member

Answer = Literal["allow", "ask", "refuse"]
Plain = str | int | float | bool

WEEK: Final = 7 * 24 * 60
"""Minutes."""
KEPT: Final = 4096
"""Pairs of a skill and a device for which it is remembered which rules may fit."""
PERSONAL: Final = "personal"
"""The one label that a policy may grant."""

_STRICTNESS = {"allow": 0, "ask": 1, "refuse": 2}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a device says to a call, by which rule, and what can be done about it."""

    answer: Answer
    rule: str
    """Like `policy.toml:41`, `the floor: ...`, or `default: ...`."""
    why: str
    hint: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; a condition that is None or empty lets everything fit."""

    who: tuple[str, ...]
    """`owner`, `member`, `guest`, `guest:PROFILE`, `kind:KIND`, `device:NAME-OR-ID` or `*`."""
    skills: tuple[str, ...]
    """Patterns on dotted names; those that begin with `!` take out."""
    then: Answer
    effects: frozenset[Effect] = frozenset()
    driving: frozenset[Driving] = frozenset()
    """What the vehicle must be doing; what is no vehicle always fits."""
    hours: tuple[tuple[int, int], ...] = ()
    """From and until when, in minutes of the local week, which begins with Monday; until is not in it."""
    args: Mapping[str, frozenset[Plain]] = field(default_factory=dict)
    """The values that each argument must have, given or by default."""
    where: str = ""
    """File and line."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How a person is asked."""

    seconds: float = 60.0
    """How long they have."""
    who: tuple[str, ...] = ("owner",)
    """Whose devices may answer."""


@dataclass(frozen=True, slots=True)
class _Argument:
    """What the value of one argument lets fit: masks of rules."""

    name: str
    default: Any
    free: int
    """Those that do not ask for it."""
    fits: Mapping[tuple[bool, Any], int]
    doubt: Mapping[type, int]
    """Those that ask or refuse, and name no value of that type: `"3"` may be taken for 3, so they fit as well."""
    other: int
    """Those that ask or refuse at all, for a value of no plain type."""

    def mask(self, args: Mapping[str, Any]) -> int:
        """The rules that fit a call with those arguments."""
        value = args.get(self.name, self.default)
        kind = type(value)
        if kind not in self.doubt:
            return self.free | self.other
        return self.free | self.doubt[kind] | self.fits.get((kind is bool, value), 0)


class _Known:
    """What cannot change for a skill and a device."""

    __slots__ = ("always", "args", "limits", "mask", "member", "spec", "timed", "verdicts")

    def __init__(self, spec: SkillSpec, member: Member, mask: int, timed: bool, args: tuple[_Argument, ...]) -> None:
        self.spec, self.member, self.mask, self.timed, self.args = spec, member, mask, timed, args
        self.limits: tuple[Limit, ...] = limits(spec)
        self.verdicts: dict[int, Verdict] = {}
        self.always: Verdict | None = None
        """What the rules say whatever the call is, where the first of them that fits is one that always does."""


class Policy:
    """The rules of one device, who may see which labels, and how a person is asked."""

    def __init__(
        self, rules: Iterable[Rule], labels: Mapping[str, Sequence[str]] | None = None, consent: Asking | None = None
    ) -> None:
        self.rules = tuple(rules)
        self._labels, self._asking = dict(labels or {}), consent or Asking()
        self._all = (1 << len(self.rules)) - 1
        self._driving = {state: self._mask(partial(_fits_driving, state)) for state in Driving}
        self._edges, self._at = _week(self.rules)
        self._timed = self._mask(lambda r: bool(r.hours))
        self._plain = self._mask(lambda r: not (r.driving or r.hours or r.args))
        self._known: dict[tuple[str, str], _Known] = {}

    def _mask(self, fits: Callable[[Rule], bool]) -> int:
        return sum(1 << index for index, rule in enumerate(self.rules) if fits(rule))

    @property
    def timed(self) -> bool:
        """Whether any rule asks what time it is."""
        return bool(self._timed)

    @property
    def consent_seconds(self) -> float:
        """How long a person has to answer."""
        return self._asking.seconds

    def may_answer(self, member: Member) -> bool:
        """Whether whoever is at that device may answer what is asked."""
        return belongs(member, self._asking.who)

    def may_see(self, member: Member, label: str) -> bool:
        """Whether a device may be sent values with that label."""
        return label == "public" or (label == PERSONAL and belongs(member, self._labels.get(label, ())))

    def decide(
        self, spec: SkillSpec, args: Mapping[str, Any], caller: Member, origin: Member, driving: Driving | None,
        now: datetime,
    ) -> Verdict:  # fmt: skip
        """What this device says if `caller` calls a skill on behalf of `origin`.

        `args` are plain values, as `SkillSpec.dump_args` gives them; `driving` is None on what is no vehicle; `now` is
        local time. That a guest's time is over is not looked at: the roster refuses it.
        """
        known = self._of(spec, caller)
        if driving is not None and known.limits:
            for limit in known.limits:
                if limit.forbids(args, driving):
                    return _floor(limit, driving)
        verdict = known.always or self._first(known, args, driving, now)
        if origin is not caller:
            known = self._of(spec, origin)
            other = known.always or self._first(known, args, driving, now)
            if _STRICTNESS[other.answer] > _STRICTNESS[verdict.answer]:
                return other
        return verdict

    def _first(self, known: _Known, args: Mapping[str, Any], driving: Driving | None, now: datetime) -> Verdict:
        mask = known.mask
        if driving is not None:
            mask &= self._driving.get(driving, self._driving[Driving.MOVING])
        if known.timed:
            minute = (now.weekday() * 24 + now.hour) * 60 + now.minute
            mask &= self._at[bisect_right(self._edges, minute) - 1]
        for argument in known.args:
            mask &= argument.mask(args)
        return self._lowest(known, mask)

    def _lowest(self, known: _Known, mask: int) -> Verdict:
        index = (mask & -mask).bit_length() - 1
        verdict = known.verdicts.get(index)
        if verdict is None:
            rule = self.rules[index] if index >= 0 else None
            verdict = known.verdicts[index] = _verdict(rule, known.spec, known.member)
        return verdict

    def _of(self, spec: SkillSpec, member: Member) -> _Known:
        found = self._known.get((spec.name, member.id))
        if found is None or found.spec is not spec or (found.member is not member and found.member != member):
            if len(self._known) >= KEPT:
                self._known.clear()
            found = self._known[spec.name, member.id] = self._look(spec, member)
        return found

    def _look(self, spec: SkillSpec, member: Member) -> _Known:
        def may_fit(rule: Rule) -> bool:
            return (
                (not rule.effects or spec.effect in rule.effects)
                and named(spec.name, rule.skills)
                and belongs(member, rule.who)
            )

        mask = self._mask(may_fit)
        if sure := mask & self._plain:  # what comes after the first rule that always fits decides nothing
            mask &= ((sure & -sure) << 1) - 1
        names = sorted({name for i, rule in enumerate(self.rules) if mask >> i & 1 for name in rule.args})
        args = tuple(self._argument(spec, name, mask) for name in names)
        known = _Known(spec, member, mask, bool(mask & self._timed), args)
        if mask & -mask & self._plain or not mask:
            known.always = self._lowest(known, mask)
        return known

    def _argument(self, spec: SkillSpec, name: str, among: int) -> _Argument:
        rules = [(1 << i, rule) for i, rule in enumerate(self.rules) if among >> i & 1 and name in rule.args]
        fits: dict[tuple[bool, Any], int] = {}
        doubt: dict[type, int] = {str: 0, bool: 0, int: 0, float: 0, type(None): 0}
        for bit, rule in rules:
            values = rule.args[name]
            for value in values:
                key = type(value) is bool, value
                fits[key] = fits.get(key, 0) | bit
            if rule.then != "allow":
                kinds = {_kind(type(value)) for value in values}
                for kind in (str, bool, int, float):
                    doubt[kind] |= 0 if _kind(kind) in kinds else bit
        free = self._all & ~sum(bit for bit, _ in rules)
        other = sum(bit for bit, rule in rules if rule.then != "allow")
        default = spec.input_schema.get("properties", {}).get(name, {}).get("default")
        return _Argument(name, default, free, fits, doubt, other)


def belongs(member: Member, who: Iterable[str]) -> bool:
    """Whether a device is among those that a rule names."""
    return any(_is(member, name) for name in who)


def _is(member: Member, who: str) -> bool:
    sort, colon, name = who.partition(":")
    if not colon:
        return who in ("*", member.role.value)
    if sort == "guest":
        return member.role.value == "guest" and member.profile == name
    if sort == "kind":
        return member.kind == name
    return sort == "device" and (name == member.name or name.replace("-", "") == member.id)


def _fits_driving(driving: Driving, rule: Rule) -> bool:
    return not rule.driving or driving in rule.driving


def _week(rules: Sequence[Rule]) -> tuple[list[int], list[int]]:
    """The minutes of the week at which other rules fit than before, and the mask of those that fit from there on."""
    steps: dict[int, list[tuple[int, int]]] = {0: []}
    for index, rule in enumerate(rules):
        for begin, end in rule.hours:
            for first, last in ((begin, min(end, WEEK)), (0, end - WEEK)):  # what crosses Sunday's midnight goes on
                if first < last:
                    steps.setdefault(first, []).append((index, 1))
                    steps.setdefault(last, []).append((index, -1))
    edges, masks, spans = sorted(steps), [], [0] * len(rules)
    mask = sum(1 << index for index, rule in enumerate(rules) if not rule.hours)
    for edge in edges:
        for index, step in steps[edge]:
            spans[index] += step
            mask = mask | 1 << index if spans[index] else mask & ~(1 << index)
        masks.append(mask)
    return edges, masks


def _kind(kind: type) -> str:
    return {bool: "truth", str: "text"}.get(kind, "number")


def _verdict(rule: Rule | None, spec: SkillSpec, member: Member) -> Verdict:
    role = f"{member.role.value} {member.profile}".strip()
    who = f"{member.name} ({role})"
    if rule is None:
        return Verdict("refuse", "default: nothing allows it", f"no rule lets {who} call {spec.name}",
                       "an owner may allow it: slip policy show says in which file")  # fmt: skip
    if rule.then == "refuse":
        return Verdict("refuse", rule.where, f"{who} may not call {spec.name}",
                       "an owner may allow it with a rule above that one")  # fmt: skip
    if rule.then == "ask":
        return Verdict("ask", rule.where, f"a person decides whether {who} may call {spec.name}", "")
    if spec.consent is Consent.ALWAYS:
        return Verdict("ask", rule.where, f"{who} may call {spec.name}, which asks a person each time", "")
    return Verdict("allow", rule.where, f"{who} may call {spec.name}", "")


def _floor(limit: Limit, driving: Driving) -> Verdict:
    doing = "idling" if driving is Driving.IDLING else "moving"
    why = f"{limit.words}: not in a vehicle that is {doing}"
    if doing == "moving":
        why += ", or of which nobody knows whether it is"
    return Verdict("refuse", f"the floor: {limit.words} while {doing}", why, limit.hint)
