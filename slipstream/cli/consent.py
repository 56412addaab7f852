"""`slip consent`: what a person is asked, here and on other devices, and what was answered once for all."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from ..control import ask
from ..core.device import clean
from ..core.errors import UsageError
from . import output
from .parsing import need, state_of

HARMLESS: Final = ("read", "idempotent", "once")
"""Effects that are approved without the device's name."""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    actions = ("list", "approve", "deny", "grants", "forget")
    parser.add_argument("action", nargs="?", default="list", choices=actions)
    parser.add_argument("id", nargs="?", help="a question's id, or its beginning; for forget that of a grant")
    parser.add_argument("--always", action="store_true", help="remember it for this skill and whoever wants it")
    parser.add_argument("--device", metavar="NAME", help="the name of the device that moves something, in full")


def main(args: argparse.Namespace) -> int:
    """Ask and show."""
    state = state_of(args)
    if args.action in ("approve", "deny"):
        return _answer(state, args)
    if args.action == "forget":
        said = need(args.id, "grant", "slip consent forget ID (slip consent grants)")
        grant = _meant(said, ask(state, "consent.grants")["grants"])
        answer = ask(state, "consent.forget", {"id": grant["id"] if grant else said})
        if args.json:
            output.show_json(answer)
        else:
            output.line(f"{grant['id'] if grant else said} is forgotten: people are asked again")
        return 0
    answer = ask(state, f"consent.{args.action}")
    if args.json:
        output.show_json(answer)
    elif args.action == "list":
        for asked in answer["open"]:
            _show(asked)
        if not answer["open"]:
            output.note("nobody is asked anything")
    elif answer["grants"]:
        rows = [(g["id"], g["answer"], g["skill"], g["caller_name"], g["origin_name"]) for g in answer["grants"]]
        output.table(("id", "answer", "skill", "for", "on behalf of"), rows)
    else:
        output.note("nothing is remembered; slip consent approve ID --always remembers")
    return 0


def _answer(state: Path, args: argparse.Namespace) -> int:
    said = need(args.id, "question", f"slip consent {args.action} ID (slip consent list)")
    asked = _meant(said, ask(state, "consent.list")["open"])
    approve = args.action == "approve"
    if approve and asked is not None and asked["effect"] not in HARMLESS:
        _confirm(asked, args)
    word = ("always" if args.always else "once") if approve else ("never" if args.always else "no")
    # what is not open any more is asked about too: the daemon knows who answered it, and what
    stands = ask(state, "consent.answer", {"id": asked["id"] if asked else said, "answer": word})
    if stands["answer"] != word:
        raise UsageError(f"{stands['id']} is answered already", f"{stands['by']} said {stands['answer']}",
                         "slip consent list")  # fmt: skip
    if args.json:
        output.show_json(stands)
    else:
        output.line(f"{stands['id']} {'approved' if approve else 'denied'}: {word}, by {stands['by']}")
    return 0


def _meant(said: str, known: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The one of that id, or whose id begins so; None if there is none.

    Raises:
        UsageError: several begin so.
    """
    exact = [one for one in known if one["id"] == said]
    fits = exact or [one for one in known if one["id"].startswith(said)]
    if len(fits) > 1:
        raise UsageError(f"which one is {said}?", f"{len(fits)} begin like that", "give more of its id", field="id")
    return fits[0] if fits else None


def _confirm(asked: dict[str, Any], args: argparse.Namespace) -> None:
    """Have the person name the device that will move something: nobody does that by a slip of the hand.

    Raises:
        UsageError: it is not its name.
    """
    name, given = clean(asked["device_name"]), args.device
    if given is None:
        if args.no_input or not sys.stdin.isatty():
            raise UsageError(f"{clean(asked['skill'], 200)} moves something: it needs the name of its device",
                             "without a person at a terminal it is not asked for",
                             f"slip consent approve {asked['id']} --device NAME", field="device")  # fmt: skip
        _show(asked)
        print("it moves something; the name of the device, in full: ", end="", file=sys.stderr, flush=True)
        given = sys.stdin.readline().strip()
    if given != name:
        raise UsageError(f"{given!r} is not the name of the device that asks", f"{name} is; nothing was approved",
                         f"slip consent approve {asked['id']} --device NAME", field="device")  # fmt: skip


def _show(asked: dict[str, Any]) -> None:
    output.line(f"{asked['id']}  {asked['device_name']}: {asked['title']}  ({asked['skill']}, {asked['effect']})")
    behalf = f", on behalf of {asked['origin_name']}" if asked["origin"] != asked["caller"] else ""
    output.line(f"  for   {asked['caller_name']}{behalf}")
    for name, value in asked["args"].items():
        output.value(f"  with  {name} = {json.dumps(value, ensure_ascii=False)}")
    if asked["run"]:
        output.line(f"  in    run {asked['run']}, step {asked['step']}")
    output.line(f"  left  {output.duration(asked['seconds_left'])}, then it is denied")
