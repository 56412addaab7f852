"""The command bar's language: a verb and its words, completed from what is on the board. Nothing is done here.

`run trip.json city=Bonn`, `call nav.route to=home --on ioniq-5`, `cancel 3f2a`, `approve 91ac`, `goto 12`.

Law: what is offered is what is shown: a file whose name must be made harmless first is not offered.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from .board import Board, number, word
from .filter import Filter
from .text import plain


@dataclass(frozen=True, slots=True)
class Command:
    """What was asked for: a verb, its words by name, and values as they were typed."""

    verb: str
    args: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """What the line would be, what is shown of it, and a word about it."""

    line: str
    shown: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class _Verb:
    about: str
    words: tuple[str, ...] = ()
    values: bool = False
    """Whether `name=value` may follow."""


VERBS: Final = {
    "run": _Verb("a plan file: shown first, then enter starts it", ("file",), True),
    "plan": _Verb("show how a plan file would run", ("file",), True),
    "call": _Verb("a skill; a form asks for what it needs", ("skill",), True),
    "cancel": _Verb("stop a run", ("run",)),
    "move": _Verb("a step that has not begun to another device", ("step", "device")),
    "resume": _Verb("go on with a run that was interrupted", ("run",)),
    "approve": _Verb("answer a question", ("request",)),
    "deny": _Verb("answer a question", ("request",)),
    "ping": _Verb("how far a device is", ("device",)),
    "forget": _Verb("a device that is gone", ("device",)),
    "goto": _Verb("seconds from the beginning of what is replayed", ("seconds",)),
    "filter": _Verb("this list: dev:car skill:nav.* !progress", ("text",)),
    "mesh": _Verb("devices"),
    "handoffs": _Verb("what moved"),
    "log": _Verb("what happened"),
    "replay": _Verb("recorded runs"),
    "help": _Verb("keys and signs"),
    "quit": _Verb("close the monitor; the daemon goes on"),
}
"""`plan` without a file is the view."""
MOST: Final = 8
"""Completions that are offered."""
_RUNS: Final = {"cancel": ("running", "interrupted"), "resume": ("interrupted",)}
"""The states of the runs that a verb is offered for."""
_WORD: Final = re.compile(r"""(?:[^\s'"\\]|\\.?|'[^']*'?|"(?:[^"\\]|\\.)*"?)+""", re.DOTALL)
"""A word as `shlex` reads it, the last one also where its quote is open still."""


def parse(board: Board, text: str) -> Command:
    """Read a line.

    Raises:
        ValueError: it is no command; it says which word, and what is near.
    """
    try:
        words = shlex.split(text)
    except ValueError:
        raise ValueError("a quotation mark is open") from None
    if not words:
        raise ValueError("type a command: run FILE, call SKILL, cancel RUN, help ...")
    name, *rest = words
    if name == "q":
        name = "quit"
    verb = VERBS.get(name)
    if verb is None:
        raise ValueError(f"there is no command {name}{_near(name, VERBS)}")
    if name == "filter":
        asked = text.strip().partition(" ")[2]
        Filter.parse(asked)
        return Command("filter", {"text": asked})
    args: dict[str, str] = {}
    if name == "call":
        rest, on = _option(rest, "--on")
        if on:
            args["on"] = _device(board, on)
    values = [w for w in rest[1:] if verb.values and _is_value(w)]  # the first word is what it is about: a file's name
    plain = [w for i, w in enumerate(rest) if i == 0 or not (verb.values and _is_value(w))]
    inputs = dict(w.split("=", 1) for w in values)
    if len(inputs) < len(values):
        twice = Counter(w.partition("=")[0] for w in values).most_common(1)[0][0]
        raise ValueError(f"{twice} is there twice")
    if name == "plan" and not rest:
        return Command("plan_view")
    if len(plain) < len(verb.words):
        raise ValueError(f"{name} needs a {verb.words[len(plain)]}")
    if len(plain) > len(verb.words):
        raise ValueError(f"{name} has no use for {plain[len(verb.words)]}")
    for kind, said in zip(verb.words, plain, strict=True):
        args[kind] = _checked(board, kind, said)
    return Command(name, args, inputs)


def _is_value(text: str) -> bool:
    return "=" in text and text.partition("=")[0].replace("-", "_").isidentifier()


def _option(words: list[str], name: str) -> tuple[list[str], str]:
    if name not in words:
        return words, ""
    at = words.index(name)
    if at + 1 == len(words):
        raise ValueError(f"{name} needs a device")
    return words[:at] + words[at + 2 :], words[at + 1]


def _checked(board: Board, kind: str, said: str) -> str:
    match kind:
        case "device":
            return _device(board, said)
        case "run":
            return _one(said, board.rows["run"], "run")
        case "step":
            steps = list(_open_steps(board))
            alone = [key for key in steps if key.partition("/")[2] == said]
            return alone[0] if len(alone) == 1 else _one(said, steps, "step that has not begun")
        case "request":
            return _one(said, [word(row.get("id")) for _, row in board.all("consent")], "open question")
        case "skill":
            skills = _skills(board)
            if said not in skills:
                raise ValueError(f"no device offers {said}{_near(said, skills)}")
        case "seconds":
            try:
                seconds = float(said.removesuffix("s"))
            except ValueError:
                seconds = -1.0
            if number(seconds) is None or seconds < 0:
                raise ValueError(f"{said} are no seconds: goto 12.5")
            return str(seconds)
    return said


def _device(board: Board, said: str) -> str:
    """The id of the device that is meant."""
    rows = board.rows["device"]
    if said in rows:
        return said
    named = [key for key in rows if word(rows[key].get("name")) == said]
    named = named or [key for key in rows if len(said) >= 4 and key.startswith(said)]
    if len(named) > 1:
        raise ValueError(f"{len(named)} devices are called {said}: say the id, like {named[0][:7]}")
    if not named:
        raise ValueError(f"no device is called {said}{_near(said, [word(row.get('name')) for row in rows.values()])}")
    return named[0]


def _one(said: str, ids: Iterable[str], what: str) -> str:
    ids = list(ids)
    fits = [each for each in ids if each == said] or [each for each in ids if each.startswith(said)]
    if len(fits) != 1:
        raise ValueError(
            f"{len(fits) or 'no'} {what}s begin with {said}" if fits else f"no {what} {said}{_near(said, ids)}"
        )
    return fits[0]


def _near(said: str, names: Iterable[str]) -> str:
    close = get_close_matches(said, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _skills(board: Board) -> list[str]:
    names = {name for _, row in board.all("skills") for name in _texts(row.get("names"))}
    return sorted(names)


def _texts(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


# -- completion --------------------------------------------------------------------------------------------------------


def complete(board: Board, text: str, files: Callable[[], Sequence[str]]) -> list[Completion]:
    """What the last word of a line may become, the likeliest first; `files` lists plan files."""
    matches = list(_WORD.finditer(text))
    at = matches.pop().start() if matches and matches[-1].end() == len(text) else len(text)
    before, last, said = text[:at], _bare(text[at:]), [_bare(match[0]) for match in matches]
    if not said:
        return [Completion(f"{name} " if VERBS[name].words else name, name, VERBS[name].about)
                for name in _ranked(last, VERBS)]  # fmt: skip
    verb, *rest = said
    known = VERBS.get(verb)
    if known is None:
        return []
    plainly = [w for i, w in enumerate(rest) if i == 0 or not (known.values and _is_value(w))]
    if verb == "call" and rest and rest[-1] == "--on":
        offered = _devices(board, plainly[0])
    elif len(plainly) < len(known.words):
        offered = _offered(board, verb, known.words[len(plainly)], files)
    elif verb == "call" and "--on" not in rest:
        offered = {"--on": "the device that is to run it"}
    else:
        return []
    return [Completion(f"{before}{shlex.quote(name)} ", name, offered[name]) for name in _ranked(last, offered)]


def _bare(typed: str) -> str:
    """A word without its quotes, of which the last one may be open."""
    for end in ("", "'", '"'):
        try:
            return " ".join(shlex.split(typed + end))
        except ValueError:
            continue
    return typed


def _open_steps(board: Board) -> dict[str, str]:
    """The steps of runs that go on which have not begun, as `RUN/STEP`."""
    running = {key for key, row in board.all("run") if row.get("state") == "running"}
    return {
        key: f"{word(row.get('skill'))} on {board.name_of(row.get('device'))}"
        for key, row in board.all("step")
        if row.get("state") in ("waiting", "armed") and key.partition("/")[0] in running
    }


def _offered(board: Board, verb: str, kind: str, files: Callable[[], Sequence[str]]) -> dict[str, str]:
    match kind:
        case "file":
            return dict.fromkeys((name for name in files() if name and plain(name) == name), "")
        case "skill":
            found: dict[str, list[str]] = {name: [] for name in _skills(board)}
            for device, row in board.all("skills"):
                for name in _texts(row.get("names")):
                    found[name].append(board.name_of(device))
            return {name: ", ".join(devices) for name, devices in found.items()}
        case "device":
            return _devices(board)
        case "step":
            return _open_steps(board)
        case "run":
            return {key: f"{word(row.get('state'))} {word(row.get('goal'))}" for key, row in board.all("run")
                    if row.get("state") in _RUNS[verb]}  # fmt: skip
        case "request":
            return {word(row.get("id")): f"{word(row.get('skill'))} on {word(row.get('device_name'))}"
                    for _, row in board.all("consent")}  # fmt: skip
    return {}


def _devices(board: Board, skill: str = "") -> dict[str, str]:
    """Names of devices, of those that offer a skill if one is given; of several that are called the same, ids."""
    rows = board.rows["device"]
    called = Counter(word(row.get("name")) for row in rows.values())
    found = {}
    for key, row in rows.items():
        name = word(row.get("name"))
        if not skill or skill in _texts(board.get("skills", key).get("names")):
            found[name if name and called[name] == 1 else key[:12]] = f"{word(row.get('kind'))} {key[:7]}"
    return found


def _ranked(typed: str, names: Iterable[str]) -> list[str]:
    """Names that begin so, then those that have its letters in that order."""
    low, begin, within = typed.casefold(), [], []
    for name in names:
        folded = name.casefold()
        if folded.startswith(low):
            begin.append(name)
        elif _subsequence(low, folded):
            within.append(name)
    return [*begin, *within][:MOST]


def _subsequence(letters: str, name: str) -> bool:
    there = iter(name)
    return all(letter in there for letter in letters)
