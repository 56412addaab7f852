"""`slip run`: run a plan and follow it to its end."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from ..control import ask, talk
from ..core.errors import SlipError
from . import output, planfile
from .parsing import state_of


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    planfile.add(parser)
    parser.add_argument("--detach", action="store_true", help="print the run's id and leave")


def main(args: argparse.Namespace) -> int:
    """Start it and follow it."""
    request = planfile.request(args)
    state = state_of(args)
    if args.detach:
        run = ask(state, "run", {**request, "detach": True}, timeout=None)["run"]
        if args.json:
            output.show_json({"run": run})
        else:
            output.line(run["run"])
        return 0
    return follow(state, "run", request, as_json=args.json)


def follow(state: Path, verb: str, request: dict[str, Any], *, as_json: bool) -> int:
    """Follow a run to its end; Ctrl-C asks for its cancellation, a second one leaves it alone. The exit code."""
    run_id = ""

    def cancel(number: int, frame: FrameType | None) -> None:
        # in the handler, not by an exception: what was half read of the stream stays whole
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not run_id:
            raise KeyboardInterrupt
        output.note("cancelling; Ctrl-C again leaves it to itself")
        try:
            ask(state, "runs.cancel", {"run": run_id})
        except SlipError as error:  # it ended meanwhile
            output.note(str(error))

    before = signal.signal(signal.SIGINT, cancel)
    try:
        with talk(state, verb, request) as lines:
            for line in lines:
                if line.get("end"):
                    break
                if "event" in line or "gap" in line:
                    _live(line, as_json)
                else:
                    run_id = line["run"]
                    output.note(f"run {run_id}: {line['goal']}")
    finally:
        signal.signal(signal.SIGINT, before)
        output.progress("")
    return report(line["run"], as_json=as_json)


def _live(line: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.show_json({name: value for name, value in line.items() if name != "v"})
        return
    event = line.get("event", {})
    step, on = event.get("step", ""), event.get("name", "")
    match event.get("kind"):
        case "step.started":
            output.progress(f"{step} on {on} ...")
        case "step.asking":
            output.progress("")
            output.note(f"asking    {step:<16} {on} waits for a person: slip consent list")
        case "step.progress":
            output.progress(f"{step} on {on} {event['fraction']:4.0%}  {event['note']}")
        case "step.done":
            output.progress("")
            took = output.duration(event["seconds"]) if event["seconds"] is not None else ""
            output.note(f"{event['state']:<9} {step:<16} {on} {took}")
        case "step.retried":
            output.progress("")
            output.note(f"again     {step:<16} {event['why']}")
        case "run.assigned" if event["why"] != "scheduled":
            output.progress("")
            output.note(f"replanned: {event['why']}")


def report(run: dict[str, Any], *, as_json: bool) -> int:
    """The end of a run: its output and timeline, and its error. The exit code."""
    if as_json:
        output.show_json({"end": True, "run": run})
        return exit_code(run)
    timeline(run)
    if run["output"]:
        print()
        output.value(run["output"])
    if run["error"]:
        from ..core.errors import from_wire

        output.show_error(from_wire(run["error"]))
    return exit_code(run)


def exit_code(run: dict[str, Any]) -> int:
    """0 done; else what the error stands for where that is a state of the world, 1 for everything else."""
    if run["state"] in ("done", "running", "cancelling"):
        return 0
    from ..core.errors import from_wire

    code = from_wire(run["error"]).exit_code
    return code if code in (4, 5, 6, 130) else 1


def timeline(run: dict[str, Any]) -> None:
    """Every step: what became of it, where it ran, when, how long, and why there."""
    output.line(f"run {run['run']}  {run['state']}  {output.duration(run['seconds'])}  {run['goal']}")
    steps = sorted(run["steps"], key=lambda s: (s["start"] is None, s["start"] or 0.0))
    end = max([s["end"] or s["start"] or 0.0 for s in steps] + [1e-9])
    output.table(
        ("step", "state", "on", "took", "when", "why"),
        [
            (s["step"], s["state"] + (f" ({s['attempts']} tries)" if s["attempts"] > 1 else ""), s["device"],
             output.duration(s["seconds"]), _bar(s, end), s["why"])
            for s in steps
        ],
        1,
    )  # fmt: skip


def _bar(step: dict[str, Any], end: float, width: int = 24) -> str:
    """A step on the run's time, drawn."""
    if step["start"] is None:
        return "·" * width
    first = min(width - 1, max(0, int(step["start"] / end * width)))
    stop = end if step["end"] is None else step["end"]
    last = max(first + 1, min(width, round(stop / end * width)))
    return "·" * first + "█" * (last - first) + "·" * (width - last)
