"""`slip call`: run one skill, wherever it runs best or on a device of choice."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..control import talk
from ..core.errors import UsageError
from . import output
from .parsing import pairs, seconds, state_of


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("skill", help="its name, like phone.battery")
    parser.add_argument("argument", nargs="*", metavar="NAME=VALUE", help="read as the skill's schema wants")
    parser.add_argument("--args", metavar="JSON", help="arguments as a JSON object")
    parser.add_argument("--on", metavar="DEVICE", help="a device's name, id or kind")
    parser.add_argument("--deadline", type=seconds, metavar="TIME", help="like 500ms, 10s or 2m (default: 30s)")


def main(args: argparse.Namespace) -> int:
    """Call it; closing the connection (Ctrl-C) cancels the skill."""
    request = {
        "skill": args.skill, "text": pairs(args.argument, "celsius=21.5"), "args": _object(args.args),
        "on": args.on, "seconds": args.deadline,
    }  # fmt: skip
    speaking = False
    try:
        with talk(state_of(args), "call", request) as lines:
            for line in lines:
                if not args.json and (text := _spoken(line.get("item"))):
                    output.progress("")
                    print(output.harmless(text), end="", flush=True)
                    speaking = True
                    continue
                if speaking:
                    print()
                speaking = False
                _show(line, args.json)
    finally:
        if speaking:
            print(flush=True)
    return 0


def _show(line: dict[str, Any], as_json: bool) -> None:
    if "item" in line:
        _item(line["item"], as_json)
    elif "asking" in line:
        _asking(line, as_json)
    elif "progress" in line:
        _progress(line, as_json)
    elif line.get("end"):
        output.progress("")
        _end(line, as_json)


def _object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UsageError("--args is no JSON", str(error), """--args '{"celsius": 21.5}'""") from None
    if not isinstance(found, dict):
        raise UsageError("--args is no JSON object", "", """--args '{"celsius": 21.5}'""")
    return found


def _spoken(item: Any) -> str:
    """What an item says that is a piece of a text and nothing else, as those of llm.generate; else nothing."""
    said = {name: value for name, value in item.items() if value} if isinstance(item, dict) else {}
    return said["text"] if said.keys() == {"text"} and isinstance(said["text"], str) else ""


def _item(item: Any, as_json: bool) -> None:
    if as_json:
        output.show_json({"item": item})
    else:
        output.value(item)


def _asking(line: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.show_json({"asking": line["asking"], "seconds": line["seconds"]})
    else:
        output.note(f"a person must allow it within {output.duration(line['seconds'])}: slip consent list")


def _progress(line: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.show_json({"progress": line["progress"], "note": line["note"]})
    else:
        output.progress(f"{line['progress']:4.0%}  {line['note']}")


def _end(line: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.show_json({name: value for name, value in line.items() if name not in ("v",)})
        return
    output.value(line["value"])
    if line["outcome"] == "submitted":
        output.note("submitted: handed on, its effect was not observed")
    if "device" in line:
        output.note(f"{line['outcome']} on {line['device']} in {output.duration(line['seconds'])}")
