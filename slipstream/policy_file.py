"""policy.toml: read, checked field by field, and made into the policy that counts.

Every error names file, line and field. tomllib tells no lines, so each rule is found by its own `[[rule]]` line, and a
file in which those are not as many as its rules is refused: a verdict must name the line that a person finds.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .core.device import clean
from .core.errors import UsageError
from .core.policy import Asking, Policy, Rule
from .core.skill import Driving, Effect, nearest

DEFAULT: Final = Path(__file__).with_name("default_policy.toml")
"""What counts on a device that has no file of its own."""
SIZE_LIMIT, RULES_LIMIT = 262_144, 1000
"""Bytes of a file, and rules in it."""

_WHO = re.compile(r"owner|member|guest|\*|(guest|kind|device):\S(.{0,62}\S)?")
_SKILLS = re.compile(r"!?[a-z0-9_.*?]{1,100}")
_SPAN = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})")
_HEADER = re.compile(r"""\s*\[\[\s*(["']?)rule\1\s*\]\]""")
_AT_LINE = re.compile(r"\(at line ([0-9]+), column [0-9]+\)")
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY: Final = 24 * 60
_HOURS: Final = "like mon-fri 07:00-22:00, sat,sun or 22:00-06:00"


def _who(text: str) -> str:
    if not _WHO.fullmatch(text) or clean(text, 80) != text:
        raise ValueError("it may be owner, member, guest, guest:PROFILE, kind:KIND, device:NAME-OR-ID or *")
    return text


def _skill(text: str) -> str:
    if not _SKILLS.fullmatch(text):
        raise ValueError("it is a skill's name or a pattern like cabin.*, and ! before it takes out")
    return text


def _plain(value: Any) -> Any:
    if not isinstance(value, (str, int, float)) or not abs(0 if isinstance(value, str) else value) < inf:
        raise ValueError("it is a text, a number, or true or false")
    return value


def _takes_in(patterns: list[str]) -> list[str]:
    if all(pattern.startswith("!") for pattern in patterns):
        raise ValueError("it only takes out: name what it takes out of, like *")
    return patterns


def hours(text: str) -> tuple[tuple[int, int], ...]:
    """Local times as people write them (`mon-fri 07:00-22:00`), in minutes of the week: (from, until).

    Raises:
        ValueError: it cannot be read.
    """
    words = text.strip().lower()
    span = re.search(r"[0-9].*", words)
    named = words[: span.start()] if span else words
    begin, end = _span(span[0]) if span else (0, _DAY)
    days: list[int] = []
    for part in filter(None, (part.strip() for part in named.split(","))):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if first not in _DAYS or (dash and last not in _DAYS):
            raise ValueError(f"{part[:20]!r} is no day; it is {_HOURS}")
        count = (_DAYS.index(last) - _DAYS.index(first)) % 7 + 1 if dash else 1
        days += [(_DAYS.index(first) + n) % 7 for n in range(count)]
    if not words or (named.strip() and not days):
        raise ValueError(f"it is {_HOURS}")
    return tuple((day * _DAY + begin, day * _DAY + end) for day in sorted(set(days)) or range(7))


def _span(text: str) -> tuple[int, int]:
    """From and until, in minutes of the day; what crosses midnight ends in the next one."""
    match = _SPAN.fullmatch(text.strip())
    begin, end = (int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])) if match else (0, 0)
    if match is None or begin >= _DAY or end > _DAY or begin == end or int(match[2]) > 59 or int(match[4]) > 59:
        raise ValueError(f"{text[:20]!r} are no times; it is {_HOURS}")
    return begin, end if end > begin else end + _DAY


def _hours(text: str) -> str:
    hours(text)
    return text


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_Who = Annotated[list[Annotated[str, AfterValidator(_who)]], Field(min_length=1, max_length=100)]


class RuleText(_Table):
    """One `[[rule]]`."""

    who: _Who
    skills: Annotated[
        list[Annotated[str, AfterValidator(_skill)]], Field(min_length=1, max_length=100), AfterValidator(_takes_in)
    ]
    effects: Annotated[list[Literal["read", "idempotent", "once", "physical"]], Field(min_length=1)] | None = None
    driving: Annotated[list[Literal["parked", "idling", "moving"]], Field(min_length=1)] | None = None
    when: Annotated[str, Field(max_length=100), AfterValidator(_hours)] | None = None
    args: (
        dict[str, Annotated[list[Annotated[Any, AfterValidator(_plain)]], Field(min_length=1, max_length=100)]] | None
    ) = None
    then: Literal["allow", "ask", "refuse"]


class LabelsText(_Table):
    """`[labels]`: who may be sent values with that label; `device` and `secret` cannot be granted."""

    personal: Annotated[list[Annotated[str, AfterValidator(_who)]], Field(max_length=100)] = ["owner", "member"]


class ConsentText(_Table):
    """`[consent]`: how long a person has, and whose devices may answer."""

    seconds: float = Field(60.0, ge=5, le=3600)
    answer: _Who = ["owner"]


class PolicyText(_Table):
    """The whole file."""

    rule: Annotated[list[RuleText], Field(max_length=RULES_LIMIT)] = []
    labels: LabelsText = LabelsText()
    consent: ConsentText = ConsentText()


@dataclass(frozen=True, slots=True)
class Read:
    """A policy file that was checked."""

    path: Path
    text: PolicyText
    lines: tuple[int, ...]
    """Where each rule begins."""

    def policy(self) -> Policy:
        """What it comes to."""
        rules = (self._rule(rule, line) for rule, line in zip(self.text.rule, self.lines, strict=True))
        consent = Asking(self.text.consent.seconds, tuple(self.text.consent.answer))
        return Policy(rules, {"personal": self.text.labels.personal}, consent)

    def _rule(self, rule: RuleText, line: int) -> Rule:
        return Rule(
            tuple(rule.who), tuple(rule.skills), rule.then, frozenset(map(Effect, rule.effects or ())),
            frozenset(map(Driving, rule.driving or ())), hours(rule.when) if rule.when else (),
            {name: frozenset(values) for name, values in (rule.args or {}).items()}, f"{self.path.name}:{line}",
        )  # fmt: skip


def load(path: Path | None) -> Policy:
    """The policy in a file; None for the one that comes with Slipstream.

    Raises:
        UsageError: it cannot be used; it names file, line and field.
    """
    return read(path).policy()


def read(path: Path | None) -> Read:
    """A policy file, checked; None for the one that comes with Slipstream.

    Raises:
        UsageError: it cannot be used; it names file, line and field.
    """
    path = path or DEFAULT
    try:
        with open(path, "rb", opener=_at_once) as file:
            data = file.read(SIZE_LIMIT + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    if data is None:
        raise _unreadable(path, "it is no plain file")
    if len(data) > SIZE_LIMIT:
        raise UsageError(
            f"{path} is too long", f"{SIZE_LIMIT} bytes are allowed", "write patterns, not lists of skills"
        )
    try:
        text = data.decode()
        said = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        last = len(data.splitlines()) if "at end of document" in str(error) else None
        at = _AT_LINE.search(str(error))
        line = f":{at[1] if at else last}" if at or last else ""
        raise UsageError(f"{path}{line}: this is no TOML", clean(error, 200),
                         f"mend it there, then: slip policy check {path}") from None  # fmt: skip
    lines = text.split("\n")
    headers = [n for n, line in enumerate(lines, 1) if _HEADER.match(line)]
    try:
        checked = PolicyText.model_validate(said)
    except ValidationError as error:
        raise _wrong(path, lines, headers, error) from None
    if len(headers) != len(checked.rule):
        raise UsageError(f"{path}:{(headers or [1])[-1]}: rules and [[rule]] lines are not as many",
                         f"{len(checked.rule)} rules, {len(headers)} such lines",
                         "begin each rule with a line [[rule]], and write that nowhere else", field="rule")  # fmt: skip
    return Read(path, checked, tuple(headers))


def _at_once(path: str, flags: int) -> int:
    """Open a file without waiting for whoever may write into it: it may be a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _unreadable(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} cannot be read", why, f"make it a file that you may read, then: slip policy check {path}"
    )


def _wrong(path: Path, lines: Sequence[str], headers: Sequence[int], error: ValidationError) -> UsageError:
    first = error.errors(include_url=False, include_context=False)[0]
    where = list(first["loc"][:1])  # what is below it may name a branch of a union, like `list[str]`
    where += [part for part in first["loc"][1:] if not (isinstance(part, str) and _BRANCH.fullmatch(part))]
    rule = where[1] if where[0] == "rule" and len(where) > 1 else None
    names = [str(part) for part in where[1 if rule is None else 2 :] if isinstance(part, str)]
    begin, end = 1, len(lines)
    if isinstance(rule, int) and rule < len(headers):
        begin, end = headers[rule], [*headers, len(lines) + 1][rule + 1] - 1
    elif names:
        begin = _line_of(rf"\[\s*{re.escape(str(where[0]))}\s*\]", lines, 1, end)
    key = names[0] if names else str(where[0])
    line = _line_of(rf"""\[*\s*(rule\s*\.\s*)?["']?{re.escape(key)}\b""", lines, begin, end)
    field = ".".join(names[:2]) if names else str(where[0])
    name = f"rule {rule + 1}: {field}" if isinstance(rule, int) else ".".join([str(where[0]), *names])
    why, hint = first["msg"].removeprefix("Value error, "), f"slip policy check {path}"
    given = first["input"]
    if first["type"] == "extra_forbidden":
        known: dict[str, type[_Table]] = {"rule": RuleText, "labels": LabelsText, "consent": ConsentText}
        model = known.get(str(where[0]), PolicyText) if len(where) > 1 else PolicyText
        why = f"there is no such key; there are {', '.join(model.model_fields)}"
        hint, given = nearest(names[-1] if names else str(where[0]), model.model_fields) or hint, {}
    elif first["type"] == "missing":
        why, given = "it is needed and not there", {}
    elif isinstance(given, str):
        hint = nearest(given, _CHOICES.get(key, ())) or hint
    return UsageError(f"{path}:{line}: {clean(name, 100)}: {clean(why, 300)}", _said(given), hint, field=field)


_BRANCH: Final = re.compile(r"[a-z-]+\[.*\]")
_CHOICES: Final = {
    "who": ("owner", "member", "guest"), "answer": ("owner", "member", "guest"), "personal": ("owner", "member"),
    "effects": tuple(Effect), "driving": tuple(Driving), "then": ("allow", "ask", "refuse"),
}  # fmt: skip


def _line_of(pattern: str, lines: Sequence[str], begin: int, end: int) -> int:
    """The first line among those that begins with the pattern, or the first of them."""
    found = re.compile(rf"\s*(?:{pattern})")
    return next((n for n in range(begin, end + 1) if found.match(lines[n - 1])), begin)


def _said(value: Any) -> str:
    return "" if isinstance(value, (dict, list)) else f"it says {clean(value, 80)!r}"
