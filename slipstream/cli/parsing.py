"""argparse with our manners: the nearest match for a slip of the pen, and errors that say what next."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from ..core.errors import UsageError


def nearest(given: str, known: Iterable[str]) -> str:
    """A hint with the most similar of the known words, empty if none is close."""
    from difflib import get_close_matches  # only when something is already wrong

    close = get_close_matches(given, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


class Parser(argparse.ArgumentParser):
    """The parser of one verb; what does not fit raises a UsageError."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def add_common(self) -> None:
        """The options of every verb."""
        common = self.add_argument_group("every verb")
        common.add_argument("--json", action="store_true", help="machine-readable: one JSON object, or one per line")
        common.add_argument("--state", metavar="DIR", help="the daemon's state folder (SLIPSTREAM_STATE)")
        common.add_argument("--no-input", action="store_true", help="never ask anything")

    def error(self, message: str) -> NoReturn:
        """What argparse found wrong, as an error of ours."""
        options = [option for action in self._actions for option in action.option_strings]
        hint = f"{self.prog} --help"
        if match := re.match(r"unrecognized arguments: (\S+)", message):
            hint = nearest(match[1].partition("=")[0], options) or hint
        elif match := re.match(r"argument (\S+): invalid choice: '([^']*)' \(choose from (.*)\)", message):
            hint = nearest(match[2], re.findall(r"[\w-]+", match[3])) or hint
        raise UsageError(f"{self.prog}: {message}", "", hint)


def state_of(args: argparse.Namespace) -> Path:
    """The state folder of the daemon that is meant."""
    from ..places import state_folder

    return state_folder(args.state)


def pairs(given: Iterable[str], example: str) -> dict[str, str]:
    """`name=value` arguments as a mapping.

    Raises:
        UsageError: one is not of that form, or is there twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{text[:60]!r} is no name=value", "", f"like {example}")
        if name in found:
            raise UsageError(f"{name} is there twice", "", f"like {example}")
        found[name] = value
    return found


def need(value: str | None, what: str, usage: str) -> str:
    """An argument that this action cannot do without.

    Raises:
        UsageError: it was left out.
    """
    if not value:
        raise UsageError(f"which {what}?", "", usage)
    return value


def seconds(text: str) -> float:
    """A length of time as people write it: `500ms`, `10s`, `2m` or plain seconds."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)(ms|s|m|h)?", text)
    if not match or not (value := float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2] or "s"]):
        raise argparse.ArgumentTypeError(f"{text!r} is no time like 500ms, 10s or 2m")
    return value
