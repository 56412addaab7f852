"""`slip trace`: recorded runs: list, show, export."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from .. import trace
from ..core.errors import UsageError
from . import output
from .parsing import need, state_of


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("action", nargs="?", default="list", choices=("list", "show", "replay", "export"))
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run's id or its beginning, or a trace file")
    parser.add_argument(
        "--perfetto", action="store_true", help="export: Chrome's JSON trace format, for ui.perfetto.dev"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="export: where to (default: stdout)")


def main(args: argparse.Namespace) -> int:
    """List, show, replay or export.

    Raises:
        UsageError: there is no such trace, or it cannot be read.
    """
    state = state_of(args)
    if args.action == "list":
        return _list(state, args)
    path = trace.find(state, need(args.run, "run", f"slip trace {args.action} RUN"))
    if args.action == "replay":
        if args.json:
            raise UsageError("a replay is for people", "it draws on a terminal", "slip trace show --json", field="json")
        from .monitor import replay

        return replay(path)
    head, frames = trace.read(path)
    if head.get("cut"):
        output.note("this trace was cut off: the daemon was killed, or it is being recorded")
    return _export(head, frames, args) if args.action == "export" else _show(head, frames, args)


def _list(state: Path, args: argparse.Namespace) -> int:
    found = trace.listed(state)
    if args.json:
        output.show_json({"traces": found})
        return 0
    if not found:
        output.note("no run is recorded yet: every run is, as soon as one is started (slip run FILE)")
        return 0
    rows = [(row["run"], time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["began"])), row["state"],
             output.duration(row["seconds"]), row["goal"]) for row in found]  # fmt: skip
    output.table(("run", "began", "state", "took", "goal"), rows, state=2)
    return 0


def _show(head: dict[str, Any], frames: list[dict[str, Any]], args: argparse.Namespace) -> int:
    events = [event for frame in frames for event in frame.get("events") or () if event.get("run") == head["run"]]
    if args.json:
        output.show_json({"trace": head, "frames": len(frames), "events": events})
        return 0
    from .timeline import Timeline

    drawn, known = Timeline(), [event for event in events if _can_be_drawn(event)]
    for event in known:
        drawn.see(event)
    if len(known) < len(events):
        output.note(f"{len(events) - len(known)} events of it could not be read")
    output.line(f"{head['goal']}: {head['state']}, {output.duration(head.get('seconds'))}")
    for line in drawn.lines(plain=not (sys.stdout.encoding or "").lower().startswith("utf")):
        output.line(line)
    output.note(f"as it happened: slip monitor --replay {head['run']}")
    return 0


_NEEDED = {"step.armed": ("step", "name"), "step.done": ("step", "state", "seconds"), "run.assigned": ("assignment",)}


def _can_be_drawn(event: dict[str, Any]) -> bool:
    """Whether an event is of the form that it has in a trace of ours: a file from elsewhere may say anything."""
    seconds, placed = event.get("seconds"), event.get("assignment", {})
    return (
        all(name in event for name in _NEEDED.get(event["kind"], ()))
        and all(isinstance(event.get(name, ""), str) for name in ("step", "name", "state"))
        and (seconds is None or type(seconds) in (int, float))
        and isinstance(placed, dict)
        and all(isinstance(step, dict) and isinstance(step.get("why"), str) for step in placed.values())
    )


def _export(head: dict[str, Any], frames: list[dict[str, Any]], args: argparse.Namespace) -> int:
    if not args.perfetto:
        raise UsageError(
            "export in which format?", "there is one", "slip trace export RUN --perfetto", field="perfetto"
        )
    from ..perfetto import export

    text = json.dumps(export(head, frames), separators=(",", ":"), allow_nan=False)
    if args.output is None:
        print(text)
        return 0
    try:
        Path(args.output).write_text(text)
    except OSError as error:
        raise UsageError(f"{args.output} cannot be written", error.strerror or str(error), "-o FILE") from None
    if args.json:
        output.show_json({"written": args.output, "bytes": len(text)})
    else:
        output.note(f"open it at ui.perfetto.dev (it stays in your browser): {args.output}")
    return 0
