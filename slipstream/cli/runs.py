"""`slip runs`: the runs that this device owns."""

from __future__ import annotations

import argparse
import time

from ..control import ask
from ..core.errors import UsageError
from . import output
from .parsing import need, state_of
from .run import exit_code, follow, report


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("action", nargs="?", default="list", choices=("list", "show", "cancel", "resume", "move"))
    parser.add_argument("run", nargs="?", help="a run's id, or its beginning")
    parser.add_argument("step", nargs="?", help="move: the step, which has not begun")
    parser.add_argument("device", nargs="?", help="move: the device that is to run it")


def main(args: argparse.Namespace) -> int:
    """Ask and show; `show` and `resume` give the exit code that the run itself gives."""
    state = state_of(args)
    if args.action == "list":
        answer = ask(state, "runs")
        if args.json:
            output.show_json(answer)
        elif answer["runs"]:
            rows = [
                (r["run"], r["state"], _when(r["began"]), r["steps"], output.duration(r["ended"] - r["began"])
                 if r["ended"] else "-", r["goal"])
                for r in answer["runs"]
            ]  # fmt: skip
            output.table(("run", "state", "began", "steps", "took", "goal"), rows, 1)
        else:
            output.note("no runs yet; start one: slip run FILE")
        return 0
    run = need(args.run, "run", f"slip runs {args.action} ID (slip runs list)")
    if args.action == "move":
        usage = "slip runs move RUN STEP DEVICE"
        moved = {"run": run, "step": need(args.step, "step", usage), "device": need(args.device, "device", usage)}
        answer = ask(state, "runs.move", moved)
        if args.json:
            output.show_json(answer)
        else:
            output.line(f"{answer['step']} goes to {answer['device']}")
        return 0
    if args.step is not None:
        raise UsageError(f"slip runs {args.action} has no use for {args.step}", "", f"slip runs {args.action} ID")
    if args.action == "resume":
        return follow(state, "runs.resume", {"run": run}, as_json=args.json)
    answer = ask(state, f"runs.{args.action}", {"run": run})
    if args.action == "show":
        if args.json:
            output.show_json(answer)
            return exit_code(answer["run"])
        return report(answer["run"], as_json=False)
    if args.json:
        output.show_json(answer)
    else:
        output.line(f"{answer['run']} {answer['state']}")
    return 0


def _when(wall: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall))
