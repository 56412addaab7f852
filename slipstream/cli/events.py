"""`slip events`: what happens, as it happens."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from ..control import talk
from . import output
from .parsing import state_of


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("kind", nargs="*", help="only kinds that begin so, like step or device.joined")
    parser.add_argument("--since", type=int, metavar="SEQ", help="first those that are kept after that number; 0: all")
    parser.add_argument("--plain", action="store_true", help="one sentence an event, for screen readers")
    parser.add_argument(
        "--rows", action="store_true", help="frames as a monitor gets them: devices, runs and steps too; always JSON"
    )


def main(args: argparse.Namespace) -> int:
    """Follow until interrupted."""
    if args.rows:
        return _frames(args)
    if args.since is None:
        output.note("waiting for what happens next; --since 0 shows what is kept of the past; Ctrl-C ends it")
    with talk(state_of(args), "events", {"kinds": args.kind, "since": args.since}) as lines:
        for line in lines:
            if args.json:
                output.show_json({name: value for name, value in line.items() if name != "v"})
            elif "gap" in line:
                output.line(f"{line['gap']} events were missed: this reader is slow")
            elif "event" in line:
                output.line((_sentence if args.plain else _columns)(line["event"]))
    return 0


def _frames(args: argparse.Namespace) -> int:
    since = sys.maxsize if args.since is None else args.since  # without it, only what happens from now on
    with talk(state_of(args), "watch", {"kinds": args.kind, "since": since}) as frames:
        for frame in frames:
            output.show_json({name: value for name, value in frame.items() if name != "v"})
    return 0


_FRAME = ("seq", "time", "kind")


def _columns(event: dict[str, Any]) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(event["time"])) + f".{int(event['time'] * 1000) % 1000:03d}"
    fields = " ".join(f"{name}={_short(name, value)}" for name, value in event.items() if name not in _FRAME)
    return f"{clock} {event['kind']:<16} {fields}"


def _sentence(event: dict[str, Any]) -> str:
    """`Step done: step route, on car, state done.`"""
    what = event["kind"].replace(".", " ").capitalize()
    fields = [f"{'on' if n == 'name' else n} {_short(n, v)}" for n, v in event.items() if n not in (*_FRAME, "device")]
    return f"{what}: {', '.join(fields)}." if fields else f"{what}."


def _short(name: str, value: Any) -> str:
    if name == "device":
        return str(value)[:7]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return str(value["what"]) if "what" in value else ",".join(map(str, value))
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
