"""`slip plan`: check a plan file and show who would do what, and why; nothing runs."""

from __future__ import annotations

import argparse

from ..control import ask
from . import output, planfile
from .parsing import state_of


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    planfile.add(parser)


def main(args: argparse.Namespace) -> int:
    """Ask and show."""
    answer = ask(state_of(args), "plan", planfile.request(args))
    if args.json:
        output.show_json(answer)
        return 0
    plan = answer["plan"]
    output.line(f"{plan['goal']}: about {output.duration(plan['seconds'])}")
    print()
    output.table(
        ("step", "skill", "on", "from", "to", "why"),
        [
            (s["step"], s["skill"], s["device"], output.duration(s["start"]), output.duration(s["end"]), s["why"])
            for s in plan["steps"]
        ],
    )
    for s in plan["steps"]:
        for device, why in s["refused"].items():
            output.note(f"  {s['step']}: not on {device}: {why}")
    output.note("run it: slip run, with the same arguments")
    return 0
